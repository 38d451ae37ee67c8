"""Answers past their time: given while they are asked for anew, or when the provider fails."""

import asyncio
import logging
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import caches
from pydantic import BaseModel

import llmcache
from llmcache.engine import process
from llmcache.engine.refreshes import MOST_AT_ONCE
from llmcache.models import CacheEntry, ProviderCall, UsageBucket
from llmcache.testing import finish_refreshes
from llmcache.testing.sandbox import Sandbox, faults
from tests.conftest import MovedClock, llmcache_settings
from tests.contract.aliases import ALIAS, aliases, in_caches

pytestmark = pytest.mark.django_db

PRICES = {"openai/gpt-5-mini": {"input": "1", "output": "1"}}
"""Dollars for a million tokens."""


class Person(BaseModel):
    """A person."""

    age: int


@pytest.fixture
def provider(sandbox: Sandbox) -> Iterator[Sandbox]:
    sandbox.answers["Ada"] = {"age": 36}
    with llmcache_settings(PRICES=PRICES):
        yield sandbox


@pytest.fixture
def stale(provider: Sandbox, clock: MovedClock) -> Sandbox:
    """An answer that is past its time, and another one that the provider would give now."""
    clock.install()
    ask()
    clock.move(101)
    provider.answers["Ada"] = {"age": 37}
    return provider


def ask(**options: Any) -> tuple[int, str, str | None]:
    found = llmcache.extract_with_info("Ada", Person, **{"ttl": 100, "stale_ttl": 50, **options})
    return found.value.age, found.outcome, found.reason


def test_the_old_answer_is_given_at_once_and_the_new_one_next(stale: Sandbox) -> None:
    stale.hold()
    # Nobody has answered yet, and nobody is waited for.
    assert ask() == (36, "stale", None)
    assert ask() == (36, "stale", None)
    stale.release()
    assert finish_refreshes()
    assert ask() == (37, "hit", None)
    assert stale.calls == 2


def test_awaited_it_is_the_same(stale: Sandbox) -> None:
    async def calls() -> list[int]:
        first = await llmcache.aextract("Ada", Person, ttl=100, stale_ttl=50)
        assert await asyncio.to_thread(finish_refreshes)
        return [first.age, (await llmcache.aextract("Ada", Person, ttl=100, stale_ttl=50)).age]

    assert asyncio.run(calls()) == [36, 37]
    assert stale.calls == 2


def test_the_plain_call_gives_it_too(stale: Sandbox) -> None:
    assert llmcache.extract("Ada", Person, ttl=100, stale_ttl=50).age == 36
    assert finish_refreshes()
    assert llmcache.extract("Ada", Person, ttl=100, stale_ttl=50).age == 37


def test_after_its_stale_ttl_it_is_a_miss(stale: Sandbox, clock: MovedClock) -> None:
    clock.move(50)
    assert ask() == (37, "miss", "not_found")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"ttl": 100}, (36, "stale", None)),
        ({"ttl": None}, (36, "hit", None)),
        ({"ttl": 200}, (36, "hit", None)),
        ({"ttl": 100, "stale_ttl": 0}, (37, "miss", "not_found")),
        ({"ttl": 51}, (36, "stale", None)),
        ({"ttl": 20, "stale_ttl": 50}, (37, "miss", "not_found")),
    ],
)
def test_who_reads_bounds_its_age(
    provider: Sandbox, clock: MovedClock, options: dict[str, Any], expected: tuple[int, str, str | None]
) -> None:
    """An entry that lasts a thousand seconds, a hundred after it was written, for readers who want it younger."""
    ask(ttl=1_000, stale_ttl=1_000)
    clock.move(100.5)
    provider.answers["Ada"] = {"age": 37}
    assert ask(**options) == expected
    finish_refreshes()


def test_who_wrote_without_a_stale_ttl_has_none(provider: Sandbox, clock: MovedClock) -> None:
    ask(stale_ttl=0)
    clock.move(101)
    assert ask()[1] == "miss"


def test_many_callers_begin_one_refresh(stale: Sandbox) -> None:
    stale.hold()
    start, found = threading.Barrier(16), list[tuple[int, str, str | None]]()

    def call() -> None:
        start.wait(10)
        found.append(ask())

    threads = [threading.Thread(target=call) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [(36, "stale", None)] * 16
    stale.release()
    assert finish_refreshes()
    assert stale.calls == 2


def test_what_has_just_failed_is_not_asked_again_at_every_call(
    stale: Sandbox, clock: MovedClock, caplog: pytest.LogCaptureFixture
) -> None:
    stale.fail(faults.unauthorized(), times=None)
    with caplog.at_level(logging.INFO, logger="llmcache.call"):
        for _ in range(5):
            assert ask() == (36, "stale", None)
            assert finish_refreshes()
        assert len(stale.requests) == 2
        # The first pause is at most three seconds, the second at least two: twice as long.
        clock.move(3)
        ask()
        assert finish_refreshes()
        clock.move(1.9)
        ask()
        assert finish_refreshes()
        assert len(stale.requests) == 3
        stale.heal()
        clock.move(4.2)
        assert ask() == (36, "stale", None)
        assert finish_refreshes()
    assert ask() == (37, "hit", None)
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]
    assert [line.split(":")[0] for line in said] == [
        "Stale answers cannot be asked for anew",
        "Stale answers can be asked for anew again.",
    ]


def test_what_was_invalidated_is_not_given(stale: Sandbox) -> None:
    llmcache.invalidate(kind="Person")
    assert ask() == (37, "miss", "invalidated")


def test_one_that_is_invalidated_while_it_is_refreshed(stale: Sandbox) -> None:
    """What was asked for before the invalidation is not kept after it."""
    stale.hold()
    assert ask()[1] == "stale"
    stale.wait_until_received(2)
    llmcache.invalidate(kind="Person")
    stale.release()
    assert finish_refreshes()
    assert ask()[1:] == ("miss", "invalidated")
    assert stale.calls == 3


def test_only_never_asks(stale: Sandbox) -> None:
    assert ask(cache="only") == (36, "stale", None)
    assert finish_refreshes()
    assert stale.calls == 1


def test_refresh_and_bypass_do_not_look(stale: Sandbox) -> None:
    assert ask(cache="bypass") == (37, "bypass", "bypass")
    assert ask(cache="refresh") == (37, "miss", "refresh")


def test_the_completion_is_there_too(stale: Sandbox) -> None:
    value, completion = llmcache.extract_with_completion("Ada", Person, ttl=100, stale_ttl=50)
    assert value.age == 36
    assert '"age":36' in completion.choices[0].message.content.replace(" ", "")
    assert finish_refreshes()


def test_what_it_says_of_itself(stale: Sandbox) -> None:
    found = llmcache.extract_with_info("Ada", Person, ttl=100, stale_ttl=50)
    assert (found.outcome, found.tier, found.attempts, found.ttl_left_seconds) == ("stale", "memory", 0, 0.0)
    assert found.age_seconds == pytest.approx(101, abs=1)
    assert found.cost_incurred_usd == 0
    assert found.cost_avoided_usd is not None
    assert finish_refreshes()


def test_it_is_counted_apart_and_its_refresh_taken_off_what_was_saved(stale: Sandbox) -> None:
    ask()
    assert finish_refreshes()
    ask()
    ask()
    found = llmcache.stats()
    assert (found.misses, found.stale, found.hits, found.errors) == (1, 1, 2, 0)
    assert llmcache.flush()
    assert list(ProviderCall.objects.order_by("started_at").values_list("reason", "ahead")) == [
        ("not_found", ""),
        ("expired", "refresh"),
    ]
    ahead = UsageBucket.objects.get(outcome="refresh")
    assert (ahead.count, ahead.attempts) == (0, 1)
    first, second = ProviderCall.objects.order_by("started_at").values_list("cost_pico_usd", flat=True)
    assert first is not None
    assert second is not None
    # A stale answer and a hit avoid what the first and the second answer cost; the second was paid for ahead of them.
    assert found.saved_usd == Decimal(first + 2 * second) / 10**12
    assert found.spent_usd == Decimal(first + second) / 10**12
    assert ahead.spent_pico_usd == second


def test_its_row_says_until_when_it_is_good(provider: Sandbox) -> None:
    ask()
    assert llmcache.flush()
    entry = CacheEntry.objects.get()
    assert entry.stale_until is not None
    assert entry.expires_at is not None
    assert (entry.stale_until - entry.expires_at).total_seconds() == pytest.approx(50, abs=0.001)
    assert entry.state == CacheEntry.State.FRESH


def test_not_more_than_some_at_once(provider: Sandbox, clock: MovedClock) -> None:
    texts = [f"text {number}" for number in range(MOST_AT_ONCE + 4)]
    for text in texts:
        provider.answers[text] = {"age": 1}
        llmcache.extract(text, Person, ttl=100, stale_ttl=50)
    clock.move(101)
    provider.hold()
    for text in texts:
        llmcache.extract(text, Person, ttl=100, stale_ttl=50)
    provider.wait_until_received(len(texts) + MOST_AT_ONCE)
    provider.release()
    assert finish_refreshes(20)
    assert provider.calls == len(texts) + MOST_AT_ONCE
    # Those that were left out are asked for when somebody wants them again.
    for text in texts:
        llmcache.extract(text, Person, ttl=100, stale_ttl=50)
    assert finish_refreshes()
    assert provider.calls == 2 * len(texts)


def test_what_another_process_has_refreshed_is_found(stale: Sandbox, clock: MovedClock, forget_memory: Any) -> None:
    assert ask()[1] == "stale"
    assert finish_refreshes()
    forget_memory()
    assert ask() == (37, "hit", None)
    assert stale.calls == 2


@pytest.mark.parametrize("kind", ["disk", "django-redis", "Redis", "file", "locmem", "database on SQLite"])
@pytest.mark.parametrize("over", ["memory", "nothing"])
def test_every_tier_keeps_it_so_long(
    kind: str, over: str, provider: Sandbox, clock: MovedClock, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    memory = {"BACKEND": "llmcache.backends.MemoryCache", "LOCATION": "stale tiers"}
    with (
        aliases(request, tmp_path) as make,
        in_caches(memory=memory, **{ALIAS: make.settings(kind)}),
        llmcache_settings(TIERS=["memory", ALIAS] if over == "memory" else [ALIAS]),
    ):
        clock.install()
        ask()
        process.current().tiers.drain(10)
        clock.move(101)
        provider.answers["Ada"] = {"age": 37}
        assert ask() == (36, "stale", None)
        assert finish_refreshes()
        process.current().tiers.drain(10)
        clock.install()
        assert ask() == (37, "hit", None)
        assert asyncio.run(_aage()) == 37
        clock.move(151)
        assert ask()[1] == "miss"
        process.current().tiers.drain(10)
        process.install(None)
        caches.close_all()


async def _aage() -> int:
    return (await llmcache.aextract("Ada", Person, ttl=100, stale_ttl=50)).age


# -- asked for by the call itself


@pytest.fixture
def waiting(provider: Sandbox, clock: MovedClock) -> Iterator[Sandbox]:
    """As ``stale``, where a call asks for itself."""
    with llmcache_settings(REFRESH="call"), clock.kept():
        ask()
        clock.move(101)
        provider.answers["Ada"] = {"age": 37}
        yield provider


def test_a_call_that_waits_gets_the_new_answer(waiting: Sandbox) -> None:
    assert ask() == (37, "miss", "expired")
    assert ask() == (37, "hit", None)


@pytest.mark.parametrize(
    "fault", [faults.server_error(), faults.unauthorized(), faults.rate_limited(), faults.reset_before_charge()]
)
def test_the_old_one_where_the_provider_fails(waiting: Sandbox, fault: Any) -> None:
    waiting.fail(fault, times=None)
    found = llmcache.extract_with_info("Ada", Person, ttl=100, stale_ttl=50, max_retries=0)
    assert (found.value.age, found.outcome, found.reason, found.attempts) == (36, "stale", "expired", 1)
    # Not tried again at once: nobody is to wait for a provider that is down.
    assert llmcache.extract_with_info("Ada", Person, ttl=100, stale_ttl=50).attempts == 0
    assert len(waiting.requests) == 2


def test_it_is_tried_again_after_a_while(waiting: Sandbox, clock: MovedClock) -> None:
    waiting.fail(faults.unauthorized(), times=1)
    assert ask() == (36, "stale", "expired")
    assert ask() == (36, "stale", None)
    clock.move(3)
    assert ask() == (37, "miss", "expired")


def test_awaited_it_waits_too(waiting: Sandbox) -> None:
    async def age(**options: Any) -> int:
        return (await llmcache.aextract("Ada", Person, ttl=100, stale_ttl=50, **options)).age

    waiting.fail(faults.unauthorized(), times=1)
    assert asyncio.run(age()) == 36
    waiting.heal()


def test_without_a_stale_answer_the_error_is_raised(waiting: Sandbox, clock: MovedClock) -> None:
    clock.move(50)
    waiting.fail(faults.unauthorized(), times=None)
    with pytest.raises(llmcache.AuthenticationFailed):
        ask()


def test_an_answer_that_does_not_pass_is_no_failure_of_the_provider(waiting: Sandbox) -> None:
    """The provider answers; what it says now is not what the type wants, and nobody is told an old truth for it."""
    waiting.fail(faults.wrong_json(), times=None)
    with pytest.raises(llmcache.ValidationFailed):
        ask(max_reasks=0)


@pytest.mark.django_db(transaction=True)
def test_not_one_that_was_invalidated_meanwhile(waiting: Sandbox) -> None:
    waiting.fail(faults.unauthorized(), times=None)
    waiting.hold()
    raised = list[BaseException]()

    def call() -> None:
        try:
            ask()
        except llmcache.LLMCacheError as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    waiting.wait_until_received(2)
    llmcache.invalidate(kind="Person")
    waiting.release()
    thread.join(30)
    assert [type(error) for error in raised] == [llmcache.AuthenticationFailed]


def test_refresh_by_kind(provider: Sandbox, clock: MovedClock) -> None:
    with llmcache_settings(KINDS={"Person": {"refresh": "call"}}), clock.kept():
        ask()
        clock.move(101)
        assert ask()[1:] == ("miss", "expired")


@pytest.mark.parametrize("value", [-1, None, "1 h", True, float("nan"), float("inf"), 1e12])
def test_what_is_no_length_of_time_is_refused(value: Any, provider: Sandbox) -> None:
    with pytest.raises(llmcache.InvalidRequest, match="stale_ttl= must be a number of seconds or a timedelta"):
        ask(stale_ttl=value)
