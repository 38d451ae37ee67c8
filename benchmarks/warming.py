"""Warming beside the SDK alone: the same texts, as many at the same time, asked of the same provider."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import openai

import llmcache
from benchmarks.hits import Small, _point_to
from benchmarks.misses import _body
from llmcache.testing.sandbox import start_sandbox_process

_TEXTS: Final = 640
_AT_ONCE: Final = 32
_ROUNDS: Final = 3
_TARGET: Final = 1.25
_PROVIDER_MS: Final = (500.0, 0.0)
"""How long the provider takes: about as long as a small model; and nothing, which leaves the work of this machine."""


def report(place: Path) -> Iterator[str]:
    """Yield the lines of the report."""
    for number, latency in enumerate(_PROVIDER_MS):
        with start_sandbox_process(charges=place / f"charges.warming.{number}.jsonl", latency_ms=latency) as provider:
            _point_to(provider.base_url)
            client = openai.OpenAI(base_url=provider.base_url, api_key="sandbox", max_retries=0)
            yield from _beside(client, latency)
            client.close()


def _beside(client: openai.OpenAI, latency: float) -> Iterator[str]:
    body, numbers = _body(), itertools.count()

    def texts(count: int) -> list[str]:
        begun = next(numbers)
        return [f"A text of some sixty characters, {begun:6} of {latency:g}, {number:6}" for number in range(count)]

    def ask(text: str) -> object:
        messages = [{"role": "user", "content": text}]
        return client.chat.completions.with_raw_response.create(**{**body, "messages": messages}).parse()

    def sdk(asked: list[str]) -> None:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for _ in pool.map(ask, asked):
                pass

    def warm(asked: list[str]) -> None:
        warmed = llmcache.warm(asked, Small, concurrency=_AT_ONCE)
        if warmed.warmed != len(asked):
            raise RuntimeError(f"{warmed.warmed} of {len(asked)} were warmed")

    works: dict[str, Callable[[list[str]], None]] = {"the SDK alone": sdk, "llmcache.warm": warm}
    for work in works.values():
        work(texts(_AT_ONCE))
    found: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(_ROUNDS):
        # Whoever is second finds a machine that has just worked.
        for name in list(works)[:: 1 if turn % 2 else -1]:
            asked = texts(_TEXTS)
            began = time.perf_counter()
            works[name](asked)
            found[name].append(time.perf_counter() - began)
    # Or the ledger would still be at it when its folder goes.
    llmcache.flush()
    each = [mine / theirs for mine, theirs in zip(found["llmcache.warm"], found["the SDK alone"], strict=True)]
    target = f"   target {_TARGET} x" if latency else ""
    yield f"{_TEXTS} texts, {_AT_ONCE} at the same time, of a provider that takes {latency:g} ms"
    for name, seconds in found.items():
        ratio = f"  {statistics.median(each):6.2f} x{target}" if name == "llmcache.warm" else ""
        yield f"  {name:<16} {statistics.median(seconds):7.2f} s{ratio}"
    yield ""
