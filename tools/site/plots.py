"""Accuracy against parameters or GFLOPs: where the marks, lines and ticks of a collection's pictures lie. No drawing here.

    plot = accuracy(collection.members, "parameters")       # None when fewer than two modules can be placed
    plot.marks[0].x, plot.marks[0].measured                 # in the units of the SVG's view box, `WIDTH` x `HEIGHT`

The x axis is logarithmic, the y axis top-1 accuracy in per cent. A module has one mark with up to two ends: what its source
reported, and what was measured on the published bytes. Colour tells what the modules differ in (training data, or else recipe, or
else family), shape the resolution. A mark that would cover another's centre stands beside it.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tools.site.formatting import decimal
from tools.site.published_module import PublishedModule

WIDTH, HEIGHT = 560, 340
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 26, 44
OVERVIEW = 150  # marks of all families together
SERIES = 6  # colours in static/style.css; further series begin again
SHAPES = 3  # see `outline`; further resolutions have the last
APART = 8.0  # between the ends of two marks, so that neither covers the other's centre


@dataclass(frozen=True)
class Mark:
    """One module: `reported` and `measured` are the heights of its ends, `y` that of the accuracy to rank by."""

    module: PublishedModule
    x: float
    y: float
    reported: float | None
    measured: float | None
    series: int
    shape: int

    @property
    def text(self) -> str:
        """Return what the mark stands for, in words."""
        module = self.module
        figures = [
            f"{decimal(value, significant=4)} % {who}"
            for value, who in ((module.reported["top1"], "reported"), (module.measured_top1, "measured"))
            if value is not None
        ]
        size = f"{module.parameters_short} parameters"
        return f"{module.name}: {', '.join(figures)}, {size}, {module.licence.display_name}"


@dataclass(frozen=True)
class Plot:
    """Ticks are (position, text), `series` (colour, name), `shapes` (shape, resolution), `lines` (colour, points)."""

    kind: str
    title: str
    unit: str
    marks: tuple[Mark, ...]
    lines: tuple[tuple[int, str], ...]
    ticks_x: tuple[tuple[float, str], ...]
    ticks_y: tuple[tuple[float, str], ...]
    minor_x: tuple[float, ...]
    series: tuple[tuple[int, str], ...]
    shapes: tuple[tuple[int, int], ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM

    @property
    def has_reported(self) -> bool:
        return any(mark.reported is not None for mark in self.marks)

    @property
    def has_measured(self) -> bool:
        return any(mark.measured is not None for mark in self.marks)


_KINDS = {
    "parameters": ("Accuracy against parameters", "parameters (millions, logarithmic)", 1e6),
    "gflops": ("Accuracy against GFLOPs", "GFLOPs for one image (logarithmic)", 1.0),
}


def accuracy(members: Iterable[PublishedModule], kind: str, *, by_family: bool = False) -> Plot | None:
    """Return the plot of the classifiers among `members` against "parameters" or "gflops"; None with fewer than two sizes."""
    title, unit, scale = _KINDS[kind]
    found = []
    for module in members:
        size = (module.measured[kind] or module.reported[kind]) if module.is_classifier else None
        if size and module.top1 is not None:
            found.append((module, size / scale))
    if len({size for _, size in found}) < 2:
        return None
    xs = [size for _, size in found]
    ys = [value for m, _ in found for value in (m.reported["top1"], m.measured_top1) if value is not None]
    low_x, high_x = math.log10(min(xs)), math.log10(max(xs))
    margin = max((high_x - low_x) * 0.06, 0.05)
    low_x, high_x = low_x - margin, high_x + margin
    step = _step(max(ys) - min(ys))
    low_y, high_y = math.floor(min(ys) / step) * step, math.ceil(max(ys) / step) * step
    high_y += step if high_y == low_y else 0  # all the same, and round

    def place_x(value: float) -> float:
        return round(LEFT + (math.log10(value) - low_x) / (high_x - low_x) * (WIDTH - LEFT - RIGHT), 1)

    def place_y(value: float | None) -> float | None:
        if value is None:
            return None
        return round(HEIGHT - BOTTOM - (value - low_y) / (high_y - low_y) * (HEIGHT - TOP - BOTTOM), 1)

    name_of = _family if by_family else _distinction([module for module, _ in found])
    names = list(dict.fromkeys(name_of(module) for module, _ in found))
    resolutions = sorted({module.row["resolution"] for module, _ in found})
    shapes = {resolution: min(i, SHAPES - 1) for i, resolution in enumerate(resolutions)}
    marks = _side_by_side(
        [
            Mark(
                module,
                place_x(size),
                place_y(module.top1) or 0.0,
                place_y(module.reported["top1"]),
                place_y(module.measured_top1),
                names.index(name_of(module)) % SERIES,
                shapes[module.row["resolution"]],
            )
            for module, size in found
        ]
    )
    return Plot(
        kind,
        title,
        unit,
        marks,
        _frontiers(marks),
        tuple((place_x(value), decimal(value)) for value in _logarithmic(low_x, high_x)),
        tuple(
            (place_y(value) or 0.0, decimal(value))
            for value in (round(low_y + i * step, 6) for i in range(round((high_y - low_y) / step) + 1))
        ),
        tuple(place_x(value) for value in _logarithmic(low_x, high_x, every=True)),
        tuple((i % SERIES, name) for i, name in enumerate(names)),
        tuple((shape, resolution) for resolution, shape in shapes.items()),
    )


def overview(members: Iterable[PublishedModule]) -> Plot | None:
    """Return the plot of all families against parameters, of the classifiers that answer about the data that most are trained for.

    Of a hub with many modules only the best of each size and family are drawn, so that the first page stays small.
    """
    ranked = [m for m in members if m.is_classifier and m.top1 is not None and m.yanked is None]
    trained_for = Counter(m.row["datasets"][-1] for m in ranked)
    if not trained_for:
        return None
    usual = min(trained_for, key=lambda name: (-trained_for[name], name))
    ranked = sorted((m for m in ranked if m.row["datasets"][-1] == usual), key=lambda m: (_family(m), m.name))
    return accuracy(_few(ranked), "parameters", by_family=True)


def thumbnail(members: Iterable[PublishedModule]) -> Plot | None:
    """Return the small plot of a collection; as of `overview`, of many modules only the best of each size are drawn."""
    return accuracy(_few([m for m in members if m.is_classifier]), "parameters")


def _few(modules: list[PublishedModule]) -> list[PublishedModule]:
    """Return the modules; of more than `OVERVIEW` those that nothing smaller of their family reaches."""
    if len(modules) <= OVERVIEW:
        return modules
    best: list[PublishedModule] = []
    for module in sorted(modules, key=lambda m: (_family(m), m.measured["parameters"] or 0, -(m.top1 or 0))):
        if not best or _family(best[-1]) != _family(module) or (module.top1 or 0) > (best[-1].top1 or 0):
            best.append(module)
    return best


def outline(shape: int, x: float, y: float, radius: float) -> str:
    """Return the path of a mark around a centre: a circle, a square or a triangle of about the same area."""
    if shape == 0:
        return f"M{x - radius:g} {y:g}a{radius:g} {radius:g} 0 1 0 {2 * radius:g} 0a{radius:g} {radius:g} 0 1 0 {-2 * radius:g} 0z"
    if shape == 1:
        half = round(radius * 0.9, 1)
        return f"M{x - half:g} {y - half:g}h{2 * half:g}v{2 * half:g}h{-2 * half:g}z"
    half = round(radius * 1.2, 1)
    return f"M{x:g} {y - half:g}l{half:g} {2 * half:g}h{-2 * half:g}z"


def _family(module: PublishedModule) -> str:
    return str(module.row["title"])


def _distinction(modules: list[PublishedModule]) -> Callable[[PublishedModule], str]:
    """Return what to colour by: the training data; where they are the same the recipe (the source); or else the family."""
    for key in ("data_text", "source_text"):
        if len({module.row[key] for module in modules}) > 1:
            return lambda module, key=key: str(module.row[key])  # type: ignore[misc]
    return (lambda module: str(module.row["data_text"])) if len(set(map(_family, modules))) == 1 else _family


def _side_by_side(marks: list[Mark]) -> tuple[Mark, ...]:
    """Move marks sideways, the least possible, until no end covers the centre of another module's."""
    placed: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)  # by squares as wide as `APART`
    found = []

    def is_free(x: float, y: float) -> bool:
        column, line = int(x / APART), int(y / APART)
        near = (end for i in (-1, 0, 1) for j in (-1, 0, 1) for end in placed.get((column + i, line + j), ()))
        return all(math.hypot(x - px, y - py) >= APART for px, py in near)

    for mark in marks:
        heights = [y for y in (mark.reported, mark.measured) if y is not None]
        for shift in sorted(range(-40, 41), key=lambda each: (abs(each), each)):
            x = round(mark.x + shift * APART / 4, 1)
            inside = LEFT + APART / 2 <= x <= WIDTH - RIGHT - APART / 2
            if inside and all(is_free(x, y) for y in heights):
                break
        else:
            x = mark.x
        for y in heights:
            placed[int(x / APART), int(y / APART)].append((x, y))
        found.append(Mark(mark.module, x, mark.y, mark.reported, mark.measured, mark.series, mark.shape))
    return tuple(found)


def _frontiers(marks: tuple[Mark, ...]) -> tuple[tuple[int, str], ...]:
    """Return, for each series, a line through the marks that nothing smaller reaches: what a size buys at best."""
    lines = []
    for series in sorted({mark.series for mark in marks}):
        best: list[Mark] = []
        for mark in sorted((m for m in marks if m.series == series), key=lambda m: (m.x, m.y)):
            # y grows downwards, so that a better mark has the smaller one; of two at the same size the better one comes first.
            if not best or mark.y < best[-1].y:
                best.append(mark)
        if len(best) > 1:
            lines.append((series, " ".join(f"{mark.x},{mark.y}" for mark in best)))
    return tuple(lines)


def _step(extent: float) -> float:
    """Return a round step that gives about five ticks."""
    rough = max(extent, 0.5) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough - 1e-9)


def _logarithmic(low: float, high: float, *, every: bool = False) -> list[float]:
    """Return round values between 10**low and 10**high: powers of ten with 2 and 5, fewer over many decades; or `every` digit."""
    factors = range(1, 10) if every else (1, 2, 5) if high - low < 2.6 else (1, 3) if high - low < 4 else (1,)
    found = []
    for exponent in range(math.floor(low), math.ceil(high) + 1):
        for factor in factors:
            value = round(factor * 10.0**exponent, 9)
            if value > 0 and low <= math.log10(value) <= high:
                found.append(value)
    return found
