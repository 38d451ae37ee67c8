"""Several processes at one run of warming: a budget that holds, and what becomes of it when one is killed."""

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmcache.testing.sandbox import Sandbox, faults
from tests.conftest import llmcache_settings
from tests.flows.test_invalidation_processes import Worker, Workers, caches_over
from tests.flows.test_warming import PRICES

CAP = 100
CLAIM = 0.6


@pytest.fixture(params=["sqlite", "postgresql"])
def workers(request: pytest.FixtureRequest, var: Path, tmp_path: Path, sandbox: Sandbox) -> Iterator[Workers]:
    variables: dict[str, str] = {}
    if request.param == "postgresql":
        variables["LLMCACHE_TEST_DATABASE"] = json.dumps(request.getfixturevalue("postgresql_tables"))
    prices = {name: {key: str(each) for key, each in price.items()} for name, price in PRICES.items()}
    kinds = {"person": {"type": "tests.flows.log_worker.Person"}}
    with llmcache_settings(TIERS=["memory", "shared"], KINDS=kinds, PRICES=prices, MAX_RETRIES=2):
        made = Workers(var, caches_over(None, tmp_path), **variables)
        try:
            yield made
        finally:
            made.close()


def started(workers: Workers, count: int) -> list[Worker]:
    made = [workers.start("warming_worker") for _ in range(count)]
    for worker in made:
        worker.do("claims_end_after", seconds=CLAIM)
    return made


def asked(sandbox: Sandbox) -> Counter[str]:
    return Counter(request.body["messages"][-1]["content"] for request in sandbox.requests)


def both(made: list[Worker], what: str, **arguments: Any) -> list[Any]:
    for worker in made:
        worker.tell(what, **arguments)
    return [worker.hear() for worker in made]


def test_a_budget_holds_and_a_killed_process_is_gone_on_for(workers: Workers, sandbox: Sandbox) -> None:
    made = started(workers, 2)
    one, other = made

    # So many calls, and no more, questions asked again among them.
    sandbox.fail(faults.wrong_json(), every=9)
    run = one.do("prepare", texts=[f"text {number}" for number in range(150)], max_calls=CAP)
    assert "inside a transaction" in other.do("work_inside_a_transaction", run=run)
    told = both(made, "work", run=run, concurrency=8)
    assert {each["state"] for each in told} == {"exhausted"}
    assert CAP - 10 < sandbox.received <= CAP
    permits, held, spent = one.do("purse", run=run)
    assert (permits, held) == (sandbox.received, spent)
    assert told[0]["warmed"] < CAP
    sandbox.heal()

    # Of two that run one plan, one does.
    plan = one.do("plan", texts=[f"planned {number}" for number in range(40)])
    refused, run = sorted(both(made, "run_plan", plan=plan), key=len, reverse=True)[::-1]
    assert refused == "invalid_request"

    # Killed with items in its hands: they come back, and what was under way is in doubt.
    before = sandbox.received
    sandbox.fail(faults.slow(0.05), times=None)
    one.tell("work", run=run, concurrency=4)
    sandbox.wait_until_received(before + 12)
    passed = sandbox.received
    sandbox.hold()
    # What comes from now on waits.
    sandbox.wait_until_received(passed + 4)
    os.kill(one.process.pid, signal.SIGKILL)
    one.process.wait()
    sandbox.heal()
    sandbox.release()
    done = other.do("work", run=run, concurrency=4)
    assert (done["state"], done["warmed"] + done["live"], done["failed"]) == ("done", 40, 0)
    done = other.do("progress", run=run)
    times = {text: count for text, count in asked(sandbox).items() if text.startswith("planned")}
    twice = sum(count - 1 for count in times.values())
    assert (len(times), max(times.values())) == (40, 2)
    assert 0 < twice <= done["in_doubt"] <= 4
    calls = other.do("calls")
    # One may have been written down, and not have left.
    assert sandbox.received <= sum(calls.values()) <= sandbox.received + done["in_doubt"]
    assert calls["in_doubt"] == done["in_doubt"]
    # The plan can be run again, and has nothing left to ask.
    again = other.do("run_plan", plan=plan)
    assert other.do("work", run=again)["live"] == 40
    assert other.do("texts_left") == told[0]["to_ask"] == told[1]["to_ask"] >= 50
