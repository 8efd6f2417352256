"""Sets of labelled images: the digits written in every layout that `tools.evaluation.images` knows, and the bytes of their formats.

source, options = class_ids(folder, pixels, labels)      # what --images and the options are
"""

import csv
import io
import json
import struct
import tarfile

import PIL.Image

from tools.evaluation.tfrecords import checksum

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def encoded(pixels, kind="PNG", **options):
    stream = io.BytesIO()
    (pixels if isinstance(pixels, PIL.Image.Image) else PIL.Image.fromarray(pixels)).save(stream, kind, **options)
    return stream.getvalue()


def masked(data):
    return struct.pack("<I", checksum(data))


def record(data):
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def example(image, label, image_key="image/encoded", label_key="image/class/label"):
    """A tf.train.Example, by hand: map entries of bytes and of an integer or bytes."""

    def field(number, content):
        return bytes([number << 3 | 2]) + varint(len(content)) + content

    def varint(value):
        return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)

    values = {image_key: field(1, field(1, image))}
    values[label_key] = field(3, field(1, varint(label))) if isinstance(label, int) else field(1, field(1, label))
    return field(1, b"".join(field(1, field(1, key.encode()) + field(2, value)) for key, value in values.items()))


# Layouts: each writes the digits into a folder, and returns what --images and the options are.


def class_ids(folder, pixels, answers):
    for number, (image, label) in enumerate(zip(pixels, answers, strict=True)):
        (folder / str(label)).mkdir(exist_ok=True)
        (folder / str(label) / f"{number}.PNG").write_bytes(encoded(image))
    (folder / "0/notes.txt").write_text("no image")
    return folder, {}


def validation_list(folder, pixels, answers):
    lines = []
    for number, (image, label) in enumerate(zip(pixels, answers, strict=True)):
        (folder / f"val_{number:08}.png").write_bytes(encoded(image))
        lines.append(f"val_{number:08}.png {label}")
    (folder / "val.txt").write_text("\n".join(reversed(lines)))
    return folder, {"labels": "digits"}


def csv_numbers(folder, pixels, answers):
    return csv_of(folder, pixels, [label + 1 for label in answers]), {"first_label": 1}


def csv_names(folder, pixels, answers):
    return csv_of(folder, pixels, [NAMES[label].title() for label in answers]), {}


def csv_of(folder, pixels, texts):
    with (folder / "digits.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["weight", "path", "label"])
        for number, (image, text) in enumerate(zip(pixels, texts, strict=True)):
            (folder / f"{number}.bmp").write_bytes(encoded(image, "BMP"))
            writer.writerow([1, folder / f"{number}.bmp" if number % 2 else f"{number}.bmp", text])
    return folder / "digits.csv"


def tfrecords(folder, pixels, answers):
    for part in range(3):
        chosen = range(part, len(answers), 3)
        data = b"".join(record(example(encoded(pixels[i]), int(answers[i]) + 1)) for i in chosen)
        (folder / f"validation-{part:05}-of-00003").write_bytes(data)
    return folder / "validation-*", {"first_label": 1, "labels": "digits"}


def tfrecords_with_ids(folder, pixels, answers):
    data = b"".join(
        record(example(encoded(image), str(label).encode(), label_key="image/class/synset"))
        for image, label in zip(pixels, answers, strict=True)
    )
    (folder / "all.tfrecord").write_bytes(data)
    return folder / "all.tfrecord", {"label_key": "image/class/synset", "labels": "digits"}


def tfds(folder, pixels, answers):
    """As TensorFlow Datasets 4 writes a prepared data set."""
    data = [record(example(encoded(i), int(k), "image", "label")) for i, k in zip(pixels, answers, strict=True)]
    half = len(data) // 2
    for part, records in enumerate((data[:half], data[half:])):
        (folder / f"digits-test.tfrecord-{part:05}-of-00002").write_bytes(b"".join(records))
    (folder / "label.labels.txt").write_text("\n".join(NAMES) + "\n")
    split = {
        "name": "test",
        "shardLengths": [str(half), str(len(data) - half)],
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    }
    (folder / "dataset_info.json").write_text(
        json.dumps({"name": "digits", "fileFormat": "tfrecord", "splits": [split]})
    )
    kinds = {
        "image": "tensorflow_datasets.core.features.image_feature.Image",
        "label": "tensorflow_datasets.core.features.class_label_feature.ClassLabel",
    }
    features = {key: {"pythonClassName": kind} for key, kind in kinds.items()}
    (folder / "features.json").write_text(json.dumps({"featuresDict": {"features": features}}))
    return f"tfds:{folder}", {"split": "test"}


def tar_of(file, members):
    """Write (name, content) pairs as a tar file; a name may be a TarInfo."""
    with tarfile.open(file, "w") as tar:
        for name, content in members:
            header = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))


def webdataset(folder, pixels, answers):
    """Three shards with .cls, as `webdataset.ShardWriter` writes them: in folders, with metadata, with long names."""
    for part in range(3):
        members = [("__note__", b"{}")]
        for number in range(part, len(answers), 3):
            key = f"val/{'long/' * 30 if number == 7 else ''}{number:06}"
            members.append((f"{key}.png", encoded(pixels[number])))
            members.append((f"{key}.cls", f"{answers[number]}\n".encode()))
            members.append((f"{key}.json", json.dumps({"filename": f"{number}.png", "width": 8}).encode()))
        tar_of(folder / f"val-{part:03}.tar", members)
    return folder / "val-{000..002}.tar", {"labels": "digits"}


def webdataset_json(folder, pixels, answers):
    members = []
    for number, (image, label) in enumerate(zip(pixels, answers, strict=True)):
        members.append((f"{number}.seg.PNG", b"no image"))
        members.append((f"{number}.JPG", encoded(image)))
        members.append((f"{number}.json", json.dumps({"label": NAMES[label], "class_id": 7}).encode()))
    tar_of(folder / "digits.tar", members)
    return folder / "digits.tar", {}


def parquet_of(file, images, labels, *, features=None, rows=100, **options):
    """Write columns `image` and `label` as Hugging Face's `datasets` does, with its description in the schema's metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"image": images, "label": labels})
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, file, row_group_size=rows, **options)


def parquet(folder, pixels, answers):
    """Two files with row groups of other sizes than shards; the names of the classes are in the metadata."""
    features = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}
    half = len(answers) // 2
    for part, chosen in enumerate((range(half), range(half, len(answers)))):
        images = [{"bytes": encoded(pixels[i]), "path": f"{i}.png"} for i in chosen]
        parquet_of(
            folder / f"val-{part:05}-of-00002.parquet",
            images,
            [int(answers[i]) for i in chosen],
            features=features,
            rows=7,
        )
    return folder / "val-*.parquet", {}


def parquet_of_others(folder, pixels, answers):
    """As pandas would write it: no description, bytes alone, texts as labels, one row group."""
    parquet_of(
        folder / "digits.pq", [encoded(image) for image in pixels], [NAMES[label] for label in answers], rows=1000
    )
    return folder / "digits.pq", {}


def class_numbers(folder, pixels, answers):
    """Class folders 000 to 009."""
    for number, (image, label) in enumerate(zip(pixels, answers, strict=True)):
        (folder / f"{label:03}").mkdir(exist_ok=True)
        (folder / f"{label:03}" / f"{number}.png").write_bytes(encoded(image))
    return folder, {"first_label": 0}


def kaggle(folder, pixels, answers):
    """A folder, and a list whose columns have other names than ours."""
    for number, image in enumerate(pixels):
        (folder / f"img_{number:04}.png").write_bytes(encoded(image))
    lines = ["ImageId,Class", *(f"img_{number:04},{label + 1}" for number, label in enumerate(answers))]
    (folder / "truth.csv").write_text("\r\n".join(lines) + "\r\n")
    return folder, {"ground_truth": str(folder / "truth.csv"), "first_label": 1}


LAYOUTS = [
    *(class_ids, class_numbers, validation_list, kaggle, csv_numbers, csv_names),
    *(webdataset, webdataset_json, parquet, parquet_of_others, tfrecords, tfrecords_with_ids, tfds),
]
