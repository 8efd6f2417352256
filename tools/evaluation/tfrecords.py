"""TFRecord files of tf.train.Examples, and the data sets that TensorFlow Datasets prepared as such.

    images = find("/data/validation-*", matches("/data/validation-*"), Options(first_label=1))
    images = find_prepared("tfds:/data/NAME/1.0.0", Options(split="test"))

Files of this machine are cut into pieces of `shard_images` records; others are left whole, to read nothing of them.
"""

import glob
import hashlib
import json
import os
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from tools.evaluation import BadImagesError, EvaluationError, UnusableImage
from tools.evaluation.files import exists, facts, is_remote, open_stream, read_small, too_large
from tools.evaluation.labels import Labels, class_number, load, unlisted
from tools.evaluation.shards import Images, Item, Options, RecordsShard, Shard, digest_of

IMAGE_KEY, LABEL_KEY = "image/encoded", "image/class/label"
EXAMPLE_BYTES = 1 << 20  # of a record, beside its image
_DAMAGED = "it is damaged or cut off, or the file is compressed or no TFRecord file"


def find(source: str, files: Mapping[str, tuple[int, str]], options: Options) -> Images:
    """List the images of TFRecord files, given with `facts` of each. Raises EvaluationError."""
    image_key, label_key = options.image_key or IMAGE_KEY, options.label_key or LABEL_KEY
    digest = hashlib.sha256(json.dumps([image_key, label_key, options.first_label]).encode())
    shards: list[Shard] = []
    stamps: list[str] = []
    count: int | None = 0
    for file, (size, stamp) in files.items():
        digest.update(f"{file.rpartition('/')[2]}\t{size}\n".encode("utf-8", "surrogateescape"))
        pieces: list[tuple[int, int | None]] = [(0, None)]
        if is_remote(file):
            count = None
        else:
            starts, records = _starts(file, size, options.shard_images)
            pieces = list(zip(starts, [*starts[1:], size], strict=True))
            count = None if count is None else count + records
        for start, end in pieces:
            stamps.append(digest_of(stamp))
            shards.append(
                {
                    "kind": "tfrecord",
                    "file": file,
                    "start": start,
                    "end": end,
                    "image_key": image_key,
                    "label_key": label_key,
                    "first_label": options.first_label,
                }
            )
    if not shards:
        raise EvaluationError(f"{source}: the files hold no records", "give others")
    classes = load(options.labels) if options.labels else None
    return Images(source, shards, classes, digest.hexdigest(), count, stamps=stamps)


def _starts(file: str, size: int, step: int) -> tuple[list[int], int]:
    """Return where every `step`th record of a TFRecord file begins, and how many there are.

    A record is its length (8 bytes), a checksum (4), its content, another checksum (4).
    """
    starts, records, position = [], 0, 0
    with open_stream(file) as stream:
        while position < size:
            if records % step == 0:
                starts.append(position)
            records += 1
            stream.seek(position)
            header = stream.read(8)
            position += 16 + (struct.unpack("<Q", header)[0] if len(header) == 8 else size)
            if position > size:
                raise EvaluationError(
                    f"{file} is cut off, compressed, or no TFRecord file", "decompress it, or download it again"
                )
    return starts, records


def find_prepared(source: str, options: Options) -> Images:
    """List a data set that TensorFlow Datasets prepared: TFRecord files beside dataset_info.json and features.json.

    They are read without that package, whose `image` is an encoded image and `label` a number from 0. Raises EvaluationError.
    """
    folder = _folder(source.removeprefix("tfds:"))
    try:
        info = json.loads(read_small(f"{folder}/dataset_info.json"))
        features = json.loads(read_small(f"{folder}/features.json"))["featuresDict"]["features"]
        kinds = {str(key): str(kind.get("pythonClassName", "")) for key, kind in features.items()}
        splits = {str(split["name"]): split for split in info["splits"]}
        name, file_format = str(info["name"]), info.get("fileFormat", "tfrecord")
        split = splits.get(options.split or "")
        lengths = [int(length) for length in split["shardLengths"]] if split else []
        template = str((split or {}).get("filepathTemplate") or "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EvaluationError(
            f"{source}: {folder} is no data set that TensorFlow Datasets 4 prepared ({error!r})",
            "prepare it again, or give the pattern of its TFRecord files with --image-key image --label-key label "
            "--first-label 0",
        ) from error
    keys = {what: [key for key, kind in kinds.items() if kind.endswith(f".{what}")] for what in ("Image", "ClassLabel")}
    if any(len(found) != 1 for found in keys.values()) or file_format != "tfrecord":
        raise EvaluationError(
            f"{source}: its features are {', '.join(sorted(kinds))}",
            "give TFRecords with one image and one class label",
        )
    if split is None:
        raise EvaluationError(
            f"{source} has no split {options.split!r}", f"choose one of {', '.join(splits)} with --split"
        )
    (image_key,), (label_key,) = keys["Image"], keys["ClassLabel"]
    files: dict[str, tuple[int, str]] = {}
    for number in range(len(lengths)):
        file = template
        words = {"DATASET": name, "SPLIT": options.split or "", "FILEFORMAT": "tfrecord"}
        for word, text in {**words, "SHARD_X_OF_Y": f"{number:05d}-of-{len(lengths):05d}"}.items():
            file = file.replace(f"{{{word}}}", text)
        if "/" in file:
            raise EvaluationError(f"{source}: its file {file} is outside of {folder}", "prepare it again")
        files[f"{folder}/{file}"] = facts(f"{folder}/{file}")
    found = Options(
        labels=options.labels,
        image_key=image_key,
        label_key=label_key,
        first_label=options.first_label or 0,
        shard_images=options.shard_images,
    )
    images = find(source, files, found)
    if images.count not in (None, sum(lengths)):
        raise EvaluationError(
            f"{source}: its files hold {images.count} images, dataset_info.json says {sum(lengths)}", "prepare it again"
        )
    return _named(images, f"{folder}/{label_key}.labels.txt", options)


def _named(images: Images, file: str, options: Options) -> Images:
    """Return images whose classes have the names in a file, unless an option says what labels mean."""
    if options.labels or options.first_label is not None or not exists(file):
        return images
    classes: Labels = unlisted(images.source, read_small(file).decode("utf-8-sig", "replace").splitlines())
    return Images(images.source, images.shards, classes, images.digest, images.count, stamps=images.stamps)


def _folder(name: str) -> str:
    """Return the folder of a data set by name, the newest version that is prepared, or that folder itself."""
    if exists(f"{name}/dataset_info.json"):
        return name.rstrip("/") if is_remote(name) else os.path.abspath(name)
    base = os.path.abspath(os.environ.get("TFDS_DATA_DIR") or os.path.expanduser("~/tensorflow_datasets"))
    wanted, _, version = name.partition(":")
    found = [
        folder
        for folder in glob.glob(f"{base}/{wanted}/{version or '*'}")
        if re.fullmatch(r"\d+\.\d+\.\d+", os.path.basename(folder)) and exists(f"{folder}/dataset_info.json")
    ]
    if not found:
        raise EvaluationError(
            f"tfds:{name}: nothing is prepared in {base}/{wanted}",
            f"run `tfds build {wanted}` (python -m pip install tensorflow-datasets), or name its folder: "
            "tfds:/data/NAME/1.0.0",
        )
    return max(found, key=lambda folder: [int(part) for part in os.path.basename(folder).split(".")])


# Reading


def items(shard: RecordsShard, classes: Labels, max_bytes: int) -> Iterator[Item]:
    """Yield the images of a shard. Raises BadImagesError: the file is damaged, or has no such features."""
    from tensorflow.core.example import example_pb2

    with open_stream(shard["file"]) as file:
        file.seek(shard["start"])
        while shard["end"] is None or file.tell() < shard["end"]:
            name = f"{shard['file']}: record at byte {file.tell()}"
            content = _record(file, name, max_bytes)
            if content is None:
                return
            if isinstance(content, UnusableImage):
                yield name, 0, content
                continue
            try:
                features = example_pb2.Example.FromString(content).features.feature
            except Exception as error:  # protobuf's implementations raise errors of their own
                raise BadImagesError(
                    f"{name}: it is no tf.train.Example: {error}", "give a file of tf.train.Examples"
                ) from error
            label = _feature(features, shard["label_key"], "label-key", name)
            found = _feature(features, shard["image_key"], "image-key", name)
            if not isinstance(found, bytes):
                raise BadImagesError(
                    f"{name}: {shard['image_key']!r} is a number", "choose the encoded image with --image-key"
                )
            text = label.decode(errors="replace") if isinstance(label, bytes) else label
            number = class_number(text, classes, shard["first_label"], name)
            yield name, number, found if len(found) <= max_bytes else too_large(max_bytes)


def _record(file: BinaryIO, name: str, max_bytes: int) -> bytes | UnusableImage | None:
    """Read the next record of a TFRecord file, None at its end: length (8 bytes), its checksum (4), content, its checksum (4).

    One that is larger than any image may be is not read. Raises BadImagesError: the file is damaged.
    """
    header = file.read(12)
    if not header:
        return None
    if len(header) == 12 and checksum(header[:8]) == struct.unpack("<I", header[8:])[0]:
        length = struct.unpack("<Q", header[:8])[0]
        if length > max_bytes + EXAMPLE_BYTES:
            if length < 1 << 62:
                file.seek(length + 3, os.SEEK_CUR)
                if file.read(1):
                    return too_large(max_bytes)
            raise BadImagesError(f"{name}: {_DAMAGED}", "get the right one")
        content = file.read(length)
        end = file.read(4)
        if len(content) == length and len(end) == 4 and checksum(content) == struct.unpack("<I", end)[0]:
            return content
    raise BadImagesError(f"{name}: {_DAMAGED}", "get the right one")


def checksum(content: bytes) -> int:
    """Return TFRecord's masked CRC-32C."""
    import google_crc32c

    value: int = google_crc32c.value(content)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _feature(features: Any, key: str, option: str, name: str) -> int | bytes:
    """Return the one value of a feature of a tf.train.Example."""
    if key not in features:
        raise BadImagesError(
            f"{name}: it has no {key!r}, only {', '.join(sorted(features)[:20])}", f"choose one with --{option}"
        )
    kind = features[key].WhichOneof("kind")
    values: list[int | bytes] = list(getattr(features[key], kind).value) if kind in ("bytes_list", "int64_list") else []
    if len(values) != 1:
        raise BadImagesError(
            f"{name}: {key!r} holds {len(values)} texts or numbers, not one", f"choose another with --{option}"
        )
    return values[0]
