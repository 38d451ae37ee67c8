"""Chat completions over OpenAI's API, and over every server that speaks it.

The body that is hashed is the body that is sent, with ``create`` of the real SDK, so that tracing tools see the call.
``parse`` is never used: its errors lose the usage that was paid for. The SDK's own retries are off: they would make
three paid calls look like one.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from email.utils import parsedate_to_datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

from django.views.decorators.debug import sensitive_variables

from llmcache import keys, workers
from llmcache.exceptions import (
    AuthenticationFailed,
    ConfigurationError,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
)
from llmcache.money.usage import told_usage
from llmcache.providers.base import RESERVED_FIELDS, Body, Failure, Reply
from llmcache.providers.openai_stream import Written, streamed
from llmcache.providers.schema import ResponseSchema, response_format
from llmcache.setting_values import ProviderSettings, address_problem

if TYPE_CHECKING:
    import openai

DEFAULT_BASE_URL: Final = "https://api.openai.com/v1"
_RETRIED: Final = frozenset({408, 409, 429})
_FREE: Final = Decimal(0)
_MAX_TIER: Final = 50


class OpenAIProvider:
    """One alias of ``PROVIDERS``."""

    def __init__(self, alias: str, settings: ProviderSettings) -> None:
        self.alias = alias
        self._given_key = settings.api_key
        # Only the alias 'openai' takes the SDK's variables: another one must not send its texts to where they point.
        self._environment: Mapping[str, str] = os.environ if alias == "openai" else {}
        base_url = settings.base_url or self._environment.get("OPENAI_BASE_URL") or None
        if base_url is None and alias != "openai":
            raise ConfigurationError(
                f"LLMCACHE['PROVIDERS'][{alias!r}] has no 'base_url'. Add it: only 'openai' has one by default."
            )
        wrong = None if base_url is None else address_problem(base_url)
        if wrong is not None:
            raise ConfigurationError(f"The base URL of the provider {alias!r} {wrong}.")
        self.base_url = base_url or DEFAULT_BASE_URL
        self.identity = (
            f"{alias} {settings.identity}" if settings.identity else keys.provider_identity(alias, self.base_url)
        )
        self._lock, self._async_lock = threading.Lock(), threading.Lock()
        self._client: openai.OpenAI | None = None
        self._async_connections: _AsyncConnections | None = None
        self._closed = False
        self._pid = 0

    @property
    def _api_key(self) -> str | None:
        return self._given_key or self._environment.get("OPENAI_API_KEY") or None

    def make_ready(self, *, for_acall: bool = False) -> None:
        """Raise ``ConfigurationError`` when the provider cannot be called; nothing is noted or sent before."""
        self.require_key()
        try:
            if for_acall:
                self._connected_async()
            else:
                self._connected()
        except Exception as error:  # noqa: BLE001  # certificates, proxies: the environment's, whatever they raise
            raise ConfigurationError(
                f"The HTTP client for the provider {self.alias!r} cannot be made ({type(error).__name__}). "
                "Check the variables for proxies and certificates, such as HTTPS_PROXY and SSL_CERT_FILE."
            ) from None

    def require_key(self) -> None:
        """Raise ``ConfigurationError`` when there is no API key to call with, or one that cannot be sent."""
        # No variable holds it: a page of Django's errors shows those of each frame.
        if not _fits_into_a_header(self._api_key or ""):
            raise ConfigurationError(
                f"The API key for the provider {self.alias!r} has characters that cannot be in a header, such as a "
                "line end or a space. Strip it where it is read."
            )
        if self._api_key is None:
            variable = " or the variable OPENAI_API_KEY" if self.alias == "openai" else ""
            raise ConfigurationError(
                f"There is no API key for the provider {self.alias!r}: "
                f"set LLMCACHE['PROVIDERS'][{self.alias!r}]['api_key']{variable}. Cached answers need none."
            )

    def body(self, model: str, system: str | None, schema: ResponseSchema, params: Mapping[str, Any]) -> Body:
        """Return the body without the user's content: no hidden prompt, so that no upgrade moves keys."""
        messages = [] if system is None else [{"role": "system", "content": system}]
        named = {name: params[name] for name in sorted(params)}
        return {"model": model, "messages": messages, "response_format": response_format(schema), **named}

    def prepare(self, body: Body, content: str, unkeyed: Mapping[str, Any]) -> Body:
        """Return the body that is sent."""
        return {**body, "messages": [*body["messages"], {"role": "user", "content": content}], **unkeyed}

    def ask_again(self, body: Body, answer: str, errors: tuple[dict[str, Any], ...]) -> Body:
        """Return a body that shows the model its answer and what did not pass."""
        found = "\n".join(f"- {'.'.join(map(str, item['loc'])) or 'the whole'}: {item['type']}" for item in errors)
        mend = f"This answer does not pass validation:\n{found}\nAnswer again, whole, and mend these."
        # A lone surrogate, which a reply's JSON can express, cannot be sent.
        sendable = answer.encode(errors="replace").decode()
        turns = [{"role": "assistant", "content": sendable}, {"role": "user", "content": mend}]
        return {**body, "messages": [*body["messages"], *turns]}

    @sensitive_variables()
    def call(self, body: Body, *, call_id: str, timeout: float, max_bytes: int) -> Reply | Failure:
        """Make one attempt; see ``Provider.call``."""
        from llmcache.providers.deadline import bounded

        with bounded(timeout, max_bytes) as bounds:
            try:
                # Whatever the caller passed is passed on: the SDK's overloads cannot know it.
                create: Any = self._connected().chat.completions.with_streaming_response.create
                with create(**_arguments(body, call_id, timeout)) as response:
                    data = bytearray()
                    for chunk in response.iter_bytes():
                        data += chunk
                        if len(data) > max_bytes:
                            return _too_large(max_bytes)
                    return _reply(bytes(data), response.headers.get("x-request-id"), response.status_code)
            except Exception as error:  # noqa: BLE001  # what the SDK raises here is its own affair, and holds the text
                return _too_large(max_bytes) if bounds.exceeded else _failed(error)

    @sensitive_variables()
    async def acall(
        self,
        body: Body,
        *,
        call_id: str,
        timeout: float,
        max_bytes: int,
        told: Callable[[str], object] | None = None,
    ) -> Reply | Failure:
        """Make one attempt; see ``Provider.acall``."""
        from llmcache.providers.deadline import bounded

        arguments, written = _arguments(body, call_id, timeout), None
        if told is not None:
            written = Written(told)
            arguments |= streamed(body)
        with bounded(timeout, max_bytes) as bounds:
            try:
                connections = self._found_async() or await workers.files.run(self._connected_async)
                async with connections as create, create(**arguments) as response:
                    if written is not None:
                        async for chunk in await response.parse():
                            written.add(chunk)
                        return _streamed(written, response.headers.get("x-request-id"), response.status_code)
                    data = bytearray()
                    async for chunk in response.iter_bytes():
                        data += chunk
                        if len(data) > max_bytes:
                            return _too_large(max_bytes)
                    return _reply(bytes(data), response.headers.get("x-request-id"), response.status_code)
            except Exception as error:  # noqa: BLE001  # as in call
                failure = _too_large(max_bytes) if bounds.exceeded else _failed(error)
                # What was told cannot be taken back.
                return replace(failure, retry=failure.retry and not (written and written.answer))

    def load(self) -> None:
        """Import what ``completion`` needs."""
        import openai.types.chat  # noqa: F401  # pyright: ignore[reportUnusedImport]

    @sensitive_variables()
    def rest(self, model: str, at: float) -> bytes:
        """Return a completion with one choice and without usage."""
        message = {"role": "assistant", "content": None}
        choice = {"index": 0, "finish_reason": "stop", "logprobs": None, "message": message}
        facts = {"id": "", "object": "chat.completion", "created": int(at), "model": model.partition("/")[2]}
        return json.dumps({**facts, "choices": [choice]}, separators=(",", ":")).encode()

    def completion(self, rest: bytes, answer: bytes) -> Any:
        """Return the SDK's ``ChatCompletion``, as ``create`` would have returned it; None for what is none."""
        from openai.types.chat import ChatCompletion

        try:
            facts: dict[str, Any] = json.loads(rest)
            facts.pop("_fields_set", None)  # a parameter of the SDK's own maker
            facts["choices"][0]["message"]["content"] = answer.decode()
            return ChatCompletion.construct(None, **facts)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            # Bytes from a tier may be anybody's.
            return None

    def _connected(self) -> openai.OpenAI:
        import openai

        from llmcache.providers.deadline import BoundedClient

        with self._lock:
            key = self._api_key
            # A forked child must not talk on its parent's sockets.
            if self._client is None or self._pid != os.getpid() or self._client.api_key != key:
                self._client = openai.OpenAI(
                    api_key=key,
                    base_url=self.base_url,
                    max_retries=0,
                    http_client=BoundedClient(),
                )
                self._pid = os.getpid()
            return self._client

    def _found_async(self) -> _AsyncConnections | None:
        found = self._async_connections
        return found if found is not None and found.serves(self._api_key) else None

    def _connected_async(self) -> _AsyncConnections:
        with self._async_lock:
            found = self._found_async()
            if found is None:
                if self._async_connections is not None:
                    self._async_connections.retire()
                # A call that is still under way when its runtime is closed has connections of its own, then.
                found = _AsyncConnections(self._api_key, self.base_url, retired=self._closed)
                self._async_connections = None if self._closed else found
            return found

    def reset_after_fork(self) -> None:
        """Take a new lock: the old one may have been held by a thread that the child does not have."""
        self._lock, self._async_lock = threading.Lock(), threading.Lock()

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            if self._client is not None and self._pid == os.getpid():
                self._client.close()
            self._client = None
        with self._async_lock:
            self._closed = True
            if self._async_connections is not None:
                self._async_connections.retire()
            self._async_connections = None


class _AsyncConnections:
    """A client of the background loop, closed when it is retired and no call is on its way through it."""

    def __init__(self, key: str | None, base_url: str, *, retired: bool = False) -> None:
        import openai

        from llmcache.providers.deadline_async import BoundedAsyncClient

        self._client = openai.AsyncOpenAI(
            api_key=key, base_url=base_url, max_retries=0, http_client=BoundedAsyncClient()
        )
        self._pid = os.getpid()
        # What the SDK would look for and import at its first request.
        self._create: Any = self._client.chat.completions.with_streaming_response.create
        cast("Any", self._client)._platform = self._client.platform_headers()["X-Stainless-OS"]
        _sdk_parameters()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls = 0
        self._retired = retired

    async def __aenter__(self) -> Any:
        self._loop = asyncio.get_running_loop()
        self._calls += 1
        return self._create

    async def __aexit__(self, *_: object) -> None:
        self._calls -= 1
        await self._close_if_over()

    def serves(self, key: str | None) -> bool:
        """Return whether it is this process's, with this key; a forked child must not talk on its parent's sockets."""
        return self._pid == os.getpid() and self._client.api_key == key

    def retire(self) -> None:
        """Let it be closed; from any thread."""
        self._retired = True
        if self._loop is not None and self._pid == os.getpid():
            asyncio.run_coroutine_threadsafe(self._close_if_over(), self._loop)

    async def _close_if_over(self) -> None:
        if self._retired and not self._calls:
            with contextlib.suppress(Exception):
                await self._client.close()


@cache
def _fits_into_a_header(key: str) -> bool:
    return key.isascii() and key.isprintable() and " " not in key


def _sdk_parameters() -> frozenset[str]:
    from openai.resources.chat.completions import Completions

    return frozenset(inspect.signature(Completions.create).parameters) - {"self", "timeout"} - RESERVED_FIELDS | {
        "messages",
        "response_format",
    }


@sensitive_variables()
def _arguments(body: Body, call_id: str, timeout: float) -> dict[str, Any]:
    """Return what the SDK's ``create`` is called with."""
    known = _sdk_parameters()
    return {
        **{name: value for name, value in body.items() if name in known},
        "extra_body": {name: value for name, value in body.items() if name not in known} or None,
        "extra_headers": {"X-Client-Request-Id": call_id, "Accept-Encoding": "identity"},
        "timeout": timeout,
    }


def _failed(error: Exception) -> Failure:
    """Say what became of an attempt that raised."""
    import openai

    return _refused_by_status(error) if isinstance(error, openai.APIStatusError) else _lost(error)


@sensitive_variables()
def _streamed(written: Written, request_id: str | None, status: int) -> Reply | Failure:
    """Return what a whole stream has come to."""
    if written.is_whole:
        return _reply(written.completion(), request_id, status)
    error = ProviderError(
        "The provider ended its stream before its answer was whole. Try again; when it stays so, look at what answers "
        "at 'base_url'.",
        code="invalid_response",
        status=status,
        request_id=request_id,
    )
    return Failure(error, cost_usd=None, in_doubt=True, retry=False)


@sensitive_variables()
def _reply(data: bytes, request_id: str | None, status: int) -> Reply | Failure:
    """Take a completion apart: the answer on one side, all the rest on the other."""
    try:
        facts: Any = json.loads(data)
        message: dict[str, Any] = facts["choices"][0]["message"]
        answer: Any = message.get("content")
        finish: Any = facts["choices"][0].get("finish_reason")
        message["content"] = None
        rest = json.dumps(facts, separators=(",", ":")).encode()
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return _unreadable(data, request_id, status)
    return Reply(
        answer=answer if isinstance(answer, str) else None,
        finish_reason=finish if isinstance(finish, str) else None,
        refused=bool(message.get("refusal")) or finish == "content_filter",
        model=facts["model"] if isinstance(facts.get("model"), str) else None,
        usage=told_usage(facts.get("usage")),
        request_id=request_id,
        rest=rest,
        service_tier=_service_tier(facts),
    )


def _service_tier(facts: dict[str, Any]) -> str | None:
    """Return how a request was served: OpenAI tells it beside the usage, others in it."""
    usage: Any = facts.get("usage")
    in_usage: Any = cast("dict[str, Any]", usage).get("service_tier") if isinstance(usage, dict) else None
    for told in (facts.get("service_tier"), in_usage):
        if isinstance(told, str) and 0 < len(told) <= _MAX_TIER:
            return told
    return None


@sensitive_variables()
def _unreadable(data: bytes, request_id: str | None, status: int) -> Failure:
    """Say that a reply with a good status is no completion; it may have been charged."""
    try:
        facts: Any = json.loads(data)
        told = "an error object" if isinstance(facts, dict) and "error" in facts else "no completion with a choice"
    except (ValueError, RecursionError):
        told = "no JSON" if data else "an empty body"
    error = ProviderError(
        f"The provider answered {status} with {told}. Try again; when it stays so, look at what answers at 'base_url'.",
        code="invalid_response",
        status=status,
        request_id=request_id,
    )
    return Failure(error, cost_usd=None, in_doubt=False, retry=False)


def _too_large(max_bytes: int) -> Failure:
    error = ProviderError(
        f"The provider's reply is longer than LLMCACHE['MAX_VALUE_BYTES'] ({max_bytes} bytes); not all was read.",
        code="reply_too_large",
    )
    return Failure(error, cost_usd=None, in_doubt=True, retry=False)


def _refused_by_status(error: openai.APIStatusError) -> Failure:
    status = error.status_code
    told: dict[str, Any] = {
        "provider_error": type(error).__name__,
        "status": status,
        "request_id": error.request_id,
    }
    retry_after = _retry_after(error.response.headers)
    if status in (401, 403):
        made: ProviderError = AuthenticationFailed(
            f"The provider refused the API key ({status}). Check the provider's 'api_key' in LLMCACHE['PROVIDERS'].",
            **told,
        )
    elif status == 429:
        wait = "" if retry_after is None else f" It asks to wait {retry_after:g} s."
        made = RateLimited(f"The provider limits the rate of calls (429).{wait}", retry_after=retry_after, **told)
    elif status in _RETRIED or status >= 500:
        made = ProviderUnavailable(f"The provider answered {status}. Try again later.", **told)
    else:
        made = ProviderError(
            f"The provider did not accept the request ({status}). Check the model's name and the parameters.", **told
        )
    return Failure(
        made, cost_usd=_FREE, in_doubt=False, retry=status in _RETRIED or status >= 500, retry_after=retry_after
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that the provider asks to wait, from ``Retry-After-Ms`` or either form of ``Retry-After``."""
    milliseconds, told = headers.get("retry-after-ms"), headers.get("retry-after")
    try:
        wait = float(milliseconds) / 1_000 if milliseconds else float(told or "nan")
    except ValueError:
        try:
            wait = parsedate_to_datetime(told or "").timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(wait, 0.0) if wait == wait and wait < float("inf") else None


def _lost(error: Exception) -> Failure:
    """Say what became of an attempt whose connection gave no whole reply, and whether it may have been charged."""
    import httpx2
    import openai

    cause = error.__cause__ if isinstance(error, openai.APIConnectionError) and error.__cause__ is not None else error
    never_sent = isinstance(
        cause,
        (
            *(httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError),
            *(httpx2.LocalProtocolError, httpx2.UnsupportedProtocol, httpx2.InvalidURL, UnicodeError),
        ),
    )
    cost = _FREE if never_sent else None
    name = type(cause).__name__
    if isinstance(cause, httpx2.TimeoutException):
        made: ProviderError = ProviderTimeout(
            "The call's deadline passed before the provider had answered. Raise timeout= or LLMCACHE['TIMEOUT'].",
            provider_error=name,
        )
        return Failure(made, cost_usd=cost, in_doubt=not never_sent, retry=False)
    if never_sent:
        told = "could not be reached"
    elif isinstance(cause, httpx2.HTTPError):
        told = "closed the connection before its answer was whole"
    else:
        told = "could not be asked, or its answer not be read"
    made = ProviderUnavailable(f"The provider {told} ({name}). Check 'base_url' and the network.", provider_error=name)
    # What the network did may pass; what our own side would not send, or could not read, will not.
    passing = isinstance(cause, httpx2.TransportError) and not isinstance(
        cause, (httpx2.LocalProtocolError, httpx2.UnsupportedProtocol)
    )
    return Failure(made, cost_usd=cost, in_doubt=not never_sent, retry=passing)
