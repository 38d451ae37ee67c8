"""Celery tasks: each is one call of a plain function, with ids for arguments.

Whoever can write to the broker can send them, so that nothing but an id is taken from a message: what it stands for is
read from the ledger and the tiers of this project's name space, and types come from its settings. A task that is
delivered twice, or late, finds nothing to do. Celery imports this module by ``autodiscover_tasks()``; nothing else does
before a task is to be sent.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any, Final, ParamSpec

from celery import shared_task

from llmcache.engine import process
from llmcache.exceptions import InvalidRequest, LLMCacheError

logger = logging.getLogger("llmcache.tasks")

P = ParamSpec("P")

HOUSE_SECONDS: Final = 60.0
"""How often ``beat_schedule`` has ``keep_house`` run."""
SLICE_SECONDS: Final = 20.0
"""How long one task works at a run: a worker that is to end waits no longer, and other tasks have their turn."""
_BY: Final = "celery"
_OPTIONS: Final[dict[str, Any]] = {"acks_late": True, "ignore_result": True, "serializer": "json"}


def _quietly(work: Callable[P, object]) -> Callable[P, None]:
    """Let a task that is refused say so in one line, and end well: it would be refused again.

    Errors of ours only. No traceback: its frames hold texts.
    """

    takes = inspect.signature(work)

    @functools.wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            _require_ids(takes, args, kwargs)
            now = process.current()
            if now.test is None:
                # Who only works for others counts nothing, and would never begin to write what it has spent.
                now.writer.begin()
            work(*args, **kwargs)
        except LLMCacheError as error:
            why = getattr(error, "reason", None) or error.code
            logger.warning("The task %s was refused, or has failed: %s.", takes_name, why)

    takes_name = getattr(work, "__name__", "")
    return run


def _require_ids(takes: inspect.Signature, args: Any, kwargs: Any) -> None:
    try:
        takes.bind(*args, **kwargs)
    except TypeError:
        raise InvalidRequest("A task takes the ids that it is about, and nothing else.") from None
    # PostgreSQL refuses to look for a NUL.
    if any(isinstance(each, str) and "\0" in each for each in (*args, *kwargs.values())):
        raise InvalidRequest("A task takes ids, and no id has a NUL in it.")


@shared_task(name="llmcache.tasks.refresh_entry", **_OPTIONS)
@_quietly
def refresh_entry(key: str) -> None:
    """Ask anew for an entry that is past its time, found by its key in hex; does nothing for one that is not."""
    from llmcache.rewriting import renew

    renew(key)


@shared_task(name="llmcache.tasks.invalidate_planned", **_OPTIONS)
@_quietly
def invalidate_planned(uid: str) -> None:
    """Bring into force an invalidation that was planned, once it is due."""
    from llmcache.planned import bring_into_force

    bring_into_force(uid)


@shared_task(name="llmcache.tasks.work_on_run", **_OPTIONS)
@_quietly
def work_on_run(uid: str) -> None:
    """Ask for what a run of warming has left, for a while; what is left then is for another task."""
    from llmcache.housekeeping import work_for
    from llmcache.sending import try_to_send

    if work_for(uid, SLICE_SECONDS):
        try_to_send("work_on_run", uid)


@shared_task(name="llmcache.tasks.run_plan", **_OPTIONS)
@_quietly
def run_plan(pk: int) -> None:
    """Begin a run of a plan of warming, and have workers work at it."""
    from llmcache.sending import share_out
    from llmcache.warming import plans

    share_out(plans.run_plan(pk, made_by=_BY).uid)


@shared_task(name="llmcache.tasks.run_plan_if_due", **_OPTIONS)
@_quietly
def run_plan_if_due(pk: int) -> None:
    """Do as ``run_plan`` for one whose crontab says that it is time, unless that was seen to already."""
    from llmcache.sending import share_out, try_to_send
    from llmcache.warming import plans

    # By a message of its own: a worker that dies while it prepares the run has not lost the plan's turn.
    if plans.take_due(pk) and not try_to_send("run_plan", pk):
        share_out(plans.run_plan(pk, made_by=_BY).uid)


@shared_task(name="llmcache.tasks.run_due_plans", **_OPTIONS)
@_quietly
def run_due_plans() -> None:
    """Begin runs of the plans of warming that are due; ``keep_house`` does so too."""
    from llmcache.housekeeping import due_plans
    from llmcache.sending import try_to_send

    due_plans(process.current(), HOUSE_SECONDS, try_to_send)


@shared_task(name="llmcache.tasks.keep_house", **_OPTIONS)
@_quietly
def keep_house() -> None:
    """Do what is to be done now and then; see ``llmcache.housekeeping``."""
    from llmcache import housekeeping, planned
    from llmcache.sending import try_to_send

    housekeeping.keep_house(send=try_to_send)
    for uid, due_at in planned.coming(2 * HOUSE_SECONDS):
        # To the second, and not at the next round.
        try_to_send("invalidate_planned", uid, eta=due_at)


def beat_schedule() -> dict[str, dict[str, Any]]:
    """Return what Celery's beat has to run: ``CELERY_BEAT_SCHEDULE = {**beat_schedule(), …}``."""
    return {
        "llmcache-keep-house": {
            "task": "llmcache.tasks.keep_house",
            "schedule": HOUSE_SECONDS,
            # One that was not taken until the next is sent would only make a queue.
            "options": {"expires": HOUSE_SECONDS},
        }
    }
