"""Keeps a disk store within its budget: what was not used for longest goes first.

Last use is written seldom and late: a row that is read tells when it was last used, and only what that says an hour ago
or more is noted, in memory, and written with the next write. A write for each read would cost four times the read.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

NOTE_AFTER: Final = 3_600
"""Seconds. The use of an entry that was used since then is not noted."""
MAX_NOTED: Final = 10_000
CHECKS: Final = 64
"""The size is looked at whenever a process has written this part of the budget."""
KEPT: Final = 0.9
"""What part of the budget is left full, so that not each write has to make room."""
ROWS_AT_ONCE: Final = 200
PAGES_AT_ONCE: Final = 4_096
"""Given back to the file system at a time: it keeps other processes' writes waiting."""

_SIZE: Final = (
    "SELECT page_count, freelist_count, page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
)
# In a damaged row it may be of any type.
_USED: Final = "UPDATE entries SET used = ? WHERE key = ? AND NOT (typeof(used) = 'integer' AND used >= ?)"
# Made when it is first needed: most stores never are full.
_INDEX: Final = "CREATE INDEX IF NOT EXISTS entries_used ON entries(used)"
_OLDEST: Final = "SELECT id, length(value) FROM entries ORDER BY used, id LIMIT ?"
_EVICT: Final = "DELETE FROM entries WHERE id = ?"


class Connection(Protocol):
    """What is asked of a connection to the file."""

    def rows(self, statement: str, parameters: tuple[Any, ...]) -> list[Any]:
        """Return all rows that a statement gives."""
        ...

    def execute(self, statement: str, parameters: tuple[Any, ...]) -> tuple[list[Any], int]:
        """Return the rows, and how many a statement changed."""
        ...

    def execute_all(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        """Carry a statement out for each row, in one transaction."""
        ...

    def shrink(self, pages: int) -> None:
        """Give free pages back to the file system, at most so many."""
        ...


class Space:
    """What a store may take, and what of it was used when."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.evicted = 0
        """How many entries this process has evicted."""
        self._noted: dict[bytes, int] = {}
        # The first write looks: the store may have been filled by others, or under a larger budget.
        self._unseen = max_bytes

    def note(self, key: bytes, used: int) -> None:
        """Remember that an entry was used, in seconds since the epoch."""
        if len(self._noted) < MAX_NOTED:
            self._noted[key] = used

    def written(self, connection: Connection, size: int) -> None:
        """Write what was noted, and make room where that is due after so many more bytes. Raises ``sqlite3.Error``."""
        if self._noted:
            noted, self._noted = self._noted, {}
            connection.execute_all(_USED, [(used, key, used) for key, used in noted.items()])
        self._unseen += size
        # Without a lock, which a fork could leave taken: two that make room at once do no harm.
        if self._unseen * CHECKS >= self.max_bytes:
            self._unseen = 0
            self._make_room(connection)

    def _make_room(self, connection: Connection) -> None:
        if _used_bytes(connection) <= self.max_bytes:
            return
        connection.execute(_INDEX, ())
        while (excess := _used_bytes(connection) - self.max_bytes * KEPT) > 0:
            evicted: list[tuple[Any, ...]] = []
            for number, size in connection.rows(_OLDEST, (ROWS_AT_ONCE,)):
                evicted.append((number,))
                excess -= size
                if excess <= 0:
                    break
            if not evicted:
                break
            connection.execute_all(_EVICT, evicted)
            self.evicted += len(evicted)
        connection.shrink(PAGES_AT_ONCE)


def _used_bytes(connection: Connection) -> int:
    ((pages, free, size),) = connection.rows(_SIZE, ())
    return (pages - free) * size
