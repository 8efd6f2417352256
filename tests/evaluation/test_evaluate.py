"""`tools/evaluate.py` on real files of the test digits, in every layout; killed and resumed; and as a Beam pipeline that loses a worker."""

import collections
import contextlib
import csv
import dataclasses
import io
import json
import os
import shutil
import signal
import struct
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tests.support.commands import ROOT, start_script
from tools.evaluation import BadImagesError, EvaluationError, images, labels, modules, running, worker
from tools.evaluation.counts import Totals, summary, table

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
CLASSIFIERS = ("convnext_digits", "regnety_digits_classification", "vit_digits_classification")
HANDLE = "hubpress/convnext_digits/1"
TAG = "optical-recognition-of-handwritten-digits"


def command(*arguments, **options):
    return start_script("evaluate", *arguments, **options)


def finished(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def encoded(pixels, kind="PNG", **options):
    stream = io.BytesIO()
    (pixels if isinstance(pixels, PIL.Image.Image) else PIL.Image.fromarray(pixels)).save(stream, kind, **options)
    return stream.getvalue()


def right_answers(hub):
    """Return what publishing measured on the same images, with the code of `tools.publishing.check`: {name: correct}."""
    records = {name: json.loads((hub / f"hubpress/{name}/1.json").read_text()) for name in CLASSIFIERS}
    return {name: record["measured"]["top1"]["correct"] for name, record in records.items()}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("evaluations")


@pytest.fixture(scope="module")
def folder(digits, tmp_path_factory):
    """The digits as PNG files in a folder for each class, by its name."""
    folder = tmp_path_factory.mktemp("digits")
    for number, (pixels, label) in enumerate(zip(*digits, strict=True)):
        (folder / NAMES[label]).mkdir(exist_ok=True)
        (folder / NAMES[label] / f"{number:03}.png").write_bytes(encoded(pixels))
    return folder


@pytest.fixture(scope="module")
def module(hub, cache):
    return modules.find(f"{hub}/{HANDLE}", cache=cache)


@pytest.fixture(scope="module")
def evaluating(module, cache):
    """One process with TensorFlow for all layouts: the shards differ, not the modules."""
    plan = running.make_plan([module], found(ROOT / "modules/quickstart/digits_test.npz"))
    with contextlib.closing(running.EvaluationWorker(plan.setup, cache)) as made:
        yield made


def found(source, **options):
    return images.find(str(source), images.Options(**options))


def masked(data):
    return struct.pack("<I", worker._checksum(data))


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


@pytest.mark.parametrize(
    "write",
    [class_ids, validation_list, csv_numbers, csv_names, tfrecords, tfrecords_with_ids, tfds],
    ids=lambda f: f.__name__,
)
def test_every_layout_gives_the_same_counts(write, digits, module, evaluating, tmp_path):
    """Those of the arrays: what PIL decodes, in whatever order and batches, is the same pixels with the same labels."""
    pixels, answers = (each[:90] for each in digits)
    expected = collections.Counter()
    arrays = evaluating.evaluate(
        {"kind": "npz", "file": str(ROOT / "modules/quickstart/digits_test.npz"), "start": 0, "end": 90}
    )
    for (true, predicted), count in arrays.modules[0].confusion.items():
        expected[NAMES[true], predicted] += count
    source, options = write(tmp_path, pixels, answers)
    listed = found(source, shard_images=20, **options)
    assert listed.count == 90 and len(listed.digest) == 64
    assert len(listed.shards) == len(listed.stamps) in (5, 6)
    plan = running.make_plan([module], listed, outputs="all")
    totals = Totals()
    for shard in listed.shards:
        totals.add(evaluating.evaluate(shard))
    mapping, names = plan.mappings[0], module.labels
    got = collections.Counter()
    for (true, predicted), count in totals.modules[0].confusion.items():
        number = true if mapping.columns is None else mapping.columns[true]
        got[names.names[number], predicted] += count
    assert totals.images == 90 and got == expected
    assert write is not class_ids or "1 files" in listed.notes[0]


def test_images_are_decoded_as_pil_converts_them():
    """Grey, palette, transparency and CMYK become RGB; what EXIF says of rotation is left alone; half an image is none."""
    rng = np.random.default_rng(0)
    colours = PIL.Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    kinds = {
        "L": encoded(colours.convert("L")),
        "1": encoded(colours.convert("1")),
        "P": encoded(colours.convert("P")),
        "RGBA": encoded(colours.convert("RGBA")),
        "CMYK": encoded(colours.convert("CMYK"), "JPEG"),
        "16 bits": encoded(PIL.Image.fromarray(rng.integers(0, 65536, (6, 9), dtype=np.uint16))),
        "EXIF": encoded(colours, "JPEG", exif=exif),
    }
    for kind, data in kinds.items():
        pixels = worker._pixels(kind, data)
        assert pixels.shape == (6, 9, 3) and pixels.dtype == np.uint8, kind
        np.testing.assert_array_equal(pixels, np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB")), kind)
    for broken in (kinds["EXIF"][:-200], b"", b"GIF89a", b"no image at all", kinds["L"][:40]):
        assert isinstance(worker._pixels("x", broken), str)
    with pytest.raises(BadImagesError, match=r"^x: cannot be read: .*No such file"):
        worker._pixels("x", lambda: worker._read("/no/such/file"))


def test_ranks_are_exact():
    """Against sorting: the first of equal logits is the larger one; only allowed logits compete; a missing class is never right."""
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 6, (200, 12)).astype(np.float32)  # many are equal
    answers = rng.integers(0, 5, 200)
    cases = [
        (None, None),
        ([3, 11, 0, 7, 5], None),
        ([3, 11, 0, 7, 5], [0, 3, 5, 7, 11]),
        ([-1, 11, 0, -1, 5], [0, 5, 8, 9, 1, 11]),
    ]
    for columns, allowed in cases:
        made = worker.LoadedModule(None, directory="", outputs=12, columns=columns, allowed=allowed)
        predicted, near = made.judge(logits, answers)
        for row, label, one, five in zip(logits, answers, predicted, near, strict=True):
            order = sorted(
                sorted(allowed) if allowed else range(12), key=lambda number, row=row: (-row[number], number)
            )
            target = label if columns is None else columns[label]
            assert (one, five) == (order[0], target in order[:5])


def test_resumed_after_a_kill(hub, any_url, folder, cache, tmp_path):
    """Several modules in one pass; SIGKILL in the middle; what was stored is kept, the sum is what publishing measured: recorded."""
    copy = tmp_path / "hub"
    shutil.copytree(hub, copy)
    arguments = [*(f"{any_url}/hubpress/{name}/1" for name in CLASSIFIERS), "--images", folder, "--cache", cache]
    arguments += ["--state", tmp_path / "state", "--shard-images", 8, "--batch", 4]
    process = command(*arguments)
    try:
        wait_for(lambda: len(stored(tmp_path / "state")) >= 2, process)
    finally:
        process.kill()
        process.communicate()
    before = {path: path.stat().st_mtime_ns for path in stored(tmp_path / "state")}
    assert 2 <= len(before) < 45
    recording = ["--record", "--hub", copy, "--dataset", TAG]
    code, out, err = finished(command(*arguments, *recording, "--format", "json", "--out", tmp_path / "out"))
    assert code == 0 and err.count(": recorded") == 3, err
    after = {path: path.stat().st_mtime_ns for path in stored(tmp_path / "state")}
    assert len(after) == 45 and before.items() <= after.items()
    described = json.loads(out)
    right = right_answers(hub)
    assert {each["handle"].split("/")[1]: each["top1"]["correct"] for each in described["modules"]} == right
    assert (
        described["images"]["evaluated"] == 360
        and json.loads((tmp_path / "out/evaluation.json").read_text()) == described
    )
    for each in described["modules"]:
        classes = read_table(tmp_path / "out" / f"{each['handle'].replace('/', '-')}.classes.csv")
        pairs = read_table(tmp_path / "out" / f"{each['handle'].replace('/', '-')}.confusion.csv")
        assert [row["name"] for row in classes] == sorted(NAMES)
        assert sum(int(row["images"]) for row in classes) == sum(int(row["images"]) for row in pairs) == 360
        assert sum(int(row["top1"]) for row in classes) == each["top1"]["correct"]
        assert sum(int(row["top5"]) for row in classes) == each["top5"]["correct"] >= each["top1"]["correct"]
        assert (
            sum(int(row["images"]) for row in pairs if row["true"] == row["predicted_name"]) == each["top1"]["correct"]
        )
        stated = json.loads((copy / f"{each['handle']}.note-1.json").read_text())
        assert (stated["handle"], stated["action"]) == (each["handle"], "evaluation")
        assert stated["measurement"] == {
            "dataset": TAG,
            "split": "test",
            "images": 360,
            "top1": each["top1"],
            "top5": each["top5"],
            "versions": worker.versions(),
            "list_sha256": described["images"]["list_sha256"],
        }
    code, out, err = finished(command(*arguments, *recording))  # complete, and recorded: nothing is left to do
    assert (
        code == 0 and err.count("the same is recorded already") == 3 and f"{right['vit_digits_classification']}" in out
    ), err
    assert len(list(copy.glob("**/*.note-*"))) == 3


def stored(state):
    return sorted(state.glob("*/shard-*.json"))


def wait_for(holds, process):
    while not holds():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def read_table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_broken_images(hub, module, folder, cache, tmp_path):
    """Named and refused, while all others are counted; or counted as broken, which holds only as long as that is wanted."""
    digits = tmp_path / "digits"
    shutil.copytree(folder, digits)
    broken = min((digits / "two").iterdir())
    broken.write_bytes(broken.read_bytes()[:60])
    # Relative paths are of the folder where the command runs; its processes run in another one.
    arguments = [HANDLE, "--hub", os.path.relpath(hub, tmp_path), "--cache", os.path.relpath(cache, tmp_path)]
    arguments += ["--images", "digits", "--state", "state", "--shard-images", 180, "--format", "json"]
    code, out, err = finished(command(*arguments, cwd=tmp_path))
    assert (code, out) == (1, "") and f"{broken}: cannot be decoded: " in err and "--skip-broken" in err, err
    assert len(stored(tmp_path / "state")) == 1
    code, out, err = finished(command(*arguments, "--skip-broken", cwd=tmp_path))
    assert code == 0, err
    described = json.loads(out)
    assert described["images"]["broken_names"] == [str(broken)]
    assert (described["images"]["broken"], described["modules"][0]["images"]) == (1, 359)
    plan = running.make_plan([module], found(digits, shard_images=180))
    for skip, known in ((True, [True, True]), (False, [True, False])):
        state = running.State(str(tmp_path / "state"), plan.key, plan.images.stamps, skip)
        assert sorted(state.read(number) is not None for number in range(2)) == sorted(known)
    touched = min((digits / "nine").iterdir())
    touched.write_bytes(touched.read_bytes() + b"\0")  # only its shard is another one now
    again = found(digits, shard_images=180)
    assert again.digest == plan.images.digest
    assert sum(a != b for a, b in zip(again.stamps, plan.images.stamps, strict=True)) == 1


def test_a_pipeline_that_loses_a_worker(hub, folder, cache, tmp_path):
    """Two processes of Beam's; one is killed in the middle: the counts are those of one machine, no shard is counted twice."""
    process = command(
        *(HANDLE, "--hub", os.path.relpath(hub, tmp_path), "--images", os.path.relpath(folder, tmp_path)),
        *("--cache", os.path.relpath(cache, tmp_path), "--state", "state", "--format", "json"),
        *("--batch", 1, "--shard-images", 4, "--threads", 1),
        *("--runner", "DirectRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2"),
        cwd=tmp_path,
    )
    try:
        wait_for(lambda: workers(process.pid) and stored(tmp_path / "state"), process)
        killed = workers(process.pid)[0]
        os.kill(killed, signal.SIGKILL)
        left = 90 - len(stored(tmp_path / "state"))
        code, out, err = finished(process)
    finally:
        process.kill()
    assert code == 0, err
    assert left > 0 and err.count("the pipeline failed") == 1, err
    (found,) = json.loads(out)["modules"]
    assert (found["images"], found["top1"]["correct"]) == (360, right_answers(hub)["convnext_digits"])
    assert len(stored(tmp_path / "state")) == 90
    assert not workers(process.pid)


def workers(ancestor):
    """The worker processes of Beam below a process."""
    parents, lines = {}, {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
            lines[int(status.parent.name)] = (status.parent / "cmdline").read_bytes().split(b"\0")
    below, grown = {ancestor}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in below} - below
        below |= more
        grown = bool(more)
    return sorted(pid for pid in below if b"apache_beam.runners.worker.sdk_worker_main" in lines.get(pid, ()))


# Labels


def test_labels_are_matched_by_id_or_refused():
    one, many = labels.load("imagenet_1k"), labels.load("imagenet_21k")
    assert (len(one), len(many)) == (1000, 21841)
    assert labels.match(one, one) == labels.ClassMapping()
    with pytest.raises(
        EvaluationError, match=r"1 of the 1000 classes of imagenet_1k are none of imagenet_21k: n04399382\. Fix: "
    ):
        labels.match(one, many, outputs="data")
    mapping = labels.match(one, many, outputs="data", missing="wrong")
    assert len(mapping.allowed) == 999 and mapping.columns.count(-1) == 1
    for number in (0, 65, 999):
        assert many.ids[mapping.columns[number]] == one.ids[number]
    some = labels.unlisted("flowers", ["n11939491", "n12057211"])  # daisy, yellow lady's slipper
    with pytest.raises(EvaluationError, match=r"2 of the 1000 classes of imagenet_1k\. Fix: say which outputs compete"):
        labels.match(some, one)
    assert labels.match(some, one, outputs="all") == labels.ClassMapping((985, 986), None)
    assert labels.match(some, one, outputs="data") == labels.ClassMapping((985, 986), (985, 986))
    with pytest.raises(EvaluationError, match=r"1000 of the 1000 classes .* none of digits"):
        labels.match(one, labels.load("digits"), missing="wrong")
    assert one.number("Tiger_cat") == one.number("n02123159") == 282
    with pytest.raises(EvaluationError, match="'crane' is the name of n02012849 and n03126707"):
        one.number("crane")
    with pytest.raises(EvaluationError, match="two classes of x mean 'tench'"):
        labels.match(labels.unlisted("x", ["tench", "n01440764"]), one)
    with pytest.raises(EvaluationError, match=r"there are no labels 'x'\. Fix: give one of digits, imagenet_1k"):
        labels.load("x")


def test_imagenets_own_numbers_are_read_from_its_development_kit(tmp_path):
    """They are not in the order of the WordNet ids."""
    import scipy.io

    for number in range(3):
        (tmp_path / f"ILSVRC2012_val_{number + 1:08}.JPEG").write_bytes(b"")
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").write_text("2\n1\n2\n")
    with pytest.raises(EvaluationError, match="put meta"):
        found(tmp_path)
    kind = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)]
    synsets = np.array([(1, "n02119789", "kit fox"), (2, "n01440764", "tench")], dtype=kind)
    scipy.io.savemat(tmp_path / "meta.mat", {"synsets": synsets})
    listed = found(tmp_path)
    assert listed.classes.title == "imagenet_1k" and listed.count == 3
    assert [label for _, label in listed.shards[0]["items"]] == [0, listed.classes.number("n02119789"), 0]
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").unlink()
    for name, lines in {
        "imagenet_2012_validation_synset_labels.txt": ["n01440764", "n02119789", "n01440764"],
        "val.txt": [f"ILSVRC2012_val_0000000{i}.JPEG {k}" for i, k in ((3, 0), (1, 0), (2, 278))],
        "LOC_val_solution.csv": [
            "ImageId,PredictionString",
            "ILSVRC2012_val_00000002,n02119789 1 2 3 4",
            "ILSVRC2012_val_00000001,n01440764 1 2 3 4 n01440764 5 6 7 8",
            "ILSVRC2012_val_00000003,n01440764 1 2 3 4",
        ],
    }.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        again = found(tmp_path)
        assert (again.shards, again.digest) == (listed.shards, listed.digest), name
        (tmp_path / name).unlink()


def test_what_is_refused(hub, module, folder, cache, tmp_path):
    """Each with its reason and what to do, before TensorFlow starts."""
    write = tmp_path.joinpath
    (write("empty")).mkdir()
    (write("flat")).mkdir()
    (write("flat/1.png")).write_bytes(b"")
    (write("mixed/a")).mkdir(parents=True)
    (write("mixed/a/1.png")).write_bytes(b"")
    (write("mixed/2.png")).write_bytes(b"")
    (write("header.csv")).write_text("file,label\n1.png,one\n")
    (write("numbers.csv")).write_text("path,label\n1.png,14\n")
    (write("words.csv")).write_text("path,label\n1.png,onee\n")
    (write("cut")).write_bytes(record(b"12345")[:-3])
    np.savez(write("floats.npz"), images=np.zeros((2, 8, 8, 3)), labels=np.zeros(2, int))
    cases = {
        ("empty",): "holds no images",
        ("flat",): "say with --ground-truth FILE where the labels are",
        ("mixed",): "2.png beside them, which has no label",
        ("nothing",): "there is no such file or folder",
        ("header.csv",): "the first line must be path,label",
        ("words.csv", ("labels", "digits")): "'onee', one of 1 labels, is no id or name of a class of digits",
        ("numbers.csv", ("labels", "digits")): "say which the first class has",
        ("numbers.csv", ("labels", "digits"), ("first_label", 1)): "the label of 1.png is class 13",
        ("cut",): "is cut off, compressed, or no TFRecord file",
        ("floats.npz",): "write uint8",
        ("*.none",): "no file matches",
    }
    for (name, *options), said in cases.items():
        with pytest.raises(EvaluationError, match=said):
            found(tmp_path / name, **dict(options))
    with pytest.raises(EvaluationError, match="nothing is prepared"):
        found("tfds:no_such_data_set")
    with pytest.raises(EvaluationError, match=r"answers no classes\. Fix: evaluate hubpress/convnext_digits/1"):
        modules.find(f"{hub}/hubpress/convnext_digits_fe/1", cache=cache)
    with pytest.raises(EvaluationError, match="give a handle with its version"):
        modules.find(f"{hub}/hubpress/convnext_digits", cache=cache)
    with pytest.raises(EvaluationError, match="classes of imagenet_1k are none of digits"):
        running.make_plan([module], listed_as(folder, "imagenet_1k"))
    commands = {
        ("--unknown=1",): "there is no --unknown=1. Fix: see --help; options of Apache Beam go with --runner",
        ("--record", "--hub", hub): "--dataset TAG",
        ("--record", "--hub", hub, "--dataset", "digits"): "is no id of modules/tags/dataset.yaml",
        ("--record", "--hub", hub, "--dataset", TAG, "--skip-broken"): "a record needs every image",
        ("--runner", "DataflowRunner"): "give --state, --images, the module hubpress/convnext_digits/1 as a URL",
    }
    for extra, said in commands.items():
        code, out, err = finished(command(f"{hub}/{HANDLE}", "--images", folder, "--cache", cache, *extra))
        assert (code, out) == (2, "") and said in err and "Traceback" not in err, err


def listed_as(folder, title):
    """The list of a folder whose labels are said to be of another set."""
    listed = found(folder)
    return dataclasses.replace(listed, classes=labels.load(title))


def test_counts_add_up_in_any_order():
    stated = [
        {
            **{"shards": 1, "images": 3, "broken": number, "broken_names": [f"{number}"][:number], "seconds": 1.0},
            "modules": [{"seconds": 0.5, "confusion": [[0, 0, 2], [1, number, 1]], "top5": [[0, 2], [1, number]]}],
            **{"versions": [{"numpy": "2"}], "devices": ["CPU"], "problems": []},
        }
        for number in (0, 1, 2)
    ]
    sums = []
    for order in ((0, 1, 2), (2, 0, 1)):
        totals = Totals()
        for number in order:
            totals.add(Totals.read(json.loads(json.dumps(stated[number]))))
        sums.append(totals.described())
    assert sums[0] == sums[1] and (sums[0]["shards"], sums[0]["images"], sums[0]["broken"]) == (3, 9, 3)
    names = labels.unlisted("x", ["a", "b", "c"])
    found = summary(Totals.read(sums[0]).modules[0], 9, names, None, names)
    assert found["top1"] == {"value": 77.78, "correct": 7} and found["top5"] == {"value": 100.0, "correct": 9}
    assert table(found["confusion"]).decode().splitlines()[1:] == ["a,a,a,a,6", "b,b,a,a,1", "b,b,b,b,1", "b,b,c,c,1"]
    stated[0]["images"] = 4
    with pytest.raises(EvaluationError, match="contradict"):
        Totals.read(stated[0])
