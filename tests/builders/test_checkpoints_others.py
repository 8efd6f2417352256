"""Files that are more or less than one checkpoint: indexes of shards, metadata, and what other programs write, each called by its name."""

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
import zipfile

import h5py
import numpy as np
import pytest
import safetensors.numpy

from builders.checkpoints import CheckpointError, read, write
from tests.builders.torch_files import STATE, VALUES, safetensors_file, torch_file, torch_legacy, torch_zip


def refused(path, *words, key=None):
    """Assert that `path` is refused in one line, with each of `words` and a fix."""
    with pytest.raises(CheckpointError) as caught:
        read(path, key)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and ". Fix: " in message and "\n" not in message
    for word in words:
        assert word in message, message


# Shards

ARRAYS = {f"{name}.weight": np.full((2, 3), number, np.float32) for number, name in enumerate("abcd")}
SAFETENSORS = "model-0000{}-of-00002.safetensors"
TORCH = "pytorch_model-0000{}-of-00002.bin"


def index(folder, places, name="model.safetensors.index.json", **others):
    """Write an index as Hugging Face does."""
    path = folder / name
    path.write_text(json.dumps({"metadata": {"total_size": 96}, "weight_map": places} | others, indent=2))
    return path


def sharded(folder, pattern=SAFETENSORS):
    """Write the arrays into two shards; return where the index says that each is."""
    halves = [dict(list(ARRAYS.items())[start : start + 2]) for start in (0, 2)]
    for number, half in enumerate(halves, 1):
        file = folder / pattern.format(number)
        if pattern is SAFETENSORS:
            write(file, half)
        else:
            torch_file(file, half)
    return {name: pattern.format(1 + number) for number, half in enumerate(halves) for name in half}


@pytest.mark.parametrize(("pattern", "container"), [(SAFETENSORS, "safetensors"), (TORCH, "torch")])
def test_an_index_is_read_like_one_file(tmp_path, pattern, container):
    places = sharded(tmp_path, pattern)
    order = dict(sorted(places.items(), key=lambda item: item[0][::-1]))
    checkpoint = read(index(tmp_path, order))
    assert (checkpoint.container, checkpoint.key, checkpoint.metadata) == (container, "", {})
    assert [path.name for path in checkpoint.shards] == list(dict.fromkeys(order.values()))
    assert list(checkpoint.tensors) == list(order)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(checkpoint.tensors[name], array)
        assert not checkpoint.tensors[name].flags.owndata
    checkpoint.check_finite()
    checkpoint.check_intact()
    write(tmp_path / "whole.safetensors", checkpoint.tensors)  # what the refusal to publish an index says
    assert read(tmp_path / "whole.safetensors").shards == ()
    assert safetensors.numpy.load_file(tmp_path / "whole.safetensors").keys() == ARRAYS.keys()


def test_a_key_of_an_index_is_the_beginning_of_names(tmp_path):
    assert list(read(index(tmp_path, sharded(tmp_path)), "a").tensors) == ["weight"]
    refused(index(tmp_path, sharded(tmp_path)), "flat", "'x'", key="x")


def test_a_damaged_shard_is_named(tmp_path):
    path = index(tmp_path, sharded(tmp_path, TORCH))
    shard = tmp_path / TORCH.format(2)
    data = bytearray(shard.read_bytes())
    data[data.index(ARRAYS["d.weight"].tobytes()) + 3] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"{shard}: damaged, the checksum differs: 'archive/data/1'"):
        read(path).check_intact()
    shard.write_bytes(data[:100])
    refused(path, f"its shard '{shard.name}' truncated or damaged")
    write(tmp_path / SAFETENSORS.format(2), {"d.weight": np.array([1, np.nan])})
    with pytest.raises(CheckpointError, match=r"'d.weight'"):
        read(index(tmp_path, {"d.weight": SAFETENSORS.format(2)})).check_finite()


FIRST, SECOND = SAFETENSORS.format(1), SAFETENSORS.format(2)
LIES = {
    "a shard is missing": (lambda p: p | {"e.weight": "model-00003-of-00002.safetensors"}, ["shard 'model-00003", "missing", "all of its 3"]),
    "a tensor is in neither": (lambda p: p | {"e.weight": FIRST}, [FIRST, "do not agree about 'e.weight'"]),
    "a tensor is in another": (lambda p: p | {"a.weight": SECOND}, ["do not agree about 'a.weight'"]),
    "a tensor is not in the index": (lambda p: {k: v for k, v in p.items() if k != "d.weight"}, [SECOND, "do not agree about 'd.weight'"]),
    "nothing": (lambda p: {}, ["holds no tensors"]),
    "a list": (lambda p: list(p), ["without the `weight_map`"]),
    "a number for a file": (lambda p: p | {"a.weight": 3}, ["unsafe file name '3'"]),
    "a file elsewhere": (lambda p: p | {"a.weight": "../x.safetensors"}, ["unsafe file name '../x.safetensors'"]),
    "an absolute path": (lambda p: p | {"a.weight": "/etc/passwd"}, ["unsafe file name"]),
    "a parent": (lambda p: p | {"a.weight": ".."}, ["unsafe file name"]),
    "an empty name": (lambda p: p | {"a.weight": ""}, ["unsafe file name"]),
    "a colon": (lambda p: p | {"a.weight": "c:x"}, ["unsafe file name"]),
    "itself": (lambda p: {"a.weight": "model.safetensors.index.json"}, ["shard 'model.safetensors.index.json' is a JSON file"]),
    "a pipe": (lambda p: {"a.weight": "pipe"}, ["shard 'pipe' is missing"]),
    "a folder": (lambda p: {"a.weight": "folder"}, ["shard 'folder' is missing"]),
    "two containers": (lambda p: p | {"e.weight": "other.npz"}, ["shards of 'npz', 'safetensors'"]),
    "a file with entries": (lambda p: {"a.weight": "training.pth"}, ["shard 'training.pth' is no flat file"]),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_lying_indexes(tmp_path, lie):
    change, words = LIES[lie]
    places = sharded(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    write(tmp_path / "other.npz", {"e.weight": VALUES})
    torch_file(tmp_path / "training.pth", {"model": {"a.weight": VALUES}})
    refused(index(tmp_path, change(places)), *words)


def test_an_index_that_names_a_tensor_twice(tmp_path):
    sharded(tmp_path)
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(f'{{"weight_map": {{"a.weight": "{FIRST}", "a.weight": "{SECOND}"}}}}')
    refused(path, "duplicate entries: 'a.weight'")
    path.write_text('{"weight_map": ' + "[" * 200_000)
    refused(path)
    path.write_text("{" * 100)
    refused(path, "is a JSON file without the `weight_map`")


# Metadata


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_metadata_come_back_and_disturb_nobody(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    write(path, ARRAYS, {"grid": "2x8"})
    assert read(path).metadata == {"grid": "2x8"}
    others = dict(np.load(path)) if suffix == "npz" else safetensors.numpy.load_file(path)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(others[name], array)
    data = path.read_bytes()
    for length in range(len(data)) if suffix == "npz" else ():  # the comment of a zip is at its end
        path.write_bytes(data[:length])
        refused(path)


def test_written_metadata_are_those_of_the_library(tmp_path):
    write(tmp_path / "x.safetensors", ARRAYS, {"grid": "2x8"})
    assert (tmp_path / "x.safetensors").read_bytes() == safetensors.numpy.save(ARRAYS, {"hubpress.grid": "2x8"})


@pytest.mark.parametrize(
    "said", ["0x4", "2x8x1", "2 x 8", "-2x8", "999999x1", "", "٢x٨", 5, None, ["2x8"], {"a": "2x8"}]
)
def test_lying_metadata(tmp_path, said):
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    path = safetensors_file(tmp_path / "x.safetensors", {"__metadata__": {"hubpress.grid": said}, "a": entry}, bytes(8))
    if said is None:
        assert read(path).metadata == {}
    else:
        refused(path, "its metadata has the grid", "which is none")
    for metadata in (3, [], "x", {"format": "pt"}, {"grid": said}):  # what is not ours is not looked at
        safetensors_file(path, {"__metadata__": metadata, "a": entry}, bytes(8))
        assert read(path).metadata == {}


def test_a_comment_of_others_is_none_of_ours(tmp_path):
    for comment, words in ((b"made by hand", None), (b'{"hubpress.grid": 3}', "grid"), (b"{" * 1000, "damaged")):
        np.savez(tmp_path / "x.npz", a=VALUES)
        with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
            archive.comment = comment
        if words is None:
            assert read(tmp_path / "x.npz").metadata == {}
        else:
            refused(tmp_path / "x.npz", words)


# Files of other programs


def tar_of(data):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo("model.pth")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def zip_of(*names):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"x" * 30)
    return stream.getvalue()


def hdf5():
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["kernel"] = VALUES
    return stream.getvalue()


WEIGHTS = b"PK\x03\x04" + bytes(200)
FILES = {
    # name: (bytes, what the message says that it is, what it says to do)
    "x.h5": (hdf5(), "is an HDF5 file, as Keras saves weights", "load it with Keras"),
    "x.keras": (zip_of("metadata.json", "config.json", "model.weights.h5"), "is a model that Keras saved (.keras)", "keras.models.load_model"),
    "x.onnx": (b"\x08\x08\x12\x07pytorch\x1a\x062.13.0:\xfe\x93\x01\n", "looks like an ONNX model", "checkpoint that it was made from"),
    "y.onnx": (b"\x08\x0a:\xfe\x93\x01\n\x20\n\x05input", "looks like an ONNX model", "checkpoint that it was made from"),
    "x.msgpack": (b"\x81\xa6params\x82\xa4head\x82\xa4bias\xc7\x20\x01\x93\x91\x0a\xa7float32", "looks like a msgpack file, as Flax", "numpy.savez('x.npz'"),
    "checkpoint_100": (b"\xde\x00\x03\xa4step\xce\x00\x01\x02\x03\xa6params", "looks like a msgpack file", "flax.serialization.msgpack_restore"),
    "ckpt-1.index": (b"\x00\x00\x04" + bytes(300) + bytes.fromhex("57fb808b247547db"), "is the index of a TensorFlow checkpoint", "tf.train.load_checkpoint"),
    "ckpt-1.data-00000-of-00001": (np.linspace(0, 1, 99, dtype="f4").tobytes(), "is the data of a TensorFlow checkpoint", "tf.train.load_checkpoint"),
    "checkpoint": (b'model_checkpoint_path: "ckpt-1"\n', "is the list of a folder of TensorFlow checkpoints", "tf.train.load_checkpoint"),
    "saved_model.pb": (b"\x08\x01\x12\xa9\x5c\x0a\x9b\x21", "is the graph of a TensorFlow SavedModel", "made from"),
    "frozen.pb": (b"\n)\n\x05input\x12\x0bPlaceholder", "looks like a TensorFlow graph", "made from"),
    "x.tflite": (b"\x1c\0\0\0TFL3\x14\0\x20\0", "is a LiteRT (TensorFlow Lite) model", "made from"),
    "x.gguf": (b"GGUF\x03\0\0\0" + bytes(40), "is a GGUF file", "made from"),
    "openvino.xml": (b'<?xml version="1.0"?>\n<net name="Model0" version="11">', "is an OpenVINO model (.xml)", "made from"),
    "openvino.bin": (np.linspace(0, 1, 99, dtype="f4").tobytes(), "lies beside an .xml file: together they look like an OpenVINO", "made from"),
    "x.mlmodel": (b"\x08\x05\x12\x40\x0a\x10\x0a\x05image", "looks like a Core ML model", "made from"),
    "x.params": (b"\x12\x01" + bytes(14) + b"\x02", "is a parameter file of MXNet", "made from"),
    "x.pt2": (zip_of("x/archive_format", "x/models/model.json", "x/data/weights/weight_0"), "is a program of torch.export", "made from"),
    "x.mar": (zip_of("MAR-INF/MANIFEST.json", "model.pth"), "is an archive of TorchServe", "unpack it"),
    "module.zip": (zip_of("m/saved_model.pb", "m/variables/variables.index"), "is an archive of a TensorFlow SavedModel", "made from"),
    "weights.zip": (zip_of("readme.txt", "weights/model.pth"), "is a zip archive with 'weights/model.pth' in it", "unpack it, and name that file"),
    "x.tar": (tar_of(WEIGHTS), "is a tar archive", "unpack it"),
    "x.pth.gz": (gzip.compress(WEIGHTS), "is compressed with gzip", "decompress it first"),
    "x.tar.bz2": (bz2.compress(WEIGHTS), "is compressed with bzip2", "decompress it first"),
    "x.xz": (lzma.compress(WEIGHTS), "is compressed with xz", "decompress it first"),
    "x.zst": (b"\x28\xb5\x2f\xfd\x04\x00" + bytes(20), "is compressed with zstandard", "decompress it first"),
    "x.7z": (b"7z\xbc\xaf\x27\x1c\x00\x04", "is a 7z archive", "unpack it"),
    "x.rar": (b"Rar!\x1a\x07\x01\x00", "is a RAR archive", "unpack it"),
    "x.npy": (b"\x93NUMPY\x01\x00", "is a single .npy array", "use the .npz"),
    "pointer.safetensors": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "is a Git LFS pointer", "git lfs pull"),
    "page.pth": (b"\xef\xbb\xbf\n <!DOCTYPE html><html>", "looks like a web page", "open the URL"),
    "denied.pth": (b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code>', "looks like a web page", "open the URL"),
    "missing.safetensors": (b"Entry not found", "is a text ('Entry not found')", "compare its sha256"),
    "config.json": (b'{\n  "architectures": ["ViT"]\n}', "is a JSON file without the `weight_map` of an index", "name the file of the weights"),
    "error.safetensors": (b'{"error": {"code": 404}}', "is a JSON file without the `weight_map` of an index", "name the file of the weights"),
    "unknown.bin": (np.linspace(0, 1, 99, dtype="f4").tobytes(), "is no safetensors, torch or npz file", "compare its sha256"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files_of_other_programs_are_called_by_their_names(tmp_path, name):
    """Whatever they are called, where their bytes say it; nothing is called damaged."""
    data, what, fix = FILES[name]
    path = tmp_path / name
    path.write_bytes(data)
    if name == "openvino.bin":
        path.with_suffix(".xml").write_bytes(FILES["openvino.xml"][0])
    refused(path, what, fix)
    told_by_name = (".data-00000-of-00001", ".pb", ".mlmodel", "openvino.bin")
    if not name.endswith(told_by_name):
        renamed = tmp_path / "weights.safetensors"
        path.rename(renamed)
        refused(renamed, what, fix)


def test_what_begins_like_another_file_is_read_for_what_it_is(tmp_path):
    """A header whose length is that of a JSON's first byte; a pickle beside which lies an .xml."""
    text = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    for length in (ord("{"), ord("{") + (ord('"') << 8), ord("<"), 0x81, 0x08):
        padded = text + b" " * (length - len(text))
        if len(padded) == length:
            assert read(safetensors_file(tmp_path / "x.onnx", padded, bytes(8))).container == "safetensors"
    (tmp_path / "pytorch_model.xml").write_text("<net>")
    assert read(torch_legacy(tmp_path / "pytorch_model.bin", STATE)).container == "torch-legacy"
    assert read(torch_zip(tmp_path / "model.pb", STATE)).container == "torch"


FOLDERS = {
    # files inside: (what the message says that it is, what it says to do)
    ("saved_model.pb", "variables/variables.index"): ("is the folder of a TensorFlow SavedModel", "made from"),
    ("checkpoint", "ckpt-1.index", "ckpt-1.data-00000-of-00001"): ("is a folder of TensorFlow checkpoints", "tf.train.load_checkpoint"),
    ("_CHECKPOINT_METADATA", "default/manifest.ocdbt"): ("is the folder of an Orbax checkpoint", "restore it with Orbax"),
    ("_METADATA", "manifest.ocdbt", "d/0"): ("is the folder of an Orbax checkpoint", "flatten_dict"),
    (".metadata", "__0_0.distcp"): ("is the folder of a torch.distributed checkpoint", "dcp_to_torch"),
    ("zero_to_fp32.py", "latest"): ("is the folder of a DeepSpeed checkpoint", "run its zero_to_fp32.py"),
    ("Manifest.json", "Data/com.apple.CoreML/model.mlmodel"): ("is the folder of a Core ML package", "made from"),
    ("config.json", "model.safetensors"): ("is not a file but a folder", "name the checkpoint itself: it has 'model.safetensors'"),
    ("config.json", "model-1.safetensors", "model.safetensors.index.json"): ("is not a file but", "it has 'model.safetensors.index.json'"),
    (): ("is not a file but a folder", "name the checkpoint itself"),
}  # fmt: skip


@pytest.mark.parametrize("files", FOLDERS, ids=lambda files: files[0] if files else "empty")
def test_folders_of_other_programs_are_called_by_their_names(tmp_path, files):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"x")
    refused(tmp_path, *FOLDERS[files])


TENSORFLOW = """
import sys
import keras, tensorflow as tf
folder = sys.argv[1]
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
model.save(f"{folder}/model.keras")
model.save_weights(f"{folder}/model.weights.h5")
model.save(f"{folder}/model.h5")
model.export(f"{folder}/exported", verbose=False)
tf.train.Checkpoint(v=tf.Variable([1.0])).write(f"{folder}/written/ckpt-1")
open(f"{folder}/model.tflite", "wb").write(tf.lite.TFLiteConverter.from_saved_model(f"{folder}/exported").convert())
"""


@pytest.mark.slow
def test_what_tensorflow_and_keras_really_write(tmp_path):
    (tmp_path / "written").mkdir()
    subprocess.run([sys.executable, "-c", TENSORFLOW, tmp_path], check=True, capture_output=True)
    for name, what in {
        "model.keras": "is a model that Keras saved",
        "model.weights.h5": "is an HDF5 file",
        "model.h5": "is an HDF5 file",
        "exported": "is the folder of a TensorFlow SavedModel",
        "exported/saved_model.pb": "is the graph of a TensorFlow SavedModel",
        "exported/variables": "is a folder of TensorFlow checkpoints",
        "exported/variables/variables.index": "is the index of a TensorFlow checkpoint",
        "exported/variables/variables.data-00000-of-00001": "is the data of a TensorFlow checkpoint",
        "written/ckpt-1": "is what the files of a TensorFlow checkpoint are named after",
        "written/ckpt-1.index": "is the index of a TensorFlow checkpoint",
        "model.tflite": "is a LiteRT (TensorFlow Lite) model",
    }.items():
        refused(tmp_path / name, what)
