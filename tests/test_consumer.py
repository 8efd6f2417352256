"""The published modules as their users meet them: tensorflow_hub, tf_keras and Keras 3 over HTTP from the real server."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub
import tf_keras

from tools import catalog

CLASSIFIERS = [m for m in catalog.load().expand(["quickstart"]) if m.head == "classifier"]
EXTRACTORS = [m for m in catalog.load().expand(["quickstart"]) if m.head == "feature_extractor"]
by_name = {"ids": lambda m: m.name}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """One empty cache of tensorflow_hub for this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFHUB_CACHE_DIR", str(tmp_path_factory.mktemp("tfhub")))
        yield


@pytest.fixture(scope="module")
def load(any_url):
    """`load(handle)`, what `hub.load` gives for a module's address: once for all tests that leave its weights as they are."""
    return functools.cache(lambda handle: tensorflow_hub.load(f"{any_url}/{handle}"))


def floats(images, module):
    low, high = module.variant.pixel_range
    return (images / 255 * (high - low) + low).astype("float32")


@pytest.mark.parametrize("module", CLASSIFIERS, **by_name)
def test_classifier_by_url(load, digits, module):
    images, labels = digits
    loaded = load(module.handle)
    logits = loaded(images).numpy()
    assert logits.shape == (len(images), 10) and logits.dtype == np.float32
    assert (logits.argmax(-1) == labels).mean() >= 0.98
    names = [name.decode() for name in loaded.labels().numpy()]
    assert names == ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    np.testing.assert_allclose(loaded(floats(images, module)).numpy(), logits, atol=1e-3)


@pytest.mark.parametrize("module", CLASSIFIERS, **by_name)
def test_classifier_as_keras_layer(any_url, digits, module):
    images, labels = digits
    model = tf_keras.Sequential([tensorflow_hub.KerasLayer(f"{any_url}/{module.handle}")])
    assert (model.predict(floats(images, module), verbose=0).argmax(-1) == labels).mean() >= 0.98
    assert model.trainable_variables == []


@pytest.mark.parametrize("module", EXTRACTORS, **by_name)
def test_fine_tune_a_new_head_then_the_whole(any_url, digits, tmp_path, module):
    """Odd digits against even ones: the head alone, then everything, then saved and loaded again by the user."""
    images, labels = floats(digits[0], module)[:192], digits[1][:192] % 2
    url = f"{any_url}/{module.handle}"
    head = tf_keras.Sequential([tensorflow_hub.KerasLayer(url), tf_keras.layers.Dense(2)])
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    head.compile(tf_keras.optimizers.Adam(0.05), loss, metrics=["accuracy"])
    head.build((None, 8, 8, 3))
    assert len(head.trainable_variables) == 2
    first = head.evaluate(images, labels, verbose=0)[1]
    head.fit(images, labels, epochs=12, batch_size=64, verbose=0)
    assert head.evaluate(images, labels, verbose=0)[1] > max(first, 0.9)

    layer = tensorflow_hub.KerasLayer(url, trainable=True, arguments={"drop_path_rate": 0.1})
    whole = tf_keras.Sequential([layer, tf_keras.layers.Dense(2)])
    whole.compile(tf_keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    whole.build((None, 8, 8, 3))
    # With the variables of optimizer and metrics there, `fit` traces once and not twice.
    whole.optimizer.build(whole.trainable_variables)
    whole.evaluate(images, labels, verbose=0)
    assert len(layer.trainable_variables) > 10
    before = [v.numpy() for v in layer.trainable_variables]
    whole.fit(images, labels, epochs=12, batch_size=32, verbose=0)
    changed = [not np.array_equal(b, v.numpy()) for b, v in zip(before, layer.trainable_variables, strict=True)]
    assert all(changed)
    assert whole.evaluate(images, labels, verbose=0)[1] > 0.95

    whole.save(tmp_path / "mine", save_format="tf")
    again = tf_keras.models.load_model(tmp_path / "mine")
    np.testing.assert_allclose(again.predict(images, verbose=0), whole.predict(images, verbose=0), atol=1e-5)


@pytest.mark.parametrize("module", CLASSIFIERS[:1], **by_name)
def test_drop_path_is_random_in_training_only(load, digits, module):
    loaded = load(module.handle)
    images = digits[0][:16]
    same = loaded(images, training=True).numpy()
    np.testing.assert_allclose(same, loaded(images).numpy(), atol=1e-5)  # the rate is 0 by default
    dropped = [loaded(images, training=True, drop_path_rate=0.9).numpy() for _ in range(2)]
    assert not np.allclose(dropped[0], dropped[1])
    np.testing.assert_allclose(loaded(images, training=False, drop_path_rate=0.9).numpy(), same, atol=1e-5)


@pytest.mark.parametrize("module", [*CLASSIFIERS, *EXTRACTORS], **by_name)
def test_keras_3_through_its_signature(any_url, load, digits, module):
    path = tensorflow_hub.resolve(f"{any_url}/{module.handle}")
    layer = keras.layers.TFSMLayer(path, call_endpoint="serving_default")
    loaded = load(module.handle)
    output = {"classifier": "logits", "feature_extractor": "features"}[module.head]
    images = floats(digits[0][:4], module)
    np.testing.assert_allclose(layer(images)[output], loaded(images), atol=1e-5)
    uint8 = loaded.signatures["serving_uint8"](images=tf.constant(digits[0][:4]))
    np.testing.assert_allclose(uint8[output], loaded(images), atol=1e-3)


# What the pages warn of happens, and what they advise helps.


@pytest.mark.parametrize("module", [m for m in CLASSIFIERS if m.variant.pixel_range != (0, 1)], **by_name)
def test_pixels_of_another_range_are_answered_wrongly(load, digits, module):
    images, labels = digits
    wrong = load(module.handle)((images / 255).astype("float32")).numpy().argmax(-1)
    assert (wrong == labels).mean() < 0.3


@pytest.fixture
def trained(any_url, digits):
    """Return a model of Keras 2 with a new head on a module."""
    layer = tensorflow_hub.KerasLayer(f"{any_url}/{EXTRACTORS[0].handle}")
    model = tf_keras.Sequential([layer, tf_keras.layers.Dense(5)])
    model.build((None, *digits[0].shape[1:]))
    return model


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_saved_model_is_loaded_with_custom_objects(trained, digits, tmp_path, ending):
    images = floats(digits[0][:4], EXTRACTORS[0])
    trained.save(tmp_path / f"trained.{ending}")
    with pytest.raises((TypeError, ValueError), match="KerasLayer"):
        tf_keras.models.load_model(tmp_path / f"trained.{ending}")
    custom_objects = {"KerasLayer": tensorflow_hub.KerasLayer}
    again = tf_keras.models.load_model(tmp_path / f"trained.{ending}", custom_objects=custom_objects)
    np.testing.assert_array_equal(again(images), trained(images))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_needs_the_layer_in_float32(any_url, load, digits, policy):
    images = floats(digits[0][:4], CLASSIFIERS[0])
    tf_keras.mixed_precision.set_global_policy(policy)
    try:
        with pytest.raises(ValueError, match="Could not find matching concrete function"):
            tensorflow_hub.KerasLayer(f"{any_url}/{CLASSIFIERS[0].handle}")(images)
        answers = tensorflow_hub.KerasLayer(f"{any_url}/{CLASSIFIERS[0].handle}", dtype="float32")(images)
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")
    np.testing.assert_array_equal(answers, load(CLASSIFIERS[0].handle)(images))


def test_keras_3_cannot_train_a_module_and_saves_its_folder_only(any_url, digits, tmp_path):
    path = tensorflow_hub.resolve(f"{any_url}/{EXTRACTORS[0].handle}")

    def model(**settings):
        layer = keras.layers.TFSMLayer(path, call_endpoint="serving_default", **settings)
        inputs = keras.Input(digits[0].shape[1:])
        made = keras.Model(inputs, keras.layers.Dense(5)(layer(inputs)["features"]))
        made.compile("adam", "mse")
        return made

    images = floats(digits[0][:4], EXTRACTORS[0])
    with pytest.raises(ValueError, match="not a valid scope name"):
        model().fit(images, np.zeros((4, 5)), verbose=0)
    made = model(trainable=False)
    made.fit(images, np.zeros((4, 5)), verbose=0)
    assert len(made.trainable_variables) == 2
    made.save(tmp_path / "trained.keras")
    assert (tmp_path / "trained.keras").stat().st_size < 3_000_000
    with pytest.raises(ValueError, match="safe_mode=False"):
        keras.models.load_model(tmp_path / "trained.keras")
    again = keras.models.load_model(tmp_path / "trained.keras", safe_mode=False)
    np.testing.assert_array_equal(again(images), made(images))


@pytest.mark.parametrize("module", CLASSIFIERS[:1], **by_name)
def test_plain_archive_url_and_unversioned_handle(any_url, load, digits, module):
    expected = load(module.handle)(digits[0][:2])
    plain = tensorflow_hub.load(f"{any_url}/{module.handle}.tar.gz")
    np.testing.assert_array_equal(plain(digits[0][:2]), expected)
    newest = tensorflow_hub.load(f"{any_url}/{module.handle.rsplit('/', 1)[0]}")
    np.testing.assert_array_equal(newest(digits[0][:2]), expected)


@pytest.mark.parametrize("module", CLASSIFIERS, **by_name)
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (5, 700), (32, 32), (480, 640)])
def test_any_height_width_and_batch(load, module, size):
    loaded = load(module.handle)
    pixels = np.random.default_rng(0).integers(0, 256, (3, *size, 3), dtype=np.uint8)
    batch = loaded(pixels).numpy()
    assert np.isfinite(batch).all()
    np.testing.assert_allclose(loaded(pixels[1:2]).numpy()[0], batch[1], atol=1e-4)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((8, 8, 3), np.float32), r"None, None, None, 3"),
        (np.zeros((1, 8, 8, 1), np.float32), r"None, None, None, 3"),
        (np.zeros((1, 8, 8, 3), np.float64), r"float32|uint8"),
        (np.zeros((1, 0, 8, 3), np.uint8), r"at_least_1x1_pixel"),
    ],
    ids=["rank", "channels", "dtype", "empty"],
)
def test_wrong_images_are_told_what_is_expected(load, images, said):
    loaded = load(CLASSIFIERS[0].handle)
    with pytest.raises((ValueError, TypeError, tf.errors.OpError), match=said):
        loaded(tf.constant(images))


def test_golden_in_the_archive_replays(any_url, load):
    for module in [*CLASSIFIERS, *EXTRACTORS]:
        path = tensorflow_hub.resolve(f"{any_url}/{module.handle}")
        golden = np.load(f"{path}/assets.extra/golden.npz")
        got = load(module.handle)(golden["images"]).numpy()
        assert np.abs(got - golden["outputs"]).max() <= 1e-4 * max(1, np.abs(golden["outputs"]).max())


@pytest.mark.parametrize("module", EXTRACTORS, **by_name)
def test_maps_of_the_stages(any_url, digits, module):
    """For dense tasks: float32 maps by stride or block, from uint8 or float32, which gradients flow through in training.

    A module of its own, since training updates batch statistics.
    """
    loaded = tensorflow_hub.load(f"{any_url}/{module.handle}")
    found = loaded.stages(digits[0][:2])
    assert {each.dtype for each in found.values()} == {tf.float32}
    np.testing.assert_allclose(found["features"], loaded(digits[0][:2]), atol=1e-5)
    maps = {name: values for name, values in found.items() if name != "features"}
    assert len(maps) >= 4
    for name, values in maps.items():
        assert values.shape[0] == 2 and values.shape.rank == 4
        if name.startswith("stride_"):
            assert values.shape[1] == 32 // int(name.removeprefix("stride_"))
    again = loaded.stages(floats(digits[0][:2], module))
    for name, values in maps.items():
        np.testing.assert_allclose(again[name], values, atol=1e-3)
    with tf.GradientTape() as tape:
        found = loaded.stages(digits[0][:2], training=True, drop_path_rate=0.1)
        loss = sum(tf.reduce_mean(tf.square(found[name])) for name in maps)
    gradients = tape.gradient(loss, loaded.trainable_variables)
    assert sum(gradient is not None for gradient in gradients) >= len(gradients) - 2  # all but the last normalisation
