"""Accuracy against parameters or GFLOPs: where the points, lines and ticks of a collection's pictures lie. No drawing here.

    plot = accuracy(collection.members, "parameters")       # None when fewer than two modules can be placed
    plot.points[0].x, plot.points[0].measured               # in the units of the SVG's view box, `WIDTH` x `HEIGHT`

The x axis is logarithmic, the y axis top-1 accuracy in per cent. A module has up to two points: what its source reported,
and what was measured on the published bytes.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tools.site.formatting import decimal
from tools.site.published_module import PublishedModule

WIDTH, HEIGHT = 560, 340
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 26, 44
SERIES = 6  # colours in static/style.css; further series begin again


@dataclass(frozen=True)
class Point:
    """One mark: `accuracy` in per cent, measured here or reported by the source; `series` numbers its colour."""

    module: PublishedModule
    x: float
    y: float
    accuracy: float
    measured: bool
    series: int


@dataclass(frozen=True)
class Plot:
    """Ticks are (position, text), `series` (colour, name), `lines` (colour, list of points): the best of each size."""

    kind: str
    title: str
    unit: str
    points: tuple[Point, ...]
    lines: tuple[tuple[int, str], ...]
    ticks_x: tuple[tuple[float, str], ...]
    ticks_y: tuple[tuple[float, str], ...]
    series: tuple[tuple[int, str], ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM

    @property
    def has_reported(self) -> bool:
        return any(not point.measured for point in self.points)

    @property
    def has_measured(self) -> bool:
        return any(point.measured for point in self.points)


_KINDS = {
    "parameters": ("Accuracy against parameters", "parameters (millions)", 1e6),
    "gflops": ("Accuracy against GFLOPs", "GFLOPs for one image", 1.0),
}


def accuracy(members: Iterable[PublishedModule], kind: str) -> Plot | None:
    """Return the plot of the classifiers among `members` against "parameters" or "gflops"; None with fewer than two sizes."""
    title, unit, scale = _KINDS[kind]
    found = []
    for module in members:
        if not module.is_classifier:
            continue
        size = module.measured[kind] or module.reported[kind]
        if size:
            for value, measured in ((module.reported["top1"], False), (module.measured_top1, True)):
                if value is not None:
                    found.append((module, size / scale, value, measured))
    if len({size for _, size, _, _ in found}) < 2:
        return None
    xs, ys = [size for _, size, _, _ in found], [value for _, _, value, _ in found]
    low_x, high_x = math.log10(min(xs)), math.log10(max(xs))
    margin = max((high_x - low_x) * 0.06, 0.05)
    low_x, high_x = low_x - margin, high_x + margin
    step = _step(max(ys) - min(ys))
    low_y, high_y = math.floor(min(ys) / step) * step, math.ceil(max(ys) / step) * step

    def place_x(value: float) -> float:
        return round(LEFT + (math.log10(value) - low_x) / (high_x - low_x) * (WIDTH - LEFT - RIGHT), 1)

    def place_y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - low_y) / (high_y - low_y) * (HEIGHT - TOP - BOTTOM), 1)

    names: dict[str, str] = {}
    for module, *_ in found:
        names.setdefault(module.row["data"], module.row["data_text"])
    number = {data: i % SERIES for i, data in enumerate(names)}
    points = tuple(
        Point(module, place_x(size), place_y(value), value, measured, number[module.row["data"]])
        for module, size, value, measured in found
    )
    return Plot(
        kind,
        title,
        unit,
        points,
        _frontiers(points),
        tuple((place_x(value), decimal(value)) for value in _logarithmic(low_x, high_x)),
        tuple(
            (place_y(value), decimal(value))
            for value in (round(low_y + i * step, 6) for i in range(round((high_y - low_y) / step) + 1))
        ),
        tuple((number[data], text) for data, text in names.items()),
    )


def _frontiers(points: tuple[Point, ...]) -> tuple[tuple[int, str], ...]:
    """Return, for each series, a line through the marks that nothing smaller reaches: what a size buys at best."""
    lines = []
    for series in sorted({point.series for point in points}):
        best: list[Point] = []
        for point in sorted((p for p in points if p.series == series), key=lambda p: (p.x, p.y)):
            # y grows downwards, so that a better mark has the smaller one; of two at the same size the better one stays.
            if not best or point.y < best[-1].y:
                best = [p for p in best if p.x < point.x] + [point]
        if len(best) > 1:
            lines.append((series, " ".join(f"{point.x},{point.y}" for point in best)))
    return tuple(lines)


def _step(extent: float) -> float:
    """Return a round step that gives about five ticks."""
    rough = max(extent, 0.5) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough - 1e-9)


def _logarithmic(low: float, high: float) -> list[float]:
    """Return round values between 10**low and 10**high: powers of ten with 2 and 5, or fewer over many decades."""
    factors = (1, 2, 5) if high - low < 2.6 else (1, 3) if high - low < 4 else (1,)
    found = []
    for exponent in range(math.floor(low), math.ceil(high) + 1):
        for factor in factors:
            value = round(factor * 10.0**exponent, 9)
            if value > 0 and low <= math.log10(value) <= high:
                found.append(value)
    return found
