"""What the invalidation log asks of the database: statements and rows, counted; and what disturbs it there."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import OperationalError, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pydantic import BaseModel
from pytest_django import DjangoDbBlocker

import llmcache
from llmcache import conf, invalidation_rows
from llmcache.clock import Clock
from llmcache.engine import isolation, process
from llmcache.engine.log import OVERLAP, Log
from llmcache.engine.log_copy import Row
from llmcache.engine.predicates import NO_FACTS, Predicate
from llmcache.engine.runtime import Runtime
from llmcache.invalidation_rows import InvalidationRows
from llmcache.models import CacheEntry, EntryTag, Invalidation
from llmcache.testing.sandbox import Sandbox
from tests.conftest import llmcache_settings
from tests.ledgers import ALIAS, known

NAMESPACE = "of many rows"
HOUR = 3_600.0


class Person(BaseModel):
    """A person."""

    name: str


@pytest.fixture
def provider(sandbox: Sandbox) -> Iterator[Sandbox]:
    sandbox.answers |= {name: {"name": name} for name in ("Ada", "Bob", "Eve")}
    # No reading becomes due while a test counts.
    with llmcache_settings(RECHECK=HOUR - 1):
        process.install(None)
        yield sandbox


def ask(text: str = "Ada", **options: Any) -> str:
    """Return the outcome of a call."""
    return llmcache.extract_with_info(text, Person, **options).outcome


def add_rows(count: int, using: str = "default", namespace: str | None = None, **conditions: str) -> list[Invalidation]:
    """Write rows as another process does."""
    common = {"namespace": namespace or process.current().namespace, "made_at": timezone.now()}
    made = (
        Invalidation(uid=os.urandom(16).hex(), **common, **(conditions or {"tag": f"tag-{number}"}))
        for number in range(count)
    )
    return Invalidation.objects.using(using).bulk_create(made, batch_size=1_000)


def add_entries(count: int, tag: str) -> None:
    """Write what the ledger has of entries that carry a tag."""
    namespace, at = process.current().namespace, timezone.now()
    sizes = {"size_bytes": 1, "latency_ms": 1, "attempts": 1}
    made = [CacheEntry(key=f"{number:064}", namespace=namespace, written_at=at, **sizes) for number in range(count)]
    CacheEntry.objects.bulk_create(made, batch_size=1_000)
    EntryTag.objects.bulk_create([EntryTag(entry=entry, tag=tag) for entry in made], batch_size=1_000)


def statements(work: Callable[[], object], using: str = "default") -> list[str]:
    """Return the statements of some work, each as its first words."""
    with CaptureQueriesContext(connections[using]) as captured:
        work()
    return [each["sql"].split(" ")[0] for each in captured.captured_queries]


class RowsOfHere(InvalidationRows):
    """The rows as this thread's transaction shows them: what a test writes is never committed."""

    def _is_in_transaction(self) -> bool:
        return False


class CountedRows(RowsOfHere):
    """The rows of the log; notes how many of them were read each time."""

    def __init__(self, using: str, namespace: str) -> None:
        super().__init__(using, namespace)
        self.read: list[int] = []

    def rows(self, above: int = 0, *, undone: bool = False) -> list[Row]:
        found = super().rows(above, undone=undone)
        self.read.append(len(found))
        return found


def log_of(rows: InvalidationRows) -> Log:
    """Return the log of another process, which reads when it is told to."""
    return Log(rows, None, time.monotonic, recheck=1.0, grace=60.0, thread=False)


def is_void(log: Log, tag: str) -> bool:
    return not log.view(bytes(32), NO_FACTS._replace(tags=(tag,))).admits(b"")


# -- counted


@pytest.mark.django_db
@pytest.mark.parametrize("count", [0, 3_000])
def test_an_invalidation_writes_one_row_and_reads_no_entry_whatever_there_is(count: int, provider: Sandbox) -> None:
    add_rows(count)
    add_entries(count, "vip")
    assert process.current().log.read_now()
    ids = list[str | None]()
    cases: tuple[dict[str, Any], ...] = ({"tag": "vip"}, {"tag": "vip"}, {"everything": True}, {"key": "a" * 64})
    for conditions in cases:
        with CaptureQueriesContext(connections["default"]) as captured:
            ids.append(llmcache.invalidate(**conditions).id)
        made = [each["sql"] for each in captured.captured_queries if "SAVEPOINT" not in each["sql"]]
        # The others see whether there are rows to prune.
        assert [each.split(" ")[0] for each in made] == ["INSERT", "SELECT", "SELECT"]
        assert all('"llmcache_invalidation"' in each for each in made)
        assert all("LIMIT" in each for each in made[1:])
    assert statements(lambda: llmcache.undo(ids[0] or "")) == ["SELECT", "UPDATE"]
    assert Invalidation.objects.count() == count + len(cases)


@pytest.mark.django_db
def test_a_hit_in_memory_asks_for_nothing_beside_ten_thousand_rows(provider: Sandbox) -> None:
    add_rows(10_000)
    llmcache.invalidate(kind="Person")
    assert process.current().log.read_now()
    assert ask() == "miss"
    counted = ("Person", "openai/gpt-5-mini", process.current().memory_name, "hit")

    def hits() -> None:
        for _ in range(50):
            assert llmcache.extract("Ada", Person) == Person(name="Ada")

    async def awaited() -> None:
        for _ in range(50):
            assert await llmcache.aextract("Ada", Person) == Person(name="Ada")

    assert statements(hits) == []
    assert statements(lambda: asyncio.run(awaited())) == []
    # After a change each call is looked at once, in memory too.
    llmcache.invalidate(tag="of no matter")
    assert statements(hits) == []
    assert (process.current().counts.total()[counted], provider.received) == (150, 1)


def test_what_is_read_after_a_change_is_what_is_new(ledger: str) -> None:
    made = add_rows(2_000, ledger, NAMESPACE)
    rows = CountedRows(ledger, NAMESPACE)
    log = log_of(rows)
    assert log.read_now()
    assert rows.read == [2_000]
    rows.read.clear()
    assert statements(log.read_now, ledger) == ["SELECT"]
    assert rows.read == []
    first = Invalidation.objects.using(ledger).filter(uid=made[0].uid)
    assert first.update(active=False) == 1
    add_rows(10, ledger, NAMESPACE, tag="new")
    assert is_void(log, "tag-0")
    assert not is_void(log, "new")
    # The three numbers; what is new, and what may have been committed late; what was undone.
    assert statements(log.read_now, ledger) == ["SELECT"] * 3
    assert rows.read == [OVERLAP + 10, 1]
    assert not is_void(log, "tag-0")
    assert is_void(log, "new")
    assert log.shared.state == rows.state()


@pytest.mark.django_db
def test_each_reading_is_served_by_an_index() -> None:
    """SQLite says how; it looked through all rows for those that are new, and for those that were undone."""
    add_rows(1_000, namespace=NAMESPACE)
    rows = InvalidationRows("default", NAMESPACE)
    plans = list[str]()
    for work in (rows.state, lambda: rows.rows(900), lambda: rows.rows(undone=True)):
        with CaptureQueriesContext(connections["default"]) as captured:
            work()
        with connections["default"].cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {captured.captured_queries[0]['sql']}")
            plans.append(cursor.fetchall()[0][3])
    index = "INDEX llmcache_invalidation_state"
    assert plans == [
        f"SEARCH llmcache_invalidation USING COVERING {index} (namespace=?)",
        f"SEARCH llmcache_invalidation USING {index} (namespace=? AND active=? AND id>?)",
        f"SEARCH llmcache_invalidation USING {index} (namespace=? AND active=? AND id>?)",
    ]


@pytest.mark.django_db
def test_a_row_is_read_as_it_was_written(ledger: str) -> None:
    conditions = {"key": "a" * 64, "tenant": "acme", "subject_hash": "s", "response_type": "T", "model": "o/m"}
    (first,) = add_rows(1, ledger, NAMESPACE, **conditions, tag="vip", kind="inbox")
    older = [first.uid, "f" * 32]
    second = Invalidation(uid="0" * 32, namespace=NAMESPACE, made_at=timezone.now(), supersedes=older, active=False)
    second.save(using=ledger)
    found = RowsOfHere(ledger, NAMESPACE).rows()
    predicate = Predicate("a" * 64, "acme", "s", "T", "o/m", "vip", "inbox")
    assert found == [
        Row(first.pk, bytes.fromhex(first.uid), predicate, True),
        Row(second.pk, bytes(16), Predicate(), False, tuple(map(bytes.fromhex, older))),
    ]


# -- what disturbs it


@pytest.mark.django_db
def test_an_undo_of_what_was_pruned_says_so(provider: Sandbox) -> None:
    ask()
    made = llmcache.invalidate(kind="Person")
    assert ask() == "miss"
    Invalidation.objects.all().delete()
    for _ in range(2):
        with pytest.raises(llmcache.InvalidRequest, match="it was pruned"):
            llmcache.undo(made)
    assert (ask(), provider.calls) == ("hit", 2)


@pytest.mark.django_db
@pytest.mark.parametrize("moved", [-HOUR, HOUR], ids=["back", "forward"])
def test_a_wall_clock_that_is_set_changes_nothing(
    moved: float, provider: Sandbox, forget_memory: Callable[[], None]
) -> None:
    """No row is in force by its time: neither is what is void served, nor what is good lost.

    Below memory an entry that was written in the future is a miss, whatever the log says.
    """
    ahead = 0.0
    clock = Clock(wall=lambda: time.time() + ahead)
    process.install(Runtime(conf.current(), clock=clock, test=isolation.current_test()))
    assert [ask("Ada"), ask("Bob"), ask("Eve", kind="other")] == ["miss"] * 3
    ahead = moved
    made = llmcache.invalidate(kind="Person")
    assert [ask("Ada"), ask("Ada"), ask("Eve", kind="other")] == ["miss", "hit", "hit"]
    for shift in (0.0, moved, max(0.0, moved)):
        ahead = shift
        forget_memory()
        with pytest.raises(llmcache.NotCached):
            ask("Bob", cache="only")
    assert [ask("Ada"), ask("Eve", kind="other")] == ["hit", "hit"]
    assert llmcache.undo(made)
    assert [ask("Ada"), ask("Bob"), provider.calls] == ["hit", "hit", 4]


@pytest.fixture
def server(postgresql_tables: dict[str, Any], django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    """The alias of a PostgreSQL database in which transactions are committed."""
    with django_db_blocker.unblock(), known(postgresql_tables):
        try:
            yield ALIAS
        finally:
            invalidation_rows._desk.close()
            Invalidation.objects.using(ALIAS).all().delete()


class Transaction:
    """A transaction in a thread of its own, which has written a row and has not committed it."""

    def __init__(self, using: str) -> None:
        self._written, self._ended = threading.Event(), threading.Event()
        self.rows: list[Invalidation] = []
        self._thread = threading.Thread(target=self._run, args=(using,))
        self._thread.start()
        assert self._written.wait(30)

    def _run(self, using: str) -> None:
        try:
            with transaction.atomic(using=using):
                self.rows = add_rows(1, using, NAMESPACE, tag="late")
                self._written.set()
                assert self._ended.wait(30)
        finally:
            connections[using].close()

    def commit(self) -> None:
        self._ended.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.mark.parametrize("between", [1, OVERLAP + 20])
def test_a_row_that_is_committed_after_higher_ones_is_found(between: int, server: str) -> None:
    add_rows(3, server, NAMESPACE)
    log = log_of(InvalidationRows(server, NAMESPACE))
    open_ = Transaction(server)
    try:
        made = add_rows(between, server, NAMESPACE)
        assert open_.rows[0].pk < made[0].pk
        assert log.read_now()
        assert (log.shared.state.rows, log.shared.state.highest) == (3 + between, made[-1].pk)
        assert not is_void(log, "late")
    finally:
        open_.commit()
    assert log.read_now()
    assert is_void(log, "late")
    assert log.shared.state == (4 + between, 4 + between, made[-1].pk)


def test_who_reads_by_a_connection_may_ask_meanwhile(server: str) -> None:
    """A call that reads the log itself does it by its caller's connection, by which a cursor may be open."""
    add_rows(5, server, NAMESPACE)
    log = log_of(InvalidationRows(server, NAMESPACE))
    seen = 0
    for _ in Invalidation.objects.using(server).iterator(chunk_size=1):
        assert log.read_now()
        seen += 1
    assert seen == 5


def test_a_lost_connection_is_made_anew(server: str) -> None:
    add_rows(5, server, NAMESPACE)
    log = log_of(InvalidationRows(server, NAMESPACE))
    assert log.read_now()
    with connections[server].cursor() as cursor, pytest.raises(OperationalError):
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    add_rows_elsewhere = threading.Thread(target=_add_and_close, args=(server,))
    add_rows_elsewhere.start()
    add_rows_elsewhere.join(30)
    assert log.read_now()
    assert is_void(log, "new")


def _add_and_close(using: str) -> None:
    add_rows(1, using, NAMESPACE, tag="new")
    connections[using].close()


@pytest.mark.parametrize("isolation_level", ["READ COMMITTED", "REPEATABLE READ"])
def test_what_a_transaction_shows_of_the_log_is_nobody_elses(isolation_level: str, server: str) -> None:
    """Strict, a call reads the log within its caller's transaction: what is undone there is not undone for others.

    And what others have committed since it began is known all the same, where the transaction does not show it.
    """
    made = add_rows(1, server, NAMESPACE, tag="old")
    log = Log(InvalidationRows(server, NAMESPACE), None, time.monotonic, recheck=0, grace=60.0, thread=False)
    assert log.confirm()
    with transaction.atomic(using=server):
        with connections[server].cursor() as cursor:
            cursor.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation_level}")
        assert Invalidation.objects.using(server).filter(uid=made[0].uid).update(active=False)
        add_rows(1, server, NAMESPACE, tag="mine")
        elsewhere = threading.Thread(target=_add_and_close, args=(server,))
        elsewhere.start()
        elsewhere.join(30)
        for _ in range(2):
            assert log.confirm()
            assert [is_void(log, tag) for tag in ("old", "new", "mine")] == [True, True, False]
    assert log.confirm()
    assert [is_void(log, tag) for tag in ("old", "new", "mine")] == [False, True, True]
