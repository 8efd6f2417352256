"""Records: the JSON beside each archive, whose creation is the publication; and everything that a hub holds, at one moment.

    hub = snapshot(storage)                 # hub.records: everything that is published; hub.yanked: {handle: why}
    record = assemble(module, ...)          # for `tools.publishing`, which commits it

A record never changes; what is learnt later lies in notes beside it (`tools.hub.notes`). The shape of a record is
`templates/static/record.schema.json`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NotRequired, TypedDict, cast

from tools.catalog import layout
from tools.catalog.catalog import Module
from tools.common import clock
from tools.common.problems import Problem
from tools.common.schemas import schema_problems
from tools.hub import formats, json_objects, notes, signatures
from tools.hub.formats import FormatRecord
from tools.hub.json_objects import InvalidObject
from tools.hub.signatures import Claim
from tools.hub.storage import NotThere, ObjectInfo, Storage, StorageError

SCHEMA = 1
Head = Literal["classifier", "feature_extractor"]
TASKS: dict[str, str] = {"classifier": "image-classification", "feature_extractor": "image-feature-vector"}

encode = json_objects.encode


class Text(TypedDict):
    """A step of preprocessing: `text` for people, beside what the build was told."""

    text: str


class Preprocessing(TypedDict):
    """The steps between the images that a module is given and its network."""

    transform: Text
    normalization: Text


class OutputTensor(TypedDict):
    """A tensor of a signature; a size of `shape` is None where any will do."""

    name: str
    dtype: str
    shape: list[int | None]


class InputTensor(OutputTensor):
    """A tensor of images, with the lowest and the highest value of a pixel."""

    range: list[float]


class ModuleSignature(TypedDict):
    """Inputs and outputs of a module; `arguments` are further ones with their defaults, `maps` of intermediate stages."""

    inputs: list[InputTensor]
    outputs: list[OutputTensor]
    arguments: dict[str, Any]
    maps: NotRequired[list[dict[str, Any]]]


class Top1(TypedDict):
    """A measured accuracy: `value` in per cent, `correct` and `images` in images, `date` as YYYY-MM-DD."""

    value: float
    correct: int
    images: int
    dataset: str
    split: str
    date: str


class Measured(TypedDict):
    """Figures of the published module; `gflops` are 10^9 multiply-adds for one image at the row's resolution."""

    parameters: int
    trainable_parameters: int
    gflops: float | None
    top1: Top1 | None


class RecordedCheckpoint(TypedDict):
    """The file that the weights come from; `mirror` is present if it did not come from its URL.

    What was taken of it: `entry` is the network's entry of a file with several, `prefix` was before all names and was taken off,
    `left_aside` are the few tensors without it. None of them is present for a flat file that was taken whole.
    """

    url: str
    file: str
    format: str
    bytes: int
    sha256: str
    mirror: NotRequired[bool]
    entry: NotRequired[str]
    prefix: NotRequired[str]
    left_aside: NotRequired[list[str]]


class Archive(TypedDict):
    """An archive: `path` relative to the hub, sizes in bytes, digests as hexadecimal digits, `members` files."""

    path: str
    bytes: int
    unpacked_bytes: int
    sha256: str
    md5: str
    members: int
    content_sha256: NotRequired[str]


class ModuleChecks(TypedDict):
    """Results of checking a build; differences are over max(1, the largest magnitude of the expected output)."""

    golden_tolerance: float
    keras_difference: float | None
    fine_tuned: bool
    sizes: list[str]
    precision_change: NotRequired[float]


class BuildDigests(TypedDict):
    """Digests of all that decided the bytes."""

    key: str
    sources: NotRequired[str]


class Record(TypedDict):
    """The record of a published module; `row` is its row's facts, `published` ISO 8601 in UTC."""

    schema: int
    kind: Literal["Module"]
    handle: str
    publisher: str
    name: str
    version: int
    head: Head
    sibling: str | None
    task: str
    row: dict[str, Any]
    preprocessing: Preprocessing
    signature: ModuleSignature
    measured: Measured
    checkpoint: RecordedCheckpoint
    archive: Archive
    verification: ModuleChecks
    versions: dict[str, str]
    build: BuildDigests
    published: str


@dataclass(frozen=True)
class HubSnapshot:
    """Everything that a hub holds at one moment.

    `records` are in the order of publisher, name and version; `yanked` says why by handle; `listing` is that of
    `Storage.list_objects`; `measurements` are the notes of evaluations and speeds by handle, in the order of their numbers;
    `problems` say what is wrong with the records, notes and signatures that were left out, by path; `claims` say whom the signature
    of a record names, by handle, where all is there that belongs to it: nobody has checked that; `formats` are the records of the
    files for other runtimes of published modules, by handle.
    """

    records: list[Record]
    yanked: dict[str, str]
    listing: dict[str, ObjectInfo | None] = field(default_factory=dict)
    measurements: dict[str, list[notes.Note]] = field(default_factory=dict)
    problems: dict[str, Problem] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)
    formats: dict[str, list[FormatRecord]] = field(default_factory=dict)


class DamagedHub(StorageError):
    """All was done, but records or notes that are malformed were left out; the message names each.

    `pages` is the number of pages that were written.
    """

    def __init__(self, problems: Mapping[str, Problem], *, pages: int = 0):
        super().__init__("\n".join(str(problems[path]) for path in sorted(problems)))
        self.pages = pages


def load(storage: Storage, handle: str) -> Record | None:
    """Return the record of a handle, or None if it is not published.

    Raises:
      InvalidObject: what lies there is no record of it.
      StorageError: it cannot be read.
    """
    path = layout.record_path(handle)
    try:
        content = json_objects.read(storage, path)
    except NotThere:
        return None
    if wrong := record_problems(content, handle):
        raise InvalidObject(_problem(storage, path, wrong))
    return cast(Record, content)


def record_problems(content: Any, handle: str | None = None) -> list[str]:
    """Return what keeps a JSON value from being a record, that of `handle` if one is given: in sentences without a full stop.

    Every field that becomes a path, an address or a name has been checked when there is none.
    """
    if isinstance(content, dict) and isinstance(content.get("schema"), int) and content["schema"] > SCHEMA:
        return [
            f"it obeys schema {content['schema']}, and this program knows {SCHEMA}: a newer one is needed to read it"
        ]
    if wrong := schema_problems(content, "record"):
        return wrong
    stated = content["handle"]
    if handle is not None and stated != handle:
        return [f"it is the record of {stated}"]
    if not layout.is_handle(stated) or stated != f"{content['publisher']}/{content['name']}/{content['version']}":
        wrong.append(f"handle: {stated!r} is not publisher/name/version of the record")
    if content["archive"]["path"] != layout.archive_path(stated):
        wrong.append(f"archive.path: {content['archive']['path']!r} is not {layout.archive_path(stated)}")
    if content["sibling"] is not None and not layout.is_handle(content["sibling"]):
        wrong.append(f"sibling: {content['sibling']!r} is no handle")
    if not clock.is_moment(content["published"]):
        wrong.append(f"published: {content['published']!r} is no time in ISO 8601")
    return wrong


def _problem(storage: Storage, path: str, wrong: list[str]) -> Problem:
    what = "record" if layout.handle_of_record(path) else "note"
    return Problem(storage.url_for(path), f"the {what} is malformed: {'; '.join(wrong)}", json_objects.RESTORE)


def is_record_or_note(path: str) -> bool:
    """Return whether a path may be that of a record, of a record of formats or of a note."""
    parse = (layout.handle_of_record, layout.parse_note_path, layout.parse_format_record_path)
    return any(each(path) is not None for each in parse)


def is_source(path: str) -> bool:
    """Return whether pages are derived from what may lie at a path: a record, a record of formats, a note, a record's signature."""
    return is_record_or_note(path) or (path.endswith(layout.SIGNATURE_SUFFIX) and _is_signature(path))


def _is_signature(path: str) -> bool:
    signed = layout.signed_path(path)
    return signed is not None and layout.handle_of_record(signed) is not None


def snapshot(
    storage: Storage,
    contents: dict[str, Any] | None = None,
    *,
    listing: dict[str, ObjectInfo | None] | None = None,
) -> HubSnapshot:
    """Read every record, record of formats and note of the hub, from one listing.

    What is malformed is left out and named in `problems`.

    Args:
      contents: records and notes that were read and found valid already, by path, since neither ever changes, and of the
        signatures of records whom they name; what is read and valid is added. Checking takes longer than reading, and is done once.
      listing: `storage.list_objects()` of just now, where somebody asked already.
    """
    listing = storage.list_objects() if listing is None else listing
    contents = {} if contents is None else contents
    handles = {path: handle for path in listing if (handle := layout.handle_of_record(path))}
    note_paths = {path: place for path in listing if (place := layout.parse_note_path(path))}
    format_paths = {path: where for path in listing if (where := layout.parse_format_record_path(path))}
    signed = {
        layout.signature_path(path): handle
        for path, handle in handles.items()
        if all(each in listing for each in layout.attestation_paths(handle))
    }
    wanted = [path for path in (*handles, *note_paths, *format_paths, *signed) if path not in contents]
    found, problems = json_objects.read_all(storage, wanted)
    doubtful: dict[str, Any] = {}  # yanks that say too little: they count
    for path, content in found.items():
        if path in signed:
            if claim := signatures.claim_of(content):
                contents[path] = claim
            else:
                problems[path] = Problem(storage.url_for(path), "the signature is malformed", json_objects.RESTORE)
            continue
        if path in format_paths:
            if wrong := formats.problems(content, format_paths[path]):
                problems[path] = formats.problem(storage.url_for(path), wrong)
            else:
                contents[path] = content
            continue
        wrong = (
            record_problems(content, handles[path]) if path in handles else notes.problems(content, note_paths[path])
        )
        if wrong:
            problems[path] = _problem(storage, path, wrong)
            if path in note_paths:
                doubtful[path] = content
        else:
            contents[path] = content
    valid = [cast(Record, contents[path]) for path in handles if path in contents]
    about = {path: contents[path] for path in note_paths if path in contents}
    formats_found = _formats(
        storage, valid, {path: contents[path] for path in format_paths if path in contents}, problems
    )
    return HubSnapshot(
        sorted(valid, key=lambda record: _order(record["handle"])),
        notes.reasons(doubtful | about),
        listing,
        notes.measurements(about),
        problems,
        {handle: contents[path] for path, handle in signed.items() if path in contents},
        formats_found,
    )


def _formats(
    storage: Storage, published: list[Record], contents: Mapping[str, Any], problems: dict[str, Problem]
) -> dict[str, list[FormatRecord]]:
    """Return the records of formats among `contents`, by handle, of the modules that are `published`; add to `problems`."""
    of_handle: dict[str, dict[str, Any]] = {}
    for path, content in contents.items():
        of_handle.setdefault(content["handle"], {})[path] = content
    parents = {record["handle"]: record for record in published if record["handle"] in of_handle}
    found: dict[str, list[FormatRecord]] = {}
    for handle, parent in parents.items():
        named = formats.parent_of(parent)
        right = {path: each for path, each in of_handle[handle].items() if each["parent"] == named}
        for path in of_handle[handle].keys() - right.keys():
            wrong = [f"parent: it names another record or archive than {handle} has"]
            problems[path] = formats.problem(storage.url_for(path), wrong)
        found[handle], double = formats.collect(right, {path: storage.url_for(path) for path in right})
        problems |= double
    return {handle: each for handle, each in found.items() if each}


def _order(handle: str) -> tuple[str, str, int]:
    """Return publisher, name and version, by which records are sorted."""
    name, _, version = handle.rpartition("/")
    publisher, _, name = name.partition("/")
    return publisher, name, int(version)


def checkpoint(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record says of the checkpoint that the module itself says, too: all but whether its file came from a mirror."""
    return {key: value for key, value in (record.get("checkpoint") or {}).items() if key != "mirror"}


def assemble(
    module: Module,
    spec: Mapping[str, Any],
    built: Mapping[str, Any],
    checked: Mapping[str, Any],
    packed: Mapping[str, Any],
    published: str,
) -> Record:
    """Return the record of a module that was built, checked and packed.

    Args:
      module: the catalogue's module; spec: what its build was asked for; built, checked: what `builders.build` and
      `tools.publishing.check` found out about its head; packed: sizes and digests of its archive;
      published: the time, ISO 8601 in UTC.
    """
    row = module.variant
    other = next((head for head in row.names if head != module.head), None)
    top1 = checked.get("top1")
    if top1:
        top1 = top1 | {"dataset": row.datasets[-1], "split": "test", "date": published[:10]}
    found = {
        "schema": SCHEMA,
        "kind": "Module",
        "handle": module.handle,
        "publisher": module.publisher,
        "name": module.name,
        "version": row.version,
        "head": module.head,
        "sibling": layout.module_handle(module.publisher, row.names[other], row.version) if other else None,
        "task": TASKS[module.head],
        "row": row.facts(),
        "preprocessing": spec["module"]["preprocessing"],
        "signature": built["signature"],
        "measured": {
            "parameters": built["parameters"],
            "trainable_parameters": built["trainable_parameters"],
            "gflops": built["multiply_adds"] / 1e9,
            "top1": top1,
        },
        "checkpoint": spec["module"]["checkpoint"] | built["taken"] | ({"mirror": True} if spec.get("mirror") else {}),
        "archive": {"path": layout.archive_path(module.handle), **packed},
        "verification": {
            "golden_tolerance": checked["golden_tolerance"],
            "keras_difference": checked["keras_difference"],
            "fine_tuned": checked.get("fine_tuned", False),
            "sizes": checked["sizes"],
        }
        | ({"precision_change": built["precision_change"]} if built.get("precision_change") is not None else {}),
        "versions": spec["module"]["versions"],
        "build": spec["build"],
        "published": published,
    }
    return cast(Record, found)
