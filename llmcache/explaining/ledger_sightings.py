"""What the ledger knows of a call: its entry, its attempts, what made it void, and what it is nearest to.

At most ten statements, each by an index. The database's errors end it, and are no errors of the caller's.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.db import connections, transaction
from django.db.utils import Error

from llmcache.engine.log_copy import View
from llmcache.explaining.explanations import EntryFacts, LastAttempt, VoidedBy
from llmcache.explaining.nearest import Neighbours, find, side_of_call
from llmcache.invalidation_rows import row_of, without_rewriting
from llmcache.models import CacheEntry, Correction, Invalidation, ProviderCall
from llmcache.money.facts import unix_of

if TYPE_CHECKING:
    from llmcache.engine.call import Call
    from llmcache.engine.runtime import Runtime
    from llmcache.explaining.sightings import Sighting

logger = logging.getLogger("llmcache.ledger")

_MOST_ROWS: Final = 2_000
"""Rows of the invalidation log that are asked for by their ids."""


@dataclass(frozen=True, slots=True)
class LedgerSighting:
    """What the ledger says of one call."""

    entry: EntryFacts | None = None
    invalidation: VoidedBy | None = None
    correction: bytes | None = field(default=None, repr=False)
    """The human's answer that stands; it must not be told."""
    corrected_by: str | None = None
    last_attempt: LastAttempt | None = None
    neighbours: Neighbours | None = None
    """Only looked for where nothing of this very request is there."""
    nearest: EntryFacts | None = None


def look_into_ledger(now: Runtime, call: Call, best: Sighting | None, view: View) -> LedgerSighting | None:
    """Return what the ledger says of a call; None where it cannot be read."""
    try:
        now.require_database()
        using = now.settings.database
        # An error would end the caller's own transaction on some databases.
        with transaction.atomic(using=using) if connections[using].in_atomic_block else nullcontext():
            return _look(now, call, best, view, using)
    # The last two are what tests raise that may not use a database.
    except (Error, ImproperlyConfigured, AssertionError, RuntimeError) as error:
        logger.debug("The ledger could not be read: %s.", type(error).__name__)
        return None


def _look(now: Runtime, call: Call, best: Sighting | None, view: View, using: str) -> LedgerSighting:
    names = [key.hex() for key in (call.key, *call.older_keys)]
    rows = CacheEntry.objects.using(using).filter(namespace=now.namespace, key__in=names)
    # Under the key of today, else of a secret before.
    row = min(rows, key=lambda each: names.index(each.key), default=None)
    attempt = _last_attempt(using, names)
    correction = _correction(using, view)
    near = None
    if row is None and attempt is None and (best is None or best.entry is None):
        side = side_of_call(call, now.seals)
        schema = call.plan.response.schema.schema
        near = find(side, using, now.namespace, all_tenants=call.tenant is None, schema=schema)
    nearest = None if near is None or near.nearest is None else near.nearest.row
    return LedgerSighting(
        entry=None if row is None else facts_of(row),
        invalidation=_voided_by(now, call, best, row, view, using),
        correction=None if correction is None else correction.answer.encode(errors="surrogatepass"),
        corrected_by=None if correction is None else correction.made_by,
        last_attempt=attempt,
        neighbours=near,
        nearest=None if nearest is None else facts_of(nearest),
    )


def facts_of(row: CacheEntry) -> EntryFacts:
    """Return what is told of an entry's row."""
    return EntryFacts(
        key=row.key,
        kind=row.kind,
        model=row.model,
        response_type=row.response_type,
        tenant=row.tenant,
        written_at=_aware(row.written_at),
        expires_at=None if row.expires_at is None else _aware(row.expires_at),
        hits=row.hits,
        source=row.source,
    )


def _last_attempt(using: str, keys: list[str]) -> LastAttempt | None:
    rows = ProviderCall.objects.using(using).filter(key__in=keys).order_by("-started_at", "-pk")
    newest = rows.only("started_at", "outcome", "error", "to_store").first()
    if newest is None:
        return None
    return LastAttempt(_aware(newest.started_at), newest.outcome, newest.error, newest.to_store)


def _correction(using: str, view: View) -> Correction | None:
    if view.correction is None:
        return None
    return Correction.objects.using(using).filter(invalidation__uid=view.correction.hex()).first()


def _voided_by(
    now: Runtime, call: Call, best: Sighting | None, row: CacheEntry | None, view: View, using: str
) -> VoidedBy | None:
    """Return what makes void what a tier has, or, where none has it, what was stored last."""
    if best is not None and best.entry is not None:
        return _void_by(now, call, best, using) if best.is_void else None
    if row is None or not view.rows:
        return None
    made = _invalidations(using, [each.id for each in view.rows]).filter(made_at__gte=row.written_at)
    newest = without_rewriting(made).order_by("-pk").first()
    return None if newest is None else _told(newest, comes_back=False)


def _void_by(now: Runtime, call: Call, best: Sighting, using: str) -> VoidedBy | None:
    entry = best.entry
    views = [view for view in best.views if entry is not None and not view.admits(entry.seen)]
    if entry is None or not views:
        return None
    missing = [each for view in views for each in view.rows if not _admits_alone(view, each, entry.seen)]
    ids = [each.id for each in missing or [each for view in views for each in view.rows]]
    newest = _invalidations(using, ids).order_by("-pk").first()
    if newest is None:
        return None
    undone = now.log.known().overlaid([row_of(newest)._replace(active=False)])
    keys = (call.key, *call.older_keys)
    comes_back = best.place.found == "invalidated" and all(
        undone.view(key, call.facts).admits(entry.seen) for key in keys if key in (call.key, entry.key)
    )
    return _told(newest, comes_back=comes_back)


def _admits_alone(view: View, row: Any, seen: bytes) -> bool:
    return View((row,), view.seen).admits(seen)


def _invalidations(using: str, ids: list[bytes]) -> Any:
    return Invalidation.objects.using(using).filter(uid__in=[each.hex() for each in ids][:_MOST_ROWS])


def _told(row: Invalidation, *, comes_back: bool) -> VoidedBy:
    return VoidedBy(row.uid, _aware(row.made_at), row.made_by, row.reason, comes_back)


def _aware(at: datetime) -> datetime:
    return datetime.fromtimestamp(unix_of(at), UTC)
