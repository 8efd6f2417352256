"""The public address of a hub, which handles begin with."""

import json

from tools.hub.storage import NotThere, Storage


def published_address(storage: Storage) -> str | None:
    """Return the address that the hub's pages were made for, or None if it has no index that says so."""
    try:
        index = json.loads(storage.read("index.json"))
    except (NotThere, ValueError):
        return None
    url = index.get("url") if isinstance(index, dict) else None
    return url if isinstance(url, str) else None
