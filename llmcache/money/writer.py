"""The writer: one thread a process that brings journal and counts into the database.

Callers never wait for it. A database that is locked, dead or not migrated means later: lines stay in the journal's
files and counts in memory. A process that ends takes at most the counts since the last cycle with it; its file is
claimed by the next process of this machine, and what has no end there is in doubt.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal

from django.db import DEFAULT_DB_ALIAS, Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from llmcache.money import forks
from llmcache.money.gate import gate
from llmcache.money.importer import LATER_SECONDS, Importer, is_later

if TYPE_CHECKING:
    from llmcache.engine.runtime import Runtime

logger = logging.getLogger("llmcache.ledger")

IMPORT_SECONDS = 1.0
COUNT_SECONDS = 5.0
CLAIM_SECONDS = 30.0
EXIT_SECONDS = 5.0
"""How long the end of the interpreter waits for the last cycle; what is left stays in the journal's file."""

_HOUR: Final = 3_600


_Result = Literal["done", "later", "failed"]


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
        self._result: _Result = "done"
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
            self._hang_up()

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
                with forks.between(), contextlib.closing(connections[self._using]):
                    self._import(claims=claims, counts=counts, closing=closing)
        except Exception as error:  # noqa: BLE001  # a thread that died of it would never import again
            if is_later(error):
                return "later"
            self._note_trouble(error)
            self._hang_up()
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
            try:
                connection.ensure_connection()
            except Error as error:
                # Its traceback's frames hold a connection that was open when its first statements failed.
                traceback.clear_frames(error.__traceback__)
                raise
            # Who waits while it holds a lock makes a caller's transaction fail: later is soon enough.
            with connection.cursor() as cursor:
                cursor.execute("PRAGMA busy_timeout = 0")
            wary: Any = connection
            wary.transaction_mode = "IMMEDIATE"
            gate.hide(connection)
            if _with_patience not in connection.execute_wrappers:
                connection.execute_wrappers.append(_with_patience)

    def _hang_up(self) -> None:
        # Settings may name a database that is not there.
        if self._using in connections.settings:
            connections[self._using].close()

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


def _with_patience(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
    """Run a statement of the writer's unless a caller has waited for long enough."""
    gate.require_patience()
    try:
        return execute(sql, params, many, context)
    except Error:
        # The error's traceback holds the cursor, and an open cursor keeps SQLite's file open when its connection is
        # closed, until the garbage is collected: across forks.
        context["cursor"].close()
        raise


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
