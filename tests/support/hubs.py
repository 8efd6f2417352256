"""Hubs to test against: a folder, fsspec's memory, and a bucket of the Google Cloud Storage emulator; who publishes, who loads.

The fixture `publisher` runs scripts in the children of one process that has imported everything (forking.py): a hundred runs take
seconds, and each can be killed where a test says. `tests.support.commands.run_script` is the same, cold, in a new process.
"""

import contextlib
import dataclasses
import functools
import http.server
import io
import logging
import os
import socket
import struct
import threading
import urllib.parse
import uuid

import pytest

from tools.common.workers import Worker
from tools.hub.storage import Storage

BUCKET = "bucket"
NAME = "convnext_digits"
HANDLES = [f"hubpress/{NAME}/1", f"hubpress/{NAME}_fe/1"]


@dataclasses.dataclass(frozen=True)
class Run:
    """Outcome of one run: `returncode` is negative for a signal; `moment` is the operation at which it was killed."""

    returncode: int
    operations: int
    moment: str
    stdout: str
    stderr: str


class Publisher:
    """Scripts in the children of one process (forking.py, which lists what an order may say).

    publisher("convnext_digits", "--hub", folder, at=7)
    publisher("hubpress/convnext_digits/1", "--hub", folder, "--undo", script="yank")
    """

    def __init__(self):
        self._worker = Worker("tests.support.forking", NAME)
        self.close = self._worker.close

    def __call__(self, *arguments, **order) -> Run:
        return self.at_once([(arguments, order)])[0]

    def at_once(self, orders) -> list[Run]:
        """Run several at the same time: [(arguments, order), ...]."""
        batch = [{"argv": list(map(str, arguments)), **order} for arguments, order in orders]
        return [Run(**found) for found in self._worker.request({"orders": batch})["runs"]]


@pytest.fixture(scope="session")
def publisher(published):
    """Return a warm `Publisher`; `published` has filled the cache of builds."""
    with contextlib.closing(Publisher()) as found:
        yield found


@pytest.fixture(scope="session")
def emulator(bucket_service):
    """Return the variables that tell a process where the bucket is: keywords of `run_script`, or an order's `environment`."""
    return {"STORAGE_EMULATOR_HOST": bucket_service.url}


@pytest.fixture(scope="session")
def consumer():
    """Return `consumer(url, url, ...)`: what `tensorflow_hub` finds at each (loading.py), in one process for all tests."""
    with Worker("tests.support.loading") as worker:
        yield lambda *urls, **message: [worker.request({"url": url} | message) for url in urls]


@pytest.fixture(scope="session")
def bucket_service():
    """Run the emulator behind a server that adds what it lacks: 412 for `ifGenerationMatch=0` when the object exists."""
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # as the storage sets it, before anybody imports gcsfs
    from gcp_storage_emulator.exceptions import NotFound
    from gcp_storage_emulator.server import RequestHandler
    from gcp_storage_emulator.storage import Storage as Objects

    objects = Objects(use_memory_fs=True)
    # Nothing is read again from its file system in memory: the list of all objects need not be written to it for each request.
    objects._write_config_to_file = lambda: None
    objects.create_bucket(
        BUCKET,
        {"kind": "storage#bucket", "id": BUCKET, "name": BUCKET, "softDeletePolicy": {"retentionDurationSeconds": "0"}},
    )
    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)  # what is not there is no news
    requests: list[tuple[str, str]] = []
    lock = threading.Lock()

    class Handler(RequestHandler):
        disable_nagle_algorithm = (
            True  # head and body are written one after the other: 40 ms for each request otherwise
        )

        def refuses(self) -> bool:
            requests.append((self.command, self.path))
            url = urllib.parse.urlsplit(self.path)
            query = urllib.parse.parse_qs(url.query)
            if query.get("ifGenerationMatch") != ["0"]:
                return False
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.rfile = _Again(body.replace(*server.damage) if server.damage else body)
            name = query["name"][0] if "name" in query else body.split(b'"name": "')[1].split(b'"')[0].decode()
            try:
                objects.get_file_obj(BUCKET, name)
            except NotFound:
                return False
            self.answer(412)
            return True

        def answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def fails(self) -> bool:
            """Return whether a fault was ordered for this request, a status or an end of the connection, and do that."""
            fault = server.faults.pop(0) if server.faults else None
            if fault is None:
                return False
            requests.append((self.command, self.path))
            length = int(self.headers.get("Content-Length") or 0)
            if isinstance(fault, int):
                self.rfile.read(length)
                self.answer(fault)
            elif fault == "reset":  # in the middle of what is sent
                self.rfile.read(length // 2)
                self.hang_up()
            elif fault == "lost answer":
                self.wfile = io.BytesIO()
                self.do(self.command)
                self.hang_up()
            return True

        def hang_up(self) -> None:
            self.close_connection = True
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.wfile = io.BytesIO()  # whatever else is written goes nowhere
            self.connection.shutdown(socket.SHUT_RDWR)

        def do(self, method: str) -> None:
            with lock:
                if not self.refuses():
                    getattr(RequestHandler, f"do_{method}")(self)

        def do_GET(self):
            requests.append((self.command, self.path))
            super().do_GET()

        def do_POST(self):
            if not self.fails():
                self.do("POST")

        def do_PUT(self):
            if not self.fails():
                self.do("PUT")

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 256  # with the usual five, clients at the same time lose their greeting and wait a second

    server = Server(("127.0.0.1", 0), functools.partial(Handler, objects))
    server.handle_error = lambda *arguments: None  # clients that leave are no news
    server.requests = requests
    server.damage = None  # what is replaced by what on the way
    server.faults = []  # for the next uploads, in order: None, a status, "reset", "lost answer"
    server.objects = objects
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class _Again:
    """Request body that was read to look into it, and is read once more."""

    def __init__(self, body: bytes):
        self._body = body

    def read(self, size: int = -1) -> bytes:
        body, self._body = self._body, b""
        return body


@pytest.fixture(params=["folder", "memory", "bucket"])
def storage(request, tmp_path):
    """Return an empty hub, of each kind in turn."""
    if request.param == "folder":
        return Storage(tmp_path / "hub")
    if request.param == "memory":
        return Storage(f"memory://{uuid.uuid4().hex}/hub")
    return bucket_storage(request.getfixturevalue("bucket_service"))


@pytest.fixture
def bucket(bucket_service):
    """Return an empty hub in a bucket."""
    return bucket_storage(bucket_service)


def bucket_storage(service, url=None) -> Storage:
    """Return the hub at `url`, or a new one, as this process sees it."""
    return Storage(url or f"gs://{BUCKET}/{uuid.uuid4().hex}", endpoint_url=service.url, token="anon")
