"""TTLs, to the second: in every tier, however long, whoever has written."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from django.core.cache import caches
from pydantic import BaseModel

import llmcache
from llmcache.engine import process
from llmcache.testing.sandbox import Sandbox
from tests.conftest import MovedClock, llmcache_settings
from tests.contract.aliases import ALIAS, DJANGO, aliases, in_caches

pytestmark = pytest.mark.django_db

DAY: Final = 86_400.0
HORIZON: Final = 400 * DAY - 3_600
"""Past it an entry is a miss: an hour before the rows that could have made it void may be gone on another machine."""
ENDS: Final = {
    "a second": (1.0, 1.0),
    "an hour": (3_600.0, 3_600.0),
    "ten years": (3_650 * DAY, HORIZON),
    "None": (None, HORIZON),
}
"""By name, the TTL and when it is over."""
TIERS: Final = (
    "memory",
    "disk",
    "locmem",
    "file",
    "database on SQLite",
    "database on PostgreSQL",
    "django-redis",
    "Redis",
    "Memcached",
    "DjangoCache",
)


class Person(BaseModel):
    """A person."""

    age: int


@pytest.fixture
def provider(sandbox: Sandbox) -> Sandbox:
    sandbox.answers["Ada"] = {"age": 36}
    return sandbox


@pytest.fixture(params=TIERS)
def tier(request: pytest.FixtureRequest, tmp_path: Path, provider: Sandbox, clock: MovedClock) -> Iterator[str]:
    """One tier, over another from which something may be promoted."""
    kind: str = request.param
    own = {"BACKEND": "llmcache.backends.MemoryCache", "LOCATION": "the one"}
    lower = {"BACKEND": f"{DJANGO}.filebased.FileBasedCache", "LOCATION": str(tmp_path / "lower")}
    with (
        aliases(request, tmp_path) as make,
        in_caches(lower=lower, **{ALIAS: own if kind == "memory" else make.settings(kind)}),
        llmcache_settings(TIERS=[ALIAS, "lower"]),
    ):
        clock.install()
        yield kind
        process.install(None)
        caches.close_all()


def written(by: str, ttl: float | None, clock: MovedClock) -> None:
    """Have an entry in the tier, and nowhere else that is looked at from then on."""
    if by == "awaited":
        asyncio.run(_awaited(ttl))
    elif by == "called":
        llmcache.extract("Ada", Person, ttl=ttl)
    else:
        with llmcache_settings(TIERS=["lower"]), clock.kept():
            llmcache.extract("Ada", Person, ttl=ttl)
        # Found below and written above, with the time it has left.
        clock.install()
        assert llmcache.extract_with_info("Ada", Person, ttl=None).tier == "lower"
    process.current().tiers.drain(10)
    caches["lower"].clear()


async def _awaited(ttl: float | None) -> None:
    await llmcache.aextract("Ada", Person, ttl=ttl)


def outcome() -> str:
    return llmcache.extract_with_info("Ada", Person, ttl=None, cache="only").outcome


@pytest.mark.parametrize("ttl", ENDS)
@pytest.mark.parametrize("by", ["called", "awaited", "promoted"])
def test_it_ends_to_the_second(tier: str, by: str, ttl: str, clock: MovedClock, provider: Sandbox) -> None:
    seconds, end = ENDS[ttl]
    written(by, seconds, clock)
    # A real second may pass while a test runs: the shortest TTL is looked at when it is over alone.
    before = 0.0 if end == 1.0 else end - 1.0
    if before:
        clock.move(before - 0.9)
        assert outcome() == "hit"
        assert asyncio.run(_found()) == 36
        found = llmcache.extract_with_info("Ada", Person, ttl=None)
        left = None if seconds is None else seconds - found.age_seconds
        assert found.ttl_left_seconds == (None if left is None else pytest.approx(left, abs=0.01))
    clock.move(end - before + 0.9)
    with pytest.raises(llmcache.NotCached):
        outcome()
    with pytest.raises(llmcache.NotCached):
        asyncio.run(_found())
    assert provider.calls == 1


async def _found() -> int:
    return (await llmcache.aextract("Ada", Person, ttl=None, cache="only")).age


@pytest.mark.parametrize("tier", ["memory", "disk", "django-redis"], indirect=True)
def test_popular_is_not_immortal(tier: str, clock: MovedClock, provider: Sandbox) -> None:
    written("called", 100, clock)
    for _ in range(9):
        clock.move(10)
        assert outcome() == "hit"
    clock.move(10.1)
    with pytest.raises(llmcache.NotCached):
        outcome()


@pytest.mark.parametrize("tier", ["memory", "disk", "django-redis"], indirect=True)
def test_jitter_takes_some_off_and_the_same_each_time(tier: str, clock: MovedClock, provider: Sandbox) -> None:
    texts = [f"text {number}" for number in range(40)]
    with llmcache_settings(JITTER=0.2), clock.kept():

        def left() -> list[Any]:
            found = [llmcache.extract_with_info(text, Person, ttl=1_000) for text in texts]
            return [round(1_000 - each.age_seconds - (each.ttl_left_seconds or 0)) for each in found]

        for text in texts:
            provider.answers[text] = {"age": 1}
        first = left()
        # Between nothing and a fifth, and not all in one place.
        assert 0 <= min(first) < 40
        assert 160 < max(first) <= 200
        assert len(set(first)) > 20
        # It follows from the key.
        assert left() == first
        clock.move(1_001)
        assert left() == first
        assert provider.calls == 80
        clock.move(900)
        outcomes = {llmcache.extract_with_info(text, Person, ttl=1_000).outcome for text in texts}
        assert outcomes == {"hit", "miss"}


def test_there_is_some_unless_a_project_says_none() -> None:
    from llmcache import conf

    assert conf.read({}).jitter == 0.1


def test_a_ttl_of_none_has_no_jitter(provider: Sandbox, clock: MovedClock) -> None:
    with llmcache_settings(JITTER=1.0), clock.kept():
        llmcache.extract("Ada", Person, ttl=None)
        clock.move(399 * DAY)
        assert llmcache.extract_with_info("Ada", Person, ttl=None).outcome == "hit"


@pytest.mark.parametrize("value", [-0.1, 1.1, True, "0.1", None, float("nan")])
def test_what_is_no_share_is_refused(value: Any) -> None:
    from llmcache import conf

    (problem,) = conf.problems({"JITTER": value})
    assert problem.message == "LLMCACHE['JITTER'] must be a number from 0 to 1."
