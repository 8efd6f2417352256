"""Publish the quickstart collection, serve it, use it through tensorflow_hub and measure it: everything once, in two minutes.

    make quickstart
    python tools/quickstart.py --hub ./hub

Each step is one of the other scripts. Of one classifier files for ONNX Runtime and LiteRT are published as well; all of all modules
take some minutes more: `python tools/publish.py quickstart --hub ./hub --formats all`.
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

from tools.catalog import layout
from tools.common import scripts
from tools.common.files import ROOT
from tools.common.ports import free_port

if TYPE_CHECKING:
    from tools.catalog.catalog import Module

PORT = 8000
FORMATS = ("onnx", "float32")  # of the first classifier: a file takes half a minute of a processor


def parser() -> argparse.ArgumentParser:
    arguments = scripts.parser("quickstart", __doc__)
    arguments.add_argument(
        "--hub", default="hub", metavar="DIR", help="the folder to publish into (default: %(default)s)"
    )
    arguments.add_argument("--port", type=int, help=f"serve here (default: {PORT}, or a free one if that is taken)")
    arguments.add_argument("--use", metavar="URL", help=argparse.SUPPRESS)  # the process that has TensorFlow
    arguments.add_argument("--answer", metavar="URL", help=argparse.SUPPRESS)  # the process that has other runtimes
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    if options.use:
        print(json.dumps(use(options.use)))
        return 0
    if options.answer:
        print(json.dumps(answer(options.answer)))
        return 0
    port = options.port or free_port(PORT)

    from tools import catalog
    from tools.common import console

    url = f"http://127.0.0.1:{port}"
    console.show(f"Publishing the quickstart collection into {options.hub} ...")
    if status := call("publish", "quickstart", "--hub", options.hub, "--url", url, "--jobs", "2", "--formats", "none"):
        return status
    modules = catalog.load_usable().expand(["quickstart"])
    classifier = next(module for module in modules if module.head == "classifier")
    formats = installed()
    if formats:
        console.show(f"Publishing {classifier.handle} for other runtimes: {', '.join(formats)} ...")
        if status := call(
            "publish", classifier.handle, "--hub", options.hub, "--url", url, "--formats", ",".join(formats)
        ):
            return status
    with served(options.hub, port):
        console.show(f"Serving it at {url}; loading the modules from there with tensorflow_hub ...")
        # A process of its own: what TensorFlow logs while it starts is shown only if something fails.
        user = subprocess.run([sys.executable, __file__, "--use", url], capture_output=True, check=False)
        if user.returncode:
            console.problems(user.stderr.decode(errors="replace"))
            return scripts.FAILED
        console.show(console.table("Handle", "Parameters>", "Answer", rows=json.loads(user.stdout)))
        if formats:
            runtimes = subprocess.run(
                [sys.executable, __file__, "--answer", f"{url}/{classifier.handle}"], capture_output=True, check=False
            )
            if runtimes.returncode:
                console.problems(runtimes.stderr.decode(errors="replace"))
                return scripts.FAILED
            console.show(console.table("Runtime", "File", "Answer", rows=json.loads(runtimes.stdout)))
        if status := measure(modules, url, [layout.FORMAT_FILES[name] for name in formats]):
            return status
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


def installed() -> list[str]:
    """Return the formats of `FORMATS` whose converters are installed; say which are left out."""
    from tools.common import console
    from tools.publishing import format_build

    found = []
    for name in FORMATS:
        try:
            format_build.require(name)
            found.append(name)
        except RuntimeError as error:
            console.note(f"{name} is left out: {error}")
    return found


def answer(url: str) -> list[tuple[str, str, str]]:
    """Ask the files of a module in their own runtimes, by their URL; return a table row for each."""
    import urllib.request
    from pathlib import Path

    import numpy as np

    from tools import catalog
    from tools.evaluation import runtimes

    module = next(each for each in catalog.load_usable().expand(["quickstart"]) if url.endswith(f"/{each.handle}"))
    images = np.load(ROOT / "modules" / str(module.variant.evaluation))["images"][:5]
    rows = []
    with tempfile.TemporaryDirectory(prefix="hubpress-files-") as folder:
        for name in installed():
            file = Path(folder) / layout.FORMAT_FILES[name]
            urllib.request.urlretrieve(f"{url}/{file.name}", file)
            digits = runtimes.load(str(file), name)(images).argmax(-1)
            runtime = "LiteRT" if layout.kind_of_format(name) == layout.LITE else "ONNX Runtime"
            rows.append((runtime, file.name, f"five digits: classes {', '.join(map(str, digits))}"))
    return rows


def measure(modules: "list[Module]", url: str, files: Sequence[str]) -> int:
    """Evaluate the served classifiers on their labelled images, several in one pass, anew; return the exit status.

    `files` are those of the first classifier for other runtimes.
    """
    from tools.common import console

    images: dict[str, list[str]] = {}
    for module in modules:
        if module.head == "classifier":
            first = not images
            chosen = images.setdefault(str(module.variant.evaluation), [])
            chosen += [f"{url}/{module.handle}", *(f"{url}/{module.handle}/{file}" for file in files if first)]
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
