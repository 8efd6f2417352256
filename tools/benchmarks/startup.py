"""Measure how long the tools take to start: `--help` of each, and `publish.py --dry-run`, beside a Python that does nothing.

section = measure(Settings())
"""

import functools
import sys
import time
from typing import Any

from tools.benchmarks import measuring
from tools.benchmarks.measuring import Contestant, Settings
from tools.benchmarks.rows import OURS
from tools.common.files import ROOT

PEER = "python -c pass"


def commands() -> list[str]:
    """Return the command lines, without the Python before them: every tool's `--help`, and the plan of everything."""
    tools = sorted(file.name for file in (ROOT / "tools").glob("*.py") if '"__main__"' in file.read_text("utf-8"))
    return [f"tools/{name} --help" for name in tools] + ["tools/publish.py --dry-run"]


def measure(settings: Settings) -> dict[str, Any]:
    """Measure each command beside a Python that does nothing, which is the least that can be; return the report's section."""
    comparisons = []
    for line in commands():

        def report(turn: int, _name: str, line: str = line) -> None:
            settings.report(f"{line}: turn {turn + 1}")

        turns = measuring.take_turns(
            {OURS: functools.partial(_seconds, line.split()), PEER: functools.partial(_seconds, ["-c", "pass"])},
            turns=settings.turns,
            report=report,
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
    measuring.run([sys.executable, *arguments], f"{' '.join(arguments)} fails", "correct it, and measure again")
    return time.perf_counter() - start
