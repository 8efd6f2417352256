"""The rules over where a document lies, and where its links lead."""

import re
from collections.abc import Iterator

from tools.common.problems import ERROR, WARNING
from tools.documents import document as grammar
from tools.documents.rule import DocumentFile, LineProblem, nearest, rule
from tools.documents.tree import Tree


@rule(
    "document-path",
    ERROR,
    "a document lies where its handle says",
    fix="move the file, or correct line 1",
    kinds=grammar.KINDS,
)
def document_path(page: DocumentFile, hub: Tree) -> Iterator[LineProblem]:
    expected = page.document.paths
    if page.path not in expected:
        yield (
            1,
            f"{page.document.kind} {page.document.handle[:120]} lies at {page.path}, {expected[0][:160]} was expected",
            "move the file or correct line 1",
        )


def _links(page: DocumentFile, hub: Tree) -> list[tuple[int, str]]:
    """(line, address below the hub) of every link to the hub that stands in the document, the metadata left out."""
    if page.links is None:
        document = page.document
        page.links = []
        for position, address in hub.addresses("\n".join(document.description)):
            line = document.description_line + "\n".join(document.description).count("\n", 0, position)
            page.links.append((line, address))
        last, line = 0, document.body_line
        body = document.body or ""
        for position, address in hub.addresses(body):
            line += body.count("\n", last, position)
            last = position
            page.links.append((line, address))
    return page.links


@rule(
    "collection-link",
    ERROR,
    "a collection links models of its hub, and each of them exists",
    fix="link the models with their addresses in the hub, in versions that exist",
    kinds=("Collection",),
)
def collection_link(page: DocumentFile, hub: Tree) -> Iterator[LineProblem]:
    models = [(line, address) for line, address in _links(page, hub) if hub.is_model(address)]
    if not models:
        yield (
            page.document.body_line,
            f"the collection links no model of {hub.url}, at least one was expected",
            f"add `* [name]({hub.url}/{page.document.publisher}/name/1)`",
        )
    for line, address in models:
        if hub.find(address) is False:
            yield line, f"{hub.url}/{address} is no document of this hub", hub.suggest(address)


@rule(
    "dead-link",
    WARNING,
    "links inside the hub lead to a document",
    fix="correct the address, or publish what it names",
    kinds=grammar.KINDS,
)
def dead_link(page: DocumentFile, hub: Tree) -> Iterator[LineProblem]:
    said = set()
    for line, address in _links(page, hub):
        if address in said:
            continue
        said.add(address)
        if hub.find(address) is False and not (page.document.kind == "Collection" and hub.is_model(address)):
            yield line, f"dead link: {hub.url}/{address} is no document of this hub", hub.suggest(address)


@rule(
    "unknown-publisher",
    WARNING,
    "links inside the hub name publishers that it has",
    fix="correct the publisher in the address",
    kinds=grammar.KINDS,
)
def unknown_publisher(page: DocumentFile, hub: Tree) -> Iterator[LineProblem]:
    said = set()
    for line, address in _links(page, hub):
        publisher = address.split("/")[0]
        if hub.find(address) is None and "/" in address and publisher not in said:
            said.add(publisher)
            yield (
                line,
                f"{hub.url}/{address} is of publisher {publisher!r}, of whom nothing is here, so it cannot be checked",
                nearest(publisher, hub.publishers),
            )


@rule(
    "parent-model",
    WARNING,
    "the parent-model of a Lite, Tfjs or Coral document exists",
    fix="correct the handle, or publish the model that it names",
    kinds=tuple(grammar.FORMATS),
)
def parent_model(page: DocumentFile, hub: Tree) -> Iterator[LineProblem]:
    for line, value in page.document.lines_of("parent-model"):
        if hub.find(value) is False:
            yield (
                line,
                f"parent-model {value[:120]!r} is no document of this hub",
                hub.suggest(value),
            )


_MALFORMED = (
    ("((http", re.compile(r"\(\(https?://"), "two opening brackets before an address"),
    ("(http", re.compile(r"\]\s{1,9}\(https?://"), "a blank between the text and the address of a link"),
    ("](", re.compile(r"\]\((?:https?:/(?!/)|https?//|htt?ps?;|www\.)"), "a link whose address has no https://"),
    (
        "](http",
        re.compile(r"\]\(https?://[^\s()]*(?:\([^\s()]*\)[^\s()]*)*(?=\s+[^\s)\"'(])"),
        "a link that is never closed",
    ),
)
REFERENCE = 200  # characters before an address in which the number of its reference is looked for
_NUMBERED = re.compile(r"\[\d+\]\s")  # [1] (https://...) is a reference, and no link


@rule(
    "malformed-link",
    WARNING,
    "links are written [text](address)",
    fix="write `[text](https://...)`",
    kinds=grammar.KINDS,
)
def malformed_link(page: DocumentFile, hub: Tree) -> Iterator[LineProblem]:
    body = page.document.body or ""
    for needed, pattern, what in _MALFORMED:
        if needed not in body:
            continue
        for match in pattern.finditer(body):
            reference = _NUMBERED.match(body, body.rfind("[", max(0, match.start() - REFERENCE), match.start() + 1))
            if not page.in_code(match.start()) and not reference:
                shown = " ".join(body[match.start() : match.end() + 40].split())
                yield page.document.line_at(match.start()), f"{what}: {shown[:70]!r}", "write [text](https://...)"
