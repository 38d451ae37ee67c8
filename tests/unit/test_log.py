"""The invalidation log at work: when it is read, by whom, and what holds when it cannot be."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import copy_context
from typing import Any

import pytest

from llmcache.engine import log as log_module
from llmcache.engine.log import KEEP_READING, Log, Pending
from llmcache.engine.log_copy import Row, State
from llmcache.engine.predicates import EVERYTHING, Facts, Predicate
from llmcache.envelope import SEEN_ID_BYTES
from tests.waiting import until

KEY = bytes(32)
FACTS = Facts("acme", (), "Ticket", "openai/gpt-5-mini", ("vip",), "inbox")


class Table:
    """A database's table; counts what is asked of it."""

    def __init__(self) -> None:
        self.rows_in_it: list[Row] = []
        self.asked: list[str] = []
        self.error: Exception | None = None
        self.held = threading.Event()
        self.held.set()
        self.closed = 0

    def add(self, number: int, predicate: Predicate = EVERYTHING) -> Row:
        row = Row(number, number.to_bytes(SEEN_ID_BYTES, "big"), predicate, True)
        self.rows_in_it.append(row)
        return row

    def undo(self, number: int) -> Row:
        (place,) = (place for place, row in enumerate(self.rows_in_it) if row.number == number)
        self.rows_in_it[place] = self.rows_in_it[place]._replace(active=False)
        return self.rows_in_it[place]

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        self.held.wait(30)
        if self.error is not None:
            raise self.error

    def state(self) -> State:
        self._ask("state")
        rows = self.rows_in_it
        return State(len(rows), sum(row.active for row in rows), max((row.number for row in rows), default=0))

    def rows(self, above: int = 0, *, undone: bool = False) -> list[Row]:
        self._ask("undone" if undone else f"rows above {above}")
        return [row for row in self.rows_in_it if row.number > above and not (undone and row.active)]

    def reading(self) -> nullcontext[None]:
        return nullcontext()

    def close(self) -> None:
        self.closed += 1


class Wall:
    """A board that several processes read."""

    def __init__(self) -> None:
        self.state: State | None = None
        self.seconds = 0.0
        self.reads = 0

    def get(self) -> State | None:
        self.reads += 1
        return self.state

    def offer(self, state: State, seconds: float) -> None:
        if self.state is None:
            self.state, self.seconds = state, seconds

    def drop(self) -> None:
        self.state = None


class Now:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.at = 1_000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def table() -> Table:
    return Table()


def log_of(table: Table, now: Callable[[], float], board: Any = None, **given: Any) -> Log:
    return Log(table, board, now, **{"recheck": 1.0, "grace": 60.0, "thread": False, **given})


def voids(log: Log, seen: bytes = b"") -> bool:
    return not log.view(KEY, FACTS).admits(seen)


# -- when it is read


def test_it_is_read_once_in_two_rechecks(table: Table, now: Now) -> None:
    log = log_of(table, now)
    for _ in range(5):
        assert log.confirm()
    assert table.asked == ["state"]
    now.at += 1.9
    assert log.good_until > now.at
    now.at += 0.2
    assert log.good_until < now.at
    assert log.confirm()
    assert table.asked == ["state", "state"]


def test_what_is_new_is_read_and_nothing_else(table: Table, now: Now) -> None:
    log = log_of(table, now)
    for number in range(1, 501):
        table.add(number, Predicate(tag=f"tag-{number}"))
    log.confirm()
    assert table.asked == ["state", "rows above 0"]
    epoch = log.epoch
    table.add(501)
    now.at += 2
    assert not voids(log)
    log.confirm()
    assert voids(log)
    assert log.epoch > epoch
    # Some that were there are read again: rows are committed in any order.
    assert table.asked[2:] == ["state", "rows above 400"]


def test_rows_are_found_that_were_committed_out_of_their_order(table: Table, now: Now) -> None:
    log = log_of(table, now)
    for number in (1, 3, 300):
        table.add(number, Predicate(tag="other"))
    log.confirm()
    late = [2, 299]
    for number in reversed(late):
        now.at += 2
        table.add(number, Predicate(tag=f"late-{number}"))
        log.confirm()
        tagged = FACTS._replace(tags=(f"late-{number}",))
        assert not log.view(KEY, tagged).admits(b"")
    assert log.shared.state == State(5, 5, 300)


def test_an_undo_elsewhere_is_found_without_reading_all(table: Table, now: Now) -> None:
    log = log_of(table, now)
    for number in range(1, 301):
        table.add(number)
    log.confirm()
    for number in range(1, 301):
        table.undo(number)
    now.at += 2
    table.asked.clear()
    log.confirm()
    assert not voids(log)
    assert table.asked == ["state", "rows above 200", "undone"]


def test_what_was_pruned_is_forgotten(table: Table, now: Now) -> None:
    log = log_of(table, now)
    for number in range(1, 201):
        table.add(number)
    log.confirm()
    del table.rows_in_it[:50]
    now.at += 2
    log.confirm()
    assert log.shared.state == State(150, 150, 200)


def test_strict_reads_at_every_call(table: Table, now: Now) -> None:
    log = log_of(table, now, Wall(), recheck=0.0)
    for count in (1, 2, 3):
        assert log.confirm()
        assert table.asked.count("state") == count
        assert log.good_until == float("-inf")
    table.add(1)
    log.confirm()
    assert voids(log)
    table.error = OSError()
    assert not log.confirm()
    table.error = None
    assert log.confirm()


# -- the board


def test_one_process_asks_the_database_for_all(table: Table, now: Now) -> None:
    wall = Wall()
    logs = [log_of(table, now, wall) for _ in range(8)]
    for each in logs:
        assert each.confirm()
    assert (table.asked, wall.reads, wall.state) == (["state"], 8, State(0, 0, 0))
    assert 0 < wall.seconds <= 1
    # One of them invalidates; the others find the board empty, and one asks again.
    row = table.add(1)
    logs[0].commit([row])
    assert voids(logs[0])
    assert wall.state is None
    now.at += 2
    for each in logs[1:]:
        each.confirm()
        assert voids(each)
    assert table.asked.count("state") == 8


def test_a_board_that_lags_behind_makes_nobody_forget(table: Table, now: Now) -> None:
    wall = Wall()
    log = log_of(table, now, wall)
    log.confirm()
    row = table.add(1)
    log.commit([row])
    # Somebody who had asked before has left what was true then.
    wall.state = State(0, 0, 0)
    now.at += 2
    log.confirm()
    assert voids(log)
    assert "rows above 0" not in table.asked


def test_a_board_that_lies_is_believed_for_a_while_only(table: Table, now: Now) -> None:
    wall = Wall()
    log = log_of(table, now, wall)
    log.confirm()
    table.add(1)
    wall.state = State(0, 0, 0)
    for _ in range(log_module.MOST_BY_BOARD + 1):
        now.at += 2
        log.confirm()
    assert voids(log)
    assert table.asked.count("state") < 5


def test_what_lay_on_the_board_is_good_for_one_recheck(table: Table, now: Now) -> None:
    """It may be one old already; a thread that is late must not make three of the two that are promised."""
    wall = Wall()
    logs = [log_of(table, now, wall) for _ in range(2)]
    assert logs[0].confirm()
    # Committed right after the one has asked, and its maker is killed before it takes away what lies there.
    table.add(1)
    committed = now.at
    now.at += 0.99
    assert logs[1].confirm()
    assert not voids(logs[1])
    assert logs[1].good_until <= committed + 2
    wall.drop()
    now.at = committed + 2
    assert logs[1].confirm()
    assert voids(logs[1])


# -- changes of one's own


def test_a_transaction_is_seen_by_its_own_context(table: Table, now: Now) -> None:
    log = log_of(table, now)
    log.confirm()
    going_on = True
    pending = Pending([Row(1, b"1" * 16, EVERYTHING, True)], lambda: going_on)
    elsewhere = copy_context()
    log.add_pending(pending)
    assert (voids(log), log.has_own) == (True, True)
    assert elsewhere.run(lambda: (voids(log), log.has_own)) == (False, False)
    # Nobody takes the short way meanwhile, for it cannot tell one context from another.
    assert log.good_until == float("-inf")
    assert log.confirm()
    going_on = False
    assert (voids(log), log.has_own) == (False, False)
    assert log.confirm()
    assert log.good_until > now.at


def test_of_very_many_changes_in_one_transaction_each_is_looked_at_once(table: Table, now: Now) -> None:
    log, asked, count = log_of(table, now), 0, 100

    def lasts() -> bool:
        nonlocal asked
        asked += 1
        return True

    def work() -> None:
        for number in range(count):
            predicate = Predicate(tag=str(number % 50))
            assert log.confirm()
            assert len(log.heads(predicate)) == number // 50
            log.add_pending(Pending([Row(number, number.to_bytes(SEEN_ID_BYTES, "big"), predicate, True)], lasts))

    copy_context().run(work)
    # Whether the transaction goes on, before each; more than that only for those that are alike, and now and then.
    assert asked < count * count / 2 + 3 * count


def test_committed_it_is_seen_by_all_contexts(table: Table, now: Now) -> None:
    log = log_of(table, now)
    log.confirm()
    row = table.add(1)
    elsewhere = copy_context()
    pending = Pending([row], lambda: True)
    log.add_pending(pending)
    log.commit([row], pending)
    assert elsewhere.run(lambda: voids(log))
    assert not log.has_own
    assert log.confirm()
    assert log.good_until > now.at
    assert not any(asked.startswith("rows") for asked in table.asked)


def test_committed_and_not_told_yet_it_is_read(table: Table, now: Now) -> None:
    wall = Wall()
    log = log_of(table, now, wall)
    log.confirm()
    row = Row(1, b"1" * 16, EVERYTHING, True)
    pending = Pending([row], lambda: row not in table.rows_in_it)
    log.add_pending(pending)
    table.rows_in_it.append(row)
    # What lies on the board is of before, and nobody has come to clear it.
    assert wall.state == State(0, 0, 0)
    table.error = OSError()
    assert log.confirm()
    assert log.good_until == float("-inf")
    table.error = None
    now.at += 1.0
    assert log.confirm()
    assert voids(log)
    assert log.good_until > now.at


def test_an_undo_in_a_transaction_brings_the_older_one_back(table: Table, now: Now) -> None:
    log = log_of(table, now)
    older = table.add(1)
    newer = Row(2, b"2" * 16, EVERYTHING, True, (older.id,))
    table.rows_in_it.append(newer)
    log.confirm()
    assert log.view(KEY, FACTS).seen == newer.id
    log.add_pending(Pending([newer._replace(active=False)], lambda: True))
    assert log.view(KEY, FACTS).seen == older.id
    assert log.shared.view(KEY, FACTS).seen == newer.id


# -- when it cannot be read


def test_without_the_database_what_is_known_holds_for_the_grace(
    table: Table, now: Now, caplog: pytest.LogCaptureFixture
) -> None:
    log = log_of(table, now)
    table.add(1)
    assert log.confirm()
    began = now.at
    table.error = OSError("gone")
    with caplog.at_level("INFO", logger="llmcache.log"):
        while now.at < began + 59:
            now.at += 0.5
            assert log.confirm()
            assert voids(log)
        # Once in a recheck, and not at every call.
        assert table.asked.count("state") < 65
        now.at = began + 61
        assert not log.confirm()
        assert log.good_until < now.at
        table.error = None
        now.at += 1
        assert log.confirm()
    said = [record.getMessage().split(":")[0] for record in caplog.records]
    assert said == ["The invalidation log cannot be read", "The invalidation log can be read again."]
    assert "gone" not in caplog.text


def test_a_process_that_begins_without_it_has_the_grace_too(table: Table, now: Now) -> None:
    log = log_of(table, now)
    table.error = OSError()
    assert log.confirm()
    now.at += 59
    assert log.confirm()
    now.at += 2
    assert not log.confirm()


# -- the thread


@pytest.fixture
def ended() -> Iterator[list[Log]]:
    logs: list[Log] = []
    yield logs
    for each in logs:
        each.close()
    until(lambda: not [thread for thread in threading.enumerate() if thread.name == "llmcache-log"])


def test_a_thread_reads_while_there_are_calls(table: Table, ended: list[Log]) -> None:
    log = log_of(table, time.monotonic, recheck=0.01, thread=True)
    ended.append(log)
    assert log.confirm()
    assert table.asked == ["state"]
    # It reads on for a while, and then lets go of its connection.
    until(lambda: table.closed == 1)
    asked = table.asked.count("state")
    assert KEEP_READING - 1 <= asked <= KEEP_READING + 1
    until(lambda: log.good_until < time.monotonic())
    table.add(1)
    assert log.confirm()
    assert voids(log)
    until(lambda: table.closed == 2)


def test_the_last_reading_does_not_go_by_the_board(table: Table, ended: list[Log]) -> None:
    wall = Wall()
    wall.state = State(0, 0, 0)
    log = log_of(table, time.monotonic, wall, recheck=0.02, thread=True)
    ended.append(log)
    assert log.confirm()
    until(lambda: table.closed == 1)
    # What it finds is gone by for two ``RECHECK``; what lies on the board may be one old already.
    assert (table.asked, wall.reads) == (["state"], KEEP_READING - 1)


def test_a_connection_that_cannot_be_opened_does_not_end_the_thread(
    table: Table, ended: list[Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later rounds are waited for as this one was: nothing is left behind that looks like a round under way."""
    monkeypatch.setattr(log_module, "WAIT_SECONDS", 0.05)
    lost = [OSError(), OSError()]

    @contextmanager
    def reading() -> Iterator[None]:
        if lost:
            raise lost.pop()
        yield

    monkeypatch.setattr(table, "reading", reading)
    log = log_of(table, time.monotonic, recheck=0.02, thread=True, grace=0.05)
    ended.append(log)
    until(lambda: log.confirm() and log.good_until > time.monotonic())
    assert lost == []


def test_many_threads_wait_for_one_reading(table: Table, ended: list[Log]) -> None:
    log = log_of(table, time.monotonic, recheck=30.0, thread=True)
    ended.append(log)
    table.held.clear()
    found: list[bool] = []
    threads = [threading.Thread(target=lambda: found.append(log.confirm())) for _ in range(16)]
    for thread in threads:
        thread.start()
    until(lambda: table.asked == ["state"])
    table.held.set()
    for thread in threads:
        thread.join(30)
    assert (found, table.asked) == ([True] * 16, ["state"])


def test_a_database_that_hangs_is_waited_for_once(
    table: Table, ended: list[Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "WAIT_SECONDS", 0.05)
    log = log_of(table, time.monotonic, recheck=0.5, thread=True)
    ended.append(log)
    table.held.clear()
    waits: list[Callable[..., Any]] = []
    wait_for = log._changed.wait_for

    def counted(*given: Any) -> Any:
        waits.append(wait_for)
        return wait_for(*given)

    monkeypatch.setattr(log._changed, "wait_for", counted)
    try:
        assert log.confirm()
        assert len(waits) == 1
        # The thread may have begun some time after that.
        until(lambda: log._round_began is not None and time.monotonic() - log._round_began > 0.05)
        for _ in range(5):
            assert log.confirm()
        assert len(waits) == 1
    finally:
        table.held.set()
    until(lambda: log.good_until > time.monotonic())
