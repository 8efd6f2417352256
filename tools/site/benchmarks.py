"""The page and the picture of what `tools/benchmark.py` measured: tables, bars of ratios, machine, versions, date.

    page = benchmarks.page(report, site=site, link=rendering.linker("benchmarks/index.html"))     # HTML; report: benchmarks.json
    picture = benchmarks.svg(report)                                                              # benchmarks.svg, on its own

A bar says how many times as good as the best peer ours is, on a logarithmic axis whose middle is "the same"; the marks are the
other peers. Pure: no clock, no network, no storage. The report's format is in `tools.site.benchmark_report`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tools.catalog import layout
from tools.common.problems import with_fix
from tools.site import rendering
from tools.site.benchmark_report import absent, best_peer, label, report_problems
from tools.site.formatting import day, thousands
from tools.site.jobs import PageError

PATH = layout.page_path("benchmarks")
FILE = "benchmarks.json"  # at the root of a hub
# The commands in the order of the page, what their sections are called, and what they say first.
TITLES = {
    "inference": ("Inference", "Images per second on a CPU, through `hub.load`, beside other engines."),
    "train": ("Training", "Images per second in training on a CPU, one step after the other, beside other frameworks."),
    "load": ("Loading", "From a fresh process to the first answer."),
    "publish": ("Publishing", "A checkpoint converted, checked, packed and stored."),
    "validate": ("Validating documents", "One command over thousands of Hub documents."),
    "render": ("Rendering documents", "A site from thousands of Hub documents."),
    "serve": ("Serving", "The same files on loopback."),
    "startup": ("Starting up", "From a command to what it says."),
}
PICTURED = ("inference", "train", "load", "validate", "render", "serve")  # where the peers do the same work

# Of the picture, in units of its view box: names to the left; figures to the right, at their longest "0.880 × timm, torch.compile".
WIDTH, LABELS, RIGHT = 760, 300, 190
ROW, BAR, HEAD, FOOT = 24, 14, 30, 24
TICKS = ((16, (4, 16)), (4, (2, 4)), (2.5, (2,)), (2, (1.5, 2)))  # from an axis' end on; each has its inverse
LARGEST = 16.0  # ratios beyond this, or below its inverse, end at the edge


@dataclass(frozen=True)
class Bar:
    """One comparison in the picture: from the middle to `x`, the ratio to the best peer; `marks` are (x, text) of the others."""

    y: float
    label: str
    x: float
    ratio: float
    text: str
    whole: str
    marks: tuple[tuple[float, str], ...]

    @property
    def is_ahead(self) -> bool:
        return self.ratio >= 1


@dataclass(frozen=True)
class Picture:
    """Bars and ticks, (x, text), of one section; in units of the view box, `width` x `height`."""

    title: str
    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]
    middle: float
    height: float
    width: int = WIDTH
    labels: int = LABELS
    bar: int = BAR
    head: int = HEAD


@dataclass(frozen=True)
class TableRow:
    """One contestant of a comparison, as a table shows it; `case` spans `span` rows and is empty in those below the first."""

    case: str
    span: int
    name: str
    ours: bool
    best: bool
    median: str
    quartiles: str
    ratio: str
    ratio_quartiles: str


@dataclass(frozen=True)
class Section:
    """One command's measurements: tables are (subject, rows, what was not measured and why)."""

    command: str
    title: str
    summary: str
    date: str
    machine: str
    versions: str
    settings: str
    notes: tuple[str, ...]
    tables: tuple[tuple[str, tuple[TableRow, ...], tuple[tuple[str, str], ...]], ...]
    picture: Picture | None


def sections(report: Mapping[str, Any]) -> tuple[Section, ...]:
    """Return what the page shows of a report.

    Raises:
      PageError: it breaks the schema.
    """
    if wrong := report_problems(report):
        fix = "measure again with tools/benchmark.py, or take the file away"
        raise PageError(with_fix(f"{FILE}: {'; '.join(wrong)}", fix))
    known = [command for command in TITLES if command in report["sections"]]
    return tuple(_section(command, report["sections"][command]) for command in known)


def page(
    report: Mapping[str, Any], *, site: rendering.Site, link: Callable[[str], str], canonical: str | None = None
) -> str:
    """Return the HTML of `/benchmarks/`; `link` turns paths of the site into links from `PATH`."""
    found = sections(report)
    return rendering.page(
        "site/benchmarks.html.j2", sections=found, file=FILE, site=site, link=link, canonical=canonical, data=None
    )


def svg(report: Mapping[str, Any]) -> str:
    """Return all bars of a report as one SVG file, for light and dark; it says what it shows to those who do not see it."""
    pictures, top = [], 0.0
    for section in sections(report):
        if section.picture:
            pictures.append((top, section))
            top += section.picture.height + 28
    return rendering.page("site/_bars_file.svg.j2", pictures=pictures, width=WIDTH, height=max(top, 40))


def number(value: float) -> str:
    """Return about three digits; whole numbers from ten on with separators."""
    if (value == int(value) and abs(value) >= 10) or abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 0.1 and value:
        return f"{value:.2g}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def times(ratio: float) -> str:
    """Return a ratio in three digits: 1.234 -> "1.23 ×"."""
    return f"{number(ratio)} ×"


def _section(command: str, found: Mapping[str, Any]) -> Section:
    title, summary = TITLES[command]
    machine = found["machine"]
    cores = f"{machine['cores']} core" + "s" * (machine["cores"] != 1)
    memory = f"{machine['memory_bytes'] / 2**30:.0f} GiB of memory"
    threads = f"{machine['threads']} thread" + "s" * (machine["threads"] != 1)
    subjects = dict.fromkeys(comparison["subject"] for comparison in found["comparisons"])
    tables = []
    for subject in subjects:
        comparisons = [each for each in found["comparisons"] if each["subject"] == subject]
        rows = tuple(row for each in comparisons for row in _rows(each))
        tables.append((subject, rows, tuple(absent(comparisons).items())))
    return Section(
        command=command,
        title=title,
        summary=summary,
        date=day(found["date"]),
        machine=f"{machine['cpu']}, {cores}, {memory}, {machine['system']}; {threads} each",
        versions=", ".join(f"{name} {version}" for name, version in sorted(found["versions"].items())),
        settings=", ".join(f"{key.replace('_', ' ')} {_setting(value)}" for key, value in found["settings"].items()),
        notes=tuple(found["notes"]),
        tables=tuple(tables),
        picture=_picture(title, found["comparisons"]) if command in PICTURED else None,
    )


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return " and ".join(map(str, value))
    return thousands(value) if isinstance(value, int) else str(value)


def _rows(comparison: Mapping[str, Any]) -> list[TableRow]:
    measured = [each for each in comparison["contestants"] if each["median"] is not None]
    best, rows = best_peer(comparison), []
    for index, each in enumerate(measured):
        ratio = each["ratio"]
        rows.append(
            TableRow(
                case="" if index else label(comparison),
                span=0 if index else len(measured),
                name=each["name"],
                ours=each["ours"],
                best=each is best,
                median=number(each["median"]),
                quartiles=_between(each),
                ratio=times(ratio["median"]) if ratio else "",
                ratio_quartiles=_between(ratio) if ratio else "",
            )
        )
    return rows


def _between(spread: Mapping[str, float]) -> str:
    low, high = number(spread["low"]), number(spread["high"])
    return low if low == high else f"{low} to {high}"


def _picture(title: str, comparisons: list[dict[str, Any]]) -> Picture | None:
    """Return the bars of the comparisons that have a peer; None if none has."""
    compared = [(each, best) for each in comparisons if (best := best_peer(each)) is not None]
    if not compared:
        return None
    ratios = [
        contestant["ratio"]["median"]
        for comparison, _ in compared
        for contestant in comparison["contestants"]
        if contestant["ratio"] and not contestant["ours"]
    ]
    extent = max(2.0, *(min(LARGEST, max(ratio, 1 / ratio if ratio else LARGEST)) for ratio in ratios)) * 1.05

    def place(ratio: float) -> float:
        position = math.log(min(max(ratio, 1 / extent), extent)) / math.log(extent) if ratio else -1.0
        return round(LABELS + (WIDTH - LABELS - RIGHT) * (position + 1) / 2, 1)

    subjects, bars = len({comparison["subject"] for comparison, _ in compared}), []
    for index, (comparison, best) in enumerate(compared):
        ratio = best["ratio"]["median"]
        others = [
            each
            for each in comparison["contestants"]
            if each["ratio"] and not each["ours"] and each["name"] != best["name"]
        ]
        label = f"{comparison['subject']}, {comparison['case']}" if subjects > 1 else comparison["case"]
        whole = (
            f"{comparison['subject']}, {comparison['case']}: {times(ratio)} as good as {best['name']}, the best peer"
        )
        bars.append(
            Bar(
                y=HEAD + index * ROW,
                label=label if len(label) <= 46 else label[:45] + "…",
                x=place(ratio),
                ratio=ratio,
                text=f"{times(ratio)} {best['name']}",
                whole=f"{whole} ({number(comparison['contestants'][0]['median'])} {comparison['unit']}".rstrip() + ")",
                marks=tuple(
                    (place(each["ratio"]["median"]), f"{times(each['ratio']['median'])} {each['name']}")
                    for each in others
                ),
            )
        )
    steps = next(steps for least, steps in TICKS if extent >= least)
    marks = sorted({1.0, *steps, *(1 / step for step in steps)})
    ticks = tuple((place(mark), f"{mark:.2f}".rstrip("0").rstrip(".") + " ×") for mark in marks)
    return Picture(title, tuple(bars), ticks, place(1.0), HEAD + len(bars) * ROW + FOOT)
