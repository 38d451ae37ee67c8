"""The demo's simulated clock: each call in its own hour, nothing from the future, and what is kept of it."""

import contextlib
import dataclasses
import functools
import sqlite3
import subprocess
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcache.testing.sandbox import Sandbox, read_charges
from project.demo import data
from project.demo.simulation import MOST_SECONDS, SimulatedTime, span_until
from tests.flows.newcomer import manage, real_api

REQUESTS = 120
HOUR = 3_600


def demo(var: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    done = manage(var, "demo", "--requests", str(REQUESTS), *arguments, **more)
    assert done.returncode == 0, done.stderr
    return done


def rows(var: Path, query: str, *values: object) -> list[Any]:
    with contextlib.closing(sqlite3.connect(var / "db.sqlite3")) as database:
        return database.execute(query, values).fetchall()


def unix(stored: str) -> float:
    return datetime.fromisoformat(stored).replace(tzinfo=UTC).timestamp()


def spans(var: Path) -> list[tuple[float, float]]:
    found = rows(var, "SELECT simulated_from, simulated_until FROM demo_demorun ORDER BY id")
    return [(unix(began), unix(ended)) for began, ended in found]


def test_each_call_counts_in_the_hour_that_its_request_was_stretched_to(var: Path) -> None:
    """By hand, from the log itself: with one thread nobody moves the clock while a call is under way."""
    demo(var, "--threads", "1")
    ((began, ended),) = spans(var)
    assert time.time() - 120 < ended <= time.time()
    assert ended - began == pytest.approx(31 * 86_400)
    log = data.read_log(REQUESTS)
    (charges,) = (var / "sandbox").iterdir()
    bill = iter(charge["price_pico_usd"] for charge in read_charges(charges))
    counts: Counter[tuple[float, str]] = Counter()
    spent: Counter[float] = Counter()
    avoided: Counter[float] = Counter()
    costs: dict[str, int] = {}
    for request in log:
        at = began + (ended - began) * request.at_ms / log[-1].at_ms
        hour = at // HOUR * HOUR
        counts[hour, "hit" if request.text in costs else "miss"] += 1
        if request.text in costs:
            avoided[hour] += costs[request.text]
        else:
            costs[request.text] = next(bill)
            spent[hour] += costs[request.text]
    told = rows(
        var, "SELECT hour, outcome, count, spent_pico_usd, avoided_pico_usd, simulated FROM llmcache_usagebucket"
    )
    assert len({hour for hour, *_ in told}) > 100
    assert {simulated for *_, simulated in told} == {1}
    assert Counter({(unix(hour), outcome): count for hour, outcome, count, *_ in told}) == counts
    assert +Counter({unix(hour): money for hour, outcome, _, money, *_ in told if outcome == "miss"}) == +spent
    assert +Counter({unix(hour): money for hour, outcome, _, _, money, _ in told if outcome == "hit"}) == +avoided


def test_a_later_run_lies_between_the_one_before_and_now(var: Path) -> None:
    first = demo(var)
    assert "The time is simulated" in first.stdout
    second = demo(var)
    assert "provider calls: 0\n" in second.stdout
    (_, ended), (began, until) = spans(var)
    assert ended == began <= until <= time.time()
    ((latest,),) = rows(var, "SELECT max(hour) FROM llmcache_usagebucket")
    assert unix(latest) <= time.time()
    assert rows(var, "SELECT count(*) FROM llmcache_usagebucket WHERE NOT simulated") == [(0,)]
    # Entries outlive the time that runs are stretched over.
    entry = "SELECT min(written_at), min(expires_at), min(simulated) FROM llmcache_cacheentry"
    ((written, expires, simulated),) = rows(var, entry)
    # Some of it is taken off, so that what is stored together does not expire together.
    assert 0.9 * 60 * 86_400 <= unix(expires) - unix(written) <= 60 * 86_400
    assert unix(expires) > time.time() + 20 * 86_400
    assert simulated == 1


def test_what_costs_money_is_recorded_when_it_happens(var: Path) -> None:
    """And a simulated run after it comes after it, though it began long before."""
    with Sandbox() as provider:
        done = demo(var, "--yes", **real_api(provider))
    assert "simulated" not in done.stdout
    assert rows(var, "SELECT simulated_from, simulated_until FROM demo_demorun") == [(None, None)]
    assert rows(var, "SELECT DISTINCT simulated FROM llmcache_usagebucket") == [(0,)]
    assert rows(var, "SELECT DISTINCT simulated FROM llmcache_providercall") == [(0,)]
    ((paid,),) = rows(var, "SELECT max(ended_at) FROM llmcache_providercall")
    # A model's answers differ from what people have labelled: the run fails on that, and pays for none of them again.
    again = manage(var, "demo", "--requests", str(REQUESTS))
    assert "provider calls: 0\n" in again.stdout
    ((began, _),) = [
        (unix(began), unix(ended))
        for began, ended in rows(
            var, "SELECT simulated_from, simulated_until FROM demo_demorun WHERE simulated_from IS NOT NULL"
        )
    ]
    assert unix(paid) <= began
    assert rows(var, "SELECT sum(count) FROM llmcache_usagebucket WHERE simulated") == [(REQUESTS,)]
    assert rows(var, "SELECT sum(count) FROM llmcache_usagebucket WHERE NOT simulated") == [(REQUESTS,)]


@functools.cache
def any_request() -> data.Request:
    return data.read_log(1)[0]


def requests(times: list[int]) -> list[data.Request]:
    return [dataclasses.replace(any_request(), at_ms=at_ms) for at_ms in sorted(times)]


NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@given(
    st.lists(st.integers(0, 10**7), min_size=1, max_size=50),
    st.none() | st.timedeltas(timedelta(days=-400), timedelta(days=2)),
)
def test_the_clock_ends_now_begins_after_what_is_known_and_never_goes_back(
    times: list[int], known: timedelta | None
) -> None:
    now = NOW.timestamp()
    since = None if known is None else (NOW + known).timestamp()
    log = requests(times)
    clock = SimulatedTime(log, span_until(now, since))
    seen = [clock.now]
    for request in log:
        clock.take(request)
        seen.append(clock.now)
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(now)
    assert now - MOST_SECONDS <= seen[0] <= now
    assert since is None or min(since, now) <= seen[0]
    # Somebody who comes late does not turn it back.
    clock.take(log[0])
    assert clock.now == seen[-1]
