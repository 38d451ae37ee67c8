"""Invalidating: what is void, for whom and from when on, and what an undo brings back."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, transaction
from django.test import TestCase
from pydantic import BaseModel

import llmcache
from llmcache import Invalidated, envelope
from llmcache.engine import process
from llmcache.models import CacheEntry, Invalidation, ProviderCall
from llmcache.testing.sandbox import Sandbox
from tests.conftest import MovedClock, llmcache_settings
from tests.contract.aliases import in_caches
from tests.flows.test_costs import SANDBOX_PRICES

pytestmark = pytest.mark.django_db


class Person(BaseModel):
    """A person."""

    name: str


class Place(BaseModel):
    """A place."""

    name: str


@pytest.fixture
def provider(sandbox: Sandbox) -> Sandbox:
    for name in ("Ada", "Eve", "Bob"):
        sandbox.answers[name] = {"name": name}
    return sandbox


def ask(text: str = "Ada", response_model: Any = Person, **options: Any) -> str:
    """Return the outcome of a call."""
    return llmcache.extract_with_info(text, response_model, **options).outcome


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


def shown(value: object) -> str:
    """Return a name for a case that is the same in each process of a run."""
    return ascii(sorted(value) if isinstance(value, set) else value)[:60]


# -- what is void

CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tenant": {"tenant": "acme"},
    "subject": {"subject": "ann"},
    "model": {"model": "openai/gpt-5"},
    "tag": {"tags": ["eu", "vip"]},
    "kind": {"kind": "inbox"},
    "all": {"tenant": "acme", "subject": "ann", "model": "openai/gpt-5", "tags": ["vip"], "kind": "inbox"},
}


def after(**conditions: Any) -> dict[str, str]:
    """Return the outcome of each call after an invalidation, when all were hits before."""
    for options in CALLS.values():
        ask(**options)
        assert ask(**options) == "hit"
    llmcache.invalidate(**conditions)
    return {name: ask(**options) for name, options in CALLS.items()}


@pytest.mark.parametrize(
    ("conditions", "void"),
    [
        ({"tenant": "acme"}, {"tenant", "all"}),
        ({"subject": "ann"}, {"subject", "all"}),
        ({"model": "openai/gpt-5"}, {"model", "all"}),
        ({"model": "openai/gpt-5-mini"}, {"plain", "tenant", "subject", "tag", "kind"}),
        ({"tag": "vip"}, {"tag", "all"}),
        ({"tag": "eu"}, {"tag"}),
        ({"kind": "inbox"}, {"kind", "all"}),
        ({"kind": "Person"}, {"plain", "tenant", "subject", "model", "tag"}),
        ({"response_model": Person}, set(CALLS)),
        ({"response_model": "Person"}, set(CALLS)),
        ({"response_model": Place}, set[str]()),
        ({"tenant": "acme", "tag": "vip"}, {"all"}),
        ({"tenant": "acme", "tag": "eu"}, set[str]()),
        ({"everything": True}, set(CALLS)),
    ],
    ids=shown,
)
def test_what_meets_all_conditions_is_void(conditions: dict[str, Any], void: set[str], provider: Sandbox) -> None:
    found = after(**conditions)
    assert {name for name, outcome in found.items() if outcome == "miss"} == void
    # What was asked for anew is good.
    assert {ask(**options) for options in CALLS.values()} == {"hit"}


def test_one_answer_by_its_key(provider: Sandbox) -> None:
    key = llmcache.extract_with_info("Ada", Person).key
    ask("Eve")
    llmcache.invalidate(key=key.upper())
    assert [ask("Ada"), ask("Ada"), ask("Eve")] == ["miss", "hit", "hit"]


def test_the_reason_is_told(provider: Sandbox) -> None:
    ask()
    llmcache.invalidate(everything=True)
    assert llmcache.extract_with_info("Ada", Person).reason == "invalidated"
    assert llmcache.flush()
    reasons = ProviderCall.objects.order_by("started_at").values_list("reason", flat=True)
    assert list(reasons) == ["not_found", "invalidated"]


def test_only_is_refused_what_is_void(provider: Sandbox) -> None:
    ask()
    llmcache.invalidate(everything=True)
    with pytest.raises(llmcache.NotCached):
        llmcache.extract("Ada", Person, cache="only")


@pytest.mark.parametrize("way", [llmcache.extract, llmcache.aextract])
def test_each_way_of_asking_sees_it(way: Any, provider: Sandbox) -> None:
    def value() -> Any:
        made = way("Ada", Person)
        return asyncio.run(made) if asyncio.iscoroutine(made) else made

    for calls in (1, 2, 3):
        for _ in range(3):
            assert value() == Person(name="Ada")
            assert provider.calls == calls
        llmcache.invalidate(tag="other")
        llmcache.invalidate(kind="Person")


@pytest.mark.django_db(transaction=True)
def test_the_awaited_twins(provider: Sandbox) -> None:
    async def calls() -> list[Any]:
        await llmcache.aextract("Ada", Person)
        made = await llmcache.ainvalidate(everything=True)
        outcomes = [(await llmcache.aextract_with_info("Ada", Person)).outcome]
        undone = [await llmcache.aundo(made), await llmcache.aundo(made)]
        return [*outcomes, *undone]

    assert asyncio.run(calls()) == ["miss", True, False]


def test_an_event_loop_is_not_held_up(provider: Sandbox) -> None:
    async def calls() -> None:
        with pytest.raises(llmcache.AsyncContext, match="ainvalidate"):
            llmcache.invalidate(everything=True)
        with pytest.raises(llmcache.AsyncContext, match="aundo"):
            llmcache.undo("0" * 32)

    asyncio.run(calls())


# -- undo


def test_undone_the_old_answers_are_served_again(provider: Sandbox) -> None:
    ask("Ada")
    ask("Eve")
    made = llmcache.invalidate(kind="Person", reason="a wrong prompt", user="ann")
    assert ask("Ada") == "miss"
    assert llmcache.undo(made, user="bob") is True
    assert [ask("Ada"), ask("Eve"), provider.calls] == ["hit", "hit", 3]
    row = Invalidation.objects.get()
    assert (row.uid, row.reason, row.made_by, row.active, row.undone_by) == (
        made.id, "a wrong prompt", "ann", False, "bob",
    )  # fmt: skip
    assert row.undone_at is not None
    assert llmcache.undo(made) is False
    assert llmcache.undo(row) is False
    row.refresh_from_db()
    assert row.undone_by == "bob"


def test_undone_the_one_before_holds_again(provider: Sandbox) -> None:
    ask("Ada")
    first = llmcache.invalidate(tag="vip")
    ask("Ada", tags=["vip"])
    second = llmcache.invalidate(tag="vip")
    assert Invalidation.objects.get(uid=second.id).supersedes == [first.id]
    ask("Eve", tags=["vip"])
    assert llmcache.undo(second)
    assert [ask("Ada", tags=["vip"]), ask("Eve", tags=["vip"])] == ["hit", "hit"]
    assert llmcache.undo(first)
    assert [ask("Ada", tags=["vip"]), ask("Eve", tags=["vip"])] == ["hit", "hit"]


def test_more_invalidations_of_one_answer_than_it_can_list(provider: Sandbox) -> None:
    tags = [f"tag-{number}" for number in range(70)]
    ask(tags=tags)
    made = [llmcache.invalidate(tag=tag) for tag in tags]
    assert [ask(tags=tags), ask(tags=tags)] == ["miss", "hit"]
    llmcache.invalidate(tag="tag-3")
    assert [ask(tags=tags), ask(tags=tags)] == ["miss", "hit"]
    # With another list in force another digest: it is asked for once more, and never served wrongly.
    llmcache.undo(made[5])
    assert ask(tags=tags) == "miss"
    for each in made:
        llmcache.undo(each)
    assert ask(tags=tags) in ("miss", "hit")
    assert ask(tags=tags) == "hit"


# -- answers under way


def begun(work: Callable[[], Any], provider: Sandbox, received: int) -> tuple[threading.Thread, list[Any]]:
    """Return a thread whose call the provider is holding, and what it will return."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    provider.wait_until_received(received)
    return thread, found


def sync_call() -> str:
    return ask("Ada")


def async_call() -> str:
    async def call() -> str:
        return (await llmcache.aextract_with_info("Ada", Person)).outcome

    return asyncio.run(call())


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("call", [sync_call, async_call])
def test_an_answer_that_was_under_way_is_void_on_arrival(call: Callable[[], str], provider: Sandbox) -> None:
    llmcache.invalidate(tag="warm-up")
    provider.hold()
    thread, found = begun(call, provider, 1)
    llmcache.invalidate(kind="Person")
    provider.release()
    thread.join(30)
    # Who asked before gets it; nobody else does.
    assert found == ["miss"]
    assert [call(), call()] == ["miss", "hit"]
    assert llmcache.flush()
    assert CacheEntry.objects.count() == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("call", [sync_call, async_call])
def test_who_asks_after_it_does_not_join_who_asked_before(call: Callable[[], str], provider: Sandbox) -> None:
    provider.hold()
    first, before = begun(call, provider, 1)
    llmcache.invalidate(kind="Person")
    second, later = begun(call, provider, 2)
    joined: list[str] = []
    third = threading.Thread(target=lambda: joined.append(call()))
    third.start()
    provider.release()
    for thread in (first, second, third):
        thread.join(30)
    assert (before, later) == (["miss"], ["miss"])
    assert joined in (["collapsed"], ["hit"])
    assert (call(), provider.received) == ("hit", 2)


def test_a_tier_that_has_a_newer_one_is_asked(provider: Sandbox, tmp_path: object) -> None:
    """What is void in the fast tier was asked for anew by another process, which has written to the slow one."""
    slow = {"BACKEND": "llmcache.backends.DiskCache", "LOCATION": f"{tmp_path}/slow"}
    fast = {"BACKEND": "llmcache.backends.DiskCache", "LOCATION": f"{tmp_path}/fast"}
    with in_caches(fast=fast, slow=slow), llmcache_settings(TIERS=["fast", "slow"]):
        ask()
        first, second = process.current().tiers.below
        old = process.current().tiers.read(bytes.fromhex(llmcache.extract_with_info("Ada", Person).key), 1e9)
        assert old is not None
        llmcache.invalidate(everything=True)
        assert ask() == "miss"
        name = process.current().tiers._name(old.entry.key)
        new, kept = second.get(name), first.get(name)
        assert new == kept
        first.set(name, envelope.encode(old.entry), None)
        assert [ask(), provider.calls] == ["hit", 2]
        # And it is written above.
        assert first.get(name) == new


def test_rows_that_a_stranger_has_written_stop_nobody(provider: Sandbox) -> None:
    ask()
    llmcache.invalidate(tag="of no matter")
    row = Invalidation.objects.get()
    row.pk, row.uid, row.supersedes = None, "no id at all", {"not": ["a list", 7]}
    row.save()
    process.install(None)
    assert ask() == "hit"
    Invalidation.objects.filter(uid="no id at all").update(tag="")
    process.install(None)
    assert process.current().log.read_now()
    assert [ask(), ask()] == ["miss", "hit"]


# -- transactions


@pytest.mark.django_db(transaction=True)
def test_before_it_is_committed_only_its_own_context_sees_it(provider: Sandbox) -> None:
    ask("Ada")
    with transaction.atomic():
        llmcache.invalidate(kind="Person")
        assert process.current().log.has_own
        assert [ask("Ada"), ask("Ada")] == ["miss", "hit"]
        assert provider.calls == 2
        ask("Eve")
    assert [ask("Ada"), ask("Eve"), in_thread(ask)] == ["hit", "hit", "hit"]
    assert provider.calls == 3
    assert not process.current().log.has_own


@pytest.mark.django_db(transaction=True)
def test_others_see_it_when_it_is_committed(provider: Sandbox) -> None:
    ask("Ada")
    with transaction.atomic():
        llmcache.invalidate(kind="Person")
        assert in_thread(ask) == "hit"
    assert in_thread(ask) == "miss"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("savepoint", [False, True])
def test_rolled_back_it_has_never_been(savepoint: bool, provider: Sandbox) -> None:
    ask("Ada")
    with transaction.atomic():
        try:
            with transaction.atomic(savepoint=savepoint):
                llmcache.invalidate(kind="Person")
                assert ask("Ada") == "miss"
                raise ZeroDivisionError
        except ZeroDivisionError:
            if not savepoint:
                transaction.set_rollback(True)
        if savepoint:
            assert ask("Eve") == "miss"
            assert ask("Ada") == "hit"
    assert Invalidation.objects.count() == 0
    assert [ask("Ada"), in_thread(ask)] == ["hit", "hit"]
    assert provider.calls == (3 if savepoint else 2)


@pytest.mark.django_db(transaction=True)
def test_callbacks_that_are_called_before_it_is_told_see_it(provider: Sandbox) -> None:
    ask("Ada")
    seen: list[str] = []
    with transaction.atomic():
        transaction.on_commit(lambda: seen.append(ask("Ada")))
        llmcache.invalidate(kind="Person")
    assert (seen, ask("Ada")) == (["miss"], "hit")


@pytest.mark.django_db(transaction=True)
def test_a_callback_that_fails_before_it_is_told_does_not_hide_it(provider: Sandbox) -> None:
    ask("Ada")
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        transaction.on_commit(lambda: 1 // 0)
        llmcache.invalidate(kind="Person")
    assert in_thread(ask) == "miss"


@pytest.mark.django_db(transaction=True)
def test_an_undo_is_part_of_its_transaction_too(provider: Sandbox) -> None:
    ask("Ada")
    made = llmcache.invalidate(kind="Person")
    with transaction.atomic():
        assert llmcache.undo(made)
        assert ask("Ada") == "hit"
        transaction.set_rollback(True)
    assert ask("Ada") == "miss"
    with transaction.atomic():
        assert llmcache.undo(made)
    assert [ask("Ada"), in_thread(ask)] == ["hit", "hit"]


class InTestCase(TestCase):
    """What a project's own tests see."""

    def test_the_test_sees_what_it_has_invalidated(self) -> None:
        with Sandbox(answers={"Ada": {"name": "Ada"}}) as provider, _pointed_to(provider):
            assert [ask(), ask()] == ["miss", "hit"]
            with self.captureOnCommitCallbacks(execute=True):
                llmcache.invalidate(everything=True)
            assert [ask(), ask()] == ["miss", "hit"]
            llmcache.invalidate(everything=True)
            assert [ask(), ask()] == ["miss", "hit"]

    def test_a_hit_makes_no_query(self) -> None:
        with Sandbox(answers={"Ada": {"name": "Ada"}}) as provider, _pointed_to(provider):
            ask()
            with self.assertNumQueries(0):
                for _ in range(5):
                    assert llmcache.extract("Ada", Person)
                ask("Ada")


def _pointed_to(provider: Sandbox) -> Any:
    return llmcache_settings(PROVIDERS={"openai": {"base_url": provider.base_url, "api_key": "x"}})


# -- what it would be about


def test_a_dry_run_tells_and_does_nothing(sandbox: Sandbox, clock: MovedClock) -> None:
    with llmcache_settings(PRICES=SANDBOX_PRICES), clock.kept():
        for name in ("Ada", "Eve"):
            sandbox.answers[name] = {"name": name}
            ask(name, tags=["vip", "eu"])
        sandbox.answers["Bob"] = {"name": "Bob"}
        ask("Bob", tags=["eu"], tenant="acme", subject="bob")
        assert llmcache.flush()
        cost = CacheEntry.objects.order_by("written_at").values_list("cost_pico_usd", flat=True)
        dollars = [llmcache.money.pricing.dollars(each) for each in cost]  # type: ignore[attr-defined]
        assert None not in dollars

        def told(**conditions: Any) -> tuple[int | None, Any]:
            found = llmcache.invalidate(**conditions, dry_run=True)
            assert found.id is None
            return found.entries, found.cost_usd

        assert told(tag="vip") == (2, dollars[0] + dollars[1])
        assert told(tag="eu") == (3, sum(dollars))
        assert told(tenant="acme") == told(subject="bob") == told(tag="eu", tenant="acme") == (1, dollars[2])
        assert told(kind="Person", model="openai/gpt-5-mini") == (3, sum(dollars))
        assert told(response_model=Place) == (0, 0)
        assert told(everything=True) == (3, sum(dollars))
        key = llmcache.extract_with_info("Ada", Person, tags=["vip", "eu"]).key
        assert told(key=key) == (1, dollars[0])
    assert Invalidation.objects.count() == 0
    assert ask("Bob", tags=["eu"], tenant="acme", subject="bob") in ("hit", "miss")


# -- what cannot be

KEY = "a" * 64


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "needs a condition"),
        ({"everything": True, "tag": "vip"}, "everything=True has no conditions; got tag="),
        ({"everything": "yes"}, "everything= must be True or False"),
        ({"everything": 1}, "everything= must be True or False"),
        ({"tenant": None}, "tenant= must be a str; leave it out"),
        ({"tenant": ""}, "tenant= must have 1 to"),
        ({"tenant": 1}, "tenant= must be a str"),
        ({"tag": "\ud800"}, "tag= has a lone surrogate"),
        ({"tag": ["vip"]}, "tag= must be a str"),
        ({"key": "abc"}, "64 hex digits"),
        ({"key": KEY[:-1] + "g"}, "64 hex digits"),
        ({"model": "gpt-5-mini"}, "model= must be 'provider/model'"),
        ({"kind": "k" * 101}, "kind= must have 1 to 100"),
        ({"subject": "s" * 1_001}, "subject= must have 1 to"),
        ({"tag": "vip", "reason": 7}, "reason= must be a str"),
        ({"tag": "vip", "reason": "r" * 501}, "reason= must be a str of at most 500"),
        ({"tag": "vip", "user": "u" * 201}, "user= must have 1 to 200"),
    ],
    ids=shown,
)
def test_what_cannot_be_is_said(arguments: dict[str, Any], said: str, provider: Sandbox) -> None:
    ask()
    with pytest.raises(llmcache.InvalidRequest, match=said):
        llmcache.invalidate(**arguments)
    assert Invalidation.objects.count() == 0
    assert ask() == "hit"


@pytest.mark.parametrize("which", ["0" * 32, "nothing", "", Invalidated(None), None, 7], ids=shown)
def test_an_undo_of_what_is_not_there(which: Any) -> None:
    with pytest.raises(llmcache.InvalidRequest, match=r"no invalidation with this id|takes an invalidation's id"):
        llmcache.undo(which)


def test_a_long_tag_is_a_condition_as_a_whole(provider: Sandbox) -> None:
    long = "t" * 999
    ask(tags=[long + "a"])
    ask(tags=[long + "b"])
    llmcache.invalidate(tag=long + "a")
    assert [ask(tags=[long + "a"]), ask(tags=[long + "b"])] == ["miss", "hit"]


def test_no_database_is_said() -> None:
    with llmcache_settings(DATABASE="nowhere"), pytest.raises(llmcache.ConfigurationError, match="DATABASE"):
        llmcache.invalidate(everything=True)


# -- who is concerned


def test_another_project_on_the_same_tiers_loses_nothing(provider: Sandbox, tmp_path: object) -> None:
    shared = {"BACKEND": "llmcache.backends.DiskCache", "LOCATION": f"{tmp_path}/shared"}
    with in_caches(shared=shared):
        for namespace in ("one", "other"):
            with llmcache_settings(TIERS=["shared"], NAMESPACE=namespace):
                process.install(None)
                assert ask() == "miss"
        with llmcache_settings(TIERS=["shared"], NAMESPACE="one"):
            process.install(None)
            llmcache.invalidate(everything=True)
            assert ask() == "miss"
        with llmcache_settings(TIERS=["shared"], NAMESPACE="other"):
            process.install(None)
            assert ask() == "hit"


def test_who_commits_may_be_looked_at_by_others(provider: Sandbox) -> None:
    """Django empties the list of what it calls at a commit, while other threads look whether the transaction lasts."""

    class Emptied(list[Any]):
        def __len__(self) -> int:
            found = super().__len__()
            self.clear()
            return found

    with transaction.atomic():
        connection.run_on_commit = Emptied()
        llmcache.invalidate(kind="Person")
        log = process.current().log
        assert in_thread(log.confirm)
        connection.run_on_commit = []
