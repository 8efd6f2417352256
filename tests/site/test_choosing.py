"""What helps to choose a module, in a real browser: tables, plots, the finder. Over a hub of all rows with every column filled."""

import functools
import http.server
import threading

import pytest

from tests.support import filled, made
from tests.support.browsing import Quiet, axe

pytestmark = pytest.mark.browser

COLLECTIONS = [each.name for each in made.rows().collections]
CONVNEXTV2 = "hubpress/collections/convnextv2/1/"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("choosing")
    filled.write(folder)
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_tables_fit_and_their_heads_stay_in_sight(visit, hub):
    page = visit(hub)
    for name in COLLECTIONS:
        page.goto(f"{hub}hubpress/collections/{name}/1/")
        sizes = page.eval_on_selector_all(".scroll", "all => all.map(e => [e.scrollWidth, e.clientWidth])")
        assert len(sizes) == 2 and all(inner == outer for inner, outer in sizes), name
        without_classifier = page.locator("tbody tr[data-data=fcmae]").count()
        assert page.locator(".modules .empty").count() == without_classifier, name
        page.locator(".modules tbody tr").nth(1).evaluate("row => row.scrollIntoView()")
        assert page.evaluate("document.querySelector('.modules thead th').getBoundingClientRect().top") == 0, name
        assert page.evaluate("document.documentElement.scrollWidth") == 1440


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_table_shows_name_accuracy_and_parameters_first(visit, hub, scheme):
    page = visit(hub + CONVNEXTV2, width=390, color_scheme=scheme)
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


def test_printed_tables_have_every_column(visit, hub):
    page = visit(hub + CONVNEXTV2, width=980)  # what a landscape page of the smaller size, Letter, leaves
    everything = page.locator("thead th").count()
    page.emulate_media(media="print")
    boxes = page.eval_on_selector_all(
        "thead th", "all => all.map(e => e.getBoundingClientRect()).map(r => [r.width, r.right])"
    )
    assert len(boxes) == everything and all(width > 0 and right <= 980 for width, right in boxes)
    assert page.locator("tbody tr").last.is_visible()
    assert page.pdf().startswith(b"%PDF")


def test_cells_have_the_decimals_of_their_column_and_exact_figures_as_titles(visit, hub):
    page = visit(hub + "hubpress/collections/regnety/1/")
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
