"""Building, checking and packing beside each other: what comes out, and who ends whom when one of them fails.

The processes are real ones, of a repository whose programs write and look at small files instead of networks.
"""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import ROOT
from tools.archive import reading
from tools.archive.members import ArchiveError
from tools.common import files, locks
from tools.common.files import sha256_of_file
from tools.publishing import build

pytestmark = pytest.mark.slow

HEADS = ("classifier", "feature_extractor")
# Programs that write and look at small files; `exec` does what a test wants at that moment.
BUILD = """
import json, os, pathlib, sys, time
spec, out = json.loads(pathlib.Path(sys.argv[1]).read_text()), pathlib.Path(sys.argv[2])
(out.parent / "build.pid").write_text(str(os.getpid()))
def say(**message): print(json.dumps(message), flush=True)
exec(spec.get("before_build", ""))
for head in spec["heads"]:
    say(event="stage", name=f"save {head}")
    (out / head / "variables").mkdir(parents=True)
    (out / head / "saved_model.pb").write_bytes(head.encode())
    (out / head / "variables/variables.index").write_bytes(bytes(1 << 20))
    exec(spec.get("in_build", ""))
    (out / f"{head}.json").write_text(json.dumps({"seed": os.environ["PYTHONHASHSEED"]}))
    say(event="built", head=head)
    exec(spec.get("after_build", ""))
"""
CHECK = """
import json, os, pathlib, sys
spec, out = json.loads(pathlib.Path(sys.argv[1]).read_text()), pathlib.Path(sys.argv[2])
(out.parent / "check.pid").write_text(str(os.getpid()))
def say(**message): print(json.dumps(message), flush=True)
for line in sys.stdin:
    head = json.loads(line)["head"]
    say(event="stage", name=f"check {head}")
    exec(spec.get("in_check", ""))
    found = {"bytes": (out / head / "saved_model.pb").stat().st_size, "by": spec["check"]["key"]}
    found |= {"built": json.loads((out / f"{head}.json").read_text())}
    (out / f"{head}.check.json").write_text(json.dumps(found))
    say(event="checked", head=head)
"""


@pytest.fixture
def root(tmp_path):
    """A repository that has these programs in the places of the real ones."""
    for name, program in (("builders/build", BUILD), ("tools/publishing/check", CHECK)):
        file = tmp_path / f"root/{name}.py"
        file.parent.mkdir(parents=True)
        file.write_text(program)
    return tmp_path / "root"


def specification(**more):
    """Return a specification with what those programs, and `build`, read."""
    return {
        "heads": HEADS,
        "build": {"key": "k"},
        "check": {"key": "c"},
        "module": {"checkpoint": {"bytes": 1 << 20}, "row": {"stem": "x", "version": 1}},
        "file": "modules/x.toml",
        **more,
    }


@pytest.fixture
def make(root, tmp_path):
    """`make(**spec)`: the manifest, the folder that was built in, and the stages that were reported; raises what `make` raises."""
    folder = tmp_path / "building"
    folder.mkdir()
    stages = []

    def run(**more):
        report = lambda stage, *_bytes: stages.append(stage)  # noqa: E731
        manifest = build.make(specification(**more), folder, root=root, report=report, logs=tmp_path / "logs")
        return manifest, folder, stages

    run.folder = folder
    return run


def _runs(pid_file) -> bool:
    try:
        os.kill(int(pid_file.read_text()), 0)
        return True
    except ProcessLookupError:
        return False


def test_every_head_is_built_checked_and_packed(make):
    made, folder, stages = make()
    assert json.loads((folder / "finished/made.json").read_text()) == made
    assert made["build_key"] == "k" and made["check_key"] == "c"
    assert set(made["built"]) == set(made["checked"]) == set(made["packed"]) == set(HEADS)
    for head in HEADS:
        assert made["built"][head] == {"seed": "0"} and made["checked"][head]["bytes"] == len(head)
        file = folder / f"finished/{head}.tar.gz"
        assert made["packed"][head]["bytes"] == file.stat().st_size and made["packed"][head]["members"] == 2
        assert reading.inspect(file)[0].name == "saved_model.pb"
        assert not (folder / "out" / head).exists()  # what is packed and checked takes no more room
    joined = "\n".join(stages)
    for head in HEADS:
        assert f"save {head}" in joined and f"check {head}" in joined and f"pack {head}" in joined


def test_a_head_is_checked_and_packed_while_the_next_one_is_built(make):
    # The build of each head goes on only when the head before has been looked at: it would never end if nobody did.
    waits = """
if head == "classifier":
    while (out / head).exists():
        time.sleep(0.01)
"""
    made, *_ = make(after_build=waits)
    assert set(made["checked"]) == set(HEADS)


@pytest.mark.parametrize(("large", "factor", "processes"), [(1 << 20, 1, 2), (1 << 20, 1 << 40, 1), (1 << 21, 1, 1)])
def test_heads_of_a_large_network_are_checked_beside_each_other_where_memory_is_plenty(
    make, monkeypatch, large, factor, processes
):
    monkeypatch.setattr(build, "LARGE_BYTES", large)
    monkeypatch.setattr(build, "ROOM_FACTOR", factor)
    waits = ""
    if processes == 2:  # neither check would end if the other did not run
        waits = "import time; (out / f'{head}.here').touch()\n"
        waits += "while len(list(out.glob('*.here'))) < 2: time.sleep(0.01)"
    made, folder, stages = make(in_check=waits)
    assert set(made["checked"]) == set(HEADS)
    assert len(list(folder.glob("tools.publishing.check.*.log"))) == processes
    assert any(all(f"check {head}" in each for head in HEADS) for each in stages) == (processes == 2)


@pytest.mark.parametrize("failing", HEADS)
def test_one_of_two_checks_that_fails_ends_the_other(make, monkeypatch, failing):
    monkeypatch.setattr(build, "LARGE_BYTES", 0)
    monkeypatch.setattr(build, "ROOM_FACTOR", 0)
    waits = "import time\n(out.parent / f'{head}.pid').write_text(str(os.getpid()))\n"
    waits += f"if head == {failing!r}:\n"
    waits += "    while not all((out.parent / f'{each}.pid').exists() for each in spec['heads']): time.sleep(0.01)\n"
    waits += "    sys.exit(f'the {head} differs')\ntime.sleep(600)"
    with pytest.raises(build.BuildError, match=rf"^the {failing} differs$"):
        make(in_check=waits)
    for head in HEADS:
        assert not _runs(make.folder / f"{head}.pid")
    assert not (make.folder / "finished/made.json").exists()


def test_a_failed_check_ends_the_build(make):
    with pytest.raises(build.BuildError, match=r"^modules/x\.toml: x: the classifier differs$"):
        make(
            after_build="time.sleep(600)",
            in_check="sys.exit('modules/x.toml: x: the classifier differs')",
        )
    assert not _runs(make.folder / "build.pid")
    assert not (make.folder / "finished/made.json").exists()


def test_a_failed_build_ends_the_check(make):
    with pytest.raises(build.BuildError, match=r"^the second head answers NaN$"):
        make(
            after_build="""
while head == "feature_extractor":
    if (out.parent / "check.pid").exists():
        sys.exit("the second head answers NaN")
    time.sleep(0.01)
""",
            in_check="import time; time.sleep(600)",
        )
    assert not _runs(make.folder / "check.pid")
    assert not (make.folder / "finished/made.json").exists()


PROGRAMS = {"after_build": "builders.build", "in_check": "tools.publishing.check"}


@pytest.mark.parametrize("who", PROGRAMS)
def test_a_killed_process_is_reported_as_such(make, who):
    with pytest.raises(
        build.BuildError, match=rf"^{PROGRAMS[who]} was killed by signal 9 \(out of memory\?\)\. Fix: run the same"
    ):
        make(**{who: "import signal; os.kill(os.getpid(), signal.SIGKILL)"})


# TensorFlow's graph optimiser aborts on explicit padding of a depthwise convolution.
ABORTS = """
import tensorflow as tf
@tf.function
def convolution(images):
    maps = tf.nn.depthwise_conv2d(images, tf.ones([3, 3, 3, 1]), [1] * 4, [[0, 0], [1, 1], [1, 1], [0, 0]])
    return tf.nn.bias_add(maps, tf.ones([3]))
convolution(tf.ones([1, 8, 8, 3]))
"""


def test_a_check_that_tensorflow_aborts_names_the_fatal_line_and_keeps_its_log(make, tmp_path):
    with pytest.raises(build.BuildError) as caught:
        make(in_check=ABORTS)
    log = tmp_path / "logs/x-1.tools.publishing.check.log"
    first, *words = str(caught.value).splitlines()
    assert first == (
        f"tools.publishing.check crashed with signal 6 (Aborted); its log is {log}. "
        "Fix: correct what the lines below name; the same command would end in the same way."
    )
    assert "Check failed: index >= 0" in words[0] and "tensor_format.h" in words[0]
    assert not any("@  " in word for word in words)  # no frames of the stack
    assert words[0] in log.read_text() and "GetTensorDimIndex" in log.read_text()


@pytest.mark.parametrize(
    ("who", "program"),
    [
        ("in_check", "import faulthandler; faulthandler.enable(); import ctypes; ctypes.string_at(0)"),
        ("after_build", "import faulthandler; faulthandler.enable(); os.abort()"),
        ("after_build", "raise KeyError('depths')"),
    ],
)
def test_the_log_of_a_crash_is_kept_and_that_of_a_refusal_is_not(make, tmp_path, who, program):
    with pytest.raises(build.BuildError) as caught:
        make(**{who: program})
    log = tmp_path / f"logs/x-1.{PROGRAMS[who]}.log"
    assert f"its log is {log}" in str(caught.value).splitlines()[0]
    assert re.search("Fatal Python error: (Segmentation fault|Aborted)|KeyError: 'depths'", str(caught.value))
    assert [each.name for each in log.parent.iterdir()] == [log.name]  # not of the process that was ended because of it


@pytest.mark.parametrize("who", ["before_build", "in_check"])
def test_a_program_that_ends_without_a_result_is_named(make, who):
    with pytest.raises(build.BuildError) as caught:
        make(**{who: "sys.exit()"})
    module, file = {
        "before_build": ("builders.build", "builders/build.py"),
        "in_check": ("tools.publishing.check", "tools/publishing/check.py"),
    }[who]
    assert str(caught.value) == (
        f"modules/x.toml: x: {module} ended without an error and without a result for the classifier. "
        f"Fix: correct {file}, which must end with an error if it does not finish."
    )


def test_what_cannot_be_packed_ends_both(make):
    with pytest.raises(ArchiveError, match=r"stray: is no file of a SavedModel\. Fix: remove it"):
        make(in_build="(out / head / 'stray').write_text('x')", after_build="time.sleep(600)")
    assert not _runs(make.folder / "build.pid")


def test_what_a_killed_process_was_building_is_deleted_and_what_a_living_one_builds_is_not(tmp_path):
    builds = tmp_path / "builds"
    code = "import pathlib, sys; from tools.publishing import build\n"
    code += "with build.build_directory(pathlib.Path(sys.argv[1])) as folder:\n"
    code += "    (folder / 'weights').write_bytes(bytes(1 << 20)); print(folder, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, builds]
    killed, alive = (
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    )
    folders = [Path(each.stdout.readline().strip()) for each in (killed, alive)]
    (builds / "0123").mkdir()  # a build that was finished
    killed.kill()
    killed.wait()
    assert all((folder / "weights").exists() for folder in folders)
    with build.build_directory(builds) as mine:
        assert sorted(each for each in builds.iterdir()) == sorted([mine, folders[1], builds / "0123"])
        with build.build_directory(builds) as another:
            assert another != mine and mine.exists()
    alive.communicate()
    assert alive.returncode == 0 and [each.name for each in builds.iterdir()] == ["0123"]


def test_a_folder_is_locked_until_it_is_gone(tmp_path, monkeypatch):
    deleted = []

    def rmtree(folder, **options):
        with pytest.raises(locks.LockHeld), locks.lock(folder, wait=False):
            pass
        deleted.append(folder)
        original(folder, **options)

    original = build.shutil.rmtree
    monkeypatch.setattr(build.shutil, "rmtree", rmtree)
    with build.build_directory(tmp_path) as folder:
        (folder / "weights").write_bytes(b"1")
    assert deleted == [folder] and not folder.exists()


@pytest.mark.parametrize("without", ["flock", "fcntl"])
def test_without_locks_nothing_is_deleted(tmp_path, monkeypatch, without):
    left = tmp_path / ".building-of-somebody"
    left.mkdir()
    if without == "flock":
        unsupported = OSError(errno.ENOLCK, "not supported")
        monkeypatch.setattr(locks.fcntl, "flock", lambda *_: (_ for _ in ()).throw(unsupported))
    else:
        monkeypatch.setattr(locks, "fcntl", None)
    with build.build_directory(tmp_path) as folder:
        assert folder.is_dir()
    assert left.is_dir() and not folder.exists()


# The cache of builds


@pytest.fixture
def get(root, tmp_path):
    """`get(**spec)`: (build, stages) of `get_or_make` in one cache."""

    def run(**more):
        stages = []
        found = build.get_or_make(
            specification(**more), tmp_path / "builds", root=root, report=lambda stage, *_bytes: stages.append(stage)
        )
        return found, " ".join(stages)

    return run


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_build_is_made_once(get, tmp_path):
    first, stages = get()
    assert first.folder == tmp_path / "builds/k" and "save classifier" in stages
    assert set(contents(first.folder)) == {"classifier.tar.gz", "feature_extractor.tar.gz", "made.json"}
    again, stages = get()
    assert again == first and stages == "reuse the build"
    assert [each.name for each in (tmp_path / "builds").iterdir()] == ["k"]


def test_another_check_key_checks_again_and_builds_nothing(get, tmp_path):
    first, _ = get()
    before = contents(first.folder)
    again, stages = get(check={"key": "other"}, in_build="raise SystemExit('built again')")
    after = contents(first.folder)
    assert "check classifier" in stages and "check feature_extractor" in stages and "save" not in stages
    assert again.manifest == json.loads(after["made.json"]) and again.folder == first.folder
    assert again.manifest["check_key"] == "other" and again.manifest["build_key"] == "k"
    for head in HEADS:  # the check had what the first had: the SavedModel, and what was found out while it was built
        expected = first.manifest["checked"][head] | {"by": "other"}
        assert again.manifest["checked"][head] == expected and expected["built"] == {"seed": "0"}
        assert after[f"{head}.tar.gz"] == before[f"{head}.tar.gz"]
    assert again.manifest["built"] == first.manifest["built"] and again.manifest["packed"] == first.manifest["packed"]
    assert get(check={"key": "other"})[1] == "reuse the build"
    assert [each.name for each in (tmp_path / "builds").iterdir()] == ["k"]


def test_a_second_check_that_fails_leaves_the_build_as_it_was(get, tmp_path):
    first, _ = get()
    before = contents(first.folder)
    for _ in range(2):  # it is not taken for checked by the next run
        with pytest.raises(build.BuildError, match=r"^the classifier differs$"):
            get(check={"key": "other"}, in_check="sys.exit('the classifier differs')")
    assert contents(first.folder) == before
    assert get()[0] == first
    assert [each.name for each in (tmp_path / "builds").iterdir()] == ["k"]


def change_manifest(folder, **changes):
    """Replace values of a build's manifest."""
    file = folder / "made.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def become_a_folder(file):
    file.unlink()
    (file / "within").mkdir(parents=True)


def become_a_file(folder):
    shutil.rmtree(folder)
    folder.write_text("no folder")


def become_a_dead_link(path):
    files.discard(path)
    path.symlink_to("nowhere")


def digest(folder, head):
    """The SHA-256 of a build's archive."""
    return sha256_of_file(folder / f"{head}.tar.gz")


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "classifier.tar.gz").write_bytes(b"other"),
        lambda folder: (folder / "feature_extractor.tar.gz").unlink(),
        lambda folder: (folder / "made.json").unlink(),
        lambda folder: (folder / "made.json").write_text("{"),
        lambda folder: (folder / "made.json").write_text("[]"),
        lambda folder: (folder / "made.json").write_text("{}"),
        lambda folder: change_manifest(folder, build_key="other"),
        lambda folder: change_manifest(folder, check_key=None),
        lambda folder: change_manifest(folder, built={}),
        lambda folder: change_manifest(folder, built=None),
        lambda folder: change_manifest(folder, checked={head: [] for head in HEADS}),
        lambda folder: change_manifest(folder, packed={head: {"sha256": digest(folder, head)} for head in HEADS}),
        lambda folder: (folder / "made.json").write_bytes(b""),
        lambda folder: cut(folder / "made.json"),
        lambda folder: (folder / "made.json").write_bytes(b"\xff\xfe"),
        lambda folder: (folder / "made.json").write_text("[" * 200_000),
        lambda folder: become_a_folder(folder / "made.json"),
        lambda folder: become_a_folder(folder / "classifier.tar.gz"),
        lambda folder: cut(folder / "classifier.tar.gz"),
        lambda folder: change_manifest(folder, checked={head: {"golden_tolerance": "x"} for head in HEADS}),
        lambda folder: become_a_file(folder),
        lambda folder: become_a_file(folder.parent),
        lambda folder: become_a_dead_link(folder),
        lambda folder: become_a_dead_link(folder / "made.json"),
    ],
    ids=[
        "other_bytes",
        "no_archive",
        "no_manifest",
        "half_a_manifest",
        "no_object",
        "empty_manifest",
        "another_key",
        "no_key",
        "no_heads",
        "no_table",
        "heads_of_another_type",
        "heads_without_sizes",
        "an_empty_manifest",
        "a_cut_manifest",
        "no_text",
        "nested_too_deeply",
        "a_folder_for_the_manifest",
        "a_folder_for_an_archive",
        "a_cut_archive",
        "other_findings",
        "a_file_for_the_build",
        "a_file_for_all_builds",
        "a_dead_link_for_the_build",
        "a_dead_link_for_the_manifest",
    ],
)
def test_a_damaged_build_is_made_again(get, harm):
    first, _ = get()
    before = contents(first.folder)
    harm(first.folder)
    again, stages = get()
    assert "save classifier" in stages and contents(again.folder) == before
