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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.evaluation import EvaluationError
from tools.evaluation.labels import Labels, load, own

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2")
GROUND_TRUTHS = (
    "ILSVRC2012_validation_ground_truth.txt",
    "val.txt",
    "imagenet_2012_validation_synset_labels.txt",
    "LOC_val_solution.csv",
)
IMAGENET = "imagenet_1k"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line says of the images: `labels` is what their labels mean, `first_label` the first class's number."""

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
      source: what the command line calls them.
      shards: as `tools.evaluation.worker.items` takes them; labels are numbers of `classes`.
      classes: what the labels mean; None for the outputs of the module, whatever it is.
      digest: the SHA-256 of the list of names and labels, the same wherever the images lie.
      count: how many there are, None if only reading them tells.
      notes: what was left out.
      stamps: of each shard what changes with its files (their sizes and times), as far as the storage tells.
    """

    source: str
    shards: list[dict[str, Any]]
    classes: Labels | None
    digest: str
    count: int | None
    notes: list[str] = field(default_factory=list)
    stamps: list[str] = field(default_factory=list)


def find(source: str, options: Options) -> Images:
    """The images that `source` names. Raises EvaluationError: there are none, or what their labels mean is not certain."""
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
            raise EvaluationError(f"{source}: there is no such file or folder; give the address of the images")
        return _tfrecords(source, options)
    except EvaluationError:
        raise
    except Exception as error:
        if not isinstance(error, OSError | UnicodeDecodeError) and "://" not in source:
            raise
        # Each of fsspec's file systems has errors of its own.
        raise EvaluationError(f"{source}: cannot be read: {error}; give the address of the images") from error


# Folders


def _folder(source: str, options: Options) -> Images:
    found = dict(_names(source))
    names = sorted(found)
    images = [name for name in names if name.lower().endswith(ENDINGS)]
    if not images:
        hint = "; for TFRecords give a pattern, like DIR/validation-*" if names else ""
        raise EvaluationError(f"{source} holds no images (files named {', '.join(ENDINGS[:3])}, ...){hint}")
    truths = [name for name in GROUND_TRUTHS if name in names]
    notes = []
    if left := len(names) - len(images) - len(truths):
        notes.append(f"{left} files of {source} that are no images by their names were left out")
    nested = [name for name in images if "/" in name]
    if nested and not options.ground_truth and not truths:
        if len(nested) < len(images):
            stray = next(name for name in images if "/" not in name)
            raise EvaluationError(
                f"{source} holds class folders, and {stray} beside them, which has no label; move it away"
            )
        pairs = [(name, name.split("/", 1)[0]) for name in images]
        return _listed(source, source, pairs, options, notes=notes, stamps=found)
    if not options.ground_truth and len(truths) != 1:
        what = f"{' and '.join(truths)}" if truths else f"none of {', '.join(GROUND_TRUTHS)}, and no class folders"
        raise EvaluationError(f"{source} holds {what}: say with --ground-truth FILE where the labels are")
    truth = options.ground_truth or f"{source}/{truths[0]}"
    pairs, meaning = _ground_truth(truth, images)
    return _listed(source, source, pairs, options, meaning=meaning, notes=notes, stamps=found)


def _ground_truth(file: str, images: list[str]) -> tuple[list[tuple[str, Any]], str | None]:
    """The (image, label) pairs of a list of ImageNet's validation images, and what its numbers or ids mean.

    The formats, told by the first line: Kaggle's LOC_val_solution.csv (`ImageId,PredictionString`); Caffe's val.txt (a name and a
    number, 0 for the first WordNet id, or an id); one WordNet id for each image in the order of their names; one number
    likewise, ILSVRC2012's own, whose meaning only the meta.mat of its development kit tells.
    """
    lines = [line for line in _text(file).splitlines() if line.strip()]
    if not lines:
        raise EvaluationError(f"{file} is empty; give the labels of the images")
    by_stem = {os.path.splitext(os.path.basename(name))[0]: name for name in images}
    words = lines[0].split()
    if lines[0].startswith("ImageId,"):
        rows = [(row["ImageId"], row["PredictionString"].split()[0]) for row in csv.DictReader(lines)]
        return _joined(file, rows, by_stem), IMAGENET
    if len(words) == 2:
        rows = []
        for number, line in enumerate(lines, 1):
            if len(line.split()) != 2:
                raise EvaluationError(f"{file}:{number}: write the name of an image and its label")
            name, label = line.split()
            rows.append((os.path.splitext(os.path.basename(name))[0], int(label) if label.isdecimal() else label))
        return _joined(file, rows, by_stem), IMAGENET
    if len(words) != 1:
        raise EvaluationError(f"{file}: its first line is no label; give one of {', '.join(GROUND_TRUTHS)}")
    if len(lines) != len(images):
        raise EvaluationError(f"{file} has {len(lines)} labels for {len(images)} images; give the list of these images")
    labels = [line.strip() for line in lines]
    if labels[0].isdecimal():
        ids = _ilsvrc_ids(file)
        try:
            labels = [ids[int(label)] for label in labels]
        except (KeyError, ValueError) as error:
            raise EvaluationError(f"{file}: {error} is none of ILSVRC2012's numbers; give the right list") from error
    return list(zip(images, labels, strict=True)), IMAGENET


def _joined(file: str, rows: list[tuple[str, Any]], by_stem: dict[str, str]) -> list[tuple[str, Any]]:
    labels = dict(rows)
    if len(labels) != len(rows):
        raise EvaluationError(f"{file} names an image twice; each has one label")
    if missing := sorted(set(by_stem) ^ set(labels)):
        where = (
            "is in the folder but not in the list" if missing[0] in by_stem else "is in the list but not in the folder"
        )
        raise EvaluationError(f"{file}: {missing[0]} {where}, one of {len(missing)}; give the list of these images")
    return [(name, labels[stem]) for stem, name in sorted(by_stem.items())]


def _ilsvrc_ids(file: str) -> dict[int, str]:
    """ILSVRC2012's own number -> WordNet id. They are not in the order of the ids, which every published model uses."""
    folder = file.rpartition("/")[0]
    for place in (f"{folder}/meta.mat", f"{folder}/data/meta.mat", f"{folder}/ILSVRC2012_devkit_t12/data/meta.mat"):
        if not _exists(place):
            continue
        try:
            import scipy.io
        except ImportError as error:
            raise EvaluationError(f"{place} is read by scipy: run `python -m pip install scipy`") from error
        synsets = scipy.io.loadmat(io.BytesIO(_bytes(place)), squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    raise EvaluationError(
        f"{file} holds ILSVRC2012's own numbers, which are not in the order of the WordNet ids: put meta.mat of the development "
        "kit beside it, or give a list with WordNet ids (imagenet_2012_validation_synset_labels.txt)"
    )


def _csv(source: str, options: Options) -> Images:
    pairs = []
    reader = csv.DictReader(io.StringIO(_text(source), newline=""))
    if not {"path", "label"} <= set(reader.fieldnames or ()):
        raise EvaluationError(f"{source}:1: it has the columns {reader.fieldnames}; the first line must be path,label")
    for row in reader:
        if not row["path"] or not row["label"]:
            raise EvaluationError(f"{source}:{reader.line_num}: write a path and a label")
        label = row["label"]
        if options.first_label is not None:
            if not label.isdecimal():
                raise EvaluationError(f"{source}:{reader.line_num}: {label!r} is no number; leave out --first-label")
            label = int(label) - options.first_label
        pairs.append((row["path"], label))
    root = source.rpartition("/")[0]
    stamps = {} if "://" in root else {path: _stamp(os.path.join(root, path)) for path, _ in pairs if "://" not in path}
    return _listed(source, root, pairs, options, stamps=stamps)


def _listed(
    source: str,
    root: str,
    pairs: list[tuple[str, Any]],
    options: Options,
    *,
    meaning: str | None = None,
    notes: Iterable[str] = (),
    stamps: dict[str, str],
) -> Images:
    """Images from (path, label) pairs, with labels that are numbers, ids or names; `stamps` by path where they are known."""
    if not pairs:
        raise EvaluationError(f"{source} lists no images; give some")
    classes = load(options.labels or meaning) if options.labels or meaning else None
    texts = sorted({label for _, label in pairs if isinstance(label, str)})
    if texts:
        if len(texts) < len({label for _, label in pairs}):
            raise EvaluationError(f"{source}: some labels are numbers and others are text; make them one or the other")
        classes = classes or own(source, texts)
        numbers = {text: classes.number(text) for text in texts}
        if unknown := [text for text, number in numbers.items() if number is None]:
            numeric = "; if labels are numbers, say which the first class has (--first-label 0 or 1)"
            raise EvaluationError(
                f"{source}: {unknown[0]!r}, one of {len(unknown)} labels, is no id or name of a class of {classes.title}"
                + (numeric if unknown[0].isdecimal() else "; correct it, or say what labels mean (--labels)")
            )
        pairs = [(path, numbers[label]) for path, label in pairs]
    elif wrong := next((p for p in pairs if p[1] < 0 or (classes and p[1] >= len(classes))), None):
        raise EvaluationError(
            f"{source}: the label of {wrong[0]} is class {wrong[1]}, which there is not; see --first-label"
        )
    digest = hashlib.sha256()
    for path, label in pairs:
        digest.update(f"{path}\t{classes.ids[label] if classes else label}\n".encode())
    shards = [
        {"kind": "files", "root": root, "items": [list(pair) for pair in pairs[start : start + options.shard_images]]}
        for start in range(0, len(pairs), options.shard_images)
    ]
    changes = [_digest("\n".join(stamps.get(path, "") for path, _ in shard["items"])) for shard in shards]
    return Images(source, shards, classes, digest.hexdigest(), len(pairs), list(notes), changes)


# Arrays


def _npz(source: str, options: Options) -> Images:
    import numpy as np

    content = _bytes(source)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except (KeyError, ValueError) as error:
        raise EvaluationError(f"{source}: {error}; write arrays named images and labels with numpy.savez") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or labels.shape != images.shape[:1]:
        raise EvaluationError(
            f"{source}: images are {images.dtype} {list(images.shape)}, labels {list(labels.shape)}; write uint8 "
            "[n, height, width, 3] and [n]"
        )
    if not len(labels) or labels.dtype.kind not in "iu":
        raise EvaluationError(f"{source}: labels are {len(labels)} of {labels.dtype}; write whole numbers")
    step = options.shard_images
    shards = [
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
        raise EvaluationError(f"{source}: no file matches; give a pattern of TFRecord files, quoted")
    classes = load(options.labels) if options.labels else None
    return _sharded_records(source, files, classes, options)


def _sharded_records(source: str, files: list[str], classes: Labels | None, options: Options) -> Images:
    """TFRecord files of this machine in pieces of `shard_images` records, others file by file: finding pieces reads them all."""
    digest = hashlib.sha256(json.dumps([options.image_key, options.label_key, options.first_label]).encode())
    shared = {"image_key": options.image_key, "label_key": options.label_key, "first_label": options.first_label}
    shards, stamps, count = [], {}, 0
    for file in files:
        stamps[file] = _digest(_stamp(file))
        digest.update(f"{file.rpartition('/')[2]}\t{_size(file)}\n".encode())
        if "://" in file:
            shards.append({"kind": "tfrecord", "file": file, "start": 0, "end": None, **shared})
            count = None
            continue
        starts = list(_record_starts(file))
        for first in range(0, len(starts) - 1, options.shard_images):
            end = starts[min(first + options.shard_images, len(starts) - 1)]
            shards.append({"kind": "tfrecord", "file": file, "start": starts[first], "end": end, **shared})
        count = None if count is None else count + len(starts) - 1
    if not shards:
        raise EvaluationError(f"{source}: the files hold no records; give others")
    changes = [stamps[shard["file"]] for shard in shards]
    return Images(source, shards, classes, digest.hexdigest(), count, stamps=changes)


def _record_starts(file: str) -> Iterator[int]:
    """Where the records of a TFRecord file begin, and its size; each is its length (8 bytes), a checksum (4), itself, another."""
    size, position = os.path.getsize(file), 0
    with open(file, "rb", buffering=0) as stream:
        while position < size:
            yield position
            stream.seek(position)
            header = stream.read(8)
            position += 16 + (struct.unpack("<Q", header)[0] if len(header) == 8 else size)
            if position > size:
                raise EvaluationError(
                    f"{file} is cut off, compressed, or no TFRecord file; decompress it, or download it again"
                )
    yield position


def _tfds(source: str, options: Options) -> Images:
    """A data set in the folder where TensorFlow Datasets prepared it: TFRecord files beside dataset_info.json and features.json.

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
            f"{source}: {folder} is no data set that TensorFlow Datasets 4 prepared ({error!r}); prepare it again, or give "
            "the pattern of its TFRecord files with --image-key image --label-key label --first-label 0"
        ) from error
    keys = {
        what: [key for key, kind in kinds.items() if kind.get("pythonClassName", "").endswith(f".{what}")]
        for what in ("Image", "ClassLabel")
    }
    if any(len(found) != 1 for found in keys.values()) or info.get("fileFormat", "tfrecord") != "tfrecord":
        raise EvaluationError(
            f"{source}: it must hold TFRecords with one image and one class label, not {sorted(kinds)}"
        )
    split = options.split
    if split not in splits:
        raise EvaluationError(f"{source} has no split {split!r}: choose one of {', '.join(splits)} with --split")
    (image_key,), (label_key,) = keys["Image"], keys["ClassLabel"]
    shards = len(splits[split]["shardLengths"])
    template = splits[split].get("filepathTemplate") or "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    files = []
    for number in range(shards):
        words = {"DATASET": info["name"], "SPLIT": split, "FILEFORMAT": "tfrecord"}
        words["SHARD_X_OF_Y"] = f"{number:05d}-of-{shards:05d}"
        files.append(f"{folder}/" + re.sub(r"{(\w+)}", lambda match, words=words: words[match[1]], template))
    written = f"{folder}/{label_key}.labels.txt"
    classes = own(source, _text(written).splitlines()) if _exists(written) else None
    if options.labels:
        classes = load(options.labels)
    found = Options(
        image_key=image_key, label_key=label_key, first_label=0, split=split, shard_images=options.shard_images
    )
    images = _sharded_records(source, files, classes, found)
    stated = sum(int(length) for length in splits[split]["shardLengths"])
    if images.count not in (None, stated):
        raise EvaluationError(
            f"{source}: its files hold {images.count} images, dataset_info.json says {stated}; prepare it again"
        )
    return images


def _tfds_folder(name: str) -> str:
    """The folder of a data set by name, the newest version that is prepared, or that folder itself."""
    if _exists(f"{name}/dataset_info.json"):
        return name.rstrip("/")
    base = os.environ.get("TFDS_DATA_DIR") or os.path.expanduser("~/tensorflow_datasets")
    wanted, _, version = name.partition(":")
    found = [
        folder
        for folder in glob.glob(f"{base}/{wanted}/{version or '*'}")
        if re.fullmatch(r"\d+\.\d+\.\d+", os.path.basename(folder)) and _exists(f"{folder}/dataset_info.json")
    ]
    if not found:
        raise EvaluationError(
            f"tfds:{name}: nothing is prepared in {base}/{wanted}; run `tfds build {wanted}` (python -m pip install "
            "tensorflow-datasets), or name its folder: tfds:/data/NAME/1.0.0"
        )
    return max(found, key=lambda folder: [int(part) for part in os.path.basename(folder).split(".")])


# Files, here and elsewhere


def _filesystem(url: str):
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise EvaluationError(f"{url}: {error}; install the fsspec package for it, or give another address") from error


def _is_folder(source: str) -> bool:
    if "://" not in source:
        return os.path.isdir(source)
    filesystem, base = _filesystem(source)
    return filesystem.isdir(base)


def _exists(place: str) -> bool:
    if "://" not in place:
        return os.path.exists(place)
    filesystem, base = _filesystem(place)
    return filesystem.exists(base)


def _size(place: str) -> int:
    if "://" not in place:
        return os.path.getsize(place)
    filesystem, base = _filesystem(place)
    return filesystem.size(base)


def _stamp(place: str) -> str:
    """What changes with a file's content, as far as is known without reading it; "" for a file that is not there."""
    if "://" in place:
        filesystem, base = _filesystem(place)
        return _told(filesystem.info(base))
    try:
        about = os.stat(place)
    except OSError:
        return ""  # whoever reads it says so
    return f"{about.st_size} {about.st_mtime_ns}"


def _told(about: dict[str, Any]) -> str:
    """What a storage's listing says of an object that changes with it."""
    keys = ("size", "md5Hash", "generation", "ETag", "etag", "mtime", "updated", "LastModified")
    return " ".join(str(about.get(key)) for key in keys)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _bytes(place: str) -> bytes:
    if "://" not in place:
        return Path(place).read_bytes()
    filesystem, base = _filesystem(place)
    return filesystem.cat_file(base)


def _text(place: str) -> str:
    return _bytes(place).decode("utf-8-sig")


def _names(source: str) -> Iterator[tuple[str, str]]:
    """The files below a folder, relative to it, with stamps; links are followed, and what begins with a dot is left out."""
    if "://" in source:
        filesystem, base = _filesystem(source)
        for name, about in filesystem.find(base, detail=True).items():
            relative = name[len(base) :].lstrip("/")
            if "/." not in f"/{relative}":
                yield relative, _told(about)
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
