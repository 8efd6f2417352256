"""Strict reading of hand-written tables: every problem of every file in one go, each with file, row and fix.

problems = Problems()
table = Table(tomllib.loads(text), "modules/convnext.toml", "variant 3", problems)
size = table.take("size", str)
table.finish()                # complains about every key that nobody took
problems.raise_if_any()
"""

import difflib
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ABSENT = object()
_TYPE_NAMES = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}


@dataclass(frozen=True)
class Problem:
    """What is wrong with one row of one file, and how to put it right."""

    file: str
    row: str
    message: str
    fix: str

    def __str__(self) -> str:
        where = f"{self.file}: {self.row}" if self.row else self.file
        return f"{where}: {self.message}; {self.fix}"


class CatalogError(ValueError):
    """The catalogue cannot be used. `problems` holds every `Problem` of every file."""

    def __init__(self, problems: list[Problem | str]):
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


@dataclass
class Problems:
    """Collects problems while the files are read."""

    found: list[Problem | str] = field(default_factory=list)

    def add(self, file: str, row: str, message: str, fix: str) -> None:
        self.found.append(Problem(file, row, message, fix))

    def raise_if_any(self) -> None:
        if self.found:
            raise CatalogError(self.found)


class Table:
    """One table of a TOML file, whose keys are taken one by one; what nobody takes is unknown."""

    def __init__(self, values: dict[str, Any], file: str, row: str, problems: Problems):
        self.values, self.file, self.row, self.problems = values, file, row, problems
        self._taken: set[str] = set()

    def take(self, key: str, kind: type, default: Any = _ABSENT, *, choices=None, of: type | None = None) -> Any:
        """Return the value of `key`, or `default`; a missing, misshaped or unlisted value is a problem and gives None.

        `kind` is str, int, float (takes whole numbers too), bool, list or dict; `of` is the kind of a list's items;
        `choices` is what the value, or each item, must be one of.
        """
        self._taken.add(key)
        value = self.values.get(key, _ABSENT)
        if value is _ABSENT:
            if default is _ABSENT:
                self.complain(f"`{key}` is missing", f"add `{key} = ...` ({_TYPE_NAMES[kind]})")
                return None
            return default
        todo = _todo(value)
        if todo is not None:
            known = f" ({suggest('', choices)})" if choices is not None else ""
            self.complain(f"`{key}` is still to be written", (todo or f"write {_TYPE_NAMES[kind]}") + known)
            return None
        if not _is(value, kind) or (of and not all(_is(item, of) for item in value)):
            expected = _TYPE_NAMES[kind] + (f" of {_TYPE_NAMES[of].split()[-1]}s" if of else "")
            self.complain(f"`{key} = {value!r}` is not {expected}", f"write {expected}")
            return None
        if choices is not None:
            for item in value if isinstance(value, list) else [value]:
                if item not in choices:
                    self.complain(f"`{key}` has the unknown value {item!r}", suggest(item, choices))
                    return None
        return value

    def finish(self) -> None:
        """Complain about every key that was not taken."""
        for key in self.values:
            if key not in self._taken:
                self.complain(f"unknown key `{key}`", suggest(key, self._taken))

    def complain(self, message: str, fix: str) -> None:
        self.problems.add(self.file, self.row, message, fix)


def _is(value: Any, kind: type) -> bool:
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _todo(value: Any) -> str | None:
    """What the marker of a stub asks for, "" if it does not say; None for a value that is none (tables look at their own)."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str) and item.lstrip().startswith("TODO"):
            return item.strip().removeprefix("TODO").lstrip(":").strip()
    return None


def suggest(word: Any, known) -> str:
    """A fix for a mistyped word: the nearest known one, or the list of them."""
    known = sorted(map(str, known))
    close = difflib.get_close_matches(str(word), known, n=1)
    if close:
        return f"did you mean `{close[0]}`?"
    return "known: " + (", ".join(known) if len(known) <= 24 else ", ".join(known[:24]) + ", ...")


def read_toml(path: Path, name: str, problems: Problems) -> dict[str, Any]:
    """The tables of a TOML file, or an empty dictionary and a problem that names the line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.add(name, "", f"is not valid TOML: {error}", "correct the file at that place")
        return {}
