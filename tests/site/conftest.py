import functools
import http.server
import threading
import urllib.parse

import pytest
from playwright import sync_api as playwright

from tests.support import filled, synthetic
from tests.support.browsing import Quiet
from tests.support.programs import requires


@pytest.fixture(scope="session")
def pages():
    """The pages of one record of every kind; a version of one of them is withdrawn."""
    return synthetic.build(synthetic.records(), yanked=synthetic.YANKED)


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=requires("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """A function that opens a page; at the end, nothing must have gone wrong in any of them."""
    contexts, wrong = [], []

    def open_page(url, *, width=1440, missing=False, **options):
        context = chromium.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        origin = "{0.scheme}://{0.netloc}/".format(urllib.parse.urlsplit(url))
        page.on("request", lambda r: r.url.startswith((origin, "data:")) or wrong.append(f"request for {r.url}"))
        page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("console", lambda m: (missing and "404" in m.text) or wrong.append(f"console: {m.text}"))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture(scope="session")
def filled_hub(tmp_path_factory):
    """The address of the pages of all rows, with every column filled."""
    folder = tmp_path_factory.mktemp("filled")
    filled.write(folder)
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
