"""Tables that calls fill, with bounds so small that some hundred calls fill them: each stays within its own."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, create_model

import llmcache
from llmcache import plans, prepared
from llmcache.engine import counts, process, schemas
from llmcache.testing.sandbox import Sandbox
from tests.conftest import llmcache_settings

BOUND = 8
CALLS = 5 * BOUND
MEMORY_BYTES = 12_000
OTHERS = 3
"""Sums of what there is no more room for: misses, hits in memory, hits below it."""


class Person(BaseModel):
    """A person."""

    name: str


@pytest.fixture(autouse=True)
def bounds(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> Iterator[None]:
    """Small bounds, and a provider that knows one text."""
    for module, names in (
        (plans, ("MAX_PLANS",)),
        (prepared, ("MAX_PREPARED", "MAX_TALLIES_BELOW")),
        (schemas, ("MAX_SCHEMAS",)),
        (counts, ("MAX_TALLIES", "MAX_BUCKETS", "MAX_ENTRIES")),
    ):
        for name in names:
            assert getattr(module, name) > BOUND
            monkeypatch.setattr(module, name, BOUND)
    sandbox.answers["Ada"] = {"name": "Ada"}
    with llmcache_settings(MEMORY_BYTES=MEMORY_BYTES):
        process.install(None)
        yield


def sizes() -> dict[str, int]:
    """Return how much is in each table; the counts of this thread are handed on."""
    now = process.current()
    found = {
        "plans": len(now.plans._plans),
        "types": len(now.plans._types),
        "kinds": len(now.plans._kinds),
        "prepared calls": len(now.prepared._found),
        "tallies of a prepared call": max((len(each._below) for each in now.prepared._found.values()), default=0),
        "schema texts": len(now.schemas._seen),
        "tallies of a thread": max(len(mine.totals) for mine in now.counts._live.values()),
    }
    now.counts.collect(0)
    waiting = now.counts._waiting
    return {
        **found,
        "totals": len(now.counts._totals) - OTHERS,
        "sums that wait": len(waiting.buckets) - OTHERS,
        "entries whose hits wait": len(waiting.entries),
    }


def ask(content: str, response_model: Any, **options: Any) -> None:
    """Make a call that misses, one that memory answers, and one that the tier below does."""
    for _ in range(2):
        llmcache.extract(content, response_model, **options)
    memory = process.current().memory
    assert memory is not None
    assert 0 < memory.used_bytes <= MEMORY_BYTES
    assert len(memory._queue) <= 2 * len(memory) + 64
    memory.delete(bytes.fromhex(llmcache.extract_with_info(content, response_model, **options).key))
    llmcache.extract(content, response_model, **options)


def call(what: str, number: int) -> None:
    """Make calls that differ from those with another number in one thing."""
    if what == "type":
        return ask("Ada", create_model("Person", **{f"name_{number}": (str, ...)}))  # type: ignore[call-overload]
    if what == "text":
        return ask(f"Ada, number {number}", Person)
    return ask("Ada", Person, **{what: number if what == "seed" else f"number {number}"})


FULL = {
    "system": {"plans", "prepared calls", "tallies of a thread", "entries whose hits wait"},
    "seed": {"plans", "prepared calls", "tallies of a thread", "entries whose hits wait"},
    "tenant": {"prepared calls", "tallies of a thread", "sums that wait", "entries whose hits wait"},
    "text": {"tallies of a prepared call", "tallies of a thread", "entries whose hits wait"},
    "kind": {
        *("plans", "kinds", "prepared calls", "tallies of a thread", "totals", "sums that wait"),
        "entries whose hits wait",
    },
    "type": {
        *("plans", "types", "prepared calls", "schema texts", "tallies of a thread", "entries whose hits wait"),
    },
}
"""What is full at last, by what is another in each call."""


@pytest.mark.parametrize("what", FULL)
def test_calls_that_all_differ_fill_no_table_beyond_its_bound(what: str, sandbox: Sandbox) -> None:
    most: dict[str, int] = {}
    for number in range(CALLS):
        call(what, number)
        most = {name: max(size, most.get(name, 0)) for name, size in sizes().items()}
    assert sandbox.received == CALLS
    assert {name: size for name, size in most.items() if size > BOUND} == {}
    assert {name for name, size in most.items() if size == BOUND} == FULL[what]


@pytest.mark.parametrize("what", ["system", "instructions"])
def test_long_texts_fill_no_more_than_their_budgets(
    what: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system prompt, and a parameter that is as long."""
    monkeypatch.setattr(plans, "MAX_PLANS", CALLS)
    monkeypatch.setattr(prepared, "MAX_PREPARED", CALLS)
    monkeypatch.setattr(plans, "MAX_PLANS_BYTES", 10_000)
    monkeypatch.setattr(prepared, "MAX_PREPARED_CHARACTERS", 9_000)
    now = process.current()
    most = [0, 0]
    for number in range(CALLS):
        llmcache.extract("Ada", Person, **{what: f"number {number} " * 100})
        kept = sum(plan.size for plan in now.plans._plans.values())
        plans_found = [each.plan for each in now.prepared._found.values()]
        found = sum(len(each.system or "") + len(each.params.get(what, "")) for each in plans_found)
        most = [max(most[0], kept), max(most[1], found)]
        assert (kept, found) == (now.plans._size, now.prepared._size)
    assert 8_000 < most[0] <= 10_000
    assert 7_000 < most[1] <= 9_000
