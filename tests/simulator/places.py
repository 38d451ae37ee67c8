"""What simulated processes share: the log's table, the board and a tier; each lets others go on in the middle."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Final, TypeVar

from llmcache.engine.log_copy import Row, State
from llmcache.tiers.base import TierState
from tests.simulator.schedule import Schedule, step

T = TypeVar("T")

TIMEOUT: Final = 0.25
"""Seconds for which a process waits for an answer of the store."""
_LATE: Final = (0.0, 0.3, 2.5)


class TableDownError(Exception):
    """The database does not answer."""


class StoreDownError(Exception):
    """The store does not answer."""


class Table:
    """The committed rows, as one process reads them with all others."""

    def __init__(self, schedule: Schedule, *, latency: float, fails: float) -> None:
        self._schedule = schedule
        self._latency = latency
        self._fails = fails
        self._numbers = 0
        self.committed: dict[int, Row] = {}

    def next_number(self) -> int:
        """Return the number of a row that is about to be made; it may be committed after later ones."""
        self._numbers += 1
        return self._numbers

    def state(self) -> State:
        self._ask("reads the table's state")
        rows = self.committed.values()
        found = State(len(rows), sum(row.active for row in rows), max(self.committed, default=0))
        self._schedule.let_others(self._latency)
        return found

    def rows(self, above: int = 0, *, undone: bool = False) -> list[Row]:
        self._ask("reads the undone rows" if undone else f"reads the rows above {above}")
        found = [
            row for number, row in sorted(self.committed.items()) if number > above and not (undone and row.active)
        ]
        self._schedule.let_others(self._latency)
        return found

    def answer(self, key: str, own: list[Row]) -> Row | None:
        """Return the row by which a human's answer stands for a key, as a transaction with rows of its own sees it."""
        self._ask("reads the human's answer")
        seen = {**self.committed, **{row.number: row for row in own}}
        stand = [row for row in seen.values() if row.corrects and row.active and row.predicate.key == key]
        return max(stand, key=lambda row: row.number, default=None)

    def reading(self) -> nullcontext[None]:
        return nullcontext()

    def close(self) -> None:
        pass

    def _ask(self, what: str) -> None:
        self._schedule.let_others(self._latency)
        if self._fails and self._schedule.chance(self._fails):
            self._schedule.say(f"{what}: in vain")
            raise TableDownError
        self._schedule.say(what)


class Wall:
    """A board that all processes read; what lies there goes when its time is over."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._lies: tuple[State, float] | None = None

    def get(self) -> State | None:
        self._schedule.let_others()
        found = self._found()
        self._schedule.say(f"finds on the board: {tuple(found) if found else None}")
        return found

    def offer(self, state: State, seconds: float) -> None:
        self._schedule.let_others()
        if seconds > 0 and self._found() is None:
            self._lies = state, self._schedule.now + seconds
            self._schedule.say(f"leaves on the board for {seconds:.2f} s: {tuple(state)}")

    def drop(self) -> None:
        self._schedule.let_others()
        self._schedule.say("clears the board")
        self._lies = None

    def _found(self) -> State | None:
        if self._lies is None or self._lies[1] <= self._schedule.now:
            return None
        return self._lies[0]


class SharedTier:
    """A store of bytes that all processes reach, which may find nothing, and lose or delay what it is told."""

    name = "shared"

    def __init__(self, schedule: Schedule, *, faults: float) -> None:
        self._schedule = schedule
        self._faults = faults
        self._stands_until = 0.0
        self._gone_until = 0.0
        self.data: dict[str, bytes] = {}
        self.changes = 0
        """How often anything was written or a read has failed."""

    def get(self, key: str) -> bytes | None:
        self._schedule.let_others()
        if self._is_silent() or self._schedule.chance(self._faults):
            self.changes += 1
            self._schedule.say("reads the tier: in vain")
            return None
        self._schedule.say("reads the tier")
        return self.data.get(key)

    def set(self, key: str, value: bytes, ttl_seconds: float | None) -> None:
        self._schedule.let_others()
        if self._is_silent():
            self._schedule.say("writes into the tier: in vain")
            return
        if self._schedule.chance(self._faults):
            if self._schedule.chance(0.5):
                self._schedule.say("writes into the tier: lost")
                return
            self._schedule.say("writes into the tier: late")
            self._schedule.add("late write", self._later(key, value), serves=True)
            return
        self._schedule.say("writes into the tier")
        self.put(key, value)

    def command(self, says: str, do: Callable[[], T]) -> T:
        """Carry out a command at once, late or never. Raises ``StoreDownError`` where nothing is heard of it."""
        schedule = self._schedule
        schedule.let_others()
        schedule.die_if_struck()
        if schedule.now < self._gone_until:
            schedule.say(f"{says}: nobody is there")
            raise StoreDownError
        if schedule.now < self._stands_until:
            self._leave_behind(says, do, self._stands_until - schedule.now)
        elif self._faults and schedule.chance(self._faults):
            odds = schedule.random.random()
            if odds < 0.3:
                schedule.say(f"{says}: lost")
            elif odds < 0.6:
                schedule.say(f"{says}: done, and the reply is lost")
                do()
            else:
                self._leave_behind(says, do, schedule.random.choice(_LATE))
        else:
            schedule.say(says)
            done = do()
            schedule.let_others()
            schedule.die_if_struck()
            return done
        schedule.let_others(TIMEOUT)
        schedule.die_if_struck()
        raise StoreDownError

    def stand_still(self, seconds: float) -> None:
        """Answer nothing for a while; what is told meanwhile is done afterwards."""
        self._stands_until = self._schedule.now + seconds

    def flush(self, gone: float = 0.0) -> None:
        """Forget everything; and be gone for some seconds, as who is restarted."""
        self._gone_until = self._schedule.now + gone
        self.data.clear()
        self.changes += 1

    def delete(self, key: str) -> None:
        self.data.pop(key, None)

    def state(self) -> TierState:
        return TierState(self.name, "shared", "network", True, True, 0, None)

    def put(self, key: str, value: bytes) -> None:
        self.data[key] = value
        self.changes += 1

    def _is_silent(self) -> bool:
        if self._schedule.now < self._stands_until:
            self._schedule.let_others(TIMEOUT)
            return True
        return self._schedule.now < self._gone_until

    def _leave_behind(self, says: str, do: Callable[[], object], seconds: float) -> None:
        self._schedule.say(f"{says}: late")
        self._schedule.add("late command", self._do_later(says, do, seconds), serves=True)

    async def _do_later(self, says: str, do: Callable[[], object], seconds: float) -> None:
        await step("is under way", seconds)
        self._schedule.say(f"{says}: only now")
        do()

    async def _later(self, key: str, value: bytes) -> None:
        await step("is under way", self._schedule.random.choice(_LATE))
        self.put(key, value)
