"""Publishers that are killed at any moment leave a readable hub, and the same command finishes the job."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tools.hub import records
from tools.hub.storage import Storage

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "tools/publish.py", "convnext_digits", "--url", "http://one", "--hub"]


def check(folder):
    """Every record's archive is whole, and pages and index name only what has a record."""
    if not folder.exists():
        return 0
    storage = Storage(folder)
    found = records.load_all(storage)
    for record in found:
        data = (folder / record["archive"]["path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == record["archive"]["sha256"]
    handles = {record["handle"] for record in found}
    if (folder / "index.json").exists():
        assert {m["handle"] for m in json.loads((folder / "index.json").read_text())["modules"]} <= handles
    for page in folder.glob("hubpress/*/1/index.html"):
        if page.parts[-3] not in ("collections",) and "collections" not in page.parts:
            assert f"hubpress/{page.parts[-3]}/1" in handles
    return len(found)


def test_killed_at_random_moments(published, tmp_path):
    """With the build in the cache, a run is all storage operations: kill it again and again, each time a little later."""
    rng = random.Random(0)
    epoch = os.environ | {"SOURCE_DATE_EPOCH": "1000000000"}
    start = time.perf_counter()
    subprocess.run([*COMMAND, tmp_path / "whole"], cwd=ROOT, env=epoch, check=True, capture_output=True, timeout=300)
    duration = time.perf_counter() - start
    killed, states = 0, set()
    for attempt in range(24):
        folder = tmp_path / f"hub{attempt % 6}"  # each hub is hit four times, on the way to being finished
        process = subprocess.Popen(
            [*COMMAND, folder], cwd=ROOT, env=epoch, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(duration * rng.uniform(0.2, 1.0))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
        states.add(check(folder))
    assert killed >= 5
    expected = contents(tmp_path / "whole")
    for n in range(6):
        subprocess.run(
            [*COMMAND, tmp_path / f"hub{n}"], cwd=ROOT, env=epoch, check=True, capture_output=True, timeout=300
        )
        assert check(tmp_path / f"hub{n}") == 2
        assert contents(tmp_path / f"hub{n}") == expected


def contents(folder):
    """{path: bytes} of what a hub serves (temporary files of killed publishers are not served)."""
    return {path: Storage(folder).read(path) for path in Storage(folder).list()}
