"""One simulated process, and the port of its calls: what takes time lets others go on, the rest is real."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any, ClassVar, Final, TypeVar, cast

from llmcache import envelope, keys
from llmcache.clock import Clock
from llmcache.engine.call import Answered, Attempt, Call, Spent
from llmcache.engine.corrected import Corrected, HumanAnswer, corrected_of
from llmcache.engine.flights import ABANDONED, Flight, Flights, Landing
from llmcache.engine.landings import LED_ALONE, Turned
from llmcache.engine.leases import Turn
from llmcache.engine.log import WAIT_SECONDS, Log
from llmcache.engine.log_copy import NOTHING, Judge, View
from llmcache.engine.policy import resolve
from llmcache.engine.ports import PortBase
from llmcache.envelope import Entry
from llmcache.exceptions import LLMCacheError, ProviderTimeout, ProviderUnavailable
from llmcache.providers.base import Body, Failure, Reply
from llmcache.tiers.memory import MemoryStore
from llmcache.tiers.stack import Found, Held, MemoryTier, TierStack
from tests.simulator.leases import Holder, MakeLeases, Place, Scripts, WatchedLeases
from tests.simulator.oracle import Asked, Begun, Oracle
from tests.simulator.places import SharedTier, Table, TableDownError, Wall
from tests.simulator.schedule import FOR_EVER, Schedule, Task, step, waiting

T = TypeVar("T")

NAMESPACE: Final = "simulated"
_KEEP_READING: Final = 2
"""The log's own thread reads on more often than this; fewer times bring its end into a short schedule."""
_LOOK_SECONDS: Final = 1.0


class _Log(Log):
    """A log whose thread is a task of the schedule: the port waits for it."""

    def _wait_for_thread(self) -> None:
        pass


class Process:
    """What the calls of one simulated process share."""

    def __init__(
        self,
        name: str,
        schedule: Schedule,
        oracle: Oracle,
        table: Table,
        wall: Wall | None,
        tier: SharedTier,
        *,
        recheck: float,
        grace: float,
        may_be_late: bool,
    ) -> None:
        self.name = name
        self.schedule = schedule
        self.oracle = oracle
        self.recheck = recheck
        self.tier = tier
        self.table = table
        self.memory: MemoryStore[Held] = MemoryStore(100_000)
        self.clock = clock = Clock(schedule.wall, schedule.monotonic, simulated=True)
        self.tiers = TierStack(MemoryTier("memory", self.memory), (tier,), NAMESPACE, clock)
        self.older_entries = None
        self.leases: WatchedLeases | None = None
        self.lease_tier: SharedTier | None = None
        self.scripts: Scripts | None = None
        self.waits_at_most = FOR_EVER
        """Seconds that somebody may wait for a lease that nobody holds any more."""
        self.leaves_to_threads = False
        """Whether its calls wait for what threads do, as those in an event loop."""
        self.stood_still = 0.0
        """For how many seconds it has been stopped."""
        self.is_dead = False
        self.flights = Flights()
        self.log = _Log(table, wall, schedule.monotonic, recheck=recheck, grace=grace, thread=True)
        self.tasks: list[Task] = []
        self.reads = False
        """Whether somebody reads the log."""
        self._wanted = False
        self._may_be_late = may_be_late
        self._rounds = 0
        self._reader: Task | None = None
        self._waiting: list[Task] = []
        if recheck:
            self._reader = schedule.add(f"{name}: log", self._serve(), serves=True, prompt=True)
            self.tasks.append(self._reader)

    def die(self) -> bool:
        """End all at once; not in the middle of what cannot be left."""
        if any(task.runs for task in self.tasks):
            return False
        self.is_dead = True
        for task in self.tasks:
            task.die()
        return True

    def share_leases(self, scripts: Scripts, make: MakeLeases, seconds: float, most: float) -> None:
        """Have leases in the shared tier."""
        self.scripts, self.lease_tier, self.waits_at_most = scripts, self.tier, most
        self.leases = make(Place(self, scripts), seconds, self.schedule, self.name)
        self.tasks.append(self.leases.watchdog)

    def stop(self, seconds: float) -> bool:
        """Let nothing of it go on for a while; not in the middle of what cannot be left."""
        if self.is_dead or any(task.runs or task.stands_still for task in self.tasks):
            return False
        stopped = [task for task in self.tasks if task.is_alive()]
        for task in stopped:
            task.stands_still = True
        self.stood_still += seconds
        self.schedule.add(f"{self.name}: is stopped", self._continue(stopped, seconds), serves=True)
        return True

    async def _continue(self, tasks: list[Task], seconds: float) -> None:
        await step("stands still", seconds)
        self.schedule.let_go_on(tasks)

    async def confirm(self) -> bool:
        """Do as ``Log.confirm`` does with a thread of its own."""
        log, schedule = self.log, self.schedule
        if self.recheck == 0:
            while self.reads:
                await step("waits for who reads the log")
            self.reads = True
            try:
                return log.confirm()
            finally:
                self.reads = False
        if schedule.now >= log.good_until:
            log._forget_what_was_rolled_back()
            if log._is_old(schedule.now):
                await self._wait_for_round()
                if log._in_doubt:
                    await self._wait_for_round()
        return log.confirm()

    async def _wait_for_round(self) -> None:
        assert self._reader is not None
        # A machine that is not busy reads in time.
        done, until = self._rounds, self.schedule.now + WAIT_SECONDS if self._may_be_late else FOR_EVER
        me = self.schedule.current
        assert me is not None
        self._wanted = self._wanted or not self.reads
        self._waiting.append(me)
        self._reader.wake()
        while self._rounds == done and self.schedule.now < until:
            await waiting("waits for the log", until - self.schedule.now)

    async def _serve(self) -> None:
        """Do as the log's own thread, see ``Log._serve``."""
        left = 0
        while True:
            if not self._wanted:
                await waiting("rests", self.recheck if left else FOR_EVER)
            left = _KEEP_READING if self._wanted else left - 1
            self._wanted = False
            if left <= 0:
                left = 0
                continue
            self.reads = True
            self.log._read(strict=left == 1)
            self.reads = False
            self._rounds += 1
            waiting_for_it, self._waiting = self._waiting, []
            for task in waiting_for_it:
                task.wake()


class SimulatedPort:
    """The port of one call."""

    make_scripts: ClassVar[type[Scripts]] = Scripts
    make_leases: ClassVar[MakeLeases] = WatchedLeases

    def __init__(self, process: Process, begun: Begun) -> None:
        self.process = process
        # The process is its runtime, as far as this goes.
        self._real = PortBase(cast("Any", process))
        self._schedule = process.schedule
        self._oracle = process.oracle
        self._begun = begun
        self._task = begun.task
        self._flight_id: bytes | None = None
        self.known = NOTHING
        """What was known of the log at the last look."""
        self._lay: Entry | None = None
        self._holder: Holder | None = None
        self.paid: int | None = None
        """The last answer that was paid for."""

    def now(self) -> float:
        return self._schedule.now

    def jitter(self) -> float:
        return self._schedule.random.random()

    async def view(self, call: Call) -> View:
        await step("looks into the log")
        is_confirmed = await self.process.confirm()
        view = self.process.log.view(call.key, call.facts)
        self.known = view = view if is_confirmed else view._replace(is_confirmed=False)
        self._oracle.viewed(self._begun, view)
        await step(f"knows {_numbers(view.seen)}{'' if is_confirmed else ', unconfirmed'}")
        return view

    async def read(self, call: Call, judge: Judge, *, again: bool = False) -> Found | None:
        if again and self.process.leases is not None:
            found = self._real.look_again(call, judge)
            await step("finds nothing in memory" if found is None else f"finds #{_answer(found.entry)} in {found.tier}")
            return found
        changes = self.process.tier.changes
        found = self.process.tiers.read_memory(call.key, call.max_age, judge)
        if found is None:
            await step("finds nothing in memory")
            found = self._read_below(call, judge)
        if found is None and changes == self.process.tier.changes:
            self._search(call, judge)
        await step("finds nothing" if found is None else f"finds #{_answer(found.entry)} in {found.tier}")
        return found

    def _read_below(self, call: Call, judge: Judge) -> Found | None:
        return self.process.tiers.read_below(call.key, call.max_age, judge)

    def _search(self, call: Call, judge: Judge) -> None:
        """Look for what ``read`` should have found, where nobody has changed anything meanwhile."""
        data = self.process.tier.data.get(keys.storage_key(NAMESPACE, call.key))
        entry = None if data is None else envelope.decode(data, call.key)
        if entry is not None and judge.admits(entry.seen):
            self._oracle.missed(self._begun, self.process.tier.name)

    async def corrected(self, call: Call, view: View) -> Corrected | None:
        await step("asks for the human's answer")
        log = self.process.log
        try:
            row = self.process.table.answer(call.key.hex(), log._own_rows())
        except TableDownError:
            return None
        if row is None:
            return None
        await step(f"has the human's answer by row {row.number}")
        found = HumanAnswer(row.id, json.dumps({"asked": -row.number}).encode(), 0, 0, False)
        may_keep = self._may_keep(row.id == log.shared.correction(call.key))
        return corrected_of(call, found, view, self._schedule.wall(), may_keep=may_keep)

    def _may_keep(self, may_keep: bool) -> bool:
        return may_keep

    def note_unfit(self, call: Call, view: View) -> None:
        raise AssertionError("a human's answer passes")

    async def read_rest(self, entry: Entry) -> bytes | None:
        await step("reads what was kept beside")
        return self.process.tiers.read_rest(entry)

    def kept_request(self, call: Call) -> bytes | None:
        return None

    async def write(self, entry: Entry, rest: bytes, request: bytes | None, flight: Flight | None = None) -> bool:
        await step(f"is about to keep #{_answer(entry)}")
        kept = await self._do(partial(self._real.write_tiers, flight, entry, rest, request))
        await step("has kept it" if kept else "has not kept it: another has led meanwhile")
        return kept

    async def take(self, call: Call, flight: Flight, judge: Judge, until: float) -> Turned:
        if self.process.leases is None:
            return LED_ALONE
        turn = self._real.turn_of(call, flight)
        turned = await self._do(partial(self._take, call, flight, turn, judge, until))
        await step(f"goes for the lease: {turned.state}")
        return turned

    def _take(self, call: Call, flight: Flight, turn: Turn, judge: Judge, until: float) -> Turned:
        turned = self._real.take_turn(call, flight, turn, judge, until)
        scripts = self.process.scripts
        assert scripts is not None
        self._holder = holder = scripts.holders[turn.token]
        if flight.landed.is_set():
            holder.over_at = self.now()
        if turned.state == "alone":
            holder.lost = True
        if turned.state == "led":
            self._oracle.led(self._begun, holder, self.known)
        if turned.state == "waits":
            self._oracle.waits(self._begun, scripts.holders[turn.holder], self.process.waits_at_most)
        return turned

    async def _do(self, work: Callable[[], T]) -> T:
        """Return what a function returns, called here or in a thread that goes on whatever becomes of this task."""
        if not self.process.leaves_to_threads:
            return work()
        done: list[T] = []
        thread = self._schedule.add(f"thread of {self._task.name}", self._in_thread(work, done))
        thread.acts_for = self._task
        self.process.tasks.append(thread)
        while not done:
            await waiting("waits for a thread", FOR_EVER)
        return done[0]

    async def _in_thread(self, work: Callable[[], T], done: list[T]) -> None:
        await step("begins")
        done.append(work())
        self._task.wake()

    async def idle(self, seconds: float) -> None:
        await step("waits for its turn", seconds)

    def flight(self, flight_id: bytes) -> Flight:
        self._flight_id = flight_id
        return Flight(flight_id, self._task)

    def board(self, flight: Flight) -> Flight:
        found = self.process.flights.board(flight)
        if found is flight:
            self._lay = self._in_memory()
        return found

    def _in_memory(self) -> Entry | None:
        """Return the entry in memory that this call may have."""
        held = self.process.memory.get(self._begun.call.key)
        return held.entry if held is not None and self.known.admits(held.entry.seen) else None

    def leads_itself(self, flight: Flight) -> bool:
        return self.process.flights.leads_itself(flight)

    async def wait(self, flight: Flight, seconds: float) -> Landing | None:
        until = self.now() + seconds
        self.process.flights.watch(flight, self._task.wake)
        while not flight.landed.is_set():
            if not flight.leader.is_alive():
                self.end_for(flight)
                break
            if self.now() >= until:
                return None
            await waiting("waits for a flight", max(min(until - self.now(), _LOOK_SECONDS), 0.0))
        return flight.landing

    def end_for(self, flight: Flight) -> None:
        """End a flight whose leader is gone."""
        self._real.end_flight(flight, ABANDONED, here=False)

    def land(self, flight: Flight, landing: Landing) -> None:
        try:
            self._real.end_flight(flight, landing, here=not self.process.leaves_to_threads)
        finally:
            holders = {} if self.process.scripts is None else self.process.scripts.holders
            if flight.turn is not None and flight.turn.token in holders:
                holders[flight.turn.token].over_at = self.now()

    async def make_ready(self, call: Call) -> None:
        await step("makes the provider ready")

    async def ask(self, call: Call, body: Body, seconds: float, why: str, attempt: int) -> Attempt:
        self._schedule.say(f"asks #{len(self._oracle.asked)} ({why})")
        flight = None if self._flight_id is None else (self.process, self._flight_id)
        asked = self._oracle.asks(self._task, flight, self._holder)
        if call.cache != "refresh" and self._lay is not None and self._in_memory() is self._lay:
            self._oracle.missed(self._begun, "memory")
        random = self._schedule.random
        try:
            takes = random.choice((0.0, 0.0, 0.1, 0.7, 2.5))
            await step("is being answered", min(takes, seconds))
        finally:
            self._oracle.under_way.remove(asked)
        if takes > seconds:
            return _failed(asked, ProviderTimeout("too slow"), retry=False)
        odds = random.random()
        if odds < 0.08:
            return _failed(asked, ProviderUnavailable("down"), retry=True)
        if odds < 0.12:
            return _failed(asked, ProviderUnavailable("down for long"), retry=False)
        self.paid = None if odds < 0.16 else asked.number
        answer = "{}" if self.paid is None else json.dumps({"asked": asked.number})
        return Attempt(str(asked.number), Reply(answer, "stop", False, None, None, None, b"{}"), 0)

    async def record_rejected(self, call_id: str, errors: tuple[dict[str, Any], ...]) -> None:
        await step("notes that it was rejected")

    async def record_stored(self, call: Call, call_id: str, entry: Entry, beside: int) -> None:
        await step("notes that it was kept")

    async def pause(self, seconds: float) -> None:
        await step("pauses", seconds)

    def entry(self, call: Call, reply: Reply, spent: Spent, seconds: float, seen: bytes) -> Entry:
        return self._real.entry(call, reply, spent, seconds, seen)


CallPort = type[SimulatedPort]


async def ask_for(make_port: CallPort, process: Process, task: Task, call: Call) -> Answered | None:
    """Make a call and have its answer judged; None when it ends with an error of ours, as it may."""
    schedule, oracle = process.schedule, process.oracle
    schedule.say(f"calls for {call.content}, cache={call.cache}, within {call.timeout:g} s")
    begun = Begun(call, task, process, schedule.tick, schedule.now)
    port = make_port(process, begun)
    try:
        answered = await resolve(call, port)
    except LLMCacheError as error:
        schedule.say(f"fails: {type(error).__name__}")
        oracle.ended(begun, port.paid, None)
        return None
    number = answered.value.asked
    schedule.say(f"gets #{number} ({answered.outcome})")
    oracle.ended(begun, port.paid, number)
    # While nobody can tell what was invalidated, those who ask at the same time share what they get.
    if port.known.is_confirmed or answered.outcome != "collapsed":
        oracle.answered(begun, number, answered.outcome)
    return answered


def _failed(asked: Asked, error: ProviderUnavailable | ProviderTimeout, *, retry: bool) -> Attempt:
    return Attempt(str(asked.number), Failure(error, Decimal(0), in_doubt=False, retry=retry), 0)


def _answer(entry: Entry) -> str:
    return str(json.loads(entry.answer).get("asked", "?"))


def _numbers(seen: bytes) -> list[int]:
    """Return the numbers of the rows with these ids."""
    return [int.from_bytes(seen[start : start + 2], "big") for start in range(0, len(seen), envelope.SEEN_ID_BYTES)]
