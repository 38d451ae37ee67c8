"""A Redis with every fault there is, under calls that all succeed; a plain client beside them meets the fault."""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import redis
from django.core.cache import caches
from pydantic import BaseModel

import llmcache
from llmcache import keys
from llmcache.engine import process
from llmcache.testing.sandbox import Sandbox
from llmcache.tiers.base import TierState
from llmcache.tiers.configured import tier_of
from llmcache.tiers.redis_pool import SOCKET_SECONDS
from llmcache.tiers.redis_tier import RedisTier
from tests import forks
from tests.cache_servers import RedisServer, SentinelServer
from tests.conftest import child_environment, llmcache_settings
from tests.contract.aliases import ALIAS, in_caches
from tests.waiting import until

DJANGO_REDIS = "django_redis.cache.RedisCache"
DJANGO = "django.core.cache.backends.redis.RedisCache"
_DEADLINE = 60.0


class Person(BaseModel):
    """A person."""

    name: str


ADA = {"name": "Ada"}


@pytest.fixture
def provider(sandbox: Sandbox) -> Sandbox:
    sandbox.answers["Ada"] = ADA
    return sandbox


@pytest.fixture(params=[DJANGO_REDIS, DJANGO])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@contextlib.contextmanager
def calls_over(backend: str, location: Any, **given: Any) -> Iterator[None]:
    """Let calls have this Redis as their only tier."""
    shared = {"BACKEND": backend, "LOCATION": location, **given}
    with in_caches(shared=shared), llmcache_settings(TIERS=[ALIAS]):
        try:
            yield
        finally:
            process.install(None)


@pytest.fixture
def plain(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A client as anybody would have it."""
    client = redis.Redis.from_url(redis_server.url, socket_timeout=0.25, retry=None)
    yield client
    client.close()


def outcome() -> str:
    info = llmcache.extract_with_info("Ada", Person)
    assert info.value == Person(**ADA)
    return info.outcome


def state() -> TierState:
    (only,) = process.current().tiers.states()
    return only


def until_closed() -> None:
    until(lambda: state().breaker == "closed")


class Connects:
    """The addresses that the process connects to, but for those of the thread that asks whether a server is back."""

    listening: list["Connects"] = []  # noqa: RUF012  # one for the process, as the hook is

    def __init__(self) -> None:
        self.addresses: list[Any] = []

    @classmethod
    @contextlib.contextmanager
    def watched(cls) -> Iterator["Connects"]:
        made = cls()
        cls.listening.append(made)
        try:
            yield made
        finally:
            cls.listening.remove(made)

    def to(self, server: RedisServer) -> int:
        """Return how many went to a server."""
        return sum(address == ("127.0.0.1", server.port) for address in self.addresses)


def _note_connect(event: str, args: tuple[Any, ...]) -> None:
    if event == "socket.connect" and threading.current_thread().name != "llmcache-probe":
        for each in Connects.listening:
            each.addresses.append(args[1])


sys.addaudithook(_note_connect)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage().split(":")[0] for record in caplog.records if record.name == "llmcache.tiers"]


REACHED = ["The tier 'shared' cannot be reached", "The tier 'shared' can be reached again."]


# -- a server that cannot be reached


def test_a_server_that_refuses_is_tried_once(
    backend: str, provider: Sandbox, redis_server: RedisServer, plain: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    with calls_over(backend, redis_server.url), caplog.at_level("INFO", logger="llmcache.tiers"):
        assert [outcome(), outcome()] == ["miss", "hit"]
        redis_server.stop()
        try:
            with pytest.raises(redis.ConnectionError):
                plain.ping()
            with Connects.watched() as connects:
                assert [outcome() for _ in range(10)] == ["miss"] * 10
            assert connects.to(redis_server) == 1
            now = state()
            assert (now.breaker, now.reads, now.writes, now.faults) == ("open", False, False, 1)
            assert now.error == "ConnectionError"
        finally:
            redis_server.start()
        until_closed()
        assert [outcome(), outcome()] == ["miss", "hit"]
        assert (state().reads, state().writes, state().faults) == (True, True, 1)
    assert said(caplog) == REACHED


@contextlib.contextmanager
def frozen(server: RedisServer, how: Literal["stopped", "paused"], plain: redis.Redis) -> Iterator[None]:
    """Let the server take connections and answer nothing, and prove it."""
    if how == "stopped":
        server.freeze()
    else:
        # Ends by itself: a server that is paused takes no command to go on.
        plain.client_pause(3_000)
    try:
        with pytest.raises(redis.TimeoutError):
            plain.get("key")
        yield
    finally:
        if how == "stopped":
            server.thaw()


@pytest.mark.parametrize("how", ["stopped", "paused"])
def test_a_server_that_does_not_answer_is_waited_for_once(
    how: Literal["stopped", "paused"],
    provider: Sandbox,
    redis_server: RedisServer,
    plain: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with calls_over(DJANGO_REDIS, redis_server.url), caplog.at_level("INFO", logger="llmcache.tiers"):
        assert [outcome(), outcome()] == ["miss", "hit"]
        with frozen(redis_server, how, plain), Connects.watched() as connects:
            # The first on the connection that is open, and none after it.
            assert [outcome() for _ in range(3)] == ["miss"] * 3
            assert connects.to(redis_server) == 0
            now = state()
            assert (now.breaker, now.faults, now.error) == ("open", 1, "TimeoutError")
        until_closed()
        assert outcome() in ("miss", "hit")
        assert outcome() == "hit"
    assert said(caplog) == REACHED


def test_threads_that_meet_a_frozen_server_try_it_once_each(
    provider: Sandbox, redis_server: RedisServer, plain: redis.Redis
) -> None:
    threads = 16
    with calls_over(DJANGO_REDIS, redis_server.url), frozen(redis_server, "stopped", plain):
        together = threading.Barrier(threads)
        found: list[str] = []
        runtime = process.current()
        (tier,) = runtime.tiers.below

        def work(number: int) -> None:
            together.wait(_DEADLINE)
            for step in range(20):
                assert tier.get(f"{number}-{step}") is None
                tier.set(f"{number}-{step}", b"value", 60)
            found.append("done")

        with Connects.watched() as connects:
            working = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
            for thread in working:
                thread.start()
            for thread in working:
                thread.join(_DEADLINE)
        assert len(found) == threads
        assert 1 <= connects.to(redis_server) <= threads
        assert 1 <= state().faults <= threads


def test_a_reply_that_comes_late_is_nobody_elses(redis_server: RedisServer, plain: redis.Redis) -> None:
    given = {"BACKEND": DJANGO_REDIS, "LOCATION": redis_server.url}
    with in_caches(shared=given):
        tier = tier_of(ALIAS)
        assert isinstance(tier, RedisTier)
        names = [f"late-{os.urandom(8).hex()}" for _ in range(20)]
        for name in names:
            tier.set(name, name.encode(), 60)
        with frozen(redis_server, "stopped", plain):
            assert tier.get(names[0]) is None
        until(lambda: tier.state().breaker == "closed")
        assert [tier.get(name) for name in names[1:]] == [name.encode() for name in names[1:]]
        tier.close()


def test_an_interrupt_leaves_no_reply_behind(
    redis_server: RedisServer, plain: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with in_caches(shared={"BACKEND": DJANGO_REDIS, "LOCATION": redis_server.url}):
        tier = tier_of(ALIAS)
        assert isinstance(tier, RedisTier)
        names = [f"interrupt-{os.urandom(8).hex()}" for _ in range(2)]
        for name in names:
            tier.set(name, name.encode(), 60)
        # Frozen, so that the reply comes after the next command has left.
        with frozen(redis_server, "stopped", plain), Connects.watched() as connects:
            with monkeypatch.context() as patch:

                def interrupt(*_: Any, **__: Any) -> None:
                    raise KeyboardInterrupt

                patch.setattr(redis.Connection, "read_response", interrupt)
                with pytest.raises(KeyboardInterrupt):
                    tier.get(names[0])
            assert tier.state().faults == 0
            assert tier.get(names[1]) is None
            assert connects.to(redis_server) == 1
        until(lambda: tier.state().breaker == "closed")
        assert tier.get(names[1]) == names[1].encode()
        tier.close()


class SlowWay:
    """A way to a server on which each reply takes its time."""

    def __init__(self, server: RedisServer, seconds: float) -> None:
        self._server = server
        self.seconds = seconds
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                onward = socket.create_connection(("127.0.0.1", self._server.port))
                threading.Thread(target=self._carry, args=(client, onward, False), daemon=True).start()
                threading.Thread(target=self._carry, args=(onward, client, True), daemon=True).start()

    def _carry(self, source: socket.socket, to: socket.socket, slowly: bool) -> None:
        with contextlib.suppress(OSError), source, to:
            while data := source.recv(65_536):
                if slowly:
                    time.sleep(self.seconds)
                to.sendall(data)


def test_a_slow_server_gets_half_a_second_of_a_call(provider: Sandbox, redis_server: RedisServer) -> None:
    way = SlowWay(redis_server, 0.0)
    try:
        with calls_over(DJANGO_REDIS, f"redis://127.0.0.1:{way.port}/0"):
            outcome()
            way.seconds = 0.2
            provider.answers["Grace"] = {"name": "Grace"}
            info = llmcache.extract_with_info("Grace", Person)
            assert (info.outcome, info.value.name) == ("miss", "Grace")
            now = state()
            assert now.breaker == "open"
            # Each reply comes in time, but for the last: it may take no longer than what is left.
            assert (now.faults, now.error) == (1, "TimeoutError")
            way.seconds = 0.0
            until_closed()
            assert outcome() == "hit"
    finally:
        way.close()


def test_many_values_on_a_slow_line_are_waited_for(redis_server: RedisServer) -> None:
    """Longer than for one value: what is good is not to be paid for again because there is much of it."""
    way = SlowWay(redis_server, 0.0)
    try:
        with calls_over(DJANGO_REDIS, f"redis://127.0.0.1:{way.port}/0"):
            (tier,) = process.current().tiers.below
            assert isinstance(tier, RedisTier)
            names = [f"value {number}" for number in range(100)]
            for name in names:
                tier.set(name, b"x" * 8_192, 60)
            way.seconds = 0.06
            began = time.monotonic()
            assert tier.get_many(names) == [b"x" * 8_192] * 100
            assert time.monotonic() - began > 2 * SOCKET_SECONDS
            assert state().breaker == "closed"
    finally:
        way.close()


STARVED = """
import json, os, signal, time
import django
django.setup()
from llmcache.engine import process
from llmcache.tiers import starvation
from llmcache.tiers.redis_tier import CALL_SECONDS
from llmcache.tiers.spending import Spending

(tier,) = process.current().tiers.below
assert tier.get("a key") is None
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
hogs = []
for _ in range(8):
    if not (hog := os.fork()):
        signal.alarm(60)
        while True:
            pass
    hogs.append(hog)
try:
    os.nice(19)
    with Spending() as account:
        began, waited = time.monotonic(), starvation.waited()
        while starvation.waited() - waited < 3 * CALL_SECONDS:
            tier.get("a key")
        took = time.monotonic() - began
finally:
    for hog in hogs:
        os.kill(hog, signal.SIGKILL)
        os.waitpid(hog, 0)
print(json.dumps([took > 3 * CALL_SECONDS, account.seconds < CALL_SECONDS, tier.state().breaker]))
"""


def test_a_process_that_gets_no_processor_does_not_blame_the_server(redis_server: RedisServer) -> None:
    """The least of nine that want one core: what its call takes is many times what a call may spend on a server."""
    tiers = json.dumps({ALIAS: {"BACKEND": DJANGO_REDIS, "LOCATION": redis_server.url}})
    with calls_over(DJANGO_REDIS, redis_server.url):
        environment = child_environment(LLMCACHE_TEST_CACHES=tiers)
        done = forks.run(["-c", STARVED], env=environment, cwd=Path.cwd(), timeout=60)
    assert json.loads(done.stdout or "null") == [True, True, "closed"], done.stderr


# -- a server that answers with an error


def test_a_full_server_is_read_and_not_written(
    backend: str, provider: Sandbox, redis_server: RedisServer, plain: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    with calls_over(backend, redis_server.url), caplog.at_level("INFO", logger="llmcache.tiers"):
        assert [outcome(), outcome()] == ["miss", "hit"]
        plain.config_set("maxmemory", 1)
        try:
            with pytest.raises(redis.exceptions.OutOfMemoryError):
                plain.set("key", b"value")
            provider.answers["Grace"] = {"name": "Grace"}
            infos = [llmcache.extract_with_info("Grace", Person) for _ in range(3)]
            assert [(info.outcome, info.value.name) for info in infos] == [("miss", "Grace")] * 3
            assert outcome() == "hit"
            now = state()
            assert (now.breaker, now.reads, now.writes, now.faults) == ("closed", True, False, 6)
            assert now.error == "OutOfMemoryError"
        finally:
            plain.config_set("maxmemory", 0)
        assert [llmcache.extract_with_info("Grace", Person).outcome for _ in range(2)] == ["miss", "hit"]
    assert said(caplog) == ["The tier 'shared' cannot be written", "The tier 'shared' can be written again."]


def test_a_replica_is_read_and_not_written(
    provider: Sandbox, redis_server: RedisServer, plain: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    with calls_over(DJANGO_REDIS, redis_server.url), caplog.at_level("INFO", logger="llmcache.tiers"):
        assert [outcome(), outcome()] == ["miss", "hit"]
        plain.replicaof("127.0.0.1", "1")
        try:
            with pytest.raises(redis.exceptions.ReadOnlyError):
                plain.set("key", b"value")
            provider.answers["Grace"] = {"name": "Grace"}
            assert llmcache.extract("Grace", Person).name == "Grace"
            assert outcome() == "hit"
            now = state()
            assert (now.breaker, now.reads, now.writes, now.error) == ("closed", True, False, "ReadOnlyError")
        finally:
            plain.replicaof("NO", "ONE")
        assert [llmcache.extract_with_info("Grace", Person).outcome for _ in range(2)] == ["miss", "hit"]
    assert said(caplog) == ["The tier 'shared' cannot be written", "The tier 'shared' can be written again."]


@pytest.mark.parametrize("kind", ["list", "hash", "set", "number", "text"])
def test_something_else_under_our_key_is_a_miss_and_replaced(
    kind: str, provider: Sandbox, redis_server: RedisServer, plain: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    with calls_over(DJANGO_REDIS, redis_server.url):
        key = bytes.fromhex(llmcache.extract_with_info("Ada", Person).key)
        name = str(caches[ALIAS].make_key(keys.storage_key(process.current().namespace, key)))
        assert plain.delete(name) == 1
        put: dict[str, Callable[[], Any]] = {
            "list": lambda: plain.rpush(name, b"x"),
            "hash": lambda: plain.hset(name, "a", b"x"),
            "set": lambda: plain.sadd(name, b"x"),
            "number": lambda: plain.incr(name),
            "text": lambda: plain.set(name, "text"),
        }
        put[kind]()
        wrong = kind in ("list", "hash", "set")
        with pytest.raises(redis.ResponseError, match="WRONGTYPE") if wrong else contextlib.nullcontext():
            plain.get(name)
        assert outcome() == "miss"
        # A miss may look twice: before it leads, and after.
        assert state().faults in ((1, 2) if wrong else (0,))
        assert state().breaker == "closed"
        assert (state().reads, state().writes) == (True, True)
        assert outcome() == "hit"
    assert said(caplog) == []


def test_a_server_that_wants_a_password_is_left_alone_until_it_does_not(
    provider: Sandbox, redis_server: RedisServer, plain: redis.Redis
) -> None:
    plain.ping()
    with calls_over(DJANGO_REDIS, redis_server.url):
        plain.config_set("requirepass", "secret")
        try:
            with redis.Redis.from_url(redis_server.url) as other, pytest.raises(redis.AuthenticationError):
                other.get("key")
            assert [outcome() for _ in range(3)] == ["miss"] * 3
            assert (state().breaker, state().faults, state().error) == ("open", 1, "AuthenticationError")
        finally:
            plain.config_set("requirepass", "")
        until_closed()
        assert [outcome(), outcome()] == ["miss", "hit"]


# -- a server that has forgotten


@pytest.mark.parametrize("how", ["flushed", "restarted"])
def test_a_server_that_has_forgotten_all_is_filled_again(
    how: str, backend: str, provider: Sandbox, redis_server: RedisServer, plain: redis.Redis
) -> None:
    with calls_over(backend, redis_server.url):
        assert [outcome(), outcome()] == ["miss", "hit"]
        if how == "flushed":
            plain.flushall()
        else:
            redis_server.stop()
            redis_server.start()
        assert plain.dbsize() == 0
        assert [outcome(), outcome()] == ["miss", "hit"]
        assert (state().faults, state().breaker) == (0, "closed")


# -- the way there


def test_a_hit_is_one_command(backend: str, provider: Sandbox, redis_server: RedisServer, plain: redis.Redis) -> None:
    with calls_over(backend, redis_server.url, KEY_PREFIX="app", VERSION=7):
        assert [outcome(), outcome()] == ["miss", "hit"]
        before = plain.info("commandstats")
        assert [llmcache.extract("Ada", Person) for _ in range(10)] == [Person(**ADA)] * 10
        after = plain.info("commandstats")
    done = {name: each["calls"] - before.get(name, {"calls": 0})["calls"] for name, each in after.items()}
    assert {name: count for name, count in done.items() if count and name != "cmdstat_info"} == {"cmdstat_get": 10}


def test_the_primary_is_read(backend: str, provider: Sandbox, redis_server: RedisServer) -> None:
    places = [redis_server.url, "redis://127.0.0.1:1/0"]
    with calls_over(backend, places if backend == DJANGO else ",".join(places)), Connects.watched() as connects:
        assert [outcome() for _ in range(5)] == ["miss", *["hit"] * 4]
    assert ("127.0.0.1", 1) not in connects.addresses


def test_a_unix_socket(backend: str, provider: Sandbox, redis_server: RedisServer) -> None:
    with calls_over(backend, redis_server.socket_url), Connects.watched() as connects:
        assert [outcome(), outcome()] == ["miss", "hit"]
        assert state().backend == backend
    assert connects.to(redis_server) == 0
    assert f"{redis_server.folder}/socket" in connects.addresses


@pytest.mark.parametrize("password", ["right", "wrong"])
def test_a_password(password: str, provider: Sandbox, redis_server: RedisServer, plain: redis.Redis) -> None:
    plain.ping()
    plain.config_set("requirepass", "right")
    try:
        with calls_over(DJANGO_REDIS, redis_server.url, OPTIONS={"PASSWORD": password}):
            assert [outcome(), outcome()] == ["miss", "hit" if password == "right" else "miss"]
            assert state().breaker == ("closed" if password == "right" else "open")
    finally:
        plain.config_set("requirepass", "")


def test_one_shard_that_is_down_leaves_the_others(redis_server: RedisServer) -> None:
    nowhere = "redis://127.0.0.1:1/0"
    given = {
        "BACKEND": DJANGO_REDIS,
        "LOCATION": [redis_server.url, nowhere],
        "OPTIONS": {"CLIENT_CLASS": "django_redis.client.ShardClient"},
    }
    with in_caches(shared=given):
        tier, client = tier_of(ALIAS), caches[ALIAS].client
        names = [f"shard-{number}" for number in range(60)]
        here = [name for name in names if client.get_server_name(client.make_key(name)) == redis_server.url]
        assert 0 < len(here) < len(names)
        with Connects.watched() as connects:
            for name in names:
                tier.set(name, name.encode(), 60)
            found = {name: tier.get(name) for name in names}
        assert found == {name: name.encode() if name in here else None for name in names}
        assert connects.addresses.count(("127.0.0.1", 1)) == 1
        # The project's own client finds them where we have put them.
        assert client.get_server(client.make_key(here[0])).get(client.make_key(here[0])) == here[0].encode()
        assert (tier.state().breaker, tier.state().faults) == ("open", 1)
        assert isinstance(tier, RedisTier)
        tier.close()


def test_sentinel_says_where_the_primary_is(provider: Sandbox, redis_server: RedisServer) -> None:
    sentinel = SentinelServer(redis_server)
    try:
        options = {
            "CLIENT_CLASS": "django_redis.client.SentinelClient",
            "SENTINELS": [("127.0.0.1", sentinel.port)],
            "CONNECTION_FACTORY": "django_redis.pool.SentinelConnectionFactory",
            "CONNECTION_POOL_CLASS": "redis.sentinel.SentinelConnectionPool",
        }
        with calls_over(DJANGO_REDIS, "redis://primary/0", OPTIONS=options), Connects.watched() as connects:
            assert [outcome(), outcome()] == ["miss", "hit"]
            assert (connects.to(sentinel), connects.to(redis_server)) == (1, 1)
            sentinel.stop()
            # The connection to the primary is open: nobody asks where it is.
            assert outcome() == "hit"
            process.install(None)
            assert [outcome(), outcome()] == ["miss", "miss"]
            assert (state().breaker, state().error) == ("open", "MasterNotFoundError")
            sentinel.start()
            until_closed()
            assert outcome() in ("miss", "hit")
    finally:
        sentinel.close()
