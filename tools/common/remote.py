"""Files that lie elsewhere: the fsspec file system of a URL, always set up in one way, and the reason when it fails.

    files, path = open_filesystem("gs://bucket/hub")
    with open_file("gs://bucket/val.npz") as file: ...

All rooms open what is neither a local file nor http(s) through this module.
"""

import errno
import functools
import os
import socket
import time
import urllib.parse
from typing import IO, Any

from tools.common.console import waiting

# A peer that does not answer, or that fell silent, is given up and asked again after this.
CONNECT_SECONDS, SILENCE_SECONDS = 10, 300
# Before anything else a service is asked for a connection, so often and so long: clients try for a minute before they say a word.
FIRST_ATTEMPTS, FIRST_SECONDS, PAUSE_SECONDS = 2, 5, 1
GOOGLE, GOOGLE_CREDENTIALS = "https://storage.googleapis.com", "GOOGLE_APPLICATION_CREDENTIALS"
EMULATOR = "STORAGE_EMULATOR_HOST"

_LOG_IN = "for gs:// run `gcloud auth application-default login` or set GOOGLE_APPLICATION_CREDENTIALS"
_AGAIN = "run the same command again"
_FIXES = {
    errno.ENOSPC: ("the disk is full", f"free some space and {_AGAIN}"),
    errno.EDQUOT: ("the disk quota is used up", f"free some space and {_AGAIN}"),
    errno.EROFS: ("the file system is read-only", "choose a hub that can be written, or remount it"),
    errno.EACCES: ("permission is denied", "give this user the right to it, or choose another hub"),
    errno.EPERM: ("the operation is not permitted", "give this user the right to it, or choose another hub"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter name or a hub closer to the root"),
    errno.EMFILE: ("too many files are open", f"raise the limit (ulimit -n) and {_AGAIN}"),
}


class AccessError(OSError):
    """A service refuses what is asked of it: credentials are missing or not accepted, or lack a right."""


def open_filesystem(url: str, **options: Any) -> tuple[Any, str]:
    """Return the fsspec file system of a URL and the path in it, without a slash at the end; `options` are the file system's.

    Raises:
      ImportError: the package for the protocol is not installed.
      ValueError: the protocol is unknown.
      OSError: the service cannot be reached, or the credentials that the environment names cannot be used (AccessError).
    """
    if url.startswith(("gs://", "gcs://")):
        options = _google_options(url, options)
    from fsspec.core import url_to_fs

    filesystem, path = url_to_fs(url, **options)
    return filesystem, path.rstrip("/")


def open_file(url: str) -> IO[bytes]:
    """Open the file of a URL to read it; raises as `open_filesystem` does, and whatever its file system does."""
    filesystem, path = open_filesystem(url)
    file: IO[bytes] = filesystem.open(path, "rb")
    return file


def _google_options(url: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options for gcsfs, after a look whether the service is there."""
    # Read when gcsfs is imported: without it each bucket is first asked for its type over gRPC, which an emulator
    # never answers and which plain buckets do not need.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    # Read when google.auth is imported: a machine of Google's answers at once, and others need not be asked three times.
    os.environ.setdefault("GCE_METADATA_DETECT_RETRIES", "1")
    import logging

    for name in ("gcsfs", "google.auth"):  # which log what is raised, and said, anyway
        logging.getLogger(name).setLevel(logging.CRITICAL)
    import aiohttp
    from fsspec.config import conf

    configured = {**conf.get("gcs", {}), **conf.get("gs", {}), **options}
    emulator = os.environ.get(EMULATOR)
    if "session_kwargs" not in configured:  # which may name a proxy
        _require_reachable(configured.get("endpoint_url") or emulator or GOOGLE)
    if "token" not in configured:
        # An emulator knows nobody, and asking the cloud for who we are takes long.
        options = {"token": "anon" if emulator else _google_token(), **options}
    # Without the first, a bucket behind a dead connection would hold the reader for ever.
    silence = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
    return {"requests_timeout": silence, "use_listings_cache": False, **options}


@functools.cache  # what was reached once is tried again by the client itself
def _require_reachable(endpoint: str) -> None:
    """Raise OSError if nobody listens at the address of a service."""
    parts = urllib.parse.urlsplit(endpoint if "://" in endpoint else f"http://{endpoint}")
    address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    for attempt in range(FIRST_ATTEMPTS):
        try:
            with waiting(f"a connection to {address[0]}:{address[1]}"):
                socket.create_connection(address, timeout=FIRST_SECONDS).close()
            return
        except OSError as error:
            if attempt == FIRST_ATTEMPTS - 1:
                message = f"no connection to {address[0]}:{address[1]}: {error.strerror or error}"
                raise ConnectionError(message) from error
            time.sleep(PAUSE_SECONDS)


@functools.cache
def _google_token() -> str:
    """Return gcsfs's word for the credentials that there are: the environment's default ones, or none (public buckets need none).

    Raises:
      AccessError: the environment names credentials that cannot be used.
    """
    import google.auth
    import google.auth.exceptions

    try:
        with waiting("Google credentials"):
            google.auth.default(scopes=["https://www.googleapis.com/auth/devstorage.full_control"])
        return "google_default"
    except google.auth.exceptions.GoogleAuthError as error:
        if os.environ.get(GOOGLE_CREDENTIALS):
            raise AccessError(f"{GOOGLE_CREDENTIALS}: {error}") from error
        return "anon"


def is_refusal(error: Exception) -> bool:
    """Return whether an error of a file system is about access, which another attempt would not get either."""
    return isinstance(error, PermissionError | AccessError) or explain(error)[0].startswith(
        ("credentials", "permission")
    )


def explain(error: Exception) -> tuple[str, str]:
    """Return why something failed, and the fix, for whatever a file system raises."""
    text = " ".join(str(error).split()) or type(error).__name__
    kind = f"{type(error).__module__}.{type(error).__name__}"
    lowered = text.lower()
    code = str(getattr(error, "code", "") or getattr(error, "status", "") or "")
    if isinstance(error, OSError) and error.errno in _FIXES:
        return _FIXES[error.errno]
    if (
        isinstance(error, AccessError)
        or "auth" in kind.lower()
        or code == "401"
        or "credentials" in lowered
        or "anonymous caller" in lowered
    ):
        return f"credentials are missing or not accepted ({text})", f"{_LOG_IN}, then {_AGAIN}"
    if code == "403" or "forbidden" in lowered or "permission" in lowered:
        return f"permission is denied ({text})", "give this account the right to it, or choose another hub"
    if "checksum" in kind.lower():
        return f"the bytes were damaged on the way ({text})", _AGAIN
    if (
        isinstance(error, (ConnectionError, TimeoutError))
        or kind.startswith(("aiohttp.", "requests.", "urllib3.", "socket."))
        or code.startswith("5")
        or code == "429"
    ):
        return f"the storage cannot be reached ({text})", "check the network, then run it again"
    return f"{text} ({type(error).__name__})", f"put that right and {_AGAIN}"
