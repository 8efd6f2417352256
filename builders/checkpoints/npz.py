"""npz: a zip of .npy members, as numpy and the JAX repositories write it.

`numpy.load` would copy every array into memory; this reader gives views of the file, and refuses what could run code.
"""

import ast
import io
import json
import math
import mmap
import zipfile
import zlib
from typing import Any

import ml_dtypes
import numpy as np

from builders.checkpoints.arrays import Array, array_at, naturals, pieces_of
from builders.checkpoints.errors import Refusal, quoted
from builders.checkpoints.zips import ZipMember, zip_comment

_MAXIMUM_EXPANSION = 50  # of compressed members, against the size of the file; float weights compress by about 1.1


def read_tensors(memory: mmap.mmap, members: dict[str, ZipMember]) -> dict[str, Array]:
    """Return the arrays by name; object arrays, which could run code, are refused.

    Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
    """
    claimed = sum(member.size for member in members.values() if member.compressed)
    if claimed > max(_MAXIMUM_EXPANSION * len(memory), 1 << 20):
        raise Refusal(
            f"its members claim to expand from {len(memory)} to {claimed} bytes, as only a zip bomb does",
            "check where the file comes from, or write it uncompressed",
        )
    tensors = {}
    for member_name, member in members.items():
        name = member_name.removesuffix(".npy")
        try:
            tensors[name] = _npy_tensor(memory, member)
        except Refusal as refusal:
            raise Refusal(f"array {quoted(name)} {refusal.reason}", refusal.fix) from None
    return tensors


def _npy_tensor(memory: mmap.mmap, member: ZipMember) -> Array:
    source: mmap.mmap | bytes
    if member.compressed:
        decompressor = zlib.decompressobj(-15)
        data = decompressor.decompress(memory[member.start : member.start + member.stored], member.size + 1)
        if len(data) != member.size or not decompressor.eof or zlib.crc32(data) != member.crc:
            raise Refusal("is truncated or damaged")
        source, start = data, 0
    else:
        source, start = memory, member.start
    end = start + member.size
    head = source[start : min(start + 12, end)]
    if head[:6] != b"\x93NUMPY" or head[6:7] not in (b"\x01", b"\x02", b"\x03"):
        raise Refusal("is no .npy data")
    width = 2 if head[6] == 1 else 4
    length = int.from_bytes(head[8 : 8 + width], "little")
    origin = start + 8 + width + length
    if length > 10_000 or origin > end:
        raise Refusal("is truncated or has an absurd header")
    header = ast.literal_eval(source[origin - length : origin].decode("latin1" if head[6] < 3 else "utf-8").strip())
    if not isinstance(header, dict) or header.keys() != {"descr", "fortran_order", "shape"}:
        raise Refusal("has a damaged header")
    if not isinstance(header["descr"], str):
        raise Refusal("has a structured dtype", "save plain arrays of numbers")
    dtype = np.dtype(header["descr"])
    if dtype.hasobject:
        raise Refusal("holds pickled objects, which could run code", "save plain arrays of numbers")
    if dtype == np.dtype("V2"):  # bfloat16 loses its name in an npz; big_vision reads it back the same way
        dtype = np.dtype(ml_dtypes.bfloat16)
    elif dtype.kind not in "fiubc":
        raise Refusal(f"has the dtype {dtype}, which is no number", "save plain arrays of numbers")
    if not dtype.isnative:
        raise Refusal("is big-endian", "save it in little-endian byte order")
    shape = naturals(header["shape"], "has a damaged header: shape")
    count = math.prod(shape)
    if count * dtype.itemsize != end - origin:
        raise Refusal(f"has {end - origin} bytes of data, its shape {list(shape)} needs {count * dtype.itemsize}")
    return array_at(source, origin, count, dtype).reshape(shape, order="F" if header["fortran_order"] is True else "C")


def read_metadata(memory: mmap.mmap) -> Any:
    """Return what `write_tensors` was given as metadata: the archive's comment, if it is JSON, which only we write there."""
    comment = zip_comment(memory)
    return json.loads(comment) if comment.startswith(b"{") else {}


def write_tensors(file: io.BufferedWriter, tensors: dict[str, Array], metadata: dict[str, str]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = json.dumps(metadata).encode() if metadata else b""
        for name, tensor in tensors.items():
            if tensor.dtype == ml_dtypes.bfloat16:
                tensor = tensor.view("V2")
            elif tensor.dtype.kind not in "fiubc" or tensor.dtype.isbuiltin != 1:
                raise Refusal(f"array {quoted(name)}: an npz has no dtype {tensor.dtype}", "convert it to float32")
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.external_attr = 0o644 << 16
            with archive.open(member, "w", force_zip64=True) as target:
                header = {"descr": tensor.dtype.str, "fortran_order": False, "shape": tensor.shape}
                np.lib.format.write_array_header_1_0(target, header)
                target.writelines(pieces_of(tensor))
