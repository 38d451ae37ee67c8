"""The asynchronous functions beside their synchronous twins, and how long a process's first call holds up a loop."""

import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import llmcache
from benchmarks.hits import SMALL, SMALL_TEXT, Small, _point_to
from benchmarks.timing import interleaved, table
from llmcache.testing.sandbox import Sandbox, start_sandbox_process

_RUNS = 9
_FIRST = """
import asyncio, sys, time
import django
django.setup()
import llmcache
from benchmarks.hits import Small, _point_to
from benchmarks.timing import Ticker
_point_to(sys.argv[1])
async def main():
    async with Ticker() as ticker:
        await asyncio.sleep(0.1)
        idle = ticker.longest_ms()
        began = time.perf_counter()
        await llmcache.aextract("the first text of process " + sys.argv[2], Small)
        print(ticker.longest_ms(), idle, (time.perf_counter() - began) * 1e3)
asyncio.run(main())
"""


def report(place: Path) -> Iterator[str]:
    """Yield the lines of the report."""
    with Sandbox(answers={SMALL_TEXT: SMALL}) as provider:
        _point_to(provider.base_url)
        llmcache.extract(SMALL_TEXT, Small)
    works = {
        "llmcache.extract": lambda: llmcache.extract(SMALL_TEXT, Small),
        "await llmcache.aextract": _awaited(lambda: llmcache.aextract(SMALL_TEXT, Small), 5_000),
    }
    yield "Hit in memory, small, in a running loop beside without one"
    yield from table(_each(works, {"llmcache.extract": 5_000, "await llmcache.aextract": 1}, 5_000), "llmcache.extract")
    yield ""
    infos = {
        "llmcache.extract_with_info": lambda: llmcache.extract_with_info(SMALL_TEXT, Small),
        "await llmcache.aextract_with_info": _awaited(lambda: llmcache.aextract_with_info(SMALL_TEXT, Small), 500),
    }
    yield "Hit in memory with its facts: not answered at once, but in the background loop"
    numbers = {"llmcache.extract_with_info": 500, "await llmcache.aextract_with_info": 1}
    yield from table(_each(infos, numbers, 500), "llmcache.extract_with_info")
    yield ""
    with start_sandbox_process(charges=place / "charges.async.jsonl") as provider:
        _point_to(provider.base_url)
        yield from _misses()
        yield from _first_calls(provider.base_url)


def _awaited(call: Callable[[], Coroutine[Any, Any, object]], number: int) -> Callable[[], object]:
    """Return work that awaits a call so many times, one after the other."""

    async def main() -> None:
        for _ in range(number):
            await call()

    return lambda: asyncio.run(main())


def _each(works: dict[str, Callable[[], object]], numbers: dict[str, int], per: int) -> dict[str, list[float]]:
    """Return microseconds a call, where a work makes one call or ``per`` of them."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(9):
        for name, work in works.items():
            for figure in interleaved({name: work}, number=numbers[name], rounds=1)[name]:
                found[name].append(figure * numbers[name] / per)
    return found


def _misses() -> Iterator[str]:
    numbers = itertools.count()

    def text() -> str:
        return f"An asynchronous text of some sixty characters, number {next(numbers):6}"

    async def many(tasks: int) -> None:
        await asyncio.gather(*(llmcache.aextract(text(), Small) for _ in range(tasks)))

    works: dict[str, Callable[[], object]] = {
        "llmcache.extract": lambda: [llmcache.extract(text(), Small) for _ in range(64)],
        "await llmcache.aextract": _awaited(lambda: llmcache.aextract(text(), Small), 64),
        "… 64 of them at once": lambda: asyncio.run(many(64)),
    }
    for work in works.values():
        work()
    found = interleaved(works, number=1, rounds=9)
    yield "Miss, journal with fsync and disk tier included, a call"
    yield from table({name: [figure / 64 for figure in found[name]] for name in works}, "llmcache.extract")
    yield ""


def _first_calls(base_url: str) -> Iterator[str]:
    runs: list[list[float]] = []
    for number in range(_RUNS + 1):
        command = [sys.executable, "-c", _FIRST, base_url, f"{number} of {time.time_ns()}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
        runs.append([float(word) for word in done.stdout.split()])
    # The first of them compiles every module that it loads, which an installed package has been through.
    compiling, *runs = runs
    gaps, idle, took = zip(*runs, strict=True)
    yield f"A process's first aextract, {_RUNS} processes: the longest time for which the caller's loop stood still"
    yield f"  median {statistics.median(gaps):6.1f} ms   longest {max(gaps):6.1f} ms"
    yield f"  before the call, loop idle: longest {max(idle):.1f} ms; the call took {statistics.median(took):.0f} ms"
    yield f"  one before these, which compiled the modules: {compiling[0]:.0f} ms"
    yield ""
