"""Models that Keras saved are loaded in new processes that import Keras and builders, in either order, and nothing else."""

import json
import os
import subprocess
import sys
from itertools import product

import keras
import numpy as np
import pytest

import builders
from builders import precision
from tests.builders.battery import images
from tests.support.commands import ROOT

pytestmark = pytest.mark.slow

SMALL = {  # architecture, format of checkpoints
    "convnext": ({"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 16)}, "facebook"),
    "convnextv2": ({"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 16)}, "timm"),
    "regnety": ({"w0": 8, "wa": 14.0, "wm": 2.0, "depth": 5, "group_size": 8}, "pycls"),
    "vit": ({"patch": 1, "hidden": 24, "mlp": 40, "heads": 3, "layers": 2, "resnet": (1,), "resnet_width_factor": 0.5}, "augreg_linen"),
}  # fmt: skip
HEADS = {"classifier": {"num_classes": 5}, "extractor": {"include_top": False, "pooling": "avg"}}
SAVED = (  # head, policy, suffix
    ("classifier", "mixed_bfloat16", ".keras"),
    ("extractor", "float32", ".h5"),
)
SIZE = (32, 32, 3)

IN_ANOTHER_PROCESS = """
import json, sys
from pathlib import Path

def loaded():
    return {name for name in sys.modules if name.partition(".")[0] in ("builders", "keras", "tensorflow")}

HERE
assert loaded() & {"builders.layers", *(f"builders.{family}" for family in builders.families())} == set()
assert "keras" in sys.modules
import keras, numpy
registered = {name for name in keras.saving.get_custom_objects() if name.startswith("hubpress>")}
folder = Path(sys.argv[1])
images = numpy.load(folder / "images.npy")
for name, family, format, arguments in json.loads(sys.argv[2]):
    model = keras.saving.load_model(folder / name)
    numpy.testing.assert_array_equal(model(images), numpy.load(folder / f"{name}.npy"))
    builders.write(model, folder / "again.safetensors", format)
    assert (folder / "again.safetensors").read_bytes() == (folder / f"{name}.safetensors").read_bytes()
    model.set_weights([weight + 1 for weight in model.get_weights()])
    assert builders.restore(model, folder / f"{name}.safetensors") == format
    numpy.testing.assert_array_equal(model(images), numpy.load(folder / f"{name}.npy"))
    if "float32" in name:
        other = builders.create(family, input_shape=images.shape[1:], **arguments)
        other.load_weights(folder / f"{name}.weights.h5")
        numpy.testing.assert_array_equal(other(images), numpy.load(folder / f"{name}.npy"))
    assert ("builders.vit" in loaded()) == (family == "vit")  # the last row: files of other families are not imported
for family in builders.families():
    builders.family_module(family)
import builders.library.layers
classes = keras.saving.get_custom_objects()
assert registered == {name for name in classes if name.startswith("hubpress>")} and len(registered) > 12
assert all(isinstance(classes[name], type) for name in registered)
"""
IMPORTS = {
    "keras first": "import keras, builders",
    "builders first": """
import builders, importlib.util
assert loaded() == {"builders", "builders.registration"}, loaded()
assert importlib.util.find_spec("keras")                # to ask whether there is a Keras is not to import it
assert "keras" not in sys.modules
from keras.saving import load_model
""",
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of saved models with what they compute and a checkpoint of each; `[(file, family, format, arguments)]`."""
    folder, rows = tmp_path_factory.mktemp("saved"), []
    x = images(2, *SIZE)
    np.save(folder / "images.npy", x)
    before = keras.config.dtype_policy()
    for (family, (architecture, format)), (head, policy, suffix) in product(SMALL.items(), SAVED):
        name, arguments = f"{family}-{head}-{policy}{suffix}", HEADS[head] | architecture
        keras.config.set_dtype_policy(policy)
        try:
            model = builders.create(family, input_shape=SIZE, **arguments)
        finally:
            keras.config.set_dtype_policy(before)
        model.set_weights([w + 0.1 * images(*w.shape, seed=n) for n, w in enumerate(model.get_weights())])
        model.save(folder / name)
        model.save_weights(folder / f"{name}.weights.h5")
        builders.write(model, folder / f"{name}.safetensors", format)
        np.save(folder / f"{name}.npy", model(x))
        rows.append((name, family, format, arguments))
    return folder, rows


def test_every_family_and_precision_is_saved():
    assert set(SMALL) == set(builders.families())
    assert set(precision.POLICIES.values()) <= {policy for _, policy, _ in SAVED}


@pytest.mark.parametrize("order", IMPORTS)
def test_saved_models_load_in_a_new_process(saved, order):
    folder, rows = saved
    if order == "builders first":  # the files are the same: one of each family is enough
        rows = rows[:: len(SAVED)]
    code = IN_ANOTHER_PROCESS.replace("HERE", IMPORTS[order])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(folder), json.dumps(rows)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
