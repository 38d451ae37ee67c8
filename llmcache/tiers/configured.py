"""The tiers that the settings mean: aliases of ``CACHES``, or memory over a folder on disk."""

from __future__ import annotations

from typing import Any, Final, cast

from django.core.cache import InvalidCacheBackendError, caches

from llmcache import conf
from llmcache.backends import DiskCache, MemoryCache
from llmcache.clock import Clock
from llmcache.engine import isolation
from llmcache.exceptions import ConfigurationError
from llmcache.tiers.base import ByteTier
from llmcache.tiers.disk import DiskStore, DiskTier
from llmcache.tiers.memory import MemoryStore, store_named
from llmcache.tiers.stack import Held, MemoryTier, TierStack

DEFAULT_MEMORY: Final = "memory"
DEFAULT_DISK: Final = "disk"


def configured_tiers(settings: conf.Settings, namespace: str, clock: Clock, *, test: bool = False) -> TierStack:
    """Return the tiers in their order. Raises ``ConfigurationError`` for an alias that cannot be a tier.

    For a ``test`` memory is a new one, and what would lie in a folder of the project lies in a temporary one.
    """
    if settings.tiers is None:
        memory = MemoryTier(
            DEFAULT_MEMORY,
            MemoryStore(settings.memory_bytes) if test else store_named("llmcache", settings.memory_bytes),
        )
        if test and not isolation.set_by_test("DISK_PATH"):
            folder = isolation.folder() / DEFAULT_DISK
        else:
            folder = settings.disk_path or conf.default_disk()
        disk = DiskStore(folder, clock=clock.wall)
        return TierStack(memory, (DiskTier(DEFAULT_DISK, disk),), namespace, clock, owned=(disk,))
    check_aliases(settings.tiers)
    memory, below, owned = None, list[ByteTier](), list[DiskStore]()
    for alias in settings.tiers:
        backend: Any = caches[alias]
        if isinstance(backend, MemoryCache):
            store = MemoryStore[Held](backend.store.max_bytes) if test else cast("MemoryStore[Held]", backend.store)
            memory = MemoryTier(alias, store)
        elif test and not isolation.set_by_test(alias, "CACHES"):
            owned.append(DiskStore(isolation.folder() / alias, clock=clock.wall))
            below.append(DiskTier(alias, owned[-1], backend.make_key))
        else:
            below.append(DiskTier(alias, backend.store, backend.make_key))
    return TierStack(memory, tuple(below), namespace, clock, owned=tuple(owned))


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
