"""Shared entry point and options of the scripts in tools/.

    if __name__ == "__main__":
        run(main, __file__)

Exit statuses: 0 done; 1 something failed or is not in order; 2 the command line or its input does not fit; 130 interrupted.
Nothing heavy is imported here, so that `--help` answers at once.
"""

import argparse
import contextlib
import os
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, NoReturn

from tools.common.files import ROOT, default_cache
from tools.common.problems import with_fix

FAILED, USAGE, INTERRUPTED = 1, 2, 130


def run(main: Callable[[], int], script: str, *, interrupted: str = "run the same command again") -> NoReturn:
    """Run `main` and exit with the status that it returns.

    A reader that closes the pipe (`... | head`) ends the script without a word. `interrupted` says what to do after Ctrl-C.
    """
    refuse_another_checkout(Path(script))
    try:
        status = main()
        if sys.stdout:  # None if the caller closed it
            sys.stdout.flush()
    except BrokenPipeError:
        if not any(_reader_is_gone(stream) for stream in (sys.stdout, sys.stderr)):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes nowhere
        status = FAILED
    except KeyboardInterrupt:
        print(f"error: {with_fix('interrupted', interrupted)}", file=sys.stderr)
        status = INTERRUPTED
    sys.exit(status)


def refuse_another_checkout(script: Path) -> None:
    """Exit if `script` lies in another checkout than the code it imports.

    An environment is installed in place and belongs to one checkout: with it, a script of another one would run with the
    first one's code.
    """
    checkout = script.resolve().parents[1]
    if checkout != ROOT:
        python = checkout / ".venv/bin/python"
        fix = (
            f"run it with {python}" if python.exists() else f"run `make -C {checkout} venv`, and then it with {python}"
        )
        message = f"this Python has the code of another checkout, {ROOT}: {sys.executable}"
        print(f"error: {script.resolve()}: {with_fix(message, fix)}", file=sys.stderr)
        sys.exit(USAGE)


def parser(script: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser for `tools/SCRIPT.py`, whose help is the script's docstring as it stands."""
    return argparse.ArgumentParser(
        prog=f"tools/{script}.py",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_hub(arguments: argparse._ActionsContainer, *, required: bool = True) -> None:
    """Add `--hub`."""
    arguments.add_argument(
        "--hub",
        required=required,
        metavar="DIR|URL",
        help="the hub: a folder, gs://bucket/path, or any URL that fsspec knows",
    )


def add_url(arguments: argparse._ActionsContainer) -> None:
    """Add `--url`, the public address of the hub (see tools/hub/address.py)."""
    arguments.add_argument(
        "--url",
        help="the public address of the hub, which handles begin with (default: as its pages have it, or modules/publisher.toml)",
    )


def add_cache(arguments: argparse._ActionsContainer, holds: str) -> None:
    """Add `--cache`."""
    arguments.add_argument(
        "--cache",
        metavar="DIR",
        type=Path,
        default=default_cache(),
        help=f"where {holds} are kept; may be deleted (default: %(default)s)",
    )


def positive(text: str) -> int:
    """Return a whole number of at least 1, as an argument's `type`."""
    with contextlib.suppress(ValueError):
        if (number := int(text)) >= 1:
            return number
    raise argparse.ArgumentTypeError(with_fix(f"{text!r} is no whole number of at least 1", "give 1 or more"))


def _reader_is_gone(stream: IO[str]) -> bool:
    """Return whether `stream` is a pipe that nobody reads any more."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # no file, or a system without poll
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLERR)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    return False
