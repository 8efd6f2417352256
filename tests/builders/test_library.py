"""Models by name and modules unrolled (builders/library): the examples of Keras users, weights, other classes, what is refused."""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import builders
from builders import checkpoints, export, layers, library, precision, weights
from builders.library import pretrained
from tests.builders.battery import CATALOG, assert_same_weights, described, images
from tests.builders.torch_files import torch_file
from tests.support.commands import ROOT
from tools import catalog, convert
from tools.archive import reading
from tools.catalog import adoption
from tools.common.download import DownloadError

pytestmark = pytest.mark.slow

DIGITS = ("convnext_digits", "regnety_digits", "vit_digits", "convnext_digits_bf16")
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    """A folder with the files of two rows of ConvNeXt-T, of random weights, as upstream names and stores them."""
    folder = tmp_path_factory.mktemp("mirror")
    with layers.deferred_weights(keras.initializers.Constant(0.01)):
        model = builders.create("convnext", depths=(3, 3, 9, 3), dims=(96, 192, 384, 768))
    model.get_layer("head").bias.assign(images(1000))
    builders.write(model, folder / "weights.safetensors", "facebook")
    tensors = {key: np.array(value) for key, value in checkpoints.read(folder / "weights.safetensors").tensors.items()}
    torch_file(folder / "convnext_tiny_1k_224_ema.pth", {"model": tensors})
    os.link(folder / "convnext_tiny_1k_224_ema.pth", folder / "convnext_tiny_22k_1k_224.pth")
    (folder / "weights.safetensors").unlink()
    return folder


@pytest.fixture
def checkpoints_here(mirror, tmp_path, monkeypatch):
    """The environment of a user whose checkpoints lie in the mirror."""
    monkeypatch.setenv("HUBPRESS_CHECKPOINTS", str(mirror))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


# What users of other libraries write, with names changed: README of zibbini/convnext-v2_tensorflow, "Usage".


def test_an_architecture_in_one_line():
    model = builders.create("convnext_tiny", input_shape=(224, 224, 3))
    assert model.count_params() == 28_589_128 and model.output_shape == (None, 1000) and model.loaded.path is None


def test_layers_in_front():
    inputs = keras.Input((224, 224, 3))
    rescaled = keras.layers.Rescaling(1 / 255)(inputs)
    tiny = builders.create("convnext_tiny", input_tensor=rescaled)
    model = keras.Model(inputs, tiny.output)
    assert model.output_shape == (None, 1000)
    assert [type(layer).__name__ for layer in model.layers[:2]] == ["InputLayer", "Rescaling"]


def test_another_resolution():
    assert builders.create("convnext_tiny", input_shape=(512, 512, 3)).input_shape == (None, 512, 512, 3)


@pytest.mark.parametrize(
    ("data", "row", "file"),
    [
        ("1k", "convnext_tiny_1k_224", "convnext_tiny_1k_224_ema.pth"),  # weights="imagenet_1k"
        ("21k_1k", "convnext_tiny_21k_1k_224", "convnext_tiny_22k_1k_224.pth"),  # weights="imagenet_22k"
    ],
)
def test_weights_by_their_data(checkpoints_here, data, row, file):
    model = builders.create("convnext_tiny", weights=data)
    loaded = model.loaded
    assert (loaded.name, loaded.path.name, loaded.restored, loaded.has_new_head) == (row, file, "facebook", False)
    np.testing.assert_array_equal(model.get_layer("head").bias, images(1000))


def test_a_head_of_ones_own():
    inputs = keras.Input((224, 224, 3))
    tiny = builders.create("convnext_tiny", input_tensor=inputs, include_top=False)
    x = keras.layers.GlobalAveragePooling2D()(tiny.output)
    x = keras.layers.Dense(128, activation="relu")(x)
    x = keras.layers.Dense(32, activation="relu")(x)
    outputs = keras.layers.Dense(4, activation="sigmoid")(x)
    model = keras.Model(inputs, outputs)
    assert model.output_shape == (None, 4) and tiny.output_shape == (None, 7, 7, 768)


# Rows


@pytest.mark.parametrize("name", DIGITS)
def test_a_row_with_its_weights_and_preprocessing_is_the_published_network(name, tmp_path):
    model = builders.create(name, weights="row")
    row = next(row for row in CATALOG.variants if row.stem == name)
    assert model.name == name and model.loaded.restored == row.format and not model.loaded.has_new_head
    assert {v.dtype for v in model.variables} == {"float32"}
    assert model.layers[2].compute_dtype == row.precision
    whole = keras.Sequential([builders.preprocessing_of(model), model])
    expected = model(export.normalised_images(PIXELS, described(name)))
    np.testing.assert_allclose(whole(PIXELS), expected, atol=1e-6)
    graph = precision.difference(whole.predict(PIXELS, verbose=0), expected)  # other kernels round elsewhere
    assert graph < {"float32": 1e-5, "bfloat16": precision.TOLERANCES["bfloat16"]}[row.precision]
    np.testing.assert_allclose(whole(PIXELS.astype(np.float32)), expected, atol=1e-6)  # 0 to 255, too
    halves = keras.Sequential([builders.preprocessing_of(name, pixel_range=(0, 1)), model])
    limit = {"float32": 1e-4, "bfloat16": precision.TOLERANCES["bfloat16"]}[row.precision]
    assert precision.difference(halves((PIXELS / 255).astype(np.float32)), expected) < limit
    whole.save(tmp_path / "whole.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "whole.keras")(PIXELS), whole(PIXELS))


def test_a_saved_model_with_preprocessing_loads_in_another_process(tmp_path):
    model = builders.create("convnext_digits", weights="row")
    keras.Sequential([builders.preprocessing_of(model), model]).save(tmp_path / "whole.keras")
    code = "import builders, keras; print(keras.models.load_model('whole.keras').layers[0].compute_output_shape((None, 9, 9, 3)))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.split("\n")[0] == "(None, 32, 32, 3)", done.stderr


@pytest.mark.parametrize("name", ["convnext_digits", "vit_digits"])
def test_other_classes_get_a_new_head_and_the_rest_of_the_weights(name):
    full = builders.create(name, weights="row")
    other = builders.create(name, weights="row", num_classes=3)
    assert other.output_shape == (None, 3) and other.loaded.has_new_head and not full.loaded.has_new_head
    assert_same_weights(full.get_weights()[:-2], other.get_weights()[:-2])
    assert np.std(other.get_layer("head").kernel) > 0
    backbone = builders.create(name, weights="row", include_top=False)
    assert not backbone.loaded.has_new_head
    assert_same_weights(backbone.get_weights(), full.get_weights()[: len(backbone.get_weights())])


def test_weights_of_a_path_a_url_and_a_family(tmp_path):
    file = ROOT / "modules/quickstart/convnext_digits.safetensors"
    full = builders.create("convnext_digits", weights="row")
    for weights_ in (file, str(file), file.as_uri()):
        assert_same_weights(full, builders.create("convnext_digits", weights=weights_))
    other = builders.create("convnext_digits", weights=file, num_classes=4)
    assert other.loaded.has_new_head and other.output_shape == (None, 4)
    family = builders.create("convnext", weights=file, num_classes=10, depths=(1, 1, 2, 1), dims=(16, 32, 64, 96))
    assert_same_weights(full, family)
    with pytest.raises(
        weights.RestoreError, match=r"misshaped \(2\): head(.|\n)*Fix: create the model with num_classes=10"
    ):
        builders.create("convnext", weights=file, depths=(1, 1, 2, 1), dims=(16, 32, 64, 96))
    with pytest.raises(
        weights.RestoreError, match=r"missing \(.*Fix: take the checkpoint of this variant|does not fit"
    ):
        builders.create("convnext", weights=file, depths=(1, 1, 3, 1), dims=(16, 32, 64, 96), num_classes=4)


def test_layers_in_front_of_a_row_with_weights():
    inputs = keras.Input((40, 40, 3))
    model = builders.create(
        "convnext_digits", weights="row", input_tensor=keras.layers.RandomFlip()(inputs), num_classes=2
    )
    full = builders.create("convnext_digits", weights="row")
    assert model.loaded.has_new_head and model.output_shape == (None, 2)
    np.testing.assert_array_equal(model.get_layer("stem.conv").kernel, full.get_layer("stem.conv").kernel)


def test_names():
    assert set(DIGITS) <= set(builders.list()) and builders.list() == [row.stem for row in CATALOG.variants]
    assert "convnext_tiny_1k_224" in builders.list("convnext_tiny*") and builders.list("nothing*") == []


REFUSED = [
    (lambda: builders.create("convnext_tinny"), ValueError, "there is no family 'convnext_tinny'. Fix: use one of convnext, .* or did you mean convnext_tiny"),
    (lambda: builders.create("convnext_digits_fe"), ValueError, r"is a feature extractor. Fix: create\('convnext_digits', include_top=False"),
    (lambda: builders.create("convnext_tiny", weights="row"), ValueError, "'convnext_tiny' is no row, .* Fix: use convnext_tiny_1k_224, "),
    (lambda: builders.create("convnext", weights="row", depths=(1,), dims=(8,)), ValueError, "'convnext' is no row, .* a name of the catalogue"),
    (lambda: builders.create("convnext_tiny", weights="imagenet"), ValueError, "weights='imagenet' are unknown for 'convnext_tiny'. Fix: use 'row', '1k', '21k_1k', '21k', or the path"),
    (lambda: builders.create("convnext_digits", weights="./nothing.safetensors"), checkpoints.CheckpointError, "nothing.safetensors"),
    (lambda: builders.create("convnext_digits", depths=3, deep=1), TypeError, "'deep' is not an argument"),
    (lambda: builders.preprocessing_of("convnext_tiny"), ValueError, "is no row, whose preprocessing .* Fix: name one of convnext_tiny_1k_224"),
    (lambda: builders.preprocessing_of(keras.Sequential([keras.Input((8, 8, 3))], name="mine")), ValueError, "nothing says which row the model mine is of. Fix: pass the name"),
    (lambda: builders.preprocessing_of(builders.create("convnext_digits", input_shape=(64, 64, 3))), ValueError, "makes images of 32 x 32, the model takes 64 x 64. Fix"),
    (lambda: builders.from_hub("no/such/folder"), ValueError, "no/such/folder is no folder, no archive and no handle. Fix: pass publisher/name/version"),
    (lambda: builders.from_hub("http://127.0.0.1:9/hubpress/convnext_digits/1"), DownloadError, "127.0.0.1:9"),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_refused(case, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("tools.common.download.MAXIMUM_FAILURES", 1)
    call, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        call()


def test_importing_builders_imports_neither_the_library_nor_tensorflow():
    code = "import builders, sys; print([n for n in sys.modules if n.split('.')[0] in ('tools', 'tensorflow', 'keras') or 'library' in n])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Modules unrolled


@pytest.fixture(scope="module")
def archives(hub):
    """The archive of each published module, by name."""
    return {path.parent.name: path for path in sorted(Path(hub).glob("hubpress/*/1.tar.gz"))}


def test_every_published_module_unrolled_answers_what_the_module_answers(archives, tmp_path):
    """Both heads of every family: to 1e-6, trainable, saved and loaded; and of a folder as of its archive."""
    import tensorflow_hub

    assert len(archives) >= 6
    for name, archive in archives.items():
        folder = tmp_path / name
        reading.unpack(archive, folder)
        model, module = builders.from_hub(archive), tensorflow_hub.load(str(folder))
        whole = keras.Sequential([builders.preprocessing_of(model), model])
        # As graphs, in which TensorFlow fuses the same operations.
        answer = tf.function(lambda images, whole=whole: whole(images, training=False))(tf.constant(PIXELS))
        assert precision.difference(answer, module(PIXELS)) < 1e-6, name
        assert_same_weights(model.get_weights(), [v.numpy() for v in module.variables])
        assert len(model.trainable_variables) == len(module.trainable_variables) > 0
        model.save(tmp_path / "model.keras")
        assert_same_weights(keras.models.load_model(tmp_path / "model.keras"), builders.from_hub(folder))


def test_a_module_of_a_served_hub(any_url, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = builders.from_hub(f"{any_url}/hubpress/convnext_digits/1")
    assert model.loaded.name == "convnext_digits" and model.output_shape == (None, 10)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    before = model.get_weights()
    model.fit(images(4, 32, 32, 3), np.arange(4), epochs=1, verbose=0)
    assert all((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))


# Fine-tuned modules, and conversion


def test_a_module_fine_tuned_in_tf_keras_comes_out_in_an_upstream_format(archives, tmp_path):
    import tensorflow_hub
    import tf_keras

    folder = tmp_path / "module"
    reading.unpack(archives["convnext_digits"], folder)
    layer = tensorflow_hub.KerasLayer(str(folder), trainable=True)
    tuned = tf_keras.Sequential([tf_keras.layers.InputLayer((32, 32, 3)), layer])
    tuned.compile("sgd", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = np.random.default_rng(1).random((4, 32, 32, 3), np.float32)
    tuned.fit(x, np.arange(4), epochs=1, verbose=0)
    model = builders.from_hub(folder, variables=layer.resolved_object.variables)
    assert any(
        (a != b).any() for a, b in zip(model.get_weights(), builders.from_hub(folder).get_weights(), strict=True)
    )
    builders.write(model, tmp_path / "tuned.safetensors", "facebook")
    again = builders.create("convnext_digits", weights=tmp_path / "tuned.safetensors")
    whole = keras.Sequential([builders.preprocessing_of(again, pixel_range=(0, 1)), again])
    np.testing.assert_allclose(whole(x), tuned(x), atol=1e-5)
    with pytest.raises(ValueError, match=r"3 variables were given, and the module .* Fix: pass `layer.resolved_object"):
        builders.from_hub(folder, variables=model.get_weights()[:3])


def test_conversion_both_ways(archives, tmp_path, capsys):
    """A module to each kind of file and back: the same weights, whatever the way."""
    source = next(iter(archives.values()))
    original = builders.from_hub(source)
    name, format = original.loaded.name, "timm"
    run = functools.partial(run_convert, capsys)
    code, said = run(source, tmp_path / "a.keras")
    assert code == 0 and "a.keras: " in said.out and f"{original.count_params():,} parameters" in said.out
    assert run(tmp_path / "a.keras", tmp_path / "b.safetensors", "--format", format)[0] == 0
    code, said = run(tmp_path / "b.safetensors", tmp_path / "c.weights.h5", "--as", name)
    assert code == 0 and f"({format} format)" in said.out
    assert run(tmp_path / "c.weights.h5", tmp_path / "d.npz", "--as", name, "--format", "transformers")[0] == 0
    assert run(tmp_path / "d.npz", tmp_path / "e.keras", "--as", name)[0] == 0
    assert_same_weights(original, keras.models.load_model(tmp_path / "e.keras"))


def run_convert(capsys, *words):
    code = convert.main([str(word) for word in words])
    return code, capsys.readouterr()


QUICKSTART = ROOT / "modules/quickstart/convnext_digits.safetensors"
REFUSED_CONVERSIONS = [
    ((QUICKSTART, "x.keras"), "does not say its network. Fix: name a row or an architecture with --as"),
    ((QUICKSTART, "x.pth", "--as", "convnext_digits"), "its ending says no format. Fix: end it in .keras"),
    ((QUICKSTART, "x.safetensors", "--as", "convnext_digits"), "needs which upstream format it is in. Fix: say one with --format"),
    ((QUICKSTART, "x.keras", "--as", "convnext_digits", "--format", "timm"), "needs no format. Fix: leave it out"),
    ((QUICKSTART, "no/x.keras", "--as", "convnext_digits"), "is no folder. Fix: make it first"),
    ((QUICKSTART, QUICKSTART, "--as", "convnext_digits", "--format", "timm"), "exists. Fix: name a new file"),
    ((QUICKSTART, "x.safetensors", "--as", "convnext_digits", "--format", "augreg"), "x.safetensors: the format 'augreg' has nothing for"),
    ((QUICKSTART, "x.keras", "--as", "convnext_digits", "--classes", "3"), "misshaped (2): head"),
    ((QUICKSTART, "x.keras", "--as", "regnety_digits"), "does not fit the model regnety_digits"),
    ((QUICKSTART, "x", "--as", "convnext_digits"), "its ending says no format"),
    (("modules/quickstart/regnety_digits.safetensors", "x", "--as", "regnety_digits", "--format", "timm"), "timm has no RegNetY of the widths 16, 32, 56, 112. Fix: use --format transformers"),
    (("modules/quickstart/vit_digits.npz", "x", "--as", "vit_digits", "--format", "transformers"), "is a hybrid, which transformers does not have"),
    ((QUICKSTART, "x", "--as", "convnext_digits", "--classes", "0", "--format", "timm"), "has no classifier. Fix: pass the model with its top"),
    ((QUICKSTART, "x.keras", "--as", "convnext_digit"), "did you mean convnext_digits"),
    (("nothing.keras", "x.weights.h5"), "Keras cannot load it"),
    (("no/module", "x.keras"), "is no folder, no archive and no handle"),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(REFUSED_CONVERSIONS)))
def test_refused_conversions_write_nothing(case, tmp_path, monkeypatch, capsys):
    words, message = REFUSED_CONVERSIONS[case]
    words = [ROOT / word if str(word).startswith("modules/") else word for word in words]
    monkeypatch.chdir(tmp_path)
    code, said = run_convert(capsys, *words)
    assert code == 1 and message in said.err and "Fix: " in said.err
    assert list(tmp_path.iterdir()) == []


# Folders that transformers and timm load: what is in them


NETWORKS = {
    "convnext": ("convnext_224", {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32), "final_epsilon": 1e-12}),
    "convnextv2": ("convnext_384", {"depths": (1, 2, 1, 1), "dims": (8, 16, 24, 32)}),
    "regnety": ("convnext_224", {"widths": (24, 56, 152, 368), "depths": (1, 1, 4, 7), "group_size": 8}),
    "vit": ("digits_32", {"patch": 8, "hidden": 64, "mlp": 128, "heads": 1, "layers": 2, "definition": "timm"}),
}


def with_preprocessing(family, transform, **arguments):
    """Return a small model of 4 classes that says how its images are made."""
    model = builders.create(family, num_classes=4, **arguments)
    shared = CATALOG.preprocessing
    chosen = {"transform": shared["transforms"][transform], "normalization": shared["normalizations"]["imagenet"]}
    model.loaded = library.Loaded(family, None, None, False, chosen, ("a", "b", "c", "d"))
    return model


@pytest.mark.parametrize("family", NETWORKS)
def test_a_folder_for_transformers_is_adopted_as_the_same_network(family, tmp_path):
    """What is written is read again by `tools/new.py variant --from`: architecture, classes, preprocessing, weights."""
    transform, arguments = NETWORKS[family]
    size = {"input_shape": (32, 32, 3)} if family == "vit" else {}
    model = with_preprocessing(family, transform, **arguments, **size)
    files = pretrained.save(model, tmp_path / "folder", format="transformers")
    assert sorted(files) == sorted(path.name for path in (tmp_path / "folder").iterdir())
    own = tmp_path / "own"
    adoption.adopt(str(tmp_path / "folder"), "mine", catalog=CATALOG, folder=own, licence="mit")
    file = own / "modules/mine.toml"
    text = re.sub(r'datasets = \["TODO[^"]*"\]', 'datasets = ["imagenet-ilsvrc-2012-cls"]', file.read_text())
    file.write_text(re.sub(r'"TODO[^"]*"', '"our institute"', text))
    row = next(row for row in catalog.load(own=own).variants if row.stem == "mine")
    own_arguments = {key: list(value) if isinstance(value, tuple) else value for key, value in arguments.items()}
    assert row.transform == transform and row.normalization == "imagenet" and row.classes == 4
    told = row.architecture | ({"final_epsilon": 1e-12} if arguments.get("final_epsilon") else {})
    if family == "convnextv2":
        own_arguments["final_epsilon"] = 1e-6  # as configurations say it
    assert told == own_arguments
    again = builders.create(family, num_classes=4, weights=own / row.checkpoint, **arguments, **size)
    assert_same_weights(model, again)


@pytest.mark.parametrize("family", NETWORKS)
def test_a_folder_for_timm(family, tmp_path):
    transform, arguments = NETWORKS[family]
    size = {"input_shape": (32, 32, 3)} if family == "vit" else {}
    if family == "convnext":
        with pytest.raises(
            pretrained.PretrainedError, match=r"with an epsilon of 1e-6, not 1e-12. Fix: use --format transformers"
        ):
            pretrained.save(with_preprocessing(family, transform, **arguments), tmp_path / "folder", format="timm")
        assert list(tmp_path.iterdir()) == []
        arguments = {key: value for key, value in arguments.items() if key != "final_epsilon"}
    model = with_preprocessing(family, transform, **arguments, **size)
    pretrained.save(model, tmp_path / "folder", format="timm")
    config = json.loads((tmp_path / "folder/config.json").read_text())
    said = {
        "convnext": ("convnext_tiny", {"depths": [1, 1, 2, 1], "dims": [8, 16, 24, 32]}),
        "convnextv2": ("convnextv2_tiny", {"depths": [1, 2, 1, 1], "dims": [8, 16, 24, 32]}),
        "regnety": ("regnety_002", None),
        "vit": (
            "vit_base_patch16_224",
            {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1, "mlp_ratio": 2.0},
        ),
    }
    assert (config["architecture"], config.get("model_args")) == said[family]
    assert config["label_names"] == ["a", "b", "c", "d"] and config["num_classes"] == 4
    found = config["pretrained_cfg"]
    expected = {
        "convnext_224": (224, 0.875, "center"),
        "convnext_384": (384, 1.0, "squash"),
        "digits_32": (32, 1.0, "squash"),
    }
    assert (found["input_size"][1], found["crop_pct"], found["crop_mode"]) == expected[transform]
    assert (found["interpolation"], found["mean"]) == ("bicubic", [0.485, 0.456, 0.406])
    again = builders.create(family, num_classes=4, weights=tmp_path / "folder/model.safetensors", **arguments, **size)
    assert_same_weights(model, again)


def test_a_folder_for_a_preprocessing_that_the_libraries_do_not_have(tmp_path):
    model = with_preprocessing("convnext", "pycls_224", depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))
    for format in pretrained.FORMATS:
        with pytest.raises(
            pretrained.PretrainedError, match=r"resized as opencv does it, .* Fix: write the weights alone"
        ):
            pretrained.save(model, tmp_path / "folder", format=format)
    assert list(tmp_path.iterdir()) == []
