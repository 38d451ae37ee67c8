"""A database that stops and comes back while calls miss: no call notices, and each is in the ledger once."""

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from decimal import Decimal

from llmcache.testing.sandbox import Sandbox
from tests.services import Postgres
from tests.toys import Toy, bill

CALLS = int(os.environ.get("LLMCACHE_TEST_OUTAGE_CALLS", "300"))
"""How many calls are answered while the database is stopped, at the least."""
SECONDS = float(os.environ.get("LLMCACHE_TEST_OUTAGE_SECONDS", "2"))
"""How long it is stopped, at the least."""
_DEADLINE = 120.0


def test_the_database_stops_during_misses(sandbox: Sandbox, postgres: Postgres, make_toy: Callable[..., Toy]) -> None:
    toy = make_toy("postgresql", sandbox.base_url, TOY_IMPORT_SECONDS="0.01")
    said: Counter[str] = Counter()
    with toy.started("manage.py", "ask") as asking:
        assert asking.stdout is not None
        assert asking.stdin is not None

        def hear(count: int, until: float = 0.0) -> None:
            """Read as many answers, and go on until a moment."""
            deadline = time.monotonic() + _DEADLINE
            while count > 0 or time.monotonic() < until:
                line = asking.stdout.readline().strip()  # type: ignore[union-attr]
                assert line, toy.errors()
                assert time.monotonic() < deadline
                said[line] += 1
                count -= 1

        hear(50)
        postgres.stop()
        try:
            hear(CALLS, time.monotonic() + SECONDS)
        finally:
            postgres.start()
        hear(50)
        asking.stdin.close()
        *rest, last = asking.stdout.read().splitlines()
    said.update(rest)
    assert set(said) == {"answer"}
    assert json.loads(last) == {"flushed": True}

    charged = bill(sandbox)
    assert said.total() == sandbox.calls == len(charged)
    ledger = toy.told("ledger")
    assert {call["call_id"]: call["cost_pico_usd"] for call in ledger["calls"]} == charged
    assert len(ledger["calls"]) == len(charged)
    assert Decimal(ledger["stats"]["spent_usd"]) == Decimal(sum(charged.values())) / 10**12
    assert (ledger["stats"]["calls"], ledger["stats"]["calls_in_doubt"]) == (len(charged), 0)
    # A database that is gone is a change of state: said once, and not for every try.
    said = [line.split(" (")[0].split(": ")[0] for line in toy.errors().splitlines()]
    assert [line for line in said if "ledger" in line] == [
        "The ledger's database 'default' cannot be written",
        "The ledger's database 'default' is written again.",
    ]
    # The process may end before the log is read for the next time.
    log = ["The invalidation log cannot be read", "The invalidation log can be read again."]
    assert [line for line in said if "ledger" not in line] in (log[:1], log)
