"""Downloads against a real server on the loopback that cuts, lies, moves and forgets, as servers do."""

import contextlib
import hashlib
import http.server
import json
import multiprocessing
import os
import pathlib
import random
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field

import fsspec
import pytest

from tools.common import download, files, locks
from tools.common.download import DownloadError, fetch

CONTENT = random.Random(0).randbytes(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NAME = "weights.pth"


@dataclass
class Behaviour:
    """Behaviour of the server; `script` holds one action per request, the last one is repeated."""

    content: bytes = CONTENT
    tag: str | None = '"v1"'
    modified: str | None = None
    ranges: bool = True
    script: list = field(default_factory=lambda: ["serve"])
    requests: list = field(default_factory=list)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        behaviour = self.server.behaviour
        behaviour.requests.append({**dict(self.headers), "path": self.path})
        action = behaviour.script.pop(0) if len(behaviour.script) > 1 else behaviour.script[0]
        if callable(action):
            action = action(behaviour) or "serve"
        self.close_connection = True
        if isinstance(action, int):
            self.send_response(action)
            self.send_header("Content-Length", "0")
            self.send_header("Retry-After", "7")
            self.end_headers()
            return
        if action == "drop":
            return
        content, start, status = behaviour.content, 0, 200
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        current = self.headers.get("If-Range") in (behaviour.tag, behaviour.modified) or action == "ignore if-range"
        if wanted and behaviour.ranges and current:
            start, status = int(wanted[1]), 206
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        body = content[start:]
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if behaviour.tag:
            self.send_header("ETag", behaviour.tag)
        if behaviour.modified:
            self.send_header("Last-Modified", behaviour.modified)
        chunked = action in ("chunked", "cut chunks")
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif action != "no length":
            self.send_header("Content-Length", str(len(body)))
        if action == "compressed":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        if isinstance(action, tuple):  # ("cut", bytes)
            body = body[: action[1]]
        if chunked:
            pieces = [body[at : at + 9999] for at in range(0, len(body), 9999)]
            framed = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
            body = framed[: len(framed) // 2] if action == "cut chunks" else framed + b"0\r\n\r\n"
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.behaviour = Behaviour()
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        running.url = f"http://127.0.0.1:{running.server_port}/folder/{NAME}"
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that would have been made."""
    seconds = []
    monkeypatch.setattr(download.time, "sleep", seconds.append)
    return seconds


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def refused(*words, **arguments):
    with pytest.raises(DownloadError) as caught:
        fetch(**arguments)
    message = str(caught.value)
    assert ". Fix: " in message
    for word in words:
        assert word in message, message
    return message


def cached(cache: pathlib.Path) -> list[str]:
    """Every file in the cache but the lock."""
    return sorted(path.name for path in cache.rglob("*") if path.is_file() and path.name != ".lock")


def test_once(server, tmp_path):
    seen = []
    path = fetch(server.url, cache=tmp_path / "cache", progress=lambda *numbers: seen.append(numbers))
    assert path.read_bytes() == CONTENT
    assert path.name == NAME
    assert path.parent == tmp_path / "cache" / hashlib.sha256(server.url.encode()).hexdigest()[:16]
    assert cached(tmp_path) == [NAME, f"{NAME}.sha256"]
    assert seen[0] == (0, len(CONTENT)) and seen[-1] == (len(CONTENT), len(CONTENT))
    assert fetch(server.url, cache=tmp_path / "cache", sha256=DIGEST.upper()) == path
    assert len(server.behaviour.requests) == 1
    assert server.behaviour.requests[0]["Accept-Encoding"] == "identity"
    subprocess.run(["sha256sum", "--check", "--quiet", f"{NAME}.sha256"], check=True, cwd=path.parent)


def test_a_damaged_file_in_the_cache_is_fetched_again(server, tmp_path):
    path = fetch(server.url, cache=tmp_path)
    path.write_bytes(CONTENT[:-1])
    assert fetch(server.url, cache=tmp_path).read_bytes() == CONTENT
    (path.parent / f"{NAME}.sha256").unlink()
    assert fetch(server.url, cache=tmp_path).read_bytes() == CONTENT
    assert len(server.behaviour.requests) == 3


def test_urls_with_the_same_file_name_do_not_meet(server, tmp_path):
    first = fetch(server.url, cache=tmp_path)
    server.behaviour.content = b"other"
    second = fetch(server.url.replace("folder", "other"), cache=tmp_path)
    assert (first.read_bytes(), second.read_bytes()) == (CONTENT, b"other")


def test_the_query_is_part_of_the_url_but_not_of_the_name(server, tmp_path):
    path = fetch(f"{server.url}?download=true&token=secret", cache=tmp_path)
    assert path.name == NAME
    server.behaviour.script = [404]
    message = refused("no such file", url=f"{server.url}?token=s3cret", cache=tmp_path)
    assert "s3cret" not in message


# ------------------------------------------------------------------------------------------------------ cuts and errors


@pytest.mark.parametrize("identified_by", ["tag", "modified"])
def test_a_cut_download_goes_on(server, tmp_path, pauses, identified_by):
    if identified_by == "modified":
        server.behaviour.tag, server.behaviour.modified = 'W/"weak"', "Tue, 01 Jul 2025 10:00:00 GMT"
    server.behaviour.script = [("cut", 100_000), ("cut", 50_000), "serve"]
    seen = []
    path = fetch(server.url, cache=tmp_path, progress=lambda *numbers: seen.append(numbers))
    assert path.read_bytes() == CONTENT
    validator = server.behaviour.modified or '"v1"'
    ranges = [(request.get("Range"), request.get("If-Range")) for request in server.behaviour.requests]
    assert ranges == [(None, None), ("bytes=100000-", validator), ("bytes=150000-", validator)]
    assert (100_000, len(CONTENT)) in seen and (150_000, len(CONTENT)) in seen
    assert len(pauses) == 2


def test_another_process_goes_on(server, tmp_path, pauses):
    server.behaviour.script = [("cut", 100_000), 503]
    refused("503", "goes on where it stopped", url=server.url, cache=tmp_path)
    assert cached(tmp_path) == [f"{NAME}.part", f"{NAME}.part.json"]
    server.behaviour.script = ["serve"]
    program = f"from tools.common import download; download.fetch({server.url!r}, cache={str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=pathlib.Path(__file__).parents[2])
    assert server.behaviour.requests[-1]["Range"] == "bytes=100000-"
    requests = len(server.behaviour.requests)
    assert fetch(server.url, cache=tmp_path).read_bytes() == CONTENT
    assert len(server.behaviour.requests) == requests
    assert cached(tmp_path) == [NAME, f"{NAME}.sha256"]


def test_killed_between_the_last_byte_and_the_cache(server, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(download, "_move_into_place", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch(server.url, cache=tmp_path)
    assert fetch(server.url, cache=tmp_path).read_bytes() == CONTENT
    assert len(server.behaviour.requests) == 1


def test_a_server_that_does_not_tell_the_length(server, tmp_path, pauses):
    server.behaviour.script = ["no length"]
    assert fetch(server.url, cache=tmp_path / "1").read_bytes() == CONTENT
    server.behaviour.script = ["cut chunks", "chunked"]
    assert fetch(server.url, cache=tmp_path / "2").read_bytes() == CONTENT
    assert len(pauses) == 1 and "Range" in server.behaviour.requests[-1]


def new_version(behaviour):
    behaviour.content, behaviour.tag = CONTENT[::-1], '"v2"'


@pytest.mark.parametrize(
    ("changes", "script"),
    [
        ({"ranges": False}, [("cut", 100_000), "serve"]),  # answers 200 with everything
        ({"tag": None}, [("cut", 100_000), "serve"]),  # nothing tells the versions apart
        ({}, [("cut", 100_000), new_version]),
        ({}, [("cut", 100_000), lambda behaviour: new_version(behaviour) or "ignore if-range", "serve"]),
        ({}, [("cut", 100_000), lambda behaviour: setattr(behaviour, "content", CONTENT[:90_000]), "serve"]),  # 416
    ],
)
def test_started_again(server, tmp_path, pauses, changes, script):
    for name, value in changes.items():
        setattr(server.behaviour, name, value)
    server.behaviour.script = script
    assert fetch(server.url, cache=tmp_path).read_bytes() == server.behaviour.content
    assert cached(tmp_path) == [NAME, f"{NAME}.sha256"]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(server, tmp_path, pauses, status):
    server.behaviour.script = [status, status, "drop", "serve"]
    assert fetch(server.url, cache=tmp_path).read_bytes() == CONTENT
    assert len(server.behaviour.requests) == 4
    assert [pause >= 7 for pause in pauses] == [True, True, False]  # Retry-After: 7


def test_pauses_grow_and_end(server, tmp_path, pauses):
    server.behaviour.script = ["drop"]
    refused("5 times in a row", "check the network", url=server.url, cache=tmp_path)
    assert pauses == sorted(pauses) and len(pauses) == 4


def test_nobody_listens(tmp_path, pauses):
    refused("no connection", "check the network", url=f"http://127.0.0.1:1/{NAME}", cache=tmp_path)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ([404], ["no such file on the server (404)", "check the URL", "mirror"]),
        ([410], ["no such file on the server (410)"]),
        ([401], ["refuses access (401)"]),
        ([403], ["refuses access (403)"]),
        ([418], ["answers 418"]),
        (["compressed"], ["compresses"]),
    ],
)
def test_refused_at_once(server, tmp_path, pauses, script, words):
    server.behaviour.script = script
    refused(server.url, *words, url=server.url, cache=tmp_path)
    assert len(server.behaviour.requests) == 1
    assert cached(tmp_path) == []


def test_too_large(server, tmp_path):
    refused("300000 bytes", "limit is 1000", url=server.url, cache=tmp_path, limit_bytes=1000)
    server.behaviour.script = ["no length"]
    refused("limit is 1000", url=server.url, cache=tmp_path, limit_bytes=1000)
    assert cached(tmp_path) == []
    assert fetch(server.url, cache=tmp_path, limit_bytes=len(CONTENT)).read_bytes() == CONTENT


# ---------------------------------------------------------------------------------------------------------- what arrived


def test_another_digest_is_refused_and_not_cached(server, tmp_path):
    refused(DIGEST, "instead of " + "0" * 64, "pin", url=server.url, cache=tmp_path, sha256="0" * 64)
    assert cached(tmp_path) == []
    assert fetch(server.url, cache=tmp_path, sha256=DIGEST).read_bytes() == CONTENT


def test_a_pin_that_the_cached_file_does_not_have(server, tmp_path):
    fetch(server.url, cache=tmp_path)
    server.behaviour.content = b"new content"
    digest = hashlib.sha256(b"new content").hexdigest()
    assert fetch(server.url, cache=tmp_path, sha256=digest).read_bytes() == b"new content"
    refused(digest, url=server.url, cache=tmp_path, sha256=DIGEST)
    assert fetch(server.url, cache=tmp_path).read_bytes() == b"new content"


def test_a_damaged_part_is_given_up(server, tmp_path, pauses):
    server.behaviour.script = [("cut", 100_000), 503]
    refused(url=server.url, cache=tmp_path)
    (part,) = tmp_path.rglob("*.part")
    part.write_bytes(b"x" * 100_000)
    server.behaviour.script = ["serve"]
    assert fetch(server.url, cache=tmp_path, sha256=DIGEST).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        (f"weights-{DIGEST[:8]}.pth", True),
        ("weights-01bb0f51.pth", False),
        ("weights-20210101.pth", True),  # a date
        ("weights-01bb0f5.pth", True),  # not eight digits
        ("weights-01BB0F51.pth", True),
        ("i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0.npz", True),
    ],
)
@pytest.mark.parametrize("where", ["http", "folder"])
def test_the_digest_in_a_name(server, tmp_path, name, fits, where):
    url = server.url.replace(NAME, name)
    if where == "folder":
        (tmp_path / name).write_bytes(CONTENT)
        url = str(tmp_path / name)
    if fits:
        assert fetch(url, cache=tmp_path / "cache").read_bytes() == CONTENT
    else:
        refused(DIGEST, "as its name says", url=url, cache=tmp_path / "cache")
        assert fetch(url, cache=tmp_path / "cache", sha256=DIGEST).read_bytes() == CONTENT  # the pin decides


@pytest.mark.parametrize(
    "page", [b"<!DOCTYPE html><p>Log in", b"\xef\xbb\xbf\n <html>", b"<?xml version='1.0'?><Error/>"]
)
def test_a_web_page_is_no_checkpoint(server, tmp_path, page):
    server.behaviour.content = page
    refused("web page", url=server.url, cache=tmp_path)
    assert cached(tmp_path) == []
    digest = hashlib.sha256(page).hexdigest()
    assert fetch(server.url, cache=tmp_path, sha256=digest).read_bytes() == page


@pytest.mark.parametrize("sha256", ["", "0" * 63, "g" * 64, "sha256:" + "0" * 64])
def test_no_digest(tmp_path, sha256):
    refused("64 hexadecimal digits", url="https://example.org/x.pth", cache=tmp_path, sha256=sha256)


@pytest.mark.parametrize(
    "url",
    [
        *("", "https://example.org", "https://example.org/", "https://example.org/a/..", "https://example.org/..%2Fx"),
        *("https://example.org/a%00b", "https://example.org/" + "x" * 300, "https://example.org/a/%2e%2e"),
    ],
)
def test_no_file_name(tmp_path, url):
    refused(url=url, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


# ------------------------------------------------------------------------------------------- folders, mirrors, buckets


@pytest.mark.parametrize("form", ["{path}", "file://{path}", "file://localhost{path}"])
def test_local_files_are_used_in_place(tmp_path, form):
    path = tmp_path / "a b.pth"
    path.write_bytes(CONTENT)
    url = form.format(path=path if form == "{path}" else str(path).replace(" ", "%20"))
    assert fetch(url, cache=tmp_path / "cache", sha256=DIGEST) == path
    assert not (tmp_path / "cache").exists()
    refused("instead of", url=url, cache=tmp_path, sha256="0" * 64)
    refused("limit", url=url, cache=tmp_path, limit_bytes=10)


def test_local_files_that_are_not_there(tmp_path):
    refused("no such file", url=str(tmp_path / "x.pth"), cache=tmp_path)
    refused("another machine", url="file://server/x.pth", cache=tmp_path)


UPSTREAM = "https://upstream.example.org/models/weights.pth"


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "no text": lambda path: path.write_bytes(b"\xff\xfe"),
    "nested too deeply": lambda path: path.write_text("[" * 200_000),
    "of other types": lambda path: path.write_text('{"validator": [1], "total": "many"}'),
    "a folder": lambda path: (files.discard(path), (path / "within").mkdir(parents=True)),
    "a dead link": lambda path: (files.discard(path), path.symlink_to(path.with_name("nowhere"))),
    "a link to itself": lambda path: (files.discard(path), path.symlink_to(path)),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["", NAME, f"{NAME}.sha256", f"{NAME}.part", f"{NAME}.part.json", ".lock"])
def test_a_damaged_cache_heals_itself(server, tmp_path, name, damage):
    """Whatever lies where an entry of the cache, or its folder, should be."""
    folder = fetch(server.url, cache=tmp_path).parent
    if name != NAME:
        (folder / NAME).unlink()  # so that it is fetched again, in place of what is there
    if ".part" in name:
        (folder / f"{NAME}.part").write_bytes(CONTENT[:1000])
        (folder / f"{NAME}.part.json").write_text(json.dumps({"validator": '"v1"', "total": len(CONTENT)}))
    if not name:
        files.discard(folder)
    DAMAGE[damage](folder / name)
    assert fetch(server.url, cache=tmp_path, sha256=DIGEST).read_bytes() == CONTENT
    assert fetch(server.url, cache=tmp_path).read_bytes() == CONTENT


def test_a_mirror_is_asked_for_the_whole_path_first(server, tmp_path):
    """Two files of one name lie beside each other, and one that is called like others is never taken by its name."""
    mirror, others = tmp_path / "mirror", "https://elsewhere.example.org/b/" + NAME
    (mirror / "upstream.example.org/a").mkdir(parents=True)
    (mirror / NAME).write_bytes(b"whose?")
    url = f"https://upstream.example.org/a/{NAME}"
    assert fetch(url, cache=tmp_path, mirrors=str(mirror)).read_bytes() == b"whose?"
    (mirror / "upstream.example.org/a" / NAME).write_bytes(CONTENT)
    assert fetch(url, cache=tmp_path, mirrors=str(mirror)).read_bytes() == CONTENT
    assert fetch(others, cache=tmp_path, mirrors=str(mirror)).read_bytes() == b"whose?"
    refused(
        f"{mirror}/elsewhere.example.org/b/{NAME}: no such file",
        f"there, as elsewhere.example.org/b/{NAME} (other files are called {NAME}, too)",
        url=others,
        cache=tmp_path,
        mirrors=str(mirror),
        is_named_alone=False,
    )


@pytest.mark.parametrize("kind", ["http", "memory"])
def test_a_mirror_elsewhere_is_asked_for_the_whole_path_first(server, tmp_path, kind):
    asked = []
    if kind == "http":
        server.behaviour.script = [lambda behaviour: (asked.append(behaviour.requests[-1]["path"]), 404)[1], "serve"]
        base = server.url.removesuffix(f"/{NAME}")
    else:
        base = f"memory://mirror-{os.getpid()}"
        fsspec.filesystem("memory").pipe_file(f"{base}/{NAME}", CONTENT)
    assert fetch(UPSTREAM, cache=tmp_path, mirrors=base, sha256=DIGEST).read_bytes() == CONTENT
    if kind == "http":
        assert asked == [f"/folder/{UPSTREAM.partition('://')[2]}"]
    else:
        whole = UPSTREAM.partition("://")[2]
        fsspec.filesystem("memory").pipe_file(f"{base}/{whole}", b"by its path")
        assert fetch(UPSTREAM, cache=tmp_path / "other", mirrors=base).read_bytes() == b"by its path"
        assert (
            fetch(UPSTREAM, cache=tmp_path, mirrors=base).read_bytes() == CONTENT
        )  # what is there is not asked for again


@pytest.mark.parametrize("path", ["a/../../x.pth", "a//x.pth", "a/%2e%2e/x.pth", "./x.pth"])
def test_no_path_of_an_address_leads_out_of_a_mirror(path):
    assert download.mirror_paths(f"https://host/{path}") == ["x.pth"]


def test_a_mirror_is_asked_instead_of_upstream(server, tmp_path):
    (tmp_path / "mirror").mkdir()
    message = refused("put the file of", UPSTREAM, NAME, url=UPSTREAM, cache=tmp_path, mirrors=str(tmp_path / "mirror"))
    assert str(tmp_path / "mirror" / NAME) in message
    (tmp_path / "mirror" / NAME).write_bytes(CONTENT)
    assert fetch(UPSTREAM, cache=tmp_path, mirrors=str(tmp_path / "mirror")) == tmp_path / "mirror" / NAME
    assert fetch(UPSTREAM, cache=tmp_path, mirrors=f"file://{tmp_path}/mirror/") == tmp_path / "mirror" / NAME

    base = server.url.removesuffix(NAME)
    assert fetch(UPSTREAM, cache=tmp_path / "cache", mirrors=base, sha256=DIGEST).read_bytes() == CONTENT
    server.behaviour.script = [404]
    refused("put the file of", UPSTREAM, url=UPSTREAM, cache=tmp_path / "other", mirrors=base)
    refused("no such folder", url=UPSTREAM, cache=tmp_path, mirrors=str(tmp_path / "none"))


def test_any_other_url(tmp_path, pauses):
    files = fsspec.filesystem("memory")
    files.pipe(f"/hubpress-test/{NAME}", CONTENT)
    url = f"memory://hubpress-test/{NAME}"
    assert fetch(url, cache=tmp_path, sha256=DIGEST).read_bytes() == CONTENT
    assert cached(tmp_path) == [NAME, f"{NAME}.sha256"]
    refused("no such file", url="memory://hubpress-test/none.pth", cache=tmp_path)
    refused("put the file of", url=UPSTREAM, cache=tmp_path, mirrors="memory://hubpress-test/none")
    refused("Fix: check the URL", url="nonsense://bucket/x.pth", cache=tmp_path)
    assert pauses == []


def test_any_other_url_goes_on(tmp_path, pauses, monkeypatch):
    files = fsspec.filesystem("memory")
    files.pipe(f"/hubpress-test/{NAME}", CONTENT)
    opened = []
    original = type(files)._open

    class Cut:
        """A file whose reads fail once it gave 100,000 bytes."""

        def __init__(self, file):
            self.file, self.given, self.start = file, 0, None
            opened.append(self)

        def seek(self, position):
            self.start = position
            self.file.seek(position)

        def read(self, _):
            if self.given:
                raise TimeoutError("slow")
            self.given = 100_000
            return self.file.read(100_000)

        def close(self):
            self.start = (self.start, "closed")

    monkeypatch.setattr(type(files), "_open", lambda *a, **k: Cut(original(*a, **k)))
    url = f"memory://hubpress-test/{NAME}"
    assert fetch(url, cache=tmp_path, sha256=DIGEST).read_bytes() == CONTENT
    assert [file.start for file in opened] == [(0, "closed"), (100_000, "closed"), (200_000, "closed")]


# --------------------------------------------------------------------------------------------- several at the same time


def _fetch_in_a_process(url, cache, results):
    results.put(hashlib.sha256(fetch(url, cache=cache).read_bytes()).hexdigest())


def test_processes_that_want_the_same_file_share_one_download(server, tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_fetch_in_a_process, args=(server.url, tmp_path, results)) for _ in range(3)]
    for process in processes:
        process.start()
    assert [results.get(timeout=300) for _ in processes] == [DIGEST] * 3
    for process in processes:
        process.join()
    assert len(server.behaviour.requests) == 1
    assert cached(tmp_path) == [NAME, f"{NAME}.sha256"]


def test_without_locks(server, tmp_path, monkeypatch, pauses):
    monkeypatch.setattr(locks, "fcntl", None)
    server.behaviour.script = [("cut", 100_000), "serve"]
    assert fetch(server.url, cache=tmp_path).read_bytes() == CONTENT
    assert cached(tmp_path) == [NAME, f"{NAME}.sha256"]


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_cache_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    refused("cannot be kept", "choose another cache", url=server.url, cache=tmp_path / "file")
    folder = tmp_path / hashlib.sha256(server.url.encode()).hexdigest()[:16]
    folder.mkdir()
    (folder / f"{NAME}.part").symlink_to("/dev/full")  # every write fails: no space left on the device
    monkeypatch.setattr(download, "_discard", lambda part: None)
    refused("No space left", "free some space", url=server.url, cache=tmp_path)


def test_help_stays_fast():
    """Neither requests nor fsspec nor TensorFlow is imported before something is fetched."""
    program = "import sys, tools.common.download; assert not {'requests', 'fsspec', 'tensorflow'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=pathlib.Path(__file__).parents[2])


@pytest.mark.parametrize(("scheme", "package"), [("hf", "huggingface_hub"), ("s3", "s3fs")])
def test_a_package_that_is_not_installed_is_named(tmp_path, monkeypatch, scheme, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DownloadError, match=rf"install {package} with .*or download the file by other means"):
        fetch(f"{scheme}://owner/name/{NAME}", cache=tmp_path)


def test_what_is_not_there_is_told_from_what_failed(server, tmp_path):
    server.behaviour.script = [404]
    for url in (server.url, str(tmp_path / NAME), f"memory://nothing/{NAME}"):
        with pytest.raises(download.NotFound):
            fetch(url, cache=tmp_path)
    server.behaviour.script = [403]
    with pytest.raises(DownloadError) as refused:
        fetch(server.url, cache=tmp_path)
    assert not isinstance(refused.value, download.NotFound)


# ------------------------------------------------------------------------------------------- Hugging Face, buckets, proxies


REVISIONS = {"main": random.Random(1).randbytes(9 << 20), "v1": CONTENT}  # more than is read ahead, and less


class HubHandler(http.server.BaseHTTPRequestHandler):
    """As much of the Hugging Face hub's HTTP API as its file system asks for: a model with two revisions of a file."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        if not path.startswith(("/api/models/owner/name", "/owner/name/")):
            return self.answer(404, X_Error_Code="RepoNotFound")
        if path.startswith("/api/models/"):
            rest = path.removeprefix("/api/models/owner/name").strip("/").split("/")
            revision = rest[1] if len(rest) > 1 else "main"
            if revision not in REVISIONS:
                return self.answer(404, X_Error_Code="RevisionNotFound")
            content = REVISIONS[revision]
            lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            entry = {"type": "file", "path": NAME, "size": len(content), "oid": lfs["oid"][:40], "lfs": lfs}
            described = {
                "id": "owner/name",
                "sha": revision.ljust(40, "0"),
                "siblings": [],
                "tags": [],
                "private": False,
            }
            body = json.dumps([entry] if rest[0] in ("tree", "paths-info") else described).encode()
            return self.answer(200, body, Content_Type="application/json")
        content = REVISIONS[path.split("/")[4]]
        start, end = (int(text) for text in re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups())
        self.server.ranges.append(start)
        if start >= self.server.cut:
            self.close_connection = True
            return None
        piece = content[start : end + 1]
        return self.answer(206, piece, Content_Range=f"bytes {start}-{start + len(piece) - 1}/{len(content)}")

    do_HEAD = do_POST = do_GET


@pytest.fixture
def hugging_face():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), HubHandler) as running:
        running.ranges, running.cut = [], 1 << 40
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        running.url = f"http://127.0.0.1:{running.server_port}"
        yield running
        running.shutdown()
        thread.join()


def fetched(cache, *orders, **environment):
    """Return what `fetch` does in a process of its own, where no pause is slept: {"sha256": ...} or {"error": ...} for each order."""
    program = (
        "import hashlib, json, pathlib, sys, time\n"
        "time.sleep = lambda seconds: None\n"
        "from tools.common.download import DownloadError, fetch\n"
        "for order in json.loads(sys.argv[2]):\n"
        "    try:\n"
        "        path = fetch(cache=pathlib.Path(sys.argv[1]), **order)\n"
        "        print(json.dumps({'sha256': hashlib.sha256(path.read_bytes()).hexdigest()}))\n"
        "    except DownloadError as error:\n"
        "        print(json.dumps({'error': f'{type(error).__name__}: {error}'}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(cache), json.dumps(orders)],
        env={**os.environ, "HF_TOKEN": "", "HF_HOME": str(cache / "home"), **environment},
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_hugging_face(hugging_face, tmp_path):
    """The real client against the hub's HTTP API: cut and resumed in another process, pinned, by revision, refused."""
    url, digest = f"hf://owner/name/{NAME}", hashlib.sha256(REVISIONS["main"]).hexdigest()
    hugging_face.cut = 4 << 20
    (cut,) = fetched(tmp_path, {"url": url, "sha256": digest}, HF_ENDPOINT=hugging_face.url)
    assert "check the network and run it again (it goes on where it stopped)" in cut["error"]
    assert cached(tmp_path) == [f"{NAME}.part", f"{NAME}.part.json"]
    hugging_face.cut = 1 << 40
    hugging_face.ranges.clear()
    whole, pinned, revision, missing, nobody = fetched(
        tmp_path,
        {"url": url, "sha256": digest},
        {"url": url, "sha256": "0" * 64},
        {"url": f"hf://owner/name@v1/{NAME}", "sha256": DIGEST},
        {"url": "hf://owner/name/other.pth"},
        {"url": f"hf://nobody/name/{NAME}"},
        HF_ENDPOINT=hugging_face.url,
    )
    assert whole == {"sha256": digest} and hugging_face.ranges[0] >= 4 << 20
    assert f"the file has the SHA-256 {digest} instead of 0000" in pinned["error"]
    assert revision == {"sha256": DIGEST}
    for refusal in (missing, nobody):
        assert (
            refusal["error"].startswith("NotFound: ") and "no such file there. Fix: check the URL" in refusal["error"]
        )


def test_hugging_face_without_a_network(tmp_path):
    order = {"url": f"hf://owner/name/{NAME}"}
    for environment in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        (offline,) = fetched(tmp_path, order, **environment)
        assert (
            "check the network" in offline["error"]
            and "name that folder as the mirror (--checkpoints)" in offline["error"]
        )
    assert cached(tmp_path) == []


def test_a_bucket(bucket, bucket_service, tmp_path, pauses, monkeypatch):
    """gs://, through the emulator: by its own address and as a mirror, with a digest, a limit, and a cut in the middle."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", bucket_service.url)
    content = random.Random(2).randbytes(9 << 20)
    digest = hashlib.sha256(content).hexdigest()
    bucket.create(NAME, content)
    before = len(bucket_service.requests)
    assert fetch(bucket.url_for(NAME), cache=tmp_path / "1", sha256=digest).read_bytes() == content
    assert fetch(UPSTREAM, cache=tmp_path / "2", mirrors=bucket.url, sha256=digest).read_bytes() == content
    assert len(bucket_service.requests) > before + 2
    refused("limit is 1000", url=bucket.url_for(NAME), cache=tmp_path / "3", limit_bytes=1000)
    refused("instead of 000", url=bucket.url_for(NAME), cache=tmp_path / "3", sha256="0" * 64)
    refused("no such file there", url=bucket.url_for("none.pth"), cache=tmp_path / "3")
    assert cached(tmp_path / "3") == []
    # What is there of an older attempt is kept, if the object is still the same.
    path = fetch(bucket.url_for(NAME), cache=tmp_path / "1")
    notes = json.dumps({"validator": _version(bucket.url_for(NAME)), "total": len(content)})
    (tmp_path / "4" / path.parent.name).mkdir(parents=True)
    for name, data in ((f"{NAME}.part", content[: 5 << 20]), (f"{NAME}.part.json", notes.encode())):
        (tmp_path / "4" / path.parent.name / name).write_bytes(data)
    seen = []
    assert fetch(bucket.url_for(NAME), cache=tmp_path / "4", progress=lambda *numbers: seen.append(numbers[0])) != path
    assert seen[0] == 5 << 20
    bucket.replace(NAME, CONTENT)
    for name, data in ((f"{NAME}.part", content[: 5 << 20]), (f"{NAME}.part.json", notes.encode())):
        (tmp_path / "4" / path.parent.name / name).write_bytes(data)
    (tmp_path / "4" / path.parent.name / f"{NAME}.sha256").unlink()
    assert fetch(bucket.url_for(NAME), cache=tmp_path / "4", sha256=DIGEST).read_bytes() == CONTENT


def _version(url):
    stream = download._open_fsspec(url, 0, None, "", download.Budget())
    stream.close()
    return stream.validator


def test_a_proxy_is_asked(server, tmp_path, monkeypatch):
    """As the environment says: a real proxy gets the whole address of a host that this machine could not even look up."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "")
    lines = []
    server.behaviour.script = [lambda behaviour: lines.append(behaviour.requests[-1]["Host"])]
    url = f"http://upstream.invalid/models/{NAME}"
    assert fetch(url, cache=tmp_path / "1", sha256=DIGEST).read_bytes() == CONTENT
    assert lines == ["upstream.invalid"]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert fetch(server.url, cache=tmp_path / "2").read_bytes() == CONTENT
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    refused("no connection", url=url, cache=tmp_path / "3")
