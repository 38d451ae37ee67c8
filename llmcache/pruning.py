"""Rows that are older than ``RETENTION`` says they are kept.

What makes invalidations prunes them; all else is done by who keeps house, so many rows at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from django.db import connections, transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from llmcache.models import (
    CacheEntry,
    Correction,
    Invalidation,
    Lease,
    PlannedInvalidation,
    ProviderCall,
    TenantDay,
    UsageBucket,
    WarmingRun,
)

if TYPE_CHECKING:
    from llmcache.engine.runtime import Runtime

AT_A_TIME: Final = 100
"""Invalidations that are deleted together: each time, every process has to read the whole log anew."""
CHUNK: Final = 500
"""Other rows that are deleted together."""
_LEASES_KEPT: Final = timedelta(hours=1)


def prune_invalidations(using: str, namespace: str, seconds: float) -> int:
    """Delete the oldest invalidations of one name space when a hundred are older; return how many.

    Each that is made sees to that, so that there are not many more than were made in that time. One by which a human's
    answer stands is never old.
    """
    rows = Invalidation.objects.using(using).filter(namespace=namespace, corrects=False)
    for active in (True, False):
        # In this form an index has them in their order, also on SQLite.
        oldest = rows.filter(active__in=(active,)).order_by("pk").values_list("pk", "made_at")
        if gone := _delete(using, list(oldest[:AT_A_TIME]), seconds):
            return gone
    return 0


def prune_corrections(using: str, namespace: str, seconds: float) -> int:
    """Delete the oldest withdrawn corrections with their invalidations, as ``prune_invalidations`` does.

    They are kept for as long from their withdrawal on: until then there may be entries of them, which are void by them.
    """
    rows = Correction.objects.using(using).filter(namespace=namespace, invalidation__active=False)
    oldest = rows.order_by("pk").values_list("invalidation_id", "invalidation__undone_at")
    return _delete(using, list(oldest[:AT_A_TIME]), seconds)


def _delete(using: str, oldest: list[tuple[int, datetime | None]], seconds: float) -> int:
    """Delete invalidations, told with the time since when they are of no use, if there are a hundred old ones."""
    before = _ago(seconds)
    if len(oldest) < AT_A_TIME or before is None or not all(at is not None and at < before for _, at in oldest):
        return 0
    gone = [pk for pk, _ in oldest]
    rows = Invalidation.objects.using(using).filter(pk__in=gone)
    with transaction.atomic(using):
        if connections[using].features.has_select_for_update_skip_locked:
            # Somebody else who is at it must not be waited for.
            gone = list(rows.select_for_update(skip_locked=True).values_list("pk", flat=True))
        gone_with_them = Invalidation.objects.using(using).filter(pk__in=gone).delete()[1]
        return gone_with_them.get(Invalidation._meta.label, 0)


# -- by who keeps house


def prune_rows(now: Runtime, seconds: float) -> dict[str, int]:
    """Delete what is older than ``RETENTION`` says, until nothing is left or the time is over; tell how many of each.

    Any number of processes may do it at once.
    """
    until, gone = time.monotonic() + seconds, dict.fromkeys(PRUNERS, 0)
    for name, old in PRUNERS.items():
        rows = old(now)
        while rows is not None and time.monotonic() < until:
            count = _delete_some(rows)
            gone[name] += count
            if count < CHUNK:
                break
    return gone


def _delete_some(rows: QuerySet[Any]) -> int:
    numbers = list(rows.values_list("pk", flat=True)[:CHUNK])
    # What goes with them (tags, items) is not counted. A condition again: somebody may have changed one since.
    found = rows.order_by().filter(pk__in=numbers)
    return found.delete()[1].get(rows.model._meta.label, 0) if numbers else 0


def _before(now: Runtime, name: str) -> datetime | None:
    """Return the time that rows are old before; None where they are kept for ever."""
    return _ago(now.settings.retention[name])


def _ago(seconds: float) -> datetime | None:
    """Return the time so many seconds ago; None where nothing can be as old."""
    at = timezone.now()
    # So long ago that datetime has no year for it, perhaps.
    return None if seconds >= at.timestamp() else at - timedelta(seconds=seconds)


def _calls(now: Runtime) -> QuerySet[Any] | None:
    before = _before(now, "calls")
    if before is None:
        return None
    # One that has not ended would be a new one, were its end told after all.
    rows = ProviderCall.objects.using(now.settings.database).exclude(outcome=ProviderCall.Outcome.UNDER_WAY)
    return rows.filter(started_at__lt=before).order_by("started_at")


def _entries(now: Runtime) -> QuerySet[Any] | None:
    """Return the rows of entries that have been past their time for so long, and nobody is given any more."""
    before = _before(now, "entries")
    if before is None:
        return None
    rows = CacheEntry.objects.using(now.settings.database).filter(namespace=now.namespace)
    is_over = Q(stale_until__isnull=True) | Q(stale_until__lt=before)
    return rows.filter(is_over, expires_at__lt=before).order_by("expires_at")


def _endless_entries(now: Runtime) -> QuerySet[Any] | None:
    """Return the rows of entries that do not expire, and are older than the log goes back."""
    before, horizon = _before(now, "entries"), _before(now, "invalidations")
    if before is None or horizon is None:
        return None
    rows = CacheEntry.objects.using(now.settings.database).filter(namespace=now.namespace, expires_at=None)
    return rows.filter(written_at__lt=min(before, horizon)).order_by("written_at")


def _hours(now: Runtime) -> QuerySet[Any] | None:
    before = _before(now, "hours")
    rows = UsageBucket.objects.using(now.settings.database)
    return None if before is None else rows.filter(hour__lt=before).order_by("hour")


def _days(now: Runtime) -> QuerySet[Any] | None:
    before = _before(now, "hours")
    rows = TenantDay.objects.using(now.settings.database)
    return None if before is None else rows.filter(day__lt=before.date()).order_by("day")


def _runs(now: Runtime) -> QuerySet[Any] | None:
    before = _before(now, "runs")
    rows = WarmingRun.objects.using(now.settings.database).filter(namespace=now.namespace)
    return None if before is None else rows.filter(ended_at__lt=before, made_at__lt=before).order_by("made_at")


def _planned(now: Runtime) -> QuerySet[Any] | None:
    before = _before(now, "invalidations")
    rows = PlannedInvalidation.objects.using(now.settings.database).filter(namespace=now.namespace, is_open=False)
    return None if before is None else rows.filter(due_at__lt=before).order_by("due_at")


def _leases(now: Runtime) -> QuerySet[Any] | None:
    return Lease.objects.using(now.settings.database).filter(until__lt=timezone.now() - _LEASES_KEPT).order_by("pk")


PRUNERS: Final[dict[str, Callable[[Runtime], QuerySet[Any] | None]]] = {
    "calls": _calls,
    "entries": _entries,
    "endless_entries": _endless_entries,
    "hours": _hours,
    "days": _days,
    "runs": _runs,
    "planned_invalidations": _planned,
    "leases": _leases,
}
"""By what they are, the rows that are to go, the oldest first; None where they are kept for ever."""
