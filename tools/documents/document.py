"""The grammar of the Hub's documents (tfhub.dev's format): text to a typed record and back, byte for byte.

    document = parse(text)            # never fails: what is wrong stays where it is, for `tools.documents.rules` to name
    document.handle, document.values("task"), document.body
    render(document) == text

A document is line 1 with kind and handle, at most one blank line, a description, a block of metadata comments that ends
at the first line that starts with `#`, and free Markdown. `parse` loses nothing, not even a blank at the end of a line, and
every part knows its line: errors say `file:line`. Needs nothing but the standard library.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tools.common.problems import with_fix

MODELS = ("Module", "Placeholder", "Lite", "Tfjs", "Coral")
KINDS = (*MODELS, "Collection", "Publisher")
# Where a kind differs from a Module: the folder that its documents lie in, and the word that its address carries.
FORMATS = {"Lite": "lite", "Tfjs": "tfjs", "Coral": "coral"}
ADDRESS_WORDS = {"lite-model": "Lite", "tfjs-model": "Tfjs", "coral-model": "Coral"}
JOINER = "&zwnj;"  # lets a long handle wrap on a page; no part of it
BADGE = "[![Icon URL]"

# A handle's parts in tfhub.dev's own grammar, not that of tools.catalog.layout: it has other kinds, and zeros before versions.
PUBLISHER = r"[a-z0-9-]+"
SEGMENT = r"(?!\.+(?:/|$))[A-Za-z0-9_.-]+"
COLLECTION_SEGMENT = r"(?!\.+(?:/|$))[A-Za-z0-9_.&;-]+"
_NUMBER = r"[0-9]+"


def _handle(segment: str) -> str:
    return rf"(?P<publisher>{PUBLISHER})/(?P<name>{segment}(?:/{segment})*)/(?P<version>{_NUMBER})"


_MODEL_LINE = re.compile(rf"# (?P<kind>{'|'.join(MODELS)}) {_handle(SEGMENT)}")
_COLLECTION_LINE = re.compile(rf"# (?P<kind>Collection) {_handle(COLLECTION_SEGMENT)}")
_PUBLISHER_LINE = re.compile(rf"# (?P<kind>Publisher) (?P<publisher>{PUBLISHER})")
_KEY = re.compile(r"[A-Za-z0-9_ -]+")
_HEAD_LINES = 48  # what is split off at first; longer heads exist, rarely


class Entry(NamedTuple):
    """One line of metadata, `<!-- key: value -->`; the rest is how it was written: blanks around and behind."""

    key: str
    value: str
    before: str = " "
    after: str = " "
    tail: str = ""

    def __str__(self) -> str:
        return f"<!-- {self.key}:{self.before}{self.value}{self.after}-->{self.tail}"


@dataclass(frozen=True, slots=True)
class Document:
    """One document.

    `kind` is one of `KINDS`, or "" if line 1 is no handle; `name` is "" and `version` None for a publisher. `metadata`
    holds an `Entry` for each line that is one, and every other line as it is (blank, a badge, or wrong). `body` starts
    at the first line that begins with `#`, or is None. `heading` is line 1 where it differs from `canonical_heading`,
    `gap` the blank lines behind it.
    """

    kind: str
    publisher: str = ""
    name: str = ""
    version: int | None = None
    description: tuple[str, ...] = ()
    metadata: tuple[Entry | str, ...] = ()
    body: str | None = None
    heading: str = ""
    gap: tuple[str, ...] = ("",)

    @property
    def handle(self) -> str:
        """`publisher/name/version`, or the publisher; "" without one."""
        return f"{self.publisher}/{self.name}/{self.version}" if self.name else self.publisher

    @property
    def canonical_heading(self) -> str:
        """Line 1 as it should be."""
        return f"# {self.kind} {self.handle}" if self.kind else ""

    @property
    def entries(self) -> list[Entry]:
        return [each for each in self.metadata if isinstance(each, Entry)]

    def values(self, key: str) -> list[str]:
        """The values of a key, in order."""
        return [each.value for each in self.metadata if isinstance(each, Entry) and each.key == key]

    def value(self, key: str) -> str | None:
        """The first value of a key, or None."""
        return next(iter(self.values(key)), None)

    @property
    def description_line(self) -> int:
        """The number of the description's first line; lines count from 1."""
        return 2 + len(self.gap)

    @property
    def metadata_line(self) -> int:
        """The number of the first line behind the description."""
        return self.description_line + len(self.description)

    @property
    def body_line(self) -> int:
        """The number of the body's first line."""
        return self.metadata_line + len(self.metadata)

    @property
    def first_entry_line(self) -> int:
        """The number of the first line of metadata that is an `Entry`; of the line behind the description without one."""
        for number, each in enumerate(self.metadata, self.metadata_line):
            if isinstance(each, Entry):
                return number
        return min(self.metadata_line, self.body_line)

    def line_at(self, position: int) -> int:
        """The number of the line in which character `position` of the body lies."""
        return self.body_line + (self.body or "").count("\n", 0, position)

    def lines_of(self, key: str) -> Iterator[tuple[int, str]]:
        """Yield (line number, value) of each line with this key."""
        for number, each in enumerate(self.metadata, self.metadata_line):
            if isinstance(each, Entry) and each.key == key:
                yield number, each.value

    def line_of(self, key: str, value: str | None = None) -> int:
        """The number of the first line with this key (and value); of the first entry if there is none."""
        for number, each in enumerate(self.metadata, self.metadata_line):
            if isinstance(each, Entry) and each.key == key and value in (None, each.value):
                return number
        return self.first_entry_line

    @property
    def paths(self) -> list[str]:
        """The paths at which the document may lie in a tree of documents, the preferred one first; [] without a handle."""
        return paths(self.kind, self.publisher, self.name, self.version)


def paths(kind: str, publisher: str, name: str, version: int | str | None) -> list[str]:
    """Return the paths at which a document of this kind and handle may lie, relative to the root of the documents."""
    if not kind:
        return []
    if kind == "Publisher":
        return [f"{publisher}/{publisher}.md"]
    if kind == "Collection":
        return [f"{publisher}/collections/{name}/{version}.md"]
    folder = f"{name}/{FORMATS[kind]}" if kind in FORMATS else name
    return [f"{publisher}/{folder}/{version}.md", f"{publisher}/models/{folder}/{version}.md"]


def parse(text: str) -> Document:
    """Read a document. Any text gives one, and `render` gives the text back."""
    lines = text.split("\n", _HEAD_LINES)
    head = _head(lines, len(lines) <= _HEAD_LINES)
    if head is None:  # the metadata reaches beyond what was split off, or there is no body
        head = _head(text.split("\n"), whole=True)
        assert head is not None
    return head


def _head(lines: list[str], whole: bool) -> Document | None:
    """Read a document; unless `whole`, the last of `lines` is the rest of the text, and None says that it is needed."""
    end = len(lines) if whole else _HEAD_LINES
    kind, publisher, name, version, heading = _heading(lines[0])
    start = at = 1
    while at < end and not lines[at].strip():
        at += 1
    gap, start = tuple(lines[1:at]), at
    while at < end and lines[at].strip() and not lines[at].startswith("<!--"):
        at += 1
    description, start = tuple(lines[start:at]), at
    while at < end and not lines[at].startswith("#"):
        at += 1
    if at == end and not whole:
        return None
    metadata = tuple(_entry(line) or line for line in lines[start:at])
    body = "\n".join(lines[at:]) if at < len(lines) else None
    return Document(kind, publisher, name, version, description, metadata, body, heading, gap)


def _heading(line: str) -> tuple[str, str, str, int | None, str]:
    """Kind, publisher, name, version, and the line itself where it is not how these are written."""
    plain = line.rstrip().replace(JOINER, "")
    found = _MODEL_LINE.fullmatch(plain) or _COLLECTION_LINE.fullmatch(plain) or _PUBLISHER_LINE.fullmatch(plain)
    if not found:
        return "", "", "", None, line
    parts = found.groupdict()
    version = parts.get("version")
    if version is not None and len(version) > 9:  # no version, and int() of a million digits takes minutes
        return "", "", "", None, line
    kind, publisher, name = parts["kind"], parts["publisher"], parts.get("name", "")
    number = int(version) if version else None
    written = f"# {kind} {publisher}" + (f"/{name}/{number}" if name else "")
    return kind, publisher, name, number, "" if line == written else line


def _entry(line: str) -> Entry | None:
    # Without a regular expression: linear whatever the line.
    if not line.startswith("<!-- "):
        return None
    stripped = line.rstrip()
    if not stripped.endswith("-->"):
        return None
    key, colon, rest = stripped[5:-3].partition(":")
    value = rest.strip()
    if not colon or not value or not _KEY.fullmatch(key):
        return None
    before = rest[: len(rest) - len(rest.lstrip())]
    return Entry(key, value, before, rest[len(rest.rstrip()) :], line[len(stripped) :])


def render(document: Document) -> str:
    """Write a document.

    Raises:
      ValueError: if the parts would be read differently from how they are given (a description with an empty line, a
        body that does not begin with `#`, a value with blanks at its ends).
    """
    text = _written(document)
    if parse(text) != document:
        message = f"{document.handle or 'a document'} cannot be written so that it is read back the same"
        fix = (
            "keep the description free of empty lines and comments, values on one line without blanks around them, "
            "and begin the body with `#`"
        )
        raise ValueError(with_fix(message, fix))
    return text


def _written(document: Document) -> str:
    lines = [
        document.heading or document.canonical_heading,
        *document.gap,
        *document.description,
        *map(str, document.metadata),
    ]
    return "\n".join(lines if document.body is None else [*lines, document.body])


def explain_heading(line: str) -> tuple[str, str]:
    """Explain what is wrong with a line 1 that is no handle, and what to do: (message, fix)."""
    plain = line.strip().replace(JOINER, "")
    shape = "write `# Module publisher/name/version`"
    if not plain:
        return "line 1 is empty, a kind and a handle were expected", shape
    words = plain.split()
    if words[0] != "#":
        return f"line 1 is {plain[:60]!r}, a kind and a handle were expected", shape
    if len(words) < 2 or words[1] not in KINDS:
        return f"{' '.join(words[1:2])!r} is no kind of document", f"write one of {', '.join(KINDS)}"
    if len(words) != 3 or plain != " ".join(words) or line != line.lstrip():
        return "line 1 is not `# Kind handle` with single blanks", f"write `# {words[1]} {''.join(words[2:])}`"
    publisher, *rest = words[2].split("/")
    if not re.fullmatch(PUBLISHER, publisher):
        return f"{publisher!r} is no publisher's name", "use lower-case letters, digits and hyphens"
    if words[1] == "Publisher":
        return f"{words[2]!r} is not a publisher alone", f"write `# Publisher {publisher}`"
    if len(rest) < 2 or not re.fullmatch(_NUMBER, rest[-1]) or len(rest[-1]) > 9:
        return f"{words[2]!r} does not end in a name and a version", f"write `# {words[1]} {publisher}/name/1`"
    segment = COLLECTION_SEGMENT if words[1] == "Collection" else SEGMENT
    wrong = next((part for part in rest[:-1] if not re.fullmatch(segment, part)), "/".join(rest[:-1]))
    return f"{wrong!r} is no part of a name", "use ASCII letters, digits, `_`, `.`, `-`, and never dots alone"
