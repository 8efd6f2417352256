"""Storage of a hub: a folder, a bucket, or whatever fsspec can reach, with create-only writes.

    storage = Storage("gs://bucket/hub")
    storage.create("publisher/name/1.tar.gz", pathlib.Path("1.tar.gz"))   # AlreadyThere if somebody was first
    storage.verify("publisher/name/1.tar.gz", size=..., sha256=..., md5=...)

Three promises carry the rest of the hub: `create` never overwrites, a reader never sees half an object, and every
failure is a `StorageError` that says what to do. Paths are relative to the hub and checked: none points outside of it.
"""

import base64
import contextlib
import dataclasses
import errno
import functools
import hashlib
import io
import os
import pathlib
import stat
import time
import urllib.parse
import uuid
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from tools.common import console, locks, remote
from tools.common.files import Progress
from tools.common.problems import UsageError, with_fix

IMMUTABLE = "public, max-age=31536000, immutable"
REVALIDATE = "no-cache"  # may be kept, but is asked for again each time: pages are derived and may change

# Temporary files begin like this. Every path segment that begins with a dot is refused, never listed and never served.
TEMPORARY_PREFIX = ".hubpress-writing-"
LOCK_NAME = ".hubpress-lock"
CHUNK_BYTES = 4 << 20
# Of an upload to a bucket: what is sent again when the connection breaks. Buckets want a multiple of 256 KiB.
UPLOAD_BYTES = 16 << 20

CONTENT_TYPES = {
    ".tar.gz": "application/gzip",
    ".json": "application/json",
    ".onnx": "application/octet-stream",
    ".tflite": "application/octet-stream",
    ".sig": "application/vnd.dev.sigstore.bundle.v0.3+json",
    ".bundle": "application/vnd.dev.sigstore.bundle.v0.3+json",
    ".md": "text/markdown; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".xml": "application/xml",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
}


class StorageError(RuntimeError):
    """Reading or writing a hub failed; the message says what failed, why, and what to do."""


class PathError(StorageError):
    """A path can lie in no hub."""


class NotThere(StorageError):
    """The object does not exist."""


class NoHub(UsageError, NotThere):
    """An address is no hub's."""


class AlreadyThere(StorageError):
    """The object exists, and a create-only write found it."""


@dataclasses.dataclass(frozen=True)
class ObjectInfo:
    """Facts that a storage states of an object without reading it.

    `size` in bytes; `md5` as hexadecimal digits, None where the storage keeps none; `tag` changes with the content.
    """

    size: int
    md5: str | None
    tag: str


def content_type(path: str) -> str:
    """Return the media type of a path, from its ending; archives are never `Content-Encoding: gzip`, see the server."""
    for ending, media_type in CONTENT_TYPES.items():
        if path.endswith(ending):
            return media_type
    return "application/octet-stream"


@functools.lru_cache(maxsize=4096)  # a server and a listing ask of the same paths again and again
def checked(path: str) -> str:
    """Return `path` if it is a plain path below a hub, and raise PathError otherwise.

    Plain means: segments joined by single slashes, none empty, none beginning with a dot (so no `.`, `..`, temporary or
    hidden file), no backslash and no control character, at most 255 bytes each (what file systems take), and at most
    1000 bytes in all (what buckets take).
    """
    reason = None
    if not path:
        reason = "is empty"
    elif "\\" in path or any(ord(character) < 32 or ord(character) == 127 for character in path):
        reason = "has a backslash or a control character"
    elif len(path.encode("utf-8", "surrogateescape")) > 1000:
        reason = "has more than 1000 bytes"
    else:
        for segment in path.split("/"):
            if not segment:
                reason = "is absolute or has an empty segment"
            elif segment.startswith("."):
                reason = f"has the segment {segment!r}, which begins with a dot"
            elif len(segment.encode("utf-8", "surrogateescape")) > 255:
                reason = "has a segment of more than 255 bytes"
    if reason:
        raise PathError(
            with_fix(f"{path!r} is no path of a hub: it {reason}", "give a path relative to the hub, like 'a/b/1.json'")
        )
    return path


class Storage:
    """One hub, by URL.

    Args:
      url: a folder, `file://`, `gs://bucket/folder`, `memory://name`, or any URL that fsspec knows.
      **options: handed to the fsspec file system (for example `endpoint_url`, `token`).

    Raises:
      StorageError: if the protocol is unknown or its package is missing. The hub itself need not exist yet.
    """

    def __init__(self, url: str | os.PathLike[str], **options: Any):
        text = os.fspath(url)
        if not text:
            fix = "give a folder or a URL, like ./hub or gs://bucket/hub"
            raise StorageError(with_fix("The hub's address is empty", fix))
        self._filesystem: Any = None
        self._root: pathlib.Path | None = None
        if text.startswith("file://"):
            text = urllib.parse.unquote(urllib.parse.urlsplit(text).path)
        if "://" not in text and "::" not in text:
            self._root = pathlib.Path(text).expanduser().resolve()
            self.url = str(self._root)
            return
        self.url = text.rstrip("/")
        self._filesystem, self._base = _open_filesystem(self.url, options)

    def __repr__(self) -> str:
        return f"Storage({self.url!r})"

    @property
    def is_local(self) -> bool:
        """True if the hub is a folder of this machine."""
        return self._root is not None

    def url_for(self, path: str) -> str:
        """Return the address of an object: a file path for a folder hub, else the storage's own URL (`gs://...`)."""
        return f"{self.url}/{checked(path)}"

    def local_path(self, path: str) -> pathlib.Path:
        """Return the file of a folder hub; raises StorageError for a remote hub, or when a link leads out of the hub."""
        if self._root is None:
            message = f"{self.url} is not a folder, so {path} has no local file"
            raise StorageError(with_fix(message, "read it with Storage.read"))
        file = self._root / checked(path)
        # A link may point wherever it likes inside the hub, but never out of it.
        if not file.resolve().is_relative_to(self._root):
            message = f"{file} leads out of the hub {self._root}"
            raise NotThere(with_fix(message, "put the file itself there instead of a link"))
        return file

    @contextlib.contextmanager
    def _explained(self, action: str, already: str = "it exists already") -> Iterator[None]:
        """Explain errors as `_explained` does, and note what is waited for where a network is between."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(_explained(action, already))
            if self._root is None:
                stack.enter_context(console.waiting(f"the storage, to {action}"))
            yield

    def is_there(self) -> bool:
        """Return whether the hub itself exists: its folder, or for a bucket at least one object."""
        if self._root is not None:
            return self._root.is_dir()
        with self._explained(f"look into the hub {self.url}"):
            self._filesystem.invalidate_cache()
            try:
                return bool(self._filesystem.ls(self._base, detail=False))
            except FileNotFoundError:
                return False

    # Writing

    def prepare(self) -> None:
        """Make a folder hub if there is none, and raise StorageError if nothing can be written there: before work begins."""
        if self._root is not None:
            with _explained(f"write into the hub {self.url}"):
                _make_folders(self._root)
                if not os.access(self._root, os.W_OK | os.X_OK):
                    read_only = hasattr(os, "statvfs") and os.statvfs(self._root).f_flag & os.ST_RDONLY
                    code = errno.EROFS if read_only else errno.EACCES
                    raise OSError(code, os.strerror(code), str(self._root))

    def create(
        self,
        path: str,
        source: bytes | os.PathLike[str],
        *,
        content_type: str | None = None,
        cache_control: str = IMMUTABLE,
        progress: Progress | None = None,
    ) -> None:
        """Write an object that must not exist yet; it appears whole or not at all.

        Args:
          path: where, relative to the hub.
          source: the bytes, or a local file that holds them.
          content_type: media type for stores that keep one; by the path's ending when None.
          cache_control: likewise.
          progress: called with (bytes done, bytes in all).

        Raises:
          AlreadyThere: if the object exists, whoever wrote it and whatever it holds.
          StorageError: if it could not be written; nothing is there then.
        """
        self._write(path, source, content_type, cache_control, progress, create_only=True)

    def replace(
        self,
        path: str,
        data: bytes | os.PathLike[str],
        *,
        content_type: str | None = None,
        cache_control: str = REVALIDATE,
        known: ObjectInfo | None = None,
    ) -> bool:
        """Write an object over whatever was there, atomically; for what is derived, like pages and indexes.

        Args:
          known: what `list_objects` just said of the object, so that nobody need ask again.

        Returns:
          False if the same bytes were there already and nothing was written.
        """
        if isinstance(data, bytes):
            if known and known.md5:
                if known.size == len(data) and known.md5 == hashlib.md5(data, usedforsecurity=False).hexdigest():
                    return False
            elif self._holds(path, data):
                return False
        self._write(path, data, content_type, cache_control, None, create_only=False)
        return True

    def _write(
        self,
        path: str,
        source: bytes | os.PathLike[str],
        media_type: str | None,
        cache_control: str,
        progress: Progress | None,
        *,
        create_only: bool,
    ) -> None:
        checked(path)
        if not isinstance(source, bytes) and not os.path.isfile(source):
            message = f"Cannot publish {os.fspath(source)} as {path}: there is no such file"
            raise StorageError(with_fix(message, "build it first"))
        if self._root is not None:
            self._write_local(self._root, path, source, progress, create_only)
        else:
            self._write_remote(path, source, media_type or content_type(path), cache_control, progress, create_only)

    def _write_local(
        self,
        root: pathlib.Path,
        path: str,
        source: bytes | os.PathLike[str],
        progress: Progress | None,
        create_only: bool,
    ) -> None:
        final = self.local_path(path)
        with _explained(f"write {final}", already=f"{final} {_NEVER_CHANGES}"):
            if create_only and os.path.lexists(final):
                raise FileExistsError(final)
            _make_folders(final.parent)
            temporary = final.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
            try:
                with open(temporary, "xb", buffering=0) as file:
                    # The lock lives as long as this process, so that `delete_leftovers` of another one can tell.
                    with contextlib.suppress(locks.LockHeld, locks.LocksUnsupported):
                        locks.acquire(file.fileno(), wait=False)
                    _copy(source, file, progress)
                    os.fsync(file.fileno())
                    if create_only:
                        _link(temporary, final, root / LOCK_NAME)
                    else:
                        os.replace(temporary, final)
                _sync_folder(final.parent)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)

    def _write_remote(
        self,
        path: str,
        source: bytes | os.PathLike[str],
        media_type: str,
        cache_control: str,
        progress: Progress | None,
        create_only: bool,
    ) -> None:
        target = f"{self._base}/{path}"
        settings: dict[str, Any] = {}
        if self._protocol == "gs":
            settings = {
                "content_type": media_type,
                "consistency": "md5",  # the service's digest of what arrived is compared with ours
                "fixed_key_metadata": {"cache_control": cache_control},
            }
        mode = "create" if create_only else "overwrite"
        where = self.url_for(path)
        explained = _explained if progress else self._explained  # who sees progress need not be told
        with explained(f"write {where}", already=f"{where} {_NEVER_CHANGES}"):
            self._filesystem.invalidate_cache()
            # Asked first because not every file system refuses by itself, and because no byte need travel then.
            if create_only and self._information(path) is not None:
                raise FileExistsError(target)
            try:
                if isinstance(source, bytes):
                    self._filesystem.pipe_file(target, source, mode=mode, **settings)
                    if progress:
                        progress(len(source), len(source))
                elif create_only and self._protocol == "memory":
                    # fsspec's own put_file looks first and writes later; pipe_file does both at once.
                    self._filesystem.pipe_file(target, pathlib.Path(source).read_bytes(), mode=mode)
                else:
                    if self._protocol == "gs":
                        settings["chunksize"] = UPLOAD_BYTES
                    callback = _callback(progress)
                    self._filesystem.put_file(os.fspath(source), target, mode=mode, callback=callback, **settings)
            except Exception as error:
                # Damaged on the way, it lies there under its name: what we just made, we may remove.
                if type(error).__name__ == "ChecksumError":
                    self._filesystem.rm_file(target)
                raise
            self._filesystem.invalidate_cache()

    # Reading

    def read(self, path: str) -> bytes:
        """Return the whole object, in one request to the storage; raises NotThere if it does not exist."""
        if self._root is None:
            checked(path)
            with self._explained(f"read {self.url_for(path)}"):
                return cast(bytes, self._filesystem.cat_file(f"{self._base}/{path}"))
        with self.open(path) as file, self._explained(f"read {self.url_for(path)}"):
            return file.read()

    def open(self, path: str) -> BinaryIO:
        """Open the object as a seekable binary file; raises NotThere if it does not exist."""
        checked(path)
        with self._explained(f"read {self.url_for(path)}"):
            if self._root is None:
                if self._protocol == "memory":  # whose files are one object, with one position, for all readers
                    return io.BytesIO(self._filesystem.cat_file(f"{self._base}/{path}"))
                return cast(BinaryIO, self._filesystem.open(f"{self._base}/{path}", "rb"))
            # Without O_NONBLOCK a named pipe in the hub would hold the reader for ever.
            descriptor = os.open(self.local_path(path), os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise FileNotFoundError(path)
                return os.fdopen(descriptor, "rb", buffering=1 << 18)
            except BaseException:
                os.close(descriptor)
                raise

    def exists(self, path: str) -> bool:
        """Return whether the object exists; an unreachable storage is an error, never a no."""
        with self._explained(f"look for {self.url_for(path)}"):
            return self._information(path) is not None

    def stat(self, path: str) -> ObjectInfo:
        """Return size, MD5 where known, and a tag, in one request to the storage; raises NotThere if it does not exist."""
        with self._explained(f"look for {self.url_for(path)}"):
            information = self._information(path)
            if information is None:
                raise FileNotFoundError(path)
        return _object_info(information)

    def verify(self, path: str, size: int, sha256: str, md5: str | None = None) -> None:
        """Compare what arrived with what was sent.

        Where the storage keeps an MD5 of its own, size and MD5 are compared and nothing is read; else the object is
        read back and its SHA-256 compared.

        Raises:
          StorageError: if the object differs, is missing, or cannot be read.
        """
        where = self.url_for(path)
        fix = f"delete {where} if no record beside it says that it is published, and publish again"
        info = self.stat(path)
        if info.size != size:
            raise StorageError(with_fix(f"{where} has {info.size:,} bytes, not the expected {size:,}", fix))
        if md5 and info.md5:
            if info.md5 != md5:
                raise StorageError(with_fix(f"{where} has the MD5 {info.md5}, not the expected {md5}", fix))
            return
        digest = hashlib.sha256()
        with self.open(path) as file, self._explained(f"read {where}"):
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
        if digest.hexdigest() != sha256:
            message = f"{where} has the SHA-256 {digest.hexdigest()}, not the expected {sha256}"
            raise StorageError(with_fix(message, fix))

    def delete_leftovers(self, older_than: float = 60.0) -> list[str]:
        """Remove temporary files of publishers that were killed; those of publishers at work are left alone.

        Args:
          older_than: seconds since the last write; a file that is being written is also told by its lock. Where there are no locks
            nothing is removed: nobody can know whether it is at work.

        Returns:
          What was removed, as paths relative to the hub. Remote storages leave nothing behind.
        """
        removed: list[str] = []
        if self._root is None:
            return removed
        with _explained(f"tidy {self.url}"):
            for folder, _, names in os.walk(self._root):
                for name in names:
                    if not name.startswith(TEMPORARY_PREFIX):
                        continue
                    file = pathlib.Path(folder, name)
                    with contextlib.suppress(FileNotFoundError):
                        if time.time() - file.stat().st_mtime >= older_than and not locks.may_be_held(file):
                            file.unlink()
                            removed.append(file.relative_to(self._root).as_posix())
        return sorted(removed)

    def list_objects(self) -> dict[str, ObjectInfo | None]:
        """Return every object of the hub by path, with what the storage's listing says of it: one request for a thousand objects.

        The value is None where a listing says nothing (folders): ask `stat` for the single one.
        """
        if self._root is not None:
            return dict.fromkeys(self.list())
        with self._explained(f"list {self.url}"):
            self._filesystem.invalidate_cache()
            found = self._filesystem.find(self._base, detail=True)
            paths = ((name[len(self._base) :].lstrip("/"), each) for name, each in found.items())
            return {path: _object_info(each) for path, each in sorted(paths) if path and "/." not in f"/{path}"}

    # The last of the public methods: below it, `list` would no longer mean the built-in.
    def list(self, prefix: str = "", suffix: str = "", *, recursive: bool = True) -> list[str]:
        """Return the paths of all objects that begin with `prefix` and end with `suffix`, sorted; temporary files left out.

        With `recursive=False` only those in the folder that `prefix` names (up to its last slash).
        """
        folder = prefix.rpartition("/")[0]
        if folder:
            checked(folder)
        with self._explained(f"list {self.url}"):
            if self._root is not None:
                found = _walk(self._root / folder, f"{folder}/" if folder else "", recursive)
            else:
                self._filesystem.invalidate_cache()
                base = f"{self._base}/{folder}" if folder else self._base
                names = self._filesystem.find(base, maxdepth=None if recursive else 1)
                found = (name[len(self._base) :].lstrip("/") for name in names)
            return sorted(
                path
                for path in found
                if path and path.startswith(prefix) and path.endswith(suffix) and "/." not in f"/{path}"
            )

    # Inside

    @property
    def _protocol(self) -> str:
        protocol = self._filesystem.protocol
        names = (protocol,) if isinstance(protocol, str) else tuple(protocol)
        return "gs" if "gs" in names else names[0]

    def _information(self, path: str) -> dict[str, Any] | None:
        """Return what the file system says of an object, or None if there is no such object (a folder is none)."""
        checked(path)
        try:
            if self._root is not None:
                status = os.stat(self.local_path(path))
                if not stat.S_ISREG(status.st_mode):
                    return None
                return {"size": status.st_size, "mtime": status.st_mtime_ns, "inode": status.st_ino}
            self._filesystem.invalidate_cache()
            information = self._filesystem.info(f"{self._base}/{path}")
            return information if information.get("type") == "file" else None
        except (FileNotFoundError, NotADirectoryError, NotThere):
            return None

    def _holds(self, path: str, data: bytes) -> bool:
        with self._explained(f"look for {self.url_for(path)}"):
            information = self._information(path)
        if information is None or information["size"] != len(data):
            return False
        stored = _md5_of(information)
        if stored is not None:
            return stored == hashlib.md5(data, usedforsecurity=False).hexdigest()
        try:
            return self.read(path) == data
        except NotThere:
            return False


def open_hub(url: str) -> Storage:
    """Return the storage of the hub at `url`.

    Raises:
      NoHub: there is none.
      StorageError: it cannot be reached.
    """
    storage = Storage(url)
    if not storage.is_there():
        fix = f"check the address, or publish into it: python tools/publish.py NAME --hub {url}"
        raise NoHub(f"{storage.url}: {with_fix('there is no hub here', fix)}")
    return storage


def _open_filesystem(url: str, options: dict[str, Any]) -> tuple[Any, str]:
    """Return the fsspec file system of a URL and the path of the hub in it."""
    scheme = url.partition(":")[0]
    try:
        return remote.open_filesystem(url, **options)
    except ImportError as error:
        message = f"The hub {url} needs a package that is not installed: {error}"
        raise StorageError(with_fix(message, f"install the fsspec package for {scheme}://")) from error
    except ValueError as error:
        fix = "give a folder, gs://bucket/folder or another URL that fsspec knows"
        raise StorageError(with_fix(f"The hub's address {url} cannot be used: {error}", fix)) from error
    except Exception as error:
        raise StorageError(_reason(f"open the hub {url}", error)) from error


@contextlib.contextmanager
def _explained(action: str, already: str = "it exists already") -> Iterator[None]:
    """Turn whatever a file system raises into a StorageError with a reason and a fix."""
    try:
        yield
    except StorageError:
        raise
    except FileExistsError as error:
        raise AlreadyThere(with_fix(already, "publish a new version instead")) from error
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        message = f"Cannot {action}: there is no such object"
        raise NotThere(with_fix(message, "check the path and the hub's address")) from error
    except (MemoryError, AssertionError, TypeError, AttributeError, KeyError, IndexError, NameError):
        raise  # programming errors keep their traceback
    except Exception as error:
        raise StorageError(_reason(action, error)) from error


_NEVER_CHANGES = "exists already, and what is published never changes"


def _reason(action: str, error: Exception) -> str:
    """Return the message of a failure: what failed and why, and the fix."""
    if isinstance(error, locks.LocksUnsupported):
        reason = "the file system has neither hard links nor locks, so two publishers could overwrite each other"
        fix = "choose a hub on another file system"
    else:
        reason, fix = remote.explain(error)
    return with_fix(f"Cannot {action}: {reason}", fix)


def _callback(progress: Progress | None) -> Any:
    """Return an fsspec callback that reports to `progress`."""
    from fsspec.callbacks import Callback

    found = Callback()
    if progress:
        found.hooks["progress"] = lambda size, value, **_: progress(value, size)
    return found


def _link(temporary: pathlib.Path, final: pathlib.Path, lock_file: pathlib.Path) -> None:
    """Give a finished temporary file its name, unless the name is taken."""
    try:
        os.link(temporary, final)
        return
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
    # A file system without hard links: publishers take turns instead, and without locks either nothing can be created safely.
    with open(lock_file, "ab") as lock:
        locks.acquire(lock.fileno(), wait=True)
        if os.path.lexists(final):
            raise FileExistsError(final)
        os.rename(temporary, final)


def _copy(source: bytes | os.PathLike[str], target: io.FileIO, progress: Progress | None) -> None:
    if isinstance(source, bytes):
        view = memoryview(source)
        while view:
            view = view[target.write(view[:CHUNK_BYTES]) :]
        if progress:
            progress(len(source), len(source))
        return
    with open(source, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        done = 0
        while done < size:
            copied = _copy_range(file, target, size - done)
            if not copied:
                raise OSError(f"{os.fspath(source)} became shorter while it was copied")
            done += copied
            if progress:
                progress(done, size)


def _copy_range(source: io.FileIO, target: io.FileIO, limit: int) -> int:
    """Copy a piece from where both files stand; inside the kernel where that works."""
    piece = min(limit, 8 * CHUNK_BYTES)
    if hasattr(os, "copy_file_range"):
        with contextlib.suppress(OSError):
            copied = os.copy_file_range(source.fileno(), target.fileno(), piece)
            if copied:
                return copied
    view = memoryview(source.read(min(piece, CHUNK_BYTES)))
    copied = len(view)
    while view:
        view = view[target.write(view) :]
    return copied


def _make_folders(folder: pathlib.Path) -> None:
    """Make a folder and what is missing above it, and see to it that they survive a crash."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        try:
            new.mkdir(exist_ok=True)
        except FileExistsError as error:  # a file where a folder must be; not the object being written
            message = f"{new} is a file, but a folder is needed there"
            raise StorageError(with_fix(message, "remove it or choose another hub")) from error
        _sync_folder(new.parent)


def _sync_folder(folder: pathlib.Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync folders
            raise
    finally:
        os.close(descriptor)


def _walk(folder: str | os.PathLike[str], prefix: str, recursive: bool) -> Iterator[str]:
    """Yield relative paths of the regular files below a folder, without anything that begins with a dot."""
    waiting = [(os.fspath(folder), prefix)]
    while waiting:
        folder, prefix = waiting.pop()
        try:
            entries = os.scandir(folder)
        except (FileNotFoundError, NotADirectoryError):
            continue
        with entries:
            for entry in entries:
                name = entry.name
                if name.startswith("."):
                    continue
                # Links to folders are not followed: they could lead out of the hub or round in circles.
                if entry.is_dir(follow_symlinks=False):
                    if recursive:
                        waiting.append((entry.path, f"{prefix}{name}/"))
                elif entry.is_file(follow_symlinks=False):
                    yield prefix + name


def _object_info(information: dict[str, Any]) -> ObjectInfo:
    size, md5 = information["size"], _md5_of(information)
    changed = [information.get(key) for key in ("inode", "generation", "ETag", "etag", "mtime", "updated", "created")]
    tag = md5 or hashlib.sha256(repr([size, *map(str, changed)]).encode()).hexdigest()[:32]
    return ObjectInfo(size, md5, tag)


def _md5_of(information: dict[str, Any]) -> str | None:
    encoded = information.get("md5Hash")
    return base64.b64decode(encoded).hex() if encoded else None
