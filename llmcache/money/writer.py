"""The writer: one thread a process that brings journal and counts into the database.

Callers never wait for it. A database that is locked, dead or not migrated means later: lines stay in the journal's
files and counts in memory. A process that ends takes at most the counts since the last cycle with it; its file is
claimed by the next process of this machine, and what has no end there is in doubt.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from django.db import DEFAULT_DB_ALIAS, OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from llmcache.engine.counts import Collected, hour_of
from llmcache.money.gate import Gate, GivenUpError, gate
from llmcache.money.journal import OwnFile
from llmcache.money.journal_files import (
    JournalContents,
    JournalRecord,
    claim_dead,
    read_lines,
    read_part,
    unsettled,
)
from llmcache.money.ledger import Imported, add_counts, import_records

if TYPE_CHECKING:
    from llmcache.engine.runtime import Runtime

logger = logging.getLogger("llmcache.ledger")

IMPORT_SECONDS = 1.0
COUNT_SECONDS = 5.0
CLAIM_SECONDS = 30.0
LATER_SECONDS = 0.02
"""How long to wait when somebody else is writing, or a caller is in a transaction."""
PATIENCE_SECONDS = 0.5
"""How long records of which some are written wait for their turn before all of them come later."""
EXIT_SECONDS = 5.0
"""How long the end of the interpreter waits for the last cycle; what is left stays in the journal's file."""

FEWEST_RECORDS: Final = 10
MOST_RECORDS: Final = 500
_CHUNK_SECONDS: Final = 0.003
"""What a chunk should take on SQLite, where callers wait for it."""
_HOUR: Final = 3_600


_Result = Literal["done", "later", "failed"]


class _LaterError(Exception):
    """Not now: the database is locked, or a caller is in a transaction."""


class Importer:
    """Brings one runtime's journal and counts into the database, on the calling thread's connection."""

    def __init__(self, runtime: Runtime, gate: Gate | None = None, connect: Callable[[], None] = lambda: None) -> None:
        self._runtime = runtime
        self._using = runtime.settings.database
        self._gate = gate
        self._connect = connect
        self._hour: int | None = None
        self._chunk = FEWEST_RECORDS * 4
        self._done: dict[Any, int] = {}
        self._held_back: dict[str, JournalRecord] = {}
        self._ready: list[JournalRecord] = []
        self.damaged = 0
        """Lines that could not be read, or of which no row could be made."""

    def import_own(self) -> None:
        """Import what this process's journal has got since the last time. Raises the database's errors."""
        journal = self._runtime.journal
        self._drain()
        # Before the files are looked at: what has ended by now has its last line in them, or none that can be read.
        ended = self._held_back.keys() - journal.open_calls()
        for file in journal.files():
            self._import_file(file)
        journal.rotate()
        if journal.folder is None or not journal.keeps_up:
            lines = journal.waiting_lines()
            self._queue(read_lines(lines, journal.namespace))
            self._drain()
            journal.forget_waiting(lines)
        self._import_endless(ended)

    def _import_file(self, file: OwnFile) -> None:
        done = self._done.get(file.held, 0)
        while done < file.size:
            contents, done = read_part(file.held.descriptor, done, file.size, self._runtime.namespace)
            self._queue(contents)
            self._done[file.held] = done
            self._drain()
        if not file.current:
            self._runtime.journal.remove(file)
            self._done.pop(file.held, None)

    def _queue(self, contents: JournalContents) -> None:
        """Take in calls that have ended, and keep the starts of those under way: their lines are in the files."""
        for record in contents.records:
            if record.event == "started":
                self._held_back[record.call_id] = record
                continue
            start = self._held_back.pop(record.call_id, None)
            self._ready += [record] if start is None else [start, record]
        self._note_damage(contents.damaged)

    def _drain(self) -> None:
        """Write what was taken in; what cannot be written now stays, in the file and here."""
        while self._ready:
            part = self._ready[: self._chunk]
            imported = self._write_part(part, ())
            del self._ready[: len(part)]
            self._note_damage(imported.unusable)

    def _import_endless(self, ended: Collection[str]) -> None:
        """Import calls that have ended, and whose last line is damaged or was dropped, as in doubt."""
        starts = [self._held_back[call_id] for call_id in ended if call_id in self._held_back]
        self._write(starts, ended)
        for start in starts:
            del self._held_back[start.call_id]

    def finish(self) -> None:
        """Import what is left when the process ends, and delete its files. Raises the database's errors."""
        journal = self._runtime.journal
        self.import_own()
        # Of calls under way whose start is in no file, the next process would not know.
        self.import_finished(read_lines(journal.waiting_lines(), journal.namespace))
        for file in journal.files():
            if self._done.get(file.held) != file.size:
                # Another thread has written meanwhile.
                raise _LaterError
            journal.remove(file)

    def import_dead(self) -> None:
        """Import the files of processes that have ended, and delete them. Raises the database's errors."""
        folder = self._runtime.journal.folder
        if folder is None:
            return
        for claimed in claim_dead(folder, self._runtime.namespace):
            try:
                self.import_finished(claimed.contents)
            except BaseException:
                claimed.release()
                raise
            claimed.remove()

    def import_finished(self, contents: JournalContents) -> Imported:
        """Import a journal that nobody writes any more: what has no end there is in doubt."""
        imported = self._write(contents.records, unsettled(contents.records))
        self._note_damage(contents.damaged + imported.unusable)
        return imported

    def collect_counts(self) -> None:
        """Let what was counted until now be of this hour, whenever the database takes it."""
        hour = hour_of(self._runtime.clock.wall())
        # The writer wakes at the end of an hour: what was counted until then is of the hour before.
        self._runtime.counts.collect(hour if self._hour is None else self._hour)
        self._hour = hour

    def write_counts(self) -> None:
        """Add what was counted to the sums. Raises the database's errors; then it waits."""
        self.collect_counts()
        counts, now = self._runtime.counts, self._runtime.clock.wall()
        collected = counts.take_waiting()
        if not collected:
            return
        try:
            self._through(lambda: self._add_counts(collected, now))
        except BaseException:
            counts.put_back(collected)
            raise

    def _add_counts(self, collected: Collected, at: float) -> None:
        add_counts(collected, using=self._using, namespace=self._runtime.namespace, at=at)

    def _write(self, records: Sequence[JournalRecord], in_doubt: Collection[str]) -> Imported:
        imported = Imported()
        place, until = 0, 0.0
        while place < len(records):
            part = records[place : place + self._chunk]
            try:
                imported.add(self._write_part(part, in_doubt))
            except (_LaterError, OperationalError) as error:
                # What begins anew each time that a caller is in a transaction comes to no end.
                if time.monotonic() >= until or _fork_is_due or not _is_later(error):
                    raise
                time.sleep(LATER_SECONDS)
            else:
                place += len(part)
                until = time.monotonic() + PATIENCE_SECONDS
        return imported

    def _write_part(self, part: Sequence[JournalRecord], in_doubt: Collection[str]) -> Imported:
        doubtful = [record.call_id for record in part if record.call_id in in_doubt]
        began = time.monotonic()
        imported: Imported = self._through(lambda: self._import(part, doubtful))
        self._adapt(time.monotonic() - began)
        return imported

    def _import(self, part: Sequence[JournalRecord], doubtful: Sequence[str]) -> Imported:
        return import_records(part, using=self._using, namespace=self._runtime.namespace, in_doubt=doubtful)

    def _adapt(self, seconds: float) -> None:
        if self._gate is None:
            self._chunk = MOST_RECORDS
        elif seconds > _CHUNK_SECONDS:
            self._chunk = max(self._chunk // 2, FEWEST_RECORDS)
        else:
            self._chunk = min(self._chunk + FEWEST_RECORDS, MOST_RECORDS)

    def _through(self, write: Callable[[], Any]) -> Any:
        """Let something write, on SQLite through the gate. Raises ``_LaterError`` where that is shut."""
        _require_no_fork()
        self._connect()
        if self._gate is None:
            return write()
        try:
            with self._gate.passed(self._using) as clear:
                if not clear:
                    raise _LaterError
                with transaction.atomic(using=self._using):
                    written = write()
                    self._gate.commit()
                return written
        except GivenUpError:
            self._chunk = FEWEST_RECORDS
            raise _LaterError from None

    def _note_damage(self, lines: int) -> None:
        if lines:
            self.damaged += lines
            logger.warning(
                "%d lines of journals in %s are damaged or torn: what they said of provider calls is lost.",
                lines,
                self._runtime.journal.folder,
            )


class Writer:
    """The writer of one runtime; its thread is started by the first call and ends with the process."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._using = runtime.settings.database
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Begin without a thread: the parent's is not in this process."""
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._stopping = False
        self._asked = 0
        self._served = 0
        self._result: _Result = "later"
        self._trouble: str | None = None
        self._importer: Importer | None = None

    def begin(self) -> None:
        """Let the thread run; called once for each calling thread."""
        with self._changed:
            if self._stopping or (self._thread is not None and self._thread.is_alive()):
                return
            self._thread = threading.Thread(target=self._run, name="llmcache-writer", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:
                # The interpreter is ending: the next process finds what this one leaves.
                self._thread = None
                return
        _call_at_exit()

    def flush(self, timeout: float) -> bool:
        """Bring everything up to now into the database; whether that was done within ``timeout`` seconds."""
        self.begin()
        until = time.monotonic() + timeout
        with self._changed:
            while self._thread is not None:
                self._asked += 1
                mine = self._asked
                self._changed.notify_all()
                while self._served < mine:
                    left = until - time.monotonic()
                    if left <= 0 or not self._thread.is_alive():
                        return False
                    self._changed.wait(left)
                if self._result != "later":
                    return self._result == "done"
                self._changed.wait(min(LATER_SECONDS, max(until - time.monotonic(), 0)))
        return False

    def stop(self, timeout: float) -> None:
        """End the thread after a last cycle, waiting at most ``timeout`` seconds for it."""
        with self._changed:
            thread, self._stopping = self._thread, True
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _run(self) -> None:
        claim_at = count_at = time.monotonic()
        ends: float | None = None
        try:
            while True:
                with self._changed:
                    if self._asked == self._served and not self._stopping:
                        self._changed.wait(self._pause())
                    asked, stopping = self._asked, self._stopping
                now = time.monotonic()
                if stopping and ends is None:
                    ends = now + EXIT_SECONDS
                everything = asked > self._served or stopping
                claims, counts = everything or now >= claim_at, everything or now >= count_at or self._hour_has_ended()
                result = self._cycle(claims=claims, counts=counts, closing=stopping)
                if claims and result == "done":
                    claim_at = now + CLAIM_SECONDS
                if counts and result == "done":
                    count_at = now + COUNT_SECONDS
                with self._changed:
                    self._served, self._result = asked, result
                    self._changed.notify_all()
                if ends is not None and (result != "later" or time.monotonic() >= ends):
                    return
                if ends is not None:
                    time.sleep(LATER_SECONDS)
        finally:
            connections[self._using].close()

    def _pause(self) -> float:
        """Return how long to wait: until the next import, or the end of the hour that counts belong to."""
        if self._result == "later":
            return min(IMPORT_SECONDS, LATER_SECONDS)
        left = _HOUR - self._runtime.clock.wall() % _HOUR
        return min(IMPORT_SECONDS, left + 0.001)

    def _hour_has_ended(self) -> bool:
        return self._runtime.clock.wall() % _HOUR < IMPORT_SECONDS

    def _cycle(self, *, claims: bool, counts: bool, closing: bool) -> _Result:
        """Import what there is, and return what came of it."""
        try:
            if not self._on_sqlite:
                self._import(claims=claims, counts=counts, closing=closing)
            else:
                with _between_forks, contextlib.closing(connections[self._using]):
                    self._import(claims=claims, counts=counts, closing=closing)
        except Exception as error:  # noqa: BLE001  # a thread that died of it would never import again
            if _is_later(error):
                return "later"
            self._note_trouble(error)
            connections[self._using].close()
            return "failed"
        if self._trouble is not None:
            self._trouble = None
            logger.warning("The ledger's database %r is written again.", self._using)
        return "done"

    @property
    def lines_unread(self) -> int:
        """How many lines could not be read, or no row be made of."""
        return 0 if self._importer is None else self._importer.damaged

    @property
    def _on_sqlite(self) -> bool:
        return connections[self._using].vendor == "sqlite"

    def _import(self, *, claims: bool, counts: bool, closing: bool) -> None:
        if self._importer is None:
            self._importer = Importer(self._runtime, gate if self._on_sqlite else None, self._connect)
        if counts:
            self._importer.collect_counts()
        self._importer.import_own()
        if counts:
            self._importer.write_counts()
        if claims:
            self._importer.import_dead()
        if closing:
            self._importer.finish()

    def _connect(self) -> None:
        """Have a connection that works and, on SQLite, waits for nobody."""
        connection: BaseDatabaseWrapper = connections[self._using]
        if connection.in_atomic_block:
            return
        connection.close_if_unusable_or_obsolete()
        if self._on_sqlite and connection.connection is None:
            connection.ensure_connection()
            # Who waits while it holds a lock makes a caller's transaction fail: later is soon enough.
            with connection.cursor() as cursor:
                cursor.execute("PRAGMA busy_timeout = 0")
            wary: Any = connection
            wary.transaction_mode = "IMMEDIATE"
            gate.hide(connection)
            if _with_patience not in connection.execute_wrappers:
                connection.execute_wrappers.append(_with_patience)

    def _note_trouble(self, error: Exception) -> None:
        """Log once for each change of what is wrong."""
        name = type(error).__name__
        if name == self._trouble:
            return
        self._trouble = name
        logger.warning(
            "The ledger's database %r cannot be written (%s: %s). Calls are answered, and the journal keeps what they "
            "cost until it can. When tables are missing, run: manage.py migrate%s",
            self._using, name, str(error).splitlines()[0][:200] if str(error) else "",
            "" if self._using == DEFAULT_DB_ALIAS else f" --database={self._using}",
        )  # fmt: skip


# A child in which a connection to SQLite is open that its parent made has wrong notions of who holds which lock: its
# own connections to that file would hold none. So the writer's is open within a cycle only, and forks wait for its end.
# (Reentrant: a log handler that the writer calls may fork.)
_between_forks = threading.RLock()
_fork_is_due = False


def _require_no_fork() -> None:
    if _fork_is_due:
        raise _LaterError


def _before_fork() -> None:
    global _fork_is_due
    _fork_is_due = True
    _between_forks.acquire()
    _fork_is_due = False


def _reset_in_child() -> None:
    global _between_forks, _fork_is_due
    _between_forks, _fork_is_due = threading.RLock(), False


os.register_at_fork(
    before=_before_fork, after_in_parent=lambda: _between_forks.release(), after_in_child=_reset_in_child
)


def _with_patience(execute: Callable[..., Any], *statement: Any) -> Any:
    """Run a statement of the writer's unless a caller has waited for long enough."""
    gate.require_patience()
    return execute(*statement)


def _is_later(error: Exception) -> bool:
    """Return whether a caller is in a transaction, or SQLite only said that somebody else is writing."""
    return isinstance(error, _LaterError) or (isinstance(error, OperationalError) and "is locked" in str(error))


_at_exit = False


def _call_at_exit() -> None:
    """See to it that the last cycle is made, however this process ends in good order; once in a process tree."""
    global _at_exit
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is not None and multiprocessing.parent_process() is not None:
        from multiprocessing.util import Finalize

        # Such a child ends without the interpreter's own exit handlers.
        Finalize(None, _finish, exitpriority=0)
    signals = sys.modules.get("celery.signals")
    if signals is not None:
        signals.worker_process_shutdown.connect(_finish, dispatch_uid="llmcache.money.writer")
    if not _at_exit:
        _at_exit = True
        atexit.register(_finish)


def _finish(**_: Any) -> None:
    from llmcache.engine import process

    process.finish(EXIT_SECONDS)
