"""Each rule on documents that break it and on nothing else; real documents, mutated in every way, never crash a rule."""

import ast
import graphlib
import importlib
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.commands import ROOT
from tests.support.made import tags
from tools.documents import document as grammar
from tools.documents import metadata, reporting, rules
from tools.documents.document import Entry
from tools.documents.rule import DocumentFile, Rule
from tools.documents.rules import check
from tools.documents.tree import Tree

CORPUS = Path(__file__).parent / "corpus/assets/docs"
SAMPLE = {path.relative_to(CORPUS).as_posix(): path.read_bytes().decode() for path in sorted(CORPUS.rglob("*.md"))}

MODULE = """# Module a/b/1

A model.

<!-- asset-path: https://example.org/b/1.tar.gz -->
<!-- task: image-classification -->
<!-- dataset: imagenet-ilsvrc-2012-cls -->
<!-- format: saved_model_2 -->
<!-- fine-tunable: true -->
<!-- license: mit -->
<!-- colab: https://colab.research.google.com/x -->

## Overview

See [the collection](https://tfhub.dev/a/collections/c/1) and https://tfhub.dev/a/b/1. It is by https://tfhub.dev/a.

```python
layer = hub.KerasLayer("https://tfhub.dev/a/b/1", trainable=True)
other = hub.load("https://tfhub.dev/a/b-large/1")
```

    not a fence:  ```

Last words.
"""
LITE = """# Lite a/b/1

A smaller model.

<!-- parent-model: a/b/1 -->
<!-- asset-path: https://example.org/b/1.tflite -->

## Overview

```python
path = "https://tfhub.dev/a/lite-model/b/1"
```
"""
TFJS = """# Tfjs a/b/1

A model for browsers.

<!-- parent-model: a/b/1 -->
<!-- asset-path: https://example.org/b/1js.tar.gz -->
<!-- demo: https://example.org/demo -->

## Overview
"""
COLLECTION = """# Collection a/c/1

Models.

<!-- task: image-classification -->

## Models

| name | top-1 |
|:---|---:|
| [b](https://tfhub.dev/a/b/1) | 1 |
| b-large | 2 |

* [b](https://tfhub.dev/a/b/1)
* [b-large](https://tfhub.dev/a/b-large), [the Lite one](https://tfhub.dev/a/lite-model/b/1)
"""
PUBLISHER = """# Publisher a

A publisher.

[![Icon URL]](https://example.org/logo.png)

## More
"""
PATHS = {
    "module": "a/models/b/1.md",
    "large": "a/b-large/2.md",
    "lite": "a/b/lite/1.md",
    "tfjs": "a/b/tfjs/1.md",
    "collection": "a/collections/c/1.md",
    "publisher": "a/a.md",
}
TEXTS = {"module": MODULE, "lite": LITE, "tfjs": TFJS, "collection": COLLECTION, "publisher": PUBLISHER}
HUB = Tree(Path("."), tags=tags(), paths={*PATHS.values(), "a/b-large/1.md"})


def found(text, path, hub=HUB):
    """{(rule, line)} of a document, and every message and fix not empty."""
    problems = list(check(DocumentFile(path, path, text), hub))
    assert all(message and fix and "\n" not in message for _, _, message, fix in problems)
    assert all(1 <= line <= text.count("\n") + 1 for _, line, _, _ in problems)
    return {(rule.name, line) for rule, line, _, _ in problems}


@pytest.mark.parametrize("name", TEXTS)
def test_good_document_breaks_nothing(name):
    assert found(TEXTS[name], PATHS[name]) == set()


# (document, what is replaced, by what, the rule that must say so, its line)
BREAKS = [
    ("module", "\n", "\r\n", "crlf", 1),
    ("module", "Last words.\n", "Last words.\r\n", "crlf", 24),
    ("module", "# Module a/b/1", "# Module A/b/1", "handle", 1),
    ("module", "# Module a/b/1", "# Module a/b/01", "handle", 1),
    ("module", "# Module a/b/1", "", "handle", 1),
    ("publisher", "# Publisher a", "# Publisher a/b", "handle", 1),
    ("module", "A model.\n\n", "", "description", 3),
    ("module", "\nA model.", "\n\nA model.", "description", 3),
    ("publisher", PUBLISHER, "# Publisher a", "description", 1),
    ("module", "<!-- license: mit -->", "<!--license: mit-->", "metadata-line", 10),
    ("module", "<!-- license: mit -->", "license: mit", "metadata-line", 10),
    ("module", "<!-- license: mit -->", "<!-- license -->", "metadata-line", 10),
    ("module", "<!-- license: mit -->\n", "<!-- license: mit --> ", "metadata-line", 10),
    ("module", "A model.\n", "A model.\n\nMore of it.\n", "metadata-line", 5),
    ("module", "# Module a/b/1", "# Module a/b/1 ", "trailing-blanks", 1),
    ("module", "<!-- license: mit -->", "<!-- license: mit -->\t", "trailing-blanks", 10),
    ("module", "<!-- format: saved_model_2 -->\n", "", "required-metadata", 5),
    ("lite", "<!-- parent-model: a/b/1 -->\n", "", "required-metadata", 5),
    ("collection", "<!-- task: image-classification -->\n", "", "required-metadata", 4),
    ("module", "<!-- license: mit -->", "<!-- licence: mit -->", "unknown-metadata", 10),
    ("publisher", "[![Icon", "<!-- task: image-classification -->\n[![Icon", "unknown-metadata", 5),
    ("module", "<!-- format: ", "<!-- format: hub -->\n<!-- format: ", "repeated-metadata", 9),
    ("module", "<!-- task: ", "<!-- task: image-classification -->\n<!-- task: ", "duplicate-metadata", 7),
    ("module", "imagenet-ilsvrc-2012-cls", "imagenet-ilsvrc-2012", "vocabulary", 7),
    ("module", "license: mit", "license: MIT", "vocabulary", 10),
    ("module", "task: image-classification", "task: image-guessing", "vocabulary", 6),
    ("module", "task: image-classification", "task: classification", "task-domain", 6),
    ("module", "format: saved_model_2", "format: saved_model_3", "metadata-value", 8),
    ("module", "https://colab.research.google.com/x", "https://colab.example.org/x", "metadata-value", 11),
    ("tfjs", "demo: https:", "demo: http:", "metadata-value", 7),
    ("module", "fine-tunable: true", "fine-tunable: True", "fine-tunable", 9),
    ("module", "fine-tunable: true", "fine-tunable: yes", "fine-tunable", 9),
    ("module", "1.tar.gz", "1.zip", "asset-path", 5),
    ("module", "1.tar.gz", "1.tar", "asset-path", 5),
    ("module", "https://example.org/b/1.tar.gz", "b.tar.gz", "asset-path", 5),
    ("module", "https://example.org/b/1.tar.gz", "gs://bucket/b.tar.gz", "asset-path", 5),
    ("lite", "1.tflite", "1.tar.gz", "asset-path", 6),
    ("tfjs", "1js.tar.gz", "1js.tflite", "asset-path", 6),
    ("module", "https://example.org/b/1.tar.gz", "legacy", "legacy-asset-path", 5),
    ("module", "<!-- license: mit -->", "<!-- license: mit-->", "metadata-spacing", 10),
    ("module", "<!-- license: mit -->", "<!-- license:  mit -->", "metadata-spacing", 10),
    ("module", "<!-- license: mit -->\n", "", "licence-missing", 5),
    ("module", "# Module a/b/1", "# Module a/b/2", "document-path", 1),
    ("lite", "# Lite a/b/1", "# Tfjs a/b/1", "document-path", 1),
    ("collection", "# Collection a/c/1", "# Collection a/c/2", "document-path", 1),
    ("publisher", "# Publisher a", "# Publisher b", "document-path", 1),
    ("collection", COLLECTION[COLLECTION.index("| name") :], "None.\n", "collection-link", 7),
    ("collection", "a/b-large)", "a/b-huge)", "collection-link", 15),
    ("collection", "a/lite-model/b/1", "a/lite-model/b/2", "collection-link", 15),
    ("collection", "lite-model/b/1", "tfjs-model/c/1", "collection-link", 15),
    ("module", "a/collections/c/1", "a/collections/d/1", "dead-link", 15),
    ("module", "a/b/1. It", "a/b/3. It", "dead-link", 15),
    ("module", "(https://tfhub.dev/a/collections", "(https://tfhub.dev/z/collections", "unknown-publisher", 15),
    ("lite", "parent-model: a/b/1", "parent-model: a/b/3", "parent-model", 5),
    ("lite", "parent-model: a/b/1", "parent-model: a/q", "parent-model", 5),
    ("module", "(https://tfhub.dev/a/col", "((https://tfhub.dev/a/col", "malformed-link", 15),
    ("module", "](https://tfhub.dev/a/col", "] (https://tfhub.dev/a/col", "malformed-link", 15),
    ("module", "](https://tfhub.dev/a/col", "](https//tfhub.dev/a/col", "malformed-link", 15),
    ("module", "c/1) and", "c/1 and", "malformed-link", 15),
    ("module", '"https://tfhub.dev/a/b/1"', '"https://tfhub.dev/a/b-large/2"', "snippet-handle", 18),
    ("module", '"https://tfhub.dev/a/b/1"', "'https://tfhub.dev/a/b-large/2'", "snippet-handle", 18),
    ("lite", "lite-model/b/1", "b-large/1", "snippet-handle", 11),
    ("module", "```\n\n", "\n", "unclosed-code", 17),
    ("collection", "* [b-large]", "* [other]", "collection-table", 12),
    ("module", "Last words.", "Last words. ", "text-trailing-blanks", 24),
    ("module", "A model.", "A model.   ", "text-trailing-blanks", 3),
]


@pytest.mark.parametrize(("name", "old", "new", "rule", "line"), BREAKS)
def test_rule_is_broken(name, old, new, rule, line):
    text = TEXTS[name]
    assert old in text
    broken = text.replace(old, new, 1 if old != "\n" else -1)
    if name == "collection" and rule == "collection-table":
        broken = broken.replace("tfhub.dev/a/b-large)", "example.org/x)").replace(
            "| b-large | 2 |", "| b-large | 2 |\n| [lite](https://tfhub.dev/a/lite-model/b/1) | 3 |"
        )
    assert (rule, line) in found(broken, PATHS[name])


def test_every_rule_over_one_document_is_broken_here():
    assert {rule for *_, rule, _ in BREAKS} == {each.name for each in rules.RULES.values() if each.check}


@pytest.mark.parametrize("rule", sorted(each.name for each in rules.RULES.values() if each.check))
def test_rule_that_is_off_says_nothing(rule):
    name, old, new, _, _ = next(each for each in BREAKS if each[3] == rule)
    page = DocumentFile("x", PATHS[name], TEXTS[name].replace(old, new, 1))
    assert rule not in {each.name for each, *_ in check(page, HUB, rules.active(off=(rule,)))}


@pytest.mark.parametrize(
    "text",
    [
        "https://tfhub.dev/a/b/1.",
        "https://tfhub.dev/a/b/1, and",
        "https://tfhub.dev/a/b/1; https://tfhub.dev/a/b/1: https://tfhub.dev/a/b/1!",
        "<https://tfhub.dev/a/b/1>",
        "**https://tfhub.dev/a/b/1**",
        "(https://tfhub.dev/a/b/1)",
        "https://tfhub.dev/a/b/1?tf-hub-format=compressed",
        "https://tfhub.dev/a/b/1#usage",
        "https://tfhub.dev/a/b",
        "https://tfhub.dev/a/b/",
        "https://tfhub.dev/a/b/{version}",
        "https://tfhub.dev/a/$NAME/1",
        "https://tfhub.dev/a/...",
        "https://tfhub.dev/a",
        "https://tfhub.dev/terms",
        "https://tfhub.dev/",
        "[x]( https://tfhub.dev/a/b/1 )",
        "[x](https://example.org/(y)/z) [1] (https://example.org)",
        '[x](https://example.org "title") more',
        "[x](\n    https://example.org)",
        "line break  \nthere",
        "```python\nx['y'](\n(('https://example.org'))\n```",
        "~~~\nhub.load('x')\n~~~",
        "* ```\n  code\n  ```",
    ],
)
def test_what_is_right_is_left_alone(text):
    assert found(MODULE + f"\n{text}\n", PATHS["module"]) == set()


def test_the_files_of_a_module_are_its_own():
    """A page links and loads the files in the folder of its handle, and nobody calls that a dead link or another model."""
    hub = Tree("https://hub.example", paths={"a/a.md", "a/b/1.md", "a/b/lite/1.md"})
    for kind in ("Module", "Lite"):
        own = hub.own_addresses(grammar.Document(kind, "a", "b", 1))
        assert {"a/b/1/portable.onnx", "a/b/1/float32.tflite", "a/b/1/int8.tflite"} <= set(own)
        assert "a/b/2/portable.onnx" not in own
    assert hub.find("a/b/1/portable.onnx") and hub.find("a/b/1/float16.tflite")
    assert hub.find("a/c/1/portable.onnx") is False and hub.find("a/b/1/other.onnx") is False


def test_code_of_a_lite_page_may_name_its_own_addresses():
    for own in ("a/lite-model/b/1", "a/b/1", "a/b/lite/1"):
        assert found(LITE.replace("a/lite-model/b/1", own), PATHS["lite"]) == set()


def test_fixes_suggest_what_was_meant():
    def fix(text, rule):
        return next(
            fix for each, _, _, fix in check(DocumentFile("x", PATHS["module"], text), HUB) if each.name == rule
        )

    assert "`license`" in fix(MODULE.replace("license", "licence"), "unknown-metadata")
    assert "`image-classification`" in fix(MODULE.replace("image-classification", "image-classificaton"), "vocabulary")
    assert fix(MODULE.replace("a/b/1. It", "a/b-large/7. It"), "dead-link") == "link one of its versions: 1, 2"


# Real documents, mutated

REAL = Tree(CORPUS, tags=tags(), paths=set(SAMPLE))
junk = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["\r", "\x00", "<!--", "-->", "#", "```", "((https://", "](", "|", "\u0661", "&zwnj;", "\ufeff"]),
)


@st.composite
def mutations(draw):
    path = draw(st.sampled_from(sorted(SAMPLE)))
    text = SAMPLE[path]
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, min(len(text), 1500)))
        how = draw(st.sampled_from(["insert", "delete", "cut", "swap", "repeat"]))
        end = min(len(text), start + draw(st.integers(1, 200)))
        if how == "insert":
            text = text[:start] + draw(junk) + text[start:]
        elif how == "delete":
            text = text[:start] + text[end:]
        elif how == "cut":
            text = text[:start]
        elif how == "swap":
            lines = text.split("\n")
            one, other = (draw(st.integers(0, min(len(lines) - 1, 40))) for _ in range(2))
            lines[one], lines[other] = lines[other], lines[one]
            text = "\n".join(lines)
        else:
            text = text[:start] + text[start:end] * 3 + text[end:]
    return path, text


@settings(max_examples=300, deadline=None)
@given(mutations())
def test_mutated_documents_never_crash_a_rule(mutation):
    path, text = mutation
    found(text, path, REAL)


HEADED = sorted(path for path, text in SAMPLE.items() if not text.startswith("# Publisher"))


@pytest.mark.parametrize("path", HEADED)
def test_every_mutation_that_breaks_a_rule_of_the_format_is_reported(path):
    """Line by line through the head of a real document: taken out, misspelt, moved, with a blank or a carriage return."""
    text = SAMPLE[path]
    before = {rule for rule, _ in found(text, path, REAL)}
    errors = {each.name for each in rules.RULES.values() if each.severity == "error"}
    assert not before & errors
    lines = text.split("\n")
    page = DocumentFile(path, path, text)
    required = metadata.FIELDS[page.document.kind].required
    entries = {
        number: each
        for number, each in enumerate(page.document.metadata, page.document.metadata_line)
        if isinstance(each, Entry)
    }

    def broken(changed, rule, line=None):
        said = found("\n".join(changed), path, REAL)
        assert rule in {name for name, _ in said}, (rule, said)
        assert line is None or (rule, line) in said

    broken(["# Model x/y/1", *lines[1:]], "handle", 1)
    broken([lines[0] + " ", *lines[1:]], "trailing-blanks", 1)
    broken([lines[0] + "\r", *lines[1:]], "crlf", 1)
    broken([*lines[0].rsplit("/", 1)[:1], *lines[1:]], "handle", 1)
    for number, each in entries.items():
        above, line, below = lines[: number - 1], lines[number - 1], lines[number:]
        alone = len(page.document.values(each.key)) == 1
        if each.key in required and alone:
            broken([*above, *below], "required-metadata")
        broken([*above, line.replace(each.key, each.key + "x", 1), *below], "unknown-metadata", number)
        broken([*above, line + " ", *below], "trailing-blanks", number)
        if number > page.document.metadata_line:  # else it becomes a line of the description
            broken([*above, line[5:], *below], "metadata-line", number)
        broken([*above, line.replace("<!-- ", "<!--", 1), *below], "metadata-line", number)
        if each.key in metadata.VOCABULARIES:
            broken([*above, f"<!-- {each.key}: no-such-value -->", *below], "vocabulary", number)
        if each.key not in metadata.REPEATABLE:
            broken([*above, line, f"<!-- {each.key}: other -->", *below], "repeated-metadata", number + 1)
        if each.key == "asset-path":
            broken([*above, "<!-- asset-path: https://example.org/x.zip -->", *below], "asset-path", number)


@pytest.mark.parametrize(
    "text",
    [
        "](https://" + "(" * 50_000,
        "](https://x" + "(y)" * 50_000 + " z",
        "[" * 50_000 + "](https://tfhub.dev/" + "a/" * 50_000,
        "| " * 100_000,
        ("|" + " " * 200 + "\n") * 500,
        "`" * 100_000 + "\n" + "```\n" * 20_000,
        ("] " + " " * 50 + "(https://x\n") * 2_000,
        "https://tfhub.dev/a/b" + "." * 100_000,
        '"https://tfhub.dev/a/b/1" ' * 5_000,
        " \n" * 50_000,
    ],
)
@pytest.mark.parametrize("kind", ["module", "collection"])
def test_long_nonsense_takes_no_time(text, kind):
    found(TEXTS[kind] + text, PATHS[kind])
    found(TEXTS[kind] + "\n```\n" + text, PATHS[kind])


# The list of rules


def test_every_rule_that_a_module_defines_is_in_the_list_once():
    modules = [
        importlib.import_module(f"tools.documents.{each.stem}") for each in Path(rules.__file__).parent.glob("*.py")
    ]
    found = {id(each): each for module in modules for each in vars(module).values() if isinstance(each, Rule)}
    defined = list(found.values())
    listed = [each for group in rules.GROUPS.values() for each in group]
    assert sorted(each.name for each in defined) == sorted(each.name for each in listed)
    assert len({each.name for each in listed}) == len(listed) == len(rules.RULES)
    for each in listed:
        assert each.severity in ("error", "warning") and each.summary and each.fix
        assert bool(each.check) == bool(each.kinds), each.name


def test_the_documented_rules_are_those_of_the_validator():
    written = (ROOT / "docs/rules.md").read_text(encoding="utf-8")
    assert written == reporting.rules("markdown") + "\n", (
        "run `python tools/validate.py --rules --format markdown > docs/rules.md`"
    )
    assert re.findall(r"^### `([\w-]+)` \((error|warning)(?:; .*)?\)$", written, re.M) == [
        (each.name, each.severity) for group in rules.GROUPS.values() for each in group
    ]


@pytest.mark.parametrize("room", ["documents", "site"])
def test_modules_of_a_room_import_each_other_in_no_circle_and_at_the_top(room):
    graph = {}
    for path in (ROOT / "tools" / room).glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inner = [n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)]
        own = [n for n in tree.body if isinstance(n, ast.ImportFrom) and n.module.startswith(f"tools.{room}")]
        assert not [n for n in inner if isinstance(n, ast.ImportFrom) and n.module.startswith("tools.")], path
        graph[path.stem] = {n.module.rpartition(".")[2] for n in own if n.module != f"tools.{room}"}
        graph[path.stem] |= {each.name for n in own if n.module == f"tools.{room}" for each in n.names}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(graph)  # raises CycleError
