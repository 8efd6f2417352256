"""What the command line shows: plans, progress and results as tables, plain when the output is no terminal."""

import sys
import threading

import rich.box
import rich.console
import rich.markup
import rich.progress
import rich.table

OUT = rich.console.Console(highlight=False)
ERR = rich.console.Console(stderr=True, highlight=False)


def problems(error) -> None:
    """Errors, one a line, to standard error."""
    for line in str(error).splitlines():
        ERR.print(f"[bold red]error[/]: {rich.markup.escape(line)}", soft_wrap=True)


def table(*columns, rows) -> rich.table.Table:
    """A plain table; a column whose name ends with `>` is aligned to the right."""
    made = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left", no_wrap=True)
    for row in rows:
        made.add_row(*(rich.markup.escape(str(cell)) for cell in row))
    return made


def show(content) -> None:
    """Print to standard output; where that is no terminal, as wide as the content needs."""
    if OUT.is_terminal:
        OUT.print(content)
    else:
        rich.console.Console(file=sys.stdout, width=1000, highlight=False).print(content)


def size(count: float) -> str:
    """Bytes as people read them, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def plan(modules, hub) -> None:
    """What publishing `modules` would do: handle, head, parameters, resolution, licence, checkpoint."""
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
    show(
        table(
            "Handle", "Head", "Reported parameters>", "Resolution>", "Preprocessing", "Licence", "Checkpoint", rows=rows
        )
    )
    checkpoints = len({module.variant.checkpoint for module in modules})
    show(f"{len(modules)} modules from {checkpoints} checkpoints" + (f" would go to {hub}" if hub else ""))


def results(found, pages: int, hub: str, url: str) -> None:
    """What became of each module, then every reason why one failed."""
    rows = [
        (
            result.module.handle,
            result.state,
            size(result.record["archive"]["bytes"]) if result.record else "",
            _top1(result.record),
            result.record["archive"]["sha256"][:12] if result.record else "",
        )
        for result in found
    ]
    show(table("Handle", "State", "Archive>", "Measured top-1>", "sha256", rows=rows))
    for reason in dict.fromkeys(result.reason for result in found if result.reason):
        problems(reason)
    for result in found:
        if result.state == "published" and result.is_unverified:
            ERR.print(
                f"[bold yellow]warning[/]: {rich.markup.escape(result.module.handle)}: its checkpoint came from a mirror, and "
                "its row pins no sha256: nothing says that these are upstream's weights. Compare the digest on its page with "
                'upstream\'s, and pin it in the row: `sha256 = "..."`',
                soft_wrap=True,
            )
    show(f"{pages} pages written to {hub}; handles begin with {url}")


def audit(report, hub: str) -> None:
    """Print the problems of an audit, a line for each, then what was looked at and how."""
    for problem in report.problems:
        kind = "[bold red]error[/]" if problem.is_error else "[bold yellow]warning[/]"
        ERR.print(f"{kind}: {rich.markup.escape(str(problem))}", soft_wrap=True)
    how = {
        "content": "every archive read: digests and members",
        "digests": "sizes and digests compared with the storage's own",
        "sizes": "sizes compared; this storage keeps no digests, so --thorough would read the archives",
    }[report.depth]
    show(
        f"{hub}: {report.modules} modules, {size(report.bytes)} of archives; {how}. "
        f"{len(report.errors)} errors, {len(report.problems) - len(report.errors)} warnings"
    )


def verified(results) -> None:
    """What verification found: one line for each module with its checks, then the reason of every failure."""
    marks = {"ok": "ok", "failed": "FAILED", "skipped": "-"}
    names = list(dict.fromkeys(check.name for result in results for check in result.checks))
    rows = [
        (
            result.handle or result.url,
            *(marks[next((c.state for c in result.checks if c.name == name), "skipped")] for name in names),
            result.note,
        )
        for result in results
    ]
    show(table("Module", *(name.capitalize() for name in names), "", rows=rows))
    for result in results:
        for check in result.checks:
            if check.state == "failed":
                problems(f"{result.handle or result.url}: {check.name}: {check.message}")
    wrong = sum(not result.ok for result in results)
    show(f"{len(results)} verified, {wrong} wrong" if wrong else f"{len(results)} verified, nothing wrong")


def _top1(record) -> str:
    top1 = record.get("measured", {}).get("top1")
    return f"{top1['value']:.2f} % of {top1['images']}" if top1 else ""


class Progress:
    """One line for each row at work: its stage, and a bar while bytes move. Silent when standard error is no terminal."""

    def __init__(self):
        self._lock = threading.Lock()
        self._tasks: dict[str, int] = {}
        self._bars = rich.progress.Progress(
            rich.progress.SpinnerColumn(),
            rich.progress.TextColumn("{task.fields[row]}"),
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(bar_width=24),
            rich.progress.DownloadColumn(),
            rich.progress.TimeElapsedColumn(),
            console=ERR,
            transient=True,
            disable=not ERR.is_terminal,
        )

    def __enter__(self):
        self._bars.start()
        return self

    def __exit__(self, *_exception):
        self._bars.stop()

    def report(self, variant, stage: str, done: int | None, total: int | None) -> None:
        """Called by the threads that publish: `variant` is in `stage`, with `done` of `total` bytes where bytes move."""
        if self._bars.disable:
            return
        with self._lock:
            if stage == "done":
                task = self._tasks.pop(variant.stem, None)
                if task is not None:
                    self._bars.remove_task(task)
                return
            if variant.stem not in self._tasks:
                self._tasks[variant.stem] = self._bars.add_task(stage, row=variant.stem, total=None)
            self._bars.update(self._tasks[variant.stem], description=stage, completed=done or 0, total=total)
