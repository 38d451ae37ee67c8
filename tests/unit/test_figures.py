"""Figures as people read them."""

from datetime import date
from decimal import Decimal

import pytest
from django.utils import translation

from llmcache.dashboard import figures

SPACE = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"


@pytest.mark.parametrize(
    ("dollars", "shown"),
    [
        (None, DASH),
        ("0", "$0.00"),
        ("1234.56", "$1,234.56"),
        ("24.204124481228", "$24.20"),
        ("0.1", "$0.10"),
        ("0.0996", "$0.10"),
        ("0.094", "$0.094"),
        ("0.0401", "$0.04"),
        ("0.00100", "$0.001"),
        ("0.0042", "$0.0042"),
        ("0.00421", "$0.0042"),
        ("0.000000000001", "$0.000000000001"),
        ("-0.12", f"{MINUS}$0.12"),
        ("-0.0042", f"{MINUS}$0.0042"),
        ("9223372.036854775807", "$9,223,372.04"),
        ("1000000000000000000", "$1,000,000,000,000,000,000.00"),
    ],
)
def test_money(dollars: str | None, shown: str) -> None:
    assert figures.money(None if dollars is None else Decimal(dollars)) == shown


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (None, DASH),
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.6137, "61.4 %"),
        (0.5, "50.0 %"),
        # What is nearly all is not all, and what is nearly nothing is something.
        (0.99999, "> 99.9 %"),
        (0.00001, "< 0.1 %"),
    ],
)
def test_percent(share: float | None, shown: str) -> None:
    assert figures.percent(share).replace(SPACE, " ") == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (0.01, "< 0.1 s"),
        (2.34, "2.3 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (725, "12 min 5 s"),
        (3_599.7, "1 h"),
        (11_520, "3 h 12 min"),
        (47 * 3_600 + 59.9 * 60, "2 d"),
        (187_200, "2 d 4 h"),
        (90_000_000, "1,041 d 16 h"),
        (-11_520, f"{MINUS}3 h 12 min"),
    ],
)
def test_duration(seconds: float, shown: str) -> None:
    assert figures.duration(seconds).replace(SPACE, " ") == shown


def test_counts_have_thousands() -> None:
    assert [figures.count(number) for number in (0, 12, 12_345, -1_200)] == ["0", "12", "12,345", f"{MINUS}1,200"]


def test_a_change_has_a_sign_unless_nobody_would_see_it() -> None:
    assert figures.change(Decimal("2.5"), Decimal("1.3"), figures.money) == "+$1.20"
    assert figures.change(Decimal("1.3"), Decimal("2.5"), figures.money) == f"{MINUS}$1.20"
    assert figures.change(Decimal("1.3"), Decimal("1.3"), figures.money) == "±0"
    assert figures.change(0.5001, 0.5, figures.points) == "±0"
    assert figures.change(0.542, 0.5, figures.points) == "+4.2 points"
    assert figures.change(7, 12, figures.count) == f"{MINUS}5"


def test_days_name_each_part_once() -> None:
    assert figures.days(date(2026, 11, 21), date(2026, 11, 21)) == "21 Nov 2026"
    assert figures.days(date(2026, 11, 1), date(2026, 11, 21)) == f"1 {DASH} 21 Nov 2026"
    assert figures.days(date(2026, 10, 22), date(2026, 11, 20)) == f"22 Oct {DASH} 20 Nov 2026"
    assert figures.days(date(2025, 11, 1), date(2026, 11, 20)) == f"1 Nov 2025 {DASH} 20 Nov 2026"


def test_numbers_are_written_alike_in_every_language() -> None:
    with translation.override("de"):
        assert figures.money(Decimal("1234.56")) == "$1,234.56"
        assert figures.day(date(2026, 5, 1)) == "1 Mai"
