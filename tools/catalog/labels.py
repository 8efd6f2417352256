"""Names of classes: the files `modules/labels/NAME.tsv`, an id, a tab and a name in a line for each class.

names = load(root / "modules/labels/digits.tsv")
"""

from collections.abc import Iterator
from pathlib import Path

from tools.common.problems import Problem

FOLDER = "modules/labels"
FORMAT = "an id, a tab and a name in a line for each class"


def load(path: Path) -> list[str]:
    """Return the names of a file that the catalogue has accepted."""
    return [line.split("\t")[1] for line in _lines(path)]


def problems(path: Path, classes: int | None) -> Iterator[Problem]:
    """Yield what is wrong with a file that is to have `classes` labels: the first of each kind."""
    file = f"{FOLDER}/{path.name}"
    try:
        lines = _lines(path)
    except FileNotFoundError:
        yield Problem(file, "there is no such file", f"put it there, with {FORMAT}, or correct `labels`")
        return
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is not UTF-8 ({error})"
        yield Problem(file, f"cannot be read: {reason}", f"write a text file with {FORMAT}")
        return
    wrong = [number for number, line in enumerate(lines, 1) if not _is_label(line)]
    if wrong:
        others = f", nor are {len(wrong) - 1:,} others" if len(wrong) > 1 else ""
        message = f"{lines[wrong[0] - 1]!r} is not an id, a tab and a name{others}"
        yield Problem(file, message, f"write {FORMAT}; where classes have no ids, their numbers", line=wrong[0])
        return
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        first = seen.setdefault(line.split("\t")[0], number)
        if first != number:
            message = f"the id {line.split(chr(9))[0]} is that of line {first}, too"
            yield Problem(file, message, "give each class an id of its own", line=number)
            return
    if len(lines) != classes:
        yield Problem(file, f"has {len(lines)} labels, not {classes}", "correct `labels`, `classes` or the file")


def _lines(path: Path) -> list[str]:
    return path.read_bytes().decode("utf-8").replace("\r\n", "\n").removesuffix("\n").split("\n")


def _is_label(line: str) -> bool:
    parts = line.split("\t")
    return len(parts) == 2 and all(part.strip() and part.isprintable() for part in parts)
