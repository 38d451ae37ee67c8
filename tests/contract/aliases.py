"""The kinds of cache that a project may have in ``CACHES``, each over a real store, and each out of reach."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections
from django.test import override_settings

from tests.cache_servers import MemcachedServer, RedisServer
from tests.services import Postgres

ALIAS, BROKEN = "shared", "out-of-reach"
DATABASE = "caches"
# Nobody listens there: a port below 1024 that no service has.
NOWHERE = "127.0.0.1:1"

DJANGO_REDIS = "django_redis.cache.RedisCache"
DJANGO = "django.core.cache.backends"
KINDS = (
    "disk",
    "locmem",
    "file",
    "database on SQLite",
    "database on PostgreSQL",
    "django-redis",
    "django-redis with JSON",
    "django-redis with zlib",
    "django-redis over shards",
    "Redis",
    "Memcached",
    "DjangoCache",
)
SHARED_BY = {"locmem": "process", "file": "machine", "disk": "machine", "DjangoCache": "machine"}


class CacheRouter:
    """Sends database caches to a database of their own."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return DATABASE if model._meta.app_label == "django_cache" else None

    db_for_write = db_for_read

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        return (app_label == "django_cache") == (db == DATABASE) if DATABASE in (db, app_label) else None


class Aliases:
    """Makes settings of ``CACHES`` by kind; what they need runs, and is gone at the end of the test."""

    def __init__(self, request: pytest.FixtureRequest, folder: Path, end: ExitStack) -> None:
        self._request = request
        self._folder = folder
        self._end = end

    def settings(self, kind: str) -> dict[str, Any]:
        """Return an alias's settings."""
        given = {"KEY_PREFIX": "app", "VERSION": 3}
        return {**given, **self._settings(kind)}

    def broken(self, kind: str) -> dict[str, Any] | None:
        """Return the settings of an alias of the same kind whose store is out of reach; None where none can be."""
        file = self._folder / "a file"
        file.touch()
        settings = self._settings(kind)
        if kind in ("locmem", "disk"):
            return None
        if kind in ("file", "DjangoCache"):
            return {**settings, "LOCATION": str(file / "folder")}
        if kind.startswith("database"):
            return {**settings, "LOCATION": "no_such_table"}
        location = NOWHERE if kind == "Memcached" else f"redis://{NOWHERE}/0"
        return {**settings, "LOCATION": [location] if isinstance(settings["LOCATION"], list) else location}

    def _settings(self, kind: str) -> dict[str, Any]:
        name, _, flavour = kind.partition(" ")
        if name in ("django-redis", "Redis"):
            server: RedisServer = self._request.getfixturevalue("redis_server")
            return _redis(server, name, flavour)
        if name == "database":
            self._make_database(flavour.removeprefix("on "))
            return {"BACKEND": f"{DJANGO}.db.DatabaseCache", "LOCATION": "llm cache", "OPTIONS": {"MAX_ENTRIES": 10**6}}
        if name == "Memcached":
            memcached: MemcachedServer = self._request.getfixturevalue("memcached_server")
            return {"BACKEND": f"{DJANGO}.memcached.PyMemcacheCache", "LOCATION": memcached.address}
        folder = str(self._folder / name)
        return {
            "disk": {"BACKEND": "llmcache.backends.DiskCache", "LOCATION": folder},
            "locmem": {"BACKEND": f"{DJANGO}.locmem.LocMemCache", "LOCATION": folder},
            "file": {
                "BACKEND": f"{DJANGO}.filebased.FileBasedCache",
                "LOCATION": folder,
                "OPTIONS": {"MAX_ENTRIES": 10**6},
            },
            "DjangoCache": {"BACKEND": "diskcache.DjangoCache", "LOCATION": folder, "SHARDS": 1},
        }[name]

    def _make_database(self, kind: str) -> None:
        if DATABASE in connections.settings:
            return
        self._end.enter_context(self._request.getfixturevalue("django_db_blocker").unblock())
        own: dict[str, Any] = {"ENGINE": "django.db.backends.sqlite3", "NAME": self._folder / "caches.sqlite3"}
        if kind == "PostgreSQL":
            server: Postgres = self._request.getfixturevalue("postgres")
            own = server.database("caches")
        connections.settings[DATABASE] = connections.configure_settings({"default": {}, DATABASE: own})[DATABASE]
        self._end.callback(connections.settings.pop, DATABASE)
        self._end.callback(_forget_connection)
        self._end.enter_context(override_settings(DATABASE_ROUTERS=[CacheRouter()]))


def _forget_connection() -> None:
    connections[DATABASE].close()
    del connections[DATABASE]


def _redis(server: RedisServer, backend: str, flavour: str) -> dict[str, Any]:
    if backend == "Redis":
        return {"BACKEND": f"{DJANGO}.redis.RedisCache", "LOCATION": server.url}
    options = {
        "": {},
        "with JSON": {"SERIALIZER": "django_redis.serializers.json.JSONSerializer"},
        "with zlib": {"COMPRESSOR": "django_redis.compressors.zlib.ZlibCompressor"},
        "over shards": {"CLIENT_CLASS": "django_redis.client.ShardClient"},
    }[flavour]
    places = [f"redis://127.0.0.1:{server.port}/{database}" for database in (1, 2)]
    return {
        "BACKEND": DJANGO_REDIS,
        "LOCATION": places if flavour == "over shards" else server.url,
        "OPTIONS": options,
    }


@contextmanager
def aliases(request: pytest.FixtureRequest, folder: Path) -> Iterator[Aliases]:
    """Give what makes the settings of aliases."""
    with ExitStack() as end:
        yield Aliases(request, folder, end)


@contextmanager
def in_caches(**given: dict[str, Any] | None) -> Iterator[None]:
    """Put aliases into ``CACHES``, and make the tables that they need; names have a hyphen for an underscore."""
    default = {"BACKEND": f"{DJANGO}.locmem.LocMemCache"}
    named = {name.replace("_", "-"): settings for name, settings in given.items() if settings is not None}
    with override_settings(CACHES={"default": default, **named}):
        tables = {each["LOCATION"] for each in named.values() if each["BACKEND"].endswith("DatabaseCache")}
        if tables - {"no_such_table"}:
            call_command("createcachetable", *(tables - {"no_such_table"}), database=DATABASE, verbosity=0)
        yield
