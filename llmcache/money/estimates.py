"""What a cache would save, from three numbers; no data of one's own is needed."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final

from llmcache.exceptions import InvalidRequest

DAYS: Final = 30
"""Days of the month that is reckoned with."""


@dataclass(frozen=True, slots=True)
class SavingsEstimate:
    """What calls cost without and with a cache, in US dollars, exact."""

    daily_without_usd: Decimal
    """A day's calls, each of them paid."""
    daily_with_usd: Decimal
    """A day's calls of which only the misses are paid."""
    daily_saved_usd: Decimal
    """The difference of the two."""
    monthly_saved_usd: Decimal
    """The difference over 30 days."""


def estimate_savings(
    calls_per_day: int, hit_rate: float | Decimal, cost_per_call: float | Decimal | str
) -> SavingsEstimate:
    """Return what a cache would save.

    ``hit_rate``: share of the calls that the cache answers, 0 to 1. ``cost_per_call``: US dollars a call that is paid;
    a float counts as it is written, so that 0.002 is exactly that. Raises ``InvalidRequest`` for anything else.
    """
    if type(calls_per_day) is not int or calls_per_day < 0:
        raise InvalidRequest("calls_per_day= must be a whole number, zero or more.")
    rate = _exact("hit_rate", hit_rate, "a number from 0 to 1")
    cost = _exact("cost_per_call", cost_per_call, "US dollars, zero or more")
    if not 0 <= rate <= 1:
        raise InvalidRequest("hit_rate= must be a number from 0 to 1: 70 % is 0.7.")
    if cost < 0:
        raise InvalidRequest("cost_per_call= must be US dollars, zero or more.")
    without = calls_per_day * cost
    saved = without * rate
    return SavingsEstimate(without, without - saved, saved, saved * DAYS)


def _exact(name: str, value: object, expected: str) -> Decimal:
    number = Decimal("nan")
    if not isinstance(value, bool) and isinstance(value, (int, float, Decimal, str)):
        with contextlib.suppress(InvalidOperation):
            number = Decimal(str(value))
    if not number.is_finite():
        raise InvalidRequest(f"{name}= must be {expected}.")
    return number
