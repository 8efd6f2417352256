"""`precision = "bfloat16"` in a row: the same weights, answers close to float32's, the same accuracy, and pages that say so.

    python -m pytest tests/builders/test_precision.py

Measured here on the 360 test digits, float32 and bfloat16: ConvNeXt 357 and 357 right, RegNetY 359 and 358, ViT 360 and 360.
"""

import json
import shutil
import tarfile

import numpy as np
import pytest

import builders
from builders import precision
from tests.builders.battery import CATALOG, described
from tests.support.commands import run_script
from tools.catalog.catalog import PRECISIONS
from tools.common.files import ROOT
from tools.verification.verify import Verification

pytestmark = pytest.mark.slow

ROWS = {variant.stem: variant for variant in CATALOG.variants}
NAME, SIBLING = "convnext_digits_bf16", "convnext_digits"
FAMILIES = ("convnext_digits", "regnety_digits", "vit_digits")
FEWER_RIGHT = 0.003  # of the images: 0.3 points
# Of 360 images the one that changes most changes by more than two golden images do: by up to 0.083.
LARGEST_CHANGE_OF_DIGITS = 2**-3


def test_one_vocabulary():
    assert list(PRECISIONS) == list(precision.POLICIES) == list(precision.TOLERANCES) == ["float32", "bfloat16"]
    assert precision.tolerance({}) == precision.tolerance({"precision": "float32"}) == 1e-4
    with pytest.raises(ValueError, match=r"float16.*use float32 or bfloat16"), precision.using("float16"):
        pass


def test_the_policy_ends_with_the_block():
    import keras

    with precision.using("bfloat16"):
        assert keras.config.dtype_policy().compute_dtype == "bfloat16"
    assert keras.config.dtype_policy().name == "float32"


def test_no_setting_of_keras_changes_a_rows_model(monkeypatch):
    import keras

    from builders.build import restored

    row, path = ROWS[SIBLING].facts(), ROOT / ROWS[SIBLING].checkpoint
    plain = restored(row, path, SIBLING).to_json()
    before = keras.config.floatx(), keras.config.image_data_format(), keras.config.dtype_policy()
    try:
        keras.config.set_floatx("float16")
        keras.config.set_image_data_format("channels_first")
        keras.config.set_dtype_policy("mixed_float16")
        assert restored(row, path, SIBLING).to_json() == plain
        assert (keras.config.floatx(), keras.config.dtype_policy().name) == ("float16", "mixed_float16")
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_image_data_format(before[1])
        keras.config.set_dtype_policy(before[2])


@pytest.mark.parametrize(
    ("answer", "rounded"),
    [
        ([[123456.6, -0.1, 1.6, 2.4]], [[123457, 0, 2, 2]]),
        ([[0.0123456789, 2e-9]], [[0.0123457, 0]]),
        ([[99999999.0, 50.1]], [[100000000, 100]]),
        ([[0.0, 0.0]], [[0, 0]]),
    ],
)
def test_golden_outputs_have_six_digits(answer, rounded):
    found = precision.rounded(np.float64(answer))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.float32(rounded))
    for spread in (
        np.float64(answer) + np.max(answer) * np.array([-1e-13, 1e-13])[:, None]
    ):  # more than processors differ
        assert precision.rounded(spread[None]).tobytes() == found.tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_stays_so(value):
    np.testing.assert_array_equal(precision.rounded(np.array([1.0, value])), np.float32([1, value]))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_keeps_its_accuracy(name, digits):
    import tensorflow as tf

    from builders import export
    from builders.build import restored

    images, labels = export.normalised_images(digits[0], described(name)), digits[1]
    answers = {}
    for each in PRECISIONS:
        model = restored(ROWS[name].facts() | {"precision": each}, ROOT / ROWS[name].checkpoint, name)
        assert {variable.dtype for variable in model.variables} == {"float32"}
        inner = {
            layer.compute_dtype for layer in model.layers if layer.weights and layer.name not in ("features", "head")
        }
        assert inner == {each} and model.get_layer("head").compute_dtype == "float32"
        answers[each] = tf.function(lambda x, model=model: model(x, training=False))(images).numpy()
        assert answers[each].dtype == np.float32
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(images[:2], training=True)))
        for variable, gradient in zip(
            model.trainable_variables, tape.gradient(loss, [v.value for v in model.trainable_variables]), strict=True
        ):
            assert gradient.dtype == tf.float32 and 0 < float(tf.norm(gradient)) < np.inf, variable.path
    assert 1e-4 < precision.difference(answers["bfloat16"], answers["float32"]) < LARGEST_CHANGE_OF_DIGITS
    right = {each: int((answer.argmax(-1) == labels).sum()) for each, answer in answers.items()}
    assert right["bfloat16"] >= right["float32"] - FEWER_RIGHT * len(labels), right


@pytest.fixture(scope="module")
def halved(shared):
    """A hub with the digits row in bfloat16, published by the command."""
    folder = shared / "bfloat16-hub"
    run_script("publish", NAME, "--hub", folder, "--url", "http://127.0.0.1:9")
    return folder / "hubpress"


def record(folder, name):
    return json.loads((folder / f"{name}/1.json").read_text())


@pytest.mark.parametrize("head", ["", "_fe"])
def test_its_record_says_what_precision_costs(halved, hub, head):
    found, exact = record(halved, NAME + head), record(hub / "hubpress", SIBLING + head)
    assert found["row"]["precision"] == "bfloat16" and exact["row"]["precision"] == "float32"
    checks = found["verification"]
    assert checks["fine_tuned"] and checks["golden_tolerance"] == precision.TOLERANCES["bfloat16"]
    assert 1e-4 < checks["precision_change"] < precision.TOLERANCES["bfloat16"] / 2
    assert exact["verification"]["golden_tolerance"] == 1e-4 and "precision_change" not in exact["verification"]
    for key in ("parameters", "trainable_parameters", "gflops"):
        assert found["measured"][key] == exact["measured"][key]
    assert found["checkpoint"] == exact["checkpoint"] and found["signature"] == exact["signature"]
    if not head:
        right = [each["measured"]["top1"]["correct"] for each in (found, exact)]
        assert right[0] >= right[1] - FEWER_RIGHT * 360 and right[1] > 350


def unpacked(folder, name, to):
    with tarfile.open(folder / f"{name}/1.tar.gz") as archive:
        archive.extractall(to / name, filter="data")
    return to / name


def test_it_answers_like_its_sibling_from_the_same_variables(halved, hub, digits, tmp_path):
    import tensorflow_hub

    pairs = [(halved, f"{NAME}_fe"), (hub / "hubpress", f"{SIBLING}_fe")]
    modules = [tensorflow_hub.load(str(unpacked(*pair, tmp_path))) for pair in pairs]
    ours, exact = ({v.name: v.numpy() for v in module.variables} for module in modules)
    assert ours.keys() == exact.keys()
    for name, value in exact.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name, strict=True)
    features = [module(digits[0]).numpy() for module in modules]
    assert features[0].dtype == np.float32
    assert 1e-4 < precision.difference(*features) < precision.TOLERANCES["bfloat16"]
    for name, stage in modules[0].stages(digits[0][:8]).items():
        assert stage.dtype.name == "float32"
        assert precision.difference(stage, modules[1].stages(digits[0][:8])[name].numpy()) < 2**-4


def test_the_archive_alone_says_how_closely_it_repeats(halved, hub, tmp_path):
    shutil.copy(halved / f"{NAME}/1.tar.gz", tmp_path / "module.tar.gz")
    with Verification() as verifier:
        result = verifier.verify(*verifier.find(str(tmp_path / "module.tar.gz")))
    golden = next(check for check in result.checks if check.name == "golden")
    assert golden.state == "ok" and f"tolerance {precision.TOLERANCES['bfloat16']:.2g}" in golden.message


def test_it_becomes_a_keras_model_of_the_same_precision_again(halved, tmp_path):
    import keras

    text = (unpacked(halved, NAME, tmp_path) / "assets.extra/keras.json").read_text()
    model = keras.models.model_from_json(text)
    assert model.get_layer("stem.conv").compute_dtype == "bfloat16"
    assert model.get_layer("head").compute_dtype == "float32"
    builders.restore(model, ROOT / ROWS[NAME].checkpoint)


def test_pages_and_index_name_it(halved, hub):
    for file in ("1.md", "1/index.html"):
        text, exact = (halved / f"{NAME}/{file}").read_text(), (hub / f"hubpress/{SIBLING}/{file}").read_text()
        assert "The network computes in" in text and text.count("bfloat16") > exact.count("bfloat16") == 0
    modules = json.loads((halved.parent / "index.json").read_text())["modules"]
    assert {each["precision"] for each in modules} == {"bfloat16"} and len(modules) == 2


def test_a_network_that_bfloat16_changes_too_much_is_refused(tmp_path, monkeypatch):
    from builders import build

    row = ROWS[NAME]
    spec = {
        "module": described(NAME) | {"checkpoint": {}},
        "labels": None,
        "heads": ["classifier"],
        "checkpoint_path": str(ROOT / row.checkpoint),
        "file": row.file,
    }
    monkeypatch.setattr(precision, "LARGEST_CHANGE", 1e-3)
    with pytest.raises(
        ValueError, match=f"{row.file}: {NAME}: in bfloat16 the classifier differs .*publish it in float32"
    ):
        build.build(spec, tmp_path, lambda message: None)
    assert not list(tmp_path.iterdir())
