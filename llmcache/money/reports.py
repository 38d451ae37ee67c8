"""Reports: what calls came to, from the hourly sums."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, overload

from asgiref.sync import markcoroutinefunction, sync_to_async

from llmcache.exceptions import InvalidRequest
from llmcache.money.totals import Sums, aggregates, sums_of, totals_of
from llmcache.tiers.base import TierState

if TYPE_CHECKING:
    from llmcache.models import TenantDay, UsageBucket

By = Literal["kind", "model", "tier", "tenant"]

_LAST_YEAR: Final = 9_999
_BY: Final = ("kind", "model", "tier", "tenant")


@dataclass(frozen=True, slots=True)
class Stats:
    """What calls came to."""

    hits: int
    """Calls answered from a tier."""
    stale: int
    """Calls answered with an entry past its time."""
    misses: int
    """Calls that asked a provider for what was not there."""
    collapsed: int
    """Calls answered by another call's provider call that was under way."""
    bypasses: int
    """Calls that were to ask and not to store: ``cache="bypass"`` or ``ttl=0``."""
    errors: int
    """Calls that raised."""
    hit_rate: float | None
    """(hits + stale + collapsed) / (those + misses); None without calls. Bypasses and errors stand outside."""
    seconds_saved: float
    """What the answers took when they were made, where that was not waited for again."""
    spent_usd: Decimal
    """What attempts cost, of those whose cost is known."""
    saved_usd: Decimal
    """What the answers cost when they were made, where that was not paid again and is known."""
    saved_unknown: int
    """Calls that saved a cost that is not known."""
    calls: int
    """Attempts that left for a provider; those under way are not among them."""
    calls_in_doubt: int
    """Attempts without an end that is known; they may have been charged."""
    in_doubt_usd: Decimal | None
    """The most that those can have cost; None when that is not known of each of them."""
    calls_unpriced: int
    """Attempts that ended, and whose cost is not known."""
    lines_lost: int = 0
    """Lines of journals that this process had to drop, or could not read: what they said is in none of the figures.
    Only in the whole, not in a part ``by``."""
    tiers: tuple[TierState, ...] = field(default=(), compare=False)
    """How each tier has fared in this process, fastest first; no tier is asked. Only in the whole, and no figure: it
    is not compared."""

    @property
    def coverage(self) -> float | None:
        """The share of attempts whose cost is known; None without attempts."""
        return (self.calls - self.calls_in_doubt - self.calls_unpriced) / self.calls if self.calls else None


@overload
def stats(since: datetime | timedelta | None = None, by: None = None) -> Stats: ...
@overload
def stats(since: datetime | timedelta | None = None, *, by: By) -> dict[str, Stats]: ...
def stats(since: datetime | timedelta | None = None, by: By | None = None) -> Stats | dict[str, Stats]:
    """Return what calls came to, of all processes, after a ``flush``; with ``by`` for each of its values.

    ``since``: an aware datetime, or a timedelta back from now; the hour that it lies in counts whole, and by tenant the
    day (UTC). None: since the beginning. ``by``: ``"kind"``, ``"model"``, ``"tier"`` or ``"tenant"``; what has none is
    under ``""``, and by tier no part has a hit rate that means something, for misses have no tier. Costs one query.
    Where ``flush`` returns False, as inside a transaction on SQLite, the figures are those of the last time that it
    did not. Raises ``InvalidRequest`` for other arguments, ``AsyncContext``, and the database's own errors.
    """
    if by is not None and by not in _BY:
        raise InvalidRequest(f"by= must be one of {', '.join(map(repr, _BY))}, or None; got {by!r}.")
    from llmcache.engine import process
    from llmcache.flushing import flush, require_no_loop

    require_no_loop("stats")
    start = _start(since)
    flush()
    sums = _sums(start, by)
    if by is None:
        now = process.current()
        return replace(_stats(sums[""]), lines_lost=now.lines_lost, tiers=tuple(now.tiers.states()))
    return {name: _stats(made) for name, made in sorted(sums.items())}


@overload
def astats(since: datetime | timedelta | None = None, by: None = None) -> Coroutine[Any, Any, Stats]: ...
@overload
def astats(since: datetime | timedelta | None = None, *, by: By) -> Coroutine[Any, Any, dict[str, Stats]]: ...
@markcoroutinefunction
def astats(
    since: datetime | timedelta | None = None, by: By | None = None
) -> Coroutine[Any, Any, Stats | dict[str, Stats]]:
    """Do as ``stats``, awaited."""
    ask: Any = stats
    return sync_to_async(ask)(since, by=by)


def _start(since: datetime | timedelta | None) -> datetime | None:
    if since is None:
        return None
    try:
        if isinstance(since, timedelta):
            since = datetime.now(UTC) - since
        if isinstance(since, datetime) and since.tzinfo is not None:
            return since.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    except OverflowError:
        # Before the calendar begins is the beginning; after its end there is nothing to report.
        if since > timedelta(0) if isinstance(since, timedelta) else since.year < _LAST_YEAR:
            return None
    raise InvalidRequest("since= must be a datetime with a time zone, a timedelta, or None.")


def _sums(start: datetime | None, by: By | None) -> dict[str, Sums]:
    from llmcache.engine import process
    from llmcache.models import TenantDay, UsageBucket
    from llmcache.money.facts import stored_time

    table: type[TenantDay | UsageBucket] = TenantDay if by == "tenant" else UsageBucket
    rows = table._default_manager.using(process.current().settings.database).order_by()
    if start is not None:
        since = {"day__gte": start.date()} if by == "tenant" else {"hour__gte": stored_time(start.timestamp())}
        rows = rows.filter(**since)
    if by is None:
        return {"": sums_of(rows.aggregate(**aggregates()))}
    return {row[by]: sums_of(row) for row in rows.values(by).annotate(**aggregates())}


def _stats(sums: Sums) -> Stats:
    totals = totals_of(sums)
    return Stats(
        hits=totals.hits,
        stale=totals.stale,
        misses=totals.misses,
        collapsed=totals.collapsed,
        bypasses=totals.bypasses,
        errors=totals.errors,
        hit_rate=totals.hit_rate,
        seconds_saved=totals.seconds_saved,
        spent_usd=totals.spent_usd,
        saved_usd=totals.saved_gross_usd,
        saved_unknown=totals.saved_unknown,
        calls=totals.calls,
        calls_in_doubt=totals.calls_in_doubt,
        in_doubt_usd=totals.in_doubt_usd,
        calls_unpriced=totals.calls_unpriced,
    )
