"""What helps to choose a module, in a real browser: tables, plots, the finder. Over a hub of all rows with every column filled."""

import pytest

from tests.support import made
from tests.support.browsing import axe

pytestmark = pytest.mark.browser

COLLECTIONS = [each.name for each in made.rows().collections]
CONVNEXTV2 = "hubpress/collections/convnextv2/1/"


def test_tables_fit_and_their_heads_stay_in_sight(visit, filled_hub):
    page = visit(filled_hub)
    for name in COLLECTIONS:
        page.goto(f"{filled_hub}hubpress/collections/{name}/1/")
        sizes = page.eval_on_selector_all(".scroll", "all => all.map(e => [e.scrollWidth, e.clientWidth])")
        assert len(sizes) == 2 and all(inner == outer for inner, outer in sizes), name
        without_classifier = page.locator("tbody tr[data-data=fcmae]").count()
        assert page.locator(".modules .empty").count() == without_classifier, name
        page.locator(".modules tbody tr").nth(1).evaluate("row => row.scrollIntoView()")
        assert page.evaluate("document.querySelector('.modules thead th').getBoundingClientRect().top") == 0, name
        assert page.evaluate("document.documentElement.scrollWidth") == 1440


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_table_shows_name_accuracy_and_parameters_first(visit, filled_hub, scheme):
    page = visit(filled_hub + CONVNEXTV2, width=390, color_scheme=scheme)
    for section in ("classifiers", "feature-extractors"):
        table = page.locator(f"section[aria-labelledby={section}] table")
        keys = ["name", "measured_top1" if section == "classifiers" else "classifier_top1", "parameters"]
        frame = page.locator(f"section[aria-labelledby={section}] .scroll")
        right = frame.evaluate("e => e.getBoundingClientRect().right")
        for key in keys:
            box = table.locator(f"th[data-key={key}]").bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= right + 1, key
        before = table.locator("tbody th").first.bounding_box()["x"]
        frame.evaluate("e => e.scrollTo(300, 0)")
        assert frame.evaluate("e => e.scrollLeft") > 100
        assert table.locator("tbody th").first.bounding_box()["x"] == pytest.approx(before, abs=1)
        assert "non-commercial" in table.locator("tbody th").first.inner_text()
    assert axe(page) == []


def test_printed_tables_have_every_column(visit, filled_hub):
    page = visit(filled_hub + CONVNEXTV2, width=980)  # what a landscape page of the smaller size, Letter, leaves
    everything = page.locator("thead th").count()
    page.emulate_media(media="print")
    boxes = page.eval_on_selector_all(
        "thead th", "all => all.map(e => e.getBoundingClientRect()).map(r => [r.width, r.right])"
    )
    assert len(boxes) == everything and all(width > 0 and right <= 980 for width, right in boxes)
    assert page.locator("tbody tr").last.is_visible()
    assert page.pdf().startswith(b"%PDF")


def test_cells_have_the_decimals_of_their_column_and_exact_figures_as_titles(visit, filled_hub):
    page = visit(filled_hub + "hubpress/collections/regnety/1/")
    cells = page.eval_on_selector_all(
        "section[aria-labelledby=classifiers] tbody tr",
        "rows => rows.map(r => [...r.cells].map(c => [c.innerText, c.title]))",
    )
    keys = page.eval_on_selector_all(
        "section[aria-labelledby=classifiers] thead th", "all => all.map(e => e.dataset.key)"
    )
    at = keys.index("parameters")
    assert keys[1] == "licence"
    assert cells[0][at] == ["3.2", "3,162,996 parameters"]
    for key in ("parameters", "gflops", "measured_top1", "download"):
        decimals = {len(row[keys.index(key)][0].partition(".")[2]) for row in cells}
        assert decimals == {1}, key
    page.click("section[aria-labelledby=feature-extractors] th[data-key=classifier_top1] button")
    best = page.locator("section[aria-labelledby=feature-extractors] tbody tr").first
    assert best.get_attribute("data-module") == "regnety32gf_tv2_feature_extractor"
    assert best.locator("td[title*='%']").get_attribute("title") == "83.308 %, measured"


@pytest.mark.parametrize("name", COLLECTIONS)
def test_the_centre_of_every_mark_hits_its_own_link(visit, filled_hub, name):
    page = visit(f"{filled_hub}hubpress/collections/{name}/1/")
    wrong = page.evaluate(
        """() => [...document.querySelectorAll('.point .mark')].filter((mark) => {
          mark.closest('svg').scrollIntoView({ block: 'center' });
          const box = mark.getBoundingClientRect();
          // A triangle's centre of gravity, a circle's and a square's centre.
          const hit = document.elementFromPoint(box.x + box.width / 2, box.y + box.height * 0.55);
          return hit?.closest('.point') !== mark.closest('.point');
        }).map((mark) => mark.closest('.point').id)"""
    )
    assert wrong == [] and page.locator(".point .mark").count() >= 6


def test_a_plot_is_one_tab_stop_with_arrows_and_a_card(visit, filled_hub):
    page = visit(filled_hub + CONVNEXTV2)
    stops = []
    while "filters" not in stops and len(stops) < 30:
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.closest('#filters')?.id ?? document.activeElement.id"))
    assert len([each for each in stops if each.startswith(("parameters-", "gflops-"))]) == 2 and "filters" in stops
    first = page.locator("[data-plot]").first
    link = first.locator(".point[tabindex='0']")
    assert first.locator(".point:not([tabindex='-1'])").count() == 1
    link.focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    last = page.evaluate("document.activeElement.dataset.module")
    xs = first.locator(".point").evaluate_all("all => all.map(e => [Number(e.dataset.x), e.dataset.module])")
    assert last in [name for x, name in xs if x == max(xs)[0]]
    card = first.locator(".plot-card")
    assert card.is_visible()
    said = card.inner_text()
    for each in (last, "% reported", "% measured", "M parameters", "CC-BY-NC-4.0"):
        assert each in said
    assert axe(page) == []
    page.keyboard.press("Enter")
    assert page.evaluate("document.querySelector('tr:target').dataset.module") == last
    page.evaluate("document.activeElement.blur()")
    first.locator(".point").nth(3).hover()
    assert card.is_visible()
    page.mouse.move(5, 5)
    assert card.is_hidden()


def test_a_tap_shows_the_card_and_a_second_one_opens(visit, filled_hub):
    page = visit(filled_hub + CONVNEXTV2, width=390, has_touch=True)
    link = page.locator("[data-plot] .point").nth(2)
    link.scroll_into_view_if_needed()
    link.locator(".mark").first.tap()
    assert page.locator("[data-plot] .plot-card").first.is_visible() and "#" not in page.url
    link.locator(".mark").first.tap()
    assert page.evaluate("document.querySelector('tr:target').dataset.module") == link.get_attribute("data-module")


def test_lines_follow_the_filters(visit, filled_hub):
    page = visit(filled_hub + CONVNEXTV2)

    def lines():
        texts = page.eval_on_selector_all("[data-plot] polyline", "all => all.map(e => e.getAttribute('points'))")
        return [[tuple(map(float, point.split(","))) for point in text.split()] for text in texts]

    drawn = lines()
    page.select_option("select[name=resolution]", "384")
    filtered = lines()
    assert filtered != drawn
    left = page.eval_on_selector_all(
        ".point:not(.is-out)", "all => all.map(e => [Number(e.dataset.x), Number(e.dataset.y)])"
    )
    ends = {point for line in filtered for point in line}
    assert ends and ends <= set(map(tuple, left))
    page.click("#filters button[type=reset]")
    page.wait_for_url(lambda url: "?" not in url)
    assert lines() == drawn


def test_marks_of_the_cards_are_inside_of_their_pictures(visit, filled_hub):
    page = visit(filled_hub)
    outside = page.evaluate(
        """() => [...document.querySelectorAll('.plot-small')].flatMap((svg) => {
          const { x, y, width, height } = svg.viewBox.baseVal;
          return [...svg.querySelectorAll('.mark')].map((mark) => mark.getBBox()).filter((box) =>
            box.x < x || box.y < y || box.x + box.width > x + width || box.y + box.height > y + height);
        }).length"""
    )
    assert outside == 0 and page.locator(".plot-small .mark").count() > 50


PAGES = [
    "",
    "find/",
    "search/",
    CONVNEXTV2,
    "hubpress/convnext_tiny_1k_224/1/",
    "hubpress/vit_b16_fe/1/",
    "hubpress/",
    "404.html",
]


@pytest.mark.parametrize("path", PAGES)
def test_landmarks_have_names_of_their_own_and_pages_fit_320_pixels(visit, filled_hub, path):
    page = visit(filled_hub + path, width=320, missing=path == "404.html")
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    named = page.evaluate(
        """() => [...document.querySelectorAll('nav, section, form, aside, [role=region], [role=search]')].map((e) =>
          e.getAttribute('aria-label') ?? document.getElementById(e.getAttribute('aria-labelledby'))?.textContent.trim())
          .filter((name) => name)"""
    )
    assert sorted(named) == sorted(set(named))


@pytest.mark.parametrize("path", ["hubpress/convnext_tiny_1k_224/1/", CONVNEXTV2])
def test_printed_pages_lose_nothing(visit, filled_hub, path):
    page = visit(filled_hub + path, width=700)
    page.emulate_media(media="print")
    lost = page.evaluate(
        """() => [...document.querySelectorAll('main :is(pre, table, .tab, .panel:not(.contents), .plot)')].filter((e) =>
          !e.getClientRects().length && !e.closest('[hidden]') || e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== 'visible')
          .map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert lost == []
