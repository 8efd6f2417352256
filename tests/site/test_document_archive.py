"""A tree of documents as a site: every link of the real ones resolves or is marked, nothing hostile survives, little is done twice."""

import html
import json
import os
import posixpath
import re
import urllib.parse
import xml.etree.ElementTree as ElementTree

import pytest
import requests

from tests.support import hostile
from tests.support.commands import ROOT, run_limited, run_script
from tests.support.html import Reader
from tools.documents import document as grammar
from tools.server import server
from tools.site import document_archive, sanitizing
from tools.site.jobs import PageError

CORPUS = ROOT / "tests/documents/corpus/assets/docs"
TEXT = "# Module {handle}\n\n{description}\n\n<!-- asset-path: internal -->\n<!-- task: image-classification -->\n<!-- fine-tunable: true -->\n<!-- format: hub -->\n\n## Overview\n\n{body}\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("library") / "site"
    report = document_archive.render(CORPUS, out)
    assert report.problems == []
    return out


@pytest.fixture(scope="module")
def readers(site):
    return {path.relative_to(site).as_posix(): Reader(path.read_text()) for path in site.rglob("*.html")}


def put(root, handle, *, description="Something.", body="Text."):
    publisher, name, version = handle.split("/")
    file = root / publisher / name / f"{version}.md"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(TEXT.format(handle=handle, description=description, body=body))
    return file


def page(out, handle):
    return (out / handle / "index.html").read_text()


def test_every_document_has_a_page_where_the_hub_had_it(site, readers):
    index = json.loads((site / "index.json").read_text())
    documents = [grammar.parse(path.read_text()) for path in CORPUS.rglob("*.md")]
    assert {d["handle"] for d in index["documents"]} == {d.handle for d in documents if d.kind != "Publisher"}
    assert len(index["documents"]) == sum(d.kind != "Publisher" for d in documents)
    for entry in index["documents"]:
        text = readers[entry["page"] + "index.html"].text
        assert entry["name"] in text and entry["description"][:40] in text
    assert "shoaib6174/collections/video_swin_transformer/1/index.html" in readers
    for publisher in {d.publisher for d in documents}:
        assert f"{publisher}/index.html" in readers


def test_no_link_inside_the_site_is_dead_and_none_leaves_it_by_itself(site, readers):
    checked = 0
    for path, reader in readers.items():
        assert reader.misnested == [] and reader.open == [] and len(reader.ids) == len(set(reader.ids)), path
        assert not reader.all("img") and not reader.all("style") and not reader.all("iframe")
        for tag, attributes in reader.elements:
            if attributes.get("rel") == "canonical":
                assert attributes["href"] == "https://tfhub.dev/" + path.removesuffix("index.html"), path
                continue
            for key in ("href", "src", "action", "data-index"):
                target = attributes.get(key, "")
                if (
                    not target
                    or target.startswith(("data:", "mailto:"))
                    or (tag == "a" and re.match("https?:", target))
                ):
                    assert not re.match(r"https?://(www\.)?tfhub\.dev", target), (path, target)
                    continue
                address, _, anchor = target.partition("#")
                if path == "404.html":
                    assert not address or address.startswith("/")
                    continue
                at = posixpath.normpath(posixpath.join(posixpath.dirname(path), urllib.parse.unquote(address)))
                at = path if not address else posixpath.join(at, "index.html") if address.endswith("/") else at
                assert (site / at).is_file(), (path, target)
                assert not anchor or anchor in readers[posixpath.normpath(at)].ids, (path, target)
                checked += 1
    assert checked > 500


def test_links_between_documents_lead_to_pages_and_others_are_marked(tmp_path):
    root, out = tmp_path / "docs", tmp_path / "out"
    links = "https://tfhub.dev/a/two/1 https://tfhub.dev/a/two https://tfhub.dev/a/two/9 https://tfhub.dev/b/else/1 https://tfhub.dev/a https://example.org/x http://tfhub.dev/a/two/1?tf-hub-format=compressed"
    put(root, "a/one/1", body="\n\n".join(f"[link{i}]({each})" for i, each in enumerate(links.split())))
    put(root, "a/two/1")
    put(root, "a/two/2")
    assert document_archive.render(root, out).problems == []
    text = page(out, "a/one/1")
    found = {text_: target for target, text_ in re.findall(r'<a href="([^"]*)"[^>]*>(link\d)</a>', text)}
    assert found == {
        "link0": "../../two/1/",
        "link1": "../../two/2/",
        "link4": "../../",
        "link5": "https://example.org/x",
        "link6": "../../two/1/",
    }
    assert re.findall(r'<span class="dead">(link\d)', text) == ["link2", "link3"]


def test_only_what_changed_is_made_again(tmp_path):
    root, out = tmp_path / "docs", tmp_path / "out"
    put(root, "a/one/1", body="[two](https://tfhub.dev/a/two)")
    two = put(root, "a/two/1")
    put(root, "a/three/1", body="> " * 200)
    first = document_archive.render(root, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.html")}
    again = document_archive.render(root, out)
    assert (again.written, again.kept) == (0, first.written)
    assert again.problems == first.problems and len(first.problems) == 1  # named, though it was not read again
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.html")} == before
    two.write_text(two.read_text().replace("Text.", "Another text."))
    assert document_archive.render(root, out).written == 2 and "Another text." in page(out, "a/two/1")
    put(root, "a/two/2")  # the page of version 1, the one that links it, and the lists
    report = document_archive.render(root, out)
    changed = {
        path.relative_to(out).as_posix()
        for path in out.rglob("index.html")
        if path.stat().st_mtime_ns != before.get(path)
    }
    assert changed == {
        "a/two/1/index.html",
        "a/two/2/index.html",
        "a/one/1/index.html",
        "a/index.html",
        "index.html",
        "search/index.html",
    }
    assert report.written == len(changed) + 3 and "../../two/2/" in page(out, "a/one/1")


def test_a_document_that_goes_takes_its_page_with_it_and_links_to_it_are_marked(tmp_path):
    root, out = tmp_path / "docs", tmp_path / "out"
    put(root, "a/one/1", body="[two](https://tfhub.dev/a/two/1)")
    two = put(root, "a/two/1")
    document_archive.render(root, out)
    two.unlink()
    assert document_archive.render(root, out).removed == 1
    assert not (out / "a/two").exists() and '<span class="dead">two' in page(out, "a/one/1")


@pytest.mark.parametrize("damage", ["page", "edited page", "cache", "cut", "template"])
def test_what_is_lost_is_made_again_to_the_byte(tmp_path, damage, monkeypatch):
    root, out = tmp_path / "docs", tmp_path / "out"
    put(root, "a/one/1")
    document_archive.render(root, out)
    before = {path: path.read_bytes() for path in out.rglob("*.html")}
    if damage == "page":
        (out / "a/one/1/index.html").unlink()
    elif damage == "edited page":
        (out / "a/one/1/index.html").write_text("mine")
    elif damage == "cache":
        (out / document_archive.CACHE).unlink()
    elif damage == "cut":
        (out / document_archive.CACHE).write_bytes((out / document_archive.CACHE).read_bytes()[:100])
    else:
        monkeypatch.setattr(document_archive, "renderer_key", lambda module: "changed")
    report = document_archive.render(root, out)
    assert report.written == (1 if damage in ("page", "edited page") else len(before) + 3)
    assert {path: path.read_bytes() for path in out.rglob("*.html")} == before
    assert not list(out.rglob("*.part"))


def test_several_processes_write_the_same_bytes(site, tmp_path):
    document_archive.render(CORPUS, tmp_path / "one", processes=1)
    for path in site.rglob("*.*"):
        if path.is_file() and path.name != document_archive.CACHE:
            assert (tmp_path / "one" / path.relative_to(site)).read_bytes() == path.read_bytes(), path


@pytest.mark.parametrize("case", ["inside", "around", "other files", "no folder", "no documents"])
def test_folders_that_are_refused(tmp_path, case):
    root, out = tmp_path / "docs", tmp_path / "out"
    put(root, "a/one/1")
    if case == "inside":
        out = root / "site"
    elif case == "around":
        out = tmp_path
    elif case == "other files":
        out.mkdir()
        (out / "precious").write_text("x")
    elif case == "no folder":
        root = tmp_path / "nothing"
    else:
        (root := tmp_path / "empty").mkdir()
    with pytest.raises(PageError, match=r"\. Fix: (choose|name) "):
        document_archive.render(root, out)
    assert case != "other files" or os.listdir(out) == ["precious"]


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """The site of all hostile documents, and the files that were refused."""
    folder = tmp_path_factory.mktemp("attacked")
    refused = hostile.write(folder / "docs")
    return folder / "site", document_archive.render(folder / "docs", folder / "site"), refused


def test_hostile_names_have_no_page_and_say_why(attacked):
    out, report, refused = attacked
    assert {problem.file for problem in report.problems if problem.is_error} == refused
    assert [problem.file for problem in report.problems if not problem.is_error] == ["evil/nested/1.md"]  # plain text
    assert all(problem.message and problem.fix and problem.line == 1 for problem in report.problems)
    assert {path.name for path in out.parent.iterdir()} == {"docs", "site"}
    made = {path.relative_to(out).as_posix() for path in out.rglob("index.html")}
    assert made == {"index.html", "evil/index.html", "search/index.html"} | {
        f"evil/{name}/1/index.html" for name in hostile.BODIES
    }


@pytest.mark.parametrize("name", hostile.BODIES)
def test_hostile_documents_become_harmless_pages(attacked, name):
    out, _, _ = attacked
    text = (out / "evil" / name / "1/index.html").read_text()
    reader = Reader(text)
    assert reader.misnested == [] and reader.open == [] and len(reader.ids) == len(set(reader.ids))
    assert reader.programs == ["../../../static/site.js"]
    forbidden = {
        "img",
        "style",
        "iframe",
        "object",
        "embed",
        "base",
        "video",
        "image",
        "template",
        "textarea",
        "math",
    }
    assert not forbidden & {tag for tag, _ in reader.elements}
    fields = [attributes for tag, attributes in reader.elements if tag in ("form", "input")]
    assert [each.get("class") or each["name"] for each in fields] == ["header-search", "q"]  # the page's own
    assert len(reader.all("main")) == len(reader.all("body")) == len(reader.all("h1")) == 1
    for tag, attributes in reader.elements:
        assert not [key for key in attributes if key.startswith(("on", "xlink", "srcset")) or key == "style"], (
            attributes
        )
        assert re.match(r"(https?://|\.\./|#|data:image/svg\+xml,%3Csvg xmlns|mailto:)", attributes.get("href", "#")), (
            attributes
        )
        if tag == "a" and attributes.get("href", "").startswith("http"):
            assert attributes["rel"] == "noopener nofollow"
    inside = text[text.index('<div class="column-main document">') : text.index('<aside class="column-side"')]
    assert all(each.startswith("doc-") for each in re.findall(r' id="([^"]*)"', inside))
    assert 'class="copy' not in inside and "\0" not in text and not re.search(r"\b49\b", reader.text)


@pytest.mark.slow
def test_heavy_documents_hold_nothing_up(tmp_path):
    """Each is named, and shown as it is written where it breaks a limit; the others, and the rest of the archive, are made."""
    docs, out = tmp_path / "docs", tmp_path / "out"
    place = docs / "heavy"
    place.mkdir(parents=True)
    for number, (body, _) in enumerate(hostile.HEAVY.values()):
        text = TEXT.format(handle=f"heavy/x/{number}", description="Heavy.", body=body)
        (place / f"{number}.md").write_text(text)
    long = {
        "long name": f"# Module heavy/{'x' * 300}/1\n\nA name too long for a folder.\n\n## x\n",
        "long path": f"# Module heavy/{'/'.join(['x' * 100] * 20)}/1\n\nA path too long.\n\n## x\n",
        "long publisher": f"# Module {'x' * 300}/x/1\n\nA publisher.\n\n## x\n",
    }
    for name, text in long.items():
        (place / f"{name}.md").write_text(text)
    (place / "tags.md").write_text(
        "# Module heavy/tags/1\n\nMany tags.\n\n" + "".join(f"<!-- task: image-{n} -->\n" for n in range(50_000))
    )
    for version in range(300):  # each page names the others: not all of them
        (place / f"v{version}.md").write_text(f"# Module heavy/versions/{version}\n\nOne of many.\n\n## x\n")
    os.mkfifo(place / "pipe.md")
    (place / "loop").symlink_to(".")
    (place / "zero.md").symlink_to("/dev/zero")
    put(docs, "a/one/1")
    done = run_limited("archive_docs", docs, "--out", out, seconds=120, memory=2 << 30)
    assert done.returncode == 1
    said = {line.partition(".md:")[0].partition("/")[2]: line for line in done.stderr.splitlines() if ".md:1: " in line}
    errors = {name for name, line in said.items() if ".md:1: error: " in line}
    assert errors == {*long, "pipe"}
    for number, (name, (body, limit)) in enumerate(hostile.HEAVY.items()):
        text = page(out, f"heavy/x/{number}")
        shown = text[text.index('<div class="column-main document">') : text.index("<aside")]
        is_plain = '<div class="column-main document"><pre tabindex="0"><code>## Overview\n\n' in text
        assert is_plain == (str(number) in said) == (limit is not None), name
        assert limit is None or limit in said[str(number)], name
        assert not is_plain or html.escape(body.strip(), quote=False) in html.escape(
            html.unescape(shown), quote=False
        ), name
    assert "Text." in page(out, "a/one/1") and (out / "heavy/tags/1/index.html").is_file()
    assert page(out, "heavy/versions/7").count('href="../') < 100


def test_headings_skip_no_level_and_can_be_linked():
    shown = sanitizing.safe("# A\n\n##### B b\n\n## A\n\n[x](#b-b) [y](#B-b) [z](#no)", lambda address: None)
    assert re.findall(r'<h(\d) id="([^"]*)">.*?</h(\d)>', shown) == [
        ("2", "doc-a", "2"),
        ("3", "doc-b-b", "3"),
        ("2", "doc-a-1", "2"),
    ]
    assert shown.count('<a href="#doc-b-b">') == 2 and "<span>z</span>" in shown


def test_values_of_vocabularies_have_their_names(site):
    index = json.loads((site / "index.json").read_text())
    used = {value for document in index["documents"] for value in document["task"]}
    assert used and set(index["names"]["task"]) <= used
    assert (
        index["names"]["task"]["text-embedding"] == "Text embedding" and index["names"]["language"]["en"] == "English"
    )
    named = next(d for d in index["documents"] if "text-embedding" in d["task"])
    text = (site / named["page"] / "index.html").read_text()
    assert '<li class="tag">Text embedding</li>' in text and '<li class="tag">text-embedding</li>' not in text


def test_code_is_coloured_by_classes_alone(tmp_path):
    code = (
        "```python\nimport x  # <b>\n```\n\n```unknown\nplain\n```\n\n<code class='copy'>y</code> <p class='copy'>z</p>"
    )
    put(tmp_path / "docs", "a/one/1", body=code)
    document_archive.render(tmp_path / "docs", tmp_path / "out")
    text = page(tmp_path / "out", "a/one/1")
    body = text[text.index('<div class="column-main document">') : text.index("<aside")]
    assert '<span class="kn">import</span>' in body and '<span class="c1"># &lt;b&gt;</span>' in body
    assert "<code>plain\n</code>" in body and "copy" not in body and "language-" not in body and "style=" not in body


def test_feed_and_sitemap_lead_to_pages(tmp_path):
    root, out = tmp_path / "docs", tmp_path / "out"
    old, new = put(root, "a/one/1", description="First."), put(root, "a/two/1", description="A \x1b<b> & more.")
    os.utime(old, (1_000_000_000, 1_000_000_000))
    os.utime(new, (1_600_000_000, 1_600_000_000))
    document_archive.render(root, out, address="https://archive.example.org/docs/")
    space = {"a": "http://www.w3.org/2005/Atom"}
    feed = ElementTree.parse(out / "feed.xml")
    assert [e.text for e in feed.findall("a:entry/a:id", space)] == [
        f"https://archive.example.org/docs/a/{name}/1/" for name in ("two", "one")
    ]
    assert [e.text for e in feed.iter("{http://www.w3.org/2005/Atom}updated")][:2] == ["2020-09-13T12:26:40Z"] * 2
    found = [
        e.text for e in ElementTree.parse(out / "sitemap.xml").iter("{http://www.sitemaps.org/schemas/sitemap/0.9}loc")
    ]
    pages = {each.removeprefix("https://archive.example.org/docs/") for each in found}
    assert pages == {"", "a/", "a/one/1/", "a/two/1/"} and all((out / each / "index.html").is_file() for each in pages)
    text = page(out, "a/one/1")
    assert '<link rel="canonical" href="https://archive.example.org/docs/a/one/1/">' in text
    assert '<meta property="og:url" content="https://archive.example.org/docs/a/one/1/">' in text
    assert 'href="/docs/static/style.css"' in (out / "404.html").read_text()  # shown at any depth


def test_what_says_nothing_is_no_heading():
    shown = sanitizing.safe("##\n\n## <!-- x -->\n\n| | b |\n|---|---|\n| 1 | 2 |\n", lambda address: None)
    assert "<h" not in shown and "<th></th>" not in shown and "<th>b</th>" in shown


def test_an_archive_is_served_as_a_hub_is(site):
    """Pages of documents have no records; the same server shows them, with the same headers, and nothing else of a folder."""
    with server.serve(site) as url:

        def get(path, **options):
            return requests.get(f"{url}/{path}", timeout=10, **options)

        index = json.loads((site / "index.json").read_text())
        for entry in index["documents"][::9]:
            answer = get(urllib.parse.quote(entry["page"]))
            assert answer.status_code == 200 and entry["name"] in html.unescape(answer.text)
            assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            again = get(urllib.parse.quote(entry["page"].rstrip("/")), allow_redirects=False)
            assert again.status_code == 302 and get(urllib.parse.quote(entry["page"].rstrip("/"))).url == answer.url
        for path in ("", "search/", "feed.xml", "google/"):
            assert get(path).status_code == 200, path
        handle = index["documents"][0]["handle"]
        for path in (
            f"{handle}?tf-hub-format=compressed",
            f"{handle}.tar.gz",
            "no/such/1/",
            document_archive.CACHE,
            "../docs",
        ):
            assert get(path).status_code == 404, path


def test_a_hub_serves_no_page_without_record(tmp_path):
    (tmp_path / "a/b/1").mkdir(parents=True)
    (tmp_path / "a/b/1/index.html").write_text("not published")
    (tmp_path / "index.json").write_text('{"schema": 1, "url": "\\"kind\\":\\"Documents\\"", "modules": []}')
    with server.serve(tmp_path) as url:
        assert requests.get(f"{url}/a/b/1/", timeout=10).status_code == 404


def test_the_command(tmp_path):
    put(tmp_path / "docs", "a/one/1")
    (tmp_path / "docs/a/bad.md").write_text("nothing")
    done = run_script("archive_docs", tmp_path / "docs", "--out", tmp_path / "out", check=False)
    assert done.returncode == 1 and "1 documents: 8 pages written" in done.stdout
    assert done.stderr.startswith("a/bad.md:1: error: ") and "Traceback" not in done.stderr
    for wrong in (["docs"], ["--out", "x"], ["docs", "--out", "x", "--hub", "y"], []):
        done = run_script("archive_docs", *wrong, check=False)
        assert done.returncode == 2 and "tools/archive_docs.py: error: " in done.stderr
