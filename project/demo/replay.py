"""The log, run through ``llmcache.extract`` in a pool of threads.

A latency is the time of the call alone. What a call was is learnt from the thread's own counts, taken before and after
it, outside of the time that is measured.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import llmcache
from llmcache.engine import process
from llmcache.engine.counts import Totals
from project.demo.data import Request
from project.demo.types import Ingredient

MOST_ERRORS: Final = 20
"""A provider that has failed this often will fail again, after all its retries: the run ends."""
_PROGRESS_SECONDS: Final = 0.1

T = TypeVar("T")


@dataclass
class Replayed:
    """What came of the requests that were made."""

    requests: int = 0
    """How many were made, whatever came of them."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """How many calls were answered by each tier, and how many were ``collapsed``, ``miss`` or ``error``."""
    latencies_ns: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """By outcome; errors have none."""
    unlike_gold: list[str] = field(default_factory=list)
    """Ids of texts whose value differs from their gold."""
    errors: list[str] = field(default_factory=list)
    """Messages; they hold no text of a request."""
    seconds: float = 0.0
    interrupted: bool = False

    def add(self, other: Replayed) -> None:
        """Add what another thread did."""
        self.requests += other.requests
        self.outcomes += other.outcomes
        for outcome, samples in other.latencies_ns.items():
            self.latencies_ns[outcome] += samples
        self.unlike_gold += other.unlike_gold
        self.errors += other.errors


@dataclass(frozen=True, slots=True)
class Timed(Generic[T]):
    """A call's value, what the call was, and how long it took."""

    value: T
    outcome: str
    """The tier of a hit, or the outcome of what was none."""
    nanoseconds: int


def timed(extract: Callable[[str, type[T]], T], text: str, response_model: type[T]) -> Timed[T]:
    """Make one call of ``extract`` and time it. Raises what it raises.

    Taking a thread's counts also makes them those of the hour that is running, so that a made-up time, which passes
    an hour in some milliseconds, has each call in its own.
    """
    process.current().counts.take()
    began = time.perf_counter_ns()
    value = extract(text, response_model)
    took = time.perf_counter_ns() - began
    return Timed(value, _outcome(process.current().counts.take()), took)


class _Pool:
    """Threads that take the requests in their order."""

    def __init__(
        self, log: list[Request], threads: int, on_request: Callable[[Request], object], *, separate_tenants: bool
    ) -> None:
        self._requests = iter(log)
        self._on_request = on_request
        self._lock = threading.Lock()
        self.stop = threading.Event()
        self.interrupted = False
        self.parts = [Replayed() for _ in range(threads)]
        tenants = {request.tenant for request in log} if separate_tenants else set[str]()
        self._extractors = {tenant: llmcache.Extractor(tenant=tenant) for tenant in tenants}

    def work(self, part: Replayed) -> None:
        try:
            for request in self._taken():
                self._ask(request, part)
        except BaseException:
            self.stop.set()
            raise

    def _taken(self) -> Iterator[Request]:
        while not self.stop.is_set():
            with self._lock:
                request = next(self._requests, None)
                if request is None:
                    return
                self._on_request(request)
            yield request

    def _ask(self, request: Request, part: Replayed) -> None:
        extractor = self._extractors.get(request.tenant)
        extract = llmcache.extract if extractor is None else extractor.extract
        try:
            call = timed(extract, request.text, Ingredient)
        except llmcache.LLMCacheError as error:
            self._failed(error, part)
            return
        self._count(call.outcome, part)
        part.latencies_ns[call.outcome].append(call.nanoseconds)
        if call.value != request.gold:
            part.unlike_gold.append(request.text_id)

    def _count(self, outcome: str, part: Replayed) -> None:
        part.requests += 1
        part.outcomes[outcome] += 1

    def _failed(self, error: llmcache.LLMCacheError, part: Replayed) -> None:
        if self.interrupted:
            return  # the interrupt may have ended the provider's process too
        self._count("error", part)
        part.errors.append(f"{error.code}: {error}")
        if sum(len(each.errors) for each in self.parts) >= MOST_ERRORS:
            self.stop.set()


def replay(
    log: list[Request],
    *,
    threads: int,
    separate_tenants: bool,
    on_request: Callable[[Request], object],
    on_progress: Callable[[int], object],
) -> Replayed:
    """Make the requests and return what came of them; ``on_progress`` is told now and then how many are done.

    ``on_request`` is told each request before it is made, in their order and one at a time. Ctrl-C ends it after the
    calls under way. So do ``MOST_ERRORS`` errors.
    """
    pool = _Pool(log, threads, on_request, separate_tenants=separate_tenants)
    total = Replayed()
    began = time.perf_counter()
    with ThreadPoolExecutor(threads, thread_name_prefix="demo") as executor:
        working: list[Future[None]] = []
        try:
            working += [executor.submit(pool.work, part) for part in pool.parts]
            _watch(working, pool, on_progress)
        except KeyboardInterrupt:
            total.interrupted = pool.interrupted = True
        finally:
            pool.stop.set()  # or the executor would wait for the whole log
    for thread in working:
        thread.result()
    for part in pool.parts:
        total.add(part)
    total.seconds = time.perf_counter() - began
    on_progress(total.requests)
    return total


def _watch(working: list[Future[None]], pool: _Pool, on_progress: Callable[[int], object]) -> None:
    while wait(working, timeout=_PROGRESS_SECONDS).not_done:
        on_progress(sum(part.requests for part in pool.parts))


def _outcome(counted: Totals) -> str:
    for tally in counted:
        return tally.tier if tally.outcome == "hit" and tally.tier is not None else tally.outcome
    raise LookupError("the call was not counted")
