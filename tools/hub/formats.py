"""Records of formats: the JSON that says which files for other runtimes lie beside a module, and from what they were made.

    load(storage, "publisher/name/1")                 # {"onnx": FormatFile, "int8": FormatFile, ...}
    create(storage, record, "lite", files, published=now())

A record of formats is created after its files, and never changes. It names the record of its module, the parent, which it leaves
as it is. Formats that are added later get a record of the next number, so that a client that cannot list a hub may ask for one
after the other. The shape is `templates/static/format.schema.json`.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict, cast

from tools.catalog import layout
from tools.common import clock
from tools.common.problems import Problem, with_fix
from tools.common.schemas import schema_problems
from tools.hub import json_objects, signatures
from tools.hub.json_objects import InvalidObject
from tools.hub.signatures import SignatureError, Signer
from tools.hub.storage import AlreadyThere, NotThere, Storage, StorageError

SCHEMA = 1
KINDS: dict[str, Literal["ONNX", "Lite"]] = {
    "onnx": "ONNX",
    "lite": "Lite",
}  # as records say them, by what their path says
MOST_RECORDS = 8  # of one kind: more than there are formats


class FormatAccuracy(TypedDict):
    """A measured accuracy of a file: `value` in per cent, `correct` and `images` in images."""

    value: float
    correct: int
    images: int
    dataset: NotRequired[str]
    split: NotRequired[str]


class FormatBuild(TypedDict):
    """The key of a file's build, and the digest of the code that made it."""

    key: str
    code: str


class FormatFile(TypedDict):
    """A file for another runtime: `path` relative to the hub, size in bytes, digests as hexadecimal digits.

    `differences` are from the module's own answers, relative to the largest of them; `tolerance` is what counts as the same.
    """

    format: str
    path: str
    bytes: int
    sha256: str
    md5: str
    operations: list[str]
    differences: dict[str, float]
    tolerance: float
    accuracy: FormatAccuracy | None
    versions: dict[str, str]
    build: FormatBuild


class Parent(TypedDict):
    """The module that files were made from, by the digests of its record and its archive."""

    handle: str
    record_sha256: str
    archive_sha256: str


class FormatRecord(TypedDict):
    """A record of formats; `published` is ISO 8601 in UTC."""

    schema: int
    kind: Literal["ONNX", "Lite"]
    handle: str
    number: int
    parent: Parent
    files: list[FormatFile]
    published: str


def parent_of(record: Mapping[str, Any]) -> Parent:
    """Return how records of formats name a module, by its record."""
    sha256 = hashlib.sha256(json_objects.encode(record)).hexdigest()
    return {"handle": record["handle"], "record_sha256": sha256, "archive_sha256": record["archive"]["sha256"]}


def problems(
    content: Any, place: layout.FormatRecordPath | None = None, parent: Mapping[str, Any] | None = None
) -> list[str]:
    """Return what keeps a JSON value from being a record of formats: in sentences without a full stop.

    Args:
      content: the value.
      place: where it lies, if that is known.
      parent: the record of its module, if that was read.
    """
    if isinstance(content, dict) and type(content.get("schema")) is int and content["schema"] > SCHEMA:
        return [
            f"it obeys schema {content['schema']}, and this program knows {SCHEMA}: a newer one is needed to read it"
        ]
    if wrong := schema_problems(content, "format"):
        return wrong
    handle, kind = content["handle"], next(key for key, name in KINDS.items() if name == content["kind"])
    if place is not None and place != (handle, kind, content["number"]):
        return [f"it is record {content['number']} of the kind {content['kind']} of {handle}"]
    if not layout.is_handle(handle) or content["parent"]["handle"] != handle:
        wrong.append(f"handle: {handle!r} is not the handle of its module, {content['parent']['handle']!r}")
        return wrong
    for number, file in enumerate(content["files"]):
        name = file["format"]
        if name not in layout.FORMATS_OF_KIND[kind]:
            wrong.append(f"files[{number}].format: {name} does not belong to the kind {content['kind']}")
        elif file["path"] != layout.format_path(handle, name):
            wrong.append(f"files[{number}].path: {file['path']!r} is not {layout.format_path(handle, name)}")
        elif name in [other["format"] for other in content["files"][:number]]:
            wrong.append(f"files[{number}].format: {name} is there twice")
    if not clock.is_moment(content["published"]):
        wrong.append(f"published: {content['published']!r} is no time in ISO 8601")
    if parent is not None and content["parent"] != parent_of(parent):
        wrong.append(f"parent: it names another record or archive than {handle} has")
    return wrong


def problem(where: str, wrong: Sequence[str]) -> Problem:
    """Return the problem of what lies at `where`, an address, and is no record of formats."""
    return Problem(where, f"the record of formats is malformed: {'; '.join(wrong)}", json_objects.RESTORE)


def collect(contents: Mapping[str, Any], where: Mapping[str, str]) -> tuple[list[FormatRecord], dict[str, Problem]]:
    """Return the records of formats of one module that count, in the order of their numbers, and what is wrong with the others.

    `contents` are valid by themselves, by path. A format that an earlier record has is refused in a later one. `where` are the
    addresses of the paths, for messages.
    """
    places = {path: place for path in contents if (place := layout.parse_format_record_path(path))}
    found: list[FormatRecord] = []
    wrong: dict[str, Problem] = {}
    taken: dict[str, str] = {}
    for path in sorted(places, key=lambda each: (list(KINDS).index(places[each].kind), places[each].number)):
        names = [file["format"] for file in contents[path]["files"]]
        if twice := [name for name in names if name in taken]:
            wrong[path] = problem(where[path], [f"{name} is in {taken[name]} already" for name in twice])
            continue
        taken |= dict.fromkeys(names, path)
        found.append(contents[path])
    return found, wrong


def by_format(records: Iterable[FormatRecord]) -> dict[str, FormatFile]:
    """Return the files of records by format, in the order of `layout.FORMAT_FILES`."""
    files = {file["format"]: file for record in records for file in record["files"]}
    return {name: files[name] for name in layout.FORMAT_FILES if name in files}


def load_records(storage: Storage, record: Mapping[str, Any]) -> list[FormatRecord]:
    """Return the records of formats of a module, whose record is `record`.

    Raises:
      InvalidObject: what lies there is no record of its formats.
      StorageError: it cannot be read.
    """
    contents: dict[str, Any] = {}
    for kind in KINDS:
        for number in range(1, MOST_RECORDS + 1):
            path = layout.format_record_path(record["handle"], kind, number)
            try:
                contents[path] = json_objects.read(storage, path)
            except NotThere:
                break
            if wrong := problems(contents[path], layout.parse_format_record_path(path), record):
                raise InvalidObject(problem(storage.url_for(path), wrong))
    found, double = collect(contents, {path: storage.url_for(path) for path in contents})
    for each in double.values():
        raise InvalidObject(each)
    return found


def load(storage: Storage, record: Mapping[str, Any]) -> dict[str, FormatFile]:
    """Return the files of a module by format; arguments and errors are those of `load_records`."""
    return by_format(load_records(storage, record))


def assemble(
    record: Mapping[str, Any], kind: str, number: int, files: Iterable[FormatFile], published: str
) -> FormatRecord:
    """Return the record of some files of a module, whose record is `record`."""
    return {
        "schema": SCHEMA,
        "kind": KINDS[kind],
        "handle": record["handle"],
        "number": number,
        "parent": parent_of(record),
        "files": list(files),
        "published": published,
    }


def create(
    storage: Storage, record: Mapping[str, Any], kind: str, files: Iterable[FormatFile], *, published: str
) -> list[FormatFile]:
    """Create the record of files that are stored, as the next of its kind; return the files that are new.

    A file that another publisher recorded meanwhile must be the same.

    Raises:
      StorageError: another file of the same format is recorded, or the record cannot be written.
    """
    wanted = list(files)
    while True:
        past = [each for each in load_records(storage, record) if each["kind"] == KINDS[kind]]
        known = by_format(past)
        for file in wanted:
            refuse_others(record["handle"], file, known)
        new = [file for file in wanted if file["format"] not in known]
        if not new:
            return []
        number = len(past) + 1
        made = json_objects.encode(cast(dict[str, Any], assemble(record, kind, number, new, published)))
        path = layout.format_record_path(record["handle"], kind, number)
        try:
            storage.create(path, made, content_type="application/json")
        except AlreadyThere:  # another publisher was quicker, or this one's answer was lost
            if storage.read(path) != made:
                continue
        return new


def refuse_others(handle: str, file: Mapping[str, Any], recorded: Mapping[str, FormatFile]) -> None:
    """Refuse a file that is not the one that is published.

    Raises:
      StorageError: its format is published with other bytes.
    """
    was = recorded.get(file["format"])
    if was is not None and was["sha256"] != file["sha256"]:
        message = (
            f"{handle}: {file['format']} is published with other bytes (sha256 {was['sha256'][:12]}..., these are "
            f"{file['sha256'][:12]}...); what is published never changes"
        )
        raise StorageError(with_fix(message, "leave it out of --formats, or publish a new version of the module"))


def path_of(record: FormatRecord) -> str:
    """Return where a record of formats lies."""
    kind = next(key for key, name in KINDS.items() if name == record["kind"])
    return layout.format_record_path(record["handle"], kind, record["number"])


def sign(storage: Storage, record: FormatRecord, signer: Signer) -> None:
    """Sign a record of formats that is there, unless a signature that counts lies there.

    Raises:
      SignatureError: another signature lies there, or something else than the record.
    """
    signatures.sign(storage, path_of(record), json_objects.encode(cast(dict[str, Any], record)), signer)


def is_signed(storage: Storage, record: FormatRecord, signer: Signer) -> bool:
    """Return whether a signature by somebody who counts lies beside a record of formats."""
    path = path_of(record)
    try:
        data, signature = storage.read(path), storage.read(layout.signature_path(path))
        signer.trust.check(data, signature, name=storage.url_for(path))
        return True
    except (NotThere, SignatureError):
        return False
