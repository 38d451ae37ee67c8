"""The settings of somebody's project that uses llmcache; variables choose its database and its provider."""

import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

from llmcache.testing.sandbox import CACHED_INPUT_PICO_USD, INPUT_PICO_USD, OUTPUT_PICO_USD

BASE_DIR = Path(__file__).parents[1]
SECRET_KEY = "toy"
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = ["llmcache", "notes"]
MIDDLEWARE = ["notes.middleware.one_writer_at_a_time"]
ROOT_URLCONF = "toy.urls"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

_SQLITE: dict[str, Any] = {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}
_DATABASES: dict[str, dict[str, Any]] = {
    "sqlite": _SQLITE,
    "sqlite-wal": {**_SQLITE, "OPTIONS": {"init_command": "PRAGMA journal_mode=WAL;"}},
    "sqlite-immediate": {
        **_SQLITE,
        # Four requests at a time, each of which holds the one lock for 50 ms: who waits for it is served in no order.
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL;", "timeout": 30},
    },
    "postgresql": json.loads(os.environ.get("TOY_POSTGRES", "{}")),
}
DATABASE = os.environ.get("TOY_DATABASE", "sqlite")
DATABASES = {"default": {**_DATABASES[DATABASE], "ATOMIC_REQUESTS": True}}

CACHES: dict[str, Any] = json.loads(os.environ.get("TOY_CACHES", "null")) or {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
}

# SQLite lets one of several transactions that have read turn to writing and fails the others, unless they say that
# they will write when they begin. So this project lets one request at a time do that.
ONE_WRITER = DATABASE in ("sqlite", "sqlite-wal")
WAIT_SECONDS = 0.05

LLMCACHE = {
    "PROVIDERS": {"openai": {"base_url": os.environ.get("TOY_PROVIDER"), "api_key": "sandbox"}},
    "PRICES": {
        "openai/gpt-5-mini": {
            "input": Decimal(INPUT_PICO_USD) / 10**6,
            "cache_read": Decimal(CACHED_INPUT_PICO_USD) / 10**6,
            "output": Decimal(OUTPUT_PICO_USD) / 10**6,
        }
    },
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
}
