"""The Hub documents: tfhub.dev's format, code that loads its own module, links that lead somewhere, true numbers."""

import ast
import builtins
import copy
import re

import pytest

from tests.support import document_rules, synthetic
from tests.support.synthetic import build
from tools.site import formatting
from tools.site import pages as hub_pages

RECORDS = {record["handle"]: record for record in synthetic.records()}
DOCUMENTS = [*(f"{handle}.md" for handle in RECORDS), "hubpress/hubpress.md"] + [
    f"hubpress/collections/{name}/1.md" for name in ("convnext", "quickstart", "vit")
]


def document(pages, path):
    return pages[path].data.decode("utf-8")


def python_blocks(text):
    return re.findall(r"^```python\n(.*?)^```$", text, re.S | re.M)


def table(text, heading):
    """The rows of the first table below a heading, as lists of cells."""
    section = text.split(f"\n{heading}\n", 1)[1]
    rows = re.search(r"(^\|.*\n)+", section, re.M)[0].splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_every_record_and_collection_has_a_document(pages):
    assert sorted(path for path in pages if path.endswith(".md")) == sorted(DOCUMENTS)


@pytest.mark.parametrize("path", DOCUMENTS)
def test_document_obeys_the_format(pages, path):
    assert document_rules.problems(path, document(pages, path), synthetic.TAGS) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("# Module hubpress/", "# Module Hubpress/", "no handle"),
        ("# Module hubpress/convnext_digits/1", "# Module hubpress/convnext_digits/2", "lies at"),
        ("<!-- format: saved_model_2 -->\n", "", "format is missing"),
        ("<!-- task: image-classification -->", "<!-- task: image-guessing -->", "unknown"),
        ("<!-- license: apache-2.0 -->", "<!-- licence: apache-2.0 -->", "licence is unknown"),
        ("<!-- license: apache-2.0 -->", "license: apache-2.0", "not metadata"),
        ("[ConvNeXt](https", "[ConvNeXt]((https", "malformed link"),
        ("## Overview\n", "## Overview \n", "ends in a blank"),
        ("ConvNeXt image classifier", "\nConvNeXt image classifier", "no description"),
    ],
)
def test_the_rules_notice(pages, old, new, problem):
    text = document(pages, "hubpress/convnext_digits/1.md").replace(
        "(https://models.example.org", "[ConvNeXt](https://models.example.org"
    )
    assert old in text
    assert any(
        problem in found
        for found in document_rules.problems("hubpress/convnext_digits/1.md", text.replace(old, new, 1), synthetic.TAGS)
    )


@pytest.mark.parametrize("handle", RECORDS)
def test_metadata_is_the_records(pages, handle):
    record = RECORDS[handle]
    assert document_rules.metadata(document(pages, f"{handle}.md")) == {
        "asset-path": [f"{synthetic.BASE_URL}/{record['archive']['path']}"],
        "task": [record["task"]],
        "network-architecture": [record["row"]["network_architecture"]],
        "dataset": record["row"]["datasets"],
        "format": ["saved_model_2"],
        "fine-tunable": [str(record["row"]["fine_tunable"]).lower()],
        "license": [record["row"]["licence"]],
    }


@pytest.mark.parametrize("handle", RECORDS)
def test_code_parses_and_loads_its_own_module_only(pages, handle):
    record = RECORDS[handle]
    blocks = python_blocks(document(pages, f"{handle}.md"))
    assert len(blocks) == (9 if record["row"]["fine_tunable"] else 8)
    for block in blocks:
        tree = ast.parse(block)
        strings = [
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        assert [text for text in strings if "://" in text] == [f"{synthetic.BASE_URL}/{handle}"]
        imported = {
            alias.asname or alias.name
            for node in tree.body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        assert imported <= read <= imported | stored | set(dir(builtins))
        assert max(map(len, block.splitlines())) <= 110


@pytest.mark.parametrize("path", DOCUMENTS)
def test_links_inside_the_hub_lead_to_pages(pages, path):
    targets = re.findall(rf"\]\({re.escape(synthetic.BASE_URL)}/([^)#]+)\)", document(pages, path))
    assert targets or "/collections/" not in path
    for target in targets:
        assert f"{target}/index.html" in pages, target


@pytest.mark.parametrize("handle", RECORDS)
def test_the_signature_is_the_records(pages, handle):
    signature = RECORDS[handle]["signature"]
    rows = table(document(pages, f"{handle}.md"), "## Inputs and outputs")[2:]
    assert [(row[0], row[1], row[3]) for row in rows] == [
        *(("input", f"`{each['name']}`", each["dtype"]) for each in signature["inputs"]),
        *(("output", f"`{each['name']}`", each["dtype"]) for each in signature["outputs"]),
    ]
    assert [row[4] for row in rows] == [
        f"{each['range'][0]:g} to {each['range'][1]:g}" for each in signature["inputs"]
    ] + ["–"]
    assert rows[0][2] == "`[batch, height, width, 3]`"
    assert rows[-1][2] == f"`[batch, {signature['outputs'][0]['shape'][1]}]`"


def test_reported_and_measured_are_different_columns(pages):
    def numbers(handle):
        return {row[0]: row[1:] for row in table(document(pages, f"{handle}.md"), "## Numbers")}

    only_measured = numbers("hubpress/convnext_digits/1")
    assert only_measured["Top-1 accuracy (%)"] == ["–", "98.61"]
    assert only_measured["Parameters"] == ["–", "186,554"]
    assert only_measured["GFLOPs"] == ["–", "0.0021"]
    only_reported = numbers("hubpress/convnext_tiny_1k_224/1")
    assert only_reported["Top-1 accuracy (%)"] == ["82.1", "–"]
    assert only_reported["Parameters"] == ["28,589,128", "28,589,128"]
    assert only_reported["GFLOPs"] == ["4.5", "4.456"]
    assert numbers("hubpress/vit/b_16/classification/1")["Top-1 accuracy (%)"] == ["84.0", "83.98"]
    # What a source printed, it printed of the classifier.
    features = numbers("hubpress/convnext_tiny_1k_224_fe/1")
    assert features["Parameters"] == ["–", "28,589,128"]
    assert "Top-1 accuracy (%)" not in features


@pytest.mark.parametrize(
    ("handle", "says", "never_says"),
    [
        (
            "hubpress/convnext_digits/1",
            ["module.labels()", "355 of 360 images right", "20 November 2026"],
            ["commercial use"],
        ),
        (
            "hubpress/convnext_digits_fe/1",
            ["96 features", "Dense(classes)", "from_logits=True"],
            ["module.labels()", "Top-1"],
        ),
        ("hubpress/convnext_large_21k_224/1", ["21,841", "class {index}"], ["module.labels()", "never_published"]),
        (
            "hubpress/vit/b_16/classification/1",
            ["not be fine-tuned", "vit_b_16_classification_1.tar.gz", "@article", r"\&"],
            ["fit("],
        ),
        (
            "hubpress/nc.800mf-features/1",
            ["does not permit commercial use", "random.uniform(0, 255", "0 to 255"],
            ["drop_path_rate", "uint8", "Further arguments"],
        ),
        (
            "hubpress/convnext_tiny_1k_224/1",
            ["newer version of this module exists", "convnext_tiny_1k_224/10"],
            ["was withdrawn:"],
        ),
        ("hubpress/convnext_tiny_1k_224/2", ["was withdrawn:** its labels were in the wrong order", "/10)"], []),
        ("hubpress/convnext_tiny_1k_224/10", ["(withdrawn: its labels"], ["newer version"]),
    ],
)
def test_what_a_document_says(pages, handle, says, never_says):
    text = document(pages, f"{handle}.md")
    for part in says:
        assert part in text
    for part in never_says:
        assert part not in text


def test_description_is_composed_from_the_row(pages):
    expected = (
        "ConvNeXt image classifier (digits, 32x32, 0.19 M parameters) trained on 8x8 images of handwritten digits."
    )
    assert document(pages, "hubpress/convnext_digits/1.md").splitlines()[2] == expected


def test_siblings_link_both_ways_even_if_one_record_does_not_know(pages):
    assert RECORDS["hubpress/convnext_tiny_1k_224_fe/1"]["sibling"] is None
    assert f"{synthetic.BASE_URL}/hubpress/convnext_tiny_1k_224_fe/1)" in document(
        pages, "hubpress/convnext_tiny_1k_224/1.md"
    )
    assert f"{synthetic.BASE_URL}/hubpress/convnext_tiny_1k_224/1)" in document(
        pages, "hubpress/convnext_tiny_1k_224_fe/1.md"
    )


def test_collections_list_every_member_once_in_its_newest_version(pages):
    text = document(pages, "hubpress/collections/convnext/1.md")
    names = {"convnext_tiny_1k_224": 10, "convnext_tiny_1k_224_fe": 1, "nc.800mf-features": 1}
    rows = table(text, "## Models")
    assert {row[0] for row in rows[2:]} == {f"[{n}]({synthetic.BASE_URL}/hubpress/{n}/{v})" for n, v in names.items()}
    assert rows[0] == [
        "name",
        "Reported top-1 (%)",
        "Measured top-1 (%)",
        "Parameters",
        "GFLOPs",
        "Resolution",
        "Download",
    ]
    by_name = {row[0][1:].partition("]")[0]: row[1:] for row in rows[2:]}
    assert by_name["convnext_tiny_1k_224"] == ["82.1", "–", "28,589,128", "4.456", "224", "106.2 MB"]
    classifiers, extractors = text.split("### Image classifiers")[1].split("### Feature extractors")
    assert re.findall(r"^\* \[(.*?)\]", classifiers, re.M) == ["convnext_tiny_1k_224"]
    assert set(re.findall(r"^\* \[(.*?)\]", extractors.split("## References")[0], re.M)) == set(names) - {
        "convnext_tiny_1k_224"
    }


def test_a_name_whose_newest_version_is_withdrawn_is_listed_with_the_one_before():
    made = [synthetic.record("convnext_digits", version=v) for v in (1, 2)]
    text = build(made, yanked={"hubpress/convnext_digits/2": "wrong"})[
        "hubpress/collections/quickstart/1.md"
    ].data.decode()
    assert "/hubpress/convnext_digits/1)" in text
    assert "/hubpress/convnext_digits/2)" not in text
    assert "hubpress/collections/quickstart/1.md" not in build(made[1:], yanked={"hubpress/convnext_digits/2": "wrong"})


def test_single_documents_are_those_of_the_whole(pages):
    hub = hub_pages.gather(
        synthetic.records(),
        publisher=synthetic.PUBLISHER,
        collections=synthetic.COLLECTIONS,
        base_url=synthetic.BASE_URL + "/",
        tags=synthetic.TAGS,
        yanked=synthetic.YANKED,
    )
    for handle, record in RECORDS.items():
        assert hub_pages.module_markdown(record, hub) == document(pages, f"{handle}.md")
    for collection in hub.collections:
        assert hub_pages.collection_markdown(collection, hub) == document(pages, f"{collection.folder}.md")
    assert hub_pages.publisher_markdown(hub) == document(pages, "hubpress/hubpress.md")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"row__licence": "mine"}, ["convnext_digits/1", "'mine'", "license.yaml"]),
        ({"row__datasets": ["nobody-knows"]}, ["'nobody-knows'", "dataset.yaml"]),
        ({"schema": 2}, ["schema 2", "update hubpress"]),
        ({"publisher": "somebody"}, ["'somebody'", "hub of its own"]),
        ({"name": "../escape"}, ["no module name"]),
        ({"name": "collections/convnext"}, ["no module name"]),
        ({"version": 2}, ["should be hubpress/convnext_digits/2"]),
        ({"row__numbers": "javascript:alert(1)"}, ["`numbers`", "no web address"]),
        ({"row__paper__url": "https://example.org/a b"}, ["`paper.url`"]),
        ({"row": None}, ["not of schema 1"]),
    ],
)
def test_bad_records_are_refused_with_name_and_fix(changes, says):
    with pytest.raises(hub_pages.PageError) as error:
        build([synthetic.change(synthetic.record("convnext_digits"), **changes)])
    for part in ["record", *says]:
        assert part in str(error.value)


def test_problems_of_all_records_come_together():
    made = [synthetic.record(name, row__licence="mine") for name in ("first", "second")]
    with pytest.raises(hub_pages.PageError, match=r"first(.|\n)*second"):
        build(made)
    with pytest.raises(hub_pages.PageError, match="two of them"):
        build([synthetic.record("twice"), synthetic.record("twice")])


@pytest.mark.parametrize(
    "path", ["row.paper", "row.source_text", "measured.gflops", "archive.sha256", "checkpoint.bytes", "preprocessing"]
)
def test_a_missing_fact_is_an_error_that_names_the_record(path):
    broken = copy.deepcopy(synthetic.record("convnext_digits"))
    *folders, key = path.split(".")
    at = broken
    for folder in folders:
        at = at[folder]
    del at[key]
    with pytest.raises(hub_pages.PageError, match=rf"(?s)record hubpress/convnext_digits/1.*{key}.*publish"):
        build([broken])


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (formatting.millions, 186554, "0.19 M"),
        (formatting.millions, 9_045_672, "9.05 M"),
        (formatting.millions, 28_589_128, "28.6 M"),
        (formatting.millions, 350_196_968, "350 M"),
        (formatting.millions, 1_200_000_000, "1.20 B"),
        (formatting.millions, 950, "950"),
        (formatting.decimal, 0.0021, "0.0021"),
        (formatting.decimal, 1e-7, "0.0000001"),
        (formatting.decimal, 101.0, "101"),
        (formatting.decimal, 179, "179"),
        (formatting.decimal, None, "–"),
        (formatting.percent, 84.0, "84.0"),
        (formatting.percent, 75.672, "75.672"),
        (formatting.percent, 100, "100.0"),
        (formatting.percent, None, "–"),
        (formatting.size, 999, "999 B"),
        (formatting.size, 712_345, "712 kB"),
        (formatting.size, 999_999, "1.0 MB"),
        (formatting.size, 112_345_678, "112.3 MB"),
        (formatting.size, 1_400_000_000, "1.40 GB"),
        (formatting.day, "2026-01-02T03:04:05Z", "2 January 2026"),
        (formatting.shape, [None, None, None, 3], "[batch, height, width, 3]"),
        (formatting.shape, [None, 10], "[batch, 10]"),
        (formatting.span, [0.0, 1.0], "0 to 1"),
        (formatting.span, [-1, 1], "-1 to 1"),
        (formatting.one_line, " a\n b ", "a b"),
    ],
)
def test_how_facts_are_printed(function, value, text):
    assert function(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(4.455523, "4.456"), (0.00213456, "0.002135"), (179.0444, "179"), (12345.6, "12346"), (0.0, "0")],
)
def test_figures_are_shortened_to_four_digits(value, text):
    assert formatting.decimal(value, significant=4) == text


def test_changelog_says_what_a_version_corrects():
    said = "Labels of classes 5 & 6 <exchanged>."
    made = [synthetic.record("convnext_digits"), synthetic.record("convnext_digits", version=2, row__changes=said)]
    pages = build(made)
    for version in (1, 2):
        document = pages[f"hubpress/convnext_digits/{version}.md"].data.decode()
        lines = [line for line in document.splitlines() if line.startswith("* ") and "convnext_digits/2" in line]
        assert len(lines) == 1 and "Labels of classes 5" in lines[0]
        page = pages[f"hubpress/convnext_digits/{version}/index.html"].data.decode()
        assert "Labels of classes 5 &amp; 6 &lt;exchanged&gt;." in page and "<exchanged>" not in page
