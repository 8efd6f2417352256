"""Formats are added to published modules: create-only, by themselves, signed, and finished by whoever runs the command again."""

import hashlib

import pytest

from tests.support import formats as made_up
from tests.support import made, signing
from tools.catalog import layout
from tools.hub import formats, records
from tools.hub.storage import Storage, StorageError
from tools.publishing import mirror
from tools.publishing.format_transaction import FormatPublishing
from tools.verification.audit import audit

ALL = list(layout.FORMAT_FILES)


@pytest.fixture(scope="module")
def modules():
    return made.digits()


@pytest.fixture
def hub(tmp_path, modules):
    """A hub of both modules of the small ConvNeXt, whose graphs mean nothing."""
    made.publish(tmp_path / "hub", modules)
    return Storage(tmp_path / "hub")


@pytest.fixture
def maker(tmp_path):
    (tmp_path / "made").mkdir()
    return made_up.Maker(tmp_path / "made")


def publish(storage, maker, module, wanted, **more):
    record = records.load(storage, module.handle)
    return FormatPublishing(storage, maker, cache=maker.folder, **more).publish(module, record, wanted)


def states(results):
    return {result.format: result.state for result in results}


def held(storage):
    return {path: hashlib.sha256(storage.read(path)).hexdigest() for path in storage.list()}


def test_formats_lie_beside_their_module(hub, maker, modules):
    module = modules[0]
    before = held(hub)
    results = publish(hub, maker, module, ALL)
    assert states(results) == dict.fromkeys(ALL, "published"), results
    assert all("saved_model.pb" in files for _, files in maker.asked)
    after = held(hub)
    assert {path: after[path] for path in before} == before  # the parent is as it was
    added = {layout.format_path(module.handle, name) for name in ALL}
    assert after.keys() - before.keys() == added | {f"{module.handle}.onnx.json", f"{module.handle}.lite.json"}
    record = records.load(hub, module.handle)
    for name, file in formats.load(hub, record).items():
        data = hub.read(file["path"])
        assert (file["bytes"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert file["md5"] == hashlib.md5(data).hexdigest()
        assert file["build"]["key"] == maker.format_key(record["archive"]["sha256"], "convnext", name)
    assert audit(hub, thorough=True).errors == []


def test_the_same_again_makes_nothing(hub, maker, modules):
    publish(hub, maker, modules[0], ALL)
    before, asked = held(hub), len(maker.asked)
    assert states(publish(hub, maker, modules[0], ALL)) == dict.fromkeys(ALL, "unchanged")
    assert held(hub) == before and len(maker.asked) == asked


def test_formats_are_added_later(hub, maker, modules):
    publish(hub, maker, modules[0], ["onnx", "float32"])
    before = held(hub)
    results = publish(hub, maker, modules[0], ALL)
    assert states(results) == {"onnx": "unchanged", "float32": "unchanged", "float16": "published", "int8": "published"}
    after = held(hub)
    assert {path: after[path] for path in before} == before
    assert f"{modules[0].handle}.lite-2.json" in after


def test_other_bytes_are_refused_and_the_same_are_not(hub, maker, modules):
    """Newer converters: float32 comes out as it was, the others do not."""
    publish(hub, maker, modules[0], ["onnx", "float32"])
    before = held(hub)
    maker.code = "2"
    results = publish(hub, maker, modules[0], ["onnx", "float32", "int8"])
    assert states(results) == {"onnx": "failed", "float32": "unchanged", "int8": "published"}
    (refused,) = [result.reason for result in results if result.state == "failed"]
    assert "onnx is published with other bytes" in refused and "never changes. Fix: " in refused
    assert {path: held(hub)[path] for path in before} == before


def test_a_format_that_fails_leaves_the_others_alone(hub, maker, modules):
    maker.breaks = {"float16"}
    results = publish(hub, maker, modules[0], ALL)
    assert states(results) == {name: "failed" if name == "float16" else "published" for name in ALL}
    (failed,) = [result.reason for result in results if result.state == "failed"]
    assert failed.startswith("modules/convnext.toml: convnext_digits: ") and "lacks an operation. Fix: " in failed
    assert not hub.exists(layout.format_path(modules[0].handle, "float16"))
    maker.breaks = set()
    assert states(publish(hub, maker, modules[0], ALL))["float16"] == "published"
    assert not audit(hub, thorough=True).errors


def test_a_file_without_a_record_is_adopted_or_refused(hub, maker, modules):
    """What a publisher left that was cut off: the same is finished, another file is not written over."""
    record = records.load(hub, modules[0].handle)
    publish(hub, maker, modules[0], ["onnx", "int8"])
    for path in (f"{modules[0].handle}.onnx.json", f"{modules[0].handle}.lite.json"):
        hub.local_path(path).unlink()
    hub.local_path(layout.format_path(modules[0].handle, "int8")).write_bytes(b"of another converter")
    results = publish(hub, maker, modules[0], ["onnx", "int8"])
    assert states(results) == {"onnx": "published", "int8": "failed"}
    assert "another file lies at" in results[0].reason + results[1].reason
    assert list(formats.load(hub, record)) == ["onnx"]
    assert hub.read(layout.format_path(modules[0].handle, "int8")) == b"of another converter"


def test_a_file_that_is_gone_is_restored_and_a_damaged_one_named(hub, maker, modules):
    publish(hub, maker, modules[0], ALL)
    before = held(hub)
    hub.local_path(layout.format_path(modules[0].handle, "onnx")).unlink()
    assert states(publish(hub, maker, modules[0], ALL))["onnx"] == "restored"
    assert held(hub) == before
    hub.local_path(layout.format_path(modules[0].handle, "int8")).write_bytes(b"short")
    results = publish(hub, maker, modules[0], ALL)
    assert states(results)["int8"] == "failed"
    assert "has 5 bytes, its record says" in next(result.reason for result in results if result.state == "failed")


def test_a_damaged_parent_gives_no_format(hub, maker, modules):
    archive = hub.local_path(layout.archive_path(modules[0].handle))
    archive.write_bytes(archive.read_bytes()[:-7] + b"1234567")
    results = publish(hub, maker, modules[0], ALL)
    assert states(results) == dict.fromkeys(ALL, "failed") and not maker.asked
    assert "The archive of hubpress/convnext_digits/1 is damaged" in results[0].reason


def test_a_file_that_changed_after_it_was_checked_is_not_stored(hub, maker, modules, monkeypatch):
    real = maker.make

    def make(*arguments, **keywords):
        made_ = real(*arguments, **keywords)
        made_[0].path.write_bytes(b"something else")
        return made_

    monkeypatch.setattr(maker, "make", make)
    results = publish(hub, maker, modules[0], ["onnx"])
    assert states(results) == {"onnx": "failed"} and "is not the file that was made and checked" in results[0].reason
    assert not hub.exists(layout.format_path(modules[0].handle, "onnx"))


def test_without_converters_formats_are_left_out_by_name(hub, maker, modules):
    maker.missing = {"onnx"}
    results = publish(hub, maker, modules[0], ALL)
    assert states(results)["onnx"] == "failed"
    results = publish(hub, maker, modules[0], ALL, leaves_out=True)
    assert states(results) == {name: "left out" if name == "onnx" else "unchanged" for name in ALL}
    assert "hubpress[formats]" in results[0].reason


def test_mirrors_have_the_files(hub, maker, modules, tmp_path):
    """Folders for Hugging Face hold them, those for Kaggle's TensorFlow do not; a damaged one is refused."""
    publish(hub, maker, modules[0], ["onnx", "int8"])
    found = records.snapshot(hub)
    url = "https://models.example.org"
    seen = mirror.gather(found, made.rows(), url)
    chosen = [record for record in found.records if record["handle"] == modules[0].handle]
    there, kaggle = mirror.write(chosen, storage=hub, hub=seen, directory=tmp_path / "mirror")
    for name in ("onnx", "int8"):
        file = layout.FORMAT_FILES[name]
        assert (there / file).read_bytes() == hub.read(layout.format_path(modules[0].handle, name))
        assert not (kaggle / file).exists()
    card = (there / "README.md").read_text()
    assert "- onnx\n- tflite\n" in card
    hub.local_path(layout.format_path(modules[0].handle, "int8")).write_bytes(b"damaged")
    with pytest.raises(StorageError, match=r"has not the SHA-256 that its record says.*Fix: "):
        mirror.write(chosen, storage=hub, hub=seen, directory=tmp_path / "mirror")


class TestSigned:
    """With a signer each record of formats is signed; who signs later makes the files himself first."""

    @pytest.fixture(scope="class")
    def keys(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("keys")
        return signing.write_key(folder, "own"), signing.write_key(folder, "other")

    def test_records_are_signed(self, hub, maker, modules, keys):
        by = signing.signer(keys[0])
        publish(hub, maker, modules[0], ALL, signer=by)
        record = records.load(hub, modules[0].handle)
        for each in formats.load_records(hub, record):
            assert formats.is_signed(hub, each, by)
            assert not formats.is_signed(hub, each, signing.signer(keys[1]))

    def test_what_lies_there_is_made_before_it_is_signed(self, hub, maker, modules, keys):
        publish(hub, maker, modules[0], ALL)
        maker.asked.clear()
        by = signing.signer(keys[0])
        assert states(publish(hub, maker, modules[0], ["onnx"], signer=by)) == {"onnx": "unchanged"}
        record = records.load(hub, modules[0].handle)
        assert all(formats.is_signed(hub, each, by) for each in formats.load_records(hub, record))
        assert sorted(name for name, _ in maker.asked) == sorted(ALL)
        maker.asked.clear()
        publish(hub, maker, modules[0], ALL, signer=by)
        assert not maker.asked  # all is signed: nothing to do

    def test_what_would_be_made_otherwise_is_not_signed(self, hub, maker, modules, keys):
        publish(hub, maker, modules[0], ALL)
        maker.code = "2"
        by = signing.signer(keys[0])
        results = publish(hub, maker, modules[0], ALL, signer=by)
        assert states(results) == {"onnx": "failed", "float32": "unchanged", "float16": "failed", "int8": "failed"}
        assert not [path for path in hub.list() if path.endswith((".onnx.json.sig", ".lite.json.sig"))]

    def test_a_foreign_signature_is_refused(self, hub, maker, modules, keys):
        publish(hub, maker, modules[0], ["onnx"], signer=signing.signer(keys[1]))
        results = publish(hub, maker, modules[0], ["onnx"], signer=signing.signer(keys[0]))
        assert states(results) == {"onnx": "failed"} and "it is signed with the key" in results[0].reason
