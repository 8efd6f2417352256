"""The hub over HTTP: one URL for code and for the browser.

    with serve(Storage("hub")) as url:                       # a free port, in a thread
        tensorflow_hub.load(f"{url}/publisher/name/1")

| request | answer |
|---|---|
| `/<handle>?tf-hub-format=compressed`, `/<handle>.tar.gz` | the archive, if the module has a record |
| `/<handle>` | 302 to `/<handle>/`, the module's page, so that the page's relative links are right |
| `/<handle>` with `Accept: text/markdown`, `/<handle>.md` | the Hub document |
| `/<handle>?tf-hub-format=uncompressed` | 303 with the `gs://` path of the unpacked module if there is one, else 404 |
| `/<publisher>/<name>`, with or without a query | 302 to the newest published version that is not yanked |
| any other path | the hub's file, or the `index.html` of that folder |

The site of a tree of documents (`tools/render.py --docs`) is served as well: its pages need no record.

A folder hub's archives go out through sendfile(2); everything else is read in pieces. Redirects are relative, so that
the hub also works behind a proxy and below a prefix.
"""

import asyncio
import contextlib
import dataclasses
import datetime
import gzip
import hashlib
import json
import logging
import os
import re
import socket
import sys
import threading
import time
import urllib.parse
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import h11
import uvicorn
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from uvicorn.protocols.http.h11_impl import H11Protocol

from tools.hub import address, notes
from tools.hub.storage import IMMUTABLE, REVALIDATE, NotThere, Storage, StorageError, checked, content_type

READ_BYTES = 1 << 20  # per piece where sendfile is not possible
WHOLE_BYTES = 8 << 20  # pages and indexes up to this size are read whole, tagged by content, and compressed
COMPRESSED_CACHE_BYTES = 32 << 20
RECORDS_KEPT = 4096
LOGGED_BYTES = 1000  # of each thing that a client says of itself
GRACE_SECONDS = 3  # for answers that are on their way when the server is told to stop

COMPRESSIBLE = (".html", ".json", ".css", ".js", ".md", ".svg", ".txt", ".xml")
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "strict-origin-when-cross-origin",
}
# What a hub holds is public, so pages of others may read it from a script.
SHARING_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Accept-Ranges, Content-Disposition, Content-Length, Content-Range, ETag",
}
METHODS = "GET, HEAD, OPTIONS"
ZERO_COPY = "http.response.zerocopysend"

logger = logging.getLogger("hubpress.server")


@dataclasses.dataclass
class Response:
    """One response: either `body`, or `length` bytes of `file` from `offset` on."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    file: BinaryIO | None = None
    offset: int = 0
    length: int = 0


@dataclasses.dataclass(frozen=True)
class Request:
    """What of a request matters here. `path` has no leading slash; `query` holds the first value of each key."""

    method: str
    path: str
    query: dict[str, str]
    raw_query: str
    headers: Headers


def application(storage: Storage, log: Callable[[str], Any] | None = None) -> Callable:
    """The ASGI application of a hub; it keeps nothing that a publisher could change. `log` is given a line for each answer."""
    hub = _Hub(storage)

    async def respond(scope, receive, send):
        if scope["type"] != "http":
            raise RuntimeError(f"a hub speaks HTTP only, not {scope['type']}")
        started = time.monotonic()
        # What a folder's archives need is a look at two files: handing that to a thread would take longer.
        quick = storage.is_local and (b"tf-hub-format" in scope["query_string"] or scope["path"].endswith(".tar.gz"))
        answer = hub.answer(scope) if quick else await run_in_threadpool(hub.answer, scope)
        try:
            await _send(answer, scope, receive, send)
        finally:
            if answer.file:
                answer.file.close()
            if log:
                log(_line(scope, answer, time.monotonic() - started))

    return respond


def _line(scope: dict[str, Any], answer: Response, seconds: float) -> str:
    """A line of the access log: the combined format of Apache and nginx, and the seconds until the last byte was handed over.

    Whatever a client sent is escaped: it can neither end its field nor begin a line of its own.
    """

    def safe(value: bytes) -> str:
        text = value[:LOGGED_BYTES].decode("latin-1")
        return re.sub(r"[^ !#-\[\]-~]", lambda match: f"\\x{ord(match[0]):02x}", text) or "-"

    headers = dict(reversed(scope["headers"]))  # the first of each name
    target = scope.get("raw_path") or scope["path"].encode()
    if scope["query_string"]:
        target += b"?" + scope["query_string"]
    client = scope.get("client") or ("-", 0)
    moment = datetime.datetime.now(datetime.UTC).strftime("%d/%b/%Y:%H:%M:%S +0000")
    size = 0 if scope["method"] == "HEAD" else answer.length if answer.file else len(answer.body)
    request = f"{safe(scope['method'].encode())} {safe(target)} HTTP/{scope.get('http_version', '1.1')}"
    said = f'"{safe(headers.get(b"referer", b""))}" "{safe(headers.get(b"user-agent", b""))}"'
    return f'{client[0]} - - [{moment}] "{request}" {answer.status} {size} {said} {seconds:.3f}\n'


# Answers


class _Hub:
    def __init__(self, storage: Storage):
        self.storage = storage
        self._records: OrderedDict[Any, dict[str, Any]] = OrderedDict()
        self._compressed: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def answer(self, scope: dict[str, Any]) -> Response:
        """Runs in a thread, and never raises."""
        method = scope["method"]
        try:
            answer = self._answer(scope)
        except NotThere:
            answer = self._missing("Not found.\n")
        except StorageError as error:
            logger.error("%s", error)
            answer = _text(503, "The hub's storage does not answer. Try again later.\n", {"Retry-After": "30"})
        except Exception:
            logger.exception("cannot answer %s %s", method, scope.get("raw_path"))
            answer = _text(500, "This request made the server stumble; its log says why.\n")
        answer.headers = {**SECURITY_HEADERS, **answer.headers}
        if answer.status not in (204, 304):
            answer.headers.setdefault("Content-Length", str(answer.length if answer.file else len(answer.body)))
        return answer

    def _answer(self, scope: dict[str, Any]) -> Response:
        method = scope["method"]
        if method not in ("GET", "HEAD", "OPTIONS"):
            # The body of such a request is not read, so the connection cannot be used again.
            return _text(405, f"A hub is read-only: use {METHODS}.\n", {"Allow": METHODS, "Connection": "close"})
        if method == "OPTIONS":
            return Response(
                204,
                {
                    "Allow": METHODS,
                    "Access-Control-Allow-Origin": "*",
                    "Access-Control-Allow-Methods": METHODS,
                    "Access-Control-Allow-Headers": "If-None-Match, If-Range, Range",
                    "Access-Control-Max-Age": "86400",
                },
            )
        path = _decoded(scope.get("raw_path") or scope["path"].encode())
        if path is None:
            return _text(400, "This address cannot be understood: it holds encoded slashes or broken characters.\n")
        raw_query = scope["query_string"].decode("latin-1")
        query: dict[str, str] = {}
        try:
            for key, value in urllib.parse.parse_qsl(raw_query, keep_blank_values=True, max_num_fields=100):
                query.setdefault(key, value)
        except ValueError:
            return _text(400, "This address asks for too many things at once.\n")
        request = Request(method, path, query, raw_query, Headers(scope=scope))
        if not path:
            return self._file(request, "index.html")
        name = path.removesuffix("/")
        try:
            checked(name)
        except StorageError:
            return self._missing("Not found.\n", request)
        if name.endswith(".tar.gz"):
            return self._archive(request, name.removesuffix(".tar.gz"))
        if "tf-hub-format" in query:
            return self._module(request, name, query["tf-hub-format"])
        return self._page(request, name)

    # Modules

    def _module(self, request: Request, handle: str, wanted: str) -> Response:
        """What a client of tensorflow_hub is told."""
        if not _is_handle(handle) or self._record(handle) is None:
            return self._redirect_to_newest(request, handle, "") or self._not_published(handle)
        if wanted == "compressed":
            return self._archive(request, handle)
        if wanted == "uncompressed":
            if self.storage.url.startswith("gs://") and self.storage.exists(f"{handle}/saved_model.pb"):
                address = self.storage.url_for(handle)
                return _text(303, address, {"Location": address, "Cache-Control": REVALIDATE})
            return _text(
                404,
                f"{handle} is not kept unpacked. Load it compressed: unset TFHUB_MODEL_LOAD_FORMAT and try again.\n",
            )
        return _text(404, f"This hub has no format {wanted[:40]!r}. Request for tf-hub-format=compressed.\n")

    def _archive(self, request: Request, handle: str) -> Response:
        if not _is_handle(handle):
            return self._missing("Not found.\n", request)
        record = self._record(handle)
        path = f"{handle}.tar.gz"
        if record is None:
            return self._not_published(handle)
        try:
            file, size, tag = self._open(path)
        except NotThere:
            logger.error("%s has a record but no archive", handle)
            return _text(500, f"{handle} is published, but its archive is gone. Tell the hub's owner.\n")
        facts = record["archive"] if isinstance(record.get("archive"), dict) else {}
        if facts.get("bytes", size) != size:
            file.close()
            logger.error("%s has %d bytes, and its record says %s", path, size, facts["bytes"])
            return _text(500, f"The archive of {handle} is damaged. Tell the hub's owner.\n")
        if re.fullmatch("[0-9a-f]{64}", str(facts.get("sha256"))):
            tag = f'"{facts["sha256"]}"'
        file_name = "_".join(re.sub(r"[^\w.-]", "_", segment, flags=re.ASCII) for segment in handle.split("/")[1:])
        headers = {
            # No Content-Encoding: with one, clients would unpack twice.
            "Content-Type": content_type(path),
            "Content-Disposition": f'attachment; filename="{file_name}.tar.gz"',
            "Cache-Control": IMMUTABLE,
            "ETag": tag,
            **SHARING_HEADERS,
        }
        return _ranged(request, headers, file=file, size=size)

    def _record(self, handle: str) -> dict[str, Any] | None:
        """The record that makes a module published, or None. Kept once read: it never changes.

        A folder is asked whether it is still there, and the same file.
        """
        key = handle
        if self.storage.is_local:
            try:
                status = os.stat(self.storage.local_path(f"{handle}.json"))
                key = (handle, status.st_ino, status.st_mtime_ns, status.st_size)
            except (OSError, StorageError):
                key = None  # reading tells why
        with self._lock:
            if key in self._records:
                self._records.move_to_end(key)
                return self._records[key]
        try:
            record = json.loads(self.storage.read(f"{handle}.json"))
        except NotThere:
            return None
        except ValueError as error:
            raise StorageError(f"{self.storage.url_for(handle)}.json is no JSON: {error}. Restore it.") from error
        if not isinstance(record, dict):
            raise StorageError(f"{self.storage.url_for(handle)}.json is no JSON object. Restore it.")
        if key is not None:
            with self._lock:
                self._records[key] = record
                while len(self._records) > RECORDS_KEPT:
                    self._records.popitem(last=False)
        return record

    def _newest(self, name: str) -> int | None:
        """The highest version of a module that has a record, or of a collection that has a document; yanked ones come last."""
        segments = name.split("/")
        if len(segments) < 2 or segments[0] == "static":
            return None
        ending = ".md" if segments[1] == "collections" else ".json"
        found = self.storage.list(f"{name}/", ending, recursive=False)
        texts = (path[len(name) + 1 : -len(ending)] for path in found)
        versions = [int(text) for text in texts if re.fullmatch("0|[1-9][0-9]{0,17}", text)]
        yanked = notes.yanked(self.storage, found)
        return max(versions, key=lambda version: (f"{name}/{version}" not in yanked, version), default=None)

    def _redirect_to_newest(self, request: Request, name: str, ending: str) -> Response | None:
        """From a module or collection without a version to its newest one, with the query; None if there is none."""
        newest = self._newest(name)
        if newest is None:
            return None
        return _redirect(_relative(request.path, f"{name}/{newest}") + ending, request.raw_query)

    def _not_published(self, handle: str, request: Request | None = None) -> Response:
        return self._missing(f"{handle} is not published in this hub. Check publisher, name and version.\n", request)

    # Pages

    def _page(self, request: Request, path: str) -> Response:
        handles = _handles_of(path)
        handle = next((each for each in handles if self._record(each) is not None), None)
        if handles and handle is None and not self._is_archive_of_documents():
            return self._redirect_to_newest(request, path, "/") or self._not_published(handles[0], request)
        if request.path.endswith("/"):
            with contextlib.suppress(NotThere):
                return self._file(request, f"{path}/index.html")
        else:
            with contextlib.suppress(NotThere):
                return self._file(request, path)
            if path == handle and _prefers_markdown(request.headers):
                with contextlib.suppress(NotThere):
                    return self._file(request, f"{path}.md", {"Vary": "Accept, Accept-Encoding"})
            if self.storage.exists(f"{path}/index.html"):
                vary = {"Vary": "Accept"} if path == handle else {}
                return _redirect(_relative(request.path, path) + "/", request.raw_query, vary)
        if path == handle:
            # Published, and its page is still being made: the document will do.
            with contextlib.suppress(NotThere):
                return self._file(request, f"{path}.md", {"Content-Type": "text/plain; charset=utf-8"})
        return self._redirect_to_newest(request, path, "/") or self._missing("Not found.\n", request)

    def _is_archive_of_documents(self) -> bool:
        """Whether this is a site that `tools/render.py --docs` made: there pages need no record. Its index says so at once."""
        with contextlib.suppress(NotThere), self.storage.open("index.json") as file:
            return b'"kind":"Documents"' in file.read(200)
        return False

    def _file(self, request: Request, path: str, extra: dict[str, str] | None = None) -> Response:
        """A file of the hub as it is; raises NotThere."""
        file, size, tag = self._open(path)
        headers = {"Content-Type": content_type(path), "Cache-Control": REVALIDATE}
        if path.endswith((".json", ".md", ".xml")):
            headers |= SHARING_HEADERS
        if not path.endswith(COMPRESSIBLE) or size > WHOLE_BYTES:
            return _ranged(request, headers | {"ETag": tag} | (extra or {}), file=file, size=size)
        with file:
            body = file.read()
        digest = hashlib.sha256(body).hexdigest()[:32]
        # Weak, because compressed and plain answers share it.
        headers |= {"ETag": f'W/"{digest}"', "Vary": "Accept-Encoding"} | (extra or {})
        if "range" not in request.headers and len(body) > 500 and _accepts_gzip(request.headers):
            body = self._gzipped(digest, body)
            headers["Content-Encoding"] = "gzip"
        return _ranged(request, headers, body=body, size=len(body))

    def _open(self, path: str) -> tuple[BinaryIO, int, str]:
        """A file, its size, and a strong tag for what it holds now; raises NotThere."""
        if self.storage.is_local:
            file = self.storage.open(path)
            status = os.fstat(file.fileno())
            return file, status.st_size, f'"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"'
        about = self.storage.stat(path)
        return self.storage.open(path), about.size, f'"{about.tag}"'

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

    def _missing(self, text: str, request: Request | None = None) -> Response:
        """404: the hub's own page, or plain words."""
        if request is not None:
            with contextlib.suppress(StorageError):
                body = self.storage.read("404.html")
                return Response(404, {"Content-Type": content_type("404.html"), "Cache-Control": REVALIDATE}, body)
        return _text(404, text)


def _decoded(raw_path: bytes) -> str | None:
    """The path without its leading slash, or None if it cannot be meant honestly."""
    text = raw_path.decode("ascii", "replace")
    # An encoded slash, backslash or control character is never in an address that a hub gave out.
    if not text.startswith("/") or re.search(r"%(2f|5c|[01][0-9a-f]|7f)", text, re.IGNORECASE):
        return None
    try:
        return urllib.parse.unquote(text[1:], errors="strict")
    except UnicodeDecodeError:
        return None


def _is_handle(path: str) -> bool:
    return path in _handles_of(path)


def _handles_of(path: str) -> list[str]:
    """The handles `publisher/name/version` whose file or page a path may be, the longest first.

    More than one where a name has a segment of digits; none for what belongs to no module.
    """
    segments = path.split("/")
    if segments[0] == "static" or (len(segments) > 1 and segments[1] == "collections"):
        return []
    handles = []
    for index in range(2, len(segments)):
        version = re.fullmatch(r"([0-9]+)(\.tar\.gz|\.json|\.md)?", segments[index])
        if version and (version[2] is None or index == len(segments) - 1):
            handles.append("/".join([*segments[:index], version[1]]))
    return handles[::-1]


def _prefers_markdown(headers: Headers) -> bool:
    accept = headers.get("accept", "").lower()
    return "text/markdown" in accept and "text/html" not in accept


def _accepts_gzip(headers: Headers) -> bool:
    for part in headers.get("accept-encoding", "").lower().split(","):
        coding, _, weight = part.partition(";")
        if coding.strip() == "gzip":
            return not re.fullmatch(r"\s*q=0(\.0*)?\s*", weight)
    return False


def _relative(current: str, target: str) -> str:
    """A relative reference from the page at `current` (as asked for, maybe with a final slash) to a path below it."""
    base = current.rpartition("/")[0]
    reference = target[len(base) + 1 :] if base else target
    # The dot keeps a segment with a colon from being read as a scheme.
    return "./" + urllib.parse.quote(reference)


def _redirect(location: str, raw_query: str = "", extra: dict[str, str] | None = None) -> Response:
    query = re.sub(r"[^!-~]", "", raw_query)
    location += f"?{query}" if query else ""
    return _text(302, f"See {location}\n", {"Location": location, "Cache-Control": REVALIDATE, **(extra or {})})


def _text(status: int, text: str, extra: dict[str, str] | None = None) -> Response:
    return Response(status, {"Content-Type": "text/plain; charset=utf-8", **(extra or {})}, text.encode())


# Conditions and ranges (RFC 9110, sections 13 and 14)


def _ranged(
    request: Request, headers: dict[str, str], *, size: int, body: bytes = b"", file: BinaryIO | None = None
) -> Response:
    """The whole content, a single range of it, or word that the client has it already."""

    def without_content(status: int, extra: dict[str, str]) -> Response:
        if file:
            file.close()
        return Response(status, extra)

    tag = headers["ETag"]
    if _holds_tag(request.headers.get("if-none-match", ""), tag):
        kept = ("ETag", "Cache-Control", "Vary", *SHARING_HEADERS)
        return without_content(304, {key: value for key, value in headers.items() if key in kept})
    headers = {**headers, "Accept-Ranges": "bytes"}
    wanted = _range(request.headers.get("range", ""), size)
    condition = request.headers.get("if-range")
    # If-Range is compared strongly: pieces of two answers are put together, so they must be the same to the byte.
    if condition is not None and (condition.strip() != tag or tag.startswith("W/")):
        wanted = None
    if wanted == "impossible":
        headers["Content-Range"] = f"bytes */{size}"
        return without_content(416, {**headers, "Content-Length": "0"})
    if wanted is None:
        return Response(200, headers, body, file, 0, size)
    first, last = wanted
    headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    return Response(206, headers, body[first : last + 1], file, first, last - first + 1)


def _holds_tag(header: str, tag: str) -> bool:
    """Whether an If-None-Match names the tag; compared weakly."""
    if header.strip() == "*":
        return True
    return tag.removeprefix("W/") in re.findall(r'(?:W/)?("[^"]*")', header)


def _range(header: str, size: int) -> tuple[int, int] | str | None:
    """First and last byte, "impossible", or None: no range, several, or none that makes sense, so all is sent."""
    match = re.fullmatch(r"\s*bytes\s*=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})\s*", header, re.IGNORECASE)
    if not match or not (match[1] or match[2]):
        return None
    if not match[1]:
        count = min(int(match[2]), size)
        return (size - count, size - 1) if count else "impossible"
    first = int(match[1])
    last = min(int(match[2]), size - 1) if match[2] else size - 1
    if match[2] and int(match[2]) < first:
        return None
    return (first, last) if first < size else "impossible"


# Sending


async def _send(answer: Response, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
    headers = [(key.lower().encode("latin-1"), value.encode("latin-1")) for key, value in answer.headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    if scope["method"] == "HEAD" or not answer.file or not answer.length:
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})
    elif ZERO_COPY in (scope.get("extensions") or {}) and _has_descriptor(answer.file):
        await send({"type": ZERO_COPY, "file": answer.file, "offset": answer.offset, "count": answer.length})
    else:
        await _send_pieces(answer, receive, send)


def _has_descriptor(file: BinaryIO) -> bool:
    try:
        return file.fileno() >= 0
    except (AttributeError, OSError, ValueError):
        return False


async def _send_pieces(answer: Response, receive: Callable, send: Callable) -> None:
    """Reads one piece while the one before it is sent, and stops when the client goes away."""
    gone = asyncio.Event()

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    def read(count: int) -> bytes:
        return answer.file.read(min(READ_BYTES, count))

    watcher = asyncio.create_task(watch())
    reader = None
    try:
        await run_in_threadpool(answer.file.seek, answer.offset)
        left = answer.length
        reader = asyncio.create_task(run_in_threadpool(read, left))
        while left and not gone.is_set():
            piece = await reader
            reader = None
            if not piece:
                raise RuntimeError(f"a file of the hub ended {left} bytes too early")
            left -= len(piece)
            if left:
                reader = asyncio.create_task(run_in_threadpool(read, left))
            await send({"type": "http.response.body", "body": piece, "more_body": left > 0})
    finally:
        watcher.cancel()
        if reader:  # the file is closed by the caller, and must not be closed while a thread reads it
            with contextlib.suppress(Exception):
                await reader


class _Placeholder:
    """Stands for bytes that sendfile sends: HTTP framing only asks for their number."""

    def __init__(self, length: int):
        self._length = length

    def __len__(self) -> int:
        return self._length


class _SendfileProtocol(H11Protocol):
    """uvicorn's HTTP with ASGI's zero-copy extension, which uvicorn itself does not have."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._application = self.app
        self.app = self._run

    async def _run(self, scope, receive, send) -> None:
        cycle = self.cycle
        scope.setdefault("extensions", {})[ZERO_COPY] = {}

        async def send_or_sendfile(message) -> None:
            if message["type"] != ZERO_COPY:
                await send(message)
                return
            if not await self._sendfile(cycle, message["file"], message.get("offset", 0), message["count"]):
                return
            if not message.get("more_body", False):
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        try:
            await self._application(scope, receive, send_or_sendfile)
        except asyncio.CancelledError:  # the server stops, and this client was too slow for its grace
            _hang_up(cycle)

    async def _sendfile(self, cycle, file: BinaryIO, offset: int, count: int) -> bool:
        """Sends a piece of a file; False if the client went away meanwhile."""
        if cycle.disconnected:
            return False
        cycle.conn.send_with_data_passthrough(h11.Data(data=_Placeholder(count)))
        try:
            sent = await self.loop.sendfile(cycle.transport, file, offset, count)
        except (ConnectionError, RuntimeError, TimeoutError) as error:
            # RuntimeError is what asyncio says about a transport that is closing.
            if isinstance(error, RuntimeError) and not cycle.transport.is_closing():
                raise
            _hang_up(cycle)
            return False
        if sent != count:
            raise RuntimeError(f"{getattr(file, 'name', 'a file')} ended {count - sent} bytes too early")
        return True


def _hang_up(cycle) -> None:
    cycle.transport.abort()
    cycle.disconnected = True  # uvicorn will learn it in a moment, and should not wonder about half an answer before


# Running


class _Server(uvicorn.Server):
    """uvicorn's server that says when it is ready, and to which a signal to stop is a success."""

    ready: Callable[[], None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.ready:
            self.ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals():
            yield
            self._captured_signals.clear()  # else they are raised once more, and end the process with an error


def _server(storage: Storage, log: Callable[[str], Any] | None = None) -> _Server:
    return _Server(
        uvicorn.Config(
            application(storage, log),
            http=_SendfileProtocol,
            loop="asyncio",
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )


def listen(host: str = "127.0.0.1", port: int = 0) -> tuple[socket.socket, str]:
    """A listening socket and its URL; port 0 takes a free one.

    Raises:
      StorageError: if the address cannot be had, with the reason.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.create_server(address[:2], family=family, backlog=512) as listener:
            # Said to be TCP, which create_server leaves open: asyncio sends at once (TCP_NODELAY) only where it is said. Else the
            # body of each answer would wait until the client acknowledges its headers, which takes 40 ms.
            listener = socket.socket(family, listener.type, socket.IPPROTO_TCP, listener.detach())
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise StorageError(
            f"Cannot listen at {host}, port {port}: {reason}. Choose another --port (0 takes a free one) or --host."
        ) from error
    shown = f"[{host}]" if ":" in host else host
    return listener, f"http://{shown}:{listener.getsockname()[1]}"


@contextlib.contextmanager
def serve(storage: Storage | str | os.PathLike, port: int = 0, host: str = "127.0.0.1") -> Iterator[str]:
    """Serves a hub from a thread while the block runs; yields the base URL, without a final slash."""
    listener, url = listen(host, port)
    server = _server(storage if isinstance(storage, Storage) else Storage(storage))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="hub server", daemon=True)
    thread.start()
    try:
        # Connections are queued by the listener, so nobody need wait for the thread.
        yield url
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@contextlib.contextmanager
def access_log(file: str | None) -> Iterator[Callable[[str], Any] | None]:
    """What writes lines to the end of a file, or to standard error for `-`; None for None.

    Raises:
      StorageError: if the file cannot be written.
    """
    if file is None:
        yield None
    elif file == "-":
        yield sys.stderr.write
    else:
        with contextlib.ExitStack() as stack:
            try:
                # Line by line, so that a reader sees no half line, and a second server may append to it, too.
                opened = stack.enter_context(open(file, "a", buffering=1, encoding="ascii"))
            except OSError as error:
                raise StorageError(
                    f"Cannot write the access log {file}: {error.strerror}. Choose another file."
                ) from error
            yield opened.write


def run(
    storage: Storage,
    *,
    host: str,
    port: int,
    ready: Callable[[str], None],
    log: Callable[[str], Any] | None = None,
) -> None:
    """Serves a hub until SIGINT or SIGTERM; `ready` is called with the base URL once connections are accepted.

    `log` is given a line for each answer (`access_log`).
    """
    listener, url = listen(host, port)
    with listener:
        server = _server(storage, log)
        server.ready = lambda: ready(url)
        server.run(sockets=[listener])


def other_address(storage: Storage, url: str) -> str | None:
    """The address that the hub's pages were made for (`url` in `index.json`), if it is not this one."""
    try:
        made_for = address.of_index(storage)
    except StorageError:
        return None
    return None if made_for == url.rstrip("/") else made_for


__all__ = ["Response", "access_log", "application", "listen", "other_address", "run", "serve"]
