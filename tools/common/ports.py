"""TCP ports of this machine."""

import contextlib
import socket

from tools.common.problems import with_fix


def free_port(wanted: int = 0) -> int:
    """Return `wanted` if nobody listens there on 127.0.0.1, else a free port; 0 asks for any.

    Raises:
      OSError: no port is free.
    """
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found: int = probe.getsockname()[1]
            return found
    raise OSError(with_fix("no port of 127.0.0.1 is free", "stop a program that listens there"))
