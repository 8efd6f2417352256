"""RegNetY: the battery, its traps one by one, and its exported module with and without oneDNN."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import builders
from builders import checkpoints, export, layers, regnety
from tests.builders.battery import (
    CATALOG,
    CLASSES,
    Battery,
    Family,
    ReferenceBattery,
    References,
    assert_refused,
    described,
    images,
    rewrite,
    row_arguments,
)

pytestmark = pytest.mark.slow

LINE = {"group_size": 8, "w0": 8, "wa": 14.0, "wm": 2.0, "depth": 5}  # widths 8, 16, 32, 64; depths 1, 1, 1, 2
NO_LINE = dict.fromkeys(("w0", "wa", "wm", "depth"))
CONVOLUTIONS = 1 + 3 * 5 + 4  # stem, three a block, a projection a stage
ROWS = {v.stem: v for v in CATALOG.variants if v.family == "regnety"}
REPORTED = [stem for stem, row in ROWS.items() if row.parameters]
SMALL = Family(
    "regnety",
    architecture=LINE,
    formats={"pycls": {}, "timm": {}, "torchvision": {}, "transformers": {}},
    others={"deeper": ({"depth": 6}, r"missing \((.|\n)*misshaped \(\d")},
    sizes={(32, 32): (1, 1), (33, 40): (2, 2), (75, 91): (3, 3), (1, 1): (1, 1)},  # odd sizes round up
    maps={"stride_4": 16, "stride_8": 8, "stride_16": 4, "stride_32": 2},
    blocks=5,
    inner="s2.b1.b",
    shifts={"se.reduce/bias": 1.0},  # or squeezed channels are dead
    refused_arguments={
        "rounding": ({"rounding": "nearest"}, "unknown rounding 'nearest'. Fix: use pycls or torchvision"),
        "falling": ({"wm": 1.0}, "wa=14.0 and wm=1.0 make no line that rises. Fix: use wa above 0"),
        "no width": ({"w0": 0}, "w0=0 is not possible. Fix: use whole numbers from 1"),
        "no depth": ({"depth": None}, "depth missing. Fix: pass w0, wa, wm and depth, or widths"),
        "line and stages": (
            {"widths": (8, 16, 32, 64), "depths": (1, 1, 2, 1)},
            "are not on the line, whose stages are",
        ),
        "three stages": (NO_LINE | {"widths": (8, 16, 32), "depths": (1, 1, 1)}, "are not four stages"),
        "groups": (
            NO_LINE | {"widths": (8, 16, 36, 64), "depths": (1, 1, 1, 2)},
            "groups of 8 channels do not divide a width of 36",
        ),
        "two stages": ({"w0": 48, "wa": 10.0, "depth": 4}, "make 2 stages, RegNetY has 4. Fix: correct"),
    },
)


class TestSmall(Battery):
    family = SMALL


class TestReferences(ReferenceBattery):
    references = References(
        "regnety",
        limits={"logits": 2e-6, "features": 2e-6, "train": 2e-5},
        listings={
            "regnety_200mf.pycls": row_arguments("regnety200mf"),
            "regnety_200mf.timm": row_arguments("regnety200mf"),
            "regnety_400mf.torchvision": row_arguments("regnety400mf_tv1"),
            "regnety_800mf.torchvision": row_arguments("regnety800mf_tv2"),
        },
    )


@pytest.fixture
def model():
    return SMALL.model()


# Architecture


STAGES = {  # widths and depths as pycls prints them
    "200mf": ([24, 56, 152, 368], [1, 1, 4, 7]),
    "400mf": ([48, 104, 208, 440], [1, 3, 6, 6]),
    "600mf": ([48, 112, 256, 608], [1, 3, 7, 4]),
    "800mf": ([64, 128, 320, 768], [1, 3, 8, 2]),
    "1_6gf": ([48, 120, 336, 888], [2, 6, 17, 2]),
    "3_2gf": ([72, 216, 576, 1512], [2, 5, 13, 1]),
    "4_0gf": ([128, 192, 512, 1088], [2, 6, 12, 2]),
    "6_4gf": ([144, 288, 576, 1296], [2, 7, 14, 2]),
    "8_0gf": ([168, 448, 896, 2016], [2, 4, 10, 1]),
    "12gf": ([224, 448, 896, 2240], [2, 5, 11, 1]),
    "16gf": ([224, 448, 1232, 3024], [2, 4, 11, 1]),
    "32gf": ([232, 696, 1392, 3712], [2, 5, 12, 1]),
    "800mf_tv": ([64, 144, 320, 784], [1, 3, 8, 2]),  # torchvision's rounding
    "8gf": ([224, 448, 896, 2016], [2, 4, 10, 1]),
}


@pytest.mark.parametrize("size", STAGES)
def test_stages(size):
    architecture = next(row.architecture for row in ROWS.values() if row.size == size)
    widths, depths, groups = zip(*regnety.stages(**architecture), strict=True)
    assert (list(widths), list(depths)) == STAGES[size]
    assert all(width % group == 0 for width, group in zip(widths, groups, strict=True))


def test_widths_and_depths_of_stages_are_the_same_network_as_their_line():
    line = SMALL.model()
    stages = builders.create("regnety", widths=(8, 16, 32, 64), depths=(1, 1, 1, 2), group_size=8, num_classes=CLASSES)
    assert [w.path for w in stages.variables] == [w.path for w in line.variables]
    stages.set_weights(line.get_weights())
    x = images(1, 64, 64, 3)
    np.testing.assert_array_equal(stages(x), line(x))


def test_every_size_is_tested():
    assert set(STAGES) == {row.size for row in ROWS.values()} - {"digits"}


def test_rounding_matters_at_three_sizes_only():
    differ = []
    for size in set(STAGES) - {"800mf_tv", "8gf"}:
        line = next(row.architecture for row in ROWS.values() if row.size == size)
        if regnety.stages(**line) != regnety.stages(**line, rounding="torchvision"):
            differ.append(size)
    assert sorted(differ) == ["4_0gf", "800mf", "8_0gf"]


def test_rows():
    assert len(REPORTED) == 26
    assert {row.pixel_range for row in ROWS.values()} == {(0.0, 255.0)}
    assert ROWS["regnety1_6gf"].names == {
        "classifier": "regnety1_6gf_classification",
        "feature_extractor": "regnety1_6gf_feature_extractor",
    }
    for stem in REPORTED:
        row = ROWS[stem]
        recipe = stem.partition("_tv")[2]
        expected = {
            "": ("pycls", "mit", "pycls_224", ".pyth"),
            "1": ("torchvision", "bsd-3-clause", "torchvision_v1_224", ".pth"),
            "2": ("torchvision", "bsd-3-clause", "torchvision_v2_224", ".pth"),
        }[recipe]
        assert (row.format, row.licence, row.transform, Path(row.checkpoint).suffix) == expected


def test_squeeze_follows_the_input_width():
    model = builders.create("regnety", **ROWS["regnety200mf"].architecture)
    first = [model.get_layer(f"s{stage}.b1.se.reduce").units for stage in (1, 2, 3, 4)]
    last = [model.get_layer(f"s{stage}.b{block}.se.reduce").units for stage, block in ((3, 4), (4, 7))]
    assert first == [8, 6, 14, 38]  # a quarter of 32 (the stem), 24, 56, 152
    assert last == [38, 92]


def test_stride_2_starts_at_the_first_pixel():
    """One zero on every side: the kernel's centre lies on pixels 0, 2, 4; TensorFlow's "same" would put it on 1, 3, 5."""
    layer = regnety.NormalisedConvolution(1, 3, strides=2)
    layer.build((None, 6, 6, 1))
    layer.kernel.assign(np.eye(9)[4].reshape(3, 3, 1, 1))
    x = np.arange(36, dtype=np.float32).reshape(1, 6, 6, 1)
    np.testing.assert_allclose(layer(x), x[:, ::2, ::2] / np.sqrt(1 + 1e-5), rtol=1e-6)


def test_initial_values_are_upstreams():
    """N(0, 2 / (rows * columns * filters)) whatever the groups; the classifier N(0, 0.01^2)."""
    keras.utils.set_random_seed(0)
    model = builders.create("regnety", **LINE)
    for name, area in (("s4.b2.b", 9), ("s4.b2.c", 1)):
        assert np.std(model.get_layer(name).kernel) == pytest.approx(np.sqrt(2 / (area * 64)), rel=0.05)
    assert np.std(model.get_layer("head").kernel) == pytest.approx(0.01, rel=0.02)
    assert not np.any(model.get_layer("head").bias) and not np.any(model.get_layer("s1.b1.se.expand").bias)
    assert np.all(np.asarray(model.get_layer("s4.b2.c").gamma) == 1)


# Training


def test_running_statistics_move_by_a_tenth_with_the_unbiased_variance():
    layer = regnety.NormalisedConvolution(2, 1)
    layer.build((None, None, None, 2))
    layer.kernel.assign(np.eye(2).reshape(1, 1, 2, 2))
    x = images(3, 4, 5, 2) * 3 + 2
    answer = layer(x, training=True)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(answer, (x - mean) / np.sqrt(variance + 1e-5), atol=1e-5)
    np.testing.assert_allclose(layer.moving_mean, 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, 0.9 + 0.1 * x.var((0, 1, 2), ddof=1), rtol=1e-5)


def test_a_frozen_layer_keeps_its_statistics(model):
    x = images(2, 64, 64, 3)
    inference = model(x, training=False)
    model.trainable = False
    before = model.get_weights()
    np.testing.assert_array_equal(model(x, training=True), inference)
    model.trainable = True
    assert np.abs(model(x, training=True) - inference).max() > 1e-2
    moved = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert sum(moved) == len(model.non_trainable_variables) == 2 * CONVOLUTIONS


def split_convolution(inputs, kernel, strides):
    """A grouped convolution as its definition has it: one convolution a group."""
    groups = inputs.shape[-1] // kernel.shape[2]
    parts = zip(tf.split(inputs, groups, -1), tf.split(kernel, groups, -1), strict=True)
    return tf.concat([tf.nn.conv2d(x, k, strides, layers.tf_padding(1)) for x, k in parts], -1)


@pytest.mark.parametrize(
    ("height", "width", "groups", "channels", "filters", "strides"),
    [(8, 8, 2, 8, 16, 1), (7, 5, 3, 4, 12, 2), (8, 6, 2, 8, 24, 2), (1, 1, 2, 8, 16, 2), (5, 4, 4, 2, 8, 1), (2, 2, 2, 4, 8, 2)],
)  # fmt: skip
def test_grouped_convolution_and_its_gradients(height, width, groups, channels, filters, strides):
    inputs = tf.constant(images(2, height, width, groups * channels))
    kernel = tf.constant(images(3, 3, channels, filters))

    def value_and_gradients(convolve):
        with tf.GradientTape() as tape:
            tape.watch([inputs, kernel])
            value = convolve(inputs, kernel, strides)
            loss = tf.reduce_sum(tf.sin(value))
        return [value, *tape.gradient(loss, [inputs, kernel])]

    ours, definition = value_and_gradients(regnety.grouped_convolution), value_and_gradients(split_convolution)
    for a, b in zip(ours, definition, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * float(tf.reduce_max(tf.abs(b))))


# Weights


def test_pycls_sees_blue_first(model, tmp_path):
    tensors = {}
    for format, key in (("pycls", "stem.conv.weight"), ("timm", "stem.conv.weight"), ("torchvision", "stem.0.weight")):
        path = tmp_path / f"{format}.safetensors"
        builders.write(model, path, format)
        tensors[format] = np.array(checkpoints.read(path).tensors[key])
    np.testing.assert_array_equal(tensors["pycls"], tensors["timm"][:, ::-1])
    np.testing.assert_array_equal(tensors["torchvision"], tensors["timm"])
    assert not np.array_equal(tensors["pycls"], tensors["timm"])


PROJECTION = {
    "pycls": "s1.b1.bn",
    "timm": "s1.b1.downsample.bn",
    "torchvision": "trunk_output.block1.block1-0.proj.1",
    "transformers": "regnet.encoder.stages.0.layers.0.shortcut.normalization",
}


@pytest.mark.parametrize("format", SMALL.formats)
def test_a_missing_statistic_is_refused(model, tmp_path, format):
    path, key = tmp_path / "weights.safetensors", f"{PROJECTION[format]}.running_var"
    builders.write(model, path, format)
    rewrite(path, lambda tensors: tensors.pop(key))
    assert_refused(SMALL.model("other"), path, rf"missing \(1\): {key}")


def test_counters_are_left_aside(model, tmp_path):
    path = tmp_path / "weights.safetensors"
    builders.write(model, path, "timm")
    rewrite(path, lambda tensors: tensors.update({"stem.bn.num_batches_tracked": np.array(7, np.int64)}))
    assert builders.restore(model, path) == "timm"


def test_the_two_roundings_do_not_take_each_others_checkpoints(tmp_path):
    torchvision = builders.create("regnety", num_classes=5, **ROWS["regnety800mf_tv1"].architecture)
    builders.write(torchvision, tmp_path / "torchvision.safetensors", "torchvision")
    narrower = builders.create("regnety", num_classes=5, **ROWS["regnety800mf"].architecture)
    assert_refused(narrower, tmp_path / "torchvision.safetensors", r"misshaped \(\d+\): trunk_output.block2")


# The exported module, in a process of its own


CONSUMER = """
import collections, json, sys
import numpy as np, tensorflow as tf, tensorflow_hub as hub
from tensorflow.python.eager import context

directory, images = sys.argv[1], np.load(sys.argv[2])
context.enable_run_metadata()
layer = hub.KerasLayer(directory, trainable=True)
found = {"logits": layer(images).numpy().tolist()}
ops = collections.Counter(
    node.op for graph in context.export_run_metadata().function_graphs for node in graph.post_optimization_graph.node
)
context.disable_run_metadata()
found["unfused"] = ops["Conv2D"] + ops["FusedBatchNormV3"]
found["fused"] = ops["_FusedConv2D"]
found["trainable"] = len(layer.trainable_variables)
statistics = [v for v in layer.variables if v.name.split(":")[0].endswith(("moving_mean", "moving_variance"))]
found["statistics"] = len(statistics)

def moved(action):
    before = [v.numpy() for v in statistics]
    action()
    return sum(not np.array_equal(a, v.numpy()) for a, v in zip(before, statistics))

for training in (True, False):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(layer(images, training=training) - 1))
    gradients = tape.gradient(loss, layer.trainable_variables)
    found[f"gradients_{training}"] = sum(g is not None and bool(tf.reduce_any(g != 0)) for g in gradients)
found["moved_in_training"] = moved(lambda: layer(images, training=True))
found["moved_in_inference"] = moved(lambda: layer(images, training=False))
layer.trainable = False
found["moved_when_frozen"] = moved(lambda: layer(images, training=True))
print("FOUND" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(folder of the SavedModel, file of images, the Keras model's logits)."""
    folder = tmp_path_factory.mktemp("regnety")
    module = described("regnety_digits")
    module["row"] |= {"resolution": 64}
    module["preprocessing"]["transform"] = module["preprocessing"]["transform"] | {"size": 64}
    model = SMALL.model()
    pixels = np.random.default_rng(3).integers(0, 256, (4, 64, 64, 3)).astype(np.float32)
    np.save(folder / "images.npy", pixels)
    logits = model(export.normalised_images(tf.constant(pixels), module), training=False)
    return export.save(model, "classifier", module, folder / "module"), folder / "images.npy", np.asarray(logits)


@pytest.mark.parametrize("onednn", ["1", "0"])
def test_module_trains_and_answers(exported, onednn):
    """As a consumer has it; without oneDNN, as on a Mac, TensorFlow's fused convolutions know no groups."""
    directory, pixels, logits = exported
    done = subprocess.run(
        [sys.executable, "-c", CONSUMER, str(directory), str(pixels)],
        env=os.environ | {"TF_ENABLE_ONEDNN_OPTS": onednn, "TF_CPP_MIN_LOG_LEVEL": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "unsaved custom gradients" not in done.stderr
    found = json.loads(done.stdout.split("FOUND")[1])
    np.testing.assert_allclose(found["logits"], logits, atol=2e-5 * max(1, np.abs(logits).max()))
    assert found["trainable"] == 3 * CONVOLUTIONS + 4 * 5 + 2
    assert found["gradients_True"] == found["gradients_False"] == found["trainable"]
    assert found["statistics"] == found["moved_in_training"] == 2 * CONVOLUTIONS
    assert found["moved_in_inference"] == found["moved_when_frozen"] == 0
    if onednn == "1" and platform.machine() == "x86_64":
        assert (found["fused"], found["unfused"]) == (CONVOLUTIONS, 0)
