"""Modules compared side by side, in a real browser."""

import json

import pytest
from playwright import sync_api as playwright

from tests.support.browsing import axe

pytestmark = pytest.mark.browser

COLLECTION = "hubpress/collections/convnextv2/1/"
CHOSEN = ["convnextv2_atto_1k_224", "convnextv2_tiny_1k_224", "convnextv2_base_21k_1k_384"]


def cells(page):
    rows = page.eval_on_selector_all(
        ".compare tbody tr", "rows => rows.map(r => [...r.cells].map(c => [c.innerText, !!c.querySelector('strong')]))"
    )
    return {row[0][0]: row[1:] for row in rows}


def test_what_differs_is_compared_and_stays_in_the_address(visit, filled_hub):
    page = visit(filled_hub + COLLECTION, permissions=["clipboard-read", "clipboard-write"])
    index = json.loads(page.request.get(filled_hub + "index.json").text())
    modules = [next(m for m in index["modules"] if m["name"] == name) for name in CHOSEN]
    assert page.locator(".compare").is_hidden()
    for name in CHOSEN:
        page.check(f"tr[data-module={name}] .compare-box")
    playwright.expect(page.locator(".compare thead th")).to_have_count(3)
    shown = cells(page)
    assert "Licence" not in shown and "Head" not in shown and "Resolution" in shown  # what is the same is left out
    top1 = [m["top1"] for m in modules]
    assert shown["Top-1 (%)"] == [[f"{value:.2f}", value == max(top1)] for value in top1]
    sizes = [m["parameters"] for m in modules]
    assert [best for _, best in shown["Parameters (M)"]] == [value == min(sizes) for value in sizes]
    assert axe(page) == []
    page.fill("#filters input[name=q]", "tiny")  # the filters leave the choice alone
    assert f"compare={CHOSEN[0]}" in page.url and "q=tiny" in page.url
    page.click("button[data-copy=compare-markdown]")
    playwright.expect(page.locator("#announcement")).to_have_text("Copied")
    lines = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert lines[0] == "|  | " + " | ".join(f"[{m['name']}]({index['url']}/{m['handle']})" for m in modules) + " |"
    assert f"**{max(top1):.2f}**" in "\n".join(lines) and all(line.count("|") == 5 for line in lines)
    again = visit(page.url)
    again.wait_for_selector(".compare tbody tr")
    assert cells(again) == shown and again.is_checked(f"tr[data-module={CHOSEN[1]}] .compare-box")
    again.click(f"button[aria-label='Remove {CHOSEN[0]}']")
    playwright.expect(again.locator(".compare thead th")).to_have_count(2)
    again.click(".compare button:text-is('Clear')")
    assert again.locator(".compare").is_hidden() and "compare" not in again.url


def test_four_at_most_by_the_keyboard(visit, filled_hub):
    page = visit(filled_hub + COLLECTION)
    page.locator(".compare-box").first.focus()
    for _ in range(5):
        page.keyboard.press("Space")
        page.wait_for_timeout(20)
        page.keyboard.press("Tab")
        while not page.evaluate("document.activeElement.matches('.compare-box')"):
            page.keyboard.press("Tab")
    playwright.expect(page.locator(".compare thead th")).to_have_count(4)
    assert page.locator(".compare thead th").count() == 4 and page.locator(".compare-box:checked").count() == 4
    assert "4 modules at most" in page.inner_text(".compare")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_narrow_screen_and_every_table_has_boxes(visit, filled_hub, scheme):
    page = visit(f"{filled_hub}{COLLECTION}?compare={','.join(CHOSEN)}", width=390, color_scheme=scheme)
    page.wait_for_selector(".compare tbody tr")
    assert page.evaluate("document.documentElement.scrollWidth") == 390 and axe(page) == []
    page.goto(f"{filled_hub}find/?compare={','.join(CHOSEN)}")
    page.wait_for_selector(".compare tbody tr")
    page.wait_for_selector("#find-best:not([hidden])")
    assert page.locator("tbody .compare-box").count() == page.locator(".modules tbody tr").count() > 50
    page.goto(filled_hub)
    assert page.locator(".compare-box").count() == page.locator(".modules tbody tr").count() == 24
