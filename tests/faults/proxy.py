"""A way to a server that goes wrong when it is told to: a TCP proxy before Redis, PostgreSQL or the provider alike.

Bytes pass as they are until a request meets a rule. Each rule says which requests it is about (by bytes that they
hold), what becomes of them or of their reply, and how often. What was met is counted, so that a test can show that its
fault has happened. Everything runs in an event loop of its own, in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Literal, Self

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Fault:
    """What becomes of a request, or of its reply."""

    name: Literal["latency", "drip", "cut", "reset", "lost", "unreachable", "half_open", "frozen"]
    amount: float = 0
    """Seconds, or bytes."""


def latency(seconds: float) -> Fault:
    """Let a reply come later."""
    return Fault("latency", seconds)


def drip(seconds: float) -> Fault:
    """Let a reply come byte by byte, with so much time before each."""
    return Fault("drip", seconds)


def cut(count: int) -> Fault:
    """Let so many bytes of a reply pass, and reset the connection."""
    return Fault("cut", count)


RESET = Fault("reset")
"""The request is carried out, and in place of its reply the connection is reset."""
LOST = Fault("lost")
"""The request is carried out, and its reply never comes."""
UNREACHABLE = Fault("unreachable")
"""The connection is reset before the server gets the request."""
HALF_OPEN = Fault("half_open")
"""The request goes nowhere, nor does what comes after it, and nobody says so."""
FROZEN = Fault("frozen")
"""The request waits until the proxy heals, and is carried out then, whoever is still there."""


class _Rule:
    def __init__(self, fault: Fault, on: bytes, after: bytes, times: int | None) -> None:
        self.fault = fault
        self.on = on
        self.after = after
        self.left = float("inf") if times is None else times


class _Link:
    """One connection: what its last request has met, and the way back."""

    def __init__(self, client: Streams) -> None:
        self.reader, self.writer = client
        self.fault: Fault | None = None
        self.is_answered = False
        self.tail = b""
        self.past: list[_Rule] = []
        """Rules whose first part has gone by."""


class Proxy:
    """A proxy on a free port of this machine, before a port of it or the path of a Unix socket."""

    def __init__(self, target: int | str) -> None:
        self._target = target
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self.connections = 0
        self.bytes_to_server = 0
        self.bytes_to_client = 0
        self.met: list[Fault] = []
        """The faults that requests have met, in order."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._healed = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faults-proxy", daemon=True)
        self._thread.start()
        self._server: asyncio.Server = self._do(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    def fail(self, fault: Fault, *, on: bytes = b"", after: bytes = b"", times: int | None = 1) -> None:
        """Let the next requests that hold these bytes meet a fault; ``times`` of None is until the proxy heals.

        ``after``: only those of a connection on which a request that holds these other bytes went by before.
        """
        with self._lock:
            self._rules.append(_Rule(fault, on, after, times))

    def heal(self) -> None:
        """Let everything pass again; requests that wait are carried out, and what is half open ends."""
        with self._lock:
            self._rules.clear()
        self._do(self._thaw())

    # -- in the loop

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(_awaited(work), self._loop).result(30)

    async def _stop(self) -> None:
        self._server.close()
        for link in list(self._links):
            _reset(link.writer)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        # Connections end in a turn of their own.
        await asyncio.sleep(0)

    async def _thaw(self) -> None:
        self._healed.set()
        self._healed = asyncio.Event()
        for link in list(self._links):
            if link.fault is not None and link.fault.name in ("half_open", "lost"):
                _reset(link.writer)

    async def _serve(self, *client: Any) -> None:
        self.connections += 1
        link = _Link(client)
        self._links.add(link)
        where, server = self._target, None
        try:
            server = await (
                asyncio.open_unix_connection(where)
                if isinstance(where, str)
                else asyncio.open_connection("127.0.0.1", where)
            )
            await self._carry(link, server)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._links.discard(link)
            for writer in (link.writer, *(() if server is None else (server[1],))):
                writer.close()

    async def _carry(self, link: _Link, server: Streams) -> None:
        back = asyncio.create_task(self._carry_back(server[0], link))
        try:
            with contextlib.suppress(OSError):
                await self._carry_on(link, server[1])
            # What was asked is answered to the end, though nobody listens any more.
            server[1].write_eof()
            await back
        finally:
            back.cancel()

    async def _carry_on(self, link: _Link, server: asyncio.StreamWriter) -> None:
        """Carry requests to the server."""
        while data := await link.reader.read(2**16):
            if link.is_answered:
                # A request may come in pieces, and the fault that one of them has met is the whole one's.
                link.fault, link.is_answered = None, False
            fault = link.fault = self._met(link, data) or link.fault
            if fault is not None and fault.name == "unreachable":
                _reset(link.writer)
                return
            if fault is not None and fault.name == "half_open":
                while await link.reader.read(2**16):
                    pass
                return
            if fault is not None and fault.name == "frozen":
                await self._healed.wait()
                link.fault = None
            self.bytes_to_server += len(data)
            server.write(data)
            await server.drain()

    async def _carry_back(self, server: asyncio.StreamReader, link: _Link) -> None:
        """Carry replies to the client."""
        with contextlib.suppress(OSError):
            while data := await server.read(2**16):
                await self._give(data, link)
        link.writer.close()

    async def _give(self, data: bytes, link: _Link) -> None:
        fault, pause = link.fault, 0.0
        link.is_answered = True
        if fault is not None and fault.name == "lost":
            return
        if fault is not None and fault.name in ("reset", "cut"):
            data = data[: int(fault.amount)]
        pieces = [data]
        if fault is not None and fault.name in ("latency", "drip"):
            pause = fault.amount
        if fault is not None and fault.name == "drip":
            pieces = [bytes([byte]) for byte in data]
        for piece in pieces:
            await asyncio.sleep(pause)
            self.bytes_to_client += len(piece)
            link.writer.write(piece)
            await link.writer.drain()
        if fault is not None and fault.name in ("reset", "cut"):
            _reset(link.writer)

    def _met(self, link: _Link, data: bytes) -> Fault | None:
        """Return the fault that a piece of a request meets. What a rule looks for may lie over two pieces."""
        with self._lock:
            looked = link.tail + data
            for rule in self._rules:
                if rule.after and rule not in link.past:
                    if rule.after in looked:
                        link.past.append(rule)
                    continue
                # What was in the piece before has met the rule, or not, by itself.
                if rule.left > 0 and looked.find(rule.on, max(len(link.tail) - len(rule.on) + 1, 0)) >= 0:
                    rule.left -= 1
                    self.met.append(rule.fault)
                    link.tail = b""
                    return rule.fault
            link.tail = looked[-200:]
            return None


async def _awaited(work: Awaitable[Any]) -> Any:
    return await work


def _reset(writer: asyncio.StreamWriter) -> None:
    """Send a reset, and not an end."""
    with contextlib.suppress(OSError):
        connection: Any = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
