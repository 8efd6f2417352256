"""Check and unpack archives from anywhere: one pass, little memory, nothing outside of what a module may hold.

    members = inspect(pathlib.Path("1.tar.gz"))
    unpack(pathlib.Path("1.tar.gz"), pathlib.Path("module"))

Home-made, because `tarfile` reads members before they can be refused, follows sparse and renaming headers, and knows no limit for
what a compressed stream may grow to.
"""

import dataclasses
import os
import pathlib
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Protocol

from tools.archive.members import BLOCK_BYTES, RECIPE, ArchiveError, Member, refusal
from tools.common.problems import Problem

PACK_AGAIN = "pack it again with tools.archive.packing.pack"
FETCH_AGAIN = "download or pack it again"


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int = -1, /) -> bytes: ...


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of `inspect` and `checked_members`. Sizes in bytes, measured after decompression."""

    members: int = 10_000
    member_size: int = 64 << 30
    unpacked_size: int = 64 << 30
    name_length: int = 1024
    header_bytes: int = 1 << 16  # of all extended headers of a member
    # Deflate cannot exceed 1032 to 1; weights reach 1.1 to 1, and a graph full of zeros is far from this.
    ratio: int = 200


def inspect(archive: str | os.PathLike[str] | Readable, limits: Limits | None = None) -> list[Member]:
    """Check an archive from anywhere, in one pass and with little memory, and return its members in order.

    Raises:
      ArchiveError: if it is no complete gzip-compressed tar file, holds anything but the files of a SavedModel, holds a
        member twice or before its folder, a link, a device or an empty file, or exceeds the limits. Names the member.
    """
    return [member for member, _ in checked_members(archive, limits)]


def unpack(
    archive: str | os.PathLike[str] | Readable, directory: str | os.PathLike[str], limits: Limits | None = None
) -> list[Member]:
    """Unpack an archive into a folder, which must be empty or missing, under the checks of `inspect`."""
    directory = pathlib.Path(directory)
    if directory.exists() and any(directory.iterdir()):
        raise _problem(str(directory), "is not empty", "give an empty or a new folder to unpack into")
    directory.mkdir(parents=True, exist_ok=True)
    members = []
    for member, content in checked_members(archive, limits):
        target = directory / member.name
        if member.is_folder:
            target.mkdir()
        else:
            with open(target, "xb") as file:
                while chunk := content.read(BLOCK_BYTES):
                    file.write(chunk)
        members.append(member)
    return members


def checked_members(
    archive: str | os.PathLike[str] | Readable, limits: Limits | None = None
) -> Iterator[tuple[Member, Readable]]:
    """Yield each member with its content, which can be read until the next one is asked for (a folder's is empty).

    A member is yielded once it has passed the checks of `inspect`; the rest of the archive, with the checksum at its end, is
    checked only when the iterator goes on. A stream is called by its `name` in messages.

    Raises:
      ArchiveError: as `inspect`.
    """
    limits = limits or Limits()
    if not isinstance(archive, str | os.PathLike):
        yield from _checked_members(archive, str(getattr(archive, "name", "the archive")), limits)
        return
    name = os.fspath(archive)
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open(name, "rb", buffering=0))
        except OSError as error:
            raise _problem(name, f"cannot be read: {error.strerror}", "give the path of an archive") from error
        yield from _checked_members(file, name, limits)


def _problem(name: str, message: str, fix: str, *, member: str = "") -> ArchiveError:
    return ArchiveError(str(Problem(name, message, fix, row=f"member {member!r}" if member else "")))


def _checked_members(file: Readable, name: str, limits: Limits) -> Iterator[tuple[Member, Readable]]:
    stream = _GunzipReader(file, name, limits)
    seen: set[str] = set()
    folders: set[str] = set()
    total = 0

    def refuse(member: str, reason: str) -> ArchiveError:
        return _problem(name, reason, f"{PACK_AGAIN}; {RECIPE}", member=member)

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
        if reason := refusal(path, header.isdir()):
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
            raise _problem(name, f"has more than {limits.members:,} members", "put the assets into fewer files")
        if header.isdir():
            folders.add(path)
            yield Member(path, 0, True), _Content(stream, 0)
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
        raise _problem(name, "has no saved_model.pb at its root", "pack the folder's contents, not the folder")
    stream.finish()


def _headers(stream: "_GunzipReader", name: str, limits: Limits) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of a tar stream; the content of one must be consumed before the next is asked for."""
    overrides: dict[str, str] = {}
    extended = 0  # bytes of extended headers since the last member
    while True:
        block = stream.read_exactly(tarfile.BLOCKSIZE)
        if not any(block):
            if any(stream.read_exactly(tarfile.BLOCKSIZE)):
                raise _problem(name, "is damaged: a single zero block instead of an end", PACK_AGAIN)
            return
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.TarError as error:
            raise _problem(name, f"is damaged or not a tar file: {error}", PACK_AGAIN) from error
        if header.size < 0:
            raise _problem(name, "has a negative size", PACK_AGAIN, member=header.name)
        if header.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME):
            extended += tarfile.BLOCKSIZE + header.size
            if extended > limits.header_bytes:
                raise _problem(
                    name,
                    f"has more than {limits.header_bytes:,} bytes of extended headers",
                    PACK_AGAIN,
                    member=header.name,
                )
            data = stream.read_exactly(header.size)
            stream.read_exactly(-header.size % tarfile.BLOCKSIZE)
            if header.type == tarfile.GNUTYPE_LONGNAME:
                overrides["path"] = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
            else:
                records = _pax_records(data, name)
                if any(key.startswith("GNU.sparse") for key in records):
                    raise _problem(name, "holds sparse files", PACK_AGAIN)
                if header.type == tarfile.XHDTYPE:
                    overrides.update({key: records[key] for key in ("path", "size") if key in records})
                elif records.keys() & {"path", "linkpath", "size"}:
                    raise _problem(name, "has a global header that renames members", PACK_AGAIN)
            continue
        if "path" in overrides:
            header.name = overrides["path"]
        if "size" in overrides:
            try:
                header.size = int(overrides["size"])
            except ValueError:
                header.size = -1
        if header.size < 0:
            raise _problem(name, "has an unusable size", PACK_AGAIN, member=header.name)
        overrides, extended = {}, 0
        if len(header.name) > limits.name_length:
            raise _problem(
                name,
                f"has a path of more than {limits.name_length:,} characters",
                "give the asset a shorter name",
                member=f"{header.name[:60]}...",
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
            raise _problem(name, "is damaged: an extended header cannot be read", PACK_AGAIN)
        records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        position += length
    return records


class _Content:
    """The content of one member, read from the stream of the archive."""

    def __init__(self, stream: "_GunzipReader", size: int):
        self._stream = stream
        self._left = size

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes, at most `size` of them; all that are left by default."""
        count = self._left if size < 0 else min(size, self._left)
        data = self._stream.read_exactly(count)
        self._left -= count
        return data

    def skip(self) -> None:
        """Read what is left, and check it on the way."""
        while self.read(BLOCK_BYTES):
            pass


class _GunzipReader:
    """Decompresses a stream piece by piece, within limits, and refuses one that ends too early."""

    def __init__(self, file: Readable, name: str, limits: Limits):
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
        """Return the next `size` bytes of the tar stream."""
        while len(self._ready) < size:
            piece = self._next()
            if not piece:
                raise _problem(
                    self._name, f"is truncated: it ends after {self._decompressed:,} bytes of content", FETCH_AGAIN
                )
            self._ready += piece
        data = bytes(memoryview(self._ready)[:size])
        del self._ready[:size]
        return data

    def finish(self) -> None:
        """Read what follows the last member: zeros only, then the end of the gzip stream with its checksum."""
        pending = bytes(self._ready)
        self._ready.clear()
        while True:
            if pending.strip(b"\0"):
                raise _problem(self._name, "holds something behind the end of the tar file", PACK_AGAIN)
            pending = self._next()
            if not pending:
                break
        if not self._decompressor.eof:
            raise _problem(self._name, "is truncated: the gzip stream has no end", FETCH_AGAIN)
        if self._decompressor.unused_data or self._rest or self._file.read(1):
            raise _problem(self._name, "holds something behind the end of the gzip stream", PACK_AGAIN)

    def _next(self) -> bytes:
        while not self._decompressor.eof:
            compressed = self._rest or self._file.read(BLOCK_BYTES)
            self._rest = b""
            if not compressed:
                return b""
            self._compressed += len(compressed)
            try:
                # A bomb is met in pieces of this size, long before it fills the memory.
                piece: bytes = self._decompressor.decompress(compressed, 4 * BLOCK_BYTES)
            except self._errors as error:
                raise _problem(self._name, f"is damaged or not compressed with gzip: {error}", FETCH_AGAIN) from error
            self._rest = self._decompressor.unconsumed_tail
            self._compressed -= len(self._rest)
            self._decompressed += len(piece)
            excess = self._decompressed - self._limits.ratio * max(self._compressed, BLOCK_BYTES)
            if excess > 0 or self._decompressed > self._limits.unpacked_size + (1 << 24):
                raise _problem(
                    self._name,
                    f"unpacks to far more than it holds (a zip bomb): {self._decompressed:,} bytes out of {self._compressed:,}",
                    "do not serve it",
                )
            if piece:
                return piece
        return b""
