"""Forks and SQLite: no child is made while the ledger's writer has a connection open.

A child in which a connection to SQLite is open that its parent made has wrong notions of who holds which lock: its own
connections to that file hold none, and rows of two processes overwrite each other. So the writer's connection is open
within a cycle only, and forks wait for its end, or for the end of a piece of it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager

# Reentrant: a log handler that the writer calls may fork.
_lock = threading.RLock()
_due = False
_asked = False
"""Whether somebody waits who needs a moment, and does not fork."""


def between() -> threading.RLock:
    """Return the lock that is held while a connection is open, and by who forks."""
    return _lock


@contextmanager
def a_moment() -> Generator[None]:
    """Hold the lock for a moment: the writer stands aside at the end of the piece it is at.

    While callers are faster than the writer its cycle has no end, and whoever waits for that waits for ever.
    """
    global _asked
    _asked = True
    try:
        _lock.acquire()
    finally:
        _asked = False
    try:
        yield
    finally:
        _lock.release()


def is_due() -> bool:
    """Return whether somebody waits to fork, or for a moment."""
    return _due or _asked


def _before() -> None:
    global _due
    _due = True
    try:
        _lock.acquire()
    finally:
        # Also when a signal's handler raises: the writer would stand aside for ever.
        _due = False


def _reset_in_child() -> None:
    global _lock, _due, _asked
    _lock, _due, _asked = threading.RLock(), False, False


os.register_at_fork(before=_before, after_in_parent=lambda: _lock.release(), after_in_child=_reset_in_child)
