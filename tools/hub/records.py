"""Records: the JSON beside each archive, whose creation is the publication, and the notes that were added later.

    hub = snapshot(storage)                 # hub.records: everything that is published; hub.yanked: {handle: why}
    record = assemble(module, ...)        # what `publishing` is about to commit
    add_note(storage, "publisher/name/1", "yank", "trained on the test set", date="2026-01-31T12:00:00Z")
    add_measurement(storage, "publisher/name/1", "speed", {"cpu": ..., ...}, date="2026-01-31T12:00:00Z")

A record never changes. What is learnt after publication lies beside it in notes, `<handle>.note-1.json`, `.note-2.json`, ...:
each is created and never edited, the numbers have no gaps, and the last one about a matter holds. So a yank is a note, and its
undo is another; an accuracy or a speed that was measured later is a note as well; whoever cannot list a hub (a client of a plain
file server) asks for one number after the other.
"""

import json
import math
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tools.hub.storage import AlreadyThere, NotThere, ObjectInfo, Storage, StorageError

SCHEMA = 1
TASKS = {"classifier": "image-classification", "feature_extractor": "image-feature-vector"}
REMOTE_READERS = 16  # small objects that are read, or written, at the same time where each takes a round trip

_RECORD = re.compile(r"((?:[^/]+/){2,}(?:0|[1-9][0-9]*))\.json")
_NOTE = re.compile(r"((?:[^/]+/){2,}(?:0|[1-9][0-9]*))\.note-([1-9][0-9]*)\.json")
YANK, UNYANK = "yank", "unyank"
EVALUATION, SPEED = "evaluation", "speed"


@dataclass(frozen=True)
class HubSnapshot:
    """What a hub holds: `records` by handle's order, `yanked` handles with why, `listing` as `Storage.list_objects` has it.

    `measurements` are the notes of evaluations and speeds, in the order of their numbers, by handle.
    """

    records: list[dict[str, Any]]
    yanked: dict[str, str]
    listing: dict[str, ObjectInfo | None] = field(default_factory=dict)
    measurements: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def paths(handle: str) -> dict[str, str]:
    """Where a module's objects lie, relative to the hub."""
    return {"archive": f"{handle}.tar.gz", "record": f"{handle}.json"}


def note_path(handle: str, number: int) -> str:
    """Where a module's note lies, relative to the hub; numbers begin with 1."""
    return f"{handle}.note-{number}.json"


def load(storage: Storage, handle: str) -> dict[str, Any] | None:
    """The record of a handle, or None if it is not published."""
    try:
        return _parsed(storage, paths(handle)["record"])
    except NotThere:
        return None


def load_all(storage: Storage) -> list[dict[str, Any]]:
    """Every record of the hub, by handle."""
    return snapshot(storage).records


def is_content(path: str) -> bool:
    """Whether a path may be that of a record or of a note: what pages are derived from."""
    return bool(_RECORD.fullmatch(path) or _NOTE.fullmatch(path))


def snapshot(
    storage: Storage, known: dict[str, Any] | None = None, *, listing: dict[str, ObjectInfo | None] | None = None
) -> HubSnapshot:
    """Every record and note of the hub, from one listing.

    `known` keeps what was read, by path, from one call to the next: neither records nor notes ever change. `listing` is
    what `storage.list_objects` said just now, where somebody asked already.
    """
    listing = storage.list_objects() if listing is None else listing
    known = {} if known is None else known
    wanted = [path for path in listing if _RECORD.fullmatch(path) or _NOTE.fullmatch(path)]
    for path, content in _read(storage, [path for path in wanted if path not in known]):
        known[path] = content
    found = [
        known[path]
        for path in wanted
        if known[path].get("kind") == "Module" and paths(str(known[path].get("handle")))["record"] == path
    ]
    found.sort(key=lambda record: (record["publisher"], record["name"], record["version"]))
    return HubSnapshot(found, _yanked(wanted, known), listing, _measurements(wanted, known))


def yanked(storage: Storage, listed: Iterable[str]) -> dict[str, str]:
    """The yanked handles, with why, among the paths of a listing."""
    notes = [path for path in listed if _NOTE.fullmatch(path)]
    return _yanked(notes, dict(_read(storage, notes)))


def add_note(storage: Storage, handle: str, action: str, why: str, *, date: str) -> dict[str, Any] | None:
    """Yank a published module ("yank"), or take that back ("unyank").

    Returns:
      The note, or None if what the notes say already is the same.

    Raises:
      StorageError: nothing is published under the handle, or the note cannot be written.
    """

    def answer(contents: dict[str, Any]) -> dict[str, Any] | None:
        state = _yanked(contents, contents).get(handle)
        return None if (state == why if action == YANK else state is None) else {"why": why}

    return _add(storage, handle, action, answer, date)


def add_measurement(
    storage: Storage, handle: str, kind: str, measurement: dict[str, Any], *, date: str
) -> dict[str, Any] | None:
    """Put what was measured on a published module beside its record: an accuracy ("evaluation") or a speed ("speed").

    An evaluation: {"dataset": tag, "split": "test", "images": n, "top1": {"value": per cent, "correct": k}, "top5": the same or
    None, "versions": {package: version}, "list_sha256": of the list of images and labels}. A speed: {"cpu": name, "threads": n,
    "resolution": pixels, "images_per_second": {batch: images/s}, "versions": {package: version}}. Both may say more.

    Returns:
      The note, or None if the newest one about the same (data set and split; processor and threads) says the same already.

    Raises:
      StorageError: nothing is published under the handle, the measurement is malformed, or the note cannot be written.
    """
    if wrong := malformed(kind, measurement):
        raise StorageError(f"{handle}: no note of this {kind}: {wrong}. Correct what measured it.")
    measurement = json.loads(json.dumps(measurement))  # as it will be read again

    def answer(contents: dict[str, Any]) -> dict[str, Any] | None:
        matter = _matter(kind, measurement)
        past = [
            note["measurement"] for note in _measurements(contents, contents).get(handle, ()) if note["action"] == kind
        ]
        newest = next((each for each in reversed(past) if _matter(kind, each) == matter), None)
        return None if newest == measurement else {"measurement": measurement}

    return _add(storage, handle, kind, answer, date)


def _add(
    storage: Storage, handle: str, action: str, answer: Callable[[dict[str, Any]], dict[str, Any] | None], date: str
) -> dict[str, Any] | None:
    """Create the next note of a published module with what `answer` says, given the notes so far by path; None: nothing new."""
    if load(storage, handle) is None:
        raise StorageError(f"{handle} is not published in {storage.url}. Check publisher, name and version.")
    while True:
        listed = [path for path in storage.list(f"{handle}.note-", ".json") if _NOTE.fullmatch(path)]
        said = answer(dict(_read(storage, listed)))
        if said is None:
            return None
        number = max((int(_NOTE.fullmatch(path)[2]) for path in listed), default=0) + 1
        note = {"schema": SCHEMA, "kind": "Note", "handle": handle, "number": number, "action": action, **said}
        note["date"] = date
        try:
            storage.create(note_path(handle, number), encode(note), content_type="application/json")
            return note
        except AlreadyThere:  # somebody else added one just now: what it says may be enough
            continue


def malformed(kind: str, measurement: Any) -> str | None:
    """What is wrong with a measurement, in one sentence without a full stop; None if it can be a note."""
    if kind not in (EVALUATION, SPEED):
        return f"{kind!r} is no kind of measurement; there are {EVALUATION!r} and {SPEED!r}"
    if not isinstance(measurement, dict):
        return f"it is no mapping but {type(measurement).__name__}"
    checks = _EVALUATION if kind == EVALUATION else _SPEED
    if missing := [key for key in checks if key not in measurement and key != "top5"]:
        return f"it lacks {', '.join(missing)}"
    for key, (holds, expected) in checks.items():
        if not holds(measurement.get(key)):
            return f"{key} is {measurement.get(key)!r}, not {expected}"
    if kind == EVALUATION:
        right = {key: measurement[key] for key in ("top1", "top5") if measurement.get(key)}
        for key, found in right.items():
            # Rounded to two digits or not: the count is what holds.
            if abs(found["value"] - 100 * found["correct"] / measurement["images"]) > 0.01:
                return f"{key} says {found['value']} %, and {found['correct']} of {measurement['images']} right is not that"
        if "top5" in right and right["top5"]["correct"] < right["top1"]["correct"]:
            return "fewer are among the first five than are first"
    try:
        json.dumps(measurement, allow_nan=False)
    except (TypeError, ValueError) as error:
        return f"it is not JSON: {error}"
    return None


def _is_count(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_accuracy(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and {"value", "correct"} <= value.keys()
        and _is_number(value["value"])
        and 0 <= value["value"] <= 100
        and _is_count(value["correct"], 0)
    )


def _are_speeds(value: Any) -> bool:
    """Images a second by batch size, whose key is its number as text, as JSON has it."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(batch, str) and re.fullmatch("[1-9][0-9]*", batch) for batch in value)
        and all(_is_number(speed) and speed > 0 for speed in value.values())
    )


def _are_versions(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(_is_text(each) for pair in value.items() for each in pair)


_ACCURACY = (_is_accuracy, 'like {"value": 83.1, "correct": 831}')
_VERSIONS = (_are_versions, "versions by package")
_EVALUATION = {
    "dataset": (_is_text, "the tag of a data set"),
    "split": (_is_text, "the name of a split"),
    "images": (_is_count, "a number of images"),
    "top1": _ACCURACY,
    "top5": (lambda value: value is None or _is_accuracy(value), _ACCURACY[1]),
    "versions": _VERSIONS,
    "list_sha256": (
        lambda value: isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value)),
        "64 hexadecimal digits",
    ),
}
_SPEED = {
    "cpu": (_is_text, "the name of a processor"),
    "threads": (_is_count, "a number of threads"),
    "resolution": (_is_count, "a number of pixels"),
    "images_per_second": (_are_speeds, 'like {"1": 31.2, "8": 40.1}'),
    "versions": _VERSIONS,
}


def _matter(kind: str, measurement: dict[str, Any]) -> tuple:
    """What a measurement is about: a later one about the same takes its place."""
    keys = ("dataset", "split") if kind == EVALUATION else ("cpu", "threads")
    return tuple(measurement[key] for key in keys)


def _measurements(listed: Iterable[str], contents: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The notes of measurements by handle, each handle's by number; what nobody could show (see `malformed`) is left out."""
    found: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for path in listed:
        match = _NOTE.fullmatch(path)
        note = contents[path] if match else {}
        is_measurement = note.get("kind") == "Note" and note.get("action") in (EVALUATION, SPEED)
        if is_measurement and _is_text(note.get("date")) and not malformed(note["action"], note.get("measurement")):
            found.setdefault(match[1], []).append((int(match[2]), note))
    return {
        handle: [note for _, note in sorted(notes, key=lambda each: each[0])] for handle, notes in sorted(found.items())
    }


def _yanked(listed: Iterable[str], contents: dict[str, Any]) -> dict[str, str]:
    last: dict[str, tuple[int, Any]] = {}
    for path in listed:
        match = _NOTE.fullmatch(path)
        if match and contents[path].get("kind") == "Note" and contents[path].get("action") in (YANK, UNYANK):
            last[match[1]] = max(last.get(match[1], (0, "")), (int(match[2]), path))
    notes = ((handle, contents[path]) for handle, (_, path) in last.items())
    return {handle: str(note.get("why") or "") for handle, note in sorted(notes, key=str) if note["action"] == YANK}


def _read(storage: Storage, wanted: list[str]) -> Iterable[tuple[str, Any]]:
    with ThreadPoolExecutor(1 if storage.is_local else REMOTE_READERS) as pool:
        return list(zip(wanted, pool.map(lambda path: _parsed(storage, path), wanted), strict=True))


def _parsed(storage: Storage, path: str) -> dict[str, Any]:
    try:
        content = json.loads(storage.read(path))
    except ValueError as error:
        raise StorageError(
            f"{storage.url_for(path)} is no JSON: {error}. Restore it from a copy; what is published is never changed."
        ) from error
    return content if isinstance(content, dict) else {}


def encode(record: dict[str, Any]) -> bytes:
    """The bytes of a record: keys in order, readable, ending with one newline."""
    return (json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def checkpoint(record: dict[str, Any]) -> dict[str, Any]:
    """What a record says of the checkpoint that the module itself says, too: all but whether its file came from a mirror."""
    return {key: value for key, value in (record.get("checkpoint") or {}).items() if key != "mirror"}


def assemble(module, spec, built, checked, packed, published: str) -> dict[str, Any]:
    """What is known of a module, as its record states it.

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
    return {
        "schema": SCHEMA,
        "kind": "Module",
        "handle": module.handle,
        "publisher": module.publisher,
        "name": module.name,
        "version": row.version,
        "head": module.head,
        "sibling": f"{module.publisher}/{row.names[other]}/{row.version}" if other else None,
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
        "checkpoint": spec["module"]["checkpoint"] | ({"mirror": True} if spec.get("mirror") else {}),
        "archive": {"path": paths(module.handle)["archive"], **packed},
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
