"""Real Celery workers that fork: each child has a journal and counts of its own, and loses none at its end.

One of them also keeps house: it runs a plan of warming that is due, and brings into force what was planned.
"""

import contextlib
import os
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

from llmcache.testing.sandbox import Sandbox
from tests.cache_servers import RedisServer
from tests.toys import Toy, bill

MakeToy = Callable[..., Toy]

APP = """
import os
import signal
import threading
from pathlib import Path

import django
from celery import Celery

# As settings do.
from llmcache.tasks import beat_schedule

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "toy.settings")
from django.conf import settings

settings.LLMCACHE["KINDS"] = {"ahead": {"type": "notes.types.Title"}}
django.setup()
app = Celery("toy", broker=os.environ["TOY_BROKER"])
app.conf.task_default_queue = os.environ["TOY_QUEUE"]
app.conf.broker_connection_retry_on_startup = False
app.conf.worker_prefetch_multiplier = 1
app.conf.task_ignore_result = True
app.conf.beat_schedule = beat_schedule()
app.autodiscover_tasks()

import llmcache
from notes.types import Title

# The parent has called before it forks, as a module that extracts when it is imported would.
if os.environ.get("TOY_WARM"):
    llmcache.extract("asked by the parent", Title, kind="parent")


@app.task
def read(text):
    llmcache.extract(text, Title, kind="task")
    # Children take tasks by turns, so each of them has something to count.
    llmcache.extract(text, Title, kind="task")


@app.task
def read_and_go(text):
    read(text)
    # Once the task is done and before anything is written down by the clock.
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    Path("gone").write_text(str(os.getpid()))
"""
SEND = """
import sys, worker

first, count = map(int, sys.argv[1:])
for number in range(first, first + count):
    worker.read.delay(f"text {number}")
"""
PLAN = """
import worker, llmcache
from datetime import timedelta
from django.utils import timezone
from llmcache.models import WarmingPlan

now = timezone.now()
texts = "\\n".join(f"ahead {n}" for n in range(20))
made_at = now - timedelta(minutes=2)
WarmingPlan.objects.create(
    name="nightly", source="texts", texts=texts, kind="ahead", crontab="* * * * *", made_at=made_at
)
llmcache.invalidate(kind="parent", at=now + timedelta(seconds=2))
worker.app.send_task("llmcache.tasks.keep_house")
"""
GO = "import worker; worker.read_and_go.delay('read by one that goes')"
STOP = "import worker; worker.app.control.shutdown()"
RUNS = "SELECT state, calls FROM llmcache_warmingrun"
PLANNED = "SELECT in_force_at >= due_at FROM llmcache_plannedinvalidation"
TASKS, AHEAD = 24, 20


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 90
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)


@contextlib.contextmanager
def working(toy: Toy, *options: str, **variables: str) -> Iterator["subprocess.Popen[str]"]:
    """Have a worker of three processes work; fails unless it has ended in good order."""
    words = ("--pool=prefork", "--concurrency=3", "--loglevel=WARNING", *options)
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    with toy.started("-m", "celery", "-A", "worker", "worker", *words, *quiet, **variables) as worker:
        yield worker
        assert worker.wait(60) == 0


def told(toy: Toy, sql: str) -> list[tuple[Any, ...]]:
    """Return what the toy's database holds."""
    with contextlib.closing(sqlite3.connect(toy.folder / "db.sqlite3")) as database:
        return database.execute(sql).fetchall()


def went(toy: Toy) -> bool:
    """Return whether the child that wrote its number down has ended."""
    try:
        os.kill(int((toy.folder / "gone").read_text()), 0)
    except ProcessLookupError:
        return True
    except (FileNotFoundError, ValueError):
        pass
    return False


def test_workers_that_fork_lose_no_call_and_no_count(
    sandbox: Sandbox, make_toy: MakeToy, redis_server: RedisServer
) -> None:
    """Children end by their number of tasks and by SIGTERM; the first worker by SIGTERM, the second by a message."""
    toy = make_toy("sqlite-immediate", sandbox.base_url, TOY_BROKER=redis_server.url, TOY_QUEUE="toy")
    (toy.folder / "worker.py").write_text(APP)
    toy.run("-c", SEND, "0", str(TASKS))
    # So few that no three children can do them all: some have ended before the worker does.
    with working(toy, "--max-tasks-per-child=7") as worker:
        until(lambda: sandbox.calls >= TASKS)
        worker.terminate()
    asked = 2 * TASKS + 2
    with working(toy, TOY_WARM="yes"):
        toy.run("-c", SEND, str(TASKS), str(TASKS))
        toy.run("-c", PLAN)
        until(lambda: sandbox.calls >= asked - 1 + AHEAD)
        until(lambda: told(toy, RUNS)[:1] == [("done", AHEAD)] and told(toy, PLANNED) == [(1,)])
        toy.run("-c", GO)
        until(lambda: went(toy))
        toy.run("-c", STOP)
    ledger: dict[str, Any] = toy.told("ledger")
    assert sandbox.calls == asked + AHEAD
    assert {call["call_id"]: call["cost_pico_usd"] for call in ledger["calls"]} == bill(sandbox)
    stats = ledger["stats"]
    assert (stats["misses"], stats["hits"]) == (asked, 2 * TASKS + 1)
    assert (stats["calls"], stats["calls_in_doubt"]) == (asked + AHEAD, 0)
    # The plan was run once, and what was planned came into force in its time.
    assert told(toy, RUNS) == [("done", AHEAD)]
    assert told(toy, PLANNED) == [(1,)]
    assert told(toy, "SELECT kind, active FROM llmcache_invalidation") == [("parent", 1)]
