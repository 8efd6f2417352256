"""Markdown is shown as GitHub shows it: in every document of the sample, and in what other parsers read otherwise."""

import re

import markdown_it
import pytest

from tests.support.blocks import tree
from tests.support.commands import ROOT
from tools.documents import document as grammar
from tools.documents import rule
from tools.site import rendering, sanitizing

SAMPLE = ROOT / "tests/documents/corpus/assets/docs"
DOCUMENTS = {path.relative_to(SAMPLE).as_posix(): path.read_text(encoding="utf-8") for path in SAMPLE.rglob("*.md")}
# Another implementation of CommonMark, with GitHub's tables and strikethrough.
REFERENCE = markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def shown(body):
    """A body as a page shows it, all links leading to the web."""
    return str(sanitizing.safe(body, lambda address: None))


# Where pages mean to differ from the reference: the reason, and what stands for a node of the reference and for one of ours.


def is_heading(node):
    return re.fullmatch("h[1-6]", node[0])


def heading(node):
    return [("heading", {}, node[2])] * bool(node[2]) if is_heading(node) else [node]


def header_cell(node):
    return [("td" if node[0] == "th" and not node[2] else node[0], *node[1:])]


def picture(node):
    return [f"[picture: {node[1].get('alt') or 'without description'}]"] if node[0] == "img" else [node]


def picture_link(node):
    return node[2] if node[1].get("class") == "picture" else [node]


def web_link(node):
    if node[0] != "a":
        return [node]
    target = node[1].get("href", "")
    return [("a", {"href": target}, node[2])] if node[2] and re.match("(?i)https?://.|mailto:", target) else node[2]


def marked_link(node):
    if node[0] == "span" and node[1].get("class") in (None, "dead"):
        return node[2]
    return [] if node[1].get("class") == "visually-hidden" else web_link(node)


def bare_link(node):
    """Without the links that are bare in the text."""
    if node[0] == "a" and node[1]["href"] in [f"{scheme}{node[2][0]}" for scheme in ("", "http://", "mailto:")]:
        return node[2]
    return [node]


def frame(node):
    return node[2] if node[0] in ("center", "div", "font", "span", "tbody") else [node]


def plain(node):
    return [(node[0], {key: node[1][key] for key in ("href", "start", "colspan") if key in node[1]}, node[2])]


DIFFERENCES = {
    "The page's title is its only h1, so headings go down a level, and skip none; an empty one is left out.": (heading, heading),
    "An empty header cell is no header.": (header_cell, header_cell),
    "A picture would be a request to another server: its description stands for it.": (picture, picture_link),
    "A link that leads nowhere from this page (relative, unknown anchor) is marked, and no link; nor is one without words.": (web_link, marked_link),
    "Bare addresses are links on GitHub and here; the reference leaves them alone.": (bare_link, bare_link),
    "Code is coloured, a table scrolls in a frame of its own; the document's own frames and spans say nothing.": (frame, frame),
    "Other attributes (style, class, align) do not change the structure.": (plain, plain),
}  # fmt: skip


def compared(body):
    """The trees of a body in the reference and on a page, without the differences that are meant."""
    trees = []
    for side, html in enumerate((REFERENCE.render(body), shown(body))):
        steps = [pair[side] for pair in DIFFERENCES.values()]

        def rewrite(node, steps=steps):
            nodes = [node]
            for step in steps:
                nodes = [made for each in nodes for made in (step(each) if isinstance(each, tuple) else [each])]
            return nodes

        trees.append(tree(html, rewrite))
    return trees


@pytest.mark.parametrize("path", DOCUMENTS)
def test_documents_have_the_structure_of_the_reference(path):
    reference, ours = compared(grammar.parse(DOCUMENTS[path]).body or "")
    assert ours == reference


def test_the_validator_sees_the_code_that_is_shown():
    for path, text in DOCUMENTS.items():
        body = grammar.parse(text).body or ""
        seen = [body[start:end].partition("\n")[2] for start, end, _ in rule.fences(body)]
        blocks = [token.content for token in REFERENCE.parse(body) if token.type == "fence"]
        assert [each.split() for each in seen] == [each.split() for each in blocks], path


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("Text\n* a\n* b", "<p>Text</p><ul><li>a</li><li>b</li></ul>"),
        ("Text\n- a\n\nMore\n1. b", "<p>Text</p><ul><li>a</li></ul><p>More</p><ol><li>b</li></ol>"),
        ("* a\n  * b\n    * c\n* d", "<ul><li>a<ul><li>b<ul><li>c</li></ul></li></ul></li><li>d</li></ul>"),
        ("1. a\n   - b\n2. c", "<ol><li>a<ul><li>b</li></ul></li><li>c</li></ol>"),
        ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
        ("* a\n\n  more\n* b", "<ul><li><p>a</p><p>more</p></li><li><p>b</p></li></ul>"),
        ("* a\n  ```\n  x = 1\n\n    y\n  ```\n  b", "<ul><li>a<pre><code>x = 1\n\n  y\n</code></pre>b</li></ul>"),
        ("1. a\n\n   ```sh\n   ls\n   ```\n2. b", "<ol><li><p>a</p><pre><code>ls\n</code></pre></li><li><p>b</p></li></ol>"),
        ("> ```\n> x\n> ```", "<blockquote><pre><code>x\n</code></pre></blockquote>"),
        ("Text\n```\nx\n```\nMore", "<p>Text</p><pre><code>x\n</code></pre><p>More</p>"),
        ("~~~\n```\n~~~", "<pre><code>```\n</code></pre>"),
        ("    x\n\n    y", "<pre><code>x\n\ny\n</code></pre>"),
        ("Text\n\n|a|b|\n|-|-|\n|1|`x \\| y`|", "<p>Text</p><table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td><code>x | y</code></td></tr></tbody></table>"),
        ("Text\na | b\n-|-\n1 | 2", "<p>Text</p><table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td>2</td></tr></tbody></table>"),
        ("a | b\n:-:|-:\n1 | 2", '<table><thead><tr><th class="center">a</th><th class="right">b</th></tr></thead><tbody><tr><td class="center">1</td><td class="right">2</td></tr></tbody></table>'),
        ("a | b\n-|-\n1\n\nText", "<table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td></td></tr></tbody></table><p>Text</p>"),
        ("Text\n## b\nMore", '<p>Text</p><h2 id="doc-b">b</h2><p>More</p>'),
        ("b\n---\nText", '<h2 id="doc-b">b</h2><p>Text</p>'),
        ("##b", "<p>##b</p>"),
        ("~~old~~ new_name_of __it__", "<p><del>old</del> new_name_of <strong>it</strong></p>"),
        ("See https://a.org/b_c_d. www.a.org, me@a.org", '<p>See <a href="https://a.org/b_c_d">https://a.org/b_c_d</a>. <a href="http://www.a.org">www.a.org</a>, <a href="mailto:me@a.org">me@a.org</a></p>'),
        ("<https://a.org> [](https://a.org)", '<p><a href="https://a.org">https://a.org</a> </p>'),
        ("- [ ] a\n- [x] b", "<ul><li>☐ a</li><li>☑ b</li></ul>"),
        ("a[^1]\n\n[^1]: b", "<p>a<sup>1</sup></p><ol><li><p>b ↩</p></li></ol>"),
        ("a  \nb\\\nc\nd", "<p>a<br>b<br>c d</p>"),
        ("x <sub>2</sub> <!-- no --> <kbd>k</kbd>", "<p>x <sub>2</sub>  <kbd>k</kbd></p>"),
        ("<div align='center'>\n\n**a**\n\n</div>", "<p><strong>a</strong></p>"),
        ("<title>a</title> <style>b</style>", "&lt;title&gt;a&lt;/title&gt; &lt;style&gt;b&lt;/style&gt;"),
    ],
)  # fmt: skip
def test_what_parsers_read_in_different_ways(source, expected):
    html = re.sub(r'</?span>| rel="[^"]*"| tabindex="0"|</?div[^>]*>', "", shown(source))
    assert tree(html) == tree(expected)
    assert tree(str(rendering.prose("x <sub>2</sub>\n* a"))) == tree("<p>x <sub>2</sub></p><ul><li>a</li></ul>")


def test_anchors_are_those_of_github():
    body = "## Use it\n\n## Use it\n\n## Use it 1\n\n## Größe & `x`\n\n## ++\n\n"
    body += "[0](#use-it) [1](#use-it-1) [2](#use-it-1-1) [3](#größe--x) [4](#Use_it) [5](#no)"
    html = shown(body)
    assert re.findall(r'id="doc-([^"]*)"', html) == ["use-it", "use-it-1", "use-it-1-1", "größe-x", "part"]
    assert re.findall(r'<a href="#doc-([^"]*)">(\d)', html) == [
        ("use-it", "0"), ("use-it-1", "1"), ("use-it-1-1", "2"), ("größe-x", "3"), ("use-it", "4"),
    ]  # fmt: skip
