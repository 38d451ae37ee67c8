"""Rows that were recorded on a simulated clock say so, and stand beside those of the real one."""

import time
from collections.abc import Iterator
from decimal import Decimal

import pytest
from pydantic import BaseModel

import llmcache
from llmcache import conf, keys
from llmcache.clock import Clock
from llmcache.engine import process
from llmcache.engine.runtime import Runtime
from llmcache.models import CacheEntry, EntryTag, ProviderCall, TenantDay, UsageBucket
from llmcache.money.pricing import PICO
from llmcache.testing.sandbox import Sandbox
from tests.conftest import llmcache_settings

pytestmark = pytest.mark.django_db

DAY = 86_400.0


class Person(BaseModel):
    name: str


@pytest.fixture(autouse=True)
def answers(sandbox: Sandbox) -> Iterator[None]:
    sandbox.answers.update({"a text": {"name": "a"}, "another": {"name": "b"}})
    with llmcache_settings(PRICES={"openai/gpt-5-mini": {"input": "2", "output": "5"}}):
        yield


def simulate(behind: float) -> None:
    test = process.current().test
    clock = Clock(wall=lambda: time.time() - behind, simulated=True)
    process.install(Runtime(conf.current(), clock=clock, test=test))


def test_rows_of_a_simulated_clock_say_so() -> None:
    simulate(3 * DAY)
    for _ in range(3):
        llmcache.extract("a text", Person)
    assert llmcache.flush()
    assert ProviderCall.objects.get().simulated
    entry = CacheEntry.objects.get()
    assert entry.simulated
    assert abs(entry.age.total_seconds() - 3 * DAY) < 60
    assert set(UsageBucket.objects.values_list("simulated", flat=True)) == {True}
    assert set(TenantDay.objects.values_list("simulated", flat=True)) == {True}


def test_real_and_simulated_calls_of_one_hour_are_two_rows_and_one_sum() -> None:
    simulate(0)
    llmcache.extract("a text", Person)
    assert llmcache.flush()
    process.install(None)
    llmcache.extract("another", Person)
    assert llmcache.flush()
    misses = UsageBucket.objects.filter(outcome="miss").order_by("simulated")
    assert [(row.simulated, row.count, row.attempts) for row in misses] == [(False, 1, 1), (True, 1, 1)]
    assert llmcache.stats().misses == 2
    assert llmcache.stats(by="kind")["Person"].misses == 2


def test_what_hits_save_stands_beside_their_number() -> None:
    for _ in range(4):
        llmcache.extract("a text", Person, tags={"north", "vip"})
    assert llmcache.flush()
    entry = CacheEntry.objects.get()
    assert entry.hits == 3
    assert entry.cost_pico_usd
    assert entry.saved_pico_usd == 3 * entry.cost_pico_usd
    assert entry.saved_usd == Decimal(entry.saved_pico_usd) / PICO == llmcache.stats().saved_usd
    assert sorted(EntryTag.objects.values_list("tag", flat=True)) == ["north", "vip"]


def test_an_entry_that_is_made_anew_keeps_what_it_has_saved_and_its_tags() -> None:
    for _ in range(2):
        llmcache.extract("a text", Person, tags={"vip"})
    assert llmcache.flush()
    before = CacheEntry.objects.get()
    now = process.current()
    assert now.memory is not None
    now.memory.clear()
    for tier in now.tiers.below:
        tier.delete(keys.storage_key(now.namespace, bytes.fromhex(before.key)))
    for _ in range(2):
        llmcache.extract("a text", Person, tags={"vip"})
    assert llmcache.flush()
    after = CacheEntry.objects.get()
    assert after.written_at > before.written_at
    # Each hit saved what the entry that answered it had cost.
    assert before.cost_pico_usd
    assert after.cost_pico_usd
    assert after.cost_pico_usd != before.cost_pico_usd
    assert (after.hits, after.saved_pico_usd) == (2, before.cost_pico_usd + after.cost_pico_usd)
    assert EntryTag.objects.count() == 1
