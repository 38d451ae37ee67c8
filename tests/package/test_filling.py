"""The ledger that the pages are measured over is like one that was written: sums are those of its rows."""

from collections.abc import Iterator

import pytest
from django.core.management import call_command
from django.db import connections
from django.db.models import Count, Q, Sum
from pytest_django import DjangoDbBlocker

from benchmarks.filling import fill
from llmcache.models import CacheEntry, EntryTag, ProviderCall, SchemaVersion, TenantDay, UsageBucket
from tests.ledgers import ALIAS, known
from tests.services import Postgres

CALLS, ENTRIES = 3_000, 200


@pytest.fixture
def filled(postgres: Postgres, django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    """The alias of a database that the benchmark has filled."""
    with django_db_blocker.unblock(), known(postgres.database("filled")):
        call_command("migrate", "llmcache", database=ALIAS, verbosity=0)
        fill(ALIAS, calls=CALLS, entries=ENTRIES)
        yield ALIAS


def test_sums_are_those_of_the_rows(filled: str) -> None:
    calls = ProviderCall.objects.using(filled)
    assert (calls.count(), CacheEntry.objects.using(filled).count()) == (CALLS, ENTRIES)
    left = calls.exclude(outcome="under_way").aggregate(
        attempts=Count("pk"),
        spent_pico_usd=Sum("cost_pico_usd", filter=~Q(outcome="in_doubt")),
        in_doubt=Count("pk", filter=Q(outcome="in_doubt")),
    )
    for table in (UsageBucket, TenantDay):
        rows = table._default_manager.using(filled)
        assert rows.aggregate(**{name: Sum(name) for name in left}) == left
        assert rows.filter(outcome="hit").aggregate(avoided=Sum("avoided_pico_usd"))["avoided"] > 0
    assert calls.filter(key__in=CacheEntry.objects.using(filled).values("key")).count() == CALLS
    prints = SchemaVersion.objects.using(filled).values("fingerprint")
    assert not calls.exclude(schema__in=prints).exists()
    tagged = EntryTag.objects.using(filled).values("entry").distinct().count()
    assert tagged == CacheEntry.objects.using(filled).exclude(tags=[]).count() > 0


def test_indexes_are_there_again(filled: str) -> None:
    names = "SELECT indexname FROM pg_indexes WHERE tablename LIKE 'llmcache_%' ORDER BY indexname"
    with connections[filled].cursor() as cursor:
        cursor.execute(names)
        found = [name for (name,) in cursor.fetchall()]
    declared = [index.name for index in (*CacheEntry._meta.indexes, *ProviderCall._meta.indexes)]
    assert set(declared) <= set(found)
