"""What simulated processes share: the log's table, the board and a tier; each lets others go on in the middle."""

from __future__ import annotations

from contextlib import nullcontext

from llmcache.engine.log_copy import Row, State
from llmcache.tiers.base import TierState
from tests.simulator.schedule import Schedule, step


class TableDownError(Exception):
    """The database does not answer."""


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
    """A store of bytes that all processes reach, which may find nothing, and lose or delay what is written."""

    name = "shared"

    def __init__(self, schedule: Schedule, *, faults: float) -> None:
        self._schedule = schedule
        self._faults = faults
        self.data: dict[str, bytes] = {}
        self.changes = 0
        """How often anything was written or a read has failed."""

    def get(self, key: str) -> bytes | None:
        self._schedule.let_others()
        if self._schedule.chance(self._faults):
            self.changes += 1
            self._schedule.say("reads the tier: in vain")
            return None
        self._schedule.say("reads the tier")
        return self.data.get(key)

    def set(self, key: str, value: bytes, ttl_seconds: float | None) -> None:
        self._schedule.let_others()
        if self._schedule.chance(self._faults):
            if self._schedule.chance(0.5):
                self._schedule.say("writes into the tier: lost")
                return
            self._schedule.say("writes into the tier: late")
            self._schedule.add("late write", self._later(key, value), serves=True)
            return
        self._schedule.say("writes into the tier")
        self._put(key, value)

    def delete(self, key: str) -> None:
        self.data.pop(key, None)

    def state(self) -> TierState:
        return TierState(self.name, "shared", "network", True, True, 0, None)

    async def _later(self, key: str, value: bytes) -> None:
        await step("is under way", self._schedule.random.choice((0.0, 0.3, 2.5)))
        self._put(key, value)

    def _put(self, key: str, value: bytes) -> None:
        self.data[key] = value
        self.changes += 1
