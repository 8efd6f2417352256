"""Bazel: the targets are the catalogue's, they make what tools/publish.py makes, from a shared cache too, and --prebuilt publishes it.

What needs Bazel or nginx is skipped, with the reason, where they are not installed.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.support.builds import specification_of
from tests.support.commands import ROOT, run_script
from tests.support.programs import requires
from tools import catalog, publish
from tools.common.ports import free_port
from tools.publishing import action, prebuilt, targets
from tools.publishing.specification import SpecificationError

pytestmark = pytest.mark.slow

ROW = "vit_digits"
FILES = (".bazelignore", ".bazelrc", "BUILD.bazel", "MODULE.bazel", "WORKSPACE", "pyproject.toml", "requirements.lock")
FOLDERS = ("builders", "collections", "modules", "tools")


def checkout(folder: Path) -> Path:
    """A copy of what is built from, with this run's Python beside it: another checkout."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


# ------------------------------------------------------------------------------------------------------------ the targets


def test_the_targets_are_the_rows_of_the_catalogue():
    for file, text in targets.texts(catalog.load()).items():
        assert (ROOT / file).read_text() == text, f"{file} is stale: run `python tools/bazel.py`"


def test_a_change_of_the_catalogue_is_found_and_written(tmp_path):
    copy = checkout(tmp_path / "checkout")
    file = copy / "modules/vit.toml"
    file.write_text(file.read_text().replace('{ size = "digits"', '{ stem = "vit_ciphers", size = "digits"'))

    def run(*arguments):
        return run_script("bazel", *arguments, root=copy, check=False)

    done = run("--check")
    assert done.returncode == 1
    stale = "modules/BUILD.bazel: it is not what the catalogue and the sources say. Fix: run `python tools/bazel.py`."
    assert stale in done.stderr
    assert "wrote modules/BUILD.bazel\n" in run().stdout
    assert 'name = "vit_ciphers"' in (copy / "modules/BUILD.bazel").read_text()
    assert run("--check").returncode == 0 and "nothing changed" in run().stdout


def test_versions_and_names_that_collide():
    rows = catalog.load()
    first = rows.find("convnext_tiny_1k_224").variant
    second = dataclasses.replace(first, version=2)
    both = dataclasses.replace(rows, variants=(first, second))
    assert [targets.name(each, both) for each in both.variants] == ["convnext_tiny_1k_224-1", "convnext_tiny_1k_224-2"]
    elsewhere = dataclasses.replace(second, checkpoint="https://example.org/" + first.file_name)
    texts = targets.texts(dataclasses.replace(rows, variants=(first, elsewhere)))  # named by their whole paths
    for path in ("example.org", "dl.fbaipublicfiles.com/convnext"):
        assert f'checkpoint = "@checkpoints//:{path}/{first.file_name}"' in texts[targets.BUILD_FILE]
        assert f'"{path}/{first.file_name}": ["https://{path}/' in texts[targets.CHECKPOINTS_FILE]
    pinned = dataclasses.replace(second, sha256="0" * 64)
    with pytest.raises(
        targets.TargetError, match=r"convnext_tiny_1k_224: two rows have the file https:.* different digests"
    ):
        targets.texts(dataclasses.replace(rows, variants=(first, pinned)))
    with pytest.raises(targets.TargetError, match="are called convnext_tiny_1k_224-1"):
        targets.texts(dataclasses.replace(rows, variants=(first, first)))


# ------------------------------------------------------------------------------------------------------------ the actions


@pytest.fixture
def planned(tmp_path):
    """plan(edits): the specification, as bytes, of a row in a repository where each (file, old, new) was replaced."""
    for name in ("builders", "collections", "modules"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "tools", tmp_path / "tools", ignore=shutil.ignore_patterns("__pycache__"))

    def plan(*edits: tuple[str, str, str]) -> bytes:
        for file, old, new in edits:
            text = (tmp_path / file).read_text()
            assert old in text, f"{file} has no {old}"
            (tmp_path / file).write_text(text.replace(old, new))
        checkpoint = next((tmp_path / "modules/quickstart").glob(f"{ROW}.*")).relative_to(tmp_path)
        spec, facts = tmp_path / "spec.json", tmp_path / "checkpoint.json"
        action.plan(root=tmp_path, row=f"{ROW}/1", checkpoint=checkpoint, origin=None, spec=spec, facts=facts)
        assert str(tmp_path) not in spec.read_text() + facts.read_text()  # or no two machines would share a cache
        return spec.read_bytes()

    return plan


def test_a_plan_holds_what_decides_the_bytes_and_the_checks_and_nothing_else(planned):
    first = planned()
    shown = ("modules/vit.toml", "title = ", "title = 'Other ' # ")
    assert planned(shown, ("modules/convnext.toml", "top1 = 82.1", "top1 = 82.2")) == first
    # Another family, what reads archives, what evaluates.
    others = ("builders/regnety.py", "tools/archive/reading.py", "tools/evaluation/worker.py")
    assert planned(*((file, "import ", "import  ") for file in others)) == first
    second = planned(("builders/vit.py", "import ", "import  "))
    assert len({first, second, planned(("tools/archive/packing.py", "import ", "import  "))}) == 3


def test_what_checks_a_build_changes_the_check_key_alone(planned, tmp_path):
    specs = [json.loads(planned())]
    specs.append(json.loads(planned(("tools/publishing/check.py", "import ", "import  "))))
    with (tmp_path / "modules/quickstart/digits_test.npz").open("ab") as file:
        file.write(b"more")
    specs.append(json.loads(planned()))
    assert len({spec["check"]["key"] for spec in specs}) == 3
    assert len({json.dumps({key: spec[key] for key in spec if key != "check"}) for spec in specs}) == 1


def action_sources() -> dict:
    """The lists of modules/sources.bzl, which are Python, too."""
    found: dict = {}
    exec((ROOT / targets.SOURCES_FILE).read_text(), found)
    return found


def test_an_action_has_the_sources_that_it_imports_and_no_others(planned, tmp_path):
    """In a folder that holds what the action declares, as a sandbox does, the plan is the same."""
    sources = action_sources()
    rooms = {file.partition("/")[0] for file in sources["ACTION"]}
    assert rooms == {"__init__.py", "archive", "catalog", "common", "publishing"}
    expected = planned()
    sandbox = tmp_path / "sandbox"
    for folder, files in (("tools", sources["ACTION"]), ("builders", sources["FAMILIES"]["vit"])):
        for file in files:
            (sandbox / folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / folder / file, sandbox / folder / file)
    for name in ("collections", "modules"):
        shutil.copytree(ROOT / name, sandbox / name)
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, sandbox)
    checkpoint = next((sandbox / "modules/quickstart").glob(f"{ROW}.*")).relative_to(sandbox)
    python = ".".join(map(str, sys.version_info[:2]))
    command = (
        f"plan --row {ROW}/1 --checkpoint {checkpoint} --python {python} --spec spec.json --checkpoint-facts facts"
    )
    done = subprocess.run(
        [sys.executable, "-m", "tools.publishing.action", *command.split()],
        cwd=sandbox,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert (sandbox / "spec.json").read_bytes() == expected
    for family, files in sources["FAMILIES"].items():
        assert f"{family}.py" in files and "library" not in " ".join(files)


def test_a_row_that_is_gone_names_the_fix(tmp_path):
    with pytest.raises(action.ActionError, match=r"vit_gone/1 any more. Fix: run `python tools/bazel.py`"):
        action.plan(root=ROOT, row="vit_gone/1", checkpoint=tmp_path, origin=None, spec=tmp_path, facts=tmp_path)


@pytest.mark.parametrize(
    ("python", "lock", "said"),
    [
        ("3.10", "", "not 3.10. Fix: run `make venv`"),
        ("3.11", "numpy==1.0 \\\n    --hash=sha256:00", r"numpy \S+, requirements.lock says 1.0. Fix: run `make venv`"),
        ("3.11", "keras==1.0 ; python_version < '3'\nkeras==1.1", r"says 1.0 or 1.1"),
    ],
)
def test_another_environment_is_refused(tmp_path, python, lock, said):
    file = tmp_path / "requirements.lock"
    file.write_text("not-installed-anywhere==1.0\n" + lock)
    here = ".".join(map(str, sys.version_info[:2]))
    with pytest.raises(action.ActionError, match=said):
        action.check_environment(file, python if here == "3.11" or python == "3.10" else here)
    file.write_text("not-installed-anywhere==1.0\n")
    action.check_environment(file, here)


# ------------------------------------------------------------------------------------------------------------ --prebuilt


@pytest.fixture(scope="session")
def published_build(published, shared):
    """The build of the row by `tools/publish.py` itself, from this run's cache: archives and made.json."""
    return shared / "cache/hubpress/builds" / specification_of(f"{ROW}_fe")["build"]["key"]


@pytest.fixture
def from_bazel(published_build, tmp_path):
    """A folder as bazel-bin/modules would be, with the row's target."""
    shutil.copytree(published_build, tmp_path / "modules" / ROW)
    (tmp_path / "modules" / ROW / "checkpoint.json").write_text("{}")
    return tmp_path / "modules"


def test_prebuilt_archives_are_published_without_a_build(from_bazel, tmp_path):
    hub, cache = tmp_path / "hub", tmp_path / "cache"
    assert publish.main([ROW, "--prebuilt", str(from_bazel), "--hub", str(hub), "--cache", str(cache)]) == 0
    for module in catalog.load().expand([ROW]):
        assert (hub / f"{module.handle}.json").exists()
        assert (hub / f"{module.handle}.tar.gz").read_bytes() == (
            from_bazel / ROW / f"{module.head}.tar.gz"
        ).read_bytes()
    assert not (cache / "builds").exists() and not (cache / "checkpoints").exists()


def damage(file: Path, change) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (
            lambda folder: damage(folder / "made.json", lambda made: made | {"build_key": "0" * 64}),
            "was made from another row, checkpoint, code or versions than are here. Fix: ",
        ),
        (
            lambda folder: damage(folder / "made.json", lambda made: made | {"check_key": "0" * 64}),
            f"{ROW} was checked with other code or other labelled images than are here. Fix: ",
        ),
        (
            lambda folder: damage(folder / "made.json", lambda made: {**made, "build_key": "0", "check_key": "0"}),
            "code or versions than are here and was checked with other code",
        ),
        (lambda folder: (folder / "classifier.tar.gz").write_bytes(b"other"), "classifier.tar.gz is not the archive"),
        (lambda folder: (folder / "feature_extractor.tar.gz").unlink(), "feature_extractor.tar.gz is not the archive"),
        (lambda folder: (folder / "made.json").write_text("{"), "made.json is missing or damaged"),
        (
            lambda folder: damage(folder / "made.json", lambda made: made | {"built": {}}),
            "made.json is missing or damaged",
        ),
        (lambda folder: shutil.rmtree(folder), f"{ROW} is not in "),
    ],
    ids=[
        "another build key",
        "another check key",
        "two other keys",
        "other bytes",
        "no archive",
        "cut manifest",
        "manifest without heads",
        "not built",
    ],
)
def test_prebuilt_archives_that_are_not_what_is_here_are_refused(from_bazel, tmp_path, harm, said, capsys):
    harm(from_bazel / ROW)
    hub = tmp_path / "hub"
    assert (
        publish.main([ROW, "--prebuilt", str(from_bazel), "--hub", str(hub), "--cache", str(tmp_path / "cache")]) == 1
    )
    errors = " ".join(capsys.readouterr().err.split())
    assert said in errors and f"`bazel build //modules:{ROW}`" in errors
    assert not list(hub.rglob("*.json")) and not list(hub.rglob("*.tar.gz"))


@pytest.mark.parametrize("noted", ["{}", "[]", '{"bytes": 7}'])
def test_a_damaged_note_of_a_checkpoint_is_named(tmp_path, noted):
    rows = catalog.load()
    variant = rows.find("convnext_tiny_1k_224").variant
    (tmp_path / variant.stem).mkdir()
    (tmp_path / variant.stem / "checkpoint.json").write_text(noted)
    with pytest.raises(prebuilt.PrebuiltError, match=r"checkpoint\.json is missing or damaged\. Fix: run `bazel build"):
        prebuilt.find(tmp_path, variant, rows)


def test_prebuilt_checkpoints_from_elsewhere_are_believed_by_digest(tmp_path):
    """The key of a row whose checkpoint is not here is computed from what Bazel noted of it; a pinned digest still counts."""
    rows = catalog.load()
    variant = rows.find("convnext_tiny_1k_224").variant
    (tmp_path / variant.stem).mkdir()
    for origin in ("mirror", "upstream"):
        noted = {"bytes": 7, "sha256": "ab" * 32, "origin": origin}
        (tmp_path / variant.stem / "checkpoint.json").write_text(json.dumps(noted))
        spec, folder = prebuilt.find(tmp_path, variant, rows)
        assert folder.name == variant.stem and spec["module"]["checkpoint"]["sha256"] == noted["sha256"]
        assert spec.get("mirror", False) == (origin == "mirror")
    with pytest.raises(SpecificationError, match="the row pins cdcd"):
        prebuilt.find(tmp_path, dataclasses.replace(variant, sha256="cd" * 32), rows)


def test_usage_errors_of_prebuilt(tmp_path, capsys):
    for arguments, said in (
        (["--prebuilt", "nowhere"], "run `bazel build //modules:NAME`"),
        (["--prebuilt", str(tmp_path), "--checkpoints", "."], "--checkpoints: not allowed with argument --prebuilt"),
    ):
        with pytest.raises(SystemExit):
            publish.main([ROW, "--hub", str(tmp_path / "hub"), *arguments])
        assert said in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ Bazel itself


@dataclasses.dataclass
class Bazel:
    """Bazel in one checkout with one output base; `out` holds what bazel-bin would."""

    checkout: Path
    base: Path

    @property
    def out(self) -> Path:
        return self.base.with_name(f"{self.base.name}-bin")

    def __call__(self, command: str, *arguments: str) -> subprocess.CompletedProcess:
        flags = ["--color=no", "--curses=no"]
        if command == "build":
            flags.append(f"--symlink_prefix={self.base}-")
        return subprocess.run(
            ["bazel", f"--output_base={self.base}", "--nohome_rc", "--max_idle_secs=60", command, *flags, *arguments],
            cwd=self.checkout,
            capture_output=True,
            text=True,
            timeout=600,
        )

    def processes(self, done: subprocess.CompletedProcess) -> dict[str, int]:
        """Return how the actions of a build were done, as {"linux-sandbox": 2, "internal": 1}, from its summary."""
        summary = re.search(r"INFO: \d+ process(?:es)?: (.*)\.", done.stderr)
        assert done.returncode == 0 and summary, done.stderr[-4000:]
        return {kind: int(count) for count, kind in re.findall(r"(\d+) ([^,]+)", summary[1])}


@pytest.fixture(scope="session")
def http_cache(tmp_path_factory):
    """(address, log): nginx with the configuration that docs/bazel.md shows, as an empty HTTP cache."""
    nginx, folder, port = requires("nginx"), tmp_path_factory.mktemp("nginx"), free_port()
    blocks = re.findall(r"```nginx\n(.*?)```", (ROOT / "docs/bazel.md").read_text(), re.DOTALL)
    [server] = [block for block in blocks if "dav_methods" in block]
    server = server.replace("listen 8080", f"listen 127.0.0.1:{port}").replace(
        "/var/cache/bazel", str(folder / "cache")
    )
    (folder / "cache").mkdir()
    temporary = "".join(f"  {kind}_temp_path {folder}/{kind};\n" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;\n" if os.geteuid() == 0 else ""  # the folders of this run belong to whoever runs it
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"daemon off;\nmaster_process off;\npid {folder}/pid;\n{user}error_log {folder}/errors;\nevents {{}}\n"
        f"http {{\n  access_log {folder}/log;\n{temporary}{server}}}\n"
    )
    process = subprocess.Popen([nginx, "-e", folder / "errors", "-p", folder, "-c", configuration])
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
                break
            assert process.poll() is None, (folder / "errors").read_text()
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", folder / "log"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def bazel(tmp_path_factory):
    """Two checkouts, each with an output base of its own: two machines."""
    requires("bazel")
    folder = tmp_path_factory.mktemp("bazel")
    machines = [Bazel(checkout(folder / f"checkout-{name}"), folder / name) for name in ("first", "second")]
    yield machines
    for machine in machines:
        machine("shutdown")
        subprocess.run(["chmod", "-R", "u+w", folder], check=True)  # Bazel writes outputs that nobody may write to


@pytest.fixture(scope="session")
def built(bazel, http_cache):
    """The first machine built the row and filled the cache; how its actions were done."""
    first = bazel[0]
    return first.processes(
        first("build", "--config=remote-cache", f"--remote_cache={http_cache[0]}", f"//modules:{ROW}")
    )


def test_bazel_makes_the_bytes_of_publish(bazel, built, published_build):
    assert sum(count for kind, count in built.items() if kind.endswith("-sandbox")) == 2, built
    made = bazel[0].out / "modules" / ROW
    files = sorted(file.name for file in published_build.iterdir())
    assert files == ["classifier.tar.gz", "feature_extractor.tar.gz", "made.json"]
    for name in files:
        assert (made / name).read_bytes() == (published_build / name).read_bytes(), (
            f"{name} differs from what tools/publish.py made"
        )


def test_another_checkout_with_another_output_base_takes_everything_from_the_cache(bazel, built, http_cache):
    url, log = http_cache
    before = len(log.read_text().splitlines())
    second = bazel[1]
    done = second("build", "--config=remote-cache", f"--remote_cache={url}", f"//modules:{ROW}")
    assert second.processes(done) == {"remote cache hit": 2, "internal": 1}
    asked = [line.split('"')[1].split()[0] + line.split('"')[2][:4] for line in log.read_text().splitlines()[before:]]
    assert asked and set(asked) == {"GET 200"}  # nothing was missing, and nothing was uploaded
    for name in ("classifier.tar.gz", "feature_extractor.tar.gz", "made.json", "checkpoint.json"):
        file = f"modules/{ROW}/{name}"
        assert (second.out / file).read_bytes() == (bazel[0].out / file).read_bytes()


def test_what_bazel_made_is_published_and_loads(bazel, built, tmp_path, digits):
    import numpy as np
    import tensorflow_hub

    hub = tmp_path / "hub"
    assert publish.main([ROW, "--prebuilt", str(bazel[0].out / "modules"), "--hub", str(hub)]) == 0
    module = next(each for each in catalog.load().expand([ROW]) if each.head == "classifier")
    shutil.unpack_archive(hub / f"{module.handle}.tar.gz", tmp_path / "module")
    images, labels = digits
    answers = tensorflow_hub.load(str(tmp_path / "module"))(images[:64]).numpy().argmax(-1)
    assert np.mean(answers == labels[:64]) > 0.9


def test_every_row_is_a_target_of_all(bazel):
    done = bazel[0]("query", "kind('module rule', //modules:all)")
    rows = catalog.load()
    assert set(done.stdout.split()) == {f"//modules:{targets.name(variant, rows)}" for variant in rows.variants}


def test_checkpoints_are_taken_from_a_folder_and_checked(bazel, tmp_path):
    """A row from elsewhere: no folder, no file, a file that is not the one of its name, and that file changed."""
    first, name, folder = bazel[0], "regnet_y_400mf-c65dace8.pth", tmp_path / "checkpoints"

    def said(folder):
        done = first("build", f"--repo_env=HUBPRESS_CHECKPOINTS={folder}", "//modules:regnety400mf_tv1")
        assert done.returncode
        return done.stderr

    assert "relative is no absolute path" in said("relative")
    whole = f"download.pytorch.org/models/{name}"
    assert f"{folder}/{whole} nor {folder}/{name} is not there; put the file of https://{whole} there" in said(folder)
    for number, places in enumerate([[name], [whole], [whole, name]]):  # by its whole path first
        for content in (b"not a checkpoint", b"not a checkpoint either"):
            for path in (tmp_path / str(number) / place for place in places):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content if path.match(f"*/{places[0]}") else b"another")
            assert f"has the SHA-256 {hashlib.sha256(content).hexdigest()} instead of" in said(tmp_path / str(number))


def test_files_of_one_name_are_told_apart_by_their_whole_paths(bazel, tmp_path):
    """A row whose upstream file is called like another's: Bazel takes neither by its name."""
    first, folder = bazel[0], tmp_path / "checkpoints"
    file = first.checkout / "modules/regnety.toml"
    text = file.read_text()
    name = "regnet_y_400mf-c65dace8.pth"
    line = next(line for line in text.splitlines() if name in line)
    again = line.replace('"regnety400mf_tv1"', '"regnety_again"').replace(f'"{name}"', f'"more/{name}"')
    file.write_text(text.replace(line, f"{line}\n{again}"))
    try:
        run_script("bazel", root=first.checkout)
        (folder / "download.pytorch.org/models").mkdir(parents=True)
        (folder / name).write_bytes(b"whose?")
        content = b"of the first"
        digest = hashlib.sha256(content).hexdigest()
        (folder / "download.pytorch.org/models" / name).write_bytes(content)
        for target, said in (
            ("regnety400mf_tv1", f"has the SHA-256 {digest} instead of c65dace8"),
            ("regnety_again", f"{folder}/download.pytorch.org/models/more/{name} is not there"),
        ):
            done = first("build", f"--repo_env=HUBPRESS_CHECKPOINTS={folder}", f"//modules:{target}")
            assert done.returncode and said in done.stderr, done.stderr
    finally:
        file.write_text(text)
        run_script("bazel", root=first.checkout)
