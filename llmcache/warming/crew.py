"""The threads of one process that ask; they do not touch the database themselves.

What they need of it, permits to ask, comes over a counter from the thread that coordinates them.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from django.db import connections
from django.views.decorators.debug import sensitive_variables

from llmcache.engine.policy import resolve
from llmcache.engine.ports import BlockingPort, run
from llmcache.exceptions import (
    AuthenticationFailed,
    BudgetExceeded,
    ConfigurationError,
    FlightTimeout,
    LedgerFull,
    LLMCacheError,
    ProviderCallsForbidden,
    ProviderError,
)
from llmcache.warming.estimates import is_live
from llmcache.warming.purse import Ended
from llmcache.warming.texts import unpacked

if TYPE_CHECKING:
    from llmcache.engine.call import Attempt, Call
    from llmcache.engine.runtime import Runtime
    from llmcache.envelope import Entry
    from llmcache.providers.base import Body
    from llmcache.warming.claims import Claimed
    from llmcache.warming.wanted import Wanted

_NOTHING_SENT: Final = (LedgerFull, ProviderCallsForbidden, ConfigurationError)
_HOPELESS: Final = (AuthenticationFailed, ConfigurationError, ProviderCallsForbidden, LedgerFull)
"""What will go wrong with the next item too."""


class Counter:
    """Where threads get permits to ask; told with what is held for each."""

    def __init__(self, news: threading.Event) -> None:
        self._news = news
        self._changed = threading.Condition()
        self._permits: deque[int] = deque()
        self._waiting = 0
        self._denied = False

    def put(self, each_pico_usd: list[int]) -> None:
        """Add permits."""
        with self._changed:
            self._permits.extend(each_pico_usd)
            self._denied = self._denied and not each_pico_usd
            self._changed.notify_all()

    def deny(self) -> None:
        """Let nobody wait: there will be none."""
        with self._changed:
            self._denied = True
            self._changed.notify_all()

    def take(self) -> int | None:
        """Return a permit for another item; None without one that nobody waits for."""
        with self._changed:
            return self._permits.popleft() if len(self._permits) > self._waiting else None

    def take_all(self) -> list[int]:
        """Return all permits."""
        with self._changed:
            found = list(self._permits)
            self._permits.clear()
            return found

    def wait(self, seconds: float) -> int:
        """Return a permit for a further attempt; ``BudgetExceeded`` where there is none in this time."""
        with self._changed:
            self._waiting += 1
            try:
                self._news.set()
                self._changed.wait_for(lambda: self._permits or self._denied, seconds)
                if not self._permits:
                    raise BudgetExceeded("The run of warming has no call left for a further attempt.")
                return self._permits.popleft()
            finally:
                self._waiting -= 1

    @property
    def waiting(self) -> int:
        """How many wait for a further attempt."""
        return self._waiting

    def __len__(self) -> int:
        return len(self._permits)


@dataclass(slots=True)
class Permits:
    """The permits of one item."""

    counter: Counter
    unused: list[int]
    ended: list[Ended] = field(default_factory=list[Ended])
    _open: int | None = None

    def take(self, seconds: float) -> None:
        """Take one for an attempt that is about to leave."""
        self._open = self.unused.pop() if self.unused else self.counter.wait(seconds)

    def put_back(self) -> None:
        """Give it back: the attempt has not left."""
        if self._open is not None:
            self.unused.append(self._open)
            self._open = None

    def end(self, cost: int | None) -> None:
        """Note what the attempt has cost."""
        if self._open is not None:
            self.ended.append(Ended(self._open, cost))
            self._open = None


@dataclass(slots=True)
class Result:
    """What asking for one item has come to."""

    item: Claimed
    permits: Permits
    state: str
    """A state of items; ``waiting`` for one that has to be tried again."""
    error: str = ""
    is_trouble: bool = False
    """Whether it is not about this item alone."""
    is_hopeless: bool = False
    """Whether no other item will fare better."""
    key: str = ""
    """Under which it was asked."""


class _Port(BlockingPort):
    """The port of a call for warming: each attempt takes a permit before it leaves.

    That one was answered is written into the journal when the answer lies in a tier, and not before: where the process
    is killed between the two, the answer is lost and asked for again, and then the ledger has to say that the first
    call is in doubt.
    """

    def __init__(self, runtime: Runtime, permits: Permits) -> None:
        super().__init__(runtime)
        self._permits = permits
        self._answered: tuple[str, dict[str, Any]] | None = None

    def note_end(self, event: str, call_id: str, facts: dict[str, Any]) -> None:
        if event == "settled":
            self._answered = (call_id, facts)
        else:
            super().note_end(event, call_id, facts)

    def note_answered(self) -> None:
        """Write what was held back, as soon as it is known what becomes of the answer."""
        if self._answered is not None:
            call_id, facts = self._answered
            self._answered = None
            super().note_end("settled", call_id, facts)

    async def record_stored(self, call: Call, call_id: str, entry: Entry, beside: int) -> None:
        self.note_answered()
        await super().record_stored(call, call_id, entry, beside)

    async def record_rejected(self, call_id: str, errors: tuple[dict[str, Any], ...]) -> None:
        self.note_answered()
        await super().record_rejected(call_id, errors)

    @sensitive_variables()
    async def ask(self, call: Call, body: Body, seconds: float, why: str, attempt: int) -> Attempt:
        self.note_answered()
        until = self._clock.monotonic() + seconds
        self._permits.take(seconds)
        try:
            made = await super().ask(call, body, max(until - self._clock.monotonic(), 0.001), why, attempt)
        except _NOTHING_SENT:
            self._permits.put_back()
            raise
        self._permits.end(made.cost)
        return made


class Crew:
    """So many threads that ask for the items of one run."""

    def __init__(
        self, now: Runtime, wanted: Wanted, since: float, size: int, news: threading.Event, counter: Counter
    ) -> None:
        self.results: deque[Result] = deque()
        self._now = now
        self._wanted = wanted
        self._since = since
        self._news = news
        self._counter = counter
        self._items: SimpleQueue[tuple[Claimed, int] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"llmcache-warming-{number}", daemon=True)
            for number in range(size)
        ]
        for thread in self._threads:
            thread.start()

    def give(self, item: Claimed, each_pico_usd: int) -> None:
        """Let a thread ask for an item, with a permit."""
        self._items.put((item, each_pico_usd))

    def close(self) -> None:
        """End the threads once they have done what they were given."""
        for _ in self._threads:
            self._items.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        try:
            while (given := self._items.get()) is not None:
                item, each = given
                permits = Permits(self._counter, [each])
                result = self._asked(item, permits)
                # Broken off, it may have been charged.
                permits.end(None)
                self.results.append(result)
                self._news.set()
        finally:
            # A look at the invalidation log may have opened one.
            connections.close_all()

    @sensitive_variables()
    def _asked(self, item: Claimed, permits: Permits) -> Result:
        try:
            key, state = self._ask(item, permits)
        except BudgetExceeded:
            return Result(item, permits, "waiting")
        except _HOPELESS as error:
            return Result(item, permits, "waiting", error.code, is_trouble=True, is_hopeless=True)
        except (ProviderError, FlightTimeout) as error:
            return Result(item, permits, "waiting", error.code, is_trouble=True)
        except LLMCacheError as error:
            return Result(item, permits, "failed", error.code)
        except Exception as error:  # noqa: BLE001  # of a validator, a type or a tier of the project's
            return Result(item, permits, "failed", type(error).__name__[:64])
        return Result(item, permits, state, key=key)

    @sensitive_variables()
    def _ask(self, item: Claimed, permits: Permits) -> tuple[str, str]:
        now, text = self._now, unpacked(item.text)
        call = self._wanted.call(now, text)
        if text.anew:
            now.log.confirm()
            if is_live(now, call, self._since):
                return call.key.hex(), "live"
            call = replace(call, cache="refresh")
        now.schemas.note(call.plan.response, now.clock.wall())
        port = _Port(now, permits)
        try:
            answered = run(resolve(call, port))
        finally:
            # Not every answer is stored, or rejected.
            port.note_answered()
        return call.key.hex(), "warmed" if answered.outcome == "miss" else "live"
