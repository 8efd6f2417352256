"""Exact counts: of a shard, of all together, and what follows from them.

    totals = Totals.read(answer)          # of a shard, as `tools.evaluation.worker` answers it
    totals.add(other)                     # in any order, the sum is the same
    result = summary(totals, plan)        # top-1, top-5, per class, speed

Everything is whole numbers until the very end, where a share is divided and rounded once.
"""

import csv
import io
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tools.evaluation import EvaluationError
from tools.evaluation.labels import Labels

BROKEN_NAMED = 20


@dataclass
class Tally:
    """Of one module: images by (true class, predicted output), images by true class with that among the best five, seconds."""

    confusion: Counter = field(default_factory=Counter)
    top5: Counter = field(default_factory=Counter)
    seconds: float = 0.0


@dataclass
class Totals:
    """Sums over shards. `versions` and `devices` are those that were at work, `problems` why shards could not be counted."""

    shards: int = 0
    images: int = 0
    broken: int = 0
    broken_names: list[str] = field(default_factory=list)
    seconds: float = 0.0
    modules: list[Tally] = field(default_factory=list)
    versions: list[dict[str, str]] = field(default_factory=list)
    devices: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, other: "Totals") -> "Totals":
        """Add what other shards counted; returns itself."""
        self.shards += other.shards
        self.images += other.images
        self.broken += other.broken
        self.broken_names = sorted({*self.broken_names, *other.broken_names})[:BROKEN_NAMED]
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
        """As JSON; `read` takes it back."""
        modules = [
            {
                "seconds": each.seconds,
                "confusion": [[*pair, count] for pair, count in sorted(each.confusion.items())],
                "top5": [[label, count] for label, count in sorted(each.top5.items())],
            }
            for each in self.modules
        ]
        return {**vars(self), "modules": modules}

    @classmethod
    def read(cls, stated: dict[str, Any]) -> "Totals":
        """From JSON. Raises EvaluationError if it contradicts itself."""
        modules = [
            Tally(Counter({(t, p): n for t, p, n in m["confusion"]}), Counter(dict(m["top5"])), m["seconds"])
            for m in stated["modules"]
        ]
        if any(each.confusion.total() != stated["images"] for each in modules):
            raise EvaluationError(
                "counts contradict each other; remove the state that they are from, and evaluate again"
            )
        return cls(**{**stated, "modules": modules})


def summary(tally: Tally, images: int, classes: Labels, columns, outputs: Labels) -> dict[str, Any]:
    """What the counts of one module say: top-1 and top-5 in per cent with their counts, each class, images a second.

    `columns` are the outputs that stand for the classes, None if they are the same; `outputs` what the outputs are called.
    """
    right = Counter()
    shown = Counter()
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


def table(rows: list[dict[str, Any]]) -> bytes:
    """Rows as CSV, with a line of names."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _share(correct: int, images: int) -> dict[str, Any]:
    return {"value": round(100 * correct / images, 2), "correct": correct}
