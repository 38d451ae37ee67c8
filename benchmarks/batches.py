"""A batch that Redis answers, beside one MGET and the validation of all; and the whole log in chunks."""

import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from django.conf import settings
from django.core.cache import caches
from pydantic import BaseModel

import llmcache
from benchmarks.hits import Large, Small, _point_to
from benchmarks.timing import interleaved, table
from llmcache import envelope, keys
from llmcache.engine import process
from llmcache.testing.sandbox import Sandbox
from project.demo import data
from project.demo.types import Ingredient
from tests.cache_servers import RedisServer

CHUNK: Final = 500
# Briefly: whether it works, and no figures.
_BRIEFLY: Final = bool(os.environ.get("LLMCACHE_BENCH_BRIEFLY"))
_REQUESTS: Final = 1_000 if _BRIEFLY else data.ALL_REQUESTS
_HEADER: Final = 104


def report() -> Iterator[str]:
    """Yield the lines of the report."""
    log = data.read_log(_REQUESTS)
    texts = {each.text: each.gold.model_dump(mode="json") for each in log}
    with Sandbox(answers=dict(texts)) as provider:
        os.environ["OPENAI_BASE_URL"] = provider.base_url
        yield from _hits(list(texts), provider)
        _point_to(provider.base_url)
        yield from _log(log, provider)


@contextmanager
def _on_redis() -> Iterator[Any]:
    """Let a Redis be the only tier; gives a client of it."""
    server = RedisServer()
    before = settings.CACHES["llm-redis"]["LOCATION"]
    settings.CACHES["llm-redis"]["LOCATION"] = server.url
    settings.LLMCACHE["TIERS"] = ["llm-redis"]
    with suppress(AttributeError):
        del caches["llm-redis"]
    process.install(None)
    try:
        yield caches["llm-redis"]
    finally:
        del settings.LLMCACHE["TIERS"]
        settings.CACHES["llm-redis"]["LOCATION"] = before
        process.install(None)
        server.close()


def _hits(texts: list[str], provider: Sandbox) -> Iterator[str]:
    yield f"A batch of {CHUNK} hits in Redis, milliseconds"
    several = [f"{number} {text}" for number, text in enumerate(texts[:CHUNK])]
    with _on_redis() as cache:
        settings.LLMCACHE["PROVIDERS"]["openai"]["base_url"] = provider.base_url
        process.install(None)
        for name, model, contents in (
            ("two fields", Small, several),
            ("the demo's ingredients", Ingredient, texts[:CHUNK]),
            ("fifty nested items", Large, several[:100]),
        ):
            llmcache.extract_many(contents, model)
            # What they cost is being written by a thread beside this one for as long as there is something.
            llmcache.flush(timeout=60)
            yield from _beside_the_floor(name, model, contents, cache)
    yield ""


def _beside_the_floor(name: str, model: type[BaseModel], contents: list[str], cache: Any) -> Iterator[str]:
    found = llmcache.extract_many(contents, model)
    assert set(found.outcomes) == {"hit"}
    now = process.current()
    names = [cache.make_key(keys.storage_key(now.namespace, bytes.fromhex(info.key))) for info in found.infos if info]
    sizes = [len(info.__dict__["_completion_of"][1]) for info in found.infos if info]
    server: Any = now.tiers.below[0]
    ask: Callable[..., Any] = server._only.ask

    def floor() -> object:
        # What lies there, less what is round the answer: as if the answers lay there alone.
        validate = model.__pydantic_validator__.validate_json
        return [
            validate(value[_HEADER : _HEADER + size]) for value, size in zip(ask("MGET", *names), sizes, strict=True)
        ]

    plan = now.plan(model, now.settings.model, None, None, {})

    def checked_floor() -> object:
        # What no batch can do without: keys of the texts, and envelopes that are whole.
        asked = [plan.key(keys.NO_SCOPE, text.encode()) for text in contents]
        named = [cache.make_key(keys.storage_key(now.namespace, key)) for key in asked]
        validate = model.__pydantic_validator__.validate_json
        read = zip(ask("MGET", *named), asked, strict=True)
        return [validate(found[0]) for value, key in read if (found := envelope.opened(value, key))]

    works = {
        f"{name}: one MGET + validation of all": floor,
        "… with the keys made, and the envelopes checked": checked_floor,
        "… llmcache.extract_many": lambda: llmcache.extract_many(contents, model),
    }
    rounds = interleaved(works, number=1 if _BRIEFLY else 10, rounds=3 if _BRIEFLY else 15)
    millis = {each: [micros / 1_000 for micros in told] for each, told in rounds.items()}
    yield from table(millis, next(iter(works)), unit="ms")


def _log(log: list[data.Request], provider: Sandbox) -> Iterator[str]:
    distinct = data.distinct(log, separate_tenants=False)
    before, outcomes, took = provider.calls, Counter[str](), list[float]()
    began = time.perf_counter()
    for start in range(0, len(log), CHUNK):
        chunk = log[start : start + CHUNK]
        at = time.perf_counter()
        found = llmcache.extract_many(chunk, Ingredient, content="text")
        took.append(time.perf_counter() - at)
        assert list(found) == [each.gold for each in chunk]
        outcomes.update(found.outcomes)
    calls = provider.calls - before
    yield f"The log: {len(log):,} requests in chunks of {CHUNK}, {time.perf_counter() - began:.1f} s"
    yield f"  provider calls {calls:,}, distinct texts {distinct:,}"
    yield f"  {', '.join(f'{word} {number:,}' for word, number in sorted(outcomes.items()))}"
    yield f"  a chunk takes {statistics.median(took) * 1_000:.0f} ms"
    assert calls == distinct
    yield ""
