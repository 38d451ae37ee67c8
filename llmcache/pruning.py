"""Rows that are older than ``RETENTION`` says they are kept."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from django.db import connections, transaction
from django.utils import timezone

from llmcache.models import Invalidation

AT_A_TIME: Final = 100
"""Rows that are deleted together: each time, every process has to read the whole log anew."""


def prune_invalidations(using: str, namespace: str, seconds: float) -> int:
    """Delete the oldest invalidations of one name space when a hundred are older; return how many.

    Each that is made sees to that, so that there are not many more than were made in that time.
    """
    before = timezone.now() - timedelta(seconds=seconds)
    rows = Invalidation.objects.using(using).filter(namespace=namespace)
    for active in (True, False):
        # In this form an index has them in their order, also on SQLite.
        oldest = list(rows.filter(active__in=(active,)).order_by("pk").values_list("pk", "made_at")[:AT_A_TIME])
        if len(oldest) == AT_A_TIME and all(made_at < before for _, made_at in oldest):
            return _delete(using, [pk for pk, _ in oldest])
    return 0


def _delete(using: str, gone: list[int]) -> int:
    rows = Invalidation.objects.using(using).filter(pk__in=gone)
    with transaction.atomic(using):
        if connections[using].features.has_select_for_update_skip_locked:
            # Somebody else who is at it must not be waited for.
            gone = list(rows.select_for_update(skip_locked=True).values_list("pk", flat=True))
        return Invalidation.objects.using(using).filter(pk__in=gone).delete()[0]
