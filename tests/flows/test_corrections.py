"""Corrections: a human's answer is served in place of the provider's, to whom and from when on, and until when."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pydantic import BaseModel, field_validator

import llmcache
from llmcache import NotCached, corrections
from llmcache.engine import process
from llmcache.exceptions import InvalidRequest, ValidationFailed
from llmcache.models import CacheEntry, Correction, Invalidation, ProviderCall
from llmcache.pruning import AT_A_TIME
from llmcache.testing.sandbox import Sandbox
from tests.cache_servers import RedisServer
from tests.conftest import MovedClock, llmcache_settings
from tests.contract.aliases import in_caches
from tests.flows.test_costs import SANDBOX_PRICES
from tests.flows.test_invalidation_processes import Workers, caches_over
from tests.flows.test_key_secrets import NEW, OLD
from tests.waiting import until

BETTER = '{"name": "Ada Lovelace"}'


class Person(BaseModel):
    """A person."""

    name: str


@pytest.fixture
def provider(sandbox: Sandbox) -> Iterator[Sandbox]:
    sandbox.answers |= {"Ada": {"name": "Ada"}, "Eve": {"name": "Eve"}}
    with llmcache_settings(KINDS={"Person": {"type": Person}}, PRICES=SANDBOX_PRICES):
        yield sandbox


def asked(text: str = "Ada", response_model: Any = Person, **options: Any) -> tuple[str, str]:
    """Return the outcome of a call, and the name that it was told."""
    found = llmcache.extract_with_info(text, response_model, **options)
    return found.outcome, found.value if isinstance(found.value, str) else found.value.name


def key_of(text: str = "Ada", **options: Any) -> str:
    """Return the key of an entry, which is made where there is none."""
    return llmcache.extract_with_info(text, Person, **options).key


def corrected(text: str = "Ada", answer: str = BETTER, **options: Any) -> Correction:
    return corrections.correct(key_of(text, **options), answer, user="ann")


def in_thread(work: Callable[[], Any]) -> Any:
    """Return what a function returns in a thread of its own, which has a context and a connection of its own."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    return found[0]


def statements(work: Callable[[], Any]) -> int:
    with CaptureQueriesContext(connection) as captured:
        work()
    return len(captured)


def begun(work: Callable[[], Any], provider: Sandbox, received: int) -> tuple[threading.Thread, list[Any]]:
    """Return a thread whose call the provider is holding, and what it will return."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    provider.wait_until_received(received)
    return thread, found


# -- who is served what


@pytest.mark.django_db(transaction=True)
def test_it_is_served(provider: Sandbox) -> None:
    assert asked() == ("miss", "Ada")
    corrected()
    first = llmcache.extract_with_info("Ada", Person)
    assert (first.outcome, first.reason, first.tier, first.value.name) == ("hit", None, None, "Ada Lovelace")
    second = llmcache.extract_with_info("Ada", Person)
    assert (second.outcome, second.tier, second.value.name) == ("hit", "memory", "Ada Lovelace")
    cost = CacheEntry.objects.get().cost_usd
    for found in (first, second):
        assert (found.origin, found.attempts, found.cost_incurred_usd) == ("human", 0, 0)
        assert found.cost_avoided_usd == cost > 0
    # Others are not concerned.
    assert [asked("Eve"), asked("Eve"), asked(kind="inbox")] == [("miss", "Eve"), ("hit", "Eve"), ("miss", "Ada")]
    assert provider.calls == 3


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("tiers", ["memory and disk", "memory", "disk"])
@pytest.mark.parametrize("way", [llmcache.extract, llmcache.aextract])
def test_each_way_of_asking_and_each_tier(way: Any, tiers: str, provider: Sandbox, tmp_path: Any) -> None:
    def name() -> str:
        made = way("Ada", Person)
        return (asyncio.run(made) if asyncio.iscoroutine(made) else made).name

    caches = {
        "memory": {"BACKEND": "llmcache.backends.MemoryCache"},
        "disk": {"BACKEND": "llmcache.backends.DiskCache", "LOCATION": str(tmp_path / "own")},
    }
    with in_caches(**caches), llmcache_settings(TIERS=tiers.split(" and ")):
        assert [name(), name()] == ["Ada", "Ada"]
        made = corrected()
        assert [name(), name(), name()] == ["Ada Lovelace"] * 3
        evict()
        assert [name(), name()] == ["Ada Lovelace"] * 2
        assert provider.calls == 1
        assert corrections.withdraw(made)
        assert [name(), name()] == ["Ada", "Ada"]
        assert provider.calls == 2


def evict() -> None:
    """Take the entry out of all tiers."""
    runtime = process.current()
    key = bytes.fromhex(CacheEntry.objects.get().key)
    if runtime.memory is not None:
        runtime.memory.clear()
    for tier in runtime.tiers.below:
        tier.delete(runtime.tiers._name(key))


@pytest.mark.django_db(transaction=True)
def test_it_survives_eviction_for_one_statement(provider: Sandbox) -> None:
    corrected()
    asked()
    evict()
    assert statements(lambda: asked()) == 1
    assert statements(lambda: [asked(), asked()]) == 0
    assert provider.calls == 1


@pytest.mark.django_db(transaction=True)
def test_who_asks_for_something_else_pays_nothing_for_it(provider: Sandbox) -> None:
    provider.answers |= {"Bob": {"name": "Bob"}}
    asked("Eve")
    before = statements(lambda: [asked("Eve"), llmcache.extract("Eve", Person)])
    corrected()
    # The process has to look into the log again, once.
    asked("Eve")
    assert before == statements(lambda: [asked("Eve"), llmcache.extract("Eve", Person)]) == 0
    assert statements(lambda: asked("Bob")) == 0


@pytest.mark.django_db(transaction=True)
def test_what_other_calls_say_of_the_cache(provider: Sandbox) -> None:
    corrected()
    for cache in ("refresh", "only", "use", "refresh"):
        assert asked(cache=cache) == ("hit", "Ada Lovelace")
    evict()
    assert asked(cache="only") == ("hit", "Ada Lovelace")
    assert provider.calls == 1
    assert asked(cache="bypass") == ("bypass", "Ada")
    assert asked(ttl=0) == ("bypass", "Ada")
    with llmcache.bypass():
        assert asked() == ("bypass", "Ada")
    assert asked() == ("hit", "Ada Lovelace")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("stale_ttl", [0, 3_600])
def test_it_does_not_age(stale_ttl: float, provider: Sandbox, clock: MovedClock) -> None:
    with clock.kept():
        corrected(ttl=60)
        for _ in range(3):
            found = llmcache.extract_with_info("Ada", Person, ttl=60, stale_ttl=stale_ttl)
            assert (found.outcome, found.value.name) == ("hit", "Ada Lovelace")
            assert found.age_seconds < 60
            clock.move(61)
        assert provider.calls == 1


@pytest.mark.django_db(transaction=True)
def test_its_completion_is_made_of_it(provider: Sandbox) -> None:
    corrected()
    for _ in range(2):
        person, completion = llmcache.extract_with_completion("Ada", Person)
        assert person.name == "Ada Lovelace"
        assert completion.choices[0].message.content == BETTER
        assert (completion.choices[0].finish_reason, completion.usage) == ("stop", None)
        assert completion.model == "gpt-5-mini"
    runtime = process.current()
    key = bytes.fromhex(key_of())
    for tier in runtime.tiers.below:
        tier.delete(runtime.tiers._more(key))
    runtime.memory.clear()
    assert llmcache.extract_with_completion("Ada", Person)[1].choices[0].message.content == BETTER
    assert provider.calls == 1


# -- until when


@pytest.mark.django_db(transaction=True)
def test_it_stands_through_invalidations(provider: Sandbox) -> None:
    corrected(tags=["vip"])
    key = key_of(tags=["vip"])
    made = [
        llmcache.invalidate(**conditions)
        for conditions in ({"key": key}, {"tag": "vip"}, {"everything": True}, {"key": key})
    ]
    assert asked(tags=["vip"]) == ("hit", "Ada Lovelace")
    for each in made:
        llmcache.undo(each)
        assert asked(tags=["vip"]) == ("hit", "Ada Lovelace")
    assert provider.calls == 1
    llmcache.invalidate(everything=True)
    assert statements(lambda: asked(tags=["vip"])) == 1
    assert statements(lambda: asked(tags=["vip"])) == 0


@pytest.mark.django_db(transaction=True)
def test_it_stands_through_more_invalidations_than_an_entry_can_list(provider: Sandbox) -> None:
    tags = [f"tag-{number}" for number in range(70)]
    made = corrected(tags=tags)
    for tag in tags:
        llmcache.invalidate(tag=tag)
    for _ in range(3):
        assert asked(tags=tags) == ("hit", "Ada Lovelace")
    assert provider.calls == 1
    corrections.withdraw(made)
    assert [asked(tags=tags), asked(tags=tags)] == [("miss", "Ada"), ("hit", "Ada")]


@pytest.mark.django_db(transaction=True)
def test_withdrawn_the_providers_answer_is_asked_for(provider: Sandbox) -> None:
    made = corrected()
    asked()
    assert corrections.withdraw(made, user="bob") is True
    assert corrections.withdraw(made) is False
    assert [asked(), asked(), provider.calls] == [("miss", "Ada"), ("hit", "Ada"), 2]
    made.invalidation.refresh_from_db()
    assert (made.invalidation.active, made.invalidation.undone_by) == (False, "bob")
    # Who writes into a tier what a human has said once does not bring it back.
    assert asked() == ("hit", "Ada")


@pytest.mark.django_db(transaction=True)
def test_withdrawn_before_it_was_served_nobody_pays(provider: Sandbox) -> None:
    made = corrected()
    llmcache.undo(made.invalidation)
    assert [asked(), provider.calls] == [("hit", "Ada"), 1]


@pytest.mark.django_db(transaction=True)
def test_an_old_copy_of_it_is_not_served_once_it_is_withdrawn(provider: Sandbox) -> None:
    made = corrected()
    asked()
    stack = process.current().tiers
    old = stack.read(bytes.fromhex(key_of()), 1e9)
    assert old is not None
    corrections.withdraw(made)
    # Another process writes late what it has read before.
    stack.write(old.entry, b"{}")
    assert asked() == ("miss", "Ada")


@pytest.mark.django_db(transaction=True)
def test_the_newest_stands_and_then_the_one_before(provider: Sandbox) -> None:
    first = corrected()
    asked()
    second = corrected(answer='{"name": "Countess Ada"}')
    assert [asked(), asked()] == [("hit", "Countess Ada")] * 2
    corrections.withdraw(second)
    assert [asked(), asked()] == [("hit", "Ada Lovelace")] * 2
    corrections.withdraw(first)
    assert asked() == ("miss", "Ada")
    assert provider.calls == 2


@pytest.mark.django_db(transaction=True)
def test_what_another_process_has_just_withdrawn_or_made_is_read_as_it_is(provider: Sandbox) -> None:
    corrected()
    second = corrected(answer='{"name": "Countess Ada"}')
    # Another process, of which this one has not heard yet.
    Invalidation.objects.filter(pk=second.invalidation.pk).update(active=False)
    assert [asked(), asked(), provider.calls] == [("hit", "Ada Lovelace"), ("hit", "Ada Lovelace"), 1]
    process.install(None)
    assert process.current().log.read_now()
    assert [asked(), asked(), provider.calls] == [("hit", "Ada Lovelace"), ("hit", "Ada Lovelace"), 1]


@pytest.mark.django_db(transaction=True)
def test_an_answer_that_was_under_way_does_not_hide_it(provider: Sandbox) -> None:
    key = key_of()
    llmcache.invalidate(key=key)
    provider.hold()
    thread, found = begun(asked, provider, 2)
    corrections.correct(key, BETTER)
    provider.release()
    thread.join(30)
    assert found == [("miss", "Ada")]
    assert [asked(), asked(), provider.calls] == [("hit", "Ada Lovelace"), ("hit", "Ada Lovelace"), 2]


# -- transactions


@pytest.mark.django_db(transaction=True)
def test_rolled_back_it_has_never_been(provider: Sandbox) -> None:
    asked()
    assert llmcache.flush()
    with transaction.atomic():
        corrected()
        assert [asked(), asked()] == [("hit", "Ada Lovelace")] * 2
        assert in_thread(asked) == ("hit", "Ada")
        transaction.set_rollback(True)
    assert [asked(), in_thread(asked)] == [("hit", "Ada")] * 2
    evict()
    assert asked() == ("miss", "Ada")
    assert (Correction.objects.count(), CacheEntry.objects.get().source) == (0, "provider")


@pytest.mark.django_db(transaction=True)
def test_committed_everybody_sees_it(provider: Sandbox) -> None:
    asked()
    with transaction.atomic():
        corrected()
        asked()
    assert [in_thread(asked), asked()] == [("hit", "Ada Lovelace")] * 2


@pytest.mark.django_db
def test_within_a_test_case(provider: Sandbox) -> None:
    made = corrected()
    assert [asked(), asked()] == [("hit", "Ada Lovelace")] * 2
    corrections.withdraw(made)
    assert [asked(), provider.calls] == [("hit", "Ada"), 1]


# -- other processes


@pytest.fixture(params=["redis", "disk"])
def workers(
    request: pytest.FixtureRequest, var: Any, tmp_path: Any, provider: Sandbox, redis_server: RedisServer
) -> Iterator[Workers]:
    kinds = {"Person": {"type": "tests.flows.log_worker.Person"}}
    with llmcache_settings(TIERS=["memory", "shared"], RECHECK=0.1, KINDS=kinds):
        made = Workers(var, caches_over(redis_server if request.param == "redis" else None, tmp_path))
        try:
            yield made
        finally:
            made.close()


def test_other_processes_see_it_come_and_go(workers: Workers, provider: Sandbox) -> None:
    one, other = workers.start(), workers.start()
    assert [one.do("told", text="Ada"), other.do("told", text="Ada")] == ["Ada provider"] * 2
    assert one.do("flush")
    one.do("begin")
    made = one.do("correct", text="Ada", answer=BETTER)
    assert one.do("told", text="Ada") == "Ada Lovelace human"
    for _ in range(10):
        assert other.do("told", text="Ada") == "Ada provider"
    one.do("commit")
    until(lambda: other.do("told", text="Ada") == "Ada Lovelace human")
    assert one.do("told", text="Ada") == "Ada Lovelace human"
    assert one.do("undo", invalidation=made) is True
    until(lambda: other.do("told", text="Ada") == "Ada provider")
    assert one.do("told", text="Ada") == "Ada provider"
    assert provider.calls == 2


# -- what does not go as it should


class Strict(BaseModel):
    """A person of one name: another type of the same name and schema."""

    name: str

    @field_validator("name")
    @classmethod
    def _one_name(cls, name: str) -> str:
        if " " in name:
            raise ValueError(name)
        return name


Strict.__name__ = "Person"
Strict.model_config["title"] = "Person"
Strict.__doc__ = Person.__doc__
Strict.model_rebuild(force=True)


@pytest.mark.django_db(transaction=True)
def test_a_type_that_does_not_take_it_is_asked_for_and_does_not_hide_it(
    provider: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    corrected()
    assert llmcache.extract_with_info("Ada", Strict, cache="bypass").key == key_of()
    with caplog.at_level(logging.WARNING, "llmcache.call"):
        for calls in (3, 4):
            assert asked(response_model=Strict) == ("miss", "Ada")
            assert asked() == ("hit", "Ada Lovelace")
            assert provider.calls == calls
    (said,) = [record.getMessage() for record in caplog.records if "correction" in record.getMessage()]
    assert "Person" in said
    assert "Lovelace" not in said


@pytest.mark.django_db(transaction=True)
def test_where_it_cannot_be_read_the_provider_is_asked_and_nothing_is_hidden(
    provider: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    corrected()
    assert [asked(), asked()] == [("hit", "Ada Lovelace")] * 2
    with connection.cursor() as cursor, caplog.at_level(logging.INFO, "llmcache.call"):
        cursor.execute("ALTER TABLE llmcache_correction RENAME TO elsewhere")
        try:
            # What a tier holds is served.
            assert asked() == ("hit", "Ada Lovelace")
            evict()
            assert [asked(), asked(), provider.calls] == [("miss", "Ada"), ("miss", "Ada"), 3]
        finally:
            cursor.execute("ALTER TABLE elsewhere RENAME TO llmcache_correction")
        assert [asked(), asked(), provider.calls] == [("hit", "Ada Lovelace"), ("hit", "Ada Lovelace"), 3]
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Corrections")]
    assert len(said) == 2


class Other(BaseModel):
    """A person with an age."""

    name: str
    age: int = 0


Other.__name__ = "Person"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("kinds", "what"),
    [
        ({}, "names no response type"),
        ({"Person": {"ttl": 60}}, "names no response type"),
        ({"Person": {"type": Other}}, "has changed since"),
        ({"Person": {"type": "tests.flows.nowhere.Person"}}, "cannot be imported"),
    ],
    ids=["no kind", "no type", "changed", "not there"],
)
def test_without_the_very_type_it_is_refused(kinds: dict[str, Any], what: str, provider: Sandbox) -> None:
    key = key_of()
    with llmcache_settings(KINDS=kinds):
        with pytest.raises(InvalidRequest, match=what):
            corrections.correct(key, BETTER)
        # The provider's own answer needs none.
        corrections.pin(key)
    assert Correction.objects.get().is_pin


@pytest.mark.django_db
@pytest.mark.parametrize("answer", ["", "{", '{"name": 7}', '{"nom": "secret"}', "null", '{"name": "secret"', "\0"])
def test_what_does_not_pass_is_refused(answer: str, provider: Sandbox) -> None:
    key = key_of()
    with pytest.raises(ValidationFailed) as raised:
        corrections.correct(key, answer)
    assert raised.value.errors
    assert "secret" not in f"{raised.value} {raised.value.errors}"
    assert raised.value.__cause__ is None
    assert (Correction.objects.count(), Invalidation.objects.count(), asked()) == (0, 0, ("hit", "Ada"))


@pytest.mark.django_db
def test_bad_arguments_are_refused(provider: Sandbox) -> None:
    key = key_of()
    for arguments in (
        {"key": "ab", "answer": BETTER},
        {"key": "ab" * 32, "answer": BETTER},
        {"key": None, "answer": BETTER},
        {"key": key, "answer": None},
        {"key": key, "answer": '{"name": "\ud800"}'},
        {"key": key, "answer": BETTER, "user": 7},
        {"key": key, "answer": BETTER, "note": "x" * 501},
    ):
        with pytest.raises(InvalidRequest):
            corrections.correct(**arguments)  # type: ignore[arg-type]
    with llmcache_settings(MAX_VALUE_BYTES=20), pytest.raises(InvalidRequest, match="MAX_VALUE_BYTES"):
        corrections.correct(key, BETTER)
    assert Correction.objects.count() == 0

    async def call() -> None:
        with pytest.raises(llmcache.AsyncContext):
            corrections.correct(key, BETTER)

    asyncio.run(call())


# -- pins, quarantine


@pytest.mark.django_db(transaction=True)
def test_a_pinned_answer_is_kept_through_refresh_and_age(provider: Sandbox, clock: MovedClock) -> None:
    with clock.kept():
        key = key_of(ttl=60)
        corrections.pin(key, user="ann")
        provider.answers["Ada"] = {"name": "Somebody else"}
        assert asked(cache="refresh") == ("hit", "Ada")
        clock.move(3_600)
        found = llmcache.extract_with_info("Ada", Person, ttl=60)
        assert (found.outcome, found.value.name, found.origin) == ("hit", "Ada", "provider")
        assert llmcache.flush()
        assert CacheEntry.objects.get().source == "pinned"
        corrections.withdraw(Correction.objects.get())
        assert asked(ttl=60) == ("miss", "Somebody else")


@pytest.mark.django_db(transaction=True)
def test_what_no_tier_holds_cannot_be_pinned(provider: Sandbox) -> None:
    key = key_of()
    llmcache.flush()
    made = llmcache.invalidate(key=key)
    with pytest.raises(InvalidRequest, match="pinned"):
        corrections.pin(key)
    llmcache.undo(made)
    evict()
    with pytest.raises(InvalidRequest, match="pinned"):
        corrections.pin(key)


@pytest.mark.django_db(transaction=True)
def test_quarantine_and_restore(provider: Sandbox) -> None:
    key = key_of()
    corrections.quarantine(key, user="ann")
    with pytest.raises(NotCached):
        llmcache.extract("Ada", Person, cache="only")
    assert corrections.restore(key, user="bob") is True
    assert corrections.restore(key) is False
    assert [asked(), provider.calls] == [("hit", "Ada"), 1]
    row = Invalidation.objects.get()
    assert (row.reason, row.made_by, row.undone_by) == ("quarantine", "ann", "bob")
    for _ in range(2):
        corrections.quarantine(key)
    provider.answers["Ada"] = {"name": "Augusta Ada"}
    assert asked() == ("miss", "Augusta Ada")
    assert corrections.restore(key) is True
    # What was asked for anew meanwhile stays.
    assert [asked(), provider.calls] == [("hit", "Augusta Ada"), 2]


# -- books and rows


@pytest.mark.django_db(transaction=True)
def test_the_ledger_counts_its_hits(provider: Sandbox) -> None:
    made = corrected()
    row = CacheEntry.objects.get()
    assert (row.source, row.expires_at, row.written_at) == ("human", None, made.made_at)
    cost = row.cost_pico_usd
    assert cost
    for _ in range(3):
        asked()
    assert llmcache.flush()
    row.refresh_from_db()
    assert (row.source, row.cost_pico_usd, row.expires_at, row.hits) == ("human", cost, None, 3)
    # The hit before the correction that told the key, and three of its own.
    assert row.saved_pico_usd == 3 * cost
    stats = llmcache.stats()
    assert (stats.hits, stats.misses, ProviderCall.objects.count()) == (3, 1, 1)


@pytest.mark.django_db
def test_one_that_stands_is_never_pruned(provider: Sandbox) -> None:
    made = corrected()
    old = timezone.now() - timedelta(days=500)
    Invalidation.objects.update(made_at=old)
    namespace = process.current().namespace
    Invalidation.objects.bulk_create(
        Invalidation(uid=f"{n:032}", namespace=namespace, tag="old", made_at=old) for n in range(2 * AT_A_TIME)
    )
    for _ in range(3):
        llmcache.invalidate(tag="new")
    assert Invalidation.objects.filter(tag="old").count() == 0
    process.install(None)
    assert (Correction.objects.get(), asked()) == (made, ("hit", "Ada Lovelace"))


@pytest.mark.django_db
def test_those_withdrawn_are_kept_as_long_from_then_on(provider: Sandbox) -> None:
    made = corrected()
    namespace, old = process.current().namespace, timezone.now() - timedelta(days=500)
    for n in range(AT_A_TIME + 1):
        made.invalidation.pk, made.invalidation.uid = None, f"{n:032}"
        made.invalidation.made_at, made.invalidation.active = old, False
        made.invalidation.undone_at = timezone.now() if n == AT_A_TIME else old
        made.invalidation.save()
        made.pk, made.invalidation = None, made.invalidation
        made.save()
    llmcache.invalidate(tag="new")
    assert Correction.objects.count() == AT_A_TIME + 2
    corrected()
    assert Correction.objects.filter(namespace=namespace, invalidation__active=False).count() == 1
    assert Correction.objects.filter(invalidation__active=True).count() == 2


@pytest.mark.django_db(transaction=True)
def test_it_is_served_under_a_new_secret(provider: Sandbox) -> None:
    with llmcache_settings(KEY_SECRETS=[OLD]):
        made = corrected()
        asked()
    with llmcache_settings(KEY_SECRETS=[NEW, OLD]):
        assert [asked(), asked(), provider.calls] == [("hit", "Ada Lovelace"), ("hit", "Ada Lovelace"), 1]
        corrections.withdraw(made)
        assert [asked(), asked(), provider.calls] == [("miss", "Ada"), ("hit", "Ada"), 2]
