"""Page cache: remember which pages and sources are up to date, so that a rebuild touches only what changed.

    with PageCache(file) as cache:
        known = cache.records(stamps)                          # records that need not be read again
        if not cache.is_fresh(path, key, stamps.get(path)):    # a page that does not lie there as it should
            ...; cache.store(path, key, stamp)

One SQLite file. Each row is a statement that stays true whoever else writes: the object that has this stamp (size and time of a
file, digest in a bucket) is what these inputs give. A key covers everything that a page depends on, the code and the templates
included (see `tools.site.renderer_key`); the file may be deleted at any time, and a damaged one is as good as none.
"""

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Container, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tools.common.files import discard, make_cache_folder

_TABLES = (
    "CREATE TABLE IF NOT EXISTS pages (path TEXT PRIMARY KEY, key BLOB, stamp TEXT) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS records (path TEXT PRIMARY KEY, stamp TEXT, digest BLOB, text TEXT)",
)
_ENCODER = json.JSONEncoder(sort_keys=True, default=bytes.hex)


def digest(content: Any) -> bytes:
    """Return a digest of anything that JSON can say; digests may be inside."""
    return _digest(_ENCODER.encode(content))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def file_stamp(status: os.stat_result) -> str:
    """Return what tells a file from any other that ever lay under its path, without reading it.

    A program can put back the time of a file's content, and not that of its last change of any kind (ctime).
    """
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_ino}"


def cache_file(folder: Path, name: str) -> Path:
    """Return the file in a cache folder for the hub `name`, its address, so that hubs can share the folder."""
    return Path(folder) / f"{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}.sqlite"


class PageCache:
    """The pages and records of one site that are known from an earlier run; without a file nothing is known and nothing kept."""

    def __init__(self, file: Path | None):
        self._file = file
        self._pages: dict[str, tuple[bytes, str]] = {}
        self._records: dict[str, tuple[str, bytes, str]] = {}
        self._changed: dict[str, set[str]] = {"pages": set(), "records": set()}
        self._digests: dict[str, bytes] = {}
        if file is None or not file.parent.is_dir():
            return
        with contextlib.suppress(sqlite3.Error, OSError), contextlib.closing(self._open(file)) as database:
            rows = database.execute("SELECT path, key, stamp FROM pages")
            self._pages = {path: (key, stamp) for path, key, stamp in rows}
            rows = database.execute("SELECT path, stamp, digest, text FROM records")
            self._records = {path: (stamp, content_digest, text) for path, stamp, content_digest, text in rows}

    def __enter__(self) -> "PageCache":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()  # after an error, too: every row is true for itself

    @property
    def pages(self) -> list[str]:
        """The paths of the pages that are known."""
        return list(self._pages)

    def records(self, stamps: Mapping[str, str]) -> dict[str, Any]:
        """Return the contents, by path, of the records that still have the stamp that they had when they were stored."""
        found = {}
        for path, (stamp, content_digest, text) in self._records.items():
            if stamps.get(path) == stamp:
                with contextlib.suppress(ValueError, TypeError, AttributeError):
                    if _digest(text) == content_digest:
                        found[path] = json.loads(text)
                        self._digests[path] = content_digest
        return found

    def store_record(self, path: str, content: Any, stamp: str | None) -> None:
        """Remember a record that was read; without a stamp only its digest is of use, and only now."""
        if path not in self._digests:
            text = json.dumps(content, sort_keys=True)
            self._digests[path] = _digest(text)
            if stamp is not None:
                self._records[path] = (stamp, self._digests[path], text)
                self._changed["records"].add(path)

    def digest_of(self, path: str) -> bytes | None:
        """Return the digest of a record that was stored or is known."""
        return self._digests.get(path)

    def is_fresh(self, path: str, key: bytes, stamp: str | None) -> bool:
        """Return whether the object that has this stamp is the page that these inputs give."""
        return stamp is not None and self._pages.get(path) == (key, stamp)

    def store(self, path: str, key: bytes, stamp: str | None) -> None:
        """Remember a page that was written, or found to be there as it should; without a stamp it cannot be known again."""
        if stamp is None:
            self._pages.pop(path, None)
        else:
            self._pages[path] = (key, stamp)
        self._changed["pages"].add(path)

    def evict(self, paths: Container[str]) -> None:
        """Forget every path that is not among `paths`."""
        for table, known in (("pages", list(self._pages)), ("records", list(self._records))):
            for path in known:
                if path not in paths:
                    (self._pages if table == "pages" else self._records).pop(path)
                    self._changed[table].add(path)

    def close(self) -> None:
        """Write what is new; what cannot be written is only slower the next time."""
        if self._file is None or not any(self._changed.values()):
            return
        try:
            self._save(self._file)
        except (sqlite3.DatabaseError, OSError):
            with contextlib.suppress(sqlite3.Error, OSError):
                discard(self._file)
                self._changed = {"pages": set(self._pages), "records": set(self._records)}
                self._save(self._file)

    def _save(self, file: Path) -> None:
        make_cache_folder(file.parent)
        with contextlib.closing(self._open(file)) as database, database:
            for table, rows in (("pages", self._pages), ("records", self._records)):
                changed = self._changed[table]
                database.executemany(f"DELETE FROM {table} WHERE path = ?", [(path,) for path in changed])
                new = [(path, *rows[path]) for path in changed if path in rows]
                places = ", ".join("?" * len(new[0])) if new else ""
                database.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({places})", new) if new else None
        self._changed = {"pages": set(), "records": set()}

    @staticmethod
    def _open(file: Path) -> sqlite3.Connection:
        database = sqlite3.connect(file, timeout=5)
        with contextlib.suppress(sqlite3.Error):
            # After a crash of the machine the file may be damaged, which is as good as none.
            database.execute("PRAGMA synchronous = OFF")
        for table in _TABLES:
            database.execute(table)
        return database
