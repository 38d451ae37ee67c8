"""What a cache would save."""

from decimal import Decimal
from typing import Any

import pytest

import llmcache
from llmcache import estimate_savings


@pytest.mark.parametrize(
    ("calls", "rate", "monthly"), [(1_000, 0.5, "30.00"), (10_000, 0.7, "420.00"), (100_000, 0.8, "4800.00")]
)
def test_the_guides_three_applications(calls: int, rate: float, monthly: str) -> None:
    assert estimate_savings(calls, rate, 0.002).monthly_saved_usd == Decimal(monthly)


def test_the_parts_add_up_exactly() -> None:
    found = estimate_savings(3, Decimal("0.1"), "0.1")
    assert found.daily_without_usd == Decimal("0.3")
    assert found.daily_with_usd + found.daily_saved_usd == found.daily_without_usd
    assert found.monthly_saved_usd == 30 * found.daily_saved_usd == Decimal("0.9")


@pytest.mark.parametrize("rate", [0, 1, 0.0, 1.0])
def test_the_ends_of_the_scale(rate: float) -> None:
    assert estimate_savings(10, rate, 1).daily_saved_usd == 10 * rate


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((-1, 0.5, 1), "calls_per_day="),
        ((1.5, 0.5, 1), "calls_per_day="),
        ((True, 0.5, 1), "calls_per_day="),
        ((1, 1.01, 1), "hit_rate="),
        ((1, 70, 1), "0.7"),
        ((1, -0.1, 1), "hit_rate="),
        ((1, float("nan"), 1), "hit_rate="),
        ((1, None, 1), "hit_rate="),
        ((1, 0.5, -1), "cost_per_call="),
        ((1, 0.5, "a lot"), "cost_per_call="),
        ((1, 0.5, float("inf")), "cost_per_call="),
    ],
)
def test_numbers_that_cannot_be(arguments: Any, says: str) -> None:
    with pytest.raises(llmcache.InvalidRequest, match=says):
        estimate_savings(*arguments)
