"""Modules made up from the catalogue's real rows: records as publishing assembles them, archives without TensorFlow.

`record(module)` has fixed machine facts (sizes, digests, figures, date), so that pages made from it repeat; `publish(folder,
modules)` writes a hub of such modules with archives whose graph holds the signatures and nothing else.
"""

import hashlib
import json
from functools import cache

from tests.support.commands import ROOT
from tools import catalog
from tools.archive import packing
from tools.catalog import vocabularies
from tools.hub import records
from tools.publishing.build import archive_facts
from tools.site import pages

URL = "https://models.example.org/hub"
PUBLISHED = "2026-11-20T10:30:00Z"
VERSIONS = {
    "tensorflow": "2.21.0",
    "keras": "3.15.0",
    "tensorflow_hub": "0.16.1",
    "numpy": "2.4.0",
    "python": "3.11",
    "hubpress": "0.1.0",
}
# What `builders.export` puts into assets.extra/module.json of a row.
BUILD_KEY_FIELDS = "family stem version architecture resolution classes labels transform normalization pixel_range precision format licence fine_tunable"


@cache
def rows():
    return catalog.load()


@cache
def tags():
    return vocabularies.load(ROOT / "modules/tags")


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def plain(value):
    """As JSON gives it back."""
    return json.loads(json.dumps(value))


def described(module):
    """Return the definition of a module, as its build was told."""
    variant, shared = module.variant, rows().preprocessing
    facts = plain(variant.facts())
    return {
        "row": {key: facts[key] for key in BUILD_KEY_FIELDS.split()} | {"paper": variant.paper["url"]},
        "preprocessing": plain(
            {
                "transform": shared["transforms"][variant.transform],
                "normalization": shared["normalizations"][variant.normalization],
            }
        ),
        "checkpoint": {
            "url": variant.checkpoint,
            "file": variant.checkpoint.rsplit("/", 1)[1],
            "format": variant.format,
            "bytes": 752_000,
            "sha256": variant.sha256 or digest(variant.checkpoint),
        },
        "versions": VERSIONS,
    }


def signature(module):
    variant = module.variant
    low, high = variant.pixel_range
    shape = [None, None, None, 3]
    classifier = module.head == "classifier"
    output = {"name": "logits" if classifier else "features", "dtype": "float32"}
    return {
        "inputs": [
            {"name": "images", "dtype": "float32", "shape": shape, "range": [float(low), float(high)]},
            {"name": "images", "dtype": "uint8", "shape": shape, "range": [0, 255]},
        ],
        "outputs": [{**output, "shape": [None, variant.classes if classifier else 96]}],
        "arguments": {"training": False, "drop_path_rate": 0.0},
    }


def record(module, packed=None, taken=None):
    """A module's record; without `packed` (what packing found out), sizes and digests are made up, too.

    `taken` is what the build says that it took of the checkpoint's file, where that is not a flat one.
    """
    spec = {"module": described(module), "build": {"sources": digest("sources"), "key": digest(module.handle)}}
    measured = module.head == "classifier" and bool(module.variant.evaluation)
    built = {
        "signature": signature(module),
        "parameters": 186_554,
        "trainable_parameters": 186_554,
        "multiply_adds": 2_123_456,
        "taken": taken or {},
    }
    checked = {
        "golden_tolerance": 1e-4,
        "keras_difference": 1.2e-7,
        "sizes": ["1x1", "4000x3000"],
        "fine_tuned": module.variant.fine_tunable,
        "top1": {"value": 98.61, "correct": 355, "images": 360} if measured else None,
    }
    packed = packed or {
        "bytes": 712_345,
        "unpacked_bytes": 912_345,
        "sha256": digest(module.handle),
        "content_sha256": digest("content of " + module.handle),
        "md5": digest(module.handle)[:32],
        "members": 9,
    }
    return plain(records.assemble(module, spec, built, checked, packed, PUBLISHED))


def number(value):
    """A protocol buffer's variable-length number."""
    encoded = bytearray()
    value &= (1 << 64) - 1
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def message(field, content):
    """A field of bytes, a string or a message."""
    content = content.encode() if isinstance(content, str) else content
    return number(field << 3 | 2) + number(len(content)) + content


def tensor(name, dtype, shape):
    types = {"float32": 1, "uint8": 4, "int32": 3}
    sizes = b"".join(message(2, number(1 << 3) + number(-1 if size is None else size)) for size in shape)
    return message(1, name) + number(2 << 3) + number(types[dtype]) + message(3, sizes)


def graph(signatures):
    """A saved_model.pb: {key: (inputs, outputs)} with {name: (dtype, shape)}, and a graph that means nothing."""
    entries = b""
    for key, (inputs, outputs) in signatures.items():
        body = b""
        for field, tensors in ((1, inputs), (2, outputs)):
            for name, (dtype, shape) in tensors.items():
                body += message(field, message(1, name) + message(2, tensor(name + ":0", dtype, shape)))
        entries += message(5, message(1, key) + message(2, body))
    return number(1 << 3) + number(1) + message(2, message(2, b"nodes" * 40) + entries)


def saved_model(folder, module, *, signatures=None, labels=True, inside=None):
    """The files of a SavedModel, with the graph and the assets that are compared."""
    said = signature(module)
    output = {each["name"]: (each["dtype"], each["shape"]) for each in said["outputs"]}
    keys = {"float32": "serving_default", "uint8": "serving_uint8"}
    default = {keys[each["dtype"]]: ({each["name"]: (each["dtype"], each["shape"])}, output) for each in said["inputs"]}
    files = {
        "saved_model.pb": graph(default if signatures is None else signatures),
        "fingerprint.pb": b"fingerprint",
        "variables/variables.index": b"index",
        "variables/variables.data-00000-of-00001": module.handle.encode() * 50,
        "assets.extra/module.json": json.dumps(inside or {**described(module), "head": module.head}).encode(),
    }
    if labels and module.variant.labels and module.head == "classifier":
        files["assets/labels.txt"] = "\n".join(f"label {i}" for i in range(module.variant.classes)).encode()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def pack(folder, file):
    """Pack a SavedModel; returns what publishing keeps of it."""
    return archive_facts(packing.pack(folder, file))


def publish(folder, modules):
    """Write a hub of made-up modules: archives, records and pages. Returns the records."""
    made = []
    for number_, module in enumerate(modules):
        model = saved_model(folder / f".model-{number_}", module)
        file = folder / f"{module.handle}.tar.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        made.append(record(module, pack(model, file)))
        (folder / f"{module.handle}.json").write_bytes(records.encode(made[-1]))
    for page in build(made).values():
        (folder / page.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / page.path).write_bytes(page.data)
    return made


def build(made):
    """The pages of some records."""
    all_rows = rows()
    return pages.build(made, publisher=all_rows.publisher, collections=all_rows.collections, base_url=URL, tags=tags())


def digits():
    """Both modules of the small ConvNeXt."""
    return rows().expand(["convnext_digits"])


def each_family():
    """Both heads of one small and one large row of each family, for golden pages."""
    chosen = {}
    for module in rows().modules:
        variant = module.variant
        chosen.setdefault((variant.family, variant.data == "digits", module.head), module)
    return list(chosen.values())
