"""A Redis under awaited calls: asked in the caller's own loop, on connections that live as long as the loop does."""

import asyncio
import contextvars
import os
import threading
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import redis
from asgiref.sync import async_to_sync
from pydantic import BaseModel, field_validator
from redis.asyncio import SSLConnection

import llmcache
from llmcache import envelope, keys
from llmcache.engine import process
from llmcache.models import ProviderCall, UsageBucket
from llmcache.testing.sandbox import Sandbox
from llmcache.tiers import redis_loops, redis_pool
from llmcache.tiers.redis_loops import LoopConnections
from llmcache.tiers.redis_tier import RedisTier
from tests.cache_servers import RedisServer, SentinelServer
from tests.conftest import MovedClock, llmcache_settings
from tests.contract.aliases import in_caches
from tests.flows.test_key_secrets import OLD, ROTATING
from tests.flows.test_redis_faults import (
    ADA,
    DJANGO,
    DJANGO_REDIS,
    REACHED,
    Connects,
    Person,
    calls_over,
    frozen,
    outcome,
    said,
    state,
    until_closed,
)
from tests.waiting import until

pytestmark = pytest.mark.django_db


@pytest.fixture
def provider(sandbox: Sandbox) -> Sandbox:
    sandbox.answers["Ada"] = ADA
    return sandbox


@pytest.fixture
def plain(redis_server: RedisServer) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(redis_server.url, socket_timeout=0.25, retry=None)
    yield client
    client.close()


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every loop be one that has lived for long."""
    monkeypatch.setattr(redis_loops, "LONG_LIVED_SECONDS", 0.0)


@pytest.fixture
def over(redis_server: RedisServer, provider: Sandbox) -> Iterator[str]:
    """Let calls have Redis as their only tier, with an answer in it; the name that our connections have there."""
    name = f"loops-{os.urandom(4).hex()}"
    with calls_over(DJANGO_REDIS, f"{redis_server.url}?client_name={name}"):
        assert [outcome(), outcome()] == ["miss", "hit"]
        yield name


def tier() -> RedisTier:
    (only,) = process.current().tiers.below
    assert isinstance(only, RedisTier)
    return only


def loops() -> LoopConnections:
    (server,) = tier()._servers.values()
    return server.loops


def connected(plain: redis.Redis, name: str) -> int:
    """Return how many connections of ours the server has."""
    return sum(each["name"] == name for each in plain.client_list())


async def hit() -> None:
    assert await llmcache.aextract("Ada", Person) == Person(**ADA)


def gets(plain: redis.Redis) -> int:
    return plain.info("commandstats").get("cmdstat_get", {"calls": 0})["calls"]


# -- in the loop


def test_hits_of_a_loop_share_a_connection_that_ends_with_it(
    old: None, over: str, provider: Sandbox, plain: redis.Redis
) -> None:
    before = connected(plain, over)

    async def calls() -> tuple[int, int]:
        await hit()
        told = gets(plain)
        for _ in range(10):
            await hit()
        return connected(plain, over), gets(plain) - told

    for _ in range(2):
        assert asyncio.run(calls()) == (before + 1, 10)
        until(lambda: connected(plain, over) == before)
        assert not loops()._kept
    assert provider.calls == 1


def test_a_loop_that_lives_for_a_moment_opens_none(over: str, provider: Sandbox, redis_server: RedisServer) -> None:
    with Connects.watched() as connects:
        for _ in range(20):
            async_to_sync(hit)()
            asyncio.run(hit())
    # At most those of the threads that were asked.
    assert connects.to(redis_server) <= 4
    assert not loops()._kept
    assert provider.calls == 1


def test_a_hit_is_counted_with_its_tier(old: None, over: str) -> None:
    asyncio.run(hit())
    assert llmcache.flush()
    assert UsageBucket.objects.get(tier="shared", outcome="hit").count == 2


def test_what_is_not_there_is_asked_for_once(old: None, over: str, provider: Sandbox, plain: redis.Redis) -> None:
    async def calls() -> list[Person]:
        return await asyncio.gather(*(llmcache.aextract("Eve", Person) for _ in range(20)))

    before = gets(plain)
    assert len(asyncio.run(calls())) == 20
    assert provider.calls == 2
    # Each looks for itself. For who asks the provider the server looks whose the lease is, when it is taken and when
    # the answer is published.
    assert gets(plain) - before == 20 + 1 + 1
    assert llmcache.flush()
    assert set(UsageBucket.objects.values_list("outcome", "count")) == {("miss", 2), ("collapsed", 19), ("hit", 1)}


def test_what_does_not_pass_is_a_miss_with_its_reason(old: None, over: str, provider: Sandbox) -> None:
    strict = False

    class Adult(BaseModel):
        age: int

        @field_validator("age")
        @classmethod
        def _of_age(cls, age: int) -> int:
            assert asyncio.get_running_loop()
            if strict and age < 40:
                raise ValueError("too young")
            return age

    async def calls() -> list[int]:
        nonlocal strict
        provider.answers["Bob"] = {"age": 36}
        ages = [(await llmcache.aextract("Bob", Adult)).age for _ in range(2)]
        strict = True
        provider.answers["Bob"] = {"age": 41}
        return [*ages, (await llmcache.aextract("Bob", Adult)).age]

    assert asyncio.run(calls()) == [36, 36, 41]
    assert llmcache.flush()
    asked = ProviderCall.objects.filter(kind="Adult").order_by("started_at")
    assert list(asked.values_list("reason", flat=True)) == ["not_found", "invalid"]


def test_validators_see_the_context_of_the_call(old: None, over: str, provider: Sandbox) -> None:
    who = contextvars.ContextVar("who", default="nobody")
    seen: list[str] = []

    class Seen(BaseModel):
        name: str

        @field_validator("name")
        @classmethod
        def _look(cls, name: str) -> str:
            seen.append(who.get())
            return name

    async def calls() -> None:
        who.set("first")
        provider.answers["Ada"] = ADA
        await llmcache.aextract("Ada", Seen)
        who.set("caller")
        call = llmcache.aextract("Ada", Seen)
        who.set("somebody else")
        await call

    asyncio.run(calls())
    assert (seen, provider.calls) == (["first", "caller"], 2)


def test_a_crowd_shares_what_there_is(
    old: None, over: str, provider: Sandbox, plain: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_pool, "MOST_CONNECTIONS", 3)
    before = connected(plain, over)

    async def calls() -> int:
        await asyncio.gather(*(hit() for _ in range(60)))
        return connected(plain, over)

    assert asyncio.run(calls()) == before + 3
    assert (state().faults, state().waits, provider.calls) == (0, 57, 1)


def test_a_crowd_that_comes_at_once_over_a_server_that_is_well(
    old: None, over: str, provider: Sandbox, plain: redis.Redis
) -> None:
    """Connecting takes time too, and who connects must not take it from the others."""
    names = [f"guest {number}" for number in range(100)]
    for name in names:
        provider.answers[name] = {"name": name}
        llmcache.extract(name, Person)
    paid = provider.calls

    async def calls() -> None:
        for _ in range(3):
            found = await asyncio.gather(*(llmcache.aextract(name, Person) for name in names))
            assert [each.name for each in found] == names

    asyncio.run(calls())
    assert (provider.calls - paid, state().faults, state().breaker) == (0, 0, "closed")


# -- faults


def test_a_server_that_refuses_is_tried_once(
    old: None,
    over: str,
    provider: Sandbox,
    redis_server: RedisServer,
    plain: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def calls() -> None:
        await hit()
        redis_server.stop()
        try:
            with pytest.raises(redis.ConnectionError):
                plain.ping()
            with Connects.watched() as connects:
                for _ in range(10):
                    await llmcache.aextract("Ada", Person)
            # The one that was open has ended.
            assert connects.to(redis_server) == 1
            assert (state().breaker, state().faults, state().error) == ("open", 1, "ConnectionError")
        finally:
            redis_server.start()
        await asyncio.to_thread(until_closed)
        await llmcache.aextract("Ada", Person)
        provider.answers.clear()
        await hit()

    with caplog.at_level("INFO", logger="llmcache.tiers"):
        asyncio.run(calls())
    assert provider.calls == 12
    assert said(caplog) == REACHED


def test_a_server_that_was_restarted_is_no_fault(
    old: None, over: str, provider: Sandbox, redis_server: RedisServer
) -> None:
    async def calls() -> None:
        await asyncio.gather(*(hit() for _ in range(5)))
        redis_server.stop()
        redis_server.start()
        await asyncio.gather(*(llmcache.aextract("Ada", Person) for _ in range(5)))
        await hit()

    asyncio.run(calls())
    assert (state().faults, provider.calls) == (0, 2)


@pytest.mark.parametrize("how", ["stopped", "paused"])
def test_a_server_that_does_not_answer_is_waited_for_once(
    how: Literal["stopped", "paused"],
    old: None,
    over: str,
    provider: Sandbox,
    redis_server: RedisServer,
    plain: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def calls() -> None:
        await asyncio.gather(*(hit() for _ in range(5)))
        with frozen(redis_server, how, plain), Connects.watched() as connects:
            # All of these are under way at once; those that come later find the breaker open.
            await asyncio.gather(*(llmcache.aextract("Ada", Person) for _ in range(5)))
            faults, tried = state().faults, connects.to(redis_server)
            # On connections that are open; where the loop stood still meanwhile, a thread finds out, on one of its own.
            assert (state().breaker, 1 <= faults <= 5, tried <= 5) == ("open", True, True)
            for _ in range(3):
                await llmcache.aextract("Ada", Person)
            assert (connects.to(redis_server), state().faults) == (tried, faults)
        await asyncio.to_thread(until_closed)
        await llmcache.aextract("Ada", Person)
        await hit()

    with caplog.at_level("INFO", logger="llmcache.tiers"):
        asyncio.run(calls())
    assert said(caplog) == REACHED


def test_a_crowd_meets_a_frozen_server(
    old: None,
    over: str,
    provider: Sandbox,
    redis_server: RedisServer,
    plain: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """More calls than there are connections: who waits for one says nothing of its own."""

    async def calls() -> None:
        await hit()
        with frozen(redis_server, "stopped", plain):
            await asyncio.gather(*(llmcache.aextract("Ada", Person) for _ in range(120)))
            assert state().breaker == "open"
        await asyncio.to_thread(until_closed)

    with caplog.at_level("INFO", logger="llmcache.tiers"):
        asyncio.run(calls())
    assert said(caplog) == REACHED


def test_a_loop_that_stood_still_blames_no_server(
    old: None, over: str, provider: Sandbox, redis_server: RedisServer, plain: redis.Redis
) -> None:
    async def calls() -> None:
        await hit()
        with frozen(redis_server, "stopped", plain):
            waiting = asyncio.create_task(hit())
            # Far enough for the command to have left.
            for _ in range(5):
                await asyncio.sleep(0)
            time.sleep(2 * redis_pool.SOCKET_SECONDS)
        await waiting

    asyncio.run(calls())
    assert (state().breaker, state().faults, provider.calls) == ("closed", 0, 1)


def test_a_call_that_is_given_up_leaves_no_reply_behind(
    old: None, over: str, provider: Sandbox, redis_server: RedisServer, plain: redis.Redis
) -> None:
    async def calls() -> None:
        provider.answers["Eve"] = {"name": "Eve"}
        for name in ("Ada", "Eve", "Ada", "Eve"):
            assert (await llmcache.aextract(name, Person)).name == name
        with frozen(redis_server, "stopped", plain):
            given_up = asyncio.create_task(llmcache.aextract("Ada", Person))
            for _ in range(5):
                await asyncio.sleep(0)
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            assert state().faults == 0
            # It leaves before the reply to the other comes.
            other = asyncio.create_task(llmcache.aextract("Eve", Person))
            for _ in range(5):
                await asyncio.sleep(0)
        assert (await other).name == "Eve"
        for name in ("Eve", "Ada", "Eve"):
            assert (await llmcache.aextract(name, Person)).name == name

    asyncio.run(calls())
    assert (state().breaker, state().faults, provider.calls) == ("closed", 0, 2)


def test_something_else_under_our_key_is_a_miss(old: None, over: str, provider: Sandbox, plain: redis.Redis) -> None:
    name = stored(plain)

    async def calls() -> None:
        await hit()
        for put in (lambda: plain.lpush(name, b"1"), lambda: plain.set(name, b"17"), lambda: plain.set(name, b"")):
            plain.delete(name)
            put()
            plain.expire(name, 600)
            await llmcache.aextract("Ada", Person)
            await hit()

    asyncio.run(calls())
    assert (state().breaker, provider.calls) == ("closed", 4)


def test_a_forked_child_has_connections_of_its_own(old: None, over: str, provider: Sandbox, plain: redis.Redis) -> None:
    async def calls() -> int:
        await hit()
        child = os.fork()
        if not child:
            code = 1
            try:
                assert not loops()._kept
                # In a thread, for the loop of this one is the parent's.
                done: list[str] = []
                thread = threading.Thread(target=lambda: (asyncio.run(hit()), done.append("done")))
                thread.start()
                thread.join()
                code = int(done != ["done"] or tier().faults > 0)
            finally:
                os._exit(code)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        before = gets(plain)
        await hit()
        assert gets(plain) == before + 1
        return ended

    assert asyncio.run(calls()) == 0
    assert (state().faults, provider.calls) == (0, 1)


# -- what is read


def stored(plain: redis.Redis) -> str:
    """Return the name that the only entry has in Redis."""
    key = bytes.fromhex(llmcache.extract_with_info("Ada", Person).key)
    runtime = process.current()
    name = tier()._name_of(keys.storage_key(runtime.namespace, key, runtime.seals[0].id))
    assert plain.exists(name)
    return name


def test_what_is_damaged_or_a_strangers_is_a_miss(old: None, over: str, provider: Sandbox, plain: redis.Redis) -> None:
    name = stored(plain)
    data: Any = plain.get(name)
    wrong = [data[:-1], data[:60] + bytes([data[60] ^ 1]) + data[61:], envelope.MAGIC, data.replace(b"Ada", b"Eve")]

    async def calls() -> None:
        for each in wrong:
            plain.set(name, each)
            await hit()

    asyncio.run(calls())
    assert (state().faults, provider.calls) == (0, 1 + len(wrong))


def test_what_is_too_old_is_asked_for_anew(old: None, over: str, provider: Sandbox, clock: MovedClock) -> None:
    async def calls() -> None:
        await llmcache.aextract("Ada", Person, ttl=60)
        clock.move(61)
        await llmcache.aextract("Ada", Person, ttl=60)

    llmcache.extract("Ada", Person, ttl=60)
    with clock.kept():
        asyncio.run(calls())
    assert provider.calls == 2


def test_what_lies_under_an_older_secret_is_found(
    old: None, provider: Sandbox, redis_server: RedisServer, plain: redis.Redis
) -> None:
    with calls_over(DJANGO_REDIS, redis_server.url):
        with llmcache_settings(TIERS=["shared"], KEY_SECRETS=[OLD]):
            process.install(None)
            assert outcome() == "miss"
        with llmcache_settings(TIERS=["shared"], KEY_SECRETS=ROTATING):
            process.install(None)
            # The loop is asked for arguments that are known.
            provider.answers["Bob"] = {"name": "Bob"}
            llmcache.extract("Bob", Person)
            asyncio.run(hit())
            before = gets(plain)
            asyncio.run(hit())
            # It was written anew, under the name that is looked at first.
            assert (gets(plain) - before, provider.calls) == (1, 2)


def test_what_the_next_tier_has_is_written_above(
    old: None, provider: Sandbox, redis_server: RedisServer, plain: redis.Redis, tmp_path: Path
) -> None:
    disk = {"BACKEND": "llmcache.backends.DiskCache", "LOCATION": f"{tmp_path}/next"}
    shared = {"BACKEND": DJANGO_REDIS, "LOCATION": redis_server.url}
    with in_caches(shared=shared, next=disk), llmcache_settings(TIERS=["shared", "next"]):
        process.install(None)
        key = bytes.fromhex(llmcache.extract_with_info("Ada", Person).key)
        first, _ = process.current().tiers.below
        assert isinstance(first, RedisTier)
        name = first._name_of(keys.storage_key(process.current().namespace, key))
        plain.delete(name)
        asyncio.run(hit())
        assert (plain.exists(name), provider.calls) == (1, 1)
        assert llmcache.flush()
        assert UsageBucket.objects.get(outcome="hit").tier == "next"


# -- the way there


def test_the_backend_of_django(old: None, provider: Sandbox, redis_server: RedisServer, plain: redis.Redis) -> None:
    with calls_over(DJANGO, redis_server.url, KEY_PREFIX="app", VERSION=7):
        assert outcome() == "miss"
        before = gets(plain)
        asyncio.run(hit())
        assert (gets(plain) - before, provider.calls, bool(tier())) == (1, 1, True)


def test_a_unix_socket(old: None, provider: Sandbox, redis_server: RedisServer) -> None:
    with calls_over(DJANGO_REDIS, redis_server.socket_url), Connects.watched() as connects:
        assert outcome() == "miss"
        asyncio.run(hit())
        assert (connects.to(redis_server), state().faults, provider.calls) == (0, 0, 1)


@pytest.mark.parametrize("password", ["right", "wrong"])
def test_a_password(old: None, password: str, provider: Sandbox, redis_server: RedisServer, plain: redis.Redis) -> None:
    with calls_over(DJANGO_REDIS, redis_server.url, OPTIONS={"PASSWORD": password}):
        plain.ping()
        plain.config_set("requirepass", "right")
        try:
            # The loop is the first who connects.
            asyncio.run(tier().aget("nothing"))
            assert state().breaker == ("closed" if password == "right" else "open")
        finally:
            plain.config_set("requirepass", "")


def test_each_shard_is_asked_for_its_own(old: None, provider: Sandbox, redis_server: RedisServer) -> None:
    nowhere = "redis://127.0.0.1:1/0"
    options = {"CLIENT_CLASS": "django_redis.client.ShardClient"}
    with calls_over(DJANGO_REDIS, [redis_server.url, nowhere], OPTIONS=options):
        names = [f"shard-{number}" for number in range(60)]
        for name in names:
            tier().set(name, name.encode(), 60)
        kept = {name: tier().get(name) for name in names}
        assert None in kept.values() != {None}

        async def reads() -> dict[str, bytes | None]:
            return {name: await tier().aget(name) for name in names}

        assert asyncio.run(reads()) == kept
        assert state().faults == 1


def test_sentinel_says_where_the_primary_is(old: None, provider: Sandbox, redis_server: RedisServer) -> None:
    sentinel = SentinelServer(redis_server)
    try:
        options = {
            "CLIENT_CLASS": "django_redis.client.SentinelClient",
            "SENTINELS": [("127.0.0.1", sentinel.port)],
            "CONNECTION_FACTORY": "django_redis.pool.SentinelConnectionFactory",
            "CONNECTION_POOL_CLASS": "redis.sentinel.SentinelConnectionPool",
        }
        with calls_over(DJANGO_REDIS, "redis://primary/0", OPTIONS=options):
            assert outcome() == "miss"

            async def calls() -> None:
                with Connects.watched() as connects:
                    await hit()
                    await hit()
                assert connects.to(redis_server) == 1

            asyncio.run(calls())
            assert (state().faults, provider.calls) == (0, 1)
    finally:
        sentinel.close()


def made(**given: Any) -> Any:
    """Return a connection as a loop would have one, unconnected; None when threads are asked."""
    from tests.unit.test_redis_pool import made as pool_of

    pool = pool_of(BACKEND=DJANGO, **given)
    make = redis_loops._factory(pool)
    return None if make is None else asyncio.run(_awaited(make()))


async def _awaited(made: Awaitable[Any]) -> Any:
    return await made


def test_the_projects_arguments_hold() -> None:
    connection = made(
        LOCATION="rediss://ann:secret@redis.example:7000/3?client_name=notes",
        OPTIONS={"ssl_check_hostname": False, "ssl_cert_reqs": "none", "decode_responses": True, "protocol": 3},
    )
    assert type(connection) is SSLConnection
    assert (connection.host, connection.port, connection.db) == ("redis.example", 7000, 3)
    assert (connection.username, connection.password, connection.client_name) == ("ann", "secret", "notes")
    assert (connection.protocol, connection.encoder.decode_responses, connection.check_hostname) == (2, False, False)
    assert (connection.socket_timeout, connection.retry.get_retries()) == (None, 0)
    # Certificates are read by a thread, not by the loop that connects.
    assert connection.ssl_context.context is not None


class OwnConnection(redis.Connection):
    """A connection of somebody's own making."""


class Vault(redis.CredentialProvider):
    """Who knows the password may be far away."""

    def get_credentials(self) -> tuple[str]:
        return ("secret",)


@pytest.mark.parametrize(
    "options",
    [
        {"connection_class": OwnConnection},
        {"credential_provider": Vault()},
        {"redis_connect_func": print},
        {"ssl_validate_ocsp": True, "connection_class": redis.SSLConnection},
    ],
    ids=["connection", "credentials", "greeting", "argument"],
)
def test_what_only_threads_can_do_they_do(options: dict[str, Any]) -> None:
    assert made(LOCATION="redis://127.0.0.1:7000/0") is not None
    assert made(LOCATION="redis://127.0.0.1:7000/0", OPTIONS=options) is None
