"""Building, checking and packing beside each other: what comes out, and who ends whom when one of them fails.

The two processes are real ones, of a `builders` package that writes and looks at small files instead of networks.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.archive import reading
from tools.archive.members import ArchiveError
from tools.publishing import build as making

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
HEADS = ("classifier", "feature_extractor")
BUILD = """
import json, os, pathlib, sys, time
spec, out = json.loads(pathlib.Path(sys.argv[1]).read_text()), pathlib.Path(sys.argv[2])
(out.parent / "build.pid").write_text(str(os.getpid()))
for head in spec["heads"]:
    print(f"stage save {head}", flush=True)
    (out / head / "variables").mkdir(parents=True)
    (out / head / "saved_model.pb").write_bytes(head.encode())
    (out / head / "variables/variables.index").write_bytes(bytes(1 << 20))
    exec(spec.get("in_build", ""))
    (out / f"{head}.json").write_text(json.dumps({"seed": os.environ["PYTHONHASHSEED"]}))
    print(f"built {head}", flush=True)
    exec(spec.get("after_build", ""))
"""
CHECK = """
import json, os, pathlib, sys
spec, out = json.loads(pathlib.Path(sys.argv[1]).read_text()), pathlib.Path(sys.argv[2])
(out.parent / "check.pid").write_text(str(os.getpid()))
for head in map(str.strip, sys.stdin):
    print(f"stage check {head}", flush=True)
    exec(spec.get("in_check", ""))
    found = {"bytes": (out / head / "saved_model.pb").stat().st_size}
    (out / f"{head}.check.json").write_text(json.dumps(found))
    print(f"checked {head}", flush=True)
"""


@pytest.fixture
def make(tmp_path):
    """`make(**spec)`: the folder that was made in, and the stages that were reported; raises what `making.make` raises."""
    builders = tmp_path / "root/builders"
    builders.mkdir(parents=True)
    for name, program in (("__init__", ""), ("build", BUILD), ("check", CHECK)):
        (builders / f"{name}.py").write_text(program)
    folder = tmp_path / "making"
    folder.mkdir()
    stages = []

    def run(**spec):
        spec = {"heads": HEADS, "build": {"key": "k"}, "module": {"checkpoint": {"bytes": 1 << 20}}, **spec}
        made = making.make(spec, folder, root=tmp_path / "root", report=lambda stage, *_bytes: stages.append(stage))
        return made, folder, stages

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
    assert json.loads((folder / "kept/made.json").read_text()) == made
    assert made["key"] == "k" and set(made["built"]) == set(made["checked"]) == set(made["packed"]) == set(HEADS)
    for head in HEADS:
        assert made["built"][head] == {"seed": "0"} and made["checked"][head] == {"bytes": len(head)}
        file = folder / f"kept/{head}.tar.gz"
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
    monkeypatch.setattr(making, "LARGE_BYTES", large)
    monkeypatch.setattr(making, "ROOM_FACTOR", factor)
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
    monkeypatch.setattr(making, "LARGE_BYTES", 0)
    monkeypatch.setattr(making, "ROOM_FACTOR", 0)
    waits = "import time\n(out.parent / f'{head}.pid').write_text(str(os.getpid()))\n"
    waits += f"if head == {failing!r}:\n"
    waits += "    while not all((out.parent / f'{each}.pid').exists() for each in spec['heads']): time.sleep(0.01)\n"
    waits += "    sys.exit(f'the {head} differs')\ntime.sleep(600)"
    with pytest.raises(making.MakeError, match=rf"^the {failing} differs$"):
        make(in_check=waits)
    for head in HEADS:
        assert not _runs(make.folder / f"{head}.pid")
    assert not (make.folder / "kept/made.json").exists()


def test_a_failed_check_ends_the_build(make):
    with pytest.raises(making.MakeError, match=r"^modules/x\.toml: x: the classifier differs; it is not published$"):
        make(
            after_build="time.sleep(600)",
            in_check="sys.exit('modules/x.toml: x: the classifier differs; it is not published')",
        )
    assert not _runs(make.folder / "build.pid")
    assert not (make.folder / "kept/made.json").exists()


def test_a_failed_build_ends_the_check(make):
    with pytest.raises(making.MakeError, match=r"^the second head answers NaN$"):
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
    assert not (make.folder / "kept/made.json").exists()


@pytest.mark.parametrize("who", ["after_build", "in_check"])
def test_a_killed_process_is_reported_as_such(make, who):
    module = {"after_build": "builders.build", "in_check": "tools.publishing.check"}[who]
    with pytest.raises(making.MakeError, match=rf"^{module} was killed by signal 9 \(out of memory\?\); run the same"):
        make(**{who: "import signal; os.kill(os.getpid(), signal.SIGKILL)"})


def test_what_cannot_be_packed_ends_both(make):
    with pytest.raises(ArchiveError, match="stray is no file of a SavedModel"):
        make(in_build="(out / head / 'stray').write_text('x')", after_build="time.sleep(600)")
    assert not _runs(make.folder / "build.pid")


def test_what_a_killed_process_was_building_is_deleted_and_what_a_living_one_builds_is_not(tmp_path):
    builds = tmp_path / "builds"
    code = "import pathlib, sys; from tools.hub import making\n"
    code += "with making.build_directory(pathlib.Path(sys.argv[1])) as folder:\n"
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
    with making.build_directory(builds) as mine:
        assert sorted(each for each in builds.iterdir()) == sorted([mine, folders[1], builds / "0123"])
        with making.build_directory(builds) as another:
            assert another != mine and mine.exists()
    alive.communicate()
    assert alive.returncode == 0 and [each.name for each in builds.iterdir()] == ["0123"]


def test_a_folder_is_locked_until_it_is_gone(tmp_path, monkeypatch):
    deleted = []

    def rmtree(folder, **options):
        with pytest.raises(BlockingIOError), making._locked(folder, wait=False):
            pass
        deleted.append(folder)
        original(folder, **options)

    original = making.shutil.rmtree
    monkeypatch.setattr(making.shutil, "rmtree", rmtree)
    with making.build_directory(tmp_path) as folder:
        (folder / "weights").write_bytes(b"1")
    assert deleted == [folder] and not folder.exists()


@pytest.mark.parametrize("without", ["flock", "fcntl"])
def test_without_locks_nothing_is_deleted(tmp_path, monkeypatch, without):
    left = tmp_path / ".making-of-somebody"
    left.mkdir()
    if without == "flock":
        monkeypatch.setattr(making.fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError("not supported")))
    else:
        monkeypatch.setattr(making, "fcntl", None)
    with making.build_directory(tmp_path) as folder:
        assert folder.is_dir()
    assert left.is_dir() and not folder.exists()
