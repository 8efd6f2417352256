"""safetensors: 8 bytes of header length, a JSON header, raw little-endian data.

Written here, and not by the safetensors library, because its NumPy interface copies every tensor and has no bfloat16.
"""

import collections
import io
import json
import math
import mmap
from typing import Any

import ml_dtypes
import numpy as np

from builders.checkpoints.arrays import Array, array_at, naturals, pieces_of
from builders.checkpoints.errors import Refusal, listing, quoted

_MAXIMUM_JSON_BYTES = 32 << 20

# In the order of the safetensors library's own list: it writes the tensors of the last dtype first.

_DTYPES = {
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

_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def read_tensors(memory: mmap.mmap) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the tensors by name, which must cover the data without holes or overlaps, and the metadata.

    Format: https://huggingface.co/docs/safetensors
    """
    length = int.from_bytes(memory[:8], "little")
    if length > len(memory) - 8:
        raise Refusal(f"truncated: its header claims {length} bytes, the file has {len(memory)}")
    if length > _MAXIMUM_JSON_BYTES:
        raise Refusal(f"its header claims {length} bytes, more than any real one", "check where the file comes from")

    header = unique_json(memory[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    origin, tensors, ranges = 8 + length, {}, []
    for name, entry in header.items():
        if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
            raise Refusal(f"the header's entry {quoted(name)} lacks dtype, shape or data_offsets", "write it again")
        dtype = _DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
        if dtype is None:
            raise Refusal(
                f"tensor {quoted(name)} has the unknown dtype {quoted(str(entry['dtype']))}", "convert it to float32"
            )
        shape = naturals(entry["shape"], f"tensor {quoted(name)}: shape")
        offsets = naturals(entry["data_offsets"], f"tensor {quoted(name)}: data_offsets")
        count = math.prod(shape)
        if len(offsets) != 2 or offsets[1] - offsets[0] != count * dtype.itemsize:
            raise Refusal(f"tensor {quoted(name)}: shape {list(shape)} does not agree with its data_offsets")
        if offsets[1] > len(memory) - origin:
            raise Refusal(f"truncated: the data of tensor {quoted(name)} reach past the end of the file")
        ranges.append((*offsets, name))
        tensors[name] = array_at(memory, origin + offsets[0], count, dtype).reshape(shape)
    position = 0
    for begin, end, name in sorted(ranges):
        if begin != position:
            what = "overlap those of another tensor" if begin < position else "leave a hole before them"
            raise Refusal(f"the data of tensor {quoted(name)} {what}", "write it again")
        position = end
    if position != len(memory) - origin:
        raise Refusal(f"{len(memory) - origin - position} bytes at the end belong to no tensor")
    return tensors, metadata


def unique_json(text: bytes) -> Any:
    """Return the value of a JSON text in which no object has two entries of one name."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) != len(pairs):
            duplicates = [name for name, count in collections.Counter(name for name, _ in pairs).items() if count > 1]
            raise Refusal(f"its header has duplicate entries: {listing(duplicates)}", "write it again")
        return entries

    return json.loads(text.decode(), object_pairs_hook=unique)


def write_tensors(file: io.BufferedWriter, tensors: dict[str, Array], metadata: dict[str, str]) -> None:
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES:
            raise Refusal(f"tensor {quoted(name)}: safetensors have no dtype {tensor.dtype}", "convert it to float32")
    ranks = {dtype: rank for rank, dtype in enumerate(_NAMES)}
    ordered = sorted(tensors.items(), key=lambda item: (-ranks[item[1].dtype], item[0]))
    for name, tensor in ordered:
        offsets = [position, position + tensor.nbytes]
        shape = list(tensor.shape)
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": shape, "data_offsets": offsets}
        position += tensor.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for _, tensor in ordered:
        file.writelines(pieces_of(tensor))
