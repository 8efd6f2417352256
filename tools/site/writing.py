"""The pages of a hub, derived from its records and notes and written where they are not as they should be.

    count = write_pages(catalog, storage, "https://models.example.org", cache=Path("~/.cache/hubpress").expanduser())

Any number of publishers may do this at once: whoever wrote something looks again whether others added something meanwhile.
With a `cache` folder, one change among thousands of modules costs a listing of the hub and the pages that it concerns.
"""

import contextlib
import gc
import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tools.catalog import layout, vocabularies
from tools.catalog.catalog import Catalog
from tools.hub import records
from tools.hub.storage import ObjectInfo, Storage
from tools.site import pages as site
from tools.site import rendering
from tools.site.page_cache import PageCache

BENCHMARKS = "benchmarks.json"
WRITERS = 16  # files that are written at the same time: each waits for the disk, or for a round trip
BATCH = 128  # modules whose pages are in memory at the same time
WORTH_PROCESSES = 200  # modules to make pages of, from which on it pays to start processes


def write_pages(
    catalog: Catalog,
    storage: Storage,
    base_url: str,
    known: dict[str, Any] | None = None,
    *,
    cache: Path | None = None,
) -> int:
    """Derive pages and index from the hub's records and notes, again if others add some meanwhile; how many were written.

    `known` are records that were read already, by path; `cache` is the publisher's folder, where what lies in the hub is
    remembered. Raises `PageError` for a record that has no page, `StorageError` for a hub that cannot be read or written.
    """
    tags = vocabularies.load(catalog.root / "modules/tags")
    known = {} if known is None else known
    if cache:
        rendering.use_template_cache(cache / "templates")
    written, seen = 0, None
    with _few_collections(), PageCache(cache and cache / "pages", storage.url) as kept:
        while True:
            listing = storage.list_objects()
            contents = {path for path in listing if records.is_record_or_note(path)}
            if contents == seen:  # records and notes are only ever added
                break
            stamps = _stamps(storage, listing)
            known |= kept.records({path: stamps[path] for path in contents - set(known) if path in stamps})
            hub = records.snapshot(storage, known, listing=listing)
            for path in contents:
                kept.store_record(path, known[path], stamps.get(path))
            jobs = site.plan(
                hub.records,
                publisher=catalog.publisher,
                collections=catalog.collections,
                base_url=base_url,
                tags=tags,
                yanked=hub.yanked,
                measurements=hub.measurements,
                benchmarks=_benchmarks(storage, listing),
                digest_of=lambda handle: kept.digest_of(layout.record_path(handle)),
            )
            gc.freeze()
            gc.enable()
            count = 0
            for wave in sorted({job.wave for job in jobs}):
                wanted = [job for job in jobs if job.wave == wave and not _holds(kept, job, stamps)]
                for made in _made(wanted):
                    count += _store(storage, made, listing, kept)
            kept.evict({path for job in jobs for path, _ in job.files} | contents)
            written, seen = written + count, contents
            if not count:
                break
    return written


def _benchmarks(storage: Storage, listing: dict[str, ObjectInfo | None]) -> dict[str, Any] | None:
    """What `tools/benchmark.py` wrote into the hub, if it did."""
    if BENCHMARKS not in listing:
        return None
    try:
        return json.loads(storage.read(BENCHMARKS))
    except ValueError as error:
        raise site.PageError(f"{BENCHMARKS}: is no JSON: {error}; measure again, or take the file away") from error


@contextlib.contextmanager
def _few_collections() -> Iterator[None]:
    """Thousands of records make Python look for garbage again and again, where there is none."""
    was_enabled, before = gc.isenabled(), gc.get_threshold()
    gc.set_threshold(100_000, *before[1:])
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
        gc.enable() if was_enabled else gc.disable()


def _stamps(storage: Storage, listing: dict[str, ObjectInfo | None]) -> dict[str, str]:
    """What tells each object from any other that ever lay under its path, without reading it."""
    if not storage.is_local:
        return {path: about.tag for path, about in listing.items() if about}
    found = {}
    for path in listing:
        with contextlib.suppress(OSError):
            found[path] = _stamp(f"{storage.url}/{path}")
    return found


def _stamp(file: str) -> str:
    status = os.stat(file)
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}"


def _holds(kept: PageCache, job: site.Job, stamps: dict[str, str]) -> bool:
    return all(kept.is_fresh(path, job.key, stamps.get(path)) for path, _ in job.files)


def _made(jobs: list[site.Job]) -> Iterator[list[tuple[site.Job, list[site.Page]]]]:
    """The pages of the jobs, a batch at a time; by several processes when it is worth starting them."""
    batches = [range(start, min(start + BATCH, len(jobs))) for start in range(0, len(jobs), BATCH)]
    processes = min(os.cpu_count() or 1, 8)
    if len(jobs) < WORTH_PROCESSES or processes < 2 or "fork" not in multiprocessing.get_all_start_methods():
        for batch in batches:
            yield [(jobs[number], jobs[number].pages()) for number in batch]
        return
    rendering.warm("site")
    _WORK[:] = jobs  # inherited by the processes; only numbers and pages travel
    try:
        with multiprocessing.get_context("fork").Pool(processes) as pool:
            # While one batch is stored the next is made, and no more than that.
            waiting = [(batches[0], pool.map_async(_make_numbered, batches[0], chunksize=8))]
            for batch in [*batches[1:], None]:
                if batch:
                    waiting.append((batch, pool.map_async(_make_numbered, batch, chunksize=8)))
                numbers, pages = waiting.pop(0)
                yield list(zip([jobs[number] for number in numbers], pages.get(), strict=True))
    finally:
        _WORK.clear()


_WORK: list[site.Job] = []


def _make_numbered(number: int) -> list[site.Page]:
    return _WORK[number].pages()


def _store(
    storage: Storage,
    made: list[tuple[site.Job, list[site.Page]]],
    listing: dict[str, ObjectInfo | None],
    kept: PageCache,
) -> int:
    """Write the pages that are not there as they are, several at a time; how many were written."""

    def store(item: tuple[bytes, site.Page]) -> bool:
        key, page = item
        about = listing.get(page.path)
        written = storage.replace(page.path, page.data, content_type=page.content_type, known=about)
        if storage.is_local:
            stamp = _stamp(f"{storage.url}/{page.path}")
        elif written or not about:
            stamp = hashlib.md5(page.data, usedforsecurity=False).hexdigest()  # as a bucket's listing will say it
        else:
            stamp = about.tag
        kept.store(page.path, key, stamp)
        return written

    with ThreadPoolExecutor(WRITERS) as pool:
        return sum(pool.map(store, [(job.key, page) for job, pages in made for page in pages]))
