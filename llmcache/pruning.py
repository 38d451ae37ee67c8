"""Rows that are older than ``RETENTION`` says they are kept."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from django.db import connections, transaction
from django.utils import timezone

from llmcache.models import Invalidation

AT_A_TIME: Final = 100
"""The oldest rows that are looked at when a new one is made."""


def prune_invalidations(using: str, namespace: str, seconds: float) -> int:
    """Delete invalidations of one name space that are older, some at a time; return how many.

    Each that is made takes some of the oldest with it, so that there are no more than were made in that time.
    """
    before = timezone.now() - timedelta(seconds=seconds)
    with transaction.atomic(using):
        rows = Invalidation.objects.using(using).filter(namespace=namespace).order_by("pk")
        if connections[using].features.has_select_for_update_skip_locked:
            # Somebody else who is at it must not be waited for.
            rows = rows.select_for_update(skip_locked=True)
        oldest = rows.values_list("pk", "made_at")[:AT_A_TIME]
        gone = [pk for pk, made_at in oldest if made_at < before]
        return Invalidation.objects.using(using).filter(pk__in=gone).delete()[0] if gone else 0
