"""Flushing: what this process knows of calls and hits, brought into the database now."""

from __future__ import annotations

import logging
from asyncio import _get_running_loop as running_loop  # pyright: ignore[reportPrivateUsage]
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from asgiref.sync import markcoroutinefunction, sync_to_async

from llmcache import request
from llmcache.engine import process
from llmcache.exceptions import AsyncContext

if TYPE_CHECKING:
    from llmcache.engine.runtime import Runtime

logger = logging.getLogger("llmcache.ledger")


def flush(timeout: float = 5.0) -> bool:
    """Bring provider calls and counts of this process into the database now; return whether all of them are there.

    Waits at most ``timeout`` seconds. Never raises for a database that is locked, dead or not migrated: the journal
    keeps what could not be written, and the answer is False. So it is inside a transaction on SQLite, where nobody else
    can write. Lines of processes of this machine that have ended are brought in too.

    Under Django's test environment it writes on the caller's own connection what the running test did, so that a
    ``TestCase`` rolls it back. Raises ``InvalidRequest`` for a timeout that is none, ``ConfigurationError``, and
    ``AsyncContext`` in an event loop.
    """
    seconds = request.duration(timeout)
    require_no_loop("flush")
    now = process.current()
    now.require_database()
    if now.test is not None:
        return _flush_test(now)
    return not _is_inside_transaction(now) and now.writer.flush(seconds)


@markcoroutinefunction
def aflush(timeout: float = 5.0) -> Coroutine[Any, Any, bool]:
    """Do as ``flush``, awaited."""
    return sync_to_async(flush)(timeout)


def require_no_loop(name: str) -> None:
    """Raise ``AsyncContext``, naming the awaited twin, where an event loop is running."""
    if running_loop() is not None:
        raise AsyncContext(
            f"llmcache.{name}() was called in a thread whose event loop is running, and would stop it. "
            f"Await llmcache.a{name}() instead."
        )


def _is_inside_transaction(now: Runtime) -> bool:
    from django.db import connections

    connection = connections[now.settings.database]
    return connection.vendor == "sqlite" and connection.in_atomic_block


def _flush_test(now: Runtime) -> bool:
    from django.db import DatabaseError

    from llmcache.money.importer import Importer

    # From the beginning each time: rows of a part of the test that was rolled back come again.
    importer = Importer(now)
    try:
        importer.import_own()
        importer.import_dead()
        importer.write_counts()
    except (DatabaseError, AssertionError, RuntimeError) as error:
        # Without tables; and in these words tests are told that they have no database.
        logger.debug("Nothing was written: %s.", type(error).__name__)
        return False
    return True
