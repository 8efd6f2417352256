"""Accuracy and speed of a published module, with where, when and on what they were measured.

Evaluation.of_note(note).top1        # 97.5, in per cent
Speed.of_note(note).batches          # [("1", "31.2"), ("8", "40.1")]
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tools.site.formatting import one_line, rate


@dataclass(frozen=True)
class Evaluation:
    """Accuracy of the published module, in per cent: on which images, when, and with which versions of the packages."""

    dataset: str
    split: str
    images: int
    top1: float
    top1_correct: int
    top5: float | None
    top5_correct: int | None
    date: str
    versions: Mapping[str, str]

    @property
    def margin(self) -> float:
        """Half of the 95 % interval of `top1`, in per cent, by the normal approximation: what as many other images may give."""
        share = self.top1 / 100
        return 196 * math.sqrt(share * (1 - share) / self.images)

    @classmethod
    def of_record(cls, top1: Mapping[str, Any], versions: Mapping[str, str]) -> "Evaluation":
        """Return what the checks before the publication measured."""
        figures = (top1["value"], top1["correct"], None, None)
        return cls(top1["dataset"], top1["split"], top1["images"], *figures, top1["date"], versions)

    @classmethod
    def of_note(cls, note: Mapping[str, Any]) -> "Evaluation":
        """Return what `tools/evaluate.py` measured later."""
        said = note["measurement"]
        top1, top5 = said["top1"], said.get("top5") or {}
        figures = (top1["value"], top1["correct"], top5.get("value"), top5.get("correct"))
        return cls(said["dataset"], said["split"], said["images"], *figures, note["date"], said["versions"])


@dataclass(frozen=True)
class Speed:
    """Images per second of the published module by batch size, on a processor, with so many threads."""

    cpu: str
    threads: int
    resolution: int
    images_per_second: Mapping[str, float]
    date: str
    versions: Mapping[str, str]

    @classmethod
    def of_note(cls, note: Mapping[str, Any]) -> "Speed":
        """Return what `tools/benchmark.py` measured."""
        said = note["measurement"]
        rates = said["images_per_second"]
        return cls(said["cpu"], said["threads"], said["resolution"], rates, note["date"], said["versions"])

    @property
    def batches(self) -> list[tuple[str, str]]:
        """(batch size, images per second) in the order of the sizes: [("1", "31.2"), ("8", "40.1")]."""
        return [(size, rate(self.images_per_second[size])) for size in sorted(self.images_per_second, key=int)]

    @property
    def machine(self) -> str:
        """The processor and the threads: "AMD EPYC 7B13, 2 threads"."""
        return f"{one_line(self.cpu)}, {self.threads} thread{'s' if self.threads != 1 else ''}"
