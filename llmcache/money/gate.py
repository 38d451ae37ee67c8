"""The gate between the ledger's writer and the callers' transactions on SQLite.

SQLite has one writer. A transaction that has read and then wants to write fails at once when another has written, or is
about to, in between. So the writer goes through only while no connection of this process is inside a transaction, and
while it is inside, statements on them wait: at most ``WAIT_SECONDS`` until it gives up, or until the commit that it has
begun is through. Connections are known from the moment they are made, because Django tells.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from llmcache.engine import isolation

WAIT_SECONDS: Final = 0.005
"""How long a caller's statement waits before the writer has to give up."""
COMMIT_SECONDS: Final = 1.0
"""How long a caller's statement waits for a commit that has begun: SQLite itself would let it wait for longer."""


_Owner = weakref.ref[threading.Thread]
"""The thread that made a connection, without which nobody else uses it."""


class GivenUpError(Exception):
    """A caller wants to go on: the writer leaves without having written."""


class Gate:
    """One process's gate to the database of an alias."""

    def __init__(self) -> None:
        self._shown: weakref.WeakKeyDictionary[BaseDatabaseWrapper, _Owner] = weakref.WeakKeyDictionary()
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Forget who was inside in the parent; the forking thread's connections are the child's."""
        self._changed = threading.Condition()
        self._turn = threading.Lock()
        self._inside: int | None = None
        self._committing = False
        self._wanted = False

    def show(self, connection: BaseDatabaseWrapper) -> None:
        """Let the writer look at a connection of the calling thread from now on."""
        with self._changed:
            self._shown[connection] = weakref.ref(threading.current_thread())
        if self._wait_outside not in connection.execute_wrappers:
            connection.execute_wrappers.insert(0, self._wait_outside)

    def hide(self, connection: BaseDatabaseWrapper) -> None:
        """Look at a connection no more: it is the writer's own."""
        with self._changed:
            self._shown.pop(connection, None)
        if self._wait_outside in connection.execute_wrappers:
            connection.execute_wrappers.remove(self._wait_outside)

    def is_clear(self, alias: str) -> bool:
        """Return whether no connection to a database of this alias is inside a transaction.

        One that its thread has left behind is in nobody's way, unless other threads share it. Another alias of the
        same file is the same database.
        """
        file = connections.settings.get(alias, {}).get("NAME")
        return not any(
            (connection.alias == alias or (file is not None and str(connection.settings_dict["NAME"]) == str(file)))
            and connection.connection is not None
            and (connection.in_atomic_block or not connection.autocommit)
            and (_is_alive(owner) or connection.allow_thread_sharing)
            for connection, owner in self._shown.copy().items()
        )

    @contextmanager
    def passed(self, alias: str) -> Generator[bool]:
        """Go inside, or be told that somebody is in a transaction; who else wants to go inside waits for the end.

        Inside, call ``require_patience`` before each statement and ``commit`` before the commit.
        """
        with self._turn, self._passed(alias) as clear:
            yield clear

    @contextmanager
    def _passed(self, alias: str) -> Generator[bool]:
        with self._changed:
            # From here on a statement waits, so a transaction that begins after the look has not read yet.
            self._inside, self._wanted = threading.get_ident(), False
            clear = self.is_clear(alias)
            if not clear:
                self._inside = None
        try:
            yield clear
        finally:
            with self._changed:
                self._inside, self._committing, self._wanted = None, False, False
                self._changed.notify_all()

    def require_patience(self) -> None:
        """Raise ``GivenUpError`` when a caller has waited for long enough."""
        if self._wanted:
            raise GivenUpError

    def commit(self) -> None:
        """Begin the commit: from now on callers wait for its end. Raises ``GivenUpError`` as above."""
        with self._changed:
            self.require_patience()
            self._committing = True

    def _wait_outside(self, execute: Callable[..., Any], *statement: Any) -> Any:
        """Run a caller's statement when the writer is not inside."""
        inside = self._inside
        if inside is not None and inside != threading.get_ident():
            self._wait()
        return execute(*statement)

    def _wait(self) -> None:
        began = time.monotonic()
        with self._changed:
            while self._inside is not None:
                waited = time.monotonic() - began
                if waited >= WAIT_SECONDS and not self._committing:
                    self._wanted = True
                    return
                left = (COMMIT_SECONDS if self._committing else 0) + WAIT_SECONDS - waited
                if left <= 0:
                    return
                self._changed.wait(left)


def _is_alive(owner: _Owner) -> bool:
    thread = owner()
    try:
        return thread is not None and thread.is_alive()
    except RuntimeError:
        # How one that other code than Python's has started says so.
        return False


gate = Gate()
os.register_at_fork(after_in_child=gate.reset_after_fork)


def _show_when_made(connection: BaseDatabaseWrapper, **_: Any) -> None:
    if connection.vendor == "sqlite" and not isolation.in_tests():
        gate.show(connection)


def watch() -> None:
    """Look at every connection to SQLite that this process makes from now on."""
    connection_created.connect(_show_when_made, dispatch_uid="llmcache.money.gate")
