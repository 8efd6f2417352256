"""Show what publishing would do and what it did."""

import os
from typing import TYPE_CHECKING

from tools.catalog.catalog import Catalog, Module, Variant
from tools.common import console
from tools.common.console import size, table
from tools.common.download import mirror_paths
from tools.common.problems import WARNING, Problem

if TYPE_CHECKING:  # a plan is shown without what publishes
    from tools.hub.records import Record
    from tools.publishing.format_transaction import FormatResult
    from tools.publishing.transaction import PublishResult


def show_plan(catalog: Catalog, modules: list[Module], hub: str | None, mirror: str | None) -> bool:
    """Show what publishing `modules` would do, and then what is wrong with the catalogue, or missing in a folder of checkpoints.

    Returns whether anything is.
    """
    rows = [
        (
            module.handle,
            module.head.replace("_", " "),
            f"{module.variant.parameters:,}" if module.variant.parameters else "",
            module.variant.resolution,
            module.variant.transform,
            module.variant.licence,
            module.variant.file_name,
        )
        for module in modules
    ]
    columns = ("Handle", "Head", "Reported parameters>", "Resolution>", "Preprocessing", "Licence", "Checkpoint")
    console.show(table(*columns, rows=rows))
    checkpoints = len({module.variant.checkpoint for module in modules})
    console.show(f"{len(modules)} modules from {checkpoints} checkpoints" + (f" would go to {hub}" if hub else ""))
    found = [*catalog.problems, *_missing(catalog, modules, mirror)]
    for problem in found:
        console.problems(problem)
    console.warnings(row_warnings(modules))
    return bool(found)


def row_warnings(modules: list[Module]) -> list[Problem]:
    """Return what is odd about the rows of `modules`, and hinders nobody from publishing them."""
    rows = {f"{each.variant.stem}/{each.variant.version}": each.variant for each in modules}
    return [
        Problem(
            row.file,
            f"version {row.version} has no `changes`, so its page does not say what it corrects",
            'add `changes = "..."`',
            row=row.stem,
            severity=WARNING,
        )
        for row in rows.values()
        if row.version > 1 and not row.changes
    ]


def _missing(catalog: Catalog, modules: list[Module], mirror: str | None) -> list[Problem]:
    """Return the checkpoints of `modules` that a folder of checkpoints lacks."""
    if not mirror or "://" in mirror:
        return []
    problems = {}
    for row in (module.variant for module in modules):
        places = mirror_paths(row.checkpoint, is_named_alone=catalog.is_named_alone(row))
        if "://" in row.checkpoint and not any(os.path.isfile(os.path.join(mirror, place)) for place in places):
            message = f"the file of {row.checkpoint} is not in {mirror}"
            problems[row.checkpoint] = Problem(
                row.file, message, f"put it there, as {' or as '.join(places)}", row=row.stem
            )
    return list(problems.values())


def show_results(results: "list[PublishResult]", pages: int, hub: str, url: str) -> None:
    """Show what became of each module, and then every reason why one failed."""
    rows = [
        (
            result.module.handle,
            result.state,
            size(result.record["archive"]["bytes"]) if result.record else "",
            _top1(result.record),
            result.record["archive"]["sha256"][:12] if result.record else "",
        )
        for result in results
    ]
    console.show(table("Handle", "State", "Archive>", "Measured top-1>", "sha256", rows=rows))
    for reason in dict.fromkeys(result.reason for result in results if result.reason):
        console.problems(reason)
    for result in results:
        if result.state == "published" and result.is_unverified:
            console.warning(
                f"{result.module.handle}: its checkpoint came from a mirror, and its row pins no sha256: nothing says that these "
                "are upstream's weights. Fix: compare the digest on its page with upstream's, and pin it in the row: "
                '`sha256 = "..."`.'
            )
    console.show(f"{pages} pages written to {hub}; handles begin with {url}")


def show_formats(results: "list[FormatResult]") -> None:
    """Show what became of each file for another runtime, if there are any, and then every reason why one was not published."""
    if not results:
        return
    rows = [
        (
            result.module.handle,
            result.format,
            result.state,
            size(result.file["bytes"]) if result.file else "",
            f"{max(result.file['differences'].values()):.1g}" if result.file else "",
            f"{result.file['accuracy']['value']:.2f} %" if result.file and result.file["accuracy"] else "",
            result.file["sha256"][:12] if result.file else "",
        )
        for result in results
    ]
    columns = ("Handle", "Format", "State", "File>", "Largest difference>", "Measured top-1>", "sha256")
    console.show(table(*columns, rows=rows))
    for state, show in (("left out", console.warning), ("failed", console.problems)):
        for reason in dict.fromkeys(result.reason for result in results if result.state == state):
            show(reason)


def _top1(record: "Record | None") -> str:
    top1 = record.get("measured", {}).get("top1") if record else None
    return f"{top1['value']:.2f} % of {top1['images']}" if top1 else ""


class PublishingProgress(console.Progress):
    """Progress of a run of `Publishing`: a line for each row."""

    def report(self, variant: Variant, stage: str, done: int | None, total: int | None) -> None:
        """Show that a row is in `stage`, with `done` of `total` bytes where bytes move; takes its line away at stage "done"."""
        if stage == "done":
            self.finish(variant.stem)
        else:
            self.update(variant.stem, stage, done, total)
