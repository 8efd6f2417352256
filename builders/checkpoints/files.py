"""Checkpoint files: recognise the container by its content, read it, check it, write one.

checkpoint = read("convnext_tiny_1k_224_ema.pth")
write("mine.safetensors", checkpoint.tensors)
"""

import hashlib
import mmap
import os
import pathlib
import types
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from builders.checkpoints import npz, safetensors, torch_legacy, torch_zip
from builders.checkpoints.arrays import CHUNK, Array, all_finite
from builders.checkpoints.errors import AGAIN, Refusal, listing, quoted, refused
from builders.checkpoints.zips import zip_members

# What people download instead of a checkpoint, by the first bytes.
_OTHER_FILES = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file it points to", "run `git lfs pull`"),
    (b"\x89HDF", "is an HDF5 file (Keras weights)", "use the upstream checkpoint that these weights were made from"),
    (b"\x93NUMPY", "is a single .npy array, not a checkpoint", "use the .npz of the whole network"),
    (b"\x1f\x8b", "is compressed with gzip", "decompress it first"),
    (b"<", "looks like a web page", "open the URL in a browser: the file has moved, or it needs a login"),
)


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one checkpoint file.

    path: where it was read from.
    container: "safetensors", "torch", "torch-legacy" or "npz".
    key: the entry that the state dict was taken from ("model", "ema_state", ...); "" when the file is flat.
    tensors: names to read-only numpy arrays in the order of the file, in the dtype of the file (bfloat16 and float8 are
        those of `ml_dtypes`); views of one memory map, except for members of a compressed npz.
    """

    path: pathlib.Path
    container: str
    key: str
    tensors: Mapping[str, Array]
    _memory: mmap.mmap = field(repr=False, compare=False)
    _checksums: Mapping[str, tuple[int, int, int]] = field(repr=False, compare=False, default_factory=dict)

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
        damaged = []
        for name, (start, size, expected) in self._checksums.items():
            if expected == 0:
                continue
            found = 0
            for position in range(start, start + size, CHUNK):
                found = zlib.crc32(self._memory[position : min(position + CHUNK, start + size)], found)
            self.release()
            if found != expected:
                damaged.append(name)
        if damaged:
            raise refused(self.path, f"damaged, the checksum differs: {listing(damaged)}")

    def release(self) -> None:
        """Give the pages that were read so far back to the system; they are read again when they are needed again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._memory.madvise(mmap.MADV_DONTNEED)


def read(path: str | os.PathLike[str], key: str | None = None) -> Checkpoint:
    """Read the checkpoint file `path` (safetensors, torch's two formats, npz) without executing anything in it.

    key: the entry of a torch checkpoint that holds the state dict, "/" between levels ("model_ema"). By default the one
        that upstream loaders take: the file itself, `model`, `state_dict`, `model_state` or `module`; `ema_state` of
        pycls if its error is lower; trunk and heads of ClassyVision and VISSL. A prefix `module.` common to all names
        is dropped.

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


def write(path: str | os.PathLike[str], tensors: Mapping[str, Array]) -> None:
    """Write `tensors` to `path`, a `.safetensors` or `.npz` file; equal tensors give equal bytes.

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
            writers[path.suffix](file, tensors)
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
    checksums: dict[str, tuple[int, int, int]] = {}
    if path.exists() and not path.is_file():
        raise Refusal("is not a file", "name the checkpoint itself")
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise Refusal("is empty")
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    start = memory[:64]
    # Safetensors first: their first eight bytes are a length, which may look like the start of anything.
    if start[8:9] == b"{":
        container, found, tensors = "safetensors", "", safetensors.read_tensors(memory)
    elif start.startswith(b"PK"):
        members = zip_members(memory)
        # Compressed members are compared while they are read.
        checksums = {
            name: (member.start, member.size, member.crc) for name, member in members.items() if not member.compressed
        }
        if members and all(name.endswith(".npy") for name in members):
            container, found, tensors = "npz", "", npz.read_tensors(memory, members)
        else:
            container, (found, tensors) = "torch", torch_zip.read_tensors(memory, members, key)
    elif start[:1] == b"\x80":
        container, (found, tensors) = "torch-legacy", torch_legacy.read_tensors(memory, key)
    else:
        for magic, what, fix in _OTHER_FILES:
            if start.lstrip().startswith(magic):
                raise Refusal(what, fix)
        raise Refusal("is no safetensors, torch or npz file", "check that this is the file of the weights; " + AGAIN)
    if key is not None and container in ("npz", "safetensors"):
        raise Refusal(f"a {container} file is flat, it has no entry {quoted(key)}", "leave the key out")
    if not tensors:
        raise Refusal("holds no tensors")
    if all(name.startswith("module.") for name in tensors):  # written by DataParallel
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return Checkpoint(path, container, found, types.MappingProxyType(tensors), memory, checksums)
