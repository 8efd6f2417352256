"""Sets of images: every layout is found and read without TensorFlow, each image once; what does not fit names what does."""

import collections
import contextlib
import io
import json
import re
import sys
import tarfile
import uuid

import numpy as np
import pytest

from tests.support import image_sets
from tests.support.hubs import BUCKET
from tests.support.image_sets import NAMES, encoded, parquet_of, record, tar_of
from tools.evaluation import (
    MAX_BYTES,
    MAX_PIXELS,
    BadImagesError,
    EvaluationError,
    UnusableImage,
    files,
    images,
    labels,
    worker,
)
from tools.hub.storage import Storage

DIGITS = labels.load("digits")
WITH_TENSORFLOW = (image_sets.tfrecords, image_sets.tfrecords_with_ids, image_sets.tfds)
LAYOUTS = [write for write in image_sets.LAYOUTS if write not in WITH_TENSORFLOW]
ONE = encoded(np.zeros((8, 8, 3), np.uint8))
FEATURES = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["one", "two"]}}


def found(source, **options):
    source = [str(each) for each in source] if isinstance(source, list) else str(source)
    return images.find(source, images.Options(**options))


def read(listed, shards=None, classes=DIGITS, max_bytes=MAX_BYTES):
    """Return (name, name of the class, pixels or why there are none) of each image."""
    classes = listed.classes or classes
    items = [item for shard in shards or listed.shards for item in worker.items(shard, classes, max_bytes)]
    read = [(name, label, worker.decode_ahead(name, content, MAX_PIXELS)) for name, label, content in items]
    names = [DIGITS.names[DIGITS.number(each)] if DIGITS.number(each) is not None else each for each in classes.ids]
    return [(name, names[label], pixels) for name, label, pixels in read]


def counted(listed):
    """Return how often each pair of a class and pixels is there."""
    return collections.Counter((label, pixels.tobytes()) for _, label, pixels in read(listed))


@pytest.mark.parametrize("write", LAYOUTS, ids=lambda f: f.__name__)
def test_each_image_is_in_one_shard(write, digits, tmp_path):
    """Whatever the size of shards; a shard alone, and again after another one, is the same as in a row."""
    pixels, answers = (each[:30] for each in digits)
    right = collections.Counter((NAMES[label], image.tobytes()) for image, label in zip(pixels, answers, strict=True))
    source, options = write(tmp_path, pixels, answers)
    digests = set()
    for step in (1, 7, 30, 1000):
        listed = found(source, shard_images=step, **options)
        assert listed.count == 30 and len(listed.stamps) == len(listed.shards) >= 30 / step
        assert counted(listed) == right
        names = [name for name, _, _ in read(listed)]
        assert len(set(names)) == 30
        digests.add(listed.digest)
        if step == 7:
            first, *_, last = listed.shards
            json_round = json.loads(json.dumps(first))
            assert [n for n, _, _ in read(listed, [last, first, json_round])] == [
                *names[-len(read(listed, [last])) :],
                *names[: len(read(listed, [first]))] * 2,
            ]
    assert len(digests) == 1


@pytest.mark.parametrize("protocol", ["memory", "gs"])
def test_sets_elsewhere(protocol, digits, tmp_path, bucket_service, monkeypatch):
    """The same images and the same digest in a bucket, reached as hubs are; one request for many files."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", bucket_service.url)
    pixels, answers = (each[:30] for each in digits)
    for write in LAYOUTS:
        if write is image_sets.csv_of or (
            protocol == "gs" and write not in (image_sets.class_ids, image_sets.webdataset)
        ):
            continue
        local = tmp_path / f"{protocol}-{write.__name__}"
        local.mkdir()
        source, options = write(local, pixels, answers)
        name = uuid.uuid4().hex
        base = f"gs://{BUCKET}/{name}" if protocol == "gs" else f"memory://{name}/set"
        storage = Storage(base)
        for file in local.rglob("*"):
            if file.is_file():
                content = file.read_bytes().replace(str(local).encode(), base.encode())
                storage.create(file.relative_to(local).as_posix(), content)
        moved = {
            key: value.replace(str(local), base) if isinstance(value, str) else value for key, value in options.items()
        }
        bucket_service.requests.clear()
        there, here = found(str(source).replace(str(local), base), **moved), found(source, **options)
        assert len(bucket_service.requests) < 12
        assert there.count in (30, None) and counted(there) == counted(here), write
        assert there.digest == here.digest or write is image_sets.csv_names or write is image_sets.csv_numbers


def test_imagenets_own_numbers_are_read_from_its_development_kit(tmp_path):
    """They are not in the order of the WordNet ids."""
    import scipy.io

    for number in range(3):
        (tmp_path / f"ILSVRC2012_val_{number + 1:08}.JPEG").write_bytes(b"")
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").write_text("2\n1\n2\n")
    with pytest.raises(EvaluationError, match="put meta"):
        found(tmp_path)
    kind = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)]
    for damaged in (b"x" * 200, b"x" * (2 << 20)):
        (tmp_path / "meta.mat").write_bytes(damaged)
        with pytest.raises(EvaluationError, match=r"meta\.mat (is not the development kit's|has more than)"):
            found(tmp_path)
    synsets = np.array([(1, "n02119789", "kit fox"), (2, "n01440764", "tench")], dtype=kind)
    scipy.io.savemat(tmp_path / "meta.mat", {"synsets": synsets})
    listed = found(tmp_path)
    assert listed.classes.title == "imagenet_1k" and listed.count == 3
    assert [label for _, label in listed.shards[0]["items"]] == [0, listed.classes.number("n02119789"), 0]
    with pytest.raises(EvaluationError, match=r"own numbers, which begin with 1.*leave out --first-label"):
        found(tmp_path, first_label=1)
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
    (tmp_path / "mine.txt").write_text("1\n279\n1\n")  # numbers in the order of the images
    again = found(tmp_path, ground_truth=str(tmp_path / "mine.txt"), first_label=1)
    assert again.digest == listed.digest


@pytest.mark.parametrize(
    ("header", "row", "options"),
    [
        ("path,label", "{},two", {}),
        ("weight,path,label,class", "1,{},two,2", {}),
        ("ImageId,Class", "{},two", {}),
        ("image_id;class_name", "{};two", {}),
        ("File Name\tTarget", "{}\ttwo", {}),
        ("file_name,category", '"{}","two"', {}),
        ("\ufeffImage,Label", "{},two", {}),
        ("x,y", "{},two", {"image_key": "x", "label_key": "y"}),
        ("image,id,label,class", "{},7,two,9", {"image_key": "image"}),
        ("ImageId,PredictionString", "{},n02 1 2 3 4", {"labels": "mine"}),
        ("ImageId,Class", "{},2", {"first_label": 1, "labels": "mine"}),
        ("ImageId,Class", "{},1", {"first_label": 0, "labels": "mine"}),
    ],
)
@pytest.mark.parametrize("with_folder", [True, False], ids=["ground truth", "list"])
def test_columns_are_recognised(header, row, options, with_folder, tmp_path):
    (tmp_path / "set").mkdir()
    for number in range(2):
        (tmp_path / f"set/{number}.png").write_bytes(ONE)
    (tmp_path / "mine.tsv").write_text("n01\tone\nn02\ttwo\n")
    options = {key: str(tmp_path / "mine.tsv") if key == "labels" else value for key, value in options.items()}
    names = ("0", "1") if with_folder and "ImageId" in header else ("0.png", "1.png")
    table = tmp_path / "set/table.csv"
    table.write_text("\n".join([header, *(row.format(name) for name in names)]), encoding="utf-8")
    if with_folder:
        listed = found(tmp_path / "set", ground_truth=str(table), **options)
    elif names[0] == "0.png":
        listed = found(table, **options)
    else:
        return
    numbers = {number for shard in listed.shards for _, number in shard["items"]}
    assert listed.count == 2 and {listed.classes.names[number] for number in numbers} == {"two"}


def write_all(folder):
    """Write sets with one fault each."""
    for name in (
        "empty",
        "flat",
        "mixed/a",
        "twice/a",
        "twice/b",
        "tars",
        "parquets",
        "numbers/000",
        "numbers/001",
        "good/one",
    ):
        (folder / name).mkdir(parents=True)
    for name in ("1.png", "2.png", "flat/1.png", "mixed/a/1.png", "mixed/2.png", "twice/a/1.png", "twice/b/1.png"):
        (folder / name).write_bytes(ONE)
    for name in ("numbers/000/1.png", "numbers/001/1.png", "good/one/1.png"):
        (folder / name).write_bytes(ONE)
    texts = {
        "columns.csv": "a,b\n1.png,one\n",
        "two.csv": "image,file,label\n1.png,2.png,one\n",
        "none.csv": "",
        "lacks.csv": "path,label\n1.png,one\n2.png,\n",
        "again.csv": "path,label\n1.png,one\n./1.png,two\n",
        "numbers.csv": "path,label\n1.png,14\n",
        "number.csv": "path,label\n1.png,1\n",
        "words.csv": "path,label\n1.png,onee\n",
        "outside.csv": "path,label\n../flat/1.png,one\n",
        "absolute.csv": f"path,label\n{folder}/flat/1.png,one\n",
        "device.csv": "path,label\n/dev/zero,one\n",
        "truth.csv": "ImageId,Class\n1,7\n",
        "headless.csv": "1.png,one\n",
        "other.csv": "ImageId,Class\n3,one\n",
        "two.txt": "1.png one\n2.png\n",
        "three.txt": "1.png one two\n",
        "twice.csv": "ImageId,Class\na/1,one\nb/1,two\n",
        "stems.csv": "ImageId,Class\n1,one\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "list").mkdir()
    for name in ("outside.csv", "absolute.csv"):
        (folder / "list" / name).write_text(texts[name])
    (folder / "cut").write_bytes(record(b"12345")[:-3])
    np.savez(folder / "floats.npz", images=np.zeros((2, 8, 8, 3)), labels=np.zeros(2, int))
    np.savez(folder / "names.npz", x=np.zeros((2, 8, 8, 3), np.uint8), y=np.zeros(2, int))
    np.savez(folder / "numbers.npz", images=np.zeros((2, 8, 8, 3), np.uint8), labels=np.ones(2, int))
    tar_of(folder / "tars/plain.tar", [("one/1.jpg", ONE), ("one/2.jpg", ONE)])
    tar_of(folder / "two.tar", [("1.jpg", ONE), ("1.png", ONE), ("1.cls", b"1")])
    tar_of(folder / "json.tar", [("1.png", ONE), ("1.json", b'{"answer": 14, "x": {}}')])
    tar_of(folder / "text.tar", [("1.png", ONE), ("1.txt", b"one")])
    tar_of(folder / "apart.tar", [("1.png", ONE), ("1.cls", b"1"), ("2.png", ONE), ("2.cls", b"1"), ("1.json", b"{}")])
    with tarfile.open(folder / "packed.tgz", "w:gz") as tar:
        tar.add(folder / "flat/1.png", "1.png")
    (folder / "packed.tar").write_bytes((folder / "packed.tgz").read_bytes())
    for name, content in {
        "a.zip": b"PK\3\4",
        "photo.jpg": b"\xff\xd8\xff",
        "a.arrow": b"ARROW1\0\0",
        "a.h5": b"\x89HDF",
    }.items():
        (folder / name).write_bytes(content)
    parquet_of(folder / "columns.parquet", [ONE], [1], features={})
    parquet_of(folder / "text.parquet", ["x.png"], ["one"])
    parquet_of(folder / "parquets/good.parquet", [{"bytes": ONE, "path": ""}], [1], features=FEATURES)
    (folder / "parquets/bad.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    other = {**FEATURES, "label": {"_type": "ClassLabel", "names": ["two", "one"]}}
    parquet_of(folder / "parquets/other.parquet", [{"bytes": ONE, "path": ""}], [1], features=other)


# What is given, what is said of it, and the options (or another source) with which it is read where the message names such.
REFUSALS = [
    ("empty", {}, "holds no images", None),
    ("flat", {}, "say with --ground-truth FILE where the labels are", {"ground_truth": "stems.csv"}),
    ("flat", {"ground_truth": "other.csv"}, "3 is in the list but not in the folder", None),
    ("flat", {"ground_truth": "two.txt"}, r"two\.txt:2: it is not two words", None),
    ("flat", {"ground_truth": "three.txt"}, "its first line is no label and names no columns", None),
    ("flat", {"ground_truth": "headless.csv"}, "it has no columns that may hold the image, among 1.png, one", None),
    ("flat", {"ground_truth": "none.csv"}, "is empty", None),
    ("flat", {"label_key": "x"}, "--label-key is not for a folder without --ground-truth", None),
    (
        "twice",
        {"ground_truth": "stems.csv"},
        "1 may be a/1.png or b/1.png.*write the path",
        {"ground_truth": "twice.csv"},
    ),
    ("mixed", {}, "2.png beside them, which has no label", None),
    ("nothing", {}, "there is no such file or folder", None),
    ("*.none", {}, "no file matches", None),
    ("numbers", {"labels": "digits"}, "say which the first class has .--first-label 0 or 1", {"first_label": 0}),
    ("good", {"first_label": 0}, "'one' is no number. Fix: leave out --first-label", {"first_label": None}),
    ("good", {"ground_truth": "nothing.csv"}, "No such file", None),
    ("tars", {}, r"no images, but \.tar files. Fix: give a pattern", None),
    ("parquets", {}, r"no images, but \.parquet files. Fix: give a pattern", None),
    ("columns.csv", {}, "among a, b. Fix: name it with --image-key COLUMN", {"image_key": "a", "label_key": "b"}),
    ("columns.csv", {"image_key": "a"}, "name it with --label-key COLUMN", {"label_key": "b"}),
    ("columns.csv", {"image_key": "c"}, "no column 'c', among a, b", None),
    ("columns.csv", {"image_key": "a", "label_key": "a"}, "both images and labels", None),
    ("two.csv", {}, "2 columns that may hold the image", {"image_key": "file"}),
    ("none.csv", {}, "among none", None),
    ("lacks.csv", {}, "lacks.csv:3: it lacks a path or a label", None),
    ("again.csv", {}, "again.csv:3: ./1.png is named twice", None),
    ("words.csv", {"labels": "digits"}, "'onee', one of 1 labels, is no id or name of a class of digits", None),
    ("numbers.csv", {"labels": "digits"}, "say which the first class has .--first-label 0 or 1", None),
    ("numbers.csv", {"labels": "digits", "first_label": 1}, "the label of 1.png is class 13", None),
    ("list/outside.csv", {}, "outside of .*--image-root DIR", {"image_root": "."}),
    ("list/absolute.csv", {}, "outside of .*--image-root DIR", {"image_root": "."}),
    ("device.csv", {}, "/dev/zero, one of 1, is outside of", None),
    ("number.csv", {"ground_truth": "truth.csv"}, "--ground-truth is not for a list", {"ground_truth": None}),
    ("cut", {}, "is cut off, compressed, or no TFRecord file", None),
    ("cut", {"image_root": "x"}, "--image-root is not for a TFRecord file", None),
    ("a.zip", {}, "a zip file.*unpack it", None),
    ("photo.jpg", {}, "a single image", None),
    ("a.arrow", {}, "an Arrow file", None),
    ("a.h5", {}, "an HDF5 file", None),
    ("packed.tgz", {}, "compressed with gzip. Fix: decompress it", None),
    ("packed.tar", {}, "is compressed. Fix: decompress it", None),
    ("floats.npz", {}, "write uint8", None),
    ("names.npz", {}, "it has no images, among x.npy, y.npy", None),
    ("numbers.npz", {"max_pixels": 63}, "raise the limit with --max-pixels", {"max_pixels": 64}),
    ("numbers.npz", {"label_key": "y"}, "--label-key is not for an .npz file", None),
    ("tars/plain.tar", {}, "one/1 has no label, only members jpg", None),
    ("two.tar", {}, "1 has 2 images, among jpg, png, cls. Fix: say .*--image-key ENDING", {"image_key": "jpg"}),
    ("two.tar", {"image_key": "gif"}, "1 has no images", {"image_key": "png"}),
    (
        "json.tar",
        {},
        "only members png, json, in .json answer, x. Fix: .*--label-key",
        {"label_key": "answer", "first_label": 13},
    ),
    ("text.tar", {}, "only members png, txt. Fix: name a member.*--label-key", {"label_key": "txt"}),
    ("apart.tar", {}, "the members of 1 do not follow each other", None),
    (
        "columns.parquet",
        {"image_key": "x"},
        "no column 'x', among image, label",
        {"image_key": "image", "first_label": 0},
    ),
    ("text.parquet", {}, "which column holds the image, among image, label", None),
    ("text.parquet", {"image_key": "image"}, "'image' holds string", None),
    ("parquets/bad.parquet", {}, "it is damaged, or no Parquet file", None),
    ("parquets/[go]*.parquet", {}, "its classes are others", None),
    ("{columns.parquet,two.tar}", {}, "the files are of several kinds", None),
    ("{000..200000}.tar", {}, "more than 100,000 files", None),
    ("{0..99}{0..99}{0..99}.tar", {}, "more than 100,000 files", None),
    ("x{1}.tar", {}, "is no pattern", None),
    ("tars/{plain,other}.tar", {}, "other.tar: there is no such file or folder", None),
]


@pytest.fixture(scope="module")
def refused_sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refused")
    write_all(folder)
    return folder


@pytest.mark.parametrize(("source", "options", "said", "mended"), REFUSALS, ids=lambda each: str(each)[:40])
def test_what_is_refused_names_what_mends_it(source, options, said, mended, refused_sets):
    """An option that a message names is one that works there."""

    def placed(options):
        paths = ("ground_truth", "image_root")
        return {key: str(refused_sets / value) if value and key in paths else value for key, value in options.items()}

    with pytest.raises(EvaluationError, match=said) as caught:
        read(found(refused_sets / source, **placed(options)))
    assert ". Fix: " in str(caught.value)
    if mended is not None:
        assert all(
            f"--{key.replace('_', '-')}" in str(caught.value)
            for key in list(mended)[:1]
            if "write the path" not in said
        )
        listed = found(refused_sets / source, **placed(options | mended))
        assert len(read(listed)) == listed.count > 0


def test_what_prepared_data_sets_say(tmp_path):
    with pytest.raises(EvaluationError, match="nothing is prepared"):
        found("tfds:no_such_data_set")
    with pytest.raises(EvaluationError, match="--image-root is not for a prepared data set"):
        found("tfds:no_such_data_set", image_root="x")
    for content in (
        "[]",
        "{}",
        '{"name": 1, "splits": 1}',
        "[" * 100_000,
        '{"splits": [{"name": "test"}], "name": "x"}',
    ):
        (tmp_path / "dataset_info.json").write_text(content)
        (tmp_path / "features.json").write_text('{"featuresDict": {"features": {}}}')
        with pytest.raises(EvaluationError, match="tfds:"):
            found(f"tfds:{tmp_path}", split="test")


def test_patterns(tmp_path):
    for name in ("a-08", "a-09", "a-10", "b-1", "c{d}"):
        (tmp_path / name).write_text("")
    names = lambda pattern: [each.rpartition("/")[2] for each in files.matches(f"{tmp_path}/{pattern}")]  # noqa: E731
    assert names("a-{08..10}") == ["a-08", "a-09", "a-10"]
    assert names("{a-{08,10},b-{1..1}}") == ["a-08", "a-10", "b-1"]
    assert names("{a-0*,b-?}") == ["a-08", "a-09", "b-1"]
    assert names("c{d}") == ["c{d}"]
    assert names("a-[01][08]") == ["a-08", "a-10"]


def test_several_files_are_one_set(digits, tmp_path):
    pixels, answers = (each[:30] for each in digits)
    image_sets.webdataset(tmp_path, pixels, answers)
    together = found([tmp_path / "val-002.tar", tmp_path / "val-{000,001}.tar", tmp_path / "val-000.tar"])
    assert together.count == 30 and counted(together) == counted(found(tmp_path / "val-*.tar"))


@pytest.mark.parametrize("write", [image_sets.webdataset, image_sets.parquet], ids=lambda f: f.__name__)
def test_files_that_vanish_are_named(write, digits, tmp_path):
    source, options = write(tmp_path, *(each[:30] for each in digits))
    listed = found(source, shard_images=5, **options)
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(
        EvaluationError, match=rf"{listed.shards[0]['file']}: cannot be read: .*No such file.*Fix: put it there"
    ):
        read(listed)


def test_the_members_of_a_tar(tmp_path):
    """Every way to write a name is read; what is no sample is left out and named, what is damaged is refused."""
    folder, link, fifo = tarfile.TarInfo("one"), tarfile.TarInfo("link.jpg"), tarfile.TarInfo("fifo.jpg")
    folder.type, link.type, link.linkname, fifo.type = tarfile.DIRTYPE, tarfile.SYMTYPE, "1.jpg", tarfile.FIFOTYPE
    long, latin = "l/" * 200 + "3", "\udce9t\udce9"
    members = [
        (folder, b""),
        (link, b""),
        (fifo, b""),
        (".hidden.jpg", ONE),
        ("README", b"x"),
        ("__pack__.json", b"{}"),
    ]
    for key in ("1", "a.b/2", long, latin):
        members += [(f"{key}.CLS", b" 3\n"), (f"{key}.PNG", ONE)]
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        chosen = [each for each in members if form != tarfile.USTAR_FORMAT or not str(each[0]).startswith("l/")]
        with tarfile.open(tmp_path / "all.tar", "w", format=form, errors="surrogateescape") as tar:
            for name, content in chosen:
                header = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
                header.size, header.mtime = len(content), 1.5  # PAX writes a header for that
                tar.addfile(header, io.BytesIO(content))
        for step in (1, 100):
            listed = found(tmp_path / "all.tar", shard_images=step)
            assert [label for _, label, _ in read(listed)] == ["three"] * len(read(listed))
            assert listed.count == len(read(listed)) == (3 if form == tarfile.USTAR_FORMAT else 4)
        left_out = {name.rpartition(": ")[2]: reason for name, reason in listed.left_out}
        assert left_out.keys() == {"link.jpg", "fifo.jpg", ".hidden.jpg", "README"}
        assert any("link.jpg" in note and "fifo.jpg" in note for note in listed.notes)
    whole = (tmp_path / "all.tar").read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    sparse, huge = tarfile.TarInfo("1.jpg"), tarfile.TarInfo("1.jpg")
    sparse.type, huge.size = tarfile.GNUTYPE_SPARSE, 1 << 63
    pax = tarfile.TarInfo("x")
    pax.type, pax.size = tarfile.XHDTYPE, 1 << 40
    tar_of(tmp_path / "same.tar", [("1.png", ONE), ("1.png", ONE), ("1.cls", b"1")])
    tar_of(tmp_path / "many.tar", [(f"1.{number}", b"") for number in range(100)])
    tar_of(tmp_path / "deep.tar", [("1.png", ONE), ("1.json", b"[" * 100_000)])
    tar_of(tmp_path / "wide.tar", [("1.png", ONE), ("1.cls", bytes(2 << 20))])
    for content, said in {
        whole[: end - 512]: "cut off",
        whole[:end]: "cut off: it has no end",
        whole[:700]: "cut off",
        b"x" * 1024: "damaged or no tar file",
        b"": "cut off",
        sparse.tobuf(): "sparse",
        huge.tobuf(tarfile.GNU_FORMAT): "no size",
        pax.tobuf(tarfile.GNU_FORMAT): "a header has",
        _pax(b"7 path\n"): "extended header",
        _pax(b"9999 path=x\n"): "extended header",
        _pax(b"20 path=x" * 20): "extended header",
        _pax(b"13 size=-100\n"): "no size",
        (tmp_path / "same.tar").read_bytes(): "two members .png",
        (tmp_path / "many.tar").read_bytes(): "more than 64 members",
        (tmp_path / "deep.tar").read_bytes(): "no JSON object",
        (tmp_path / "wide.tar").read_bytes(): "more than 1,048,576 bytes",
    }.items():
        (tmp_path / "bad.tar").write_bytes(content)
        with pytest.raises(EvaluationError, match=said):
            found(tmp_path / "bad.tar")


def _pax(records):
    """A tar that begins with an extended header."""
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    return header.tobuf() + records.ljust(512, b"\0") + tarfile.TarInfo("1.jpg").tobuf()


def test_the_rows_of_a_parquet(tmp_path, monkeypatch):
    def file(images, label, **options):
        parquet_of(tmp_path / "x.parquet", images, label, **options)
        return tmp_path / "x.parquet"

    struct = {"bytes": ONE, "path": None}
    listed = found(file([struct] * 5, [1, 0, 1, 1, 0], features=FEATURES, rows=2), shard_images=2)
    assert listed.classes.names == ("one", "two") and [shard["end"] for shard in listed.shards] == [2, 4, 5]
    assert [label for _, label, _ in read(listed)] == ["two", "one", "two", "two", "one"]
    options = {"labels": "digits"}
    assert [each for _, each, _ in read(found(file([struct], [1], features=FEATURES), **options))] == ["one"]
    assert [each for _, each, _ in read(found(file([struct], [1], features=FEATURES), first_label=1))] == ["zero"]
    for features in (
        None,
        {},
        {"image": 1, "label": []},
        {"label": {"_type": "ClassLabel"}},
        "x",
        {"other": {"_type": "Image"}},
    ):
        listed = found(file([ONE, ONE], [3, 4], features=features), first_label=0)
        assert [each for _, each, _ in read(listed)] == ["three", "four"]
    with pytest.raises(BadImagesError, match=r"labels are numbers.*--first-label 0 or 1"):
        read(found(file([ONE, ONE], [3, 4])))
    with pytest.raises(BadImagesError, match="row 1 has no label"):
        read(found(file([ONE, ONE], [1, None], features=FEATURES)))
    for missing in ({"bytes": None, "path": "/etc/passwd"}, None):
        (_, _, pixels), _ = read(found(file([missing, struct], [1, 1], features=FEATURES)))
        assert isinstance(pixels, UnusableImage) and "no bytes" in str(pixels)
    content = file([struct] * 100, [1] * 100, features=FEATURES, rows=10, compression="none").read_bytes()
    (tmp_path / "x.parquet").write_bytes(content[:50] + bytes(2000) + content[2050:])
    with pytest.raises(EvaluationError, match=r"cannot be read|damaged"):
        read(found(tmp_path / "x.parquet"))
    for name in list(sys.modules):
        if name.partition(".")[0] == "pyarrow":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(EvaluationError, match=r"need pyarrow.*Fix: run `python -m pip install 'pyarrow>=18'`"):
        found(tmp_path / "x.parquet")


def test_folders_and_links(tmp_path):
    """An image is a regular file inside of the folder; --follow-links takes what links lead to, each once."""
    source = tmp_path / "set"
    for name in ("one/1.png", "two/2.png"):
        (source / name).parent.mkdir(parents=True)
        (source / name).write_bytes(ONE)
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    (tmp_path / "elsewhere/3.png").write_bytes(ONE)
    (tmp_path / "elsewhere/deep/4.png").write_bytes(ONE)
    links = {"one/self": ".", "one/up": "..", "one/again.png": "1.png", "one/nowhere.png": "nothing.png"}
    links |= {"a": "two", "three": "../elsewhere", "two/3.png": "../../elsewhere/3.png", "two/null.png": "/dev/null"}
    for name, target in links.items():
        (source / name).symlink_to(target)
    (source / ".hidden.png").write_bytes(ONE)
    (source / "notes.txt").write_bytes(b"")
    listed = found(source)
    names = lambda listed: {name for shard in listed.shards for name, _ in shard["items"]}  # noqa: E731
    assert names(listed) == {"one/1.png", "two/2.png"}
    assert dict(listed.left_out) == dict.fromkeys(links, files.LINK) | {
        ".hidden.png": files.HIDDEN,
        "notes.txt": "no image by its name",
    }
    assert any(".hidden.png" in note for note in listed.notes)
    followed = found(source, follow_links=True)
    assert names(followed) == {"one/1.png", "two/2.png", "three/3.png", "three/deep/4.png"}
    assert dict(followed.left_out) == {
        **dict.fromkeys(["one/self", "one/up", "one/again.png", "a", "two/3.png"], files.AGAIN),
        "one/nowhere.png": "a link that leads nowhere",
        "two/null.png": files.NO_FILE,
        ".hidden.png": files.HIDDEN,
        "notes.txt": "no image by its name",
    }
    assert len(read(followed, classes=DIGITS)) == 4
    (tmp_path / "links").mkdir()
    (tmp_path / "links/two").symlink_to(source / "two")
    with pytest.raises(EvaluationError, match=r"holds no images .*--follow-links"):
        found(tmp_path / "links")
    assert found(tmp_path / "links", follow_links=True).count == 2


def test_links_in_lists(tmp_path):
    """A link that leads out of the folder is no image, whether it is one itself or one of its folders is."""
    (tmp_path / "set/inside").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("elsewhere/1.png", "set/inside/2.png"):
        (tmp_path / name).write_bytes(ONE)
    (tmp_path / "set/out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/out.png").symlink_to(tmp_path / "elsewhere/1.png")
    (tmp_path / "set/in.png").symlink_to("inside/2.png")
    (tmp_path / "set/list.csv").write_text("path,label\nout/1.png,one\nout.png,one\nin.png,one\ninside/2.png,one\n")
    reasons = [
        str(pixels) if isinstance(pixels, UnusableImage) else ""
        for _, _, pixels in read(found(tmp_path / "set/list.csv"))
    ]
    assert [bool(re.search("leads out of .*--follow-links", reason)) for reason in reasons] == [
        True,
        True,
        False,
        False,
    ]
    assert not any(
        isinstance(each, UnusableImage) for _, _, each in read(found(tmp_path / "set/list.csv", follow_links=True))
    )


def test_names_that_are_not_utf8(tmp_path):
    """They are read, and shown with escapes."""
    folder = tmp_path / "\udce9t\udce9"
    folder.mkdir()
    (folder / "\udcff\x1b[31m.png").write_bytes(ONE)
    (folder / "\udcfe.txt").write_bytes(b"")
    (tmp_path / "list.csv").write_bytes(b"path,label\n\xe9t\xe9/\xff\x1b[31m.png,one\n")
    for source in (tmp_path, tmp_path / "list.csv"):
        listed = found(source)
        with contextlib.suppress(KeyError):
            ((_, _, pixels),) = read(listed)
            assert pixels.shape == (8, 8, 3)
        assert all(text.isprintable() and text.encode() for text in (*listed.classes.ids, *listed.notes))
    with pytest.raises(EvaluationError) as caught:
        found(folder / "\udcff\x1b[31m.png")
    assert "\\udcff\\x1b[31m.png is a single image" in str(caught.value)
