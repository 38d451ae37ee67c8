"""Refreshes: what is past its time is asked for anew, while the old answer is given.

One at a time for each key of a process, and not many at once. After one that has failed, a while passes before the
next: each time a longer one, so that a provider that is down is not asked at every call.

Where the settings say so, somebody else is told to ask (``handing``), and the process asks where that cannot be.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from django.views.decorators.debug import sensitive_variables

from llmcache.engine import background
from llmcache.engine.handing import Handing
from llmcache.exceptions import LLMCacheError

if TYPE_CHECKING:
    from llmcache.engine.background import Errand
    from llmcache.engine.call import Call
    from llmcache.engine.runtime import Runtime

logger = logging.getLogger("llmcache.call")

MOST_AT_ONCE: Final = 16
"""Of one process. What is stale beyond that waits for its next caller."""
FIRST_PAUSE: Final = 2.0
LONGEST_PAUSE: Final = 300.0
MOST_PAUSES: Final = 10_000
"""Keys whose failures are remembered."""


class Refreshes:
    """The refreshes of one runtime; ``send`` tells somebody else to ask for what a call asks for."""

    def __init__(self, monotonic: Callable[[], float], send: Callable[[Call], None] | None = None) -> None:
        self._monotonic = monotonic
        self._works = True
        self._handing = Handing(send, monotonic)
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Begin with none under way: they are the parent's."""
        self._changed = threading.Condition()
        self._under_way: dict[bytes, Errand[None] | None] = {}
        self._pauses: dict[bytes, tuple[float, float]] = {}
        """By key, until when nobody asks anew, and how long that was."""
        self._closed = False
        self._handing.reset_after_fork()

    def is_due(self, key: bytes) -> bool:
        """Return whether an answer may be asked for anew: the last time did not fail just now."""
        pause = self._pauses.get(key)
        return pause is None or self._monotonic() >= pause[0]

    def note(self, key: bytes, error: BaseException | None) -> None:
        """Note how asking anew has ended."""
        with self._changed:
            if error is None:
                self._pauses.pop(key, None)
            else:
                _, last = self._pauses.get(key, (0.0, FIRST_PAUSE / 2))
                pause = min(2 * last, LONGEST_PAUSE)
                if len(self._pauses) >= MOST_PAUSES:
                    self._pauses.clear()
                # Up to a half more or less: what failed together is not tried again together.
                spread = 0.5 + random.random()  # noqa: S311  # spreads retries, guards nothing
                self._pauses[key] = self._monotonic() + spread * pause, pause
        self._tell(error)

    def _tell(self, error: BaseException | None) -> None:
        changed, self._works = self._works != (error is None), error is None
        if not changed:
            return
        if error is None:
            logger.info("Stale answers can be asked for anew again.")
        else:
            logger.warning(
                "Stale answers cannot be asked for anew: %s. The old ones are given until their stale_ttl is over.",
                _name(error),
            )

    @sensitive_variables()
    def start(self, runtime: Runtime, call: Call, written_at: float) -> None:
        """Ask anew in the background, unless that is under way, has just failed, or is done for many others now.

        ``written_at``: when the answer was written that is stale.
        """
        key = call.key
        if call.by_task and self._handing.is_waiting(key, written_at):
            return
        with self._changed:
            if self._closed or key in self._under_way or len(self._under_way) >= MOST_AT_ONCE or not self.is_due(key):
                return
            self._under_way[key] = None
        try:
            ahead = replace(call, ahead="refresh", needs_completion=False, told=None)
            background.send(partial(self._carry, runtime, ahead, written_at), copy_context())
        except Exception as error:  # noqa: BLE001  # the interpreter ends, or the system has no thread left
            self.note(key, error)
            self._end(key)

    @sensitive_variables()
    async def _carry(self, runtime: Runtime, call: Call, written_at: float, errand: Errand[None]) -> None:
        with self._changed:
            self._under_way[call.key] = errand
            closed = self._closed
        failed: Any = None
        try:
            if call.by_task and not closed and await self._handing.hand(call, written_at):
                # How it ends is for others to know.
                closed = True
            if not closed:
                await self._ask(runtime, call, errand)
        except Exception as error:  # noqa: BLE001  # nobody waits for it
            failed = error
            logger.debug("A stale %s by %s was not refreshed: %s.", call.plan.kind, call.plan.model, _name(error))
        except asyncio.CancelledError:
            # Broken off, which is no success, and no failure of the provider's.
            closed = True
            raise
        except BaseException as error:
            failed = error
            raise
        finally:
            if not closed:
                self.note(call.key, failed)
            self._end(call.key)

    @sensitive_variables()
    async def _ask(self, runtime: Runtime, call: Call, errand: Errand[None]) -> None:
        # Here: the asyncio port is loaded by who uses it.
        from llmcache.engine.asyncio_port import AsyncioPort
        from llmcache.engine.policy import resolve

        # A function is called in a way of its own.
        port = getattr(call.plan.provider, "port", AsyncioPort)
        await resolve(call, port(runtime, errand))

    def _end(self, key: bytes) -> None:
        with self._changed:
            self._under_way.pop(key, None)
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait until none is under way; return whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._under_way, seconds)

    def close(self) -> None:
        """Begin none any more, and break off what is under way: it belongs to a test that is over."""
        with self._changed:
            self._closed = True
            errands = [errand for errand in self._under_way.values() if errand is not None]
        for errand in errands:
            background.break_off(errand)


def _name(error: BaseException) -> str:
    return error.code if isinstance(error, LLMCacheError) else type(error).__name__
