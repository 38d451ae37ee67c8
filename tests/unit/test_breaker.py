"""A breaker: closed again by a thread that asks, one for the process, and only while there is something to ask."""

import gc
import os
import threading
from collections.abc import Iterator

import pytest

from llmcache.tiers import breaker
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
