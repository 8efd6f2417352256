"""A tree of Hub documents on disk: which documents are there, and where the links of a document lead.

hub = Tree(Path("assets/docs"), tags=tags, paths=scan(Path("assets/docs")))
hub.find("google/bert")             # whether any version of it has a document
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from tools.catalog import layout
from tools.common.problems import with_fix
from tools.documents import document as grammar

OFFICIAL = "https://tfhub.dev"
LARGEST_BYTES = 4_000_000  # a longer file is no document
LONGEST_VERSION, LISTED = 20, 20  # characters of a file that is a version; versions that a fix lists
MOST_ENTRIES = 1_000_000  # files and folders of a tree
_TEMPLATE = re.compile(r"[{}$<>%*]|\.\.\.|…")


class UsageError(ValueError):
    """Nothing can be validated. The message says why and what to do."""


@dataclass
class Tree:
    """The documents of a tree, for rules that ask whether something exists.

    `root` is the folder that holds the publishers' folders, `url` the address that handles begin with, and `tags` maps a
    vocabulary to its ids.
    """

    root: Path
    url: str = OFFICIAL
    tags: dict[str, Collection[str]] = field(default_factory=dict)
    paths: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.publishers = {path.split("/")[0] for path in self.paths}
        self._versions: dict[str, list[int]] = {}
        for path in self.paths:
            folder, _, file = path.rpartition("/")
            if file[:-3].isdecimal() and len(file) < LONGEST_VERSION:
                self._versions.setdefault(folder, []).append(int(file[:-3]))
        self._found: dict[str, bool | None] = {}
        self._mark = "://" + self.url.partition("://")[2].rstrip("/") + "/"
        # What ends an address: a blank, a quote or a bracket; full stops and commas at its end are the sentence's.
        self._address = re.compile(re.escape(self._mark) + r"([^\s<>\"'`()\[\]|\\,]+)")

    def mentioned(self, text: str) -> bool:
        """Return whether any address of the hub is in the text."""
        return self._mark in text

    def addresses(self, text: str) -> Iterator[tuple[int, str]]:
        """Yield (position, address below the hub) of every link to the hub; templates such as `{name}` are none."""
        if self._mark not in text:
            return
        for match in self._address.finditer(text):
            address = re.split(r"[?#]", match[1], maxsplit=1)[0]
            if _TEMPLATE.search(address):
                continue
            address = address.rstrip(".,;:!*/")
            if address:
                yield match.start(), address

    def start_of(self, text: str, position: int) -> int:
        """Return where the address whose `://` is at `position` begins, its scheme included."""
        return position - (5 if text.endswith("https", 0, position) else 4)

    def is_model(self, address: str) -> bool:
        """Return whether an address is one of a model: not of a collection or a publisher."""
        parts = address.split("/")
        return len(parts) > 1 and parts[1] != "collections"

    def name_of(self, address: str) -> str:
        """Return the name in an address, without publisher and version."""
        parts = address.split("/")[1:]
        if parts[:1] == ["collections"] or (parts[:1] and parts[0] in grammar.ADDRESS_WORDS):
            parts = parts[1:]
        return "/".join(parts[:-1] if len(parts) > 1 and parts[-1].isdecimal() else parts)

    def own_addresses(self, document: grammar.Document) -> list[str]:
        """Return the addresses under which a model's own page may load it: the right one, then those that also lead to it."""
        word = next((word for word, kind in grammar.ADDRESS_WORDS.items() if kind == document.kind), None)
        name = f"{word}/{document.name}" if word else document.name
        found = [f"{document.publisher}/{name}/{document.version}", f"{document.publisher}/{name}"]
        if word:
            found += [
                document.handle,
                f"{document.publisher}/{document.name}/{grammar.FORMATS[document.kind]}/{document.version}",
            ]
        files = [f"{document.handle}/{file}" for file in layout.FORMAT_FILES.values()]
        return [*found, f"{found[0]}.tar.gz", *files]

    def find(self, address: str) -> bool | None:
        """Return whether a document is at an address (without version: any version of it).

        None if that cannot be known here: its publisher has nothing in this tree, or it is no address of a document.
        """
        if address not in self._found:
            self._found[address] = self._find(address)
        return self._found[address]

    def _find(self, address: str) -> bool | None:
        publisher, *rest = address.removesuffix(".tar.gz").split("/")
        if publisher not in self.publishers:
            return None
        if rest and rest[-1] in layout.FORMAT_FILES.values():  # a file of the module lies in the folder of its handle
            rest.pop()
        if not rest:
            return f"{publisher}/{publisher}.md" in self.paths
        kind = "Module"
        if rest[0] == "collections" and len(rest) > 1:
            kind, rest = "Collection", rest[1:]
        elif rest[0] in grammar.ADDRESS_WORDS and len(rest) > 1:
            kind, rest = grammar.ADDRESS_WORDS[rest[0]], rest[1:]
        name, version = "/".join(rest[:-1]), rest[-1]
        if name and any(path in self.paths for path in grammar.paths(kind, publisher, name, version)):
            return True
        folders = grammar.paths(kind, publisher, "/".join(rest), 0)
        return any(path.rpartition("/")[0] in self._versions for path in folders)

    def suggest(self, address: str) -> str:
        """Return a fix for an address that leads nowhere: one of the versions that exist, or to correct it."""
        publisher, *rest = address.split("/")
        if rest and rest[-1].isdecimal() and self.find("/".join([publisher, *rest[:-1]])):
            folders = [
                path.rpartition("/")[0]
                for kind in ("Module", "Collection")
                for path in grammar.paths(kind, publisher, self.name_of(address), 0)
            ]
            versions = sorted(version for folder in folders for version in self._versions.get(folder, ()))
            if versions:
                return f"link one of its versions: {', '.join(map(str, versions[-LISTED:]))}"
        return "correct the address, or publish what it names"


def scan(root: Path, linked: list[str] | None = None) -> set[str]:
    """Return the paths of all Markdown files below a folder, relative to it; folders that are links are added to `linked`.

    Raises:
      UsageError: there is more below the folder than any tree of documents holds.
    """
    base = len(os.fspath(root).rstrip("/")) + 1
    found: set[str] = set()
    for entry in walk(root):
        if entry.name.endswith(".md"):
            found.add(entry.path[base:])
        elif linked is not None and entry.is_symlink() and entry.is_dir():
            linked.append(entry.path)
    return found


def walk(root: str | os.PathLike[str]) -> Iterator["os.DirEntry[str]"]:
    """Yield everything below a folder that is no folder itself; links to folders are not followed, nor what is hidden.

    What cannot be listed is left out: a file that is asked for is reported where it is read, the others only answer questions.

    Raises:
      UsageError: there is more below the folder than any tree of documents holds.
    """
    folders, count = [os.fspath(root)], 0
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                count += 1
                if count > MOST_ENTRIES:
                    message = f"{os.fspath(root)} holds more than {MOST_ENTRIES:,} files and folders"
                    raise UsageError(
                        with_fix(message, "name the folder with the publishers' folders, for example with --root")
                    )
                if not entry.is_dir(follow_symlinks=False):
                    yield entry
                elif not entry.name.startswith("."):
                    folders.append(entry.path)


def open_regular(file: str | os.PathLike[str]) -> BinaryIO:
    """Open a file to read its bytes.

    Raises:
      OSError: it cannot be opened, or is no regular file: a pipe or a device could be read for ever.
    """
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file")
    return os.fdopen(descriptor, "rb")


def read_document(file: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a document, `LARGEST_BYTES` and one more at most; raises OSError as `open_regular`."""
    with open_regular(file) as stream:
        return stream.read(LARGEST_BYTES + 1)
