"""Rows that are older than ``RETENTION`` says they are kept."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from django.db import connections, transaction
from django.utils import timezone

from llmcache.models import Correction, Invalidation

AT_A_TIME: Final = 100
"""Rows that are deleted together: each time, every process has to read the whole log anew."""


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
    before = timezone.now() - timedelta(seconds=seconds)
    if len(oldest) < AT_A_TIME or not all(at is not None and at < before for _, at in oldest):
        return 0
    gone = [pk for pk, _ in oldest]
    rows = Invalidation.objects.using(using).filter(pk__in=gone)
    with transaction.atomic(using):
        if connections[using].features.has_select_for_update_skip_locked:
            # Somebody else who is at it must not be waited for.
            gone = list(rows.select_for_update(skip_locked=True).values_list("pk", flat=True))
        gone_with_them = Invalidation.objects.using(using).filter(pk__in=gone).delete()[1]
        return gone_with_them.get(Invalidation._meta.label, 0)
