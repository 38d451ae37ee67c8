"""Leaders that are killed, or stopped past their lease: how long the others wait, and what is overwritten."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from chaos.flights.scene import Figure, Grounds, Hand, Scene, counted, timed
from tests.waiting import until

LEASE: Final = 1.0
_TAKEN_OVER: Final = LEASE + 0.5


@dataclass(frozen=True)
class Leaders:
    """How often, and beside how many."""

    times: int = 50
    followers: int = 4


class _Stage:
    """A warm process whose children lead, and others that wait for them."""

    def __init__(self, scene: Scene, followers: int) -> None:
        self.scene = scene
        self.parent, *self.others = scene.hands(1 + followers)
        self._waits = scene.grounds.folder / f"{scene.name}-waits"
        self._waits.mkdir()
        for hand in self.others:
            hand.do("note_waits", folder=str(self._waits))
        self.begun = scene.sandbox.received
        """How many calls there were before."""

    @contextmanager
    def waited_for(self, text: str) -> Iterator[int]:
        """Let a child lead whom all others wait for; its process id."""
        sandbox = self.scene.sandbox
        received = sandbox.received
        for mark in self._waits.iterdir():
            mark.unlink()
        sandbox.hold()
        try:
            child = self.parent.do("lead", text=text)
            sandbox.wait_until_received(received + 1, timeout=30)
            for hand in self.others:
                hand.tell("ask", text=text)
            until(lambda: len(list(self._waits.iterdir())) == len(self.others))
            yield child
        finally:
            sandbox.release()

    def taken_over(self, received: int, began: float) -> float:
        """Return after how long another has asked."""
        self.scene.sandbox.wait_until_received(received, timeout=30)
        return time.monotonic() - began

    def answers(self) -> list[list[Any]]:
        """Return what those who waited were answered."""
        return [hand.hear() for hand in self.others]


def _failed(answers: list[list[Any]], text: str) -> int:
    """Return how many have failed or have a wrong answer, or how many too many or too few have asked."""
    wrong = sum(name != text for name, *_ in answers)
    return wrong + abs(1 - sum(outcome == "miss" for _, outcome, *_ in answers))


def killed(grounds: Grounds, size: Leaders) -> list[Figure]:
    """Kill leaders while others wait for them."""
    taken_over: list[float] = []
    failed = 0
    with grounds.scene(LEASE=LEASE) as scene:
        stage = _Stage(scene, size.followers)
        for turn in range(size.times):
            text, received = scene.text(f"killed {turn}"), scene.sandbox.received
            with stage.waited_for(text) as child:
                os.kill(child, signal.SIGKILL)
                taken_over.append(stage.taken_over(received + 2, time.monotonic()))
            failed += _failed(stage.answers(), text)
            if stage.parent.do("led", child=child) is not None:
                raise RuntimeError("the leader was not killed")
        calls = scene.sandbox.received - stage.begun
        rows = len(scene.ledger()) - len(_hands(stage))
    return [
        counted(f"{size.times} leaders killed: callers that failed", failed, 0),
        counted("provider calls", calls, 2 * size.times),
        counted("rows in the ledger", rows, 2 * size.times),
        timed(f"leader killed, LEASE {LEASE:g} s: until another asks", taken_over, _TAKEN_OVER),
    ]


def _hands(stage: _Stage) -> list[Hand]:
    """Return the processes, each of which has paid one call to make itself ready."""
    return [stage.parent, *stage.others]


def stopped(grounds: Grounds, size: Leaders) -> list[Figure]:
    """Stop leaders past their lease, and let them go on when another has stored its answer."""
    taken_over: list[float] = []
    failed = overwritten = late = 0
    with grounds.scene(LEASE=LEASE) as scene:
        stage = _Stage(scene, size.followers)
        sandbox = scene.sandbox
        for turn in range(size.times):
            text, received, charged = scene.text(f"stopped {turn}"), sandbox.received, sandbox.calls
            with stage.waited_for(text) as child:
                os.kill(child, signal.SIGSTOP)
                began = time.monotonic()
                sandbox.release()
                # The first answer is made, and waits for who cannot read it.
                until(lambda charged=charged: sandbox.calls > charged)
                sandbox.answers[text] = {"name": f"{text} again"}
                taken_over.append(stage.taken_over(received + 2, began))
            failed += _failed(stage.answers(), f"{text} again")
            os.kill(child, signal.SIGCONT)
            first = stage.parent.do("led", child=child)
            late += first is not None and first[:2] == [text, "miss"]
            (newcomer, *_) = stage.others
            overwritten += newcomer.do("ask", text=text)[:2] != [f"{text} again", "hit"]
        calls = sandbox.received - stage.begun
        rows = scene.ledger()
        answered = sum(outcome == "answered" for outcome in rows.values()) - len(_hands(stage))
    return [
        counted(f"{size.times} leaders stopped: callers that failed", failed, 0),
        counted("of those stopped, how many had their own answer", late, size.times),
        counted("what was overwritten late", overwritten, 0),
        counted("provider calls", calls, 2 * size.times),
        counted("rows in the ledger, answered", answered, 2 * size.times),
        timed(f"leader stopped, LEASE {LEASE:g} s: until another asks", taken_over, _TAKEN_OVER),
    ]
