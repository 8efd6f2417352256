"""The pages of an archive of documents: one of each document and publisher, the first page, search, index, feed, sitemap."""

import datetime
import json
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tools.documents import document as grammar
from tools.site import rendering, sanitizing
from tools.site.document_facts import PlacedDocument
from tools.site.document_index import TAG_FIELDS, DocumentIndex, Related

FOLDED = 40  # entries of a list, from which on the first page folds it


def document_page(index: DocumentIndex, root: Path, document: PlacedDocument, related: Related) -> str:
    """Return the page of a document, which is read again below `root`."""
    path = document["page"]
    text = (root / document["file"]).read_text(encoding="utf-8")
    return _page(
        index,
        "document",
        path,
        entry=document,
        related=related,
        address=f"{index.url}/{path.removesuffix('/index.html')}",
        tags=[name for kind in TAG_FIELDS for name in index.display_names(kind, document["tags"][kind])],
        licence=index.display_names("license", [document["license"]] if document["license"] else []),
        body=_body(index, text, related, rendering.linker(path)),
        source=text.replace("\0", ""),
    )


def publisher_page(
    index: DocumentIndex, root: Path, publisher: str, own: PlacedDocument | None, related: Related | None
) -> str:
    """Return the page of a publisher: its own document, if it has one, and the newest version of each of its documents."""
    path, body = f"{publisher}/index.html", Markup("")
    if own and related:
        text = (root / own["file"]).read_text(encoding="utf-8")
        body = _body(index, text, related, rendering.linker(path))
    entries = index.newest_of(publisher)
    return _page(index, "document_publisher", path, publisher=publisher, own=own, body=body, entries=entries)


def home_page(index: DocumentIndex) -> str:
    """Return the first page: the collections, and the publishers with the number of their documents."""
    collections = [e for e in index.documents if e["kind"] == "Collection" and e["page"] in index.newest]
    publishers = {name: len(index.newest_of(name)) for name in index.publishers}
    count = sum(publishers.values())
    return _page(
        index, "document_home", "index.html", publishers=publishers, collections=collections, count=count, folded=FOLDED
    )


def search_page(index: DocumentIndex) -> str:
    """Return the search, with a list of all documents in their newest version for those without scripts."""
    entries = [
        (e["page"], f"{e['publisher']}/{e['name']}", e["description"]) for e in index.named if e["page"] in index.newest
    ]
    return _page(index, "search", "search/index.html", entries=entries, what="documents")


def missing_page(index: DocumentIndex) -> str:
    """Return the page for addresses at which nothing lies."""
    return _page(index, "not_found", "404.html", example="publisher/name/1")


def index_text(index: DocumentIndex, content: dict[str, Any]) -> str:
    """Return `index.json`; `content` is `index.as_json()`."""
    return json.dumps({**content, "names": index.used_names()}, ensure_ascii=False, separators=(",", ":")) + "\n"


def feed(index: DocumentIndex, latest: list[PlacedDocument]) -> str:
    """Return the documents that changed last as Atom: a file's time is all that an archive knows."""
    documents = [(document, _time(document)) for document in latest]
    updated = documents[0][1] if documents else "1970-01-01T00:00:00Z"
    return rendering.page(
        "site/document_feed.xml.j2", archive=index, documents=documents, updated=updated, quote=_quoted
    )


def sitemap(index: DocumentIndex) -> str:
    """Return the addresses of all pages."""
    paths = ["index.html", *(f"{publisher}/index.html" for publisher in index.publishers)]
    paths += [document["page"] for document in index.named]
    return rendering.page("site/sitemap.xml.j2", addresses=[(_canonical(index, path), None) for path in paths])


def _time(document: PlacedDocument) -> str:
    moment = datetime.datetime.fromtimestamp(document["modified"] // 10**9, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _canonical(index: DocumentIndex, path: str) -> str:
    return f"{index.address}/{_quoted(path.removesuffix('index.html'))}"


def _quoted(path: str) -> str:
    return urllib.parse.quote(path, safe="/.-_~&;")


def _body(index: DocumentIndex, text: str, related: Related, link: Callable[[str], str]) -> Markup:
    """Return the document's Markdown as safe HTML, its links leading to pages of the site."""

    def resolve(target: str) -> str | bool | None:
        found = related["links"].get(target)
        if found is None:
            found = index.find(target)
        return link(found) if isinstance(found, str) else found

    return sanitizing.safe((grammar.parse(text).body or "").replace("\0", ""), resolve)


def _page(index: DocumentIndex, template: str, path: str, **context: Any) -> str:
    navigation = (("Collections", "index.html", "#collections"), ("All documents", "search/index.html", ""))
    description = f"Documents of {index.url.partition('://')[2]}, as an archive."
    return rendering.page(
        f"site/{template}.html.j2",
        site=rendering.Site(index.title, description, navigation, feed="changed documents"),
        link=rendering.linker(path, urllib.parse.urlsplit(index.address).path + "/"),
        canonical=None if path == "404.html" else _canonical(index, path),
        data=None,
        **context,
    )
