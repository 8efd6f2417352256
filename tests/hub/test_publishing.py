"""The publish transaction with the real build: no-ops, refusals, crashes, rivals. What is refused leaves the hub as it was."""

import concurrent.futures
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from builders import checkpoints
from tools import catalog
from tools.hub import records
from tools.hub.publishing import Publishing
from tools.hub.storage import Storage

ROOT = Path(__file__).resolve().parents[2]
NAME = "convnext_digits"
WEIGHTS = ROOT / "modules/quickstart/convnext_digits.safetensors"


def publish(*arguments, root=ROOT, **environment):
    """`tools/publish.py` in a process of its own."""
    return subprocess.run(
        [sys.executable, root / "tools/publish.py", *map(str, arguments)],
        cwd=root,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def tree(folder):
    """{path: digest} of all files of a hub."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A copy of the repository whose rows and weights a test may spoil."""
    copy = tmp_path_factory.mktemp("repository")
    for name in ("builders", "tools", "modules", "collections", "templates"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


@pytest.fixture
def weights(repository):
    """The copy's checkpoint of the digits, put back afterwards."""
    path = repository / "modules/quickstart/convnext_digits.safetensors"
    yield path
    shutil.copy(WEIGHTS, path)


@pytest.fixture
def hub_copy(hub, tmp_path):
    """A published hub of one's own."""
    shutil.copytree(hub, tmp_path / "hub")
    return tmp_path / "hub"


def test_the_hub_holds_what_the_layout_says(hub, published):
    paths = set(tree(hub))
    for name in (NAME, f"{NAME}_fe"):
        assert {f"hubpress/{name}/1{end}" for end in (".tar.gz", ".json", ".md", "/index.html")} <= paths
    assert {
        "index.html",
        "index.json",
        "hubpress/hubpress.md",
        "hubpress/index.html",
        "hubpress/collections/quickstart/1.md",
        "hubpress/collections/quickstart/1/index.html",
    } <= paths
    index = json.loads((hub / "index.json").read_text())
    assert f"hubpress/{NAME}/1" in [m["handle"] for m in index["modules"]] and index["url"] == published[1]
    assert not [path for path in paths if Path(path).name.startswith(".")]


def test_record_tells_what_was_stored(hub):
    for record in records.load_all(Storage(hub)):
        archive = (hub / record["archive"]["path"]).read_bytes()
        assert record["archive"]["sha256"] == hashlib.sha256(archive).hexdigest()
        assert record["archive"]["md5"] == hashlib.md5(archive).hexdigest() and record["archive"]["bytes"] == len(
            archive
        )
        checkpoint = ROOT / record["row"]["checkpoint"]
        assert record["checkpoint"]["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        assert record["verification"]["fine_tuned"] is True and record["verification"]["keras_difference"] < 1e-4
        with tarfile.open(hub / record["archive"]["path"]) as tar:
            described = json.load(tar.extractfile("assets.extra/module.json"))
        assert (
            described["checkpoint"]["sha256"] == record["checkpoint"]["sha256"] and described["head"] == record["head"]
        )
        top1 = record["measured"]["top1"]
        if record["head"] == "classifier":
            assert top1["images"] == 360 and top1["value"] == round(100 * top1["correct"] / 360, 2) >= 98
            page = (hub / f"{record['handle']}.md").read_text()
            assert f"| {top1['value']} |" in page and f"{top1['correct']} of 360 images right" in page
        else:
            assert top1 is None


def test_two_builds_in_two_processes_give_the_same_bytes(hub, tmp_path):
    """Another process, another hub, another day: the same archives to the last bit."""
    again = ("--hub", tmp_path / "again", "--cache", tmp_path / "cache", "--url", "http://elsewhere")
    done = publish(NAME, *again, SOURCE_DATE_EPOCH="86400")
    assert done.returncode == 0, done.stderr
    for name in (NAME, f"{NAME}_fe"):
        path = f"hubpress/{name}/1.tar.gz"
        assert (tmp_path / "again" / path).read_bytes() == (hub / path).read_bytes()
    record = json.loads((tmp_path / f"again/hubpress/{NAME}/1.json").read_text())
    assert record["published"] == "1970-01-02T00:00:00Z"


def test_publishing_the_same_again_does_nothing(hub_copy, published):
    before = tree(hub_copy)
    done = publish("quickstart", "--hub", hub_copy, "--url", published[1])
    assert done.returncode == 0 and "unchanged" in done.stdout and "\n0 pages written" in done.stdout
    assert tree(hub_copy) == before


def test_other_bytes_under_a_published_version_are_refused(repository, weights, hub_copy):
    before = tree(hub_copy)
    tensors = {key: np.array(value) for key, value in checkpoints.read(weights).tensors.items()}
    tensors["head.fc.bias"][0] += 1e-3
    checkpoints.write(weights, tensors)
    done = publish(NAME, "--hub", hub_copy, root=repository)
    assert done.returncode == 1
    assert "is published with other bytes" in done.stderr and "publish version 2" in done.stderr
    assert tree(hub_copy) == before


def test_cut_off_between_archive_and_record_is_finished(hub_copy):
    """The archive is there, the record is not: the module does not exist, and the same command completes it."""
    before = tree(hub_copy)
    (hub_copy / f"hubpress/{NAME}/1.json").unlink()
    assert [r["name"] for r in records.load_all(Storage(hub_copy)) if r["row"]["stem"] == NAME] == [f"{NAME}_fe"]
    done = publish(NAME, "--hub", hub_copy)
    assert done.returncode == 0, done.stderr
    after = tree(hub_copy)
    archive = f"hubpress/{NAME}/1.tar.gz"
    assert after[archive] == before[archive] and f"hubpress/{NAME}/1.json" in after


def test_foreign_archive_without_record_is_not_adopted(tmp_path):
    path = tmp_path / f"hub/hubpress/{NAME}/1.tar.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half of somebody's upload")
    done = publish(f"{NAME}", "--hub", tmp_path / "hub")
    assert done.returncode == 1 and "without a record" in done.stderr and "publish version 2" in done.stderr
    assert path.read_bytes() == b"half of somebody's upload"
    assert not (tmp_path / f"hub/hubpress/{NAME}/1.json").exists()


def test_two_publishers_at_once(tmp_path):
    """Both succeed, one publishes, and the hub is what a single one makes."""
    command = (NAME, "--hub", tmp_path / "hub", "--cache", tmp_path / "cache", "--url", "http://one")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda _: publish(*command), range(2)))
    assert [run.returncode for run in runs] == [0, 0], [run.stderr for run in runs]
    stored = records.load_all(Storage(tmp_path / "hub"))
    assert [r["handle"] for r in stored] == [f"hubpress/{NAME}/1", f"hubpress/{NAME}_fe/1"]
    index = json.loads((tmp_path / "hub/index.json").read_text())
    assert len(index["modules"]) == 2
    assert not [path for path in tree(tmp_path / "hub") if "/." in f"/{path}"]


def tensors_of(path):
    return {key: np.array(value) for key, value in checkpoints.read(path).tensors.items()}


def spoil(path, change):
    tensors = tensors_of(path)
    change(tensors)
    checkpoints.write(path, tensors)


CANARY = "hubpress_canary"
PICKLE = b"\x80\x02cos\nsystem\nX\x10\x00\x00\x00touch " + CANARY[:10].encode() + b"\x85R."
REFUSED = {
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-1000]), "convnext_digits.safetensors"),
    "missing tensor": (lambda p: spoil(p, lambda t: t.pop("stem.0.bias")), "missing (1): stem.0.bias"),
    "extra tensor": (lambda p: spoil(p, lambda t: t.update(x=np.zeros(3, np.float32))), "unused (1): x"),
    "other shape": (
        lambda p: spoil(p, lambda t: t.update({"head.fc.bias": np.zeros(1000, np.float32)})),
        "misshaped (1): head.fc.bias is [1000], the model needs [10]",
    ),
    "NaN": (lambda p: spoil(p, lambda t: t["stem.0.bias"].fill(np.nan)), "not finite (1): stem.0.bias"),
    "pickle": (lambda p: p.write_bytes(PICKLE), "convnext_digits.safetensors"),
    "web page": (lambda p: p.write_text("<!doctype html><title>404</title>"), "convnext_digits.safetensors"),
    "other format": (
        lambda p: p.write_bytes((ROOT / "tests/golden/convnext_fb/checkpoint.pth").read_bytes()),
        "does not fit",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_checkpoint_is_refused_before_anything_is_written(repository, weights, tmp_path, case):
    change, said = REFUSED[case]
    change(weights)
    done = publish(NAME, "--hub", tmp_path / "hub", root=repository)
    assert done.returncode == 1
    assert said in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "hub").exists() or not tree(tmp_path / "hub")
    assert not list(repository.rglob(CANARY[:10]))


def test_pinned_checkpoint_that_differs_is_refused(tmp_path):
    rows = catalog.load()
    module = rows.find(NAME)
    assert module.head == "classifier"
    object.__setattr__(module.variant, "sha256", "0" * 64)
    run = Publishing(rows, Storage(tmp_path / "hub"), base_url="http://x", cache=tmp_path / "cache")
    (result,) = run.run([module])
    assert result.state == "failed" and "the row pins 000000" in result.reason
    assert not tree(tmp_path / "hub")


def test_missing_file_in_the_mirror_is_named(tmp_path):
    (tmp_path / "mirror").mkdir()
    done = publish("convnext_tiny_1k_224", "--hub", tmp_path / "hub", "--checkpoints", tmp_path / "mirror")
    assert done.returncode == 1
    assert "convnext_tiny_1k_224_ema.pth" in done.stderr and "mirror" in done.stderr and "Traceback" not in done.stderr


def test_one_bad_row_leaves_the_others_alone(tmp_path):
    (tmp_path / "mirror").mkdir()
    done = publish(NAME, "convnext_atto_1k_224", "--hub", tmp_path / "hub", "--checkpoints", tmp_path / "mirror")
    assert done.returncode == 1 and done.stdout.count("published") == 2 and done.stdout.count("failed") == 2
    assert (tmp_path / f"hub/hubpress/{NAME}/1/index.html").exists()


def test_damaged_build_in_the_cache_is_made_again(hub, tmp_path, shared):
    cache = tmp_path / "cache"
    shutil.copytree(shared / "cache/hubpress", cache)
    archives = list(cache.glob("builds/*/*.tar.gz"))
    for archive in archives:
        archive.write_bytes(archive.read_bytes()[:-1] + b"?")
    assert publish(NAME, "--hub", tmp_path / "hub", "--cache", cache).returncode == 0
    path = f"hubpress/{NAME}/1.tar.gz"
    assert archives and (tmp_path / "hub" / path).read_bytes() == (hub / path).read_bytes()


def test_hub_that_cannot_be_written(tmp_path):
    blocked = tmp_path / "a file"
    blocked.write_text("not a folder")
    done = publish(NAME, "--hub", blocked / "hub")
    assert done.returncode == 1 and "a file" in done.stderr and "Traceback" not in done.stderr


def test_unknown_protocol():
    done = publish(NAME, "--hub", "nosuch://bucket/hub")
    assert done.returncode == 1 and "nosuch" in done.stderr and "Traceback" not in done.stderr


def test_any_fsspec_url(shared):
    """The same transaction on storage that is no folder: fsspec's memory file system."""
    rows = catalog.load()
    storage = Storage("memory://publishing/hub")
    run = Publishing(rows, storage, base_url="http://x", cache=shared / "cache/hubpress")
    results = run.run(rows.expand([NAME]))
    assert [r.state for r in results] == ["published", "published"], results[0].reason
    assert run.write_pages() > 10 and run.write_pages() == 0
    assert [r.state for r in run.run(rows.expand([NAME]))] == ["unchanged", "unchanged"]
    assert json.loads(storage.read("index.json"))["modules"][0]["handle"] == f"hubpress/{NAME}/1"
