"""An HTTP transport whose reads and writes together keep within the bounds of one call.

A timeout of the HTTP client bounds each read by itself: a server that drips one byte a second holds a caller for ever,
and nothing bounds the body of an error. Here each operation on the socket gets what is left of the whole call's time,
and what is read is counted.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, cast

import httpcore2
import httpx2

PIECE: Final = 32_768
LIMITS: Final = httpx2.Limits(max_connections=1_000, max_keepalive_connections=100, keepalive_expiry=5.0)


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


def left(timeout: float | None, error: type[Exception]) -> float | None:
    """Return what an operation on a socket may take, at most ``timeout``; raises ``error`` when the time is over."""
    bounds = _bounds.get()
    if bounds is None:
        return timeout
    seconds = bounds.until - time.monotonic()
    if seconds <= 0:
        raise error("the call's deadline has passed")
    return seconds if timeout is None else min(seconds, timeout)


def count_read(data: bytes) -> bytes:
    """Return what was read; raises when that is more than the call may read in all."""
    bounds = _bounds.get()
    if bounds is not None:
        bounds.bytes_left -= len(data)
        if bounds.bytes_left < 0:
            bounds.exceeded = True
            raise httpcore2.ReadError("the reply is longer than it may be")
    return data


class _Stream(httpcore2.NetworkStream):
    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return count_read(self._stream.read(max_bytes, left(timeout, httpcore2.ReadTimeout)))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        # In pieces: the stream below would give each send of a long body the whole of what is left now.
        for start in range(0, len(buffer), PIECE):
            self._stream.write(buffer[start : start + PIECE], left(timeout, httpcore2.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        seconds = left(timeout, httpcore2.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, seconds))

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
        # One address at a time: the connection below would give each of a name's addresses the whole of what is left.
        refused: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in addresses(host, port):
            seconds = left(timeout, httpcore2.ConnectTimeout)
            try:
                return _Stream(super().connect_tcp(address, port, seconds, local_address, socket_options))
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                refused = error
        raise refused


def addresses(host: str, port: int) -> list[str]:
    """Return a host's addresses in the system's order. How long the system takes to tell them is not bounded."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore2.ConnectError(f"{host} has no address: {type(error).__name__}") from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class _Transport(httpx2.HTTPTransport):
    """The HTTP client's own transport over sockets that know the bounds."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Direct connections, HTTP proxies and SOCKS proxies each have a pool of their own kind; what all of them open
        # their connections with is this, and the base class offers no argument for it.
        cast("Any", self._pool)._network_backend = _Backend()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        return leave_packed(super().handle_request(request))


def leave_packed(response: httpx2.Response) -> httpx2.Response:
    """Keep an error's body from being unpacked: the SDK reads it whole, and it could be a thousand times as long."""
    if response.status_code >= 400:
        response.headers.pop("content-encoding", None)
    return response


class BoundedClient(httpx2.Client):
    """An HTTP client whose connections, those through the environment's proxies included, keep within the bounds.

    A redirect is not followed: it could carry the key to another host.
    """

    def __init__(self) -> None:
        super().__init__(follow_redirects=False, limits=LIMITS)

    def _init_transport(
        self,
        verify: ssl.SSLContext | str | bool = True,
        cert: Any = None,
        trust_env: bool = True,
        http1: bool = True,
        http2: bool = False,
        limits: httpx2.Limits = LIMITS,
        transport: httpx2.BaseTransport | None = None,
    ) -> httpx2.BaseTransport:
        return transport or _Transport(
            verify=verify, cert=cert, trust_env=trust_env, http1=http1, http2=http2, limits=limits
        )

    def _init_proxy_transport(
        self,
        proxy: httpx2.Proxy,
        verify: ssl.SSLContext | str | bool = True,
        cert: Any = None,
        trust_env: bool = True,
        http1: bool = True,
        http2: bool = False,
        limits: httpx2.Limits = LIMITS,
    ) -> httpx2.BaseTransport:
        return _Transport(
            proxy=proxy, verify=verify, cert=cert, trust_env=trust_env, http1=http1, http2=http2, limits=limits
        )
