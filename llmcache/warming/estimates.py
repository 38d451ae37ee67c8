"""What a run would ask and cost, found out without asking anything or writing anywhere."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from django.views.decorators.debug import sensitive_variables
from pydantic import ValidationError

from llmcache.engine import process
from llmcache.flushing import require_no_loop
from llmcache.money.pricing import dollars
from llmcache.money.usage import Usage
from llmcache.request import NOT_GIVEN, NotGiven
from llmcache.warming.texts import text_of
from llmcache.warming.wanted import wanted_of

if TYPE_CHECKING:
    from llmcache.engine.call import Call
    from llmcache.engine.runtime import Runtime
    from llmcache.plans import Plan

_LAST: Final = 500
"""Earlier answers that are looked at, the newest."""
_BYTES_A_TOKEN: Final = 4
_LEAST_OUTPUT: Final = 32
"""Tokens that an answer has at least, where nothing is known but its schema."""


@dataclass(frozen=True, slots=True)
class WarmingEstimate:
    """What a run would ask now."""

    items: int
    duplicates: int
    """Of the items, those that another one is equal to."""
    live: int
    """Answers that are there."""
    to_ask: int
    usd: Decimal | None
    """What asking would cost; None when nobody can tell."""
    basis: str
    """What that is reckoned from, in words."""


@sensitive_variables()
def estimate(
    texts: Iterable[Any],
    *,
    kind: str | None = None,
    response_model: Any = None,
    model: str | NotGiven = NOT_GIVEN,
    system: str | None = None,
    tenant: str | NotGiven | None = NOT_GIVEN,
    tags: Collection[str] = (),
    ttl: float | timedelta | NotGiven | None = NOT_GIVEN,
) -> WarmingEstimate:
    """Return what warming these texts would ask and cost; no provider is asked, and nothing is written.

    Raises what ``runs.prepare`` does of its arguments.
    """
    require_no_loop("warm")
    now = process.current()
    wanted = wanted_of(
        now, kind=kind, response_model=response_model, model=model, system=system, tenant=tenant, tags=tags, ttl=ttl
    )
    costs, seen, items, live = Costs(now), set[bytes](), 0, 0
    now.log.confirm()
    for text in texts:
        items += 1
        named = wanted.named(now, text_of(text))
        call = wanted.call(now, named)
        if call.key in seen:
            continue
        seen.add(call.key)
        if not named.anew and is_live(now, call):
            live += 1
        else:
            costs.add(call)
    return WarmingEstimate(items, items - len(seen), live, len(seen) - live, dollars(costs.pico_usd), costs.basis)


@sensitive_variables()
def is_live(now: Runtime, call: Call, since: float = 0.0) -> bool:
    """Return whether a tier has a fresh and valid answer, made ``since`` a time; writes into none of them.

    A human's answer that stands is one: no provider is asked beside it.
    """
    view = now.log.view(call.key, call.facts)
    if view.correction is not None:
        return True
    wall = now.clock.wall()
    for place in now.tiers.places(call.key):
        entry = place.entry
        if entry is None or place.state != "fresh" or not view.may_keep(entry.seen):
            continue
        if entry.written_at < since or wall - entry.written_at >= call.oldest:
            continue
        try:
            call.plan.validate(entry.answer)
        except ValidationError:
            continue
        return True
    return False


class Costs:
    """What calls would cost together, each added as it is met."""

    def __init__(self, now: Runtime) -> None:
        self._now = now
        self._prices: dict[int, _Price] = {}
        self._plans: list[Plan] = []
        self._sum: int | None = 0
        self.calls = 0

    @sensitive_variables()
    def add(self, call: Call) -> None:
        """Add a call."""
        price = self._prices.get(id(call.plan))
        if price is None:
            # Kept, so that no other plan gets its number.
            self._plans.append(call.plan)
            price = self._prices[id(call.plan)] = _price_of(self._now, call.plan)
        data = call.content.encode() if isinstance(call.content, str) else call.content.key_bytes
        tokens = (call.plan.size + len(data)) // _BYTES_A_TOKEN + 1
        self.calls += 1
        self._sum = None if self._sum is None or price.fixed is None else self._sum + price.of(tokens)

    @property
    def pico_usd(self) -> int | None:
        """10**-12 US dollars; None where it is not known of each call."""
        return self._sum

    @property
    def basis(self) -> str:
        """What it is reckoned from, in words; empty without calls."""
        found = list(dict.fromkeys(price.basis for price in self._prices.values()))
        return "; ".join(found[:3])

    @property
    def each(self) -> int | None:
        """What one call costs on average, rounded up; None where that is not known."""
        return None if self._sum is None or not self.calls else -(-self._sum // self.calls)


@dataclass(frozen=True, slots=True)
class _Price:
    """What a call of one plan costs by its tokens."""

    fixed: int | None
    """10**-12 US dollars; None where it is not known."""
    token: float
    basis: str

    def of(self, tokens: int) -> int:
        return round((self.fixed or 0) + self.token * tokens)


def _price_of(now: Runtime, plan: Plan) -> _Price:
    return _from_answers(now, plan) or _from_book(now, plan)


def _from_answers(now: Runtime, plan: Plan) -> _Price | None:
    """Return what earlier answers of the kind tell; None where there are none."""
    from django.db.models import Avg, Count, F, Value
    from django.db.models.functions import Coalesce

    from llmcache.models import MAX_NAME, CacheEntry

    now.require_database()
    rows = CacheEntry.objects.using(now.settings.database).filter(namespace=now.namespace, kind=plan.kind)
    known = rows.filter(model=plan.model[:MAX_NAME], cost_pico_usd__isnull=False).order_by("-written_at")[:_LAST]
    read = [Coalesce(F(name), Value(0)) for name in ("input_tokens", "cache_read_tokens", "cache_write_tokens")]
    found: dict[str, Any] = known.aggregate(
        count=Count("pk"), cost=Avg("cost_pico_usd"), tokens=Avg(read[0] + read[1] + read[2])
    )
    if not found["count"]:
        return None
    cost, tokens = float(found["cost"]), float(found["tokens"] or 0)
    answers = "1 earlier answer" if found["count"] == 1 else f"{found['count']} earlier answers"
    mean = f"the mean of {answers} of {plan.kind} by {plan.model}"
    if not tokens:
        return _Price(round(cost), 0.0, mean)
    return _Price(0, cost / tokens, f"{mean}, by the length of what is sent")


def _from_book(now: Runtime, plan: Plan) -> _Price:
    """Return what the prices in force tell of an answer about as long as its schema makes likely."""
    limits = [plan.params.get(name) for name in ("max_completion_tokens", "max_tokens", "max_output_tokens")]
    written = max(plan.size // (4 * _BYTES_A_TOKEN), _LEAST_OUTPUT)
    output = min((each for each in (*limits, written) if type(each) is int and each > 0), default=written)
    at, base_url, many = now.clock.wall(), plan.provider.base_url, 1_000
    told = [
        now.prices.cost(plan.model, None, base_url, usage, at)
        for usage in (Usage(0, 0, output), Usage(many, 0, output))
    ]
    fixed, whole = told
    if fixed is None or whole is None:
        return _Price(None, 0.0, f"there is no price of {plan.model}, and no earlier answer of {plan.kind}")
    token = (whole.pico_usd - fixed.pico_usd) / many
    return _Price(fixed.pico_usd, token, f"prices of {fixed.price_id} for an estimated number of tokens")
