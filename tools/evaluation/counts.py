"""Exact counts of shards, their sum, and the results that follow from them.

    totals = Totals.read(answer)          # of a shard, as `tools.evaluation.worker` answers it
    totals.add(other)                     # in any order, the sum is the same
    result = summary(totals.modules[0], totals.images, classes, mapping.columns, outputs)      # top-1, top-5, per class, speed

Counts are whole numbers until the very end, where a share is divided and rounded once.
"""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from tools.evaluation import EvaluationError
from tools.evaluation.labels import Labels


@dataclass
class Tally:
    """Counts of one module.

    Attributes:
      confusion: images by (true class, predicted output).
      top5: images by true class, those with that class among the best five.
      seconds: the time of the module's calls.
    """

    confusion: Counter[tuple[int, int]] = field(default_factory=Counter)
    top5: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0

    def described(self) -> dict[str, Any]:
        """Return the counts as JSON; `Totals.read` takes them back."""
        return {
            "seconds": self.seconds,
            "confusion": [[*pair, count] for pair, count in sorted(self.confusion.items())],
            "top5": [[label, count] for label, count in sorted(self.top5.items())],
        }


@dataclass
class Totals:
    """Sums over shards.

    Attributes:
      shards: how many were counted.
      images: how many were evaluated.
      broken: the name of each image that could not be used, and why, in order.
      seconds: the time of the worker processes in all.
      modules: a tally for each module.
      versions: the sets of package versions that were at work.
      devices: the names of the devices that were at work.
      problems: why shards could not be counted.
    """

    shards: int = 0
    images: int = 0
    broken: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    modules: list[Tally] = field(default_factory=list)
    versions: list[dict[str, str]] = field(default_factory=list)
    devices: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, other: "Totals") -> "Totals":
        """Add the counts of other shards; return this object."""
        self.shards += other.shards
        self.images += other.images
        self.broken = sorted([*self.broken, *other.broken])
        self.seconds += other.seconds
        self.modules = self.modules or [Tally() for _ in other.modules]
        for mine, theirs in zip(self.modules, other.modules, strict=bool(other.modules)):
            mine.confusion.update(theirs.confusion)
            mine.top5.update(theirs.top5)
            mine.seconds += theirs.seconds
        self.versions += [each for each in other.versions if each not in self.versions]
        self.devices = sorted({*self.devices, *other.devices})
        self.problems = sorted({*self.problems, *other.problems})
        return self

    def described(self) -> dict[str, Any]:
        """Return the counts as JSON; `read` takes them back."""
        return {**vars(self), "modules": [each.described() for each in self.modules]}

    @classmethod
    def read(cls, stated: Mapping[str, Any]) -> "Totals":
        """Read counts from JSON. Raises EvaluationError: they contradict each other, or are none."""
        fix = "remove the state that they are from, and evaluate again"
        try:
            modules = [
                Tally(Counter({(t, p): n for t, p, n in m["confusion"]}), Counter(dict(m["top5"])), m["seconds"])
                for m in stated["modules"]
            ]
            broken = [(str(name), str(reason)) for name, reason in stated["broken"]]
            totals = cls(**{**stated, "modules": modules, "broken": broken})
            is_consistent = all(each.confusion.total() == totals.images for each in modules)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EvaluationError(f"counts have another shape: {error!r}", fix) from error
        if not is_consistent:
            raise EvaluationError("counts contradict each other", fix)
        return totals


class Share(TypedDict):
    """An accuracy in per cent, and the number of correct images that it is computed from."""

    value: float
    correct: int


class ClassRow(TypedDict):
    """The images of one class of the data, and how many of them were right."""

    id: str
    name: str
    images: int
    top1: int
    top5: int


class ConfusionRow(TypedDict):
    """The images of one class of the data that were taken for one output of the module."""

    true: str
    true_name: str
    predicted: str
    predicted_name: str
    images: int


class Summary(TypedDict):
    """The results of one module: accuracies, speed, and tables of classes and of confusions."""

    images: int
    top1: Share
    top5: Share
    images_per_second: float | None
    classes: list[ClassRow]
    confusion: list[ConfusionRow]


def summary(tally: Tally, images: int, classes: Labels, columns: Sequence[int] | None, outputs: Labels) -> Summary:
    """Compute the results of one module from its counts.

    Args:
      tally: its counts.
      images: how many images were evaluated.
      classes: the classes of the data.
      columns: the output that stands for each class, -1 for none; None if outputs and classes are the same.
      outputs: the classes of the module.
    """
    right: Counter[int] = Counter()
    shown: Counter[int] = Counter()
    for (label, predicted), count in tally.confusion.items():
        shown[label] += count
        if predicted == (label if columns is None else columns[label]):
            right[label] += count
    return {
        "images": images,
        "top1": _share(right.total(), images),
        "top5": _share(tally.top5.total(), images),
        "images_per_second": round(images / tally.seconds, 2) if tally.seconds else None,
        "classes": [
            {
                "id": classes.ids[label],
                "name": classes.names[label],
                "images": shown[label],
                "top1": right[label],
                "top5": tally.top5[label],
            }
            for label in sorted(shown)
        ],
        "confusion": [
            {
                "true": classes.ids[label],
                "true_name": classes.names[label],
                "predicted": outputs.ids[predicted],
                "predicted_name": outputs.names[predicted],
                "images": count,
            }
            for (label, predicted), count in sorted(tally.confusion.items())
        ],
    }


def table(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return rows as CSV, with a line of column names."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _share(correct: int, images: int) -> Share:
    return {"value": round(100 * correct / images, 2), "correct": correct}
