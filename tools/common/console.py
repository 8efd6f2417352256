"""Terminal output: messages, tables and progress; plain text where the output is no terminal.

Everything that a script shows goes through these functions, which escape what a terminal would obey
(`tools.common.printable`): text of rows, records, labels and file names is shown and does nothing.
"""

import contextlib
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import rich.box
import rich.console
import rich.measure
import rich.progress
import rich.table
import rich.text

from tools.common.printable import json_text, printable, printable_lines

PATIENCE_SECONDS = 3.0  # before it is said what is waited for
_WIDEST = 10_000  # columns of a table

OUT = rich.console.Console(highlight=False)
ERR = rich.console.Console(stderr=True, highlight=False)


def problems(error: object) -> None:
    """Print errors to standard error, one a line."""
    for line in str(error).rstrip("\n").split("\n"):
        _labelled("error", "bold red", line)


def warning(message: str) -> None:
    """Print a warning to standard error."""
    _labelled("warning", "bold yellow", message)


def warnings(messages: Iterable[object]) -> None:
    """Print warnings to standard error, one a line."""
    for message in messages:
        warning(str(message))


def note(sentence: str) -> None:
    """Print to standard error what is neither a result nor a problem."""
    ERR.print(rich.text.Text(printable_lines(sentence)), soft_wrap=True)


def _labelled(label: str, style: str, message: str) -> None:
    ERR.print(rich.text.Text.assemble((label, style), ": ", printable(message)), soft_wrap=True)


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Note that this process is waiting for `what`, if the block takes more than a few seconds."""
    timer = threading.Timer(PATIENCE_SECONDS, note, [f"waiting for {what} ..."])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def table(*columns: str, rows: Iterable[Sequence[object]]) -> rich.table.Table:
    """Return a plain table; a column whose name ends with `>` is aligned to the right, and a line of it is never cut."""
    made = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left", no_wrap=True)
    for row in rows:
        made.add_row(*(rich.text.Text(printable(str(cell))) for cell in row))
    return made


def show(content: str | rich.table.Table) -> None:
    """Print lines of text or a table to standard output.

    A table is as wide as its cells: a terminal that is narrower breaks its lines, and a name can be copied from it.
    """
    if isinstance(content, str):
        OUT.print(rich.text.Text(printable_lines(content)), soft_wrap=True)
        return
    needed = rich.measure.Measurement.get(OUT, OUT.options.update(max_width=_WIDEST), content).maximum
    width = max(needed, OUT.width)
    rich.console.Console(file=sys.stdout, width=width, height=OUT.height, highlight=False).print(content)


def show_json(value: Any) -> None:
    """Print a value as JSON to standard output."""
    print(json_text(value))


def size(count: float) -> str:
    """Return a number of bytes as people read it, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


class Progress:
    """Progress on standard error: a line for each task at work; silent where that is no terminal.

        with Progress() as progress:
            progress.update("convnext_digits", "fetch", 10_000, 2_000_000)       # 10.0 kB of 2.0 MB, with a bar
            progress.update("convnext_digits", "check")                          # no bar
            progress.finish("convnext_digits")

    Amounts are bytes, or `unit` where one is given. All methods may be called from several threads.
    """

    def __init__(self, unit: str | None = None) -> None:
        self._unit = unit
        self._lock = threading.Lock()
        self._tasks: dict[str, rich.progress.TaskID] = {}
        self._lines = rich.progress.Progress(
            rich.progress.SpinnerColumn(),
            rich.progress.TextColumn("{task.fields[name]}", markup=False),
            rich.progress.TextColumn("{task.description}", markup=False),
            _Bar(bar_width=24),
            rich.progress.TextColumn("{task.fields[amount]}"),
            rich.progress.TimeElapsedColumn(),
            *([rich.progress.TimeRemainingColumn(compact=True)] if unit else []),
            console=ERR,
            transient=True,
            disable=not ERR.is_terminal,
        )

    def __enter__(self) -> Self:
        self._lines.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._lines.stop()

    def update(self, name: str, text: str, done: int | None = None, total: int | None = None) -> None:
        """Say what the task `name` is doing, with `done` of `total` where there is an amount."""
        if self._lines.disable:
            return
        with self._lock:
            if name not in self._tasks:
                self._tasks[name] = self._lines.add_task("", name=printable(name), amount="", total=None)
            self._lines.update(
                self._tasks[name],
                description=printable(text),
                completed=done or 0,
                total=total,
                amount=self._amount(done, total),
            )

    def finish(self, name: str) -> None:
        """Take the task's line away."""
        with self._lock:
            if (task := self._tasks.pop(name, None)) is not None:
                self._lines.remove_task(task)

    def _amount(self, done: int | None, total: int | None) -> str:
        if done is None:
            return ""
        if self._unit:
            return f"{done:,} of {total:,} {self._unit}" if total else f"{done:,} {self._unit}"
        return f"{size(done)} of {size(total)}" if total else size(done)


class _Bar(rich.progress.BarColumn):
    """A bar where there is a total, and nothing where there is none."""

    def render(self, task: rich.progress.Task) -> rich.console.RenderableType:  # type: ignore[override]
        return super().render(task) if task.total is not None else rich.text.Text()
