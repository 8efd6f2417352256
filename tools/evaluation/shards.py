"""What a list of labelled images is, and the shards of it that a process can evaluate on its own.

A shard is JSON: it says where a piece of the images lies, and how its labels are read.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from tools.common.printable import printable
from tools.evaluation import MAX_BYTES, MAX_PIXELS, UnusableImage
from tools.evaluation.labels import Labels

NAMES_SHOWN = 20  # of what was left out, in a sentence

Pixels = NDArray[np.uint8]  # [height, width, 3]
# An encoded image, a function that reads one (it raises UnusableImage), one that is decoded, or why there is none.
Content = bytes | Callable[[], bytes] | Pixels | UnusableImage
Item = tuple[str, int, Content]  # the name of an image, the number of its class, and the image


class FilesShard(TypedDict):
    """Image files: (path, number of the class) pairs.

    A path is relative to `root` unless it is absolute or a URL; without `follow_links` the file itself must be below `root`.
    """

    kind: Literal["files"]
    root: str
    follow_links: bool
    items: list[tuple[str, int]]


class ArraysShard(TypedDict):
    """Images `start` to `end` of an .npz file with the arrays `images`, uint8 `[n, height, width, 3]`, and `labels` `[n]`."""

    kind: Literal["npz"]
    file: str
    start: int
    end: int
    first_label: int


class KeyedShard(TypedDict):
    """A piece of a file whose images and labels have keys: names of features, of members or of columns.

    `first_label` is the number of the first class where labels are numbers; labels that are text are ids or names of classes.
    """

    file: str
    start: int
    image_key: str
    label_key: str
    first_label: int | None


class RecordsShard(KeyedShard):
    """The bytes from `start` to `end` (None: to the last) of a TFRecord file of tf.train.Examples."""

    kind: Literal["tfrecord"]
    end: int | None


class TarShard(KeyedShard):
    """The bytes from `start` to `end` (None: to the last) of a WebDataset tar; an empty key stands for what is usual there."""

    kind: Literal["tar"]
    end: int | None


class ParquetShard(KeyedShard):
    """The rows from `start` to `end` of a Parquet file."""

    kind: Literal["parquet"]
    end: int


Shard = FilesShard | ArraysShard | RecordsShard | TarShard | ParquetShard


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of reading images.

    Attributes:
      labels: the set of classes that labels are of: a name, or a .tsv file (`tools.evaluation.labels.load`).
      first_label: the number of the first class, where labels are numbers; None for what is usual there.
      ground_truth: the file with the labels of a folder of images.
      image_root: the folder that holds the images of a list.
      follow_links: take links to files and folders for these.
      split: the split of a data set of TensorFlow Datasets.
      image_key, label_key: columns of a list or of Parquet, features of TFRecords, members of a tar; None for what is usual there.
      shard_images: how many images are evaluated and stored together.
      max_pixels: of one image.
      max_bytes: of one encoded image.
    """

    labels: str | None = None
    first_label: int | None = None
    ground_truth: str | None = None
    image_root: str | None = None
    follow_links: bool = False
    split: str | None = None
    image_key: str | None = None
    label_key: str | None = None
    shard_images: int = 500
    max_pixels: int = MAX_PIXELS
    max_bytes: int = MAX_BYTES


@dataclass(frozen=True)
class Images:
    """Labelled images.

    Attributes:
      source: the address that `find` was given.
      shards: as `tools.evaluation.worker.items` takes them; labels are of `classes`.
      classes: the classes that labels are of; None for the outputs of the module, whatever it is.
      digest: the SHA-256 of the list of names and labels, the same wherever the images lie.
      count: how many there are, None if only reading them tells.
      left_out: the name of each file that was left out, and why.
      stamps: for each shard a text that changes with its files (their sizes and times), as far as the storage tells.
    """

    source: str
    shards: list[Shard]
    classes: Labels | None
    digest: str
    count: int | None
    left_out: list[tuple[str, str]] = field(default_factory=list)
    stamps: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """Sentences on what was left out, one for each reason."""
        return left_out_notes(self.source, self.left_out)


def left_out_notes(source: str, left_out: list[tuple[str, str]]) -> list[str]:
    """Return a sentence for each reason to leave files out, with the first of their names."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in left_out:
        by_reason.setdefault(reason, []).append(name)
    sentences = []
    for reason, names in by_reason.items():
        shown = ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
        sentences.append(printable(f"{len(names):,} files of {source} were left out ({reason}): {shown}"))
    return sentences


def digest_of(text: str) -> str:
    """Return the SHA-256 of a text, which may hold names of files that are not UTF-8."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def extent(shard: Shard) -> list[int | None]:
    """Return how much of the images a shard is; which they are is in the digest of the list."""
    return [len(shard["items"])] if shard["kind"] == "files" else [shard["start"], shard["end"]]


def keys_of(options: Options) -> list[Any]:
    """Return the options that decide which images and labels a file with keys holds."""
    return [options.image_key, options.label_key, options.first_label]


def stamp_of(facts: Mapping[str, Any]) -> str:
    """Return a text for facts of a file that change with it."""
    return digest_of(repr(sorted(facts.items())))
