"""Turns, medians and ratios, the machine they were measured on, and the report that holds them.

    turns = take_turns({"hubpress": measure_ours, "peer": measure_theirs}, turns=5)      # ours, peer, ours, peer, ...
    comparison = compare("convnext_tiny_1k_224", "batch 8", "images/s", "more", [Contestant("hubpress", turns["hubpress"]), ...])
    update(pathlib.Path("benchmarks.json"), "inference", section([comparison], packages=("tensorflow",)))

The report's format, and what its readers ask of it, is in `tools.site.benchmark_report`.
"""

import datetime
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tools.site.benchmark_report import BETTER, empty_report, report_problems


class BenchmarkError(RuntimeError):
    """Nothing could be measured; the message says why and what to do."""


@dataclass(frozen=True)
class Contestant:
    """One of those who are compared: the values of its turns, or why it is `absent`."""

    name: str
    turns: tuple[float, ...] = ()
    ours: bool = False
    absent: str | None = None


def take_turns(
    contestants: Mapping[str, Callable[[], Any]],
    *,
    turns: int,
    report: Callable[[int, str], None] = lambda turn, name: None,
    patience: float = math.inf,
) -> dict[str, list[Any]]:
    """Call each in order, and all of them again, `turns` times: what drifts meets everybody. Their answers by name.

    A contestant whose first turn takes longer than `patience` seconds has no other: noise is small beside it.
    """
    if turns < 1:
        raise BenchmarkError(f"{turns} turns measure nothing; give at least 1")
    answers: dict[str, list[Any]] = {name: [] for name in contestants}
    waiting = dict(contestants)
    for turn in range(turns):
        for name, measure in list(waiting.items()):
            report(turn, name)
            start = time.perf_counter()
            answers[name].append(measure())
            if time.perf_counter() - start > patience:
                del waiting[name]
    return answers


def spread(values: Iterable[float]) -> dict[str, float]:
    """`median`, and `low` and `high`, the quartiles between the values themselves."""
    found = sorted(values)
    if not found or not all(math.isfinite(value) for value in found):
        raise BenchmarkError(f"{found} have no median; measure again")
    if len(found) == 1:
        return dict.fromkeys(("median", "low", "high"), found[0])
    low, _, high = statistics.quantiles(found, n=4, method="inclusive")
    return {"median": statistics.median(found), "low": low, "high": high}


def compare(subject: str, case: str, unit: str, better: str, contestants: list[Contestant]) -> dict[str, Any]:
    """A comparison as the report holds it; the first contestant is ours, whom the others' ratios are about."""
    if better not in BETTER:
        raise BenchmarkError(f"{better!r} is not how values are better; that is one of {', '.join(BETTER)}")
    first = contestants[0]
    if not first.ours or first.absent:
        raise BenchmarkError(
            f"{subject}, {case}: the first contestant is {first.name}, and ours must be, and be measured"
        )
    described = []
    for contestant in contestants:
        values = list(contestant.turns)
        entry = {"name": contestant.name, "ours": contestant.ours, "absent": contestant.absent, "turns": values}
        entry |= dict.fromkeys(("median", "low", "high", "ratio"))
        if contestant.absent is None:
            entry |= spread(values)
            if contestant is not first:
                entry["ratio"] = spread(_ratios(first.turns, values, better))
        described.append(entry)
    return {"subject": subject, "case": case, "unit": unit, "better": better, "contestants": described}


def _ratios(ours: Iterable[float], theirs: Iterable[float], better: str) -> list[float]:
    """Turn by turn; where one has fewer turns (what never varies is taken once), its median stands for all."""
    ours, theirs = list(ours), list(theirs)
    if len(ours) != len(theirs):
        ours, theirs = [statistics.median(ours)], [statistics.median(theirs)]
    pairs = zip(ours, theirs, strict=True) if better == "more" else zip(theirs, ours, strict=True)
    return [above / below for above, below in pairs]


def machine(threads: int) -> dict[str, Any]:
    """What was measured on; `threads` is what each engine was given."""
    return {
        "cpu": cpu(),
        "cores": os.cpu_count() or 1,
        "threads": threads,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
    }


def cpu() -> str:
    """The processor as the system names it."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, named), platform.processor() or platform.machine())


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of Python and of those `packages` that are installed here."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def now() -> str:
    """ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def section(
    comparisons: list[dict[str, Any]],
    *,
    threads: int,
    versions: dict[str, str],
    settings: dict[str, Any],
    notes: Iterable[str] = (),
) -> dict[str, Any]:
    """What a command puts into the report."""
    return {
        "date": now(),
        "machine": machine(threads),
        "versions": versions,
        "settings": settings,
        "notes": list(notes),
        "comparisons": comparisons,
    }


def read(path: pathlib.Path) -> dict[str, Any]:
    """The report in a file; an empty one if there is none.

    Raises:
      BenchmarkError: the file is no report.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return empty_report()
    except ValueError as error:
        raise BenchmarkError(f"{path} is no JSON: {error}. Delete it, and measure again.") from error
    if wrong := report_problems(found):
        raise BenchmarkError(f"{path} is no report of measurements: {'; '.join(wrong)}. Delete it, and measure again.")
    return found


def update(path: pathlib.Path, command: str, found: dict[str, Any]) -> dict[str, Any]:
    """Put a command's section into the report at `path`, which is written anew in one step; returns the whole."""
    report = read(path)
    report["sections"][command] = found
    if wrong := report_problems(report):
        raise BenchmarkError(f"{command}: {'; '.join(wrong)}")
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(report, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(path)
    return report
