"""A breaker: closed again by a thread that asks, one for the process, and only while there is something to ask."""

import gc
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from llmcache.tiers import breaker
from llmcache.tiers.base import Health
from llmcache.tiers.breaker import Breaker, is_refused
from tests.waiting import until

_DEADLINE = 30.0
WHY = "cannot be reached: ConnectionRefusedError: nobody."


class Store:
    """What is probed."""

    def __init__(self) -> None:
        self.works = False
        self.asked = 0
        self.raises: Exception | None = None

    def probe(self) -> bool:
        self.asked += 1
        if self.raises is not None and not self.works:
            raise self.raises
        return self.works


def probers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "llmcache-probe"]


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Begin and end without anything that is left alone."""
    gc.collect()
    for each in list(breaker._open):
        each.retire()
    until(lambda: probers() == [])
    yield
    for each in list(breaker._open):
        each.retire()
    until(lambda: probers() == [])


def test_it_is_closed_when_the_store_answers_and_the_thread_ends(caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    made = Breaker("shared", store.probe)
    assert (made.is_open, probers()) == (False, [])
    with caplog.at_level("INFO", logger="llmcache.tiers"):
        for _ in range(3):
            made.trip(ConnectionRefusedError("nobody\nis there"))
        assert made.is_open
        until(lambda: store.asked >= 2)
        store.raises = OSError("still nobody")
        until(lambda: store.asked >= 4)
        assert made.is_open
        store.works = True
        until(lambda: not made.is_open)
        until(lambda: probers() == [])
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", f"The tier 'shared' {WHY} Calls go on without it until it answers."),
        ("INFO", "The tier 'shared' can be reached again."),
    ]


def test_one_thread_asks_for_all() -> None:
    stores = [Store() for _ in range(5)]
    made = [Breaker("shared", store.probe) for store in stores]
    together = threading.Barrier(len(made))

    def trip(each: Breaker) -> None:
        together.wait(_DEADLINE)
        each.trip(OSError("down"))

    threads = [threading.Thread(target=trip, args=(each,)) for each in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: all(store.asked >= 2 for store in stores))
    assert len(probers()) == 1
    stores[0].works = True
    until(lambda: not made[0].is_open)
    assert all(each.is_open for each in made[1:])
    for store in stores:
        store.works = True
    until(lambda: not any(each.is_open for each in made))


def test_it_opens_again_with_another_thread() -> None:
    store = Store()
    made = Breaker("shared", store.probe)
    for _ in range(3):
        store.works = False
        made.trip(OSError("down"))
        store.works = True
        until(lambda: not made.is_open)
        until(lambda: probers() == [])


def test_what_nobody_uses_is_asked_no_more(caplog: pytest.LogCaptureFixture) -> None:
    store, other = Store(), Store()
    made = Breaker("shared", store.probe)
    made.trip(OSError("down"))
    made.retire()
    assert not made.is_open
    forgotten = Breaker("forgotten", other.probe)
    forgotten.trip(OSError("down"))
    del forgotten
    gc.collect()
    until(lambda: probers() == [])
    assert not any("again" in record.getMessage() for record in caplog.records)


def test_a_forked_child_finds_out_for_itself() -> None:
    store = Store()
    made = Breaker("shared", store.probe)
    made.trip(OSError("down"))
    until(lambda: store.asked > 0)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert (made.is_open, probers()) == (False, [])
            asked = store.asked
            made.trip(OSError("down"))
            until(lambda: store.asked > asked)
            store.works = True
            until(lambda: not made.is_open)
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert made.is_open


def in_a_child(work: Callable[[], None]) -> int:
    """Return how a forked child ends that does some work; 0 where it raises nothing."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            # A lock that nobody gives back any more is waited for without end.
            signal.alarm(int(_DEADLINE))
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_fork_while_it_opens_leaves_the_child_none_that_stays_open() -> None:
    """The parent's thread has opened it, and not told the one that asks: in the child there is neither."""
    telling, told = threading.Event(), threading.Event()

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            telling.set()
            told.wait(_DEADLINE)

    store = Store()
    store.works = True
    made = Breaker("shared", store.probe)
    logger, slow = logging.getLogger("llmcache.tiers"), Slow()
    logger.addHandler(slow)
    opening = threading.Thread(target=made.trip, args=(OSError("down"),))
    opening.start()
    try:
        assert telling.wait(_DEADLINE)

        def find_out() -> None:
            assert not made.is_open
            logger.removeHandler(slow)
            made.trip(OSError("down"))
            until(lambda: not made.is_open)

        assert in_a_child(find_out) == 0
    finally:
        told.set()
        opening.join()
        logger.removeHandler(slow)


@pytest.mark.parametrize("what", ["failed", "counted"])
def test_a_fork_while_a_fault_is_counted_leaves_the_child_no_taken_lock(what: str) -> None:
    health = Health("shared", "read", "Meanwhile.")
    with health._lock:
        assert in_a_child(lambda: getattr(health, what)(OSError("down"))) == 0


def test_a_refused_connection_is_found_below_what_clients_make_of_it() -> None:
    def wrapped(inner: Exception, *, told: bool) -> Exception:
        try:
            try:
                raise inner
            except OSError as error:
                raise RuntimeError("a client's own") from (error if told else None)
        except RuntimeError as error:
            return error

    assert is_refused(ConnectionRefusedError())
    assert is_refused(wrapped(ConnectionRefusedError(), told=True))
    assert is_refused(wrapped(ConnectionRefusedError(), told=False))
    assert not is_refused(wrapped(ConnectionResetError(), told=True))
    circle = ValueError("itself")
    circle.__cause__ = circle
    assert not is_refused(circle)
