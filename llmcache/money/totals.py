"""Totals: what calls came to. The one place where the hourly sums become figures; every report adds up through here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from llmcache.money.pricing import PICO

if TYPE_CHECKING:
    from django.db.models import Aggregate

COUNTED: Final[Mapping[str, str]] = {
    "hits": "hit",
    "stale": "stale",
    "misses": "miss",
    "collapsed": "collapsed",
    "bypasses": "bypass",
    "errors": "error",
}
"""Figures that count calls, and the outcome of those."""
AHEAD: Final = ("refresh", "warming")
"""Outcomes of attempts that nobody was waiting for. What they cost is taken off what was saved."""

_SUMMED: Final = (
    *("avoided_pico_usd", "avoided_unknown", "saved_ms", "attempts", "spent_pico_usd", "unpriced"),
    *("in_doubt", "in_doubt_pico_usd", "in_doubt_unbounded"),
)
_ALIAS: Final = "sum_"

Sums = Counter[str]
"""Whole numbers by the names of ``aggregates``, without their prefix; they can be added up."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What some calls came to, as ``docs/dashboard.md`` explains each figure."""

    hits: int
    """Calls answered from a tier."""
    stale: int
    """Calls answered with an entry past its time."""
    misses: int
    """Calls that asked a provider for what was not there."""
    collapsed: int
    """Calls answered by another call's provider call that was under way."""
    bypasses: int
    """Calls that were to ask and not to store."""
    errors: int
    """Calls that raised."""
    saved_gross_usd: Decimal
    """What the answers cost when they were made, where that was not paid again and is known."""
    ahead_usd: Decimal
    """What attempts cost that nobody was waiting for: refreshes and warming. Part of ``spent_usd``."""
    saved_unknown: int
    """Calls that saved a cost that is not known."""
    spent_usd: Decimal
    """What attempts cost, of those whose cost is known."""
    calls: int
    """Attempts that left for a provider; those under way are not among them."""
    calls_unpriced: int
    """Attempts that ended, and whose cost is not known."""
    calls_in_doubt: int
    """Attempts without an end that is known; they may have been charged."""
    in_doubt_usd: Decimal | None
    """The most that those can have cost; None when that is not known of each of them."""
    seconds_saved: float
    """What the answers took when they were made, where that was not waited for again."""

    @property
    def answered(self) -> int:
        """Calls that got an answer without a provider call of their own."""
        return self.hits + self.stale + self.collapsed

    @property
    def asked(self) -> int:
        """Calls that could have been answered so: the base of the hit rate. Bypasses and errors stand outside."""
        return self.answered + self.misses

    @property
    def hit_rate(self) -> float | None:
        """``answered / asked``; None at 0 / 0."""
        return self.answered / self.asked if self.asked else None

    @property
    def calls_avoided(self) -> int:
        """Calls for which no provider was asked."""
        return self.answered

    @property
    def saved_net_usd(self) -> Decimal:
        """Gross less ``ahead_usd``; it may be negative."""
        return self.saved_gross_usd - self.ahead_usd

    @property
    def coverage(self) -> float | None:
        """The share of attempts whose cost is known; None without attempts."""
        return (self.calls - self.calls_in_doubt - self.calls_unpriced) / self.calls if self.calls else None


def aggregates() -> dict[str, Aggregate]:
    """Return what to ask of rows of ``UsageBucket`` or ``TenantDay`` for ``sums_of``, as arguments of ``annotate``."""
    from django.db.models import Q, Sum

    counted = {name: Sum("count", filter=Q(outcome=outcome), default=0) for name, outcome in COUNTED.items()}
    summed = {name: Sum(name, default=0) for name in _SUMMED}
    ahead = Sum("spent_pico_usd", filter=Q(outcome__in=AHEAD), default=0)
    return {f"{_ALIAS}{name}": each for name, each in {**counted, **summed, "ahead_pico_usd": ahead}.items()}


def sums_of(row: Mapping[str, Any]) -> Sums:
    """Return the sums of one group, as the database tells them."""
    # PostgreSQL sums whole numbers to a Decimal.
    return Counter({name[len(_ALIAS) :]: int(row[name]) for name in row if name.startswith(_ALIAS)})


def added(parts: Iterable[Sums]) -> Sums:
    """Return the sum of sums."""
    total: Sums = Counter()
    for part in parts:
        total.update(part)
    return total


def totals_of(sums: Sums) -> Totals:
    """Return the figures that sums mean."""
    return Totals(
        **{name: sums[name] for name in COUNTED},
        saved_gross_usd=Decimal(sums["avoided_pico_usd"]) / PICO,
        ahead_usd=Decimal(sums["ahead_pico_usd"]) / PICO,
        saved_unknown=sums["avoided_unknown"],
        spent_usd=Decimal(sums["spent_pico_usd"]) / PICO,
        calls=sums["attempts"],
        calls_unpriced=sums["unpriced"],
        calls_in_doubt=sums["in_doubt"],
        in_doubt_usd=None if sums["in_doubt_unbounded"] else Decimal(sums["in_doubt_pico_usd"]) / PICO,
        seconds_saved=sums["saved_ms"] / 1_000,
    )
