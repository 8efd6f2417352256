"""Files of formats and their records, made up: bytes that mean nothing, for everything that does not run them."""

import dataclasses
import hashlib
from pathlib import Path

from tools.catalog import layout
from tools.hub import formats, json_objects

PUBLISHED = "2026-11-21T08:00:00Z"
OPERATIONS = {"onnx": ["Conv", "Gelu"], "float32": ["CONV_2D"], "float16": ["CONV_2D"], "int8": ["CONV_2D"]}


def content(handle, name):
    """The bytes of a file."""
    return f"{name} of {handle}\n".encode() * 40


def file(handle, name, data=None, **changes):
    """What a record says of a file."""
    data = content(handle, name) if data is None else data
    return {
        "format": name,
        "path": layout.format_path(handle, name),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "md5": hashlib.md5(data).hexdigest(),
        "operations": OPERATIONS[name],
        "differences": {"golden": 2.5e-7, "1x1": 1e-7, "3000x4000": 5e-6},
        "tolerance": 1e-4 if name in ("onnx", "float32") else 0.05,
        "accuracy": {"value": 98.61, "correct": 355, "images": 360},
        "versions": {"hubpress": "0.1.0", "tensorflow": "2.21.0"},
        "build": {"key": hashlib.sha256(b"key" + data).hexdigest(), "code": "c" * 64},
        **changes,
    }


def record(parent, kind, names, number=1):
    """A record of files of a module, whose record is `parent`."""
    files = [file(parent["handle"], name) for name in names]
    return formats.assemble(parent, kind, number, files, PUBLISHED)


def records(parent):
    """The records of a module with all formats, int8 added later: [(path, record)]."""
    handle = parent["handle"]
    return [
        (layout.format_record_path(handle, "onnx"), record(parent, "onnx", ["onnx"])),
        (layout.format_record_path(handle, "lite"), record(parent, "lite", ["float32", "float16"])),
        (layout.format_record_path(handle, "lite", 2), record(parent, "lite", ["int8"], 2)),
    ]


def store(storage, parent):
    """Store all formats of a module, files and records."""
    for name in layout.FORMAT_FILES:
        storage.create(layout.format_path(parent["handle"], name), content(parent["handle"], name))
    for path, made in records(parent):
        storage.create(path, json_objects.encode(made))


@dataclasses.dataclass(frozen=True)
class Made:
    """A file as `tools.publishing.format_build` returns it."""

    format: str
    path: Path
    bytes: int
    sha256: str
    operations: tuple
    differences: dict
    tolerance: float
    accuracy: dict | None
    versions: dict
    key: str
    code: str


class Maker:
    """Makes files whose bytes depend on the parent's archive and on `code`, a version of the converters.

    `breaks` are the formats that cannot be made, `missing` those whose converter is not installed; `asked` notes each format that was made, with the parent's files.
    """

    def __init__(self, folder, code="1"):
        self.folder, self.code, self.breaks, self.missing, self.asked = folder, code, set(), set(), []

    def require(self, name):
        if name in self.missing:
            raise RuntimeError(f"the format {name} needs a converter. Fix: pip install 'hubpress[formats]'.")

    def format_key(self, parent_sha256, family, name):
        return hashlib.sha256(f"{parent_sha256} {name} {self.code}".encode()).hexdigest()

    def make(self, parent, parent_sha256, variant, module, names, *, cache, say):
        made = []
        for name in names:
            say("convert", None, None)
            if name in self.breaks:
                raise RuntimeError(f"{variant.stem}: {name}: the runtime lacks an operation. Fix: leave {name} out.")
            self.asked.append((name, sorted(file.name for file in parent.iterdir())))
            path = self.folder / f"{module.name}-{self.code}-{name}"
            # Other code gives other bytes, but for float32.
            path.write_bytes(f"{parent_sha256} {name} {self.code if name != 'float32' else ''}".encode() * 50)
            said = file(module.handle, name, path.read_bytes())
            key = self.format_key(parent_sha256, variant.family, name)
            chosen = {field.name: said[field.name] for field in dataclasses.fields(Made) if field.name in said}
            made.append(Made(**chosen | {"path": path, "key": key, "code": "c" * 64}))
        return made
