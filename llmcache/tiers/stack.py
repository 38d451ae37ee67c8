"""The tiers of one process in their order: parsed entries in memory above stores of bytes.

A value found below is written above with the time it has left. Nothing here raises for a store that is down, full or
damaged: that is a miss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol, TypeAlias

from llmcache import envelope, keys, workers
from llmcache.clock import Clock
from llmcache.engine.leases import Names
from llmcache.envelope import Entry, Opened
from llmcache.sealing import NO_SEAL, Seal
from llmcache.tiers.base import ByteTier, TierState, get_many
from llmcache.tiers.django_tier import DjangoTier
from llmcache.tiers.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmcache.engine.counts import Tally
    from llmcache.engine.log_copy import Judge

    Publish = Callable[[bytes, bytes, float | None], bool]

# What a held entry takes beside its answer and its meta facts: the objects `Held` and `Entry` with their floats and
# the key, by sys.getsizeof on CPython 3.11.
_HELD_BYTES: Final = 480


# An entry from further in the future than clocks differ was written before the clock was set back: its age is unknown.
_CLOCK_SKEW: Final = 60.0


class Held:
    """An entry in memory, with its times on the clock that cannot be set back."""

    __slots__ = ("answer", "entry", "epoch", "expires", "supplement", "tally", "written")

    def __init__(self, entry: Entry, written: float, expires: float, supplement: bytes | None) -> None:
        self.entry = entry
        self.answer = entry.answer
        self.epoch = -1
        """At which change of the invalidation log it was last found to be valid."""
        self.written = written
        self.expires = expires
        self.supplement = supplement
        self.tally: Tally | None = None
        """What a hit is counted as; made at the first."""

    @property
    def size(self) -> int:
        """Bytes that this takes."""
        return len(self.answer) + len(self.entry.meta) + len(self.supplement or b"") + _HELD_BYTES


OneOfMany: TypeAlias = tuple[bytes, int, int, str, bytes]
"""Answer, ``cost`` and ``latency_ms`` of an entry, the tier it was found in, and its bytes as they lay there."""


class Closing(Protocol):
    """What has connections or files open."""

    def close(self) -> None:
        """Close them."""
        ...


@dataclass(frozen=True, slots=True)
class MemoryTier:
    """The memory tier: its alias and the store behind it."""

    name: str
    store: MemoryStore[Held]
    backend: str = "memory"


class Found(NamedTuple):
    """An entry and the tier it was found in."""

    entry: Entry
    tier: str
    is_stale: bool = False
    """Whether it is past its time, or older than who looks for it wants."""


@dataclass(frozen=True, slots=True)
class Place:
    """What one tier holds under a key."""

    tier: str
    entry: Entry | None
    state: Literal["fresh", "stale", "expired", "absent", "damaged"]
    """``absent``: nothing, or nothing that can be read now; ``damaged``: bytes that are no entry of this key."""
    ttl_left: float | None = None
    """Seconds, zero once it is past its time; None when it does not expire or there is no entry."""


class TierStack:
    """Memory, if there is one, over any number of byte tiers."""

    def __init__(
        self,
        memory: MemoryTier | None,
        below: tuple[ByteTier, ...],
        namespace: str,
        clock: Clock,
        *,
        seal: Seal = NO_SEAL,
        owned: tuple[Closing, ...] = (),
    ) -> None:
        self.memory = memory
        self.below = below
        self._namespace = namespace
        self._prefix = keys.storage_prefix(namespace, seal.id)
        self._seal = seal
        self._clock = clock
        self._owned = owned

    def close(self) -> None:
        """Close what was opened for this stack alone; the backends of ``CACHES`` are the project's."""
        for each in self._owned:
            each.close()

    def drain(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds for writes that are under way in other threads."""
        until = self._clock.monotonic() + timeout
        for tier in self.below:
            if isinstance(tier, DjangoTier):
                tier.drain(max(until - self._clock.monotonic(), 0.0))

    def states(self) -> list[TierState]:
        """Return how each tier has fared in this process, fastest first; asks none of them."""
        memory = self.memory
        first = [TierState(memory.name, memory.backend, "process", True, True, 0, None)] if memory else []
        return [*first, *(tier.state() for tier in self.below)]

    @property
    def names(self) -> tuple[str, ...]:
        """The tiers' names, fastest first."""
        return (*((self.memory.name,) if self.memory else ()), *(tier.name for tier in self.below))

    def read_memory(self, key: bytes, max_age: float, judge: Judge | None = None, stalest: float = 0) -> Found | None:
        """Return what ``read`` does where memory has it; no I/O."""
        held = None if self.memory is None else self.memory.store.get(key)
        if self.memory is None or held is None:
            return None
        now = self._clock.monotonic()
        age, name = now - held.written, self.memory.name
        is_fresh = now < held.expires and age < max_age
        # Of what is good for ever, though not for this caller, the difference is no number.
        lasts = held.expires + (held.entry.stale_until - held.entry.fresh_until if held.expires < math.inf else 0.0)
        is_stale = stalest > 0 and age < stalest and now < lasts
        if (is_fresh or is_stale) and (judge is None or judge.admits(held.entry.seen)):
            return Found(held.entry, name, not is_fresh)
        return None

    def read(
        self, key: bytes, max_age: float, judge: Judge | None = None, stalest: float = 0, *, but: object = None
    ) -> Found | None:
        """Return the fastest tier's entry, ``but`` one's, that has not expired and is younger than ``max_age`` seconds.

        Where there is none, the youngest that may be given as a stale one and is younger than ``stalest`` seconds.
        Without a ``judge`` one that is void is returned too.
        """
        found = self.read_memory(key, max_age, judge, stalest)
        if found is not None and not found.is_stale:
            return found
        return younger(found, self.read_below(key, max_age, judge, stalest, but=but))

    def read_below(
        self,
        key: bytes,
        max_age: float,
        judge: Judge | None = None,
        stalest: float = 0,
        *,
        start: int = 0,
        but: object = None,
    ) -> Found | None:
        """Return what ``read`` does where memory has nothing, nor the first ``start`` of the other tiers."""
        name, stale = self._name(key), None
        for depth, tier in enumerate(self.below[start:], start):
            data = None if tier is but else tier.get(name)
            found = None if data is None else self._found(tier.name, data, key, max_age, stalest)
            # What is void here may have been asked for anew by who wrote to a slower tier.
            if data is None or found is None or not (judge is None or judge.admits(found.entry.seen)):
                continue
            if found.is_stale:
                # Not written above: it would have to be looked for below again, for who asks anew writes there.
                stale = younger(stale, found)
                continue
            if depth or self.memory is not None:
                self._promote(found.entry, name, data, depth)
            return found
        return stale

    def open_below(self, key: bytes, max_age: float, judge: Judge | None = None) -> tuple[Opened, str] | None:
        """Return what a hit needs of the entry that ``read_below`` finds, and its tier's name."""
        if self.memory is not None or len(self.below) != 1 or judge is not None:
            found = self.read_below(key, max_age, judge)
            return None if found is None else (found.entry.opened(), found.tier)
        # With one tier nothing is to be written above it, and the rest of the entry is not needed.
        tier = self.below[0]
        data = tier.get(self._name(key))
        opened = None if data is None else envelope.opened(data, key, self._seal.mac)
        if opened is None:
            return None
        _, written_at, fresh_until, _, _, _, _ = opened
        now = self._clock.wall()
        is_fresh = now < fresh_until and -_CLOCK_SKEW <= now - written_at < max_age
        return (opened, tier.name) if is_fresh else None

    def open_many(
        self, keys: Sequence[bytes], max_age: float, judges: Sequence[Judge | None]
    ) -> list[OneOfMany | None]:
        """Return of many keys, each with its judge, what ``read_below`` finds fresh.

        Each tier is read once, for all the keys of which no faster one has anything usable.
        """
        prefix, mac = self._prefix, self._seal.mac
        # As `_name` does.
        names = [f"{prefix}{key.hex()}}}" for key in keys]
        found: list[OneOfMany | None] = [None] * len(keys)
        left: Sequence[int] = range(len(keys))
        is_alone = self.memory is None and len(self.below) == 1
        for depth, tier in enumerate(self.below):
            read = get_many(tier, [names[place] for place in left])
            now = self._clock.wall()
            for place, data in zip(left, read, strict=True):
                if data is None:
                    continue
                key, judge = keys[place], judges[place]
                if is_alone and judge is None:
                    # Nothing is to be written above, and the rest of the entry is not needed.
                    opened = envelope.opened(data, key, mac)
                    if opened is not None and now < opened[2] and -_CLOCK_SKEW <= now - opened[1] < max_age:
                        found[place] = opened[0], opened[4], opened[5], tier.name, data
                    continue
                entry = self._fresh(tier.name, data, key, max_age, judge)
                if entry is not None:
                    self._promote(entry, names[place], data, depth)
                    found[place] = entry.answer, entry.cost, entry.latency_ms, tier.name, data
            left = [place for place in left if found[place] is None]
            if not left:
                break
        return found

    def _fresh(self, tier: str, data: bytes, key: bytes, max_age: float, judge: Judge | None) -> Entry | None:
        found = self._found(tier, data, key, max_age, 0.0)
        return found.entry if found is not None and (judge is None or judge.admits(found.entry.seen)) else None

    async def aread_below(
        self, key: bytes, max_age: float, judge: Judge | None = None, stalest: float = 0
    ) -> Found | None:
        """Do as ``read_below``, awaited: in the running loop if the fastest of these tiers can, or in a thread."""
        first: Any = self.below[0]
        if not hasattr(first, "aget"):
            return await workers.files.run(partial(self.read_below, key, max_age, judge, stalest))
        data = await first.aget(self._name(key))
        found = None if data is None else self._found(first.name, data, key, max_age, stalest)
        if found is not None and not (judge is None or judge.admits(found.entry.seen)):
            found = None
        if found is not None and not found.is_stale:
            self._hold(found.entry, None)
            return found
        if len(self.below) > 1:
            others = await workers.files.run(partial(self.read_below, key, max_age, judge, stalest, start=1))
            return younger(found, others)
        return found

    def _found(self, tier: str, data: bytes, key: bytes, max_age: float, stalest: float) -> Found | None:
        """Return what a tier's bytes are good for; None for nothing."""
        entry = envelope.decode(data, key, secret=self._seal.mac)
        if entry is None:
            return None
        now = self._clock.wall()
        age = now - entry.written_at
        if age < -_CLOCK_SKEW:
            return None
        if now < entry.fresh_until and age < max_age:
            return Found(entry, tier)
        # An entry from the near future has an age below zero, and is no younger than who wants none.
        return Found(entry, tier, is_stale=True) if stalest > 0 and age < stalest and now < entry.stale_until else None

    def _promote(self, entry: Entry, name: str, data: bytes, depth: int) -> None:
        left = self._left(entry)
        for tier in self.below[:depth]:
            tier.set(name, data, left)
        self._hold(entry, None)

    def write(
        self, entry: Entry, rest: bytes, request: bytes | None = None, publish: Publish | None = None, of: object = None
    ) -> bool:
        """Keep an entry and, beside it, the completion without its answer and the request, in every tier.

        ``publish`` keeps it in the place where its lease lies, which is the tier ``of``, if it is one. Where the lease
        does not allow that, because another process has led meanwhile, no tier gets it, and this is False.
        """
        left = self._left(entry)
        name, more = self._name(entry.key), self._more(entry.key)
        supplement = self._supplement(entry, rest, request)
        data = envelope.encode(entry, secret=self._seal.mac) if self.below else b""
        published = None
        if publish is not None:
            try:
                published = publish(data, supplement, left)
            except Exception:  # noqa: BLE001  # of whatever store: written without its lease, it might come too late
                published = True
        if published is False:
            return False
        # Memory before the others: who looks again after this flight has landed finds it there.
        self._hold(entry, None if self.below else supplement)
        for tier in self.below:
            if published is None or tier is not of:
                tier.set(more, supplement, left)
                tier.set(name, data, left)
        return True

    def flight_names(self, key: bytes, seen: bytes) -> Names:
        """Return what the things of a flight are called in the tiers."""
        lease = keys.lease_key(self._namespace, key, seen, self._seal.id)
        return Names(self._name(key), self._more(key), lease)

    def adopt(self, data: bytes, key: bytes, tier: str, max_age: float, judge: Judge) -> Found | None:
        """Return the fresh entry that these bytes of a tier hold, and keep it in memory; None for any other."""
        found = self._found(tier, data, key, max_age, 0.0)
        if found is None or found.is_stale or not judge.admits(found.entry.seen):
            return None
        self._hold(found.entry, None)
        return found

    def read_rest(self, entry: Entry) -> bytes | None:
        """Return the completion without its answer that was kept beside this very entry, or None when it is gone."""
        part = self._read_supplement(entry)
        return None if part is None else part.answer

    def read_request(self, entry: Entry) -> dict[str, Any] | None:
        """Return the request that was kept beside this very entry, without its schema; None when none is there."""
        part = self._read_supplement(entry)
        return None if part is None else part.facts() or None

    def read_beside(self, entry: Entry) -> tuple[bytes, bytes] | None:
        """Return, as they were kept, the completion without its answer and the request; None when they are gone."""
        part = self._read_supplement(entry)
        return None if part is None else (part.answer, part.meta)

    def places(self, key: bytes) -> list[Place]:
        """Return what each tier holds under a key now, fastest first. Reads every one of them."""
        name = self._name(key)
        found = [self._place(tier.name, tier.get(name), key) for tier in self.below]
        if self.memory is None:
            return found
        held = self.memory.store.get(key)
        if held is None:
            return [Place(self.memory.name, None, "absent"), *found]
        left = held.expires - self._clock.monotonic()
        return [self._lies(self.memory.name, held.entry, left), *found]

    def _name(self, key: bytes) -> str:
        # As keys.storage_key does, in half the time.
        return f"{self._prefix}{key.hex()}}}"

    def _more(self, key: bytes) -> str:
        return keys.supplement_key(self._namespace, key, self._seal.id)

    def _place(self, tier: str, data: bytes | None, key: bytes) -> Place:
        if data is None:
            return Place(tier, None, "absent")
        entry = envelope.decode(data, key, secret=self._seal.mac)
        if entry is None:
            return Place(tier, None, "damaged")
        return self._lies(tier, entry, entry.fresh_until - self._clock.wall())

    def _lies(self, tier: str, entry: Entry, left: float) -> Place:
        if left > 0:
            return Place(tier, entry, "fresh", None if math.isinf(left) else left)
        return Place(tier, entry, "stale" if left + entry.stale_until - entry.fresh_until > 0 else "expired", 0.0)

    def _read_supplement(self, entry: Entry) -> Entry | None:
        if self.memory is not None and not self.below:
            held = self.memory.store.get(entry.key)
            return None if held is None else self._decoded(held.supplement, entry)
        more = self._more(entry.key)
        for tier in self.below:
            part = self._decoded(tier.get(more), entry)
            if part is not None:
                return part
        return None

    def _supplement(self, entry: Entry, rest: bytes, request: bytes | None) -> bytes:
        times = entry.written_at, entry.fresh_until, entry.stale_until
        part = Entry(entry.key, rest, *times, meta=b"{}" if request is None else request)
        return envelope.encode(part, flags=envelope.SUPPLEMENT, secret=self._seal.mac)

    def _decoded(self, data: bytes | None, entry: Entry) -> Entry | None:
        part = envelope.decode(data, entry.key, flags=envelope.SUPPLEMENT, secret=self._seal.mac)
        # Another time means another completion: the two parts were written by different calls.
        return part if part is not None and part.written_at == entry.written_at else None

    def _hold(self, entry: Entry, supplement: bytes | None) -> None:
        if self.memory is None:
            return
        wall, monotonic = self._clock.wall(), self._clock.monotonic()
        held = Held(
            entry, monotonic - max(wall - entry.written_at, 0.0), monotonic + (entry.fresh_until - wall), supplement
        )
        self.memory.store.put(entry.key, held, held.size)

    def _left(self, entry: Entry) -> float | None:
        """Seconds that a store should keep an entry; None when it does not expire."""
        until = max(entry.fresh_until, entry.stale_until)
        return None if math.isinf(until) else max(until - self._clock.wall(), 0.001)


def younger(one: Found | None, other: Found | None) -> Found | None:
    """Return what is fresh, or was written later; None where there is neither."""
    if one is None or other is None:
        return one or other
    return other if (not other.is_stale, other.entry.written_at) > (not one.is_stale, one.entry.written_at) else one
