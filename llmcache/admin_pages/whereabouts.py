"""Where an entry lies now: every tier is asked at once, and is waited for only so long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, Literal, TypeVar

from django.db import connections
from django.views.decorators.debug import sensitive_variables

from llmcache.engine.runtime import Runtime
from llmcache.envelope import Entry
from llmcache.tiers.base import TierState
from llmcache.tiers.stack import Place, TierStack

T = TypeVar("T")

LOOK_SECONDS: Final = 0.7
"""How long a page waits for all tiers together."""
MOST_LOOKS: Final = 32
"""Threads of this process that may wait for tiers; more are not begun."""

_running = threading.Semaphore(MOST_LOOKS)


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """What one tier said of an entry."""

    state: TierState
    found: Literal["fresh", "stale", "expired", "absent", "damaged", "down", "late"]
    """``down``: it could not be read; ``late``: it did not answer in time."""
    entry: Entry | None = None
    ttl_left: float | None = None
    """Seconds; None when it does not expire or there is no entry."""


class Look(Generic[T]):
    """A question in a thread of its own."""

    @sensitive_variables()
    def __init__(self, ask: Callable[[], T]) -> None:
        self._ask = ask
        self._answer: list[T] = []
        self._thread: threading.Thread | None = None
        if not _running.acquire(blocking=False):
            return
        thread = threading.Thread(target=self._run, name="llmcache-look", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            _running.release()
        else:
            self._thread = thread

    @sensitive_variables()
    def answer(self, until: float) -> T | None:
        """Return the answer; None when there is none by then, on the monotonic clock."""
        if self._thread is not None:
            self._thread.join(max(until - time.monotonic(), 0.0))
        # One step: the thread may be about to answer.
        answer = self._answer[:]
        return answer[0] if answer else None

    @sensitive_variables()
    def _run(self) -> None:
        try:
            self._answer.append(self._ask())
        finally:
            connections.close_all()
            _running.release()


def find(runtime: Runtime, key: bytes) -> list[Whereabouts]:
    """Return what each tier holds under a key, fastest first, within ``LOOK_SECONDS``. Raises nothing for a tier."""
    until = time.monotonic() + LOOK_SECONDS
    # Each tier as a stack of its own: one that hangs holds up no other.
    stacks = [
        TierStack(None, (tier,), runtime.namespace, runtime.clock, seal=runtime.seals[0])
        for tier in runtime.tiers.below
    ]
    looks = [Look(partial(stack.places, key)) for stack in stacks]
    below = [_whereabouts(stack, look.answer(until)) for stack, look in zip(stacks, looks, strict=True)]
    if runtime.tiers.memory is None:
        return below
    # What lies in this process cannot hang.
    memory = TierStack(runtime.tiers.memory, (), runtime.namespace, runtime.clock, seal=runtime.seals[0])
    return [_whereabouts(memory, memory.places(key)), *below]


def _whereabouts(stack: TierStack, places: list[Place] | None) -> Whereabouts:
    (state,) = stack.states()
    place = places[0] if places else None
    if place is None:
        return Whereabouts(state, "late")
    if place.state == "absent" and not state.reads:
        return Whereabouts(state, "down")
    return Whereabouts(state, place.state, place.entry, place.ttl_left)
