"""Worker processes: a child that is told lines of JSON on standard input and answers with lines of JSON on standard output.

    with Worker("tools.verification.replay") as worker:
        answer = worker.request({"folder": "/tmp/module"}, timeout=600)

    worker = Worker("builders.build", "SPEC.json", "OUT")
    for message in worker.messages(): ...            # {"event": "stage", "name": "restore"}, ... until it ends

TensorFlow lives in such processes only. A message is an object; one that says `{"error": TEXT}` is a refusal, after which the
worker goes on. Standard error goes to a log, whose last words explain a worker that ended; where they may not be all (a crash, a
traceback, no word at all) the log is kept in a file, which the message names. `serve` and `messages_only` are the child's side.

`concurrent.futures` and `multiprocessing` exchange pickles between processes that import the same code; these workers may run
another interpreter, or code that imports nothing of `tools`, and their logs are read when they end.
"""

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Self

from tools.common.files import ROOT, default_cache, write_atomically
from tools.common.problems import with_fix

Message = dict[str, Any]

LAST_LINES_SECONDS = 1.0  # what a worker wrote before it ended is in its pipe
LINES_SHOWN = 6  # of a log, in the message about a worker that ended
# Lines that TensorFlow and its friends write when nothing is wrong.
_CHATTER = re.compile(
    r"\s*$|WARNING: All log|[IWE]\d{4} \d\d:|.*Warning: |  from pkg_resources|To enable the following|  import pkg_resources"
    r"|\*\*\* Check failure stack trace|    @ +0x"
)
# The line in which a crashing program says why: absl and TensorFlow, Python's faulthandler, glibc and C++, XLA.
_FATAL = re.compile(r"F\d{4} \d\d:|F external/|.*(Fatal Python error|Check failed:|terminate called|Assertion [`'])")
_AGAIN = "run the same command again"
# Signals that come from outside; by any other one a program ends by its own fault, and would end so again.
_ENDED_FROM_OUTSIDE = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}
# Variables of Python that a worker gets from this process: where packages and compiled files lie, and the stack of a crash.
_INHERITED = {
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONFAULTHANDLER",
    "PYTHONNOUSERSITE",
    "PYTHONPYCACHEPREFIX",
    "PYTHONUSERBASE",
}


class WorkerError(RuntimeError):
    """A worker ended before it answered, or was ended; the message holds its last words, and where its log was kept.

    `status` is its exit status, negative for a signal; `log` is all that it wrote to standard error.
    """

    def __init__(self, message: str, *, status: int, log: str):
        super().__init__(message)
        self.status, self.log = status, log


class WorkerRefusal(RuntimeError):
    """A worker answered `{"error": ...}`, and goes on."""


class Worker:
    """One process, `python -m MODULE ARGUMENT ...`; a context manager that ends it.

    Args:
      module: the module to run, or the path of a script.
      *arguments: its arguments.
      python: the interpreter.
      root: the repository: working folder, and what modules are imported from.
      environment: further variables, beside this process's own; of Python's it gets only where packages and compiled files lie.
      log: where standard error goes; a temporary file by default.
      kept: where the log is kept after a crash; in the cache, under the module's name, by default.

    Raises:
      OSError: the interpreter cannot be started.
    """

    def __init__(
        self,
        module: str | os.PathLike[str],
        *arguments: str | os.PathLike[str],
        python: str | os.PathLike[str] = sys.executable,
        root: Path = ROOT,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
        kept: Path | None = None,
    ):
        self.name = os.fspath(module)
        self._kept = kept or default_cache() / "logs" / f"{Path(self.name).name}.log"
        self._is_killed = False  # by this process
        program = [self.name] if self.name.endswith(".py") else ["-m", self.name]
        self._log: IO[bytes] = log.open("w+b") if log else tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the worker)
        self._writing = threading.Lock()
        try:
            self._process = subprocess.Popen(
                [os.fspath(python), *program, *(os.fspath(argument) for argument in arguments)],
                cwd=root,
                env=_inherited() | {"PYTHONPATH": str(root)} | dict(environment or {}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                encoding="utf-8",
                errors="replace",
            )
        except OSError:
            self._log.close()
            raise
        # In threads: a child that a worker leaves behind holds its output open, and the end of the worker is the end of its lines.
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()  # None: there are no more
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._reader.start()
        self._watcher.start()

    def _read(self) -> None:
        """Queue the worker's lines."""
        with self._stdout as lines:
            for line in lines:
                self._lines.put(line)

    def _watch(self) -> None:
        """Wait for the worker's end and for its last lines."""
        self._process.wait()
        self._reader.join(LAST_LINES_SECONDS)
        self._lines.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @property
    def is_alive(self) -> bool:
        """True while the process runs."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message. To a worker that ended nothing is sent: `receive` says why it ended."""
        line = json.dumps(message) + "\n"
        with self._writing, contextlib.suppress(BrokenPipeError, ValueError):  # closed by `close` in another thread
            self._stdin.write(line)
            self._stdin.flush()

    def finish(self) -> None:
        """Say that no message will follow."""
        with self._writing, contextlib.suppress(BrokenPipeError, ValueError):
            self._stdin.close()

    def receive(self, *, timeout: float | None = None) -> Message | None:
        """Return the next message, or None if the worker ended with success.

        Raises:
          WorkerError: it failed, wrote what is no message, or took longer than `timeout` seconds and was killed.
        """
        with self._deadline(timeout):
            line = self._next_line()
        return self._message(line)

    @contextlib.contextmanager
    def _deadline(self, timeout: float | None) -> Iterator[None]:
        """End the worker, and raise WorkerError, if the block takes longer than `timeout` seconds."""
        settled = threading.Lock()  # taken at the end of the block, or by the timer that gives up: whoever is first

        def give_up() -> None:
            if settled.acquire(blocking=False):
                self._process.kill()

        timer = threading.Timer(timeout, give_up) if timeout is not None else None
        if timer:
            timer.daemon = True
            timer.start()
        try:
            yield
        finally:
            if timer:
                timer.cancel()
        if not settled.acquire(blocking=False):
            raise self._error(with_fix(f"{self.name} took more than {timeout:g} s and was ended", _AGAIN))

    def _next_line(self) -> str | None:
        """Wait for a line of the worker; None if it ended."""
        line = self._lines.get()
        if line is None:
            self._lines.put(None)  # for whoever asks again
        return line

    def _message(self, line: str | None) -> Message | None:
        """Return the message of a line, or None at the end; raises WorkerError as `receive` does."""
        if line:
            if line.endswith("\n"):
                with contextlib.suppress(ValueError):
                    message = json.loads(line)
                    if isinstance(message, dict):
                        return message
                self._process.kill()
            status = self._process.wait()
            if line.endswith("\n") or not status:
                fix = f"let {self.name} print to standard error"
                raise self._error(with_fix(f"{self.name} wrote {line[:80]!r}, which is no message", fix))
        if status := self._process.wait():
            raise self._error(self._why(status))
        return None

    def request(self, message: Mapping[str, Any], *, timeout: float | None = None) -> Message:
        """Send a message and return the answer.

        Raises:
          WorkerRefusal: the answer is an error.
          WorkerError: there is none, as in `receive`.
        """
        with self._deadline(timeout):  # also for a worker that does not read
            self.send(message)
            line = self._next_line()
        answer = self._message(line)
        if answer is None:
            raise self._error(
                "\n".join([with_fix(f"{self.name} ended without an answer", _AGAIN), *self._last_lines()])
            )
        if "error" in answer:
            raise WorkerRefusal(str(answer["error"]))
        return answer

    def messages(self) -> Iterator[Message]:
        """Yield messages until the worker ends; raises WorkerError as `receive` does."""
        while (message := self.receive()) is not None:
            yield message

    def kill(self) -> None:
        """End the process now."""
        self._is_killed = True
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End the process and release its pipes and log."""
        self.kill()
        self.finish()
        self._watcher.join()
        self._log.close()

    def log_text(self) -> str:
        """Return what the worker wrote to standard error so far."""
        if self._log.closed:
            return ""
        try:
            size = os.fstat(self._log.fileno()).st_size
            return os.pread(self._log.fileno(), size, 0).decode("utf-8", "replace")
        except (ValueError, OSError):  # closed just now by another thread
            return ""

    @property
    def _stdin(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _stdout(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _error(self, message: str) -> WorkerError:
        return WorkerError(message, status=self._process.wait(), log=self.log_text())

    def _why(self, status: int) -> str:
        """Explain an exit status: the worker's own message, the line in which it crashed, or the end of a traceback."""
        log = self.log_text()
        if status < 0:
            return "\n".join([self._killed(-status), *_crash(log)])
        if any(line.startswith("Traceback") for line in log.splitlines()):
            return "\n".join([f"{self.name} failed{self._keep_log()}:", *last_words(log)])
        if words := last_words(log):
            return "\n".join(words)
        return with_fix(f"{self.name} failed with exit status {status}{self._keep_log()}", _AGAIN)

    def _killed(self, number: int) -> str:
        """Explain the end by a signal."""
        name = signal.strsignal(number) or "unknown"
        if number == signal.SIGKILL:
            log = "" if self._is_killed else self._keep_log()
            message, fix = f"was killed by signal {number} (out of memory?){log}", f"{_AGAIN}, with more memory free"
        elif number in _ENDED_FROM_OUTSIDE:
            message, fix = f"was ended by signal {number} ({name})", _AGAIN
        else:
            message = f"crashed with signal {number} ({name}){self._keep_log()}"
            fix = "correct what the lines below name; the same command would end in the same way"
        return with_fix(f"{self.name} {message}", fix)

    def _keep_log(self) -> str:
        """Keep the log, and return the words that say where; nothing if it is empty or cannot be kept."""
        with contextlib.suppress(OSError):
            if log := self.log_text():
                write_atomically(self._kept, log)
                return f"; its log is {self._kept}"
        return ""

    def _last_lines(self) -> list[str]:
        """Return a few lines from the end of the log."""
        return last_words(self.log_text())[-LINES_SHOWN:]


def _inherited() -> dict[str, str]:
    """Return this process's variables without those of Python: its user's warnings, checks and encodings are for other programs."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON") or name in _INHERITED}


def last_words(log: str) -> list[str]:
    """Return the end of a log without what libraries always write: a traceback's last lines, or all of a short message."""
    lines = [line for line in log.splitlines() if not _CHATTER.match(line)]
    start = max((index for index, line in enumerate(lines) if line.startswith("Traceback")), default=None)
    return lines[start:][-LINES_SHOWN:] if start is not None else lines


def _crash(log: str) -> list[str]:
    """Return what a program wrote when it crashed: the last fatal line and what follows, else its last lines."""
    lines = [line for line in log.splitlines() if not _CHATTER.match(line)]
    start = max((index for index, line in enumerate(lines) if _FATAL.match(line)), default=None)
    return lines[-LINES_SHOWN:] if start is None else lines[start:][:LINES_SHOWN]


def serve(answer: Callable[[Message], Message], *, refusals: tuple[type[Exception], ...] = (Exception,)) -> int:
    """Answer each message on standard input by one on standard output, until there are no more; returns the exit status.

    What libraries print goes to standard error. An exception of `refusals` is answered as `{"error": TEXT}`.
    """
    with messages_only() as say:
        for line in sys.stdin:
            try:
                say(answer(json.loads(line)))
            except refusals as error:
                say({"error": str(error) or type(error).__name__})
    return 0


@contextlib.contextmanager
def messages_only() -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield a function that writes a message to standard output; everything else that is printed goes to standard error."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)

        def say(message: Mapping[str, Any]) -> None:
            answers.write(json.dumps(message) + "\n")
            answers.flush()

        yield say
