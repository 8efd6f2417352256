"""Requests and responses of the hub's server, and the headers that responses share."""

import dataclasses
import re
from typing import BinaryIO

from starlette.datastructures import Headers

from tools.hub.storage import REVALIDATE

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "strict-origin-when-cross-origin",
}
# A hub's content is public, so pages of others may read it from a script.
SHARING_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Accept-Ranges, Content-Disposition, Content-Length, Content-Range, ETag",
}
# The queries of clients of TensorFlow Lite and TensorFlow.js, as tfhub.dev had them.
OTHER_FORMATS = ("lite-format", "tfjs-format", "coral-format")
PLAIN_TEXT = "text/plain; charset=utf-8"
MAX_TARGET_BYTES = 8 << 10  # of path and query
MAX_HEAD_BYTES = 16 << 10  # of all headers


@dataclasses.dataclass(frozen=True)
class Request:
    """The parts of a request that matter here. `path` has no leading slash; `query` holds the first value of each key."""

    method: str
    path: str
    query: dict[str, str]
    raw_query: str
    headers: Headers


@dataclasses.dataclass
class Response:
    """One response: either `body`, or `length` bytes of `file` from `offset` on."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    file: BinaryIO | None = None
    offset: int = 0
    length: int = 0

    @property
    def size(self) -> int:
        """The bytes of the content."""
        return self.length if self.file else len(self.body)


def text(status: int, message: str, extra: dict[str, str] | None = None) -> Response:
    """Return a line of plain text."""
    return Response(status, {"Content-Type": PLAIN_TEXT, **(extra or {})}, f"{message}\n".encode())


def redirect(location: str, raw_query: str = "", extra: dict[str, str] | None = None) -> Response:
    """Return a redirect that keeps the query."""
    query = re.sub(r"[^!-~]", "", raw_query)
    location += f"?{query}" if query else ""
    return text(302, f"See {location}", {"Location": location, "Cache-Control": REVALIDATE, **(extra or {})})
