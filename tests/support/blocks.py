"""Read HTML as a tree of blocks, so that two ways of showing the same Markdown can be compared.

    tree("<ul><li>a <b>c</b></li></ul>")       # [("ul", {}, [("li", {}, ["a ", ("b", {}, ["c"])])])]

A node is its name, its attributes and what is in it: nodes, and strings in which blanks count only within code and between words.
"""

import html.parser
import re

VOID = {"br", "hr", "img", "input"}
INLINE = {"a", "b", "code", "del", "em", "i", "img", "kbd", "span", "strong", "sub", "sup"}


class _Parser(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.nodes = []
        self._open = [("", {}, self.nodes)]
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        node = (tag, dict(attributes), [])
        self._open[-1][2].append(node)
        if tag not in VOID:
            self._open.append(node)

    def handle_endtag(self, tag):
        if tag in [name for name, *_ in self._open]:
            while self._open.pop()[0] != tag:
                pass

    def handle_data(self, data):
        self._open[-1][2].append(data)


def tree(text, rewrite=lambda node: [node]):
    """Return the nodes of some HTML; `rewrite` gets each node, the innermost first, and returns what stands in its place."""
    return _stripped(_rewritten(_Parser(text).nodes, rewrite, in_code=False))


def _rewritten(nodes, rewrite, in_code):
    found = []
    for node in nodes:
        if isinstance(node, str):
            found.append(node)
        else:
            name, attributes, inside = node
            inside = _rewritten(inside, rewrite, in_code or name == "pre")
            found += rewrite((name, attributes, inside if name in INLINE or in_code else _stripped(inside)))
    return _joined(found, in_code)


def _stripped(nodes):
    """Return what is in a block, without blanks at its ends."""
    for end, strip in ((0, str.lstrip), (-1, str.rstrip)):
        if nodes and isinstance(nodes[end], str):
            nodes[end] = strip(nodes[end])
    return [node for node in nodes if node]


def _joined(nodes, in_code):
    """Return the nodes with neighbouring strings as one, and without those that are blank."""
    joined = []
    for node in nodes:
        if isinstance(node, str) and joined and isinstance(joined[-1], str):
            joined[-1] += node
        else:
            joined.append(node)
    if in_code:
        return joined
    return [node for node in (_squeezed(joined, position) for position in range(len(joined))) if node]


def _squeezed(nodes, position):
    """Return a node; a string with single blanks, and none beside a block."""
    node = nodes[position]
    if not isinstance(node, str):
        return node
    node = re.sub(r"\s+", " ", node)
    before, after = nodes[position - 1 : position], nodes[position + 1 : position + 2]
    node = node.lstrip() if before and before[0][0] not in INLINE else node
    return node.rstrip() if after and after[0][0] not in INLINE else node
