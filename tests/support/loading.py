"""Worker that loads modules with `tensorflow_hub`, for the fixture `consumer` (tests/support/hubs.py).

Messages and answers (tools/common/workers.py):

    {"url": URL}                    {"answer": SHA-256 of what the module answers to two fixed images, "shape": [2, 10]}
    {"url": URL, "clients": 16}     {"clients": 16}: so many clients fetched the module at the same time, each as one of its own
    {"url": URL, "where": true}     {"resolved": "gs://..."}: where the module lies unpacked
"""

import concurrent.futures
import hashlib
import os
import shutil
import sys
import tempfile

from tools.common.workers import serve

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def answer(message):
    """Answer a message of the parent."""
    if "clients" in message:
        return fetch_at_once(message["clients"], message["url"])
    if message.get("where"):
        return resolve(message["url"])
    return load(message["url"])


def load(url):
    """Load a module through an empty cache, so that its bytes come from the hub, and call it."""
    import numpy as np
    import tensorflow as tf
    import tensorflow_hub as hub

    images = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3)).astype(np.uint8)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TFHUB_CACHE_DIR"] = cache
        output = hub.load(url)(tf.constant(images)).numpy()
    assert np.isfinite(output).all()
    return {"answer": hashlib.sha256(output.tobytes()).hexdigest(), "shape": list(output.shape)}


def fetch_at_once(count, url):
    """Download and unpack a module as `hub.load` does, by many clients at the same time."""
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


def resolve(url):
    """Say where the resolver for unpacked modules is sent; whether TensorFlow finds anything there is Google's matter."""
    from tensorflow_hub import uncompressed_module_resolver

    resolver = uncompressed_module_resolver.HttpUncompressedFileResolver()
    resolver.path_resolver = lambda path: path
    return {"resolved": resolver(url)}


if __name__ == "__main__":
    sys.exit(serve(answer))
