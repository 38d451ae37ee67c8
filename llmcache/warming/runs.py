"""A run of warming, from its preparation to its end: its items, what it may cost, and how far it is."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

from django.db import DatabaseError
from django.db.models import Count, Q, Subquery
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from llmcache import request
from llmcache.engine import process
from llmcache.exceptions import InvalidRequest
from llmcache.flushing import require_no_loop
from llmcache.models import MAX_NAME, ProviderCall, WarmingItem, WarmingPlan, WarmingRun
from llmcache.money.facts import MAX_SUM, cut
from llmcache.money.pricing import PICO
from llmcache.plans import default_kind
from llmcache.request import NOT_GIVEN, NotGiven
from llmcache.response_types import response_type
from llmcache.warming.estimates import Costs, is_live
from llmcache.warming.texts import packed, text_of
from llmcache.warming.wanted import WARMING, Wanted, wanted_of
from llmcache.warming_models import MAX_CONCURRENCY

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from llmcache.engine.runtime import Runtime

T = TypeVar("T")

CONCURRENCY: Final = 8
_AT_ONCE: Final = 200
"""Items that are looked up and written together."""
_Run = WarmingRun.State
_Item = WarmingItem.State
_DEAD_AFTER: Final = timedelta(minutes=10)
"""How long a run may be prepared without a sign of life."""
_UNSEEN_AFTER: Final = timedelta(minutes=1)
"""How long a run that is under way may be without a sign of life before others take it for left alone."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    uid: str
    state: str
    """``preparing``, ``running``, ``paused``, ``exhausted`` (by its budget), ``done`` or ``cancelled``."""
    items: int
    """Without duplicates."""
    duplicates: int
    live: int
    """Items whose answer was there."""
    to_ask: int
    """Items that are still to be asked."""
    asked: int
    """Items that were asked for: warmed or failed."""
    warmed: int
    failed: int
    dropped: int
    """Items that nobody will ask for any more: the run was cancelled."""
    in_doubt: int
    """Calls of which the ledger knows no end."""
    calls: int
    """Calls that have ended."""
    calls_unpriced: int
    """Of these, those whose cost is not known."""
    cost_usd: Decimal
    """What the others have cost."""
    estimate_usd: Decimal | None
    """What it was estimated to cost when it was prepared; None where nobody could tell."""
    trouble: str
    """An error's code, where the run was paused by it."""


@sensitive_variables()
def prepare(
    texts: Iterable[Any],
    *,
    kind: str | None = None,
    response_model: Any = None,
    model: str | NotGiven = NOT_GIVEN,
    system: str | None = None,
    tenant: str | NotGiven | None = NOT_GIVEN,
    tags: Collection[str] = (),
    ttl: float | timedelta | NotGiven | None = NOT_GIVEN,
    max_usd: Decimal | float | str | None = None,
    max_calls: int | None = None,
    per_minute: int | None = None,
    concurrency: int = CONCURRENCY,
    made_by: str = "",
    plan: WarmingPlan | None = None,
) -> WarmingRun:
    """Write down what a run is to ask, and return it; no provider is asked.

    ``texts``: strs, dicts with the names of ``WarmingText``, or these. Equal ones are one item, and what is there is
    not asked for. ``kind``: names the response type by ``KINDS``; without that only ``response_model`` tells it, and
    only who has it can work at the run. ``system`` and ``tenant`` hold for texts that have none, ``tags`` for all.
    ``max_usd``, ``max_calls``, ``per_minute``: the budget and the pace of all processes together; calls are attempts,
    so also retries and questions asked again. ``plan``: whose run it is, of which one goes on at a time.

    Raises ``InvalidRequest`` (``InvalidText``, ``InputTooLarge`` and so on, with the number of the item),
    ``ConfigurationError``, ``AsyncContext``, and the database's own errors. Then there is no run.
    """
    require_no_loop("warm")
    now = process.current()
    now.require_database()
    wanted = wanted_of(
        now, kind=kind, response_model=response_model, model=model, system=system, tenant=tenant, tags=tags, ttl=ttl
    )
    limits = {
        "max_pico_usd": None if max_usd is None else _pico("max_usd", max_usd),
        "max_calls": None if max_calls is None else number("max_calls", max_calls),
        "per_minute": None if per_minute is None else number("per_minute", per_minute, 1),
        "concurrency": number("concurrency", concurrency, 1, MAX_CONCURRENCY),
    }
    response = response_type(wanted.annotation)
    run = WarmingRun(
        uid=uuid.uuid4().hex,
        namespace=now.namespace,
        plan_id=None if plan is None else plan.pk,
        state=_Run.PREPARING,
        kind=wanted.kind or default_kind(response),
        response_type=cut(response.name, MAX_NAME),
        model=cut(now.settings.model if isinstance(wanted.model, NotGiven) else wanted.model, MAX_NAME),
        options=_options(wanted),
        system=wanted.system or "",
        made_at=timezone.now(),
        made_by=request.word("made_by", made_by, most=MAX_NAME) if made_by else "",
        seen_at=timezone.now(),
        **limits,
    )
    run.save(using=now.settings.database, force_insert=True)
    try:
        if plan is not None:
            _take_plan(now, plan, run)
        _fill(now, wanted, run, texts)
    except BaseException:
        # Also when it is broken off: nothing is asked for half a list. A transaction that is broken takes it along.
        with contextlib.suppress(DatabaseError):
            free_plan(now, run)
            run.delete(using=now.settings.database)
        raise
    return run


def _take_plan(now: Runtime, plan: WarmingPlan, run: WarmingRun) -> None:
    """Put a run in the place of its plan's last one. Raises ``InvalidRequest`` where that goes on."""
    using = now.settings.database
    rows = WarmingPlan.objects.using(using).filter(pk=plan.pk)
    runs = WarmingRun.objects.using(using)
    before = rows.values_list("run_uid", flat=True).first()
    if before is None:
        raise InvalidRequest("There is no such plan of warming any more.")
    last = runs.filter(uid=before).first()
    # Two that have found the same are told apart here.
    if (last is not None and _goes_on(last)) or not rows.filter(run_uid=before).update(run_uid=run.uid):
        raise InvalidRequest(
            "A run of this plan is going on. Let it end, resume it if it is paused, or cancel it; then run the plan "
            "again."
        )
    for old in runs.filter(plan=plan, state__in=(_Run.EXHAUSTED, _Run.PREPARING)).exclude(pk=run.pk):
        # Nobody will raise the budget of one that has a successor.
        _cancel(now, old)


def _goes_on(run: WarmingRun) -> bool:
    if run.state == _Run.PREPARING:
        return run.seen_at is not None and timezone.now() - run.seen_at < _DEAD_AFTER
    return run.state in (_Run.RUNNING, _Run.PAUSED)


def _options(wanted: Wanted) -> dict[str, Any]:
    told: dict[str, Any] = {"tags": list(wanted.tags), "has_system": wanted.system is not None}
    if not isinstance(wanted.ttl, NotGiven):
        told["ttl"] = wanted.ttl
    return told


@sensitive_variables()
def _fill(now: Runtime, wanted: Wanted, run: WarmingRun, texts: Iterable[Any]) -> None:
    using, costs, given = now.settings.database, Costs(now), 0
    items = WarmingItem.objects.using(using)
    seen: set[bytes] = set()
    for part in _parts(texts):
        now.log.confirm()
        rows: list[WarmingItem] = []
        for text in part:
            given += 1
            with _numbered(given):
                named = wanted.named(now, text_of(text))
                call = wanted.call(now, named)
            if call.key in seen:
                continue
            seen.add(call.key)
            row = WarmingItem(run_id=run.pk, key=call.key.hex())
            if not named.anew and is_live(now, call):
                row.state, row.done_at = _Item.LIVE, timezone.now()
            else:
                costs.add(call)
                row.text = packed(named)
            rows.append(row)
        items.bulk_create(rows)
        WarmingRun.objects.using(using).filter(pk=run.pk).update(seen_at=timezone.now())
    each = costs.each
    if run.max_pico_usd is not None and costs.calls and each is None:
        raise InvalidRequest(
            f"max_usd= cannot be kept: {costs.basis}. Set LLMCACHE['PRICES'], or give max_calls= instead."
        )
    run.items_count, run.duplicates = len(seen), given - len(seen)
    run.estimate_pico_usd = None if costs.pico_usd is None else min(costs.pico_usd, MAX_SUM)
    run.estimate_basis, run.permit_pico_usd = costs.basis[:MAX_NAME], each
    run.state = _Run.RUNNING
    changed = ["items_count", "duplicates", "estimate_pico_usd", "estimate_basis", "permit_pico_usd", "state"]
    run.save(using=using, update_fields=changed)


def _parts(texts: Iterable[T]) -> Iterator[list[T]]:
    found = iter(texts)
    while part := list(islice(found, _AT_ONCE)):
        yield part


class _numbered:  # noqa: N801  # a context manager, used as a word
    """Say of what is wrong with an item which one it is."""

    def __init__(self, place: int) -> None:
        self._place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, InvalidRequest):
            raise type(error)(f"Item {self._place}: {error.message}") from None


# -- what is known of a run


def run_of(now: Runtime, uid: str) -> WarmingRun:
    """Return a run of this project. Raises ``InvalidRequest`` for one that is not there."""
    now.require_database()
    if not isinstance(uid, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # it may come from a message
        raise InvalidRequest("A run's id must be a str.")
    run = WarmingRun.objects.using(now.settings.database).filter(namespace=now.namespace, uid=uid[:32]).first()
    if run is None:
        raise InvalidRequest("There is no run of warming with this id: it was deleted, or belongs to another project.")
    return run


def wanted_by(now: Runtime, run: WarmingRun, response_model: Any = None) -> Wanted:
    """Return what a run wants. Raises ``ConfigurationError`` where nothing tells its response type."""
    told: dict[str, Any] = run.options
    return wanted_of(
        now,
        kind=run.kind,
        response_model=response_model,
        model=run.model,
        system=run.system if told.get("has_system") else None,
        tags=told.get("tags", ()),
        # A tenant is told by each item.
        tenant=None,
        ttl=told.get("ttl", NOT_GIVEN),
    )


def progress(run_uid: str) -> Progress:
    """Return how far a run is. Raises ``InvalidRequest`` for one that is not there."""
    require_no_loop("warm")
    return progress_of(process.current(), run_uid)


def progress_of(now: Runtime, run_uid: str) -> Progress:
    """Do as ``progress`` for a runtime."""
    run = run_of(now, run_uid)
    using = now.settings.database
    states = WarmingItem.objects.using(using).filter(run=run).order_by().values_list("state").annotate(Count("pk"))
    items: dict[str, int] = dict(states)
    warmed, failed = items.get(_Item.WARMED, 0), items.get(_Item.FAILED, 0)
    return Progress(
        uid=run.uid,
        state=str(run.state),
        items=sum(items.values()),
        duplicates=run.duplicates,
        live=items.get(_Item.LIVE, 0),
        to_ask=items.get(_Item.WAITING, 0) + items.get(_Item.CLAIMED, 0),
        asked=warmed + failed,
        warmed=warmed,
        failed=failed,
        dropped=items.get(_Item.DROPPED, 0),
        in_doubt=calls_of(run, using).filter(outcome=ProviderCall.Outcome.IN_DOUBT).count(),
        calls=run.calls,
        calls_unpriced=run.unpriced,
        cost_usd=run.spent_usd,
        estimate_usd=run.estimate_usd,
        trouble=run.trouble,
    )


def calls_of(run: WarmingRun, using: str) -> QuerySet[ProviderCall]:
    """Return the calls of a run, as far as they are in the ledger."""
    keys = WarmingItem.objects.using(using).filter(run=run).values("key")
    # What the journal says is by another clock, and may be earlier by a little.
    since = run.made_at - timedelta(minutes=1)
    calls = ProviderCall.objects.using(using).filter(ahead=WARMING, started_at__gte=since, key__in=Subquery(keys))
    return calls if run.ended_at is None else calls.filter(started_at__lte=run.ended_at + timedelta(minutes=1))


# -- stopping and going on


def pause(run_uid: str) -> bool:
    """Let nobody begin another item of a run; calls under way end. Return whether it was under way."""
    return _change(run_uid, (_Run.RUNNING,), _Run.PAUSED)


def resume(run_uid: str, *, max_usd: Decimal | float | str | None = None, max_calls: int | None = None) -> bool:
    """Let a run be worked at again that was paused, or has used up its budget; return whether it can be.

    ``max_usd`` and ``max_calls`` are what it may come to in all from now on, where it may be more. A run whose process
    has died is under way all the same: call ``work``.
    """
    more: dict[str, Any] = {}
    if max_usd is not None:
        more["max_pico_usd"] = _pico("max_usd", max_usd)
    if max_calls is not None:
        more["max_calls"] = number("max_calls", max_calls)
    stopped = (_Run.PAUSED, _Run.EXHAUSTED, _Run.RUNNING)
    return _change(run_uid, stopped, _Run.RUNNING, trouble="", ended_at=None, **more)


def cancel(run_uid: str) -> bool:
    """End a run, and delete the texts that nobody has asked for; return whether it had not ended."""
    require_no_loop("warm")
    now = process.current()
    return _cancel(now, run_of(now, run_uid))


def _cancel(now: Runtime, run: WarmingRun) -> bool:
    using = now.settings.database
    going_on = WarmingRun.objects.using(using).filter(
        pk=run.pk, state__in=(_Run.PREPARING, _Run.RUNNING, _Run.PAUSED, _Run.EXHAUSTED)
    )
    done = going_on.update(state=_Run.CANCELLED, ended_at=timezone.now(), system="") == 1
    left = WarmingItem.objects.using(using).filter(run=run, state__in=(_Item.WAITING, _Item.CLAIMED))
    left.update(state=_Item.DROPPED, text="", claim="", claimed_until=None, done_at=timezone.now())
    free_plan(now, run)
    return done


def unseen() -> list[str]:
    """Return the ids of runs that are under way, and at which nobody seems to work any more.

    Those that nobody seems to prepare any more are cancelled, so that their texts go.
    """
    now = process.current()
    now.require_database()
    rows, moment = WarmingRun.objects.using(now.settings.database).filter(namespace=now.namespace), timezone.now()
    for run in rows.filter(state=_Run.PREPARING, seen_at__lt=moment - _DEAD_AFTER):
        _cancel(now, run)
    found = rows.filter(state=_Run.RUNNING, seen_at__lt=moment - _UNSEEN_AFTER)
    return list(found.values_list("uid", flat=True))


def end_run(now: Runtime, run: WarmingRun) -> None:
    """Write that a run has nothing left."""
    rows = WarmingRun.objects.using(now.settings.database).filter(pk=run.pk)
    # One that was paused meanwhile has nothing left either.
    under_way = Q(state=_Run.RUNNING) | Q(state=_Run.EXHAUSTED) | Q(state=_Run.PAUSED)
    rows.filter(under_way).update(state=_Run.DONE, trouble="", ended_at=timezone.now(), system="")
    free_plan(now, run)


def free_plan(now: Runtime, run: WarmingRun) -> None:
    """Let a run's plan be run again."""
    plans = WarmingPlan.objects.using(now.settings.database)
    plans.filter(run_uid=run.uid).update(run_uid="")


def _change(run_uid: str, before: Collection[str], after: str, **more: Any) -> bool:
    require_no_loop("warm")
    now = process.current()
    run = run_of(now, run_uid)
    rows = WarmingRun.objects.using(now.settings.database).filter(pk=run.pk, state__in=before)
    return rows.update(state=after, **more) == 1


# -- arguments


def number(name: str, value: object, least: int = 0, most: int = 2**31 - 1) -> int:
    """Return a whole number within bounds; ``InvalidRequest`` naming the argument otherwise."""
    if type(value) is not int or not least <= value <= most:
        raise InvalidRequest(f"{name}= must be a whole number from {least} to {most}.")
    return value


def _pico(name: str, value: object) -> int:
    """Return US dollars in units of 10**-12; a float counts as it is written."""
    amount = Decimal("nan")
    if not isinstance(value, bool) and isinstance(value, (int, float, str, Decimal)):
        try:
            amount = Decimal(str(value))
        except InvalidOperation:
            amount = Decimal("nan")
    if not amount.is_finite() or amount < 0 or amount * PICO > MAX_SUM:
        raise InvalidRequest(f"{name}= must be US dollars, zero or more.")
    return int(amount * PICO)
