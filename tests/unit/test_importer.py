"""The importer: what it takes out of the journal's files and memory, and when."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator
from pathlib import Path
from uuid import UUID

import pytest
from django.conf import settings

from llmcache.engine import process
from llmcache.engine.counts import Tally
from llmcache.models import CacheEntry, ProviderCall, UsageBucket
from llmcache.money.gate import Gate
from llmcache.money.importer import Importer, LaterError
from llmcache.money.journal import Journal
from tests.conftest import MovedClock, llmcache_settings
from tests.unit.ledger_records import failed, rejected, settled, started, stored

pytestmark = pytest.mark.django_db


def call(number: int) -> str:
    return str(UUID(int=number))


def begin(journal: Journal, number: int) -> None:
    journal.started(call(number), started(number).facts)


def end(journal: Journal, number: int) -> None:
    journal.settled(call(number), settled(number).facts)


def outcomes() -> dict[int, str]:
    return {each.call_id.int: each.outcome for each in ProviderCall.objects.all()}


class Often(Gate):
    """A gate that is shut every second time."""

    looks = 0

    @contextlib.contextmanager
    def passed(self, alias: str) -> Generator[bool]:
        self.looks += 1
        yield self.looks % 2 == 0


@pytest.fixture
def folder() -> Path:
    return Path(settings.LLMCACHE["JOURNAL"])


def test_a_call_is_a_row_when_it_has_ended(folder: Path) -> None:
    now = process.current()
    importer = Importer(now)
    begin(now.journal, 1)
    begin(now.journal, 2)
    importer.import_own()
    assert outcomes() == {}
    end(now.journal, 1)
    importer.import_own()
    assert outcomes() == {1: "answered"}
    now.journal.failed(call(2), failed().facts)
    importer.import_own()
    importer.import_own()
    assert outcomes() == {1: "answered", 2: "failed"}


@pytest.mark.parametrize("event", ["stored", "rejected"])
def test_what_follows_a_damaged_end_is_no_end(event: str, folder: Path) -> None:
    now = process.current()
    importer = Importer(now)
    begin(now.journal, 1)
    end(now.journal, 1)
    if event == "stored":
        now.journal.stored(call(1), stored().facts)
    else:
        now.journal.rejected(call(1), rejected().facts)
    (path,) = folder.iterdir()
    lines = path.read_bytes().splitlines(keepends=True)
    with path.open("r+b") as file:
        file.seek(len(lines[0]) + 90)
        file.write(b"?")
    importer.import_own()
    importer.import_own()
    assert (outcomes(), importer.damaged) == ({1: "in_doubt"}, 1)
    assert CacheEntry.objects.count() == (event == "stored")


def test_a_record_of_which_no_row_can_be_made_is_counted_and_said_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = process.current()
    importer = Importer(now)
    now.journal.started("no id", started().facts)
    now.journal.settled("no id", settled().facts)
    begin(now.journal, 1)
    end(now.journal, 1)
    with caplog.at_level(logging.WARNING, "llmcache.ledger"):
        importer.import_own()
        importer.import_own()
    assert (outcomes(), importer.damaged) == ({1: "answered"}, 2)
    assert [record.getMessage()[:8] for record in caplog.records] == ["2 lines "]


def test_a_dead_file_comes_in_piece_by_piece_beside_busy_callers(folder: Path) -> None:
    """The gate is shut at every other look: what began anew each time would never come to its end."""
    now = process.current()
    dead = Journal(folder, now.namespace, fsync=False)
    for number in range(1, 201):
        begin(dead, number)
        end(dead, number)
    dead.close()
    gate = Often()
    importer = Importer(now, gate)
    with pytest.raises(LaterError):
        importer.import_dead()
    importer.import_dead()
    assert (len(outcomes()), gate.looks > 8, list(folder.iterdir())) == (200, True, [])


def test_lines_of_this_process_come_in_piece_by_piece_beside_busy_callers(folder: Path) -> None:
    now = process.current()
    for number in range(1, 101):
        begin(now.journal, number)
        end(now.journal, number)
    importer = Importer(now, Often())
    turns = 0
    while len(outcomes()) < 100:
        turns += 1
        with contextlib.suppress(LaterError):
            importer.import_own()
        assert turns < 100


# Lines that wait in memory


def test_the_start_of_a_call_under_way_goes_on_waiting_for_a_file(folder: Path) -> None:
    folder.touch()
    now = process.current()
    importer = Importer(now)
    begin(now.journal, 1)
    begin(now.journal, 2)
    end(now.journal, 2)
    importer.import_own()
    assert (outcomes(), now.journal.waiting) == ({2: "answered"}, 1)
    folder.unlink()
    begin(now.journal, 3)
    assert (now.journal.waiting, len(list(folder.iterdir()))) == (0, 1)
    # Killed here, its file tells the next process of both.
    now.journal.close()
    Importer(now).import_dead()
    assert outcomes() == {1: "in_doubt", 2: "answered", 3: "in_doubt"}


def test_a_call_that_was_refused_is_no_row(folder: Path) -> None:
    folder.touch()
    now = process.current()
    importer = Importer(now)
    begin(now.journal, 1)
    importer.import_own()
    assert now.journal.withdraw(call(1))
    importer.import_own()
    importer.import_own()
    assert outcomes() == {}


def test_a_call_whose_lines_wait_is_in_doubt_when_the_process_ends(folder: Path) -> None:
    folder.touch()
    now = process.current()
    begin(now.journal, 1)
    begin(now.journal, 2)
    end(now.journal, 2)
    Importer(now).finish()
    assert outcomes() == {1: "in_doubt", 2: "answered"}


# Files that give way


def test_an_imported_file_makes_room_at_once() -> None:
    with llmcache_settings(JOURNAL_MAX_BYTES=8_192):
        now = process.current()
        importer = Importer(now)
        for number in range(1, 61):
            begin(now.journal, number)
            end(now.journal, number)
            if number % 6 == 0:
                assert now.journal.keeps_up
                importer.import_own()
                assert sum(file.size for file in now.journal.files()) < 3_000
    assert len(outcomes()) == 60


def test_a_file_with_a_line_that_is_not_imported_yet_stays(folder: Path) -> None:
    now = process.current()
    importer = Importer(now)
    begin(now.journal, 1)
    end(now.journal, 1)
    importer.import_own()
    late, real = iter([2]), now.journal.files

    def files() -> object:
        found = real()
        for number in late:
            begin(now.journal, number)
            end(now.journal, number)
        return found

    importer.import_own()
    now.journal.files = files  # type: ignore[method-assign,assignment]
    with pytest.raises(LaterError):
        importer.finish()
    importer.finish()
    assert (outcomes(), list(folder.iterdir())) == ({1: "answered", 2: "answered"}, [])


# Counts


def test_counts_are_of_their_hour_though_the_database_comes_later(clock: MovedClock) -> None:
    now = process.current()
    importer = Importer(now)
    clock.move(3_600 - now.clock.wall() % 3_600 - 1)
    hit = Tally("Person", "openai/m", None, "memory", "hit")
    now.counts.count(hit)
    importer.collect_counts()
    now.counts.count(hit)
    clock.move(2)
    importer.collect_counts()
    now.counts.count(hit)
    clock.move(3_600)
    importer.collect_counts()
    importer.write_counts()
    buckets = UsageBucket.objects.order_by("hour")
    assert [bucket.count for bucket in buckets] == [2, 1]
    assert (buckets[1].hour - buckets[0].hour).total_seconds() == 3_600
