"""The page of a module in a real browser: what stands in sight, tabs, tags, neighbours, and the interval of an accuracy."""

import re

import pytest

from tests.support import made, synthetic
from tests.support.browsing import axe
from tools.site import pages
from tools.site.measurements import Evaluation

pytestmark = pytest.mark.browser

MODULE = "hubpress/convnext_tiny_1k_224/1/"


def test_install_and_the_first_code_are_in_sight(visit, filled_hub):
    for path in (MODULE, "hubpress/regnety800mf_tv1_feature_extractor/1/"):
        page = visit(filled_hub + path)
        for selector in ("#code-install", "pre:has(#code-hub-load)"):
            box = page.locator(selector).bounding_box()
            assert box["y"] > 0 and box["y"] + box["height"] <= 900, (path, selector)
        assert axe(page) == []


def test_tabs_are_in_the_address_and_remembered(visit, filled_hub):
    page = visit(filled_hub + MODULE)
    page.click("label[for=tab-fine-tune]")
    assert page.url.endswith("?use=fine-tune")
    page.goto(filled_hub + "hubpress/vit_b16_fe/1/")
    assert page.locator("#use-fine-tune").is_visible()
    page.goto(filled_hub + MODULE + "?use=keras-3&deploy=mixed-precision")
    assert page.locator("#use-keras-3").is_visible() and page.locator("#use-mixed-precision").is_visible()
    page.goto(filled_hub + MODULE + "?use=nonsense")
    assert page.locator("#use-fine-tune").is_visible()


def test_tags_lead_to_what_shares_them(visit, filled_hub):
    page = visit(filled_hub + "hubpress/convnextv2_tiny_1k_224/1/")
    addresses = page.eval_on_selector_all(".header-line .tag a", "all => all.map(e => e.href)")
    for address in [each for each in addresses if "tuning=" not in each]:  # all can be fine-tuned here
        page.goto(address)
        page.wait_for_selector("#search:not(.is-waiting)")
        assert re.match(r"\d+ results$", page.inner_text("#found")) and "200" not in page.inner_text("#found"), address


def test_contents_lead_to_sections_and_every_header_searches(visit, filled_hub):
    page = visit(filled_hub + MODULE)
    targets = page.eval_on_selector_all(".contents a", "all => all.map(e => e.hash.slice(1))")
    headings = page.eval_on_selector_all(".column-main section > h2", "all => all.map(e => e.id)")
    assert targets == headings
    page.fill(".header-search input", "regnety tv2")
    page.keyboard.press("Enter")
    page.wait_for_selector("#search:not(.is-waiting)")
    assert "q=regnety+tv2" in page.url and page.locator("#results a").count() > 5


def near(pages, name):
    page = pages[f"hubpress/{name}/1/index.html"].data.decode()
    part = page[page.index('id="neighbours-title"') :].partition("</section>")[0]
    rows = re.findall(r"<dt>(.*?)</dt><dd><a[^>]*>(.*?)</a> <span[^>]*>(.*?)</span>", part)
    return {relation: (other.replace("<wbr>", ""), facts) for relation, other, facts in rows}


def test_neighbours_differ_in_one_thing(visit, filled_hub):
    text = visit(filled_hub).request.get(filled_hub + "hubpress/convnextv2_base_21k_1k_224/1/").body()
    page = type("Page", (), {"data": text})
    found = near({"hubpress/convnextv2_base_21k_1k_224/1/index.html": page}, "convnextv2_base_21k_1k_224")
    assert found["Smaller"][0] == "convnextv2_tiny_21k_1k_224" and "\N{MINUS SIGN}" in found["Smaller"][1]
    assert found["Larger"][0] == "convnextv2_large_21k_1k_224" and "+" in found["Larger"][1]
    assert found["Other resolution"][0] == "convnextv2_base_21k_1k_384" and "384x384" in found["Other resolution"][1]
    assert found["Other data"][0] == "convnextv2_base_1k_224"


def test_neighbours_are_neither_withdrawn_nor_of_another_head_and_change_the_page():
    records = [
        synthetic.record(name, **synthetic.imagenet(size, measured__parameters=count, row__top1=top1))
        for name, size, count, top1 in (("s", "s", 10, 70.0), ("m", "m", 20, 75.0), ("l", "l", 30, 80.0))
    ]
    records.append(synthetic.record("x", feature_extractor=True, **synthetic.imagenet("x", measured__parameters=25)))
    assert near(synthetic.build(records), "m") == {
        "Smaller": ("s", "10 parameters, \N{MINUS SIGN}5.00 % top-1"),
        "Larger": ("l", "30 parameters, +5.00 % top-1"),
    }
    assert set(near(synthetic.build(records, yanked={"hubpress/l/1": "wrong"}), "m")) == {"Smaller"}
    tags = made.tags()
    plan = {"publisher": synthetic.PUBLISHER, "collections": [], "base_url": synthetic.BASE_URL, "tags": tags}

    def key():
        jobs = pages.plan(records, **plan)
        return next(job.key for job in jobs if job.files[0][0] == "hubpress/m/1.md")

    before = key()
    records[0] = synthetic.change(records[0], row__top1=71.0)
    assert key() != before


def test_the_interval_of_an_accuracy():
    found = Evaluation("imagenet", "validation", 50_000, 82.05, 41_025, None, None, "2026-11-20", {})
    assert found.margin == pytest.approx(0.336, abs=0.001)
    page = synthetic.build([synthetic.record("convnext_digits")])["hubpress/convnext_digits/1/index.html"].data.decode()
    assert "98.61<small" in page and "±&nbsp;1.21" in page
