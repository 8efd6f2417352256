"""Every Python snippet of every document and page of a published hub runs as it stands, in a fresh process."""

import html.parser
import os
import re
import subprocess
import sys

import pytest

FENCE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Blocks(html.parser.HTMLParser):
    """The texts of all <pre> of an HTML page, entities resolved."""

    def __init__(self, text):
        super().__init__()
        self.found, self.depth = [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "pre":
            self.depth += 1
            self.found.append("")

    def handle_endtag(self, tag):
        self.depth -= tag == "pre"

    def handle_data(self, data):
        if self.depth:
            self.found[-1] += data


def snippets(hub):
    """{code: where it stands first} over all documents, and all code blocks of all pages."""
    found = {}
    for path in sorted(hub.rglob("*.md")):
        for code in FENCE.findall(path.read_text()):
            found.setdefault(code.strip(), path.relative_to(hub))
    for path in sorted(hub.rglob("*.html")):
        for code in Blocks(path.read_text()).found:
            if "import " in code:
                found.setdefault(code.strip(), path.relative_to(hub))
    return found


def test_every_snippet_runs(hub, hub_url, tmp_path):
    found = snippets(hub)
    by_page = {}
    for code, where in found.items():
        by_page.setdefault(where, []).append(code)
    documents = [path.relative_to(hub) for path in hub.glob("*/*/*.md")]
    assert documents and set(documents) <= set(by_page), "a module's document without a snippet"
    environment = os.environ | {"TFHUB_CACHE_DIR": str(tmp_path / "cache"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    failures = []
    for where, codes in by_page.items():
        # One process for a page, since importing TensorFlow takes longer than all its snippets; each has names of its own.
        runner = tmp_path / "page.py"
        runner.write_text(
            "\n".join(
                f"exec(compile({code!r}, {f'{where} snippet {n}'!r}, 'exec'), {{}})" for n, code in enumerate(codes, 1)
            )
        )
        result = subprocess.run(
            [sys.executable, runner], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        if result.returncode:
            failures.append(f"{where}:\n{result.stderr[-2000:]}")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("word", ["hub.load(", "hub.KerasLayer(", "trainable=True", "TFSMLayer("])
def test_each_way_of_use_is_shown_for_each_module(hub, word):
    for path in hub.glob("*/*/*.md"):
        if path.parent.name != "collections":
            assert word in path.read_text(), f"{path} shows no {word}"
