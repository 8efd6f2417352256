"""A collection of published modules: its members, and the columns and cells of its tables.

collection.members                          # the newest versions that are not yanked, in the order of the tables
cell(module, "parameters"), raw(module, "parameters")        # "186,554", 186554
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tools.catalog import layout
from tools.catalog.catalog import Collection
from tools.site.formatting import DASH, millions, percent, rate
from tools.site.published_module import SPEED, PublishedModule

ACCURACIES = ("reported_top1", "measured_top1", "reported_top5", "measured_top5")


@dataclass(frozen=True)
class PublishedCollection:
    """A collection with at least one published module; `members` are the newest versions that are not yanked."""

    definition: Collection
    publisher: str
    base_url: str
    members: tuple[PublishedModule, ...]

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def handle(self) -> str:
        return f"{self.publisher}/{self.name}/1"

    @property
    def folder(self) -> str:
        return layout.collection_handle(self.publisher, self.name)

    @property
    def url(self) -> str:
        return f"{self.base_url}/{self.folder}"

    @property
    def classifiers(self) -> list[PublishedModule]:
        return [m for m in self.members if m.is_classifier]

    @property
    def feature_extractors(self) -> list[PublishedModule]:
        return [m for m in self.members if not m.is_classifier]

    @cached_property
    def tasks(self) -> list[str]:
        return sorted({m.task for m in self.members})

    @cached_property
    def architectures(self) -> list[str]:
        return sorted({m.row["network_architecture"] for m in self.members})

    @cached_property
    def datasets(self) -> list[str]:
        return sorted({name for m in self.members for name in m.row["datasets"]})

    @cached_property
    def papers(self) -> list[Mapping[str, Any]]:
        """The members' papers, each once, the oldest first."""
        found = {m.row["paper"]["key"]: m.row["paper"] for m in self.members}
        return sorted(found.values(), key=lambda paper: (paper["year"], paper["key"]))

    @cached_property
    def machine(self) -> tuple[str, int] | None:
        """The processor and threads on which most members' speed was measured: figures of others cannot stand beside them."""
        return usual_machine(self.members)

    @cached_property
    def extra_columns(self) -> list[tuple[str, str]]:
        """(key, title) of the columns that exist as soon as one member has the figure: top-5, images per second."""
        columns = []
        for key, title in (("reported_top5", "Reported top-5 (%)"), ("measured_top5", "Measured top-5 (%)")):
            if any(raw(m, key) != "" for m in self.members):
                columns.append((key, title))
        sizes = {
            int(batch)
            for m in self.members
            if m.speed and (m.speed.cpu, m.speed.threads) == self.machine
            for batch in m.speed.images_per_second
        }
        columns += [(f"{SPEED}{batch}", f"Images/s (batch\u00a0{batch})") for batch in sorted(sizes)]
        return columns

    @property
    def parameters_span(self) -> str:
        """From the smallest to the largest member: "3.70 M to 350 M"."""
        counts = sorted(m.measured["parameters"] for m in self.members if m.measured["parameters"] is not None)
        if not counts:
            return DASH
        first, last = millions(counts[0]), millions(counts[-1])
        return first if first == last else f"{first} to {last}"


def usual_machine(members: Iterable[PublishedModule]) -> tuple[str, int] | None:
    """Return the processor and threads on which most members' speed was measured, None if nobody measured any."""
    found = Counter((m.speed.cpu, m.speed.threads) for m in members if m.speed)
    return min(found, key=lambda each: (-found[each], each)) if found else None


def cell(module: PublishedModule, column: str, machine: tuple[str, int] | None = None) -> str:
    """Return the text of a module's cell in one of the columns of `tools.catalog` or of `PublishedCollection.extra_columns`.

    A speed that was measured elsewhere than on `machine` (processor, threads) stays out.
    """
    if column in _CELLS:
        return _CELLS[column][0](module)
    return rate(module.images_per_second(column, machine))


def raw(module: PublishedModule, column: str, machine: tuple[str, int] | None = None) -> Any:
    """Return the figure behind `cell`, for sorting and for programs; "" where there is none."""
    value = _CELLS[column][1](module) if column in _CELLS else module.images_per_second(column, machine)
    return "" if value is None else value


_CELLS: dict[str, tuple[Callable[[PublishedModule], str], Callable[[PublishedModule], Any]]] = {
    "reported_top1": (lambda m: m.reported_top1_text, lambda m: m.reported["top1"]),
    "measured_top1": (lambda m: m.measured_top1_text, lambda m: m.measured_top1),
    "reported_top5": (lambda m: m.reported_top5_text, lambda m: m.reported["top5"]),
    "measured_top5": (lambda m: m.measured_top5_text, lambda m: m.measured_top5),
    "parameters": (lambda m: m.parameters, lambda m: m.measured["parameters"]),
    "gflops": (lambda m: m.gflops, lambda m: m.measured["gflops"]),
    "resolution": (lambda m: str(m.row["resolution"]), lambda m: m.row["resolution"]),
    "download": (lambda m: m.download, lambda m: m.archive["bytes"]),
    "top1": (lambda m: percent(m.top1), lambda m: m.top1),
    "classifier_top1": (lambda m: percent(m.top1), lambda m: m.top1),
}
