"""Files: their digest, writing them whole or not at all, and where this repository and the default cache lie."""

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the repository
Progress = Callable[[int, int | None], None]  # called with the bytes done, and the bytes in all where they are known


def default_cache() -> Path:
    """Return the folder for downloads and builds: `$XDG_CACHE_HOME/hubpress`, or `~/.cache/hubpress`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "hubpress"


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def discard(path: Path) -> None:
    """Delete a file or a whole folder, if there is one; a link is deleted, not what it leads to."""
    with contextlib.suppress(FileNotFoundError):  # also of another process that does the same
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def discard_unless_folder(path: Path) -> None:
    """Delete what lies at a path of a cache where a folder belongs, and is none; never one that another process made just now."""
    with contextlib.suppress(OSError):
        if not path.is_dir():
            path.unlink()


def discard_unless_file(*paths: Path) -> None:
    """Delete what lies at paths of a cache where files belong, and is a folder or a link to nothing."""
    for path in paths:
        if path.is_dir() or (path.is_symlink() and not path.exists()):
            discard(path)


def make_cache_folder(path: Path) -> None:
    """Make a folder of a cache and those above it; whatever else lies at `path` is damage, and deleted."""
    discard_unless_folder(path)
    path.mkdir(parents=True, exist_ok=True)


def write_atomically(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write a file so that a reader sees the old content or the new one; make its folder if there is none.

    The new file has the permissions that any new file gets, whatever the old one had. A link at `path` is replaced, not followed.

    Raises:
      OSError: the file cannot be written; the old one is as it was, and nothing is left behind.
    """
    content = data.encode("utf-8") if isinstance(data, str) else data
    target = Path(path)
    try:
        descriptor, part = _open_beside(target)
    except FileNotFoundError:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, part = _open_beside(target)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(part, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
        raise


def _open_beside(target: Path) -> tuple[int, Path]:
    """Open a new file in the folder of `target`; its name is hidden and has a fixed length, so that it fits wherever `target` does.

    `tempfile.mkstemp` is no help here: it denies others to read, and asking for the umask changes it for all threads.
    """
    part = target.parent / f".{secrets.token_hex(8)}.part"
    return os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666), part
