"""Images and labels as arrays in an .npz file, read one image at a time, however large the file is.

    images = find("/data/test.npz", Options())

`numpy.load` would unpack an array into memory, which a small file may ask for without end.
"""

import functools
import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import numpy as np

from tools.evaluation import BadImagesError, EvaluationError
from tools.evaluation.files import facts, open_stream
from tools.evaluation.labels import load
from tools.evaluation.shards import ArraysShard, Images, Item, Options, Shard

CHUNK_BYTES = 1 << 20
WRITE = "write arrays named images and labels with numpy.savez"
# What zipfile and zlib raise for damaged, encrypted and exotic archives.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError, OSError)


class _Array(NamedTuple):
    """A member of an .npz file: what it is open as, its shape and type, and where its elements begin, in bytes."""

    stream: IO[bytes]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int

    @property
    def row_bytes(self) -> int:
        """The size of an element along the first axis."""
        return int(np.prod(self.shape[1:], dtype=object)) * self.dtype.itemsize

    def row(self, number: int) -> bytes:
        """Return an element along the first axis. Raises EOFError, or what zipfile raises."""
        position = self.start + number * self.row_bytes
        if self.stream.tell() != position:
            self.stream.seek(position)
        content = self.stream.read(self.row_bytes)
        if len(content) != self.row_bytes:
            raise EOFError("it ends too early")
        return content


def find(source: str, options: Options) -> Images:
    """List the images of an .npz file. Raises EvaluationError."""
    try:
        images, labels = _open(source)
        if (
            images.dtype != np.uint8
            or len(images.shape) != 4
            or images.shape[3] != 3
            or labels.shape != images.shape[:1]
        ):
            raise EvaluationError(
                f"{source}: images are {images.dtype} {list(images.shape)}, labels {list(labels.shape)}",
                "write uint8 [n, height, width, 3] and [n]",
            )
        if not labels.shape[0] or labels.dtype.kind not in "iu":
            raise EvaluationError(f"{source}: labels are {labels.shape[0]} of {labels.dtype}", "write whole numbers")
        if not 0 < images.shape[1] * images.shape[2] <= options.max_pixels:
            raise EvaluationError(
                f"{source}: images are {list(images.shape)}",
                f"write images of 1 to {options.max_pixels:,} pixels, or raise the limit with --max-pixels",
            )
        size, _ = facts(source)
        if labels.shape[0] > size:  # zeros shrink to a thousandth
            raise EvaluationError(f"{source}: {labels.shape[0]:,} images unpack to far more than it holds", WRITE)
        for array in (images, labels):
            _check(array)
        with open_stream(source) as file:
            digest = hashlib.sha256()
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    except _DAMAGE as error:
        if isinstance(error, EvaluationError):
            raise
        raise EvaluationError(f"{source}: it is damaged, or no .npz file: {error}", WRITE) from error
    count, step = labels.shape[0], options.shard_images
    shards: list[Shard] = [
        {
            "kind": "npz",
            "file": source,
            "start": start,
            "end": min(start + step, count),
            "first_label": options.first_label or 0,
        }
        for start in range(0, count, step)
    ]
    classes = load(options.labels) if options.labels else None
    stamps = [digest.hexdigest()] * len(shards)
    return Images(source, shards, classes, digest.hexdigest(), count, stamps=stamps)


def _check(array: _Array) -> None:
    """Read an array to its end, where its checksum is. Raises EOFError, or what zipfile raises."""
    left = array.shape[0] * array.row_bytes
    while left:
        chunk = array.stream.read(min(left, CHUNK_BYTES))
        if not chunk:
            raise EOFError("it ends too early")
        left -= len(chunk)
    if array.stream.read(1):
        raise EOFError("it has more than its shape says")


def _open(source: str) -> tuple[_Array, _Array]:
    """Open the images and the labels. Raises EvaluationError, or what zipfile raises."""
    archive = zipfile.ZipFile(open_stream(source))
    found = []
    for name in ("images", "labels"):
        if f"{name}.npy" not in archive.namelist():
            has = ", ".join(each[:40] for each in archive.namelist()[:20])
            raise EvaluationError(f"{source}: it has no {name}, among {has or 'nothing'}", WRITE)
        stream = archive.open(f"{name}.npy")
        if (version := np.lib.format.read_magic(stream)) != (1, 0):  # others may ask for a header of 4 GB
            raise EvaluationError(f"{source}: {name}.npy has the version {version}", WRITE)
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
        if fortran_order and len(shape) > 1:
            raise EvaluationError(f"{source}: {name} are in Fortran's order", "write numpy.ascontiguousarray(...)")
        if dtype.hasobject or min(shape, default=0) < 0:
            raise EvaluationError(f"{source}: {name} are {dtype} {list(shape)}", "write whole numbers")
        found.append(_Array(stream, shape, dtype, stream.tell()))
    return found[0], found[1]


# Reading


@functools.lru_cache(maxsize=1)  # all shards of a file follow each other, and each goes on where the one before ended
def _opened(source: str) -> tuple[_Array, _Array]:
    return _open(source)


def items(shard: ArraysShard) -> Iterator[Item]:
    """Yield the images of a shard."""
    first_label = shard["first_label"]
    try:
        images, labels = _opened(shard["file"])
        for number in range(shard["start"], shard["end"]):
            label = int(np.frombuffer(labels.row(number), labels.dtype)[0]) - first_label
            pixels = np.frombuffer(images.row(number), np.uint8).reshape(images.shape[1:])
            yield f"{shard['file']}: image {number}", label, pixels
    except _DAMAGE as error:
        _opened.cache_clear()
        if isinstance(error, EvaluationError):
            raise
        raise BadImagesError(f"{shard['file']}: cannot be read: {error}", "write the file again") from error
