"""ConvNeXt as a Keras user meets it, and its weights in every upstream format."""

from pathlib import Path

import keras
import numpy as np
import pytest

import builders
from builders import checkpoints, layers, weights

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
SMALL = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}


def images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.fixture
def model():
    keras.utils.set_random_seed(1)
    made = builders.create("convnext", num_classes=5, **SMALL)
    for variable in made.variables:  # so that no term of the network is zero or one
        variable.assign(variable + 0.1 * images(*variable.shape))
    return made


def test_logits_and_features(model):
    x = images(2, 64, 64, 3)
    assert model(x).shape == (2, 5)
    features = keras.Model(model.input, model.get_layer("features").output)(x)
    head = model.get_layer("head")
    np.testing.assert_allclose(model(x), features @ head.kernel + head.bias, atol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (33, 40), (75, 90), (224, 160)])
def test_any_size_as_upstream_floors_it(model, size):
    backbone = builders.create("convnext", include_top=False, **SMALL)
    height, width = size
    assert backbone(images(1, height, width, 3)).shape == (1, height // 4 // 2 // 2 // 2, width // 4 // 2 // 2 // 2, 32)
    assert model(images(1, height, width, 3)).shape == (1, 5)


def test_custom_input_shape_and_tensor():
    assert builders.create("convnext", input_shape=(96, 64, 3), **SMALL).input_shape == (None, 96, 64, 3)
    pixels = keras.Input((64, 64, 3))
    scaled = keras.layers.Rescaling(1 / 255)(pixels)
    built = builders.create("convnext", input_tensor=scaled, include_top=False, **SMALL)
    head = keras.layers.Dense(4, activation="sigmoid")(keras.layers.GlobalAveragePooling2D()(built.output))
    whole = keras.Model(pixels, head)
    assert whole(images(1, 64, 64, 3)).shape == (1, 4)
    plain = builders.create("convnext", include_top=False, **SMALL)
    plain.set_weights(built.get_weights())
    x = images(1, 64, 64, 3) * 255
    np.testing.assert_allclose(built(x), plain(x / 255), atol=1e-4)


def test_pooled_features_without_the_top(model):
    backbone = builders.create("convnext", include_top=False, pooling="avg", **SMALL)
    backbone.set_weights(model.get_weights()[:-2])
    x = images(2, 64, 64, 3)
    np.testing.assert_allclose(backbone(x), keras.Model(model.input, model.get_layer("features").output)(x), atol=1e-6)


def test_epsilon_is_1e_6_everywhere(model):
    norms = [layer for layer in model.layers if isinstance(layer, layers.LayerNormalization)]
    assert len(norms) == 1 + 3 + 5 + 1 and {layer.epsilon for layer in norms} == {1e-6}


def test_normalisation_follows_the_average(model):
    """Upstream averages first and normalises the vector; the other order costs 3 to 4 points of accuracy."""
    names = [layer.name for layer in model.layers]
    assert names[-3:] == ["pool", "features", "head"]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = builders.create("convnext", num_classes=5, **SMALL)
    finally:
        keras.config.set_dtype_policy(previous)
    assert {v.dtype for v in model.variables} == {"float32"}
    assert model(images(2, 64, 64, 3)).dtype == "float32"
    assert model.get_layer("stages.0.blocks.0.mlp.fc1").compute_dtype == policy.removeprefix("mixed_")
    assert model.get_layer("features").compute_dtype == "float32"
    full = builders.create("convnext", num_classes=5, **SMALL)
    full.set_weights(model.get_weights())
    x = images(2, 64, 64, 3)
    np.testing.assert_allclose(model(x), full(x), atol=0.02)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [v.numpy() for v in model.trainable_variables]
    model.fit(x, np.array([0, 1]), verbose=0)
    assert sum(not np.array_equal(b, v.numpy()) for b, v in zip(before, model.trainable_variables, strict=True)) > 20


def test_drop_path_is_stochastic_in_training_only_and_unbiased():
    layer = layers.DropPath(0.5)
    x = np.ones((4000, 1, 1, 2), "float32")
    np.testing.assert_array_equal(layer(x, training=False), x)
    dropped = np.asarray(layer(x, training=True))
    assert set(np.unique(dropped)) == {0.0, 2.0}  # an image keeps its branch, doubled, or loses it whole
    assert (dropped[..., 0] == dropped[..., 1]).all() and abs(dropped.mean() - 1) < 0.1


def test_drop_path_grows_linearly_to_the_last_block():
    model = builders.create("convnext", drop_path_rate=0.4, **SMALL)
    shares = [layer.share * layer.rate for layer in model.layers if isinstance(layer, layers.DropPath)]
    np.testing.assert_allclose(shares, np.linspace(0, 0.4, 5))


def test_gelu_is_exact():
    layer = layers.Linear(1, activation="gelu")
    layer.build((None, 1))
    layer.kernel.assign([[1.0]])
    # x * Phi(x), from tables of the normal distribution; the tanh form gives 0.8411920 and -0.1588080 at 1.
    np.testing.assert_allclose(
        np.ravel(layer(np.array([[1.0], [-1.0], [2.0]]))), [0.8413447, -0.1586553, 1.9544997], atol=2e-7
    )


def test_saves_and_loads_as_a_keras_model(model, tmp_path):
    model.save(tmp_path / "model.keras")
    x = images(1, 64, 64, 3)
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(x), model(x))


def test_unknown_family_and_argument():
    with pytest.raises(ValueError, match="there is no family 'convnxt'"):
        builders.create("convnxt")
    with pytest.raises(TypeError, match="depth"):
        builders.create("convnext", depth=3)


# Weights

SIZES = {
    "tiny": {"depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768)},
    "atto": {"depths": (2, 2, 6, 2), "dims": (40, 80, 160, 320)},
}


@pytest.mark.parametrize("listing", sorted(p.name for p in (GOLDEN / "checkpoint-keys").glob("convnext_*.txt")))
def test_names_and_shapes_are_the_upstream_ones(listing):
    variant, source = listing.removesuffix(".txt").split(".")
    family = builders.family_module("convnext")
    with layers.deferred_weights():
        model = builders.create("convnext", **SIZES[variant.split("_")[1]])
    format = {"fb": "facebook"}.get(source, source)
    ours = {
        key: array.shape
        for w in weights.weights(model, family, format)
        for key, array in zip(w.keys, w.kind.write(np.broadcast_to(np.float32(0), w.variable.shape)), strict=True)
    }
    upstream = {}
    for line in (GOLDEN / "checkpoint-keys" / listing).read_text().splitlines():
        key, shape = line.split(" ", 1)
        upstream[key] = tuple(int(n) for n in shape.strip("()").split(",") if n.strip())
    assert ours == upstream


@pytest.mark.parametrize("format", ["timm", "timm_conv_mlp", "facebook", "torchvision"])
def test_round_trip_in_every_format(model, tmp_path, format):
    path = tmp_path / "weights.safetensors"
    builders.write(model, path, format)
    with layers.deferred_weights():
        other = builders.create("convnext", num_classes=5, **SMALL)
    assert builders.restore(other, path) == format
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def spoiled(path, change):
    tensors = {key: np.array(value) for key, value in checkpoints.read(path).tensors.items()}
    change(tensors)
    checkpoints.write(path, tensors)


NAN = np.full((5,), np.nan, np.float32)
BAD = {
    "missing": (lambda t: t.pop("stages.1.blocks.0.gamma"), r"missing \(1\): stages\.1\.blocks\.0\.gamma"),
    "extra": (lambda t: t.update({"stages.1.extra": NAN[:1] * 0}), r"unused \(1\): stages\.1\.extra"),
    "misshaped": (lambda t: t.update({"head.fc.bias": np.zeros(6, np.float32)}), r"misshaped \(1\): head\.fc\.bias is \[6\], the model needs \[5\]"),
    "transposed": (lambda t: t.update({"head.fc.weight": np.ascontiguousarray(t["head.fc.weight"].T)}), r"misshaped \(1\): head\.fc\.weight is \[32, 5\]"),
    "NaN": (lambda t: t.update({"head.fc.bias": NAN}), r"not finite \(1\): head\.fc\.bias"),
    "infinite": (lambda t: t.update({"head.fc.bias": NAN * 0 + np.inf}), r"not finite \(1\): head\.fc\.bias"),
    "renamed": (lambda t: t.update({"head.fc.bia": t.pop("head.fc.bias")}), r"missing \(1\): head\.fc\.bias(.|\n)*unused \(1\): head\.fc\.bia"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_checkpoint_that_does_not_fit_is_refused_whole(model, tmp_path, case):
    change, said = BAD[case]
    path = tmp_path / "weights.safetensors"
    builders.write(model, path, "timm")
    spoiled(path, change)
    other = builders.create("convnext", num_classes=5, **SMALL)
    before = other.get_weights()
    with pytest.raises(weights.RestoreError, match=said) as refused:
        builders.restore(other, path)
    for name in ("missing", "unused", "misshaped", "not finite"):
        assert f"{name} (" in str(refused.value)
    for a, b in zip(before, other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_checkpoint_of_another_variant_is_refused(tmp_path):
    small = builders.create("convnext", num_classes=5, **SMALL)
    builders.write(small, tmp_path / "small.safetensors", "facebook")
    large = builders.create("convnext", num_classes=5, **(SMALL | {"depths": (1, 1, 3, 1)}))
    with pytest.raises(weights.RestoreError, match=r"missing \(9\): stages\.2\.2"):
        builders.restore(large, tmp_path / "small.safetensors")


def test_checkpoint_of_another_family_is_refused(tmp_path):
    checkpoints.write(tmp_path / "other.safetensors", {"layer1.conv.weight": np.zeros((1, 1, 1, 1), np.float32)})
    with pytest.raises(weights.RestoreError, match="no known format"):
        builders.restore(builders.create("convnext", **SMALL), tmp_path / "other.safetensors")


def test_backbone_takes_a_classifiers_checkpoint_and_leaves_only_the_head(model, tmp_path):
    path = tmp_path / "weights.safetensors"
    builders.write(model, path, "facebook")
    backbone = builders.create("convnext", include_top=False, **SMALL)
    builders.restore(backbone, path)
    for a, b in zip(model.get_weights(), backbone.get_weights(), strict=False):
        np.testing.assert_array_equal(a, b)
    spoiled(path, lambda t: t.update({"surplus.weight": NAN[:1] * 0}))
    with pytest.raises(weights.RestoreError, match=r"unused \(1\): surplus\.weight"):
        builders.restore(backbone, path)


def test_deferred_weights_show_when_nothing_sets_them():
    with layers.deferred_weights():
        model = builders.create("convnext", num_classes=5, **SMALL)
    assert all(np.isnan(w).all() for w in model.get_weights())
    assert np.isnan(model(images(1, 32, 32, 3))).all()
