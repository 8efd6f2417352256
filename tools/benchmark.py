"""Measure what DESIGN.md's budgets are about, as ratios in one run: these figures are for comparing, not for quoting alone.

    make bench
    python tools/benchmark.py convnext_tiny_1k_224 regnety800mf --onnx DIR --batch 1,8

Each row is published from a checkpoint with random weights (made here, in the row's format) into a hub of its own, and its
classifier is loaded with hub.load and called beside its peers, in turns: keras.applications where it has the model, and ONNX
Runtime and OpenVINO for DIR/ROW.onnx (a classifier on normalised images `[batch, 3, height, width]`). Nothing is downloaded.
"""

import pathlib
import sys

sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import os
import statistics
import subprocess
import tempfile
import time

DEFAULT_ROWS = ("convnext_tiny_1k_224", "regnety800mf", "vit_s16")
KERAS_APPLICATIONS = {"convnext_tiny_1k_224": "ConvNeXtTiny", "convnext_base_1k_224": "ConvNeXtBase"}
THREADS = 2


def main() -> int:
    arguments = argparse.ArgumentParser(
        prog="tools/benchmark.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument(
        "rows", nargs="*", default=DEFAULT_ROWS, metavar="ROW", help=f"rows (default: {' '.join(DEFAULT_ROWS)})"
    )
    arguments.add_argument("--onnx", type=pathlib.Path, metavar="DIR", help="the peers' models, DIR/ROW.onnx")
    arguments.add_argument("--batch", default="1,8", help="batch sizes (default: %(default)s)")
    arguments.add_argument("--rounds", type=int, default=7, help="turns of each engine (default: %(default)s)")
    arguments.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)  # in a process of its own: ROW MODULE_FOLDER
    options = arguments.parse_args()
    batches = [int(batch) for batch in options.batch.split(",")]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if options.measure:
        measure(*options.measure, options.onnx, batches, options.rounds)
        return 0
    commands()
    for row in options.rows:
        with tempfile.TemporaryDirectory(prefix="hubpress-bench-") as folder:
            module = published(row, pathlib.Path(folder))
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--measure", row, str(module)], check=True)
    return 0


def commands() -> None:
    """The commands that must start at once, best of five."""
    from tools import console

    rows = []
    for line in ("tools/publish.py --help", "tools/validate.py --help", "tools/publish.py --dry-run"):
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, *line.split()], cwd=sys.path[0], check=True, capture_output=True)
            seconds.append(time.perf_counter() - start)
        rows.append((line, f"{min(seconds):.2f} s"))
    console.show(console.table("Command", "Best of five>", rows=rows))


def published(row: str, folder: pathlib.Path) -> pathlib.Path:
    """Publish `row` from random weights below `folder`; returns the unpacked classifier. Prints how long each part took."""
    from tools import catalog, console
    from tools.hub import archive
    from tools.hub.publishing import Publishing
    from tools.hub.storage import Storage

    rows = catalog.load()
    modules = rows.expand([row])
    code = (
        "import sys, pathlib; sys.path.insert(0, '.')\n"
        "import builders; from tools import catalog\n"
        "variant = catalog.load().expand([sys.argv[1]])[0].variant; facts = variant.facts()\n"
        "model = builders.create(facts['family'], num_classes=facts['classes'], **builders.arguments(facts))\n"
        "path = pathlib.Path(sys.argv[2]) / ('x.npz' if variant.format == 'augreg' else 'x.safetensors')\n"
        "builders.write(model, path, variant.format)\n"
        "path.rename(path.with_name(variant.checkpoint.rsplit('/', 1)[1]))\n"
    )
    mirror = folder / "mirror"
    mirror.mkdir()
    subprocess.run(
        [sys.executable, "-c", code, row, str(mirror)], cwd=sys.path[0], check=True, stderr=subprocess.DEVNULL
    )
    name = modules[0].variant.checkpoint.rsplit("/", 1)[1]
    stages: dict[str, float] = {}
    last = [time.perf_counter(), "start"]

    def report(_variant, stage, _done, _total):
        now = time.perf_counter()
        stages[last[1]] = stages.get(last[1], 0.0) + now - last[0]
        last[:] = now, stage

    start = time.perf_counter()
    # The file's name would promise a digest that random weights do not have, so it is given as a file of the repository.
    object.__setattr__(modules[0].variant, "checkpoint", str(mirror / name))
    run = Publishing(rows, Storage(folder / "hub"), "http://bench", folder / "cache", report=report)
    results = run.run(modules)
    failed = [result.reason for result in results if result.state == "failed"]
    if failed:
        raise SystemExit(failed[0])
    total = time.perf_counter() - start
    told = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in stages.items() if seconds >= 0.1)
    console.show(f"{row}: published {len(results)} modules in {total:.1f} s ({told})")
    classifier = next(r for r in results if r.module.head == "classifier")
    archive.unpack(folder / "hub" / classifier.record["archive"]["path"], folder / "module")
    return folder / "module"


def measure(row: str, module: str, onnx: pathlib.Path | None, batches: list[int], rounds: int) -> None:
    """Load time, graph size, and images a second beside the peers, engines in turns."""
    import numpy as np
    import tensorflow as tf
    import tensorflow_hub as hub

    from tools import catalog, console

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    hub.load(module)  # imports and caches of the first load are nobody's
    start = time.perf_counter()
    loaded = hub.load(module)
    seconds = time.perf_counter() - start
    graph = os.path.getsize(f"{module}/saved_model.pb")
    console.show(f"{row}: hub.load {seconds:.2f} s, saved_model.pb {graph / 2**20:.2f} MiB")
    side = catalog.load().expand([row])[0].variant.resolution
    engines = {
        "module, float32": lambda x: loaded(tf.constant(x)).numpy(),
        "module, uint8": lambda x: loaded(tf.constant((x * 255).astype(np.uint8))).numpy(),
    }
    if row in KERAS_APPLICATIONS:
        import keras

        peer = getattr(keras.applications, KERAS_APPLICATIONS[row])(weights=None, classifier_activation=None)
        call = tf.function(lambda x: peer(x, training=False))
        engines["keras.applications"] = lambda x: call(tf.constant(x * 255)).numpy()
    if onnx and (onnx / f"{row}.onnx").exists():
        engines |= onnx_engines(str(onnx / f"{row}.onnx"))
    rows = []
    for batch in batches:
        images = np.random.default_rng(0).random((batch, side, side, 3), dtype=np.float32)
        rates: dict[str, list[float]] = {name: [] for name in engines}
        for engine in engines.values():
            engine(images), engine(images)
        for _ in range(rounds):
            for name, engine in engines.items():
                start = time.perf_counter()
                engine(images)
                rates[name].append(batch / (time.perf_counter() - start))
        ours = statistics.median(rates["module, float32"])
        for name, found in rates.items():
            rate = statistics.median(found)
            rows.append((batch, name, f"{rate:.1f}", f"{ours / rate:.2f}"))
    console.show(console.table("Batch>", "Engine", "Images/s>", "Module is faster by>", rows=rows))


def onnx_engines(path: str) -> dict:
    """ONNX Runtime and OpenVINO on the peer's model, as far as the `bench` extra is installed."""
    engines = {}
    try:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = THREADS
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        engines["ONNX Runtime"] = lambda x: session.run(
            None, {session.get_inputs()[0].name: x.transpose(0, 3, 1, 2).copy()}
        )
    except ImportError:
        pass
    try:
        import openvino

        settings = {"INFERENCE_NUM_THREADS": THREADS, "INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(path, "CPU", settings)
        engines["OpenVINO"] = lambda x: compiled([x.transpose(0, 3, 1, 2).copy()])
    except ImportError:
        pass
    return engines


if __name__ == "__main__":
    sys.exit(main())
