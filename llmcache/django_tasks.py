"""House-keeping and warming as tasks of Django's own, which there are from Django 6.0 on: ``keep_house.enqueue()``.

Importing this fails on an older Django; nothing imports it but who uses it. Django has no schedule for tasks: something
of the project's has to enqueue ``keep_house`` now and then.
"""

from __future__ import annotations

from django.tasks import task  # pyright: ignore[reportMissingModuleSource]

from llmcache import housekeeping
from llmcache.warming import plans
from llmcache.warming.work import work


@task
def keep_house() -> None:
    """Do what is to be done now and then; see ``llmcache.housekeeping``."""
    housekeeping.keep_house()


@task
def run_plan(pk: int) -> None:
    """Begin a run of a plan of warming, and ask for all of it."""
    work(plans.run_plan(pk).uid)


@task
def work_on_run(uid: str) -> None:
    """Ask for what a run of warming has left."""
    work(uid)
