"""``manage.py llmcache_housekeep``: what the task ``keep_house`` does, for cron."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandParser

from llmcache import request
from llmcache.housekeeping import SECONDS, keep_house
from llmcache.management.output import SpokenCommand, failed


class Command(SpokenCommand):
    """Does each step of house-keeping once."""

    help = (
        "Bring planned invalidations into force, journals of dead processes and rows of entries up to date, and delete "
        "rows that are older than RETENTION says. For cron, once a minute, where no Celery beat does it. What is "
        "not done in time is left for the next run, and two at once do no harm. Exit status: 0; 1 when a step has "
        "failed; 2 when the arguments cannot be used; 130 when it was interrupted."
    )

    def add_own_arguments(self, parser: CommandParser) -> None:
        """Add the command's own arguments."""
        parser.add_argument(
            "--seconds",
            type=float,
            default=SECONDS,
            help=f"how long all steps together may take (default: {SECONDS:g})",
        )

    def work(self, **options: Any) -> None:
        """Keep house, and say what was done."""
        house = keep_house(request.duration(options["seconds"]))
        if self.json:
            self.say_json(asdict(house))
        else:
            for name, done in house.done.items():
                self.say(f"{name}: {_told(done)}")
        if house.failed:
            raise failed("; ".join(f"{name} failed: {error}" for name, error in house.failed.items()))


def _told(done: Any) -> str:
    if isinstance(done, dict):
        return ", ".join(f"{count} {name}" for name, count in done.items() if count) or "nothing"
    return {True: "all in", False: "not all in"}[done] if isinstance(done, bool) else str(done)
