"""The SDK's clients: one for the callers' threads, one for the background loop, made when they are first needed.

The SDK's own retries are off: they would make three paid calls look like one. A forked child makes its own, for it must
not talk on its parent's sockets; so does whoever has another key.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from llmcache import workers

if TYPE_CHECKING:
    import openai

    from llmcache.providers.faces import Face


class Connections:
    """The clients of one provider."""

    def __init__(self, base_url: str, key: Callable[[], str | None], face: Face) -> None:
        self._base_url = base_url
        self._key = key
        self._face = face
        self._lock, self._async_lock = threading.Lock(), threading.Lock()
        self._client: openai.OpenAI | None = None
        self._async_client: AsyncClient | None = None
        self._closed = False
        self._pid = 0

    def client(self) -> openai.OpenAI:
        """Return the client of the callers' threads."""
        import openai

        from llmcache.providers.deadline import BoundedClient

        with self._lock:
            key = self._key()
            if self._client is None or self._pid != os.getpid() or self._client.api_key != key:
                self._client = openai.OpenAI(
                    api_key=key,
                    base_url=self._base_url,
                    max_retries=0,
                    http_client=BoundedClient(),
                )
                self._pid = os.getpid()
            return self._client

    async def async_client(self) -> AsyncClient:
        """Return the client of the background loop; the first time it is made in another thread."""
        return self._found() or await workers.files.run(self.make_async_client)

    def make_async_client(self) -> AsyncClient:
        """Return the client of the background loop, made here and now where there is none."""
        with self._async_lock:
            found = self._found()
            if found is None:
                if self._async_client is not None:
                    self._async_client.retire()
                # A call that is still under way when its runtime is closed has connections of its own, then.
                found = AsyncClient(self._key(), self._base_url, self._face, retired=self._closed)
                self._async_client = None if self._closed else found
            return found

    def _found(self) -> AsyncClient | None:
        found = self._async_client
        return found if found is not None and found.serves(self._key()) else None

    def reset_after_fork(self) -> None:
        """Take new locks: the old ones may have been held by a thread that the child does not have."""
        self._lock, self._async_lock = threading.Lock(), threading.Lock()

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            if self._client is not None and self._pid == os.getpid():
                self._client.close()
            self._client = None
        with self._async_lock:
            self._closed = True
            if self._async_client is not None:
                self._async_client.retire()
            self._async_client = None


class AsyncClient:
    """A client of the background loop, closed when it is retired and no call is on its way through it."""

    def __init__(self, key: str | None, base_url: str, face: Face, *, retired: bool = False) -> None:
        import openai

        from llmcache.providers.deadline_async import BoundedAsyncClient

        self._client = openai.AsyncOpenAI(
            api_key=key, base_url=base_url, max_retries=0, http_client=BoundedAsyncClient()
        )
        self._pid = os.getpid()
        # What the SDK would look for and import at its first request.
        self._create: Any = face.create(self._client)
        cast("Any", self._client)._platform = self._client.platform_headers()["X-Stainless-OS"]
        face.known()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls = 0
        self._retired = retired

    async def __aenter__(self) -> Any:
        self._loop = asyncio.get_running_loop()
        self._calls += 1
        return self._create

    async def __aexit__(self, *_: object) -> None:
        self._calls -= 1
        await self._close_if_over()

    def serves(self, key: str | None) -> bool:
        """Return whether it is this process's, with this key."""
        return self._pid == os.getpid() and self._client.api_key == key

    def retire(self) -> None:
        """Let it be closed; from any thread."""
        self._retired = True
        if self._loop is not None and self._pid == os.getpid():
            asyncio.run_coroutine_threadsafe(self._close_if_over(), self._loop)

    async def _close_if_over(self) -> None:
        if self._retired and not self._calls:
            with contextlib.suppress(Exception):
                await self._client.close()
