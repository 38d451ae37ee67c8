"""How things are timed here: interleaved rounds in random order, and medians."""

import asyncio
import gc
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Self

Work = Callable[[], object]


def interleaved(works: Mapping[str, Work], *, number: int, rounds: int = 9) -> dict[str, list[float]]:
    """Return microseconds a call of each work, a figure for each round; the order of a round is random."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name in random.sample(list(works), len(works)):
            work = works[name]
            gc.collect()
            began = time.perf_counter()
            for _ in range(number):
                work()
            found[name].append((time.perf_counter() - began) / number * 1e6)
    return found


def ratio(found: Mapping[str, list[float]], name: str, floor: str) -> float:
    """Return the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(found[name], found[floor], strict=True))


def rate(work: Work, threads: int, seconds: float) -> float:
    """Return calls a second of all threads together."""
    counts = [0] * threads
    start, over = threading.Barrier(threads + 1), threading.Event()

    def turn(number: int) -> None:
        start.wait()
        done = 0
        while not over.is_set():
            for _ in range(50):
                work()
            done += 50
        counts[number] = done

    pool = [threading.Thread(target=turn, args=(number,)) for number in range(threads)]
    for thread in pool:
        thread.start()
    start.wait()
    began = time.perf_counter()
    time.sleep(seconds)
    over.set()
    for thread in pool:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


def table(rows: Mapping[str, list[float]], floor: str, unit: str = "µs") -> Iterator[str]:
    """Yield a line for each row: median, and the ratio to the floor's row."""
    width = max(map(len, rows))
    for name, figures in rows.items():
        middle = statistics.median(figures)
        yield f"  {name:<{width}}  {middle:9.2f} {unit}  {ratio(rows, name, floor):6.2f} x"


class Ticker:
    """A task that ticks each millisecond in an ``async with`` block, and tells for how long its loop stood still."""

    async def __aenter__(self) -> Self:
        self._last, self._longest = time.perf_counter(), 0.0
        self._task = asyncio.create_task(self._ticking())
        await asyncio.sleep(0.1)
        self._longest = 0.0
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    def longest_ms(self) -> float:
        """Return the longest time between two ticks since this was last asked, the running one included."""
        self._tick()
        longest, self._longest = self._longest, 0.0
        return longest * 1e3

    async def _ticking(self) -> None:
        while True:
            self._tick()
            await asyncio.sleep(0.001)

    def _tick(self) -> None:
        now = time.perf_counter()
        self._longest, self._last = max(self._longest, now - self._last), now
