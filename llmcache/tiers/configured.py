"""The tiers that the settings mean: aliases of ``CACHES``; without any, memory over what the project has."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

from django.core.cache import DEFAULT_CACHE_ALIAS, InvalidCacheBackendError, InvalidCacheKey, caches
from django.core.cache.backends.base import BaseCache, default_key_func
from django.core.cache.backends.db import BaseDatabaseCache
from django.core.cache.backends.dummy import DummyCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.memcached import BaseMemcachedCache
from django.utils.module_loading import import_string

from llmcache import conf, keys
from llmcache.backends import DiskCache, MemoryCache
from llmcache.clock import Clock
from llmcache.engine import isolation
from llmcache.exceptions import ConfigurationError
from llmcache.sealing import NO_SEAL, Seal
from llmcache.tiers.base import ByteTier
from llmcache.tiers.disk import DEFAULT_MAX_BYTES, DiskStore, DiskTier
from llmcache.tiers.disk_folder import can_be_used
from llmcache.tiers.django_tier import DjangoTier
from llmcache.tiers.memory import MemoryStore, store_named
from llmcache.tiers.redis_alias import is_redis
from llmcache.tiers.stack import Closing, Held, MemoryTier, TierStack

DEFAULT_MEMORY: Final = "memory"
DEFAULT_DISK: Final = "disk"


def configured_tiers(
    settings: conf.Settings, namespace: str, clock: Clock, *, seal: Seal = NO_SEAL, test: bool = False
) -> TierStack:
    """Return the tiers in their order. Raises ``ConfigurationError`` for an alias that cannot be a tier.

    For a ``test`` memory is a new one, and what the project shares is a temporary folder instead.
    """
    making, aliases = _Making(clock, test), aliases_in_use(settings)
    if settings.tiers is None:
        making.memory = MemoryTier(
            DEFAULT_MEMORY,
            MemoryStore(settings.memory_bytes) if test else store_named("llmcache", settings.memory_bytes),
        )
    for alias in aliases:
        making.add(alias)
    if settings.tiers is None and not aliases:
        making.add_folder(settings)
    return TierStack(making.memory, tuple(making.below), namespace, clock, seal=seal, owned=tuple(making.owned))


def aliases_in_use(settings: conf.Settings) -> tuple[str, ...]:
    """Return the aliases that are tiers. Raises ``ConfigurationError`` for one that cannot be."""
    aliases = settings.tiers
    if aliases is None:
        aliases = (DEFAULT_CACHE_ALIAS,) if default_is_shared(settings) else ()
    check_aliases(aliases)
    return aliases


def default_is_shared(settings: conf.Settings) -> bool:
    """Return whether, without ``TIERS``, the slower tier is ``CACHES["default"]``; else it is a folder on disk.

    It is when others than this process find there what it keeps, unless the settings name a folder. Raises
    ``ConfigurationError`` when it cannot be made.
    """
    if settings.disk_path is not None:
        return False
    return not issubclass(class_of(DEFAULT_CACHE_ALIAS, 'CACHES["default"]'), (LocMemCache, DummyCache, MemoryCache))


class _Making:
    """The tiers as they come together."""

    def __init__(self, clock: Clock, test: bool) -> None:
        self.memory: MemoryTier | None = None
        self.below: list[ByteTier] = []
        self.owned: list[Closing] = []
        self._clock = clock
        self._test = test

    def add(self, alias: str) -> None:
        """Add an alias that can be a tier."""
        backend = class_of(alias, f"CACHES[{alias!r}]")
        path = f"{backend.__module__}.{backend.__qualname__}"
        if issubclass(backend, MemoryCache):
            named = cast("MemoryStore[Held]", cast("MemoryCache", caches[alias]).store)
            self.memory = MemoryTier(alias, MemoryStore[Held](named.max_bytes) if self._test else named, path)
        elif self._test and not isolation.set_by_test(alias, "CACHES"):
            self._add_store(alias, isolation.folder() / alias, DEFAULT_MAX_BYTES, path)
        elif issubclass(backend, DiskCache):
            cache = cast("DiskCache", caches[alias])
            self._add_disk(DiskTier(alias, cache.store, _key_maker(cache), backend=path))
        else:
            self.below.append(made := _tier(alias, backend))
            self.owned.append(made)

    def add_folder(self, settings: conf.Settings) -> None:
        """Add the folder that is used where no shared cache is; nothing where there can be none."""
        if self._test and not isolation.set_by_test("DISK_PATH"):
            folder = isolation.folder() / DEFAULT_DISK
        else:
            folder = settings.disk_path or conf.default_disk()
        if can_be_used(folder):
            self._add_store(DEFAULT_DISK, folder, settings.disk_bytes)

    def _add_store(self, name: str, folder: Path, max_bytes: int, path: str = "disk folder") -> None:
        store = DiskStore(folder, max_bytes=max_bytes, clock=self._clock.wall)
        self._add_disk(DiskTier(name, store, backend=path))
        self.owned.append(store)

    def _add_disk(self, tier: DiskTier) -> None:
        self.below.append(tier)
        self.owned.append(tier)


def tier_of(alias: str) -> ByteTier:
    """Return a tier over an alias of ``CACHES`` other than memory, as ``TIERS`` would have it outside of tests.

    Raises ``ConfigurationError`` for an alias that cannot be one.
    """
    check_aliases((alias,))
    making = _Making(Clock(), test=False)
    making.add(alias)
    if not making.below:
        raise ConfigurationError(f"CACHES[{alias!r}] is memory, which keeps parsed entries and no bytes.")
    return making.below[0]


def _key_maker(cache: DiskCache) -> Callable[[str], str]:
    """Return ``cache.make_key``, or what does the same in half the time where that only puts a prefix before a key."""
    if cache.key_func is not default_key_func or type(cache).make_key is not BaseCache.make_key:
        return cache.make_key
    return cache.make_key("").__add__


def _tier(alias: str, backend: type[Any]) -> DjangoTier:
    if issubclass(backend, BaseDatabaseCache):
        from llmcache.tiers.database_tier import DatabaseTier

        return DatabaseTier(alias, cast("BaseDatabaseCache", caches[alias]))
    if is_redis(backend):
        from llmcache.tiers.redis_tier import redis_tier

        return redis_tier(alias, backend) or DjangoTier(alias, backend)
    return DjangoTier(alias, backend)


def check_aliases(aliases: tuple[str, ...]) -> None:
    """Raise ``ConfigurationError`` that says which alias cannot be a tier, and why."""
    # Their names alone: a page of Django's errors shows the variables of each frame, and an address has a password.
    known: list[str] = sorted(caches.settings)
    for place, alias in enumerate(aliases):
        if alias not in known:
            raise ConfigurationError(
                f"LLMCACHE['TIERS'] names {alias!r}, which is not in CACHES (there are: {', '.join(known)}). "
                "Add it to CACHES or remove it from TIERS."
            )
        backend = class_of(alias, f"LLMCACHE['TIERS'] names {alias!r}, which")
        if issubclass(backend, MemoryCache) and place:
            raise ConfigurationError(
                f"LLMCACHE['TIERS'] has {alias!r}, which is memory, below another tier. Put it first; one is enough."
            )
        if not issubclass(backend, MemoryCache):
            _require_names(alias)
        if issubclass(backend, BaseMemcachedCache):
            _require_valid_keys(alias)


def _require_names(alias: str) -> None:
    """Raise ``ConfigurationError`` when the alias's own function makes no names of keys, or one name of two."""
    try:
        backend: Any = caches[alias]
    except (OSError, sqlite3.Error):
        # A fault as any other, see `class_of`.
        return
    make = getattr(backend, "key_func", None)
    if make is None:
        return
    wrong = "It takes a key, KEY_PREFIX and VERSION, and returns a str that is another one for each key."
    given = [each("0" * 12, bytes(32)) for each in (keys.storage_key, keys.supplement_key)]
    try:
        made: list[object] = [make(key, backend.key_prefix, backend.version) for key in given]
    except Exception as error:  # noqa: BLE001  # the project's own function
        raise ConfigurationError(
            f"The KEY_FUNCTION of CACHES[{alias!r}] raised {type(error).__name__}. {wrong}"
        ) from None
    if made[0] == made[1] or not all(isinstance(name, str) for name in made):
        raise ConfigurationError(f"The KEY_FUNCTION of CACHES[{alias!r}] makes names that are of no use. {wrong}")


def _require_valid_keys(alias: str) -> None:
    try:
        caches[alias].make_and_validate_key(keys.supplement_key("0" * 12, bytes(32)))
    except InvalidCacheKey:
        raise ConfigurationError(
            f"The keys that CACHES[{alias!r}] makes are none that Memcached takes: at most 250 characters, no spaces. "
            "Shorten its KEY_PREFIX, or change its KEY_FUNCTION."
        ) from None


def class_of(alias: str, which: str) -> type[Any]:
    """Return an alias's class. Raises ``ConfigurationError``, which begins with ``which``, when it cannot be made."""
    path = caches.settings[alias].get("BACKEND", "")
    backend: type[Any] = object
    try:
        backend = import_string(path)
        caches[alias]
    except ConfigurationError:
        raise
    except (OSError, sqlite3.Error):
        # A full disk, say: a fault as any other, and the tier's first.
        return backend
    except Exception as error:  # noqa: BLE001  # of whatever library the alias is made of
        said = (
            error if isinstance(error, (ImportError, InvalidCacheBackendError)) else f"{type(error).__name__}: {error}"
        )
        raise ConfigurationError(f"{which} cannot be made: {said}") from None
    return backend
