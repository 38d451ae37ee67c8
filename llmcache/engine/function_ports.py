"""The ports of decorated functions: the policy is that of all calls, and what is asked is a function in this process.

Nothing leaves, so nothing of it is in the journal but the entry that was made: money is told by the calls that the
function makes.
"""

# ruff: noqa: ARG002  # the arguments are those of a contract
from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from django.db import connections
from django.views.decorators.debug import sensitive_variables

from llmcache.engine.asyncio_port import AsyncioPort
from llmcache.engine.call import Attempt, Call, Spent
from llmcache.engine.log_copy import View
from llmcache.engine.ports import BlockingPort
from llmcache.engine.tabs import Tab, open_tab, opened
from llmcache.envelope import Entry
from llmcache.functions.decorators import Work
from llmcache.providers.base import Body, Reply
from llmcache.providers.functions import NO_REST, RUN
from llmcache.workers import Workers

_background: Final = Workers("llmcache-functions", 16)
"""For functions whose values are renewed while nobody waits; as many as there are refreshes at once."""


class NotKeptError(Exception):
    """A function's value that cannot be kept; its caller gets it as it is."""

    def __init__(self, value: Any) -> None:
        super().__init__("the function's value does not survive being written down")
        self.value = value


@dataclass(slots=True)
class Run:
    """One call of a function, yet to be made."""

    work: Work
    """Calls it; the value of an asynchronous one is awaited."""
    dumped: Callable[[Any], bytes]
    """Returns a value's bytes; raises ``NotKeptError``."""
    loop: asyncio.AbstractEventLoop | None = None
    """In which an asynchronous function was called: what it uses may belong there."""

    def now(self) -> Attempt:
        """Call the function in this thread."""
        tab, has_changed = Tab(), self.work.has_changed()
        try:
            with opened(tab):
                value = self.work.run()
        finally:
            _tell_the_one_outside(tab)
        return self._made(value, tab, has_changed)

    async def awaited(self) -> Attempt:
        """Await the function in this loop."""
        tab, has_changed = Tab(), self.work.has_changed()
        try:
            with opened(tab):
                value = await self.work.run()
        finally:
            _tell_the_one_outside(tab)
        return self._made(value, tab, has_changed)

    async def somewhere(self) -> Attempt:
        """Call the function where it belongs: in its own loop, or in a thread where it may take its time."""
        if self.loop is None:
            return await _background.run(self._in_thread)
        if self.loop is asyncio.get_running_loop():
            return await self.awaited()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.awaited(), self.loop))

    def _in_thread(self) -> Attempt:
        try:
            return self.now()
        finally:
            # Of this thread alone: nobody else would.
            connections.close_all()

    def _made(self, value: Any, tab: Tab, has_changed: bool) -> Attempt:
        if has_changed:
            # A list that was passed is another by now: the key that is asked for is not this value's.
            raise NotKeptError(value)
        text = self.dumped(value).decode(errors="surrogatepass")
        reply = Reply(text, None, refused=False, model=None, usage=None, request_id=None, rest=NO_REST)
        return Attempt(str(uuid.uuid4()), reply, tab.cost)


def _of_function(entry: Entry) -> Entry:
    """Return an entry that says where its value is from."""
    return replace(entry, meta=json.dumps({**entry.facts(), "source": "function"}, separators=(",", ":")).encode())


def _tell_the_one_outside(tab: Tab) -> None:
    outer = open_tab()
    if outer is not None:
        outer.add(tab.cost)


class FunctionPort(BlockingPort):
    """The port of a function that is called in its caller's thread."""

    def entry(self, call: Call, reply: Reply, spent: Spent, seconds: float, seen: bytes) -> Entry:
        return _of_function(super().entry(call, reply, spent, seconds, seen))

    async def make_ready(self, call: Call) -> None:
        pass

    @sensitive_variables()
    async def ask(self, call: Call, body: Body, seconds: float, why: str, attempt: int) -> Attempt:
        run: Run = body[RUN]
        return run.now()

    def kept_request(self, call: Call) -> bytes | None:
        # Nobody could make the call again of it: rows name no code.
        return None


class AwaitedFunctionPort(AsyncioPort):
    """The port of a function that is awaited, or called while nobody waits."""

    def entry(self, call: Call, reply: Reply, spent: Spent, seconds: float, seen: bytes) -> Entry:
        return _of_function(super().entry(call, reply, spent, seconds, seen))

    async def make_ready(self, call: Call) -> None:
        pass

    @sensitive_variables()
    async def ask(self, call: Call, body: Body, seconds: float, why: str, attempt: int) -> Attempt:
        run: Run = body[RUN]
        return await run.somewhere()

    def kept_request(self, call: Call) -> bytes | None:
        return None


class _Recorded:
    """Views the log as it was when a generator began: what was invalidated since voids what it has given."""

    first: View | None = None

    def _seen(self) -> View | None:
        seen, self.first = self.first, None
        return seen


class RecordingPort(FunctionPort, _Recorded):
    """The port that keeps what a generator has given."""

    async def view(self, call: Call) -> View:
        return self._seen() or await super().view(call)


class AwaitedRecordingPort(AwaitedFunctionPort, _Recorded):
    """The port that keeps what an asynchronous generator has given."""

    async def view(self, call: Call) -> View:
        return self._seen() or await super().view(call)
