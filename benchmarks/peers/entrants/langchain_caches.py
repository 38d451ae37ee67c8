"""LangChain's caches under ``with_structured_output``."""

from typing import Any

import redis as redis_client
from langchain_community.cache import RedisCache, SQLiteCache
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from benchmarks.peers.cases import Case
from benchmarks.peers.entrants import KEY, MODEL, Asker, Call, Place


def memory(place: Place) -> Asker:
    """``InMemoryCache``."""
    return _asker(place, InMemoryCache())


def sqlite(place: Place) -> Asker:
    """``SQLiteCache``, over SQLAlchemy."""
    return _asker(place, SQLiteCache(database_path=str(place.folder / "cache.sqlite3")))


def redis(place: Place) -> Asker:
    """``RedisCache`` of langchain-community."""
    return _asker(place, RedisCache(redis_=redis_client.Redis(port=place.redis_port)))


def _asker(place: Place, cache: Any) -> Asker:
    set_llm_cache(cache)
    chat = ChatOpenAI(model=MODEL, base_url=place.base_url, api_key=SecretStr(KEY))

    def ask(case: Case) -> Call:
        invoke = chat.with_structured_output(case.model, method="json_schema").invoke
        return lambda: invoke(case.text)

    return ask
