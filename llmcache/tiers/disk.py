"""Bytes on disk that all processes of a machine share: the store, which raises, and the tier over it, which does not.

Whoever uses the store as a plain cache (``backends.DiskCache``) wants to know that a write was lost. A call to a model
must not fail for it: that layer is ``DiskTier``.
"""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from llmcache.tiers.base import Health, LeftAloneError, NoNameError, TierState, state_of
from llmcache.tiers.breaker import Breaker
from llmcache.tiers.disk_file import DiskFile
from llmcache.tiers.disk_space import NOTE_AFTER, Space

T = TypeVar("T")

# Expiry is compared by SQLite: in a damaged row it may be of any type, and still compares. The key is passed as str:
# for bytes the module looks for an adapter at each call, which takes 0.3 µs of 4.
_GET: Final = "SELECT value, used FROM entries WHERE key = CAST(? AS BLOB) AND ifnull(expires, 9e999) > ?"
_GET_MANY: Final = "SELECT key, value, used FROM entries WHERE key IN ({}) AND ifnull(expires, 9e999) > ?"
_SET: Final = (
    "INSERT INTO entries(key, value, expires, used) VALUES(?, ?, ?, ?) ON CONFLICT(key)"
    " DO UPDATE SET value = excluded.value, expires = excluded.expires, used = excluded.used"
)
_ADD: Final = f"{_SET} WHERE entries.expires <= ?"
_TOUCH: Final = "UPDATE entries SET expires = ? WHERE key = ? AND ifnull(expires, 9e999) > ?"
_DELETE: Final = "DELETE FROM entries WHERE key = ?"
_SWEEP: Final = "DELETE FROM entries WHERE id IN (SELECT id FROM entries WHERE expires <= ? ORDER BY expires LIMIT ?)"

MOST_KEYS: Final = 500
"""Of one statement that reads: SQLite takes 999 values before its version 3.32."""
SWEEP_EVERY: Final = 1_000
SWEEP_ROWS: Final = 1_000
DEFAULT_MAX_BYTES: Final = 2**30
_PROBE: Final = "llmcache-probe"
"""A key under which nothing lies."""
_HELD: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_PUT_OFF: Final = (sqlite3.OperationalError, sqlite3.ProgrammingError)
"""The second: a fork has closed the connection since the value was written."""


class DiskStore:
    """Bytes by key in ``<path>/entries.sqlite3``, shared by threads and processes.

    The folder is made (0700) with the file at the first use; ``ConfigurationError`` then when it belongs to another
    user. A damaged file is set aside, with one warning, and begun anew: that is a miss. Every other fault raises
    ``sqlite3.Error`` or ``OSError``, and this thread's connection is opened anew at its next use. Where the file can
    only be read, reads work. Above ``max_bytes`` what was not used for longest goes; each process that writes may
    exceed them by a little. ``clock`` gives seconds since the epoch.
    """

    def __init__(
        self, path: Path, *, max_bytes: int = DEFAULT_MAX_BYTES, clock: Callable[[], float] = time.time
    ) -> None:
        self._file = DiskFile(path)
        self._space = Space(max_bytes)
        self._clock = clock
        self._writes = itertools.count(1)

    @property
    def path(self) -> Path:
        """The folder."""
        return self._file.folder

    @property
    def max_bytes(self) -> int:
        """What the entries may take."""
        return self._space.max_bytes

    @max_bytes.setter
    def max_bytes(self, max_bytes: int) -> None:
        self._space.max_bytes = max_bytes

    @property
    def evicted(self) -> int:
        """How many entries this process has evicted."""
        return self._space.evicted

    def get(self, key: str) -> bytes | None:
        """Return the bytes under a key; None when there are none or their time has passed."""
        connection = self._file.connection()
        now = self._clock()
        try:
            row = connection.row(_GET, (key, now))
        except sqlite3.Error as error:
            if not self._file.recover(connection, error):
                raise
            row = self._file.connection().row(_GET, (key, now))
        if row is None:
            return None
        value, used = row
        if type(used) is not int or now - used > NOTE_AFTER:
            self._space.note(key.encode(), int(now))
        return value if type(value) is bytes else None

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the bytes under each key, or None, by one statement for up to ``MOST_KEYS`` of them."""
        now, sought = self._clock(), [key.encode() for key in keys]
        found: dict[object, object] = {}
        for start in range(0, len(sought), MOST_KEYS):
            some = sought[start : start + MOST_KEYS]
            for key, value, used in self._rows(_GET_MANY.format(", ".join("?" * len(some))), (*some, now)):
                found[key] = value
                if type(key) is bytes and (type(used) is not int or now - used > NOTE_AFTER):
                    self._space.note(key, int(now))
        values = map(found.get, sought)
        return [value if type(value) is bytes else None for value in values]

    def _rows(self, statement: str, parameters: tuple[Any, ...]) -> list[Any]:
        connection = self._file.connection()
        try:
            return connection.rows(statement, parameters)
        except sqlite3.Error as error:
            if not self._file.recover(connection, error):
                raise
        return self._file.connection().rows(statement, parameters)

    def set(self, key: str, value: bytes, ttl_seconds: float | None) -> None:
        """Keep bytes for a time; None means no expiry, zero or less that they have expired at once."""
        _require_bytes(value)
        # What would push all others out is not kept.
        if _is_over(ttl_seconds) or len(value) > self._space.max_bytes:
            self.delete(key)
        else:
            self._write(_SET, self.row_of(key, value, ttl_seconds), len(value))

    def add(self, key: str, value: bytes, ttl_seconds: float | None) -> bool:
        """Keep bytes unless there are some, in one step over all processes; return whether there were none."""
        _require_bytes(value)
        if _is_over(ttl_seconds) or len(value) > self._space.max_bytes:
            return self.get(key) is None
        return self._write(_ADD, (*self.row_of(key, value, ttl_seconds), self._clock()), len(value)) > 0

    def touch(self, key: str, ttl_seconds: float | None) -> bool:
        """Give what is under a key another time to live; return whether there was something."""
        expires = self._clock() if _is_over(ttl_seconds) else self._expires(ttl_seconds)
        return self._write(_TOUCH, (expires, key.encode(), self._clock())) > 0

    def delete(self, key: str) -> bool:
        """Remove what is under a key; return whether there was something."""
        return self._write(_DELETE, (key.encode(),)) > 0

    def in_one_step(self, work: Callable[[Step], T], key: Callable[[str], str] = str) -> T:
        """Return what a function does, with nobody else writing meanwhile; ``key`` makes this store's keys."""
        if not self._file.holds(self._file.connection()):
            self._file.drop()
        step = Step(self, key)
        connection = self._file.connection()
        try:
            done = connection.in_one_step(step.carry_out, work)
        except sqlite3.Error as error:
            if not self._file.recover(connection, error):
                raise
            done = self._file.connection().in_one_step(step.carry_out, work)
        with suppress(*_PUT_OFF):
            self._space.written(self._file.connection(), step.size)
        return done

    def row_of(self, key: str, value: bytes, ttl_seconds: float | None) -> tuple[bytes, bytes, float | None, int]:
        """Return what is written of an entry."""
        return key.encode(), value, self._expires(ttl_seconds), int(self._clock())

    @property
    def now(self) -> float:
        """The store's time, in seconds since the epoch."""
        return self._clock()

    def clear(self) -> None:
        """Remove all entries and give their space back."""
        self._write("DELETE FROM entries", ())
        self._file.connection().shrink()

    def close(self) -> None:
        """Close this process's connections; the next use opens one."""
        self._file.close()

    def _expires(self, ttl_seconds: float | None) -> float | None:
        return None if ttl_seconds is None else self._clock() + ttl_seconds

    def _write(self, statement: str, parameters: tuple[Any, ...], size: int = 0) -> int:
        # A folder that was removed, or a file that another process has set aside, can be written to for ever: a stat
        # costs 1 µs of 30.
        if not self._file.holds(self._file.connection()):
            self._file.drop()
        _, changed = self._execute(statement, parameters)
        if next(self._writes) % SWEEP_EVERY == 0:
            self._execute(_SWEEP, (self._clock(), SWEEP_ROWS))
        # The value is kept; to note uses and to make room can wait for the next write.
        with suppress(*_PUT_OFF):
            self._space.written(self._file.connection(), size)
        return changed

    def _execute(self, statement: str, parameters: tuple[Any, ...]) -> tuple[list[Any], int]:
        connection = self._file.connection()
        try:
            return connection.execute(statement, parameters)
        except sqlite3.Error as error:
            if not self._file.recover(connection, error):
                raise
        return self._file.connection().execute(statement, parameters)


class Step:
    """What can be done to a store in one step."""

    def __init__(self, store: DiskStore, key: Callable[[str], str]) -> None:
        self.size = 0
        """Bytes that were written."""
        self._store = store
        self._key = key
        self._cursor: Any = None

    def carry_out(self, cursor: sqlite3.Cursor, work: Callable[[Step], T]) -> T:
        """Return what a function does by a cursor whose transaction has begun."""
        self._cursor, self.size = cursor, 0
        return work(self)

    def get(self, key: str) -> bytes | None:
        """Return the bytes under a key, or None."""
        row = self._cursor.execute(_GET, (self._key(key), self._store.now)).fetchone()
        return row[0] if row is not None and type(row[0]) is bytes else None

    def set(self, key: str, value: bytes, ttl_seconds: float | None) -> None:
        """Keep bytes for a time; None means no expiry."""
        if _is_over(ttl_seconds) or len(value) > self._store.max_bytes:
            self.delete(key)
            return
        self._cursor.execute(_SET, self._store.row_of(self._key(key), value, ttl_seconds))
        self.size += len(value)

    def delete(self, key: str) -> None:
        """Remove what is under a key."""
        self._cursor.execute(_DELETE, (self._key(key).encode(),))


def _is_over(ttl_seconds: float | None) -> bool:
    # "Not above zero" rather than "zero or less": it is also true of NaN, which SQLite would keep as NULL, for ever.
    return ttl_seconds is not None and not ttl_seconds > 0


def _require_bytes(value: object) -> None:
    if not isinstance(value, bytes):
        raise TypeError(f"a disk store keeps bytes, not {type(value).__name__}")


_stores: dict[str, DiskStore] = {}


def store_at(path: Path, max_bytes: int = DEFAULT_MAX_BYTES) -> DiskStore:
    """Return the process's store of a folder, made at the first use; the budget is the one that was named last.

    Django makes a cache backend for each thread, and for each request under ASGI: connections have to outlive them.
    """
    # No lock: setdefault is one step for keys that are str, and a lock could be taken for ever in a forked child.
    store = _stores.get(str(path)) or _stores.setdefault(str(path), DiskStore(path))
    store.max_bytes = max_bytes
    return store


_FAULTS: Final = (sqlite3.Error, OSError, NoNameError)


class DiskTier:
    """A disk store as a tier: faults of the store are misses and dropped writes, counted, and logged once per change.

    ``make_key`` turns a tier's key into the store's, e.g. with an alias's KEY_PREFIX. A folder of another user is no
    fault but a wrong setting: its ``ConfigurationError`` is raised.
    """

    def __init__(
        self,
        name: str,
        store: DiskStore,
        make_key: Callable[[str], str] | None = None,
        *,
        backend: str = "disk folder",
    ) -> None:
        self.name = name
        self._backend = backend
        self._store = store
        self._make_key = make_key
        self._reads = Health(name, "read", "Answers that are on it count as not cached.")
        self._writes = Health(name, "written", "New answers are not kept on it.")
        self._breaker = Breaker(name, self._answers)

    @property
    def faults(self) -> int:
        """How many operations have failed in this process."""
        return self._reads.faults + self._writes.faults

    def state(self) -> TierState:
        """Return how the tier has fared in this process; no I/O."""
        return state_of(
            self.name, self._backend, "machine", self._reads, self._writes, left_alone=self._breaker.is_open
        )

    def get(self, key: str) -> bytes | None:
        """Return the bytes under a key, or None."""
        if self._breaker.is_open:
            return None
        try:
            value = self._store.get(self._key(key))
        except _FAULTS as error:
            self._failed(self._reads, error)
            return None
        self._reads.worked()
        return value

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the bytes under each key, or None."""
        if self._breaker.is_open:
            return [None] * len(keys)
        try:
            values = self._store.get_many([self._key(key) for key in keys])
        except _FAULTS as error:
            self._failed(self._reads, error)
            return [None] * len(keys)
        self._reads.worked()
        return values

    def set(self, key: str, value: bytes, ttl_seconds: float | None) -> None:
        """Keep bytes for a time; None means no expiry."""
        if self._breaker.is_open:
            return
        try:
            self._store.set(self._key(key), value, ttl_seconds)
        except _FAULTS as error:
            self._failed(self._writes, error)
        else:
            self._writes.worked()

    def delete(self, key: str) -> None:
        """Remove what is under a key."""
        try:
            self._store.delete(self._key(key))
        except _FAULTS as error:
            self._failed(self._writes, error)
        else:
            self._writes.worked()

    def in_one_step(self, work: Callable[[Step], T]) -> T:
        """Return what a function does to the store, with nobody else writing meanwhile.

        Raises what the store raises, and ``LeftAloneError`` while it is left alone.
        """
        if self._breaker.is_open:
            raise LeftAloneError
        try:
            done = self._store.in_one_step(work, self._key)
        except _FAULTS as error:
            self._failed(self._writes, error)
            raise
        self._writes.worked()
        return done

    def close(self) -> None:
        """Ask no more whether the file can be used again; the store is its maker's to close."""
        self._breaker.retire()

    def _answers(self) -> bool:
        # A write: beside one that holds the file, reads work.
        try:
            self._store.delete(_PROBE)
        except sqlite3.Error as error:
            # What can only be read works as well as it ever will.
            return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY
        return True

    def _failed(self, health: Health, error: Exception) -> None:
        if isinstance(error, TimeoutError) or getattr(error, "sqlite_errorcode", 0) & 0xFF in _HELD:
            # Somebody holds the file, or its folder, and each operation would wait for it again.
            health.counted(error)
            self._breaker.trip(error)
        else:
            health.failed(error)

    def _key(self, key: str) -> str:
        if self._make_key is None:
            return key
        try:
            return self._make_key(key)
        except Exception as error:
            raise NoNameError(f"its KEY_FUNCTION raised {type(error).__name__}") from error
