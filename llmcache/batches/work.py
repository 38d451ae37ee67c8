"""How a batch is worked at: in windows, whose keys are read together, and by a few calls at once for what is left.

A call that is left goes the whole way of a single one, in a thread of the batch's or in the background loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from contextvars import Context, copy_context
from dataclasses import replace
from decimal import Decimal
from functools import partial
from itertools import islice
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Self, cast

from django.db import connections
from django.views.decorators.debug import sensitive_variables
from pydantic import ValidationError

from llmcache import request, workers
from llmcache.batches.batch import Batch, Ended, Finished, Progress
from llmcache.batches.items import Asked, Intake, aitems_of, items_of, size_of
from llmcache.content.reading import encoded
from llmcache.engine import process
from llmcache.exceptions import InvalidRequest, LLMCacheError
from llmcache.extraction import own_copy, seconds_of
from llmcache.loading import first_time

if TYPE_CHECKING:
    from llmcache.batches.hits import BulkHits, Hits, Left
    from llmcache.engine.background import Errand
    from llmcache.engine.call import Done, Outcome
    from llmcache.engine.runtime import Runtime
    from llmcache.envelope import Entry

WINDOW: Final = 500
"""Items that are looked for together."""
MOST_AT_ONCE: Final = 100
"""Provider calls of one batch."""
_OWN_NAMES: Final = ("on_error", "concurrency", "progress")


class Order:
    """What one call of ``extract_many`` or of its sisters asks for; what depends on the caller is read when it is made.

    Raises ``InvalidRequest`` for what cannot be asked so.
    """

    def __init__(
        self,
        now: Runtime | None,
        contents: Any,
        response_model: Any,
        options: tuple[Any, ...],
        params: dict[str, Any],
        per_item: Mapping[str, Any],
        content: str | Callable[[Any], Any] | None,
        on_error: str,
        concurrency: int,
        progress: Progress | None,
        *,
        keeps_items: bool = False,
    ) -> None:
        for name in params:
            request.refuse_almost(name, _OWN_NAMES)
        if on_error not in ("raise", "collect"):
            raise InvalidRequest("on_error= must be 'raise' or 'collect'.")
        if type(concurrency) is not int or not 1 <= concurrency <= MOST_AT_ONCE:
            raise InvalidRequest(f"concurrency= must be a whole number from 1 to {MOST_AT_ONCE}.")
        self.now = now
        self.contents = contents
        self.response_model = response_model
        self.params = {name: own_copy(params[name]) for name in params}
        self.collects = on_error == "collect"
        self.concurrency = concurrency
        self.size = size_of(contents)
        self.context: Context = copy_context()
        tenancy = process.tenancy() if now is None else now.tenancy
        self.intake = Intake(
            content, per_item, tuple(map(own_copy, options)), tenancy, self.size, keeps_items=keeps_items
        )
        self._tell = _teller(progress, self.size)

    def begin(self) -> _Sorting:
        """Return what keeps the items apart. May take a second the first time; raises what is wrong with the call."""
        with first_time("answering"):
            from llmcache.batches.hits import BulkHits

            self.now = process.current() if self.now is None else self.now
        bulk = BulkHits(self.now, self.response_model, self.params)
        if self.intake.is_alike:
            # What is wrong with all of them is no item's error.
            bulk.sort(self.intake.options)
        return _Sorting(bulk, self)

    def require_none_failed(self, ended: Iterable[Ended]) -> None:
        """Raise the first error that is not to be collected, before anything else is begun."""
        for each in ended:
            if each.error is not None and not self.collects:
                self.passed(each)

    def passed(self, ended: Ended) -> Ended:
        """Tell how far the batch is, and return what has ended; raises an error that is not to be collected."""
        error = ended.error
        if error is not None and not self.collects:
            error.add_note(
                f"Item {ended.asked.number} of the batch, counted from 0. What had begun was finished and kept; what "
                "had not was left alone."
            )
            raise error
        self._tell(1)
        return ended

    def passed_hits(self, hits: Hits) -> Hits:
        """Tell how far the batch is, and return the hits."""
        if hits.items:
            self._tell(len(hits.items))
        return hits


class SamplesOrder(Order):
    """An order whose items are one and the same content: it is read once, and what is wrong with it is no item's."""

    @sensitive_variables()
    def begin(self) -> _Sorting:
        sorting, now = super().begin(), process.current() if self.now is None else self.now
        content, *others = self.contents
        made = encoded(content, now.settings.max_text_bytes, now.settings.max_file_bytes)
        self.contents = [made.decode() if isinstance(made, bytes) else made] * (1 + len(others))
        return sorting


def _teller(progress: Progress | None, size: int | None) -> Callable[[int], None]:
    if progress is None:
        return lambda _: None
    update = getattr(progress, "update", None)
    if update is None and not callable(progress):
        raise InvalidRequest(
            "progress= must be a function that is given how many items have ended and how many there are, or a bar "
            "with the method update(number), such as tqdm's."
        )
    done = 0

    def tell(number: int) -> None:
        nonlocal done
        done += number
        if update is not None:
            update(number)
        else:
            cast("Any", progress)(done, size)

    return tell


class _Sorting:
    """Keeps those items apart that are answered, that wait for another's answer, and that are to be asked."""

    def __init__(self, bulk: BulkHits, order: Order) -> None:
        self._bulk = bulk
        self._order = order
        self._waiting: dict[bytes, list[Left]] = {}
        """By key, the item that is being asked, and those that are alike."""
        self.waiting = 0
        """How many items wait for the answer of one that is alike."""
        self._made: dict[bytes, Entry] = {}
        """What was asked in this batch: no tier need have kept it."""

    @sensitive_variables()
    def sort(self, window: Sequence[Asked]) -> tuple[Hits, list[Ended], list[Left]]:
        """Return of these items which tiers have answered, which have ended otherwise, and which are to be asked."""
        hits, left, failed = self._bulk.look(window)
        ended = [Ended(each.asked, None, None, each.error) for each in failed]
        to_ask: list[Left] = []
        for each in left:
            shared = None if not each.key else self._as_made(each)
            if shared is not None:
                ended.append(shared)
            elif each.key and each.key in self._waiting:
                self._waiting[each.key].append(each)
                self.waiting += 1
            else:
                if each.key:
                    self._waiting[each.key] = [each]
                to_ask.append(each)
        return hits, ended, to_ask

    def _as_made(self, left: Left) -> Ended | None:
        entry = self._made.get(left.key)
        if entry is None:
            return None
        now = self._order.now
        # Asked before, and invalidated since: it is asked anew, as it would be by a call of its own.
        if now is None or not left.sort.prepared.view(now.log, left.key).may_keep(entry.seen):
            return None
        return self._shared(left, entry, "collapsed", None)

    @sensitive_variables()
    def _shared(self, left: Left, entry: Entry, outcome: Outcome, tier: str | None) -> Ended:
        from llmcache.batches.hits import Answering, Source

        try:
            value = left.sort.prepared.validate(entry.answer)
        except ValidationError as error:
            # It was valid a moment ago: a validator of the type's own does not say the same each time.
            return Ended(left.asked, None, None, self._bulk.invalid(left, error))
        self._bulk.count_shared(left, entry, outcome, tier)
        at = entry.written_at if self._order.now is None else self._order.now.clock.wall()
        return Ended(left.asked, value, Source(Answering(left.sort, tier, at, outcome=outcome), left.key, entry))

    @sensitive_variables()
    def answered(self, left: Left, done: Done) -> list[Ended]:
        """Return what has ended with the answer to an item."""
        from llmcache.batches.hits import Answering, Source

        answered = done.answered
        entry = answered.entry
        how = answered.outcome, answered.reason, answered.spent
        answering = Answering(left.sort, answered.tier, done.at, done.seconds, *how)
        ended = [Ended(left.asked, answered.value, Source(answering, entry.key, entry))]
        if left.key:
            self._made[left.key] = entry
        # An entry answers all of them alike; a provider call is that of the first.
        outcome: Outcome = answered.outcome if answered.outcome in ("hit", "stale") else "collapsed"
        ended.extend(self._shared(other, entry, outcome, answered.tier) for other in self._others(left))
        return ended

    def failed(self, left: Left, error: Exception) -> list[Ended]:
        """Return what has ended with an error."""
        others = (self._failed_too(other, error) for other in self._others(left))
        return [Ended(left.asked, None, None, error), *others]

    def _others(self, left: Left) -> list[Left]:
        others = self._waiting.pop(left.key)[1:] if left.key else []
        self.waiting -= len(others)
        return others

    def is_alone(self, left: Left) -> bool:
        """Return whether no other item waits for an item's answer."""
        return not left.key or len(self._waiting[left.key]) == 1

    def _failed_too(self, left: Left, error: Exception) -> Ended:
        # What the attempts cost is told by one error alone: told twice, it would be counted twice.
        own = error.again().add(attempts=0, cost_usd=Decimal(0)) if isinstance(error, LLMCacheError) else error
        return Ended(left.asked, None, None, own)


def gather(order: Order) -> Batch[Any]:
    """Return a batch, asked from this thread and a few more."""
    batch: Batch[Any] = Batch()
    for ended in _ended(order):
        batch.put(ended) if isinstance(ended, Ended) else batch.put_hits(ended)
    return batch


def _ended(order: Order) -> Iterator[Ended | Hits]:
    """Yield what has ended, as it ends; the hits of a window together."""
    sorting = order.begin()
    items = items_of(order.contents, order.intake.take)
    with _Crew(order) as crew:
        while window := list(islice(items, WINDOW)):
            hits, ended, to_ask = sorting.sort(window)
            order.require_none_failed(ended)
            for left in to_ask:
                crew.put(left)
            yield order.passed_hits(hits)
            yield from map(order.passed, ended)
            # The next window is read while the last of this one is asked for.
            while crew.pending > order.concurrency or sorting.waiting > WINDOW:
                yield from map(order.passed, crew.next(sorting))
        while crew.pending:
            yield from map(order.passed, crew.next(sorting))


class _Crew:
    """A few threads that ask, each in a copy of the caller's context.

    Whoever leaves the ``with`` block early waits for what has begun, which is kept; nothing else is begun.
    """

    def __init__(self, order: Order) -> None:
        self.pending = 0
        self._order = order
        self._to_ask: SimpleQueue[Left | None] = SimpleQueue()
        self._ended: SimpleQueue[tuple[Left, Done | None, BaseException | None]] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        for _thread in self._threads:
            self._to_ask.put(None)
        for thread in self._threads:
            thread.join()

    def put(self, left: Left) -> None:
        """Have an item asked for, as soon as a thread is free."""
        self._to_ask.put(left)
        self.pending += 1
        if len(self._threads) < min(self.pending, self._order.concurrency):
            run = self._order.context.copy().run
            thread = threading.Thread(target=run, args=(self._serve,), name="llmcache-batch")
            self._threads.append(thread)
            thread.start()

    @sensitive_variables()
    def next(self, sorting: _Sorting) -> list[Ended]:
        """Wait for one that has ended, and return what has ended with it."""
        left, done, error = self._ended.get()
        self.pending -= 1
        if done is not None:
            return sorting.answered(left, done)
        if isinstance(error, Exception):
            return sorting.failed(left, error)
        raise cast("BaseException", error)

    @sensitive_variables()
    def _serve(self) -> None:
        try:
            while (left := self._to_ask.get()) is not None:
                if self._stopped:
                    continue
                try:
                    self._ended.put((left, _kept(self._ask(left)), None))
                except BaseException as error:  # noqa: BLE001  # it is raised where the batch was called
                    self._ended.put((left, None, error))
        finally:
            # Of this thread alone.
            connections.close_all()

    def _ask(self, left: Left) -> Done:
        from llmcache.answering import answer

        order, asked = self._order, left.asked
        now = process.current() if order.now is None else order.now
        return answer(now, asked.content, order.response_model, asked.options, order.params, looked=left.looked)


def _kept(done: Done) -> Done:
    """Return what is kept of an answer: a large batch is not to hold all texts and completions."""
    return done._replace(answered=replace(done.answered, rest=None), call=replace(done.call, content="", unkeyed={}))


async def agather(order: Order) -> Batch[Any]:
    """Do as ``gather``, awaited."""
    batch: Batch[Any] = Batch()
    async with aclosing(_aended(order)) as ends:
        async for ended in ends:
            batch.put(ended) if isinstance(ended, Ended) else batch.put_hits(ended)
    return batch


async def afinished(order: Order) -> AsyncGenerator[Finished[Any]]:
    """Yield the items as they end."""
    async with aclosing(_aended(order)) as ends:
        async for each in ends:
            if isinstance(each, Ended):
                yield Finished(each.asked.number, each.asked.item, each.value, each.error, each.source)
                continue
            for asked, value, source in zip(each.items, each.values, each.sources, strict=True):
                yield Finished(asked.number, asked.item, value, None, source)


async def _aended(order: Order) -> AsyncGenerator[Ended | Hits]:
    sorting = await workers.contents.run(partial(order.context.copy().run, order.begin))
    crew = _Tasks(order, sorting)
    try:
        async for window in _windows(aitems_of(order.contents, order.intake.take)):
            # In a thread: hundreds of values are made, tiers and the items' files are read.
            hits, ended, to_ask = await workers.contents.run(
                partial(order.context.copy().run, partial(sorting.sort, window))
            )
            order.require_none_failed(ended)
            crew.put(to_ask)
            yield order.passed_hits(hits)
            for each in ended:
                yield order.passed(each)
            while crew.pending > order.concurrency or sorting.waiting > WINDOW:
                for each in await crew.next():
                    yield order.passed(each)
        while crew.pending:
            for each in await crew.next():
                yield order.passed(each)
    finally:
        await crew.end()


async def _windows(items: AsyncIterator[Asked]) -> AsyncIterator[list[Asked]]:
    window: list[Asked] = []
    async for asked in items:
        window.append(asked)
        if len(window) == WINDOW:
            yield window
            window = []
    if window:
        yield window


class _Tasks:
    """A few calls at once in the background loop, each waited for by a task of the caller's loop."""

    def __init__(self, order: Order, sorting: _Sorting) -> None:
        self._order = order
        self._sorting = sorting
        self._to_ask: deque[Left] = deque()
        self._running: dict[asyncio.Task[Done], Left] = {}

    @property
    def pending(self) -> int:
        """How many have not ended."""
        return len(self._to_ask) + len(self._running)

    def put(self, to_ask: Iterable[Left]) -> None:
        """Have items asked for, as soon as there is room."""
        self._to_ask.extend(to_ask)
        self._fill()

    def _fill(self) -> None:
        while self._to_ask and len(self._running) < self._order.concurrency:
            left = self._to_ask.popleft()
            self._running[asyncio.create_task(self._ask(left))] = left

    @sensitive_variables()
    async def next(self) -> list[Ended]:
        """Wait until some have ended, and return what has ended with them."""
        done, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        ended: list[Ended] = []
        for task in done:
            left = self._running.pop(task)
            error = task.exception()
            if error is None:
                ended.extend(await self._answered(left, task.result()))
            elif isinstance(error, Exception):
                ended.extend(self._sorting.failed(left, error))
            else:
                raise error
        self._fill()
        return ended

    async def _answered(self, left: Left, done: Done) -> list[Ended]:
        if self._sorting.is_alone(left):
            return self._sorting.answered(left, done)
        # Each of the others gets a value of its own, made as all are: in the caller's context, and not in its loop.
        answered = partial(self._sorting.answered, left, done)
        return await workers.files.run(partial(self._order.context.copy().run, answered))

    @sensitive_variables()
    async def _ask(self, left: Left) -> Done:
        from llmcache.engine import background

        order, asked = self._order, left.asked
        given = (asked.content, order.response_model, asked.options, order.params)

        def start(errand: Errand[Done]) -> Coroutine[Any, Any, Done]:
            return background.answer(order.now, errand, *given, looked=left.looked)

        return _kept(await background.run(start, order.context.copy(), seconds_of(order.now, asked.options)))

    async def end(self) -> None:
        """Begin nothing more, and wait for nobody: what is being paid for is finished and kept without us."""
        self._to_ask.clear()
        running, self._running = list(self._running), {}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
