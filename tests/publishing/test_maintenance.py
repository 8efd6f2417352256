"""After publication: versions, yanks and audits, and a bucket through the real commands."""

import json
import os
import shutil
import signal
import uuid

import pytest
import requests

from tests.support.commands import run_script
from tests.support.hubs import HANDLES, NAME, bucket_storage
from tools import catalog
from tools.catalog import layout
from tools.hub import notes, records, unpacked
from tools.hub.storage import IMMUTABLE, Storage, StorageError
from tools.server.server import serve
from tools.site.writing import write_pages
from tools.verification import audit

HANDLE = HANDLES[0]
WHY = "trained on its test images"


@pytest.fixture
def hub(published, tmp_path):
    """A copy of the published quickstart hub."""
    shutil.copytree(published[0], tmp_path / "hub")
    return Storage(tmp_path / "hub")


def add_version(storage, number):
    """The same module once more, as another version: what a publisher of version 2 leaves."""
    record = records.load(storage, HANDLE)
    name = f"hubpress/{NAME}/{number}"
    record |= {"handle": name, "version": number, "sibling": None, "published": f"2030-01-0{number}T00:00:00Z"}
    record["archive"]["path"] = layout.archive_path(name)
    record["row"]["version"] = number
    storage.create(layout.archive_path(name), storage.read(layout.archive_path(HANDLE)))
    storage.create(layout.record_path(name), records.encode(record))
    return name


def render(storage, url="http://one"):
    return write_pages(catalog.load(), storage, url)


def index(storage):
    return {module["handle"]: module for module in json.loads(storage.read("index.json"))["modules"]}


# Versions and yanks


def test_version_2_keeps_version_1(hub):
    before = {path: hub.read(path) for path in hub.list(HANDLE[:-2] + "/1.")}
    second = add_version(hub, 2)
    render(hub)
    assert {HANDLE, second} <= set(index(hub))
    for path in (f"{HANDLE}.tar.gz", f"{HANDLE}.json"):
        assert hub.read(path) == before[path]
    for handle in (HANDLE, second):
        document = hub.read(f"{handle}.md").decode()
        assert HANDLE in document and second in document
        page = hub.read(f"{handle}/index.html").decode()
        assert ("../2/" if handle == HANDLE else "../1/") in page
    collection = hub.read("hubpress/collections/quickstart/1.md").decode()
    assert f"/{second}" in collection and f"/{HANDLE}" not in collection


def test_yank_and_back(publisher, hub, published):
    second = add_version(hub, 2)
    render(hub, published[1])
    whole = {path: hub.read(path) for path in hub.list()}
    done = publisher(second, "--hub", hub.url, "--why", WHY, script="yank")
    assert done.returncode == 0 and f"{second} is yanked;" in done.stdout, done.stderr
    assert WHY in hub.read(f"{second}.md").decode() and WHY in hub.read(f"{second}/index.html").decode()
    assert "withdrawn" in hub.read(f"{HANDLE}/index.html").decode()  # among its versions
    assert index(hub)[second]["yanked"] == WHY and index(hub)[HANDLE]["yanked"] is None
    collection = hub.read("hubpress/collections/quickstart/1.md").decode()
    assert f"/{HANDLE}" in collection and f"/{second}" not in collection
    for path in (f"{second}.json", f"{second}.tar.gz"):
        assert hub.read(path) == whole[path]
    assert not audit.audit(hub).problems
    with serve(hub) as url:
        newest = requests.get(f"{url}/hubpress/{NAME}?tf-hub-format=compressed", allow_redirects=False, timeout=20)
        assert newest.status_code == 302 and newest.headers["Location"].startswith(f"./{NAME}/1?")
        still = requests.get(f"{url}/{second}?tf-hub-format=compressed", timeout=20)
        assert still.status_code == 200 and still.content == whole[f"{second}.tar.gz"]
        # again is nothing, and its undo is another note
        again = publisher(second, "--hub", hub.url, "--why", WHY, script="yank")
        assert again.returncode == 0 and "yanked already; 0 pages written" in again.stdout
        back = publisher(second, "--hub", hub.url, "--undo", script="yank")
        assert back.returncode == 0 and "no longer yanked;" in back.stdout, back.stderr
        newest = requests.get(f"{url}/hubpress/{NAME}", allow_redirects=False, timeout=20)
        assert newest.headers["Location"] == f"./{NAME}/2/"
    added = [f"{second}.note-1.json", f"{second}.note-2.json"]
    assert {path: hub.read(path) for path in hub.list() if path not in added} == whole
    assert [json.loads(hub.read(note))["action"] for note in added] == ["yank", "unyank"]


def test_a_name_whose_versions_are_all_yanked_still_leads_somewhere(hub):
    notes.add_note(hub, HANDLE, "yank", WHY, date="2030-01-01T00:00:00Z")
    with serve(hub) as url:
        newest = requests.get(f"{url}/hubpress/{NAME}", allow_redirects=False, timeout=20)
        assert newest.headers["Location"] == f"./{NAME}/1/"


def test_notes_are_added_and_numbered_by_whoever_comes(storage):
    """On every kind of storage; a rival that takes the number between look and write is not overwritten."""
    storage.create(f"{HANDLE}.json", records.encode({"kind": "Module", "handle": HANDLE}))
    create, date = storage.create, "2030-01-01T00:00:00Z"

    def rival_first(path, data, **options):
        storage.create = create
        create(path, records.encode({"kind": "Note", "handle": HANDLE, "action": "yank", "why": "rival"}))
        return create(path, data, **options)

    storage.create = rival_first
    note = notes.add_note(storage, HANDLE, "yank", WHY, date=date)
    assert note["number"] == 2 and notes.yanked(storage, storage.list()) == {HANDLE: WHY}
    assert notes.add_note(storage, HANDLE, "yank", WHY, date=date) is None
    assert notes.add_note(storage, HANDLE, "unyank", "", date=date)["number"] == 3
    assert notes.add_note(storage, HANDLE, "unyank", "", date=date) is None
    for number in range(4, 13):  # ten comes after nine
        assert notes.add_note(storage, HANDLE, "yank", f"reason {number}", date=date)["number"] == number
    assert notes.yanked(storage, storage.list()) == {HANDLE: "reason 12"}
    with pytest.raises(StorageError, match="is not published"):
        notes.add_note(storage, "hubpress/nothing/1", "yank", WHY, date=date)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([HANDLE], 2, "--why --undo is required"),
        ([HANDLE, "--why", " "], 2, "--why: the reason is empty. Fix: say why"),
        ([HANDLE, "--why", "x", "--undo"], 2, "not allowed with"),
        (["--why", "x"], 2, "HANDLE"),
        (["hubpress/nothing/1", "--why", "x"], 2, "is not published"),
        (["../../etc/passwd", "--undo"], 2, "is no handle of a module"),
        (["../../etc/1", "--undo"], 1, "is no path of a hub"),
    ],
)
def test_yanks_that_are_refused(publisher, published, arguments, code, said):
    done = publisher("--hub", published[0], *arguments, script="yank")
    assert done.returncode == code and said in done.stderr and "Traceback" not in done.stderr


# Audits


def spoil(storage, path, data):
    file = storage.local_path(path)
    file.write_bytes(data(file.read_bytes()) if data else b"")


AUDITED = {
    "other size": (lambda s: spoil(s, f"{HANDLE}.tar.gz", lambda d: d[:-1]), False, "`archive.bytes`: the record says"),
    "same size": (lambda s: spoil(s, f"{HANDLE}.tar.gz", lambda d: d[:-9] + b"?" + d[-8:]), True, "is damaged"),
    "gone": (lambda s: s.local_path(f"{HANDLE}.tar.gz").unlink(), False, "is missing although"),
    "record gone": (lambda s: s.local_path(f"{HANDLE}.json").unlink(), False, "which has no record"),
    "no facts": (
        lambda s: spoil(s, f"{HANDLE}.json", lambda d: d.replace(b'"sha256"', b'"sha1"')),
        False,
        "restore it",
    ),
    "record of another shape": (
        lambda s: spoil(
            s, f"{HANDLE}.json", lambda d: json.dumps({"kind": "Module", "handle": HANDLE, "archive": 7}).encode()
        ),
        False,
        "archive: 7 is not of type 'object'",
    ),
    "index": (
        lambda s: spoil(s, "index.json", lambda d: d.replace(f'"{HANDLE}"'.encode(), b'"a/b/1"')),
        False,
        "lists a/b/1, which has no record",
    ),
    "note gone": (
        lambda s: s.create(f"{HANDLE}.note-2.json", b'{"kind": "Note", "action": "yank"}'),
        False,
        "one is missing",
    ),
}


@pytest.mark.parametrize("case", AUDITED)
def test_an_audit_finds(hub, case):
    change, thorough, said = AUDITED[case]
    assert not audit.audit(hub, thorough=True).problems
    change(hub)
    report = audit.audit(hub, thorough=thorough)
    assert any(said in str(problem) for problem in report.errors), report.problems
    if thorough:
        assert not audit.audit(hub).errors  # which is what the quick one cannot see in a folder


@pytest.mark.parametrize("path", [f"{HANDLE}.md", "index.json"])
def test_an_audit_warns_of_what_the_next_run_mends(hub, published, path):
    hub.local_path(path).unlink()
    report = audit.audit(hub)
    assert not report.errors and path in str(report.problems[0]) and "tools/render.py" in str(report.problems[0])
    assert render(hub, published[1]) == 1
    assert not audit.audit(hub).problems


def test_the_audit_command(publisher, hub):
    done = publisher("--hub", hub.url, "--thorough", script="audit")
    assert done.returncode == 0 and "0 errors, 0 warnings" in done.stdout and "every archive read" in done.stdout
    hub.create("hubpress/x/1.tar.gz", b"half")
    spoil(hub, f"{HANDLE}.tar.gz", lambda data: data[:100])
    done = publisher("--hub", hub.url, script="audit")
    assert done.returncode == 1 and "1 errors, 1 warnings" in done.stdout
    assert "hubpress/x/1.tar.gz: it has no record" in done.stderr and "the archive has 100" in done.stderr


def test_a_record_that_is_no_json_is_named(publisher, hub):
    spoil(hub, f"{HANDLE}.json", lambda data: data[:50])
    done = publisher("--hub", hub.url, script="audit")
    assert done.returncode == 1 and f"{HANDLE}.json: it is no JSON" in done.stderr and "Traceback" not in done.stderr


# A bucket


@pytest.fixture(scope="module")
def in_bucket(publisher, published, bucket_service):
    """The digits, published into a bucket by the command: (address, environment, its run)."""
    url, environment = "gs://bucket/published/hub", {"STORAGE_EMULATOR_HOST": bucket_service.url}
    done = publisher(NAME, "--hub", url, "--url", "http://one", environment=environment)
    assert done.returncode == 0, done.stderr
    return url, environment, done


def test_published_into_a_bucket(in_bucket, bucket_service, published):
    assert in_bucket[2].stdout.count("published ") >= 2
    storage = Storage(in_bucket[0], endpoint_url=bucket_service.url, token="anon")
    assert storage.read(f"{HANDLE}.tar.gz") == (published[0] / f"{HANDLE}.tar.gz").read_bytes()
    for path in storage.list():
        stored = bucket_service.objects.get_file_obj("bucket", f"published/hub/{path}")
        is_kept = path.endswith(".tar.gz") or path.removesuffix(".json") in (HANDLE, f"hubpress/{NAME}_fe/1")
        assert stored["cacheControl"] == (IMMUTABLE if is_kept else "no-cache")
        assert not stored.get("contentEncoding")
    report = audit.audit(storage)
    assert not report.problems and report.depth == "digests" and report.modules == 2
    assert not audit.audit(storage, thorough=True).problems


def test_publishing_the_same_again_costs_two_looks_for_each_module(publisher, in_bucket, bucket_service):
    url, environment, _ = in_bucket
    before = len(bucket_service.requests)
    done = publisher(NAME, "--hub", url, "--url", "http://one", environment=environment)
    assert done.returncode == 0 and "\n0 pages written" in done.stdout
    made = bucket_service.requests[before:]
    assert {method for method, _ in made} == {"GET"}
    looks = [path for _, path in made if "alt=media" in path or "/o/" in path]
    assert len(looks) == 4, made  # the record, and the size of the archive
    # gcsfs asks whether an object is a folder as well; the rest are those of the pages.
    listings = [path for _, path in made if path not in looks and ".tar.gz" not in path]
    assert len(listings) <= 2, made


def test_a_bucket_is_rendered_yanked_and_served(publisher, in_bucket, bucket_service):
    url, environment, _ = in_bucket
    storage = Storage(url, endpoint_url=bucket_service.url, token="anon")
    told = ("--hub", url, "--url", "http://one")
    done = publisher(HANDLE, *told, "--why", WHY, script="yank", environment=environment)
    assert done.returncode == 0, done.stderr
    assert index(storage)[HANDLE]["yanked"] == WHY
    with serve(storage) as address:
        archive = requests.get(f"{address}/{HANDLE}?tf-hub-format=compressed", timeout=20)
        assert archive.content == storage.read(f"{HANDLE}.tar.gz") and "Content-Encoding" not in archive.headers
        part = requests.get(f"{address}/{HANDLE}.tar.gz", headers={"Range": "bytes=100-199"}, timeout=20)
        assert part.status_code == 206 and part.content == archive.content[100:200]
        assert WHY in requests.get(f"{address}/{HANDLE}/", timeout=20).text
        verified = run_script("verify", address, url, "--all", "--no-replay", "--format", "json", **environment)
        found = json.loads(verified.stdout)
        assert len(found) == 4 and [each["note"] for each in found].count(f"withdrawn: {WHY}") == 2
    assert publisher(HANDLE, *told, "--undo", script="yank", environment=environment).returncode == 0
    assert index(storage)[HANDLE]["yanked"] is None


def test_a_quick_audit_of_a_bucket_compares_digests(in_bucket, bucket_service):
    """Bytes of the same number, and others: what a folder tells only to a thorough audit."""
    url = f"gs://bucket/{uuid.uuid4().hex}"
    whole, copied = bucket_storage(bucket_service, in_bucket[0]), bucket_storage(bucket_service, url)
    for path in whole.list():
        copied.create(path, whole.read(path))
    assert not audit.audit(copied).problems
    archive = copied.read(f"{HANDLE}.tar.gz")
    copied.replace(f"{HANDLE}.tar.gz", archive[:-1] + b"?")
    (problem,) = audit.audit(copied).errors
    assert problem.file == f"{HANDLE}.tar.gz" and "`archive.md5`: the record says" in problem.message


# Unpacked


def test_unpacked_modules(publisher, emulator, bucket_service, consumer, tmp_path, any_url):
    """`--unpacked`, killed on the way and finished: the real resolver is sent to the bucket, and what lies there is the module.

    The emulator speaks no gRPC and TensorFlow's own client for gs:// knows no other host than Google's, so the last step, reading
    the SavedModel where it lies, is made through gcsfs.
    """
    url = f"gs://bucket/{uuid.uuid4().hex}"
    storage = bucket_storage(bucket_service, url)
    assert publisher(NAME, "--hub", url, environment=emulator).returncode == 0
    order = {"environment": emulator}
    with serve(storage) as address:
        ask = f"{address}/{HANDLE}?tf-hub-format=uncompressed"
        for at in (1, 12, 25, 40):
            killed = publisher(NAME, "--hub", url, "--unpacked", at=at, **order)
            assert killed.returncode == -signal.SIGKILL
            answer = requests.get(ask, allow_redirects=False, timeout=20)
            members = {path for path in storage.list(f"{HANDLE}/") if not path.endswith("index.html")}
            assert answer.status_code == (303 if f"{HANDLE}/saved_model.pb" in members else 404)
        done = publisher(NAME, "--hub", url, "--unpacked", **order)
        assert done.returncode == 0, done.stderr
        assert not audit.audit(storage, thorough=True).problems
        answer = requests.get(ask, allow_redirects=False, timeout=20)
        assert answer.status_code == 303 and answer.text == answer.headers["Location"] == f"{url}/{HANDLE}"
        (resolved,) = consumer(f"{address}/{HANDLE}", where=True)
        assert resolved == {"resolved": f"{url}/{HANDLE}"}
        before = len(bucket_service.requests)
        assert publisher(NAME, "--hub", url, "--unpacked", **order).returncode == 0
        assert {method for method, _ in bucket_service.requests[before:]} == {"GET"}
    for path in storage.list(f"{HANDLE}/"):
        file = tmp_path / "module" / path.removeprefix(f"{HANDLE}/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(storage.read(path))
    there, elsewhere = consumer(str(tmp_path / "module"), f"{any_url}/{HANDLE}")
    assert there == elsewhere and "answer" in there


def test_unpacked_members_of_other_bytes_are_never_adopted(publisher, hub):
    """Somebody else's file in the place of a member is refused; and a damaged archive is not unpacked."""
    path = f"{HANDLE}/variables/variables.index"
    hub.create(path, b"somebody's")
    done = publisher(NAME, "--hub", hub.url, "--unpacked")
    assert done.returncode == 1 and f"{path} has 10 bytes" in done.stderr and "Traceback" not in done.stderr
    assert not hub.exists(f"{HANDLE}/saved_model.pb") and hub.read(path) == b"somebody's"
    spoil(hub, f"{HANDLE}.tar.gz", lambda data: data[:-9] + b"?" + data[-8:])
    done = publisher(NAME, "--hub", hub.url, "--unpacked")
    assert done.returncode == 1 and f"The archive of {HANDLE} is damaged" in done.stderr


# Pages that somebody changed


def changed_in_place(path, change):
    """Change a file without another length, and put its time back."""

    def do(storage):
        file = storage.local_path(path)
        before = file.stat()
        data = file.read_bytes()
        with file.open("r+b") as opened:
            opened.write(change(data))
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert file.stat().st_size == before.st_size and file.stat().st_mtime_ns == before.st_mtime_ns

    return do


def swapped(data):
    return data.replace(b"hubpress", b"evilpres", 1)


CHANGED = [f"{HANDLE}.md", f"{HANDLE}/index.html", "index.html", "static/site.js", "feed.xml", "hubpress/index.html"]


@pytest.mark.parametrize("path", CHANGED)
def test_a_page_that_was_changed_in_place_is_found_and_mended(hub, published, tmp_path, path):
    rows = catalog.load()
    assert write_pages(rows, hub, published[1], cache=tmp_path / "cache") == 0
    assert not audit.audit(hub, thorough=True, catalog=rows).problems
    changed_in_place(path, swapped if b"hubpress" in hub.read(path) else lambda data: b"// evil" + data[7:])(hub)
    (problem,) = audit.audit(hub, thorough=True, catalog=rows).errors
    assert problem.file == path and "tools/render.py" in problem.fix
    assert not audit.audit(hub).problems  # reads no page
    assert write_pages(rows, hub, published[1], cache=tmp_path / "cache") == 1
    assert not audit.audit(hub, thorough=True, catalog=rows).problems


@pytest.mark.parametrize(
    "path",
    [
        "evil.html",
        "hubpress/evil/index.html",
        f"{HANDLE}/evil.html",
        f"{HANDLE}/assets.txt",
        "static/evil.js",
        "x/y/1.txt",
    ],
)
def test_a_file_that_nobody_made_is_named(hub, path):
    hub.create(path, b"evil")
    errors = audit.audit(hub, thorough=True, catalog=catalog.load()).errors
    assert [problem.file for problem in errors] == [path] and "nobody" in str(errors[0])


def test_an_unpacked_module_and_a_yank_are_no_strangers(hub, published):
    unpacked.store(hub, HANDLE)
    notes.add_note(hub, HANDLE, "yank", "a reason", date="2026-01-31T12:00:00Z")
    render(hub, published[1])
    assert not audit.audit(hub, thorough=True, catalog=catalog.load()).problems


def test_an_index_that_names_the_address_of_somebody_else(hub):
    data = json.loads(hub.read("index.json")) | {"url": "https://evil.example"}
    hub.replace("index.json", json.dumps(data).encode())
    errors = audit.audit(hub, thorough=True, catalog=catalog.load()).errors
    assert any("https://evil.example" in str(problem) and "--url" in problem.fix for problem in errors)
