"""Hubs to test against: a folder, fsspec's memory, and a bucket of the Google Cloud Storage emulator."""

import functools
import http.server
import os
import threading
import urllib.parse
import uuid

import pytest

from tools.hub.storage import Storage

BUCKET = "bucket"


@pytest.fixture(scope="session")
def bucket_service():
    """The emulator, with what it lacks in front: 412 for `ifGenerationMatch=0` when the object exists."""
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # as the storage sets it, before anybody imports gcsfs
    from gcp_storage_emulator.exceptions import NotFound
    from gcp_storage_emulator.server import RequestHandler
    from gcp_storage_emulator.storage import Storage as Objects

    objects = Objects(use_memory_fs=True)
    objects.create_bucket(BUCKET, {"kind": "storage#bucket", "id": BUCKET, "name": BUCKET})
    requests: list[tuple[str, str]] = []
    lock = threading.Lock()

    class Handler(RequestHandler):
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
            self.send_response(412)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return True

        def do_POST(self):
            with lock:
                if not self.refuses():
                    super().do_POST()

        def do_PUT(self):
            with lock:
                if not self.refuses():
                    super().do_PUT()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, objects))
    server.handle_error = lambda *arguments: None  # clients that leave are no news
    server.requests = requests
    server.damage = None  # what is replaced by what on the way
    server.objects = objects
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class _Again:
    """A request body that was read to look into it, and is read once more."""

    def __init__(self, body: bytes):
        self._body = body

    def read(self, size: int = -1) -> bytes:
        body, self._body = self._body, b""
        return body


@pytest.fixture(params=["folder", "memory", "bucket"])
def storage(request, tmp_path):
    """An empty hub of each kind."""
    if request.param == "folder":
        return Storage(tmp_path / "hub")
    if request.param == "memory":
        return Storage(f"memory://{uuid.uuid4().hex}/hub")
    return bucket_storage(request.getfixturevalue("bucket_service"))


@pytest.fixture
def bucket(bucket_service):
    """An empty hub in a bucket."""
    return bucket_storage(bucket_service)


def bucket_storage(service) -> Storage:
    return Storage(f"gs://{BUCKET}/{uuid.uuid4().hex}", endpoint_url=service.url, token="anon")
