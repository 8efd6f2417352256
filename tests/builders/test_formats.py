"""Files of modules for other runtimes: each family and head as ONNX, what LiteRT has, and the same bytes from process to process."""

import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf

import builders
from builders import export
from builders.formats import ConversionError, onnx_file, onnx_network
from builders.unrolling import UnrollingError, unrolled
from tests.builders import test_convnext, test_convnextv2, test_regnety, test_vit
from tests.builders.test_conversion import described, difference
from tests.support.commands import ROOT, environment

pytestmark = pytest.mark.slow

FAMILIES = {
    "convnext": test_convnext.STAGED,
    "convnextv2": test_convnextv2.SMALL,
    "hybrid": test_vit.TestHybrid.family,
    "regnety": test_regnety.SMALL,
    "vit": test_vit.TestPlain.family,
}
CASES = [(name, head) for name in FAMILIES for head in export.OUTPUTS]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """Return `parent(name, head)`: the folder of a small module."""
    made = {}

    def folder(name, head):
        if (name, head) not in made:
            family, path = FAMILIES[name], tmp_path_factory.mktemp(name) / head
            export.save(export.head_model(family.model(), head), head, described(family), path)
            made[name, head] = path
        return made[name, head]

    return folder


def tiles(height, width):
    """Few levels after resampling, none close to a half."""
    found = np.random.default_rng(2).integers(0, 256, (2, 3, 2, 3), dtype=np.uint8)
    return found[:, np.arange(height) * 3 // height][:, :, np.arange(width) * 2 // width]


def test_every_family_has_a_case():
    assert {family.name for family in FAMILIES.values()} == set(builders.families())


@pytest.mark.parametrize(("name", "head"), CASES)
def test_onnx_answers_as_the_module(parent, tmp_path, name, head):
    folder, path = parent(name, head), tmp_path / "portable.onnx"
    definition = json.loads((folder / "assets.extra/module.json").read_text())
    model, output = unrolled(folder), export.OUTPUTS[head]
    maps = builders.maps(model) if head == "feature_extractor" else {}
    operations = onnx_file.write(path, model, definition, {output: model.output, **maps})
    session, module = onnxruntime.InferenceSession(path), tf.saved_model.load(str(folder))
    names = [each.name for each in session.get_outputs()]
    for height, width in ((1, 1), definition["row"]["resolution"] * np.array([1, 1]), (90, 75)):
        images = tiles(int(height), int(width))
        found = dict(zip(names, session.run(names, {"images": images}), strict=True))
        expected = module.stages(images) if maps else {output: module(images)}
        assert found.keys() == expected.keys()
        assert max(difference(found[key], expected[key].numpy()) for key in found) < TOLERANCE
    assert {node.domain for node in onnx.load(path).graph.node} == {""}
    if name.startswith("convnext"):
        assert {"LayerNormalization", "Gelu"} <= set(operations)


def run(program, specification, out):
    """Run a program of the pipeline on a specification; return its result."""
    file = out.with_suffix(".json")
    file.write_text(json.dumps(specification))
    command = [sys.executable, "-m", program, str(file), str(out)]
    settings = {**environment(), "PYTHONHASHSEED": "0"}
    return subprocess.run(command, env=settings, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_onnx_has_the_same_bytes_from_process_to_process(parent, tmp_path):
    specification = {
        "parent": str(parent("convnext", "classifier")),
        "format": "onnx",
        "file": "modules/x.toml",
        "stem": "x",
    }
    for name in "ab":
        result = run("builders.convert", specification, tmp_path / name)
        assert result.returncode == 0, result.stderr
    first, second = ((tmp_path / name / "portable.onnx").read_bytes() for name in "ab")
    assert first == second
    found = json.loads((tmp_path / "a/FORMAT.json").read_text())
    assert found["bytes"] == len(first)


def test_litert_passes_its_check_and_a_file_of_another_module_does_not(parent, tmp_path):
    specification = {
        "parent": str(parent("vit", "classifier")),
        "format": "float32",
        "file": "modules/x.toml",
        "stem": "x",
    }
    folder = parent("vit", "classifier")
    images = tiles(40, 40)
    np.savez(
        folder / "assets.extra/golden.npz", images=images, outputs=tf.saved_model.load(str(folder))(images).numpy()
    )
    result = run("builders.convert", specification, tmp_path / "made")
    assert result.returncode == 0, result.stderr
    check = {**specification, "made": str(tmp_path / "made/float32.tflite"), "evaluation": None}
    result = run("tools.publishing.format_check", check, tmp_path / "checked")
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "checked/CHECK.json").read_text())
    assert found["differences"]["own size"] < TOLERANCE and "3000x4000" in found["differences"]
    np.savez(folder / "assets.extra/golden.npz", images=images, outputs=np.ones([2, 5], np.float32))
    result = run("tools.publishing.format_check", check, tmp_path / "refused")
    assert result.returncode == 1 and not (tmp_path / "refused/CHECK.json").exists()
    assert "modules/x.toml: x: the float32 file of the classifier differs from the module by" in result.stderr


def test_unknown_layers_are_refused(parent, monkeypatch):
    model = unrolled(parent("vit", "classifier"))
    monkeypatch.delitem(onnx_network.LAYERS, "Attention")
    with pytest.raises(
        ConversionError, match=r"the layer blocks\.0\.attention is a Attention, which has no ONNX operations"
    ):
        onnx_network.emit(model, "images", 32, {"logits": model.output}, onnx_network.Graph())


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UnrollingError, match=r"Fix: give the folder of an unpacked module\."):
        unrolled(tmp_path)
