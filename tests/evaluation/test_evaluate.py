"""`tools/evaluate.py` on real files of the test digits, in every layout; killed and resumed; and as a Beam pipeline that loses a worker."""

import collections
import contextlib
import csv
import dataclasses
import json
import os
import shutil
import signal
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from tests.support import image_sets
from tests.support.commands import ROOT, start_script
from tests.support.hubs import bucket_storage
from tests.support.image_sets import NAMES, encoded, example, masked, record
from tools.evaluation import BadImagesError, EvaluationError, images, labels, modules, running, worker
from tools.evaluation.counts import Totals

CLASSIFIERS = ("convnext_digits", "regnety_digits_classification", "vit_digits_classification")
HANDLE = "hubpress/convnext_digits/1"
TAG = "optical-recognition-of-handwritten-digits"


def command(*arguments, **options):
    return start_script("evaluate", *arguments, **options)


def finished(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


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


@pytest.mark.parametrize("write", image_sets.LAYOUTS, ids=lambda f: f.__name__)
def test_every_layout_gives_the_same_counts(write, digits, module, evaluating, tmp_path):
    """Those of the arrays: what PIL decodes, in whatever order and batches, is the same pixels with the same labels."""
    pixels, answers = (each[:90] for each in digits)
    expected = collections.Counter()
    source = str(ROOT / "modules/quickstart/digits_test.npz")
    arrays = evaluating.evaluate({"kind": "npz", "file": source, "start": 0, "end": 90, "first_label": 0})
    for (true, predicted), count in arrays.modules[0].confusion.items():
        expected[NAMES[true], predicted] += count
    source, options = write(tmp_path, pixels, answers)
    listed = found(source, shard_images=20, **options)
    assert listed.count == 90 and len(listed.digest) == 64
    assert len(listed.shards) == len(listed.stamps) in (5, 6)
    plan = running.make_plan([module], listed, outputs="all")
    totals = Totals()
    for shard in (*listed.shards[::2], *listed.shards[1::2]):  # in any order
        totals.add(evaluating.evaluate(shard))
    mapping, names = plan.mappings[0], module.labels
    got = collections.Counter()
    for (true, predicted), count in totals.modules[0].confusion.items():
        number = true if mapping.columns is None else mapping.columns[true]
        got[names.names[number], predicted] += count
    assert totals.images == 90 and got == expected
    if write is image_sets.class_ids:
        assert "1 files" in listed.notes[0] and listed.left_out == [("0/notes.txt", "no image by its name")]


def test_resumed_after_a_kill(hub, any_url, digits, cache, tmp_path):
    """Several modules in one pass; SIGKILL in the middle; what was stored is kept, the sum is what publishing measured: recorded."""
    copy = tmp_path / "hub"
    shutil.copytree(hub, copy)
    images, _ = image_sets.parquet(tmp_path, *digits)
    arguments = [*(f"{any_url}/hubpress/{name}/1" for name in CLASSIFIERS), "--images", images, "--cache", cache]
    arguments += ["--state", tmp_path / "state", "--shard-images", 8, "--batch", 4]
    process = command(*arguments)
    try:
        wait_for(lambda: len(stored(tmp_path / "state")) >= 2, process)
    finally:
        process.kill()
        process.communicate()
    before = {path: path.stat().st_mtime_ns for path in stored(tmp_path / "state")}
    assert 2 <= len(before) < 46
    recording = ["--record", "--hub", copy, "--dataset", TAG]
    code, out, err = finished(command(*arguments, *recording, "--format", "json", "--out", tmp_path / "out"))
    assert code == 0 and err.count(": recorded") == 3, err
    after = {path: path.stat().st_mtime_ns for path in stored(tmp_path / "state")}
    assert len(after) == 46 and before.items() <= after.items()
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
        assert [row["name"] for row in classes] == NAMES
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
    """Named and refused, while all others are counted; or left out and named, which holds only as long as that is wanted."""
    digits = tmp_path / "digits"
    shutil.copytree(folder, digits)
    cut, postscript, large = sorted((digits / "two").iterdir())[:3]
    cut.write_bytes(cut.read_bytes()[:60])
    postscript.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")
    large.write_bytes(encoded(np.zeros((101, 100, 3), np.uint8)))
    reasons = {
        str(cut): "cannot be decoded: OSError: image file is truncated",
        str(postscript): "cannot be decoded: it is damaged, or none of JPEG, PNG",
        str(large): "it has more than 10,000 pixels (--max-pixels)",
    }
    os.mkfifo(digits / "two/pipe.png")
    # Relative paths are of the folder where the command runs; its processes run in another one.
    arguments = [HANDLE, "--hub", os.path.relpath(hub, tmp_path), "--cache", os.path.relpath(cache, tmp_path)]
    arguments += [
        "--images",
        "digits",
        "--state",
        "state",
        "--shard-images",
        180,
        "--format",
        "json",
        "--max-pixels",
        10_000,
    ]
    code, out, err = finished(command(*arguments, cwd=tmp_path))
    assert (code, out) == (1, "") and all(f"{name}: {why}" in err for name, why in reasons.items()), err
    assert "--skip-broken" in err and "were left out (no regular file): two/pipe.png" in err, err
    assert len(stored(tmp_path / "state")) == 1
    code, out, err = finished(command(*arguments, "--skip-broken", cwd=tmp_path))
    assert code == 0, err
    described = json.loads(out)
    left_out = {each["name"]: each["reason"] for each in described["images"]["left_out"]}
    assert left_out.pop("two/pipe.png") == "no regular file" and left_out.keys() == reasons.keys()
    assert all(left_out[name].startswith(why) for name, why in reasons.items())
    assert (described["images"]["broken"], described["modules"][0]["images"]) == (3, 357)
    plan = running.make_plan([module], found(digits, shard_images=180), max_pixels=10_000)
    for skip, known in ((True, [True, True]), (False, [True, False])):
        state = running.State(str(tmp_path / "state"), plan.key, plan.images.stamps, skip)
        assert sorted(state.read(number) is not None for number in range(2)) == sorted(known)
    touched = min((digits / "nine").iterdir())
    touched.write_bytes(touched.read_bytes() + b"\0")  # only its shard is another one now
    again = found(digits, shard_images=180)
    assert again.digest == plan.images.digest
    assert sum(a != b for a, b in zip(again.stamps, plan.images.stamps, strict=True)) == 1


def test_a_record_above_the_limit_is_not_read(module, evaluating, tmp_path):
    """Neither one of 20 GB nor one whose length is beyond the end of the file."""
    image = record(example(encoded(np.zeros((8, 8, 3), np.uint8)), 1))
    length = struct.pack("<Q", 20 << 30)
    with (tmp_path / "large").open("wb") as file:
        file.write(image + length + masked(length))
        file.seek((20 << 30) + 4, os.SEEK_CUR)
        file.write(image)
    listed = found(tmp_path / "large", first_label=0)
    assert listed.count == 3
    with pytest.raises(BadImagesError, match=rf"record at byte {len(image)}: it has more than 67,108,864 bytes"):
        evaluating.evaluate(listed.shards[0])
    os.truncate(tmp_path / "large", 10 << 30)
    with pytest.raises(BadImagesError, match=r"damaged or cut off"):
        evaluating.evaluate({**listed.shards[0], "end": None})


def test_a_pipeline_that_loses_a_worker(hub, digits, cache, tmp_path):
    """Two processes of Beam's; one is killed in the middle: the counts are those of one machine, no shard is counted twice."""
    (tmp_path / "sets").mkdir()
    image_sets.webdataset(tmp_path / "sets", *digits)
    process = command(
        *(HANDLE, "--hub", os.path.relpath(hub, tmp_path), "--images", "sets/val-{000..002}.tar"),
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


def test_what_is_refused(hub, module, folder, cache):
    """Modules and options that do not fit, before TensorFlow starts."""
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


def test_everything_in_a_bucket(hub, digits, cache, emulator, bucket_service, tmp_path):
    """Module, images and state, reached as hubs are: without a search for credentials, and with few requests."""
    bucket = bucket_storage(bucket_service)
    for file in (hub / HANDLE).parent.glob("1.*"):
        if file.is_file():
            bucket.create(f"{HANDLE.rpartition('/')[0]}/{file.name}", file)
    image_sets.webdataset(tmp_path, *digits)
    for file in tmp_path.glob("*.tar"):
        bucket.create(f"val/{file.name}", file)
    bucket_service.requests.clear()
    code, out, err = finished(
        command(
            *(f"{bucket.url}/{HANDLE}", "--images", f"{bucket.url}/val/*.tar", "--state", f"{bucket.url}/state"),
            *("--cache", cache, "--format", "json"),
            env=os.environ | {"PYTHONPATH": str(ROOT)} | emulator,
        )
    )
    assert code == 0 and err == "", err
    (found,) = json.loads(out)["modules"]
    assert (found["images"], found["top1"]["correct"]) == (360, right_answers(hub)["convnext_digits"])
    assert len(bucket.list("state/")) == 3
    assert len(bucket_service.requests) < 60
