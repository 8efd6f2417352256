"""Terminal output: messages, tables and progress; plain text where the output is no terminal."""

import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Self

import rich.box
import rich.console
import rich.markup
import rich.progress
import rich.table
import rich.text

OUT = rich.console.Console(highlight=False)
ERR = rich.console.Console(stderr=True, highlight=False)


def problems(error: object) -> None:
    """Print errors to standard error, one a line."""
    for line in str(error).splitlines():
        _labelled("[bold red]error[/]", line)


def warning(message: str) -> None:
    """Print a warning to standard error."""
    _labelled("[bold yellow]warning[/]", message)


def note(sentence: str) -> None:
    """Print to standard error what is neither a result nor a problem."""
    ERR.print(sentence, markup=False, soft_wrap=True)


def _labelled(label: str, message: str) -> None:
    ERR.print(f"{label}: {rich.markup.escape(message)}", soft_wrap=True)


def table(*columns: str, rows: Iterable[Sequence[object]]) -> rich.table.Table:
    """Return a plain table; a column whose name ends with `>` is aligned to the right."""
    made = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left", no_wrap=True)
    for row in rows:
        made.add_row(*(rich.markup.escape(str(cell)) for cell in row))
    return made


def show(content: rich.console.RenderableType) -> None:
    """Print to standard output; where that is no terminal, as wide as the content needs."""
    if OUT.is_terminal:
        OUT.print(content)
    else:
        rich.console.Console(file=sys.stdout, width=1000, highlight=False).print(content)


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
                self._tasks[name] = self._lines.add_task(text, name=name, amount="", total=None)
            self._lines.update(
                self._tasks[name], description=text, completed=done or 0, total=total, amount=self._amount(done, total)
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
