"""Write the pages of a hub, derived from its records and notes, where they are not as they should be.

    count = write_pages(catalog, storage, "https://models.example.org", cache=Path("~/.cache/hubpress").expanduser())

Any number of publishers may do this at once: whoever wrote something looks again whether others added something meanwhile.
With a `cache` folder, one change among thousands of modules costs a listing of the hub and the pages that it concerns.
"""

import contextlib
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tools.catalog import layout
from tools.catalog.catalog import Catalog
from tools.common import json_text
from tools.common.problems import Problem
from tools.common.schemas import schemas_digest
from tools.hub import records
from tools.hub.records import HubSnapshot
from tools.hub.storage import ObjectInfo, Storage
from tools.site import jobs, pages, rendering
from tools.site.benchmark_report import report_problems
from tools.site.benchmarks import FILE as BENCHMARKS
from tools.site.jobs import Job, Page, rare_collections
from tools.site.page_cache import PageCache, cache_file, file_stamp

WRITERS = 16  # files that are written at the same time: each waits for the disk, or for a round trip
PROCESSES = 8  # at most


def write_pages(
    catalog: Catalog,
    storage: Storage,
    base_url: str,
    known: dict[str, Any] | None = None,
    *,
    cache: Path | None = None,
) -> int:
    """Derive pages and index from the hub's records and notes, again if others add some meanwhile; return how many were written.

    `known` are records that were read already, by path; `cache` is the publisher's folder, where what lies in the hub is
    remembered. Raises `PageError` for a record that has no page, `StorageError` for a hub that cannot be read or written, and
    `DamagedHub`, when all else is done, for records and notes that were left out.
    """
    known = {} if known is None else known
    if cache:
        rendering.use_template_cache(cache / "templates")
    written, seen = 0, None
    with rare_collections(), PageCache(cache and cache_file(cache / "pages", storage.url)) as page_cache:
        while True:
            listing = storage.list_objects()
            contents = {path for path in listing if records.is_source(path)}
            if contents == seen:  # records and notes are only ever added
                break
            stamps = _stamps(storage, listing)
            # Only what was found valid is stored, and only as long as the same schemas ask for the same.
            checked = {path: f"{stamps[path]} {schemas_digest()}" for path in contents if path in stamps}
            known |= page_cache.records({path: checked[path] for path in checked.keys() - known.keys()})
            hub = records.snapshot(storage, known, listing=listing)
            for path in contents.intersection(known):
                page_cache.store_record(path, known[path], checked.get(path))
            planned = plan_pages(catalog, storage, base_url, hub, page_cache)
            stale = [
                job
                for job in planned
                if not all(page_cache.is_fresh(path, job.key, stamps.get(path)) for path, _ in job.files)
            ]
            count = 0
            for batch in jobs.perform(stale, Job.pages, processes=min(os.cpu_count() or 1, PROCESSES)):
                count += _store(storage, batch, listing, page_cache)
            page_cache.evict({path for job in planned for path, _ in job.files} | contents)
            written, seen = written + count, contents
            if not count:
                break
    if hub.problems:
        raise records.DamagedHub(hub.problems, pages=written)
    return written


def plan_pages(
    catalog: Catalog, storage: Storage, base_url: str, hub: HubSnapshot, page_cache: PageCache | None = None
) -> list[Job]:
    """Return the jobs that make all pages of a hub, as `write_pages` would write them; adds to `hub.problems`.

    Raises:
      PageError: a record has no page.
      StorageError: the hub cannot be read.
    """
    known = page_cache or PageCache(None)
    return pages.plan(
        hub.records,
        publisher=catalog.publisher,
        collections=catalog.collections,
        base_url=base_url,
        tags=catalog.tags,
        yanked=hub.yanked,
        measurements=hub.measurements,
        claims=hub.claims,
        formats=hub.formats,
        benchmarks=_benchmarks(storage, hub.listing, hub.problems),
        digest_of=lambda handle: known.digest_of(layout.record_path(handle)),
    )


def _benchmarks(
    storage: Storage, listing: dict[str, ObjectInfo | None], problems: dict[str, Problem]
) -> dict[str, Any] | None:
    """Return what `tools/benchmark.py` wrote into the hub, if it did; add to `problems` if it is malformed."""
    if BENCHMARKS not in listing:
        return None
    try:
        report = json_text.parse_object(storage.read(BENCHMARKS))
        wrong = report_problems(report)
    except json_text.JsonError as error:
        wrong = [str(error)]
    if wrong:
        message = f"the report is malformed: {'; '.join(wrong)}"
        problems[BENCHMARKS] = Problem(storage.url_for(BENCHMARKS), message, "measure again, or take the file away")
        return None
    return report


def _stamps(storage: Storage, listing: dict[str, ObjectInfo | None]) -> dict[str, str]:
    """Return what tells each object from any other that ever lay under its path, without reading it."""
    if not storage.is_local:
        return {path: about.tag for path, about in listing.items() if about}
    found = {}
    for path in listing:
        with contextlib.suppress(OSError):
            found[path] = file_stamp(os.stat(f"{storage.url}/{path}"))
    return found


def _store(
    storage: Storage,
    made: list[tuple[Job, list[Page]]],
    listing: dict[str, ObjectInfo | None],
    page_cache: PageCache,
) -> int:
    """Write the pages that are not there as they are, several at a time; return how many were written."""

    def store(item: tuple[bytes, Page]) -> bool:
        key, page = item
        about = listing.get(page.path)
        written = storage.replace(page.path, page.data, content_type=page.content_type, known=about)
        if storage.is_local:
            stamp = file_stamp(os.stat(f"{storage.url}/{page.path}"))
        elif written or not about:
            stamp = hashlib.md5(page.data, usedforsecurity=False).hexdigest()  # as a bucket's listing will say it
        else:
            stamp = about.tag
        page_cache.store(page.path, key, stamp)
        return written

    with ThreadPoolExecutor(WRITERS) as pool:
        return sum(pool.map(store, [(job.key, page) for job, pages in made for page in pages]))
