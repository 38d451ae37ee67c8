"""What people do to the invalidation log that nobody had in mind: it ends with a sentence, or with nothing."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pydantic import BaseModel
from pytest_django import DjangoDbBlocker

import llmcache
from llmcache import conf, invalidation
from llmcache.admin_pages import columns
from llmcache.clock import Clock
from llmcache.engine import isolation, process
from llmcache.engine.runtime import Runtime
from llmcache.envelope import MAX_SEEN
from llmcache.invalidation_rows import note_that_one_was_made
from llmcache.models import CacheEntry, EntryTag, Invalidation
from llmcache.testing.sandbox import Sandbox
from tests.conftest import llmcache_settings
from tests.ledgers import ALIAS, known
from tests.web.page import Page

HOUR = 3_600.0
YEAR = 365 * 24 * HOUR


class Person(BaseModel):
    """A person."""

    name: str


@pytest.fixture(autouse=True)
def provider(sandbox: Sandbox) -> Sandbox:
    for name in ("Ada", "Eve"):
        sandbox.answers[name] = {"name": name}
    return sandbox


def ask(text: str = "Ada", **options: Any) -> str:
    """Return the outcome of a call."""
    return llmcache.extract_with_info(text, Person, **options).outcome


def told(**conditions: Any) -> tuple[int | None, bool]:
    """Return how many entries a dry run says, and whether there may be more."""
    found = llmcache.invalidate(**conditions, dry_run=True)
    return found.entries, found.more


# Conditions that nothing meets


@pytest.mark.django_db
def test_a_tag_that_nobody_has_used_is_about_nothing() -> None:
    assert ask(tags=["vip"]) == "miss"
    assert told(tag="vipp") == (0, False)
    made = llmcache.invalidate(tag="vipp")
    assert ask(tags=["vip"]) == "hit"
    # It holds for what gets the tag later, unless that was asked for with it in sight.
    assert [ask(tags=["vipp"]), ask(tags=["vipp"])] == ["miss", "hit"]
    assert llmcache.undo(made) is True


@pytest.mark.django_db
def test_conditions_that_exclude_each_other_are_about_nothing() -> None:
    key = llmcache.extract_with_info("Ada", Person, tenant="acme").key
    for conditions in (
        {"key": key, "tenant": "globex"},
        {"key": key, "kind": "Order"},
        {"kind": "a", "tenant": "acme"},
    ):
        assert told(**conditions) == (0, False)
        llmcache.invalidate(**conditions)
    assert ask(tenant="acme") == "hit"
    assert told(key=key, tenant="acme") == (1, False)


# Very many entries


def fill(using: str, count: int) -> None:
    """Make so many entries, of two kinds, types, models, tenants and subjects, half of them with a tag."""
    at, namespace = timezone.now(), process.current().namespace
    made = CacheEntry.objects.using(using).bulk_create(
        CacheEntry(
            namespace=namespace, key=f"{number:064x}", kind=f"kind {number % 2}", response_type=f"Type{number % 2}",
            model=f"a/{number % 2}", tenant=f"tenant {number % 2}", schema="0" * 64, written_at=at, size_bytes=1,
            latency_ms=1, attempts=1, cost_pico_usd=10**12, subject_hash=subject() if number % 2 else "",
        )
        for number in range(count)
    )  # fmt: skip
    EntryTag.objects.using(using).bulk_create(EntryTag(entry=entry, tag="odd") for entry in made[1::2])


def subject() -> str:
    return process.current().seals[0].subject_hash("Ada")


ONE_KEY = f"{3:064x}"
CONDITIONS: dict[str, tuple[dict[str, Any], str]] = {
    # What is asked for, and the index that finds it.
    "kind": ({"kind": "kind 1"}, "llmcache_entry_kind"),
    "model": ({"model": "a/1"}, "llmcache_entry_model"),
    "tenant": ({"tenant": "tenant 1"}, "llmcache_entry_tenant"),
    "tag": ({"tag": "odd"}, "llmcache_tag_entry"),
    "kind and tag": ({"kind": "kind 1", "tag": "odd"}, "llmcache_tag_entry"),
    "key": ({"key": ONE_KEY}, "(key=? AND namespace=?)"),
    "type": ({"response_model": "Type1"}, "written_at"),
    "subject": ({"subject": "Ada"}, "written_at"),
    "everything": ({"everything": True}, "written_at"),
}


@pytest.mark.parametrize("asked", CONDITIONS)
def test_a_dry_run_looks_at_so_many_rows_and_at_no_more(
    asked: str, ledger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    conditions, index = CONDITIONS[asked]
    fill(ledger, 100)
    whole = 1 if asked == "key" else 100 if asked == "everything" else 50
    found = llmcache.invalidate(**conditions, dry_run=True)
    assert (found.entries, found.cost_usd, found.more) == (whole, whole, False)
    monkeypatch.setattr(invalidation, "MOST_LOOKED_AT", 20)
    with CaptureQueriesContext(connections[ledger]) as captured:
        found = llmcache.invalidate(**conditions, dry_run=True)
    # Of what no index finds some of the rows that were looked at are meant: half of them here, as they were written.
    least, most = (1, 1) if asked == "key" else (0, 21) if asked in ("type", "subject") else (21, 21)
    assert found.entries is not None
    assert least <= found.entries <= most
    assert (found.cost_usd, found.more) == (found.entries, asked != "key")
    statement = next(each["sql"] for each in captured.captured_queries if "COUNT(" in each["sql"])
    assert "LIMIT 21" in statement
    if ledger == "default":
        # PostgreSQL goes by what it knows of the rows, and takes others for so few.
        found_by = plan(statement)
        assert index in found_by
        assert "TEMP B-TREE" not in found_by


def plan(statement: str) -> str:
    """Return how SQLite carries out a statement."""
    with connection.cursor() as cursor:
        cursor.execute("EXPLAIN QUERY PLAN " + statement)
        return " ".join(str(row[-1]) for row in cursor.fetchall())


@pytest.mark.django_db
def test_the_admin_says_that_there_may_be_more(admin_client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fill("default", 60)

    def preview() -> dict[str, str]:
        response = admin_client.post("/admin/llmcache/invalidation/add/", {"kind": "kind 1", "preview": "1"})
        return Page(response.content.decode()).facts

    assert preview()["Entries"].startswith("30 ")
    monkeypatch.setattr(invalidation, "MOST_LOOKED_AT", 20)
    assert preview()["Entries"].startswith("at least 21 ")
    assert preview()["What they have cost"].startswith("at least $21.00 ")
    CacheEntry.objects.update(cost_pico_usd=None)
    assert preview()["What they have cost"].startswith(f"{columns.UNKNOWN} ")


# Undoing


@pytest.mark.django_db
def test_an_undo_that_was_rolled_back_can_be_done_again() -> None:
    ask()
    made = llmcache.invalidate(kind="Person")
    with transaction.atomic():
        assert llmcache.undo(made) is True
        # In the same transaction it is the second time.
        assert llmcache.undo(made) is False
        assert ask() == "hit"
        transaction.set_rollback(True)
    assert ask() == "miss"
    assert [llmcache.undo(made), llmcache.undo(made)] == [True, False]


@pytest.mark.django_db
def test_an_undo_after_pruning_says_that_it_is_gone() -> None:
    ask()
    made = llmcache.invalidate(tag="vip")
    row = Invalidation.objects.get()
    Invalidation.objects.all().delete()
    for which in (made, made.id, row):
        with pytest.raises(llmcache.InvalidRequest, match=r"^There is no invalidation with this id: it was pruned"):
            llmcache.undo(which)
    assert ask() == "hit"


# The clock


class TimeOfDay:
    """A clock whose time of day is set, while the seconds go on as they do."""

    def __init__(self) -> None:
        self.set_by = 0.0
        clock = Clock(wall=lambda: time.time() + self.set_by)
        process.install(Runtime(conf.current(), clock=clock, test=isolation.current_test()))


@pytest.fixture
def time_of_day(provider: Sandbox) -> Iterator[TimeOfDay]:
    yield TimeOfDay()
    process.install(None)


@pytest.mark.django_db
@pytest.mark.parametrize("back", [HOUR, YEAR])
def test_a_clock_that_is_set_back_brings_no_answer_back(time_of_day: TimeOfDay, back: float) -> None:
    """Whether an answer has seen a row does not go by times."""
    assert [ask("Ada", ttl=None), ask("Eve", ttl=None)] == ["miss", "miss"]
    llmcache.invalidate(kind="Person")
    time_of_day.set_by = -back
    assert [ask("Ada", ttl=None), ask("Ada", ttl=None)] == ["miss", "hit"]
    second = llmcache.invalidate(kind="Person")
    assert [ask("Ada", ttl=None), ask("Ada", ttl=None), ask("Eve", ttl=None)] == ["miss", "hit", "miss"]
    time_of_day.set_by = 0.0
    assert [ask("Ada", ttl=None), ask("Eve", ttl=None)] == ["hit", "hit"]
    assert llmcache.undo(second) is True


# Transactions


@pytest.mark.django_db
def test_of_savepoints_those_that_last_hold() -> None:
    def asked() -> list[str]:
        return [ask(tags=["outer"]), ask("Eve", tags=["inner"])]

    asked()
    with transaction.atomic():
        llmcache.invalidate(tag="outer")
        try:
            with transaction.atomic():
                with transaction.atomic():
                    llmcache.invalidate(tag="inner")
                assert asked() == ["miss", "miss"]
                raise LookupError
        except LookupError:
            pass
        # The inner one was released before the one round it was rolled back.
        assert asked() == ["hit", "hit"]
    assert asked() == ["hit", "hit"]
    assert Invalidation.objects.values_list("tag", flat=True).get() == "outer"


@pytest.fixture
def shop(postgresql_tables: dict[str, Any], django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    """The name space of a project on PostgreSQL that commits what it does, and reads the log at each call."""
    with django_db_blocker.unblock(), known(postgresql_tables):
        with llmcache_settings(DATABASE=ALIAS, RECHECK=0):
            process.install(None)
            yield process.current().namespace
            Invalidation.objects.using(ALIAS).filter(namespace=process.current().namespace).delete()
        process.install(None)


def in_thread(work: Callable[[], object]) -> threading.Thread:
    def run() -> None:
        try:
            work()
        finally:
            connections[ALIAS].close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_rows_that_are_committed_out_of_their_order_are_all_seen(shop: str) -> None:
    """Three rows, of which those with lower numbers are committed after the one with the highest."""
    assert [ask(tags=["one"]), ask("Eve", tags=["two"])] == ["miss", "miss"]
    note_that_one_was_made(shop)
    written, commit = [threading.Event(), threading.Event()], [threading.Event(), threading.Event()]

    def late(place: int, tag: str) -> None:
        with transaction.atomic(using=ALIAS):
            row = Invalidation(uid=f"{place:032x}", namespace=shop, tag=tag, made_at=timezone.now())
            row.save(using=ALIAS, force_insert=True)
            written[place].set()
            assert commit[place].wait(60)

    threads = []
    for place, tag in enumerate(("one", "two")):
        threads.append(in_thread(lambda place=place, tag=tag: late(place, tag)))  # type: ignore[misc]
        assert written[place].wait(60)
    highest = llmcache.invalidate(tag="three")
    assert [ask(tags=["one"]), ask("Eve", tags=["two"])] == ["hit", "hit"]
    rows = Invalidation.objects.using(ALIAS).filter(namespace=shop)
    for place, outcomes in ((1, ["hit", "miss"]), (0, ["miss", "hit"])):
        commit[place].set()
        threads[place].join()
        assert [ask(tags=["one"]), ask("Eve", tags=["two"])] == outcomes
    assert rows.order_by("-pk")[0].uid == highest.id


def test_of_two_who_undo_at_once_one_has_done_it(shop: str) -> None:
    made = llmcache.invalidate(kind="Person")
    assert [ask(), ask()] == ["miss", "hit"]
    start, found = threading.Barrier(4), list[bool]()

    def undo() -> None:
        start.wait(60)
        found.append(llmcache.undo(made))

    for thread in [in_thread(undo) for _ in range(4)]:
        thread.join()
    assert sorted(found) == [False, False, False, True]


# Long lists


@pytest.mark.django_db
@pytest.mark.parametrize("count", [MAX_SEEN, MAX_SEEN + 1, MAX_SEEN + 2])
def test_as_many_invalidations_of_one_answer_as_it_can_list_and_more(count: int) -> None:
    tags = [f"tag-{number}" for number in range(count)]
    assert ask(tags=tags) == "miss"
    made = [llmcache.invalidate(tag=tag) for tag in tags]
    assert [ask(tags=tags), ask(tags=tags)] == ["miss", "hit"]
    # And read from a store, by a process that has just begun.
    process.install(None)
    assert ask(tags=tags) == "hit"
    again = llmcache.invalidate(tag=tags[-1])
    assert [ask(tags=tags), ask(tags=tags)] == ["miss", "hit"]
    assert llmcache.undo(again) is True
    assert llmcache.undo(made[0]) is True
    # Whatever it costs: it is not the answer of before all of them.
    assert ask(tags=tags) in ("hit", "miss")
    assert ask(tags=tags) == "hit"


# What no database takes


@pytest.mark.django_db
@pytest.mark.parametrize("uid", ["", "x", "\0", "\0" * 32, "\ud800" * 32, "é" * 32, "ab" * 17], ids=ascii)
def test_what_is_no_id_is_told_as_that(uid: str) -> None:
    with pytest.raises(llmcache.InvalidRequest, match="There is no invalidation with this id"):
        llmcache.undo(uid)


@pytest.mark.django_db
def test_an_id_with_more_behind_it_is_another() -> None:
    made = llmcache.invalidate(kind="Person")
    with pytest.raises(llmcache.InvalidRequest):
        llmcache.undo(f"{made.id}0")
    assert llmcache.undo(made) is True


@pytest.mark.django_db
@pytest.mark.parametrize("reason", ["a\0b", "\ud800", "x" * 501, 7], ids=lambda reason: ascii(reason)[:9])
def test_a_reason_that_cannot_be_kept_is_refused(reason: Any) -> None:
    with pytest.raises(llmcache.InvalidRequest, match="reason= "):
        llmcache.invalidate(kind="Person", reason=reason)
    assert not Invalidation.objects.exists()


def test_a_nul_is_refused_where_the_database_refuses_it(ledger: str) -> None:
    refused = connections[ledger].vendor == "postgresql"
    for conditions in ({"tag": "a\0b"}, {"kind": "\0"}, {"tenant": "a\0", "dry_run": True}):
        with pytest.raises(llmcache.InvalidRequest, match="has a NUL") if refused else nullcontext():
            llmcache.invalidate(**conditions)
    # Of a subject there is a hash alone.
    assert llmcache.invalidate(subject="a\0b").id is not None
    for work in (llmcache.invalidate, llmcache.undo):
        with pytest.raises(llmcache.InvalidRequest, match="user= has a NUL"):
            work(**({"tag": "a"} if work is llmcache.invalidate else {"invalidation": "ab" * 16}), user="a\0b")
