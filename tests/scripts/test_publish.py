"""The commands as a maintainer types them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools import catalog

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(p for p in (ROOT / "tools").glob("*.py") if "__main__" in p.read_text())


def run(script, *arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, ROOT / script, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_help_says_what_to_type_and_loads_nothing_heavy(script):
    code = (
        "import runpy, sys; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_path({str(script)!r}, run_name='__main__')\n"
        "except SystemExit as e: assert not e.code\n"
        "heavy = {'tensorflow', 'keras', 'numpy', 'rich', 'starlette', 'jinja2', 'requests'} & set(sys.modules)\n"
        "print('HEAVY', *heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"tools/{script.name}" in done.stdout and len(done.stdout) > 200
    heavy = set(re.search(r"HEAVY(.*)", done.stdout).group(1).split())
    assert heavy <= {"numpy"} if script.name == "train_digits.py" else not heavy


def test_dry_run_lists_every_module():
    done = run("tools/publish.py", "--dry-run")
    assert done.returncode == 0, done.stderr
    modules = catalog.load().modules
    for module in modules:
        assert f" {module.handle} " in done.stdout
    assert f"{len(modules)} modules from" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr  # no colours, no progress where the output is no terminal


def test_dry_run_shows_the_plan_of_what_was_named(tmp_path):
    done = run("tools/publish.py", "quickstart", "--dry-run", "--hub", tmp_path / "hub")
    assert "hubpress/convnext_digits/1" in done.stdout and "hubpress/convnext_tiny_1k_224/1" not in done.stdout
    assert "apache-2.0" in done.stdout and not (tmp_path / "hub").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["convnxt_tiny_1k_224", "--hub", "h"], "did you mean convnext_tiny_1k_224"),
        ([], "say what to publish"),
        (["quickstart"], "say where to publish: --hub"),
        (["quickstart", "--hub", "h", "--jobs", "0"], "--jobs must be at least 1"),
        (["quickstart", "--hubb", "h"], "--hubb"),
    ],
)
def test_usage_errors(arguments, said, tmp_path):
    done = run("tools/publish.py", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_quickstart_as_the_readme_says(published, tmp_path):
    """The quickstart against a hub that has everything: publishes nothing again, serves, loads, classifies, prints a table."""
    import shutil

    folder, _ = published
    shutil.copytree(folder, tmp_path / "hub")
    from tools.quickstart import free_port

    done = run("tools/quickstart.py", "--hub", tmp_path / "hub", "--port", free_port(0))
    assert done.returncode == 0, done.stderr
    for module in catalog.load().expand(["quickstart"]):
        assert module.handle in done.stdout
    accuracies = [float(n) for n in re.findall(r"([\d.]+) % \(\d+\)", done.stdout)]  # top-1 and top-5, with the counts
    assert len(accuracies) == 6 and min(accuracies) >= 98 and " 360 " in done.stdout
    assert "What to try next" in done.stdout
    assert "error" not in done.stderr.lower()


def test_readme_names_only_files_and_commands_that_exist():
    text = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z]+)`", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for path in re.findall(r"\b(?:tools|modules|builders|collections|templates|tests|docs)/[\w./-]*\w", text):
        assert (ROOT / path).exists(), path
    for script, option in re.findall(r"python (tools/\w+\.py)[^`\n]*?(--[a-z-]+)", text):
        assert option in run(script, "--help").stdout, f"{script} has no {option}"


def test_train_digits_splits_once_and_matches_the_committed_test_images():
    import numpy as np

    sys.path.insert(0, str(ROOT))
    from tools import train_digits

    train, _, test, test_labels = train_digits.digits()
    data = np.load(ROOT / "modules/quickstart/digits_test.npz")
    np.testing.assert_array_equal(data["images"], test)
    np.testing.assert_array_equal(data["labels"], test_labels)
    assert len(train) == 1437 and len(test) == 360 and np.bincount(test_labels).min() >= 33
    assert not {t.tobytes() for t in train} & {t.tobytes() for t in test}
