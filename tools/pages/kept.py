"""Pages that were made before, by what they were made from: a hub with thousands of modules is not rendered anew for one.

    with Kept(folder) as kept:
        pages = site.build(records, ..., kept=kept)

One SQLite file in a cache folder. The key of an entry is a digest of everything that its page depends on, the code and the
templates included, so an entry is right or is not found; the file may be deleted at any time. Entries that a build did not
ask for are dropped when it is closed. A file that is damaged or cannot be written is as good as none.
"""

import contextlib
import hashlib
import json
import sqlite3
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tools.pages import rendering


@cache
def templates() -> str:
    """A digest of the code and the templates that make pages."""
    digest = hashlib.blake2b(digest_size=16)
    for path in [*sorted(Path(__file__).parent.glob("*.py")), *sorted(rendering.TEMPLATES.rglob("*.j2"))]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


class Kept:
    """The entries of one hub in `folder`; `name` tells hubs apart that share it."""

    def __init__(self, folder: Path, name: str = "pages"):
        self._used: set[bytes] = set()
        self._new: dict[bytes, bytes] = {}
        self._entries: dict[bytes, bytes] = {}
        self._file = Path(folder) / f"{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}.sqlite"
        with contextlib.suppress(sqlite3.Error, OSError), contextlib.closing(self._open()) as database:
            self._entries = dict(database.execute("SELECT key, text FROM pages"))

    def __enter__(self) -> "Kept":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if kind is None:
            self.close()

    def texts(self, inputs: Any, make: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
        """What `make` returns, or returned when it was called with the same inputs; `inputs` are as JSON has them."""
        key = hashlib.blake2b(json.dumps([templates(), inputs], sort_keys=True).encode(), digest_size=16).digest()
        self._used.add(key)
        found = self._entries.get(key) or self._new.get(key)
        if found is not None:
            with contextlib.suppress(zlib.error, ValueError):
                return tuple(json.loads(zlib.decompress(found)))
        made = make()
        self._new[key] = zlib.compress(json.dumps(made).encode(), 1)
        return made

    def close(self) -> None:
        """Write what is new, and forget what nothing asked for."""
        gone = set(self._entries) - self._used
        if not self._new and not gone:
            return
        try:
            self._save(gone)
        except (sqlite3.DatabaseError, OSError):
            with contextlib.suppress(sqlite3.Error, OSError):
                self._file.unlink(missing_ok=True)
                self._save(gone)

    def _save(self, gone: set[bytes]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(self._open()) as database, database:
            database.executemany("DELETE FROM pages WHERE key = ?", [(key,) for key in gone])
            database.executemany("INSERT OR REPLACE INTO pages VALUES (?, ?)", self._new.items())

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._file, timeout=5)
        database.execute("CREATE TABLE IF NOT EXISTS pages (key BLOB PRIMARY KEY, text BLOB) WITHOUT ROWID")
        return database
