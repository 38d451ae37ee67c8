"""The policy: every decision about one call, and no I/O.

It is written once, as coroutines over a port. The blocking port's methods never suspend, so that a synchronous call is
one step of the coroutine; other ports suspend as usual. Nothing here imports asyncio, threading or time.

What can go wrong, and the rule against it:

- The answer arrives between a caller's look and its boarding of a flight: who leads looks again before it asks.
- A leader dies, is interrupted or runs out of its own time: its flight is abandoned and those who waited elect anew.
- One error object raised by many callers: each raises its own.
- What is invalidated while the provider is asked: the log is read before, and what had not been seen then voids the
  answer. Who asks after the invalidation does not join who asked before it.
- A human has answered in place of the provider: no answer of the provider's is valid then, so none can hide it, and it
  is looked for before the provider is asked.
- The provider fails where there is a stale answer: it is given only when nobody has invalidated it meanwhile.
- An answer that one caller's validators accept is not valid for another type with the same schema: each validates for
  itself, and what does not pass is a miss for that caller.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any, Final, Protocol

from django.views.decorators.debug import sensitive_variables
from pydantic import ValidationError

from llmcache.engine.call import Answered, Attempt, Call, Outcome, Reason, Spent
from llmcache.engine.corrected import Corrected
from llmcache.engine.flights import ABANDONED, Flight, Landing, Limit
from llmcache.engine.landings import Turned
from llmcache.engine.lifetimes import lasting
from llmcache.engine.log_copy import NOTHING, Judge, View
from llmcache.envelope import Entry
from llmcache.exceptions import (
    BudgetExceeded,
    FlightTimeout,
    LedgerFull,
    LLMCacheError,
    NotCached,
    ProviderError,
    ProviderTimeout,
    RecursiveExtract,
    Refused,
    Truncated,
    ValidationFailed,
)
from llmcache.money.pricing import PICO, dollars
from llmcache.providers.base import Body, Reply
from llmcache.response_types import error_facts
from llmcache.tiers.stack import Found

_FIRST_BACKOFF: Final = 0.5
_LONGEST_BACKOFF: Final = 8.0
_FIRST_POLL: Final = 0.02
_LONGEST_POLL: Final = 0.2
"""Seconds between two looks whether another process is still asking, and whether it has answered."""


class Port(Protocol):
    """What carries out the policy's decisions: blocking, asynchronous, or simulated."""

    def now(self) -> float:
        """Return monotonic seconds."""
        ...

    def jitter(self) -> float:
        """Return a number from 0 to 1 at random."""
        ...

    async def view(self, call: Call) -> View:
        """Return the rows of the invalidation log that are in force for a call, as they are known to be now."""
        ...

    async def read(self, call: Call, judge: Judge, *, again: bool = False) -> Found | None:
        """Return the fastest tier's usable entry that is not void; a stale one where no other is there.

        ``again``: by who is about to take a lease, which looks into the tier where that lies.
        """
        ...

    async def take(self, call: Call, flight: Flight, judge: Judge, until: float) -> Turned:
        """Try to lead a flight over all processes."""
        ...

    def refresh(self, call: Call, entry: Entry) -> None:
        """Have a stale answer asked for anew while nobody waits, unless that is done or has just failed."""
        ...

    def may_ask_anew(self, call: Call) -> bool:
        """Return whether asking anew for a stale answer has not just failed."""
        ...

    def note_asked_anew(self, call: Call, error: LLMCacheError | None) -> None:
        """Note how asking anew for a stale answer has ended."""
        ...

    async def corrected(self, call: Call, view: View) -> Corrected | None:
        """Return the entry of the human's answer that stands; None when there is none, or it cannot be read."""
        ...

    def note_unfit(self, call: Call, view: View) -> None:
        """Note that the human's answer does not pass the validation of a call's type."""
        ...

    async def read_rest(self, entry: Entry) -> bytes | None:
        """Return what was kept beside an entry."""
        ...

    def kept_request(self, call: Call) -> bytes | None:
        """Return the request to be kept beside the answer, as JSON; None where none is to be."""
        ...

    async def write(self, entry: Entry, rest: bytes, request: bytes | None, flight: Flight | None = None) -> bool:
        """Keep an entry in every tier; False, and nowhere, where another process has led its flight meanwhile."""
        ...

    def flight(self, flight_id: bytes) -> Flight:
        """Return a flight that this call would lead."""
        ...

    def board(self, flight: Flight) -> Flight:
        """Return the flight of this id that is under way; the very one that was given when there was none."""
        ...

    def leads_itself(self, flight: Flight) -> bool:
        """Return whether the flight is led by the very caller that would wait for it."""
        ...

    async def wait(self, flight: Flight, seconds: float) -> Landing | None:
        """Wait for a flight to land; None when the time is over first."""
        ...

    def land(self, flight: Flight, landing: Landing) -> None:
        """End a flight, and the lease that it has over all processes."""
        ...

    async def idle(self, seconds: float) -> None:
        """Let time pass before the next attempt to lead."""
        ...

    async def make_ready(self, call: Call) -> None:
        """Raise ``ConfigurationError`` when the provider could not be called."""
        ...

    async def ask(self, call: Call, body: Body, seconds: float, why: str, attempt: int) -> Attempt:
        """Make one attempt, in the journal before it leaves and after it ends, and return what became of it."""
        ...

    async def record_rejected(self, call_id: str, errors: tuple[dict[str, Any], ...]) -> None:
        """Write into the journal that a paid answer did not pass validation."""
        ...

    async def record_stored(self, call: Call, call_id: str, entry: Entry, beside: int) -> None:
        """Write into the journal that an entry was made of a paid answer, with so many bytes beside it."""
        ...

    async def pause(self, seconds: float) -> None:
        """Let time pass."""
        ...

    def entry(self, call: Call, reply: Reply, spent: Spent, seconds: float, seen: bytes) -> Entry:
        """Return the entry of an answer that has just arrived, from one who had seen these rows of the log."""
        ...


@sensitive_variables()
async def resolve(call: Call, port: Port, *, looked: bool = False) -> Answered:
    """Return a call's answer, from a tier, from another call's flight, or from the provider.

    ``looked``: a moment ago no tier had anything usable; who leads a flight looks again all the same. Raises what
    ``llmcache.extract`` documents.
    """
    deadline = port.now() + call.timeout
    if call.cache == "only" and call.ttl == 0:
        raise _not_cached(call)
    if not call.stores:
        reason: Reason = "bypass" if call.cache == "bypass" else "ttl_zero"
        return await _Leader(call, port, deadline, reason, NOTHING).fly()
    # Whoever has looked has looked for what is fresh.
    looked = looked and not call.stale_ttl
    while True:
        # Before anything is asked: what is asked now is not touched by what is invalidated later.
        view = await port.view(call)
        answered = stale = None
        if view.correction is not None:
            answered = await _corrected(call, port, view, looked=looked)
            if answered is not None:
                return answered
            looked = True
        if not looked and call.cache != "refresh":
            answered, _ = await _look(call, port, view)
            answered, stale = _apart(call, port, answered)
            if answered is not None:
                return answered
        looked = False
        if call.cache == "only":
            raise _not_cached(call)
        answered = await (_fly(call, port, deadline, view) if stale is None else _renew(call, port, deadline, stale))
        if answered is not None:
            return answered


def _apart(call: Call, port: Port, found: Answered | None) -> tuple[Answered | None, Answered | None]:
    """Return what a call is answered with of what was found, and what it may fall back on; None for neither."""
    if found is None or found.outcome != "stale":
        return found, None
    if call.cache == "only":
        return found, None
    if call.ahead:
        return None, None
    if not call.waits:
        port.refresh(call, found.entry)
        return found, None
    # Not asked again at once where that has failed: each call would wait for a provider that is down.
    return (None, found) if port.may_ask_anew(call) else (found, None)


async def _renew(call: Call, port: Port, deadline: float, stale: Answered) -> Answered | None:
    """Return what ``_fly`` does; the stale answer where the provider fails."""
    # Read anew: what is stale may have been invalidated since it was looked up.
    try:
        answered = await _fly(call, port, deadline, await port.view(call))
    except (ProviderError, FlightTimeout) as error:
        port.note_asked_anew(call, error)
        if not (await port.view(call)).may_keep(stale.entry.seen):
            raise
        cost = None if error.cost_usd is None else int(error.cost_usd * PICO)
        return replace(stale, reason="expired", spent=Spent(error.attempts, None, cost))
    port.note_asked_anew(call, None)
    return answered


@sensitive_variables()
async def _corrected(call: Call, port: Port, view: View, *, looked: bool) -> Answered | None:
    """Return a human's answer, from a tier or as it was given, also to who wants the provider asked anew.

    None where it cannot be read, or does not pass this call's validation. Then the provider is asked at every call:
    no tier keeps what it says, which would hide what the human has said.
    """
    if not looked:
        answered, _ = await _look(call, port, view)
        if answered is not None and answered.outcome == "hit":
            return answered
    made = await port.corrected(call, view)
    if made is None:
        return None
    entry, rest, may_keep, call_id = made
    try:
        value = call.plan.validate(entry.answer)
    except ValidationError:
        port.note_unfit(call, view)
        return None
    if may_keep:
        request = port.kept_request(call)
        await port.write(entry, rest, request)
        await port.record_stored(call, call_id, entry, len(rest) + len(request or b""))
    return Answered(value, "hit", None, None, entry, rest)


async def _look(call: Call, port: Port, view: View, *, again: bool = False) -> tuple[Answered | None, Reason]:
    if not view.is_confirmed:
        return None, "unconfirmed"
    judge = Judge(view)
    found = await port.read(call, judge, again=again)
    if found is None:
        return None, "invalidated" if judge.refused else "not_found"
    return await _judged(call, port, found)


@sensitive_variables()
async def _judged(call: Call, port: Port, found: Found) -> tuple[Answered | None, Reason]:
    """Return the answer that an entry gives to a call; None for one that does not do for it."""
    rest: bytes | None = None
    if call.needs_completion:
        rest = await port.read_rest(found.entry)
        if rest is None or call.plan.provider.completion(rest, found.entry.answer) is None:
            return None, "completion_missing"
    try:
        value = call.plan.validate(found.entry.answer)
    except ValidationError:
        return None, "invalid"
    outcome: Outcome = "stale" if found.is_stale else "hit"
    return Answered(value, outcome, None, found.tier, found.entry, rest), "expired" if found.is_stale else "not_found"


@sensitive_variables()
async def _follow(call: Call, port: Port, deadline: float, flight: Flight, view: View) -> Answered | None:
    """Return the answer of somebody else's flight; None when this caller has to look and elect anew."""
    if port.leads_itself(flight):
        raise RecursiveExtract(
            "This call asks for the very request that it is part of, from a validator, a callback or a cached function "
            "that calls itself, and would wait for itself. Ask for something else there.",
            **_facts(call),
        )
    landing = await port.wait(flight, deadline - port.now())
    if landing is None:
        raise FlightTimeout(
            f"Another call has been asking for the same request for the whole timeout of {call.timeout:g} s. "
            "Raise timeout= or LLMCACHE['TIMEOUT'].",
            **_facts(call),
        )
    if landing.error is not None:
        if landing.limit is not None and landing.limit.is_passed_by(call, deadline):
            return None
        # What the leader's attempts cost is told by the leader's error alone: told twice, it would be counted twice.
        raise landing.error.again().add(attempts=0, cost_usd=Decimal(0))
    if landing.entry is None or (call.needs_completion and not landing.rest):
        return None
    if landing.entry.seen != view.seen and not view.may_keep(landing.entry.seen):
        # Another process has stored it. Who leads may not know yet that it is void.
        return None
    try:
        value = call.plan.validate(landing.entry.answer)
    except ValidationError:
        return None
    return Answered(value, "collapsed", None, None, landing.entry, landing.rest)


@sensitive_variables()
async def _fly(call: Call, port: Port, deadline: float, view: View) -> Answered | None:
    """Return the answer of the flight for this call, led or joined; None when this caller has to elect anew."""
    # Who has seen an invalidation does not join who has not.
    own = port.flight(call.key + view.seen)
    landing = ABANDONED
    try:
        flight = port.board(own)
        if flight is not own:
            return await _follow(call, port, deadline, flight, view)
        reason: Reason = "refresh"
        if call.cache != "refresh":
            # Another caller may have stored the answer between our look and our boarding.
            answered, reason = await _look(call, port, view, again=True)
            if answered is not None and answered.outcome == "hit":
                return answered
        leader = _Leader(call, port, deadline, reason, view, own)
        try:
            answered = await leader.wait_for_others(own)
            if answered is not None:
                if answered.outcome == "collapsed":
                    landing = Landing(answered.entry, answered.rest or b"")
                return answered
            answered = await leader.fly()
        except Exception as error:
            # A validator of the caller's own has failed on an answer that is paid for, perhaps with an error of a call
            # that it has made: others may have use for it. Where it asks for this very request, theirs would too.
            is_paid = leader.last is not None and not isinstance(error, RecursiveExtract)
            if isinstance(error, LLMCacheError) and not is_paid and not leader.has_own_limit:
                landing = Landing(error=error.again(), limit=leader.limit)
            else:
                landing = leader.landing()
            raise
        landing = leader.landing()
        return answered
    finally:
        port.land(own, landing)


class _Leader:
    """The attempts of one call that asks the provider itself."""

    def __init__(
        self, call: Call, port: Port, deadline: float, reason: Reason, view: View, flight: Flight | None = None
    ) -> None:
        self.view = view
        self.flight = flight
        self.call = call
        self.port = port
        self.deadline = deadline
        self.reason: Reason = reason
        self.spent = Spent()
        self.limit: Limit | None = None
        """What has kept it from trying once more, of which others may have more."""
        self.has_own_limit = False
        """Whether what ended it is nobody else's: its budget, or its time to wait for other processes."""
        self.last: Entry | None = None
        self.rest = b""

    def landing(self) -> Landing:
        return ABANDONED if self.last is None else Landing(self.last, self.rest)

    @sensitive_variables()
    async def wait_for_others(self, flight: Flight) -> Answered | None:
        """Return what another process has stored, waited for if it is asking; None when this one is to ask."""
        call, port = self.call, self.port
        judge, pause, outcome = Judge(self.view), _FIRST_POLL, "hit"
        while True:
            # Who cannot tell whether an entry is void has none of others' either.
            turned = await port.take(call, flight, judge, self.deadline)
            if turned.state in ("led", "alone"):
                if judge.refused and self.reason == "not_found":
                    self.reason = "invalidated"
                return None
            if turned.error is not None:
                # Of those who wait here for this one, some may have more of it.
                self.limit = turned.limit
                raise turned.error
            if turned.found is not None:
                answered, reason = await _judged(call, port, turned.found)
                if answered is not None:
                    return replace(answered, outcome=outcome)
                self.reason = reason
                continue
            outcome = "collapsed"
            left = self.deadline - port.now()
            if left <= 0:
                # Others of its process have their own time to wait in.
                self.has_own_limit = True
                raise self._failed(
                    FlightTimeout(
                        f"Another process has been asking for the same request for the whole timeout of "
                        f"{call.timeout:g} s. Raise timeout= or LLMCACHE['TIMEOUT']."
                    )
                )
            await port.idle(min(pause * (0.75 + 0.5 * port.jitter()), left))
            pause = min(1.5 * pause, _LONGEST_POLL)

    @sensitive_variables()
    async def fly(self) -> Answered:
        call, port = self.call, self.port
        await port.make_ready(call)
        body = call.plan.provider.prepare(call.plan.body, call.sent(), call.unkeyed)
        why, reasks = str(self.reason), 0
        began = port.now()
        while True:
            call_id, reply = await self._attempt(body, why)
            entry = port.entry(call, reply, self.spent, port.now() - began, self.view.seen)
            answer = self._usable(reply)
            errors = ({"loc": (), "type": "answer_missing"},)
            if answer is not None:
                self.last, self.rest = entry, reply.rest
                try:
                    value = call.plan.validate(entry.answer)
                except ValidationError as error:
                    self.last = None
                    errors = error_facts(error, call.plan.response.schema.schema)
                except LLMCacheError as error:
                    # Of another call, which a validator has made: this one has cost something too.
                    cost, own = error.cost_usd, dollars(self.spent.cost)
                    cost = None if cost is None or own is None else cost + own
                    error.add(attempts=error.attempts + self.spent.attempts, cost_usd=cost)
                    raise
                else:
                    ttl = call.ttl
                    if call.derive is not None:
                        ttl = call.derive(value)
                        entry = self.last = lasting(call, entry, ttl)
                    if call.stores and ttl != 0 and (await port.view(call)).may_keep(entry.seen):
                        request = port.kept_request(call)
                        if await port.write(entry, reply.rest, request, self.flight):
                            await port.record_stored(call, call_id, entry, len(reply.rest) + len(request or b""))
                    outcome = "miss" if call.stores else "bypass"
                    return Answered(value, outcome, self.reason, None, entry, reply.rest, self.spent)
            await port.record_rejected(call_id, errors)
            if reasks >= call.max_reasks or self._is_over():
                if reasks >= call.max_reasks:
                    self.limit = Limit("max_reasks", call.max_reasks)
                raise self._failed(
                    ValidationFailed(
                        f"The model's answer does not pass the validation of {call.plan.response.name}, "
                        f"after {reasks + 1} of {call.max_reasks + 1} tries; see .errors.",
                        errors=errors,
                        request_id=reply.request_id,
                    )
                )
            reasks += 1
            why = "reask"
            body = call.plan.provider.ask_again(body, answer or "", errors)

    @sensitive_variables()
    async def _attempt(self, body: Body, why: str) -> tuple[str, Reply]:
        """Return the first reply that arrives whole; attempts that fail on the way are made again within bounds."""
        call, port = self.call, self.port
        retries = 0
        while True:
            left = self.deadline - port.now()
            if self._is_over():
                raise self._failed(
                    ProviderTimeout(
                        f"The call's timeout of {call.timeout:g} s is over. Raise timeout= or LLMCACHE['TIMEOUT']."
                    )
                )
            self.spent.attempts += 1
            try:
                attempt = await port.ask(call, body, left, why, self.spent.attempts)
            except (LedgerFull, BudgetExceeded) as error:
                self.spent.attempts -= 1
                self.has_own_limit = isinstance(error, BudgetExceeded)
                raise self._failed(error) from None
            reply = attempt.reply
            told = reply if isinstance(reply, Reply) else reply.told
            self.spent.add(None if told is None else told.usage, attempt.cost)
            if isinstance(reply, Reply):
                return attempt.call_id, reply
            wait = reply.retry_after if reply.retry_after is not None else self._backoff(retries)
            if not reply.retry or retries >= call.max_retries or self._is_over(after=wait):
                if isinstance(reply.error, ProviderTimeout):
                    self.limit = Limit("deadline", self.deadline)
                elif reply.retry and retries >= call.max_retries:
                    self.limit = Limit("max_retries", call.max_retries)
                raise self._failed(reply.error)
            retries += 1
            why = "retry"
            await port.pause(wait)

    def _is_over(self, after: float = 0.0) -> bool:
        then = self.port.now() + after
        if then < self.deadline:
            return False
        self.limit = Limit("deadline", then)
        return True

    def _backoff(self, retries: int) -> float:
        # Half of it at random: callers that failed together must not come back together.
        return min(_FIRST_BACKOFF * 2**retries, _LONGEST_BACKOFF) * (0.5 + 0.5 * self.port.jitter())

    def _usable(self, reply: Reply) -> str | None:
        """Return the answer's text, None when there is none; raises when asking again would not help."""
        if reply.refused:
            raise self._failed(
                Refused("The model declined to answer, or a content filter did so.", request_id=reply.request_id)
            )
        if reply.finish_reason == "length":
            raise self._failed(
                Truncated(
                    "The answer ended at the token limit, not whole. Raise max_completion_tokens (max_output_tokens of "
                    "the Responses API), or split the text.",
                    request_id=reply.request_id,
                )
            )
        return reply.answer or None

    def _failed(self, error: LLMCacheError) -> LLMCacheError:
        return error.add(**_facts(self.call), attempts=self.spent.attempts, cost_usd=dollars(self.spent.cost))


def _not_cached(call: Call) -> NotCached:
    return NotCached(
        'There is no usable entry for this request, and cache="only" does not ask the provider.', **_facts(call)
    )


def _facts(call: Call) -> dict[str, Any]:
    return {"kind": call.plan.kind, "model": call.plan.model, "key": call.key.hex()}
