"""Servers that send slowly, without end, or what takes much memory: a verification ends, and says which limit was met."""

import contextlib
import dataclasses
import gzip
import io
import itertools
import json
import random
import resource
import socket
import tarfile
import threading
import time

import pytest

from tests.support import synthetic
from tests.support.commands import start_script
from tools.catalog import layout
from tools.common.download import Budget, BudgetError, fetch_text
from tools.verification.verify import Verification, VerificationLimits

RECORD = synthetic.records()[0]
HANDLE = RECORD["handle"]
OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
DRIP = 0.02  # seconds between two bytes of a server that drips


class Server:
    """Answers each path with what `answers` has for it: bytes, or an iterator of bytes that are sent one after the other."""

    def __init__(self, answers):
        self.answers, self.requested = answers, []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        with connection, contextlib.suppress(OSError):
            path = connection.recv(1 << 16).split()[1].decode().lstrip("/")
            self.requested.append(path)
            answer = self.answers(path)
            for piece in [answer] if isinstance(answer, bytes) else answer:
                connection.sendall(piece)

    def close(self):
        self._listener.close()


@contextlib.contextmanager
def serving(answers):
    server = Server(answers)
    try:
        yield server
    finally:
        server.close()


def whole(data):
    return OK + b"Content-Length: %d\r\n\r\n" % len(data) + data


def dripping(data):
    for byte in data:
        time.sleep(DRIP)
        yield bytes([byte])


def archive(*, graph=b"graph", headers=b"", filler=0):
    """Return an archive with such a graph and such extended headers before it, and `filler` random bytes that compress badly."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        folder = tarfile.TarInfo("assets")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in (("assets/filler", random.Random(0).randbytes(filler + 1)), ("saved_model.pb", graph)):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            if name == "saved_model.pb":
                buffer.write(headers)
            tar.addfile(entry, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), 1)


def pax(count):
    """Return `count` extended headers of 60 KB, each with keys of its own."""
    found = b""
    for number in range(count):
        lines = b"".join(b"29 comment.%08d=%08d\n" % (number, line) for line in range(2000))
        entry = tarfile.TarInfo("x")
        entry.type, entry.size = tarfile.XHDTYPE, len(lines)
        found += entry.tobuf(tarfile.USTAR_FORMAT) + lines + bytes(-len(lines) % 512)
    return found


def record(**archive_facts):
    return json.dumps(RECORD | {"archive": RECORD["archive"] | archive_facts}).encode()


def honest(path, archive_answer=NOT_FOUND):
    if path == layout.record_path(HANDLE):
        return whole(record(bytes=1 << 40))
    return archive_answer if path == layout.archive_path(HANDLE) else NOT_FOUND


def with_notes(path):
    return whole(b'{"action": "speed"}') if ".note-" in path else honest(path)


LIMITS = VerificationLimits(seconds=600, requests=30, bytes=1 << 20, memory_bytes=1 << 16)
SHORT = dataclasses.replace(LIMITS, seconds=1.5)
# What the server answers, the check that fails, and what is said.
HOSTILE = {
    "endless notes": (with_notes, "record", "more than 30 requests"),
    "a record that drips": (
        lambda path: dripping(whole(record())) if path.endswith("1.json") else NOT_FOUND,
        "record",
        "longer than 1.5 seconds",
    ),
    "a status line that drips": (
        lambda path: dripping(b"HTTP/1.1 " + b"2" * 5000),
        "record",
        "longer than 1.5 seconds",
    ),
    "headers that drip": (
        lambda path: dripping(OK + b"X: y\r\n" * 5000),
        "record",
        "longer than 1.5 seconds",
    ),
    "an endless record": (
        lambda path: itertools.chain([OK + b"\r\n"], itertools.repeat(b"a" * 65536)),
        "record",
        "more than 1,048,576 bytes",
    ),
    "an endless archive": (
        lambda path: honest(path, itertools.chain([OK + b"\r\n"], itertools.repeat(bytes(65536)))),
        "archive",
        "more than 1,048,576 bytes",
    ),
    "an archive of a terabyte, it says": (
        lambda path: honest(path, OK + b"Content-Length: %d\r\n\r\n" % (1 << 40)),
        "archive",
        "the limit is 1048576",
    ),
    "an archive that drips": (
        lambda path: honest(path, itertools.chain([OK + b"Content-Length: 9999\r\n\r\n"], dripping(bytes(9999)))),
        "archive",
        "longer than 1.5 seconds",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_verification_ends(case):
    answers, name, said = HOSTILE[case]
    limits = SHORT if "drip" in case else LIMITS
    with serving(answers) as server, Verification(replay=False, limits=limits) as verification:
        target = verification.find(f"{server.url}/{HANDLE}.tar.gz")[0]
        result = verification.verify(target)
    failed = next(check for check in result.checks if check.state == "failed")
    assert failed.name == name and said in failed.message and "Fix: " in failed.message
    assert len(server.requested) <= LIMITS.requests + 1


def test_finding_ends():
    with (
        serving(lambda path: dripping(OK + b"X: y\r\n" * 5000)) as server,
        Verification(limits=SHORT) as verification,
        pytest.raises(ValueError, match=r"longer than 1\.5 seconds.*Fix: "),
    ):
        verification.find(server.url)


# An archive, the options of the command, and what it says.
ARCHIVES = {
    "a graph of 300 MB of zeros": (
        lambda: archive(graph=bytes(300 << 20), filler=2 << 20),
        (),
        "may have 268,435,456 together",
    ),
    "a graph beyond the option": (
        lambda: archive(graph=bytes(3 << 20)),
        ("--max-memory", "1000000"),
        "may have 1,000,000 together",
    ),
    "extended headers of 3 MB": (lambda: archive(headers=pax(50)), (), "bytes of extended headers"),
    "more than may be unpacked": (lambda: archive(filler=3 << 20), ("--max-bytes", "2000000"), "the limit is 2000000"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", ARCHIVES)
def test_an_archive_that_takes_much(tmp_path, case):
    """The command may use 1 GB of address space, of which Python and its libraries take a third."""
    make, options, said = ARCHIVES[case]
    file = tmp_path / "1.tar.gz"
    file.write_bytes(make())
    limit = (1 << 30, 1 << 30)
    process = start_script(
        "verify", file, "--no-replay", *options, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit)
    )
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 1 and said in errors, output + errors
    assert "Traceback" not in errors and "MemoryError" not in errors


def test_a_budget_is_shared_by_downloads():
    with serving(lambda path: whole(b"x" * 1000)) as server:
        budget = Budget(bytes=2500, requests=10)
        for _ in range(2):
            assert len(fetch_text(f"{server.url}/a", budget=budget)) == 1000
        with pytest.raises(BudgetError, match=r"/a: it takes more than 2,500 bytes\. Fix: "):
            fetch_text(f"{server.url}/a", budget=budget)


def test_a_budget_that_suffices_changes_nothing():
    with serving(lambda path: whole("päge".encode())) as server:
        assert fetch_text(f"{server.url}/a", budget=Budget(seconds=60)) == "päge"
