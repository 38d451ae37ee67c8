"""Rules broken on purpose: the schedules have to find out."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from llmcache.engine.call import Call, Spent
from llmcache.engine.corrected import Corrected
from llmcache.engine.flights import ABANDONED, Flight, Landing
from llmcache.engine.leases import Lease, Turn
from llmcache.engine.log_copy import Judge, View
from llmcache.envelope import Entry
from llmcache.providers.base import Reply
from llmcache.tiers.stack import Found
from tests.simulator.leases import Scripts, WatchedLeases
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

    async def wait(self, flight: Flight, seconds: float) -> Landing | None:
        landing = await super().wait(flight, seconds)
        if landing is None or landing.entry is None:
            return landing
        return replace(landing, entry=replace(landing.entry, seen=self.known.seen))


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


class _Unfenced(Scripts):
    def may_publish(self, lease: Lease, lies: bytes, lay: bytes) -> bool:
        return True


class PublishUnfenced(SimulatedPort):
    """Keeps what it has, whoever has led meanwhile."""

    make_scripts = _Unfenced


class _Unlooked(Scripts):
    def is_of_use(self, lay: bytes, refused: bytes) -> bool:
        return False


class TakesUnlooked(SimulatedPort):
    """Takes a lease without a look whether the answer has arrived."""

    make_scripts = _Unlooked


class _AnybodyReleases(Scripts):
    def may_release(self, lies: bytes, token: bytes) -> bool:
        return bool(lies)


class ReleasesUnasked(SimulatedPort):
    """Ends the lease that lies there, whosever it is."""

    make_scripts = _AnybodyReleases


class _Forgetful(WatchedLeases):
    def _give_up(self, token: bytes) -> None:
        pass


class ForgetsGhosts(SimulatedPort):
    """Does not remember what it gave up on, and waits for it."""

    make_leases = _Forgetful


class _Asleep(WatchedLeases):
    def _is_due(self) -> bool:
        return False

    def _hold(self, lease: Lease, turn: Turn) -> bool:
        held = super()._hold(lease, turn)
        self._due = float("inf")
        return held


class NeverRenews(SimulatedPort):
    """Lets its leases end while it asks."""

    make_leases = _Asleep


class _Revives(WatchedLeases):
    _renewed = property(lambda self: frozenset(), lambda self, renewed: None)


class RevivesLeases(SimulatedPort):
    """Does not end once more what was ended while it was renewed, and taken anew by that."""

    make_leases = _Revives


class LeavesDeadLeases(SimulatedPort):
    """Lands the flight of who is gone, and leaves its lease to be renewed."""

    def end_for(self, flight: Flight) -> None:
        self.process.flights.land(flight, ABANDONED)


class _Stubborn(WatchedLeases):
    def _let_go(self, lease: Lease) -> bool:
        return False


class RenewsForEver(SimulatedPort):
    """Renews what it has ended."""

    make_leases = _Stubborn


MUTANTS: Final[dict[str, CallPort]] = {
    "log-read-late": LogReadLate,
    "flights-by-key": FlightsByKey,
    "fast-tier-hides": FastTierHides,
    "looks-once": LooksOnce,
    "never-checks": NeverChecks,
    "keeps-uncommitted": KeepsUncommitted,
    "forgets-humans": ForgetsHumans,
    "publish-unfenced": PublishUnfenced,
    "takes-unlooked": TakesUnlooked,
    "releases-unasked": ReleasesUnasked,
    "forgets-ghosts": ForgetsGhosts,
    "never-renews": NeverRenews,
    "renews-for-ever": RenewsForEver,
    "revives-leases": RevivesLeases,
    "leaves-dead-leases": LeavesDeadLeases,
}
