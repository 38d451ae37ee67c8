"""Flushing: what this process knows of calls and hits, brought into the database now."""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from llmcache import request
from llmcache.engine import process

if TYPE_CHECKING:
    from llmcache.engine.runtime import Runtime

logger = logging.getLogger("llmcache.ledger")


def flush(timeout: float = 5.0) -> bool:
    """Bring provider calls and counts of this process into the database now; return whether all of them are there.

    Waits at most ``timeout`` seconds. Never raises for a database that is locked, dead or not migrated: the journal
    keeps what could not be written, and the answer is False. So it is inside a transaction on SQLite, where nobody else
    can write. Lines of processes of this machine that have ended are brought in too.

    Under Django's test environment it writes on the caller's own connection what the running test did, so that a
    ``TestCase`` rolls it back. Raises ``InvalidRequest`` for a timeout that is none, and ``ConfigurationError``.
    """
    seconds = request.duration(timeout)
    now = process.current()
    if now.test is not None:
        return _flush_test(now)
    return not _is_inside_transaction(now) and now.writer.flush(seconds)


def aflush(timeout: float = 5.0) -> Coroutine[Any, Any, bool]:
    """Do as ``flush``, awaited."""
    from asgiref.sync import sync_to_async

    return sync_to_async(flush)(timeout)


def _is_inside_transaction(now: Runtime) -> bool:
    from django.db import connections

    connection = connections[now.settings.database]
    return connection.vendor == "sqlite" and connection.in_atomic_block


def _flush_test(now: Runtime) -> bool:
    from llmcache.money.writer import Importer

    # From the beginning each time: rows of a part of the test that was rolled back come again.
    importer = Importer(now)
    try:
        importer.import_own()
        importer.import_dead()
        importer.write_counts()
    except Exception as error:  # noqa: BLE001  # a test without a database, or without tables
        logger.debug("Nothing was written: %s.", type(error).__name__)
        return False
    return True
