"""The one event loop of a process in which asynchronous calls are answered, whole, from the tiers to the journal.

It runs in a thread of its own, ``llmcache-loop``, from the first call that memory does not answer. So the first call's
imports hold up no loop of the caller's, and neither a cancelled caller nor a caller's loop that ends loses an answer
that is paid for: a caller waits for its call's work, and does not carry it.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import selectors
import threading
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from django.views.decorators.debug import sensitive_variables

from llmcache.engine import process
from llmcache.exceptions import ProviderTimeout
from llmcache.loading import first_time
from llmcache.workers import tell

if TYPE_CHECKING:
    from llmcache.engine.call import Done
    from llmcache.engine.runtime import Runtime

logger = logging.getLogger("llmcache.call")

_T = TypeVar("_T")

EXIT_SECONDS: Final = 5.0
"""How long the end of the interpreter waits for answers that are being paid for."""
ALARM_SECONDS: Final = 10.0
"""How long after its call's deadline a caller waits for the background loop to say that it is over."""
_LATE_SECONDS: Final = 2.0


class Errand(Generic[_T]):
    """The work of one call, which nobody but the background loop carries; its methods are called there."""

    def __init__(self, answer: asyncio.Future[_T]) -> None:
        self.deserted = False
        """Whether the caller has gone: no further attempt is begun for it."""
        self.spends = False
        """Whether an attempt was begun: what it brings is received, noted and kept, whoever has gone."""
        self.ended = False
        self._answer = answer
        self._task: asyncio.Task[_T] | None = None

    def begin(self, coroutine: Coroutine[Any, Any, _T], context: Context) -> None:
        """Start the work."""
        # Kept until it is done: a loop itself holds its tasks weakly.
        _errands.add(self)
        self._task = asyncio.get_running_loop().create_task(coroutine, name="llmcache-call", context=context)
        self._task.add_done_callback(self._deliver)

    def desert(self) -> None:
        """Note that the caller has gone; ends the work unless money is being spent on it."""
        self.deserted = True
        if not self.spends:
            self.break_off()

    def break_off(self) -> None:
        """End the work where it stands."""
        if self._task is not None:
            self._task.cancel()

    def _deliver(self, task: asyncio.Task[_T]) -> None:
        self.ended = True
        _errands.discard(self)
        if task.cancelled():
            tell(self._answer, None, asyncio.CancelledError())
            return
        error = task.exception()
        if error is not None and self.deserted:
            logger.debug("A call whose caller had gone ended with %s.", type(error).__name__)
        tell(self._answer, None if error is not None else task.result(), error)


async def run(
    start: Callable[[Errand[_T]], Coroutine[Any, Any, _T]], context: Context, seconds: float | None = None
) -> _T:
    """Return what a coroutine returns that runs in the background loop, in this context.

    Whoever is cancelled here, or whose loop ends, leaves the work to itself; see ``Errand``. ``seconds`` is how long it
    may take by its own account: when it is far over that, the wait ends without it.
    """
    caller, loop = asyncio.get_running_loop(), _started()
    answer: asyncio.Future[_T] = caller.create_future()
    errand = Errand(answer)
    loop.call_soon_threadsafe(lambda: errand.begin(start(errand), context))
    alarm = None if seconds is None else caller.call_later(seconds + ALARM_SECONDS, _give_up, answer, seconds)
    try:
        return await answer
    finally:
        if alarm is not None:
            alarm.cancel()
        if not errand.ended:
            loop.call_soon_threadsafe(errand.desert)
            # Whoever has gone will not ask what became of it. A loop that is closed says so here.
            with contextlib.suppress(RuntimeError):
                answer.cancel()


def send(start: Callable[[Errand[None]], Coroutine[Any, Any, None]], context: Context) -> None:
    """Have a coroutine run in the background loop, in this context, with nobody to wait for it. It raises nothing."""
    loop = _started()

    def begin() -> None:
        nobody: asyncio.Future[None] = loop.create_future()
        # An errand that is broken off ends with an error, which nobody else looks at.
        nobody.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        errand = Errand[None](nobody)
        errand.begin(start(errand), context)

    loop.call_soon_threadsafe(begin)


def break_off(errand: Errand[Any]) -> None:
    """End an errand where it stands, from any thread."""
    if _loop is not None:
        _loop.call_soon_threadsafe(errand.break_off)


def _give_up(answer: asyncio.Future[Any], seconds: float) -> None:
    if not answer.done():
        answer.set_exception(
            ProviderTimeout(
                f"The call's timeout of {seconds:g} s is long over, and the thread llmcache-loop, which is to say so, "
                "is blocked. Look for a validator that waits for something."
            )
        )


@sensitive_variables()
async def answer(runtime: Runtime | None, errand: Errand[Any], *given: Any, **wishes: Any) -> Done:
    """Return what ``answering.aanswer`` does; None stands for the runtime that this process is yet to make."""
    with first_time("answering"):
        # Here, for what it brings with it would hold up the caller's loop.
        from llmcache.answering import aanswer

        runtime = process.current() if runtime is None else runtime
    return await aanswer(runtime, errand, *given, **wishes)


_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_selector: selectors.BaseSelector | None = None
_errands: set[Errand[Any]] = set()


def _started() -> asyncio.AbstractEventLoop:
    global _loop, _selector
    with _lock:
        if _loop is None:
            # Not what the project's policy would make: this one is ours, whatever others prefer.
            _selector = selectors.DefaultSelector()
            loop = asyncio.SelectorEventLoop(_selector)
            threading.Thread(target=_serve, args=(loop,), name="llmcache-loop", daemon=True).start()
            _loop = loop
        return _loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    while True:
        # A validator that exits the program exits the loop, and is told to its caller; other callers wait for theirs.
        with contextlib.suppress(SystemExit, KeyboardInterrupt):
            loop.run_forever()


def finish(seconds: float = EXIT_SECONDS) -> None:
    """Wait until what is being paid for has come in, break off all else, and say so in the journal."""
    if _loop is None:
        return
    from llmcache.money import journal_thread

    ended = asyncio.run_coroutine_threadsafe(_end(seconds), _loop)
    with contextlib.suppress(TimeoutError):
        ended.result(seconds + 2 * _LATE_SECONDS)
    journal_thread.drain(_LATE_SECONDS)


async def _end(seconds: float) -> None:
    for errand in list(_errands):
        errand.desert()
    await _until_none_is_left(seconds)
    for errand in list(_errands):
        errand.break_off()
    await _until_none_is_left(_LATE_SECONDS)
    # What tiers keep open in this loop they close with it.
    await asyncio.get_running_loop().shutdown_asyncgens()


async def _until_none_is_left(seconds: float) -> None:
    until = asyncio.get_running_loop().time() + seconds
    while _errands and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(0.01)


_inherited: list[object] = []
"""In a forked child, its parent's loop and errands: ending them here would reach into the parent's sockets."""


def _reset_in_child() -> None:
    global _lock, _loop, _errands
    if _loop is not None and _selector is not None:
        _inherited.append((_loop, _errands))
        _release(_selector)
    _lock, _loop, _errands = threading.Lock(), None, set[Errand[Any]]()


def _release(selector: selectors.BaseSelector) -> None:
    """Let go of the parent's connections, under numbers that nobody else gets while the parent's objects are there."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for registered in list(selector.get_map().values()):
        os.dup2(nothing, registered.fd, inheritable=False)
    number: Callable[[], int] | None = getattr(selector, "fileno", None)
    if number is not None:
        os.dup2(nothing, number(), inheritable=False)
    os.close(nothing)


atexit.register(finish)
os.register_at_fork(after_in_child=_reset_in_child)
