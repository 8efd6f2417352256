"""Records: the JSON beside each archive, whose creation is the publication, and the notes that were added later.

    hub = survey(storage)                 # hub.records: everything that is published; hub.yanked: {handle: why}
    record = assemble(module, ...)        # what `publishing` is about to commit
    add_note(storage, "publisher/name/1", "yank", "trained on the test set", date="2026-01-31T12:00:00Z")

A record never changes. What is learnt after publication lies beside it in notes, `<handle>.note-1.json`, `.note-2.json`, ...:
each is created and never edited, the numbers have no gaps, and the last one about a matter holds. So a yank is a note, and its
undo is another; whoever cannot list a hub (a client of a plain file server) asks for one number after the other.
"""

import json
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tools.hub.storage import About, AlreadyThere, NotThere, Storage, StorageError

SCHEMA = 1
TASKS = {"classifier": "image-classification", "feature_extractor": "image-feature-vector"}
REMOTE_READERS = 16  # small objects that are read, or written, at the same time where each takes a round trip

_RECORD = re.compile(r"((?:[^/]+/){2,}(?:0|[1-9][0-9]*))\.json")
_NOTE = re.compile(r"((?:[^/]+/){2,}(?:0|[1-9][0-9]*))\.note-([1-9][0-9]*)\.json")
YANK, UNYANK = "yank", "unyank"


@dataclass(frozen=True)
class Survey:
    """What a hub holds: `records` by handle's order, `yanked` handles with why, `listing` as `Storage.survey` has it."""

    records: list[dict[str, Any]]
    yanked: dict[str, str]
    listing: dict[str, About | None] = field(default_factory=dict)


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
    return survey(storage).records


def survey(storage: Storage, known: dict[str, Any] | None = None) -> Survey:
    """Every record and note of the hub, from one listing.

    `known` keeps what was read, by path, from one call to the next: neither records nor notes ever change.
    """
    listing = storage.survey()
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
    return Survey(found, _yanked(wanted, known), listing)


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
    if load(storage, handle) is None:
        raise StorageError(f"{handle} is not published in {storage.url}. Check publisher, name and version.")
    while True:
        listed = [path for path in storage.list(f"{handle}.note-", ".json") if _NOTE.fullmatch(path)]
        state = yanked(storage, listed).get(handle)
        if state == why if action == YANK else state is None:
            return None
        number = max((int(_NOTE.fullmatch(path)[2]) for path in listed), default=0) + 1
        note = {
            "schema": SCHEMA,
            "kind": "Note",
            "handle": handle,
            "number": number,
            "action": action,
            "why": why,
            "date": date,
        }
        try:
            storage.create(note_path(handle, number), encode(note), content_type="application/json")
            return note
        except AlreadyThere:  # somebody else added one just now: what it says may be enough
            continue


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


def assemble(module, spec, built, checked, packed, published: str) -> dict[str, Any]:
    """What is known of a module, as its record states it.

    Args:
      module: the catalogue's module; spec: what its build was asked for; built, checked: what `builders.build` and
      `builders.check` found out about its head; packed: sizes and digests of its archive; published: the time, ISO 8601 in UTC.
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
        "checkpoint": spec["module"]["checkpoint"],
        "archive": {"path": paths(module.handle)["archive"], **packed},
        "verification": {
            "golden_tolerance": 1e-4,
            "keras_difference": checked["keras_difference"],
            "fine_tuned": checked.get("fine_tuned", False),
            "sizes": checked["sizes"],
        },
        "versions": spec["module"]["versions"],
        "build": spec["build"],
        "published": published,
    }
