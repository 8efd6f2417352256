"""Published modules in other runtimes: really converted, and compared with what they answer in TensorFlow.

The quickstart's modules, as they are published, and small networks of what the quickstart has not: each family and both heads.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

import builders
from builders import export
from tests.builders import battery, test_convnextv2, test_vit
from tests.support.commands import ROOT, environment
from tools import catalog
from tools.archive import reading

pytestmark = pytest.mark.slow

CONVERTERS = ("onnx", "openvino", "litert")
PUBLISHED = {module.name: module for module in catalog.load().expand(["quickstart"])}
BUILT = {
    f"{name}_{head}": (family, head)
    for name, family in {"convnextv2": test_convnextv2.SMALL, "hybrid": test_vit.TestHybrid.family}.items()
    for head in export.OUTPUTS
}
NAMES = [*PUBLISHED, *BUILT]
CLASSIFIERS = [name for name, module in PUBLISHED.items() if module.head == "classifier"]
SIZES = {"own size": None, "smaller": (20, 28), "larger": (90, 75)}
TOLERANCE = 1e-4  # over the largest answer
TILES = (3, 2)  # rows and columns
# Of files with smaller weights: what of the float32 file's bytes is left, at most. Halves and quarters, and what has no weights.
SMALLER = {"float16": 0.6, "int8": 0.5}


def described(family):
    """Return what defines a module of a small network: the preprocessing of the family's first row, at the network's resolution."""
    found = battery.described(next(row.stem for row in battery.CATALOG.variants if row.family == family.name))
    resolution, transform = family.size[0], found["preprocessing"]["transform"]
    sizes = {"size": round(transform["size"] * resolution / found["row"]["resolution"]), "crop": resolution}
    changed = {key: value for key, value in sizes.items() if key in transform}
    return {
        "row": found["row"] | {"resolution": resolution},
        "preprocessing": found["preprocessing"] | {"transform": transform | changed},
    }


def batches(row, labelled=None):
    """Return batches of images: `SIZES`, and "labelled" if there are such.

    Images of the module's own size, which are not resampled, are noise. The others are tiles, which have few levels after
    resampling, and none close to a half: where PIL's arithmetic rounds, all runtimes round alike.
    """
    low, high = row["pixel_range"]
    random = np.random.default_rng(2)  # with this seed no level is closer to a half than 0.0007
    found = {}
    for name, size in SIZES.items():
        height, width = size or [row["resolution"]] * 2
        levels = random.integers(0, 256, (2, *(TILES if size else (height, width)), 3))
        rows, columns = (
            np.arange(side) * count // side for side, count in zip((height, width), levels.shape[1:3], strict=True)
        )
        found[name] = levels[:, rows][:, :, columns] / 255
    if labelled is not None:
        found["labelled"] = labelled / 255
    return {name: (images * (high - low) + low).astype(np.float32) for name, images in found.items()}


@pytest.fixture(scope="module")
def modules(hub, digits, shared):
    """Return a folder with a folder for each module: the SavedModel `module`, `images.npz`, and its own answers, `expected.npz`."""
    parent = shared / "conversion"
    for name in NAMES:
        folder = parent / name
        folder.mkdir(parents=True)
        if name in PUBLISHED:
            reading.unpack(hub / f"{PUBLISHED[name].handle}.tar.gz", folder / "module")
            definition = json.loads((folder / "module/assets.extra/module.json").read_text())
        else:
            family, head = BUILT[name]
            definition = described(family)
            export.save(export.head_model(family.model(), head), head, definition, folder / "module")
        images = batches(definition["row"], digits[0] if name in CLASSIFIERS else None)
        module = tf.saved_model.load(str(folder / "module"))
        np.savez(folder / "images.npz", **images)
        np.savez(folder / "expected.npz", **{name: module(batch).numpy() for name, batch in images.items()})
    return parent


@pytest.fixture(scope="module")
def converted(modules):
    """Return `converted(converter, name)`: the answers of a module after its conversion; each converter runs once, for all."""
    done = set()

    def answers(converter, name):
        if converter not in done:
            command = [sys.executable, "-m", "tests.support.converting", converter, str(modules)]
            result = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=600)
            assert result.returncode == 0, result.stderr
            done.add(converter)
        wrong = modules / name / f"{converter}.txt"
        assert not wrong.exists(), wrong.read_text()
        return dict(np.load(modules / name / f"{converter}.npz"))

    return answers


def difference(answers, expected):
    """Return the largest difference, over the largest answer."""
    assert answers.shape == expected.shape
    return np.abs(answers - expected).max() / np.abs(expected).max()


def test_every_family_is_converted():
    rows = {module.variant.family for module in PUBLISHED.values()} | {family.name for family, _ in BUILT.values()}
    assert rows == set(builders.families()), "add a small network of the new family to BUILT"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("converter", CONVERTERS)
def test_converted_module_answers_the_same(modules, converted, converter, name):
    """At its own resolution and at others, all images of a batch; a LiteRT file has one size."""
    answers, expected = converted(converter, name), np.load(modules / name / "expected.npz")
    found = {
        size: difference(answers[size], expected[size]) for size in (SIZES if converter != "litert" else ["own size"])
    }
    assert max(found.values()) < TOLERANCE, found


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("kind", ["onnx", "openvino", "litert float32", "litert float16", "litert int8"])
def test_converted_classifier_is_as_accurate(modules, converted, digits, kind, name):
    """Not compared number by number: where an image is resampled, runtimes may round a level that lies at a half either way."""
    converter, _, weights = kind.partition(" ")
    answers = converted(converter, name)[f"labelled {weights}".strip()]
    right, expected = (
        np.sum(each.argmax(-1) == digits[1]) for each in (answers, np.load(modules / name / "expected.npz")["labelled"])
    )
    assert expected >= 0.98 * len(digits[1]) and right >= expected - 1


@pytest.mark.parametrize("weights", SMALLER)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_smaller_weights_of_litert_make_smaller_files(modules, converted, name, weights):
    converted("litert", name)
    size, whole = ((modules / name / f"{each}.tflite").stat().st_size for each in (weights, "float32"))
    assert size < SMALLER[weights] * whole


@pytest.mark.parametrize("name", NAMES)
def test_operations_and_types_are_those_of_tensorflow_js(modules, name):
    """In the graph that its converter takes: one graph, with constants instead of variables.

    That a module converts does not say that it answers right: TensorFlow.js ignores some attributes, as the one that says that a
    normalisation takes its statistics from the images.
    """
    known = json.loads((ROOT / "tests/builders/tfjs/operations.json").read_text())
    module = tf.saved_model.load(str(modules / name / "module"))
    for signature in module.signatures.values():
        nodes = convert_variables_to_constants_v2(signature).graph.as_graph_def().node
        assert {node.op for node in nodes} <= set(known["operations"])
        types = {each for node in nodes for value in node.attr.values() for each in (value.type, *value.list.type)}
        assert {types_pb2.DataType.Name(each) for each in types - {0}} <= set(known["types"])
