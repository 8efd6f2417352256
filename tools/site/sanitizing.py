"""Turn Markdown that strangers wrote into harmless HTML: no script, no style, no request, no link that leads nowhere.

    safe(body, resolve)         # resolve(address) -> relative link, False (dead), or None (a link to the web)
    excess(body)                # the limit that a text breaks, or None

What survives is text, tables, links and code, which is coloured by Pygments' classes, without any style. A picture would be a
request to somebody else's server: its description stays, linked when it lies on the web. Headings go down one level, skip none,
and get ids of their own (`doc-...`), so that nothing in a document can take the place of an id of the page.

A text that breaks a limit of `tools.site.github_markdown` is shown as it is written.
"""

import contextlib
import functools
import html
import itertools
import re
import signal
import threading
import urllib.parse
from collections.abc import Callable
from types import FrameType

import nh3
from markupsafe import Markup

from tools.site import rendering
from tools.site.github_markdown import TooComplexError, to_html

_TEXT = "a abbr b br cite code del em i img ins kbd mark q s samp small span strike strong sub sup tt u var"
_BLOCKS = "blockquote dd details dl dt h1 h2 h3 h4 h5 h6 hr li ol p pre summary ul"
_TABLES = "caption table tbody td th thead tfoot tr"
_TAGS = {tag for group in (_TEXT, _BLOCKS, _TABLES) for tag in group.split()}
_ATTRIBUTES = {
    "a": {"href"},
    "code": {"class"},
    "img": {"src", "alt"},
    "ol": {"start"},
    "td": {"align", "colspan", "rowspan"},
    "th": {"align", "colspan", "rowspan"},
}
_VALUES = {
    "align": re.compile(r"left|right|center"),
    "class": re.compile(r"language-[A-Za-z0-9+#-]{1,20}"),
    "colspan": re.compile(r"[0-9]{1,3}"),
    "rowspan": re.compile(r"[0-9]{1,3}"),
    "start": re.compile(r"[0-9]{1,9}"),
}
# After nh3 the markup is regular: attributes stand in double quotes, text holds no `<`.
_TAG = re.compile(r'<(/?)([a-z0-9]++)((?: [a-z]++="[^"]*+")*+)>')
_ATTRIBUTE = re.compile(r' ([a-z]++)="([^"]*+)"')
_CODE = re.compile(r'<pre><code class="language-([^"]*+)">([^<]*+)</code></pre>')
_HEADING = re.compile(r"<(/?)h[1-6]>")
_EMPTY = re.compile(r'<(a|h[1-6]|th)(?: [a-z]++="[^"]*+")*+>\s*+</\1>')
_WEB_ADDRESS = re.compile(r"(?i)https?://[^/\s]")
COLOURED = 20_000  # characters of code; longer code stays as it is
# Of processor time for one document, then its code stays as it is. Real code takes milliseconds; some of Pygments' expressions take
# exponential time (of shell: `$'\\0\\0\\0...`), and a signal ends them, as it does not end the sanitiser.
COLOURING_SECONDS = 1.0
_DEAD = '<span class="visually-hidden"> (not in this archive)</span></span>'

Resolve = Callable[[str], str | bool | None]


class _TooLongError(Exception):
    """Colouring the code takes too long."""


def safe(source: str, resolve: Resolve) -> Markup:
    """Return safe HTML of a document's body; one that breaks a limit is shown as it is written."""
    try:
        return Markup(_finished(_cleaned(source), resolve))
    except TooComplexError:
        return Markup('<pre tabindex="0"><code>') + source + Markup("</code></pre>")


def excess(source: str) -> str | None:
    """Return which limit a document's body breaks, so that it is shown as it is written."""
    try:
        to_html(source, _TAGS)
    except TooComplexError as error:
        return str(error)
    return None


def _cleaned(source: str) -> str:
    """Return the document as clean HTML, its code coloured; nothing but that keeps a class."""
    clean = nh3.clean(
        to_html(source, _TAGS),
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        attribute_filter=lambda tag, name, value: (
            value if name not in _VALUES or _VALUES[name].fullmatch(value) else None
        ),
        url_schemes={"http", "https", "mailto"},
        link_rel=None,
    )
    with contextlib.suppress(_TooLongError):
        clean = _limited(functools.partial(_CODE.sub, _coloured, clean))
    # Headings, header cells and links without any word are no help to those who have them read out.
    return _EMPTY.sub(lambda match: "<td></td>" if match[1] == "th" else "", clean)


def _limited(work: Callable[[], str]) -> str:
    """Return what `work` returns; raise `_TooLongError` if it takes longer than colours are worth."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        return work()

    def stop(number: int, frame: FrameType | None) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, COLOURING_SECONDS)
    try:
        return work()
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _coloured(match: re.Match[str]) -> str:
    code = html.unescape(match[2])
    if len(code) > COLOURED or match[1].lower() not in rendering.LANGUAGES:
        return f"<pre><code>{match[2]}</code></pre>"
    return f"<pre><code>{rendering.highlight(code, match[1].lower())}</code></pre>"


def slug(text: str) -> str:
    """Return the id of a heading, as documents link it: "Fine-tuning (TF2)" -> "fine-tuning-tf2"."""
    words = html.unescape(_TAG.sub("", text)).lower()
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", words)).strip("-")


def _finished(clean: str, resolve: Resolve) -> str:
    ids = _ids(clean)
    remaining = iter(ids)
    level, tables = 1, 0
    closing: list[int] = []  # levels of the headings that are open
    anchor = ""  # what ends the link that is open

    def tag(match: re.Match[str]) -> str:
        nonlocal level, tables, anchor
        end, name, written = match.groups()
        attributes = {key: html.unescape(value) for key, value in _ATTRIBUTE.findall(written)}
        if name == "a":
            if end:
                ended, anchor = anchor, ""
                return ended
            start, anchor = _link(attributes.get("href", ""), resolve, ids)
            return start
        if name == "img":
            return _picture(attributes, bool(anchor))
        if name == "table":
            if end:
                return "</table></div>"
            tables += 1
            return f'<div class="scroll" role="region" aria-label="Table {tables}" tabindex="0"><table>'
        if name == "pre":
            return "</pre>" if end else '<pre tabindex="0">'
        if name == "code":
            return f"<{end}code>"
        if "align" in attributes:
            return match[0].replace(' align="', ' class="')
        if not _HEADING.fullmatch(match[0]):
            return match[0]
        if end:
            return f"</h{closing.pop() if closing else level}>"
        level = min(int(name[1]), level + 1, 6) if name != "h1" else 2
        level = max(level, 2)
        closing.append(level)
        return f'<h{level} id="{html.escape(next(remaining))}">'

    return _TAG.sub(tag, clean)


def _ids(clean: str) -> dict[str, None]:
    """Return the ids of the headings, in order and each once: of equal ones, the second ends in `-1`, as on GitHub."""
    found: dict[str, None] = {}
    used: dict[str, int] = {}
    for start, after in itertools.pairwise(_HEADING.finditer(clean)):
        if not start[1]:
            base = unique = "doc-" + (slug(clean[start.end() : after.start()]) or "part")
            while unique in found:
                used[base] = used.get(base, 0) + 1
                unique = f"{base}-{used[base]}"
            found[unique] = None
    return found


def _link(target: str, resolve: Resolve, ids: dict[str, None]) -> tuple[str, str]:
    """Return the markup that begins a link and the markup that ends it."""
    dead = ('<span class="dead">', _DEAD)
    if target.startswith("#"):
        name = urllib.parse.unquote(target[1:])
        inside = "doc-" + slug(name.replace("_", "-")) if name else ""
        found = next((each for each in (f"doc-{name.lower()}", inside) if each in ids), None)
        return (f'<a href="#{html.escape(found)}">', "</a>") if found else ("<span>", "</span>")
    answer = resolve(target)
    if answer is False:
        return dead
    if answer is not None:
        return f'<a href="{html.escape(str(answer))}">', "</a>"
    if _WEB_ADDRESS.match(target) or target.lower().startswith("mailto:"):
        return f'<a href="{html.escape(target)}" rel="noopener nofollow">', "</a>"
    return dead if target else ("<span>", "</span>")


def _picture(attributes: dict[str, str], inside_link: bool) -> str:
    text = html.escape(attributes.get("alt") or "without description")
    source = attributes.get("src", "")
    if inside_link or not _WEB_ADDRESS.match(source):
        return f'<span class="picture">[picture: {text}]</span>'
    return f'<a class="picture" href="{html.escape(source)}" rel="noopener nofollow">[picture: {text}]</a>'
