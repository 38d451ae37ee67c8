"""The invalidation log's rows, read from the database and written to it."""

from __future__ import annotations

import hashlib
import json
import queue
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, Final, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, OperationalError, connections
from django.db.models import Count, IntegerField, Max, Q, TextField, Value
from django.db.models.functions import Cast

from llmcache.engine.log_copy import Row, State
from llmcache.engine.predicates import Predicate
from llmcache.envelope import SEEN_ID_BYTES
from llmcache.models import Invalidation
from llmcache.money import forks
from llmcache.tiers.desk import Desk, LateError

_T = TypeVar("_T")

_EMPTY: Final = State(0, 0, 0)
_COLUMNS: Final = {
    "key": "key",
    "tenant": "tenant",
    "subject": "subject_hash",
    "response_type": "response_type",
    "model": "model",
    "tag": "tag",
    "kind": "kind",
}
"""The column of each condition."""
CUT: Final = "TTL cut"
EXTENDED: Final = "TTL extended"
REFRESHED: Final = "Refreshed"
"""Reasons of rows by key that come with an entry, which has them in its list: they are about older copies of it."""
_CORRECTS: Final = 2
"""In the number that says what a row is: this for one that corrects, and one for one that is in force."""


_APART_SECONDS: Final = 2.0
"""How long who is in a transaction waits for another connection."""
_desk: Final = Desk("llmcache-log-apart", 4, connections.close_all)


class InvalidationRows:
    """The rows of one name space in one database.

    A project without a database, or without the table, has nothing that could be invalidated with: no row.
    """

    def __init__(self, using: str, namespace: str) -> None:
        self._using = using
        self._namespace = namespace

    def state(self) -> State:
        """Return what tells whether a copy is up to date."""
        return self._committed(self._state)

    def _state(self) -> State:
        try:
            found = self._rows().aggregate(
                rows=Count("pk"), active=Count("pk", filter=Q(active=True)), highest=Max("pk")
            )
        except (DatabaseError, ImproperlyConfigured) as error:
            if self._is_there(error):
                raise
            return _EMPTY
        return State(found["rows"], found["active"], found["highest"] or 0)

    def rows(self, above: int = 0, *, undone: bool = False) -> list[Row]:
        """Return the rows whose number is higher; with ``undone`` those alone that were undone."""
        return self._committed(partial(self._read_rows, above, undone))

    def _read_rows(self, above: int, undone: bool) -> list[Row]:
        # In this form the index serves it everywhere: SQLite looks through all rows for NOT active.
        rows = self._rows().filter(active__in=(False,) if undone else (True, False), pk__gt=above)
        # Of plain types, and decoded here: what the fields do with each value takes as long as all else together.
        holds = Cast("active", IntegerField()) + Value(_CORRECTS) * Cast("corrects", IntegerField())
        plain = rows.annotate(holds=holds, older=Cast("supersedes", TextField()))
        found = plain.order_by("pk").values_list("pk", "uid", "holds", "older", *_COLUMNS.values())
        # A server-side cursor, for all, takes longer than it takes to read what is new. Its pieces are small enough to
        # be gone before the garbage collector takes them for what stays, which it would look through again and again.
        return _read(found if above or undone else found.iterator(chunk_size=500))

    @contextmanager
    def reading(self) -> Generator[None]:
        """Keep forks and open connections to SQLite apart, see ``forks``; other databases do not mind."""
        if self._using not in connections.settings:
            yield
        elif connections[self._using].vendor == "sqlite":
            with forks.a_moment(), closing(connections[self._using]):
                yield
        else:
            connections[self._using].close_if_unusable_or_obsolete()
            yield

    def close(self) -> None:
        """Close this thread's connection."""
        if self._using in connections.settings:
            connections[self._using].close()

    def _committed(self, read: Callable[[], _T]) -> _T:
        """Return what is read of what is committed: what is known of the log is what all threads go by.

        Within a transaction a caller's connection shows what nobody else may see yet, and may not show what others have
        committed since. So another one is asked then, for some seconds at most: it may wait for that transaction.
        """
        if not self._is_in_transaction():
            return read()

        def apart() -> _T:
            if self._is_in_transaction():
                # No thread is left, at the end of the program: this one does it, and keeps what it has open.
                raise OperationalError("there is no thread to read in")
            with self.reading():
                return read()

        try:
            return _desk.ask(apart, _APART_SECONDS)
        except (LateError, queue.Full) as error:
            raise OperationalError(str(error)) from None

    def _is_in_transaction(self) -> bool:
        if self._using not in connections.settings:
            return False
        connection: Any = connections[self._using]
        if not connection.in_atomic_block:
            return False
        # Such a database is its connection's own.
        return connection.vendor != "sqlite" or not connection.is_in_memory_db()

    def _rows(self) -> Any:
        connection = connections[self._using]
        # It may be the caller's own, who may be reading by it: closed when it is lost, and not when it is old.
        lost = connection.errors_occurred and connection.connection is not None and not connection.in_atomic_block
        if lost and not connection.is_usable():
            connection.close()
        return Invalidation.objects.using(self._using).filter(namespace=self._namespace)

    def _is_there(self, error: Exception) -> bool:
        if isinstance(error, ImproperlyConfigured):
            return False
        connection = connections[self._using]
        return Invalidation._meta.db_table in connection.introspection.table_names()


_made_in: set[str] = set()


def note_that_one_was_made(namespace: str) -> None:
    """Let the test that this name space belongs to read the log from now on."""
    _made_in.add(namespace)


class RowsOfTest(InvalidationRows):
    """The rows that a test reads: none before it has invalidated something.

    A project's tests count their queries, and some may not query at all.
    """

    def state(self) -> State:
        """Return what tells whether a copy is up to date."""
        return super().state() if self._namespace in _made_in else _EMPTY

    def _is_in_transaction(self) -> bool:
        # A test's own is all there is.
        return False


def _read(found: Iterable[tuple[Any, ...]]) -> list[Row]:
    words: dict[str, str | None] = {"": None}
    """Each word once: tenants, kinds and models of many rows are the same."""
    known, rows = words.setdefault, list[Row]()
    for number, uid, holds, older, *conditions in found:
        predicate = Predicate._make(map(known, conditions, conditions))
        supersedes = () if older == "[]" else _ids(older)
        rows.append(Row(number, id_of(uid), predicate, holds & 1 == 1, supersedes, holds >= _CORRECTS))
    return rows


def id_of(uid: str) -> bytes:
    """Return what entries hold of a row."""
    try:
        found = bytes.fromhex(uid)
    except ValueError:
        found = b""
    # What somebody else has written there is an id all the same: one row must not make the log unreadable.
    return found if len(found) == SEEN_ID_BYTES else hashlib.blake2b(uid.encode(), digest_size=SEEN_ID_BYTES).digest()


def _ids(supersedes: str) -> tuple[bytes, ...]:
    try:
        return tuple(map(id_of, json.loads(supersedes)))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return ()


def without_rewriting(rows: Any) -> Any:
    """Return the rows that can have made void what was written before them: those are left out that came with it."""
    return rows.exclude(~Q(key=""), reason__in=(CUT, EXTENDED, REFRESHED))


def row_of(row: Invalidation) -> Row:
    """Return what a copy of the log knows of a row."""
    return Row(row.pk, id_of(row.uid), predicate_of(row), row.active, _ids(json.dumps(row.supersedes)), row.corrects)


def predicate_of(row: Any) -> Predicate:
    """Return the conditions of a row, which may be of an invalidation that is only planned."""
    return Predicate(*(getattr(row, column) or None for column in _COLUMNS.values()))


def columns_of(predicate: Predicate) -> dict[str, str]:
    """Return a row's columns for a predicate."""
    return {_COLUMNS[name]: value or "" for name, value in predicate._asdict().items()}
