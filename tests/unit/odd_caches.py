"""Caches as nobody would want them."""

import threading
import time
from typing import Any, ClassVar

from django.core.cache.backends.locmem import LocMemCache
from django_redis.client import DefaultClient


class OneUser(LocMemCache):
    """A client that says when two threads use it at once, and takes its time."""

    users_at_once: ClassVar[int] = 0

    def __init__(self, name: str, params: dict[str, Any]) -> None:
        super().__init__(name, params)
        self.closed = 0
        self._used = threading.Lock()

    def close(self, **kwargs: Any) -> None:
        self.closed += 1

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        if not self._used.acquire(blocking=False):
            type(self).users_at_once = 2
            raise RuntimeError("two threads use one client at once")
        try:
            type(self).users_at_once = max(type(self).users_at_once, 1)
            time.sleep(0.005)
            return super().get(key, default, version)
        finally:
            self._used.release()


class Quiet(LocMemCache):
    """A client that keeps quiet about a server that is down, but for every third operation."""

    down: ClassVar[bool] = False
    silent: ClassVar[bool] = False
    operations: ClassVar[int] = 0

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        return default if self._lost() else super().get(key, default, version)

    def set(self, key: Any, value: Any, timeout: Any = None, version: int | None = None) -> None:
        if not self._lost():
            super().set(key, value, timeout, version)

    def delete(self, key: Any, version: int | None = None) -> bool:
        return False if self._lost() else super().delete(key, version)

    def _lost(self) -> bool:
        type(self).operations += 1
        if self.down and not self.silent and self.operations % 3 == 0:
            raise ConnectionError("the server is down")
        return self.down


class OwnClient(DefaultClient):
    """A client of the project's own, which may do anything with what it keeps."""
