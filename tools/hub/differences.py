"""Compare an archive with its record, in one place for publishing, verifying, auditing and validating.

    for each in differences(record, contents):        # contents: what `tools.archive.contents.read` found
        print(each)              # `archive.bytes`: the record says 830944, the archive has 830943

A record that obeys its schema (`tools.common.schemas`) is asked for here: check that first where it comes from others.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tools.archive.contents import LABELS, MODULE, Contents
from tools.archive.saved_model import Signature
from tools.common import json_text
from tools.hub import records
from tools.hub.records import Record

# The signature that takes pixels of a type: each is in the graph if the record says that the module takes them.
SIGNATURES = {"float32": "serving_default", "uint8": "serving_uint8"}
_FILE_FACTS = ("bytes", "sha256", "md5", "content_sha256", "unpacked_bytes", "members", "path")
_DESCRIBED = ("head", "preprocessing", "checkpoint", "versions")


class Difference(NamedTuple):
    """One fact that a record and an archive state differently; `place` is where in the archive it was found."""

    what: str
    recorded: Any
    found: Any
    place: str = "archive"

    def __str__(self) -> str:
        found = f"the {self.place} has none" if self.found is None else f"the {self.place} has {_short(self.found)}"
        return f"{self.what}: the record says {_short(self.recorded)}, {found}"


def differences(record: Record, contents: Contents) -> list[Difference]:
    """Return where a record and its archive differ: size and digests, signatures, the module's description, labels.

    Contents that were read without weights have no size and digests, which are not compared then.
    """
    found = {"bytes": contents.bytes, "sha256": contents.sha256, "md5": contents.md5}
    found |= {"members": contents.files, "unpacked_bytes": contents.unpacked_bytes}
    return [
        *file_differences(record, found if contents.sha256 else {}),
        *_signatures(record, contents.signatures),
        *_description(record, contents.texts.get(MODULE)),
        *_labels(record, contents.texts.get(LABELS)),
    ]


def file_differences(record: Record, found: Mapping[str, Any]) -> list[Difference]:
    """Return where a record and what is known of its archive as a file differ; only facts that both state are compared.

    Args:
      found: `bytes`, `sha256`, `md5`, ... as the record's `archive` names them; None where a fact is not known.
    """
    stated: Mapping[str, Any] = record["archive"]
    return [
        Difference(f"`archive.{key}`", stated[key], found[key])
        for key in _FILE_FACTS
        if stated.get(key) is not None and found.get(key) is not None and stated[key] != found[key]
    ]


def _signatures(record: Record, signatures: Mapping[str, Signature]) -> Iterator[Difference]:
    stated = record["signature"]
    outputs = {_tensor(each) for each in stated["outputs"]}
    present = [signatures[key] for key in SIGNATURES.values() if key in signatures]
    taken = {(name, each.dtype, each.shape) for one in present for name, each in one.inputs.items()}
    for dtype in dict.fromkeys(("float32", *(each["dtype"] for each in stated["inputs"]))):
        key = SIGNATURES.get(dtype)
        if key is None:
            continue
        if key not in signatures:
            yield Difference(f"the signature `{key}`", _tensors(outputs), None, "graph")
            continue
        given = {(name, each.dtype, each.shape) for name, each in signatures[key].outputs.items()}
        if given != outputs:
            yield Difference(f"the outputs of `{key}`", _tensors(outputs), _tensors(given), "graph")
    inputs = {_tensor(each) for each in stated["inputs"]}
    if inputs != taken:
        yield Difference("the inputs", _tensors(inputs), _tensors(taken), "graph")


def _description(record: Record, text: bytes | None) -> Iterator[Difference]:
    """Compare what the module says of itself."""
    try:
        described = json_text.parse_object(text or b"{}")
    except json_text.JsonError:
        yield Difference(MODULE, "a JSON object", (text or b"")[:40])
        return
    row = described.get("row")
    stated = {**record["row"], "paper": record["row"]["paper"]["url"]}
    for key, value in (row if isinstance(row, dict) else {}).items():
        if plain(stated.get(key)) != value:
            yield Difference(f"`row.{key}`", stated.get(key), value, MODULE)
    recorded = {**record, "checkpoint": records.checkpoint(record)}
    for key in _DESCRIBED:
        for each in by_key(f"`{key}`", plain(recorded[key]), described.get(key)):
            yield Difference(*each, MODULE)


def by_key(what: str, first: Any, second: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield where two values differ, with both; of tables, each key that differs, as `WHAT KEY`."""
    if isinstance(first, dict) and isinstance(second, dict):
        for key in sorted(first.keys() | second.keys()):
            yield from by_key(f"{what} {key}", first.get(key), second.get(key))
    elif first != second:
        yield what, first, second


def _labels(record: Record, labels: bytes | None) -> Iterator[Difference]:
    named = bool(record["row"]["labels"]) and record["head"] == "classifier"
    count = None if labels is None else labels.count(b"\n") + 1
    stated = record["row"]["classes"] if named else None
    if count != stated:
        yield Difference("the number of labels", stated, count)


def plain(value: Any) -> Any:
    """Return a value as JSON would give it back, so that tuples and lists are equal."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def _tensor(stated: Mapping[str, Any]) -> tuple[str, str, tuple[int | None, ...]]:
    return stated["name"], stated["dtype"], tuple(stated["shape"])


def _tensors(tensors: set[Any]) -> str:
    """Describe tensors: `images` float32 [any, 224, 224, 3]."""
    return (
        ", ".join(f"`{name}` {dtype} {shape_text(shape)}" for name, dtype, shape in sorted(tensors, key=str)) or "none"
    )


def shape_text(shape: tuple[int | None, ...] | None) -> str:
    """Return a shape for people: sizes, and `any` for those that are open."""
    return "any rank" if shape is None else str(list(shape)).replace("None", "any")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 160 else f"{text[:157]}..."
