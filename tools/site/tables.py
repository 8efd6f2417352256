"""A collection's table as data: the CSV and JSON that its page offers for download.

    rows = table_rows(collection)          # one dictionary per module, the same keys in each
    as_csv(rows), as_json(rows)

Accuracies are per cent, `gflops` 10^9 multiply-adds for one image, `download` bytes. What nobody reported or measured is an
empty cell in CSV and null in JSON. `classifier_top1` is the accuracy of the checkpoint's classifier. `measured_...` says on which
images and when, `speed_...` on which processor.
"""

import csv
import io
import json
from typing import Any

from tools.site.published_collection import ACCURACIES, PublishedCollection, raw
from tools.site.published_module import SPEED

COLUMNS = ("resolution", "parameters", "gflops", *ACCURACIES, "download")
BATCHES = ("1", "8")  # images at a time, of which the speed has a column


def table_rows(collection: PublishedCollection) -> list[dict[str, Any]]:
    """Return the rows of a collection's tables, classifiers first, in the order of the page."""
    rows = []
    for module in [*collection.classifiers, *collection.feature_extractors]:
        row = {
            "handle": module.handle,
            "url": module.url,
            "head": module.head,
            "family": module.row["family"],
            "size": module.row["size"],
            "data": module.row["data"],
            "licence": module.row["licence"],
            "fine_tunable": module.row["fine_tunable"],
            "precision": module.precision,
        }
        for column in COLUMNS:
            value = raw(module, column)
            row[column] = None if value == "" else value
        row["classifier_top1"] = module.top1
        evaluation, speed = module.evaluation, module.speed
        for key in ("dataset", "split", "images", "date"):
            row[f"measured_{key}"] = getattr(evaluation, key, None)
        for batch in BATCHES:
            row[f"{SPEED}{batch}"] = speed.images_per_second.get(batch) if speed else None
        for key in ("cpu", "threads", "date"):
            row[f"speed_{key}"] = getattr(speed, key, None)
        rows.append({**row, "sha256": module.archive["sha256"], "published": module.published})
    return rows


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Return CSV of RFC 4180, with a header and lines that end in CRLF; what a spreadsheet would run as a formula is quoted."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return out.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def as_json(rows: list[dict[str, Any]]) -> str:
    """Return a JSON list of objects, one on each line."""
    return "[\n " + ",\n ".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"
