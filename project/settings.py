"""Settings of the demo and development project.

Everything that it writes lies in ``var/`` at the root of the clone, or in the folder that ``LLMCACHE_DEMO_VAR`` names.
``DJANGO_DEBUG=0`` turns debugging off. ``LLMCACHE_DEMO_PROVIDER=openai`` lets OpenAI's API be asked, for money; else
the pages ask the sandbox provider at the address in ``LLMCACHE_DEMO_SANDBOX``, which ``manage.py serve`` sets.
Entries lie in the Redis that ``manage.py demo`` and ``manage.py serve`` start, while it runs, else on disk.
"""

import os
from pathlib import Path

from django.core.management.utils import get_random_secret_key

from project.demo import tiers
from project.demo.sandboxed import sandboxed
from project.demo.secret_files import kept_secret

BASE_DIR = Path(__file__).resolve().parent.parent
VAR = Path(os.environ.get("LLMCACHE_DEMO_VAR") or BASE_DIR / "var").absolute()
VAR.mkdir(mode=0o700, parents=True, exist_ok=True)

SECRET_KEY = kept_secret(VAR / "secret_key", get_random_secret_key)
DEBUG = os.environ.get("DJANGO_DEBUG") != "0"
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "llmcache",
    "project.demo",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "project.demo.middleware.FormLimit",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
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

ROOT_URLCONF = "project.urls"
CSRF_FAILURE_VIEW = "project.demo.views.refused"
WSGI_APPLICATION = "project.wsgi.application"

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": VAR / "db.sqlite3",
        "OPTIONS": {
            # A transaction that turns from reading to writing half-way fails when another has written meanwhile.
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    },
}

CACHES = tiers.aliases(VAR)

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
STATIC_URL = "static/"

LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "llmcache:dashboard"

LLMCACHE = {
    "MODEL": "openai/gpt-5-mini",
    "DISK_PATH": VAR / "cache",
    "JOURNAL": VAR / "journal",
    # `manage.py demo` records its requests as if they had come over the last 31 days. At the usual seven days most of
    # its answers would have expired as soon as they were made, and a second run would pay for them again.
    "TTL": 60 * 86_400,
    "KINDS": {
        # Lets the admin ask anew for their entries, and check what a human enters against them.
        "Ingredient": {"type": "project.demo.types.Ingredient"},
        "Recipe": {"type": "project.demo.types.Recipe"},
        # Short enough to be watched on the page "Freshness".
        "board": {"type": "project.demo.types.Ingredient", "ttl": 30, "stale_ttl": 90},
    },
}
# The commands start a Redis for entries to lie in. Whoever starts beside them finds it; without one they lie on disk.
if tiers.redis_runs(VAR):
    LLMCACHE = tiers.over_redis(LLMCACHE)
# A key alone spends no money: who wants to pay says so.
ASK_OPENAI = os.environ.get("LLMCACHE_DEMO_PROVIDER") == "openai"
SANDBOX_URL = None if ASK_OPENAI else os.environ.get("LLMCACHE_DEMO_SANDBOX") or None
if SANDBOX_URL is not None:
    LLMCACHE = sandboxed(LLMCACHE, SANDBOX_URL)
# The commands bring their provider and its key with them; without one, the pages ask nobody.
SILENCED_SYSTEM_CHECKS = ["llmcache.W001"]
