"""Publishers that are killed at any moment leave a readable hub, and the same command finishes the job, to the same bytes.

By default a selection of moments, a hundred and some; `make test-faults` (HUBPRESS_FAULTS=all) takes every storage operation, and
more moments at random. Runs are killed one after the other on the way to a finished hub, so that each goes on from what the
killed ones left.
"""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

import pytest

from tests.support.commands import environment, run_script, start_script
from tests.support.hubs import HANDLES, NAME, bucket_storage
from tools.catalog import layout
from tools.hub import records
from tools.hub.storage import Storage
from tools.server.server import serve
from tools.verification import audit

pytestmark = pytest.mark.faults

ALL = os.environ.get("HUBPRESS_FAULTS") == "all"
EPOCH = {"SOURCE_DATE_EPOCH": "1000000000"}
COMMAND = [NAME, "--url", "http://one", "--hub"]
FORMATS = ["onnx", "float32", "int8"]


class Folders:
    """Hubs in memory, where there is such a file system: kills do not care what fsync costs."""

    environment = EPOCH

    def __init__(self, tmp_path):
        in_memory = Path("/dev/shm")
        self.base = Path(tempfile.mkdtemp(dir=in_memory if in_memory.is_dir() else tmp_path))

    def new(self):
        return str(self.base / uuid.uuid4().hex)

    def opened(self, address):
        return Storage(address)

    def copy(self, held):
        """Another hub that holds the same."""
        address = self.new()
        for path, data in held.items():
            self.opened(address).create(path, data)
        return address

    def held(self, address):
        """{path: bytes} of what a hub serves (temporary files of killed publishers are not served)."""
        storage = Storage(address)
        return {path: storage.read(path) for path in storage.list()}

    def drop(self, address):
        shutil.rmtree(address, ignore_errors=True)


class Buckets(Folders):
    """Hubs in the emulator's bucket; what they hold is read from the emulator's memory."""

    def __init__(self, service):
        self.service = service
        self.environment = EPOCH | {"STORAGE_EMULATOR_HOST": service.url}

    def new(self):
        return f"gs://bucket/{uuid.uuid4().hex}"

    def opened(self, address):
        return bucket_storage(self.service, address)

    def held(self, address):
        prefix = address.removeprefix("gs://bucket/") + "/"
        names = [name for name in self.service.objects.objects["bucket"] if name.startswith(prefix)]
        return {name[len(prefix) :]: self.service.objects.get_file("bucket", name) for name in names}

    def drop(self, address):
        for path in self.held(address):
            self.service.objects.delete_file("bucket", f"{address.removeprefix('gs://bucket/')}/{path}")


@pytest.fixture
def folders(tmp_path):
    found = Folders(tmp_path)
    yield found
    shutil.rmtree(found.base)


@pytest.fixture
def buckets(bucket_service):
    return Buckets(bucket_service)


def check(held, whole=None) -> set[str]:
    """Assert what must hold at every moment of a hub that holds `held`; returns the handles that are published."""
    published = {}
    for path, data in held.items():
        if path.removesuffix(".json") in HANDLES:
            record = json.loads(data)
            published[record["handle"]] = record["archive"]
            archive = held[record["archive"]["path"]]
            assert hashlib.sha256(archive).hexdigest() == record["archive"]["sha256"]
            assert len(archive) == record["archive"]["bytes"]
    for handle in set(HANDLES) - set(published):  # no page names a module that has no record
        assert f"{handle}.md" not in held and f"{handle}/index.html" not in held
        name = re.compile(rf"\b{handle.split('/', 1)[1]}(?!\d)".encode())
        assert not [
            path for path, data in held.items() if path.endswith((".html", ".md", ".xml")) and name.search(data)
        ]
    for module in json.loads(held.get("index.json", b'{"modules": []}'))["modules"]:
        assert module["archive"]["sha256"] == published[module["handle"]]["sha256"]
    for path, data in held.items():
        if place := layout.parse_format_record_path(path):  # a record of formats comes after its module and its files
            record = json.loads(data)
            assert record["parent"]["record_sha256"] == hashlib.sha256(held[f"{place.handle}.json"]).hexdigest()
            for file in record["files"]:
                assert hashlib.sha256(held[file["path"]]).hexdigest() == file["sha256"]
    if whole is not None:  # nothing is half there: what is there of archives and records is as it will be
        for path, data in held.items():
            is_format = layout.parse_format_path(path) or layout.parse_format_record_path(path)
            if path.endswith(".tar.gz") or path.removesuffix(".json") in HANDLES or is_format:
                assert data == whole[path]
    return set(published)


def chosen(operations: int, first: int, steps: tuple[int, int]) -> list[int]:
    """Of the first operations, in which archives and records are made, more than of the pages', and one when all is there."""
    some = [*range(1, first + 1, steps[0]), *range(first + 1, operations, steps[1]), operations - 2, operations]
    return list(range(1, operations + 1)) if ALL else some


def kill_at_every_operation(publisher, places, consumer, first, steps):
    """Kill a new hub's run at each chosen operation, then the runs that go on from there, and finish; (kills, moments)."""

    def publish(address, at=0):
        done = publisher(*COMMAND, address, at=at, environment=places.environment)
        assert done.returncode == (-signal.SIGKILL if at and done.moment else 0), done.stderr
        return done

    address = places.new()
    undisturbed = publish(address)
    whole = places.held(address)
    assert check(whole, whole) == set(HANDLES) and not audit.audit(places.opened(address), thorough=True).problems
    kills, states, moments, listed = 0, set(), set(), {}
    places.drop(address)
    for n, first_at in enumerate(chosen(undisturbed.operations, first, steps)):
        address = places.new()
        # Then twice on the way, if so much is left to do; then it is let be.
        for at in (first_at, 1 + 5 * n % 13, 2 + 7 * n % 19, 0):
            run = publish(address, at)
            if run.returncode == 0:
                break
            kills += 1
            moments.add(run.moment)
            held = places.held(address)
            states.add(len(check(held, whole)))
            if kills % 4 == 0:
                assert not audit.audit(places.opened(address)).errors
            if "index.json" in held:  # of each set of modules that a killed hub lists, one hub is kept for the consumer
                modules = tuple(module["handle"] for module in json.loads(held["index.json"])["modules"])
                if modules not in listed:
                    listed[modules] = places.copy(held)
        assert run.returncode == 0 and places.held(address) == whole
        places.drop(address)
    assert states == {0, 1, 2}
    tensorflow_hub_loads(places, consumer, listed)
    print(f"{kills} kills")
    return kills, moments


def tensorflow_hub_loads(places, consumer, listed):
    """Load with the client what the index of a killed hub lists: it answers as it does anywhere."""
    assert HANDLES in [list(modules) for modules in listed]
    answers = {}
    for modules, address in listed.items():
        with serve(places.opened(address)) as url:
            for handle, found in zip(modules, consumer(*(f"{url}/{handle}" for handle in modules)), strict=True):
                assert "answer" in found, (address, handle, found)
                answers.setdefault(handle, set()).add(found["answer"])
        places.drop(address)
    assert sorted(answers) == HANDLES and all(len(found) == 1 for found in answers.values())


def test_killed_at_every_operation_on_a_folder(publisher, folders, consumer):
    kills, moments = kill_at_every_operation(publisher, folders, consumer, 44, (3, 30))
    assert kills >= 50
    assert {"link", "copying", "replace", "fsync"} <= {moment.split()[-1] for moment in moments}


def test_killed_at_every_request_to_a_bucket(publisher, buckets, consumer):
    kills, moments = kill_at_every_operation(publisher, buckets, consumer, 40, (3, 36))
    assert kills >= 25
    assert {"POST", "GET"} <= {moment.split()[-1] for moment in moments}


@pytest.mark.parametrize("kind", ["folders", "buckets"])
def test_killed_while_formats_are_added(publisher, request, kind):
    """To modules that are there: at operations of the files, of their records and of the pages that list them."""
    places = request.getfixturevalue(kind)

    def run(address, at=0, formats=FORMATS):
        order = {"environment": places.environment, "converters": "1", "at": at}
        done = publisher(*COMMAND, address, "--formats", ",".join(formats) or "none", **order)
        assert done.returncode == (-signal.SIGKILL if at and done.moment else 0), done.stderr
        return done

    address = places.new()
    run(address, formats=[])
    before = places.held(address)
    undisturbed = run(address)
    whole = places.held(address)
    records_ = [path for path in whole if layout.parse_format_record_path(path)]
    assert len(records_) == 4 and not audit.audit(places.opened(address), thorough=True).problems
    never_change = {path: data for path, data in before.items() if path.endswith((".tar.gz", "/1.json"))}
    places.drop(address)
    files = {path for path in whole if layout.parse_format_path(path)} | set(records_)
    seen = set()
    for at in chosen(undisturbed.operations, 80 if kind == "folders" else 60, (9, 90)):
        address = places.copy(before)
        run(address, at)
        held = places.held(address)
        check(held, whole)
        seen.add(len(files & held.keys()))
        assert {path: held[path] for path in never_change} == never_change
        assert not audit.audit(places.opened(address)).errors
        run(address)
        assert places.held(address) == whole
        places.drop(address)
    assert len(seen) > 3 and len(files) in seen  # killed after some files and before others, and when all were there


@pytest.mark.parametrize(("kind", "hubs"), [("folders", 10), ("buckets", 4)])
def test_killed_at_random_moments(publisher, request, kind, hubs):
    """Not only at what counts as an operation: at any time, three times for each hub, and then it is finished."""
    places, rng = request.getfixturevalue(kind), random.Random(0)
    whole = places.new()
    start = time.perf_counter()
    assert publisher(*COMMAND, whole, environment=places.environment).returncode == 0
    expected, longest = places.held(whole), time.perf_counter() - start
    for _ in range(5 * hubs if ALL else hubs):
        address, kills = places.new(), 0
        while kills < 3:
            run = publisher(*COMMAND, address, after=longest * rng.uniform(0.05, 1), environment=places.environment)
            assert run.returncode in (0, -signal.SIGKILL), run.stderr
            check(places.held(address), expected)
            if run.returncode:
                kills += 1
            else:  # the machine is faster than it was, or the hub is finished: earlier, and from the beginning
                places.drop(address)
                longest *= 0.9
        run = publisher(*COMMAND, address, environment=places.environment)
        assert run.returncode == 0 and places.held(address) == expected, run.stderr
        places.drop(address)


def test_the_command_itself_is_killed(published, folders, tmp_path):
    """As a user types it, from the start of the process on; and with HUBPRESS_FAULTS=all while it builds, too."""
    rng = random.Random(1)
    for cache in ["", tmp_path / "cache"] if ALL else [""]:
        ending = ["--cache", cache] if cache else []
        address = folders.new()
        killed = 0
        longest = 40 if cache else 1.5
        for _ in range(4):
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            process = start_script("publish", *COMMAND, address, *ending, env=environment(**EPOCH), **quiet)
            try:
                process.wait(longest * rng.uniform(0.2, 1))
            except subprocess.TimeoutExpired:
                process.kill()
                killed += process.wait() == -signal.SIGKILL
            if Path(address).exists():
                check(folders.held(address))
        assert killed
        run_script("publish", *COMMAND, address, *ending, **EPOCH)
        again = folders.new()
        run_script("publish", *COMMAND, again, **EPOCH)
        assert check(folders.held(address)) == set(HANDLES)
        assert folders.held(address) == folders.held(again)


def test_leftovers_of_the_killed_go(publisher, tmp_path):
    hub = tmp_path / "hub"

    def leftovers():
        return [path for path in hub.rglob(".*") if path.is_file()]

    for at in range(1, 20):
        if leftovers():
            break
        assert publisher(NAME, "--hub", hub, at=at).returncode == -signal.SIGKILL
    (leftover,) = leftovers()
    os.utime(leftover, (time.time() - 3600,) * 2)
    assert publisher(NAME, "--hub", hub).returncode == 0
    assert not leftovers()
    assert len(records.snapshot(Storage(hub)).records) == 2
