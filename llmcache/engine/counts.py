"""Counts of calls: running totals for each thread, so that counting takes no lock.

One lock on the hit path costs sixteen threads two thirds of their rate. A thread's totals are never reset; a reader
adds up copies. The totals of a thread that has ended are folded into one.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import Counter, deque
from typing import Final

CountKey = tuple[str, str, "str | None", str]
"""Kind, model, tier or None, outcome."""

Totals = dict[CountKey, int]

MAX_KEYS: Final = 4_096
"""Keys of one thread; what comes beyond is counted together."""
OTHER: Final = "other"


class _Local(threading.local):
    def __init__(self) -> None:
        self.totals = _begin()


class _Ledger:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.live: dict[int, Totals] = {}
        self.ended: Counter[CountKey] = Counter()
        self.ending: deque[Totals] = deque()

    def fold(self) -> None:
        """Add the totals of threads that have ended to one; the lock is held."""
        while self.ending:
            totals = self.ending.popleft()
            if self.live.pop(id(totals), None) is not None:
                self.ended.update(totals)


def _begin() -> Totals:
    totals: Totals = {}
    thread, ledger = threading.current_thread(), _ledger
    with ledger.lock:
        ledger.fold()
        ledger.live[id(totals)] = totals
    # No lock there: the collector may run it at any moment, also in a thread that holds the lock.
    weakref.finalize(thread, ledger.ending.append, totals).atexit = False
    return totals


def _reset_in_child() -> None:
    """A forked child starts with no counts: its parent has them."""
    global _ledger, _local
    _ledger = _Ledger()
    _local = _Local()


_ledger = _Ledger()
_local = _Local()
os.register_at_fork(after_in_child=_reset_in_child)


def count(key: CountKey) -> None:
    """Add one call to the calling thread's totals."""
    totals = _local.totals
    found = totals.get(key)
    if found is None and len(totals) >= MAX_KEYS:
        key = (OTHER, OTHER, key[2], key[3])
        found = totals.get(key)
    totals[key] = 1 if found is None else found + 1


def this_thread() -> Totals:
    """Return the calling thread's own totals, as they stand now."""
    return _local.totals.copy()


def total() -> Totals:
    """Return the totals of all threads of this process since it began."""
    ledger = _ledger
    with ledger.lock:
        ledger.fold()
        summed = Counter(ledger.ended)
        for totals in ledger.live.values():
            summed.update(totals.copy())
    return dict(summed)
