"""The sentences of a Hub document that state facts: with the record's values, whatever record it is.

Publishing compares a document's data and leaves its words alone (tools/publishing/consistency.py), so the words are tested here.
Whoever rewords a sentence of templates/hub/ rewords it in `sentences` too.
"""

import datetime

import pytest

from tests.support import made, synthetic


def sentences(record, licences):
    """Yield (fact, sentence) for each fact that the prose of a record's document states."""
    row, archive = record["row"], record["archive"]
    width = f"{record['signature']['outputs'][0]['shape'][-1]:,}"
    day = datetime.datetime.fromisoformat(record["published"])
    published = f"{day.day} {day:%B %Y}"
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    classifier = record["head"] == "classifier"
    yield "archive", f"The archive has {archive['bytes']:,} bytes ({archive['unpacked_bytes']:,} unpacked)"
    yield "digest", f"and the SHA-256 `{archive['sha256']}`."
    yield "versions", f"It was made with {versions}, published on "
    yield "published", f", published on {published}, and never changes"
    yield (
        "resolution",
        f"sees images at {row['resolution']}x{row['resolution']} pixels; preprocessing is part of the module",
    )
    yield "parameters", f"It has {record['measured']['parameters']:,} parameters and sees"
    if classifier:
        yield "width", f", that gives one score for each of {width} classes."
    else:
        yield "width", f", that turns an image into a vector of {width} features."
    yield "transform", f"1. Resizing: {record['preprocessing']['transform']['text']}.\n"
    yield "normalization", f"2. Normalisation: {record['preprocessing']['normalization']['text']}.\n"
    licence = licences[row["licence"]]
    name = f"[{licence.display_name}]({licence.url})" if licence.url else licence.display_name
    yield "licence", f"The weights are under the licence {name}."
    yield "paper", f"[{row['paper']['title']}]({row['paper']['url']})"
    if classifier and row["labels"]:
        yield "labels", f"`module.labels()` returns the names of the {width} classes"
    elif classifier:
        yield "labels", f"The {width} classes have no names in this module"
    if row["pixel_range"] != [0, 1]:
        low, high = row["pixel_range"]
        yield "range", f"`float32` images have values from {low:g} to {high:g} here, not from 0 to 1.**"
    if row.get("precision", "float32") != "float32":
        yield "precision", f"The network computes in `{row['precision']}`:"


def document(record, pages):
    return pages[f"{record['handle']}.md"].data.decode("utf-8").replace("\\", "")


@pytest.mark.parametrize("record", synthetic.records(), ids=lambda record: record["handle"])
def test_every_kind_of_record(record):
    text = document(record, synthetic.build(synthetic.records()))
    missing = [sentence for _, sentence in sentences(record, synthetic.TAGS["license"]) if sentence not in text]
    assert missing == []


def test_every_row():
    """Every module that can be published, those that compute in bfloat16 among them."""
    found = [made.record(module) for module in made.rows().modules]
    pages = made.build(found)
    stated = set()
    for record in found:
        text = document(record, pages)
        for fact, sentence in sentences(record, made.tags()["license"]):
            assert sentence in text, (record["handle"], sentence)
            stated.add(fact)
        usual = record["row"]["pixel_range"] == [0, 1]
        assert ("**Mind the range: " in text.split("```python")[0]) == (not usual), (
            "the warning stands before the first code"
        )
        page = pages[f"{record['handle']}/index.html"].data.decode("utf-8")
        assert ("<strong>Mind the range: " in page.split("<pre")[0]) == (not usual)
        float32 = record["row"]["precision"] == "float32"
        assert ("The network computes in" in text) == (not float32)
    assert "precision" in stated and len(stated) == 14


CHANGES = {
    "archive": {"archive__bytes": 12_345_678, "archive__unpacked_bytes": 23_456_789},
    "digest": {"archive__sha256": "a" * 64},
    "versions": {"versions": {"tensorflow": "9.8.7", "python": "3.99"}},
    "published": {"published": "2031-02-03T04:05:06Z"},
    "resolution": {"row__resolution": 96},
    "parameters": {"measured__parameters": 1_234_567},
    "width": {"signature__outputs": [{"name": "logits", "dtype": "float32", "shape": [None, 4321]}]},
    "transform": {"preprocessing__transform": {"resize": "warp", "size": 32, "text": "by magic"}},
    "normalization": {"preprocessing__normalization": {"text": "to nothing"}},
    "licence": {"row__licence": "mit"},
    "labels": {"row__labels": None},
}


@pytest.mark.parametrize("fact", CHANGES)
def test_a_sentence_follows_its_record(fact):
    """Another value gives another sentence, and the old one is gone: none is written down by hand."""
    changed = synthetic.record("convnext_digits", **CHANGES[fact])
    before = dict(sentences(synthetic.record("convnext_digits"), synthetic.TAGS["license"]))
    after = dict(sentences(changed, synthetic.TAGS["license"]))
    text = document(changed, synthetic.build([changed]))
    assert after[fact] in text and before[fact] not in text
