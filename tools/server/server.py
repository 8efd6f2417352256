"""Serve a hub over HTTP, from a script or in a thread.

    with serve(Storage("hub")) as url:                       # a free port, in a thread
        tensorflow_hub.load(f"{url}/publisher/name/1")

`tools.server.application` says what is served at which address.
"""

import asyncio
import contextlib
import functools
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import uvicorn

from tools.common.problems import with_fix
from tools.hub import address
from tools.hub.storage import Storage, StorageError
from tools.server.access_log import Log, access_log
from tools.server.application import application
from tools.server.connections import (
    ACCEPTED_AT_ONCE,
    AcceptErrors,
    ConnectionTable,
    LimitedProtocol,
    Limits,
    default_limits,
    raise_limit_of_files,
)
from tools.server.messages import MAX_HEAD_BYTES

GRACE_SECONDS = 3  # for responses that are on their way when the server is told to stop
QUEUE_LENGTH = 512  # connections that the kernel keeps until they are accepted


class _Server(uvicorn.Server):
    """uvicorn's server, with a call when it is ready, and for which a signal to stop is a success."""

    ready: Callable[[], None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(AcceptErrors())
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(QUEUE_LENGTH)  # asyncio has one number for this queue and for how many it accepts at once
        if self.ready:
            self.ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals():
            yield
            self._captured_signals.clear()  # else they are raised once more, and end the process with an error


def _server(storage: Storage, log: Log | None = None, limits: Limits | None = None) -> _Server:
    table = ConnectionTable(limits or default_limits())
    return _Server(
        uvicorn.Config(
            application(storage, log),
            http=cast(Any, functools.partial(LimitedProtocol, table)),  # a class, says uvicorn, and only calls it
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            backlog=ACCEPTED_AT_ONCE,
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
    """Return a listening socket and its URL; port 0 takes a free one.

    Raises:
      StorageError: the address cannot be had; the message has the reason.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.create_server(address[:2], family=family, backlog=QUEUE_LENGTH) as listener:
            # Declared as TCP, which create_server leaves open: asyncio sends at once (TCP_NODELAY) only on such a socket. Else the
            # body of each response would wait until the client acknowledges its headers, which takes 40 ms.
            listener = socket.socket(family, listener.type, socket.IPPROTO_TCP, listener.detach())
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        message = f"Cannot listen at {host}, port {port}: {reason}"
        raise StorageError(with_fix(message, "choose another --port (0 takes a free one) or --host")) from error
    shown = f"[{host}]" if ":" in host else host
    return listener, f"http://{shown}:{listener.getsockname()[1]}"


@contextlib.contextmanager
def serve(storage: Storage | str | os.PathLike[str], port: int = 0, *, limits: Limits | None = None) -> Iterator[str]:
    """Serve a hub from a thread while the block runs; yield the base URL, without a final slash."""
    listener, url = listen(port=port)
    server = _server(storage if isinstance(storage, Storage) else Storage(storage), limits=limits)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="hub server", daemon=True)
    thread.start()
    try:
        # Connections are queued by the listener, so nobody need wait for the thread.
        yield url
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def run(storage: Storage, *, host: str, port: int, ready: Callable[[str], None], log: Log | None = None) -> None:
    """Serve a hub until SIGINT or SIGTERM; `ready` is called with the base URL once connections are accepted.

    `log` is given a line for each response (`access_log`).
    """
    raise_limit_of_files()
    listener, url = listen(host, port)
    with listener:
        server = _server(storage, log)
        server.ready = lambda: ready(url)
        server.run(sockets=[listener])


def other_address(storage: Storage, url: str) -> str | None:
    """Return the address that the hub's pages were made for (`url` in `index.json`), if it is not this one."""
    try:
        made_for = address.of_index(storage)
    except StorageError:
        return None
    return None if made_for == url.rstrip("/") else made_for


__all__ = ["access_log", "application", "listen", "other_address", "run", "serve"]
