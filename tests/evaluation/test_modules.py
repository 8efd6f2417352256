"""Modules to evaluate: what a record and a module say of themselves is text of a known form, and never a path."""

import json
import os
import shutil

import pytest

from tools.common.files import sha256_of_file
from tools.evaluation import EvaluationError, modules

HANDLE = "somebody/module/1"


def described(**changes):
    return {"head": "classifier", "row": {"classes": 10, "labels": "digits"}} | changes


@pytest.fixture
def unpacked(tmp_path):
    """A folder that looks like a module somebody unpacked here."""
    folder = tmp_path / "local"
    (folder / "assets.extra").mkdir(parents=True)
    (folder / "assets.extra/module.json").write_text(json.dumps(described(row={"classes": 10, "labels": None})))
    return folder


def find(tmp_path, record):
    file = tmp_path / f"hub/{HANDLE}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(record if isinstance(record, str) else json.dumps(record))
    return modules.find(HANDLE, hub=str(tmp_path / "hub"), cache=tmp_path / "cache")


def test_a_digest_is_no_path(unpacked, tmp_path):
    """A record that names a folder of this machine gets nobody to measure that."""
    (tmp_path / "cache/modules").mkdir(parents=True)
    shutil.copytree(unpacked, tmp_path / "cache/modules/here")
    for path in (str(unpacked), "here", ".", "../../local", os.path.relpath(unpacked), f"{unpacked}/"):
        with pytest.raises(
            EvaluationError, match=r"record: archive\.sha256 is .*, not 64 hexadecimal digits\. Fix: run tools/verify"
        ):
            find(tmp_path, {"handle": HANDLE, "archive": {"sha256": path}})
        with pytest.raises(EvaluationError, match="not 64 hexadecimal digits"):
            modules.unpack_to_cache("http://127.0.0.1:1/x.tar.gz", path, cache=tmp_path / "cache")


SHA256 = "a" * 64
RECORDS = {
    "no JSON": "{",
    "nested": "[" * 200_000,
    "a number of 5,000 digits": "9" * 5_000,
    "a list": [],
    "nothing": {},
    "no archive": {"handle": HANDLE},
    "an archive without digest": {"handle": HANDLE, "archive": {}},
    "an archive that is text": {"handle": HANDLE, "archive": SHA256},
    "a digest that is a number": {"handle": HANDLE, "archive": {"sha256": 1}},
    "a digest in a list": {"handle": HANDLE, "archive": {"sha256": [SHA256]}},
    "a handle that is a number": {"handle": 1, "archive": {"sha256": SHA256}},
    "the end of a handle": {"handle": "1", "archive": {"sha256": SHA256}},
    "another handle": {"handle": "somebody/else/1", "archive": {"sha256": SHA256}},
    "a handle that leads out": {"handle": "../module/1", "archive": {"sha256": SHA256}},
    "a sibling that is a list": {"handle": HANDLE, "sibling": [1], "archive": {"sha256": SHA256}},
    "a sibling that is an escape": {"handle": HANDLE, "sibling": "\x1b[31m", "archive": {"sha256": SHA256}},
}


@pytest.mark.parametrize("kind", RECORDS)
def test_records_of_another_shape(kind, tmp_path):
    with pytest.raises(EvaluationError, match=r"is not this module's record: .*\. Fix: run tools/verify\.py") as caught:
        find(tmp_path, RECORDS[kind])
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{}", "[" * 200_000, described(row=None), described(head=1), described(row={"classes": 10})),
        *(described(row={"classes": number, "labels": None}) for number in ("10", 0, -1, 1.5, None, True, 10**15)),
        *(
            described(row={"classes": 10, "labels": name})
            for name in ("../labels/digits", "/etc/x.tsv", "x.tsv", 1, ["digits"])
        ),
    ],
    ids=lambda content: str(content)[:60],
)
def test_descriptions_of_another_shape(content, unpacked, tmp_path):
    text = content if isinstance(content, str) else json.dumps(content)
    sha256 = "b" * 64
    shutil.copytree(unpacked, tmp_path / f"cache/modules/{sha256}")
    (tmp_path / f"cache/modules/{sha256}/assets.extra/module.json").write_text(text)
    with pytest.raises(EvaluationError, match="it has no description of itself"):
        find(tmp_path, {"handle": HANDLE, "archive": {"sha256": sha256}})


def test_a_module_that_is_in_order(unpacked, tmp_path):
    archive = tmp_path / f"hub/{HANDLE}.tar.gz"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"content")
    sha256 = sha256_of_file(archive)
    shutil.copytree(unpacked, tmp_path / f"cache/modules/{sha256}")
    found = find(tmp_path, {"handle": HANDLE, "sibling": "somebody/other/1", "archive": {"sha256": sha256.upper()}})
    assert (found.handle, found.sha256, found.outputs) == (HANDLE, sha256, 10)
