"""The projected month, against figures that were worked out by hand."""

from __future__ import annotations

import calendar
import math
from datetime import date, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcache.money import projection
from llmcache.money.projection import LEAST, WINDOW, Projection, project, window_of

USD = 10**12


def made(to_date: int, nets: list[int], today: date) -> Projection:
    found = project(to_date * USD, [net * USD for net in nets], today)
    assert found is not None
    return found


def test_the_month_so_far_and_the_mean_for_each_day_that_is_left() -> None:
    # 11 of November: 19 days are left. Four days with a mean of $3: 40 + 19 * 3.
    found = made(40, [2, 4, 5, 1], date(2026, 11, 11))
    assert (found.net_usd, found.mean_usd, found.days, found.days_left) == (97, 3, 4, 19)
    assert (found.first, found.last) == (date(2026, 11, 7), date(2026, 11, 10))
    # s² = (1 + 1 + 4 + 4) / 3, t = 1.638: 1.638 * sqrt(10/3 * (19 + 361/4)) = 1.638 * 19.0832 = 31.258.
    assert (round(found.low_usd, 3), round(found.high_usd, 3)) == (Decimal("65.742"), Decimal("128.258"))


def test_a_mean_that_is_no_whole_number_is_not_rounded_before_it_is_multiplied() -> None:
    # 1 November, mean $4/3, 29 days: 38.666666666667 and not 29 * 1.333333333333.
    assert made(0, [1, 1, 2], date(2026, 11, 1)).net_usd == Decimal("38.666666666667")


def test_on_the_last_day_it_is_what_is_there() -> None:
    for last in (date(2026, 11, 30), date(2028, 2, 29), date(2027, 2, 28), date(2026, 12, 31)):
        found = made(123, [5, 0, 40, -3], last)
        assert (found.net_usd, found.low_usd, found.high_usd, found.days_left) == (123, 123, 123, 0)


def test_equal_days_leave_no_doubt() -> None:
    found = made(10, [2, 2, 2], date(2026, 11, 20))
    assert (found.low_usd, found.net_usd, found.high_usd) == (30, 30, 30)


@pytest.mark.parametrize("nets", [[], [1], [1, 2]])
def test_before_the_third_complete_day_there_is_none(nets: list[int]) -> None:
    assert project(USD, [net * USD for net in nets], date(2026, 11, 11)) is None
    assert len(nets) < LEAST


def test_what_is_there_is_not_lost_again_unless_days_lost_money() -> None:
    today = date(2026, 11, 2)
    assert made(7, [0, 0, 90], today).low_usd == 7
    assert made(7, [0, -1, 90], today).low_usd < 7


def test_a_month_that_loses_money() -> None:
    found = made(-8, [-2, -2, -2], date(2026, 11, 4))
    assert (found.low_usd, found.net_usd, found.high_usd) == (-60, -60, -60)


@pytest.mark.parametrize(
    ("began", "today", "complete"),
    [
        (None, date(2026, 11, 11), 0),
        (date(2026, 11, 11), date(2026, 11, 11), 0),
        (date(2026, 11, 10), date(2026, 11, 11), 1),
        (date(2026, 10, 30), date(2026, 11, 2), 3),
        (date(2026, 10, 14), date(2026, 11, 11), 28),
        (date(2020, 1, 1), date(2026, 11, 11), WINDOW),
        # A clock that was ahead.
        (date(2026, 11, 12), date(2026, 11, 11), 0),
    ],
)
def test_the_window_begins_with_the_first_day_at_the_earliest(began: date | None, today: date, complete: int) -> None:
    assert window_of(began, today) == complete


@given(
    nets=st.lists(st.integers(-(10**18), 10**18), min_size=LEAST, max_size=WINDOW),
    to_date=st.integers(-(10**18), 10**18),
    today=st.dates(date(2020, 1, 1), date(2040, 1, 1)),
)
def test_the_band_is_around_the_figure(nets: list[int], to_date: int, today: date) -> None:
    found = project(to_date, nets, today)
    assert found is not None
    assert found.low_usd <= found.net_usd <= found.high_usd
    assert found.last == today - timedelta(days=1)
    assert (found.last - found.first).days + 1 == found.days == len(nets)
    assert found.days_left == calendar.monthrange(today.year, today.month)[1] - today.day


def test_the_quantiles_are_those_of_students_distribution() -> None:
    """The density, summed from the middle to the quantile by Simpson's rule, is 40 %."""
    for freedom, quantile in enumerate(projection._QUANTILES, start=2):
        scale = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
        steps = 200
        width = float(quantile) / steps
        density = [scale * (1 + (n * width) ** 2 / freedom) ** (-(freedom + 1) / 2) for n in range(steps + 1)]
        area = width / 3 * (density[0] + density[-1] + 4 * sum(density[1:-1:2]) + 2 * sum(density[2:-1:2]))
        assert area == pytest.approx(0.4, abs=1e-4), freedom
    assert len(projection._QUANTILES) == WINDOW - 2
