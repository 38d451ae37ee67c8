"""Flights within a process: one provider call per key at a time, however many threads ask.

The first caller of a flight leads, later ones wait for it to land. It lands with an answer, with an error that is each
waiter's own, or abandoned: then those who waited elect anew, because a leader's limits are its own.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from llmcache.envelope import Entry
from llmcache.exceptions import LLMCacheError


@dataclass(frozen=True, slots=True)
class Landing:
    """How a flight ended; with neither entry nor error it was abandoned."""

    entry: Entry | None = None
    rest: bytes = b""
    """The completion without its answer."""
    error: LLMCacheError | None = None
    """Raised by nobody: each waiter raises an error made like it."""


ABANDONED = Landing()


class Flight:
    """A provider call under way, or about to be."""

    __slots__ = ("id", "landed", "landing", "leader")

    def __init__(self, flight_id: bytes) -> None:
        self.id = flight_id
        self.leader = threading.current_thread()
        self.landed = threading.Event()
        self.landing = ABANDONED


class Flights:
    """The flights of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[bytes, Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def board(self, flight: Flight) -> Flight:
        """Return the flight of this one's id that is under way; this very one when there was none: it leads now.

        The caller makes the flight beforehand and lands it whatever happens, so that an exception that strikes at any
        moment, such as a signal handler's, leaves none behind that nobody will land.
        """
        with self._lock:
            return self._flights.setdefault(flight.id, flight)

    def land(self, flight: Flight, landing: Landing) -> None:
        """End a flight and wake who waits for it; does nothing for one that has landed or never led."""
        with self._lock:
            if self._flights.get(flight.id) is not flight:
                return
            # Out of the map first: who comes now starts a new flight and looks into the tiers again.
            del self._flights[flight.id]
            flight.landing = landing
            flight.landed.set()

    def reset_after_fork(self) -> None:
        """Forget the parent's flights: nobody in this process will land them."""
        self._lock = threading.Lock()
        self._flights = {}
