"""Describe an evaluation as JSON, write it as files, and show it as a table."""

from pathlib import Path
from typing import Any

from tools.common import clock, console
from tools.common.printable import json_text, printable
from tools.evaluation.counts import Summary, Totals, table
from tools.evaluation.running import Plan
from tools.evaluation.shards import NAMES_SHOWN


def describe(
    plan: Plan, totals: Totals, summaries: list[Summary], *, dataset: str | None, split: str
) -> dict[str, Any]:
    """Return the evaluation as JSON; what is confused with what is left to the CSV files.

    `broken` of the images could not be used; `left_out` names them, and files that are no images.
    """
    return {
        "schema": 1,
        "kind": "Evaluation",
        "date": clock.now(),
        "images": {
            "source": printable(plan.images.source),
            "list_sha256": plan.images.digest,
            "evaluated": totals.images,
            "broken": len(totals.broken),
            "left_out": [
                {"name": printable(name), "reason": reason} for name, reason in [*plan.images.left_out, *totals.broken]
            ],
        },
        "dataset": dataset,
        "split": split,
        "versions": totals.versions,
        "devices": totals.devices,
        "seconds": round(totals.seconds, 3),
        "modules": [
            {
                "handle": module.handle,
                "title": module.title,
                "address": module.address,
                "archive_sha256": module.sha256,
                **({"format": module.format} if module.format else {}),
                "competing_outputs": len(mapping.allowed or ()) or module.outputs,
                **{key: value for key, value in found.items() if key != "confusion"},
            }
            for module, mapping, found in zip(plan.modules, plan.mappings, summaries, strict=True)
        ],
    }


def as_json(description: dict[str, Any]) -> str:
    """Return a description as text."""
    return json_text(description)


def write(folder: Path, description: dict[str, Any], plan: Plan, summaries: list[Summary]) -> None:
    """Write `evaluation.json`, and of each module `NAME.classes.csv` and `NAME.confusion.csv` (the pairs that occurred)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(as_json(description) + "\n", encoding="utf-8")
    for module, found in zip(plan.modules, summaries, strict=True):
        name = module.title.replace("/", "-") if module.handle else module.sha256[:12]
        for what in ("classes", "confusion"):
            (folder / f"{name}.{what}.csv").write_bytes(table(found[what]))


def show(description: dict[str, Any], *, seconds: float) -> None:
    """Show the results as a table, and then what they were measured on; `seconds` is what this run took."""
    rows = [
        (
            each["title"],
            *(f"{each[top]['value']:.2f} % ({each[top]['correct']:,})" for top in ("top1", "top5")),
            f"{each['images']:,}",
            f"{each['images_per_second']:,.1f}" if each["images_per_second"] else "",
        )
        for each in description["modules"]
    ]
    console.show(console.table("Module", "Top-1>", "Top-5>", "Images>", "Images/s>", rows=rows))
    images = description["images"]
    broken = f", {images['broken']} that cannot be used were left out" if images["broken"] else ""
    for each in images["left_out"][-images["broken"] :][:NAMES_SHOWN] if images["broken"] else ():
        console.note(f"left out: {each['name']}: {each['reason']}")
    console.show(
        f"{images['evaluated']:,} images of {images['source']}{broken}; this run took {seconds:.1f} s on "
        f"{', '.join(description['devices'])}; list sha256 {images['list_sha256'][:12]}"
    )
