"""The grammar: real documents and invented ones go through it without loss, and every part knows its line."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.documents import document
from tools.documents.document import Document, Entry, parse, render

CORPUS = Path(__file__).parent / "corpus/assets/docs"
SAMPLE = sorted(path.relative_to(CORPUS).as_posix() for path in CORPUS.rglob("*.md"))
KINDS_IN_SAMPLE = {"Module", "Placeholder", "Lite", "Tfjs", "Coral", "Collection", "Publisher"}


def corpus_files():
    """The sample, or a whole checkout of tfhub.dev where HUBPRESS_CORPUS names one."""
    checkout = os.environ.get("HUBPRESS_CORPUS")
    return sorted((Path(checkout) / "assets/docs" if checkout else CORPUS).rglob("*.md"))


@pytest.mark.parametrize("path", SAMPLE)
def test_real_document_is_read_and_written_byte_for_byte(path):
    text = (CORPUS / path).read_bytes().decode()
    read = parse(text)
    assert render(read) == text
    assert path in read.paths
    assert read.description and all(line.strip() for line in read.description)


def test_whole_corpus_is_read_and_written_byte_for_byte():
    files = corpus_files()
    assert len(files) >= 60
    kinds = set()
    for path in files:
        text = path.read_bytes().decode()
        read = parse(text)
        assert render(read) == text, path
        kinds.add(read.kind)
    assert kinds == KINDS_IN_SAMPLE


@pytest.mark.parametrize(
    ("line", "kind", "publisher", "name", "version"),
    [
        ("# Module google/bert/1", "Module", "google", "bert", 1),
        ("# Module google/a/b-c/d.e_F/12", "Module", "google", "a/b-c/d.e_F", 12),
        ("# Module vtab/&zwnj;sup-100/1", "Module", "vtab", "sup-100", 1),
        ("# Lite google/aiy/vision/birds_V1/3", "Lite", "google", "aiy/vision/birds_V1", 3),
        ("# Tfjs a/b/default/1", "Tfjs", "a", "b/default", 1),
        ("# Coral a/b/1", "Coral", "a", "b", 1),
        ("# Placeholder a/b/2", "Placeholder", "a", "b", 2),
        ("# Collection a/q&amp;a/1", "Collection", "a", "q&amp;a", 1),
        ("# Publisher ml-kit", "Publisher", "ml-kit", "", None),
    ],
)
def test_handles(line, kind, publisher, name, version):
    read = parse(f"{line}\n\nText.\n")
    assert (read.kind, read.publisher, read.name, read.version) == (kind, publisher, name, version)
    assert read.handle == (f"{publisher}/{name}/{version}" if name else publisher)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "is empty"),
        ("Module google/bert/1", "a kind and a handle"),
        ("## Module google/bert/1", "a kind and a handle"),
        ("# Model google/bert/1", "'Model' is no kind"),
        ("# module google/bert/1", "'module' is no kind"),
        ("#", "is no kind"),
        ("# Module", "single blanks"),
        ("# Module  google/bert/1", "single blanks"),
        (" # Module google/bert/1", "single blanks"),
        ("# Module google/bert /1", "single blanks"),
        ("# Module Google/bert/1", "'Google' is no publisher"),
        ("# Module google/bert", "name and a version"),
        ("# Module google/bert/one", "name and a version"),
        ("# Module google/bert/1/", "name and a version"),
        ("# Module google/1", "name and a version"),
        ("# Module google/../1", "'..' is no part"),
        ("# Module google/a/./1", "'.' is no part"),
        ("# Module google/a//1", "'' is no part"),
        ("# Module google/q&a/1", "'q&a' is no part"),
        ("# Module google/bärt/1", "'bärt' is no part"),
        ("# Module google/bert/\u0661", "name and a version"),
        ("# Module google/bert/" + "1" * 5000, "name and a version"),
        ("# Publisher google/bert/1", "not a publisher alone"),
        ("# Publisher a b", "single blanks"),
        ("# Collection google/a b/1", "single blanks"),
    ],
)
def test_no_handles(line, said):
    read = parse(f"{line}\n\nText.\n")
    assert read.kind == "" and read.handle == "" and read.paths == []
    message, fix = document.explain_heading(line)
    assert said in message and fix
    assert render(read) == f"{line}\n\nText.\n"


def test_every_part_knows_its_line():
    text = (
        "# Module a/b/1\n\nOne.\nTwo.\n\n<!-- task: x -->\n[![Icon URL]](http://x)\n<!-- task: y -->\n\n# Body\nmore\n"
    )
    read = parse(text)
    lines = text.split("\n")
    assert lines[read.description_line - 1] == "One."
    assert lines[read.line_of("task", "y") - 1] == "<!-- task: y -->"
    assert lines[read.body_line - 1] == "# Body"
    assert lines[read.line_at(read.body.index("more")) - 1] == "more"
    assert read.values("task") == ["x", "y"] and read.value("task") == "x" and read.value("format") is None
    assert [each for each in read.metadata if isinstance(each, str)] == ["", "[![Icon URL]](http://x)", ""]


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        ("<!-- task: x -->", Entry("task", "x")),
        ("<!-- task:x-->", Entry("task", "x", "", "")),
        ("<!-- two words: a: b -->", Entry("two words", "a: b")),
        ("<!--  task: x -->", Entry(" task", "x")),
        ("<!-- task:  x\t--> \r", Entry("task", "x", "  ", "\t", " \r")),
        ("<!-- task: -->", None),
        ("<!-- : x -->", None),
        ("<!-- task x -->", None),
        ("<!-- täsk: x -->", None),
        ("<!--task: x-->", None),
        ("<!-- task: x --> more", None),
        ("<!-- task: x", None),
        ("<!-- -->", None),
    ],
)
def test_metadata_lines(line, entry):
    read = parse(f"# Module a/b/1\n\nText.\n{line}\n")
    assert read.metadata[0] == (entry if entry else line)
    assert render(read) == f"# Module a/b/1\n\nText.\n{line}\n"


def test_heads_of_any_length():
    tags = [f"<!-- language: l{i} -->" for i in range(300)]
    text = "\n".join(["# Module a/b/1", "", *["Text."] * 100, "", *tags, "", "## Body", "last"])
    read = parse(text)
    assert len(read.entries) == 300 and len(read.description) == 100 and read.body == "## Body\nlast"
    assert render(read) == text


# Documents as they are, and texts that are nearly documents

words = st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=12)
fragments = st.sampled_from(
    [
        "# Module a/b/1",
        "# Publisher a",
        "# Collection a/b&c/1",
        "# Module vtab/&zwnj;x/01 ",
        "",
        " ",
        "\r",
        "Text.",
        "<!-- task: x -->",
        "<!-- task: x-->\t",
        "<!--",
        "-->",
        "[![Icon URL]](x)",
        "## Overview",
        "```",
        "\ufeff",
        "\u2028",
        "\x0b",
    ]
)
texts = st.lists(st.one_of(fragments, words), max_size=70).map("\n".join)


@settings(max_examples=400, deadline=None)
@given(st.one_of(texts, st.text()))
def test_any_text_is_read_and_written_byte_for_byte(text):
    read = parse(text)
    assert render(read) == text
    assert parse(render(read)) == read


names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,8}", fullmatch=True)
prose = words.filter(lambda line: line.strip() and not line.startswith("<!--"))
entries = st.builds(
    Entry,
    st.from_regex(r"[a-z][a-z -]{0,10}[a-z]", fullmatch=True),
    words.map(str.strip).filter(bool),
    st.sampled_from(["", " ", "  "]),
    st.sampled_from(["", " ", "\t"]),
    st.sampled_from(["", " "]),
)
others = st.sampled_from(["", " ", "[![Icon URL]](https://x)", "stray text"])


@st.composite
def documents(draw):
    kind = draw(st.sampled_from(document.KINDS))
    publisher = draw(st.from_regex(r"[a-z0-9-]{1,8}", fullmatch=True))
    plain = kind == "Publisher"
    return Document(
        kind,
        publisher,
        "" if plain else "/".join(draw(st.lists(names, min_size=1, max_size=3))),
        None if plain else draw(st.integers(0, 99_999)),
        tuple(draw(st.lists(prose, min_size=1, max_size=3))),
        ("", *draw(st.lists(st.one_of(entries, others), max_size=60))),
        draw(st.one_of(st.none(), st.text().map(lambda text: "#" + text))),
        gap=draw(st.sampled_from([(), ("",), ("", " ")])),
    )


@settings(max_examples=300, deadline=None)
@given(documents())
def test_any_document_is_written_and_read_the_same(made):
    assert parse(render(made)) == made


@pytest.mark.parametrize(
    "made",
    [
        Document("Module", "a", "b", 1, ("one", "", "two")),
        Document("Module", "a", "b", 1, ("<!-- task: x -->",)),
        Document("Module", "a", "b", 1, ("Text.",), ("", Entry("task", " x"))),
        Document("Module", "a", "b", 1, ("Text.",), ("", Entry("task", "x\ny"))),
        Document("Module", "a", "b", 1, ("Text.",), ("", "# heading")),
        Document("Module", "a", "b", 1, ("Text.",), ("",), "no heading"),
        Document("Module", "A", "b", 1, ("Text.",)),
        Document("Model", "a", "b", 1, ("Text.",)),
        Document("Module", "a", "b", 1, ("Text.",), heading="# Module a/c/1"),
    ],
)
def test_what_would_be_read_differently_is_not_written(made):
    with pytest.raises(ValueError, match="cannot be written"):
        render(made)


@pytest.mark.parametrize(
    "text",
    [
        "# Module " + "a/" * 200_000 + "1",
        "# Module a/" + "-" * 400_000 + "!/1",
        "<!-- " + "a " * 200_000,
        "# Module a/b/1\n\nText.\n<!-- a:" + " " * 400_000 + "x",
        "# Module a/b/1\n\nText.\n<!-- a:" + " x" * 200_000,
        "\n" * 400_000,
        "# Module a/b/1\n\n" + "Text.\n" * 100_000,
    ],
)
def test_long_nonsense_takes_no_time(text):
    assert render(parse(text)) == text
