"""Plans of warming among the periodic tasks of django-celery-beat.

A plan with a crontab has a periodic task there. The plan is in charge: its task follows it, and where a person has
changed the task, the plan follows that. What a plan has told its task last is kept in the task, so that beat, which
writes tasks whole from what it has read some time ago, changes no plan. Both that task and ``keep_house`` ask whether
the plan is due, and one of them is told so.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import Any, Final

from django.apps import apps
from django.core.exceptions import ValidationError
from django.db import Error, router, transaction
from django.db.models import QuerySet
from django.db.models.signals import post_delete, post_migrate, post_save
from django.utils import timezone

from llmcache.engine import process
from llmcache.exceptions import InvalidRequest
from llmcache.models import WarmingPlan
from llmcache.warming.plans import parsed

logger = logging.getLogger("llmcache.tasks")

TASK: Final = "llmcache.tasks.run_plan_if_due"
_FIELDS: Final = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
"""A crontab's, in the order in which it is written."""
_TOLD: Final = "llmcache_plan"
"""Among a task's headers: what its plan has told it last."""
_MOST_CRONTAB: Final = 100
"""Characters that a plan's column has."""
_DESCRIPTION: Final = (
    "Made by llmcache of a warming plan, and changed with it. To run it at once, open the plan and press the button."
)

_answering: ContextVar[bool] = ContextVar("llmcache.contrib.celery_beat.answering", default=False)


def watch() -> None:
    """Keep plans and periodic tasks in step from now on, and those that are there already once both have tables."""
    periodic = _model("PeriodicTask")
    post_save.connect(_plan_saved, sender=WarmingPlan, dispatch_uid="llmcache.beat.plan_saved")
    post_delete.connect(_plan_deleted, sender=WarmingPlan, dispatch_uid="llmcache.beat.plan_deleted")
    post_save.connect(_task_saved, sender=periodic, dispatch_uid="llmcache.beat.task_saved")
    post_delete.connect(_task_deleted, sender=periodic, dispatch_uid="llmcache.beat.task_deleted")
    post_save.connect(_tasks_changed, sender=_model("PeriodicTasks"), dispatch_uid="llmcache.beat.tasks_changed")
    post_migrate.connect(_migrated, dispatch_uid="llmcache.beat.migrated")


def mirror(plan: WarmingPlan) -> None:
    """Make a plan's periodic task, or bring it up to date; a plan without a crontab has none."""
    found = _tasks_of(plan.pk)
    if not plan.crontab:
        for task in found:
            task.delete()
        return
    readable = _is_readable(plan.crontab)
    if not readable and not found:
        return
    for task in found or [_model("PeriodicTask")(task=TASK, args=json.dumps([plan.pk]), description=_DESCRIPTION)]:
        was = _state(task)
        task.enabled = plan.enabled and readable
        if readable and _crontab_of(task) != plan.crontab:
            task.interval = task.solar = task.clocked = None
            task.crontab = _schedule(plan.crontab)
        if not task.name.startswith(f"llmcache: {plan.name} ("):
            task.name = _free_name(f"llmcache: {plan.name} ({plan.pk})", task)
        _tell(task)
        if was != _state(task):
            task.save()


def _schedule(crontab: str) -> Any:
    given = {**dict(zip(_FIELDS, crontab.split(), strict=True)), "timezone": timezone.get_default_timezone()}
    schedules = _model("CrontabSchedule").objects
    # There may be several of one schedule: nothing forbids it.
    return schedules.filter(**given).first() or schedules.create(**given)


def _free_name(wanted: str, task: Any) -> str:
    names = set(_model("PeriodicTask").objects.filter(name__startswith=wanted).exclude(pk=task.pk).values_list("name"))
    number, name = 1, wanted
    while (name,) in names:
        number += 1
        name = f"{wanted} {number}"
    return name


def _state(task: Any) -> tuple[Any, ...]:
    return task.pk, task.name, task.enabled, task.crontab_id, task.interval_id, task.headers


def _is_readable(crontab: str) -> bool:
    try:
        parsed(crontab)
    except InvalidRequest:
        return False
    return True


def _answer(work: Callable[..., None]) -> Callable[..., None]:
    """Answer a signal that no answer has caused. Nobody's save fails because the other row cannot be written."""

    @wraps(work)
    def run(instance: Any, raw: bool = False, **told: Any) -> None:
        if raw or _answering.get():
            return  # a fixture brings both
        token = _answering.set(True)
        try:
            with transaction.atomic(using=router.db_for_write(_model("PeriodicTask"))):
                work(instance, **told)
        except (Error, ValidationError) as error:
            logger.warning(
                "A warming plan and its periodic task of django-celery-beat may differ: %s. "
                "Run manage.py migrate, which brings them in step.",
                type(error).__name__,
            )
        finally:
            _answering.reset(token)

    return run


@_answer
def _plan_saved(instance: WarmingPlan, **_: Any) -> None:
    mirror(instance)


@_answer
def _plan_deleted(instance: WarmingPlan, **_: Any) -> None:
    for task in _tasks_of(instance.pk):
        task.delete()


@_answer
def _task_saved(instance: Any, **_: Any) -> None:
    _follow(instance)


@_answer
def _tasks_changed(instance: Any, **_: Any) -> None:  # noqa: ARG001
    """Look at all tasks where some have changed: the admin's actions write many at once, and send no other signal."""
    for task in _all():
        _follow(task)


@_answer
def _task_deleted(instance: Any, **_: Any) -> None:
    """Stop a plan whose last task was deleted there; its crontab is kept."""
    pk = _plan_of(instance)
    if pk is not None and not _tasks_of(pk):
        _plans().filter(pk=pk).update(enabled=False)


def _follow(task: Any) -> None:
    """Let a plan follow what a person has changed at its task since the plan has told it something."""
    pk, told = _plan_of(task), _told(task)
    if pk is None or told is None:
        return
    changed: dict[str, Any] = {}
    if task.enabled != told["enabled"]:
        changed["enabled"] = task.enabled
    crontab = _crontab_of(task)
    if crontab is not None and crontab != told["crontab"]:
        changed["crontab"] = crontab
    if changed:
        _plans().filter(pk=pk).update(**changed)
        _tell(task)
        _model("PeriodicTask").objects.filter(pk=task.pk).update(headers=task.headers)


def _crontab_of(task: Any) -> str | None:
    """Return a task's crontab as plans write it; None where it has none, or one that a plan could not have."""
    schedule = task.crontab
    if schedule is None or str(schedule.timezone) != str(timezone.get_default_timezone()):
        return None
    # Lists are written with spaces there at times, and a crontab has none within a field.
    crontab = " ".join(str(getattr(schedule, name)).replace(" ", "") for name in _FIELDS)
    return crontab if len(crontab) <= _MOST_CRONTAB and _is_readable(crontab) else None


def _tell(task: Any) -> None:
    headers = _headers(task)
    headers[_TOLD] = {"crontab": _crontab_of(task), "enabled": task.enabled}
    task.headers = json.dumps(headers)


def _told(task: Any) -> dict[str, Any] | None:
    told = _headers(task).get(_TOLD)
    return told if isinstance(told, dict) and {"crontab", "enabled"} <= told.keys() else None


def _headers(task: Any) -> dict[str, Any]:
    try:
        found = json.loads(task.headers or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _tasks_of(pk: int) -> list[Any]:
    return [task for task in _all() if _plan_of(task) == pk]


def _all() -> QuerySet[Any]:
    return _model("PeriodicTask").objects.filter(task=TASK).select_related("crontab").order_by("pk")


def _plan_of(task: Any) -> int | None:
    """Return the number of the plan that a task runs; None where it runs none."""
    try:
        found = json.loads(task.args) if task.task == TASK else None
    except (TypeError, ValueError):
        return None
    return found[0] if isinstance(found, list) and len(found) == 1 and type(found[0]) is int else None


def _plans() -> QuerySet[WarmingPlan]:
    return WarmingPlan.objects.using(process.current().settings.database)


def _model(name: str) -> Any:
    return apps.get_model("django_celery_beat", name)


def _migrated(app_config: Any, **_: Any) -> None:
    if app_config.label not in ("llmcache", "django_celery_beat"):
        return
    try:
        with transaction.atomic(using=_plans().db):
            plans = list(_plans().exclude(crontab=""))
    except Error:
        return  # its turn has not come yet
    for plan in plans:
        _plan_saved(plan)
