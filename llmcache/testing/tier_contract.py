"""What every tier of bytes has to do, as tests: subclass ``TierContract`` and say how your tier is made.

    class TestOurCache(TierContract):
        def make_tier(self):
            return tier_of("ours")  # an alias of CACHES

        def make_broken_tier(self):
            return tier_of("ours-out-of-reach")

It runs under pytest as it is, and under ``unittest`` beside ``TestCase``. Keys are random: the store need not be empty,
and is not emptied.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from llmcache import keys
from llmcache.tiers.base import ByteTier, TierState, get_many
from llmcache.tiers.configured import tier_of

__all__ = ["TierContract", "tier_of"]

_YEAR: Final = 365 * 86_400.0
_THREADS: Final = 8
_STEPS: Final = 25


class TierContract:
    """Tests of one tier; a subclass gives ``make_tier`` and ``make_broken_tier``."""

    largest_bytes: int = 2**20 - 4_096
    """The largest value that is tried; the default is what Memcached takes."""
    deadline_seconds: float = 10.0
    """How long after its time a value may still be there, and how long threads may take."""

    def make_tier(self) -> ByteTier:
        """Return a tier; each one that is made in a test is over the same store."""
        raise NotImplementedError

    def make_broken_tier(self) -> ByteTier | None:
        """Return a tier whose store fails at every operation; None when such a store cannot fail."""
        raise NotImplementedError

    def test_what_was_never_kept_is_none(self) -> None:
        """A key that nobody has used."""
        _same(self.make_tier().get(_key()), None)

    def test_bytes_come_back_as_they_were(self) -> None:
        """Bytes that some clients take for numbers, text, or their own."""
        tier = self.make_tier()
        for value in (
            *(b"", b"\0", b"x", b"123", b"-1", b" 1_000 ", b"1e3", b"null", b'{"a": 1}'),
            *(bytes(range(256)) * 40, "é☃".encode(), b"\xff\xfe", b"\x80\x04N.", b"\r\nEND\r\n", b"\xf1LMC\1"),
            os.urandom(self.largest_bytes),
        ):
            key = _key()
            tier.set(key, value, 60)
            _same(tier.get(key), value)

    def test_another_tier_over_the_store_finds_them(self) -> None:
        """As another thread would, or a process."""
        key = _key()
        self.make_tier().set(key, b"value", None)
        _same(self.make_tier().get(key), b"value")

    def test_a_value_is_replaced(self) -> None:
        """By a longer one, a shorter one, an empty one."""
        tier, key = self.make_tier(), _key()
        for value in (b"one", b"a longer value", b"", b"two"):
            tier.set(key, value, 60)
            _same(tier.get(key), value)

    def test_a_value_is_removed(self) -> None:
        """It alone, and twice."""
        tier, key, other = self.make_tier(), _key(), _key()
        tier.set(key, b"value", None)
        tier.set(other, b"other", None)
        tier.delete(key)
        tier.delete(key)
        _same((tier.get(key), tier.get(other)), (None, b"other"))

    def test_keys_are_told_apart(self) -> None:
        """Keys that are alike: two name spaces, an entry and its second part, one bit."""
        tier, key = self.make_tier(), os.urandom(32)
        near = key[:-1] + bytes([key[-1] ^ 1])
        longest = "n" * keys.MAX_NAMESPACE
        names = [
            make(namespace, each)
            for make in (keys.storage_key, keys.supplement_key)
            for namespace in ("n", "nn", longest)
            for each in (key, near)
        ]
        for name in names:
            tier.set(name, name.encode(), 60)
        _same([tier.get(name) for name in names], [name.encode() for name in names])

    def test_many_are_read_at_once(self) -> None:
        """In their order, what is not there among them, and one of them twice."""
        tier = self.make_tier()
        keys_read = [_key() for _ in range(40)]
        for number, key in enumerate(keys_read[::2]):
            tier.set(key, b"value %d" % number, 60)
        expected = [b"value %d" % (number // 2) if number % 2 == 0 else None for number in range(40)]
        _same(get_many(tier, [*keys_read, keys_read[0]]), [*expected, b"value 0"])
        _same(get_many(tier, []), [])

    def test_a_time_is_never_cut_short(self) -> None:
        """Fractions of a second, years, and what no clock can count."""
        tier = self.make_tier()
        for ttl in (None, 0.3, 0.999, 1.5, 31 * 86_400.0, _YEAR, 20 * _YEAR, 1e12, 1e300, math.inf):
            key = _key()
            tier.set(key, b"value", ttl)
            _same(tier.get(key), b"value", f"with a time of {ttl} seconds")

    def test_a_value_ends_with_its_time(self) -> None:
        """Soon after it; a new value has its own time."""
        tier = self.make_tier()
        short, longer, endless, cut = (_key() for _ in range(4))
        tier.set(short, b"value", 0.2)
        for key, ttl in ((longer, 600.0), (endless, None)):
            tier.set(key, b"old", 0.2)
            tier.set(key, b"new", ttl)
        tier.set(cut, b"old", 600)
        tier.set(cut, b"new", 0.2)
        _until(lambda: tier.get(short) is None and tier.get(cut) is None, self.deadline_seconds)
        _same((tier.get(longer), tier.get(endless)), (b"new", b"new"))

    def test_a_time_that_is_over_removes_the_value(self) -> None:
        """Zero, less, and what is no number."""
        tier, key = self.make_tier(), _key()
        for ttl in (0, 0.0, -1, -1e9, -math.inf, math.nan):
            tier.set(key, b"old", None)
            tier.set(key, b"new", ttl)
            _same(tier.get(key), None, f"with a time of {ttl} seconds")

    def test_only_bytes_are_kept(self) -> None:
        """Anything else is a mistake of the caller's, and raises."""
        tier, key = self.make_tier(), _key()
        tier.set(key, b"old", None)
        for value in (None, "text", 1, bytearray(b"x"), memoryview(b"x"), [b"x"]):
            wrong: Any = value
            try:
                tier.set(key, wrong, None)
            except TypeError:
                continue
            raise AssertionError(f"{type(value).__name__} was taken for bytes")
        _same(tier.get(key), b"old")

    def test_threads_read_write_and_remove_at_once(self) -> None:
        """No error, no value of another key, nothing that was never written."""
        tier, names = self.make_tier(), [_key() for _ in range(10)]

        def work(number: int) -> None:
            for step in range(_STEPS):
                name = names[(step * (number + 1)) % len(names)]
                if step % 5 == 0:
                    tier.set(name, name.encode() * 20, 60)
                elif step % 17 == 0:
                    tier.delete(name)
                elif (found := tier.get(name)) is not None:
                    _same(found, name.encode() * 20)

        before = tier.state().faults
        _in_threads(work, self.deadline_seconds)
        _same(tier.state().faults, before, "faults")

    def test_the_state_is_told(self) -> None:
        """A name, and no faults while all is well."""
        tier = self.make_tier()
        tier.set(_key(), b"value", 60)
        tier.get(_key())
        state = tier.state()
        _same(type(state), TierState)
        _same((state.name, state.reads, state.writes, state.error), (tier.name, True, True, None))

    def test_a_fault_never_raises(self) -> None:
        """It is a miss or a dropped write, counted, and in the state."""
        tier = self.make_broken_tier()
        if tier is None:
            return
        key = _key()
        tier.set(key, b"value", None)
        _same(tier.get(key), None)
        _same(get_many(tier, [key, key]), [None, None])
        tier.delete(key)
        state = tier.state()
        _same((state.faults >= 1, state.error is not None), (True, True), "counts its faults, and names one")


def _key() -> str:
    return keys.storage_key("contract", os.urandom(32))


def _same(found: object, expected: object, what: str = "") -> None:
    if found != expected or type(found) is not type(expected):
        raise AssertionError(f"expected {_shown(expected)}, got {_shown(found)} {what}".rstrip())


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) < 200 else f"{shown[:200]}… ({type(value).__name__})"


def _until(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"a value is there {seconds} seconds after its time")
        time.sleep(0.02)


def _in_threads(work: Callable[[int], None], seconds: float) -> None:
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001  # shown by the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
        if thread.is_alive():
            raise AssertionError(f"a thread has not come to its end within {seconds} seconds")
    if errors:
        raise errors[0]
