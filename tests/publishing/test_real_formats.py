"""Files for other runtimes, made by the command itself and used as the pages say: Python's three runtimes, verify, evaluate, audit."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.support.commands import run_script
from tests.support.hubs import NAME
from tools.catalog import layout
from tools.hub import formats, records
from tools.hub.storage import Storage
from tools.server.server import serve

pytestmark = pytest.mark.slow

HANDLE = f"hubpress/{NAME}/1"
FENCE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def address(published, tmp_path_factory):
    """The address of a copy of the published hub, whose small ConvNeXt got an ONNX and a LiteRT file afterwards."""
    hub = tmp_path_factory.mktemp("formats") / "hub"
    shutil.copytree(published[0], hub)
    with serve(Storage(hub)) as url:
        before = (hub / f"{HANDLE}.json").read_bytes(), (hub / f"{HANDLE}.tar.gz").read_bytes()
        done = run_script("publish", HANDLE, "--hub", hub, "--url", url, "--formats", "onnx,float32")
        assert done.stdout.count(" published ") == 2 and " kept " in done.stdout, done.stdout
        assert before == ((hub / f"{HANDLE}.json").read_bytes(), (hub / f"{HANDLE}.tar.gz").read_bytes())
        yield hub, url


def test_what_the_records_say(address):
    storage = Storage(address[0])
    record = records.load(storage, HANDLE)
    found = formats.load(storage, record)
    assert list(found) == ["onnx", "float32"]
    for file in found.values():
        assert max(file["differences"].values()) <= file["tolerance"] == {"onnx": 1e-4, "float32": 2e-3}[file["format"]]
        assert max(file["differences"][size] for size in ("golden", "own size")) <= 1e-4
        assert file["accuracy"]["correct"] == record["measured"]["top1"]["correct"]
        assert file["versions"]["hubpress"] and file["operations"]
    assert "Gelu" in found["onnx"]["operations"]


def test_the_code_of_the_documents_runs(address, tmp_path):
    hub, _ = address
    document, lite = ((hub / path).read_text() for path in (f"{HANDLE}.md", layout.lite_document_path(HANDLE)))
    codes = [code for text in (document, lite) for code in FENCE.findall(text) if "urlretrieve(" in code]
    assert len(codes) == 4  # ONNX Runtime, OpenVINO, LiteRT; and LiteRT in the document of kind Lite
    for code in codes:
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0 and done.stdout.endswith("(2, 10)\n"), done.stdout + done.stderr


def test_they_are_verified_and_audited(address):
    hub, url = address
    done = json.loads(run_script("verify", f"{url}/{HANDLE}", "--format", "json").stdout)
    check = next(check for check in done[0]["checks"] if check["name"] == "formats")
    assert check["state"] == "ok" and check["message"].count("differs by") == 2, check
    run_script("audit", "--hub", hub, "--thorough", "--url", url)
    assert "0 errors, 0 warnings" in run_script("validate", hub, "--format", "text").stdout


def test_they_are_measured_by_url(address, tmp_path):
    _, url = address
    addresses = [f"{url}/{HANDLE}{file}" for file in ("", "/portable.onnx", "/float32.tflite")]
    done = run_script(
        "evaluate",
        *addresses,
        "--images",
        "modules/quickstart/digits_test.npz",
        "--format",
        "json",
        "--state",
        tmp_path,
    )
    found = json.loads(done.stdout)["modules"]
    assert [each["title"] for each in found] == [HANDLE, f"{HANDLE}/portable.onnx", f"{HANDLE}/float32.tflite"]
    assert len({each["top1"]["correct"] for each in found}) == 1
    refused = run_script(
        "evaluate", f"{url}/{HANDLE}/int8.tflite", "--images", "modules/quickstart/digits_test.npz", check=False
    )
    assert refused.returncode == 2 and "no record of formats names it" in refused.stderr
