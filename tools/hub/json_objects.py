"""Small JSON objects of a hub, records and notes: their bytes, and reading many of them at the same time."""

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tools.common.problems import with_fix
from tools.hub.storage import Storage, StorageError

REMOTE_READERS = 16  # small objects that are read, or written, at the same time where each takes a round trip


def encode(value: Mapping[str, Any]) -> bytes:
    """Return the bytes of a record or a note: keys in order, readable, ending with one newline."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def read(storage: Storage, path: str) -> dict[str, Any]:
    """Return the object at `path`; an empty one if the JSON there is none.

    Raises:
      NotThere: nothing lies there.
      StorageError: it is no JSON, or cannot be read.
    """
    try:
        content = json.loads(storage.read(path))
    except (ValueError, RecursionError) as error:
        message = f"{storage.url_for(path)} is no JSON: {error}"
        raise StorageError(with_fix(message, "restore it from a copy; what is published is never changed")) from error
    return content if isinstance(content, dict) else {}


def read_all(storage: Storage, paths: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the objects at `paths`, by path; raises as `read` does."""
    wanted = list(paths)
    with ThreadPoolExecutor(1 if storage.is_local else REMOTE_READERS) as pool:
        return dict(zip(wanted, pool.map(lambda path: read(storage, path), wanted), strict=True))
