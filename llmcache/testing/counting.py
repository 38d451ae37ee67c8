"""``assert_provider_calls``: how many attempts leave for a provider, from whatever thread or task."""

from __future__ import annotations

import contextlib
from collections import Counter
from types import TracebackType
from typing import Self

from llmcache.engine import departures
from llmcache.engine.departures import Departure


class assert_provider_calls:  # noqa: N801  # read as a verb: with assert_provider_calls(1)
    """Fail unless this many attempts leave for a provider in a ``with`` block, faked ones and retries included.

    Counted are all threads and tasks of this process. Hits, and calls that waited for another call's answer, leave
    nothing.
    """

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.departures: list[Departure] = []
        """What has left so far, oldest first."""
        self._stack = contextlib.ExitStack()

    @property
    def count(self) -> int:
        """How many attempts have left so far."""
        return len(self.departures)

    def __enter__(self) -> Self:
        self.departures.clear()
        self._stack.enter_context(departures.told_to(self.departures.append))
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()
        # A block that failed says more by its own error.
        if error_type is None and self.count != self.expected:
            raise AssertionError(self._told())

    def _told(self) -> str:
        asked = Counter(f"{each.kind} of {each.model} ({each.why})" for each in self.departures)
        lines = "".join(f"\n  {times} x {what}" for what, times in asked.items())
        return (
            f"{self.count} provider calls were made where {self.expected} were expected{':' if lines else '.'}{lines}"
        )
