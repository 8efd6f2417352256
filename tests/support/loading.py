"""Loads modules with `tensorflow_hub`: one URL a line on standard input, one JSON line for each.

    echo http://127.0.0.1:8000/hubpress/convnext_digits/1 | python tests/support/loading.py     # {"answer": "5f0c...", "shape": [2, 10]}

`answer` is the SHA-256 of what the module answers to two fixed images. A line `16 URL` asks 16 clients to fetch the module at the
same time, each as a module of its own, and answers `{"clients": 16}`; a line `UNCOMPRESSED URL` asks where the module lies unpacked
(`{"resolved": "gs://..."}`). Failures are `{"error": ...}`.
"""

import concurrent.futures
import hashlib
import json
import os
import shutil
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ANSWERS, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not come between


def answer(url):
    """Load, and ask: through an empty cache, so that the bytes come from the hub."""
    import numpy as np
    import tensorflow as tf
    import tensorflow_hub as hub

    images = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3)).astype(np.uint8)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TFHUB_CACHE_DIR"] = cache
        output = hub.load(url)(tf.constant(images)).numpy()
    assert np.isfinite(output).all()
    return {"answer": hashlib.sha256(output.tobytes()).hexdigest(), "shape": list(output.shape)}


def many(count, url):
    """Many clients of `tensorflow_hub` at the same time: the download and the unpacking of `hub.load`."""
    import tensorflow_hub as hub

    with tempfile.TemporaryDirectory() as cache:
        os.environ["TFHUB_CACHE_DIR"] = cache

        def client(number):
            folder = hub.resolve(f"{url}?client={number}")  # another address, so that nothing comes from the cache
            with open(os.path.join(folder, "saved_model.pb"), "rb") as graph:
                digest = hashlib.file_digest(graph, "sha256").hexdigest()
            shutil.rmtree(folder)
            return digest

        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            graphs = list(pool.map(client, range(count)))
    assert len(set(graphs)) == 1
    return {"clients": len(graphs)}


def where(url):
    """Where the resolver for unpacked modules is sent; whether TensorFlow finds anything there is not asked: that is Google's."""
    from tensorflow_hub import uncompressed_module_resolver

    resolver = uncompressed_module_resolver.HttpUncompressedFileResolver()
    resolver.path_resolver = lambda path: path
    return {"resolved": resolver(url)}


if __name__ == "__main__":
    for line in sys.stdin:
        try:
            first, _, rest = line.strip().partition(" ")
            if first == "UNCOMPRESSED":
                found = where(rest)
            else:
                found = many(int(first), rest) if rest else answer(first)
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}"[:1000]}
        print(json.dumps(found), file=ANSWERS, flush=True)
