"""Streams: the value of a call while its answer is still being written.

A stream is an ordinary call that is told its answer piece by piece. It flies, pays, validates and stores as any other;
only who waits for it is given what is there already. A repeat yields the same sequence, made of the answer that is
kept: see ``partials``. ``work`` does all of that, and is loaded by the first stream.

What can go wrong, and the rule against it:

- Whoever reads goes away: the call is broken off, nothing is kept, and who has joined it elects anew.
- An answer fails after some of it was given: the error is raised in place of the next value. It is not asked for
  again, for what was given cannot be taken back.
- An attempt fails before anything was given: it is made again as that of any call.
- A call joins another one that is under way: it is given all at once, when that has its answer.
"""

from __future__ import annotations

# As in `extraction`.
from asyncio import _get_running_loop as running_loop  # pyright: ignore[reportPrivateUsage]
from collections.abc import AsyncGenerator, Generator
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final, TypeVar

from llmcache import request
from llmcache.content.own import own_content
from llmcache.engine import process
from llmcache.exceptions import AsyncContext, InvalidRequest
from llmcache.request import NOT_GIVEN

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from llmcache.content.reading import AnyContent
    from llmcache.engine.runtime import Runtime
    from llmcache.streams.work import Yields

T = TypeVar("T")

_REASKS: Final = request.OPTIONS.index("max_reasks")


class Streaming:
    """The streams of an ``Extractor``."""

    def extract_partial(
        self, content: AnyContent, response_model: TypeForm[T], **options: Any
    ) -> Generator[T, None, None]:
        """Yield what ``extract`` returns while it is being written: growing values, and the whole one last.

        In a partial value that is a model or a dataclass, a field that has not arrived is None, whatever its type; in
        a TypedDict it is not there. Texts and lists grow; a number, a date or a choice is there once it is whole. Parts
        that are whole are validated, the object around them is not: its own validators have not run, and what depends
        on them does not work. Only the last value is what ``extract`` returns, and it is always yielded.

        ``options``: those of ``extract`` but ``max_reasks``, and parameters for the provider. A repeat, also by
        ``extract``, has the same key and yields the same sequence. Tenant, options and context are read at the call;
        the provider is asked when the first value is. Closing the iterator, or letting go of it, breaks the call off.

        Raises what ``extract`` does, also between two values.
        """
        from llmcache.streams.work import Yields

        _require_no_loop("extract_partial")
        return self._stream(content, response_model, options, Yields())

    def extract_iterable(self, content: AnyContent, item: TypeForm[T], **options: Any) -> Generator[T, None, None]:
        """Yield the items of ``extract(content, list[item])``, each validated as soon as it is whole.

        An answer with an item that is not valid is an error as a whole: the items before it are yielded, and then
        ``ValidationFailed`` is raised. All else as ``extract_partial``.
        """
        from llmcache.streams.work import YieldsItems

        _require_no_loop("extract_iterable")
        return self._stream(content, _list_of(item), options, YieldsItems(item))

    def aextract_partial(
        self, content: AnyContent, response_model: TypeForm[T], **options: Any
    ) -> AsyncGenerator[T, None]:
        """Do as ``extract_partial``, for ``async for``. A plain function: what it depends on is read at the call."""
        from llmcache.streams.work import Yields

        return self._astream(content, response_model, options, Yields())

    def aextract_iterable(self, content: AnyContent, item: TypeForm[T], **options: Any) -> AsyncGenerator[T, None]:
        """Do as ``extract_iterable``, for ``async for``."""
        from llmcache.streams.work import YieldsItems

        return self._astream(content, _list_of(item), options, YieldsItems(item))

    def _stream(
        self, content: Any, response_model: Any, options: dict[str, Any], yields: Yields
    ) -> Generator[Any, None, None]:
        from llmcache.streams.work import values_of

        now = process.current()
        given = self._given(now, content, response_model, options)
        timeout = given[2][request.OPTIONS.index("timeout")]
        seconds = now.settings.timeout if timeout is NOT_GIVEN else request.duration(timeout)
        return values_of(now, given, copy_context(), yields, seconds)

    def _astream(
        self, content: Any, response_model: Any, options: dict[str, Any], yields: Yields
    ) -> AsyncGenerator[Any, None]:
        from llmcache.streams.work import avalues_of

        now = process.current_if_made()
        return avalues_of(now, self._given(now, content, response_model, options), copy_context(), yields)

    def _given(
        self, now: Runtime | None, content: Any, response_model: Any, options: dict[str, Any]
    ) -> tuple[Any, ...]:
        from llmcache.extraction import own_copy

        if "max_reasks" in options:
            raise InvalidRequest(
                "A stream takes no max_reasks=: what was yielded cannot be taken back, so that its answer is not asked "
                "for again."
            )
        named = tuple(options.pop(name, NOT_GIVEN) for name in request.OPTIONS)
        merged, params = self._merged(named, options)
        merged = (*merged[:_REASKS], 0, *merged[_REASKS + 1 :])
        tenancy = process.tenancy() if now is None else now.tenancy
        if tenancy is not None:
            merged = tenancy.named(merged)
        params = {name: own_copy(params[name]) for name in params}
        return own_content(content), response_model, tuple(map(own_copy, merged)), params

    if TYPE_CHECKING:

        def _merged(
            self, options: tuple[Any, ...], params: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]: ...


def _require_no_loop(name: str) -> None:
    if running_loop() is not None:
        raise AsyncContext(
            f"llmcache.{name}() was called in a thread whose event loop is running, and would stop it. "
            f"Go through llmcache.a{name}() with async for instead."
        )


def _list_of(item: Any) -> Any:
    return list[item]
