"""The ledger's database, the log of invalidations in it, and the journal that waits for it."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from django.db import connections
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from llmcache.diagnosis import Finding, timed
from llmcache.diagnosis.stores import CLOCKS_DIFFER
from llmcache.tiers.disk_folder import writable

if TYPE_CHECKING:
    from llmcache.engine.runtime import Runtime

_MOST_FILES: Final = 1_000
_LATE_SECONDS: Final = 3_600.0
"""From when on a file of a process that has ended should have been brought in."""
_MEGABYTE: Final = 2**20
_WAYS: Final = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mysql": "MySQL", "oracle": "Oracle"}


def database(now: Runtime) -> Iterator[Finding]:
    """Ask the database, and look at its tables, its clock and how its transactions begin."""
    now.require_database()
    alias = now.settings.database
    connection, began = connections[alias], time.monotonic()
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        took = timed(began)
    except Exception as error:  # noqa: BLE001  # of whatever database; its own words may name a host, and no secret
        said = (str(error).splitlines() or [""])[0][:200]
        todo = f"Look whether it runs, and at DATABASES[{alias!r}]. Calls go on, and wait in the journal."
        yield Finding("database", "wrong", f"{alias!r} does not answer: {type(error).__name__}: {said}", todo)
        return
    kind = _WAYS.get(connection.vendor, connection.vendor)
    yield Finding("database", "ok", f"{alias!r}, {kind}", milliseconds=took)
    yield from _migrations(connection, alias)
    if connection.vendor == "sqlite":
        yield from _sqlite(connection, alias)
    elif connection.vendor in ("postgresql", "mysql"):
        yield from _clock(connection, now)


def _migrations(connection: Any, alias: str) -> Iterator[Finding]:
    executor = MigrationExecutor(connection)
    targets = [key for key in executor.loader.graph.leaf_nodes() if key[0] == "llmcache"]
    missing = len(executor.migration_plan(targets))
    if missing:
        todo = f"Run: manage.py migrate llmcache --database={alias}"
        yield Finding("migrations", "wrong", f"{missing} are not applied", todo)
    else:
        yield Finding("migrations", "ok", f"up to {targets[0][1]}")


def _sqlite(connection: Any, alias: str) -> Iterator[Finding]:
    options: dict[str, Any] = connection.settings_dict.get("OPTIONS") or {}
    mode = str(options.get("transaction_mode") or "DEFERRED").upper()
    if mode == "DEFERRED":
        todo = f"Set DATABASES[{alias!r}]['OPTIONS']['transaction_mode'] to 'IMMEDIATE'."
        told = "transactions say only later that they write, and can fail with 'database is locked'"
        yield Finding("database", "note", told, todo)


def _clock(connection: Any, now: Runtime) -> Iterator[Finding]:
    # In UTC as seconds, whatever time zone the connection has.
    asked = "extract(epoch from now())" if connection.vendor == "postgresql" else "unix_timestamp(now(6))"
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {asked}")  # of ours, one of two
        (there,) = cursor.fetchone()
    ahead = float(there) - now.clock.wall()
    if abs(ahead) > CLOCKS_DIFFER:
        todo = "Set both clocks by NTP."
        yield Finding("database", "wrong", f"its clock is {ahead:+.0f} s from this machine's", todo)


def log(now: Runtime) -> Iterator[Finding]:
    """Read the log as calls do."""
    began = time.monotonic()
    if now.log.read_now():
        state = now.log.shared.state
        told = f"{state.active} of {state.rows} invalidations in force"
        yield Finding("invalidation log", "ok", told, milliseconds=timed(began))
    else:
        told = f"cannot be read: hits go on for {now.settings.recheck_grace:g} s, and then all calls ask"
        yield Finding("invalidation log", "wrong", told, "Look at the database.")


# The journal


def journal(now: Runtime) -> Iterator[Finding]:
    """Look at the journal's folder, at the room on its disk, and at files of processes that have ended."""
    folder = now.journal.folder
    if folder is None or not writable(folder):
        told = "calls are noted in memory only: " + ("no folder" if folder is None else f"{folder} cannot be written")
        yield Finding("journal", "wrong", told, "Set LLMCACHE['JOURNAL'] to a folder that this user can write.")
        return
    place = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(place).free
    told = f"{folder}, {free // _MEGABYTE} MB free"
    if free < now.settings.journal_max_bytes:
        yield Finding("journal", "wrong", told, "Make room: less is free than one process's journal may take.")
    else:
        yield Finding("journal", "ok", told)
    if folder.is_dir():
        yield from _files(folder, now.namespace)


def _files(folder: Path, namespace: str) -> Iterator[Finding]:
    living, dead, size, oldest = 0, 0, 0, float("inf")
    for number, file in enumerate(folder.iterdir()):
        if number >= _MOST_FILES:
            break
        if not file.name.startswith(f"{namespace}-") or file.suffix not in (".journal", ".claimed"):
            continue
        found = _ended(file)
        if found is None:
            living += 1
        elif found.st_size:
            dead, size, oldest = dead + 1, size + found.st_size, min(oldest, found.st_mtime)
    if not dead:
        yield Finding("journal", "ok", f"{living} files of living processes, none of dead ones")
        return
    told = f"{dead} files of dead processes wait, {size // 1024 + 1} kB"
    late = timezone.now().timestamp() - oldest > _LATE_SECONDS
    todo = "Any process that flushes brings them in; now: manage.py llmcache_stats"
    yield Finding("journal", "wrong" if late else "note", told, todo)


def _ended(file: Path) -> os.stat_result | None:
    """Return what a file of a dead process is; None for one whose process lives, or that is gone."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return os.fstat(descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)
