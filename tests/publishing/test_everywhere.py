"""One archive everywhere: the same bytes on every processor and whatever a user has set up, as the published hub has them."""

import itertools
import json
import os
import subprocess
import sys

import pytest

from tests.support.builds import specification_of
from tests.support.commands import ROOT, environment, run_script
from tools.archive import packing
from tools.common.files import sha256_of_file

pytestmark = pytest.mark.slow

# Each row of the quickstart by its classifier, and the other module of the same build.
ROWS = {
    "convnext_digits": "convnext_digits_fe",
    "regnety_digits_classification": "regnety_digits_feature_extractor",
    "vit_digits_classification": "vit_digits_fe",
}
# What oneDNN makes of another processor, and what TensorFlow computes without oneDNN.
PROCESSORS = ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, {"TF_ENABLE_ONEDNN_OPTS": "0"})
# Builds as `python -m builders.build` does, then asks the classifier for its golden images: what it answers in float32, in the end.
BUILD = """
import pathlib, sys
from builders import build
status, out = build.main(sys.argv[1:]), pathlib.Path(sys.argv[2])
if not status:
    import numpy as np, tensorflow as tf
    with np.load(out / "classifier/assets.extra/golden.npz") as golden:
        images = golden["images"]
    (out / "answer").write_bytes(tf.saved_model.load(str(out / "classifier"))(images).numpy().tobytes())
sys.exit(status)
"""
# A keras.json, and variables of all libraries that a build imports, each of which changes results or ends the process.
KERAS = {"image_data_format": "channels_first", "floatx": "float16", "epsilon": 0.1, "backend": "tensorflow"}
OTHER_KERAS = {"image_data_format": "channels_last", "floatx": "float64", "epsilon": 1e-7, "backend": "jax"}
VARIABLES = {
    "KERAS_BACKEND": "jax",
    "KERAS_NNX_ENABLED": "true",
    "TF_USE_LEGACY_KERAS": "1",
    "TF2_BEHAVIOR": "0",
    "TF_XLA_FLAGS": "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit",
    "XLA_FLAGS": "--no_such_flag",
    "TF_SET_ONEDNN_FPMATH_MODE": "BF16",
    "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
    "LC_ALL": "C",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONOPTIMIZE": "2",
    "PYTHONUTF8": "0",
    "PYTHONWARNINGS": "error",
}


def start(name, folder, **variables):
    """Start the build of a row in `folder`; `variables` are its user's."""
    folder.mkdir()
    (folder / "spec.json").write_text(json.dumps(specification_of(name)))
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, folder / "spec.json", folder / "out"],
        cwd=ROOT,
        env=environment(PYTHONHASHSEED="0", TF_CPP_MIN_LOG_LEVEL="3") | variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_published(process, name, folder, hub):
    """Wait for a build, and assert that its packed archives are those of the hub, bit for bit."""
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-2000:]
    for head, module in (("classifier", name), ("feature_extractor", ROWS[name])):
        packed = packing.pack(folder / "out" / head, folder / f"{head}.tar.gz")
        assert packed.sha256 == sha256_of_file(hub / f"hubpress/{module}/1.tar.gz"), (module, head)


@pytest.mark.parametrize("name", ROWS)
def test_every_processor_makes_the_same_archive(hub, tmp_path, name):
    folders = [tmp_path / str(number) for number in range(len(PROCESSORS))]
    started = [start(name, folder, **each) for folder, each in zip(folders, PROCESSORS, strict=True)]
    for process, folder in zip(started, folders, strict=True):
        assert_published(process, name, folder, hub)
    # Or else two kernels would compute the same, and this would prove nothing.
    answers = [(folder / "out/answer").read_bytes() for folder in folders]
    assert all(a != b for a, b in itertools.pairwise(answers))


def keras_home(folder, settings):
    """Return a folder with `settings` as a keras.json."""
    folder.mkdir(parents=True)
    (folder / "keras.json").write_text(json.dumps(settings))
    return folder


def test_no_setting_of_its_user_reaches_a_build(hub, tmp_path):
    home = keras_home(tmp_path / "home", OTHER_KERAS)
    process = start("convnext_digits", tmp_path / "build", KERAS_HOME=str(home))
    assert_published(process, "convnext_digits", tmp_path / "build", hub)
    assert [path.name for path in home.iterdir()] == ["keras.json"]


def test_no_setting_of_its_user_reaches_publishing(hub, tmp_path):
    """The whole command: a build and its check, under all of them at once."""
    keras_home(tmp_path / "home/.keras", KERAS)
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/keras.py").write_text("raise ImportError('not this one')")
    own = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    own["PYTHONPATH"] = os.pathsep.join([str(tmp_path / "modules"), str(ROOT)])
    run_script(
        "publish", "convnext_digits", "--hub", tmp_path / "hub", "--url", "http://127.0.0.1:9", **own, **VARIABLES
    )
    for module in ("convnext_digits", "convnext_digits_fe"):
        file = f"hubpress/{module}/1.tar.gz"
        assert sha256_of_file(tmp_path / "hub" / file) == sha256_of_file(hub / file)
