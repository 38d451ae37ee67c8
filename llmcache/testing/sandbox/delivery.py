"""How an answer goes out: whole, byte by byte, or cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

from llmcache.testing.sandbox import responses
from llmcache.testing.sandbox.completions import Completion, Question, as_events, as_json, with_calls
from llmcache.testing.sandbox.faults import Fault
from llmcache.testing.sandbox.server import head, reset

_PIECE_BYTES: Final = 1 << 16
_HOLE: Final = "\N{OBJECT REPLACEMENT CHARACTER}"


async def deliver(
    completion: Completion, asked: Question, fault: Fault, request_id: str, pace: float, writer: asyncio.StreamWriter
) -> None:
    """Send a completion, or its stream if that was asked for, in the way of the fault; ``pace``: see ``Sandbox``."""
    if fault.content_bytes:
        completion["choices"][0]["message"]["content"] = _HOLE
    elif fault.change is not None:
        fault.change(completion, asked.schema)
    completion = with_calls(completion, asked)
    if asked.api == "responses":
        completion = responses.response(completion, asked)
    make = _stream if asked.stream else _body
    pieces = make(completion, asked, fault.content_bytes, request_id)
    if fault.delivery == "reset in body":
        data = b"".join(pieces)
        writer.write(data[: (_end_of_head(data) + len(data)) // 2])
        reset(writer)
    elif fault.delivery in ("drip from head", "drip from body"):
        data = b"".join(pieces)
        await _drip(data, 0 if fault.delivery == "drip from head" else _end_of_head(data), fault.drip_seconds, writer)
    else:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            if pace and asked.stream:
                await asyncio.sleep(pace)


async def _drip(data: bytes, start: int, seconds: float, writer: asyncio.StreamWriter) -> None:
    writer.write(data[:start])
    for at in range(start, len(data)):
        writer.write(data[at : at + 1])
        await writer.drain()
        await asyncio.sleep(seconds)


def _end_of_head(data: bytes) -> int:
    return data.index(b"\r\n\r\n") + 4


def _body(completion: Completion, _: Question, content_bytes: int, request_id: str) -> Iterator[bytes]:
    body = as_json(completion)
    before, _hole, after = body.rpartition(_HOLE.encode()) if content_bytes else (body, b"", b"")
    length = len(before) + content_bytes + len(after)
    yield head(200, "application/json", request_id, ("Content-Length", str(length))) + before
    if content_bytes:
        for piece in _filler(content_bytes):
            yield piece.encode()
        yield after


def _stream(completion: Completion, asked: Question, content_bytes: int, request_id: str) -> Iterator[bytes]:
    yield head(200, "text/event-stream; charset=utf-8", request_id, ("Transfer-Encoding", "chunked"))
    pieces = _filler(content_bytes) if content_bytes else None
    events = as_events(completion, include_usage=asked.include_usage, pieces=pieces)
    if asked.api == "responses":
        events = responses.as_events(completion, pieces=pieces)
    for event in events:
        yield b"%x\r\n%s\r\n" % (len(event), event)
    yield b"0\r\n\r\n"


def _filler(length: int) -> Iterator[str]:
    for start in range(0, length, _PIECE_BYTES):
        yield "x" * min(_PIECE_BYTES, length - start)
