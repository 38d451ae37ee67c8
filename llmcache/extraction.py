"""The front door: ``extract`` and its sisters, and ``Extractor``, which has the same with defaults bound."""

from __future__ import annotations

# The public twin raises where there is no loop, which would cost a hit 0.3 µs.
from asyncio import _get_running_loop as running_loop  # pyright: ignore[reportPrivateUsage]
from collections.abc import Callable, Collection, Coroutine
from contextvars import Context, copy_context
from copy import deepcopy
from dataclasses import InitVar, dataclass
from datetime import timedelta
from decimal import Decimal
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeVar

from asgiref.sync import markcoroutinefunction

from llmcache import request
from llmcache.batches.batch import Batching
from llmcache.batches.samples import Sampling
from llmcache.content.own import own_content, own_text
from llmcache.engine import process
from llmcache.engine.call import Answered, Done, Outcome, Reason
from llmcache.envelope import UNKNOWN_COST
from llmcache.exceptions import AsyncContext, LLMCacheError
from llmcache.hits import LOOKED, NO_HIT, Away, Unread, hit, read, value_of
from llmcache.money.pricing import dollars
from llmcache.money.usage import Usage
from llmcache.request import NOT_GIVEN, CacheUse, NotGiven
from llmcache.streams.streaming import Streaming

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from llmcache.content.reading import AnyContent
    from llmcache.engine.background import Errand
    from llmcache.engine.runtime import Runtime
    from llmcache.explaining.explanations import Explanation
    from llmcache.plans import Plan

T = TypeVar("T")
_TIMEOUT: Final = request.OPTIONS.index("timeout")


@dataclass(frozen=True)
class Extraction(Generic[T]):
    """A value and how it came about."""

    value: T
    """The validated value, a fresh object for this caller."""
    outcome: Outcome
    """``"hit"``, ``"stale"`` (past its ``ttl``), ``"miss"``, ``"collapsed"`` (answered by another caller's provider
    call) or ``"bypass"``."""
    reason: Reason | None
    """Why the provider was asked; None when it was not."""
    tier: str | None
    """The tier that answered; None when none did."""
    age_seconds: float
    """How long ago the provider gave this answer."""
    ttl_left_seconds: float | None
    """How long it is still fresh, 0 for a stale one; None when it does not expire."""
    key: str
    """The key of the request, in hex."""
    usage: Usage | None
    """Tokens that this very call consumed; None when it consumed none, or the provider did not tell."""
    cost_incurred_usd: Decimal | None
    """What this very call cost, all attempts included: 0 on a hit; None when that is not known."""
    cost_avoided_usd: Decimal | None
    """What the answer cost when it was made, where that was not paid again; None when that is not known."""
    latency_ms: float
    """How long this call took."""
    attempts: int
    """How many attempts left for the provider during this call; 0 on a hit."""
    origin: str
    """Who made the answer: ``"provider"``; it again, ``"warming"``, where nobody had asked yet; ``"human"`` where a
    correction stands."""
    _parts: InitVar[tuple[Plan, bytes, bytes | None]]

    def __post_init__(self, _parts: tuple[Plan, bytes, bytes | None]) -> None:
        # Beside the fields: a plan cannot be copied or pickled, and a result can be.
        self.__dict__["_completion_of"] = _parts

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "completion": self.completion, "_completion_of": None}

    @cached_property
    def completion(self) -> Any:
        """The provider's own completion object; None when the part it is made of was evicted."""
        plan, answer, rest = self.__dict__["_completion_of"]
        return None if rest is None else plan.provider.completion(rest, answer)


class Extractor(Batching, Sampling, Streaming):
    """The functions of llmcache with defaults bound, e.g. one tenant's; cheap to make, safe to share between threads.

    Takes the options of ``extract``; what a call passes wins over what is bound, and parameters for the provider are
    merged by name.
    """

    def __init__(self, **defaults: Any) -> None:
        self._options = tuple(defaults.pop(name, NOT_GIVEN) for name in request.OPTIONS)
        self._params = defaults
        self._plain = not defaults and self._options == request.NONE_GIVEN
        # Names that cannot be passed are better refused here than at every call.
        request.split_params(defaults, None)

    def extract(
        self,
        content: AnyContent,
        response_model: TypeForm[T],
        *,
        model: str | NotGiven = NOT_GIVEN,
        system: str | NotGiven | None = NOT_GIVEN,
        kind: str | NotGiven = NOT_GIVEN,
        ttl: float | timedelta | NotGiven | None = NOT_GIVEN,
        stale_ttl: float | timedelta | NotGiven = NOT_GIVEN,
        tenant: str | NotGiven | None = NOT_GIVEN,
        subject: str | NotGiven | None = NOT_GIVEN,
        tags: Collection[str] | NotGiven = NOT_GIVEN,
        version: str | NotGiven | None = NOT_GIVEN,
        variant: str | int | NotGiven | None = NOT_GIVEN,
        cache: CacheUse | NotGiven = NOT_GIVEN,
        timeout: float | timedelta | NotGiven = NOT_GIVEN,
        max_retries: int | NotGiven = NOT_GIVEN,
        max_reasks: int | NotGiven = NOT_GIVEN,
        unkeyed: Collection[str] | NotGiven = NOT_GIVEN,
        **params: Any,
    ) -> T:
        """Return what a language model reads out of a text, as a validated value; a repeat is answered from the cache.

        ``content``: the text; or a list of parts (str, ``Image``, ``File``), or of messages (dicts with ``role`` and
        ``content``). ``response_model``: a BaseModel, dataclass, TypedDict, Enum, Literal, Union, list, tuple, set or
        dict of these. ``model``: ``"provider/model"``. ``system``: the system prompt. ``kind``: what the answer is for,
        in settings and reports; the type's name by default. ``ttl``: seconds or timedelta that an answer may be old;
        None = any age, 0 = ask and do not store. ``stale_ttl``: seconds or timedelta after that in which the old answer
        is still given, while it is asked for anew. ``tenant``, ``subject``, ``tags``, ``version``, ``variant``: parts
        of the key. ``cache``: ``"use"``, ``"refresh"`` (ask and store), ``"bypass"`` (ask, touch no tier) or ``"only"``
        (never ask).
        ``timeout``: seconds for the whole call, retries included. ``max_retries``: further attempts when one fails on
        the way. ``max_reasks``: further questions when an answer does not pass validation. ``unkeyed``: names among
        ``params`` that are sent and not in the key. ``params``: sent to the provider as they are, and in the key.

        Raises ``ConfigurationError``, ``InvalidRequest`` (``UnsupportedType``, ``InvalidText``, ``InputTooLarge``,
        ``TenantMissing``), ``ProviderError`` (``ProviderUnavailable``, ``RateLimited``, ``ProviderTimeout``,
        ``AuthenticationFailed``), ``ExtractionFailed`` (``Refused``, ``Truncated``, ``ValidationFailed``),
        ``NotCached``, ``FlightTimeout``, ``RecursiveExtract``, ``AsyncContext``. A tier that is down raises nothing:
        that is a miss.

        A hit in memory takes some microseconds, does no I/O and takes no lock.
        """
        # One display: put together of two, it takes 0.2 µs more.
        # fmt: off
        options = (model, system, kind, ttl, stale_ttl, tenant, subject, tags, version, variant, cache, timeout,
                   max_retries, max_reasks, unkeyed)
        # fmt: on
        if not self._plain:
            options, params = self._merged(options, params)
        if running_loop() is not None:
            _raise_async_context("extract")
        now = process.current()
        if now.tenancy is not None:
            options = now.tenancy.named(options)
        value = hit(now, content, response_model, options, params)
        if value is not NO_HIT and value is not LOOKED:
            return value
        return _way("extract")(content, response_model, options, params, looked=value is LOOKED).answered.value

    def extract_with_completion(
        self,
        content: AnyContent,
        response_model: TypeForm[T],
        *,
        model: str | NotGiven = NOT_GIVEN,
        system: str | NotGiven | None = NOT_GIVEN,
        kind: str | NotGiven = NOT_GIVEN,
        ttl: float | timedelta | NotGiven | None = NOT_GIVEN,
        stale_ttl: float | timedelta | NotGiven = NOT_GIVEN,
        tenant: str | NotGiven | None = NOT_GIVEN,
        subject: str | NotGiven | None = NOT_GIVEN,
        tags: Collection[str] | NotGiven = NOT_GIVEN,
        version: str | NotGiven | None = NOT_GIVEN,
        variant: str | int | NotGiven | None = NOT_GIVEN,
        cache: CacheUse | NotGiven = NOT_GIVEN,
        timeout: float | timedelta | NotGiven = NOT_GIVEN,
        max_retries: int | NotGiven = NOT_GIVEN,
        max_reasks: int | NotGiven = NOT_GIVEN,
        unkeyed: Collection[str] | NotGiven = NOT_GIVEN,
        **params: Any,
    ) -> tuple[T, Any]:
        """Return the value and the provider's own completion object, also on a hit.

        Arguments and errors as ``extract``. Where the completion was evicted while the answer was not, this is a miss.
        The usage in a completion is what making it took: on a hit it was not spent again.
        """
        options = (
            *(model, system, kind, ttl, stale_ttl, tenant, subject, tags, version, variant, cache),
            *(timeout, max_retries, max_reasks, unkeyed),
        )
        return _with_completion(
            _way("extract_with_completion")(
                content, response_model, *self._merged(options, params), needs_completion=True
            )
        )

    def extract_with_info(
        self,
        content: AnyContent,
        response_model: TypeForm[T],
        *,
        model: str | NotGiven = NOT_GIVEN,
        system: str | NotGiven | None = NOT_GIVEN,
        kind: str | NotGiven = NOT_GIVEN,
        ttl: float | timedelta | NotGiven | None = NOT_GIVEN,
        stale_ttl: float | timedelta | NotGiven = NOT_GIVEN,
        tenant: str | NotGiven | None = NOT_GIVEN,
        subject: str | NotGiven | None = NOT_GIVEN,
        tags: Collection[str] | NotGiven = NOT_GIVEN,
        version: str | NotGiven | None = NOT_GIVEN,
        variant: str | int | NotGiven | None = NOT_GIVEN,
        cache: CacheUse | NotGiven = NOT_GIVEN,
        timeout: float | timedelta | NotGiven = NOT_GIVEN,
        max_retries: int | NotGiven = NOT_GIVEN,
        max_reasks: int | NotGiven = NOT_GIVEN,
        unkeyed: Collection[str] | NotGiven = NOT_GIVEN,
        **params: Any,
    ) -> Extraction[T]:
        """Return the value with how it came about. Arguments and errors as ``extract``."""
        options = (
            *(model, system, kind, ttl, stale_ttl, tenant, subject, tags, version, variant, cache),
            *(timeout, max_retries, max_reasks, unkeyed),
        )
        return _with_info(
            _way("extract_with_info")(content, response_model, *self._merged(options, params), needs_rest=True)
        )

    @markcoroutinefunction
    def aextract(
        self,
        content: AnyContent,
        response_model: TypeForm[T],
        *,
        model: str | NotGiven = NOT_GIVEN,
        system: str | NotGiven | None = NOT_GIVEN,
        kind: str | NotGiven = NOT_GIVEN,
        ttl: float | timedelta | NotGiven | None = NOT_GIVEN,
        stale_ttl: float | timedelta | NotGiven = NOT_GIVEN,
        tenant: str | NotGiven | None = NOT_GIVEN,
        subject: str | NotGiven | None = NOT_GIVEN,
        tags: Collection[str] | NotGiven = NOT_GIVEN,
        version: str | NotGiven | None = NOT_GIVEN,
        variant: str | int | NotGiven | None = NOT_GIVEN,
        cache: CacheUse | NotGiven = NOT_GIVEN,
        timeout: float | timedelta | NotGiven = NOT_GIVEN,
        max_retries: int | NotGiven = NOT_GIVEN,
        max_reasks: int | NotGiven = NOT_GIVEN,
        unkeyed: Collection[str] | NotGiven = NOT_GIVEN,
        **params: Any,
    ) -> Coroutine[Any, Any, T]:
        """Do as ``extract``, awaited, and never hold up the event loop.

        Arguments and context variables are read at the call, whenever it is awaited. A hit in memory has its answer at
        once. Every other call is answered in a thread of llmcache's own, in a copy of this context; who stops waiting
        loses nothing that is paid for. The type's validators run inside an event loop, here or there.
        """
        # One display: put together of two, it takes 0.2 µs more.
        # fmt: off
        options = (model, system, kind, ttl, stale_ttl, tenant, subject, tags, version, variant, cache, timeout,
                   max_retries, max_reasks, unkeyed)
        # fmt: on
        if not self._plain:
            options, params = self._merged(options, params)
        try:
            now = process.current_if_made()
            if now is not None and now.tenancy is not None:
                options = now.tenancy.named(options)
            value = NO_HIT if now is None else hit(now, content, response_model, options, params, in_memory=True)
        except Exception as error:  # noqa: BLE001  # what goes wrong is raised where the call is awaited
            return _raised(error)
        if value is NO_HIT:
            return value_of(_away(content, response_model, options, params))
        if type(value) is Unread:
            return _read(value, content, response_model, options, params)
        return _given(value)

    @markcoroutinefunction
    def aextract_with_completion(
        self,
        content: AnyContent,
        response_model: TypeForm[T],
        *,
        model: str | NotGiven = NOT_GIVEN,
        system: str | NotGiven | None = NOT_GIVEN,
        kind: str | NotGiven = NOT_GIVEN,
        ttl: float | timedelta | NotGiven | None = NOT_GIVEN,
        stale_ttl: float | timedelta | NotGiven = NOT_GIVEN,
        tenant: str | NotGiven | None = NOT_GIVEN,
        subject: str | NotGiven | None = NOT_GIVEN,
        tags: Collection[str] | NotGiven = NOT_GIVEN,
        version: str | NotGiven | None = NOT_GIVEN,
        variant: str | int | NotGiven | None = NOT_GIVEN,
        cache: CacheUse | NotGiven = NOT_GIVEN,
        timeout: float | timedelta | NotGiven = NOT_GIVEN,
        max_retries: int | NotGiven = NOT_GIVEN,
        max_reasks: int | NotGiven = NOT_GIVEN,
        unkeyed: Collection[str] | NotGiven = NOT_GIVEN,
        **params: Any,
    ) -> Coroutine[Any, Any, tuple[T, Any]]:
        """Do as ``extract_with_completion``, awaited; see ``aextract``."""
        options = (
            *(model, system, kind, ttl, stale_ttl, tenant, subject, tags, version, variant, cache),
            *(timeout, max_retries, max_reasks, unkeyed),
        )
        return _completion(_away(content, response_model, *self._merged(options, params), needs_completion=True))

    @markcoroutinefunction
    def aextract_with_info(
        self,
        content: AnyContent,
        response_model: TypeForm[T],
        *,
        model: str | NotGiven = NOT_GIVEN,
        system: str | NotGiven | None = NOT_GIVEN,
        kind: str | NotGiven = NOT_GIVEN,
        ttl: float | timedelta | NotGiven | None = NOT_GIVEN,
        stale_ttl: float | timedelta | NotGiven = NOT_GIVEN,
        tenant: str | NotGiven | None = NOT_GIVEN,
        subject: str | NotGiven | None = NOT_GIVEN,
        tags: Collection[str] | NotGiven = NOT_GIVEN,
        version: str | NotGiven | None = NOT_GIVEN,
        variant: str | int | NotGiven | None = NOT_GIVEN,
        cache: CacheUse | NotGiven = NOT_GIVEN,
        timeout: float | timedelta | NotGiven = NOT_GIVEN,
        max_retries: int | NotGiven = NOT_GIVEN,
        max_reasks: int | NotGiven = NOT_GIVEN,
        unkeyed: Collection[str] | NotGiven = NOT_GIVEN,
        **params: Any,
    ) -> Coroutine[Any, Any, Extraction[T]]:
        """Do as ``extract_with_info``, awaited; see ``aextract``.

        The first use of ``completion`` in a process that has asked no provider loads the provider's SDK, there and
        then: where that must not be, call ``aextract_with_completion``.
        """
        options = (
            *(model, system, kind, ttl, stale_ttl, tenant, subject, tags, version, variant, cache),
            *(timeout, max_retries, max_reasks, unkeyed),
        )
        return _info(_away(content, response_model, *self._merged(options, params), needs_rest=True))

    def explain(self, content: AnyContent, response_model: Any, **options: Any) -> Explanation:
        """Do as ``llmcache.explain``, with what is bound."""
        from llmcache.explaining.door import explain

        return explain(content, response_model, **self._all(options))

    @markcoroutinefunction
    def aexplain(self, content: AnyContent, response_model: Any, **options: Any) -> Coroutine[Any, Any, Explanation]:
        """Do as ``llmcache.aexplain``, with what is bound."""
        from llmcache.explaining.door import aexplain

        return aexplain(content, response_model, **self._all(options))

    def _all(self, options: dict[str, Any]) -> dict[str, Any]:
        bound = zip(request.OPTIONS, self._options, strict=True)
        options = {name: value for name, value in options.items() if value is not NOT_GIVEN}
        whole = {**dict(bound), **self._params, **options}
        return {name: value for name, value in whole.items() if value is not NOT_GIVEN}

    def _merged(self, options: tuple[Any, ...], params: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        bound = zip(options, self._options, strict=True)
        return tuple(default if option is NOT_GIVEN else option for option, default in bound), {
            **self._params,
            **params,
        }


def _with_completion(done: Done) -> tuple[Any, Any]:
    answered = done.answered
    return answered.value, done.call.plan.provider.completion(answered.rest or b"", answered.entry.answer)


def _with_info(done: Done) -> Extraction[Any]:
    call = done.call
    return info_of(done.answered, call.plan, call.max_age, done.seconds, done.at)


def info_of(answered: Answered, plan: Plan, max_age: float, seconds: float, at: float) -> Extraction[Any]:
    """Return how a value came about, of a call that took so many seconds and was over at a Unix time.

    ``max_age``: how old an answer may be for it.
    """
    entry, age = answered.entry, max(at - answered.entry.written_at, 0.0)
    left = min(max_age - age, entry.fresh_until - entry.written_at - age)
    return Extraction(
        value=answered.value,
        outcome=answered.outcome,
        reason=answered.reason,
        tier=answered.tier,
        age_seconds=age,
        ttl_left_seconds=None if left == float("inf") else max(left, 0.0),
        key=entry.key.hex(),
        usage=answered.spent.usage,
        cost_incurred_usd=dollars(answered.spent.cost),
        cost_avoided_usd=_avoided(answered),
        latency_ms=seconds * 1_000,
        attempts=answered.spent.attempts,
        origin=str(entry.facts().get("origin", "provider")),
        _parts=(plan, entry.answer, answered.rest),
    )


def _avoided(answered: Answered) -> Decimal | None:
    if answered.outcome not in ("hit", "stale", "collapsed"):
        return Decimal(0)
    cost = answered.entry.cost
    return None if cost == UNKNOWN_COST else dollars(cost)


def _way(name: str) -> Callable[..., Done]:
    """Return the function that answers a call which is no plain hit; takes no text, so that its frame shows none."""
    require_no_loop(name)
    from llmcache.answering import answer

    return partial(answer, process.current())


def require_no_loop(name: str) -> None:
    """Raise ``AsyncContext`` where the calling thread's event loop is running."""
    if running_loop() is not None:
        _raise_async_context(name)


def _raise_async_context(name: str) -> NoReturn:
    raise AsyncContext(
        f"llmcache.{name}() was called in a thread whose event loop is running, and would stop it. "
        f"Await llmcache.a{name}() instead."
    )


def _away(content: Any, response_model: Any, options: tuple[Any, ...], params: dict[str, Any], **needs: bool) -> Away:
    """Return what has a call answered in the background; all that the call depends on is read here and now."""
    try:
        now = process.current_if_made()
        tenancy = process.tenancy() if now is None else now.tenancy
        if tenancy is not None:
            options = tenancy.named(options)
    except Exception as error:  # noqa: BLE001  # raised where the call is awaited
        return partial(_raised, error)
    return _carried(now, copy_context(), content, response_model, options, params, **needs)


def _carried(
    now: Runtime | None,
    context: Context,
    content: Any,
    response_model: Any,
    options: tuple[Any, ...],
    params: dict[str, Any],
    **needs: bool,
) -> Away:
    from llmcache.engine import background

    given = (
        *(own_content(content), response_model),
        *(tuple(map(own_copy, options)), {name: own_copy(params[name]) for name in params}),
    )

    def start(errand: Errand[Done]) -> Coroutine[Any, Any, Done]:
        return background.answer(now, errand, *given, **needs)

    return partial(background.run, start, context, seconds_of(now, options))


def own_copy(value: Any) -> Any:
    """Return a value that nobody changes between a call and its awaiting."""
    if type(value) not in (list, dict, set):
        return own_text(value)
    try:
        return deepcopy(value)
    except Exception:  # noqa: BLE001  # what cannot be copied cannot be sent: it is refused where the call is awaited
        return value


def seconds_of(now: Runtime | None, options: tuple[Any, ...]) -> float | None:
    """Return how long a call may take; None when that is not known yet, or not usable."""
    timeout = options[_TIMEOUT]
    if timeout is NOT_GIVEN:
        return None if now is None else now.settings.timeout
    try:
        return request.duration(timeout)
    except LLMCacheError:
        return None


def _read(
    unread: Unread, content: Any, response_model: Any, options: tuple[Any, ...], params: dict[str, Any]
) -> Coroutine[Any, Any, Any]:
    """Return what reads below memory. Apart: a function with others inside it pays for them at each of its calls."""
    context, now = copy_context(), unread.now

    def again() -> Any:
        return hit(now, content, response_model, options, params, in_memory=True)

    def others(looked: bool) -> Away:
        return _carried(now, context, content, response_model, options, params, looked=looked)

    return read(unread, context, again, others)


async def _given(value: Any) -> Any:
    return value


async def _raised(error: Exception) -> Any:
    raise error


async def _completion(away: Away) -> Any:
    return _with_completion(await away())


async def _info(away: Away) -> Any:
    return _with_info(await away())


_default = Extractor()
extract = _default.extract
extract_with_completion = _default.extract_with_completion
extract_with_info = _default.extract_with_info
aextract = _default.aextract
aextract_with_completion = _default.aextract_with_completion
aextract_with_info = _default.aextract_with_info
extract_many = _default.extract_many
aextract_many = _default.aextract_many
as_completed = _default.as_completed
extract_samples = _default.extract_samples
aextract_samples = _default.aextract_samples
extract_partial = _default.extract_partial
extract_iterable = _default.extract_iterable
aextract_partial = _default.aextract_partial
aextract_iterable = _default.aextract_iterable
