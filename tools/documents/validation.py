"""Validate a tree of Hub documents on disk: find its documents, tags and archives, and apply every rule.

    report = validate([Path("assets/docs")])
    for problem in report.problems:
        print(problem)     # assets/docs/google/x/1.md:3: `task` is missing, a Module needs it. Fix: add `<!-- task: ... -->`.

Works on tfhub.dev's layout (`assets/docs` and `tags` beside it) and on a hub that `tools/publish.py` made.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from tools.catalog import layout
from tools.common.files import ROOT
from tools.common.problems import Problem, with_fix
from tools.documents import archives as archive_checks
from tools.documents import document as grammar
from tools.documents import rules, tagfiles
from tools.documents.rule import DocumentFile, nearest
from tools.documents.tree import LARGEST_BYTES, OFFICIAL, Tree, UsageError, read_document, scan
from tools.documents.tree_rules import DOCUMENT_SIZE, ENCODING, LINKED_FOLDER, UNREADABLE, problems_between
from tools.hub import address
from tools.hub.storage import Storage, StorageError

REPOSITORY_TAGS = ROOT / "modules/tags"


@dataclass
class ValidationReport:
    """The problems that a validation found, by file and line, and how many documents and archives it read."""

    problems: list[Problem]
    documents: int
    archives: int = 0

    @property
    def errors(self) -> int:
        return sum(each.is_error for each in self.problems)

    @property
    def warnings(self) -> int:
        return len(self.problems) - self.errors


def validate(
    arguments: Iterable[Path],
    *,
    root: Path | None = None,
    tags: Path | None = None,
    url: str | None = None,
    off: Collection[str] = (),
    archives: bool = False,
    published: bool = False,
) -> ValidationReport:
    """Validate files, folders or whole trees of documents.

    `root` is the folder with the publishers' folders (default: found from the documents' handles), `tags` the folder of
    the tag files (default: `tags` beside `assets`, else this repository's), `url` what handles begin with (default: what
    the hub's index.json says, else tfhub.dev), `off` names rules to leave out, and `archives` has archives read too. With
    `published`, documents are taken as they were accepted: what tfhub.dev asked of new ones alone is a warning.

    Raises:
      UsageError: if a path does not exist, holds no document, or a rule is unknown.
    """
    for name in off:
        if name not in rules.RULES:
            raise UsageError(with_fix(f"no rule is called {name!r}", f"{nearest(name, rules.RULES)}, or see --rules"))
    scans: dict[str, set[str]] = {}
    problems: list[Problem] = []
    files = _files(arguments, scans, problems)
    texts: list[tuple[str, str]] = []
    for file in files:
        text = _read(file, problems)
        if text is not None:
            texts.append((file, text))
    first = [(file, grammar.parse(text[: text.find("\n") + 1 or None])) for file, text in texts[:400]]
    root = root or _root(first, files)
    folder = tags or _tags_beside(root)
    vocabularies = tagfiles.read(folder, problems)
    paths = scans.get(os.path.abspath(root)) or scan(root)
    hub = Tree(root, (url or _url(root, texts)).rstrip("/"), dict(vocabularies), paths)
    prefix = os.path.abspath(root).rstrip("/") + "/"
    here = os.getcwd()
    active = rules.active(off)
    pages = []
    for file, text in texts:
        path = file if os.path.isabs(file) else os.path.normpath(os.path.join(here, file))
        page = DocumentFile(file, path.removeprefix(prefix), text)
        pages.append(page)
        for each, line, message, fix in rules.check(page, hub, active):
            problems.append(each.problem(file, line, message, fix, published=published))
    problems += problems_between(pages, hub)
    checked = archive_checks.check(pages, hub, problems) if archives else 0
    wanted = sorted((each for each in problems if each.rule not in off), key=lambda each: (each.file, each.line or 1))
    return ValidationReport(wanted, len(files), checked)


def _files(arguments: Iterable[Path], scans: dict[str, set[str]], problems: list[Problem]) -> list[str]:
    found: dict[str, None] = {}
    for argument in arguments:
        text = os.fspath(argument)
        if os.path.isdir(text):
            docs = os.path.join(text, "assets", "docs")
            text = docs if os.path.isdir(docs) else text.rstrip("/") or "/"
            linked: list[str] = []
            scans[os.path.abspath(text)] = found_here = scan(Path(text), linked)
            problems += [
                LINKED_FOLDER.problem(each, 1, "is a link to a folder, which is not followed", f"name {each} as well")
                for each in linked
            ]
            inside = sorted(found_here)
            if not inside:
                raise UsageError(with_fix(f"{text} holds no document (*.md)", "name a folder of documents"))
            found.update((os.path.join(text, path), None) for path in inside)
        elif os.path.lexists(text):
            found[text] = None
        else:
            raise UsageError(with_fix(f"{text} does not exist", "name files or folders of documents"))
    return list(found)


def _read(file: str, problems: list[Problem]) -> str | None:
    try:
        data = read_document(file)
    except OSError as error:
        problems.append(UNREADABLE.problem(file, 1, f"cannot be read: {error.strerror}", "correct its permissions"))
        return None
    if len(data) > LARGEST_BYTES:
        message = f"has more than {LARGEST_BYTES:,} bytes, as many as a document may have"
        problems.append(DOCUMENT_SIZE.problem(file, 1, message, "make it shorter"))
        return None
    what, text = None, None
    try:
        text = data.decode("utf-8")
        if text.startswith("\ufeff"):
            what, line = "a byte order mark", 1
        elif "\0" in text:
            what, line = "a zero byte", text.count("\n", 0, text.index("\0")) + 1
    except UnicodeDecodeError as error:
        what, line = f"bytes that are no UTF-8 ({error.reason})", data.count(b"\n", 0, error.start) + 1
    if what:
        problems.append(ENCODING.problem(file, line, f"{what}; UTF-8 text was expected", "save it as plain UTF-8"))
        return None if text is None else text.replace("\ufeff", "", 1) if text.startswith("\ufeff") else text
    return text


def _root(documents: list[tuple[str, grammar.Document]], files: list[str]) -> Path:
    """Return the folder that holds the publishers' folders: what is left of most paths without what their handles say."""
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
    """Return what handles begin with: as the hub's index says, or as its modules' archives lie, or tfhub.dev."""
    with contextlib.suppress(StorageError):
        if found := address.of_index(Storage(root)):
            return found
    for _, text in texts[:50]:
        document = grammar.parse(text)
        asset = document.value("asset-path") or ""
        if (
            document.kind == "Module"
            and asset.startswith("http")
            and asset.endswith(f"/{layout.archive_path(document.handle)}")
        ):
            return asset.removesuffix(f"/{layout.archive_path(document.handle)}")
    return OFFICIAL
