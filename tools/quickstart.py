"""Publish the quickstart collection, serve it, use it through tensorflow_hub and measure it: everything once, in a minute.

    make quickstart
    python tools/quickstart.py --hub ./hub

Each step is one of the other scripts.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tools.common import scripts
from tools.common.files import ROOT
from tools.common.ports import free_port

if TYPE_CHECKING:
    from tools.catalog.catalog import Module

PORT = 8000


def parser() -> argparse.ArgumentParser:
    arguments = scripts.parser("quickstart", __doc__)
    arguments.add_argument(
        "--hub", default="hub", metavar="DIR", help="the folder to publish into (default: %(default)s)"
    )
    arguments.add_argument("--port", type=int, help=f"serve here (default: {PORT}, or a free one if that is taken)")
    arguments.add_argument("--use", metavar="URL", help=argparse.SUPPRESS)  # the process that has TensorFlow
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    if options.use:
        print(json.dumps(use(options.use)))
        return 0
    port = options.port or free_port(PORT)

    from tools import catalog
    from tools.common import console

    url = f"http://127.0.0.1:{port}"
    console.show(f"Publishing the quickstart collection into {options.hub} ...")
    if status := call("publish", "quickstart", "--hub", options.hub, "--url", url, "--jobs", "2"):
        return status
    modules = catalog.load_usable().expand(["quickstart"])
    with served(options.hub, port):
        console.show(f"Serving it at {url}; loading the modules from there with tensorflow_hub ...")
        # A process of its own: what TensorFlow logs while it starts is shown only if something fails.
        user = subprocess.run([sys.executable, __file__, "--use", url], capture_output=True, check=False)
        if user.returncode:
            console.problems(user.stderr.decode(errors="replace"))
            return scripts.FAILED
        console.show(console.table("Handle", "Parameters>", "Answer", rows=json.loads(user.stdout)))
        if status := measure(modules, url):
            return status
    classifier = next(module for module in modules if module.head == "classifier")
    console.show(
        f"""What to try next
  .venv/bin/python tools/serve.py --hub {options.hub} --port {port}
      then open {url} in a browser, or in Python, with tensorflow_hub as hub:
      hub.load("{url}/{classifier.handle}")
  .venv/bin/python tools/publish.py --dry-run
      everything that can be published"""
    )
    return 0


def call(script: str, *arguments: str) -> int:
    """Run a script and return its exit status."""
    sys.stdout.flush()
    return subprocess.run(_command(script, *arguments), check=False).returncode


@contextlib.contextmanager
def served(hub: str, port: int) -> Iterator[None]:
    """Serve a hub by tools/serve.py as long as the context is open."""
    with subprocess.Popen(_command("serve", "--hub", hub, "--port", str(port)), stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            if not server.stdout.readline():  # it has said why
                sys.exit(server.wait())
            yield
        finally:
            server.terminate()


def use(url: str) -> list[tuple[str, str, str]]:
    """Load each module by its URL as a consumer would, with an empty cache; return a table row for each."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore", message="pkg_resources")
    import numpy as np
    import tensorflow_hub as hub

    from tools import catalog

    rows = []
    with tempfile.TemporaryDirectory(prefix="hubpress-cache-") as cache:
        os.environ["TFHUB_CACHE_DIR"] = cache
        for module in catalog.load_usable().expand(["quickstart"]):
            data = np.load(ROOT / "modules" / str(module.variant.evaluation))
            images, labels = data["images"], data["labels"]
            loaded = hub.load(f"{url}/{module.handle}")
            outputs = loaded(images[:5]).numpy()
            if module.head == "classifier":
                names = [name.decode() for name in loaded.labels().numpy()]
                said = ", ".join(names[i] for i in outputs.argmax(-1))
                truth = ", ".join(names[i] for i in labels[:5])
                answer = f"five digits: {said} (they are: {truth})"
            else:
                answer = f"{outputs.shape[1]} features for each of {outputs.shape[0]} images"
            rows.append((module.handle, f"{sum(int(np.prod(v.shape)) for v in loaded.variables):,}", answer))
    return rows


def measure(modules: "list[Module]", url: str) -> int:
    """Evaluate the served classifiers on their labelled images, several in one pass, anew; return the exit status."""
    from tools.common import console

    images: dict[str, list[str]] = {}
    for module in modules:
        if module.head == "classifier":
            images.setdefault(str(module.variant.evaluation), []).append(f"{url}/{module.handle}")
    for file, addresses in images.items():
        console.show(f"Measuring the classifiers: tools/evaluate.py URL... --images modules/{file}")
        with tempfile.TemporaryDirectory(prefix="hubpress-state-") as state:
            if status := call("evaluate", *addresses, "--images", str(ROOT / "modules" / file), "--state", state):
                return status
    return 0


def _command(script: str, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / f"tools/{script}.py"), *arguments]


if __name__ == "__main__":
    scripts.run(main, __file__)
