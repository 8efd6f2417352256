"""Directory of a zip archive: where each member's bytes lie in the file. torch's zip format and npz are zips."""

import itertools
import mmap
import zipfile
from dataclasses import dataclass
from typing import IO, cast

from builders.checkpoints.errors import Refusal, quoted

_MAXIMUM_MEMBERS = 200_000


@dataclass(slots=True)
class ZipMember:
    """One member of a zip: `size` bytes at `start` of the file (`stored` bytes when `compressed`)."""

    start: int
    stored: int
    size: int
    crc: int
    compressed: bool


def zip_members(memory: mmap.mmap) -> dict[str, ZipMember]:
    """Return the members of the archive by name, after checking that they are plain, disjoint and inside the file.

    `zipfile` reads the directory; what it does not check is that members do not overlap, where their bytes begin, and that the
    comment at the end is whole.
    """
    try:
        archive = zipfile.ZipFile(cast(IO[bytes], memory))
    except (zipfile.BadZipFile, ValueError) as error:
        raise Refusal(f"truncated or damaged: the zip directory is missing or broken ({error})") from None
    if memory[-2 - len(archive.comment) : len(memory) - len(archive.comment)] != len(archive.comment).to_bytes(
        2, "little"
    ):
        raise Refusal("truncated or damaged: the comment at its end is not as long as the zip directory says")
    entries = archive.infolist()
    if len(entries) > _MAXIMUM_MEMBERS:
        raise Refusal(f"its zip directory has {len(entries)} members", "check where the file comes from")
    members, ranges = {}, []
    for entry in entries:
        name, shown = entry.filename, quoted(entry.filename)
        if name in members:
            raise Refusal(f"two members are called {shown}", "check where the file comes from")
        if name.startswith("/") or "\\" in name or "\0" in entry.orig_filename or ".." in name.split("/"):
            raise Refusal(f"a member has the unsafe name {shown}", "check where the file comes from")
        if entry.flag_bits & 0x41:
            raise Refusal(f"member {shown} is encrypted", "decrypt the archive")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Refusal(f"member {shown} is compressed by method {entry.compress_type}", "write it uncompressed")
        local = memory[entry.header_offset : entry.header_offset + 30] if entry.header_offset >= 0 else b""
        if len(local) < 30 or local[:4] != b"PK\x03\x04":
            raise Refusal(f"truncated or damaged: member {shown} is not where the zip directory says")
        name_length, extra_length = int.from_bytes(local[26:28], "little"), int.from_bytes(local[28:30], "little")
        start = entry.header_offset + 30 + name_length + extra_length
        local_name = memory[entry.header_offset + 30 : entry.header_offset + 30 + name_length]
        if local_name.decode("utf-8" if entry.flag_bits & 0x800 else "cp437") != entry.orig_filename:
            raise Refusal(f"member {shown} has another name in its own header", "check where the file comes from")
        compressed = entry.compress_type != zipfile.ZIP_STORED
        if not compressed and entry.file_size != entry.compress_size:
            raise Refusal(f"member {shown} is stored, but its two sizes differ")
        end = start + entry.compress_size
        if end > archive.start_dir:
            raise Refusal(f"truncated or damaged: member {shown} reaches past the members' end")
        ranges.append((entry.header_offset, end, shown))
        members[name] = ZipMember(start, entry.compress_size, entry.file_size, entry.CRC, compressed)
    ranges.sort()
    for (_, end, first), (begin, _, second) in itertools.pairwise(ranges):
        if begin < end:
            raise Refusal(f"members {first} and {second} overlap", "check where the file comes from")
    return members


def zip_comment(memory: mmap.mmap) -> bytes:
    """Return the comment at the end of an archive whose members were checked."""
    return memory[memory.rfind(b"PK\x05\x06") + 22 :]
