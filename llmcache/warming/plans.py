"""Plans: what is kept warm again and again, by hand or by the clock."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import islice
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, overload

from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from llmcache.engine import process
from llmcache.exceptions import ConfigurationError, InvalidRequest
from llmcache.flushing import require_no_loop
from llmcache.models import WarmingPlan, WarmingRun
from llmcache.money.facts import stored_time, unix_of
from llmcache.request import NOT_GIVEN
from llmcache.warming.estimates import WarmingEstimate, estimate
from llmcache.warming.registry import source_of
from llmcache.warming.runs import prepare
from llmcache.warming.sources import from_changed, from_expiring, from_list, from_misses
from llmcache.warming.wanted import wanted_of

if TYPE_CHECKING:
    from llmcache.engine.runtime import Runtime
    from llmcache.warming.wanted import Wanted

Source = WarmingPlan.Source


@overload
def run_plan(plan: WarmingPlan | int, *, made_by: str = "", dry_run: Literal[False] = False) -> WarmingRun: ...
@overload
def run_plan(plan: WarmingPlan | int, *, made_by: str = "", dry_run: Literal[True]) -> WarmingEstimate: ...


@sensitive_variables()
def run_plan(plan: WarmingPlan | int, *, made_by: str = "", dry_run: bool = False) -> WarmingRun | WarmingEstimate:
    """Prepare a run of a plan, for ``work`` to ask; or, with ``dry_run``, say what it would ask and cost.

    ``plan``: the row, or its number. Raises ``InvalidRequest`` for one that is not there or whose last run goes on, and
    for an item that cannot be asked; ``ConfigurationError`` where ``KINDS`` names no type for its kind or ``WARMING``
    no such source; ``AsyncContext``, what the source raises, and the database's own errors.
    """
    require_no_loop("warm")
    now = process.current()
    row = _row(now, plan)
    told = {
        "kind": row.kind,
        "model": row.model or NOT_GIVEN,
        "system": row.system or None,
        "tenant": row.tenant or NOT_GIVEN,
        "tags": row.tags,
    }
    texts = texts_of(now, row, wanted_of(now, **told))
    if dry_run:
        return estimate(texts, **told)
    return prepare(
        texts,
        **told,
        max_usd=row.max_usd,
        max_calls=row.max_calls,
        per_minute=row.per_minute,
        concurrency=row.concurrency,
        made_by=made_by,
        plan=row,
    )


def _row(now: Runtime, plan: WarmingPlan | int) -> WarmingPlan:
    now.require_database()
    pk: Any = plan.pk if isinstance(plan, WarmingPlan) else plan
    row = WarmingPlan.objects.using(now.settings.database).filter(pk=pk).first() if type(pk) is int else None
    if row is None:
        raise InvalidRequest("There is no such plan of warming.")
    return row


@sensitive_variables()
def texts_of(now: Runtime, plan: WarmingPlan, wanted: Wanted) -> Iterable[Any]:
    """Return what a plan's source has now that is ``wanted``."""
    model = plan.model or None
    if plan.source == Source.MISSES:
        return from_misses(plan.days, plan.kind, plan.most, model=model, wanted=wanted)
    if plan.source == Source.EXPIRING:
        return from_expiring(timedelta(days=plan.days), plan.kind, plan.most, model=model)
    if plan.source == Source.CHANGED:
        return from_changed(plan.kind, plan.most, model=model, system=plan.system or None, wanted=wanted)
    if plan.source == Source.TEXTS:
        lines: Iterable[Any] = (line for each in plan.texts.splitlines() if (line := each.strip()))
    else:
        lines = source_of(now.settings, plan.source)()
    return islice(from_list(lines), plan.most)


# -- by the clock


def due_plans(now: datetime | None = None) -> list[WarmingPlan]:
    """Return the plans that are due, each to one who asks: of several processes the others do not get it.

    ``now``: an aware time; the present by default. What was missed is due once. Raises ``ConfigurationError`` where
    a plan has a crontab and Celery is not installed. A plan whose crontab cannot be read is never due.
    """
    require_no_loop("warm")
    runtime = process.current()
    runtime.require_database()
    moment = now or datetime.now(UTC)
    plans = WarmingPlan.objects.using(runtime.settings.database).filter(enabled=True).exclude(crontab="")
    return [plan for plan in plans if _take(plan, moment)]


def take_due(pk: int) -> bool:
    """Return whether a plan is due, to one who asks, as by ``due_plans``; ``InvalidRequest`` without such a plan."""
    require_no_loop("warm")
    plan = _row(process.current(), pk)
    return plan.enabled and _take(plan, datetime.now(UTC))


def _take(plan: WarmingPlan, moment: datetime) -> bool:
    at = next_due(plan, moment)
    if at is None or at > moment:
        return False
    same = type(plan).objects.using(plan._state.db).filter(pk=plan.pk, enabled=True)
    same = same.filter(due_at__isnull=True) if plan.due_at is None else same.filter(due_at=plan.due_at)
    return bool(same.update(due_at=stored_time(moment.timestamp())))


def next_due(plan: WarmingPlan, now: datetime | None = None) -> datetime | None:
    """Return when a plan is due next, or since when it is; None where it has no crontab that can be read."""
    moment = now or datetime.now(UTC)
    try:
        schedule = parsed(plan.crontab)
    except InvalidRequest:
        return None
    schedule.nowfun = lambda: moment
    last = datetime.fromtimestamp(unix_of(plan.due_at or plan.made_at), UTC)
    try:
        return moment + schedule.remaining_estimate(last)
    except RuntimeError:
        # There is no such day.
        return None


def parsed(crontab: str) -> Any:
    """Return Celery's schedule of a crontab, in the project's time zone.

    Raises ``InvalidRequest`` where it cannot be read, ``ConfigurationError`` without Celery.
    """
    try:
        from celery.schedules import ParseException
        from celery.schedules import crontab as schedule_of
    except ImportError:
        raise ConfigurationError(
            "Plans with a crontab need Celery, which reads it. Install it: pip install 'django-llmcache[celery]'."
        ) from None
    fields = crontab.split()
    if len(fields) != 5:
        raise InvalidRequest(
            "A crontab has five fields: minute, hour, day of the month, month, day of the week; "
            "write it as in '30 3 * * mon-fri'."
        )
    try:
        schedule: Any = schedule_of.from_string(" ".join(fields))
    except (ValueError, TypeError, ParseException):
        raise InvalidRequest("This crontab cannot be read; write it as in '30 3 * * mon-fri'.") from None
    # Of an application it needs the time zone alone.
    schedule.app = SimpleNamespace(timezone=timezone.get_default_timezone())
    return schedule
