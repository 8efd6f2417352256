"""ConvNeXt: the battery for the staged and the isotropic networks, and what only they have."""

import keras
import numpy as np
import pytest

import builders
from builders import checkpoints, layers, weights
from tests.builders.battery import (
    CATALOG,
    Battery,
    Family,
    ReferenceBattery,
    References,
    assert_refused,
    images,
    row_arguments,
)

pytestmark = pytest.mark.slow

STAGED = Family(
    "convnext",
    architecture={"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)},
    formats={"timm": {}, "timm_conv_mlp": {}, "facebook": {}, "torchvision": {}, "transformers": {}},
    others={"deeper": ({"depths": (1, 1, 3, 1)}, r"missing \(9\): stages\.2\.blocks\.2")},
    sizes={(32, 32): (1, 1), (33, 40): (1, 1), (75, 90): (2, 2), (224, 160): (7, 5)},  # odd sizes lose their last rows
    maps={"stride_4": 16, "stride_8": 8, "stride_16": 4, "stride_32": 2},
    blocks=5,
    inner="stages.0.blocks.0.mlp.fc1",
    smallest=32,
    refused_arguments={
        "lengths": ({"depths": (1, 1, 2)}, "depths=.* and dims=.* differ in length. Fix: give both for each stage"),
        "no block": ({"depths": (1, 0, 2, 1)}, r"depths=\(1, 0, 2, 1\) is not possible. Fix: use whole numbers from 1"),
        "no channel": ({"dims": (8, 16, 24, -32)}, r"dims=\(8, .* is not possible. Fix: use whole numbers from 1"),
        "no stage": ({"depths": (), "dims": ()}, r"depths=\(\) is not possible. Fix: use whole numbers from 1"),
    },
)
ISOTROPIC = Family(
    "convnext",
    architecture={"depths": (2,), "dims": (16,), "isotropic": True},
    formats={"facebook": {}},
    others={"deeper": ({"depths": (3,)}, r"missing \(9\): blocks\.2")},
    sizes={(32, 32): (2, 2), (70, 64): (4, 4)},
    maps={"block_0": 4, "block_1": 4},
    blocks=2,
    inner="blocks.0.mlp.fc1",
    smallest=16,
    refused_arguments={"two stages": ({"depths": (1, 1), "dims": (8, 8)}, "has one stage, not 2. Fix: write depths")},
)


class TestStaged(Battery):
    family = STAGED


class TestIsotropic(Battery):
    family = ISOTROPIC


class TestReferences(ReferenceBattery):
    references = References(
        "convnext",
        limits={"logits": 1e-5, "features": 1e-5},
        listings={
            "convnext_atto.timm_conv_mlp": row_arguments("convnext_atto_1k_224"),
            "convnext_tiny.fb": row_arguments("convnext_tiny_1k_224"),
            "convnext_tiny.timm": row_arguments("convnext_tiny_1k_224"),
            "convnext_tiny.torchvision": row_arguments("convnext_tiny_1k_224"),
        },
    )


def test_epsilon_is_1e_6_everywhere():
    norms = [layer for layer in STAGED.model().layers if isinstance(layer, layers.LayerNormalization)]
    assert len(norms) == 1 + 3 + 5 + 1 and {layer.epsilon for layer in norms} == {1e-6}


def test_the_format_of_transformers_has_an_epsilon_of_its_own():
    """Of the last normalisation alone: `layer_norm_eps` in config.json."""
    row = next(v for v in CATALOG.variants if v.size == "tiny").facts() | {"format": "transformers"}
    assert builders.arguments(row)["final_epsilon"] == 1e-12
    model = STAGED.create(final_epsilon=1e-12)
    epsilons = {n.name: n.epsilon for n in model.layers if isinstance(n, layers.LayerNormalization)}
    assert epsilons.pop("features") == 1e-12 and set(epsilons.values()) == {1e-6}
    with pytest.raises(ValueError, match=r"final_epsilon=0 is not possible\. Fix: use a small number above 0"):
        STAGED.create(final_epsilon=0)


def test_normalisation_follows_the_average():
    """Upstream averages first and normalises the vector; the other order costs 3 to 4 points of accuracy."""
    assert [layer.name for layer in STAGED.model().layers][-3:] == ["pool", "features", "head"]


# Isotropic networks

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


@pytest.mark.parametrize("layer_scale", [0.0, 1e-6])
def test_isotropic_names_and_shapes_are_the_upstream_ones(tmp_path, layer_scale):
    model, path = ISOTROPIC.model(layer_scale=layer_scale), tmp_path / "weights.safetensors"
    builders.write(model, path, "facebook")
    gammas = {f"blocks.{number}.gamma": (16,) for number in range(2)} if layer_scale else {}
    assert {key: value.shape for key, value in checkpoints.read(path).tensors.items()} == KEYS | gammas


@pytest.mark.parametrize(("made", "read"), [(0.0, 1e-6), (1e-6, 0.0)])
def test_the_row_must_say_whether_there_is_a_layer_scale(tmp_path, made, read):
    path = tmp_path / "weights.safetensors"
    builders.write(ISOTROPIC.model(layer_scale=made), path, "facebook")
    said = r"missing \(2\): blocks\.0\.gamma" if read else r"unused \(2\): blocks\.0\.gamma"
    assert_refused(ISOTROPIC.model(layer_scale=read), path, said)


def test_an_isotropic_network_computes_what_its_parts_say():
    model = ISOTROPIC.model(layer_scale=0.0)
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
    np.testing.assert_allclose(keras.Model(model.input, builders.maps(model)["block_1"])(x), y, atol=1e-5)


def test_only_facebooks_format_holds_an_isotropic_network(tmp_path):
    with pytest.raises(weights.RestoreError, match="'timm' has nothing for 'stem'"):
        builders.write(ISOTROPIC.model(), tmp_path / "weights.safetensors", "timm")


def test_checkpoints_of_staged_and_isotropic_networks_are_not_mixed_up(tmp_path):
    staged = builders.create("convnext", depths=(1, 1, 1, 1), dims=(8, 8, 8, 16), num_classes=5)
    isotropic = ISOTROPIC.model()
    builders.write(staged, tmp_path / "staged.safetensors", "facebook")
    builders.write(isotropic, tmp_path / "isotropic.safetensors", "facebook")
    assert_refused(isotropic, tmp_path / "staged.safetensors", r"missing \(20\): blocks\.0")
    assert_refused(staged, tmp_path / "isotropic.safetensors", r"unused \(20\): blocks\.0")


@pytest.mark.parametrize(("size", "scaled"), [("iso_small", False), ("iso_base", False), ("iso_large", True)])
def test_isotropic_rows(size, scaled):
    row = next(v for v in CATALOG.variants if v.size == size).facts()
    assert row["names"] == {
        "classifier": f"convnext_{size}_1k_224",
        "feature_extractor": f"convnext_{size}_1k_224_fe",
    }
    with layers.deferred_weights():
        model = builders.create("convnext", **builders.arguments(row) | {"depths": (1,), "dims": (8,)})
    assert ("blocks.0.scale" in {layer.name for layer in model.layers}) == scaled
    assert (row["parameters"] is None) == (size == "iso_large")  # the source printed none
