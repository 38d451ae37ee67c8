"""The admin's lists over PostgreSQL: how many rows there are is not counted there."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connections
from pytest_django import DjangoDbBlocker

from llmcache.admin_pages import counting
from llmcache.admin_pages.counting import BoundedPaginator
from llmcache.models import CacheEntry
from tests.services import Postgres


@pytest.fixture
def entries(postgres: Postgres, django_db_blocker: DjangoDbBlocker) -> Iterator[Any]:
    """Sixty entries in a database of their own."""
    connections.databases["pages"] = connections.databases["default"] | postgres.database("pages") | {"OPTIONS": {}}
    try:
        with django_db_blocker.unblock():
            with connections["pages"].schema_editor() as editor:
                editor.create_model(CacheEntry)
            rows = CacheEntry.objects.using("pages")
            facts: Any = {"namespace": "n", "size_bytes": 1, "latency_ms": 1, "attempts": 1}
            at = datetime(2026, 1, 1, tzinfo=UTC)
            rows.bulk_create(
                CacheEntry(key=f"{number:064x}", kind="ab"[number % 2], written_at=at, **facts) for number in range(60)
            )
            yield rows.order_by("pk")
    finally:
        connections["pages"].close()
        del connections["pages"], connections.databases["pages"]


def test_a_large_table_is_estimated_and_a_part_of_it_bounded(entries: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert BoundedPaginator(entries, 10).told == "60"
    monkeypatch.setattr(counting, "MOST", 20)
    # The planner knows nothing yet.
    assert BoundedPaginator(entries, 10).told == "more than 20"
    with connections["pages"].cursor() as cursor:
        cursor.execute("ANALYZE llmcache_cacheentry")
    pages = BoundedPaginator(entries, 10)
    assert (pages.told, pages.count, pages.num_pages, pages.reaches_all) == ("about 60", 20, 2, False)
    assert BoundedPaginator(entries.filter(kind="a"), 10).told == "more than 20"
    few = BoundedPaginator(entries.filter(key__lt=f"{5:064x}"), 10)
    assert (few.told, few.num_pages, few.reaches_all) == ("5", 1, True)


def test_a_key_is_found_by_its_beginning_through_the_index(entries: Any) -> None:
    from llmcache.admin_pages.lists import beginning

    found = entries.order_by("-written_at", "-pk").filter(beginning("key", f"{7:064x}"[:63]))
    assert found.count() == 16
    with connections["pages"].cursor() as cursor:
        cursor.execute("ANALYZE llmcache_cacheentry; SET enable_seqscan = off")
    assert "llmcache_entry_of_key" in found.order_by("key").explain()
