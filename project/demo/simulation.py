"""The made-up time of a run: the log's minutes, stretched over the days before now.

What a dashboard shows of days and months cannot be seen in a minute's run. So a run against the sandbox is recorded as
if its requests had come over the last 31 days, or since the last thing that the ledger knows of, and each row that it
makes says that it is ``simulated``. How long calls took is measured on the real clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from llmcache import conf
from llmcache.clock import Clock
from llmcache.engine import process
from llmcache.engine.runtime import Runtime
from project.demo.data import Request

MOST_SECONDS: Final = 31 * 86_400.0
"""Of the time before now: more than a dashboard shows at first, less than the demo's answers are kept."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time, in Unix seconds."""

    began: float
    ended: float


def span_until(now: float, since: float | None) -> Span:
    """Return what a run is stretched over: the time since a moment, at most the last 31 days.

    Before that moment lies what is known already. An answer from its own future would not be taken.
    """
    began = now - MOST_SECONDS
    return Span(min(now, began if since is None else max(began, since)), now)


class SimulatedTime:
    """A clock for a log: it stands at the request that was taken last, and never goes back.

    A call ends later than it began by this clock where others were taken meanwhile.
    """

    def __init__(self, log: list[Request], span: Span) -> None:
        self.began = self.now = span.began
        """Unix seconds."""
        self._span = span
        self._first = log[0].at_ms
        self._length = max(log[-1].at_ms - self._first, 0)

    def take(self, request: Request) -> None:
        """Move on to the time of a request. One caller at a time."""
        share = (request.at_ms - self._first) / self._length if self._length else 1.0
        self.now = max(self.now, self._span.began + share * (self._span.ended - self._span.began))

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Let llmcache record by this clock."""
        process.install(Runtime(conf.current(), clock=Clock(wall=lambda: self.now, simulated=True)))
        try:
            yield
        finally:
            process.install(None)
