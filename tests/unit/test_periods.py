"""Periods: what an address names, whole days of a zone, and whatever else somebody writes into it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.test import RequestFactory, override_settings
from hypothesis import given
from hypothesis import strategies as st

from llmcache.money.periods import EARLIEST, MAX_DAYS, PRESETS, Period, configured_zone, start_of, today_in
from tests.conftest import MovedClock, llmcache_settings

TODAY = date(2026, 3, 15)
BERLIN, NEW_YORK, ZONE = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York"), ZoneInfo("UTC")
DAY = timedelta(days=1)


def parse(today: date = TODAY, **params: str) -> tuple[Period, list[str]]:
    if "start" in params:
        params["from"] = params.pop("start")
    return Period.parse(params, today=today, zone=ZONE)


def days(today: date = TODAY, **params: str) -> tuple[str, str, str]:
    """Return first day, last day and preset of what can be used as it is."""
    period, messages = parse(today, **params)
    assert messages == []
    return period.first.isoformat(), period.last.isoformat(), period.preset


# What can be used


def test_each_preset_ends_today() -> None:
    assert days() == days(period="") == days(period="30d") == ("2026-02-14", "2026-03-15", "30d")
    assert days(period="7d") == ("2026-03-09", "2026-03-15", "7d")
    assert days(period="90d") == ("2025-12-16", "2026-03-15", "90d")
    assert days(period="month") == ("2026-03-01", "2026-03-15", "month")
    assert [parse(period=preset)[0].days for preset in PRESETS] == [7, 30, 90, 15]


def test_months_of_every_length() -> None:
    assert days(date(2028, 2, 29), period="month") == ("2028-02-01", "2028-02-29", "month")
    assert days(date(2027, 3, 1), period="month") == ("2027-03-01", "2027-03-01", "month")
    assert days(date(2028, 3, 1), period="7d") == ("2028-02-24", "2028-03-01", "7d")
    assert days(date(2027, 1, 1), period="month") == ("2027-01-01", "2027-01-01", "month")


def test_days_of_ones_own() -> None:
    assert days(start="2026-01-02", to="2026-02-03") == ("2026-01-02", "2026-02-03", "custom")
    assert days(period="custom", start="2026-01-02", to="2026-01-02") == ("2026-01-02", "2026-01-02", "custom")
    assert days(start="2026-03-01") == ("2026-03-01", "2026-03-15", "custom")
    assert days(to="2026-03-01") == ("2026-01-31", "2026-03-01", "custom")
    assert days(to="2000-01-05") == ("2000-01-01", "2000-01-05", "custom")
    assert days(period="custom") == ("2026-02-14", "2026-03-15", "30d")


def test_a_preset_comes_before_dates() -> None:
    assert days(period="7d", start="2026-01-02", to="2026-02-03") == ("2026-03-09", "2026-03-15", "7d")


def test_a_requests_parameters_are_taken() -> None:
    request = RequestFactory().get("/?from=2026-01-02&to=2026-01-03&to=2026-01-04&kind=x")
    period, messages = Period.parse(request.GET, today=TODAY, zone=ZONE)
    assert (period.last, messages) == (date(2026, 1, 4), [])


def test_it_names_itself() -> None:
    for params in ({"period": "7d"}, {"period": "month"}, {"from": "2026-01-02", "to": "2026-01-03"}):
        period, _ = Period.parse(params, today=TODAY, zone=ZONE)
        assert period.query() == params
        assert Period.parse(period.query(), today=TODAY, zone=ZONE) == (period, [])


def test_the_one_before_has_as_many_days_and_ends_where_it_begins() -> None:
    period = parse(period="month")[0]
    before = period.previous()
    assert (before.first, before.last, before.preset) == (date(2026, 2, 14), date(2026, 2, 28), "custom")
    assert before.days == period.days == 15
    assert before.bounds[1] == period.bounds[0]
    assert [*before, *period] == [before.first + number * DAY for number in range(30)]


# What cannot


FALLEN_BACK = ("2026-02-14", "2026-03-15", "30d")
BAD_DATES = [
    *("garbage", "2026-13-01", "2026-02-29", "2026-02-30", "0000-01-01", "0001-01-01", "10000-01-01", "9999-12-31"),
    *("1999-12-31", "-2026-01-01", "2026-1-1", "20260101", "2026-W01-1", "2026-01-01T00:00", " 2026-01-01", "\0"),
    *(
        "2026-01-01\0",
        "2026-01-01\n",
        "\u0662\u0660\u0662\u0666-\u0660\u0661-\u0660\u0661",
        "2" * 10_240,
        "<script>",
        "\ud800",
        "%s%d",
        "nan",
    ),
]


@pytest.mark.parametrize("bad", BAD_DATES, ids=lambda text: ascii(text)[:14])
def test_a_date_that_is_none_falls_back_and_says_so(bad: str) -> None:
    for params in ({"start": bad}, {"to": bad}, {"start": bad, "to": "2026-03-01"}, {"start": "2026-03-01", "to": bad}):
        period, messages = parse(**params)
        assert (period.first.isoformat(), period.last.isoformat(), period.preset) == FALLEN_BACK
        (message,) = messages
        assert "YYYY-MM-DD" in message
        assert len(message) < 200


@pytest.mark.parametrize("bad", ["garbage", "30D", "\0", "x" * 10_240, "<script>", "\ud800", "-1", "0d", "all"])
def test_a_period_that_is_none_falls_back_and_says_so(bad: str) -> None:
    period, messages = parse(period=bad, start="2026-01-01")
    assert (period.first.isoformat(), period.last.isoformat(), period.preset) == FALLEN_BACK
    assert messages == ["This period is not known. These are the last 30 days."]


def test_reversed_dates_are_exchanged() -> None:
    period, messages = parse(start="2026-02-03", to="2026-01-02")
    assert (period.first, period.last) == (date(2026, 1, 2), date(2026, 2, 3))
    assert messages == ["The first day was after the last; they have been exchanged."]


def test_days_to_come_are_left_out() -> None:
    period, messages = parse(start="2026-03-01", to="2026-12-31")
    assert (period.first, period.last) == (date(2026, 3, 1), TODAY)
    assert messages == ["Days after today are left out."]
    period, messages = parse(start="2026-03-16", to="9998-12-31")
    assert (period.first.isoformat(), period.last.isoformat(), period.preset) == FALLEN_BACK
    assert messages == ["This period has not begun. These are the last 30 days."]


def test_a_period_is_bounded() -> None:
    period, messages = parse(start="2000-01-01", to="2026-03-14")
    assert (period.last, period.days) == (date(2026, 3, 14), MAX_DAYS)
    assert messages == ["A period has at most 400 days; these are its last."]
    assert parse(start=(TODAY - 399 * DAY).isoformat())[1] == []
    assert len(parse(start="9998-01-01", to="2000-01-01")[1]) == 3


@given(
    params=st.dictionaries(
        st.sampled_from(["period", "from", "to", "kind"]),
        st.one_of(
            st.text(max_size=20),
            st.dates().map(date.isoformat),
            st.dates(EARLIEST, TODAY).map(date.isoformat),
            st.sampled_from(["custom", *PRESETS, *BAD_DATES]),
        ),
    ),
    zone=st.sampled_from(["UTC", "Asia/Kathmandu", "Pacific/Apia", "America/Havana"]),
)
def test_whatever_is_written_there_is_a_period(params: dict[str, str], zone: str) -> None:
    period, messages = Period.parse(params, today=TODAY, zone=ZoneInfo(zone))
    assert EARLIEST <= period.first <= period.last <= TODAY
    assert 1 <= period.days == len([*period]) <= MAX_DAYS
    for each in (period, period.previous()):
        began, ended = each.bounds
        assert began < ended
    assert all(text not in message for message in messages for text in params.values() if len(text) > 8)
    assert Period.parse(period.query(), today=TODAY, zone=ZoneInfo(zone)) == (period, [])


# Zones


def hours(day: date, zone: ZoneInfo) -> float:
    began, ended = Period(day, day, zone).bounds
    return (ended - began) / 3_600


def test_a_day_may_have_23_or_25_hours() -> None:
    assert [hours(date(2026, 3, day), BERLIN) for day in (28, 29, 30)] == [24, 23, 24]
    assert [hours(date(2026, 10, day), BERLIN) for day in (24, 25, 26)] == [24, 25, 24]
    assert [hours(date(2026, 3, day), NEW_YORK) for day in (7, 8, 9)] == [24, 23, 24]
    assert [hours(date(2026, 11, day), NEW_YORK) for day in (1, 2)] == [25, 24]
    assert hours(date(2026, 4, 5), ZoneInfo("Australia/Lord_Howe")) == 24.5
    # A day that this island left out.
    assert hours(date(2011, 12, 30), ZoneInfo("Pacific/Apia")) == 0


def test_midnight_that_comes_twice_or_not_at_all() -> None:
    # Beirut's clocks jump from midnight to one, Havana's go back from one to midnight.
    jump = start_of(date(2026, 3, 29), ZoneInfo("Asia/Beirut"))
    assert datetime.fromtimestamp(jump, ZoneInfo("Asia/Beirut")).isoformat() == "2026-03-29T01:00:00+03:00"
    twice = start_of(date(2026, 11, 1), ZoneInfo("America/Havana"))
    assert datetime.fromtimestamp(twice, UTC).isoformat() == "2026-11-01T04:00:00+00:00"
    assert hours(date(2026, 11, 1), ZoneInfo("America/Havana")) == 25


@given(
    zone=st.sampled_from(["Europe/Berlin", "Asia/Beirut", "America/Havana", "Pacific/Apia", "Australia/Lord_Howe"]),
    at=st.integers(1_262_304_000, 2_000_000_000),
)
def test_every_moment_is_within_the_day_that_a_clock_there_shows(zone: str, at: int) -> None:
    day = datetime.fromtimestamp(at, ZoneInfo(zone)).date()
    began, ended = Period(day, day, ZoneInfo(zone)).bounds
    assert began <= at < ended


def test_the_settings_zone_comes_before_djangos() -> None:
    with override_settings(TIME_ZONE="America/New_York"):
        assert configured_zone().key == "America/New_York"
        with llmcache_settings(TIME_ZONE="Europe/Berlin"):
            assert configured_zone() == BERLIN


def test_today_is_told_by_the_runtimes_clock(clock: MovedClock) -> None:
    with llmcache_settings(TIME_ZONE="Asia/Tokyo"), clock.kept():
        before = today_in(configured_zone())
        clock.move(86_400 * 40)
        assert today_in(configured_zone()) == before + 40 * DAY
        period, _ = Period.parse({})
        assert (period.last, period.zone.key) == (before + 40 * DAY, "Asia/Tokyo")


def test_today_differs_between_zones() -> None:
    at = datetime(2026, 12, 31, 23, 30, tzinfo=UTC)
    found: Any = [today_in(ZoneInfo(zone), at).isoformat() for zone in ("America/New_York", "UTC", "Asia/Tokyo")]
    assert found == ["2026-12-31", "2026-12-31", "2027-01-01"]
