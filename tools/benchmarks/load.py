"""Measure how long a consumer waits for the first answer: import, `hub.load` from the cache, first call, in a fresh process.

    section = measure(["convnext_tiny_1k_224"], Settings())
    python -m tools.benchmarks.load PROCESS KIND PATH SIDE          # one measurement, as JSON: what `measure` runs

Beside a module: the same Keras model as `model.export` and `model.save` of Keras 3 write it, and the same architecture as the
`model.save` of tf_keras writes it, where keras.applications has it. A saved Keras model has no graph: loading it runs its code.
"""

import functools
import hashlib
import json
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterable
from typing import Any

from tools.benchmarks import measuring, synthesise
from tools.benchmarks.engine_process import limit, raw
from tools.benchmarks.measuring import Contestant, NoSuchRowError, Settings
from tools.benchmarks.rows import OURS, PEERS, row_of

URL = "http://127.0.0.1/hub"  # nobody is asked: the cache has it
CASES = {
    "import": ("import tensorflow_hub or keras", "s"),
    "load": ("load from the cache", "s"),
    "first_call": ("first call, batch 1", "s"),
    "total": ("all three, in a fresh process", "s"),
    "graph_bytes": ("saved_model.pb", "kB"),
    "functions": ("functions in the graph", ""),
}
NOTES = (
    "Every measurement is a process of its own with a warm file cache; hubpress is loaded by its address from tensorflow_hub's "
    "cache.",
    "The module holds its preprocessing, a signature for each kind of pixels and its training graph; the peers hold inference on "
    "normalised images, and the .keras file no graph at all.",
)


def measure(names: Iterable[str], settings: Settings) -> dict[str, Any]:
    """Compare each of `CASES` for each row; return the report's section."""
    from tools import catalog

    sides = {variant.stem: variant.resolution for variant in catalog.load().variants if variant.classes}
    comparisons = []
    for row in map(row_of, names):
        if row not in sides:
            raise NoSuchRowError(f"{row} is no row with a classifier", "choose one of tools/publish.py --dry-run")
        comparisons += _measure_row(row, sides[row], settings)
    return measuring.section(
        comparisons,
        threads=settings.threads,
        versions=measuring.versions(("tensorflow", "tensorflow-hub", "keras", "tf-keras")),
        settings={"turns": settings.turns},
        notes=NOTES,
    )


def _measure_row(row: str, side: int, settings: Settings) -> list[dict[str, Any]]:
    settings.report(f"{row}: build the module")
    module = synthesise.module_of(row, settings.cache)
    with tempfile.TemporaryDirectory(prefix="hubpress-bench-") as folder:
        address = f"{URL}/{row}/1"
        pathlib.Path(folder, hashlib.sha1(address.encode()).hexdigest()).symlink_to(module.resolve())
        found: dict[str, tuple[str, str, pathlib.Path | None]] = {OURS: ("hub", address, module)}
        settings.report(f"{row}: save it as Keras does")
        saved = synthesise.keras_files_of(row, settings.cache)
        found["Keras 3, model.export"] = "export", str(saved / "export"), saved / "export"
        found["Keras 3, model.save"] = "keras", str(saved / "model.keras"), None
        if PEERS.get(row, (None, None))[1]:
            saved = synthesise.tf_keras_folder_of(row, settings.cache)
            found["tf_keras, model.save"] = "export", str(saved), saved
        turns = measuring.take_turns(
            {
                name: functools.partial(_fresh, settings.threads, kind, path, side, graph, cache=folder)
                for name, (kind, path, graph) in found.items()
            },
            turns=settings.turns,
            report=lambda turn, name: settings.report(f"{row}: turn {turn + 1}, {name}"),
        )
    comparisons = []
    for key, (case, unit) in CASES.items():
        contestants = []
        for name, done in turns.items():
            values = tuple(each[key] for each in done if each[key] is not None)
            contestants.append(
                Contestant(name, values, name == OURS, None if values else "it has no graph: its code builds it again")
            )
        comparisons.append(measuring.compare(row, case, unit, "less", contestants))
    return comparisons


def _fresh(threads: int, kind: str, path: str, side: int, graph: pathlib.Path | None, *, cache: str) -> dict[str, Any]:
    """Measure once in a fresh process; return a value for each of `CASES`, None where there is no graph."""
    words = [str(threads), kind, path, str(side), os.fspath(graph or "")]
    printed = measuring.run(
        [sys.executable, "-m", "tools.benchmarks.load", *words],
        f"{path} does not load",
        "delete the --cache, and measure again",
        TFHUB_CACHE_DIR=cache,
        TF_CPP_MIN_LOG_LEVEL="3",
    )
    measured: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return measured


def _process(threads: str, kind: str, path: str, side: str, graph: str) -> dict[str, float | None]:
    """Measure once, in this process."""
    limit(int(threads))
    images = raw(1, int(side), "float32")
    found: dict[str, float | None] = {}
    start = began = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal start
        now = time.perf_counter()
        found[name], start = now - start, now

    if kind == "keras":
        import keras
    else:
        import warnings

        warnings.filterwarnings("ignore", message="pkg_resources")
        import tensorflow as tf
        import tensorflow_hub as hub
    lap("import")
    if kind == "keras":
        import builders  # the layers that are ours

        for family in builders.families():
            builders.family_module(family)
        model = keras.saving.load_model(path, compile=False)
        lap("load")
        model(images, training=False).numpy()
    else:
        module = hub.load(path)
        lap("load")
        call = module if kind == "hub" else getattr(module, "serve", None) or module
        call(tf.constant(images)).numpy()
    lap("first_call")
    found["total"] = start - began
    found |= {"graph_bytes": None, "functions": None}
    if graph:
        from tensorflow.core.protobuf import saved_model_pb2

        content = pathlib.Path(graph, "saved_model.pb").read_bytes()
        saved = saved_model_pb2.SavedModel.FromString(content)
        found["graph_bytes"] = len(content) / 1000
        found["functions"] = sum(len(each.graph_def.library.function) for each in saved.meta_graphs)
    return found


if __name__ == "__main__":
    print(json.dumps(_process(*sys.argv[1:])))
