"""The server: one URL for code and browser, archives by range and sendfile, and nothing outside the hub."""

import asyncio
import contextlib
import gzip
import hashlib
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import uuid
import zlib

import pytest
import requests

from tests.support.commands import start_script
from tools.archive.packing import pack
from tools.common.files import ROOT
from tools.hub.storage import Storage, StorageError
from tools.server import conditions, sending
from tools.server import server as server_module
from tools.server.application import application
from tools.server.server import serve

PAGE = b"<!doctype html><title>Page</title>" + b"<p>words</p>" * 200
INDEX = json.dumps({"url": "http://elsewhere.example", "modules": [{"handle": f"p/m/{n}"} for n in range(99)]}).encode()
ARCHIVE = b"\x1f\x8b" + random.Random(0).randbytes(3_000_000)
DIGEST = hashlib.sha256(ARCHIVE).hexdigest()
COMPRESSED = "?tf-hub-format=compressed"


def record(data: bytes = ARCHIVE) -> bytes:
    return json.dumps(
        {"kind": "Module", "archive": {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}}
    ).encode()


def fill(storage: Storage) -> Storage:
    files = {
        "index.html": PAGE,
        "index.json": INDEX,
        "404.html": b"<!doctype html><p>Nothing here",
        "static/site.css": b"p { color: red } " * 99,
        "static/module/1.json": b"{}",
        "static/picture.png": bytes(range(256)) * 8,
        "p/index.html": PAGE,
        "p/p.md": b"# Publisher p\n",
        "p/collections/all/1.md": b"# Collection p/all/1\n",
        "p/collections/all/1/index.html": PAGE,
        # published twice, the third version is still without a record
        "p/name/1.tar.gz": ARCHIVE,
        "p/name/1.json": record(),
        "p/name/1.md": b"# Module p/name/1\n" * 60,
        "p/name/1/index.html": PAGE,
        "p/name/10.tar.gz": ARCHIVE[:1000],
        "p/name/10.json": record(ARCHIVE[:1000]),
        "p/name/10/index.html": PAGE,
        "p/name/11.tar.gz": ARCHIVE,
        "p/name/11.md": b"# Module p/name/11\n",
        "p/name/11/index.html": PAGE,
        # a name of several segments, one of them a number
        "p/family/50/large/2.tar.gz": ARCHIVE,
        "p/family/50/large/2.json": record(),
        "p/family/50/large/2.md": b"# Module p/family/50/large/2\n",
        # published, but something is wrong
        "p/gone/1.json": record(),
        "p/short/1.json": record(),
        "p/short/1.tar.gz": ARCHIVE[:-1],
        "p/nonsense/1.json": b"no json",
        "p/nonsense/1.tar.gz": ARCHIVE,
    }
    for path, content in files.items():
        storage.create(path, content)
    return storage


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fill(Storage(tmp_path_factory.mktemp("server") / "hub"))


@pytest.fixture(scope="module")
def hub(folder):
    """The base URL of a folder hub."""
    with serve(folder) as url:
        yield url


@pytest.fixture(scope="module", params=["folder", "memory"])
def any_hub(request, folder):
    """The base URL of a hub of each way of sending: sendfile, and pieces."""
    storage = folder if request.param == "folder" else fill(Storage(f"memory://{uuid.uuid4().hex}"))
    with serve(storage) as url:
        yield url


def get(url: str, **options) -> requests.Response:
    return requests.get(url, allow_redirects=False, timeout=20, **options)


def raw(url: str, data: bytes, *, shut: bool = False) -> bytes:
    """Return what comes back when exactly these bytes are sent, and, with `shut`, the end of what is sent is told."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(data)
            if shut:
                connection.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(1 << 16):
                answer += piece
        return answer


# Archives


@pytest.mark.parametrize("address", ["p/name/1" + COMPRESSED, "p/name/1/" + COMPRESSED, "p/name/1.tar.gz"])
def test_the_archive(any_hub, address):
    answer = get(f"{any_hub}/{address}")
    assert answer.status_code == 200
    assert answer.content == ARCHIVE
    assert answer.headers["content-type"] == "application/gzip"
    assert "content-encoding" not in answer.headers
    assert answer.headers["content-length"] == str(len(ARCHIVE))
    assert answer.headers["content-disposition"] == 'attachment; filename="name_1.tar.gz"'
    assert answer.headers["etag"] == f'"{DIGEST}"'
    assert answer.headers["accept-ranges"] == "bytes"
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["access-control-allow-origin"] == "*"
    # What tensorflow_hub asks for when the handle is the archive's own URL:
    assert get(f"{any_hub}/p/name/1.tar.gz{COMPRESSED}").content == ARCHIVE


def test_a_name_of_several_segments(any_hub):
    answer = get(f"{any_hub}/p/family/50/large/2{COMPRESSED}")
    assert answer.content == ARCHIVE
    assert answer.headers["content-disposition"] == 'attachment; filename="family_50_large_2.tar.gz"'
    assert get(f"{any_hub}/p/family/50/large{COMPRESSED}").headers["location"] == f"./large/2{COMPRESSED}"
    assert get(f"{any_hub}/p/family/50/large/2.md").status_code == 200


@pytest.mark.parametrize("path", ["p/name/1" + COMPRESSED, "p/name/1.tar.gz", "p/name/1/", "index.json", "nothing", ""])
def test_head_is_get_without_the_body(any_hub, path):
    options = {"headers": {"Accept-Encoding": "identity"}, "timeout": 20, "allow_redirects": False}
    head = requests.head(f"{any_hub}/{path}", **options)
    full = requests.get(f"{any_hub}/{path}", **options)
    assert head.content == b""
    assert head.status_code == full.status_code
    assert {**head.headers, "date": ""} == {**full.headers, "date": ""}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("bytes=0-0", (0, 0)),
        ("bytes=100-199", (100, 199)),
        ("bytes=2999000-", (2999000, len(ARCHIVE) - 1)),
        ("bytes=-5", (len(ARCHIVE) - 5, len(ARCHIVE) - 1)),
        ("bytes=-99999999", (0, len(ARCHIVE) - 1)),
        ("bytes=0-99999999", (0, len(ARCHIVE) - 1)),
        ("Bytes = 5 - 6", (5, 6)),
    ],
)
def test_a_range(any_hub, wanted, expected):
    answer = get(f"{any_hub}/p/name/1.tar.gz", headers={"Range": wanted})
    first, last = expected
    assert answer.status_code == 206
    assert answer.content == ARCHIVE[first : last + 1]
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(ARCHIVE)}"
    assert answer.headers["content-length"] == str(last - first + 1)


@pytest.mark.parametrize("wanted", ["bytes=99999999-", "bytes=-0", f"bytes={len(ARCHIVE)}-"])
def test_a_range_that_is_not_there(any_hub, wanted):
    answer = get(f"{any_hub}/p/name/1.tar.gz", headers={"Range": wanted})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(ARCHIVE)}"
    assert answer.content == b""


@pytest.mark.parametrize("wanted", ["bytes=0-1,5-6", "bytes=6-5", "lines=1-2", "bytes=", "bytes=-", "bytes=a-b", "x"])
def test_a_range_that_is_ignored(any_hub, wanted):
    answer = get(f"{any_hub}/p/name/1.tar.gz", headers={"Range": wanted})
    assert answer.status_code == 200
    assert answer.content == ARCHIVE


@pytest.mark.parametrize(
    ("condition", "status"),
    [(f'"{DIGEST}"', 206), ('"other"', 200), (f'W/"{DIGEST}"', 200), ("Fri, 20 Nov 2026 10:00:00 GMT", 200)],
)
def test_if_range(any_hub, condition, status):
    answer = get(f"{any_hub}/p/name/1.tar.gz", headers={"Range": "bytes=1-2", "If-Range": condition})
    assert answer.status_code == status


@pytest.mark.parametrize("path", ["p/name/1.tar.gz", "p/name/1/", "index.json", "static/picture.png"])
def test_what_the_client_has_is_not_sent_again(any_hub, path):
    first = get(f"{any_hub}/{path}")
    tag = first.headers["etag"]
    for condition in (tag, f'"other", {tag}', "*", f"W/{tag.removeprefix('W/')}"):
        answer = get(f"{any_hub}/{path}", headers={"If-None-Match": condition, "Range": "bytes=0-1"})
        assert answer.status_code == 304
        assert answer.content == b""
        assert answer.headers["etag"] == tag
        assert answer.headers["cache-control"] == first.headers["cache-control"]
    assert get(f"{any_hub}/{path}", headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize("path", ["p/name/11", "p/name/12", "p/nobody/1", "q/name/1", "p/name/01"])
@pytest.mark.parametrize(
    "ending", [COMPRESSED, ".tar.gz", ".json", ".md", "", "/", "/index.html", "?tf-hub-format=uncompressed"]
)
def test_without_a_record_there_is_nothing(any_hub, path, ending):
    assert get(f"{any_hub}/{path}{ending}").status_code == 404


def test_words_for_code_and_a_page_for_people(hub):
    code = get(f"{hub}/p/name/11{COMPRESSED}")
    assert code.headers["content-type"].startswith("text/plain")
    assert code.text == "p/name/11 is not published in this hub. Fix: check publisher, name and version.\n"
    assert get(f"{hub}/p/name/11").text == "<!doctype html><p>Nothing here"


def test_publication_is_seen_at_once(tmp_path):
    storage = Storage(tmp_path)
    storage.create("p/name/1.tar.gz", ARCHIVE)
    with serve(storage) as url:
        assert get(f"{url}/p/name/1{COMPRESSED}").status_code == 404
        assert get(f"{url}/nothing").text == "Not found.\n"
        storage.create("p/name/1.json", record())
        assert get(f"{url}/p/name/1{COMPRESSED}").status_code == 200
        storage.create("p/name/2.json", record(b"x"))
        assert get(f"{url}/p/name{COMPRESSED}").headers["location"] == f"./name/2{COMPRESSED}"


@pytest.mark.parametrize(
    ("module", "status", "words"),
    [("gone", 500, "its archive is gone"), ("short", 500, "damaged"), ("nonsense", 503, "storage does not answer")],
)
def test_a_damaged_hub_says_so(any_hub, module, status, words):
    answer = get(f"{any_hub}/p/{module}/1{COMPRESSED}")
    assert answer.status_code == status
    assert words in answer.text
    assert str(ROOT) not in answer.text


def test_other_formats(any_hub):
    answer = get(f"{any_hub}/p/name/1?tf-hub-format=uncompressed")
    assert answer.status_code == 404
    assert "unset TFHUB_MODEL_LOAD_FORMAT" in answer.text
    assert get(f"{any_hub}/p/name/1?tf-hub-format=zip").status_code == 404


@pytest.mark.parametrize("query", ["lite-format=tflite", "tfjs-format=file", "tfjs-format=compressed", "coral-format", "a=1&tfjs-format=", "tf-hub-format=zip"])  # fmt: skip
@pytest.mark.parametrize("path", ["", "p/name/1", "p/name/1/", "p/name", "p", "p/name/1/index.html", "p/name/11", "p/collections/all/1", "p/lite-model/name/1", "p/name/1/model.json"])  # fmt: skip
def test_a_format_that_is_not_there_is_no_page(any_hub, path, query):
    answer = get(f"{any_hub}/{path}?{query}")
    if answer.status_code == 302:  # p/name: the newest version's turn
        answer = get(f"{any_hub}/p/name/{answer.headers['location'].removeprefix('./name/')}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert re.fullmatch(r".+\. Fix: .+\.\n", answer.text)


def test_a_file_that_is_there_is_served_to_every_client(any_hub):
    for path in ("static/picture.png", "p/name/1.md", "p/name/1.tar.gz"):  # TensorFlow.js asks so for each of its files
        answer = get(f"{any_hub}/{path}?tfjs-format=file")
        assert answer.status_code == 200 and answer.content == get(f"{any_hub}/{path}").content


def test_an_unpacked_module_in_a_bucket(bucket):
    bucket.create("p/name/1.json", record())
    bucket.create("p/other/1.json", record())
    bucket.create("p/name/1/saved_model.pb", b"graph")
    bucket.create("p/name/1.tar.gz", ARCHIVE)
    with serve(bucket) as url:
        answer = get(f"{url}/p/name/1?tf-hub-format=uncompressed")
        assert answer.status_code == 303
        assert answer.text == f"{bucket.url}/p/name/1"
        assert get(f"{url}/p/other/1?tf-hub-format=uncompressed").status_code == 404
        assert get(f"{url}/p/name/1{COMPRESSED}").content == ARCHIVE  # and a bucket's archive is sent
        assert (
            get(f"{url}/p/name/1.tar.gz", headers={"Range": "bytes=2000000-2000099"}).content
            == ARCHIVE[2000000:2000100]
        )


# Pages


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("p/name/1", "./1/"),
        ("p/name", "./name/10/"),
        ("p/name/", "./10/"),
        ("p/name" + COMPRESSED, "./name/10" + COMPRESSED),
        ("p/name/" + COMPRESSED, "./10" + COMPRESSED),
        ("p/name?tf-hub-format=compressed&x=%22y", "./name/10?tf-hub-format=compressed&x=%22y"),
        ("p/collections/all", "./all/1/"),
        ("p/collections/all/1", "./1/"),
        ("p", "./p/"),
    ],
)
def test_redirects_are_relative(any_hub, path, location):
    answer = get(f"{any_hub}/{path}")
    assert answer.status_code == 302
    assert answer.headers["location"] == location
    followed = requests.get(f"{any_hub}/{path}", timeout=20)
    assert followed.status_code == 200
    assert followed.url.startswith(f"{any_hub}/p/")


@pytest.mark.parametrize("path", ["", "p/", "p/name/1/", "p/name/1/index.html", "p/collections/all/1/"])
def test_pages(any_hub, path):
    answer = get(f"{any_hub}/{path}")
    assert answer.status_code == 200
    assert answer.content == PAGE
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "referrer-policy" in answer.headers


@pytest.mark.parametrize("path", ["", "nothing", "p/name/1" + COMPRESSED, "index.json", "p/name", "%2e%2e"])
def test_every_answer_is_protected(any_hub, path):
    answer = get(f"{any_hub}/{path}")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_the_document(any_hub):
    plain = get(f"{any_hub}/p/name/1.md")
    assert plain.headers["content-type"] == "text/markdown; charset=utf-8"
    negotiated = get(f"{any_hub}/p/name/1", headers={"Accept": "text/markdown"})
    assert negotiated.status_code == 200
    assert negotiated.content == plain.content == b"# Module p/name/1\n" * 60
    assert negotiated.headers["vary"] == "Accept, Accept-Encoding"
    browser = get(f"{any_hub}/p/name/1", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert browser.status_code == 302
    assert browser.headers["vary"] == "Accept"


def test_a_module_whose_page_is_not_made_yet(any_hub):
    answer = get(f"{any_hub}/p/family/50/large/2")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text.startswith("# Module p/family/50/large/2")


@pytest.mark.parametrize("path", ["index.json", "p/name/1.json", "p/name/1.md"])
def test_what_scripts_of_others_may_read(any_hub, path):
    assert get(f"{any_hub}/{path}").headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("path", ["", "index.json", "static/site.css", "p/name/1.md"])
def test_text_is_compressed_for_those_who_take_it(any_hub, path):
    headers = {"Accept-Encoding": "br, gzip;q=0.5"}
    with requests.get(f"{any_hub}/{path}", headers=headers, stream=True, timeout=20) as answer:
        body = answer.raw.read(decode_content=False)
    plain = get(f"{any_hub}/{path}", headers={"Accept-Encoding": "gzip;q=0, identity"})
    assert answer.headers["content-encoding"] == "gzip"
    assert "Accept-Encoding" in answer.headers["vary"]
    assert answer.headers["content-length"] == str(len(body))
    assert "content-encoding" not in plain.headers
    assert gzip.decompress(body) == plain.content
    assert answer.headers["etag"] == plain.headers["etag"]
    assert answer.headers["etag"].startswith("W/")


@pytest.mark.parametrize("path", ["p/name/1.tar.gz", "static/picture.png"])
def test_what_is_compressed_already_is_not_compressed_again(any_hub, path):
    assert "content-encoding" not in get(f"{any_hub}/{path}", headers={"Accept-Encoding": "gzip"}).headers


def test_a_changed_page_is_seen(tmp_path):
    storage = Storage(tmp_path)
    storage.replace("index.html", b"<p>old")
    with serve(storage) as url:
        first = get(url)
        storage.replace("index.html", b"<p>new")
        second = get(url, headers={"If-None-Match": first.headers["etag"]})
        assert second.status_code == 200
        assert second.content == b"<p>new"


def test_static_files_need_no_record(any_hub):
    assert get(f"{any_hub}/static/module/1.json").content == b"{}"


# Methods and protocol


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"])
def test_a_hub_is_read_only(hub, method):
    answer = requests.request(method, f"{hub}/p/name/1.json", data=b"x", timeout=20)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS"


def test_preflight(hub):
    answer = requests.options(f"{hub}/index.json", timeout=20)
    assert answer.status_code == 204
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "Range" in answer.headers["access-control-allow-headers"]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A hub with everything around and in it that must stay where it is."""
    base = tmp_path_factory.mktemp("guarded")
    storage = fill(Storage(base / "hub"))
    (base / "secret").write_bytes(b"SECRET")
    (base / "hub-other").mkdir()
    (base / "hub-other/x").write_bytes(b"SECRET")
    hub = base / "hub"
    (hub / ".hidden").write_bytes(b"SECRET")
    (hub / ".hubpress-writing-1").write_bytes(b"SECRET")
    (hub / "p/.git").mkdir()
    (hub / "p/.git/config").write_bytes(b"SECRET")
    (hub / "link").symlink_to(base / "secret")
    (hub / "p/folder").symlink_to(base)
    (hub / "p/name/7.json").symlink_to(hub / "p/name/1.json")
    (hub / "p/name/7.tar.gz").symlink_to(base / "secret")
    os.mkfifo(hub / "pipe")
    with serve(storage) as url:
        yield url


TRICKS = [
    b"/../secret",
    b"/../../../../../../etc/passwd",
    b"/p/../../secret",
    b"/p/./../../secret",
    b"/%2e%2e/secret",
    b"/%2E%2E/secret",
    b"/.%2e/secret",
    b"/%2e%2e%2fsecret",
    b"/..%2fsecret",
    b"/..%5csecret",
    b"/..\\secret",
    b"/p/..;/secret",
    b"/%252e%252e/secret",
    b"/%c0%ae%c0%ae/secret",
    b"/%ff%fe",
    b"/link",
    b"/link%00.html",
    b"/%00",
    b"/p/folder/secret",
    b"/p/folder/",
    b"/p/folder",
    b"/p/name/7" + COMPRESSED.encode(),
    b"/p/name/7.tar.gz",
    b"/.hidden",
    b"/%2ehidden",
    b"/.hubpress-writing-1",
    b"/p/.git/config",
    b"/pipe",
    b"//etc/passwd",
    b"///etc/passwd",
    b"/p//name",
    b"/p/name//",
    b"//",
    b"/file:///etc/passwd",
    b"file:///etc/passwd",
    b"http://elsewhere.example/secret",
    b"../secret",
    b"/hub-other/x",
    b"/../hub-other/x",
    b"/" + b"a/" * 3000,
    b"/" + b"a" * 5000,
    b"/../secret" + COMPRESSED.encode(),
    b"/p/../../secret" + COMPRESSED.encode(),
    b"/p/name/1/../../../../secret",
    b"/p/name/1%0d%0aX-Evil:%201",
    b"/p/name/1\x80",
    b"/p/name/1?tf-hub-format=%00",
    b"/nothing?" + b"&".join(b"a=1" for _ in range(1000)),
    "/p/\u00e4".encode(),
]


@pytest.mark.parametrize("target", TRICKS, ids=[ascii(trick[:40])[2:-1] for trick in TRICKS])
def test_path_tricks(guarded, target):
    answer = raw(guarded, b"GET " + target + b" HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n")
    assert b"SECRET" not in answer
    assert b"root:" not in answer
    assert b"X-Evil" not in answer.partition(b"\r\n\r\n")[0]
    # Version 7 has a record, and an archive that is a link out of the hub: the owner's mistake, not the client's.
    assert answer.startswith(b"HTTP/1.1 500" if b"name/7" in target else b"HTTP/1.1 4")
    assert get(f"{guarded}/p/name/1{COMPRESSED}").content == ARCHIVE  # and the server lives on


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: x\r\n" * 50_000 + b"\r\n",
        b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # a TLS greeting
        bytes(range(256)) * 100,
    ],
    ids=range(13),
)
def test_broken_requests(hub, data):
    answer = raw(hub, data, shut=True)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 414 ", b"HTTP/1.1 431 "))
    assert get(f"{hub}/p/name/1{COMPRESSED}").content == ARCHIVE


def test_cut_connections(any_hub):
    host, port = any_hub.removeprefix("http://").split(":")
    for size in (0, 1, 10_000, 1_000_000):
        for _ in range(3):
            with socket.create_connection((host, int(port)), timeout=20) as connection:
                connection.sendall(f"GET /p/name/1{COMPRESSED} HTTP/1.1\r\nHost: hub\r\n\r\n".encode())
                received = 0
                while received < size:
                    received += len(connection.recv(1 << 16))
                # A reset, not an orderly end: the server learns of it in the middle of sending.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert get(f"{any_hub}/p/name/1{COMPRESSED}").content == ARCHIVE


def test_many_requests_on_one_connection(any_hub):
    """Keep-alive and pipelining: what sendfile sent is counted, so the next answer begins where it should."""
    ask = "GET {} HTTP/1.1\r\nHost: hub\r\n{}\r\n"
    targets = [f"/p/name/1{COMPRESSED}", "/index.json", "/p/name/1.tar.gz", "/nothing", f"/p/name/10{COMPRESSED}"]
    data = "".join(ask.format(target, "") for target in targets) + ask.format("/p/name/1", "Connection: close\r\n")
    answer = raw(any_hub, data.encode())
    for status, body in [(200, ARCHIVE), (200, INDEX), (200, ARCHIVE), (404, None), (200, ARCHIVE[:1000]), (302, None)]:
        head, _, answer = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        assert body is None or answer[:length] == body
        answer = answer[length:]
    assert answer == b""
    with requests.Session() as session:
        for _ in range(5):
            assert session.get(f"{any_hub}/p/name/1{COMPRESSED}", timeout=20).content == ARCHIVE


def test_http_1_0(any_hub):
    answer = raw(any_hub, b"GET /p/name/1.tar.gz HTTP/1.0\r\n\r\n")
    assert answer.partition(b"\r\n\r\n")[2] == ARCHIVE


def test_many_clients_at_once(any_hub):
    results = []

    def load() -> None:
        results.append(get(f"{any_hub}/p/name/1{COMPRESSED}").content == ARCHIVE)

    threads = [threading.Thread(target=load) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 16


def test_a_slow_client_holds_nobody(any_hub):
    host, port = any_hub.removeprefix("http://").split(":")
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(f"GET /p/name/1{COMPRESSED} HTTP/1.1\r\nHost: hub\r\n\r\n".encode())
        assert get(f"{any_hub}/p/name/1{COMPRESSED}").content == ARCHIVE


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_a_client_that_does_not_read_does_not_hold_a_server_that_stops(tmp_path, monkeypatch, caplog, kind):
    monkeypatch.setattr(server_module, "GRACE_SECONDS", 0.2)
    storage = Storage(tmp_path) if kind == "folder" else Storage(f"memory://{uuid.uuid4().hex}")
    archive = bytes(20_000_000)  # more than the sockets' buffers take
    storage.create("p/name/1.tar.gz", archive)
    storage.create("p/name/1.json", record(archive))
    with socket.socket() as connection:
        with serve(storage) as url:
            host, port = url.removeprefix("http://").split(":")
            connection.connect((host, int(port)))
            connection.sendall(b"GET /p/name/1.tar.gz HTTP/1.1\r\nHost: hub\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        with pytest.raises(requests.ConnectionError):
            get(url)
    assert "Exception" not in caplog.text


def test_answers_do_not_wait_for_acknowledgements():
    """Nagle's algorithm would hold back the body behind its headers, some 40 ms, on every connection that is used again."""
    options = []

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport):
            options.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            transport.close()

    async def accept(listener):
        server = await asyncio.get_running_loop().create_server(Protocol, sock=listener)
        reader, writer = await asyncio.open_connection(*listener.getsockname()[:2])
        await reader.read()
        writer.close()
        server.close()

    for host in ("127.0.0.1", "::1") if socket.has_ipv6 else ("127.0.0.1",):
        with contextlib.suppress(StorageError):  # a machine may have no such address
            listener, _ = server_module.listen(host)
            with listener:
                asyncio.run(accept(listener))
    assert options and all(options)


def test_archives_of_a_folder_go_through_sendfile(folder, monkeypatch):
    """The zero-copy way is the one that is used: it would be slow, and nothing else would tell."""
    sent = []
    original = sending.SendfileProtocol._sendfile

    async def record_and_send(self, cycle, file, offset, count):
        sent.append((offset, count))
        return await original(self, cycle, file, offset, count)

    monkeypatch.setattr(sending.SendfileProtocol, "_sendfile", record_and_send)
    with serve(folder) as url:
        assert get(f"{url}/p/name/1{COMPRESSED}").content == ARCHIVE
        assert get(f"{url}/p/name/1.tar.gz", headers={"Range": "bytes=7-9"}).content == ARCHIVE[7:10]
    assert sent == [(0, len(ARCHIVE)), (7, 3)]


def test_an_archive_that_becomes_shorter_is_not_delivered_as_whole(tmp_path, monkeypatch):
    storage = Storage(tmp_path)
    storage.create("p/name/1.tar.gz", ARCHIVE)
    storage.create("p/name/1.json", record())
    original = conditions.respond

    def cut_then_send(*arguments, **keywords):
        os.truncate(tmp_path / "p/name/1.tar.gz", 1000)
        return original(*arguments, **keywords)

    monkeypatch.setattr(conditions, "respond", cut_then_send)
    with serve(storage) as url, pytest.raises(requests.RequestException):
        get(f"{url}/p/name/1{COMPRESSED}")


def test_any_asgi_server_will_do(folder):
    """Without the extension the same application sends in pieces."""

    async def ask(path: str, *headers: tuple[bytes, bytes]) -> tuple[int, list[bytes]]:
        scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": list(headers)}
        sent = []

        async def receive():
            await asyncio.sleep(60)

        async def send(message):
            sent.append(message)

        await application(folder)(scope, receive, send)
        assert [message.get("more_body", False) for message in sent[1:]] == [True] * (len(sent) - 2) + [False]
        return sent[0]["status"], [message["body"] for message in sent[1:]]

    status, pieces = asyncio.run(ask("/p/name/1.tar.gz"))
    assert status == 200
    assert len(pieces) == 3
    assert b"".join(pieces) == ARCHIVE
    assert asyncio.run(ask("/p/name/1.tar.gz", (b"range", b"bytes=7-9"))) == (206, [ARCHIVE[7:10]])


def test_storage_that_does_not_answer(monkeypatch):
    storage = fill(Storage(f"memory://{uuid.uuid4().hex}"))
    with serve(storage) as url:

        def fail(*arguments, **keywords):
            raise ConnectionResetError("reset by peer: bucket-internal-name")

        monkeypatch.setattr(
            storage,
            "_filesystem",
            type("Broken", (), {"info": fail, "open": fail, "cat_file": fail, "protocol": "x"})(),
        )
        monkeypatch.setattr(storage._filesystem, "invalidate_cache", lambda: None, raising=False)
        answer = get(f"{url}/p/name/1{COMPRESSED}")
        assert answer.status_code == 503
        assert "bucket-internal-name" not in answer.text
        monkeypatch.undo()
        assert get(f"{url}/p/name/1{COMPRESSED}").status_code == 200


# The script


@contextlib.contextmanager
def script(*arguments: str):
    with start_script("serve", *arguments, cwd="/") as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_script_serves_and_stops(folder, number):
    with script("--hub", folder.url, "--port", "0") as process:
        line = process.stdout.readline()
        prefix = f"Serving {folder.url} at "
        assert line.startswith(prefix + "http://127.0.0.1:")
        url = line.removeprefix(prefix).strip()
        assert get(f"{url}/p/name/1{COMPRESSED}").content == ARCHIVE
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as idle:  # a client that stays does not hold the server
            idle.sendall(b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n")
            idle.recv(100)
            process.send_signal(number)
            rest, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert rest == ""
    assert "Traceback" not in errors
    assert "http://elsewhere.example" in errors  # the pages were made for another address
    assert f"tools/render.py --hub {folder.url} --url {url}" in errors


def test_the_help_does_not_wait_for_the_server_to_be_imported():
    code = "import sys, tools.serve as s\ntry: s.main(['--help'])\nexcept SystemExit: print({'uvicorn', 'starlette'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=True
    )
    assert done.stdout.endswith("set()\n")


def test_no_hint_where_the_address_is_right(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    Storage(tmp_path).create("index.json", json.dumps({"url": f"http://127.0.0.1:{port}/"}).encode())
    with script("--hub", str(tmp_path), "--port", str(port)) as process:
        assert process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=20) == ("", "")


def test_the_script_says_what_is_wrong(tmp_path):
    with script("--hub", str(tmp_path / "nothing")) as process:
        output, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert output == ""
    assert errors.startswith(f"error: {tmp_path}/nothing: there is no hub here. Fix: ")
    assert "tools/publish.py" in errors
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        script("--hub", str(tmp_path), "--port", str(taken.getsockname()[1])) as process,
    ):
        output, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "Fix: choose another --port" in errors


def test_the_access_log(folder, tmp_path):
    """A line for each answer, and nothing that a client says can forge one."""
    log = tmp_path / "access.log"
    with script("--hub", folder.url, "--port", "0", "--access-log", str(log)) as process:
        url = process.stdout.readline().rpartition(" ")[2].strip()
        agent = b'evil" 200 1\x1b[31m'
        get(f"{url}/p/name/1{COMPRESSED}", headers={"User-Agent": "tester", "Referer": "http://one/"})
        requests.head(f"{url}/p/name/1.tar.gz", timeout=20)
        raw(url, b'GET /no"thing%0a HTTP/1.1\r\nHost: hub\r\nConnection: close\r\nUser-Agent: ' + agent + b"\r\n\r\n")
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    first, second, third = log.read_text().splitlines()
    moment = r"\[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000\]"
    begin = rf'127\.0\.0\.1 - - {moment} "GET /p/name/1\?tf-hub-format=compressed HTTP/1\.1" 200 {len(ARCHIVE)} '
    assert re.fullmatch(begin + r'"http://one/" "tester" \d+\.\d{3}', first)
    assert '"HEAD /p/name/1.tar.gz HTTP/1.1" 200 0 ' in second
    assert '"GET /no\\x22thing%0a HTTP/1.1" 400 ' in third and '"evil\\x22 200 1\\x1b[31m" ' in third
    with script("--hub", folder.url, "--port", "0", "--access-log", str(tmp_path / "none/access.log")) as process:
        output, errors = process.communicate(timeout=20)
    assert process.returncode == 2 and "Cannot write the access log" in errors and output == ""


def memory(process) -> int:
    """Bytes of a process that are in memory and its own."""
    lines = pathlib.Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


@pytest.mark.skipif(not pathlib.Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
def test_two_hundred_downloads_at_once_leave_memory_flat(tmp_path):
    """Two hundred clients that read slowly, all at the same time, twice: the server holds none of the archives in memory."""
    archive = random.Random(3).randbytes(3 << 20)
    storage = Storage(tmp_path)
    storage.create("p/name/1.tar.gz", archive)
    storage.create("p/name/1.json", record(archive))
    whole = (len(archive), zlib.crc32(archive))

    async def download(host: str, port: int, started: asyncio.Event, waiting: list) -> tuple[int, int]:
        reader, writer = await asyncio.open_connection(host, port, limit=1 << 16)
        writer.write(f"GET /p/name/1{COMPRESSED} HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        waiting.append(1)
        await started.wait()  # until all two hundred have the beginning of their answer
        size, check = 0, 0
        while piece := await reader.read(1 << 16):
            size, check = size + len(piece), zlib.crc32(piece, check)
        writer.close()
        return size, check

    async def all_at_once(host: str, port: int) -> tuple[list, int]:
        started, waiting = asyncio.Event(), []
        tasks = [asyncio.create_task(download(host, port, started, waiting)) for _ in range(200)]
        while len(waiting) < 200 and not any(task.done() for task in tasks):
            await asyncio.sleep(0.01)
        held = memory(process)
        started.set()
        return await asyncio.gather(*tasks), held

    with script("--hub", str(tmp_path), "--port", "0") as process:
        url = process.stdout.readline().rpartition(" ")[2].strip()
        host, _, port = url.removeprefix("http://").partition(":")
        assert get(f"{url}/p/name/1{COMPRESSED}").content == archive
        before = memory(process)
        for _ in range(2):
            found, held = asyncio.run(all_at_once(host, int(port)))
            assert found == [whole] * 200
            # 200 archives would be 600 MB; a connection costs some hundred kilobytes.
            assert held - before < 64 << 20 and memory(process) - before < 64 << 20
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=20)[1] == ""


# The consumer


def test_two_hundred_clients_of_tensorflow_hub(any_url, consumer):
    """The real client's download and unpacking, two hundred times at the same moment."""
    assert consumer(f"{any_url}/hubpress/convnext_digits_fe/1", clients=200) == [{"clients": 200}]


@pytest.mark.slow
def test_tensorflow_hub_loads_what_is_packed_and_served(tmp_path):
    """A real SavedModel, through the real client, in a process of its own: by handle, without version, as .tar.gz."""
    make = textwrap.dedent("""
        import sys, tensorflow as tf
        class Module(tf.Module):
            def __init__(self):
                self.weight = tf.Variable(tf.random.normal([200, 300]))
                self.words = tf.saved_model.Asset(sys.argv[2])
            @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
            def __call__(self, numbers):
                return numbers * 2 + 0 * tf.reduce_sum(self.weight)
        tf.saved_model.save(Module(), sys.argv[1])
    """)
    load = textwrap.dedent("""
        import os, sys
        import tensorflow as tf, tensorflow_hub as hub
        for handle in sys.argv[1:]:
            module = hub.load(handle)
            print(module(tf.constant([1.0, 2.0])).numpy().tolist(), module.weight.shape.as_list(),
                  tf.io.read_file(module.words.asset_path).numpy())
            folder = hub.resolve(handle)
            print(sorted(os.listdir(folder)), os.listdir(os.path.join(folder, "assets")))
        os.environ["TFHUB_MODEL_LOAD_FORMAT"] = "UNCOMPRESSED"
        try:
            hub.resolve(sys.argv[1])
        except ValueError as error:
            print(error)
    """)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TFHUB_CACHE_DIR": str(tmp_path / "cache")}
    (tmp_path / "words.txt").write_text("one\n")
    model = tmp_path / "model"
    run = {"check": True, "env": environment, "capture_output": True, "text": True}
    subprocess.run([sys.executable, "-c", make, str(model), str(tmp_path / "words.txt")], **run)
    archive = pack(model, tmp_path / "1.tar.gz")
    storage = Storage(tmp_path / "hub")
    storage.create("p/name/with/segments/3.tar.gz", tmp_path / "1.tar.gz")
    storage.verify("p/name/with/segments/3.tar.gz", archive.size, archive.sha256, archive.md5)
    storage.create(
        "p/name/with/segments/3.json",
        json.dumps({"archive": {"bytes": archive.size, "sha256": archive.sha256}}).encode(),
    )
    with serve(storage) as url:
        name = f"{url}/p/name/with/segments"
        handles = [f"{name}/3", name, f"{name}/3.tar.gz", f"{name}/3/"]
        result = subprocess.run([sys.executable, "-c", load, *handles], **run)
    lines = result.stdout.splitlines()
    assert lines[0] == "[2.0, 4.0] [200, 300] b'one\\n'"
    assert "saved_model.pb" in lines[1]
    assert "fingerprint.pb" in lines[1]
    assert lines[1].endswith("['words.txt']")
    assert lines[:2] * len(handles) == lines[:-1]
    assert "received code 404" in lines[-1]
