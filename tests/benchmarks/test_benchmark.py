"""The benchmark tool: what it makes of what it measured. How fast anything is, is no matter of tests."""

import json
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree

import pytest

from tests.support.commands import ROOT, run_script
from tests.support.programs import requires
from tools import benchmark, catalog
from tools.archive import reading
from tools.benchmarks import documents, engines, inference, measuring, publish, reporting, rows, serve, startup
from tools.benchmarks.measuring import BenchmarkError, Contestant
from tools.hub import notes, records
from tools.hub.storage import Storage
from tools.server import server as hub_server
from tools.site import benchmark_report, benchmarks, rendering
from tools.site.jobs import PageError

HANDLE = "hubpress/convnext_digits/1"


def comparison(*, better="more", ours=(10.0, 20.0, 30.0), peers=None, subject="a row", case="batch 1", unit="images/s"):
    peers = {"peer": (5.0, 5.0, 5.0)} if peers is None else peers
    contestants = [Contestant("hubpress", ours, True)]
    contestants += [
        Contestant(name, absent=values) if isinstance(values, str) else Contestant(name, tuple(values))
        for name, values in peers.items()
    ]
    return measuring.compare(subject, case, unit, better, contestants)


def section(*comparisons, notes=("A note <b>that</b> says something.",)):
    return measuring.section(
        list(comparisons), threads=2, versions={"python": "3.11"}, settings={"turns": 3, "batches": [1, 8]}, notes=notes
    )


@pytest.fixture
def report(tmp_path):
    """A report with two commands, peers ahead and behind, far and absent."""
    found = section(
        comparison(peers={"slow": (5.0, 5.0, 5.0), "slower": (1.0, 1.0, 1.0), "gone": "it is not installed: <pip>"}),
        comparison(peers={"fast": (40.0, 40.0, 40.0), "gone": (1.0, 2.0, 3.0)}, case="batch 8"),
        comparison(peers={"far": (1e6, 1e6, 1e6), "as far": (1e-6, 1e-6, 1e-6)}, subject="another row"),
    )
    measuring.update(tmp_path / "b.json", "inference", found)
    return measuring.update(tmp_path / "b.json", "publish", section(comparison(better="less", unit="s")))


# Turns, medians, ratios


def test_turns_are_taken_in_order_and_again():
    seen, told = [], []
    contestants = {name: lambda name=name: seen.append(name) or len(seen) for name in "abc"}
    answers = measuring.take_turns(contestants, turns=3, report=lambda turn, name: told.append((turn, name)))
    assert seen == list("abcabcabc")
    assert answers == {"a": [1, 4, 7], "b": [2, 5, 8], "c": [3, 6, 9]}
    assert told == [(turn, name) for turn in range(3) for name in "abc"]
    with pytest.raises(BenchmarkError, match="at least 1"):
        measuring.take_turns(contestants, turns=0)


def test_who_takes_long_has_one_turn(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: clock[0])

    def takes(seconds):
        clock[0] += seconds
        return seconds

    contestants = {name: lambda seconds=seconds: takes(seconds) for name, seconds in (("a", 1), ("b", 31), ("c", 30))}
    found = measuring.take_turns(contestants, turns=3, patience=30)
    assert found == {"a": [1, 1, 1], "b": [31], "c": [30, 30, 30]}


@pytest.mark.parametrize(
    ("values", "median", "low", "high"),
    [
        ([3.0], 3, 3, 3),
        ([1.0, 3.0], 2, 1.5, 2.5),
        ([5.0, 1.0, 3.0], 3, 2, 4),
        ([7.0] * 9, 7, 7, 7),
        (range(101), 50, 25, 75),
    ],
)
def test_spread(values, median, low, high):
    assert measuring.spread(values) == {"median": median, "low": low, "high": high}


@pytest.mark.parametrize("values", [[], [float("nan")], [1.0, float("inf")]])
def test_what_has_no_median_is_no_measurement(values):
    with pytest.raises(BenchmarkError, match="measure again"):
        measuring.spread(values)


def test_ratios_are_taken_turn_by_turn_and_above_one_is_ahead():
    ours, theirs = (10.0, 30.0, 20.0), (10.0, 10.0, 10.0)
    more = comparison(ours=ours, peers={"peer": theirs})["contestants"][1]["ratio"]
    less = comparison(ours=ours, peers={"peer": theirs}, better="less")["contestants"][1]["ratio"]
    assert more == {"median": 2, "low": 1.5, "high": 2.5}
    assert less["median"] == 0.5 and less["low"] == pytest.approx((1 / 3 + 1 / 2) / 2) and less["high"] == 0.75
    uneven = comparison(ours=ours, peers={"peer": (4.0,)})["contestants"][1]["ratio"]
    assert uneven == {"median": 5, "low": 5, "high": 5}


def test_the_best_peer():
    peers = {"low": (1.0,), "high": (9.0,), "none": "absent"}
    assert benchmark_report.best_peer(comparison(ours=(5.0,), peers=peers))["name"] == "high"
    assert benchmark_report.best_peer(comparison(ours=(5.0,), peers=peers, better="less"))["name"] == "low"
    assert benchmark_report.best_peer(comparison(peers={"none": "absent"})) is None


@pytest.mark.parametrize(
    ("contestants", "better", "said"),
    [
        ([Contestant("peer", (1.0,))], "more", "ours must be"),
        ([Contestant("hubpress", absent="gone", ours=True)], "more", "be measured"),
        ([Contestant("hubpress", (1.0,), ours=True)], "bigger", "more, less"),
        ([Contestant("hubpress", (), ours=True)], "more", "no median"),
    ],
)
def test_comparisons_that_say_nothing_are_refused(contestants, better, said):
    with pytest.raises(BenchmarkError, match=said):
        measuring.compare("row", "case", "s", better, contestants)


def test_who_is_absent_is_said_once():
    comparisons = [
        comparison(peers={"gone": "why", "half": "no graph"}, case="one"),
        comparison(peers={"gone": "why", "half": (1.0,)}, case="two"),
    ]
    assert benchmark_report.absent(comparisons) == {"gone": "why", "half (one)": "no graph"}


# The report


def test_a_command_replaces_its_own_section_only(tmp_path, report):
    path = tmp_path / "b.json"
    assert json.loads(path.read_text()) == report and set(report["sections"]) == {"inference", "publish"}
    again = measuring.update(path, "publish", section(comparison(case="another")))
    assert again["sections"]["inference"] == report["sections"]["inference"]
    assert again["sections"]["publish"]["comparisons"][0]["case"] == "another"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["b.json"]
    machine = again["sections"]["publish"]["machine"]
    assert machine["cpu"] and machine["cores"] >= 1 and machine["memory_bytes"] > 1 << 28 and machine["threads"] == 2


def broken(report, change):
    report = json.loads(json.dumps(report))
    change(report)
    return report


BROKEN = [
    (lambda r: r.pop("kind"), "'kind' is a required property"),
    (lambda r: r.update(schema=2), "schema: 1 was expected"),
    (lambda r: r.update(sections=[]), r"sections: \[\] is not of type 'object'"),
    (lambda r: r["sections"]["publish"].pop("date"), "sections.publish: 'date' is a required property"),
    (
        lambda r: r["sections"]["publish"]["machine"].update(cores="2"),
        "sections.publish.machine.cores: '2' is not of type",
    ),
    (
        lambda r: r["sections"]["publish"]["comparisons"][0].pop("unit"),
        r"comparisons\[0\]: 'unit' is a required property",
    ),
    (lambda r: r["sections"]["publish"]["comparisons"][0].update(better="bigger"), "better: 'bigger' is not one of"),
    (
        lambda r: r["sections"]["publish"]["comparisons"][0].update(contestants=[]),
        r"comparisons\[0\].contestants: \[\] should be non-empty",
    ),
    (
        lambda r: r["sections"]["publish"]["comparisons"][0]["contestants"].reverse(),
        r"contestants\[0\].ours: True was expected",
    ),
    (
        lambda r: r["sections"]["publish"]["comparisons"][0]["contestants"][1].pop("ratio"),
        r"contestants\[1\]: 'ratio' is a required property",
    ),
    (
        lambda r: r["sections"]["publish"]["comparisons"][0]["contestants"][0].update(median="4"),
        r"contestants\[0\].median: '4' is not of type 'number'",
    ),
]


@pytest.mark.parametrize(("change", "said"), BROKEN)
def test_a_report_that_breaks_the_schema_is_not_shown_and_not_added_to(tmp_path, report, change, said):
    assert benchmark_report.report_problems(report) == []
    path, wrong = tmp_path / "wrong.json", broken(report, change)
    path.write_text(json.dumps(wrong))
    with pytest.raises(BenchmarkError, match=said):
        measuring.update(path, "publish", report["sections"]["publish"])
    assert json.loads(path.read_text()) == wrong
    with pytest.raises(PageError, match=said):
        benchmarks.sections(wrong)


def test_a_file_that_is_no_json_is_kept(tmp_path):
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(BenchmarkError, match="is no JSON"):
        measuring.read(tmp_path / "b.json")
    assert measuring.read(tmp_path / "none.json")["sections"] == {}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.01234, "0.012"),
        (1.0, "1.00"),
        (31.24, "31.24"),
        (123.45, "123.5"),
        (19.0, "19"),
        (28412.4, "28,412"),
        (0, "0.000"),
        (0.00025, "0.00025"),
    ],
)
def test_numbers_in_about_three_digits(value, text):
    assert benchmarks.number(value) == text


def test_tables(report, capsys):
    reporting.show(report["sections"]["inference"])
    said = capsys.readouterr().out
    lines = [line for line in said.splitlines() if "slow" in line or "fast" in line]
    assert "slow (best peer)" in lines[0] and "x 4.00" in lines[0] and "3.00 to 5.00" in lines[0]
    assert "slower" in lines[1] and "best" not in lines[1] and "x 0.500" in lines[2]
    assert "gone (batch 1): not measured: it is not installed: <pip>" in said
    assert said.index("a row") < said.index("another row") and "says something" in said


# The page and the picture


def test_page(report):
    site = rendering.Site("A hub", "Vision", (("Modules", "search/index.html", ""),))
    link = rendering.linker(benchmarks.PATH)
    html = benchmarks.page(report, site=site, link=link, canonical="https://example.org/benchmarks")
    page = xml.etree.ElementTree.fromstring(plain(html))
    titles = ["".join(each.itertext()) for each in page.iter("h2")]
    assert titles == ["Inference", "Publishing"]
    assert [each.get("href") for each in page.iter("a")].count("../benchmarks.json") == 1
    assert len(page.findall("main//svg")) == 1, "who does not do the same work is in no picture"
    text = " ".join("".join(page.itertext()).split())
    assert "4.00 ×" in text and "it is not installed: <pip>" in text and "A note <b>that</b> says" in text
    assert measuring.cpu() in text and "2 threads each" in text and "python 3.11" in text and "batches 1 and 8" in text
    assert "Measured on " + benchmarks.day(report["sections"]["inference"]["date"]) in text
    assert not [each for each in page.iter() if "style" in each.attrib or each.tag == "style"], (
        "the policy forbids styles"
    )
    for table in page.iter("table"):
        columns = len(list(table.find("thead/tr")))
        for body in table.findall("tbody"):
            assert int(body.find("tr/th").get("rowspan")) == len(body.findall("tr"))
            assert {len(row) for row in body.findall("tr")[1:]} <= {columns - 1} and len(body.find("tr")) == columns


def plain(html):
    """HTML that is XML: without the parts of the layout that are not."""
    body = html[html.index("<body>") : html.index("</body>") + len("</body>")]
    body = re.sub(r'(?s)<form class="header-search".*?</form>', "", body)
    return body.replace("&nbsp;", " ").replace(" hidden>", ">")


def test_picture(report):
    picture = benchmarks.svg(report)
    root = xml.etree.ElementTree.fromstring(picture)
    name = "{http://www.w3.org/2000/svg}"
    assert (
        root.get("role") == "img"
        and root.find(f"{name}title").text
        and "the best peer" in root.find(f"{name}desc").text
    )
    assert "prefers-color-scheme: dark" in root.find(f"{name}style").text
    left, top, width, height = map(float, root.get("viewBox").split())
    bars = list(root.iter(f"{name}rect"))
    assert [bar.get("fill") for bar in bars] == ["#168472", "#c2631f", "#c2631f"]
    for bar in bars:
        assert left <= float(bar.get("x")) and float(bar.get("x")) + float(bar.get("width")) <= left + width
        assert top <= float(bar.get("y")) and float(bar.get("y")) + float(bar.get("height")) <= top + height
    ahead, behind = bars[:2]
    assert float(ahead.get("x")) == pytest.approx(float(behind.get("x")) + float(behind.get("width"))), (
        "both begin at 1"
    )
    assert len(list(root.iter(f"{name}path"))) == 3, "the other peers"


def test_a_report_without_peers_has_no_picture():
    alone = {"schema": 1, "kind": "Benchmarks", "sections": {"serve": section(comparison(peers={"nginx": "gone"}))}}
    assert benchmarks.sections(alone)[0].picture is None
    xml.etree.ElementTree.fromstring(benchmarks.svg(alone))


# The commands


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "COMMAND"),
        (["inference", "--turns", "0"], "at least 1"),
        (["inference", "--threads", "0"], "at least 1"),
        (["inference", "--batch", "1,x"], "Fix: write it like 1,8"),
        (["inference", "--batch", "0"], "Fix: write it like 1,8"),
        (["inference", "--pixels", "float16"], "float16 is unknown. Fix: give float32, uint8"),
        (["inference", "--engines", "abacus"], "no engine abacus. Fix: choose among"),
        (["train", "--engines", "openvino"], "no engine openvino. Fix: choose among"),
        (["inference", "--module", "hubpress=x"], "goes with one ROW"),
        (["inference", "vit_s16", "--module", "x"], "NAME=DIR"),
        (["inference", "--record"], "--record and --hub go together. Fix: give both"),
        (["inference", "--hub", "x"], "--record and --hub go together. Fix: give both"),
        (["render", "--docs", "/nowhere"], "is no folder"),
    ],
)
def test_wrong_arguments(arguments, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(arguments)
    assert stopped.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["inference", "no_such_row"], "no_such_row is no row"),
        (["load", "no_such_row"], "no_such_row is no row"),
        (["inference", "--record", "--hub", "{empty}/none"], "there is no hub here"),
        (["inference", "--record", "--hub", "{hub}", "no_such_module"], "nothing of that name is published"),
    ],
)
def test_what_cannot_be_measured(arguments, said, capsys, hub, tmp_path):
    arguments = [each.format(empty=tmp_path, hub=hub) for each in arguments]
    assert benchmark.main([*arguments, "--out", str(tmp_path / "b.json"), "--cache", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "b.json").exists()


def test_nothing_is_measured_for_a_hub_whose_index_names_another_address(hub, tmp_path, capsys):
    """Who can write one index.json must not be able to redirect every page of a site."""
    folder = shutil.copytree(hub, tmp_path / "hub")
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(index | {"url": "https://elsewhere.example"}))
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    arguments = ["inference", "convnext_digits", "--record", "--hub", str(folder), "--cache", str(tmp_path)]
    assert benchmark.main(arguments) == 1
    said = capsys.readouterr().err
    assert "https://elsewhere.example" in said and "--url" in said
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_names_of_rows_and_peers():
    known = {variant.stem: variant for variant in catalog.load().variants}
    assert set(rows.PEERS) <= set(known)
    assert all(known[row].classes == 1000 and known[row].resolution == 224 for row in rows.PEERS)
    for row, (timm, _) in rows.PEERS.items():
        assert rows.row_of(timm) == rows.row_of(row) == row
    assert set(sum(rows.DEFAULTS.values(), ())) <= set(rows.PEERS)


def test_inference_of_a_module_beside_one_that_is_the_same(hub, tmp_path, capsys):
    folder = tmp_path / "module"
    reading.unpack(hub / f"{HANDLE}.tar.gz", folder)
    out = tmp_path / "b.json"
    modules = ["--module", f"hubpress={folder}", "--module", f"again={folder}"]
    arguments = [
        "convnext_digits",
        *modules,
        "--turns",
        "2",
        "--seconds",
        "0.01",
        "--batch",
        "1,3",
        "--engines",
        "timm,keras",
    ]
    assert benchmark.main(["inference", *arguments, "--out", str(out), "--cache", str(tmp_path), "--cpu-seconds"]) == 0
    found = json.loads(out.read_text())["sections"]["inference"]
    assert benchmark_report.report_problems({"schema": 1, "kind": "Benchmarks", "sections": {"inference": found}}) == []
    cases = [(each["case"], each["unit"]) for each in found["comparisons"]]
    assert cases == [
        (f"batch {batch}, {pixels}", unit)
        for batch in (1, 3)
        for pixels in ("float32", "uint8")
        for unit in ("images/s", "images/CPU s")
    ]
    for each in found["comparisons"]:
        assert [contestant["name"] for contestant in each["contestants"]] == [
            "hubpress",
            "again",
            "timm, eager",
            "keras.applications",
        ]
        assert all(len(contestant["turns"]) == 2 and contestant["median"] > 0 for contestant in each["contestants"][:2])
        assert all(contestant["absent"] for contestant in each["contestants"][2:])
    assert found["versions"]["tensorflow"] and found["settings"]["batches"] == [1, 3]
    assert xml.etree.ElementTree.parse(out.with_suffix(".svg")) and "written to" in capsys.readouterr().out


def test_training_of_a_module(hub, tmp_path, monkeypatch):
    out = tmp_path / "b.json"
    reading.unpack(hub / f"{HANDLE}.tar.gz", tmp_path / "module")
    monkeypatch.chdir(tmp_path)  # a relative path is of this folder, and engines run in another one
    arguments = [
        "convnext_digits",
        "--module",
        "hubpress=module",
        "--turns",
        "2",
        "--seconds",
        "0.01",
        "--batch",
        "4",
    ]
    assert benchmark.main(["train", *arguments, "--out", str(out), "--cache", str(tmp_path)]) == 0
    found = json.loads(out.read_text())["sections"]["train"]
    (case,) = found["comparisons"]
    assert (case["case"], case["unit"]) == ("batch 4, a step", "images/s")
    names = ["hubpress", "timm, eager", "timm, torch.compile", "keras.applications"]  # and no engine that only answers
    assert [each["name"] for each in case["contestants"]] == names
    assert len(case["contestants"][0]["turns"]) == 2 and case["contestants"][0]["median"] > 0
    assert any("gradient descent" in note for note in found["notes"])


def test_a_step_of_training_trains(hub, tmp_path):
    reading.unpack(hub / f"{HANDLE}.tar.gz", tmp_path / "module")
    code = "import json, sys; from tools.benchmarks.engine_process import HubModule, limit\n"
    code += "limit(2); engine = HubModule(2, {'module': sys.argv[1], 'side': 32})\n"
    code += "before = [variable.numpy() for variable in engine._module.trainable_variables]\n"
    code += "step = engine.prepare_training(8); losses = [float(step()) for _ in range(30)]\n"
    code += "moved = [bool((a != b).any()) for a, b in zip(before, (v.numpy() for v in engine._module.trainable_variables))]\n"
    code += "print(json.dumps([losses, moved]))"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "module"], cwd=ROOT, capture_output=True, text=True)
    losses, moved = json.loads(done.stdout.splitlines()[-1])
    assert losses[-1] < 0.9 * losses[0] and all(moved) and len(moved) > 20


def test_record_puts_speeds_beside_the_records_and_on_the_pages(hub, tmp_path, capsys):
    folder = shutil.copytree(hub, tmp_path / "hub")
    notes.add_note(Storage(folder), "hubpress/vit_digits_fe/1", "yank", "no more", date="2026-01-31T12:00:00Z")
    arguments = [
        HANDLE,
        "--record",
        "--hub",
        str(folder),
        "--turns",
        "1",
        "--seconds",
        "0.01",
        "--batch",
        "1,2",
    ]
    assert benchmark.main(["inference", *arguments, "--cache", str(tmp_path)]) == 0
    found = records.snapshot(Storage(folder)).measurements
    assert list(found) == [HANDLE]
    (note,) = found[HANDLE]
    assert note["action"] == "speed" and note["date"].endswith("Z")
    measured = note["measurement"]
    assert measured["cpu"] == measuring.cpu() and measured["threads"] == 2 and measured["resolution"] == 32
    assert list(measured["images_per_second"]) == ["1", "2"] and measured["versions"]["tensorflow_hub"]
    assert "noted" in capsys.readouterr().out
    assert measuring.cpu() in (folder / HANDLE / "index.html").read_text()


def test_an_engine_that_fails_says_why_and_leaves_nothing():
    with pytest.raises(engines.EngineError, match="nothing: KeyError: 'abacus'"):
        engines.EngineWorker("nothing", python=sys.executable, threads=1, open={"engine": "abacus"})
    with pytest.raises(engines.EngineError, match="does not run"):
        engines.EngineWorker("nobody", python="/no/such/python", threads=1, open={"engine": "hub"})
    with engines.EngineWorker("idle", python=sys.executable, threads=1) as engine:
        with pytest.raises(engines.EngineError, match=r"idle: .*Error"):
            engine.prepare(1, "float32")
        engine._worker.kill()
        with pytest.raises(engines.EngineError, match="its process ended with -9"):
            engine.request(do="run")
    assert not engine._worker.is_alive


def test_an_engine_may_have_a_relative_python(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(sys.executable)
    monkeypatch.chdir(tmp_path)
    with (
        engines.EngineWorker("idle", python="bin/python", threads=1) as engine,
        pytest.raises(engines.EngineError, match=r"idle: AttributeError"),
    ):
        engine.prepare(1, "float32")


def test_peers_are_absent_for_a_reason(tmp_path):
    variant = next(each for each in catalog.load().variants if each.stem == "convnext_tiny_1k_224")
    settings = inference.InferenceSettings(modules={"hubpress": tmp_path}, cache=tmp_path)
    found = inference._contestants(variant, settings)
    assert list(found) == [
        "hubpress",
        "ONNX Runtime",
        "OpenVINO",
        "timm, eager",
        "timm, torch.compile",
        "keras.applications",
    ]
    assert found["keras.applications"][1] == {"engine": "keras.applications", "model": "ConvNeXtTiny"}
    assert "--torch-python" in found["timm, eager"]
    assert isinstance(found["OpenVINO"], str)
    few = inference._contestants(
        variant, inference.InferenceSettings(modules={"hubpress": tmp_path}, engines=("keras",), cache=tmp_path)
    )
    assert list(few) == ["hubpress", "keras.applications"]


def test_peak_memory_of_processes_below():
    code = "import subprocess, sys; subprocess.run([sys.executable, '-m', 'timeit', '-n1', '-r1', sys.argv[1]])"
    hungry = "import time; kept = b'x' * 80_000_000; time.sleep(0.5)"
    with publish.peak_memory(0.001) as others:  # fixtures of this run may have processes of their own
        time.sleep(0.1)
    with publish.peak_memory() as peaks:
        subprocess.run([sys.executable, "-c", code, hungry], check=True, capture_output=True)
    assert 80e6 < peaks["timeit"] < 300e6 and peaks.keys() - others.keys() == {"timeit"}


@pytest.mark.parametrize("count", [1, 61, 150])
def test_repeated_documents_are_as_good_as_the_first(tmp_path, count):
    documents.repeat(documents.CORPUS, tmp_path / "assets/docs", count)
    assert sum(1 for _ in tmp_path.rglob("*.md")) == count
    if count > 61:
        said = run_script("validate", tmp_path / "assets/docs", "--quiet", check=False)
        assert said.returncode == 0, said.stdout


def test_rendering_is_measured_cold_and_after_a_change(tmp_path):
    docs = shutil.copytree(documents.CORPUS / "assets/docs", tmp_path / "assets/docs")
    before = {file: file.read_bytes() for file in docs.rglob("*.md")}
    found = documents.measure_render(docs, documents.DocumentSettings(turns=1))
    assert [each["case"] for each in found["comparisons"]] == [
        f"render {len(before)} documents",
        "render again after one changed",
    ]
    assert all(each["contestants"][0]["median"] > 0 for each in found["comparisons"])
    assert {file: file.read_bytes() for file in docs.rglob("*.md")} == before, "what was given is left as it is"


def test_requests_are_counted(tmp_path):
    folder = serve.make_hub(tmp_path / "hub", 100_000)
    assert serve.PAGE_BYTES - 100 < (folder / serve.HANDLE / "index.html").stat().st_size < serve.PAGE_BYTES + 100
    with hub_server.serve(folder) as url:
        start = time.perf_counter()
        done = serve._request(f"{url}/{serve.HANDLE}?tf-hub-format=compressed", 0.2)
        took = time.perf_counter() - start
        assert done["megabytes"] == pytest.approx(done["requests"] * 0.1)
        assert 1 <= done["requests"] * took <= 1e6
        assert serve._request(f"{url}/{serve.HANDLE}/", 0.1)["requests"] > 0
        with pytest.raises(BenchmarkError, match=r"answered with \[404\]"):
            serve._request(f"{url}/hubpress/none/1", 0.1)


def test_nginx_serves_the_same_files(tmp_path):
    requires("nginx")
    requires("wrk")
    folder = serve.make_hub(tmp_path / "hub", 1000)
    with serve._nginx(folder, tmp_path) as url:
        done = serve._request_with_wrk(f"{url}/{serve.HANDLE}.tar.gz", 1)
    assert done["requests"] > 0 and done["megabytes"] > done["requests"] * 0.001


def test_start_up_is_measured_for_every_tool():
    found = startup.commands()
    assert "tools/publish.py --help" in found and "tools/benchmark.py --help" in found and len(found) == len(set(found))
    assert not [line for line in found if line.startswith("tools/common/console.py")]
    assert startup._seconds(["-c", "pass"]) > 0
    with pytest.raises(BenchmarkError, match="ZeroDivisionError"):
        startup._seconds(["-c", "1/0"])
