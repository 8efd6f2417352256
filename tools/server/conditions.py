"""Conditional requests, ranges and content negotiation (RFC 9110, sections 12 to 14).

Home-made, because Starlette has them only inside of `FileResponse` and `StaticFiles`, which open files by path and send them in
pieces: neither buckets nor sendfile go through them.
"""

import re
from typing import BinaryIO

from starlette.datastructures import Headers

from tools.server.messages import SHARING_HEADERS, Request, Response

# Headers of a 304: those that a cache may update.
_NOT_MODIFIED_HEADERS = ("ETag", "Cache-Control", "Vary", *SHARING_HEADERS)


def respond(
    request: Request, headers: dict[str, str], *, size: int, body: bytes = b"", file: BinaryIO | None = None
) -> Response:
    """Return the whole content, the single range of it that was asked for, or 304 where the client has it already.

    `headers` has the content's `ETag`. The file is closed if it is not needed.
    """

    def without_content(status: int, headers: dict[str, str]) -> Response:
        if file:
            file.close()
        return Response(status, headers)

    tag = headers["ETag"]
    if _names_tag(request.headers.get("if-none-match", ""), tag):
        return without_content(304, {key: value for key, value in headers.items() if key in _NOT_MODIFIED_HEADERS})
    headers = {**headers, "Accept-Ranges": "bytes"}
    wanted = _range(request.headers.get("range", ""), size)
    condition = request.headers.get("if-range")
    # If-Range is compared strongly: pieces of two responses are put together, so they must be the same to the byte.
    if condition is not None and (condition.strip() != tag or tag.startswith("W/")):
        wanted = None
    if wanted is None:
        return Response(200, headers, body, file, 0, size)
    if not wanted:
        headers["Content-Range"] = f"bytes */{size}"
        return without_content(416, {**headers, "Content-Length": "0"})
    headers["Content-Range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{size}"
    return Response(206, headers, body[wanted.start : wanted.stop], file, wanted.start, len(wanted))


def _names_tag(header: str, tag: str) -> bool:
    """Return whether an If-None-Match names the tag; compared weakly."""
    if header.strip() == "*":
        return True
    return tag.removeprefix("W/") in re.findall(r'(?:W/)?("[^"]*")', header)


def _range(header: str, size: int) -> range | None:
    """Return the bytes that a Range header asks for, an empty range if there are none of them.

    None for all of the content: without a range, with several, or with one that makes no sense.
    """
    unit, _, wanted = header.partition("=")
    first_text, hyphen, last_text = (part.strip() for part in wanted.partition("-"))
    if unit.strip().lower() != "bytes" or not hyphen or not (first_text or last_text):
        return None
    if not all(re.fullmatch("[0-9]{0,18}", text) for text in (first_text, last_text)):
        return None
    if not first_text:
        return range(max(size - int(last_text), 0), size)
    first = int(first_text)
    if last_text and int(last_text) < first:
        return None
    return range(first, min(int(last_text) + 1, size) if last_text else size)


def prefers_markdown(headers: Headers) -> bool:
    """Return whether the client asks for the document and not for the page."""
    accept = headers.get("accept", "").lower()
    return "text/markdown" in accept and "text/html" not in accept


def accepts_gzip(headers: Headers) -> bool:
    """Return whether the client takes a compressed response."""
    for part in headers.get("accept-encoding", "").lower().split(","):
        coding, _, weight = part.partition(";")
        if coding.strip() == "gzip":
            return not re.fullmatch(r"\s*q=0(\.0*)?\s*", weight)
    return False
