"""One published quickstart hub for the whole run, made by the real command and served by the real server.

`hub` is published once, whatever the number of test processes; `hub_url` serves it at the address that its pages name.
"""

import fcntl
import json
import os

import pytest

from tests.support.commands import ROOT, run

pytest_plugins = ["tests.support.hubs"]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


# What takes longest comes first, so that all test processes end at about the same time: beside the first file, which publishes, one
# that needs no hub; what builds the same modules comes when they are built. (`--no-loadscope-reorder` keeps this order.)
LONGEST = (
    "test_consumer.py",
    "catalog/test_numbers.py",
    "test_snippets.py",
    "publishing/test_transaction.py",
    "publishing/test_kills.py",
    "test_notebooks.py",
    "evaluation/test_evaluate.py",
    "publishing/test_bazel.py",
    "publishing/test_faults.py",
    "builders/test_regnety.py",
    "builders/test_vit.py",
    "catalog/test_new.py",
    "test_digests.py",
    "site/test_browser.py",
)


def pytest_collection_modifyitems(items):
    """Order the files by `LONGEST`; within a file, and behind those, all stays as it is."""
    ranks = {ROOT / "tests" / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(scope="session", autouse=True)
def shared(tmp_path_factory):
    """A folder of this run that all test processes share; the publisher's cache lies there too, so that no build is made twice."""
    folder = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        folder = folder.parent
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    return folder


@pytest.fixture(scope="session")
def published(shared):
    """(folder, address): the quickstart collection, published by `tools/publish.py`; read only, for all tests."""
    with (shared / "published.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done, folder = shared / "published.json", shared / "published-hub"
        if not done.exists():
            from tools.quickstart import free_port

            url = f"http://127.0.0.1:{free_port(0)}"
            run("tools/publish.py", "quickstart", "--hub", folder, "--url", url, "--jobs", "2")
            done.write_text(json.dumps(url))
        return folder, json.loads(done.read_text())


@pytest.fixture(scope="session")
def hub(published):
    """The folder of the published quickstart hub."""
    return published[0]


@pytest.fixture(scope="session")
def hub_url(published):
    """The published quickstart hub, served at the address that its pages name (used by one test file only: it has one port)."""
    from tools.server.server import serve

    folder, url = published
    with serve(folder, port=int(url.rsplit(":", 1)[1])) as served:
        assert served == url
        yield url


@pytest.fixture(scope="session")
def any_url(published):
    """The published quickstart hub, served at some address of this process."""
    from tools.server.server import serve

    with serve(published[0]) as url:
        yield url


@pytest.fixture(scope="session")
def digits():
    """The labelled test digits: `images` uint8 `[360, 8, 8, 3]`, `labels` `[360]`."""
    import numpy as np

    data = np.load(ROOT / "modules/quickstart/digits_test.npz")
    return data["images"], data["labels"]


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty cache for tensorflow_hub."""
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "tfhub"))
    return tmp_path / "tfhub"
