"""Whether somebody keeps house: what Celery's beat is told to run, in the settings or in the project's app."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, cast

from django.conf import settings as django_settings

if TYPE_CHECKING:
    from llmcache.conf import Settings

TASK: Final = "llmcache.tasks.keep_house"


def is_scheduled() -> bool:
    """Return whether beat is told to run ``keep_house``, as far as settings tell; rows of its own are not looked at."""
    return any(_runs_it(schedule) for schedule in _schedules())


def kinds_by_task(settings: Settings) -> list[str]:
    """Return the kinds whose stale answers are refreshed by tasks; an empty name is all that no kind is said of."""
    named = [kind for kind, told in settings.kinds.items() if told.refresh == "celery"]
    return ["", *named] if settings.refresh == "celery" else named


def why_no_task(settings: Settings) -> list[str]:
    """Return why stale answers cannot be refreshed by tasks although settings want it, in sentences."""
    kinds = kinds_by_task(settings)
    if not kinds:
        return []
    if find_spec("celery") is None:
        return ["Celery is not installed."]
    if settings.keep_requests == "no":
        return ["LLMCACHE['KEEP_REQUESTS'] is 'no', so that no task could make a request again."]
    registered = [kind for kind, told in settings.kinds.items() if told.type is not None]
    if "" in kinds and not registered:
        return ["LLMCACHE['KINDS'] registers no response type, so that no task could make a request again."]
    return [
        f"LLMCACHE['KINDS'][{kind!r}] has no 'type', so that no task could make a request of this kind again."
        for kind in kinds
        if kind and kind not in registered
    ]


def has_plans(using: str) -> bool:
    """Return whether a plan of warming is to run by the clock."""
    from llmcache.models import WarmingPlan

    return WarmingPlan.objects.using(using).filter(enabled=True).exclude(crontab="").exists()


def _schedules() -> Iterator[object]:
    yield getattr(django_settings, "CELERY_BEAT_SCHEDULE", None)
    # Of whatever is wrong with the project's app, its own start says so.
    with contextlib.suppress(Exception):
        from llmcache.sending import project_app

        yield project_app().conf.beat_schedule


def _runs_it(schedule: object) -> bool:
    if not isinstance(schedule, Mapping):
        return False
    entries: list[Any] = list(cast("Mapping[Any, Any]", schedule).values())
    return any(isinstance(each, Mapping) and each.get("task") == TASK for each in entries)
