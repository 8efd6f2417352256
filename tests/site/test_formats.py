"""Pages and documents of modules with files for other runtimes: every fact of every file, documents of kind Lite, validation."""

import re
from types import SimpleNamespace

import pytest

from tests.support import formats as made_up
from tests.support import made, synthetic
from tools.catalog import layout
from tools.documents import validation
from tools.documents.document import parse
from tools.hub import formats, json_objects, notes, records
from tools.hub.storage import Storage
from tools.site import pages, writing
from tools.verification.audit import audit

CLASSIFIER, EXTRACTOR = "hubpress/convnext_digits/1", "hubpress/convnext_digits_fe/1"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub of both modules of the small ConvNeXt with all formats, and its pages."""
    storage = Storage(tmp_path_factory.mktemp("formats") / "hub")
    made.publish(storage.local_path("x").parent, made.digits())
    for record in records.snapshot(storage).records:
        made_up.store(storage, record)
    rows = made.rows()
    catalog = SimpleNamespace(publisher=rows.publisher, collections=rows.collections, tags=made.tags())
    assert writing.write_pages(catalog, storage, made.URL) >= 4
    assert writing.write_pages(catalog, storage, made.URL) == 0
    return storage


def text(hub, path):
    return hub.read(path).decode()


@pytest.mark.parametrize("handle", [CLASSIFIER, EXTRACTOR])
def test_every_file_is_on_the_page_and_in_the_documents(hub, handle):
    record = records.load(hub, handle)
    lite, page, document = (
        text(hub, path)
        for path in (layout.lite_document_path(handle), layout.page_path(handle), layout.document_path(handle))
    )
    for name, file in formats.load(hub, record).items():
        shown = (page, document) if name == "onnx" else (page, document, lite)
        for each in shown:
            assert file["sha256"] in each and layout.FORMAT_FILES[name] in each
        for each in shown[1:]:
            (row,) = [line for line in each.split("\n") if file["sha256"] in line]
            assert f"({made.URL}/{file['path']})" in row
            assert f"| {file['accuracy']['value']} |" in row and "| 5.0e-06 (tolerance " in row
    assert "portable.onnx" not in lite
    for word in (
        "onnxruntime.InferenceSession(",
        "openvino",
        "get_signature_runner(",
        "ort.InferenceSession",
        "runSignature(",
    ):
        assert word in document and re.sub(r"\W", "", word) in re.sub(r"<[^>]*>|\W", "", page)


@pytest.mark.parametrize("handle", [CLASSIFIER, EXTRACTOR])
def test_a_document_of_kind_lite(hub, handle):
    document = parse(text(hub, layout.lite_document_path(handle)))
    assert (document.kind, document.handle) == ("Lite", handle)
    assert document.value("parent-model") == handle
    assert document.value("asset-path") == f"{made.URL}/{handle}/float32.tflite"


def test_all_documents_validate_without_a_warning(hub):
    found = validation.validate([hub.local_path("x").parent])
    assert found.problems == []
    assert {path for path in hub.list() if "/lite/" in path} == {
        layout.lite_document_path(handle) for handle in (CLASSIFIER, EXTRACTOR)
    }


def test_an_audit_knows_every_file(hub):
    assert audit(hub).errors == []
    assert audit(hub, thorough=True, catalog=made.rows(), base_url=made.URL).problems == []


def test_without_a_litert_file_there_is_no_document_of_kind_lite():
    record = made.record(made.digits()[0])
    arguments = {"publisher": made.rows().publisher, "collections": (), "base_url": made.URL, "tags": made.tags()}
    given = {record["handle"]: [made_up.record(record, "onnx", ["onnx"])]}
    found = pages.build([record], formats=given, **arguments)
    assert not [path for path in found if "/lite/" in path]
    document = found[layout.document_path(CLASSIFIER)].data.decode()
    assert "onnxruntime.InferenceSession(" in document and "runSignature(" not in document
    assert b"portable.onnx" not in pages.build([record], **arguments)[layout.document_path(CLASSIFIER)].data
    only_small = {record["handle"]: [made_up.record(record, "lite", ["int8"])]}
    lite = pages.build([record], formats=only_small, **arguments)[layout.lite_document_path(CLASSIFIER)]
    assert f"asset-path: {made.URL}/{CLASSIFIER}/int8.tflite" in lite.data.decode()


def test_pages_follow_when_formats_are_added_and_a_version_is_withdrawn(tmp_path):
    storage = Storage(tmp_path / "hub")
    catalog = SimpleNamespace(publisher=synthetic.PUBLISHER, collections=synthetic.COLLECTIONS, tags=synthetic.TAGS)
    record = synthetic.records()[0]
    storage.create(layout.record_path(record["handle"]), records.encode(record))

    def write():
        return writing.write_pages(catalog, storage, synthetic.BASE_URL, cache=tmp_path / "cache")

    write()
    before = storage.read(layout.page_path(record["handle"]))
    (path, first), *later = made_up.records(record)
    storage.create(path, json_objects.encode(first))
    assert write() > 0 and b"portable.onnx" in storage.read(layout.page_path(record["handle"]))
    assert not storage.exists(layout.lite_document_path(record["handle"]))
    for path, each in later:
        storage.create(path, json_objects.encode(each))
    assert write() > 0 and write() == 0
    assert storage.read(layout.page_path(record["handle"])) != before
    notes.add_note(storage, record["handle"], "yank", "trained on the test set", date="2026-11-25T12:00:00Z")
    kept = {path: storage.read(path) for path in storage.list() if path.endswith((".onnx.json", ".lite.json"))}
    write()
    assert "trained on the test set" in text(storage, layout.lite_document_path(record["handle"]))
    assert {path: storage.read(path) for path in kept} == kept
