"""A function of the project's as a provider: for tests, models in this process, and other SDKs.

    PROVIDERS = {"mine": {"call": "myapp.llm.ask"}}        # asked by model="mine/any-name"

    def ask(request: Request) -> str | Answer: ...

``"call"`` is a plain function, ``"acall"`` an async one, each as itself or by its dotted path; one is enough. It gets a
``Request`` and returns the model's own answer as text, exactly as the model gave it, or an ``Answer`` with what else is
known. All that llmcache does for a server it does for a function: keys, flights, the journal, validation, re-asks,
cache, invalidation, ledger.

**Which of the two, and where it runs.** A call that is not awaited runs ``call`` in its own thread; where there is only
``acall``, it waits for that in the background loop. Awaited calls, batches of them and streams await ``acall`` in the
background loop, the same one for the whole life of a process, so that clients may be kept between calls; where there is
only ``call``, it runs in a thread of llmcache's own. Always in a copy of the caller's context (a plain call: in the
context itself). ``acall`` must not block: all awaited calls of the process wait for it then.

**Deadline.** ``request.timeout`` says how many seconds are left. ``acall`` is cancelled when they are over. Nothing can
interrupt ``call``: pass the timeout on. An awaited call gives up on it then, and the thread ends when it does; a call
that is not awaited takes an answer that comes late, for it is paid for.

**Errors.** What it raises becomes a ``ProviderError`` that names the class and the line, never the message, which may
hold a text. Raise llmcache's own to say more: ``RateLimited`` (``retry_after=``), ``ProviderUnavailable`` and any with
``status=`` 408, 409, 429 or from 500 on are tried again within ``max_retries``, ``ProviderTimeout`` or a
``TimeoutError`` ends the call's time. What an attempt that raised has cost is not known, and it is *in doubt*: the
function may have asked somebody who charges. But ``RateLimited``, ``AuthenticationFailed`` and an error with a
``status`` of 400 or more cost nothing.

**Cost.** ``Answer.cost_usd``, or the tokens of ``Answer.usage`` by the price in ``LLMCACHE["PRICES"]`` of
``"mine/model"``, or by the price book where ``PROVIDERS["mine"]["base_url"]`` says whom the function asks. Else it is
not known.

**Calls that are not allowed.** Nobody but the project knows whether a function stays on this machine. Under
``ALLOW_PROVIDER_CALLS = "loopback"``, the default in tests, it is called only when its ``"base_url"`` is on loopback,
such as ``"http://localhost"``.

**In keys** it is its alias and its dotted name, or ``PROVIDERS["mine"]["identity"]``; a function without a name that
tells it from others (a lambda, one inside a function, whatever name it has taken over, a method, an object) needs that.
What it does is not in the key: change ``identity`` or ``VERSION`` when it answers differently.

**Completion.** ``extract_with_completion`` gives an ``Answer``, on a hit as on a miss, with what can be kept as JSON;
put into ``raw`` what else is wanted back.

Parameters (``temperature=0``) are in the key and in ``request.params``, as they are; the names that no provider takes
(``messages``, ``stream``, ``tools``, …) are refused here too. A stream's values come when the whole answer has.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from django.views.decorators.debug import sensitive_variables

from llmcache.envelope import MOST_COST
from llmcache.exceptions import (
    ProviderError,
)
from llmcache.money.pricing import PICO
from llmcache.money.usage import Usage, told_usage
from llmcache.providers.base import Body, Failure, Reply, Told
from llmcache.providers.callable_failures import UnfitAnswerError, failed
from llmcache.providers.callable_names import function_of, name_of
from llmcache.providers.callable_waits import Work, is_cancelled, waited_for
from llmcache.providers.chat import ChatFace
from llmcache.providers.faces import packed
from llmcache.providers.failures import too_large
from llmcache.providers.schema import ResponseSchema
from llmcache.setting_values import ProviderSettings

if TYPE_CHECKING:
    from llmcache.engine.call import Call

_MOST_TOKENS: Final = 2**53
_MOST_USD: Final = MOST_COST // PICO
"""What an entry can be said to have cost."""
_CUT: Final = ("length", "max_tokens", "MAX_TOKENS", "max_output_tokens")
"""How the makers of models say that an answer ended at the token limit."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a function is asked. Everything in it is the function's own, to be changed at will."""

    model: str
    """The model, without the provider's alias."""
    system: str | None = field(repr=False)
    """The system prompt."""
    content: str | None = field(repr=False)
    """The text to extract from; None where the content is parts or messages."""
    messages: list[dict[str, Any]] = field(repr=False)
    """All of it as chat completions have it: system prompt, content, and, when an answer did not pass validation, that
    answer and what was wrong with it."""
    response_model: Any
    """The response type."""
    schema: dict[str, Any] = field(repr=False)
    """The JSON schema that the answer has to fit; strict where ``is_strict``."""
    schema_name: str
    """The type's name made fit for a provider."""
    is_strict: bool
    """Whether the schema is one that OpenAI's strict mode takes."""
    is_wrapped: bool
    """Whether the answer is ``{"value": …}``, because the response type itself is no JSON object."""
    params: dict[str, Any] = field(repr=False)
    """The call's parameters for the provider."""
    timeout: float
    """Seconds that are left for the call."""
    call_id: str
    """What names the attempt in the ledger."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a function answers."""

    text: str | None = field(repr=False)
    """The model's own answer, JSON; None when there is none."""
    usage: Usage | None = None
    """Tokens; ``told_usage`` reads them from what OpenAI and others tell."""
    model: str | None = None
    """The model that really answered."""
    finish_reason: str | None = None
    """``"length"`` raises ``Truncated``, as ``"max_tokens"``, ``"MAX_TOKENS"`` and ``"max_output_tokens"`` do;
    ``"content_filter"`` raises ``Refused``."""
    is_refused: bool = False
    """Whether the model declined: ``Refused`` is raised."""
    cost_usd: Decimal | None = None
    """What it cost, in US dollars; None where tokens and price tell it, or nobody does."""
    request_id: str | None = None
    """What its maker's support knows it by."""
    raw: Any = field(default=None, repr=False)
    """Anything to be given back with it, as JSON data; kept beside the answer, as a completion is."""

    def __post_init__(self) -> None:
        _require_type("text", self.text, str)
        for name in ("model", "finish_reason", "request_id"):
            _require_type(name, getattr(self, name), str)
        _require_type("is_refused", self.is_refused, bool)
        _require_type("usage", self.usage, Usage)
        for count in () if self.usage is None else asdict(self.usage).values():
            if type(count) is not int or not 0 <= count < _MOST_TOKENS:
                raise UnfitAnswerError("Answer(usage=) must count tokens in whole numbers, zero or more")
        _require_type("cost_usd", self.cost_usd, Decimal)
        if self.cost_usd is not None and not (self.cost_usd.is_finite() and 0 <= self.cost_usd <= _MOST_USD):
            raise UnfitAnswerError(f"Answer(cost_usd=) must be a number of dollars, from zero to {_MOST_USD}")
        try:
            json.dumps(self.raw, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            raise UnfitAnswerError("Answer(raw=) must be JSON data") from None


def _require_type(name: str, value: Any, kind: type[object]) -> None:
    if value is not None and not isinstance(value, kind):
        raise UnfitAnswerError(f"Answer({name}=) must be a {kind.__name__} or None, not {type(value).__name__}")


class CallableProvider:
    """One alias of ``PROVIDERS`` that names a function."""

    def __init__(self, alias: str, settings: ProviderSettings) -> None:
        self.alias = alias
        self.base_url = settings.base_url or ""
        self._call = function_of(alias, "call", settings.call)
        self._acall = function_of(alias, "acall", settings.acall)
        named = settings.identity or name_of(alias, settings)
        # No server's identity ends so.
        self.identity = f"{alias} {named}()"
        self._face = ChatFace("json_schema")

    def make_ready(self, *, for_acall: bool = False) -> None:
        """Do nothing: there is nobody to reach."""

    def require_key(self) -> None:
        """Do nothing: there is nobody to reach."""

    def load(self) -> None:
        """Do nothing: there is no SDK."""

    def require_unkeyed(self, names: Iterable[str]) -> None:
        """Do nothing: a function gets all of them."""

    def body(self, model: str, system: str | None, schema: ResponseSchema, params: Mapping[str, Any]) -> Body:
        """Return what a chat completion would be asked with."""
        return self._face.body(model, system, schema, params)

    def prepare(self, body: Body, content: str | list[dict[str, Any]], unkeyed: Mapping[str, Any]) -> Body:
        """Return what a chat completion would be asked with, content and all."""
        return self._face.prepare(body, content, unkeyed)

    def ask_again(self, body: Body, answer: str, errors: tuple[dict[str, Any], ...]) -> Body:
        """Return the same with the answer and what did not pass."""
        return self._face.ask_again(body, answer, errors)

    def transport(self, call: Call) -> _Asking:
        """Return what makes the attempts of a call."""
        return _Asking(self, call)

    @sensitive_variables()
    def ask(self, request: Request, max_bytes: int) -> Reply | Failure:
        """Ask the function, in this thread."""
        if self._call is None:
            try:
                return waited_for(partial(self.aask, request, max_bytes), request.timeout)
            except TimeoutError as error:
                # It blocks the loop, which cannot cancel it then.
                return failed(self.alias, error, has_begun=True)
        try:
            answer = self._call(request)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # its own, and it may hold the text
            return failed(self.alias, error, has_begun=True)
        return self._reply(answer, max_bytes)

    @sensitive_variables()
    async def aask(self, request: Request, max_bytes: int) -> Reply | Failure:
        """Ask the function, in the background loop."""
        work = None if self._acall is not None else Work(cast("Callable[[Request], Any]", self._call), request)
        try:
            async with asyncio.timeout(request.timeout):
                answer = await (cast("Any", self._acall)(request) if work is None else work.done())
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and is_cancelled():
                raise
            return failed(self.alias, error, has_begun=work is None or work.has_begun)
        return self._reply(answer, max_bytes)

    @sensitive_variables()
    def _reply(self, answer: Any, max_bytes: int) -> Reply | Failure:
        if isinstance(answer, str):
            answer = Answer(answer)
        if not isinstance(answer, Answer):
            if inspect.iscoroutine(answer):
                answer.close()
            error = ProviderError(
                f"The function of the provider {self.alias!r} returned a {type(answer).__name__}. It must return the "
                "answer as a str, or a llmcache.providers.callables.Answer; an async one is named by 'acall'.",
                code="invalid_response",
            )
            return Failure(error, cost_usd=None, in_doubt=True, retry=False)
        try:
            rest = _packed(answer)
        except Exception:  # noqa: BLE001  # whatever it is, it was JSON when the answer was made
            error = ProviderError(
                f"The function of the provider {self.alias!r} returned an Answer whose 'raw' is no JSON any more. Do "
                "not change it once the Answer is made.",
                code="invalid_response",
            )
            return _paid(Failure(error, cost_usd=None, in_doubt=True, retry=False), answer)
        if len(rest) + len((answer.text or "").encode(errors="surrogatepass")) > max_bytes:
            return _paid(too_large(max_bytes), answer)
        return Reply(
            answer=answer.text,
            finish_reason="length" if answer.finish_reason in _CUT else answer.finish_reason,
            refused=answer.is_refused or answer.finish_reason == "content_filter",
            model=answer.model,
            usage=answer.usage,
            request_id=answer.request_id,
            rest=rest,
            cost_usd=answer.cost_usd,
        )

    def rest(
        self,
        body: Body,
        at: float,  # noqa: ARG002  # the arguments are those of a contract
        *,
        reply_id: str = "",
        usage: Usage | Mapping[str, Any] | None = None,
    ) -> bytes:
        """Return what is kept of an answer that no function has given."""
        told = usage if isinstance(usage, Usage) else told_usage(usage)
        return _packed(Answer(None, usage=told, model=body["model"], request_id=reply_id or None))

    def completion(self, rest: bytes, answer: bytes) -> Any:
        """Return the ``Answer``; None for what is none."""
        try:
            facts: dict[str, Any] = json.loads(rest)
            usage, cost = facts["usage"], facts["cost_usd"]
            return Answer(
                answer.decode(),
                usage=None if usage is None else Usage(**usage),
                model=facts["model"],
                finish_reason=facts["finish_reason"],
                cost_usd=None if cost is None else Decimal(cost),
                request_id=facts["request_id"],
                raw=facts["raw"],
            )
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, InvalidOperation):
            # Bytes from a tier may be anybody's.
            return None

    def reset_after_fork(self) -> None:
        """Do nothing: there is no lock."""

    def close(self) -> None:
        """Do nothing: there is no connection."""


class _Asking:
    """What makes the attempts of one call."""

    def __init__(self, provider: CallableProvider, call: Call) -> None:
        self._provider = provider
        self._call = call

    @sensitive_variables()
    def call(self, body: Body, *, call_id: str, timeout: float, max_bytes: int) -> Reply | Failure:
        return self._provider.ask(self._request(body, call_id, timeout), max_bytes)

    @sensitive_variables()
    async def acall(
        self,
        body: Body,
        *,
        call_id: str,
        timeout: float,
        max_bytes: int,
        told: Callable[[str], object] | None = None,  # noqa: ARG002  # it comes whole, and is told when it is kept
    ) -> Reply | Failure:
        return await self._provider.aask(self._request(body, call_id, timeout), max_bytes)

    @sensitive_variables()
    def _request(self, body: Body, call_id: str, timeout: float) -> Request:
        call = self._call
        schema = call.plan.response.schema
        own = {"model", "messages", "response_format"}
        return Request(
            model=body["model"],
            system=call.plan.system,
            content=call.content if isinstance(call.content, str) else None,
            # A copy: what is sent next, and by others, is made of the same lists.
            messages=copy.deepcopy(body["messages"]),
            response_model=call.plan.response.annotation,
            schema=copy.deepcopy(schema.schema),
            schema_name=schema.name,
            is_strict=schema.strict,
            is_wrapped=schema.wrapped,
            params=copy.deepcopy({name: value for name, value in body.items() if name not in own}),
            timeout=timeout,
            call_id=call_id,
        )


def _paid(failure: Failure, answer: Answer) -> Failure:
    """Return the failure of an attempt that has brought an answer, with what is told of its cost."""
    told = None if answer.usage is None else Told(answer.usage, answer.model, None)
    in_doubt = told is None and answer.cost_usd is None
    return replace(failure, cost_usd=answer.cost_usd, in_doubt=in_doubt, told=told)


def _packed(answer: Answer) -> bytes:
    kept: dict[str, Any] = {each: getattr(answer, each) for each in ("model", "finish_reason", "request_id", "raw")}
    kept["usage"] = None if answer.usage is None else asdict(answer.usage)
    kept["cost_usd"] = None if answer.cost_usd is None else str(answer.cost_usd)
    return packed(kept)
