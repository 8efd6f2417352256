"""Read and write upstream checkpoints as data: nothing in a checkpoint is ever executed, and PyTorch is not needed.

    checkpoint = read("convnext_tiny_1k_224_ema.pth")
    checkpoint.check_finite()
    checkpoint.tensors["stages.0.0.gamma"]             # a read-only, memory-mapped numpy array

Four containers are recognised by their content, never by their name:

    safetensors   8 bytes of header length, a JSON header, raw little-endian data
    torch         the zip format of torch >= 1.6: <root>/data.pkl and one stored member per storage
    torch-legacy  the stream before it: five pickles, then the storages one after the other
    npz           a zip of .npy members, as numpy and the JAX repositories write it

The pickles inside the two torch formats are interpreted by a machine that knows tensors and plain containers. Every
other class or function it meets becomes an `Opaque` value: a name with arguments, which is neither imported nor called.
Whatever is wrong with a file ends in one exception, `CheckpointError`, that names the file, the reason and the fix.

The arrays are views of one memory map: do not truncate or rewrite the file while they are in use.
"""

import ast
import collections
import hashlib
import io
import itertools
import json
import math
import mmap
import os
import pathlib
import pickletools
import types
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

# Limits that no honest checkpoint comes near; they bound the time and the memory that a hostile one can take.
_MAXIMUM_PICKLE_BYTES = 64 << 20
_MAXIMUM_PICKLE_STEPS = 4_000_000
_MAXIMUM_JSON_BYTES = 32 << 20
_MAXIMUM_MEMBERS = 200_000
_MAXIMUM_RANK = 32
_MAXIMUM_INTEGER_BITS = 1024
_MAXIMUM_EXPANSION = 50  # of a compressed npz, against the size of the file; float weights compress by about 1.1
_CHUNK = 4 << 20

_AGAIN = "download it again and compare its sha256 with the one upstream publishes"
_RESAVE = "load it in a program that you trust and save the plain state_dict() with torch.save or as safetensors"

# In the order of the safetensors library's own list: it writes the tensors of the last dtype first.
_SAFETENSORS_DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "I16": np.dtype(np.int16),
    "U16": np.dtype(np.uint16),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I32": np.dtype(np.int32),
    "U32": np.dtype(np.uint32),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "I64": np.dtype(np.int64),
    "U64": np.dtype(np.uint64),
}
_SAFETENSORS_NAMES = {dtype: name for name, dtype in _SAFETENSORS_DTYPES.items()}

_TORCH_DTYPES = {
    "bool": np.dtype(np.bool_),
    "uint8": np.dtype(np.uint8),
    "int8": np.dtype(np.int8),
    "int16": np.dtype(np.int16),
    "int32": np.dtype(np.int32),
    "int64": np.dtype(np.int64),
    "uint16": np.dtype(np.uint16),
    "uint32": np.dtype(np.uint32),
    "uint64": np.dtype(np.uint64),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "complex64": np.dtype(np.complex64),
    "complex128": np.dtype(np.complex128),
}
_TORCH_STORAGES = {
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
    "_UntypedStorage": "uint8",
}

# What people download instead of a checkpoint, by the first bytes.
_OTHER_FILES = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file it points to", "run `git lfs pull`"),
    (b"\x89HDF", "is an HDF5 file (Keras weights)", "use the upstream checkpoint that these weights were made from"),
    (b"\x93NUMPY", "is a single .npy array, not a checkpoint", "use the .npz of the whole network"),
    (b"\x1f\x8b", "is compressed with gzip", "decompress it first"),
    (b"<", "looks like a web page", "open the URL in a browser: the file has moved, or it needs a login"),
)


class CheckpointError(ValueError):
    """A checkpoint is refused. The message names the file and the reason, and ends with the fix."""


class _Refusal(Exception):
    """A reason and a fix; `read` adds the file's name."""

    def __init__(self, reason: str, fix: str = _AGAIN):
        super().__init__(reason)
        self.reason, self.fix = reason, fix


@dataclass(slots=True, eq=False, repr=False)
class Opaque:
    """A class or function that a pickle names (`args` is None) or would call (with `args`); never imported nor called.

    `state` is what the pickle would restore the instance with.
    """

    module: str
    name: str
    args: Any = None
    state: Any = None

    def __repr__(self) -> str:
        return f"<{_printable(self.module)}.{_printable(self.name)}>"


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
    tensors: Mapping[str, np.ndarray]
    _memory: mmap.mmap = field(repr=False, compare=False)
    _checksums: Mapping[str, tuple[int, int, int]] = field(repr=False, compare=False, default_factory=dict)

    def check_finite(self) -> None:
        """Raise CheckpointError naming every tensor that holds NaN or infinity. Reads one tensor at a time."""
        damaged = []
        for name, tensor in self.tensors.items():
            # Integers and booleans (numpy kinds i, u, b) cannot; bfloat16 and float8 have kind V or f.
            if tensor.dtype.kind not in "iub" and not all_finite(tensor):
                damaged.append(name)
            self.release()
        if damaged:
            count = f"{len(damaged)} tensor{'s' if len(damaged) > 1 else ''} with NaN or infinite values"
            raise CheckpointError(
                f"{self.path}: {count}: {_listing(damaged)}. Fix: {_AGAIN}; if it agrees, upstream's file is broken: "
                "choose another checkpoint"
            )

    def check_intact(self) -> None:
        """Compare the CRC-32 of every zip member with the archive's directory (torch and npz; else nothing to do).

        Raises CheckpointError naming the members that differ. Members without a checksum (zero) are not compared.
        """
        damaged = []
        for name, (start, size, expected) in self._checksums.items():
            if expected == 0:
                continue
            found = 0
            for position in range(start, start + size, _CHUNK):
                found = zlib.crc32(self._memory[position : min(position + _CHUNK, start + size)], found)
            self.release()
            if found != expected:
                damaged.append(name)
        if damaged:
            raise CheckpointError(f"{self.path}: damaged, the checksum differs: {_listing(damaged)}. Fix: {_AGAIN}")

    def release(self) -> None:
        """Give the pages that were read so far back to the system; they are read again when they are needed again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._memory.madvise(mmap.MADV_DONTNEED)


def read(path: str | os.PathLike, key: str | None = None) -> Checkpoint:
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
    except _Refusal as refusal:
        raise CheckpointError(f"{path}: {refusal.reason}. Fix: {refusal.fix}") from None
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file. Fix: check the path, or let the checkpoint be fetched") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}. Fix: make it a readable file") from error
    except Exception as error:  # hostile bytes: whatever a parser trips over is the fault of the file
        detail = f"{type(error).__name__}: {str(error)[:200]}" if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: truncated or damaged ({detail}). Fix: {_AGAIN}") from error


def write(path: str | os.PathLike, tensors: Mapping[str, np.ndarray]) -> None:
    """Write `tensors` to `path`, a `.safetensors` or `.npz` file; equal tensors give equal bytes.

    Safetensors are ordered by dtype and name, as the safetensors library does; npz members keep the given order,
    are not compressed and carry no dates. bfloat16 becomes numpy's 2-byte void in an npz, as JAX repositories have it.
    The file appears complete or not at all. Raises CheckpointError for a suffix or dtype that the format does not have.
    """
    path = pathlib.Path(path)
    writers = {".safetensors": _write_safetensors, ".npz": _write_npz}
    if path.suffix not in writers:
        raise CheckpointError(f"{path}: no writer for '{path.suffix}'. Fix: name it .safetensors or .npz")
    tensors = {name: np.asarray(tensor) for name, tensor in tensors.items()}
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with open(temporary, "xb") as file:
            writers[path.suffix](file, tensors)
        os.replace(temporary, path)
    except _Refusal as refusal:
        raise CheckpointError(f"{path}: {refusal.reason}. Fix: {refusal.fix}") from None
    finally:
        temporary.unlink(missing_ok=True)


def sha256(path: str | os.PathLike) -> str:
    """The SHA-256 of the file's bytes, 64 hexadecimal digits. Reads the file in chunks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------------------------------------------------- containers


def _read(path: pathlib.Path, key: str | None) -> Checkpoint:
    if path.exists() and not path.is_file():
        raise _Refusal("is not a file", "name the checkpoint itself")
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise _Refusal("is empty")
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    start = memory[:64]
    # Safetensors first: their first eight bytes are a length, which may look like the start of anything.
    if start[8:9] == b"{":
        checksums = {}
        container, found, tensors = "safetensors", "", _safetensors_tensors(memory)
    elif start.startswith(b"PK"):
        members = _zip_members(memory)
        # Compressed members are compared while they are read.
        checksums = {
            name: (member.start, member.size, member.crc) for name, member in members.items() if not member.compressed
        }
        if members and all(name.endswith(".npy") for name in members):
            container, found, tensors = "npz", "", _npz_tensors(memory, members)
        else:
            container, (found, tensors) = "torch", _torch_tensors(memory, members, key)
    elif start[:1] == b"\x80":
        checksums = {}
        container, (found, tensors) = "torch-legacy", _legacy_tensors(memory, key)
    else:
        for magic, what, fix in _OTHER_FILES:
            if start.lstrip().startswith(magic):
                raise _Refusal(what, fix)
        raise _Refusal("is no safetensors, torch or npz file", "check that this is the file of the weights; " + _AGAIN)
    if key is not None and container in ("npz", "safetensors"):
        raise _Refusal(f"a {container} file is flat, it has no entry {_quoted(key)}", "leave the key out")
    if not tensors:
        raise _Refusal("holds no tensors")
    if all(name.startswith("module.") for name in tensors):  # written by DataParallel
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return Checkpoint(path, container, found, types.MappingProxyType(tensors), memory, checksums)


def _array(memory: mmap.mmap, start: int, count: int, dtype: np.dtype) -> np.ndarray:
    """A read-only 1-D view of `count` items at byte `start`; the caller has checked the bounds."""
    if count == 0:
        empty = np.empty(0, dtype)
        empty.flags.writeable = False
        return empty
    return np.frombuffer(memory, np.uint8, count * dtype.itemsize, start).view(dtype)


def _safetensors_tensors(memory: mmap.mmap) -> dict[str, np.ndarray]:
    """Format: https://huggingface.co/docs/safetensors; tensors must cover the data without holes or overlaps."""
    length = int.from_bytes(memory[:8], "little")
    if length > len(memory) - 8:
        raise _Refusal(f"truncated: its header claims {length} bytes, the file has {len(memory)}")
    if length > _MAXIMUM_JSON_BYTES:
        raise _Refusal(f"its header claims {length} bytes, more than any real one", "check where the file comes from")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) != len(pairs):
            duplicates = [name for name, count in collections.Counter(name for name, _ in pairs).items() if count > 1]
            raise _Refusal(f"its header has duplicate entries: {_listing(duplicates)}", "write it again")
        return entries

    header = json.loads(memory[8 : 8 + length].decode(), object_pairs_hook=unique)
    header.pop("__metadata__", None)
    origin, tensors, ranges = 8 + length, {}, []
    for name, entry in header.items():
        if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
            raise _Refusal(f"the header's entry {_quoted(name)} lacks dtype, shape or data_offsets", "write it again")
        dtype = _SAFETENSORS_DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
        if dtype is None:
            raise _Refusal(
                f"tensor {_quoted(name)} has the unknown dtype {_quoted(str(entry['dtype']))}", "convert it to float32"
            )
        shape = _naturals(entry["shape"], f"tensor {_quoted(name)}: shape")
        offsets = _naturals(entry["data_offsets"], f"tensor {_quoted(name)}: data_offsets")
        count = math.prod(shape)
        if len(offsets) != 2 or offsets[1] - offsets[0] != count * dtype.itemsize:
            raise _Refusal(f"tensor {_quoted(name)}: shape {list(shape)} does not agree with its data_offsets")
        if offsets[1] > len(memory) - origin:
            raise _Refusal(f"truncated: the data of tensor {_quoted(name)} reach past the end of the file")
        ranges.append((*offsets, name))
        tensors[name] = _array(memory, origin + offsets[0], count, dtype).reshape(shape)
    position = 0
    for begin, end, name in sorted(ranges):
        if begin != position:
            what = "overlap those of another tensor" if begin < position else "leave a hole before them"
            raise _Refusal(f"the data of tensor {_quoted(name)} {what}", "write it again")
        position = end
    if position != len(memory) - origin:
        raise _Refusal(f"{len(memory) - origin - position} bytes at the end belong to no tensor")
    return tensors


@dataclass(slots=True)
class _Member:
    """One member of a zip: `size` bytes at `start` of the file (`stored` bytes when `compressed`)."""

    start: int
    stored: int
    size: int
    crc: int
    compressed: bool


def _zip_members(memory: mmap.mmap) -> dict[str, _Member]:
    """The members of the archive by name, after checking that they are plain, disjoint and inside the file."""
    try:
        archive = zipfile.ZipFile(memory)
    except (zipfile.BadZipFile, ValueError) as error:
        raise _Refusal(f"truncated or damaged: the zip directory is missing or broken ({error})") from None
    entries = archive.infolist()
    if len(entries) > _MAXIMUM_MEMBERS:
        raise _Refusal(f"its zip directory has {len(entries)} members", "check where the file comes from")
    members, ranges = {}, []
    for entry in entries:
        name, shown = entry.filename, _quoted(entry.filename)
        if name in members:
            raise _Refusal(f"two members are called {shown}", "check where the file comes from")
        if name.startswith("/") or "\\" in name or "\0" in entry.orig_filename or ".." in name.split("/"):
            raise _Refusal(f"a member has the unsafe name {shown}", "check where the file comes from")
        if entry.flag_bits & 0x41:
            raise _Refusal(f"member {shown} is encrypted", "decrypt the archive")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _Refusal(f"member {shown} is compressed by method {entry.compress_type}", "write it uncompressed")
        local = memory[entry.header_offset : entry.header_offset + 30] if entry.header_offset >= 0 else b""
        if len(local) < 30 or local[:4] != b"PK\x03\x04":
            raise _Refusal(f"truncated or damaged: member {shown} is not where the zip directory says")
        name_length, extra_length = int.from_bytes(local[26:28], "little"), int.from_bytes(local[28:30], "little")
        start = entry.header_offset + 30 + name_length + extra_length
        local_name = memory[entry.header_offset + 30 : entry.header_offset + 30 + name_length]
        if local_name.decode("utf-8" if entry.flag_bits & 0x800 else "cp437") != entry.orig_filename:
            raise _Refusal(f"member {shown} has another name in its own header", "check where the file comes from")
        compressed = entry.compress_type != zipfile.ZIP_STORED
        if not compressed and entry.file_size != entry.compress_size:
            raise _Refusal(f"member {shown} is stored, but its two sizes differ")
        end = start + entry.compress_size
        if end > archive.start_dir:
            raise _Refusal(f"truncated or damaged: member {shown} reaches past the members' end")
        ranges.append((entry.header_offset, end, shown))
        members[name] = _Member(start, entry.compress_size, entry.file_size, entry.CRC, compressed)
    ranges.sort()
    for (_, end, first), (begin, _, second) in itertools.pairwise(ranges):
        if begin < end:
            raise _Refusal(f"members {first} and {second} overlap", "check where the file comes from")
    return members


def _npz_tensors(memory: mmap.mmap, members: dict[str, _Member]) -> dict[str, np.ndarray]:
    """Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html; object arrays are refused."""
    claimed = sum(member.size for member in members.values() if member.compressed)
    if claimed > max(_MAXIMUM_EXPANSION * len(memory), 1 << 20):
        raise _Refusal(
            f"its members claim to expand from {len(memory)} to {claimed} bytes, as only a zip bomb does",
            "check where the file comes from, or write it uncompressed",
        )
    tensors = {}
    for member_name, member in members.items():
        name = member_name.removesuffix(".npy")
        try:
            tensors[name] = _npy_tensor(memory, member)
        except _Refusal as refusal:
            raise _Refusal(f"array {_quoted(name)} {refusal.reason}", refusal.fix) from None
    return tensors


def _npy_tensor(memory: mmap.mmap, member: _Member) -> np.ndarray:
    if member.compressed:
        decompressor = zlib.decompressobj(-15)
        data = decompressor.decompress(memory[member.start : member.start + member.stored], member.size + 1)
        if len(data) != member.size or not decompressor.eof or zlib.crc32(data) != member.crc:
            raise _Refusal("is truncated or damaged")
        start = 0
    else:
        data, start = memory, member.start
    end = start + member.size
    head = data[start : min(start + 12, end)]
    if head[:6] != b"\x93NUMPY" or head[6:7] not in (b"\x01", b"\x02", b"\x03"):
        raise _Refusal("is no .npy data")
    width = 2 if head[6] == 1 else 4
    length = int.from_bytes(head[8 : 8 + width], "little")
    origin = start + 8 + width + length
    if length > 10_000 or origin > end:
        raise _Refusal("is truncated or has an absurd header")
    header = ast.literal_eval(data[origin - length : origin].decode("latin1" if head[6] < 3 else "utf-8").strip())
    if not isinstance(header, dict) or header.keys() != {"descr", "fortran_order", "shape"}:
        raise _Refusal("has a damaged header")
    if not isinstance(header["descr"], str):
        raise _Refusal("has a structured dtype", "save plain arrays of numbers")
    dtype = np.dtype(header["descr"])
    if dtype.hasobject:
        raise _Refusal("holds pickled objects, which could run code", "save plain arrays of numbers")
    if dtype == np.dtype("V2"):  # bfloat16 loses its name in an npz; big_vision reads it back the same way
        dtype = np.dtype(ml_dtypes.bfloat16)
    elif dtype.kind not in "fiubc":
        raise _Refusal(f"has the dtype {dtype}, which is no number", "save plain arrays of numbers")
    if not dtype.isnative:
        raise _Refusal("is big-endian", "save it in little-endian byte order")
    shape = _naturals(header["shape"], "has a damaged header: shape")
    count = math.prod(shape)
    if count * dtype.itemsize != end - origin:
        raise _Refusal(f"has {end - origin} bytes of data, its shape {list(shape)} needs {count * dtype.itemsize}")
    return _array(data, origin, count, dtype).reshape(shape, order="F" if header["fortran_order"] is True else "C")


# ------------------------------------------------------------------------------------------------------- torch formats


@dataclass(slots=True, eq=False)
class _Storage:
    """`count` items of `dtype`, beginning `offset` items into what the file keeps under `key`."""

    key: str
    dtype: np.dtype
    count: int
    offset: int = 0
    root_count: int | None = None  # of the storage that a view belongs to; None: the file tells


@dataclass(slots=True, eq=False)
class _Tensor:
    """A tensor as the pickle describes it; nothing is checked until somebody asks for its values."""

    storage: _Storage
    dtype: np.dtype
    offset: Any
    size: Any
    stride: Any


def _torch_tensors(
    memory: mmap.mmap, members: dict[str, _Member], key: str | None
) -> tuple[str, dict[str, np.ndarray]]:
    """The zip format of torch.save (torch >= 1.6, torch/serialization.py)."""
    roots = [name.removesuffix("data.pkl") for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise _Refusal(f"is a zip of other things ({_listing(members)})", "check that this is the file of the weights")
    (root,) = roots
    if f"{root}constants.pkl" in members:
        raise _Refusal("is a TorchScript program, not a checkpoint", _RESAVE)
    for name, member in members.items():
        if member.compressed:
            raise _Refusal(f"member {_quoted(name)} is compressed; torch stores them plain", "write it uncompressed")
    order = members.get(f"{root}byteorder")
    if order is not None and memory[order.start : order.start + min(order.size, 16)] != b"little":
        raise _Refusal("is not little-endian", _RESAVE)
    program = members[f"{root}data.pkl"]
    if program.size > _MAXIMUM_PICKLE_BYTES:
        raise _Refusal(f"its data.pkl has {program.size} bytes, more than any real one", "check where it comes from")
    machine = _Unpickler(memory[program.start : program.start + program.size])
    found, state = _state_dict(machine.run(), key)

    def storage_of(storage: _Storage) -> np.ndarray:
        member = members.get(f"{root}data/{storage.key}")
        if member is None:
            raise _Refusal(f"truncated or damaged: storage {_quoted(storage.key)} is missing")
        count = storage.count if storage.root_count is None else storage.root_count
        if member.size != count * storage.dtype.itemsize:
            raise _Refusal(
                f"storage {_quoted(storage.key)} has {member.size} bytes instead of {count * storage.dtype.itemsize}"
            )
        return _array(memory, member.start, count, storage.dtype)

    return found, _resolve(state, storage_of)


def _legacy_tensors(memory: mmap.mmap, key: str | None) -> tuple[str, dict[str, np.ndarray]]:
    """The stream of torch.save before torch 1.6: magic number, protocol, system, object, storage keys, storages."""
    position, parts, machine = 0, [], None
    for number, limit in enumerate((256, 256, 4096, _MAXIMUM_PICKLE_BYTES, _MAXIMUM_PICKLE_BYTES)):
        part = _Unpickler(memory[position : position + limit])
        parts.append(part.run())
        position += part.length
        if number == 0 and parts[0] != 0x1950A86A20F9469CFC6C:
            raise _Refusal("is a pickle, but not one that torch.save wrote", _RESAVE)
        if number == 1 and parts[1] != 1001:
            raise _Refusal("has an unknown version of torch's legacy format", _RESAVE)
        if number == 2 and not (isinstance(parts[2], dict) and parts[2].get("little_endian") is True):
            raise _Refusal("is not little-endian", _RESAVE)
        if number == 3:
            machine = part
    keys = parts[4]
    if not isinstance(keys, list) or not all(isinstance(name, str) for name in keys) or len(set(keys)) != len(keys):
        raise _Refusal("damaged: its list of storages is none")
    dtypes: dict[str, np.dtype] = {}
    for storage in machine.storages:
        if dtypes.setdefault(storage.key, storage.dtype) != storage.dtype:
            raise _Refusal(f"storage {_quoted(storage.key)} is used with two dtypes", _RESAVE)
    places: dict[str, tuple[int, int]] = {}
    for name in keys:
        if name not in dtypes:
            raise _Refusal(f"damaged: nothing uses storage {_quoted(name)}, so its size is unknown")
        count = int.from_bytes(memory[position : position + 8], "little")
        end = position + 8 + count * dtypes[name].itemsize
        if end > len(memory):
            raise _Refusal(f"truncated: storage {_quoted(name)} reaches past the end of the file")
        places[name] = (position + 8, count)
        position = end
    if position != len(memory):
        raise _Refusal(f"{len(memory) - position} bytes follow the last storage")
    found, state = _state_dict(parts[3], key)

    def storage_of(storage: _Storage) -> np.ndarray:
        if storage.key not in places:
            raise _Refusal(f"truncated or damaged: storage {_quoted(storage.key)} is missing")
        start, count = places[storage.key]
        if count != (storage.count if storage.root_count is None else storage.root_count):
            raise _Refusal(f"storage {_quoted(storage.key)} has {count} items instead of {storage.count}")
        return _array(memory, start, count, storage.dtype)

    return found, _resolve(state, storage_of)


def _resolve(state: dict[str, Any], storage_of: Callable[[_Storage], np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays for the tensors of a state dict; refuses what is no tensor, by name."""
    tensors = {}
    for name, value in state.items():
        if not isinstance(name, str):
            raise _Refusal(f"the state dict has an entry of type {type(name).__name__} among its names", _RESAVE)
        if not isinstance(value, _Tensor):
            what = f"{value!r}" if isinstance(value, Opaque) else f"of type {type(value).__name__}"
            raise _Refusal(f"{_quoted(name)} is {what}, not a tensor", _RESAVE)
        try:
            tensors[name] = _strided(value, storage_of(value.storage))
        except _Refusal as refusal:
            raise _Refusal(f"tensor {_quoted(name)}: {refusal.reason}", refusal.fix) from None
    return tensors


def _strided(tensor: _Tensor, root: np.ndarray) -> np.ndarray:
    """The tensor's view of its storage, every element of it inside the storage."""
    size = _naturals(tensor.size, "size")
    stride = _naturals(tensor.stride, "stride")
    (offset,) = _naturals((tensor.offset,), "storage offset")
    if len(size) != len(stride):
        raise _Refusal("size and stride differ in length")
    storage = tensor.storage
    if storage.offset + storage.count > len(root):
        raise _Refusal(f"its storage is a view that reaches out of storage {_quoted(storage.key)}")
    values = root[storage.offset : storage.offset + storage.count]
    if tensor.dtype != values.dtype:
        if values.nbytes % tensor.dtype.itemsize:
            raise _Refusal(f"its storage of {values.nbytes} bytes does not hold whole items of {tensor.dtype}")
        values = values.view(np.uint8).view(tensor.dtype)
    count = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) if count else offset
    if last >= len(values) + (count == 0):
        raise _Refusal(f"reaches element {last} of a storage that has {len(values)}")
    if count > max(len(values), 1 << 20):
        raise _Refusal(f"repeats a storage of {len(values)} elements until it has {count}", _RESAVE)
    # Steps along axes of length 1 mean nothing, and torch leaves any number there.
    steps = tuple(step * values.itemsize if length > 1 else 0 for length, step in zip(size, stride, strict=True))
    values = values[offset:]
    if count == 0:
        return values[:0].reshape(size)
    return np.lib.stride_tricks.as_strided(values, size, steps, writeable=False)


def _state_dict(top: Any, key: str | None) -> tuple[str, dict[str, Any]]:
    """The entry of a torch checkpoint that holds the network, and its name ("" for the file itself)."""
    if isinstance(top, Opaque):
        raise _Refusal(f"holds a pickled object of {top!r}, which is a program and not data", _RESAVE)
    if not isinstance(top, dict):
        raise _Refusal(f"holds one {_kind(top)} instead of named tensors", _RESAVE)
    entries = f"its top-level entries are {_listing(top)}"
    if key is not None:
        value: Any = top
        for part in key.split("/"):
            if not isinstance(value, dict) or part not in value:
                raise _Refusal(f"has no entry {_quoted(key)}; {entries}", "name one that it has")
            value = value[part]
        return key, _checked_state(value, key)
    if isinstance(top.get("classy_state_dict"), dict):  # ClassyVision and VISSL: two dicts of one network
        value = top
        for part in ("classy_state_dict", "base_model", "model"):
            value = value.get(part) if isinstance(value, dict) else None
        parts = [value[part] for part in ("trunk", "heads") if part in value] if isinstance(value, dict) else []
        merged: dict[str, Any] = {}
        for part in parts:
            part = _checked_state(part, "classy_state_dict") if part else {}
            if merged.keys() & part.keys():
                raise _Refusal(f"trunk and heads both have {_listing(merged.keys() & part.keys())}", _RESAVE)
            merged.update(part)
        return "classy_state_dict", _checked_state(merged, "classy_state_dict")
    candidates = [name for name in ("model", "state_dict", "model_state", "module") if _is_network(top.get(name))]
    if len(candidates) > 1:
        raise _Refusal(f"holds more than one possible network; {entries}", "say which with key=...")
    if not candidates:
        # Loose tensors are the network only if there is no other: training checkpoints keep a random generator's state.
        if any(isinstance(value, _Tensor) for value in top.values()):
            return "", top
        raise _Refusal(f"holds no network that this reader knows; {entries}", "name the entry with key=...")
    (name,) = candidates
    if name == "model_state" and "ema_state" in top:  # pycls writes both and keeps the better one for its model zoo
        errors = [top.get("ema_err"), top.get("test_err")]
        if all(isinstance(error, int | float) for error in errors):
            name = "ema_state" if errors[0] < errors[1] else "model_state"
        elif None not in errors:
            raise _Refusal("ema_err and test_err are no plain numbers", "say key='model_state' or key='ema_state'")
    return name, _checked_state(top[name], name)


def _is_network(value: Any) -> bool:
    """Whether an entry looks like one; a pickled module does, and is refused later with the reason."""
    return isinstance(value, Opaque) or (
        isinstance(value, dict) and any(isinstance(item, _Tensor) for item in value.values())
    )


def _checked_state(value: Any, key: str) -> dict[str, Any]:
    if isinstance(value, Opaque):
        raise _Refusal(f"its entry {_quoted(key)} is a pickled object of {value!r}, a program and not data", _RESAVE)
    if not isinstance(value, dict):
        raise _Refusal(f"its entry {_quoted(key)} is a {_kind(value)}, not a dict of tensors", "name another entry")
    if not any(isinstance(item, _Tensor) for item in value.values()):
        raise _Refusal(f"its entry {_quoted(key)} has no tensors, only {_listing(value)}", "name another entry")
    return value


class _Unpickler:
    """Interprets one pickle as data: builds plain containers, describes tensors, and names everything else.

    `run` returns the value; then `length` is the number of bytes used and `storages` holds every storage it named. The
    opcodes are those that Python's pickler emits for protocols 2 to 5 (the standard library's pickletools lists them);
    INST, OBJ, DUP, EXT*, text opcodes and out-of-band buffers never occur in a torch file and are refused.
    """

    def __init__(self, data: bytes):
        self.data = data
        self.length = 0
        self.storages: list[_Storage] = []
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.steps = 0

    def run(self) -> Any:
        stream = io.BytesIO(self.data)
        for opcode, argument, _ in pickletools.genops(stream):
            self._spend(1)
            if opcode.name == "STOP":
                break
            action = _ACTIONS.get(opcode.name)
            if action is None:
                raise _Refusal(f"its pickle has the opcode {opcode.name}, which torch never writes", _RESAVE)
            action(self, argument)
        self.length, self.data = stream.tell(), b""
        if len(self.stack) != 1 or self.marks:
            raise _Refusal("damaged: its pickle ends in the middle of a value")
        return self.stack.pop()

    def _spend(self, steps: int) -> None:
        self.steps += steps
        if self.steps > _MAXIMUM_PICKLE_STEPS:
            raise _Refusal("its pickle takes more steps than any real one", "check where the file comes from")

    def _pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise _Refusal("damaged: its pickle takes a value from an empty stack")
        return self.stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise _Refusal("damaged: its pickle closes a group that it did not open")
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        self._spend(len(items))
        return items

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _push_integer(self, value: int) -> None:
        if value.bit_length() > _MAXIMUM_INTEGER_BITS:
            raise _Refusal("its pickle has an absurdly large integer", "check where the file comes from")
        self.stack.append(value)

    def _mark(self, _: None) -> None:
        self.marks.append(len(self.stack))

    def _pop_one(self, _: None) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self._pop()

    def _get(self, index: int) -> None:
        if index not in self.memo:
            raise _Refusal("damaged: its pickle refers to a value that it did not store")
        self.stack.append(self.memo[index])

    def _put(self, index: int) -> None:
        value = self._pop()
        self.stack.append(value)
        self.memo[index] = value

    def _tuple_of(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def _append(self, items: list[Any]) -> None:
        target = self._top(list)
        if isinstance(target, list):
            target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise _Refusal("damaged: its pickle has a dict entry without a value")
        target = self._top(dict)
        if isinstance(target, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[_key(key)] = value

    def _add_items(self, items: list[Any]) -> None:
        target = self._top(set)
        if isinstance(target, set):
            target.update(map(_key, items))

    def _top(self, kind: type) -> Any:
        """The value that items are added to, which stays on the stack. An Opaque takes anything and keeps nothing."""
        value = self._pop()
        self.stack.append(value)
        if not isinstance(value, kind | Opaque):
            raise _Refusal(f"damaged: its pickle adds items to a {_kind(value)}")
        return value

    def _global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise _Refusal("damaged: its pickle names a class by something else than text")
        self.stack.append(Opaque(module, name))

    def _global_line(self, argument: str) -> None:
        # pickletools joins the two lines with a blank, and neither module nor class names contain one.
        module, _, name = argument.partition(" ")
        self._global(module, name)

    def _global_stack(self, _: None) -> None:
        name, module = self._pop(), self._pop()
        self._global(module, name)

    def _call(self, _: Any) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Opaque) or not isinstance(arguments, tuple):
            raise _Refusal(f"damaged: its pickle calls a {_kind(function)}")
        known = _KNOWN_CALLS.get((function.module, function.name)) if function.args is None else None
        value = known(self, *arguments) if known else NotImplemented
        self.stack.append(Opaque(function.module, function.name, arguments) if value is NotImplemented else value)

    def _new(self, arguments_count: int) -> None:
        arguments = [self._pop() for _ in range(arguments_count)]
        function = self._pop()
        if not isinstance(function, Opaque):
            raise _Refusal(f"damaged: its pickle makes an instance of a {_kind(function)}")
        self.stack.append(Opaque(function.module, function.name, tuple(reversed(arguments))))

    def _build(self, _: None) -> None:
        state = self._pop()
        target = self._pop()
        self.stack.append(target)
        if isinstance(target, Opaque):
            target.state = state
        elif not isinstance(target, dict):  # an OrderedDict gets its `_metadata`, which holds versions of layers
            raise _Refusal(f"damaged: its pickle sets the state of a {_kind(target)}")

    def _persistent(self, _: None) -> None:
        """torch keeps storages outside the pickle: ("storage", class, key, location, count[, view])."""
        identity = self._pop()
        if isinstance(identity, tuple) and len(identity) >= 2 and identity[0] == "module":
            self.stack.append(identity[1])  # the legacy format wraps classes with their source text
            return
        if not (isinstance(identity, tuple) and len(identity) in (5, 6) and identity[0] == "storage"):
            raise _Refusal("damaged: its pickle has a persistent value that is no storage")
        kind, key, count = identity[1], identity[2], identity[4]
        dtype_name = None
        if isinstance(kind, Opaque) and kind.module in ("torch", "torch.cuda", "torch.storage"):
            dtype_name = _TORCH_STORAGES.get(kind.name)
        if dtype_name is None:
            self.stack.append(kind if isinstance(kind, Opaque) else Opaque("torch", "unknown storage"))
            return
        key = str(key) if type(key) is int else key
        if not isinstance(key, str) or type(count) is not int or count < 0:
            raise _Refusal("damaged: its pickle has a storage without a proper key and size")
        storage = _Storage(key, _TORCH_DTYPES[dtype_name], count)
        if len(identity) == 6 and identity[5] is not None:
            view = identity[5]
            if not isinstance(view, tuple) or len(view) != 3:
                raise _Refusal("damaged: its pickle has a view of a storage that makes no sense")
            offset, length = _naturals(view[1:], "view of a storage")
            storage.root_count, storage.offset, storage.count = count, offset, length
        self.storages.append(storage)
        self.stack.append(storage)

    # The calls that are carried out, because they build data. NotImplemented: not with these arguments.

    def _ordered_dict(self, items: Any = ()) -> Any:
        if not isinstance(items, list | tuple):
            return NotImplemented
        self._spend(len(items))
        if not all(isinstance(item, list | tuple) and len(item) == 2 for item in items):
            return NotImplemented
        return {_key(key): value for key, value in items}

    def _set(self, items: Any = ()) -> Any:
        if not isinstance(items, list | tuple):
            return NotImplemented
        self._spend(len(items))
        return {_key(item) for item in items}

    def _bytes(self, text: Any = "", encoding: Any = "latin1") -> Any:
        # Protocol 2 has no bytes: Python 3 writes them as a call of _codecs.encode.
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            return NotImplemented
        self._spend(len(text) // 16)
        return text.encode("latin1")

    def _size(self, items: Any = ()) -> Any:
        return items if isinstance(items, tuple) else NotImplemented

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
        metadata = rest[2] if len(rest) > 2 else None  # after requires_grad and backward_hooks: conjugate, negative
        if not isinstance(storage, _Storage) or metadata:
            return NotImplemented
        return _Tensor(storage, storage.dtype, offset, size, stride)

    def _tensor_with_dtype(self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
        dtype = rest[2] if len(rest) > 2 else None
        known = isinstance(dtype, Opaque) and dtype.module == "torch" and dtype.name in _TORCH_DTYPES
        if not isinstance(storage, _Storage) or not known:
            return NotImplemented
        return _Tensor(storage, _TORCH_DTYPES[dtype.name], offset, size, stride)

    def _parameter(self, tensor: Any, *_: Any) -> Any:
        return tensor if isinstance(tensor, _Tensor) else NotImplemented

    def _tensor_of_type(self, function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
        known = (
            isinstance(function, Opaque)
            and isinstance(kind, Opaque)
            and isinstance(arguments, tuple)
            and (kind.module, kind.name) in (("torch", "Tensor"), ("torch.nn.parameter", "Parameter"))
            and _KNOWN_CALLS.get((function.module, function.name)) in _TENSOR_CALLS
        )
        return _KNOWN_CALLS[function.module, function.name](self, *arguments) if known else NotImplemented


_KNOWN_CALLS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _Unpickler._ordered_dict,
    ("builtins", "set"): _Unpickler._set,
    ("__builtin__", "set"): _Unpickler._set,
    ("_codecs", "encode"): _Unpickler._bytes,
    ("torch", "Size"): _Unpickler._size,
    ("torch._utils", "_rebuild_tensor"): _Unpickler._tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _Unpickler._tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _Unpickler._tensor_with_dtype,
    ("torch._utils", "_rebuild_parameter"): _Unpickler._parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _Unpickler._parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _Unpickler._tensor_of_type,
}
_TENSOR_CALLS = (_Unpickler._tensor, _Unpickler._tensor_with_dtype, _Unpickler._parameter)

_ACTIONS: dict[str, Callable[[_Unpickler, Any], None]] = {
    "PROTO": lambda machine, argument: None,
    "FRAME": lambda machine, argument: None,
    "NONE": lambda machine, argument: machine._push(None),
    "NEWTRUE": lambda machine, argument: machine._push(True),
    "NEWFALSE": lambda machine, argument: machine._push(False),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "LONG4"), _Unpickler._push_integer),
    **dict.fromkeys(
        (
            *("BINFLOAT", "BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
            *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        ),
        _Unpickler._push,
    ),
    "EMPTY_DICT": lambda machine, argument: machine._push({}),
    "EMPTY_LIST": lambda machine, argument: machine._push([]),
    "EMPTY_SET": lambda machine, argument: machine._push(set()),
    "EMPTY_TUPLE": lambda machine, argument: machine._push(()),
    "TUPLE": lambda machine, argument: machine._push(tuple(machine._pop_to_mark())),
    "TUPLE1": lambda machine, argument: machine._tuple_of(1),
    "TUPLE2": lambda machine, argument: machine._tuple_of(2),
    "TUPLE3": lambda machine, argument: machine._tuple_of(3),
    "FROZENSET": lambda machine, argument: machine._push(frozenset(map(_key, machine._pop_to_mark()))),
    "MARK": _Unpickler._mark,
    "POP": _Unpickler._pop_one,
    "POP_MARK": lambda machine, argument: machine._pop_to_mark() and None,
    "APPEND": lambda machine, argument: machine._append([machine._pop()]),
    "APPENDS": lambda machine, argument: machine._append(machine._pop_to_mark()),
    "SETITEM": lambda machine, argument: machine._set_items([machine._pop(), machine._pop()][::-1]),
    "SETITEMS": lambda machine, argument: machine._set_items(machine._pop_to_mark()),
    "ADDITEMS": lambda machine, argument: machine._add_items(machine._pop_to_mark()),
    "BINGET": _Unpickler._get,
    "LONG_BINGET": _Unpickler._get,
    "BINPUT": _Unpickler._put,
    "LONG_BINPUT": _Unpickler._put,
    "MEMOIZE": lambda machine, argument: machine._put(len(machine.memo)),
    "GLOBAL": _Unpickler._global_line,
    "STACK_GLOBAL": _Unpickler._global_stack,
    "REDUCE": _Unpickler._call,
    "NEWOBJ": lambda machine, argument: machine._new(1),
    "NEWOBJ_EX": lambda machine, argument: machine._new(2),
    "BUILD": _Unpickler._build,
    "BINPERSID": _Unpickler._persistent,
}


def _key(value: Any) -> Any:
    """`value` as the key of a dict: scalars and short tuples of them.

    Python hashes nested tuples by recursion in C without a limit, and integers above 2**61 can be made to collide.
    """
    if isinstance(value, tuple) and len(value) <= 8:
        for item in value:
            if isinstance(item, tuple):
                raise _Refusal("its pickle has a dict with nested tuples as keys", _RESAVE)
            _key(item)
        return value
    small = isinstance(value, int) and abs(value) < 1 << 60
    if small or value is None or isinstance(value, str | bytes | float | Opaque):
        return value
    raise _Refusal(f"its pickle has a dict with a {_kind(value)} as a key", _RESAVE)


# ------------------------------------------------------------------------------------------------------------- writing


def _write_safetensors(file: io.BufferedWriter, tensors: dict[str, np.ndarray]) -> None:
    header: dict[str, Any] = {}
    position = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in _SAFETENSORS_NAMES:
            raise _Refusal(f"tensor {_quoted(name)}: safetensors have no dtype {tensor.dtype}", "convert it to float32")
    ranks = {dtype: rank for rank, dtype in enumerate(_SAFETENSORS_NAMES)}
    ordered = sorted(tensors.items(), key=lambda item: (-ranks[item[1].dtype], item[0]))
    for name, tensor in ordered:
        offsets = [position, position + tensor.nbytes]
        shape = list(tensor.shape)
        header[name] = {"dtype": _SAFETENSORS_NAMES[tensor.dtype], "shape": shape, "data_offsets": offsets}
        position += tensor.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for _, tensor in ordered:
        file.writelines(_pieces(tensor))


def _write_npz(file: io.BufferedWriter, tensors: dict[str, np.ndarray]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, tensor in tensors.items():
            if tensor.dtype == ml_dtypes.bfloat16:
                tensor = tensor.view("V2")
            elif tensor.dtype.kind not in "fiubc" or tensor.dtype.isbuiltin != 1:
                raise _Refusal(f"array {_quoted(name)}: an npz has no dtype {tensor.dtype}", "convert it to float32")
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.external_attr = 0o644 << 16
            with archive.open(member, "w", force_zip64=True) as target:
                header = {"descr": tensor.dtype.str, "fortran_order": False, "shape": tensor.shape}
                np.lib.format.write_array_header_1_0(target, header)
                target.writelines(_pieces(tensor))


def _pieces(tensor: np.ndarray) -> Iterator[bytes]:
    """The tensor's bytes in C order, a few megabytes at a time."""
    flat = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
    for start in range(0, len(flat), _CHUNK):
        yield flat[start : start + _CHUNK].data


# ------------------------------------------------------------------------------------------------------------- details


def all_finite(tensor: np.ndarray) -> bool:
    """Whether no value is infinite or NaN, without a copy as large as the array."""
    flat = tensor.reshape(-1)  # a view, but for the rare tensor with other strides
    return all(bool(np.isfinite(flat[start : start + _CHUNK]).all()) for start in range(0, len(flat), _CHUNK))


def _naturals(values: Any, what: str) -> tuple[int, ...]:
    """`values` as a tuple of a few integers >= 0 that fit 63 bits, or a refusal."""
    if not isinstance(values, list | tuple) or len(values) > _MAXIMUM_RANK:
        raise _Refusal(f"{what} is no short list of integers")
    for value in values:
        if type(value) is not int or not 0 <= value < 1 << 63:
            raise _Refusal(f"{what} has an entry that is no integer from 0 to 2**63 - 1")
    return tuple(values)


def _kind(value: Any) -> str:
    names = {_Tensor: "tensor", _Storage: "storage", Opaque: "pickled object"}
    return names.get(type(value), type(value).__name__)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text[:120])


def _quoted(text: str) -> str:
    return f"'{_printable(text)}'"


def _listing(names: Any, limit: int = 8) -> str:
    names = list(names)
    shown = ", ".join(_quoted(name) if isinstance(name, str) else f"<{_kind(name)}>" for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
