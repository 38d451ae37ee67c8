"""Plans of warming among the periodic tasks of django-celery-beat.

A plan with a crontab has a periodic task there, and what is changed at one is changed at the other: the crontab,
whether it is enabled. Both that task and ``keep_house`` ask whether the plan is due, and one of them is told so.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import Any, Final

from django.apps import apps
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
_DESCRIPTION: Final = (
    "Made by llmcache of a warming plan, and changed with it. To run it at once, open the plan and press the button."
)


_answering: ContextVar[bool] = ContextVar("llmcache.contrib.celery_beat.answering", default=False)


def watch() -> None:
    """Keep plans and periodic tasks in step from now on, and those that are there already once both have tables."""
    periodic: Any = apps.get_model("django_celery_beat", "PeriodicTask")
    post_save.connect(_plan_saved, sender=WarmingPlan, dispatch_uid="llmcache.beat.plan_saved")
    post_delete.connect(_plan_deleted, sender=WarmingPlan, dispatch_uid="llmcache.beat.plan_deleted")
    post_save.connect(_task_saved, sender=periodic, dispatch_uid="llmcache.beat.task_saved")
    post_delete.connect(_task_deleted, sender=periodic, dispatch_uid="llmcache.beat.task_deleted")
    changed: Any = apps.get_model("django_celery_beat", "PeriodicTasks")
    post_save.connect(_tasks_changed, sender=changed, dispatch_uid="llmcache.beat.tasks_changed")
    post_migrate.connect(_migrated, dispatch_uid="llmcache.beat.migrated")


def mirror(plan: WarmingPlan) -> None:
    """Make a plan's periodic task, or bring it up to date; a plan without a crontab has none."""
    periodic: Any = apps.get_model("django_celery_beat", "PeriodicTask")
    crontab: Any = apps.get_model("django_celery_beat", "CrontabSchedule")
    found = periodic.objects.filter(task=TASK, args=json.dumps([plan.pk]))
    if not plan.crontab:
        for task in found:
            task.delete()
        return
    if not _is_readable(plan.crontab):
        return  # never due, whatever a task says
    fields = dict(zip(_FIELDS, plan.crontab.split(), strict=True))
    given = {**fields, "timezone": timezone.get_default_timezone()}
    # There may be several of one schedule: nothing forbids it.
    schedule = crontab.objects.filter(**given).first() or crontab.objects.create(**given)
    task = found.first() or periodic(task=TASK, args=json.dumps([plan.pk]), description=_DESCRIPTION)
    name = f"llmcache: {plan.name} ({plan.pk})"
    if (task.name, task.crontab_id, task.enabled) != (name, schedule.pk, plan.enabled):
        task.name, task.crontab, task.enabled = name, schedule, plan.enabled
        task.interval = task.solar = task.clocked = None
        task.save()


def _is_readable(crontab: str) -> bool:
    try:
        parsed(crontab)
    except InvalidRequest:
        return False
    return True


def _unless_it_fails(work: Callable[..., None]) -> Callable[..., None]:
    """Answer a signal that no answer has caused. Nobody's save fails because the other table cannot be written."""

    @wraps(work)
    def run(instance: Any, raw: bool = False, **told: Any) -> None:
        if raw or _answering.get():
            return  # a fixture brings both
        token = _answering.set(True)
        model: Any = apps.get_model("django_celery_beat", "PeriodicTask")
        try:
            with transaction.atomic(using=router.db_for_write(model)):
                work(instance, **told)
        except Error as error:
            logger.warning(
                "A warming plan and its periodic task of django-celery-beat may differ: %s. "
                "Run manage.py migrate, which brings them in step.",
                type(error).__name__,
            )
        finally:
            _answering.reset(token)

    return run


@_unless_it_fails
def _plan_saved(instance: WarmingPlan, **_: Any) -> None:
    mirror(instance)


@_unless_it_fails
def _plan_deleted(instance: WarmingPlan, **_: Any) -> None:
    periodic: Any = apps.get_model("django_celery_beat", "PeriodicTask")
    for task in periodic.objects.filter(task=TASK, args=json.dumps([instance.pk])):
        task.delete()


@_unless_it_fails
def _task_saved(instance: Any, **_: Any) -> None:
    _follow(instance)


@_unless_it_fails
def _tasks_changed(instance: Any, **_: Any) -> None:  # noqa: ARG001
    """Look at all tasks where some have changed: the admin's actions write many at once, and send no other signal."""
    periodic: Any = apps.get_model("django_celery_beat", "PeriodicTask")
    for task in periodic.objects.filter(task=TASK).select_related("crontab"):
        _follow(task)


@_unless_it_fails
def _task_deleted(instance: Any, **_: Any) -> None:
    """Stop a plan whose task was deleted there; its crontab is kept."""
    if instance.task == TASK and (pk := _plan_of(instance)) is not None:
        _plans().filter(pk=pk).update(enabled=False)


def _follow(task: Any) -> None:
    """Let a plan follow its task; one that has another kind of schedule by now has no crontab to follow."""
    if task.task != TASK or (pk := _plan_of(task)) is None:
        return
    changed: dict[str, Any] = {"enabled": task.enabled}
    if task.crontab is not None:
        # Lists are written with spaces there at times, and a crontab has none within a field.
        changed["crontab"] = " ".join(str(getattr(task.crontab, name)).replace(" ", "") for name in _FIELDS)
    _plans().filter(pk=pk).exclude(**changed).update(**changed)


def _plans() -> QuerySet[WarmingPlan]:
    return WarmingPlan.objects.using(process.current().settings.database)


def _plan_of(task: Any) -> int | None:
    try:
        found = json.loads(task.args)
    except (TypeError, ValueError):
        return None
    return found[0] if isinstance(found, list) and len(found) == 1 and type(found[0]) is int else None


def _migrated(**_: Any) -> None:
    try:
        with transaction.atomic(using=_plans().db):
            plans = list(_plans().exclude(crontab=""))
    except Error:
        return  # its turn has not come yet
    for plan in plans:
        _plan_saved(plan)
