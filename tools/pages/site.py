"""Every page of a hub from its records: Hub documents, HTML pages, index. Pure: no clock, no network, no storage.

    pages = build(records, publisher=catalog.publisher, collections=catalog.collections, base_url=url, tags=tags)
    for page in pages.values():
        storage.replace(page.path, page.data, content_type=page.content_type, ...)

Templates are in `templates/`: `hub/` are the documents in tfhub.dev's format, `snippets/` the code that both kinds of
pages show, `site/` the HTML. Links between pages are relative, so the tree works below any address; only handles and
snippets carry `base_url`.
"""

import functools
import json
import posixpath
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jinja2

from tools.catalog.catalog import COLUMNS
from tools.pages import facts, plots, rendering, tables
from tools.pages.facts import Collection, Hub, Module, PageError, gather
from tools.pages.kept import Kept

__all__ = [
    "Page",
    "PageError",
    "build",
    "collection_markdown",
    "describe",
    "gather",
    "index",
    "module_markdown",
    "publisher_markdown",
]

HTML = "text/html; charset=utf-8"
MARKDOWN = "text/markdown; charset=utf-8"
STATIC = {
    "style.css": "text/css; charset=utf-8",
    "site.js": "text/javascript; charset=utf-8",
    "search.js": "text/javascript; charset=utf-8",
    "index.schema.json": "application/json",
    "example.jpg": "image/jpeg",
}
NEWEST = 24  # modules in the table of the first page; the list of all is on the search page
FED = 50  # modules in the feed
# What a collection's page can be filtered by: key of the row's data attribute, label.
FILTERS = {"head": "Head", "data": "Trained on", "resolution": "Resolution", "licence": "Licence"}
WAYS = [("hub-load", "hub.load"), ("keras-layer", "KerasLayer"), ("fine-tune", "Fine-tune"), ("keras-3", "Keras 3")]
HEADS = {"classifier": "classifier", "feature_extractor": "features"}


@dataclass(frozen=True)
class Page:
    """One file of the hub: `path` is relative to the hub's root."""

    path: str
    data: bytes
    content_type: str


def build(
    records: Iterable[Mapping[str, Any]],
    *,
    publisher: Any,
    collections: Iterable[Any],
    base_url: str,
    tags: Mapping[str, Any],
    yanked: Mapping[str, str] | None = None,
    kept: Kept | None = None,
) -> dict[str, Page]:
    """All pages that follow from the records, by path.

    `records` are the published modules' records (schema 1), `publisher` and `collections` come from
    `tools.catalog.load()` and `tags` from `tools.catalog.vocabularies.load`; `base_url` is the address that handles
    begin with, and `yanked` maps a handle to why it was withdrawn. With `kept`, pages of modules whose inputs did not change
    are taken from there. Raises `PageError`, which names record and fix.
    """
    hub = gather(records, publisher=publisher, collections=collections, base_url=base_url, tags=tags, yanked=yanked)
    pages: dict[str, Page] = {}

    def add(path: str, content: str | bytes, content_type: str) -> None:
        if path in pages:
            raise PageError(f"{path}: two pages have this path; rename one of the modules or collections")
        pages[path] = Page(path, content.encode("utf-8") if isinstance(content, str) else content, content_type)

    for module in hub.modules.values():
        with _naming(f"record {module.handle}"):
            if kept is None:
                document, page = _module_texts(hub, module)
            else:
                inputs = _module_inputs(hub, module)
                document, page = kept.texts(inputs, functools.partial(_module_texts, hub, module))
            add(f"{module.handle}.md", document, MARKDOWN)
            add(f"{module.handle}/index.html", page, HTML)
    for collection in hub.collections:
        with _naming(f"collection {collection.name}"):
            add(f"{collection.folder}.md", collection_markdown(collection, hub), MARKDOWN)
            add(f"{collection.folder}/index.html", _collection_page(hub, collection), HTML)
            table = tables.of(collection)
            add(f"{collection.folder}/table.csv", tables.as_csv(table), "text/csv; charset=utf-8")
            add(f"{collection.folder}/table.json", tables.as_json(table), "application/json")
    name = hub.publisher.name
    with _naming(f"publisher {name}"):
        add(f"{name}/{name}.md", publisher_markdown(hub), MARKDOWN)
        add(f"{name}/index.html", _page(hub, "publisher", f"{name}/index.html"), HTML)
        add("index.html", _page(hub, "home", "index.html", newest=NEWEST), HTML)
        add("search/index.html", _search_page(hub), HTML)
        example = hub.names[0].handle if hub.names else f"{name}/name/1"
        add("404.html", _page(hub, "not_found", "404.html", example=example), HTML)
    add("index.json", json.dumps(index(hub), indent=1, ensure_ascii=False) + "\n", "application/json")
    add("feed.xml", _feed(hub), "application/atom+xml; charset=utf-8")
    add("sitemap.xml", _sitemap(hub), "application/xml")
    for file, content_type in STATIC.items():
        add(f"static/{file}", (rendering.TEMPLATES / "static" / file).read_bytes(), content_type)
    return pages


def _module_texts(hub: Hub, module: Module) -> tuple[str, str]:
    words = _words(module)
    return _module_document(module, words), _module_page(hub, module, words)


def _module_inputs(hub: Hub, module: Module) -> list[Any]:
    """Everything that a module's document and page depend on, as JSON has it: what is forgotten here goes stale."""
    used = [("license", module.row["licence"]), ("task", module.task)]
    used += [("network_architecture", module.row["network_architecture"])]
    used += [("dataset", name) for name in module.row["datasets"]]
    return [
        module.record,
        module.yanked,
        hub.base_url,
        [hub.publisher.name, hub.publisher.title, hub.publisher.description, hub.publisher.about],
        [[kind, name, hub.tags[kind][name].display_name, hub.tags[kind][name].url] for kind, name in used],
        module.sibling and [module.sibling.record, module.sibling.yanked],
        [[other.handle, other.published, other.yanked] for other in module.versions],
        module.newest.handle,
        [[c.folder, c.definition.title, c.definition.description] for c in module.collections],
    ]


def module_markdown(record: Mapping[str, Any], hub: Hub) -> str:
    """The Hub document of one record of `hub` (see `gather`), in tfhub.dev's format."""
    with _naming(f"record {record.get('handle')}"):
        module = hub.modules[record["handle"]]
        return _module_document(module, _words(module))


def collection_markdown(collection: Collection, hub: Hub) -> str:
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
                "size": row["size"],
                "data": row["data"],
                "resolution": row["resolution"],
                "parameters": module.measured["parameters"],
                "gflops": module.measured["gflops"],
                "reported_top1": module.reported["top1"],
                "measured_top1": module.measured_top1,
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


def describe(module: Module) -> str:
    """A module in one sentence: the description of its document."""
    if "description" not in module.around:
        module.around["description"] = rendering.text("hub/_description.md.j2", module=module).strip()
    return module.around["description"]


def _words(module: Module) -> dict[str, Any]:
    """What the document and the page of a module both contain: its description and the code."""
    names = ["hub_load", "keras_layer", "keras_3"] + (["fine_tune"] if module.row["fine_tunable"] else [])
    names += ["stages"] if module.maps else []
    snippets = {name: rendering.text(f"snippets/{name}.py.j2", module=module).rstrip() for name in names}
    snippets["verify"] = rendering.text("snippets/verify.sh.j2", module=module).rstrip()
    snippets["citation"] = rendering.text("snippets/citation.bib.j2", module=module).rstrip()
    return {"description": describe(module), "snippets": snippets}


def _module_document(module: Module, words: dict[str, Any]) -> str:
    return rendering.text("hub/module.md.j2", module=module, **words)


def _module_page(hub: Hub, module: Module, words: dict[str, Any]) -> str:
    volatile = (module.archive_url, module.url, module.archive["sha256"], module.file_name)

    def code(name: str) -> Any:
        language = {"verify": "shell", "citation": "bibtex"}.get(name, "python")
        return rendering.highlight(words["snippets"][name], language, volatile=volatile)

    return _page(hub, "module", f"{module.folder}/index.html", module=module, code=code, ways=WAYS, **words)


def _columns(collection: Collection) -> list[tuple[str, str]]:
    return [(key, COLUMNS[key]) for key in collection.definition.columns]


def _collection_page(hub: Hub, collection: Collection) -> str:
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
            value = module.head if key == "head" else module.row[key]
            names = {
                "head": HEADS.get(value),
                "licence": module.licence.display_name,
                "data": facts.trained(str(value)),
            }
            choices[value] = names.get(key) or str(value)
        if len(choices) > 1:
            filters.append((key, label, sorted(choices.items())))
    path = f"{collection.folder}/index.html"
    return _page(hub, "collection", path, collection=collection, plots=drawn, placed=placed, filters=filters)


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
    return rendering.Site(hub.publisher.title, facts.one_line(hub.publisher.description), navigation, feed=True)


def _linker(hub: Hub, page: str) -> Callable[[str], str]:
    """`rendering.linker` below the path of the hub's address."""
    return rendering.linker(page, urllib.parse.urlsplit(hub.base_url).path + "/")
