"""Notes of what was measured after publication: they lie beside a record, and nothing takes them for anything else."""

import json
import shutil

import pytest
import requests

from tools import catalog
from tools.catalog import layout
from tools.hub import notes, records
from tools.hub.storage import Storage, StorageError
from tools.server.server import serve
from tools.site.writing import write_pages
from tools.verification import audit
from tools.verification.verify import Verification

HANDLE = "hubpress/made_up/1"
DATE = "2026-01-31T12:00:00Z"
EVALUATION = {
    "dataset": "imagenet-ilsvrc-2012-cls",
    "split": "test",
    "images": 1000,
    "top1": {"value": 83.1, "correct": 831},
    "top5": {"value": 96.0, "correct": 960},
    "versions": {"tensorflow": "2.21.0"},
    "list_sha256": "0" * 64,
}
SPEED = {
    "cpu": "AMD EPYC",
    "threads": 2,
    "resolution": 224,
    "images_per_second": {"1": 31.2, "8": 40},
    "versions": {"tensorflow": "2.21.0"},
}
GOOD = {"evaluation": EVALUATION, "speed": SPEED}


@pytest.fixture
def published_one(storage):
    """A hub with one record: what notes need."""
    record = {"schema": 1, "kind": "Module", "handle": HANDLE, "publisher": "hubpress", "name": "made_up", "version": 1}
    storage.create(layout.record_path(HANDLE), records.encode(record))
    return storage


def note(storage, number):
    return json.loads(storage.read(layout.note_path(HANDLE, number)))


def test_measurements_are_numbered_with_the_yanks_and_never_change(published_one):
    hub = published_one
    assert records.snapshot(hub).measurements == {}
    first = notes.add_measurement(hub, HANDLE, "speed", SPEED, date=DATE)
    assert first == note(hub, 1)
    assert first == {
        "schema": 1,
        "kind": "Note",
        "handle": HANDLE,
        "number": 1,
        "action": "speed",
        "measurement": SPEED,
        "date": DATE,
    }
    notes.add_note(hub, HANDLE, "yank", "trained on its test set", date=DATE)
    notes.add_measurement(hub, HANDLE, "evaluation", EVALUATION, date=DATE)
    assert [note(hub, number)["action"] for number in (1, 2, 3)] == ["speed", "yank", "evaluation"]
    assert note(hub, 1) == first
    found = records.snapshot(hub)
    assert found.yanked == {HANDLE: "trained on its test set"}
    assert [each["number"] for each in found.measurements[HANDLE]] == [1, 3]
    notes.add_note(hub, HANDLE, "unyank", "", date=DATE)
    assert records.snapshot(hub).yanked == {} and len(records.snapshot(hub).measurements[HANDLE]) == 2


@pytest.mark.parametrize("kind", GOOD)
def test_the_same_again_adds_nothing_and_a_change_does(tmp_path, kind):
    hub = Storage(tmp_path)
    hub.create(layout.record_path(HANDLE), b'{"kind": "Module"}')
    assert notes.add_measurement(hub, HANDLE, kind, GOOD[kind], date=DATE)["number"] == 1
    assert notes.add_measurement(hub, HANDLE, kind, GOOD[kind], date="2027-01-01T00:00:00Z") is None
    changed = GOOD[kind] | {"versions": {"tensorflow": "2.22.0"}}
    assert notes.add_measurement(hub, HANDLE, kind, changed, date=DATE)["number"] == 2
    # The newest holds, so an older one that comes again is news.
    assert notes.add_measurement(hub, HANDLE, kind, GOOD[kind], date=DATE)["number"] == 3
    # Another matter neither repeats nor replaces it.
    other = GOOD[kind] | ({"split": "validation"} if kind == "evaluation" else {"cpu": "another"})
    assert notes.add_measurement(hub, HANDLE, kind, other, date=DATE)["number"] == 4
    assert notes.add_measurement(hub, HANDLE, kind, GOOD[kind], date=DATE) is None


def test_more_than_nine_notes_stay_in_order(tmp_path):
    hub = Storage(tmp_path)
    hub.create(layout.record_path(HANDLE), b'{"kind": "Module"}')
    for speed in range(1, 13):
        notes.add_measurement(hub, HANDLE, "speed", SPEED | {"images_per_second": {"1": speed}}, date=DATE)
    found = records.snapshot(hub).measurements[HANDLE]
    assert [each["measurement"]["images_per_second"]["1"] for each in found] == list(range(1, 13))


def test_others_write_at_the_same_time(tmp_path):
    hub = Storage(tmp_path)
    hub.create(layout.record_path(HANDLE), b'{"kind": "Module"}')
    create, raced = hub.create, []

    def racing(path, *arguments, **settings):
        if not raced:
            raced.append(path)
            create(path, records.encode({"kind": "Note", "action": "yank", "why": "first", "number": 1}))
        return create(path, *arguments, **settings)

    hub.create = racing
    assert notes.add_measurement(hub, HANDLE, "speed", SPEED, date=DATE)["number"] == 2
    assert raced == [layout.note_path(HANDLE, 1)] and note(hub, 1)["why"] == "first"


MALFORMED = [
    ("yank", SPEED, "no kind of measurement"),
    ("speed", EVALUATION, "'cpu' is a required property"),
    ("evaluation", SPEED, "'dataset' is a required property"),
    ("speed", [], "is not of type 'object'"),
    *(("speed", SPEED | {key: value}, key) for key, value in [
        ("cpu", " "), ("threads", 0), ("threads", True), ("threads", 2.0), ("resolution", "224"), ("images_per_second", {}),
        ("images_per_second", {"0": 3.0}), ("images_per_second", {"one": 3.0}), ("images_per_second", {1: 3.0}),
        ("images_per_second", {"1": 0}), ("images_per_second", {"1": float("nan")}), ("images_per_second", {"1": "3"}),
        ("versions", {}), ("versions", {"tensorflow": 2}), ("versions", None),
    ]),
    *(("evaluation", EVALUATION | {key: value}, key) for key, value in [
        ("dataset", ""), ("split", None), ("images", 0), ("images", 999), ("top1", None), ("top1", {"value": 83.1}),
        ("top1", {"value": 183.1, "correct": 1831}), ("top1", {"value": 83.1, "correct": -831}), ("top1", 83.1),
        ("top5", {"value": 96.0, "correct": 96}), ("top5", 96.0), ("list_sha256", "abc"), ("list_sha256", "G" * 64),
    ]),
    ("evaluation", EVALUATION | {"top5": {"value": 50.0, "correct": 500}}, "among the first five"),
    ("speed", SPEED | {"more": {1, 2}}, "not JSON"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "measurement", "said"), MALFORMED)
def test_malformed_measurements_are_refused_and_nothing_is_written(tmp_path, kind, measurement, said):
    hub = Storage(tmp_path)
    hub.create(layout.record_path(HANDLE), b'{"kind": "Module"}')
    if said == "images" and measurement["images"] == 999:
        said = "of 999 right is not that"
    with pytest.raises(StorageError, match=said):
        notes.add_measurement(hub, HANDLE, kind, measurement, date=DATE)
    assert hub.list(f"{HANDLE}.note-", ".json") == []


@pytest.mark.parametrize("top5", [None, {"value": 100, "correct": 1000}])
def test_a_data_set_with_few_classes_has_no_top5(top5):
    assert notes.measurement_problems("evaluation", EVALUATION | {"top5": top5}) == []
    assert notes.measurement_problems("evaluation", {k: v for k, v in EVALUATION.items() if k != "top5"}) == []


def test_nothing_unpublished_is_measured(storage):
    with pytest.raises(StorageError, match="is not published"):
        notes.add_measurement(storage, HANDLE, "speed", SPEED, date=DATE)


def test_a_note_that_nobody_could_show_is_left_out(tmp_path):
    hub = Storage(tmp_path)
    hub.create(layout.record_path(HANDLE), b'{"kind": "Module"}')
    whole = {
        "schema": 1,
        "kind": "Note",
        "handle": HANDLE,
        "number": 1,
        "action": "speed",
        "measurement": SPEED,
        "date": DATE,
    }
    strange = [
        whole | {"date": None},
        whole | {"measurement": {}},
        {key: value for key, value in whole.items() if key != "measurement"},
        whole | {"action": "applause"},
        whole | {"kind": "Applause"},
        whole | {"action": "evaluation", "measurement": EVALUATION | {"images": 7}},
        ["speed"],
    ]
    for number, content in enumerate(strange, 1):
        hub.create(layout.note_path(HANDLE, number), json.dumps(content).encode())
    assert records.snapshot(hub).measurements == {}
    assert notes.add_measurement(hub, HANDLE, "speed", SPEED, date=DATE)["number"] == len(strange) + 1


def test_server_audit_and_verification_take_measured_modules(published, tmp_path):
    shutil.copytree(published[0], tmp_path / "hub")
    hub, handle = Storage(tmp_path / "hub"), "hubpress/convnext_digits/1"
    evaluation = EVALUATION | {
        "images": 360,
        "top1": {"value": 100, "correct": 360},
        "top5": None,
        "dataset": "optical-recognition-of-handwritten-digits",
    }
    notes.add_measurement(hub, handle, "evaluation", evaluation, date=DATE)
    notes.add_measurement(hub, handle, "speed", SPEED, date=DATE)
    write_pages(catalog.load(), hub, "http://one")
    assert audit.audit(hub).problems == []
    with serve(hub) as url, Verification(replay=False) as verification:
        result = verification.verify(*verification.find(f"{url}/{handle}"))
        assert result.ok and result.note == ""
        newest = requests.get(f"{url}/hubpress/convnext_digits?tf-hub-format=compressed", timeout=60)
        assert newest.status_code == 200 and newest.url.partition("?")[0] == f"{url}/{handle}"
        assert requests.get(f"{url}/{handle}.note-2.json", timeout=60).json()["measurement"] == SPEED
