"""Documents of a tree in tfhub.dev's format, as the pages of an archive need them: found, read and described.

for file, status in scan(Path("docs")): ...
facts = describe_document(path, "google/bert/1.md", status)        # JSON can hold it, so that it can be remembered
"""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from tools.common.problems import Problem
from tools.documents import document as grammar
from tools.documents.tree import LARGEST_BYTES, read_document, walk
from tools.site import sanitizing

# Everything that could be an address of a document; the rendered links are looked up among these.
_ADDRESS = re.compile(r"(?i)https?://[^\s<>\"'`()\[\]|\\]+")


class DocumentFacts(TypedDict):
    """The facts of one document.

    `tags` are the values of its metadata by vocabulary, `modified` is in nanoseconds, `excess` is the limit that its body breaks.
    """

    file: str
    modified: int
    digest: str
    kind: str
    publisher: str
    name: str
    version: int | None
    description: str
    license: str | None
    parent: str | None
    fine_tunable: bool | None
    excess: str | None
    addresses: list[str]
    tags: dict[str, list[str]]


class PlacedDocument(DocumentFacts):
    """A document that has a page: `page` is its path in the site."""

    page: str


def scan(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the Markdown files below a folder, relative to it, with their status; links are not followed."""
    base = len(os.fspath(folder).rstrip("/")) + 1
    for entry in walk(folder):
        if entry.name.endswith(".md") and not entry.is_symlink():
            yield entry.path[base:], entry.stat(follow_symlinks=False)


def describe_document(root: Path, file: str, status: os.stat_result) -> DocumentFacts | Problem:
    """Read the document `file` below `root`; return its facts, or why it has no page."""
    try:
        data = read_document(root / file)
        if len(data) > LARGEST_BYTES:
            message = f"has more than {LARGEST_BYTES:,} bytes, as many as a document may have"
            return Problem(file, message, "make it shorter", line=1)
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return Problem(file, "is not UTF-8", "save it as UTF-8", line=1)
    except OSError as error:
        return Problem(file, f"cannot be read: {error.strerror}", "correct its permissions, or remove it", line=1)
    document = grammar.parse(text)
    if not document.kind:
        message, fix = grammar.explain_heading(text.partition("\n")[0][:200])
        return Problem(file, message, fix, line=1)
    return {
        "file": file,
        "modified": status.st_mtime_ns,
        "digest": hashlib.blake2b(data, digest_size=12).hexdigest(),
        "kind": document.kind,
        "publisher": document.publisher,
        "name": document.name.replace("&amp;", "&"),
        "version": document.version,
        "description": _plain(" ".join(document.description))[:300],
        "license": document.value("license"),
        "parent": document.value("parent-model"),
        "fine_tunable": {"true": True, "false": False}.get(document.value("fine-tunable") or ""),
        "excess": sanitizing.excess(document.body or ""),
        "addresses": sorted(set(_ADDRESS.findall(text))),
        "tags": {
            key.replace("-", "_"): document.values(key)
            for key in ("task", "network-architecture", "dataset", "language")
        },
    }


def _plain(text: str) -> str:
    """Return Markdown without its links and emphasis, for one line of a list."""
    text = re.sub(r"!?\[([^\[\]]*)\]\([^()\s]*\)", r"\1", text)
    # Nor what XML cannot say.
    text = re.sub(r"[*`]+|\\(?=[\[\]_*])|[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]", "", text)
    return re.sub(r"\s+", " ", text).strip()
