"""Settings of the benchmarks: everything in a folder that is gone afterwards."""

import os
from pathlib import Path

_place = Path(os.environ["LLMCACHE_BENCH_PLACE"])

INSTALLED_APPS = ["llmcache"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": _place / "db.sqlite3"}}
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "llm-disk": {"BACKEND": "llmcache.backends.DiskCache", "LOCATION": _place / "alone"},
}
SECRET_KEY = "benchmarks"
USE_TZ = True
LLMCACHE = {
    "DISK_PATH": _place / "disk",
    "JOURNAL": _place / "journal",
    "PROVIDERS": {"openai": {"api_key": "sandbox", "base_url": "http://127.0.0.1:1/v1"}},
}
