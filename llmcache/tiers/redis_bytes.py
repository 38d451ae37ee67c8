"""Bytes in Redis as they are, on the connection of an alias, past its serialiser and compressor.

A serialiser may be pickle, which runs what somebody has put into the store, or one that takes no bytes. Past it, what
lies in Redis does not depend on how the alias is set up, and changing that setting loses no answer that was paid for.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from django.core.cache.backends.redis import RedisCache as DjangoRedisCache

Door: TypeAlias = Callable[[Any, str], tuple[Any, str]]
"""From a cache object and a tier's key to the client of the server that has it, and the key there."""

# Redis counts milliseconds from 1970 in 64 bits, and refuses a sum that does not fit.
_LONGEST_SECONDS: Final = 100 * 365 * 86_400.0


def door_of(backend: Any) -> Door | None:
    """Return the way to an alias's Redis; None when it has none, or a client of somebody else's making.

    Such a client may do more than we know of, encrypt for one: it is used as it wants to be.
    """
    if type(backend) is DjangoRedisCache:
        return _django
    # Who has an alias of django-redis has the module loaded.
    module = sys.modules.get("django_redis.cache")
    if module is None or type(backend) is not module.RedisCache:
        return None
    client: Any = backend.client
    if not type(client).__module__.startswith("django_redis."):
        return None
    return _sharded if hasattr(client, "get_server") else _django_redis


def get(door: Door, backend: Any, key: str) -> object:
    """Return what lies under a key, or None."""
    client, name = door(backend, key)
    return client.get(name)


def put(door: Door, backend: Any, key: str, value: bytes, ttl_seconds: float | None) -> None:
    """Keep bytes for a time above zero; None means no expiry."""
    client, name = door(backend, key)
    left = None if ttl_seconds is None else math.ceil(min(ttl_seconds, _LONGEST_SECONDS) * 1_000)
    client.set(name, value, px=left)


def remove(door: Door, backend: Any, key: str) -> None:
    """Remove what lies under a key."""
    client, name = door(backend, key)
    client.delete(name)


# The primary is read too: a replica may not have yet what was just written.


def _django(backend: Any, key: str) -> tuple[Any, str]:
    name = backend.make_and_validate_key(key)
    return backend._cache.get_client(name, write=True), name


def _django_redis(backend: Any, key: str) -> tuple[Any, str]:
    return backend.client.get_client(write=True), backend.client.make_key(key)


def _sharded(backend: Any, key: str) -> tuple[Any, str]:
    name = backend.client.make_key(key)
    return backend.client.get_server(name), name


def is_redis(backend: type[Any]) -> bool:
    """Return whether a class is Django's or django-redis's for Redis, or made from one."""
    module = sys.modules.get("django_redis.cache")
    return issubclass(backend, DjangoRedisCache) or (module is not None and issubclass(backend, module.RedisCache))
