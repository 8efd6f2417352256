"""A hub's address: who may decide it, for those who read and for those who make pages."""

import json
import shutil

import pytest

from tests.support.commands import run_script
from tests.support.hubs import HANDLES
from tools.hub import address
from tools.hub.address import AddressError
from tools.hub.storage import Storage

CONFIGURED = "https://models.example.org"
OTHER = "https://evil.example.net"
LOCAL = "http://127.0.0.1:8000"
NO_INDEX, REFUSED = None, None


def index_of(url):
    return json.dumps({"schema": 1, "url": url, "modules": []}).encode()


# option, index.json, for reading, for writing (None: refused)
PRECEDENCE = [
    ("nothing anywhere", None, NO_INDEX, CONFIGURED, CONFIGURED),
    ("the option alone", OTHER, NO_INDEX, OTHER, OTHER),
    ("the option before all", OTHER, index_of(CONFIGURED), OTHER, OTHER),
    ("the option before this machine", OTHER, index_of(LOCAL), OTHER, OTHER),
    ("the option with a slash", OTHER + "/", index_of(LOCAL), OTHER, OTHER),
    ("no option is an empty one", "", index_of(LOCAL), LOCAL, LOCAL),
    ("the configured one in the index", None, index_of(CONFIGURED), CONFIGURED, CONFIGURED),
    ("with a slash in the index", None, index_of(CONFIGURED + "/"), CONFIGURED, CONFIGURED),
    ("this machine", None, index_of(LOCAL), LOCAL, LOCAL),
    ("this machine by another number", None, index_of("http://127.4.5.6"), "http://127.4.5.6", "http://127.4.5.6"),
    ("this machine by name", None, index_of("http://localhost:1/hub"), "http://localhost:1/hub", "http://localhost:1/hub"),
    ("this machine in IPv6", None, index_of("http://[::1]:8000"), "http://[::1]:8000", "http://[::1]:8000"),
    ("another address", None, index_of(OTHER), OTHER, REFUSED),
    ("a name that begins like this machine", None, index_of("http://127.0.0.1.example.net"), "http://127.0.0.1.example.net", REFUSED),
    ("a name that ends like this machine", None, index_of("http://x.localhost"), "http://x.localhost", REFUSED),
    ("a network that is not this machine", None, index_of("http://10.0.0.1"), "http://10.0.0.1", REFUSED),
    ("the configured one without its scheme's s", None, index_of("http://models.example.org"), "http://models.example.org", REFUSED),
    ("this machine as a user", None, index_of("http://127.0.0.1@evil.example.net"), CONFIGURED, REFUSED),
    ("this machine behind a backslash", None, index_of("http://evil.example.net\\@127.0.0.1"), CONFIGURED, REFUSED),
    ("a query", None, index_of("http://127.0.0.1/?x=https://evil.example.net"), CONFIGURED, REFUSED),
    ("this machine behind a host", None, index_of("http://evil.example.net[::1]"), CONFIGURED, REFUSED),
    ("this machine as a port", None, index_of("http://evil.example.net:[::1]"), CONFIGURED, REFUSED),
    ("a host behind this machine", None, index_of("http://[::1]evil.example.net"), CONFIGURED, REFUSED),
    ("a host as a port", None, index_of("http://127.0.0.1:evil.example.net"), CONFIGURED, REFUSED),
    ("a host as a zone", None, index_of("http://[::1%evil.example.net]"), CONFIGURED, REFUSED),
    ("all addresses of a machine", None, index_of("http://0.0.0.0:8000"), "http://0.0.0.0:8000", REFUSED),
    ("this machine as one number", None, index_of("http://2130706433"), "http://2130706433", REFUSED),
    ("this machine with a final dot", None, index_of("http://localhost."), "http://localhost.", REFUSED),
    ("a link in Markdown", None, index_of("http://127.0.0.1/a)[x](https://evil.example.net/"), CONFIGURED, REFUSED),
    ("a cell of a table in Markdown", None, index_of("http://127.0.0.1/a|b"), CONFIGURED, REFUSED),
    ("a character that turns text round", None, index_of("http://127.0.0.1/\u202egro.elpmaxe"), CONFIGURED, REFUSED),
    ("a quote", None, index_of('http://127.0.0.1/"onload="x'), CONFIGURED, REFUSED),
    ("a line behind it", None, index_of("http://127.0.0.1\nx"), CONFIGURED, REFUSED),
    ("a script", None, index_of("javascript://127.0.0.1/%0aalert(1)"), CONFIGURED, REFUSED),
    ("another scheme", None, index_of("ftp://127.0.0.1"), CONFIGURED, REFUSED),
    ("no address", None, index_of(""), CONFIGURED, REFUSED),
    ("a number", None, index_of(7), CONFIGURED, REFUSED),
    ("no `url`", None, b'{"modules": []}', CONFIGURED, REFUSED),
    ("a list", None, b"[]", CONFIGURED, REFUSED),
    ("no JSON", None, b"{", CONFIGURED, REFUSED),
    ("no text", None, b"\xff\xfe", CONFIGURED, REFUSED),
    ("nested without end", None, b"[" * 100_000, CONFIGURED, REFUSED),
]  # fmt: skip


@pytest.mark.parametrize(("option", "index", "reading", "writing"), [case[1:] for case in PRECEDENCE], ids=[case[0] for case in PRECEDENCE])  # fmt: skip
@pytest.mark.parametrize("slash", ["", "/"])
def test_precedence(tmp_path, option, index, reading, writing, slash):
    storage, configured = Storage(tmp_path), CONFIGURED + slash
    if index is not None:
        storage.create("index.json", index)
    assert address.for_reading(storage, option, configured) == reading
    if writing is not REFUSED:
        assert address.for_writing(storage, option, configured) == writing
        return
    with pytest.raises(AddressError) as refused:
        address.for_writing(storage, option, configured)
    message = str(refused.value)
    assert CONFIGURED in message and "--url" in message and f"{storage.url}/index.json" in message
    if reading != CONFIGURED:
        assert reading in message


@pytest.mark.parametrize("decide", [address.for_reading, address.for_writing])
@pytest.mark.parametrize(
    "text", ["models.example.org", "/", "javascript:alert(1)", "https://a/?b=", "https://u:p@a", "https://a)(b"]
)
def test_what_is_no_address_is_refused_wherever_it_is_said(tmp_path, decide, text):
    storage = Storage(tmp_path)
    with pytest.raises(AddressError, match=r"^--url: .* is no public address\. Fix: write https://"):
        decide(storage, text, CONFIGURED)
    with pytest.raises(AddressError, match=r"^modules/publisher\.toml: `url`: .* is no public address\. Fix: "):
        decide(storage, None, text)


def test_the_option_costs_no_look(tmp_path, monkeypatch):
    storage = Storage(tmp_path)
    monkeypatch.setattr(storage, "read", lambda path: pytest.fail(f"{path} was read"))
    assert address.for_writing(storage, OTHER, CONFIGURED) == OTHER


# Through the commands


@pytest.fixture
def copied(published, tmp_path):
    """A copy of the published quickstart hub, and what lies in it by path."""
    shutil.copytree(published[0], tmp_path / "hub")
    return tmp_path / "hub"


def contents(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def swap(folder, url):
    file = folder / "index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"url": url}))


def test_a_hub_that_was_made_for_this_machine_stays_there(publisher, published, copied):
    """As after `make quickstart`: publishing, yanking and its undo, and rendering need not be told the address again."""
    before = contents(copied)
    assert published[1].startswith("http://127.0.0.1:")
    again = publisher("convnext_digits", "--hub", copied)
    assert again.returncode == 0 and "\n0 pages written" in again.stdout, again.stdout + again.stderr
    rendered = run_script("render", "--hub", copied)
    assert f"handles begin with {published[1]}" in rendered.stdout
    assert contents(copied) == before


@pytest.mark.parametrize("url", [OTHER, "http://127.0.0.1@evil.example.net", 7])
def test_an_index_with_another_address_changes_no_page(publisher, copied, url):
    from tools import catalog

    swap(copied, url)
    before = contents(copied)
    commands = [
        ("publish", "convnext_digits"),
        ("yank", HANDLES[0], "--why", "wrong"),
        ("yank", HANDLES[0], "--undo"),
    ]
    done = [publisher(*arguments, "--hub", copied, script=script) for script, *arguments in commands]
    done.append(run_script("render", "--hub", copied, check=False))
    for each in done:
        assert each.returncode == 1 and "--url" in each.stderr and "Traceback" not in each.stderr, each
        assert catalog.load().publisher.url.rstrip("/") in each.stderr
        if url == OTHER:
            assert OTHER in " ".join(each.stderr.split())
    assert contents(copied) == before  # not even a note
    told = run_script("render", "--hub", copied, "--url", "http://127.0.0.1:1")
    assert told.returncode == 0 and json.loads((copied / "index.json").read_text())["url"] == "http://127.0.0.1:1"
