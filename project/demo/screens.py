"""The terminal: rich where a person watches, plain lines where a file or a program reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Protocol

from django.core.management.base import OutputWrapper

Rows = Sequence[tuple[str, Sequence[str]]]

_PLAIN_PROGRESS_LINES: Final = 10


class Screen(Protocol):
    """Where the demo shows what it does."""

    def line(self, text: str = "") -> None:
        """Show a line."""
        ...

    def progress(self, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Give a function that is told how many of ``total`` requests are done."""
        ...

    def table(self, title: str, columns: Sequence[str], rows: Rows) -> None:
        """Show a table: labels on the left, numbers under each column."""
        ...


def screen(stdout: OutputWrapper, *, color: bool) -> Screen:
    """Return the screen for an output of a command."""
    return RichScreen(color=color) if stdout.isatty() else PlainScreen(stdout)


class PlainScreen:
    """Lines of plain text, each flushed at once."""

    def __init__(self, stdout: OutputWrapper) -> None:
        self._stdout = stdout

    def line(self, text: str = "") -> None:
        """Write a line."""
        self._stdout.write(text)
        self._stdout.flush()

    @contextmanager
    def progress(self, total: int) -> Iterator[Callable[[int], None]]:
        """Write a line for each tenth that is done."""
        step = max(total // _PLAIN_PROGRESS_LINES, 1)
        told = 0

        def update(done: int) -> None:
            nonlocal told
            if done // step > told // step:
                told = done
                self.line(f"  {done:,} of {total:,}")

        yield update

    def table(self, title: str, columns: Sequence[str], rows: Rows) -> None:
        """Write aligned columns."""
        label_width = max(len(label) for label, _ in rows)
        widths = [max(len(head), *(len(cells[at]) for _, cells in rows)) for at, head in enumerate(columns)]
        self.line()
        self.line(title)
        for label, cells in [("", columns), *rows]:
            numbers = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
            self.line("   ".join((f"  {label:<{label_width}}", *numbers)))
        self.line()


class RichScreen:
    """A terminal with a progress bar and a table."""

    def __init__(self, *, color: bool) -> None:
        # Only here: output that no person watches needs no rich.
        from rich.console import Console

        self._console = Console(no_color=not color, highlight=False)

    def line(self, text: str = "") -> None:
        """Show a line."""
        self._console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def progress(self, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar while the requests run."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("requests"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console) as bar:
            task = bar.add_task("requests", total=total)
            yield lambda done: bar.update(task, completed=done)

    def table(self, title: str, columns: Sequence[str], rows: Rows) -> None:
        """Show the table."""
        from rich import box
        from rich.table import Table

        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        table.add_column("")
        for column in columns:
            table.add_column(column, justify="right")
        for label, cells in rows:
            table.add_row(label, *cells)
        self.line()
        self._console.print(table)
