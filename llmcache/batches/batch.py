"""Batches: many items asked in one call, each answered and kept by itself, by the engine of a single call.

The items are taken in windows, so that a hundred thousand of them need no more at once than five hundred do. Of each
window all keys are read together; what no tier has is asked for by a few threads, or by a few tasks of the background
loop, each the whole way of one call. Items that are alike are asked once. ``work`` does all of that, and is
loaded by the first batch.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Collection, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Protocol, TypeAlias, TypeVar, overload

from asgiref.sync import markcoroutinefunction

from llmcache import request
from llmcache.engine import process
from llmcache.engine.call import Answered, Spent
from llmcache.exceptions import LLMCacheError
from llmcache.money.pricing import PICO, dollars
from llmcache.request import NOT_GIVEN, NotGiven

if TYPE_CHECKING:
    from decimal import Decimal

    from typing_extensions import TypeForm

    from llmcache.batches.hits import Hits, Source
    from llmcache.batches.items import Asked
    from llmcache.batches.work import Order
    from llmcache.engine.runtime import Runtime
    from llmcache.extraction import Extraction

T = TypeVar("T")
V = TypeVar("V")
T_co = TypeVar("T_co", covariant=True)

CONCURRENCY: Final = 8
"""Provider calls of one batch at once, where it does not say."""


class Bar(Protocol):
    """A bar that shows how far a batch is, such as tqdm's."""

    def update(self, n: int, /) -> object:
        """Move it on by so many items."""
        ...


Progress: TypeAlias = Callable[[int, "int | None"], object] | Bar
"""Is told how many items have ended, and how many there are, None where that is not known."""
OnError: TypeAlias = Literal["raise", "collect"]
Own: TypeAlias = V | Sequence[V] | Callable[[Any], V]
"""One value for all items, one for each, or what tells an item's."""


class Batch(Sequence[T_co]):
    """The values of a batch, in the order of its items; None in the place of one that failed.

    ``len``, index, slice and iteration are those of a list of the values.
    """

    def __init__(self) -> None:
        self.errors: dict[int, Exception] = {}
        """What became of the items that failed, by their index; empty unless they are collected."""
        self._values: list[Any] = []
        self._sources: list[Source | Extraction[Any] | None] = []
        self._pico_usd: int | None = 0

    @overload
    def __getitem__(self, index: int) -> T_co: ...
    @overload
    def __getitem__(self, index: slice) -> list[T_co]: ...
    def __getitem__(self, index: int | slice) -> T_co | list[T_co]:
        return self._values[index]

    def __iter__(self) -> Iterator[T_co]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __reduce__(self) -> tuple[Any, ...]:
        # What infos are made of belongs to this process.
        return _copied, (self._values, self.errors, list(self.infos), self._pico_usd)

    def __repr__(self) -> str:
        counted = {word: self.outcomes.count(word) for word in dict.fromkeys(self.outcomes)}
        told = ", ".join(f"{number} {word}" for word, number in counted.items())
        return f"<Batch of {len(self)}{': ' if told else ''}{told}>"

    @property
    def infos(self) -> Sequence[Extraction[T_co] | None]:
        """How each value came about, made when it is looked at; None in the place of an item that failed.

        A hit's ``latency_ms`` is that of the look for its whole window. There is no ``completion``.
        """
        return _Infos(self._values, self._sources)

    @property
    def outcomes(self) -> list[str]:
        """The outcome of each item, as ``Extraction.outcome`` says it; ``"error"`` for one that failed."""
        return ["error" if source is None else _outcome(source) for source in self._sources]

    @property
    def cost(self) -> Decimal | None:
        """What all of it has cost in US dollars, failed attempts included; None when that is not known."""
        return dollars(self._pico_usd)

    def put_hits(self, hits: Hits) -> None:
        """Take in the items that tiers have answered; for who works at the batch."""
        numbers = [asked[0] for asked in hits.items]
        first, size = len(self._values), len(numbers)
        if numbers and numbers[0] == first and numbers[-1] == first + size - 1 and sorted(numbers) == numbers:
            self._values.extend(hits.values)
            self._sources.extend(hits.sources)
            return
        self._grow(max(numbers, default=-1))
        for number, value, source in zip(numbers, hits.values, hits.sources, strict=True):
            self._values[number], self._sources[number] = value, source

    def _grow(self, number: int) -> None:
        missing = number + 1 - len(self._values)
        if missing > 0:
            self._values.extend([None] * missing)
            self._sources.extend([None] * missing)

    def put(self, ended: Ended) -> None:
        """Take in an item that has ended; for who works at the batch."""
        self._grow(ended.asked.number)
        self._values[ended.asked.number], self._sources[ended.asked.number] = ended.value, ended.source
        if ended.error is not None:
            self.errors[ended.asked.number] = ended.error
        cost = ended.pico_usd
        self._pico_usd = None if cost is None or self._pico_usd is None else self._pico_usd + cost


class _Infos(Sequence["Extraction[T_co] | None"]):
    def __init__(self, values: list[Any], sources: list[Source | Extraction[Any] | None]) -> None:
        self._values = values
        self._sources = sources

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, index: int) -> Extraction[T_co] | None: ...
    @overload
    def __getitem__(self, index: slice) -> list[Extraction[T_co] | None]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        source = self._sources[index]
        return None if source is None else _info(self._values[index], source)


def _copied(
    values: list[Any], errors: dict[int, Exception], infos: list[Extraction[Any] | None], pico_usd: int | None
) -> Batch[Any]:
    batch: Batch[Any] = Batch()
    batch.errors = errors
    batch._values, batch._sources, batch._pico_usd = values, [*infos], pico_usd  # pyright: ignore[reportPrivateUsage]
    return batch


def _outcome(source: Source | Extraction[Any]) -> str:
    return source.answering.outcome if isinstance(source, tuple) else source.outcome


def _info(value: Any, source: Source | Extraction[Any]) -> Extraction[Any]:
    from llmcache.extraction import info_of

    if not isinstance(source, tuple):
        return source
    how = source.answering
    spent = Spent() if how.spent is None else how.spent
    answered = Answered(value, how.outcome, how.reason, how.tier, source.entry(), None, spent)
    return info_of(answered, how.sort.prepared.plan, how.sort.max_age, how.seconds, how.at)


@dataclass(frozen=True, slots=True)
class Finished(Generic[T_co]):
    """One item of a batch that has ended."""

    index: int
    """Its place among the items, from 0."""
    item: Any
    """What was given in that place."""
    value: T_co
    """Its value; None when it failed."""
    error: Exception | None
    """Why it failed; None when it did not."""
    _source: Source | None = field(repr=False)

    @property
    def info(self) -> Extraction[T_co] | None:
        """How the value came about, made when it is looked at; None when there is none."""
        return None if self._source is None else _info(self.value, self._source)


@dataclass(slots=True)
class Ended:
    """What has become of an item, for who works at the batch."""

    asked: Asked
    value: Any
    source: Source | None
    error: Exception | None = None

    @property
    def pico_usd(self) -> int | None:
        """What it has cost, in 10**-12 US dollars; None when that is not known."""
        if self.error is not None:
            cost = self.error.cost_usd if isinstance(self.error, LLMCacheError) else 0
            return None if cost is None else int(cost * PICO)
        spent = None if self.source is None else self.source.answering.spent
        return 0 if spent is None else spent.cost


class Batching:
    """The batches of an ``Extractor``."""

    @overload
    def extract_many(
        self,
        contents: Iterable[Any],
        response_model: TypeForm[T],
        *,
        content: str | Callable[[Any], Any] | None = None,
        tenant: Own[str | None] | NotGiven = NOT_GIVEN,
        subject: Own[str | None] | NotGiven = NOT_GIVEN,
        tags: Own[Collection[str]] | NotGiven = NOT_GIVEN,
        on_error: Literal["raise"] = "raise",
        concurrency: int = CONCURRENCY,
        progress: Progress | None = None,
        **options: Any,
    ) -> Batch[T]: ...
    @overload
    def extract_many(
        self,
        contents: Iterable[Any],
        response_model: TypeForm[T],
        *,
        content: str | Callable[[Any], Any] | None = None,
        tenant: Own[str | None] | NotGiven = NOT_GIVEN,
        subject: Own[str | None] | NotGiven = NOT_GIVEN,
        tags: Own[Collection[str]] | NotGiven = NOT_GIVEN,
        on_error: Literal["collect"],
        concurrency: int = CONCURRENCY,
        progress: Progress | None = None,
        **options: Any,
    ) -> Batch[T | None]: ...
    def extract_many(
        self,
        contents: Iterable[Any],
        response_model: TypeForm[T],
        *,
        content: str | Callable[[Any], Any] | None = None,
        tenant: Own[str | None] | NotGiven = NOT_GIVEN,
        subject: Own[str | None] | NotGiven = NOT_GIVEN,
        tags: Own[Collection[str]] | NotGiven = NOT_GIVEN,
        on_error: OnError = "raise",
        concurrency: int = CONCURRENCY,
        progress: Progress | None = None,
        **options: Any,
    ) -> Batch[Any]:
        """Return what ``extract`` does of each item, in their order; equal items are asked once.

        ``contents``: what ``extract`` takes (texts, lists of parts, lists of messages), or with ``content`` anything
        that has one: the name of the field that holds it (``"ticket__body"`` goes through a relation), or a function
        that returns it. A queryset is read without keeping
        its rows. ``tenant``, ``subject``, ``tags``: one value for all items; or a list with one for each; or a function
        that is given the item. ``on_error``: ``"raise"`` the first error once what has begun has ended, or
        ``"collect"`` errors in ``.errors``, with None among the values. ``concurrency``: how many threads ask the
        provider. ``progress``: is told how far the batch is, a function ``(ended, all or None)`` or a bar with
        ``update(number)``; an error of its own stops the batch. ``options``: those of ``extract``, and parameters for
        the provider.

        All tiers are read for hundreds of items at once. Whoever is interrupted, or raises, waits for what has begun,
        which is kept; nothing else is begun. Raises what ``extract`` does; ``InvalidRequest`` too for what is wrong
        with the whole batch.
        """
        from llmcache.batches import work
        from llmcache.extraction import require_no_loop

        require_no_loop("extract_many")
        own = tenant, subject, tags
        order = self._order(
            process.current(), contents, response_model, own, options, content, on_error, concurrency, progress
        )
        return work.gather(order)

    @overload
    def aextract_many(
        self,
        contents: Iterable[Any] | AsyncIterable[Any],
        response_model: TypeForm[T],
        *,
        content: str | Callable[[Any], Any] | None = None,
        tenant: Own[str | None] | NotGiven = NOT_GIVEN,
        subject: Own[str | None] | NotGiven = NOT_GIVEN,
        tags: Own[Collection[str]] | NotGiven = NOT_GIVEN,
        on_error: Literal["raise"] = "raise",
        concurrency: int = CONCURRENCY,
        progress: Progress | None = None,
        **options: Any,
    ) -> Coroutine[Any, Any, Batch[T]]: ...
    @overload
    def aextract_many(
        self,
        contents: Iterable[Any] | AsyncIterable[Any],
        response_model: TypeForm[T],
        *,
        content: str | Callable[[Any], Any] | None = None,
        tenant: Own[str | None] | NotGiven = NOT_GIVEN,
        subject: Own[str | None] | NotGiven = NOT_GIVEN,
        tags: Own[Collection[str]] | NotGiven = NOT_GIVEN,
        on_error: Literal["collect"],
        concurrency: int = CONCURRENCY,
        progress: Progress | None = None,
        **options: Any,
    ) -> Coroutine[Any, Any, Batch[T | None]]: ...
    @markcoroutinefunction
    def aextract_many(
        self,
        contents: Iterable[Any] | AsyncIterable[Any],
        response_model: TypeForm[T],
        *,
        content: str | Callable[[Any], Any] | None = None,
        tenant: Own[str | None] | NotGiven = NOT_GIVEN,
        subject: Own[str | None] | NotGiven = NOT_GIVEN,
        tags: Own[Collection[str]] | NotGiven = NOT_GIVEN,
        on_error: OnError = "raise",
        concurrency: int = CONCURRENCY,
        progress: Progress | None = None,
        **options: Any,
    ) -> Coroutine[Any, Any, Batch[Any]]:
        """Do as ``extract_many``, awaited; ``contents`` may be an asynchronous iterable too.

        Arguments and context are read at the call, and the items where it is awaited. What the provider is asked is
        asked in the background loop: who is cancelled stops what has not begun, and what has begun is kept.
        """
        from llmcache.batches import work

        own = tenant, subject, tags
        try:
            order = self._order(
                process.current_if_made(),
                contents,
                response_model,
                own,
                options,
                content,
                on_error,
                concurrency,
                progress,
            )
        except Exception as error:  # noqa: BLE001  # what goes wrong is raised where the call is awaited
            return raised(error)
        return work.agather(order)

    @overload
    def as_completed(
        self,
        contents: Iterable[Any] | AsyncIterable[Any],
        response_model: TypeForm[T],
        *,
        content: str | Callable[[Any], Any] | None = None,
        tenant: Own[str | None] | NotGiven = NOT_GIVEN,
        subject: Own[str | None] | NotGiven = NOT_GIVEN,
        tags: Own[Collection[str]] | NotGiven = NOT_GIVEN,
        on_error: Literal["raise"] = "raise",
        concurrency: int = CONCURRENCY,
        progress: Progress | None = None,
        **options: Any,
    ) -> AsyncGenerator[Finished[T]]: ...
    @overload
    def as_completed(
        self,
        contents: Iterable[Any] | AsyncIterable[Any],
        response_model: TypeForm[T],
        *,
        content: str | Callable[[Any], Any] | None = None,
        tenant: Own[str | None] | NotGiven = NOT_GIVEN,
        subject: Own[str | None] | NotGiven = NOT_GIVEN,
        tags: Own[Collection[str]] | NotGiven = NOT_GIVEN,
        on_error: Literal["collect"],
        concurrency: int = CONCURRENCY,
        progress: Progress | None = None,
        **options: Any,
    ) -> AsyncGenerator[Finished[T | None]]: ...
    def as_completed(
        self,
        contents: Iterable[Any] | AsyncIterable[Any],
        response_model: TypeForm[T],
        *,
        content: str | Callable[[Any], Any] | None = None,
        tenant: Own[str | None] | NotGiven = NOT_GIVEN,
        subject: Own[str | None] | NotGiven = NOT_GIVEN,
        tags: Own[Collection[str]] | NotGiven = NOT_GIVEN,
        on_error: OnError = "raise",
        concurrency: int = CONCURRENCY,
        progress: Progress | None = None,
        **options: Any,
    ) -> AsyncGenerator[Finished[Any]]:
        """Yield each item as soon as it has ended, hits first; arguments as ``aextract_many``.

        Arguments and context are read at the call. Whoever leaves the loop stops what has not begun.
        """
        from llmcache.batches import work

        own = tenant, subject, tags
        order = self._order(
            process.current_if_made(),
            *(contents, response_model, own, options, content, on_error, concurrency, progress),
            keeps_items=True,
        )
        return work.afinished(order)

    def _order(
        self,
        now: Runtime | None,
        contents: Any,
        response_model: Any,
        own: tuple[Any, Any, Any],
        given: dict[str, Any],
        *how: Any,
        keeps_items: bool = False,
    ) -> Order:
        from llmcache.batches.work import Order

        options = tuple(given.pop(name, NOT_GIVEN) for name in request.OPTIONS)
        return Order(
            now,
            contents,
            response_model,
            *self._merged(options, given),
            dict(zip(("tenant", "subject", "tags"), own, strict=True)),
            *how,
            keeps_items=keeps_items,
        )

    def _merged(self, options: tuple[Any, ...], params: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return options and parameters with what is bound."""
        raise NotImplementedError


async def raised(error: Exception) -> Any:
    """Raise an error where it is awaited."""
    raise error
