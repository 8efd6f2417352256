"""The HTML pages and the index: every link resolves, nothing hostile survives, the same records give the same bytes."""

import itertools
import json
import posixpath
import re
import subprocess
import sys
import urllib.parse

import jinja2
import pytest

from tests.support import synthetic
from tests.support.html import Reader
from tests.support.synthetic import build
from tools.site import rendering

RECORDS = {record["handle"]: record for record in synthetic.records()}
PAGES = [
    *(f"{handle}/index.html" for handle in RECORDS),
    *(f"hubpress/collections/{name}/1/index.html" for name in ("convnext", "quickstart", "vit")),
    "hubpress/index.html",
    "index.html",
    "search/index.html",
    "find/index.html",
    "404.html",
]
ABOUT_THE_PROGRAM = ("benchmarks.html.j2", "_bars.svg.j2", "_bars_file.svg.j2")
SCRIPTS = (
    "static/site.js",
    "static/search.js",
    "static/plot.js",
    "static/tables.js",
    "static/find.js",
    "static/compare.js",
    "static/near.js",
)


@pytest.fixture(scope="module")
def readers(pages):
    return {path: Reader(page.data.decode("utf-8")) for path, page in pages.items() if path.endswith(".html")}


def served(pages, path):
    """The files of a hub: its pages, and the archives and records that publishing stored."""
    stored = {record["archive"]["path"] for record in RECORDS.values()} | {f"{handle}.json" for handle in RECORDS}
    return path in pages or path in stored


def test_paths_and_types(pages):
    documents = {f"{handle}.md" for handle in RECORDS} | {
        f"hubpress/collections/{name}/1.md" for name in ("convnext", "quickstart", "vit")
    }
    tables = {
        f"hubpress/collections/{name}/1/table.{form}"
        for name in ("convnext", "quickstart", "vit")
        for form in ("csv", "json")
    }
    rest = {"hubpress/hubpress.md", "index.json", "feed.xml", "sitemap.xml", *tables}
    rest |= {
        f"static/{name}"
        for name in (
            "style.css",
            "site.js",
            "search.js",
            "plot.js",
            "tables.js",
            "find.js",
            "near.js",
            "compare.js",
            "index.schema.json",
            "record.schema.json",
            "format.schema.json",
            "note.schema.json",
            "benchmarks.schema.json",
            "example.jpg",
        )
    }
    assert set(pages) == set(PAGES) | documents | rest
    types = {
        ".html": "text/html",
        ".md": "text/markdown",
        ".json": "application/json",
        ".css": "text/css",
        ".js": "text/javascript",
        ".csv": "text/csv",
        ".xml": "application/",
        ".jpg": "image/jpeg",
    }
    for path, page in pages.items():
        assert page.path == path
        assert page.content_type.startswith(types[posixpath.splitext(path)[1]])


@pytest.mark.parametrize("path", PAGES)
def test_page_is_well_formed_and_accessible(readers, path):
    reader = readers[path]
    assert reader.misnested == []
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids))
    assert reader.all("html") == [{"lang": "en"}]
    for landmark in ("header", "main", "footer", "title", "h1"):
        assert reader.all(landmark), landmark
    assert len(reader.all("h1")) == len(reader.all("main")) == 1
    levels = [int(tag[1]) for tag, _ in reader.elements if re.fullmatch("h[1-6]", tag)]
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))
    for navigation in reader.all("nav"):
        assert navigation["aria-label"]
    for tag, attributes in reader.elements:
        for key in ("aria-labelledby", "data-copy"):
            assert key not in attributes or attributes[key] in reader.ids, (tag, attributes)
        if tag == "button":
            assert attributes["aria-label"]
            # Until a script makes it work; the button of a form that another page answers works anyway.
            assert "hidden" in attributes or (path == "index.html" and "type" not in attributes)
        if attributes.get("tabindex") == "0":
            assert attributes["role"] == "region"
            assert attributes["aria-label"]


@pytest.mark.parametrize("path", PAGES)
def test_page_needs_nothing_that_the_content_security_policy_forbids(readers, path):
    reader = readers[path]
    assert reader.programs and all(program.endswith(SCRIPTS) for program in reader.programs)
    assert not reader.all("style")
    for tag, attributes in reader.elements:
        assert "style" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag
    for image in reader.all("img"):
        assert not image["src"].startswith("http")


@pytest.mark.parametrize("path", PAGES)
def test_every_link_inside_the_hub_resolves_and_is_relative(pages, readers, path):
    reader = readers[path]
    targets = [
        (tag, attributes[key])
        for tag, attributes in reader.elements
        for key in ("href", "src", "action", "data-index")
        if key in attributes
    ]
    for tag, target in targets:
        if target.startswith("data:"):
            continue
        if target.startswith(("http:", "https:")):
            canonical = tag == "link"
            assert canonical or not target.startswith(synthetic.BASE_URL), target
            continue
        if target.startswith("#"):
            assert target[1:] in reader.ids
            continue
        address, _, anchor = target.partition("#")
        address = address.partition("?")[0]
        if path == "404.html":
            # Shown at any address: its links begin at the hub's root.
            root = urllib.parse.urlsplit(synthetic.BASE_URL).path + "/"
            assert address.startswith(root), target
            resolved = address.removeprefix(root)
        else:
            assert not address.startswith("/"), target
            resolved = (
                posixpath.normpath(posixpath.join(posixpath.dirname(path), urllib.parse.unquote(address)))
                if address
                else path
            )
            resolved = "" if resolved == "." else resolved + ("/" if address.endswith("/") else "")
        if resolved == "" or resolved.endswith("/"):
            resolved += "index.html"
        assert served(pages, resolved), f"{target} leads to {resolved}"
        if anchor:
            assert anchor in readers[resolved].ids, target


@pytest.mark.parametrize("handle", RECORDS)
def test_module_page_shows_the_record(pages, readers, handle):
    record, reader = RECORDS[handle], readers[f"{handle}/index.html"]
    text = reader.text
    assert f"{synthetic.BASE_URL}/{handle}" in text
    for fact in (
        record["archive"]["sha256"],
        record["checkpoint"]["sha256"],
        record["preprocessing"]["transform"]["text"],
    ):
        assert fact in text
    for count in (record["measured"]["parameters"], record["archive"]["bytes"], record["checkpoint"]["bytes"]):
        assert f"{count:,}" in text
    licence = synthetic.TAGS["license"][record["row"]["licence"]]
    assert licence.display_name in text
    assert licence.url in [link.get("href") for link in reader.all("a")]
    assert ("does not permit commercial use" in text) == (record["row"]["licence"] == "cc-by-nc-4.0")
    top1 = record["measured"]["top1"]
    assert top1 is None or str(top1["value"]) in text
    reported = record["row"]["top1"] if record["head"] == "classifier" else None
    assert reported is None or f"Top-1 accuracy (%) {reported} " in text
    canonical = [link["href"] for link in reader.all("link") if link.get("rel") == "canonical"]
    assert canonical == [f"{synthetic.BASE_URL}/{handle}"]


@pytest.mark.parametrize("handle", RECORDS)
def test_module_page_has_the_code_of_the_document(pages, handle):
    page = pages[f"{handle}/index.html"].data.decode()
    shown = ["".join(Reader(block).words).rstrip("\n") for block in re.findall(r"<pre\b.*?</pre>", page, re.S)]
    document = pages[f"{handle}.md"].data.decode()
    written = [code.rstrip("\n") for code in re.findall(r"^```\w+\n(.*?)^```$", document, re.S | re.M)]
    assert shown == written


def test_withdrawn_and_older_versions_say_so(readers):
    name = "hubpress/convnext_tiny_1k_224"
    assert "withdrawn: its labels were in the wrong order" in readers[f"{name}/2/index.html"].text
    assert "A newer version of this module exists: version 10" in readers[f"{name}/1/index.html"].text
    assert "newer version" not in readers[f"{name}/10/index.html"].text


def test_home_lists_each_name_once_with_the_latest_first(readers):
    links = [a["href"] for a in readers["index.html"].all("a") if a.get("class") == "handle"]
    assert links[0] == "hubpress/convnext_tiny_1k_224/10/"
    assert sorted(links) == sorted(
        [
            f"{handle}/"
            for handle in RECORDS
            if handle not in ("hubpress/convnext_tiny_1k_224/1", "hubpress/convnext_tiny_1k_224/2")
        ]
    )


def test_an_empty_hub_has_a_home_and_no_dead_ends():
    empty = build([])
    assert {"index.html", "404.html", "index.json", "hubpress/hubpress.md"} <= set(empty)
    assert "Nothing is published here yet" in empty["index.html"].data.decode()
    assert json.loads(empty["index.json"].data)["modules"] == []


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\n# Module evil/evil/1 | --> {{ 7 * 7 }}"
TEXTS = [
    "row__title",
    "row__size",
    "row__data_text",
    "row__source_text",
    "row__paper__title",
    "row__paper__authors",
    "row__paper__venue",
    "preprocessing__transform__text",
    "preprocessing__normalization__text",
    "checkpoint__file",
    "checkpoint__url",
    "checkpoint__format",
    "versions__python",
    "measured__top1__split",
]


@pytest.mark.parametrize("path", TEXTS)
def test_hostile_text_in_a_record_stays_text(path):
    made = build(
        [synthetic.record("convnext_digits", **{path: HOSTILE})], yanked={"hubpress/convnext_digits/1": HOSTILE}
    )
    for page in made.values():
        if page.path.endswith(".html"):
            reader = Reader(page.data.decode())
            assert all(program.endswith(SCRIPTS) for program in reader.programs), page.path
            assert not reader.all("img")
            assert not re.search(r"\b49\b", reader.text)
    document = made["hubpress/convnext_digits/1.md"].data.decode()
    outside = re.sub(r"```.*?```", "", document, flags=re.S)
    assert "<script" not in outside
    assert len(re.findall(r"^# ", outside, re.M)) == 1


def test_hostile_prose_of_collections_and_publisher_is_cleaned():
    about = (
        f"{HOSTILE}\n\n[click](javascript:alert(1)) <a href='data:text/html,x' onclick='x()'>x</a> <style>*{{}}</style>"
    )
    collection = synthetic.collection("convnext", "Con<script>Next", data=("digits",))
    collection = type(collection)(**{**vars(collection), "about": about})
    publisher = type(synthetic.PUBLISHER)(**{**vars(synthetic.PUBLISHER), "about": about, "title": HOSTILE})
    for page in build([synthetic.record("convnext_digits")], collections=[collection], publisher=publisher).values():
        if page.path.endswith(".html"):
            reader = Reader(page.data.decode())
            assert all(program.endswith(SCRIPTS) for program in reader.programs), page.path
            assert not reader.all("style")
            for _, attributes in reader.elements:
                assert not [name for name in attributes if name.startswith("on")]
                assert not attributes.get("href", "").startswith(("javascript:", "data:text"))


def test_the_same_records_in_any_order_give_the_same_bytes(pages):
    again = build(
        reversed(synthetic.records()),
        collections=synthetic.COLLECTIONS[::-1],
        yanked=synthetic.YANKED,
        base_url=synthetic.BASE_URL + "/",
    )
    assert {path: page.data for path, page in again.items()} == {path: page.data for path, page in pages.items()}


def test_the_hash_seed_does_not_matter():
    program = (
        "import hashlib, sys; from tests.support import synthetic; from tests.support.synthetic import build\n"
        "pages = build(synthetic.records()); assert 'tensorflow' not in sys.modules\n"
        "print(hashlib.sha256(b''.join(pages[path].data for path in sorted(pages))).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=synthetic.ROOT,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_a_template_that_names_an_unknown_fact_fails(tmp_path):
    (tmp_path / "bad.j2").write_text("{{ module.nobody_measured_this }}")
    for escape in (True, False):
        template = rendering.environment(tmp_path, escape=escape).get_template("bad.j2")
        with pytest.raises(jinja2.UndefinedError, match="nobody_measured_this"):
            template.render(module={})


def test_templates_hold_no_facts():
    # A digest, a figure with a unit or a module's name in a template would be a fact that no record vouches for.
    for path in sorted(set(rendering.TEMPLATES.rglob("*.j2")) - set((rendering.TEMPLATES / "new").iterdir())):
        text = re.sub(r"\{#.*?#\}", "", path.read_text(encoding="utf-8"), flags=re.S)
        # The page of benchmarks is about this program; everywhere else its name would be a publisher's.
        text = text.replace("hubpress", "") if path.name in ABOUT_THE_PROGRAM else text
        assert not re.search(r"convnext|regnet|imagenet|[0-9a-f]{32}|\bvit_|hubpress", text, re.I), path


def test_index_says_what_programs_need(pages):
    index = json.loads(pages["index.json"].data)
    assert index["schema"] == 1
    assert index["url"] == synthetic.BASE_URL
    assert index["publisher"]["name"] == "hubpress"
    handles = [module["handle"] for module in index["modules"]]
    assert set(handles) == set(RECORDS)
    versions = [handle for handle in handles if handle.startswith("hubpress/convnext_tiny_1k_224/")]
    assert [handle.rpartition("/")[2] for handle in versions] == ["1", "2", "10"]
    for module in index["modules"]:
        record = RECORDS[module["handle"]]
        assert module["archive"] == {
            "url": record["archive"]["path"],
            "bytes": record["archive"]["bytes"],
            "sha256": record["archive"]["sha256"],
        }
        assert (module["parameters"], module["gflops"]) == (
            record["measured"]["parameters"],
            record["measured"]["gflops"],
        )
        assert module["measured_top1"] == (record["measured"]["top1"] or {}).get("value")
        assert module["reported_top1"] == (record["row"]["top1"] if record["head"] == "classifier" else None)
        assert module["license"] == record["row"]["licence"]
        assert module["page"] + "index.html" in pages
        assert module["yanked"] == synthetic.YANKED.get(module["handle"])
        assert module["sibling"] is None or module["sibling"] in RECORDS
    convnext = next(collection for collection in index["collections"] if collection["name"] == "convnext")
    assert convnext["handle"] == "hubpress/convnext/1"
    assert convnext["page"] == "hubpress/collections/convnext/1/"
    assert convnext["modules"] == [
        "hubpress/convnext_tiny_1k_224/10",
        "hubpress/convnext_tiny_1k_224_fe/1",
        "hubpress/nc.800mf-features/1",
    ]


def test_pages_load_no_tensorflow_and_link_nothing_foreign(pages):
    for path in ("static/style.css", "static/site.js", "static/search.js"):
        assert not re.search(r"https?://|@import|url\(", pages[path].data.decode())
