"""Who takes part: a group for each kind of store, its floor first, and the packages each environment is made of."""

from dataclasses import dataclass
from typing import Final

GROUPS: Final = {
    "memory": "Memory of the process",
    "disk": "Disk of the machine",
    "redis": "Redis",
    "redis-awaited": "Redis, awaited",
}

# What every Redis client here has: the same version, with the same parser.
_REDIS = ("redis", "hiredis")

ENVIRONMENTS: Final[dict[str, tuple[str, ...]]] = {
    "instructor": ("instructor", "openai", "pydantic", "diskcache", *_REDIS),
    # The plain package cannot answer from its cache: it imports these three there.
    "litellm": ("litellm", "fastapi", "orjson", "soundfile", "openai", "pydantic", "diskcache", *_REDIS),
    "langchain": ("langchain-core", "langchain-community", "langchain-openai", "openai", "pydantic", *_REDIS),
    "cashews": ("cashews", "openai", "pydantic", *_REDIS),
    "gptcache": ("gptcache", "openai", "pydantic"),
}
"""By name; the entrants of "" run where llmcache is installed."""
OURS: Final = ("django-llmcache", "Django", "django-redis", "openai", "pydantic", *_REDIS)
PLOT: Final = ("matplotlib",)


@dataclass(frozen=True)
class Entrant:
    """One way to answer a call for the second time."""

    name: str
    """``module.function`` below ``entrants``."""
    title: str
    group: str
    environment: str = ""
    floor: bool = False


ENTRANTS: Final = (
    Entrant("floors.memory", "floor: SHA-256 + dict + model_validate_json", "memory", floor=True),
    Entrant("ours.memory", "llmcache", "memory"),
    Entrant("ours.memory_awaited", "llmcache, awaited", "memory"),
    Entrant("guide.lru_cache", "functools.lru_cache", "memory", "instructor"),
    Entrant("cashews_caches.memory", "cashews, awaited", "memory", "cashews"),
    Entrant("instructor_caches.auto", "Instructor AutoCache", "memory", "instructor"),
    Entrant("langchain_caches.memory", "LangChain InMemoryCache", "memory", "langchain"),
    Entrant("litellm_caches.local", "LiteLLM local", "memory", "litellm"),
    Entrant("gptcache_caches.exact", "GPTCache, equal prompts", "memory", "gptcache"),
    Entrant("floors.disk", "floor: SELECT + model_validate_json", "disk", floor=True),
    Entrant("ours.disk", "llmcache", "disk"),
    Entrant("guide.disk", "caching guide: diskcache", "disk", "instructor"),
    Entrant("guide.disk_by_schema", "caching guide: diskcache, schema in the key", "disk", "instructor"),
    Entrant("instructor_caches.disk", "Instructor DiskCache", "disk", "instructor"),
    Entrant("langchain_caches.sqlite", "LangChain SQLiteCache", "disk", "langchain"),
    Entrant("litellm_caches.disk", "LiteLLM disk", "disk", "litellm"),
    Entrant("floors.redis_sync", "floor: SHA-256 + GET + model_validate_json", "redis", floor=True),
    Entrant("ours.redis", "llmcache", "redis"),
    Entrant("guide.redis", "caching guide: Redis", "redis", "instructor"),
    Entrant("guide.redis_by_schema", "caching guide: Redis, schema in the key", "redis", "instructor"),
    Entrant("langchain_caches.redis", "LangChain RedisCache", "redis", "langchain"),
    Entrant("litellm_caches.redis", "LiteLLM redis", "redis", "litellm"),
    Entrant("floors.redis_awaited", "floor: SHA-256 + GET + model_validate_json", "redis-awaited", floor=True),
    Entrant("ours.redis_awaited", "llmcache", "redis-awaited"),
    Entrant("cashews_caches.redis", "cashews", "redis-awaited", "cashews"),
    Entrant("litellm_caches.redis_awaited", "LiteLLM redis", "redis-awaited", "litellm"),
)


def floor_of(group: str) -> Entrant:
    """Return what the others of a group are beside."""
    return next(entrant for entrant in ENTRANTS if entrant.group == group and entrant.floor)
