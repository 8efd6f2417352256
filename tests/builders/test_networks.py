"""Networks inside of other models: what stands in front of them, behind them and around them."""

import keras
import numpy as np
import pytest

import builders
from builders import convnext, weights
from tests.builders.battery import assert_same_weights, images

pytestmark = pytest.mark.slow

ARCHITECTURE = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 16)}
SIZE = (32, 32)
LAST = {"data_format": "channels_last"}


def network(**arguments):
    return builders.create("convnext", num_classes=5, **ARCHITECTURE | arguments)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint with its values by our variables' paths."""
    model, path = network(name="source"), tmp_path_factory.mktemp("checkpoint") / "weights.safetensors"
    model.set_weights([w + 0.1 * images(*w.shape, seed=n) for n, w in enumerate(model.get_weights())])
    builders.write(model, path, "facebook")
    return path, model


def plain():
    pixels = keras.Input((*SIZE, 3), name="pixels")
    return pixels, pixels


def augmented():
    pixels = keras.Input((*SIZE, 3), name="pixels")
    return pixels, keras.layers.RandomRotation(0.1, **LAST)(keras.layers.RandomFlip()(pixels))


def adapted():
    pixels = keras.Input((*SIZE, 3), name="pixels")
    normalization = keras.layers.Normalization()
    normalization.adapt(images(4, *SIZE, 3))
    return pixels, normalization(pixels)


def grey():
    pixels = keras.Input((*SIZE, 1), name="pixels")
    return pixels, keras.layers.Conv2D(3, 1, **LAST)(pixels)


def a_model():
    pixels = keras.Input((*SIZE, 1), name="pixels")
    inner = keras.Sequential(
        [keras.Input((*SIZE, 1)), keras.layers.Conv2D(3, 1, **LAST), keras.layers.BatchNormalization()]
    )
    return pixels, inner(pixels)


def two_inputs():
    colours, depth = keras.Input((*SIZE, 3), name="colours"), keras.Input((*SIZE, 1), name="depth")
    return [colours, depth], keras.layers.Conv2D(3, 1, **LAST)(keras.layers.Concatenate()([colours, depth]))


@pytest.mark.parametrize("front", [plain, augmented, adapted, grey, a_model, two_inputs])
def test_fronts(checkpoint, tmp_path, front):
    path, source = checkpoint
    inputs, tensor = front()
    model = network(input_tensor=tensor)
    assert model.input is inputs if not isinstance(inputs, list) else all(map(lambda a, b: a is b, model.input, inputs))
    mine = {layer.name for layer in source.layers if layer.weights}
    before = {w.path: w.numpy() for layer in model.layers if layer.name not in mine for w in layer.variables}
    assert builders.restore(model, path) == "facebook"
    for layer in source.layers:
        if layer.weights:
            assert_same_weights(layer.get_weights(), model.get_layer(layer.name).get_weights())
    after = {w.path: w.numpy() for layer in model.layers if layer.name not in mine for w in layer.variables}
    assert before.keys() == after.keys() and all((before[name] == after[name]).all() for name in before)
    builders.write(model, tmp_path / "again.safetensors", "facebook")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    assert list(builders.maps(model)) == list(builders.maps(source))
    keras.Model(model.input, builders.maps(model))


def test_a_network_that_is_a_model_inside(checkpoint, tmp_path):
    path, source = checkpoint
    inside = network(name="inside")
    outer = keras.Sequential(
        [keras.Input((*SIZE, 3)), keras.layers.Rescaling(2.0), inside, keras.layers.Dense(3, name="head2")]
    )
    assert builders.restore(outer, path) == "facebook"
    assert_same_weights(inside, source)
    builders.write(outer, tmp_path / "again.safetensors", "facebook")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    with pytest.raises(ValueError, match=r"a model of its own there, inside, .*Fix: pass model.get_layer\('inside'\)"):
        builders.maps(outer)
    assert builders.maps(outer.get_layer("inside"))


def test_a_part_of_a_network(checkpoint):
    path, source = checkpoint
    model = network(name="whole")
    part = keras.Model(model.input, model.get_layer("features").output)
    assert builders.restore(part, path) == "facebook"
    x = images(1, *SIZE, 3)
    np.testing.assert_array_equal(part(x), keras.Model(source.input, source.get_layer("features").output)(x))


def test_no_network_and_two_networks_are_refused(checkpoint, tmp_path):
    path, _ = checkpoint
    pixels = keras.Input((*SIZE, 3))
    none = keras.Model(pixels, keras.layers.Dense(2)(pixels), name="none")
    two = keras.Model(pixels, [network(name="a")(pixels), network(name="b")(pixels)], name="two")
    for model, count in ((none, 0), (two, 2)):
        message = f"the model {model.name} has {count} networks that builders.create made, not one. Fix: pass the model of one"
        with pytest.raises(weights.RestoreError, match=message):
            builders.restore(model, path)
        with pytest.raises(weights.RestoreError, match=message):
            builders.write(model, tmp_path / "x.safetensors", "facebook")
        with pytest.raises(weights.RestoreError, match=message):
            builders.maps(model)


def test_a_layer_that_no_checkpoint_would_set_is_refused(monkeypatch):
    rows = tuple(row for row in convnext.WEIGHTS if not row.template.endswith(".scale"))
    monkeypatch.setattr(convnext, "WEIGHTS", rows)
    with pytest.raises(
        ValueError,
        match=r"builders/convnext.py: the layers stages.0.blocks.0.scale, .* have weights that no .*Fix: add a line",
    ):
        network()
