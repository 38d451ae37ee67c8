"""Warming: what is asked ahead of its use, what that costs, what stops it, and what it was worth."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.management import call_command
from django.utils import timezone
from pydantic import BaseModel, Field

import llmcache
from llmcache.checks import check_llmcache
from llmcache.engine import process
from llmcache.marking import tell_entries
from llmcache.models import CacheEntry, ProviderCall, UsageBucket, WarmingItem, WarmingPlan, WarmingRun
from llmcache.testing.sandbox import CACHED_INPUT_PICO_USD, INPUT_PICO_USD, OUTPUT_PICO_USD, Sandbox, faults
from llmcache.warming import claims, plans, runs, sources
from llmcache.warming.purse import Purse
from llmcache.warming.texts import WarmingText
from llmcache.warming.value import value_of
from llmcache.warming.work import work
from tests.conftest import MovedClock, llmcache_settings
from tests.waiting import until

pytestmark = pytest.mark.django_db

NAMES = ("Ada", "Barbara", "Donald", "Edsger", "Frances", "Grace")
PRICES = {
    "openai/gpt-5-mini": {
        "input": Decimal(INPUT_PICO_USD) / 10**6,
        "cache_read": Decimal(CACHED_INPUT_PICO_USD) / 10**6,
        "output": Decimal(OUTPUT_PICO_USD) / 10**6,
    }
}


class Person(BaseModel):
    """A person."""

    name: str


class Named(BaseModel):
    """The same, after a change."""

    name: str = Field(description="As written.")


def all_persons() -> Iterator[dict[str, Any]]:
    return ({"content": name, "tags": ["staff"]} for name in NAMES)


@pytest.fixture
def provider(sandbox: Sandbox) -> Iterator[Sandbox]:
    for name in NAMES:
        sandbox.answers[name] = {"name": name}
    own = {"KINDS": {"person": {"type": Person}}, "WARMING": {"all persons": all_persons}, "PRICES": PRICES}
    with llmcache_settings(**own, MAX_RETRIES=0):
        yield sandbox


def asked(provider: Sandbox) -> list[str]:
    """Return what the provider was asked for, in the order of the alphabet."""
    return sorted(request.body["messages"][-1]["content"] for request in provider.requests)


def outcomes(**options: Any) -> dict[str, str]:
    """Return by name how a call is answered that must not ask."""
    found: dict[str, str] = {}
    for name in NAMES:
        try:
            found[name] = llmcache.extract_with_info(name, Person, kind="person", cache="only", **options).origin
        except llmcache.NotCached:
            found[name] = ""
    return found


def prepared(*texts: Any, **options: Any) -> WarmingRun:
    return runs.prepare(texts or NAMES, **{"kind": "person", **options})


def test_what_is_not_there_is_asked_once_and_is_a_hit_then(provider: Sandbox) -> None:
    assert llmcache.extract("Ada", Person, kind="person").name == "Ada"
    done = llmcache.warm([*NAMES, "Grace", {"content": "Ada"}], kind="person", concurrency=3)
    assert (done.state, done.items, done.duplicates, done.live, done.warmed, done.failed) == ("done", 6, 2, 1, 5, 0)
    assert (done.to_ask, done.asked, done.calls, done.calls_unpriced, done.in_doubt) == (0, 5, 5, 0, 0)
    assert outcomes() == {**dict.fromkeys(NAMES, "warming"), "Ada": "provider"}
    assert asked(provider) == [*NAMES]
    assert llmcache.flush()
    # Spent ahead of its use: nobody's miss, and it is taken off what was saved.
    stats = llmcache.stats()
    assert (stats.misses, stats.hits, stats.calls) == (1, 6, 6)
    assert UsageBucket.objects.get(outcome="warming").attempts == 5
    calls = ProviderCall.objects.filter(ahead="warming")
    assert done.cost_usd == sum(each.cost_usd or 0 for each in calls) > 0
    assert CacheEntry.objects.filter(source="warming").count() == 5
    assert not WarmingItem.objects.exclude(text="").exists()


def test_a_dry_run_asks_and_writes_nothing(provider: Sandbox) -> None:
    with llmcache_settings(PRICES={}):
        unknown = llmcache.warm([*NAMES, "Ada"], Person, kind="person", dry_run=True)
        assert (unknown.items, unknown.duplicates, unknown.live, unknown.to_ask, unknown.usd) == (7, 1, 0, 6, None)
        assert unknown.basis == "there is no price of openai/gpt-5-mini, and no earlier answer of person"
    by_price = llmcache.warm(NAMES, kind="person", dry_run=True)
    assert by_price.usd is not None
    assert by_price.usd > 0
    assert by_price.basis.startswith("prices of openai/gpt-5-mini for an estimated number of tokens")
    assert (provider.received, WarmingRun.objects.count()) == (0, 0)
    llmcache.extract("Ada", Person, kind="person")
    llmcache.flush()
    (cost,) = (each.cost_usd for each in CacheEntry.objects.all())
    assert cost is not None
    memory = process.current().memory
    assert memory is not None
    memory.clear()
    by_answers = llmcache.warm(NAMES, kind="person", dry_run=True)
    # Texts of about the length of the one that was paid for.
    assert by_answers.usd is not None
    assert cost < by_answers.usd < 20 * cost
    assert by_answers.basis == (
        "the mean of 1 earlier answer of person by openai/gpt-5-mini, by the length of what is sent"
    )
    assert (by_answers.live, by_answers.to_ask, provider.received) == (1, 5, 1)
    # What lay in a slower tier was not brought into a faster one.
    assert len(memory) == 0
    longer = llmcache.warm([name * 500 for name in NAMES], kind="person", dry_run=True)
    assert longer.usd is not None
    assert longer.usd > 3 * by_answers.usd


def test_a_cap_of_calls_is_exact_and_can_be_raised(provider: Sandbox) -> None:
    done = llmcache.warm(NAMES, kind="person", max_calls=4, concurrency=3)
    assert (done.state, done.warmed, done.calls, done.to_ask) == ("exhausted", 4, 4, 2)
    assert provider.received == 4
    # What nobody has asked for is still known.
    assert WarmingItem.objects.exclude(text="").count() == 2
    assert work(done.uid) == done
    assert runs.resume(done.uid, max_calls=2_000)
    done = work(done.uid)
    assert (done.state, done.warmed, done.calls, asked(provider)) == ("done", 6, 6, [*NAMES])
    # Permits that were drawn and not used are back.
    assert WarmingRun.objects.get().permits == 6


def test_a_cap_in_dollars_holds(provider: Sandbox) -> None:
    free = llmcache.warm(["Ada", "Grace"], kind="person")
    cap = free.cost_usd * 2
    done = llmcache.warm([*NAMES, *(f"{name} again" for name in NAMES)], kind="person", max_usd=cap, concurrency=4)
    assert done.state == "exhausted"
    assert 0 < done.cost_usd <= cap
    assert 0 < done.warmed < 10
    run = WarmingRun.objects.get(uid=done.uid)
    # Nothing is held for calls that have ended but what they cost.
    assert run.held_pico_usd == run.spent_pico_usd
    with llmcache_settings(PRICES={}), pytest.raises(llmcache.InvalidRequest, match="max_usd= cannot be kept"):
        llmcache.warm(["Nobody"], Named, max_usd=1)
    assert WarmingRun.objects.count() == 2


def test_each_further_attempt_takes_a_permit(provider: Sandbox) -> None:
    """And who has joined such a call asks for himself: the budget is not his."""
    provider.fail(faults.wrong_json())
    provider.hold()
    joined: list[str] = []
    caller = threading.Thread(
        target=lambda: joined.append(llmcache.extract_with_info("Ada", Person, kind="person").outcome)
    )

    def in_between() -> bool:
        if provider.received and not caller.ident:
            caller.start()
            flights: Any = process.current().flights._flights
            until(lambda: any(flight.landed._cond._waiters for flight in flights.values()))
            provider.release()
        return False

    done = llmcache.warm(["Ada"], kind="person", max_calls=1, should_stop=in_between)
    caller.join()
    assert (done.state, done.calls, done.warmed, done.failed, done.to_ask) == ("exhausted", 1, 0, 0, 1)
    assert joined == ["miss"]
    assert provider.received == 2
    runs.resume(done.uid, max_calls=3)
    assert work(done.uid).live == 1
    provider.fail(faults.wrong_json())
    done = llmcache.warm(["Grace"], kind="person", max_calls=2)
    assert (done.state, done.calls, done.warmed) == ("done", 2, 1)


def test_pause_resume_and_cancel(provider: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    # It is seen at every step.
    monkeypatch.setattr("llmcache.warming.work.LOOK_SECONDS", 0.0)
    run = prepared(concurrency=2)
    provider.hold()

    def pause_at_the_first() -> bool:
        if provider.received == 2 and runs.pause(run.uid):
            provider.release()
            until(lambda: provider.calls == 2)
        return False

    paused = work(run.uid, should_stop=pause_at_the_first)
    # What was under way is done.
    assert (paused.state, paused.warmed, paused.to_ask, provider.received) == ("paused", 2, 4, 2)
    assert (work(run.uid), runs.pause(run.uid)) == (paused, False)
    assert runs.resume(run.uid)
    stopped = work(run.uid, should_stop=lambda: provider.received >= 3)
    assert stopped.state == "running"
    assert 3 <= stopped.warmed <= 5
    assert WarmingItem.objects.filter(state="claimed").count() == 0
    assert runs.cancel(run.uid)
    over = work(run.uid)
    assert (over.state, over.dropped, over.warmed) == ("cancelled", 6 - stopped.warmed, stopped.warmed)
    assert not WarmingItem.objects.exclude(text="").exists()
    assert (runs.resume(run.uid), runs.cancel(run.uid)) == (False, False)


def test_ctrl_c_waits_for_what_is_under_way(provider: Sandbox) -> None:
    run = prepared(concurrency=2)

    def press() -> bool:
        if provider.received:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        work(run.uid, should_stop=press)
    left = runs.progress(run.uid)
    assert left.calls == left.warmed == provider.received
    assert (left.warmed + left.to_ask, WarmingItem.objects.filter(state="claimed").count()) == (6, 0)
    assert work(run.uid, most=1).warmed == left.warmed + 1
    assert (work(run.uid).state, asked(provider)) == ("done", [*NAMES])


def test_what_fails_by_its_answer_has_failed_and_the_others_go_on(provider: Sandbox) -> None:
    provider.fail(faults.refusal(), times=None, text="Ada")
    done = llmcache.warm(NAMES, kind="person")
    assert (done.state, done.warmed, done.failed, done.trouble) == ("done", 5, 1, "")
    item = WarmingItem.objects.get(state="failed")
    assert (item.error, item.calls, item.text) == ("refused", 1, "")


def test_what_fails_on_the_way_is_tried_thrice_and_pauses_the_run_when_it_goes_on(provider: Sandbox) -> None:
    provider.fail(faults.server_error(503), times=None, text="Ada")
    done = llmcache.warm(NAMES, kind="person", concurrency=1)
    assert (done.state, done.warmed, done.failed, done.calls) == ("done", 5, 1, 8)
    provider.heal()
    provider.fail(faults.server_error(503), times=None)
    paused = llmcache.warm([f"{name} again" for name in NAMES], kind="person", concurrency=1)
    assert (paused.state, paused.trouble, paused.calls) == ("paused", "provider_unavailable", 10)
    provider.heal()
    provider.fail(faults.unauthorized())
    assert runs.resume(paused.uid)
    refused = work(paused.uid)
    assert (refused.state, refused.trouble, refused.calls) == ("paused", "authentication_failed", 11)
    runs.resume(paused.uid)
    done = work(paused.uid)
    assert (done.state, done.trouble, done.warmed + done.failed) == ("done", "", 6)


def test_what_expires_soon_is_asked_anew_once(provider: Sandbox, clock: MovedClock) -> None:
    clock.install()
    llmcache.warm(NAMES, kind="person", ttl=3_600)
    llmcache.extract("Grace", Person, kind="person", ttl=3_600)
    llmcache.extract("Edsger", Person, kind="person", ttl=3_600, subject="an employee")
    assert llmcache.flush()
    # As nobody can tell of which subject it was, it is left out.
    assert [text.content for text in sources.from_expiring(timedelta(hours=2), "person", 1)] == ["Grace"]
    assert list(sources.from_expiring(timedelta(minutes=1), "person")) == []
    found = list(sources.from_expiring(timedelta(hours=2), "person"))
    assert sorted(text.content for text in found) == [*NAMES]
    run = runs.prepare(found, kind="person", ttl=3_600)
    assert work(run.uid, most=2).warmed == 2
    # As after a crash: what was asked since the run was made is there.
    texts = {item.key: item.text for item in run.items.exclude(text="")}
    assert len(texts) == 4
    assert work(run.uid, most=2).warmed == 4
    for item in run.items.filter(state="warmed", key__in=texts):
        run.items.filter(pk=item.pk).update(state="waiting", text=texts[item.key])
    clock.move(60)
    done = work(run.uid)
    assert (done.warmed, done.live, provider.calls) == (4, 2, 7 + 6)


def test_the_costliest_misses_are_asked_after_a_change_of_the_schema(provider: Sandbox) -> None:
    for name in NAMES[:3]:
        llmcache.extract(name, Person, kind="person", tags=["staff"], max_completion_tokens=500)
    assert llmcache.flush()
    with llmcache_settings(KINDS={"person": {"type": Named}}):
        found = list(sources.from_misses(1, "person", 2))
        dearest = ProviderCall.objects.order_by("-cost_pico_usd", "pk").values_list("key", flat=True)[:2]
        assert len(found) == 2
        assert {text.tags for text in found} == {("staff",)}
        assert all(text.params == {"max_completion_tokens": 500} for text in found)
        assert len(dearest) == 2
        done = llmcache.warm(sources.from_misses(1, "person"), kind="person")
        assert (done.warmed, done.live, done.state) == (3, 0, "done")
        again = llmcache.extract_with_info(
            "Ada", Named, kind="person", tags=["staff"], max_completion_tokens=500, cache="only"
        )
        assert again.value == Named(name="Ada")
    assert list(sources.from_misses(1, "other")) == []


def left_behind(**told: Any) -> list[tuple[str, str | None]]:
    return [(text.content, text.system) for text in sources.from_changed("person", **told)]


def test_what_a_change_has_left_behind_is_asked_for_anew(provider: Sandbox) -> None:
    """Of the schema, of a version and of a prompt; each time what the change is about, and nothing else."""
    for name in NAMES[:3]:
        llmcache.extract(name, Person, kind="person", system="Who?", ttl=3_600)
    llmcache.extract("Grace", Person, kind="person", system="Who?")
    llmcache.extract("Ada", Person, kind="person", model="openai/gpt-5-nano", system="Who?")
    for _ in range(2):
        llmcache.extract("Barbara", Person, kind="person", system="Who?", ttl=3_600)
    assert llmcache.flush()
    grace = llmcache.extract_with_info("Grace", Person, kind="person", system="Who?").key
    assert CacheEntry.objects.filter(key=grace).update(expires_at=timezone.now()) == 1
    assert left_behind() == left_behind(system="Who?") == []
    # Those first that have saved most, of those that have not expired.
    old = [("Barbara", "Who?"), ("Ada", "Who?"), ("Donald", "Who?")]
    new = [(name, "Who is it?") for name, _ in old]
    assert left_behind(system="Who is it?") == new
    assert left_behind(system="Who is it?", most=1) == new[:1]
    for change in ({"VERSION": "2"}, {"KINDS": {"person": {"type": Person, "version": "2"}}}):
        with llmcache_settings(**change):
            assert left_behind() == old
    with llmcache_settings(KINDS={"person": {"type": Named}}):
        assert (left_behind(), left_behind(model="openai/gpt-5-nano")) == (old, [("Ada", "Who?")])
        plan = WarmingPlan.objects.create(name="changed", source="changed", kind="person", system="Who is it?")
        done = work(plans.run_plan(plan).uid)
        assert (done.state, done.warmed, done.live) == ("done", 3, 0)
        assert llmcache.flush()
        # What was made anew is not what was left behind, and what it was made of is answered.
        done = work(plans.run_plan(plan).uid)
        assert (done.state, done.items) == ("done", 0)
        asked_with = {"kind": "person", "system": "Who is it?", "cache": "only"}
        assert llmcache.extract_with_info("Ada", Named, **asked_with).value == Named(name="Ada")
    with pytest.raises(llmcache.ConfigurationError, match=r"KINDS"):
        left_behind_of_nobody = sources.from_changed("nobody")
        list(left_behind_of_nobody)


@pytest.mark.parametrize("source", ["changed", "misses"])
def test_what_is_answered_is_not_among_the_most(source: str, provider: Sandbox) -> None:
    """So each run takes the next ones, by how the run asks: with its tenant and its tags."""
    for name in NAMES:
        llmcache.extract(name, Person, kind="person")
    assert llmcache.flush()
    own = {"source": source, "kind": "person", "most": 4, "days": 1}
    plain = WarmingPlan.objects.create(name="plain", **own)
    theirs = WarmingPlan.objects.create(name="theirs", tenant="acme", tags=["night"], **own)
    with llmcache_settings(VERSION="2"):
        for plan in (plain, theirs):
            assert plans.run_plan(plan, dry_run=True).to_ask == 4
            done = [work(plans.run_plan(plan).uid) for _ in range(3)]
            assert [(each.state, each.items, each.warmed) for each in done] == [
                ("done", 4, 4),
                ("done", 2, 2),
                ("done", 0, 0),
            ]
            told = {"tenant": plan.tenant, "tags": plan.tags} if plan.tenant else {}
            assert set(outcomes(**told).values()) == {"warming"}


def test_the_command_takes_the_next_ones_too(provider: Sandbox) -> None:
    for name in NAMES:
        llmcache.extract(name, Person, kind="person")
    assert llmcache.flush()
    for version, source in (("2", ["--changed"]), ("3", ["--misses", "1"])):
        with llmcache_settings(VERSION=version):
            for _ in range(2):
                call_command("llmcache_warm", *source, "--kind", "person", "--most", "3")
            assert set(outcomes().values()) == {"warming"}


def test_what_somebody_has_made_void_was_not_left_behind_by_a_change(provider: Sandbox) -> None:
    for name in NAMES[:3]:
        llmcache.extract(name, Person, kind="person", tags=[name])
    assert llmcache.flush()
    row = llmcache.invalidate(tag="Ada")
    assert tell_entries(process.current(), 10) == 1
    with llmcache_settings(VERSION="2"):
        assert sorted(left_behind()) == [("Barbara", None), ("Donald", None)]
        llmcache.undo(row)
        assert tell_entries(process.current(), 10) == 1
        assert sorted(left_behind()) == [("Ada", None), ("Barbara", None), ("Donald", None)]


def test_what_it_was_worth(provider: Sandbox, clock: MovedClock) -> None:
    clock.install()
    for _ in range(3):
        llmcache.extract("Ada", Person, kind="person", ttl=60)
    clock.move(61)
    # What an entry had been good for before counts for nothing.
    assert llmcache.flush()
    assert CacheEntry.objects.get().hits == 2
    done = llmcache.warm(NAMES, kind="person")
    assert llmcache.flush()
    nothing = value_of(done.uid)
    assert (nothing.warmed, nothing.hit, nothing.hits, nothing.saved_usd) == (6, 0, 0, 0)
    assert nothing.net_usd == -done.cost_usd
    for name in ("Ada", "Grace", "Grace"):
        assert llmcache.extract_with_info(name, Person, kind="person").outcome == "hit"
    assert llmcache.flush()
    worth = value_of(done.uid)
    # By how often they were hit: Ada's thrice, Grace's twice.
    costs = {4 - entry.hits: entry.cost_usd or Decimal(0) for entry in CacheEntry.objects.filter(hits__gt=0)}
    assert (worth.warmed, worth.hit, worth.hits) == (6, 2, 3)
    assert worth.saved_usd == costs[1] + 2 * costs[2]
    assert worth.net_usd == worth.saved_usd - done.cost_usd


def test_a_dead_workers_items_come_back_and_some_are_given_up(provider: Sandbox) -> None:
    run = prepared()
    dead, other = claims.Claims(run, "default"), claims.Claims(run, "default")
    assert [item.key for item in dead.take(2)] == list(run.items.order_by("pk").values_list("key", flat=True)[:2])
    assert len(other.take(10)) == 4
    assert other.take(10) == []
    assert (dead.have_others(), dead.are_left()) == (True, True)
    mine = run.items.filter(claim=dead._token)
    mine.update(claimed_until=timezone.now() - timedelta(seconds=1))
    first, second = mine.order_by("pk")
    mine.filter(pk=second.pk).update(tries=claims.MOST_TRIES)
    (taken,) = other.take(10)
    assert (taken.pk, taken.tries) == (first.pk, 2)
    second.refresh_from_db()
    assert (second.state, second.error, second.text) == ("failed", "abandoned", "")
    # Who comes back has nothing any more.
    dead.finish([(first.pk, claims.Done("warmed", 1))])
    dead.give_back([first.pk])
    dead.renew([first.pk])
    first.refresh_from_db()
    assert (first.state, first.claim) == ("claimed", other._token)
    other.give_back(run.items.values_list("pk", flat=True))
    assert (work(run.uid).warmed, work(run.uid).failed) == (5, 1)


def test_a_rate_holds_whoever_draws(provider: Sandbox, clock: MovedClock) -> None:
    run = prepared(per_minute=120)
    began = process.current().clock.wall()

    def wall() -> float:
        # It stands still between a draw and the note of it.
        return began + clock.ahead

    one, other = (Purse(run, "default", wall) for _ in range(2))
    drawn: list[float] = []
    while wall() < run.made_at.timestamp() + 180:
        found = (one, other)[len(drawn) % 2].draw(5)
        assert found.outcome == ("drawn" if found.permits else "paced")
        drawn += [wall()] * found.permits
        # Who asks a little too early gets nothing.
        clock.move(found.wait_seconds * 0.6)
    most = max(sum(start <= at < start + 60 for at in drawn) for start in drawn)
    assert most <= 120
    assert len(drawn) >= 330


def test_who_draws_at_the_same_moment_gets_what_is_left(provider: Sandbox) -> None:
    wall = process.current().clock.wall

    class Late(Purse):
        """Another process draws between its look and its update."""

        def _take(self, run: WarmingRun, *given: Any) -> bool:
            Purse(run, "default", wall).draw(1)
            return super()._take(run, *given)

    for limit, found in (({"max_calls": 1}, "exhausted"), ({"per_minute": 1}, "paced"), ({"max_usd": 1}, "exhausted")):
        run = prepared(**limit)
        if "max_usd" in limit:
            WarmingRun.objects.filter(pk=run.pk).update(permit_pico_usd=10**12)
        assert Late(run, "default", wall).draw(1).outcome == found
        run.refresh_from_db()
        assert run.permits == 1


def test_a_plan_is_run_by_its_source_one_run_at_a_time(provider: Sandbox) -> None:
    plan = WarmingPlan.objects.create(name="nightly", source="all persons", kind="person", max_calls=4, most=5)
    told = plans.run_plan(plan.pk, dry_run=True)
    assert (told.items, told.to_ask, provider.received) == (5, 5, 0)
    first = plans.run_plan(plan, made_by="ada")
    assert (first.plan, first.made_by, first.max_calls, first.items_count) == (plan, "ada", 4, 5)
    with pytest.raises(llmcache.InvalidRequest, match="A run of this plan is going on"):
        plans.run_plan(plan)
    assert WarmingRun.objects.count() == 1
    assert work(first.uid).state == "exhausted"
    # One that its budget has ended makes room, and its texts go.
    second = plans.run_plan(plan)
    assert runs.progress(first.uid).state == "cancelled"
    assert (work(second.uid).state, runs.progress(second.uid).live) == ("done", 4)
    assert outcomes(tags=["staff"])["Ada"] == "warming"
    # One whose process died while it was prepared does not stand in the way for ever.
    third = plans.run_plan(plan)
    WarmingRun.objects.filter(pk=third.pk).update(state="preparing")
    with pytest.raises(llmcache.InvalidRequest, match="going on"):
        plans.run_plan(plan)
    WarmingRun.objects.filter(pk=third.pk).update(seen_at=timezone.now() - timedelta(minutes=11))
    fourth = plans.run_plan(plan)
    assert (work(fourth.uid).state, runs.progress(third.uid).state) == ("done", "cancelled")
    plan.source, plan.texts, plan.most, plan.tags = "texts", "Ada\n\n  Grace \nAda", None, ["board"]
    plan.save()
    fifth = plans.run_plan(plan)
    assert (fifth.items_count, fifth.duplicates, work(fifth.uid).warmed) == (2, 1, 2)
    for wrong, says in (
        ({"source": "os.system"}, "no source 'os.system'"),
        ({"kind": "gone"}, "names no response type"),
    ):
        WarmingPlan.objects.filter(pk=plan.pk).update(**{"source": "texts", "kind": "person", **wrong})
        with pytest.raises(llmcache.ConfigurationError, match=says):
            plans.run_plan(plan)
    with pytest.raises(llmcache.InvalidRequest, match="no such plan"):
        plans.run_plan(-1)


def test_a_plan_is_due_by_its_crontab_for_one_who_asks(provider: Sandbox) -> None:
    moment = timezone.now().replace(hour=12, minute=0, second=30, microsecond=0)
    common = {"source": "texts", "texts": "Ada", "kind": "person", "made_at": moment - timedelta(hours=3)}
    hourly = WarmingPlan.objects.create(name="hourly", crontab="0 * * * *", **common)
    WarmingPlan.objects.create(name="off", crontab="0 * * * *", enabled=False, **common)
    WarmingPlan.objects.create(name="by hand", **common)
    WarmingPlan.objects.create(name="wrong", crontab="0 25 * * *", **common)
    WarmingPlan.objects.create(name="never", crontab="0 0 1 1 *", **common)
    assert [plan.name for plan in plans.due_plans(moment)] == ["hourly"]
    assert plans.due_plans(moment) == []
    assert plans.due_plans(moment + timedelta(minutes=58)) == []
    assert plans.next_due(hourly, moment) is not None
    stale = WarmingPlan.objects.get(pk=hourly.pk)
    assert [plan.name for plan in plans.due_plans(moment + timedelta(hours=1))] == ["hourly"]
    # Another process that had looked a moment before.
    same = WarmingPlan.objects.filter(pk=hourly.pk, due_at=stale.due_at)
    assert same.update(due_at=moment) == 0


def test_a_queryset_and_what_texts_may_say(provider: Sandbox) -> None:
    for name in NAMES[:3]:
        WarmingPlan.objects.create(name=name, source="texts", kind="person", texts=name if name != "Ada" else "")
    named = list(sources.from_queryset(WarmingPlan.objects.order_by("name"), "texts"))
    assert [text.content for text in named] == ["Barbara", "Donald"]
    made = sources.from_queryset(
        WarmingPlan.objects.order_by("name"), lambda plan: {"content": plan.name, "tenant": "acme", "variant": 2}
    )
    done = llmcache.warm(made, Person, system="Read it.", tags=["a"], max_calls=10)
    assert (done.state, done.warmed) == ("done", 3)
    options: Any = {"tenant": "acme", "variant": 2, "system": "Read it.", "tags": ["a"], "cache": "only"}
    assert llmcache.extract("Ada", Person, **options) == Person(name="Ada")
    assert not WarmingRun.objects.exclude(system="").exists()


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (5, "Item 2: An item must be a text, or a dict"),
        ("", "Item 2: content= is empty"),
        ({"text": "secret"}, "Item 2: An item has the unknown name 'text'"),
        ({"tenant": "acme"}, "Item 2: An item has no 'content'"),
        ({"content": "secret", "tags": "secret"}, "Item 2: tags= must be a list"),
        ({"content": "secret", "params": {"a": object()}}, "Item 2: params= is no JSON"),
        ({"content": "secret", "params": {"stream": True}}, "Item 2: stream= cannot be passed"),
        ({"content": "secret", "variant": 1.5}, "Item 2: variant= must be"),
        ("\ud800", "Item 2: content= has a lone surrogate"),
    ],
    ids=["number", "empty", "unknown", "no content", "tags", "params", "stream", "variant", "surrogate"],
)
def test_items_that_cannot_be_asked(item: Any, says: str, provider: Sandbox) -> None:
    with pytest.raises(llmcache.InvalidRequest) as caught:
        llmcache.warm(["Ada", item], kind="person")
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)
    assert (provider.received, WarmingRun.objects.count(), WarmingItem.objects.count()) == (0, 0, 0)


def test_arguments_that_cannot_be_used(provider: Sandbox) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"max_usd": -1}, "max_usd="),
        ({"max_usd": "a lot"}, "max_usd="),
        ({"max_calls": 1.5}, "max_calls="),
        ({"per_minute": 0}, "per_minute="),
        ({"concurrency": 1_000}, "concurrency="),
        ({"ttl": 0}, "where nothing is kept: ttl= is 0"),
        ({"kind": None}, "needs response_model="),
        ({"kind": "gone"}, "KINDS"),
    ]
    for options, says in wrong:
        with pytest.raises(llmcache.LLMCacheError) as caught:
            llmcache.warm(["Ada"], **{"kind": "person", **options})
        assert says in str(caught.value)
    with llmcache.bypass(), pytest.raises(llmcache.InvalidRequest, match="where nothing is kept"):
        llmcache.warm(["Ada"], kind="person")
    with pytest.raises(llmcache.InvalidRequest, match="no run of warming with this id"):
        work("gone")
    assert (provider.received, WarmingRun.objects.count()) == (0, 0)


def test_a_run_is_for_the_tenant_that_the_settings_tell_when_it_is_prepared(provider: Sandbox) -> None:
    tell: list[Callable[[], str | None]] = [lambda: "acme"]
    with llmcache_settings(TENANT=lambda: tell[0](), TENANT_REQUIRED=True, KINDS={"person": {"type": Person}}):
        run = prepared("Ada", WarmingText("Grace", tenant="globex"))
        tell[0] = lambda: None
        with pytest.raises(llmcache.TenantMissing, match="Item 1: "):
            prepared("Donald")
        assert work(run.uid).warmed == 2
        assert llmcache.extract("Ada", Person, kind="person", tenant="acme", cache="only").name == "Ada"
        assert llmcache.extract("Grace", Person, kind="person", tenant="globex", cache="only").name == "Grace"


def test_awaited(provider: Sandbox) -> None:
    done = async_to_sync(llmcache.awarm)(["Ada", "Grace"], kind="person")
    assert (done.state, done.warmed) == ("done", 2)

    provider.hold()

    async def gives_up() -> None:
        waits = asyncio.ensure_future(llmcache.awarm(NAMES, kind="person", concurrency=1))
        while provider.received < 3:
            await asyncio.sleep(0.01)
        waits.cancel()
        provider.release()
        with pytest.raises(asyncio.CancelledError):
            await waits

    async_to_sync(gives_up)()
    stopped = runs.progress(WarmingRun.objects.latest("pk").uid)
    # What was under way is kept, and the rest is left.
    assert (stopped.state, stopped.live, stopped.warmed, stopped.to_ask) == ("running", 2, 1, 3)

    async def in_a_loop() -> None:
        llmcache.warm(["Ada"], kind="person")

    with pytest.raises(llmcache.AsyncContext, match="awarm"):
        asyncio.run(in_a_loop())


def test_runs_that_nobody_works_at_are_found(provider: Sandbox) -> None:
    left, broken_off, fresh = prepared(), prepared(), prepared()
    before = timezone.now() - timedelta(minutes=11)
    WarmingRun.objects.filter(pk=left.pk).update(seen_at=before)
    WarmingRun.objects.filter(pk=broken_off.pk).update(seen_at=before, state="preparing")
    assert runs.unseen() == [left.uid]
    assert [runs.progress(each.uid).state for each in (left, broken_off, fresh)] == ["running", "cancelled", "running"]
    assert not broken_off.items.exclude(text="").exists()
    work(left.uid)
    assert runs.unseen() == []


def test_what_is_corrected_is_there(provider: Sandbox) -> None:
    from llmcache import corrections

    key = llmcache.extract_with_info("Ada", Person, kind="person").key
    llmcache.flush()
    corrections.correct(key, Person(name="Augusta").model_dump_json(), user="ada")
    done = llmcache.warm(["Ada"], kind="person")
    assert (done.live, done.warmed, provider.received) == (1, 0, 1)
    llmcache.invalidate(kind="person")
    text = replace(WarmingText("Grace"), anew=True)
    assert llmcache.warm([text, "Grace"], kind="person").warmed == 1


@pytest.mark.parametrize(
    ("value", "which", "says"),
    [
        (["a"], "E002", "must be a dict of names to functions"),
        ({"misses": all_persons}, "E002", "is a source of every project"),
        ({"a": "no path"}, "E002", "must be a function without arguments"),
        ({"": all_persons}, "E002", "no str of 1 to 200"),
        ({"a": "tests.flows.gone"}, "E011", "cannot be imported"),
        ({"a": "tests.flows.test_warming.NAMES"}, "E011", "is not a plain function"),
        ({"a": "tests.flows.test_warming.all_persons"}, "", ""),
    ],
    ids=["list", "own name", "no path", "no name", "gone", "no function", "good"],
)
def test_sources_that_cannot_be(value: Any, which: str, says: str, sandbox: Sandbox) -> None:
    with llmcache_settings(WARMING=value):
        found = [each for each in check_llmcache() if "WARMING" in each.msg]
        assert [each.id for each in found] == ([f"llmcache.{which}"] if which else [])
        assert all(says in each.msg for each in found)
