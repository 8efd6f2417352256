"""From a specification to checked archives: processes with TensorFlow, and packing beside them.

    made = make(spec, folder, root=catalog.root, report=lambda stage, done, total: print(stage))

`builders.build` writes a SavedModel for each head. As soon as one is complete, `tools.publishing.check` uses it as a consumer does,
and this process hashes and compresses it, while the next one is still being built: much of each runs on one processor. The heads
of a large network are checked beside each other where memory is plenty. An archive counts when everything has succeeded, and not
before.
"""

import collections
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tools.archive import packing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PREFIX = ".making-"  # of folders where something is being built
# Half of a check is tracing and graph optimisation, on one processor. A second one pays for importing TensorFlow again from this
# size of a checkpoint on, and may begin where this many times that size is free: it takes three, and others may still grow.
LARGE_BYTES, ROOM_FACTOR = 300_000_000, 8
Report = Callable[[str, int | None, int | None], None]


class MakeError(RuntimeError):
    """A module cannot be made from its row and its checkpoint, or does not do what its page would say."""


@contextlib.contextmanager
def build_directory(builds: Path) -> Iterator[Path]:
    """A folder below `builds` to build in, gone at the end; first, those go whose processes were killed: they hold gigabytes."""
    builds.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with contextlib.ExitStack() as others_wait:
            with contextlib.suppress(OSError):  # where there are no locks, nothing is deleted
                others_wait.enter_context(_locked(builds, wait=True))
                for left in builds.glob(f"{PREFIX}*"):
                    with contextlib.suppress(OSError), _locked(left, wait=False):
                        shutil.rmtree(left)
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=builds))
            with contextlib.suppress(OSError):
                stack.enter_context(_locked(folder, wait=False))
            stack.callback(
                shutil.rmtree, folder, ignore_errors=True
            )  # still locked: nobody else deletes it at the same time
        yield folder


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock of a folder, which ends with its process; raises OSError where there is none, or if another has it."""
    if fcntl is None:
        raise OSError("this system has no flock")
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(handle)


def make(spec: dict[str, Any], folder: Path, *, root: Path, report: Report) -> dict[str, Any]:
    """Build, check and pack all heads of a specification below `folder`; the archives and `made.json` end up in `folder/kept`.

    `root` is the repository; `report(stage, done, total)` is called from several threads, with bytes while a head is packed.
    Returns what `made.json` holds. Raises MakeError with what the build or the check said.
    """
    out, specification, kept = folder / "out", folder / "spec.json", folder / "kept"
    specification.write_text(json.dumps(spec))
    kept.mkdir()
    now = StatusLine(report)
    stopped = threading.Event()
    uses = collections.Counter()  # of a head's SavedModel: it is checked, and it is packed
    lock = threading.Lock()
    failures: list[Exception] = []

    def pack(head: str) -> packing.Archive:
        def progress(done: int, total: int | None) -> None:
            if stopped.is_set():
                raise MakeError("packing was given up: the build or the check failed")
            now.update(f"pack {head}", f"pack {head}", done, total)

        try:
            packed = packing.pack(out / head, kept / f"{head}.tar.gz", progress)
        except Exception as error:
            give_up(error)
            raise
        finally:
            now.update(f"pack {head}", None)
        used(head)
        return packed

    def used(head: str) -> None:
        with lock:
            uses[head] += 1
            is_done = uses[head] == 2
        if is_done:  # bytes that were deleted before they reached the disk cost nothing
            shutil.rmtree(out / head)

    build = _Process("builders.build", specification, out, root, now)
    checks: list[_Process] = []

    def give_up(error: Exception) -> None:
        failures.append(error)  # before anything ends because of it
        for process in (build, *checks):
            process.kill()

    def run_check(check: _Process) -> None:
        try:
            check.run({"checked": used})
        except MakeError as error:
            give_up(error)
            raise

    with ThreadPoolExecutor(2 * len(spec["heads"])) as pool:
        packs, checking = {}, []

        def built(head: str) -> None:
            packs[head] = pool.submit(pack, head)
            if not checks or _has_room_for_another(spec):
                check = _Process("tools.publishing.check", specification, out, root, now, number=len(checks))
                check.start()
                checks.append(check)
                checking.append(pool.submit(run_check, check))
            checks[-1].tell(head)

        try:
            build.start()
            build.run({"built": built})
            for check in checks:
                check.end()
            for each in checking:
                each.result()
            archives = {head: packs[head].result() for head in spec["heads"]}
        except MakeError:
            raise failures[0] if failures else sys.exception() from None
        finally:
            stopped.set()
            for process in (build, *checks):
                process.kill()
    made = {
        "key": spec["build"]["key"],
        "built": {head: json.loads((out / f"{head}.json").read_text()) for head in spec["heads"]},
        "checked": {head: json.loads((out / f"{head}.check.json").read_text()) for head in spec["heads"]},
        "packed": {head: described(packed) for head, packed in archives.items()},
    }
    (kept / "made.json").write_text(json.dumps(made))
    return made


def _has_room_for_another(spec: dict[str, Any]) -> bool:
    """Whether another head may be checked beside those that are."""
    size = spec["module"]["checkpoint"]["bytes"]
    return size >= LARGE_BYTES and _available_bytes() >= ROOM_FACTOR * size


def _available_bytes() -> int:
    """Memory that can be had without swapping, as Linux estimates it; 0 elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), 0)


def described(packed: packing.Archive) -> dict[str, Any]:
    """What is noted of a packed archive, as its record states it."""
    return {
        "bytes": packed.size,
        "unpacked_bytes": packed.unpacked_size,
        "sha256": packed.sha256,
        "content_sha256": packed.content_sha256,
        "md5": packed.md5,
        "members": sum(not member.is_folder for member in packed.members),
    }


class StatusLine:
    """What is being done at this moment, by whom: reported as one line."""

    def __init__(self, report: Report):
        self._report, self._lock, self._stages = report, threading.Lock(), {}

    def update(self, who: str, stage: str | None, done: int | None = None, total: int | None = None) -> None:
        with self._lock:
            if stage is None:
                self._stages.pop(who, None)
            else:
                self._stages[who] = stage
            if self._stages:
                self._report(", ".join(self._stages.values()), done, total)


class _Process:
    """One of the processes: it is told heads by standard input, and tells stages and heads by standard output."""

    def __init__(self, module: str, specification: Path, out: Path, root: Path, now: StatusLine, *, number: int = 0):
        self._module, self._now, self._root = module, now, root
        self._name = f"{module}.{number}"
        self._command = [sys.executable, "-m", module, str(specification), str(out)]
        self._log = specification.with_name(f"{self._name}.log")
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        environment = os.environ | {
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": str(self._root),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "-1",  # the golden outputs are a CPU's
        }
        with self._log.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._root,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def run(self, events: dict[str, Callable[[str], None]]) -> None:
        """Until it ends: report its stages, and call `events[word](head)` for its other lines, `word head`."""
        try:
            for line in self._process.stdout:
                word, _, rest = line.strip().partition(" ")
                if word == "stage":
                    self._now.update(self._name, rest)
                elif word in events:
                    events[word](rest)
            code = self._process.wait()
        finally:
            self._now.update(self._name, None)
            self.kill()
            self._process.stdout.close()
        if code:
            raise MakeError(_reason(self._module, code, self._log.read_text(encoding="utf-8", errors="replace")))

    def tell(self, head: str) -> None:
        with contextlib.suppress(BrokenPipeError, ValueError):  # it ended, or was killed: `run` says why
            self._process.stdin.write(f"{head}\n")
            self._process.stdin.flush()

    def end(self) -> None:
        """No head is to follow."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self.end()


def _reason(module: str, code: int, log: str) -> str:
    """What a failed process said: its own message, or the end of a traceback."""
    if code < 0:
        killed = " (out of memory?)" if code == -9 else ""
        return f"{module} was killed by signal {-code}{killed}; run the same command again"
    chatter = re.compile(
        r"\s*$|WARNING: All log|[IWE]\d{4} \d\d:|.*Warning: |  from pkg_resources|To enable the following"
    )
    lines = [line for line in log.splitlines() if not chatter.match(line)]
    start = max((i for i, line in enumerate(lines) if line.startswith("Traceback")), default=None)
    if start is not None:
        return f"{module} failed:\n" + "\n".join(lines[start:][-6:])
    return "\n".join(lines) or f"{module} failed with exit status {code}"
