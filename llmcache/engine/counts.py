"""Counts of calls: running totals for each thread, so that counting takes no lock.

One lock on the hit path costs sixteen threads two thirds of their rate. What is counted is a ``Tally``, which knows
what a hit of its entry avoids: the path of a hit adds one to a dict, and money is multiplied when counts are collected.
A thread's totals are never reset: who collects adds up copies and takes what was collected before away. Above
``MAX_TALLIES`` a thread hands its totals in and begins anew, so that they do not grow with the number of entries.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple

from llmcache.engine.tabs import open_tab

MAX_TALLIES: Final = 4_096
MAX_BUCKETS: Final = 65_536
"""Buckets that wait for a database, and totals of this process; what comes beyond is counted together."""
MAX_ENTRIES: Final = 100_000
"""Entries whose hits wait for a database; the hits of others are in the buckets only."""
OTHER: Final = "other"

_HOUR: Final = 3_600
_AVOIDING: Final = frozenset({"hit", "stale", "collapsed"})


class Tally:
    """What calls that are counted together have in common; equal to itself alone, so that finding it is cheap."""

    __slots__ = ("cost", "key", "kind", "milliseconds", "model", "outcome", "tenant", "tier")

    def __init__(
        self,
        kind: str,
        model: str,
        tenant: str | None,
        tier: str | None,
        outcome: str,
        key: bytes | None = None,
        cost: int | None = None,
        milliseconds: int = 0,
    ) -> None:
        self.kind = kind
        self.model = model
        self.tenant = tenant
        self.tier = tier
        self.outcome = outcome
        self.key = key
        """The entry's, where an entry answered."""
        self.cost = cost
        """What its entry cost to make, in 10**-12 US dollars; None when that is not known."""
        self.milliseconds = milliseconds
        """How long making its entry took."""


Totals = dict[Tally, int]

CountedHit = tuple[bytes, int, int, int]
"""An entry's key, how many calls it has answered, what it cost (below zero: not known) and how long making it took."""

CountKey = tuple[str, str, "str | None", str]
"""Kind, model, tier or None, outcome."""


class BucketKey(NamedTuple):
    """What the counts of one bucket have in common."""

    hour: int
    """Seconds since the epoch at which the hour began."""
    kind: str
    model: str
    tier: str
    outcome: str
    tenant: str | None


@dataclass(slots=True)
class Sum:
    """The counts of one bucket."""

    count: int = 0
    avoided: int = 0
    """10**-12 US dollars."""
    unknown: int = 0
    """Calls that avoided a cost that is not known."""
    milliseconds: int = 0

    def add(self, other: Sum) -> None:
        """Add another's counts."""
        self.count += other.count
        self.avoided += other.avoided
        self.unknown += other.unknown
        self.milliseconds += other.milliseconds


class Avoided(NamedTuple):
    """What one entry was good for."""

    hits: int
    pico_usd: int
    """10**-12 US dollars, of the hits whose entry's cost is known."""


_avoided: Final[Callable[[tuple[int, int]], Avoided]] = partial(tuple.__new__, Avoided)  # pyright: ignore[reportUnknownMemberType]  # in half the time


@dataclass(slots=True)
class Collected:
    """Counts that are not in the database yet."""

    buckets: dict[BucketKey, Sum] = field(default_factory=dict[BucketKey, Sum])
    entries: dict[bytes, Avoided] = field(default_factory=dict[bytes, Avoided])
    """What entries were good for, by the entry's key."""

    def __bool__(self) -> bool:
        return bool(self.buckets)

    def add(self, tally: Tally, count: int, hour: int) -> None:
        """Add calls that were counted in an hour."""
        made = Sum(count)
        if tally.outcome in _AVOIDING:
            made.unknown = count if tally.cost is None else 0
            made.avoided = count * (tally.cost or 0)
            # Who waits for another's call does not save its time.
            made.milliseconds = 0 if tally.outcome == "collapsed" else count * tally.milliseconds
            if tally.key is not None:
                self._avoid(tally.key, Avoided(count, made.avoided))
        self._put(BucketKey(hour, tally.kind, tally.model, tally.tier or "", tally.outcome, tally.tenant), made)

    def add_hits(self, like: Tally, hits: Iterable[CountedHit], hour: int) -> int:
        """Add hits that were counted in an hour, all ``like`` one tally but for their entries; return how many."""
        tab, entries = open_tab(), self.entries
        calls = unknown = avoided = took = 0
        for key, count, cost, milliseconds in hits:
            calls += count
            took += count * milliseconds
            if cost < 0:
                unknown += count
                cost = 0
            own = count * cost
            avoided += own
            # As `_avoid` does.
            found = entries.get(key)
            if found is not None:
                entries[key] = _avoided((found[0] + count, found[1] + own))
            elif len(entries) < MAX_ENTRIES:
                entries[key] = _avoided((count, own))
        if tab is not None:
            tab.add(None if unknown else avoided)
        made = Sum(calls, avoided, unknown, took)
        self._put(BucketKey(hour, like.kind, like.model, like.tier or "", like.outcome, like.tenant), made)
        return calls

    def merge(self, other: Collected) -> None:
        """Add what another one collected."""
        for key, made in other.buckets.items():
            self._put(key, made)
        for entry, avoided in other.entries.items():
            self._avoid(entry, avoided)

    def _avoid(self, entry: bytes, more: Avoided) -> None:
        found = self.entries.get(entry)
        if found is not None:
            self.entries[entry] = Avoided(found.hits + more.hits, found.pico_usd + more.pico_usd)
        elif len(self.entries) < MAX_ENTRIES:
            self.entries[entry] = more

    def _put(self, key: BucketKey, made: Sum) -> None:
        found = self.buckets.get(key)
        if found is None and len(self.buckets) >= MAX_BUCKETS:
            key = key._replace(kind=OTHER, model=OTHER, tenant=None)
            found = self.buckets.get(key)
        if found is None:
            self.buckets[key] = made
        else:
            found.add(made)


class _Mine:
    """One thread's totals, and what of them has been collected."""

    __slots__ = ("__weakref__", "collected", "totals")

    def __init__(self) -> None:
        self.totals: Totals = {}
        self.collected: Totals = {}


class _Local(threading.local):
    # Not made by `__init__`, which runs at once in the thread that makes the object, and so in each forked child.
    mine: _Mine | None = None


class Counts:
    """The counts of one runtime, for any number of threads.

    ``on_first`` is called when a thread counts for the first time, in that thread. ``clock`` gives seconds since the
    epoch.
    """

    def __init__(self, on_first: Callable[[], None] | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self._on_first = on_first
        self._clock = clock
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Begin with no counts: the parent has them."""
        self._lock = threading.Lock()
        self._live: dict[int, _Mine] = {}
        self._ended: deque[_Mine] = deque()
        self._totals: Counter[CountKey] = Counter()
        self._waiting = Collected()
        self._local = _Local()

    def _begin(self) -> _Mine:
        mine = self._local.mine = _Mine()
        with self._lock:
            self._live[id(mine)] = mine
        # No lock there: the collector may run it at any moment, also in a thread that holds the lock.
        weakref.finalize(threading.current_thread(), self._ended.append, mine).atexit = False
        if self._on_first is not None:
            self._on_first()
        return mine

    def count(self, tally: Tally) -> None:
        """Add one call to the calling thread's totals."""
        tab = open_tab()
        if tab is not None and tally.outcome in _AVOIDING:
            tab.add(tally.cost)
        mine = self._local.mine or self._begin()
        totals = mine.totals
        found = totals.get(tally)
        if found is not None:
            totals[tally] = found + 1
            return
        if len(totals) >= MAX_TALLIES:
            totals = self._hand_in(mine)
        totals[tally] = 1

    def count_hits(self, like: Tally, hits: Iterable[CountedHit]) -> None:
        """Add many hits at once, all ``like`` one tally but for their entries: by one lock, and with no tally each."""
        if self._local.mine is None:
            self._begin()
        with self._lock:
            self._add_to_totals(like, self._waiting.add_hits(like, hits, self._running_hour()))

    def _hand_in(self, mine: _Mine) -> Totals:
        with self._lock:
            self._collect(mine)
            mine.collected = {}
            totals: Totals = {}
            mine.totals = totals
        return totals

    def take(self) -> Totals:
        """Return the calling thread's totals since it last took them, at most ``MAX_TALLIES``; they still count."""
        mine = self._local.mine or self._begin()
        taken: Totals = mine.totals
        self._hand_in(mine)
        return taken

    def collect(self, hour: int) -> None:
        """Add what was counted since the last time to what waits, as counts of an hour (its first second)."""
        with self._lock:
            while self._ended:
                mine = self._ended.popleft()
                self._collect(mine, hour)
                self._live.pop(id(mine), None)
            for mine in self._live.values():
                self._collect(mine, hour)

    def _collect(self, mine: _Mine, hour: int | None = None) -> None:
        """Add one thread's new counts; the lock is held. Without an hour they are of the one that is running."""
        hour = self._running_hour() if hour is None else hour
        # One step of the interpreter: the thread may be counting.
        totals = mine.totals.copy()
        collected = mine.collected
        for tally, count in totals.items():
            new = count - collected.get(tally, 0)
            if new:
                self._waiting.add(tally, new, hour)
                self._add_to_totals(tally, new)
        mine.collected = totals

    def _add_to_totals(self, tally: Tally, new: int) -> None:
        key: CountKey = (tally.kind, tally.model, tally.tier, tally.outcome)
        if key not in self._totals and len(self._totals) >= MAX_BUCKETS:
            key = (OTHER, OTHER, tally.tier, tally.outcome)
        self._totals[key] += new

    def take_waiting(self) -> Collected:
        """Return what was collected, to be written to a database; ``put_back`` when that fails."""
        with self._lock:
            taken, self._waiting = self._waiting, Collected()
            return taken

    def put_back(self, collected: Collected) -> None:
        """Let what could not be written wait again."""
        with self._lock:
            newer, self._waiting = self._waiting, collected
            collected.merge(newer)

    def total(self) -> dict[CountKey, int]:
        """Return how often each was counted in this process, by kind, model, tier and outcome."""
        self.collect(self._running_hour())
        with self._lock:
            return dict(self._totals)

    def _running_hour(self) -> int:
        return hour_of(self._clock())


def hour_of(at: float) -> int:
    """Return the Unix time at which the hour of a Unix time began."""
    return int(at // _HOUR) * _HOUR


def tally_of(kind: str, model: str, tenant: str | None, tier: str | None, outcome: str, entry: Any = None) -> Tally:
    """Return the tally of a call, with what its entry (an ``envelope.Entry``) cost to make where one answered."""
    if entry is None or outcome not in _AVOIDING:
        return Tally(kind, model, tenant, tier, outcome)
    return Tally(
        kind, model, tenant, tier, outcome, entry.key, None if entry.cost < 0 else entry.cost, entry.latency_ms
    )
