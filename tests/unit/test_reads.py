"""What a hit reads below memory is what a full read finds there, and a miss for whatever a full read takes for one."""

import math
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcache import envelope, keys
from llmcache.clock import Clock
from llmcache.envelope import Entry
from llmcache.sealing import NO_SEAL, Seal, seal_of
from llmcache.setting_values import KeySecret
from llmcache.tiers.base import TierState
from llmcache.tiers.memory import MemoryStore
from llmcache.tiers.stack import Held, MemoryTier, TierStack

NOW = 1_800_000_000.0
KEY = bytes(range(32))
NAMESPACE = "reads"
SEALS = (NO_SEAL, seal_of(KeySecret("a", b"a secret of thirty-two bytes or more")))


class Kept:
    """A tier that keeps whatever it is given, for ever."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bytes: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        return self.bytes.get(key)

    def set(self, key: str, value: bytes, ttl_seconds: float | None) -> None:
        self.bytes[key] = value

    def delete(self, key: str) -> None:
        self.bytes.pop(key, None)

    def state(self) -> TierState:
        return TierState(self.name, "kept", "process", True, True, 0, None)


def stack(seal: Seal = NO_SEAL, tiers: int = 1, *, memory: bool = False) -> TierStack:
    over = MemoryTier("memory", MemoryStore[Held](2**20)) if memory else None
    clock = Clock(wall=lambda: NOW, monotonic=time.monotonic)
    return TierStack(over, tuple(Kept(str(number)) for number in range(tiers)), NAMESPACE, clock, seal=seal)


def lay(stack: TierStack, data: bytes, seal: Seal = NO_SEAL, depth: int = 0) -> None:
    stack.below[depth].set(keys.storage_key(NAMESPACE, KEY, seal.id), data, None)


# Seconds from now, with what lies just beside each limit.
past = st.sampled_from([-61.0, -60.0, -1.0, -1e-6, 0.0, 60.0, 61.0, -1e9, -math.inf, 1e9])
future = st.sampled_from([math.inf, 1e9, 61.0, 60.0, 1.0, 1e-6, 0.0, -1e-6, -1.0, -math.inf])
entries = st.builds(
    lambda written, fresh, stale, **rest: Entry(
        KEY, written_at=NOW + written, fresh_until=NOW + fresh, stale_until=NOW + stale, **rest
    ),
    written=past,
    fresh=future,
    stale=future,
    answer=st.binary(max_size=50),
    cost=st.integers(-1, envelope.MOST_COST),
    latency_ms=st.integers(0, 2**32 - 1),
    seen=st.lists(st.binary(min_size=16, max_size=16), max_size=3).map(b"".join),
    meta=st.binary(max_size=50),
)


@settings(max_examples=300)
@given(
    entry=entries,
    max_age=st.sampled_from([0.0, 1.0, 60.0, 1e9, math.inf]),
    seal=st.sampled_from(SEALS),
    tiers=st.integers(1, 2),
    memory=st.booleans(),
    flip=st.just(None) | st.none() | st.integers(0, 103),
)
def test_a_hit_reads_what_a_full_read_finds(
    entry: Entry, max_age: float, seal: Seal, tiers: int, memory: bool, flip: int | None
) -> None:
    data = bytearray(envelope.encode(entry, secret=seal.mac))
    if flip is not None:
        data[flip] ^= 1
    one, other = stack(seal, tiers, memory=memory), stack(seal, tiers, memory=memory)
    for each in (one, other):
        lay(each, bytes(data), seal, depth=tiers - 1)
    opened, found = one.open_below(KEY, max_age), other.read_below(KEY, max_age)
    if found is None:
        assert opened is None
    else:
        assert opened == (found.entry.opened(), found.tier)
        assert found.entry == entry
    # What is kept above it is the same too.
    for a, b in zip(one.below, other.below, strict=True):
        assert (a.bytes, a.name) == (b.bytes, b.name)  # type: ignore[attr-defined]
    assert (one.read_memory(KEY, math.inf) is None) == (other.read_memory(KEY, math.inf) is None)


@pytest.mark.parametrize(
    ("entry", "max_age", "is_hit"),
    [
        ({"fresh_until": NOW + 1}, math.inf, True),
        ({"fresh_until": NOW}, math.inf, False),
        ({"fresh_until": math.inf}, 10.0, False),
        ({"fresh_until": math.inf}, 10.001, True),
        ({"written_at": NOW + 60}, math.inf, True),
        ({"written_at": NOW + 60.001}, math.inf, False),
        ({"written_at": math.nan}, math.inf, False),
        ({"fresh_until": math.nan}, math.inf, False),
    ],
)
def test_what_is_over_or_from_the_future_is_no_hit(entry: dict[str, Any], max_age: float, is_hit: bool) -> None:
    times = {"written_at": NOW - 10, "fresh_until": math.inf, "stale_until": math.inf, **entry}
    tiers = stack()
    lay(tiers, envelope.encode(Entry(KEY, b"1", **times)))
    assert (tiers.open_below(KEY, max_age) is not None) is is_hit


@pytest.mark.parametrize(("tiers", "memory"), [(1, True), (2, False), (3, True)])
def test_what_is_found_is_kept_above(tiers: int, memory: bool) -> None:
    entry = Entry(KEY, b"1", NOW, math.inf, math.inf, meta=b'{"a":1}')
    those = stack(tiers=tiers, memory=memory)
    lay(those, envelope.encode(entry), depth=tiers - 1)
    assert those.open_below(KEY, math.inf) == (entry.opened(), str(tiers - 1))
    name = keys.storage_key(NAMESPACE, KEY)
    assert [tier.get(name) for tier in those.below] == [envelope.encode(entry)] * tiers
    held = those.read_memory(KEY, math.inf)
    assert (held and held.entry) == (entry if memory else None)


def test_nothing_below_is_no_hit() -> None:
    assert stack(tiers=0).open_below(KEY, math.inf) is None
    assert stack().open_below(KEY, math.inf) is None


@pytest.mark.parametrize("seal", SEALS, ids=["plain", "sealed"])
def test_the_name_is_the_one_that_others_look_under(seal: Seal) -> None:
    tiers = stack(seal)
    tiers.write(Entry(KEY, b"1", NOW, math.inf, math.inf), b"{}")
    (tier,) = tiers.below
    assert tier.get(keys.storage_key(NAMESPACE, KEY, seal.id)) is not None
    assert tier.get(keys.supplement_key(NAMESPACE, KEY, seal.id)) is not None
    assert tiers.open_below(KEY, math.inf) is not None
