"""The last look before a module is stored: its row, its record, its archive and its document must say the same.

    require(record, module=module, file=archive_file, packed=packed, catalog=catalog, base_url=url)

Each of the four was made by other code: the row by hand, the record from what building and checking found out, the archive
by TensorFlow, the document by templates. So the document is rendered and read back with the grammar, the archive is opened and
its graph read, and every field that two of them state is compared. Raises `ConsistencyError` with all that differ.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tools.archive import contents as archive_contents
from tools.catalog import vocabularies
from tools.documents import archives, rules
from tools.documents.document import Document, parse
from tools.documents.rule import DocumentFile, fences
from tools.documents.tree import Tree
from tools.hub import records
from tools.site import formatting
from tools.site import pages as site

_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
_VERSIONS = re.compile(r"It was made with (.*?), published on (.*?), and never changes")
_ARCHIVE = re.compile(r"The archive has ([\d,]+) bytes \(([\d,]+) unpacked\) and the SHA-256 `([0-9a-f]{64})`")


class ConsistencyError(ValueError):
    """A module is not published, since its row, record, archive and document differ; names every field and who says what."""


def check(record: Mapping[str, Any], *, module: Any, file: Path, packed: Any, catalog: Any, base_url: str) -> None:
    """Compare everything that is said about a module.

    Args:
      record: what is about to be committed; module: the catalogue's module, whose row it comes from; file: its archive;
      packed: what packing it found out, the fields of the record's `archive`; catalog: for preprocessing, publisher and
      collections; base_url: what
      handles begin with.

    Raises:
      ConsistencyError: two of them differ in a field.
    """
    tags = vocabularies.load(catalog.root / "modules/tags")
    found = list(_with_row(record, module, catalog))
    with file.open("rb", buffering=0) as stream:
        contents = archive_contents.read(stream, file.name, weights=False)
        stream.seek(0)
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    found += _differences("the sha256", "file", digest, "packing", packed["sha256"])
    found += _with_archive(record, contents, packed)
    if not found:  # a document of a wrong record is wrong, too, and only repeats it
        pages = site.build(
            [record],
            publisher=catalog.publisher,
            collections=catalog.collections,
            base_url=base_url,
            tags=tags,
        )
        found += with_document(record, pages, base_url=base_url, tags=tags)
        document = parse(pages[f"{record['handle']}.md"].data.decode("utf-8"))
        found += archives.signature_problems(document, contents.signatures)
    if found:
        raise ConsistencyError(
            "\n".join(f"{module.handle}: {each}" for each in found)
            + f"\n{module.handle} is not published: correct {module.variant.file}, the builder or the template that is wrong"
        )


def _with_row(record: Mapping[str, Any], module: Any, catalog: Any) -> Iterator[str]:
    variant = module.variant
    row = variant.facts()
    other = next((name for head, name in variant.names.items() if head != module.head), None)
    shared = catalog.preprocessing
    expected = {
        "schema": records.SCHEMA,
        "kind": "Module",
        "handle": module.handle,
        "publisher": catalog.publisher.name,
        "name": variant.names[module.head],
        "version": variant.version,
        "head": module.head,
        "sibling": f"{catalog.publisher.name}/{other}/{variant.version}" if other else None,
        "task": records.TASKS[module.head],
        "row": row,
        "preprocessing.transform": shared["transforms"][variant.transform],
        "preprocessing.normalization": shared["normalizations"][variant.normalization],
        "checkpoint.url": variant.checkpoint,
        "checkpoint.file": variant.checkpoint.rsplit("/", 1)[-1],
        "checkpoint.format": variant.format,
        "archive.path": records.paths(module.handle)["archive"],
        "verification.fine_tuned": variant.fine_tunable,
    }
    if variant.sha256:
        expected["checkpoint.sha256"] = variant.sha256
    for key, value in expected.items():
        yield from _differences(f"`{key}`", "row", value, "record", _at(record, key))
    signature, low_high = record["signature"], [float(each) for each in variant.pixel_range]
    for each in signature["inputs"]:
        span = low_high if each["dtype"] == "float32" else [0, 255]
        yield from _differences(f"the range of {each['dtype']} images", "row", span, "record", each["range"])
    if module.head == "classifier":
        width = signature["outputs"][0]["shape"][-1]
        yield from _differences("the number of classes", "row", variant.classes, "record", width)
    top1 = record["measured"]["top1"]
    evaluated = bool(variant.evaluation) and module.head == "classifier"
    yield from _differences("whether top-1 was measured", "row", evaluated, "record", top1 is not None)
    if evaluated and top1 is not None:
        quotient = round(100 * top1["correct"] / top1["images"], 2)
        yield from _differences("measured top-1", "quotient of its counts", quotient, "record", top1["value"])
        if top1["dataset"] not in variant.datasets:
            yield f"measured top-1 is of {top1['dataset']!r}, which is no dataset of the row"


def _with_archive(record: Mapping[str, Any], contents: archive_contents.Contents, packed: Any) -> Iterator[str]:
    path = records.paths(record["handle"])["archive"]
    yield from _differences("`archive`", "archive", {**packed, "path": path}, "record", record["archive"])
    outputs = {each["name"]: (each["dtype"], tuple(each["shape"])) for each in record["signature"]["outputs"]}
    inputs = {(each["name"], each["dtype"], tuple(each["shape"])) for each in record["signature"]["inputs"]}
    there = set()
    for key in ("serving_default", "serving_uint8"):
        signature = contents.signatures.get(key)
        if signature is None:
            yield f"the archive has no signature `{key}`"
            continue
        there |= {(name, each.dtype, each.shape) for name, each in signature.inputs.items()}
        given = {name: (each.dtype, each.shape) for name, each in signature.outputs.items()}
        yield from _differences(f"the outputs of `{key}`", "archive", given, "record", outputs)
    yield from _differences("the inputs", "archive", sorted(there, key=str), "record", sorted(inputs, key=str))
    inside = json.loads(contents.texts.get(archive_contents.MODULE, b"{}"))
    row = {**record["row"], "paper": record["row"]["paper"]["url"]}
    for key, value in inside.get("row", {}).items():
        yield from _differences(f"`row.{key}`", "assets.extra/module.json", value, "record", row.get(key))
    for key in ("preprocessing", "checkpoint", "versions", "head"):
        stated = records.checkpoint(record) if key == "checkpoint" else record[key]
        yield from _differences(f"`{key}`", "assets.extra/module.json", inside.get(key), "record", stated)
    labels = contents.texts.get(archive_contents.LABELS)
    named = bool(record["row"]["labels"]) and record["head"] == "classifier"
    if named != (labels is not None):
        yield f"the record {'names' if named else 'has no'} labels, the archive {'has none' if named else 'has some'}"
    elif labels is not None:
        yield from _differences(
            "the number of labels",
            "archive",
            len(labels.decode("utf-8").split("\n")),
            "record",
            record["row"]["classes"],
        )


def with_document(
    record: Mapping[str, Any], pages: Mapping[str, Any], *, base_url: str, tags: Mapping[str, Any]
) -> Iterator[str]:
    """What the rendered document of a record says differently, or breaks of the format's rules; `pages` are `site.build`'s."""
    path = f"{record['handle']}.md"
    page = DocumentFile(path, path, pages[path].data.decode("utf-8"))
    paths = {each for each in pages if each.endswith(".md")}
    hub = Tree(Path("."), base_url.rstrip("/"), tags, paths)
    for rule, line, message, fix in rules.check(page, hub):
        yield f"its document, line {line}: {message}; {fix} [{rule.name}]"
    said = read(page.document, hub)
    for key, value in expected(record, base_url=base_url, tags=tags).items():
        yield from _differences(key, "document", said.get(key), "record", value)


def expected(record: Mapping[str, Any], *, base_url: str, tags: Mapping[str, Any]) -> dict[str, Any]:
    """What a document must say of a record, in the form in which `read` returns it."""
    row, archive, measured = record["row"], record["archive"], record["measured"]
    classifier = record["head"] == "classifier"
    top1 = measured["top1"]
    numbers = {
        "Parameters": (row["parameters"] if classifier else None, measured["parameters"]),
        "Trainable parameters": (None, measured["trainable_parameters"]),
        "GFLOPs": (
            row["gflops"] if classifier else None,
            None if measured["gflops"] is None else float(formatting.decimal(measured["gflops"], significant=4)),
        ),
    }
    if classifier:
        numbers["Top-1 accuracy (%)"] = (row["top1"], round(top1["value"], 2) if top1 else None)
        numbers["Top-5 accuracy (%)"] = (row["top5"], None)
    checkpoint = record["checkpoint"]
    licence = tags["license"][row["licence"]]
    return {
        "handle": ("Module", record["handle"]),
        "asset-path": [f"{base_url.rstrip('/')}/{archive['path']}"],
        "task": [record["task"]],
        "network-architecture": [row["network_architecture"]],
        "dataset": list(row["datasets"]),
        "format": ["saved_model_2"],
        "fine-tunable": ["true" if row["fine_tunable"] else "false"],
        "license": [row["licence"]],
        "signature": [
            ("input", each["name"], tuple(each["shape"]), each["dtype"], formatting.span(each["range"]))
            for each in record["signature"]["inputs"]
        ]
        + [
            ("output", each["name"], tuple(each["shape"]), each["dtype"], formatting.DASH)
            for each in record["signature"]["outputs"]
        ],
        "numbers": {key: tuple(None if v is None else float(v) for v in values) for key, values in numbers.items()},
        "digests": {archive["sha256"], checkpoint["sha256"]},
        "archive": (archive["bytes"], archive["unpacked_bytes"], archive["sha256"]),
        "versions": dict(record["versions"]),
        "published": formatting.day(record["published"]),
        "checkpoint": {
            "file": checkpoint["url"],
            "size": checkpoint["bytes"],
            "SHA-256": checkpoint["sha256"],
            "weight names and layout": checkpoint["format"],
        },
        "code loads": {record["handle"]},
        "labels": classifier and bool(row["labels"]),
        "fine-tuning code": row["fine_tunable"],
        "precision": row.get("precision", "float32"),
        "resolution": row["resolution"],
        "preprocessing": [record["preprocessing"][key]["text"] for key in ("transform", "normalization")],
        "licence": licence.display_name,
        "paper": row["paper"]["url"],
        "width": record["signature"]["outputs"][0]["shape"][-1],
    }


def read(document: Document, hub: Tree) -> dict[str, Any]:
    """What a document of ours says, read back out of its text: the same keys as `expected`."""
    body = document.body or ""
    sections = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", body, re.M | re.S))
    blocks = [body[start:end] for start, end, _ in fences(body)]
    python = [block for block in blocks if "import " in block]
    archive = _ARCHIVE.search(body)
    made = _VERSIONS.search(body)
    provenance = _table(sections.get("Provenance", ""))
    found = {key: document.values(key) for key in ("asset-path", "task", "network-architecture", "dataset", "format")}
    found |= {key: document.values(key) for key in ("fine-tunable", "license")}
    found |= {
        "handle": (document.kind, document.handle),
        "signature": archives.signature_table(document),
        "numbers": {row[0]: tuple(map(_figure, row[1:3])) for row in _table(sections.get("Numbers", "")) if row[0]},
        "digests": set(_DIGEST.findall(body)),
        "archive": (_whole(archive[1]), _whole(archive[2]), archive[3]) if archive else None,
        "versions": dict(each.rsplit(" ", 1) for each in made[1].split(", ")) if made else None,
        "published": made[2] if made else None,
        "checkpoint": {row[0]: _checkpoint_cell(row[0], row[1]) for row in provenance if row[0]},
        "code loads": {address for block in python for _, address in hub.addresses(block)},
        "labels": "`module.labels()` returns" in body,
        "precision": _first(r"The network computes in `(\w+)`", body) or "float32",
        "fine-tuning code": any("trainable=True" in block for block in python),
        "resolution": _whole(_first(r"sees images at (\d+)x\1 pixels", sections.get("Overview", ""))),
        "preprocessing": [
            text.rstrip(".") for text in re.findall(r"^\d\. \w+: (.*)$", sections.get("Preprocessing", ""), re.M)
        ],
        "licence": _first(r"under the licence \[?([^\].]+(?:\.\d)?[^\].]*)", sections.get("Licence", "")),
        "paper": _first(r"\]\((\S+?)\)", sections.get("Citation", "")),
        "width": _whole(_first(r"(?:each of|a vector of) ([\d,]+) (?:classes|features)", sections.get("Overview", ""))),
    }
    return found


def _table(section: str) -> list[list[str]]:
    """The cells of a section's table, without its heading."""
    rows = [line.strip().strip("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)] for row in rows[2:]]


def _checkpoint_cell(key: str, cell: str) -> Any:
    if key == "size":
        return _whole(cell.removesuffix(" bytes"))
    return _first(r"\]\((.*)\)$", cell) or cell.strip("`")


def _first(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text)
    return found[1] if found else None


def _whole(text: str | None) -> int | None:
    digits = (text or "").replace(",", "")
    return int(digits) if digits.isdecimal() else None


def _figure(cell: str) -> float | None:
    return None if cell == formatting.DASH else float(cell.replace(",", ""))


def _at(record: Mapping[str, Any], path: str) -> Any:
    value: Any = record
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _plain(value: Any) -> Any:
    """A value as JSON would give it back, so that tuples and lists, 1 and 1.0 are equal."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


def _differences(what: str, one: str, first: Any, other: str, second: Any) -> Iterator[str]:
    """Nothing if both say the same, else one line; of tables, one line for each key."""
    first, second = _plain(first), _plain(second)
    if isinstance(first, dict) and isinstance(second, dict):
        for key in sorted(first.keys() | second.keys()):
            yield from _differences(f"{what} {key}", one, first.get(key), other, second.get(key))
    elif first != second:
        yield f"{what}: the {one} says {_short(first)}, the {other} {_short(second)}"


def _short(value: Any) -> str:
    text = repr(sorted(value) if isinstance(value, set) else value)
    return text if len(text) <= 160 else f"{text[:157]}..."
