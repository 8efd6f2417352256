"""The whole way of a module in a minute: publish the quickstart collection, serve it, use it through tensorflow_hub, measure it.

make quickstart            # or: python tools/quickstart.py --hub hub
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import warnings

from tools.common.files import ROOT

PORT = 8000


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--hub", default="hub", help="the folder to publish into (default: %(default)s)")
    arguments.add_argument("--port", type=int, help=f"serve here (default: {PORT}, or a free one if that is taken)")
    arguments.add_argument("--use", metavar="URL", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.use:
        print(json.dumps(use(options.use)))
        return 0
    port = options.port or free_port(PORT)

    from tools import catalog, publish
    from tools.common import console
    from tools.hub.storage import Storage
    from tools.server.server import serve

    url = f"http://127.0.0.1:{port}"
    console.show(f"Publishing the quickstart collection into {options.hub} ...")
    status = publish.main(["quickstart", "--hub", options.hub, "--url", url, "--jobs", "2"])
    if status:
        return status
    modules = catalog.load().expand(["quickstart"])
    with serve(Storage(options.hub), port=port):
        console.show(f"Serving it at {url}; loading the modules from there with tensorflow_hub ...")
        # A process of its own: what TensorFlow logs while it starts is shown only if something fails.
        user = subprocess.run([sys.executable, __file__, "--use", url], capture_output=True)
        if user.returncode:
            console.problems(user.stderr.decode(errors="replace"))
            return 1
        console.show(console.table("Handle", "Parameters>", "Answer", rows=json.loads(user.stdout)))
        if status := measure(modules, url):
            return status
    classifier = next(m for m in modules if m.head == "classifier")
    console.show(
        f"""What to try next
  .venv/bin/python tools/serve.py --hub {options.hub} --port {port}
      then open {url} in a browser, or in Python, with tensorflow_hub as hub:
      hub.load("{url}/{classifier.handle}")
  .venv/bin/python tools/publish.py --dry-run
      everything that can be published"""
    )
    return 0


def use(url: str) -> list[tuple]:
    """Load each module by its URL as a consumer would, with an empty cache; a table row for each."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore", message="pkg_resources")
    import numpy as np
    import tensorflow_hub as hub

    from tools import catalog

    modules = catalog.load().expand(["quickstart"])
    rows = []
    with tempfile.TemporaryDirectory(prefix="hubpress-cache-") as cache:
        os.environ["TFHUB_CACHE_DIR"] = cache
        for module in modules:
            data = np.load(ROOT / "modules" / module.variant.evaluation)
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


def measure(modules, url: str) -> int:
    """Evaluate the served classifiers on their labelled images, several in one pass, anew; the exit status."""
    from tools import evaluate
    from tools.common import console

    images: dict[str, list[str]] = {}
    for module in modules:
        if module.head == "classifier":
            images.setdefault(module.variant.evaluation, []).append(f"{url}/{module.handle}")
    for file, addresses in images.items():
        console.show(f"Measuring the classifiers: tools/evaluate.py URL... --images modules/{file}")
        with tempfile.TemporaryDirectory(prefix="hubpress-state-") as state:
            arguments = ["--images", str(ROOT / "modules" / file), "--state", state]
            if status := evaluate.main([*addresses, *arguments]):
                return status
    return 0


def free_port(wanted: int) -> int:
    """`wanted` if nobody listens there, else any free port of this machine."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return probe.getsockname()[1]
            except OSError:
                continue
    raise OSError("no free port on 127.0.0.1; stop a program that listens there")


if __name__ == "__main__":
    sys.exit(main())
