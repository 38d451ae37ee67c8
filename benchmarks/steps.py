"""Where the time of a hit goes: each of its steps by itself, with the objects of a real one, beside the whole.

Processor time, the least of many short rounds in random order: what others do on the machine slows a round down and
never makes it faster. What the steps do not explain is the way from one function to the next, and that a step by itself
finds in the processor's caches what it left there.
"""

import gc
import os
import random
import time
from asyncio import _get_running_loop as running_loop
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, Final, NamedTuple

from django.conf import settings
from django.core.cache import caches
from pydantic import BaseModel

import llmcache
from benchmarks.hits import LARGE, LARGE_TEXT, SMALL, SMALL_TEXT, WITH_OPTIONS, Large, Small, _point_to
from llmcache import envelope
from llmcache.bypassing import is_bypassed
from llmcache.engine import process
from llmcache.engine.runtime import Runtime
from llmcache.prepared import Prepared, tagged
from llmcache.request import NOT_GIVEN, OPTIONS
from llmcache.testing.sandbox import Sandbox
from llmcache.tiers import disk, redis_tier
from tests.cache_servers import RedisServer

# Briefly: whether it works, and no figures.
_TURNS, _ROUNDS = (1, 1) if os.environ.get("LLMCACHE_BENCH_BRIEFLY") else (10, 20)
_ROUND_SECONDS: Final = 0.001
_NOTHING: Final = "a call that does nothing"
_WHOLE: Final = "the whole hit"
_REST: Final = "the rest: from one function to the next, and caches"
_COMPARED: Final = "compared: the time, the log of invalidations"
_ROUND_IT: Final = "round it: the alias's prefix, health, last use"

Work = Callable[[], object]
Steps = dict[str, Work]
"""In their order; the last is the whole. What is round a step comes after it."""

_made: dict[str, Any] = {"NOT_GIVEN": NOT_GIVEN}
_takes = ", ".join(f"{name}=NOT_GIVEN" for name in OPTIONS)
exec(f"def bind(self, content, response_model, *, {_takes}, **params): return {', '.join(OPTIONS)}", _made)
_bind: Callable[..., object] = _made["bind"]
"""Takes what ``extract`` takes, and does with it what comes first: it puts the options together."""


class _Case(NamedTuple):
    """A call that is a hit."""

    name: str
    text: str
    model: type[BaseModel]
    given: dict[str, Any] = {}  # noqa: RUF012  # nobody changes it


_CASES: Final = (
    _Case("small", SMALL_TEXT, Small),
    _Case("five options", SMALL_TEXT, Small, WITH_OPTIONS),
    _Case("large", LARGE_TEXT, Large),
)


class _Hit:
    """A case with the objects that its hit meets."""

    def __init__(self, case: _Case) -> None:
        self.case = case
        self.now: Runtime = process.current()
        params = dict(case.given)
        options = tuple(params.pop(name, NOT_GIVEN) for name in OPTIONS)
        self.whole()
        info = llmcache.extract_with_info(case.text, case.model, **case.given)
        assert (info.outcome, info.tier) == ("hit", self.now.tiers.names[0])
        self.sought = case.model, options, params
        found = self.now.prepared.get(tagged(*self.sought))
        assert found is not None
        self.prepared: Prepared = found
        self.data = case.text.encode()
        self.key = self.hash()

    def whole(self) -> object:
        """Make the call."""
        return llmcache.extract(self.case.text, self.case.model, **self.case.given)

    def bind(self) -> object:
        """Pass the arguments."""
        return _bind(self, self.case.text, self.case.model, **self.case.given)

    def here(self) -> object:
        """Do what comes first: is a loop running, the process's runtime, its tenancy."""
        running_loop()
        return process.current().tenancy

    def find(self) -> object:
        """Find what was prepared."""
        return self.now.prepared.get(tagged(*self.sought))

    def encode(self) -> bool:
        """Encode the text and look at its length."""
        return 0 < len(self.case.text.encode()) <= self.now.max_text_bytes

    def hash(self) -> bytes:
        """Make the key."""
        state = self.prepared.state.copy()
        state.update(self.data)
        return state.digest()

    def up_to_the_key(self) -> object:
        """Do all of these."""
        self.bind()
        self.here()
        self.find()
        is_bypassed()
        self.prepared.current()
        self.encode()
        return self.hash()


def report() -> Iterator[str]:
    """Yield the lines of the report."""
    with closing(RedisServer()) as server, Sandbox(answers={SMALL_TEXT: SMALL, LARGE_TEXT: LARGE}) as provider:
        os.environ["OPENAI_BASE_URL"] = provider.base_url
        _point_to(provider.base_url)
        small, _, large = _CASES
        yield from _table("memory", {case.name: _in_memory(_Hit(case)) for case in _CASES})
        with _only("llm-disk"):
            yield from _table("disk", {case.name: _on_disk(_Hit(case)) for case in (small, large)})
        with _only("llm-redis", f"redis://127.0.0.1:{server.port}/0"):
            yield from _table("Redis", {case.name: _in_redis(_Hit(case)) for case in (small, large)})


@contextmanager
def _only(alias: str, location: str | None = None) -> Iterator[None]:
    """Let an alias be the only tier, at another place if one is given."""
    before = caches.settings[alias]["LOCATION"]
    caches.settings[alias]["LOCATION"] = location or before
    settings.LLMCACHE["TIERS"] = [alias]
    process.install(None)
    try:
        yield
    finally:
        del settings.LLMCACHE["TIERS"]
        caches.settings[alias]["LOCATION"] = before
        process.install(None)


def _in_memory(hit: _Hit) -> Steps:
    now, key, prepared = hit.now, hit.key, hit.prepared
    memory = now.memory
    assert memory is not None
    held = memory.get(key)
    assert held is not None

    def is_fresh() -> bool:
        clock, log = now.monotonic(), now.log
        if clock >= log.good_until or held.epoch != log.epoch:
            return False
        return clock < held.expires and clock - held.written < prepared.max_age

    return {
        "its keyword arguments, made one tuple": hit.bind,
        "is a loop running, the process's runtime, its tenants": hit.here,
        "what was prepared for these arguments": hit.find,
        "is the cache bypassed; is the type still as it was": lambda: (is_bypassed(), prepared.current()),
        "the text as bytes, its length": hit.encode,
        "the key: state of the hash copied, text hashed": hit.hash,
        "one look-up in memory": lambda: memory.get(key),
        _COMPARED: is_fresh,
        "validation": lambda: prepared.validate(held.answer),
        "one count": lambda: now.counts.count(held.tally or prepared.tally(held)),
        _WHOLE: hit.whole,
    }


def _on_disk(hit: _Hit) -> Steps:
    (tier,) = hit.now.tiers.below
    assert isinstance(tier, disk.DiskTier)
    place = tier._key(hit.now.tiers._name(hit.key))
    connection = tier._store._file.connection()
    return _below(hit, "SELECT, on this thread's connection", lambda: connection.row(disk._GET, (place, time.time())))


def _in_redis(hit: _Hit) -> Steps:
    (tier,) = hit.now.tiers.below
    assert isinstance(tier, redis_tier.RedisTier)
    server, place = tier._place(hit.now.tiers._name(hit.key))
    return _below(hit, "GET: a connection, the command, the reply", lambda: redis_tier._ask(server, "GET", place))


def _below(hit: _Hit, what_is_read: str, read: Work) -> Steps:
    """Return the steps of a hit in another tier than memory."""
    now, key, prepared = hit.now, hit.key, hit.prepared
    (tier,) = now.tiers.below
    name = now.tiers._name(key)
    data = tier.get(name)
    opened = envelope.opened(data, key)
    assert opened is not None

    def is_fresh() -> bool:
        if now.monotonic() >= now.log.good_until or prepared.free_at != now.log.epoch:
            return False
        clock = now.clock.wall()
        return clock < opened[2] and -60.0 <= clock - opened[1] < prepared.max_age

    return {
        "as in memory, up to the key": hit.up_to_the_key,
        "its name in every tier": lambda: now.tiers._name(key),
        what_is_read: read,
        _ROUND_IT: lambda: tier.get(name),
        "the envelope: compared, CRC-32, the answer cut out": lambda: envelope.opened(data, key),
        _COMPARED: is_fresh,
        "validation": lambda: prepared.validate(opened[0]),
        "one count": lambda: now.counts.count(prepared.tally_opened(key, opened, tier.name)),
        _WHOLE: hit.whole,
    }


def _measured(columns: dict[str, Steps]) -> dict[str, dict[str, float]]:
    """Return microseconds of processor time of each step of each column, and of what they leave of the whole."""
    works = {name: {_NOTHING: lambda: None, **steps} for name, steps in columns.items()}
    taken = {name: dict.fromkeys(steps, float("inf")) for name, steps in works.items()}
    # In turns, for the machine may be slow for seconds; not call by call, for the caches are part of what is measured.
    for _ in range(_TURNS):
        for name, steps in works.items():
            _take_turn(steps, taken[name])
    return {name: _parts(figures) for name, figures in taken.items()}


def _parts(taken: dict[str, float]) -> dict[str, float]:
    """Return what each step takes without the one within it, and what is left of the whole."""
    nothing = taken.pop(_NOTHING)
    taken = {step: figure - nothing for step, figure in taken.items()}
    if _ROUND_IT in taken:
        rows = list(taken)
        taken[_ROUND_IT] -= taken[rows[rows.index(_ROUND_IT) - 1]]
    whole = taken.pop(_WHOLE)
    return {**taken, _REST: whole - sum(taken.values()), _WHOLE: whole}


def _take_turn(works: Steps, least: dict[str, float]) -> None:
    """Bring the least microseconds of processor time a call up to date."""
    numbers = {name: _number(work) for name, work in works.items()}
    gc.collect()
    for _ in range(_ROUNDS):
        for name in random.sample(list(works), len(works)):
            least[name] = min(least[name], _timed(works[name], numbers[name]))


def _number(work: Work) -> int:
    """Return how many calls make a round."""
    _timed(work, 50)
    return max(1, int(_ROUND_SECONDS * 1e6 / _timed(work, 50)))


def _timed(work: Work, number: int) -> float:
    began = time.process_time()
    for _ in range(number):
        work()
    return (time.process_time() - began) / number * 1e6


def _table(where: str, steps: dict[str, Steps]) -> Iterator[str]:
    columns = _measured(steps)
    rows = list(next(iter(columns.values())))
    width = max(map(len, rows))
    yield f"Where the time of a hit goes: {where} (processor time, the least of {_TURNS * _ROUNDS} rounds)"
    yield f"  {'':<{width}}" + "".join(f"  {name:>17}" for name in columns)
    for row in rows:
        cells = ((column[row], column[row] / column[_WHOLE]) for column in columns.values())
        yield f"  {row:<{width}}" + "".join(f"  {taken:8.2f} µs {share:4.0%} " for taken, share in cells)
    yield ""
