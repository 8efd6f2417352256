"""Publishers that are killed at any moment leave a readable hub, and the same command finishes the job, to the same bytes.

By default a selection of moments; `HUBPRESS_FAULTS=all` takes every storage operation, and more moments at random.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from tools.hub import audit, records
from tools.hub.storage import Storage

ROOT = Path(__file__).resolve().parents[2]
ALL = os.environ.get("HUBPRESS_FAULTS") == "all"
NAME = "convnext_digits"
HANDLES = [f"hubpress/{NAME}/1", f"hubpress/{NAME}_fe/1"]
EPOCH = {"SOURCE_DATE_EPOCH": "1000000000"}
COMMAND = [sys.executable, "tools/publish.py", NAME, "--url", "http://one", "--hub"]


class Publisher:
    """`tools/publish.py` in the children of one process (see killing.py)."""

    def __init__(self, **environment):
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("killing.py")],
            cwd=ROOT,
            env=os.environ | EPOCH | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, hub, at: int = 0) -> dict:
        argv = [NAME, "--url", "http://one", "--hub", str(hub)]
        self.process.stdin.write(json.dumps({"argv": argv, "at": at}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def publisher(published):
    found = Publisher()
    yield found
    found.close()


@pytest.fixture(scope="module")
def bucket_publisher(published, bucket_service):
    found = Publisher(STORAGE_EMULATOR_HOST=bucket_service.url)
    yield found
    found.close()


def contents(storage):
    """{path: bytes} of what a hub serves (temporary files of killed publishers are not served)."""
    return {path: storage.read(path) for path in storage.list()}


def check(storage, whole=None, held=None) -> int:
    """What must hold at every moment; returns how many modules are published."""
    held = contents(storage) if held is None else held
    published = {}
    for path, data in held.items():
        if path.removesuffix(".json") in HANDLES:
            record = json.loads(data)
            published[record["handle"]] = record
            archive = held[record["archive"]["path"]]
            assert hashlib.sha256(archive).hexdigest() == record["archive"]["sha256"]
            assert len(archive) == record["archive"]["bytes"]
    for handle in HANDLES:  # no page names a module that has no record
        if handle not in published:
            assert f"{handle}.md" not in held and f"{handle}/index.html" not in held
            named = [path for path in held if path.endswith((".html", ".md")) and f"{handle}".encode() in held[path]]
            assert not named
    if "index.json" in held:
        for module in json.loads(held["index.json"])["modules"]:
            assert module["archive"]["sha256"] == published[module["handle"]]["archive"]["sha256"]
    if storage:
        assert not audit.audit(storage).errors
    if whole is not None:  # nothing is half there: what is there of archives and records is as it will be
        for path, data in held.items():
            if path.endswith(".tar.gz") or path.removesuffix(".json") in HANDLES:
                assert data == whole[path]
    return len(published)


def chosen(operations: int, first: int, steps: tuple[int, int]) -> list[int]:
    """Of the first operations, in which archives and records are made, more than of the pages'."""
    some = [*range(1, first + 1, steps[0]), *range(first + 1, operations + 1, steps[1])]
    return list(range(1, operations + 1)) if ALL else some


def kill_at_every_operation(publisher, new_hub, held, opened, first, steps):
    hub = new_hub()
    undisturbed = publisher(hub)
    assert undisturbed["code"] == 0, undisturbed["stderr"]
    whole = held(hub)
    assert check(opened(hub), whole, whole) == 2
    kills, states, moments = 0, set(), set()
    for n, at in enumerate(chosen(undisturbed["operations"], first, steps)):
        hub = new_hub()
        killed = publisher(hub, at)
        assert killed["signal"] == signal.SIGKILL, killed
        kills += 1
        moments.add(killed["at"])
        states.add(check(opened(hub), whole, held(hub)))
        if n % 5 == 0 or ALL:
            again = publisher(hub, at=1 + n % 11)  # a second time on the way, if there is so much left to do
            kills += again["signal"] == signal.SIGKILL
            check(opened(hub), whole, held(hub))
            assert (done := publisher(hub))["code"] == 0, done["stderr"]
            assert check(opened(hub), whole, held(hub)) == 2
            assert held(hub) == whole
    assert states == {0, 1, 2}
    print(f"{kills} kills")
    return kills, moments


def test_killed_at_every_operation_on_a_folder(publisher, tmp_path):
    def new_hub():
        return tmp_path / uuid.uuid4().hex

    def held(folder):
        return contents(Storage(folder))

    kills, moments = kill_at_every_operation(publisher, new_hub, held, Storage, 44, (4, 23))
    assert kills > 15
    assert {"link", "copying", "replace", "fsync"} <= {moment.split()[-1] for moment in moments}


def test_killed_at_every_request_to_a_bucket(bucket_publisher, bucket_service):
    def new_hub():
        return f"gs://bucket/{uuid.uuid4().hex}"

    def held(url):
        prefix = url.removeprefix("gs://bucket/") + "/"
        names = [name for name in bucket_service.objects.objects["bucket"] if name.startswith(prefix)]
        return {name[len(prefix) :]: bucket_service.objects.get_file("bucket", name) for name in names}

    kills, moments = kill_at_every_operation(bucket_publisher, new_hub, held, lambda url: None, 28, (3, 9))
    assert kills > 10
    assert {"POST", "GET"} <= {moment.split()[-1] for moment in moments}


def test_killed_at_random_moments(published, tmp_path):
    """The command itself: kill it again and again, and finish."""
    rng = random.Random(0)
    epoch = os.environ | EPOCH
    start = time.perf_counter()
    subprocess.run([*COMMAND, tmp_path / "whole"], cwd=ROOT, env=epoch, check=True, capture_output=True, timeout=300)
    duration = time.perf_counter() - start
    killed = 0
    hubs = 8 if ALL else 2
    for attempt in range(4 * hubs):
        folder = tmp_path / f"hub{attempt % hubs}"  # each hub is hit four times, on the way to being finished
        process = subprocess.Popen(
            [*COMMAND, folder], cwd=ROOT, env=epoch, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(duration * rng.uniform(0.3, 1.0))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
        if folder.exists():
            check(Storage(folder))
    assert killed >= hubs
    expected = contents(Storage(tmp_path / "whole"))
    for n in range(hubs):
        subprocess.run(
            [*COMMAND, tmp_path / f"hub{n}"], cwd=ROOT, env=epoch, check=True, capture_output=True, timeout=300
        )
        assert check(Storage(tmp_path / f"hub{n}")) == 2
        assert contents(Storage(tmp_path / f"hub{n}")) == expected


def test_leftovers_of_the_killed_go(publisher, tmp_path):
    def leftovers():
        return [path for path in (tmp_path / "hub").rglob(".*") if path.is_file()]

    for at in range(1, 20):
        if leftovers():
            break
        assert publisher(tmp_path / "hub", at)["signal"] == signal.SIGKILL
    (leftover,) = leftovers()
    os.utime(leftover, (time.time() - 3600,) * 2)
    assert publisher(tmp_path / "hub")["code"] == 0
    assert not leftovers()
    assert len(records.load_all(Storage(tmp_path / "hub"))) == 2
