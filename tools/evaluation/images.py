"""Labelled images wherever they lie, as shards that a process can evaluate on its own (`tools.evaluation.worker.items` reads them).

    images = find("/data/imagenet/val", options)      # images.shards, images.classes, images.count, images.digest

| `--images` | labels |
|---|---|
| a folder of class folders | the folders' names: ids (WordNet's) or names of classes |
| a folder of images, ImageNet's validation layout | a file in it, or `--ground-truth FILE`: see `_ground_truth` |
| FILE.csv with the columns `path` and `label` | ids, names, or numbers with `--first-label`; paths are relative to the file |
| FILE.npz with `images` and `labels` | numbers, the first class is 0 |
| a pattern of TFRecord files | a feature of each record: a number with `--first-label`, or an id |
| `tfds:NAME`, `tfds:/data/NAME/1.0.0` | as TensorFlow Datasets prepared them |

Folders, files and patterns may be URLs that fsspec knows. Only names are read here: memory is bounded by the list of them.
"""

import csv
import glob
import hashlib
import io
import json
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

from tools.evaluation import EvaluationError
from tools.evaluation.labels import Labels, load, unlisted

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2")
GROUND_TRUTHS = (
    "ILSVRC2012_validation_ground_truth.txt",
    "val.txt",
    "imagenet_2012_validation_synset_labels.txt",
    "LOC_val_solution.csv",
)
IMAGENET = "imagenet_1k"


class FilesShard(TypedDict):
    """Image files: (path, label) pairs; a path is relative to `root` unless it is absolute or a URL."""

    kind: Literal["files"]
    root: str
    items: list[tuple[str, int]]


class ArraysShard(TypedDict):
    """Images `start` to `end` of an .npz file with the arrays `images`, uint8 `[n, height, width, 3]`, and `labels` `[n]`."""

    kind: Literal["npz"]
    file: str
    start: int
    end: int


class RecordsShard(TypedDict):
    """The bytes from `start` to `end` (None: to the last) of a TFRecord file of tf.train.Examples.

    `first_label` is the number of the first class where labels are numbers; labels that are text are ids of classes.
    """

    kind: Literal["tfrecord"]
    file: str
    start: int
    end: int | None
    image_key: str
    label_key: str
    first_label: int | None


Shard = FilesShard | ArraysShard | RecordsShard

_Pair = tuple[str, int | str]  # the path of an image, and its label: the number of a class, its id or its name


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of reading images.

    Attributes:
      labels: the set of classes that labels are of: a name, or a .tsv file (`tools.evaluation.labels.load`).
      first_label: the number of the first class, where labels are numbers.
      ground_truth: the file with the labels of a folder of images.
      split: the split of a data set of TensorFlow Datasets.
      image_key, label_key: the features of TFRecords.
      shard_images: how many images are evaluated and stored together.
    """

    labels: str | None = None
    first_label: int | None = None
    ground_truth: str | None = None
    split: str | None = None
    image_key: str = "image/encoded"
    label_key: str = "image/class/label"
    shard_images: int = 500


@dataclass(frozen=True)
class Images:
    """Labelled images.

    Attributes:
      source: the address that `find` was given.
      shards: as `tools.evaluation.worker.items` takes them; labels are numbers of `classes`.
      classes: the classes that labels are of; None for the outputs of the module, whatever it is.
      digest: the SHA-256 of the list of names and labels, the same wherever the images lie.
      count: how many there are, None if only reading them tells.
      notes: sentences on what was left out.
      stamps: for each shard a text that changes with its files (their sizes and times), as far as the storage tells.
    """

    source: str
    shards: list[Shard]
    classes: Labels | None
    digest: str
    count: int | None
    notes: list[str] = field(default_factory=list)
    stamps: list[str] = field(default_factory=list)


def find(source: str, options: Options) -> Images:
    """List the images that `source` names. Raises EvaluationError: there are none, or what their labels mean is not certain."""
    if source.startswith("tfds:"):
        return _tfds(source, options)
    source = source.rstrip("/") or source
    if "://" not in source:
        source = os.path.abspath(os.path.expanduser(source))
    try:
        if source.endswith(".csv"):
            return _csv(source, options)
        if source.endswith(".npz"):
            return _npz(source, options)
        if _is_folder(source):
            return _folder(source, options)
        if not any(sign in source for sign in "*?[") and not _matches(source):
            raise EvaluationError(f"{source}: there is no such file or folder", "give the address of the images")
        return _tfrecords(source, options)
    except EvaluationError:
        raise
    except Exception as error:
        if not isinstance(error, OSError | UnicodeDecodeError) and "://" not in source:
            raise
        # Each of fsspec's file systems has errors of its own.
        raise EvaluationError(f"{source}: cannot be read: {error}", "give the address of the images") from error


# Folders


def _folder(source: str, options: Options) -> Images:
    found = dict(_names(source))
    names = sorted(found)
    images = [name for name in names if name.lower().endswith(ENDINGS)]
    if not images:
        fix = "give the folder of the images" + (", or for TFRecords a pattern, like DIR/validation-*" if names else "")
        raise EvaluationError(f"{source} holds no images (files named {', '.join(ENDINGS[:3])}, ...)", fix)
    truths = [name for name in GROUND_TRUTHS if name in names]
    notes = []
    pairs: list[_Pair]
    if left := len(names) - len(images) - len(truths):
        notes.append(f"{left} files of {source} that are no images by their names were left out")
    nested = [name for name in images if "/" in name]
    if nested and not options.ground_truth and not truths:
        if len(nested) < len(images):
            stray = next(name for name in images if "/" not in name)
            raise EvaluationError(
                f"{source} holds class folders, and {stray} beside them, which has no label", "move it away"
            )
        pairs = [(name, name.split("/", 1)[0]) for name in images]
        return _listed(source, source, pairs, options, notes=notes, stamps=found)
    if not options.ground_truth and len(truths) != 1:
        what = f"{' and '.join(truths)}" if truths else f"none of {', '.join(GROUND_TRUTHS)}, and no class folders"
        raise EvaluationError(f"{source} holds {what}", "say with --ground-truth FILE where the labels are")
    truth = options.ground_truth or f"{source}/{truths[0]}"
    pairs = _ground_truth(truth, images)
    return _listed(source, source, pairs, options, meaning=IMAGENET, notes=notes, stamps=found)


def _ground_truth(file: str, images: list[str]) -> list[_Pair]:
    """Read the (image, label) pairs of a list of ImageNet's validation images.

    The formats, told by the first line: Kaggle's LOC_val_solution.csv (`ImageId,PredictionString`); Caffe's val.txt (a name and a
    number, 0 for the first WordNet id, or an id); one WordNet id for each image in the order of their names; one number
    likewise, ILSVRC2012's own, whose meaning only the meta.mat of its development kit tells.
    """
    rows: list[_Pair]
    lines = [line for line in _text(file).splitlines() if line.strip()]
    if not lines:
        raise EvaluationError(f"{file} is empty", "give the labels of the images")
    by_stem = {os.path.splitext(os.path.basename(name))[0]: name for name in images}
    words = lines[0].split()
    if lines[0].startswith("ImageId,"):
        rows = [(row["ImageId"], row["PredictionString"].split()[0]) for row in csv.DictReader(lines)]
        return _joined(file, rows, by_stem)
    if len(words) == 2:
        rows = []
        for number, line in enumerate(lines, 1):
            if len(line.split()) != 2:
                raise EvaluationError(
                    f"{file}:{number}: it is not two words", "write the name of an image and its label"
                )
            name, label = line.split()
            rows.append((os.path.splitext(os.path.basename(name))[0], int(label) if label.isdecimal() else label))
        return _joined(file, rows, by_stem)
    if len(words) != 1:
        raise EvaluationError(f"{file}: its first line is no label", f"give one of {', '.join(GROUND_TRUTHS)}")
    if len(lines) != len(images):
        raise EvaluationError(
            f"{file} has {len(lines)} labels for {len(images)} images", "give the list of these images"
        )
    if words[0].isdecimal():
        ids = _ilsvrc_ids(file)
        try:
            rows = [(name, ids[int(line)]) for name, line in zip(images, lines, strict=True)]
        except (KeyError, ValueError) as error:
            raise EvaluationError(f"{file}: {error} is none of ILSVRC2012's numbers", "give the right list") from error
    else:
        rows = [(name, line.strip()) for name, line in zip(images, lines, strict=True)]
    return rows


def _joined(file: str, rows: list[_Pair], by_stem: dict[str, str]) -> list[_Pair]:
    """Give each image of a folder its label from a list, which has the names without their endings."""
    labels = dict(rows)
    if len(labels) != len(rows):
        raise EvaluationError(f"{file} names an image twice", "give each image one label")
    if missing := sorted(set(by_stem) ^ set(labels)):
        where = (
            "is in the folder but not in the list" if missing[0] in by_stem else "is in the list but not in the folder"
        )
        raise EvaluationError(f"{file}: {missing[0]} {where}, one of {len(missing)}", "give the list of these images")
    return [(name, labels[stem]) for stem, name in sorted(by_stem.items())]


def _ilsvrc_ids(file: str) -> dict[int, str]:
    """Return the WordNet id of each of ILSVRC2012's own numbers, which are not in the order of the ids that every model uses."""
    folder = file.rpartition("/")[0]
    for place in (f"{folder}/meta.mat", f"{folder}/data/meta.mat", f"{folder}/ILSVRC2012_devkit_t12/data/meta.mat"):
        if not _exists(place):
            continue
        try:
            import scipy.io  # type: ignore[import-untyped]  # its stubs are a package of their own
        except ImportError as error:
            raise EvaluationError(
                f"{place} needs scipy, which is not installed", "run `python -m pip install scipy`"
            ) from error
        synsets = scipy.io.loadmat(io.BytesIO(_bytes(place)), squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    raise EvaluationError(
        f"{file} holds ILSVRC2012's own numbers, which are not in the order of the WordNet ids",
        "put meta.mat of the development kit beside it, or give a list with WordNet ids "
        "(imagenet_2012_validation_synset_labels.txt)",
    )


def _csv(source: str, options: Options) -> Images:
    pairs: list[_Pair] = []
    reader = csv.DictReader(io.StringIO(_text(source), newline=""))
    if not {"path", "label"} <= set(reader.fieldnames or ()):
        columns = ", ".join(reader.fieldnames or ())
        raise EvaluationError(f"{source}:1: its columns are {columns or 'none'}", "the first line must be path,label")
    for row in reader:
        if not row["path"] or not row["label"]:
            raise EvaluationError(f"{source}:{reader.line_num}: it lacks a path or a label", "write a path and a label")
        label: int | str = row["label"]
        if options.first_label is not None:
            if not row["label"].isdecimal():
                raise EvaluationError(f"{source}:{reader.line_num}: {label!r} is no number", "leave out --first-label")
            label = int(row["label"]) - options.first_label
        pairs.append((row["path"], label))
    root = source.rpartition("/")[0]
    stamps = {} if "://" in root else {path: _stamp(os.path.join(root, path)) for path, _ in pairs if "://" not in path}
    return _listed(source, root, pairs, options, stamps=stamps)


def _listed(
    source: str,
    root: str,
    pairs: Sequence[_Pair],
    options: Options,
    *,
    meaning: str | None = None,
    notes: Iterable[str] = (),
    stamps: Mapping[str, str],
) -> Images:
    """Make shards of (path, label) pairs, with labels that are numbers, ids or names; `stamps` by path where they are known."""
    if not pairs:
        raise EvaluationError(f"{source} lists no images", "give some")
    meaning = options.labels or meaning
    classes = load(meaning) if meaning else None
    texts = sorted({label for _, label in pairs if isinstance(label, str)})
    numbered: list[tuple[str, int]]
    if texts:
        if len(texts) < len({label for _, label in pairs}):
            raise EvaluationError(
                f"{source}: some labels are numbers and others are text", "make them one or the other"
            )
        classes = classes or unlisted(source, texts)
        numbers = {text: number for text in texts if (number := classes.number(text)) is not None}
        if unknown := [text for text in texts if text not in numbers]:
            fix = "correct it, or say what labels mean (--labels)"
            if unknown[0].isdecimal():
                fix = "if labels are numbers, say which the first class has (--first-label 0 or 1)"
            raise EvaluationError(
                f"{source}: {unknown[0]!r}, one of {len(unknown)} labels, is no id or name of a class of {classes.title}",
                fix,
            )
        numbered = [(path, numbers[str(label)]) for path, label in pairs]
    else:
        numbered = [(path, int(label)) for path, label in pairs]
        for path, number in numbered:
            if number < 0 or (classes and number >= len(classes)):
                raise EvaluationError(
                    f"{source}: the label of {path} is class {number}, which there is not", "correct --first-label"
                )
    digest = hashlib.sha256()
    for path, number in numbered:
        digest.update(f"{path}\t{classes.ids[number] if classes else number}\n".encode())
    pieces = [numbered[start : start + options.shard_images] for start in range(0, len(numbered), options.shard_images)]
    shards: list[Shard] = [{"kind": "files", "root": root, "items": piece} for piece in pieces]
    changes = [_digest("\n".join(stamps.get(path, "") for path, _ in piece)) for piece in pieces]
    return Images(source, shards, classes, digest.hexdigest(), len(numbered), list(notes), changes)


# Arrays


def _npz(source: str, options: Options) -> Images:
    import numpy as np

    content = _bytes(source)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except (KeyError, ValueError) as error:
        raise EvaluationError(f"{source}: {error}", "write arrays named images and labels with numpy.savez") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or labels.shape != images.shape[:1]:
        raise EvaluationError(
            f"{source}: images are {images.dtype} {list(images.shape)}, labels {list(labels.shape)}",
            "write uint8 [n, height, width, 3] and [n]",
        )
    if not len(labels) or labels.dtype.kind not in "iu":
        raise EvaluationError(f"{source}: labels are {len(labels)} of {labels.dtype}", "write whole numbers")
    step = options.shard_images
    shards: list[Shard] = [
        {"kind": "npz", "file": source, "start": start, "end": min(start + step, len(labels))}
        for start in range(0, len(labels), step)
    ]
    classes = load(options.labels) if options.labels else None
    digest = hashlib.sha256(content).hexdigest()
    return Images(source, shards, classes, digest, len(labels), stamps=[digest] * len(shards))


# TFRecords


def _tfrecords(source: str, options: Options) -> Images:
    files = _matches(source)
    if not files:
        raise EvaluationError(f"{source}: no file matches", "give a pattern of TFRecord files, quoted")
    classes = load(options.labels) if options.labels else None
    return _sharded_records(source, files, classes, options)


def _sharded_records(source: str, files: list[str], classes: Labels | None, options: Options) -> Images:
    """Cut TFRecord files of this machine into pieces of `shard_images` records; leave others whole, to read nothing of them."""
    digest = hashlib.sha256(json.dumps([options.image_key, options.label_key, options.first_label]).encode())
    shards: list[Shard] = []
    stamps: list[str] = []
    counts: list[int | None] = []
    for file in files:
        stamp = _digest(_stamp(file))
        digest.update(f"{file.rpartition('/')[2]}\t{_size(file)}\n".encode())
        pieces: list[tuple[int, int | None]] = [(0, None)]
        counts.append(None)
        if "://" not in file:
            starts = list(_record_starts(file))
            counts[-1] = len(starts) - 1
            pieces = [
                (starts[first], starts[min(first + options.shard_images, len(starts) - 1)])
                for first in range(0, len(starts) - 1, options.shard_images)
            ]
        for start, end in pieces:
            stamps.append(stamp)
            shards.append(
                {
                    "kind": "tfrecord",
                    "file": file,
                    "start": start,
                    "end": end,
                    "image_key": options.image_key,
                    "label_key": options.label_key,
                    "first_label": options.first_label,
                }
            )
    if not shards:
        raise EvaluationError(f"{source}: the files hold no records", "give others")
    known = [count for count in counts if count is not None]
    count = sum(known) if len(known) == len(files) else None
    return Images(source, shards, classes, digest.hexdigest(), count, stamps=stamps)


def _record_starts(file: str) -> Iterator[int]:
    """Yield where the records of a TFRecord file begin, then its size.

    A record is its length (8 bytes), a checksum (4), its content, another checksum (4).
    """
    size, position = os.path.getsize(file), 0
    with open(file, "rb", buffering=0) as stream:
        while position < size:
            yield position
            stream.seek(position)
            header = stream.read(8)
            position += 16 + (struct.unpack("<Q", header)[0] if len(header) == 8 else size)
            if position > size:
                raise EvaluationError(
                    f"{file} is cut off, compressed, or no TFRecord file", "decompress it, or download it again"
                )
    yield position


def _tfds(source: str, options: Options) -> Images:
    """List a data set that TensorFlow Datasets prepared: TFRecord files beside dataset_info.json and features.json.

    They are read without that package, whose `image` is an encoded image and `label` a number from 0.
    """
    name = source.removeprefix("tfds:")
    folder = _tfds_folder(name)
    try:
        info = json.loads(_text(f"{folder}/dataset_info.json"))
        kinds = json.loads(_text(f"{folder}/features.json"))["featuresDict"]["features"]
        splits = {split["name"]: split for split in info["splits"]}
    except (OSError, ValueError, KeyError) as error:
        raise EvaluationError(
            f"{source}: {folder} is no data set that TensorFlow Datasets 4 prepared ({error!r})",
            "prepare it again, or give the pattern of its TFRecord files with --image-key image --label-key label "
            "--first-label 0",
        ) from error
    keys = {
        what: [key for key, kind in kinds.items() if kind.get("pythonClassName", "").endswith(f".{what}")]
        for what in ("Image", "ClassLabel")
    }
    if any(len(found) != 1 for found in keys.values()) or info.get("fileFormat", "tfrecord") != "tfrecord":
        raise EvaluationError(
            f"{source}: its features are {', '.join(sorted(kinds))}",
            "give TFRecords with one image and one class label",
        )
    split = options.split
    if split is None or split not in splits:
        raise EvaluationError(f"{source} has no split {split!r}", f"choose one of {', '.join(splits)} with --split")
    (image_key,), (label_key,) = keys["Image"], keys["ClassLabel"]
    shards = len(splits[split]["shardLengths"])
    template = splits[split].get("filepathTemplate") or "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    files = []
    for number in range(shards):
        words = {"DATASET": info["name"], "SPLIT": split, "FILEFORMAT": "tfrecord"}
        words["SHARD_X_OF_Y"] = f"{number:05d}-of-{shards:05d}"
        files.append(f"{folder}/" + re.sub(r"{(\w+)}", lambda match, words=words: words[match[1]], template))
    written = f"{folder}/{label_key}.labels.txt"
    classes = unlisted(source, _text(written).splitlines()) if _exists(written) else None
    if options.labels:
        classes = load(options.labels)
    found = Options(
        image_key=image_key, label_key=label_key, first_label=0, split=split, shard_images=options.shard_images
    )
    images = _sharded_records(source, files, classes, found)
    stated = sum(int(length) for length in splits[split]["shardLengths"])
    if images.count not in (None, stated):
        raise EvaluationError(
            f"{source}: its files hold {images.count} images, dataset_info.json says {stated}", "prepare it again"
        )
    return images


def _tfds_folder(name: str) -> str:
    """Return the folder of a data set by name, the newest version that is prepared, or that folder itself."""
    if _exists(f"{name}/dataset_info.json"):
        return name.rstrip("/") if "://" in name else os.path.abspath(name)
    base = os.path.abspath(os.environ.get("TFDS_DATA_DIR") or os.path.expanduser("~/tensorflow_datasets"))
    wanted, _, version = name.partition(":")
    found = [
        folder
        for folder in glob.glob(f"{base}/{wanted}/{version or '*'}")
        if re.fullmatch(r"\d+\.\d+\.\d+", os.path.basename(folder)) and _exists(f"{folder}/dataset_info.json")
    ]
    if not found:
        raise EvaluationError(
            f"tfds:{name}: nothing is prepared in {base}/{wanted}",
            f"run `tfds build {wanted}` (python -m pip install tensorflow-datasets), or name its folder: "
            "tfds:/data/NAME/1.0.0",
        )
    return max(found, key=lambda folder: [int(part) for part in os.path.basename(folder).split(".")])


# Files, here and elsewhere


def _filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it."""
    from tools.common import remote

    try:
        return remote.open_filesystem(url)
    except (ImportError, ValueError) as error:
        raise EvaluationError(
            f"{url}: {error}", "install the fsspec package for it, or give another address"
        ) from error
    except OSError as error:
        reason, fix = remote.explain(error)
        raise EvaluationError(f"{url}: {reason}", fix) from error


def _is_folder(source: str) -> bool:
    if "://" not in source:
        return os.path.isdir(source)
    filesystem, base = _filesystem(source)
    return bool(filesystem.isdir(base))


def _exists(place: str) -> bool:
    if "://" not in place:
        return os.path.exists(place)
    filesystem, base = _filesystem(place)
    return bool(filesystem.exists(base))


def _size(place: str) -> int:
    if "://" not in place:
        return os.path.getsize(place)
    filesystem, base = _filesystem(place)
    return int(filesystem.size(base))


def _stamp(place: str) -> str:
    """Return a text that changes with a file's content, as far as is known without reading it; "" for a file that is not there."""
    if "://" in place:
        filesystem, base = _filesystem(place)
        return _stamp_of_listing(filesystem.info(base))
    try:
        status = os.stat(place)
    except OSError:
        return ""  # whoever reads it says so
    return f"{status.st_size} {status.st_mtime_ns}"


def _stamp_of_listing(entry: Mapping[str, Any]) -> str:
    """Return the entries of a storage's listing that change with an object."""
    keys = ("size", "md5Hash", "generation", "ETag", "etag", "mtime", "updated", "LastModified")
    return " ".join(str(entry.get(key)) for key in keys)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _bytes(place: str) -> bytes:
    if "://" not in place:
        return Path(place).read_bytes()
    filesystem, base = _filesystem(place)
    content: bytes = filesystem.cat_file(base)
    return content


def _text(place: str) -> str:
    return _bytes(place).decode("utf-8-sig")


def _names(source: str) -> Iterator[tuple[str, str]]:
    """Yield the files below a folder, relative to it, with stamps; links are followed, names that begin with a dot left out."""
    if "://" in source:
        filesystem, base = _filesystem(source)
        for name, entry in filesystem.find(base, detail=True).items():
            relative = name[len(base) :].lstrip("/")
            if "/." not in f"/{relative}":
                yield relative, _stamp_of_listing(entry)
        return
    for folder, folders, files in os.walk(source, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = os.path.relpath(folder, source).replace(os.sep, "/")
        for name in files:
            if not name.startswith("."):
                yield name if relative == "." else f"{relative}/{name}", _stamp(os.path.join(folder, name))


def _matches(pattern: str) -> list[str]:
    if "://" not in pattern:
        return sorted(file for file in glob.glob(pattern) if os.path.isfile(file))
    filesystem, base = _filesystem(pattern)
    return sorted(filesystem.unstrip_protocol(name) for name in filesystem.glob(base))
