"""The errors of llmcache: one tree, each with a stable code and none with a user's text.

    LLMCacheError
    ├── ConfigurationError          also ImproperlyConfigured
    ├── InvalidRequest
    │   ├── InputTooLarge           also ValueError
    │   ├── InvalidText             also ValueError
    │   ├── TenantMissing
    │   └── UnsupportedType         also TypeError
    ├── ProviderError
    │   ├── ProviderUnavailable
    │   ├── RateLimited             retry_after
    │   ├── ProviderTimeout
    │   └── AuthenticationFailed
    ├── ExtractionFailed
    │   ├── Refused
    │   ├── Truncated
    │   └── ValidationFailed        errors
    ├── BudgetExceeded
    ├── LedgerFull
    ├── NotCached
    ├── NotRewritten                reason
    ├── FlightTimeout
    ├── RecursiveExtract
    ├── AsyncContext                also SynchronousOnlyOperation
    └── ProviderCallsForbidden

All of them survive pickling, so a Celery task can raise them. They are raised ``from None``: the
errors of SDK and validator hold the text that was sent.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, ClassVar, Self, TypeVar

from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation

_Error = TypeVar("_Error", bound="LLMCacheError")


class LLMCacheError(Exception):
    """Base of every error that llmcache raises on purpose."""

    code: str = "error"
    """Stable word for programs: it does not change with the message."""
    kind: str | None = None
    """Kind of the call, once it was known."""
    model: str | None = None
    """Model that was asked, as ``provider/model``."""
    key: str | None = None
    """Key of the request in hex, once it was known."""
    attempts: int = 0
    """How many attempts left for the provider during this call."""
    cost_usd: Decimal | None = Decimal(0)
    """What those attempts cost in US dollars; None when that is not known."""

    details: ClassVar[tuple[str, ...]] = ("code", "kind", "model", "key", "attempts", "cost_usd")

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.add(**details)

    def add(self, **details: Any) -> Self:
        """Set named details and return the error, so that a call's facts can be filled in as they are learnt."""
        for name, value in details.items():
            if name not in self.details:
                raise TypeError(f"{type(self).__name__} has no detail {name!r}")
            setattr(self, name, value)
        return self

    def again(self) -> Self:
        """Return an equal error that has not been raised: re-raising one instance grows its traceback each time."""
        return _rebuild(type(self), self.message, {name: getattr(self, name) for name in self.details})

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, {name: getattr(self, name) for name in self.details})


def _rebuild(error_type: type[_Error], message: str, details: dict[str, Any]) -> _Error:
    return error_type(message, **details)


class ConfigurationError(LLMCacheError, ImproperlyConfigured):
    """A setting is missing or wrong, or Django is not set up."""

    code = "configuration"


class InvalidRequest(LLMCacheError):
    """An argument of the call cannot be used; nothing was sent."""

    code = "invalid_request"


class InputTooLarge(InvalidRequest, ValueError):
    """The content is longer than ``MAX_TEXT_BYTES``, or its images and files than ``MAX_FILE_BYTES``."""

    code = "input_too_large"


class InvalidText(InvalidRequest, ValueError):
    """The text is empty or cannot be encoded as UTF-8."""

    code = "invalid_text"


class TenantMissing(InvalidRequest):
    """A tenant is required and the call has none, or ``TENANT`` did not tell it; nothing was looked up or sent."""

    code = "tenant_missing"


class UnsupportedType(InvalidRequest, TypeError):
    """The content or the response type is of a type that cannot be used here."""

    code = "unsupported_type"


class ProviderError(LLMCacheError):
    """The provider did not give an answer that can be read."""

    code = "provider_error"
    provider_error: str | None = None
    """Name of the SDK's exception class."""
    status: int | None = None
    """HTTP status, where one was received."""
    request_id: str | None = None
    """The provider's own id of the request, for its support."""

    details = (*LLMCacheError.details, "provider_error", "status", "request_id")


class ProviderUnavailable(ProviderError):
    """The provider could not be reached or answered with a server error."""

    code = "provider_unavailable"


class RateLimited(ProviderError):
    """The provider answered 429 and no retry was left or in time."""

    code = "rate_limited"
    retry_after: float | None = None
    """Seconds that the provider asked to wait; None when it did not say."""

    details = (*ProviderError.details, "retry_after")


class ProviderTimeout(ProviderError):
    """The call's deadline passed before the provider had answered."""

    code = "provider_timeout"


class AuthenticationFailed(ProviderError):
    """The provider refused the API key (401 or 403)."""

    code = "authentication_failed"


class ExtractionFailed(LLMCacheError):
    """The provider answered, but not with a value that can be used."""

    code = "extraction_failed"
    request_id: str | None = None
    """The provider's own id of the request, for its support."""

    details = (*LLMCacheError.details, "request_id")


class Refused(ExtractionFailed):
    """The model declined to answer, or a content filter did so for it."""

    code = "refused"


class Truncated(ExtractionFailed):
    """The answer ended at the token limit, before it was whole."""

    code = "truncated"


class ValidationFailed(ExtractionFailed):
    """No answer passed the response type's validation, re-asks included."""

    code = "validation_failed"
    errors: tuple[dict[str, Any], ...] = ()
    """Location and type of what did not pass in the last answer; never the input."""

    details = (*ExtractionFailed.details, "errors")


class BudgetExceeded(LLMCacheError):
    """A run of warming has no call left of its budget, or was stopped; nothing was sent."""

    code = "budget_exceeded"


class LedgerFull(LLMCacheError):
    """The call could not be noted before it left, and ``ON_LEDGER_FULL`` is ``"refuse"``."""

    code = "ledger_full"


class NotCached(LLMCacheError):
    """``cache="only"`` was asked for and there is no usable entry."""

    code = "not_cached"


class NotRewritten(LLMCacheError):
    """An entry cannot be asked for anew, or be given another TTL; it stays as it was."""

    code = "not_rewritten"
    reason: str = ""
    """A stable word for what is in the way; the message says it in words."""

    details = (*LLMCacheError.details, "reason")


class FlightTimeout(LLMCacheError):
    """The call's deadline passed while it waited for another call's answer to the same request."""

    code = "flight_timeout"


class RecursiveExtract(LLMCacheError):
    """A call waits for itself: a validator or callback asked for the very request it is part of."""

    code = "recursive_extract"


class AsyncContext(LLMCacheError, SynchronousOnlyOperation):
    """A synchronous function was called in a thread whose event loop is running."""

    code = "async_context"


class ProviderCallsForbidden(LLMCacheError):
    """``ALLOW_PROVIDER_CALLS`` does not let this call leave; nothing was sent."""

    code = "provider_calls_forbidden"
