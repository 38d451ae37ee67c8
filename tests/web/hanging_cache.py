"""A cache whose server never answers, and that has no limit of its own to how long it waits."""

import threading
from typing import Any

from django.core.cache.backends.base import BaseCache

released = threading.Event()
"""Set at the end of a test, so that no thread stays."""


class HangingCache(BaseCache):
    """Waits with every read."""

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        released.wait(60)
        return default

    def set(self, key: Any, value: Any, timeout: Any = None, version: int | None = None) -> None:
        """Forget it."""
