"""The hub over HTTP: one URL for code and for the browser, as an ASGI application.

| request | response |
|---|---|
| `/<handle>?tf-hub-format=compressed`, `/<handle>.tar.gz` | the archive, if the module has a record |
| `/<handle>` | 302 to `/<handle>/`, the module's page, so that the page's relative links are right |
| `/<handle>` with `Accept: text/markdown`, `/<handle>.md` | the Hub document |
| `/<handle>?tf-hub-format=uncompressed` | 303 with the `gs://` path of the unpacked module if there is one, else 404 |
| `/<publisher>/<name>`, with or without a query | 302 to the newest published version that is not yanked |
| `/<handle>/portable.onnx`, `float32.tflite`, ... | the file for another runtime, if it has a record |
| `/<handle>?lite-format=tflite` | its LiteRT file: the one in float32, or else the largest |
| `/<publisher>/<name>/lite/<version>?lite-format=tflite`, `/<publisher>/lite-model/<name>/<version>?...` | the same |
| any other `?lite-format=...`, `?tfjs-format=...`, `?coral-format=...` | the file at this path, else 404; never a page |
| any other path | the hub's file, or the `index.html` of that folder |

The site of a tree of documents is served as well: its pages need no record. Redirects are relative, so that the hub also works
behind a proxy and below a prefix.
"""

import contextlib
import gzip
import hashlib
import logging
import os
import re
import threading
import time
import urllib.parse
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from tools.catalog import layout
from tools.common.problems import with_fix
from tools.hub import formats, json_objects, notes
from tools.hub.formats import FormatFile
from tools.hub.storage import IMMUTABLE, REVALIDATE, NotThere, PathError, Storage, StorageError, checked, content_type
from tools.server import access_log, conditions
from tools.server.messages import (
    MAX_HEAD_BYTES,
    MAX_TARGET_BYTES,
    OTHER_FORMATS,
    PLAIN_TEXT,
    SECURITY_HEADERS,
    SHARING_HEADERS,
    Request,
    Response,
    redirect,
    text,
)
from tools.server.sending import send_response

WHOLE_BYTES = 8 << 20  # pages and indexes up to this size are read whole, tagged by content, and compressed
COMPRESSED_CACHE_BYTES = 32 << 20
RECORD_CACHE_LENGTH = 4096
COMPRESSIBLE = (".html", ".json", ".css", ".js", ".md", ".svg", ".txt", ".xml")
METHODS = ("GET", "HEAD", "OPTIONS")
ALLOWED = ", ".join(METHODS)
OF_DOCUMENTS = b'"kind":"Documents"'  # near the beginning of the index of a site that was made from documents alone

logger = logging.getLogger("hubpress.server")


def application(storage: Storage, log: access_log.Log | None = None) -> ASGIApp:
    """Return the ASGI application of a hub; it caches nothing that a publisher could change.

    `log` is given a line for each response.
    """
    responder = _Responder(storage)

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"a hub speaks HTTP only, not {scope['type']}")
        started = time.monotonic()
        # For an archive of a folder, the status of two files is all that is asked for: handing that to a thread would take longer.
        path = scope["path"][: MAX_TARGET_BYTES + 1].strip("/")
        quick = storage.is_local and (
            path.endswith(layout.ARCHIVE_SUFFIX)
            or (b"tf-hub-format" in scope["query_string"] and layout.is_handle(path))
        )
        response = responder.respond(scope) if quick else await run_in_threadpool(responder.respond, scope)
        try:
            await send_response(response, scope, receive, send)
        finally:
            if response.file:
                response.file.close()
            if log:
                log(access_log.line(scope, response.status, response.size, time.monotonic() - started))

    return run


class _Responder:
    """Finds the response to a request in the hub's storage."""

    def __init__(self, storage: Storage):
        self.storage = storage
        self._records: OrderedDict[Hashable, dict[str, Any]] = OrderedDict()
        self._compressed: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def respond(self, scope: Scope) -> Response:
        """Return the response to a request; runs in a thread, and never raises."""
        try:
            response = self._respond(scope)
        except (NotThere, PathError):
            response = self._missing("Not found.")
        except StorageError as error:
            logger.error("%s", error)
            message = with_fix("The hub's storage does not answer", "try again later")
            response = text(503, message, {"Retry-After": "30"})
        except Exception:
            logger.exception("cannot answer %s %s", scope["method"], scope.get("raw_path"))
            response = text(500, with_fix("The server failed at this request", "see its log for the reason"))
        response.headers = {**SECURITY_HEADERS, **response.headers}
        if response.status not in (204, 304):
            response.headers.setdefault("Content-Length", str(response.size))
        return response

    def _respond(self, scope: Scope) -> Response:
        method = scope["method"]
        if method not in METHODS:
            # The body of such a request is not read, so the connection cannot be used again.
            message = with_fix("A hub is read-only", f"use {ALLOWED}")
            return text(405, message, {"Allow": ALLOWED, "Connection": "close"})
        if method == "OPTIONS":
            return Response(
                204,
                {
                    "Allow": ALLOWED,
                    "Access-Control-Allow-Origin": "*",
                    "Access-Control-Allow-Methods": ALLOWED,
                    "Access-Control-Allow-Headers": "If-None-Match, If-Range, Range",
                    "Access-Control-Max-Age": "86400",
                },
            )
        too_long = _too_long(scope)
        if too_long:
            return too_long
        path = _decoded(scope.get("raw_path") or scope["path"].encode())
        if path is None:
            message = "This address cannot be understood: it holds encoded slashes or broken characters"
            return text(400, with_fix(message, "write it as the hub's pages do"))
        raw_query = scope["query_string"].decode("latin-1")
        query: dict[str, str] = {}
        try:
            for key, value in urllib.parse.parse_qsl(raw_query, keep_blank_values=True, max_num_fields=100):
                query.setdefault(key, value)
        except ValueError:
            return text(400, with_fix("The query of this address has too many fields", "leave them out"))
        request = Request(method, path, query, raw_query, Headers(scope=scope))
        wanted = next((f"{key}={query[key]}" for key in ("tf-hub-format", *OTHER_FORMATS) if key in query), None)
        if not path:
            return self._file(request, layout.HOME_PAGE) if wanted is None else _no_format("The hub itself", wanted)
        name = path.removesuffix("/")
        if name.count("/") >= layout.MAX_SEGMENTS:
            return self._missing("Not found.", request)
        try:
            checked(layout.page_path(name))
        except PathError:
            return self._missing("Not found.", request)
        if name.endswith(layout.ARCHIVE_SUFFIX):
            return self._archive(request, name.removesuffix(layout.ARCHIVE_SUFFIX))
        if (file := layout.parse_format_path(name)) and not request.path.endswith("/"):
            return self._format(request, *file) or self._missing("Not found.", request)
        if "tf-hub-format" in query:
            return self._module(request, name, query["tf-hub-format"])
        return self._page(request, name) if wanted is None else self._other_format(request, name, wanted)

    # Modules

    def _module(self, request: Request, handle: str, wanted: str) -> Response:
        """Return a module in the format that a client of tensorflow_hub wants."""
        if not layout.is_handle(handle) or self._record(handle) is None:
            return self._redirect_to_newest(request, handle, "") or self._not_published(handle)
        if wanted == "compressed":
            return self._archive(request, handle)
        if wanted == "uncompressed":
            if self.storage.url.startswith("gs://") and self.storage.exists(f"{handle}/saved_model.pb"):
                address = self.storage.url_for(handle)
                # The client takes the body for the address, so nothing may follow it.
                return Response(
                    303,
                    {"Content-Type": PLAIN_TEXT, "Location": address, "Cache-Control": REVALIDATE},
                    address.encode(),
                )
            fix = "load it compressed: unset TFHUB_MODEL_LOAD_FORMAT and try again"
            return text(404, with_fix(f"{handle} is not kept unpacked", fix))
        return _no_format(handle, f"tf-hub-format={wanted}")

    def _other_format(self, request: Request, path: str, wanted: str) -> Response:
        """Return the file that a client of TensorFlow Lite or TensorFlow.js asks for by its path, never a page."""
        if wanted == "lite-format=tflite":
            for handle in filter(None, (path, layout.handle_of_lite(path), _of_lite_address(path))):
                if layout.is_handle(handle) and self._record(handle) is not None:
                    for name in layout.FORMATS_OF_KIND[layout.LITE]:
                        if response := self._format(request, handle, name):
                            return response
        handles = layout.handles_of_path(path)
        if not request.path.endswith((".html", "/")) and (not handles or self._published(handles)):
            with contextlib.suppress(NotThere):
                return self._file(request, path)
        return _no_format(path, wanted)

    def _archive(self, request: Request, handle: str) -> Response:
        if not layout.is_handle(handle):
            return self._missing("Not found.", request)
        record = self._record(handle)
        path = layout.archive_path(handle)
        if record is None:
            return self._not_published(handle)
        try:
            file, size, tag = self._open(path)
        except NotThere:
            logger.error("%s has a record but no archive", handle)
            return text(500, with_fix(f"{handle} is published, but its archive is gone", "tell the hub's owner"))
        facts = record["archive"] if isinstance(record.get("archive"), dict) else {}
        if facts.get("bytes", size) != size:
            file.close()
            logger.error("%s has %d bytes, and its record says %s", path, size, facts["bytes"])
            return text(500, with_fix(f"The archive of {handle} is damaged", "tell the hub's owner"))
        if re.fullmatch("[0-9a-f]{64}", str(facts.get("sha256"))):
            tag = f'"{facts["sha256"]}"'
        file_name = "_".join(re.sub(r"[^\w.-]", "_", segment, flags=re.ASCII) for segment in handle.split("/")[1:])
        headers = {
            # No Content-Encoding: with one, clients would unpack twice.
            "Content-Type": content_type(path),
            "Content-Disposition": f'attachment; filename="{layout.archive_path(file_name)}"',
            "Cache-Control": IMMUTABLE,
            "ETag": tag,
            **SHARING_HEADERS,
        }
        return conditions.respond(request, headers, file=file, size=size)

    def _format(self, request: Request, handle: str, name: str) -> Response | None:
        """Return a module's file in a format, or None if it has no record."""
        recorded = self._recorded_format(handle, name) if self._record(handle) is not None else None
        if recorded is None:
            return None
        try:
            file, size, _ = self._open(recorded["path"])
        except NotThere:
            logger.error("%s has a record but no file", recorded["path"])
            return text(500, with_fix(f"{name} of {handle} is published, but its file is gone", "tell the hub's owner"))
        if recorded["bytes"] != size:
            file.close()
            logger.error("%s has %d bytes, and its record says %s", recorded["path"], size, recorded["bytes"])
            return text(500, with_fix(f"{name} of {handle} is damaged", "tell the hub's owner"))
        headers = {
            "Content-Type": content_type(recorded["path"]),
            "Cache-Control": IMMUTABLE,
            "ETag": f'"{recorded["sha256"]}"',
            **SHARING_HEADERS,
        }
        return conditions.respond(request, headers, file=file, size=size)

    def _recorded_format(self, handle: str, name: str) -> FormatFile | None:
        """Return what the records of a module say of its file in a format, or None if none does."""
        kind = layout.kind_of_format(name)
        for number in range(1, formats.MOST_RECORDS + 1):
            path = layout.format_record_path(handle, kind, number)
            content = self._content(path)
            if content is None:
                return None
            if not formats.problems(content, layout.parse_format_record_path(path)):
                for file in content["files"]:
                    if file["format"] == name:
                        found: FormatFile = file
                        return found
        return None

    def _record(self, handle: str) -> dict[str, Any] | None:
        """Return the record that makes a module published, or None."""
        return self._content(layout.record_path(handle))

    def _content(self, path: str) -> dict[str, Any] | None:
        """Return a record, or None if there is none. It is cached, since it never changes.

        In a folder, it must still be there, and the same file.
        """
        key: Hashable = path
        if self.storage.is_local:
            try:
                status = os.stat(self.storage.local_path(path))
                key = (path, status.st_ino, status.st_mtime_ns, status.st_size)
            except (OSError, StorageError):
                key = None  # reading finds the reason
        with self._lock:
            if key in self._records:
                self._records.move_to_end(key)
                return self._records[key]
        try:
            record = json_objects.read(self.storage, path)
        except NotThere:
            return None
        if key is not None:
            with self._lock:
                self._records[key] = record
                while len(self._records) > RECORD_CACHE_LENGTH:
                    self._records.popitem(last=False)
        return record

    def _newest(self, name: str) -> str | None:
        """Return the handle of the highest version of a module with a record, or of a collection with a document.

        Yanked versions come last.
        """
        segments = name.split("/")
        if len(segments) < 2 or segments[0] == layout.STATIC:
            return None
        if segments[1] == layout.COLLECTIONS:
            suffix, parse = layout.DOCUMENT_SUFFIX, layout.collection_of_page
        else:
            suffix, parse = layout.RECORD_SUFFIX, layout.handle_of_record
        found = self.storage.list(f"{name}/", suffix, recursive=False)
        yanked = notes.yanked(self.storage, found)
        handles = filter(None, map(parse, found))
        return max(handles, key=lambda each: (each not in yanked, int(each.rpartition("/")[2])), default=None)

    def _redirect_to_newest(self, request: Request, name: str, ending: str) -> Response | None:
        """Redirect a module or collection without a version to its newest one, with the query; None if there is none."""
        newest = self._newest(name)
        return redirect(_relative(request.path, newest) + ending, request.raw_query) if newest else None

    def _not_published(self, handle: str, request: Request | None = None) -> Response:
        message = with_fix(f"{handle} is not published in this hub", "check publisher, name and version")
        return self._missing(message, request)

    # Pages

    def _page(self, request: Request, path: str) -> Response:
        handles = layout.handles_of_path(path)
        handle = self._published(handles)
        if handles and handle is None and not self._is_site_of_documents():
            return self._redirect_to_newest(request, path, "/") or self._not_published(handles[0], request)
        if request.path.endswith("/"):
            with contextlib.suppress(NotThere):
                return self._file(request, layout.page_path(path))
        else:
            with contextlib.suppress(NotThere):
                return self._file(request, path)
            if path == handle and conditions.prefers_markdown(request.headers):
                with contextlib.suppress(NotThere):
                    return self._file(request, layout.document_path(path), {"Vary": "Accept, Accept-Encoding"})
            if self.storage.exists(layout.page_path(path)):
                vary = {"Vary": "Accept"} if path == handle else {}
                return redirect(_relative(request.path, path) + "/", request.raw_query, vary)
        if handle is not None and layout.handle_of_lite(path) == handle:
            if conditions.prefers_markdown(request.headers):
                with contextlib.suppress(NotThere):
                    return self._file(request, layout.document_path(path), {"Vary": "Accept, Accept-Encoding"})
            # The module's page lists its files.
            above = "../.." if request.path.endswith("/") else ".."
            return redirect(f"{above}/{handle.rpartition('/')[2]}/", request.raw_query, {"Vary": "Accept"})
        if path == handle:
            # Published, and its page is still being made: the document will do.
            with contextlib.suppress(NotThere):
                return self._file(request, layout.document_path(path), {"Content-Type": PLAIN_TEXT})
        return self._redirect_to_newest(request, path, "/") or self._missing("Not found.", request)

    def _published(self, handles: list[str]) -> str | None:
        """Return the first of the handles that has a record."""
        return next((each for each in handles if self._record(each) is not None), None)

    def _is_site_of_documents(self) -> bool:
        """Return whether the site was made from documents alone: its pages need no record."""
        with contextlib.suppress(NotThere), self.storage.open(layout.INDEX) as file:
            return OF_DOCUMENTS in file.read(200)
        return False

    def _file(self, request: Request, path: str, extra: dict[str, str] | None = None) -> Response:
        """Return a file of the hub as it is; raises NotThere."""
        file, size, tag = self._open(path)
        headers = {"Content-Type": content_type(path), "Cache-Control": REVALIDATE}
        if path.endswith((".json", ".md", ".xml")):
            headers |= SHARING_HEADERS
        if not path.endswith(COMPRESSIBLE) or size > WHOLE_BYTES:
            return conditions.respond(request, headers | {"ETag": tag} | (extra or {}), file=file, size=size)
        with file:
            body = file.read()
        digest = hashlib.sha256(body).hexdigest()[:32]
        # Weak, because compressed and plain responses share it.
        headers |= {"ETag": f'W/"{digest}"', "Vary": "Accept-Encoding"} | (extra or {})
        if "range" not in request.headers and len(body) > 500 and conditions.accepts_gzip(request.headers):
            body = self._gzipped(digest, body)
            headers["Content-Encoding"] = "gzip"
        return conditions.respond(request, headers, body=body, size=len(body))

    def _open(self, path: str) -> tuple[BinaryIO, int, str]:
        """Open a file; return it with its size and a strong tag for its content. Raises NotThere."""
        if self.storage.is_local:
            file = self.storage.open(path)
            status = os.fstat(file.fileno())
            return file, status.st_size, f'"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"'
        found = self.storage.stat(path)
        return self.storage.open(path), found.size, f'"{found.tag}"'

    def _gzipped(self, digest: str, body: bytes) -> bytes:
        with self._lock:
            if digest in self._compressed:
                self._compressed.move_to_end(digest)
                return self._compressed[digest]
        compressed = gzip.compress(body, 6, mtime=0)
        with self._lock:
            self._compressed[digest] = compressed
            while sum(map(len, self._compressed.values())) > COMPRESSED_CACHE_BYTES:
                self._compressed.popitem(last=False)
        return compressed

    def _missing(self, message: str, request: Request | None = None) -> Response:
        """Return 404: for a browser's request the hub's own page, if it has one, else the message."""
        if request is not None:
            with contextlib.suppress(StorageError):
                body = self.storage.read(layout.NOT_FOUND_PAGE)
                headers = {"Content-Type": content_type(layout.NOT_FOUND_PAGE), "Cache-Control": REVALIDATE}
                return Response(404, headers, body)
        return text(404, message)


def _too_long(scope: Scope) -> Response | None:
    """Return the response to a request whose address or headers are too long, else None."""
    if len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"]) > MAX_TARGET_BYTES:
        return text(414, with_fix("This address is too long", "shorten it"), {"Connection": "close"})
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEAD_BYTES:
        return text(431, with_fix("The headers of this request are too long", "send fewer"), {"Connection": "close"})
    return None


def _no_format(what: str, wanted: str) -> Response:
    """Return 404 for a module in a format that it does not have, in plain text: clients would save a page as a model."""
    message = f"{what} has no file for {wanted[:60]!r}"
    return text(404, with_fix(message, "ask for tf-hub-format=compressed, the SavedModel, and convert it"))


def _of_lite_address(path: str) -> str | None:
    """Return the handle of the module in an address as tfhub.dev had them for LiteRT: publisher/lite-model/name/version."""
    publisher, _, rest = path.partition("/lite-model/")
    return f"{publisher}/{rest}" if rest and "/" not in publisher else None


def _decoded(raw_path: bytes) -> str | None:
    """Return the path without its leading slash, or None if it is ambiguous."""
    path = raw_path.decode("ascii", "replace")
    # An encoded slash, backslash or control character is never in an address that a hub gave out.
    if not path.startswith("/") or re.search(r"%(2f|5c|[01][0-9a-f]|7f)", path, re.IGNORECASE):
        return None
    try:
        return urllib.parse.unquote(path[1:], errors="strict")
    except UnicodeDecodeError:
        return None


def _relative(current: str, target: str) -> str:
    """Return a relative reference from the page at `current` (as requested, maybe with a final slash) to a path below it."""
    base = current.rpartition("/")[0]
    reference = target[len(base) + 1 :] if base else target
    # The dot keeps a segment with a colon from being read as a scheme.
    return "./" + urllib.parse.quote(reference)
