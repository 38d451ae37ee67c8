"""The ledger over the lives of processes: however they end, and whatever cannot be written, each call is there once."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.conf import settings

from llmcache.testing.sandbox import Sandbox
from tests import forks
from tests.conftest import child_environment, llmcache_settings
from tests.flows.newcomer import ROOT
from tests.flows.test_costs import SANDBOX_PRICES

SECONDS = 60.0


class Worker:
    """A process that works in this test's journal, tiers and database."""

    def __init__(self, var: Path, *words: str) -> None:
        self.process = forks.Forked(
            ["-m", "tests.flows.ledger_worker", *words], env=child_environment(LLMCACHE_TESTS_VAR=str(var)), cwd=ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def hear(self) -> dict[str, Any]:
        """Return what it says next."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.end()
        return json.loads(line)

    def tell(self) -> None:
        """Let it go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("go on\n")
        self.process.stdin.flush()

    def end(self) -> tuple[int, list[str]]:
        """Return its exit code and the lines that it wrote to standard error."""
        _, errors = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, errors.splitlines()


class Workers:
    """Processes that all end with the test."""

    def __init__(self, var: Path) -> None:
        self.var = var
        self._started: list[Worker] = []

    def start(self, *words: str) -> Worker:
        """Start a process."""
        worker = Worker(self.var, *words)
        self._started.append(worker)
        return worker

    def run(self, *words: str) -> list[dict[str, Any]]:
        """Run a process to its end, which has to be a good one, and return all that it says."""
        worker = self.start(*words)
        said, errors = worker.process.communicate(timeout=2 * SECONDS)
        assert (worker.process.returncode, errors) == (0, "")
        return [json.loads(line) for line in said.splitlines()]

    def told(self) -> dict[str, Any]:
        """Return what the next process finds in the ledger, once it has imported all that it can."""
        (told,) = self.run("tell")
        assert told["flushed"]
        return told

    def close(self) -> None:
        """End those that still run."""
        for worker in self._started:
            worker.process.kill()
            worker.process.communicate()


@pytest.fixture
def workers(var: Path, sandbox: Sandbox) -> Iterator[Workers]:
    with llmcache_settings(PRICES=SANDBOX_PRICES):
        made = Workers(var)
        try:
            yield made
        finally:
            sandbox.release()
            made.close()


def journal_files() -> list[Path]:
    folder = Path(settings.LLMCACHE["JOURNAL"])
    return sorted(folder.iterdir()) if folder.is_dir() else []


def rows(var: Path) -> dict[str, tuple[str, int | None]]:
    """Return outcome and cost of the calls in the database, as it is, without any import."""
    with contextlib.closing(sqlite3.connect(var / "db.sqlite3")) as file:
        found = file.execute("SELECT call_id, outcome, cost_pico_usd FROM llmcache_providercall").fetchall()
    assert len({call_id for call_id, *_ in found}) == len(found)
    return {str(UUID(call_id)): (outcome, cost) for call_id, outcome, cost in found}


def bill(sandbox: Sandbox) -> dict[str, int]:
    """Return what each call cost by the provider's book."""
    return {str(UUID(charge["client_request_id"])): charge["price_pico_usd"] for charge in sandbox.charges()}


def assert_agrees(told: dict[str, Any], sandbox: Sandbox, *, in_doubt: int = 0) -> None:
    """Fail unless the ledger has each charged call once, at its price, but for so many of which nobody knows."""
    costs = {str(UUID(call["call_id"])): call for call in told["calls"]}
    assert len(costs) == len(told["calls"])
    charged = bill(sandbox)
    assert set(charged) <= set(costs)
    settled = {name: call["cost_pico_usd"] for name, call in costs.items() if call["outcome"] != "in_doubt"}
    assert settled == {name: charged[name] for name in settled}
    assert len(costs) - len(settled) == told["stats"]["calls_in_doubt"] == in_doubt
    assert told["stats"]["calls"] == len(costs)
    assert sum(attempts for *_, attempts in told["buckets"]) == len(costs)


@contextlib.contextmanager
def locked(var: Path) -> Iterator[None]:
    """Hold the database's only lock for writing, as another process does."""
    with contextlib.closing(sqlite3.connect(var / "db.sqlite3", isolation_level=None)) as file:
        file.execute("BEGIN IMMEDIATE")
        yield
        file.execute("ROLLBACK")


# The end of a process


def test_a_program_that_ends_leaves_rows_and_no_file(workers: Workers, sandbox: Sandbox) -> None:
    assert workers.run("ask", "7") == [{"miss": 7, "hit": 14}]
    assert journal_files() == []
    assert rows(workers.var) == {name: ("answered", cost) for name, cost in bill(sandbox).items()}
    stats = workers.told()["stats"]
    assert (stats["misses"], stats["hits"], stats["calls"]) == (7, 14, 7)


def test_a_command_that_ends_leaves_rows_and_no_file(workers: Workers, sandbox: Sandbox) -> None:
    code = "import llmcache; print(*(llmcache.extract_with_info(t, list[int]).outcome for t in ('a', 'b', 'a')))"
    done = subprocess.run(
        [sys.executable, "manage.py", "shell", "--no-imports", "--command", code],
        env=child_environment(LLMCACHE_TESTS_VAR=str(workers.var)), cwd=ROOT, capture_output=True, text=True,
        timeout=SECONDS, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["miss", "miss", "hit"], "")
    assert (journal_files(), len(rows(workers.var))) == ([], 2)
    assert workers.told()["stats"]["hits"] == 1


def test_a_call_under_way_at_the_end_is_in_doubt_for_the_next_process(workers: Workers, sandbox: Sandbox) -> None:
    worker = workers.start("leave")
    sandbox.wait_until_received(1)
    assert worker.hear() == {"waiting": True}
    sandbox.hold()
    worker.tell()
    sandbox.wait_until_received(2)
    worker.tell()
    assert worker.end() == (0, [])
    assert [outcome for outcome, _ in rows(workers.var).values()] == ["answered"]
    assert len(journal_files()) == 1
    told = workers.told()
    assert Counter(call["outcome"] for call in told["calls"]) == {"answered": 1, "in_doubt": 1}
    assert (told["stats"]["calls_in_doubt"], told["files"]) == (1, [])


def test_what_is_answered_in_the_last_cycle_is_not_deleted_with_its_file(workers: Workers, sandbox: Sandbox) -> None:
    assert workers.run("answered_late") == []
    assert sandbox.calls == 5
    assert journal_files() == []
    assert_agrees(workers.told(), sandbox)


@pytest.mark.parametrize("how", ["_exit", "SIGTERM", "SIGKILL"])
def test_the_next_process_finds_the_calls_of_one_that_died(how: str, workers: Workers, sandbox: Sandbox) -> None:
    worker = workers.start("die", how, "")
    assert worker.hear() == {"miss": 2, "hit": 1}
    worker.tell()
    assert worker.end()[0] == (0 if how == "_exit" else -signal.Signals[how])
    assert (rows(workers.var), len(journal_files())) == ({}, 1)
    told = workers.told()
    assert_agrees(told, sandbox)
    # What had been counted went with it.
    assert (told["files"], told["stats"]["misses"], told["stats"]["hits"]) == ([], 0, 0)


def test_a_locked_database_does_not_hold_up_the_end(workers: Workers, sandbox: Sandbox) -> None:
    with locked(workers.var):
        worker = workers.start("ask", "3")
        assert worker.hear() == {"miss": 3, "hit": 6}
        assert worker.end() == (0, [])
        assert (rows(workers.var), len(journal_files())) == ({}, 1)
    told = workers.told()
    assert_agrees(told, sandbox)
    assert told["files"] == []


def test_without_tables_calls_are_answered_and_come_in_after_migrate(
    var: Path, workers: Workers, sandbox: Sandbox
) -> None:
    (var / "db.sqlite3").unlink()
    worker = workers.start("wait_and_go_on")
    assert worker.hear() == {"miss": 2}
    worker.tell()
    assert worker.hear() == {"miss": 1}
    # `stats()` has no tables to ask either: that is the program's own error.
    code, errors = worker.end()
    assert code == 1
    said = [line for line in errors if "cannot be written" in line]
    assert (len(said), "manage.py migrate" in said[0]) == (1, True)
    assert len(journal_files()) == 1
    command = ["manage.py", "migrate", "--verbosity", "0"]
    forks.run(command, env=child_environment(LLMCACHE_TESTS_VAR=str(var)), cwd=ROOT, timeout=SECONDS, check=True)
    assert_agrees(workers.told(), sandbox)


NOWHERE = """
import django; django.setup()
import llmcache
from tests.flows.ledger_worker import outcome
print(outcome("Ada"), outcome("Grace"), outcome("Ada"))
for ask in (llmcache.flush, llmcache.stats):
    try:
        ask()
    except llmcache.ConfigurationError as error:
        print(error)
print(outcome("Grace"), outcome("Joan"))
"""


def test_without_a_database_of_that_name_calls_are_answered_and_come_in_with_the_next_process(
    workers: Workers, sandbox: Sandbox
) -> None:
    with llmcache_settings(DATABASE="nowhere"):
        environment = child_environment(LLMCACHE_TESTS_VAR=str(workers.var))
        done = forks.run(["-c", NOWHERE], env=environment, cwd=ROOT, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    calls, *told, later = done.stdout.splitlines()
    assert (calls, later) == ("miss miss hit", "hit miss")
    says = "LLMCACHE['DATABASE'] names 'nowhere', which is not in DATABASES. Add it there, or name another."
    assert told == [says] * 2
    assert "Traceback" not in done.stderr
    (said,) = [line for line in done.stderr.splitlines() if "ledger" in line]
    assert said.startswith("The ledger's database 'nowhere' cannot be written (ConnectionDoesNotExist: ")
    assert len(journal_files()) == 1
    assert_agrees(workers.told(), sandbox)


# Forks


@pytest.mark.parametrize("how", ["exit", "_exit"])
def test_a_preloading_server_counts_each_child_once(how: str, workers: Workers, sandbox: Sandbox) -> None:
    before, children, after, told = workers.run("fork", how)
    assert (before, children, after) == ({"miss": 1, "hit": 1}, {"children": [0] * 4}, {"hit": 1})
    assert told["flushed"]
    assert (sandbox.calls, journal_files()) == (5, [])
    assert_agrees(told, sandbox)
    stats = told["stats"]
    # A child that ends by os._exit takes its counts with it, and no call.
    expected = (5, 2 + 4 * 2) if how == "exit" else (1, 2)
    assert (stats["misses"], stats["hits"]) == expected
    assert workers.told()["stats"] == stats


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_of_multiprocessing_are_counted_once(method: str, workers: Workers, sandbox: Sandbox) -> None:
    before, children, after, told = workers.run("processes", method)
    assert (before, children, after) == ({"miss": 1, "hit": 1}, {"children": [0] * 4}, {"hit": 1})
    assert told["flushed"]
    assert_agrees(told, sandbox)
    assert (told["stats"]["misses"], told["stats"]["hits"]) == (5, 2 + 4 * 2)


def test_a_child_forked_beside_a_busy_writer_can_use_the_database(workers: Workers, sandbox: Sandbox) -> None:
    assert workers.run("fork_busy", "20") == [{"ends": {"0": 20}}]
    assert_agrees(workers.told(), sandbox)


# What cannot be written


def test_no_call_fails_when_no_file_may_grow(workers: Workers, sandbox: Sandbox) -> None:
    worker = workers.start("limited")
    assert worker.hear() == {"miss": 12}
    assert worker.hear() == {"waiting": True, "flushed": False}
    told = worker.hear()
    code, errors = worker.end()
    assert code == 0
    ledger = [line for line in errors if "journal" in line.lower()]
    assert [("cannot be written" in line, "is written again" in line) for line in ledger[:1]] == [(True, False)]
    assert told["flushed"]
    assert_agrees(told, sandbox)
    assert len(told["calls"]) == 13


def test_without_a_folder_lines_come_in_from_memory(workers: Workers, sandbox: Sandbox, tmp_path: Path) -> None:
    """A file lies where the folder should be: no rights matter, not even root's."""
    (tmp_path / "journal").touch()
    worker = workers.start("ask", "4")
    assert worker.hear() == {"miss": 4, "hit": 8}
    code, errors = worker.end()
    assert (code, len(errors), "cannot be written" in errors[0]) == (0, 1, True)
    assert rows(workers.var) == {name: ("answered", cost) for name, cost in bill(sandbox).items()}


def test_without_a_folder_a_call_under_way_at_the_end_is_in_doubt(
    workers: Workers, sandbox: Sandbox, tmp_path: Path
) -> None:
    (tmp_path / "journal").touch()
    worker = workers.start("blocked_and_leave")
    sandbox.wait_until_received(1)
    assert worker.hear() == {"waiting": True}
    sandbox.hold()
    worker.tell()
    sandbox.wait_until_received(2)
    worker.tell()
    assert worker.end()[0] == 0
    assert sorted(outcome for outcome, _ in rows(workers.var).values()) == ["answered", "in_doubt"]


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_full_journal_refuses_calls_and_takes_them_again(way: str, workers: Workers, sandbox: Sandbox) -> None:
    with llmcache_settings(JOURNAL_MAX_BYTES=12_000, ON_LEDGER_FULL="refuse"):
        with locked(workers.var):
            worker = workers.start("full", way, "30")
            said = worker.hear()
            refused = "ledger_full: 0 attempts, $0"
            assert said.keys() == {"miss", refused}
            assert said["miss"] == sandbox.received == 30 - said[refused]
        worker.tell()
        assert worker.hear() == {"flushed": True}
        assert worker.hear() == {"miss": 5}
        told = worker.hear()
        code, errors = worker.end()
    assert (code, len([line for line in errors if "JOURNAL_MAX_BYTES" in line])) == (0, 1)
    assert len(told["calls"]) == sandbox.received
    assert_agrees(told, sandbox)


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_full_journal_answers_all_the_same(way: str, workers: Workers, sandbox: Sandbox) -> None:
    with llmcache_settings(JOURNAL_MAX_BYTES=12_000):
        with locked(workers.var):
            worker = workers.start("full", way, "30")
            assert worker.hear() == {"miss": 30}
        worker.tell()
        assert [worker.hear(), worker.hear()] == [{"flushed": True}, {"miss": 5}]
        told = worker.hear()
        code, errors = worker.end()
    assert (code, len([line for line in errors if "JOURNAL_MAX_BYTES" in line])) == (0, 1)
    assert_agrees(told, sandbox)
    assert len(told["calls"]) == 35


# Damaged files


def edited(path: Path, event: str) -> str:
    """Change one digit in the last line of an event, and return the line's call."""
    lines = path.read_bytes().splitlines(keepends=True)
    at = max(number for number, line in enumerate(lines) if f'"e":"{event}"'.encode() in line)
    call_id = json.loads(lines[at].split(b" ", 2)[2])["id"]
    digit = lines[at].index(b'"t":') + 4
    lines[at] = lines[at][:digit] + (b"2" if lines[at][digit : digit + 1] == b"1" else b"1") + lines[at][digit + 1 :]
    with path.open("r+b") as file:
        file.write(b"".join(lines))
    return call_id


def test_damaged_lines_of_a_dead_process_cost_no_other(workers: Workers, sandbox: Sandbox) -> None:
    worker = workers.start("die", "SIGKILL", "")
    assert worker.hear() == {"miss": 2, "hit": 1}
    worker.tell()
    worker.end()
    (path,) = journal_files()
    call_id = edited(path, "settled")
    with path.open("ab") as file:
        file.write(path.read_bytes()[:100])
    reader = workers.start("tell")
    told = reader.hear()
    code, errors = reader.end()
    assert (told["flushed"], told["unread"], told["files"], code) == (True, 2, [], 0)
    assert [("2 lines" in line, "damaged or torn" in line) for line in errors] == [(True, True)]
    assert {str(UUID(call["call_id"])): call["outcome"] for call in told["calls"]}[call_id] == "in_doubt"
    assert_agrees(told, sandbox, in_doubt=1)


@pytest.mark.parametrize("event", ["started", "settled", "stored"])
def test_a_damaged_line_of_a_living_process_costs_no_call(event: str, workers: Workers, sandbox: Sandbox) -> None:
    worker = workers.start("wait_and_go_on")
    assert worker.hear() == {"miss": 2}
    (path,) = journal_files()
    call_id = edited(path, event)
    worker.tell()
    assert worker.hear() == {"miss": 1}
    told = worker.hear()
    code, errors = worker.end()
    assert (told["flushed"], told["unread"], code) == (True, 1, 0)
    assert [("1 lines" in line, "damaged or torn" in line) for line in errors] == [(True, True)]
    assert journal_files() == []
    told = workers.told()
    outcomes = {str(UUID(call["call_id"])): call["outcome"] for call in told["calls"]}
    assert (len(outcomes), outcomes[call_id]) == (3, "in_doubt" if event == "settled" else "answered")
    assert_agrees(told, sandbox, in_doubt=int(event == "settled"))


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_journal_that_somebody_deletes_holds_up_nothing(what: str, workers: Workers, sandbox: Sandbox) -> None:
    worker = workers.start("wait_and_go_on")
    assert worker.hear() == {"miss": 2}
    for path in journal_files():
        path.unlink()
    if what == "folder":
        Path(settings.LLMCACHE["JOURNAL"]).rmdir()
    worker.tell()
    assert worker.hear() == {"miss": 1}
    told = worker.hear()
    code, errors = worker.end()
    assert (told["flushed"], told["unread"], code) == (True, 0, 0)
    # The open descriptor still has the lines.
    assert_agrees(told, sandbox)
    assert sum("deleted" in line for line in errors) == 1


# Several at once


def test_two_processes_that_claim_one_folder_bring_each_call_in_once(workers: Workers, sandbox: Sandbox) -> None:
    dying = [workers.start("die", "_exit", f"worker {number}") for number in range(5)]
    assert [worker.hear() for worker in dying] == [{"miss": 2, "hit": 1}] * 5
    # None of them dies while another begins, and would take its file over.
    for worker in dying:
        worker.tell()
    for worker in dying:
        assert worker.end() == (0, [])
    assert (len(journal_files()), rows(workers.var)) == (5, {})
    both = [workers.start("claim") for _ in range(2)]
    assert [worker.hear() for worker in both] == [{"ready": True}] * 2
    for worker in both:
        worker.tell()
    for worker in both:
        assert worker.hear() == {"flushed": True}
        assert worker.end() == (0, [])
    told = workers.told()
    assert (journal_files(), told["files"]) == ([], [])
    assert_agrees(told, sandbox)


def test_a_journal_that_rotates_under_load_loses_nothing(workers: Workers, sandbox: Sandbox) -> None:
    worker = workers.start("load", "4", "60", "4000", "0.005")
    assert worker.hear() == {"began": True}
    assert worker.end() == (0, [])
    assert journal_files() == []
    assert sandbox.calls == 4 * 61
    assert rows(workers.var) == {name: ("answered", cost) for name, cost in bill(sandbox).items()}
    told = workers.told()
    assert_agrees(told, sandbox)
    assert told["stats"]["misses"] == 4 * 61


def test_killed_while_it_rotates(workers: Workers, sandbox: Sandbox) -> None:
    """A new file with every few calls; each worker lives until so many calls have been made."""
    killed, threads = 8, 3
    for number in range(killed):
        for path in Path(settings.LLMCACHE["DISK_PATH"]).glob("*"):
            path.unlink()
        before = sandbox.received
        worker = workers.start("load", str(threads), "10000", "1500", "0.002")
        assert worker.hear() == {"began": True}
        sandbox.wait_until_received(before + threads + 5 * number)
        worker.process.kill()
        worker.end()
    told = workers.told()
    assert (told["files"], told["unread"] <= killed) == ([], True)
    doubtful = told["stats"]["calls_in_doubt"]
    assert doubtful <= killed * threads
    assert_agrees(told, sandbox, in_doubt=doubtful)


# Transactions and clocks


def test_a_rollback_keeps_the_rows_and_a_flush_within_a_transaction_writes_nothing(
    workers: Workers, sandbox: Sandbox
) -> None:
    after_rollback, inside, told = workers.run("transactions")
    assert after_rollback == {"flushed": True, "rows": 1}
    assert inside == {"flushed": False, "rows": 1}
    assert_agrees(told, sandbox)
    assert (told["stats"]["calls"], told["stats"]["misses"]) == (2, 2)


def test_counts_are_of_the_hour_in_which_they_were_made_whenever_they_are_written(
    workers: Workers, sandbox: Sandbox
) -> None:
    worker = workers.start("hours")
    assert worker.hear() == {"first": True}
    with locked(workers.var):
        worker.tell()
        assert worker.hear() == {"locked": False}
    worker.tell()
    told = worker.hear()
    assert worker.end() == (0, [])
    before, after = "2023-11-14 22:00:00+00:00", "2023-11-14 23:00:00+00:00"
    counts = {(hour, outcome): (count, attempts) for hour, _, outcome, count, attempts in told["buckets"]}
    assert counts == {(before, "miss"): (2, 2), (before, "hit"): (1, 0), (after, "hit"): (2, 0)}
