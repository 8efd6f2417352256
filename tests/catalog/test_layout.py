"""Handles and paths of a hub: there and back, and what is none of them."""

import re

import pytest

from tools.catalog import layout

HANDLES = [
    "p/name/1",
    "p/name/0",
    "hubpress/convnext_tiny_1k_224_fe/12",
    "p/a/b/c/3",
    "p/family/50/large/2",
    "p/na.me-x/10",
    "p/Ünicode/1",
]
NO_HANDLES = ["", "p", "p/1", "p/name", "p/name/01", "p/name/-1", "p/name/1.0", "p/name/x", "/p/name/1", "p//1", "p/name/1/", "p//name/1", "static/module/1", "p/collections/all/1", "p/name/1.json", "p/name/1\n"]  # fmt: skip
COLLECTIONS = ["p/collections/all/1", "p/collections/a/b/2"]


@pytest.mark.parametrize("handle", HANDLES)
def test_handles_and_paths_round_trip(handle):
    assert layout.is_handle(handle)
    publisher, _, rest = handle.partition("/")
    name, _, version = rest.rpartition("/")
    assert layout.module_handle(publisher, name, int(version)) == handle
    assert layout.handle_of_archive(layout.archive_path(handle)) == handle
    assert layout.handle_of_record(layout.record_path(handle)) == handle
    assert layout.handle_of_page(layout.document_path(handle)) == handle
    assert layout.handle_of_page(layout.page_path(handle)) == handle
    for number in (1, 9, 10):
        note = layout.note_path(handle, number)
        assert note.startswith(layout.note_prefix(handle))
        assert layout.parse_note_path(note) == (handle, number)
        assert layout.signed_path(layout.signature_path(note)) == note
    record = layout.record_path(handle)
    assert layout.signed_path(layout.signature_path(record)) == record and layout.signed_path(record) is None
    for path in (layout.bundle_path(handle), layout.bom_path(handle), layout.provenance_path(handle)):
        assert layout.handle_of_attestation(path) == handle and layout.handle_of_record(path) is None
    for path in layout.attestation_paths(handle):
        assert layout.handle_of_attestation(layout.signed_path(path) or path) or layout.signed_path(path) == record
    assert layout.signed_path(layout.signature_path(layout.bundle_path(handle))) is None  # it is a signature itself
    for name in layout.FORMAT_FILES:
        path, kind = layout.format_path(handle, name), layout.kind_of_format(name)
        assert layout.parse_format_path(path) == (handle, name)
        for number in (1, 2, 10):
            record = layout.format_record_path(handle, kind, number)
            assert layout.parse_format_record_path(record) == (handle, kind, number)
            assert layout.signed_path(layout.signature_path(record)) == record
    assert layout.is_handle(layout.lite_handle(handle))
    assert layout.handle_of_lite(layout.lite_handle(handle)) == handle
    assert layout.handle_of_lite(layout.lite_document_path(handle)) == handle
    assert layout.handles_of_path(layout.lite_document_path(handle))[:2] == [layout.lite_handle(handle), handle]


# How the code from before there were formats told what lies at a path: copies of its patterns.
_VERSION = "(?:0|[1-9][0-9]*)"
_HANDLE = rf"(?!static/)[^/]+/(?!collections/)[^/]+(?:/[^/]+)*/{_VERSION}"
BEFORE = {
    "record": re.compile(rf"({_HANDLE})\.json"),
    "note": re.compile(rf"({_HANDLE})\.note-(?P<number>[1-9][0-9]*)\.json"),
    "archive": re.compile(rf"({_HANDLE})\.tar\.gz"),
    "attestation": re.compile(rf"({_HANDLE})(?:\.bundle|\.cdx\.json|\.provenance\.json)"),
}


@pytest.mark.parametrize("handle", HANDLES)
def test_older_readers_take_no_file_of_a_format_for_a_module(handle):
    """A hub with formats lists the same modules to the code that knew none."""
    paths = [layout.format_path(handle, name) for name in layout.FORMAT_FILES] + [layout.lite_document_path(handle)]
    for kind in layout.FORMATS_OF_KIND:
        records = [layout.format_record_path(handle, kind, number) for number in (1, 2, 10)]
        paths += records + [layout.signature_path(path) for path in records]
    for path in paths:
        assert [kind for kind, pattern in BEFORE.items() if pattern.fullmatch(path)] == []
        assert layout.handle_of_record(path) is None and layout.parse_note_path(path) is None
    assert BEFORE["record"].fullmatch(layout.record_path(handle))  # which it does take


@pytest.mark.parametrize("text", NO_HANDLES)
def test_what_is_no_handle_has_no_files(text):
    assert not layout.is_handle(text)
    assert layout.handle_of_archive(layout.archive_path(text)) is None
    assert layout.handle_of_record(layout.record_path(text)) is None
    assert layout.handle_of_page(layout.document_path(text)) is None
    assert layout.handle_of_page(layout.page_path(text)) is None
    assert layout.parse_note_path(layout.note_path(text, 1)) is None
    assert layout.signed_path(layout.signature_path(layout.record_path(text))) is None
    assert layout.handle_of_attestation(layout.bundle_path(text)) is None


def test_the_paths_of_a_hub_are_these():
    """Hubs exist: a path that changes loses what lies there."""
    handle = "p/name/1"
    assert layout.archive_path(handle) == "p/name/1.tar.gz"
    assert layout.record_path(handle) == "p/name/1.json"
    assert layout.document_path(handle) == "p/name/1.md"
    assert layout.page_path(handle) == "p/name/1/index.html"
    assert layout.note_path(handle, 2) == "p/name/1.note-2.json"
    assert layout.signature_path(layout.note_path(handle, 2)) == "p/name/1.note-2.json.sig"
    assert layout.attestation_paths(handle) == [
        "p/name/1.json.sig",
        "p/name/1.bundle",
        "p/name/1.cdx.json",
        "p/name/1.cdx.json.sig",
        "p/name/1.provenance.json",
        "p/name/1.provenance.json.sig",
    ]
    assert [layout.format_path(handle, name) for name in layout.FORMAT_FILES] == [
        "p/name/1/portable.onnx",
        "p/name/1/float32.tflite",
        "p/name/1/float16.tflite",
        "p/name/1/int8.tflite",
    ]
    assert layout.format_record_path(handle, "onnx") == "p/name/1.onnx.json"
    assert layout.format_record_path(handle, "lite") == "p/name/1.lite.json"
    assert layout.format_record_path(handle, "lite", 2) == "p/name/1.lite-2.json"
    assert layout.lite_document_path(handle) == "p/name/lite/1.md"
    assert layout.publisher_document_path("p") == "p/p.md"
    assert layout.page_path("p") == "p/index.html"
    assert layout.collection_handle("p", "all") == "p/collections/all/1"
    assert layout.archive_path("https://hub.example/p/name/1") == "https://hub.example/p/name/1.tar.gz"


@pytest.mark.parametrize(
    ("function", "paths"),
    [
        (layout.handle_of_record, ["p/name/1.note-1.json", "p/name/1.json.sig", "p/name/1.cdx.json", "p/name/1/x.json", "index.json", "p/name/1.JSON", "p/name/1.json\n", "static/module/1.json"]),
        (layout.parse_note_path, ["p/name/1.json", "p/name/1.note-0.json", "p/name/1.note-01.json", "p/name/1.note-.json", "p/name/1.note-1.json.part", "p/name/x.note-1.json"]),
        (layout.handle_of_page, ["p/p.md", "p/index.html", "index.html", "p/name/index.html", "p/name/1/a/index.html", "p/name/1.html", "p/name/1/README.md", "p/collections/all/1.md", "static/a/1.md"]),
        (layout.handle_of_archive, ["p/name/1.tar", "p/name/1.tar.gz.part", "p/1.tar.gz", "p/name/1/1/x.tar.gz"]),
        (layout.parse_format_record_path, ["p/name/1.json", "p/name/1.onnx.json.sig", "p/name/1.lite-0.json", "p/name/1.lite-1.json", "p/name/1.lite-02.json", "p/name/1.float32.json", "p/name/x.onnx.json", "p/collections/all/1.lite.json"]),
        (layout.parse_format_path, ["p/name/1/float32.onnx", "p/name/1/portable.tflite", "p/name/1/a/int8.tflite", "p/name/x/int8.tflite", "p/collections/all/1/int8.tflite", "p/name/1/int8.tflite.part"]),
        (layout.handle_of_lite, ["p/name/1", "p/lite/1", "p/name/lite/x", "p/name/lite", "p/name/lite/1.json", "p/collections/lite/1", "static/name/lite/1"]),
        (layout.collection_of_page, ["p/name/1.md", "p/collections/1.md", "p/collections/all.md", "p/collections/all/x.md", "p/collections/all/1.json", "q/p/collections/all/1.md"]),
    ],
)  # fmt: skip
def test_what_no_such_file_lies_at(function, paths):
    assert [path for path in paths if function(path) is not None] == []


@pytest.mark.parametrize("handle", COLLECTIONS)
def test_pages_of_collections_are_told_from_those_of_modules(handle):
    for path in (layout.document_path(handle), layout.page_path(handle)):
        assert layout.collection_of_page(path) == handle and layout.handle_of_page(path) is None


@pytest.mark.parametrize(
    ("path", "handles"),
    [
        ("p/name/1", ["p/name/1"]),
        ("p/name/1.tar.gz", ["p/name/1"]),
        ("p/name/1.json", ["p/name/1"]),
        ("p/name/1.md", ["p/name/1"]),
        ("p/name/1/index.html", ["p/name/1"]),
        ("p/name/1/variables/variables.index", ["p/name/1"]),
        ("p/family/50/large/2.md", ["p/family/50/large/2", "p/family/50"]),
        ("p/name/lite/1.md", ["p/name/lite/1", "p/name/1"]),
        ("p/name/1/int8.tflite", ["p/name/1"]),
        ("p/name/1.onnx.json", []),
        ("p/name/1.json/x", []),
        ("p/name/1.note-1.json", []),
        ("p/name", []),
        ("p/name/index.html", []),
        ("p/collections/all/1.md", []),
        ("static/module/1.json", []),
        ("index.html", []),
    ],
)
def test_the_modules_that_a_path_may_belong_to(path, handles):
    assert layout.handles_of_path(path) == handles
    assert all(layout.is_handle(handle) for handle in handles)


@pytest.mark.parametrize(("name", "right"), [("hubpress", True), ("my-lab2", True), ("", False), ("My", False), ("a_b", False), ("a/b", False), ("-a", False), ("static", False), ("static2", True)])  # fmt: skip
def test_names_of_publishers(name, right):
    assert layout.is_publisher_name(name) is right


@pytest.mark.parametrize(("name", "right"), [("convnext_tiny", True), ("a/b.c/d-1", True), ("", False), ("Conv", False), ("a b", False), ("a//b", False), ("/a", False), (".a", False), ("a/_b", False), ("lite", True), ("a/lite", False), ("a/lite/b", True), ("collections", False), ("collections/a", False), ("collections2", True)])  # fmt: skip
def test_names_of_modules_and_collections(name, right):
    assert layout.is_name(name) is right
    if right:
        assert layout.is_handle(f"p/{name}/1")
