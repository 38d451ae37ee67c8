"""Any alias of ``CACHES`` as a tier: bytes through Django's cache interface.

The alias says where, and under which keys (``KEY_PREFIX``, ``VERSION``, ``KEY_FUNCTION``). What its backend does with
bytes is its own affair; only in Redis they lie as they are, see ``redis_tier``. Whatever comes back that is no bytes
is a miss, and the envelope tells the rest.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from django.core.cache.backends.dummy import DummyCache
from django.core.cache.backends.filebased import FileBasedCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.memcached import BaseMemcachedCache

from llmcache.tiers.base import Health, Shared, TierState, state_of
from llmcache.tiers.borrowed import Backends
from llmcache.tiers.breaker import Breaker, is_refused
from llmcache.tiers.redis_alias import is_redis

SLOW_SECONDS: Final = 0.2
"""From when on a fault has taken long: each operation after it would, and calls would wait for every one."""
PROBE_KEPT_SECONDS: Final = 60
"""How long a value is kept that tells whether a cache works again."""
LONGEST_SECONDS: Final = 5 * 365 * 86_400.0
"""What is to be kept for longer is kept without end: Memcached counts to 2038, a date ends with the year 9999."""


class DjangoTier:
    """An alias as a tier: faults are misses and dropped writes, counted, and logged once per change."""

    def __init__(self, alias: str, backend: type[Any]) -> None:
        self.name = alias
        self._backend = f"{backend.__module__}.{backend.__qualname__}"
        self._shared: Shared = shared_by(backend)
        self._backends = Backends(alias)
        self._reads = Health(alias, "read", "Answers that are in it count as not cached.")
        self._writes = Health(alias, "written", "New answers are not kept in it.")
        self._breaker = Breaker(alias, self._answers)

    @property
    def faults(self) -> int:
        """How many operations have failed in this process."""
        return self._reads.faults + self._writes.faults

    def state(self) -> TierState:
        """Return how the tier has fared in this process; asks nobody."""
        return state_of(
            self.name, self._backend, self._shared, self._reads, self._writes, left_alone=self._breaker.is_open
        )

    def get(self, key: str) -> bytes | None:
        """Return the bytes under a key, or None."""
        if self._breaker.is_open:
            return None
        began = time.monotonic()
        try:
            value = self._get(key)
        except Exception as error:  # noqa: BLE001  # of whatever library the alias is made of
            self._failed(self._reads, error, began)
            return None
        if value is not None:
            # Nothing there proves nothing: some clients keep quiet about a server that is down.
            self._reads.worked()
        return value if type(value) is bytes else None

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the bytes under each key, or None, by the backend's own ``get_many``."""
        nothing: list[bytes | None] = [None] * len(keys)
        if self._breaker.is_open or not keys:
            return nothing
        began = time.monotonic()
        try:
            found = self._get_many(keys)
        except Exception as error:  # noqa: BLE001  # of whatever library the alias is made of
            self._failed(self._reads, error, began)
            return nothing
        if found:
            self._reads.worked()
        values = map(found.get, keys)
        return [value if type(value) is bytes else None for value in values]

    def set(self, key: str, value: bytes, ttl_seconds: float | None) -> None:
        """Keep bytes for a time; None means no expiry."""
        require_bytes(value)
        if self._breaker.is_open:
            return
        began = time.monotonic()
        try:
            # Not above zero, rather than zero or less: that is true of NaN too.
            if ttl_seconds is not None and not ttl_seconds > 0:
                self._delete(key)
            else:
                self._set(key, value, None if ttl_seconds == math.inf else ttl_seconds)
                if not self._writes.works and self._get(key) == value:
                    self._writes.worked()
                    self._reads.worked()
        except Exception as error:  # noqa: BLE001
            self._failed(self._writes, error, began)

    def delete(self, key: str) -> None:
        """Remove what is kept under a key."""
        began = time.monotonic()
        try:
            self._delete(key)
        except Exception as error:  # noqa: BLE001
            self._failed(self._writes, error, began)

    def drain(self, timeout: float) -> None:  # another tier takes its time
        """Wait for writes that are under way; here is none."""

    def close(self) -> None:
        """Close this process's connections; the next use opens one."""
        self._breaker.retire()
        self._backends.close()

    def _get(self, key: str) -> object:
        with self._backends.borrowed() as backend:
            # None can be kept, but not by us: it is a miss like everything that is no bytes.
            return backend.get(key)

    def _get_many(self, keys: Sequence[str]) -> Mapping[str, object]:
        with self._backends.borrowed() as backend:
            return backend.get_many(keys)

    def _set(self, key: str, value: bytes, ttl_seconds: float | None) -> None:
        with self._backends.borrowed() as backend:
            backend.set(key, value, whole_seconds(ttl_seconds))

    def _delete(self, key: str) -> None:
        with self._backends.borrowed() as backend:
            backend.delete(key)

    def _answers(self) -> bool:
        # Some clients keep quiet about a server that is down: what was just written has to come back.
        key, value = f"llmcache-probe-{os.urandom(8).hex()}", b"llmcache"
        self._set(key, value, PROBE_KEPT_SECONDS)
        found = self._get(key)
        self._delete(key)
        return found == value

    def _failed(self, health: Health, error: Exception, began: float) -> None:
        if is_refused(error) or time.monotonic() - began > SLOW_SECONDS:
            health.counted(error)
            self._breaker.trip(error)
        else:
            health.failed(error)


def require_bytes(value: object) -> None:
    """Raise ``TypeError`` for what is no bytes."""
    if type(value) is not bytes:
        raise TypeError(f"a tier keeps bytes, not {type(value).__name__}")


def whole_seconds(ttl_seconds: float | None) -> int | None:
    """Return a time above zero as every backend takes it, never shorter than it was.

    Backends cut fractions off, and 0 means "at once"; some cut the end of the time instead, and what was to live for a
    second is gone after half of one. What is kept too long does no harm: an envelope knows its own time.
    """
    if ttl_seconds is None or ttl_seconds > LONGEST_SECONDS:
        return None
    return math.ceil(ttl_seconds) + 1


def shared_by(backend: type[Any]) -> Shared:
    """Return who finds what caches of a class keep."""
    if issubclass(backend, (LocMemCache, DummyCache)):
        return "process"
    if issubclass(backend, FileBasedCache) or any(base.__module__.startswith("diskcache.") for base in backend.__mro__):
        return "machine"
    if issubclass(backend, BaseMemcachedCache) or is_redis(backend):
        return "network"
    return "unknown"
