"""Something that is wrong: where it is, what it is, and what to do about it.

    Problem("modules/convnext.toml", "`size` is missing", "add `size = ...` (a string)", row="variant 3")

Every room reports with this type, and every message has one form: `file: row: what is wrong. Fix: what to do.`
What a message quotes is shown as `tools.common.printable` has it.
"""

from typing import NamedTuple

from tools.common.printable import printable

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
        return f"{printable(where)}: {with_fix(self.message, self.fix)}"

    @property
    def is_error(self) -> bool:
        """True for an error, False for a warning."""
        return self.severity == ERROR


def with_fix(message: str, fix: str) -> str:
    """Return `message` and what to do about it in the one form that all messages have."""
    end = "" if fix.endswith("?") else "."
    return printable(f"{message.rstrip('.')}. Fix: {fix.rstrip('.')}{end}")


def about(where: str, error: object) -> str:
    """Return the message of an error, which begins with `where` if it does not name that already."""
    message = str(error) or type(error).__name__
    return message if where in message.split("\n", 1)[0] else f"{where}: {message}"


class UsageError(Exception):
    """What was typed does not fit, or names what is not there: a mix-in of errors that give the exit status 2."""
