"""Rows that are older than ``RETENTION`` says they are kept."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from django.db import connections, transaction
from django.utils import timezone

from llmcache.models import Correction, Invalidation

AT_A_TIME: Final = 100
"""Rows that are deleted together: each time, every process has to read the whole log anew."""


def prune_invalidations(using: str, namespace: str, seconds: float) -> int:
    """Delete the oldest invalidations of one name space when a hundred are older; return how many.

    Each that is made sees to that, so that there are not many more than were made in that time. One by which a human's
    answer stands is never old, and is kept for as long once that is withdrawn: until then there may be entries of it.
    """
    before = timezone.now() - timedelta(seconds=seconds)
    rows = Invalidation.objects.using(using).filter(namespace=namespace, corrects=False)
    # In this form an index has them in their order, also on SQLite.
    groups: list[tuple[Any, str, str]] = [
        (rows.filter(active__in=(active,)).order_by("pk"), "pk", "made_at") for active in (True, False)
    ]
    withdrawn = Correction.objects.using(using).filter(namespace=namespace, invalidation__active=False)
    groups.append((withdrawn.order_by("pk"), "invalidation_id", "invalidation__undone_at"))
    for group, number, since in groups:
        oldest = list(group.values_list(number, since)[:AT_A_TIME])
        if len(oldest) == AT_A_TIME and all(at is not None and at < before for _, at in oldest):
            return _delete(using, [pk for pk, _ in oldest])
    return 0


def _delete(using: str, gone: list[int]) -> int:
    rows = Invalidation.objects.using(using).filter(pk__in=gone)
    with transaction.atomic(using):
        if connections[using].features.has_select_for_update_skip_locked:
            # Somebody else who is at it must not be waited for.
            gone = list(rows.select_for_update(skip_locked=True).values_list("pk", flat=True))
        gone_with_them = Invalidation.objects.using(using).filter(pk__in=gone).delete()[1]
        return gone_with_them.get(Invalidation._meta.label, 0)
