"""The two cache backends for ``CACHES``: bytes in memory, and bytes on a disk that all processes of a machine share.

    CACHES = {
        "llm-memory": {"BACKEND": "llmcache.backends.MemoryCache", "OPTIONS": {"MAX_BYTES": 64 * 2**20}},
        "llm-disk": {"BACKEND": "llmcache.backends.DiskCache", "LOCATION": "/var/cache/myproject"},
    }

They keep bytes and nothing else: a cache that unpickles runs whatever code somebody has put into it. Both can also be
used through Django's ``caches`` like any other; ``clear()`` removes all entries of the store, whatever their prefix.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final, NoReturn

from asgiref.sync import sync_to_async
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache

from llmcache.clock import Clock
from llmcache.exceptions import ConfigurationError
from llmcache.tiers import disk
from llmcache.tiers.disk import DiskStore, store_at
from llmcache.tiers.memory import MemoryStore, store_named

DEFAULT_MAX_BYTES: Final = 64 * 2**20
"""Of a ``MemoryCache``."""

# What an item of MemoryCache takes beside key and value, on top of the store's own overhead; measured in the same way.
_ITEM_BYTES: Final = 48


class _BytesCache(BaseCache):
    """What both backends do alike: timeouts in seconds from now, bytes only, no arithmetic."""

    def __init__(self, params: dict[str, Any], options: tuple[str, ...]) -> None:
        super().__init__(params)
        unknown = sorted(set(params.get("OPTIONS", {})) - set(options))
        if unknown:
            raise ConfigurationError(
                f"{type(self).__name__} in CACHES has the unknown OPTIONS {', '.join(unknown)}; "
                f"it takes {', '.join(options) or 'none'}. Remove them."
            )

    def _max_bytes(self, params: dict[str, Any], default: int) -> int:
        """Return the budget that OPTIONS name."""
        max_bytes = params.get("OPTIONS", {}).get("MAX_BYTES", default)
        if type(max_bytes) is not int or max_bytes < 0:
            raise ConfigurationError(
                f"OPTIONS['MAX_BYTES'] of a {type(self).__name__} in CACHES must be a whole number of bytes, zero or "
                f"more, not {max_bytes!r}."
            )
        return max_bytes

    def _seconds(self, timeout: Any) -> float | None:
        """Return a timeout as Django means it: the default, None for no expiry, else seconds from now."""
        return self.default_timeout if timeout is DEFAULT_TIMEOUT else timeout

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> NoReturn:  # noqa: ARG002 -- Django's names
        """Raise: ``ValueError`` when there is nothing under the key, else ``TypeError``, for bytes are no number."""
        if not self.has_key(key, version=version):
            raise ValueError("Nothing is kept under this key, so it cannot be incremented.")
        raise TypeError(
            f"{type(self).__name__} keeps bytes, which cannot be incremented. Use another cache for counters."
        )

    async def aincr(self, key: Any, delta: int = 1, version: int | None = None) -> NoReturn:
        """Raise as ``incr`` does."""
        return await sync_to_async(self.incr)(key, delta, version)

    def _require_bytes(self, value: Any) -> None:
        if not isinstance(value, bytes):
            raise TypeError(
                f"{type(self).__name__} keeps bytes, not {type(value).__name__}: anything else would need pickle, "
                "and unpickling what is in a cache runs whatever code somebody has put there. Encode the value to "
                "bytes, or use another cache for it."
            )


class _Item:
    """Bytes in memory and until when they count, on the monotonic clock; infinity when they do not expire."""

    __slots__ = ("expires", "value")

    def __init__(self, value: bytes, expires: float) -> None:
        self.value = value
        self.expires = expires


class MemoryCache(_BytesCache):
    """A cache in this process's memory; what is unused for longest goes when the budget is full.

    ``LOCATION`` names the store: all caches of one name are one. ``OPTIONS["MAX_BYTES"]`` is its budget (64 MB).
    A value that is larger than the budget is not kept.
    """

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params, ("MAX_BYTES",))
        max_bytes = self._max_bytes(params, DEFAULT_MAX_BYTES)
        self.store: MemoryStore[Any] = store_named(location, max_bytes)
        """The process's store of this name; a tier keeps parsed entries in it, under keys that are bytes."""
        self.clock = Clock()
        """Where the time comes from."""

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """Return the bytes under a key, or ``default``."""
        item: _Item | None = self.store.get(self.make_and_validate_key(key, version))
        return item.value if item is not None and self._is_live(item) else default

    def set(self, key: Any, value: Any, timeout: float | None = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        """Keep bytes under a key."""
        name, item = self._item(key, value, timeout, version)
        if self._is_live(item):
            self.store.put(name, item, _size(name, item))
        else:
            self.store.delete(name)

    def add(self, key: Any, value: Any, timeout: float | None = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Keep bytes unless there are some, in one step over all threads; return whether they were kept."""
        name, item = self._item(key, value, timeout, version)
        if not self._is_live(item):
            return not self.has_key(key, version)
        return self.store.add(name, item, _size(name, item), self._is_live)

    def touch(self, key: Any, timeout: float | None = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Give what is under a key another timeout; return whether there was something."""
        item: _Item | None = self.store.get(self.make_and_validate_key(key, version))
        if item is None or not self._is_live(item):
            return False
        item.expires = self._expires(timeout)
        return True

    def delete(self, key: Any, version: int | None = None) -> bool:
        """Remove what is under a key; return whether there was something."""
        return self.store.delete(self.make_and_validate_key(key, version))

    def clear(self) -> None:
        """Remove everything from the store of this name."""
        self.store.clear()

    def _item(self, key: Any, value: Any, timeout: float | None, version: int | None) -> tuple[str, _Item]:
        self._require_bytes(value)
        return self.make_and_validate_key(key, version), _Item(value, self._expires(timeout))

    def _expires(self, timeout: float | None) -> float:
        seconds = self._seconds(timeout)
        return math.inf if seconds is None else self.clock.monotonic() + seconds

    def _is_live(self, item: _Item) -> bool:
        return item.expires > self.clock.monotonic()


def _size(name: str, item: _Item) -> int:
    return len(name) + len(item.value) + _ITEM_BYTES


class DiskCache(_BytesCache):
    """A cache in one file that all processes of this machine share; ``LOCATION`` is the absolute path of its folder.

    ``OPTIONS["MAX_BYTES"]`` is its budget (1 GiB): above it what was not used for longest goes.
    Faults of the disk raise ``sqlite3.Error`` or ``OSError``, as in any cache that writes files; only as a tier of
    llmcache are they misses. A damaged file is set aside and begun anew.
    """

    def __init__(self, location: Any, params: dict[str, Any]) -> None:
        super().__init__(params, ("MAX_BYTES",))
        self.store: DiskStore = store_at(_folder(location), self._max_bytes(params, disk.DEFAULT_MAX_BYTES))
        """The process's store of this folder."""

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """Return the bytes under a key, or ``default``."""
        value = self.store.get(self.make_and_validate_key(key, version))
        return default if value is None else value

    def set(self, key: Any, value: Any, timeout: float | None = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        """Keep bytes under a key."""
        self._require_bytes(value)
        self.store.set(self.make_and_validate_key(key, version), value, self._seconds(timeout))

    def add(self, key: Any, value: Any, timeout: float | None = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Keep bytes unless there are some, in one step over all processes; return whether they were kept."""
        self._require_bytes(value)
        return self.store.add(self.make_and_validate_key(key, version), value, self._seconds(timeout))

    def touch(self, key: Any, timeout: float | None = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Give what is under a key another timeout; return whether there was something."""
        return self.store.touch(self.make_and_validate_key(key, version), self._seconds(timeout))

    def delete(self, key: Any, version: int | None = None) -> bool:
        """Remove what is under a key; return whether there was something."""
        return self.store.delete(self.make_and_validate_key(key, version))

    def clear(self) -> None:
        """Remove all entries from the file; other files in its folder stay."""
        self.store.clear()


def _folder(location: Any) -> Path:
    if not location:
        raise ConfigurationError(
            "A cache in CACHES with the BACKEND 'llmcache.backends.DiskCache' has no LOCATION. "
            "Set it to the absolute path of a folder."
        )
    if not isinstance(location, (str, Path)) or not Path(location).expanduser().is_absolute():
        raise ConfigurationError(
            f"LOCATION of a DiskCache in CACHES must be the absolute path of a folder, not {location!r}: "
            "a relative one would mean another folder for each working directory."
        )
    return Path(location).expanduser()
