"""Errors of the checkpoint readers, and the words that their messages are made of."""

from collections.abc import Iterable

AGAIN = "download it again and compare its sha256 with the one upstream publishes"
RESAVE = "load it in a program that you trust and save the plain state_dict() with torch.save or as safetensors"


class CheckpointError(ValueError):
    """A checkpoint is refused. The message names the file and the reason, and ends with the fix."""


class Refusal(Exception):
    """A reason and a fix, raised where the file's name is not known; `read` and `write` make it a CheckpointError."""

    def __init__(self, reason: str, fix: str = AGAIN):
        super().__init__(reason)
        self.reason, self.fix = reason, fix


def refused(path: object, reason: str, fix: str = AGAIN) -> CheckpointError:
    """Return the error that refuses the file at `path`."""
    return CheckpointError(f"{path}: {reason}. Fix: {fix}.")


def printable(text: str) -> str:
    """Return the beginning of `text`, fit for a terminal: names in a file are whatever its author wrote."""
    return "".join(character if character.isprintable() else "?" for character in text[:120])


def quoted(text: str) -> str:
    """Return `text` in quotation marks, printable."""
    return f"'{printable(text)}'"


def kind_of(value: object) -> str:
    """Return the word for the type of a value that a pickle made."""
    return str(getattr(type(value), "KIND", type(value).__name__))


def listing(names: Iterable[object], limit: int = 8) -> str:
    """Return the first `limit` of `names`, and how many more there are; what is no text is named by its type."""
    names = list(names)
    shown = ", ".join(quoted(name) if isinstance(name, str) else f"<{kind_of(name)}>" for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")


def choose(keys: Iterable[str]) -> str:
    """Return the fix for a file with several networks: to name the key of one, for callers and for rows."""
    some = " or ".join(f"key={quoted(key)}" for key in list(keys)[:6])
    return f"say which with {some or 'key=...'} (a row of the catalogue says it as checkpoint_key)"
