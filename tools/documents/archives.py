"""Check a page's archive against the page and the record, for `tools/validate.py --archives`."""

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from tools.archive.contents import GRAPH, Contents, read
from tools.archive.members import ArchiveError
from tools.archive.saved_model import SavedModelError
from tools.catalog import layout
from tools.common.problems import ERROR, Problem
from tools.common.schemas import schema_problems
from tools.documents.document import Document
from tools.documents.metadata import LEGACY
from tools.documents.rule import DocumentFile, Rule
from tools.documents.tree import Tree, open_regular, read_document
from tools.hub.differences import differences, shape_text

ARCHIVE = Rule(
    "archive",
    ERROR,
    "--archives: the archive is there and holds what an archive may, in order",
    "publish it, or correct the asset-path; a wrong one is packed and published again as the next version",
)
MODEL = Rule(
    "archive-model",
    ERROR,
    "--archives: its SavedModel can be read and has a serving signature",
    "export the model again, as the next version",
)
SIGNATURE = Rule(
    "archive-signature",
    ERROR,
    "--archives: its signature is the one that the page's table shows",
    "correct the page's table",
)
RECORD = Rule(
    "archive-record",
    ERROR,
    "--archives: its size and digests are those of the record and of the page",
    "restore the published archive, or render the page again",
)
RULES = (ARCHIVE, MODEL, SIGNATURE, RECORD)

_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")


def check(pages: list[DocumentFile], hub: Tree, problems: list[Problem]) -> int:
    """Read the archive of every page that names one; what is wrong is added to `problems`. Returns how many were read."""
    count = 0
    for page in pages:
        asset = page.document.value("asset-path")
        if not asset or LEGACY.fullmatch(asset) or not asset.startswith("http"):
            continue
        count += 1
        for rule, message, fix in _check(page, hub, asset):
            problems.append(rule.problem(page.file, page.document.line_of("asset-path"), message, fix))
    return count


def _check(page: DocumentFile, hub: Tree, asset: str) -> Iterator[tuple[Rule, str, str]]:
    document = page.document
    try:
        with _opened(hub, asset) as stream:
            if document.kind != "Module":
                yield from _check_other(document, stream)
                return
            contents = read(stream, asset)
    except ArchiveError as error:
        yield ARCHIVE, str(error).rstrip("."), "pack and publish it again as the next version"
        return
    except SavedModelError as error:
        yield MODEL, f"{asset}: saved_model.pb {error}", "export the model again, as the next version"
        return
    except OSError as error:
        yield ARCHIVE, f"{asset} cannot be read: {error}", "publish it, or correct the asset-path"
        return
    serving = contents.signatures.get("serving_default")
    if GRAPH in contents.texts and serving is None and document.value("format") == "saved_model_2":
        yield MODEL, f"{asset} has no signature `serving_default`", "export it with one, as the next version"
    for what in signature_problems(document, contents.signatures):
        yield SIGNATURE, f"{asset}: {what}", "correct the page's table"
    yield from _check_record(page, hub, asset, contents)


def _check_record(page: DocumentFile, hub: Tree, asset: str, contents: Contents) -> Iterator[tuple[Rule, str, str]]:
    document = page.document
    named = set(_DIGEST.findall(document.body or ""))
    file = Path(hub.root, layout.record_path(document.handle))
    if not file.is_file():
        return
    try:
        record = json.loads(read_document(file).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        yield RECORD, f"the record {file} cannot be read: {error!r}", "restore it from where it was published"
        return
    if wrong := schema_problems(record, "record"):
        yield RECORD, f"the record {file} is malformed: {'; '.join(wrong)}", "restore it from where it was published"
        return
    for each in differences(record, contents):
        yield RECORD, f"{asset}: {each}", "restore the published archive"
    digest = record["archive"]["sha256"]
    if named and digest not in named:
        yield (
            RECORD,
            f"the page names the digests {', '.join(sorted(named))}, the record {digest}",
            "render the page again",
        )


def _check_other(document: Document, stream: BinaryIO) -> Iterator[tuple[Rule, str, str]]:
    """TensorFlow Lite and TensorFlow.js models: the right type of file."""
    start = stream.read(8)
    if document.kind == "Tfjs" and start[:2] != b"\x1f\x8b":
        yield ARCHIVE, f"the archive of {document.handle} is not compressed with gzip", "pack it with `tar -czf`"
    if document.kind in ("Lite", "Coral") and start[4:8] != b"TFL3":
        yield ARCHIVE, f"the file of {document.handle} is no TensorFlow Lite model", "convert it again"


@contextlib.contextmanager
def _opened(hub: Tree, asset: str) -> Iterator[BinaryIO]:
    """Open the archive as a stream: from the hub's own folder where it has one, else from the web."""
    if asset.startswith(hub.url + "/"):
        root = os.path.abspath(hub.root)
        file = os.path.normpath(os.path.join(root, asset[len(hub.url) + 1 :]))
        if not file.startswith(root + "/"):
            raise OSError("it lies outside the hub")
        # A tree with an index is the hub itself; one of documents alone has its archives at the address.
        if os.path.isfile(file) or os.path.isfile(os.path.join(root, layout.INDEX)):
            with open_regular(file) as stream:
                yield stream
            return
    import requests

    with requests.get(asset, stream=True, timeout=30) as response:
        if response.status_code != 200:
            raise OSError(f"the server answered {response.status_code}")
        response.raw.decode_content = False
        yield cast(BinaryIO, response.raw)


def signature_problems(document: Document, signatures: dict[str, Any]) -> Iterator[str]:
    """Yield where a page's table of inputs and outputs and the signatures in the archive disagree."""
    table = signature_table(document)
    serving = signatures.get("serving_default")
    if not table or serving is None:
        return
    taken = {(name, t.dtype, t.shape) for each in signatures.values() for name, t in each.inputs.items()}
    shown = {(name, dtype, shape) for way, name, shape, dtype, _ in table if way == "input"}
    # A signature may have other names (hub.load has the argument's), but not other types or shapes.
    for name, dtype, shape in sorted(shown - taken, key=str):
        yield f"the page's input {name!r} is {dtype} {shape_text(shape)}, the archive has {_all(taken)}"
    given = {(name, t.dtype, t.shape) for name, t in serving.outputs.items()}
    shown = {(name, dtype, shape) for way, name, shape, dtype, _ in table if way == "output"}
    for name, dtype, shape in sorted(shown ^ given, key=str):
        side = "page" if (name, dtype, shape) in shown else "archive"
        other = given if side == "page" else shown
        yield f"the {side}'s output {name!r} is {dtype} {shape_text(shape)}, the other has {_all(other)}"


def _all(tensors: Iterable[tuple[str, str, tuple[int | None, ...] | None]]) -> str:
    return (
        ", ".join(f"{name!r} {dtype} {shape_text(shape)}" for name, dtype, shape in sorted(tensors, key=str)) or "none"
    )


_SIGNATURE_ROW = re.compile(r"^\| (input|output) \| `([^`|]+)` \| `\[([^]`|]*)\]` \| (\w+) \| ([^|]*) \|", re.M)


def signature_table(document: Document) -> list[tuple[str, str, tuple[int | None, ...], str, str]]:
    """Return (input or output, name, shape, type, range) of every row of a page's table of inputs and outputs."""
    rows = []
    for way, name, shape, dtype, span in _SIGNATURE_ROW.findall(document.body or ""):
        sizes = [size.strip() for size in shape.split(",") if size.strip()]
        rows.append((way, name, tuple(int(size) if size.isdecimal() else None for size in sizes), dtype, span.strip()))
    return rows
