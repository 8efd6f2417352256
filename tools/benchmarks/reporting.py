"""Show what a benchmark measured, a table for each subject, and write the report and its picture.

finish("inference", section, pathlib.Path("benchmarks.json"))
"""

import pathlib
from typing import Any

from tools.benchmarks import measuring
from tools.common import console
from tools.common.files import write_atomically
from tools.site.benchmark_report import absent, best_peer, label
from tools.site.benchmarks import number, svg


def finish(command: str, section: dict[str, Any], out: pathlib.Path) -> None:
    """Show a command's section, and put it into the report at `out` and the picture beside it."""
    show(section)
    report, picture = measuring.update(out, command, section), out.with_suffix(".svg")
    write_atomically(picture, svg(report))
    console.show(f"written to {out}, and as a picture to {picture}")


def show(section: dict[str, Any]) -> None:
    """Print a table for each subject of a section, then what was not measured and why, and the notes."""
    subjects = dict.fromkeys(comparison["subject"] for comparison in section["comparisons"])
    for subject in subjects:
        comparisons = [each for each in section["comparisons"] if each["subject"] == subject]
        console.show(f"\n{subject}")
        columns = ("Case", "", "Median>", "Quartiles>", "Ours is as good>", "Quartiles>")
        console.show(console.table(*columns, rows=[row for each in comparisons for row in _rows(each)]))
        for name, why in absent(comparisons).items():
            console.show(f"{name}: not measured: {why}")
    for note in section["notes"]:
        console.show(note)


def _rows(comparison: dict[str, Any]) -> list[tuple[str, ...]]:
    best = best_peer(comparison)
    rows: list[tuple[str, ...]] = []
    for each in comparison["contestants"]:
        if each["median"] is None:
            continue
        ratio = each["ratio"]
        rows.append(
            (
                label(comparison) if not rows else "",
                each["name"] + (" (best peer)" if best is each else ""),
                number(each["median"]),
                f"{number(each['low'])} to {number(each['high'])}",
                f"x {number(ratio['median'])}" if ratio else "",
                f"{number(ratio['low'])} to {number(ratio['high'])}" if ratio else "",
            )
        )
    return rows
