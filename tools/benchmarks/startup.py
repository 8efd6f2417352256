"""How long the tools take to say anything: `--help` of each, and `publish.py --dry-run`, beside a Python that does nothing.

section = measure(Settings())
"""

import functools
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from tools.benchmarks import measuring
from tools.benchmarks.measuring import BenchmarkError, Contestant
from tools.benchmarks.rows import OURS

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEER = "python -c pass"


@dataclass(frozen=True)
class Settings:
    """How to measure; `report(text)` tells what is being done."""

    turns: int = 5
    threads: int = 2
    report: Callable[[str], None] = lambda text: None


def commands() -> list[str]:
    """The command lines, without the Python before them: every tool's `--help`, and the plan of everything."""
    tools = sorted(file.name for file in (ROOT / "tools").glob("*.py") if '"__main__"' in file.read_text("utf-8"))
    return [f"tools/{name} --help" for name in tools] + ["tools/publish.py --dry-run"]


def measure(settings: Settings) -> dict:
    """The report's section: each command beside a Python that does nothing, which is the least that can be."""
    comparisons = []
    for line in commands():
        turns = measuring.take_turns(
            {OURS: functools.partial(_seconds, line.split()), PEER: functools.partial(_seconds, ["-c", "pass"])},
            turns=settings.turns,
            report=lambda turn, name, line=line: settings.report(f"{line}: turn {turn + 1}"),
        )
        contestants = [Contestant(name, tuple(values), name == OURS) for name, values in turns.items()]
        comparisons.append(measuring.compare("start-up", line, "s", "less", contestants))
    return measuring.section(
        comparisons,
        threads=settings.threads,
        versions=measuring.versions(()),
        settings={"turns": settings.turns},
    )


def _seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise BenchmarkError(
            f"{' '.join(arguments)} ended with {done.returncode}: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
        )
    return time.perf_counter() - start
