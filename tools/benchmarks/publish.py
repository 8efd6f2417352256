"""Measure publishing: time for each stage, CPU time, memory of the building and checking processes; beside `cp` and sha256.

    section = measure(["convnext_tiny_1k_224"], Settings(cache=...))

Each turn publishes a row from a checkpoint with random weights, classifier and feature extractor, into an empty folder hub with an
empty cache, then copies the published archives with `cp` and hashes the copy: what no publisher can do without.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import resource
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypedDict

from tools import catalog
from tools.benchmarks import measuring, synthesise
from tools.benchmarks.measuring import BenchmarkError, Contestant, Settings
from tools.benchmarks.rows import OURS, row_of
from tools.catalog.layout import archive_path
from tools.common.files import sha256_of_file
from tools.hub.storage import Storage
from tools.publishing.transaction import Publishing

PEER = "cp and sha256 of the archives"
SHORTEST_STAGE = 0.005  # of the whole: shorter stages are left out
NOTES = (
    "The peer copies and hashes what was published: it fetches, converts, checks and documents nothing.",
    "A stage is from its announcement to that of the next, so that of stages that overlap the later one counts. Memory is the peak "
    "resident set of a process, with TensorFlow's own 0.5 GB, over the bytes of the checkpoint.",
)


class Cost(TypedDict):
    """The cost of a turn: wall time and CPU time."""

    seconds: float
    cpu_seconds: float


class PublishingCost(Cost):
    """The cost of publishing: also the seconds of each stage, and the peak resident bytes of each process."""

    stages: dict[str, float]
    peak_bytes: dict[str, int]


def measure(names: Iterable[str], settings: Settings) -> dict[str, Any]:
    """Measure the whole beside the peer, each stage, and the memory of the processes; return the report's section."""
    comparisons: list[dict[str, Any]] = []
    for name in names:
        comparisons += _measure_row(row_of(name), settings)
    return measuring.section(
        comparisons,
        threads=settings.threads,
        versions=measuring.versions(("tensorflow", "keras", "tensorflow-hub", "isal", "numpy")),
        settings={"turns": settings.turns},
        notes=NOTES,
    )


def _measure_row(row: str, settings: Settings) -> list[dict[str, Any]]:
    settings.report(f"{row}: make a checkpoint")
    checkpoint = synthesise.checkpoint_of(row, settings.cache)
    with tempfile.TemporaryDirectory(prefix="hubpress-bench-", dir=settings.cache) as folder:
        scratch = pathlib.Path(folder)
        ours: list[PublishingCost] = []

        def publish() -> Cost:
            ours.append(_publish(row, checkpoint, scratch))
            return ours[-1]

        contestants: dict[str, Callable[[], Cost]] = {OURS: publish, PEER: functools.partial(_copy, scratch)}
        turns = measuring.take_turns(
            contestants,
            turns=settings.turns,
            report=lambda turn, name: settings.report(f"{row}: turn {turn + 1}, {name}"),
        )
    comparisons = []
    for case, seconds_of in (("wall time", _wall_seconds), ("CPU time", _cpu_seconds_of)):
        compared = [Contestant(name, tuple(map(seconds_of, costs)), name == OURS) for name, costs in turns.items()]
        comparisons.append(measuring.compare(row, case, "s", "less", compared))

    def alone(case: str, unit: str, values: list[float]) -> None:
        comparisons.append(measuring.compare(row, case, unit, "less", [Contestant(OURS, tuple(values), True)]))

    for stage in dict.fromkeys(stage for each in ours for stage in each["stages"]):
        seconds = [each["stages"].get(stage, 0.0) for each in ours]
        if max(seconds) >= SHORTEST_STAGE * ours[0]["seconds"]:
            alone(f"stage: {stage}", "s", seconds)
    weights = checkpoint.stat().st_size
    for process in dict.fromkeys(process for each in ours for process in each["peak_bytes"]):
        peaks = [each["peak_bytes"].get(process, 0) / weights for each in ours]
        alone(f"peak memory of {process}", f"times the checkpoint's {weights / 1e6:.0f} MB", peaks)
    return comparisons


def _publish(row: str, checkpoint: pathlib.Path, scratch: pathlib.Path) -> PublishingCost:
    """Publish into `scratch/hub`, empty before."""
    for name in ("hub", "cache", "copy"):
        shutil.rmtree(scratch / name, ignore_errors=True)
    rows = catalog.load()
    # Another file than the row's, which may pin a digest that random weights do not have.
    modules = [
        dataclasses.replace(
            module, variant=dataclasses.replace(module.variant, checkpoint=os.fspath(checkpoint.resolve()), sha256=None)
        )
        for module in rows.expand([row])
    ]
    stages: dict[str, float] = {}
    lock, last_stage, last_time = threading.Lock(), "", time.perf_counter()

    def report(_variant: object, stage: str, _done: int | None, _total: int | None) -> None:
        nonlocal last_stage, last_time
        with lock:
            now = time.perf_counter()
            if last_stage:
                stages[last_stage] = stages.get(last_stage, 0.0) + now - last_time
            last_stage, last_time = stage, now

    publishing = Publishing(rows, Storage(scratch / "hub"), "http://bench", scratch / "cache", report=report)
    start, cpu = time.perf_counter(), _cpu_seconds()
    with peak_memory() as peaks:
        results = publishing.run(modules)
    seconds, cpu_seconds = time.perf_counter() - start, _cpu_seconds() - cpu
    if failed := [result.reason for result in results if result.state == "failed"]:
        raise BenchmarkError(f"{row} cannot be published: {failed[0]}")
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "stages": stages, "peak_bytes": dict(peaks)}


def _copy(scratch: pathlib.Path) -> Cost:
    """Copy the archives that were just published with `cp`, and hash the copies."""
    archives = sorted((scratch / "hub").rglob(archive_path("*")))
    copies = scratch / "copy"
    copies.mkdir()
    start, cpu = time.perf_counter(), _cpu_seconds()
    for number, archive in enumerate(archives):
        copy = copies / archive_path(str(number))
        subprocess.run(["cp", "--reflink=never", archive, copy], check=True)
        sha256_of_file(copy)
    return {"seconds": time.perf_counter() - start, "cpu_seconds": _cpu_seconds() - cpu}


def _wall_seconds(cost: Cost) -> float:
    return cost["seconds"]


def _cpu_seconds_of(cost: Cost) -> float:
    return cost["cpu_seconds"]


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and of those that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


@contextlib.contextmanager
def peak_memory(interval: float = 0.02) -> Iterator[dict[str, int]]:
    """Yield the peak resident bytes of the `python -m MODULE` processes below this one while the block runs, by MODULE.

    Read from /proc, where the kernel keeps each process's high-water mark: what is missed is its last `interval` seconds.
    """
    peaks: dict[str, int] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(interval):
            for module, peak in _peaks_below(os.getpid()):
                peaks[module] = max(peak, peaks.get(module, 0))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peaks
    finally:
        done.set()
        watcher.join()


def _peaks_below(pid: int) -> Iterator[tuple[str, int]]:
    for tasks in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError, ValueError):  # a process that has just ended
            for child in map(int, tasks.read_text().split()):
                words = pathlib.Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace").split("\0")
                status = pathlib.Path(f"/proc/{child}/status").read_text()
                marks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
                if "-m" in words and marks:
                    yield words[words.index("-m") + 1], int(marks[0]) * 1024
                yield from _peaks_below(child)
