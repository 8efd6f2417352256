"""The page that helps to find a backbone, in a real browser, over a hub of all rows with every column filled."""

import gzip
import json

import pytest
from playwright import sync_api as playwright

from tests.support import filled, synthetic
from tests.support.browsing import axe

pytestmark = pytest.mark.browser

IMAGENET = "imagenet-ilsvrc-2012-cls"


def best(index, head, limit=None, *, commercial=True, resolution=None):
    """The most accurate module of index.json that fits."""
    fitting = [
        m
        for m in index["modules"]
        if m["head"] == head and m["datasets"][-1] == IMAGENET and m["top1"] is not None and m["newest"]
        if (not commercial or "-nc-" not in m["license"]) and (limit is None or m["parameters"] <= limit * 1e6)
        if resolution is None or m["resolution"] == resolution
    ]
    return min(fitting, key=lambda m: (-m["top1"], m["parameters"], m["name"])), len(fitting)


def answer(page):
    page.wait_for_selector("#find-best:not([hidden])")
    return page.inner_text("#find-best .handle")


def test_the_most_accurate_that_fits_is_that_of_the_index_and_stays_in_the_address(visit, filled_hub):
    page = visit(filled_hub + "find/")
    index = json.loads(page.request.get(filled_hub + "index.json").text())
    assert answer(page) == best(index, "feature_extractor")[0]["name"]
    page.fill("input[name=parameters]", "30")
    page.click("label[for=licence-commercial]")
    expected, count = best(index, "feature_extractor", 30)
    assert answer(page) == expected["name"] and page.url.endswith("?parameters=30")
    page.reload()
    assert answer(page) == expected["name"] and page.input_value("input[name=parameters]") == "30"
    assert page.inner_text("#find-count").startswith(f"{count} of ")
    assert f"{expected['top1']:.2f} %" in page.inner_text("#find-best")
    code = page.text_content("#find-code")
    assert f'"{index["url"]}/{expected["handle"]}"' in code and "trainable=True" in code
    compile(code, "snippet", "exec")
    assert page.locator("tbody tr").count() == count and page.locator("tr.is-best").inner_text().startswith(
        expected["name"]
    )
    page.click("label[for=licence-any]")
    page.select_option("select[name=resolution]", "224")
    page.click("label[for=what-classify]")
    expected, count = best(index, "classifier", 30, commercial=False, resolution=224)
    assert answer(page) == expected["name"] and page.locator("tbody tr").count() == count
    compile(page.text_content("#find-code"), "snippet", "exec")
    assert page.locator("tr:first-child td .tag-warning").is_visible() == (not expected["commercial_use"])
    page.go_back()
    again = visit(filled_hub + "find/?parameters=30&licence=any&resolution=224&what=classify&x=nonsense")
    assert answer(again) == expected["name"] and again.is_checked("#x-parameters")
    again.fill("input[name=parameters]", "0.001")
    assert again.inner_text("#find-count").startswith("0 of ") and again.locator("#find-best").is_hidden()


def test_the_snippet_is_three_interactions_from_the_first_page(visit, filled_hub):
    page = visit(filled_hub)
    page.click("nav[aria-label=Site] a:text-is('Find')")
    answer(page)
    assert page.locator("#find-code").is_visible() and "KerasLayer" in page.inner_text("#find-code")


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark"), (320, "light")])
def test_it_is_accessible_fits_and_nothing_covers_anything(visit, filled_hub, width, scheme):
    page = visit(filled_hub + "find/?parameters=100", width=width, color_scheme=scheme)
    answer(page)
    assert axe(page) == [] and page.evaluate("document.documentElement.scrollWidth") == width
    for axis in ("parameters", "gflops", "speed"):
        page.click(f"label[for=x-{axis}]")
        boxes = page.eval_on_selector_all(
            "#find-plot .label", "all => all.map(e => e.getBBox()).map(b => [b.x, b.y, b.x + b.width, b.y + b.height])"
        )
        assert len(boxes) >= 2
        for i, (left, top, right, bottom) in enumerate(boxes):
            assert left >= 0 and right <= 640
            for x0, y0, x1, y1 in boxes[:i]:
                assert x1 < left + 1 or right < x0 + 1 or y1 < top + 2 or bottom < y0 + 2, (axis, i)
        wrong = page.evaluate(
            """() => [...document.querySelectorAll('#find-plot .point .mark')].filter((mark) => {
              mark.closest('svg').scrollIntoView({ block: 'center' });
              const box = mark.getBoundingClientRect();
              const hit = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
              return hit?.closest('.point') !== mark.closest('.point');
            }).map((mark) => mark.closest('.point').dataset.module)"""
        )
        assert wrong == []


def test_marks_lead_to_pages_and_steps_through_the_best(visit, filled_hub):
    page = visit(filled_hub + "find/?parameters=30")
    name = answer(page)
    assert page.locator("#find-plot .point:not([tabindex='-1'])").count() == 1
    page.locator("#find-plot .point[tabindex='0']").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("End")  # the most accurate is the last one upwards
    order = page.eval_on_selector_all(
        "#find-plot .point", "all => all.map(e => [Number(e.dataset.y), e.dataset.module])"
    )
    assert min(order)[1] == name
    assert page.locator("#find-plot .plot-card").is_visible()
    page.locator(f"#find-plot .point[data-module={name}]").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("h1.module-name")
    assert page.inner_text("h1.module-name").startswith(name)


def test_without_scripts_it_is_a_table_by_accuracy(visit, filled_hub):
    page = visit(filled_hub + "find/", java_script_enabled=False)
    cells = page.eval_on_selector_all("tbody tr", "rows => rows.map(r => Number(r.cells[3].dataset.value))")
    assert len(cells) > 150 and cells == sorted(cells, reverse=True)
    assert page.locator("#find").is_hidden() and page.locator(".find-result").is_hidden()


def test_a_reader_is_told_when_the_index_fails(visit, filled_hub):
    page = visit(filled_hub, missing=True)
    page.route("**/index.json", lambda route: route.fulfill(status=404))
    page.goto(filled_hub + "find/")
    playwright.expect(page.locator("#find-failed")).to_be_visible()
    assert page.locator("#find").is_hidden() and page.locator("tbody tr").count() > 150


def test_the_page_is_light():
    pages = filled.build()
    scripts = ["static/site.js", "static/plot.js", "static/find.js", "static/compare.js"]
    assert sum(len(gzip.compress(pages[path].data)) for path in scripts) < 12_000
    assert len(gzip.compress(pages["find/index.html"].data)) < 40_000
    nothing = synthetic.build([])["find/index.html"].data.decode()
    assert "<tbody>" in nothing and "<tr id" not in nothing


def test_no_axis_goes_beyond_100_percent(visit, any_url):
    """The quickstart has a module without a single error, and others close to it."""
    page = visit(any_url + "/find/")
    page.wait_for_selector("#find-best:not([hidden])")
    numbers = page.locator("svg .axis text[text-anchor=end]").all_text_contents()
    percents = [float(text) for text in numbers if text.replace(".", "").isdigit()]
    assert len(percents) >= 2 and max(percents) == 100
