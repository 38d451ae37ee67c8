"""A database cache as a tier, outside of the callers' transactions: in threads that have connections of their own.

On the caller's connection a paid entry would be rolled back with the caller, and a statement that fails (no table, no
server) would take the caller's transaction along. Reading takes other connections too, for the same reason.

SQLite has one writer. A transaction that has read and then wants to write fails when another has written in between,
and one that has written keeps all others out. So there a write goes through the ledger's gate, while no connection of
this process is inside a transaction; a caller that is inside one does not wait for it. A fork waits until no connection
to SQLite is open here.
"""

from __future__ import annotations

import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Final

from django.core.cache.backends.db import BaseDatabaseCache
from django.db import Error, IntegrityError, OperationalError, connections, router
from django.db.backends.base.base import BaseDatabaseWrapper

from llmcache.engine import isolation
from llmcache.money.gate import GivenUpError, gate
from llmcache.tiers.base import Health
from llmcache.tiers.desk import Desk, LateError
from llmcache.tiers.django_tier import DjangoTier, require_bytes

READ_SECONDS: Final = 0.5
"""How long a caller waits for a read; then it is a miss."""
WRITE_SECONDS: Final = 0.25
"""How long a caller waits for a write; it is made all the same."""
HELD_UP_SECONDS: Final = 30.0
"""How long a write to SQLite waits for others' transactions before it is dropped."""
THREADS: Final = 4

_LOOK_SECONDS: Final = 0.01
_BUSY_MS: Final = 100
_OTHERS_WRITE: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_WRITING: Final = ("INSERT", "UPDATE", "DELETE")


class DatabaseTier(DjangoTier):
    """A ``DatabaseCache`` as a tier."""

    def __init__(self, alias: str, backend: BaseDatabaseCache) -> None:
        super().__init__(alias, type(backend))
        # What Django asks the project's routers about.
        self._model: Any = backend.cache_model_class
        self._on_sqlite = connections[self._alias_to_write()].vendor == "sqlite"
        self._shared = "machine" if self._on_sqlite else "network"
        most = 1 if self._on_sqlite else THREADS
        # Apart, so that no read waits behind a write that is held up.
        self._reading = Desk("llmcache-tier-reads", most, connections.close_all)
        self._writing = Desk("llmcache-tier-writes", most, connections.close_all)

    def get(self, key: str) -> bytes | None:
        """Return the bytes under a key, or None."""
        if self._breaker.is_open:
            return None
        began = time.monotonic()
        try:
            return self._reading.ask(partial(super().get, key), READ_SECONDS)
        except (LateError, queue.Full) as error:
            self._failed(self._reads, error, began)
            return None

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the bytes under each key, or None, by one statement."""
        if self._breaker.is_open:
            return [None] * len(keys)
        began = time.monotonic()
        try:
            return self._reading.ask(partial(super().get_many, keys), READ_SECONDS)
        except (LateError, queue.Full) as error:
            self._failed(self._reads, error, began)
            return [None] * len(keys)

    def set(self, key: str, value: bytes, ttl_seconds: float | None) -> None:
        """Keep bytes for a time, soon; None means no expiry."""
        require_bytes(value)
        self._write(partial(super().set, key, value, ttl_seconds))

    def delete(self, key: str) -> None:
        """Remove what is kept under a key, soon."""
        self._write(partial(super().delete, key))

    def drain(self, timeout: float) -> None:
        """Wait for writes that are under way."""
        self._writing.drain(timeout)

    def _write(self, write: Callable[[], None]) -> None:
        try:
            # The caller may be who holds the write up.
            waits = not self._on_sqlite or gate.is_clear(self._alias_to_write())
            self._writing.leave(write, WRITE_SECONDS if waits else 0)
        except Exception as error:  # noqa: BLE001  # too much waits; or a router of the project's fails
            self._writes.failed(error)

    def _get(self, key: str) -> object:
        with self._connected(router.db_for_read(self._model)) as connection, connection.execute_wrapper(_only_read):
            return super()._get(key)

    def _get_many(self, keys: Sequence[str]) -> Mapping[str, object]:
        with self._connected(router.db_for_read(self._model)) as connection, connection.execute_wrapper(_only_read):
            return super()._get_many(keys)

    def _set(self, key: str, value: bytes, ttl_seconds: float | None) -> None:
        self._write_now(partial(super()._set, key, value, ttl_seconds))

    def _delete(self, key: str) -> None:
        self._write_now(partial(super()._delete, key))

    def _answers(self) -> bool:
        # A read that comes back, with an answer or not; a write may have to wait for others' transactions.
        self._reading.ask(partial(self._get, "llmcache-probe"), READ_SECONDS)
        return True

    def _failed(self, health: Health, error: Exception, began: float) -> None:
        # How long a caller has waited counts, and only for a read: a write that was held up says nothing of the next.
        late = health is self._reads and isinstance(error, LateError)
        super()._failed(health, error, began if late else time.monotonic())

    def _write_now(self, write: Callable[[], None]) -> None:
        alias = self._alias_to_write()
        if not self._on_sqlite:
            with self._connected(alias) as connection:
                _and_tell(connection, write)
            return
        until = time.monotonic() + HELD_UP_SECONDS
        while not self._passes(alias, write, until):
            time.sleep(_LOOK_SECONDS)

    def _passes(self, alias: str, write: Callable[[], None], until: float) -> bool:
        """Write if the gate is open; return whether it was."""
        held_up: Exception = LateError()
        try:
            if gate.is_clear(alias):
                with self._connected(alias) as connection, gate.passed(alias) as clear:
                    if clear:
                        with connection.execute_wrapper(_with_patience):
                            _and_tell(connection, write)
                        return True
        except GivenUpError:
            pass
        except OperationalError as error:
            if getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF not in _OTHERS_WRITE:
                raise
            held_up = error
        if time.monotonic() >= until:
            raise held_up
        return False

    def _alias_to_write(self) -> str:
        return router.db_for_write(self._model)

    @contextmanager
    def _connected(self, alias: str) -> Generator[BaseDatabaseWrapper]:
        """Give this thread's connection; on SQLite, and in tests, for this once."""
        connection: BaseDatabaseWrapper = connections[alias]
        once = self._on_sqlite or isolation.in_tests()
        with _while_none_forks if self._on_sqlite else nullcontext():
            try:
                _open(connection)
                yield connection
            except BaseException:
                # What is wrong with it, if anything, the next use begins anew.
                connection.close()
                raise
            finally:
                if once:
                    connection.close()


def _open(connection: BaseDatabaseWrapper) -> None:
    connection.ensure_connection()
    if not connection.autocommit:
        connection.set_autocommit(True)
    if connection.vendor == "sqlite":
        gate.hide(connection)
        with connection.cursor() as cursor:
            cursor.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")


def _and_tell(connection: BaseDatabaseWrapper, write: Callable[[], None]) -> None:
    """Write, and raise the error that the backend keeps to itself, if there was one."""
    kept: list[Error] = []

    def remember(execute: Callable[..., Any], *statement: Any) -> Any:
        try:
            return execute(*statement)
        except IntegrityError:
            # Another process was faster with the same key.
            raise
        except Error as error:
            kept.append(error)
            raise

    with connection.execute_wrapper(remember):
        write()
    if kept:
        raise kept[0]


def _only_read(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
    """Leave out what a read would write: the removal of what has expired, which a write makes too."""
    return execute(sql, params, many, context) if not sql.lstrip().upper().startswith(_WRITING) else None


def _with_patience(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
    """Run a statement unless a caller has waited for long enough; from the first that writes, callers wait."""
    if sql.lstrip().upper().startswith(_WRITING):
        gate.commit()
    else:
        gate.require_patience()
    return execute(sql, params, many, context)


_while_none_forks = threading.RLock()
"""Held while a connection to SQLite is open, and over a fork: one that a child inherits makes it lose locks."""


def _reset_in_child() -> None:
    global _while_none_forks
    _while_none_forks = threading.RLock()


os.register_at_fork(
    before=lambda: _while_none_forks.acquire(),
    after_in_parent=lambda: _while_none_forks.release(),
    after_in_child=_reset_in_child,
)
