"""From the arguments of a decorated function to its value: the way of every call that is no plain hit in memory.

Loaded at the first such call. The function stands in a provider's place, and all else is the engine's: tiers, flights,
leases, the log of invalidations, time, tenants, counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing, closing, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from django.views.decorators.debug import sensitive_variables

from llmcache.answering import call_of
from llmcache.engine.background import Errand
from llmcache.engine.call import Answered, Call
from llmcache.engine.counts import tally_of
from llmcache.engine.function_ports import (
    AwaitedFunctionPort,
    AwaitedRecordingPort,
    FunctionPort,
    NotKeptError,
    RecordingPort,
    Run,
)
from llmcache.engine.policy import Port, resolve
from llmcache.engine.ports import run
from llmcache.engine.tabs import Tab, open_tab, opened
from llmcache.exceptions import InputTooLarge, LLMCacheError, NotCached, RecursiveExtract
from llmcache.functions.decorators import Work
from llmcache.functions.round_trip import LostError, RoundTrip
from llmcache.kinds import version_of
from llmcache.plans import Plan
from llmcache.prepared import Prepared
from llmcache.providers.functions import RUN, FunctionProvider
from llmcache.response_types import response_type

if TYPE_CHECKING:
    from llmcache.engine.runtime import Runtime

logger = logging.getLogger("llmcache.call")

_provider: Final = FunctionProvider()
_END: Final[Any] = object()
_making: ContextVar[frozenset[bytes]] = ContextVar("llmcache_making", default=frozenset())
"""The keys of the generators that are at work here, one inside another."""


class Ready:
    """A decorated function made ready for the calls of one runtime. May take some milliseconds to make."""

    def __init__(self, now: Runtime, name: str, kind: str, annotation: Any, *, item: Any = None) -> None:
        self.now = now
        self.name = name
        response = response_type(annotation)
        self.plan = Plan(response, _provider, name, None, kind, version_of(now.settings, kind), {}, now.seals)
        self._trip = RoundTrip(response)
        # Of a generator, each item by itself as it is given.
        self._item_trip = None if item is None else RoundTrip(response_type(item))
        self._told = False

    def is_current(self) -> bool:
        """Return whether the type has still the validators that this was made of."""
        return self.plan.response.current()

    @sensitive_variables()
    def call(self, content: bytes, options: Mapping[str, Any], work: Work, *, awaited: bool) -> Call:
        """Return the call for these arguments. Raises what ``llmcache.extract`` does for options of no use."""
        most = self.now.max_text_bytes
        if len(content) > most:
            raise InputTooLarge(
                f"The arguments of {self.name}() take {len(content)} bytes in a key; LLMCACHE['MAX_TEXT_BYTES'] allows "
                f"{most}. Give @cached a key= function that returns less, or raise that."
            )
        loop = asyncio.get_running_loop() if awaited else None
        made = call_of(
            self.now, self.plan, content, options, {RUN: Run(work, self._dumped, loop)}, needs_completion=False
        )
        # Nobody else can ask for it, and what a function raises is its caller's.
        return replace(made, by_task=False, max_retries=0, max_reasks=0)

    def prepared(self, call: Call) -> Prepared | None:
        """Return what the next call with these options needs to be answered from memory; None for an unusual one."""
        if call.cache != "use" or not call.stores:
            return None
        return Prepared(self.plan, call.scope, call.oldest, call.facts, self.now.memory_name)

    @sensitive_variables()
    def _dumped(self, value: Any) -> bytes:
        try:
            return self._trip.dumped(value)
        except LostError as lost:
            self.tell(lost)
            raise NotKeptError(value) from None

    def tell(self, lost: LostError) -> None:
        """Say, once, that a value cannot be kept."""
        if not self._told:
            self._told = True
            logger.warning(
                "A value of %s() is not kept: %s. Its caller gets it as it is; see docs/decorator.md.", self.name, lost
            )

    def written(self, item: Any) -> bytes | None:
        """Return the JSON of one of a generator's items; None where it cannot be kept."""
        trip = self._item_trip
        try:
            return None if trip is None else trip.written(item)
        except LostError as lost:
            self.tell(lost)
            return None

    def count(self, call: Call, outcome: str) -> None:
        """Count a call that no entry has answered."""
        self.now.counts.count(tally_of(self.plan.kind, self.plan.model, call.tenant, None, outcome))

    async def resolve(self, call: Call, port: Port, *, looked: bool) -> Any:
        """Return a call's value, and count how it was answered."""
        self.now.schemas.note(self.plan.response, self.now.clock.wall())
        try:
            answered = await resolve(call, port, looked=looked)
        except NotKeptError as kept:
            self.count(call, "miss")
            return kept.value
        except Exception:
            self.count(call, "error")
            raise
        self.count_answer(call, answered)
        return answered.value

    def count_answer(self, call: Call, answered: Answered) -> None:
        """Count how a call was answered."""
        tally = tally_of(self.plan.kind, self.plan.model, call.tenant, answered.tier, answered.outcome, answered.entry)
        self.now.counts.count(tally)


@sensitive_variables()
def answer(ready: Ready, call: Call, work: Work, *, looked: bool) -> Any:
    """Return the value of a function that is called in this thread."""
    if not call.stores and call.cache != "only":
        ready.count(call, "bypass")
        return work.run()
    return run(ready.resolve(call, FunctionPort(ready.now), looked=looked))


@sensitive_variables()
async def aanswer(ready: Ready, call: Call, work: Work, *, looked: bool) -> Any:
    """Return the value of an asynchronous function, awaited in this loop."""
    if not call.stores and call.cache != "only":
        ready.count(call, "bypass")
        return await work.run()
    return await ready.resolve(call, AwaitedFunctionPort(ready.now, _errand()), looked=looked)


def _errand() -> Errand[Any]:
    # Carried by its caller: a task that is cancelled ends its flight, and who waits for it elects anew.
    return Errand(asyncio.get_running_loop().create_future())


class _Recording:
    """What a generator has given so far, written down as it is given: whoever gets an item may change it."""

    def __init__(self, ready: Ready, call: Call, work: Work) -> None:
        self.tab = Tab()
        self._ready = ready
        self._call = call
        self._outer = open_tab()
        self._written: list[bytes] | None = None if work.has_changed() else []

    def add(self, item: Any) -> None:
        """Note an item; after one that cannot be kept none is."""
        written = None if self._written is None else self._ready.written(item)
        if written is None:
            self._written = None
        elif self._written is not None:
            self._written.append(written)

    def end(self) -> None:
        """Tell what the calls inside of it have cost."""
        if self._outer is not None:
            self._outer.add(self.tab.cost)

    def to_keep(self, loop: asyncio.AbstractEventLoop | None) -> Call | None:
        """Return the call that keeps it whole; None where it cannot be kept."""
        if self._written is None:
            return None
        whole = b'{"value":[' + b",".join(self._written) + b"]}"

        def told() -> bytes:
            tab = open_tab()
            if tab is not None:
                tab.add(self.tab.cost)
            return whole

        async def atold() -> bytes:
            return told()

        made = Run(Work(told if loop is None else atold, lambda: False), bytes, loop)
        return replace(self._call, cache="refresh", unkeyed={RUN: made})


def _as_only(call: Call) -> Call:
    # A stale one could not be renewed while nobody waits: it is asked for anew.
    return replace(call, cache="only", stale_ttl=0.0)


@contextmanager
def _made(key: bytes) -> Generator[None]:
    token = _making.set(_making.get() | {key})
    try:
        yield
    finally:
        _making.reset(token)


def _require_another(call: Call) -> None:
    if call.key in _making.get():
        raise RecursiveExtract(
            "This generator function calls itself with its own arguments, and would do so without end. Ask for "
            "something else there.",
            kind=call.plan.kind,
            model=call.plan.model,
            key=call.key.hex(),
        )


def iterate(ready: Ready, call: Call, work: Work) -> Generator[Any]:
    """Yield what a generator function does, from the cache where it has come to a clean end before."""
    if not call.stores and call.cache != "only":
        ready.count(call, "bypass")
        yield from work.run()
        return
    if call.cache != "refresh":
        try:
            answered = run(resolve(_as_only(call), FunctionPort(ready.now)))
        except NotCached:
            if call.cache == "only":
                ready.count(call, "error")
                raise
        else:
            ready.count_answer(call, answered)
            yield from answered.value
            return
    _require_another(call)
    ready.count(call, "miss")
    recording, port = _Recording(ready, call, work), RecordingPort(ready.now)
    port.first = run(port.view(call))
    try:
        with closing(work.run()) as items:
            while True:
                with opened(recording.tab), _made(call.key):
                    item = next(items, _END)
                if item is _END:
                    break
                recording.add(item)
                yield item
    finally:
        recording.end()
    whole = recording.to_keep(None)
    if whole is not None:
        # What all of it has cost is told already; and who has all of it is not to hear of a cache.
        with opened(Tab()), suppress(LLMCacheError):
            run(resolve(whole, port))


async def aiterate(ready: Ready, call: Call, work: Work) -> AsyncGenerator[Any]:
    """Do as ``iterate``, for an asynchronous generator function."""
    if not call.stores and call.cache != "only":
        ready.count(call, "bypass")
        async with aclosing(work.run()) as items:
            async for item in items:
                yield item
        return
    if call.cache != "refresh":
        try:
            answered = await resolve(_as_only(call), AwaitedFunctionPort(ready.now, _errand()))
        except NotCached:
            if call.cache == "only":
                ready.count(call, "error")
                raise
        else:
            ready.count_answer(call, answered)
            for item in answered.value:
                yield item
            return
    _require_another(call)
    ready.count(call, "miss")
    recording, port = _Recording(ready, call, work), AwaitedRecordingPort(ready.now, _errand())
    port.first = await port.view(call)
    try:
        async with aclosing(work.run()) as items:
            while True:
                with opened(recording.tab), _made(call.key):
                    item = await anext(items, _END)
                if item is _END:
                    break
                recording.add(item)
                yield item
    finally:
        recording.end()
    whole = recording.to_keep(asyncio.get_running_loop())
    if whole is not None:
        with opened(Tab()), suppress(LLMCacheError):
            await resolve(whole, port)
