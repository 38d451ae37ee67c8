"""How the commands speak and end: lines, tables and JSON, progress, questions, exit statuses.

A result goes to standard output: a table on a terminal, and elsewhere the same with tabs between its columns, so that
other programs can take it apart; with ``--json`` JSON. What is no result (progress, notes, what went wrong) goes to
standard error. Progress is a bar on a terminal where rich is installed, and else a line now and then.

Exit statuses: ``DONE``, ``WRONG``, ``USAGE``, ``INTERRUPTED``. A reader that has had enough, as ``head``, is no error.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Protocol

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, InterfaceError

from llmcache.exceptions import ConfigurationError, InvalidRequest

DONE: Final = 0
WRONG: Final = 1
"""Something was wrong: with what was found, or with what stands in the way."""
USAGE: Final = 2
"""The arguments cannot be used; nothing was done. As argparse has it."""
INTERRUPTED: Final = 130
"""By Ctrl-C."""

_EVERY_SECONDS: Final = 5.0
"""Between two lines of progress in a log."""


def failed(message: str) -> CommandError:
    """Return the error that ends a command with ``WRONG``."""
    return CommandError(message, returncode=WRONG)


def unusable(message: str) -> CommandError:
    """Return the error that ends a command with ``USAGE``."""
    return CommandError(message, returncode=USAGE)


def interrupted(message: str = "Stopped.") -> CommandError:
    """Return the error that ends a command with ``INTERRUPTED``."""
    return CommandError(message, returncode=INTERRUPTED)


class SpokenCommand(BaseCommand):
    """A command of this app: subclasses write ``work``, and ``add_own_arguments``."""

    json = False
    """Whether ``--json`` was given."""
    _above_bar: Callable[[str], None] | None = None
    """Prints a line above the bar that is shown; None while there is none."""

    def add_arguments(self, parser: CommandParser) -> None:
        """Add ``--json`` and the command's own arguments."""
        self.add_own_arguments(parser)
        parser.add_argument("--json", action="store_true", help="print JSON in place of a table")

    def add_own_arguments(self, parser: CommandParser) -> None:
        """Add the command's own arguments."""

    def work(self, **options: Any) -> None:
        """Do what the command is for; raise ``failed``, ``unusable`` or ``interrupted`` where it does not succeed."""
        raise NotImplementedError

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Do as Django does, and end quietly where nobody reads any more."""
        try:
            said = super().execute(*args, **options)
            self.stdout.flush()
        except BrokenPipeError:
            _let_go_of_pipes()
            return None
        return said

    def handle(self, **options: Any) -> None:
        """Do the work, and say in one line why it could not be done."""
        self.json = options.pop("json")
        try:
            self.work(**options)
        except KeyboardInterrupt:
            raise interrupted() from None
        except InvalidRequest as error:
            raise unusable(str(error)) from None
        except ConfigurationError as error:
            raise failed(str(error)) from None
        except (DatabaseError, InterfaceError, ImproperlyConfigured) as error:
            raise failed(database_trouble(error)) from None

    # -- what is said

    def say(self, line: str = "") -> None:
        """Print a line of the result."""
        self.stdout.write(printable(line, self.stdout))

    def note(self, line: str) -> None:
        """Print a line that is no result: to standard error."""
        shown = printable(line, self.stderr)
        if self._above_bar is not None:
            self._above_bar(shown)
        else:
            self.stderr.write(shown, self.style.NOTICE)

    def say_json(self, value: Any) -> None:
        """Print a value as one JSON document: times by ISO 8601, money as a string that is exact."""
        self.stdout.write(encoded_json(value, indent=2 if self.stdout.isatty() else None))

    def say_table(self, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Print rows below headings: aligned on a terminal, and elsewhere with tabs between their columns."""
        told = [[str(cell) for cell in row] for row in (headings, *rows)]
        # No cell may break a row, or make two columns of one.
        told = [[printable(" ".join(cell.split()), self.stdout) for cell in row] for row in told]
        if not self.stdout.isatty():
            for row in told:
                self.stdout.write("\t".join(row))
            return
        widths = [max(map(len, column)) for column in zip(*told, strict=True)]
        for row in told:
            self.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    @contextmanager
    def progress(self, what: str, total: int | None = None) -> Generator[Progress]:
        """Show how far something has come, on standard error, until the block ends; without a ``total`` a count."""
        # Django's wrapper ends with a line whatever is written, and would tear a bar apart.
        bar = _bar(getattr(self.stderr, "_out", self.stderr), what, total) if self.stderr.isatty() else None
        if bar is None:
            lines = _Lines(self.note, what, total)
            yield lines.at
            lines.end()
            return
        with bar as (at, self._above_bar):
            try:
                yield at
            finally:
                self._above_bar = None

    # -- what is asked

    def confirm(self, question: str, *, yes: bool) -> None:
        """Return when somebody at a terminal agrees, or ``yes`` was given; raise otherwise."""
        if yes:
            return
        if not (sys.stdin.isatty() and self.stdout.isatty()):
            raise unusable(f"{question} There is nobody to ask: pass --yes to do it.")
        self.stdout.write(f"{printable(question, self.stdout)} [y/N] ", ending="")
        self.stdout.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise failed("Nothing was done.")


class Progress(Protocol):
    """Tells how far something has come."""

    def __call__(self, done: int, told: str = "") -> None:
        """Tell how many are done; ``told`` is what else is to be seen, in a few words and without a user's text."""
        ...


class _Lines:
    """Progress in a log: a line every few seconds, and none for what is done sooner."""

    def __init__(self, note: Callable[[str], None], what: str, total: int | None) -> None:
        self._note = note
        self._what = what
        self._of = "" if total is None else f" of {total:,}"
        self._said_at = time.monotonic()
        self._last: str | None = None
        self._said = False

    def at(self, done: int, told: str = "") -> None:
        self._last = f"{self._what}: {done:,}{self._of}{f', {told}' if told else ''}"
        if time.monotonic() - self._said_at >= _EVERY_SECONDS:
            self._say()

    def end(self) -> None:
        if self._said and self._last is not None:
            self._say()

    def _say(self) -> None:
        if self._last is not None:
            self._note(self._last)
        self._said_at, self._last, self._said = time.monotonic(), None, True


def _bar(stream: Any, what: str, total: int | None) -> Any:
    """Return a bar by rich, entered to get what moves it; None without rich, or where no line can be drawn anew."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar
    except ImportError:
        return None
    console = Console(file=stream)
    if console.is_dumb_terminal:
        return None
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[told]}", markup=False),
    )

    @contextmanager
    def shown() -> Generator[tuple[Progress, Callable[[str], None]]]:
        with Bar(*columns, console=console) as bar:
            task = bar.add_task(what, total=total, told="")

            def at(done: int, told: str = "") -> None:
                bar.update(task, completed=done, told=told)

            def print_above(line: str) -> None:
                bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

            yield at, print_above

    return shown()


class Stop:
    """Whether somebody wants an end; called, it says so."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        """Return whether somebody wants an end."""
        return self.asked


@contextmanager
def stopped_by_signals() -> Generator[Stop]:
    """Let Ctrl-C or SIGTERM ask for an end, so that what is under way comes to its own; a second one breaks it off."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread gets signals.
        yield stop
        return

    def ask(*_: object) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def printable(text: str, stream: Any) -> str:
    """Return a line as a stream can show it: nothing in it moves a terminal's cursor, and every letter has bytes."""
    shown = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def encoded_json(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON in ASCII: times by ISO 8601, money as a string that is exact."""
    return json.dumps(value, default=_as_json, indent=indent)


def _as_json(value: Any) -> Any:
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is no JSON")


def database_trouble(error: Exception) -> str:
    """Return what a database's error says, in one line, and what to do."""
    said = " ".join(str(error).split())
    return (
        f"The database cannot be used ({type(error).__name__}: {said}). When tables are missing, run: manage.py migrate"
    )


def _let_go_of_pipes() -> None:
    """Let what is still to be flushed at the process's end go nowhere where the reader has gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                # Where somebody has put something else in its place there is nothing to do.
                with suppress(OSError, ValueError, AttributeError):
                    os.dup2(nowhere, stream.fileno())
    finally:
        os.close(nowhere)
