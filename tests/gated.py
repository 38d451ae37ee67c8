"""A provider whose stream goes out piece by piece, each when the test lets it."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

from llmcache.engine import process
from llmcache.testing.sandbox.server import Request, Server, head
from tests.conftest import llmcache_settings


class Gated:
    """A provider whose stream goes out piece by piece, each when the test lets it."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.received = 0
        self.lost = 0
        """Streams whose reader had gone before their end."""
        self._let = threading.Semaphore(0)
        self.server = Server(self._answer, 0)

    def let(self, count: int = 1) -> None:
        """Let so many pieces go."""
        for _ in range(count):
            self._let.release()

    @property
    def is_done(self) -> bool:
        """Whether each piece that was let go has gone."""
        return not self._let._value

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self.received += 1
        writer.write(head(200, "text/event-stream", "req_1", ("Transfer-Encoding", "chunked")))
        for piece in self.pieces:
            while not self._let.acquire(blocking=False):
                await asyncio.sleep(0.001)
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            try:
                await writer.drain()
            except ConnectionError:
                self.lost += 1
                raise
        writer.write(b"0\r\n\r\n")


@contextlib.contextmanager
def gated_provider() -> Iterator[Gated]:
    """Settings that point to such a provider, started."""
    provider = Gated()
    provider.server.start()
    base_url = f"http://127.0.0.1:{provider.server.port}/v1"
    with llmcache_settings(PROVIDERS={"openai": {"base_url": base_url, "api_key": "x"}}):
        yield provider
    process.install(None)
    provider.server.stop()


def event(content: str | None = None, *, finish: str | None = None, **more: Any) -> bytes:
    """Return one event of a stream."""
    delta = {} if content is None else {"content": content}
    choices = [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}]
    facts = {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-5-mini-2026",
        "choices": choices,
    }
    return b"data: " + json.dumps({**facts, **more}).encode() + b"\n\n"


USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
END = (event(finish="stop"), event(choices=[], usage=USAGE) + b"data: [DONE]\n\n")
