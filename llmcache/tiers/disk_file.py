"""One SQLite file in a folder of its own: opened by each thread, begun where there is none, set aside when damaged.

The folder's lock, shared to open and exclusive to begin or to set aside, keeps processes from opening a file that is
being replaced.

No connection crosses a fork: SQLite takes a child's inherited connection for a lock that the child does not have, so
that a new connection in the child reads and writes with no lock at all (seen in /proc/locks). So a fork waits for
running statements and closes this process's connections; each thread opens its own again at its next use.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from llmcache.tiers.base import logger
from llmcache.tiers.disk_folder import locked

T = TypeVar("T")
W = TypeVar("W")

FILE_NAME: Final = "entries.sqlite3"
LAYOUT: Final = 1

# The value comes last: expiry and use are then read and changed without the pages that a long value runs over.
_BEGIN: Final = (
    # Before the first table, or it would need the whole file to be rewritten.
    "PRAGMA auto_vacuum = INCREMENTAL",
    "PRAGMA journal_mode = WAL",
    """
    CREATE TABLE entries(
        id INTEGER PRIMARY KEY, key BLOB UNIQUE NOT NULL, expires REAL, used INTEGER NOT NULL, value BLOB NOT NULL
    )
    """,
    "CREATE INDEX entries_expires ON entries(expires) WHERE expires IS NOT NULL",
    f"PRAGMA user_version = {LAYOUT}",
)
# No memory map, which would save 2 µs of 8 on 10 KB: reading a map of a file that another program has cut short ends
# the process with SIGBUS, where a plain read is an error. Said aloud, for some builds of SQLite map by default.
_OPEN: Final = ("PRAGMA synchronous = NORMAL", "PRAGMA mmap_size = 0", "PRAGMA cache_size = -8192")
_PROBE: Final = "SELECT id, key, expires, used, value FROM entries LIMIT 0"

# Four processes writing at once waited 0.23 s at worst; a call to a model must not wait much longer for its cache.
_BUSY_SECONDS: Final = 0.5
_FORK_SECONDS: Final = _BUSY_SECONDS + 1.0  # a fork waits longer than SQLite lets statements wait for each other


class Unusable(sqlite3.DatabaseError):
    """The file is damaged or has another layout: it has to be set aside."""


class Connection:
    """One thread's open connection; the thread that forks is the only other one to touch it."""

    __slots__ = ("__weakref__", "_cursor", "_lock", "close", "identity")

    def __init__(self, sql: sqlite3.Connection, identity: tuple[int, int]) -> None:
        self.identity = identity
        """Device and inode of the file: tells whether it is still the one in the folder."""
        self._cursor = sql.cursor()
        self._lock = threading.Lock()
        self.close = weakref.finalize(self, _close, sql, self._cursor, self._lock)
        """Closes the connection, once; called by itself when the thread or the interpreter ends."""

    def execute(self, statement: str, parameters: tuple[Any, ...]) -> tuple[list[Any], int]:
        """Return all rows that a statement gives, and how many it changed."""
        with self._lock:
            cursor = self._cursor.execute(statement, parameters)
            return cursor.fetchall(), cursor.rowcount

    def row(self, statement: str, parameters: tuple[Any, ...]) -> Any:
        """Return the only row that a statement can give, or None; the statement has then ended."""
        with self._lock:
            return self._cursor.execute(statement, parameters).fetchone()

    def rows(self, statement: str, parameters: tuple[Any, ...]) -> list[Any]:
        """Return all rows that a statement gives; all, for one that is not read to its end holds the log up."""
        with self._lock:
            return self._cursor.execute(statement, parameters).fetchall()

    def execute_all(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        """Carry a statement out for each row, in one transaction."""
        with self._lock:
            self._cursor.execute("BEGIN IMMEDIATE")
            try:
                self._cursor.executemany(statement, rows)
            except BaseException:
                self._cursor.execute("ROLLBACK")
                raise
            self._cursor.execute("COMMIT")

    def in_one_step(self, carry_out: Callable[[sqlite3.Cursor, W], T], work: W) -> T:
        """Return what is done by this connection's cursor, in one transaction that nobody else writes in."""
        with self._lock:
            self._cursor.execute("BEGIN IMMEDIATE")
            try:
                done = carry_out(self._cursor, work)
            except BaseException:
                self._cursor.execute("ROLLBACK")
                raise
            self._cursor.execute("COMMIT")
            return done

    def shrink(self, pages: int = 0) -> None:
        """Give the pages of removed rows back to the file system, at most so many; 0 means all."""
        with self._lock:
            # A script runs to its end; the module takes the first of the rows without columns for the last.
            self._cursor.executescript(f"PRAGMA incremental_vacuum({pages:d})")


def _close(sql: sqlite3.Connection, cursor: sqlite3.Cursor, lock: threading.Lock) -> None:
    if lock.acquire(timeout=_FORK_SECONDS):
        try:
            # First: a statement that failed keeps the file open beyond the connection's end.
            cursor.close()
            sql.close()
        finally:
            lock.release()


class _OfThread(threading.local):
    connection: Connection | None = None


class DiskFile:
    """The file ``entries.sqlite3`` of a folder, for all threads of this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / FILE_NAME
        self._of_thread = _OfThread()
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        with _gate:
            _files.add(self)

    def connection(self) -> Connection:
        """Return this thread's connection, opened at its first use; the file is begun where there is none."""
        connection = self._of_thread.connection
        if connection is None:
            with _passed():
                connection, aside = self._open()
                self._connections.add(connection)
            self._of_thread.connection = connection
            self._tell(aside)
        return connection

    def drop(self) -> None:
        """Close this thread's connection; its next use opens another."""
        connection, self._of_thread.connection = self._of_thread.connection, None
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Close every thread's connection, each after the statement that it runs."""
        for connection in list(self._connections):
            connection.close()

    def holds(self, connection: Connection) -> bool:
        """Return whether a connection is to the file that is in the folder now: it may have been replaced."""
        try:
            return self._identity() == connection.identity
        except OSError:
            return False

    def recover(self, connection: Connection, error: sqlite3.Error) -> bool:
        """Drop this thread's connection after an error, and begin a damaged file anew.

        Returns whether the statement may be tried again: the file was damaged, or a fork had closed the connection.
        """
        closed = not connection.close.alive
        if _is_damage(error):
            with _passed(), locked(self.folder, exclusive=True):
                # Another process or thread may have been here before us.
                aside = self._set_aside("damaged") if self.holds(connection) else None
            self._tell(aside)
        self.drop()
        return closed or _is_damage(error)

    def _identity(self) -> tuple[int, int]:
        found = self.path.stat()
        return found.st_dev, found.st_ino

    def _open(self) -> tuple[Connection, Path | None]:
        with suppress(FileNotFoundError, Unusable), locked(self.folder, exclusive=False):
            return self._connect(), None
        with locked(self.folder, exclusive=True):
            aside = None
            try:
                return self._connect(), None
            except FileNotFoundError:
                pass
            except Unusable as unusable:
                aside = self._set_aside(str(unusable))
            self._begin()
            return self._connect(), aside

    def _connect(self) -> Connection:
        identity = self._identity()
        try:
            sql = _opened(self.path, "mode=rw")
        except sqlite3.OperationalError as error:
            _, log, _ = _parts(self.path)
            if _code(error) not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN) or log.exists():
                raise
            # A folder in which SQLite cannot make its log, and nobody has made one: the file stands still.
            sql = _opened(self.path, "immutable=1")
        return Connection(sql, identity)

    def _begin(self) -> None:
        # Made under another name, so that nobody finds it half made. A log that was left beside a file somebody removed
        # would be played into the new one.
        new = self.path.with_name(f"{FILE_NAME}.new")
        for left in (*_parts(self.path)[:-1], *_parts(new)):
            left.unlink(missing_ok=True)
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        with closing(sqlite3.connect(new, timeout=_BUSY_SECONDS, isolation_level=None)) as sql:
            for statement in _BEGIN:
                sql.execute(statement).fetchall()
        new.rename(self.path)

    def _set_aside(self, reason: str) -> Path:
        aside = self.path.with_name(f"{FILE_NAME}.{reason}-{os.urandom(4).hex()}")
        # The file itself goes last: what is begun in its place must not find the old log or its index. Connections
        # that are open keep to the old file; SQLite sees that it moved and removes nothing when they close.
        for old, new in zip(_parts(self.path), _parts(aside), strict=True):
            with suppress(FileNotFoundError):
                old.rename(new)
        return aside

    def _tell(self, aside: Path | None) -> None:
        # With no lock held: what handles the record may want to read from this very store.
        if aside is not None:
            logger.warning(
                "The cache file %s could not be used. It was set aside as %s, which can be removed, and is begun anew.",
                self.path,
                aside.name,
            )


def _opened(path: Path, mode: str) -> sqlite3.Connection:
    # The busy timeout is in force before the first statement: even the first read may have to wait for a recovery.
    uri = f"{path.absolute().as_uri()}?{mode}"
    sql = sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    sql.text_factory = bytes  # one flipped bit turns a BLOB into TEXT
    try:
        for pragma in _OPEN:
            sql.execute(pragma).fetchall()
        ((layout,),) = sql.execute("PRAGMA user_version").fetchall()
        if layout == LAYOUT:
            sql.execute(_PROBE).fetchall()
    except sqlite3.Error as error:
        sql.close()
        # A probe that SQLite can make no sense of: our table is not in it.
        if _is_damage(error) or _code(error) == sqlite3.SQLITE_ERROR:
            raise Unusable("damaged") from error
        raise
    if layout != LAYOUT:
        sql.close()
        # No layout of ours is 0: what SQLite finds in a file that was emptied or is another program's.
        raise Unusable(f"layout-{layout}" if layout else "damaged")
    return sql


def _is_damage(error: sqlite3.Error) -> bool:
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _code(error: sqlite3.Error) -> int:
    # The low byte is the kind, the others its variety. Errors of the Python module itself have none.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _parts(path: Path) -> tuple[Path, Path, Path]:
    return path.with_name(f"{path.name}-shm"), path.with_name(f"{path.name}-wal"), path


_gate = threading.Lock()
"""Held to open a file, and over a fork."""
_gate_held_by_fork = False


@contextmanager
def _passed() -> Generator[None]:
    """Hold the gate; ``TimeoutError`` where others hold it for long, as they do when each waits for a locked folder."""
    gate = _gate
    if not gate.acquire(timeout=_FORK_SECONDS):
        raise TimeoutError("other threads have not come to an end with opening it")
    try:
        yield
    finally:
        gate.release()


_files: weakref.WeakSet[DiskFile] = weakref.WeakSet()


def _before_fork() -> None:
    global _gate_held_by_fork
    # Bounded for a fork in a signal handler that interrupted the very opening it would wait for.
    if _gate.acquire(timeout=_FORK_SECONDS):
        _gate_held_by_fork = True
    for file in list(_files):
        file.close()


def _after_fork_in_parent() -> None:
    global _gate_held_by_fork
    if _gate_held_by_fork:
        _gate_held_by_fork = False
        _gate.release()


def _after_fork_in_child() -> None:
    global _gate, _gate_held_by_fork
    _gate, _gate_held_by_fork = threading.Lock(), False


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
