"""The overview of a period: each figure against sums over rows, made by hand or by the ledger's own functions."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connections, models, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

import llmcache
from llmcache.engine.counts import Collected, Tally
from llmcache.models import CacheEntry, ProviderCall, TenantDay, UsageBucket
from llmcache.money.facts import stored_time, unix_of
from llmcache.money.ledger import add_counts
from llmcache.money.overview import TENANTS, Overview, overview
from llmcache.money.periods import Period
from llmcache.money.totals import Totals
from llmcache.testing.sandbox import Sandbox, faults
from tests.conftest import MovedClock, llmcache_settings
from tests.flows.test_costs import SANDBOX_PRICES
from tests.unit.ledger_records import bring, failed, rejected, settled, started, stored

USD = 10**12
UTC_ZONE, BERLIN, NEW_YORK = (ZoneInfo(name) for name in ("UTC", "Europe/Berlin", "America/New_York"))
NOON = datetime(2026, 11, 11, 12, tzinfo=UTC)


class Person(BaseModel):
    """A person."""

    name: str


def seen(first: str, last: str, zone: ZoneInfo = UTC_ZONE, kind: str | None = None, now: datetime = NOON) -> Overview:
    period = Period(date.fromisoformat(first), date.fromisoformat(last), zone)
    return overview(period, kind, flush=False, now=now)


def bucket(using: str, at: str | datetime, outcome: str = "hit", **values: Any) -> None:
    """Make the row of an hour and its tenant's day; ``at`` is by UTC."""
    moment = datetime.fromisoformat(at).replace(tzinfo=UTC) if isinstance(at, str) else at
    tenant = values.pop("tenant", "")
    made = {"kind": "Ticket", "model": "openai/m", "tier": "", "count": 1, **values}
    UsageBucket.objects.using(using).create(hour=stored_time(moment.timestamp()), outcome=outcome, **made)
    day = {name: value for name, value in made.items() if name not in ("kind", "model", "tier")}
    found, new = TenantDay.objects.using(using).get_or_create(
        day=moment.date(), tenant=tenant, outcome=outcome, simulated=made.get("simulated", False), defaults=day
    )
    if not new:
        for name, value in day.items():
            if name != "simulated":
                setattr(found, name, getattr(found, name) + value)
        found.save(using=using)


def by_hand(rows: Iterable[UsageBucket | TenantDay]) -> dict[str, Any]:
    """Return the figures of rows, by the formulas of the papers and by nothing of the package."""
    counts: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    for row in rows:
        counts[row.outcome] += row.count
        for name in ("avoided_pico_usd", "avoided_unknown", "saved_ms", "attempts", "spent_pico_usd", "unpriced"):
            sums[name] += getattr(row, name)
        for name in ("in_doubt", "in_doubt_pico_usd", "in_doubt_unbounded"):
            sums[name] += getattr(row, name)
        if row.outcome in ("refresh", "warming"):
            sums["ahead"] += row.spent_pico_usd
    answered = counts["hit"] + counts["stale"] + counts["collapsed"]
    asked = answered + counts["miss"]
    priced = sums["attempts"] - sums["in_doubt"] - sums["unpriced"]
    return {
        "hits": counts["hit"],
        "stale": counts["stale"],
        "misses": counts["miss"],
        "collapsed": counts["collapsed"],
        "bypasses": counts["bypass"],
        "errors": counts["error"],
        "answered": answered,
        "asked": asked,
        "hit_rate": answered / asked if asked else None,
        "calls_avoided": answered,
        "saved_gross_usd": Decimal(sums["avoided_pico_usd"]) / USD,
        "saved_net_usd": Decimal(sums["avoided_pico_usd"] - sums["ahead"]) / USD,
        "ahead_usd": Decimal(sums["ahead"]) / USD,
        "saved_unknown": sums["avoided_unknown"],
        "spent_usd": Decimal(sums["spent_pico_usd"]) / USD,
        "calls": sums["attempts"],
        "calls_unpriced": sums["unpriced"],
        "calls_in_doubt": sums["in_doubt"],
        "in_doubt_usd": None if sums["in_doubt_unbounded"] else Decimal(sums["in_doubt_pico_usd"]) / USD,
        "coverage": priced / sums["attempts"] if sums["attempts"] else None,
        "seconds_saved": sums["saved_ms"] / 1_000,
    }


def figures(totals: Totals) -> dict[str, Any]:
    """Return every figure, those that follow from others included."""
    derived = ("answered", "asked", "hit_rate", "calls_avoided", "saved_net_usd", "coverage")
    return {**dataclasses.asdict(totals), **{name: getattr(totals, name) for name in derived}}


# Nothing, and little


def test_without_a_row_there_are_dashes_and_zeros(ledger: str) -> None:
    found = seen("2026-11-01", "2026-11-11")
    assert figures(found.totals) == figures(found.previous) == by_hand([])
    assert (found.totals.hit_rate, found.totals.coverage, found.totals.in_doubt_usd) == (None, None, 0)
    assert [day.day.day for day in found.days] == [*range(1, 12)]
    assert (found.by_kind, found.by_model, found.by_tenant, found.top_entries, found.kinds) == ([], [], [], [], [])
    assert (found.months.projected, found.months.complete_days, found.first_day) == (None, 0, None)
    assert (found.simulated, found.flushed, found.more_tenants) == (False, False, False)


def test_net_is_gross_less_what_nobody_waited_for_and_may_be_negative(ledger: str) -> None:
    bucket(ledger, "2026-11-10T08", "hit", count=3, avoided_pico_usd=5 * USD)
    bucket(ledger, "2026-11-10T08", "miss", count=1, attempts=1, spent_pico_usd=2 * USD)
    bucket(ledger, "2026-11-10T09", "refresh", count=0, attempts=2, spent_pico_usd=4 * USD)
    bucket(ledger, "2026-11-10T09", "warming", count=0, attempts=3, spent_pico_usd=3 * USD)
    found = seen("2026-11-10", "2026-11-10").totals
    assert (found.saved_gross_usd, found.ahead_usd, found.saved_net_usd, found.spent_usd) == (5, 7, -2, 9)
    assert (found.answered, found.asked, found.hit_rate, found.calls) == (3, 4, 0.75, 6)


def test_bypasses_and_errors_stand_outside_the_hit_rate(ledger: str) -> None:
    for number, outcome in enumerate(["hit", "stale", "collapsed", "miss", "bypass", "error"]):
        bucket(ledger, "2026-11-10T08", outcome, count=10**number)
    found = seen("2026-11-10", "2026-11-10").totals
    assert (found.answered, found.asked, found.hit_rate) == (111, 1111, 111 / 1111)
    assert (found.bypasses, found.errors) == (10_000, 100_000)


def test_sums_beyond_a_floats_digits_are_exact(ledger: str) -> None:
    for hour in range(3):
        bucket(ledger, f"2026-11-10T0{hour}", avoided_pico_usd=2**61 + 1)
    assert seen("2026-11-10", "2026-11-10").totals.saved_gross_usd == Decimal(3 * (2**61 + 1)) / USD


# Days of a zone


@pytest.mark.parametrize(
    ("zone", "inside", "outside"),
    [
        # The hours before and after a month in Berlin; the 25th has 25 hours.
        (
            BERLIN,
            ["2026-09-30T22", "2026-10-25T00", "2026-10-25T01", "2026-10-31T22"],
            ["2026-09-30T21", "2026-10-31T23"],
        ),
        (NEW_YORK, ["2026-10-01T04", "2026-11-01T03"], ["2026-10-01T03", "2026-11-01T04"]),
        (UTC_ZONE, ["2026-10-01T00", "2026-10-31T23"], ["2026-09-30T23", "2026-11-01T00"]),
        # Five hours and a half before: the hour that begins at 18:00 by UTC begins in the day before.
        (ZoneInfo("Asia/Kolkata"), ["2026-09-30T19", "2026-10-31T18"], ["2026-09-30T18", "2026-10-31T19"]),
    ],
    ids=lambda value: getattr(value, "key", ""),
)
def test_a_month_ends_where_the_next_one_begins(
    ledger: str, zone: ZoneInfo, inside: list[str], outside: list[str]
) -> None:
    for hour in (*inside, *outside):
        bucket(ledger, hour)
    found = seen("2026-10-01", "2026-10-31", zone)
    assert found.totals.hits == sum(day.totals.hits for day in found.days) == len(inside)
    assert [part.totals.hits for part in (*found.by_kind, *found.by_model)] == [len(inside)] * 2
    assert found.previous.hits + seen("2026-11-01", "2026-11-30", zone).totals.hits == len(outside)
    assert (found.days[0].totals.hits, found.days[-1].totals.hits) == (1, 1)


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        (BERLIN, "2026-03-29", 23),
        (BERLIN, "2026-10-25", 25),
        (NEW_YORK, "2026-03-08", 23),
        (NEW_YORK, "2026-11-01", 25),
        (NEW_YORK, "2028-02-29", 24),
        (ZoneInfo("America/Havana"), "2026-11-01", 25),
        (ZoneInfo("Asia/Beirut"), "2026-03-29", 23),
    ],
)
def test_a_day_has_the_hours_that_its_clocks_show(ledger: str, zone: ZoneInfo, day: str, hours: int) -> None:
    middle = datetime.fromisoformat(day).replace(hour=12, tzinfo=UTC)
    for hour in range(-90, 61):
        bucket(ledger, middle + timedelta(hours=hour))
    tomorrow = date.fromisoformat(day) + timedelta(days=1)
    found = seen(day, tomorrow.isoformat(), zone, now=middle + timedelta(days=20))
    assert [each.totals.hits for each in found.days] == [hours, 24]
    assert found.previous.hits == 48


ZONES = [
    *("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe"),
    *("America/Havana", "Asia/Beirut", "Pacific/Apia", "Pacific/Marquesas", "America/St_Johns"),
]
AMOUNTS = st.integers(0, 10**15)
BUCKETS = st.lists(
    st.tuples(
        st.integers(-24 * 30, 24 * 30),
        st.sampled_from(["A", "B", "b", "ß"]),
        st.sampled_from(["openai/m", "openai/n"]),
        st.sampled_from(["hit", "stale", "miss", "collapsed", "bypass", "error", "refresh", "warming"]),
        st.booleans(),
        st.fixed_dictionaries(
            {
                "count": st.integers(0, 50),
                "attempts": st.integers(0, 50),
                **dict.fromkeys(["avoided_pico_usd", "spent_pico_usd", "in_doubt_pico_usd"], AMOUNTS),
                **dict.fromkeys(["avoided_unknown", "unpriced", "in_doubt", "in_doubt_unbounded"], st.integers(0, 3)),
                "saved_ms": st.integers(0, 10**6),
            }
        ),
    ),
    max_size=25,
    unique_by=lambda made: made[:5],
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    buckets=BUCKETS,
    zone=st.sampled_from(ZONES),
    turn=st.sampled_from(["2026-03-28", "2026-10-31", "2011-12-30"]),
    first=st.integers(-20, 20),
    days=st.integers(1, 20),
    kind=st.sampled_from([None, "A", "b"]),
)
def test_every_figure_is_the_sum_of_its_rows(
    ledger: str, buckets: list[Any], zone: str, turn: str, first: int, days: int, kind: str | None
) -> None:
    place, middle = ZoneInfo(zone), datetime.fromisoformat(turn).replace(hour=12, tzinfo=UTC)
    with transaction.atomic(using=ledger):
        for hour, kind_of, model, outcome, simulated, sums in buckets:
            at = middle + timedelta(hours=hour)
            UsageBucket.objects.using(ledger).create(
                hour=at, kind=kind_of, model=model, outcome=outcome, simulated=simulated, **sums
            )
        start = middle.date() + timedelta(days=first)
        period = Period(start, start + timedelta(days=days - 1), place)
        found = overview(period, kind, flush=False, now=middle + timedelta(days=5))
        rows = [(row.hour.astimezone(place).date(), row) for row in UsageBucket.objects.using(ledger).all()]
        transaction.set_rollback(True, using=ledger)
    ours = [(day, row) for day, row in rows if kind in (None, row.kind)]
    inside = [row for day, row in ours if period.first <= day <= period.last]
    assert figures(found.totals) == by_hand(inside)
    for each in found.days:
        assert figures(each.totals) == by_hand(row for day, row in ours if day == each.day)
    before = period.previous()
    assert figures(found.previous) == by_hand(row for day, row in ours if before.first <= day <= before.last)
    for parts, name in ((found.by_kind, "kind"), (found.by_model, "model")):
        assert {part.name for part in parts} == {getattr(row, name) for row in inside}
        for part in parts:
            assert figures(part.totals) == by_hand(row for row in inside if getattr(row, name) == part.name)
    months, today = found.months, found.months.today
    assert figures(months.to_date) == by_hand(row for day, row in ours if months.first <= day <= today)
    assert figures(months.last_30) == by_hand(row for day, row in ours if today - timedelta(days=30) <= day < today)
    assert found.first_day == min((day for day, _ in rows), default=None)


@pytest.mark.django_db
@pytest.mark.parametrize("project", ["UTC", "Asia/Kolkata", "America/New_York"])
@pytest.mark.parametrize("zone", [None, "Europe/Berlin", "America/New_York"])
def test_a_project_whose_database_keeps_naive_times(project: str, zone: str | None) -> None:
    with override_settings(USE_TZ=False, TIME_ZONE=project), llmcache_settings(TIME_ZONE=zone):
        at = datetime(2026, 10, 24, 3, tzinfo=UTC)
        hours = [at + timedelta(hours=hour) for hour in range(24 * 10)]
        for hour in hours:
            # Two hours are one row where the project's clocks go back between them.
            stored = stored_time(hour.timestamp())
            row, _ = UsageBucket.objects.get_or_create(hour=stored, kind="A", model="m", outcome="hit", tier="")
            UsageBucket.objects.filter(pk=row.pk).update(count=models.F("count") + 1)
        place = ZoneInfo(zone or project)
        expected: Counter[date] = Counter()
        for row in UsageBucket.objects.all():
            expected[datetime.fromtimestamp(unix_of(row.hour), place).date()] += row.count
        found = seen("2026-10-20", "2026-11-05", place)
        assert {day.day: day.totals.hits for day in found.days if day.totals.hits} == dict(expected)
        assert found.totals.hits == len(hours)
        assert found.first_day == at.astimezone(place).date()


# Months


def test_the_three_figures_of_monthly_savings(ledger: str) -> None:
    """Today is 11 November in Berlin; there have been calls since 8 November, and none on the 9th."""
    net = {"2026-11-08T10": 4, "2026-11-10T10": 2, "2026-11-11T10": 100}
    for at, dollars in net.items():
        bucket(ledger, at, avoided_pico_usd=dollars * USD)
    months = seen("2026-01-01", "2026-01-02", BERLIN).months
    assert (months.today, months.first) == (date(2026, 11, 11), date(2026, 11, 1))
    assert months.to_date.saved_net_usd == 106
    assert months.last_30.saved_net_usd == 6
    assert (months.last_30_first, months.last_30_last) == (date(2026, 10, 12), date(2026, 11, 10))
    assert months.projected is not None
    # Today is not in the mean, the day without a call is, and the days before the first call are not.
    assert (months.projected.mean_usd, months.projected.days, months.projected.days_left) == (2, 3, 19)
    assert months.projected.net_usd == 106 + 2 * 19
    assert (months.projected.first, months.projected.last) == (date(2026, 11, 8), date(2026, 11, 10))


@pytest.mark.parametrize(("first", "complete", "shown"), [("11", 0, False), ("09", 2, False), ("08", 3, True)])
def test_a_projection_is_shown_from_the_third_complete_day(ledger: str, first: str, complete: int, shown: bool) -> None:
    bucket(ledger, f"2026-11-{first}T10", avoided_pico_usd=USD)
    months = seen("2026-11-01", "2026-11-11").months
    assert (months.complete_days, months.projected is not None, months.least_days) == (complete, shown, 3)


def test_at_most_four_weeks_are_looked_back_at_across_a_year(ledger: str) -> None:
    bucket(ledger, "2026-12-07T23", avoided_pico_usd=999 * USD)
    for number in range(28):
        at = datetime(2026, 12, 8, 10, tzinfo=UTC) + timedelta(days=number)
        bucket(ledger, at, avoided_pico_usd=3 * USD)
    months = seen("2027-01-01", "2027-01-05", now=datetime(2027, 1, 5, 9, tzinfo=UTC)).months
    assert months.projected is not None
    assert (months.projected.mean_usd, months.projected.days) == (3, 28)
    # 1 to 4 January, and 26 days that are left.
    assert (months.to_date.saved_net_usd, months.projected.net_usd) == (12, 12 + 26 * 3)
    assert months.last_30.saved_net_usd == 999 + 28 * 3


@pytest.mark.parametrize(
    ("today", "days"),
    [(date(2028, 2, 29), 29), (date(2027, 2, 28), 28), (date(2026, 10, 31), 31), (date(2026, 11, 30), 30)],
)
def test_on_the_last_day_of_a_month_the_projection_is_what_is_there(ledger: str, today: date, days: int) -> None:
    first = datetime(today.year, today.month, 1, 5, tzinfo=UTC)
    for number in range(-1, days + 1):
        # One day of the month before and one of the next are not in it.
        bucket(ledger, first + timedelta(days=number), avoided_pico_usd=(number + 2) * USD)
    now = datetime(today.year, today.month, today.day, 23, 59, tzinfo=UTC)
    months = seen(today.isoformat(), today.isoformat(), now=now).months
    assert months.projected is not None
    assert months.projected.net_usd == months.to_date.saved_net_usd == sum(range(2, days + 2))
    assert months.projected.low_usd == months.projected.high_usd == months.projected.net_usd


def test_months_are_those_of_the_zone(ledger: str) -> None:
    """Half past eleven in the evening of 31 October in New York is November in Berlin."""
    bucket(ledger, "2026-10-31T23", avoided_pico_usd=USD)
    bucket(ledger, "2026-11-01T03", avoided_pico_usd=2 * USD)
    now = datetime(2026, 11, 1, 3, 30, tzinfo=UTC)
    found = {zone: seen("2026-11-01", "2026-11-01", zone, now=now).months for zone in (NEW_YORK, BERLIN)}
    assert [months.first for months in found.values()] == [date(2026, 10, 1), date(2026, 11, 1)]
    assert [months.to_date.saved_net_usd for months in found.values()] == [3, 3]
    assert [months.last_30.saved_net_usd for months in found.values()] == [0, 0]


# Parts


def test_parts_come_with_those_first_that_saved_most(ledger: str) -> None:
    for number, kind in enumerate(["c", "a", "b", "d"]):
        bucket(ledger, "2026-11-10T08", kind=kind, model=f"m/{kind}", avoided_pico_usd=number % 3 * USD)
    found = seen("2026-11-10", "2026-11-10")
    assert [part.name for part in found.by_kind] == ["b", "a", "c", "d"]
    assert [part.name for part in found.by_model] == ["m/b", "m/a", "m/c", "m/d"]
    assert found.kinds == ["a", "b", "c", "d"]


def test_a_kind_is_a_filter_of_everything_but_tenants(ledger: str) -> None:
    for kind, tenant in (("A", "acme"), ("B", "globex")):
        bucket(ledger, "2026-11-10T08", kind=kind, model=f"m/{kind}", tenant=tenant, avoided_pico_usd=USD)
        entry(ledger, kind, saved_pico_usd=USD)
    found = seen("2026-11-10", "2026-11-10", kind="A")
    assert (found.kind, found.kinds, found.totals.hits) == ("A", ["A", "B"], 1)
    assert [part.name for part in found.by_kind] == ["A"]
    assert [part.name for part in found.by_model] == ["m/A"]
    assert [top.kind for top in found.top_entries] == ["A"]
    assert found.months.to_date.hits == found.months.last_30.hits == 1
    assert found.by_tenant is None
    assert (found.as_dict()["by_tenant"], found.more_tenants) == (None, False)
    assert [part.name for part in seen("2026-11-10", "2026-11-10").by_tenant or ()] == ["acme", "globex"]


@pytest.mark.parametrize("kind", ["nobody's", "A\0", "\ud800", "x" * 10_240, "' OR 1=1 --", "%", "a"])
def test_a_kind_that_there_is_not(ledger: str, kind: str) -> None:
    bucket(ledger, "2026-11-10T08", kind="A")
    found = seen("2026-11-10", "2026-11-10", kind=kind)
    assert (found.totals.asked, found.by_kind, found.top_entries) == (0, [], [])
    assert found.kind is not None
    assert found.kinds == sorted(["A", found.kind])
    assert len(found.kind) <= 100
    json.dumps(found.as_dict()).encode()


def test_no_kind_and_an_empty_one_are_all_kinds(ledger: str) -> None:
    bucket(ledger, "2026-11-10T08", kind="A")
    found = seen("2026-11-10", "2026-11-10", kind="")
    assert (found.kind, found.totals.hits) == (None, 1)


def test_tenants_are_by_days_of_utc_and_the_first_of_them_are_told(ledger: str) -> None:
    for number in range(TENANTS + 1):
        bucket(ledger, "2026-11-10T23", kind=f"k{number}", tenant=f"t{number:02}", avoided_pico_usd=(number + 1) * USD)
    found = seen("2026-11-10", "2026-11-10", BERLIN)
    assert found.totals.hits == 0
    assert found.tenants_by_utc
    assert found.by_tenant is not None
    assert [part.name for part in found.by_tenant] == [f"t{number:02}" for number in range(TENANTS, 0, -1)]
    assert found.by_tenant[0].totals.saved_gross_usd == TENANTS + 1
    assert found.more_tenants
    assert not seen("2026-11-11", "2026-11-11", UTC_ZONE).tenants_by_utc


def entry(using: str, kind: str = "Ticket", **values: Any) -> CacheEntry:
    number = CacheEntry.objects.using(using).count()
    made: dict[str, Any] = {
        "namespace": "shop",
        "key": f"{number:064x}",
        "model": "openai/m",
        "written_at": NOON,
        "size_bytes": 1,
        "latency_ms": 1,
        "attempts": 1,
    }
    return CacheEntry.objects.using(using).create(kind=kind, **{**made, **values})


def test_the_ten_entries_that_saved_most(ledger: str) -> None:
    for number in range(13):
        entry(
            ledger, saved_pico_usd=number % 12 * USD, hits=number, cost_pico_usd=USD if number else None, tenant="acme"
        )
    found = seen("2026-01-01", "2026-01-01").top_entries
    assert [top.saved_usd for top in found] == [*range(11, 1, -1)]
    top = found[0]
    assert (top.hits, top.cost_usd, top.key, top.kind, top.model, top.tenant, top.simulated) == (
        *(11, 1, f"{11:064x}", "Ticket", "openai/m", "acme", False),
    )
    CacheEntry.objects.using(ledger).filter(pk=top.pk).update(cost_pico_usd=None, simulated=True)
    again = seen("2026-01-01", "2026-01-01")
    assert (again.top_entries[0].cost_usd, again.simulated) == (None, True)


def test_an_entry_that_saved_nothing_is_none_of_the_top(ledger: str) -> None:
    entry(ledger, saved_pico_usd=0, hits=5)
    assert seen("2026-01-01", "2026-01-01").top_entries == []


def test_one_simulated_row_is_told(ledger: str) -> None:
    bucket(ledger, "2026-11-10T08", avoided_pico_usd=USD)
    assert not seen("2026-11-10", "2026-11-10").simulated
    bucket(ledger, "2026-11-10T08", avoided_pico_usd=USD, simulated=True)
    found = seen("2026-11-10", "2026-11-10")
    # Both are summed.
    assert (found.simulated, found.totals.saved_gross_usd) == (True, 2)


# The same numbers everywhere


@pytest.fixture
def provider(sandbox: Sandbox) -> Iterator[Sandbox]:
    with llmcache_settings(PRICES=SANDBOX_PRICES):
        yield sandbox


@pytest.mark.django_db
def test_stats_the_overview_and_its_json_say_the_same(
    provider: Sandbox, forget_memory: Callable[[], None], no_backoff: list[float]
) -> None:
    with llmcache_settings(PRICES=SANDBOX_PRICES):
        for number in (0, 1, 0, 2, 0):
            llmcache.extract(f"text {number}", Person, tenant="acme" if number else None)
        forget_memory()
        llmcache.extract("text 2", Person, tenant="acme", kind="other")
        llmcache.extract("text 0", Person, cache="bypass")
        provider.fail(faults.reset_after_charge())
        llmcache.extract("reset", Person, max_completion_tokens=100)
        provider.fail(faults.missing_usage())
        llmcache.extract("no usage", Person)
        llmcache.extract("no usage", Person)
        with pytest.raises(llmcache.NotCached):
            llmcache.extract("never asked", Person, cache="only")
        period, _ = Period.parse({"period": "7d"})
        found = overview(period)
        stats = llmcache.stats()
        by_kind, by_model, by_tenant = (llmcache.stats(by=by) for by in ("kind", "model", "tenant"))
    assert found.flushed
    assert (stats.hits, stats.saved_usd > 0) == (3, True)
    assert same(found.totals) == same(stats) == same(found.days[-1].totals) == same(found.months.to_date)
    for parts, told in ((found.by_kind, by_kind), (found.by_model, by_model), (found.by_tenant or [], by_tenant)):
        assert {part.name: same(part.totals) for part in parts} == {name: same(each) for name, each in told.items()}
    assert_hits_times_cost_is_gross(found)
    told = json.loads(json.dumps(found.as_dict()))
    assert told["totals"] == as_json(found.totals)
    assert [day["totals"] for day in told["days"]] == [as_json(day.totals) for day in found.days]
    assert [part["name"] for part in told["by_kind"]] == [part.name for part in found.by_kind]
    assert told["months"]["to_date"] == told["totals"]
    assert told["top_entries"][0]["saved_usd"] == f"{found.top_entries[0].saved_usd:f}"
    assert told["period"] == {
        "first": period.first.isoformat(),
        "last": period.last.isoformat(),
        "zone": "UTC",
        "preset": "7d",
    }


def same(told: Any) -> dict[str, Any]:
    """Return the figures that ``Stats`` and ``Totals`` both have, under one name."""
    found = {name: getattr(told, name) for name in llmcache.Stats.__dataclass_fields__ if hasattr(told, name)}
    for own in ("lines_lost", "tiers"):
        found.pop(own, None)
    saved = found.pop("saved_usd", None)
    return {**found, "coverage": told.coverage, "saved": told.saved_gross_usd if saved is None else saved}


def as_json(totals: Totals) -> dict[str, Any]:
    return {name: f"{value:f}" if isinstance(value, Decimal) else value for name, value in figures(totals).items()}


def assert_hits_times_cost_is_gross(found: Overview) -> None:
    """Fail unless what hits avoided is their number times what their entry's attempts cost, summed by hand."""
    by_rows = 0
    for each in CacheEntry.objects.all():
        calls = ProviderCall.objects.filter(key=each.key, to_store=True)
        costs = [call.cost_pico_usd for call in calls]
        by_rows += 0 if None in costs else each.hits * sum(cost or 0 for cost in costs)
    assert found.totals.saved_gross_usd == Decimal(by_rows) / USD == sum(top.saved_usd for top in found.top_entries)


def test_what_the_ledger_makes_of_journal_lines_and_counts(ledger: str) -> None:
    at = datetime(2026, 11, 10, 22, 59, tzinfo=UTC).timestamp()
    for number, key in enumerate(["ab" * 32, "cd" * 32], start=1):
        bring(started(number, at, key=key), settled(number, at + 2), stored(number, at + 2, key=key), using=ledger)
    bring(started(3, at), failed(3, at + 1, in_doubt=True, cost=None), using=ledger)
    bring(started(4, at), settled(4, at + 1, cost=None), rejected(4, at + 1), using=ledger)
    counted = Collected()
    for key, outcome, count in (("ab", "hit", 5), ("cd", "collapsed", 2), ("cd", "hit", 1)):
        tally = Tally("Ticket", "openai/m", "acme", "memory", outcome, bytes.fromhex(key * 32), 1_234_567, 1_500)
        counted.add(tally, count, int(at // 3_600 * 3_600))
    counted.add(Tally("Ticket", "openai/m", "acme", None, "miss"), 4, int(at // 3_600 * 3_600))
    add_counts(counted, using=ledger, namespace="shop", at=at)
    found = seen("2026-11-10", "2026-11-10")
    assert figures(found.totals) == by_hand(UsageBucket.objects.using(ledger).all())
    assert figures(found.totals) == by_hand(TenantDay.objects.using(ledger).all())
    assert (found.totals.hits, found.totals.collapsed, found.totals.misses, found.totals.calls) == (6, 2, 4, 4)
    assert found.totals.saved_gross_usd == Decimal(8 * 1_234_567) / USD
    assert (found.totals.coverage, found.totals.calls_in_doubt, found.totals.calls_unpriced) == (0.5, 1, 1)
    assert [part.name for part in found.by_tenant or ()] == ["acme"]
    # The same rows, a day later by the clocks of Berlin.
    assert seen("2026-11-10", "2026-11-11", BERLIN).days[0].totals.calls == 4


# What it costs


@pytest.mark.parametrize(("kind", "queries"), [(None, 6), ("A", 5)])
@pytest.mark.parametrize(
    "period", [("2026-11-05", "2026-11-11"), ("2025-10-08", "2026-11-11"), ("2001-01-01", "2001-01-02")]
)
def test_the_number_of_queries_is_fixed(ledger: str, kind: str | None, queries: int, period: tuple[str, str]) -> None:
    made = 0
    for rows in (0, 3, 150):
        for number in range(made, rows):
            at = NOON - timedelta(hours=number * 7)
            bucket(ledger, at, kind=f"k{number % 20}", model=f"m/{number % 3}", tenant=f"t{number}", count=2)
            entry(ledger, saved_pico_usd=number)
        made = rows
        with CaptureQueriesContext(connections[ledger]) as captured:
            seen(*period, BERLIN, kind)
        assert len(captured) == queries
        assert not any("providercall" in query["sql"] for query in captured)


@pytest.mark.django_db
def test_it_brings_in_what_this_process_knows(provider: Sandbox, clock: MovedClock) -> None:
    with llmcache_settings(PRICES=SANDBOX_PRICES), clock.kept():
        period, _ = Period.parse({})
        llmcache.extract("Ada", Person)
        before = overview(period, flush=False)
        assert (before.totals.misses, before.flushed) == (0, False)
        after = overview(period)
        assert (after.totals.misses, after.flushed, after.lines_lost) == (1, True, 0)
        assert after.as_of.tzinfo is not None
        clock.move(86_400)
        assert overview(period).months.today == before.months.today + timedelta(days=1)


def test_a_period_of_400_days_with_the_400_before_it(ledger: str) -> None:
    for number in itertools.count():
        at = NOON - timedelta(days=number)
        if number == 801:
            break
        bucket(ledger, at)
    found = seen((NOON.date() - timedelta(days=399)).isoformat(), NOON.date().isoformat(), NEW_YORK)
    assert (found.totals.hits, found.previous.hits, len(found.days)) == (400, 400, 400)
    assert all(day.totals.hits == 1 for day in found.days)
