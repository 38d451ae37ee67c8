"""Periods: whole days of one time zone, as a page's address names them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from django.utils.translation import gettext as _

DEFAULT: Final = "30d"
CUSTOM: Final = "custom"
PRESETS: Final[Mapping[str, int | None]] = {"7d": 7, "30d": 30, "90d": 90, "month": None}
"""Presets, and how many days each has, today among them; a month begins with its first day."""
MAX_DAYS: Final = 400
"""The longest period: a year to compare, and some."""
EARLIEST: Final = date(2000, 1, 1)
"""Before it there was nothing to count, and no zone's offset is odd after it."""

_ONE_DAY: Final = timedelta(days=1)
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True, slots=True)
class Period:
    """Days of a time zone, whole ones: from midnight that begins the first to midnight that ends the last."""

    first: date
    last: date
    """It belongs to the period."""
    zone: ZoneInfo
    preset: str = CUSTOM
    """One of ``PRESETS``, or ``custom``."""

    @classmethod
    def parse(
        cls, params: Mapping[str, str], *, today: date | None = None, zone: ZoneInfo | None = None
    ) -> tuple[Period, list[str]]:
        """Return the period that an address names, and a sentence for each thing in it that could not be used.

        ``params``: ``period`` (a preset), or ``from`` and ``to`` (YYYY-MM-DD); nothing means the default. Never raises:
        what cannot be used falls back to the default, what is reversed is turned, what is too long is cut at its
        beginning, and what lies after today is left out.
        """
        zone = zone or configured_zone()
        today = today or today_in(zone)
        preset = params.get("period") or ""
        dated = bool(params.get("from") or params.get("to"))
        if preset in PRESETS:
            return cls.of_preset(preset, today, zone), []
        if preset not in ("", CUSTOM):
            return cls.of_preset(DEFAULT, today, zone), [_("This period is not known. These are the last 30 days.")]
        if not dated:
            return cls.of_preset(DEFAULT, today, zone), []
        return cls._between(params.get("from") or "", params.get("to") or "", today, zone)

    @classmethod
    def of_preset(cls, preset: str, today: date, zone: ZoneInfo) -> Period:
        """Return a preset's days as they are today."""
        days = PRESETS[preset]
        first = today.replace(day=1) if days is None else today - (days - 1) * _ONE_DAY
        return cls(first, today, zone, preset)

    @classmethod
    def _between(cls, start: str, end: str, today: date, zone: ZoneInfo) -> tuple[Period, list[str]]:
        last = _date_of(end) if end else today
        days = PRESETS[DEFAULT] or 1
        first = _date_of(start) if start else last and max(last - (days - 1) * _ONE_DAY, EARLIEST)
        if first is None or last is None:
            said = _("A date could not be read: dates are written YYYY-MM-DD. These are the last 30 days.")
            return cls.of_preset(DEFAULT, today, zone), [said]
        messages: list[str] = []
        if first > last:
            first, last = last, first
            messages.append(_("The first day was after the last; they have been exchanged."))
        if first > today:
            said = _("This period has not begun. These are the last 30 days.")
            return cls.of_preset(DEFAULT, today, zone), [said]
        if last > today:
            last = today
            messages.append(_("Days after today are left out."))
        if (last - first).days >= MAX_DAYS:
            first = last - (MAX_DAYS - 1) * _ONE_DAY
            messages.append(_("A period has at most %(days)d days; these are its last.") % {"days": MAX_DAYS})
        return cls(first, last, zone), messages

    @property
    def days(self) -> int:
        """How many days it has."""
        return (self.last - self.first).days + 1

    def __iter__(self) -> Iterator[date]:
        """Yield its days in order."""
        return (self.first + number * _ONE_DAY for number in range(self.days))

    def previous(self) -> Period:
        """Return as many days, those before it."""
        return Period(self.first - self.days * _ONE_DAY, self.first - _ONE_DAY, self.zone)

    def query(self) -> dict[str, str]:
        """Return the parameters of an address that name it."""
        if self.preset != CUSTOM:
            return {"period": self.preset}
        return {"from": self.first.isoformat(), "to": self.last.isoformat()}

    @property
    def bounds(self) -> tuple[float, float]:
        """The Unix times at which it begins and ends; the end does not belong to it."""
        return start_of(self.first, self.zone), start_of(self.last + _ONE_DAY, self.zone)


def configured_zone() -> ZoneInfo:
    """Return the time zone in which days and months are counted: the setting ``TIME_ZONE``, else Django's."""
    from django.utils import timezone

    from llmcache.engine import process

    name = process.current().settings.time_zone
    return timezone.get_default_timezone() if name is None else ZoneInfo(name)


def moment_now() -> datetime:
    """Return the time that it is by the clock of the runtime."""
    from llmcache.engine import process

    return datetime.fromtimestamp(process.current().clock.wall(), UTC)


def today_in(zone: ZoneInfo, at: datetime | None = None) -> date:
    """Return the date that it is in a time zone, now or at an aware time."""
    return (at or moment_now()).astimezone(zone).date()


def start_of(day: date, zone: ZoneInfo) -> float:
    """Return the Unix time at which a day begins in a time zone.

    A day may have 23 or 25 hours. Where midnight comes twice the first one counts, and where the clock jumps over it
    the moment of the jump.
    """
    return datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()


def _date_of(text: str) -> date | None:
    # More strictly than `fromisoformat`, which also takes weeks, and leaves out hyphens.
    if not _DATE.fullmatch(text):
        return None
    try:
        found = date.fromisoformat(text)
    except ValueError:
        return None
    return found if found >= EARLIEST and found.year < date.max.year else None
