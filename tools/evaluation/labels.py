"""Sets of classes, and which of a module's logits stands for which class of the data.

    data = load("imagenet_1k")
    mapping = match(data, load("imagenet_21k"), outputs="data")      # mapping.columns[65]: the logit of the data's class 65

Labels are never guessed: what is ambiguous, unknown or only partly there is refused, with the option that decides it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tools.common.files import ROOT
from tools.common.printable import printable
from tools.evaluation import BadImagesError, EvaluationError

WHOLE_NUMBER = re.compile("[0-9]{1,18}")  # as labels are written
FOLDER = ROOT / "modules/labels"
NAMED = 5  # classes that an error lists


@dataclass(frozen=True)
class Labels:
    """A set of classes in the order of their numbers: `ids` (WordNet ids where there are such) and `names`.

    `title` is the stem of its file in modules/labels, or says where the classes were read.
    """

    title: str
    ids: tuple[str, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _numbers(self) -> dict[str, int | tuple[int, ...]]:
        """Numbers by id, and by name without regard to case and underscores; several where a name has several meanings."""
        found: dict[str, int | tuple[int, ...]] = {}
        for number, name in enumerate(self.names):
            key, before = _plain(name), found.get(_plain(name), ())
            found[key] = number if before == () else (*((before,) if isinstance(before, int) else before), number)
        return found | {identifier: number for number, identifier in enumerate(self.ids)}

    def number(self, text: str) -> int | None:
        """Return the number of a class by its id or its name; None if there is no such class.

        Raises EvaluationError: several classes have that name.
        """
        found = self._numbers.get(text)
        if found is None:
            found = self._numbers.get(_plain(text))
        if isinstance(found, tuple):
            ids = " and ".join(self.ids[number] for number in found)
            raise EvaluationError(f"{text!r} is the name of {ids} in {self.title}", "write the id instead of the name")
        return found


@dataclass(frozen=True)
class ClassMapping:
    """The logits that stand for the classes of the data.

    `columns[class]` is the number of a logit, -1 for none; `columns` is None if classes and logits are the same. `allowed` are the
    logits that compete, None for all.
    """

    columns: tuple[int, ...] | None = None
    allowed: tuple[int, ...] | None = None


def load(name: str) -> Labels:
    """Read modules/labels/NAME.tsv, or a .tsv file with an id, a tab and a name in each line."""
    file = Path(name) if name.endswith(".tsv") else FOLDER / f"{name}.tsv"
    try:
        if not file.is_file():  # a pipe would never end
            raise FileNotFoundError
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(sorted(each.stem for each in FOLDER.glob("*.tsv")))
        raise EvaluationError(f"there are no labels {name!r}", f"give one of {known}, or a .tsv file") from error
    rows = [line.split("\t") for line in lines]
    for number, row in enumerate(rows, 1):
        if len(row) != 2 or not all(row):
            raise EvaluationError(
                f"{file}:{number}: it is not an id, a tab and a name", "write the three for each class"
            )
    ids = tuple(row[0] for row in rows)
    if len(set(ids)) != len(ids):
        double = next(each for each in ids if ids.count(each) > 1)
        raise EvaluationError(f"{file}: the id {double} stands there twice", "give each class an id of its own")
    return Labels(file.stem, ids, tuple(row[1] for row in rows))


def unlisted(title: str, tokens: Sequence[str]) -> Labels:
    """Return the classes of data that no file describes: each has the text that the data has for it as id and as name."""
    names = tuple(printable(token) for token in tokens)
    return Labels(title, names, names)


def numbered(count: int) -> Labels:
    """Return `count` classes that have numbers only."""
    return unlisted(f"{count} numbers", [str(number) for number in range(count)])


def class_number(label: int | str, classes: Labels, first_label: int | None, where: str) -> int:
    """Return the number of the class that a label stands for, from 0; it may be out of range.

    Args:
      label: a number, or text: an id, a name, or where `first_label` is given a number.
      classes: the classes of the data.
      first_label: the number of the first class; None if nobody said.
      where: the image, for messages.

    Raises BadImagesError: nobody knows which class is meant.
    """
    if isinstance(label, str) and first_label is not None and WHOLE_NUMBER.fullmatch(label):
        label = int(label)
    if isinstance(label, int):
        if first_label is None:
            raise BadImagesError(
                f"{where}: labels are numbers", "say which one the first class has: --first-label 0 or 1"
            )
        return label - first_label
    try:
        number = classes.number(label)
    except EvaluationError as error:
        raise BadImagesError(f"{where}: {error}") from error
    if number is None:
        fix = "say of which --labels it is one"
        if WHOLE_NUMBER.fullmatch(label):
            fix += ", or if it is a number, which one the first class has (--first-label 0 or 1)"
        raise BadImagesError(f"{where}: its label {label[:80]!r} is no class of the data", fix)
    return number


def match(data: Labels, module: Labels, *, outputs: str | None = None, missing: str = "refuse") -> ClassMapping:
    """Find the logits of a module with labels `module` that stand for the classes of the data.

    Args:
      outputs: which logits compete where the module has more classes than the data: "all" or "data"; None if nobody said.
      missing: what to do with images of classes that the module does not know: "refuse", or count them as "wrong".

    Raises EvaluationError: the classes do not fit, or do so in more than one way.
    """
    if data.ids == module.ids:
        return ClassMapping()
    columns = [module.number(identifier) for identifier in data.ids]
    unknown = [identifier for identifier, column in zip(data.ids, columns, strict=True) if column is None]
    if unknown and (missing == "refuse" or len(unknown) == len(data)):
        shown = ", ".join(unknown[:NAMED]) + (", ..." if len(unknown) > NAMED else "")
        fix = "say what the labels mean (--labels), or evaluate a module with these classes"
        if all(WHOLE_NUMBER.fullmatch(identifier) for identifier in data.ids):
            fix = f"if labels are numbers, say which the first class has (--first-label 0 or 1); {fix}"
        if len(unknown) < len(data):
            fix += ", or count their images as wrong (--missing wrong)"
        raise EvaluationError(
            f"{len(unknown)} of the {len(data)} classes of {data.title} are none of {module.title}: {shown}", fix
        )
    known = [column for column in columns if column is not None]
    if len(set(known)) != len(known):
        double = next(column for column in known if known.count(column) > 1)
        raise EvaluationError(
            f"two classes of {data.title} mean {module.names[double]!r} in {module.title}", "make them one class"
        )
    if len(known) < len(module) and outputs is None:
        raise EvaluationError(
            f"{data.title} has {len(known)} of the {len(module)} classes of {module.title}",
            "say which outputs compete, --outputs all (every class of the module) or --outputs data (only those of the data)",
        )
    allowed = tuple(sorted(known)) if outputs == "data" and len(known) < len(module) else None
    return ClassMapping(tuple(-1 if column is None else column for column in columns), allowed)


def _plain(name: str) -> str:
    return name.replace("_", " ").casefold()
