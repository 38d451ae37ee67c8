"""The recipes of Instructor's guide to caching: a decorator round a function that calls Instructor.

Each in both of its versions: the short one, whose key is the function's name and arguments, and the longer one, whose
key has the type's JSON schema in it, made anew at each call.
"""

import functools
import hashlib
import json
from collections.abc import Callable
from typing import Any

import diskcache
import redis as redis_client

from benchmarks.peers.cases import Case
from benchmarks.peers.entrants import MODEL, Asker, Call, Place, messages
from benchmarks.peers.entrants.instructor_caches import client

Key = Callable[[Any, type[Any], tuple[Any, ...], dict[str, Any]], str]


def lru_cache(place: Place) -> Asker:
    """``functools.lru_cache``: all callers hold the same object."""
    return _decorated(place, lambda _: functools.lru_cache(maxsize=1_000))


def disk(place: Place) -> Asker:
    """A ``diskcache.Cache``."""
    store = diskcache.Cache(str(place.folder / "cache"))
    return _decorated(place, lambda model: _kept(model, store.get, store.set, _short_key))


def disk_by_schema(place: Place) -> Asker:
    """A ``diskcache.Cache`` with the schema in the key."""
    store = diskcache.Cache(str(place.folder / "cache"))
    return _decorated(place, lambda model: _kept(model, store.get, store.set, _schema_key))


def redis(place: Place) -> Asker:
    """A ``redis.Redis``."""
    store = redis_client.Redis(port=place.redis_port)
    return _decorated(place, lambda model: _kept(model, store.get, store.set, _short_key))


def redis_by_schema(place: Place) -> Asker:
    """A ``redis.Redis`` on a pool that decodes, with the schema in the key and an hour to live."""
    pool = redis_client.ConnectionPool(port=place.redis_port, max_connections=20, decode_responses=True)
    store = redis_client.Redis(connection_pool=pool)

    def write(key: str, value: str) -> Any:
        return store.setex(key, 3_600, value)

    return _decorated(place, lambda model: _kept(model, store.get, write, _schema_key))


def _decorated(place: Place, decorator: Callable[[type[Any]], Callable[[Any], Any]]) -> Asker:
    create = client(place).chat.completions.create

    def ask(case: Case) -> Call:
        model, text = case.model, case.text

        def extract(data: str) -> Any:
            return create(model=MODEL, response_model=model, messages=messages(data))

        extract.__name__ = f"extract_{model.__name__}"
        cached = decorator(model)(extract)
        return lambda: cached(text)

    return ask


def _kept(model: type[Any], read: Any, write: Any, key_of: Key) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            key = key_of(function, model, args, kwargs)
            if (found := read(key)) is not None:
                return model.model_validate_json(found)
            made = function(*args, **kwargs)
            write(key, made.model_dump_json())
            return made

        return wrapper

    return decorate


def _short_key(function: Any, _: type[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    return f"{function.__name__}-{functools._make_key(args, kwargs, typed=False)}"


def _schema_key(function: Any, model: type[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    schema = json.dumps(model.model_json_schema(), sort_keys=True)
    digest = hashlib.md5(schema.encode()).hexdigest()[:8]
    return f"{function.__name__}-{digest}-{functools._make_key(args, kwargs, typed=False)}"
