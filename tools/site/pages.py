"""Every page of a hub from its records: Hub documents, HTML pages, index. Pure: no clock, no network, no storage.

    pages = build(records, publisher=catalog.publisher, collections=catalog.collections, base_url=url, tags=tags)
    pages["index.html"].data, pages["index.html"].content_type
    for job in plan(records, ...):                 # the same, one at a time, and only what is needed
        for page in job.pages() if changed(job.files, job.key) else []: ...

Templates are in `templates/`: `hub/` are the documents in tfhub.dev's format, `snippets/` the code that both kinds of
pages show, `site/` the HTML. Links between pages are relative, so the tree works below any address; only handles and
snippets carry `base_url`.
"""

import dataclasses
import functools
import hashlib
import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tools.catalog import layout
from tools.catalog.catalog import COLUMNS, Collection, Publisher
from tools.catalog.vocabularies import Tag
from tools.common.problems import with_fix
from tools.hub.formats import FormatRecord
from tools.hub.notes import Note
from tools.hub.records import Record
from tools.hub.signatures import Claim
from tools.site import benchmarks as benchmarks_page
from tools.site import (
    collection_pages,
    feeds,
    hub_layout,
    module_pages,
    plots,
    rendering,
    structured_data,
    table_columns,
)
from tools.site.collection_pages import collection_markdown
from tools.site.gathering import Hub, gather
from tools.site.index import index, index_text
from tools.site.jobs import ATOM, CSV, HTML, JSON, MARKDOWN, STATIC, XML, Job, Page, PageError
from tools.site.module_pages import module_markdown
from tools.site.page_cache import digest
from tools.site.published_collection import usual_machine
from tools.site.renderer_key import renderer_key

__all__ = [
    "Job",
    "Page",
    "PageError",
    "build",
    "collection_markdown",
    "gather",
    "index",
    "module_markdown",
    "plan",
    "publisher_markdown",
]

NEWEST_COLUMNS = (
    "reported_top1",
    "measured_top1",
    "parameters",
    "gflops",
    "resolution",
)  # of the table of the first page
FIND_COLUMNS = ("top1", "parameters", "gflops", "resolution", "download")
RANKED = 200  # modules in the table of the page to choose with
NEWEST = 24  # modules in the table of the first page; the list of all is on the search page


def build(records: Iterable[Record], **arguments: Any) -> dict[str, Page]:
    """Return all pages that follow from the records, by path; the arguments are those of `plan`."""
    return {page.path: page for job in plan(records, **arguments) for page in job.pages()}


def plan(
    records: Iterable[Record],
    *,
    publisher: Publisher,
    collections: Iterable[Collection],
    base_url: str,
    tags: Mapping[str, Mapping[str, Tag]],
    yanked: Mapping[str, str] | None = None,
    measurements: Mapping[str, Sequence[Note]] | None = None,
    claims: Mapping[str, Claim] | None = None,
    formats: Mapping[str, Sequence[FormatRecord]] | None = None,
    benchmarks: Mapping[str, Any] | None = None,
    digest_of: Callable[[str], bytes | None] = lambda handle: None,
) -> list[Job]:
    """Return the jobs that make all pages that follow from the records; nothing is made yet.

    `records` are the published modules' records (schema 1), `publisher` and `collections` come from
    `tools.catalog.load()` and `tags` from `tools.catalog.vocabularies.load`; `base_url` is the address that handles
    begin with, `yanked` maps a handle to why it was withdrawn, `measurements` to the notes of what was measured after its
    publication, `claims` to whom the signature of its record names, `formats` to the records of its files for other runtimes;
    `benchmarks` is what `tools/benchmark.py` wrote, if the hub has it. `digest_of` may know the digest of a handle's record, which
    is computed otherwise. Raises `PageError`, which names record and fix, as each job's `make` does.
    """
    hub = gather(
        records,
        publisher=publisher,
        collections=collections,
        base_url=base_url,
        tags=tags,
        yanked=yanked,
        measurements=measurements,
        claims=claims,
        formats=formats,
    )
    hub = dataclasses.replace(hub, has_benchmarks=benchmarks is not None)
    jobs: list[Job] = []
    taken: set[str] = set()

    def add(wave: int, what: str, key: bytes, make: Callable[[], Any], *files: tuple[str, str]) -> None:
        for path, _ in files:
            if path in taken:
                raise PageError(
                    with_fix(f"{path}: two pages have this path", "rename one of the modules or collections")
                )
            taken.add(path)

        def make_named() -> tuple[str | bytes, ...]:
            with hub_layout.naming(what):
                made = make()
                return made if isinstance(made, tuple) else (made,)

        jobs.append(Job(files, key, wave, make_named))

    name = hub.publisher.name
    common = [renderer_key(__name__), hub.base_url, vars(hub.publisher), hub.has_benchmarks]
    for module in hub.modules.values():
        module.digest = digest_of(module.handle) or digest(module.record)
    keys = {module.handle: digest([common, module_pages.inputs(hub, module)]) for module in hub.modules.values()}
    for module in hub.modules.values():
        add(
            0,
            f"record {module.handle}",
            keys[module.handle],
            functools.partial(module_pages.texts, hub, module),
            (layout.document_path(module.handle), MARKDOWN),
            (layout.page_path(module.handle), HTML),
        )
        if module.lite:
            add(
                0,
                f"record {module.handle}",
                keys[module.handle],
                functools.partial(module_pages.lite_markdown, module),
                (layout.lite_document_path(module.handle), MARKDOWN),
            )
    for collection in hub.collections:
        add(
            1,
            f"collection {collection.name}",
            digest([common, vars(collection.definition), COLUMNS, [keys[m.handle] for m in collection.members]]),
            functools.partial(collection_pages.texts, hub, collection),
            (layout.document_path(collection.folder), MARKDOWN),
            (layout.page_path(collection.folder), HTML),
            (f"{collection.folder}/table.csv", CSV),
            (f"{collection.folder}/table.json", JSON),
        )
    every = digest([common, list(keys.values()), [vars(collection.definition) for collection in hub.collections]])
    add(
        1,
        f"publisher {name}",
        every,
        lambda: (publisher_markdown(hub), _publisher_page(hub)),
        (layout.publisher_document_path(name), MARKDOWN),
        (layout.page_path(name), HTML),
    )
    if benchmarks is not None:
        key = digest([common, benchmarks])
        draw = functools.partial(_benchmarks_page, hub, benchmarks)
        add(1, benchmarks_page.FILE, key, draw, (benchmarks_page.PATH, HTML))
    example = hub.names[0].handle if hub.names else f"{name}/name/1"
    missing = (layout.NOT_FOUND_PAGE, HTML)
    add(2, layout.NOT_FOUND_PAGE, digest([common, example]), lambda: _missing_page(hub, example), missing)
    add(2, layout.HOME_PAGE, every, lambda: _home_page(hub), (layout.HOME_PAGE, HTML))
    add(2, "search", every, lambda: _search_page(hub), (layout.page_path("search"), HTML))
    add(2, "find", every, lambda: _find_page(hub), (layout.page_path("find"), HTML))
    add(2, layout.INDEX, every, lambda: index_text(hub), (layout.INDEX, JSON))
    add(2, "feed.xml", every, lambda: feeds.feed(hub), ("feed.xml", ATOM))
    add(2, "sitemap.xml", every, lambda: feeds.sitemap(hub), ("sitemap.xml", XML))
    for file, content_type in STATIC.items():
        data = (rendering.TEMPLATES / "static" / file).read_bytes()
        add(0, file, hashlib.sha256(data).digest(), functools.partial(bytes, data), (f"static/{file}", content_type))
    return jobs


def publisher_markdown(hub: Hub) -> str:
    """Return the Hub document of the publisher: who it is, its collections, and the newest version of each module."""
    return rendering.text("hub/publisher.md.j2", hub=hub, describe=rendering.describe)


def _publisher_page(hub: Hub) -> str:
    return hub_layout.page(hub, "publisher", layout.page_path(hub.publisher.name), newest=NEWEST)


def _home_page(hub: Hub) -> str:
    columns = table_columns.table_columns(hub.names[:NEWEST], NEWEST_COLUMNS)
    context = {
        "newest": NEWEST,
        "columns": columns,
        "example": next((m for m in hub.names if m.name == hub.publisher.example), hub.names[0] if hub.names else None),
        "plot": plots.overview(hub.names),
    }
    return hub_layout.page(hub, "home", layout.HOME_PAGE, data=structured_data.of_home(hub), **context)


def _find_page(hub: Hub) -> str:
    """Return the page that helps to choose; without scripts it is a table of the most accurate modules."""
    ranked = [module for module in hub.names if module.top1 is not None and module.yanked is None]
    ranked.sort(key=lambda m: (-(m.top1 or 0), m.measured["parameters"] or 0, m.name))
    machine = usual_machine(ranked)
    entries = ranked[:RANKED]
    columns = table_columns.table_columns(entries, FIND_COLUMNS, speeds=["1"], machine=machine)
    path = layout.page_path("find")
    return hub_layout.page(hub, "find", path, entries=entries, columns=columns, machine=machine)


def _missing_page(hub: Hub, example: str) -> str:
    """Return the page for addresses at which nothing lies; `example` is a handle."""
    return hub_layout.page(hub, "not_found", layout.NOT_FOUND_PAGE, example=example)


def _search_page(hub: Hub) -> str:
    entries = [
        (layout.page_path(module.handle), module.name, rendering.describe(module).replace("`", ""))
        for module in hub.names
    ]
    return hub_layout.page(hub, "search", layout.page_path("search"), entries=entries, what="modules")


def _benchmarks_page(hub: Hub, report: Mapping[str, Any]) -> str:
    path = benchmarks_page.PATH
    canonical = f"{hub.base_url}/{posixpath.dirname(path)}/"
    return benchmarks_page.page(
        report, site=hub_layout.site(hub), link=hub_layout.linker(hub, path), canonical=canonical
    )
