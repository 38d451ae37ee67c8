"""Large imports beside a running event loop.

An import lets other threads go on every few milliseconds, a full collection of garbage does not: importing a provider's
SDK makes so many objects that one is due in the midst of it, and it walks through the whole heap, 70 ms for a small
project. So while such an import runs, which is once in a process, the collector rests. What was made meanwhile is then
called old without being looked at, and the next full collection comes when it would have come anyway.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager

_lock = threading.Lock()
_inside = 0
_resumes = False
_loaded: set[str] = set()


@contextmanager
def first_time(what: str) -> Generator[None]:
    """Let the collector rest, unless ``what`` names something that was loaded so before.

    Several threads may be inside at once.
    """
    global _inside, _resumes
    if what in _loaded:
        yield
        return
    with _lock:
        if not _inside:
            _resumes = gc.isenabled()
            gc.disable()
        _inside += 1
    try:
        yield
        _loaded.add(what)
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _resume()


def _resume() -> None:
    if not _resumes:
        return
    # A program that has frozen its heap wants it to stay so.
    if gc.get_freeze_count() == 0:
        gc.freeze()
        gc.unfreeze()
    gc.enable()


def _reset_in_child() -> None:
    global _lock, _inside
    _lock = threading.Lock()
    if _inside:
        _inside = 0
        _resume()


os.register_at_fork(after_in_child=_reset_in_child)
