"""Many items in one call: what comes back, what is asked and read for it, and what becomes of it when it is stopped."""

import asyncio
import copy
import os
import pickle
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.core.cache import caches
from django.test.utils import CaptureQueriesContext
from pydantic import BaseModel, field_validator

import llmcache
from llmcache.batches import work
from llmcache.engine import process
from llmcache.testing.sandbox import Sandbox, faults
from project.demo import data
from project.demo.types import Ingredient
from tests.cache_servers import RedisServer
from tests.conftest import JournalReader, MovedClock, llmcache_settings
from tests.contract.aliases import in_caches
from tests.flows.test_costs import SANDBOX_PRICES
from tests.flows.test_flights import in_background, wait_until
from tests.flows.test_key_secrets import OLD, ROTATING

NAMES = [f"name {number % 20}" for number in range(50)]

Ask = Callable[..., llmcache.Batch[Any]]


class Person(BaseModel):
    """A person."""

    name: str


@pytest.fixture
def provider(sandbox: Sandbox) -> Iterator[Sandbox]:
    sandbox.answers |= {name: {"name": name} for name in [*NAMES, "Ada", "Bob", "Eve"]}
    with llmcache_settings(PRICES=SANDBOX_PRICES):
        process.install(None)
        yield sandbox


def awaited(*given: Any, **options: Any) -> llmcache.Batch[Any]:
    async def main() -> llmcache.Batch[Any]:
        return await llmcache.aextract_many(*given, **options)

    return asyncio.run(main())


BOTH = pytest.mark.parametrize("ask", [llmcache.extract_many, awaited], ids=["sync", "async"])


def counted(kind: str = "Person") -> Counter[str]:
    found: Counter[str] = Counter()
    for (of, _, _, outcome), count in process.current().counts.total().items():
        found[outcome] += count if of == kind else 0
    return found


# -- what comes back


def test_a_batch_goes_to_another_process_and_is_copied(provider: Sandbox) -> None:
    llmcache.extract("Ada", Person)
    batch = llmcache.extract_many(["Ada", None, "Bob", "Bob"], Person, on_error="collect")
    for other in (pickle.loads(pickle.dumps(batch)), copy.deepcopy(batch)):
        assert list(other) == list(batch) == [Person(name="Ada"), None, Person(name="Bob"), Person(name="Bob")]
        assert other.outcomes == batch.outcomes == ["hit", "error", "miss", "collapsed"]
        assert [info and (info.value, info.key, info.cost_incurred_usd) for info in other.infos] == [
            info and (info.value, info.key, info.cost_incurred_usd) for info in batch.infos
        ]
        assert (other.cost, repr(other)) == (batch.cost, repr(batch))
        assert {index: str(error) for index, error in other.errors.items()} == {1: str(batch.errors[1])}


@BOTH
def test_equal_items_are_asked_once_and_values_are_in_their_order(ask: Ask, provider: Sandbox) -> None:
    first = ask(NAMES, Person)
    assert [each.name for each in first] == NAMES
    assert provider.calls == 20
    assert Counter(first.outcomes) == {"miss": 20, "collapsed": 30} == counted()
    assert len({id(each) for each in first}) == len(first) == 50
    second = ask(NAMES, Person)
    assert list(second) == list(first)
    assert (second.outcomes, provider.calls) == (["hit"] * 50, 20)
    assert counted()["hit"] == 50
    assert (first[3], first[-1].name, [each.name for each in first[1:3]]) == (first[23], NAMES[-1], NAMES[1:3])


@BOTH
def test_a_batch_tells_what_it_cost_and_what_each_value_did(ask: Ask, provider: Sandbox) -> None:
    first, second = ask(NAMES, Person), ask(NAMES, Person)
    bill = Decimal(provider.bill_pico_usd) / 10**12
    assert (first.cost, second.cost) == (bill, 0)
    infos = [info for batch in (first, second) for info in batch.infos]
    assert sum(info.cost_incurred_usd for info in infos) == bill
    assert sum(info.cost_avoided_usd for info in infos[20:50]) > 0
    for number, info in enumerate(infos):
        assert info.value is (first, second)[number // 50][number % 50]
        assert info.key == llmcache.extract_with_info(NAMES[number % 50], Person).key
        assert (info.origin, info.completion) == ("provider", None)
    single = llmcache.extract_with_info(NAMES[0], Person)
    of_hit = second.infos[0]
    assert of_hit is not None
    assert (of_hit.outcome, of_hit.tier, of_hit.attempts) == ("hit", single.tier, 0)
    assert of_hit.cost_avoided_usd == single.cost_avoided_usd
    assert of_hit.ttl_left_seconds == pytest.approx(single.ttl_left_seconds, abs=60)
    assert repr(second) == "<Batch of 50: 50 hit>"


@BOTH
def test_a_batch_of_nothing_asks_nothing(ask: Ask, provider: Sandbox) -> None:
    for nothing in ([], iter(()), Group.objects.none()):
        found = ask(nothing, Person)
        assert (list(found), found.errors, found.cost, list(found.infos)) == ([], {}, 0, [])
    assert provider.received == 0


@BOTH
def test_errors_are_raised_or_collected(ask: Ask, provider: Sandbox, no_backoff: list[float]) -> None:
    items: list[Any] = ["Ada", None, "", "Bob", "a\ud800", b"Eve", "Eve"]
    provider.fail(faults.refusal(), times=1)
    found = ask(items, Person, on_error="collect", concurrency=1)
    codes = {index: getattr(error, "code", "") for index, error in found.errors.items()}
    assert codes == {0: "refused", 1: "unsupported_type", 2: "invalid_text", 4: "invalid_text", 5: "unsupported_type"}
    assert [each and each.name for each in found] == [None, None, None, "Bob", None, None, "Eve"]
    assert found.outcomes == [*["error"] * 3, "miss", "error", "error", "miss"]
    assert [info is None for info in found.infos] == [True, True, True, False, True, True, False]
    assert found.cost == Decimal(provider.bill_pico_usd) / 10**12
    with pytest.raises(llmcache.UnsupportedType) as caught:
        ask(items, Person)
    assert caught.value.__notes__[0].startswith("Item 1 of the batch")


@BOTH
def test_all_may_fail(ask: Ask, provider: Sandbox, no_backoff: list[float]) -> None:
    provider.fail(faults.refusal(), times=1_000)
    found = ask(NAMES, Person, on_error="collect")
    assert {type(error) for error in found.errors.values()} == {llmcache.Refused}
    assert len({id(error) for error in found.errors.values()}) == len(found.errors) == 50
    # What is alike has failed once: its cost is told by one error.
    assert (provider.calls, found.cost) == (20, Decimal(provider.bill_pico_usd) / 10**12)
    assert list(found) == [None] * 50
    with pytest.raises(llmcache.Refused, match="declined") as caught:
        ask(NAMES, Person)
    assert caught.value.__notes__


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        (("Ada",), {}, "pass a list of texts"),
        ((b"Ada",), {}, "pass a list of texts"),
        (({"Ada": 1},), {}, "pass a list of texts"),
        ((7,), {}, "must be a list of texts"),
        ((["Ada"],), {"on_error": "ignore"}, "'raise' or 'collect'"),
        ((["Ada"],), {"concurrency": 0}, "from 1 to 100"),
        ((["Ada"],), {"concurrency": True}, "from 1 to 100"),
        ((["Ada"],), {"progress": 7}, "update"),
        ((["Ada"],), {"tenant": ["a", "b"]}, "2 values for 1 items"),
        ((iter(["Ada"]),), {"tags": [["a"]]}, "not known how many"),
        ((["Ada"],), {"content": ""}, "name of the field"),
        ((["Ada"],), {"content": "body"}, "has no 'body'"),
        ((["Ada"],), {"on_eror": "raise"}, "did you mean on_error="),
        ((["Ada"],), {"ttl": -1}, "ttl="),
        ((["Ada"],), {"model": "nowhere/m"}, "There is no provider"),
    ],
)
@BOTH
def test_what_is_wrong_with_all_of_it_is_raised(
    ask: Ask, arguments: tuple[Any, ...], options: dict[str, Any], says: str, provider: Sandbox
) -> None:
    with pytest.raises(llmcache.LLMCacheError, match=says):
        ask(*arguments, Person, **{"on_error": "collect", **options})
    assert provider.received == 0


def test_a_batch_beside_a_running_loop_is_refused(provider: Sandbox) -> None:
    async def main() -> None:
        with pytest.raises(llmcache.AsyncContext, match="aextract_many"):
            llmcache.extract_many(["Ada"], Person)

    asyncio.run(main())


# -- what each item has of its own


@BOTH
def test_each_item_may_have_its_own_tenant_subject_and_tags(ask: Ask, provider: Sandbox) -> None:
    items = [{"body": "Ada", "of": "acme"}, {"body": "Ada", "of": "zeta"}, {"body": "Ada", "of": "acme"}]
    found = ask(
        items,
        Person,
        content="body",
        tenant=lambda item: item["of"],
        subject=["s1", "s2", "s1"],
        tags=[["a"], [], ["a"]],
    )
    assert (found.outcomes.count("miss"), provider.calls) == (2, 2)
    keys = [info.key for info in found.infos if info is not None]
    for item, subject, tags, key in zip(items, ["s1", "s2", "s1"], [["a"], [], ["a"]], keys, strict=True):
        single = llmcache.extract_with_info("Ada", Person, tenant=item["of"], subject=subject, tags=tags)
        assert (single.key, single.outcome) == (key, "hit")
    again = ask(items, Person, content=lambda item: item["body"], tenant=lambda i: i["of"], subject="s1", tags=["a"])
    assert again.outcomes.count("hit") == 2


@BOTH
def test_a_tenant_is_told_once_at_the_call_and_may_be_required(ask: Ask, provider: Sandbox) -> None:
    with llmcache_settings(TENANT="tests.flows.test_batches.tenant_here", TENANT_REQUIRED=True):
        process.install(None)
        _tenant.set("acme")
        told.clear()
        found = ask(["Ada", "Bob"], Person)
        assert told == ["acme"]
        assert llmcache.extract_with_info("Ada", Person, tenant="acme").outcome == "hit"
        mixed = ask(["Ada", "Bob"], Person, tenant=["acme", None], on_error="collect")
        assert mixed.outcomes == ["hit", "error"]
        assert isinstance(mixed.errors[1], llmcache.TenantMissing)
        _tenant.set(None)
        with pytest.raises(llmcache.TenantMissing):
            ask(["Ada"], Person)
    assert found[0].name == "Ada"


_tenant: ContextVar[str | None] = ContextVar("tenant", default=None)
told: list[str | None] = []


def tenant_here() -> str | None:
    """The tenant that this context is about; which thread is asked does not matter."""
    told.append(_tenant.get())
    return _tenant.get()


@pytest.mark.django_db
def test_a_queryset_is_read_by_a_field(provider: Sandbox) -> None:
    Group.objects.bulk_create(Group(name=name) for name in sorted(set(NAMES)))
    ordered = Group.objects.order_by("name")
    with CaptureQueriesContext(process_connection()) as queries:
        found = llmcache.extract_many(ordered, Person, content="name")
    assert [each.name for each in found] == sorted(set(NAMES))
    assert len([each for each in queries.captured_queries if "auth_group" in each["sql"]]) == 1
    assert ordered._result_cache is None
    rows = ordered.values("name")
    assert llmcache.extract_many(rows, Person, content="name").outcomes == ["hit"] * 20
    assert llmcache.extract_many(list(ordered), Person, content="name", tags=[[]] * 20).outcomes == ["hit"] * 20


@pytest.mark.django_db(transaction=True)
def test_a_queryset_is_read_without_holding_up_a_loop(provider: Sandbox) -> None:
    Group.objects.bulk_create(Group(name=name) for name in ["Ada", "Bob"])

    async def names() -> list[str]:
        found = [each async for each in llmcache.as_completed(Group.objects.all(), Person, content="name")]
        assert all(each.item.name == each.value.name for each in found)
        return sorted(each.value.name for each in found)

    assert asyncio.run(names()) == ["Ada", "Bob"]


def process_connection() -> Any:
    from django.db import connection

    return connection


# -- what is asked of the tiers


def test_keys_are_read_from_redis_by_one_command(provider: Sandbox, redis_server: RedisServer) -> None:
    redis = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": redis_server.url}
    with in_caches(shared=redis), llmcache_settings(TIERS=["shared"], PRICES=SANDBOX_PRICES):
        process.install(None)
        llmcache.extract_many(NAMES, Person)
        client: Any = caches["shared"]._cache.get_client()  # type: ignore[attr-defined]
        client.config_resetstat()
        found = llmcache.extract_many([*NAMES, *NAMES], Person)
        calls = {name[8:]: told["calls"] for name, told in client.info("commandstats").items()}
        assert (found.outcomes, provider.calls) == (["hit"] * 100, 20)
        assert calls.get("mget") == 1
        assert "get" not in calls
        assert {info.tier for info in found.infos if info is not None} == {"shared"}
        # Over memory, what is found below is kept above.
        memory = {"BACKEND": "llmcache.backends.MemoryCache", "LOCATION": "over redis"}
        with in_caches(above=memory, shared=redis), llmcache_settings(TIERS=["above", "shared"], PRICES=SANDBOX_PRICES):
            process.install(None)
            for tier in ("shared", "above"):
                assert {info.tier for info in llmcache.extract_many(NAMES, Person).infos if info} == {tier}
        client.flushall()


@BOTH
def test_a_tier_that_is_down_is_a_miss_for_all(ask: Ask, provider: Sandbox, tmp_path: Path) -> None:
    nowhere = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://127.0.0.1:1/0"}
    with in_caches(down=nowhere), llmcache_settings(TIERS=["down"], PRICES=SANDBOX_PRICES):
        process.install(None)
        # Nothing can be kept, and what is alike is asked once all the same, also in windows apart.
        found = ask(NAMES * 11, Person)
        assert (len(found), provider.calls) == (550, 20)
        assert {each.name for each in found} == set(NAMES)


def test_time_and_invalidations_hold_as_for_a_single_call(
    provider: Sandbox, clock: MovedClock, forget_memory: Callable[[], None]
) -> None:
    with clock.kept():
        llmcache.extract_many(NAMES, Person)
        clock.move(100)
        for forget in (lambda: None, forget_memory):
            forget()
            assert llmcache.extract_many(NAMES, Person, ttl=200).outcomes == ["hit"] * 50
        with pytest.raises(llmcache.NotCached):
            llmcache.extract_many(NAMES, Person, ttl=50, cache="only")
        assert llmcache.extract_many(NAMES, Person, ttl=50, stale_ttl=1_000).outcomes == ["stale"] * 50
        assert process.current().refreshes.wait(30)
        assert 20 < provider.calls <= 40


@pytest.mark.parametrize(
    "in_transaction",
    [
        pytest.param(True, marks=pytest.mark.django_db),
        pytest.param(False, marks=pytest.mark.django_db(transaction=True)),
    ],
)
def test_what_is_invalidated_is_asked_anew(
    in_transaction: bool, provider: Sandbox, forget_memory: Callable[[], None]
) -> None:
    llmcache.extract_many(NAMES, Person, tags=["vip"])
    key = llmcache.extract_many(["name 3"], Person, tags=["vip"]).infos[0]
    assert key is not None
    llmcache.invalidate(key=key.key)
    assert process.current().log.has_own == in_transaction
    for count in (1, 0):
        forget_memory()
        assert llmcache.extract_many(NAMES[:20], Person, tags=["vip"]).outcomes.count("miss") == count
    llmcache.invalidate(tag="vip")
    assert llmcache.extract_many(NAMES[:20], Person, tags=["vip"]).outcomes == ["miss"] * 20
    llmcache.invalidate(kind="Person")
    forget_memory()
    assert llmcache.extract_many(NAMES[:20], Person, tags=["vip"]).outcomes == ["miss"] * 20
    assert provider.calls == 61


def test_entries_under_an_older_secret_are_found(provider: Sandbox, forget_memory: Callable[[], None]) -> None:
    with llmcache_settings(KEY_SECRETS=[OLD]):
        process.install(None)
        llmcache.extract_many(["Ada", "Bob"], Person)
        forget_memory()
    with llmcache_settings(KEY_SECRETS=ROTATING):
        process.install(None)
        assert llmcache.extract_many(["Ada"], Person, cache="only").outcomes == ["hit"]
        assert llmcache.extract_many(["Ada", "Bob"], Person).outcomes == ["hit"] * 2
        assert provider.calls == 2


@BOTH
def test_calls_that_keep_nothing_are_each_asked(ask: Ask, provider: Sandbox) -> None:
    assert ask(["Ada", "Ada"], Person, cache="bypass").outcomes == ["bypass"] * 2
    assert ask(["Ada", "Ada"], Person, ttl=0).outcomes == ["bypass"] * 2
    with llmcache.bypass():
        assert ask(["Ada", "Ada"], Person).outcomes == ["bypass"] * 2
    assert provider.calls == 6
    assert Counter(ask(["Ada", "Ada"], Person, cache="refresh").outcomes) == {"miss": 1, "collapsed": 1}
    assert Counter(ask(["Ada", "Ada"], Person, cache="refresh", concurrency=1).outcomes) == {"miss": 1, "collapsed": 1}
    assert provider.calls == 8


class Picky(BaseModel):
    """Accepts what it is told to."""

    name: str

    @field_validator("name")
    @classmethod
    def accepted(cls, name: str) -> str:
        if name in refused:
            raise ValueError("not this one")
        return name


refused: set[str] = set()


def test_an_entry_that_does_not_pass_is_a_miss(provider: Sandbox) -> None:
    assert llmcache.extract_many(["Ada", "Bob"], Picky).outcomes == ["miss"] * 2
    refused.add("Ada")
    try:
        found = llmcache.extract_many(["Ada", "Bob"], Picky, on_error="collect", max_reasks=0)
    finally:
        refused.clear()
    assert found.outcomes == ["error", "hit"]
    assert isinstance(found.errors[0], llmcache.ValidationFailed)


def test_parameters_that_cannot_be_looked_up_are_read_together_too(provider: Sandbox) -> None:
    for outcome in ("miss", "hit"):
        assert llmcache.extract_many(["Ada", "Bob"], Person, stop=["."], unkeyed=[]).outcomes == [outcome] * 2
    assert llmcache.Extractor(stop=["."]).extract_many(["Ada"], Person).outcomes == ["hit"]


# -- how far it is, and how it is stopped


@BOTH
def test_it_tells_how_far_it_is(ask: Ask, provider: Sandbox) -> None:
    told: list[tuple[int, int | None]] = []
    ask(NAMES, Person, progress=lambda done, all_of_them: told.append((done, all_of_them)))
    assert told == [(number, 50) for number in range(1, 51)]
    told.clear()
    ask(iter(NAMES), Person, progress=lambda done, all_of_them: told.append((done, all_of_them)))
    assert told[-1] == (50, None)

    class Bar:
        moved = 0

        def update(self, n: int) -> None:
            self.moved += n

    bar = Bar()
    ask(NAMES, Person, progress=bar)
    assert bar.moved == 50


def test_who_raises_waits_for_what_has_begun_and_begins_nothing_else(provider: Sandbox) -> None:
    provider.hold()

    def later(done: int, _: int | None) -> None:
        if done == 1:
            raise RuntimeError("enough")

    def run() -> object:
        with pytest.raises(RuntimeError, match="enough"):
            llmcache.extract_many(NAMES[:20], Person, concurrency=4, progress=later)
        return "raised"

    thread, found = in_background(run)
    try:
        wait_until(lambda: provider.received >= 4)
    finally:
        provider.release()
    thread.join(30)
    assert found == ["raised"]
    # Whoever had ended its call when the first was told may have begun one more.
    assert 4 <= provider.received < 20
    kept = llmcache.extract_many(NAMES[:20], Person, on_error="collect", cache="only").outcomes.count("hit")
    assert kept == provider.received


def test_an_interrupt_waits_for_what_has_begun(provider: Sandbox) -> None:
    """Ctrl-C, which reaches the main thread while it waits for the others."""
    provider.hold()

    def press() -> None:
        try:
            wait_until(lambda: provider.received >= 3)
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            provider.release()

    thread, _ = in_background(press)
    with pytest.raises(KeyboardInterrupt):
        llmcache.extract_many(NAMES[:20], Person, concurrency=3)
    thread.join(30)
    # Who had ended a call before the interrupt was noticed may have begun another.
    assert 3 <= provider.received < 20
    assert outcomes().count("hit") == provider.received
    assert not [each for each in threading.enumerate() if each.name == "llmcache-batch"]


def test_who_is_cancelled_leaves_what_has_begun_to_be_kept(provider: Sandbox, journal: JournalReader) -> None:
    async def main() -> None:
        provider.hold()
        task = asyncio.ensure_future(llmcache.aextract_many(NAMES[:20], Person, concurrency=4))
        while provider.received < 4:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        provider.release()

    asyncio.run(main())
    wait_until(lambda: sum(record.event == "settled" for record in journal.records()) == 4)
    wait_until(lambda: outcomes().count("hit") == 4)
    assert provider.received == 4


def outcomes() -> list[str]:
    return llmcache.extract_many(NAMES[:20], Person, on_error="collect", cache="only").outcomes


def test_items_are_given_as_they_end_and_whoever_leaves_stops_the_others(provider: Sandbox) -> None:
    llmcache.extract_many(["Ada", "Bob"], Person)

    async def main() -> list[Any]:
        found: list[Any] = []
        provider.hold()
        ends = llmcache.as_completed([*NAMES[:10], "Ada", "Bob"], Person, concurrency=2)
        async for each in ends:
            found.append(each)
            if len(found) == 2:
                while provider.received < 2:
                    await asyncio.sleep(0.005)
                provider.release()
            if len(found) == 3:
                break
        await ends.aclose()
        return found

    found = asyncio.run(main())
    # Those that a tier has come before those that are asked for.
    assert [(each.index, each.item, each.value.name, each.error) for each in found[:2]] == [
        (10, "Ada", "Ada", None),
        (11, "Bob", "Bob", None),
    ]
    assert (found[0].info.outcome, found[2].info.outcome) == ("hit", "miss")
    assert provider.received < 12


def test_as_completed_collects_errors_too(provider: Sandbox) -> None:
    async def main() -> dict[int, Any]:
        ends = llmcache.as_completed(agiven(["Ada", None]), Person, on_error="collect")
        return {each.index: (each.value, type(each.error), each.info is None) async for each in ends}

    async def agiven(items: list[Any]) -> Any:
        for item in items:
            yield item

    found = asyncio.run(main())
    assert found == {0: (Person(name="Ada"), type(None), False), 1: (None, llmcache.UnsupportedType, True)}


def test_context_is_that_of_the_call_in_every_thread(provider: Sandbox) -> None:
    seen: set[str | None] = set()

    class Watching(BaseModel):
        """Notes whose context it is made in."""

        name: str

        @field_validator("name")
        @classmethod
        def note(cls, name: str) -> str:
            seen.add(_tenant.get())
            return name

    _tenant.set("acme")
    llmcache.extract_many(NAMES, Watching)

    async def main() -> None:
        call = llmcache.aextract_many(NAMES, Watching, version="2")
        _tenant.set("zeta")
        await call

    asyncio.run(main())
    assert seen == {"acme"}


# -- many


def test_a_batch_of_a_hundred_thousand_is_taken_in_windows(provider: Sandbox) -> None:
    taken = 0

    def items() -> Iterator[str]:
        nonlocal taken
        for number in range(100_000):
            taken += 1
            yield NAMES[number % 50]

    most = 0

    def watch(done: int, _: int | None) -> None:
        nonlocal most
        most = max(most, taken - done)

    found = llmcache.extract_many(items(), Person, progress=watch)
    assert (len(found), provider.calls) == (100_000, 20)
    assert most <= 3 * work.WINDOW
    assert found[99_999].name == NAMES[49]


def test_the_log_in_chunks_asks_for_each_text_once(sandbox: Sandbox) -> None:
    """A part of it; ``python -m benchmarks batches`` replays the whole, of which 12,182 texts are distinct."""
    log = data.read_log(700)
    sandbox.answers |= {each.text: each.gold.model_dump(mode="json") for each in log}
    outcomes: Counter[str] = Counter()
    for start in range(0, len(log), 250):
        chunk = log[start : start + 250]
        found = llmcache.extract_many(chunk, Ingredient, content="text")
        assert list(found) == [each.gold for each in chunk]
        outcomes.update(found.outcomes)
    distinct = data.distinct(log, separate_tenants=False)
    assert sandbox.calls == outcomes["miss"] == distinct
    assert outcomes["hit"] + outcomes["collapsed"] == len(log) - distinct
