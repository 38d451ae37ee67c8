"""Why a call is, or is not, answered from the cache: ``explain``.

It looks where a call would look, in the call's order, and then into the ledger. Nothing is asked of a provider, counted
or written into a tier.
"""

from __future__ import annotations

from collections.abc import Collection, Coroutine
from contextvars import copy_context
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from asgiref.sync import markcoroutinefunction, sync_to_async

from llmcache import request
from llmcache.content.own import own_content, own_text
from llmcache.engine import process
from llmcache.explaining.explanations import Explanation
from llmcache.flushing import require_no_loop
from llmcache.request import NOT_GIVEN, CacheUse, NotGiven

if TYPE_CHECKING:
    from llmcache.content.reading import AnyContent


def explain(
    content: AnyContent,
    response_model: Any,
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
) -> Explanation:
    """Return what ``llmcache.extract`` with these arguments would come to now, and why; ``print`` it to read it.

    Where no tier has an answer it says whether there was one that has expired, was invalidated (by whom, when and why)
    or evicted, whether it was asked in vain, and else in which components the request differs from the stored one that
    is nearest: one with the same text, or the newest of its kind. It asks no provider, counts nothing and writes into
    no tier. What this process has just stored is brought into the ledger first, as by ``flush``. What cannot be found
    out, with the database down say, is said and raises nothing. It holds no text, and its cost does not grow with the
    ledger: each tier is read once, and the database gets some ten statements.

    With a ``tenant`` it speaks of that tenant's entries alone, and does not tell whether another has the same text;
    without one it is the project that asks: entries of all tenants are compared and their tenants told.

    Arguments and their errors are those of ``extract``. Raises ``AsyncContext`` in an event loop.
    """
    require_no_loop("explain")
    from llmcache.explaining.reasoning import explained

    options = (
        *(model, system, kind, ttl, stale_ttl, tenant, subject, tags, version, variant, cache),
        *(timeout, max_retries, max_reasks, unkeyed),
    )
    return explained(process.current(), content, response_model, options, params)


@markcoroutinefunction
def aexplain(content: AnyContent, response_model: Any, **options: Any) -> Coroutine[Any, Any, Explanation]:
    """Do as ``explain``, awaited. Whose call it is, and context variables, are read at the call."""
    try:
        options = {name: own_text(value) for name, value in _named(options).items()}
    except Exception as error:  # noqa: BLE001  # what goes wrong is raised where the call is awaited
        return _raised(error)
    return sync_to_async(partial(copy_context().run, explain))(own_content(content), response_model, **options)


def _named(options: dict[str, Any]) -> dict[str, Any]:
    """Return options with the tenant that the settings tell: in another thread they may tell another."""
    now = process.current_if_made()
    tenancy = process.tenancy() if now is None else now.tenancy
    if tenancy is None:
        return options
    given = tuple(options.get(name, NOT_GIVEN) for name in request.OPTIONS)
    return {**options, "tenant": tenancy.named(given)[request.OPTIONS.index("tenant")]}


async def _raised(error: Exception) -> Any:
    raise error
