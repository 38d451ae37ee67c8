"""The cache objects of one alias of ``CACHES``, each with one user at a time.

``caches[alias]`` is one object for each thread and each asynchronous context. Asynchronous calls are carried out by
other threads in copies of their context. By the version of asgiref, all of those get one object, which some clients do
not survive, or a new one for each call. So we have objects of our own, lent out and taken back: as many as there were
users at once.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from django.core.cache import caches


class Backends:
    """Cache objects of an alias, made from ``CACHES`` when all others are lent out."""

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._free: deque[Any] = deque()
        _all.add(self)

    @contextmanager
    def borrowed(self) -> Generator[Any]:
        """Lend a cache object to the calling thread."""
        try:
            backend = self._free.pop()
        except IndexError:
            backend = caches.create_connection(self._alias)
        free = self._free
        try:
            yield backend
        finally:
            free.append(backend)

    def close(self) -> None:
        """Let the objects that nobody uses hang up; they may be used again."""
        for backend in tuple(self._free):
            backend.close()

    def reset_after_fork(self) -> None:
        """Leave the parent its objects: a child that talks on their sockets reads the parent's replies."""
        _left_to_parent.append(self._free)
        self._free = deque()


_all: weakref.WeakSet[Backends] = weakref.WeakSet()
_left_to_parent: list[deque[Any]] = []
"""Kept for ever: a client that is thrown away may say goodbye, and the server would hang up on the parent."""


def _reset_in_child() -> None:
    for backends in list(_all):
        backends.reset_after_fork()


os.register_at_fork(after_in_child=_reset_in_child)
