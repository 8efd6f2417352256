"""Turn Markdown that strangers wrote into harmless HTML: no script, no style, no request, no link that leads nowhere.

    safe(body, resolve)         # resolve(address) -> relative link, False (dead), or None (a link to the web)

What survives is text, tables, links and code, which is coloured by Pygments' classes, without any style. A picture would be a
request to somebody else's server: its description stays, linked when it lies on the web. Headings go down one level, skip none,
and get ids of their own (`doc-...`), so that nothing in a document can take the place of an id of the page.
"""

import html
import re
import signal
import threading
from collections.abc import Callable
from types import FrameType

import nh3
from markupsafe import Markup

from tools.site import rendering

SECONDS = 3.0  # of processor time for one document; real ones take milliseconds, hostile ones can take hours
_TEXT = "a abbr b br cite code del em i img ins kbd mark q s samp small span strike strong sub sup tt u var"
_BLOCKS = "blockquote dd details dl dt h1 h2 h3 h4 h5 h6 hr li ol p pre summary ul"
_TABLES = "caption table tbody td th thead tfoot tr"
_TAGS = {tag for group in (_TEXT, _BLOCKS, _TABLES) for tag in group.split()}
_ATTRIBUTES = {
    "a": {"href"},
    "code": {"class"},
    "img": {"src", "alt"},
    "td": {"colspan", "rowspan"},
    "th": {"colspan", "rowspan"},
}
# After nh3 the markup is regular: attributes stand in double quotes, text holds no `<`.
_TAG = re.compile(r'<(/?)(a|h[1-6]|img|table|pre)((?: [a-z]+="[^"]*")*)>')
_ATTRIBUTE = re.compile(r' ([a-z]+)="([^"]*)"')
_LANGUAGE = re.compile(r"language-[A-Za-z0-9+#-]{1,20}")
_CODE = re.compile(r'<pre><code class="language-([^"]*)">([^<]*)</code></pre>')
COLOURED = 20_000  # characters; longer code stays as it is
_DEAD = '<span class="visually-hidden"> (not in this archive)</span></span>'

Resolve = Callable[[str], str | bool | None]


class _TooLongError(Exception):
    """The document's Markdown takes too long."""


def safe(source: str, resolve: Resolve) -> Markup:
    """Return safe HTML of a document's body; one that cannot be read as Markdown within `SECONDS` is shown as it is written."""
    try:
        clean = _limited(lambda: _cleaned(source))
    except (_TooLongError, RecursionError, ValueError, AttributeError, IndexError, KeyError):
        rendering.markdown_converter.cache_clear()
        return Markup('<pre tabindex="0"><code>') + source + Markup("</code></pre>")
    return Markup(_finished(clean, resolve))


def _cleaned(source: str) -> str:
    """Return the document as clean HTML, its code coloured; nothing but that keeps a class."""
    clean = nh3.clean(
        rendering.markdown_converter().reset().convert(source),
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        attribute_filter=lambda tag, name, value: value if name != "class" or _LANGUAGE.fullmatch(value) else None,
        url_schemes={"http", "https", "mailto"},
        link_rel=None,
    )
    clean = _CODE.sub(_coloured, clean)
    clean = re.sub(r'<code class="language-[^"]*">', "<code>", clean)
    # Headings and header cells without any word are no help to those who have them read out.
    return re.sub(r"<th>\s*</th>", "<td></td>", re.sub(r"<(h[1-6])>\s*</\1>", "", clean))


def _coloured(match: re.Match[str]) -> str:
    code = html.unescape(match[2])
    if len(code) > COLOURED or match[1].lower() not in rendering.LANGUAGES:
        return f"<pre><code>{match[2]}</code></pre>"
    return f"<pre><code>{rendering.highlight(code, match[1].lower())}</code></pre>"


def _limited(work: Callable[[], str]) -> str:
    """Return what `work` returns; raise `_TooLongError` if it takes longer than a document may."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        return work()

    def stop(number: int, frame: FrameType | None) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        return work()
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def slug(text: str) -> str:
    """Return the id of a heading, as documents link it: "Fine-tuning (TF2)" -> "fine-tuning-tf2"."""
    words = re.sub(r"<[^>]*>", "", html.unescape(text)).lower()
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", words)).strip("-")


def _finished(clean: str, resolve: Resolve) -> str:
    ids = _ids(clean)
    remaining = iter(ids)
    level, tables = 1, 0
    closing: list[int] = []  # levels of the headings that are open
    anchor = ""  # what ends the link that is open

    def tag(match: re.Match[str]) -> str:
        nonlocal level, tables, anchor
        end, name, attributes = match[1], match[2], {k: html.unescape(v) for k, v in _ATTRIBUTE.findall(match[3])}
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
        if end:
            return f"</h{closing.pop() if closing else level}>"
        level = min(int(name[1]), level + 1, 6) if name != "h1" else 2
        level = max(level, 2)
        closing.append(level)
        return f'<h{level} id="{html.escape(next(remaining))}">'

    return _TAG.sub(tag, clean)


def _ids(clean: str) -> dict[str, None]:
    """Return the ids of the headings, in order and each once."""
    found: dict[str, None] = {}
    for match in re.finditer(r"<h[1-6]>(.*?)</h[1-6]>", clean, re.DOTALL):
        base = unique = "doc-" + (slug(match[1]) or "part")
        number = 1
        while unique in found:
            number += 1
            unique = f"{base}-{number}"
        found[unique] = None
    # Headings that are not closed within themselves still get one.
    for number in range(len(re.findall(r"<h[1-6]>", clean)) - len(found)):
        found[f"doc-part--{number}"] = None
    return found


def _link(target: str, resolve: Resolve, ids: dict[str, None]) -> tuple[str, str]:
    """Return the markup that begins a link and the markup that ends it."""
    dead = ('<span class="dead">', _DEAD)
    if target.startswith("#"):
        inside = "doc-" + slug(target[1:].replace("_", "-")) if target[1:] else ""
        other = "doc-" + target[1:].lower()
        found = next((each for each in (other, inside) if each in ids), None)
        return (f'<a href="#{html.escape(found)}">', "</a>") if found else ("<span>", "</span>")
    answer = resolve(target)
    if answer is False:
        return dead
    if answer is not None:
        return f'<a href="{html.escape(str(answer))}">', "</a>"
    if re.match(r"(?i)(https?://[^/\s]|mailto:)", target):
        return f'<a href="{html.escape(target)}" rel="noopener nofollow">', "</a>"
    return dead if target else ("<span>", "</span>")


def _picture(attributes: dict[str, str], inside_link: bool) -> str:
    text = html.escape(attributes.get("alt") or "without description")
    source = attributes.get("src", "")
    if inside_link or not re.match(r"(?i)https?://[^/\s]", source):
        return f'<span class="picture">[picture: {text}]</span>'
    return f'<a class="picture" href="{html.escape(source)}" rel="noopener nofollow">[picture: {text}]</a>'
