"""What a Redis that refuses or is frozen takes of calls, beside calls over one that is well; and of an event loop.

Redis is the only tier and every text is a new one, so that each call asks Redis and then the provider. Without fsync:
the disk's moods are larger than what is looked for.
"""

import itertools
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import redis

import llmcache
from benchmarks.hits import Small, _point_to
from llmcache.engine import process
from llmcache.testing.sandbox import start_sandbox_process
from tests.cache_servers import RedisServer
from tests.waiting import until

_ROUNDS: Final = 5
_CALLS: Final = 40
_AT_ONCE: Final = 16
_LAG_RUNS: Final = 5

_FIRST_MS: Final = {"refused": 50.0, "frozen": 500.0}
_OPEN_MS: Final = 1.0
_BACK_MS: Final = 1_000.0
_LAG_MS: Final = 50.0
_WHICH: Final = {"warm": "calls made before", "first": "the first calls of their process"}

_LAG = """
import asyncio, sys
import django
django.setup()
import llmcache
from benchmarks.hits import Small
from benchmarks.timing import Ticker
from llmcache.engine import process
which, number = sys.argv[1:]
async def main():
    if which == "warm":
        for _ in range(2):
            await llmcache.aextract(f"a text beforehand, {number}", Small)
            # From a second on, a loop has connections of its own.
            await asyncio.sleep(1.1)
    async with Ticker() as ticker:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        idle = ticker.longest_ms()
        found = await asyncio.gather(*(llmcache.aextract(f"text {n} of {number}", Small) for n in range(100)))
        longest = ticker.longest_ms()
    (tier,) = process.current().tiers.states()
    print(longest, idle, len(found), tier.breaker, tier.faults, tier.error, flush=True)
asyncio.run(main())
"""


@dataclass
class _Round:
    """Milliseconds, a figure for each round."""

    first: list[float] = field(default_factory=list[float])
    at_once: list[float] = field(default_factory=list[float])
    while_open: list[float] = field(default_factory=list[float])
    back: list[float] = field(default_factory=list[float])


class _Lag(NamedTuple):
    """What a process tells of its loop."""

    longest_ms: float
    idle_ms: float
    faults: int
    """Of the tier."""


def report(place: Path) -> Iterator[str]:
    """Yield the lines of the report."""
    with (
        closing(RedisServer()) as server,
        start_sandbox_process(charges=place / "charges.faults.jsonl") as provider,
        _only_redis(server, provider.base_url),
    ):
        yield f"Redis out of reach: what calls take more than over a Redis that is well, {_ROUNDS} rounds"
        for fault, (begin, end) in _faults(server).items():
            yield from _told(fault, _measure(server, begin, end))
        yield ""
        yield from _lags(server, provider.base_url)


def _faults(server: RedisServer) -> dict[str, tuple[Callable[[], None], Callable[[], None]]]:
    return {"refused": (server.stop, server.start), "frozen": (server.freeze, server.thaw)}


@contextmanager
def _only_redis(server: RedisServer, base_url: str) -> Iterator[None]:
    """Let Redis be the only tier."""
    from django.conf import settings

    changed = {"TIERS": ["llm-redis"], "JOURNAL_FSYNC": False}
    settings.CACHES["llm-redis"]["LOCATION"] = server.url
    settings.LLMCACHE.update(changed)
    _point_to(base_url)
    try:
        yield
    finally:
        for name in changed:
            del settings.LLMCACHE[name]
        process.install(None)


_numbers = itertools.count()


def _call() -> float:
    """Make a call with a text of its own; return its milliseconds."""
    text = f"A text of some sixty characters, number {next(_numbers):20}"
    began = time.perf_counter()
    llmcache.extract(text, Small)
    return (time.perf_counter() - began) * 1e3


def _calls_at_once() -> float:
    """Return the milliseconds of the slowest of some calls in as many threads."""
    together, took = threading.Barrier(_AT_ONCE), list[float]()

    def work() -> None:
        together.wait()
        took.append(_call())

    threads = [threading.Thread(target=work) for _ in range(_AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(took) == _AT_ONCE
    return max(took)


def _measure(server: RedisServer, begin: Callable[[], None], end: Callable[[], None]) -> _Round:
    found = _Round()
    for _ in range(_ROUNDS):
        _until("closed")
        usual = statistics.median(_call() for _ in range(_CALLS))
        with _fault(server, begin, end, found):
            found.first.append(_call() - usual)
            _require("open")
            found.while_open.append(statistics.median(_call() for _ in range(_CALLS)) - usual)
            _require("open")
        usual = statistics.median(_calls_at_once() for _ in range(3))
        with _fault(server, begin, end, found):
            found.at_once.append(_calls_at_once() - usual)
            _require("open")
    return found


@contextmanager
def _fault(server: RedisServer, begin: Callable[[], None], end: Callable[[], None], found: _Round) -> Iterator[None]:
    """Let the server be out of reach, prove it, and time how long after its return the first hit comes from it."""
    kept = f"A text that is kept, {next(_numbers)}"
    _until("closed")
    llmcache.extract(kept, Small)
    assert llmcache.extract_with_info(kept, Small).tier == "llm-redis"
    begin()
    try:
        _prove_no_answer(server)
        yield
    finally:
        end()
    returned = time.perf_counter()
    until(lambda: llmcache.extract_with_info(kept, Small).tier == "llm-redis")
    found.back.append((time.perf_counter() - returned) * 1e3)


def _prove_no_answer(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url, socket_timeout=0.25, retry=None) as plain:
        try:
            plain.ping()
        except (redis.ConnectionError, redis.TimeoutError):
            return
    raise RuntimeError("the server answers")


def _breaker() -> str | None:
    (tier,) = process.current().tiers.states()
    return tier.breaker


def _until(state: str) -> None:
    until(lambda: _breaker() == state)


def _require(state: str) -> None:
    if (found := _breaker()) != state:
        raise RuntimeError(f"the breaker is {found}, and should be {state}")


def _told(fault: str, found: _Round) -> Iterator[str]:
    first = _FIRST_MS[fault]
    rows: dict[str, tuple[list[float], float]] = {
        "the first call": (found.first, first),
        f"the slowest of {_AT_ONCE} first calls at once": (found.at_once, first),
        f"a call while it is left alone, median of {_CALLS}": (found.while_open, _OPEN_MS),
    }
    for what, (figures, target) in rows.items():
        yield _line(f"{fault}, {what}", figures, target, "+")
    yield _line(f"{fault}, first hit after its return", found.back, _BACK_MS)


def _line(what: str, figures: list[float], target: float, sign: str = "") -> str:
    middle, worst, form = statistics.median(figures), max(figures), f"{sign}9.2f" if sign else "9.2f"
    return f"  {what:<58} {middle:{form}} ms   worst {worst:{form}} ms   target {sign}{target:g} ms"


def _lags(server: RedisServer, base_url: str) -> Iterator[str]:
    yield f"100 aextract of new texts at once: for how long the loop stood still, {_LAG_RUNS} processes each"
    cases = list(itertools.product((True, False), ("warm", "first")))
    found: dict[tuple[bool, str], list[_Lag]] = {case: [] for case in cases}
    for _ in range(_LAG_RUNS):
        for frozen, which in random.sample(cases, len(cases)):
            found[frozen, which].append(_lag(server, base_url, which, frozen))
    for (frozen, which), runs in found.items():
        what = f"Redis {'frozen' if frozen else 'well'}, {_WHICH[which]}"
        yield _line(what, [run.longest_ms for run in runs], _LAG_MS)
    idle = max(run.idle_ms for runs in found.values() for run in runs)
    yield f"  before the calls, loop idle: longest {idle:.1f} ms"
    faults = [run.faults for case, runs in found.items() if not case[0] for run in runs]
    yield f"  faults of the tier where Redis was well: {' '.join(map(str, faults))}"
    yield ""


def _lag(server: RedisServer, base_url: str, which: str, frozen: bool) -> _Lag:
    command = [sys.executable, "-c", _LAG, which, str(time.time_ns())]
    own = {"LLMCACHE_BENCH_REDIS": server.url, "LLMCACHE_BENCH_TIERS": "llm-redis", "LLMCACHE_BENCH_PROVIDER": base_url}
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **own}
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child:
        try:
            if child.stdout.readline() != "ready\n":
                raise RuntimeError("the child did not start")
            if frozen:
                server.freeze()
                _prove_no_answer(server)
            told = child.communicate("\n")[0].split()
        finally:
            server.thaw()
            child.kill()
    longest, idle, calls, breaker, faults, *error = told
    if calls != "100" or (frozen and breaker != "open"):
        raise RuntimeError(f"{which}, frozen {frozen}: {calls} calls, breaker {breaker}, {faults} faults, {error}")
    return _Lag(float(longest), float(idle), int(faults))
