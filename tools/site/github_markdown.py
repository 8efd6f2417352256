"""Turn Markdown into HTML as GitHub shows it, bounded in time and memory; the HTML is still to be sanitised.

    html = to_html("* a\\n  * ~~b~~", tags={"ul", "li", "del"})

The parser is cmark-gfm, GitHub's own, which takes time in proportion to the text. What comes after it does not: browsers' algorithm
of building a tree, which the sanitiser follows, takes quadratic time for deep or misnested elements. HTML that could make it slow
is therefore refused here, before it gets there.
"""

import html
import re
from collections.abc import Container

from tools.site import cmark

# Limits of one text. Of tfhub.dev's 2,819 documents, none has more than 14,109 characters, a depth of 7 and a weight of 5,307.
MAXIMUM_CHARACTERS = 500_000
MAXIMUM_DEPTH = 100
MAXIMUM_WEIGHT = 250_000  # of all tags, each counted with the elements that are open there
MAXIMUM_ATTRIBUTES = 100  # of one element: with more of them, its tag is dropped

_BOXES = (
    ('<input type="checkbox" disabled="" />', "☐"),
    ('<input type="checkbox" checked="" disabled="" />', "☑"),
)
# Tokens of HTML as its standard has them: comment, tag, what looks like one, and a tag that never ends. Possessive quantifiers
# never try again, so that reading a text takes time in proportion to its length.
_BLANK = r"\t\n\f\r\ "
_ATTRIBUTE = (
    rf"""[^{_BLANK}/>][^{_BLANK}/>=]*+(?:[{_BLANK}]*+=[{_BLANK}]*+(?:"[^"]*+"|'[^']*+'|(?!["'])[^{_BLANK}>]*+))?+"""
)
_ATTRIBUTES = re.compile(_ATTRIBUTE)
_TOKEN = re.compile(
    rf"""<!-->|<!--->|<!--(?s:.*?)(?:--!?>|\Z)
    |<(?P<end>/?)(?P<name>[a-zA-Z][^{_BLANK}/>]*+)(?P<attributes>(?:[{_BLANK}/]++|{_ATTRIBUTE})*+)>
    |<[!?/][^>]*+>?
    |<[a-zA-Z](?s:.*)
    |<""",
    re.VERBOSE,
)
# GitHub shows these tags as text, since each changes how the HTML behind it is read.
_SHOWN = {"title", "textarea", "style", "xmp", "iframe", "noembed", "noframes", "script", "plaintext"}
_VOID = {"br", "hr", "img", "wbr"}
# Ends that may be left out: an element of a group ends one of the same group, and an element's end what is listed beside it.
_GROUPS = ({"p"}, {"li"}, {"dt", "dd"}, {"td", "th"}, {"tr"}, {"thead", "tbody", "tfoot"})
_SIBLINGS = {name: group for group in _GROUPS for name in group}
_ENDED = {
    **{name: {"p"} for name in ("li", "dt", "dd", "td", "th", "blockquote", "details", "div")},
    **{name: {"p", "li"} for name in ("ul", "ol")},
    "dl": {"p", "dt", "dd"},
    "tr": {"p", "td", "th"},
    **{name: {"p", "td", "th", "tr"} for name in ("thead", "tbody", "tfoot")},
    "table": {"p", "td", "th", "tr", "thead", "tbody", "tfoot"},
}


class TooComplexError(ValueError):
    """A text breaks a limit. The message says which."""


def to_html(source: str, tags: Container[str]) -> str:
    """Return Markdown as HTML with no elements but `tags`; their attributes are still as the text has them.

    Raises:
      TooComplexError: the text breaks a limit.
    """
    if len(source) > MAXIMUM_CHARACTERS:
        raise TooComplexError(f"it has {len(source):,} characters, and {MAXIMUM_CHARACTERS:,} are the most")
    made = cmark.convert(source.encode("utf-8", "replace").decode())  # strings from JSON may hold what UTF-8 cannot say
    for box, sign in _BOXES:
        made = made.replace(box, sign)
    return _Filter(tags).filtered(made)


class _Filter:
    """Drops comments and elements that are not wanted from HTML, and refuses HTML that takes long to make a tree of.

    What is open is counted so that it is never fewer than in the tree: an element is closed by its own end tag alone, and only when
    all that was opened within it is closed.
    """

    def __init__(self, tags: Container[str]):
        self._tags = tags
        self._open: list[str] = []
        self._weight = 0

    def filtered(self, made: str) -> str:
        """Return HTML in which every `<` begins a tag that was counted."""
        return _TOKEN.sub(self._token, made)

    def _token(self, match: re.Match[str]) -> str:
        name = match["name"]
        if name is None:
            return "" if match[0].startswith(("<!", "<?", "</")) else html.escape(match[0])
        name = name.lower()
        if name not in self._tags or not name.isascii():
            return html.escape(match[0]) if name in _SHOWN else ""
        if len(match["attributes"]) > MAXIMUM_ATTRIBUTES and (
            len(_ATTRIBUTES.findall(match["attributes"])) > MAXIMUM_ATTRIBUTES
        ):
            return ""
        self._weight += 1 + len(self._open)
        if self._weight > MAXIMUM_WEIGHT:
            raise TooComplexError(
                f"its tags, each counted with the elements around it, are more than {MAXIMUM_WEIGHT:,}"
            )
        if match["end"]:
            self._close({name})
        elif name not in _VOID:
            self._close(_SIBLINGS.get(name, set()))
            self._open.append(name)
            if len(self._open) > MAXIMUM_DEPTH:
                raise TooComplexError(f"its elements lie more than {MAXIMUM_DEPTH} deep in each other")
        return match[0]

    def _close(self, names: Container[str]) -> None:
        """Close the last element of one of the names, and what its end also ends, if no other element is open in it."""
        within: set[str] = set()
        for position in range(len(self._open) - 1, -1, -1):
            name = self._open[position]
            if name in names:
                if within <= _ENDED.get(name, set()):
                    del self._open[position:]
                return
            within.add(name)
