"""The projected month: what a month comes to when its other days are like the last ones."""

from __future__ import annotations

import calendar
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Final

from llmcache.money.pricing import PICO

WINDOW: Final = 28
"""Days that are looked back at, at most: four weeks, so that each day of the week counts as often as the others."""
LEAST: Final = 3
"""Complete days without which there is no projection."""

_QUANTILES: Final = (
    *("1.886", "1.638", "1.533", "1.476", "1.440", "1.415", "1.397", "1.383", "1.372", "1.363", "1.356", "1.350"),
    *("1.345", "1.341", "1.337", "1.333", "1.330", "1.328", "1.325", "1.323", "1.321", "1.319", "1.318", "1.316"),
    *("1.315", "1.314"),
)
"""Student's t, 90 % from below, for 2 to 27 degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Projection:
    """What was saved net in a month when it is over, as far as the last days tell."""

    net_usd: Decimal
    """What is saved so far, and the mean of the window for each day after today."""
    low_usd: Decimal
    """With ``high_usd``: eight of ten months end between the two, if days are independent and alike."""
    high_usd: Decimal
    mean_usd: Decimal
    """Net, of a day of the window."""
    first: date
    """The first day of the window."""
    last: date
    """The last day of the window: yesterday."""
    days: int
    """Days of the window."""
    days_left: int
    """Days of the month after today."""


def window_of(began: date | None, today: date) -> int:
    """Return how many complete days there are to look back at; ``began`` is the first day with a call.

    Days before it are not days without savings. Days after it without a call are.
    """
    return 0 if began is None else max(0, min(WINDOW, (today - began).days))


def project(to_date: int, nets: Sequence[int], today: date) -> Projection | None:
    """Return the projection of the month that ``today`` is in; None when there are too few days.

    ``to_date``: what is saved net in this month so far, and ``nets``: on each day of the window, the last of which is
    yesterday; both in 10**-12 US dollars. On the month's last day it is what is saved so far: the rest of today is not
    reckoned with.

    The band is the two-sided 80 % prediction interval for the sum of k further values after n observed ones with
    standard deviation s: k * mean ± t * s * sqrt(k + k**2 / n), with n - 1 degrees of freedom (k times the interval for
    the mean of k further values in G. J. Hahn and W. Q. Meeker, Statistical Intervals, Wiley 1991, chapter 4). It takes
    days for independent and alike, and knows of no weekends, trends or month ends. Where no day of the window lost
    money the band does not go below what is there.
    """
    count = len(nets)
    if count < LEAST:
        return None
    left = calendar.monthrange(today.year, today.month)[1] - today.day
    mean = Fraction(sum(nets), count)
    expected = to_date + mean * left
    variance = sum(((net - mean) * (net - mean) for net in nets), Fraction(0)) / (count - 1)
    spread = Decimal(_QUANTILES[count - 1 - 2]) * _root(variance * (left + Fraction(left * left, count)))
    low, high = round(expected - Fraction(spread)), round(expected + Fraction(spread))
    if min(nets) >= 0:
        low = max(low, to_date)
    return Projection(
        net_usd=_dollars(expected),
        low_usd=_dollars(low),
        high_usd=_dollars(high),
        mean_usd=_dollars(mean),
        first=today - timedelta(days=count),
        last=today - timedelta(days=1),
        days=count,
        days_left=left,
    )


def _root(number: Fraction) -> Decimal:
    return (Decimal(number.numerator) / number.denominator).sqrt()


def _dollars(pico_usd: Fraction | int) -> Decimal:
    return Decimal(round(pico_usd)) / PICO
