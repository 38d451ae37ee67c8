"""Threads of our own that do work for callers, who wait for it only so long."""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

_T = TypeVar("_T")

IDLE_SECONDS: Final = 10.0
"""How long a thread that has nothing to do stays, with what it has open."""
MOST_WAITING: Final = 1_000
"""How much work may wait; more is refused."""


class LateError(Exception):
    """The work has not been done in time."""

    def __init__(self) -> None:
        super().__init__("it was not done in time")


class _Work(Generic[_T]):
    """A piece of work and what came of it."""

    def __init__(self, do: Callable[[], _T]) -> None:
        self._do = do
        self.done = threading.Event()
        self.dropped = False
        self.result: _T | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        if not self.dropped:
            try:
                self.result = self._do()
            except BaseException as error:  # noqa: BLE001  # it belongs to whoever waits
                self.error = error


_LAST: Final = _Work[None](lambda: None)
"""Ends a thread."""


class Desk:
    """At most ``most`` threads that do what is brought, in its order, and end when nothing is brought for a while.

    ``leave`` is called in a thread that ends. They are daemons: work that must be done before the process ends is
    waited for by ``drain``.
    """

    def __init__(self, name: str, most: int, leave: Callable[[], None]) -> None:
        self._name = name
        self._most = most
        self._leave = leave
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._work: queue.Queue[_Work[Any]] = queue.Queue(MOST_WAITING)
        self._threads = 0
        self._unfinished = 0

    def ask(self, do: Callable[[], _T], seconds: float) -> _T:
        """Return what a function returns; what has not begun in time is not done.

        Raises what it raises, ``LateError`` when time is up, ``queue.Full`` when too much waits already.
        """
        work = self._bring(do)
        if not work.done.wait(seconds):
            work.dropped = True
            raise LateError
        if work.error is not None:
            raise work.error
        result: Any = work.result
        return result

    def leave(self, do: Callable[[], None], seconds: float) -> None:
        """Have something done, and wait for it at most some seconds: it is done all the same.

        ``queue.Full`` when too much waits already.
        """
        self._bring(do).done.wait(seconds)

    def close(self) -> None:
        """Let the threads end now that have nothing to do, each with what it has open."""
        with self._changed:
            # Never waiting for room, which those threads make that wait for this lock: where there is none, each ends
            # when nothing has been brought for a while.
            with suppress(queue.Full):
                for _ in range(self._threads):
                    self._work.put_nowait(_LAST)
            self._changed.wait_for(lambda: self._threads == 0, IDLE_SECONDS)

    def drain(self, timeout: float) -> None:
        """Wait until all that was brought is done, or time is up."""
        with self._changed:
            self._changed.wait_for(lambda: self._unfinished == 0, timeout)

    def reset_after_fork(self) -> None:
        """Begin anew: the threads are the parent's, and so is what they were to do."""
        self._begin()

    def _bring(self, do: Callable[[], _T]) -> _Work[_T]:
        work = _Work(do)
        self._work.put_nowait(work)
        with self._changed:
            self._unfinished += 1
            needed = self._threads < min(self._most, self._unfinished)
            if needed:
                self._threads += 1
        if needed:
            self._start()
        return work

    def _start(self) -> None:
        thread = threading.Thread(target=self._serve, args=(self._work,), name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The interpreter ends, or the system has no thread left: this one does what there is to do.
            with self._changed:
                self._threads -= 1
                alone = self._threads == 0
            while alone and not self._work.empty():
                self._do(self._work.get_nowait())

    def _serve(self, brought: queue.Queue[_Work[Any]]) -> None:
        try:
            while (work := self._next(brought)) is not None:
                self._do(work)
        finally:
            self._leave()

    def _do(self, work: _Work[Any]) -> None:
        work.run()
        with self._changed:
            self._unfinished -= 1
            self._changed.notify_all()
        # Last, so that who has waited for its work finds it counted.
        work.done.set()

    def _next(self, brought: queue.Queue[_Work[Any]]) -> _Work[Any] | None:
        while True:
            try:
                work = brought.get(timeout=IDLE_SECONDS)
                if work is not _LAST:
                    return work
                # Before it is told: who waits wants nothing to be open any more.
                self._leave()
                with self._changed:
                    self._threads -= 1
                    self._changed.notify_all()
                    return None
            except queue.Empty:
                with self._changed:
                    if brought.empty():
                        self._threads -= 1
                        return None


_all: weakref.WeakSet[Desk] = weakref.WeakSet()


def _reset_in_child() -> None:
    for desk in list(_all):
        desk.reset_after_fork()


os.register_at_fork(after_in_child=_reset_in_child)
