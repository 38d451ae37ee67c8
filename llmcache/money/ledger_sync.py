"""Attempts in the database before they leave, for machines whose disk dies with them (``LEDGER_SYNC``).

One thread with a connection of its own writes what callers put in, all that has come meanwhile in one transaction, and
lets them go on. So no statement is made on a caller's connection, whose transaction may be rolled back, and a hundred
callers take one commit. The journal has the line already: where the database does not answer in time, the call goes on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final

from django.db import connections

from llmcache.money.journal_files import JournalRecord
from llmcache.money.ledger import import_records

logger = logging.getLogger("llmcache.ledger")

WAIT_SECONDS: Final = 1.0
"""How long a call waits for the database."""
REST_SECONDS: Final = 5.0
"""How long the database is left alone after it has failed."""
_MOST_RECORDS: Final = 200
_IDLE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class _Put:
    record: JournalRecord
    done: Callable[[], object]


class LedgerSync:
    """Writes the starts of attempts through to the database of an alias."""

    def __init__(self, using: str, namespace: str) -> None:
        self._using = using
        self._namespace = namespace
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Begin without a thread: the parent's is not in this process."""
        self._lock = threading.Lock()
        self._queue: SimpleQueue[_Put] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._rests_until = 0.0
        self._failing = False

    def put(self, record: JournalRecord, done: Callable[[], object]) -> None:
        """Write a record soon, and call ``done`` when it is written or cannot be; it may come in any thread."""
        if time.monotonic() < self._rests_until:
            done()
            return
        with self._lock:
            self._queue.put(_Put(record, done))
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._run, name="llmcache-sync", daemon=True)
            self._thread = thread
        try:
            thread.start()
        except RuntimeError:
            # The interpreter is ending.
            self._thread = None
            done()

    def write(self, record: JournalRecord) -> None:
        """Write a record, and return when it is written or ``WAIT_SECONDS`` are over."""
        done = threading.Event()
        self.put(record, done.set)
        if not done.wait(WAIT_SECONDS):
            self._note_failure("it does not answer in time")

    def note_delay(self) -> None:
        """Let the database rest: a caller has waited for ``WAIT_SECONDS``."""
        self._note_failure("it does not answer in time")

    def _run(self) -> None:
        try:
            while (group := self._next()) is not None:
                try:
                    self._write(group)
                finally:
                    for each in group:
                        each.done()
        finally:
            connections[self._using].close()

    def _next(self) -> list[_Put] | None:
        """Return what has come, or None when nothing has for a long time: then the thread ends."""
        try:
            group = [self._queue.get(timeout=_IDLE_SECONDS)]
        except Empty:
            with self._lock:
                if self._queue.empty():
                    self._thread = None
                    return None
            return []
        while len(group) < _MOST_RECORDS:
            try:
                group.append(self._queue.get_nowait())
            except Empty:
                break
        return group

    def _write(self, group: list[_Put]) -> None:
        if not group:
            return
        connection = connections[self._using]
        try:
            connection.close_if_unusable_or_obsolete()
            import_records([each.record for each in group], using=self._using, namespace=self._namespace)
        except Exception as error:  # noqa: BLE001  # whatever it is, the journal has the lines
            connection.close()
            self._note_failure(type(error).__name__)
        else:
            if self._failing:
                self._failing = False
                logger.warning("Attempts are written to the database %r before they leave again.", self._using)

    def _note_failure(self, what: str) -> None:
        self._rests_until = time.monotonic() + REST_SECONDS
        if not self._failing:
            self._failing = True
            logger.warning(
                "Attempts leave without being in the database %r first, though LLMCACHE['LEDGER_SYNC'] is set (%s). "
                "The journal has them; check that database.", self._using, what,
            )  # fmt: skip
