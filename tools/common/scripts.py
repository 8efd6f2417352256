"""Shared entry point and options of the scripts in tools/.

    if __name__ == "__main__":
        run(main, __file__)

`STATUSES` says what the exit statuses of every script mean; `status` chooses between 1 and 2 for an error. Nothing heavy is
imported here, so that `--help` answers at once.
"""

import argparse
import contextlib
import os
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn

from tools.common.files import ROOT, default_cache
from tools.common.printable import printable_lines
from tools.common.problems import UsageError, with_fix

FAILED, USAGE, INTERRUPTED = 1, 2, 130
STATUSES = (
    "Exit status: 0 if all is well; 1 if something is wrong or failed; 2 if the command line does not fit, or names what is not\n"
    "there; 130 if interrupted."
)


def run(main: Callable[[], int], script: str, *, interrupted: str = "run the same command again") -> NoReturn:
    """Run `main` and exit with the status that it returns.

    A reader that closes the pipe (`... | head`) ends the script without a word; standard output that cannot be written otherwise
    (a full disk) ends it with an error. `interrupted` says what to do after Ctrl-C.
    """
    refuse_another_checkout(Path(script))
    status: Any
    try:
        try:
            status = main()
        except SystemExit as done:  # of argparse, which may have shown its help
            status = done.code
        if sys.stdout:  # None if the caller closed it
            sys.stdout.flush()
    except OSError as error:
        if not any(_reader_is_gone(stream) for stream in (sys.stdout, sys.stderr)):
            if (reason := _refusal(sys.stdout)) is None:
                raise
            message = f"standard output cannot be written ({reason})"
            fix = "free some space, or send it elsewhere, and run the same command again"
            print(f"error: {with_fix(message, fix)}", file=sys.stderr)
        elif not isinstance(error, BrokenPipeError):
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


def status(error: Exception) -> int:
    """Return the exit status for an error that a script has shown."""
    return USAGE if isinstance(error, UsageError) else FAILED


class Parser(argparse.ArgumentParser):
    """An argument parser whose messages quote what was typed without doing what a terminal would do with it."""

    def _print_message(self, message: str, file: Any = None) -> None:
        file = file or sys.stderr
        if message and file:
            file.write(printable_lines(message))  # argparse's own would pass over what cannot be written


def parser(script: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser for `tools/SCRIPT.py`, whose help is the script's docstring as it stands, and the exit statuses."""
    return Parser(
        prog=f"tools/{script}.py",
        description=description,
        epilog=STATUSES,
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


def add_catalog(arguments: argparse._ActionsContainer) -> None:
    """Add `--catalog`, a folder of one's own rows (see tools/catalog/reading.py:load)."""
    arguments.add_argument(
        "--catalog",
        type=Path,
        metavar="DIR",
        help="a folder of your own with modules/ (rows, labels, weights) and collections/, beside the repository's",
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


PASSWORD_VARIABLE = "HUBPRESS_SIGN_PASSWORD"


def add_signing(arguments: argparse._ActionsContainer) -> None:
    """Add the options that sign what a script writes beside modules; `tools.hub.signatures.signer` reads them."""
    group = arguments.add_argument_group("signatures", "docs/signing.md says what is signed, and how to make keys")
    how = group.add_mutually_exclusive_group()
    how.add_argument(
        "--sign-key",
        type=Path,
        metavar="FILE",
        help="sign with this private key (PEM, an elliptic curve; the password of an encrypted one in the environment variable "
        f"{PASSWORD_VARIABLE})",
    )
    how.add_argument(
        "--sign-sigstore",
        action="store_true",
        help="sign through Sigstore: with the identity of a CI job, or else by signing in with a browser; needs the internet",
    )
    _add_trust(group, "also accept signatures that are there")


def add_trust(arguments: argparse._ActionsContainer) -> None:
    """Add the options that demand signatures; `tools.hub.signatures.trust` reads them."""
    about = "demand that every record and note is signed by one of these; docs/signing.md"
    _add_trust(arguments.add_argument_group("signatures", about), "accept signatures")


def _add_trust(group: argparse._ArgumentGroup, accept: str) -> None:
    """Add `--key`, `--identity` and `--issuer`."""
    group.add_argument(
        "--key",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help=f"{accept} by the public keys (PEM) of a file, or of a folder's *.pub and *.pem; may be repeated",
    )
    group.add_argument(
        "--identity", metavar="WHO", help=f"{accept} through Sigstore by this identity, an e-mail address or a workflow"
    )
    group.add_argument("--issuer", metavar="URL", help="the OpenID Connect issuer that vouches for --identity")


def positive(text: str) -> int:
    """Return a whole number of at least 1, as an argument's `type`."""
    with contextlib.suppress(ValueError):
        if (number := int(text)) >= 1:
            return number
    raise argparse.ArgumentTypeError(with_fix(f"{text!r} is no whole number of at least 1", "give 1 or more"))


def _refusal(stream: IO[str]) -> str | None:
    """Return why nothing can be written to `stream`, or None if a line end was."""
    try:
        stream.write("\n")
        stream.flush()
    except (OSError, ValueError, AttributeError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


def _reader_is_gone(stream: IO[str]) -> bool:
    """Return whether `stream` is a pipe that nobody reads any more."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # no file, or a system without poll
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLERR)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    return False
