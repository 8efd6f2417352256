"""Records: the JSON beside each archive, whose creation is the publication.

records = load_all(storage)           # newest facts about everything that is published
record = assemble(module, ...)        # what `publishing` is about to commit
"""

import json
from typing import Any

from tools.hub.storage import NotThere, Storage

SCHEMA = 1
TASKS = {"classifier": "image-classification", "feature_extractor": "image-feature-vector"}


def paths(handle: str) -> dict[str, str]:
    """Where a module's objects lie, relative to the hub."""
    return {"archive": f"{handle}.tar.gz", "record": f"{handle}.json"}


def load(storage: Storage, handle: str) -> dict[str, Any] | None:
    """The record of a handle, or None if it is not published."""
    try:
        return json.loads(storage.read(paths(handle)["record"]))
    except NotThere:
        return None


def load_all(storage: Storage) -> list[dict[str, Any]]:
    """Every record of the hub, by handle."""
    found = []
    for path in storage.list(suffix=".json"):
        if path.count("/") < 2 or not path.rsplit("/", 1)[1][: -len(".json")].isdigit():
            continue
        record = json.loads(storage.read(path))
        if record.get("kind") == "Module" and paths(record["handle"])["record"] == path:
            found.append(record)
    return sorted(found, key=lambda record: (record["publisher"], record["name"], record["version"]))


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
