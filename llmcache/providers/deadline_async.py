"""The asynchronous twin of ``deadline``: the same bounds on sockets that an event loop serves."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from functools import partial
from typing import Any, cast

import httpcore2
import httpx2

from llmcache import workers
from llmcache.providers.deadline import LIMITS, PIECE, addresses, count_read, leave_packed, left


class _Stream(httpcore2.AsyncNetworkStream):
    def __init__(self, stream: httpcore2.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return count_read(await self._stream.read(max_bytes, left(timeout, httpcore2.ReadTimeout)))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), PIECE):
            await self._stream.write(buffer[start : start + PIECE], left(timeout, httpcore2.WriteTimeout))

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        seconds = left(timeout, httpcore2.ConnectTimeout)
        return _Stream(await self._stream.start_tls(ssl_context, server_hostname, seconds))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Backend(httpcore2.AsyncNetworkBackend):
    def __init__(self) -> None:
        self._backend = cast("httpcore2.AsyncNetworkBackend", cast("Any", httpcore2).AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        # One address at a time, as the blocking twin.
        refused: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in await _addresses(host, port, left(timeout, httpcore2.ConnectTimeout)):
            seconds = left(timeout, httpcore2.ConnectTimeout)
            try:
                opened = await self._backend.connect_tcp(address, port, seconds, local_address, socket_options)
                return _Stream(opened)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                refused = error
        raise refused


async def _addresses(host: str, port: int, seconds: float | None) -> list[str]:
    """Return a host's addresses. Here the look-up is bounded too: it is a worker that waits for the system."""
    try:
        async with asyncio.timeout(seconds):
            return await workers.lookups.run(partial(addresses, host, port))
    except TimeoutError:
        raise httpcore2.ConnectTimeout(f"the addresses of {host} were not told in time") from None


class _Transport(httpx2.AsyncHTTPTransport):
    """The HTTP client's own transport over sockets that know the bounds."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # As in the blocking twin: what connections of all kinds are opened with.
        cast("Any", self._pool)._network_backend = _Backend()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return leave_packed(await super().handle_async_request(request))


class BoundedAsyncClient(httpx2.AsyncClient):
    """The asynchronous twin of ``BoundedClient``."""

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
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> httpx2.AsyncBaseTransport:
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
    ) -> httpx2.AsyncBaseTransport:
        return _Transport(
            proxy=proxy, verify=verify, cert=cert, trust_env=trust_env, http1=http1, http2=http2, limits=limits
        )
