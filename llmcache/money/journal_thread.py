"""Lines of the journal for those who must not wait for a disk: written by one thread, brought to the disk in groups.

What has come while one group was brought to the disk is the next group: a slow disk makes larger groups, not a longer
queue. A line is told to be written as soon as the system has it, which survives the process; who needs it to survive a
power failure asks for ``durable``.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

from llmcache.money.journal_files import Event, JSONValue

if TYPE_CHECKING:
    from llmcache.money.journal import Journal

logger = logging.getLogger("llmcache.ledger")

# As where the journal is written without this thread: on the other events no money hangs.
_ON_MONEY: Final[frozenset[Event]] = frozenset({"started", "settled", "failed"})
_MOST_LINES: Final = 1_000
"""Lines of one group."""

Told = Callable[["BaseException | None"], None]


@dataclass(frozen=True, slots=True)
class _Line:
    journal: Journal
    event: Event
    call_id: str
    facts: Mapping[str, JSONValue]
    told: Told | None
    durable: bool

    def tell(self, error: BaseException | None = None) -> None:
        if self.told is not None:
            self.told(error)


class _Thread:
    """The thread of this process, started with the first line."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lines: SimpleQueue[_Line | threading.Event] = SimpleQueue()
        self.runs = False

    def put(self, line: _Line | threading.Event) -> None:
        self.lines.put(line)
        if self.runs:
            return
        with self.lock:
            if not self.runs:
                try:
                    threading.Thread(target=self._run, name="llmcache-journal", daemon=True).start()
                except RuntimeError:
                    # The interpreter ends, or the system has no thread left.
                    self._write(self._group())
                else:
                    self.runs = True

    def _run(self) -> None:
        while True:
            self._write(self._group())

    def _group(self) -> list[_Line | threading.Event]:
        group = [self.lines.get()]
        try:
            while len(group) < _MOST_LINES:
                group.append(self.lines.get_nowait())
        except Empty:
            pass
        return group

    def _write(self, group: list[_Line | threading.Event]) -> None:
        written = [line for line in group if isinstance(line, _Line) and _wrote(line)]
        for journal in {id(line.journal): line.journal for line in written if line.event in _ON_MONEY}.values():
            try:
                journal.bring_to_disk()
            except Exception:
                # Whatever it is, those who wait for this thread must not wait for ever.
                logger.exception("The journal of provider calls could not be brought to the disk.")
        for line in written:
            if line.durable:
                line.tell()
        for line in group:
            if isinstance(line, threading.Event):
                line.set()


def _wrote(line: _Line) -> bool:
    try:
        line.journal.write(line.event, line.call_id, line.facts)
    except Exception as error:  # noqa: BLE001  # it belongs to whoever waits
        line.tell(error)
        return False
    if not line.durable:
        line.tell()
    return True


def put(
    journal: Journal,
    event: Event,
    call_id: str,
    facts: Mapping[str, JSONValue],
    told: Told | None,
    *,
    durable: bool = False,
) -> None:
    """Have a line written, in the order of these calls.

    ``told`` is called in the journal's thread, with what is wrong with the facts or None: when the line is written, or,
    ``durable``, when it is on the disk.
    """
    _thread.put(_Line(journal, event, call_id, facts, told, durable))


def drain(seconds: float) -> bool:
    """Wait until every line that was put before is written, and on the disk where it is about money; whether it is."""
    done = threading.Event()
    _thread.put(done)
    return done.wait(seconds)


_thread = _Thread()


def _reset_in_child() -> None:
    global _thread
    _thread = _Thread()


os.register_at_fork(after_in_child=_reset_in_child)
