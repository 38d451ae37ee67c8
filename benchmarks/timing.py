"""How things are timed here: interleaved rounds in random order, and medians."""

import gc
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping

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
