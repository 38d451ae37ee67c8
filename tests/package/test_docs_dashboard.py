"""The example of the dashboard's paper: its rows, put into the tables, come to the figures that it prints."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from functools import reduce
from typing import Any

import pytest

from llmcache.models import TenantDay, UsageBucket
from llmcache.money.overview import overview
from llmcache.money.periods import Period
from llmcache.money.pricing import PICO
from tests.conftest import MovedClock
from tests.package.test_docs import ROOT, blocks

PAPER = (ROOT / "docs" / "dashboard.md").read_text()
NOW = datetime(2026, 11, 5, 15, tzinfo=UTC)


def table(heading: str) -> list[list[str]]:
    """Return the rows of the table that begins with a heading, without backticks."""
    lines = PAPER[PAPER.index(f"| {heading} |") :].splitlines()[2:]
    rows = lines[: next(number for number, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in rows]


def write_the_examples_rows() -> None:
    for row in table("day | outcome"):
        day, outcome, *numbers = row
        calls, avoided, seconds, attempts, spent, unpriced = map(Decimal, numbers)
        sums: dict[str, Any] = {
            "count": calls,
            "avoided_pico_usd": avoided * PICO,
            "saved_ms": seconds * 1_000,
            "attempts": attempts,
            "spent_pico_usd": spent * PICO,
            "unpriced": unpriced,
        }
        hour = datetime.fromisoformat(day).replace(hour=10, tzinfo=UTC)
        UsageBucket.objects.create(hour=hour, outcome=outcome, kind="Ticket", model="openai/m", **sums)
        TenantDay.objects.create(day=hour.date(), outcome=outcome, tenant="acme", **sums)


@pytest.mark.django_db
def test_the_example_comes_to_what_it_says(clock: MovedClock) -> None:
    write_the_examples_rows()
    period, messages = Period.parse({"from": "2026-11-02", "to": "2026-11-05"}, today=NOW.date())
    assert messages == []
    seen = overview(period, now=NOW)
    told = table("figure | reckoned")
    assert len(told) == 13
    for name, _, value in told:
        found = reduce(getattr, name.split("."), seen)
        assert isinstance(found, int | float | Decimal)
        places = len(value.partition(".")[2])
        assert round(Decimal(found), places) == Decimal(value), name


@pytest.mark.django_db
def test_the_examples_lines_run(clock: MovedClock) -> None:
    """On the day that it speaks of."""
    write_the_examples_rows()
    clock.move(NOW.timestamp() - clock.clock.wall())
    names: dict[str, Any] = {}
    (block,) = (each for each in blocks(PAPER) if "overview" in each)
    exec(compile(block, "dashboard.md", "exec"), names)
    assert names["messages"] == []
    assert names["seen"].months.today == NOW.date()
    quoted = re.search(r'"saved_net_usd"\]  # "([\d.]+)"', block)
    assert quoted is not None
    assert names["seen"].as_dict()["totals"]["saved_net_usd"] == quoted[1]
