"""Handles, and where the files of a hub lie: the grammar of both, in one place.

    archive_path("hubpress/convnext_digits/1")                     # "hubpress/convnext_digits/1.tar.gz"
    handle_of_record("hubpress/convnext_digits/1.json")            # "hubpress/convnext_digits/1"

A module's handle is `publisher/name/version`; the name may have several segments, the version is a whole number without leading
zeros. A collection's is `publisher/collections/name/version`. Paths are relative to the hub's root, with single slashes; the
functions that make paths take the address of a hub in front of the handle, too.

Two grammars: what a catalogue may publish (`is_publisher_name`, `is_name`) is narrower than what is read as a handle in hubs of
others (`is_handle` and all functions that take a path).
"""

import re
from typing import NamedTuple

COLLECTIONS = "collections"  # the second segment of a collection's handle
STATIC = "static"  # the folder of style sheets and scripts: no publisher
INDEX = "index.json"
HOME_PAGE = "index.html"
NOT_FOUND_PAGE = "404.html"
MAX_SEGMENTS = 32  # of a path
MAX_NAME_SEGMENTS = 16  # which leaves room for the files of a module
ARCHIVE_SUFFIX, RECORD_SUFFIX, DOCUMENT_SUFFIX = ".tar.gz", ".json", ".md"
# What lies beside a module's SavedModel, in the order in which pages list it: the file in the module's folder, by format.
FORMAT_FILES = {
    "onnx": "portable.onnx",
    "float32": "float32.tflite",
    "float16": "float16.tflite",
    "int8": "int8.tflite",
}
# Which formats one record is about, by what its path ends with.
FORMATS_OF_KIND = {"onnx": ("onnx",), "lite": ("float32", "float16", "int8")}
LITE = "lite"  # the segment before the version of a document of kind Lite
SIGNATURE_SUFFIX, BUNDLE_SUFFIX, BOM_SUFFIX, PROVENANCE_SUFFIX = ".sig", ".bundle", ".cdx.json", ".provenance.json"

_VERSION = "(?:0|[1-9][0-9]*)"
_HANDLE = rf"(?!{STATIC}/)[^/]+/(?!{COLLECTIONS}/)[^/]+(?:/[^/]+)*/{_VERSION}"
_COLLECTION = rf"(?!{STATIC}/)[^/]+/{COLLECTIONS}/(?:[^/]+/)+{_VERSION}"
_PAGE_SUFFIXES = r"(?:/index\.html|\.md)"
_MODULE = re.compile(_HANDLE)
_RECORD = re.compile(rf"({_HANDLE})\.json")
_NOTE = re.compile(rf"({_HANDLE})\.note-(?P<number>[1-9][0-9]*)\.json")
_PAGE = re.compile(rf"({_HANDLE}){_PAGE_SUFFIXES}")
_COLLECTION_PAGE = re.compile(rf"({_COLLECTION}){_PAGE_SUFFIXES}")
_ARCHIVE = re.compile(rf"({_HANDLE})\.tar\.gz")
_ATTESTATION = re.compile(rf"({_HANDLE})(?:\.bundle|\.cdx\.json|\.provenance\.json)")
_FORMAT_RECORD = re.compile(rf"({_HANDLE})\.({'|'.join(FORMATS_OF_KIND)})(?:-([2-9]|[1-9][0-9]+))?\.json")
_FORMAT = re.compile(rf"({_HANDLE})/({'|'.join(map(re.escape, FORMAT_FILES.values()))})")
_LITE_HANDLE = re.compile(rf"([^/]+/[^/]+(?:/[^/]+)*)/{LITE}/({_VERSION})")
_FILE_OF_VERSION = re.compile(rf"({_VERSION})(?:\.tar\.gz|\.json|\.md)?")
_NAME = re.compile(rf"(?!{COLLECTIONS}(?:/|$))[a-z0-9][a-z0-9_.-]*(?:/[a-z0-9][a-z0-9_.-]*)*")
_PUBLISHER_NAME = re.compile(rf"(?!{STATIC}$)[a-z0-9][a-z0-9-]*")


class NotePath(NamedTuple):
    """The handle that a note is about, and its number, from 1."""

    handle: str
    number: int


class FormatRecordPath(NamedTuple):
    """The handle that a record of formats is about, its kind (a key of `FORMATS_OF_KIND`), and its number, from 1."""

    handle: str
    kind: str
    number: int


class FormatPath(NamedTuple):
    """The handle and the format of a file: a key of `FORMAT_FILES`."""

    handle: str
    format: str


# The grammar of handles


def is_publisher_name(text: str) -> bool:
    """Return whether a catalogue may publish under this name."""
    return bool(_PUBLISHER_NAME.fullmatch(text))


def is_name(text: str) -> bool:
    """Return whether a catalogue may give a module or a collection this name; below NAME/lite lie the Lite documents of NAME."""
    return bool(_NAME.fullmatch(text)) and text.count("/") < MAX_NAME_SEGMENTS and not text.endswith(f"/{LITE}")


def is_handle(text: str) -> bool:
    """Return whether this is a module's handle."""
    return bool(_MODULE.fullmatch(text))


def module_handle(publisher: str, name: str, version: int) -> str:
    """Return the handle of a module."""
    return f"{publisher}/{name}/{version}"


def collection_handle(publisher: str, name: str) -> str:
    """Return the handle of a collection; of those there is one version."""
    return f"{publisher}/{COLLECTIONS}/{name}/1"


# From handles to paths


def archive_path(handle: str) -> str:
    """Return the path of a module's archive."""
    return f"{handle}{ARCHIVE_SUFFIX}"


def record_path(handle: str) -> str:
    """Return the path of a module's record."""
    return f"{handle}{RECORD_SUFFIX}"


def document_path(handle: str) -> str:
    """Return the path of the Hub document of a module or a collection."""
    return f"{handle}{DOCUMENT_SUFFIX}"


def publisher_document_path(publisher: str) -> str:
    """Return the path of the Hub document of a publisher."""
    return f"{publisher}/{publisher}{DOCUMENT_SUFFIX}"


def page_path(folder: str) -> str:
    """Return the path of the HTML page of a module, a collection, a publisher, or any folder of the site."""
    return f"{folder}/{HOME_PAGE}"


def note_path(handle: str, number: int) -> str:
    """Return the path of a module's note; numbers begin with 1."""
    return f"{note_prefix(handle)}{number}.json"


def note_prefix(handle: str) -> str:
    """Return what the paths of all notes of a module begin with."""
    return f"{handle}.note-"


def format_path(handle: str, format_name: str) -> str:
    """Return the path of a module's file in a format, a key of `FORMAT_FILES`."""
    return f"{handle}/{FORMAT_FILES[format_name]}"


def format_record_path(handle: str, kind: str, number: int = 1) -> str:
    """Return the path of a record of formats; of a kind there are several where formats were added later, numbered from 1."""
    return f"{handle}.{kind}.json" if number == 1 else f"{handle}.{kind}-{number}.json"


def kind_of_format(format_name: str) -> str:
    """Return the kind of the records that a format belongs to."""
    return next(kind for kind, formats in FORMATS_OF_KIND.items() if format_name in formats)


def lite_handle(handle: str) -> str:
    """Return the handle of the document of kind Lite of a module: `publisher/name/lite/version`."""
    name, _, version = handle.rpartition("/")
    return f"{name}/{LITE}/{version}"


def lite_document_path(handle: str) -> str:
    """Return the path of the document of kind Lite of a module."""
    return document_path(lite_handle(handle))


def signature_path(path: str) -> str:
    """Return the path of the signature of a record, a note, or another file that is signed as it stands."""
    return f"{path}{SIGNATURE_SUFFIX}"


def bundle_path(handle: str) -> str:
    """Return the path of the signature of a module's unpacked archive."""
    return f"{handle}{BUNDLE_SUFFIX}"


def bom_path(handle: str) -> str:
    """Return the path of a module's bill of materials (CycloneDX)."""
    return f"{handle}{BOM_SUFFIX}"


def provenance_path(handle: str) -> str:
    """Return the path of the statement of where a module comes from (in-toto, SLSA)."""
    return f"{handle}{PROVENANCE_SUFFIX}"


def attestation_paths(handle: str) -> list[str]:
    """Return the paths of everything that lies beside the record of a module that is signed, in the order of its creation."""
    found = [signature_path(record_path(handle)), bundle_path(handle)]
    for path in (bom_path(handle), provenance_path(handle)):
        found += [path, signature_path(path)]
    return found


# From paths to handles


def handle_of_record(path: str) -> str | None:
    """Return the handle whose record lies at `path`, or None if no record can lie there."""
    match = _RECORD.fullmatch(path)
    return match[1] if match else None


def handle_of_archive(path: str) -> str | None:
    """Return the handle whose archive lies at `path`, or None if no archive can lie there."""
    match = _ARCHIVE.fullmatch(path)
    return match[1] if match else None


def handle_of_attestation(path: str) -> str | None:
    """Return the handle whose signed tree, bill of materials or provenance lies at `path`, or None if none can lie there."""
    match = _ATTESTATION.fullmatch(path)
    return match[1] if match else None


def parse_format_record_path(path: str) -> FormatRecordPath | None:
    """Return what the record of formats at `path` is about, or None if no record of formats can lie there."""
    match = _FORMAT_RECORD.fullmatch(path)
    return FormatRecordPath(match[1], match[2], int(match[3] or 1)) if match else None


def parse_format_path(path: str) -> FormatPath | None:
    """Return the handle and the format whose file lies at `path`, or None if no format can lie there."""
    match = _FORMAT.fullmatch(path)
    if not match:
        return None
    return FormatPath(match[1], next(name for name, file in FORMAT_FILES.items() if file == match[2]))


def handle_of_lite(path: str) -> str | None:
    """Return the handle of the module whose Lite document has the handle `path`, or lies there; None if it can be none."""
    match = _LITE_HANDLE.fullmatch(path.removesuffix(DOCUMENT_SUFFIX))
    handle = f"{match[1]}/{match[2]}" if match else ""
    return handle if is_handle(handle) else None


def signed_path(path: str) -> str | None:
    """Return the path of the file whose signature lies at `path`, or None if no signature can lie there."""
    signed = path.removesuffix(SIGNATURE_SUFFIX)
    is_signed = (
        handle_of_record(signed)
        or parse_note_path(signed)
        or parse_format_record_path(signed)
        or handle_of_attestation(signed)
    )
    return signed if signed != path and is_signed and not signed.endswith(BUNDLE_SUFFIX) else None


def handle_of_page(path: str) -> str | None:
    """Return the handle of the module whose page or document lies at `path`, or None if none can lie there."""
    match = _PAGE.fullmatch(path)
    return match[1] if match else None


def collection_of_page(path: str) -> str | None:
    """Return the handle of the collection whose page or document lies at `path`, or None if none can lie there."""
    match = _COLLECTION_PAGE.fullmatch(path)
    return match[1] if match else None


def parse_note_path(path: str) -> NotePath | None:
    """Return the handle and the number of the note at `path`, or None if no note can lie there."""
    match = _NOTE.fullmatch(path)
    return NotePath(match[1], int(match["number"])) if match else None


def handles_of_path(path: str) -> list[str]:
    """Return the handles of the modules that a path may belong to, as their file or below their folder, the longest first.

    More than one where a name has a segment of digits or ends with `lite`, as the handles of Lite documents do; none for what
    belongs to no module or has more than `MAX_SEGMENTS`.
    """
    segments = path.split("/")
    if segments[0] == STATIC or (len(segments) > 1 and segments[1] == COLLECTIONS) or len(segments) > MAX_SEGMENTS:
        return []
    handles = []
    for index in range(2, len(segments)):
        match = _FILE_OF_VERSION.fullmatch(segments[index])
        if match and (index == len(segments) - 1 or match[0] == match[1]):
            handle = "/".join([*segments[:index], match[1]])
            handles += [of for of in (handle_of_lite(handle),) if of] + [handle]
    return handles[::-1]
