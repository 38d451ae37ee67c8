"""The invalidation log with 100,000 rows: what a hit takes, what reading it takes, and how often it is asked for."""

import gc
import itertools
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, Final

from django.conf import settings
from django.core.management import call_command
from django.db import connections
from django.utils import timezone

import llmcache
from benchmarks.filling import _insert
from benchmarks.hits import SMALL, SMALL_TEXT, Small, _point_to
from benchmarks.timing import ratio
from llmcache.engine import process
from llmcache.engine.log import OVERLAP, Log
from llmcache.engine.log_copy import State
from llmcache.invalidation_rows import InvalidationRows
from llmcache.models import CacheEntry, EntryTag, Invalidation
from llmcache.testing.sandbox import Sandbox
from tests.ledgers import ALIAS, known
from tests.services import Postgres

# Briefly: whether it works, and no figures.
_BRIEF: Final = bool(os.environ.get("LLMCACHE_BENCH_BRIEFLY"))
_ROWS, _ENTRIES, _HITS, _ROUNDS = (2_000, 2_000, 10, 1) if _BRIEF else (100_000, 500_000, 2_000, 41)
_REQUESTS: Final = 1_000 if _BRIEF else 20_000
_FASTER: Final = 100
"""How much faster than its own pace the log of requests is replayed where a thread waits."""

_MEMORY = """
import gc, os, sys, time, tracemalloc
import django
django.setup()
from django.db import connection
from benchmarks.million import rss
from llmcache.engine.log import Log
from llmcache.invalidation_rows import InvalidationRows
log = Log(InvalidationRows("default", "empty"), None, time.monotonic, recheck=1.0, grace=60.0, thread=False)
assert log.read_now()
log = Log(InvalidationRows("default", "many"), None, time.monotonic, recheck=1.0, grace=60.0, thread=False)
gc.collect()
taken = rss
if sys.argv[1] == "tracemalloc":
    tracemalloc.start()
    taken = lambda: tracemalloc.get_traced_memory()[0]
before = taken()
assert log.read_now()
gc.collect()
print(taken() - before, tracemalloc.get_traced_memory()[1], log.shared.state.rows)
"""


def report() -> Iterator[str]:
    """Yield the lines of the report."""
    for namespace in ("many", "matching"):
        _fill("default", namespace)
    with Sandbox(answers={SMALL_TEXT: SMALL}) as provider:
        _point_to(provider.base_url)
        yield from _hits(provider)
    yield from _memory()
    yield from _database("SQLite", "default")
    with closing(Postgres()) as server, known(server.database("log")):
        call_command("migrate", "llmcache", database=ALIAS, verbosity=0)
        _fill(ALIAS, "many")
        yield from _database("PostgreSQL (without fsync)", ALIAS)
    yield from _polls()


# -- rows


def _fill(using: str, namespace: str) -> None:
    """Write rows that are about other calls than those that are made here: half of them name a tag, others a key."""
    uid = f"md5('{namespace}' || n)"
    key = "md5(n || 'a') || md5(n || 'b')"
    if connections[using].vendor == "sqlite":
        uid, key = "lower(hex(randomblob(16)))", "lower(hex(randomblob(32)))"
    columns = {
        "uid": uid,
        "namespace": f"'{namespace}'",
        "made_at": "CURRENT_TIMESTAMP",
        "tag": "CASE WHEN n % 2 = 0 THEN 'tag-' || n ELSE '' END",
        "tenant": "CASE WHEN n % 4 = 1 THEN 'tenant-' || n ELSE '' END",
        "kind": "CASE WHEN n % 4 = 1 THEN 'kind' || n % 12 ELSE '' END",
        "key": f"CASE WHEN n % 4 = 3 THEN {key} ELSE '' END",
    }
    _insert(using, Invalidation, columns, _numbers(_ROWS))


def _numbers(count: int) -> str:
    return (
        f"(WITH RECURSIVE each(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM each WHERE n < {count})"
        " SELECT n FROM each) AS numbers"
    )


def _add(using: str, namespace: str, count: int, **columns: str) -> list[Invalidation]:
    made = [
        Invalidation(uid=os.urandom(16).hex(), namespace=namespace, made_at=timezone.now(), **columns)
        for _ in range(count)
    ]
    for row in made:
        row.save(using=using, force_insert=True)
    return made


def _log(using: str, namespace: str, *, thread: bool = False) -> Log:
    return Log(InvalidationRows(using, namespace), None, time.monotonic, recheck=1.0, grace=60.0, thread=thread)


# -- hits


def _hits(provider: Sandbox) -> Iterator[str]:
    for columns in ({"kind": "Small"}, {"response_type": "Small"}, {"model": "openai/gpt-5-mini", "kind": "Small"}):
        _add("default", "matching", 1, **columns)
    now = process.current()
    own = now.log
    logs = {
        "no row": _log("default", "empty", thread=True),
        f"{_ROWS:,} rows about others": _log("default", "many", thread=True),
        "… and three about this call, seen": _log("default", "matching", thread=True),
    }
    numbers = itertools.count(-2, -1)

    def hit(log: Log, changes: int) -> Callable[[], None]:
        def work() -> None:
            now.log = log
            for _ in range(changes or _HITS):
                if changes:
                    log.epoch = next(numbers)
                llmcache.extract(SMALL_TEXT, Small)

        return work

    try:
        for log in logs.values():
            assert log.read_now()
        # Made with the log that has rows about it, it has seen them.
        *_, now.log = logs.values()
        llmcache.extract(SMALL_TEXT, Small)
        seen = llmcache.extract_with_info(SMALL_TEXT, Small)
        assert (seen.outcome, seen.tier) == ("hit", now.tiers.names[0])
        asked = provider.received
        for title, changes in (("Hit in memory, small", 0), ("… the first after each change of the log", 200)):
            found = _worked({name: hit(log, changes) for name, log in logs.items()}, changes or _HITS)
            yield title + ("; target 1.00 to 1.05 x" if not changes else "") + "; processor time, the least"
            least = min(found["no row"])
            for name, figures in found.items():
                middle = f"median of ratios {ratio(found, name, 'no row'):.3f}"
                yield f"  {name:<36} {min(figures):7.3f} µs  {min(figures) / least:6.3f} x   {middle}"
        assert provider.received == asked
        yield ""
    finally:
        now.log = own
        for log in logs.values():
            log.close()


def _worked(works: dict[str, Callable[[], None]], number: int) -> dict[str, list[float]]:
    """Return microseconds of this thread for each call, a figure for each round; the order of a round is random.

    Time of the processor: it leaves out what others on the machine do, and the thread that reads the log meanwhile.
    """
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(_ROUNDS):
        gc.collect()
        for name in random.sample(list(works), len(works)):
            began = time.thread_time()
            works[name]()
            found[name].append((time.thread_time() - began) / number * 1e6)
    return found


# -- reading


def _memory() -> Iterator[str]:
    yield f"Memory for {_ROWS:,} rows; target 100 MB"
    for how, what in (("rss", "resident memory"), ("tracemalloc", "what Python has allocated")):
        command = [sys.executable, "-c", _MEMORY, how]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        kept, peak, rows = map(int, done.stdout.split())
        assert rows == _ROWS
        most = f"   while reading {peak / 2**20:.0f} MB" if peak else ""
        yield f"  {what:<40} {kept / 2**20:7.1f} MB{most}"
    yield ""


def _database(name: str, using: str) -> Iterator[str]:
    rows = InvalidationRows(using, "many")
    if connections[using].vendor == "postgresql":
        with connections[using].cursor() as cursor:
            cursor.execute("VACUUM ANALYZE llmcache_invalidation")
    yield f"{name}: {_ROWS:,} rows in the log"
    log = _log(using, "many")

    def all_rows() -> None:
        nonlocal log
        log = _log(using, "many")
        assert log.read_now()

    yield _line("read by a process that begins", _times(all_rows, 5), 1_000)
    assert log.shared.state.rows == _ROWS
    yield _line("… the three numbers alone: has anything changed", _times(rows.state, 20), None)
    yield f"    {_plan(using)}"
    whole, read = list[_Took](), list[_Took]()
    for _ in range(1 if _BRIEF else 15):
        new = _add(using, "many", 10, tag="new")
        Invalidation.objects.using(using).filter(pk=new[3].pk).update(active=False)
        whole += _times(lambda: log.read_now(), 1)
        assert log.shared.state == rows.state()
        _add(using, "many", 10, tag="new")
        read += _times(partial(_read_new, rows, rows.state().highest - 10), 1)
        assert log.read_now()
    yield _line("ten new rows and an undo: reading them", read, 5)
    yield _line("… with the three numbers, and taken in", whole, None)
    yield from _invalidate(using)
    yield ""


def _read_new(rows: InvalidationRows, known: int) -> None:
    assert len(rows.rows(known - OVERLAP)) >= 10
    assert rows.rows(undone=True)


_Took = tuple[float, float]
"""Milliseconds that passed, and those in which this process had a processor."""


def _times(work: Callable[[], object], count: int) -> list[_Took]:
    found = list[_Took]()
    for _ in range(1 if _BRIEF else count):
        gc.collect()
        began, worked = time.perf_counter(), time.process_time()
        work()
        found.append(((time.perf_counter() - began) * 1e3, (time.process_time() - worked) * 1e3))
    return found


def _line(what: str, found: list[_Took], target: float | None) -> str:
    passed, worked = zip(*found, strict=True)
    times = f"{statistics.median(passed):8.2f} ms ({min(passed):.2f} to {max(passed):.2f})"
    line = f"  {what:<50} {times:<36} processor here {statistics.median(worked):7.2f} ms"
    return line if target is None else f"{line}   target {target:g} ms"


def _plan(using: str) -> str:
    """Return how the database finds the three numbers."""
    connection = connections[using]
    with _said(using) as statements:
        InvalidationRows(using, "many").state()
    with connection.cursor() as cursor:
        cursor.execute(("EXPLAIN QUERY PLAN " if connection.vendor == "sqlite" else "EXPLAIN ") + statements[-1])
        lines = [str(row[-1]).strip() for row in cursor.fetchall()]
    return next(line for line in lines if "llmcache_invalidation" in line)


@contextmanager
def _said(using: str) -> Iterator[list[str]]:
    """Give the statements that are made."""
    from django.test.utils import CaptureQueriesContext

    statements = list[str]()
    with CaptureQueriesContext(connections[using]) as captured:
        yield statements
    statements += [each["sql"] for each in captured.captured_queries]


def _invalidate(using: str) -> Iterator[str]:
    """Yield how long it takes to invalidate a tag that no entry has, and one that very many have."""
    settings.LLMCACHE.update(DATABASE=using, NAMESPACE="many")
    try:
        process.install(None)
        assert process.current().log.read_now()
        found = _times(lambda: llmcache.invalidate(tag="held"), 30)
        yield _line("invalidate(tag=…), no entry in the ledger", found, 50)
        # Ends the thread that reads: so large a transaction locks SQLite for some seconds.
        process.install(None)
        _enter(using)
        assert process.current().log.read_now()
        with _said(using) as statements:
            found = _times(lambda: llmcache.invalidate(tag="held"), 30)
        yield _line(f"… {_ENTRIES:,} entries that carry it", found, 50)
        yield f"    {len(statements) / len(found):g} statements each"
        found = _times(lambda: llmcache.invalidate(tag="held", dry_run=True), 3)
        yield _line("… how many that would be: dry_run=True", found, None)
    finally:
        del settings.LLMCACHE["DATABASE"], settings.LLMCACHE["NAMESPACE"]
        process.install(None)


def _enter(using: str) -> None:
    entry = {
        "namespace": "'many'",
        "key": "'entry ' || n",
        "kind": "'Small'",
        "response_type": "'Small'",
        "model": "'openai/gpt-5-mini'",
        "tags": "'[\"held\"]'",
        "written_at": "CURRENT_TIMESTAMP",
        "size_bytes": "700",
        "latency_ms": "900",
        "attempts": "1",
        "cost_pico_usd": "1000000",
    }
    _insert(using, CacheEntry, entry, _numbers(_ENTRIES))
    _insert(using, EntryTag, {"entry_id": "e.id", "tag": "'held'"}, "llmcache_cacheentry e")


# -- how often it is asked for


class _Board:
    """A board as a Redis is one for a single process; counts the commands that would be sent."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.commands = 0
        self._clock = clock
        self._state: State | None = None
        self._until = 0.0

    def get(self) -> State | None:
        self.commands += 1
        return self._state if self._clock() < self._until else None

    def offer(self, state: State, seconds: float) -> None:
        self.commands += 1
        if self._clock() >= self._until:
            self._state, self._until = state, self._clock() + seconds

    def drop(self) -> None:
        self.commands += 1
        self._until = 0.0


class _Empty:
    """The log's rows: none; counts how often they are asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def state(self) -> State:
        self.asked += 1
        return State(0, 0, 0)

    def rows(self, above: int = 0, *, undone: bool = False) -> list[Any]:
        raise AssertionError(f"nothing is new: {above}, {undone}")

    @contextmanager
    def reading(self) -> Iterator[None]:
        yield

    def close(self) -> None:
        pass


def _polls() -> Iterator[str]:
    from project.demo.data import read_log

    requests = read_log(_REQUESTS)
    arrivals = [(request.at_ms / 1e3, request.text) for request in requests]
    seconds = arrivals[-1][0]
    hits = len(arrivals) - len({text for _, text in arrivals})
    pace = f"{len(arrivals):,} in {seconds:,.0f} s, {hits:,} of them memory hits"
    yield f"The log of requests at its own pace in one process: {pace}"
    for shared in (True, False):
        where = "over Redis" if shared else "over the database alone"
        yield _polled(f"{where}, the thread reads", _with_thread(arrivals, shared), hits, seconds)
        yield _polled(f"{where}, each call reads for itself", _by_calls(arrivals, shared), hits, seconds)
    yield "  target 0.02 commands of tiers for each memory hit"
    yield ""


def _polled(how: str, counted: tuple[int, int], hits: int, seconds: float) -> str:
    commands, statements = counted
    each = f"{commands / hits:6.3f} commands of tiers and {statements / hits:6.3f} statements for each memory hit"
    return f"  {how:<50} {each}   {commands / seconds:.2f} and {statements / seconds:.2f} a second"


def _by_calls(arrivals: list[tuple[float, str]], shared: bool) -> tuple[int, int]:
    """Return the commands and statements on a clock that says when each request arrived."""
    now = 0.0
    rows, board = _Empty(), _Board(lambda: now)
    log = Log(rows, board if shared else None, lambda: now, recheck=1.0, grace=60.0, thread=False)
    for now, _ in arrivals:  # noqa: B007  # the clock reads it
        assert log.confirm()
    return board.commands, rows.asked


def _with_thread(arrivals: list[tuple[float, str]], shared: bool) -> tuple[int, int]:
    """Return them with the thread that reads, which waits by the real clock: all goes a hundred times as fast."""
    rows, board = _Empty(), _Board(time.monotonic)
    log = Log(rows, board if shared else None, time.monotonic, recheck=1 / _FASTER, grace=60.0, thread=True)
    with closing(log):
        began = time.monotonic()
        for at, _ in arrivals:
            time.sleep(max(0.0, began + at / _FASTER - time.monotonic()))
            assert log.confirm()
    return board.commands, rows.asked
