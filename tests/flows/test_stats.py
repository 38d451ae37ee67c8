"""What calls came to: every figure of ``stats()`` against the provider's own book and the rows."""

from __future__ import annotations

import asyncio
import threading
import unittest
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, models, transaction
from django.test import TestCase
from django.test.utils import CaptureQueriesContext
from pydantic import BaseModel

import llmcache
from llmcache import Stats
from llmcache.engine import isolation
from llmcache.models import CacheEntry, ProviderCall, TenantDay, UsageBucket
from llmcache.testing.sandbox import Sandbox, faults
from tests.cache_servers import RedisServer
from tests.conftest import MovedClock, llmcache_settings
from tests.contract.aliases import ALIAS, in_caches
from tests.flows.test_costs import SANDBOX_PRICES
from tests.waiting import until

pytestmark = pytest.mark.django_db

NOTHING = Stats(0, 0, 0, 0, 0, 0, None, 0.0, Decimal(0), Decimal(0), 0, 0, 0, Decimal(0), 0)


class Person(BaseModel):
    """A person."""

    name: str


class Order(BaseModel):
    """An order."""

    item: str


@pytest.fixture
def provider(sandbox: Sandbox) -> Iterator[Sandbox]:
    with llmcache_settings(PRICES={**SANDBOX_PRICES, "openai/other": SANDBOX_PRICES["openai/gpt-5-mini"]}):
        yield sandbox


def bill(provider: Sandbox) -> Decimal:
    return Decimal(provider.bill_pico_usd) / 10**12


def tally(stats: Stats) -> dict[str, Any]:
    """Return the figures that are not zero."""
    return {each.name: value for each in fields(Stats) if each.compare and (value := getattr(stats, each.name))}


# Totals


def test_without_a_call_there_is_nothing() -> None:
    assert llmcache.stats() == NOTHING
    assert (llmcache.stats().coverage, llmcache.stats(by="kind")) == (None, {})


def test_each_figure_of_a_mixed_day(
    provider: Sandbox, forget_memory: Callable[[], None], no_backoff: list[float]
) -> None:
    with llmcache_settings(PRICES=SANDBOX_PRICES):
        costs = [llmcache.extract_with_info(f"text {number}", Person).cost_incurred_usd or 0 for number in range(3)]
        for number in (0, 0, 1):
            assert llmcache.extract_with_info(f"text {number}", Person).tier == "memory"
        forget_memory()
        assert llmcache.extract_with_info("text 2", Person).tier == "disk"
        llmcache.extract("text 0", Person, cache="bypass")
        llmcache.extract("text 0", Person, ttl=0)
        provider.fail(faults.refusal())
        with pytest.raises(llmcache.Refused):
            llmcache.extract("refused", Person)
        provider.fail(faults.wrong_json())
        llmcache.extract("asked twice", Person)
        provider.fail(faults.server_error(503))
        llmcache.extract("tried twice", Person)
        with pytest.raises(llmcache.NotCached):
            llmcache.extract("never asked", Person, cache="only")
        found = llmcache.stats()
    assert (found.misses, found.hits, found.bypasses, found.errors) == (5, 4, 2, 2)
    assert (found.stale, found.collapsed) == (0, 0)
    assert found.hit_rate == 4 / 9
    assert found.spent_usd == bill(provider)
    assert found.saved_usd == 2 * costs[0] + costs[1] + costs[2]
    # Three misses, two bypasses, one refused, two for one answer, two for another of which one was free.
    assert (found.calls, found.calls_unpriced, found.calls_in_doubt, found.in_doubt_usd) == (10, 0, 0, 0)
    assert (found.saved_unknown, found.coverage, found.lines_lost) == (0, 1.0, 0)
    seconds = sum(each.latency_ms * each.hits for each in CacheEntry.objects.all())
    assert found.seconds_saved == seconds / 1_000


def test_what_is_not_known_is_counted_beside_what_is(provider: Sandbox, no_backoff: list[float]) -> None:
    with llmcache_settings(PRICES=SANDBOX_PRICES):
        provider.fail(faults.missing_usage())
        llmcache.extract("no usage", Person)
        llmcache.extract("no usage", Person)
        assert tally(llmcache.stats()) == {
            "hits": 1,
            "misses": 1,
            "hit_rate": 0.5,
            "saved_unknown": 1,
            "calls": 1,
            "calls_unpriced": 1,
            "seconds_saved": llmcache.stats().seconds_saved,
        }
        assert llmcache.stats().coverage == 0.0
        provider.fail(faults.reset_after_charge())
        llmcache.extract("reset", Person, max_completion_tokens=100)
        llmcache.extract("priced", Person)
        found = llmcache.stats()
        assert (found.calls, found.calls_unpriced, found.calls_in_doubt, found.coverage) == (4, 1, 1, 0.5)
        (doubtful,) = ProviderCall.objects.filter(outcome="in_doubt")
        assert found.in_doubt_usd == Decimal(doubtful.bound_pico_usd or 0) / 10**12 > 0
        charges = {charge["client_request_id"]: charge["price_pico_usd"] for charge in provider.charges()}
        unpriced = ProviderCall.objects.get(outcome="answered", cost_pico_usd=None)
        of_reset, of_unpriced = (charges[str(each.call_id)] for each in (doubtful, unpriced))
        assert found.spent_usd == bill(provider) - Decimal(of_reset + of_unpriced) / 10**12


def test_a_doubt_without_a_bound_is_none(sandbox: Sandbox, no_backoff: list[float]) -> None:
    sandbox.fail(faults.reset_after_charge())
    with pytest.raises(llmcache.ProviderUnavailable):
        llmcache.extract("Ada", Person, model="openai/of-nobody", max_retries=0)
    found = llmcache.stats()
    assert (found.calls_in_doubt, found.in_doubt_usd, found.errors) == (1, None, 1)


def test_who_waits_for_anothers_call_saves_its_cost_and_not_its_time(provider: Sandbox) -> None:
    provider.hold()
    threads = [threading.Thread(target=llmcache.extract, args=("Ada", Person)) for _ in range(4)]
    for thread in threads:
        thread.start()
    provider.wait_until_received(1)
    provider.release()
    for thread in threads:
        thread.join()
    found = llmcache.stats()
    # Whoever came after the answer found it in memory.
    answered = found.collapsed + found.hits
    assert (found.misses, answered, found.hit_rate, found.calls) == (1, 3, 0.75, 1)
    assert found.saved_usd == 3 * found.spent_usd == 3 * bill(provider)
    entry = CacheEntry.objects.get()
    assert (entry.hits, found.seconds_saved) == (3, found.hits * entry.latency_ms / 1_000)


def test_the_sums_of_what_was_avoided_are_those_of_the_entries_hits(
    provider: Sandbox, forget_memory: Callable[[], None], no_backoff: list[float]
) -> None:
    with llmcache_settings(PRICES=SANDBOX_PRICES):
        for number in range(12):
            if number % 4 == 0:
                provider.fail(faults.wrong_json())
            if number == 7:
                provider.fail(faults.missing_usage())
            for _ in range(1 + number % 5):
                llmcache.extract(f"text {number}", Person, tenant="acme" if number % 2 else None)
        forget_memory()
        for number in range(0, 12, 3):
            llmcache.extract(f"text {number}", Person, tenant="acme" if number % 2 else None)
        found = llmcache.stats()
    entries = list(CacheEntry.objects.all())
    assert sum(entry.hits for entry in entries) == found.hits == sum(number % 5 for number in range(12)) + 4
    avoided = sum(entry.hits * entry.cost_pico_usd for entry in entries if entry.cost_pico_usd is not None)
    unknown = sum(entry.hits for entry in entries if entry.cost_pico_usd is None)
    for table in (UsageBucket, TenantDay):
        total = table._default_manager.aggregate(
            avoided=models.Sum("avoided_pico_usd"), unknown=models.Sum("avoided_unknown")
        )
        assert total == {"avoided": avoided, "unknown": unknown}
    assert (found.saved_usd, found.saved_unknown) == (Decimal(avoided) / 10**12, unknown)
    assert unknown == 7 % 5
    assert found.saved_usd > 0


# Parts


def test_parts_by_kind_model_tier_and_tenant(provider: Sandbox, forget_memory: Callable[[], None]) -> None:
    llmcache.extract("Ada", Person, tenant="acme")
    llmcache.extract("Ada", Person, tenant="acme")
    llmcache.extract("Ada", Person, tenant="umbrella")
    llmcache.extract("tea", Order, model="openai/other")
    forget_memory()
    llmcache.extract("tea", Order, model="openai/other")
    with pytest.raises(llmcache.NotCached):
        llmcache.extract("tea", Person, cache="only", kind="inbox")

    def parts(by: Any) -> dict[str, tuple[int, ...]]:
        return {name: (part.misses, part.hits, part.errors, part.calls) for name, part in llmcache.stats(by=by).items()}

    assert parts("kind") == {"Order": (1, 1, 0, 1), "Person": (2, 1, 0, 2), "inbox": (0, 0, 1, 0)}
    assert parts("model") == {"openai/gpt-5-mini": (2, 1, 1, 2), "openai/other": (1, 1, 0, 1)}
    assert parts("tier") == {"": (3, 0, 1, 3), "disk": (0, 1, 0, 0), "memory": (0, 1, 0, 0)}
    assert parts("tenant") == {"": (1, 1, 1, 1), "acme": (1, 1, 0, 1), "umbrella": (1, 0, 0, 1)}
    whole = llmcache.stats()
    for by in ("kind", "model", "tier", "tenant"):
        each = llmcache.stats(by=by).values()
        for name in ("hits", "misses", "errors", "calls", "spent_usd", "saved_usd", "seconds_saved"):
            assert sum(getattr(part, name) for part in each) == pytest.approx(getattr(whole, name)), (by, name)
    assert sum(part.spent_usd for part in llmcache.stats(by="tenant").values()) == whole.spent_usd == bill(provider)


def test_since_counts_the_hour_that_it_lies_in(clock: MovedClock, sandbox: Sandbox) -> None:
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=30)
    clock.move((start - datetime.now(UTC)).total_seconds() + 600)  # ten past
    llmcache.extract("first", Person)
    llmcache.flush()
    clock.move(3_600)
    for text in ("second", "first"):
        llmcache.extract(text, Person)
    llmcache.flush()
    hour = timedelta(hours=1)
    east = timezone(timedelta(hours=5, minutes=30))
    counts = {
        since: (found.misses, found.hits, found.calls)
        for since in (start, start + hour / 2, start + hour, start + 1.99 * hour, start + 2 * hour, start - hour)
        if (found := llmcache.stats(since=since))
    }
    assert list(counts.values()) == [(2, 1, 2), (2, 1, 2), (1, 1, 1), (1, 1, 1), (0, 0, 0), (2, 1, 2)]
    for since, expected in counts.items():
        found = llmcache.stats(since=since.astimezone(east))
        assert (found.misses, found.hits, found.calls) == expected
    assert llmcache.stats(since=timedelta(days=40_000)).calls == 2
    assert llmcache.stats(since=timedelta.max).calls == 2
    assert llmcache.stats(since=start + 2 * hour, by="kind") == {}
    # Of tenants the day is what is kept.
    midnight = start.replace(hour=0)
    assert (
        llmcache.stats(since=start + hour, by="tenant")[""].calls
        == TenantDay.objects.filter(day__gte=(start + hour).date()).aggregate(calls=models.Sum("attempts"))["calls"]
    )
    assert llmcache.stats(since=midnight + timedelta(days=2), by="tenant") == {}


@pytest.mark.parametrize("since", [datetime(2026, 1, 1), date(2026, 1, 1), 3_600, "yesterday", True])  # noqa: DTZ001
def test_a_since_that_is_none_is_refused(since: Any) -> None:
    with pytest.raises(llmcache.InvalidRequest, match="since="):
        llmcache.stats(since=since)
    with pytest.raises(llmcache.InvalidRequest, match="since="):
        async_to_sync(llmcache.astats)(since=since)


@pytest.mark.parametrize("by", ["", "Kind", "outcome", "hour", 5, ["kind"], True])
def test_a_part_that_is_none_is_refused(by: Any) -> None:
    with pytest.raises(llmcache.InvalidRequest, match="'kind', 'model', 'tier', 'tenant'"):
        llmcache.stats(by=by)


@pytest.mark.parametrize("by", [None, "kind", "model", "tier", "tenant"])
def test_one_query_whatever_there_is(by: Any, sandbox: Sandbox) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            llmcache.stats(since=timedelta(days=2), by=by)
        return sum("SUM(" in query["sql"] for query in captured)

    assert queries() == 1
    for number in range(20):
        llmcache.extract("Ada", Person, kind=f"kind {number}", tenant=f"tenant {number}")
        llmcache.extract("Ada", Person, kind=f"kind {number}", tenant=f"tenant {number}")
    assert queries() == 1


def test_a_hit_rate_counts_answers_and_what_had_to_be_asked() -> None:
    for outcome, count in {"hit": 3, "stale": 2, "collapsed": 1, "miss": 4, "bypass": 50, "error": 70}.items():
        UsageBucket.objects.create(
            hour=datetime(2026, 1, 1, tzinfo=UTC), kind="k", model="m", tier="", outcome=outcome, count=count
        )
    found = llmcache.stats()
    assert found.hit_rate == 6 / 10
    assert (found.hits, found.stale, found.collapsed, found.misses) == (3, 2, 1, 4)
    assert (found.bypasses, found.errors) == (50, 70)


def test_a_stats_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        llmcache.stats().hits = 5  # type: ignore[misc]


# Tiers


def test_the_tiers_of_this_process_are_told_and_not_asked(sandbox: Sandbox, redis_server: RedisServer) -> None:
    shared = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": redis_server.url}
    memory = {"BACKEND": "llmcache.backends.MemoryCache", "LOCATION": "told"}
    with in_caches(memory=memory, shared=shared), llmcache_settings(TIERS=["memory", ALIAS]):
        first, second = (of := llmcache.stats()).tiers
        assert (first.name, first.backend, first.shared) == ("memory", memory["BACKEND"], "process")
        assert (second.name, second.backend, second.shared) == (ALIAS, shared["BACKEND"], "network")
        assert (second.breaker, second.reads, second.writes, second.faults) == ("closed", True, True, 0)
        redis_server.stop()
        try:
            # Nobody has asked it since.
            assert llmcache.stats().tiers == of.tiers
            assert llmcache.extract_with_info("Ada", Person).outcome == "miss"
            down = llmcache.stats().tiers[1]
            assert (down.breaker, down.reads, down.writes) == ("open", False, False)
            assert (down.faults, down.error) == (1, "ConnectionError")
            assert llmcache.stats(by="tier")[""].tiers == ()
        finally:
            redis_server.start()
        until(lambda: llmcache.stats().tiers[1].breaker == "closed")
        back = llmcache.stats().tiers[1]
        assert (back.reads, back.writes, back.faults, back.error) == (True, True, 1, "ConnectionError")
        assert async_to_sync(llmcache.astats)().tiers == (first, back)


# Awaited


@pytest.mark.django_db(transaction=True)
def test_the_awaited_twins(provider: Sandbox) -> None:
    async def ask() -> tuple[bool, Stats, dict[str, Stats]]:
        await asyncio.gather(*(llmcache.aextract(text, Person) for text in ("Ada", "Grace")))
        await llmcache.aextract("Ada", Person)
        return await llmcache.aflush(), await llmcache.astats(), await llmcache.astats(by="kind")

    flushed, whole, parts = async_to_sync(ask)()
    assert flushed
    assert (whole.misses, whole.hits, whole.calls, whole.spent_usd) == (2, 1, 2, bill(provider))
    assert parts == {"Person": whole}
    assert llmcache.stats() == whole


# Tests of users


def test_calls_of_a_rolled_back_block_are_seen_again(provider: Sandbox) -> None:
    with transaction.atomic():
        llmcache.extract("Ada", Person)
        llmcache.extract("Ada", Person)
        inside = llmcache.stats()
        transaction.set_rollback(True)
    assert (inside.misses, inside.hits, inside.calls) == (1, 1, 1)
    assert ProviderCall.objects.count() == UsageBucket.objects.count() == 0
    # What was paid is: the journal has it. What was counted went with the block.
    found = llmcache.stats()
    assert (found.calls, found.spent_usd) == (1, bill(provider))
    assert llmcache.stats() == found


@pytest.mark.django_db(transaction=True)
def test_a_test_cases_rows_and_counts_go_with_it(provider: Sandbox) -> None:
    class Own(TestCase):
        @classmethod
        def setUpTestData(cls) -> None:
            llmcache.extract("of the class", Person)

        def test_one(self) -> None:
            self.assert_alone()

        def test_two(self) -> None:
            self.assert_alone()

        def assert_alone(self) -> None:
            assert llmcache.stats() == NOTHING
            assert [llmcache.extract_with_info("Ada", Person).outcome for _ in range(3)] == ["miss", "hit", "hit"]
            found = llmcache.stats()
            assert (found.misses, found.hits, found.calls) == (1, 2, 1)
            assert llmcache.stats() == found
            assert CacheEntry.objects.get().hits == 2

    isolation.end_test()  # as under Django's own runner, where pytest's plugin has begun none
    for _ in range(2):
        result = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromTestCase(Own).run(result)
        assert not result.errors, result.errors[0][1]
        assert not result.failures, result.failures[0][1]
        assert result.testsRun == 2
    for model in (ProviderCall, CacheEntry, UsageBucket, TenantDay):
        assert not model._default_manager.exists()
