"""Common behaviour of all scripts: their exit statuses, their start, and the checkout that they belong to."""

import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from tests.support.commands import ROOT, command, environment, run_script, start_script
from tools.common import scripts

SCRIPTS = sorted(path for path in (ROOT / "tools").glob("*.py") if path.stem != "__init__")
HEAVY = {"tensorflow", "keras", "numpy", "rich", "starlette", "jinja2", "requests", "fsspec", "statistics"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help_says_what_to_type_and_loads_nothing_heavy(script):
    code = (
        "import runpy, sys; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_path({str(script)!r}, run_name='__main__')\n"
        "except SystemExit as e: assert not e.code\n"
        f"print('HEAVY', *({HEAVY} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"tools/{script.name}" in done.stdout and len(done.stdout) > 200
    assert not re.search(r"HEAVY(.*)", done.stdout)[1]


def test_a_script_of_another_checkout_is_refused(tmp_path):
    """With an environment that was installed for this checkout, a script of a copy would run with this checkout's code."""
    shutil.copytree(ROOT / "tools", tmp_path / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    words = command("publish", "--dry-run", root=tmp_path)
    done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    assert f"error: {tmp_path}/tools/publish.py: " in done.stderr and f" {ROOT}: " in done.stderr
    assert f"Fix: run `make -C {tmp_path} venv`, and then it with {tmp_path}/.venv/bin/python." in done.stderr
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").touch()
    done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    assert f"Fix: run it with {tmp_path}/.venv/bin/python." in done.stderr
    done = run_script("new", "--help", root=tmp_path)  # its own code: PYTHONPATH says so
    assert done.stdout.startswith("usage: tools/new.py")


def ends(code, **options):
    """Run `scripts.run` on a main function with this body, as a script of this checkout."""
    program = (
        f"from tools.common import scripts\ndef main():\n    {code}\nscripts.run(main, {str(ROOT / 'tools/x.py')!r})"
    )
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=60, check=False, **options
    )


def test_exit_statuses():
    assert ends("return 0").returncode == 0
    assert ends("return 1").returncode == 1
    interrupted = ends("raise KeyboardInterrupt")
    assert (interrupted.returncode, interrupted.stderr) == (
        130,
        "error: interrupted. Fix: run the same command again.\n",
    )
    broken = ends("raise BrokenPipeError('to a server')")  # is no reader of ours that left
    assert broken.returncode == 1 and "to a server" in broken.stderr


@pytest.mark.parametrize(
    "code", ["print('x' * 100_000); return 0", "print('x'); return 0"], ids=["written", "buffered"]
)
def test_a_reader_who_leaves_ends_it_quietly(code):
    with subprocess.Popen(["true"], stdin=subprocess.PIPE) as reader:
        reader.wait()
        done = ends(code, stdout=reader.stdin)
        reader.stdin.close()
    assert (done.returncode, done.stderr) == (1, "")


def test_without_a_standard_output():
    done = ends("print('x'); return 2", preexec_fn=lambda: os.close(1))
    assert (done.returncode, done.stderr) == (2, "")


def test_interrupted_by_the_keyboard():
    with start_script("serve", "--hub", ROOT / "modules", "--port", "0") as process:
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert "Traceback" not in errors and process.returncode == 0  # to serve until then is what it is for


def test_whole_numbers_of_arguments():
    assert scripts.positive("3") == 3
    for text in ("0", "-1", "1.5", "x", ""):
        with pytest.raises(
            scripts.argparse.ArgumentTypeError, match=r"is no whole number of at least 1\. Fix: give 1 or more"
        ):
            scripts.positive(text)
