"""A ledger of an earlier version keeps its rows and gets what later ones know of them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.db import connections
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.state import StateApps
from pytest_django import DjangoDbBlocker

from llmcache.models import CacheEntry, ProviderCall, UsageBucket
from tests.ledgers import ALIAS, known
from tests.services import Postgres

NOON = datetime(2026, 3, 20, 12, tzinfo=UTC)
TAGS: dict[str, list[str]] = {"0": [], "1": ["b", "a", "b"], "2": ["a"]}


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    """The alias of a database without any tables."""
    if request.param == "sqlite":
        sqlite = {**connections.databases["default"], "NAME": str(tmp_path / "old.sqlite3")}
        database = {**sqlite, "ENGINE": "django.db.backends.sqlite3"}
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        database = postgres.database("old")
    with django_db_blocker.unblock(), known(database):
        yield ALIAS


def migrate(using: str, name: str | None = None) -> StateApps:
    """Bring the ledger's tables to a version, by default the newest, and return the models of then."""
    executor = MigrationExecutor(connections[using])
    targets = [("llmcache", name)] if name else executor.loader.graph.leaf_nodes("llmcache")
    return executor.migrate(targets).apps


def test_rows_of_the_first_version_are_kept(empty: str) -> None:
    first = migrate(empty, "0001_initial")
    entries = first.get_model("llmcache", "CacheEntry").objects.using(empty)
    for number, (key, tags) in enumerate(TAGS.items()):
        entries.create(
            **dict.fromkeys(("namespace", "kind", "response_type", "schema", "model", "source"), "x"),
            **dict.fromkeys(("size_bytes", "latency_ms", "attempts"), 1),
            key=key * 64,
            tags=tags,
            written_at=NOON,
            hits=number,
            cost_pico_usd=None if number == 2 else 7,
        )
    first.get_model("llmcache", "ProviderCall").objects.using(empty).create(
        **dict.fromkeys(("kind", "response_type", "schema", "model"), "x"),
        call_id="0190a5f0-0000-7000-8000-000000000000",
        started_at=NOON,
        **dict.fromkeys(("attempt", "to_store", "batch"), 1),
        outcome="answered",
    )
    buckets = first.get_model("llmcache", "UsageBucket").objects.using(empty)
    for hours in range(2):
        buckets.create(hour=NOON + timedelta(hours=hours), kind="x", model="x", tier="", outcome="miss", count=3)

    migrate(empty)
    kept = CacheEntry.objects.using(empty).order_by("key")
    # Of an entry without a known cost nothing is known to have been saved.
    assert [(each.hits, each.saved_pico_usd, each.simulated) for each in kept] == [
        (0, 0, False),
        (1, 7, False),
        (2, 0, False),
    ]
    assert [sorted(each.tag_rows.values_list("tag", flat=True)) for each in kept] == [[], ["a", "b"], ["a"]]
    (call,) = ProviderCall.objects.using(empty)
    assert (call.outcome, call.ttl_seconds, call.simulated) == ("answered", None, False)
    assert list(UsageBucket.objects.using(empty).values_list("count", "simulated")) == [(3, False)] * 2


def test_back_and_forth(empty: str) -> None:
    migrate(empty)
    migrate(empty, "0001_initial")
    migrate(empty)
    assert not CacheEntry.objects.using(empty).exists()
