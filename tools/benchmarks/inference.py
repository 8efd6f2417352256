"""Measure images a second on a CPU, answered or trained on: modules beside other engines, in turns.

    section = measure(["convnext_tiny_1k_224"], settings)               # the report's section
    section = measure(names, InferenceSettings(training=True, ...))      # of a step of training instead of an answer

Peers get images that are normalised and laid out for them already; a module gets the raw ones, and its preprocessing counts.
All have the same cores and as many threads, and answer the same images in float32.
"""

import contextlib
import functools
import os
import pathlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tools import catalog
from tools.benchmarks import engines, measuring, synthesise
from tools.benchmarks.engines import EngineError, EngineWorker
from tools.benchmarks.measuring import Contestant, NoSuchRowError, Settings
from tools.benchmarks.rows import OURS, PEERS, TRAINERS, row_of
from tools.common.problems import with_fix

PIXELS = ("float32", "uint8")
NOTES = (
    "Peers are given images that are normalised and laid out for them; the module is given raw images, so that its preprocessing "
    "counts against it.",
    "Every engine has a process of its own and the same cores; they take turns, and only one is at work at a time.",
    "All compute in float32. Weights are random: speed does not depend on them.",
)
TRAINING_NOTES = (
    "A step: logits, cross-entropy, the gradients of all trainable variables, and plain gradient descent on them. Ours is "
    "`module(images, training=True)`, with its preprocessing of raw images; ONNX Runtime and OpenVINO do not train.",
    NOTES[1],
    NOTES[2],
)


Offer = tuple[str, dict[str, Any]]  # the Python that runs an engine, and the request that opens it


@dataclass(frozen=True, kw_only=True)
class InferenceSettings(Settings):
    """Settings of inference and training.

    Attributes:
      batches: batch sizes.
      seconds: the length of a turn.
      pixels: the kinds of images for our modules.
      onnx: the folder with peers' ONNX files.
      torch_python: a Python with torch and timm.
      modules: more SavedModels of ours by name, to be compared with the first.
      cpu_seconds: also measure images per second of CPU time, which other programs on the machine disturb less.
      training: measure steps of training, on float32 images.
      engines: the peers, of `rows.ENGINES`; None for all.
    """

    turns: int = 5
    batches: tuple[int, ...] = (1, 8)
    seconds: float = 1.0
    pixels: tuple[str, ...] = PIXELS
    onnx: pathlib.Path | None = None
    torch_python: str | None = None
    modules: dict[str, pathlib.Path] = field(default_factory=dict)
    cpu_seconds: bool = False
    training: bool = False
    engines: tuple[str, ...] | None = None


def measure(names: Iterable[str], settings: InferenceSettings) -> dict[str, Any]:
    """Compare for each row, batch size and kind of pixels; return the report's section."""
    rows = catalog.load()
    comparisons: list[dict[str, Any]] = []
    versions: dict[str, str] = {}
    for name in names:
        row = row_of(name)
        variant = next((each for each in rows.variants if each.stem == row), None)
        if variant is None or variant.classes is None:
            raise NoSuchRowError(
                f"{name} is no row with a classifier", f"choose one that has peers: {', '.join(PEERS)}"
            )
        row_comparisons, row_versions = _measure_row(variant, settings)
        comparisons += row_comparisons
        versions |= row_versions
    return measuring.section(
        comparisons,
        threads=settings.threads,
        versions=measuring.versions(()) | versions,
        settings={"turns": settings.turns, "seconds": settings.seconds, "batches": list(settings.batches)},
        notes=TRAINING_NOTES if settings.training else NOTES,
    )


def _measure_row(variant: catalog.Variant, settings: InferenceSettings) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return the comparisons of one row, and the versions of the engines."""
    row = variant.stem
    versions: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        opened: dict[str, EngineWorker] = {}
        absent: dict[str, str] = {}
        for name, offer in _contestants(variant, settings).items():
            if isinstance(offer, str):
                absent[name] = offer
                continue
            python, open = offer
            settings.report(f"{row}: {name}: start")
            try:
                engine = EngineWorker(
                    name, python=python, threads=settings.threads, open=open | {"side": variant.resolution}
                )
                opened[name] = stack.enter_context(engine)
                versions |= engine.versions
            except EngineError as error:
                if name == OURS:
                    raise
                absent[name] = str(error)
        comparisons: list[dict[str, Any]] = []
        for batch in settings.batches:
            comparisons += _measure_batch(row, batch, opened, absent, settings)
    return comparisons, versions


def _measure_batch(
    row: str, batch: int, opened: dict[str, EngineWorker], absent: dict[str, str], settings: InferenceSettings
) -> list[dict[str, Any]]:
    """Return the comparisons of one batch size. A peer that fails joins `absent`."""
    # Peers take floats alone; ours are measured with each kind of pixels, beside the same turns of the peers.
    calls = {}
    for name, engine in opened.items():
        for pixels in settings.pixels if _is_ours(name, settings) else ("float32",):
            settings.report(f"{row}: {name}: first call, batch {batch}, {pixels}")
            try:
                engine.prepare(batch, pixels, training=settings.training)
            except EngineError as error:
                if name == OURS:
                    raise
                absent[name] = str(error)
            else:
                calls[name, pixels] = functools.partial(
                    engine.run, batch, pixels, seconds=settings.seconds, training=settings.training
                )
    turns = measuring.take_turns(
        calls,
        turns=settings.turns,
        report=lambda turn, key: settings.report(f"{row}: batch {batch}, turn {turn + 1}, {key[0]}"),
    )
    comparisons = []
    for pixels in settings.pixels:
        for unit in ("images/s", "images/CPU s") if settings.cpu_seconds else ("images/s",):
            contestants = []
            for name in dict.fromkeys([*opened, *absent]):
                ours = _is_ours(name, settings)
                done = turns.get((name, pixels if ours else "float32"), ())
                values = tuple(
                    each["images"] / (each["seconds"] if unit == "images/s" else each["cpu_seconds"]) for each in done
                )
                contestants.append(Contestant(name, values, ours, None if values else absent[name]))
            case = f"batch {batch}, a step" if settings.training else f"batch {batch}, {pixels}"
            comparisons.append(measuring.compare(row, case, unit, "more", contestants))
    return comparisons


def _is_ours(name: str, settings: InferenceSettings) -> bool:
    return name == OURS or name in settings.modules


def _contestants(variant: catalog.Variant, settings: InferenceSettings) -> dict[str, Offer | str]:
    """Return by name, in the order of turns, how to open each engine, or why there is none."""
    row = variant.stem
    timm, keras = PEERS.get(row, (None, None))
    ours = {"engine": "hub", "pixel_range": list(variant.pixel_range)}
    found: dict[str, Offer | str] = {}
    first = settings.modules.get(OURS)
    if first is None:
        settings.report(f"{row}: build the module")
        first = synthesise.module_of(row, settings.cache)
    found[OURS] = engines.HERE, ours | {"module": os.path.abspath(first)}
    for name, folder in settings.modules.items():
        if name != OURS:
            found[name] = engines.HERE, ours | {"module": os.path.abspath(folder)}
    torch = settings.torch_python
    answering = [each for each in ("onnxruntime", "openvino") if _wanted(each, settings)]
    onnx = _onnx(row, timm, settings) if answering else ""
    for name, engine, package in (
        ("ONNX Runtime", "onnxruntime", "onnxruntime"),
        ("OpenVINO", "openvino", "openvino"),
    ):
        if engine not in answering:
            continue
        python = engines.first_with(package, engines.HERE, torch)
        if python is None:
            found[name] = with_fix(f"{package} is not installed", f"pip install {package}")
        elif isinstance(onnx, str):
            found[name] = onnx
        else:
            found[name] = python, {"engine": engine, "onnx": os.path.abspath(onnx)}
    for name, compiled in (("timm, eager", False), ("timm, torch.compile", True)):
        if not _wanted("compile" if compiled else "timm", settings):
            continue
        if timm is None:
            found[name] = with_fix(
                f"no model of timm is named for {row}", "name one in tools/benchmarks/rows.py, if timm has it"
            )
        elif torch is None or not engines.has(torch, "torch", "timm"):
            found[name] = with_fix("no environment with torch and timm is known", "give its python with --torch-python")
        else:
            found[name] = torch, {"engine": "timm", "model": timm, "compile": compiled}
    if _wanted("keras", settings):
        if keras is None:
            found["keras.applications"] = f"it has no {row}"
        else:
            found["keras.applications"] = engines.HERE, {"engine": "keras.applications", "model": keras}
    return found


def _wanted(engine: str, settings: InferenceSettings) -> bool:
    return (engine in TRAINERS or not settings.training) and (settings.engines is None or engine in settings.engines)


def _onnx(row: str, timm: str | None, settings: InferenceSettings) -> pathlib.Path | str:
    """Return the peers' file of a row, which was given, or exported from timm before or now; or why there is none."""
    for folder in filter(None, (settings.onnx, settings.cache / "onnx")):
        for name in filter(None, (row, timm)):
            if (folder / f"{name}.onnx").is_file():
                return folder / f"{name}.onnx"
    if timm is None:
        return with_fix(f"there is no {row}.onnx", "put it into the folder of --onnx")
    if settings.torch_python is None or not engines.has(settings.torch_python, "torch", "timm", "onnx"):
        return with_fix(
            f"there is no {row}.onnx", "give --onnx DIR, or --torch-python with torch, timm and onnx to have it made"
        )
    settings.report(f"{row}: export {timm} as ONNX")
    path = settings.cache / "onnx" / f"{timm}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with EngineWorker("ONNX export", python=settings.torch_python, threads=settings.threads) as exporter:
            exporter.request(do="export", model=timm, path=os.path.abspath(path))
    except EngineError as error:
        return str(error)
    return path
