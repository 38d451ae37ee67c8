"""The invalidation log at work in one process: kept up to date, and asked before an entry is served.

What a process knows of the log is good for two ``RECHECK``, and for one where another process has found it. A thread
sees to that while there are calls: it compares three numbers with those of the database, once in each ``RECHECK``, and
reads what is new when they differ. Where a server is shared, the numbers lie there for others to find. A call waits for
that thread when nobody has called for a while, and when the thread is late.

A change that is not committed is seen by the context that has made it, and by nobody else.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Final, Protocol

from llmcache.engine.log_copy import LogCopy, Row, State, View
from llmcache.engine.predicates import Facts, Predicate

logger = logging.getLogger("llmcache.log")

KEEP_READING: Final = 10
"""How many times the thread reads on after the last call that had to wait for it."""
WAIT_SECONDS: Final = 0.5
"""How long a call waits for the thread; then it goes by what is known."""
MOST_BY_BOARD: Final = 10
"""Readings in a row that go by what lies on the board: who can write to the store could leave what is not true."""
OVERLAP: Final = 100
"""Rows below the highest known number that are read again: they are committed in any order."""


_OWN_SECONDS: Final = 60.0


class Source(Protocol):
    """Where the log lies."""

    def state(self) -> State:
        """Return what tells whether a copy is up to date. Raises what the database raises."""
        ...

    def rows(self, above: int = 0, *, undone: bool = False) -> list[Row]:
        """Return the rows whose number is higher; with ``undone`` those alone that were undone."""
        ...

    def reading(self) -> AbstractContextManager[object]:
        """Return what the thread of its own is in while it reads."""
        ...

    def close(self) -> None:
        """Close this thread's connection."""
        ...


class Board(Protocol):
    """A place where processes leave the log's state for each other, for a short time."""

    def get(self) -> State | None:
        """Return what lies there; None when nothing does, or the place cannot be reached."""
        ...

    def offer(self, state: State, seconds: float) -> None:
        """Leave a state, unless there is one."""
        ...

    def drop(self) -> None:
        """Take away what lies there."""
        ...


class Pending:
    """Changes of one transaction that has not ended."""

    def __init__(self, rows: Iterable[Row], lasts: Callable[[], bool]) -> None:
        self.rows = tuple(rows)
        self.lasts = lasts
        """Whether the transaction goes on; False as soon as it is rolled back."""


_pending: ContextVar[tuple[Pending, ...]] = ContextVar("llmcache_pending", default=())


class Log:
    """The log of one runtime.

    ``recheck`` 0 is strict: the database is read at every call. ``grace``: how long entries are served by what is known
    when nobody can tell whether there is more. Without ``thread`` a call reads for itself.
    """

    def __init__(
        self,
        source: Source,
        board: Board | None,
        monotonic: Callable[[], float],
        *,
        recheck: float,
        grace: float,
        thread: bool,
    ) -> None:
        self._copy = LogCopy()
        self.epoch = self._copy.epoch
        """Changes with each change that this process knows of."""
        self.good_until = float("-inf")
        """Until when no call has to ask ``confirm``, in monotonic seconds."""
        self._source = source
        self._board = board
        self._monotonic = monotonic
        self._recheck = recheck
        self._grace = grace
        self._has_thread = thread and recheck > 0
        self._confirmed_at: float | None = None
        self._first_asked: float | None = None
        self._failed_at: float | None = None
        self._read_to = 0
        self._by_board = 0
        self._vanished = self._vanished_read = 0
        """Changes that were rolled back, or are committed and not told here yet: only the database knows."""
        self._works = True
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Begin without a thread, and with what the parent knew."""
        self._lock = threading.Lock()
        """For what is known; never held while something is read."""
        self._reading = threading.Lock()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._wanted = False
        self._closed = False
        self._rounds = 0
        self._round_began: float | None = None
        self._open: set[Pending] = set()
        self._own: list[tuple[float, Row]] = []

    # -- asked by calls

    def confirm(self) -> bool:
        """Bring what is known up to date where it is too old; return whether entries may be served by it."""
        now = self._monotonic()
        if now < self.good_until:
            return True
        if self._first_asked is None:
            self._first_asked = now
        self._forget_what_was_rolled_back()
        if self._is_old(now):
            if self._has_thread:
                self._wait_for_thread()
                if self._in_doubt:
                    # That reading had begun before.
                    self._wait_for_thread()
            else:
                self._read()
        return self._is_confirmed()

    def view(self, key: bytes, facts: Facts) -> View:
        """Return the rows that are in force for a call, in this context."""
        return self.known().view(key, facts)

    @property
    def shared(self) -> LogCopy:
        """The copy as all contexts see it that have no changes of their own."""
        return self._copy

    def known(self) -> LogCopy:
        """Return the copy as this context sees it; one with changes of its own is nobody else's."""
        mine = self._own_rows()
        return self._copy.overlaid(mine) if mine else self._copy

    def _own_rows(self) -> list[Row]:
        return [row for pending in _pending.get() if pending in self._open and pending.lasts() for row in pending.rows]

    @property
    def has_own(self) -> bool:
        """Whether this context sees changes that nobody else does."""
        return bool(self._open) and any(pending in self._open and pending.lasts() for pending in _pending.get())

    @property
    def _in_doubt(self) -> bool:
        return self._vanished != self._vanished_read

    def _is_old(self, now: float) -> bool:
        if self._failed_at is not None and now < self._failed_at + self._recheck:
            return False
        if self._recheck == 0 or self._in_doubt or self._confirmed_at is None:
            return True
        return now >= self._confirmed_at + 2 * self._recheck

    def _is_confirmed(self) -> bool:
        since = self._first_asked if self._confirmed_at is None else self._confirmed_at
        if since is None:
            return False
        if self._recheck == 0:
            return self._works
        return self._monotonic() - since < self._longest()

    def _longest(self) -> float:
        return max(self._grace, 2 * self._recheck)

    # -- changes that this process makes

    def heads(self, predicate: Predicate) -> tuple[bytes, ...]:
        """Return the ids that a new row with this predicate supersedes."""
        # A transaction may have very many: no copy of all for each of them.
        mine = (
            row
            for pending in _pending.get()
            for row in pending.rows
            # Of very many only those are asked whether they last.
            if row.predicate == predicate and pending in self._open and pending.lasts()
        )
        return self._copy.heads(predicate, mine)

    def add_pending(self, pending: Pending) -> None:
        """Let this context see what its transaction is about to change."""
        with self._lock:
            self._open.add(pending)
            self.good_until = float("-inf")
        mine = _pending.get()
        if not len(mine) & (len(mine) - 1):
            # Now and then: one transaction may have very many.
            mine = tuple(each for each in mine if each.lasts())
        _pending.set((*mine, pending))

    def commit(self, rows: Iterable[Row], pending: Pending | None = None) -> None:
        """Take in what this process has committed, and let others look."""
        changed = tuple(rows)
        now = self._monotonic()
        with self._lock:
            self._own = [(at, row) for at, row in self._own if now - at < _OWN_SECONDS]
            self._own.extend((now, row) for row in changed)
            self._take(changed)
            if pending in self._open:
                self._open.remove(pending)
                self._set_good()
        if self._board is not None:
            self._board.drop()

    def _forget_what_was_rolled_back(self) -> None:
        if not self._open:
            return
        with self._lock:
            left = {pending for pending in self._open if pending.lasts()}
            # Callbacks of others may be called before ours; when one of them fails, ours never is.
            self._vanished += len(self._open) - len(left)
            self._open = left
            self._set_good()

    # -- reading

    def read_now(self) -> bool:
        """Read what is new in this thread; return whether that could be done."""
        return self._read(strict=True)

    def _read(
        self, *, strict: bool = False, within: Callable[[], AbstractContextManager[object]] = nullcontext
    ) -> bool:
        """Catch up, ``within`` what the source asks of who keeps its connection.

        That comes second: a caller in a transaction has the lock, too, before its source asks for it in another thread.
        """
        with self._reading, within():
            began = self._monotonic()
            vanished = self._vanished
            try:
                by_board = self._catch_up(began, strict=strict or self._in_doubt or self._recheck == 0)
            except Exception as error:  # noqa: BLE001  # of whatever database
                self._failed(error)
                return False
            with self._lock:
                # What lies on the board may be one RECHECK old.
                self._confirmed_at, self._failed_at = began - (self._recheck if by_board else 0.0), None
                self._vanished_read = vanished
                self._set_good()
            if not self._works:
                self._works = True
                logger.info("The invalidation log can be read again.")
            return True

    def _catch_up(self, began: float, *, strict: bool) -> bool:
        """Bring the copy up to date; return whether what lay on the board said that it is."""
        board = None if strict else self._board
        told = None if board is None or self._by_board >= MOST_BY_BOARD else board.get()
        self._by_board = 0 if told is None else self._by_board + 1
        if told is not None and told == self._copy.state:
            return True
        told = self._source.state()
        if board is not None:
            board.offer(told, self._recheck - (self._monotonic() - began))
        if told == self._copy.state:
            return False
        new = self._source.rows(max(self._read_to - OVERLAP, 0))
        self._read_to = max(self._read_to, *(row.number for row in new)) if new else self._read_to
        with self._lock:
            self._take(new)
        if told.active < self._copy.state.active:
            undone = self._source.rows(undone=True)
            with self._lock:
                self._take(undone)
        if self._copy.state != told and self._copy.state != self._source.state():
            self._read_all()
        return False

    def _read_all(self) -> None:
        began = self._monotonic()
        rows = self._source.rows()
        with self._lock:
            # What this process has committed since was not there to be read.
            self._copy.replace([*rows, *(row for at, row in self._own if at >= began)])
            self.epoch = self._copy.epoch

    def _take(self, rows: Iterable[Row]) -> None:
        self._copy.put(rows)
        # After the copy has changed: who still has the old number looks at the new rows.
        self.epoch = self._copy.epoch

    def _set_good(self) -> None:
        until = float("-inf")
        if self._confirmed_at is not None and self._recheck > 0 and not self._open and not self._in_doubt:
            until = self._confirmed_at + 2 * self._recheck
            if self._failed_at is not None:
                # Until it is tried again; not beyond the grace.
                until = min(self._failed_at + self._recheck, self._confirmed_at + self._longest())
        self.good_until = until

    def _failed(self, error: Exception) -> None:
        with self._lock:
            self._failed_at = self._monotonic()
            self._set_good()
        changed, self._works = self._works, False
        if changed:
            logger.warning(
                "The invalidation log cannot be read: %s. Entries are served for %g s by what is known, and then are "
                "misses until it can be read.",
                type(error).__name__,
                self._grace,
            )

    # -- the thread

    def _wait_for_thread(self) -> None:
        with self._changed:
            if self._round_began is not None and self._monotonic() - self._round_began > WAIT_SECONDS:
                # Others have waited for this round already.
                return
            done = self._rounds
            # A round that is under way will do.
            self._wanted = self._wanted or self._round_began is None
            if not self._started():
                thread_is_there = False
            else:
                thread_is_there = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._rounds != done or self._closed, WAIT_SECONDS)
        if not thread_is_there:
            self._read()

    def _started(self) -> bool:
        if self._closed:
            return False
        if self._thread is not None and self._thread.is_alive():
            return True
        self._thread = threading.Thread(target=self._serve, name="llmcache-log", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            # The interpreter ends, or the system has no thread left.
            self._thread = None
            return False
        return True

    def _serve(self) -> None:
        left = 0
        while True:
            with self._changed:
                if not self._wanted:
                    self._changed.wait(self._recheck if left else None)
                if self._closed:
                    break
                left = KEEP_READING if self._wanted else left - 1
                self._wanted = False
                self._round_began = self._monotonic() if left else None
            if not left:
                self._source.close()
                continue
            try:
                # What the last one finds is gone by for two RECHECK: what lies on the board may be one old already.
                self._read(strict=left == 1, within=self._source.reading)
            except Exception as error:  # noqa: BLE001  # of opening or closing a connection, of whatever database
                self._failed(error)
            with self._changed:
                self._rounds += 1
                self._round_began = None
                self._changed.notify_all()
        self._source.close()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
