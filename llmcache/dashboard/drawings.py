"""The dashboard's charts with what belongs to them: title, legend, a sentence for those who do not see, a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from llmcache.dashboard import charts, figures
from llmcache.money.overview import Day, Overview


@dataclass(frozen=True, slots=True)
class Key:
    """A colour, what it means, and how much there is of it in the period."""

    series: str
    label: str
    value: str


@dataclass(frozen=True, slots=True)
class Table:
    """The numbers of a chart or a list: texts, all but the first of each row to the right."""

    name: str
    caption: str
    heads: list[str]
    rows: list[list[str]]


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart with all that belongs to it."""

    name: str
    title: str
    summary: str
    """What is to be seen, for those who do not see it."""
    keys: list[Key]
    chart: charts.Chart
    strip: charts.Chart | None
    strip_keys: list[Key]
    table: Table


def drawings(seen: Overview) -> list[Drawing]:
    """Return the charts of a period."""
    return [_outcomes(seen), _amounts(seen), _rates(seen)]


def _outcomes(seen: Overview) -> Drawing:
    totals = seen.totals
    labels = {"hits": _("Hits"), "stale": _("Stale"), "collapsed": _("Collapsed"), "misses": _("Misses")}
    outside = {"bypasses": _("Bypasses"), "errors": _("Errors")}

    def keys(of: Mapping[str, str]) -> list[Key]:
        return [Key(name, label, figures.count(getattr(totals, name))) for name, label in of.items()]

    names = [*labels, *outside]
    rows = [[_day(day), *(figures.count(getattr(day.totals, name)) for name in names)] for day in seen.days]
    return Drawing(
        name="outcomes",
        title=_("Calls by outcome"),
        summary=_highest(seen.days, lambda day: day.totals.asked, figures.count, _("the most calls")),
        keys=keys(labels),
        chart=charts.outcomes(seen.days),
        strip=charts.outside(seen.days),
        strip_keys=keys(outside),
        table=Table("outcomes", _("Calls by day and outcome"), [_("Day"), *labels.values(), *outside.values()], rows),
    )


def _amounts(seen: Overview) -> Drawing:
    rows = [
        [_day(day), *map(figures.money, (day.totals.saved_net_usd, day.totals.saved_gross_usd, day.totals.spent_usd))]
        for day in seen.days
    ]
    return Drawing(
        name="amounts",
        title=_("Saved and spent"),
        summary=_highest(seen.days, lambda day: day.totals.saved_net_usd, figures.money, _("the most saved")),
        keys=[
            Key("saved", _("Saved, net"), figures.money(seen.totals.saved_net_usd)),
            Key("spent", _("Spent"), figures.money(seen.totals.spent_usd)),
        ],
        chart=charts.amounts(seen.days),
        strip=None,
        strip_keys=[],
        table=Table(
            "amounts", _("Saved and spent by day"), [_("Day"), _("Saved, net"), _("Saved, gross"), _("Spent")], rows
        ),
    )


def _rates(seen: Overview) -> Drawing:
    rows = [
        [
            _day(day),
            figures.percent(day.totals.hit_rate),
            figures.count(day.totals.answered),
            figures.count(day.totals.asked),
        ]
        for day in seen.days
    ]
    asked = [day for day in seen.days if day.totals.hit_rate is not None]
    return Drawing(
        name="rates",
        title=_("Hit rate"),
        summary=_highest(asked, lambda day: day.totals.hit_rate or 0.0, figures.percent, _("the highest")),
        keys=[Key("rate", _("Hit rate"), figures.percent(seen.totals.hit_rate))],
        chart=charts.rates(seen.days),
        strip=None,
        strip_keys=[],
        table=Table("rates", _("Hit rate by day"), [_("Day"), _("Hit rate"), _("Answered"), _("Calls")], rows),
    )


def _highest(days: list[Day], amount: Callable[[Day], Any], shown: Callable[[Any], str], what: str) -> str:
    span = ngettext("%(days)s day", "%(days)s days", len(days)) % {"days": len(days)}
    if not days:
        return span
    top = max(days, key=amount)
    return _("%(span)s; %(what)s on %(day)s: %(amount)s. The table below has all numbers.") % {
        "span": span,
        "what": what,
        "day": _day(top),
        "amount": shown(amount(top)),
    }


def _day(day: Day) -> str:
    return date_format(day.day, "D j M Y")
