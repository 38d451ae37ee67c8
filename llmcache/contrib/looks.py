"""Looks that have found nothing, remembered in their caller's context until the value comes."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Final, NamedTuple

_MOST_MISSED: Final = 1_024
"""Looks that a context remembers; of one that it has forgotten, what is known when the value comes has to do."""


class Missed(NamedTuple):
    """A look that has found nothing."""

    seen: bytes
    """The invalidations that were in force."""
    at: float
    """Monotonic seconds."""


_missed: ContextVar[Mapping[bytes, Missed]] = ContextVar("llmcache_missed", default=MappingProxyType({}))


def remember(key: bytes, missed: Missed) -> None:
    """Let ``forget`` find a look for this key in this context."""
    # Never changed in place: tasks that were begun in this context share it, and each has looks of its own.
    known = dict(_missed.get())
    known.pop(key, None)
    if len(known) >= _MOST_MISSED:
        del known[next(iter(known))]
    known[key] = missed
    _missed.set(known)


def forget(key: bytes) -> Missed | None:
    """Return the last look for this key in this context, and remember it no more."""
    known = dict(_missed.get())
    missed = known.pop(key, None)
    if missed is not None:
        _missed.set(known)
    return missed
