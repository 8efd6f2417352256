"""The isotropic ConvNeXts: one stage on 16x16 patches, with and without layer scale, in Facebook's naming."""

import keras
import numpy as np
import pytest

import builders
from builders import checkpoints, layers, weights
from tools import catalog

SMALL = {"depths": (2,), "dims": (16,), "isotropic": True, "num_classes": 5}
ROWS = {v.size: v for v in catalog.load().variants if v.size.startswith("iso_")}
# models/convnext_isotropic.py: names and shapes of the network with 16 channels, 2 blocks and 5 classes.
BLOCK = {
    "dwconv.weight": (16, 1, 7, 7),
    "dwconv.bias": (16,),
    "norm.weight": (16,),
    "norm.bias": (16,),
    "pwconv1.weight": (64, 16),
    "pwconv1.bias": (64,),
    "pwconv2.weight": (16, 64),
    "pwconv2.bias": (16,),
}
KEYS = {
    "stem.weight": (16, 3, 16, 16),
    "stem.bias": (16,),
    **{f"blocks.{number}.{name}": shape for number in range(2) for name, shape in BLOCK.items()},
    "norm.weight": (16,),
    "norm.bias": (16,),
    "head.weight": (5, 16),
    "head.bias": (5,),
}


def images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def create(**arguments):
    keras.utils.set_random_seed(1)
    made = builders.create("convnext", **SMALL | arguments)
    for variable in made.variables:
        variable.assign(variable + 0.1 * images(*variable.shape))
    return made


@pytest.mark.parametrize("layer_scale", [0.0, 1e-6])
def test_names_and_shapes_are_the_upstream_ones(tmp_path, layer_scale):
    model, path = create(layer_scale=layer_scale), tmp_path / "weights.safetensors"
    builders.write(model, path, "facebook")
    gammas = {f"blocks.{number}.gamma": (16,) for number in range(2)} if layer_scale else {}
    assert {key: value.shape for key, value in checkpoints.read(path).tensors.items()} == KEYS | gammas
    other = builders.create("convnext", layer_scale=layer_scale, **SMALL)
    assert builders.restore(other, path) == "facebook"
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("made", "read"), [(0.0, 1e-6), (1e-6, 0.0)])
def test_the_row_must_say_whether_there_is_a_layer_scale(tmp_path, made, read):
    path = tmp_path / "weights.safetensors"
    builders.write(create(layer_scale=made), path, "facebook")
    said = r"missing \(2\): blocks\.0\.gamma" if read else r"unused \(2\): blocks\.0\.gamma"
    with pytest.raises(weights.RestoreError, match=said):
        builders.restore(create(layer_scale=read), path)


def test_computes_what_its_parts_say():
    model = create(layer_scale=0.0)
    x = images(2, 70, 64, 3)
    part = {layer.name: layer for layer in model.layers}
    y = part["stem"](x)
    assert y.shape == (2, 4, 4, 16)  # nothing is padded, and no normalisation follows
    for number in range(2):
        z = y
        for name in ("conv_dw", "norm", "mlp.fc1", "mlp.fc2"):
            z = part[f"blocks.{number}.{name}"](z)
        y = y + z
    features = part["features"](np.asarray(y).mean((1, 2)))
    np.testing.assert_allclose(model(x), part["head"](features), atol=1e-5)
    np.testing.assert_allclose(create(layer_scale=0.0, include_top=False)(x), y, atol=1e-5)


def test_only_facebooks_format_holds_it(tmp_path):
    with pytest.raises(weights.RestoreError, match="'timm' has nothing for 'stem'"):
        builders.write(create(), tmp_path / "weights.safetensors", "timm")


def test_checkpoints_of_staged_and_isotropic_models_are_not_mixed_up(tmp_path):
    staged = builders.create("convnext", depths=(1, 1, 1, 1), dims=(8, 8, 8, 16), num_classes=5)
    builders.write(staged, tmp_path / "staged.safetensors", "facebook")
    builders.write(create(), tmp_path / "isotropic.safetensors", "facebook")
    with pytest.raises(weights.RestoreError, match=r"missing \(20\): blocks\.0"):
        builders.restore(create(), tmp_path / "staged.safetensors")
    with pytest.raises(weights.RestoreError, match=r"unused \(20\): blocks\.0"):
        builders.restore(staged, tmp_path / "isotropic.safetensors")


def test_has_one_stage():
    with pytest.raises(ValueError, match="has one stage, not 2"):
        builders.create("convnext", depths=(1, 1), dims=(8, 8), isotropic=True)


@pytest.mark.parametrize(("size", "scaled"), [("iso_small", False), ("iso_base", False), ("iso_large", True)])
def test_rows(size, scaled):
    row = ROWS[size].facts()
    assert row["names"] == {
        "classifier": f"convnext_{size}_1k_224",
        "feature_extractor": f"convnext_{size}_1k_224_fe",
    }
    arguments = builders.arguments(row)
    with layers.deferred_weights():
        model = builders.create("convnext", **arguments | {"depths": (1,), "dims": (8,)})
    assert ("blocks.0.scale" in {layer.name for layer in model.layers}) == scaled
    assert (row["parameters"] is None) == (size == "iso_large")  # the source printed none
