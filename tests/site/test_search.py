"""The search of a hub in a real browser, over a hub of all rows with every column filled."""

import json

import pytest
from playwright import sync_api as playwright

from tests.support.browsing import axe

pytestmark = pytest.mark.browser

READY = "#search:not(.is-waiting):not([hidden])"


@pytest.fixture
def search(visit, filled_hub):
    """A function that opens the search with a query."""

    def open_search(query="", **options):
        page = visit(f"{filled_hub}search/{query}", **options)
        page.wait_for_selector(READY)
        return page

    return open_search


def names(page):
    return page.locator("#results a").all_inner_texts()


def test_words_separators_and_synonyms(search):
    page = search()

    def found(words):
        page.fill("input[name=q]", words)
        return page.inner_text("#found"), names(page)

    signs = [found(text) for text in ("convnext_tiny_1k_224", "convnext-tiny-1k.224", "convnext tiny/1k 224")]
    assert signs[0] == signs[1] == signs[2] and signs[0][1][0] == "convnext_tiny_1k_224"
    count, shown = found("backbone")
    assert shown and all(name.endswith(("_fe", "_feature_extractor")) for name in shown)
    assert found("embedding")[0] == count
    assert found("resnet")[1] and all("regnety" in name for name in found("resnet")[1])
    permissive = found("permissive convnextv2")
    assert permissive[0].startswith("0 results")
    assert "convnext_tiny_1k_224" in found("commercial tiny")[1]


@pytest.mark.parametrize("typed", ["convnxt tiny", "convnextt tiny", "convmext tiny", "covnnext tiny"])
def test_one_typing_error_is_forgiven_when_nothing_is_found(search, typed):
    page = search()
    page.fill("input[name=q]", typed)
    assert names(page) and all("convnext" in name and "tiny" in name for name in names(page))
    assert f"none for “{typed}”" in page.inner_text("#found")
    page.fill("input[name=q]", "cnvxt tiny")
    assert page.inner_text("#found") == "0 results"


def test_sorting_licences_and_family_are_in_the_address(search, filled_hub):
    page = search()
    index = json.loads(page.request.get(filled_hub + "index.json").text())["modules"]
    by_name = {m["name"]: m for m in index}
    page.select_option("select[name=family]", "ConvNeXt V2")
    assert all(by_name[name]["title"] == "ConvNeXt V2" for name in names(page))
    page.select_option("select[name=family]", "")
    page.check("input[name=license][value=MIT]")
    page.check("input[name=license][value='BSD-3-Clause']")
    page.select_option("select[name=sort]", "accuracy")
    expected = [m for m in index if m["license"] in ("mit", "bsd-3-clause")]
    assert page.inner_text("#found") == f"{len(expected)} results"
    values = [by_name[name]["top1"] for name in names(page)]
    assert values == sorted(values, reverse=True) and values[0] == max(m["top1"] or 0 for m in expected)
    assert any(by_name[name]["head"] == "feature_extractor" for name in names(page))
    page.reload()
    page.wait_for_selector(READY)
    assert [
        by_name[name]["top1"] for name in names(page)
    ] == values and "license=BSD-3-Clause&license=MIT&sort=accuracy" in page.url
    page.uncheck("input[name=license][value=MIT]")
    page.uncheck("input[name=license][value='BSD-3-Clause']")
    page.check("input[name=commercial]")
    assert page.inner_text("#found") == f"{sum(m['commercial_use'] for m in index)} results"
    page.select_option("select[name=sort]", "parameters")
    sizes = [by_name[name]["parameters"] for name in names(page)]
    assert sizes == sorted(sizes)
    assert axe(page) == []


def test_each_result_says_its_licence(search):
    page = search("?q=convnextv2_huge")
    for text in page.locator("#results li").all_inner_texts():
        assert "CC-BY-NC-4.0, non-commercial" in text and "M" in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_moves_when_the_search_arrives(visit, filled_hub, scheme):
    page = visit(filled_hub, width=390, color_scheme=scheme)
    page.add_init_script(
        "window.shift = 0; new PerformanceObserver((list) => list.getEntries().forEach((e) => { window.shift += e.value; }))"
        ".observe({ type: 'layout-shift', buffered: true });"
    )
    page.goto(filled_hub + "search/?q=tiny")
    page.wait_for_selector(READY)
    playwright.expect(page.locator("#found")).to_contain_text("results")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.evaluate("window.shift") < 0.05
    assert axe(page) == [] and page.evaluate("document.documentElement.scrollWidth") == 390


def test_a_reader_is_told_when_the_index_fails_and_keeps_the_words(visit, filled_hub):
    page = visit(filled_hub, missing=True)
    page.route("**/index.json", lambda route: route.fulfill(status=404))
    page.goto(filled_hub + "search/?q=tiny")
    playwright.expect(page.locator("#found")).to_contain_text("could not be loaded")
    assert page.input_value("input[name=q]") == "tiny" and page.locator("#found").is_visible()
    assert page.locator("#results a").count() > 150
