"""Counts: exact over threads, bounded, and no lock that the garbage collector could meet."""

import subprocess
import sys
import threading

from llmcache.engine import counts

KEY = ("Person", "openai/m", "memory", "hit")


def grown(before: counts.Totals) -> counts.Totals:
    return {key: value - before.get(key, 0) for key, value in counts.total().items() if value != before.get(key, 0)}


def test_16_threads_are_counted_to_the_last_one() -> None:
    before = counts.total()

    def work() -> None:
        for _ in range(5_000):
            counts.count(KEY)

    threads = [threading.Thread(target=work) for _ in range(16)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            assert grown(before).get(KEY, 0) <= 80_000
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    del threads, thread
    assert grown(before) == {KEY: 80_000}


def test_a_threads_own_counts_are_its_own() -> None:
    found: list[counts.Totals] = []

    def work() -> None:
        counts.count(KEY)
        found.append(counts.this_thread())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [{KEY: 1}]


def test_more_keys_than_can_be_told_apart_are_counted_together() -> None:
    found: list[counts.Totals] = []

    def work() -> None:
        for number in range(counts.MAX_KEYS + 100):
            counts.count((f"kind {number}", "m", None, "miss"))
        found.append(counts.this_thread())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    (totals,) = found
    assert totals[(counts.OTHER, counts.OTHER, None, "miss")] == 100
    assert sum(totals.values()) == counts.MAX_KEYS + 100


PROGRAM = """
import faulthandler, gc, threading
from llmcache.engine import counts
faulthandler.dump_traceback_later(20, exit=True)
class Worker(threading.Thread):
    def run(self):
        for number in range(50):
            counts.count((f"kind {number}", "m", None, "miss"))
        self.me = self  # a cycle: only the collector ends it, at any allocation in any thread
gc.set_threshold(5)
for _ in range(200):
    worker = Worker()
    worker.start()
    worker.join()
    del worker
    counts.total()
gc.collect()
print(sum(counts.total().values()))
"""


def test_the_collector_may_end_a_thread_at_any_moment() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "10000"
