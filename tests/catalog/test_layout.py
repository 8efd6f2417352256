"""Handles and paths of a hub: there and back, and what is none of them."""

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


@pytest.mark.parametrize(("name", "right"), [("convnext_tiny", True), ("a/b.c/d-1", True), ("", False), ("Conv", False), ("a b", False), ("a//b", False), ("/a", False), (".a", False), ("a/_b", False), ("collections", False), ("collections/a", False), ("collections2", True)])  # fmt: skip
def test_names_of_modules_and_collections(name, right):
    assert layout.is_name(name) is right
    if right:
        assert layout.is_handle(f"p/{name}/1")
