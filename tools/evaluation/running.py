"""Evaluate the shards that are missing, here or in a pipeline, and add them up.

    plan = make_plan(modules, images, ...)
    totals = run_here(plan, State("/tmp/state", plan.key, plan.images.stamps), cache=..., report=print)

A shard is counted in one process and stored as one object, whole or not at all, under its number: whatever is killed whenever,
and however often a shard is evaluated, it is counted once. The name of the state covers everything that decides the counts.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

from tools.common.files import ROOT
from tools.common.problems import with_fix
from tools.common.workers import Worker, WorkerError, WorkerRefusal
from tools.evaluation import MAX_BYTES, MAX_PIXELS, BadImagesError, EvaluationError
from tools.evaluation.counts import Summary, Totals, summary
from tools.evaluation.labels import ClassMapping, Labels, match
from tools.evaluation.modules import EvaluatedModule, fetch_to_cache, unpack_to_cache
from tools.evaluation.shards import Images, Shard, extent
from tools.hub.json_objects import REMOTE_READERS
from tools.hub.storage import NotThere, Storage

if TYPE_CHECKING:
    from tools.evaluation.worker import ModuleArguments

SCHEMA = 2  # of what is stored; another number makes what was stored before invisible
ATTEMPTS = 3  # of a pipeline, in a row, that evaluate no shard
STALL_SECONDS = 1800.0  # a pipeline that stores nothing for so long is given up
POLL_SECONDS = 0.5

Report = Callable[[int, int], None]  # called with the shards that are done, and their images


def no_report(done: int, images: int) -> None:
    """Report nothing."""


class ModuleSetup(TypedDict):
    """A module as workers are told of it, wherever they run; `columns` and `allowed` are those of its `ClassMapping`."""

    archive: str
    sha256: str
    outputs: int
    columns: tuple[int, ...] | None
    allowed: tuple[int, ...] | None
    format: NotRequired[str]  # of a file for another runtime


class Setup(TypedDict):
    """The setup of workers that evaluate shards: the arguments of `tools.evaluation.worker.Evaluator`, but for the folders."""

    modules: list[ModuleSetup]
    ids: tuple[str, ...]
    names: tuple[str, ...]
    batch: int
    threads: int
    skip_broken: bool
    max_pixels: int
    max_bytes: int


class StateArguments(TypedDict):
    """The arguments of `State`."""

    url: str
    key: str
    stamps: list[str]
    skip_broken: bool


class Order(TypedDict):
    """The order of a pipeline, ORDER.json."""

    setup: Setup
    state: StateArguments
    cache: str


@dataclass(frozen=True)
class Plan:
    """An evaluation: modules on images.

    Attributes:
      modules: the modules.
      images: the labelled images.
      classes: the classes that their labels are of.
      mappings: for each module the logits that stand for these classes.
      setup: of the workers.
      key: the name of the counts, which covers everything that decides them.
    """

    modules: list[EvaluatedModule]
    images: Images
    classes: Labels
    mappings: list[ClassMapping]
    setup: Setup
    key: str

    @property
    def shards(self) -> list[Shard]:
        """The pieces of the images."""
        return self.images.shards

    @property
    def skip_broken(self) -> bool:
        """True if images that cannot be used are counted and left out."""
        return self.setup["skip_broken"]

    def summaries(self, totals: Totals) -> list[Summary]:
        """Compute the results of each module from the sum of all shards."""
        return [
            summary(tally, totals.images, self.classes, mapping.columns, module.classes)
            for tally, mapping, module in zip(totals.modules, self.mappings, self.modules, strict=True)
        ]


def make_plan(
    modules: list[EvaluatedModule],
    images: Images,
    *,
    outputs: str | None = None,
    missing: str = "refuse",
    batch: int = 32,
    threads: int = 4,
    skip_broken: bool = False,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
) -> Plan:
    """Plan the evaluation of modules on images.

    `outputs` and `missing` are those of `tools.evaluation.labels.match`. Raises EvaluationError, with a line for each module that
    the labels do not fit.
    """
    from tools.evaluation.worker import versions

    problems: list[str] = []
    mappings: list[ClassMapping] = []
    classes = images.classes
    if classes is None:  # labels are numbers of the outputs, so these must mean the same everywhere
        first = modules[0]
        classes = first.classes
        problems = [
            with_fix(
                f"{first.title} and {other.title} have different classes", "say which the labels mean: --labels NAME"
            )
            for other in modules[1:]
            if other.classes.ids != classes.ids
        ]
    for module in modules:
        try:
            mappings.append(match(classes, module.classes, outputs=outputs, missing=missing))
        except EvaluationError as error:
            problems.append(f"{module.title}: {error}")
    if problems:
        raise EvaluationError("\n".join(problems))
    told: list[ModuleSetup] = []
    for module, mapping in zip(modules, mappings, strict=True):
        each: ModuleSetup = {
            "archive": module.archive,
            "sha256": module.sha256,
            "outputs": module.outputs,
            "columns": mapping.columns,
            "allowed": mapping.allowed,
        }
        if module.format:
            each["format"] = module.format
        told.append(each)
    setup: Setup = {
        "modules": told,
        "ids": classes.ids,
        "names": classes.names,
        "batch": batch,
        "threads": threads,
        "skip_broken": skip_broken,
        "max_pixels": max_pixels,
        "max_bytes": max_bytes,
    }
    decisive = [
        SCHEMA,
        versions(),
        [{key: value for key, value in each.items() if key != "archive"} for each in setup["modules"]],
        [images.source, classes.ids, batch, max_pixels, max_bytes, images.digest],
        [extent(shard) for shard in images.shards],
    ]
    key = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()
    return Plan(modules, images, classes, mappings, setup, key)


@dataclass
class State:
    """Stored shards: below `url`, a folder or any URL that fsspec knows, under the plan's `key`.

    A shard's name has its stamp: when images were replaced, their shards are evaluated again, and no other.
    """

    url: str
    key: str
    stamps: list[str]
    skip_broken: bool = False

    def __post_init__(self) -> None:
        self._storage = Storage(self.url)
        self.url = self._storage.url  # a folder's is absolute, as workers run in another one

    def path(self, number: int) -> str:
        """Return the path of the counts of a shard, below `url`."""
        return f"{self.key[:32]}/shard-{number:06d}-{self.stamps[number][:16]}.json"

    def done(self) -> int:
        """Return how many shards are stored."""
        expected = {self.path(number) for number in range(len(self.stamps))}
        return len(expected.intersection(self._storage.list(f"{self.key[:32]}/shard-", ".json")))

    def read(self, number: int) -> Totals | None:
        """Read the counts of a shard; None if it is not stored, damaged, or with images that are skipped no longer."""
        try:
            totals = Totals.read(json.loads(self._storage.read(self.path(number))))
        except (NotThere, ValueError, RecursionError, EvaluationError):
            return None  # it is evaluated again, and stored over what is there
        return None if totals.broken and not self.skip_broken else totals

    def store(self, number: int, totals: Totals) -> None:
        """Store the counts of a shard; evaluated twice, it is still one."""
        self._storage.replace(self.path(number), json.dumps(totals.described()).encode())

    def store_sum(self, totals: Totals) -> None:
        """Store the sum that a pipeline made."""
        self._storage.replace(f"{self.key[:32]}/sum.json", json.dumps(totals.described()).encode())

    def read_sum(self) -> Totals:
        """Read the sum that a pipeline made."""
        return Totals.read(json.loads(self._storage.read(f"{self.key[:32]}/sum.json")))

    def store_shards(self, shards: Sequence[Shard]) -> None:
        """Store what the shards are, where workers find it: a pipeline's description must stay small, a list of images is not."""
        with ThreadPoolExecutor(1 if self._storage.is_local else REMOTE_READERS) as pool:
            written = [
                pool.submit(self._storage.replace, self._shard_path(number), json.dumps(shard).encode())
                for number, shard in enumerate(shards)
            ]
            for each in written:
                each.result()

    def read_shard(self, number: int) -> Shard:
        """Read what a shard is."""
        shard: Shard = json.loads(self._storage.read(self._shard_path(number)))
        return shard

    def _shard_path(self, number: int) -> str:
        return f"{self.key[:32]}/order-{number:06d}.json"

    def evaluate(self, number: int, worker: "EvaluationWorker", shard: Shard | None = None) -> Totals:
        """Return the counts of a shard: stored ones, or new ones, which are stored then. Bad images are a problem in them."""
        totals = self.read(number)
        if totals is None:
            try:
                totals = worker.evaluate(shard or self.read_shard(number))
            except BadImagesError as error:
                return Totals(problems=str(error).splitlines())
            self.store(number, totals)
        return totals


class EvaluationWorker:
    """The process with TensorFlow, `tools.evaluation.worker`: started for the first shard, it loads the modules once for all."""

    def __init__(self, setup: Setup, cache: Path):
        self._setup, self._cache = setup, cache.absolute()  # the process runs in another folder
        self._worker: Worker | None = None
        self._lock = threading.Lock()

    def evaluate(self, shard: Shard) -> Totals:
        """Count a shard; several threads take turns.

        Raises BadImagesError; EvaluationError: the process ended, and the next call starts another.
        """
        with self._lock:
            try:
                if self._worker is None or not self._worker.is_alive:
                    self._worker = self._start()
                return Totals.read(self._worker.request(shard))
            except WorkerRefusal as error:
                raise BadImagesError(str(error)) from error
            except WorkerError as error:
                raise EvaluationError(
                    f"the process that runs the modules ended: {error}",
                    "run the same command again: it goes on from here",
                ) from error

    def close(self) -> None:
        """End the process; nothing is lost with it."""
        if self._worker:
            self._worker.close()

    def _start(self) -> Worker:
        self.close()
        modules: list[ModuleArguments] = [
            {
                "directory": str(_get(each, self._cache)),
                "outputs": each["outputs"],
                "columns": each["columns"],
                "allowed": each["allowed"],
                "format": each.get("format"),
            }
            for each in self._setup["modules"]
        ]
        worker = Worker("tools.evaluation.worker")
        try:
            worker.request({**self._setup, "modules": modules})
        except BaseException:
            worker.close()
            raise
        return worker


def _get(module: ModuleSetup, cache: Path) -> Path:
    """Return the folder of a module, or its file for another runtime; what is not in the cache is downloaded."""
    get = fetch_to_cache if module.get("format") else unpack_to_cache
    return get(module["archive"], module["sha256"], cache=cache)


def run_here(plan: Plan, state: State, *, cache: Path, report: Report = no_report) -> Totals:
    """Evaluate the missing shards on this machine, in order, and add all up.

    Raises EvaluationError: images are bad (all others are done first), or the process that runs the modules ended.
    """
    totals = Totals()
    with contextlib.closing(EvaluationWorker(plan.setup, cache)) as worker:
        for number, shard in enumerate(plan.shards):
            totals.add(state.evaluate(number, worker, shard))
            report(number + 1, totals.images)
    return complete(totals, plan)


def require_pipeline(plan: Plan, *, runner: str, state: str | None, images: Sequence[str]) -> None:
    """Check, before hours are spent, that Apache Beam is here and that `runner`'s workers can reach state, images and modules.

    Raises EvaluationError: Beam is missing, or something is a local file that workers elsewhere do not see.
    """
    if importlib.util.find_spec("apache_beam") is None:
        fix = "run `python -m pip install 'apache-beam>=2.60'` (the extra `beam`)"
        raise EvaluationError("--runner needs Apache Beam", fix)
    if runner == "DataflowRunner":
        places = {"--state": state or "", "--images": next((each for each in images if "://" not in each), "://")}
        places |= {f"the module {each.title}": each.archive for each in plan.modules}
        if local := [name for name, place in places.items() if "://" not in place]:
            raise EvaluationError(
                "workers of Dataflow do not see this machine's files", f"give {', '.join(local)} as a URL"
            )


def run_pipeline(
    plan: Plan,
    state: State,
    *,
    runner: str,
    arguments: list[str],
    cache: Path,
    report: Report = no_report,
    notice: Callable[[str], None] = lambda text: None,
    stall_seconds: float = STALL_SECONDS,
) -> Totals:
    """Evaluate the missing shards as an Apache Beam pipeline, again for those that are left when it fails, and add all up.

    `notice` gets a sentence when a pipeline failed and the next one goes on. Raises EvaluationError: images are bad, or several
    pipelines in a row evaluated nothing.
    """
    fruitless = 0
    state.store_shards(plan.shards)
    order: Order = {
        "setup": plan.setup,
        "state": {"url": state.url, "key": state.key, "stamps": state.stamps, "skip_broken": state.skip_broken},
        "cache": str(cache.absolute()),
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
                    f"the pipeline failed {ATTEMPTS} times in a row, {done} of {len(state.stamps)} shards are done:\n{reason}",
                    "correct that, and run the same command again: it goes on from here",
                )
            why = reason.splitlines()[-1].rstrip(".")
            notice(
                f"the pipeline failed ({why}); {done} of {len(state.stamps)} shards are done, another takes those that are left"
            )


def _pipeline(arguments: list[str], state: State, report: Report, stall_seconds: float) -> str | None:
    """Run one pipeline in a process group of its own, and end all of it; return None, or why it failed.

    It is no `Worker`: it answers through the state, and everything that it starts must end with it.
    """
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
                if (stored := state.done()) != done:
                    done, since = stored, time.monotonic()
                    report(done, 0)
                elif time.monotonic() - since > stall_seconds:
                    return f"it stored nothing for {stall_seconds:.0f} s"
                # A remote list must not be asked all the time.
                pause = max(POLL_SECONDS, 10 * (time.monotonic() - asked))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its workers with it
            if process.stdin:
                process.stdin.close()
            process.wait()
        if process.returncode == 0:
            return None
        log.seek(0)
        lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith((" ", "INFO:", "WARNING:", "DEBUG:"))]
    return "\n".join((told or lines or [f"exit status {process.returncode}"])[-5:])


def complete(totals: Totals, plan: Plan) -> Totals:
    """Return the sum itself, if every shard is in it exactly once. Raises EvaluationError."""
    if totals.problems:
        raise BadImagesError("\n".join(totals.problems))
    count, shards = plan.images.count, len(plan.shards)
    if totals.shards != shards or count not in (None, totals.images + len(totals.broken)):
        raise EvaluationError(
            f"{totals.shards} of {shards} shards with {totals.images + len(totals.broken)} of {count} images were counted, because "
            "the images changed meanwhile",
            "run the same command again",
        )
    if not totals.images:
        raise EvaluationError(f"{plan.images.source}: none of the images can be used", "give others")
    return totals
