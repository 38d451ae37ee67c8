"""An alias's Redis as the project has set it up: which servers, how they are reached, what keys are called there.

Nothing here connects, and no pool of the project's is made or touched: django-redis has one for all aliases of a URL,
with the arguments of whoever was first.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.core.cache import caches
from django.core.cache.backends.base import default_key_func
from django.core.cache.backends.redis import RedisCache as DjangoRedisCache

from llmcache.tiers.base import NoNameError


@dataclass(frozen=True, slots=True)
class RedisAlias:
    """Where the keys of an alias lie."""

    servers: tuple[str, ...]
    """URLs. The primary alone, for a replica may not have yet what was just written; or all shards."""
    pool_of: Callable[[str], Any]
    """From a URL to a pool as the project's own would be, which nobody has."""
    name_of: Callable[[str], str]
    """From a tier's key to the one there."""
    server_of: Callable[[str], str] | None
    """From a key there to the URL of its server; None when there is one."""


def redis_alias(alias: str) -> RedisAlias | None:
    """Return an alias's Redis; None when it has none, or a client of somebody else's making.

    Such a client may do more than we know of, encrypt for one: it is used as it wants to be.
    """
    backend: Any = caches.create_connection(alias)
    if type(backend) is DjangoRedisCache:
        return _django(backend)
    # Who has an alias of django-redis has the module loaded.
    module = sys.modules.get("django_redis.cache")
    return _django_redis(backend) if module is not None and type(backend) is module.RedisCache else None


def is_redis(backend: type[Any]) -> bool:
    """Return whether a class is Django's or django-redis's for Redis, or made from one."""
    module = sys.modules.get("django_redis.cache")
    return issubclass(backend, DjangoRedisCache) or (module is not None and issubclass(backend, module.RedisCache))


def require_reachable(alias: str) -> None:
    """Raise whatever is wrong with the settings of an alias's Redis. Does not connect."""
    if (found := redis_alias(alias)) is not None:
        for url in found.servers:
            found.pool_of(url)


def reads_replicas(alias: str) -> bool:
    """Return whether a Redis of several servers is used through a client that reads from any but the first."""
    if redis_alias(alias) is not None:
        return False
    backend: Any = caches.create_connection(alias)
    places: Any = caches.settings[alias].get("LOCATION") or ""
    several = re.split("[;,]", places) if isinstance(places, str) else places
    return len(several) > 1 and not hasattr(getattr(backend, "_client_cls", None), "get_server_name")


def _django(backend: Any) -> RedisAlias:
    def pool_of(url: str) -> Any:
        client = backend._cache
        return client._pool_class.from_url(url, **client._pool_options)

    return RedisAlias((backend._servers[0],), pool_of, _name_of(backend), None)


def _django_redis(backend: Any) -> RedisAlias | None:
    own = backend._client_cls
    options: dict[str, Any] = backend._params.get("OPTIONS", {})
    if not own.__module__.startswith("django_redis.") or "REDIS_CLIENT_CLASS" in options:
        return None
    # A client over shards makes the project's pools when it is made.
    unconnected: Any = type(own.__name__, (own,), {"connect": _connect_to_nobody})
    client = unconnected(backend._server, backend._params, backend)
    sharded = hasattr(client, "get_server_name")
    servers = tuple(client._server) if sharded else (client._server[0],)
    factory = client.connection_factory

    def pool_of(url: str) -> Any:
        return factory.get_connection_pool(factory.make_connection_params(url))

    return RedisAlias(servers, pool_of, _name_of(backend), client.get_server_name if sharded else None)


def _connect_to_nobody(*_: object) -> dict[str, Any]:
    return {}


def _name_of(backend: Any) -> Callable[[str], str]:
    if backend.key_func is default_key_func:
        # What it puts before a key, put there in a third of the time.
        return default_key_func("", backend.key_prefix, backend.version).__add__
    return partial(_named, backend.key_func, backend.key_prefix, backend.version)


def _named(key_func: Callable[[str, str, int], str], prefix: str, version: int, key: str) -> str:
    try:
        return str(key_func(key, prefix, version))
    except Exception as error:
        raise NoNameError(f"its KEY_FUNCTION raised {type(error).__name__}") from error
