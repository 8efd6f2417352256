"""Send responses: files through sendfile(2) where server and file can, else in pieces.

Home-made, because uvicorn lacks ASGI's zero-copy extension, and copying archives through Python takes several times the processor
time.
"""

import asyncio
import contextlib
from typing import Any, BinaryIO

import h11
from starlette.concurrency import run_in_threadpool
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from tools.server.messages import Response

READ_BYTES = 1 << 20  # per piece
ZERO_COPY = "http.response.zerocopysend"


async def send_response(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Send a response by ASGI; the caller closes its file."""
    headers = [(key.lower().encode("latin-1"), value.encode("latin-1")) for key, value in response.headers.items()]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    file = response.file
    if scope["method"] == "HEAD" or not file or not response.length:
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else response.body})
    elif ZERO_COPY in (scope.get("extensions") or {}) and _has_descriptor(file):
        await send({"type": ZERO_COPY, "file": file, "offset": response.offset, "count": response.length})
    else:
        await _send_pieces(file, response.offset, response.length, receive, send)


def _has_descriptor(file: BinaryIO) -> bool:
    try:
        return file.fileno() >= 0
    except (AttributeError, OSError, ValueError):
        return False


async def _send_pieces(file: BinaryIO, offset: int, left: int, receive: Receive, send: Send) -> None:
    """Read one piece while the one before it is sent, and stop when the client goes away."""
    gone = asyncio.Event()

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    def read() -> asyncio.Task[bytes]:
        return asyncio.create_task(run_in_threadpool(file.read, min(READ_BYTES, left)))

    watcher = asyncio.create_task(watch())
    reader: asyncio.Task[bytes] | None = None
    try:
        await run_in_threadpool(file.seek, offset)
        reader = read()
        while left and not gone.is_set():
            piece = await reader
            if not piece:
                raise RuntimeError(f"a file of the hub ended {left} bytes too early")
            left -= len(piece)
            if left:
                reader = read()
            await send({"type": "http.response.body", "body": piece, "more_body": left > 0})
    finally:
        watcher.cancel()
        if reader:  # the caller closes the file, which must not happen while a thread reads it
            with contextlib.suppress(Exception):
                await reader


class _Placeholder:
    """Stands for bytes that sendfile sends: HTTP framing only asks for their number."""

    def __init__(self, length: int):
        self._length = length

    def __len__(self) -> int:
        return self._length


class SendfileProtocol(H11Protocol):
    """uvicorn's HTTP protocol with ASGI's zero-copy extension."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._application = self.app
        self.app = self._run

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        cycle = self.cycle
        scope.setdefault("extensions", {})[ZERO_COPY] = {}

        async def send_or_sendfile(message: Message) -> None:
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

    async def _sendfile(self, cycle: RequestResponseCycle, file: BinaryIO, offset: int, count: int) -> bool:
        """Send a piece of a file; return False if the client went away meanwhile."""
        if cycle.disconnected:
            return False
        cycle.conn.send_with_data_passthrough(h11.Data(data=_Placeholder(count)))
        try:
            sent = await self.loop.sendfile(cycle.transport, file, offset, count)
        except (ConnectionError, RuntimeError, TimeoutError) as error:
            # asyncio raises RuntimeError for a transport that is closing.
            if isinstance(error, RuntimeError) and not cycle.transport.is_closing():
                raise
            _hang_up(cycle)
            return False
        if sent != count:
            raise RuntimeError(f"{getattr(file, 'name', 'a file')} ended {count - sent} bytes too early")
        return True


def _hang_up(cycle: RequestResponseCycle) -> None:
    cycle.transport.abort()
    cycle.disconnected = True  # uvicorn will learn it in a moment, and must not complain of half a response before
