"""What carries out the policy's decisions for a synchronous caller: all of it in the caller's own thread.

And what it shares with ``asyncio_port``, which does so for an asynchronous one.
"""

from __future__ import annotations

import itertools
import json
import random
import uuid
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, cast

from django.views.decorators.debug import sensitive_variables

from llmcache.components import components_of, content_hash
from llmcache.engine import departures
from llmcache.engine.call import Attempt, Call, Spent
from llmcache.engine.corrected import Corrected, HumanAnswer, corrected_of
from llmcache.engine.flights import ABANDONED, Flight, Landing
from llmcache.engine.landings import LED_ALONE, Turned, error_of, limit_of, outcome_of
from llmcache.engine.leases import ANY, HEAD_BYTES, Turn
from llmcache.engine.lifetimes import FOREVER, lasting
from llmcache.engine.log_copy import Judge, View, mark_of
from llmcache.envelope import MOST_COST, UNKNOWN_COST, Entry
from llmcache.exceptions import LedgerFull, LLMCacheError
from llmcache.money.journal_files import JournalRecord
from llmcache.money.pricing import Cost, told_cost
from llmcache.providers.base import Body, BrokenOff, Failure, Reply, Told
from llmcache.tiers.spending import Spending
from llmcache.tiers.stack import Found

if TYPE_CHECKING:
    from llmcache.engine.runtime import Runtime
    from llmcache.money.usage import Usage

_T = TypeVar("_T")

_MOST_TAGS: Final = 50
_TOKEN_CLASSES: Final = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens")

# How often who waits looks whether the leader's thread is still there.
_LOOK_SECONDS: Final = 1.0


class PortBase:
    """What both ports do alike: nothing here takes time."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._clock = runtime.clock
        self._spending = Spending()

    def now(self) -> float:
        return self._clock.monotonic()

    def view_now(self, call: Call) -> View:
        """Return the rows of the log that are in force, after a look whether there are more; that may take time."""
        log = self._runtime.log
        is_confirmed = log.confirm()
        view = log.view(call.key, call.facts)
        if call.older_keys and view.correction is None:
            # What was corrected before the project's secret has changed is corrected still.
            older = (log.view(key, call.facts).correction for key in call.older_keys)
            view = view._replace(correction=next((each for each in older if each is not None), None))
        return view if is_confirmed else view._replace(is_confirmed=False)

    @sensitive_variables()
    def corrected_of(self, call: Call, view: View, found: HumanAnswer | None) -> Corrected | None:
        """Return the entry of a human's answer."""
        if found is None:
            return None
        # What others do not know of, or know by another key, they could not tell from an answer that stands.
        may_keep = found.row_id == self._runtime.log.shared.correction(call.key)
        return corrected_of(call, found, view, self._clock.wall(), may_keep=may_keep)

    def note_unfit(self, call: Call, view: View) -> None:
        if view.correction is not None:
            self._runtime.corrections.note_unfit(view.correction, call.plan.kind, call.plan.response.name)

    def read_tiers(self, call: Call, judge: Judge) -> Found | None:
        """Return the fastest tier's usable entry; one that lies under an older secret is written anew first."""
        found = self._runtime.tiers.read(call.key, call.oldest, judge, call.stalest)
        return self.read_older(call) if found is None else found

    def read_older(self, call: Call) -> Found | None:
        """Return an entry that lies under an older secret, written anew; None for one that is void."""
        older, log = self._runtime.older_entries, self._runtime.log
        if older is None:
            return None
        # An invalidation by key may name the key that the entry had, or the one that it would get.
        now = log.view(call.key, call.facts)
        judges = [Judge(now, _without_correction(log.view(key, call.facts))) for key in call.older_keys]
        return older.find(call.key, call.older_keys, call.oldest, judges)

    def look_again(self, call: Call, judge: Judge) -> Found | None:
        """Return what ``read_tiers`` does, without the tier that is looked into when a lease is taken there."""
        found = self._runtime.tiers.read(call.key, call.oldest, judge, call.stalest, but=self._runtime.lease_tier)
        return self.read_older(call) if found is None else found

    def turn_of(self, call: Call, flight: Flight) -> Turn:
        """Return a flight's attempts to lead. Called by who carries the flight, who may end them from then on."""
        if flight.turn is None:
            names = self._runtime.tiers.flight_names(call.key, flight.id[len(call.key) :])
            flight.turn = Turn(names, ANY if call.cache == "refresh" else b"")
        return flight.turn

    def take_turn(self, call: Call, flight: Flight, turn: Turn, judge: Judge, until: float) -> Turned:
        """Try to lead a flight over all processes. It may take time."""
        runtime = self._runtime
        if runtime.leases is None:
            return LED_ALONE
        while True:
            reply, flight.lease = runtime.leases.take(turn, until)
            if reply.state == "failed":
                limit = limit_of(reply.data, self.now())
                if limit is not None and limit.is_passed_by(call, until):
                    # A leader's limits are its own: its failure is no news to who has others.
                    turn.holder = b""
                    continue
                return Turned("failed", error_of(call, reply.data), limit=limit)
            if reply.state != "found":
                return Turned(reply.state)
            turn.refused = reply.data[:HEAD_BYTES]
            tier = runtime.lease_tier
            found = tier and runtime.tiers.adopt(reply.data, call.key, tier.name, call.oldest, judge)
            if isinstance(found, Found):
                return Turned("found", found=found)

    def write_tiers(self, flight: Flight | None, entry: Entry, rest: bytes, request: bytes | None) -> bool:
        """Keep an entry in every tier; False where another process has led this flight meanwhile."""
        leases, lease = self._runtime.leases, None if flight is None else flight.lease
        publish = None if leases is None or lease is None else partial(leases.publish, lease)
        return self._runtime.tiers.write(entry, rest, request, publish, self._runtime.lease_tier)

    def end_flight(self, flight: Flight, landing: Landing, *, here: bool) -> None:
        """End a flight, and its lease, in this thread or in another."""
        try:
            if self._runtime.leases is not None and flight.turn is not None:
                self._runtime.leases.end(flight.turn, outcome_of(landing, self.now()), here=here)
        finally:
            # Whatever interrupts who tells the store: nobody is to wait for a flight that nobody lands.
            self._runtime.flights.land(flight, landing)

    def refresh(self, call: Call, entry: Entry) -> None:
        self._runtime.refreshes.start(self._runtime, call, entry.written_at)

    def may_ask_anew(self, call: Call) -> bool:
        return self._runtime.refreshes.is_due(call.key)

    def note_asked_anew(self, call: Call, error: LLMCacheError | None) -> None:
        self._runtime.refreshes.note(call.key, error)

    def jitter(self) -> float:
        return random.random()  # noqa: S311  # spreads retries, guards nothing

    def board(self, flight: Flight) -> Flight:
        return self._runtime.flights.board(flight)

    def leads_itself(self, flight: Flight) -> bool:
        return self._runtime.flights.leads_itself(flight)

    def entry(self, call: Call, reply: Reply, spent: Spent, seconds: float, seen: bytes) -> Entry:
        return entry_of(call, reply, spent, seconds, self._clock.wall(), seen)

    @sensitive_variables()
    def started(self, call: Call, body: Body, why: str, attempt: int) -> dict[str, Any]:
        """Return what the journal says of an attempt before it leaves."""
        # How many tokens an image is, its bytes do not tell.
        is_text = isinstance(call.content, str) or call.content.is_text
        return self._marked(started_facts(call, why, attempt, self._bound(call, body) if is_text else None))

    @sensitive_variables()
    def _bound(self, call: Call, body: Body) -> int | None:
        allowed = [body.get(name) for name in ("max_completion_tokens", "max_tokens", "max_output_tokens")]
        return self._runtime.prices.bound(
            call.plan.model,
            call.plan.provider.base_url,
            len(json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")),
            min((each for each in allowed if type(each) is int and each > 0), default=None),
            self._clock.wall(),
        )

    def stored(self, call: Call, entry: Entry, beside: int) -> dict[str, Any]:
        """Return what the journal says of an entry."""
        return self._marked(stored_facts(call, entry, beside))

    @sensitive_variables()
    def kept_request(self, call: Call) -> bytes | None:
        """Return the request to be kept beside the answer: all but its schema, whose version the entry names."""
        if self._runtime.settings.keep_requests == "no":
            return None
        kept = call.kept_request()
        return json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")

    def _marked(self, facts: dict[str, Any]) -> dict[str, Any]:
        return {**facts, "simulated": True} if self._clock.simulated else facts

    def start_record(self, call_id: str, facts: dict[str, Any]) -> JournalRecord:
        """Return the journal's first record of an attempt."""
        return JournalRecord("started", call_id, self._clock.wall(), facts)

    def require_noted(self, call_id: str) -> None:
        """Raise ``LedgerFull`` when an attempt's first line is in no file and the settings want it there."""
        if self._runtime.settings.on_ledger_full == "refuse" and self._runtime.journal.withdraw(call_id):
            raise LedgerFull(
                "The journal cannot take this call, and LLMCACHE['ON_LEDGER_FULL'] is 'refuse': nothing was sent. "
                "Check the folder that LLMCACHE['JOURNAL'] names and its free space, and that the database of "
                "LLMCACHE['DATABASE'] takes the journal's lines."
            )

    def ended(
        self, call: Call, call_id: str, reply: Reply | Failure, began: float
    ) -> tuple[Literal["settled", "failed"], dict[str, Any], Attempt]:
        """Return what the journal says of an attempt that has ended, and what the policy gets to know of it."""
        latency_ms = round((self._clock.monotonic() - began) * 1_000)
        if isinstance(reply, Failure):
            spent = told_cost(reply.cost_usd)
            cost = self._cost(call, reply.told) if spent is None and reply.told is not None else spent
            attempt = Attempt(call_id, reply, cost and cost.pico_usd)
            return "failed", {**failed_facts(reply, latency_ms), **told_facts(reply.told, cost)}, attempt
        cost = told_cost(reply.cost_usd) or self._cost(call, reply)
        return "settled", settled_facts(reply, cost, latency_ms), Attempt(call_id, reply, cost and cost.pico_usd)

    def _cost(self, call: Call, told: Reply | Told) -> Cost | None:
        return self._runtime.prices.cost(
            *(call.plan.model, told.model, call.plan.provider.base_url),
            *(told.usage, self._clock.wall(), told.service_tier),
        )

    def broken_off(self, call: Call, error: BaseException) -> dict[str, Any]:
        """Return what the journal says of an attempt that its caller broke off."""
        if not isinstance(error, BrokenOff):
            return INTERRUPTED
        return {**INTERRUPTED, "in_doubt": False, **told_facts(error.told, self._cost(call, error.told))}


class BlockingPort(PortBase):
    """The port of synchronous calls; its coroutines never suspend."""

    async def view(self, call: Call) -> View:
        return self.view_now(call)

    async def read(self, call: Call, judge: Judge, *, again: bool = False) -> Found | None:
        with self._spending:
            return self.look_again(call, judge) if again else self.read_tiers(call, judge)

    async def take(self, call: Call, flight: Flight, judge: Judge, until: float) -> Turned:
        with self._spending:
            return self.take_turn(call, flight, self.turn_of(call, flight), judge, until)

    @sensitive_variables()
    async def corrected(self, call: Call, view: View) -> Corrected | None:
        return self.corrected_of(call, view, self._runtime.corrections.find((call.key, *call.older_keys)))

    async def read_rest(self, entry: Entry) -> bytes | None:
        with self._spending:
            return self._runtime.tiers.read_rest(entry)

    async def write(self, entry: Entry, rest: bytes, request: bytes | None, flight: Flight | None = None) -> bool:
        with self._spending:
            return self.write_tiers(flight, entry, rest, request)

    def flight(self, flight_id: bytes) -> Flight:
        return Flight(flight_id)

    async def wait(self, flight: Flight, seconds: float) -> Landing | None:
        until = self._clock.monotonic() + seconds
        while not flight.landed.wait(min(max(until - self._clock.monotonic(), 0.0), _LOOK_SECONDS)):
            if not flight.leader.is_alive():
                self.end_flight(flight, ABANDONED, here=False)
            if self._clock.monotonic() >= until:
                return None
        return flight.landing

    def land(self, flight: Flight, landing: Landing) -> None:
        self.end_flight(flight, landing, here=True)

    async def idle(self, seconds: float) -> None:
        # Whoever waits has time: many looks together are not a server that is slow.
        self._spending.seconds = 0.0
        self._clock.sleep(seconds)

    async def make_ready(self, call: Call) -> None:
        departures.make_ready(call, self._runtime.settings)

    @sensitive_variables()
    async def ask(self, call: Call, body: Body, seconds: float, why: str, attempt: int) -> Attempt:
        call_id = str(uuid.uuid4())
        journal = self._runtime.journal
        transport = departures.transport(call, body, self._runtime.settings)
        facts = self.started(call, body, why, attempt)
        journal.started(call_id, facts)
        self.require_noted(call_id)
        if self._runtime.ledger_sync is not None:
            self._runtime.ledger_sync.write(self.start_record(call_id, facts))
        departures.departed(call, why, attempt)
        began = self._clock.monotonic()
        try:
            reply = transport.call(
                body, call_id=call_id, timeout=seconds, max_bytes=self._runtime.settings.max_value_bytes
            )
        except BaseException:
            # An interrupt: the request may have left, and the journal has to say how it ended.
            journal.failed(call_id, INTERRUPTED)
            raise
        event, facts, ended = self.ended(call, call_id, reply, began)
        self.note_end(event, call_id, facts)
        return ended

    def note_end(self, event: str, call_id: str, facts: dict[str, Any]) -> None:
        """Write into the journal how an attempt has ended."""
        journal = self._runtime.journal
        (journal.settled if event == "settled" else journal.failed)(call_id, facts)

    async def record_stored(self, call: Call, call_id: str, entry: Entry, beside: int) -> None:
        self._runtime.journal.stored(call_id, self.stored(call, entry, beside))

    async def record_rejected(self, call_id: str, errors: tuple[dict[str, Any], ...]) -> None:
        self._runtime.journal.rejected(call_id, rejected_facts(errors))

    async def pause(self, seconds: float) -> None:
        self._clock.sleep(departures.pause_before_retry(seconds))


def run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Return what a coroutine over a port that never suspends returns, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise RuntimeError("The policy suspended over the blocking port.")


def _without_correction(view: View) -> View:
    """Return a view that leaves out a human's answer: under another key it could not be withdrawn any more."""
    if view.correction is None:
        return view
    return view._replace(correction=None, gone=view.gone | {mark_of(view.correction)})


INTERRUPTED: Final[dict[str, Any]] = {"error": "interrupted", "cost": None, "in_doubt": True}
"""What the journal says of an attempt that its caller broke off, and that had told nothing of its cost."""


def rejected_facts(errors: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """Return what the journal says of an answer that does not pass validation."""
    return {"errors": [str(item["type"]) for item in errors[:20]]}


def _short(word: str | None) -> str | None:
    """Return a word of the provider's, cut: a line of the journal has to stay a line."""
    return word if word is None else word[:200]


def started_facts(call: Call, why: str, attempt: int, bound: int | None) -> dict[str, Any]:
    """Return what the journal says of an attempt before it leaves; never a text.

    ``bound``: the most that it can cost, in 10**-12 US dollars; None when there is no telling.
    """
    return {
        "key": call.key.hex(),
        "kind": call.plan.kind,
        "type": call.plan.response.name,
        "schema": call.plan.response.fingerprint,
        "model": call.plan.model,
        "tenant": call.tenant,
        "why": why,
        "attempt": attempt,
        "stores": call.stores,
        "ttl": call.ttl,
        "ahead": call.ahead,
        "bound": bound,
    }


def settled_facts(reply: Reply, cost: Cost | None, latency_ms: int) -> dict[str, Any]:
    """Return what the journal says of a reply; tokens and cost are None when they are not known."""
    return {
        "model": _short(reply.model),
        "finish": _short(reply.finish_reason),
        "refused": reply.refused,
        "request_id": _short(reply.request_id),
        "latency_ms": latency_ms,
        **_priced(reply.usage, cost),
    }


def _priced(usage: Usage | None, cost: Cost | None) -> dict[str, Any]:
    return {
        "input_tokens": usage and usage.input_tokens,
        "cache_read_tokens": usage and usage.cache_read_tokens,
        "cache_write_tokens": usage and usage.cache_write_tokens,
        "output_tokens": usage and usage.output_tokens,
        "cost": cost and cost.pico_usd,
        "price": cost and cost.price_id,
        "price_source": cost and cost.source,
    }


def told_facts(told: Told | None, cost: Cost | None) -> dict[str, Any]:
    """Return what the journal says of the cost that a stream had told when it broke off; nothing where it had not."""
    return {} if told is None else {"model": _short(told.model), **_priced(told.usage, cost)}


def failed_facts(failure: Failure, latency_ms: int) -> dict[str, Any]:
    """Return what the journal says of an attempt that brought no completion."""
    error, spent = failure.error, told_cost(failure.cost_usd)
    return {
        "error": error.code,
        "status": error.status,
        "request_id": _short(error.request_id),
        "latency_ms": latency_ms,
        "cost": spent and spent.pico_usd,
        "in_doubt": failure.in_doubt,
    }


def stored_facts(call: Call, entry: Entry, beside: int) -> dict[str, Any]:
    """Return what the journal says of an entry with so many bytes kept beside it.

    Of a subject, which may be a person, it is only the hash.
    """
    meta = entry.facts()
    told: Any = meta.get("usage")
    usage = cast("dict[str, Any]", told) if isinstance(told, dict) else None
    # A class of tokens that is not among those told is one that there were none of.
    tokens = {name: None if usage is None else usage.get(name, 0) for name in _TOKEN_CLASSES}
    return {
        "key": entry.key.hex(),
        "kind": call.plan.kind,
        "type": call.plan.response.name,
        "schema": call.plan.response.fingerprint,
        "model": call.plan.model,
        "answered": meta.get("model"),
        "tenant": call.tenant,
        "subject": None if call.subject is None else call.plan.seal.subject_hash(call.subject),
        "tags": [*itertools.islice(call.tags, _MOST_TAGS)],
        "content": content_hash(call.content, call.plan.seal),
        "parts": components_of(call, call.plan.seal),
        "written": entry.written_at,
        "expires": None if entry.fresh_until == FOREVER else entry.fresh_until,
        "stale": None if entry.stale_until == entry.fresh_until else entry.stale_until,
        "size": len(entry.answer) + len(entry.meta) + beside,
        "cost": None if entry.cost == UNKNOWN_COST else entry.cost,
        "latency_ms": entry.latency_ms,
        "attempts": meta.get("attempts"),
        "source": meta.get("source", meta.get("origin", "provider")),
        **tokens,
    }


@sensitive_variables()
def entry_of(call: Call, reply: Reply, spent: Spent, seconds: float, now: float, seen: bytes = b"") -> Entry:
    """Return the entry of an answer that arrived at ``now`` (wall-clock seconds)."""
    usage = spent.usage
    facts: dict[str, Any] = {
        "model": _short(reply.model),
        "asked": call.plan.model,
        "kind": call.plan.kind,
        "type": call.plan.response.name,
        "schema": call.plan.response.fingerprint,
        "finish": _short(reply.finish_reason),
        "request_id": _short(reply.request_id),
        "tags": call.tags or None,
        "attempts": spent.attempts,
        "usage": usage and {name: tokens for name in _TOKEN_CLASSES if (tokens := getattr(usage, name))},
        # A refreshed answer is the provider's, as the one before.
        "origin": "warming" if call.ahead == "warming" else None,
    }
    # What is not there is not written: every entry has these bytes, in each tier.
    meta = {name: fact for name, fact in facts.items() if fact is not None}
    entry = Entry(
        key=call.key,
        # A lone surrogate in an answer cannot be UTF-8: kept as it is, it does not pass validation.
        answer=(reply.answer or "").encode(errors="surrogatepass"),
        written_at=now,
        fresh_until=now,
        stale_until=now,
        # What no answer costs is a mistake of whoever has told it; an entry that says so could not be read.
        cost=UNKNOWN_COST if spent.cost is None or spent.cost > MOST_COST else spent.cost,
        latency_ms=round(seconds * 1_000),
        seen=seen,
        meta=json.dumps(meta, separators=(",", ":")).encode(),
    )
    return lasting(call, entry, call.ttl)
