"""What an archive holds, from one pass over it, whatever its size.

contents = read(file, "1.tar.gz")
contents.sha256, contents.signatures["serving_default"].outputs
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from tools.archive import reading, saved_model

GRAPH, LABELS, MODULE = "saved_model.pb", "assets/labels.txt", "assets.extra/module.json"
MEMBER_LIMIT = 1 << 30  # bytes of a member that are read into memory; weights are not


@dataclass
class Contents:
    """What one pass over an archive found; digests are of the compressed bytes."""

    bytes: int = 0
    sha256: str = ""
    md5: str = ""
    files: int = 0
    unpacked_bytes: int = 0
    signatures: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)


class Hashing:
    """A stream that hashes what is read from it."""

    def __init__(self, stream: BinaryIO, name: str):
        self.name, self.size = name, 0
        self.sha256, self.md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.size += len(data)
        self.sha256.update(data)
        self.md5.update(data)
        return data


def read(stream: BinaryIO, name: str, *, weights: bool = True) -> Contents:
    """Read a module's archive to its end under the checks of `tools.archive.reading.inspect`.

    Without `weights`, reading ends where `variables/` begins, which is behind all the rest in archives that `packing.pack` made:
    digests and counts stay empty, and a model of a gigabyte takes no longer than its graph.

    Raises:
      tools.archive.members.ArchiveError: it holds what it must not, or is damaged.
      tools.archive.saved_model.SavedModelError: its saved_model.pb is none.
    """
    hashing, found = Hashing(stream, name), Contents()
    for member, content in reading.checked_members(hashing, name, reading.Limits()):
        if not weights and member.name == "variables":
            break
        if member.is_folder:
            continue
        found.files += 1
        found.unpacked_bytes += member.size
        if member.name in (GRAPH, LABELS, MODULE):
            if member.size > MEMBER_LIMIT:
                raise saved_model.SavedModelError(
                    f"{member.name} has {member.size:,} bytes, more than a graph can have"
                )
            found.texts[member.name] = content.read()
    if weights:
        found.bytes, found.sha256, found.md5 = hashing.size, hashing.sha256.hexdigest(), hashing.md5.hexdigest()
    if GRAPH in found.texts:
        found.signatures = saved_model.signatures(found.texts[GRAPH])
    return found
