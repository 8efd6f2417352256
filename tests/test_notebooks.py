"""The notebooks: as they are committed, and executed from the first cell to the last against the served hub.

.venv/bin/python -m pytest tests/test_notebooks.py
"""

import base64
import dataclasses
import importlib.metadata
import json
import os
import re
import subprocess
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from packaging.requirements import Requirement
from PIL import Image

from tests.support.commands import ROOT
from tools import catalog
from tools.catalog import vocabularies
from tools.catalog.catalog import COLAB
from tools.documents import document
from tools.hub import records
from tools.hub.storage import Storage
from tools.site import pages

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Each family once, both sources of images, and the pixel range that is not 0 to 1.
RUNS = {
    "classification": ("regnety_digits_classification", "digits"),
    "features": ("vit_digits_fe", "folder"),
    "fine_tuning": ("convnext_digits_fe", "digits"),
}
by_name = {"ids": lambda path: path.stem}


def cell(notebook, id):
    return next(each for each in notebook.cells if each.id == id)


@pytest.mark.parametrize("path", NOTEBOOKS, **by_name)
def test_committed_as_written_and_not_as_run(path):
    """Valid, without outputs and counts, every cell with an id that says what it is, and the bytes that nbformat writes."""
    text = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=nbformat.NO_CONVERT)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    nbformat.validate(notebook)
    assert nbformat.writes(notebook) + "\n" == text
    ids = [each.id for each in notebook.cells]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-z]+(-[a-z]+)*", id) for id in ids)
    assert set(notebook.metadata) == {"colab", "kernelspec", "language_info"}
    for each in notebook.cells:
        assert not each.metadata
        if each.cell_type == "code":
            assert each.outputs == [] and each.execution_count is None


@pytest.mark.parametrize("path", NOTEBOOKS, **by_name)
def test_links_and_settings(path):
    """Every link inside leads to a heading, every file named is there, and each field of the form has its variable."""
    notebook = nbformat.read(path, as_version=4)
    prose = "\n".join(each.source for each in notebook.cells if each.cell_type == "markdown")
    headings = {line.lstrip("# ").replace(" ", "-") for line in prose.splitlines() if line.startswith("## ")}
    links = re.findall(r"\]\(#([^)]+)\)", prose)
    assert links and set(links) <= headings
    for name in re.findall(r"`([a-z_]+\.ipynb)`", prose):
        assert (path.parent / name).is_file(), name
    settings = cell(notebook, "settings").source
    fields = re.findall(r"^(\w+) = .+# @param", settings, re.MULTILINE)
    assert fields == ["HUB", "MODULE", "IMAGES"]
    for field in fields:
        assert f'{field} = os.environ.get("HUBPRESS_{field}", {field})' in settings and f"`HUBPRESS_{field}`" in prose


def test_what_notebooks_share_is_the_same_in_all():
    notebooks = [nbformat.read(path, as_version=4) for path in NOTEBOOKS]
    for id in ("install", "pictures"):
        assert len({cell(notebook, id).source for notebook in notebooks}) == 1, id


def test_requirements_hold_what_the_cells_import_and_the_lock_has(monkeypatch):
    """The first cell installs nothing here, where all is locked, and what is missing or too old elsewhere."""
    install = cell(nbformat.read(NOTEBOOKS[0], as_version=4), "install").source
    calls = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: calls.append(command))
    exec(install, found := {})
    assert calls == []
    requirements = [Requirement(text) for text in found["REQUIREMENTS"]]
    assert all(re.search("[<=]", str(requirement.specifier)) for requirement in requirements)
    modules = {
        module
        for name in map(str, NOTEBOOKS)
        for module in re.findall(r'"(?:import|from) (\w+)', Path(name).read_text())
    }
    packages = {"PIL": "pillow", "sklearn": "scikit-learn", "tensorflow_hub": "tensorflow-hub", "tf_keras": "tf-keras"}
    third_party = {"matplotlib"} | set(packages)
    assert third_party <= modules
    assert {packages.get(name, name) for name in third_party} <= {requirement.name for requirement in requirements}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert next(text.split(",")[1] for text in project if text.startswith("tensorflow>")) == "<2.22"
    for requirement in requirements:
        assert requirement.specifier.contains(importlib.metadata.version(requirement.name))
    lacking = install.replace('"matplotlib>=', '"matplotlib>=99.').replace('"pillow>', '"no-such-package>')
    exec(lacking, found := {})
    assert [command[1:] for command in calls] == [
        ["-m", "pip", "install", "--quiet", "matplotlib>=99.3.8,<4", "no-such-package>=10"]
    ]


def test_kept_digits_are_those_that_the_models_never_saw(digits):
    """Whoever splits as the notebooks do tests on the images that publishing measured with."""
    pictures = cell(nbformat.read(NOTEBOOKS[0], as_version=4), "pictures").source
    exec(pictures, found := {"IMAGES": "digits"})
    _, kept = found["split"](found["truth"])
    np.testing.assert_array_equal(np.stack([found["images"][i] for i in kept]), digits[0])
    np.testing.assert_array_equal(found["truth"][kept], digits[1])


@pytest.fixture(scope="module")
def own_pictures(digits, tmp_path_factory):
    """A folder as a user has one: a subfolder for each class, several formats and sizes, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, (image, label) in enumerate(zip(*digits, strict=True)):
        place = folder / f"class {label}"
        place.mkdir(exist_ok=True)
        side = (16, 24)[i % 2]
        picture = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
        picture.convert("L").save(place / f"{i}.{'PNG' if i % 3 else 'bmp'}")
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def executed(any_url, own_pictures, tmp_path_factory):
    """{name: (notebook with its outputs, None or what went wrong)}; each in a kernel of this environment, as a new user has it."""
    home = tmp_path_factory.mktemp("home")

    def execute(path):
        module, images = RUNS[path.stem]
        notebook = nbformat.read(path, as_version=4)
        environment = {
            "HUBPRESS_HUB": f"{any_url}/",
            "HUBPRESS_MODULE": f"hubpress/{module}/1",
            "HUBPRESS_IMAGES": str(own_pictures) if images == "folder" else images,
        }
        return run(notebook, home / path.stem, environment)

    with ThreadPoolExecutor(len(NOTEBOOKS)) as pool:
        return dict(zip((path.stem for path in NOTEBOOKS), pool.map(execute, NOTEBOOKS), strict=True))


def run(notebook, home, environment):
    """Execute a notebook in a kernel whose settings, caches and working directory are below `home`."""
    home.mkdir()
    folders = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "MPLCONFIGDIR", "TFHUB_CACHE_DIR", "TMPDIR")
    for name in folders:
        (home / name).mkdir()
    environment = (
        os.environ | environment | {name: str(home / name) for name in folders} | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    )
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(home)}})
    try:
        client.execute(env=environment)
    except CellExecutionError as error:
        return notebook, str(error)
    return notebook, None


def outputs(notebook):
    """(what was printed, the plots as arrays of pixels, what went to standard error)."""
    every = [output for each in notebook.cells if each.cell_type == "code" for output in each.outputs]
    printed = "".join(output.text for output in every if output.get("name") == "stdout")
    errors = "".join(output.text for output in every if output.get("name") == "stderr")
    plots = [output.data["image/png"] for output in every if "image/png" in output.get("data", {})]
    return printed, [base64.b64decode(plot) for plot in plots], errors


@pytest.mark.parametrize(
    ("name", "plots", "said"),
    [
        (
            "classification",
            6,
            [
                r"installed: nothing",
                r"RegNetY image classifier",
                r"pixels 0 to 255 or uint8; seen at 32x32\n",
                r"licence of the weights: apache-2\.0\n",
                r"10 labels: zero, one, two",
                r"1,797 images of 10 classes",
                r"uint8 and float32 from 0 to 255: logits differ by ",
                r"Grad-CAM of stride_16, 2 x 2 places",
            ],
        ),
        (
            "features",
            4,
            [
                r"pixels 0 to 1 or uint8",
                r"360 images of 10 classes",
                r"vectors \(360, \d+\) float32",
                r"20 of each class: features",
            ],
        ),
        (
            "fine_tuning",
            3,
            [
                r"train on \(434, 8, 8, 3\), test on \(109, 8, 8, 3\)",
                r"loaded again, the answers differ by \S+ at most",
            ],
        ),
    ],
)
def test_executed_from_first_to_last(executed, name, plots, said):
    notebook, error = executed[name]
    assert error is None, error
    printed, found, errors = outputs(notebook)
    assert "Traceback" not in errors
    assert len(found) >= plots
    for plot in found:
        assert plot.startswith(b"\x89PNG") and len(plot) > 2000
    for pattern in said:
        assert re.search(pattern, printed), f"{pattern} is not in:\n{printed}"


def share(pattern, printed):
    """The number that a line says."""
    return float(re.search(pattern, printed)[1])


def test_classification_is_as_good_as_published(executed, published):
    printed, _, _ = outputs(executed["classification"][0])
    record = json.loads((published[0] / "hubpress/regnety_digits_classification/1.json").read_text())
    measured = record["measured"]["top1"]
    assert share(r"logits differ by (\S+) at most", printed) < 1e-3
    assert f"{measured['correct']} of 360 right: {measured['correct'] / 360:.2%}" in printed


def test_features_find_and_separate(executed):
    printed, _, _ = outputs(executed["features"][0])
    assert share(r"([\d.]+)% of the 8 nearest neighbours are of the same class", printed) > 90
    features, pixels = map(
        float, re.search(r"20 of each class: features ([\d.]+)%, pixels ([\d.]+)%", printed).groups()
    )
    assert features > 95 and features > pixels


def test_fine_tuning_gains(executed):
    printed, _, _ = outputs(executed["fine_tuning"][0])
    counts = [int(count.replace(",", "")) for count in re.findall(r"training ([\d,]+) of", printed)]
    assert counts[0] == 96 * 4 + 4 and counts[1] > 100_000  # the head, and everything
    accuracies = re.findall(r"test accuracy ([\d.]+)% before, ([\d.]+)% after", printed)
    (untrained, head), (continued, whole) = [map(float, pair) for pair in accuracies]
    assert (
        untrained < 50 and 65 < head < 90 and continued == head and whole > 94
    )  # turning was not among what the module learnt
    assert share(r"the answers differ by (\S+) at most", printed) < 1e-4


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"HUBPRESS_HUB": "http://127.0.0.1:1"}, "correct HUB, or start a hub: make quickstart"),
        ({"HUBPRESS_MODULE": "hubpress/convnext_digits_fe/1"}, "set MODULE to one of: hubpress/convnext_digits/1, "),
        ({"HUBPRESS_IMAGES": "no/such/folder"}, "no pictures below no/such/folder; set IMAGES to a folder with some"),
    ],
    ids=["hub", "module", "images"],
)
def test_wrong_settings_are_told_what_to_do(any_url, monkeypatch, environment, said):
    """The cells up to the one that finds out, without a kernel."""
    notebook = nbformat.read(ROOT / "notebooks/classification.ipynb", as_version=4)
    for name, value in ({"HUBPRESS_HUB": any_url} | environment).items():
        monkeypatch.setenv(name, value)
    cells = "\n".join(cell(notebook, id).source for id in ("settings", "record", "pictures"))
    with pytest.raises((OSError, LookupError)) as raised:
        exec(cells, {})
    assert said in str(raised.value)


def test_pages_link_the_notebook_to_start_with(published):
    """With `notebooks` in modules/publisher.toml, each document has tfhub.dev's `colab` field, and its page the link; not without."""
    rows = catalog.load()
    hub = records.snapshot(Storage(published[0]))
    base = f"{COLAB}github/owner/repository/blob/main/notebooks"

    def built(notebooks):
        return pages.build(
            hub.records,
            publisher=dataclasses.replace(rows.publisher, notebooks=notebooks),
            collections=rows.collections,
            base_url=published[1],
            tags=vocabularies.load(ROOT / "modules/tags"),
        )

    linked, plain = built(base), built(None)
    for name, file in [("convnext_digits", "classification.ipynb"), ("vit_digits_fe", "fine_tuning.ipynb")]:
        assert (ROOT / "notebooks" / file).is_file()
        text = linked[f"hubpress/{name}/1.md"].data.decode()
        parsed = document.parse(text)
        assert parsed.value("colab") == f"{base}/{file}"
        assert f'href="{base}/{file}"' in linked[f"hubpress/{name}/1/index.html"].data.decode()
        for path in (f"hubpress/{name}/1.md", f"hubpress/{name}/1/index.html"):
            assert "colab" not in plain[path].data.decode().lower()
