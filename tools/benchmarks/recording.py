"""Measure the speed of published modules and record it beside their records, which pages then show.

done, pages = record(Storage("hub"), ["convnext_digits"], InferenceSettings(threads=2))
"""

import functools
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

from tools import catalog
from tools.benchmarks import measuring
from tools.benchmarks.engines import EngineWorker
from tools.benchmarks.inference import InferenceSettings
from tools.common.clock import now
from tools.hub import address, notes, records
from tools.hub.records import Record
from tools.hub.signatures import Signer
from tools.hub.storage import Storage
from tools.publishing.selection import select
from tools.server.server import serve
from tools.site.writing import write_pages


class RecordedSpeed(NamedTuple):
    """A module's handle, its measurement, and whether a note was added: there is none if the newest one says the same."""

    handle: str
    measurement: notes.SpeedMeasurement
    is_new: bool


def record(
    storage: Storage,
    names: Sequence[str],
    settings: InferenceSettings,
    *,
    url: str | None = None,
    signer: Signer | None = None,
) -> tuple[list[RecordedSpeed], int]:
    """Measure published modules through `hub.load` of their addresses, put notes beside their records, and make the pages again.

    Args:
      storage: the hub.
      names: as `tools.publishing.selection.select` takes them; none for the newest version of each module.
      settings: how to measure.
      url: the hub's public address; by default `address.for_writing` decides.
      signer: signs the notes.

    Returns:
      What was measured, and the number of pages that were written.

    Raises:
      SelectionError: nothing of a name is published.
      StorageError: nobody can tell the hub's address, or the hub cannot be written.
      BenchmarkError: a module cannot be measured.
    """
    hub = records.snapshot(storage)
    rows = catalog.load()
    chosen = select(names or ["all"], hub, rows)
    base_url = address.for_writing(storage, url, rows.publisher.url)  # before minutes are spent
    date = now()
    done = []
    with tempfile.TemporaryDirectory(prefix="hubpress-bench-") as cache, serve(storage) as served:
        for each in chosen:
            handle = each["handle"]
            measurement = measure_speed(f"{served}/{handle}", each, settings, cache=cache)
            note = notes.add_measurement(storage, handle, notes.SPEED, measurement, date=date, signer=signer)
            done.append(RecordedSpeed(handle, measurement, note is not None))
    return done, write_pages(rows, storage, base_url)


def measure_speed(url: str, published: Record, settings: InferenceSettings, *, cache: str) -> notes.SpeedMeasurement:
    """Measure images a second on float32 images, by batch size; return what a note holds.

    Args:
      url: the module's address.
      published: its record.
      settings: how to measure.
      cache: where tensorflow_hub keeps what it downloads.
    """
    side, handle = published["row"]["resolution"], published["handle"]
    open = {"engine": "hub", "module": url, "side": side, "pixel_range": published["row"]["pixel_range"]}
    settings.report(f"{handle}: load")
    with EngineWorker(handle, threads=settings.threads, open=open, cache=cache) as engine:
        for batch in settings.batches:
            engine.prepare(batch, "float32")
        turns = measuring.take_turns(
            {
                str(batch): functools.partial(engine.run, batch, "float32", seconds=settings.seconds)
                for batch in settings.batches
            },
            turns=settings.turns,
            report=lambda turn, batch: settings.report(f"{handle}: batch {batch}, turn {turn + 1}"),
        )
        versions = engine.versions
    return {
        "cpu": measuring.cpu(),
        "threads": settings.threads,
        "resolution": side,
        "images_per_second": {
            batch: round(measuring.spread(each["images"] / each["seconds"] for each in done)["median"], 2)
            for batch, done in turns.items()
        },
        "versions": versions,
    }
