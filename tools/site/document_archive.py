"""Any tree of documents in tfhub.dev's format as a site: one page per document, publishers, search, an index.

    report = render(Path("docs"), Path("site"))
    report.written, report.kept, report.problems

The documents are untrusted (see `tools.site.sanitizing`). Pages lie where tfhub.dev had them, below the site's root:
`google/bit/m-r50x1/1/`, `google/lite-model/...`, `google/collections/bit/1/`. Links between documents lead to pages, those to
documents that are not there are marked.

Rendering is incremental: the page cache remembers every document by size and time, and what every page was made from. It lies in
the site (`.pages.sqlite`), since it also tells which files are the site's own and may be removed. A page is made again when its
document, a page that it links, code or a template changed. Pages are written atomically, the cache last: whatever is killed
whenever, running again finishes the job.
"""

import functools
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.common.files import write_atomically
from tools.common.problems import WARNING, Problem, with_fix
from tools.documents.tree import OFFICIAL, UsageError
from tools.site import document_pages, rendering
from tools.site.document_facts import DocumentFacts, describe_document, scan
from tools.site.document_index import VOCABULARIES, DocumentIndex
from tools.site.jobs import ATOM, HTML, JSON, STATIC, XML, Job, PageError, perform, rare_collections
from tools.site.page_cache import PageCache, digest, file_stamp
from tools.site.renderer_key import renderer_key

CACHE = ".pages.sqlite"
FEED_ENTRIES = 50  # documents at most
STATIC_FILES = ("style.css", "site.js", "search.js")


@dataclass
class RenderReport:
    """The numbers of pages written, kept and removed; errors name documents without a page, warnings those shown as plain text."""

    written: int = 0
    kept: int = 0
    removed: int = 0
    documents: int = 0
    problems: list[Problem] = field(default_factory=list)


def render(
    root: Path,
    out: Path,
    *,
    url: str = OFFICIAL,
    address: str | None = None,
    title: str = "Hub documents",
    processes: int = 2,
) -> RenderReport:
    """Make or update the site of the documents below `root` in the folder `out`.

    `url` is what handles in the documents begin with, `address` where the site will be, if that is elsewhere. Raises
    `PageError` if `root` holds no documents or `out` is not a folder that this function may fill.
    """
    root, out = _documents_folder(root), out.resolve()
    if out == root or root in out.parents or out in root.parents:
        raise PageError(
            with_fix(f"{out} and the documents in {root} lie in each other", "choose another folder for the site")
        )
    _check_site_folder(out)
    code = renderer_key(__name__)
    report = RenderReport()
    with rare_collections(), PageCache(out / CACHE) as page_cache:
        documents = _read(root, code, page_cache, report.problems)
        if not documents:
            raise PageError(
                with_fix(
                    f"{root} holds no document in tfhub.dev's format", "name the folder with the publishers' folders"
                )
            )
        report.documents = len(documents)
        index = DocumentIndex(documents, url, title, (address or url).rstrip("/"))
        report.problems += index.problems
        planned = plan(index, root, code)
        paths = {path for job in planned for path, _ in job.files}
        folder = os.fspath(out)
        stale = [
            job for job in planned if not all(_is_fresh(page_cache, folder, path, job.key) for path, _ in job.files)
        ]
        for batch in perform(stale, functools.partial(_write, out), processes=processes):
            for job, stamps in batch:
                for (path, _), stamp in zip(job.files, stamps, strict=True):
                    page_cache.store(path, job.key, stamp)
        report.removed = sum(_remove(out, path) for path in page_cache.pages if path not in paths)
        page_cache.evict(paths | {each["file"] for each in documents})
        report.written = sum(not _is_static(job) for job in stale)
        report.kept = sum(not _is_static(job) for job in planned) - report.written
    return report


def plan(index: DocumentIndex, root: Path, code: str) -> list[Job]:
    """Return the jobs that make the site of the documents below `root`; `code` is the key of what renders them."""
    tags = [path.read_text(encoding="utf-8") for path in sorted(VOCABULARIES.glob("*.yaml"))]
    common = digest([code, index.url, index.address, index.title, tags])
    jobs: list[Job] = []

    def add(wave: int, path: str, content_type: str, inputs: Any, make: Callable[..., str], *arguments: Any) -> None:
        def encoded() -> tuple[bytes]:
            return (make(index, *arguments).encode("utf-8", "replace"),)

        jobs.append(Job(((path, content_type),), digest([common, inputs]), wave, encoded))

    for document in index.documents:
        if document["kind"] != "Publisher":
            related = index.related(document)
            add(
                0,
                document["page"],
                HTML,
                [document["digest"], related],
                document_pages.document_page,
                root,
                document,
                related,
            )
    rows = {}
    for publisher, documents in index.publishers.items():
        rows[publisher] = [
            [e["page"], e["kind"], e["name"], e["version"], e["description"], e["publisher"]]
            for e in index.newest_of(publisher)
        ]
        own = next((each for each in documents if each["kind"] == "Publisher"), None)
        about = index.related(own) if own else None
        inputs: list[Any] = [own and own["digest"], about, rows[publisher]]
        add(1, f"{publisher}/index.html", HTML, inputs, document_pages.publisher_page, root, publisher, own, about)
    every = digest(list(rows.items()))
    add(2, "index.html", HTML, every, document_pages.home_page)
    add(2, "search/index.html", HTML, every, document_pages.search_page)
    add(2, "404.html", HTML, [], document_pages.missing_page)
    content = index.as_json()
    add(2, "index.json", JSON, content, document_pages.index_text, content)
    latest = sorted(index.named, key=lambda each: (-_second(each), each["page"]))[:FEED_ENTRIES]
    times = [[each["digest"], _second(each)] for each in latest]
    add(2, "feed.xml", ATOM, times, document_pages.feed, latest)
    add(2, "sitemap.xml", XML, [each["page"] for each in index.documents], document_pages.sitemap)
    for file in STATIC_FILES:
        data = (rendering.TEMPLATES / "static" / file).read_bytes()
        make_static = functools.partial(_static, data)
        jobs.append(Job(((f"static/{file}", STATIC[file]),), hashlib.sha256(data).digest(), 0, make_static))
    return jobs


def _static(data: bytes) -> tuple[bytes]:
    return (data,)


def _is_static(job: Job) -> bool:
    return job.files[0][0].startswith("static/")


def _second(document: DocumentFacts) -> int:
    return document["modified"] // 10**9


def _documents_folder(folder: Path) -> Path:
    folder = folder.resolve()
    if not folder.is_dir():
        raise PageError(with_fix(f"{folder} is no folder", "name the one with the publishers' folders"))
    inside = folder / "assets/docs"
    return inside if inside.is_dir() else folder


def _check_site_folder(out: Path) -> None:
    """Refuse a folder that holds something else than a site that this module made."""
    if out.exists() and not out.is_dir():
        raise PageError(with_fix(f"{out} is no folder", "name one that is new or empty"))
    own = (out / CACHE, out / "static/site.js")
    if out.is_dir() and any(out.iterdir()) and not any(file.exists() for file in own):
        raise PageError(with_fix(f"{out} holds other files", "name a folder that is new or empty"))


def _read(root: Path, code: str, page_cache: PageCache, problems: list[Problem]) -> list[DocumentFacts]:
    """Return the facts of all documents: remembered ones whose size and time are the same, others read."""
    try:
        found = dict(scan(root))
    except UsageError as error:
        raise PageError(str(error)) from error
    stamps = {file: f"{code}-{file_stamp(status)}" for file, status in found.items()}
    known: dict[str, DocumentFacts] = page_cache.records(stamps)
    for file in found.keys() - known.keys():
        facts = describe_document(root, file, found[file])
        if isinstance(facts, Problem):
            problems.append(facts)
        else:
            known[file] = facts
            page_cache.store_record(file, facts, stamps[file])
    for file, each in known.items():
        if each["excess"]:
            message = f"is shown as plain text: {each['excess']}"
            problems.append(Problem(file, message, "make it shorter or flatter", line=1, severity=WARNING))
    problems.sort()
    return sorted(
        known.values(),
        key=lambda each: (each["publisher"], each["name"], each["version"] or 0, each["kind"], each["file"]),
    )


def _is_fresh(page_cache: PageCache, out: str, path: str, key: bytes) -> bool:
    try:
        return page_cache.is_fresh(path, key, file_stamp(os.stat(f"{out}/{path}")))
    except OSError:
        return False


def _write(out: Path, job: Job) -> list[str]:
    """Write the pages of a job; return the stamps of their files."""
    stamps = []
    for page in job.pages():
        write_atomically(out / page.path, page.data)
        stamps.append(file_stamp(os.stat(out / page.path)))
    return stamps


def _remove(out: Path, path: str) -> int:
    """Remove a page that has no document any more, and the folders that it leaves empty."""
    target = (out / path).resolve()
    if out not in target.parents or not target.is_file():
        return 0
    target.unlink()
    for folder in target.parents:
        if folder == out or any(folder.iterdir()):
            break
        folder.rmdir()
    return 1
