"""Counts: exact over threads, bounded, and no lock that the garbage collector could meet."""

import subprocess
import sys
import threading

import pytest

from llmcache.engine import counts
from llmcache.engine.counts import BucketKey, Collected, Counts, Sum, Tally

HOUR = 1_700_000_000 // 3_600 * 3_600
HIT = Tally("Person", "openai/m", None, "memory", "hit", b"k" * 32, 1_234_567, 900)


def bucket(tally: Tally, hour: int = HOUR) -> BucketKey:
    return BucketKey(hour, tally.kind, tally.model, tally.tier or "", tally.outcome, tally.tenant)


def in_thread(work: object) -> None:
    thread = threading.Thread(target=work)  # pyright: ignore[reportArgumentType]
    thread.start()
    thread.join()


def test_16_threads_beside_a_collector_are_counted_to_the_last_pico_dollar() -> None:
    """Three million hits, collected without a pause and written off each time."""
    made, each = Counts(), 3_000_000 // 16
    tallies = [Tally("Person", "openai/m", None, "memory", "hit", bytes([n]) * 32, n + 1, n) for n in range(8)]
    written = Collected()
    stop = threading.Event()

    def collect() -> None:
        while not stop.wait(0.001):
            made.collect(HOUR)
            written.merge(made.take_waiting())

    def work() -> None:
        for number in range(each):
            made.count(tallies[number & 7])

    collector = threading.Thread(target=collect)
    threads = [threading.Thread(target=work) for _ in range(16)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in (collector, *threads):
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
        stop.set()
    collector.join()
    made.collect(HOUR)
    written.merge(made.take_waiting())
    of_tally = [16 * len(range(n, each, 8)) for n in range(8)]
    assert written.entries == {
        tally.key: (count, (n + 1) * count) for n, (tally, count) in enumerate(zip(tallies, of_tally, strict=True))
    }
    assert written.buckets == {
        bucket(HIT): Sum(
            16 * each,
            sum((n + 1) * count for n, count in enumerate(of_tally)),
            0,
            sum(n * count for n, count in enumerate(of_tally)),
        )
    }


def test_what_an_outcome_avoids() -> None:
    made = Counts()
    unpriced = Tally("Person", "openai/m", None, "disk", "hit", b"u" * 32, None, 100)
    collapsed = counts.tally_of("Person", "openai/m", "acme", None, "miss")
    for tally in (HIT, HIT, unpriced, collapsed):
        made.count(tally)
    waited = Tally("Person", "openai/m", None, None, "collapsed", b"k" * 32, 5, 900)
    made.count(waited)
    made.collect(HOUR)
    assert made.take_waiting() == Collected(
        {
            bucket(HIT): Sum(2, 2_469_134, 0, 1_800),
            bucket(unpriced): Sum(1, 0, 1, 100),
            bucket(collapsed): Sum(1, 0, 0, 0),
            bucket(waited): Sum(1, 5, 0, 0),
        },
        {b"k" * 32: (3, 2_469_139), b"u" * 32: (1, 0)},
    )


def test_a_thread_that_ended_is_counted_once() -> None:
    made = Counts()
    in_thread(lambda: [made.count(HIT) for _ in range(3)])
    made.collect(HOUR)
    made.collect(HOUR)
    assert made.take_waiting().buckets == {bucket(HIT): Sum(3, 3_703_701, 0, 2_700)}
    assert made.total() == {("Person", "openai/m", "memory", "hit"): 3}


def test_counts_belong_to_the_hour_in_which_they_were_collected() -> None:
    made = Counts()
    made.count(HIT)
    made.collect(HOUR)
    made.count(HIT)
    made.collect(HOUR + 3_600)
    assert [key.hour for key in made.take_waiting().buckets] == [HOUR, HOUR + 3_600]


def test_a_threads_own_counts_are_taken_and_still_count() -> None:
    made, found = Counts(), list[counts.Totals]()
    made.count(HIT)

    def work() -> None:
        made.count(HIT)
        found.append(made.take())
        found.append(made.take())

    in_thread(work)
    assert found == [{HIT: 1}, {}]
    assert made.total() == {("Person", "openai/m", "memory", "hit"): 2}


def test_what_cannot_be_written_waits() -> None:
    made = Counts()
    made.count(HIT)
    made.collect(HOUR)
    taken = made.take_waiting()
    made.count(HIT)
    made.collect(HOUR)
    made.put_back(taken)
    assert made.take_waiting() == Collected({bucket(HIT): Sum(2, 2_469_134, 0, 1_800)}, {b"k" * 32: (2, 2_469_134)})
    assert not made.take_waiting()


def test_hits_of_ever_new_entries_do_not_fill_a_threads_totals() -> None:
    made = Counts()
    for number in range(3 * counts.MAX_TALLIES):
        made.count(Tally("Person", "openai/m", None, "memory", "hit", number.to_bytes(32), 1, 1))
    assert len(made.take()) <= counts.MAX_TALLIES
    assert made.total() == {("Person", "openai/m", "memory", "hit"): 3 * counts.MAX_TALLIES}


def test_more_than_can_wait_is_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "MAX_BUCKETS", 10)
    monkeypatch.setattr(counts, "MAX_ENTRIES", 5)
    made = Collected()
    for number in range(30):
        made.add(Tally(f"kind {number}", "m", f"tenant {number}", None, "hit", bytes([number]), 1, 1), 1, HOUR)
    assert len(made.buckets) == 11
    assert sum(each.avoided for each in made.buckets.values()) == 30
    assert made.buckets[BucketKey(HOUR, counts.OTHER, counts.OTHER, "", "hit", None)].count == 20
    assert len(made.entries) == 5


CHILD = """
import gc, threading
from llmcache.engine.counts import Counts, Tally

made = Counts()

class Cycle:
    def __init__(self):
        self.me = self

def work():
    Cycle()
    for number in range(200):
        made.count(Tally(f"kind {number}", "m", None, None, "miss"))
    threading.current_thread().cycle = Cycle()

gc.set_threshold(1)
for _ in range(60):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    thread.me = thread
    del thread
    made.total()
gc.collect()
print(sum(made.total().values()))
"""


def test_a_thread_collected_while_the_lock_is_held_does_not_hang() -> None:
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "12000"), done.stderr
