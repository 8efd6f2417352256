"""Audit and verify find every change of files for other runtimes; ONNX files are replayed in ONNX Runtime itself."""

import json
import shutil

import numpy as np
import pytest

from tests.support import formats as made_up
from tests.support import made, signing
from tools.catalog import layout
from tools.hub import formats, json_objects, records
from tools.hub.storage import Storage
from tools.server.server import serve
from tools.site import pages
from tools.verification import format_replay
from tools.verification.audit import audit
from tools.verification.verify import Verification

HANDLE = "hubpress/convnext_digits/1"
SIZE, CLASSES = 8, 10


def network(path, *, bias=0.0):
    """Write an ONNX file that answers the means of a few rows of pixels, as logits."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "kernel"], ["products"]),
        helper.make_node("Add", ["products", "bias"], ["logits"]),
    ]
    kernel = np.arange(3 * CLASSES, dtype=np.float32).reshape(3, CLASSES) / 7
    constants = [
        numpy_helper.from_array(np.array([1, 2]), "axes"),
        numpy_helper.from_array(kernel, "kernel"),
        numpy_helper.from_array(np.full(CLASSES, bias, np.float32), "bias"),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", "h", "w", 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", CLASSES])
    graph = helper.make_graph(nodes, "network", [images], [logits], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    path.write_bytes(model.SerializeToString())


def golden(folder, seed=0):
    """Write a golden.npz that the network answers exactly."""
    images = np.random.default_rng(seed).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    kernel = np.arange(3 * CLASSES).reshape(3, CLASSES) / 7
    np.savez(folder / "golden.npz", images=images, outputs=(images.astype(np.float64).mean((1, 2)) @ kernel))
    return folder / "golden.npz"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A hub with a module whose archive carries a golden output, an ONNX file that gives it, and a LiteRT file of no meaning."""
    folder = tmp_path_factory.mktemp("verified")
    module = made.digits()[0]
    model = made.saved_model(folder / "model", module)
    golden(model / "assets.extra")
    storage = Storage(folder / "hub")
    archive = folder / "1.tar.gz"
    record = made.record(module, made.pack(model, archive))
    storage.create(layout.archive_path(HANDLE), archive)
    storage.create(layout.record_path(HANDLE), records.encode(record))
    network(folder / "portable.onnx")
    data = (folder / "portable.onnx").read_bytes()
    storage.create(layout.format_path(HANDLE, "onnx"), data)
    file = made_up.file(HANDLE, "onnx", data)
    storage.create(
        layout.format_record_path(HANDLE, "onnx"),
        json_objects.encode(formats.assemble(record, "onnx", 1, [file], made_up.PUBLISHED)),
    )
    rows = made.rows()
    built = pages.build(
        [record],
        publisher=rows.publisher,
        collections=rows.collections,
        base_url=made.URL,
        tags=made.tags(),
        formats={HANDLE: formats.load_records(storage, record)},
    )
    for page in built.values():
        storage.replace(page.path, page.data)
    return storage.local_path("x").parent


@pytest.fixture
def hub(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "hub")
    return tmp_path / "hub"


@pytest.fixture(scope="module")
def replaying():
    """A verification that keeps its processes for all tests of this file."""
    with Verification() as verification:
        yield verification


def look_at(verification, address):
    (target,) = verification.find(f"{address}/{HANDLE}")
    result = verification.verify(target)
    return next((check for check in result.checks if check.name == "formats"), None)


def verified(address, **options):
    """The check of formats, of a hub at an address, without replaying."""
    with Verification(replay=False, **options) as verification:
        return look_at(verification, address)


def change(hub, edit):
    """Edit the record of the ONNX file."""
    path = hub / layout.format_record_path(HANDLE, "onnx")
    content = json.loads(path.read_text())
    edit(content)
    path.write_bytes(json_objects.encode(content))


def replace_file(hub, data):
    (hub / layout.format_path(HANDLE, "onnx")).write_bytes(data)


def record_file(hub, data):
    """Put a file and what its record says of it."""
    replace_file(hub, data)
    change(hub, lambda content: content["files"][0].update(made_up.file(HANDLE, "onnx", data)))


@pytest.mark.parametrize("way", ["folder", "server"])
def test_what_is_as_published_is_replayed(hub, way, replaying):
    def look(address):
        check = look_at(replaying, address)
        assert check.state == "ok", check
        assert "onnx differs by" in check.message and "tolerance 0.0001" in check.message
        check = verified(address)
        assert (check.state, check.message) == ("ok", "onnx digests agree")

    if way == "folder":
        look(hub)
        return
    with serve(Storage(hub)) as url:
        look(url)


def test_a_module_without_formats_has_no_such_check(hub):
    (hub / layout.format_record_path(HANDLE, "onnx")).unlink()
    assert verified(hub) is None


def other_answers(hub):
    network(hub / "other.onnx", bias=0.5)
    data = (hub / "other.onnx").read_bytes()
    (hub / "other.onnx").unlink()
    record_file(hub, data)


SPOILT = {
    "a changed file": (lambda hub: replace_file(hub, b"x" * (hub / layout.format_path(HANDLE, "onnx")).stat().st_size), "is not the file that its record describes", "sha256"),
    "a shorter file": (lambda hub: replace_file(hub, b"x"), "is not the file that its record describes", "bytes"),
    "a file that is gone": (lambda hub: (hub / layout.format_path(HANDLE, "onnx")).unlink(), "404|no such|not there|There is no", "it is missing although"),
    "a record that is no JSON": (lambda hub: (hub / layout.format_record_path(HANDLE, "onnx")).write_bytes(b"{"), "cannot be used", "no JSON"),
    "a record of another module": (lambda hub: change(hub, lambda content: content["parent"].update(archive_sha256="0" * 64)), "it names another record or archive", "it names another record or archive"),
    "a path that leads away": (lambda hub: change(hub, lambda content: content["files"][0].update(path="../../x.onnx")), "is malformed", "is malformed"),
    "other answers": (other_answers, "differs from the golden output by", None),
    "no ONNX at all": (lambda hub: record_file(hub, b"nonsense" * 50), "replaying onnx failed", None),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "by_verify", "by_audit"), SPOILT.values(), ids=SPOILT)
def test_every_change_is_found(hub, spoil, by_verify, by_audit, replaying):
    spoil(hub)
    check = look_at(replaying, hub)
    assert check.state == "failed"
    assert any(each in check.message for each in by_verify.split("|")), check.message
    errors = audit(Storage(hub), thorough=True).errors
    if by_audit is None:  # who can change files and records alike is found by replaying, and by signatures
        assert errors == []
    else:
        assert any(by_audit in str(error) for error in errors), errors
        assert all("Fix: " in str(error) for error in errors)


def test_the_audit_counts_and_warns(hub):
    storage = Storage(hub)
    report = audit(storage)
    assert report.errors == [] and report.files == 1
    size = (hub / layout.format_path(HANDLE, "onnx")).stat().st_size
    assert report.bytes == size + (hub / layout.archive_path(HANDLE)).stat().st_size
    storage.create(layout.format_path(HANDLE, "int8"), b"of a publisher who was cut off")
    (warning,) = [each for each in audit(storage).problems if each.file.endswith("int8.tflite")]
    assert not warning.is_error and "--formats int8" in warning.fix


def test_signatures_of_format_records_are_asked_for(hub, tmp_path):
    private = signing.write_key(tmp_path / "keys", "own")
    by, trusted = signing.signer(private), signing.trust(private.with_suffix(".pub"))
    storage = Storage(hub)
    record = records.load(storage, HANDLE)
    from tools.hub import signatures

    signatures.sign(storage, layout.record_path(HANDLE), records.encode(record), by)
    check = verified(hub, trust=trusted)
    assert check.state == "failed" and "unsigned: nothing lies at" in check.message
    path = layout.format_record_path(HANDLE, "onnx")
    assert [each.file for each in audit(storage, trust=trusted).errors if each.message == "it is unsigned"] == [path]
    for each in formats.load_records(storage, record):
        formats.sign(storage, each, by)
    assert verified(hub, trust=trusted).state == "ok"
    assert not [each for each in audit(storage, trust=trusted).errors if each.file.startswith(path)]
    change(hub, lambda content: content["files"][0].update(tolerance=0.5))
    assert verified(hub, trust=trusted).state == "failed"
    assert [each for each in audit(storage, trust=trusted).errors if each.file.startswith(path)]


def test_without_its_runtime_digests_count(hub, monkeypatch, tmp_path):
    monkeypatch.setitem(format_replay.RUNTIMES, "onnx", ("no_such_runtime", "no-such-runtime"))
    found = format_replay.replay(str(hub / layout.format_path(HANDLE, "onnx")), "onnx", str(golden(tmp_path)))
    assert found == {"missing": "no-such-runtime"}


def test_files_that_cannot_be_replayed_are_refused_in_one_line(hub, tmp_path):
    file = str(hub / layout.format_path(HANDLE, "onnx"))
    path = golden(tmp_path)
    for outputs, said in ((np.zeros((3, 4)), "it answers"), (np.full((3, CLASSES), np.nan), "no finite outputs")):
        np.savez(path, images=np.zeros((3, SIZE, SIZE, 3), np.uint8), outputs=outputs)
        found = format_replay.answer({"file": file, "format": "onnx", "golden": str(path)})
        assert said in found["error"] and "\n" not in found["error"]
    assert "error" in format_replay.answer({"file": str(path), "format": "int8", "golden": str(path)})
