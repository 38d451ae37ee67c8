"""What an attempt comes to whose function raised: an error of llmcache's, in words that hold nothing of the text."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Any, Final

from llmcache.exceptions import (
    AuthenticationFailed,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
)
from llmcache.providers.base import Failure
from llmcache.providers.failures import FREE, is_passing

_OURS: Final = __name__.partition(".")[0]
_UNSAID: Final = ". Its message is not shown here: it may hold the text."


class UnfitAnswerError(TypeError, ValueError):
    """A function has made an ``Answer`` of what it cannot be made of. The message names that, and shows none of it."""


def failed(alias: str, error: BaseException, *, has_begun: bool) -> Failure:
    """Return what became of an attempt whose function raised this.

    ``has_begun``: whether the function was called at all; it was not, where its caller had gone before.
    """
    name, where = type(error).__name__, _where(error.__traceback__)
    said = f"The function of the provider {alias!r} raised {name}{where}"
    status = _status_of(error)
    known: dict[str, Any] = {"provider_error": name, "status": status, "request_id": _request_id_of(error)}
    made: ProviderError
    if isinstance(error, RateLimited):
        made = RateLimited(f"{said}.", **known, retry_after=_wait_of(error))
    elif isinstance(error, AuthenticationFailed):
        made = AuthenticationFailed(f"{said}.", **known)
    elif isinstance(error, ProviderTimeout | TimeoutError):
        made = ProviderTimeout(f"{said}, or the call's deadline passed. Raise timeout= or LLMCACHE['TIMEOUT'].")
        made.add(**known)
    elif isinstance(error, ProviderUnavailable):
        made = ProviderUnavailable(f"{said}.", **known)
    else:
        more = f": {error}." if type(error) is UnfitAnswerError else _UNSAID
        made = ProviderError(said + more, **known)
    is_refused = status is not None and status >= 400
    is_free = not has_begun or is_refused or isinstance(made, RateLimited | AuthenticationFailed)
    retry = isinstance(made, RateLimited | ProviderUnavailable) or is_passing(status or 0)
    wait = made.retry_after if isinstance(made, RateLimited) else None
    return Failure(made, FREE if is_free else None, in_doubt=not is_free, retry=retry, retry_after=wait)


def _detail(error: BaseException, name: str) -> Any:
    """Return a detail of an error of llmcache's that a function has raised: anything at all, for nobody checks them."""
    try:
        return getattr(error, name, None) if isinstance(error, ProviderError) else None
    except Exception:  # noqa: BLE001  # a class of the project's own may look it up
        return None


def _status_of(error: BaseException) -> int | None:
    status = _detail(error, "status")
    return status if type(status) is int and 100 <= status < 1_000 else None


def _request_id_of(error: BaseException) -> str | None:
    told = _detail(error, "request_id")
    return told if isinstance(told, str) else None


def _wait_of(error: BaseException) -> float | None:
    wait = _detail(error, "retry_after")
    try:
        return max(float(wait), 0.0) if type(wait) in (int, float) and math.isfinite(wait) else None
    except OverflowError:
        return None


def _where(traceback: TracebackType | None) -> str:
    """Return where the function itself was when something was raised, in words that end a sentence."""
    while traceback is not None:
        code, module = traceback.tb_frame.f_code, str(traceback.tb_frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] not in (_OURS, "asyncio"):
            return f" in {module}.{code.co_name}, line {traceback.tb_lineno}"
        traceback = traceback.tb_next
    return ""
