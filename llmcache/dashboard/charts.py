"""The geometry of the charts: from days to rectangles, lines and ticks. No markup, no colours.

Across, a chart has ``WIDTH`` units that the page stretches to the width there is; down, its units are pixels. So bars
become wider with the page while text and lines keep their size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from itertools import pairwise
from typing import Final

from django.utils.formats import date_format
from django.utils.translation import gettext as _

from llmcache.dashboard import figures
from llmcache.money.overview import Day
from llmcache.money.totals import Totals

WIDTH: Final = 1_000
HEIGHT: Final = 200
STRIP_HEIGHT: Final = 36

_BAR: Final = 0.76
"""The share of a day's room that its bar takes."""
_WIDEST: Final = 48.0
"""Of a bar: a week's seven would be slabs."""
_STEPS: Final = (Decimal(1), Decimal(2), Decimal(5))
_INTERVALS: Final = 4
"""Between grid lines, at most; with both signs one more."""
_EVERY: Final = ((8, 1), (16, 2), (45, 5), (100, 14))
"""Up to how many days a label stands at which of them; above, at the first of each month."""
_ABOVE: Final = 8
_BELOW: Final = 24
_DOTS: Final = 62
"""Days up to which a line shows each of its points."""
_PAIRS: Final = 120
"""Days up to which each has room for two bars."""

STACKED: Final = ("hits", "stale", "collapsed", "misses")
"""What the hit rate is made of, from below."""
OUTSIDE: Final = ("bypasses", "errors")


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle of one series."""

    series: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Column:
    """What a day has in a chart, and the words for it."""

    x: float
    width: float
    words: str
    bars: list[Bar]


@dataclass(frozen=True, slots=True)
class Level:
    """A grid line and its label."""

    y: float
    label: str
    zero: bool


@dataclass(frozen=True, slots=True)
class Mark:
    """A label under a day."""

    percent: float
    """From the left."""
    label: str
    spare: bool
    """It can be left out where there is little room."""


@dataclass(frozen=True, slots=True)
class Dot:
    """A point of a line."""

    percent: float
    y: float


@dataclass(frozen=True, slots=True)
class Line:
    """A line of one series, broken where there is nothing."""

    series: str
    path: str
    """As SVG writes it."""
    area: str
    """What is between it and the zero line; empty where that is not shown."""
    dots: tuple[Dot, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart, ready to be drawn."""

    height: int
    levels: list[Level]
    marks: list[Mark]
    columns: list[Column]
    lines: tuple[Line, ...] = ()

    @property
    def width(self) -> int:
        """Units across."""
        return WIDTH

    @property
    def above(self) -> int:
        """Pixels above it, for the half of a label."""
        return _ABOVE

    @property
    def total_height(self) -> int:
        """Pixels in all, with the labels."""
        return _ABOVE + self.height + (_BELOW if self.marks else _ABOVE)


@dataclass(frozen=True, slots=True)
class Scale:
    """Amounts on their way to heights: the levels are round numbers, the first and the last enclose all amounts."""

    levels: tuple[Decimal, ...]
    height: int

    @classmethod
    def over(
        cls, low: Decimal, high: Decimal, height: int, *, whole: bool = False, intervals: int = _INTERVALS
    ) -> Scale:
        """Return the scale for amounts between two; zero always belongs to it. ``whole``: no levels between numbers."""
        low, high = min(low, Decimal(0)), max(high, Decimal(0))
        if low == high:
            high = Decimal(1)
        step = _step((high - low) / intervals)
        if whole:
            step = max(step, Decimal(1))
        first, last = (
            int((low / step).to_integral_value("ROUND_FLOOR")),
            int((high / step).to_integral_value("ROUND_CEILING")),
        )
        return cls(tuple(number * step for number in range(first, last + 1)), height)

    @property
    def step(self) -> Decimal:
        """The distance of two levels."""
        return self.levels[1] - self.levels[0]

    def y(self, amount: float | Decimal) -> float:
        """Return how far from the top an amount is."""
        low, high = float(self.levels[0]), float(self.levels[-1])
        return round(self.height * (high - float(amount)) / (high - low), 2)


def _step(least: Decimal) -> Decimal:
    """Return the smallest of 1, 2, 5, 10, 20, … (or 0.1, 0.2, …) that is not less."""
    unit = Decimal(1).scaleb(least.adjusted())
    return next((unit * step for step in _STEPS if unit * step >= least), unit * 10)


def outcomes(days: Sequence[Day]) -> Chart:
    """Return the calls of each day, stacked by what the hit rate is made of."""
    scale = Scale.over(Decimal(0), Decimal(max((day.totals.asked for day in days), default=0)), HEIGHT, whole=True)
    return _stacked(days, STACKED, scale, marks(days))


def outside(days: Sequence[Day]) -> Chart | None:
    """Return the calls of each day that stand outside the hit rate; None when there are none."""
    highest = max((sum(getattr(day.totals, name) for name in OUTSIDE) for day in days), default=0)
    if not highest:
        return None
    return _stacked(days, OUTSIDE, Scale.over(Decimal(0), Decimal(highest), STRIP_HEIGHT, whole=True, intervals=1), [])


def _stacked(days: Sequence[Day], names: Sequence[str], scale: Scale, below: list[Mark]) -> Chart:
    columns: list[Column] = []
    for day, (left, room) in zip(days, _rooms(len(days)), strict=True):
        x, width = _bar(left, room)
        bars: list[Bar] = []
        reached = 0
        for name in names:
            amount: int = getattr(day.totals, name)
            if amount:
                top, bottom = scale.y(reached + amount), scale.y(reached)
                bars.append(Bar(name, x, top, width, round(bottom - top, 2)))
            reached += amount
        columns.append(Column(left, room, _said(day.day, _counted(day.totals, names)), bars))
    return Chart(scale.height, _levels(scale, lambda level: figures.count(int(level))), below, columns)


def _counted(totals: Totals, names: Iterable[str]) -> list[str]:
    said = {
        "hits": _("hits: %(number)s"),
        "stale": _("stale: %(number)s"),
        "collapsed": _("collapsed: %(number)s"),
        "misses": _("misses: %(number)s"),
        "bypasses": _("bypasses: %(number)s"),
        "errors": _("errors: %(number)s"),
    }
    return [said[name] % {"number": figures.count(getattr(totals, name))} for name in names]


def amounts(days: Sequence[Day]) -> Chart:
    """Return what was saved net and what was spent on each day, side by side; what was lost goes down.

    Bars, or lines where the days are too many for two bars each.
    """
    every = [amount for day in days for amount in (day.totals.saved_net_usd, day.totals.spent_usd)]
    scale = Scale.over(min(every, default=Decimal(0)), max(every, default=Decimal(0)), HEIGHT)
    columns: list[Column] = []
    for day, (left, room) in zip(days, _rooms(len(days)), strict=True):
        x, width = _bar(left, room)
        half = round(width / 2, 2)
        saved, spent = day.totals.saved_net_usd, day.totals.spent_usd
        made = (_grown("saved", x, half, saved, scale), _grown("spent", round(x + half, 2), half, spent, scale))
        words = [
            _("saved: %(amount)s") % {"amount": figures.money(saved)},
            _("spent: %(amount)s") % {"amount": figures.money(spent)},
        ]
        bars = [bar for bar in made if bar.height] if len(days) <= _PAIRS else []
        columns.append(Column(left, room, _said(day.day, words), bars))
    lines: tuple[Line, ...] = ()
    if len(days) > _PAIRS:
        saved = _line("saved", days, scale, lambda totals: totals.saved_net_usd)
        lines = (saved, _line("spent", days, scale, lambda totals: totals.spent_usd))
    return Chart(HEIGHT, _levels(scale, lambda level: _axis_money(level, scale.step)), marks(days), columns, lines)


def _grown(series: str, x: float, width: float, amount: Decimal, scale: Scale) -> Bar:
    top, bottom = scale.y(max(amount, Decimal(0))), scale.y(min(amount, Decimal(0)))
    return Bar(series, x, top, width, round(bottom - top, 2))


def rates(days: Sequence[Day]) -> Chart:
    """Return the hit rate of each day as a line, which is broken where nothing was asked."""
    scale = Scale(tuple(Decimal(level) / 100 for level in (0, 25, 50, 75, 100)), HEIGHT)
    columns = [
        Column(left, room, _said(day.day, [figures.percent(day.totals.hit_rate), _answered(day.totals)]), [])
        for day, (left, room) in zip(days, _rooms(len(days)), strict=True)
    ]
    line = _line("rate", days, scale, lambda totals: totals.hit_rate, area=True)
    levels = _levels(scale, lambda level: _("%(number)s %%") % {"number": int(level * 100)})
    return Chart(HEIGHT, levels, marks(days), columns, (line,))


def _line(
    series: str,
    days: Sequence[Day],
    scale: Scale,
    amount: Callable[[Totals], float | Decimal | None],
    *,
    area: bool = False,
) -> Line:
    runs: list[list[tuple[float, float]]] = [[]]
    for day, (left, room) in zip(days, _rooms(len(days)), strict=True):
        at = amount(day.totals)
        if at is not None:
            runs[-1].append((round(left + room / 2, 2), scale.y(at)))
        elif runs[-1]:
            runs.append([])
    runs = [run for run in runs if run]
    paths = ["M" + "L".join(f"{x} {y}" for x, y in run) for run in runs]
    zero = scale.y(0)
    areas = [f"{path}L{run[-1][0]} {zero}L{run[0][0]} {zero}Z" for path, run in zip(paths, runs, strict=True)]
    # One alone would be a line without a length.
    shown = [point for run in runs if len(run) == 1 or len(days) <= _DOTS for point in run]
    dots = tuple(Dot(round(x * 100 / WIDTH, 3), y) for x, y in shown)
    return Line(series, "".join(paths), "".join(areas) if area else "", dots)


def _answered(totals: Totals) -> str:
    return _("%(answered)s of %(asked)s calls") % {
        "answered": figures.count(totals.answered),
        "asked": figures.count(totals.asked),
    }


def marks(days: Sequence[Day]) -> list[Mark]:
    """Return the labels under a chart; the last day always has one, unless only months have."""
    count = len(days)
    every = next((each for most, each in _EVERY if count <= most), None)
    if every is None:
        places = [place for place, day in enumerate(days) if day.day.day == 1]
    else:
        places = [*range(count - 1, -1, -every)][::-1]
    made: list[Mark] = []
    for number, place in enumerate(places):
        middle = (place + 0.5) / count
        label = figures.day(days[place].day) if every else _month(days[place].day)
        spare = (len(places) - 1 - number) % 2 == 1
        made.append(Mark(round(middle * 100, 3), label, spare))
    return made


def _month(first: date) -> str:
    return date_format(first, "M Y" if first.month == 1 else "M")


def _rooms(count: int) -> list[tuple[float, float]]:
    """Return where the room of each day begins, and how wide it is."""
    edges = [round(WIDTH * number / count, 2) for number in range(count + 1)] if count else [0.0]
    return [(left, round(right - left, 2)) for left, right in pairwise(edges)]


def _bar(left: float, room: float) -> tuple[float, float]:
    width = round(min(room * _BAR, _WIDEST), 2)
    return round(left + (room - width) / 2, 2), width


def _levels(scale: Scale, label: Callable[[Decimal], str]) -> list[Level]:
    return [Level(scale.y(level), label(level), not level) for level in scale.levels]


def _axis_money(level: Decimal, step: Decimal) -> str:
    places = max(-int(step.normalize().as_tuple().exponent), 0)
    places = 2 if places == 1 else places
    return f"{figures.MINUS if level < 0 else ''}${abs(level):,.{places}f}" if level else "$0"


def _said(day: date, words: Iterable[str]) -> str:
    return "\n".join((date_format(day, "D j M Y"), *words))
