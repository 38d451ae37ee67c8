"""Asking although there is an answer: to keep a new one, or to leave the cache alone."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest
from pydantic import BaseModel

import llmcache
from llmcache.engine import process
from llmcache.models import CacheEntry, ProviderCall, UsageBucket
from llmcache.testing.sandbox import Sandbox
from tests.conftest import llmcache_settings

pytestmark = pytest.mark.django_db


class Person(BaseModel):
    """A person."""

    age: int


@pytest.fixture
def provider(sandbox: Sandbox) -> Sandbox:
    sandbox.answers["Ada"] = {"age": 36}
    return sandbox


def ask(**options: Any) -> tuple[int, str, str | None]:
    found = llmcache.extract_with_info("Ada", Person, **options)
    return found.value.age, found.outcome, found.reason


# -- refresh


def test_a_refresh_asks_and_keeps_what_is_new(provider: Sandbox, forget_memory: Any) -> None:
    assert ask() == (36, "miss", "not_found")
    provider.answers["Ada"] = {"age": 37}
    assert ask(cache="refresh") == (37, "miss", "refresh")
    assert ask() == (37, "hit", None)
    assert llmcache.extract("Ada", Person).age == 37
    forget_memory()
    assert ask() == (37, "hit", None)
    assert llmcache.flush()
    assert list(ProviderCall.objects.order_by("started_at").values_list("reason", flat=True)) == [
        "not_found",
        "refresh",
    ]
    assert CacheEntry.objects.count() == 1


def test_awaited_it_does_the_same(provider: Sandbox) -> None:
    async def calls() -> list[int]:
        first = (await llmcache.aextract("Ada", Person)).age
        provider.answers["Ada"] = {"age": 37}
        return [
            first,
            (await llmcache.aextract("Ada", Person)).age,
            (await llmcache.aextract("Ada", Person, cache="refresh")).age,
            (await llmcache.aextract("Ada", Person)).age,
        ]

    assert asyncio.run(calls()) == [36, 36, 37, 37]
    assert provider.calls == 2


def test_one_that_fails_leaves_the_old_answer(provider: Sandbox) -> None:
    from llmcache.testing.sandbox import faults

    ask()
    provider.fail(faults.refusal(), times=None)
    with pytest.raises(llmcache.Refused):
        ask(cache="refresh", max_retries=0, max_reasks=0)
    assert ask() == (36, "hit", None)


def test_many_at_once_ask_once(provider: Sandbox) -> None:
    ask()
    provider.hold()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(ask, cache="refresh")
        provider.wait_until_received(2)
        others = [pool.submit(ask, cache="refresh") for _ in range(7)]
        # Whoever only looks has no need to wait.
        assert ask() == (36, "hit", None)
        provider.release()
        outcomes = [each.result(30)[1] for each in (first, *others)]
    assert outcomes[0] == "miss"
    assert set(outcomes) <= {"miss", "collapsed"}
    assert provider.calls == 1 + outcomes.count("miss")


def test_it_does_not_join_who_asked_before_an_invalidation(provider: Sandbox) -> None:
    ask()
    llmcache.invalidate(kind="Person")
    assert ask(cache="refresh") == (36, "miss", "refresh")
    assert ask() == (36, "hit", None)


# -- bypass


def test_a_block_leaves_the_cache_alone(provider: Sandbox) -> None:
    ask()
    provider.answers["Ada"] = {"age": 37}
    with llmcache.bypass():
        assert ask() == (37, "bypass", "bypass")
        assert llmcache.extract("Ada", Person).age == 37
        assert ask(cache="refresh") == (37, "bypass", "bypass")
        with llmcache.bypass():
            pass
        assert ask() == (37, "bypass", "bypass")
        with pytest.raises(llmcache.NotCached):
            llmcache.extract("nobody has asked", Person, cache="only")
        assert ask(cache="only") == (36, "hit", None)
    assert ask() == (36, "hit", None)
    assert llmcache.flush()
    assert UsageBucket.objects.get(outcome="bypass").count == 4


def test_it_holds_in_its_own_context_alone(provider: Sandbox) -> None:
    ask()

    def in_thread(work: Any) -> str:
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.append(work()[1]))
        thread.start()
        thread.join(30)
        return found[0]

    with llmcache.bypass():
        assert in_thread(ask) == "hit"
        context = copy_context()
        assert in_thread(lambda: context.run(ask)) == "bypass"
    assert in_thread(lambda: context.run(ask)) == "bypass"
    assert ask()[1] == "hit"


def test_it_holds_for_what_is_awaited_within(provider: Sandbox) -> None:
    async def calls() -> list[str]:
        async def one() -> str:
            return (await llmcache.aextract_with_info("Ada", Person)).outcome

        with llmcache.bypass():
            begun = llmcache.aextract("Ada", Person)
            inside = [await one(), *await asyncio.gather(one(), one())]
        await begun
        return [*inside, await one()]

    ask()
    assert asyncio.run(calls()) == ["bypass", "bypass", "bypass", "hit"]
    assert provider.calls == 5


def test_an_error_within_ends_it(provider: Sandbox) -> None:
    ask()
    with pytest.raises(ZeroDivisionError), llmcache.bypass():
        raise ZeroDivisionError
    assert ask()[1] == "hit"


# -- the setting


def test_a_project_can_switch_it_off(provider: Sandbox) -> None:
    ask()
    with llmcache_settings(ENABLED=False):
        for _ in range(2):
            assert ask() == (36, "bypass", "bypass")
            assert llmcache.extract("Ada", Person).age == 36
        assert asyncio.run(llmcache.aextract("Ada", Person)).age == 36
        assert ask(cache="only") == (36, "hit", None)
        assert process.current().prepared.get(id(Person)) is None
    assert ask()[1] == "hit"
    assert provider.calls == 6
