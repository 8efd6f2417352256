"""Make the files of a published module for other runtimes: converted, checked in their own runtime, and kept in a cache.

    files = make(folder, sha256, variant, module, ("onnx", "int8"), cache=cache, say=lambda stage, done, total: print(stage))
    files[0].path, files[0].differences

A file is made from the unpacked archive of its parent alone, in a process of its own (`builders.convert`), and counts when
`tools.publishing.format_check` has replayed it in its runtime. Its key covers the parent's digest, the code that converts, and the
versions of the converters; a file that was checked with other code is checked again and not made again.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.catalog import layout
from tools.catalog.catalog import Module, Variant
from tools.common.files import ROOT, discard, make_cache_folder, sha256_of_file, write_atomically
from tools.common.problems import Problem
from tools.common.workers import Worker, WorkerError
from tools.publishing import build, closure
from tools.publishing.specification import ENVIRONMENT

# What converts into a format, and what then answers: the packages whose versions a file's key covers, by their import.
MODELS = {"tensorflow": "tensorflow", "keras": "keras", "numpy": "numpy"}
CONVERTERS = {"onnx": MODELS | {"onnx": "onnx", "tf2onnx": "tf2onnx"}}
LITERT_CONVERTERS = MODELS | {"flatbuffers": "flatbuffers"}
RUNTIMES = {"onnx": ("onnxruntime", "onnxruntime")}
LITERT_RUNTIME = ("ai-edge-litert", "ai_edge_litert")

Report = Callable[[str, int | None, int | None], None]  # stage, bytes done and in all


class FormatError(build.BuildError):
    """A file cannot be made from its module, or does not do what its page would say; nothing of it is kept.

    `made` has the finished files of the module's other formats.
    """

    def __init__(self, message: str, made: Sequence["FormatFile"] = ()):
        super().__init__(message)
        self.made = tuple(made)


class ConvertersMissing(RuntimeError):
    """A converter or a runtime is not installed; the message names the extra."""


@dataclass(frozen=True)
class FormatFile:
    """A finished file of a format, and what was found out about it.

    `differences` are those from the parent SavedModel, by the size of the images ("golden", "1x1", ...), over the largest answer;
    `tolerance` is what they stay below; `accuracy` is that of the file itself on the row's labelled images, or None. `key` decides
    the bytes, `code` is the digest of the code that made them.
    """

    format: str
    file_name: str
    path: Path
    bytes: int
    sha256: str
    operations: tuple[str, ...]
    differences: Mapping[str, float]
    tolerance: float
    accuracy: Mapping[str, Any] | None
    versions: Mapping[str, str]
    key: str
    code: str


def make(
    parent: Path,
    parent_sha256: str,
    variant: Variant,
    module: Module,
    formats: Sequence[str],
    *,
    cache: Path,
    say: Report,
    root: Path = ROOT,
) -> list[FormatFile]:
    """Return the files of a module for other runtimes, from the cache or made and checked now, in the order of `formats`.

    Args:
      parent: the unpacked archive of the published module, with its `assets.extra`.
      parent_sha256: the digest of that archive, which its record states.
      variant: the row.
      module: the head of the row that `parent` is.
      formats: keys of `layout.FORMAT_FILES`.
      cache: the files lie in its folder `formats`, the logs of crashed processes in `logs`.
      say: is called with what happens.
      root: the repository.

    Raises:
      ConvertersMissing: before anything is done.
      FormatError: after the other formats are done, about each one that failed; its attribute `made` has the others.
    """
    found, failures = [], []
    for format in formats:
        require(format)
    for format in formats:
        try:
            found.append(_get_or_make(parent, parent_sha256, variant, module, format, cache, say, root))
        except FormatError as error:
            failures.append(str(error))
    if failures:
        raise FormatError("\n".join(failures), found)
    return found


def require(format: str) -> None:
    """Raise ConvertersMissing if a converter into a format, or its runtime, is not installed."""
    packages = [*_converters(format), _runtime(format)[0]]
    modules = [*_converters(format).values(), _runtime(format)[1]]
    missing = [p for p, name in zip(packages, modules, strict=True) if importlib.util.find_spec(name) is None]
    if missing:
        message = f"the format {format} needs {', '.join(missing)}, which is not installed"
        raise ConvertersMissing(f"{message}. Fix: pip install 'hubpress[formats]'.")


def code_digest(family: str, root: Path = ROOT) -> str:
    """Return the digest of the code that makes files of a family's modules. Raises ClosureError."""
    return _sources("builders.convert", family, root)


def format_key(parent_sha256: str, family: str, format: str, root: Path = ROOT) -> str:
    """Return the key of a file: the same parent, code and converters give the same bytes. Raises ClosureError."""
    return _digest([parent_sha256, format, code_digest(family, root), _versions(format), ENVIRONMENT])


def _get_or_make(
    parent: Path,
    parent_sha256: str,
    variant: Variant,
    module: Module,
    format: str,
    cache: Path,
    say: Report,
    root: Path,
) -> FormatFile:
    """Return one file; see `make`."""
    key = format_key(parent_sha256, variant.family, format, root)
    folder = cache / "formats" / key
    make_cache_folder(cache / "formats")
    check = _check_specification(parent, variant, module, format, root)
    manifest = _cached(folder, format)
    if manifest is None:
        with build.build_directory(cache / "formats") as workplace:
            out = workplace / "out"
            _convert(parent, variant, module, format, workplace, out, cache, say, root)
            found = json.loads((out / "FORMAT.json").read_text())
            found = {
                "made": found,
                "check_key": check["key"],
                "checked": _check(check, out, workplace, cache, say, root),
            }
            (out / build.MANIFEST).write_text(json.dumps(_sealed(found)))
            with contextlib.suppress(OSError):  # another process made the same meanwhile
                out.rename(folder)
        manifest = _cached(folder, format)
        if manifest is None:
            raise FormatError(
                _problem(variant, module, format, f"{folder} was not written", "run the same command again")
            )
    elif manifest["check_key"] != check["key"]:
        with build.build_directory(cache / "formats") as workplace:
            checked = _check(check, folder, workplace, cache, say, root)
        manifest = _sealed({**manifest, "check_key": check["key"], "checked": checked})
        write_atomically(folder / build.MANIFEST, json.dumps(manifest))
    made, checked = manifest["made"], manifest["checked"]
    return FormatFile(
        format=format,
        file_name=layout.FORMAT_FILES[format],
        path=folder / layout.FORMAT_FILES[format],
        bytes=made["bytes"],
        sha256=made["sha256"],
        operations=tuple(made["operations"]),
        differences=checked["differences"],
        tolerance=checked["tolerance"],
        accuracy=checked["accuracy"],
        versions=made["versions"],
        key=key,
        code=code_digest(variant.family, root),
    )


def _cached(folder: Path, format: str) -> dict[str, Any] | None:
    """Return the manifest of a finished file, or None if there is none; a damaged one is deleted."""
    if not os.path.lexists(folder):
        return None
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
        manifest: dict[str, Any] = json.loads((folder / build.MANIFEST).read_text(encoding="utf-8"))
        if (
            manifest == _sealed(manifest)
            and sha256_of_file(folder / layout.FORMAT_FILES[format]) == manifest["made"]["sha256"]
        ):
            return manifest
    discard(folder)
    return None


def _sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with the digest of all that it says."""
    content = {key: value for key, value in manifest.items() if key != "digest"}
    return {**content, "digest": _digest(content)}


def _convert(
    parent: Path,
    variant: Variant,
    module: Module,
    format: str,
    workplace: Path,
    out: Path,
    cache: Path,
    say: Report,
    root: Path,
) -> None:
    """Make the file and its `FORMAT.json` in the folder `out`. Raises FormatError."""
    spec = {
        "parent": str(parent),
        "format": format,
        "file": variant.file,
        "stem": variant.stem,
    }
    _run("builders.convert", spec, out, workplace, _log(cache, module, format), say, root)


def _check_specification(parent: Path, variant: Variant, module: Module, format: str, root: Path) -> dict[str, Any]:
    """Return what the checking process is told, and the key of it."""
    images = root / "modules" / variant.evaluation if variant.evaluation and module.head == "classifier" else None
    spec: dict[str, Any] = {
        "format": format,
        "file": variant.file,
        "stem": variant.stem,
        "evaluation": {"path": str(images)} if images else None,
    }
    sources = _sources("tools.publishing.format_check", variant.family, root)
    package = _runtime(format)[0]
    least = variant.formats.get(format, {}).get("top1_at_least")
    key = _digest([sources, images and sha256_of_file(images), importlib.metadata.version(package), least])
    spec["top1_at_least"] = least
    return {**spec, "parent": str(parent), "name": layout.FORMAT_FILES[format], "key": key}


def _check(
    spec: Mapping[str, Any], folder: Path, workplace: Path, cache: Path, say: Report, root: Path
) -> dict[str, Any]:
    """Replay the file in `folder` in its runtime; return what was found. Raises FormatError."""
    log = cache / "logs" / f"{spec['stem']}.{spec['format']}.check.log"
    out = workplace / "check"
    out.mkdir()
    _run("tools.publishing.format_check", {**spec, "made": str(folder / spec["name"])}, out, workplace, log, say, root)
    found: dict[str, Any] = json.loads((out / "CHECK.json").read_text())
    return found


def _run(
    program: str, spec: Mapping[str, Any], out: Path, workplace: Path, kept: Path, say: Report, root: Path
) -> None:
    """Run `python -m PROGRAM SPEC.json OUT` to its end. Raises FormatError with its last words."""
    file = workplace / f"{program}.json"
    file.write_text(json.dumps(spec))
    try:
        with Worker(program, file, out, root=root, environment=ENVIRONMENT, kept=kept) as worker:
            for message in worker.messages():
                if message["event"] == "stage":
                    say(message["name"], None, None)
    except WorkerError as error:
        raise FormatError(str(error)) from None


def _log(cache: Path, module: Module, format: str) -> Path:
    return cache / "logs" / f"{module.name}-{module.variant.version}.{format}.log"


def _problem(variant: Variant, module: Module, format: str, message: str, fix: str) -> str:
    return str(Problem(variant.file, f"{module.head}, {format}: {message}", fix, row=variant.stem))


def _converters(format: str) -> Mapping[str, str]:
    return CONVERTERS.get(format, LITERT_CONVERTERS)


def _runtime(format: str) -> tuple[str, str]:
    return RUNTIMES.get(format, LITERT_RUNTIME)


def _versions(format: str) -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in _converters(format)}


@functools.cache
def _sources(program: str, family: str, root: Path) -> str:
    """Return the digest of the files that a program may import."""
    files = closure.files(root, [program], family=family)
    return _digest([[file, (root / file).read_text(encoding="utf-8")] for file in files])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
