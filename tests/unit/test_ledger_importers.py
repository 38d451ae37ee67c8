"""Several importers and counters of one ledger at once, over PostgreSQL: nothing twice, and none waits for another."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
from django.core.management import call_command
from django.db import connections
from pytest_django import DjangoDbBlocker

from llmcache.engine.counts import Collected, Tally
from llmcache.models import CacheEntry, ProviderCall, TenantDay, UsageBucket
from llmcache.money.journal_files import JournalRecord
from llmcache.money.ledger import add_counts, import_records
from tests.services import Postgres
from tests.unit.ledger_records import (
    AT,
    FIELDS,
    HOSTILE,
    HOUR,
    NAMESPACE,
    call,
    endless,
    everything,
    hits_of,
    rejected,
    settled,
    started,
    stored,
)

IMPORTERS = 4


@pytest.fixture
def ledger(postgres: Postgres, django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    """The alias of a PostgreSQL database with the ledger's tables; the test's own database is not touched."""
    alias = "ledger"
    connections.databases[alias] = postgres.database("ledger")
    connections.configure_settings(connections.databases)
    try:
        with django_db_blocker.unblock():
            call_command("migrate", "llmcache", database=alias, verbosity=0)
            yield alias
            connections[alias].close()
    finally:
        del connections[alias]
        del connections.databases[alias]


def at_once(*works: Callable[[], object]) -> None:
    """Run these in threads that begin together; the first error of one is raised."""
    errors: list[BaseException] = []
    begin = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> None:
        try:
            begin.wait(30)
            work()
        except BaseException as error:  # noqa: BLE001 - told to the test
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def chunks(records: Sequence[JournalRecord], size: int) -> Iterator[Sequence[JournalRecord]]:
    for start in range(0, len(records), size):
        yield records[start : start + size]


def test_importers_of_the_same_records_bring_each_in_once(ledger: str) -> None:
    records: list[JournalRecord] = []
    for number in range(1, 201):
        first = started(number, AT + number % 3, kind="AB"[number % 2], tenant=f"t{number % 5}")
        records += [first, settled(number, cost=number), stored(number, key=f"{number % 20:064x}", written=AT + number)]
        if number % 7 == 0:
            records.append(rejected(number))
    import_records(records, using=ledger, namespace=NAMESPACE)
    expected = everything(ledger)
    for model in (ProviderCall, CacheEntry, UsageBucket, TenantDay):
        model._default_manager.using(ledger).all().delete()

    def importer(seed: int) -> Callable[[], None]:
        def work() -> None:
            mine = records[:]
            random.Random(seed).shuffle(mine)
            for part in chunks(mine, 40):
                in_doubt = endless(part)
                import_records(part, using=ledger, namespace=NAMESPACE, in_doubt=in_doubt)

        return work

    at_once(*(importer(seed) for seed in range(IMPORTERS)))
    assert everything(ledger) == expected


def test_importers_and_counters_do_not_wait_for_each_other(ledger: str) -> None:
    """Entries that are written anew, hits of the same entries, and the same buckets, in orders of their own."""
    keys = [f"{number:064x}" for number in range(150)]
    rounds = 12
    import_records(
        [stored(number + 1, key=key, written=AT) for number, key in enumerate(keys)], using=ledger, namespace=NAMESPACE
    )

    def write(seed: int) -> Callable[[], None]:
        def work() -> None:
            chance = random.Random(seed)
            for turn in range(1, rounds + 1):
                base = 100_000 * (seed + 1) + 200 * turn
                some = chance.sample(keys, 60)
                records: list[JournalRecord] = []
                for at, key in enumerate(some):
                    records += [started(base + at), settled(base + at)]
                    records += [stored(base + at, key=key, written=AT + turn + seed / 10)]
                import_records(records, using=ledger, namespace=NAMESPACE)

        return work

    def count(seed: int) -> Callable[[], None]:
        def work() -> None:
            chance = random.Random(seed)
            for _ in range(rounds):
                made = Collected()
                for key in chance.sample(keys, len(keys)):
                    made.merge(hits_of(key, 1, chance.choice(["hit", "collapsed"])))
                made.add(Tally("Ticket", "openai/m", "acme", None, "miss"), 1, int(HOUR.timestamp()))
                add_counts(made, using=ledger, namespace=NAMESPACE, at=AT)

        return work

    at_once(*(work(seed) for seed in range(2) for work in (write, count)))
    found = everything(ledger)
    assert {each["hits"] for each in found["entries"].values()} == {2 * rounds}
    assert sum(each["attempts"] for each in found["hours"].values()) == len(found["calls"]) == 2 * rounds * 60
    assert sum(each["count"] for each in found["hours"].values()) == 2 * rounds * (len(keys) + 1)


def test_of_two_importers_the_newer_entry_wins(ledger: str) -> None:
    """Each entry is written by both, newer and older by turns."""
    keys = [f"{number:064x}" for number in range(40)]

    def write(seed: int) -> Callable[[], None]:
        def work() -> None:
            for turn in range(30):
                for number, key in enumerate(keys):
                    keyed = stored(1, key=f"{turn:02}{key[2:]}", written=AT + (number + seed) % 2, kind=str(seed))
                    import_records([keyed], using=ledger, namespace=NAMESPACE)

        return work

    at_once(write(0), write(1))
    found = CacheEntry.objects.using(ledger).values_list("key", "written_at", flat=False)
    assert len(found) == 30 * len(keys)
    assert {written.timestamp() for _, written in found} == {AT + 1}


def test_hostile_facts_hold_up_nothing_over_postgresql(ledger: str) -> None:
    """What SQLite takes and PostgreSQL does not: NUL, surrogates, long texts, numbers beyond a column's."""
    bad = [
        make(number, **{name: value})
        for number, (make, name, value) in enumerate(
            ((make, name, value) for make in (started, settled, stored) for name in FIELDS for value in HOSTILE), 100
        )
    ]
    good = [started(1), settled(1), stored(1, key="12" * 32)]
    for part in chunks([*bad, *good], 400):
        import_records(part, using=ledger, namespace=NAMESPACE)
    assert ProviderCall.objects.using(ledger).get(call_id=call(1)).outcome == "answered"
    assert CacheEntry.objects.using(ledger).get(key="12" * 32).kind == "Ticket"
    assert ProviderCall.objects.using(ledger).count() == 1 + len([each for each in bad if each.event != "stored"])
