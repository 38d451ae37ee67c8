"""What became of an attempt that brought no answer: which error, whether it cost money, whether another one may help.

No error here holds a text: neither the SDK's, which has the request in it, nor a server's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from django.views.decorators.debug import sensitive_variables

from llmcache.exceptions import AuthenticationFailed, ProviderError, ProviderTimeout, ProviderUnavailable, RateLimited
from llmcache.providers.base import Failure

if TYPE_CHECKING:
    import openai

FREE: Final = Decimal(0)
_RETRIED: Final = frozenset({408, 409, 429})


def is_passing(status: int) -> bool:
    """Return whether what an HTTP status says may be over in a moment."""
    return status in _RETRIED or status >= 500


def failed(error: Exception) -> Failure:
    """Say what became of an attempt that raised."""
    import openai

    return _refused_by_status(error) if isinstance(error, openai.APIStatusError) else _lost(error)


@sensitive_variables()
def unreadable(data: bytes, request_id: str | None, status: int, wanted: str) -> Failure:
    """Say that a reply with a good status is not what was ``wanted``; it may have been charged."""
    try:
        facts: Any = json.loads(data)
        told = "an error object" if isinstance(facts, dict) and "error" in facts else f"no {wanted}"
    except (ValueError, RecursionError):
        told = "no JSON" if data else "an empty body"
    error = ProviderError(
        f"The provider answered {status} with {told}. Try again; when it stays so, look at what answers at 'base_url'.",
        code="invalid_response",
        status=status,
        request_id=request_id,
    )
    return Failure(error, cost_usd=None, in_doubt=False, retry=False)


def ended_early(request_id: str | None, status: int) -> Failure:
    """Say that a stream ended before its answer was whole."""
    error = ProviderError(
        "The provider ended its stream before its answer was whole. Try again; when it stays so, look at what answers "
        "at 'base_url'.",
        code="invalid_response",
        status=status,
        request_id=request_id,
    )
    return Failure(error, cost_usd=None, in_doubt=True, retry=False)


def too_large(max_bytes: int) -> Failure:
    """Say that a reply is longer than may be read."""
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
    elif is_passing(status):
        made = ProviderUnavailable(f"The provider answered {status}. Try again later.", **told)
    else:
        made = ProviderError(
            f"The provider did not accept the request ({status}). Check the model's name and the parameters.", **told
        )
    return Failure(made, cost_usd=FREE, in_doubt=False, retry=is_passing(status), retry_after=retry_after)


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
    cost = FREE if never_sent else None
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
