"""Connections to Redis: by the project's arguments, within our limits, in pools that only we have."""

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.core.cache import caches
from django.test import override_settings
from django_redis.pool import ConnectionFactory

from llmcache.tiers import redis_pool
from llmcache.tiers.configured import tier_of
from llmcache.tiers.django_tier import DjangoTier
from llmcache.tiers.redis_alias import redis_alias
from llmcache.tiers.redis_pool import limited
from llmcache.tiers.redis_tier import RedisTier
from tests.cache_servers import RedisServer
from tests.contract.aliases import in_caches

DJANGO_REDIS = "django_redis.cache.RedisCache"
DJANGO = "django.core.cache.backends.redis.RedisCache"


def made(**given: Any) -> Any:
    """Return the pool for an alias's first server."""
    with override_settings(CACHES={"default": given}):
        found = redis_alias("default")
        assert found is not None
        return limited(found.pool_of(found.servers[0]))


@pytest.fixture
def given(redis_server: RedisServer) -> dict[str, Any]:
    # A query of its own: another test may have had a pool for the address.
    return {"BACKEND": DJANGO_REDIS, "LOCATION": f"{redis_server.url}?client_name=pool-{os.urandom(4).hex()}"}


@pytest.mark.parametrize("backend", [DJANGO_REDIS, DJANGO])
def test_the_projects_arguments_within_our_limits(backend: str) -> None:
    options: dict[str, Any] = {
        "ssl_ca_certs": "/certs/authority.pem",
        "ssl_check_hostname": False,
        "socket_timeout": 30,
        "socket_connect_timeout": None,
        "retry_on_timeout": True,
        "health_check_interval": 5,
        "decode_responses": True,
        "max_connections": 2,
        "protocol": 3,
    }
    pool = made(
        BACKEND=backend,
        LOCATION="rediss://ann:secret@redis.example:7000/3?client_name=notes",
        OPTIONS=options if backend == DJANGO else {"CONNECTION_POOL_KWARGS": options, "SOCKET_TIMEOUT": 20},
    )
    connection = pool.make_connection()
    assert isinstance(connection, redis.SSLConnection)
    assert (connection.ca_certs, connection.check_hostname) == ("/certs/authority.pem", False)
    assert (connection.host, connection.port, connection.db) == ("redis.example", 7000, 3)
    assert (connection.username, connection.password, connection.client_name) == ("ann", "secret", "notes")
    assert (connection.socket_connect_timeout, connection.socket_timeout) == (0.1, 0.25)
    assert (connection.retry.get_retries(), connection.retry_on_error) == (0, [])
    assert (connection.health_check_interval, connection.protocol) == (0, 2)
    assert connection.encoder.decode_responses is False
    assert "_HiredisParser" in [each.__name__ for each in type(connection._parser).__mro__]


@pytest.mark.parametrize("client", ["DefaultClient", "ShardClient"])
def test_the_projects_pool_is_neither_used_nor_made(given: dict[str, Any], client: str) -> None:
    with in_caches(shared={**given, "OPTIONS": {"CLIENT_CLASS": f"django_redis.client.{client}"}}):
        tier = tier_of("shared")
        tier.set("key", b"value", 60)
        assert tier.get("key") == b"value"
        assert not [url for url in ConnectionFactory._pools if url == given["LOCATION"]]
        project = caches["shared"].client
        project.set("other", 1)
        pool = ConnectionFactory._pools[given["LOCATION"]]
        assert pool.connection_kwargs.get("socket_timeout") is None
        assert isinstance(tier, RedisTier)
        tier.close()
        assert project.get("other") == 1


@pytest.mark.parametrize(
    "options",
    [
        {"CLIENT_CLASS": "tests.unit.odd_caches.OwnClient"},
        {"REDIS_CLIENT_CLASS": "redis.StrictRedis"},
        {"CLIENT_CLASS": "django_redis.client.SentinelClient", "CONNECTION_FACTORY": "no.such.factory"},
    ],
)
def test_a_client_of_somebody_elses_making_is_used_as_it_is(given: dict[str, Any], options: dict[str, Any]) -> None:
    with in_caches(shared={**given, "OPTIONS": options}):
        tier = tier_of("shared")
        assert type(tier) is DjangoTier
        tier.set("key", b"value", 60)
        broken = "CONNECTION_FACTORY" in options
        assert (tier.get("key"), tier.state().faults) == ((None, 2) if broken else (b"value", 0))
        tier.close()


@pytest.fixture
def few(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisTier]:
    """A tier that has one connection at most."""
    monkeypatch.setattr(redis_pool, "MOST_CONNECTIONS", 1)
    with in_caches(shared=given):
        tier = tier_of("shared")
        assert isinstance(tier, RedisTier)
        tier.set("key", b"value", 60)
        yield tier
        tier.close()


def test_a_wait_for_a_connection_is_counted_and_opens_no_breaker(few: RedisTier) -> None:
    (server,) = few._servers.values()
    assert few.state().waits == 0
    taken = server.pool.get_connection()
    assert few.get("key") is None
    now = few.state()
    assert (now.waits, now.faults, now.error, now.breaker) == (1, 1, "NoConnectionError", "closed")
    found: list[bytes | None] = []
    waiting = threading.Thread(target=lambda: found.append(few.get("key")))
    waiting.start()
    while few.state().waits < 2:
        assert waiting.is_alive()
    server.pool.release(taken)
    waiting.join(30)
    assert found in ([b"value"], [None])
    assert few.get("key") == b"value"
    assert few.state().reads


def test_arguments_that_make_no_connection_take_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes when all places are gone would wait for one each time."""
    monkeypatch.setattr(redis_pool, "MOST_CONNECTIONS", 2)
    given = {"BACKEND": DJANGO, "LOCATION": "redis://127.0.0.1:1/0", "OPTIONS": {"no_such_argument": 1}}
    with in_caches(shared=given):
        tier = tier_of("shared")
        for _ in range(4):
            assert tier.get("key") is None
        now = tier.state()
        assert (now.faults, now.error, now.waits) == (4, "TypeError", 0)
        tier.close()


def test_a_forked_child_connects_for_itself(given: dict[str, Any]) -> None:
    with in_caches(shared=given):
        tier = tier_of("shared")
        assert isinstance(tier, RedisTier)
        tier.set("key", b"value", 60)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.read(reading, 1)
                for number in range(200):
                    tier.set(f"child-{number}", b"child", 60)
                    assert tier.get(f"child-{number}") == b"child"
                code = 0 if tier.state().faults == 0 else 2
            finally:
                os._exit(code)
        os.write(writing, b"!")
        for _ in range(200):
            assert tier.get("key") == b"value"
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert tier.get("key") == b"value"
        assert tier.state().faults == 0
        os.close(reading)
        os.close(writing)
        tier.close()
