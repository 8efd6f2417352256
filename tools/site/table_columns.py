"""Columns of the tables of modules: what a cell prints, and the figure behind it.

    for column in table_columns(members, ["parameters", "gflops"]):
        column.title, column.text(module), column.exact(module)       # "Params (M)", "28.6", "28,589,128"

A column has the same number of decimals in all of its cells, so that figures can be compared by looking at them. The exact
figure is in the cell's title, and in the CSV and JSON of `tools.site.tables`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tools.site.formatting import DASH, decimal
from tools.site.published_collection import ACCURACIES, raw
from tools.site.published_module import SPEED, PublishedModule

CLASSIFIER_TOP1 = "classifier_top1"  # in a table of extractors
TOP1 = "top1"  # the same figure, in a table of both heads
# Key: heading, what the figure is divided by, unit of the exact figure.
_KINDS: dict[str, tuple[str, float, str]] = {
    "reported_top1": ("Reported top-1 (%)", 1, "%"),
    "measured_top1": ("Measured top-1 (%)", 1, "%"),
    CLASSIFIER_TOP1: ("Classifier's top-1 (%)", 1, "%"),
    TOP1: ("Top-1 (%)", 1, "%"),
    "reported_top5": ("Reported top-5 (%)", 1, "%"),
    "measured_top5": ("Measured top-5 (%)", 1, "%"),
    "parameters": ("Params (M)", 1e6, "parameters"),
    "gflops": ("GFLOPs", 1, "GFLOPs"),
    "resolution": ("Pixels", 1, "pixels a side"),
    "download": ("Download (MB)", 1e6, "bytes"),
}
_WHOLE = ("resolution",)


@dataclass(frozen=True)
class Column:
    """A column of figures: `decimals` of its cells, and the (processor, threads) whose speeds it shows, or None for any."""

    key: str
    title: str
    scale: float
    unit: str
    decimals: int
    machine: tuple[str, int] | None

    def value(self, module: PublishedModule) -> float | str:
        """Return the figure as the record has it, "" where there is none."""
        value = raw(module, self.key, self.machine)
        return float(value) if isinstance(value, float) else value

    def text(self, module: PublishedModule) -> str:
        """Return the cell: the figure in the column's unit and decimals, or an en dash."""
        value = self.value(module)
        return DASH if value == "" else f"{float(value) / self.scale:,.{self.decimals}f}"

    def exact(self, module: PublishedModule) -> str:
        """Return the figure in full, with its unit and, of a classifier's accuracy, who found it; "" where there is none."""
        value = self.value(module)
        if value == "":
            return ""
        text = f"{value:,}" if isinstance(value, int) else decimal(float(value))
        said = ""
        if self.key in (CLASSIFIER_TOP1, TOP1):
            said = ", measured" if module.top1_is_measured else ", reported"
        return f"{text} {self.unit}{said}"


def table_columns(
    members: Sequence[PublishedModule],
    keys: Iterable[str],
    *,
    speeds: Iterable[str] = (),
    machine: tuple[str, int] | None = None,
) -> list[Column]:
    """Return the columns `keys`, then those of the batch sizes `speeds` that a member has.

    Accuracies are a classifier's. In a table of feature extractors alone, the accuracy of the classifier of the same checkpoint
    stands in their place, under a heading that says so.
    """
    keys = list(keys)
    if members and not any(m.is_classifier for m in members):
        if any(key in ACCURACIES for key in keys) and any(m.top1 is not None for m in members):
            keys.insert(next(i for i, key in enumerate(keys) if key in ACCURACIES), CLASSIFIER_TOP1)
        keys = [key for key in keys if key not in ACCURACIES]
    kinds = [(key, *_KINDS[key]) for key in keys]
    kinds += [(f"{SPEED}{batch}", f"Images/s (batch\u00a0{batch})", 1, "images per second") for batch in speeds]
    columns = []
    for key, title, scale, unit in kinds:
        found = [value / scale for m in members if (value := raw(m, key, machine)) != ""]
        if key.startswith(SPEED) and not found:
            continue
        columns.append(Column(key, title, scale, unit, 0 if key in _WHOLE else _decimals(found), machine))
    return columns


def _decimals(values: Sequence[float]) -> int:
    """Return how many decimals show a digit of the smallest figure: at least one, at most four."""
    smallest = min((abs(value) for value in values if value), default=1.0)
    return min(max(1, -math.floor(math.log10(smallest))), 4)
