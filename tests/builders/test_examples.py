"""Examples of README and of the docstrings of builders run as they are written, on checkpoints of the names that they say."""

import doctest
import re
import textwrap

import keras
import pytest

import builders
from builders import checkpoints, counting, layers, precision, preprocessing, regnety, weights
from tests.builders.battery import CATALOG, images
from tests.support.commands import ROOT

pytestmark = pytest.mark.slow

MODULES = [builders, checkpoints, counting, precision, preprocessing, weights]
MODULES += [builders.family_module(family) for family in builders.families()]
TINY = {"depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768)}
FILES = {  # checkpoints that the examples name, with the model and the format that they are of
    "convnext_tiny_1k_224_ema.pth": ("convnext", TINY, "facebook"),
    "convnextv2_tiny_1k_224_ema.pt": ("convnextv2", TINY, "facebook"),
    "RegNetY-800MF_dds_8gpu.pyth": ("regnety", {"w0": 56, "wa": 38.84, "wm": 2.4, "depth": 14, "group_size": 16}, "pycls"),
    "S_16-i21k-...-res_224.npz": ("vit", {"patch": 16, "hidden": 384, "mlp": 1536, "heads": 6, "layers": 12}, "augreg"),
}  # fmt: skip
SMALL = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 16)}


def examples():
    """Yield (where, code): of README what names builders, of docstrings the first indented block, or all behind the first line."""
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)):
        if "builders" in code:
            yield f"README-{number}", code
    for module in MODULES:
        block = re.search(r"\n\n((?:(?: {4}.*)?\n)+)", module.__doc__)
        yield module.__name__, textwrap.dedent(block[1]) if block else module.__doc__.partition("\n")[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the checkpoints of the examples; every number in them is a half."""
    folder = tmp_path_factory.mktemp("examples")
    for name, (family, architecture, format) in FILES.items():
        path = folder / ("written.npz" if name.endswith(".npz") else "written.safetensors")
        with layers.deferred_weights(keras.initializers.Constant(0.5)):
            builders.write(builders.create(family, **architecture), path, format)
        path.rename(folder / name)
    return folder


@pytest.mark.parametrize(("where", "code"), [pytest.param(*example, id=example[0]) for example in examples()])
def test_example(folder, any_url, monkeypatch, where, code):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HUBPRESS_CHECKPOINTS", str(folder))
    model = builders.create("convnext", **SMALL)
    builders.write(model, "small.safetensors", "facebook")
    row = next(row for row in CATALOG.variants if row.stem == "convnext_digits").facts()
    names = {
        "builders": builders,
        "keras": keras,
        "model": model,
        "images": images(1, 64, 64, 3),
        "path": "small.safetensors",
        "row": row,
    }
    names |= {module.__name__.partition(".")[2]: module for module in MODULES} | vars(preprocessing)
    code = code.replace("http://127.0.0.1:8000", any_url)
    exec(compile(code, where, "exec"), names)
    for name in re.findall(r'restore\(model, "(.*?)"', code):
        restored = builders._backbone(names["model"])
        assert restored.family == FILES[name][0]
        assert all((weight == 0.5).all() for layer in restored.layers for weight in layer.get_weights())


def test_doctests():
    assert doctest.testmod(regnety).attempted == 2 and not doctest.testmod(regnety).failed
