"""Flights within a process: one provider call per key at a time, however many threads and tasks ask.

The first caller of a flight leads, later ones wait for it to land. It lands with an answer, with an error that is each
waiter's own, or abandoned: then those who waited elect anew, because a leader's limits are its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol, TypeAlias

from llmcache.engine.leases import Lease, Turn
from llmcache.envelope import Entry
from llmcache.exceptions import LLMCacheError

if TYPE_CHECKING:
    from llmcache.engine.call import Call

LimitName: TypeAlias = Literal["deadline", "max_retries", "max_reasks"]

_MOMENT: Final = 0.05
"""The part of a call's timeout in which it begins no attempt that another's deadline has kept from being made."""


class Limit(NamedTuple):
    """A limit of a leader's own, but for which it would have tried once more."""

    name: LimitName
    reached: float
    """What was not enough: monotonic seconds of a deadline, a number of the others."""

    def is_passed_by(self, call: Call, deadline: float) -> bool:
        """Return whether a call that ends at this deadline could do what its leader could not."""
        if self.name == "deadline":
            # Who has asked together has deadlines close together: not each of them asks, with no time left, in turn.
            return deadline - _MOMENT * call.timeout > self.reached
        return (call.max_retries if self.name == "max_retries" else call.max_reasks) > self.reached


@dataclass(frozen=True, slots=True)
class Landing:
    """How a flight ended; with neither entry nor error it was abandoned."""

    entry: Entry | None = None
    rest: bytes = b""
    """The completion without its answer."""
    error: LLMCacheError | None = None
    """Raised by nobody: each waiter raises an error made like it."""
    limit: Limit | None = None
    """Where an error came of it: who has more of it tries itself."""


ABANDONED = Landing()


class Leader(Protocol):
    """Who leads a flight: a thread, or a task of the background loop."""

    def is_alive(self) -> bool:
        """Return whether it can still land its flight."""
        ...


class Flight:
    """A provider call under way, or about to be. Led by this thread, unless by another leader."""

    __slots__ = ("id", "landed", "landing", "leader", "lease", "turn", "watchers")

    def __init__(self, flight_id: bytes, leader: Leader | None = None) -> None:
        self.id = flight_id
        self.leader: Leader = threading.current_thread() if leader is None else leader
        self.landed = threading.Event()
        self.landing = ABANDONED
        self.watchers: list[Callable[[], None]] = []
        self.turn: Turn | None = None
        """Its attempts to lead over all processes; None before the first."""
        self.lease: Lease | None = None


_led: ContextVar[tuple[Flight, ...]] = ContextVar("llmcache_led", default=())
"""The flights that this context leads, or was copied within: their leaders may be waiting for it."""


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
            found = self._flights.setdefault(flight.id, flight)
        if found is flight:
            _led.set((*_led.get(), flight))
        return found

    def leads_itself(self, flight: Flight) -> bool:
        """Return whether a flight's leader is the caller, or waits for the caller."""
        return flight.leader is threading.current_thread() or flight in _led.get()

    def watch(self, flight: Flight, landed: Callable[[], None]) -> None:
        """Have a function called when a flight lands, in whatever thread lands it; at once for one that has."""
        with self._lock:
            if self._flights.get(flight.id) is flight:
                flight.watchers.append(landed)
                return
        landed()

    def land(self, flight: Flight, landing: Landing) -> None:
        """End a flight and wake who waits for it; does nothing for one that has landed or never led."""
        led = _led.get()
        if flight in led:
            _led.set(tuple(other for other in led if other is not flight))
        with self._lock:
            if self._flights.get(flight.id) is not flight:
                return
            # Out of the map first: who comes now starts a new flight and looks into the tiers again.
            del self._flights[flight.id]
            flight.landing = landing
            flight.landed.set()
        for landed in flight.watchers:
            landed()

    def reset_after_fork(self) -> None:
        """Forget the parent's flights: nobody in this process will land them."""
        self._lock = threading.Lock()
        self._flights = {}
