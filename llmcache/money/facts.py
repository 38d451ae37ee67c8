"""Facts of journal lines as the database takes them.

They are checked again: whoever can write a file can make its checksums right.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.utils import timezone

from llmcache.envelope import MOST_COST
from llmcache.models import MAX_NAME

MAX_NUMBER: Final = 2**62
MAX_PICO_USD: Final = MOST_COST
MAX_SUM: Final = 10**18
"""A million dollars, in one row: totals of several still fit into 64 bits, in which SQLite adds up."""
TOKENS: Final = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens")

_LAST_TIME: Final = 2e11
"""In the year 8307, for every time zone has to know a time; far beyond the longest ``ttl=``."""


def is_id(text: str) -> bool:
    """Return whether a text is the id of a call."""
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def time_of(at: Any) -> datetime:
    """Return a time as the database takes it; ValueError or TypeError for what is none."""
    if isinstance(at, bool) or not isinstance(at, int | float):
        raise TypeError
    if not 0 <= at < _LAST_TIME:
        raise ValueError
    return stored_time(at)


def stored_time(at: float) -> datetime:
    """Return a Unix time as the project's databases keep times: naive, in its time zone, where ``USE_TZ`` is off."""
    moment = datetime.fromtimestamp(at, UTC)
    # Without its fold, which a database does not keep: a row has to be in the same hour when it is read again.
    return moment if settings.USE_TZ else timezone.make_naive(moment, timezone.get_default_timezone()).replace(fold=0)


def unix_of(stored: datetime) -> float:
    """Return the Unix time of a time as the project's databases keep it."""
    if timezone.is_naive(stored):
        stored = timezone.make_aware(stored, timezone.get_default_timezone())
    return stored.timestamp()


def number(facts: Mapping[str, Any], name: str, most: int = MAX_NUMBER) -> int | None:
    """Return a whole number, zero or more; None for what is none."""
    value = facts.get(name)
    return value if type(value) is int and 0 <= value < most else None


def seconds_of(facts: Mapping[str, Any], name: str) -> float | None:
    """Return a length of time in seconds; None for what is none, or is longer than can be told."""
    value = facts.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < _LAST_TIME else None


def words(value: Any) -> list[str]:
    """Return the texts of a list, at most fifty."""
    return [cut(word, MAX_NAME) for word in value[:50] if isinstance(word, str)] if isinstance(value, list) else []


def text_of(facts: Mapping[str, Any], name: str, most: int) -> str:
    """Return a text, empty for what is none."""
    value = facts.get(name)
    return cut(value, most) if isinstance(value, str) else ""


def cut(text: str, most: int) -> str:
    """Return a text that every database takes: no NUL, no lone surrogate, not too long."""
    return text.encode(errors="replace").decode().replace("\0", "\ufffd")[:most]
