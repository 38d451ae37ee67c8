"""Calls over every kind of cache that a project may have below memory."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from asgiref.sync import async_to_sync
from django.core.cache import caches
from django.db import connections, transaction
from django.test import override_settings
from pydantic import BaseModel

import llmcache
from llmcache import keys
from llmcache.engine import process
from llmcache.testing.sandbox import Sandbox
from llmcache.tiers.configured import tier_of
from llmcache.tiers.django_tier import DjangoTier
from tests import forks
from tests.cache_servers import MemcachedServer, RedisServer
from tests.conftest import JournalReader, MovedClock, child_environment, llmcache_settings
from tests.contract.aliases import ALIAS, DATABASE, DJANGO, KINDS, aliases, in_caches


class Person(BaseModel):
    """A person."""

    name: str


ADA = {"name": "Ada"}
MEMORY = {"BACKEND": "llmcache.backends.MemoryCache", "LOCATION": "shared tiers"}


@pytest.fixture
def provider(sandbox: Sandbox) -> Sandbox:
    sandbox.answers["Ada"] = ADA
    return sandbox


@pytest.fixture(params=KINDS)
def shared(request: pytest.FixtureRequest, tmp_path: Path, provider: Sandbox) -> Iterator[str]:
    """Memory over a cache of each kind."""
    with (
        aliases(request, tmp_path) as make,
        in_caches(memory=MEMORY, **{ALIAS: make.settings(request.param)}),
        llmcache_settings(TIERS=["memory", ALIAS]),
    ):
        yield request.param
        process.current().tiers.drain(10)
        process.install(None)
        caches.close_all()


def restart() -> None:
    """Go on as another process of this test would: with nothing but what the tiers below memory have."""
    process.install(None)


def test_another_process_is_answered_from_it(shared: str, provider: Sandbox) -> None:
    assert llmcache.extract_with_info("Ada", Person).outcome == "miss"
    assert llmcache.extract_with_info("Ada", Person).tier == "memory"
    restart()
    found = llmcache.extract_with_info("Ada", Person)
    assert (found.value, found.outcome, found.tier) == (Person(**ADA), "hit", ALIAS)
    assert llmcache.extract_with_info("Ada", Person).tier == "memory"
    restart()
    found = async_to_sync(llmcache.aextract_with_info)("Ada", Person)
    assert (found.outcome, found.tier, provider.calls) == ("hit", ALIAS, 1)
    assert [(state.name, state.faults) for state in process.current().tiers.states()] == [("memory", 0), (ALIAS, 0)]


def test_the_second_part_lies_there_too(shared: str, provider: Sandbox, journal: JournalReader) -> None:
    first = llmcache.extract_with_completion("Ada", Person)
    restart()
    assert llmcache.extract_with_completion("Ada", Person) == first
    key = bytes.fromhex(llmcache.extract_with_info("Ada", Person).key)
    runtime = process.current()
    for tier in runtime.tiers.below:
        tier.delete(keys.supplement_key(runtime.namespace, key))
    assert llmcache.extract("Ada", Person) == Person(**ADA)
    assert provider.calls == 1
    again = llmcache.extract_with_completion("Ada", Person)
    assert again[0] == first[0]
    assert provider.calls == 2
    assert [line.facts["why"] for line in journal.records() if line.event == "started"] == [
        "not_found",
        "completion_missing",
    ]


@pytest.mark.parametrize("shared", ["django-redis", "file"], indirect=True)
def test_two_name_spaces_on_one_store_do_not_meet(shared: str, provider: Sandbox) -> None:
    for number, namespace in enumerate(("one", "two"), 1):
        with llmcache_settings(NAMESPACE=namespace):
            assert llmcache.extract_with_info("Ada", Person).outcome == "miss"
            assert provider.calls == number
    with llmcache_settings(NAMESPACE="one"):
        assert llmcache.extract_with_info("Ada", Person).tier == ALIAS
    assert provider.calls == 2


def test_what_is_found_below_keeps_the_time_it_has_left(
    provider: Sandbox, redis_server: RedisServer, tmp_path: Path, clock: MovedClock
) -> None:
    upper = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": redis_server.url}
    lower = {"BACKEND": f"{DJANGO}.filebased.FileBasedCache", "LOCATION": str(tmp_path / "file")}
    with in_caches(memory=MEMORY, upper=upper, lower=lower):
        with llmcache_settings(TIERS=["lower"], TTL=1_000), clock.kept():
            llmcache.extract("Ada", Person)
        clock.move(400)
        with llmcache_settings(TIERS=["memory", "upper", "lower"], TTL=1_000), clock.kept():
            found = llmcache.extract_with_info("Ada", Person)
            assert (found.outcome, found.tier) == ("hit", "lower")
            assert found.ttl_left_seconds == pytest.approx(600, abs=5)
            client = redis.Redis.from_url(redis_server.url)
            name = caches["upper"].make_key(keys.storage_key(process.current().namespace, bytes.fromhex(found.key)))
            assert 590_000 < client.pttl(name) <= 600_000
            client.close()
            clock.move(590)
            assert llmcache.extract_with_info("Ada", Person).tier == "memory"
            clock.move(20)
            assert llmcache.extract_with_info("Ada", Person).outcome == "miss"
        process.install(None)


def test_what_lies_in_redis_does_not_depend_on_the_serializer(provider: Sandbox, redis_server: RedisServer) -> None:
    ways: list[dict[str, Any]] = [
        {"BACKEND": "django_redis.cache.RedisCache"},
        {
            "BACKEND": "django_redis.cache.RedisCache",
            "OPTIONS": {
                "SERIALIZER": "django_redis.serializers.json.JSONSerializer",
                "COMPRESSOR": "django_redis.compressors.zlib.ZlibCompressor",
            },
        },
        {"BACKEND": f"{DJANGO}.redis.RedisCache"},
    ]
    outcomes = []
    for way in ways:
        with in_caches(shared={**way, "LOCATION": redis_server.url}), llmcache_settings(TIERS=[ALIAS]):
            outcomes.append(llmcache.extract_with_info("Ada", Person).outcome)
            process.install(None)
    assert outcomes == ["miss", "hit", "hit"]


CHILD = """
import json, sys
import django
django.setup()
from django.conf import settings
import llmcache
from tests.flows.test_shared_tiers import Person
found = llmcache.extract_with_info("Ada", Person)
print(json.dumps([found.outcome, found.tier, found.value.name]))
"""


@pytest.mark.parametrize("kind", ["django-redis", "Memcached"])
def test_a_process_finds_what_another_has_paid_for(
    kind: str, provider: Sandbox, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with aliases(request, tmp_path) as make, llmcache_settings(TIERS=[ALIAS]):
        given = make.settings(kind)
        with in_caches(**{ALIAS: given}):
            llmcache.extract("Ada", Person)
            environment = child_environment(
                LLMCACHE_TEST_CACHES=json.dumps({"default": {"BACKEND": f"{DJANGO}.locmem.LocMemCache"}, ALIAS: given})
            )
            done = forks.run(["-c", CHILD], env=environment, cwd=Path.cwd(), timeout=60)
            process.install(None)
            caches.close_all()
    assert json.loads(done.stdout or "null") == ["hit", ALIAS, "Ada"], done.stderr
    assert provider.calls == 1


def test_a_dummy_keeps_nothing_and_fails_nothing(provider: Sandbox) -> None:
    with in_caches(shared={"BACKEND": f"{DJANGO}.dummy.DummyCache"}), llmcache_settings(TIERS=[ALIAS]):
        assert [llmcache.extract_with_info("Ada", Person).outcome for _ in range(2)] == ["miss", "miss"]
        (state,) = process.current().tiers.states()
    assert (state.shared, state.faults) == ("process", 0)


# The client leaves a connection behind for each that it opens anew.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_memcached_that_stops_and_comes_back(
    provider: Sandbox, memcached_server: MemcachedServer, caplog: pytest.LogCaptureFixture
) -> None:
    given = {
        "BACKEND": f"{DJANGO}.memcached.PyMemcacheCache",
        "LOCATION": memcached_server.address,
        # Else the client itself leaves a server alone for a minute.
        "OPTIONS": {"retry_timeout": 0, "dead_timeout": 0},
    }
    with in_caches(shared=given), llmcache_settings(TIERS=[ALIAS]), caplog.at_level("INFO", logger="llmcache.tiers"):
        llmcache.extract("Ada", Person)
        memcached_server.stop()
        try:
            assert [llmcache.extract_with_info("Ada", Person).outcome for _ in range(4)] == ["miss"] * 4
            (state,) = process.current().tiers.states()
            assert state.faults > 0
            assert (state.breaker, state.error) == ("open", "ConnectionRefusedError")
        finally:
            memcached_server.start()
        deadline = time.monotonic() + 60
        while process.current().tiers.states()[0].breaker == "open":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        outcomes = [llmcache.extract_with_info("Ada", Person).outcome for _ in range(6)]
        assert outcomes[-1] == "hit"
        process.install(None)
        caches.close_all()
    said = [record.getMessage().split(":")[0].removeprefix("The tier 'shared' ") for record in caplog.records]
    # The connection that was open is a fault of its own, before the one that is refused.
    assert [line for line in said if "reached" in line] == ["cannot be reached", "can be reached again."]
    assert len(said) <= 4


def test_a_database_that_holds_up_reads_is_left_alone_meanwhile(
    request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with aliases(request, tmp_path) as make, in_caches(shared=make.settings("database on PostgreSQL")):
        tier = tier_of(ALIAS)
        assert isinstance(tier, DjangoTier)
        tier.set("key", b"value", 60)
        tier.drain(30)
        assert tier.get("key") == b"value"
        with (
            caplog.at_level("INFO", logger="llmcache.tiers"),
            transaction.atomic(DATABASE),
            connections[DATABASE].cursor() as cursor,
        ):
            cursor.execute('LOCK TABLE "llm cache" IN ACCESS EXCLUSIVE MODE')
            assert [tier.get("key") for _ in range(5)] == [None] * 5
            assert (tier.state().breaker, tier.state().faults, tier.state().error) == ("open", 1, "LateError")
        deadline = time.monotonic() + 60
        while tier.state().breaker == "open":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert tier.get("key") == b"value"
        tier.close()
    # The tier may be well again, and say so, between the end of the transaction and that of the capture.
    said, *_ = [record.getMessage() for record in caplog.records]
    assert said.startswith("The tier 'shared' cannot be reached: LateError: it was not done in time. Calls go on ")
    assert [record.levelname for record in caplog.records].count("WARNING") == 1


def test_a_value_that_memcached_does_not_take_is_dropped_and_counted(
    provider: Sandbox, memcached_server: MemcachedServer
) -> None:
    given = {"BACKEND": f"{DJANGO}.memcached.PyMemcacheCache", "LOCATION": memcached_server.address}
    with in_caches(shared=given):
        tier = tier_of(ALIAS)
        name = keys.storage_key("large", b"\1" * 32)
        tier.set(name, b"x", None)
        tier.set(name, b"x" * (2 * 2**20), None)
        assert (tier.get(name), tier.state().faults) == (None, 1)
        tier.set(name, b"y", None)
        assert (tier.get(name), tier.state().writes) == (b"y", True)
        assert isinstance(tier, DjangoTier)
        tier.close()


@pytest.mark.parametrize("value", [None, "text", 5, b"bytes", ["list"], {"a": b"b"}, 1.5, True])
def test_what_else_lies_under_a_key_is_a_miss(value: Any, provider: Sandbox, tmp_path: Path) -> None:
    given = {"BACKEND": f"{DJANGO}.filebased.FileBasedCache", "LOCATION": str(tmp_path / "file")}
    with in_caches(shared=given), llmcache_settings(TIERS=[ALIAS]):
        key = bytes.fromhex(llmcache.extract_with_info("Ada", Person).key)
        name = keys.storage_key(process.current().namespace, key)
        caches[ALIAS].set(name, value)
        assert llmcache.extract_with_info("Ada", Person).outcome == "miss"
        assert llmcache.extract_with_info("Ada", Person).outcome == "hit"


def default_tiers(default: dict[str, Any], **changes: Any) -> list[tuple[str, str]]:
    with override_settings(CACHES={"default": default}), llmcache_settings(TIERS=None, **changes):
        states = process.current().tiers.states()
        process.install(None)
        return [(state.name, state.backend) for state in states]


def test_without_settings_memory_lies_over_the_projects_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    file = {"BACKEND": f"{DJANGO}.filebased.FileBasedCache", "LOCATION": str(tmp_path / "file")}
    memory, disk = ("memory", "memory"), ("disk", "disk folder")
    assert default_tiers(file, DISK_PATH=None) == [memory, ("default", file["BACKEND"])]
    assert default_tiers(file, DISK_PATH=tmp_path / "own") == [memory, disk]
    for backend in ("locmem.LocMemCache", "dummy.DummyCache"):
        assert default_tiers({"BACKEND": f"{DJANGO}.{backend}"}, DISK_PATH=None) == [memory, disk]
    assert default_tiers(MEMORY, DISK_PATH=None) == [memory, disk]
    folder = {"BACKEND": "llmcache.backends.DiskCache", "LOCATION": str(tmp_path / "disk")}
    assert default_tiers(folder, DISK_PATH=None) == [memory, ("default", folder["BACKEND"])]


def test_without_a_folder_memory_is_alone_and_keeps_completions(provider: Sandbox, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.touch()
    with llmcache_settings(DISK_PATH=blocker / "folder"):
        first = llmcache.extract_with_completion("Ada", Person)
        assert llmcache.extract_with_completion("Ada", Person) == first
        assert process.current().tiers.names == ("memory",)
    assert provider.calls == 1
