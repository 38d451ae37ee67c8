"""What takes time, for a caller who has to wait for it even in an event loop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from django.db import connections
from django.views.decorators.debug import sensitive_variables

_T = TypeVar("_T")


@sensitive_variables()
def waited_for(work: Callable[[], _T]) -> _T:
    """Return what ``work`` returns; for a caller in an event loop, called in a thread, which the loop waits for.

    Django refuses a database in a loop's own thread.
    """
    if not _in_loop():
        return work()
    done: list[Callable[[], _T]] = []
    context = contextvars.copy_context()

    def run() -> None:
        try:
            value = context.run(work)
            done.append(lambda: value)
        except BaseException as error:  # noqa: BLE001  # it belongs to who waits
            done.append(partial(_raise, error))
        finally:
            connections.close_all()

    thread = threading.Thread(target=run, name="llmcache-neighbour", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        # The interpreter ends, or the system has no thread left.
        return work()
    thread.join()
    return done[0]()


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _raise(error: BaseException) -> Any:
    raise error
