"""How a provider's function is called in another thread, or in the background loop, and waited for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final

from django.db import connections
from django.views.decorators.debug import sensitive_variables

from llmcache import workers
from llmcache.providers.base import Failure, Reply

if TYPE_CHECKING:
    from llmcache.engine.background import Errand
    from llmcache.providers.callables import Request

_threads: Final = workers.Workers("llmcache-callables", 32)
"""For functions that are not async, of calls that are awaited."""


class Work:
    """A function's call in a thread that is not the caller's."""

    def __init__(self, call: Callable[[Request], Any], request: Request) -> None:
        self._call = call
        self._request = request
        self._lock = threading.Lock()
        self._is_wanted = True
        self.has_begun = False

    @sensitive_variables()
    async def done(self) -> Any:
        """Return what the function does, once a thread has called it."""
        try:
            return await _threads.run(self._do)
        finally:
            # What has not begun is not to begin for a caller who has gone.
            with self._lock:
                self._is_wanted = False

    @sensitive_variables()
    def _do(self) -> Any:
        with self._lock:
            self.has_begun = self._is_wanted
        if not self.has_begun:
            return None
        try:
            return self._call(self._request)
        finally:
            # Of this thread alone: nobody else would.
            connections.close_all()


@sensitive_variables()
def waited_for(start: Callable[[], Any], seconds: float) -> Reply | Failure:
    """Return what an awaited attempt comes to, in the background loop, for a caller who waits in a thread."""
    from llmcache.engine import background

    came: Future[Reply | Failure] = Future()

    async def carry(errand: Errand[None]) -> None:
        errand.spends = True
        under_way.append(errand)
        try:
            came.set_result(await start())
        except BaseException as error:
            came.set_exception(error)
            raise

    under_way: list[Errand[None]] = []
    background.send(carry, copy_context())
    try:
        return came.result(seconds + background.ALARM_SECONDS)
    finally:
        if not came.done() and under_way:
            background.break_off(under_way[0])


def is_cancelled() -> bool:
    """Return whether it is the call that was cancelled, and not the function that raises by itself."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
