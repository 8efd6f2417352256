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
import json
import posixpath
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jinja2

from tools.catalog.catalog import COLUMNS
from tools.site import facts, plots, rendering, tables
from tools.site import page_cache as kept
from tools.site.facts import CollectionPage, Hub, ModulePage, PageError, gather

__all__ = [
    "Job",
    "Page",
    "PageError",
    "build",
    "collection_markdown",
    "describe",
    "gather",
    "index",
    "module_markdown",
    "plan",
    "publisher_markdown",
]

HTML = "text/html; charset=utf-8"
MARKDOWN = "text/markdown; charset=utf-8"
STATIC = {
    "style.css": "text/css; charset=utf-8",
    "site.js": "text/javascript; charset=utf-8",
    "search.js": "text/javascript; charset=utf-8",
    "index.schema.json": "application/json",
    "record.schema.json": "application/json",
    "note.schema.json": "application/json",
    "benchmarks.schema.json": "application/json",
    "example.jpg": "image/jpeg",
}
NEWEST = 24  # modules in the table of the first page; the list of all is on the search page
FED = 50  # modules in the feed
# What a collection's page can be filtered by: key of the row's data attribute, label.
FILTERS = {
    "head": "Head",
    "data": "Trained on",
    "resolution": "Resolution",
    "precision": "Precision",
    "licence": "Licence",
}
WAYS = [("hub-load", "hub.load"), ("keras-layer", "KerasLayer"), ("fine-tune", "Fine-tune"), ("keras-3", "Keras 3")]
SHELL = ("verify", "checksum")  # snippets that are commands
HEADS = {"classifier": "classifier", "feature_extractor": "features"}


@dataclass(frozen=True)
class Page:
    """One file of the hub: `path` is relative to the hub's root."""

    path: str
    data: bytes
    content_type: str


@dataclass(frozen=True)
class Job:
    """Pages that are made together: `files` are (path, content type), `make` gives their contents in the same order.

    `key` is a digest of everything that they are made from: two jobs with the same files and key make the same bytes. What
    lists other pages is of a later `wave`, to be written after them, so that no link is dead meanwhile.
    """

    files: tuple[tuple[str, str], ...]
    key: bytes
    wave: int
    make: Callable[[], tuple[str | bytes, ...]]

    def pages(self) -> list[Page]:
        """Make them."""
        contents = self.make()
        return [
            Page(path, content.encode("utf-8") if isinstance(content, str) else content, content_type)
            for (path, content_type), content in zip(self.files, contents, strict=True)
        ]


def build(records: Iterable[Mapping[str, Any]], **arguments: Any) -> dict[str, Page]:
    """All pages that follow from the records, by path; the arguments are those of `plan`."""
    return {page.path: page for job in plan(records, **arguments) for page in job.pages()}


def plan(
    records: Iterable[Mapping[str, Any]],
    *,
    publisher: Any,
    collections: Iterable[Any],
    base_url: str,
    tags: Mapping[str, Any],
    yanked: Mapping[str, str] | None = None,
    measurements: Mapping[str, list[Mapping[str, Any]]] | None = None,
    benchmarks: Mapping[str, Any] | None = None,
    digest_of: Callable[[str], bytes | None] = lambda handle: None,
) -> list[Job]:
    """What has to be made for all pages that follow from the records; nothing is made yet.

    `records` are the published modules' records (schema 1), `publisher` and `collections` come from
    `tools.catalog.load()` and `tags` from `tools.catalog.vocabularies.load`; `base_url` is the address that handles
    begin with, `yanked` maps a handle to why it was withdrawn, `measurements` to the notes of what was measured after its
    publication; `benchmarks` is what `tools/benchmark.py` wrote, if the hub has it. `digest_of` may know the digest of a
    handle's record, which is computed otherwise. Raises `PageError`, which names record and fix, as each job's `make` does.
    """
    hub = gather(
        records,
        publisher=publisher,
        collections=collections,
        base_url=base_url,
        tags=tags,
        yanked=yanked,
        measurements=measurements,
    )
    hub = dataclasses.replace(hub, has_benchmarks=benchmarks is not None)
    jobs: list[Job] = []
    taken: set[str] = set()

    def add(wave: int, what: str, key: bytes, make: Callable[[], Any], *files: tuple[str, str]) -> None:
        for path, _ in files:
            if path in taken:
                raise PageError(f"{path}: two pages have this path; rename one of the modules or collections")
            taken.add(path)

        def naming() -> tuple[str | bytes, ...]:
            with _naming(what):
                made = make()
                return made if isinstance(made, tuple) else (made,)

        jobs.append(Job(files, key, wave, naming))

    name = hub.publisher.name
    common = [kept.templates(), hub.base_url, vars(hub.publisher), hub.has_benchmarks]
    for module in hub.modules.values():
        module.around["digest"] = digest_of(module.handle) or kept.digest(module.record)
    keys = {module.handle: kept.digest([common, _module_inputs(hub, module)]) for module in hub.modules.values()}
    for module in hub.modules.values():
        add(
            0,
            f"record {module.handle}",
            keys[module.handle],
            functools.partial(_module_texts, hub, module),
            (f"{module.handle}.md", MARKDOWN),
            (f"{module.handle}/index.html", HTML),
        )
    for collection in hub.collections:
        add(
            1,
            f"collection {collection.name}",
            kept.digest([common, vars(collection.definition), COLUMNS, [keys[m.handle] for m in collection.members]]),
            functools.partial(_collection_texts, hub, collection),
            (f"{collection.folder}.md", MARKDOWN),
            (f"{collection.folder}/index.html", HTML),
            (f"{collection.folder}/table.csv", "text/csv; charset=utf-8"),
            (f"{collection.folder}/table.json", "application/json"),
        )
    every = kept.digest([common, list(keys.values()), [vars(collection.definition) for collection in hub.collections]])
    add(
        1,
        f"publisher {name}",
        every,
        lambda: (publisher_markdown(hub), _page(hub, "publisher", f"{name}/index.html", newest=NEWEST)),
        (f"{name}/{name}.md", MARKDOWN),
        (f"{name}/index.html", HTML),
    )
    if benchmarks is not None:
        from tools.site import benchmarks as bars

        link, canonical = _linker(hub, bars.PATH), f"{hub.base_url}/{posixpath.dirname(bars.PATH)}/"
        draw = functools.partial(bars.page, benchmarks, site=_site(hub), link=link, canonical=canonical)
        add(1, bars.FILE, kept.digest([common, benchmarks]), draw, (bars.PATH, HTML))
    example = hub.names[0].handle if hub.names else f"{name}/name/1"
    missing = functools.partial(_page, hub, "not_found", "404.html", example=example)
    home = functools.partial(_page, hub, "home", "index.html", newest=NEWEST)
    add(2, "404.html", kept.digest([common, example]), missing, ("404.html", HTML))
    add(2, "index.html", every, home, ("index.html", HTML))
    add(2, "search", every, lambda: _search_page(hub), ("search/index.html", HTML))
    add(2, "index.json", every, lambda: _index_text(hub), ("index.json", "application/json"))
    add(2, "feed.xml", every, lambda: _feed(hub), ("feed.xml", "application/atom+xml; charset=utf-8"))
    add(2, "sitemap.xml", every, lambda: _sitemap(hub), ("sitemap.xml", "application/xml"))
    for file, content_type in STATIC.items():
        data = (rendering.TEMPLATES / "static" / file).read_bytes()
        add(0, file, hashlib.sha256(data).digest(), lambda data=data: data, (f"static/{file}", content_type))
    return jobs


def _module_texts(hub: Hub, module: ModulePage) -> tuple[str, str]:
    words = _words(module)
    return _module_document(module, words), _module_page(hub, module, words)


def _collection_texts(hub: Hub, collection: CollectionPage) -> tuple[str, str, str, str]:
    table = tables.rows(collection)
    return (
        collection_markdown(collection, hub),
        _collection_page(hub, collection),
        tables.as_csv(table),
        tables.as_json(table),
    )


def _index_text(hub: Hub) -> str:
    """`index.json` with a line for each module: quick to write, and a change is a line of a diff."""
    encode = json.JSONEncoder(ensure_ascii=False).encode
    parts = []
    for key, value in index(hub).items():
        if isinstance(value, list) and value:
            lines = ",\n  ".join(map(encode, value))
            parts.append(f"{encode(key)}: [\n  {lines}\n ]")
        else:
            parts.append(f"{encode(key)}: {encode(value)}")
    return "{\n " + ",\n ".join(parts) + "\n}\n"


def _module_inputs(hub: Hub, module: ModulePage) -> list[Any]:
    """Everything that a module's pages depend on beside the publisher and the address: what is forgotten here goes stale."""
    used = [("license", module.row["licence"]), ("task", module.task)]
    used += [("network_architecture", module.row["network_architecture"])]
    used += [("dataset", name) for name in module.row["datasets"]]
    used += [("dataset", note["measurement"].get("dataset")) for note in module.notes]
    named = [(kind, hub.tags[kind].get(name)) for kind, name in used]
    return [
        module.around["digest"],
        module.yanked,
        module.notes,
        [[kind, tag and [tag.id, tag.display_name, tag.url]] for kind, tag in named],
        module.sibling and [module.sibling.around["digest"], module.sibling.yanked],
        [[other.handle, other.published, other.changes, other.yanked] for other in module.versions],
        module.newest.handle,
        [[c.folder, c.definition.title, c.definition.description] for c in module.collections],
    ]


def module_markdown(record: Mapping[str, Any], hub: Hub) -> str:
    """The Hub document of one record of `hub` (see `gather`), in tfhub.dev's format."""
    with _naming(f"record {record.get('handle')}"):
        module = hub.modules[record["handle"]]
        return _module_document(module, _words(module))


def collection_markdown(collection: CollectionPage, hub: Hub) -> str:
    """The Hub document of one of `hub.collections`."""
    return rendering.text(
        "hub/collection.md.j2", hub=hub, collection=collection, columns=_columns(collection), describe=describe
    )


def publisher_markdown(hub: Hub) -> str:
    """The Hub document of the publisher: who it is, its collections, and the newest version of each module."""
    return rendering.text("hub/publisher.md.j2", hub=hub, describe=describe)


def index(hub: Hub) -> dict[str, Any]:
    """`index.json`: what other programs, and the site's own search, need to know of every module and collection.

    Paths (`page`, `archive.url`) are relative to the hub; `gflops` are 10^9 multiply-adds, accuracies per cent, sizes
    bytes. A figure that nobody reported or measured is null. `templates/static/index.schema.json`, which every hub
    serves as `static/index.schema.json`, is the contract: keys are added, never changed.
    """
    modules = []
    for module in hub.modules.values():
        row, archive = module.row, module.archive
        modules.append(
            {
                "handle": module.handle,
                "publisher": module.publisher,
                "name": module.name,
                "version": module.version,
                "head": module.head,
                "task": module.task,
                "family": row["family"],
                "title": row["title"],
                "description": describe(module),
                "network_architecture": row["network_architecture"],
                "datasets": list(row["datasets"]),
                "license": row["licence"],
                "fine_tunable": row["fine_tunable"],
                "precision": module.precision,
                "size": row["size"],
                "data": row["data"],
                "resolution": row["resolution"],
                "parameters": module.measured["parameters"],
                "gflops": module.measured["gflops"],
                "reported_top1": module.reported["top1"],
                "reported_top5": module.reported["top5"],
                "measured_top1": module.measured_top1,
                "measured_top5": module.measured_top5,
                "evaluation": _evaluation(module),
                "speed": _speed(module),
                "archive": {"url": archive["path"], "bytes": archive["bytes"], "sha256": archive["sha256"]},
                "page": f"{module.folder}/",
                "published": module.published,
                "sibling": module.sibling.handle if module.sibling else None,
                "yanked": module.yanked,
                "newest": module is module.newest,
            }
        )
    publisher = {
        "name": hub.publisher.name,
        "title": hub.publisher.title,
        "description": facts.one_line(hub.publisher.description),
    }
    collections = [
        {
            "handle": collection.handle,
            "name": collection.name,
            "title": collection.definition.title,
            "description": facts.one_line(collection.definition.description),
            "page": f"{collection.folder}/",
            "modules": sorted((m.handle for m in collection.members), key=_handle_order),
        }
        for collection in hub.collections
    ]
    used = {
        "license": {m.row["licence"] for m in hub.modules.values()},
        "task": {m.task for m in hub.modules.values()},
        "network_architecture": {m.row["network_architecture"] for m in hub.modules.values()},
        "dataset": {name for m in hub.modules.values() for name in m.row["datasets"]},
    }
    names = {
        key: {value: hub.tags[key][value].display_name for value in sorted(values)} for key, values in used.items()
    }
    return {
        "schema": 1,
        "url": hub.base_url,
        "publisher": publisher,
        "modules": modules,
        "collections": collections,
        "names": names,
    }


def _evaluation(module: ModulePage) -> dict[str, Any] | None:
    """On what the measured accuracy was measured."""
    found = module.evaluation
    if found is None:
        return None
    return {
        "dataset": found.dataset,
        "split": found.split,
        "images": found.images,
        "date": found.date,
        "versions": dict(found.versions),
    }


def _speed(module: ModulePage) -> dict[str, Any] | None:
    """Images per second, and where they were measured."""
    found = module.speed
    if found is None:
        return None
    return {
        "cpu": found.cpu,
        "threads": found.threads,
        "resolution": found.resolution,
        "images_per_second": dict(found.images_per_second),
        "date": found.date,
        "versions": dict(found.versions),
    }


def _handle_order(handle: str) -> tuple[str, int]:
    name, _, version = handle.rpartition("/")
    return name, int(version)


class _naming:
    """Says which record a template was rendering when a fact was missing."""

    def __init__(self, what: str):
        self.what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, traceback) -> None:
        if isinstance(
            error, (jinja2.UndefinedError, KeyError, AttributeError, IndexError, TypeError)
        ) and not isinstance(error, PageError):
            at = _template_line(traceback)
            raise PageError(f"{self.what}: {error}{at}; publish the module again under a new version") from error


def _template_line(traceback) -> str:
    line = ""
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if file.endswith(".j2"):
            line = f" (templates/{file.rpartition('/templates/')[2]}:{traceback.tb_lineno})"
        traceback = traceback.tb_next
    return line


def describe(module: ModulePage) -> str:
    """A module in one sentence: the description of its document."""
    if "description" not in module.around:
        module.around["description"] = rendering.sentence("hub/_description.md.j2", module=module)
    return module.around["description"]


def _words(module: ModulePage) -> dict[str, Any]:
    """What the document and the page of a module both contain: its description and the code."""
    names = ["hub_load", "keras_layer", "keras_3"] + (["fine_tune"] if module.row["fine_tunable"] else [])
    names += ["stages"] if module.maps else []
    snippets = {name: rendering.text(f"snippets/{name}.py.j2", module=module).rstrip() for name in names}
    for name in SHELL:
        snippets[name] = rendering.text(f"snippets/{name}.sh.j2", module=module).rstrip()
    snippets["citation"] = rendering.text("snippets/citation.bib.j2", module=module).rstrip()
    return {"description": describe(module), "snippets": snippets}


def _module_document(module: ModulePage, words: dict[str, Any]) -> str:
    return rendering.text("hub/module.md.j2", module=module, **words)


def _module_page(hub: Hub, module: ModulePage, words: dict[str, Any]) -> str:
    volatile = (module.archive_url, module.url, module.archive["sha256"], module.file_name)

    def code(name: str) -> Any:
        language = "bibtex" if name == "citation" else "shell" if name in SHELL else "python"
        return rendering.highlight(words["snippets"][name], language, volatile=volatile)

    return _page(hub, "module", f"{module.folder}/index.html", module=module, code=code, ways=WAYS, **words)


def _columns(collection: CollectionPage) -> list[tuple[str, str]]:
    """The columns that its file names, and those that somebody measured or reported beyond: top-5 beside top-1, speed last."""
    columns = [(key, COLUMNS[key]) for key in collection.definition.columns]
    extra = [each for each in collection.extra_columns if each[0] not in collection.definition.columns]
    after = max((i + 1 for i, (key, _) in enumerate(columns) if key in facts.ACCURACIES), default=0)
    top5 = [each for each in extra if each[0] in facts.ACCURACIES]
    return columns[:after] + top5 + columns[after:] + [each for each in extra if each not in top5]


def _collection_page(hub: Hub, collection: CollectionPage) -> str:
    drawn = [plot for kind in ("parameters", "gflops") if (plot := plots.accuracy(collection.members, kind))]
    placed: dict[str, str] = {}
    for plot in drawn[:1]:
        for point in plot.points:
            placed.setdefault(
                point.module.name, f"{plot.kind}-{'measured-' if point.measured else ''}{point.module.name}"
            )
    filters = []
    for key, label in FILTERS.items():
        choices: dict[Any, str] = {}
        for module in collection.members:
            value = getattr(module, key) if key in ("head", "precision") else module.row[key]
            names = {
                "head": HEADS.get(value),
                "licence": module.licence.display_name,
                "data": facts.trained(str(value)),
            }
            choices[value] = names.get(key) or str(value)
        if len(choices) > 1:
            filters.append((key, label, sorted(choices.items())))
    named = collection.definition.columns

    def columns_of(members: list[ModulePage]) -> list[tuple[str, str]]:
        return [
            (key, title)
            for key, title in _columns(collection)
            if (members[0].is_classifier or key not in facts.ACCURACIES)
            and (key in named or any(facts.raw(m, key, collection.machine) != "" for m in members))
        ]

    path = f"{collection.folder}/index.html"
    return _page(
        hub,
        "collection",
        path,
        collection=collection,
        plots=drawn,
        placed=placed,
        filters=filters,
        columns_of=columns_of,
    )


def _search_page(hub: Hub) -> str:
    entries = [(f"{module.folder}/index.html", module.name, describe(module).replace("`", "")) for module in hub.names]
    return _page(hub, "search", "search/index.html", entries=entries, what="modules")


def _feed(hub: Hub) -> str:
    """The newest modules as Atom; its time is that of the newest module, so that the same records give the same bytes."""
    latest = sorted(hub.modules.values(), key=lambda m: (m.published, m.handle), reverse=True)[:FED]
    updated = latest[0].published if latest else "1970-01-01T00:00:00Z"
    return rendering.page("site/feed.xml.j2", hub=hub, modules=latest, updated=updated, describe=describe)


def _sitemap(hub: Hub) -> str:
    addresses = [(f"{hub.base_url}/", None), (f"{hub.base_url}/{hub.publisher.name}/", None)]
    addresses += [(f"{hub.base_url}/benchmarks/", None)] if hub.has_benchmarks else []
    addresses += [(f"{hub.base_url}/{urllib.parse.quote(c.folder)}/", None) for c in hub.collections]
    addresses += [(f"{hub.base_url}/{m.folder}/", m.published[:10]) for m in hub.modules.values()]
    return rendering.page("site/sitemap.xml.j2", addresses=addresses)


def _structured(hub: Hub, template: str, context: dict[str, Any]) -> Any:
    """What search engines are told of a page, schema.org's vocabulary as JSON; a data block, which runs nothing."""
    publisher = {"@type": "Organization", "name": hub.publisher.title, "url": f"{hub.base_url}/{hub.publisher.name}"}
    if template == "home":
        found = {
            "@type": "WebSite",
            "name": hub.publisher.title,
            "url": f"{hub.base_url}/",
            "description": facts.one_line(hub.publisher.description),
            "publisher": publisher,
            "potentialAction": {
                "@type": "SearchAction",
                "target": f"{hub.base_url}/search/?q={{query}}",
                "query-input": "required name=query",
            },
        }
    elif template == "collection":
        collection = context["collection"]
        found = {
            "@type": "CollectionPage",
            "name": collection.definition.title,
            "url": collection.url,
            "description": facts.one_line(collection.definition.description),
            "hasPart": [m.url for m in collection.members],
            "publisher": publisher,
        }
    elif template == "module":
        module = context["module"]
        paper = module.row["paper"]
        found = {
            "@type": "SoftwareApplication",
            "applicationCategory": "Machine learning model",
            "operatingSystem": "any",
            "name": module.name,
            "softwareVersion": str(module.version),
            "url": module.url,
            "description": facts.one_line(context["description"]).replace("`", ""),
            "license": module.licence.url or module.licence.display_name,
            "datePublished": module.published,
            "downloadUrl": module.archive_url,
            "fileSize": str(module.archive["bytes"]),
            "isPartOf": [c.url for c in module.collections],
            "citation": {
                "@type": "ScholarlyArticle",
                "name": paper["title"],
                "author": paper["authors"].split(", "),
                "datePublished": str(paper["year"]),
                "url": paper["url"],
            },
            "publisher": publisher,
        }
    else:
        return None
    return rendering.json_block({"@context": "https://schema.org", **found})


def _page(hub: Hub, template: str, path: str, **context: Any) -> str:
    """An HTML page: `link` gives it relative links, `prose` turns Markdown into safe HTML with such links."""
    link = _linker(hub, path)

    def inside(target: str) -> str:
        if target == hub.base_url:
            return link("index.html")
        rest = target.removeprefix(hub.base_url + "/")
        if rest == target:
            return target
        folder = rest.partition("#")[0].rstrip("/")
        is_page = (
            folder == hub.publisher.name or folder in hub.modules or any(c.folder == folder for c in hub.collections)
        )
        return link(f"{folder}/index.html") if is_page else link(rest)

    def prose(source: str, inline: bool = False) -> Any:
        return rendering.prose(source, link=inside, inline=inline)

    def partial(name: str, inline: bool = False) -> Any:
        """A partial of the Hub documents, so that a sentence that both kinds of pages say is written once."""
        return prose(rendering.text(f"hub/{name}", **context), inline)

    if "collection" in context:
        context["columns"] = _columns(context["collection"])
    folder = posixpath.dirname(path)
    named = folder.rpartition("/")[0] or folder == hub.publisher.name
    canonical = None if path == "404.html" else f"{hub.base_url}/{urllib.parse.quote(folder, safe='/&;')}"
    if canonical and not (folder and named):
        canonical = canonical.rstrip("/") + "/"
    return rendering.page(
        f"site/{template}.html.j2",
        hub=hub,
        site=_site(hub),
        canonical=canonical,
        data=_structured(hub, template, context),
        link=link,
        prose=prose,
        partial=partial,
        describe=describe,
        highlight=rendering.highlight,
        **context,
    )


def _site(hub: Hub) -> rendering.Site:
    navigation = (
        ("Collections", "index.html", "#collections"),
        ("Modules", "search/index.html", ""),
        ("About", f"{hub.publisher.name}/index.html", ""),
    )
    if hub.has_benchmarks:
        navigation = (*navigation[:2], ("Benchmarks", "benchmarks/index.html", ""), navigation[2])
    return rendering.Site(
        hub.publisher.title, facts.one_line(hub.publisher.description), navigation, feed="new modules"
    )


def _linker(hub: Hub, page: str) -> Callable[[str], str]:
    """`rendering.linker` below the path of the hub's address."""
    return rendering.linker(page, urllib.parse.urlsplit(hub.base_url).path + "/")
