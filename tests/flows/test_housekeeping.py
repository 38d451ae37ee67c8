"""House-keeping: rows of entries that follow the invalidation log, old rows that go, and the command for cron."""

import json
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib import import_module
from io import StringIO
from typing import Any

import django
import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pydantic import BaseModel

import llmcache
from llmcache import corrections, housekeeping, marking, pruning
from llmcache.engine import process
from llmcache.models import (
    CacheEntry,
    EntryTag,
    Invalidation,
    Lease,
    PlannedInvalidation,
    ProviderCall,
    TenantDay,
    UsageBucket,
    WarmingPlan,
    WarmingRun,
)
from llmcache.testing.sandbox import Sandbox
from llmcache.warming import plans
from tests.conftest import llmcache_settings

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)


class Person(BaseModel):
    """A person."""

    name: str


@pytest.fixture(autouse=True)
def provider(sandbox: Sandbox) -> Iterator[Sandbox]:
    sandbox.answers.update({name: {"name": name} for name in ("Ada", "Eve", "Bob")})
    with llmcache_settings(KINDS={"Person": {"type": f"{__name__}.Person"}}):
        yield sandbox


def entry(text: str = "Ada", **options: Any) -> CacheEntry:
    """Return the row of an answer that was asked for and stored."""
    key = llmcache.extract_with_info(text, Person, **options).key
    assert llmcache.flush()
    return CacheEntry.objects.get(key=key)


def tell() -> int:
    return marking.tell_entries(process.current(), 30.0)


def void() -> dict[str, str]:
    """Return what rows say, by their key."""
    return dict(CacheEntry.objects.exclude(void_by="").values_list("key", "void_by"))


# -- rows of entries


@pytest.mark.parametrize(
    "conditions",
    [
        {"kind": "Person"},
        {"tenant": "acme"},
        {"tag": "vip"},
        {"subject": "ann"},
        {"model": "openai/gpt-5"},
        {"response_model": "Person"},
        {"everything": True},
        {"tenant": "acme", "tag": "vip", "kind": "Person"},
    ],
    ids=lambda conditions: "-".join(sorted(conditions)),
)
def test_rows_follow_an_invalidation_and_its_undo(conditions: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces so small that each condition takes several."""
    monkeypatch.setattr(marking, "AT_A_TIME", 2)
    options: dict[str, Any] = {"tenant": "acme", "tags": ["vip"], "subject": "ann", "model": "openai/gpt-5"}
    mine = {entry(text, **options).key for text in ("Ada", "Eve", "Bob")}
    other = entry("Ada", kind="other", tenant="shop") if "response_model" not in conditions else None
    assert tell() == 0
    made = llmcache.invalidate(**conditions)
    all_of_them = mine | ({other.key} if other is not None and "everything" in conditions else set[str]())
    assert tell() == len(all_of_them)
    assert void() == dict.fromkeys(all_of_them, made.id)
    assert tell() == 0
    assert not Invalidation.objects.filter(to_tell=True).exists()
    # What is written anew is valid.
    again = entry("Ada", **options)
    assert void() == dict.fromkeys(all_of_them - {again.key}, made.id)
    assert llmcache.undo(made)
    assert tell() == len(all_of_them) - 1
    assert void() == {}
    assert not Invalidation.objects.filter(to_tell=True).exists()


def test_what_others_make_and_undo_meanwhile_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of entries are told for seconds, in which this process hears of nothing: once told, nobody looks again."""
    first, second = entry("Ada", kind="first"), entry("Eve", kind="second")
    undone = llmcache.invalidate(kind="first")
    assert tell() == 1
    llmcache.invalidate(kind="third")
    tell_some, made = marking._tell_some, "ab" * 16

    def told(*given: Any) -> Any:
        if not Invalidation.objects.filter(uid=made).exists():
            # By another process: this one is not told.
            namespace = first.namespace
            Invalidation.objects.create(uid=made, namespace=namespace, kind="second", made_at=timezone.now())
            Invalidation.objects.filter(uid=undone.id).update(active=False, to_tell=True)
        return tell_some(*given)

    monkeypatch.setattr(marking, "_tell_some", told)
    assert tell() == 2
    assert void() == {second.key: made}
    assert not Invalidation.objects.filter(to_tell=True).exists()


def test_where_one_is_undone_the_others_still_hold() -> None:
    key = entry(tags=["a", "b"]).key
    first, second = llmcache.invalidate(tag="a"), llmcache.invalidate(tag="b")
    assert tell() == 1
    assert void() == {key: second.id}
    llmcache.undo(second)
    assert tell() == 1
    assert void() == {key: first.id}
    llmcache.undo(first)
    tell()
    assert void() == {}


def test_an_undo_that_comes_before_the_rows_were_told() -> None:
    entry()
    made = llmcache.invalidate(everything=True)
    llmcache.undo(made)
    assert tell() == 0
    assert not Invalidation.objects.filter(to_tell=True).exists()


def test_a_correction_stands_for_its_entry() -> None:
    key = entry().key
    llmcache.invalidate(kind="Person")
    tell()
    corrections.correct(key, '{"name": "Countess"}')
    tell()
    assert void() == {}
    assert llmcache.extract("Ada", Person).name == "Countess"


def test_a_correction_that_is_withdrawn_leaves_its_entry_void() -> None:
    key = entry().key
    first, second = (corrections.correct(key, f'{{"name": "{name}"}}') for name in ("Countess", "Augusta"))
    assert tell() == 0
    assert corrections.withdraw(second)
    # The one before it stands again.
    assert (tell(), void()) == (0, {})
    assert corrections.withdraw(first)
    assert (tell(), set(void())) == (1, {key})
    assert not Invalidation.objects.filter(to_tell=True).exists()


def test_it_stops_when_its_time_is_over_and_goes_on_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marking, "AT_A_TIME", 1)
    for text in ("Ada", "Eve", "Bob"):
        entry(text)
    llmcache.invalidate(kind="Person")
    told = [marking.tell_entries(process.current(), 0.0) for _ in range(5)]
    assert told == [1, 1, 1, 0, 0]
    assert len(void()) == 3


def test_each_piece_costs_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins where the piece before has ended, by an index, and never at the beginning."""
    monkeypatch.setattr(marking, "AT_A_TIME", 2)
    for text in ("Ada", "Eve", "Bob"):
        for tenant in ("a", "b", "c"):
            entry(text, tenant=tenant, tags=["t"])
    changes: list[Callable[[], Any]] = [
        lambda: llmcache.invalidate(kind="Person"),
        lambda: llmcache.invalidate(tag="t"),
        lambda: llmcache.invalidate(everything=True),
        lambda: llmcache.undo(Invalidation.objects.latest("pk")),
    ]
    for change in changes:
        change()
        with CaptureQueriesContext(connection) as captured:
            tell()
        looks = [each["sql"] for each in captured.captured_queries if "LIMIT 2" in each["sql"]]
        assert len(looks) == 5
        for sql in looks:
            with connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN QUERY PLAN {sql}")
                plan = " ".join(str(row[-1]) for row in cursor.fetchall())
            assert "SCAN" not in plan
            assert "USING" in plan


def test_entries_of_one_moment_are_all_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marking, "AT_A_TIME", 2)
    for tenant in ("a", "b", "c", "d", "e"):
        entry(tenant=tenant)
    CacheEntry.objects.update(written_at=timezone.now() - DAY)
    llmcache.invalidate(kind="Person")
    assert tell() == 5


def test_what_is_written_anew_meanwhile_is_not_marked() -> None:
    row = entry()
    llmcache.invalidate(kind="Person")
    CacheEntry.objects.update(written_at=timezone.now())
    assert marking._mark(process.current(), [row]) == 0
    assert void() == {}


def test_what_another_process_has_undone_is_known() -> None:
    entry()
    llmcache.invalidate(kind="Person")
    assert tell() == 1
    Invalidation.objects.update(active=False, to_tell=True)
    assert tell() == 1
    assert void() == {}


# -- old rows


def test_rows_are_kept_as_long_as_retention_says() -> None:
    now, namespace = timezone.now(), process.current().namespace
    kept = {"calls": 30 * DAY, "entries": 30 * DAY, "hours": 30 * DAY, "runs": 30 * DAY}
    young = entry("Ada", tags=["t"])
    shared = {"namespace": namespace, "size_bytes": 1, "latency_ms": 1, "attempts": 1, "source": "provider"}
    for number, (written, expires, stale) in enumerate(
        ((50, 40, None), (50, 40, 10), (50, None, None), (500, None, None))
    ):
        made = CacheEntry.objects.create(
            key=f"{number:064x}",
            written_at=now - written * DAY,
            expires_at=None if expires is None else now - expires * DAY,
            stale_until=None if stale is None else now - stale * DAY,
            **shared,
        )
        EntryTag.objects.create(entry=made, tag="t")
    for days in (29, 31):
        at = now - days * DAY
        for outcome in ("answered", "under_way"):
            facts = {"attempt": 1, "to_store": True, "batch": 1, "outcome": outcome, "started_at": at}
            ProviderCall.objects.create(call_id=uuid.uuid4(), **facts)
        UsageBucket.objects.create(hour=at, kind="old", model="m", outcome="hit")
        TenantDay.objects.create(day=at.date(), tenant="old", outcome="hit")
        WarmingRun.objects.create(uid=f"{days:032x}", namespace=namespace, state="done", made_at=at, ended_at=at)
        Lease.objects.create(name=f"{days}", token="t", until=at)
    PlannedInvalidation.objects.create(
        uid="0" * 32, namespace=namespace, due_at=now - 401 * DAY, made_at=now - 402 * DAY, is_open=False
    )
    # Without the setting all of it stays, but leases that nobody holds, and plans as old as the log.
    gone = pruning.prune_rows(process.current(), 30.0)
    assert {name: count for name, count in gone.items() if count} == {"leases": 2, "planned_invalidations": 1}
    with llmcache_settings(RETENTION=kept):
        gone = pruning.prune_rows(process.current(), 30.0)
    wanted = {"calls": 1, "entries": 1, "endless_entries": 1, "hours": 1, "days": 1, "runs": 1}
    assert {name: count for name, count in gone.items() if count} == wanted
    assert {each.key for each in CacheEntry.objects.all()} == {young.key, f"{1:064x}", f"{2:064x}"}
    assert EntryTag.objects.count() == 3


@pytest.mark.parametrize("name", ["calls", "entries", "hours", "runs"])
def test_forever_is_none(name: str) -> None:
    with llmcache_settings(RETENTION={name: None}):
        assert process.current().settings.retention[name] == float("inf")


def test_invalidations_are_not_kept_for_ever() -> None:
    with llmcache_settings(RETENTION={"invalidations": None}), pytest.raises(llmcache.ConfigurationError):
        process.current()


# -- all of it


def command(*arguments: str) -> str:
    out = StringIO()
    call_command("llmcache_housekeep", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_does_all_steps_and_says_so() -> None:
    entry()
    made = llmcache.invalidate(kind="Person", at=timezone.now() + DAY)
    PlannedInvalidation.objects.update(due_at=timezone.now())
    told = json.loads(command("--json"))
    assert told["failed"] == {}
    assert told["done"]["planned_invalidations"] == 1
    assert told["done"]["entries_told"] == 1
    assert set(told["done"]) == set(housekeeping.STEPS)
    assert list(void().values()) == [made.id]
    assert "planned_invalidations: 0\n" in command()


def test_without_workers_it_warms_itself(provider: Sandbox) -> None:
    """A plan that is due is prepared, and a run at which nobody works is worked at."""
    made_at = timezone.now() - timedelta(minutes=2)
    options: dict[str, Any] = {"source": "texts", "kind": "Person", "crontab": "* * * * *", "made_at": made_at}
    WarmingPlan.objects.create(name="names", texts="Ada\nEve", **options)
    assert json.loads(command("--json"))["done"]["due_plans"] == 1
    assert provider.calls == 0
    WarmingRun.objects.update(seen_at=timezone.now() - timedelta(hours=1))
    assert json.loads(command("--json"))["done"]["stalled_runs"] == 1
    assert (provider.calls, WarmingRun.objects.get().state) == (2, "done")
    assert json.loads(command("--json"))["done"]["stalled_runs"] == 0


def test_with_workers_it_tells_them(provider: Sandbox) -> None:
    made_at = timezone.now() - timedelta(minutes=2)
    options: dict[str, Any] = {"source": "texts", "kind": "Person", "crontab": "* * * * *", "made_at": made_at}
    plan = WarmingPlan.objects.create(name="names", texts="Ada", **options)
    told: list[tuple[str, str | int]] = []

    def send(name: str, about: str | int) -> bool:
        told.append((name, about))
        return name == "run_plan"

    assert housekeeping.keep_house(send=send).done["due_plans"] == 1
    assert (told, WarmingRun.objects.count()) == ([("run_plan", plan.pk)], 0)
    run = plans.run_plan(plan)
    WarmingRun.objects.update(seen_at=timezone.now() - timedelta(hours=1))
    # Whom it cannot tell, it does the work of.
    housekeeping.keep_house(send=send)
    assert told[1:] == [("work_on_run", run.uid)]
    assert provider.calls == 1


def test_a_plan_that_cannot_be_run_is_told_and_holds_up_no_other(provider: Sandbox) -> None:
    made_at = timezone.now() - timedelta(minutes=2)
    options: dict[str, Any] = {"source": "texts", "crontab": "* * * * *", "made_at": made_at, "texts": "Ada"}
    WarmingPlan.objects.create(name="a", kind="unknown", **options)
    WarmingPlan.objects.create(name="b", kind="Person", **options)
    house = housekeeping.keep_house()
    assert "'unknown'" in house.failed["due_plans"]
    assert [run.kind for run in WarmingRun.objects.all()] == ["Person"]


def test_a_step_that_fails_holds_up_no_other_and_ends_the_command_with_1() -> None:
    entry()
    llmcache.invalidate(kind="Person")
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE llmcache_plannedinvalidation RENAME TO gone")
    out = StringIO()
    with pytest.raises(CommandError) as caught:
        call_command("llmcache_housekeep", "--json", stdout=out)
    assert caught.value.returncode == 1
    told = json.loads(out.getvalue())
    assert told["failed"]["planned_invalidations"] == "OperationalError"
    assert told["done"]["entries_told"] == 1


def test_djangos_own_tasks_are_there_where_django_has_them(provider: Sandbox) -> None:
    if django.VERSION < (6, 0):
        with pytest.raises(ModuleNotFoundError, match=r"django\.tasks"):
            import_module("llmcache.django_tasks")
        return
    entry()
    llmcache.invalidate(kind="Person")
    tasks = import_module("llmcache.django_tasks")
    assert tasks.keep_house.enqueue().status == "SUCCESSFUL"
    assert len(void()) == 1
    plan = WarmingPlan.objects.create(
        name="names", source="texts", texts="Eve\nBob", kind="Person", max_calls=1, concurrency=1
    )
    assert tasks.run_plan.enqueue(plan.pk).status == "SUCCESSFUL"
    assert (WarmingRun.objects.get().state, provider.calls) == ("exhausted", 2)
    WarmingRun.objects.update(max_calls=2, state="running")
    assert tasks.work_on_run.enqueue(WarmingRun.objects.get().uid).status == "SUCCESSFUL"
    assert (WarmingRun.objects.get().state, provider.calls) == ("done", 3)
    refused = tasks.run_plan.enqueue(999)
    assert (refused.status, refused.errors[0].exception_class) == ("FAILED", llmcache.InvalidRequest)


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_what_is_no_time_is_refused(seconds: str) -> None:
    with pytest.raises(CommandError) as caught:
        command("--seconds", seconds)
    assert caught.value.returncode == 2
