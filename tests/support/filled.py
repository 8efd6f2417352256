"""A hub of all rows of the catalogue in which every column of every table is filled: figures made up, no archives.

pages = build()                             # of every row
records, notes = records_and_notes(modules) # of some
"""

from tests.support import made
from tools.site import pages

DATE = "2026-12-01T08:00:00Z"
VERSIONS = {"tensorflow": "2.21.0", "python": "3.11"}
CPU = "Test CPU 9000"


def records_and_notes(modules=None):
    """Return the records of the modules (all rows without any), and the notes of their accuracy and speed by handle."""
    found, notes = [], {}
    for module in made.rows().modules if modules is None else modules:
        record = made.record(module)
        row, measured = record["row"], record["measured"]
        parameters = row["parameters"] or (186_554 + 9_000 * len(found) if row["data"] == "digits" else 28_600_000)
        gflops = row["gflops"] or (0.0021 if row["data"] == "digits" else 4.5)
        if row["data"] != "fcmae":  # which has no classifier
            row |= {"top1": row["top1"] or 81.5, "top5": row["top5"] or 95.5}
        share = 1 if module.head == "classifier" else 0.96  # an extractor lacks the last layer
        measured |= {"parameters": round(parameters * share), "gflops": round(gflops * share, 4)}
        record["archive"]["bytes"] = round(parameters * 3.7)
        record["published"] = f"2026-11-{1 + len(found) % 28:02}T08:00:00Z"
        found.append(record)
        rates = {"1": round(60 / gflops**0.9, 2), "8": round(75 / gflops**0.9, 2)}
        said = [("speed", {"cpu": CPU, "threads": 2, "resolution": row["resolution"], "images_per_second": rates})]
        if module.head == "classifier":
            top1, top5 = row["top1"] - 0.06, row["top5"]
            figures = {"dataset": row["datasets"][-1], "split": "validation", "images": 50_000, "list_sha256": "0" * 64}
            figures |= {"top1": _accuracy(top1), "top5": _accuracy(top5)}
            said.append(("evaluation", figures))
        notes[record["handle"]] = [
            {"schema": 1, "kind": "Note", "handle": record["handle"], "number": number, "action": action, "date": DATE}
            | {"measurement": measurement | {"versions": VERSIONS}}
            for number, (action, measurement) in enumerate(said, 1)
        ]
    return found, notes


def _accuracy(value):
    return {"value": round(value, 3), "correct": round(value * 500)}


def build(modules=None, **changes):
    """Return the pages of such a hub."""
    records, notes = records_and_notes(modules)
    rows = made.rows()
    arguments = {"publisher": rows.publisher, "collections": rows.collections, "base_url": made.URL}
    return pages.build(records, measurements=notes, **{**arguments, "tags": made.tags(), **changes})


def write(folder, **arguments):
    """Write the pages of such a hub into a folder."""
    for page in build(**arguments).values():
        (folder / page.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / page.path).write_bytes(page.data)
