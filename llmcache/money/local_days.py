"""Days of a time zone, told apart by the database.

Not by ``TruncDate``: on SQLite it calls Python for each row, on MySQL it needs tables of time zones, and without
``USE_TZ`` it knows no zone. Here each stretch of time between two changes of the clock has its shift, in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from django.db import connections
from django.db.models import Case, DateField, F, Func, When
from django.db.models.expressions import Combinable
from django.utils import timezone

from llmcache.money.facts import stored_time
from llmcache.money.periods import start_of

_HOUR = 3_600


class _ShiftedDate(Func):
    """The date of a stored time, ``shift`` seconds later."""

    template = "CAST((%(expressions)s + INTERVAL '%(shift)d' SECOND) AS DATE)"

    def __init__(self, field: str, shift: int) -> None:
        super().__init__(F(field), shift=shift, output_field=DateField())

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        template = "date(%(expressions)s, '%(shift)d seconds')"
        return self.as_sql(compiler, connection, template=template, **extra)

    def as_postgresql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        # What is stored is a moment, whatever zone the connection speaks in.
        template = "CAST((%(expressions)s AT TIME ZONE 'UTC') + INTERVAL '%(shift)d seconds' AS DATE)"
        return self.as_sql(compiler, connection, template=template, **extra)

    def as_mysql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        template = "DATE(%(expressions)s + INTERVAL %(shift)d SECOND)"
        return self.as_sql(compiler, connection, template=template, **extra)


def local_day(field: str, zone: ZoneInfo, first: date, last: date, using: str) -> Combinable:
    """Return an expression: the day in ``zone`` of a stored time that lies between two days, both included."""
    began, ended = start_of(first, zone), start_of(last + timedelta(days=1), zone)
    stretches = _stretches(began, ended, zone, _stored_zone(using))
    *earlier, (_, newest) = stretches
    ends = [start for start, _ in stretches[1:]]
    if not earlier:
        return _ShiftedDate(field, newest)
    whens = [
        When(**{f"{field}__lt": stored_time(end)}, then=_ShiftedDate(field, shift))
        for end, (_, shift) in zip(ends, earlier, strict=True)
    ]
    return Case(*whens, default=_ShiftedDate(field, newest), output_field=DateField())


def _stored_zone(using: str) -> tzinfo:
    connection = connections[using]
    if connection.vendor == "postgresql":
        return UTC
    # None without USE_TZ.
    return connection.timezone or timezone.get_default_timezone()


def _shift(at: float, zone: tzinfo, stored: tzinfo) -> int:
    moment = datetime.fromtimestamp(at, UTC)
    here, there = moment.astimezone(zone).utcoffset(), moment.astimezone(stored).utcoffset()
    return int(((here or timedelta()) - (there or timedelta())).total_seconds())


def _steps(began: float, ended: float, zone: tzinfo, stored: tzinfo) -> Iterator[int]:
    """Yield whole hours of the time between, each at which the shift changes among them."""
    start = int(began // _HOUR) * _HOUR
    for day in range(start, int(ended), 24 * _HOUR):
        if day == start or _shift(day, zone, stored) != _shift(day - 24 * _HOUR, zone, stored):
            # The clock changed in the day before, at the latest at this hour.
            yield from range(max(start, day - 23 * _HOUR), day + 1, _HOUR)
    last = max(start, int(ended) - 24 * _HOUR)
    yield from range(last // _HOUR * _HOUR, int(ended), _HOUR)


def _stretches(began: float, ended: float, zone: tzinfo, stored: tzinfo) -> list[tuple[float, int]]:
    """Return where each stretch of one shift begins, and the shift."""
    found: list[tuple[float, int]] = []
    for hour in _steps(began, ended, zone, stored):
        shift = _shift(hour, zone, stored)
        if not found or found[-1][1] != shift:
            found.append((hour, shift))
    return found
