"""`tools/verify.py` against our server, a plain file server, folders and archives; and against hubs that are not what they say."""

import contextlib
import functools
import http.server
import json
import shutil
import threading

import pytest

from tests.support.commands import run_script
from tools.archive import packing, reading
from tools.hub import notes, records
from tools.publishing.build import archive_facts
from tools.verification import verify as verification
from tools.verification.verify import NothingThereError, Verification

NAME = "convnext_digits"
HANDLE = f"hubpress/{NAME}/1"


def verify(*arguments):
    return run_script("verify", *arguments, check=False)


def states(result):
    return {check.name: check.state for check in result.checks}


@contextlib.contextmanager
def plain_server(folder):
    """A file server that knows nothing of hubs."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def copied(hub, tmp_path):
    """A copy of the published hub, to be spoilt."""
    shutil.copytree(hub, tmp_path / "hub")
    return tmp_path / "hub"


def test_a_whole_hub_of_ours_and_one_of_a_plain_server(hub, any_url):
    for_all = ("--no-replay", "--format", "json")
    done = verify(any_url, *for_all)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 6 and all(each["ok"] for each in found)
    for each in found:
        assert [check["name"] for check in each["checks"]] == list(verification.CHECKS)
        assert [check["state"] for check in each["checks"]] == ["ok", "skipped", "ok", "ok", "ok", "skipped"]
    with plain_server(hub) as url:
        done = verify(url, "--no-replay")
        assert done.returncode == 0 and "6 verified, nothing wrong" in done.stdout, done.stdout + done.stderr


def test_golden_inputs_are_replayed(hub, any_url):
    """Of both heads, in one process."""
    done = verify(f"{any_url}/{HANDLE}", f"{hub}/hubpress/{NAME}_fe/1", "--format", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    for each in json.loads(done.stdout):
        assert [check["state"] for check in each["checks"]] == ["ok", "skipped", "ok", "ok", "ok", "ok"]
        assert each["checks"][1]["message"] == "unsigned"
        assert "tolerance 0.0001" in each["checks"][-1]["message"]


@pytest.mark.parametrize(
    "ending", ["", "/", ".tar.gz", "?tf-hub-format=compressed"], ids=["handle", "page", "archive", "as tensorflow_hub"]
)
@pytest.mark.parametrize("where", ["served", "plain", "folder"])
def test_one_module(hub, any_url, where, ending):
    with contextlib.ExitStack() as stack:
        base = any_url if where == "served" else str(hub)
        if where == "plain":
            base = stack.enter_context(plain_server(hub))
        if where == "folder" and ending.startswith("?"):
            ending = ""
        verifier = stack.enter_context(Verification(replay=False))
        (target,) = verifier.find(f"{base}/{HANDLE}{ending}")
        result = verifier.verify(target)
    assert result.ok and result.handle == HANDLE
    assert states(result) == {
        "record": "ok",
        "signature": "skipped",
        "archive": "ok",
        "members": "ok",
        "document": "ok",
        "golden": "skipped",
    }


def test_an_archive_alone(hub, tmp_path):
    shutil.copy(hub / f"{HANDLE}.tar.gz", tmp_path / "module.tar.gz")
    with Verification(replay=False) as verifier:
        result = verifier.verify(*verifier.find(str(tmp_path / "module.tar.gz")))
    assert result.ok
    assert states(result) == {
        "record": "skipped",
        "signature": "skipped",
        "archive": "ok",
        "members": "ok",
        "document": "skipped",
        "golden": "skipped",
    }


def edited(change):
    def spoil(hub):
        file = hub / f"{HANDLE}.json"
        record = json.loads(file.read_text())
        change(record)
        file.write_bytes(records.encode(record))

    return spoil


def rewritten(path, change):
    def spoil(hub):
        file = hub / path
        file.write_bytes(change(file.read_bytes()))

    return spoil


def other_module(hub):
    shutil.copy(hub / f"hubpress/{NAME}_fe/1.tar.gz", hub / f"{HANDLE}.tar.gz")
    file = hub / f"{HANDLE}.json"
    record = json.loads(file.read_text())
    record["archive"] |= {
        key: value
        for key, value in json.loads((hub / f"hubpress/{NAME}_fe/1.json").read_text())["archive"].items()
        if key != "path"
    }
    file.write_bytes(records.encode(record))


def other_labels(hub):
    """An archive with a class too many, and a record that follows in all its figures."""
    folder = hub.parent / "unpacked"
    reading.unpack(hub / f"{HANDLE}.tar.gz", folder)
    with (folder / "assets/labels.txt").open("a") as file:
        file.write("\nten")
    packed = archive_facts(packing.pack(folder, hub / f"{HANDLE}.tar.gz"))
    old = json.loads((hub / f"{HANDLE}.json").read_text())["archive"]["sha256"]
    edited(lambda record: record["archive"].update(packed))(hub)
    rewritten(f"{HANDLE}.md", lambda data: data.replace(old.encode(), packed["sha256"].encode()))(hub)


WRONG = {
    "one byte": (
        rewritten(f"{HANDLE}.tar.gz", lambda d: d[:5000] + b"?" + d[5001:]),
        "archive",
        "`archive.sha256`: the record says",
    ),
    "cut": (rewritten(f"{HANDLE}.tar.gz", lambda d: d[:-100]), "archive", "`archive.bytes`: the record says"),
    "longer": (rewritten(f"{HANDLE}.tar.gz", lambda d: d + bytes(9)), "archive", "the limit is"),
    "gone": (lambda hub: (hub / f"{HANDLE}.tar.gz").unlink(), "archive", "no such file"),
    "other module": (other_module, "members", "the outputs of `serving_default`"),
    "record of another": (edited(lambda r: r.update(handle="hubpress/x/1")), "record", "is that of hubpress/x/1"),
    "record without digest": (
        edited(lambda r: r["archive"].pop("sha256")),
        "record",
        "archive: 'sha256' is a required property",
    ),
    "record with any tolerance": (
        edited(lambda r: r["verification"].update(golden_tolerance=1e9)),
        "record",
        "verification.golden_tolerance: 1000000000.0 is greater than the maximum",
    ),
    "record that is no JSON": (rewritten(f"{HANDLE}.json", lambda d: d[:99]), "record", "is no JSON"),
    "other checkpoint": (
        edited(lambda r: r["checkpoint"].update(sha256="0" * 64)),
        "members",
        "`checkpoint` sha256: the record says",
    ),
    "other labels": (other_labels, "members", "the number of labels: the record says 10, the archive has 11"),
    "record of another shape": (
        edited(lambda r: r["signature"].update(outputs=7)),
        "record",
        "signature.outputs: 7 is not of type 'array'",
    ),
    "other signature": (
        edited(lambda r: r["signature"]["outputs"][0].update(shape=[None, 11])),
        "members",
        "the record says",
    ),
    "document gone": (lambda hub: (hub / f"{HANDLE}.md").unlink(), "document", "no such file"),
    "document of another": (
        lambda hub: shutil.copy(hub / f"hubpress/{NAME}_fe/1.md", hub / f"{HANDLE}.md"),
        "document",
        "the document is that of",
    ),
    "document's table": (
        rewritten(f"{HANDLE}.md", lambda d: d.replace(b"| output | `logits`", b"| output | `scores`")),
        "document",
        "output 'scores'",
    ),
    "bomb": (rewritten(f"{HANDLE}.tar.gz", lambda d: bomb()), "archive", ""),
}


def bomb():
    import gzip

    return gzip.compress(bytes(80_000_000), 9)


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_as_the_hub_says(copied, case):
    spoil, name, said = WRONG[case]
    spoil(copied)
    with Verification(replay=False) as verifier:
        (target,) = verifier.find(f"{copied}/{HANDLE}")
        result = verifier.verify(target)
    assert not result.ok
    failed, *others = [check for check in result.checks if check.state == "failed"]
    assert not others or case == "other module"  # whose document is wrong, too
    assert failed.name == name and said in failed.message
    assert len(result.checks) == len(verification.CHECKS)


def test_a_bomb_without_a_record(tmp_path):
    (tmp_path / "x.tar.gz").write_bytes(bomb())
    with Verification(replay=False) as verifier:
        result = verifier.verify(*verifier.find(str(tmp_path / "x.tar.gz")))
    assert states(result)["members"] == "failed" and states(result)["golden"] == "skipped"


def test_a_golden_output_that_the_module_does_not_give(copied, tmp_path):
    """A hub that is consistent in all its digests, and whose module answers something else than it claims."""
    import numpy as np

    folder = tmp_path / "unpacked"
    reading.unpack(copied / f"{HANDLE}.tar.gz", folder)
    golden = dict(np.load(folder / "assets.extra/golden.npz"))
    golden["outputs"][0, 0] += 0.01 * max(1, np.abs(golden["outputs"]).max())
    np.savez(folder / "assets.extra/golden.npz", **golden)
    packed = packing.pack(folder, copied / f"{HANDLE}.tar.gz")

    def change(record):
        old = record["archive"]["sha256"]
        record["archive"] |= {
            "bytes": packed.size,
            "sha256": packed.sha256,
            "md5": packed.md5,
            "unpacked_bytes": packed.unpacked_size,
        }
        for path in (f"{HANDLE}.md", "index.json"):
            rewritten(path, lambda data: data.replace(old.encode(), packed.sha256.encode()))(copied)

    edited(change)(copied)
    shutil.rmtree(copied / f"hubpress/{NAME}_fe")
    golden_free = tmp_path / "free"
    reading.unpack(copied / f"{HANDLE}.tar.gz", golden_free)
    (golden_free / "assets.extra/golden.npz").unlink()
    packing.pack(golden_free, tmp_path / "free.tar.gz")
    done = verify(f"{copied}/{HANDLE}", tmp_path / "free.tar.gz", "--format", "json")
    assert done.returncode == 1, done.stdout + done.stderr
    different, free = json.loads(done.stdout)
    assert [check["state"] for check in different["checks"]] == ["ok", "skipped", "ok", "ok", "ok", "failed"]
    assert "differs from its golden output by 0.01" in different["checks"][-1]["message"]
    assert "no assets.extra/golden.npz" in free["checks"][-1]["message"]


def test_a_failed_check_is_shown_with_its_fix(copied):
    archive = copied / f"{HANDLE}.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-1] + b"?")
    done = verify(f"{copied}/{HANDLE}", "--no-replay")
    assert done.returncode == 1 and "Fix: do not use the module, and tell the hub's owner." in done.stderr, done.stderr


def test_every_version_or_the_newest_that_is_not_withdrawn(copied):
    index = json.loads((copied / "index.json").read_text())
    one = next(module for module in index["modules"] if module["handle"] == HANDLE)
    index["modules"] = [
        one,
        one | {"handle": HANDLE[:-1] + "2", "version": 2},
        one | {"handle": HANDLE[:-1] + "3", "version": 3, "yanked": "it is wrong"},
    ]
    (copied / "index.json").write_text(json.dumps(index))
    with Verification() as verifier:
        assert [target.url[-1] for target in verifier.find(str(copied))] == ["2"]
        assert [target.url[-1] for target in verifier.find(str(copied), every=True)] == ["1", "2", "3"]


@pytest.mark.parametrize("handle", ["../../etc/passwd", "/etc/passwd", ".hidden/x/1", ""])
def test_an_index_that_leads_elsewhere(copied, handle):
    index = json.loads((copied / "index.json").read_text())
    index["modules"][0]["handle"] = handle
    (copied / "index.json").write_text(json.dumps(index))
    with Verification(replay=False) as verifier:
        targets = verifier.find(str(copied))
        failed = [target for target in targets if not verifier.verify(target).ok]
    assert len(targets) == 6 and [target.problem for target in failed] == [
        "index.json has an entry that is no module's: modules[0]"
    ]


def test_an_index_that_is_no_json(copied):
    (copied / "index.json").write_text("<html>")
    with (
        Verification() as verifier,
        pytest.raises(NothingThereError, match=r"is no JSON: .*\. Fix: give a hub's address"),
    ):
        verifier.find(str(copied))


def test_nothing_to_verify(hub, any_url, tmp_path):
    for address in (tmp_path, any_url + "/nothing", f"{hub}/hubpress/{NAME}"):
        done = verify(address, "--no-replay")
        assert (
            done.returncode == 2 and "Fix: give the address of a hub" in done.stderr and "Traceback" not in done.stderr
        )


def test_a_withdrawn_module_is_verified_and_said(copied):
    from tools.hub.storage import Storage

    notes.add_note(Storage(copied), HANDLE, "yank", "it is wrong", date="2030-01-01T00:00:00Z")
    done = verify(f"{copied}/{HANDLE}", "--no-replay")
    assert done.returncode == 0 and "withdrawn: it is wrong" in done.stdout
