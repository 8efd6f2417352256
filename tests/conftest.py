"""Fixtures of all tests: one quickstart hub, published by the real command and served by the real server.

It is published once for the whole run, whatever the number of test processes. Every test that needs it is marked `slow`.
"""

import json
import os

import pytest

from tests.support.commands import ROOT, run_script
from tools.common.locks import lock
from tools.common.ports import free_port

pytest_plugins = ["tests.support.hubs"]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


# The longest files come first, so that all test processes end at about the same time. The first one publishes; beside it runs one
# that needs no hub; those that build the same modules come when they are built. (`--no-loadscope-reorder` keeps this order.)
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
    """Order the files by `LONGEST` and leave everything else as it is; mark what needs the published hub as slow."""
    for item in items:
        if "published" in item.fixturenames:
            item.add_marker(pytest.mark.slow)
    ranks = {ROOT / "tests" / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(scope="session", autouse=True)
def shared(tmp_path_factory):
    """Return a folder that all test processes of this run share; the cache of builds lies there, so that none is made twice."""
    folder = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        folder = folder.parent
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    # Making files for other runtimes takes half a minute each: tests of them ask for some.
    os.environ["HUBPRESS_FORMATS"] = "none"
    return folder


@pytest.fixture(scope="session")
def published(shared):
    """Return (folder, address) of the quickstart collection, published by `tools/publish.py`: read only, for all tests."""
    (shared / "published.lock").touch()
    with lock(shared / "published.lock"):
        done, folder = shared / "published.json", shared / "published-hub"
        if not done.exists():
            url = f"http://127.0.0.1:{free_port()}"
            run_script("publish", "quickstart", "--hub", folder, "--url", url, "--jobs", "2")
            done.write_text(json.dumps(url))
        return folder, json.loads(done.read_text())


@pytest.fixture(scope="session")
def hub(published):
    """Return the folder of the published quickstart hub."""
    return published[0]


@pytest.fixture(scope="session")
def hub_url(published):
    """Serve the published quickstart hub at the address that its pages name; for one test file only, since that is one port."""
    from tools.server.server import serve

    folder, url = published
    with serve(folder, port=int(url.rsplit(":", 1)[1])) as served:
        assert served == url
        yield url


@pytest.fixture(scope="session")
def any_url(published):
    """Serve the published quickstart hub at an address of this process."""
    from tools.server.server import serve

    with serve(published[0]) as url:
        yield url


@pytest.fixture(scope="session")
def digits():
    """Return the labelled test digits: images, uint8 `[360, 8, 8, 3]`, and labels, `[360]`."""
    import numpy as np

    data = np.load(ROOT / "modules/quickstart/digits_test.npz")
    return data["images"], data["labels"]


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """Give tensorflow_hub an empty cache."""
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "tfhub"))
    return tmp_path / "tfhub"
