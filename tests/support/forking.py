"""Runs `tools/publish.py` over and over in forked children of one process, and kills them where it is told.

A worker (tools/common/workers.py): it is told a batch, `{"orders": [{"argv": ["NAME", "--hub", "h"], "at": 7}, ...]}`, runs all
of it at the same time, and answers `{"runs": [{"returncode": -9, "operations": 7, "moment": "after link", "stdout": "", "stderr":
""}, ...]}`. The process has imported everything and published once, so that a hundred runs take seconds; the children do what the
command does, from its arguments to its exit status. `tests.support.hubs.Publisher` speaks to it.

Of an order all but `argv` may be left out:

| key | meaning |
|---|---|
| `script` | the script of tools/ to run: "publish" (default), "yank" or "audit" |
| `at` | kill the run (SIGKILL, by itself) at this operation, counted from 1; 0 for none |
| `after` | kill the run after so many seconds |
| `environment` | variables to set |
| `largest` | the largest file that it may write, in bytes: the kernel's own limit, which is what a full disk does for every user |
| `unprivileged` | true: root loses the right to read and write what belongs to others |
| `sources` | what this run takes for the digest of the code that builds: another one is another build |
| `converters` | files of formats are made up (tests.support.formats), by converters of this version: another one makes other bytes |
| `hasty` | true: pauses before another attempt at a bucket are not slept |

Operations are what changes a folder (copying: before it, in the middle, after it; link, replace, unlink, fsync) and the requests
to a bucket (before they are sent, after they were answered). The killed operation is not done, done, or half done.
"""

import contextlib
import ctypes
import io
import json
import os
import resource
import signal
import sys
import tempfile
import threading
import traceback
import types
from pathlib import Path

os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # as the storage sets it, before anybody imports gcsfs

# What a run against a bucket would import by itself, and would take most of its time.
import gcsfs
import gcsfs.extended_gcsfs
import gcsfs.retry
import google.cloud.storage.asyncio.async_appendable_object_writer  # noqa: F401

import tools.audit
import tools.publish
import tools.yank
from tests.support import formats
from tools.common.workers import serve
from tools.hub import storage
from tools.publishing import format_build, specification


class Counter:
    """Counts operations, and dies at the one that was chosen."""

    def __init__(self, at: int, report: int):
        self.at, self.count, self.report = at, 0, report
        self.lock = threading.Lock()

    def __call__(self, name: str) -> None:
        with self.lock:
            self.count += 1
            if self.count == self.at:
                self.tell(name)
                os.kill(os.getpid(), signal.SIGKILL)

    def tell(self, name: str = "") -> None:
        os.write(self.report, json.dumps({"operations": self.count, "moment": name}).encode())


def instrument(counter: Counter) -> None:
    real_copy = storage._copy

    def copy(source, target, progress):
        counter("before copying")
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        half = len(data) // 2
        real_copy(data[:half], target, None)
        counter("in the middle of copying")
        real_copy(data[half:], target, progress)
        counter("after copying")

    def wrapped(name):
        def call(*arguments, **keywords):
            counter(f"before {name}")
            result = getattr(os, name)(*arguments, **keywords)
            counter(f"after {name}")
            return result

        return call

    storage._copy = copy
    patched = {name: wrapped(name) for name in ("link", "replace", "unlink", "fsync")}
    storage.os = types.SimpleNamespace(**{**vars(os), **patched})
    request = gcsfs.GCSFileSystem._request

    async def counted(self, method, path, *arguments, **keywords):
        counter(f"before {method}")
        answer = await request(self, method, path, *arguments, **keywords)
        counter(f"after {method}")
        return answer

    gcsfs.GCSFileSystem._request = counted


def prepare(order: dict) -> None:
    """Do in the child what an order asks for."""
    os.environ.update(order.get("environment", {}))
    if "largest" in order:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest"], order["largest"]))
    if order.get("unprivileged"):
        # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, out of the effective and permitted sets: capset(2), version 3.
        libc = ctypes.CDLL(None, use_errno=True)
        header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        if libc.capget(header, data) == 0:
            for word in (0, 1):
                data[word] &= ~0b110
            libc.capset(header, data)
    if order.get("sources"):
        specification.build_sources = lambda _root, _family: order["sources"]
    if order.get("converters"):
        maker = formats.Maker(Path(tempfile.mkdtemp()), order["converters"])
        for name in ("require", "format_key", "make"):
            setattr(format_build, name, getattr(maker, name))
    if order.get("hasty"):

        async def at_once(seconds):
            """No pause."""

        gcsfs.retry.asyncio = types.SimpleNamespace(sleep=at_once)


def start(order: dict):
    """One run in a child: its process id, and where it reports and writes."""
    reading, report = os.pipe()
    output, errors = os.memfd_create("stdout"), os.memfd_create("stderr")
    child = os.fork()
    if child:
        os.close(report)
        if order.get("after"):
            threading.Timer(order["after"], kill, [os.pidfd_open(child)]).start()
        return child, reading, output, errors
    code = 70
    try:
        os.close(reading)
        os.dup2(output, 1)
        os.dup2(errors, 2)
        counter = Counter(order.get("at", 0), report)
        prepare(order)
        instrument(counter)
        code = getattr(tools, order.get("script", "publish")).main(order["argv"])
    except SystemExit as done:
        code = done.code
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        counter.tell()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def kill(child: int) -> None:
    """Kill a child by its pidfd: its number may be another's by now."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(child, signal.SIGKILL)
    os.close(child)


def finish(child: int, reading: int, output: int, errors: int) -> dict:
    with os.fdopen(reading, "rb") as pipe:
        said = json.loads(pipe.read() or b"{}")
    _, status = os.waitpid(child, 0)
    texts = {}
    for name, descriptor in (("stdout", output), ("stderr", errors)):
        os.lseek(descriptor, 0, os.SEEK_SET)
        with io.FileIO(descriptor) as file:
            texts[name] = file.read().decode(errors="replace")
    return {"operations": 0, "moment": "", **said, "returncode": os.waitstatus_to_exitcode(status), **texts}


def warm_up(name: str) -> None:
    """Publish once in this process: templates are compiled, tables are read, and the children inherit that."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        tools.publish.main([name, "--hub", folder])


def answer(message: dict) -> dict:
    """Run a batch."""
    runs = [start(order) for order in message["orders"]]
    return {"runs": [finish(*run) for run in runs]}


if __name__ == "__main__":
    warm_up(sys.argv[1])
    sys.exit(serve(answer))
