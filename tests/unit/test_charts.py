"""The geometry of the charts, for whatever days there are."""

from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from django.utils import translation
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcache.dashboard import charts
from llmcache.dashboard.charts import HEIGHT, OUTSIDE, STACKED, WIDTH, Chart
from llmcache.money.overview import Day
from llmcache.money.totals import totals_of

FIRST = date(2026, 1, 30)
NEAR = 0.02
"""Coordinates have two decimals."""

counts = st.one_of(st.just(0), st.integers(0, 40), st.integers(0, 10**9))
picos = st.one_of(st.just(0), st.integers(0, 10**10), st.integers(0, 10**17))
sums = st.fixed_dictionaries(
    {
        **dict.fromkeys((*STACKED, *OUTSIDE), counts),
        **dict.fromkeys(("avoided_pico_usd", "ahead_pico_usd", "spent_pico_usd"), picos),
    }
)


def days_of(*made: dict[str, int], count: int | None = None) -> list[Day]:
    """Return days with these sums, again and again up to a count."""
    count = len(made) if count is None else count
    return [
        Day(FIRST + timedelta(days=number), totals_of(Counter(made[number % len(made)]))) for number in range(count)
    ]


made_of = st.lists(sums, min_size=1, max_size=9)
how_many = st.integers(0, 400)


def assert_inside(chart: Chart) -> None:
    for column in chart.columns:
        assert 0 <= column.x <= column.x + column.width <= WIDTH + NEAR
        for bar in column.bars:
            assert bar.width > 0
            assert bar.height >= 0
            assert column.x <= bar.x <= bar.x + bar.width <= column.x + column.width + NEAR
            assert -NEAR <= bar.y <= bar.y + bar.height <= chart.height + NEAR
    for level in chart.levels:
        assert 0 <= level.y <= chart.height
    for mark in chart.marks:
        assert 0 < mark.percent < 100
    for line in chart.lines:
        for dot in line.dots:
            assert 0 < dot.percent < 100
            assert 0 <= dot.y <= chart.height
        for x, y in points(line.path):
            assert 0 < x < WIDTH
            assert 0 <= y <= chart.height


def points(path: str) -> list[tuple[float, float]]:
    """Return the points of a path that has only lines."""
    return [(float(x), float(y)) for x, y in (each.split() for each in path.replace("M", "L").split("L")[1:])]


@settings(max_examples=40, deadline=None)
@given(made_of, how_many)
def test_everything_lies_inside(made: list[dict[str, int]], count: int) -> None:
    days = days_of(*made, count=count)
    for make in (charts.outcomes, charts.outside, charts.amounts, charts.rates):
        if (chart := make(days)) is not None:
            assert_inside(chart)
            # Each day has its room, and no room is left over.
            assert len(chart.columns) == len(days)
            for before, after in pairwise(chart.columns):
                assert before.x + before.width == pytest.approx(after.x, abs=NEAR)


@settings(max_examples=40, deadline=None)
@given(made_of, how_many)
def test_a_stack_is_as_high_as_its_sum(made: list[dict[str, int]], count: int) -> None:
    days = days_of(*made, count=count)
    chart = charts.outcomes(days)
    highest = max((day.totals.asked for day in days), default=0)
    for day, column in zip(days, chart.columns, strict=True):
        assert [bar.series for bar in column.bars] == [name for name in STACKED if getattr(day.totals, name)]
        bottom = HEIGHT
        for bar in column.bars:
            assert bar.y + bar.height == pytest.approx(bottom, abs=NEAR)
            bottom = bar.y
        if highest and day.totals.asked == highest:
            # The levels are round, so that the highest may leave up to half of the height.
            assert bottom <= HEIGHT / 2
        if day.totals.asked:
            unit = (HEIGHT - bottom) / day.totals.asked
            for bar in column.bars:
                assert bar.height == pytest.approx(getattr(day.totals, bar.series) * unit, abs=2 * NEAR)


@settings(max_examples=40, deadline=None)
@given(made_of, how_many)
def test_what_is_lost_goes_down(made: list[dict[str, int]], count: int) -> None:
    days = days_of(*made, count=count)
    chart = charts.amounts(days[:120])
    (zero,) = (level.y for level in chart.levels if level.zero)
    for day, column in zip(days, chart.columns, strict=False):
        for bar in column.bars:
            amount = day.totals.spent_usd if bar.series == "spent" else day.totals.saved_net_usd
            assert amount != 0
            if amount > 0:
                assert bar.y + bar.height == pytest.approx(zero, abs=NEAR)
            else:
                assert bar.y == pytest.approx(zero, abs=NEAR)


def test_amounts_are_in_proportion() -> None:
    made = days_of(
        {"avoided_pico_usd": 3 * 10**12, "spent_pico_usd": 10**12},
        {"avoided_pico_usd": 0, "ahead_pico_usd": 10**12, "spent_pico_usd": 2 * 10**12},
    )
    chart = charts.amounts(made)
    heights = [[(bar.series, bar.height) for bar in column.bars] for column in chart.columns]
    assert heights == [[("saved", 150), ("spent", 50)], [("saved", 50), ("spent", 100)]]
    assert [level.label for level in chart.levels] == ["\N{MINUS SIGN}$1", "$0", "$1", "$2", "$3"]


@given(st.decimals(-(10**9), 10**9, places=12), st.decimals(-(10**9), 10**9, places=12), st.booleans())
def test_levels_are_round_and_enclose_all(one: Decimal, other: Decimal, whole: bool) -> None:
    scale = charts.Scale.over(min(one, other), max(one, other), HEIGHT, whole=whole)
    assert 2 <= len(scale.levels) <= 7
    assert scale.levels[0] <= min(one, other, 0)
    assert scale.levels[-1] >= max(one, other, 0)
    assert 0 in scale.levels
    assert scale.step.normalize().as_tuple().digits in ((1,), (2,), (5,))
    assert not whole or scale.step >= 1


@settings(max_examples=40, deadline=None)
@given(made_of, how_many)
def test_a_rate_is_a_line_that_breaks_where_nothing_was_asked(made: list[dict[str, int]], count: int) -> None:
    days = days_of(*made, count=count)
    (line,) = charts.rates(days).lines
    known = [day.totals.hit_rate for day in days if day.totals.hit_rate is not None]
    assert [y for _, y in points(line.path)] == [pytest.approx(HEIGHT * (1 - rate), abs=NEAR) for rate in known]
    asked = [day.totals.asked > 0 for day in days]
    begun = sum(now and not before for before, now in zip([False, *asked], asked, strict=False))
    assert line.path.count("M") == line.area.count("M") == begun
    if len(days) <= 62:
        assert len(line.dots) == len(known)


def test_a_day_alone_between_others_is_a_dot() -> None:
    made = days_of({"hits": 1}, {"errors": 1}, count=300)
    (line,) = charts.rates(made).lines
    assert len(line.dots) == 150


@pytest.mark.parametrize(("count", "shown"), [(0, 0), (1, 1), (7, 7), (8, 8), (30, 6), (31, 7), (90, 7), (400, 14)])
def test_days_are_labelled_as_far_as_there_is_room(count: int, shown: int) -> None:
    marks = charts.outcomes(days_of({"hits": 1}, count=count)).marks
    assert len(marks) == shown
    assert all(before.percent < after.percent for before, after in pairwise(marks))
    # The last label is never the one that is left out on a narrow page, nor are two beside each other.
    assert [mark.spare for mark in marks] == [(shown - 1 - number) % 2 == 1 for number in range(shown)]
    if 0 < count <= 100:
        last = FIRST + timedelta(days=count - 1)
        assert marks[-1].label == f"{last.day} {last:%b}"


def test_a_year_is_labelled_by_months() -> None:
    marks = charts.outcomes(days_of({"hits": 1}, count=400)).marks
    assert [mark.label for mark in marks][:2] == ["Feb", "Mar"]
    assert "Jan 2027" in [mark.label for mark in marks]


def test_a_bar_says_what_it_is() -> None:
    made = days_of(
        {"hits": 1_200, "misses": 3, "bypasses": 4, "avoided_pico_usd": 5 * 10**12, "ahead_pico_usd": 6 * 10**12}
    )
    words: list[Callable[[list[Day]], Chart | None]] = [charts.outcomes, charts.outside, charts.amounts, charts.rates]
    said = [chart.columns[0].words for make in words if (chart := make(made)) is not None]
    assert said == [
        "Fri 30 Jan 2026\nhits: 1,200\nstale: 0\ncollapsed: 0\nmisses: 3",
        "Fri 30 Jan 2026\nbypasses: 4\nerrors: 0",
        "Fri 30 Jan 2026\nsaved: \N{MINUS SIGN}$1.00\nspent: $0.00",
        "Fri 30 Jan 2026\n99.8\N{NO-BREAK SPACE}%\n1,200 of 1,203 calls",
    ]


def test_no_bypass_and_no_error_is_no_chart() -> None:
    assert charts.outside(days_of({"hits": 3})) is None


def test_many_days_are_lines_in_place_of_pairs_of_bars() -> None:
    made = {"avoided_pico_usd": 10**12, "spent_pico_usd": 10**12}
    short, long = charts.amounts(days_of(made, count=120)), charts.amounts(days_of(made, count=121))
    assert [len(column.bars) for column in short.columns] == [2] * 120
    assert [line.series for line in long.lines] == ["saved", "spent"]
    assert not short.lines
    assert not any(column.bars for column in long.columns)


def test_labels_of_small_amounts_are_exact() -> None:
    chart = charts.amounts(days_of({"spent_pico_usd": 42 * 10**8}))
    assert [level.label for level in chart.levels] == ["$0", "$0.002", "$0.004", "$0.006"]
    with translation.override("de"):
        assert charts.amounts(days_of({"spent_pico_usd": 42 * 10**8})).levels[1].label == "$0.002"
