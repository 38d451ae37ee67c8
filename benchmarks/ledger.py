"""What the ledger takes of a hit and of a miss, and what bringing a call into the database takes beside them."""

import statistics
import time
import uuid
from collections.abc import Iterator

import llmcache
from benchmarks.hits import SMALL_TEXT, Small
from benchmarks.timing import interleaved
from llmcache.engine import process
from llmcache.engine.counts import tally_of
from llmcache.engine.ports import BlockingPort, settled_facts, stored_facts
from llmcache.engine.runtime import Runtime
from llmcache.models import ProviderCall
from llmcache.money import writer
from llmcache.money.usage import Usage
from llmcache.providers.base import Reply

_CALLS = 2_000


def report() -> Iterator[str]:
    """Yield the lines of the report."""
    now = process.current()
    # Beside the lines the writer would take the interpreter for itself; what it takes is measured after them.
    usual, writer.IMPORT_SECONDS = writer.IMPORT_SECONDS, 3_600.0
    yield "The ledger"
    yield f"  its share of a hit in memory: a count          {_count(now):8.2f} µs"
    yield f"  its share of a miss: three lines, two fsyncs   {_lines(now) / 1e3:8.2f} ms"
    began, before = time.perf_counter(), ProviderCall.objects.count()
    if not llmcache.flush(timeout=60):
        raise RuntimeError("the database did not take the lines")
    took = time.perf_counter() - began
    calls = ProviderCall.objects.count() - before
    writer.IMPORT_SECONDS = usual
    yield f"  the writer's thread, SQLite, {calls:,} calls      {took / calls * 1e6:8.0f} µs a call, in pieces"
    yield ""


def _count(now: Runtime) -> float:
    tally = tally_of("Small", "openai/gpt-5-mini", None, "memory", "hit")
    counts = now.counts
    found = interleaved({"nothing": lambda: None, "count": lambda: counts.count(tally)}, number=50_000)
    return statistics.median(b - a for a, b in zip(found["nothing"], found["count"], strict=True))


def _lines(now: Runtime) -> float:
    """Return what the journal's lines of a call take, what they are made of included, in µs."""
    from llmcache.answering import checked

    port = BlockingPort(now)
    call = checked(now, SMALL_TEXT, Small, {}, {}, needs_completion=False)
    body = call.plan.provider.prepare(call.plan.body, call.content, {})
    reply = Reply('{"name":"Ada","age":36}', "stop", False, "gpt-5-mini", Usage(200, 0, 20), "req", b"{}")

    def lines() -> None:
        call_id = str(uuid.uuid4())
        now.journal.started(call_id, port.started(call, body, "not_found", 1))
        cost = now.prices.cost(call.plan.model, reply.model, "https://api.openai.com/v1", reply.usage, time.time())
        now.journal.settled(call_id, settled_facts(reply, cost, 900))
        entry = port.entry(call, reply, _spent(), 0.9, b"")
        now.journal.stored(call_id, stored_facts(call, entry, len(reply.rest)))

    return statistics.median(interleaved({"lines": lines}, number=_CALLS // 20, rounds=20)["lines"])


def _spent():
    from llmcache.engine.call import Spent

    return Spent(1, Usage(200, 0, 20), 90_000_000)
