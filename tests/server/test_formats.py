"""Files for other runtimes over HTTP, by our server from a folder and from elsewhere, and by nginx: the same answers."""

import re
import shutil
import uuid

import pytest
import requests

from tests.support import formats as made_up
from tests.support import made, nginx
from tests.support.programs import requires
from tools.catalog import layout
from tools.hub import json_objects, records
from tools.hub.storage import IMMUTABLE, Storage
from tools.server.server import serve

CLASSIFIER, EXTRACTOR = "hubpress/convnext_digits/1", "hubpress/convnext_digits_fe/1"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub whose classifier has all formats; of the extractor's files only the one in int8 has a record."""
    storage = Storage(tmp_path_factory.mktemp("formats") / "hub")
    made.publish(storage.local_path("x").parent, made.digits())
    classifier, extractor = (records.load(storage, handle) for handle in (CLASSIFIER, EXTRACTOR))
    made_up.store(storage, classifier)
    for name in ("onnx", "int8"):
        storage.create(layout.format_path(EXTRACTOR, name), made_up.content(EXTRACTOR, name))
    only = made_up.record(extractor, "lite", ["int8"])
    storage.create(layout.format_record_path(EXTRACTOR, "lite"), json_objects.encode(only))
    storage.create(layout.lite_document_path(CLASSIFIER), b"# Lite hubpress/convnext_digits/1\n")
    archive = storage.local_path(layout.archive_path(CLASSIFIER))
    shutil.copy(archive, archive.parent / "2.tar.gz")  # without any record, with a file
    storage.create("hubpress/convnext_digits/2/int8.tflite", b"SECRET")
    return storage


@pytest.fixture(scope="module", params=["folder", "memory", "nginx"])
def url(request, hub, tmp_path_factory):
    folder = hub.local_path("x").parent
    if request.param == "nginx":
        with nginx.running(requires("nginx"), folder, tmp_path_factory.mktemp("nginx")) as served:
            yield served
        return
    storage = hub
    if request.param == "memory":
        storage = Storage(f"memory://{uuid.uuid4().hex}")
        for path in hub.list():
            storage.create(path, hub.read(path))
    with serve(storage) as served:
        yield served


def get(url, **options):
    return requests.get(url, allow_redirects=False, timeout=20, **options)


ADDRESSES = {f"{CLASSIFIER}/{file}": name for name, file in layout.FORMAT_FILES.items()}
ADDRESSES |= {f"{CLASSIFIER}/int8.tflite?lite-format=tflite": "int8"}
LITE = "?lite-format=tflite"
ADDRESSES |= {
    f"{address}{LITE}": "float32"
    for address in (
        CLASSIFIER,
        f"{CLASSIFIER}/",
        "hubpress/convnext_digits/lite/1",
        "hubpress/lite-model/convnext_digits/1",
    )
}
ADDRESSES |= {f"{EXTRACTOR}/int8.tflite": "int8", f"{EXTRACTOR}{LITE}": "int8"}


@pytest.mark.parametrize(("address", "name"), ADDRESSES.items())
def test_a_file_is_answered(url, address, name):
    handle = EXTRACTOR if "_fe" in address else CLASSIFIER
    answer = get(f"{url}/{address}", headers={"Accept-Encoding": "gzip", "Origin": "https://elsewhere.example"})
    data = made_up.content(handle, name)
    assert answer.status_code == 200 and answer.content == data
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["cache-control"] == IMMUTABLE and answer.headers["access-control-allow-origin"] == "*"
    assert "content-encoding" not in answer.headers and answer.headers["content-length"] == str(len(data))
    part = get(f"{url}/{address}", headers={"Range": "bytes=10-19"})
    assert part.status_code == 206 and part.content == data[10:20]
    assert get(f"{url}/{address}", headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    head = requests.head(f"{url}/{address}", timeout=20)
    assert head.status_code == 200 and not head.content and head.headers["etag"] == answer.headers["etag"]


@pytest.mark.parametrize(
    "address",
    [
        f"{EXTRACTOR}/portable.onnx",  # it lies there, without a record
        f"{EXTRACTOR}/float32.tflite",
        "hubpress/convnext_digits/2/int8.tflite",  # of a module without a record
        f"hubpress/convnext_digits/2{LITE}",
        f"hubpress/convnext_digits/3{LITE}",
        f"hubpress/convnext_digits/lite/2{LITE}",
        f"hubpress/lite-model/nothing/1{LITE}",
        f"hubpress/collections/convnext/1{LITE}",
        f"{CLASSIFIER}?lite-format=coreml",
        f"{CLASSIFIER}?tfjs-format=file",
        f"{LITE}",
        f"hubpress{LITE}",
        ".lite/hubpress/convnext_digits/1",
        "..%2flite/hubpress",
    ],
)
def test_what_has_no_record_is_not_there(url, address):
    answer = get(f"{url}/{address}")
    assert answer.status_code in (404, 400) and "SECRET" not in answer.text
    assert "immutable" not in answer.headers.get("cache-control", "")
    if LITE in address:
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert re.fullmatch(r".+\. Fix: .+\.\n", answer.text)


def test_the_address_of_a_lite_document(url):
    """Its file is the document; a browser is sent to the module's page, which lists the files."""
    document = get(f"{url}/hubpress/convnext_digits/lite/1.md")
    assert document.status_code == 200 and document.text == "# Lite hubpress/convnext_digits/1\n"
    assert document.headers["content-type"] == "text/markdown; charset=utf-8"
    for address in ("hubpress/convnext_digits/lite/1", "hubpress/convnext_digits/lite/1/"):
        page = requests.get(f"{url}/{address}", timeout=20)
        assert page.url == f"{url}/{CLASSIFIER}/" and page.status_code == 200
    for kind in ("onnx.json", "lite.json", "lite-2.json"):
        answer = get(f"{url}/{CLASSIFIER}.{kind}")
        assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"


def test_a_client_that_prefers_markdown_gets_the_document(hub):
    with serve(hub) as url:
        answer = get(f"{url}/hubpress/convnext_digits/lite/1", headers={"Accept": "text/markdown"})
    assert answer.status_code == 200 and answer.text == "# Lite hubpress/convnext_digits/1\n"


def test_a_file_that_is_gone_or_damaged_says_so(hub, tmp_path):
    shutil.copytree(hub.local_path("x").parent, tmp_path / "hub")
    (tmp_path / "hub" / CLASSIFIER / "portable.onnx").unlink()
    (tmp_path / "hub" / CLASSIFIER / "int8.tflite").write_bytes(b"short")
    with serve(Storage(tmp_path / "hub")) as url:
        for file, said in (("portable.onnx", "its file is gone"), ("int8.tflite", "is damaged")):
            answer = get(f"{url}/{CLASSIFIER}/{file}")
            assert answer.status_code == 500 and said in answer.text and "Fix: " in answer.text
