"""The tiers that the settings mean: aliases of ``CACHES``, or memory over a folder on disk."""

from __future__ import annotations

from typing import Any, Final, cast

from django.core.cache import InvalidCacheBackendError, caches

from llmcache import conf
from llmcache.backends import DiskCache, MemoryCache
from llmcache.clock import Clock
from llmcache.exceptions import ConfigurationError
from llmcache.tiers.base import ByteTier
from llmcache.tiers.disk import DiskStore, DiskTier
from llmcache.tiers.memory import store_named
from llmcache.tiers.stack import MemoryTier, TierStack

DEFAULT_MEMORY: Final = "memory"
DEFAULT_DISK: Final = "disk"


def configured_tiers(settings: conf.Settings, namespace: str, clock: Clock) -> TierStack:
    """Return the tiers in their order. Raises ``ConfigurationError`` for an alias that cannot be a tier."""
    if settings.tiers is None:
        memory = MemoryTier(DEFAULT_MEMORY, store_named("llmcache", settings.memory_bytes))
        disk = DiskStore(settings.disk_path or conf.default_disk(), clock=clock.wall)
        return TierStack(memory, (DiskTier(DEFAULT_DISK, disk),), namespace, clock, owned=disk)
    check_aliases(settings.tiers)
    memory, below = None, list[ByteTier]()
    for alias in settings.tiers:
        backend: Any = caches[alias]
        if isinstance(backend, MemoryCache):
            memory = MemoryTier(alias, cast("Any", backend.store))
        else:
            below.append(DiskTier(alias, backend.store, backend.make_key))
    return TierStack(memory, tuple(below), namespace, clock)


def check_aliases(aliases: tuple[str, ...]) -> None:
    """Raise ``ConfigurationError`` that says which alias cannot be a tier, and why."""
    known: dict[str, Any] = caches.settings
    for place, alias in enumerate(aliases):
        if alias not in known:
            raise ConfigurationError(
                f"LLMCACHE['TIERS'] names {alias!r}, which is not in CACHES (there are: {', '.join(sorted(known))}). "
                "Add it to CACHES or remove it from TIERS."
            )
        try:
            backend = caches[alias]
        except InvalidCacheBackendError as error:
            raise ConfigurationError(f"LLMCACHE['TIERS'] names {alias!r}, which cannot be made: {error}") from None
        if not isinstance(backend, (MemoryCache, DiskCache)):
            raise ConfigurationError(
                f"LLMCACHE['TIERS'] names {alias!r}, whose BACKEND is {known[alias].get('BACKEND')}. "
                "A tier is llmcache.backends.MemoryCache or llmcache.backends.DiskCache."
            )
        if isinstance(backend, MemoryCache) and place:
            raise ConfigurationError(
                f"LLMCACHE['TIERS'] has {alias!r}, which is memory, below another tier. Put it first; one is enough."
            )
