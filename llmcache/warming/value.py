"""What a run was worth: whether what it had asked ahead of its use was used since."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.db.models import BigIntegerField, Count, F, OuterRef, Q, Subquery, Sum
from django.db.models.functions import Coalesce

from llmcache.engine import process
from llmcache.flushing import require_no_loop
from llmcache.models import CacheEntry, WarmingItem
from llmcache.money.pricing import PICO
from llmcache.warming.runs import run_of


@dataclass(frozen=True, slots=True)
class WarmingValue:
    """What the answers of a run have been good for, as far as the ledger knows.

    An answer counts from when it was warmed on, also after another run, or a call, has asked for it anew.
    """

    warmed: int
    """Answers that the run has asked for."""
    hit: int
    """Of these, those that were used since."""
    hits: int
    """How often."""
    saved_usd: Decimal
    """What those calls would have cost, as far as that is known."""
    cost_usd: Decimal | None
    """What the run has cost; None where it is not known of each of its calls."""

    @property
    def net_usd(self) -> Decimal | None:
        """What is left of it; None where nobody knows what the run has cost."""
        return None if self.cost_usd is None else self.saved_usd - self.cost_usd


def value_of(run_uid: str) -> WarmingValue:
    """Return what a run was worth so far. Raises ``InvalidRequest`` for one that is not there."""
    require_no_loop("warm")
    now = process.current()
    run = run_of(now, run_uid)
    using = now.settings.database
    entry = CacheEntry.objects.using(using).filter(namespace=run.namespace, key=OuterRef("key"))
    warmed = WarmingItem.objects.using(using).filter(run=run, state=WarmingItem.State.WARMED)
    since = warmed.annotate(
        hits=_of(entry, "hits") - F("hits_before"), saved=_of(entry, "saved_pico_usd") - F("saved_before_pico_usd")
    )
    # Below zero where the entry's row was pruned and came again.
    used = Q(hits__gt=0)
    found: dict[str, Any] = since.order_by().aggregate(
        warmed=Count("pk"),
        hit=Count("pk", filter=used),
        all_hits=Sum("hits", filter=used, default=0),
        all_saved=Sum("saved", filter=Q(saved__gt=0), default=0),
    )
    return WarmingValue(
        warmed=found["warmed"],
        hit=found["hit"],
        hits=int(found["all_hits"]),
        saved_usd=Decimal(int(found["all_saved"])) / PICO,
        cost_usd=None if run.unpriced else run.spent_usd,
    )


def _of(entry: Any, column: str) -> Coalesce:
    return Coalesce(Subquery(entry.values(column)[:1]), 0, output_field=BigIntegerField())
