"""The site in a real browser, from tools/serve.py: what scripts, styles and the content security policy really do.

Needs the system's Chromium (`chromium`, `chromium-browser` or `google-chrome` on PATH); nothing is installed or downloaded,
and without it these tests skip. `browser/axe.min.js` is axe-core (MPL-2.0), which looks for accessibility problems.
"""

import functools
import http.server
import json
import re
import threading
import urllib.parse

import pytest
from playwright import sync_api as playwright

from tests.support import hostile, made
from tests.support.browsing import Quiet, Server, axe
from tests.support.commands import ROOT
from tools.hub import records
from tools.site import document_archive, pages

pytestmark = pytest.mark.browser

COLLECTION = "hubpress/collections/convnext/1/"
MODULE = "hubpress/convnext_tiny_1k_224/1/"
PAGES = ["", "search/?q=convnext", COLLECTION, MODULE]


def publish(folder):
    """A hub of some ConvNeXts: archives without graphs, figures that differ; half of the accuracies are measured."""
    wanted = [m for m in made.rows().modules if m.variant.family == "convnext" and m.variant.resolution <= 224]
    chosen = [m for m in wanted if m.variant.size in ("digits", "atto", "tiny", "small", "base")]
    found = []
    for number, module in enumerate(chosen):
        model = made.saved_model(folder.parent / f"model-{number}", module)
        file = folder / f"{module.handle}.tar.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        record = made.record(module, made.pack(model, file))
        row, measured = record["row"], record["measured"]
        measured |= {"parameters": row["parameters"] or 186_554, "gflops": row["gflops"] or 0.0021}
        if module.head == "classifier" and row["top1"] and number % 4 == 0:
            said = {"correct": 1, "images": 50_000, "dataset": "imagenet-ilsvrc-2012-cls", "split": "validation"}
            measured["top1"] = {"value": row["top1"] - 0.1, "date": "2026-11-20", **said}
        (folder / f"{module.handle}.json").write_bytes(records.encode(record))
        found.append(record)
    rows = made.rows()
    address = "https://models.example.org"
    built = pages.build(
        found, publisher=rows.publisher, collections=rows.collections, base_url=address, tags=made.tags()
    )
    for page in built.values():
        (folder / page.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / page.path).write_bytes(page.data)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser") / "hub"
    publish(folder)
    server = Server(folder)
    yield server.url
    server.stop()


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attacked")
    hostile.write(folder / "docs")
    document_archive.render(folder / "docs", folder / "site")
    # Without any header: the policy that the pages carry themselves has to do.
    handler = functools.partial(Quiet, directory=folder / "site")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def names(page, selector="tbody tr:not([hidden])"):
    return page.eval_on_selector_all(
        f"section[aria-labelledby=classifiers] {selector}", "rows => rows.map(r => r.dataset.module)"
    )


@pytest.mark.parametrize("path", [*PAGES, "nothing/here"])
@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (360, "dark")])
def test_pages_are_accessible_and_fit(visit, hub, path, width, scheme):
    page = visit(hub + path, width=width, color_scheme=scheme, missing=path.startswith("nothing"))
    assert axe(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 150) == (scheme == "dark")


def test_no_link_of_any_page_is_dead(visit, hub):
    page = visit(hub)
    waiting, seen = [hub], set()
    while waiting:
        address = waiting.pop()
        if address in seen:
            continue
        seen.add(address)
        answer = page.request.get(address)
        assert answer.ok, address
        if "text/html" in answer.headers["content-type"]:
            found = re.findall(r'(?:href|src|action|data-index)="([^"]+)"', answer.text())
            waiting += [u.partition("#")[0] for t in found if (u := urllib.parse.urljoin(address, t)).startswith(hub)]
    assert len(seen) > 80 and any(each.endswith(".tar.gz") for each in seen) and hub + "feed.xml" in seen


def test_search_by_words_facets_and_keyboard_alone(visit, hub):
    page = visit(hub)
    page.keyboard.press("/")
    page.keyboard.type("tiny 224")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search/?q=tiny+224")
    page.wait_for_selector("#search:not(.is-waiting):not([hidden])")
    shown = page.locator("#results a")
    assert shown.count() > 1 and all("tiny" in each for each in shown.all_inner_texts())
    assert page.evaluate("document.activeElement.name") == "q"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.textContent") == shown.nth(1).inner_text()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.name") == "q"
    before = shown.count()
    page.select_option("select[name=task]", index=1)
    assert 0 < shown.count() < before and "task=" in page.url
    page.reload()
    page.wait_for_selector("#search:not(.is-waiting):not([hidden])")
    assert 0 < shown.count() < before
    page.click("#search button[type=reset]")
    page.wait_for_url(lambda url: "?" not in url)
    page.fill("input[name=parameters]", "10")
    small = shown.count()
    page.fill("input[name=accuracy]", "77")
    assert 0 < shown.count() < small
    page.fill("input[name=q]", "zzz")
    assert page.inner_text("#found") == "0 results" and shown.count() == 0
    page.fill("input[name=q]", "")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("h1.module-name")


def test_search_of_three_thousand_modules(visit, hub):
    index = json.loads(visit(hub).request.get(hub + "index.json").text())
    index["modules"] = [{**index["modules"][0], "name": f"module_{i:04}", "parameters": i} for i in range(3000)]
    page = visit(hub)
    page.route("**/index.json", lambda route: route.fulfill(json=index))
    page.goto(hub + "search/")
    page.wait_for_selector("#search:not(.is-waiting):not([hidden])")
    assert page.inner_text("#found") == "3,000 results" and page.locator("#results li").count() == 50
    page.click("#more")
    assert page.locator("#results li").count() == 250
    page.fill("input[name=q]", "module_2999")
    assert page.locator("#results a").all_inner_texts() == ["module_2999"]


def test_names_from_an_index_are_text(visit, hub):
    index = json.loads(visit(hub).request.get(hub + "index.json").text())
    index["modules"] = [
        {**index["modules"][0], "name": "<img src=x onerror=alert(1)>", "description": "<script>alert(1)</script>"}
    ]
    page = visit(hub)
    page.route("**/index.json", lambda route: route.fulfill(json=index))
    page.goto(hub + "search/")
    page.wait_for_selector("#search:not(.is-waiting):not([hidden])")
    assert page.inner_text("#results a") == "<img src=x onerror=alert(1)>" and page.locator("#results img").count() == 0


def test_a_collection_sorts_filters_and_keeps_both_in_the_address(visit, hub):
    page = visit(hub + COLLECTION)
    everything = names(page)
    parameters = page.locator("section[aria-labelledby=classifiers] th[data-key=reported_top1] button")
    parameters.click()
    best = names(page)
    values = page.eval_on_selector_all(
        "section[aria-labelledby=classifiers] tbody tr", "rows => rows.map(r => r.cells[3].dataset.value)"
    )
    numbers = [float(each) for each in values if each]
    assert numbers == sorted(numbers, reverse=True) and values[len(numbers) :] == [""] * (len(values) - len(numbers))
    assert best != everything and page.url.endswith("?sort=-reported_top1")
    assert page.get_attribute("th[data-key=reported_top1]", "aria-sort") == "descending"
    parameters.focus()
    page.keyboard.press("Enter")
    numbers = [
        float(each)
        for each in page.eval_on_selector_all(
            "section[aria-labelledby=classifiers] tbody tr", "rows => rows.map(r => r.cells[3].dataset.value)"
        )
        if each
    ]
    assert numbers == sorted(numbers)
    page.select_option("select[name=data]", "21k_1k")
    page.fill("#filters input[name=q]", "small")
    kept = names(page)
    assert kept and all("small_21k_1k" in each for each in kept)
    points = page.eval_on_selector_all(".point:not(.is-out)", "points => points.map(p => p.dataset.module)")
    assert set(points) == set(kept)
    address = page.url
    assert "data=21k_1k" in address and "q=small" in address and "sort=reported_top1" in address
    again = visit(address)
    assert names(again) == kept and again.input_value("#filters input[name=q]") == "small"
    again.select_option("select[name=head]", "feature_extractor")
    assert again.locator("#classifiers").is_hidden() and again.locator("#feature-extractors").is_visible()
    again.click("#filters button[type=reset]")
    playwright.expect(again.locator("#shown")).to_have_text(re.compile(r"^(\d+) of \1 "))
    assert sorted(names(again)) == sorted(everything)


def test_points_and_rows_lead_to_each_other(visit, hub):
    page = visit(hub + COLLECTION)
    point = page.locator(".point").first
    name = point.get_attribute("data-module")
    point.click()
    assert page.evaluate("document.querySelector('tr:target').dataset.module") == name
    page.locator("tr:target .to-plot").click()
    assert page.evaluate("document.querySelector('.point:target').dataset.module") == name


@pytest.mark.parametrize("target", ["handle", "archive-digest", "code-hub-load"])
def test_copy_buttons_copy_what_they_stand_at(visit, hub, target):
    page = visit(hub + MODULE, permissions=["clipboard-read", "clipboard-write"])
    page.click(f"button[data-copy={target}]")
    playwright.expect(page.locator("#announcement")).to_have_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.text_content(f"#{target}").rstrip() and len(copied) > 30


@pytest.mark.parametrize("scripts", [True, False])
def test_tabs_work_from_the_keyboard_with_and_without_scripts(visit, hub, scripts):
    page = visit(hub + MODULE, java_script_enabled=scripts)
    tabs = ["use-hub-load", "use-keras-layer", "use-fine-tune", "use-keras-3"]

    def shown():
        return [tab for tab in tabs if page.locator(f"#{tab}").is_visible()]

    assert shown() == ["use-hub-load"]
    page.click("label[for=tab-fine-tune]")
    assert shown() == ["use-fine-tune"]
    page.locator("#tab-fine-tune").focus()
    page.keyboard.press("ArrowRight")
    assert shown() == ["use-keras-3"]
    page.emulate_media(media="print")
    assert shown() == tabs


def test_everything_is_there_without_scripts(visit, hub):
    page = visit(hub + "search/", java_script_enabled=False)
    assert page.locator("#search").is_hidden() and page.locator("#results a").count() > 15
    page = visit(hub + COLLECTION, java_script_enabled=False)
    assert page.locator("#filters").is_hidden() and page.locator(".point").first.is_visible()
    assert page.locator("button:visible").count() == 0
    page.click(".modules a.handle >> nth=0")
    assert page.locator("h1.module-name").is_visible() and page.locator(".crop image").count() == 2


def test_the_photograph_is_drawn_cut_out(visit, hub):
    page = visit(hub + MODULE)
    answer = page.request.get(hub + "static/example.jpg")
    assert answer.headers["content-type"] == "image/jpeg" and len(answer.body()) < 30_000
    box = page.locator(".crop-result").bounding_box()
    assert box["width"] == pytest.approx(box["height"], abs=1)


def test_every_control_can_be_reached_and_seen_with_the_tab_key(visit, hub):
    page = visit(hub + COLLECTION)
    reached = []
    for _ in range(24):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "(e => [e.tagName, getComputedStyle(e).outlineStyle, e.className.baseVal ?? e.className])(document.activeElement)"
            )
        )
    assert reached[0][2] == "skip"
    assert {"A", "BUTTON"} <= {tag for tag, _, _ in reached}
    assert all(outline != "none" or "point" in kind for _, outline, kind in reached), reached


# Of the corpus: pages that once broke a rule or the width, and others of each kind.
DOCUMENTS = [
    "google/bird-vocalization-classifier/2/",
    "google/euphonia_spice/classification/1/",
    "google/lite-model/imagenet/mobilenet_v3_large_075_224/classification/5/metadata/1/",
    "google/",
    "",
]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The corpus of real documents, as tools/serve.py shows it."""
    folder = tmp_path_factory.mktemp("archive") / "site"
    document_archive.render(ROOT / "tests/documents/corpus/assets/docs", folder)
    server = Server(folder)
    yield server.url
    server.stop()


def test_real_documents_are_accessible_and_fit(visit, archive):
    page = visit(archive, width=360)
    for path in DOCUMENTS:
        page.goto(archive + path)
        assert axe(page) == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
    page.goto(archive + "search/")
    page.wait_for_selector("#search:not(.is-waiting):not([hidden])")
    assert page.locator("select[name=task] option", has_text="Text embedding").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_hostile_documents_do_nothing(visit, attacked):
    page = visit(attacked + "evil/")
    for name in hostile.BODIES:  # in one page, which is much faster; `visit` says what went wrong and for which address
        page.goto(f"{attacked}evil/{name}/1/")
        page.mouse.move(400, 500)
        page.wait_for_timeout(20)
        assert page.url == f"{attacked}evil/{name}/1/" and page.title().startswith(f"evil/{name}")
        assert page.locator("body > main h1").is_visible()


def test_an_archive_of_documents_can_be_searched(visit, attacked):
    page = visit(f"{attacked}search/?q=clobbering")
    page.wait_for_selector("#search:not(.is-waiting):not([hidden])")
    assert page.locator("#results a").all_inner_texts() == ["clobbering"]
    assert axe(page) == []
    page.click("#results a")
    assert page.url == f"{attacked}evil/clobbering/1/" and axe(page) == []


def test_an_exact_phrase_in_the_name_ranks_first(visit, archive):
    page = visit(archive + "search/")
    page.wait_for_selector("#search:not(.is-waiting):not([hidden])")
    documents = json.loads(page.request.get(archive + "index.json").text())["documents"]
    tried = [each["name"] for each in documents if each["newest"]][::7]
    for name in tried:
        page.fill("input[name=q]", re.sub(r"[-_./]+", " ", name).upper())
        assert page.locator("#results a").first.inner_text() == name
    assert len(tried) > 5
