"""Threads that do what would hold up an event loop: files, first imports, look-ups of names.

They are daemons of our own, not asyncio's executor: that one refuses work once the interpreter begins to end, and the
answers that are paid for have still to be written then. They stay, so that each keeps its connection to a disk tier.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from django.views.decorators.debug import sensitive_variables

_T = TypeVar("_T")


def tell(future: asyncio.Future[_T], result: _T | None, error: BaseException | None) -> None:
    """Give a future its outcome, from any thread; does nothing for one that was cancelled, or whose loop is closed."""
    try:
        future.get_loop().call_soon_threadsafe(_settle, future, result, error)
    except RuntimeError:
        # The loop is closed: nobody waits.
        return


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
        return
    if isinstance(error, StopIteration):
        # A future does not take it, and who waits would wait for ever. A coroutine says the same of one that it raises.
        error, error.__cause__ = RuntimeError("StopIteration was raised where nothing is iterated"), error
    future.set_exception(error)


@dataclass(slots=True)
class _Work:
    work: Callable[[], Any]
    future: asyncio.Future[Any]
    context: contextvars.Context

    @sensitive_variables()
    def do(self) -> None:
        try:
            result = self.context.run(self.work)
        except BaseException as error:  # noqa: BLE001  # it belongs to whoever waits
            tell(self.future, None, error)
        else:
            tell(self.future, result, None)


class Workers:
    """At most ``most`` threads, each started when all others are busy."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._work: SimpleQueue[_Work] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads = 0

    @sensitive_variables()
    async def run(self, work: Callable[[], _T]) -> _T:
        """Return what a function returns, called in one of the threads in a copy of this context."""
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._work.put(_Work(work, future, contextvars.copy_context()))
        self._see_to_it()
        return await future

    def _see_to_it(self) -> None:
        """Start a thread unless one is idle."""
        if self._idle.acquire(blocking=False):
            return
        with self._lock:
            if self._threads >= self._most:
                return
            number = self._threads = self._threads + 1
        thread = threading.Thread(
            target=_serve, args=(self._work, self._idle), name=f"{self._name}-{number}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            # The interpreter ends, or the system has no thread left: those that run do the work, or this one does.
            with self._lock:
                self._threads -= 1
                alone = self._threads == 0
            if alone:
                self._work.get().do()

    def reset_after_fork(self) -> None:
        """Begin anew: the threads are the parent's, and so is what they were to do."""
        self._begin()


def _serve(work: SimpleQueue[_Work], idle: threading.Semaphore) -> None:
    while True:
        work.get().do()
        idle.release()


_all: weakref.WeakSet[Workers] = weakref.WeakSet()

files: Final = Workers("llmcache-files", 4)
"""For disk tiers and imports. SQLite writes one at a time; more threads than this would wait for each other."""
contents: Final = Workers("llmcache-contents", 16)
"""For what callers hand over to be read: a storage that does not answer holds these up, and no other call."""
turns: Final = Workers("llmcache-turns", 8)
"""For who asks whether it is to lead: a server that does not answer holds these up, and nobody who is answered."""
lookups: Final = Workers("llmcache-lookup", 4)
"""For host names alone: a resolver that does not answer holds these up, and no file."""


def _reset_in_child() -> None:
    for workers in list(_all):
        workers.reset_after_fork()


os.register_at_fork(after_in_child=_reset_in_child)
