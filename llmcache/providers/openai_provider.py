"""A provider that speaks OpenAI's API: where it is, what opens it, and how one attempt is made and bounded.

The body that is hashed is the body that is sent, with ``create`` of the real SDK, so that tracing tools see the call.
``parse`` is never used: its errors lose the usage that was paid for. What is said in the body and read from the reply
is the face's affair.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from django.views.decorators.debug import sensitive_variables

from llmcache import keys
from llmcache.exceptions import ConfigurationError
from llmcache.money.usage import Usage
from llmcache.providers.base import Body, BrokenOff, Failure, Reply
from llmcache.providers.connections import Connections
from llmcache.providers.faces import Face, Written, face_of
from llmcache.providers.failures import ended_early, failed, too_large
from llmcache.providers.schema import ResponseSchema
from llmcache.setting_values import ProviderSettings, address_problem

if TYPE_CHECKING:
    from llmcache.engine.call import Call

DEFAULT_BASE_URL: Final = "https://api.openai.com/v1"


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
        self._face: Face = face_of(settings.api, settings.output)
        where = f"{alias} {settings.identity}" if settings.identity else keys.provider_identity(alias, self.base_url)
        # The bodies differ too; named here, a hash of it tells apart what was asked in different ways.
        self.identity = f"{where} {self._face.name}" if self._face.name else where
        self._connections = Connections(self.base_url, lambda: self._api_key, self._face)

    @property
    def _api_key(self) -> str | None:
        return self._given_key or self._environment.get("OPENAI_API_KEY") or None

    def make_ready(self, *, for_acall: bool = False) -> None:
        """Raise ``ConfigurationError`` when the provider cannot be called; nothing is noted or sent before."""
        self.require_key()
        try:
            if for_acall:
                self._connections.make_async_client()
            else:
                self._connections.client()
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

    def require_unkeyed(self, names: Iterable[str]) -> None:
        """Raise ``InvalidRequest`` for the name of a parameter that cannot be sent beside the key."""
        self._face.require_unkeyed(names)

    def body(self, model: str, system: str | None, schema: ResponseSchema, params: Mapping[str, Any]) -> Body:
        """Return the body without the user's content, in the order in which it is hashed."""
        return self._face.body(model, system, schema, params)

    def prepare(self, body: Body, content: str | list[dict[str, Any]], unkeyed: Mapping[str, Any]) -> Body:
        """Return the body that is sent."""
        return self._face.prepare(body, content, unkeyed)

    def ask_again(self, body: Body, answer: str, errors: tuple[dict[str, Any], ...]) -> Body:
        """Return a body that shows the model its answer and what did not pass."""
        return self._face.ask_again(body, answer, errors)

    def transport(self, call: Call) -> OpenAIProvider:  # noqa: ARG002  # the arguments are those of a contract
        """Return what makes an attempt."""
        return self

    @sensitive_variables()
    def call(self, body: Body, *, call_id: str, timeout: float, max_bytes: int) -> Reply | Failure:
        """Make one attempt; see ``Transport.call``."""
        from llmcache.providers.deadline import bounded

        with bounded(timeout, max_bytes) as bounds:
            try:
                # Whatever the caller passed is passed on: the SDK's overloads cannot know it.
                create: Any = self._face.create(self._connections.client())
                with create(**self._arguments(body, call_id, timeout)) as response:
                    data = bytearray()
                    for chunk in response.iter_bytes():
                        data += chunk
                        if len(data) > max_bytes:
                            return too_large(max_bytes)
                    return self._read(bytes(data), body, response)
            except Exception as error:  # noqa: BLE001  # what the SDK raises here is its own affair, and holds the text
                return too_large(max_bytes) if bounds.exceeded else failed(error)

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
        """Make one attempt; see ``Transport.acall``."""
        from llmcache.providers.deadline import bounded

        arguments, written = self._arguments(body, call_id, timeout), None
        if told is not None:
            written = self._face.written(body, told)
            arguments |= self._face.streamed(body)
        with bounded(timeout, max_bytes) as bounds:
            try:
                client = await self._connections.async_client()
                async with client as create, create(**arguments) as response:
                    if written is not None:
                        return await self._streamed(written, body, response)
                    data = bytearray()
                    async for chunk in response.iter_bytes():
                        data += chunk
                        if len(data) > max_bytes:
                            return too_large(max_bytes)
                    return self._read(bytes(data), body, response)
            except asyncio.CancelledError:
                spent = None if written is None else written.told()
                if spent is None:
                    raise
                raise BrokenOff(spent) from None
            except Exception as error:  # noqa: BLE001  # as in call
                failure = too_large(max_bytes) if bounds.exceeded else failed(error)
                return _final(failure, written)

    @sensitive_variables()
    def _arguments(self, body: Body, call_id: str, timeout: float) -> dict[str, Any]:
        """Return what the SDK's ``create`` is called with."""
        known = self._face.known()
        return {
            **{name: value for name, value in body.items() if name in known},
            "extra_body": {name: value for name, value in body.items() if name not in known} or None,
            "extra_headers": {"X-Client-Request-Id": call_id, "Accept-Encoding": "identity"},
            "timeout": timeout,
        }

    @sensitive_variables()
    def _read(self, data: bytes, body: Body, response: Any) -> Reply | Failure:
        return self._face.reply(data, body, response.headers.get("x-request-id"), response.status_code)

    @sensitive_variables()
    async def _streamed(self, written: Written, body: Body, response: Any) -> Reply | Failure:
        """Return what a stream has come to."""
        async for event in await response.parse():
            written.add(event)
        data = written.whole()
        if data is None:
            return _final(ended_early(response.headers.get("x-request-id"), response.status_code), written)
        found = self._read(data, body, response)
        return _final(found, written) if isinstance(found, Failure) else found

    def load(self) -> None:
        """Import what ``completion`` needs."""
        self._face.load()

    def rest(
        self, body: Body, at: float, *, reply_id: str = "", usage: Usage | Mapping[str, Any] | None = None
    ) -> bytes:
        """Return the rest of a reply that has answered."""
        return self._face.rest(body, at, reply_id=reply_id, usage=usage)

    def completion(self, rest: bytes, answer: bytes) -> Any:
        """Return the SDK's own object, as ``create`` would have returned it; None for what is none."""
        return self._face.completion(rest, answer)

    def reset_after_fork(self) -> None:
        """Take new locks: the old ones may have been held by a thread that the child does not have."""
        self._connections.reset_after_fork()

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()


def _final(failure: Failure, written: Written | None) -> Failure:
    """Return a failure with what its stream had told of its cost.

    It is not retried where some of the answer was told: that cannot be taken back.
    """
    if written is None:
        return failure
    told = written.told()
    return replace(
        failure,
        retry=failure.retry and not written.has_told,
        in_doubt=failure.in_doubt and told is None,
        told=told,
    )


@cache
def _fits_into_a_header(key: str) -> bool:
    return key.isascii() and key.isprintable() and " " not in key
