"""Storage: create-only and whole-or-nothing writes, paths that stay inside, errors that say what to do."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from tests.support.commands import ROOT
from tools.common import locks
from tools.hub import storage as storage_module
from tools.hub.storage import IMMUTABLE, TEMPORARY_PREFIX, AlreadyThere, NotThere, Storage, StorageError


def digests(data: bytes) -> dict:
    return {
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "md5": hashlib.md5(data, usedforsecurity=False).hexdigest(),
    }


# The contract, for every kind of storage


def test_create_is_create_only(storage):
    storage.create("p/n/1.json", b"first")
    with pytest.raises(AlreadyThere, match=r"1\.json exists already.*Fix: publish a new version"):
        storage.create("p/n/1.json", b"second")
    assert storage.read("p/n/1.json") == b"first"


@pytest.mark.parametrize("size", [1, 1000, 6 << 20], ids=["one byte", "small", "resumable upload"])
def test_create_from_a_file(storage, tmp_path, size):
    data = os.urandom(size)
    source = tmp_path / "source"
    source.write_bytes(data)
    seen = []
    storage.create("p/n/1.tar.gz", source, progress=lambda done, total: seen.append((done, total)))
    assert storage.stat("p/n/1.tar.gz").size == size
    assert storage.read("p/n/1.tar.gz") == data
    if storage.is_local:
        assert seen[-1] == (size, size)
    storage.verify("p/n/1.tar.gz", **digests(data))
    with pytest.raises(AlreadyThere):
        storage.create("p/n/1.tar.gz", source)
    assert source.read_bytes() == data


@pytest.mark.parametrize(
    ("stored", "reason"),
    [(b"abcd", "4 bytes, not the expected 3"), (b"abd", "not the expected [0-9a-f]+")],
    ids=["size", "digest"],
)
def test_verify_finds_what_differs(storage, stored, reason):
    storage.create("p/n/1.tar.gz", stored)
    with pytest.raises(StorageError, match=reason + r".*Fix: delete .*publish again"):
        storage.verify("p/n/1.tar.gz", **digests(b"abc"))


def test_verify_of_nothing(storage):
    with pytest.raises(NotThere):
        storage.verify("p/n/1.tar.gz", **digests(b"abc"))


def test_replace_writes_only_what_changed(storage):
    assert storage.replace("index.json", b"{}") is True
    assert storage.replace("index.json", b"{}") is False
    assert storage.replace("index.json", b"[]") is True
    assert storage.read("index.json") == b"[]"


def test_what_is_not_there(storage):
    storage.create("p/n/1.json", b"x")
    assert not storage.exists("p/n/2.json")
    assert not storage.exists("p/n")  # a folder is no object
    for call in (storage.read, storage.open, storage.stat):
        with pytest.raises(NotThere):
            call("p/n/2.json").close()


def test_open_is_seekable(storage):
    storage.create("p/n/1.tar.gz", b"0123456789")
    with storage.open("p/n/1.tar.gz") as file:
        file.seek(4)
        assert file.read(3) == b"456"


def test_list(storage):
    paths = [
        "index.json",
        "p/a/1.json",
        "p/a/1.tar.gz",
        "p/a/10.json",
        "p/a/1/index.html",
        "p/ab/c/2.json",
        "q/a/1.json",
    ]
    assert storage.list() == []
    for path in paths:
        storage.create(path, b"x")
    assert storage.list() == sorted(paths)
    assert storage.list("p/") == sorted(path for path in paths if path.startswith("p/"))
    assert storage.list("p/a") == ["p/a/1.json", "p/a/1.tar.gz", "p/a/1/index.html", "p/a/10.json", "p/ab/c/2.json"]
    assert storage.list("p/a/", ".json") == ["p/a/1.json", "p/a/10.json"]
    assert storage.list("p/a/", recursive=False) == ["p/a/1.json", "p/a/1.tar.gz", "p/a/10.json"]
    assert storage.list("", recursive=False) == ["index.json"]
    assert storage.list("nobody/") == []


def test_list_sees_what_others_wrote(storage):
    assert storage.list() == []
    other = Storage(storage.url, **getattr(storage._filesystem, "storage_options", {}))
    other.create("p/n/1.json", b"x")
    assert storage.list() == ["p/n/1.json"]
    assert storage.exists("p/n/1.json")


def test_is_there(storage):
    assert not storage.is_there()
    storage.create("index.html", b"x")
    assert storage.is_there()


def test_one_of_many_creators_wins(storage):
    outcomes = []
    barrier = threading.Barrier(6)

    def create(content: bytes) -> None:
        barrier.wait()
        try:
            storage.create("p/n/1.json", content)
            outcomes.append(content)
        except AlreadyThere:
            outcomes.append(None)

    threads = [threading.Thread(target=create, args=(b"%d" % number * 100_000,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [outcome for outcome in outcomes if outcome]
    assert len(outcomes) == 6
    assert len(winners) == 1
    assert storage.read("p/n/1.json") == winners[0]


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "..",
        "../x",
        "a/../../x",
        "a/./b",
        "a//b",
        "a/",
        "a\\b",
        "..\\x",
        "a\0b",
        "a\nb",
        ".hidden",
        "a/.hidden",
        TEMPORARY_PREFIX + "1",
        "x" * 256,
        "x/" * 600 + "x",
    ],
)
def test_no_path_leads_outside(storage, path):
    for call in (
        lambda: storage.create(path, b"x"),
        lambda: storage.replace(path, b"x"),
        lambda: storage.read(path),
        lambda: storage.open(path),
        lambda: storage.exists(path),
        lambda: storage.url_for(path),
    ):
        with pytest.raises(StorageError, match="is no path of a hub"):
            call()


def test_a_missing_source_is_said(storage, tmp_path):
    with pytest.raises(StorageError, match=r"there is no such file\. Fix: build it first"):
        storage.create("p/n/1.tar.gz", tmp_path / "nothing")


# Folders


def test_addresses(tmp_path):
    assert Storage(f"file://{tmp_path}/with%20blank").url == str(tmp_path / "with blank")
    local = Storage(tmp_path)
    assert local.is_local
    assert local.url_for("a/1.json") == f"{tmp_path}/a/1.json"
    assert local.local_path("a/1.json") == tmp_path / "a/1.json"
    remote = Storage("memory://some/hub/")
    assert not remote.is_local
    assert remote.url_for("a/1.json") == "memory://some/hub/a/1.json"
    with pytest.raises(StorageError, match="not a folder"):
        remote.local_path("a/1.json")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "empty"),
        ("nonsense://bucket/hub", "(?i)protocol not known.*Fix: give a folder"),
        ("s3://bucket/hub", "(?i)package that is not installed.*s3"),
    ],
)
def test_unusable_addresses(url, reason):
    if url.startswith("s3"):
        try:
            import s3fs  # noqa: F401
        except ImportError:
            pass
        else:
            pytest.skip("s3fs is installed")
    with pytest.raises(StorageError, match=reason):
        Storage(url)


def test_files_of_a_folder_can_be_served_by_others(tmp_path):
    previous = os.umask(0o022)
    try:
        Storage(tmp_path / "hub").create("p/n/1.json", b"x")
    finally:
        os.umask(previous)
    assert (tmp_path / "hub/p/n/1.json").stat().st_mode & 0o777 == 0o644
    assert os.listdir(tmp_path / "hub/p/n") == ["1.json"]


def test_links_out_of_a_folder_are_not_followed(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/1.json").write_bytes(b"secret")
    hub = tmp_path / "hub"
    hub.mkdir()
    (hub / "link").symlink_to(tmp_path / "secret")
    (hub / "folder").symlink_to(tmp_path / "outside")
    (hub / "dangling").symlink_to(tmp_path / "nothing")
    storage = Storage(hub)
    for path in ("link", "folder/1.json", "dangling"):
        with pytest.raises(NotThere):
            storage.read(path)
        assert not storage.exists(path)
    assert storage.list() == []
    with pytest.raises(StorageError):
        storage.create("folder/2.json", b"x")
    assert os.listdir(tmp_path / "outside") == ["1.json"]


def test_a_pipe_in_a_folder_does_not_hold_a_reader(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotThere):
        Storage(tmp_path).read("pipe")


def test_a_file_where_a_folder_must_be(tmp_path):
    (tmp_path / "p").write_bytes(b"")
    with pytest.raises(StorageError, match="is a file, but a folder is needed"):
        Storage(tmp_path).create("p/n/1.json", b"x")
    with pytest.raises(NotThere):
        Storage(tmp_path).read("p/n/1.json")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOSPC, "the disk is full. Fix: free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission is denied"),
        (errno.EIO, "Input/output error"),
    ],
)
@pytest.mark.parametrize("call", ["write", "fsync", "link"])
def test_failures_leave_nothing_behind(tmp_path, monkeypatch, code, reason, call):
    def fail(*arguments, **keywords):
        raise OSError(code, os.strerror(code))

    if call == "write":
        monkeypatch.setattr(storage_module, "_copy", fail)
    else:
        monkeypatch.setattr(os, call, fail)
    storage = Storage(tmp_path)
    with pytest.raises(StorageError, match=reason):
        storage.create("p/n/1.json", b"x")
    monkeypatch.undo()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    storage.create("p/n/1.json", b"x")  # and the same again finishes


def test_a_full_disk(tmp_path):
    """A real write past a real limit: the kernel refuses, in a process of its own."""
    code = textwrap.dedent(f"""
        import resource, signal, sys
        sys.path.insert(0, {str(ROOT)!r})
        from tools.hub.storage import Storage, StorageError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            Storage({str(tmp_path)!r}).create("p/n/1.tar.gz", bytes(5000))
        except StorageError as error:
            print(error)
    """)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Cannot write" in result.stdout
    assert "run the same command again" in result.stdout
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    test_create_is_create_only(Storage(tmp_path))
    test_one_of_many_creators_wins(Storage(tmp_path / "other"))
    assert Storage(tmp_path).list() == ["other/p/n/1.json", "p/n/1.json"]


def test_a_killed_publisher(tmp_path):
    """Killed in the middle of a write: no half object, and its leftovers go once nobody writes them."""
    code = textwrap.dedent(f"""
        import sys, time
        sys.path.insert(0, {str(ROOT)!r})
        from tools.hub.storage import Storage
        def wait(done, total):
            print("writing", flush=True)
            time.sleep(60)
        Storage({str(tmp_path)!r}).create("p/n/1.tar.gz", bytes(1000), progress=wait)
    """)
    storage = Storage(tmp_path)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        assert storage.list() == []
        assert not storage.exists("p/n/1.tar.gz")
        assert storage.delete_leftovers(older_than=0) == []  # its writer is at work
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert storage.list() == []
    assert storage.delete_leftovers() == []  # too young to be sure
    leftovers = storage.delete_leftovers(older_than=0)
    assert len(leftovers) == 1
    assert leftovers[0].startswith(f"p/n/{TEMPORARY_PREFIX}")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    storage.create("p/n/1.tar.gz", bytes(1000))


def test_old_leftovers_go_without_being_asked_twice(tmp_path):
    leftover = tmp_path / f"{TEMPORARY_PREFIX}1"
    leftover.write_bytes(b"x")
    os.utime(leftover, (time.time() - 120,) * 2)
    (tmp_path / ".other").write_bytes(b"x")
    assert Storage(tmp_path).delete_leftovers() == [leftover.name]
    assert (tmp_path / ".other").exists()


def test_a_reader_sees_old_or_new_but_no_half(tmp_path):
    storage = Storage(tmp_path)
    contents = {bytes([65 + number]) * 200_000 for number in range(2)}
    storage.replace("index.json", max(contents))
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for content in contents:
                storage.replace("index.json", content)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert {storage.read("index.json") for _ in range(300)} <= contents
    finally:
        stop.set()
        writer.join()


# Buckets


def test_what_a_bucket_is_told(bucket, bucket_service, tmp_path):
    source = tmp_path / "archive"
    source.write_bytes(os.urandom(6 << 20))
    bucket.create("p/n/1.tar.gz", source)
    bucket.create("p/n/1.json", b"{}")
    bucket.replace("p/n/1/index.html", b"<p>")
    folder = bucket.url.removeprefix("gs://bucket/")

    def stored(path):
        return bucket_service.objects.get_file_obj("bucket", f"{folder}/{path}")

    assert stored("p/n/1.tar.gz")["contentType"] == "application/gzip"
    assert not stored("p/n/1.tar.gz").get("contentEncoding")
    assert stored("p/n/1.tar.gz")["cacheControl"] == IMMUTABLE
    assert stored("p/n/1.json")["contentType"] == "application/json"
    assert stored("p/n/1/index.html")["contentType"].startswith("text/html")
    assert stored("p/n/1/index.html")["cacheControl"] == "no-cache"
    assert bucket.stat("p/n/1.json").md5 == hashlib.md5(b"{}").hexdigest()
    before = len(bucket_service.requests)
    bucket.verify("p/n/1.json", **digests(b"{}"))
    assert not [path for method, path in bucket_service.requests[before:] if "alt=media" in path]


def test_what_is_damaged_on_the_way_does_not_stay(bucket, bucket_service, monkeypatch):
    monkeypatch.setattr(bucket_service, "damage", (b"precious", b"precioux"))
    with pytest.raises(StorageError, match=r"damaged on the way .*Fix: run the same command again"):
        bucket.create("p/n/1.json", b"precious")
    monkeypatch.undo()
    assert not bucket.exists("p/n/1.json")
    bucket.create("p/n/1.json", b"precious")
    assert bucket.read("p/n/1.json") == b"precious"


def test_the_bucket_itself_refuses_a_second_create(bucket, monkeypatch):
    """The race between looking and writing is decided by the service, not by our look."""
    bucket.create("p/n/1.json", b"first")
    monkeypatch.setattr(bucket, "_information", lambda path: None)
    with pytest.raises(AlreadyThere):
        bucket.create("p/n/1.json", b"second")
    monkeypatch.undo()
    assert bucket.read("p/n/1.json") == b"first"


class _GcsError(Exception):
    code = 401


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("Forbidden: https://storage\nno access"), "permission is denied.*Fix: give this account the right"),
        (_GcsError("Anonymous caller does not have storage.objects.create"), "gcloud auth application-default login"),
        (ConnectionRefusedError(111, "Connection refused"), "cannot be reached.*Fix: check the network"),
        (TimeoutError("timed out"), "cannot be reached"),
        (RuntimeError("something else"), "something else"),
    ],
)
def test_errors_of_a_service_are_explained(monkeypatch, error, reason):
    storage = Storage("memory://errors/hub")

    def fail(*arguments, **keywords):
        raise error

    monkeypatch.setattr(storage._filesystem, "pipe_file", fail)
    monkeypatch.setattr(storage._filesystem, "info", lambda path: (_ for _ in ()).throw(FileNotFoundError(path)))
    with pytest.raises(StorageError, match=reason):
        storage.create("p/n/1.json", b"x")
    monkeypatch.setattr(storage._filesystem, "info", fail)
    with pytest.raises(StorageError, match=reason):
        storage.exists("p/n/1.json")  # not "no"


def test_the_folder_itself_refuses_a_second_create(tmp_path, monkeypatch):
    """The race between looking and writing is decided by the file system, not by our look."""
    storage = Storage(tmp_path)
    storage.create("p/n/1.json", b"first")
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    with pytest.raises(AlreadyThere):
        storage.create("p/n/1.json", b"second")
    assert storage.read("p/n/1.json") == b"first"
    assert os.listdir(tmp_path / "p/n") == ["1.json"]


def test_without_locks_nothing_is_taken_for_a_leftover(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    storage = Storage(tmp_path)
    storage.create("p/n/1.json", b"x")  # hard links suffice
    leftover = tmp_path / f"{TEMPORARY_PREFIX}1"
    leftover.write_bytes(b"x")
    assert storage.delete_leftovers(older_than=0) == [] and leftover.exists()


def test_with_neither_hard_links_nor_locks_nothing_is_created(tmp_path, monkeypatch):
    """Two publishers could overwrite each other there: looking first and renaming later is no promise."""

    def refuse(*arguments):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(locks, "fcntl", None)
    storage = Storage(tmp_path)
    with pytest.raises(StorageError, match=r"neither hard links nor locks.*Fix: choose a hub on another file system"):
        storage.create("p/n/1.json", b"x")
    assert storage.list() == [] and not storage.exists("p/n/1.json")
    assert storage.replace("index.json", b"{}")  # what is derived may be overwritten
