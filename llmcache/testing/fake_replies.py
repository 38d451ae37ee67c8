"""What a fake provider gives back: completions made of values, failures made of errors."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from llmcache.exceptions import (
    AuthenticationFailed,
    LLMCacheError,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    Refused,
    Truncated,
    ValidationFailed,
)
from llmcache.money.usage import Usage, told_usage
from llmcache.plans import Plan
from llmcache.providers.base import Body, Failure, Provider, Reply

PLAUSIBLE: Final[Mapping[str, Any]] = {}
"""As a usage: tokens in proportion to what is sent and answered."""

_PROVIDERS: Final = (ProviderError, Refused, Truncated, ValidationFailed)
_STATUS: Final = {AuthenticationFailed: 401, RateLimited: 429}
_CHARACTERS_OF_TOKEN: Final = 4
_PLAIN: Final = (str, int, float, bool, type(None))


class MisfitError(ValueError):
    """A value that cannot be made the answer to what was asked."""


def error_to_give(value: Any) -> Any:
    """Return a value as it is, an error class as an error; TypeError for an error that no provider causes."""
    if isinstance(value, type) and issubclass(value, LLMCacheError):
        value = value(f"{value.__name__}, as the fake provider was told.")
    if isinstance(value, BaseException) and not isinstance(value, _PROVIDERS):
        raise TypeError(
            f"{type(value).__name__} is not caused by a provider. Teach a ProviderError (RateLimited, "
            "ProviderUnavailable, ProviderTimeout, AuthenticationFailed), Refused, Truncated or ValidationFailed."
        )
    return value


def answer_text(value: Any, plan: Plan) -> str:
    """Return a value as the text that a model would have answered. Raises ``MisfitError``.

    Bytes are the text as it stands, and so is a str where the type is an object to the provider. JSON data are written
    as they are, whether they fit or not. Any other value has to come back equal from what is written of it.
    """
    wrapped = plan.response.schema.wrapped
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, str) and not wrapped:
        return value
    if _is_json(value):
        return json.dumps({"value": value} if wrapped else value, ensure_ascii=False)
    adapter: TypeAdapter[Any] = TypeAdapter(plan.response.annotation)
    for by_alias in (True, False):
        try:
            text = adapter.dump_json(value, by_alias=by_alias, round_trip=True, warnings="none").decode()
        except PydanticSerializationError:
            continue
        text = f'{{"value":{text}}}' if wrapped else text
        if _comes_back(value, text, plan):
            return text
    raise MisfitError(f"a {type(value).__name__} does not come back equal from its own JSON as {plan.response.name}")


def _is_json(value: Any) -> bool:
    if type(value) is dict:
        return all(type(name) is str and _is_json(part) for name, part in value.items())
    return all(map(_is_json, value)) if type(value) is list else type(value) in _PLAIN


def _comes_back(value: Any, text: str, plan: Plan) -> bool:
    try:
        loaded = plan.validate(text.encode())
    except ValidationError:
        return False
    except Exception:  # noqa: BLE001  # a validator of the user's own: it will say so when the answer arrives
        return True
    return loaded == value or type(value).__eq__ is object.__eq__


def reply_of(
    value: Any,
    text: str | None,
    usage: Usage | Mapping[str, Any] | None,
    provider: Provider,
    body: Body,
    number: int,
) -> Reply:
    """Return a reply with this text, or one that is refused or cut where the value is such an error."""
    if usage is PLAUSIBLE:
        usage = Usage(_tokens(json.dumps(body)), 0, _tokens(text or ""))
    return Reply(
        answer=text,
        finish_reason="length" if isinstance(value, Truncated) else "stop",
        refused=isinstance(value, Refused),
        model=body["model"],
        usage=usage if isinstance(usage, Usage) else told_usage(usage),
        request_id=f"req_fake_{number}",
        rest=provider.rest(body, int(time.time()), reply_id=f"chatcmpl-fake-{number}", usage=usage),
    )


def _tokens(text: str) -> int:
    return 1 + len(text) // _CHARACTERS_OF_TOKEN


def failure_of(error: ProviderError) -> Failure:
    """Return the attempt that ends in this error, with what is known of its cost.

    An error status, or no connection, costs nothing. A timeout is in doubt, and so is an error that is given
    ``cost_usd=None``.
    """
    made = error.again()
    if made.status is None:
        made.status = next((status for kind, status in _STATUS.items() if isinstance(made, kind)), None)
    in_doubt = isinstance(made, ProviderTimeout) or made.cost_usd is None
    status = made.status or 0
    return Failure(
        made,
        cost_usd=None if in_doubt else Decimal(0),
        in_doubt=in_doubt,
        retry=status in (408, 409, 429) or status >= 500 or (isinstance(made, ProviderUnavailable) and not status),
        retry_after=made.retry_after if isinstance(made, RateLimited) else None,
    )
