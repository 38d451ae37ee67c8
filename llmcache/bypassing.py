"""Calls that leave the cache alone because of where they are made: a block of code, or a whole project."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_bypassed: Final[ContextVar[bool]] = ContextVar("llmcache_bypassed", default=False)

is_bypassed = _bypassed.get
"""Return whether calls that are made here are to leave the cache alone."""


@contextmanager
def bypass() -> Generator[None]:
    """Let the calls of a ``with`` block be made as with ``cache="bypass"``: they ask, and touch no tier.

    It holds in this context: in coroutines that are awaited and tasks that are begun within the block, not in other
    threads unless they copy the context. A call that says ``cache="only"`` still never asks.
    """
    token = _bypassed.set(True)
    try:
        yield
    finally:
        _bypassed.reset(token)
