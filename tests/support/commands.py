"""Run scripts of the repository in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments, check=True, **options):
    """Run a script of the repository in a process of its own; on failure its output is in the error."""
    result = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=600, **options
    )
    if check and result.returncode:
        raise AssertionError(f"{arguments} failed with {result.returncode}:\n{result.stdout}\n{result.stderr}")
    return result


def publish(*arguments, root=ROOT, **environment):
    """Run `tools/publish.py` of the repository at `root` in a process of its own."""
    return subprocess.run(
        [sys.executable, root / "tools/publish.py", *map(str, arguments)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)} | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
