"""Amounts as people read them: shares, times, spans of time and money, the same on the terminal and on the pages."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

NOTHING: Final = "—"
ABOUT: Final = "≈"
"""What stands before a number that comes from buckets."""
AT_LEAST: Final = "≥"
"""What stands before a sum of which a part is not known."""
_UNITS: Final = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))
_CENT: Final = Decimal("0.01")


def percent(share: float | None) -> str:
    """Return a share as text, e.g. ``39.09 %``."""
    return NOTHING if share is None else f"{share:.2%}".replace("%", " %")


def duration(nanoseconds: float, exact: bool) -> str:
    """Return a time in µs or ms, whichever reads better, e.g. ``12.3 µs``; about, where it is not exact."""
    number, unit = (nanoseconds / 1e3, "µs") if nanoseconds < 1e6 else (nanoseconds / 1e6, "ms")
    return f"{'' if exact else f'{ABOUT} '}{_three_digits(number)} {unit}"


def _three_digits(number: float) -> str:
    digits = 0 if number >= 99.95 else 1 if number >= 9.995 else 2
    return f"{number:,.{digits}f}"


def span(seconds: float) -> str:
    """Return a span of time in its one or two largest units, e.g. ``6 days 23 hours`` or ``12 seconds``."""
    whole = int(seconds)
    if whole < 1:
        return "less than a second"
    at = next(index for index, (_, size) in enumerate(_UNITS) if whole >= size)
    parts: list[str] = []
    for name, size in _UNITS[at : at + 2]:
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count} {name}{'' if count == 1 else 's'}")
    return " ".join(parts)


def money(dollars: Decimal) -> str:
    """Return US dollars with as many places as tell something: ``$27.93``, ``$0.1234``, ``$0.002113``, ``$0``."""
    if not dollars:
        return "$0"
    size = abs(dollars)
    places = 2 if size >= 1 else 4 if size >= _CENT else max(6, 1 - size.adjusted())
    return f"{'-' if dollars < 0 else ''}${size:,.{places}f}"


def pico_money(pico_usd: int) -> str:
    """Return 10**-12 US dollars as ``money`` does."""
    return money(Decimal(pico_usd) / 10**12)
