"""What a stream does: the call in the background, and the values that are made of what it tells.

Loaded by the first stream.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextvars import Context
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from django.views.decorators.debug import sensitive_variables

from llmcache.engine import background
from llmcache.exceptions import ProviderTimeout
from llmcache.streams.partials import NOTHING, Cuts, Items, partial_value

if TYPE_CHECKING:
    from llmcache.engine.background import Errand
    from llmcache.engine.call import Call, Done
    from llmcache.engine.runtime import Runtime
    from llmcache.response_types import ResponseType

_MORE_SECONDS: Final = 10.0
"""How long after its deadline a call is waited for; it ends by itself before."""


class _Ended(NamedTuple):
    """The end of a stream."""

    done: Done | None
    error: BaseException | None


_Event: TypeAlias = "ResponseType | str | _Ended"
"""The call's type, then pieces of its answer, then its end."""


class Yields:
    """What a stream's values are: partial ones, and the whole at the end."""

    def __init__(self) -> None:
        self._cuts = Cuts()
        self._last: Any = NOTHING

    def of(self, response: ResponseType, piece: str) -> Iterator[Any]:
        """Yield the values that a piece of the answer brings."""
        for beginning in self._cuts.feed(piece):
            value = partial_value(response, beginning)
            if value is not NOTHING and not _is_same(value, self._last):
                self._last = value
                yield value

    def rest(self, response: ResponseType, answer: str, value: Any) -> Iterator[Any]:
        """Yield what is left of a whole answer, and its value last."""
        yield from self.of(response, answer[len(self._cuts) :])
        yield value


class YieldsItems(Yields):
    """A stream's values are the items of a list."""

    def __init__(self, item: Any) -> None:
        super().__init__()
        self._items = Items(item)
        self._count = 0

    def of(self, response: ResponseType, piece: str) -> Iterator[Any]:  # noqa: ARG002  # the item's type is known
        for beginning in self._cuts.feed(piece):
            for item in self._items.found(beginning):
                self._count += 1
                yield item

    def rest(self, response: ResponseType, answer: str, value: Any) -> Iterator[Any]:
        yield from self.of(response, answer[len(self._cuts) :])
        yield from value[self._count :]


def _is_same(value: Any, other: Any) -> bool:
    try:
        return bool(value == other)
    except Exception:  # noqa: BLE001  # a type's own comparison, of an object that lacks some of its values
        return False


class _Stream:
    """A call under way in the background, and what it tells."""

    def __init__(self, now: Runtime | None, given: tuple[Any, ...], context: Context, put: Callable[[_Event], object]):
        self._now = now
        self._given = given
        self._context = context
        self._put = put
        self._errand: Errand[None] | None = None
        self._is_closed = False

    def start(self) -> None:
        """Make the call."""
        background.send(self._carry, self._context)

    def close(self) -> None:
        """Break the call off, unless it has ended."""
        self._is_closed = True
        if self._errand is not None and not self._errand.ended:
            background.break_off(self._errand)

    @sensitive_variables()
    async def _carry(self, errand: Errand[None]) -> None:
        self._errand = errand
        if self._is_closed:
            return
        ended = _Ended(None, None)
        try:
            ended = _Ended(await background.answer(self._now, errand, *self._given, told=self._told), None)
        except Exception as error:  # noqa: BLE001  # raised where the stream is read
            ended = _Ended(None, error)
        finally:
            self._put(ended)

    def _told(self, call: Call) -> Callable[[str], object]:
        self._put(call.plan.response)
        return self._put


class _Reading:
    """What is read of a stream, and what its values are."""

    def __init__(self, yields: Yields) -> None:
        self._yields = yields
        self._response: ResponseType | None = None
        self.is_over = False

    @sensitive_variables()
    def values(self, event: _Event) -> Iterator[Any]:
        """Yield the values that an event brings; raises the error that it brings."""
        if isinstance(event, str):
            if self._response is not None:
                yield from self._yields.of(self._response, event)
        elif isinstance(event, _Ended):
            self.is_over = True
            if event.done is None:
                raise event.error or _late()
            answered, response = event.done.answered, event.done.call.plan.response
            yield from self._yields.rest(response, answered.entry.answer.decode(errors="surrogatepass"), answered.value)
        else:
            self._response = event


def _late() -> ProviderTimeout:
    return ProviderTimeout(
        "The call of a stream was broken off: the program ends, or the thread llmcache-loop is blocked."
    )


def values_of(
    now: Runtime, given: tuple[Any, ...], context: Context, yields: Yields, seconds: float
) -> Generator[Any, None, None]:
    """Yield the values of a call; ``seconds``: its timeout."""
    events: SimpleQueue[_Event] = SimpleQueue()
    stream, reading = _Stream(now, given, context, events.put), _Reading(yields)
    stream.start()
    try:
        while not reading.is_over:
            try:
                event = events.get(timeout=seconds + _MORE_SECONDS)
            except Empty:
                raise _late() from None
            yield from reading.values(event)
    finally:
        stream.close()


async def avalues_of(
    now: Runtime | None, given: tuple[Any, ...], context: Context, yields: Yields
) -> AsyncGenerator[Any, None]:
    """Do as ``values_of``, awaited."""
    events: asyncio.Queue[_Event] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def put(event: _Event) -> None:
        # A loop that is closed has nobody left who reads.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(events.put_nowait, event)

    stream, reading = _Stream(now, given, context, put), _Reading(yields)
    stream.start()
    try:
        while not reading.is_over:
            for value in reading.values(await events.get()):
                yield value
    finally:
        stream.close()
