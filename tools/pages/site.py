"""Every page of a hub from its records: Hub documents, HTML pages, index. Pure: no clock, no network, no storage.

    pages = build(records, publisher=catalog.publisher, collections=catalog.collections, base_url=url, tags=tags)
    for page in pages.values():
        storage.replace(page.path, page.data, content_type=page.content_type, ...)

Templates are in `templates/`: `hub/` are the documents in tfhub.dev's format, `snippets/` the code that both kinds of
pages show, `site/` the HTML. Links between pages are relative, so the tree works below any address; only handles and
snippets carry `base_url`.
"""

import json
import posixpath
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jinja2

from tools.catalog.catalog import COLUMNS
from tools.pages import facts, rendering
from tools.pages.facts import Collection, Hub, Module, PageError, gather

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
STATIC = {"style.css": "text/css; charset=utf-8", "site.js": "text/javascript; charset=utf-8"}


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
) -> dict[str, Page]:
    """All pages that follow from the records, by path.

    `records` are the published modules' records (schema 1), `publisher` and `collections` come from
    `tools.catalog.load()` and `tags` from `tools.catalog.vocabularies.load`; `base_url` is the address that handles
    begin with, and `yanked` maps a handle to why it was withdrawn. Raises `PageError`, which names record and fix.
    """
    hub = gather(records, publisher=publisher, collections=collections, base_url=base_url, tags=tags, yanked=yanked)
    pages: dict[str, Page] = {}

    def add(path: str, content: str, content_type: str) -> None:
        if path in pages:
            raise PageError(f"{path}: two pages have this path; rename one of the modules or collections")
        pages[path] = Page(path, content.encode("utf-8"), content_type)

    for module in hub.modules.values():
        with _naming(f"record {module.handle}"):
            words = _words(module)
            add(f"{module.handle}.md", _module_document(module, words), MARKDOWN)
            add(f"{module.handle}/index.html", _module_page(hub, module, words), HTML)
    for collection in hub.collections:
        with _naming(f"collection {collection.name}"):
            add(f"{collection.folder}.md", collection_markdown(collection, hub), MARKDOWN)
            add(
                f"{collection.folder}/index.html",
                _page(hub, "collection", f"{collection.folder}/index.html", collection=collection),
                HTML,
            )
    name = hub.publisher.name
    with _naming(f"publisher {name}"):
        add(f"{name}/{name}.md", publisher_markdown(hub), MARKDOWN)
        add(f"{name}/index.html", _page(hub, "publisher", f"{name}/index.html"), HTML)
        add("index.html", _page(hub, "home", "index.html"), HTML)
        add("404.html", _page(hub, "not_found", "404.html"), HTML)
    add("index.json", json.dumps(index(hub), indent=1, ensure_ascii=False) + "\n", "application/json")
    for file, content_type in STATIC.items():
        add(f"static/{file}", (rendering.TEMPLATES / "static" / file).read_text(encoding="utf-8"), content_type)
    return pages


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
    bytes. A figure that nobody reported or measured is null.
    """
    modules = []
    for module in hub.modules.values():
        row, archive = module.row, module.archive
        modules.append(
            {
                "handle": module.handle,
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
    return {"schema": 1, "url": hub.base_url, "publisher": publisher, "modules": modules, "collections": collections}


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
    return rendering.text("hub/_description.md.j2", module=module).strip()


def _words(module: Module) -> dict[str, Any]:
    """What the document and the page of a module both contain: its description and the code."""
    names = ["hub_load", "keras_layer", "keras_3"] + (["fine_tune"] if module.row["fine_tunable"] else [])
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

    return _page(hub, "module", f"{module.folder}/index.html", module=module, code=code, **words)


def _columns(collection: Collection) -> list[tuple[str, str]]:
    return [(key, COLUMNS[key]) for key in collection.definition.columns]


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
    return rendering.page(
        f"site/{template}.html.j2",
        hub=hub,
        link=link,
        prose=prose,
        partial=partial,
        describe=describe,
        highlight=rendering.highlight,
        **context,
    )


def _linker(hub: Hub, page: str) -> Callable[[str], str]:
    """A function from a path of the hub to the relative link from `page`; `x/index.html` is linked as `x/`.

    The page for missing addresses is shown at any depth: its links begin at the root of `base_url`.
    """
    root = urllib.parse.urlsplit(hub.base_url).path + "/"
    start = posixpath.dirname(page) or "."

    def link(path: str) -> str:
        folder, file = posixpath.split(path)
        if page == "404.html":
            target = root + (path if file != "index.html" else folder + "/" if folder else "")
        elif file == "index.html":
            target = posixpath.relpath(folder or ".", start) + "/"
        else:
            target = posixpath.relpath(path, start)
        return urllib.parse.quote(target, safe="/.-_~&;")

    return link
