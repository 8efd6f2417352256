"""A tree of Hub documents on disk: where its documents, tags and archives are, and what is wrong with them.

    report = validate([Path("assets/docs")])
    for problem in report.problems:
        print(problem)            # assets/docs/google/x/1.md:3: `task` is missing, a Module needs it; add `<!-- task: ... -->`

Works on tfhub.dev's layout (`assets/docs` and `tags` beside it) and on a hub that `tools/publish.py` made.
"""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tools.documents import document as grammar
from tools.documents import rules
from tools.documents.rules import ERROR, WARNING, Page, declare
from tools.hub import address
from tools.hub.storage import Storage, StorageError

OFFICIAL = "https://tfhub.dev"
REPOSITORY_TAGS = Path(__file__).resolve().parents[2] / "modules/tags"
_TEMPLATE = re.compile(r"[{}$<>%*]|\.\.\.|…")

PUBLISHER_PAGE = declare("publisher-page", ERROR, "every publisher has a page, PUBLISHER/PUBLISHER.md")
DUPLICATE_HANDLE = declare("duplicate-handle", ERROR, "no handle has two documents of one kind")
SHARED_ARCHIVE = declare("shared-archive", WARNING, "no two pages share one archive")
TAG_FILE = declare("tag-file", ERROR, "tag files are YAML of the known form, with unique ids")


class UsageError(ValueError):
    """Nothing can be validated: the message says why and what to do."""


class Problem(NamedTuple):
    """One thing that is wrong, where it is, and how to put it right."""

    file: str
    line: int
    rule: str
    severity: str
    message: str
    fix: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}; {self.fix}"


@dataclass
class ValidationReport:
    """What a validation found, by file and line, and how many documents it read."""

    problems: list[Problem]
    documents: int
    archives: int = 0

    @property
    def errors(self) -> int:
        return sum(each.severity == ERROR for each in self.problems)

    @property
    def warnings(self) -> int:
        return len(self.problems) - self.errors


@dataclass
class Tree:
    """What is in a tree of documents, for rules that ask whether something exists.

    `root` is the folder that holds the publishers' folders, `url` the address that handles begin with, and `tags` maps a
    vocabulary to its ids.
    """

    root: Path
    url: str = OFFICIAL
    tags: dict[str, Collection[str]] = field(default_factory=dict)
    paths: set[str] = field(default_factory=set)

    def __post_init__(self):
        self.publishers = {path.split("/")[0] for path in self.paths}
        self._folders = {path.rpartition("/")[0] for path in self.paths if path.rpartition("/")[2][:-3].isdecimal()}
        self._found: dict[str, bool | None] = {}
        self._mark = "://" + self.url.partition("://")[2].rstrip("/") + "/"
        # What ends an address: a blank, a quote or a bracket; full stops and commas at its end are the sentence's.
        self._address = re.compile(re.escape(self._mark) + r"([^\s<>\"'`()\[\]|\\,]+)")

    def mentioned(self, text: str) -> bool:
        """Whether any address of the hub is in the text."""
        return self._mark in text

    def addresses(self, text: str) -> Iterator[tuple[int, str]]:
        """(position, address below the hub) of every link to the hub; templates such as `{name}` are none."""
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
        """Where the address whose `://` is at `position` begins, its scheme included."""
        return position - (5 if text.endswith("https", 0, position) else 4)

    def is_model(self, address: str) -> bool:
        """Whether an address is one of a model: not of a collection or a publisher."""
        parts = address.split("/")
        return len(parts) > 1 and parts[1] != "collections"

    def name_of(self, address: str) -> str:
        """The name in an address, without publisher and version."""
        parts = address.split("/")[1:]
        if parts[:1] == ["collections"] or (parts[:1] and parts[0] in grammar.ADDRESS_WORDS):
            parts = parts[1:]
        return "/".join(parts[:-1] if len(parts) > 1 and parts[-1].isdecimal() else parts)

    def own_addresses(self, document: grammar.Document) -> list[str]:
        """The addresses under which a model's own page may load it: the one that is right, then those that also lead to it."""
        word = next((word for word, kind in grammar.ADDRESS_WORDS.items() if kind == document.kind), None)
        name = f"{word}/{document.name}" if word else document.name
        found = [f"{document.publisher}/{name}/{document.version}", f"{document.publisher}/{name}"]
        if word:
            found += [
                document.handle,
                f"{document.publisher}/{document.name}/{grammar.FORMATS[document.kind]}/{document.version}",
            ]
        return [*found, f"{found[0]}.tar.gz"]

    def find(self, address: str) -> bool | None:
        """Whether a document is at an address (without version: any version of it).

        None if that cannot be known here: its publisher has nothing in this tree, or it is no address of a document.
        """
        if address not in self._found:
            self._found[address] = self._find(address)
        return self._found[address]

    def _find(self, address: str) -> bool | None:
        publisher, *rest = address.removesuffix(".tar.gz").split("/")
        if publisher not in self.publishers:
            return None
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
        return any(path.rpartition("/")[0] in self._folders for path in folders)

    def suggest(self, address: str) -> str:
        """A fix for an address that leads nowhere: another version of it, or a name like it."""
        publisher, *rest = address.split("/")
        if rest and rest[-1].isdecimal() and self.find("/".join([publisher, *rest[:-1]])):
            folders = [
                path.rpartition("/")[0]
                for kind in ("Module", "Collection")
                for path in grammar.paths(kind, publisher, self.name_of(address), 0)
            ]
            versions = sorted(
                int(path.rpartition("/")[2][:-3])
                for path in self.paths
                if path.rpartition("/")[0] in folders and path.rpartition("/")[2][:-3].isdecimal()
            )
            if versions:
                return f"link one of its versions: {', '.join(map(str, versions))}"
        return "correct the address, or publish what it names"


def scan(root: Path) -> set[str]:
    """The paths of all Markdown files below a folder, relative to it."""
    found, folders, base = set(), [os.fspath(root)], len(os.fspath(root).rstrip("/")) + 1
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.name.endswith(".md"):
                        found.add(entry.path[base:])
                    elif not entry.name.startswith(".") and "." not in entry.name[-4:] and entry.is_dir():
                        folders.append(entry.path)
        except OSError:
            continue  # the file that is asked for is reported where it is read; the others only answer questions
    return found


def validate(
    arguments: Iterable[Path],
    *,
    root: Path | None = None,
    tags: Path | None = None,
    url: str | None = None,
    off: Collection[str] = (),
    archives: bool = False,
) -> ValidationReport:
    """Validate files, folders or whole trees of documents.

    `root` is the folder with the publishers' folders (default: found from the documents' handles), `tags` the folder of
    the tag files (default: `tags` beside `assets`, else this repository's), `url` what handles begin with (default: what
    the hub's index.json says, else tfhub.dev), `off` names rules to leave out, and `archives` has archives read too.

    Raises:
      UsageError: if a path does not exist, holds no document, or a rule is unknown.
    """
    for name in off:
        if name not in rules.RULES:
            raise UsageError(f"no rule is called {name!r}; {rules.nearest(name, rules.RULES)}, or see --rules")
    scans: dict[str, set[str]] = {}
    files = list(_files(arguments, scans))
    texts, problems = [], []
    for file in files:
        text = _read(file, problems)
        if text is not None:
            texts.append((file, text))
    first = [(file, grammar.parse(text[: text.find("\n") + 1 or None])) for file, text in texts[:400]]
    root = root or _root(first, files)
    folder = tags or _tags_beside(root)
    from tools.documents import tagfiles

    vocabularies = tagfiles.read(folder, problems)
    paths = scans.get(os.path.abspath(root)) or scan(root)
    hub = Tree(root, (url or _url(root, texts)).rstrip("/"), vocabularies, paths)
    prefix = os.path.abspath(root).rstrip("/") + "/"
    here = os.getcwd()
    active = rules.active(off)
    pages = []
    for file, text in texts:
        path = file if os.path.isabs(file) else os.path.normpath(os.path.join(here, file))
        page = Page(file, path.removeprefix(prefix), text)
        pages.append(page)
        for each, line, message, fix in rules.check(page, hub, active):
            problems.append(Problem(file, line, each.name, each.severity, message, fix))
    problems += _between(pages, hub)
    checked = 0
    if archives:
        from tools.documents import archives as checks

        checked = checks.check(pages, hub, problems)
    kept = sorted((each for each in problems if each.rule not in off), key=lambda each: (each.file, each.line))
    return ValidationReport(kept, len(files), checked)


def _files(arguments: Iterable[Path], scans: dict[str, set[str]]) -> list[str]:
    found: dict[str, None] = {}
    for argument in arguments:
        text = os.fspath(argument)
        if os.path.isfile(text):
            found[text] = None
        elif os.path.isdir(text):
            docs = os.path.join(text, "assets", "docs")
            text = docs if os.path.isdir(docs) else text.rstrip("/") or "/"
            scans[os.path.abspath(text)] = found_here = scan(Path(text))
            inside = sorted(found_here)
            if not inside:
                raise UsageError(f"{text} holds no document (*.md); name a folder of documents")
            found.update((os.path.join(text, path), None) for path in inside)
        else:
            raise UsageError(f"{text} does not exist; name files or folders of documents")
    return list(found)


def _read(file: str, problems: list[Problem]) -> str | None:
    try:
        with open(file, "rb") as stream:
            data = stream.read()
    except OSError as error:
        problems.append(
            Problem(file, 1, "unreadable", ERROR, f"cannot be read: {error.strerror}", "correct its permissions")
        )
        return None
    what = None
    try:
        text = data.decode("utf-8")
        if text.startswith("\ufeff"):
            what, line = "a byte order mark", 1
        elif "\0" in text:
            what, line = "a zero byte", text.count("\n", 0, text.index("\0")) + 1
    except UnicodeDecodeError as error:
        what, line = f"bytes that are no UTF-8 ({error.reason})", data.count(b"\n", 0, error.start) + 1
        text = None
    if what:
        problems.append(
            Problem(file, line, "encoding", ERROR, f"{what}; UTF-8 text was expected", "save it as plain UTF-8")
        )
        return None if text is None else text.replace("\ufeff", "", 1) if text.startswith("\ufeff") else text
    return text


def _root(documents: list[tuple[str, grammar.Document]], files: list[str]) -> Path:
    """The folder that holds the publishers' folders: what is left of most paths without what their handles say."""
    votes: Counter[str] = Counter()
    for file, document in documents:
        path = os.path.abspath(file)
        for expected in document.paths:
            if path.endswith("/" + expected):
                votes[path[: -len(expected) - 1]] += 1
                break
    if votes:
        return Path(votes.most_common(1)[0][0] or "/")
    return Path(os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files]))


def _tags_beside(root: Path) -> Path:
    official = root.parent.parent / "tags"
    return official if root.name == "docs" and official.is_dir() else REPOSITORY_TAGS


def _url(root: Path, texts: list[tuple[str, str]]) -> str:
    """What handles begin with: as the hub's index says, or as its modules' archives lie, or tfhub.dev."""
    with contextlib.suppress(StorageError):
        if found := address.of_index(Storage(root)):
            return found
    for _, text in texts[:50]:
        document = grammar.parse(text)
        asset = document.value("asset-path") or ""
        if document.kind == "Module" and asset.startswith("http") and asset.endswith(f"/{document.handle}.tar.gz"):
            return asset[: -len(document.handle) - 8]
    return OFFICIAL


def _between(pages: list[Page], hub: Tree) -> Iterator[Problem]:
    """What is wrong between documents."""
    handles: dict[tuple[str, str], Page] = {}
    archives: dict[str, Page] = {}
    publishers: set[str] = set()
    for page in pages:
        document = page.document
        if not document.kind:
            continue
        if document.publisher not in publishers:
            publishers.add(document.publisher)
            if f"{document.publisher}/{document.publisher}.md" not in hub.paths:
                yield Problem(
                    page.file,
                    1,
                    PUBLISHER_PAGE,
                    ERROR,
                    f"publisher {document.publisher!r} has no page, {document.publisher}/{document.publisher}.md was expected",
                    f"write one that begins `# Publisher {document.publisher}`",
                )
        first = handles.setdefault((document.kind, document.handle), page)
        if first is not page:
            yield Problem(
                page.file,
                1,
                DUPLICATE_HANDLE,
                ERROR,
                f"{document.kind} {document.handle} has a document at {first.file}, too",
                "remove one of them",
            )
        asset = document.value("asset-path")
        if asset and "://" in asset:
            first = archives.setdefault(asset, page)
            if first is not page:
                yield Problem(
                    page.file,
                    document.line_of("asset-path"),
                    SHARED_ARCHIVE,
                    WARNING,
                    f"{asset[:200]} is the archive of {first.document.handle}, too; one archive holds one model",
                    "correct the asset-path of one of the two pages",
                )
