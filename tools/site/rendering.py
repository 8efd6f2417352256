"""Render templates and Markdown: two strict Jinja2 environments, and functions that make foreign text safe.

text("hub/module.md.j2", module=module)      # Hub Markdown: no HTML escaping, exactly one newline at the end
page("site/module.html.j2", module=module)   # HTML: everything escaped
"""

import contextlib
import html
import json
import posixpath
import re
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import jinja2
import nh3
import pygments
import pygments.lexers
from markupsafe import Markup
from pygments.formatters import HtmlFormatter

from tools.catalog import layout
from tools.common.files import ROOT
from tools.site import formatting, github_markdown, plots
from tools.site.published_collection import cell, raw
from tools.site.published_module import PublishedModule, crop_of

TEMPLATES = ROOT / "templates"
# Languages of code blocks, and the lexer that colours each, which is imported when it is needed.
LANGUAGES = {
    **dict.fromkeys(("python", "py", "python3", "ipython3"), "PythonLexer"),
    **dict.fromkeys(("shell", "bash", "sh", "console", "zsh"), "BashLexer"),
    **dict.fromkeys(("javascript", "js", "typescript", "ts"), "JavascriptLexer"),
    **dict.fromkeys(("cpp", "c", "c++"), "CppLexer"),
    **dict.fromkeys(("bibtex", "bib"), "BibTeXLexer"),
    **dict.fromkeys(("html", "xml"), "HtmlLexer"),
    **dict.fromkeys(("yaml", "yml"), "YamlLexer"),
    "java": "JavaLexer",
    "json": "JsonLexer",
    "kotlin": "KotlinLexer",
}
_FILTERS: dict[str, Callable[..., Any]] = {
    "thousands": formatting.thousands,
    "millions": formatting.millions,
    "decimal": formatting.decimal,
    "percent": formatting.percent,
    "measured_percent": formatting.measured_percent,
    "versions": formatting.versions,
    "size": formatting.size,
    "shape": formatting.shape,
    "span": formatting.span,
    "day": formatting.day,
    "one_line": formatting.one_line,
    "cell": cell,
    "raw": raw,
    "trained": formatting.trained,
    "crop_of": crop_of,
    "thumbnail": plots.thumbnail,
    "outline": plots.outline,
}


def environment(folder: Path, *, escape: bool) -> jinja2.Environment:
    """Return Jinja2 over a folder of templates, where a fact that does not exist is an error and never an empty place."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        autoescape=escape,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
    )
    made.filters.update(
        {
            name: _strict(function)
            for name, function in {**_FILTERS, "plain": plain, "in_cell": in_cell, "breakable": breakable}.items()
        }
    )
    made.globals["dash"] = formatting.DASH
    return made


def _strict(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function as a filter that names a fact that does not exist, instead of failing at it."""

    def apply(value: Any, *arguments: Any, **keywords: Any) -> Any:
        if isinstance(value, jinja2.Undefined):
            str(value)  # raises UndefinedError with the fact's name
        return function(value, *arguments, **keywords)

    return apply


@dataclass(frozen=True)
class Site:
    """The frame of a site's pages, around their content; `navigation` holds (label, path, anchor)."""

    title: str
    description: str
    navigation: tuple[tuple[str, str, str], ...]
    feed: str = ""  # what its feed.xml lists; empty without one


def linker(page: str, root: str = "/") -> Callable[[str], str]:
    """Return a function from a path of the site to the relative link from `page`; `x/index.html` is linked as `x/`.

    The page for missing addresses is shown at any depth: its links begin at `root`, the site's path on its server.
    """
    start = page.split("/")[:-1]

    def relative(segments: list[str]) -> str:
        same = 0
        for mine, other in zip(start, segments, strict=False):
            if mine != other:
                break
            same += 1
        return "/".join([".."] * (len(start) - same) + segments[same:]) or "."

    @cache
    def link(path: str) -> str:
        folder, file = posixpath.split(path)
        if page == layout.NOT_FOUND_PAGE:
            target = root + (path if file != layout.HOME_PAGE else folder + "/" if folder else "")
        elif file == layout.HOME_PAGE:
            target = relative(folder.split("/") if folder else []) + "/"
        else:
            target = relative(path.split("/"))
        return urllib.parse.quote(target, safe="/.-_~&;")

    return link


def json_block(data: Any) -> Markup:
    """Return JSON for a data block of a page: nothing in it can end the block or begin markup."""
    written = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return Markup(written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


@cache
def _documents() -> jinja2.Environment:
    return environment(TEMPLATES, escape=False)


@cache
def _site() -> jinja2.Environment:
    return environment(TEMPLATES, escape=True)


def use_template_cache(folder: Path) -> None:
    """Keep compiled templates in a cache folder, as Python does with its modules; without it, each process compiles them."""
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        for each in (_documents(), _site()):
            each.bytecode_cache = jinja2.FileSystemBytecodeCache(str(folder), "%s.jinja")


def compile_templates(folder: str) -> None:
    """Compile the HTML templates of a folder now, so that processes forked later need not."""
    for name in _site().list_templates(filter_func=lambda name: name.startswith(folder + "/")):
        _site().get_template(name)


def text(template: str, **context: Any) -> str:
    """Render a template of Markdown or code: no trailing blanks, no runs of empty lines, one newline at the end."""
    raw = _documents().get_template(template).render(context)
    lines = "\n".join(line.rstrip() for line in raw.splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip("\n") + "\n"


def sentence(template: str, **context: Any) -> str:
    """Render a template of one line; much quicker than `text`, for what is said thousands of times."""
    return _documents().get_template(template).render(context).strip()


def describe(module: PublishedModule) -> str:
    """Return a module in one sentence, as its document, the tables, the search and the feed say it; it is rendered once."""
    if not module.description:
        module.description = sentence("hub/_description.md.j2", module=module)
    return module.description


def page(template: str, **context: Any) -> str:
    """Render a template of HTML, with everything escaped that is not markup already."""
    rendered = _site().get_template(template).render(context)
    # Empty lines that templates leave behind go; those of code stay.
    parts = re.split(r"(<pre\b(?s:.*?)(?:</pre>|\Z))", rendered)
    return (
        "".join(part if part.startswith("<pre") else re.sub(r"\n\s*\n+", "\n", part) for part in parts).strip() + "\n"
    )


def plain(value: Any) -> str:
    """Return a fact for Markdown: on one line, and no HTML can begin in it."""
    return formatting.one_line(value).replace("<", "&lt;")


def breakable(name: str) -> Markup:
    """Return a name that may break before its underscores, and nowhere else that its style does not say."""
    return Markup("<wbr>_").join(name.split("_"))  # `join` escapes


def in_cell(value: Any) -> str:
    """Return a fact for a cell of a Markdown table."""
    return plain(value).replace("|", "\\|")


def prose(source: str, *, link: Callable[[str], str] | None = None, inline: bool = False) -> Markup:
    """Return sanitised HTML of a piece of Markdown; one that breaks a limit of `github_markdown` is shown as it is written.

    `link` maps each link's target to the one to write (absolute addresses inside the hub to relative ones); `inline`
    takes the single paragraph off. Scripts, styles, event handlers and foreign schemes do not survive.
    """

    def attribute(tag: str, name: str, value: str) -> str:
        return link(value) if link and name == "href" else value

    clean = nh3.clean(
        _converted(source),
        attribute_filter=attribute,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener",
    ).strip()
    if inline and clean.startswith("<p>") and clean.count("<p>") == 1:
        clean = clean.removeprefix("<p>").strip().removesuffix("</p>")
    return Markup(clean)


@lru_cache(maxsize=1024)
def _converted(source: str) -> str:
    # Cached, since most sentences are the same on the pages of all modules.
    try:
        return github_markdown.to_html(source, nh3.ALLOWED_TAGS)
    except github_markdown.TooComplexError:
        return f"<pre>{html.escape(source)}</pre>"


def highlight(code: str, language: str, *, volatile: tuple[str, ...] = ()) -> Markup:
    """Return the code as HTML with Pygments' class names, without any style.

    `volatile` are the parts that differ from page to page (addresses, digests): they are taken out first, so that the
    same snippet is coloured once for all modules.
    """
    marks = {f"volatile{i}mark": part for i, part in enumerate(volatile) if part}
    for mark, part in marks.items():
        code = code.replace(part, mark)
    coloured = _coloured(code, language)
    for mark, part in marks.items():
        coloured = coloured.replace(mark, html.escape(part))
    return Markup(coloured)


@lru_cache(maxsize=512)
def _coloured(code: str, language: str) -> str:
    return pygments.highlight(code, _lexer(language), HtmlFormatter(nowrap=True))


@cache
def _lexer(language: str) -> Any:
    return getattr(pygments.lexers, LANGUAGES[language])(stripnl=False)
