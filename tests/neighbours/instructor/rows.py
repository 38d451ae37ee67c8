"""A project's own cache backend that reads and writes a table, as Django's does, and is none of Django's."""

from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.core.cache.backends.db import DatabaseCache


class RowsCache(BaseCache):
    """Keeps what it is given in the table that ``LOCATION`` names."""

    def __init__(self, table: str, params: dict[str, Any]) -> None:
        super().__init__(params)
        self._rows = DatabaseCache(table, params)

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        return self._rows.get(key, default, version)

    def set(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        self._rows.set(key, value, timeout, version)
