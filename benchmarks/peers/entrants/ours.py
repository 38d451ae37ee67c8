"""llmcache, with one tier alone in each: nothing is found in a faster one."""

from typing import Any

import django
from django.conf import settings

from benchmarks.peers.cases import Case
from benchmarks.peers.entrants import KEY, Asker, Call, Place


def memory(place: Place) -> Asker:
    """The memory tier."""
    return _sync(place, {"BACKEND": "llmcache.backends.MemoryCache"})


def memory_awaited(place: Place) -> Asker:
    """The memory tier, in a running loop."""
    return _awaited(place, {"BACKEND": "llmcache.backends.MemoryCache"})


def disk(place: Place) -> Asker:
    """The disk tier, which notes when an entry was used last."""
    return _sync(place, {"BACKEND": "llmcache.backends.DiskCache", "LOCATION": str(place.folder / "disk")})


def redis(place: Place) -> Asker:
    """Redis, by the alias of django-redis."""
    return _sync(place, {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": place.redis_url})


def redis_awaited(place: Place) -> Asker:
    """The same alias, in a running loop."""
    return _awaited(place, {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": place.redis_url})


def _sync(place: Place, tier: dict[str, Any]) -> Asker:
    _set_up(place, tier)
    import llmcache

    def ask(case: Case) -> Call:
        extract, text, model = llmcache.extract, case.text, case.model
        return lambda: extract(text, model)

    return ask


def _awaited(place: Place, tier: dict[str, Any]) -> Asker:
    _set_up(place, tier)
    import llmcache

    def ask(case: Case) -> Call:
        aextract, text, model = llmcache.aextract, case.text, case.model
        return lambda: aextract(text, model)

    return ask


def _set_up(place: Place, tier: dict[str, Any]) -> None:
    settings.configure(
        INSTALLED_APPS=["llmcache"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": place.folder / "db.sqlite3"}},
        CACHES={"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}, "tier": tier},
        SECRET_KEY="benchmarks",
        USE_TZ=True,
        LLMCACHE={
            "TIERS": ["tier"],
            # Two of these share a Redis: without names of their own the second would find the first one's answers.
            "NAMESPACE": place.folder.name.replace(".", "").replace("_", ""),
            "JOURNAL": place.folder / "journal",
            "PROVIDERS": {"openai": {"api_key": KEY, "base_url": place.base_url}},
            "ALLOW_PROVIDER_CALLS": "loopback",
        },
    )
    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
