"""Limits on connections, so that clients which send nothing cannot keep others from being served.

| limit | what happens beyond it |
|---|---|
| `request_seconds` until the head of the next request is complete | 408 if a part of it came, and the connection is closed |
| `MAX_TARGET_BYTES` of path and query, `MAX_HEAD_BYTES` of all headers | 414, 431 |
| `unacknowledged_seconds` in which a client takes nothing of its response | the kernel closes the connection |
| `connections` at once | the one that waits longest for a request is closed; if all are being answered, 503 |

Home-made on top of uvicorn, because uvicorn has a limit for idle connections after a response only: one that never sends a whole
request is kept for ever, and `limit_concurrency` refuses new clients instead of idle ones. (granian and hypercorn have no limit
for the head of a request either, or close no idle connection when there are too many.)
"""

import asyncio
import dataclasses
import logging
import resource
import socket
import sys
import time
from typing import Any

import h11

from tools.server.sending import SendfileProtocol

# Open files that are no connections: libraries, logs, listing. Each connection may have a file of the hub open besides its own.
OTHER_FILES = 100
ACCEPTED_AT_ONCE = 50  # connections that asyncio accepts before it looks at anything else
LOG_SECONDS = 60  # between two lines about one kind of trouble

logger = logging.getLogger("hubpress.server")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What connections may take.

    Attributes:
        connections: at once.
        request_seconds: until the head of the first or next request is complete.
        unacknowledged_seconds: in which a client must take something of its response (Linux only).
    """

    connections: int
    request_seconds: float = 15
    unacknowledged_seconds: float = 60


def default_limits() -> Limits:
    """Return the limits that the process's limit of open files allows."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        files = 1 << 16
    return Limits(connections=max(16, min((files - OTHER_FILES - ACCEPTED_AT_ONCE) // 2, 10_000)))


def raise_limit_of_files() -> None:
    """Take as many open files as the system lets this process have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1 << 16 if hard == resource.RLIM_INFINITY else min(hard, 1 << 16)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class ConnectionTable:
    """The connections of a server, and which of them wait for a request, in the order in which they began to wait."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self.waiting: dict[LimitedProtocol, None] = {}

    def make_room(self, open_connections: int) -> bool:
        """Close what waits longest if there are too many connections; return whether there is room now."""
        if open_connections <= self.limits.connections:
            return True
        longest = next(iter(self.waiting), None)
        if longest is None:
            return False
        longest.stop_waiting()
        longest.transport.abort()
        return True


class LimitedProtocol(SendfileProtocol):
    """HTTP with the limits of a `ConnectionTable`."""

    def __init__(self, table: ConnectionTable, **options: Any):
        super().__init__(**options)
        self._table = table
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        opened = transport.get_extra_info("socket")
        if opened is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            milliseconds = round(1000 * self._table.limits.unacknowledged_seconds)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        if self._table.make_room(len(self.connections)):
            self._wait()
        else:
            self._refuse(503, "This hub has too many clients at the moment. Fix: try again later.", retry_after=10)

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self.stop_waiting()

    def on_response_complete(self) -> None:
        self._wait()  # first, because the next request may lie in the buffer already
        super().on_response_complete()
        if not self.cycle.response_complete or self.transport.is_closing():
            self.stop_waiting()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request: 414 or 431 if it is too long, else 400."""
        too_long = getattr(sys.exception(), "error_status_hint", 400) == 431
        if not too_long:
            self._refuse(400, msg)
        elif b"\n" not in self.conn.trailing_data[0]:
            self._refuse(414, "This address is too long. Fix: shorten it.")
        else:
            self._refuse(431, "The headers of this request are too long. Fix: send fewer.")

    def stop_waiting(self) -> None:
        """Forget that this connection waits for a request."""
        self._table.waiting.pop(self, None)
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        """Begin to wait for the head of a request."""
        self.stop_waiting()
        self._table.waiting[self] = None
        self._timer = self.loop.call_later(self._table.limits.request_seconds, self._give_up)

    def _give_up(self) -> None:
        self.stop_waiting()
        if self.conn.trailing_data[0]:
            self._refuse(408, "The request did not come to its end in time. Fix: send it at once.")
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        """Answer without asking the application, where a response may still be sent, and close the connection."""
        self.stop_waiting()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [("Content-Type", "text/plain; charset=utf-8"), ("Connection", "close")]
            headers += [("Retry-After", str(retry_after))] if retry_after else []
            body = f"{message}\n".encode()
            headers.append(("Content-Length", str(len(body))))
            for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        self.transport.close()


class AcceptErrors:
    """Log that connections cannot be accepted once a minute, with their number, and not for each of them."""

    def __init__(self) -> None:
        self.count = 0
        self._logged_at = -float("inf")

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle an error of the event loop (see `loop.set_exception_handler`)."""
        if "accept() out of system resource" not in context.get("message", ""):
            loop.default_exception_handler(context)
            return
        self.count += 1
        now = time.monotonic()
        if now - self._logged_at >= LOG_SECONDS:
            self._logged_at = now
            message = "cannot accept connections (%d times by now): %s. Fix: raise the limit of open files (ulimit -n)"
            logger.error(message, self.count, context.get("exception"))
