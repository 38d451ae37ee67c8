"""Figures as people read them: the same in cards, charts and tables."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any, Final, TypeVar

from django.utils.formats import date_format
from django.utils.translation import gettext as _

UNKNOWN: Final = "\N{EN DASH}"
MINUS: Final = "\N{MINUS SIGN}"
_SPACE: Final = "\N{NO-BREAK SPACE}"
_TO: Final = " \N{EN DASH} "
_CENT: Final = Decimal("0.01")
_TENTH: Final = Decimal("0.1")
_PICO: Final = 12
_MINUTE: Final = 60
_HOUR: Final = 3_600
_DAY: Final = 86_400
_TENTHS_UNTIL: Final = 9.95
"""Seconds; from there on a tenth of one says nothing."""
_LEAST_SECONDS: Final = 0.05
_DAYS_FROM: Final = 2

Amount = TypeVar("Amount", int, float, Decimal)


def money(dollars: Decimal | None) -> str:
    """Return US dollars to the cent, and with two digits that say something where that would say little.

    ``$1,234.56``, ``$0.0042``, with a minus sign ``$0.12``; a dash for what is not known.
    """
    if dollars is None:
        return UNKNOWN
    size = abs(dollars)
    if size and size < _TENTH:
        size = round(size, min(1 - size.adjusted(), _PICO)).normalize()
    if not size or size >= _TENTH or size == size.quantize(_CENT):
        size = size.quantize(_CENT)
    return f"{MINUS if dollars < 0 else ''}${size:,f}"


def count(number: int) -> str:
    """Return a number of things: ``12,345``."""
    return f"{number:,}".replace("-", MINUS)


def percent(share: float | None) -> str:
    """Return a share as ``61.4 %``; ``100 %`` and ``0 %`` only where it is exactly that, a dash for none."""
    if share is None:
        return UNKNOWN
    if share in (0, 1):
        return f"{share * 100:.0f}{_SPACE}%"
    tenths = f"{share * 100:.1f}"
    if tenths == "0.0":
        return f"<{_SPACE}0.1{_SPACE}%"
    return f">{_SPACE}99.9{_SPACE}%" if tenths == "100.0" else f"{tenths}{_SPACE}%"


def duration(seconds: float) -> str:
    """Return a span of time in its one or two largest units: ``3 h 12 min``."""
    if seconds < 0:
        return MINUS + duration(-seconds)
    if 0 < seconds < _TENTHS_UNTIL:
        return _("%(number)s s") % {"number": f"{seconds:.1f}"} if seconds >= _LEAST_SECONDS else _("< 0.1 s")
    whole = round(seconds)
    if whole < _MINUTE:
        return _("%(number)s s") % {"number": whole}
    if whole < _HOUR:
        return _two(_("%(number)s min"), whole // _MINUTE, _("%(number)s s"), whole % _MINUTE)
    minutes = round(seconds / _MINUTE)
    if minutes < _DAYS_FROM * _DAY // _MINUTE:
        return _two(_("%(number)s h"), minutes // 60, _("%(number)s min"), minutes % 60)
    hours = round(seconds / _HOUR)
    return _two(_("%(number)s d"), hours // 24, _("%(number)s h"), hours % 24)


def _two(large: str, first: int, small: str, second: int) -> str:
    parts = (
        [large % {"number": count(first)}, small % {"number": second}] if second else [large % {"number": count(first)}]
    )
    return " ".join(part.replace(" ", _SPACE) for part in parts)


def points(difference: float) -> str:
    """Return the difference of two shares, in hundredths: ``4.2 points``."""
    return _("%(number)s points") % {"number": f"{difference * 100:.1f}".replace("-", MINUS)}


def change(now: Amount, before: Amount, shown: Callable[[Any], str]) -> str:
    """Return by how much a figure has changed, with its sign; ``±0`` where that cannot be seen."""
    difference = now - before
    size = shown(abs(difference))
    if size == shown(abs(difference) * 0):
        return "±0"
    return f"{'+' if difference > 0 else MINUS}{size}"


def day(at: date) -> str:
    """Return a day without its year: ``21 Nov``."""
    return date_format(at, "j M")


def days(first: date, last: date) -> str:
    """Return a span of days with its years, each part once: ``22 Oct`` to ``20 Nov 2026``."""
    end = date_format(last, "j M Y")
    if first == last:
        return end
    if first.year != last.year:
        return f"{date_format(first, 'j M Y')}{_TO}{end}"
    return f"{date_format(first, 'j' if first.month == last.month else 'j M')}{_TO}{end}"
