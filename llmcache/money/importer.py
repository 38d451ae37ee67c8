"""The importer: journal and counts of one runtime, brought into the database piece by piece."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from django.db import OperationalError, transaction

from llmcache.engine.counts import Avoided, Collected, hour_of
from llmcache.money import forks
from llmcache.money.entries import add_all_hits
from llmcache.money.gate import Gate, GivenUpError
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
from llmcache.schema_history.versions import write_seen

if TYPE_CHECKING:
    from llmcache.engine.runtime import Runtime

logger = logging.getLogger("llmcache.ledger")

LATER_SECONDS: Final = 0.02
"""How long to wait when somebody else is writing, or a caller is in a transaction."""
PATIENCE_SECONDS: Final = 0.5
"""How long records of which some are written wait for their turn before all of them come later."""
HOMELESS_SECONDS: Final = 60.0
"""How long hits wait for their entry's row; then they are in the sums only."""
MAX_HOMELESS: Final = 10_000
FEWEST_RECORDS: Final = 10
MOST_RECORDS: Final = 500
_CHUNK_SECONDS: Final = 0.004
"""What a piece should take on SQLite: less than a caller's statement waits for, so that it is done before.

Larger pieces take a third of the time for each call; a caller that meets a writer's lock is worse."""


class Homeless:
    """Hits of entries that have no row yet: the process that wrote an entry may not have brought it in."""

    def __init__(self) -> None:
        self._hits: dict[bytes, Avoided] = {}
        self._since: dict[bytes, float] = {}

    def keep(self, hits: Mapping[bytes, Avoided]) -> None:
        """Let more hits wait."""
        for key, more in hits.items():
            found = self._hits.get(key)
            if found is None and len(self._hits) >= MAX_HOMELESS:
                continue
            self._hits[key] = more if found is None else Avoided(found.hits + more.hits, found.pico_usd + more.pico_usd)
            self._since.setdefault(key, time.monotonic())

    def due(self) -> dict[bytes, Avoided]:
        """Return all that wait."""
        return dict(self._hits)

    def leave(self, hits: Mapping[bytes, Avoided]) -> None:
        """Let only these go on waiting, and of them none for longer than ``HOMELESS_SECONDS``."""
        until = time.monotonic() - HOMELESS_SECONDS
        self._hits = {key: hits[key] for key in hits if self._since[key] > until}
        self._since = {key: self._since[key] for key in self._hits}


class LaterError(Exception):
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
        self._took = 0.0
        self._done: dict[Any, int] = {}
        self._schemas: dict[tuple[str, str], int] = {}
        self._homeless = Homeless()
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
        for file in journal.files():
            # What has just given way, for its space is to be free.
            if not file.current:
                self._import_file(file)
        if journal.folder is None or not journal.keeps_up:
            self._import_waiting()
        self._import_endless(ended)

    def _import_waiting(self) -> None:
        journal, in_files = self._runtime.journal, dict(self._held_back)
        lines = journal.waiting_lines()
        self._queue(read_lines(lines, journal.namespace))
        # Starts go on waiting until their calls have ended. One that is withdrawn meanwhile never was.
        self._held_back = {call_id: start for call_id, start in self._held_back.items() if call_id in in_files}
        self._drain()
        journal.forget_waiting(lines)

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
            if record.event == "stored":
                # An entry, and no end.
                self._ready.append(record)
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
            if self._done.get(file.held, 0) != file.size:
                # Another thread has written meanwhile.
                raise LaterError
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
        # The writer wakes at the end of an hour: what was counted until then is of the hour before. A made-up time may
        # have passed many hours since; who moves it has its counts collected on the way.
        before = None if self._runtime.clock.simulated else self._hour
        self._runtime.counts.collect(hour if before is None else before)
        self._hour = hour

    def write_counts(self) -> None:
        """Add what was counted to the sums. Raises the database's errors; then it waits."""
        self._write_schemas()
        self.collect_counts()
        counts, now = self._runtime.counts, self._runtime.clock.wall()
        collected = counts.take_waiting()
        if collected:
            try:
                homeless = self._through(lambda: self._add_counts(collected, now))
            except BaseException:
                counts.put_back(collected)
                raise
            self._homeless.keep(homeless)
        self._write_homeless(now)

    def _write_homeless(self, at: float) -> None:
        """Add hits to entries whose row another process has brought in meanwhile."""
        if waiting := self._homeless.due():
            self._homeless.leave(self._through(lambda: self._add_hits(waiting, at)))

    def _add_hits(self, hits: Mapping[bytes, Avoided], at: float) -> dict[bytes, Avoided]:
        with transaction.atomic(using=self._using):
            return add_all_hits(hits, self._using, self._runtime.namespace, at)

    def _write_schemas(self) -> None:
        # When a form was last seen is told by the hour: a write for each flush would say no more.
        new = [
            form
            for form in self._runtime.schemas.seen()
            if self._schemas.get((form.response_type, form.fingerprint)) != hour_of(form.last)
        ]
        if new:
            self._through(lambda: write_seen(new, using=self._using))
            self._schemas.update({(form.response_type, form.fingerprint): hour_of(form.last) for form in new})

    def _add_counts(self, collected: Collected, at: float) -> dict[bytes, Avoided]:
        runtime = self._runtime
        return add_counts(
            collected, using=self._using, namespace=runtime.namespace, at=at, simulated=runtime.clock.simulated
        )

    def _write(self, records: Sequence[JournalRecord], in_doubt: Collection[str]) -> Imported:
        imported = Imported()
        place, until = 0, 0.0
        while place < len(records):
            part = records[place : place + self._chunk]
            try:
                imported.add(self._write_part(part, in_doubt))
            except (LaterError, OperationalError) as error:
                # What begins anew each time that a caller is in a transaction comes to no end.
                if time.monotonic() >= until or forks.is_due() or not is_later(error):
                    raise
                time.sleep(LATER_SECONDS)
            else:
                place += len(part)
                until = time.monotonic() + PATIENCE_SECONDS
        return imported

    def _write_part(self, part: Sequence[JournalRecord], in_doubt: Collection[str]) -> Imported:
        doubtful = [record.call_id for record in part if record.call_id in in_doubt]
        imported: Imported = self._through(lambda: self._import(part, doubtful))
        self._adapt()
        return imported

    def _import(self, part: Sequence[JournalRecord], doubtful: Sequence[str]) -> Imported:
        return import_records(part, using=self._using, namespace=self._runtime.namespace, in_doubt=doubtful)

    def _adapt(self) -> None:
        if self._gate is None:
            self._chunk = MOST_RECORDS
        elif self._took > _CHUNK_SECONDS:
            self._chunk = max(self._chunk // 2, FEWEST_RECORDS)
        else:
            self._chunk = min(self._chunk + FEWEST_RECORDS, MOST_RECORDS)

    def _through(self, write: Callable[[], Any]) -> Any:
        """Let something write, on SQLite through the gate. Raises ``LaterError`` where that is shut."""
        if forks.is_due():
            raise LaterError
        self._connect()
        if self._gate is None:
            return write()
        try:
            with self._gate.passed(self._using) as clear:
                if not clear:
                    raise LaterError
                with transaction.atomic(using=self._using):
                    began = time.monotonic()
                    written = write()
                    # Without the commit, whose disk takes as long for one record as for many.
                    self._took = time.monotonic() - began
                    self._gate.commit()
                return written
        except GivenUpError:
            self._chunk = FEWEST_RECORDS
            raise LaterError from None

    def _note_damage(self, lines: int) -> None:
        if lines:
            self.damaged += lines
            logger.warning(
                "%d lines of journals in %s are damaged or torn: what they said of provider calls is lost.",
                lines,
                self._runtime.journal.folder,
            )


def is_later(error: Exception) -> bool:
    """Return whether a caller is in a transaction, or SQLite only said that somebody else is writing."""
    return isinstance(error, LaterError) or (isinstance(error, OperationalError) and "is locked" in str(error))
