"""What carries out the policy's decisions for an asynchronous caller: in the background loop, where nothing may block.

What waits goes to other threads: tiers, leases and first imports to the workers, the journal to its own thread.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from django.views.decorators.debug import sensitive_variables

from llmcache import workers
from llmcache.engine import departures
from llmcache.engine.background import Errand
from llmcache.engine.call import Attempt, Call
from llmcache.engine.corrected import Corrected
from llmcache.engine.flights import ABANDONED, Flight, Landing
from llmcache.engine.landings import LED_ALONE, Turned
from llmcache.engine.log_copy import Judge, View
from llmcache.engine.ports import PortBase, rejected_facts
from llmcache.envelope import Entry
from llmcache.loading import first_time
from llmcache.money import journal_thread, ledger_sync
from llmcache.money.journal_files import Event
from llmcache.providers.base import Body
from llmcache.tiers.stack import Found, younger

if TYPE_CHECKING:
    from llmcache.engine.runtime import Runtime

# How often who waits looks whether the leader is still there.
_LOOK_SECONDS: Final = 1.0

_NEVER_LEFT: Final[dict[str, Any]] = {"error": "interrupted", "cost": 0, "in_doubt": False}


@dataclass(frozen=True, slots=True)
class _TaskLeader:
    """A task that leads a flight."""

    task: asyncio.Task[Any] | None

    def is_alive(self) -> bool:
        return self.task is not None and not self.task.done() and not self.task.get_loop().is_closed()


class AsyncioPort(PortBase):
    """The port of one asynchronous call."""

    def __init__(self, runtime: Runtime, errand: Errand[Any]) -> None:
        super().__init__(runtime)
        self._errand = errand

    async def view(self, call: Call) -> View:
        if self.now() < self._runtime.log.good_until:
            return self.view_now(call)
        return await workers.files.run(partial(self.view_now, call))

    async def read(self, call: Call, judge: Judge, *, again: bool = False) -> Found | None:
        tiers = self._runtime.tiers
        if again and self._runtime.lease_tier is not None:
            with self._spending:
                if len(tiers.below) == 1 and self._runtime.older_entries is None:
                    return tiers.read_memory(call.key, call.oldest, judge, call.stalest)
                return await workers.files.run(partial(self.look_again, call, judge))
        found = tiers.read_memory(call.key, call.oldest, judge, call.stalest)
        if not tiers.below or (found is not None and not found.is_stale):
            return found
        with self._spending:
            found = younger(found, await tiers.aread_below(call.key, call.oldest, judge, call.stalest))
            if found is not None or self._runtime.older_entries is None:
                return found
            return await workers.files.run(partial(self.read_older, call))

    @sensitive_variables()
    async def corrected(self, call: Call, view: View) -> Corrected | None:
        find = partial(self._runtime.corrections.find_in_thread, (call.key, *call.older_keys))
        return self.corrected_of(call, view, await workers.files.run(find))

    async def read_rest(self, entry: Entry) -> bytes | None:
        with self._spending:
            return await workers.files.run(partial(self._runtime.tiers.read_rest, entry))

    async def write(self, entry: Entry, rest: bytes, request: bytes | None, flight: Flight | None = None) -> bool:
        with self._spending:
            return await workers.files.run(partial(self.write_tiers, flight, entry, rest, request))

    async def take(self, call: Call, flight: Flight, judge: Judge, until: float) -> Turned:
        if self._runtime.leases is None:
            return LED_ALONE
        self._go_on()
        # Here, for a caller that goes ends what the thread has not begun yet.
        turn = self.turn_of(call, flight)
        with self._spending:
            return await workers.turns.run(partial(self.take_turn, call, flight, turn, judge, until))

    def land(self, flight: Flight, landing: Landing) -> None:
        self.end_flight(flight, landing, here=False)

    async def idle(self, seconds: float) -> None:
        self._go_on()
        # Whoever waits has time: many looks together are not a server that is slow.
        self._spending.seconds = 0.0
        await asyncio.sleep(seconds)

    def flight(self, flight_id: bytes) -> Flight:
        return Flight(flight_id, _TaskLeader(asyncio.current_task()))

    async def wait(self, flight: Flight, seconds: float) -> Landing | None:
        until = self.now() + seconds
        landed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._runtime.flights.watch(flight, partial(workers.tell, landed, None, None))
        while True:
            left = max(until - self.now(), 0.0)
            await asyncio.wait((landed,), timeout=min(left, _LOOK_SECONDS))
            if flight.landed.is_set():
                return flight.landing
            if not flight.leader.is_alive():
                self.end_flight(flight, ABANDONED, here=False)
            if self.now() >= until:
                return None

    async def make_ready(self, call: Call) -> None:
        await workers.files.run(partial(self._make_ready, call))

    def _make_ready(self, call: Call) -> None:
        # The first time this imports the provider's SDK and reads certificates.
        with first_time(call.plan.provider.alias):
            departures.make_ready(call, self._runtime.settings, for_acall=True)

    @sensitive_variables()
    async def ask(self, call: Call, body: Body, seconds: float, why: str, attempt: int) -> Attempt:
        self._go_on()
        self._errand.spends = True
        until, settings = self.now() + seconds, self._runtime.settings
        call_id = str(uuid.uuid4())
        transport = departures.transport(call, body, settings)
        facts = await workers.files.run(partial(self._started, call, body, why, attempt))
        try:
            await self._note("started", call_id, facts, durable=True)
            if settings.on_ledger_full == "refuse":
                await workers.files.run(partial(self.require_noted, call_id))
            await self._write_through(call_id, facts)
        except asyncio.CancelledError:
            self._leave_note("failed", call_id, _NEVER_LEFT)
            raise
        departures.departed(call, why, attempt)
        began = self.now()
        try:
            reply = await transport.acall(
                body,
                call_id=call_id,
                timeout=max(until - began, 0.0),
                max_bytes=settings.max_value_bytes,
                told=call.told,
            )
        except BaseException as error:
            # The end of the interpreter, or a stream whose reader has gone: the request may have left, and the journal
            # has to say how it ended.
            self._leave_note("failed", call_id, self.broken_off(call, error))
            raise
        event, facts, ended = self.ended(call, call_id, reply, began)
        await self._note(event, call_id, facts)
        return ended

    @sensitive_variables()
    def _started(self, call: Call, body: Body, why: str, attempt: int) -> dict[str, Any]:
        with first_time("prices"):
            return self.started(call, body, why, attempt)

    async def record_stored(self, call: Call, call_id: str, entry: Entry, beside: int) -> None:
        await self._note("stored", call_id, self.stored(call, entry, beside))

    async def record_rejected(self, call_id: str, errors: tuple[dict[str, Any], ...]) -> None:
        await self._note("rejected", call_id, rejected_facts(errors))

    async def pause(self, seconds: float) -> None:
        self._go_on()
        await asyncio.sleep(departures.pause_before_retry(seconds))

    async def _write_through(self, call_id: str, facts: dict[str, Any]) -> None:
        """Have the attempt in the database before it leaves, where ``LEDGER_SYNC`` asks for that."""
        sync = self._runtime.ledger_sync
        if sync is None:
            return
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        sync.put(self.start_record(call_id, facts), partial(workers.tell, written, None, None))
        _, late = await asyncio.wait((written,), timeout=ledger_sync.WAIT_SECONDS)
        if late:
            sync.note_delay()

    def _go_on(self) -> None:
        """Begin nothing new for a caller who has gone: who waits for this flight elects anew, with its own limits."""
        if self._errand.deserted:
            raise asyncio.CancelledError

    async def _note(self, event: Event, call_id: str, facts: dict[str, Any], *, durable: bool = False) -> None:
        noted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done = partial(workers.tell, noted, None)
        journal_thread.put(self._runtime.journal, event, call_id, facts, done, durable=durable)
        await noted

    def _leave_note(self, event: Event, call_id: str, facts: dict[str, Any]) -> None:
        journal_thread.put(self._runtime.journal, event, call_id, facts, None)
