"""Show what publishing would do and what it did."""

from typing import TYPE_CHECKING

from tools.catalog.catalog import Module, Variant
from tools.common import console
from tools.common.console import size, table

if TYPE_CHECKING:  # a plan is shown without what publishes
    from tools.hub.records import Record
    from tools.publishing.transaction import PublishResult


def show_plan(modules: list[Module], hub: str | None) -> None:
    """Show what publishing `modules` would do: handle, head, parameters, resolution, licence, checkpoint."""
    rows = [
        (
            module.handle,
            module.head.replace("_", " "),
            f"{module.variant.parameters:,}" if module.variant.parameters else "",
            module.variant.resolution,
            module.variant.transform,
            module.variant.licence,
            module.variant.checkpoint.rsplit("/", 1)[1],
        )
        for module in modules
    ]
    columns = ("Handle", "Head", "Reported parameters>", "Resolution>", "Preprocessing", "Licence", "Checkpoint")
    console.show(table(*columns, rows=rows))
    checkpoints = len({module.variant.checkpoint for module in modules})
    console.show(f"{len(modules)} modules from {checkpoints} checkpoints" + (f" would go to {hub}" if hub else ""))


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
