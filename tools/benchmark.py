"""Measure hubpress beside its peers, in turns within one run; print tables, and write benchmarks.json and benchmarks.svg.

    make bench                                                                # a default set; with every peer, half an hour
    python tools/benchmark.py inference convnext_tiny vit_s16 --torch-python ~/torch/bin/python
    python tools/benchmark.py inference --record --hub ./hub                  # speeds of published modules, beside their records
    python tools/benchmark.py validate                     # or train, load, publish, render, serve, startup, all
    python tools/benchmark.py all --out hub/benchmarks.json      # tools/render.py --hub hub then shows it at /benchmarks/

What is measured is the same work, turn by turn (ours, peer, ours, peer, ...), so that a busy machine slows everybody. Tables
give the median and the quartiles; a ratio above 1 says how many times as good as that peer ours is. Nothing is downloaded:
weights are random, and a peer that is not installed is reported as absent. Each command replaces its own section of the file.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.common import scripts
from tools.common.files import default_cache
from tools.common.problems import with_fix

if TYPE_CHECKING:
    from tools.benchmarks.inference import InferenceSettings

INFERENCE = """Images a second on the CPU: a module through hub.load, beside ONNX Runtime, OpenVINO, timm (eager and torch.compile)
and keras.applications. Rows are the catalogue's, or timm's names of the architectures that have peers:
    {rows}

Peers that need PyTorch run in an environment of their own, because PyTorch and TensorFlow do not share a process:
    python -m venv ~/torch && ~/torch/bin/pip install torch timm onnx onnxruntime openvino
    python tools/benchmark.py inference --torch-python ~/torch/bin/python
ONNX Runtime and OpenVINO run where they are installed, here or there, on DIR/ROW.onnx, or DIR/TIMM_NAME.onnx (--onnx DIR): logits
from normalised images [batch, 3, height, width], any batch. With --torch-python a missing file is exported from timm and kept.
"""

TRAIN = """Images a second in training on the CPU: logits, cross-entropy, gradients of every trainable variable and plain gradient
descent, step after step; a module through hub.load, beside timm (eager and torch.compile) and keras.applications.
"""


def parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--turns", type=scripts.positive, help="turns of each contestant (default: by command)")
    shared.add_argument(
        "--threads", type=scripts.positive, default=2, help="threads and cores of each (default: %(default)s)"
    )
    shared.add_argument(
        "--out",
        type=Path,
        default=Path("benchmarks.json"),
        help="where the report is kept, with the picture beside it as .svg (default: %(default)s)",
    )
    shared.add_argument(
        "--cache",
        type=Path,
        default=default_cache() / "benchmarks",
        help="where modules and checkpoints with random weights are kept (default: %(default)s)",
    )
    arguments = scripts.parser("benchmark", __doc__)
    commands = arguments.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, description: str | None = None) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=text,
            description=description or text,
            parents=[shared],
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    from tools.benchmarks.rows import ENGINES, PEERS, TRAINERS

    rows = ", ".join(f"{row} ({timm})" if row != timm else row for row, (timm, _) in PEERS.items())
    inference = command("inference", "images a second beside other engines", INFERENCE.format(rows=rows))
    inference.add_argument("names", nargs="*", metavar="ROW", help="rows; with --record handles, or names of modules")
    train = command("train", "images a second in training, beside timm and keras.applications", TRAIN)
    train.add_argument("names", nargs="*", metavar="ROW", help="rows with a classifier")
    train.set_defaults(pixels="float32", onnx=None, record=False, hub=None)
    for each, batches, seconds, engines in ((inference, "1,8", 1.0, ENGINES), (train, "8", 2.0, TRAINERS)):
        each.add_argument("--batch", default=batches, help="batch sizes (default: %(default)s)")
        each.add_argument(
            "--seconds", type=float, default=seconds, help="length of a turn (default: %(default)s; one call at least)"
        )
        each.add_argument(
            "--cpu-seconds",
            action="store_true",
            help="also images per second of CPU time, for a machine with other work",
        )
        each.add_argument("--engines", help=f"only these peers, of {','.join(engines)} (default: all)")
        each.add_argument(
            "--module",
            action="append",
            default=[],
            metavar="NAME=DIR",
            help="also a SavedModel of ours (one row only); hubpress=DIR takes the place of the one that is built",
        )
    inference.add_argument("--pixels", default="float32,uint8", help="kinds of images for ours (default: %(default)s)")
    inference.add_argument("--record", action="store_true", help="measure published modules of --hub, and add notes")
    scripts.add_hub(inference, required=False)
    scripts.add_url(inference)
    scripts.add_signing(inference)
    load = command("load", "seconds until the first answer, size of the graph; beside what Keras saves")
    load.add_argument("names", nargs="*", metavar="ROW", help="rows with a classifier")
    publish = command("publish", "time for each stage, CPU time and memory; beside cp and sha256")
    publish.add_argument("names", nargs="*", metavar="ROW", help="rows, by name")
    for name, text in (
        ("validate", "a tree of documents; beside tfhub.dev's validator"),
        ("render", "a site from a tree of documents; beside MkDocs and Hugo, where they are installed"),
    ):
        documents = command(name, text)
        documents.add_argument("--docs", type=Path, metavar="DIR", help="a tree of documents, assets/docs")
        documents.add_argument(
            "--documents", type=int, default=2819, metavar="N", help="without --docs: how many (default: %(default)s)"
        )
        if name == "validate":
            documents.add_argument("--validator", metavar="COMMAND", help="tfhub.dev's, with {docs} for the folder")
    serve = command("serve", "tools/serve.py on loopback; beside nginx")
    serve.add_argument("--seconds", type=float, default=2.0, help="length of a turn (default: %(default)s)")
    serve.add_argument("--megabytes", type=int, default=64, help="size of the archive (default: %(default)s)")
    command("startup", "--help of every tool; beside a Python that does nothing")
    everything = command("all", "all of these with a default set, one after the other")
    for each in (inference, everything):
        each.add_argument("--onnx", type=Path, metavar="DIR", help="ONNX files of the peers")
    for each in (inference, train, everything):
        each.add_argument("--torch-python", metavar="PATH", help="the python of an environment with torch and timm")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser()
    options = arguments.parse_args(argv)

    from tools.benchmarks.measuring import BenchmarkError
    from tools.catalog import CatalogError, UnknownNameError
    from tools.common import console
    from tools.hub.storage import StorageError
    from tools.publishing.selection import SelectionError

    try:
        return COMMANDS[options.command](arguments, options)
    except (BenchmarkError, CatalogError, UnknownNameError, StorageError, SelectionError) as error:
        console.problems(error)
        return scripts.status(error)


def inference(arguments: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Measure inference, or steps of training; with --record, speeds of published modules."""
    from tools.benchmarks import inference, reporting, rows
    from tools.common import console

    modules = dict(each.partition("=")[::2] for each in options.module)
    if not all(modules.values()) or (modules and len(options.names) != 1):
        arguments.error(with_fix("--module goes with one ROW, and is NAME=DIR", "name one row"))
    training = options.command == "train"
    if options.record != bool(options.hub):
        arguments.error(with_fix("--record and --hub go together", "give both, or neither"))
    wanted = options.engines.split(",") if options.engines is not None else None
    known = rows.TRAINERS if training else rows.ENGINES
    if unknown := set(filter(None, wanted or ())) - set(known):
        arguments.error(
            with_fix(f"there is no engine {', '.join(sorted(unknown))}", f"choose among {', '.join(known)}")
        )
    pixels = tuple(options.pixels.split(","))
    if not set(pixels) <= set(inference.PIXELS):
        arguments.error(
            with_fix(f"--pixels {options.pixels} is unknown", f"give {', '.join(inference.PIXELS)}, or one of them")
        )
    try:
        batches = tuple(int(batch) for batch in options.batch.split(","))
        if min(batches) < 1:
            raise ValueError
    except ValueError:
        arguments.error(with_fix(f"--batch {options.batch} is no list of sizes", "write it like 1,8"))
    with console.Progress() as progress:
        settings = inference.InferenceSettings(
            batches=batches,
            turns=options.turns or 5,
            seconds=options.seconds,
            threads=options.threads,
            pixels=pixels,
            onnx=options.onnx,
            torch_python=options.torch_python,
            modules={name: Path(folder) for name, folder in modules.items()},
            cpu_seconds=options.cpu_seconds,
            training=training,
            engines=tuple(wanted) if wanted is not None else None,
            cache=options.cache,
            report=partial(progress.update, options.command),
        )
        if options.record:
            return record(options, settings)
        section = inference.measure(options.names or rows.DEFAULTS[options.command], settings)
    reporting.finish(options.command, section, options.out)
    return 0


def record(options: argparse.Namespace, settings: "InferenceSettings") -> int:
    """Measure published modules, put notes beside their records, and make the pages again."""
    from tools.benchmarks import recording
    from tools.common import console
    from tools.hub import signatures
    from tools.hub.storage import open_hub

    signer = signatures.signer(options)
    storage = open_hub(options.hub)
    done, pages = recording.record(storage, options.names, settings, url=options.url, signer=signer)
    table = [
        (
            handle,
            *(f"{found['images_per_second'][str(b)]:.1f}" for b in settings.batches),
            "noted" if new else "as before",
        )
        for handle, found, new in done
    ]
    console.show(console.table("Handle", *(f"Batch {b}, images/s>" for b in settings.batches), "", rows=table))
    console.show(f"{len(done)} measured; {pages} pages written to {storage.url}")
    return 0


def load(arguments: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Measure loading."""
    from tools.benchmarks import load, rows
    from tools.benchmarks.measuring import Settings

    names = options.names or rows.DEFAULTS["load"]
    return measured(options, load.measure, Settings, names, turns=options.turns or 3, cache=options.cache)


def publish(arguments: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Measure publishing."""
    from tools.benchmarks import publish, rows
    from tools.benchmarks.measuring import Settings

    names = options.names or rows.DEFAULTS["publish"]
    return measured(options, publish.measure, Settings, names, turns=options.turns or 1, cache=options.cache)


def documents(arguments: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Measure validation or rendering."""
    from tools.benchmarks import documents

    if options.docs and not options.docs.is_dir():
        arguments.error(with_fix(f"--docs {options.docs} is no folder", "give the folder of the publishers' folders"))
    measure = documents.measure_validate if options.command == "validate" else documents.measure_render
    given = {"documents": options.documents, "validator": getattr(options, "validator", None)}
    return measured(options, measure, documents.DocumentSettings, options.docs, turns=options.turns or 3, **given)


def serve(arguments: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Measure serving."""
    from tools.benchmarks import serve

    given = {"seconds": options.seconds, "megabytes": options.megabytes}
    return measured(options, serve.measure, serve.ServeSettings, turns=options.turns or 5, **given)


def startup(arguments: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Measure start-up."""
    from tools.benchmarks import startup
    from tools.benchmarks.measuring import Settings

    return measured(options, startup.measure, Settings, turns=options.turns or 5)


def measured(
    options: argparse.Namespace,
    measure: Callable[..., dict[str, Any]],
    make_settings: Callable[..., Any],
    *what: Any,
    **settings: Any,
) -> int:
    """Measure `what` with settings, and report it as the command's section."""
    from tools.benchmarks import reporting
    from tools.common import console

    with console.Progress() as progress:
        made = make_settings(threads=options.threads, report=partial(progress.update, options.command), **settings)
        section = measure(*what, made)
    reporting.finish(options.command, section, options.out)
    return 0


def everything(arguments: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Run every command with a default set; one that fails leaves the others alone. The quick ones come first."""
    shared = ["--threads", options.threads, "--out", options.out, "--cache", options.cache]
    torch = ["--torch-python", options.torch_python] if options.torch_python else []
    given = {"inference": [*torch, *(["--onnx", options.onnx] if options.onnx else [])], "train": torch}
    status = 0
    for name in ("startup", "validate", "render", "serve", "inference", "train", "load", "publish"):
        turns = options.turns or {"load": 2, "train": 3}.get(name)
        words = [name, *shared, *(["--turns", turns] if turns else []), *given.get(name, ())]
        status = max(status, main([str(word) for word in words]))
    return status


COMMANDS = {
    "all": everything,
    "inference": inference,
    "train": inference,
    "load": load,
    "publish": publish,
    "validate": documents,
    "render": documents,
    "serve": serve,
    "startup": startup,
}

if __name__ == "__main__":
    scripts.run(main, __file__, interrupted="measure the rest again; what was reported before is kept")
