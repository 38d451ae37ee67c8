"""The dashboard's cards and the months' figures, each with what has to stand beside it to be understood."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from llmcache.dashboard import figures
from llmcache.dashboard.figures import Amount
from llmcache.money.overview import Months
from llmcache.money.projection import Projection
from llmcache.money.totals import Totals


@dataclass(frozen=True, slots=True)
class Change:
    """By how much a figure has changed, and what it was."""

    by: str
    before: str


@dataclass(frozen=True, slots=True)
class Card:
    """A figure and what stands beside it."""

    name: str
    label: str
    value: str
    exact: str
    """The same for machines; empty for what is not known."""
    notes: list[str]
    change: Change | None = None
    """Since the period before; None where there is nothing to compare with."""
    warns: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """One of the months' figures."""

    name: str
    label: str
    value: str
    exact: str
    dates: str
    notes: list[str]


def cards(now: Totals, before: Totals | None) -> list[Card]:
    """Return the cards of a period, compared with the one before where that is given."""
    return [
        _saved(now, before),
        _hit_rate(now, before),
        _spent(now, before),
        _avoided(now, before),
        _time(now, before),
        _coverage(now),
    ]


def _change(now: Amount, before: Amount | None, shown: Callable[[Any], str]) -> Change | None:
    return None if before is None else Change(figures.change(now, before, shown), shown(before))


def _saved(now: Totals, before: Totals | None) -> Card:
    notes = [_("gross %(amount)s") % {"amount": figures.money(now.saved_gross_usd)}]
    if now.ahead_usd:
        notes.append(_("less %(amount)s for refreshes and warming") % {"amount": figures.money(now.ahead_usd)})
    if now.saved_unknown:
        notes.append(
            ngettext(
                "plus an unknown amount for %(answers)s answer",
                "plus an unknown amount for %(answers)s answers",
                now.saved_unknown,
            )
            % {"answers": figures.count(now.saved_unknown)}
        )
    changed = _change(now.saved_net_usd, before and before.saved_net_usd, figures.money)
    value, exact = figures.money(now.saved_net_usd), _exact(now.saved_net_usd)
    return Card("saved", _("Saved, net"), value, exact, notes, changed)


def _hit_rate(now: Totals, before: Totals | None) -> Card:
    notes = [
        ngettext("%(answered)s of %(asked)s call answered", "%(answered)s of %(asked)s calls answered", now.asked)
        % {"answered": figures.count(now.answered), "asked": figures.count(now.asked)}
    ]
    if now.bypasses or now.errors:
        notes.append(_("outside it: %(bypasses)s, %(errors)s") % _outside(now))
    changed: Change | None = None
    if before is not None and now.hit_rate is not None and before.hit_rate is not None:
        by = figures.change(now.hit_rate, before.hit_rate, figures.points)
        changed = Change(by, figures.percent(before.hit_rate))
    exact = "" if now.hit_rate is None else repr(now.hit_rate)
    return Card("hit-rate", _("Hit rate"), figures.percent(now.hit_rate), exact, notes, changed)


def _outside(now: Totals) -> dict[str, str]:
    bypasses = ngettext("%(count)s bypass", "%(count)s bypasses", now.bypasses)
    errors = ngettext("%(count)s error", "%(count)s errors", now.errors)
    return {
        "bypasses": bypasses % {"count": figures.count(now.bypasses)},
        "errors": errors % {"count": figures.count(now.errors)},
    }


def _spent(now: Totals, before: Totals | None) -> Card:
    notes = [
        ngettext("for %(calls)s provider call", "for %(calls)s provider calls", now.calls)
        % {"calls": figures.count(now.calls)}
    ]
    changed = _change(now.spent_usd, before and before.spent_usd, figures.money)
    return Card("spent", _("Spent"), figures.money(now.spent_usd), _exact(now.spent_usd), notes, changed)


def _avoided(now: Totals, before: Totals | None) -> Card:
    notes = [
        ngettext("%(calls)s hit", "%(calls)s hits", now.hits) % {"calls": figures.count(now.hits)},
        _("%(stale)s stale, %(collapsed)s collapsed")
        % {"stale": figures.count(now.stale), "collapsed": figures.count(now.collapsed)},
    ]
    changed = _change(now.calls_avoided, before and before.calls_avoided, figures.count)
    value, exact = figures.count(now.calls_avoided), str(now.calls_avoided)
    return Card("avoided", _("Calls avoided"), value, exact, notes, changed)


def _time(now: Totals, before: Totals | None) -> Card:
    notes = [_("of waiting for answers that were there")]
    changed = _change(now.seconds_saved, before and before.seconds_saved, figures.duration)
    value, exact = figures.duration(now.seconds_saved), repr(now.seconds_saved)
    return Card("time", _("Time saved"), value, exact, notes, changed)


def _coverage(now: Totals) -> Card:
    """Return how much of the spending is known: no money figure says more than this."""
    if not now.calls:
        notes = [_("no provider calls")]
    elif now.calls_unpriced or now.calls_in_doubt:
        notes = [*_unpriced(now)]
    else:
        notes = [_("each provider call has a price")]
    exact = "" if now.coverage is None else repr(now.coverage)
    warns = now.coverage is not None and now.coverage < 1
    return Card("coverage", _("Prices known"), figures.percent(now.coverage), exact, notes, warns=warns)


def _unpriced(now: Totals) -> Iterable[str]:
    if now.calls_unpriced:
        yield (
            ngettext("%(calls)s call without a price", "%(calls)s calls without a price", now.calls_unpriced)
            % {"calls": figures.count(now.calls_unpriced)}
        )
    if now.calls_in_doubt:
        bound = (
            _("at most %(amount)s") % {"amount": figures.money(now.in_doubt_usd)}
            if now.in_doubt_usd is not None
            else _("without a bound")
        )
        yield (
            ngettext("%(calls)s call in doubt, %(bound)s", "%(calls)s calls in doubt, %(bound)s", now.calls_in_doubt)
            % {"calls": figures.count(now.calls_in_doubt), "bound": bound}
        )


def months(now: Months) -> list[Figure]:
    """Return the three figures of monthly savings."""
    return [
        _measured("to-date", _("Month to date"), now.to_date, now.first, now.today),
        _measured("last-30", _("Last 30 full days"), now.last_30, now.last_30_first, now.last_30_last),
        _projected(now),
    ]


def _measured(name: str, label: str, totals: Totals, first: date, last: date) -> Figure:
    notes = [
        _("gross %(gross)s, spent %(spent)s")
        % {"gross": figures.money(totals.saved_gross_usd), "spent": figures.money(totals.spent_usd)}
    ]
    value, exact = figures.money(totals.saved_net_usd), _exact(totals.saved_net_usd)
    return Figure(name, label, value, exact, figures.days(first, last), notes)


def _projected(months: Months) -> Figure:
    label, dates = _("Projected month"), date_format(months.today, "F Y")
    found = months.projected
    if found is None:
        notes = [
            _("From %(least)s complete days on; so far there are %(days)s.")
            % {"least": months.least_days, "days": months.complete_days}
        ]
        return Figure("projected", label, figures.UNKNOWN, "", dates, notes)
    notes = [
        _("likely %(low)s to %(high)s") % {"low": figures.money(found.low_usd), "high": figures.money(found.high_usd)},
        _to_come(found),
    ]
    return Figure("projected", label, figures.money(found.net_usd), _exact(found.net_usd), dates, notes)


def _to_come(found: Projection) -> str:
    if not found.days_left:
        return _("today is the last day: what is saved so far")
    return ngettext(
        "for the %(left)s day to come the mean of %(days)s (%(dates)s)",
        "for the %(left)s days to come the mean of %(days)s (%(dates)s)",
        found.days_left,
    ) % {"left": found.days_left, "days": found.days, "dates": figures.days(found.first, found.last)}


def _exact(amount: Decimal) -> str:
    return format(amount, "f")
