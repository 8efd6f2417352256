"""Measure in turns, compare by medians and ratios, describe the machine, and keep the report.

    turns = take_turns({"hubpress": measure_ours, "peer": measure_theirs}, turns=5)      # ours, peer, ours, peer, ...
    comparison = compare("convnext_tiny_1k_224", "batch 8", "images/s", "more", [Contestant("hubpress", turns["hubpress"]), ...])
    update(pathlib.Path("benchmarks.json"), "inference", section([comparison], threads=2, ...))

The report's format is described and checked in `tools.site.benchmark_report`.
"""

import importlib.metadata
import json
import math
import os
import pathlib
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tools.common.clock import now
from tools.common.files import ROOT, write_atomically
from tools.common.problems import UsageError, with_fix
from tools.site.benchmark_report import BETTER, empty_report, report_problems

Key = TypeVar("Key")
Result = TypeVar("Result")


class BenchmarkError(RuntimeError):
    """Nothing could be measured; the message says why, and `fix` what to do."""

    def __init__(self, message: str, fix: str = ""):
        super().__init__(with_fix(message, fix) if fix else message)


class NoSuchRowError(UsageError, BenchmarkError):
    """A name is that of no row that can be measured."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a measurement.

    Attributes:
      turns: of each contestant.
      threads: threads and cores of each contestant.
      cache: where modules and checkpoints with random weights are kept.
      report: called with a sentence on what is being done.
    """

    turns: int = 3
    threads: int = 2
    cache: pathlib.Path = pathlib.Path(".")
    report: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class Contestant:
    """A module, tool or library that is compared: the values of its turns, or why it is `absent`."""

    name: str
    turns: tuple[float, ...] = ()
    ours: bool = False
    absent: str | None = None


def run(
    command: Sequence[str | os.PathLike[str]],
    failure: str,
    fix: str,
    *,
    accepted: Container[int] = (0,),
    **variables: str,
) -> str:
    """Run a command in the repository, with environment `variables`; return what it prints.

    Raises:
      BenchmarkError: its exit status is not `accepted`; the message is `failure` with the last line that it said.
    """
    words = [os.fspath(word) for word in command]
    done = subprocess.run(words, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True)
    if done.returncode not in accepted:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise BenchmarkError(f"{failure}: {said}", fix)
    return done.stdout


def take_turns(
    contestants: Mapping[Key, Callable[[], Result]],
    *,
    turns: int,
    report: Callable[[int, Key], None] = lambda turn, key: None,
    patience: float = math.inf,
) -> dict[Key, list[Result]]:
    """Call each contestant in order, and all of them again, `turns` times, so that what drifts meets all of them alike.

    A contestant whose first turn takes longer than `patience` seconds has no other: noise is small beside it.

    Returns:
      The answers of each contestant.
    """
    if turns < 1:
        raise BenchmarkError(f"{turns} turns measure nothing", "give at least 1")
    answers: dict[Key, list[Result]] = {key: [] for key in contestants}
    waiting = dict(contestants)
    for turn in range(turns):
        for key, measure in list(waiting.items()):
            report(turn, key)
            start = time.perf_counter()
            answers[key].append(measure())
            if time.perf_counter() - start > patience:
                del waiting[key]
    return answers


def spread(values: Iterable[float]) -> dict[str, float]:
    """Return the `median`, and `low` and `high`, the quartiles between the values themselves."""
    found = sorted(values)
    if not found or not all(math.isfinite(value) for value in found):
        raise BenchmarkError(f"{found} have no median", "measure again")
    if len(found) == 1:
        return dict.fromkeys(("median", "low", "high"), found[0])
    low, _, high = statistics.quantiles(found, n=4, method="inclusive")
    return {"median": statistics.median(found), "low": low, "high": high}


def compare(subject: str, case: str, unit: str, better: str, contestants: list[Contestant]) -> dict[str, Any]:
    """Return a comparison as the report holds it; the first contestant is ours, whom the others' ratios are about."""
    if better not in BETTER:
        raise BenchmarkError(f"{better!r} is not how values are better", f"give one of {', '.join(BETTER)}")
    first = contestants[0]
    if not first.ours or first.absent:
        raise BenchmarkError(
            f"{subject}, {case}: the first contestant is {first.name}, and ours must be, and be measured",
            "put ours first, and measure it",
        )
    described = []
    for contestant in contestants:
        values = list(contestant.turns)
        entry: dict[str, Any] = {
            "name": contestant.name,
            "ours": contestant.ours,
            "absent": contestant.absent,
            "turns": values,
        }
        entry |= dict.fromkeys(("median", "low", "high", "ratio"))
        if contestant.absent is None:
            entry |= spread(values)
            if contestant is not first:
                entry["ratio"] = spread(_ratios(first.turns, values, better))
        described.append(entry)
    return {"subject": subject, "case": case, "unit": unit, "better": better, "contestants": described}


def _ratios(ours: Iterable[float], theirs: Iterable[float], better: str) -> list[float]:
    """Return ratios turn by turn; where one has fewer turns (what never varies is taken once), its median stands for all."""
    ours, theirs = list(ours), list(theirs)
    if len(ours) != len(theirs):
        ours, theirs = [statistics.median(ours)], [statistics.median(theirs)]
    pairs = zip(ours, theirs, strict=True) if better == "more" else zip(theirs, ours, strict=True)
    return [above / below for above, below in pairs]


def machine(threads: int) -> dict[str, Any]:
    """Describe this machine; `threads` is what each contestant was given."""
    return {
        "cpu": cpu(),
        "cores": os.cpu_count() or 1,
        "threads": threads,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
    }


def cpu() -> str:
    """Return the name of the processor."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, named), platform.processor() or platform.machine())


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python and of those `packages` that are installed here."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def section(
    comparisons: list[dict[str, Any]],
    *,
    threads: int,
    versions: dict[str, str],
    settings: dict[str, Any],
    notes: Iterable[str] = (),
) -> dict[str, Any]:
    """Return a command's section of the report."""
    return {
        "date": now(),
        "machine": machine(threads),
        "versions": versions,
        "settings": settings,
        "notes": list(notes),
        "comparisons": comparisons,
    }


def read(path: pathlib.Path) -> dict[str, Any]:
    """Read the report in a file; an empty one if there is none.

    Raises:
      BenchmarkError: the file is no report.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return empty_report()
    except ValueError as error:
        raise BenchmarkError(f"{path} is no JSON: {error}", "delete it, and measure again") from error
    if wrong := report_problems(found):
        raise BenchmarkError(f"{path} is no report of measurements: {'; '.join(wrong)}", "delete it, and measure again")
    return found


def update(path: pathlib.Path, command: str, found: dict[str, Any]) -> dict[str, Any]:
    """Put a command's section into the report at `path`, which is written anew in one step; return the whole report."""
    report = read(path)
    report["sections"][command] = found
    if wrong := report_problems(report):
        raise BenchmarkError(f"{command}: {'; '.join(wrong)}", "correct tools/benchmarks, and measure again")
    write_atomically(path, json.dumps(report, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return report
