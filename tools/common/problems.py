"""Something that is wrong: where it is, what it is, and what to do about it.

    Problem("modules/convnext.toml", "`size` is missing", "add `size = ...` (a string)", row="variant 3")

Every room reports with this type, and every message has one form: `file: row: what is wrong. Fix: what to do.`
"""

from typing import NamedTuple

ERROR, WARNING = "error", "warning"


class Problem(NamedTuple):
    """One thing that is wrong.

    `file` is a path, a handle or an address; `row` names a part of it in words, `line` by its number (from 1). `rule` is the
    validator's rule that was broken, `severity` is "error" or "warning".
    """

    file: str
    message: str
    fix: str
    row: str = ""
    line: int | None = None
    rule: str = ""
    severity: str = ERROR

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        where = f"{where}: {self.row}" if self.row else where
        return f"{where}: {with_fix(self.message, self.fix)}"

    @property
    def is_error(self) -> bool:
        """True for an error, False for a warning."""
        return self.severity == ERROR


def with_fix(message: str, fix: str) -> str:
    """Return `message` and what to do about it in the one form that all messages have."""
    end = "" if fix.endswith("?") else "."
    return f"{message.rstrip('.')}. Fix: {fix.rstrip('.')}{end}"
