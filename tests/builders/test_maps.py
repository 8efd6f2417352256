"""The maps between the layers of every family: names, strides, and that they are the network's own."""

import keras
import numpy as np
import pytest

import builders

CONVNEXT = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}
STRIDES = {"stride_4": 16, "stride_8": 8, "stride_16": 4, "stride_32": 2}
CASES = {
    "convnext": ("convnext", CONVNEXT, STRIDES),
    "convnext isotropic": (
        "convnext",
        {"depths": (3,), "dims": (8,), "isotropic": True},
        {f"block_{i}": 4 for i in range(3)},
    ),
    "convnextv2": ("convnextv2", CONVNEXT, STRIDES),
    "regnety": ("regnety", {"w0": 16, "wa": 11.0, "wm": 1.9, "depth": 8, "group_size": 8}, STRIDES),
    "vit": ("vit", {"patch": 16, "hidden": 24, "mlp": 48, "heads": 3, "layers": 2}, {"block_0": 4, "block_1": 4}),
    "vit hybrid": (
        "vit",
        {"patch": 1, "hidden": 24, "mlp": 48, "heads": 3, "layers": 2, "resnet": (1, 2), "resnet_width_factor": 0.5},
        {"stride_4": 16, "stride_8": 8, "block_0": 8, "block_1": 8},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_maps_are_the_networks_own(case):
    family, architecture, sides = CASES[case]
    keras.utils.set_random_seed(0)
    model = builders.create(family, num_classes=3, input_shape=(64, 64, 3), **architecture)
    maps = builders.maps(model)
    assert {name: output.shape[1:3] for name, output in maps.items()} == {n: (s, s) for n, s in sides.items()}
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")
    found = keras.Model(model.input, maps)(images)
    assert all(np.isfinite(value).all() and np.std(value) > 0 for value in found.values())
    # The last map is what the model without its top answers, with the same weights.
    backbone = builders.create(family, include_top=False, input_shape=(64, 64, 3), **architecture)
    ours = {layer.name: layer for layer in model.layers}
    for layer in backbone.layers:
        layer.set_weights(ours[layer.name].get_weights() if layer.weights else [])
    np.testing.assert_allclose(list(found.values())[-1], backbone(images), atol=1e-5)
