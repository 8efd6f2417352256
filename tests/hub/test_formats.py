"""Records of formats: what they must say, how they are found, added to and refused."""

import json

import pytest

from tests.support import formats as made
from tests.support import synthetic
from tools.catalog import layout
from tools.hub import formats, json_objects, records
from tools.hub.storage import Storage, StorageError

PARENT, OTHER = (synthetic.records()[index] for index in (0, 1))
HANDLE = PARENT["handle"]
ONNX, LITE = layout.format_record_path(HANDLE, "onnx"), layout.format_record_path(HANDLE, "lite")


def changed(*keys, to=None, remove=False):
    """The ONNX record with another value at a place, or without it."""
    content = json.loads(json.dumps(made.record(PARENT, "onnx", ["onnx"])))
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    if remove:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = to
    return content


@pytest.fixture
def hub(tmp_path):
    """A hub of two modules, the first with all formats; int8 was added later."""
    storage = Storage(tmp_path / "hub")
    for record in (PARENT, OTHER):
        storage.create(layout.record_path(record["handle"]), records.encode(record))
    made.store(storage, PARENT)
    return storage


def test_all_records_of_a_module_are_found(hub):
    found = records.snapshot(hub)
    assert [record["handle"] for record in found.records] == sorted((HANDLE, OTHER["handle"]), key=records._order)
    assert not found.problems and list(found.formats) == [HANDLE]
    assert found.formats[HANDLE] == formats.load_records(hub, PARENT) == [each for _, each in made.records(PARENT)]
    assert (
        list(formats.by_format(found.formats[HANDLE])) == list(layout.FORMAT_FILES) == list(formats.load(hub, PARENT))
    )
    assert formats.load(hub, OTHER) == {}
    assert (
        formats.parent_of(PARENT)["record_sha256"] == made.record(PARENT, "lite", ["int8"])["parent"]["record_sha256"]
    )


BROKEN = {
    "no JSON": (b"{", "no JSON"),
    "a list": (b"[]", "no JSON object|object"),
    "an empty object": (b"{}", "'schema' is a required property"),
    "of a newer schema": (changed("schema", to=2), "it obeys schema 2"),
    "of another kind": (changed("kind", to="Lite"), "it is record 1 of the kind Lite"),
    "of another number": (changed("number", to=2), "it is record 2 of"),
    "of another module": (changed("handle", to=OTHER["handle"]), "it is record 1 of the kind ONNX of " + OTHER["handle"]),
    "of another parent": (changed("parent", "handle", to=OTHER["handle"]), "is not the handle of its module"),
    "of another record": (changed("parent", "record_sha256", to="0" * 64), "it names another record"),
    "of another archive": (changed("parent", "archive_sha256", to="0" * 64), "it names another record or archive"),
    "a format of the other kind": (changed("files", 0, "format", to="int8"), r"files\[0\].format: int8 does not belong"),
    "a format that is none": (changed("files", 0, "format", to="float8"), "is not one of"),
    "a path outside": (changed("files", 0, "path", to="../../x.onnx"), r"files\[0\].path"),
    "a file twice": (changed("files", to=[made.file(HANDLE, "onnx")] * 2), "onnx is there twice"),
    "no files": (changed("files", to=[]), "files: "),
    "no digest": (changed("files", 0, "sha256", remove=True), "'sha256' is a required property"),
    "a digest with a line end": (changed("files", 0, "sha256", to="0" * 64 + "\n"), r"files\[0\].sha256"),
    "no operations": (changed("files", 0, "operations", to=[]), r"files\[0\].operations"),
    "a tolerance above 1": (changed("files", 0, "tolerance", to=2), r"files\[0\].tolerance"),
    "an infinite difference": (changed("files", 0, "differences", to={"golden": float("inf")}), "no JSON|differences"),
    "without what made it": (changed("files", 0, "versions", to={}), r"files\[0\].versions"),
    "without a key": (changed("files", 0, "build", "key", remove=True), "'key' is a required property"),
    "a date that never was": (changed("published", to="2026-02-31T00:00:00Z"), "is no time in ISO 8601"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "said"), BROKEN.values(), ids=BROKEN)
def test_a_malformed_record_is_named_and_left_out(hub, content, said):
    hub.replace(ONNX, content if isinstance(content, bytes) else json_objects.encode(content))
    found = records.snapshot(hub)
    assert len(found.records) == 2 and list(found.problems) == [ONNX]
    assert list(formats.by_format(found.formats[HANDLE])) == ["float32", "float16", "int8"]
    with pytest.raises(StorageError, match=said) as caught:
        formats.load_records(hub, PARENT)
    assert "Fix: " in str(caught.value) and hub.url in str(caught.value)


def test_a_format_that_is_recorded_twice_is_named(hub):
    double = layout.format_record_path(HANDLE, "lite", 3)
    hub.create(double, json_objects.encode(made.record(PARENT, "lite", ["int8"], 3)))
    found = records.snapshot(hub)
    assert list(found.problems) == [double]
    assert "int8 is in hubpress/" in str(found.problems[double])
    with pytest.raises(StorageError, match="int8 is in"):
        formats.load_records(hub, PARENT)


def test_records_without_their_module_are_nobodys(hub):
    hub.local_path(layout.record_path(HANDLE)).unlink()
    assert records.snapshot(hub).formats == {}


def test_formats_are_added_to_what_is_there(tmp_path):
    storage = Storage(tmp_path / "hub")
    storage.create(layout.record_path(HANDLE), records.encode(PARENT))
    given = {"published": made.PUBLISHED}
    first, second = made.file(HANDLE, "float32"), made.file(HANDLE, "int8")
    assert formats.create(storage, PARENT, "lite", [first], **given) == [first]
    before = storage.read(LITE)
    assert formats.create(storage, PARENT, "lite", [first], **given) == []
    assert formats.create(storage, PARENT, "lite", [first, second], **given) == [second]
    assert storage.read(LITE) == before  # never edited
    assert [each["number"] for each in formats.load_records(storage, PARENT)] == [1, 2]
    with pytest.raises(StorageError, match=r"int8 is published with other bytes .*never changes\. Fix: "):
        formats.create(storage, PARENT, "lite", [made.file(HANDLE, "int8", b"others")], **given)
    assert not storage.exists(layout.format_record_path(HANDLE, "lite", 3))


def test_of_rivals_each_adds_what_the_other_lacks(tmp_path, monkeypatch):
    """Another publisher records its file between this one's look and its write."""
    storage = Storage(tmp_path / "hub")
    storage.create(layout.record_path(HANDLE), records.encode(PARENT))
    rival = [lambda: formats.create(storage, PARENT, "lite", [made.file(HANDLE, "float16")], published=made.PUBLISHED)]
    real = storage.create

    def create(path, *arguments, **keywords):
        if rival and path.endswith(".lite.json"):
            rival.pop()()
        real(path, *arguments, **keywords)

    monkeypatch.setattr(storage, "create", create)
    wanted = [made.file(HANDLE, "float32"), made.file(HANDLE, "float16")]
    assert formats.create(storage, PARENT, "lite", wanted, published="2026-11-22T08:00:00Z") == wanted[:1]
    numbers = {
        each["number"]: [file["format"] for file in each["files"]] for each in formats.load_records(storage, PARENT)
    }
    assert numbers == {1: ["float16"], 2: ["float32"]}
