"""What every tier below memory offers: bytes by key, and no exception for a store that is down, full or damaged."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias, cast

logger = logging.getLogger("llmcache.tiers")

Shared: TypeAlias = Literal["process", "machine", "network", "unknown"]
"""Who finds what a tier holds: this process alone, all of this machine, every machine that reaches the server."""

_SAID: Final = 200

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class TierState:
    """What this process knows of a tier, without asking it."""

    name: str
    """The alias in ``CACHES``, or that of a default: ``memory``, ``disk``."""
    backend: str
    """The dotted path of the alias's class; ``memory`` or ``disk folder`` for a default."""
    shared: Shared
    reads: bool
    """Whether the last read worked; True before the first."""
    writes: bool
    faults: int
    """How many operations have failed in this process."""
    error: str | None
    """The class name of the last fault."""
    breaker: Literal["closed", "open"] = "closed"
    """``open``: the store is left alone, without I/O, until it answers again."""
    waits: int = 0
    """How often an operation has waited for a connection that others had."""


class ByteTier(Protocol):
    """A store of bytes that cannot fail a call: a fault is a miss, counted, and logged once per change of state.

    One that can be asked in an event loop itself has ``aget`` beside ``get``; any other is asked by a thread. One that
    reads many keys faster than one by one has ``get_many``, which does what the function of this name does.
    """

    @property
    def name(self) -> str:
        """The alias in ``CACHES``, or ``disk``."""
        ...

    def get(self, key: str) -> bytes | None:
        """Return the bytes kept under a key; None when there are none, or none that can be read now."""
        ...

    def set(self, key: str, value: bytes, ttl_seconds: float | None) -> None:
        """Keep bytes for a time; None means that they do not expire. What cannot be written is dropped."""
        ...

    def delete(self, key: str) -> None:
        """Remove what is kept under a key."""
        ...

    def state(self) -> TierState:
        """Return how the tier has fared in this process; asks nobody."""
        ...


def get_many(tier: ByteTier, keys: Sequence[str]) -> list[bytes | None]:
    """Return what ``get`` does for each of these keys, in their order, in as few steps as the tier can."""
    own = cast("Callable[[Sequence[str]], list[bytes | None]] | None", getattr(tier, "get_many", None))
    return [tier.get(key) for key in keys] if own is None else own(keys)


class LeftAloneError(Exception):
    """The store was down a moment ago, and is not asked."""


class NoNameError(Exception):
    """The alias's own function, which it calls ``KEY_FUNCTION``, has made no name of a key."""


class Health:
    """Whether one kind of operation on a tier works; says so in the log when that changes, and only then.

    Reads and writes have one each: a full disk can be read, and one state for both would change with every call.
    """

    def __init__(self, tier: str, operation: str, meanwhile: str) -> None:
        self.faults = 0
        """How often the operation has failed in this process."""
        self.error: str | None = None
        """The class name of the last fault."""
        self.failed_at = 0
        """Which of the process's faults the last one was."""
        self._tier = tier
        self._operation = operation
        self._meanwhile = meanwhile
        self._works = True
        self._lock = threading.Lock()
        _all.add(self)

    @property
    def works(self) -> bool:
        """Whether the last operation was no fault."""
        return self._works

    def failed(self, error: Exception) -> None:
        """Count a fault; the first one after a success is logged as a warning."""
        with self._lock:
            self._count(error)
            changed, self._works = self._works, False
        if changed:
            logger.warning(
                "The tier %r cannot be %s: %s: %s. %s",
                self._tier,
                self._operation,
                type(error).__name__,
                said_of(error),
                self._meanwhile,
            )

    def counted(self, error: Exception) -> None:
        """Count a fault that says nothing of the next operation, or that somebody else logs."""
        with self._lock:
            self._count(error)

    def _count(self, error: Exception) -> None:
        self.faults += 1
        self.error = type(error).__name__
        self.failed_at = next(_numbers)

    def worked(self) -> None:
        """Note a success; the first one after a fault is logged. Takes no lock while all is well."""
        if self._works:
            return
        with self._lock:
            changed, self._works = not self._works, True
        if changed:
            logger.info("The tier %r can be %s again.", self._tier, self._operation)

    def reset_after_fork(self) -> None:
        """Take a new lock: the old one may have been held by a thread that the child does not have."""
        self._lock = threading.Lock()


_all: weakref.WeakSet[Health] = weakref.WeakSet()


def _reset_in_child() -> None:
    for health in list(_all):
        health.reset_after_fork()


os.register_at_fork(after_in_child=_reset_in_child)


def said_of(error: Exception) -> str:
    """Return what an error says, for a log: what follows its first line may be a row with its values."""
    if isinstance(error, ValueError):
        # Of an address that cannot be read it shows a piece, as may be one of its password.
        return "it may show a secret, and is not shown"
    return (str(error).splitlines() or [""])[0][:_SAID]


def state_of(
    name: str, backend: str, shared: Shared, reads: Health, writes: Health, *, left_alone: bool = False, waits: int = 0
) -> TierState:
    """Return the state of a tier whose reads and writes have fared so; one that is left alone does neither."""
    last = max(reads, writes, key=lambda health: health.failed_at)
    return TierState(
        name,
        backend,
        shared,
        reads.works and not left_alone,
        writes.works and not left_alone,
        reads.faults + writes.faults,
        last.error,
        "open" if left_alone else "closed",
        waits,
    )
