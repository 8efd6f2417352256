"""Engines that answer images, each in a process of its own; one is at work at a time.

with EngineWorker("OpenVINO", threads=2, open={"engine": "openvino", "onnx": "x.onnx", "side": 224}) as engine:
    engine.prepare(8, "float32")
    engine.run(8, "float32", seconds=1.0)
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypedDict

from tools.benchmarks.measuring import BenchmarkError
from tools.common.workers import Worker, WorkerError, WorkerRefusal

SCRIPT = Path(__file__).with_name("engine_process.py")
SETTLE_SECONDS = 0.1  # between the turns of two engines: threads of the one before that still spin come to rest
HERE = sys.executable


class EngineError(BenchmarkError):
    """An engine cannot be had, or failed; the message holds what it said."""


class EngineTurn(TypedDict):
    """A turn of an engine: images that were answered, and the seconds and CPU seconds (of all threads) that this took."""

    images: int
    seconds: float
    cpu_seconds: float


class EngineWorker:
    """The process of one engine; a context manager.

    Args:
      name: of the engine, in messages.
      python: the interpreter that runs it.
      threads: how many threads and cores it has.
      open: the request that opens it (see engine_process.py), with absolute paths; None for a process that has no engine.
      cache: where tensorflow_hub keeps what it downloads.

    Raises:
      EngineError: it does not start, as when its library is missing or the network is none for it.
    """

    def __init__(
        self,
        name: str,
        *,
        python: str | os.PathLike[str] = HERE,
        threads: int,
        open: Mapping[str, Any] | None = None,
        cache: str | os.PathLike[str] | None = None,
    ):
        self.name = name
        environment = {"TFHUB_CACHE_DIR": os.path.abspath(cache)} if cache else {}
        if os.path.dirname(
            python
        ):  # a worker runs in another folder; links of virtual environments are left as they are
            python = os.path.abspath(python)
        try:
            self._worker = Worker(SCRIPT, "--threads", str(threads), python=python, environment=environment)
        except OSError as error:
            raise _unusable(f"{name}: {python}", error) from error
        try:
            self.versions: dict[str, str] = self.request(do="open", **open)["versions"] if open else {}
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process; nothing of the engine stays in memory."""
        self._worker.close()

    def request(self, **message: Any) -> dict[str, Any]:
        """Send a request and return its answer. Raises EngineError: the process refuses it, or ended."""
        try:
            return self._worker.request(message)
        except WorkerRefusal as error:
            raise EngineError(f"{self.name}: {' '.join(str(error).split())}") from error
        except WorkerError as error:
            lines = [line.strip() for line in error.log.splitlines() if line.strip()] or ["it said nothing"]
            raise EngineError(f"{self.name}: its process ended with {error.status}: {lines[-1]}") from error

    def prepare(self, batch: int, pixels: str, *, training: bool = False) -> float:
        """Make images and call twice, so that what is compiled or chosen at the first call is done; return its seconds."""
        return float(self.request(do="prepare", batch=batch, pixels=pixels, training=training)["seconds"])

    def run(self, batch: int, pixels: str, *, seconds: float, training: bool = False) -> EngineTurn:
        """Call for that many seconds."""
        time.sleep(SETTLE_SECONDS)
        turn: Any = self.request(do="run", batch=batch, pixels=pixels, seconds=seconds, training=training)
        return EngineTurn(images=turn["images"], seconds=turn["seconds"], cpu_seconds=turn["cpu_seconds"])


def has(python: str | os.PathLike[str], *modules: str) -> bool:
    """Return whether a Python has modules; none is imported."""
    code = "import importlib.util as u, sys; sys.exit(any(u.find_spec(name) is None for name in sys.argv[1:]))"
    try:
        found = subprocess.run([os.fspath(python), "-c", code, *modules], capture_output=True, timeout=60)
    except OSError as error:
        raise _unusable(os.fspath(python), error) from error
    return found.returncode == 0


def first_with(module: str, *pythons: str | os.PathLike[str] | None) -> str | None:
    """Return the first of several Pythons that has a module; None if none does."""
    return next((os.fspath(python) for python in pythons if python and has(python, module)), None)


def _unusable(python: str, error: OSError) -> EngineError:
    return EngineError(f"{python} does not run: {error}", "give the python of an environment")
