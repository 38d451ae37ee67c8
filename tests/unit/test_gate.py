"""The gate: over real SQLite files, a caller's transaction never meets the writer's, and nobody waits for long."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from pytest_django import DjangoDbBlocker

from llmcache.money import gate as gates
from llmcache.money.gate import Gate, GivenUpError

FILED = "filed"
OTHER = "other"
SECONDS = 30.0


@pytest.fixture(params=["rollback", "wal"])
def alias(request: pytest.FixtureRequest, tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    """The alias of a SQLite file with one table, in one of SQLite's two ways; transactions are Django's usual ones."""
    options = {"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;"} if request.param == "wal" else {}
    for name in (FILED, OTHER):
        connections.databases[name] = {
            "ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / f"{name}.sqlite3", "OPTIONS": options,
        }  # fmt: skip
    connections.configure_settings(connections.databases)
    try:
        with django_db_blocker.unblock():
            run(connections[FILED], "CREATE TABLE note (text TEXT)")
            yield FILED
            for name in (FILED, OTHER):
                connections[name].close()
    finally:
        for name in (FILED, OTHER):
            del connections.databases[name]
            with contextlib.suppress(AttributeError):
                del connections[name]


def run(connection: BaseDatabaseWrapper, statement: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if statement.startswith("SELECT") else None


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


class Thread(threading.Thread):
    """A thread that closes its connections, and whose error is raised where it is joined."""

    def __init__(self, work: Callable[[], object], *, closes: bool = True) -> None:
        super().__init__(daemon=True)
        self.error: BaseException | None = None
        self._work = work
        self._closes = closes
        self.start()

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - raised by `end`
            self.error = error
        finally:
            if self._closes:
                connections.close_all()

    def end(self) -> None:
        self.join(SECONDS)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error


class Writer:
    """Writes as the ledger's writer does, as often as it can, until it is stopped."""

    def __init__(self, gate: Gate, alias: str) -> None:
        self.looks = 0
        self.commits = 0
        self.locked = 0
        self.given_up = 0
        self._gate, self._alias = gate, alias
        self._stop = threading.Event()
        self._thread = Thread(self._work)

    def stop(self) -> None:
        self._stop.set()
        self._thread.end()

    def _work(self) -> None:
        connection: Any = connections[self._alias]
        connection.ensure_connection()
        connection.transaction_mode = "IMMEDIATE"
        run(connection, "PRAGMA busy_timeout = 0")
        while not self._stop.is_set():
            try:
                self._write(connection)
            except GivenUpError:
                self.given_up += 1
            except OperationalError as error:
                if "locked" not in str(error):
                    raise
                self.locked += 1
            self.looks += 1

    def _write(self, connection: BaseDatabaseWrapper) -> None:
        with self._gate.passed(self._alias) as clear:
            if not clear:
                return
            with transaction.atomic(using=self._alias):
                for _ in range(3):
                    self._gate.require_patience()
                    run(connection, "INSERT INTO note VALUES ('ledger')")
                self._gate.commit()
            self.commits += 1


class Blind(Gate):
    """A gate that is always open: what callers would see without one."""

    def show(self, connection: BaseDatabaseWrapper) -> None:
        pass


def caller(writer: Writer, gate: Gate, times: int, *, writes: bool, gives_up: threading.Event) -> Callable[[], None]:
    """A caller who reads in a transaction, lets the writer try in between, and then writes."""

    def work() -> None:
        connection = connections[FILED]
        connection.ensure_connection()
        gate.show(connection)
        try:
            for _ in range(times):
                with transaction.atomic(using=FILED):
                    before = run(connection, "SELECT count(*) FROM note")
                    looks = writer.looks
                    until(lambda looks=looks: writer.looks > looks + 2 or gives_up.is_set())
                    if writes:
                        run(connection, "INSERT INTO note VALUES ('caller')")
                    else:
                        assert run(connection, "SELECT count(*) FROM note") == before
                # With everybody outside, the writer gets its turn.
                commits = writer.commits
                until(lambda commits=commits: writer.commits > commits or gives_up.is_set())
                if gives_up.is_set():
                    return
        finally:
            gives_up.set()

    return work


def test_a_caller_who_reads_and_then_writes_never_meets_the_writer(alias: str) -> None:
    gate, times, over = Gate(), 60, threading.Event()
    writer = Writer(gate, alias)
    threads = [Thread(caller(writer, gate, times, writes=first, gives_up=over)) for first in (True, False, False)]
    try:
        for thread in threads:
            thread.end()
    finally:
        writer.stop()
    assert writer.commits >= times / 2
    texts = dict(run(connections[FILED], "SELECT text, count(*) FROM note GROUP BY text"))
    assert texts["ledger"] == 3 * writer.commits


def test_without_the_gate_the_same_caller_fails(alias: str) -> None:
    gate, over = Blind(), threading.Event()
    writer = Writer(gate, alias)
    thread = Thread(caller(writer, gate, 100_000, writes=True, gives_up=over))
    try:
        with pytest.raises(OperationalError, match="database is locked"):
            thread.end()
    finally:
        over.set()
        writer.stop()


# Who is in a transaction


@pytest.fixture
def shown(alias: str) -> BaseDatabaseWrapper:
    """This thread's connection, as the gate knows it."""
    connection = connections[alias]
    connection.ensure_connection()
    return connection


@pytest.mark.parametrize("alias", ["rollback"], indirect=True)
class TestLook:
    def test_it_sees_transactions_and_nothing_else(self, shown: BaseDatabaseWrapper) -> None:
        gate = Gate()
        gate.show(shown)
        assert gate.is_clear(FILED)
        run(shown, "INSERT INTO note VALUES ('autocommit')")
        assert gate.is_clear(FILED)
        with transaction.atomic(using=FILED):
            assert not gate.is_clear(FILED)
            with transaction.atomic(using=FILED):
                assert not gate.is_clear(FILED)
            assert not gate.is_clear(FILED)
        assert gate.is_clear(FILED)
        with pytest.raises(ZeroDivisionError), transaction.atomic(using=FILED):
            raise ZeroDivisionError
        assert gate.is_clear(FILED)
        shown.set_autocommit(False)
        assert not gate.is_clear(FILED)
        shown.set_autocommit(True)
        assert gate.is_clear(FILED)
        with transaction.atomic(using=FILED):
            gate.hide(shown)
            assert gate.is_clear(FILED)

    def test_connections_of_other_databases_do_not_matter(self, shown: BaseDatabaseWrapper) -> None:
        gate = Gate()
        gate.show(shown)
        gate.show(connections[OTHER])
        with transaction.atomic(using=OTHER):
            run(connections[OTHER], "CREATE TABLE note (text TEXT)")
            assert (gate.is_clear(FILED), gate.is_clear(OTHER)) == (True, False)

    def test_a_connection_that_is_gone_is_forgotten(self, alias: str) -> None:
        gate = Gate()

        def leave() -> None:
            gate.show(connections[FILED])
            transaction.atomic(using=FILED).__enter__()

        Thread(leave, closes=False).end()
        gc.collect()
        assert gate.is_clear(FILED)
        assert len(gate._shown) == 0

    def test_a_transaction_that_its_thread_left_behind_does_not_shut_it_for_ever(self, alias: str) -> None:
        gate = Gate()
        kept: list[BaseDatabaseWrapper] = []
        entered, may_end = threading.Event(), threading.Event()

        def leave() -> None:
            kept.append(connections[FILED])
            gate.show(connections[FILED])
            transaction.atomic(using=FILED).__enter__()
            entered.set()
            may_end.wait(SECONDS)

        thread = Thread(leave, closes=False)
        assert entered.wait(SECONDS)
        assert not gate.is_clear(FILED)
        may_end.set()
        thread.end()
        assert kept[0].in_atomic_block
        assert gate.is_clear(FILED)
        # Other threads may use it, if they were told so.
        kept[0].inc_thread_sharing()
        assert not gate.is_clear(FILED)
        kept[0].close()

    def test_a_connection_is_shown_once_and_hidden_without_a_trace(self, shown: BaseDatabaseWrapper) -> None:
        gate, before = Gate(), list(shown.execute_wrappers)

        def users_own(execute: Callable[..., Any], *statement: Any) -> Any:
            return execute(*statement)

        with shown.execute_wrapper(users_own):
            gate.show(shown)
            gate.show(shown)
            # Django takes the last one off at the end of the block: it has to be the user's.
            assert shown.execute_wrappers[-1] is users_own
            assert len(shown.execute_wrappers) == len(before) + 2
        gate.hide(shown)
        gate.hide(shown)
        assert shown.execute_wrappers == before


# How long somebody waits


class Inside:
    """A writer who is inside and does as told."""

    def __init__(self, gate: Gate, *, commits: bool = False) -> None:
        self.is_in, self._leave = threading.Event(), threading.Event()
        self.left = False
        self.given_up: bool | None = None
        self._gate, self._commits = gate, commits
        self._thread = Thread(self._work)
        assert self.is_in.wait(SECONDS)

    def leave(self) -> None:
        self._leave.set()
        self._thread.end()

    def _work(self) -> None:
        with self._gate.passed(FILED) as clear:
            assert clear
            if self._commits:
                self._gate.commit()
            self.is_in.set()
            self._leave.wait(SECONDS)
            try:
                self._gate.require_patience()
                self.given_up = False
            except GivenUpError:
                self.given_up = True
            self.left = True


@pytest.mark.parametrize("alias", ["rollback"], indirect=True)
class TestWait:
    def test_a_caller_goes_on_and_the_writer_gives_up(self, shown: BaseDatabaseWrapper) -> None:
        gate = Gate()
        gate.show(shown)
        inside = Inside(gate)
        run(shown, "INSERT INTO note VALUES ('caller')")
        assert not inside.left
        inside.leave()
        assert inside.given_up
        # Its next turn begins with new patience.
        with gate.passed(FILED) as clear:
            assert clear
            gate.require_patience()
            gate.commit()

    def test_who_has_given_up_does_not_commit(self, shown: BaseDatabaseWrapper) -> None:
        gate = Gate()
        gate.show(shown)
        entered, wanted = threading.Event(), threading.Event()

        def write() -> None:
            with gate.passed(FILED), pytest.raises(GivenUpError):
                entered.set()
                assert wanted.wait(SECONDS)
                gate.commit()

        thread = Thread(write)
        assert entered.wait(SECONDS)
        run(shown, "SELECT 1")
        wanted.set()
        thread.end()

    def test_nobody_in_a_transaction_is_kept_waiting(self, shown: BaseDatabaseWrapper) -> None:
        gate = Gate()
        gate.show(shown)
        with transaction.atomic(using=FILED):
            run(shown, "SELECT count(*) FROM note")
            with gate.passed(FILED) as clear:
                assert not clear
                # The gate is open for all others, too.
                assert gate._inside is None
                run(shown, "SELECT count(*) FROM note")
            assert not gate._wanted

    @pytest.mark.parametrize("statement", ["SELECT count(*) FROM note", "INSERT INTO note VALUES ('x')", "BEGIN"])
    def test_a_commit_that_has_begun_is_waited_for(self, shown: BaseDatabaseWrapper, statement: str) -> None:
        gate = Gate()
        gate.show(shown)
        inside, ran, asked, order = Inside(gate, commits=True), threading.Event(), threading.Event(), list[str]()

        def ask(execute: Callable[..., Any], *told: Any) -> Any:
            asked.set()
            return execute(*told)

        def finish() -> None:
            assert asked.wait(SECONDS)
            # A statement that waits does not end in this time; one that does not, ends at once.
            ran.wait(0.2)
            order.append("committed")
            inside.leave()

        shown.execute_wrappers.insert(0, ask)
        thread = Thread(finish)
        try:
            run(shown, statement)
            order.append("ran")
            ran.set()
        finally:
            shown.execute_wrappers.remove(ask)
            thread.end()
        assert order == ["committed", "ran"]
        assert inside.given_up is False
        with contextlib.suppress(OperationalError):
            run(shown, "ROLLBACK")

    def test_not_even_a_commit_is_waited_for_without_an_end(
        self, shown: BaseDatabaseWrapper, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gates, "COMMIT_SECONDS", 0.05)
        gate = Gate()
        gate.show(shown)
        inside = Inside(gate, commits=True)
        run(shown, "SELECT count(*) FROM note")
        assert not inside.left
        inside.leave()
        assert inside.given_up is False

    def test_the_writer_does_not_wait_for_itself(self, shown: BaseDatabaseWrapper) -> None:
        gate = Gate()
        gate.show(shown)
        with gate.passed(FILED) as clear:
            assert clear
            run(shown, "SELECT count(*) FROM note")
            gate.require_patience()

    def test_it_is_open_after_an_error_inside(self, shown: BaseDatabaseWrapper) -> None:
        gate = Gate()
        gate.show(shown)
        with pytest.raises(ZeroDivisionError), gate.passed(FILED):
            raise ZeroDivisionError
        with gate.passed(FILED) as clear:
            assert clear

    def test_a_forked_child_does_not_wait_for_its_parents_writer(self, shown: BaseDatabaseWrapper) -> None:
        """As the child finds it: somebody is inside, whom it does not have."""
        gate = Gate()
        gate.show(shown)
        inside = Inside(gate, commits=True)
        gate.reset_after_fork()
        run(shown, "SELECT count(*) FROM note")
        assert not inside.left
        with transaction.atomic(using=FILED):
            assert not gate.is_clear(FILED), "the forking thread's connection is the child's, and is looked at"
        inside.leave()
