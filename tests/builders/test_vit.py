"""ViT and hybrids: the battery, their parts against their definitions, checkpoints of Flax, and the rows that are published."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

import builders
from builders import checkpoints, counting, layers, vit, weights
from tests.builders.battery import (
    CATALOG,
    GOLDEN,
    Battery,
    Family,
    ReferenceBattery,
    References,
    assert_refused,
    features_of,
    images,
    rewrite,
    row_arguments,
)
from tools.verification import conformance

pytestmark = pytest.mark.slow

PLAIN = {"patch": 8, "hidden": 24, "mlp": 40, "heads": 3, "layers": 2}
HYBRID = PLAIN | {"patch": 1, "resnet": (1, 2), "resnet_width_factor": 0.5}
STEM = PLAIN | {"resnet": (), "resnet_width_factor": 0.5}
KINDS = {"plain": PLAIN, "hybrid": HYBRID, "stem": STEM}
SIZE = (32, 32, 3)
MISFIT = "(missing|unused|misshaped) \\([1-9]"


def family(kind, smallest, sizes, maps, **others):
    """Return a small ViT for the battery; each has the formats of its definitions, and transformers has no hybrids."""
    definitions = {"augreg": "jax", "augreg_linen": "jax", "timm": "timm"}
    if kind == "plain":
        definitions["transformers"] = "transformers"
    return Family(
        "vit",
        architecture=KINDS[kind],
        formats={format: {"definition": definition} for format, definition in definitions.items()},
        suffixes={"augreg": ".npz", "augreg_linen": ".npz"},
        others={name: (change, MISFIT) for name, change in others.items()},
        sizes=sizes,
        smallest=smallest,
        maps=maps,
        blocks=2,
        branches=2,
        inner="blocks.0.attention",
        size=SIZE,
        fixed_size=True,
        pooling=("token", "avg"),
        refused_arguments={
            "definition": ({"definition": "flax"}, "definition='flax' is unknown. Fix: use 'jax'"),
            "hybrid": (
                {"definition": "transformers", "resnet": (1,)},
                "has no hybrids. Fix: use 'jax' or 'timm', or leave resnet",
            ),
            "heads": ({"heads": 5}, "5 heads do not divide a width of 24. Fix: choose heads"),
            "free size": ({"input_shape": (None, None, 3)}, "Fix: pass input_shape"),
            "no unit": ({"resnet": (1, 0)}, r"resnet=\(1, 0\) is not possible. Fix: use whole numbers from 1"),
            "no layer": ({"layers": 0}, "layers=0 is not possible. Fix: use whole numbers from 1"),
            "groups": ({"resnet": (1,), "resnet_width_factor": 0.25}, "Fix: correct resnet_width_factor"),
        },
    )


class TestPlain(Battery):  # patches that do not fit are left out, as upstream
    family = family("plain", 8, {(40, 24): (5, 3), (47, 31): (5, 3)}, {"block_0": 8, "block_1": 8}, hybrid=HYBRID)


class TestHybrid(Battery):  # the ResNet's maps are rounded up
    family = family(
        "hybrid",
        1,
        {(50, 33): (7, 5)},
        {"stride_4": 16, "stride_8": 8, "block_0": 8, "block_1": 8},
        deeper={"layers": 3},
        narrower={"resnet": (1, 1)},
        patch={"patch": 2},
        mlp={"mlp": 48},
        heads={"heads": 4},
        plain=PLAIN | {"resnet": None},
        stem=STEM,
    )


class TestStem(Battery):
    family = family("stem", 29, {(64, 96): (2, 3)}, {"block_0": 2, "block_1": 2}, patch={"patch": 4})


class TestReferences(ReferenceBattery):
    """The .npz cases have a second, larger image size: their position embedding was resized upstream."""

    references = References(
        "vit",
        limits={"logits": 5e-6, "features": 5e-6},
        listings={
            "S_16.npz": row_arguments("vit_s16"),
            "R26_S_32.npz": row_arguments("vit_r26_s32_medaug"),
            "R_Ti_16.npz": row_arguments("vit_r_ti16"),
            "vit_tiny_patch16_224.timm": row_arguments("vit_ti16"),
            "vit_small_r26_s32_224.timm": row_arguments("vit_r26_s32_medaug"),
            "vit_tiny_r_s16_p8_224.timm": row_arguments("vit_r_ti16"),
        },
    )


FAMILIES = {"plain": TestPlain.family, "hybrid": TestHybrid.family, "stem": TestStem.family}


def small(kind="hybrid", **arguments):
    """Return a small model, as the battery makes it."""
    return FAMILIES[kind].model(**arguments)


@pytest.fixture
def model():
    return small()


# The networks against their definitions


def test_the_two_definitions_differ():
    """The right weights under the other definition's GELU, epsilon and standardisation are far from the answers of their own."""
    case = json.loads((GOLDEN / "vit_hybrid_npz/case.json").read_text())
    architecture = conformance.architecture_of(case)
    made = {
        d: builders.create("vit", num_classes=10, input_shape=(64, 64, 3), definition=d, **architecture)
        for d in ("jax", "timm")
    }
    builders.restore(made["jax"], GOLDEN / "vit_hybrid_npz/checkpoint.npz")
    made["timm"].set_weights(made["jax"].get_weights())
    io = np.load(GOLDEN / "vit_hybrid_npz/io.npz")
    difference = {d: np.abs(m(io["images_0"]) - io["logits_0"]).max() for d, m in made.items()}
    assert difference["jax"] < 1e-5 and difference["timm"] > 1e-4


@pytest.mark.parametrize(("definition", "gelu", "epsilon"), [("jax", "gelu_tanh", 1e-6), ("timm", "gelu", 1e-5)])
def test_activation_and_epsilons(definition, gelu, epsilon):
    made = small(definition=definition)
    assert made.get_layer("blocks.1.mlp.fc1").activation == gelu
    groups = [layer for layer in made.layers if isinstance(layer, vit.GroupNormalization)]
    assert len(groups) == 1 + 3 * 3 + 2 and {layer.epsilon for layer in groups} == {epsilon}
    norms = [layer for layer in made.layers if isinstance(layer, layers.LayerNormalization)]
    assert len(norms) == 2 * 2 + 1 and {layer.epsilon for layer in norms} == {1e-6}


def test_the_definition_of_transformers():
    made = small("plain", definition="transformers")
    assert made.get_layer("blocks.1.mlp.fc1").activation == "gelu"
    norms = [layer for layer in made.layers if isinstance(layer, layers.LayerNormalization)]
    assert len(norms) == 2 * 2 + 1 and {layer.epsilon for layer in norms} == {1e-12}
    row = next(v for v in CATALOG.variants if v.stem == "vit_ti16").facts() | {"format": "transformers"}
    assert builders.arguments(row)["definition"] == "transformers"
    row["architecture"] = row["architecture"] | {"definition": "timm"}  # a configuration with another epsilon
    assert builders.arguments(row)["definition"] == "timm"


@pytest.mark.parametrize("definition", ["jax", "timm"])
def test_kernels_are_standardised_by_the_definition(definition):
    layer = vit.StandardizedConvolution(4, 3, strides=2, definition=definition)
    x = images(1, 6, 6, 2)
    layer.build(x.shape)
    raw = images(3, 3, 2, 4) * 1e-4 + 0.3  # so small a variance that the epsilons show
    layer.kernel.assign(raw)
    raw = np.asarray(layer.kernel, np.float64)
    variance = raw.var((0, 1, 2))
    scale = np.sqrt(variance) + 1e-5 if definition == "jax" else np.sqrt(variance + 1e-8)
    expected = tf.nn.conv2d(x, np.float32((raw - raw.mean((0, 1, 2))) / scale), 2, "SAME")
    np.testing.assert_allclose(layer(x), expected, rtol=2e-3, atol=2e-3)
    other = vit.StandardizedConvolution(4, 3, strides=2, definition="timm" if definition == "jax" else "jax")
    other.build(x.shape)
    other.kernel.assign(raw)
    assert np.abs(other(x) - expected).max() > 0.05
    np.testing.assert_array_equal(layer.kernel, np.float32(raw))  # the variable stays raw


@pytest.mark.parametrize("channels", [32, 96])
def test_group_normalisation_against_its_formula(channels):
    layer = vit.GroupNormalization(epsilon=0.01, activation="relu")
    x = images(2, 5, 3, channels) * 2 + 1
    layer.build(x.shape)
    layer.gamma.assign(images(channels))
    layer.beta.assign(images(channels)[::-1])
    grouped = x.astype(np.float64).reshape(2, 15, 32, -1)
    mean, variance = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
    expected = ((grouped - mean) / np.sqrt(variance + 0.01)).reshape(x.shape) * layer.gamma + layer.beta
    np.testing.assert_allclose(layer(x), np.maximum(expected, 0), atol=1e-5)


def test_the_stem_pads_as_xla_does():
    """On even sizes "same" pads a row less before than after; PyTorch's symmetric padding would shift the map."""
    x, made = images(1, *SIZE), small("stem")
    conv, norm, pool = (made.get_layer(f"backbone.{name}") for name in ("conv", "norm", "pool"))
    padded = np.pad(x, ((0, 0), (2, 3), (2, 3), (0, 0)))
    kernel = np.asarray(conv.kernel, np.float64)
    kernel = (kernel - kernel.mean((0, 1, 2))) / (kernel.std((0, 1, 2)) + 1e-5)
    y = tf.nn.conv2d(padded, np.float32(kernel), 2, "VALID")
    np.testing.assert_allclose(conv(x), y, atol=1e-4)
    y = np.pad(norm(y), ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=-np.inf)
    np.testing.assert_allclose(pool(norm(conv(x))), tf.nn.max_pool2d(y, 3, 2, "VALID"), atol=1e-4)


def test_attention_against_keras():
    layer, reference = vit.Attention(3), keras.layers.MultiHeadAttention(3, 8)
    x = images(2, 7, 24)
    layer.build(x.shape)
    for variable in layer.variables:
        variable.assign(images(*variable.shape) * 0.3)
    reference.build(x.shape, x.shape)
    kernels, biases = (np.moveaxis(np.asarray(v), axis, 0) for v, axis in ((layer.qkv_kernel, 1), (layer.qkv_bias, 0)))
    values = dict(zip(("query", "key", "value"), zip(kernels, biases, strict=True), strict=True))
    for variable in reference.variables:
        part, name = variable.path.split("/")[-2:]
        if part == "attention_output":
            variable.assign(layer.out_kernel if name == "kernel" else layer.out_bias)
        else:
            variable.assign(values[part][name == "bias"])
    np.testing.assert_allclose(layer(x), reference(x, x), atol=1e-5)


def all_tokens(model, x):
    """Return the last block's output for every token, layer by layer: the model itself goes on with the class token alone."""
    layer = {
        name: model.get_layer(f"blocks.1.{name}") for name in ("norm1", "attention", "norm2", "mlp.fc1", "mlp.fc2")
    }
    x = keras.Model(model.input, model.get_layer("blocks.0.add2").output)(x)
    x = x + layer["attention"](layer["norm1"](x))
    return x + layer["mlp.fc2"](layer["mlp.fc1"](layer["norm2"](x)))


def test_the_feature_vector_is_the_normalised_class_token(model):
    x = images(2, *SIZE)
    features = features_of(model)(x)
    tokens = all_tokens(model, x)
    np.testing.assert_allclose(features, model.get_layer("features")(tokens[:, 0]), atol=1e-6)


def test_the_map_without_the_top(model):
    x = images(2, *SIZE)
    backbone = builders.create("vit", input_shape=SIZE, include_top=False, **HYBRID)
    backbone.set_weights(model.get_weights()[:-4])
    assert backbone.output_shape == (None, 4, 4, 24)
    tokens = all_tokens(model, x)[:, 1:]
    np.testing.assert_allclose(np.reshape(backbone(x), (2, 16, 24)), tokens, atol=1e-6)
    last = keras.Model(model.input, builders.maps(model)["block_1"])
    np.testing.assert_allclose(np.reshape(last(x), (2, 16, 24)), tokens, atol=1e-6)
    first = keras.Model(model.input, builders.maps(model)["block_0"])
    assert np.abs(np.reshape(first(x), (2, 16, 24)) - tokens).max() > 1e-3  # another map than the block's before


def test_an_image_of_one_grey_is_no_trap():
    """Normalised it is zero everywhere, so that groups of channels have no variance at all."""
    made = small(definition="timm")
    x = tf.zeros([1, *SIZE])
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = made(x, training=True)
    gradients = tape.gradient(logits, [x, *(v.value for v in made.trainable_variables)])
    assert np.isfinite(logits).all() and all(np.isfinite(g).all() for g in gradients)


def test_residual_branches_of_the_resnet_begin_at_zero():
    fresh = builders.create("vit", input_shape=SIZE, **HYBRID)
    assert not np.any(fresh.get_layer("backbone.stages.1.blocks.1.norm3").gamma)
    assert np.all(fresh.get_layer("backbone.stages.1.blocks.0.downsample.norm").gamma.numpy() == 1)


# Weights


def stacked(tensors):
    """The blocks as a scan over them leaves them: one tensor for all, the first axis counts."""
    found = {}
    for key, value in tensors.items():
        if "encoderblock_0" in key:
            blocks = [tensors[key.replace("block_0", f"block_{i}")] for i in range(PLAIN["layers"])]
            found[key.replace("block_0", "block")] = np.stack(blocks)
        elif "encoderblock_" not in key:
            found[key] = value
    return found


STATE = {
    "opt/state/step": np.zeros((), np.int64),
    "opt/state/param_states/cls/momentum": np.zeros((1, 1, 24), np.float32),
}
SPELLINGS = {
    "opt/target": lambda t: {f"opt/target/{key}": value for key, value in t.items()} | STATE,
    "params": lambda t: {f"params/{key}": value for key, value in t.items()} | {"opt/params/0/count": STATE["opt/state/step"]},
    "params/img": lambda t: {f"params/img/{key}": value for key, value in t.items()},
    "stacked": stacked,
    "all of it": lambda t: {f"params/img/{key}": value for key, value in stacked(t).items()},
    "groups without ones": lambda t: {k: v.reshape(-1) if v.shape[:3] == (1, 1, 1) and "/gn" in f"/{k}" else v for k, v in t.items()},
}  # fmt: skip


@pytest.mark.parametrize("format", ["augreg", "augreg_linen"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_other_spellings_of_flax_checkpoints(tmp_path, spelling, format):
    model = small("stem")
    builders.write(model, tmp_path / "w.npz", format)
    plain = checkpoints.read(tmp_path / "w.npz").tensors
    other = SPELLINGS[spelling]({key: np.array(value) for key, value in plain.items()})
    assert {k: v.shape for k, v in other.items()} != {k: v.shape for k, v in plain.items()}
    checkpoints.write(tmp_path / "other.npz", other)
    restored = builders.create("vit", num_classes=5, input_shape=SIZE, **STEM)
    assert builders.restore(restored, tmp_path / "other.npz") == format
    for a, b in zip(model.get_weights(), restored.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    checkpoints.write(tmp_path / "other.npz", other | {"stranger": np.zeros(1, np.float32)})
    with pytest.raises(weights.RestoreError, match=r"unused \(1\): stranger"):
        builders.restore(restored, tmp_path / "other.npz")


def test_flax_tensors_that_come_twice_are_refused(tmp_path):
    """Neither of two tensors for one variable is chosen silently, whatever their roots and wrappings."""
    builders.write(small("stem"), tmp_path / "w.npz", "augreg")
    plain = {key: np.array(value) for key, value in checkpoints.read(tmp_path / "w.npz").tensors.items()}
    restored = builders.create("vit", num_classes=5, input_shape=SIZE, **STEM)
    outside = {f"params/{key}": value for key, value in plain.items()} | {"cls": plain["cls"]}
    checkpoints.write(tmp_path / "w.npz", outside)
    with pytest.raises(weights.RestoreError, match=r"unused \(1\): cls \(outside params/\)"):
        builders.restore(restored, tmp_path / "w.npz")
    norm = "Transformer/encoderblock_0/LayerNorm_0/bias"
    checkpoints.write(tmp_path / "w.npz", plain | {norm.replace("_0/L", "/L"): plain[norm][None]})
    with pytest.raises(weights.RestoreError, match=rf"unused \(1\): {norm} \(a second time\)"):
        builders.restore(restored, tmp_path / "w.npz")


def test_positions_that_leave_the_class_token_out(model, tmp_path):
    """Programs that add positions before the class token store no row for it: the same as a row of zeros."""
    builders.write(model, tmp_path / "w.npz", "augreg_linen")
    key = "Transformer/posembed_input/pos_embedding"
    rewrite(tmp_path / "w.npz", lambda t: t.update(pos_embedding=t.pop(key)[:, 1:]))
    restored = builders.create("vit", num_classes=5, input_shape=SIZE, **HYBRID)
    builders.restore(restored, tmp_path / "w.npz")
    embedding = restored.get_layer("position").embedding.numpy()
    assert not embedding[:, 0].any()
    np.testing.assert_array_equal(embedding[:, 1:], model.get_layer("position").embedding[:, 1:])


@pytest.mark.parametrize(("format", "definition"), [("augreg", "timm"), ("augreg_linen", "timm"), ("timm", "jax")])
def test_a_format_is_refused_for_the_other_definition(tmp_path, format, definition):
    right, wrong = small(definition={"jax": "timm", "timm": "jax"}[definition]), small(definition=definition)
    builders.write(right, tmp_path / "w.npz", format)
    before = wrong.get_weights()
    with pytest.raises(weights.RestoreError, match=r"w\.npz: .* create it with definition="):
        builders.restore(wrong, tmp_path / "w.npz")
    for a, b in zip(before, wrong.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(weights.RestoreError, match="create it with definition="):
        builders.write(wrong, tmp_path / "other.npz", format)
    assert not (tmp_path / "other.npz").exists()


ATTENTION = "Transformer/encoderblock_1/MultiHeadDotProductAttention_1"
POSITIONS = "Transformer/posembed_input/pos_embedding"
BAD = {
    "missing": (lambda t: t.pop("block2/unit1/gn_proj/scale"), r"missing \(1\): block2/unit1/gn_proj/scale"),
    "a third of a variable": (lambda t: t.pop(f"{ATTENTION}/key/bias"), rf"missing \(1\): {ATTENTION}/key/bias"),
    "extra": (lambda t: t.update({"pre_logits/bias": np.ones(5, np.float32)}), r"unused \(1\): pre_logits/bias"),
    "other heads": (lambda t: t.update({f"{ATTENTION}/query/bias": t[f"{ATTENTION}/query/bias"].reshape(4, 6)}), r"query/bias is \[4, 6\]"),
    "a NaN position": (lambda t: t[POSITIONS].__setitem__((0, 3, 3), np.nan), rf"not finite \(1\): {POSITIONS}"),
    "positions of no square": (lambda t: t.update({POSITIONS: t[POSITIONS][:, :14]}), rf"{POSITIONS} is \[1, 14, 24\], the model needs \[1, 17, 24\]"),
    "no positions": (lambda t: t.update({POSITIONS: t[POSITIONS][:, :1]}), rf"{POSITIONS} is \[1, 1, 24\]"),
    "positions of another width": (lambda t: t.update({POSITIONS: t[POSITIONS][:, :10, :8]}), rf"{POSITIONS} is \[1, 17, 8\]"),
    "both spellings": (lambda t: t.update({"Transformer/encoderblock_0/LayerNorm_1/scale": t["cls"][0, 0]}), r"unused \(1\): .*LayerNorm_1/scale"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_damaged_augreg_checkpoint_is_refused(model, tmp_path, case):
    change, said = BAD[case]
    builders.write(model, tmp_path / "w.npz", "augreg")
    rewrite(tmp_path / "w.npz", change)
    assert_refused(FAMILIES["hybrid"].model("other"), tmp_path / "w.npz", said)


# Position embeddings at another size


@pytest.mark.parametrize(("old", "new"), [(7, 12), (14, 24), (4, 6), (12, 7), (5, 1), (1, 3)])
def test_linear_resize_is_that_of_scipy(old, new):
    np.testing.assert_allclose(vit._linear(old, new), ndimage.zoom(np.eye(old), (new / old, 1), order=1), atol=1e-12)


def test_bicubic_resize_is_that_of_torch():
    """torch.nn.functional.interpolate(mode="bicubic", antialias=True) of unit vectors, torch 2.13."""
    larger = [[1.0754716, -0.0754717, 0], [0.6492538, 0.3955224, -0.0447761], [0, 1, 0]]
    smaller = [[0.5846154, 0.4461538, 0, -0.0307692, 0], [-0.0372093, 0.2465116, 0.5813954, 0.2465116, -0.0372093]]
    np.testing.assert_allclose(vit._bicubic(3, 5), larger + [row[::-1] for row in larger[1::-1]], atol=1e-6)
    np.testing.assert_allclose(vit._bicubic(5, 3), [*smaller, smaller[0][::-1]], atol=1e-6)


def test_plain_bicubic_resize_is_that_of_torch():
    """torch.nn.functional.interpolate(mode="bicubic", align_corners=False) of unit vectors, torch 2.13; transformers' resize."""
    larger = [
        [1.0868058, -0.0868056, 0, 0],
        [0.5, 0.59375, -0.09375, 0],
        [-0.0868053, 0.9432870, 0.1608796, -0.0173612],
    ]
    smaller = [[0.8564817, 0.1608797, -0.0173612, 0], [-0.09375, 0.59375, 0.59375, -0.09375]]
    np.testing.assert_allclose(vit._plain_bicubic(4, 6), larger + [row[::-1] for row in larger[::-1]], atol=1e-6)
    np.testing.assert_allclose(vit._plain_bicubic(4, 3), [*smaller, smaller[0][::-1]], atol=1e-6)


@pytest.mark.parametrize("format", ["augreg", "timm", "transformers"])
def test_restoring_at_another_size_resizes_the_positions_only(tmp_path, format):
    definition = format if format in vit.DEFINITIONS else "jax"
    model = small("plain", definition=definition)
    builders.write(model, tmp_path / "w.npz", format)
    large = builders.create("vit", num_classes=5, input_shape=(56, 24, 3), definition=definition, **PLAIN)
    assert builders.restore(large, tmp_path / "w.npz") == format
    axis_weights = {"augreg": vit._linear, "timm": vit._bicubic, "transformers": vit._plain_bicubic}[format]
    for a, b in zip(model.variables, large.variables, strict=True):
        if a.name != "embedding":
            np.testing.assert_array_equal(a, b)
            continue
        grid = np.einsum("ik,jl,klc->ijc", axis_weights(4, 7), axis_weights(4, 3), a.numpy()[0, 1:].reshape(4, 4, 24))
        np.testing.assert_allclose(b.numpy()[0, 1:], grid.reshape(21, 24), atol=1e-6)
        np.testing.assert_array_equal(b[0, 0], a[0, 0])  # the class token's position is no place in the image


def test_a_grid_of_as_many_positions_but_another_shape_is_resized_too(tmp_path):
    builders.write(small("plain"), tmp_path / "w.npz", "augreg")
    wide = builders.create("vit", num_classes=5, input_shape=(16, 64, 3), **PLAIN)
    builders.restore(wide, tmp_path / "w.npz")
    before = small("plain").get_layer("position").embedding.numpy()
    assert np.abs(wide.get_layer("position").embedding - before).max() > 0.01


# Rows


def rows():
    return [v for v in CATALOG.variants if v.family == "vit"]


# 10^9 multiply-adds: as timm's benchmark tables print them, and ours where those are too high: they count about four
# operations for each weight of the ResNet, for its standardisation, and the normalisations.
PRINTED = {"vit_s16": (4.61, 4.61), "vit_r_ti16": (0.44, 0.44), "vit_r26_s32_medaug": (3.56, 3.464)}


@pytest.mark.parametrize("stem", PRINTED)
def test_multiply_adds(stem):
    printed, right = PRINTED[stem]
    row = next(v for v in rows() if v.stem == stem).facts()
    hidden, mlp = row["architecture"]["hidden"], row["architecture"]["mlp"]
    patches = 14**2 if stem == "vit_s16" else 7**2
    left_out = patches * (
        2 * (patches + 1) * hidden + hidden * hidden + 2 * hidden * mlp
    )  # in the last block, by us alone
    giga = (counting.count_row(row).multiply_adds + left_out) / 1e9
    assert giga == pytest.approx(right, rel=0.015)
    assert (giga == pytest.approx(printed, rel=0.015)) == (printed == right)


def test_rows_name_the_checkpoints_that_they_say():
    """Each variant has a file of its own, both heads come from it, and its name ends with the resolution."""
    published = [v for v in rows() if v.size != "digits"]
    assert len(published) == 20 and len({v.checkpoint for v in published}) == 20
    for v in published:
        assert v.names == {"classifier": f"{v.stem}_classification", "feature_extractor": f"{v.stem}_fe"}
        assert v.checkpoint.endswith(
            f"--imagenet2012-steps_20k-lr_{v.checkpoint.split('-lr_')[-1].split('-')[0]}-res_{v.resolution}.npz"
        )
        assert v.stem.endswith("_384") == (v.resolution == 384) and v.transform == f"augreg_{v.resolution}"
        assert v.format == "augreg" and v.normalization == "half" and v.pixel_range == (0.0, 1.0)
        assert builders.arguments(v.facts())["definition"] == "jax"
    augmentation = {v.stem: v.checkpoint.split("-aug_")[1].split("-")[0] for v in published}
    assert augmentation["vit_r26_s32_lightaug"] == "light0" and augmentation["vit_r26_s32_medaug"] == "medium2"


def test_a_build_refuses_a_checkpoint_of_another_image_size(tmp_path):
    """A 384 file under a 224 row would load, resized, and answer something that no figure of the row is for."""
    golden = GOLDEN / "vit_npz"
    case = json.loads((golden / "case.json").read_text())
    architecture = {key: case[key] for key in ("patch", "hidden", "mlp", "heads", "layers")}
    model = builders.create("vit", num_classes=10, input_shape=(96, 96, 3), **architecture)
    assert builders.restore(model, golden / "checkpoint.npz") == "augreg"
    with pytest.raises(weights.RestoreError, match=r"misshaped \(1\): Transformer/posembed_input/pos_embedding"):
        builders.restore(model, golden / "checkpoint.npz", resize=False)
