"""What a call that failed tells others, of its own process and of other processes."""

import json
from dataclasses import dataclass
from typing import Any

import pytest

from llmcache.engine.flights import ABANDONED, Landing, Limit, LimitName
from llmcache.engine.landings import limit_of, outcome_of
from llmcache.exceptions import LedgerFull, ProviderUnavailable

HERE, THERE = 1_000.0, 50.0
"""What two processes call the same moment, in monotonic seconds."""


@dataclass
class Limits:
    """Of a call, what it may do."""

    timeout: float = 10.0
    max_retries: int = 1
    max_reasks: int = 1


def told_elsewhere(limit: Limit | None, limits: Limits, seconds: float = 5.0) -> bool:
    """Return whether a call of another process, which has so many seconds left, tries where this limit was reached."""
    outcome = outcome_of(Landing(error=ProviderUnavailable("down"), limit=limit), HERE)
    call: Any = limits
    found = limit_of(outcome, THERE)
    return found is not None and found.is_passed_by(call, THERE + seconds)


def told_here(limit: Limit | None, limits: Limits, seconds: float = 5.0) -> bool:
    call: Any = limits
    return limit is not None and limit.is_passed_by(call, HERE + seconds)


@pytest.mark.parametrize("told", [told_here, told_elsewhere])
@pytest.mark.parametrize("name", ["max_retries", "max_reasks"])
def test_who_may_try_more_often_tries(name: LimitName, told: Any) -> None:
    assert told(Limit(name, 0), Limits())
    assert not told(Limit(name, 1), Limits())
    assert not told(Limit(name, 1), Limits(**{name: 0}))
    assert told(Limit(name, 1), Limits(**{name: 2}))


@pytest.mark.parametrize("told", [told_here, told_elsewhere])
def test_who_has_time_enough_tries(told: Any) -> None:
    assert told(Limit("deadline", HERE), Limits())
    assert told(Limit("deadline", HERE + 4), Limits())
    assert not told(Limit("deadline", HERE + 5), Limits())
    assert not told(Limit("deadline", HERE + 3_600), Limits())


@pytest.mark.parametrize("told", [told_here, told_elsewhere])
def test_who_has_asked_a_moment_later_does_not_try_in_the_moment_that_is_left(told: Any) -> None:
    assert not told(Limit("deadline", HERE), Limits(), 0.4)
    assert told(Limit("deadline", HERE), Limits(), 0.6)
    assert told(Limit("deadline", HERE), Limits(timeout=1), 0.4)


@pytest.mark.parametrize("told", [told_here, told_elsewhere])
def test_where_no_limit_was_reached_nobody_tries(told: Any) -> None:
    assert not told(None, Limits(max_retries=100, max_reasks=100), 1_000)


def test_what_is_nobody_elses_is_not_told() -> None:
    assert outcome_of(ABANDONED, HERE) == outcome_of(Landing(error=LedgerFull("full")), HERE) == b""


@pytest.mark.parametrize(
    "limit",
    [None, 1, "deadline", [], ["max_retries"], ["max_retries", None], ["max_retries", "0"], ["max_retries", True],
     ["timeout", 0], [[], 0], [{}, 0], {"max_retries": 0}, ["deadline", 10**400], ["deadline", -(10**400)],
     ["deadline", float("nan")], ["max_retries", float("inf")]],
    ids=lambda limit: json.dumps(limit)[:30],
)  # fmt: skip
def test_what_somebody_else_has_written_there_is_no_limit(limit: Any) -> None:
    assert limit_of(json.dumps({"limit": limit}).encode(), THERE) is None
    assert limit_of(b"[" * 100_000, THERE) is None
