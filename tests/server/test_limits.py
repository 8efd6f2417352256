"""Limits of the server: long requests, clients that send nothing or read nothing, and too many of them."""

import contextlib
import resource
import select
import socket

import pytest
import requests

from tests.support.commands import start_script
from tools.catalog import layout
from tools.hub.storage import Storage
from tools.server.connections import Limits
from tools.server.messages import MAX_HEAD_BYTES, MAX_TARGET_BYTES
from tools.server.server import serve

ARCHIVE = bytes(64 << 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    storage = Storage(tmp_path_factory.mktemp("limits") / "hub")
    storage.create("index.html", b"<!doctype html><title>Home</title>")
    storage.create("p/name/1.tar.gz", ARCHIVE)
    storage.create("p/name/1.json", b'{"archive": {"bytes": %d}}' % len(ARCHIVE))
    return storage


@pytest.fixture(scope="module")
def hub(folder):
    with serve(folder) as url:
        yield url


def connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def answer(connection: socket.socket) -> bytes:
    """Return what arrives until the server closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(1 << 16):
            received += piece
    return received


HOST = b"Host: a\r\n"
# Each is a request, complete or not, and the status that it gets.
LONG = {
    "an address in one piece": (b"GET /" + b"a" * MAX_TARGET_BYTES + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    "a query in one piece": (b"GET /?" + b"a=1&" * (MAX_TARGET_BYTES // 4) + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    "an address without an end": (b"GET /" + b"a" * 400_000, 414),
    "a header in one piece": (b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n", 431),
    "headers without an end": (b"GET / HTTP/1.1\r\n" + HOST + b"X: 1\r\n" * 100_000, 431),
    "blanks in a range": (b"GET / HTTP/1.1\r\n" + HOST + b"Range: bytes=0-" + b" " * 60_000 + b"x\r\n\r\n", 431),
}


@pytest.mark.parametrize(("request_bytes", "status"), LONG.values(), ids=LONG)
def test_long_requests(hub, request_bytes, status):
    with connect(hub) as connection:
        with contextlib.suppress(ConnectionError):  # the server need not read it to the end
            connection.sendall(request_bytes)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        received = answer(connection)
    assert received.startswith(b"HTTP/1.1 %d " % status) or not received
    assert b"Fix: " in received or not received
    assert requests.get(hub, timeout=20).status_code == 200


def test_as_long_as_is_allowed(hub):
    blanks = "bytes=0-" + " " * (MAX_HEAD_BYTES - 1000) + "x"
    assert requests.get(hub, headers={"Range": blanks}, timeout=20).status_code == 200
    assert requests.get(f"{hub}/?{'a' * (MAX_TARGET_BYTES - 100)}", timeout=20).status_code == 200


@pytest.mark.parametrize("path", ["/a/b" + "/1" * 495, "/a/b" + "/1" * 4000, "/p/name/1" + "/1" * 60])
def test_many_segments_are_no_address(folder, hub, monkeypatch, path):
    """They would be a handle for each of their digits, and each is looked for in the hub."""
    read = []
    original = Storage.read
    monkeypatch.setattr(Storage, "read", lambda self, path: (read.append(path), original(self, path))[1])
    assert requests.get(hub + path, timeout=20).status_code == 404
    assert len(read) <= 2
    assert requests.get(f"{hub}{path}?tf-hub-format=compressed", timeout=20).status_code == 404


def test_names_have_a_limit_of_segments():
    assert layout.is_name("/".join(["a"] * layout.MAX_NAME_SEGMENTS))
    assert not layout.is_name("/".join(["a"] * (layout.MAX_NAME_SEGMENTS + 1)))


# What clients may send and then leave.
BEGINNINGS = {
    "nothing": b"",
    "half a header": b"GET / HTTP/1.1\r\nHos",
    "a request and a half": b"GET / HTTP/1.1\r\n" + HOST + b"\r\nGET /",
}


@pytest.mark.parametrize("beginning", BEGINNINGS.values(), ids=BEGINNINGS)
def test_who_waits_longest_makes_room(folder, beginning):
    with serve(folder, limits=Limits(connections=20, request_seconds=600)) as url, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connect(url)) for _ in range(100)]
        for connection in silent:
            with contextlib.suppress(ConnectionError):
                connection.sendall(beginning)
        while requests.get(url, timeout=20).status_code == 503:  # while as many as are allowed are being answered
            pass
        for _ in range(30):
            assert requests.get(url, timeout=20).status_code == 200
        closed = []
        for connection in silent:
            connection.settimeout(0.05)
            try:
                while connection.recv(1 << 16):
                    pass
                closed.append(True)
            except TimeoutError:
                closed.append(False)
            except ConnectionError:
                closed.append(True)
        assert 80 <= sum(closed) <= 100
        if b"\r\n\r\n" not in beginning:  # who was answered waits from then on, in the order of the answers
            assert closed == sorted(closed, reverse=True), "who came first was to be closed first"


@pytest.mark.parametrize(
    ("beginning", "expected"),
    [(b"", b""), (b"GET / HTTP/1.1\r\nHos", b"HTTP/1.1 408 "), (b"\r\n", b"")],
    ids=["nothing", "half a header", "a blank line"],
)
def test_a_request_must_come_in_time(folder, beginning, expected):
    with serve(folder, limits=Limits(connections=20, request_seconds=0.5)) as url, connect(url) as connection:
        connection.sendall(beginning)
        assert answer(connection).startswith(expected)


def test_a_request_that_drips_must_come_in_time(folder):
    with serve(folder, limits=Limits(connections=20, request_seconds=1)) as url, connect(url) as connection:
        connection.settimeout(0.1)
        received = b""
        with contextlib.suppress(ConnectionError):
            for _ in range(600):  # a minute: long after the limit
                connection.sendall(b"a")
                with contextlib.suppress(TimeoutError):
                    received = connection.recv(1 << 16)
                    break
        assert received == b"" or received.startswith(b"HTTP/1.1 408 ")


def test_a_connection_is_for_many_requests(folder):
    """Waiting for the next request begins anew after each response."""
    with serve(folder, limits=Limits(connections=1, request_seconds=600)) as url, requests.Session() as session:
        for _ in range(5):
            assert session.get(url, timeout=20).status_code == 200


def test_nobody_makes_room_while_being_answered(folder):
    with serve(folder, limits=Limits(connections=2)) as url, contextlib.ExitStack() as stack:
        readers = [stack.enter_context(connect(url)) for _ in range(2)]
        for reader in readers:
            reader.sendall(b"GET /p/name/1.tar.gz HTTP/1.1\r\n" + HOST + b"\r\n")
            assert reader.recv(12) == b"HTTP/1.1 200"
        refused = requests.get(url, timeout=20)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "10")
        for reader in readers:
            size = 12
            while size < len(ARCHIVE):
                size += len(reader.recv(1 << 20))


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel has no such limit")
def test_a_response_must_be_taken_in_time(folder):
    limits = Limits(connections=20, unacknowledged_seconds=1)
    with serve(folder, limits=limits) as url, connect(url) as connection:
        connection.sendall(b"GET /p/name/1.tar.gz HTTP/1.1\r\n" + HOST + b"\r\n")
        # The buffers of both sides fill. When the server's side has given up, it resets whoever goes on sending.
        watcher = select.poll()
        watcher.register(connection, select.POLLERR | select.POLLHUP)
        for _ in range(300):
            if watcher.poll(200):
                break
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"a")
        assert watcher.poll(0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "clients"), [(400, 1000), (40, 100)], ids=["a limit that leaves room", "too few files"]
)
def test_the_script_with_few_files(folder, files, clients):
    """More clients that send nothing than the process may have files: others are served, and the log stays short."""
    limit = (files, files)
    process = start_script(
        *("serve", "--hub", folder.url, "--port", "0"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limit),
    )
    try:
        url = process.stdout.readline().split()[-1]
        with contextlib.ExitStack() as stack:
            for _ in range(clients):
                stack.enter_context(connect(url))
            for _ in range(5):
                assert requests.get(url, timeout=60).status_code == 200
    finally:
        process.terminate()
        _, log = process.communicate(timeout=20)
    assert len(log.splitlines()) <= 3
