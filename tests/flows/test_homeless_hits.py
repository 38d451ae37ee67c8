"""Hits that are counted before their entry has a row, for another process wrote it and has not brought it in yet."""

from pathlib import Path

import pytest
from pydantic import BaseModel

import llmcache
from llmcache.engine import process
from llmcache.models import CacheEntry, UsageBucket
from llmcache.money import importer
from llmcache.money.importer import Importer
from llmcache.testing.sandbox import Sandbox
from tests.conftest import llmcache_settings

pytestmark = pytest.mark.django_db


class Person(BaseModel):
    name: str


@pytest.fixture
def others_entry(sandbox: Sandbox, tmp_path: Path) -> dict[str, object]:
    """An entry in the tier whose row is gone, as if it had not come yet."""
    sandbox.answers["a text"] = {"name": "a"}
    llmcache.extract("a text", Person)
    assert llmcache.flush()
    row = CacheEntry.objects.values().get()
    CacheEntry.objects.all().delete()
    process.install(None)
    return row


def test_they_are_added_when_the_row_has_come(others_entry: dict[str, object], tmp_path: Path) -> None:
    with llmcache_settings(JOURNAL=tmp_path / "another"):
        for _ in range(3):
            llmcache.extract("a text", Person)
        mine = Importer(process.current())
        mine.write_counts()
        assert sum(UsageBucket.objects.filter(outcome="hit").values_list("count", flat=True)) == 3
        llmcache.extract("a text", Person)
        mine.write_counts()
        CacheEntry.objects.create(**others_entry)
        mine.write_counts()
        assert CacheEntry.objects.get().hits == 4
        mine.write_counts()
        assert CacheEntry.objects.get().hits == 4


def test_they_do_not_wait_for_ever(
    others_entry: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importer, "HOMELESS_SECONDS", 0.0)
    with llmcache_settings(JOURNAL=tmp_path / "another"):
        llmcache.extract("a text", Person)
        mine = Importer(process.current())
        mine.write_counts()
        CacheEntry.objects.create(**others_entry)
        mine.write_counts()
        assert CacheEntry.objects.get().hits == 0


def test_there_is_room_for_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importer, "MAX_HOMELESS", 2)
    waiting = importer.Homeless()
    waiting.keep({bytes([number]): importer.Avoided(1, 5) for number in range(3)})
    waiting.keep({bytes([number]): importer.Avoided(2, 7) for number in range(3)})
    assert waiting.due() == {b"\0": (3, 12), b"\1": (3, 12)}
