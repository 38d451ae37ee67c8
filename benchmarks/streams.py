"""How soon a stream that the cache answers has its first value, and how long all of them take."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from pydantic import BaseModel

import llmcache
from benchmarks.hits import LARGE, LARGE_TEXT, SMALL, SMALL_TEXT, Large, Small, _point_to
from benchmarks.timing import interleaved, table
from llmcache.engine import process
from llmcache.testing.sandbox import Sandbox

# Briefly: whether it works, and no figures.
_BRIEFLY: Final = bool(os.environ.get("LLMCACHE_BENCH_BRIEFLY"))
_TIMES: Final = 3 if _BRIEFLY else 300
_ROUNDS: Final = 3 if _BRIEFLY else 9
_MOST_MS: Final = 1.0


def report() -> Iterator[str]:
    """Yield the lines of the report."""
    loop = asyncio.new_event_loop()
    with Sandbox(answers={SMALL_TEXT: SMALL, LARGE_TEXT: LARGE}) as provider:
        _point_to(provider.base_url)
        for name, text, model in (("small", SMALL_TEXT, Small), ("large", LARGE_TEXT, Large)):
            list(llmcache.extract_partial(text, model))
            yield f"A stream that memory answers, {name}, its first value; milliseconds (target: {_MOST_MS:g})"
            yield from _first(text, model, loop)
            yield f"All values of the {name} one, {len(list(llmcache.extract_partial(text, model)))} of them"
            yield from _all(text, model)
            yield ""
        assert provider.calls == 2
    loop.close()


def _first(text: str, model: type[BaseModel], loop: asyncio.AbstractEventLoop) -> Iterator[str]:
    def iterated() -> float:
        began = time.perf_counter()
        values = llmcache.extract_partial(text, model)
        next(values)
        took = time.perf_counter() - began
        values.close()
        return took

    async def awaited() -> float:
        began = time.perf_counter()
        values = llmcache.aextract_partial(text, model)
        await anext(values)
        took = time.perf_counter() - began
        await values.aclose()
        return took

    def below() -> float:
        memory: Any = process.current().memory
        memory.clear()
        return iterated()

    ways: dict[str, Callable[[], float]] = {
        "llmcache.extract_partial": iterated,
        "… awaited": lambda: loop.run_until_complete(awaited()),
        "… where disk answers": below,
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(_TIMES):
        for name, first in ways.items():
            found[name].append(first() * 1e3)
    for name, told in found.items():
        told.sort()
        middle, late = told[len(told) // 2], told[int(len(told) * 0.99)]
        yield f"  {name:<26}  {middle:6.3f} ms, 99 of 100 within {late:6.3f}"


def _all(text: str, model: type[BaseModel]) -> Iterator[str]:
    works = {
        "llmcache.extract, hit in memory": lambda: llmcache.extract(text, model),
        "… all of extract_partial": lambda: list(llmcache.extract_partial(text, model)),
    }
    rounds = interleaved(works, number=1 if _BRIEFLY else 20, rounds=_ROUNDS)
    yield from table(
        {name: [micros / 1_000 for micros in told] for name, told in rounds.items()}, next(iter(works)), "ms"
    )
