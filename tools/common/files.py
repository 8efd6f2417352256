"""Files: their digest, writing them whole or not at all, and where this repository and the default cache lie."""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the repository


def default_cache() -> Path:
    """Return the folder for downloads and builds: `$XDG_CACHE_HOME/hubpress`, or `~/.cache/hubpress`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "hubpress"


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write a file so that a reader sees the old content or the new one; make its folder if there is none.

    Raises:
      OSError: the file cannot be written; the old one is as it was, and nothing is left behind.
    """
    content = data.encode("utf-8") if isinstance(data, str) else data
    target = Path(path)
    try:
        handle, part = _temporary(target)
    except FileNotFoundError:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, part = _temporary(target)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, 0o666 & ~_umask())
            file.write(content)
        os.replace(part, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        raise


def _temporary(target: Path) -> tuple[int, str]:
    """Open a new file beside `target`, hidden and with a name of its own."""
    return tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
