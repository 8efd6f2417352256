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
    assert scripts.STATUSES in done.stdout
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


# Nothing is wrong: 0. Something is: 1. What was typed does not fit, or names what is not there: 2.
STATUSES = [
    (0, "publish", "--dry-run"),
    (2, "publish", "--dry-run", "nothing"),
    (2, "publish", "quickstart"),
    (0, "bazel", "--check"),
    (0, "validate", "--rules"),
    (1, "validate", "{folder}/bad"),
    (2, "validate", "{folder}/none.md"),
    (2, "audit", "--hub", "{folder}/none"),
    (2, "render", "--hub", "{folder}/none"),
    (2, "mirror", "quickstart", "--hub", "{folder}/none", "--out", "{folder}/out"),
    (2, "mirror", "quickstart", "--hub", "{folder}/hub", "--out", "{folder}/out"),
    (2, "serve", "--hub", "{folder}/none"),
    (2, "yank", "a/b/1", "--hub", "{folder}/none", "--why", "x"),
    (2, "yank", "a/b/1", "--hub", "{folder}/hub", "--why", "x"),
    (2, "verify", "{folder}/none"),
    (1, "verify", "gs://bucket/hub"),
    (1, "audit", "--hub", "gs://bucket/hub"),
    (2, "evaluate", "{folder}/none/1", "--images", "modules/quickstart/digits_test.npz"),
    (2, "new", "variant", "nothing"),
    (2, "benchmark", "inference", "--record", "--hub", "{folder}/none"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("status", "words"), [(each[0], each[1:]) for each in STATUSES], ids=lambda each: " ".join(each[:2]) if isinstance(each, tuple) else str(each))  # fmt: skip
def test_exit_statuses_of_scripts(tmp_path, status, words):
    """The same for all scripts, in words and without a traceback."""
    (tmp_path / "hub").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/1.md").write_text("nothing")
    words = [word.format(folder=tmp_path) for word in words]
    done = run_script(*words, check=False, STORAGE_EMULATOR_HOST="http://127.0.0.1:9")
    assert done.returncode == status, done.stdout + done.stderr
    said = done.stdout if words[0] == "validate" and status == 1 else done.stderr  # problems are what it is asked for
    assert "Traceback" not in done.stderr and ("Fix: " in said) == (status != 0)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [("--dry-run",), ("--help",)], ids=lambda words: words[0])
def test_a_standard_output_that_is_full(words, unbuffered):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command("publish", *words),
            cwd=ROOT,
            env=environment(PYTHONUNBUFFERED=unbuffered),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    fix = "free some space, or send it elsewhere, and run the same command again."
    assert done.stderr == f"error: standard output cannot be written (No space left on device). Fix: {fix}\n"
    assert done.returncode == 1


def test_an_error_that_has_nothing_to_do_with_the_output_keeps_its_traceback():
    done = ends("raise OSError(28, 'No space left on device', '/cache/x')")
    assert done.returncode == 1 and "Traceback" in done.stderr and "/cache/x" in done.stderr


def test_what_was_typed_is_shown_with_escapes():
    done = run_script("publish", "--\x1b[31m", check=False)
    assert done.returncode == 2 and "unrecognized arguments: --\\x1b[31m" in done.stderr and "\x1b" not in done.stderr


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
