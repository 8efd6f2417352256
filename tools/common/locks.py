"""Locks between processes; one ends with the process that holds it, however it ends.

    with lock(path): ...                        # wait for it; `path` is a file or a folder that exists
    with lock(path, wait=False): ...            # raises LockHeld if another process has it
    acquire(file.fileno(), wait=False)          # held until the file is closed

One answer to "this system, or this file system, has no locks": `LocksUnsupported` is raised. Who needs the lock for the data to be
right lets it pass; who only saves work with it, catches it and does without; and what may be at work is never deleted.
"""

import contextlib
import errno
import os
from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# EBADF: network file systems lock only what was opened for writing.
_UNSUPPORTED = frozenset((errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF))


class LocksUnsupported(OSError):
    """This system, or the file system, has no locks."""


class LockHeld(OSError):
    """Another process has the lock."""


def acquire(descriptor: int, *, wait: bool) -> None:
    """Lock an open file or folder until it is closed.

    Raises:
      LockHeld: another process has it, and `wait` is false.
      LocksUnsupported: there are no locks here.
    """
    if fcntl is None:
        raise LocksUnsupported(errno.ENOLCK, "this system has no locks")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise LockHeld(error.errno, "another process has the lock") from error
        if error.errno in _UNSUPPORTED:
            raise LocksUnsupported(error.errno, "this file system has no locks") from error
        raise


@contextlib.contextmanager
def lock(path: str | os.PathLike[str], *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of an existing file or folder; raises as `acquire` does."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        acquire(descriptor, wait=wait)
        yield
    finally:
        os.close(descriptor)


def may_be_held(path: str | os.PathLike[str]) -> bool:
    """Return whether a process may be at work on a file: it has the lock, or nobody can know."""
    try:
        with lock(path, wait=False):
            return False
    except (LockHeld, LocksUnsupported):
        return True
