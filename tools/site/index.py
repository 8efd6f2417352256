"""`index.json`: every module and collection of a hub, for programs and for the site's own search.

index(hub)["modules"][0]["handle"]          # and `index_text(hub)`, as the hub serves it
"""

import json
from typing import Any

from tools.site.formatting import one_line
from tools.site.gathering import Hub
from tools.site.published_module import PublishedModule
from tools.site.rendering import describe


def index_text(hub: Hub) -> str:
    """Return `index.json` with a line for each module: quick to write, and a change is a line of a diff."""
    encode = json.JSONEncoder(ensure_ascii=False).encode
    parts = []
    for key, value in index(hub).items():
        if isinstance(value, list) and value:
            lines = ",\n  ".join(map(encode, value))
            parts.append(f"{encode(key)}: [\n  {lines}\n ]")
        else:
            parts.append(f"{encode(key)}: {encode(value)}")
    return "{\n " + ",\n ".join(parts) + "\n}\n"


def index(hub: Hub) -> dict[str, Any]:
    """Return what programs, and the site's own search, need to know of every module and collection.

    Paths (`page`, `archive.url`) are relative to the hub; `gflops` are 10^9 multiply-adds, accuracies per cent, sizes
    bytes. A figure that nobody reported or measured is null. `templates/static/index.schema.json`, which every hub
    serves as `static/index.schema.json`, is the contract: keys are added, never changed.
    """
    modules = []
    for module in hub.modules.values():
        row, archive = module.row, module.archive
        modules.append(
            {
                "handle": module.handle,
                "publisher": module.publisher,
                "name": module.name,
                "version": module.version,
                "head": module.head,
                "task": module.task,
                "family": row["family"],
                "title": row["title"],
                "description": describe(module),
                "network_architecture": row["network_architecture"],
                "datasets": list(row["datasets"]),
                "license": row["licence"],
                "fine_tunable": row["fine_tunable"],
                "precision": module.precision,
                "size": row["size"],
                "data": row["data"],
                "resolution": row["resolution"],
                "parameters": module.measured["parameters"],
                "gflops": module.measured["gflops"],
                "reported_top1": module.reported["top1"],
                "reported_top5": module.reported["top5"],
                "measured_top1": module.measured_top1,
                "measured_top5": module.measured_top5,
                "top1": module.top1,
                "top1_measured": module.top1_is_measured,
                "commercial_use": not module.non_commercial,
                "evaluation": _evaluation(module),
                "speed": _speed(module),
                "archive": {"url": archive["path"], "bytes": archive["bytes"], "sha256": archive["sha256"]},
                "page": f"{module.folder}/",
                "published": module.published,
                "sibling": module.sibling.handle if module.sibling else None,
                "yanked": module.yanked,
                "newest": module is module.newest,
            }
        )
    publisher = {
        "name": hub.publisher.name,
        "title": hub.publisher.title,
        "description": one_line(hub.publisher.description),
    }
    collections = [
        {
            "handle": collection.handle,
            "name": collection.name,
            "title": collection.definition.title,
            "description": one_line(collection.definition.description),
            "page": f"{collection.folder}/",
            "modules": sorted((m.handle for m in collection.members), key=_handle_order),
        }
        for collection in hub.collections
    ]
    used = {
        "license": {m.row["licence"] for m in hub.modules.values()},
        "task": {m.task for m in hub.modules.values()},
        "network_architecture": {m.row["network_architecture"] for m in hub.modules.values()},
        "dataset": {name for m in hub.modules.values() for name in m.row["datasets"]},
    }
    names = {
        key: {value: hub.tags[key][value].display_name for value in sorted(values)} for key, values in used.items()
    }
    return {
        "schema": 1,
        "url": hub.base_url,
        "publisher": publisher,
        "modules": modules,
        "collections": collections,
        "names": names,
    }


def _evaluation(module: PublishedModule) -> dict[str, Any] | None:
    """Return on what the measured accuracy was measured."""
    found = module.evaluation
    if found is None:
        return None
    return {
        "dataset": found.dataset,
        "split": found.split,
        "images": found.images,
        "date": found.date,
        "versions": dict(found.versions),
    }


def _speed(module: PublishedModule) -> dict[str, Any] | None:
    """Return images per second, and where they were measured."""
    found = module.speed
    if found is None:
        return None
    return {
        "cpu": found.cpu,
        "threads": found.threads,
        "resolution": found.resolution,
        "images_per_second": dict(found.images_per_second),
        "date": found.date,
        "versions": dict(found.versions),
    }


def _handle_order(handle: str) -> tuple[str, int]:
    name, _, version = handle.rpartition("/")
    return name, int(version)
