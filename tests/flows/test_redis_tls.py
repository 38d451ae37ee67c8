"""A real Redis behind TLS: found by calls of both sorts, and left alone where its certificate is not to be trusted."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.cache import caches
from pydantic import BaseModel

import llmcache
from llmcache.engine import process
from llmcache.testing.sandbox import Sandbox
from tests.cache_servers import RedisServer
from tests.conftest import llmcache_settings
from tests.contract.aliases import in_caches
from tests.tls import Authority, Ending, ending

ALIASES = {
    "django-redis": ("django_redis.cache.RedisCache", lambda told: {"OPTIONS": {"CONNECTION_POOL_KWARGS": told}}),
    "Redis": ("django.core.cache.backends.redis.RedisCache", lambda told: {"OPTIONS": told}),
}
HOST = "127.0.0.1"


class Person(BaseModel):
    """A person."""

    name: str


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture
def provider(sandbox: Sandbox) -> Sandbox:
    sandbox.answers["Ada"] = {"name": "Ada"}
    return sandbox


@contextmanager
def over(server: Ending, backend: str, **told: Any) -> Iterator[None]:
    """Have one tier, which is reached by TLS."""
    path, options = ALIASES[backend]
    alias = {"BACKEND": path, "LOCATION": f"rediss://{HOST}:{server.port}/0", **options(told)}
    with in_caches(shared=alias), llmcache_settings(TIERS=["shared"]):
        try:
            yield
        finally:
            process.install(None)
            caches.close_all()


def asked_anew() -> str:
    """Return how a call ends in a process that has nothing in memory and no connection."""
    process.install(None)
    return llmcache.extract_with_info("Ada", Person).outcome


@pytest.mark.parametrize("backend", ALIASES)
def test_whoever_trusts_its_authority_shares_its_answers(
    backend: str, provider: Sandbox, redis_server: RedisServer, authority: Authority
) -> None:
    with ending(redis_server.port, authority.pair(HOST)) as server:
        with over(server, backend, ssl_ca_certs=str(authority.certificate)):
            assert [asked_anew(), asked_anew()] == ["miss", "hit"]
            # Awaited in a loop that has connections of its own.
            process.install(None)

            async def hits() -> list[str]:
                return [(await llmcache.aextract_with_info("Ada", Person)).outcome for _ in range(5)]

            assert asyncio.run(hits()) == ["hit"] * 5
            (state,) = process.current().tiers.states()
            assert (state.breaker, state.faults) == ("closed", 0)
        assert (server.refused, provider.calls) == (0, 1)
        assert server.connections > 0


def test_with_a_certificate_of_the_clients_own(
    provider: Sandbox, redis_server: RedisServer, authority: Authority
) -> None:
    certificate, key = map(str, authority.pair("client.example"))
    trusted = {"ssl_ca_certs": str(authority.certificate)}
    with ending(redis_server.port, authority.pair(HOST), clients_of=authority.certificate) as server:
        with over(server, "django-redis", **trusted, ssl_certfile=certificate, ssl_keyfile=key):
            assert [asked_anew(), asked_anew()] == ["miss", "hit"]
        assert server.refused == 0
        with over(server, "django-redis", **trusted):
            assert [asked_anew(), asked_anew()] == ["miss", "miss"]
        assert server.refused > 0
    assert provider.calls == 3


@pytest.mark.parametrize("wrong", ["authority", "host"])
def test_a_certificate_that_is_not_to_be_trusted_fails_no_call(
    wrong: str,
    provider: Sandbox,
    redis_server: RedisServer,
    authority: Authority,
    stranger: Authority,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pair = stranger.pair(HOST) if wrong == "authority" else authority.pair("other.example")
    with ending(redis_server.port, pair) as server, over(server, "Redis", ssl_ca_certs=str(authority.certificate)):
        assert [asked_anew() for _ in range(3)] == ["miss"] * 3
        (state,) = process.current().tiers.states()
        assert (state.breaker, state.error) == ("open", "ConnectionError")
        assert asyncio.run(_awaited()) == "miss"
    assert server.refused > 0
    (said, *_) = [each.getMessage() for each in caplog.records if "cannot be reached" in each.getMessage()]
    assert "CERTIFICATE_VERIFY_FAILED" in said
    assert provider.calls == 4


async def _awaited() -> str:
    return (await llmcache.aextract_with_info("Ada", Person)).outcome
