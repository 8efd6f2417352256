"""The commands as a maintainer types them."""

import re
import shutil

import numpy as np
import pytest

from tests.support.commands import ROOT, run_script
from tools import catalog, train_digits
from tools.common.ports import free_port


def test_dry_run_lists_every_module():
    done = run_script("publish", "--dry-run")
    modules = catalog.load().modules
    for module in modules:
        assert f" {module.handle} " in done.stdout
    assert f"{len(modules)} modules from" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr  # no colours, no progress where the output is no terminal


def test_dry_run_shows_the_plan_of_what_was_named(tmp_path):
    done = run_script("publish", "quickstart", "--dry-run", "--hub", tmp_path / "hub")
    assert "hubpress/convnext_digits/1" in done.stdout and "hubpress/convnext_tiny_1k_224/1" not in done.stdout
    assert "apache-2.0" in done.stdout and not (tmp_path / "hub").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["convnxt_tiny_1k_224", "--hub", "h"], "did you mean convnext_tiny_1k_224"),
        ([], "nothing to publish is named. Fix: name a module, family or collection"),
        (["quickstart"], "no hub is named. Fix: say where to publish: --hub"),
        (
            ["quickstart", "--hub", "h", "--jobs", "0"],
            "--jobs: '0' is no whole number of at least 1. Fix: give 1 or more.",
        ),
        (["quickstart", "--hubb", "h"], "--hubb"),
        (["quickstart", "--hub", "h", "--check"], "--check"),
        (
            ["quickstart", "--hub", "h", "--formats", "float8"],
            "'float8' is no format. Fix: name default, all, none, or some of onnx",
        ),
        (["quickstart", "--hub", "h", "--formats", "all,onnx"], "'all' is no format"),
        (["quickstart", "--hub", "h", "--prebuilt", "nowhere"], "--prebuilt nowhere is no folder"),
        (["quickstart", "--hub", "h", "--prebuilt", "a", "--checkpoints", "b"], "not allowed with"),
    ],
)
def test_usage_errors(arguments, said, tmp_path):
    done = run_script("publish", *arguments, cwd=tmp_path, check=False)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_quickstart_as_the_readme_says(published, tmp_path):
    """The quickstart against a hub that has everything: publishes nothing again, serves, loads, classifies, prints a table."""
    folder, _ = published
    shutil.copytree(folder, tmp_path / "hub")
    done = run_script("quickstart", "--hub", tmp_path / "hub", "--port", free_port())
    for module in catalog.load().expand(["quickstart"]):
        assert module.handle in done.stdout
    accuracies = [float(n) for n in re.findall(r"([\d.]+) % \(\d+\)", done.stdout)]  # top-1 and top-5, with the counts
    assert len(accuracies) == 2 * (3 + 2) and min(accuracies) >= 98 and " 360 " in done.stdout
    assert re.search(r"ONNX Runtime +portable\.onnx +five digits", done.stdout)
    assert re.search(r"LiteRT +float32\.tflite +five digits", done.stdout)
    assert "What to try next" in done.stdout
    assert "error" not in done.stderr.lower()


def test_train_digits_splits_once_and_matches_the_committed_test_images():
    train, _, test, test_labels = train_digits.digits()
    data = np.load(ROOT / "modules/quickstart/digits_test.npz")
    np.testing.assert_array_equal(data["images"], test)
    np.testing.assert_array_equal(data["labels"], test_labels)
    assert len(train) == 1437 and len(test) == 360 and np.bincount(test_labels).min() >= 33
    assert not {t.tobytes() for t in train} & {t.tobytes() for t in test}
