"""Settings of the benchmarks: everything in a folder that is gone afterwards."""

import os
from pathlib import Path

_place = Path(os.environ["LLMCACHE_BENCH_PLACE"])

INSTALLED_APPS = ["llmcache"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": _place / "db.sqlite3"}}
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "llm-disk": {"BACKEND": "llmcache.backends.DiskCache", "LOCATION": _place / "alone"},
    "llm-redis": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": os.environ.get("LLMCACHE_BENCH_REDIS", "redis://127.0.0.1:1/0"),
    },
}
SECRET_KEY = "benchmarks"
USE_TZ = True
LLMCACHE = {
    "DISK_PATH": _place / "disk",
    "JOURNAL": _place / "journal",
    "PROVIDERS": {
        "openai": {
            "api_key": "sandbox",
            "base_url": os.environ.get("LLMCACHE_BENCH_PROVIDER", "http://127.0.0.1:1/v1"),
        }
    },
}
if _tiers := os.environ.get("LLMCACHE_BENCH_TIERS"):
    LLMCACHE["TIERS"] = _tiers.split(",")
# Tiers are put out of reach here, and would say so each time.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "loggers": {"llmcache.tiers": {"level": "CRITICAL"}},
}
