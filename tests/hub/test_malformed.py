"""JSON of any shape where records and notes lie: it is named and left out, and everything else goes on."""

import json
from types import SimpleNamespace

import pytest

from tests.support import synthetic
from tools.catalog import layout
from tools.common import json_text
from tools.hub import notes, records
from tools.hub.json_objects import InvalidObject
from tools.hub.storage import Storage
from tools.site import writing
from tools.verification.audit import audit
from tools.verification.verify import NothingThereError, Verification

FIRST, *OTHERS = (record["handle"] for record in synthetic.records())
PATH = layout.record_path(FIRST)
CATALOG = SimpleNamespace(publisher=synthetic.PUBLISHER, collections=synthetic.COLLECTIONS, tags=synthetic.TAGS)


def without(*keys):
    """Return the text of the first record without the value at this place."""
    return changed(keys, None, remove=True)


def changed(keys, value, *, remove=False):
    """Return the text of the first record with another value at a place."""
    content = json.loads(json.dumps(synthetic.records()[0]))
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    if remove:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    return json.dumps(content)


TEXTS = {
    "empty": "",
    "no JSON": "{",
    "no UTF-8": b"\xff\xfe\x00",
    "null": "null",
    "a list": "[]",
    "a number": "7",
    "an empty object": "{}",
    "another object": '{"a": 1}',
    "a list in a list in a list": "[" * 200_000,
    "objects as deep": '{"a":' * 100_000,
    "a number of 5,000 digits": changed(("archive", "bytes"), 0).replace('"bytes": 0', '"bytes": ' + "9" * 5000),
    "NaN": changed(("measured", "gflops"), 0).replace('"gflops": 0', '"gflops": NaN'),
    "infinity": changed(("measured", "gflops"), 0).replace('"gflops": 0', '"gflops": 1e999'),
    "half of a surrogate pair": changed(("row", "title"), "\ud800"),
    "two megabytes": json.dumps({"a": "b" * (2 << 20)}),
    "of a newer schema": changed(("schema",), 2),
    "without a build": without("build"),
    "without a publisher": without("publisher"),
    "without an archive": without("archive"),
    "without the path of the archive": without("archive", "path"),
    "no verification": changed(("verification",), None),
    "an archive outside of its place": changed(("archive", "path"), "../../etc/passwd.tar.gz"),
    "the archive of another": changed(("archive", "path"), f"{OTHERS[0]}.tar.gz"),
    "an address as an archive": changed(("archive", "path"), "https://example.org/x.tar.gz"),
    "a path as a digest": changed(("archive", "sha256"), "../../../etc"),
    "a digest of another length": changed(("archive", "sha256"), "0" * 65),
    "a digest with a line end": changed(("archive", "sha256"), "0" * 64 + "\n"),
    "a date of words": changed(("published",), "yesterday"),
    "a date that never was": changed(("published",), "2026-02-31T00:00:00Z"),
    "the record of another": changed(("handle",), OTHERS[0]),
    "no handle": changed(("handle",), "../../etc/1"),
    "another name than its handle's": changed(("name",), "other"),
    "a version in words": changed(("version",), "1"),
    "a true version": changed(("version",), True),
    "a sibling that is no handle": changed(("sibling",), "../x"),
    "inputs of another type": changed(("signature", "inputs"), {"a": 1}),
    "outputs of another type": changed(("signature", "outputs"), 7),
    "a row of another type": changed(("row",), []),
    "a title of another type": changed(("row", "title"), {"a": 1}),
}


def encoded(text):
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A hub of several records with pages, in memory; a test copies it."""
    storage = Storage(tmp_path_factory.mktemp("malformed") / "hub")
    for record in synthetic.records():
        storage.create(layout.record_path(record["handle"]), records.encode(record))
    writing.write_pages(CATALOG, storage, synthetic.BASE_URL)
    return storage


@pytest.fixture
def hub(whole):
    """The hub, whose first record and notes are put back afterwards."""
    yield whole
    for path in whole.list(layout.note_prefix(FIRST), ".json"):
        whole.local_path(path).unlink()
    whole.replace(PATH, records.encode(synthetic.records()[0]))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_malformed_record_is_left_out(hub, text):
    hub.replace(PATH, encoded(text))
    found = records.snapshot(hub)
    assert [record["handle"] for record in found.records] == sorted(OTHERS, key=records._order)
    assert list(found.problems) == [PATH]
    assert "Fix: " in str(found.problems[PATH]) and len(str(found.problems[PATH])) < 2000
    with pytest.raises(InvalidObject, match="Fix: "):
        records.load(hub, FIRST)
    report = audit(hub)
    named = [problem for problem in report.errors if problem.file.endswith(PATH)]
    assert len(named) == 1 and report.modules == len(OTHERS)
    with Verification(replay=False) as verification:
        results = [verification.verify(target) for target in verification.find(hub.url, every=True)]
    assert len(results) == len(OTHERS) + 1
    first = next(result for result in results if result.url.endswith(FIRST))
    assert first.checks[0].name == "record" and first.checks[0].state == "failed"
    # The made-up archives are not there: what matters is that the others are looked at.
    assert all(result.checks[0].state == "ok" for result in results if result is not first)


@pytest.mark.parametrize(
    "name", ["no JSON", "an empty object", "a list in a list in a list", "a date of words", "no verification"]
)
def test_pages_of_all_others_are_made(hub, name):
    hub.replace(PATH, encoded(TEXTS[name]))
    page = hub.read(layout.page_path(FIRST))
    with pytest.raises(records.DamagedHub, match="Fix: ") as caught:
        writing.write_pages(CATALOG, hub, synthetic.BASE_URL)
    assert caught.value.pages > 0
    index = json.loads(hub.read(layout.INDEX))
    assert sorted(each["handle"] for each in index["modules"]) == sorted(OTHERS)
    assert hub.read(layout.page_path(FIRST)) == page  # what was published stays readable
    hub.replace(PATH, records.encode(synthetic.records()[0]))
    assert writing.write_pages(CATALOG, hub, synthetic.BASE_URL) > 0


def note(**changes):
    return json.dumps(
        {"schema": 1, "kind": "Note", "handle": FIRST, "number": 1, "action": "yank", "why": "w", "date": "2026-01-31"}
        | changes
    )


NOTES = {
    "no JSON": ("{", False),
    "a list": ("[]", False),
    "deep": ("[" * 200_000, False),
    "an empty object": ("{}", False),
    "another number": (note(number=7), True),
    "of another module": (note(handle=OTHERS[0]), True),
    "a date of words": (note(date="yesterday"), True),
    "no reason": (note(why=None), True),
    "a reason of another type": (note(why=["a"]), True),
    "an unknown action": (note(action="explode"), False),
    "an action of another type": (note(action=["yank"]), False),
    "a measurement of another type": (note(action="evaluation", measurement=[]), False),
    "a measurement that contradicts itself": (
        note(action="evaluation", measurement=synthetic.evaluation(FIRST, 1, 50.0)["measurement"] | {"images": 1}),
        False,
    ),
}


@pytest.mark.parametrize(("text", "yanks"), NOTES.values(), ids=NOTES)
def test_a_malformed_note_is_left_out(hub, text, yanks):
    """A yank counts however little its note says: in doubt a module stays withdrawn."""
    path = layout.note_path(FIRST, 1)
    hub.replace(path, encoded(text))
    found = records.snapshot(hub)
    assert len(found.records) == len(OTHERS) + 1 and list(found.problems) == [path]
    assert list(found.yanked) == ([FIRST] if yanks else []) and found.measurements == {}
    assert [problem.file.endswith(path) for problem in audit(hub).errors].count(True) == 1
    with pytest.raises(records.DamagedHub, match=r"the note is malformed|note-1\.json: it"):
        writing.write_pages(CATALOG, hub, synthetic.BASE_URL)


def test_an_undo_that_says_too_little_undoes_nothing(hub):
    hub.replace(layout.note_path(FIRST, 1), note().encode())
    hub.replace(layout.note_path(FIRST, 2), note(action="unyank", number=9).encode())
    assert list(records.snapshot(hub).yanked) == list(notes.yanked(hub, hub.list())) == [FIRST]


@pytest.mark.parametrize(
    "modules", [None, {}, 7, "x", [], [None], [{}], [{"handle": 7}], [{"handle": "../x", "name": "x", "version": 1}]]
)
def test_an_index_of_any_shape(hub, modules):
    before = hub.read(layout.INDEX)
    hub.replace(layout.INDEX, json.dumps({"modules": modules}).encode())
    try:
        assert any(problem.file.endswith(layout.INDEX) for problem in audit(hub).problems)
        with Verification(replay=False) as verification:
            if not isinstance(modules, list) or not modules:
                with pytest.raises(NothingThereError, match="Fix: "):
                    verification.find(hub.url)
            else:
                results = [verification.verify(target) for target in verification.find(hub.url)]
                assert results and not any(result.ok for result in results)
    finally:
        hub.replace(layout.INDEX, before)


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"format": 7}', '{"sections": [7]}'])
def test_a_malformed_report_of_benchmarks_is_left_out(hub, text):
    hub.create("benchmarks.json", text.encode())
    try:
        with pytest.raises(
            records.DamagedHub, match=r"benchmarks\.json: the report is malformed: .*Fix: measure again"
        ):
            writing.write_pages(CATALOG, hub, synthetic.BASE_URL)
    finally:
        hub.local_path("benchmarks.json").unlink()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'"\\ud83d\\ude00"', None),
        (b"\xef\xbb\xbf{}", None),
        (b'"\\ud83d"', "surrogate"),
        (b"1" * 5000, "no JSON"),
        (b"[1", "no JSON"),
    ],
)
def test_json_that_somebody_else_wrote(text, said):
    if said is None:
        json_text.parse(text)
    else:
        with pytest.raises(json_text.JsonError, match=said):
            json_text.parse(text)
