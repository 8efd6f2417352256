"""Runs `tools/publish.py` over and over, and kills it at the operation that it is told: what `test_kills.py` drives.

Reads one JSON line for each run, `{"argv": [...], "at": 7}`, and answers `{"signal": 9, "code": null, "operations": 7, "at": "link"}`.
Each run is a forked child of a process that has imported everything, so that a hundred of them take seconds. The seventh
operation is not done, or done, or half done: whatever the names says. With `"at": 0` nothing is killed.

Operations are what changes a folder (copying: before it, in the middle, after it; link, replace, unlink, fsync) or the
requests to a bucket (before they are sent, after they were answered).
"""

import io
import json
import os
import signal
import sys
import types
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

# What a run against a bucket would import by itself, and would take most of its time.
import gcsfs
import gcsfs.extended_gcsfs
import google.cloud.storage.asyncio.async_appendable_object_writer  # noqa: F401

import tools.publish
from tools import catalog, console  # noqa: F401
from tools.hub import publishing, storage
from tools.pages import crosscheck, site  # noqa: F401


class Counter:
    """Counts operations, and dies at the one that was chosen."""

    def __init__(self, at: int, report: int):
        self.at, self.count, self.report = at, 0, report

    def __call__(self, name: str) -> None:
        self.count += 1
        if self.count == self.at:
            self.tell(name)
            os.kill(os.getpid(), signal.SIGKILL)

    def tell(self, name: str = "") -> None:
        os.write(self.report, json.dumps({"operations": self.count, "at": name}).encode())


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


def run(order: dict) -> dict:
    """One run in a child."""
    reading, report = os.pipe()
    errors = os.memfd_create("stderr")
    child = os.fork()
    if not child:
        os.close(reading)
        os.dup2(errors, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        counter = Counter(order["at"], report)
        code = 70
        try:
            instrument(counter)
            code = tools.publish.main(order["argv"])
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        finally:
            counter.tell()
            sys.stderr.flush()
            os._exit(code)
    os.close(report)
    with os.fdopen(reading, "rb") as pipe:
        said = json.loads(pipe.read() or b"{}")
    _, status = os.waitpid(child, 0)
    os.lseek(errors, 0, os.SEEK_SET)
    text = io.FileIO(errors).read().decode(errors="replace")
    killed = os.WIFSIGNALED(status)
    return {
        **said,
        "signal": os.WTERMSIG(status) if killed else None,
        "code": None if killed else os.WEXITSTATUS(status),
        "stderr": text[-2000:],
    }


if __name__ == "__main__":
    assert publishing and catalog
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
