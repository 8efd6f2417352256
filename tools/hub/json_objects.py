"""Small JSON objects of a hub, records and notes: their bytes, and reading many of them at the same time."""

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tools.common import json_text
from tools.common.problems import Problem
from tools.hub.storage import Storage, StorageError

REMOTE_READERS = 16  # small objects that are read, or written, at the same time where each takes a round trip
MAX_BYTES = 1 << 20  # of a record or a note
RESTORE = "restore it from a copy; what is published is never changed"


class InvalidObject(StorageError):
    """What lies at a path of a hub is not what must lie there; `problem` says what is wrong with it."""

    def __init__(self, problem: Problem):
        super().__init__(str(problem))
        self.problem = problem


def encode(value: Mapping[str, Any]) -> bytes:
    """Return the bytes of a record or a note: keys in order, readable, ending with one newline."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def read(storage: Storage, path: str) -> dict[str, Any]:
    """Return the object at `path`.

    Raises:
      NotThere: nothing lies there.
      InvalidObject: it is no JSON object.
      StorageError: it cannot be read.
    """
    data = storage.read(path)
    try:
        return json_text.parse_object(data, max_bytes=MAX_BYTES)
    except json_text.JsonError as error:
        raise InvalidObject(Problem(storage.url_for(path), str(error), RESTORE)) from error


def read_all(storage: Storage, paths: Iterable[str]) -> tuple[dict[str, dict[str, Any]], dict[str, Problem]]:
    """Return the objects at `paths`, by path, and what is wrong with those that are none.

    Raises:
      NotThere, StorageError: as `read` does.
    """

    def read_one(path: str) -> dict[str, Any] | Problem:
        try:
            return read(storage, path)
        except InvalidObject as error:
            return error.problem

    wanted = list(paths)
    with ThreadPoolExecutor(1 if storage.is_local else REMOTE_READERS) as pool:
        found = dict(zip(wanted, pool.map(read_one, wanted), strict=True))
    objects = {path: each for path, each in found.items() if isinstance(each, dict)}
    return objects, {path: each for path, each in found.items() if isinstance(each, Problem)}
