"""Somebody's project, served by threads over SQLite and PostgreSQL: the ledger is in nobody's way."""

import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from llmcache.testing.sandbox import Sandbox
from tests.toys import DATABASES, Toy, bill

THREADS = 4
REQUESTS = {"note": 40, "look": 55, "fail": 55}
EAGER = {"TOY_IMPORT_SECONDS": "0.005"}

MakeToy = Callable[..., Toy]
Get = Callable[..., tuple[int, Any]]


class Load:
    """Requests from several threads, each with a text of its own; ends early once ``enough`` says so."""

    def __init__(self, get: Get, enough: Callable[["Load"], bool] = lambda load: False) -> None:
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.told: list[dict[str, Any]] = []
        self._get = get
        self._enough = enough
        pages = [page for page, count in REQUESTS.items() for _ in range(count)]
        random.Random(20_261_121).shuffle(pages)
        self._pages = iter(enumerate(pages))
        self._lock = threading.Lock()
        threads = [threading.Thread(target=self._work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _next(self) -> tuple[int, str] | None:
        with self._lock:
            return None if self._enough(self) else next(self._pages, None)

    def _work(self) -> None:
        while (one := self._next()) is not None:
            number, page = one
            status, told = self._get(page, f"{page}-{number}")
            with self._lock:
                self.statuses[page, status] += 1
                if told is not None:
                    self.told.append(told)


@pytest.mark.parametrize("database", DATABASES)
def test_requests_from_4_threads(database: str, sandbox: Sandbox, make_toy: MakeToy) -> None:
    toy = make_toy(database, sandbox.base_url, **EAGER)
    with toy.served() as get:
        load = Load(get)
        status, ledger = get("ledger")
    expected = {(page, 500 if page == "fail" else 200): count for page, count in REQUESTS.items()}
    assert load.statuses == expected, toy.errors()[-3_000:]
    assert "database is locked" not in toy.errors()
    assert {told["outcome"] for told in load.told} == {"miss"}
    # What a page counts on its own connection while it waits for an answer.
    assert [told["ours"] for told in load.told if told["ours"]] == []
    assert not any(told["wrapper_left"] for told in load.told)
    assert (status, ledger["flushed"], ledger["notes"]) == (200, True, REQUESTS["note"])
    charged = bill(sandbox)
    assert len(ledger["calls"]) == sandbox.calls == len(charged) == sum(REQUESTS.values())
    assert {call["call_id"]: call["cost_pico_usd"] for call in ledger["calls"]} == charged
    # The calls of pages that failed, whose transactions were rolled back, among them.
    assert Counter(call["kind"] for call in ledger["calls"]) == REQUESTS


@pytest.mark.parametrize("database", ["sqlite", "sqlite-wal"])
def test_without_the_gate_the_same_requests_fail(database: str, sandbox: Sandbox, make_toy: MakeToy) -> None:
    """What the test above would see if the writer did not look at its callers' transactions."""
    toy = make_toy(database, sandbox.base_url, **EAGER, TOY_GATE="open")
    with toy.served() as get:
        load = Load(get, enough=lambda load: load.statuses["note", 500] > 0)
    assert load.statuses["note", 500] > 0
    assert "database is locked" in toy.errors()


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_call_makes_no_statement_on_any_connection(database: str, sandbox: Sandbox, make_toy: MakeToy) -> None:
    """Counted on every connection that the process opens; the import waits for an hour, or for ``flush()``."""
    toy = make_toy(database, sandbox.base_url, TOY_IMPORT_SECONDS="3600")
    told = toy.told("count_statements")
    # The log of invalidations is read by a thread of its own, on its own connection.
    assert all("llmcache_invalidation" in statement for statement in told.pop("by_the_log"))
    assert told == {"calls": 8, "during": [], "before_flush": 0, "rows": 8, "flushed": True}


def test_the_wheel_is_what_runs(sandbox: Sandbox, make_toy: MakeToy) -> None:
    toy = make_toy("sqlite", sandbox.base_url)
    where = toy.run("-c", "import llmcache; print(llmcache.__file__)").stdout.strip()
    assert where.startswith(toy.environment["PYTHONPATH"])
    assert "llmcache" in toy.manage("showmigrations")
    toy.manage("check", "--fail-level=WARNING", "--database=default")
    toy.manage("makemigrations", "--check", "--dry-run")
