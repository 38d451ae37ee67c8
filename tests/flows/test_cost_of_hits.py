"""What a hit asks of others: commands of Redis, statements of the database; counted where they arrive, or all leave."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from django.db.backends.utils import CursorWrapper
from pydantic import BaseModel

import llmcache
from llmcache.engine import process
from llmcache.models import CacheEntry
from llmcache.testing.sandbox import Sandbox
from llmcache.tiers import redis_loops
from tests.cache_servers import RedisServer
from tests.conftest import llmcache_settings
from tests.contract.aliases import in_caches

pytestmark = pytest.mark.django_db

HITS = 10
MEMORY = {"BACKEND": "llmcache.backends.MemoryCache", "LOCATION": "cost of hits"}


class Person(BaseModel):
    """A person."""

    name: str


ADA = Person(name="Ada")

Work = Callable[[], Any]


@pytest.fixture
def provider(sandbox: Sandbox) -> Sandbox:
    sandbox.answers |= {"Ada": {"name": "Ada"}, "Grace": {"name": "Grace"}}
    return sandbox


@pytest.fixture
def commands(redis_server: RedisServer) -> Iterator[Callable[[Work], dict[str, int]]]:
    """Gives what counts the commands that arrive at Redis during some work, by their names."""
    client = redis.Redis.from_url(redis_server.url)

    def calls() -> dict[str, int]:
        told: Any = client.info("commandstats")
        return {name.removeprefix("cmdstat_"): each["calls"] for name, each in told.items() if name != "cmdstat_info"}

    def count(work: Work) -> dict[str, int]:
        before = calls()
        work()
        return {name: count - before.get(name, 0) for name, count in calls().items() if count > before.get(name, 0)}

    yield count
    client.close()


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that leave for any database, on the connections of all threads."""
    found: list[str] = []
    for name in ("execute", "executemany"):
        own = getattr(CursorWrapper, name)

        def noted(self: CursorWrapper, sql: Any, *args: Any, _own: Any = own, **kwargs: Any) -> Any:
            found.append(str(sql))
            return _own(self, sql, *args, **kwargs)

        monkeypatch.setattr(CursorWrapper, name, noted)
    assert CacheEntry.objects.count() == 0
    assert len(found) == 1
    found.clear()
    return found


@contextlib.contextmanager
def tiers(*names: str, **aliases: Any) -> Iterator[None]:
    """Let calls have these tiers, with the answer for Ada in them."""
    with in_caches(**aliases), llmcache_settings(TIERS=list(names)):
        try:
            llmcache.extract("Ada", Person)
            yield
        finally:
            process.install(None)


def redis_alias(server: RedisServer) -> dict[str, Any]:
    return {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": server.url}


def hits(last: str) -> None:
    """Ask again, and see that this tier is the one that answers."""
    before = counted(last)
    assert [llmcache.extract("Ada", Person) for _ in range(HITS)] == [ADA] * HITS
    assert counted(last) - before == HITS


def awaited_hits(last: str) -> None:
    before = counted(last)

    async def ask() -> None:
        assert [await llmcache.aextract("Ada", Person) for _ in range(HITS)] == [ADA] * HITS

    asyncio.run(ask())
    assert counted(last) - before == HITS


def counted(tier: str) -> int:
    return process.current().counts.total().get(("Person", "openai/gpt-5-mini", tier, "hit"), 0)


WAYS = pytest.mark.parametrize("ask", [hits, awaited_hits], ids=["sync", "awaited"])


@WAYS
def test_a_hit_in_memory_asks_nobody(
    ask: Callable[[str], None],
    provider: Sandbox,
    redis_server: RedisServer,
    commands: Callable[[Work], dict[str, int]],
    statements: list[str],
) -> None:
    with tiers("memory", "shared", memory=MEMORY, shared=redis_alias(redis_server)):
        assert commands(lambda: ask("memory")) == {}
        assert statements == []
    assert provider.received == 1


def test_a_hit_in_redis_is_one_command_and_no_statement(
    provider: Sandbox,
    redis_server: RedisServer,
    commands: Callable[[Work], dict[str, int]],
    statements: list[str],
) -> None:
    with tiers("shared", shared=redis_alias(redis_server)):
        assert commands(lambda: hits("shared")) == {"get": HITS}
        assert statements == []
    assert provider.received == 1


@pytest.mark.parametrize("seconds", [0.0, float("inf")], ids=["long-lived", "short-lived"])
def test_an_awaited_hit_in_redis_is_one_command_and_no_statement(
    seconds: float,
    provider: Sandbox,
    redis_server: RedisServer,
    commands: Callable[[Work], dict[str, int]],
    statements: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether the loop is old enough for connections of its own, or a thread asks."""
    monkeypatch.setattr(redis_loops, "LONG_LIVED_SECONDS", seconds)
    with tiers("shared", shared=redis_alias(redis_server)):
        found = commands(lambda: awaited_hits("shared"))
        # A connection that is made says who it is.
        made = found.pop("client|setinfo", found.pop("client", 0))
        assert made <= 2
        assert found == {"get": HITS}
        assert statements == []
    assert provider.received == 1


@WAYS
def test_a_hit_on_disk_is_no_statement_of_the_database(
    ask: Callable[[str], None], provider: Sandbox, tmp_path: Path, statements: list[str]
) -> None:
    with tiers("alone", alone={"BACKEND": "llmcache.backends.DiskCache", "LOCATION": str(tmp_path / "alone")}):
        ask("alone")
        assert statements == []
    assert provider.received == 1


def test_a_miss_looks_takes_a_lease_and_publishes(
    provider: Sandbox, redis_server: RedisServer, commands: Callable[[Work], dict[str, int]], statements: list[str]
) -> None:
    """Three commands arrive: a look, and two scripts. What those do within the server is told by it too."""
    with tiers("memory", "shared", memory=MEMORY, shared=redis_alias(redis_server)):
        by_scripts = {"get": 2, "getrange": 2, "set": 3, "del": 1}
        found = Counter(commands(lambda: llmcache.extract("Grace", Person)))
        assert found - Counter(by_scripts) == {"get": 1, "evalsha": 2}
        assert statements == []
    assert provider.received == 2
