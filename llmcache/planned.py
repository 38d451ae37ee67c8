"""Invalidations planned ahead: kept in a table of their own until they are due, and then made as any other.

A row of the log is in force from the moment it is there: no process looks at a time, and no entry can have seen what is
not in force yet. So nothing of a planned one is in the log. When it is due it gets its row, with the id that it had
from the beginning: whoever brings it into force, and however many try, there is one.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from llmcache import request
from llmcache.engine import process
from llmcache.engine.predicates import Predicate
from llmcache.envelope import SEEN_ID_BYTES
from llmcache.exceptions import InvalidRequest
from llmcache.flushing import require_no_loop

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from llmcache.engine.runtime import Runtime
    from llmcache.models import PlannedInvalidation

LONGEST_AHEAD: Final = timedelta(days=3_660)
MOST_AT_ONCE: Final = 200
"""Invalidations that one call of ``bring_all_into_force`` makes; what is left is for the next."""


def is_to_come(at: object) -> bool:
    """Return whether a time is to come. Raises ``InvalidRequest`` for what is no time, or too far ahead."""
    if not isinstance(at, datetime) or at.utcoffset() is None:
        raise InvalidRequest("at= must be an aware datetime: a naive one means another moment elsewhere.")
    try:
        # Not Django's now, which is naive where a project is without time zones.
        ahead = at - datetime.now(UTC)
    except OverflowError:
        ahead = timedelta.max
    if ahead > LONGEST_AHEAD:
        raise InvalidRequest("at= must be within the next ten years.")
    return ahead > timedelta(0)


def plan(now: Runtime, predicate: Predicate, at: datetime, reason: str, made_by: str) -> PlannedInvalidation:
    """Keep an invalidation until it is due, in the caller's transaction."""
    from django.utils import timezone

    from llmcache.invalidation_rows import columns_of
    from llmcache.models import PlannedInvalidation

    now.require_database()
    row = PlannedInvalidation(
        uid=os.urandom(SEEN_ID_BYTES).hex(),
        namespace=now.namespace,
        **columns_of(predicate),
        due_at=_stored(at),
        made_at=timezone.now(),
        made_by=made_by,
        reason=reason,
    )
    row.save(using=now.settings.database, force_insert=True)
    return row


def bring_into_force(uid: str) -> bool:
    """Make the invalidation that was planned under an id, if it is due; return whether this call has made it.

    Raises ``InvalidRequest`` for an id of none of this project, and the database's errors.
    """
    require_no_loop("planned.bring_into_force")
    now = process.current()
    now.require_database()
    row = find(now, request.word("uid", uid))
    if row is None:
        raise InvalidRequest("There is no planned invalidation with this id.")
    return _bring(now, row)


def bring_all_into_force(most: int = MOST_AT_ONCE) -> int:
    """Make the invalidations that are due, the longest due first; return how many this call has made."""
    from django.utils import timezone

    require_no_loop("planned.bring_all_into_force")
    now = process.current()
    now.require_database()
    # In this form an index serves it on SQLite too.
    due = _rows(now).filter(is_open__in=(True,), due_at__lte=timezone.now()).order_by("due_at", "pk")
    return sum(_bring(now, row) for row in list(due[:most]))


def coming(seconds: float, most: int = MOST_AT_ONCE) -> list[tuple[str, datetime]]:
    """Return the ids of those that will be due within so many seconds, with their times."""
    from django.utils import timezone

    now, wall = process.current(), timezone.now()
    soon = _rows(now).filter(is_open__in=(True,), due_at__gt=wall, due_at__lte=wall + timedelta(seconds=seconds))
    return list(soon.order_by("due_at", "pk").values_list("uid", "due_at")[:most])


def call_off(now: Runtime, row: PlannedInvalidation, by: str) -> bool:
    """Let a planned invalidation never come into force; return False where it was called off or is in force."""
    from django.utils import timezone

    open_rows = _rows(now).filter(pk=row.pk, is_open=True)
    return bool(open_rows.update(is_open=False, called_off_at=timezone.now(), called_off_by=by))


def find(now: Runtime, uid: str) -> PlannedInvalidation | None:
    """Return the one that was planned under an id, whatever has become of it."""
    return _rows(now).filter(uid=uid).first() if is_an_id(uid) else None


def is_an_id(uid: str) -> bool:
    """Return whether a text may be the id of an invalidation; databases refuse to look for just anything."""
    return 0 < len(uid) <= 2 * SEEN_ID_BYTES and uid.isprintable()


def _stored(at: datetime) -> datetime:
    """Return an aware time as the project's databases keep it."""
    from django.conf import settings
    from django.utils import timezone

    return at if settings.USE_TZ else timezone.make_naive(at, timezone.get_default_timezone()).replace(fold=0)


def _bring(now: Runtime, row: PlannedInvalidation) -> bool:
    from django.db import transaction
    from django.utils import timezone

    from llmcache.invalidation import made
    from llmcache.invalidation_rows import predicate_of

    using, at = now.settings.database, timezone.now()
    with transaction.atomic(using=using):
        # One of those who try changes the row, and the others wait for its commit or rollback.
        if not _rows(now).filter(pk=row.pk, is_open=True, due_at__lte=at).update(is_open=False, in_force_at=at):
            return False
        made(now, predicate_of(row), row.reason, row.made_by, uid=bytes.fromhex(row.uid))
    return True


def _rows(now: Runtime) -> QuerySet[PlannedInvalidation]:
    from llmcache.models import PlannedInvalidation

    return PlannedInvalidation.objects.using(now.settings.database).filter(namespace=now.namespace)
