"""Pack a SavedModel as a deterministic `.tar.gz`: the same SavedModel gives the same bytes.

    archive = pack(pathlib.Path("saved_model"), pathlib.Path("1.tar.gz"))

Members are sorted, folders come before the files in them (tensorflow_hub makes folders for folder entries only), times and owners
are zero, and the gzip header carries neither name nor time.

Only this file and `tools.archive.members` decide the bytes of an archive: they import nothing else of `tools`, so that nothing else
changes the key of a build. Home-made, because `tarfile.open(out, "w:gz")` compresses with zlib in one thread, five times as slowly
(16 s and 3 s for 200 MB of weights).
"""

import dataclasses
import hashlib
import io
import itertools
import os
import pathlib
import queue
import stat
import tarfile
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from tools.archive.members import BLOCK_BYTES, RECIPE, ArchiveError, Member, refusal

QUEUE_LENGTH = 4  # blocks that wait for each thread
USTAR_FILE_LIMIT = 8 << 30  # twelve octal digits hold sizes below this

Progress = Callable[[int, int | None], None]


@dataclasses.dataclass(frozen=True)
class PackedArchive:
    """The result of `pack`: the archive's digests as hexadecimal digits, its size in bytes, and its members.

    `unpacked_size` is the sum of the files' sizes; `content_sha256` is the digest of the tar stream before compression,
    which stays the same when another version of the compressor gives other bytes.
    """

    sha256: str
    md5: str
    size: int
    unpacked_size: int
    members: tuple[Member, ...]
    content_sha256: str


def pack(
    directory: str | os.PathLike[str], out: str | os.PathLike[str], progress: Progress | None = None
) -> PackedArchive:
    """Pack a SavedModel into `out`, which is replaced, and removed again when packing fails.

    Reads, compresses and hashes in one pass, with a few MiB of memory whatever the size.

    Args:
      directory: the SavedModel; it becomes the archive's root.
      out: the file to write.
      progress: called with (bytes read, bytes in all).

    Raises:
      ArchiveError: if the folder holds something that a module must not (see `RECIPE`), lacks `saved_model.pb`, or
        changes while it is read.
    """
    directory = pathlib.Path(directory)
    out = pathlib.Path(out)
    members = _list_members(directory)
    total = sum(member.size for member in members)
    try:
        with open(out, "wb", buffering=0) as file:
            sink = _HashingWriter(file)
            try:
                content = _compress(_sources(directory, members), sink, progress, total)
            finally:
                sink.close()
        if sink.error:
            raise sink.error
    except BaseException as error:
        out.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ArchiveError(
                f"{directory}: cannot be packed into {out}: {error.strerror or error}. Fix: free some space or choose "
                "a folder that can be written, and pack it again."
            ) from error
        raise
    return PackedArchive(sink.sha256.hexdigest(), sink.md5.hexdigest(), sink.size, total, tuple(members), content)


def _list_members(directory: pathlib.Path) -> list[Member]:
    """Return the members of a SavedModel's folder in the order of the archive.

    Raises:
      ArchiveError: with a line for everything that must not be published.
    """
    if not directory.is_dir():
        raise ArchiveError(f"{directory}: is not a folder. Fix: give the folder of a SavedModel.")
    problems: list[str] = []
    members: list[Member] = []

    def refuse(name: str, message: str, fix: str) -> None:
        problems.append(f"{directory}: {name}: {message}. Fix: {fix}.")

    def visit(folder: pathlib.Path, prefix: str) -> None:
        for entry in sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name)):
            name = prefix + entry.name
            status = entry.stat(follow_symlinks=False)
            is_folder = stat.S_ISDIR(status.st_mode)
            if stat.S_ISLNK(status.st_mode):
                refuse(name, "is a link", "put the file itself there")
            elif not is_folder and not stat.S_ISREG(status.st_mode):
                refuse(name, "is neither a file nor a folder", "remove it")
            elif reason := refusal(name, is_folder):
                refuse(name, reason, f"remove it ({RECIPE})")
            elif is_folder:
                if any(os.scandir(entry.path)):  # an empty folder means nothing to a consumer
                    members.append(Member(name, 0, True))
                    visit(pathlib.Path(entry.path), f"{name}/")
            elif status.st_size == 0:
                refuse(name, "is empty, and tensorflow_hub drops empty files", "remove it, or put a byte in it")
            else:
                members.append(Member(name, status.st_size))

    visit(directory, "")
    names = {member.name for member in members}
    if not names & {"saved_model.pb", "saved_model.pbtxt"}:
        refuse("saved_model.pb", "is missing", "export the model with tf.saved_model.save first")
    if problems:
        raise ArchiveError("\n".join(problems))
    return members


def _sources(directory: pathlib.Path, members: list[Member]) -> Iterator[io.RawIOBase | io.BytesIO]:
    """Yield readers whose contents, one after the other, are the tar file."""
    written = 0
    for member in members:
        information = tarfile.TarInfo(member.name)
        information.type = tarfile.DIRTYPE if member.is_folder else tarfile.REGTYPE
        information.mode = 0o755 if member.is_folder else 0o644
        information.size = member.size
        header = _header(information)
        padding = -member.size % tarfile.BLOCKSIZE
        written += len(header) + member.size + padding
        yield io.BytesIO(header)
        if member.is_folder:
            continue
        file = directory / member.name
        with open(file, "rb", buffering=0) as source:
            yield source
            if source.tell() != member.size:
                raise ArchiveError(f"{file}: changed while it was packed. Fix: pack it when nothing writes to it.")
        yield io.BytesIO(bytes(padding))
    # Two zero blocks end an archive, padded to a full record.
    yield io.BytesIO(bytes(2 * tarfile.BLOCKSIZE + -(written + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE))


def _header(information: tarfile.TarInfo) -> bytes:
    """Return a header: USTAR, or the PAX extension for a name or size that USTAR cannot express."""
    if information.size < USTAR_FILE_LIMIT:
        try:
            return information.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
        except ValueError:  # a name that does not fit into 155 + 100 bytes
            pass
    return information.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def _compress(
    sources: Iterator[io.RawIOBase | io.BytesIO], sink: "_HashingWriter", progress: Progress | None, total: int
) -> str:
    """Compress the sources into a sink, in blocks of BLOCK_BYTES, so that the bytes depend on nothing else.

    Returns:
      The SHA-256 of the content before compression, as hexadecimal digits.
    """
    from isal import isal_zlib

    compressor = isal_zlib.compressobj(level=1, wbits=31)
    content = hashlib.sha256()
    thread = _UpdatingThread(content)
    done = 0
    try:
        for block in _blocks(sources):
            thread.put(block)
            sink.write(compressor.compress(block))
            done += len(block)
            if progress:
                progress(min(done, total), total)
        sink.write(compressor.flush())
    finally:
        thread.close()
    return content.hexdigest()


def _blocks(sources: Iterator[io.RawIOBase | io.BytesIO]) -> Iterator[memoryview]:
    """Yield the content of the sources in blocks of BLOCK_BYTES, the last one shorter."""
    # A thread has QUEUE_LENGTH blocks waiting and one in hand; with one more than that to fill, and one to spare, no
    # block is overwritten while somebody reads it. Fresh memory for each would cost as much as hashing it.
    ring = itertools.cycle([memoryview(bytearray(BLOCK_BYTES)) for _ in range(QUEUE_LENGTH + 3)])
    block = next(ring)
    filled = 0
    for source in sources:
        while count := source.readinto(block[filled:]):
            filled += count
            if filled == BLOCK_BYTES:
                yield block
                block = next(ring)
                filled = 0
    if filled:
        yield block[:filled]


class _Updatable(Protocol):
    """A hash, or something else that takes pieces of data."""

    def update(self, data: Any, /) -> None: ...


class _UpdatingThread:
    """A thread that calls `target.update`, behind a short queue; its error is raised to the caller of `put`."""

    def __init__(self, target: _Updatable):
        self.error: BaseException | None = None
        self._target = target
        self._pieces: queue.Queue[bytes | memoryview | None] = queue.Queue(QUEUE_LENGTH)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, data: bytes | memoryview) -> None:
        if self.error:
            raise self.error
        self._pieces.put(data)

    def close(self) -> None:
        self._pieces.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (data := self._pieces.get()) is not None:
            if self.error is None:
                try:
                    self._target.update(data)
                except BaseException as error:
                    self.error = error  # and go on emptying the queue, so that nobody waits for ever


class _HashingWriter:
    """Writes and hashes in two threads, beside the compressor, which takes most of the time."""

    def __init__(self, file: io.RawIOBase):
        self.sha256 = hashlib.sha256()
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.size = 0
        self._file = file
        self._threads = (_UpdatingThread(self.sha256), _UpdatingThread(self))

    @property
    def error(self) -> BaseException | None:
        return next((thread.error for thread in self._threads if thread.error), None)

    def write(self, data: bytes) -> None:
        if data:
            self.size += len(data)
            for thread in self._threads:
                thread.put(data)

    def close(self) -> None:
        for thread in self._threads:
            thread.close()

    def update(self, data: bytes) -> None:
        """Write and hash a piece; one of the threads calls this."""
        self.md5.update(data)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
