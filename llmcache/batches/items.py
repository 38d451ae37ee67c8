"""What a batch is given: its items one by one, each with its text and with the options that are its own.

Everything here happens in the caller's own thread or task: what the caller's functions see is the caller's context.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sized
from functools import partial
from itertools import count, starmap
from typing import Any, Final, NamedTuple, TypeAlias, cast

from llmcache import request
from llmcache.content.own import own_content
from llmcache.exceptions import InvalidRequest, LLMCacheError
from llmcache.request import NOT_GIVEN
from llmcache.tenancy import Tenancy

PER_ITEM: Final = ("tenant", "subject", "tags", "variant")
"""The options that each item may have of its own; variants, where the items are samples."""

_Tell: TypeAlias = Callable[[int, Any], Any]
_ROWS_AT_ONCE: Final = 500
_VARIANT: Final = request.OPTIONS.index("variant")


class Asked(NamedTuple):
    """One item of a batch, ready to be looked for."""

    number: int
    """Its place among the items, from 0."""
    item: Any
    content: Any
    """Its text, parts or messages; whether they can be used is not looked at yet."""
    options: tuple[Any, ...]
    """As ``request.OPTIONS`` orders them; the same object for items that have the same."""
    error: LLMCacheError | None = None
    """Why it cannot be asked."""


_asked: Final[Callable[[tuple[Any, ...]], Asked]] = partial(tuple.__new__, Asked)  # in half the time


class Intake:
    """How the items of one batch become what is asked.

    ``keeps_items``: whether they travel along, for who wants to know which of them has ended.
    """

    def __init__(
        self,
        content: str | Callable[[Any], Any] | None,
        own: Mapping[str, Any],
        options: tuple[Any, ...],
        tenancy: Tenancy | None,
        size: int | None,
        *,
        keeps_items: bool,
    ) -> None:
        self._text = _text_of(content)
        self._keeps_items = keeps_items
        self._tenancy = tenancy
        self._tells: list[tuple[int, _Tell]] = []
        for name in PER_ITEM:
            place, value = request.OPTIONS.index(name), own.get(name, NOT_GIVEN)
            tell = _told(name, value, size)
            if tell is not None:
                self._tells.append((place, tell))
            elif value is not NOT_GIVEN:
                options = _with(options, place, value)
        tells_tenant = any(place == request.OPTIONS.index("tenant") for place, _ in self._tells)
        # Once for the whole batch, here and now: later, somebody else's request may be under way.
        self.options = options if tenancy is None or tells_tenant else tenancy.named(options)
        self._is_plain = self._text is None and not self._tells and not keeps_items

    @property
    def is_alike(self) -> bool:
        """Whether all items have the same options, but for their variants."""
        return all(place == _VARIANT for place, _ in self._tells)

    def take(self, index: int, item: Any) -> Asked:
        """Return one item, ready to be looked for. Raises what the caller's own functions raise."""
        if self._is_plain:
            return _asked((index, None, item if type(item) is str else own_content(item), self.options, None))
        options, content = self.options, own_content(item if self._text is None else self._text(item))
        for place, tell in self._tells:
            options = _with(options, place, tell(index, item))
        kept = item if self._keeps_items else None
        if self._tells and self._tenancy is not None:
            try:
                options = self._tenancy.named(options)
            except LLMCacheError as error:
                return Asked(index, kept, content, options, error)
        return Asked(index, kept, content, options)


def _with(options: tuple[Any, ...], place: int, value: Any) -> tuple[Any, ...]:
    return (*options[:place], value, *options[place + 1 :])


def _text_of(content: str | Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
    if content is None or (callable(content) and not isinstance(content, str)):
        return content
    if not isinstance(cast("object", content), str) or not content:
        raise InvalidRequest(
            "content= must be the name of the field that holds an item's text, or a function that returns it."
        )
    path = content.split("__")

    def text(item: Any) -> Any:
        for name in path:
            try:
                item = item[name] if isinstance(item, Mapping) else getattr(item, name)
            except (AttributeError, KeyError):
                raise InvalidRequest(
                    f"content= names {content!r}, and an item of type {type(cast('object', item)).__name__} has no "
                    f"{name!r}. Name a field that each item has, or pass a function."
                ) from None
        return item

    return text


def _told(name: str, value: Any, size: int | None) -> _Tell | None:
    """Return what tells an item's own value of an option; None where one value is all items'."""
    if callable(value):
        return lambda _, item: value(item)
    if not _is_list_of_values(name, value):
        return None
    if size is None:
        raise InvalidRequest(
            f"{name}= is a list with a value for each item, and it is not known how many items there are. Pass a list "
            f"of items, or a function that returns an item's {name}."
        )
    if len(value) != size:
        raise InvalidRequest(
            f"{name}= has {len(value)} values for {size} items. Pass one for each, or one for all, or a function that "
            "is given the item."
        )
    return lambda index, _: value[index]


def _is_list_of_values(name: str, value: Any) -> bool:
    if not isinstance(value, (list, tuple)):
        return False
    # Tags are a list themselves.
    each = cast("list[Any]", value)
    return name != "tags" or (bool(each) and all(isinstance(item, (list, tuple, set, frozenset)) for item in each))


def size_of(contents: object) -> int | None:
    """Return how many items there are, where that is known without going through them."""
    return None if _is_queryset(contents) and not _is_read(contents) else _length(contents)


def _length(contents: object) -> int | None:
    return len(contents) if isinstance(contents, Sized) else None


def items_of(contents: Any, take: Callable[[int, Any], Asked]) -> Iterator[Asked]:
    """Return the items, each as it is wanted; a queryset is read to its end before the first.

    While a provider is asked for the first rows, a cursor would stay open over the others, which holds up who writes
    to SQLite. Raises ``InvalidRequest`` for what has no items.
    """
    _refuse_one_text(contents)
    if _is_queryset(contents) and not _is_read(contents):
        rows = enumerate(contents.iterator(chunk_size=_ROWS_AT_ONCE))
        return iter([take(index, row) for index, row in rows])
    if not isinstance(contents, Iterable):
        raise _no_items(contents)
    return starmap(take, enumerate(cast("Iterable[Any]", contents)))


async def aitems_of(contents: Any, take: Callable[[int, Any], Asked]) -> AsyncIterator[Asked]:
    """Do as ``items_of``, awaited; takes asynchronous iterators too."""
    _refuse_one_text(contents)
    if _is_queryset(contents) and not _is_read(contents):
        numbers = count()
        rows = [take(next(numbers), row) async for row in contents.aiterator(chunk_size=_ROWS_AT_ONCE)]
        for asked in rows:
            yield asked
    elif isinstance(contents, AsyncIterable) and not _is_queryset(contents):
        numbers = count()
        async for item in cast("AsyncIterable[Any]", contents):
            yield take(next(numbers), item)
    else:
        for asked in items_of(contents, take):
            yield asked


def _refuse_one_text(contents: object) -> None:
    if isinstance(contents, (str, bytes, bytearray, Mapping)):
        raise InvalidRequest(
            f"The first argument is a {type(cast('object', contents)).__name__}; pass a list of texts, a queryset or "
            "any other iterable."
        )


def _no_items(contents: object) -> InvalidRequest:
    return InvalidRequest(
        "The first argument must be a list of texts, a queryset or any other iterable, not a "
        f"{type(contents).__name__}."
    )


def _is_queryset(contents: object) -> bool:
    from django.db.models import QuerySet

    return isinstance(contents, QuerySet)


def _is_read(queryset: Any) -> bool:
    return queryset._result_cache is not None
