"""Build a specification: processes with TensorFlow make and check the archives of a row, and a cache keeps them.

    build = get_or_make(spec, cache / "builds", root=catalog.root, report=lambda stage, done, total: print(stage))
    build.archive("classifier"), build.manifest["checked"]["classifier"]

`builders.build` writes a SavedModel for each head. As soon as one is complete, `tools.publishing.check` uses it as a consumer does,
and this process hashes and compresses it, while the next one is still being built: much of each runs on one processor. The heads
of a large network are checked beside each other where memory is plenty. An archive counts when everything has succeeded, and not
before.
"""

import collections
import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

from tools.archive import packing, reading
from tools.catalog import layout
from tools.common.files import discard, make_cache_folder, sha256_of_file, write_atomically
from tools.common.locks import LocksUnsupported, lock
from tools.common.problems import with_fix
from tools.common.workers import Worker, WorkerError
from tools.publishing.specification import ENVIRONMENT, Specification

PREFIX = ".building-"  # of folders where something is being built
MANIFEST = "made.json"
# Half of a check is tracing and graph optimisation, on one processor. A second one pays for importing TensorFlow again from this
# size of a checkpoint on, and may begin where this many times that size is free: it takes three, and others may still grow.
LARGE_BYTES, ROOM_FACTOR = 300_000_000, 8
Report = Callable[[str, int | None, int | None], None]  # stage, bytes done and in all


class BuildError(RuntimeError):
    """A module cannot be made from its row and its checkpoint, or does not do what its page would say."""


class ArchiveFacts(TypedDict):
    """Sizes and digests of an archive, as its record states them."""

    bytes: int
    unpacked_bytes: int
    sha256: str
    content_sha256: str
    md5: str
    members: int


class Manifest(TypedDict):
    """Manifest of a build, `made.json`: its keys, and by head the results of building, checking and packing.

    `built` and `checked` hold what `builders.build` and `tools.publishing.check` write as HEAD.json and HEAD.check.json; `digest`
    is that of all the rest.
    """

    build_key: str
    check_key: str
    built: dict[str, dict[str, Any]]
    checked: dict[str, dict[str, Any]]
    packed: dict[str, ArchiveFacts]
    digest: str


@dataclass(frozen=True)
class Build:
    """A finished build: a folder with an archive for each head, and its manifest."""

    folder: Path
    manifest: Manifest

    def archive(self, head: str) -> Path:
        """Return the file of a head's archive."""
        return self.folder / layout.archive_path(head)


def get_or_make(spec: Specification, builds: Path, *, root: Path, report: Report) -> Build:
    """Return the build of a specification from the cache `builds`, or make it there.

    A build that is not as it was made, in whatever way, is made again. A build that was checked with other code or on other images
    is unpacked and checked again; its archives stay as they are.

    Raises:
      BuildError: see `make`. Where a check fails, the cached build stays, and is checked again by the next run.
    """
    make_cache_folder(builds)
    build = _cached(spec, builds, report)
    if build is None:
        with build_directory(builds) as folder:
            manifest = make(spec, folder, root=root, report=report, logs=builds.parent / "logs")
            build = Build(builds / spec["build"]["key"], manifest)
            try:
                (folder / "finished").rename(build.folder)
            except OSError:  # another process made the same meanwhile
                if not (build.folder / MANIFEST).exists():
                    raise
    elif build.manifest["check_key"] != spec["check"]["key"]:
        with build_directory(builds) as folder:
            build = check_again(spec, build, folder, root=root, report=report, logs=builds.parent / "logs")
    return build


def _cached(spec: Specification, builds: Path, report: Report) -> Build | None:
    """Return the build that the cache holds, or None if there is none; a damaged one is deleted."""
    folder = builds / spec["build"]["key"]
    if not os.path.lexists(folder):
        return None
    report("reuse the build", None, None)
    with contextlib.suppress(OSError, ValueError, RecursionError):
        build = Build(folder, json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
        if is_complete(build.manifest, spec) and all(
            sha256_of_file(build.archive(head)) == build.manifest["packed"][head]["sha256"] for head in spec["heads"]
        ):
            return build
    discard(folder)
    return None


def sealed(manifest: Mapping[str, Any]) -> Manifest:
    """Return a manifest with the digest of all that it says."""
    return cast(Manifest, {**manifest, "digest": _digest(manifest)})


def is_complete(manifest: Any, spec: Specification) -> bool:
    """Return whether a manifest that was read is whole, and that of this build."""
    if not isinstance(manifest, dict) or manifest.get("digest") != _digest(manifest):
        return False
    return bool(manifest["build_key"] == spec["build"]["key"] and manifest["packed"].keys() >= {*spec["heads"]})


def _digest(manifest: Mapping[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def build_directory(builds: Path) -> Iterator[Path]:
    """Yield a new folder below `builds` that is deleted at the end; delete those of killed processes first: they hold gigabytes."""
    builds.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with contextlib.ExitStack() as others_wait:
            with contextlib.suppress(LocksUnsupported):  # nobody can know who is at work: nothing is deleted
                others_wait.enter_context(lock(builds))
                for left in builds.glob(f"{PREFIX}*"):
                    with contextlib.suppress(OSError), lock(left, wait=False):
                        shutil.rmtree(left)
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=builds))
            with contextlib.suppress(LocksUnsupported):
                stack.enter_context(lock(folder, wait=False))
            # Called before the lock ends: nobody else deletes the folder at the same time.
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


def make(spec: Specification, folder: Path, *, root: Path, report: Report, logs: Path) -> Manifest:
    """Build, check and pack all heads of a specification in an empty `folder`.

    Args:
      spec: the specification.
      folder: archives and manifest end up in its folder `finished`.
      root: the repository.
      report: called from several threads, with bytes while a head is packed.
      logs: the folder where the log of a process that crashed is kept.

    Raises:
      BuildError: the build or the check failed; the message is what it said, or where its log is.
      ArchiveError: a SavedModel cannot be packed.
    """
    manifest = _Assembly(spec, folder, root, report, logs).run()
    (folder / "finished" / MANIFEST).write_text(json.dumps(manifest))
    return manifest


def check_again(spec: Specification, build: Build, folder: Path, *, root: Path, report: Report, logs: Path) -> Build:
    """Check the archives of a finished build, unpacked below an empty `folder`, and write what was found into its manifest.

    Arguments are those of `make`.

    Raises:
      BuildError: a check failed; the manifest is as it was.
    """
    processes = _Processes(spec, folder, root, StatusLine(report), logs)
    with processes, ThreadPoolExecutor(1) as pool:
        check = processes.start("tools.publishing.check")
        deleted = {"checked": lambda head: shutil.rmtree(processes.out / head)}
        checking = pool.submit(processes.follow, check, deleted)
        try:
            for head in spec["heads"]:
                (processes.out / f"{head}.json").write_text(json.dumps(build.manifest["built"][head]))
                reading.unpack(build.archive(head), processes.out / head)
                check.send({"head": head})
            check.finish()
            checking.result()
        finally:
            check.kill()
    checked = processes.findings("tools.publishing.check", ".check.json")
    manifest = sealed({**build.manifest, "check_key": spec["check"]["key"], "checked": checked})
    write_atomically(build.folder / MANIFEST, json.dumps(manifest))
    return Build(build.folder, manifest)


def archive_facts(packed: packing.PackedArchive) -> ArchiveFacts:
    """Return what the record of a module states about its archive."""
    return {
        "bytes": packed.size,
        "unpacked_bytes": packed.unpacked_size,
        "sha256": packed.sha256,
        "content_sha256": packed.content_sha256,
        "md5": packed.md5,
        "members": sum(not member.is_folder for member in packed.members),
    }


class StatusLine:
    """The stages in which processes and threads are at this moment, reported as one line, such as "save classifier, pack ..."."""

    def __init__(self, report: Report):
        self._report, self._lock = report, threading.Lock()
        self._stages: dict[str, str] = {}

    def update(self, who: str, stage: str | None, done: int | None = None, total: int | None = None) -> None:
        """Set the stage of a process or thread, or remove it with None; `done` of `total` bytes are handled."""
        with self._lock:
            if stage is None:
                self._stages.pop(who, None)
            else:
                self._stages[who] = stage
            if self._stages:
                self._report(", ".join(self._stages.values()), done, total)


class _Processes:
    """The processes that build and check one specification; a context manager that ends them.

    SPEC.json and the logs lie in `folder`, which is to be empty; the SavedModels in its folder `out`.
    """

    def __init__(self, spec: Specification, folder: Path, root: Path, status: StatusLine, logs: Path):
        self.out, self.status = folder / "out", status
        row = spec["module"]["row"]
        self._kept, self._row = logs / f"{row['stem']}-{row['version']}", f"{spec['file']}: {row['stem']}"
        self._heads, self._folder, self._root = spec["heads"], folder, root
        self._file = folder / "spec.json"
        self._file.write_text(json.dumps(spec))
        self.out.mkdir()
        self._started: list[Worker] = []

    def __enter__(self) -> "_Processes":
        return self

    def __exit__(self, *_exception: object) -> None:
        for worker in self._started:
            worker.close()

    def start(self, module: str) -> Worker:
        """Start a process, `python -m MODULE SPEC.json OUT`."""
        log = self._folder / f"{module}.{len(self._started)}.log"
        kept = self._kept.with_name(f"{self._kept.name}.{module}.log")
        worker = Worker(module, self._file, self.out, root=self._root, environment=ENVIRONMENT, log=log, kept=kept)
        self._started.append(worker)
        return worker

    def follow(self, worker: Worker, events: Mapping[str, Callable[[str], None]]) -> None:
        """Report the stages of a process until it ends, and call `events[event](head)` for its other messages."""
        who = f"{worker.name}.{worker.pid}"
        try:
            for message in worker.messages():
                if message["event"] == "stage":
                    self.status.update(who, message["name"])
                else:
                    events[message["event"]](message["head"])
        except WorkerError as error:
            raise BuildError(str(error)) from None
        finally:
            self.status.update(who, None)

    def kill(self) -> None:
        """End all processes now."""
        for worker in self._started:
            worker.kill()

    def findings(self, module: str, ending: str) -> dict[str, dict[str, Any]]:
        """Return what the processes of `module` wrote about each head, `HEAD` and `ending`.

        Raises:
          BuildError: there is nothing about a head, although they ended without an error.
        """
        found = {}
        for head in self._heads:
            try:
                found[head] = json.loads((self.out / f"{head}{ending}").read_text())
            except (OSError, ValueError):
                message = f"{module} ended without an error and without a result for the {head.replace('_', ' ')}"
                fix = f"correct {module.replace('.', '/')}.py, which must end with an error if it does not finish"
                raise BuildError(f"{self._row}: {with_fix(message, fix)}") from None
        return found


class _Assembly:
    """One run of `make`: the building process in this thread, checks and packing in threads of a pool."""

    def __init__(self, spec: Specification, folder: Path, root: Path, report: Report, logs: Path):
        self._spec, self._finished = spec, folder / "finished"
        self._finished.mkdir()
        self._status = StatusLine(report)
        self._processes = _Processes(spec, folder, root, self._status, logs)
        self._checks: list[Worker] = []
        self._checking: list[Future[None]] = []
        self._packing: dict[str, Future[packing.PackedArchive]] = {}
        self._uses: collections.Counter[str] = collections.Counter()  # of a head's SavedModel: a check, and packing
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._failures: list[Exception] = []

    def run(self) -> Manifest:
        with self._processes, ThreadPoolExecutor(2 * len(self._spec["heads"])) as pool:
            try:
                build = self._processes.start("builders.build")
                self._processes.follow(build, {"built": lambda head: self._built(head, pool)})
                built = self._processes.findings("builders.build", ".json")
                for check in self._checks:
                    check.finish()
                for checking in self._checking:
                    checking.result()
                checked = self._processes.findings("tools.publishing.check", ".check.json")
                packed = {head: archive_facts(self._packing[head].result()) for head in self._spec["heads"]}
            except BuildError as error:
                raise (self._failures[0] if self._failures else error) from None
            finally:
                self._stopped.set()
                self._processes.kill()
        return sealed(
            {
                "build_key": self._spec["build"]["key"],
                "check_key": self._spec["check"]["key"],
                "built": built,
                "checked": checked,
                "packed": packed,
            }
        )

    def _built(self, head: str, pool: ThreadPoolExecutor) -> None:
        """Begin to check and to pack a head."""
        self._packing[head] = pool.submit(self._pack, head)
        if not self._checks or _has_room_for_another(self._spec):
            check = self._processes.start("tools.publishing.check")
            self._checks.append(check)
            self._checking.append(pool.submit(self._follow_check, check))
        self._checks[-1].send({"head": head})

    def _follow_check(self, check: Worker) -> None:
        try:
            self._processes.follow(check, {"checked": self._used})
        except BuildError as error:
            self._give_up(error)
            raise

    def _pack(self, head: str) -> packing.PackedArchive:
        def progress(done: int, total: int | None) -> None:
            if self._stopped.is_set():
                raise BuildError("packing was given up: the build or the check failed")
            self._status.update(f"pack {head}", f"pack {head}", done, total)

        try:
            packed = packing.pack(self._processes.out / head, self._finished / layout.archive_path(head), progress)
        except Exception as error:
            self._give_up(error)
            raise
        finally:
            self._status.update(f"pack {head}", None)
        self._used(head)
        return packed

    def _used(self, head: str) -> None:
        """Delete a SavedModel that is both checked and packed: bytes that never reach the disk cost nothing."""
        with self._lock:
            self._uses[head] += 1
            is_done = self._uses[head] == 2
        if is_done:
            shutil.rmtree(self._processes.out / head)

    def _give_up(self, error: Exception) -> None:
        """Note why the build failed, before any process ends because of it, and end all."""
        self._failures.append(error)
        self._processes.kill()


def _has_room_for_another(spec: Specification) -> bool:
    """Return whether another head may be checked beside those that are."""
    size = spec["module"]["checkpoint"]["bytes"]
    return size >= LARGE_BYTES and _available_bytes() >= ROOM_FACTOR * size


def _available_bytes() -> int:
    """Return the memory that can be had without swapping, as Linux estimates it; 0 elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), 0)
