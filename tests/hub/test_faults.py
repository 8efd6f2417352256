"""Storage that fails while the real command publishes, and publishers that meet: refused with a reason, finished when run again."""

import concurrent.futures
import ctypes
import gzip
import hashlib
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import types
import uuid
from pathlib import Path

import pytest

from tools.hub import audit, records
from tools.hub import storage as storage_module
from tools.hub.storage import AlreadyThere, Storage, StorageError

ROOT = Path(__file__).resolve().parents[2]
NAME = "convnext_digits"
HANDLES = [f"hubpress/{NAME}/1", f"hubpress/{NAME}_fe/1"]


def publish(*arguments, prepare=None, **environment):
    return subprocess.run(
        [sys.executable, ROOT / "tools/publish.py", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
        preexec_fn=prepare,
    )


def refused(done, *said):
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    for each in said:
        assert each in done.stderr


def finishes(hub, *options):
    done = publish(NAME, "--hub", hub, *options)
    assert done.returncode == 0, done.stderr
    storage = Storage(hub)
    assert [record["handle"] for record in records.load_all(storage)] == HANDLES
    assert not audit.audit(storage, thorough=True).findings


# Folders


def test_a_disk_that_fills_up(published, tmp_path):
    """A real limit of the kernel, lower than an archive: what a full disk does, for every user."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    refused(publish(NAME, "--hub", tmp_path / "hub", prepare=limit), "Cannot write", "run the same command again")
    assert [path for path in (tmp_path / "hub").rglob("*") if path.is_file()] == []
    finishes(tmp_path / "hub")


@pytest.mark.parametrize("room", [300_000, 1_000_000], ids=["for no archive", "for one archive"])
def test_a_full_disk(published, tmp_path, room):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={room}", "none", disk], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only a privileged user can mount a small disk")
    try:
        refused(publish(NAME, "--hub", disk / "hub"), "the disk is full. Free some space")
        storage = Storage(disk / "hub")
        assert not audit.audit(storage, thorough=True).errors
        assert not [path for path in (disk / "hub").rglob(".*") if path.is_file()]
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        finishes(disk / "hub")
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_disk_that_cannot_be_written(published, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", disk], capture_output=True, check=False).returncode:
        pytest.skip("only a privileged user can mount a disk")
    try:
        refused(publish(NAME, "--hub", disk / "hub"), "read-only", "Choose a hub that can be written")
        refused(publish(NAME, "--hub", disk), "read-only", "Choose a hub that can be written")
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_folder_of_somebody_else(published, tmp_path):
    hub = tmp_path / "hub"
    hub.mkdir()
    hub.chmod(stat.S_IRUSR | stat.S_IXUSR)

    def prepare():
        """Root is denied nothing, unless it loses CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH (prctl's PR_CAPBSET_DROP)."""
        for capability in (1, 2):
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)

    done = publish(NAME, "--hub", hub, prepare=prepare)
    hub.chmod(stat.S_IRWXU)
    refused(done, "permission is denied", "Give this user the right to it")
    assert not list(hub.iterdir())
    finishes(hub)


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
    with pytest.raises(StorageError, match=r"cannot be reached.*Check the network, then run it again"):
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
def test_the_command_when_answers_are_lost(published, bucket_service, at):
    """The module is published all the same, by this run."""
    url = f"gs://bucket/{uuid.uuid4().hex}"
    bucket_service.faults[:] = [None] * at + ["lost answer"]
    done = publish(NAME, "--hub", url, STORAGE_EMULATOR_HOST=bucket_service.url)
    assert done.returncode == 0 and done.stdout.count(" published ") == 2, done.stdout + done.stderr
    assert not audit.audit(Storage(url, endpoint_url=bucket_service.url, token="anon"), thorough=True).findings


def test_a_bucket_that_is_gone(pauses, tmp_path):
    storage = Storage("gs://bucket/hub", endpoint_url="http://127.0.0.1:9", token="anon")
    for call in (storage.survey, lambda: storage.create("p/n/1.json", b"x"), lambda: storage.read("p/n/1.json")):
        with pytest.raises(StorageError, match="cannot be reached"):
            call()


# Rivals


def other_builds(cache: Path, target: Path, level: int) -> Path:
    """A cache whose builds hold the same modules in other bytes: compressed in another way."""
    shutil.copytree(cache, target)
    for made in target.glob("builds/*/made.json"):
        facts = json.loads(made.read_text())
        for head, packed in facts["packed"].items():
            file = made.with_name(f"{head}.tar.gz")
            data = gzip.compress(gzip.decompress(file.read_bytes()), level, mtime=level)
            file.write_bytes(data)
            packed |= {
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "md5": hashlib.md5(data, usedforsecurity=False).hexdigest(),
            }
        made.write_text(json.dumps(facts))
    return target


def at_once(runs):
    with concurrent.futures.ThreadPoolExecutor(len(runs)) as pool:
        return [run.result() for run in [pool.submit(publish, *arguments, **kwargs) for arguments, kwargs in runs]]


def place(kind, tmp_path, bucket_service):
    """(hub, environment, the opened storage) of a new hub."""
    if kind == "folder":
        return tmp_path / "hub", {}, Storage(tmp_path / "hub")
    url = f"gs://bucket/{uuid.uuid4().hex}"
    return (
        url,
        {"STORAGE_EMULATOR_HOST": bucket_service.url},
        Storage(url, endpoint_url=bucket_service.url, token="anon"),
    )


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_eight_publishers_of_the_same_and_of_others(published, tmp_path, bucket_service, kind):
    hub, environment, storage = place(kind, tmp_path, bucket_service)
    names = [NAME, NAME, NAME, HANDLES[0], HANDLES[1], "regnety_digits", "vit_digits", "quickstart"]
    done = at_once([((name, "--hub", hub, "--url", "http://one"), environment) for name in names])
    assert [run.returncode for run in done] == [0] * 8, [run.stderr for run in done]
    whole = {record["handle"]: record["archive"] for record in records.load_all(Storage(published[0]))}
    assert {record["handle"]: record["archive"] for record in records.load_all(storage)} == whole
    assert {m["handle"] for m in json.loads(storage.read("index.json"))["modules"]} == set(whole)
    assert not audit.audit(storage, thorough=True).findings
    # Each by one of them; a rival whose record of the same second is the same to the byte says so, too.
    assert sum(run.stdout.count(" published ") for run in done) >= len(whole)


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_eight_publishers_of_different_bytes(published, shared, tmp_path, bucket_service, kind):
    """One wins for each module, the others are refused, and nothing is mixed."""
    hub, environment, storage = place(kind, tmp_path, bucket_service)
    caches = [shared / "cache/hubpress"]
    caches += [other_builds(caches[0], tmp_path / f"cache{level}", level) for level in range(3, 10)]
    done = at_once([((HANDLES[0], "--hub", hub, "--cache", cache), environment) for cache in caches])
    assert sorted(run.returncode for run in done) == [0] + [1] * 7, [run.stderr for run in done]
    for run in done:
        assert "Traceback" not in run.stderr
        if run.returncode:
            assert "publish version 2" in run.stderr or "without a record" in run.stderr
    (record,) = records.load_all(storage)
    winner = next(cache for cache, run in zip(caches, done, strict=True) if run.returncode == 0)
    build = winner / "builds" / record["build"]["key"] / "classifier.tar.gz"
    assert storage.read(record["archive"]["path"]) == build.read_bytes()
    assert not audit.audit(storage, thorough=True).errors
