"""Checkpoint files of torch and safetensors, written byte by byte: everything that a pickle can say, honest or not, without PyTorch.

torch_zip(path, {"model": STATE, "epoch": 3})
torch_file(path, {"model": {"a.weight": array}, "epoch": 3})       # with arrays of NumPy for tensors
"""

import json
import pickle
import struct
import zipfile

import numpy as np


class Raw(bytes):
    """Opcodes as they are."""


def encode(value) -> bytes:
    """The opcodes (protocol 2, without memo) that push `value`."""
    match value:
        case Raw():
            return bytes(value)
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            data = pickle.encode_long(value)
            return b"\x8b" + struct.pack("<i", len(data)) + data
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            data = value.encode()
            return b"X" + struct.pack("<I", len(data)) + data
        case tuple():
            return b"(" + b"".join(map(encode, value)) + b"t"
        case list():
            return b"](" + b"".join(map(encode, value)) + b"e"
        case dict():
            return b"}(" + b"".join(encode(key) + encode(item) for key, item in value.items()) + b"u"
    raise TypeError(value)


def named(module: str, name: str) -> Raw:
    return Raw(b"c" + f"{module}\n{name}\n".encode())


def call(module: str, name: str, *arguments) -> Raw:
    return Raw(named(module, name) + encode(arguments) + b"R")


def storage(key: str, count: int, kind: str = "FloatStorage", *view) -> Raw:
    return Raw(encode(("storage", named("torch", kind), key, "cpu", count, *view)) + b"Q")


def tensor(key: str, shape=(2, 3), *, count=6, offset=0, stride=None, kind="FloatStorage", view=()) -> Raw:
    if stride is None:
        stride = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    hooks = call("collections", "OrderedDict")
    described = (storage(key, count, kind, *view), offset, shape, stride, False, hooks)
    return call("torch._utils", "_rebuild_tensor_v2", *described)


VALUES = np.arange(6, dtype=np.float32)
STORAGES = {"0": VALUES.tobytes(), "1": (VALUES + 10).tobytes()}
STATE = {"a.weight": tensor("0"), "a.bias": tensor("1", (6,))}


def torch_zip(path, top, storages=STORAGES, *, root="archive", extra=(), method=zipfile.ZIP_STORED, pickled=None):
    """A checkpoint as torch >= 1.6 writes it."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(f"{root}/data.pkl", b"\x80\x02" + encode(top) + b"." if pickled is None else pickled)
        for name, data in (("byteorder", b"little"), *extra):
            archive.writestr(f"{root}/{name}", data)
        for key, data in storages.items():
            archive.writestr(f"{root}/data/{key}", data)
        archive.writestr(f"{root}/version", b"3\n")
    return path


def torch_legacy(path, top, storages=STORAGES, *, item=4, counts=None, little_endian=True, pickled=None):
    """A checkpoint as torch wrote it before 1.6."""
    counts = counts or {}
    system = {"protocol_version": 1001, "little_endian": little_endian, "type_sizes": {"int": 4}}
    parts = [encode(0x1950A86A20F9469CFC6C), encode(1001), encode(system), encode(top), encode(list(storages))]
    pickles = [b"\x80\x02" + part + b"." for part in parts]
    if pickled is not None:
        pickles[3] = pickled
    data = b"".join(pickles)
    for key, content in storages.items():
        data += struct.pack("<Q", counts.get(key, len(content) // item)) + content
    path.write_bytes(data)
    return path


def safetensors_file(path, header, data=b"", *, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def with_tensors(value, storages):
    """Return a value in which arrays of float32, int64 or bool are tensors; `storages` gets their bytes by key."""
    if isinstance(value, np.ndarray):
        kind = {"f4": "FloatStorage", "f2": "HalfStorage", "i8": "LongStorage", "b1": "BoolStorage"}[
            value.dtype.str[1:]
        ]
        key = str(len(storages))
        storages[key] = np.ascontiguousarray(value).tobytes()
        return tensor(key, value.shape, count=value.size, kind=kind)
    if isinstance(value, dict) and value:
        return {name: with_tensors(each, storages) for name, each in value.items()}
    if isinstance(value, list) and value:
        return [with_tensors(each, storages) for each in value]
    return value


def torch_file(path, top):
    """Write what torch.save would: `top` with arrays for tensors."""
    storages = {}
    return torch_zip(path, with_tensors(top, storages), storages)
