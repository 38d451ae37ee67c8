"""What several commands take: spans of time, moments, and numbers within bounds."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from django.core.management.base import CommandParser
from django.utils import timezone

_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SPAN: Final = re.compile(r"([0-9]{1,6})([mhdw])")


def span(text: str) -> timedelta:
    """Read a span of time back from now: a number with m, h, d or w."""
    found = _SPAN.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no span of time; write a number with m, h, d or w, as in 7d")
    try:
        read = timedelta(**{_UNITS[found[2]]: int(found[1])})
        _ = timezone.now() - read
    except OverflowError:
        raise argparse.ArgumentTypeError(f"{text!r} is before all time; say --all") from None
    return read


def add_since(parser: CommandParser, what: str, default: str = "7d") -> None:
    """Add ``--since SPAN`` and ``--all``, of which one may be given."""
    when = parser.add_mutually_exclusive_group()
    when.add_argument(
        "--since",
        type=span,
        default=span(default),
        metavar="SPAN",
        help=f"{what} of this time up to now: a number with m, h, d or w (default: {default})",
    )
    when.add_argument("--all", action="store_true", help=f"all {what} that there ever were")


def moment(text: str) -> datetime:
    """Read a time by ISO 8601; one without a zone is in the project's."""
    try:
        read = datetime.fromisoformat(text)
        return timezone.make_aware(read) if timezone.is_naive(read) else read
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text[:30]!r} is no time by ISO 8601, as 2026-12-01T03:00 or 2026-12-01T03:00+01:00"
        ) from None


def whole(low: int, high: int) -> Callable[[str], int]:
    """Return a reader of whole numbers within bounds, both included."""

    def read(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text[:30]!r} is no whole number from {low} to {high}")
        return int(text)

    return read
