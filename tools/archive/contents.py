"""Read an archive's digests, graph, labels and description in one pass, whatever its size.

contents = read(file, "1.tar.gz")
contents.sha256, contents.signatures["serving_default"].outputs
"""

import hashlib
from dataclasses import dataclass, field

from tools.archive import reading, saved_model
from tools.archive.members import ArchiveError
from tools.common.problems import Problem

GRAPH, LABELS, MODULE = "saved_model.pb", "assets/labels.txt", "assets.extra/module.json"
MEMORY_BYTES = 256 << 20  # of graph, labels and description together, which are kept in memory; weights are not
_Texts = dict[str, bytes]


@dataclass
class Contents:
    """Findings of one pass over an archive.

    `bytes`, `sha256` and `md5` are of the compressed file; `files` and `unpacked_bytes` count the members that are no folders;
    `signatures` are those of the graph, by key; `texts` has the content of graph, labels and description, by path.
    """

    bytes: int = 0
    sha256: str = ""
    md5: str = ""
    files: int = 0
    unpacked_bytes: int = 0
    signatures: dict[str, saved_model.Signature] = field(default_factory=dict)
    texts: _Texts = field(default_factory=dict)


class Hashing:
    """A stream that hashes all that is read from it."""

    def __init__(self, stream: reading.Readable, name: str):
        self.name, self.size = name, 0
        self.sha256, self.md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes, at most `size` of them; all that are left by default."""
        data = self._stream.read(size)
        self.size += len(data)
        self.sha256.update(data)
        self.md5.update(data)
        return data


def read(
    stream: reading.Readable,
    name: str,
    *,
    weights: bool = True,
    memory_bytes: int = MEMORY_BYTES,
    limits: reading.Limits | None = None,
) -> Contents:
    """Read a module's archive to its end under the checks of `tools.archive.reading.inspect`.

    Without `weights`, reading ends where `variables/` begins, which is behind all the rest in archives that `packing.pack` made:
    digests and counts stay empty, and a model of a gigabyte takes no longer than its graph. `memory_bytes` limits what is kept in
    memory, of which reading takes a small multiple.

    Raises:
      tools.archive.members.ArchiveError: it holds what it must not, or is damaged.
      tools.archive.saved_model.SavedModelError: saved_model.pb is damaged; the message follows its name.
    """
    hashing, found = Hashing(stream, name), Contents()
    kept = 0
    for member, content in reading.checked_members(hashing, limits):
        if not weights and member.name == "variables":
            break
        if member.is_folder:
            continue
        found.files += 1
        found.unpacked_bytes += member.size
        if member.name in (GRAPH, LABELS, MODULE):
            kept += member.size
            if kept > memory_bytes:
                message = f"has {member.size:,} bytes: graph, labels and description may have {memory_bytes:,} together"
                fix = "keep weights in variables, not in the graph, or raise the limit"
                raise ArchiveError(str(Problem(name, message, fix, row=f"member {member.name!r}")))
            found.texts[member.name] = content.read()
    if weights:
        found.bytes, found.sha256, found.md5 = hashing.size, hashing.sha256.hexdigest(), hashing.md5.hexdigest()
    if GRAPH in found.texts:
        found.signatures = saved_model.signatures(found.texts[GRAPH])
    return found
