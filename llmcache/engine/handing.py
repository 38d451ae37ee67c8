"""Handing over: who finds a stale answer has somebody else ask anew, and sees to it that somebody does.

What is handed over is a key. The way there (a message to a broker) may hang, so it has a thread of its own, for which
nobody waits for long. What cannot be handed over, or was not done in time, the process asks for itself.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from django.views.decorators.debug import sensitive_variables

from llmcache.workers import Workers

if TYPE_CHECKING:
    from llmcache.engine.call import Call

logger = logging.getLogger("llmcache.call")

PATIENCE_SECONDS: Final = 60.0
"""How long whoever was told has time; then the process asks for itself."""
SEND_SECONDS: Final = 3.0
"""How long telling may take."""
REST_SECONDS: Final = 5.0
"""How long nobody is told after that has failed."""
MOST_GIVEN: Final = 10_000
"""Keys that are remembered as handed over."""
_MOST_TOPICS: Final = 100
_WAY: Final = "way"
_DONE: Final = "done"
_KIND: Final = "kind"

senders: Final = Workers("llmcache-tasks", 1)


class NotHandedOver(Exception):
    """Why a key could not be handed over, in words."""

    def __init__(self, why: str, kind: str = "") -> None:
        super().__init__(why)
        self.kind = kind
        """The kind of answers that cannot be; empty where it is so for all."""


class Handing:
    """The keys that one runtime has handed over. Its methods are called in the background loop, but ``is_waiting``."""

    def __init__(self, send: Callable[[Call], None] | None, monotonic: Callable[[], float]) -> None:
        self._send = send
        self._monotonic = monotonic
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Begin with nothing handed over, and with nobody at it: the parent's thread is not in this process."""
        self._given: dict[bytes, tuple[float, float]] = {}
        """By key, when it was handed over, and when the answer was written that was stale then."""
        self._stuck: threading.Event | None = None
        """Of what was given up on its way: set when it is over all the same."""
        self._rests_until = float("-inf")
        self._troubles: dict[tuple[str, str], str] = {}
        """By what it is about, and of which kind, the last that was said of it."""

    def is_waiting(self, key: bytes, written_at: float) -> bool:
        """Return whether this very answer was handed over, and there is time left for it."""
        given = self._given.get(key)
        return given is not None and given[1] == written_at and self._monotonic() < given[0] + PATIENCE_SECONDS

    @sensitive_variables()
    async def hand(self, call: Call, written_at: float) -> bool:
        """Have somebody else ask anew; return False where this process has to."""
        if self._send is None:
            return False
        given = self._given.pop(call.key, None)
        if given is not None and given[1] == written_at:
            self._tell(_DONE, f"no task has done so within {PATIENCE_SECONDS:g} s; look whether workers run")
            return False
        if given is not None:
            self._tell(_DONE)
        now, over = self._monotonic(), threading.Event()
        if now < self._rests_until or (self._stuck is not None and not self._stuck.is_set()):
            return False
        try:
            await asyncio.wait_for(senders.run(partial(self._carry, call, over)), SEND_SECONDS)
        except NotHandedOver as error:
            if error.kind:
                self._tell(_KIND, str(error), error.kind)
                return False
            return self._failed(str(error))
        except TimeoutError:
            # As long as one hangs no other is begun.
            self._stuck = over
            return self._failed(f"the broker did not take a message within {SEND_SECONDS:g} s")
        except Exception as error:  # noqa: BLE001  # of whatever broker
            return self._failed(f"the broker cannot be reached ({type(error).__name__})")
        self._tell(_WAY)
        self._tell(_KIND, kind=call.plan.kind)
        if len(self._given) >= MOST_GIVEN:
            self._given.clear()
        self._given[call.key] = now, written_at
        return True

    def _carry(self, call: Call, over: threading.Event) -> None:
        try:
            if self._send is not None:
                self._send(call)
        finally:
            over.set()

    def _failed(self, why: str) -> bool:
        self._rests_until = self._monotonic() + REST_SECONDS
        self._tell(_WAY, why)
        return False

    def _tell(self, topic: str, trouble: str = "", kind: str = "") -> None:
        """Say what is wrong, or that it is no more, when that has changed."""
        about = topic, kind
        if self._troubles.get(about, "") == trouble or (about not in self._troubles and self._is_full()):
            return
        self._troubles[about] = trouble
        which = f" of the kind {kind!r}" if kind else ""
        if trouble:
            logger.warning("Stale answers%s are not refreshed by tasks, but by the process itself: %s.", which, trouble)
        else:
            logger.info("Stale answers%s are refreshed by tasks again.", which)

    def _is_full(self) -> bool:
        return len(self._troubles) >= _MOST_TOPICS
