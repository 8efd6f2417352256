"""The JSON Schemas that hubs publish, and how values are checked against them."""

import json
import subprocess
import sys

import jsonschema
import pytest

from tests.support import made, synthetic
from tests.support.commands import ROOT
from tools.benchmarks import measuring
from tools.benchmarks.measuring import Contestant
from tools.common.schemas import schema_problems

SCHEMAS = sorted((ROOT / "templates/static").glob("*.schema.json"))


@pytest.mark.parametrize("file", SCHEMAS, ids=lambda file: file.name)
def test_schemas_are_schemas(file):
    schema = json.loads(file.read_text(encoding="utf-8"))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema" and schema["description"]
    jsonschema.Draft202012Validator.check_schema(schema)


def test_records_of_every_row_obey_their_schema():
    for module in made.rows().modules:
        assert schema_problems(made.record(module), "record") == [], module.handle
    for record in synthetic.records():
        assert schema_problems(record | {"build": {"key": "0" * 64}}, "record") == [], record["handle"]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("handle", 7, "handle: 7 is not of type 'string'"),
        ("version", True, "version: True is not of type 'integer'"),
        ("version", 1.0, "version: 1.0 is not of type 'integer'"),
        ("measured.gflops", float("nan"), "measured.gflops: nan is not of type 'number', 'null'"),
        ("archive.sha256", "0" * 64 + "\n", "archive.sha256: "),
        ("archive.md5", "0" * 31, "(MD5 of the archive, 32 hexadecimal digits)"),
        ("signature.outputs.0.shape", [None, "10"], "signature.outputs[0].shape[1]: '10' is not of type"),
        ("row.paper", {}, "row.paper: 'title' is a required property"),
        ("head", "both", "head: 'both' is not one of"),
        ("verification.golden_tolerance", 1e9, "verification.golden_tolerance: 1000000000.0 is greater than"),
    ],
)
def test_problems_say_where(path, value, said):
    record = made.record(made.digits()[0])
    at, *keys = record, *path.split(".")
    for key in keys[:-1]:
        at = at[int(key)] if isinstance(at, list) else at[key]
    at[keys[-1]] = value
    found = schema_problems(record, "record")
    assert any(said in each for each in found), found


def report():
    """A report of measurements with one comparison: ours, a peer, and a peer that was not measured."""
    contestants = [
        Contestant("hubpress", (1.0, 2.0, 4.0), ours=True),
        Contestant("peer", (1.0, 1.0, 1.0)),
        Contestant("nobody", absent="it is not installed"),
    ]
    comparison = measuring.compare("row", "batch 8", "images/s", "more", contestants)
    section = measuring.section([comparison], threads=2, versions={"python": "3.11"}, settings={}, notes=["slow"])
    return json.loads(json.dumps({"schema": 1, "kind": "Benchmarks", "sections": {"inference": section}}))


def test_reports_of_measurements_obey_their_schema():
    assert schema_problems(report(), "benchmarks") == []
    empty = {"schema": 1, "kind": "Benchmarks", "sections": {}}
    assert schema_problems(empty, "benchmarks") == []


COMPARISON = "sections.inference.comparisons.0"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("kind", "Module", "'Benchmarks' was expected"),
        ("schema", 2, "1 was expected"),
        ("sections", [], "is not of type 'object'"),
        ("sections.inference.machine.cores", None, "sections.inference.machine.cores: None is not of type 'integer'"),
        (f"{COMPARISON}.better", "most", "'most' is not one of"),
        (f"{COMPARISON}.contestants", [], "contestants: [] "),
        (f"{COMPARISON}.contestants.0.ours", False, "contestants[0].ours: True was expected"),
        (f"{COMPARISON}.contestants.0.absent", "gone", "contestants[0].absent: 'gone' is not of type 'null'"),
        (f"{COMPARISON}.contestants.0.median", None, "contestants[0].median: None is not of type 'number'"),
        (f"{COMPARISON}.contestants.1.ratio", None, "contestants[1].ratio: None is not of type 'object'"),
        (f"{COMPARISON}.contestants.1.low", -1, "contestants[1].low: -1 is less than the minimum"),
        (f"{COMPARISON}.contestants.1.high", float("inf"), "contestants[1].high: inf is not of type 'number'"),
        (f"{COMPARISON}.contestants.2.absent", None, "contestants[2].median: None is not of type 'number'"),
        (f"{COMPARISON}.contestants.2.turns", 7, "contestants[2].turns: 7 is not of type 'array'"),
    ],
)
def test_reports_that_break_their_schema(path, value, said):
    wrong = report()
    at, *keys = wrong, *path.split(".")
    for key in keys[:-1]:
        at = at[int(key)] if isinstance(at, list) else at[key]
    at[keys[-1]] = value
    found = schema_problems(wrong, "benchmarks")
    assert any(said in each for each in found), found


def test_later_keys_may_be_added():
    record = made.record(made.digits()[0])
    for each in (record, record["row"], record["archive"], record["signature"]["inputs"][0]):
        each["later"] = {"anything": [None]}
    assert schema_problems(record, "record") == []


def test_jsonschema_is_imported_only_by_those_who_check():
    code = "import sys, tools.hub.records, tools.server.server; sys.exit('jsonschema' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
