"""What the dashboard's templates show, from an ``Overview``: words and figures in their order. No markup, no sums."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from llmcache.dashboard import cards, drawings, figures, listings
from llmcache.dashboard.address import address, parameters
from llmcache.dashboard.calculator import calculated
from llmcache.engine import process
from llmcache.money.estimates import SavingsEstimate
from llmcache.money.overview import Overview
from llmcache.money.periods import CUSTOM, EARLIEST, Period, today_in

_LONG: Final = 45
"""Days above which each chart takes the whole width."""

LinkOf = Callable[[int], str | None]
"""From an entry's primary key to its page; None where the user may not see it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several links."""

    label: str
    href: str
    chosen: bool


def context(seen: Overview, messages: Iterable[str], params: Mapping[str, str], link: LinkOf) -> dict[str, Any]:
    """Return what the templates show; ``params`` are those of the address, for the calculator."""
    has_calls = bool(seen.by_kind)
    estimate = calculated(params)
    return {
        "seen": seen,
        "dates": figures.days(seen.period.first, seen.period.last),
        "as_of": date_format(seen.as_of.astimezone(seen.period.zone), "j M Y, H:i"),
        "zone": seen.period.zone.key,
        "address": address(seen.period, seen.kind),
        "hidden": parameters(seen.period, seen.kind),
        "presets": _presets(seen),
        "dated": seen.period.preset == CUSTOM,
        "earliest": EARLIEST.isoformat(),
        "today": today_in(seen.period.zone, seen.as_of).isoformat(),
        "first": seen.period.first.isoformat(),
        "last": seen.period.last.isoformat(),
        "messages_of_address": list(messages),
        "warnings": _warnings(seen),
        "is_empty": seen.first_day is None,
        "has_calls": has_calls,
        "first_day": "" if seen.first_day is None else figures.days(seen.first_day, seen.first_day),
        "comparison": _comparison(seen),
        "cards": cards.cards(seen.totals, seen.previous if _can_compare(seen) else None),
        "months": cards.months(seen.months),
        "is_long": seen.period.days > _LONG,
        "drawings": drawings.drawings(seen) if has_calls else [],
        "parts": listings.parts(seen) if has_calls else [],
        "entries": [listings.entry_row(entry, link(entry.pk)) for entry in seen.top_entries],
        "tiers": [listings.tier_row(state) for state in process.current().tiers.states()],
        "calculator": estimate.form,
        "estimate": _estimate(estimate.estimate),
    }


def _presets(seen: Overview) -> list[Choice]:
    period, today = seen.period, today_in(seen.period.zone, seen.as_of)
    labels = {"7d": _("7 days"), "30d": _("30 days"), "90d": _("90 days"), "month": _("This month")}
    return [
        Choice(label, address(Period.of_preset(preset, today, period.zone), seen.kind), preset == period.preset)
        for preset, label in labels.items()
    ]


def _warnings(seen: Overview) -> list[str]:
    said: list[str] = []
    if not seen.flushed:
        said.append(
            _(
                "What this process did in the last seconds may be missing: it could not be brought into the database "
                "in time. Nothing is lost; it comes with one of the next views."
            )
        )
    if seen.lines_lost:
        said.append(
            ngettext(
                "%(lines)s line of the journal was lost; it is in none of these figures.",
                "%(lines)s lines of the journal were lost; they are in none of these figures.",
                seen.lines_lost,
            )
            % {"lines": figures.count(seen.lines_lost)}
        )
    return said


def _can_compare(seen: Overview) -> bool:
    """Whether the period before was recorded from its first day on."""
    return seen.first_day is not None and seen.first_day <= seen.period.previous().first


def _comparison(seen: Overview) -> str:
    before = seen.period.previous()
    if not _can_compare(seen):
        return _("Not compared: of the days before, %(dates)s, not all were recorded.") % {
            "dates": figures.days(before.first, before.last)
        }
    said = _("Compared with %(dates)s.") % {"dates": figures.days(before.first, before.last)}
    if seen.period.last == today_in(seen.period.zone, seen.as_of):
        said += " " + _("Today is not over yet.")
    return said


def _estimate(found: SavingsEstimate | None) -> list[tuple[str, str]]:
    if found is None:
        return []
    return [
        (_("saved in 30 days"), figures.money(found.monthly_saved_usd)),
        (_("saved a day"), figures.money(found.daily_saved_usd)),
        (_("a day without the cache"), figures.money(found.daily_without_usd)),
        (_("a day with it"), figures.money(found.daily_with_usd)),
    ]
