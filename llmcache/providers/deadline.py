"""An HTTP transport whose reads and writes together keep within the bounds of one call.

A timeout of the HTTP client bounds each read by itself: a server that drips one byte a second holds a caller for ever,
and nothing bounds the body of an error. Here each operation on the socket gets what is left of the whole call's time,
and what is read is counted.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import httpcore2
import httpx2


@dataclass(slots=True)
class Bounds:
    """What is left of one call's time and bytes."""

    until: float
    """Monotonic seconds."""
    bytes_left: int
    exceeded: bool = False
    """Whether the reply was longer than it may be."""


_bounds: ContextVar[Bounds | None] = ContextVar("llmcache_bounds", default=None)


@contextmanager
def bounded(seconds: float, max_bytes: int) -> Generator[Bounds]:
    """Bound everything that is read and written on sockets in this context, from now on."""
    bounds = Bounds(time.monotonic() + seconds, max_bytes)
    token = _bounds.set(bounds)
    try:
        yield bounds
    finally:
        _bounds.reset(token)


def _left(timeout: float | None, error: type[Exception]) -> float | None:
    bounds = _bounds.get()
    if bounds is None:
        return timeout
    left = bounds.until - time.monotonic()
    if left <= 0:
        raise error("the call's deadline has passed")
    return left if timeout is None else min(left, timeout)


class _Stream(httpcore2.NetworkStream):
    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = self._stream.read(max_bytes, _left(timeout, httpcore2.ReadTimeout))
        bounds = _bounds.get()
        if bounds is not None:
            bounds.bytes_left -= len(data)
            if bounds.bytes_left < 0:
                bounds.exceeded = True
                raise httpcore2.ReadError("the reply is longer than it may be")
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(timeout, httpcore2.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        left = _left(timeout, httpcore2.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Backend(httpcore2.SyncBackend):
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        left = _left(timeout, httpcore2.ConnectTimeout)
        return _Stream(super().connect_tcp(host, port, left, local_address, socket_options))


class DeadlineTransport(httpx2.HTTPTransport):
    """The HTTP client's own transport over sockets that know the deadline."""

    def __init__(self) -> None:
        super().__init__()
        # The base class offers no argument for the network backend of its pool.
        self._pool = httpcore2.ConnectionPool(
            ssl_context=httpx2.create_ssl_context(),
            max_connections=1_000,
            max_keepalive_connections=100,
            keepalive_expiry=5.0,
            network_backend=_Backend(),
        )
