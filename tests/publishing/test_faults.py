"""Storage that fails while the real command publishes, and publishers that meet: refused with a reason, finished when run again."""

import hashlib
import json
import os
import socket
import stat
import subprocess
import types
import uuid

import pytest

from tests.support.builds import other_build
from tests.support.hubs import HANDLES, NAME, bucket_storage
from tools.catalog import layout
from tools.hub import formats, records
from tools.hub import storage as storage_module
from tools.hub.storage import AlreadyThere, Storage, StorageError
from tools.verification import audit

pytestmark = pytest.mark.faults


def refused(done, *said):
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for each in said:
        assert each in done.stderr


def finishes(publisher, hub, storage=None, **order):
    """The same command, when the fault is gone, publishes all."""
    done = publisher(NAME, "--hub", hub, **order)
    assert done.returncode == 0, done.stderr
    storage = storage or Storage(hub)
    assert [record["handle"] for record in records.snapshot(storage).records] == HANDLES
    assert not audit.audit(storage, thorough=True).problems


# Folders


def test_a_disk_that_fills_up(publisher, tmp_path):
    """A real limit of the kernel, lower than an archive: what a full disk does, for every user."""
    hub = tmp_path / "hub"
    refused(publisher(NAME, "--hub", hub, largest=400_000), "Cannot write", "run the same command again")
    assert [path for path in hub.rglob("*") if path.is_file()] == []
    finishes(publisher, hub)


@pytest.mark.parametrize("room", [300_000, 1_000_000], ids=["for no archive", "for one archive"])
def test_a_full_disk(publisher, tmp_path, room):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={room}", "none", disk], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only a privileged user can mount a small disk")
    try:
        refused(publisher(NAME, "--hub", disk / "hub"), "the disk is full. Fix: free some space")
        storage = Storage(disk / "hub")
        assert not audit.audit(storage, thorough=True).errors
        assert not [path for path in (disk / "hub").rglob(".*") if path.is_file()]
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        finishes(publisher, disk / "hub")
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_disk_that_cannot_be_written(publisher, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", disk], capture_output=True, check=False).returncode:
        pytest.skip("only a privileged user can mount a disk")
    try:
        refused(publisher(NAME, "--hub", disk / "hub"), "read-only", "Fix: choose a hub that can be written")
        refused(publisher(NAME, "--hub", disk), "read-only", "Fix: choose a hub that can be written")
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_folder_of_somebody_else(publisher, tmp_path):
    hub = tmp_path / "hub"
    hub.mkdir()
    hub.chmod(stat.S_IRUSR | stat.S_IXUSR)
    done = publisher(NAME, "--hub", hub, unprivileged=True)
    hub.chmod(stat.S_IRWXU)
    refused(done, "permission is denied", "Fix: give this user the right to it")
    assert not list(hub.iterdir())
    finishes(publisher, hub)


# Buckets


@pytest.fixture
def pauses(bucket_service, monkeypatch):
    """The pauses between attempts, which are not slept."""
    import gcsfs.retry  # after what the bucket's service sets for it

    seen = []

    async def sleep(seconds):
        seen.append(seconds)

    monkeypatch.setattr(gcsfs.retry, "asyncio", types.SimpleNamespace(sleep=sleep))
    return seen


@pytest.mark.parametrize("size", [100_000, 6 << 20], ids=["in one request", "in pieces"])
@pytest.mark.parametrize("fault", [429, 500, 503, "reset"])
def test_what_passes_is_tried_again(bucket, bucket_service, pauses, tmp_path, monkeypatch, fault, size):
    monkeypatch.setattr(storage_module, "UPLOAD_BYTES", 4 << 20)
    source = tmp_path / "archive"
    source.write_bytes(os.urandom(size))
    data = source.read_bytes()
    bucket_service.faults[:] = [fault, None, fault, fault] if size > 5 << 20 else [fault, fault]
    bucket.create("p/n/1.tar.gz", source)
    assert not bucket_service.faults and len(pauses) >= 2
    assert bucket.read("p/n/1.tar.gz") == data
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    bucket.verify("p/n/1.tar.gz", size, hashlib.sha256(data).hexdigest(), md5)


def test_pauses_grow(bucket, bucket_service, pauses):
    bucket_service.faults[:] = [503] * 5
    bucket.replace("index.html", b"<p>")
    assert pauses == sorted(pauses) and pauses[0] >= 1 and pauses[-1] >= 8


def test_a_bucket_that_stays_busy(bucket, bucket_service, pauses):
    bucket_service.faults[:] = [503] * 50
    with pytest.raises(StorageError, match=r"cannot be reached.*Fix: check the network, then run it again"):
        bucket.create("p/n/1.json", b"x")
    bucket_service.faults.clear()
    assert len(pauses) == 5 and not bucket.exists("p/n/1.json")


def test_denied_is_not_tried_again(bucket, bucket_service, pauses):
    bucket_service.faults[:] = [403]
    with pytest.raises(StorageError, match=r"permission is denied"):
        bucket.create("p/n/1.json", b"x")
    assert not pauses


def test_an_answer_that_is_lost(bucket, bucket_service, pauses):
    """It was stored, and nobody said so: the second attempt finds it, and never writes over it."""
    bucket_service.faults[:] = ["lost answer"]
    with pytest.raises(AlreadyThere):
        bucket.create("p/n/1.json", b"x")
    assert bucket.read("p/n/1.json") == b"x"


@pytest.mark.parametrize("at", [0, 1], ids=["archive", "record"])
def test_the_command_when_answers_are_lost(publisher, emulator, bucket_service, at):
    """The module is published all the same, by this run."""
    url = f"gs://bucket/{uuid.uuid4().hex}"
    bucket_service.faults[:] = [None] * at + ["lost answer"]
    done = publisher(NAME, "--hub", url, environment=emulator, hasty=True)
    assert done.returncode == 0 and done.stdout.count(" published ") == 2, done.stdout + done.stderr
    assert not audit.audit(bucket_storage(bucket_service, url), thorough=True).problems


@pytest.mark.parametrize("fault", [503, "reset"])
def test_the_command_when_the_bucket_stumbles(publisher, emulator, bucket_service, fault):
    """In the middle of every upload that has a record or an archive, once: nobody notices."""
    url = f"gs://bucket/{uuid.uuid4().hex}"
    bucket_service.faults[:] = [fault, None] * 4
    finishes(publisher, url, bucket_storage(bucket_service, url), environment=emulator, hasty=True)
    assert not bucket_service.faults


@pytest.mark.parametrize("uploads", [0, 1, 2, 3, 9], ids=lambda count: f"after {count} uploads")
def test_the_command_when_the_bucket_goes_away(publisher, emulator, bucket_service, uploads):
    """From some upload on every connection is cut, archive or record or page, again and again: said, and finished later."""
    url = f"gs://bucket/{uuid.uuid4().hex}"
    storage = bucket_storage(bucket_service, url)
    bucket_service.faults[:] = [None] * uploads + ["reset"] * 500
    done = publisher(NAME, "--hub", url, environment=emulator, hasty=True)
    bucket_service.faults.clear()
    refused(done, "cannot be reached", "Fix: check the network, then run it again")
    assert not audit.audit(storage, thorough=True).errors
    published = [record["handle"] for record in records.snapshot(storage).records]
    assert published == HANDLES[: max(0, uploads - 2)]  # after two archives, the records
    assert done.stdout.count(" failed ") == 2 - len(published)
    finishes(publisher, url, storage, environment=emulator)


def test_the_command_when_nobody_answers(publisher):
    """No emulator at all: an error, in words, and not for ever."""
    done = publisher(
        NAME, "--hub", "gs://bucket/hub", environment={"STORAGE_EMULATOR_HOST": "http://127.0.0.1:9"}, hasty=True
    )
    refused(done, "cannot be reached", "Fix: check the network, then run it again")


def test_a_bucket_that_is_gone(pauses):
    with socket.create_server(("127.0.0.1", 0)) as service:  # which is there at first
        address = f"http://127.0.0.1:{service.getsockname()[1]}"
        storage = Storage("gs://bucket/hub", endpoint_url=address, token="anon")
    for call in (storage.list_objects, lambda: storage.create("p/n/1.json", b"x"), lambda: storage.read("p/n/1.json")):
        with pytest.raises(StorageError, match="cannot be reached"):
            call()


# Rivals


def place(kind, tmp_path, bucket_service):
    """(hub, environment, the opened storage) of a new hub."""
    if kind == "folder":
        return tmp_path / "hub", {}, Storage(tmp_path / "hub")
    url = f"gs://bucket/{uuid.uuid4().hex}"
    return url, {"STORAGE_EMULATOR_HOST": bucket_service.url}, bucket_storage(bucket_service, url)


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_eight_publishers_of_the_same_and_of_others(publisher, published, tmp_path, bucket_service, kind):
    hub, environment, storage = place(kind, tmp_path, bucket_service)
    names = [NAME, NAME, NAME, HANDLES[0], HANDLES[1], "regnety_digits", "vit_digits", "quickstart"]
    order = {"environment": environment}
    done = publisher.at_once([((name, "--hub", hub, "--url", "http://one"), order) for name in names])
    assert [run.returncode for run in done] == [0] * 8, [run.stderr for run in done]
    whole = {record["handle"]: record["archive"] for record in records.snapshot(Storage(published[0])).records}
    assert {record["handle"]: record["archive"] for record in records.snapshot(storage).records} == whole
    assert {m["handle"] for m in json.loads(storage.read("index.json"))["modules"]} == set(whole)
    assert not audit.audit(storage, thorough=True).problems
    # Each by one of them; a rival whose record of the same second is the same to the byte says so, too.
    assert sum(run.stdout.count(" published ") for run in done) >= len(whole)


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_eight_publishers_of_different_bytes(publisher, shared, tmp_path, bucket_service, kind):
    """One wins for each module, the others are refused, and nothing is mixed."""
    hub, environment, storage = place(kind, tmp_path, bucket_service)
    caches = [tmp_path / f"cache{number}" for number in range(1, 9)]
    orders = []
    for number, cache in enumerate(caches, 1):
        sources = other_build(NAME, shared / "cache/hubpress", cache, number)
        command = (HANDLES[0], "--hub", hub, "--cache", cache)
        orders.append((command, {"environment": environment, "sources": sources}))
    done = publisher.at_once(orders)
    assert sorted(run.returncode for run in done) == [0] + [1] * 7, [run.stderr for run in done]
    for run in done:
        assert "Traceback" not in run.stderr
        if run.returncode:
            assert "publish version 2" in run.stderr or "without a record" in run.stderr
    (record,) = records.snapshot(storage).records
    winner = next(cache for cache, run in zip(caches, done, strict=True) if run.returncode == 0)
    build = winner / "builds" / record["build"]["key"] / "classifier.tar.gz"
    assert storage.read(record["archive"]["path"]) == build.read_bytes()
    assert not audit.audit(storage, thorough=True).errors


def test_formats_are_added_to_what_older_code_published(publisher, shared, tmp_path):
    """What would be built now is another archive, which is refused as ever; its files are made from what is published."""
    hub = tmp_path / "hub"
    sources = other_build(NAME, shared / "cache/hubpress", tmp_path / "cache", 1)
    assert publisher(NAME, "--hub", hub, "--cache", tmp_path / "cache", sources=sources).returncode == 0
    before = {path: Storage(hub).read(path) for path in Storage(hub).list() if path.endswith((".tar.gz", "/1.json"))}
    refused(publisher(NAME, "--hub", hub), "publish version 2")
    done = publisher(NAME, "--hub", hub, "--formats", "onnx,int8", converters="1")
    assert done.returncode == 0 and done.stdout.count(" kept ") == 2, done.stdout + done.stderr
    assert {path: Storage(hub).read(path) for path in before} == before
    for record in records.snapshot(Storage(hub)).records:
        for file in formats.load(Storage(hub), record).values():
            assert file["versions"]["hubpress"] and file["build"]["code"]
    assert not audit.audit(Storage(hub), thorough=True).problems


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_publishers_of_formats_who_meet(publisher, published, tmp_path, bucket_service, kind):
    """Of the same converters all succeed, each with formats of its own; of other converters one wins for each format."""
    hub, environment, storage = place(kind, tmp_path, bucket_service)
    order = {"environment": environment, "converters": "1"}
    command = (HANDLES[0], "--hub", hub, "--url", "http://one", "--formats")
    wanted = ["onnx,float32", "float32,int8", "all", "float16", "int8,float16", "onnx"]
    done = publisher.at_once([((*command, names), order) for names in wanted])
    assert [run.returncode for run in done] == [0] * len(wanted), [run.stderr for run in done]
    (record,) = records.snapshot(storage).records
    assert list(formats.load(storage, record)) == list(layout.FORMAT_FILES)
    assert not audit.audit(storage, thorough=True).problems
    before = {path: storage.read(path) for path in storage.list()}
    other = publisher(*command, "onnx,float32", environment=environment, converters="2")
    refused(other, "onnx is published with other bytes", "Fix: leave it out of --formats")
    assert "float32 is" not in other.stderr  # whose bytes are the same by other converters
    assert {path: storage.read(path) for path in storage.list()} == before


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_converters_of_eight_versions_who_meet(publisher, published, tmp_path, bucket_service, kind):
    hub, environment, storage = place(kind, tmp_path, bucket_service)
    command = (HANDLES[0], "--hub", hub, "--url", "http://one", "--formats", "int8")
    orders = [(command, {"environment": environment, "converters": str(number)}) for number in range(1, 9)]
    done = publisher.at_once(orders)
    assert sorted(run.returncode for run in done) == [0] + [1] * 7, [run.stderr for run in done]
    for run in done:
        assert "Traceback" not in run.stderr
        if run.returncode:
            assert "published with other bytes" in run.stderr or "without a record" in run.stderr
    (record,) = records.snapshot(storage).records
    assert list(formats.load(storage, record)) == ["int8"]
    assert not audit.audit(storage, thorough=True).errors


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_siblings_of_eight_publishers_come_from_one_build(publisher, shared, tmp_path, bucket_service, kind):
    """Eight builds at once, of both heads or of one: whatever is published is of one of them."""
    hub, environment, storage = place(kind, tmp_path, bucket_service)
    orders = []
    for number, wanted in enumerate([NAME, HANDLES[1], NAME, HANDLES[0], NAME, HANDLES[1], HANDLES[0], NAME], 1):
        sources = other_build(NAME, shared / "cache/hubpress", tmp_path / f"cache{number}", number)
        command = (wanted, "--hub", hub, "--cache", tmp_path / f"cache{number}")
        orders.append((command, {"environment": environment, "sources": sources}))
    done = publisher.at_once(orders)
    assert not [run.stderr for run in done if "Traceback" in run.stderr]
    assert len({record["build"]["key"] for record in records.snapshot(storage).records}) <= 1
    assert not audit.audit(storage, thorough=True).errors
