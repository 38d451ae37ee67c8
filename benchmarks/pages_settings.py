"""Settings of the pages' benchmark: the ledger and all else in a PostgreSQL that is gone afterwards."""

import json
import os
from pathlib import Path

_place = Path(os.environ["LLMCACHE_BENCH_PLACE"])

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "llmcache",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
ROOT_URLCONF = "benchmarks.pages_urls"
DATABASES = {"default": json.loads(os.environ["LLMCACHE_BENCH_DATABASE"])}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SECRET_KEY = "benchmarks"
ALLOWED_HOSTS = ["testserver"]
USE_TZ = True
STATIC_URL = "static/"
LLMCACHE = {
    "DISK_PATH": _place / "disk",
    "JOURNAL": _place / "journal",
    "TIME_ZONE": "Europe/Berlin",
    "PROVIDERS": {"openai": {"api_key": "sandbox", "base_url": "http://127.0.0.1:1/v1"}},
}
