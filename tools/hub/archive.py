"""A module's archive: a deterministic `.tar.gz` of a SavedModel, and the checks for archives from anywhere.

    archive = pack(pathlib.Path("saved_model"), pathlib.Path("1.tar.gz"))
    members = inspect(pathlib.Path("1.tar.gz"))

The same SavedModel gives the same bytes: members are sorted, folders come before the files in them (tensorflow_hub
makes folders for folder entries only), times and owners are zero, and the gzip header carries neither name nor time.
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
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

BLOCK_BYTES = 1 << 18  # what the compressor is fed with: a part of the format, since other pieces give other bytes
QUEUE_LENGTH = 4  # blocks that wait for each hashing thread
PLAIN_FILES = ("saved_model.pb", "saved_model.pbtxt", "tfhub_module.pb", "keras_metadata.pb", "fingerprint.pb")
FOLDERS = ("assets", "assets.extra", "variables")
RECIPE = (
    "A module holds saved_model.pb, fingerprint.pb, keras_metadata.pb, variables/variables.*, assets/* and "
    "assets.extra/*, nothing else"
)
USTAR_FILE_LIMIT = 8 << 30  # twelve octal digits hold sizes below this

Progress = Callable[[int, int | None], None]


class ArchiveError(RuntimeError):
    """A SavedModel cannot be packed, or an archive is not one that a hub may serve."""


@dataclasses.dataclass(frozen=True)
class Member:
    """One entry of an archive: its path, its size in bytes, and whether it is a folder."""

    name: str
    size: int
    is_folder: bool = False


@dataclasses.dataclass(frozen=True)
class Archive:
    """What `pack` wrote: digests as hexadecimal digits and size in bytes of the archive, and what is inside.

    `unpacked_size` is the sum of the files' sizes; `content_sha256` is the digest of the tar stream before compression,
    which stays the same when another version of the compressor gives other bytes.
    """

    sha256: str
    md5: str
    size: int
    unpacked_size: int
    members: tuple[Member, ...]
    content_sha256: str


@dataclasses.dataclass(frozen=True)
class Limits:
    """What `inspect` and `unpack` accept. Sizes in bytes, measured after decompression."""

    members: int = 10_000
    member_size: int = 64 << 30
    unpacked_size: int = 64 << 30
    name_length: int = 1024
    # Deflate cannot exceed 1032 to 1; weights reach 1.1 to 1, and a graph full of zeros is far from this.
    ratio: int = 200


def _refusal(name: str, is_folder: bool) -> str | None:
    """Why a member must not be in a module's archive, or None if it may."""
    if not name or name.startswith("/") or "\\" in name or any(ord(c) < 32 or ord(c) == 127 for c in name):
        return "has a path that is absolute or holds a backslash or a control character"
    segments = name.split("/")
    if any(segment.startswith(".") or not segment for segment in segments):
        return "has a path with an empty segment or one that begins with a dot"
    top = segments[0]
    if is_folder:
        if top not in FOLDERS or (top == "variables" and len(segments) > 1):
            return "is no folder of a SavedModel"
        return None
    if len(segments) == 1:
        return None if name in PLAIN_FILES else "is no file of a SavedModel"
    if top == "variables":
        is_variables = len(segments) == 2 and segments[1].startswith("variables.") and len(segments[1]) > 10
        return None if is_variables else "is no file of variables/ (variables.index, variables.data-00000-of-00001)"
    return None if top in FOLDERS else "is no file of a SavedModel"


# Packing


def pack(directory: os.PathLike, out: os.PathLike, progress: Progress | None = None) -> Archive:
    """Packs a SavedModel; the file `out` is replaced, and removed again when packing fails.

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
    members = _survey(directory)
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
                f"{directory} cannot be packed into {out}: {error.strerror or error}. Free some space or choose "
                "a folder that can be written, and pack it again."
            ) from error
        raise
    return Archive(sink.sha256.hexdigest(), sink.md5.hexdigest(), sink.size, total, tuple(members), content)


def _survey(directory: pathlib.Path) -> list[Member]:
    """The members of a SavedModel folder in the order of the archive; refuses what must not be published."""
    if not directory.is_dir():
        raise ArchiveError(f"{directory} is not a folder. Give the folder of a SavedModel.")
    problems: list[str] = []
    members: list[Member] = []

    def visit(folder: pathlib.Path, prefix: str) -> None:
        for entry in sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name)):
            name = prefix + entry.name
            status = entry.stat(follow_symlinks=False)
            is_folder = stat.S_ISDIR(status.st_mode)
            if stat.S_ISLNK(status.st_mode):
                problems.append(f"{name} is a link; put the file itself there")
            elif not is_folder and not stat.S_ISREG(status.st_mode):
                problems.append(f"{name} is neither a file nor a folder; remove it")
            elif reason := _refusal(name, is_folder):
                problems.append(f"{name} {reason}; remove it")
            elif is_folder:
                if any(os.scandir(entry.path)):  # an empty folder tells a consumer nothing
                    members.append(Member(name, 0, True))
                    visit(pathlib.Path(entry.path), f"{name}/")
            elif status.st_size == 0:
                problems.append(f"{name} is empty, and tensorflow_hub drops empty files; remove it or put a byte in it")
            else:
                members.append(Member(name, status.st_size))

    visit(directory, "")
    names = {member.name for member in members}
    if not names & {"saved_model.pb", "saved_model.pbtxt"}:
        problems.append("saved_model.pb is missing; export the model with tf.saved_model.save first")
    if problems:
        raise ArchiveError(f"{directory} cannot be published: " + "; ".join(problems) + f". {RECIPE}.")
    return members


def _sources(directory: pathlib.Path, members: list[Member]) -> Iterator[io.RawIOBase | io.BytesIO]:
    """Readers whose contents, one after the other, are the tar file."""
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
                raise ArchiveError(f"{file} changed while it was packed. Pack it when nothing writes to it.")
        yield io.BytesIO(bytes(padding))
    # Two zero blocks end an archive, padded to a full record.
    yield io.BytesIO(bytes(2 * tarfile.BLOCKSIZE + -(written + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE))


def _header(information: tarfile.TarInfo) -> bytes:
    """USTAR where it can say it; the PAX extension for names and sizes that it cannot."""
    if information.size < USTAR_FILE_LIMIT:
        try:
            return information.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
        except ValueError:  # a name that does not fit into 155 + 100 bytes
            pass
    return information.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def _compress(sources: Iterator[io.RawIOBase | io.BytesIO], sink: "_HashingWriter", progress, total: int) -> str:
    """Gzips what the sources hold into a sink, in blocks of BLOCK_BYTES, so that the bytes depend on nothing else.

    Returns:
      The SHA-256 of what went in, as hexadecimal digits.
    """
    from isal import isal_zlib

    compressor = isal_zlib.compressobj(level=1, wbits=31)
    content = _Worker(hashlib.sha256())
    done = 0
    try:
        for block in _blocks(sources):
            content.put(block)
            sink.write(compressor.compress(block))
            done += len(block)
            if progress:
                progress(min(done, total), total)
        sink.write(compressor.flush())
    finally:
        content.close()
    return content.work.hexdigest()


def _blocks(sources: Iterator[io.RawIOBase | io.BytesIO]) -> Iterator[memoryview]:
    """What the sources hold in blocks of BLOCK_BYTES, the last one shorter."""
    # A worker has QUEUE_LENGTH blocks waiting and one in hand; with one more than that to fill, and one to spare, no
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


class _Worker:
    """Feeds `work.update` in a thread of its own, behind a short queue; an error is kept for the one who puts."""

    def __init__(self, work):
        self.work = work
        self.error: BaseException | None = None
        self._pieces: queue.Queue = queue.Queue(QUEUE_LENGTH)
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
                    self.work.update(data)
                except BaseException as error:
                    self.error = error  # and go on emptying the queue, so that nobody waits for ever


class _HashingWriter:
    """Writes and hashes beside the compressor, which is what takes the time."""

    def __init__(self, file: io.RawIOBase):
        self.sha256 = hashlib.sha256()
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.size = 0
        self._file = file
        self._workers = (_Worker(self.sha256), _Worker(self))

    @property
    def error(self) -> BaseException | None:
        return next((worker.error for worker in self._workers if worker.error), None)

    def write(self, data: bytes) -> None:
        if data:
            self.size += len(data)
            for worker in self._workers:
                worker.put(data)

    def close(self) -> None:
        for worker in self._workers:
            worker.close()

    def update(self, data: bytes) -> None:
        """One worker's part: the file and its MD5."""
        self.md5.update(data)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]


# Inspecting


def inspect(archive: os.PathLike | BinaryIO, limits: Limits | None = None) -> list[Member]:
    """Checks an archive from anywhere, in one pass and with little memory, and returns its members in order.

    Raises:
      ArchiveError: if it is no complete gzip-compressed tar file, holds anything but the files of a SavedModel, holds a
        member twice or before its folder, a link, a device or an empty file, or exceeds the limits. Names the member.
    """
    return [member for member, _ in _members(archive, limits or Limits())]


def unpack(archive: os.PathLike | BinaryIO, directory: os.PathLike, limits: Limits | None = None) -> list[Member]:
    """Unpacks an archive into a folder, which must be empty or missing, under the checks of `inspect`."""
    directory = pathlib.Path(directory)
    if directory.exists() and any(directory.iterdir()):
        raise ArchiveError(f"{directory} is not empty. Give an empty or a new folder to unpack into.")
    directory.mkdir(parents=True, exist_ok=True)
    members = []
    for member, content in _members(archive, limits or Limits()):
        target = directory / member.name
        if member.is_folder:
            target.mkdir()
        else:
            with open(target, "xb") as file:
                while chunk := content.read(BLOCK_BYTES):
                    file.write(chunk)
        members.append(member)
    return members


def _members(archive: os.PathLike | BinaryIO, limits: Limits) -> Iterator[tuple[Member, BinaryIO | None]]:
    """Yields the checked members with their contents, which must be read before the next one is asked for."""
    if hasattr(archive, "read"):
        name = str(getattr(archive, "name", "the archive"))
        yield from checked_members(archive, name, limits)
        return
    try:
        file = open(archive, "rb", buffering=0)  # noqa: SIM115 (closed by the with below; only opening may be missing)
    except OSError as error:
        raise ArchiveError(
            f"{os.fspath(archive)} cannot be read: {error.strerror}. Give the path of an archive."
        ) from error
    with file:
        yield from checked_members(file, os.fspath(archive), limits)


def checked_members(file: BinaryIO, name: str, limits: Limits) -> Iterator[tuple[Member, BinaryIO | None]]:
    stream = _GunzipReader(file, name, limits)
    seen: set[str] = set()
    folders: set[str] = set()
    total = 0

    def refuse(member: str, reason: str) -> ArchiveError:
        return ArchiveError(
            f"{name}: member {member!r} {reason}. {RECIPE}. Pack the SavedModel with tools.hub.archive.pack."
        )

    for header in _headers(stream, name, limits):
        path = header.name
        if header.isdir():
            path = path.rstrip("/")
            if path in (".", ""):
                continue  # `tar -C model .` writes the root as a member of its own, and that harms nobody
        if path.startswith("./"):
            path = path[2:]
        if not (header.isdir() or header.type in (tarfile.REGTYPE, tarfile.AREGTYPE)):
            raise refuse(header.name, "is a link, a device or something else that is neither file nor folder")
        if reason := _refusal(path, header.isdir()):
            raise refuse(header.name, reason)
        if path in seen:
            raise refuse(path, "is there twice")
        parent = path.rpartition("/")[0]
        if parent and parent not in folders:
            raise refuse(
                path, f"comes before its folder {parent!r}, and tensorflow_hub makes folders for folder entries only"
            )
        seen.add(path)
        if len(seen) > limits.members:
            raise ArchiveError(f"{name} has more than {limits.members:,} members. Put the assets into fewer files.")
        if header.isdir():
            folders.add(path)
            yield Member(path, 0, True), None
            continue
        if header.size == 0:
            raise refuse(path, "is empty, and tensorflow_hub drops empty files")
        total += header.size
        if header.size > limits.member_size or total > limits.unpacked_size:
            raise refuse(path, f"exceeds the limit of {limits.unpacked_size:,} bytes when unpacked")
        content = _Content(stream, header.size)
        yield Member(path, header.size), content
        content.skip()
        stream.read_exactly(-header.size % tarfile.BLOCKSIZE)
    if not seen & {"saved_model.pb", "saved_model.pbtxt"}:
        raise ArchiveError(f"{name} has no saved_model.pb at its root. Pack the folder's contents, not the folder.")
    stream.finish()


def _headers(stream: "_GunzipReader", name: str, limits: Limits) -> Iterator[tarfile.TarInfo]:
    """The headers of a tar stream; whoever asks for the next one has consumed the content of the last."""
    overrides: dict[str, str] = {}
    while True:
        block = stream.read_exactly(tarfile.BLOCKSIZE)
        if not any(block):
            if any(stream.read_exactly(tarfile.BLOCKSIZE)):
                raise ArchiveError(f"{name} is damaged: a single zero block instead of an end. Pack it again.")
            return
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.TarError as error:
            raise ArchiveError(f"{name} is damaged or not a tar file: {error}. Pack it again.") from error
        if header.size < 0:
            raise ArchiveError(f"{name}: member {header.name!r} has a negative size. Pack it again.")
        if header.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME):
            if header.size > 64 * limits.name_length:
                raise ArchiveError(f"{name}: member {header.name!r} has an oversized header. Pack it again.")
            data = stream.read_exactly(header.size)
            stream.read_exactly(-header.size % tarfile.BLOCKSIZE)
            if header.type == tarfile.GNUTYPE_LONGNAME:
                overrides["path"] = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
            else:
                records = _pax_records(data, name)
                if any(key.startswith("GNU.sparse") for key in records):
                    raise ArchiveError(f"{name} holds sparse files. Pack it again without.")
                if header.type == tarfile.XHDTYPE:
                    overrides.update(records)
                elif records.keys() & {"path", "linkpath", "size"}:
                    raise ArchiveError(f"{name} has a global header that renames members. Pack it again without.")
            continue
        if "path" in overrides:
            header.name = overrides["path"]
        if "size" in overrides:
            try:
                header.size = int(overrides["size"])
            except ValueError:
                header.size = -1
        if header.size < 0:
            raise ArchiveError(f"{name}: member {header.name!r} has an unusable size. Pack it again.")
        overrides = {}
        if len(header.name) > limits.name_length:
            raise ArchiveError(
                f"{name}: member {header.name[:60]!r}... has a path of more than {limits.name_length:,} characters. "
                "Give the asset a shorter name."
            )
        yield header


def _pax_records(data: bytes, name: str) -> dict[str, str]:
    records = {}
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 20)
        digits = data[position:space] if space > 0 else b""
        length = int(digits) if digits.isdigit() else 0
        record = data[space + 1 : position + length]
        key, equals, value = record.rstrip(b"\n").partition(b"=")
        if length <= len(digits) + 1 or not equals or position + length > len(data):
            raise ArchiveError(f"{name} is damaged: an extended header cannot be read. Pack it again.")
        records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        position += length
    return records


class _Content:
    """The content of one member, read from the stream that is shared by all of them."""

    def __init__(self, stream: "_GunzipReader", size: int):
        self._stream = stream
        self._left = size

    def read(self, size: int = -1) -> bytes:
        count = self._left if size < 0 else min(size, self._left)
        data = self._stream.read_exactly(count)
        self._left -= count
        return data

    def skip(self) -> None:
        while self.read(BLOCK_BYTES):
            pass


class _GunzipReader:
    """Decompresses a stream piece by piece, within limits, and tells when it ends too early."""

    def __init__(self, file: BinaryIO, name: str, limits: Limits):
        from isal import isal_zlib

        self._file = file
        self._name = name
        self._limits = limits
        self._decompressor = isal_zlib.decompressobj(wbits=31)
        self._errors = (isal_zlib.error, zlib.error, EOFError, ValueError)
        self._ready = bytearray()
        self._compressed = 0
        self._decompressed = 0
        self._rest = b""

    def read_exactly(self, size: int) -> bytes:
        while len(self._ready) < size:
            piece = self._next()
            if not piece:
                raise ArchiveError(
                    f"{self._name} is truncated: it ends after {self._decompressed:,} bytes of content. "
                    "Download or pack it again."
                )
            self._ready += piece
        data = bytes(memoryview(self._ready)[:size])
        del self._ready[:size]
        return data

    def finish(self) -> None:
        """Reads what follows the last member: zeros only, then the end of the gzip stream with its checksum."""
        pending = bytes(self._ready)
        self._ready.clear()
        while True:
            if pending.strip(b"\0"):
                raise ArchiveError(f"{self._name} holds something behind the end of the tar file. Pack it again.")
            pending = self._next()
            if not pending:
                break
        if not self._decompressor.eof:
            raise ArchiveError(f"{self._name} is truncated: the gzip stream has no end. Download or pack it again.")
        if self._decompressor.unused_data or self._rest or self._file.read(1):
            raise ArchiveError(f"{self._name} holds something behind the end of the gzip stream. Pack it again.")

    def _next(self) -> bytes:
        while not self._decompressor.eof:
            compressed = self._rest or self._file.read(BLOCK_BYTES)
            self._rest = b""
            if not compressed:
                return b""
            self._compressed += len(compressed)
            try:
                # A bomb is met in pieces of this size, long before it fills the memory.
                piece = self._decompressor.decompress(compressed, 4 * BLOCK_BYTES)
            except self._errors as error:
                raise ArchiveError(
                    f"{self._name} is damaged or not compressed with gzip: {error}. Download or pack it again."
                ) from error
            self._rest = self._decompressor.unconsumed_tail
            self._compressed -= len(self._rest)
            self._decompressed += len(piece)
            excess = self._decompressed - self._limits.ratio * max(self._compressed, BLOCK_BYTES)
            if excess > 0 or self._decompressed > self._limits.unpacked_size + (1 << 24):
                raise ArchiveError(
                    f"{self._name} unpacks to far more than it holds (a zip bomb): {self._decompressed:,} bytes out of "
                    f"{self._compressed:,}. Do not serve it."
                )
            if piece:
                return piece
        return b""
