"""Arrays inside a memory-mapped file: views of its bytes, and passes over them in small pieces."""

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from builders.checkpoints.errors import Refusal

Array = npt.NDArray[Any]
CHUNK = 4 << 20  # bytes, or items, that are looked at together
_MAXIMUM_RANK = 32


def array_at(memory: mmap.mmap | bytes, start: int, count: int, dtype: np.dtype[Any]) -> Array:
    """Return a read-only 1-D view of `count` items at byte `start`; the caller has checked the bounds."""
    if count == 0:
        empty = np.empty(0, dtype)
        empty.flags.writeable = False
        return empty
    return np.frombuffer(memory, np.uint8, count * dtype.itemsize, start).view(dtype)


def all_finite(tensor: Array) -> bool:
    """Tell whether no value is infinite or NaN, without a copy as large as the array."""
    flat = tensor.reshape(-1)  # a view, but for the rare tensor with other strides
    return all(bool(np.isfinite(flat[start : start + CHUNK]).all()) for start in range(0, len(flat), CHUNK))


def pieces_of(tensor: Array) -> Iterator[memoryview]:
    """Yield the tensor's bytes in C order, a few megabytes at a time."""
    flat = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
    for start in range(0, len(flat), CHUNK):
        yield flat[start : start + CHUNK].data


def naturals(values: Any, what: str) -> tuple[int, ...]:
    """Return `values` as a tuple of a few integers >= 0 that fit 63 bits; raise Refusal where they are something else."""
    if not isinstance(values, list | tuple) or len(values) > _MAXIMUM_RANK:
        raise Refusal(f"{what} is no short list of integers")
    for value in values:
        if type(value) is not int or not 0 <= value < 1 << 63:
            raise Refusal(f"{what} has an entry that is no integer from 0 to 2**63 - 1")
    return tuple(values)
