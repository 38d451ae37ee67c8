"""Connections of event loops to one Redis: those of a long-lived loop stay open, and are closed before it ends.

A loop that lives for a moment gets none: a synchronous view that awaits something has a new one at each request. What
is asked there, and where a server is reached in a way that only threads know, is asked by a thread.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from redis.asyncio import connection as awaited
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.credentials import UsernamePasswordCredentialProvider
from redis.exceptions import ConnectionError as NotReachedError
from redis.exceptions import RedisError, ResponseError
from redis.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection

from llmcache import workers
from llmcache.tiers import redis_pool
from llmcache.tiers.redis_pool import CONNECT_SECONDS, SOCKET_SECONDS, NoConnectionError, OwnPool

LONG_LIVED_SECONDS: Final = 1.0
"""From this age on a loop has connections: opening one for each loop would cost more than asking a thread."""
MOST_CONNECTING: Final = 4
"""Connections that a loop makes at once."""
LATE_SECONDS: Final = 0.05
"""A limit that is noticed later than this was noticed by a loop that had stood still."""

_CLASSES: Final[dict[type[Any], type[Any]]] = {
    Connection: awaited.Connection,
    SSLConnection: awaited.SSLConnection,
    UnixDomainSocketConnection: awaited.UnixDomainSocketConnection,
    SentinelManagedConnection: awaited.Connection,
    SentinelManagedSSLConnection: awaited.SSLConnection,
}
_PLAIN_CREDENTIALS: Final = (type(None), UsernamePasswordCredentialProvider)
# A parser and a way to try again are of one kind of connection; a limit of ours is round all that is done with one.
_NOT_FOR_LOOPS: Final = ("parser_class", "retry", "socket_timeout", "connection_pool")


class UndecidedError(Exception):
    """Nothing is known of the server: the loop was busy with something else, or has no connection to spare."""


class LoopConnections:
    """The connections of all event loops of this process to one server, made as those of a pool are."""

    def __init__(self, pool: OwnPool) -> None:
        self._make = _factory(pool)
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._born: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, float] = weakref.WeakKeyDictionary()
        self._kept: dict[asyncio.AbstractEventLoop, Connections] = {}
        self._waits = 0

    @property
    def waits(self) -> int:
        """How often an operation has waited for a connection that others had."""
        return self._waits + sum(kept.waits for kept in list(self._kept.values()))

    async def here(self) -> Connections | None:
        """Return the running loop's connections; None when a thread is to be asked instead."""
        loop = asyncio.get_running_loop()
        kept = self._kept.get(loop)
        if kept is None and self._make is not None and self._is_long_lived(loop):
            kept = await self._keep(loop, self._make)
        return kept

    def _is_long_lived(self, loop: asyncio.AbstractEventLoop) -> bool:
        now = loop.time()
        with self._lock:
            return now - self._born.setdefault(loop, now) >= LONG_LIVED_SECONDS

    async def _keep(self, loop: asyncio.AbstractEventLoop, make: Callable[[], Awaitable[Any]]) -> Connections:
        for other in [other for other in list(self._kept) if other.is_closed()]:
            # It did not end as loops do, and its connections with it.
            self._forget(other)
        kept = self._kept[loop] = Connections(make)
        await kept.until_the_loop_ends(lambda: self._forget(loop))
        return kept

    def _forget(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            kept = self._kept.pop(loop, None)
            self._waits += 0 if kept is None else kept.waits

    def close(self) -> None:
        """Let every loop close its connections; from any thread."""
        for loop, kept in list(self._kept.items()):
            # A loop that is closed has lost them already.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(kept.close_soon)

    def reset_after_fork(self) -> None:
        """Leave the parent its connections: closing them here would reach into its loops."""
        _inherited.append(self._kept)
        self._begin()


class Connections:
    """The connections of one loop to one server; used there alone."""

    def __init__(self, make: Callable[[], Awaitable[Any]]) -> None:
        self._make = make
        self._free: list[Any] = []
        # Taken by whoever asks. As long as there is room, that is one comparison and no waiting.
        self._places = asyncio.Semaphore(redis_pool.MOST_CONNECTIONS)
        self._connecting = asyncio.Semaphore(MOST_CONNECTING)
        self._until: AsyncGenerator[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._is_closed = False
        self.waits = 0

    async def ask(
        self, *command: Any, seconds: float = SOCKET_SECONDS, is_given_up: Callable[[], bool] = lambda: False
    ) -> Any:
        """Return the reply to a command. A connection that may still bring a reply is not used again.

        ``is_given_up``: whether others have found out meanwhile that the server is not to be asked.
        """
        if self._places.locked():
            self.waits += 1
            await _acquire(self._places, f"all {redis_pool.MOST_CONNECTIONS} connections are in use")
        else:
            await self._places.acquire()
        try:
            return await self._asked(command, seconds, is_given_up)
        finally:
            self._places.release()

    async def _asked(self, command: tuple[Any, ...], seconds: float, is_given_up: Callable[[], bool]) -> Any:
        connection = await self._taken()
        if connection is not None:
            try:
                return await self._asked_on(connection, command, seconds)
            except NotReachedError:
                # The server has hung up since, a restart for one, and so on the others.
                while self._free:
                    await _hang_up(self._free.pop())
        return await self._asked_on(await self._another(is_given_up), command, seconds)

    async def _another(self, is_given_up: Callable[[], bool]) -> Any:
        """Return a connection that has come free meanwhile, or a new one."""
        # All at once, they would take each other's time until it is over for all.
        await _acquire(self._connecting, "others have not come to an end with connecting")
        try:
            if is_given_up():
                raise NoConnectionError("others could not connect")
            return await self._taken() or await self._connected()
        finally:
            self._connecting.release()

    async def _asked_on(self, connection: Any, command: tuple[Any, ...], seconds: float) -> Any:
        clock = asyncio.get_running_loop().time
        until = clock() + seconds
        try:
            async with asyncio.timeout_at(until):
                await connection.send_command(*command)
                reply = await connection.read_response()
        except ResponseError:
            await self._give_back(connection)
            raise
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if isinstance(error, TimeoutError):
                raise _too_late(clock() - until, f"no reply in {seconds:g} s") from None
            raise
        await self._give_back(connection)
        return reply

    async def _taken(self) -> Any:
        """Return a connection that is open and has nothing to say; None when there is none."""
        while self._free:
            connection = self._free.pop()
            if connection.is_connected and not await _has_something(connection):
                return connection
            await connection.disconnect(nowait=True)
        return None

    async def _connected(self) -> Any:
        clock = asyncio.get_running_loop().time
        connection = await self._make()
        until = clock() + CONNECT_SECONDS
        try:
            async with asyncio.timeout_at(until):
                await connection.connect()
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if isinstance(error, TimeoutError):
                # The loop may have had no time for it: a thread finds out.
                raise UndecidedError(f"no connection in {CONNECT_SECONDS:g} s") from None
            raise
        return connection

    async def _give_back(self, connection: Any) -> None:
        if self._is_closed:
            await _hang_up(connection)
        else:
            self._free.append(connection)

    async def until_the_loop_ends(self, forget: Callable[[], None]) -> None:
        """See to it that the connections are closed when the loop ends as ``asyncio.run`` ends one."""
        self._until = self._open(forget)
        await anext(self._until)

    async def _open(self, forget: Callable[[], None]) -> AsyncGenerator[None]:
        # A loop that ends closes the generators that have begun in it.
        try:
            yield
        finally:
            forget()
            self._is_closed = True
            while self._free:
                await _hang_up(self._free.pop())

    def close_soon(self) -> None:
        """Close the connections that nobody uses; called in the loop."""
        if self._until is not None:
            self._closing = asyncio.get_running_loop().create_task(self._until.aclose())


def _factory(pool: OwnPool) -> Callable[[], Awaitable[Any]] | None:
    """Return what makes an unconnected connection to where a pool's lead; None when only threads can."""
    arguments, made = pool.connection_kwargs, _CLASSES.get(pool.connection_class)
    if made is None or arguments.get("redis_connect_func") is not None:
        return None
    if type(arguments.get("credential_provider")) not in _PLAIN_CREDENTIALS:
        # It may ask somebody, and take its time.
        return None
    kept = {name: value for name, value in arguments.items() if name not in _NOT_FOR_LOOPS}
    kept["socket_timeout"] = None
    by_sentinel = arguments.get("connection_pool")

    async def make() -> Any:
        where: dict[str, Any] = {}
        if by_sentinel is not None:
            where["host"], where["port"] = await _in_time(by_sentinel.get_master_address)
        connection = made(**{**kept, **where})
        if isinstance(connection, awaited.SSLConnection):
            # It reads certificates.
            context: Any = connection.ssl_context
            await workers.files.run(context.get)
        return connection

    try:
        made(**kept)
    except TypeError:
        # An argument that its sister for threads alone takes.
        return None
    return make


def _too_late(by: float, what: str) -> Exception:
    return UndecidedError(what) if by > LATE_SECONDS else TimeoutError(what)


async def _in_time(ask: Callable[[], Any]) -> Any:
    try:
        async with asyncio.timeout(SOCKET_SECONDS):
            return await workers.files.run(ask)
    except TimeoutError:
        raise TimeoutError(f"no answer from Sentinel in {SOCKET_SECONDS:g} s") from None


async def _acquire(places: asyncio.Semaphore, otherwise: str) -> None:
    try:
        async with asyncio.timeout(SOCKET_SECONDS):
            await places.acquire()
    except TimeoutError:
        raise UndecidedError(otherwise) from None


async def _hang_up(connection: Any) -> None:
    # A server that is down does not say goodbye.
    with suppress(RedisError, OSError):
        await connection.disconnect()


def _has_something(connection: Any) -> Any:
    # The name before redis-py 8.
    return connection.can_read() if hasattr(connection, "can_read") else connection.can_read_destructive()


_all: weakref.WeakSet[LoopConnections] = weakref.WeakSet()
_inherited: list[object] = []


def _reset_in_child() -> None:
    for connections in list(_all):
        connections.reset_after_fork()


os.register_at_fork(after_in_child=_reset_in_child)
