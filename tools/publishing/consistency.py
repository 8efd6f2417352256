"""Check that the row, record, archive and document of a module agree, before it is stored.

    check(record, module=module, file=archive_file, packed=packed, catalog=catalog, base_url=url)

Each of the four is made by other code: the row by hand, the record from what building and checking found out, the archive by
TensorFlow, the document by templates. So the record is held against its schema and its row, the archive is opened and compared with
the record (`tools.hub.differences`), and the document is rendered and read back with the grammar: its metadata, tables, digests and
code. Its sentences are words, which whoever edits `templates/hub/` may choose; tests say what they have to state.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tools.archive import contents as archive_contents
from tools.catalog import layout
from tools.catalog.catalog import Catalog, Module
from tools.common.files import sha256_of_file
from tools.common.problems import Problem
from tools.common.schemas import schema_problems
from tools.documents import archives, rules
from tools.documents.document import Document, parse
from tools.documents.rule import DocumentFile, fences
from tools.documents.tree import Tree
from tools.hub import records
from tools.hub.differences import by_key, differences, file_differences, plain
from tools.hub.records import Record
from tools.site import formatting, pages
from tools.site.jobs import Page

NUMBERS_HEADING, CHECKPOINT_HEADING = ("", "reported", "measured"), ("", "")  # of the tables that hold the data
_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")


class ConsistencyError(ValueError):
    """A module is not published, since its row, record, archive and document differ; names every field and who says what."""


def check(
    record: Record, *, module: Module, file: Path, packed: Mapping[str, Any], catalog: Catalog, base_url: str
) -> None:
    """Compare everything that is said about a module.

    Args:
      record: what is about to be committed.
      module: the catalogue's module, whose row the record comes from.
      file: its archive.
      packed: what packing found out, the fields of the record's `archive`.
      catalog: for preprocessing, publisher and collections.
      base_url: what handles begin with.

    Raises:
      ConsistencyError: two of them differ in a field, or the record breaks its schema.
    """
    found = list(_problems(record, module, file, packed, catalog, base_url))
    if found:
        fix = f"correct {module.variant.file}, the builder or the template that is wrong"
        problem = Problem(module.handle, "it is not published", fix)
        raise ConsistencyError("\n".join([*(f"{module.handle}: {each}" for each in found), str(problem)]))


def _problems(
    record: Record, module: Module, file: Path, packed: Mapping[str, Any], catalog: Catalog, base_url: str
) -> Iterator[str]:
    """Yield what differs; a document of a wrong record is wrong, too, and only repeats it, so that it is not looked at."""
    found = schema_problems(plain(record), "record") or list(_with_row(record, module, catalog))
    if not found:
        with file.open("rb", buffering=0) as stream:
            contents = archive_contents.read(stream, file.name, weights=False)
        found += _differences("`sha256`", "file", sha256_of_file(file), "packing", packed["sha256"])
        path = layout.archive_path(record["handle"])
        found += map(str, file_differences(record, {**packed, "path": path}))
        found += map(str, differences(record, contents))
    if found:
        yield from found
        return
    built = pages.build(
        [record], publisher=catalog.publisher, collections=catalog.collections, base_url=base_url, tags=catalog.tags
    )
    yield from with_document(record, built, base_url=base_url, tags=catalog.tags)
    document = parse(built[layout.document_path(record["handle"])].data.decode("utf-8"))
    yield from archives.signature_problems(document, contents.signatures)


def _with_row(record: Record, module: Module, catalog: Catalog) -> Iterator[str]:
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
        "sibling": layout.module_handle(catalog.publisher.name, other, variant.version) if other else None,
        "task": records.TASKS[module.head],
        "row": row,
        "preprocessing.transform": shared["transforms"][variant.transform],
        "preprocessing.normalization": shared["normalizations"][variant.normalization],
        "checkpoint.url": variant.checkpoint,
        "checkpoint.file": variant.checkpoint.rsplit("/", 1)[-1],
        "checkpoint.format": variant.format,
        "archive.path": layout.archive_path(module.handle),
        "verification.fine_tuned": variant.fine_tunable,
    }
    if variant.sha256:
        expected["checkpoint.sha256"] = variant.sha256
    if variant.checkpoint_key:
        expected["checkpoint.entry"] = variant.checkpoint_key
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


def with_document(
    record: Record, built: Mapping[str, Page], *, base_url: str, tags: Mapping[str, Any]
) -> Iterator[str]:
    """Yield what the rendered document of a record says differently, or breaks of the format's rules.

    `built` are the pages of `tools.site.pages.build`.
    """
    path = layout.document_path(record["handle"])
    page = DocumentFile(path, path, built[path].data.decode("utf-8"))
    paths = {each for each in built if each.endswith(".md")}
    hub = Tree(Path("."), base_url.rstrip("/"), dict(tags), paths)
    for rule, line, message, fix in rules.check(page, hub):
        yield f"its document, line {line}: {message} (fix: {fix}) [{rule.name}]"
    said = read(page.document, hub)
    for key, value in expected(record, base_url=base_url).items():
        yield from _differences(key, "document", said.get(key), "record", value)


def expected(record: Record, *, base_url: str) -> dict[str, Any]:
    """Return what a document must say of a record, in the form in which `read` returns it."""
    row, archive, measured = record["row"], record["archive"], record["measured"]
    classifier = record["head"] == "classifier"
    top1 = measured["top1"]
    gflops = measured["gflops"]
    numbers = {
        "Parameters": (row["parameters"] if classifier else None, measured["parameters"]),
        "Trainable parameters": (None, measured["trainable_parameters"]),
        "GFLOPs": (
            row["gflops"] if classifier else None,
            None if gflops is None else float(formatting.decimal(gflops, significant=4)),
        ),
    }
    if classifier:
        numbers["Top-1 accuracy (%)"] = (row["top1"], round(top1["value"], 2) if top1 else None)
        numbers["Top-5 accuracy (%)"] = (row["top5"], None)
    checkpoint = record["checkpoint"]
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
        "checkpoint": {
            "file": checkpoint["url"],
            "size": checkpoint["bytes"],
            "SHA-256": checkpoint["sha256"],
            "weight names and layout": checkpoint["format"],
        }
        | {key: checkpoint[key] for key in ("entry", "prefix") if key in checkpoint}
        | ({"left aside": ", ".join(checkpoint["left_aside"])} if "left_aside" in checkpoint else {}),
        "code loads": {record["handle"]},
        "fine-tuning code": row["fine_tunable"],
    }


def read(document: Document, hub: Tree) -> dict[str, Any]:
    """Return what a document of ours says in its metadata, tables, digests and code: the same keys as `expected`."""
    body = document.body or ""
    tables = _tables(body)
    blocks = [body[start:end] for start, end, _ in fences(body)]
    python = [block for block in blocks if "import " in block]
    found: dict[str, Any] = {
        key: document.values(key) for key in ("asset-path", "task", "network-architecture", "dataset", "format")
    }
    found |= {key: document.values(key) for key in ("fine-tunable", "license")}
    return found | {
        "handle": (document.kind, document.handle),
        "signature": archives.signature_table(document),
        "numbers": _numbers(tables.get(NUMBERS_HEADING, {})),
        "digests": set(_DIGEST.findall(body)),
        "checkpoint": _checkpoint(tables.get(CHECKPOINT_HEADING, {})),
        "code loads": {address for block in python for _, address in hub.addresses(block)},
        "fine-tuning code": any("trainable=True" in block for block in python),
    }


def _tables(body: str) -> dict[tuple[str, ...], dict[str, list[str]]]:
    """Return the tables of a document by their headings: the cells of each row, by the row's first one."""
    found: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for table in re.findall(r"(?:^\|.*\n)+", body, re.M):
        heading, _, *rows = [[cell.strip().replace("\\|", "|") for cell in _cells(line)] for line in table.splitlines()]
        found.setdefault(tuple(heading), {}).update((first, rest) for first, *rest in rows)
    return found


def _cells(line: str) -> list[str]:
    return re.split(r"(?<!\\)\|", line.strip().removeprefix("|").removesuffix("|"))


def _numbers(rows: Mapping[str, list[str]]) -> dict[str, tuple[float | None, ...]]:
    return {
        key: tuple(None if cell == formatting.DASH else float(cell.replace(",", "")) for cell in cells)
        for key, cells in rows.items()
    }


def _checkpoint(rows: Mapping[str, list[str]]) -> dict[str, Any]:
    return {
        key: int("0" + re.sub(r"\D", "", cell)) if key == "size" else _link_or_code(cell)
        for key, (cell,) in rows.items()
    }


def _link_or_code(cell: str) -> str:
    link = re.search(r"\]\((.*)\)$", cell)
    return link[1] if link else cell.strip("`")


def _at(record: Mapping[str, Any], path: str) -> Any:
    value: Any = record
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _differences(what: str, one: str, first: Any, other: str, second: Any) -> Iterator[str]:
    """Yield nothing if both say the same, else one line; of tables, one line for each key."""
    for where, mine, theirs in by_key(what, plain(first), plain(second)):
        yield f"{where}: the {one} says {_short(mine)}, the {other} {_short(theirs)}"


def _short(value: Any) -> str:
    text = repr(sorted(value) if isinstance(value, set) else value)
    return text if len(text) <= 160 else f"{text[:157]}..."
