"""Notes: what is learnt of a module after its publication, in small files beside its record.

    add_note(storage, "publisher/name/1", "yank", "trained on the test set", date="2026-01-31T12:00:00Z")
    add_measurement(storage, "publisher/name/1", "speed", {"cpu": ..., ...}, date="2026-01-31T12:00:00Z")

A record never changes, so this lies in `<handle>.note-1.json`, `.note-2.json`, ...: each is created and never edited, the numbers
have no gaps, and of two notes about the same the later one holds. A yank is a note, and its undo is another; an accuracy or a speed
that was measured later is a note as well. Whoever cannot list a hub (a client of a plain file server) asks for one number after the
other. The shape of a note is `templates/static/note.schema.json`.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NotRequired, TypedDict, cast

from tools.catalog import layout
from tools.common import clock
from tools.common.problems import UsageError, with_fix
from tools.common.schemas import schema_problems
from tools.hub import json_objects, signatures
from tools.hub.signatures import Signer
from tools.hub.storage import AlreadyThere, Storage, StorageError

SCHEMA = 1
Action = Literal["yank", "unyank", "evaluation", "speed"]
MeasurementKind = Literal["evaluation", "speed"]
YANK: Literal["yank"] = "yank"
UNYANK: Literal["unyank"] = "unyank"
EVALUATION: Literal["evaluation"] = "evaluation"
SPEED: Literal["speed"] = "speed"
MEASUREMENTS = (EVALUATION, SPEED)
# What a measurement is about: a later one about the same takes its place.
_SUBJECT = {EVALUATION: ("dataset", "split"), SPEED: ("cpu", "threads")}


class NoSuchModule(UsageError, StorageError):
    """Nothing is published under a handle."""


class Accuracy(TypedDict):
    """A measured accuracy: `value` in per cent, `correct` in images."""

    value: float
    correct: int


class EvaluationMeasurement(TypedDict):
    """An accuracy that was measured after publication.

    `dataset` is a tag, `images` their number; `top5` is None or missing where there are few classes; `versions` are of packages;
    `list_sha256` is of the list of images and labels.
    """

    dataset: str
    split: str
    images: int
    top1: Accuracy
    top5: NotRequired[Accuracy | None]
    versions: dict[str, str]
    list_sha256: str


class SpeedMeasurement(TypedDict):
    """A speed that was measured after publication: `resolution` in pixels, `images_per_second` by batch size as text."""

    cpu: str
    threads: int
    resolution: int
    images_per_second: dict[str, float]
    versions: dict[str, str]


class Note(TypedDict):
    """One note: `why` of a yank, or the `measurement`; `date` is ISO 8601 in UTC."""

    schema: int
    kind: Literal["Note"]
    handle: str
    number: int
    action: Action
    why: NotRequired[str]
    measurement: NotRequired[dict[str, Any]]
    date: str


def add_note(
    storage: Storage,
    handle: str,
    action: Literal["yank", "unyank"],
    why: str,
    *,
    date: str,
    signer: Signer | None = None,
) -> Note | None:
    """Yank a published module, with one sentence that says why, or take that back ("unyank").

    With a `signer` the note is signed, as is one that says the same already.

    Returns:
      The note, or None if what the notes say already is the same.

    Raises:
      NoSuchModule: nothing is published under the handle.
      StorageError: a yank has no reason, or the note cannot be written.
    """

    said = {"why": why}

    def is_said(past: Mapping[str, Any]) -> bool:
        state = reasons(past).get(handle)
        return state == why if action == YANK else state is None

    return _add(storage, handle, action, said, is_said, date=date, signer=signer)


def add_measurement(
    storage: Storage,
    handle: str,
    kind: MeasurementKind,
    measurement: Mapping[str, Any],
    *,
    date: str,
    signer: Signer | None = None,
) -> Note | None:
    """Put what was measured of a published module beside its record.

    `measurement` is an `EvaluationMeasurement` or a `SpeedMeasurement`, and may say more. With a `signer` the note is signed,
    as is one that says the same already.

    Returns:
      The note, or None if the newest one about the same (data set and split; processor and threads) says the same already.

    Raises:
      NoSuchModule: nothing is published under the handle.
      StorageError: the measurement is malformed, or the note cannot be written.
    """
    refuse = f"{handle}: no note of this {kind}"
    if kind not in MEASUREMENTS:
        message = f"{refuse}: {kind!r} is no kind of measurement"
        raise StorageError(with_fix(message, f"name {EVALUATION!r} or {SPEED!r}"))
    if problems := measurement_problems(kind, measurement):
        raise StorageError(with_fix(f"{refuse}: {'; '.join(problems)}", "correct what measured it"))
    stored: dict[str, Any] = json.loads(json.dumps(measurement))  # as it will be read again

    def is_said(past: Mapping[str, Any]) -> bool:
        before = [note["measurement"] for note in measurements(past).get(handle, ()) if note["action"] == kind]
        subject = [stored[key] for key in _SUBJECT[kind]]
        same = [each for each in before if [each[key] for key in _SUBJECT[kind]] == subject]
        return bool(same) and same[-1] == stored

    return _add(storage, handle, kind, {"measurement": stored}, is_said, date=date, signer=signer)


def measurement_problems(kind: MeasurementKind, measurement: Any) -> list[str]:
    """Return what is wrong with a measurement, in sentences without a full stop; nothing if it can be a note."""
    return _problems(_note("publisher/name/1", 1, kind, {"measurement": measurement}, "2026-01-31T12:00:00Z"))


def yanked(storage: Storage, listed: Iterable[str]) -> dict[str, str]:
    """Return the withdrawn handles, with why, among the paths of a listing."""
    return reasons(json_objects.read_all(storage, filter(layout.parse_note_path, listed))[0])


def problems(content: Any, place: layout.NotePath | None = None) -> list[str]:
    """Return what keeps a JSON value from being a note, the one of `place` if it is given: in sentences without a full stop."""
    if wrong := _problems(content):
        return wrong
    if place is not None and (content["handle"], content["number"]) != place:
        return [f"it is note {content['number']} of {content['handle']}"]
    return []


def reasons(contents: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the withdrawn handles, with why, as the notes among `contents`, objects by path, say.

    A yank counts even where its note says too little, and its undo only where its note is whole: in doubt a module stays withdrawn.
    """
    last: dict[str, tuple[int, str]] = {}
    for path, note in contents.items():
        where = layout.parse_note_path(path)
        if not where or note.get("kind") != "Note":
            continue
        if note.get("action") == YANK or (note.get("action") == UNYANK and not problems(note, where)):
            last[where.handle] = max(last.get(where.handle, (0, "")), (where.number, path))
    return {
        handle: str(contents[path].get("why") or "")
        for handle, (_, path) in sorted(last.items())
        if contents[path]["action"] == YANK
    }


def measurements(contents: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Note]]:
    """Return the notes of measurements among `contents`, valid notes by path: by handle, each by number."""
    found: dict[str, list[tuple[int, Note]]] = {}
    for path, note in contents.items():
        where = layout.parse_note_path(path)
        if where and note.get("kind") == "Note" and note.get("action") in MEASUREMENTS:
            found.setdefault(where.handle, []).append((where.number, cast(Note, note)))
    return {
        handle: [note for _, note in sorted(notes, key=lambda each: each[0])] for handle, notes in sorted(found.items())
    }


def _add(
    storage: Storage,
    handle: str,
    action: Action,
    said: Mapping[str, Any],
    is_said: Callable[[Mapping[str, Any]], bool],
    *,
    date: str,
    signer: Signer | None,
) -> Note | None:
    """Create the next note of a published module, unless `is_said` by the notes so far, by path; None: nothing new."""
    if not layout.is_handle(handle):
        fix = "name publisher, name and version, as in hubpress/convnext_digits/1"
        raise NoSuchModule(with_fix(f"{handle} is no handle of a module", fix))
    if not storage.exists(layout.record_path(handle)):
        raise NoSuchModule(with_fix(f"{handle} is not published in {storage.url}", "check publisher, name and version"))
    while True:
        listed = [path for path in storage.list(layout.note_prefix(handle), ".json") if layout.parse_note_path(path)]
        found, _ = json_objects.read_all(storage, listed)
        past = {path: each for path, each in found.items() if each.get("action") == YANK or not _problems(each)}
        if is_said(past):
            if signer:
                _sign_last(storage, past, {"handle": handle, "action": action, **said}, signer)
            return None
        number = max((where.number for path in listed if (where := layout.parse_note_path(path))), default=0) + 1
        note = _note(handle, number, action, said, date)
        if problems := _problems(note):
            raise StorageError(with_fix(f"{handle}: no note of this {action}: {'; '.join(problems)}", "correct it"))
        try:
            storage.create(layout.note_path(handle, number), json_objects.encode(note), content_type="application/json")
        except AlreadyThere:  # somebody else added one just now: what it says may be enough
            continue
        if signer:
            signatures.sign(storage, layout.note_path(handle, number), json_objects.encode(note), signer)
        return cast(Note, note)


def _sign_last(storage: Storage, past: Mapping[str, Any], said: Mapping[str, Any], signer: Signer) -> None:
    """Sign the last of the notes that says the same: whoever wrote it may have been cut off before."""
    same = [
        path
        for path, note in past.items()
        if not problems(note, layout.parse_note_path(path)) and all(note.get(key) == said[key] for key in said)
    ]
    if same:
        last = max(same, key=lambda path: past[path]["number"])
        signatures.sign(storage, last, json_objects.encode(past[last]), signer)


def _note(handle: str, number: int, action: str, said: Mapping[str, Any], date: str) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "kind": "Note",
        "handle": handle,
        "number": number,
        "action": action,
        **said,
        "date": date,
    }


def _problems(note: Any) -> list[str]:
    """Return what breaks the schema, or what it cannot say."""
    if wrong := schema_problems(note, "note") or _contradictions(note):
        return wrong
    if not clock.is_moment(note["date"]):
        return [f"date: {note['date']!r} is no time in ISO 8601"]
    try:
        json.dumps(note, allow_nan=False)
    except (TypeError, ValueError) as error:
        return [f"it is not JSON: {error}"]
    return []


def _contradictions(note: Mapping[str, Any]) -> list[str]:
    """Return where the numbers of an evaluation contradict each other."""
    if note["action"] != EVALUATION:
        return []
    found = note["measurement"]
    right = {key: found[key] for key in ("top1", "top5") if found.get(key)}
    problems = [
        f"{key} says {each['value']} %, and {each['correct']} of {found['images']} right is not that"
        for key, each in right.items()
        # Rounded to two digits or not: the count is what holds.
        if abs(each["value"] - 100 * each["correct"] / found["images"]) > 0.01
    ]
    if "top5" in right and right["top5"]["correct"] < right["top1"]["correct"]:
        problems.append("fewer are among the first five than are first")
    return problems
