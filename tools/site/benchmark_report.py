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

import math
from collections.abc import Iterable, Mapping
from typing import Any

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
    """Return what breaks the format, in a few words each; [] if nothing does."""
    if not isinstance(report, dict) or report.get("kind") != KIND or report.get("schema") != SCHEMA:
        return [f'it does not say "kind": "{KIND}" and "schema": {SCHEMA}']
    if not isinstance(report.get("sections"), dict):
        return ["it has no sections"]
    found = []
    for command, section in report["sections"].items():
        if wrong := _lacks(section, _SECTION) or _lacks(section["machine"], _MACHINE):
            found.append(f"sections.{command} {wrong}")
            continue
        for index, comparison in enumerate(section["comparisons"]):
            if wrong := _lacks(comparison, _COMPARISON) or _unequal(comparison):
                found.append(f"sections.{command}.comparisons[{index}] {wrong}")
    return found


_SECTION = {"date": str, "machine": dict, "versions": dict, "settings": dict, "notes": list, "comparisons": list}
_MACHINE = {"cpu": str, "cores": int, "threads": int, "memory_bytes": int, "system": str}
_COMPARISON = {"subject": str, "case": str, "unit": str, "better": str, "contestants": list}


def _lacks(value: Any, keys: Mapping[str, type]) -> str | None:
    if not isinstance(value, dict):
        return "is no mapping"
    wrong = [key for key, kind in keys.items() if not isinstance(value.get(key), kind)]
    return f"lacks {', '.join(wrong)}, or has it of another type" if wrong else None


def _unequal(comparison: Mapping[str, Any]) -> str | None:
    if comparison["better"] not in BETTER:
        return f"has better = {comparison['better']!r}, not one of {', '.join(BETTER)}"
    if not comparison["contestants"]:
        return "has no contestants"
    for index, each in enumerate(comparison["contestants"]):
        if wrong := _lacks(each, {"name": str, "ours": bool, "turns": list}):
            return f"has a contestant that {wrong}"
        first, absent = index == 0, each.get("absent") is not None
        if first and (not each["ours"] or absent):
            return "does not begin with ours"
        if not absent and not (_is_spread(each) and (first or _is_spread(each.get("ratio")))):
            return f"has no numbers for {each['name']}"
    return None


def _is_spread(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(value.get(key), int | float) and math.isfinite(value[key]) and value[key] >= 0
        for key in ("median", "low", "high")
    )
