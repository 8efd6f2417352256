"""Jobs that make the pages of a site, one after the other or in several processes, for hubs and for archives of documents.

    job = Job((("a/1/index.html", HTML),), key, wave=0, make=lambda: ("<!doctype html>...",))
    for job, pages in perform(jobs, Job.pages, processes=2):
        ...

A job is planned cheaply and made only when it must be: its key says whether the pages that lie there are still right (see
`tools.site.page_cache`).
"""

import contextlib
import gc
import itertools
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from tools.site import rendering

HTML = "text/html; charset=utf-8"
MARKDOWN = "text/markdown; charset=utf-8"
JSON = "application/json"
ATOM = "application/atom+xml; charset=utf-8"
XML = "application/xml"
CSV = "text/csv; charset=utf-8"
STATIC = {
    "style.css": "text/css; charset=utf-8",
    "site.js": "text/javascript; charset=utf-8",
    "plot.js": "text/javascript; charset=utf-8",
    "compare.js": "text/javascript; charset=utf-8",
    "near.js": "text/javascript; charset=utf-8",
    "find.js": "text/javascript; charset=utf-8",
    "tables.js": "text/javascript; charset=utf-8",
    "search.js": "text/javascript; charset=utf-8",
    "index.schema.json": JSON,
    "record.schema.json": JSON,
    "format.schema.json": JSON,
    "note.schema.json": JSON,
    "benchmarks.schema.json": JSON,
    "example.jpg": "image/jpeg",
}
BATCH = 128  # jobs whose results are in memory at the same time
WORTH_PROCESSES = 100  # jobs from which on it pays to start processes

Result = TypeVar("Result")


class PageError(ValueError):
    """A page or a site cannot be made. The message names the record, the collection or the folder, and ends with the fix."""


@dataclass(frozen=True)
class Page:
    """One file of a site: `path` is relative to the site's root."""

    path: str
    data: bytes
    content_type: str


@dataclass(frozen=True)
class Job:
    """Pages that are made together: `files` are (path, content type), `make` gives their contents in the same order.

    `key` is a digest of everything that they are made from: two jobs with the same files and key make the same bytes. What
    lists other pages is of a later `wave`, to be written after them, so that no link is dead meanwhile.
    """

    files: tuple[tuple[str, str], ...]
    key: bytes
    wave: int
    make: Callable[[], tuple[str | bytes, ...]]

    def pages(self) -> list[Page]:
        """Make the pages."""
        contents = self.make()
        return [
            Page(path, content.encode("utf-8") if isinstance(content, str) else content, content_type)
            for (path, content_type), content in zip(self.files, contents, strict=True)
        ]


def perform(
    jobs: Iterable[Job], work: Callable[[Job], Result], *, processes: int
) -> Iterator[list[tuple[Job, Result]]]:
    """Do `work` for every job, by several processes when it is worth starting them; yield what it returned, in batches.

    A wave begins when all batches of the one before were yielded and the caller asked for more. What `work` does besides (a
    file that it writes) happens in the process that does it, what it returns is pickled.
    """
    ordered = sorted(jobs, key=lambda job: job.wave)
    batches = _batches(ordered)
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
    if len(ordered) < WORTH_PROCESSES or processes < 2 or "fork" not in multiprocessing.get_all_start_methods():
        for _, batch in batches:
            yield [(ordered[number], work(ordered[number])) for number in batch]
        return
    rendering.compile_templates("site")
    _INHERITED[:] = ordered, work  # by the processes; only numbers and results travel
    try:
        with multiprocessing.get_context("fork").Pool(processes) as pool:
            # While the caller has one batch the next is made, and no more than that.
            waiting: deque[tuple[int, range, Any]] = deque()

            def finished() -> list[tuple[Job, Result]]:
                _, numbers, results = waiting.popleft()
                return list(zip([ordered[number] for number in numbers], results.get(), strict=True))

            for wave, batch in batches:
                while waiting and (len(waiting) > 1 or waiting[0][0] != wave):
                    yield finished()
                waiting.append(
                    (
                        wave,
                        batch,
                        pool.map_async(
                            _perform_numbered, batch, chunksize=max(1, min(8, len(batch) // (2 * processes)))
                        ),
                    )
                )
            while waiting:
                yield finished()
    finally:
        _INHERITED.clear()


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """Plan without collecting garbage: thousands of records make Python look for it again and again, where there is none.

    `perform` collects again, but rarely, and not among what was planned.
    """
    was_enabled, before = gc.isenabled(), gc.get_threshold()
    gc.set_threshold(100_000, *before[1:])
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
        gc.enable() if was_enabled else gc.disable()


def _batches(ordered: list[Job]) -> list[tuple[int, range]]:
    """Return the wave and the numbers of the jobs of each batch."""
    found, start = [], 0
    for wave, group in itertools.groupby(ordered, key=lambda job: job.wave):
        end = start + len(list(group))
        found += [(wave, range(first, min(first + BATCH, end))) for first in range(start, end, BATCH)]
        start = end
    return found


_INHERITED: list[Any] = []


def _perform_numbered(number: int) -> Any:
    ordered, work = _INHERITED
    return work(ordered[number])
