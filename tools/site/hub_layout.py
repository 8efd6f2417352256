"""An HTML page of a hub: what stands around its content, relative links, and prose whose links lead inside the hub.

html = page(hub, "module", "hubpress/convnext_digits/1/index.html", module=module)
"""

import contextlib
import posixpath
import urllib.parse
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import jinja2
from markupsafe import Markup

from tools.catalog import layout
from tools.common.problems import with_fix
from tools.site import rendering
from tools.site.formatting import one_line
from tools.site.gathering import Hub
from tools.site.jobs import PageError

MISSING_FACTS = (jinja2.UndefinedError, KeyError, AttributeError, IndexError, TypeError)


def page(hub: Hub, template: str, path: str, *, data: Markup | None = None, **context: Any) -> str:
    """Render `templates/site/TEMPLATE.html.j2` as the page at `path`; `data` is a block for search engines.

    The template gets `link`, which turns paths of the hub into relative links, and `prose`, which turns Markdown into safe HTML
    with such links.
    """
    link = linker(hub, path)

    def inside(target: str) -> str:
        if target == hub.base_url:
            return link(layout.HOME_PAGE)
        rest = target.removeprefix(hub.base_url + "/")
        if rest == target:
            return target
        folder = rest.partition("#")[0].rstrip("/")
        is_page = (
            folder == hub.publisher.name or folder in hub.modules or any(c.folder == folder for c in hub.collections)
        )
        return link(layout.page_path(folder)) if is_page else link(rest)

    def prose(source: str, inline: bool = False) -> Markup:
        return rendering.prose(source, link=inside, inline=inline)

    def partial(name: str, inline: bool = False) -> Markup:
        """Render a partial of the Hub documents, so that a sentence that both kinds of pages say is written once."""
        return prose(rendering.text(f"hub/{name}", **context), inline)

    return rendering.page(
        f"site/{template}.html.j2",
        hub=hub,
        site=site(hub),
        canonical=_canonical(hub, path),
        data=data,
        link=link,
        prose=prose,
        partial=partial,
        describe=rendering.describe,
        highlight=rendering.highlight,
        **context,
    )


def _canonical(hub: Hub, path: str) -> str | None:
    """Return the address that a page has: the handle for modules and collections, with a slash at its end for the others."""
    if path == layout.NOT_FOUND_PAGE:
        return None
    folder = posixpath.dirname(path)
    address = f"{hub.base_url}/{urllib.parse.quote(folder, safe='/&;')}"
    is_named = folder.rpartition("/")[0] or folder == hub.publisher.name
    return address if folder and is_named else address.rstrip("/") + "/"


def site(hub: Hub) -> rendering.Site:
    """Return what all pages of a hub have around their content."""
    navigation: tuple[tuple[str, str, str], ...] = (
        ("Collections", layout.HOME_PAGE, "#collections"),
        ("Find", layout.page_path("find"), ""),
        ("Modules", layout.page_path("search"), ""),
        ("About", layout.page_path(hub.publisher.name), ""),
    )
    if hub.has_benchmarks:
        navigation = (*navigation[:3], ("Benchmarks", layout.page_path("benchmarks"), ""), navigation[3])
    return rendering.Site(hub.publisher.title, one_line(hub.publisher.description), navigation, feed="new modules")


def linker(hub: Hub, page: str) -> Callable[[str], str]:
    """Return `rendering.linker` below the path of the hub's address."""
    return rendering.linker(page, urllib.parse.urlsplit(hub.base_url).path + "/")


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
    """Turn a fact that is missing while something is rendered into a `PageError` that names it, the template and its line."""
    try:
        yield
    except MISSING_FACTS as error:
        line = _template_line(error.__traceback__)
        raise PageError(with_fix(f"{what}: {error}{line}", "publish the module again under a new version")) from error


def _template_line(traceback: TracebackType | None) -> str:
    line = ""
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if file.endswith(".j2"):
            line = f" (templates/{file.rpartition('/templates/')[2]}:{traceback.tb_lineno})"
        traceback = traceback.tb_next
    return line
