"""Leases under tasks that are cancelled, loops that end, and processes that fork."""

import asyncio
import contextlib
import os
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from pydantic import BaseModel

import llmcache
from llmcache.engine import process
from llmcache.testing.sandbox import Sandbox, faults
from tests.cache_servers import RedisServer
from tests.conftest import llmcache_settings
from tests.contract.aliases import ALIAS, in_caches
from tests.waiting import until


class Person(BaseModel):
    """A person."""

    name: str


@pytest.fixture
def provider(sandbox: Sandbox, redis_server: RedisServer) -> Iterator[Sandbox]:
    """A provider, and a Redis where leases lie."""
    sandbox.answers["Ada"] = {"name": "Ada"}
    shared = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": redis_server.url}
    memory = {"BACKEND": "llmcache.backends.MemoryCache", "LOCATION": "flights"}
    with in_caches(memory=memory, **{ALIAS: shared}), llmcache_settings(TIERS=["memory", ALIAS], LEASE=5):
        yield sandbox
        process.install(None)


def held() -> int:
    """Return how many leases and flights there are."""
    now = process.current()
    assert now.leases is not None
    return len(now.leases) + len(now.flights)


def another() -> Any:
    """Return what leads a flight as another process would, and is told to end."""
    from llmcache.engine.leases import Leases, Turn

    now = process.current()
    assert now.leases is not None
    key = bytes.fromhex(llmcache.explain("Ada", Person).key)
    turn = Turn(now.tiers.flight_names(key, b""), b"")
    others = Leases(now.leases._place, 5, now.clock.monotonic)
    assert others.take(turn, now.clock.monotonic() + 60)[0].state == "led"
    return lambda: others.end(turn, here=True)


def test_a_caller_that_goes_while_it_waits_leaves_nothing(provider: Sandbox) -> None:
    end = another()

    async def given_up() -> None:
        task = asyncio.ensure_future(llmcache.aextract("Ada", Person))
        await asyncio.sleep(0.3)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(given_up())
    until(lambda: held() == 0)
    assert provider.requests == []
    end()
    assert llmcache.extract_with_info("Ada", Person).outcome == "miss"
    assert held() == 0


def test_one_that_goes_while_it_asks_has_its_answer_kept(provider: Sandbox) -> None:
    provider.hold()

    async def given_up() -> None:
        task = asyncio.ensure_future(llmcache.aextract("Ada", Person))
        await asyncio.to_thread(provider.wait_until_received, 1)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(given_up())
    assert held() == 2
    provider.release()
    until(lambda: held() == 0)
    assert llmcache.extract_with_info("Ada", Person).outcome == "hit"


def test_many_that_come_and_go(provider: Sandbox) -> None:
    """Cancelled at any moment, on few keys: what is left over is nothing, and each that stays has its own answer."""
    chosen = random.Random(7)
    texts = [f"text {number}" for number in range(6)]
    for text in texts:
        provider.answers[text] = {"name": text}
    provider.fail(faults.slow(0.02), times=None)

    async def one() -> None:
        text = chosen.choice(texts)
        task = asyncio.ensure_future(llmcache.aextract(text, Person, ttl=chosen.choice([0.05, 60])))
        await asyncio.sleep(chosen.random() * 0.05)
        if chosen.random() < 0.7:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            assert (await task).name == text

    async def some() -> None:
        await asyncio.gather(*(one() for _ in range(100)))

    for _ in range(5):
        asyncio.run(some())
    until(lambda: held() == 0)


def test_who_goes_for_leases_on_a_slow_server_holds_up_no_answer(
    provider: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases = process.current().leases
    assert leases is not None
    take, asked, over = leases.take, threading.Semaphore(0), threading.Event()

    def slow(*given: Any) -> Any:
        asked.release()
        over.wait(60)
        return take(*given)

    async def main() -> None:
        await llmcache.aextract("Ada", Person)
        monkeypatch.setattr(leases, "take", slow)
        tasks = [asyncio.create_task(llmcache.aextract(f"text {number}", Person)) for number in range(20)]
        for _ in range(4):
            while not asked.acquire(blocking=False):
                await asyncio.sleep(0.001)
        # What lies beside an entry is read in a thread.
        assert (await llmcache.aextract_with_info("Ada", Person)).outcome == "hit"
        assert not over.is_set()
        over.set()
        await asyncio.gather(*tasks)

    asyncio.run(asyncio.wait_for(main(), 50))


def test_a_thread_that_is_interrupted_gives_its_lease_back(provider: Sandbox) -> None:
    class StopNow(BaseException):
        """As a signal handler's."""

    class Stopping(BaseModel):
        name: str

        def model_post_init(self, _: object) -> None:
            raise StopNow

    with pytest.raises(StopNow):
        llmcache.extract("Ada", Stopping)
    assert held() == 0
    with pytest.raises(StopNow):
        llmcache.extract("Ada", Stopping)
    assert provider.calls == 2


def test_loops_that_end_one_after_the_other(provider: Sandbox) -> None:
    async def ask(text: str) -> str:
        return (await llmcache.aextract(text, Person)).name

    before = threading.active_count()
    for number in range(40):
        provider.answers[f"text {number}"] = {"name": f"{number}"}
        text = f"text {number}"
        assert (asyncio.run(ask(text)) if number % 2 else async_to_sync(ask)(text)) == f"{number}"
    assert held() == 0
    assert threading.active_count() <= before + 8


def _tell_when_waiting(writing: int) -> None:
    """Write a line when this process waits for another's lease for the first time."""
    from llmcache.engine.leases import Leases

    take, told = Leases.take, list[str]()

    def noted(*given: Any) -> Any:
        found = take(*given)
        if found[0].state == "waits" and not told:
            told.append("waits")
            os.write(writing, b"waits\n")
        return found

    Leases.take = noted  # type: ignore[method-assign]


def test_a_child_has_none_of_its_parents(provider: Sandbox) -> None:
    """It waits for its parent's as for another's, and its own end with it."""
    provider.hold()
    answers = list[str]()
    leader = threading.Thread(target=lambda: answers.append(llmcache.extract("Ada", Person).name))
    leader.start()
    provider.wait_until_received(1)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            _tell_when_waiting(writing)
            os.write(writing, f"{held()}\n".encode())
            found = llmcache.extract_with_info("Ada", Person)
            os.write(writing, f"{found.value.name} {found.outcome} {held()}\n".encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as said:
        assert said.readline() == "0\n"
        assert said.readline() == "waits\n"
        provider.release()
        assert said.readline() == "Ada collapsed 0\n"
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    leader.join(30)
    assert (answers, provider.calls) == (["Ada"], 1)


def test_a_call_within_a_call_for_another_text(provider: Sandbox) -> None:
    provider.answers["Grace"] = {"name": "Grace"}

    class Friend(BaseModel):
        name: str

        def model_post_init(self, _: object) -> None:
            assert llmcache.extract("Grace", Person).name == "Grace"

    assert llmcache.extract("Ada", Friend).name == "Ada"
    assert held() == 0


def test_a_call_within_itself_is_refused(provider: Sandbox) -> None:
    class Mirror(BaseModel):
        name: str

        def model_post_init(self, _: object) -> None:
            llmcache.extract("Ada", Mirror)

    with pytest.raises(llmcache.RecursiveExtract):
        llmcache.extract("Ada", Mirror)
    assert held() == 0
