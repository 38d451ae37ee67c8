"""Samples: several answers to one request, each kept by itself, and given again in their order.

A batch of one content and of several variants. The first is the variant of the request itself, so that its answer is
the one that a single call has; who asks for more keeps those that are there.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload

from asgiref.sync import markcoroutinefunction

from llmcache import request
from llmcache.batches.batch import CONCURRENCY, Batch, OnError, Progress, raised
from llmcache.content.own import own_content
from llmcache.engine import process
from llmcache.exceptions import InvalidRequest
from llmcache.keys import Sample
from llmcache.request import NOT_GIVEN

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from llmcache.batches.work import Order
    from llmcache.content.reading import AnyContent
    from llmcache.engine.runtime import Runtime

T = TypeVar("T")

SAMPLES: Final = 5
"""Answers that are asked for, where a call does not say."""
MOST_SAMPLES: Final = 1_000
_VARIANT: Final = request.OPTIONS.index("variant")


class Sampling:
    """The samples of an ``Extractor``."""

    @overload
    def extract_samples(
        self,
        content: AnyContent,
        response_model: TypeForm[T],
        *,
        samples: int = SAMPLES,
        on_error: Literal["raise"] = "raise",
        concurrency: int = CONCURRENCY,
        progress: Progress | None = None,
        **options: Any,
    ) -> Batch[T]: ...
    @overload
    def extract_samples(
        self,
        content: AnyContent,
        response_model: TypeForm[T],
        *,
        samples: int = SAMPLES,
        on_error: Literal["collect"],
        concurrency: int = CONCURRENCY,
        progress: Progress | None = None,
        **options: Any,
    ) -> Batch[T | None]: ...
    def extract_samples(
        self,
        content: AnyContent,
        response_model: TypeForm[T],
        *,
        samples: int = SAMPLES,
        on_error: OnError = "raise",
        concurrency: int = CONCURRENCY,
        progress: Progress | None = None,
        **options: Any,
    ) -> Batch[Any]:
        """Return several answers to the same request, each asked for and kept by itself; a repeat has the same ones.

        ``samples``: how many, from 1 to 1,000. The first is the answer that ``extract`` gives, and the others follow
        in an order that stays: whoever asks for more of them later pays for those alone that are not there yet.
        ``on_error``, ``concurrency``, ``progress``: as in ``extract_many``. ``options``: those of ``extract``, for all
        of them (each ``variant`` has samples of its own), and parameters for the provider.

        Nothing says that the answers differ: with a ``temperature`` of 0 or a ``seed`` they will hardly. Raises what
        ``extract_many`` does.
        """
        from llmcache.batches import work
        from llmcache.extraction import require_no_loop

        require_no_loop("extract_samples")
        return work.gather(
            self._sampled(process.current(), content, response_model, samples, options, on_error, concurrency, progress)
        )

    @overload
    def aextract_samples(
        self,
        content: AnyContent,
        response_model: TypeForm[T],
        *,
        samples: int = SAMPLES,
        on_error: Literal["raise"] = "raise",
        concurrency: int = CONCURRENCY,
        progress: Progress | None = None,
        **options: Any,
    ) -> Coroutine[Any, Any, Batch[T]]: ...
    @overload
    def aextract_samples(
        self,
        content: AnyContent,
        response_model: TypeForm[T],
        *,
        samples: int = SAMPLES,
        on_error: Literal["collect"],
        concurrency: int = CONCURRENCY,
        progress: Progress | None = None,
        **options: Any,
    ) -> Coroutine[Any, Any, Batch[T | None]]: ...
    @markcoroutinefunction
    def aextract_samples(
        self,
        content: AnyContent,
        response_model: TypeForm[T],
        *,
        samples: int = SAMPLES,
        on_error: OnError = "raise",
        concurrency: int = CONCURRENCY,
        progress: Progress | None = None,
        **options: Any,
    ) -> Coroutine[Any, Any, Batch[Any]]:
        """Do as ``extract_samples``, awaited; see ``aextract_many``."""
        from llmcache.batches import work

        now = process.current_if_made()
        try:
            order = self._sampled(now, content, response_model, samples, options, on_error, concurrency, progress)
        except Exception as error:  # noqa: BLE001  # what goes wrong is raised where the call is awaited
            return raised(error)
        return work.agather(order)

    def _sampled(
        self, now: Runtime | None, content: Any, response_model: Any, samples: int, given: dict[str, Any], *how: Any
    ) -> Order:
        from llmcache.batches.work import SamplesOrder

        if type(samples) is not int or not 1 <= samples <= MOST_SAMPLES:
            raise InvalidRequest(f"samples= must be a whole number from 1 to {MOST_SAMPLES:,}.")
        named = tuple(given.pop(name, NOT_GIVEN) for name in request.OPTIONS)
        options, params = self._merged(named, given)
        for name in params:
            request.refuse_almost(name, ("samples",))
        own: Any = options[_VARIANT]
        first = None if own is NOT_GIVEN else own
        variants = [own, *(Sample(first, number) for number in range(1, samples))]
        return SamplesOrder(
            now, [own_content(content)] * samples, response_model, options, params, {"variant": variants}, None, *how
        )

    if TYPE_CHECKING:

        def _merged(
            self, options: tuple[Any, ...], params: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]: ...
