"""The validator as a command: real documents, hubs of ours, tag files, archives, formats and exit statuses."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from tests.documents.test_rules import LITE, MODULE, PUBLISHER
from tests.support import made, synthetic
from tests.support.commands import run_limited, run_script
from tests.support.synthetic import build
from tools import validate as command
from tools.documents import reporting, rules, validation

CORPUS = Path(__file__).parent / "corpus"
DOCS = CORPUS / "assets/docs"


def run(capsys, *arguments):
    """(exit status, standard output) of the command in this process."""
    status = command.main([str(each) for each in arguments])
    return status, capsys.readouterr().out


@pytest.fixture
def docs(tmp_path):
    """A copy of the sample of real documents, to be spoilt."""
    shutil.copytree(DOCS, tmp_path / "assets/docs")
    shutil.copytree(made.ROOT / "modules/tags", tmp_path / "tags")
    return tmp_path / "assets/docs"


def spoil(file, old, new):
    text = file.read_bytes().decode()
    assert old in text
    file.write_bytes(text.replace(old, new).encode())


def test_real_documents_have_no_errors(capsys):
    status, text = run(capsys, CORPUS)
    assert status == 0
    assert "60 documents: 0 errors" in text


def test_whole_corpus_has_no_errors_when_its_path_is_given(capsys):
    checkout = os.environ.get("HUBPRESS_CORPUS")
    if not checkout:
        pytest.skip("HUBPRESS_CORPUS names no checkout of tfhub.dev")
    status, text = run(capsys, checkout, "--published", "--format", "json")
    report = json.loads(text)
    assert status == 0 and report["errors"] == 0 and report["documents"] >= 1_848
    by_rule = {each["rule"] for each in report["problems"]}
    assert by_rule >= {"snippet-handle", "shared-archive", "dead-link", "malformed-link", "licence-missing"}


@pytest.mark.parametrize(
    ("file", "line", "rule"),
    [
        ("google/models/albert_base/3.md", 71, "snippet-handle"),
        ("google/models/compare_gan/s3gan_10_128x128/1.md", 29, "snippet-handle"),
        ("universaldot/udot_scann/1.md", 70, "snippet-handle"),
        ("rishit-dagli/fcos-cppe5-tfjs/uint8/tfjs/1.md", 5, "shared-archive"),
        ("google/models/delf/1.md", 19, "malformed-link"),
        ("neso613/ASR_TFLite/pre_trained_models/English/lite/1.md", 37, "unclosed-code"),
        ("shoaib6174/models/swin_base_patch244_window1677_sthv2/1.md", 12, "dead-link"),
        ("google/collections/electra/1.md", 39, "unknown-publisher"),
        ("sayannath/mobilevit_s_1k_256/1.md", 5, "metadata-spacing"),
        ("google/models/aiy/vision/classifier/birds_V1/1.md", 5, "legacy-asset-path"),
    ],
)
def test_known_defects_of_real_documents_are_found(file, line, rule):
    report = validation.validate([CORPUS])
    assert (str(DOCS / file), line, rule, "warning") in {
        (each.file, each.line, each.rule, each.severity) for each in report.problems
    }


def test_one_file_is_checked_against_its_whole_tree(capsys):
    file = DOCS / "google/collections/electra/1.md"
    status, text = run(capsys, file)
    assert status == 0 and "1 document: 0 errors" in text  # its models are found, though they were not named
    status, _ = run(capsys, DOCS / "sayannath")
    assert status == 0


def test_relative_paths(capsys, monkeypatch):
    monkeypatch.chdir(DOCS / "google")
    status, text = run(capsys, "models/delf/1.md", "../vtab")
    assert status == 0
    assert text.startswith("../vtab") and "\nmodels/delf/1.md:19: warning: " in text


def test_what_is_wrong_between_documents(docs, capsys):
    (docs / "vtab/vtab.md").unlink()
    shutil.copytree(docs / "google/models/delf", docs / "google/delf")
    status, text = run(capsys, docs, "--format", "json")
    errors = {
        (Path(each["file"]).relative_to(docs).as_posix(), each["rule"])
        for each in json.loads(text)["problems"]
        if each["severity"] == "error"
    }
    assert status == 1
    assert errors == {("vtab/models/sup-100/1.md", "publisher-page"), ("google/models/delf/1.md", "duplicate-handle")}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("asset-path: https://example.org/b/1.tflite", "asset-path: https://example.org/b/lite.tar.gz"),
        (
            "asset-path: https://example.org/b/1.tflite",
            "asset-path: https://drive.google.com/file/d/1/view?usp=sharing",
        ),
        ("asset-path: https://example.org/b/1.tflite", "asset-path: gs://tfhub-modules/b/1.tflite"),
    ],
)
def test_published_documents_are_taken_as_they_are(tmp_path, capsys, old, new):
    lite = tmp_path / "a/b/lite/1.md"
    for name, text in {"a/a.md": PUBLISHER, "a/b/1.md": MODULE, "a/b/lite/1.md": LITE.replace(old, new)}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    status, text = run(capsys, tmp_path)
    assert status == 1 and re.search(rf"{lite}:6: error: .*\[asset-path\]", text)
    status, text = run(capsys, tmp_path, "--published")
    assert status == 0 and re.search(rf"{lite}:6: warning: .*\[asset-path\]", text)
    spoil(lite, "# Lite a/b/1", "# Lite a/b")  # what tfhub.dev never accepted is an error of a published one, too
    status, text = run(capsys, tmp_path, "--published")
    assert status == 1 and f"{lite}:1: error: " in text


@pytest.mark.parametrize(
    ("content", "rule", "line"),
    [
        (b"# Module a/b/1\n\nT\xe9xt.\n", "encoding", 3),
        (b"\xff\xfe#\x00 ", "encoding", 1),
        (b"\xef\xbb\xbf# Module a/b/1\n\nText.\n", "encoding", 1),
        (b"# Module a/b/1\n\nText.\n\n## \x00\n", "encoding", 5),
        (b"", "handle", 1),
        (b"# Module a/b/1", "description", 1),
        (b"# Module a/b/1\n\nText.", "required-metadata", 3),
    ],
)
def test_files_that_are_hardly_documents(tmp_path, content, rule, line):
    file = tmp_path / "a/b/1.md"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    report = validation.validate([tmp_path])
    assert (str(file), line, rule) in {(each.file, each.line, each.rule) for each in report.problems}


def test_unreadable_file(tmp_path):
    file = tmp_path / "a/b/1.md"
    file.parent.mkdir(parents=True)
    file.symlink_to(tmp_path / "nowhere.md")
    report = validation.validate([tmp_path])
    assert [each.rule for each in report.problems] == ["unreadable"]


def test_files_that_are_no_documents_hold_nothing_up(docs):
    """Pipes, devices, links to themselves and to large folders, and a file that is too long: named, and the rest is validated."""
    strange = docs / "vtab/strange"
    strange.mkdir()
    os.mkfifo(strange / "pipe.md")
    (strange / "zero.md").symlink_to("/dev/zero")
    (strange / "loop.md").symlink_to("loop.md")
    (strange / "loop").symlink_to(".")
    (strange / "root").symlink_to("/")
    (strange / "folder.md").mkdir()
    with open(strange / "long.md", "wb") as file:
        file.truncate(5_000_000_000)
    os.mkfifo(docs.parent.parent / "tags/pipe.yaml")
    (docs.parent.parent / "tags/zero.yaml").symlink_to("/dev/zero")
    done = run_limited("validate", docs, "--format", "json", seconds=60, memory=1 << 30)
    report = json.loads(done.stdout)
    assert report["documents"] == 64
    found = {
        (Path(each["file"]).name, each["rule"], each["severity"])
        for each in report["problems"]
        if "strange" in each["file"] or "tags" in each["file"]
    }
    assert found == {
        ("pipe.md", "unreadable", "error"),
        ("zero.md", "unreadable", "error"),
        ("loop.md", "unreadable", "error"),
        ("long.md", "document-size", "error"),
        ("loop", "linked-folder", "warning"),
        ("root", "linked-folder", "warning"),
        ("pipe.yaml", "tag-file", "error"),
        ("zero.yaml", "tag-file", "error"),
    }


LINES = 50_000
LARGE = {
    "keys": "".join(f"<!-- kye-{number}: x -->\n" for number in range(LINES)),
    "values": "".join(f"<!-- dataset: imagenet-{number} -->\n" for number in range(LINES)),
    "tasks": "".join(f"<!-- task: guess-{number} -->\n" for number in range(LINES)),
    "same": "<!-- task: image-classification -->\n" * LINES,
    "assets": "".join(f"<!-- asset-path: https://example.org/{number}.tar.gz -->\n" for number in range(LINES)),
    "truths": "<!-- fine-tunable: perhaps -->\n" * LINES,
    "no metadata": "<!-- x -->\n" * LINES,
    "spaces": "<!-- task:  image-classification -->\n" * LINES,
    "blank lines": "\n" * LINES,
    "description": "word\n" * LINES,
    "links": "## x\n" + "".join(f"https://tfhub.dev/vtab/none/{number}\n" for number in range(LINES)),
    "publishers": "## x\n" + "".join(f"https://tfhub.dev/p{number}/none/1\n" for number in range(LINES)),
    "malformed": "## x\n" + "```\nx\n```\n" * 10_000 + "](www. ((https://x " * 20_000,
    "brackets": "## x\n" + "[" * 1_000_000,
    "fences": "## x\n" + "``` " * 250_000,
    "table": "## x\n" + "| a-1 | b |\n" * LINES + "* [a-2](https://tfhub.dev/vtab/a/1)\n" * LINES,
    "code": "## x\n```\n" + "'https://tfhub.dev/vtab/other/1' " * 30_000,
}  # fmt: skip


def test_large_documents_are_validated_in_bounded_time(docs):
    """Every rule is linear in the document, and names so many problems and no more."""
    for number, body in enumerate(LARGE.values()):
        (docs / f"vtab/large/{number}.md").parent.mkdir(exist_ok=True)
        (docs / f"vtab/large/{number}.md").write_text(f"# Module vtab/large/{number}\n\nText.\n\n{body}")
    (docs / "vtab/collections/large").mkdir(parents=True)
    (docs / "vtab/collections/large/1.md").write_text(f"# Collection vtab/large/1\n\nText.\n\n{LARGE['table']}")
    done = run_limited("validate", docs, "--format", "json", seconds=120, memory=2 << 30)
    problems = Counter((each["file"], each["rule"]) for each in json.loads(done.stdout)["problems"])
    assert max(problems.values()) == rules.MOST_PROBLEMS + 1 and len(problems) > 20


# Tag files


@pytest.mark.parametrize(
    ("file", "content", "line", "said"),
    [
        ("task", "values:\n  - id: image-x\n    display_name: [", 4, "no YAML"),
        ("task", "- a\n- b\n", 1, "keys and values"),
        ("task", "", 1, "keys and values"),
        ("task", "values: none\n", 1, "no list"),
        ("task", "value:\n  - id: x\n", 1, "unknown key 'value'"),
        ("task", "format: url\n", 1, "lists no values"),
        ("dataset", "values:\n  - id: a\n    display_name: A\n  - id: a\n    display_name: B\n", 4, "there twice"),
        ("dataset", "values:\n  - id: a b\n    display_name: A\n", 2, "is no id"),
        ("dataset", "values:\n  - id: [a]\n    display_name: A\n", 2, "is no id"),
        ("dataset", "values:\n  - display_name: A\n", 2, "no `id`"),
        ("dataset", "values:\n  - id: a\n", 2, "no `display_name`"),
        ("dataset", "values:\n  - id: a\n    display_name: A\n    colour: red\n", 4, "unknown key 'colour'"),
        ("dataset", "values:\n  - id: a\n    id: b\n    display_name: A\n", 3, "key 'id' is there twice"),
        ("dataset", "values:\n  - a\n", 2, "keys and values"),
        ("task", "values:\n  - id: smell-x\n    display_name: X\n    domains: [smell]\n", 2, "does not start with"),
        ("task", "values:\n  - id: image-x\n    display_name: X\n    domains: [smell]\n", 4, "is no domain"),
        ("task", "values:\n  - id: image-x\n    display_name: X\n    domains: image\n", 4, "is not a list"),
        ("colab", "format: uri\n", 1, "only format"),
        ("license", None, 1, "does not exist"),
    ],
)
def test_tag_files_are_validated_and_fail_the_run(docs, file, content, line, said, capsys):
    path = docs.parent.parent / f"tags/{file}.yaml"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    status, text = run(capsys, docs, "--tags", docs.parent.parent / "tags")
    assert status == 1
    line_of_file = next(
        each for each in text.splitlines() if each.startswith(f"{path}:{line}: error: ") and said in each
    )
    assert line_of_file.endswith("[tag-file]")


def test_tags_beside_the_documents_are_the_ones_that_count(docs, capsys):
    spoil(docs.parent.parent / "tags/license.yaml", "id: apache-2.0", "id: apache-3.0")
    status, text = run(capsys, docs)
    assert status == 1 and "'apache-2.0' is no license of tags/license.yaml. Fix: write `apache-3.0`" in text


def test_tag_files_of_this_repository():
    assert validation.validate([DOCS], tags=made.ROOT / "modules/tags").errors == 0


# The command


def test_output_for_people_programs_and_annotations(docs, capsys):
    file = docs / "vtab/models/sup-100/1.md"
    spoil(file, "<!-- format: hub -->", "<!-- format: 100%, hub -->")
    status, text = run(capsys, file, "--quiet")
    assert status == 1
    number = file.read_text().splitlines().index("<!-- format: 100%, hub -->") + 1
    assert text.splitlines() == [
        f"{file}:{number}: error: '100%, hub' is no format. Fix: write one of hub, saved_model, saved_model_2. [metadata-value]",
        "1 document: 1 error, 0 warnings (metadata-value 1)",
    ]
    _, annotated = run(capsys, file, "--quiet", "--format", "github")
    assert annotated.splitlines()[0] == (
        f"::error file={file},line={number},title=metadata-value::'100%25, hub' is no format. "
        "Fix: write one of hub, saved_model, saved_model_2."
    )
    _, plain = run(capsys, file, "--format", "json")
    report = json.loads(plain)
    assert report["errors"] == 1 and report["warnings"] == len(report["problems"]) - 1
    assert list(report["problems"][0]) == ["file", "line", "rule", "severity", "message", "fix"]


def test_rules_can_be_turned_off(docs, capsys):
    file = docs / "vtab/models/sup-100/1.md"
    spoil(file, "<!-- format: hub -->", "<!-- format: x -->")
    assert run(capsys, file, "--off", "metadata-value")[0] == 0
    assert "licence-missing" in run(capsys, file)[1]
    assert "licence-missing" not in run(capsys, file, "--off", "licence-missing,metadata-value")[1]
    (docs / "vtab/vtab.md").unlink()
    assert run(capsys, file, "--off", "metadata-value", "--off", "publisher-page")[0] == 0


def test_rules_are_listed(capsys):
    status, text = run(capsys, "--rules")
    assert status == 0
    listed = {line.split()[0]: line.split()[1] for line in text.splitlines()}
    assert listed == {each.name: each.severity for each in rules.RULES.values()}
    assert {"snippet-handle": "warning", "vocabulary": "error", "archive-record": "error"}.items() <= listed.items()
    assert json.loads(reporting.rules("json"))[0].keys() == {
        "name",
        "severity",
        "published",
        "summary",
        "fix",
        "group",
        "kinds",
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere does not exist"),
        ([], "Fix: name the documents"),
        ([str(CORPUS), "--off", "licence"], "no rule is called 'licence'"),
        ([str(made.ROOT / "templates/static")], "holds no document"),
    ],
)
def test_nothing_to_validate(arguments, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_the_script_needs_neither_tensorflow_nor_numpy():
    code = (
        "import sys; sys.argv = ['validate.py', sys.argv[1]]; sys.path.insert(0, '')\n"
        "from tools import validate\nassert validate.main() == 0\n"
        "heavy = {'tensorflow', 'keras', 'numpy', 'jinja2', 'markdown', 'requests'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, CORPUS], cwd=made.ROOT, check=True, capture_output=True)


def test_the_script_runs_from_anywhere(tmp_path):
    result = run_script("validate", CORPUS, "--quiet", cwd=tmp_path, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "60 documents: 0 errors, 0 warnings\n"


# Hubs of ours


def test_everything_that_templates_render_validates_without_a_warning(tmp_path):
    pages = build(synthetic.records(), yanked=synthetic.YANKED)
    for page in pages.values():
        (tmp_path / page.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / page.path).write_bytes(page.data)
    report = validation.validate([tmp_path])
    assert report.documents == sum(path.endswith(".md") for path in pages)
    assert report.problems == []


def test_every_row_of_the_catalogue_renders_a_document_without_a_warning(tmp_path):
    for page in made.build([made.record(module) for module in made.rows().modules]).values():
        if page.path.endswith((".md", "index.json")):
            (tmp_path / page.path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / page.path).write_bytes(page.data)
    report = validation.validate([tmp_path])
    assert report.documents > len(made.rows().modules)
    assert report.problems == []


def test_published_quickstart_hub_validates_with_its_archives(hub):
    report = validation.validate([hub], archives=True)
    assert report.problems == []
    assert report.archives >= 2


@pytest.fixture
def small_hub(tmp_path):
    """A hub of the two modules of the small ConvNeXt, with archives and records, to be spoilt."""
    made.publish(tmp_path / "hub", made.digits())
    return tmp_path / "hub"


def test_made_up_hub_is_right(small_hub):
    report = validation.validate([small_hub], archives=True)
    assert (report.problems, report.documents, report.archives) == ([], 4, 2)


def repacked(small_hub, **changes):
    """Replace the classifier's archive by one with something else in it; the record's figures follow unless told."""
    module = made.digits()[0]
    model = made.saved_model(small_hub.parent / "model", module, **changes)
    made.pack(model, small_hub / f"{module.handle}.tar.gz")


def spoil_missing(small_hub):
    (small_hub / "hubpress/convnext_digits/1.tar.gz").unlink()


def spoil_truncated(small_hub):
    file = small_hub / "hubpress/convnext_digits/1.tar.gz"
    file.write_bytes(file.read_bytes()[:-100])


def spoil_html(small_hub):
    (small_hub / "hubpress/convnext_digits/1.tar.gz").write_text("<html>not found</html>")


def spoil_member(small_hub):
    with tarfile.open(small_hub / "hubpress/convnext_digits/1.tar.gz", "w:gz") as archive:
        archive.add(__file__, "saved_model.pb")
        archive.add(__file__, "../evil.py")


def spoil_order(small_hub):
    model = small_hub / ".model-0"
    with tarfile.open(small_hub / "hubpress/convnext_digits/1.tar.gz", "w:gz") as archive:
        for name in ("saved_model.pb", "variables/variables.index", "variables"):
            archive.add(model / name, name, recursive=False)


def spoil_graph(small_hub):
    file = small_hub / ".model-0/saved_model.pb"
    file.write_bytes(file.read_bytes()[:-7])
    made.pack(small_hub / ".model-0", small_hub / "hubpress/convnext_digits/1.tar.gz")


def spoil_no_serving(small_hub):
    repacked(small_hub, signatures={"train": ({}, {})})


def spoil_signature(small_hub):
    shape = [None, None, None, 3]
    outputs = {"logits": ("float32", [None, 11])}
    repacked(small_hub, signatures={"serving_default": ({"images": ("float32", shape)}, outputs)})


def spoil_bytes(small_hub):
    file = small_hub / "hubpress/convnext_digits/1.tar.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()), mtime=1))


def spoil_record(small_hub):
    spoil(small_hub / "hubpress/convnext_digits/1.json", '"sha256": "', '"sha256": "0')


def spoil_record_width(small_hub):
    file = small_hub / "hubpress/convnext_digits/1.json"
    record = json.loads(file.read_text())
    record["signature"]["outputs"][0]["shape"] = [None, 11]
    file.write_text(json.dumps(record))


def spoil_record_json(small_hub):
    (small_hub / "hubpress/convnext_digits/1.json").write_text("{")


@pytest.mark.parametrize(
    ("how", "rule", "said"),
    [
        (spoil_missing, "archive", "cannot be read"),
        (spoil_truncated, "archive", "truncated"),
        (spoil_html, "archive", "not compressed with gzip"),
        (spoil_member, "archive", "evil.py"),
        (spoil_order, "archive", "comes before its folder"),
        (spoil_graph, "archive-model", "truncated"),
        (spoil_no_serving, "archive-model", "serving_default"),
        (spoil_signature, "archive-signature", "'logits' is float32 [any, 10]"),
        (spoil_signature, "archive-signature", "'images' is uint8"),
        (spoil_bytes, "archive-record", "`archive.sha256`: the record says"),
        (spoil_record, "archive-record", "is malformed: archive.sha256"),
        (spoil_record_width, "archive-record", "the outputs of `serving_default`: the record says"),
        (spoil_record_json, "archive-record", "cannot be read"),
    ],
)
def test_archives_are_checked(small_hub, how, rule, said):
    how(small_hub)
    assert validation.validate([small_hub]).problems == []  # only --archives reads them
    problems = validation.validate([small_hub], archives=True).problems
    assert any(each.rule == rule and said in each.message for each in problems), problems
    assert all(each.file.endswith("convnext_digits/1.md") and each.severity == "error" for each in problems)
    line = problems[0].line
    assert (
        (small_hub / "hubpress/convnext_digits/1.md").read_text().splitlines()[line - 1].startswith("<!-- asset-path")
    )


def test_archive_of_another_server_is_fetched(small_hub, monkeypatch):
    from tools.server.server import serve

    page = small_hub / "hubpress/convnext_digits/1.md"
    with serve(small_hub) as url:
        asset = f"{url}/hubpress/convnext_digits/1.tar.gz"
        spoil(page, f"asset-path: {made.URL}/hubpress/convnext_digits/1.tar.gz", f"asset-path: {asset}")
        assert validation.validate([page], archives=True).problems == []
        spoil(page, asset, f"{url}/hubpress/convnext_digits/2.tar.gz")
        assert "404" in validation.validate([page], archives=True).problems[0].message


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ('hub.load("', 'hub.load("https://models.example.org/hub/hubpress/convnext_digits_fe/1") #', "snippet-handle"),
        ("](https://models.example.org/hub/hubpress/convnext_digits_fe/1)", "](https://models.example.org/hub/hubpress/convnext_fe/1)", "dead-link"),
        ("](https://models", "]((https://models", "malformed-link"),
        ("<!-- fine-tunable: true", "<!-- fine-tunable: perhaps", "fine-tunable"),
        ("# Module hubpress/convnext_digits/1", "# Module hubpress/convnext_digits/2", "document-path"),
    ],
)  # fmt: skip
def test_pages_of_ours_that_lie_are_found(small_hub, old, new, rule):
    page = small_hub / "hubpress/convnext_digits/1.md"
    spoil(page, old, new)
    assert rule in {each.rule for each in validation.validate([small_hub]).problems}


def test_module_missing_on_the_collection_page_is_found(small_hub):
    page = small_hub / "hubpress/collections/quickstart/1.md"
    lines = page.read_text().splitlines(keepends=True)
    page.write_text("".join(line for line in lines if not line.startswith("* [convnext_digits_fe]")))
    problems = validation.validate([small_hub]).problems
    assert [each.rule for each in problems] == ["collection-table"]
    assert "convnext_digits_fe" in problems[0].message
