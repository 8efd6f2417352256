"""Run scripts of a checkout in processes of their own.

done = run_script("publish", "convnext_digits", "--hub", folder)
done = run_script("bazel", "--check", root=copy_of_the_repository, check=False)
"""

import os
import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 600


def command(script, *arguments, root=ROOT):
    """Return the command line of `tools/SCRIPT.py` in the checkout at `root`."""
    return [sys.executable, str(Path(root) / f"tools/{script}.py"), *map(str, arguments)]


def environment(root=ROOT, **variables):
    """Return this process's variables, with the code of the checkout at `root` first, and `variables`."""
    return os.environ | {"PYTHONPATH": str(root)} | variables


def run_script(script, *arguments, root=ROOT, cwd=None, check=True, timeout=SECONDS, **variables):
    """Run `tools/SCRIPT.py` to its end; `variables` are added to its environment.

    Raises:
      AssertionError: `check` is true and it failed; its output is in the message.
    """
    done = subprocess.run(
        command(script, *arguments, root=root),
        cwd=cwd or root,
        env=environment(root, **variables),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if check and done.returncode:
        raise AssertionError(f"{script} {arguments} failed with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def start_script(script, *arguments, root=ROOT, cwd=None, **options):
    """Start `tools/SCRIPT.py` and return its process, with pipes for its output; `options` are those of `Popen`."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    settings = {"cwd": cwd or root, "env": environment(root)} | pipes | options
    return subprocess.Popen(command(script, *arguments, root=root), **settings)


def run_limited(script, *arguments, seconds, memory, root=ROOT):
    """Run `tools/SCRIPT.py` with so many seconds of processor time for each process, and bytes of memory.

    Raises:
      AssertionError: it needed more, failed without saying why, or waits for something that never comes.
    """

    def limit():
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    with start_script(script, *arguments, root=root, preexec_fn=limit) as process:
        try:
            output, errors = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"{script} {arguments} waits for something that never comes") from None
    assert process.returncode in (0, 1) and "Traceback" not in errors, (process.returncode, errors[-3000:])
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)
