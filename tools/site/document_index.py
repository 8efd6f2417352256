"""The documents of an archive by their addresses: which page an address leads to, and which documents belong together.

index = DocumentIndex(documents, "https://tfhub.dev", "Hub documents")
index.find("https://tfhub.dev/google/bert")        # the page of its newest version, False, or None
"""

import functools
import re
from collections.abc import Iterable
from typing import Any, TypedDict

from tools.catalog import vocabularies
from tools.common.files import ROOT
from tools.common.problems import Problem
from tools.documents import document as grammar
from tools.site.document_facts import DocumentFacts, PlacedDocument

VOCABULARIES = ROOT / vocabularies.FOLDER
KIND = "Documents"  # of index.json, by which a server tells an archive of documents from a hub
RESERVED = {"static", "search"}  # folders of the site itself
WORDS = {kind: word for word, kind in grammar.ADDRESS_WORDS.items()}
# The vocabularies whose values a page shows as tags, in their order, and the name of each in index.json.
TAG_FIELDS = {
    "task": "task",
    "network_architecture": "network_architecture",
    "dataset": "datasets",
    "language": "languages",
}
LISTED = 40  # versions, formats and collections that a page names at most
# Of file systems: a longer name or path cannot be written, and would end the whole run. 255 bytes a name are everybody's, 1,024
# bytes a path are macOS's.
LONGEST_NAME, LONGEST_PATH = 255, 1_000


class Related(TypedDict):
    """Other documents that a page names, as (text, page), and where its links lead."""

    links: dict[str, str | bool]
    parent: str | None
    versions: list[tuple[int | None, str]]
    formats: list[tuple[str, str]]
    collections: list[tuple[str, str]]


class DocumentIndex:
    """All documents of a tree; `problems` names those that have no page, `newest` the pages of the newest versions."""

    def __init__(self, documents: Iterable[DocumentFacts], url: str, title: str, address: str | None = None):
        self.url, self.title = url.rstrip("/"), title
        self.address = address or self.url
        self.problems: list[Problem] = []
        self.documents: list[PlacedDocument] = []
        self._addresses: dict[str, str] = {}
        self._own = re.compile(
            rf"(?i)https?://(?:www\.)?{re.escape(self.url.partition('://')[2])}(?:/|$)(.*)", re.DOTALL
        )
        self._by_page: dict[str, PlacedDocument] = {}
        self._same: dict[tuple[str, str, bool], dict[str, list[PlacedDocument]]] = {}
        for each in documents:
            self._place(each)
        self.publishers: dict[str, list[PlacedDocument]] = {}
        for document in self.documents:
            self.publishers.setdefault(document["publisher"], []).append(document)
            self._same.setdefault(_name_of(document), {}).setdefault(document["kind"], []).append(document)
        for publisher in self.publishers:
            self._addresses[publisher] = f"{publisher}/index.html"
        self._listed: dict[str, list[PlacedDocument]] = {}
        for document in self.documents:
            if document["kind"] == "Collection":
                for page in {page for page in map(self.find, document["addresses"]) if isinstance(page, str)}:
                    self._listed.setdefault(page, []).append(document)
        self.newest = self._newest()

    def _place(self, facts: DocumentFacts) -> None:
        """Give a document its address, unless another one has it."""
        publisher, name, version, kind = facts["publisher"], facts["name"], facts["version"], facts["kind"]
        if publisher in RESERVED or any(part == "index.html" for part in name.split("/")):
            self._refuse(facts, f"{publisher}/{name} is a path of the site itself", "rename it")
            return
        word = "collections" if kind == "Collection" else WORDS.get(kind)
        base = "/".join(part for part in (publisher, word, name) if part)
        if kind == "Publisher":
            base, page = publisher, f"{publisher}/index.html"
        else:
            page = f"{base}/{version}/index.html"
        lengths = [len(part.encode()) for part in page.split("/")]
        if max(lengths) > LONGEST_NAME or sum(lengths) + len(lengths) > LONGEST_PATH:
            message = f"its name is too long for a folder: {page[:60]!r}..."
            self._refuse(
                facts, message, f"keep each part below {LONGEST_NAME} bytes, and all together below {LONGEST_PATH}"
            )
            return
        if page in self._by_page:
            other = self._by_page[page]["file"]
            self._refuse(facts, f"has the same handle as {other}", "keep one of them")
            return
        document: PlacedDocument = {**facts, "page": page}
        self._by_page[page] = document
        self.documents.append(document)
        self._addresses[f"{base}/{version}" if name else base] = page
        if name:
            self._addresses[base] = page  # documents come in the order of their versions: the last one stays
            if word in grammar.ADDRESS_WORDS:
                self._addresses.setdefault(f"{publisher}/{name}/{grammar.FORMATS[kind]}/{version}", page)

    def _refuse(self, facts: DocumentFacts, message: str, fix: str) -> None:
        self.problems.append(Problem(facts["file"], message, fix, line=1))

    def _newest(self) -> set[str]:
        found = {(each["publisher"], each["name"], each["kind"]): each["page"] for each in self.documents}
        return set(found.values())

    @property
    def named(self) -> list[PlacedDocument]:
        """The documents that are not a publisher's."""
        return [each for each in self.documents if each["name"]]

    def newest_of(self, publisher: str) -> list[PlacedDocument]:
        """Return a publisher's documents in their newest version."""
        return [each for each in self.publishers[publisher] if each["page"] in self.newest and each["name"]]

    def find(self, address: str) -> str | bool | None:
        """Return the page of an address: a path of the site, False if it is of this hub and has none, None if it is elsewhere."""
        own = self._own.fullmatch(address)
        if not own:
            return None
        path = re.split(r"[?#]", own[1], maxsplit=1)[0].rstrip("./,;:!*").removesuffix(".tar.gz")
        if not path:
            return "index.html"
        return self._addresses.get(path.replace("&amp;", "&"), False)

    def related(self, document: PlacedDocument) -> Related:
        """Return what the page of a document says of others."""
        same = self._same[_name_of(document)]
        others = (each for kind, each in same.items() if kind != document["kind"])
        parent = self.find(f"{self.url}/{document['parent']}") if document["parent"] else None
        listed = self._listed.get(document["page"], [])[:LISTED]
        return {
            "links": {address: page for address in document["addresses"] if (page := self.find(address)) is not None},
            "parent": parent if isinstance(parent, str) else None,
            "versions": [(e["version"], e["page"]) for e in same[document["kind"]][: -LISTED - 1 : -1]],
            "formats": [(e["kind"], e["page"]) for each in others for e in each[-LISTED:]][:LISTED],
            "collections": [(e["name"], e["page"]) for e in listed],
        }

    def as_json(self) -> dict[str, Any]:
        """Return `index.json` without names: every document, for programs and for the search."""
        documents = [
            {
                "handle": "/".join(
                    str(part) for part in (e["publisher"], e["name"], e["version"]) if part not in ("", None)
                ),
                "publisher": e["publisher"],
                "name": e["name"],
                "version": e["version"],
                "kind": e["kind"],
                "description": e["description"],
                "task": e["tags"]["task"],
                "datasets": e["tags"]["dataset"],
                "languages": e["tags"]["language"],
                "network_architecture": e["tags"]["network_architecture"],
                "license": e["license"],
                "fine_tunable": e["fine_tunable"],
                "page": e["page"].removesuffix("index.html"),
                "newest": e["page"] in self.newest,
            }
            for e in self.named
        ]
        return {"schema": 1, "kind": KIND, "url": self.url, "documents": documents}

    @functools.cached_property
    def names(self) -> dict[str, dict[str, str]]:
        """The display names of the vocabularies' values, by vocabulary."""
        tags = vocabularies.load(VOCABULARIES)
        kinds = {"license", *TAG_FIELDS} & set(tags)
        return {kind: {value: tag.display_name for value, tag in tags[kind].items()} for kind in sorted(kinds)}

    def display_names(self, kind: str, values: list[str]) -> list[str]:
        """Return values as people read them; one that the vocabulary does not know stays as it is."""
        known = self.names.get(kind, {})
        return [known.get(value, value) for value in values]

    def used_names(self) -> dict[str, dict[str, str]]:
        """Return `names` of the values that occur."""
        used: dict[str, set[str | None]] = {"license": {each["license"] for each in self.documents}}
        used |= {kind: {value for each in self.documents for value in each["tags"][kind]} for kind in TAG_FIELDS}
        return {
            kind: {value: text for value, text in self.names.get(kind, {}).items() if value in values}
            for kind, values in used.items()
        }


def _name_of(document: DocumentFacts) -> tuple[str, str, bool]:
    return document["publisher"], document["name"], document["kind"] == "Collection"
