"""What the ledger says of a run: the difference of its sums after the run and before it."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Final

from django.db.models import Max
from django.db.models.functions import Coalesce

import llmcache
from llmcache.models import CacheEntry, ProviderCall
from project.demo.models import DemoRun

PICO: Final = 10**12
_FLUSH_SECONDS: Final = 60.0
"""A run's last second of calls is brought into the database in far less; another one may hold it."""


def sums() -> llmcache.Stats | None:
    """Return the ledger's sums as they stand now; None where not all calls could be brought into the database."""
    return llmcache.stats() if llmcache.flush(_FLUSH_SECONDS) else None


def last_moment() -> datetime | None:
    """Return when the last thing happened of which there is a row, by the clock that it was recorded on."""
    found = (
        DemoRun.objects.aggregate(at=Max(Coalesce("simulated_until", "started_at"))),
        ProviderCall.objects.aggregate(at=Max(Coalesce("ended_at", "started_at"))),
        CacheEntry.objects.aggregate(at=Max("written_at")),
    )
    return max((each["at"] for each in found if each["at"] is not None), default=None)


def note(run: DemoRun, before: llmcache.Stats | None, after: llmcache.Stats | None) -> None:
    """Write what was spent and saved between two moments into a run.

    Whatever else wrote to the ledger between them, such as a server with the same database, is in it.
    """
    if before is None or after is None:
        return
    run.spent_pico_usd = _pico(after.spent_usd - before.spent_usd)
    run.saved_pico_usd = _pico(after.saved_usd - before.saved_usd)
    run.saved_unknown = after.saved_unknown - before.saved_unknown
    run.calls_in_doubt = after.calls_in_doubt - before.calls_in_doubt
    run.calls_unpriced = after.calls_unpriced - before.calls_unpriced
    if not run.calls_in_doubt:
        run.in_doubt_pico_usd = 0
    elif before.in_doubt_usd is not None and after.in_doubt_usd is not None:
        run.in_doubt_pico_usd = _pico(after.in_doubt_usd - before.in_doubt_usd)


def _pico(dollars: Decimal) -> int:
    return int(dollars * PICO)
