"""Engines that answer images, each in a process of its own that this one talks to over a pipe; one is at work at a time.

with Engine("OpenVINO", python=sys.executable, threads=2, open={"engine": "openvino", "onnx": "x.onnx", "side": 224}) as engine:
    engine.prepare(8, "float32")
    engine.images_per_second(8, "float32", seconds=1.0)
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from tools.benchmarks.measuring import BenchmarkError

SCRIPT = pathlib.Path(__file__).with_name("engine_process.py")
SETTLE_SECONDS = 0.1  # between the turns of two engines: threads of the one before that still spin come to rest


class EngineError(BenchmarkError):
    """An engine cannot be had, or failed; the message says what it said."""


class Engine:
    """One engine; a context manager. `open` is what its process is told (see engine_process.py), `cache` where tensorflow_hub keeps
    what it downloads.

    Raises:
      EngineError: it does not start, as when its library is missing or the network is none for it.
    """

    def __init__(
        self,
        name: str,
        *,
        python: str | os.PathLike,
        threads: int,
        open: dict[str, Any] | None = None,
        cache: str | os.PathLike | None = None,
    ):
        self.name = name
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                [os.fspath(python), str(SCRIPT), "--threads", str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                env=os.environ | ({"TFHUB_CACHE_DIR": os.fspath(cache)} if cache else {}),
            )
        except OSError as error:
            raise EngineError(f"{name}: {python} does not run: {error}") from error
        try:
            self.versions: dict[str, str] = self.ask(do="open", **open)["versions"] if open else {}
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_exception) -> None:
        self.close()

    def close(self) -> None:
        """End the process; nothing of the engine stays in memory."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(OSError):
                stream.close()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request and wait for its reply; raises EngineError if the process says no, or dies."""
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise EngineError(f"{self.name}: its process ended with {self._process.wait()}: {self._last_words()}")
        reply = json.loads(line)
        if "error" in reply:
            raise EngineError(f"{self.name}: {' '.join(reply['error'].split())}")
        return reply

    def prepare(self, batch: int, pixels: str, *, training: bool = False) -> float:
        """Make images and call twice: what is compiled or chosen at the first call is done then; its seconds."""
        return self.ask(do="prepare", batch=batch, pixels=pixels, training=training)["seconds"]

    def run(self, batch: int, pixels: str, *, seconds: float, training: bool = False) -> dict[str, float]:
        """Call for that long: the `images` done, the `seconds` and the `cpu_seconds` (of all threads) that they took."""
        time.sleep(SETTLE_SECONDS)
        return self.ask(do="run", batch=batch, pixels=pixels, seconds=seconds, training=training)

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"


def has(python: str | os.PathLike, *modules: str) -> bool:
    """Whether a Python has modules; none is imported."""
    code = "import importlib.util as u, sys; sys.exit(any(u.find_spec(name) is None for name in sys.argv[1:]))"
    try:
        found = subprocess.run([os.fspath(python), "-c", code, *modules], capture_output=True, timeout=60)
    except OSError as error:
        raise EngineError(f"{python} does not run: {error}. Give the python of an environment.") from error
    return found.returncode == 0


def first_with(module: str, *pythons: str | os.PathLike | None) -> str | None:
    """The first of several Pythons that has a module; None if none does."""
    return next((os.fspath(python) for python in pythons if python and has(python, module)), None)


HERE = sys.executable
