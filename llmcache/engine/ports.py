"""What carries out the policy's decisions for a synchronous caller: all of it in the caller's own thread."""

from __future__ import annotations

import json
import random
import threading
import uuid
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar

from django.views.decorators.debug import sensitive_variables

from llmcache.engine.call import Attempt, Call, Spent
from llmcache.engine.flights import ABANDONED, Flight, Landing
from llmcache.envelope import UNKNOWN_COST, Entry
from llmcache.money.pricing import Cost
from llmcache.providers.base import Body, Failure, Reply
from llmcache.tiers.stack import Found

if TYPE_CHECKING:
    from llmcache.engine.runtime import Runtime

_T = TypeVar("_T")

# How often who waits looks whether the leader's thread is still there.
_LOOK_SECONDS: Final = 1.0


class BlockingPort:
    """The port of synchronous calls; its coroutines never suspend."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._clock = runtime.clock

    def now(self) -> float:
        return self._clock.monotonic()

    def jitter(self) -> float:
        return random.random()  # noqa: S311  # spreads retries, guards nothing

    async def read(self, call: Call) -> Found | None:
        return self._runtime.tiers.read(call.key, call.max_age)

    async def read_rest(self, entry: Entry) -> bytes | None:
        return self._runtime.tiers.read_rest(entry)

    async def write(self, entry: Entry, rest: bytes) -> None:
        self._runtime.tiers.write(entry, rest)

    def board(self, flight: Flight) -> Flight:
        return self._runtime.flights.board(flight)

    def leads_itself(self, flight: Flight) -> bool:
        return flight.leader is threading.current_thread()

    async def wait(self, flight: Flight, seconds: float) -> Landing | None:
        until = self._clock.monotonic() + seconds
        while not flight.landed.wait(min(max(until - self._clock.monotonic(), 0.0), _LOOK_SECONDS)):
            if not flight.leader.is_alive():
                self._runtime.flights.land(flight, ABANDONED)
            if self._clock.monotonic() >= until:
                return None
        return flight.landing

    def land(self, flight: Flight, landing: Landing) -> None:
        self._runtime.flights.land(flight, landing)

    def make_ready(self, call: Call) -> None:
        call.plan.provider.make_ready()

    @sensitive_variables()
    async def ask(self, call: Call, body: Body, seconds: float, why: str, attempt: int) -> Attempt:
        call_id = str(uuid.uuid4())
        journal = self._runtime.journal
        journal.started(call_id, started_facts(call, why, attempt))
        began = self._clock.monotonic()
        try:
            reply = call.plan.provider.call(
                body, call_id=call_id, timeout=seconds, max_bytes=self._runtime.settings.max_value_bytes
            )
        except BaseException:
            # An interrupt: the request may have left, and the journal has to say how it ended.
            journal.failed(call_id, {"error": "interrupted", "cost": None, "in_doubt": True})
            raise
        latency_ms = round((self._clock.monotonic() - began) * 1_000)
        if isinstance(reply, Failure):
            journal.failed(call_id, failed_facts(reply, latency_ms))
            return Attempt(call_id, reply, None if reply.cost_usd is None else 0)
        asked, base_url = call.plan.model, call.plan.provider.base_url
        cost = self._runtime.prices.cost(asked, reply.model, base_url, reply.usage, self._clock.wall())
        journal.settled(call_id, settled_facts(reply, cost, latency_ms))
        return Attempt(call_id, reply, cost and cost.pico_usd)

    async def record_rejected(self, call_id: str, errors: tuple[dict[str, Any], ...]) -> None:
        self._runtime.journal.rejected(call_id, {"errors": [str(item["type"]) for item in errors[:20]]})

    async def pause(self, seconds: float) -> None:
        self._clock.sleep(seconds)

    def entry(self, call: Call, reply: Reply, spent: Spent, seconds: float) -> Entry:
        return entry_of(call, reply, spent, seconds, self._clock.wall())


def run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Return what a coroutine over a port that never suspends returns, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise RuntimeError("The policy suspended over the blocking port.")


def _short(word: str | None) -> str | None:
    """Return a word of the provider's, cut: a line of the journal has to stay a line."""
    return word if word is None else word[:200]


def started_facts(call: Call, why: str, attempt: int) -> dict[str, Any]:
    """Return what the journal says of an attempt before it leaves; never a text."""
    return {
        "key": call.key.hex(),
        "kind": call.plan.kind,
        "type": call.plan.response.name,
        "schema": call.plan.response.fingerprint,
        "model": call.plan.model,
        "tenant": call.tenant,
        "why": why,
        "attempt": attempt,
    }


def settled_facts(reply: Reply, cost: Cost | None, latency_ms: int) -> dict[str, Any]:
    """Return what the journal says of a reply; tokens and cost are None when they are not known."""
    usage = reply.usage
    return {
        "model": _short(reply.model),
        "finish": _short(reply.finish_reason),
        "refused": reply.refused,
        "request_id": _short(reply.request_id),
        "latency_ms": latency_ms,
        "input_tokens": usage and usage.input_tokens,
        "cache_read_tokens": usage and usage.cache_read_tokens,
        "cache_write_tokens": usage and usage.cache_write_tokens,
        "output_tokens": usage and usage.output_tokens,
        "cost": cost and cost.pico_usd,
        "price": cost and cost.price_id,
        "price_source": cost and cost.source,
    }


def failed_facts(failure: Failure, latency_ms: int) -> dict[str, Any]:
    """Return what the journal says of an attempt that brought no completion."""
    error = failure.error
    return {
        "error": error.code,
        "status": error.status,
        "request_id": _short(error.request_id),
        "latency_ms": latency_ms,
        "cost": None if failure.cost_usd is None else 0,
        "in_doubt": failure.in_doubt,
    }


@sensitive_variables()
def entry_of(call: Call, reply: Reply, spent: Spent, seconds: float, now: float) -> Entry:
    """Return the entry of an answer that arrived at ``now`` (wall-clock seconds)."""
    usage = spent.usage
    meta: dict[str, Any] = {
        "model": _short(reply.model),
        "asked": call.plan.model,
        "kind": call.plan.kind,
        "type": call.plan.response.name,
        "schema": call.plan.response.fingerprint,
        "finish": _short(reply.finish_reason),
        "request_id": _short(reply.request_id),
        "tags": call.tags,
        "attempts": spent.attempts,
        "usage": None
        if usage is None
        else {
            "input_tokens": usage.input_tokens,
            "cache_read_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
            "output_tokens": usage.output_tokens,
        },
        "origin": "provider",
    }
    fresh_until = now + call.max_age
    return Entry(
        key=call.key,
        # A lone surrogate in an answer cannot be UTF-8: kept as it is, it does not pass validation.
        answer=(reply.answer or "").encode(errors="surrogatepass"),
        written_at=now,
        fresh_until=fresh_until,
        stale_until=fresh_until,
        cost=UNKNOWN_COST if spent.cost is None else spent.cost,
        latency_ms=round(seconds * 1_000),
        meta=json.dumps(meta, separators=(",", ":")).encode(),
    )
