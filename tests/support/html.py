"""Read HTML pages: their elements, whether all are closed in order, and their visible text."""

import html.parser

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
VOID |= {"rect", "path"}  # of SVG, written with a slash


class Reader(html.parser.HTMLParser):
    """Elements with attributes, whether all are closed in order, and the visible text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.misnested, self.words = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.misnested.append(tag)

    def handle_data(self, data):
        self.words.append(data)

    @property
    def programs(self):
        """The addresses of what runs; a block of data does not."""
        return [script.get("src", "") for script in self.all("script") if script.get("type") != "application/ld+json"]

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    @property
    def ids(self):
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]
