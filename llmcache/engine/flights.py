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
    """A provider call under way."""

    __slots__ = ("id", "landed", "landing", "leader")

    def __init__(self, flight_id: bytes) -> None:
        self.id = flight_id
        self.leader = threading.get_ident()
        self.landed = threading.Event()
        self.landing = ABANDONED


class Flights:
    """The flights of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[bytes, Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def board(self, flight_id: bytes) -> tuple[Flight, bool]:
        """Return the flight of this id, and whether the caller leads it and so has to land it."""
        with self._lock:
            flight = self._flights.get(flight_id)
            if flight is not None:
                return flight, False
            flight = self._flights[flight_id] = Flight(flight_id)
            return flight, True

    def land(self, flight: Flight, landing: Landing) -> None:
        """End a flight and wake everybody who waits for it; a second landing changes nothing."""
        with self._lock:
            if flight.landed.is_set():
                return
            # Out of the map first: who comes now starts a new flight and looks into the tiers again.
            self._flights.pop(flight.id, None)
            flight.landing = landing
            flight.landed.set()

    def reset_after_fork(self) -> None:
        """Forget the parent's flights: nobody in this process will land them."""
        self._lock = threading.Lock()
        self._flights = {}
