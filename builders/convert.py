"""Convert a published module for another runtime: its own files -> one file. A process of its own, so that the bytes repeat.

    PYTHONHASHSEED=0 python -m builders.convert SPEC.json OUT

SPEC holds `parent` (the folder of the unpacked module), `format` ("onnx", "float32", "float16" or "int8"),
and `file` and `stem` (where the row is written, for errors). OUT gets the file and `FORMAT.json` with what was found out. Progress
goes to standard output as lines of JSON, `{"event": "stage", "name": NAME}`.

Nothing of `tools` is imported: the sources that this program imports decide the bytes of files.
"""

import hashlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from builders import environment

# Of each format: its file, and the packages that decide the bytes.
LITERT_PACKAGES = ("tensorflow", "keras", "numpy", "flatbuffers")
FILES = {
    "onnx": ("portable.onnx", ("tensorflow", "keras", "numpy", "onnx", "tf2onnx")),
    "float32": ("float32.tflite", LITERT_PACKAGES),
    "float16": ("float16.tflite", LITERT_PACKAGES),
    "int8": ("int8.tflite", LITERT_PACKAGES),
}


def convert(spec: Mapping[str, Any], out: Path, say: Callable[[Mapping[str, Any]], None]) -> None:
    """Write the file of `spec` into the folder `out`, and what was found out about it as `FORMAT.json`.

    `say` is called with messages for the parent process.

    Raises:
      ConversionError: the module cannot be converted; the message names row, format and fix. Nothing is written.
      UnrollingError: `parent` is no module that this code can read.
    """
    import builders
    from builders.formats import ConversionError
    from builders.unrolling import unrolled

    format, parent = spec["format"], Path(spec["parent"])
    name, packages = FILES[format]
    say(_stage(f"read the module for {format}"))
    model = unrolled(parent)
    described = json.loads((parent / "assets.extra" / "module.json").read_text(encoding="utf-8"))
    head = described["head"]
    answer = {"classifier": "logits", "feature_extractor": "features"}[head]
    say(_stage(f"convert into {format}"))
    out.mkdir(parents=True, exist_ok=True)
    try:
        if described["row"].get("precision", "float32") != "float32":
            raise ConversionError("its network computes in bfloat16. Fix: publish files of float32 rows.")
        if format == "onnx":
            from builders.formats import onnx_file

            maps = builders.maps(model) if head == "feature_extractor" else {}
            operations = onnx_file.write(out / name, model, described, {answer: model.output, **maps})
        else:
            from builders.formats import litert_file

            operations = litert_file.write(out / name, format, model, described, answer)
    except ConversionError as error:
        raise ConversionError(f"{spec['file']}: {spec['stem']}: {head}, {format}: {error}") from None
    data = (out / name).read_bytes()
    found = {
        "operations": operations,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "versions": {package: importlib.metadata.version(package) for package in packages},
    }
    (out / "FORMAT.json").write_text(json.dumps(found))


def _stage(name: str) -> dict[str, str]:
    """Return the message that a stage begins."""
    return {"event": "stage", "name": name}


def main(arguments: list[str]) -> int:
    """Convert as the specification says; returns the exit status."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        raise SystemExit(
            "without PYTHONHASHSEED=0 the same module gives other bytes every time. Fix: set PYTHONHASHSEED=0."
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    specification, out = map(Path, arguments)
    return environment.run(lambda say: convert(json.loads(specification.read_text()), out, say), ValueError)


if __name__ == "__main__":
    environment.end(main(sys.argv[1:]))
