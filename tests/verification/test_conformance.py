"""tools/conformance.py: what it prints, when it fails, and that it does fail."""

import io
import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.support.commands import ROOT, run_script
from tools import conformance as tool
from tools.verification import conformance

GOLDEN = ROOT / "tests" / "golden"
CONVNEXT = sorted(path.parent for path in GOLDEN.glob("convnext_*/case.json"))


def run(capsys, *arguments):
    code = tool.main([str(argument) for argument in arguments])
    return code, capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("folder", CONVNEXT, ids=lambda folder: folder.name)
def test_convnext_passes(capsys, folder):
    code, lines = run(capsys, folder)
    assert code == 0 and len(lines) == 1
    name, logits, features = lines[0].split()
    assert name == folder.name
    assert float(logits.removeprefix("logits=")) < 1e-5 and float(features.removeprefix("features=")) < 1e-5


@pytest.mark.slow
def test_preprocessing_passes_as_a_program():
    done = run_script("conformance", "--format", "json", GOLDEN / "preprocessing")
    results = json.loads(done.stdout)
    assert len(results) == 14 and all(result["passed"] for result in results)
    assert {result["case"] for result in results} >= {"cup__pycls_224", "chelsea__convnext_384"}


@pytest.fixture
def photographs(tmp_path):
    """One PIL golden and one golden on floats, to be spoiled."""
    for name in ("cup.png", "cup__convnext_224.png", "cup__pycls_224.npz"):
        shutil.copyfile(GOLDEN / "preprocessing" / name, tmp_path / name)
    return tmp_path


def test_prints_one_line_per_image(capsys, photographs):
    code, lines = run(capsys, photographs)
    assert code == 0
    assert [line.split()[0] for line in lines] == ["cup__convnext_224", "cup__pycls_224"]
    assert all("max=" in line and "mean=" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("cup__convnext_224.png", lambda image: image + 3 * (np.indices(image.shape).sum(0) == 50), "max above 2"),
        ("cup__convnext_224.png", lambda image: image + np.where(image > 128, -1, 1), "mean above 0.45"),
        ("cup__convnext_224.png", lambda image: np.roll(image, 1, axis=1), "max above 2"),
        ("cup__convnext_224.png", lambda image: image[:223], "error: ValueError: the golden is (223, 224, 3)"),
    ],
)
def test_a_tampered_image_fails(capsys, photographs, name, spoil, message):
    image = np.asarray(Image.open(photographs / name), np.int64)
    Image.fromarray(np.clip(spoil(image), 0, 255).astype(np.uint8)).save(photographs / name)
    code, lines = run(capsys, photographs)
    assert code == 1
    assert message in lines[0] and "FAILED" not in lines[1]


@pytest.mark.parametrize("amount", [0.5, np.nan])
def test_tampered_floats_fail(capsys, photographs, amount):
    path = photographs / "cup__pycls_224.npz"
    levels = np.load(path)["rgb_0_255"].copy()
    levels[100, 100, 1] += amount
    np.savez(path, rgb_0_255=levels)
    code, lines = run(capsys, photographs)
    assert code == 1 and "FAILED: max above 0.25" in lines[1]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: (folder / "cup__convnext_224.png").rename(folder / "cup__other_224.png"),
            "[transforms.other_224]",
        ),
        (lambda folder: (folder / "cup.png").unlink(), "cup.png"),
        (lambda folder: (folder / "cup__convnext_224.png").write_bytes(b"no image"), "error:"),
    ],
)
def test_an_image_that_cannot_be_compared_fails(capsys, photographs, spoil, message):
    spoil(photographs)
    code, lines = run(capsys, photographs)
    assert code == 1 and len(lines) == 2 and any(message in line for line in lines)


@pytest.fixture
def case(tmp_path):
    return pathlib.Path(shutil.copytree(GOLDEN / "convnext_timm", tmp_path / "convnext_timm"))


@pytest.mark.parametrize("amount", [0.01, np.nan])
@pytest.mark.parametrize("array", ["logits_0", "logits_1", "features_1"])
def test_a_tampered_answer_fails(capsys, case, array, amount):
    arrays = dict(np.load(case / "io.npz"))
    arrays[array] = arrays[array].copy()
    arrays[array][2, 3] += amount * max(1.0, np.abs(arrays[array]).max())
    np.savez(case / "io.npz", **arrays)
    code, lines = run(capsys, case)
    assert code == 1 and f"FAILED: {array[:-2]} above 0.0001" in lines[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "perceptron"}, "there is no family 'perceptron'. Fix: use one of convnext, "),
        ({"depths": [2, 1, 2, 1]}, "error:"),
        ({"checkpoint": "nothing.safetensors"}, "nothing.safetensors"),
        ({"num_classes": 11}, "error:"),
    ],
)
def test_a_case_that_cannot_be_replayed_fails(capsys, case, change, message):
    description = json.loads((case / "case.json").read_text())
    (case / "case.json").write_text(json.dumps({**description, **change}))
    code, lines = run(capsys, case, GOLDEN / "convnext_fb")
    assert code == 1 and len(lines) == 2
    assert lines[0].startswith("convnext_timm error: ") and message in lines[0]
    assert lines[1].startswith("convnext_fb logits=")


def test_a_case_without_images_fails(capsys, case):
    np.savez(case / "io.npz", logits_0=np.zeros((3, 10)))
    code, lines = run(capsys, case)
    assert code == 1 and "no array images_0" in lines[0]


def test_a_folder_without_goldens_fails(capsys, tmp_path):
    for folder in (tmp_path, tmp_path / "nothing"):
        code, lines = run(capsys, folder)
        assert code == 1 and "no goldens here" in lines[0]


def test_finds_goldens_at_any_depth(tmp_path):
    shutil.copytree(GOLDEN / "convnext_fb", tmp_path / "a" / "convnext_fb")
    shutil.copytree(GOLDEN / "preprocessing", tmp_path / "b" / "preprocessing")
    found = list(conformance._goldens(tmp_path))
    assert len(found) == 15 and found[0].name == "convnext_fb"


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*/case.json")), ids=lambda path: path.parent.name)
def test_every_case_has_a_family_and_its_files(path):
    description = json.loads(path.read_text())
    assert len(conformance.architecture_of(description)) >= 2
    assert (path.parent / description["checkpoint"]).is_file()
    with np.load(io.BytesIO((path.parent / "io.npz").read_bytes()), allow_pickle=False) as arrays:
        assert {"images_0", "logits_0", "features_0"} <= set(arrays)


def test_training_statistics_are_compared(tmp_path, monkeypatch):
    """A model with batch normalisation, as RegNetY's: the step in training mode counts, statistics included."""
    import keras

    def create(family, *, num_classes, input_shape, **architecture):
        assert family == "regnety" and input_shape is None and architecture == {"w0": 16}
        keras.utils.set_random_seed(0)
        inputs = keras.Input((None, None, 3))
        x = keras.layers.BatchNormalization(momentum=0.9)(keras.layers.Conv2D(4, 3)(inputs))
        x = keras.layers.GlobalAveragePooling2D(name="features")(x)
        return keras.Model(inputs, keras.layers.Dense(num_classes)(x))

    monkeypatch.setattr(conformance.builders, "create", create)
    monkeypatch.setattr(conformance.builders, "restore", lambda model, path: None)
    model = create("regnety", num_classes=5, input_shape=None, w0=16)
    probe = keras.Model(model.input, [model.output, model.get_layer("features").output])
    images = np.random.default_rng(0).normal(size=(3, 9, 9, 3)).astype(np.float32)
    logits, features = (output.numpy() for output in probe(images, training=False))
    trained, _ = probe(images, training=True)
    mean, variance = model.layers[2].moving_mean.numpy(), model.layers[2].moving_variance.numpy()
    assert np.abs(trained - logits).max() > 0.01
    folder = tmp_path / "regnety_tiny"
    folder.mkdir()
    (folder / "case.json").write_text(json.dumps({"family": "regnety", "num_classes": 5, "checkpoint": "-", "w0": 16}))
    arrays = {"images_0": images, "logits_0": logits, "features_0": features, "train_logits_0": trained.numpy()}
    for mean_sum, variance_sum, passed in (
        (mean.sum(), variance.sum(), True),
        (mean.sum() + 0.01, variance.sum(), False),
        (mean.sum(), variance.sum() * 1.01, False),
    ):
        np.savez(folder / "io.npz", **arrays, train_running_mean_sum=mean_sum, train_running_var_sum=variance_sum)
        result = conformance.replay_case(folder)
        assert list(result.values) == ["logits", "features", "train"] and result.error is None
        assert result.passed == passed
