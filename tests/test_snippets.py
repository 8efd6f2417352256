"""Every Python snippet of every document and page of a published hub runs as it stands, outside of pytest."""

import html.parser
import json
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


# One process for all, since importing TensorFlow and Keras takes longer than most snippets; each has names and a policy of its own.
RUNNER = """
import json, sys, traceback

failed = False
for where, code in json.load(sys.stdin):
    print("began", where, flush=True)
    try:
        exec(compile(code, where, "exec"), {"__name__": "__main__"})
    except BaseException:
        failed = True
        print(f"{where}:", *traceback.format_exc().splitlines()[-20:], sep="\\n", file=sys.stderr)
    if "tf_keras" in sys.modules:
        sys.modules["tf_keras"].mixed_precision.set_global_policy("float32")
sys.exit(failed)
"""


def test_every_snippet_runs(hub, hub_url, tmp_path):
    found = snippets(hub)
    by_page = {}
    for code, where in found.items():
        by_page.setdefault(where, []).append(code)
    documents = [path.relative_to(hub) for path in hub.glob("*/*/*.md")]
    assert documents and set(documents) <= set(by_page), "a module's document without a snippet"
    named = [(f"{where} snippet {n}", code) for where, codes in by_page.items() for n, code in enumerate(codes, 1)]
    environment = os.environ | {"TFHUB_CACHE_DIR": str(tmp_path / "cache"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(named),
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    began = [line.removeprefix("began ") for line in result.stdout.splitlines() if line.startswith("began ")]
    assert began == [name for name, _ in named], f"the process ended in {began[-1:]}:\n{result.stderr[-4000:]}"
    assert result.returncode == 0, result.stderr


WORDS = ["hub.load(", "hub.KerasLayer(", "trainable=True", "TFSMLayer(", "trainable=False", "safe_mode=False"]
WORDS += ['dtype="float32")', "custom_objects=", "tf.lite.TFLiteConverter", "for image in images"]


@pytest.mark.parametrize("word", WORDS)
def test_each_way_of_use_is_shown_for_each_module(hub, word):
    for path in hub.glob("*/*/*.md"):
        if path.parent.name != "collections":
            assert word in path.read_text(), f"{path} shows no {word}"
