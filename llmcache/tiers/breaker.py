"""What keeps calls away from a store that is down: while it is, an operation costs a comparison and no I/O.

Who finds the store refusing, or taking more time than a call has for it, opens its breaker. One thread then asks the
store again and again until it answers, and ends when no breaker of the process is open.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final

from llmcache.tiers.base import said_of

logger = logging.getLogger("llmcache.tiers")

PROBE_SECONDS: Final = 0.2
"""How long the store is left alone between two questions; a probe itself may take as long as an operation."""

# A chain of errors that is longer than this goes in a circle.
_LONGEST_CHAIN: Final = 20


class Breaker:
    """Whether a store is left alone.

    ``probe`` is called in another thread: it returns whether the store works, or raises. It may not ask the breaker.
    """

    def __init__(self, tier: str, probe: Callable[[], bool]) -> None:
        self.is_open = False
        """Whether operations are to be left out. Only read it."""
        self._tier = tier
        self._probe = probe
        _all.add(self)

    def trip(self, error: Exception) -> None:
        """Leave the store alone until it answers again. Logged when it was not left alone already."""
        with _lock:
            changed, self.is_open = not self.is_open, True
        if not changed:
            return
        logger.warning(
            "The tier %r cannot be reached: %s: %s. Calls go on without it until it answers.",
            self._tier,
            type(error).__name__,
            said_of(error).rstrip("."),
        )
        # After the line, so that the one that takes it back comes later.
        with _lock:
            _open.add(self)
        _see_to_it()

    def look(self) -> None:
        """Ask the store, and go back to it if it works."""
        try:
            works = self._probe()
        except Exception:  # noqa: BLE001  # of whatever library; it does not work yet
            return
        if works and self._close():
            logger.info("The tier %r can be reached again.", self._tier)

    def retire(self) -> None:
        """Ask no more: nobody uses the tier, or the next who does is to find out anew."""
        self._close()

    def _close(self) -> bool:
        with _lock:
            _open.discard(self)
            changed, self.is_open = self.is_open, False
        return changed


def is_refused(error: BaseException) -> bool:
    """Return whether an error comes of a server that takes no connection."""
    cause: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        if cause is None or isinstance(cause, ConnectionRefusedError):
            return cause is not None
        cause = cause.__cause__ or cause.__context__
    return False


_lock = threading.Lock()
_all: weakref.WeakSet[Breaker] = weakref.WeakSet()
_open: weakref.WeakSet[Breaker] = weakref.WeakSet()
_prober: threading.Thread | None = None


def _see_to_it() -> None:
    """Start the thread unless it runs."""
    global _prober
    with _lock:
        if _prober is not None:
            return
        thread = _prober = threading.Thread(target=_serve, name="llmcache-probe", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        # The interpreter ends, or the system has no thread left: whoever comes next finds out.
        with _lock:
            _prober, left = None, list(_open)
        for breaker in left:
            breaker.retire()


def _serve() -> None:
    while _look_at_all():
        time.sleep(PROBE_SECONDS)


def _look_at_all() -> bool:
    """Ask every store that is left alone; return whether there was any. Keeps none of them alive in between."""
    global _prober
    with _lock:
        left = list(_open)
        if not left:
            # Under the lock: who opens a breaker from now on starts another thread.
            _prober = None
            return False
    for breaker in left:
        breaker.look()
    return True


def _reset_in_child() -> None:
    """Let a forked child find out for itself: the thread is its parent's."""
    global _lock, _open, _prober
    _lock, _open, _prober = threading.Lock(), weakref.WeakSet[Breaker](), None
    # All of them: a thread that the child does not have may have opened one, and not told of it yet.
    for breaker in list(_all):
        breaker.is_open = False


os.register_at_fork(after_in_child=_reset_in_child)
