"""Each technique of Instructor's guide to caching, in our way: one test for each, and what its recipe gets wrong."""

import asyncio
import re
import threading
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import caches
from django.test import override_settings
from openai.types.chat import ChatCompletion
from pydantic import BaseModel, create_model

import llmcache
from llmcache import cached, conf
from llmcache.engine import process
from llmcache.testing.sandbox import Sandbox
from tests.cache_servers import RedisServer
from tests.conftest import MovedClock, llmcache_settings

TEXT = "Jason is 25 years old"


class UserDetail(BaseModel):
    """The guide's example."""

    name: str
    age: int


JASON = UserDetail(name="Jason", age=25)


@pytest.fixture(autouse=True)
def answers(sandbox: Sandbox) -> None:
    sandbox.answers[TEXT] = JASON.model_dump()


def restarted() -> None:
    """Be another process, as far as memory goes."""
    process.install(None)


def three(tmp_path: Path, server: RedisServer) -> Any:
    """Memory, disk and Redis."""
    aliases = {
        "memory": {"BACKEND": "llmcache.backends.MemoryCache", "LOCATION": str(tmp_path)},
        "disk": {"BACKEND": "llmcache.backends.DiskCache", "LOCATION": str(tmp_path / "disk")},
        "redis": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": server.url},
    }
    return override_settings(CACHES={"default": aliases["memory"], **aliases})


@pytest.mark.django_db
def test_functools_cache_and_its_statistics(sandbox: Sandbox) -> None:
    @cached
    def extract(text: str, suffix: str = "") -> UserDetail:
        return llmcache.extract(text + suffix, UserDetail)

    first, second = extract(TEXT), extract(TEXT, suffix="")
    assert first == second == JASON
    assert extract.cache_info() == (1, 1, None, 1)
    # One object for all is what functools hands out.
    assert first is not second
    second.name = "Somebody else"
    assert extract(TEXT) == JASON
    extract.cache_clear()
    assert extract.cache_info().currsize == 0


def test_one_call_however_many_threads_ask(sandbox: Sandbox) -> None:
    sandbox.hold()
    threads = [threading.Thread(target=lambda: llmcache.extract(TEXT, UserDetail)) for _ in range(64)]
    for thread in threads:
        thread.start()
    sandbox.wait_until_received(1)
    sandbox.release()
    for thread in threads:
        thread.join()
    assert sandbox.calls == 1


def test_the_model_is_in_the_key(sandbox: Sandbox) -> None:
    for model in ("openai/gpt-5-mini", "openai/gpt-5", "openai/gpt-5-mini"):
        assert llmcache.extract(TEXT, UserDetail, model=model) == JASON
    assert [request.body["model"] for request in sandbox.requests] == ["gpt-5-mini", "gpt-5"]


def test_memory_within_a_budget(sandbox: Sandbox) -> None:
    with llmcache_settings(MEMORY_BYTES=2_000):
        for number in range(20):
            llmcache.extract(f"{TEXT} {number}", UserDetail)
        memory = process.current().memory
        assert memory is not None
        assert 0 < len(memory) < 20
        assert memory.used_bytes <= 2_000


def test_diskcache_lives_on_after_a_restart(sandbox: Sandbox, tmp_path: Path) -> None:
    disk = {"default": {"BACKEND": "llmcache.backends.DiskCache", "LOCATION": str(tmp_path / "disk")}}
    with override_settings(CACHES=disk), llmcache_settings(TIERS=["default"]):
        llmcache.extract(TEXT, UserDetail)
        restarted()
        info = llmcache.extract_with_info(TEXT, UserDetail)
    assert (info.value, info.outcome, info.tier, sandbox.calls) == (JASON, "hit", "default", 1)


def test_a_key_function_a_ttl_and_a_version(sandbox: Sandbox, clock: MovedClock) -> None:
    asked: list[str] = []

    def profile(text: str, trace: object = None) -> UserDetail:
        asked.append(text)
        return llmcache.extract(text, UserDetail, cache="bypass")

    with clock.kept():
        by_text = cached(key=lambda text, trace=None: text, ttl=3_600)(profile)
        # What is no part of the key may be anything; a key of one's own is no other function's.
        assert by_text(TEXT, object()) == by_text(TEXT, object()) == JASON
        assert (asked, by_text.cache_info()) == ([TEXT], (1, 1, None, 1))
        assert cached(key=lambda text: text, version="2")(profile).key(TEXT) != by_text.key(TEXT)
        clock.move(3_601)
        assert by_text(TEXT) == JASON
    assert asked == [TEXT, TEXT]


def test_a_prefix_for_each_project_in_one_redis(sandbox: Sandbox, redis_server: RedisServer) -> None:
    shared = {"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": redis_server.url}}

    def outcome(namespace: str) -> str:
        with llmcache_settings(TIERS=["default"], NAMESPACE=namespace):
            return llmcache.extract_with_info(TEXT, UserDetail).outcome

    with override_settings(CACHES=shared):
        assert [outcome(name) for name in ("shop", "desk", "shop", "desk")] == ["miss", "miss", "hit", "hit"]


def test_redis_shared_by_processes_and_down(sandbox: Sandbox, redis_server: RedisServer) -> None:
    somebody = {"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": redis_server.url}}
    with override_settings(CACHES=somebody), llmcache_settings(TIERS=["default"]):
        llmcache.extract(TEXT, UserDetail)
        restarted()
        assert llmcache.extract_with_info(TEXT, UserDetail).outcome == "hit"
    nobody = {"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://127.0.0.1:1"}}
    with override_settings(CACHES=nobody), llmcache_settings(TIERS=["default"]):
        # Failing reads and failing writes are nobody's business but the log's.
        assert llmcache.extract(TEXT, UserDetail) == JASON
        assert process.current().tiers.states()[0].faults > 0
    assert sandbox.calls == 2


def test_the_completion_is_restored_as_what_it_was(sandbox: Sandbox) -> None:
    made, first = llmcache.extract_with_completion(TEXT, UserDetail)
    found, second = llmcache.extract_with_completion(TEXT, UserDetail)
    assert made == found == JASON
    assert type(second) is ChatCompletion
    assert second == first
    assert second.usage is not None
    assert (second.usage.total_tokens > 0, sandbox.calls) == (True, 1)


def test_partial_and_iterable_are_cached_too(sandbox: Sandbox) -> None:
    sandbox.answers["Jason and Ann"] = [JASON.model_dump(), {"name": "Ann", "age": 30}]
    first = list(llmcache.extract_partial(TEXT, UserDetail))
    assert list(llmcache.extract_partial(TEXT, UserDetail)) == first
    assert first[-1] == llmcache.extract(TEXT, UserDetail) == JASON
    people = list(llmcache.extract_iterable("Jason and Ann", UserDetail))
    assert people == list(llmcache.extract_iterable("Jason and Ann", UserDetail))
    assert people == llmcache.extract("Jason and Ann", list[UserDetail])
    assert sandbox.calls == 2


def test_three_tiers(sandbox: Sandbox, tmp_path: Path, redis_server: RedisServer) -> None:
    def ask() -> str | None:
        return llmcache.extract_with_info(TEXT, UserDetail).tier

    def forget() -> None:
        memory = process.current().memory
        assert memory is not None
        memory.clear()

    with three(tmp_path, redis_server), llmcache_settings(TIERS=["memory", "disk", "redis"]):
        assert [ask(), ask()] == [None, "memory"]
        forget()
        assert [ask(), ask()] == ["disk", "memory"]
        # What the slowest has, the others get.
        forget()
        caches["disk"].clear()
        assert [ask(), ask()] == ["redis", "memory"]
        forget()
        assert ask() == "disk"
    assert sandbox.calls == 1


def test_another_schema_is_another_key(sandbox: Sandbox) -> None:
    before = create_model("User", name=(str, ...))
    after = create_model("User", name=(str, ...), email=(str | None, None))
    sandbox.answers["Ann"] = {"name": "Ann", "email": None}
    keys = [llmcache.extract_with_info("Ann", model).key for model in (before, after, before)]
    assert keys[0] == keys[2] != keys[1]
    assert sandbox.calls == 2


def test_awaited_and_gathered(sandbox: Sandbox) -> None:
    async def main() -> list[UserDetail]:
        return await asyncio.gather(*(llmcache.aextract(TEXT, UserDetail) for _ in range(20)))

    assert asyncio.run(main()) == [JASON] * 20
    assert sandbox.calls == 1


def test_a_batch_asks_once_for_what_is_equal(sandbox: Sandbox) -> None:
    batch = llmcache.extract_many([TEXT, "Ann", TEXT, "Ann", TEXT], UserDetail)
    assert batch[0] == batch[2] == batch[4] == JASON
    assert (batch.outcomes, sandbox.calls) == (["miss", "miss", "collapsed", "collapsed", "collapsed"], 2)

    async def main() -> Any:
        return await llmcache.aextract_many([TEXT, "Ann"], UserDetail)

    assert asyncio.run(main()).outcomes == ["hit", "hit"]


@pytest.mark.django_db
def test_metrics_by_function_with_the_time_that_was_saved(sandbox: Sandbox) -> None:
    sandbox.latency = 0.05

    @cached
    def profile(text: str) -> UserDetail:
        return llmcache.extract(text, UserDetail)

    for _ in range(3):
        profile(TEXT)
    told = llmcache.stats(by="kind")
    assert (told["profile"].hits, told["profile"].misses, told["UserDetail"].misses) == (2, 1, 1)
    assert told["profile"].hit_rate == pytest.approx(2 / 3)
    assert told["profile"].seconds_saved >= 0.1


def test_a_time_for_each_kind(sandbox: Sandbox, clock: MovedClock) -> None:
    kinds = {"profile": {"ttl": 3_600}, "live": {"ttl": timedelta(minutes=1)}, "static": {"ttl": None}}

    def outcomes() -> list[str]:
        return [llmcache.extract_with_info(TEXT, UserDetail, kind=kind).outcome for kind in kinds]

    with llmcache_settings(KINDS=kinds), clock.kept():
        assert outcomes() == ["miss"] * 3
        clock.move(120)
        assert outcomes() == ["hit", "miss", "hit"]
        clock.move(4_000)
        assert outcomes() == ["miss", "miss", "hit"]


@pytest.mark.django_db(transaction=True)
def test_warming_knows_what_is_there_and_what_it_costs(sandbox: Sandbox) -> None:
    llmcache.extract(TEXT, UserDetail)
    told = llmcache.warm([TEXT, "Ann", "Bob"], UserDetail, dry_run=True)
    assert (told.items, told.live, told.to_ask, sandbox.calls) == (3, 1, 2, 1)
    done = llmcache.warm([TEXT, "Ann", "Bob"], UserDetail, max_calls=2)
    assert (done.warmed, sandbox.calls) == (2, 3)
    assert llmcache.extract_with_info("Ann", UserDetail).outcome == "hit"


def test_tenants_do_not_meet_and_a_persons_data_is_found_again(
    sandbox: Sandbox, django_db_setup: None, db: None
) -> None:
    ask: Callable[..., str] = lambda **whose: llmcache.extract_with_info(TEXT, UserDetail, **whose).outcome  # noqa: E731
    assert [ask(tenant="acme"), ask(tenant="globex"), ask(tenant="acme")] == ["miss", "miss", "hit"]
    assert [ask(subject="jason"), ask(subject="jason")] == ["miss", "hit"]
    llmcache.invalidate(subject="jason")
    assert [ask(subject="jason"), ask(tenant="acme")] == ["miss", "hit"]


def test_savings_estimated_as_the_guide_does() -> None:
    # 1,000 calls a day at two cents, of which seventy percent are hits: the guide's own example.
    saved = llmcache.estimate_savings(calls_per_day=1_000, hit_rate=0.7, cost_per_call=Decimal("0.02"))
    assert saved.monthly_saved_usd == Decimal(420)
    assert saved.daily_without_usd == Decimal(20)


@pytest.mark.django_db
def test_the_pages_examples_run(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "from-the-caching-guide.md").read_text()
    # The function that is decorated looks for what it calls among the globals.
    names: dict[str, Any] = {"text": TEXT, "UserDetail": UserDetail, "__name__": __name__}
    for example in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(example, "from-the-caching-guide.md", "exec"), names)
    assert conf.problems(names["LLMCACHE"]) == []
    assert set(names["LLMCACHE"]["TIERS"]) <= names["CACHES"].keys()
    assert "hits=1, misses=1" in capsys.readouterr().out
    assert sandbox.calls == 4
