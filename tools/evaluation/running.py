"""Evaluate the shards that are missing, here or in a pipeline, and add them up.

    plan = make_plan(modules, images, options...)
    totals = run_here(plan, State("/tmp/state", plan), cache=..., report=print)

A shard is counted in one process and stored as one object, whole or not at all, under its number: whatever is killed whenever,
and however often a shard is evaluated, it is counted once. The name of the state covers everything that decides the counts.
"""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.evaluation import EvaluationError
from tools.evaluation.counts import Totals
from tools.evaluation.images import Images
from tools.evaluation.labels import Labels, Mapping, match
from tools.evaluation.modules import EvaluatedModule, unpacked
from tools.hub.json_objects import REMOTE_READERS
from tools.hub.storage import NotThere, Storage

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = 1  # of what is stored; another number makes what was stored before invisible
ATTEMPTS = 3  # of a pipeline, in a row, that evaluate no shard
STALL_SECONDS = 1800.0  # a pipeline that stores nothing for so long is given up
POLL_SECONDS = 0.5

Report = Callable[[int, int], None]


class BadImages(EvaluationError):
    """Images that cannot be evaluated, whoever tries: the message names each."""


@dataclass(frozen=True)
class Plan:
    """What is evaluated: `setup` is what the process is told that evaluates, `shards` are its orders, `key` names the counts."""

    modules: list[EvaluatedModule]
    images: Images
    classes: Labels
    mappings: list[Mapping]
    setup: dict[str, Any]
    shards: list[dict[str, Any]]
    key: str
    skip_broken: bool


def make_plan(
    modules: list[EvaluatedModule],
    images: Images,
    *,
    outputs: str | None = None,
    missing: str = "refuse",
    batch: int = 32,
    threads: int = 4,
    skip_broken: bool = False,
) -> Plan:
    """Bring modules and images together. Raises EvaluationError, with a line for each module that the labels do not fit."""
    from tools.evaluation.worker import versions

    problems, mappings = [], []
    classes = images.classes
    if classes is None:  # labels are numbers of the outputs, so these must mean the same everywhere
        first = modules[0]
        classes = first.labels or numbered(first.outputs)
        for other in modules[1:]:
            if (other.labels or numbered(other.outputs)).ids != classes.ids:
                problems.append(
                    f"{first.title} and {other.title} have different classes; say which the labels mean: --labels NAME"
                )
    for module in modules:
        try:
            names = module.labels or numbered(module.outputs)
            mappings.append(match(classes, names, outputs=outputs, missing=missing))
        except EvaluationError as error:
            problems.append(f"{module.title}: {error}")
    if problems:
        raise EvaluationError("\n".join(problems))
    setup = {
        "modules": [
            {
                "archive": module.archive,
                "sha256": module.sha256,
                "outputs": module.outputs,
                "columns": mapping.columns,
                "allowed": mapping.allowed,
            }
            for module, mapping in zip(modules, mappings, strict=True)
        ],
        "classes": len(classes),
        "ids": classes.ids,
        "batch": batch,
    }
    decisive = [
        SCHEMA,
        versions(),
        [{key: value for key, value in each.items() if key != "archive"} for each in setup["modules"]],
        [images.source, classes.ids, batch, images.digest, [_extent(shard) for shard in images.shards]],
    ]
    key = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()
    setup |= {"threads": threads, "skip_broken": skip_broken}
    return Plan(modules, images, classes, mappings, setup, images.shards, key, skip_broken)


def numbered(count: int) -> Labels:
    """The classes of a module that nobody named."""
    numbers = tuple(map(str, range(count)))
    return Labels(f"{count} numbers", numbers, numbers)


def _extent(shard: dict[str, Any]) -> list:
    """How much of the images a shard is; which they are is in the digest of the list."""
    return [len(shard["items"])] if "items" in shard else [shard["start"], shard["end"]]


@dataclass
class State:
    """Where shards are stored: below `url`, a folder or any URL that fsspec knows, under the plan's `key`.

    A shard's name has its stamp: when images were replaced, their shards are evaluated again, and no other.
    """

    url: str
    key: str
    stamps: list[str]
    skip_broken: bool = False

    def __post_init__(self):
        self._storage = Storage(self.url)

    def path(self, number: int) -> str:
        """Of the counts of a shard, below `url`."""
        return f"{self.key[:32]}/shard-{number:06d}-{self.stamps[number][:16]}.json"

    def done(self) -> int:
        """How many shards are stored."""
        expected = {self.path(number) for number in range(len(self.stamps))}
        return len(expected.intersection(self._storage.list(f"{self.key[:32]}/shard-", ".json")))

    def read(self, number: int) -> Totals | None:
        """The counts of a shard, None if it is not stored, or with images that are skipped no longer."""
        try:
            stated = json.loads(self._storage.read(self.path(number)))
        except NotThere:
            return None
        totals = Totals.read(stated)
        return None if totals.broken and not self.skip_broken else totals

    def keep(self, number: int, totals: Totals) -> None:
        """Store the counts of a shard; evaluated twice, it is still one."""
        self._storage.replace(self.path(number), json.dumps(totals.described()).encode())

    def keep_sum(self, totals: Totals) -> None:
        """Store what a pipeline added up."""
        self._storage.replace(f"{self.key[:32]}/sum.json", json.dumps(totals.described()).encode())

    def read_sum(self) -> Totals:
        """What a pipeline added up."""
        return Totals.read(json.loads(self._storage.read(f"{self.key[:32]}/sum.json")))

    def order(self, shards: list[dict[str, Any]]) -> None:
        """Store what the shards are, where workers find it: a pipeline's description must stay small, a list of images is not."""
        with ThreadPoolExecutor(1 if self._storage.is_local else REMOTE_READERS) as pool:
            written = [
                pool.submit(self._storage.replace, self._order(number), json.dumps(shard).encode())
                for number, shard in enumerate(shards)
            ]
            for each in written:
                each.result()

    def ordered(self, number: int) -> dict[str, Any]:
        """What a shard is."""
        return json.loads(self._storage.read(self._order(number)))

    def _order(self, number: int) -> str:
        return f"{self.key[:32]}/order-{number:06d}.json"

    def evaluated(self, number: int, engine: "Engine", shard: dict[str, Any] | None = None) -> Totals:
        """The counts of a shard: those that are stored, or new ones, which are stored then. Bad images are a problem in them."""
        totals = self.read(number)
        if totals is None:
            try:
                totals = engine.evaluate(shard or self.ordered(number))
            except BadImages as error:
                return Totals(problems=str(error).splitlines())
            self.keep(number, totals)
        return totals


class Engine:
    """The process with TensorFlow, `tools.evaluation.worker`: started for the first shard, it loads the modules once for all."""

    def __init__(self, setup: dict[str, Any], cache: Path):
        self._setup, self._cache = setup, cache
        self._process: subprocess.Popen | None = None
        self._log = None
        self._about: dict[str, Any] = {}
        self._lock = threading.Lock()

    def evaluate(self, shard: dict[str, Any]) -> Totals:
        """The counts of a shard; several threads take turns.

        Raises BadImages; EvaluationError: the process ended, and the next call starts another.
        """
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            answer = self._ask(shard)
        known = {"shards": 1, "versions": [self._about["versions"]], "devices": [self._about["device"]], "problems": []}
        return Totals.read(answer | known)

    def close(self) -> None:
        """End the process; nothing is lost with it."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

    def _start(self) -> None:
        modules = []
        for each in self._setup["modules"]:
            folder = unpacked(each["archive"], each["sha256"], cache=self._cache)
            kept = {key: each[key] for key in ("outputs", "columns", "allowed")}
            modules.append({"directory": str(folder), **kept})
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tools.evaluation.worker"],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self._about = self._ask(self._setup | {"modules": modules})

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line.endswith(b"\n"):
            raise EvaluationError(self._end())
        answer = json.loads(line)
        if "error" in answer:
            raise BadImages(answer["error"])
        return answer

    def _end(self) -> str:
        """Why the process ended."""
        self._process.kill()
        code = self._process.wait()
        self._log.seek(0)
        lines = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        if code < 0:
            memory = " (out of memory?)" if code == -signal.SIGKILL else ""
            return f"the process that runs the modules was killed by signal {-code}{memory}; the same command goes on from here"
        return "the process that runs the modules failed; the same command goes on from here:\n" + "\n".join(lines[-5:])


def run_here(plan: Plan, state: State, *, cache: Path, report: Report = lambda done, images: None) -> Totals:
    """Evaluate the missing shards on this machine, in order. `report` gets the shards that are done, and their images.

    Raises EvaluationError: images are bad (all others are done first), or the process that runs the modules ended.
    """
    totals = Totals()
    engine = Engine(plan.setup, cache)
    try:
        for number, shard in enumerate(plan.shards):
            totals.add(state.evaluated(number, engine, shard))
            report(number + 1, totals.images)
    finally:
        engine.close()
    return complete(totals, plan)


def run_pipeline(
    plan: Plan,
    state: State,
    *,
    runner: str,
    arguments: list[str],
    cache: Path,
    report: Report = lambda done, images: None,
    notice: Callable[[str], None] = lambda text: None,
    stall_seconds: float = STALL_SECONDS,
) -> Totals:
    """Evaluate the missing shards as an Apache Beam pipeline, again for those that are left when it fails, and add all up.

    `notice` gets a sentence when a pipeline failed and the next one goes on. Raises EvaluationError: images are bad, or several
    pipelines in a row evaluated nothing.
    """
    fruitless = 0
    state.order(plan.shards)
    order = {
        "setup": plan.setup,
        "state": {"url": state.url, "key": state.key, "stamps": state.stamps, "skip_broken": state.skip_broken},
        "cache": str(cache),
    }
    with tempfile.TemporaryDirectory(prefix="hubpress-evaluate-") as scratch:
        file = Path(scratch) / "order.json"
        file.write_text(json.dumps(order))
        while True:
            before = state.done()
            reason = _pipeline([str(file), f"--runner={runner}", *arguments], state, report, stall_seconds)
            if reason is None:
                return complete(state.read_sum(), plan)
            done = state.done()
            fruitless = 0 if done > before else fruitless + 1
            if fruitless == ATTEMPTS:
                raise EvaluationError(
                    f"the pipeline failed {ATTEMPTS} times in a row, {done} of {len(state.stamps)} shards are done:\n{reason}\n"
                    "put that right; the same command goes on from here"
                )
            why = reason.splitlines()[-1].rstrip(".")
            notice(
                f"the pipeline failed ({why}); {done} of {len(state.stamps)} shards are done, another takes those that are left"
            )


def _pipeline(arguments: list[str], state: State, report: Report, stall_seconds: float) -> str | None:
    """Run one pipeline in a process group of its own, and end all of it; None, or why it failed."""
    start = "import sys; from tools.evaluation import pipeline; sys.exit(pipeline.main(sys.argv[1:]))"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-c", start, *arguments],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            done, since, pause = -1, time.monotonic(), POLL_SECONDS
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(pause)
                asked = time.monotonic()
                if (now := state.done()) != done:
                    done, since = now, time.monotonic()
                    report(done, 0)
                elif time.monotonic() - since > stall_seconds:
                    return f"it stored nothing for {stall_seconds:.0f} s"
                pause = max(
                    POLL_SECONDS, 10 * (time.monotonic() - asked)
                )  # a remote list must not be asked all the time
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its workers with it
            process.stdin.close()
            process.wait()
        if process.returncode == 0:
            return None
        log.seek(0)
        lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith((" ", "INFO:", "WARNING:", "DEBUG:"))]
    return "\n".join((told or lines or [f"exit status {process.returncode}"])[-5:])


def complete(totals: Totals, plan: Plan) -> Totals:
    """The sum itself, if every shard is in it exactly once. Raises EvaluationError."""
    if totals.problems:
        skip = (
            ""
            if plan.skip_broken
            else "\nrepair or remove them; --skip-broken counts and leaves out what cannot be decoded"
        )
        raise BadImages("\n".join(totals.problems) + skip)
    count = plan.images.count
    if totals.shards != len(plan.shards) or count not in (None, totals.images + totals.broken):
        raise EvaluationError(
            f"{totals.shards} of {len(plan.shards)} shards with {totals.images + totals.broken} of {count} images were counted; "
            "the images changed meanwhile: run the same command again"
        )
    if not totals.images:
        raise EvaluationError(f"{plan.images.source}: none of the images can be decoded; give others")
    return totals
