"""Download upstream files: once, resumed after a cut, verified, and never half in the cache.

    path = fetch("https://dl.fbaipublicfiles.com/convnext/convnext_tiny_1k_224_ema.pth", cache=Path("~/.cache/x"))

The cache keeps `<cache>/<first 16 digits of the SHA-256 of the URL>/<file name>` with the digest of the content beside
it (`<file name>.sha256`, as `sha256sum --check` reads it). A download grows in `<file name>.part` under a lock, so that
processes that want the same file wait for each other, and whoever comes after a crash goes on where it stopped. Local
files are used where they lie. Whatever goes wrong is a `DownloadError` that names the URL and ends with the fix.

Home-made, because the downloads of fsspec and requests neither resume the same version of a file nor verify it, and pooch starts
again.
"""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import random
import re
import tempfile
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tools.common import locks
from tools.common.console import note, waiting
from tools.common.files import (
    Progress,
    discard_unless_file,
    make_cache_folder,
    sha256_of_file,
    write_atomically,
)
from tools.common.problems import with_fix

CHUNK_BYTES = 1 << 20
SMALL_BYTES = 64 << 20  # no record, document or index is larger
CONNECT_SECONDS, READ_SECONDS = 15, 60
# Attempts in a row that bring nothing, and attempts in all.
MAXIMUM_FAILURES, MAXIMUM_ATTEMPTS = 5, 60
LONGEST_PAUSE_SECONDS = 60.0

_TEMPORARY_STATUS = {408, 425, 429, 500, 502, 503, 504}
_WEB_PAGES = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")
# torch.hub: name-01bb0f51.pth begins the file's SHA-256. Eight digits that read as a date are one.
_DIGEST_IN_NAME = re.compile(r"-(?!(?:19|20)\d{6}\.)([0-9a-f]{8})\.[A-Za-z0-9]+$")

_PACKAGES = {
    "hf": "huggingface_hub with `python -m pip install 'huggingface-hub>=0.27'` (the extra `huggingface`)",
    "s3": "s3fs with `python -m pip install s3fs`",
}
_BY_OTHER_MEANS = "download the file by other means into a folder, and name that folder as the mirror (--checkpoints)"


class DownloadError(RuntimeError):
    """A file could not be fetched or is not the one that was asked for. The message ends with the fix."""


class NotFound(DownloadError):
    """There is no such file: the server, the storage or the folder says so, and asking again would not help."""


class BudgetError(DownloadError):
    """A source takes more time, requests or bytes than it may. The message says which, and ends with the fix."""


class Budget:
    """What several downloads from one source may take together; safe to share between threads.

    `seconds` count from now on, and end a connection that sends slowly; `bytes` are those that arrive. None is no limit. `fix` ends
    the messages.
    """

    def __init__(
        self,
        *,
        seconds: float | None = None,
        requests: int | None = None,
        bytes: int | None = None,
        fix: str = "raise the limit if you trust the source",
    ):
        self._seconds, self._requests, self._bytes, self._fix = seconds, requests, bytes, fix
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._requested = self._received = 0

    def remaining_seconds(self) -> float | None:
        """Return the seconds that are left, at least 0; None where there is no limit."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def count(self, source: str, *, requests: int = 0, bytes: int = 0) -> None:
        """Count what was asked for or has arrived. Raises BudgetError, naming `source`, if it is too much."""
        self._requested += requests
        self._received += bytes
        for used, limit, unit in (
            (self._requested, self._requests, "requests"),
            (self._received, self._bytes, "bytes"),
        ):
            if limit is not None and used > limit:
                raise BudgetError(with_fix(f"{_redacted(source)}: it takes more than {limit:,} {unit}", self._fix))
        if self.remaining_seconds() == 0:
            message = f"{_redacted(source)}: it takes longer than {self._seconds:g} seconds"
            raise BudgetError(with_fix(message, self._fix))


class _RetryableError(Exception):
    """A failure that another attempt may overcome; `seconds` is how long the server asks to wait."""

    def __init__(self, reason: str, seconds: float = 0.0):
        super().__init__(reason)
        self.seconds = seconds


@dataclass
class _Stream:
    """Bytes of a source from `offset` on. `total` counts the whole file; `validator` identifies this version of it."""

    offset: int
    total: int | None
    validator: str | None
    chunks: Iterator[bytes]
    close: Callable[[], None]


_Opener = Callable[[str, int, str | None, str, Budget], _Stream]


def fetch(
    url: str,
    *,
    cache: pathlib.Path,
    mirrors: str | None = None,
    is_named_alone: bool = True,
    sha256: str | None = None,
    progress: Progress | None = None,
    limit_bytes: int | None = None,
    budget: Budget | None = None,
) -> pathlib.Path:
    """Return a local file with the content of `url`: a path or `file://` (used in place), `http(s)://`, any URL of fsspec.

    cache: the folder that keeps downloads; made when missing. Not used for local files.
    mirrors: a folder or base URL that is asked *instead of* upstream: for the file's whole path, as in
        `dl.fbaipublicfiles.com/convnext/convnext_tiny_1k_224_ema.pth`, and then for its name.
    is_named_alone: false if files of other addresses have the same name, so that a mirror is asked for the whole path only.
    sha256: what the content must have (64 hexadecimal digits); a file with another digest is refused and not cached.
        Without it, a name such as `regnet_y_400mf-c65dace8.pth` vouches for the content, as torch.hub has it.
    progress: called with the bytes present and the bytes in all (None when unknown).
    limit_bytes: refuse anything larger.
    budget: what this and other downloads may take together.

    Raises DownloadError.
    """
    name = _file_name(url)
    budget = budget or Budget()
    if sha256 is not None:
        sha256 = sha256.lower()
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise DownloadError(
                with_fix(f"{_redacted(url)}: '{sha256}' is no SHA-256", "give its 64 hexadecimal digits")
            )
    expected = sha256
    if expected is None and (found := _DIGEST_IN_NAME.search(name)):
        expected = found[1]
    cache = pathlib.Path(cache).expanduser()
    if mirrors is None:
        missing_fix = "check the URL; if upstream moved the file, " + _BY_OTHER_MEANS
        return _fetch(url, name, cache, sha256, expected, missing_fix, progress, limit_bytes, budget)
    places = mirror_paths(url, is_named_alone=is_named_alone)
    reason = "" if is_named_alone else f" (other files are called {name}, too)"
    missing_fix = f"put the file of {_redacted(url)} there, as {' or as '.join(places)}{reason}"
    sources = [_in_mirror(mirrors, place) for place in places]
    sources.sort(
        key=lambda source: not _checksum_file(_target(source, name, cache)).is_file()
    )  # what is there needs no network
    for source in sources[:-1]:
        with contextlib.suppress(NotFound):
            return _fetch(source, name, cache, sha256, expected, missing_fix, progress, limit_bytes, budget)
    return _fetch(sources[-1], name, cache, sha256, expected, missing_fix, progress, limit_bytes, budget)


def mirror_paths(url: str, *, is_named_alone: bool = True) -> list[str]:
    """Return where a mirror may have the file of `url`, in the order in which they are looked at: its whole path, and its name."""
    parts = urllib.parse.urlsplit(url)
    segments = [parts.netloc.rpartition("@")[2], *urllib.parse.unquote(parts.path).strip("/").split("/")]
    if any(each in ("", ".", "..") or "\\" in each or "\0" in each for each in segments):
        return segments[-1:]
    return ["/".join(segments), segments[-1]] if is_named_alone else ["/".join(segments)]


def _target(source: str, name: str, cache: pathlib.Path) -> pathlib.Path:
    """Return where the cache keeps a source."""
    return cache / hashlib.sha256(source.encode()).hexdigest()[:16] / name


def _fetch(
    source: str,
    name: str,
    cache: pathlib.Path,
    sha256: str | None,
    expected: str | None,
    missing_fix: str,
    progress: Progress | None,
    limit_bytes: int | None,
    budget: Budget,
) -> pathlib.Path:
    """Return the local file of one source; arguments are those of `fetch`, `expected` is how its digest begins."""
    local = _local_path(source)
    if local is not None:
        budget.count(source, requests=1)
        if not local.is_file():
            raise NotFound(with_fix(f"{local}: no such file", missing_fix))
        size = local.stat().st_size
        _check_size(source, size, limit_bytes)
        if expected is not None:
            _check_digest(source, sha256_of_file(local), expected)
        if progress:
            progress(size, size)
        return local

    target = _target(source, name, cache)
    opener = _open_http if re.match("https?://", source, re.IGNORECASE) else _open_fsspec
    try:
        make_cache_folder(target.parent)
        with _locked_part(target) as part:
            discard_unless_file(target, _checksum_file(target), part, _version_file(part))
            if not _is_cached(target, sha256):
                _download(source, part, opener, expected, missing_fix, progress, limit_bytes, budget)
                _move_into_place(part, target)
            size = target.stat().st_size
            _check_size(source, size, limit_bytes)
            if progress:
                progress(size, size)
            return target
    except OSError as error:
        fix = "free some space, or choose another cache" if error.errno == errno.ENOSPC else "choose another cache"
        message = f"{_redacted(source)}: cannot be kept in {target.parent}: {error.strerror or error}"
        raise DownloadError(with_fix(message, fix)) from error


# ------------------------------------------------------------------------------------------------------------ the cache


def _is_cached(target: pathlib.Path, sha256: str | None) -> bool:
    """Return whether the file is there with the digest beside it, and is the one wanted. Damaged files are fetched again."""
    try:
        recorded = _checksum_file(target).read_text().split()[0]
        return sha256 in (None, recorded) and sha256_of_file(target) == recorded
    except (FileNotFoundError, IndexError, UnicodeDecodeError):
        return False


def _move_into_place(part: pathlib.Path, target: pathlib.Path) -> None:
    """Move a verified download into place. Killed anywhere in between, the next call finds a complete part."""
    write_atomically(_checksum_file(target), f"{sha256_of_file(part)}  {target.name}\n")
    os.replace(part, target)
    _version_file(part).unlink(missing_ok=True)


@contextlib.contextmanager
def _locked_part(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield the name of the part file, while nobody else downloads the same target.

    Where there are no locks (Windows, some network file systems) the name is unique: nothing is resumed.
    """
    discard_unless_file(target.with_name(".lock"))
    with open(target.with_name(".lock"), "ab") as lock:
        try:
            locks.acquire(lock.fileno(), wait=True)
        except locks.LocksUnsupported:
            part = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
            try:
                yield part
            finally:
                _discard(part)
        else:
            yield target.with_name(f"{target.name}.part")


def _checksum_file(target: pathlib.Path) -> pathlib.Path:
    return target.with_name(f"{target.name}.sha256")


def _version_file(part: pathlib.Path) -> pathlib.Path:
    """Return the file beside a part that says which version of the source it belongs to."""
    return part.with_name(f"{part.name}.json")


# --------------------------------------------------------------------------------------------------------- the download


def _download(
    source: str,
    part: pathlib.Path,
    opener: _Opener,
    expected: str | None,
    missing_fix: str,
    progress: Progress | None,
    limit_bytes: int | None,
    budget: Budget,
) -> None:
    """Fill `part` with the verified content of `source`, going on from what is there."""
    resumed = _complete(source, part, opener, missing_fix, progress, limit_bytes, budget)
    digest = sha256_of_file(part)
    if resumed and expected is not None and not digest.startswith(expected):
        # The older half may be at fault: a fresh download decides.
        _discard(part)
        _complete(source, part, opener, missing_fix, progress, limit_bytes, budget)
        digest = sha256_of_file(part)
    try:
        if expected is not None:
            _check_digest(source, digest, expected)
        elif _is_web_page(part):
            fix = f"open the URL in a browser (it may need a login or have moved), or {_BY_OTHER_MEANS}"
            raise DownloadError(with_fix(f"{_redacted(source)}: the server sent a web page instead of the file", fix))
    except DownloadError:
        _discard(part)
        raise


def _complete(
    source: str,
    part: pathlib.Path,
    opener: _Opener,
    missing_fix: str,
    progress: Progress | None,
    limit_bytes: int | None,
    budget: Budget,
) -> bool:
    """Append to `part` until it is complete, over as many attempts as it takes; return whether it began with an older part."""
    failures, started_with = 0, None
    for _ in range(MAXIMUM_ATTEMPTS):
        validator, total = _read_version(part)
        have = part.stat().st_size if part.exists() else 0
        if have and validator is None:
            _discard(part)  # nobody can say whether it is of the same version
            have = 0
        if started_with is None:
            started_with = have
        if have and have == total:
            return started_with > 0
        budget.count(source, requests=1)
        try:
            stream = opener(source, have, validator, missing_fix, budget)
            try:
                _check_size(source, stream.total, limit_bytes)
                done = _append(source, part, stream, progress, limit_bytes, budget)
            finally:
                stream.close()
            budget.count(source)  # a connection that was shut down because its time was up ends like any other
            if stream.total is None or done == stream.total:
                return started_with > 0
            raise _RetryableError(f"the connection ended after {done} of {stream.total} bytes")
        except _RetryableError as failure:
            budget.count(source)
            grown = (part.stat().st_size if part.exists() else 0) > have
            failures = 1 if grown else failures + 1
            if failures >= MAXIMUM_FAILURES:
                fix = f"check the network and run it again (it goes on where it stopped), or {_BY_OTHER_MEANS}"
                message = f"{_redacted(source)}: {failure}, {failures} times in a row"
                raise DownloadError(with_fix(message, fix)) from failure
            seconds = min(max(failure.seconds, random.uniform(0.5, 1.0) * 2 ** (failures - 1)), LONGEST_PAUSE_SECONDS)
            left = budget.remaining_seconds()
            seconds = seconds if left is None else min(seconds, left)
            note(f"{_redacted(source)}: {failure}; the next attempt is in {seconds:.0f} s")
            time.sleep(seconds)
    fix = f"run it again (it goes on where it stopped), or {_BY_OTHER_MEANS}"
    raise DownloadError(with_fix(f"{_redacted(source)}: cut {MAXIMUM_ATTEMPTS} times", fix))


def _append(
    source: str, part: pathlib.Path, stream: _Stream, progress: Progress | None, limit_bytes: int | None, budget: Budget
) -> int:
    """Write the stream behind what `part` has (over it, when the stream begins at 0); return the bytes present afterwards."""
    done = stream.offset
    if done == 0:
        _discard(part)
        notes = {"validator": stream.validator, "total": stream.total}
        _version_file(part).write_text(json.dumps(notes))
    with open(part, "ab") as file:
        if progress:
            progress(done, stream.total)
        for chunk in stream.chunks:
            file.write(chunk)
            done += len(chunk)
            budget.count(source, bytes=len(chunk))
            if limit_bytes is not None and done > limit_bytes:
                file.close()
                _discard(part)
                _check_size(source, done, limit_bytes)
            if progress:
                progress(done, stream.total)
        file.flush()
        os.fsync(file.fileno())
    return done


def _read_version(part: pathlib.Path) -> tuple[str | None, int | None]:
    try:
        notes = json.loads(_version_file(part).read_text())
        validator, total = notes["validator"], notes["total"]
        if isinstance(validator, str) and isinstance(total, int | None):
            return validator, total
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return None, None


def _discard(part: pathlib.Path) -> None:
    _version_file(part).unlink(missing_ok=True)
    part.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------------- the sources


def _open_http(source: str, offset: int, validator: str | None, missing_fix: str, budget: Budget) -> _Stream:
    """Open an HTTP source, from `offset` on if the server still has the version that `validator` (ETag or Last-Modified) names.

    RFC 9110, sections 13.1.5 (If-Range) and 14 (ranges). Proxies come from the environment.
    """
    import requests

    from tools.common import deadlines

    # A compressed response would have neither the length nor the ranges of the file.
    headers = {"Accept-Encoding": "identity", "User-Agent": "hubpress"}
    if offset and validator is not None:
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
    try:
        timeout = (CONNECT_SECONDS, READ_SECONDS)
        with waiting(f"an answer from {_redacted(source)}"):
            response = deadlines.get(source, budget.remaining_seconds(), headers=headers, stream=True, timeout=timeout)
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.TooManyRedirects) as error:
        raise DownloadError(with_fix(f"{_redacted(source)}: {_innermost_cause(error)}", "check the URL")) from error
    except requests.RequestException as error:
        raise _RetryableError(f"no connection ({_innermost_cause(error)})") from error
    try:
        status = response.status_code
        if status in _TEMPORARY_STATUS:
            wait = response.headers.get("Retry-After", "")
            raise _RetryableError(
                f"the server answers {status} {response.reason}", float(wait) if wait.isdigit() else 0.0
            )
        if status == 416 and offset:  # the file became shorter than what we have of it
            response.close()
            return _open_http(source, 0, None, missing_fix, budget)
        if status in (404, 410):
            raise NotFound(with_fix(f"{_redacted(source)}: no such file on the server ({status})", missing_fix))
        if status in (401, 403, 407):
            fix = f"check the URL and its terms, or {_BY_OTHER_MEANS}"
            raise DownloadError(with_fix(f"{_redacted(source)}: the server refuses access ({status})", fix))
        if status not in (200, 206):
            message = f"{_redacted(source)}: the server answers {status} {response.reason}"
            raise DownloadError(with_fix(message, "check the URL"))
        if response.headers.get("Content-Encoding", "identity").lower() not in ("identity", ""):
            message = f"{_redacted(source)}: the server compresses the file, so that its length cannot be checked"
            raise DownloadError(with_fix(message, _BY_OTHER_MEANS))
        tag = response.headers.get("ETag")
        # If-Range takes strong tags only.
        found = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")
        if status == 206:
            span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if not offset or not span or int(span[1]) != offset or found not in (None, validator):
                if not offset:
                    raise _RetryableError("the server sends a part of the file although nobody asked for one")
                response.close()
                return _open_http(source, 0, None, missing_fix, budget)
            return _Stream(offset, int(span[2]), validator, _chunks(response), response.close)
        length = response.headers.get("Content-Length", "")
        return _Stream(0, int(length) if length.isdigit() else None, found, _chunks(response), response.close)
    except BaseException:
        response.close()
        raise


def _chunks(response: Any) -> Iterator[bytes]:
    """Yield the body as it arrives: a cut loses nothing that came before it."""
    import urllib3

    try:
        while chunk := response.raw.read1(CHUNK_BYTES):
            yield chunk
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _RetryableError(f"the connection was cut ({_innermost_cause(error)})") from error


def _open_fsspec(source: str, offset: int, validator: str | None, missing_fix: str, _budget: Budget) -> _Stream:
    """Open any other source (gs://, s3://, hf://, ...), from `offset` on if it is still the same version."""
    from tools.common import remote

    try:
        files, path = remote.open_filesystem(source)
    except ImportError as error:
        package = _PACKAGES.get(source.partition(":")[0], "what it needs")
        fix = f"install {package}, or {_BY_OTHER_MEANS}"
        raise DownloadError(with_fix(f"{_redacted(source)}: {_innermost_cause(error)}", fix)) from error
    except ValueError as error:
        raise DownloadError(with_fix(f"{_redacted(source)}: {error}", "check the URL")) from error
    except Exception as error:  # before anything was reached
        reason, fix = remote.explain(error)
        raise DownloadError(with_fix(f"{_redacted(source)}: {reason}", f"{fix}, or {_BY_OTHER_MEANS}")) from error
    with _fsspec_failures(source, missing_fix), waiting(f"an answer from {_redacted(source)}"):
        files.invalidate_cache()  # the file may be another one since the last attempt
        info = files.info(path)
        if info.get("type") == "directory":
            raise DownloadError(with_fix(f"{_redacted(source)}: is a folder", "name the file in it"))
        # What changes with the content: in buckets of several makers, on Hugging Face (blob_id), in folders.
        names = ("etag", "ETag", "generation", "md5Hash", "sha256", "blob_id", "mtime", "LastModified", "created")
        known = {name: str(info[name]) for name in names if info.get(name)}
        found = json.dumps({**known, "size": info.get("size")}, sort_keys=True) if known else None
        offset = offset if found is not None and found == validator else 0
        file = files.open(path, "rb", block_size=4 * CHUNK_BYTES)

    def chunks() -> Iterator[bytes]:
        with _fsspec_failures(source, missing_fix):
            file.seek(offset)
            while chunk := file.read(4 * CHUNK_BYTES):
                yield chunk

    return _Stream(offset, info.get("size"), found, chunks(), file.close)


@contextlib.contextmanager
def _fsspec_failures(source: str, missing_fix: str) -> Iterator[None]:
    """Tell the few errors of file systems that are final from the rest, which is tried again."""
    try:
        yield
    except (DownloadError, GeneratorExit):
        raise
    except FileNotFoundError as error:
        raise NotFound(with_fix(f"{_redacted(source)}: no such file there", missing_fix)) from error
    except Exception as error:
        from tools.common import remote

        reason, fix = remote.explain(error)
        if remote.is_refusal(error):
            raise DownloadError(with_fix(f"{_redacted(source)}: {reason}", fix)) from error
        raise _RetryableError(reason) from error


# --------------------------------------------------------------------------------------------------------------- checks


def _check_digest(source: str, digest: str, expected: str) -> None:
    if not digest.startswith(expected):
        where = "" if len(expected) == 64 else ", as its name says"
        message = f"{_redacted(source)}: the file has the SHA-256 {digest} instead of {expected}{where}"
        fix = "if upstream really replaced the file, pin the new digest; otherwise somebody else did, and it must not be used"
        raise DownloadError(with_fix(message, fix))


def _check_size(source: str, size: int | None, limit_bytes: int | None) -> None:
    if limit_bytes is not None and size is not None and size > limit_bytes:
        message = f"{_redacted(source)}: has {size} bytes or more, the limit is {limit_bytes}"
        raise DownloadError(with_fix(message, "check the URL, or raise the limit"))


def _is_web_page(path: pathlib.Path) -> bool:
    with open(path, "rb") as file:
        return file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_WEB_PAGES)


def fetch_text(url: str, *, limit_bytes: int = SMALL_BYTES, budget: Budget | None = None) -> str:
    """Return the text of a small file, which is not kept: a record, a document, an index.

    Raises:
      DownloadError: as `fetch` does, or the file is no UTF-8.
    """
    with tempfile.TemporaryDirectory(prefix="hubpress-fetch-") as folder:
        file = fetch(url, cache=pathlib.Path(folder), limit_bytes=limit_bytes, budget=budget)
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            message = f"{_redacted(url)}: it is no text in UTF-8, at byte {error.start}"
            raise DownloadError(with_fix(message, "check the URL")) from error


def plain_address(address: str) -> str:
    """Return an address without query, fragment and final slash; `~` and file:// become paths."""
    if "://" not in address:
        return str(pathlib.Path(address).expanduser())
    parts = urllib.parse.urlsplit(address)
    if parts.scheme == "file":
        return urllib.parse.unquote(parts.path).rstrip("/")
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))


def has_digest_in_name(url: str) -> bool:
    """Return whether a file's name begins to say its SHA-256, as torch.hub has it: `regnet_y_400mf-c65dace8.pth`."""
    return _DIGEST_IN_NAME.search(_file_name(url)) is not None


def _file_name(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    name = urllib.parse.unquote(parts.path if parts.scheme else url).rpartition("/")[2]
    quoted = (parts.path if parts.scheme else url).rpartition("/")[2]
    if not quoted or name in ("", ".", "..") or "/" in urllib.parse.unquote(quoted) or "\\" in name or "\0" in name:
        raise DownloadError(with_fix(f"{_redacted(url)}: names no file", "give the URL of the file itself"))
    if len(name.encode()) > 200:
        raise DownloadError(with_fix(f"{_redacted(url)}: its file name is too long", _BY_OTHER_MEANS))
    return name


def _in_mirror(mirrors: str, path: str) -> str:
    mirrors = str(mirrors)
    if "://" in mirrors:
        return f"{mirrors.rstrip('/')}/{urllib.parse.quote(path)}"
    folder = pathlib.Path(mirrors).expanduser()
    if not folder.is_dir():
        raise DownloadError(with_fix(f"{mirrors}: no such folder", f"name a folder or base URL that has {path}"))
    return str(folder / path)


def _local_path(source: str) -> pathlib.Path | None:
    if "://" not in source:
        return pathlib.Path(source).expanduser()
    parts = urllib.parse.urlsplit(source)
    if parts.scheme != "file":
        return None
    if parts.netloc not in ("", "localhost"):
        raise DownloadError(
            with_fix(f"{_redacted(source)}: a file on another machine", "write file:///path/to/the/file")
        )
    return pathlib.Path(urllib.parse.unquote(parts.path))


def _redacted(url: str) -> str:
    """Return `url` for messages: without user, password and query, which may hold secrets."""
    if "://" not in url:
        return url
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _innermost_cause(error: BaseException) -> str:
    """Return the innermost cause in one line; the outer ones repeat the URL and the names of classes."""
    seen = error
    while (deeper := seen.__cause__ or seen.__context__) is not None:
        seen = deeper
    text = " ".join((getattr(seen, "strerror", None) or str(seen) or type(seen).__name__).split())
    return text[:160]
