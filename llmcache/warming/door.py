"""``llmcache.warm``: texts asked ahead of their use, in one call and one process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Coroutine, Iterable
from contextvars import copy_context
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, overload

from asgiref.sync import markcoroutinefunction, sync_to_async

from llmcache.flushing import require_no_loop
from llmcache.request import NOT_GIVEN, NotGiven

if TYPE_CHECKING:
    from llmcache.warming.estimates import WarmingEstimate
    from llmcache.warming.runs import Progress

_CONCURRENCY: Final = 8


@overload
def warm(
    items: Iterable[Any],
    response_model: Any = None,
    *,
    dry_run: Literal[True],
    kind: str | None = None,
    model: str | NotGiven = NOT_GIVEN,
    system: str | None = None,
    tenant: str | NotGiven | None = NOT_GIVEN,
    tags: Collection[str] = (),
    ttl: float | timedelta | NotGiven | None = NOT_GIVEN,
) -> WarmingEstimate: ...


@overload
def warm(
    items: Iterable[Any],
    response_model: Any = None,
    *,
    dry_run: Literal[False] = False,
    kind: str | None = None,
    model: str | NotGiven = NOT_GIVEN,
    system: str | None = None,
    tenant: str | NotGiven | None = NOT_GIVEN,
    tags: Collection[str] = (),
    ttl: float | timedelta | NotGiven | None = NOT_GIVEN,
    max_usd: Decimal | float | str | None = None,
    max_calls: int | None = None,
    per_minute: int | None = None,
    concurrency: int = _CONCURRENCY,
    made_by: str = "",
    should_stop: Callable[[], bool] | None = None,
) -> Progress: ...


def warm(
    items: Iterable[Any],
    response_model: Any = None,
    *,
    dry_run: bool = False,
    kind: str | None = None,
    model: str | NotGiven = NOT_GIVEN,
    system: str | None = None,
    tenant: str | NotGiven | None = NOT_GIVEN,
    tags: Collection[str] = (),
    ttl: float | timedelta | NotGiven | None = NOT_GIVEN,
    max_usd: Decimal | float | str | None = None,
    max_calls: int | None = None,
    per_minute: int | None = None,
    concurrency: int = _CONCURRENCY,
    made_by: str = "",
    should_stop: Callable[[], bool] | None = None,
) -> Progress | WarmingEstimate:
    """Ask for texts whose answers are not there yet, and return what has come of it.

    ``items``: texts; or dicts with ``content`` and any of ``system``, ``tenant``, ``subject``, ``tags``, ``version``,
    ``variant`` and ``params``, as a call would pass them. ``response_model``, ``kind``, ``model``, ``system``,
    ``tenant``, ``tags``, ``ttl``: as for ``extract``; without a response type it is the one that ``KINDS`` names for
    the kind. ``dry_run``: say what would be asked and cost; no provider is asked, and nothing is written.

    ``max_usd``, ``max_calls``: at most so many US dollars and calls, with retries and questions asked again. In calls
    that is exact; in dollars a call that is under way counts as the dearest so far. ``per_minute``: calls a minute.
    ``concurrency``: calls at the same time. ``made_by``: for the list of runs. ``should_stop``: asked some times a
    second; when it says True, what is under way is waited for and the rest is left.

    What it returns says how the run has ended: ``state`` is ``"done"``, or ``"exhausted"`` by its budget, ``"paused"``
    by the error in ``trouble``, or ``"running"`` where it was stopped. With its ``uid`` ``llmcache.warming.work.work``
    goes on, here or elsewhere. Answers that failed are counted, and raise nothing.

    Raises ``InvalidRequest``, also inside a transaction, ``ConfigurationError``, ``AsyncContext``, and the database's
    own errors. A ``KeyboardInterrupt`` waits for what is under way, too.
    """
    require_no_loop("warm")
    from llmcache.warming.estimates import estimate
    from llmcache.warming.runs import prepare
    from llmcache.warming.work import require_no_transaction, work

    what: dict[str, Any] = {"kind": kind, "response_model": response_model, "model": model, "system": system}
    whose: dict[str, Any] = {"tenant": tenant, "tags": tags, "ttl": ttl}
    if dry_run:
        return estimate(items, **what, **whose)
    # Before anything is written into it.
    require_no_transaction()
    run: Any = prepare(
        items,
        **what,
        **whose,
        max_usd=max_usd,
        max_calls=max_calls,
        per_minute=per_minute,
        concurrency=concurrency,
        made_by=made_by,
    )
    return work(run.uid, response_model=response_model, should_stop=should_stop)


@markcoroutinefunction
def awarm(items: Iterable[Any], response_model: Any = None, **options: Any) -> Coroutine[Any, Any, Any]:
    """Do as ``warm``, awaited, with its threads beside the event loop. Context variables are read at the call.

    Who stops waiting stops the run: what is under way is kept, and the rest is left.
    """
    context = copy_context()
    return _awaited(partial(context.run, warm), items, response_model, options)


async def _awaited(warm: Callable[..., Any], items: Iterable[Any], response_model: Any, options: dict[str, Any]) -> Any:
    given: Callable[[], bool] | None = options.get("should_stop")
    stopped = threading.Event()
    if not options.get("dry_run"):
        options = {**options, "should_stop": lambda: stopped.is_set() or (given is not None and given())}
    try:
        return await sync_to_async(warm)(items, response_model, **options)
    except asyncio.CancelledError:
        stopped.set()
        raise
