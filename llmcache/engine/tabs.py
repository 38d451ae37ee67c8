"""What the calls inside of a function would have cost without a cache, added up while the function runs.

A decorated function asks nobody itself: what making its value costs are the calls that it makes. Those are counted by
themselves. A hit of the function makes none of them, and avoids what they come to together: what was paid for the ones
that were asked, and what the entries had cost to make that answered the others.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final


class Tab:
    """The costs of one run of a function; calls in several threads may add to it."""

    __slots__ = ("_lock", "cost")

    def __init__(self) -> None:
        self.cost: int | None = 0
        """10**-12 US dollars; None as soon as one call's is not known."""
        self._lock = threading.Lock()

    def add(self, cost: int | None) -> None:
        """Add what one call has cost, or would have; None when that is not known."""
        with self._lock:
            self.cost = None if cost is None or self.cost is None else self.cost + cost


_open: Final[ContextVar[Tab | None]] = ContextVar("llmcache_tab", default=None)

open_tab = _open.get
"""Return the tab of the function that runs here; None outside of one."""


@contextmanager
def opened(tab: Tab) -> Generator[None]:
    """Let calls that are made in a ``with`` block add to a tab, and to no other: that is told once for all of them."""
    token = _open.set(tab)
    try:
        yield
    finally:
        _open.reset(token)
