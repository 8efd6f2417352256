"""Checkpoint files: recognise the container by its content, read it, check it, write one.

checkpoint = read("convnext_tiny_1k_224_ema.pth")
write("mine.safetensors", checkpoint.tensors)
"""

import dataclasses
import hashlib
import mmap
import os
import pathlib
import re
import types
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from builders.checkpoints import npz, others, safetensors, torch_legacy, torch_zip
from builders.checkpoints.arrays import CHUNK, Array, all_finite
from builders.checkpoints.errors import AGAIN, RESAVE, Refusal, listing, quoted, refused
from builders.checkpoints.safetensors import unique_json
from builders.checkpoints.torch_state import below
from builders.checkpoints.zips import zip_members

_METADATA = {"grid": r"[1-9]\d{0,4}x[1-9]\d{0,4}"}  # what `metadata` says, in our own names, and how it is written
_PREFIX = "hubpress."  # of these names in a file
_MAXIMUM_INDEX_BYTES, _MAXIMUM_SHARDS = 32 << 20, 10_000


@dataclass(frozen=True)
class MappedFile:
    """A file in memory, with start, size and CRC-32 of the members of a zip by name."""

    path: pathlib.Path
    memory: mmap.mmap
    checksums: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)

    def release(self) -> None:
        """Give the pages that were read so far back to the system; they are read again when they are needed again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self.memory.madvise(mmap.MADV_DONTNEED)

    def damaged(self) -> list[str]:
        """Return the members whose CRC-32 is not that of the archive's directory; those without one (zero) are not compared."""
        names = []
        for name, (start, size, expected) in self.checksums.items():
            if expected == 0:
                continue
            found = 0
            for position in range(start, start + size, CHUNK):
                found = zlib.crc32(self.memory[position : min(position + CHUNK, start + size)], found)
            self.release()
            if found != expected:
                names.append(name)
        return names


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one checkpoint file.

    path: where it was read from.
    container: "safetensors", "torch", "torch-legacy" or "npz"; of an index of shards, that of the shards.
    key: the entry that the state dict was taken from ("model", "ema_state", ...); "" when the file is flat.
    tensors: names to read-only numpy arrays in the order of the file, in the dtype of the file (bfloat16 and float8 are
        those of `ml_dtypes`); views of memory maps, except for members of a compressed npz.
    metadata: what `write` was told beside the tensors: "grid", rows and columns of a position embedding, as in "2x8".
    shards: the files that an index names; empty for a checkpoint in one file.
    """

    path: pathlib.Path
    container: str
    key: str
    tensors: Mapping[str, Array]
    metadata: Mapping[str, str]
    shards: tuple[pathlib.Path, ...]
    _files: tuple[MappedFile, ...] = field(repr=False, compare=False)

    def check_finite(self) -> None:
        """Raise CheckpointError naming every tensor that holds NaN or infinity; reads one tensor at a time."""
        damaged = []
        for name, tensor in self.tensors.items():
            # Integers and booleans (numpy kinds i, u, b) cannot; bfloat16 and float8 have kind V or f.
            if tensor.dtype.kind not in "iub" and not all_finite(tensor):
                damaged.append(name)
            self.release()
        if damaged:
            count = f"{len(damaged)} tensor{'s' if len(damaged) > 1 else ''} with NaN or infinite values"
            fix = f"{AGAIN}; if it agrees, upstream's file is broken: choose another checkpoint"
            raise refused(self.path, f"{count}: {listing(damaged)}", fix)

    def check_intact(self) -> None:
        """Compare the CRC-32 of every zip member with the archive's directory (torch and npz; else nothing to do).

        Raises CheckpointError naming the members that differ. Members without a checksum (zero) are not compared.
        """
        for file in self._files:
            if damaged := file.damaged():
                raise refused(file.path, f"damaged, the checksum differs: {listing(damaged)}")

    def release(self) -> None:
        """Give the pages that were read so far back to the system; they are read again when they are needed again."""
        for file in self._files:
            file.release()


def read(path: str | os.PathLike[str], key: str | None = None) -> Checkpoint:
    """Read the checkpoint `path` (safetensors, torch's two formats, npz, or an index of shards) without executing anything in it.

    key: the entry of a torch checkpoint that holds the state dict, "/" between levels ("model_ema"), or the beginning of the names
        of one of several networks in a flat file ("model_ema.module"). By default the entry that upstream's own loaders take, which
        `builders/checkpoints/torch_state.py` lists.

    Raises CheckpointError: the file is missing, truncated, damaged, inconsistent, of another kind, ambiguous, or has
    something else than tensors in its state dict.
    """
    path = pathlib.Path(path)
    try:
        return _read(path, key)
    except Refusal as refusal:
        raise refused(path, refusal.reason, refusal.fix) from None
    except FileNotFoundError:
        raise refused(path, "no such file", "check the path, or let the checkpoint be fetched") from None
    except OSError as error:
        raise refused(path, f"cannot be read: {error.strerror}", "make it a readable file") from error
    except Exception as error:  # hostile bytes: whatever a parser trips over is the fault of the file
        detail = f"{type(error).__name__}: {str(error)[:200]}" if str(error) else type(error).__name__
        raise refused(path, f"truncated or damaged ({detail})") from error


def write(
    path: str | os.PathLike[str], tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> None:
    """Write `tensors` to `path`, a `.safetensors` or `.npz` file; equal tensors give equal bytes.

    metadata: what `Checkpoint.metadata` is to say; other readers of these formats do not look at it.

    Safetensors are ordered by dtype and name, as the safetensors library does; npz members keep the given order,
    are not compressed and carry no dates. bfloat16 becomes numpy's 2-byte void in an npz, as JAX repositories have it.
    The file appears complete or not at all. Raises CheckpointError for a suffix or dtype that the format does not have.
    """
    path = pathlib.Path(path)
    writers = {".safetensors": safetensors.write_tensors, ".npz": npz.write_tensors}
    if path.suffix not in writers:
        raise refused(path, f"no writer for '{path.suffix}'", "name it .safetensors or .npz")
    tensors = {name: np.asarray(tensor) for name, tensor in tensors.items()}
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with open(temporary, "xb") as file:
            writers[path.suffix](file, tensors, {f"{_PREFIX}{name}": text for name, text in (metadata or {}).items()})
        os.replace(temporary, path)
    except Refusal as refusal:
        raise refused(path, refusal.reason, refusal.fix) from None
    finally:
        temporary.unlink(missing_ok=True)


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of the file's bytes, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: pathlib.Path, key: str | None) -> Checkpoint:
    if path.is_dir():
        raise others.folder(path)
    if path.exists() and not path.is_file():
        raise Refusal("is not a file", "name the checkpoint itself")
    if not path.exists() and (found := others.missing(path)):
        raise found
    memory = _mapped(path)
    return _read_shards(path, memory, key) if others.is_json(memory[:64]) else _read_file(path, memory, key)


def _read_file(path: pathlib.Path, memory: mmap.mmap, key: str | None) -> Checkpoint:
    said: Any = None
    found_key, checksums = "", {}
    start = memory[:16]
    # Safetensors first: their first eight bytes are a length, which may look like the start of anything.
    if start[8:9] == b"{":
        container, (tensors, said) = "safetensors", safetensors.read_tensors(memory)
    elif start.startswith(b"PK"):
        members = zip_members(memory)
        # Compressed members are compared while they are read.
        checksums = {name: (each.start, each.size, each.crc) for name, each in members.items() if not each.compressed}
        if members and all(name.endswith(".npy") for name in members):
            container, tensors, said = "npz", npz.read_tensors(memory, members), npz.read_metadata(memory)
        elif found := others.archive(members):
            raise found
        else:
            container, (found_key, tensors) = "torch", torch_zip.read_tensors(memory, members, key)
    elif start[:1] == b"\x80":
        container, (found_key, tensors) = "torch-legacy", torch_legacy.read_tensors(memory, key)
    else:
        raise others.file(path, memory)
    if key is not None and container in ("npz", "safetensors"):
        found_key, tensors = key, _selected(tensors, key, f"a {container} file")
    return _checkpoint(path, container, found_key, tensors, _metadata(said), (MappedFile(path, memory, checksums),))


def _mapped(path: pathlib.Path) -> mmap.mmap:
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise Refusal("is empty")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _read_shards(path: pathlib.Path, memory: mmap.mmap, key: str | None) -> Checkpoint:
    """Read the files that an index of Hugging Face (`model.safetensors.index.json`) names: `{"weight_map": {tensor: file}}`.

    They lie beside it. Each must have the tensors that the index says, and no others.
    """
    try:
        index = unique_json(memory[: _MAXIMUM_INDEX_BYTES + 1])
    except ValueError:
        index = None
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict):
        raise others.file(path, memory)
    by_file: dict[str, set[str]] = {}
    for name, file in places.items():
        if not isinstance(file, str) or not re.fullmatch(r"[\w.-]+", file, re.ASCII) or file.strip(".") == "":
            raise Refusal(f"its weight_map has the unsafe file name {quoted(str(file))}", "check where it comes from")
        by_file.setdefault(file, set()).add(name)
    if len(by_file) > _MAXIMUM_SHARDS:
        raise Refusal(f"names {len(by_file)} files, more than any real one", "check where the file comes from")
    tensors: dict[str, Array] = {}
    files: list[MappedFile] = []
    containers: set[str] = set()
    metadata: dict[str, str] = {}
    for file, names in by_file.items():
        place = path.with_name(file)
        if not place.is_file():
            raise Refusal(f"its shard {quoted(file)} is missing", f"put all of its {len(by_file)} shards beside it")
        try:
            shard = _read_file(place, _mapped(place), None)
        except Refusal as refusal:
            raise Refusal(f"its shard {quoted(file)} {refusal.reason}", refusal.fix) from None
        if shard.key:
            raise Refusal(f"its shard {quoted(file)} is no flat file of tensors", RESAVE)
        if differing := names ^ shard.tensors.keys():
            reason = f"and its shard {quoted(file)} do not agree about {listing(sorted(differing))}"
            raise Refusal(reason, f"put the shards of one download beside it, or {AGAIN}")
        tensors |= shard.tensors
        files += shard._files
        containers.add(shard.container)
        metadata |= shard.metadata
    ordered = {name: tensors[name] for name in places}
    if key is not None:
        ordered = _selected(ordered, key, "an index of shards")
    if len(containers) > 1:
        raise Refusal(f"names shards of {listing(sorted(containers))}", "check where the file comes from")
    found = _checkpoint(path, containers.pop() if containers else "", key or "", ordered, metadata, tuple(files))
    return dataclasses.replace(found, shards=tuple(file.path for file in files))


def _selected(tensors: dict[str, Array], key: str, what: str) -> dict[str, Array]:
    """Return the tensors whose names begin with `key`."""
    if not (found := below(tensors, key)):
        raise Refusal(f"{what} is flat, it has no entry {quoted(key)} and no names that begin so", "leave the key out")
    return found


def _metadata(said: Any) -> dict[str, str]:
    """Return what we wrote into the metadata of a file, without what others did."""
    found = {}
    for name, pattern in _METADATA.items():
        text = said.get(f"{_PREFIX}{name}") if isinstance(said, dict) else None
        if text is not None:
            if not isinstance(text, str) or not re.fullmatch(pattern, text, re.ASCII):
                raise Refusal(f"its metadata has the {name} {quoted(str(text))}, which is none", "write it again")
            found[name] = text
    return found


def _checkpoint(
    path: pathlib.Path,
    container: str,
    key: str,
    tensors: dict[str, Array],
    metadata: dict[str, str],
    files: tuple[MappedFile, ...],
) -> Checkpoint:
    if not tensors:
        raise Refusal("holds no tensors")
    named, said = types.MappingProxyType(tensors), types.MappingProxyType(metadata)
    return Checkpoint(path, container, key, named, said, (), files)
