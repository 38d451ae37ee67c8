"""Connections to one Redis: made by the project's arguments, under our limits, in a pool that nobody else has.

The project's own limits are for its own use: none at all, or a pool that raises when it is empty, or ten attempts with
pauses between them. Its arguments say who we are and how the server is reached, and of these none is changed.
"""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

import redis
from redis.backoff import NoBackoff
from redis.connection import BlockingConnectionPool, DefaultParser
from redis.exceptions import TimeoutError as TooLateError
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool, SentinelConnectionPoolProxy

CONNECT_SECONDS: Final = 0.1
"""How long a connection may take to be made."""
SOCKET_SECONDS: Final = 0.25
"""How long one reply may take; also how long an operation waits for a connection."""
MOST_CONNECTIONS: Final = 50
"""Connections of one process to one server."""

_AT_ONCE_SECONDS: Final = 0.01
_LEAST_RATE: Final = 2**20
"""Bytes a second."""
_PIECE: Final = 1_024
_MOST_SMALL: Final = 16

# What a pool adds to its arguments for itself, or what is about replies we do not ask for.
_THE_POOLS_OWN: Final = ("maint_", "maintenance_", "orig_", "oss_cluster_", "himport_", "event_dispatcher")


# It is one of several classes, by what is installed.
class Parser(DefaultParser):  # pyright: ignore[reportGeneralTypeIssues, reportUntypedBaseClass]
    """Ends the wait for a reply that comes piece by piece: a socket's limit is for each of them.

    What is healthy is not cut: the first piece has the socket's own limit, each megabyte a second more, and what has
    come while this thread had no processor is read however late. The parser in Python, which is there without hiredis,
    knows no other limit than the socket's.
    """

    seconds = math.inf
    """How long a reply may take from its first piece on."""
    _until: float | None = None
    _small = 0

    def expect(self, seconds: float) -> None:
        """Begin a reply, with a limit of its own."""
        self.seconds, self._until, self._small = seconds, None, 0

    def read_from_socket(self, *args: Any, **kwargs: Any) -> Any:
        """Read a piece. Raises redis-py's ``TimeoutError`` where the reply takes too long."""
        its_own = cast("Any", super())
        if self.seconds == math.inf:
            return its_own.read_from_socket(*args, **kwargs)
        if self._until is None:
            done = its_own.read_from_socket(*args, **kwargs)
            self._until = time.monotonic() + self.seconds
            return done
        size = cast("Callable[[], int] | None", getattr(cast("Any", self)._reader, "len", None))
        before = 0 if size is None else size()
        if is_late := time.monotonic() >= self._until:
            kwargs = {**kwargs, "timeout": _AT_ONCE_SECONDS}
        done = its_own.read_from_socket(*args, **kwargs)
        came = _PIECE if size is None else size() - before
        self._until += came / _LEAST_RATE
        if is_late and came < _PIECE:
            # A byte now and then is there at once each time.
            self._small += 1
            if self._small > _MOST_SMALL:
                raise TooLateError("a reply came byte by byte")
        return done


class NoConnectionError(Exception):
    """All connections are in use, and none came free in time."""


class FreeConnections(queue.LifoQueue[Any]):
    """A pool's connections that nobody uses; counts how often there were none."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.waits = 0

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if not self.queue:
            with self.mutex:
                self.waits += 1
        try:
            return super().get(block, timeout)
        except queue.Empty:
            raise NoConnectionError(f"all {self.maxsize} connections are in use") from None

    def hang_up(self) -> None:
        """Close them; each connects anew at its next use."""
        free: list[Any] = []
        with suppress(queue.Empty):
            while True:
                free.append(super().get(block=False))
        # In their order: what was used last is used first.
        for connection in reversed(free):
            if connection is not None:
                connection.disconnect()
            self.put_nowait(connection)


class OwnPool(BlockingConnectionPool):
    """Connections that nobody but a tier has."""

    pool: FreeConnections

    def make_connection(self) -> Any:
        """Make an unconnected one; where its arguments are wrong, whoever comes next meets the same error at once."""
        try:
            return super().make_connection()
        except BaseException:
            # It was to take a place that is out of the queue already.
            with suppress(queue.Full):
                self.pool.put_nowait(None)
            raise

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Close all, or those that nobody uses; not every version of redis-py tells the two apart."""
        if inuse_connections:
            super().disconnect()
        else:
            self.pool.hang_up()


def limited(pool: Any) -> OwnPool:
    """Return a pool with the arguments of another, and our limits. It does not connect."""
    arguments = _within_limits(pool.connection_kwargs)
    by_sentinel = isinstance(pool, SentinelConnectionPool)
    if by_sentinel:
        # It asks Sentinel within the project's limits.
        del arguments["connection_pool"]
    made = _pool(pool.connection_class, arguments)
    if by_sentinel:
        made.connection_kwargs["connection_pool"] = _ways_by_sentinel(pool, made)
    return made


def _ways_by_sentinel(project: Any, made: OwnPool) -> SentinelConnectionPoolProxy:
    return SentinelConnectionPoolProxy(
        connection_pool=made,
        is_master=True,
        check_connection=False,
        service_name=project.service_name,
        sentinel_manager=_sentinel(project.sentinel_manager),
    )


def _pool(connection_class: Any, arguments: dict[str, Any]) -> OwnPool:
    return OwnPool(
        max_connections=MOST_CONNECTIONS,
        timeout=SOCKET_SECONDS,  # pyright: ignore[reportArgumentType]  # it is given to a queue, which takes fractions
        connection_class=connection_class,
        queue_class=FreeConnections,
        **arguments,
    )


def _sentinel(project: Any) -> Any:
    """Return a way to the same sentinels, within our limits."""
    made = Sentinel([], min_other_sentinels=project.min_other_sentinels)
    made._force_master_ip = getattr(project, "_force_master_ip", None)  # pyright: ignore[reportPrivateUsage]
    made.sentinels = [redis.Redis(connection_pool=limited(each.connection_pool)) for each in project.sentinels]
    return made


def _within_limits(project: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in project.items() if not name.startswith(_THE_POOLS_OWN)}
    return {
        **kept,
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": SOCKET_SECONDS,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
        "retry_on_error": [],
        # Each would be a second command.
        "health_check_interval": 0,
        # Bytes as they are, by the quickest parser there is.
        "decode_responses": False,
        "parser_class": Parser,
        "protocol": 2,
    }
