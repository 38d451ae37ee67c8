"""Who needs the ledger's file for a moment gets it beside a writer that comes to no end."""

import threading
import time

from llmcache.money import forks
from tests.waiting import until


def test_a_writer_without_end_stands_aside_for_a_moment() -> None:
    """As the log's reader does: without that, answers would count as not cached after a minute of writing."""
    holds, over = threading.Event(), threading.Event()

    def write() -> None:
        while not over.is_set():
            with forks.between():
                holds.set()
                # A cycle, which ends where somebody is due.
                last = time.monotonic() + 30
                while not forks.is_due() and not over.is_set() and time.monotonic() < last:
                    time.sleep(0.001)
            time.sleep(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    entered: list[int] = []

    def read() -> None:
        for number in range(3):
            with forks.a_moment():
                entered.append(number)

    reader = threading.Thread(target=read)
    try:
        assert holds.wait(30)
        reader.start()
        until(lambda: len(entered) == 3, 10)
        assert not forks.is_due()
    finally:
        over.set()
        writer.join(30)
        reader.join(30)
