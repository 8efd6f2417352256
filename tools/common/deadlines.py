"""HTTP requests that end in time, however slowly the server sends.

    response = get("https://models.example.org/index.json", 60.0, stream=True, timeout=(15, 60))

`requests` limits the time between two bytes, in the headers as well as in the body, so that a server which drips holds a client as
long as it likes. Here the connection is shut down when its time is up, and whoever reads from it sees it end.
"""

import contextlib
import os
import socket
import threading
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection


class _Deadline:
    """The sockets of one request, and the moment when they are shut down."""

    def __init__(self, seconds: float):
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._is_over = False
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    def watch(self, connected: socket.socket) -> None:
        """Shut this socket down, too; a duplicate is kept, because TLS takes the socket itself away."""
        duplicate = socket.socket(fileno=os.dup(connected.fileno()))
        with self._lock:
            self._sockets.append(duplicate)
            is_over = self._is_over
        if is_over:
            self._end()

    def close(self) -> None:
        """Forget the sockets: all was read in time."""
        self._timer.cancel()
        with self._lock:
            for each in self._sockets:
                each.close()
            self._sockets.clear()

    def _end(self) -> None:
        with self._lock:
            self._is_over = True
            for each in self._sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)


def get(url: str, seconds: float | None, **options: Any) -> requests.Response:
    """Return the response to a GET request, whose connection ends after `seconds`, its body included; None is no limit.

    `options` are those of `requests.get`. Close the response. Raises as `requests.get` does.
    """
    if seconds is None:
        return requests.get(url, **options)
    deadline = _Deadline(seconds)

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            connected = super()._new_conn()
            deadline.watch(connected)
            return connected

    class Encrypted(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            connected = super()._new_conn()
            deadline.watch(connected)
            return connected

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class EncryptedPool(HTTPSConnectionPool):
        ConnectionCls = Encrypted

    pools = {"http": PlainPool, "https": EncryptedPool}

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
            super().init_poolmanager(*arguments, **options)
            self.poolmanager.pool_classes_by_scheme = pools

        def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
            manager = super().proxy_manager_for(proxy, **options)
            manager.pool_classes_by_scheme = pools
            return manager

    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, Adapter())
    try:
        response = session.get(url, **options)
    except BaseException:
        session.close()
        deadline.close()
        raise
    close_response = response.close

    def close() -> None:
        close_response()
        session.close()
        deadline.close()

    response.close = close  # type: ignore[method-assign]
    return response
