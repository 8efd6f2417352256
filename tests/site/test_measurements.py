"""Measurements after publication, on the pages: accuracies and speeds from notes, benchmarks; and what provenance says of mirrors."""

import csv
import io
import json
import re

import pytest

from tests.support import synthetic
from tests.support.html import Reader
from tests.support.schemas import INDEX_SCHEMA, violations
from tests.support.synthetic import DIGITS, LARGE, MEASUREMENTS, TINY, build, speed
from tools.site import formatting
from tools.site.jobs import PageError


@pytest.fixture(scope="module")
def pages():
    return build(synthetic.records(), yanked=synthetic.YANKED, measurements=MEASUREMENTS)


def row(page, first):
    """The cells of the table row that begins with a header."""
    found = re.search(rf"<tr[^>]*><th[^>]*>{re.escape(first)}</th>(.*?)</tr>", page, re.S)
    return [Reader(cell).text for cell in re.findall(r"<td[^>]*>(.*?)</td>", found[1], re.S)]


def test_the_newest_evaluation_fills_the_measured_columns_and_says_on_what(pages):
    page, document = pages[f"{TINY}/index.html"].data.decode(), pages[f"{TINY}.md"].data.decode()
    assert row(page, "Top-1 accuracy (%)") == ["82.1", "82.02"]
    assert row(page, "Top-5 accuracy (%)")[1] == "95.96"
    assert "| Top-1 accuracy (%) | 82.1 | 82.02 |" in document
    for text in (Reader(page).text, document):
        assert "41,010 of 50,000 images right and 47,980 among the first five" in text
        assert "on 2 December 2026, with tensorflow 2.99.1, python 3.11" in text
        assert "All evaluations" in text or "Evaluations" in text
        assert "70.5" in text and "71.0" in text and "10,000 of imagenet-v2" in text
    # The record's own measurement, at publication, is the oldest.
    assert row(pages[f"{DIGITS}/index.html"].data.decode(), "Top-1 accuracy (%)")[1] == "97.5"
    assert "98.61" in pages[f"{DIGITS}.md"].data.decode()


def test_the_newest_speed_says_where_it_was_measured(pages):
    page, document = pages[f"{TINY}/index.html"].data.decode(), pages[f"{TINY}.md"].data.decode()
    for batch, value in ((1, "31.2"), (8, "1,240")):
        assert f"| Images per second, batch {batch} | \N{EN DASH} | {value} |" in document
        cells = row(page, f"Images/s on Test CPU &lt;b&gt;9000&lt;/b&gt;, 2 threads, batch {batch}")
        assert cells[1] == value
    for text in (page, document):
        assert "<b>9000" not in text
        assert "2 threads, from images of 224x224 pixels, on 5 December 2026, with tensorflow 2.99.1" in text
    assert "Images/s" not in pages[f"{LARGE}/index.html"].data.decode()


def test_a_collection_has_columns_for_what_somebody_measured(pages):
    page = pages["hubpress/collections/convnext/1/index.html"].data.decode()
    classifiers, extractors = (
        re.search(rf'<section aria-labelledby="{name}".*?</section>', page, re.S)[0]
        for name in ("classifiers", "feature-extractors")
    )
    keys = re.findall(r'data-key="([^"]+)"', classifiers)
    assert keys[:5] == ["name", "licence", "data", "reported_top1", "measured_top1"]
    assert keys[-3:] == ["measured_top5", "images_per_second_1", "images_per_second_8"]
    assert "images_per_second_1" not in extractors  # nobody measured one
    assert "Images per second were measured on Test CPU" in page and "2 threads" in page
    vit = pages["hubpress/collections/vit/1/index.html"].data.decode()
    assert "images_per_second" not in vit and "measured_top5" not in vit
    rows = json.loads(pages["hubpress/collections/convnext/1/table.json"].data)
    tiny = next(each for each in rows if each["handle"] == TINY)
    expected = {"measured_top1": 82.02, "measured_top5": 95.96, "measured_images": 50_000, "speed_threads": 2}
    expected |= {"images_per_second_1": 31.25, "images_per_second_8": 1240.5, "measured_date": "2026-12-02T08:00:00Z"}
    assert expected.items() <= tiny.items()
    cells = list(
        csv.DictReader(io.StringIO(pages["hubpress/collections/convnext/1/table.csv"].data.decode(), newline=""))
    )
    assert next(each for each in cells if each["handle"] == TINY)["images_per_second_8"] == "1240.5"


def test_speeds_of_different_machines_do_not_stand_beside_each_other():
    handles = [f"hubpress/convnext_{name}/1" for name in "abc"]
    records = [synthetic.record(handle.split("/")[1], **synthetic.imagenet("tiny")) for handle in handles]
    notes = {h: [speed(h, 1, 10.0 * n, 20.0, cpu="this" if n < 3 else "other")] for n, h in enumerate(handles, 1)}
    page = build(records, measurements=notes)["hubpress/collections/convnext/1/index.html"].data.decode()
    shown = re.findall(r'<tr [^>]*id="row-convnext_(\w)".*?</tr>', page, re.S)
    column = re.findall(r'<td class="number" data-value="([^"]*)"[^>]*>(?:10|20|30)\.0<', page)
    assert shown == ["a", "b", "c"] and "30.0" not in column and {"10.0", "20.0"} <= set(column)
    assert "measured on this with 2 threads" in page


def test_the_index_says_what_was_measured(pages):
    index = json.loads(pages["index.json"].data)
    assert violations(index, INDEX_SCHEMA) == []
    modules = {each["handle"]: each for each in index["modules"]}
    assert modules[TINY]["measured_top5"] == 95.96 and modules[TINY]["evaluation"]["images"] == 50_000
    assert modules[TINY]["speed"]["images_per_second"] == {"1": 31.25, "8": 1240.5}
    assert modules[LARGE]["speed"] is None and modules[LARGE]["evaluation"]["date"] == "2026-11-23"


def test_without_measurements_nothing_of_them_is_there():
    pages = build(synthetic.records())
    for path, page in pages.items():
        if path.endswith((".html", ".md")):
            assert "Images/s" not in page.data.decode() and "mages per second" not in page.data.decode(), path


@pytest.mark.parametrize(
    ("pinned", "said"),
    [(None, "not pinned: reported figures are of the upstream"), ("0" * 64, "the one that its row pins")],
)
def test_a_file_from_a_mirror_is_said_to_be_one(pinned, said):
    record = synthetic.record("convnext_digits", row__sha256=pinned)
    record["checkpoint"]["mirror"] = True
    pages = build([record])
    for path in (f"{DIGITS}.md", f"{DIGITS}/index.html"):
        text = pages[path].data.decode()
        assert "The file came from a mirror, not from its own address." in text and said in text
    assert "mirror" not in build([synthetic.record("convnext_digits")])[f"{DIGITS}.md"].data.decode()


def test_a_page_says_how_to_verify(pages):
    page = pages[f"{TINY}/index.html"].data.decode()
    commands = re.search(r'<code id="code-verify">(.*?)</code>', page, re.S)[1]
    assert Reader(commands).text == f"python tools/verify.py {synthetic.BASE_URL}/{TINY}"
    assert 'data-copy="code-verify"' in page and "sha256sum" in page


@pytest.mark.parametrize(
    ("value", "text"), [(None, "\N{EN DASH}"), (31.25, "31.2"), (0.04321, "0.0432"), (99.96, "100"), (1240.5, "1,240")]
)
def test_rates_have_three_digits(value, text):
    assert formatting.rate(value) == text


REPORT = {"schema": 1, "kind": "Benchmarks", "sections": {}}


def test_benchmarks_have_a_page_that_others_link():
    pages = build(synthetic.records(), benchmarks=REPORT)
    assert "Benchmarks" in pages["benchmarks/index.html"].data.decode()
    for path in ("index.html", f"{TINY}/index.html"):
        assert re.search(r'<a href="[./]*benchmarks/">Benchmarks</a>', pages[path].data.decode()), path
    assert "/benchmarks/</loc>" in pages["sitemap.xml"].data.decode()
    without = build(synthetic.records())
    assert "benchmarks/index.html" not in without and "benchmarks" not in without["index.html"].data.decode()
    with pytest.raises(PageError, match=r"benchmarks\.json: .*\. Fix: measure again"):
        build(synthetic.records(), benchmarks={"kind": "other"})
