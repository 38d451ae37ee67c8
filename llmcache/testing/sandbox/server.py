"""HTTP/1.1 with keep-alive on loopback, in a thread of its own with an event loop of its own.

Everything that belongs to the server is touched only in that thread, so nothing here needs a lock. Asyncio sets
TCP_NODELAY on every connection, and a short answer is one write: head and body apart would meet Nagle's algorithm and
the peer's delayed acknowledgement, 40 ms a call.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, TypeVar

_T = TypeVar("_T")
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
_HOST: Final = "127.0.0.1"
_WAITING_CONNECTIONS: Final = 1_024
_READ_AHEAD: Final = 1 << 18
_LAST_ROUNDS: Final = 5
"""Of the event loop, from a connection that is accepted to its end."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request that arrived whole."""

    method: str
    path: str
    """Without the query."""
    headers: dict[str, str]
    """By names in lower case."""
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply whose body is known before it goes out."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()

    def as_bytes(self, request_id: str) -> bytes:
        """Return head and body in one piece."""
        length = ("Content-Length", str(len(self.body)))
        return head(self.status, self.content_type, request_id, length, *self.headers) + self.body


def head(status: int, content_type: str, request_id: str, *headers: tuple[str, str]) -> bytes:
    """Return a reply's head, its blank line included."""
    lines = [f"HTTP/1.1 {status} {_PHRASES.get(status, '')}", f"Content-Type: {content_type}"]
    lines += [f"x-request-id: {request_id}", *(f"{name}: {content}" for name, content in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with a TCP RST."""
    # With linger on and its time 0, closing sends RST at once instead of FIN.
    peer: socket.socket = writer.get_extra_info("socket")
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


Answering = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """A listening socket on 127.0.0.1; `answering` gets every request, one at a time from each connection."""

    def __init__(self, answering: Answering, port: int) -> None:
        self._answering = answering
        self.port = port
        """0 until the server has started, where any free port will do."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen, in a daemon thread, from this call's return on."""
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run(started)), name="llmcache-sandbox", daemon=True
        )
        self._thread.start()
        started.result()

    def stop(self) -> None:
        """Close all connections, answered or not, and wait for the thread's end."""
        if self._thread is not None:
            self.call(self._stopping.set)
            self._thread.join()
            self._thread = None

    def call(self, act: Callable[[], _T]) -> _T:
        """Do something in the server's thread and return what it returns; before start and after stop, do it here."""
        if self._loop is None:
            return act()
        done: Future[_T] = Future()

        def run() -> None:
            try:
                done.set_result(act())
            except BaseException as error:  # noqa: BLE001 - it belongs to the thread that waits
                done.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return done.result()

    async def _run(self, started: Future[None]) -> None:
        try:
            server = await asyncio.start_server(
                self._connected, _HOST, self.port, limit=_READ_AHEAD, backlog=_WAITING_CONNECTIONS
            )
        except OSError as error:
            started.set_exception(error)
            return
        self.port = server.sockets[0].getsockname()[1]
        self._loop = asyncio.get_running_loop()
        started.set_result(None)
        await self._stopping.wait()
        loop, self._loop = self._loop, None
        # Accept no more, and let what was accepted a moment ago come to us: a server that is closed before that leaves
        # such connections open.
        for listening in server.sockets:
            loop.remove_reader(listening.fileno())
        for _ in range(_LAST_ROUNDS):
            await asyncio.sleep(0)
        server.close()
        tasks = dict(self._open)
        for task, writer in tasks.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._open[task] = writer
        task.add_done_callback(self._open.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not writer.is_closing():
                try:
                    request = await _read(reader)
                except (ValueError, asyncio.LimitOverrunError):
                    writer.write(Reply(400, b"This is no HTTP request.\n", "text/plain").as_bytes("none"))
                    return
                await self._answering(request, writer)
                if request.headers.get("connection", "").lower() == "close":
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the other side has gone
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Request:
    first, *lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): content.strip() for name, _, content in pairs}
    if "transfer-encoding" in headers:
        raise ValueError("a body of unknown length")
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, target.partition("?")[0], headers, body)
