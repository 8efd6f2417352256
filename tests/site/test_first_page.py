"""The first page and the page for missing addresses, in a real browser, over a hub of all rows with every column filled."""

import dataclasses
import gzip
import shutil

import pytest

from tests.support import filled, made
from tests.support.browsing import axe
from tests.support.commands import ROOT
from tools.catalog import CatalogError, load

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (1440, "dark"), (390, "light"), (320, "dark")])
def test_the_first_page_says_what_one_gets(visit, filled_hub, width, scheme):
    page = visit(filled_hub, width=width, color_scheme=scheme)
    assert len(page.inner_text("h1").split()) <= 9
    assert axe(page) == [] and page.evaluate("document.documentElement.scrollWidth") == width
    tasks = page.locator(".tasks a")
    assert tasks.count() == 3 and tasks.last.bounding_box()["y"] < 900
    code = page.locator("#example")
    assert f"/{made.rows().publisher.example}/" in code.inner_text()
    lines = code.evaluate(
        "e => Math.round(e.getBoundingClientRect().height / parseFloat(getComputedStyle(e).lineHeight))"
    )
    assert lines == code.inner_text().rstrip().count("\n") + 1  # no line breaks in two
    if width == 1440:
        frame = page.locator("pre:has(#example)")
        assert frame.evaluate("e => e.scrollWidth === e.clientWidth")
    assert page.locator(".card .tag-warning").count() == 1


def test_a_task_leads_to_what_fits(visit, filled_hub):
    page = visit(filled_hub)
    page.click("text=Fit a small device")
    page.wait_for_selector("#find-best:not([hidden])")
    assert page.input_value("input[name=parameters]") == "10" and "hub.KerasLayer" in page.inner_text("#find-code")


def test_marks_of_all_families_open_pages(visit, filled_hub):
    page = visit(filled_hub)
    figure = page.locator(".overview [data-plot]")
    families = {row.title for row in made.rows().variants if row.data != "digits"}
    shown = page.locator(".overview .legend li").all_inner_texts()
    assert families <= set(shown)
    figure.locator(".point[tabindex='0']").focus()
    page.keyboard.press("End")
    name = page.evaluate("document.activeElement.dataset.module")
    page.keyboard.press("Enter")
    page.wait_for_selector("h1.module-name")
    assert page.inner_text("h1.module-name").startswith(name)


def test_many_modules_leave_the_first_page_light():
    modules = made.rows().modules
    many = [
        dataclasses.replace(m, variant=dataclasses.replace(m.variant, names={m.head: f"copy{i}_{m.name}"}))
        for i in range(3)
        for m in modules
        if m.head == "classifier"
    ]
    pages = filled.build(many, collections=[])
    data = pages["index.html"].data
    assert 4 < data.count(b'class="point ') <= 150 and len(gzip.compress(data)) < 40_000


def test_a_missing_address_names_what_is_near(visit, filled_hub):
    page = visit(filled_hub)
    text = page.request.get(filled_hub + "404.html").text().replace('"/hub/', '"/')
    for address, expected in (
        ("hubpress/convnext_tny_1k_224/1/", "hubpress/convnext_tiny_1k_224/1"),
        ("convnext_tiny_1k_244", "hubpress/convnext_tiny_1k_224/1"),
        ("hubpress/vit_b16_classificatoin/2/", "hubpress/vit_b16_classification/1"),
    ):
        page.route("**/" + address, lambda route: route.fulfill(body=text, content_type="text/html"))
        page.goto(filled_hub + address)
        page.wait_for_selector("#near:not([hidden])")
        assert page.locator("#near a").first.inner_text() == expected
        assert axe(page) == []
    page.locator("#near a").first.click()
    page.wait_for_selector("h1.module-name")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            'headline = "one two three four five six seven eight nine ten"',
            "`headline` has 10 words. Fix: write at most 9",
        ),
        ('example = "hubpress/Module/1"', "is no module's name"),
    ],
)
def test_a_publisher_that_says_it_wrong_is_refused(tmp_path, line, message):
    for folder in ("modules", "collections"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("quickstart", "BUILD*"))
    file = tmp_path / "modules/publisher.toml"
    key = line.split(" ")[0]
    text = "\n".join(each for each in file.read_text().splitlines() if not each.startswith(f"{key} ="))
    file.write_text(f"{line}\n{text}\n")
    with pytest.raises(CatalogError) as error:
        load(tmp_path)
    assert "modules/publisher.toml" in str(error.value) and message in str(error.value)
