"""The invalidation log's rows, read from the database and written to it."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import closing, contextmanager
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connections
from django.db.models import Count, Max, Q

from llmcache.engine.log_copy import Row, State
from llmcache.engine.predicates import Predicate
from llmcache.models import Invalidation
from llmcache.money import forks

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


class InvalidationRows:
    """The rows of one name space in one database.

    A project without a database, or without the table, has nothing that could be invalidated with: no row.
    """

    def __init__(self, using: str, namespace: str) -> None:
        self._using = using
        self._namespace = namespace

    def state(self) -> State:
        """Return what tells whether a copy is up to date."""
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
        rows = self._rows().filter(pk__gt=above) if above else self._rows()
        rows = rows.filter(active=False) if undone else rows
        columns = rows.order_by("pk").values_list("pk", "uid", "active", "supersedes", *_COLUMNS.values())
        return [_row(*each) for each in columns.iterator(chunk_size=5_000)]

    @contextmanager
    def reading(self) -> Generator[None]:
        """Keep forks and open connections to SQLite apart, see ``forks``; other databases do not mind."""
        if self._using in connections.settings and connections[self._using].vendor == "sqlite":
            with forks.between(), closing(connections[self._using]):
                yield
        else:
            yield

    def close(self) -> None:
        """Close this thread's connection."""
        if self._using in connections.settings:
            connections[self._using].close()

    def _rows(self) -> Any:
        connections[self._using].close_if_unusable_or_obsolete()
        return Invalidation.objects.using(self._using).filter(namespace=self._namespace)

    def _is_there(self, error: Exception) -> bool:
        if isinstance(error, ImproperlyConfigured):
            return False
        connection = connections[self._using]
        return Invalidation._meta.db_table in connection.introspection.table_names()


_made_here = False


def note_that_one_was_made() -> None:
    """Let tests read the log from now on."""
    global _made_here
    _made_here = True


class RowsOfTest(InvalidationRows):
    """The rows that a test reads: none before something was invalidated in this process.

    A project's tests count their queries, and some may not query at all.
    """

    def state(self) -> State:
        """Return what tells whether a copy is up to date."""
        return super().state() if _made_here else _EMPTY


def _row(number: int, uid: str, active: bool, supersedes: Iterable[str], *conditions: str) -> Row:
    predicate = Predicate(*(each or None for each in conditions))
    return Row(number, bytes.fromhex(uid), predicate, active, tuple(map(bytes.fromhex, supersedes)))


def row_of(row: Invalidation) -> Row:
    """Return what a copy of the log knows of a row."""
    return _row(row.pk, row.uid, row.active, row.supersedes, *(getattr(row, column) for column in _COLUMNS.values()))


def columns_of(predicate: Predicate) -> dict[str, str]:
    """Return a row's columns for a predicate."""
    return {_COLUMNS[name]: value or "" for name, value in predicate._asdict().items()}
