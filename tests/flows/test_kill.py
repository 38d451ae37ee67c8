"""Processes killed under load: no charged call without a row, and the ledger and the provider's book agree."""

import os
from collections.abc import Callable
from decimal import Decimal

import pytest

from llmcache.testing.sandbox import Sandbox
from tests.toys import Toy, bill

KILLS = int(os.environ.get("LLMCACHE_TEST_KILLS", "15"))
THREADS = 4
PICO = 10**12


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_killed_again_and_again_under_load(database: str, sandbox: Sandbox, make_toy: Callable[..., Toy]) -> None:
    sandbox.latency = 0.002
    # Imports as often as they can be had, so that some of those who are killed are in the middle of one.
    toy = make_toy(database, sandbox.base_url, TOY_IMPORT_SECONDS="0.005")
    assert toy.manage("kill_workers", str(KILLS), "20261121").split() == [str(KILLS)]
    ledger = toy.told("ledger")
    assert ledger["flushed"]
    assert list((toy.home / ".local" / "state" / "llmcache" / "journal").iterdir()) == []

    charged, rows = bill(sandbox), {call["call_id"]: call for call in ledger["calls"]}
    assert len(charged) == sandbox.calls > KILLS * THREADS
    assert len(rows) == len(ledger["calls"])
    # The workers themselves brought calls into the database, and were killed while they did.
    assert ledger["before"] > 0
    assert set(charged) <= set(rows), "a charged call has no row"
    assert {call["outcome"] for call in rows.values()} <= {"answered", "in_doubt"}
    settled = {name: call["cost_pico_usd"] for name, call in rows.items() if call["outcome"] == "answered"}
    doubtful = {name: call for name, call in rows.items() if call["outcome"] == "in_doubt"}
    assert settled == {name: charged[name] for name in settled}
    # The last two are killed without waiting for them.
    assert 0 < len(doubtful) <= (KILLS + 2) * THREADS
    assert {call["cost_pico_usd"] for call in doubtful.values()} == {None}

    stats = ledger["stats"]
    assert (stats["calls"], stats["calls_in_doubt"], stats["calls_unpriced"]) == (len(rows), len(doubtful), 0)
    assert Decimal(stats["spent_usd"]) == Decimal(sum(settled.values())) / PICO
    total = Decimal(sum(charged.values())) / PICO
    assert total <= Decimal(stats["spent_usd"]) + Decimal(stats["in_doubt_usd"])
