"""Forks and SQLite: no child is made while the ledger's writer has a connection open.

A child in which a connection to SQLite is open that its parent made has wrong notions of who holds which lock: its own
connections to that file hold none, and rows of two processes overwrite each other. So the writer's connection is open
within a cycle only, and forks wait for its end, or for the end of a piece of it.
"""

from __future__ import annotations

import os
import threading

# Reentrant: a log handler that the writer calls may fork.
_lock = threading.RLock()
_due = False


def between() -> threading.RLock:
    """Return the lock that is held while a connection is open, and by who forks."""
    return _lock


def is_due() -> bool:
    """Return whether somebody waits to fork."""
    return _due


def _before() -> None:
    global _due
    _due = True
    try:
        _lock.acquire()
    finally:
        # Also when a signal's handler raises: the writer would stand aside for ever.
        _due = False


def _reset_in_child() -> None:
    global _lock, _due
    _lock, _due = threading.RLock(), False


os.register_at_fork(before=_before, after_in_parent=lambda: _lock.release(), after_in_child=_reset_in_child)
