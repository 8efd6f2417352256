"""Strict reading of hand-written tables: every problem of every file in one go, each with file, row and fix.

problems = Problems()
table = Table(tomllib.loads(text), "modules/convnext.toml", "variant 3", problems)
size = table.take("size", str)
table.finish()                # complains about every key that nobody took
problems.raise_if_any()

Home-made: pydantic and JSON Schema check one document at a time, know nothing of a stub's TODO, and name neither row nor fix.
"""

import difflib
import math
import tomllib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from tools.common.problems import Problem

REQUIRED: Any = object()  # the default of a key that must be there
_TYPE_NAMES = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}
_LISTED = 24  # words that a fix lists
_LARGEST = 1 << 63  # what TOML asks its readers to hold
_LONGEST = 120  # characters of a value that a message shows


class CatalogError(ValueError):
    """The catalogue cannot be used. `problems` holds every problem of every file."""

    def __init__(self, problems: list[Problem]):
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


class Problems:
    """Collects problems while the files are read."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, file: str, row: str, message: str, fix: str) -> None:
        """Note what is wrong with a row of a file, and what to do about it."""
        self.found.append(Problem(file, message, fix, row=row))

    def raise_if_any(self) -> None:
        """Raise `CatalogError` if something was found."""
        if self.found:
            raise CatalogError(self.found)


class Table:
    """One table of a TOML file, whose keys are taken one by one; a key that nobody takes is unknown."""

    def __init__(self, values: dict[str, Any], file: str, row: str, problems: Problems):
        self.values, self.file, self.row, self.problems = values, file, row, problems
        self._taken: set[str] = set()

    def take(
        self,
        key: str,
        kind: type,
        default: Any = REQUIRED,
        *,
        choices: Collection[str] | None = None,
        listed_in: str = "",
        of: type | None = None,
    ) -> Any:
        """Return the value of `key`, or `default`; a missing, misshaped or unlisted value is a problem and gives None.

        `kind` is str, int, float (takes whole numbers too), bool, list or dict; `of` is the kind of a list's items;
        `choices` is what the value, or each item, must be one of; `listed_in` is where they are written, if others may be added.
        """
        self._taken.add(key)
        if key not in self.values:
            if default is REQUIRED:
                self.complain(f"`{key}` is missing", f"add `{key} = ...` ({_TYPE_NAMES[kind]})")
                return None
            return default
        value = self.values[key]
        todo = _todo(value)
        if todo is not None:
            known = f" ({one_of(choices)}{f', of {listed_in}' if listed_in else ''})" if choices else ""
            self.complain(f"`{key}` is still to be written", f"write {todo or _TYPE_NAMES[kind]}{known}")
            return None
        if not _is(value, kind) or (of and not all(_is(item, of) for item in value)):
            expected = _TYPE_NAMES[kind] + (f" of {_TYPE_NAMES[of].split()[-1]}s" if of else "")
            self.complain(f"`{key} = {shown(value)}` is not {expected}", f"write {expected}")
            return None
        if kind in (int, float) and not _is_usable(value):
            self.complain(f"`{key} = {shown(value)}` is out of range", "write a finite number that fits into 64 bits")
            return None
        if choices is not None:
            for item in value if isinstance(value, list) else [value]:
                if item not in choices:
                    self.complain(f"`{key}` has the unknown value {shown(item)}", suggest(item, choices, listed_in))
                    return None
        return value

    def tables(self, key: str, *, default: Any = REQUIRED) -> "dict[str, Table]":
        """Return the tables of a table, `key`, by name; a value that is none is a problem and left out."""
        found = {}
        for name, value in (self.take(key, dict, default) or {}).items():
            if isinstance(value, dict):
                found[name] = Table(value, self.file, f"{key}.{name}", self.problems)
            else:
                self.complain(f"`{key}.{name} = {shown(value)}` is not a table", f"write a table [{key}.{name}]")
        return found

    def finish(self) -> None:
        """Complain about every key that was not taken."""
        for key in self.values:
            if key not in self._taken:
                self.complain(f"unknown key `{key}`", suggest(key, self._taken))

    def complain(self, message: str, fix: str) -> None:
        """Note what is wrong with this row."""
        self.problems.add(self.file, self.row, message, fix)


def shown(value: Any) -> str:
    """Return a value as a message shows it: as Python writes it, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, or lists in lists
        return f"a {type(value).__name__} that nobody can read"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _is_usable(value: float) -> bool:
    return math.isfinite(value) if isinstance(value, float) else -_LARGEST <= value < _LARGEST


def _is(value: Any, kind: type) -> bool:
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _todo(value: Any) -> str | None:
    """Return what a stub's marker asks for, "" if it does not say, None for a value without one (tables look at their own)."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str) and item.lstrip().startswith("TODO"):
            return item.strip().removeprefix("TODO").lstrip(":").strip()
    return None


def suggest(word: Any, known: Iterable[Any], listed_in: str = "") -> str:
    """Return a fix for a mistyped word: the nearest known one, or the list of them, or to add it where they are listed."""
    words = sorted(map(str, known))
    close = difflib.get_close_matches(str(word), words, n=1)
    found = f"did you mean `{close[0]}`" if close else f"write {one_of(words)}"
    return f"{found}, or add it to {listed_in}" if listed_in else f"{found}?" if close else found


def one_of(known: Iterable[Any]) -> str:
    """Return the words that may be written, as the end of a sentence."""
    words = sorted(map(str, known))
    return f"one of {', '.join(words[:_LISTED])}" + (", ..." if len(words) > _LISTED else "")


def read_toml(path: Path, name: str, problems: Problems) -> dict[str, Any]:
    """Return the tables of a TOML file, or an empty dictionary and a problem that names the line."""
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        problems.add(name, "", f"cannot be read ({error.strerror})", "restore the file")
    except (ValueError, RecursionError) as error:  # of TOML, of UTF-8, of a number's digits, of lists in lists
        problems.add(name, "", f"is not valid TOML: {error}", "correct the file at that place")
    return {}
