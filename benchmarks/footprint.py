"""How long a process takes to its first hit, and how much memory it takes for what it keeps."""

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from benchmarks.hits import LARGE, SMALL, SMALL_TEXT
from benchmarks.million import CALLS
from llmcache.testing.sandbox import Sandbox
from tests.cache_servers import RedisServer

_PROCESSES: Final = 15
_FIRST_MS: Final = 60.0
_ENTRIES: Final = 3_000
_SHARE: Final = 1.10
_FULL: Final = 2
"""Tenths of the calls after which all budgets are full."""

_FIRST_HIT = """
import sys, time
import django, django.core.cache, pydantic
if sys.argv[1] == "redis loaded":
    import redis
class Small(pydantic.BaseModel):
    name: str
    age: int
began, worked = time.perf_counter(), time.process_time()
import llmcache
imported, worked = time.perf_counter() - began, time.process_time() - worked
django.setup()
began, before = time.perf_counter(), time.process_time()
value = llmcache.extract(sys.argv[2], Small)
answered, worked = time.perf_counter() - began, worked + time.process_time() - before
loaded = "openai" in sys.modules
from llmcache.engine import process
((_, _, tier, outcome),) = process.current().counts.total()
print((imported + answered) * 1e3, answered * 1e3, worked * 1e3, loaded, tier, outcome)
"""

_ENTRY = """
import gc, sys, tracemalloc
import django
django.setup()
import llmcache
from benchmarks.hits import Large
from benchmarks.million import rss
from llmcache.engine import process
how, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def ask(numbers):
    for number in numbers:
        llmcache.extract(f"A text of some sixty characters, number {number:20}", Large)
        if number % 100 == 0:
            # What is counted waits in a table of its own, with a bound of its own.
            process.current().counts.take()
            process.current().counts.take_waiting()
    gc.collect()
ask(range(first))
memory = process.current().memory
kept, answers = len(memory), sum(len(slot.value.answer) for slot in memory._slots.values())
if how == "tracemalloc":
    tracemalloc.start()
    taken = lambda: tracemalloc.get_traced_memory()[0]
else:
    taken = rss
before, own = taken(), memory.used_bytes
ask(range(first, last))
grown, own = taken() - before, memory.used_bytes - own
kept = len(memory) - kept
answers = sum(len(slot.value.answer) for slot in memory._slots.values()) - answers
counted = {f"{tier} {outcome}" for _, _, tier, outcome in process.current().counts.total()}
print(grown, own, kept, answers, *counted)
"""


def report(place: Path) -> Iterator[str]:
    """Yield the lines of the report."""
    with (
        closing(RedisServer()) as server,
        Sandbox(answers={SMALL_TEXT: SMALL}, charges=place / "charges.footprint.jsonl") as provider,
    ):
        surroundings = {"LLMCACHE_BENCH_REDIS": server.url, "LLMCACHE_BENCH_PROVIDER": provider.base_url}
        yield from _first_hits(provider, surroundings)
        if not Path("/proc/self/statm").exists():
            yield "What memory a process has is read from /proc, which is not here"
            return
        yield from _entries(provider, surroundings)
    yield from _million()


def _run(program: str, *arguments: str, **surroundings: str) -> list[str]:
    """Return the words that a fresh process prints."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **surroundings})
    return done.stdout.split()


def _first_hits(provider: Sandbox, surroundings: dict[str, str]) -> Iterator[str]:
    ways = {
        "from disk": ("llm-disk", ""),
        "from Redis": ("llm-redis", ""),
        "from Redis, redis-py loaded before": ("llm-redis", "redis loaded"),
    }
    for tier, _ in ways.values():
        _run(_FIRST_HIT, "", SMALL_TEXT, LLMCACHE_BENCH_TIERS=tier, **surroundings)
    asked = provider.received
    found: dict[str, list[tuple[float, ...]]] = {way: [] for way in ways}
    for _ in range(_PROCESSES):
        for way in random.sample(list(ways), len(ways)):
            tier, how = ways[way]
            words = _run(_FIRST_HIT, how, SMALL_TEXT, LLMCACHE_BENCH_TIERS=tier, **surroundings)
            if words[3:] != ["False", tier, "hit"]:
                raise RuntimeError(f"no hit {way}, or the provider's SDK was loaded: {words[3:]}")
            found[way].append(tuple(map(float, words[:3])))
    assert provider.received == asked
    yield f"First hit of a process: import llmcache, and the call, beyond django.setup(); {_PROCESSES} processes each"
    for way, runs in found.items():
        both, call, worked = (statistics.median(figures) for figures in zip(*runs, strict=True))
        times = f"{both:7.1f} ms   longest {max(run[0] for run in runs):7.1f} ms   target {_FIRST_MS:g} ms"
        yield f"  {way:<36} {times}   the call alone {call:.1f} ms; {worked:.1f} ms of the processor for both"
    yield "  openai was loaded by none of them"
    yield ""


def _entries(provider: Sandbox, surroundings: dict[str, str]) -> Iterator[str]:
    # More than SQLite keeps of its file in memory.
    warm = _ENTRIES // 3
    for number in range(_ENTRIES + warm):
        provider.answers[f"A text of some sixty characters, number {number:20}"] = LARGE
    arguments = (str(warm), str(_ENTRIES + warm))
    _run(_ENTRY, "fill", *arguments, **surroundings)
    asked = provider.received
    yield f"Memory over a disk tier: growth for {_ENTRIES:,} more entries found below, as a share of their answers"
    for how, what in (("rss", "resident memory"), ("tracemalloc", "what Python has allocated")):
        words = _run(_ENTRY, how, *arguments, **surroundings)
        grown, own, kept, answers = map(int, words[:4])
        if (kept, words[4:]) != (_ENTRIES, ["disk", "hit"]):
            raise RuntimeError(f"{kept} entries were kept: {words[4:]}")
        each = f"{grown / kept:,.0f} bytes for an answer of {answers / kept:,.0f}"
        yield f"  {what:<36} {grown / answers:7.3f} x   target {_SHARE} x   {each}"
    yield f"  {'the tier by its own account':<36} {own / answers:7.3f} x"
    assert provider.received == asked
    yield ""


def _million() -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.million", str(CALLS)]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        *samples, last = map(json.loads, child.stdout)
    if child.returncode:
        raise RuntimeError(f"the process of very many calls ended with {child.returncode}")
    sizes = [sample["rss"] / 2**20 for sample in samples]
    begun, took = samples[_FULL - 1]["calls"], time.perf_counter() - began
    yield f"{CALLS:,} calls, each with a system prompt of its own, {last['requests']:,} of them misses over HTTP"
    yield f"  resident memory after each tenth, MB: {' '.join(f'{size:.0f}' for size in sizes)}"
    yield f"  open files after each tenth: {' '.join(str(sample['files']) for sample in samples)}"
    yield f"  from {begun:,} calls to the last: {sizes[-1] - sizes[_FULL - 1]:+.1f} MB (all took {took:.0f} s)"
    for name, (size, bound) in last["tables"].items():
        if size > bound:
            raise RuntimeError(f"{name}: {size} is above its bound of {bound}")
        yield f"    {name:<46} {size:>12,} of {bound:,} at most"
    yield ""
