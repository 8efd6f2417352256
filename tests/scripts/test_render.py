"""tools/render.py: pages from records alone."""

import hashlib
import json
import shutil

from tests.support.commands import run_script


def render(*arguments):
    return run_script("render", *arguments, check=False)


def test_pages_follow_from_records_alone(hub, published, tmp_path):
    """Throw away everything that is derived: it comes back to the byte, and archives and records are not touched."""
    copy = tmp_path / "hub"
    shutil.copytree(hub, copy)
    kept = {p: p.stat().st_mtime_ns for p in copy.rglob("*") if p.name.endswith(".tar.gz") or p.name == "1.json"}
    before = {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in copy.rglob("*") if p.is_file()}
    for path in before:
        if path not in kept:
            path.unlink()
    done = render("--hub", copy, "--url", published[1])
    assert done.returncode == 0, done.stderr
    assert {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in copy.rglob("*") if p.is_file()} == before
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert render("--hub", copy, "--url", published[1]).stdout.startswith("0 pages written")


def test_the_hub_moves_to_another_address(hub, tmp_path):
    copy = tmp_path / "hub"
    shutil.copytree(hub, copy)
    assert render("--hub", copy, "--url", "https://models.example.org/hub/").returncode == 0
    assert json.loads((copy / "index.json").read_text())["url"] == "https://models.example.org/hub"
    document = (copy / "hubpress/convnext_digits/1.md").read_text()
    assert (
        "https://models.example.org/hub/hubpress/convnext_digits/1.tar.gz" in document and "127.0.0.1" not in document
    )


def test_no_hub_there(tmp_path):
    done = render("--hub", tmp_path / "nothing")
    assert done.returncode == 2 and "there is no hub here" in done.stderr and "Traceback" not in done.stderr
