"""cashews round a function that asks OpenAI's SDK. It is asynchronous throughout."""

from typing import Any

from cashews import Cache
from openai import AsyncOpenAI

from benchmarks.peers.cases import Case
from benchmarks.peers.entrants import KEY, MODEL, Asker, Call, Place, messages


def memory(place: Place) -> Asker:
    """In memory: all callers hold the same object."""
    return _asker(place, "mem://")


def redis(place: Place) -> Asker:
    """Over ``redis.asyncio``: the object is pickled, and signed."""
    return _asker(place, place.redis_url, secret="benchmarks", digestmod="sha256")


def _asker(place: Place, url: str, **options: Any) -> Asker:
    cache = Cache()
    cache.setup(url, **options)
    client = AsyncOpenAI(base_url=place.base_url, api_key=KEY)

    def ask(case: Case) -> Call:
        model, text = case.model, case.text

        @cache(ttl="1h", key=f"{model.__name__}:{{data}}")
        async def extract(data: str) -> Any:
            made = await client.chat.completions.parse(model=MODEL, response_format=model, messages=messages(data))
            return made.choices[0].message.parsed

        return lambda: extract(text)

    return ask
