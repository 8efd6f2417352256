"""ConvNeXt V2: its response normalisation, its four checkpoint formats, and the encoders without a head."""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import builders
from builders import checkpoints, layers, weights
from builders.convnextv2 import GlobalResponseNormalization
from tools import catalog
from tools.common.files import ROOT
from tools.verification import conformance

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
SMALL = {"depths": (1, 2, 1, 1), "dims": (8, 16, 24, 32)}
ENCODER = {"include_top": False, "pooling": "avg", "final_norm": False}
FORMATS = ("timm", "timm_conv_mlp", "facebook")


def images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def create(**arguments):
    keras.utils.set_random_seed(1)
    made = builders.create("convnextv2", **{"num_classes": 5} | SMALL | arguments)
    for variable in made.variables:  # so that no term of the network is zero or one
        variable.assign(variable + 0.1 * images(*variable.shape))
    return made


@pytest.fixture
def model():
    return create()


def response_normalised(x, gamma, beta, epsilon=1e-6):
    """The definition, in float64, without rearranging anything: models/utils.py:GRN."""
    x = x.astype(np.float64)
    norms = np.sqrt((x**2).sum((1, 2), keepdims=True))
    return gamma * (x * (norms / (norms.mean(-1, keepdims=True) + epsilon))) + beta + x


# The layer


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


# The model


def test_logits_and_features(model):
    x = images(2, 64, 64, 3)
    features = keras.Model(model.input, model.get_layer("features").output)(x)
    head = model.get_layer("head")
    assert model(x).shape == (2, 5) and features.shape == (2, 32)
    np.testing.assert_allclose(model(x), features @ head.kernel + head.bias, atol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (75, 90), (96, 160)])
def test_any_size_as_upstream_floors_it(size):
    backbone = create(include_top=False)
    assert backbone(images(1, *size, 3)).shape == (1, size[0] // 32, size[1] // 32, 32)


def test_custom_input_tensor_and_shape():
    pixels = keras.Input((64, 96, 3))
    built = create(input_tensor=keras.layers.Rescaling(1 / 255)(pixels))
    assert keras.Model(pixels, built.output).input_shape == (None, 64, 96, 3)
    assert create(input_shape=(64, 96, 3)).input_shape == (None, 64, 96, 3)
    x = images(1, 64, 96, 3)
    np.testing.assert_allclose(built(255 * x), create()(x), atol=1e-4)


def test_the_encoders_features_are_the_plain_average():
    encoder, backbone = create(**ENCODER), create(include_top=False)
    x = images(2, 64, 64, 3)
    assert [w.path for w in encoder.variables] == [w.path for w in backbone.variables]
    np.testing.assert_allclose(encoder(x), np.asarray(backbone(x)).mean((1, 2)), atol=1e-6)
    assert encoder.output is encoder.get_layer("features").output
    normalised = create(include_top=False, pooling="avg")
    assert len(normalised.variables) == len(encoder.variables) + 2


def test_an_encoder_has_no_classifier_and_pooling_is_average():
    with pytest.raises(ValueError, match="add include_top=False"):
        builders.create("convnextv2", final_norm=False, **SMALL)
    with pytest.raises(ValueError, match="pooling='max'"):
        builders.create("convnextv2", include_top=False, pooling="max", **SMALL)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy, model):
    keras.config.set_dtype_policy(policy)
    try:
        half = create()
    finally:
        keras.config.set_dtype_policy("float32")
    x = images(2, 64, 64, 3)
    assert half.output.dtype == "float32" and {v.dtype for v in half.variables} == {"float32"}
    np.testing.assert_allclose(half(x), model(x), atol=0.05)


def test_fits_and_summarises(model, capsys):
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = model.get_weights()
    model.fit(images(4, 32, 32, 3), np.arange(4), batch_size=2, epochs=1, verbose=0)
    assert all((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))
    model.summary(line_length=120)
    assert f"{model.count_params():,}" in capsys.readouterr().out


def test_drop_path_is_active_in_training_only():
    model = create(drop_path_rate=0.9)
    x = np.repeat(images(1, 32, 32, 3), 16, axis=0)
    np.testing.assert_allclose(model(x, training=False)[0], model(x, training=False)[1], atol=1e-6)
    assert np.ptp(np.asarray(model(x, training=True)), axis=0).max() > 0.01


def test_a_saved_model_of_keras_comes_back(model, tmp_path):
    model.save(tmp_path / "model.keras")
    x = images(1, 32, 32, 3)
    np.testing.assert_allclose(keras.models.load_model(tmp_path / "model.keras")(x), model(x), atol=1e-6)


# Weights


@pytest.mark.parametrize("case", sorted(p.name for p in GOLDEN.glob("convnextv2_*")))
def test_the_golden_answers_are_reproduced(case):
    result = conformance.replay_case(GOLDEN / case)
    assert result.error is None and max(result.values.values()) < 1e-5


@pytest.mark.parametrize("listing", sorted(p.name for p in (GOLDEN / "checkpoint-keys").glob("convnextv2_*.txt")))
def test_names_and_shapes_are_the_upstream_ones(listing):
    variant, source = listing.removesuffix(".txt").split(".")
    sizes = next(v for v in catalog.load().variants if v.stem == f"{variant}_1k_224").architecture
    with layers.deferred_weights():
        model = builders.create("convnextv2", **sizes)
    format = {"fb": "facebook"}.get(source, source)
    upstream = dict(line.split(" ", 1) for line in (GOLDEN / "checkpoint-keys" / listing).read_text().splitlines())
    assert shapes(model, format) == {
        key: tuple(json.loads(f"[{shape.strip('(),')}]")) for key, shape in upstream.items()
    }


def shapes(model, format):
    return {
        key: array.shape
        for w in weights.weights(model, builders.family_module("convnextv2"), format)
        for key, array in zip(w.keys, w.kind.write(np.broadcast_to(np.float32(0), w.variable.shape)), strict=True)
    }


@pytest.mark.parametrize("format", FORMATS)
def test_round_trip_in_every_format(model, tmp_path, format):
    path = tmp_path / "weights.safetensors"
    builders.write(model, path, format)
    assert_restores(path, format, model, builders.create("convnextv2", num_classes=5, **SMALL))


@pytest.mark.parametrize("format", [*FORMATS, "facebook_sparse"])
def test_round_trip_of_an_encoder(tmp_path, format):
    encoder, path = create(**ENCODER), tmp_path / "weights.safetensors"
    builders.write(encoder, path, format)
    assert_restores(path, format, encoder, builders.create("convnextv2", **ENCODER, **SMALL))


def assert_restores(path, format, source, target):
    assert builders.restore(target, path) == format
    for a, b in zip(source.get_weights(), target.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


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
    encoder = create(**ENCODER)
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
    assert_restores(
        tmp_path / "dense.safetensors", "facebook", encoder, builders.create("convnextv2", **ENCODER, **SMALL)
    )
    zeros = np.zeros((1,), np.float32)
    surplus = dict.fromkeys(("mask_token", "proj.weight", "pred.bias", "decoder.0.grn.gamma"), zeros)
    checkpoints.write(tmp_path / "whole.safetensors", tensors | surplus)  # what training left beside the encoder
    whole = builders.create("convnextv2", **ENCODER, **SMALL)
    assert_restores(tmp_path / "whole.safetensors", "facebook_sparse", encoder, whole)


def test_a_format_that_cannot_hold_the_model_is_refused(model, tmp_path):
    with pytest.raises(weights.RestoreError, match="'facebook_sparse' has nothing for 'features'"):
        builders.write(model, tmp_path / "weights.safetensors", "facebook_sparse")
    with pytest.raises(weights.RestoreError, match="formats: timm, timm_conv_mlp, facebook, facebook_sparse"):
        builders.write(model, tmp_path / "weights.safetensors", "torchvision")
    assert not (tmp_path / "weights.safetensors").exists()


GAMMA = "stages.1.1.grn.gamma"
BAD = {
    "missing": (lambda t: t.pop(GAMMA), rf"missing \(1\): {GAMMA}"),
    "flattened": (lambda t: t.update({GAMMA: t[GAMMA].ravel()}), rf"misshaped \(1\): {GAMMA} is \[64\], the model needs \[1, 1, 1, 64\]"),
    "layer scale": (lambda t: t.update({"stages.0.0.gamma": t["norm.bias"][:8]}), r"unused \(1\): stages\.0\.0\.gamma"),
    "NaN": (lambda t: t.update({GAMMA: t[GAMMA] * np.float32("nan")}), rf"not finite \(1\): {GAMMA}"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_checkpoint_that_does_not_fit_is_refused_whole(model, tmp_path, case):
    change, said = BAD[case]
    path = tmp_path / "weights.safetensors"
    builders.write(model, path, "facebook")
    tensors = {key: np.array(value) for key, value in checkpoints.read(path).tensors.items()}
    change(tensors)
    checkpoints.write(path, tensors)
    other = builders.create("convnextv2", num_classes=5, **SMALL)
    before = other.get_weights()
    with pytest.raises(weights.RestoreError, match=said):
        builders.restore(other, path)
    for a, b in zip(before, other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_checkpoints_of_other_variants_are_refused(model, tmp_path):
    path = tmp_path / "weights.safetensors"
    builders.write(create(depths=(1, 1, 1, 1)), path, "facebook")
    with pytest.raises(weights.RestoreError, match=r"missing \(10\): stages\.1\.1"):
        builders.restore(model, path)
    builders.write(builders.create("convnext", num_classes=5, **SMALL), path, "facebook")  # no response normalisation
    with pytest.raises(weights.RestoreError, match=r"missing \(10\): stages\.0\.0\.grn\.beta"):
        builders.restore(model, path)


def test_encoders_and_classifiers_do_not_take_each_others_checkpoints(model, tmp_path):
    path = tmp_path / "weights.safetensors"
    builders.write(create(**ENCODER), path, "facebook")
    with pytest.raises(
        weights.RestoreError, match=r"missing \(4\): head\.bias, head\.weight, norm\.bias, norm\.weight"
    ):
        builders.restore(model, path)
    builders.restore(create(include_top=False), path)  # to put a head of one's own on: its map needs neither
    builders.write(model, path, "facebook")
    with pytest.raises(weights.RestoreError, match=r"unused \(2\): norm\.bias, norm\.weight"):
        builders.restore(create(**ENCODER), path)


# Rows

ROWS = [v for v in catalog.load().variants if v.family == "convnextv2"]


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
