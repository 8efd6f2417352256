"""What is known of the pages and records of a hub from an earlier run, so that one change among thousands is cheap.

    with PageCache(folder, storage.url) as kept:
        known = kept.records(stamps)                       # records that need not be read again
        if not kept.is_fresh(path, key, stamps.get(path)):    # a page that does not lie there as it should
            ...; kept.store(path, key, stamp)

One SQLite file in a cache folder. Each row is a statement that stays true whoever else writes: the object that has this
stamp (size and time of a file, digest in a bucket) is what these inputs give. A key covers everything that a page depends
on, the code and the templates included; the file may be deleted at any time, and a damaged one is as good as none.
"""

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Container, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tools.site import rendering

_TABLES = (
    "CREATE TABLE IF NOT EXISTS pages (path TEXT PRIMARY KEY, key BLOB, stamp TEXT) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS records (path TEXT PRIMARY KEY, stamp TEXT, digest BLOB, text TEXT)",
)


_ENCODER = json.JSONEncoder(sort_keys=True, default=bytes.hex)


@cache
def templates() -> str:
    """A digest of the code and the templates that make pages."""
    digest = hashlib.blake2b(digest_size=16)
    for path in [*sorted(Path(__file__).parent.glob("*.py")), *sorted(rendering.TEMPLATES.rglob("*.j2"))]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def digest(content: Any) -> bytes:
    """A digest of anything that JSON can say; digests may be inside."""
    return _digest(_ENCODER.encode(content))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


class PageCache:
    """What `folder` knows of one hub; `name`, its address, tells hubs apart that share it. None knows and keeps nothing."""

    def __init__(self, folder: Path | None, name: str):
        self._pages: dict[str, tuple[bytes, str]] = {}
        self._records: dict[str, tuple[str, bytes, str]] = {}
        self._changed: dict[str, set[str]] = {"pages": set(), "records": set()}
        self._digests: dict[str, bytes] = {}
        if folder is None:
            self._file = None
            return
        self._file = Path(folder) / f"{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}.sqlite"
        with contextlib.suppress(sqlite3.Error, OSError), contextlib.closing(self._open()) as database:
            self._pages = {path: tuple(rest) for path, *rest in database.execute("SELECT path, key, stamp FROM pages")}
            rows = database.execute("SELECT path, stamp, digest, text FROM records")
            self._records = {path: tuple(rest) for path, *rest in rows}

    def __enter__(self) -> "PageCache":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self.close()  # after an error, too: every row is true for itself

    def records(self, stamps: Mapping[str, str]) -> dict[str, Any]:
        """The contents, by path, of the records and notes that lie in the hub under the stamp that they had when noted."""
        found = {}
        for path, (stamp, content_digest, text) in self._records.items():
            if stamps.get(path) == stamp:
                with contextlib.suppress(ValueError, TypeError, AttributeError):
                    if _digest(text) == content_digest:
                        found[path] = json.loads(text)
                        self._digests[path] = content_digest
        return found

    def store_record(self, path: str, content: Any, stamp: str | None) -> None:
        """A record or a note that was read; without a stamp only its digest is of use, and only now."""
        if path not in self._digests:
            text = json.dumps(content, sort_keys=True)
            self._digests[path] = _digest(text)
            if stamp is not None:
                self._records[path] = (stamp, self._digests[path], text)
                self._changed["records"].add(path)

    def digest_of(self, path: str) -> bytes | None:
        """The digest of a record or note that was noted or known."""
        return self._digests.get(path)

    def is_fresh(self, path: str, key: bytes, stamp: str | None) -> bool:
        """Whether the object that has this stamp is the page that these inputs give."""
        return stamp is not None and self._pages.get(path) == (key, stamp)

    def store(self, path: str, key: bytes, stamp: str | None) -> None:
        """A page that was written, or found to be there as it should; without a stamp it cannot be known again."""
        if stamp is None:
            self._pages.pop(path, None)
        else:
            self._pages[path] = (key, stamp)
        self._changed["pages"].add(path)

    def evict(self, paths: Container[str]) -> None:
        """Keep nothing of any other path."""
        for table, rows in (("pages", self._pages), ("records", self._records)):
            for path in [path for path in rows if path not in paths]:
                del rows[path]
                self._changed[table].add(path)

    def close(self) -> None:
        """Write what is new; what cannot be written is only slower the next time."""
        if self._file is None or not any(self._changed.values()):
            return
        try:
            self._save()
        except (sqlite3.DatabaseError, OSError):
            with contextlib.suppress(sqlite3.Error, OSError):
                self._file.unlink(missing_ok=True)
                self._changed = {"pages": set(self._pages), "records": set(self._records)}
                self._save()

    def _save(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(self._open()) as database, database:
            for table, rows in (("pages", self._pages), ("records", self._records)):
                changed = self._changed[table]
                database.executemany(f"DELETE FROM {table} WHERE path = ?", [(path,) for path in changed])
                new = [(path, *rows[path]) for path in changed if path in rows]
                places = ", ".join("?" * len(new[0])) if new else ""
                database.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({places})", new) if new else None
        self._changed = {"pages": set(), "records": set()}

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._file, timeout=5)
        with contextlib.suppress(sqlite3.Error):
            database.execute(
                "PRAGMA synchronous = OFF"
            )  # after a crash of the machine a damaged file is as good as none
        for table in _TABLES:
            database.execute(table)
        return database
