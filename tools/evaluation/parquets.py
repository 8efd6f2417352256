"""Parquet files with images, as Hugging Face's data sets have them: a column of encoded images, and one of labels.

    images = find("val-*.parquet", matches("val-*.parquet"), Options())

The schema says which columns these are, and the names of the classes: its metadata holds {"info": {"features": {"image": {"_type":
"Image"}, "label": {"_type": "ClassLabel", "names": [...]}}}} under the key `huggingface`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tools.evaluation import BadImagesError, EvaluationError, UnusableImage
from tools.evaluation.files import open_stream, too_large
from tools.evaluation.labels import Labels, class_number, load, unlisted
from tools.evaluation.lists import IMAGE_COLUMNS, LABEL_COLUMNS, plain_name
from tools.evaluation.shards import Images, Item, Options, ParquetShard, Shard, digest_of, keys_of

MAX_RATIO = 200  # of what a file unpacks to; encoded images hardly shrink
FOOTER_STRINGS, FOOTER_ITEMS = 16 << 20, 1_000_000  # of a file's description of itself


def find(source: str, files: Mapping[str, tuple[int, str]], options: Options) -> Images:
    """List the images of Parquet files, given with `facts` of each. Raises EvaluationError."""
    digest = hashlib.sha256(json.dumps(keys_of(options)).encode())
    shards: list[Shard] = []
    stamps: list[str] = []
    count = 0
    names: list[str] | None = None
    for number, (file, (size, stamp)) in enumerate(files.items()):
        with _Table(file) as table:
            image, label, found = _columns(file, table, options)
            rows = table.rows
            if rows > size or table.unpacked_bytes() > MAX_RATIO * size:
                raise EvaluationError(f"{file}: {rows:,} rows unpack to far more than it holds", "get the right file")
        if number and found != names:
            raise EvaluationError(
                f"{file}: its classes are others than those of the files before", "give files of one set"
            )
        names = found
        first_label = options.first_label
        if names is not None and first_label is None:
            first_label = 0
        digest.update(f"{file.rpartition('/')[2]}\t{size}\t{rows}\n".encode("utf-8", "surrogateescape"))
        count += rows
        for start in range(0, rows, options.shard_images):
            stamps.append(digest_of(stamp))
            shards.append(
                {
                    "kind": "parquet",
                    "file": file,
                    "start": start,
                    "end": min(start + options.shard_images, rows),
                    "image_key": image,
                    "label_key": label,
                    "first_label": first_label,
                }
            )
    if not shards:
        raise EvaluationError(f"{source}: the files hold no rows", "give others")
    classes = load(options.labels) if options.labels else None
    if classes is None and names is not None and options.first_label is None:
        classes = unlisted(source, names)
    return Images(source, shards, classes, digest.hexdigest(), count, stamps=stamps)


def _columns(file: str, table: "_Table", options: Options) -> tuple[str, str, list[str] | None]:
    """Return the column of images, that of labels, and the names of the classes where labels are their numbers."""
    features = _features(table)
    image = options.image_key or _only(
        [name for name, kind in features.items() if kind.get("_type") == "Image"]
        or [name for name in table.columns if table.holds_images(name) and plain_name(name) in IMAGE_COLUMNS]
    )
    label = options.label_key or _only(
        [name for name, kind in features.items() if kind.get("_type") == "ClassLabel"]
        or [name for name in table.columns if plain_name(name) in LABEL_COLUMNS]
    )
    has = ", ".join(name[:40] for name in table.columns[:20]) or "none"
    for what, name in (("image", image), ("label", label)):
        if name not in table.columns:
            missing = f"there is no column {name!r}" if name else f"it is not certain which column holds the {what}"
            raise EvaluationError(f"{file}: {missing}, among {has}", f"name it with --{what}-key COLUMN")
    if not table.holds_images(image) or not table.holds_labels(label):
        raise EvaluationError(
            f"{file}: {image!r} holds {table.types[image]}, {label!r} {table.types[label]}",
            "name the columns of encoded images and of labels with --image-key and --label-key",
        )
    names = features.get(label, {}).get("names")
    if features.get(label, {}).get("_type") == "ClassLabel" and isinstance(names, list):
        return image, label, [str(name) for name in names]
    return image, label, None


def _only(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ""


def _features(table: "_Table") -> dict[str, dict[str, Any]]:
    """Return Hugging Face's description of the columns; empty if there is none."""
    try:
        features = json.loads(table.metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {name: kind for name, kind in features.items() if name in table.columns and isinstance(kind, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


class _Table:
    """An open Parquet file; a context manager. Raises EvaluationError: it is none, or pyarrow is missing."""

    def __init__(self, file: str):
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise EvaluationError(
                f"{file}: Parquet files need pyarrow, which is not installed",
                "run `python -m pip install 'pyarrow>=18'` (the extra `parquet`)",
            ) from error
        self._arrow, self._stream = pa, open_stream(file)
        try:
            self._file = pq.ParquetFile(
                self._stream,
                pre_buffer=False,
                buffer_size=1 << 20,
                thrift_string_size_limit=FOOTER_STRINGS,
                thrift_container_size_limit=FOOTER_ITEMS,
            )
            self._schema = self._file.schema_arrow
        except Exception as error:  # Arrow's errors, OSError, and what damaged text in it gives
            self._stream.close()
            raise EvaluationError(f"{file}: it is damaged, or no Parquet file: {error}", "get the right one") from error
        self.rows: int = self._file.metadata.num_rows
        self.columns: list[str] = list(self._schema.names)
        self.types: dict[str, str] = {field.name: str(field.type)[:80] for field in self._schema}
        self.metadata: dict[bytes, bytes] = self._schema.metadata or {}

    def __enter__(self) -> "_Table":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close(force=True)
        self._stream.close()

    def unpacked_bytes(self) -> int:
        """Return how many bytes the file says that it unpacks to."""
        groups = (self._file.metadata.row_group(group) for group in range(self._file.num_row_groups))
        return sum(group.total_byte_size for group in groups)

    def _kind(self, column: str) -> Any:
        """Return the type of a column, whether its values are in a dictionary or not."""
        kind = self._schema.field(column).type
        return kind.value_type if self._arrow.types.is_dictionary(kind) else kind

    def _is_bytes(self, kind: Any) -> bool:
        types = self._arrow.types
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    def holds_images(self, column: str) -> bool:
        """Return whether a column is of bytes, or of records with the field `bytes`."""
        kind = self._kind(column)
        if self._arrow.types.is_struct(kind):
            index = kind.get_field_index("bytes")
            return index >= 0 and self._is_bytes(kind.field(index).type)
        return self._is_bytes(kind)

    def holds_labels(self, column: str) -> bool:
        """Return whether a column is of whole numbers or of text."""
        types, kind = self._arrow.types, self._kind(column)
        return bool(types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind))

    def rows_from(self, start: int, image: str, label: str) -> Iterator[tuple[Any, Any]]:
        """Yield (image, label) of each row from `start` on, one at a time: a page of a few bytes may stand for many large rows."""
        groups: list[int] = []
        for group in range(self._file.num_row_groups):
            count = self._file.metadata.row_group(group).num_rows
            if groups or start < count:
                groups.append(group)
            else:
                start -= count
        for batch in self._file.iter_batches(
            batch_size=1, row_groups=groups, columns=[image, label], use_threads=False
        ):
            start -= batch.num_rows
            if start < 0:
                yield batch.column(image)[0].as_py(), batch.column(label)[0].as_py()


# Reading


@dataclass
class _Reader:
    """An open file and its rows from `position` on: shards follow each other, and each goes on where the one before ended."""

    table: _Table
    columns: tuple[str, str]
    rows: Iterator[tuple[Any, Any]]
    position: int


_readers: dict[str, _Reader] = {}  # the last one, by file


def _reader_at(shard: ParquetShard) -> _Reader:
    columns = shard["image_key"], shard["label_key"]
    reader = _readers.pop(shard["file"], None)
    for other in _readers.values():
        other.table.close()
    _readers.clear()
    if reader is None or (reader.position, reader.columns) != (shard["start"], columns):
        table = _Table(shard["file"])
        reader = _Reader(table, columns, table.rows_from(shard["start"], *columns), shard["start"])
    return reader


def items(shard: ParquetShard, classes: Labels, max_bytes: int) -> Iterator[Item]:
    """Yield the images of a shard. Raises BadImagesError: the file is damaged, or a row has no label."""
    reader = _reader_at(shard)
    while reader.position < shard["end"]:
        name = f"{shard['file']}: row {reader.position}"
        try:
            found, label = next(reader.rows)
        except StopIteration as error:
            raise BadImagesError(f"{name} is missing", "get the right file") from error
        except Exception as error:  # Arrow's errors
            raise BadImagesError(f"{name}: cannot be read: {error}", "get the right file") from error
        reader.position += 1
        if label is None:
            raise BadImagesError(f"{name} has no label", "choose its column with --label-key")
        number = class_number(label, classes, shard["first_label"], name)
        content = found.get("bytes") if isinstance(found, dict) else found
        if not isinstance(content, bytes):
            yield name, number, UnusableImage("it has no bytes, at most the name of a file elsewhere")
        else:
            yield name, number, content if len(content) <= max_bytes else too_large(max_bytes)
    _readers[shard["file"]] = reader
