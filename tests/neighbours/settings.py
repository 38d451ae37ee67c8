"""A project that has a neighbour and llmcache, as small as can be."""

import atexit
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

VAR = Path(tempfile.mkdtemp(prefix="llmcache-neighbours-"))
atexit.register(shutil.rmtree, VAR, ignore_errors=True)

SECRET_KEY = "neighbours"
INSTALLED_APPS = ["llmcache"]
if find_spec("django_celery_beat"):
    # With the admin, whose actions change many rows at once.
    INSTALLED_APPS += [f"django.contrib.{name}" for name in ("admin", "auth", "contenttypes", "messages", "sessions")]
    INSTALLED_APPS += ["django_celery_beat"]
    MIDDLEWARE = [
        "django.contrib.sessions.middleware.SessionMiddleware",
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
                ]
            },
        }
    ]
    ROOT_URLCONF = "tests.neighbours.celery_beat.urls"
    STATIC_URL = "/static/"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": VAR / "db.sqlite3",
        "OPTIONS": {"transaction_mode": "IMMEDIATE"},
    }
}
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
LLMCACHE = {"DISK_PATH": VAR / "tier", "JOURNAL": VAR / "journal", "JITTER": 0}
