"""ConvNeXt V2: the battery, its response normalisation, its sparse checkpoints, and the encoders without a head."""

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import builders
from builders import checkpoints, weights
from builders.convnextv2 import GlobalResponseNormalization
from tests.builders.battery import (
    CATALOG,
    Battery,
    Family,
    ReferenceBattery,
    References,
    assert_refused,
    assert_same_weights,
    images,
    rewrite,
    row_arguments,
)
from tools import catalog
from tools.common.files import ROOT

pytestmark = pytest.mark.slow

SMALL = Family(
    "convnextv2",
    architecture={"depths": (1, 2, 1, 1), "dims": (8, 16, 24, 32)},
    formats={"timm": {}, "timm_conv_mlp": {}, "facebook": {}, "transformers": {}},
    others={"shallower": ({"depths": (1, 1, 1, 1)}, r"unused \(10\): stages\.1\.blocks\.1")},
    sizes={(32, 32): (1, 1), (75, 90): (2, 2), (96, 160): (3, 5)},
    maps={"stride_4": 16, "stride_8": 8, "stride_16": 4, "stride_32": 2},
    blocks=5,
    inner="stages.0.blocks.0.mlp.fc1",
    smallest=32,
    refused_arguments={"a classifier without its norm": ({"final_norm": False}, "Fix: add include_top=False")},
)
ENCODER = {"include_top": False, "pooling": "avg", "final_norm": False}
ROWS = [v for v in CATALOG.variants if v.family == "convnextv2"]


class TestSmall(Battery):
    family = SMALL


class TestReferences(ReferenceBattery):
    references = References(
        "convnextv2",
        limits={"logits": 1e-5, "features": 1e-5},
        listings={
            "convnextv2_atto.fb": row_arguments("convnextv2_atto_1k_224"),
            "convnextv2_atto.timm_conv_mlp": row_arguments("convnextv2_atto_1k_224"),
            "convnextv2_tiny.timm": row_arguments("convnextv2_tiny_1k_224"),
        },
    )


# Response normalisation


def response_normalised(x, gamma, beta, epsilon=1e-6):
    """The definition, in float64, without rearranging anything: models/utils.py:GRN."""
    x = x.astype(np.float64)
    norms = np.sqrt((x**2).sum((1, 2), keepdims=True))
    return gamma * (x * (norms / (norms.mean(-1, keepdims=True) + epsilon))) + beta + x


@pytest.mark.parametrize("shape", [(2, 7, 7, 12), (1, 1, 1, 4), (3, 5, 9, 8)])
def test_response_normalisation_is_the_definition(shape):
    layer = GlobalResponseNormalization()
    layer.build(shape)
    layer.gamma.assign(images(shape[-1], seed=1))
    layer.beta.assign(images(shape[-1], seed=2))
    x = images(*shape)
    np.testing.assert_allclose(layer(x), response_normalised(x, layer.gamma.numpy(), layer.beta.numpy()), atol=2e-6)
    spectral = np.linalg.norm(x.transpose(0, 3, 1, 2), ord=2, axis=(2, 3))
    if min(shape[1:3]) > 1:  # the mistake of taking the matrix norm would show in this comparison
        assert np.abs(spectral - np.sqrt((x**2).sum((1, 2)))).max() > 0.1


def test_response_normalisation_starts_as_the_identity():
    x = images(2, 4, 4, 6)
    np.testing.assert_array_equal(GlobalResponseNormalization()(x), x)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_response_normalisation_does_not_overflow_in_half_precision(policy):
    layer = GlobalResponseNormalization(dtype=keras.dtype_policies.get(policy))
    x = (40 * images(1, 64, 64, 8)).astype(np.float16)  # the sum of squares is 6.5 million; float16 ends at 65,504
    layer.build(x.shape)
    layer.gamma.assign(images(8, seed=1))
    answer = layer(x)
    assert answer.dtype == layer.compute_dtype and layer.gamma.dtype == "float32"
    expected = response_normalised(x, layer.gamma.numpy(), 0.0)
    np.testing.assert_allclose(np.asarray(answer, np.float64), expected, atol=0.02 * np.abs(expected).max())


def test_a_dead_channel_has_a_finite_gradient():
    layer = GlobalResponseNormalization()
    x = images(2, 4, 4, 6)
    x[..., 3] = 0
    x[1] = 0  # and a whole dead image
    layer.build(x.shape)
    layer.gamma.assign(np.ones(6))
    inputs = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        answer = tf.reduce_sum(layer(inputs) ** 2)
    for gradient in tape.gradient(answer, [inputs, *layer.trainable_variables]):
        assert np.isfinite(gradient).all()
    assert np.isfinite(answer) and answer > 0


# Encoders without a head


def test_the_encoders_features_are_the_plain_average():
    encoder, backbone = SMALL.model("encoder", **ENCODER), SMALL.model("backbone", include_top=False)
    x = images(2, 64, 64, 3)
    assert [w.path for w in encoder.variables] == [w.path for w in backbone.variables]
    np.testing.assert_allclose(encoder(x), np.asarray(backbone(x)).mean((1, 2)), atol=1e-6)
    assert encoder.output is encoder.get_layer("features").output
    normalised = SMALL.model(include_top=False, pooling="avg")
    assert len(normalised.variables) == len(encoder.variables) + 2


def assert_restores(path, format, source, target):
    assert builders.restore(target, path) == format
    assert_same_weights(source, target)


@pytest.mark.parametrize("format", [*SMALL.formats, "facebook_sparse"])
def test_round_trip_of_an_encoder(tmp_path, format):
    encoder, path = SMALL.model("encoder", **ENCODER), tmp_path / "weights.safetensors"
    builders.write(encoder, path, format)
    assert_restores(path, format, encoder, SMALL.create(**ENCODER))


def densified(tensors):
    """A checkpoint of FCMAE training in the dense naming, as utils.py:remap_checkpoint_keys describes it, tensor by tensor."""
    dense = {}
    for key, value in tensors.items():
        if not key.startswith("encoder."):
            continue
        key = key.removeprefix("encoder.").replace(".ln.", ".").replace(".linear.", ".")
        if key.endswith(".kernel"):
            places, outputs = value.shape[0], value.shape[-1]
            size = round(places**0.5)
            inputs = value.shape[1] if value.ndim == 3 else 1
            square = value.T.reshape(outputs, inputs, size, size)
            key, value = key.replace(".kernel", ".weight"), square.swapaxes(3, 2)
        elif ".grn." in key:
            value = value[None, None]
        elif key.endswith(".bias"):
            value = value.reshape(-1)
        dense[key] = np.ascontiguousarray(value)
    return dense


def test_the_sparse_format_is_what_upstream_makes_dense(tmp_path):
    """Both ways lead to the same model: reading the sparse file, and converting it first as upstream does."""
    encoder = SMALL.model("encoder", **ENCODER)
    builders.write(encoder, tmp_path / "sparse.safetensors", "facebook_sparse")
    tensors = {key: np.array(value) for key, value in checkpoints.read(tmp_path / "sparse.safetensors").tensors.items()}
    assert tensors["encoder.stages.1.0.dwconv.kernel"].shape == (49, 16)
    assert tensors["encoder.stages.1.0.dwconv.bias"].shape == (1, 16)
    assert tensors["encoder.downsample_layers.1.1.kernel"].shape == (4, 8, 16)
    assert tensors["encoder.downsample_layers.1.0.ln.weight"].shape == (8,)
    assert tensors["encoder.downsample_layers.0.1.weight"].shape == (8,)  # the stem is dense, its normalisation plain
    assert tensors["encoder.downsample_layers.0.0.weight"].shape == (8, 3, 4, 4)
    assert tensors["encoder.stages.0.0.pwconv1.linear.weight"].shape == (32, 8)
    assert tensors["encoder.stages.0.0.grn.gamma"].shape == (1, 32)
    checkpoints.write(tmp_path / "dense.safetensors", densified(tensors))
    assert_restores(tmp_path / "dense.safetensors", "facebook", encoder, SMALL.create(**ENCODER))
    zeros = np.zeros((1,), np.float32)
    surplus = dict.fromkeys(("mask_token", "proj.weight", "pred.bias", "decoder.0.grn.gamma"), zeros)
    checkpoints.write(tmp_path / "whole.safetensors", tensors | surplus)  # what training left beside the encoder
    assert_restores(tmp_path / "whole.safetensors", "facebook_sparse", encoder, SMALL.create(**ENCODER))


def test_the_sparse_format_holds_no_classifier(tmp_path):
    with pytest.raises(weights.RestoreError, match="'facebook_sparse' has nothing for 'features'"):
        builders.write(SMALL.model(), tmp_path / "weights.safetensors", "facebook_sparse")


GAMMA = "stages.1.1.grn.gamma"
BAD = {
    "flattened": (lambda t: t.update({GAMMA: t[GAMMA].ravel()}), rf"misshaped \(1\): {GAMMA} is \[64\], the model needs \[1, 1, 1, 64\]"),
    "layer scale": (lambda t: t.update({"stages.0.0.gamma": t["norm.bias"][:8]}), r"unused \(1\): stages\.0\.0\.gamma"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_checkpoint_without_response_normalisation_is_refused(tmp_path, case):
    change, said = BAD[case]
    path = tmp_path / "weights.safetensors"
    builders.write(SMALL.model(), path, "facebook")
    rewrite(path, change)
    assert_refused(SMALL.model("other"), path, said)


def test_a_checkpoint_of_the_first_convnext_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    builders.write(builders.create("convnext", num_classes=5, **SMALL.architecture), path, "facebook")
    assert_refused(SMALL.model(), path, r"missing \(10\): stages\.0\.0\.grn\.beta")


def test_encoders_and_classifiers_do_not_take_each_others_checkpoints(tmp_path):
    path, model, encoder = tmp_path / "weights.safetensors", SMALL.model(), SMALL.model("encoder", **ENCODER)
    builders.write(encoder, path, "facebook")
    assert_refused(model, path, r"missing \(4\): head\.bias, head\.weight, norm\.bias, norm\.weight")
    builders.restore(SMALL.model("backbone", include_top=False), path)  # for a head of one's own: its map needs neither
    builders.write(model, path, "facebook")
    assert_refused(encoder, path, r"unused \(2\): norm\.bias, norm\.weight")


# Rows


def test_all_rows_are_there():
    assert len(ROWS) == 26
    counted = {data: sum(v.data == data for v in ROWS) for data in ("1k", "21k_1k", "fcmae")}
    assert counted == {"1k": 8, "21k_1k": 10, "fcmae": 8}
    assert {v.licence for v in ROWS} == {"cc-by-nc-4.0"} and {v.format for v in ROWS} == {"facebook"}
    names = {name for v in ROWS for name in v.names.values()}
    assert {"convnextv2_tiny_1k_224", "convnextv2_tiny_1k_224_fe", "convnextv2_tiny_21k_1k_384_fe"} <= names
    assert len(names) == 44


@pytest.mark.parametrize("row", [v for v in ROWS if v.data == "fcmae"], ids=lambda v: v.stem)
def test_encoder_rows_have_a_feature_extractor_only(row):
    assert row.names == {"feature_extractor": f"{row.stem}_fe"}
    assert row.classes is None and row.labels is None and row.top1 is None
    assert builders.arguments(row.facts()) == row.architecture | ENCODER


def test_a_row_without_classes_must_say_that_it_has_no_classifier(tmp_path):
    for folder in ("collections", "modules"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    path = tmp_path / "modules/convnextv2.toml"
    said = 'heads = ["feature_extractor"], checkpoint = "pt_only/convnextv2_atto'
    assert said in path.read_text()
    path.write_text(path.read_text().replace(said, said.removeprefix('heads = ["feature_extractor"], ')))
    with pytest.raises(catalog.CatalogError) as refused:
        catalog.load(tmp_path)
    (problem,) = refused.value.problems
    assert problem.file == "modules/convnextv2.toml" and "atto fcmae 224" in problem.row
    assert problem.message == "has a classifier, but data.fcmae has no `classes`"
    assert 'or `heads = ["feature_extractor"]`' in problem.fix
