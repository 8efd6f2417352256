"""Parts of pages beside their text: plots, tables as data, the index's contract, feed, sitemap, data for search engines."""

import csv
import io
import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from tests.support import synthetic
from tests.support.schemas import INDEX_SCHEMA, violations
from tests.support.synthetic import build
from tools.site import gathering, plots, tables
from tools.site.published_module import crop_of


def test_the_index_follows_its_schema_and_the_schema_knows_every_key(pages):
    index = json.loads(pages["index.json"].data)
    assert violations(index, INDEX_SCHEMA) == []
    assert violations(json.loads(build([])["index.json"].data), INDEX_SCHEMA) == []
    for part, schema in (
        (index, INDEX_SCHEMA),
        (index["modules"][0], INDEX_SCHEMA["$defs"]["module"]),
        (index["collections"][0], INDEX_SCHEMA["$defs"]["collection"]),
    ):
        assert set(part) == set(schema["properties"]) == set(schema["required"])


BROKEN = [
    ("version", 0),
    ("version", "1"),
    ("head", "tail"),
    ("parameters", -1),
    ("reported_top1", 101),
    ("fine_tunable", 1),
    ("page", "x"),
    ("archive", {}),
    ("handle", "a"),
]


@pytest.mark.parametrize(("key", "value"), BROKEN)
def test_the_schema_refuses(pages, key, value):
    index = json.loads(pages["index.json"].data)
    index["modules"][0][key] = value
    assert violations(index, INDEX_SCHEMA)


def test_index_names_what_people_read_and_the_version_to_use(pages):
    index = json.loads(pages["index.json"].data)
    assert index["names"]["license"]["cc-by-nc-4.0"] == synthetic.TAGS["license"]["cc-by-nc-4.0"].display_name
    for module in index["modules"]:
        assert module["license"] in index["names"]["license"] and module["task"] in index["names"]["task"]
    newest = [m["handle"] for m in index["modules"] if m["newest"] and m["name"] == "convnext_tiny_1k_224"]
    assert newest == ["hubpress/convnext_tiny_1k_224/10"]


def sized(name, parameters, top1, measured=None, **changes):
    figures = {"row__parameters": parameters, "measured__parameters": parameters, "row__top1": top1}
    if measured is not None:
        changes["measured__top1"] = {
            "value": measured,
            "correct": 1,
            "images": 50000,
            "dataset": "imagenet-ilsvrc-2012-cls",
            "split": "validation",
            "date": "2026-11-20",
        }
    return synthetic.record(name, **synthetic.imagenet(name, **figures, **changes))


@pytest.fixture(scope="module")
def family():
    records = [
        sized("tiny", 28_000_000, 82.1, 82.0),
        sized("small", 50_000_000, 83.1),
        sized("worse", 88_000_000, 81.0, row__gflops=None, measured__gflops=None),
        sized("silent", 200_000_000, None),
    ]
    return gathering.gather(
        records,
        publisher=synthetic.PUBLISHER,
        collections=synthetic.COLLECTIONS,
        base_url=synthetic.BASE_URL,
        tags=synthetic.TAGS,
    )


def test_marks_say_who_measured_and_lie_in_order(family):
    members = list(family.modules.values())
    plot = plots.accuracy(members, "parameters")
    at = {mark.module.name: mark for mark in plot.marks}
    assert set(at) == {"tiny", "small", "worse"}
    assert at["tiny"].x < at["small"].x < at["worse"].x
    assert at["small"].reported < at["tiny"].reported < at["tiny"].measured == at["tiny"].y < at["worse"].reported
    assert at["small"].measured is None and at["small"].y == at["small"].reported
    for mark in plot.marks:
        assert plot.left <= mark.x <= plot.right and plot.top <= mark.y <= plot.bottom
    # The line joins what nothing smaller reaches: not the worse one.
    assert plot.lines == ((0, f"{at['tiny'].x},{at['tiny'].y} {at['small'].x},{at['small'].y}"),)
    assert plots.accuracy(members[:1], "parameters") is None


def test_colour_tells_what_differs_and_shape_the_resolution():
    def drawn(*rows):
        hub = gathering.gather(
            [sized(f"m{i}", 1_000_000 * (i + 1), 80.0 + i, **row) for i, row in enumerate(rows)],
            publisher=synthetic.PUBLISHER,
            collections=[],
            base_url=synthetic.BASE_URL,
            tags=synthetic.TAGS,
        )
        return plots.accuracy(hub.modules.values(), "parameters")

    recipes = drawn({"row__source_text": "old recipe"}, {"row__source_text": "new recipe"})
    assert recipes.series == ((0, "old recipe"), (1, "new recipe"))
    data = drawn(
        {"row__source_text": "a", "row__data_text": "on 1k"}, {"row__source_text": "b", "row__data_text": "on 21k"}
    )
    assert [name for _, name in data.series] == ["on 1k", "on 21k"]
    families = drawn({"row__title": "One"}, {"row__title": "Two"})
    assert [name for _, name in families.series] == ["One", "Two"]
    sizes = drawn(
        {"row__resolution": 384}, {"row__resolution": 224}, {"row__resolution": 512}, {"row__resolution": 600}
    )
    assert sizes.shapes == ((0, 224), (1, 384), (2, 512), (2, 600))
    assert [mark.shape for mark in sizes.marks] == [1, 0, 2, 2]


def test_marks_at_one_place_stand_side_by_side():
    hub = gathering.gather(
        [sized(f"m{i}", 5_000_000 if i else 50_000_000, 80.0 + i / 100, 80.0) for i in range(12)],
        publisher=synthetic.PUBLISHER,
        collections=[],
        base_url=synthetic.BASE_URL,
        tags=synthetic.TAGS,
    )
    marks = plots.accuracy(hub.modules.values(), "parameters").marks
    ends = [(mark.module.name, mark.x, y) for mark in marks for y in (mark.reported, mark.measured)]
    for name, x, y in ends:
        for other, at_x, at_y in ends:
            assert name == other or (x - at_x) ** 2 + (y - at_y) ** 2 >= plots.APART**2 - 0.1
    assert max(abs(m.x - marks[1].x) for m in marks[1:]) < 70


def test_ticks_lie_where_their_numbers_say(family):
    plot = plots.accuracy(family.modules.values(), "parameters")
    places = [y for y, _ in plot.ticks_y]
    numbers = [float(text) for _, text in plot.ticks_y]
    assert numbers == sorted(numbers) and places == sorted(places, reverse=True) and len(numbers) >= 3
    per_unit = (places[0] - places[-1]) / (numbers[-1] - numbers[0])
    mark = plot.marks[0]
    assert mark.y == pytest.approx(places[0] - (mark.module.top1 - numbers[0]) * per_unit, abs=0.2)
    assert [float(text) for _, text in plot.ticks_x] == [50]


def test_rows_and_points_link_each_other(family):
    collection = family.collections[0]
    page = build([m.record for m in family.modules.values()])[f"{collection.folder}/index.html"].data.decode()
    ids = set(re.findall(r'id="([^"]+)"', page))
    to_rows = re.findall(r'href="#(row-[^"]+)"', page)
    to_points = re.findall(r'class="to-plot" href="#([^"]+)"', page)
    assert set(to_rows) == {"row-tiny", "row-small", "row-worse"} and set(to_rows) <= ids
    assert set(to_points) == {"parameters-tiny", "parameters-small", "parameters-worse"} and set(to_points) <= ids
    assert page.count('class="stem"') == 1  # tiny has both figures; the GFLOPs of all are the same


def test_tables_as_data_say_what_the_page_says(pages):
    index = {m["handle"]: m for m in json.loads(pages["index.json"].data)["modules"]}
    for path in [path for path in pages if path.endswith("table.json")]:
        rows = json.loads(pages[path].data)
        text = pages[path.replace(".json", ".csv")].data.decode()
        written = list(csv.DictReader(io.StringIO(text, newline="")))
        assert "\r\n" in text and len(written) == len(rows) > 0
        for row, cells in zip(rows, written, strict=True):
            module = index[row["handle"]]
            for key in ("parameters", "gflops", "reported_top1", "measured_top1", "resolution"):
                assert row[key] == module[key]
                assert cells[key] == ("" if row[key] is None else str(row[key]))
            assert row["sha256"] == module["archive"]["sha256"] and cells["fine_tunable"] in ("true", "false")


def test_a_spreadsheet_runs_nothing():
    assert tables.as_csv([{"a": "=1+1", "b": -1.5, "c": "@x", "d": "a,b"}]) == "a,b,c,d\r\n'=1+1,-1.5,'@x,\"a,b\"\r\n"


def test_feed_is_atom_with_the_newest_first(pages):
    space = {"a": "http://www.w3.org/2005/Atom"}
    feed = ElementTree.fromstring(pages["feed.xml"].data)
    entries = feed.findall("a:entry", space)
    published = [entry.find("a:published", space).text for entry in entries]
    assert published == sorted(published, reverse=True) and len(entries) == len(synthetic.records())
    assert feed.find("a:updated", space).text == published[0]
    assert entries[0].find("a:id", space).text == f"{synthetic.BASE_URL}/hubpress/convnext_tiny_1k_224/10"
    withdrawn = [e.find("a:title", space).text for e in entries if "(withdrawn)" in e.find("a:title", space).text]
    assert withdrawn == ["convnext_tiny_1k_224, version 2 (withdrawn)"]
    assert ElementTree.fromstring(build([])["feed.xml"].data).find("a:entry", space) is None


def test_sitemap_lists_pages_that_exist(pages):
    addresses = [
        e.text
        for e in ElementTree.fromstring(pages["sitemap.xml"].data).iter(
            "{http://www.sitemaps.org/schemas/sitemap/0.9}loc"
        )
    ]
    found = {address.removeprefix(synthetic.BASE_URL + "/") + "index.html" for address in addresses}
    assert found == {path for path in pages if path.endswith("index.html")} - {"search/index.html"}


def test_data_for_search_engines_is_json_that_cannot_end_its_block():
    hostile = "</script><script>alert(1)</script>"
    made = build([synthetic.record("convnext_digits", row__paper__title=hostile)])
    page = made["hubpress/convnext_digits/1/index.html"].data.decode()
    blocks = re.findall(r'<script type="application/ld\+json">(.*?)</script>', page, re.S)
    assert len(blocks) == 1
    data = json.loads(blocks[0])
    assert data["citation"]["name"] == hostile and data["url"] == f"{synthetic.BASE_URL}/hubpress/convnext_digits/1"
    for key in ("title", "description", "url"):
        assert f'<meta property="og:{key}"' in page


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        ({"resize": "warp", "size": 224}, (0, 0, 451, 300)),
        ({"resize": "short_side", "size": 256}, (94.2, 18.8, 262.5, 262.5)),
    ],
)
def test_the_picture_shows_what_preprocessing_keeps(transform, expected):
    record = synthetic.record("convnext_digits", row__resolution=224)
    record["preprocessing"]["transform"] |= transform
    hub = gathering.gather(
        [record], publisher=synthetic.PUBLISHER, collections=[], base_url=synthetic.BASE_URL, tags=synthetic.TAGS
    )
    cut = crop_of(hub.modules["hubpress/convnext_digits/1"], 451, 300)
    assert (cut.x, cut.y, cut.width, cut.height) == expected
    page = build([record])["hubpress/convnext_digits/1/index.html"].data.decode()
    assert 'viewBox="{} {} {} {}" preserveAspectRatio="none"'.format(*expected) in page


def test_the_first_page_is_light_with_many_modules():
    import gzip

    records = [synthetic.record(f"convnext_{i}", **synthetic.imagenet("tiny")) for i in range(400)]
    made = build(records)
    first = ["index.html", "static/style.css", "static/site.js"]
    assert sum(len(gzip.compress(made[path].data)) for path in first) < 50_000
    links = set(re.findall(r'href="\.\./(hubpress/convnext_\d+/1/)"', made["search/index.html"].data.decode()))
    assert len(links) == 400  # every module can be reached without a script
