"""Redis as a tier: bytes as they are, one command for each operation, and never long.

An alias's serialiser may be pickle, which runs what somebody has put into the store, or one that takes no bytes. Past
it, what lies in Redis does not depend on how the alias is set up, and changing that setting loses no answer that was
paid for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final, cast

from redis.exceptions import ConnectionError as NotReachedError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as TooLateError

from llmcache import workers
from llmcache.tiers import spending, starvation
from llmcache.tiers.base import Health, LeftAloneError, NoNameError, TierState, state_of
from llmcache.tiers.breaker import Breaker
from llmcache.tiers.django_tier import DjangoTier, require_bytes
from llmcache.tiers.redis_alias import RedisAlias, redis_alias
from llmcache.tiers.redis_loops import Connections, LoopConnections, UndecidedError
from llmcache.tiers.redis_pool import SOCKET_SECONDS, limited
from llmcache.tiers.spending import Spending

CALL_SECONDS: Final = 0.5
"""How much time of one call the operations may take together."""
PROBE_SECONDS: Final = 0.1
"""How soon a server that was left alone has to answer: one that is slower takes too much of the next call too."""

_LEAST_SECONDS: Final = 0.05
# What is quicker needs no excuse.
_NOTICED_SECONDS: Final = 0.01

# Redis counts milliseconds from 1970 in 64 bits, and refuses a sum that does not fit.
_LONGEST_SECONDS: Final = 100 * 365 * 86_400.0

# Under our key lies what somebody else has put there, and no bytes: that says nothing of the next key.
_WRONG_TYPE: Final = "WRONGTYPE"


class TooSlowError(Exception):
    """The operations of one call have taken all the time that it has for them."""


class _NoReplyError(Exception):
    """A server has answered with what is no reply to its command."""


class _Server:
    """One Redis: its connections, and whether it is left alone."""

    def __init__(self, tier: str, pool: Any) -> None:
        # In a forked child it begins anew by itself, and closes nothing of its parent's.
        self.pool = pool
        self.loops = LoopConnections(pool)
        self.breaker = Breaker(tier, self._answers)

    def ask(self, *command: Any, seconds: float = SOCKET_SECONDS) -> Any:
        """Return the reply to a command. A connection that may still bring a reply is not used again."""
        pool = self.pool
        connection = pool.get_connection()
        try:
            if seconds < SOCKET_SECONDS:
                with _hurried(connection._sock, seconds):
                    return _exchanged(connection, command, seconds)
            return _exchanged(connection, command, SOCKET_SECONDS)
        except ResponseError:
            raise
        except BaseException:
            connection.disconnect()
            raise
        finally:
            pool.release(connection)

    def _answers(self) -> bool:
        began, waited = time.monotonic(), starvation.waited()
        is_there = self.ask("PING") == b"PONG"
        took = time.monotonic() - began
        return is_there and took - (starvation.waited() - waited if took >= _NOTICED_SECONDS else 0.0) < PROBE_SECONDS


def _exchanged(connection: Any, command: tuple[Any, ...], seconds: float) -> Any:
    connection.send_command(*command)
    parser = connection._parser
    parser.expect(2 * seconds)
    try:
        return connection.read_response()
    finally:
        parser.expect(math.inf)


@contextmanager
def _hurried(connected: Any, seconds: float) -> Generator[None]:
    """Let a socket wait for less than it would."""
    connected.settimeout(seconds)
    try:
        yield
    finally:
        # It is closed by now when the wait was broken off.
        with suppress(OSError):
            connected.settimeout(SOCKET_SECONDS)


class RedisTier(DjangoTier):
    """An alias of django-redis or Django's RedisCache as a tier."""

    def __init__(self, alias: str, backend: type[Any], redis: RedisAlias) -> None:
        super().__init__(alias, backend)
        self._servers = {url: _Server(alias, limited(redis.pool_of(url))) for url in redis.servers}
        self._only = self._servers[redis.servers[0]] if redis.server_of is None else None
        self._server_of = redis.server_of
        self._name_of = redis.name_of

    def state(self) -> TierState:
        """Return how the tier has fared in this process; asks nobody."""
        servers = self._servers.values()
        return state_of(
            self.name,
            self._backend,
            self._shared,
            self._reads,
            self._writes,
            left_alone=any(server.breaker.is_open for server in servers),
            waits=sum(server.pool.pool.waits + server.loops.waits for server in servers),
        )

    def get(self, key: str) -> bytes | None:
        """Return the bytes under a key, or None."""
        try:
            server, name = self._place(key)
        except NoNameError as error:
            return self._reads.failed(error)
        if server.breaker.is_open:
            return None
        try:
            value = _ask(server, "GET", name)
        except Exception as error:  # noqa: BLE001  # the client's, and the system's
            self._fault(self._reads, server, error)
            return None
        self._reads.worked()
        return value if type(value) is bytes else None

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the bytes under each key, or None, by one command for each server."""
        found: list[bytes | None] = [None] * len(keys)
        try:
            by_server = self._by_server(keys)
        except NoNameError as error:
            self._reads.failed(error)
            return found
        for server, places, names in by_server:
            if server.breaker.is_open:
                continue
            try:
                values = cast("list[Any] | None", _ask(server, "MGET", *names))
            except Exception as error:  # noqa: BLE001  # the client's, and the system's
                self._fault(self._reads, server, error)
                continue
            if values is None or len(values) != len(names):
                self._reads.failed(_NoReplyError("MGET was answered with something else than its values"))
                continue
            self._reads.worked()
            read = [value if type(value) is bytes else None for value in values]
            if self._only is not None:
                return read
            for place, value in zip(places, read, strict=True):
                found[place] = value
        return found

    def _by_server(self, keys: Sequence[str]) -> Iterable[tuple[_Server, Sequence[int], list[str]]]:
        """Return of each server the places of its keys, and what they are called there."""
        if not keys:
            return ()
        if self._only is not None:
            return ((self._only, range(len(keys)), list(map(self._name_of, keys))),)
        apart: dict[int, tuple[_Server, list[int], list[str]]] = {}
        for place, key in enumerate(keys):
            server, name = self._place(key)
            _, places, names = apart.setdefault(id(server), (server, [], []))
            places.append(place)
            names.append(name)
        return apart.values()

    async def aget(self, key: str) -> bytes | None:
        """Do as ``get``, awaited, and never hold up the loop."""
        try:
            server, name = self._place(key)
        except NoNameError as error:
            return self._reads.failed(error)
        if server.breaker.is_open:
            return None
        try:
            connections = await server.loops.here()
            if connections is None:
                return await workers.files.run(partial(self.get, key))
            value = await _aask(server, connections, "GET", name)
        except UndecidedError:
            return await workers.files.run(partial(self.get, key))
        except Exception as error:  # noqa: BLE001  # the client's, and the system's
            self._fault(self._reads, server, error)
            return None
        self._reads.worked()
        return value if type(value) is bytes else None

    def set(self, key: str, value: bytes, ttl_seconds: float | None) -> None:
        """Keep bytes for a time; None means no expiry."""
        require_bytes(value)
        # Not above zero, rather than zero or less: that is true of NaN too.
        if ttl_seconds is not None and not ttl_seconds > 0:
            self.delete(key)
            return
        try:
            server, name = self._place(key)
        except NoNameError as error:
            self._writes.failed(error)
            return
        if server.breaker.is_open:
            return
        until = () if ttl_seconds is None else ("PX", math.ceil(min(ttl_seconds, _LONGEST_SECONDS) * 1_000))
        try:
            _ask(server, "SET", name, value, *until)
        except Exception as error:  # noqa: BLE001
            self._fault(self._writes, server, error)
        else:
            self._writes.worked()

    def add(self, key: str, value: bytes, ttl_seconds: float) -> None:
        """Keep bytes for a time, unless there are some."""
        try:
            server, name = self._place(key)
        except NoNameError as error:
            self._writes.failed(error)
            return
        if server.breaker.is_open or ttl_seconds <= 0:
            return
        try:
            _ask(server, "SET", name, value, "NX", "PX", math.ceil(ttl_seconds * 1_000))
        except Exception as error:  # noqa: BLE001
            self._fault(self._writes, server, error)

    def delete(self, key: str) -> None:
        """Remove what is kept under a key; tried also while the server is left alone, for it is asked for seldom."""
        try:
            server, name = self._place(key)
        except NoNameError as error:
            self._writes.failed(error)
            return
        try:
            server.ask("DEL", name)
        except Exception as error:  # noqa: BLE001
            self._fault(self._writes, server, error)

    def named(self, key: str) -> str:
        """Return what a key is called in Redis."""
        return self._name_of(key)

    def server_number(self, key: str) -> int:
        """Return a number that keys have alike which lie on one server."""
        return id(self._place(key)[0])

    def note_written(self) -> None:
        """Note that an entry was kept."""
        self._writes.worked()

    def command(self, of: str, *command: Any) -> Any:
        """Return the reply to a command, given to the server where a key lies.

        Raises what the client raises, and ``LeftAloneError`` for a server that is left alone.
        """
        server, _ = self._place(of)
        if server.breaker.is_open:
            raise LeftAloneError
        try:
            return _ask(server, *command)
        except ResponseError:
            raise
        except Exception as error:
            self._fault(self._writes, server, error)
            raise

    def close(self) -> None:
        """Close this process's connections; the next use opens one."""
        for server in self._servers.values():
            server.breaker.retire()
            server.pool.disconnect(inuse_connections=False)
            server.loops.close()

    def _place(self, key: str) -> tuple[_Server, str]:
        name = self._name_of(key)
        if self._only is not None or self._server_of is None:
            return self._only or next(iter(self._servers.values())), name
        return self._servers[self._server_of(name)], name

    def _fault(self, health: Health, server: _Server, error: Exception) -> None:
        if isinstance(error, (NotReachedError, TooLateError, OSError)):
            health.counted(error)
            server.breaker.trip(error)
        elif str(error).startswith(_WRONG_TYPE) or server.breaker.is_open:
            # Of the next key it says nothing, or it is what others have met and logged.
            health.counted(error)
        else:
            health.failed(error)


def redis_tier(alias: str, backend: type[Any]) -> RedisTier | None:
    """Return a tier over an alias's Redis; None where it has to be used as its client wants to be."""
    try:
        redis = redis_alias(alias)
        return None if redis is None else RedisTier(alias, backend, redis)
    except Exception:  # noqa: BLE001  # of whatever is wrong with its settings: the first use says it, and is counted
        return None


def _ask(server: _Server, *command: Any) -> Any:
    """Return the reply to a command, within what its call has left."""
    account = spending.of_this_call()
    if account is None:
        return server.ask(*command)
    began, waited = time.monotonic(), starvation.waited()
    reply = server.ask(*command, seconds=_left(account))
    _spend(account, server, time.monotonic() - began, waited)
    return reply


async def _aask(server: _Server, connections: Connections, *command: Any) -> Any:
    """Do as ``_ask``, awaited."""
    account = spending.of_this_call()

    def is_given_up() -> bool:
        return server.breaker.is_open

    if account is None:
        return await connections.ask(*command, is_given_up=is_given_up)
    began, waited = time.monotonic(), starvation.waited()
    seconds = min(_left(account), SOCKET_SECONDS)
    reply = await connections.ask(*command, seconds=seconds, is_given_up=is_given_up)
    _spend(account, server, time.monotonic() - began, waited)
    return reply


def _left(account: Spending) -> float:
    # Something is left in any case: what was paid for is to be kept by a server that is quick again.
    return max(CALL_SECONDS - account.seconds, _LEAST_SECONDS)


def _spend(account: Spending, server: _Server, seconds: float, waited: float) -> None:
    """Note what an operation took, less the time in which this thread waited for a processor."""
    if seconds >= _NOTICED_SECONDS:
        seconds -= min(max(starvation.waited() - waited, 0.0), seconds)
    account.seconds += seconds
    if account.seconds >= CALL_SECONDS:
        server.breaker.trip(TooSlowError(f"the operations of one call took {account.seconds:.2f} s"))
