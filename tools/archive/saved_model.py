"""Read the signatures of a `saved_model.pb` without TensorFlow.

    signatures(data)["serving_default"].outputs["logits"]        # Tensor(dtype="float32", shape=(None, 10))

Field numbers are those of tensorflow/core/protobuf: saved_model.proto, meta_graph.proto, tensor_shape.proto. The graph, which is
nearly all of the file, is stepped over, so this takes time for the number of fields and not for the size.

Home-made, because these messages come with TensorFlow only, which takes seconds to import, and protobuf parses the whole graph.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

# tensorflow/core/framework/types.proto
DTYPES = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    7: "string",
    9: "int64",
    10: "bool",
    14: "bfloat16",
    17: "uint16",
    19: "float16",
    22: "uint32",
    23: "uint64",
}
_META_GRAPHS, _SIGNATURES, _KEY, _VALUE = 2, 5, 1, 2
_INPUTS, _OUTPUTS = 1, 2
_DTYPE, _SHAPE = 2, 3
_DIMENSIONS, _UNKNOWN_RANK, _SIZE = 2, 3, 1


class SavedModelError(ValueError):
    """Bytes are no SavedModel. The message follows the name of the file."""


class Tensor(NamedTuple):
    """An input or output: `dtype` as NumPy calls it, `shape` with None where any size goes, or None for any rank."""

    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of one signature, by name."""

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


def signatures(data: bytes) -> dict[str, Signature]:
    """Return the signatures of a serialized SavedModel, by key.

    Raises:
      SavedModelError: the bytes are no protocol buffer, are cut off, or hold no graph.
    """
    found: dict[str, Signature] = {}
    graphs = 0
    for graph in _messages(memoryview(data), _META_GRAPHS):
        graphs += 1
        for entry in _messages(graph, _SIGNATURES):
            key, value = _entry(entry)
            found[key] = Signature(_tensors(value, _INPUTS), _tensors(value, _OUTPUTS))
    if not graphs:
        raise SavedModelError("holds no graph")
    return found


def _tensors(signature: memoryview, number: int) -> dict[str, Tensor]:
    found = {}
    for entry in _messages(signature, number):
        key, value = _entry(entry)
        dtype, shape = 0, None
        for field, content in _fields(value):
            if field == _DTYPE and isinstance(content, int):
                dtype = content
            elif field == _SHAPE and not isinstance(content, int):
                shape = _shape(content)
        found[key] = Tensor(DTYPES.get(dtype, f"type {dtype}"), shape)
    return found


def _shape(message: memoryview) -> tuple[int | None, ...] | None:
    dimensions: list[int | None] = []
    for field, content in _fields(message):
        if field == _UNKNOWN_RANK and content:
            return None
        if field == _DIMENSIONS and not isinstance(content, int):
            size = next((value for number, value in _fields(content) if number == _SIZE and isinstance(value, int)), 0)
            dimensions.append(None if size >= 1 << 63 else size)  # -1: any size
    return tuple(dimensions)


def _entry(message: memoryview) -> tuple[str, memoryview]:
    """Return key and value of one entry of a map."""
    key, value = "", memoryview(b"")
    for field, content in _fields(message):
        if isinstance(content, int):
            continue
        if field == _KEY:
            key = bytes(content).decode("utf-8", "replace")
        elif field == _VALUE:
            value = content
    return key, value


def _messages(message: memoryview, number: int) -> Iterator[memoryview]:
    for field, content in _fields(message):
        if field == number and not isinstance(content, int):
            yield content


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of every field: a whole number, or the bytes of a string or message."""
    position, end = 0, len(message)
    while position < end:
        tag, position = _number(message, position)
        kind = tag & 7
        if kind == 0:
            value, position = _number(message, position)
            yield tag >> 3, value
            continue
        if kind == 2:
            length, position = _number(message, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise SavedModelError(f"is no protocol buffer: byte {position} begins a field of kind {kind}")
        if length > end - position:
            raise SavedModelError(
                f"is truncated: a field of {length:,} bytes begins {end - position:,} bytes before the end"
            )
        yield tag >> 3, message[position : position + length]
        position += length


def _number(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if position >= len(message):
            raise SavedModelError("is truncated: it ends inside a number")
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
    raise SavedModelError("is no protocol buffer: a number has more than ten bytes")
