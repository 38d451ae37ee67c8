"""What the neighbours' tests share: the sandbox provider, tiers of each sort, a clock to move."""

import contextlib
import os
import time
import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import override_settings

from llmcache import conf
from llmcache.clock import Clock
from llmcache.engine import isolation, process
from llmcache.engine.runtime import Runtime
from llmcache.testing.sandbox import CACHED_INPUT_PICO_USD, INPUT_PICO_USD, OUTPUT_PICO_USD, Sandbox
from tests.cache_servers import RedisServer, redis_server  # noqa: F401 - fixtures are found by their names here

TEXT = "The printer is on fire"
PRICES = {
    "openai/gpt-5-mini": {
        "input": Decimal(INPUT_PICO_USD) / 10**6,
        "cache_read": Decimal(CACHED_INPUT_PICO_USD) / 10**6,
        "output": Decimal(OUTPUT_PICO_USD) / 10**6,
    }
}


@contextlib.contextmanager
def llmcache_settings(**changes: Any) -> Iterator[None]:
    """Change some keys of ``LLMCACHE`` and keep the others."""
    with override_settings(LLMCACHE={**settings.LLMCACHE, **changes}):
        yield


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path) -> Iterator[None]:
    """Give each test a disk tier, a journal and a memory of its own."""
    with llmcache_settings(DISK_PATH=tmp_path / "tier", JOURNAL=tmp_path / "journal"):
        yield


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A real provider on loopback, whose prices are known."""
    with (
        Sandbox() as provider,
        llmcache_settings(
            PROVIDERS={"openai": {"base_url": provider.base_url, "api_key": "sandbox"}},
            PRICES=PRICES,
        ),
    ):
        yield provider


def redis_alias(server: RedisServer) -> dict[str, Any]:
    """Return the entry of ``CACHES`` for a Redis, by django-redis as it comes, which would pickle."""
    return {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": server.url}


@contextlib.contextmanager
def caches(**aliases: dict[str, Any]) -> Iterator[None]:
    """Add aliases to ``CACHES``."""
    with override_settings(CACHES={**settings.CACHES, **aliases}):
        yield


@pytest.fixture
def shared(redis_server: RedisServer) -> Iterator[RedisServer]:  # noqa: F811
    """A Redis under the alias ``shared``, which is the one tier; it is well again after the test."""
    with caches(shared=redis_alias(redis_server)), llmcache_settings(TIERS=["shared"]):
        yield redis_server


class MovedClock:
    """A clock that stands on the real one and is moved by tests."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.clock = Clock(
            wall=lambda: time.time() + self.ahead, monotonic=lambda: time.monotonic() + self.ahead, sleep=self.move
        )

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self.ahead += seconds


@pytest.fixture
def clock(sandbox: Sandbox) -> Iterator[MovedClock]:
    """A clock that the test moves."""
    moved = MovedClock()
    process.install(Runtime(conf.current(), clock=moved.clock, test=isolation.current_test()))
    yield moved
    process.install(None)


def in_a_child(work: Callable[[], object]) -> str:
    """Return what ``work`` returns in another process, by its repr: a fork, for importing a neighbour takes seconds."""
    out, into = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 and later warn of forks beside threads, which the sandbox has.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            os.write(into, repr(work()).encode())
        finally:
            os._exit(0)
    os.close(into)
    with os.fdopen(out) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said
