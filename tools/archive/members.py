"""The members of a module's archive: their names, and which are permitted.

Shared by `tools.archive.packing`, which decides the bytes of a module, and `tools.archive.reading`, which does not.
"""

import dataclasses

BLOCK_BYTES = 1 << 18  # per call of the compressor: a part of the format, since pieces of another size give other bytes
PLAIN_FILES = ("saved_model.pb", "saved_model.pbtxt", "tfhub_module.pb", "keras_metadata.pb", "fingerprint.pb")
FOLDERS = ("assets", "assets.extra", "variables")
RECIPE = (
    "a module holds saved_model.pb, fingerprint.pb, keras_metadata.pb, variables/variables.*, assets/* and "
    "assets.extra/*, nothing else"
)


class ArchiveError(RuntimeError):
    """A SavedModel cannot be packed, or an archive is not one that a hub may serve."""


@dataclasses.dataclass(frozen=True)
class Member:
    """One entry of an archive: its path, its size in bytes, and whether it is a folder."""

    name: str
    size: int
    is_folder: bool = False


def refusal(name: str, is_folder: bool) -> str | None:
    """Return why a member must not be in a module's archive, or None if it may."""
    if not name or name.startswith("/") or "\\" in name or any(ord(c) < 32 or ord(c) == 127 for c in name):
        return "has a path that is absolute or holds a backslash or a control character"
    segments = name.split("/")
    if any(segment.startswith(".") or not segment for segment in segments):
        return "has a path with an empty segment or one that begins with a dot"
    top = segments[0]
    if is_folder:
        if top not in FOLDERS or (top == "variables" and len(segments) > 1):
            return "is no folder of a SavedModel"
        return None
    if len(segments) == 1:
        return None if name in PLAIN_FILES else "is no file of a SavedModel"
    if top == "variables":
        is_variables = len(segments) == 2 and segments[1].startswith("variables.") and len(segments[1]) > 10
        return None if is_variables else "is no file of variables/ (variables.index, variables.data-00000-of-00001)"
    return None if top in FOLDERS else "is no file of a SavedModel"
