"""The configuration that `tools/serve.py --print-nginx` prints, in a real nginx, with the real client."""

import re
import shutil

import pytest
import requests

from tests.support import nginx
from tests.support.commands import run_script
from tests.support.hubs import HANDLES
from tests.support.programs import requires
from tools.hub.storage import IMMUTABLE, Storage, StorageError
from tools.server.nginx import configuration

HANDLE = HANDLES[0]
COMPRESSED = "?tf-hub-format=compressed"
NGINX = requires("nginx")


@pytest.fixture(scope="module")
def folder(published, tmp_path_factory):
    """A copy of the published hub, with an archive that has no record, a file that is being written, and links that lead out."""
    hub = tmp_path_factory.mktemp("nginx") / "hub"
    outside = hub.parent / "outside"
    outside.mkdir()
    (outside / "index.html").write_text("SECRET")
    shutil.copytree(published[0], hub)
    shutil.copy(hub / f"{HANDLE}.tar.gz", hub / f"{HANDLE[:-1]}2.tar.gz")
    (hub / ".hubpress-writing-1").write_text("SECRET")
    (hub / "folder").symlink_to(outside)
    (hub / "file.html").symlink_to(outside / "index.html")
    return hub


@pytest.fixture(scope="module")
def url(folder, tmp_path_factory):
    with nginx.running(NGINX, folder, tmp_path_factory.mktemp("conf")) as served:
        yield served


def get(url, **options):
    return requests.get(url, allow_redirects=False, timeout=20, **options)


def test_tensorflow_hub_loads_through_it(url, folder, consumer, any_url):
    addresses = [f"{base}/{HANDLE}{ending}" for base in (url, any_url) for ending in ("", ".tar.gz")]
    answers = consumer(*addresses)
    assert answers[0]["shape"] == [2, 10] and answers == [answers[0]] * 4


def test_everything_verifies_through_it(url):
    done = run_script("verify", url, "--all", "--no-replay")
    assert "6 verified, nothing wrong" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    "ending", [COMPRESSED, "/" + COMPRESSED, ".tar.gz", ".tar.gz" + COMPRESSED, "?a=1&tf-hub-format=compressed"]
)
def test_archives(url, folder, ending):
    answer = get(f"{url}/{HANDLE}{ending}", headers={"Accept-Encoding": "gzip"})
    assert answer.status_code == 200 and answer.content == (folder / f"{HANDLE}.tar.gz").read_bytes()
    assert answer.headers["content-type"] == "application/gzip" and "content-encoding" not in answer.headers
    assert answer.headers["cache-control"] == IMMUTABLE
    part = get(f"{url}/{HANDLE}{ending}", headers={"Range": "bytes=10-19"})
    assert part.status_code == 206 and part.content == answer.content[10:20]


@pytest.mark.parametrize(
    "path",
    [
        f"{HANDLE[:-1]}2{COMPRESSED}",  # an archive without a record
        f"{HANDLE[:-1]}2.tar.gz",
        f"{HANDLE[:-1]}3{COMPRESSED}",
        f"{HANDLE}?tf-hub-format=uncompressed",
        f"hubpress/collections/quickstart/1{COMPRESSED}",
        f"{HANDLE.rpartition('/')[0]}{COMPRESSED}",  # no version
        f"{HANDLE.rpartition('/')[0]}/{COMPRESSED}",
        f"hubpress{COMPRESSED}",
        COMPRESSED,
        "folder/",
        "folder/index.html",
        "file.html",
        "nothing",
        HANDLE.rpartition("/")[0] + "/",  # a folder without a page
        ".hubpress-writing-1",
        "%2ehubpress-writing-1",
        "..%2f..%2fetc/passwd",
    ],
)
def test_what_is_not_there(url, path):
    answer = get(f"{url}/{path}")
    assert answer.status_code in (404, 400) and "SECRET" not in answer.text
    assert "immutable" not in answer.headers.get("cache-control", "")
    assert answer.headers["x-content-type-options"] == "nosniff" or answer.status_code == 400


@pytest.mark.parametrize("query", ["lite-format=tflite", "tfjs-format=compressed", "a=1&coral-format", "tf-hub-format=zip", "tf-hub-format=uncompressed"])  # fmt: skip
@pytest.mark.parametrize("path", ["", HANDLE, f"{HANDLE}/", HANDLE.rpartition("/")[0], f"{HANDLE}/model.json"])
def test_a_format_that_is_not_there_is_no_page(url, path, query):
    answer = get(f"{url}/{path}?{query}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert re.fullmatch(r".+\. Fix: .+\.\n", answer.text)


def test_a_file_that_is_there_is_served_to_every_client(url):
    for path in ("static/style.css", f"{HANDLE}.md", f"{HANDLE}.tar.gz"):
        answer = get(f"{url}/{path}?tfjs-format=file")
        assert answer.status_code == 200 and answer.content == get(f"{url}/{path}").content


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("", "text/html; charset=utf-8"),
        (f"{HANDLE}/", "text/html; charset=utf-8"),
        (f"{HANDLE}.md", "text/markdown; charset=utf-8"),
        (f"{HANDLE}.json", "application/json"),
        ("index.json", "application/json"),
        ("feed.xml", "application/xml"),
        ("static/style.css", "text/css; charset=utf-8"),
        ("static/site.js", "text/javascript; charset=utf-8"),
    ],
)
def test_pages_are_as_our_server_has_them(url, any_url, path, media_type):
    ours, theirs = get(f"{any_url}/{path}"), get(f"{url}/{path}")
    assert theirs.status_code == ours.status_code == 200 and theirs.content == ours.content
    assert theirs.headers["content-type"] == ours.headers["content-type"] == media_type
    assert theirs.headers.get("content-encoding") == ours.headers.get("content-encoding")
    for name in ("cache-control", "content-security-policy", "x-content-type-options", "referrer-policy"):
        assert theirs.headers[name] == ours.headers[name]


def test_a_handle_leads_to_its_page(url):
    answer = get(f"{url}/{HANDLE}")
    assert answer.status_code == 301 and answer.headers["location"] == f"/{HANDLE}/"


@pytest.mark.parametrize("address", ["memory://hub", "/srv/a b", "/srv/$hub"])
def test_what_nginx_cannot_serve(address):
    with pytest.raises(StorageError, match="nginx"):
        configuration(Storage(address), listen="80")
