"""Pages in a browser: servers of folders, and axe-core, which looks for accessibility problems."""

import http.server
import re
import subprocess

from tests.support.commands import ROOT, start_script

AXE = ROOT / "tests/site/browser/axe.min.js"


class Server:
    """tools/serve.py over a folder, at a free port."""

    def __init__(self, folder):
        self.process = start_script("serve", "--hub", folder, "--port", "0", stderr=subprocess.DEVNULL)
        self.url = re.search(r"http://\S+", self.process.stdout.readline())[0].rstrip("/") + "/"

    def stop(self):
        self.process.terminate()
        self.process.wait(10)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, as the simplest of servers gives them."""

    def log_message(self, *arguments):
        pass


def axe(page):
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run()")["violations"]
    return [(each["id"], [node["html"][:150] for node in each["nodes"]][:3]) for each in found]
