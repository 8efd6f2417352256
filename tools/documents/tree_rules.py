"""The rules between documents of a tree: publishers' pages, handles and archives that two pages share."""

from collections.abc import Iterator

from tools.catalog import layout
from tools.common.problems import ERROR, WARNING, Problem
from tools.documents.rule import DocumentFile, Rule
from tools.documents.tree import LARGEST_BYTES, Tree

ENCODING = Rule(
    "encoding", ERROR, "a document is UTF-8 text without a byte order mark or zero bytes", "save it as plain UTF-8"
)
UNREADABLE = Rule("unreadable", ERROR, "every file that is named or found can be read", "correct its permissions")
DOCUMENT_SIZE = Rule("document-size", ERROR, f"a document has at most {LARGEST_BYTES:,} bytes", "make it shorter")
LINKED_FOLDER = Rule(
    "linked-folder",
    WARNING,
    "folders of the tree are no links, which are not followed",
    "name the folder that the link leads to as well",
)
PUBLISHER_PAGE = Rule(
    "publisher-page",
    ERROR,
    "every publisher has a page, PUBLISHER/PUBLISHER.md",
    "write one that begins `# Publisher NAME`",
)
DUPLICATE_HANDLE = Rule("duplicate-handle", ERROR, "no handle has two documents of one kind", "remove one of them")
SHARED_ARCHIVE = Rule(
    "shared-archive", WARNING, "no two pages share one archive", "correct the asset-path of one of the two pages"
)


def problems_between(pages: list[DocumentFile], hub: Tree) -> Iterator[Problem]:
    """Yield what is wrong between documents."""
    handles: dict[tuple[str, str], DocumentFile] = {}
    archives: dict[str, DocumentFile] = {}
    publishers: set[str] = set()
    for page in pages:
        document = page.document
        if not document.kind:
            continue
        if document.publisher not in publishers:
            publishers.add(document.publisher)
            if (expected := layout.publisher_document_path(document.publisher)) not in hub.paths:
                yield PUBLISHER_PAGE.problem(
                    page.file,
                    1,
                    f"publisher {document.publisher!r} has no page, {expected} was expected",
                    f"write one that begins `# Publisher {document.publisher}`",
                )
        first = handles.setdefault((document.kind, document.handle), page)
        if first is not page:
            yield DUPLICATE_HANDLE.problem(
                page.file,
                1,
                f"{document.kind} {document.handle} has a document at {first.file}, too",
                "remove one of them",
            )
        asset = document.value("asset-path")
        if asset and "://" in asset:
            first = archives.setdefault(asset, page)
            if first is not page:
                yield SHARED_ARCHIVE.problem(
                    page.file,
                    document.line_of("asset-path"),
                    f"{asset[:200]} is the archive of {first.document.handle}, too; one archive holds one model",
                    "correct the asset-path of one of the two pages",
                )
