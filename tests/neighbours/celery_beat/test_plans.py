"""Plans of warming among the periodic tasks of django-celery-beat, and its scheduler over them."""

import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask
from django_celery_beat.schedulers import DatabaseScheduler

from llmcache import tasks
from llmcache.models import WarmingPlan, WarmingRun
from llmcache.testing.sandbox import Sandbox
from llmcache.warming import plans
from tests.neighbours.conftest import llmcache_settings

pytestmark = pytest.mark.django_db


def nightly(**more: Any) -> WarmingPlan:
    given = {"source": "texts", "texts": "a text", "kind": "title", "crontab": "30 3 * * mon-fri", **more}
    return WarmingPlan.objects.create(name="nightly", **given)


def periodic() -> Any:
    """Return the one task that is a plan's; None where there is none."""
    found = PeriodicTask.objects.filter(task=tasks.run_plan_if_due.name)
    assert len(found) < 2
    return found.select_related("crontab").first()


def written(task: Any) -> str:
    fields = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
    return " ".join(getattr(task.crontab, field) for field in fields)


def test_a_plan_with_a_crontab_is_a_periodic_task() -> None:
    plan = nightly()
    task = periodic()
    assert (json.loads(task.args), written(task), task.enabled) == ([plan.pk], "30 3 * * mon-fri", True)
    assert ("nightly" in task.name, task.crontab.timezone) == (True, timezone.get_default_timezone())
    plan.name, plan.enabled, plan.crontab = "at noon", False, "0 12 * * *"
    plan.save()
    task = periodic()
    assert ("at noon" in task.name, task.enabled, written(task)) == (True, False, "0 12 * * *")
    plan.crontab = ""
    plan.save()
    assert periodic() is None
    plan.enabled = True
    plan.save()
    plan.crontab = "0 12 * * *"
    plan.save()
    plan.refresh_from_db()
    assert (periodic().enabled, plan.enabled) == (True, True)
    plan.delete()
    assert periodic() is None


def test_what_is_changed_at_the_task_is_changed_at_the_plan() -> None:
    plan = nightly(enabled=False)
    task = periodic()
    task.crontab = CrontabSchedule.objects.create(minute="5, 10", hour="4", timezone=timezone.get_default_timezone())
    task.enabled = True
    task.save()
    plan.refresh_from_db()
    assert (plan.crontab, plan.enabled) == ("5,10 4 * * *", True)
    # A plan knows no other schedule. It keeps its own, and the task gets that again.
    task.crontab, task.interval = None, IntervalSchedule.objects.create(every=5, period="minutes")
    task.save()
    plan.refresh_from_db()
    assert plan.crontab == "5,10 4 * * *"
    plan.save()
    assert (written(periodic()), periodic().interval) == ("5,10 4 * * *", None)
    periodic().delete()
    plan.refresh_from_db()
    assert (plan.crontab, plan.enabled) == ("5,10 4 * * *", False)


@pytest.mark.parametrize("args", ["", "null", "[]", '["1"]', "[1, 2]", "[true]", "{", '{"pk": 1}', "[999999]"])
def test_a_task_of_ours_that_is_no_plans_changes_none(args: str) -> None:
    plan = nightly()
    before = WarmingPlan.objects.values().get()
    other = PeriodicTask(
        name="by hand", task=tasks.run_plan_if_due.name, args=args, crontab=periodic().crontab, enabled=False
    )
    other.save()
    other.delete()
    assert WarmingPlan.objects.values().get() == before
    assert periodic().args == f"[{plan.pk}]"


def test_what_beat_writes_changes_no_plan() -> None:
    """It writes tasks whole, from what it has read before; and whatever it writes, all tasks are looked at."""
    plan = nightly()
    as_beat_has_read_it = periodic()
    plan.enabled, plan.crontab = False, "0 12 * * *"
    plan.save()
    as_beat_has_read_it.total_run_count += 1
    as_beat_has_read_it.no_changes = True
    as_beat_has_read_it.save()
    PeriodicTask.objects.create(name="another", task="shop.tasks.tidy", crontab=periodic().crontab)
    plan.refresh_from_db()
    assert (plan.enabled, plan.crontab) == (False, "0 12 * * *")
    plan.save()
    assert (periodic().enabled, written(periodic())) == (False, "0 12 * * *")
    # By a statement for many rows, which sends no signal.
    WarmingPlan.objects.update(enabled=True)
    periodic().save()
    plan.refresh_from_db()
    assert plan.enabled
    plan.crontab, plan.enabled = "nonsense", True
    plan.save()
    assert not periodic().enabled
    PeriodicTask.objects.get(name="another").save()
    assert WarmingPlan.objects.get().crontab == "nonsense"


def test_all_tasks_of_a_plan_follow_it() -> None:
    plan = nightly()
    other = PeriodicTask.objects.create(
        name="by hand", task=tasks.run_plan_if_due.name, args=f"[ {plan.pk} ]", crontab=periodic().crontab
    )
    plan.enabled = False
    plan.save()
    assert not any(PeriodicTask.objects.filter(task=tasks.run_plan_if_due.name).values_list("enabled", flat=True))
    other.delete()
    plan.enabled = True
    plan.save()
    assert periodic().enabled


def test_a_task_that_was_made_another_ones_keeps_its_name() -> None:
    plan = nightly()
    PeriodicTask.objects.filter(task=tasks.run_plan_if_due.name).update(task="shop.tasks.tidy")
    plan.save()
    assert periodic().name == f"llmcache: nightly ({plan.pk}) 2"
    call_command("migrate", verbosity=0)
    assert periodic().name == f"llmcache: nightly ({plan.pk}) 2"


@pytest.mark.parametrize("given", [{"timezone": "Asia/Tokyo"}, {"minute": ",".join(map(str, range(59)))}])
def test_a_schedule_that_no_plan_can_have_is_not_taken_over(given: dict[str, str]) -> None:
    plan = nightly()
    task = periodic()
    task.crontab = CrontabSchedule.objects.create(
        **{"minute": "0", "hour": "3", "timezone": timezone.get_default_timezone(), **given}
    )
    task.save()
    plan.refresh_from_db()
    assert (plan.crontab, plan.enabled) == ("30 3 * * mon-fri", True)
    plan.save()
    assert written(periodic()) == "30 3 * * mon-fri"


def test_the_scheduler_has_it_and_one_of_two_begins_a_run(sandbox: Sandbox) -> None:
    """Beat's task and the one that keeps house both look whether the plan is due."""
    with llmcache_settings(
        KINDS={"title": {"type": dict[str, str]}}, PROVIDERS={"openai": {"base_url": sandbox.base_url, "api_key": "x"}}
    ):
        plan = nightly(crontab="* * * * *", made_at=datetime.now(UTC) - timedelta(minutes=3))
        app = Celery("beat", broker="memory://")
        scheduler = DatabaseScheduler(app=app, lazy=True)
        (entry,) = [each for each in scheduler.schedule.values() if each.task == tasks.run_plan_if_due.name]
        assert list(entry.args) == [plan.pk]
        tasks.run_plan_if_due(*entry.args)
        assert sent(app) == [tasks.run_plan.name]
        assert plans.due_plans() == []
        tasks.run_plan_if_due(*entry.args)
        assert sent(app) == []
        WarmingPlan.objects.update(due_at=datetime.now(UTC) - timedelta(minutes=3))
        assert [each.pk for each in plans.due_plans()] == [plan.pk]
        tasks.run_plan_if_due(*entry.args)
        assert sent(app) == []
        # Whoever gets the message begins the run.
        tasks.run_plan(plan.pk)
        assert WarmingRun.objects.get().plan == plan
        assert sent(app) == [tasks.work_on_run.name] * 4


def sent(app: Celery) -> list[str]:
    """Return the tasks that were sent since the last look."""
    found: list[str] = []
    with app.connection_for_read() as connection, connection.SimpleQueue(app.conf.task_default_queue) as queue:
        while queue.qsize():
            message = queue.get(block=False)
            message.ack()
            found.append(message.headers["task"])
    return found


def test_in_its_admin(client: Client) -> None:
    client.force_login(User.objects.create_superuser("ada"))
    plan = nightly()
    page = client.get(reverse("admin:django_celery_beat_periodictask_changelist"))
    assert "llmcache: nightly" in page.content.decode()
    for action, enabled in (("disable_tasks", False), ("enable_tasks", True)):
        selected = {"action": action, "_selected_action": [periodic().pk]}
        client.post(reverse("admin:django_celery_beat_periodictask_changelist"), selected)
        plan.refresh_from_db()
        assert (periodic().enabled, plan.enabled) == (enabled, enabled)


def test_plans_from_before_get_their_tasks_by_migrate() -> None:
    nightly()
    PeriodicTask.objects.all()._raw_delete("default")
    assert periodic() is None
    call_command("migrate", verbosity=0)
    assert periodic() is not None


def test_a_plan_is_saved_where_the_other_table_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE django_celery_beat_periodictask RENAME TO gone")
    with caplog.at_level(logging.WARNING, "llmcache.tasks"):
        plan = nightly()
    assert WarmingPlan.objects.filter(pk=plan.pk).exists()
    assert "Run manage.py migrate" in caplog.text
