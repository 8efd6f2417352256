"""The publish transaction with the real build: no-ops, refusals, crashes, rivals. What is refused leaves the hub as it was."""

import concurrent.futures
import hashlib
import json
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from builders import checkpoints
from tests.builders.torch_files import torch_file
from tests.support.builds import other_build, other_sources, specification_of
from tests.support.commands import ROOT, run_script
from tests.support.hubs import NAME
from tools import catalog
from tools.catalog.checkpoints import LARGEST_BYTES, ROOM_BYTES, fetch_checkpoint
from tools.hub import records
from tools.hub.storage import Storage
from tools.publishing import reporting, specification, targets
from tools.publishing.specification import specify
from tools.publishing.transaction import Publishing, PublishResult
from tools.verification.verify import Verification

pytestmark = pytest.mark.slow

WEIGHTS = ROOT / "modules/quickstart/convnext_digits.safetensors"


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
    for record in records.snapshot(Storage(hub)).records:
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


def test_two_publishers_who_build_at_once_give_the_same_bytes(hub, shared, tmp_path):
    """Another process, another hub, another day, a rival, and a damaged build in the cache: the same archives to the last bit."""
    cache = tmp_path / "cache"
    # Not the whole cache: others are at work in it. A folder `.building-...` is a build that is not finished.
    shutil.copytree(shared / "cache/hubpress/builds", cache / "builds", ignore=shutil.ignore_patterns(".*"))
    archives = list(cache.glob("builds/*/*.tar.gz"))
    for archive in archives:
        archive.write_bytes(archive.read_bytes()[:-1] + b"?")
    again = (NAME, "--hub", tmp_path / "again", "--cache", cache, "--url", "http://elsewhere")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda _: run_script("publish", *again, SOURCE_DATE_EPOCH="86400"), range(2)))
    assert archives and [run.returncode for run in runs] == [0, 0], [run.stderr for run in runs]
    for name in (NAME, f"{NAME}_fe"):
        path = f"hubpress/{name}/1.tar.gz"
        assert (tmp_path / "again" / path).read_bytes() == (hub / path).read_bytes()
    record = json.loads((tmp_path / f"again/hubpress/{NAME}/1.json").read_text())
    assert record["published"] == "1970-01-02T00:00:00Z"
    stored = records.snapshot(Storage(tmp_path / "again")).records
    assert [r["handle"] for r in stored] == [f"hubpress/{NAME}/1", f"hubpress/{NAME}_fe/1"]
    index = json.loads((tmp_path / "again/index.json").read_text())
    assert len(index["modules"]) == 2
    assert not [path for path in tree(tmp_path / "again") if "/." in f"/{path}"]


def test_publishing_the_same_again_does_nothing(publisher, hub_copy, published):
    before = tree(hub_copy)
    done = publisher("quickstart", "--hub", hub_copy, "--url", published[1])
    assert done.returncode == 0 and "unchanged" in done.stdout and "\n0 pages written" in done.stdout
    assert tree(hub_copy) == before


def test_other_bytes_under_a_published_version_are_refused(hub_copy, shared, tmp_path):
    """Another build, from changed code: its key differs, its bytes do, and the version is the same."""
    before = tree(hub_copy)
    sources = other_build(NAME, shared / "cache/hubpress", tmp_path / "cache", 3)
    rows = catalog.load()
    run = Publishing(rows, Storage(hub_copy), base_url="http://x", cache=tmp_path / "cache")
    with other_sources(sources):
        results = run.run(rows.expand([NAME]))
    assert len(results) == 2
    for result in results:
        assert result.state == "failed" and f"hubpress/{NAME}/1 is published with other bytes" in result.reason
        assert 'Fix: publish version 2: set `version = 2, changes = "..."` in its row of modules/conv' in result.reason
    assert tree(hub_copy) == before


def test_other_weights_under_a_published_version_are_refused_before_they_are_built(
    repository, weights, hub_copy, tmp_path
):
    """The record has the checkpoint's digest, and an archive states it: nothing need be built to know that the bytes differ."""
    before = tree(hub_copy)
    spoil(weights, lambda tensors: tensors["head.fc.bias"].__iadd__(1))
    options = ("--hub", hub_copy, "--cache", tmp_path / "cache")
    done = run_script("publish", NAME, *options, root=repository, check=False)
    assert done.returncode == 1 and done.stdout.count(" failed ") == 2 and done.stdout.count(" hubpress/") == 2
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    recorded = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    assert f"`checkpoint.sha256` was '{recorded}', and is '{found}'" in done.stderr
    assert 'Fix: publish version 2: set `version = 2, changes = "..."`' in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list((tmp_path / "cache/builds").glob("*")) and tree(hub_copy) == before


@pytest.mark.parametrize(
    ("key", "old", "new", "said"),
    [
        ("row", "fine_tunable", False, "`row.fine_tunable` was True, and is False"),
        ("row", "resolution", 64, "`row.resolution` was 32, and is 64"),
        ("versions", "tensorflow", "9.9", "`versions.tensorflow` was "),
        ("preprocessing", "transform", {"text": "x"}, "`preprocessing.transform.text` was "),
    ],
)
def test_another_definition_is_refused_before_it_is_built(hub_copy, tmp_path, monkeypatch, key, old, new, said):
    """Of one head of a row as of both: they are of one version."""
    rows = catalog.load()
    original = specification._definition

    def definition(*arguments):
        found = original(*arguments)
        return found | {key: found[key] | {old: new}}

    monkeypatch.setattr(specification, "_definition", definition)
    run = Publishing(rows, Storage(hub_copy), base_url="http://x", cache=tmp_path / "cache")
    for name in ([NAME], [f"hubpress/{NAME}_fe/1"]):
        for result in run.run(rows.expand(name)):
            assert result.state == "failed" and said in result.reason
    assert not list((tmp_path / "cache/builds").glob("*"))


# What is published is there


def test_an_archive_that_has_gone_is_put_back(hub_copy, shared):
    """`unchanged` is said of archives that are there."""
    before, rows = tree(hub_copy), catalog.load()
    (hub_copy / f"hubpress/{NAME}/1.tar.gz").unlink()
    run = Publishing(rows, Storage(hub_copy), base_url="http://x", cache=shared / "cache/hubpress")
    assert [result.state for result in run.run(rows.expand([NAME]))] == ["restored", "unchanged"]
    assert tree(hub_copy) == before
    assert [result.state for result in run.run(rows.expand([NAME]))] == ["unchanged"] * 2


@pytest.mark.parametrize("data", [b"", b"half"], ids=["empty", "cut"])
def test_an_archive_of_another_size_is_not_unchanged(publisher, hub_copy, data):
    file = hub_copy / f"hubpress/{NAME}_fe/1.tar.gz"
    size = file.stat().st_size
    file.write_bytes(data)
    done = publisher(NAME, "--hub", hub_copy)
    assert done.returncode == 1 and "unchanged" not in done.stdout
    message = f"hubpress/{NAME}_fe/1: {file} has {len(data)} bytes, its record says {size:,}. Fix: move it away, and run the same"
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
    file.unlink()
    done = publisher(NAME, "--hub", hub_copy)
    assert done.returncode == 0 and " restored " in done.stdout and file.stat().st_size == size


@pytest.mark.parametrize(
    "content", ["{}", '{"a": 1}', "[]", "[" * 200_000, "{", '{"build": null}', '{"build": {"key": [1]}}']
)
def test_a_record_that_is_none_is_named(publisher, hub_copy, content):
    file = hub_copy / f"hubpress/{NAME}/1.json"
    file.write_text(content)
    done = publisher(NAME, "--hub", hub_copy)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"{file}: " in done.stderr and "Fix: restore it from a copy" in done.stderr
    assert file.read_text() == content


def test_other_checks_change_nothing_that_is_published(hub_copy, shared, tmp_path, monkeypatch):
    """Whether a module is unchanged, its build key decides; a new record of the same build has what the new check found."""
    shutil.copytree(shared / "cache/hubpress/builds", tmp_path / "cache/builds", ignore=shutil.ignore_patterns(".*"))
    before, rows = tree(hub_copy), catalog.load()
    run = Publishing(rows, Storage(hub_copy), base_url="http://x", cache=tmp_path / "cache")
    monkeypatch.setattr(specification, "check_sources", lambda _root, _family: "0" * 64)
    assert [result.state for result in run.run(rows.expand([NAME]))] == ["unchanged"] * 2
    assert tree(hub_copy) == before
    key = specification_of(NAME)["build"]["key"]
    manifest = tmp_path / "cache/builds" / key / "made.json"
    checked = json.loads(manifest.read_text())
    stages = []
    again = Publishing(
        rows,
        Storage(tmp_path / "other"),
        base_url="http://x",
        cache=tmp_path / "cache",
        report=lambda _variant, stage, *_bytes: stages.append(stage),
    )
    assert [result.state for result in again.run(rows.expand([NAME]))] == ["published"] * 2
    assert any("check classifier" in stage for stage in stages) and not any("save" in stage for stage in stages)
    checked_again = json.loads(manifest.read_text())
    for key in ("check_key", "digest"):
        assert checked_again.pop(key) != checked.pop(key)
    assert checked_again == checked
    for name in (NAME, f"{NAME}_fe"):
        archive = f"hubpress/{name}/1.tar.gz"
        assert (tmp_path / "other" / archive).read_bytes() == (hub_copy / archive).read_bytes()


def test_cut_off_between_archive_and_record_is_finished(publisher, hub_copy):
    """The archive is there, the record is not: the module does not exist, and the same command completes it."""
    before = tree(hub_copy)
    (hub_copy / f"hubpress/{NAME}/1.json").unlink()
    assert [r["name"] for r in records.snapshot(Storage(hub_copy)).records if r["row"]["stem"] == NAME] == [
        f"{NAME}_fe"
    ]
    done = publisher(NAME, "--hub", hub_copy)
    assert done.returncode == 0, done.stderr
    after = tree(hub_copy)
    archive = f"hubpress/{NAME}/1.tar.gz"
    assert after[archive] == before[archive] and f"hubpress/{NAME}/1.json" in after


def test_foreign_archive_without_record_is_not_adopted(publisher, tmp_path):
    """Nor is its sibling published beside it: who stored that archive may still publish both, from another build."""
    path = tmp_path / f"hub/hubpress/{NAME}/1.tar.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half of somebody's upload")
    for name in (NAME, f"hubpress/{NAME}/1", f"hubpress/{NAME}_fe/1"):
        done = publisher(name, "--hub", tmp_path / "hub")
        assert done.returncode == 1 and "without a record" in done.stderr and "publish version 2" in done.stderr
        assert done.stdout.count(" failed ") == (2 if name == NAME else 1) and " published " not in done.stdout
        assert list(tree(tmp_path / "hub")) == [f"hubpress/{NAME}/1.tar.gz"]
    assert path.read_bytes() == b"half of somebody's upload"


class Meeting(Storage):
    """A folder in which a rival comes by before the write with the number `at`."""

    def __init__(self, folder, rival, at):
        super().__init__(folder)
        self.rival, self.at = rival, at

    def create(self, path, source, **options):
        self.at -= 1
        if self.at == 0:
            self.rival()
        return super().create(path, source, **options)


@pytest.mark.parametrize(
    ("mine", "theirs", "at"),
    [
        (mine, theirs, at)
        for mine, theirs in (("cf", "cf"), ("cf", "f"), ("c", "f"), ("f", "c"), ("f", "cf"))
        for at in range(1, 2 * len(mine) + 1)  # each archive and each record
    ],
)
def test_siblings_come_from_one_build_wherever_publishers_meet(shared, tmp_path, mine, theirs, at):
    """A publisher of another build does all it can between two writes of this one: one of them gives up."""
    rows = catalog.load()
    handles = {"c": f"hubpress/{NAME}/1", "f": f"hubpress/{NAME}_fe/1"}
    sources = other_build(NAME, shared / "cache/hubpress", tmp_path / "cache", 3)
    states = []

    def rival():
        run = Publishing(rows, Storage(tmp_path / "hub"), base_url="http://x", cache=tmp_path / "cache")
        with other_sources(sources):
            states.extend(result.state for result in run.run(rows.expand([handles[each] for each in theirs])))

    storage = Meeting(tmp_path / "hub", rival, at)
    run = Publishing(rows, storage, base_url="http://x", cache=shared / "cache/hubpress")
    results = run.run(rows.expand([handles[each] for each in mine]))
    found = records.snapshot(Storage(tmp_path / "hub")).records
    assert len({record["build"]["key"] for record in found}) <= 1
    assert mine != theirs or len(found) == 2  # who wants the same heads does not hinder the first
    published = [result.state for result in results].count("published") + states.count("published")
    assert published == len(found)
    for record in found:
        archive = (tmp_path / "hub" / record["archive"]["path"]).read_bytes()
        assert hashlib.sha256(archive).hexdigest() == record["archive"]["sha256"]


def test_a_sibling_of_another_build_is_refused(hub_copy, shared, tmp_path):
    """One head is published; the other is not added to it from another build."""
    for end in (".tar.gz", ".json"):
        (hub_copy / f"hubpress/{NAME}_fe/1{end}").unlink()
    before, rows = tree(hub_copy), catalog.load()
    sources = other_build(NAME, shared / "cache/hubpress", tmp_path / "cache", 3)
    run = Publishing(rows, Storage(hub_copy), base_url="http://x", cache=tmp_path / "cache")
    with other_sources(sources):
        (result,) = run.run(rows.expand([f"hubpress/{NAME}_fe/1"]))
    assert result.state == "failed" and "the modules of a row come from one build" in result.reason
    assert f"hubpress/{NAME}/1 is published with other bytes" in result.reason and tree(hub_copy) == before


def tensors_of(path):
    return {key: np.array(value) for key, value in checkpoints.read(path).tensors.items()}


def spoil(path, change):
    tensors = tensors_of(path)
    change(tensors)
    checkpoints.write(path, tensors)


def four_ways(tensors):
    del tensors["stem.0.bias"]
    tensors["x"] = np.zeros(3, np.float32)
    tensors["head.fc.bias"] = np.zeros(1000, np.float32)
    tensors["stem.1.bias"].fill(np.nan)


CANARY = "hubpress_canary"
PICKLE = b"\x80\x02cos\nsystem\nX\x10\x00\x00\x00touch " + CANARY[:10].encode() + b"\x85R."
REFUSED = {
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-1000]), "convnext_digits.safetensors"),
    "wrong in four ways": (
        lambda p: spoil(p, four_ways),
        "missing (1): stem.0.bias\n",
        "unused (1): x\n",
        "misshaped (1): head.fc.bias is [1000], the model needs [10]",
        "not finite (1): stem.1.bias",
    ),
    "pickle": (lambda p: p.write_bytes(PICKLE), "convnext_digits.safetensors"),
    "web page": (lambda p: p.write_text("<!doctype html><title>404</title>"), "convnext_digits.safetensors"),
    "an average that no upstream has a rule for": (
        lambda p: training_file(p, ema=lambda tensors: {"module": tensors}),
        "more than one network ('state_dict', 'ema/module')",
        "key='ema/module' (a row of the catalogue says it as checkpoint_key)",
    ),
    "other format": (
        lambda p: p.write_bytes((ROOT / "tests/golden/convnext_fb/checkpoint.pth").read_bytes()),
        "does not fit",
    ),
}


def training_file(path, **averages):
    """Write a training file: random weights, and beside them the trained ones under other entries."""
    good = tensors_of(path)
    random = np.random.default_rng(0)
    raw = {key: random.normal(size=value.shape).astype(np.float32) for key, value in good.items()}
    torch_file(path, {"state_dict": raw, "epoch": 7} | {entry: wrap(good) for entry, wrap in averages.items()})


def test_the_average_of_a_training_file_is_published(repository, weights, tmp_path):
    """The trained weights are an average, as timm saves it of a model in data parallelism; the record, module and page say so."""
    rows = repository / "modules/convnext.toml"
    text = rows.read_text()
    digits = 'evaluation = "quickstart/digits_test.npz" }'
    rows.write_text(text.replace(digits, digits.replace(" }", ', heads = ["classifier"] }')))

    def wrapped(tensors):
        return {f"module.{key}": value for key, value in tensors.items()} | {"n_averaged": np.array(9)}

    training_file(weights, state_dict_ema=wrapped)
    done = run_script("publish", NAME, "--hub", tmp_path / "hub", root=repository, check=False)
    rows.write_text(text)
    assert done.returncode == 0, done.stderr
    record = records.snapshot(Storage(tmp_path / "hub")).records[0]
    taken = {"entry": "state_dict_ema", "prefix": "module.", "left_aside": ["n_averaged"]}
    assert record["checkpoint"].items() >= taken.items() and record["measured"]["top1"]["value"] >= 98
    with tarfile.open(tmp_path / "hub" / record["archive"]["path"]) as tar:
        described = json.load(tar.extractfile("assets.extra/module.json"))
    assert described["checkpoint"] == record["checkpoint"]
    assert "| entry | `state_dict_ema` |" in (tmp_path / f"hub/{record['handle']}.md").read_text()


@pytest.mark.parametrize("case", REFUSED)
def test_bad_checkpoint_is_refused_before_anything_is_written(repository, weights, tmp_path, case):
    change, *said = REFUSED[case]
    change(weights)
    done = run_script("publish", NAME, "--hub", tmp_path / "hub", root=repository, check=False)
    assert done.returncode == 1
    assert all(each in done.stderr for each in said) and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.startswith(f"error: modules/convnext.toml: {NAME}: ")  # the row that names the file
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


def test_missing_file_in_the_mirror_is_named(publisher, tmp_path):
    (tmp_path / "mirror").mkdir()
    done = publisher("convnext_tiny_1k_224", "--hub", tmp_path / "hub", "--checkpoints", tmp_path / "mirror")
    assert done.returncode == 1
    assert "convnext_tiny_1k_224_ema.pth" in done.stderr and "mirror" in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: modules/convnext.toml: convnext_tiny_1k_224: ")


def test_files_of_one_name_are_told_apart(upstream, shared, hub, tmp_path):
    """Two rows whose files are called alike: each is taken from its own path, and neither by the name alone."""
    rows, module, mirror = upstream
    other = rows.find("vit_digits_fe").variant
    object.__setattr__(other, "checkpoint", f"https://elsewhere.example.org/b/{WEIGHTS.name}")
    run = Publishing(rows, Storage(tmp_path / "hub"), base_url="http://x", cache=tmp_path, mirrors=str(mirror))
    (result,) = run.run([module])
    assert result.state == "failed" and f"(other files are called {WEIGHTS.name}, too)" in result.reason
    assert reporting.show_plan(rows, [module], None, str(mirror))
    (mirror / "upstream.example.org").mkdir()
    (mirror / WEIGHTS.name).rename(mirror / "upstream.example.org" / WEIGHTS.name)
    assert not reporting.show_plan(rows, [module], None, str(mirror))
    path = fetch_checkpoint(module.variant, rows, cache=tmp_path, mirrors=str(mirror), is_named_alone=False)
    assert path == mirror / "upstream.example.org" / WEIGHTS.name
    text = targets.texts(rows)[targets.CHECKPOINTS_FILE]
    for host in ("upstream.example.org", "elsewhere.example.org/b"):
        assert f'"{host}/{WEIGHTS.name}": ["https://{host}/{WEIGHTS.name}", "{host}/{WEIGHTS.name}", ""]' in text


def test_a_half_written_family_leaves_others_alone(repository, hub_copy, published):
    """The rows of others are published, with a word about it; those of the family are not, with all that is wrong."""
    run_script("new", "family", "stubnet", root=repository)
    try:
        options = ("--hub", hub_copy, "--url", published[1])
        done = run_script("publish", NAME, *options, root=repository)
        assert done.stdout.count(" unchanged ") == 2
        assert re.fullmatch(
            r"warning: modules/stubnet\.toml: it has \d+ problems, and what depends on it is left out\. Fix: run "
            r"`python tools/publish\.py --dry-run`, which lists them\.\n",
            done.stderr,
        )
        for name, status in (("stubnet", 1), ("stubnet_small_1k_224", 1)):
            done = run_script("publish", name, *options, root=repository, check=False)
            assert done.returncode == status and "`licence` is still to be written" in done.stderr
            assert f"no module, family or collection is called '{name}'" in done.stderr
        done = run_script("publish", "--dry-run", root=repository, check=False)
        assert done.returncode == 1 and f" hubpress/{NAME}/1 " in done.stdout
        assert done.stderr.count("error: modules/stubnet.toml: ") > 10
        assert run_script("render", "--hub", hub_copy, root=repository).stderr.startswith(
            "warning: modules/stubnet.toml"
        )
        done = run_script("bazel", root=repository, check=False)
        assert done.returncode == 1 and "error: modules/stubnet.toml: " in done.stderr
    finally:
        (repository / "modules/stubnet.toml").unlink()


def test_a_second_version_says_what_it_corrects(repository, tmp_path):
    file = repository / "modules/vit.toml"
    text = file.read_text()
    line = next(line for line in text.splitlines() if "vit_digits" in line)
    try:
        for more, warned in ((", version = 2", True), (', version = 2, changes = "better"', False)):
            file.write_text(text.replace(line, line.replace(" }", f"{more} }}")))
            done = run_script("publish", "vit_digits", "--dry-run", root=repository)
            assert ("warning: modules/vit.toml: vit_digits: version 2 has no `changes`" in done.stderr) == warned
    finally:
        file.write_text(text)


def test_one_bad_row_leaves_the_others_alone(publisher, tmp_path):
    (tmp_path / "mirror").mkdir()
    done = publisher(NAME, "convnext_atto_1k_224", "--hub", tmp_path / "hub", "--checkpoints", tmp_path / "mirror")
    assert done.returncode == 1 and done.stdout.count("published") == 2 and done.stdout.count("failed") == 2
    assert (tmp_path / f"hub/hubpress/{NAME}/1/index.html").exists()


@pytest.fixture
def upstream(tmp_path):
    """(rows, a row whose checkpoint lies upstream, a folder that has a file of that name)."""
    rows = catalog.load()
    (tmp_path / "mirror").mkdir()
    shutil.copy(WEIGHTS, tmp_path / "mirror")
    module = rows.find(NAME)
    object.__setattr__(module.variant, "checkpoint", f"https://upstream.example.org/{WEIGHTS.name}")
    return rows, module, tmp_path / "mirror"


def test_weights_from_a_mirror_are_marked_and_never_pass_unnoticed(upstream, hub, shared, tmp_path, capsys):
    """In the record, not in what decides the bytes; and said, where nothing vouches for the file."""
    rows, module, mirror = upstream
    path = fetch_checkpoint(module.variant, rows, cache=tmp_path, mirrors=str(mirror))
    specs = [specify(module.variant, rows, path, is_mirrored=is_mirrored) for is_mirrored in (True, False)]
    assert path.parent == mirror and specs[0]["build"] == specs[1]["build"]
    made = json.loads(next((shared / "cache/hubpress").glob(f"builds/{build_key(hub)}/made.json")).read_text())
    found = [
        records.assemble(
            module, spec, *(made[key]["classifier"] for key in ("built", "checked", "packed")), "2030-01-01"
        )
        for spec in specs
    ]
    assert found[0].pop("checkpoint") == found[1]["checkpoint"] | {"mirror": True}
    assert found[0] == {key: value for key, value in found[1].items() if key != "checkpoint"}

    def said(variant_sha256, record, state="published"):
        object.__setattr__(module.variant, "sha256", variant_sha256)
        reporting.show_results([PublishResult(module, state, record=record)], 1, "hub", "http://x")
        return "came from a mirror, and its row pins no sha256" in capsys.readouterr().err

    marked = found[1] | {"checkpoint": found[1]["checkpoint"] | {"mirror": True}}
    assert said(None, marked)
    assert not said("0" * 64, marked) and not said(None, found[1]) and not said(None, marked, "unchanged")
    object.__setattr__(module.variant, "checkpoint", "https://upstream.example.org/regnet_y_400mf-c65dace8.pth")
    assert not said(None, marked)


def build_key(hub):
    return json.loads((hub / f"hubpress/{NAME}/1.json").read_text())["build"]["key"]


def test_a_module_from_a_mirror_is_verified_like_any(hub_copy):
    """That the record says more than the module itself is no contradiction."""
    file = hub_copy / f"hubpress/{NAME}/1.json"
    record = json.loads(file.read_text())
    record["checkpoint"]["mirror"] = True
    file.write_bytes(records.encode(record))
    with Verification(replay=False) as verification:
        result = verification.verify(*verification.find(f"{hub_copy}/hubpress/{NAME}/1"))
    assert result.ok, result.checks


@pytest.mark.parametrize(("parameters", "limit"), [(1000, 16_000 + ROOM_BYTES), (None, LARGEST_BYTES)])
def test_a_download_has_a_limit(upstream, tmp_path, monkeypatch, parameters, limit):
    """What is far larger than the row's network can be is refused before it fills the disk."""
    rows, module, mirror = upstream
    object.__setattr__(module.variant, "parameters", parameters)
    with (mirror / WEIGHTS.name).open("ab") as file:
        file.truncate(limit + 1)  # a hole, which takes no room
    run = Publishing(rows, Storage(tmp_path / "hub"), base_url="http://x", cache=tmp_path, mirrors=str(mirror))
    (result,) = run.run([module])
    assert result.state == "failed" and f"the limit is {limit}" in result.reason


def test_hub_that_cannot_be_written(publisher, tmp_path):
    blocked = tmp_path / "a file"
    blocked.write_text("not a folder")
    done = publisher(NAME, "--hub", blocked / "hub")
    assert done.returncode == 1 and "a file" in done.stderr and "Traceback" not in done.stderr


def test_unknown_protocol(publisher):
    done = publisher(NAME, "--hub", "nosuch://bucket/hub")
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
