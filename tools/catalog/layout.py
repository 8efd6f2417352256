"""Handles, and where the files of a hub lie: the grammar of both, in one place.

    archive_path("hubpress/convnext_digits/1")                     # "hubpress/convnext_digits/1.tar.gz"
    handle_of_record("hubpress/convnext_digits/1.json")            # "hubpress/convnext_digits/1"

A handle is `publisher/name/version`; the name may have several segments, the version is a whole number without leading zeros. Paths
are relative to the hub's root, with single slashes.
"""

import re
from typing import NamedTuple

COLLECTIONS = "collections"  # the second segment of a collection's handle
INDEX = "index.json"

_HANDLE = r"((?:[^/]+/){2,}(?:0|[1-9][0-9]*))"
_RECORD = re.compile(rf"{_HANDLE}\.json")
_NOTE = re.compile(rf"{_HANDLE}\.note-([1-9][0-9]*)\.json")
_PAGE = re.compile(rf"{_HANDLE}(?:/index\.html|\.md)")
_ARCHIVE = re.compile(rf"{_HANDLE}\.tar\.gz")


class NotePath(NamedTuple):
    """The handle that a note is about, and its number, from 1."""

    handle: str
    number: int


def archive_path(handle: str) -> str:
    """Return the path of a module's archive."""
    return f"{handle}.tar.gz"


def record_path(handle: str) -> str:
    """Return the path of a module's record."""
    return f"{handle}.json"


def document_path(handle: str) -> str:
    """Return the path of the Hub document of a module or a collection."""
    return f"{handle}.md"


def page_path(handle: str) -> str:
    """Return the path of the HTML page of a module, a collection or a publisher."""
    return f"{handle}/index.html"


def note_path(handle: str, number: int) -> str:
    """Return the path of a module's note; numbers begin with 1."""
    return f"{handle}.note-{number}.json"


def note_prefix(handle: str) -> str:
    """Return what the paths of all notes of a module begin with."""
    return f"{handle}.note-"


def handle_of_record(path: str) -> str | None:
    """Return the handle whose record lies at `path`, or None if no record can lie there."""
    match = _RECORD.fullmatch(path)
    return match[1] if match else None


def handle_of_archive(path: str) -> str | None:
    """Return the handle whose archive lies at `path`, or None if no archive can lie there."""
    match = _ARCHIVE.fullmatch(path)
    return match[1] if match else None


def handle_of_page(path: str) -> str | None:
    """Return the handle whose page or document lies at `path`, or None if none can lie there."""
    match = _PAGE.fullmatch(path)
    return match[1] if match else None


def parse_note_path(path: str) -> NotePath | None:
    """Return the handle and the number of the note at `path`, or None if no note can lie there."""
    match = _NOTE.fullmatch(path)
    return NotePath(match[1], int(match[2])) if match else None
