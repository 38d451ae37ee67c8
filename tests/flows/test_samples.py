"""Several answers to one request: each asked for once, kept by itself, and given again in their order."""

import asyncio
import io
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.core.cache import caches
from pydantic import BaseModel

import llmcache
from llmcache import rewriting
from llmcache.engine import process
from llmcache.models import CacheEntry
from llmcache.testing.sandbox import Sandbox, faults
from tests.cache_servers import RedisServer
from tests.conftest import MovedClock, llmcache_settings
from tests.contract.aliases import in_caches
from tests.flows.test_costs import SANDBOX_PRICES
from tests.flows.test_flights import in_background, wait_until

Ask = Callable[..., llmcache.Batch[Any]]


class Guess(BaseModel):
    """A guess."""

    name: str


@pytest.fixture
def provider(sandbox: Sandbox) -> Iterator[Sandbox]:
    """A provider that gives another answer each time."""
    for number in range(40):
        sandbox.fail(faults.says(f'{{"name":"{number}"}}'))
    with llmcache_settings(PRICES=SANDBOX_PRICES, KINDS={"Guess": {"type": f"{__name__}.Guess"}}):
        process.install(None)
        yield sandbox


def awaited(*given: Any, **options: Any) -> llmcache.Batch[Any]:
    async def main() -> llmcache.Batch[Any]:
        return await llmcache.aextract_samples(*given, **options)

    return asyncio.run(main())


BOTH = pytest.mark.parametrize("ask", [llmcache.extract_samples, awaited], ids=["sync", "async"])


def names(found: Any) -> list[str | None]:
    return [each and each.name for each in found]


# -- what comes back


@BOTH
def test_answers_are_kept_one_by_one_and_replayed_in_their_order(
    ask: Ask, provider: Sandbox, forget_memory: Callable[[], None]
) -> None:
    first = ask("Ada", Guess, samples=3, concurrency=1)
    assert (names(first), first.outcomes, provider.calls) == (["0", "1", "2"], ["miss"] * 3, 3)
    assert first.cost == Decimal(provider.bill_pico_usd) / 10**12
    again = ask("Ada", Guess, samples=3)
    assert (list(again), again.outcomes, again.cost) == (list(first), ["hit"] * 3, 0)
    assert all(one is not other for one, other in zip(first, again, strict=True))
    # Who asks for more pays for the rest, and has the others in their places.
    more = ask("Ada", Guess, concurrency=1)
    assert (names(more), more.outcomes, provider.calls) == ([*"01234"], [*["hit"] * 3, "miss", "miss"], 5)
    assert names(ask("Ada", Guess, samples=2)) == ["0", "1"]
    forget_memory()
    below = ask("Ada", Guess)
    assert (names(below), {info.tier for info in below.infos if info}, provider.calls) == ([*"01234"], {"disk"}, 5)
    assert len({info.key for info in below.infos if info}) == 5


@BOTH
def test_the_first_is_the_answer_of_a_single_call(ask: Ask, provider: Sandbox) -> None:
    single = llmcache.extract_with_info("Ada", Guess)
    found = ask("Ada", Guess, samples=2)
    assert (names(found), found.outcomes) == (["0", "1"], ["hit", "miss"])
    assert found.infos[0] is not None
    assert found.infos[0].key == single.key
    assert ask("Bob", Guess, samples=1)[0] == llmcache.extract("Bob", Guess)
    assert llmcache.extract_many(["Ada", "Bob"], Guess, cache="only")[1] == ask("Bob", Guess, samples=1)[0]
    assert provider.calls == 3


def test_each_variant_has_samples_of_its_own(provider: Sandbox) -> None:
    variants: list[Any] = [None, 0, 1, 2, "0", "1", "2", "sample 1", "\3", "None", -1]
    keys: list[str] = []
    for variant in variants:
        found = llmcache.extract_samples("Ada", Guess, samples=3, variant=variant)
        keys += [info.key for info in found.infos if info]
        assert llmcache.extract_with_info("Ada", Guess, variant=variant).key == keys[-3]
    assert len(set(keys)) == 3 * len(variants)
    assert provider.calls == 3 * len(variants)
    acme = llmcache.Extractor(tenant="acme", variant="a", temperature=1.0)
    first = acme.extract_samples("Ada", Guess, samples=2)
    assert acme.extract("Ada", Guess) == first[0]
    assert asyncio.run(_second(acme)) == first[1]
    # What a call says wins over what is bound.
    other = acme.extract_samples("Ada", Guess, samples=2, variant=None)
    assert (other.outcomes, provider.calls) == (["miss", "miss"], 37)
    assert provider.requests[-1].body["temperature"] == 1.0


async def _second(acme: llmcache.Extractor) -> Any:
    return (await acme.aextract_samples("Ada", Guess, samples=2))[1]


def test_two_callers_at_once_pay_for_each_answer_once(provider: Sandbox) -> None:
    provider.hold()
    callers = [in_background(lambda: llmcache.extract_samples("Ada", Guess, samples=4)) for _ in range(2)]
    callers.append(in_background(lambda: awaited("Ada", Guess, samples=4)))
    flights = process.current().flights
    provider.wait_until_received(4)
    wait_until(lambda: len(flights._flights) == 4)
    provider.release()
    for thread, _ in callers:
        thread.join()
    one, two, three = (found[0] for _, found in callers)
    assert names(one) == names(two) == names(three)
    assert len(set(names(one))) == 4
    assert provider.received == 4
    assert sum(batch.outcomes.count("miss") for batch in (one, two, three)) == 4


# -- how they are asked for


@BOTH
def test_what_the_cache_may_do_holds_for_all(ask: Ask, provider: Sandbox) -> None:
    assert names(ask("Ada", Guess, samples=2, concurrency=1)) == ["0", "1"]
    assert names(ask("Ada", Guess, samples=2, concurrency=1, cache="refresh")) == ["2", "3"]
    assert names(ask("Ada", Guess, samples=2, concurrency=1, cache="bypass")) == ["4", "5"]
    assert names(ask("Ada", Guess, samples=2, concurrency=1, ttl=0)) == ["6", "7"]
    assert names(ask("Ada", Guess, samples=2)) == ["2", "3"]
    with pytest.raises(llmcache.NotCached):
        ask("Ada", Guess, samples=3, cache="only")
    there = ask("Ada", Guess, samples=4, cache="only", on_error="collect")
    assert (names(there), sorted(there.errors)) == (["2", "3", None, None], [2, 3])
    assert provider.received == 8


@BOTH
def test_one_that_fails_is_asked_again_alone(ask: Ask, sandbox: Sandbox, no_backoff: list[float]) -> None:
    sandbox.fail(faults.refusal(), every=3)
    found = ask("Ada", Guess, samples=4, concurrency=1, on_error="collect")
    assert found.outcomes == ["miss", "miss", "error", "miss"]
    assert found[2] is None
    assert found.errors[2].code == "refused"  # type: ignore[attr-defined]
    assert ask("Ada", Guess, samples=4).outcomes == ["hit", "hit", "miss", "hit"]
    assert sandbox.calls == 5
    with pytest.raises(llmcache.Refused) as caught:
        ask("Bob", Guess, samples=4, concurrency=1)
    assert caught.value.__notes__[0].startswith("Item 0 of the batch")


@pytest.mark.django_db
def test_invalidations_reach_all_of_them(provider: Sandbox) -> None:
    def ask(**options: Any) -> llmcache.Batch[Guess]:
        return llmcache.extract_samples("Ada", Guess, samples=3, tags=["a"], subject="ann", **options)

    for conditions in ({"tag": "a"}, {"kind": "Guess"}, {"subject": "ann"}, {"response_model": Guess}):
        ask()
        llmcache.invalidate(**conditions)  # type: ignore[arg-type]
        assert ask().outcomes == ["miss"] * 3, conditions
    second = ask().infos[1]
    assert second is not None
    llmcache.invalidate(key=second.key)
    assert ask().outcomes == ["hit", "miss", "hit"]


@pytest.mark.django_db
def test_each_is_an_entry_that_is_refreshed_by_itself(provider: Sandbox, clock: MovedClock) -> None:
    first = llmcache.extract_samples("Ada", Guess, samples=3, concurrency=1, ttl=60, stale_ttl=600)
    assert llmcache.flush()
    keys = [info.key for info in first.infos if info]
    told = [CacheEntry.objects.get(key=key).components.get("variant") for key in keys]
    assert (told[0], len({*told})) == (None, 3)
    rewriting.refresh(keys[1])
    assert names(llmcache.extract_samples("Ada", Guess, samples=3, ttl=60)) == ["0", "3", "2"]
    clock.move(120)
    stale = llmcache.extract_samples("Ada", Guess, samples=3, ttl=60, stale_ttl=600)
    assert (names(stale), stale.outcomes) == (["0", "3", "2"], ["stale"] * 3)
    wait_until(lambda: provider.calls == 7 and not process.current().flights._flights)
    found = llmcache.extract_samples("Ada", Guess, samples=3, ttl=60, stale_ttl=600)
    assert (sorted(names(found)), found.outcomes) == (["4", "5", "6"], ["hit"] * 3)


def test_all_are_read_from_redis_by_one_command(provider: Sandbox, redis_server: RedisServer) -> None:
    redis = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": redis_server.url}
    with in_caches(shared=redis), llmcache_settings(TIERS=["shared"], PRICES=SANDBOX_PRICES):
        process.install(None)
        llmcache.extract_samples("Ada", Guess, samples=6)
        tenants = ["one", "two", "three"]
        llmcache.extract_many(["Ada"] * 3, Guess, tenant=tenants)
        client: Any = caches["shared"]._cache.get_client()  # type: ignore[attr-defined]
        for ask in (
            lambda: llmcache.extract_samples("Ada", Guess, samples=6),
            lambda: llmcache.extract_many(["Ada"] * 3, Guess, tenant=tenants),
        ):
            client.config_resetstat()
            found = ask()
            assert found.outcomes == ["hit"] * len(found)
            calls = {name[8:]: told["calls"] for name, told in client.info("commandstats").items()}
            assert (calls.get("mget"), "get" in calls) == (1, False)
        # Not that the answers of the one are those of the other.
        found = llmcache.extract_many(["Ada"] * 3, Guess, tenant=tenants)
        assert names(found) == [llmcache.extract("Ada", Guess, tenant=tenant).name for tenant in tenants]
        client.flushall()
    assert provider.calls == 9


# -- bad input


class Pages(io.BytesIO):
    """A file that counts how often it is read."""

    name = "page.txt"
    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        return super().read(size)


@BOTH
def test_a_file_is_read_once_for_all_of_them(ask: Ask, provider: Sandbox) -> None:
    pages = Pages(b"A page of text.")
    found = ask(["What is it?", llmcache.File(pages)], Guess, samples=5)
    reads = pages.reads
    llmcache.extract(["What is it?", llmcache.File(pages)], Guess, cache="only")
    assert reads == pages.reads - reads
    assert (len(set(names(found))), provider.calls) == (5, 5)


@BOTH
def test_what_is_wrong_with_all_is_raised_in_any_case(ask: Ask, provider: Sandbox) -> None:
    wrong: list[tuple[Any, Any, dict[str, Any], str]] = [
        *(("Ada", Guess, {"samples": number}, "1 to 1,000") for number in (0, -1, 1_001, True, "5", 2.0, None)),
        ("", Guess, {}, "empty"),
        (b"Ada", Guess, {}, "bytes"),
        (None, Guess, {}, "NoneType"),
        ("Ada", "Guess", {}, "not a type"),
        ("Ada", Guess, {"variant": 1.5}, "variant="),
        ("Ada", Guess, {"variant": "x" * 1_001}, "variant="),
        ("Ada", Guess, {"variant": ["a", "b", "c", "d", "e"]}, "variant="),
        ("Ada", Guess, {"tags": [["a"]] * 5}, "tags="),
        ("Ada", Guess, {"sample": 3}, "samples="),
        ("Ada", Guess, {"n": 3}, "extract_samples"),
        ("Ada", Guess, {"concurrency": 0}, "concurrency="),
        ("Ada", Guess, {"on_error": "ignore"}, "on_error="),
        ("Ada", Guess, {"content": "body"}, "content"),
    ]
    for content, annotation, options, says in wrong:
        with pytest.raises((llmcache.InvalidRequest, TypeError), match=says):
            ask(content, annotation, **{"on_error": "collect", **options})
    with pytest.raises(llmcache.InvalidRequest, match="extract_samples"):
        llmcache.extract("Ada", Guess, samples=5)
    assert provider.received == 0


def test_as_many_as_there_may_be(sandbox: Sandbox) -> None:
    sandbox.answers["Ada"] = {"name": "Ada"}
    told: list[tuple[int, int | None]] = []
    found = llmcache.extract_samples(
        "Ada", Guess, samples=1_000, cache="only", on_error="collect", progress=lambda *each: told.append(each)
    )
    assert (len(found), len(found.errors), told[-1], sandbox.received) == (1_000, 1_000, (1_000, 1_000), 0)


def test_in_a_running_loop_it_is_to_be_awaited(sandbox: Sandbox) -> None:
    async def main() -> None:
        with pytest.raises(llmcache.AsyncContext, match="aextract_samples"):
            llmcache.extract_samples("Ada", Guess)

    asyncio.run(main())


def test_an_answer_may_be_that_of_another_sample(sandbox: Sandbox) -> None:
    """Whether they differ is the model's business; they are kept apart all the same."""
    sandbox.answers["Ada"] = {"name": "Ada"}
    found = llmcache.extract_samples("Ada", Guess, samples=3)
    assert (names(found), sandbox.calls) == (["Ada"] * 3, 3)
