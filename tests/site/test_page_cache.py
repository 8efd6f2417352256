"""Pages of a hub with and without the page cache: never stale, whatever changes, and nothing is made twice."""

import shutil

import pytest

from tests.support import synthetic
from tools.catalog import layout
from tools.catalog.catalog import Catalog, Publisher
from tools.hub import json_objects, records
from tools.hub.storage import Storage
from tools.site import jobs, module_pages, pages, writing
from tools.site.jobs import Job

HANDLE = "hubpress/convnext_digits/1"
NOTE = {
    "schema": 1,
    "kind": "Note",
    "handle": HANDLE,
    "number": 1,
    "action": "evaluation",
    "date": "2026-12-01T08:00:00Z",
    "measurement": {
        "dataset": "optical-recognition-of-handwritten-digits",
        "split": "test",
        "images": 360,
        "top1": {"value": 97.5, "correct": 351},
        "top5": {"value": 100.0, "correct": 360},
        "versions": {"tensorflow": "2.21.0"},
        "list_sha256": "0" * 64,
    },
}
YANK = {
    "schema": 1,
    "kind": "Note",
    "handle": HANDLE,
    "number": 1,
    "action": "yank",
    "why": "wrong",
    "date": "2026-12-01",
}


def catalog(**changes):
    parts = {"publisher": synthetic.PUBLISHER, "collections": synthetic.COLLECTIONS, **changes}
    return Catalog(variants=(), preprocessing={}, root=synthetic.ROOT, **parts)


class Hub:
    """A folder of records, whose pages are written with the page cache in `cache`."""

    def __init__(self, folder):
        self.folder, self.storage, self.cache = folder / "hub", Storage(folder / "hub"), folder / "cache"

    def put(self, content):
        handle = content["handle"]
        note = content["kind"] == "Note"
        path = layout.note_path(handle, content["number"]) if note else layout.record_path(handle)
        self.storage.replace(path, records.encode(content))

    def write(self, *, url=synthetic.BASE_URL, cached=True, **changes):
        return writing.write_pages(catalog(**changes), self.storage, url, cache=self.cache if cached else None)

    def derived(self):
        found = {path: self.storage.read(path) for path in self.storage.list()}
        return {path: data for path, data in found.items() if not records.is_record_or_note(path)}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A hub whose pages were written and cached."""
    hub = Hub(tmp_path_factory.mktemp("kept"))
    for record in synthetic.records():
        hub.put(record)
    assert hub.write() > 20
    return hub


@pytest.fixture
def hub(written, tmp_path):
    """A hub of its own, with its pages and its page cache."""
    folder = tmp_path / "hub"
    shutil.copytree(written.folder, folder)
    copy = Hub(tmp_path)
    assert copy.write() == 0  # nothing is known of the copy yet: everything is compared, and cached from now on
    return copy


def replace(hub, **changes):
    hub.put(synthetic.change(synthetic.record("convnext_digits", sibling="hubpress/convnext_digits_fe/1"), **changes))


# What may change between two runs: each must show on the same pages as without a cache.
PUBLISHER = Publisher("hubpress", "A new title", "A new description.", "ObjectInfo.\n", synthetic.BASE_URL)
CHANGES = {
    "a fact": (lambda hub: replace(hub, row__top1=99.0), {}),
    "a measured figure": (lambda hub: replace(hub, measured__gflops=0.5), {}),
    "a new version": (lambda hub: hub.put(synthetic.record("convnext_digits", version=2)), {}),
    "a version that goes": (lambda hub: (hub.folder / f"{HANDLE}.json").unlink(), {}),
    "a withdrawal": (lambda hub: hub.put(YANK), {}),
    "a measurement": (lambda hub: hub.put(NOTE), {}),
    "a page that goes": (lambda hub: (hub.folder / f"{HANDLE}/index.html").unlink(), {}),
    "a page that somebody edits": (lambda hub: (hub.folder / "index.html").write_text("mine"), {}),
    "the publisher": (lambda hub: None, {"publisher": PUBLISHER}),
    "the collections": (lambda hub: None, {"collections": (synthetic.collection("new", "New", data=("digits",)),)}),
    "the address": (lambda hub: None, {"url": "https://elsewhere.example.org"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_pages_are_those_that_would_be_made_without_a_cache(hub, change):
    make, arguments = CHANGES[change]
    make(hub)
    assert hub.write(**arguments) > 0
    found = hub.derived()
    assert hub.write(**arguments, cached=False) == 0
    assert hub.derived() == found


def made(monkeypatch, hub):
    """The handles of the modules whose pages were made by a run, and how many pages of any kind."""
    found, count = [], []
    texts, job = module_pages.texts, Job.pages
    monkeypatch.setattr(module_pages, "texts", lambda hub, module: (found.append(module.handle), texts(hub, module))[1])
    monkeypatch.setattr(Job, "pages", lambda self: (count.append(self.files), job(self))[1])
    hub.write()
    monkeypatch.undo()
    return found, len(count)


def test_only_what_changed_is_made_and_read(monkeypatch, hub):
    assert made(monkeypatch, hub) == ([], 0)
    hub.put(NOTE)
    reads = []
    monkeypatch.setattr(
        json_objects, "read", lambda storage, path, read=json_objects.read: (reads.append(path), read(storage, path))[1]
    )
    handles, jobs = made(monkeypatch, hub)
    assert (
        handles == [HANDLE, "hubpress/convnext_digits_fe/1"] and jobs < 12
    )  # the extractor names its classifier's accuracy
    assert reads == [f"{HANDLE}.note-1.json"]
    replace(hub, row__top1=99.0)
    assert made(monkeypatch, hub)[0] == [HANDLE, "hubpress/convnext_digits_fe/1"]  # and the sibling that names it
    assert made(monkeypatch, hub) == ([], 0)


def test_other_code_makes_everything_again(monkeypatch, hub):
    monkeypatch.setattr(pages, "renderer_key", lambda module: "changed")
    found = []
    texts = module_pages.texts
    monkeypatch.setattr(module_pages, "texts", lambda hub, module: (found.append(module.handle), texts(hub, module))[1])
    assert hub.write() == 0 and len(found) == len(synthetic.records())  # all are made, and none differs


@pytest.mark.parametrize("damage", ["cut", "text", "folder", "a record"])
def test_a_damaged_file_is_as_good_as_none(hub, damage):
    (file,) = (hub.cache / "pages").iterdir()
    if damage == "folder":
        file.unlink()
        file.mkdir()
    elif damage == "a record":
        data = file.read_bytes()
        assert b"trained on 8x8" in data
        file.write_bytes(data.replace(b"trained on 8x8", b"trained on 9x9"))
    else:
        file.write_bytes(file.read_bytes()[:1000] if damage == "cut" else b"no database")
    before = hub.derived()
    hub.put(NOTE)
    assert hub.write() > 0
    after = hub.derived()
    assert hub.write(cached=False) == 0 and hub.derived() == after != before


def test_several_processes_write_the_same_bytes(monkeypatch, hub):
    before = hub.derived()
    for path in before:
        (hub.folder / path).unlink()
    monkeypatch.setattr(jobs, "WORTH_PROCESSES", 2)
    monkeypatch.setattr(jobs, "BATCH", 4)
    assert hub.write() == len(before) and hub.derived() == before


def test_pages_of_a_hub_that_keeps_digests_are_known_by_them(tmp_path):
    """In a bucket nothing is read again: what a listing says of each object is enough (here: fsspec's memory, whose says less)."""
    storage = Storage(f"memory://kept{tmp_path.name}/hub")
    for record in synthetic.records()[:2]:
        storage.replace(layout.record_path(record["handle"]), records.encode(record))
    arguments = (catalog(), storage, synthetic.BASE_URL)
    assert writing.write_pages(*arguments, cache=tmp_path) > 10
    assert writing.write_pages(*arguments, cache=tmp_path) == 0
    assert writing.write_pages(*arguments, cache=tmp_path) == 0
