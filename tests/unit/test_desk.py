"""Threads that do work for callers who wait only so long."""

import os
import queue
import threading
from collections.abc import Iterator

import pytest

from llmcache.tiers import desk as desks
from llmcache.tiers.desk import Desk, LateError
from tests.waiting import until

DEADLINE = 20.0


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What holds work up until it is set; always set in the end."""
    event = threading.Event()
    yield event
    event.set()


def nothing() -> None:
    """End a thread without more ado."""


def test_work_is_done_in_another_thread_and_its_result_returned() -> None:
    desk = Desk("desk", 1, nothing)
    here = threading.get_ident()
    assert desk.ask(threading.get_ident, DEADLINE) != here
    with pytest.raises(ZeroDivisionError):
        desk.ask(lambda: 1 // 0, DEADLINE)
    assert desk.ask(lambda: "still there", DEADLINE) == "still there"


def test_who_waits_too_long_goes_on_and_work_not_begun_is_dropped(gate: threading.Event) -> None:
    desk, done = Desk("desk", 1, nothing), list[str]()
    desk.leave(lambda: (gate.wait(DEADLINE), done.append("left"))[0] and None, 0)
    with pytest.raises(LateError):
        desk.ask(lambda: done.append("asked"), 0.01)
    gate.set()
    desk.drain(DEADLINE)
    assert done == ["left"]


def test_no_more_threads_than_allowed_and_as_many_as_needed(gate: threading.Event) -> None:
    desk, running = Desk("desk", 3, nothing), list[int]()
    for _ in range(6):
        desk.leave(lambda: (running.append(threading.get_ident()), gate.wait(DEADLINE))[0], 0)
    until(lambda: len(running) == 3)
    gate.set()
    desk.drain(DEADLINE)
    assert len(running) == 6
    assert len(set(running)) == 3


def test_too_much_is_refused(gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desks, "MOST_WAITING", 2)
    desk = Desk("desk", 1, nothing)
    begun = threading.Event()
    desk.leave(lambda: (begun.set(), gate.wait(DEADLINE))[0], 0)
    assert begun.wait(DEADLINE)
    for _ in range(2):
        desk.leave(nothing, 0)
    with pytest.raises(queue.Full):
        desk.leave(nothing, 0)


def test_it_can_be_closed_when_there_is_no_room_to_say_so(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desks, "MOST_WAITING", 2)
    desk = Desk("desk", 2, nothing)
    begun = threading.Barrier(3)
    for _ in range(2):
        desk.leave(lambda: (begun.wait(DEADLINE), gate.wait(DEADLINE))[0] and None, 0)
    begun.wait(DEADLINE)
    for _ in range(2):
        desk.leave(nothing, 0)
    monkeypatch.setattr(desks, "IDLE_SECONDS", 0.01)
    closing = threading.Thread(target=desk.close, daemon=True)
    closing.start()
    closing.join(DEADLINE)
    assert not closing.is_alive()
    gate.set()
    desk.drain(DEADLINE)
    assert desk.ask(lambda: 5, DEADLINE) == 5


def test_an_idle_thread_goes_and_tidies_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desks, "IDLE_SECONDS", 0.01)
    left: list[int] = []
    desk = Desk("desk", 2, lambda: left.append(threading.get_ident()))
    for number in range(1, 4):
        worker = desk.ask(threading.get_ident, DEADLINE)
        until(lambda number=number: len(left) == number)
        assert left[-1] == worker


def test_nothing_is_lost_while_threads_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desks, "IDLE_SECONDS", 0.0001)
    desk = Desk("desk", 2, nothing)
    assert [desk.ask(lambda number=number: number, DEADLINE) for number in range(500)] == list(range(500))


def test_a_forked_child_has_threads_of_its_own(gate: threading.Event) -> None:
    desk = Desk("desk", 1, nothing)
    desk.leave(lambda: gate.wait(DEADLINE) and None, 0)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if desk.ask(lambda: 5, DEADLINE) == 5 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
