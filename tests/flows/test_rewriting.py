"""Changing one entry: another TTL, or a new answer; for this process, for others, and for the ledger."""

import asyncio
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connections, transaction
from pydantic import BaseModel, field_validator
from pytest_django import DjangoDbBlocker

import llmcache
from llmcache import corrections, keys, rewriting
from llmcache.engine import process
from llmcache.exceptions import NotRewritten
from llmcache.models import CacheEntry, Invalidation, ProviderCall, SchemaVersion, TenantDay, UsageBucket
from llmcache.money.facts import unix_of
from llmcache.testing.sandbox import Sandbox, faults
from tests.cache_servers import RedisServer
from tests.conftest import MovedClock, llmcache_settings
from tests.contract.aliases import in_caches
from tests.flows.test_costs import SANDBOX_PRICES
from tests.flows.test_invalidation_processes import Workers, caches_over
from tests.ledgers import ALIAS, known
from tests.waiting import until

pytestmark = pytest.mark.django_db
Capture = Callable[..., AbstractContextManager[list[Any]]]
HOUR = 3_600.0
EXACT = 0.5
"""Seconds that a test itself may take, as they are seen in a time that is told."""


class Person(BaseModel):
    """A person."""

    age: int


class Older(BaseModel):
    """As it was before a field was added."""

    age: int
    name: str = ""


class Strict(BaseModel):
    """A person of whom not every age is believed."""

    age: int

    @field_validator("age")
    @classmethod
    def is_possible(cls, value: int) -> int:
        if value > 150:
            raise ValueError("nobody is that old")
        return value


@pytest.fixture
def provider(sandbox: Sandbox) -> Iterator[Sandbox]:
    sandbox.answers["Ada"] = {"age": 36}
    with llmcache_settings(PRICES=SANDBOX_PRICES, KINDS={"Person": {"type": f"{__name__}.Person"}}):
        yield sandbox


@pytest.fixture(autouse=True)
def committed(django_capture_on_commit_callbacks: Capture) -> Callable[..., Any]:
    """Carries out what a test's transaction would on its commit."""

    def run(work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        with django_capture_on_commit_callbacks(execute=True):
            return work(*arguments, **named)

    return run


def ask(**options: Any) -> tuple[int, str]:
    found = llmcache.extract_with_info("Ada", options.pop("type", Person), **options)
    return found.value.age, found.outcome


def key_of(**options: Any) -> str:
    return llmcache.extract_with_info("Ada", options.pop("type", Person), **options).key


def row_of(key: str) -> CacheEntry:
    assert llmcache.flush()
    return CacheEntry.objects.get(key=key)


def left_of(key: str) -> list[float | None]:
    """Return how long each tier has the entry for."""
    return [place.ttl_left for place in process.current().tiers.places(bytes.fromhex(key))]


def why_not(work: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(NotRewritten) as caught:
        work(*arguments)
    assert caught.value.code == "not_rewritten"
    return caught.value.reason


# -- another TTL


def test_it_is_cut_to_the_second(clock: MovedClock, provider: Sandbox, committed: Any) -> None:
    with clock.kept():
        key = key_of(ttl=None)
        assert left_of(key) == [None, None]
        told = committed(rewriting.retime, key, 60)
        assert told.fresh_until is not None
        assert abs(told.fresh_until - clock.clock.wall() - 60) < EXACT
        assert not told.was_capped
        clock.move(59)
        assert ask(ttl=None) == (36, "hit")
        clock.move(1.0)
        assert ask(ttl=None) == (36, "miss")


def test_it_is_extended_to_the_second(clock: MovedClock, provider: Sandbox, committed: Any) -> None:
    with clock.kept():
        key = key_of(ttl=timedelta(days=7))
        committed(rewriting.retime, key, 60)
        committed(rewriting.retime, key, 2 * HOUR)
        clock.move(2 * HOUR - 1)
        assert ask(ttl=timedelta(days=7)) == (36, "hit")
        clock.move(1.0)
        assert ask(ttl=timedelta(days=7)) == (36, "miss")


def test_who_asks_bounds_the_age_all_the_same(clock: MovedClock, provider: Sandbox, committed: Any) -> None:
    with clock.kept():
        committed(rewriting.retime, key_of(ttl=60), None)
        clock.move(61)
        assert ask(ttl=None) == (36, "hit")
        assert ask(ttl=60) == (36, "miss")


def test_it_is_the_same_in_the_tier_below(
    clock: MovedClock, provider: Sandbox, committed: Any, forget_memory: Any
) -> None:
    with clock.kept():
        key = key_of(ttl=None)
        committed(rewriting.retime, key, 60)
        memory, below = left_of(key)
        assert memory is not None
        assert below is not None
        assert abs(memory - below) < EXACT
        forget_memory()
        clock.move(59)
        assert ask(ttl=None) == (36, "hit")
        forget_memory()
        clock.move(1.0)
        assert ask(ttl=None) == (36, "miss")


def test_without_an_end_it_stays(clock: MovedClock, provider: Sandbox, committed: Any) -> None:
    with clock.kept():
        key = key_of(ttl=60)
        assert committed(rewriting.retime, key, None).fresh_until is None
        assert left_of(key) == [None, None]
        assert row_of(key).expires_at is None
        clock.move(300 * 86_400)
        assert ask(ttl=None) == (36, "hit")


def test_it_is_never_longer_than_the_log_goes_back(clock: MovedClock, provider: Sandbox, committed: Any) -> None:
    with clock.kept():
        key = key_of(ttl=None)
        told = committed(rewriting.retime, key, 4_000 * 86_400)
        assert told.was_capped
        assert abs(told.fresh_until - clock.clock.wall() - 400 * 86_400) < EXACT


def test_how_long_it_may_be_stale_stays(clock: MovedClock, provider: Sandbox, committed: Any) -> None:
    with clock.kept():
        key = key_of(ttl=60, stale_ttl=100)
        for ttl in (10, 1_000):
            committed(rewriting.retime, key, ttl)
            row = row_of(key)
            assert row.expires_at is not None
            assert row.stale_until is not None
            assert row.stale_until - row.expires_at == timedelta(seconds=100)
            entry = rewriting.look(process.current(), bytes.fromhex(key))
            assert entry is not None
            assert math.isclose(entry.entry.stale_until - entry.entry.fresh_until, 100, abs_tol=1e-6)


def test_the_ledgers_row_follows_and_keeps_all_else(provider: Sandbox, committed: Any) -> None:
    key = key_of()
    ask()
    before = row_of(key)
    told = committed(rewriting.retime, key.upper(), timedelta(hours=1), user="ann")
    after = row_of(key)
    assert abs(unix_of(after.expires_at) - told.fresh_until) < EXACT  # type: ignore[arg-type]
    changed = {
        field.name for field in CacheEntry._meta.concrete_fields
        if getattr(before, field.attname) != getattr(after, field.attname)
    }  # fmt: skip
    assert changed == {"expires_at"}
    assert (after.hits, after.cost_pico_usd is None) == (1, False)
    row = Invalidation.objects.get()
    assert (row.key, row.reason, row.made_by, row.active) == (key, "TTL cut", "ann", True)
    committed(rewriting.retime, key, None)
    assert Invalidation.objects.latest("pk").reason == "TTL extended"
    # Read from the journal once more, the line of before does not bring the old time back.
    assert row_of(key).expires_at is None
    assert provider.calls == 1


def test_the_completion_and_the_request_stay(provider: Sandbox, committed: Any, forget_memory: Any) -> None:
    key = key_of()
    committed(rewriting.retime, key, HOUR)
    forget_memory()
    _, completion = llmcache.extract_with_completion("Ada", Person)
    assert completion.choices[0].message.content
    held = rewriting.look(process.current(), bytes.fromhex(key))
    assert held is not None
    assert b"Ada" in (held.request or b"")
    assert provider.calls == 1


def test_where_the_second_part_is_gone_the_answer_gets_another_time(
    provider: Sandbox, committed: Any, drop_supplements: Any
) -> None:
    key = key_of()
    drop_supplements()
    committed(rewriting.retime, key, HOUR)
    assert ask() == (36, "hit")
    with pytest.raises(llmcache.NotCached):
        llmcache.extract_with_completion("Ada", Person, cache="only")


def test_many_changes_of_one_entry(provider: Sandbox, committed: Any, forget_memory: Any) -> None:
    key = key_of()
    for number in range(70):
        committed(rewriting.retime, key, HOUR + number)
    forget_memory()
    assert ask() == (36, "hit")
    assert Invalidation.objects.count() == 70


def test_an_invalidation_before_it_and_one_after_it(provider: Sandbox, committed: Any) -> None:
    key = key_of()
    llmcache.invalidate(key=key)
    assert ask() == (36, "miss")
    committed(rewriting.retime, key, HOUR)
    assert ask() == (36, "hit")
    llmcache.invalidate(kind="Person")
    assert ask() == (36, "miss")


def test_what_is_invalidated_on_the_way_is_not_brought_back(
    provider: Sandbox, committed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = key_of()
    write = rewriting._invalidated

    def meanwhile(*arguments: Any) -> Any:
        llmcache.invalidate(key=key)
        return write(*arguments)

    monkeypatch.setattr(rewriting, "_invalidated", meanwhile)
    assert why_not(committed, rewriting.retime, key, HOUR) == "invalidated"
    monkeypatch.undo()
    llmcache.invalidate(key=key)
    assert ask() == (36, "miss")


def test_undoing_its_row_leaves_the_answer(provider: Sandbox, committed: Any, forget_memory: Any) -> None:
    key = key_of()
    llmcache.invalidate(key=key)
    ask()
    committed(rewriting.retime, key, HOUR)
    llmcache.undo(Invalidation.objects.latest("pk"))
    forget_memory()
    assert ask() == (36, "hit")


@pytest.mark.parametrize("tiers", ["memory", "disk", "redis", "memory over redis"])
def test_over_each_kind_of_tier(
    tiers: str, provider: Sandbox, committed: Any, tmp_path: Any, redis_server: RedisServer
) -> None:
    kinds = {
        "memory": {"BACKEND": "llmcache.backends.MemoryCache", "LOCATION": "rewriting"},
        "disk": {"BACKEND": "llmcache.backends.DiskCache", "LOCATION": f"{tmp_path}/rewriting"},
        "redis": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": redis_server.url},
    }
    names = tiers.split(" over ")
    with in_caches(**{name: kinds[name] for name in names}), llmcache_settings(TIERS=names):
        key = key_of()
        committed(rewriting.retime, key, HOUR)
        assert all(left is not None and HOUR - 60 < left <= HOUR for left in left_of(key))
        provider.answers["Ada"] = {"age": 37}
        assert ask() == (36, "hit")
        committed(rewriting.refresh, key)
        assert ask() == (37, "hit")
        # And once more, of what has been changed.
        provider.answers["Ada"] = {"age": 38}
        committed(rewriting.refresh, key)
        committed(rewriting.retime, key, None)
        assert ask() == (38, "hit")
        assert left_of(key) == [None] * len(names)
        assert provider.calls == 3
        process.install(None)


# -- transactions


@pytest.mark.django_db(transaction=True)
def test_until_it_is_committed_all_is_as_it_was(provider: Sandbox) -> None:
    key = key_of(ttl=None)
    with transaction.atomic():
        rewriting.retime(key, 60)
        assert left_of(key) == [None, None]
        assert ask(ttl=None) == (36, "hit")
    assert all(left is not None and left <= 60 for left in left_of(key))
    assert ask(ttl=None) == (36, "hit")
    assert provider.calls == 1


@pytest.mark.django_db(transaction=True)
def test_rolled_back_it_has_never_been(provider: Sandbox) -> None:
    key = key_of(ttl=None)
    with transaction.atomic():
        ask()
        try:
            with transaction.atomic():
                rewriting.retime(key, 60)
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass
    assert left_of(key) == [None, None]
    assert row_of(key).expires_at is None
    assert not Invalidation.objects.exists()
    assert (ask(ttl=None), provider.calls) == ((36, "hit"), 1)


@pytest.mark.django_db(transaction=True)
def test_an_answer_that_came_meanwhile_is_not_overwritten(provider: Sandbox) -> None:
    key = key_of()
    with transaction.atomic():
        rewriting.retime(key, 60)
        provider.answers["Ada"] = {"age": 37}
        assert ask(cache="refresh") == (37, "miss")
    held = rewriting.look(process.current(), bytes.fromhex(key))
    assert held is not None
    assert held.entry.answer == b'{"age":37}'
    assert held.entry.fresh_until > process.current().clock.wall() + 60
    # The row that was to be about older copies does not make it void.
    assert process.current().log.read_now()
    assert (ask(), provider.calls) == ((37, "hit"), 2)


@pytest.mark.django_db(transaction=True)
def test_refreshed_and_rolled_back_the_new_answer_stays(provider: Sandbox) -> None:
    key = key_of()
    provider.answers["Ada"] = {"age": 37}
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        rewriting.refresh(key)
        raise ZeroDivisionError
    assert ask() == (37, "hit")
    assert not Invalidation.objects.exists()


def test_two_changes_at_once_leave_the_entry_valid(provider: Sandbox, committed: Any, forget_memory: Any) -> None:
    """Neither knows of the other's row, and each writes the entry once both are committed."""
    key = key_of()

    def change() -> None:
        rewriting.retime(key, HOUR)
        rewriting.retime(key, 2 * HOUR)

    committed(change)
    assert [row.supersedes for row in Invalidation.objects.all()] == [[], []]
    forget_memory()
    assert (ask(), provider.calls) == ((36, "hit"), 1)


@pytest.fixture
def server(postgresql_tables: dict[str, Any], django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    """A database that several threads can write to at once, with what they write gone in the end."""
    with django_db_blocker.unblock(), known(postgresql_tables), llmcache_settings(DATABASE=ALIAS):
        yield ALIAS
        process.install(None)
        for model in (Invalidation, CacheEntry, ProviderCall, UsageBucket, TenantDay, SchemaVersion):
            model._default_manager.using(ALIAS).all().delete()


# -- asking anew


def test_the_new_answer_is_kept_under_the_same_key(provider: Sandbox, committed: Any, forget_memory: Any) -> None:
    key = key_of(system="Who is it?", temperature=0.5, tags=["eu", "vip"], tenant="acme")
    options: dict[str, Any] = {"system": "Who is it?", "temperature": 0.5, "tags": ["eu", "vip"], "tenant": "acme"}
    assert ask(**options)[1] == "hit"
    before = row_of(key)
    provider.answers["Ada"] = {"age": 37}
    told = committed(rewriting.refresh, key, user="ann")
    assert told.is_other
    assert told.cost_usd
    forget_memory()
    assert ask(**options) == (37, "hit")
    after = row_of(key)
    assert (CacheEntry.objects.count(), after.written_at > before.written_at) == (1, True)
    same = ("kind", "response_type", "schema", "model", "tenant", "tags", "content_hash", "components", "subject_hash")
    assert {name: getattr(after, name) for name in same} == {name: getattr(before, name) for name in same}
    row = Invalidation.objects.get()
    assert (row.key, row.reason, row.made_by) == (key, "Refreshed", "ann")
    made = list(ProviderCall.objects.order_by("started_at").values_list("reason", "ahead", "tenant", "ttl_seconds"))
    assert [each[:3] for each in made] == [("not_found", "", "acme"), ("refresh", "refresh", "acme")]
    assert made[0][3] == made[1][3]
    first, second = provider.requests[-2:]
    assert first.body == second.body


@pytest.mark.parametrize(
    "options",
    [{"subject": "ann"}, {"version": "2"}, {"variant": 3}, {"subject": "ann", "version": "2", "variant": "b"}],
    ids=str,
)
def test_what_only_the_key_knows_of_stays(options: dict[str, Any], provider: Sandbox, committed: Any) -> None:
    key = key_of(**options)
    before = row_of(key)
    provider.answers["Ada"] = {"age": 37}
    committed(rewriting.refresh, key)
    assert ask(**options) == (37, "hit")
    after = row_of(key)
    assert (after.subject_hash, after.components) == (before.subject_hash, before.components)
    # And it is found by its subject still.
    if "subject" in options:
        llmcache.invalidate(subject="ann")
        assert ask(**options) == (37, "miss")


def test_what_was_void_by_its_subject_is_good_again(provider: Sandbox, committed: Any) -> None:
    key = key_of(subject="ann", tags=["eu"], tenant="acme")
    for conditions in ({"subject": "ann"}, {"tag": "eu"}, {"tenant": "acme"}, {"subject": "ann", "tag": "eu"}):
        llmcache.invalidate(**conditions)  # type: ignore[arg-type]
    provider.answers["Ada"] = {"age": 37}
    committed(rewriting.refresh, key)
    assert ask(subject="ann", tags=["eu"], tenant="acme") == (37, "hit")
    assert provider.calls == 2


def test_an_unchanged_answer_is_told(provider: Sandbox, committed: Any) -> None:
    assert not committed(rewriting.refresh, key_of()).is_other


def test_its_ttl_is_what_it_was_asked_for_with(clock: MovedClock, provider: Sandbox, committed: Any) -> None:
    with clock.kept():
        key = key_of(ttl=HOUR)
        assert llmcache.flush()
        committed(rewriting.retime, key, 60)
        committed(rewriting.refresh, key)
        assert [round(left) for left in left_of(key) if left is not None] == [HOUR, HOUR]
        committed(rewriting.refresh, key_of(ttl=None, tags=["x"]))
        assert left_of(key_of(ttl=None, tags=["x"])) == [None, None]


def test_a_kind_whose_answers_are_given_no_time(provider: Sandbox, committed: Any) -> None:
    key = key_of()
    assert llmcache.flush()
    provider.answers["Ada"] = {"age": 37}
    with llmcache_settings(KINDS={"Person": {"type": Person, "ttl": 0}}):
        assert why_not(committed, rewriting.refresh, key) == "off"
    with llmcache_settings(KINDS={"Person": {"type": Person, "ttl": lambda person: 60 if person.age == 36 else 0}}):
        assert committed(rewriting.refresh, key).is_other
        assert ask() == (36, "hit")
    assert not Invalidation.objects.exists()


def test_what_is_void_is_asked_for_anew(provider: Sandbox, committed: Any) -> None:
    key = key_of()
    llmcache.invalidate(kind="Person")
    provider.answers["Ada"] = {"age": 37}
    committed(rewriting.refresh, key)
    assert ask() == (37, "hit")


@pytest.mark.parametrize("make", [faults.server_error, faults.refusal, faults.truncated])
def test_where_the_provider_fails_the_old_answer_stays(make: Any, provider: Sandbox, committed: Any) -> None:
    key = key_of()
    provider.fail(make(), times=None)
    with llmcache_settings(MAX_RETRIES=0, MAX_REASKS=0), pytest.raises(llmcache.LLMCacheError) as caught:
        committed(rewriting.refresh, key)
    assert not isinstance(caught.value, NotRewritten)
    assert ask() == (36, "hit")
    assert not Invalidation.objects.exists()


def test_what_does_not_pass_validation_is_not_kept(provider: Sandbox, committed: Any) -> None:
    with llmcache_settings(KINDS={"Strict": {"type": Strict}}, MAX_REASKS=0):
        key = key_of(type=Strict)
        provider.answers["Ada"] = {"age": 370}
        with pytest.raises(llmcache.ValidationFailed):
            committed(rewriting.refresh, key)
        assert ask(type=Strict) == (36, "hit")


def test_some_at_once_ask_once(provider: Sandbox, server: str, forget_memory: Any) -> None:
    key = key_of()
    assert llmcache.flush()
    provider.answers["Ada"] = {"age": 37}
    provider.hold()

    def change() -> Any:
        try:
            return rewriting.refresh(key)
        finally:
            connections[server].close()

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(change)
        provider.wait_until_received(2)
        # Who asks meanwhile is answered with the old one.
        assert ask() == (36, "hit")
        others = [pool.submit(change) for _ in range(3)]
        until_waiting(3)
        provider.release()
        costs = [each.result(60).cost_usd for each in (first, *others)]
    assert provider.calls == 2
    assert sorted(cost == 0 for cost in costs) == [False, True, True, True]
    forget_memory()
    assert ask() == (37, "hit")
    assert provider.calls == 2


def until_waiting(number: int) -> None:
    """Wait until so many callers wait for the flight that is under way."""
    flights = process.current().flights

    def waiting() -> int:
        flight = next(iter(flights._flights.values()), None)
        # The event's condition keeps one entry for each waiter.
        return 0 if flight is None else len(flight.landed._cond._waiters)  # type: ignore[attr-defined]

    until(lambda: waiting() == number)


# -- what is refused


def test_it_takes_a_key_and_a_time(provider: Sandbox) -> None:
    key = key_of()
    for wrong in ("", "ab", "z" * 64, None, b"\0" * 32):
        for work in (lambda wrong=wrong: rewriting.retime(wrong, 60), lambda wrong=wrong: rewriting.refresh(wrong)):
            with pytest.raises(llmcache.InvalidRequest):
                work()
    for ttl in (-1, float("nan"), True, "60", 0):
        with pytest.raises(llmcache.InvalidRequest):
            rewriting.retime(key, ttl)  # type: ignore[arg-type]
    assert why_not(rewriting.retime, "ab" * 32, 60) == "unknown"
    assert why_not(rewriting.refresh, "ab" * 32) == "unknown"


def test_an_event_loop_is_not_held_up(provider: Sandbox) -> None:
    async def calls() -> None:
        with pytest.raises(llmcache.AsyncContext):
            rewriting.retime("ab" * 32, 60)
        with pytest.raises(llmcache.AsyncContext):
            rewriting.refresh("ab" * 32)

    asyncio.run(calls())


def both(key: str) -> tuple[str, str]:
    return why_not(rewriting.retime, key, 60), why_not(rewriting.refresh, key)


def test_what_no_tier_has(provider: Sandbox, forget_memory: Any) -> None:
    key = key_of()
    assert llmcache.flush()
    forget_memory()
    now = process.current()
    now.tiers.below[0].delete(keys.storage_key(now.namespace, bytes.fromhex(key)))
    assert both(key) == ("absent", "absent")


def test_void_entries_are_not_brought_back(provider: Sandbox) -> None:
    key = key_of()
    llmcache.invalidate(key=key)
    assert why_not(rewriting.retime, key, HOUR) == "invalidated"
    assert not Invalidation.objects.exclude(reason="").exists()
    assert ask() == (36, "miss")


def test_nor_are_those_whose_time_is_over(clock: MovedClock, provider: Sandbox) -> None:
    with clock.kept():
        key = key_of(ttl=60)
        assert llmcache.flush()
        clock.move(61)
        assert why_not(rewriting.retime, key, HOUR) in ("expired", "absent")


def test_a_type_that_is_not_registered_or_has_changed(provider: Sandbox) -> None:
    key = key_of()
    for registered, reason in (
        ({}, "type_not_registered"),
        ({"Person": {"ttl": 60}}, "type_not_registered"),
        ({"Person": {"type": f"{__name__}.Nobody"}}, "type_unusable"),
        ({"Person": {"type": object()}}, "type_unusable"),
        ({"Person": {"type": Older}}, "schema_changed"),
        ({"Person": {"type": type("Person", (Older,), {})}}, "schema_changed"),
    ):
        with llmcache_settings(KINDS=registered):
            assert why_not(rewriting.refresh, key) == reason
    assert provider.calls == 1


def test_a_request_that_was_not_kept_or_is_gone(provider: Sandbox, drop_supplements: Any) -> None:
    key = key_of()
    with llmcache_settings(KEEP_REQUESTS="no"):
        assert why_not(rewriting.refresh, key_of(tags=["no"])) == "request_not_kept"
    drop_supplements()
    assert why_not(rewriting.refresh, key) == "request_not_kept"


@pytest.mark.parametrize(
    "kept",
    [
        b"{}", b"[]", b"null", b"not json", b"\xff", b'{"model":"gpt-5-mini"}',
        b'{"model":"gpt-5","messages":[{"role":"user","content":"Ada"}]}',
        b'{"model":"gpt-5-mini","messages":[]}',
        b'{"model":"gpt-5-mini","messages":[7]}',
        b'{"model":"gpt-5-mini","messages":[{"role":"user","content":7}]}',
        b'{"model":"gpt-5-mini","messages":[{"role":"user","content":""}]}',
        b'{"model":"gpt-5-mini","messages":[{"role":"user","content":"Eve"}]}',
        b'{"model":"gpt-5-mini","messages":[{"role":"user","content":"Ada"}],"tools":[]}',
        b'{"model":"gpt-5-mini","messages":[{"role":"user","content":"Ada"}],"ttll":7}',
        b'{"model":"gpt-5-mini","messages":[{"role":"user","content":"Ada"}],"b":1,"a":1}',
        b'{"model":"gpt-5-mini", "messages":[{"role":"user","content":"Ada"}]}',
        b"[" * 100_000,
    ],
    ids=lambda kept: kept[:60].decode(errors="replace"),
)  # fmt: skip
def test_a_request_that_is_not_this_one(kept: bytes, provider: Sandbox) -> None:
    key = key_of()
    now = process.current()
    held = rewriting.look(now, bytes.fromhex(key))
    assert held is not None
    now.tiers.write(held.entry, held.rest, kept)
    reason = "request_not_kept" if not kept.startswith(b'{"') else "other_request"
    assert why_not(rewriting.refresh, key) == reason
    assert provider.calls == 1


def test_what_nobody_asks_for_any_more(provider: Sandbox, sandbox: Sandbox) -> None:
    key = key_of()
    here = {"base_url": provider.base_url, "api_key": "sandbox"}
    for changes, reason in (
        ({"VERSION": "2"}, "version_changed"),
        ({"KINDS": {"Person": {"type": Person, "version": "2"}}}, "version_changed"),
        ({"PROVIDERS": {"other": here}, "MODEL": "other/gpt-5-mini"}, "provider_gone"),
        ({"PROVIDERS": {"openai": {**here, "identity": "a gateway"}}}, "provider_gone"),
        ({"PROVIDERS": {"openai": {"base_url": provider.base_url}}}, "provider_unusable"),
        ({"ALLOW_PROVIDER_CALLS": False}, "calls_forbidden"),
        ({"ENABLED": False}, "off"),
    ):
        with llmcache_settings(**changes):
            assert why_not(rewriting.refresh, key) == reason
    with llmcache.bypass():
        assert why_not(rewriting.refresh, key) == "off"
    assert provider.calls == 1


def test_another_name_space(provider: Sandbox) -> None:
    row = row_of(key_of())
    row.namespace = "elsewhere"
    assert rewriting.possible(row, None) == {"refresh": "other_namespace", "retime": "other_namespace"}


def test_it_is_told_beforehand(provider: Sandbox) -> None:
    key = key_of()
    row, held = row_of(key), rewriting.look(process.current(), bytes.fromhex(key))
    assert rewriting.possible(row, held) == {"refresh": None, "retime": None}
    with llmcache_settings(KINDS={}):
        assert rewriting.possible(row, held) == {"refresh": "type_not_registered", "retime": None}
    assert rewriting.possible(row, None) == {"refresh": "absent", "retime": "absent"}
    llmcache.invalidate(key=key)
    assert rewriting.possible(row, held) == {"refresh": None, "retime": "invalidated"}


def test_a_humans_answer_stands(provider: Sandbox) -> None:
    key = key_of()
    assert llmcache.flush()
    correction = corrections.correct(key, '{"age": 99}')
    assert ask() == (99, "hit")
    assert both(key) == ("corrected", "corrected")
    assert ask() == (99, "hit")
    corrections.withdraw(correction)
    assert ask()[0] == 36


def test_what_is_held_back_is_asked_for_anew(provider: Sandbox, committed: Any) -> None:
    key = key_of()
    assert llmcache.flush()
    corrections.quarantine(key)
    assert why_not(rewriting.retime, key, HOUR) == "invalidated"
    provider.answers["Ada"] = {"age": 37}
    committed(rewriting.refresh, key)
    assert (ask(), provider.calls) == ((37, "hit"), 2)


def test_more_invalidations_than_an_entry_can_list(provider: Sandbox) -> None:
    tags = [f"tag-{number}" for number in range(70)]
    key = key_of(tags=tags)
    for tag in tags:
        llmcache.invalidate(tag=tag)
    ask(tags=tags)
    calls = provider.calls
    assert both(key) == ("crowded", "crowded")
    assert provider.calls == calls


# -- other processes


@pytest.fixture(params=["redis", "disk"])
def workers(
    request: pytest.FixtureRequest, var: Path, tmp_path: Path, sandbox: Sandbox, redis_server: RedisServer
) -> Iterator[Workers]:
    sandbox.answers["Ada"] = {"name": "Ada"}
    server = redis_server if request.param == "redis" else None
    registered = {"Person": {"type": "tests.flows.log_worker.Person"}}
    with llmcache_settings(TIERS=["memory", "shared"], RECHECK=0.1, KINDS=registered):
        made = Workers(var, caches_over(server, tmp_path))
        try:
            yield made
        finally:
            made.close()


def test_another_process_lets_go_of_what_its_memory_has(workers: Workers, sandbox: Sandbox) -> None:
    one, other = workers.start(), workers.start()
    for worker in (one, other):
        worker.ask()
        assert worker.do("ask", text="Ada") == "hit memory"
    sandbox.answers["Ada"] = {"name": "Eve"}
    assert one.do("refresh", text="Ada")
    assert one.do("value", text="Ada") == "Eve"
    until(lambda: other.do("value", text="Ada") == "Eve")
    assert sandbox.calls == 2
    # Another time is another process's too: an entry that is over in ten years is over in an hour.
    assert other.do("retime", text="Ada", ttl=3_600)
    until(lambda: one.do("left", text="Ada") <= 3_600)
    assert other.do("left", text="Ada") <= 3_600
    assert [one.ask(), other.ask(), sandbox.calls] == ["hit", "hit", 2]


@pytest.mark.parametrize("workers", ["redis"], indirect=True)
def test_two_processes_at_once_ask_once(workers: Workers, sandbox: Sandbox) -> None:
    one, other = workers.start(), workers.start()
    for worker in (one, other):
        assert worker.do("value", text="Ada") == "Ada"
    sandbox.answers["Ada"] = {"name": "Eve"}
    sandbox.hold()
    one.tell("refresh", text="Ada")
    sandbox.wait_until_received(2)
    other.tell("refresh", text="Ada")
    # Meanwhile the old answer is served.
    assert workers.start().do("value", text="Ada") == "Ada"
    sandbox.release()
    assert [one.hear(), other.hear()] == [True, True]
    until(lambda: one.do("value", text="Ada") == other.do("value", text="Ada") == "Eve")
    assert sandbox.calls == 2
    # What lies beside the answer is whole.
    until(lambda: other.do("completion", text="Ada") == '{"name":"Eve"}')
    assert [one.ask(), other.ask(), sandbox.calls] == ["hit", "hit", 2]
