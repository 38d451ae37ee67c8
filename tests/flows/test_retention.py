"""How long invalidations are kept, and what becomes of entries that are older."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from pydantic import BaseModel

import llmcache
from llmcache import housekeeping
from llmcache.engine import process
from llmcache.models import Invalidation
from llmcache.pruning import AT_A_TIME
from llmcache.testing.sandbox import Sandbox
from tests.conftest import MovedClock, llmcache_settings

pytestmark = pytest.mark.django_db

DAY = 86_400.0


class Person(BaseModel):
    """A person."""

    name: str


def outcome(**options: Any) -> str:
    return llmcache.extract_with_info("Ada", Person, **options).outcome


def rows(count: int, days: float) -> None:
    namespace, at = process.current().namespace, timezone.now() - timedelta(days=days)
    Invalidation.objects.bulk_create(
        Invalidation(uid=f"{days:g}x{number:05}x".ljust(32, "0"), namespace=namespace, tag="old", made_at=at)
        for number in range(count)
    )


def left(tag: str = "old") -> int:
    return Invalidation.objects.filter(tag=tag).count()


def test_each_that_is_made_may_take_a_hundred_of_the_oldest_with_it(sandbox: Sandbox) -> None:
    rows(2 * AT_A_TIME + 20, days=401)
    rows(AT_A_TIME, days=399)
    for there in (220, 120, 120):
        llmcache.invalidate(tag="new")
        # Fewer than a hundred are left for later: every process reads the whole log anew when some are gone.
        assert left() == there
    assert left("new") == 3


def test_those_that_were_undone_go_too(sandbox: Sandbox) -> None:
    rows(AT_A_TIME, days=401)
    Invalidation.objects.update(active=False)
    rows(AT_A_TIME - 1, days=402)
    llmcache.invalidate(tag="new")
    assert left() == AT_A_TIME - 1


def test_those_of_another_project_stay(sandbox: Sandbox) -> None:
    rows(AT_A_TIME, days=401)
    Invalidation.objects.update(namespace="another")
    llmcache.invalidate(tag="new")
    assert left() == AT_A_TIME


def test_the_setting_says_how_long(sandbox: Sandbox) -> None:
    with llmcache_settings(RETENTION={"invalidations": timedelta(days=30)}):
        process.install(None)
        rows(AT_A_TIME, days=31)
        rows(AT_A_TIME, days=29)
        llmcache.invalidate(tag="new")
        assert left() == AT_A_TIME


@pytest.mark.parametrize("ttl", [None, 10 * 365 * DAY])
@pytest.mark.parametrize("below", [False, True])
def test_an_entry_from_before_the_oldest_row_is_a_miss(
    ttl: float | None, below: bool, sandbox: Sandbox, clock: MovedClock, forget_memory: Any
) -> None:
    with clock.kept():
        assert outcome(ttl=ttl) == "miss"
        clock.move(399 * DAY)
        if below:
            forget_memory()
        assert outcome(ttl=ttl) == "hit"
        assert llmcache.extract("Ada", Person, ttl=ttl)
        assert asyncio.run(llmcache.aextract("Ada", Person, ttl=ttl))
        assert sandbox.calls == 1
        clock.move(DAY)
        if below:
            forget_memory()
        assert llmcache.extract("Ada", Person, ttl=ttl)
        assert sandbox.calls == 2
        assert outcome(ttl=ttl) == "hit"


def test_what_does_not_expire_says_so(sandbox: Sandbox) -> None:
    outcome(ttl=None)
    assert llmcache.extract_with_info("Ada", Person, ttl=None).ttl_left_seconds is None


def test_kept_for_longer_than_there_are_years(sandbox: Sandbox) -> None:
    times = dict.fromkeys(("invalidations", "calls", "entries", "hours", "runs"), timedelta(days=900_000))
    with llmcache_settings(RETENTION=times):
        process.install(None)
        rows(AT_A_TIME, days=401)
        assert outcome() == "miss"
        llmcache.invalidate(tag="new")
        assert housekeeping.keep_house(2.0).failed == {}
        assert (left(), outcome()) == (AT_A_TIME, "hit")
