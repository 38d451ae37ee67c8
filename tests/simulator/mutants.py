"""Rules broken on purpose: the schedules have to find out."""

from __future__ import annotations

from typing import Final

from llmcache.engine.call import Call, Spent
from llmcache.engine.corrected import Corrected
from llmcache.engine.flights import Flight
from llmcache.engine.log_copy import Judge, View
from llmcache.envelope import Entry
from llmcache.providers.base import Reply
from llmcache.tiers.stack import Found
from tests.simulator.port import CallPort, SimulatedPort


class LogReadLate(SimulatedPort):
    """Reads the log after the provider was asked: an answer of before counts as one of after."""

    def entry(self, call: Call, reply: Reply, spent: Spent, seconds: float, seen: bytes) -> Entry:
        late = self.process.log.view(call.key, call.facts).seen
        return super().entry(call, reply, spent, seconds, late)


class FlightsByKey(SimulatedPort):
    """Joins whoever asks for the same key, whatever was invalidated since that one has begun."""

    def flight(self, flight_id: bytes) -> Flight:
        return super().flight(flight_id[:32])


class FastTierHides(SimulatedPort):
    """Takes a void entry in memory for the last word, though a valid one lies below."""

    def _read_below(self, call: Call, judge: Judge) -> Found | None:
        return None if judge.refused else super()._read_below(call, judge)


class LooksOnce(SimulatedPort):
    """Asks the provider without another look after boarding: the answer may have arrived in between."""

    async def read(self, call: Call, judge: Judge, *, again: bool = False) -> Found | None:
        return None if self._flight_id is not None else await super().read(call, judge, again=again)


class NeverChecks(SimulatedPort):
    """Goes by the first view of its process for ever."""

    async def view(self, call: Call) -> View:
        self.process.log.good_until = float("inf")
        return await super().view(call)


class KeepsUncommitted(SimulatedPort):
    """Keeps what a human has answered in a transaction that may be rolled back."""

    def _may_keep(self, may_keep: bool) -> bool:
        return True


class ForgetsHumans(SimulatedPort):
    """Does not ask what a human has answered."""

    async def corrected(self, call: Call, view: View) -> Corrected | None:
        return None


MUTANTS: Final[dict[str, CallPort]] = {
    "log-read-late": LogReadLate,
    "flights-by-key": FlightsByKey,
    "fast-tier-hides": FastTierHides,
    "looks-once": LooksOnce,
    "never-checks": NeverChecks,
    "keeps-uncommitted": KeepsUncommitted,
    "forgets-humans": ForgetsHumans,
}
