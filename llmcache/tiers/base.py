"""What every tier below memory offers: bytes by key, and no exception for a store that is down, full or damaged."""

from __future__ import annotations

import logging
import threading
from typing import Protocol

logger = logging.getLogger("llmcache.tiers")


class ByteTier(Protocol):
    """A store of bytes that cannot fail a call: a fault is a miss, counted, and logged once per change of state."""

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


class Health:
    """Whether one kind of operation on a tier works; says so in the log when that changes, and only then.

    Reads and writes have one each: a full disk can be read, and one state for both would change with every call.
    """

    def __init__(self, tier: str, operation: str, meanwhile: str) -> None:
        self.faults = 0
        """How often the operation has failed in this process."""
        self._tier = tier
        self._operation = operation
        self._meanwhile = meanwhile
        self._works = True
        self._lock = threading.Lock()

    def failed(self, error: Exception) -> None:
        """Count a fault; the first one after a success is logged as a warning."""
        with self._lock:
            self.faults += 1
            changed, self._works = self._works, False
        if changed:
            logger.warning(
                "The tier %r cannot be %s: %s: %s. %s",
                self._tier,
                self._operation,
                type(error).__name__,
                error,
                self._meanwhile,
            )

    def worked(self) -> None:
        """Note a success; the first one after a fault is logged. Takes no lock while all is well."""
        if self._works:
            return
        with self._lock:
            changed, self._works = not self._works, True
        if changed:
            logger.info("The tier %r can be %s again.", self._tier, self._operation)
