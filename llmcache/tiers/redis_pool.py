"""Connections to one Redis: made by the project's arguments, under our limits, in a pool that nobody else has.

The project's own limits are for its own use: none at all, or a pool that raises when it is empty, or ten attempts with
pauses between them. Its arguments say who we are and how the server is reached, and of these none is changed.
"""

from __future__ import annotations

import math
import queue
import time
from contextlib import suppress
from typing import Any, Final, cast

import redis
from redis.backoff import NoBackoff
from redis.connection import BlockingConnectionPool, DefaultParser
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool, SentinelConnectionPoolProxy

CONNECT_SECONDS: Final = 0.1
"""How long a connection may take to be made."""
SOCKET_SECONDS: Final = 0.25
"""How long one reply may take; also how long an operation waits for a connection."""
MOST_CONNECTIONS: Final = 50
"""Connections of one process to one server."""

_AT_ONCE_SECONDS: Final = 0.01

# What a pool adds to its arguments for itself, or what is about replies we do not ask for.
_THE_POOLS_OWN: Final = ("maint_", "maintenance_", "orig_", "oss_cluster_", "himport_", "event_dispatcher")


# It is one of several classes, by what is installed.
class Parser(DefaultParser):  # pyright: ignore[reportGeneralTypeIssues, reportUntypedBaseClass]
    """Ends the wait for a reply that comes piece by piece: a socket's limit is for each of them.

    The parser in Python, which is there without hiredis, knows no other limit.
    """

    until = math.inf
    """When the reply that is read has to be there, in monotonic seconds."""

    def read_from_socket(self, *args: Any, **kwargs: Any) -> Any:
        """Read a piece; from ``until`` on only what has come, for which this thread may have had no time."""
        its_own = cast("Any", super())
        if time.monotonic() < self.until:
            return its_own.read_from_socket(*args, **kwargs)
        return its_own.read_from_socket(timeout=_AT_ONCE_SECONDS)


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
