"""An Instructor client as a provider of llmcache: the client asks, and llmcache caches, validates, retries and counts.

    ask = asking(lambda: instructor.from_provider("anthropic/claude-sonnet-4-5"))      # shop/llm.py

    PROVIDERS = {"anthropic": {"call": "shop.llm.ask"}}
    llmcache.extract(text, Ticket, model="anthropic/claude-sonnet-4-5", max_tokens=1_000)

Instructor gets the schema that llmcache has made, as a model that takes any object: what comes back is validated by
llmcache, on a miss as on a hit, and what does not pass is asked again by llmcache, an attempt by itself in the ledger.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from django.views.decorators.debug import sensitive_variables
from instructor import AsyncInstructor, Instructor  # pyright: ignore  # finds this package in its place
from instructor.core.hooks import Hooks  # pyright: ignore
from pydantic import BaseModel, ConfigDict

from llmcache.contrib.instructor.completions import answer_text, finish_of, is_refused, model_of, usage_of
from llmcache.exceptions import (
    AuthenticationFailed,
    ConfigurationError,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
)
from llmcache.providers.callables import Answer, Request
from llmcache.providers.failures import is_passing

_MOST_SHAPES: Final = 256
_LONGEST_CHAIN: Final = 20


def asking(client: Any, *, pass_timeout: bool = True) -> Callable[[Request], Answer]:
    """Return a function for ``PROVIDERS``, to be named by its dotted path as ``"call"``, that asks by Instructor.

    ``client``: an Instructor client that is not async, or a function that makes one, called in each process at its
    first call. It is llmcache's from then on: retries of its SDK are switched off, because each would be an attempt
    that nobody counts. ``pass_timeout=False`` for an SDK that takes no ``timeout=``.
    """
    clients = _Clients(client, is_async=False)

    @sensitive_variables()
    def ask(request: Request) -> Answer:
        said = _Said()
        try:
            value, completion = clients.get().create_with_completion(**_arguments(request, said, pass_timeout))
        except Exception as error:  # noqa: BLE001  # of whatever SDK, and it may hold the text
            return said.answer_of(error)
        return _answer(completion, value)

    return ask


def aasking(client: Any, *, pass_timeout: bool = True) -> Callable[[Request], Awaitable[Answer]]:
    """Do as ``asking``, for an asynchronous client and ``"acall"``."""
    clients = _Clients(client, is_async=True)

    @sensitive_variables()
    async def ask(request: Request) -> Answer:
        said = _Said()
        try:
            value, completion = await clients.get().create_with_completion(**_arguments(request, said, pass_timeout))
        except Exception as error:  # noqa: BLE001  # as above
            return said.answer_of(error)
        return _answer(completion, value)

    return ask


class _Clients:
    """The client of each process."""

    def __init__(self, given: Any, *, is_async: bool) -> None:
        self._given = given
        self._is_async = is_async
        self._made: tuple[int, Any] | None = None
        if isinstance(given, Instructor):
            self._made = os.getpid(), self._ours(given)
        elif not callable(given):
            raise ConfigurationError(f"An Instructor client is needed, or a function that makes one; got {given!r}.")

    def get(self) -> Any:
        """Return the client of this process."""
        made, here = self._made, os.getpid()
        if made is not None and (made[0] == here or isinstance(self._given, Instructor)):
            return made[1]
        # A forked child's own: a connection has one owner. Of two that are made at once, the later stays.
        made = self._made = here, self._ours(self._given())
        return made[1]

    def _ours(self, client: Any) -> Any:
        if not isinstance(client, Instructor) or isinstance(client, AsyncInstructor) != self._is_async:
            kind, name = ("asynchronous ", "aasking") if self._is_async else ("", "asking")
            raise ConfigurationError(
                f"{name}() needs an {kind}Instructor client, as instructor.from_provider() returns it"
                f"{', with async_client=True' if self._is_async else ''}; got a {type(client).__name__}."
            )
        sdk: Any = getattr(client, "client", None)
        if isinstance(getattr(sdk, "max_retries", None), int):
            sdk.max_retries = 0
        return client


class _Said:
    """What the provider has answered, also where Instructor makes an error of it."""

    def __init__(self) -> None:
        self.hooks: Any = Hooks()
        self.hooks.on("completion:response", self._note)
        self._completion: Any = None

    def _note(self, completion: Any) -> None:
        self._completion = completion

    @sensitive_variables()
    def answer_of(self, error: Exception) -> Answer:
        """Return what was answered: cut off, declined, or no JSON, it was paid for. Raises where nothing was."""
        if self._completion is None:
            raise _as_ours(error) from None
        return _answer(self._completion, None)


@sensitive_variables()
def _arguments(request: Request, said: _Said, pass_timeout: bool) -> dict[str, Any]:
    return {
        **request.params,
        **({"timeout": request.timeout} if pass_timeout else {}),
        "model": request.model,
        "messages": request.messages,
        "response_model": _shape(request.schema_name, json.dumps(request.schema)),
        "max_retries": 0,
        "hooks": said.hooks,
        # Its own would answer in place of the provider.
        "cache": None,
    }


@lru_cache(_MOST_SHAPES)
def _shape(name: str, schema: str) -> type[BaseModel]:
    """Return a model that has this schema and takes any object; kept, because Instructor keeps what it makes of it."""
    described = {"title": name, **json.loads(schema)}

    class Shape(BaseModel):
        model_config = ConfigDict(extra="allow")

        @classmethod
        def model_json_schema(cls, *_: Any, **__: Any) -> dict[str, Any]:
            return copy.deepcopy(described)

    Shape.__name__ = Shape.__qualname__ = name
    Shape.__doc__ = None
    return Shape


@sensitive_variables()
def _answer(completion: Any, value: Any) -> Answer:
    facts = _facts(completion)
    text = answer_text(facts)
    if text is None and isinstance(value, BaseModel):
        # Of a completion in another form, the data that Instructor has found in it.
        text = json.dumps(value.model_extra, ensure_ascii=False)
    return Answer(
        text,
        usage=usage_of(facts),
        model=model_of(facts),
        finish_reason=finish_of(facts),
        is_refused=is_refused(facts),
        request_id=next((each for each in (facts.get("id"),) if isinstance(each, str)), None),
        raw=facts or None,
    )


@sensitive_variables()
def _facts(completion: Any) -> dict[str, Any]:
    """Return a completion as JSON data; empty where it is none."""
    try:
        told = completion if isinstance(completion, Mapping) else completion.model_dump(mode="json", warnings=False)
        return json.loads(json.dumps(dict(told), allow_nan=False))
    except Exception:  # noqa: BLE001  # of whatever SDK; it is paid for
        return {}


@sensitive_variables()
def _as_ours(error: Exception) -> Exception:
    """Return an error of ours for what an SDK has raised, as far as its status or its class's name tell what it is."""
    for cause in _chain(error):
        status, name = getattr(cause, "status_code", None), type(cause).__name__
        if isinstance(status, int):
            return _by_status(status, cause)
        if "Timeout" in name:
            return ProviderTimeout("The call's deadline passed before the provider had answered.")
        if "Connect" in name:
            return ProviderUnavailable(f"The provider could not be reached ({name}).")
    return error


def _by_status(status: int, error: BaseException) -> ProviderError:
    told: dict[str, Any] = {"status": status}
    if status in (401, 403):
        return AuthenticationFailed(f"The provider refused the API key ({status}).", **told)
    if status == 429:
        headers: Any = getattr(getattr(error, "response", None), "headers", None) or {}
        try:
            wait = max(float(headers.get("retry-after")), 0.0)
        except (TypeError, ValueError):
            wait = None
        return RateLimited("The provider limits the rate of calls (429).", retry_after=wait, **told)
    made = ProviderUnavailable if is_passing(status) else ProviderError
    return made(f"The provider answered {status}.", **told)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(_LONGEST_CHAIN):
        if error is None:
            return
        yield error
        error = error.__cause__
