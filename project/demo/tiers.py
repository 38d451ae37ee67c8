"""Where the demo's entries lie: memory over a Redis of its own, or over a folder on disk where no Redis runs."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

MEMORY: Final = "memory"
REDIS: Final = "redis"
_MOST_BYTES: Final = 107
"""Of a Unix socket's path on Linux, whose field has 108 with the NUL; 103 on macOS, whose folders are short."""
_SECONDS: Final = 1.0
"""How long an operation may take: the server is on this machine."""


def socket_path(var: Path) -> Path | None:
    """Return where the demo's Redis listens: below ``var``, or in a temporary folder where that path is too long.

    None where both are too long.
    """
    name = hashlib.sha256(f"{os.getuid()} {var}".encode()).hexdigest()[:8]
    places = (var / "redis" / "socket", Path(tempfile.gettempdir()) / f"llmcache-{name}" / "socket")
    return next((place for place in places if len(os.fsencode(place)) <= _MOST_BYTES), None)


def is_ours(place: Path, is_kind: Any) -> bool:
    """Return whether there is something of a kind, and this user's: a temporary folder is open to everybody."""
    try:
        found = place.lstat()
    except OSError:
        return False
    return is_kind(found.st_mode) and found.st_uid == os.getuid()


def redis_runs(var: Path) -> bool:
    """Return whether the demo's Redis has been started and has not ended in good order since."""
    place = socket_path(var)
    return place is not None and has_client() and is_ours(place, stat.S_ISSOCK)


def has_client() -> bool:
    """Return whether django-redis is installed."""
    return find_spec("django_redis") is not None


def aliases(var: Path) -> dict[str, dict[str, Any]]:
    """Return ``CACHES``; the alias of the Redis connects when it is used."""
    found: dict[str, dict[str, Any]] = {
        "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
        MEMORY: {"BACKEND": "llmcache.backends.MemoryCache", "LOCATION": "llmcache"},
    }
    place = socket_path(var)
    if place is not None and has_client():
        found[REDIS] = {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": f"unix://{quote(str(place))}?db=0",
            "OPTIONS": {"SOCKET_CONNECT_TIMEOUT": _SECONDS, "SOCKET_TIMEOUT": _SECONDS},
        }
    return found


def over_redis(llmcache: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings ``LLMCACHE`` with memory over the demo's Redis; without, they mean memory over disk."""
    return {**llmcache, "TIERS": [MEMORY, REDIS]}
