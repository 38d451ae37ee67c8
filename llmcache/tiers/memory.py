"""Items in memory within a budget of bytes, for many threads; a hit takes no lock.

Readers look into a dict and mark what they found as used. Writers alone keep the order, in a queue of slots (CLOCK, or
second chance): what is to be evicted is taken from the left, and what was used since it was queued goes back to the
right with its mark cleared. An exact order of use would need a lock round each hit, which costs two thirds of the
throughput of 16 threads.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar
from weakref import WeakSet

V = TypeVar("V")

# What an item takes beside its own bytes: its slot, its places in dict and queue, a key of 32 bytes, and the headers of
# key, value and numbers. Growth of the resident memory for 44,000 to 350,000 items of 300 bytes (CPython 3.11, x86-64):
# 284-286 bytes an item, measured just after the dict had grown, when it is at its emptiest.
ITEM_OVERHEAD_BYTES: Final = 288

# Removed slots that may stay in the queue beside the live ones; a queue is rebuilt at twice the live ones and this.
_SPARE_SLOTS: Final = 64


class _Slot(Generic[V]):
    """One item as readers see it; ``value`` is None once it was removed or replaced."""

    __slots__ = ("key", "size", "used", "value")

    def __init__(self, key: bytes | str, value: V, size: int) -> None:
        self.key = key
        self.value: V | None = value
        self.size = size
        self.used = False


class MemoryStore(Generic[V]):
    """Items by key, of which those unused for longest go when their sizes exceed the budget.

    ``max_bytes`` counts each item's size and a measured overhead. Safe for many threads. A forked child has what its
    parent had.
    """

    __slots__ = ("__weakref__", "_lock", "_max_bytes", "_queue", "_slots", "_used_bytes")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = _budget(max_bytes)
        self._slots: dict[bytes | str, _Slot[V]] = {}
        # Slots in the order in which they will be looked at for eviction. One that `_slots` no longer has under its key
        # is dead: finding it in the queue at once would take time that grows with the queue.
        self._queue: deque[_Slot[V]] = deque()
        self._used_bytes = 0
        self._lock = threading.Lock()
        with _registry_lock:
            _stores.add(self)

    def get(self, key: bytes | str) -> V | None:
        """Return the item under a key, or None; marks it as used. Takes no lock."""
        slot = self._slots.get(key)
        if slot is None:
            return None
        slot.used = True
        return slot.value

    def put(self, key: bytes | str, item: V, size: int) -> None:
        """Keep an item of ``size`` bytes, in place of what was there, and evict others until it fits.

        An item that is larger than the whole budget is not kept, and neither is an older one under its key.
        """
        with self._lock:
            self._put(key, item, size)

    def add(self, key: bytes | str, item: V, size: int, counts: Callable[[V], bool]) -> bool:
        """Keep an item unless there is one that ``counts``, in one step; return whether it was kept."""
        with self._lock:
            slot = self._slots.get(key)
            if slot is not None and slot.value is not None and counts(slot.value):
                return False
            return self._put(key, item, size)

    def delete(self, key: bytes | str) -> bool:
        """Remove the item under a key; return whether there was one."""
        with self._lock:
            removed = self._remove(key)
            self._compact()
            return removed

    def clear(self) -> None:
        """Remove all items."""
        with self._lock:
            self._slots.clear()
            self._queue.clear()
            self._used_bytes = 0

    def resize(self, max_bytes: int) -> None:
        """Set another budget; evicts what no longer fits."""
        with self._lock:
            self._max_bytes = _budget(max_bytes)
            self._evict()

    def __len__(self) -> int:
        return len(self._slots)

    def items(self) -> list[V]:
        """Return all items as they are now; marks none as used."""
        values = [slot.value for slot in self._slots.copy().values()]
        return [value for value in values if value is not None]

    @property
    def max_bytes(self) -> int:
        """The budget in bytes."""
        return self._max_bytes

    @property
    def used_bytes(self) -> int:
        """What all items take, overhead included; never above the budget."""
        with self._lock:
            return self._used_bytes

    def _put(self, key: bytes | str, item: V, size: int) -> bool:
        slot = _Slot(key, item, size + ITEM_OVERHEAD_BYTES)
        if slot.size > self._max_bytes:
            self._remove(key)
            self._compact()
            return False
        replaced = self._slots.get(key)
        self._slots[key] = slot
        self._used_bytes += slot.size
        if replaced is not None:
            self._used_bytes -= replaced.size
            replaced.value = None
        # Queued after the eviction: with every other item marked, the new one would be the first to go.
        self._evict()
        self._queue.append(slot)
        self._compact()
        return True

    def _remove(self, key: bytes | str) -> bool:
        slot = self._slots.pop(key, None)
        if slot is None:
            return False
        self._used_bytes -= slot.size
        slot.value = None
        return True

    def _evict(self) -> None:
        # Readers mark slots while we look: without a bound on second chances they could keep us here.
        chances = len(self._queue)
        while self._used_bytes > self._max_bytes and self._queue:
            slot = self._queue.popleft()
            if self._slots.get(slot.key) is not slot:
                continue
            if slot.used and chances > 0:
                chances -= 1
                slot.used = False
                self._queue.append(slot)
            else:
                self._remove(slot.key)

    def _compact(self) -> None:
        if len(self._queue) > 2 * len(self._slots) + _SPARE_SLOTS:
            self._queue = deque(slot for slot in self._queue if self._slots.get(slot.key) is slot)

    def pause_writers(self) -> threading.Lock | None:
        """Wait at most a second until no writer is half way; return the lock to release, None when time was up."""
        return self._lock if self._lock.acquire(timeout=1.0) else None

    def reset_lock(self) -> None:
        """Forget whoever holds writers up; for a forked child, in which those threads do not exist."""
        self._lock = threading.Lock()


def _budget(max_bytes: int) -> int:
    if max_bytes < 0:
        raise ValueError(f"max_bytes must be zero or more, got {max_bytes}")
    return max_bytes


_registry_lock = threading.Lock()
"""Held to note a store, and over a fork."""
_stores: WeakSet[MemoryStore[Any]] = WeakSet()
_named: dict[str, MemoryStore[Any]] = {}


def store_named(name: str, max_bytes: int) -> MemoryStore[Any]:
    """Return the process's store of a name, made at the first use; another budget than before resizes it.

    Django makes a cache backend for each thread, and all of one name have to find the same items.
    """
    store = _named.get(name)
    if store is None:
        # One step: of two threads that come here at once, both get the store of one.
        store = _named.setdefault(name, MemoryStore(max_bytes))
    if store.max_bytes != max_bytes:
        store.resize(max_bytes)
    return store


_paused: list[threading.Lock] = []


def _before_fork() -> None:
    # A child forked in the middle of a write would have the dict of one moment and the sum of another. The waits are
    # bounded for a fork in a signal handler that interrupted the very writer it would wait for.
    if _registry_lock.acquire(timeout=1.0):
        _paused.append(_registry_lock)
    for store in list(_stores):
        lock = store.pause_writers()
        if lock is not None:
            _paused.append(lock)


def _after_fork_in_parent() -> None:
    # Emptied before the first release: another thread that forks too may fill it from then on.
    paused = _paused.copy()
    _paused.clear()
    for lock in reversed(paused):
        lock.release()


def _after_fork_in_child() -> None:
    # New locks: one that was taken in the parent cannot be released here on every platform.
    global _registry_lock
    _registry_lock = threading.Lock()
    _paused.clear()
    for store in list(_stores):
        store.reset_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
