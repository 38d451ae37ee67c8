"""The overview: everything that the dashboard and its JSON say of a period, from the sums by the hour and by the day.

No row of ``ProviderCall`` is read. ``docs/dashboard.md`` has each figure's formula.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from django.db.models import Min, Q
from django.db.models.query import QuerySet

from llmcache.engine import process
from llmcache.models import MAX_KIND, CacheEntry, TenantDay, UsageBucket
from llmcache.money.facts import cut, stored_time, unix_of
from llmcache.money.local_days import local_day
from llmcache.money.periods import Period, moment_now, today_in
from llmcache.money.pricing import PICO, dollars
from llmcache.money.projection import LEAST, Projection, project, window_of
from llmcache.money.totals import Sums, Totals, added, aggregates, sums_of, totals_of

TOP_ENTRIES: Final = 10
TENANTS: Final = 50
"""Tenants that are listed, those that saved most; there may be a million."""
FLUSH_SECONDS: Final = 0.5
"""How long a page waits for what this process knows to be in the database."""

_ONE_DAY: Final = timedelta(days=1)
_LAST_DAYS: Final = 30


@dataclass(frozen=True, slots=True)
class Day:
    """A day of the period; there is one for each, also without calls."""

    day: date
    totals: Totals


@dataclass(frozen=True, slots=True)
class Part:
    """The calls of the period that have a kind, a model or a tenant in common."""

    name: str
    """Empty for calls without a tenant."""
    totals: Totals


@dataclass(frozen=True, slots=True)
class TopEntry:
    """An entry whose hits avoided most, since it was first written: not in the period alone."""

    pk: int
    key: str
    kind: str
    model: str
    tenant: str
    hits: int
    cost_usd: Decimal | None
    """What making it cost; None when that is not known."""
    saved_usd: Decimal
    simulated: bool


@dataclass(frozen=True, slots=True)
class Months:
    """The three figures of monthly savings. They are of today, whatever the period."""

    today: date
    first: date
    """The month's first day."""
    to_date: Totals
    """From the first of the month to now."""
    last_30: Totals
    """The last thirty full days: today is not among them."""
    last_30_first: date
    last_30_last: date
    projected: Projection | None
    """None before the third complete day."""
    complete_days: int
    """Complete days that a projection can look back at."""
    least_days: int
    """Complete days without which there is none."""


@dataclass(frozen=True, slots=True)
class Overview:
    """What calls came to in a period."""

    period: Period
    kind: str | None
    """The kind that it is of; None for all."""
    kinds: list[str]
    """Kinds of which there are calls in the period, and the one that was asked for."""
    totals: Totals
    previous: Totals
    """Of as many days before the period."""
    days: list[Day]
    by_kind: list[Part]
    by_model: list[Part]
    by_tenant: list[Part] | None
    """By days of UTC; at most ``TENANTS``. None with a kind: sums by tenant are not kept for each kind."""
    more_tenants: bool
    """There are others, that saved less than those."""
    top_entries: list[TopEntry]
    months: Months
    simulated: bool
    """Some figures of the period, the months or the top entries were recorded on a simulated clock."""
    first_day: date | None
    """The first day with a call, of any kind; None without one."""
    as_of: datetime
    """Aware: when the database was asked."""
    flushed: bool
    """All that this process knew was in the database. False also where it was not tried."""
    lines_lost: int
    """Lines of journals that this process had to drop, or could not read; they are in none of the figures."""

    @property
    def tenants_by_utc(self) -> bool:
        """Whether the days of ``by_tenant`` are not those of all other figures."""
        return self.period.zone.key not in ("UTC", "Etc/UTC")

    def as_dict(self) -> dict[str, Any]:
        """Return the same for JSON: money as a string that is exact, days and times by ISO 8601."""
        period = self.period
        told = _plain(self)
        told["period"] = {
            "first": period.first.isoformat(),
            "last": period.last.isoformat(),
            "zone": period.zone.key,
            "preset": period.preset,
        }
        told["tenants_by_utc"] = self.tenants_by_utc
        return told


def overview(period: Period, kind: str | None = None, *, flush: bool = True, now: datetime | None = None) -> Overview:
    """Return what calls came to in a period, of one kind or of all.

    ``flush``: bring in first what this process knows, for half a second at most. ``now``: an aware time in place of the
    clock's, from which months are told. Costs six queries, one less with a kind, whatever is in the tables. Raises the
    database's errors.
    """
    flushed = _flush() if flush else False
    as_of = now or moment_now()
    name = cut(kind, MAX_KIND) if kind else None
    today = today_in(period.zone, as_of)
    made = _by_day(_spans(period, today), name)
    # Apart: it takes no days, and to tell days apart is what costs most.
    previous = _in_all(period.previous(), name)
    parts = _by_part(period)
    tenants = None if name else _by_tenant(period)
    top = [*_top_entries(name)]
    first_day = _first_day(period)
    ours = {group: sums for group, sums in parts.items() if name in (None, group[0])}
    return Overview(
        period=period,
        kind=name,
        kinds=sorted({group[0] for group in parts} | ({name} if name else set())),
        totals=totals_of(made.of(period)),
        previous=totals_of(previous),
        days=[Day(day, totals_of(made.days[day])) for day in period],
        by_kind=_parts(ours, lambda group: group[0]),
        by_model=_parts(ours, lambda group: group[1]),
        by_tenant=None if tenants is None else tenants[:TENANTS],
        more_tenants=tenants is not None and len(tenants) > TENANTS,
        top_entries=top,
        months=_months(made, first_day, today),
        simulated=made.simulated or any(entry.simulated for entry in top),
        first_day=first_day,
        as_of=as_of,
        flushed=flushed,
        lines_lost=process.current().lines_lost,
    )


def _flush() -> bool:
    from llmcache.flushing import flush

    return flush(FLUSH_SECONDS)


@dataclass(slots=True)
class _Made:
    """Sums by the day."""

    days: defaultdict[date, Sums]
    simulated: bool = False

    def of(self, days: Iterable[date]) -> Sums:
        return added(self.days[day] for day in days if day in self.days)


def _rows(model: type[UsageBucket | TenantDay | CacheEntry]) -> QuerySet[Any]:
    return model._default_manager.using(process.current().settings.database).order_by()


def _spans(period: Period, today: date) -> list[Period]:
    """Return the days that are asked for, in as few spans as cover them."""
    months = min(today.replace(day=1), today - _LAST_DAYS * _ONE_DAY)
    spans = sorted(((period.first, period.last), (months, today)))
    (first, last), (next_first, next_last) = spans
    if next_first <= last + _ONE_DAY:
        return [Period(first, max(last, next_last), period.zone)]
    return [Period(*span, period.zone) for span in spans]


def _within(spans: Iterable[Period]) -> Q:
    found = Q()
    for span in spans:
        began, ended = span.bounds
        found |= Q(hour__gte=stored_time(began), hour__lt=stored_time(ended))
    return found


def _of_kind(rows: QuerySet[Any], kind: str | None) -> QuerySet[Any]:
    return rows if kind is None else rows.filter(kind=kind)


def _in_all(period: Period, kind: str | None) -> Sums:
    rows = _of_kind(_rows(UsageBucket).filter(_within([period])), kind)
    return sums_of(rows.aggregate(**aggregates()))


def _by_day(spans: list[Period], kind: str | None) -> _Made:
    rows = _of_kind(_rows(UsageBucket).filter(_within(spans)), kind)
    day = local_day("hour", spans[0].zone, spans[0].first, spans[-1].last, rows.db)
    made = _Made(defaultdict(Sums))
    for row in rows.values("simulated", local_day=day).annotate(**aggregates()):
        made.days[row["local_day"]].update(sums_of(row))
        made.simulated = made.simulated or row["simulated"]
    return made


def _by_part(period: Period) -> dict[tuple[str, str], Sums]:
    rows = _rows(UsageBucket).filter(_within([period]))
    found = rows.values("kind", "model").annotate(**aggregates())
    return {(row["kind"], row["model"]): sums_of(row) for row in found}


def _parts(groups: Mapping[tuple[str, str], Sums], name_of: Callable[[tuple[str, str]], str]) -> list[Part]:
    made: defaultdict[str, Sums] = defaultdict(Sums)
    for group, sums in groups.items():
        made[name_of(group)].update(sums)
    parts = [Part(name, totals_of(sums)) for name, sums in made.items()]
    return sorted(parts, key=lambda part: (-part.totals.saved_net_usd, -part.totals.spent_usd, part.name))


def _by_tenant(period: Period) -> list[Part]:
    """Return the tenants that saved most, and one more than are shown."""
    rows = _rows(TenantDay).filter(day__gte=period.first, day__lte=period.last)
    found = rows.values("tenant").annotate(**aggregates())
    first = found.order_by("-sum_avoided_pico_usd", "-sum_spent_pico_usd", "tenant")[: TENANTS + 1]
    return [Part(row["tenant"], totals_of(sums_of(row))) for row in first]


def _top_entries(kind: str | None) -> Iterable[TopEntry]:
    rows = _of_kind(_rows(CacheEntry).filter(saved_pico_usd__gt=0), kind)
    names = ("pk", "key", "kind", "model", "tenant", "hits", "simulated", "cost_pico_usd", "saved_pico_usd")
    for row in rows.order_by("-saved_pico_usd").values(*names)[:TOP_ENTRIES]:
        saved, cost = Decimal(row.pop("saved_pico_usd")) / PICO, dollars(row.pop("cost_pico_usd"))
        yield TopEntry(**row, cost_usd=cost, saved_usd=saved)


def _first_day(period: Period) -> date | None:
    found = _rows(UsageBucket).aggregate(first=Min("hour"))["first"]
    return None if found is None else today_in(period.zone, datetime.fromtimestamp(unix_of(found), UTC))


def _months(made: _Made, began: date | None, today: date) -> Months:
    first = today.replace(day=1)
    last_30 = [today - number * _ONE_DAY for number in range(_LAST_DAYS, 0, -1)]
    complete = window_of(began, today)
    to_date = made.of(first + number * _ONE_DAY for number in range(today.day))
    nets = [_net(made.days[today - number * _ONE_DAY]) for number in range(complete, 0, -1)]
    return Months(
        today=today,
        first=first,
        to_date=totals_of(to_date),
        last_30=totals_of(made.of(last_30)),
        last_30_first=last_30[0],
        last_30_last=last_30[-1],
        projected=project(_net(to_date), nets, today),
        complete_days=complete,
        least_days=LEAST,
    )


def _net(sums: Sums) -> int:
    return sums["avoided_pico_usd"] - sums["ahead_pico_usd"]


_DERIVED: Final = ("answered", "asked", "hit_rate", "calls_avoided", "saved_net_usd", "coverage")


def _plain(value: Any) -> Any:
    match value:
        case Decimal():
            return format(value, "f")
        case date():
            return value.isoformat()
        case list():
            return [_plain(each) for each in value]
        case Totals():
            names = [*(field.name for field in fields(value)), *_DERIVED]
        case Day() | Part() | TopEntry() | Months() | Projection() | Overview():
            names = [field.name for field in fields(value) if field.name != "period"]
        case _:
            return value
    return {name: _plain(getattr(value, name)) for name in names}
