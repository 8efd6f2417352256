"""The report that `tools/benchmark.py` writes, `benchmarks.json`: its format, and questions that its readers ask.

    report_problems(report)            # [] for a good one
    best_peer(comparison)["name"]

The report is
    {"schema": 1, "kind": "Benchmarks", "sections": {COMMAND: SECTION}}
and a command replaces its own section only. SECTION is
    {"date": ISO 8601 in UTC, "machine": {"cpu", "cores", "threads", "memory_bytes", "system"}, "versions": {package: version},
     "settings": {what was asked for}, "notes": [sentences that a reader needs], "comparisons": [COMPARISON, ...]}
COMPARISON is ("unit" is empty for a number of things)
    {"subject", "case", "unit", "better": "more" or "less", "contestants": [CONTESTANT, ...]}, ours first, and CONTESTANT is
    {"name", "ours": bool, "absent": why it was not measured, or null, "turns": [values in order],
     "median", "low", "high": quartiles, "ratio": {"median", "low", "high"} or null}
Ratios are taken turn by turn against the first contestant and say how many times as good as the peer ours is: above 1 is ahead,
whichever way `better` points. With one turn, or where nothing varies, low and high are the median.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from tools.common.schemas import schema_problems

SCHEMA = 1
KIND = "Benchmarks"
BETTER = ("more", "less")


def empty_report() -> dict[str, Any]:
    """Return a report without sections."""
    return {"schema": SCHEMA, "kind": KIND, "sections": {}}


def best_peer(comparison: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the contestant that is not ours and has the best median; None if no peer was measured."""
    peers = [each for each in comparison["contestants"] if not each["ours"] and each["median"] is not None]
    choose = max if comparison["better"] == "more" else min
    return choose(peers, key=lambda peer: peer["median"], default=None)


def label(comparison: Mapping[str, Any]) -> str:
    """Return what was measured, with its unit."""
    return ", ".join(filter(None, (comparison["case"], comparison["unit"])))


def absent(comparisons: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return who was not measured, and why: by name, with the cases in brackets if it was measured in others."""
    cases: dict[tuple[str, str], list[str]] = {}
    measured = set()
    for comparison in comparisons:
        for each in comparison["contestants"]:
            if each["absent"] is None:
                measured.add(each["name"])
            else:
                cases.setdefault((each["name"], each["absent"]), []).append(comparison["case"])
    return {
        f"{name} ({', '.join(dict.fromkeys(found))})" if name in measured else name: why
        for (name, why), found in cases.items()
    }


def report_problems(report: Any) -> list[str]:
    """Return what breaks `templates/static/benchmarks.schema.json`, where in the report and what; [] if nothing does."""
    return schema_problems(report, "benchmarks")
