"""A real Celery worker that forks: each child has a journal and counts of its own, and loses none at its end."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from llmcache.testing.sandbox import Sandbox
from tests.toys import Toy, bill

MakeToy = Callable[..., Toy]

APP = """
import os
from pathlib import Path

import django
from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "toy.settings")
django.setup()
queue = Path(__file__).parent / "queue"
queue.mkdir(exist_ok=True)
app = Celery("toy", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": str(queue), "data_folder_out": str(queue), "control_folder": str(queue / "control"),
}
app.conf.broker_connection_retry_on_startup = False
app.conf.worker_prefetch_multiplier = 1
app.conf.task_ignore_result = True

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
"""
SEND = "import sys, worker; [worker.read.delay(f'text {n}') for n in range(int(sys.argv[1]))]"
TASKS = 24


@pytest.mark.parametrize("warm", ["", "yes"])
def test_a_worker_that_forks_loses_no_call_and_no_count(warm: str, sandbox: Sandbox, make_toy: MakeToy) -> None:
    toy = make_toy("sqlite-immediate", sandbox.base_url)
    (toy.folder / "worker.py").write_text(APP)
    toy.run("-c", SEND, str(TASKS))
    arguments = ("-m", "celery", "-A", "worker", "worker", "--pool=prefork", "--concurrency=3", "--loglevel=WARNING")
    with toy.started(
        *arguments, "--without-gossip", "--without-mingle", "--without-heartbeat", TOY_WARM=warm
    ) as worker:
        expected = TASKS + bool(warm)
        until = time.monotonic() + 90
        while (sandbox.calls < expected or list((toy.folder / "queue").glob("*.msg"))) and time.monotonic() < until:
            time.sleep(0.05)
        worker.terminate()
        assert worker.wait(60) == 0
    ledger: dict[str, Any] = toy.told("ledger")
    assert sandbox.calls == expected
    assert {call["call_id"]: call["cost_pico_usd"] for call in ledger["calls"]} == bill(sandbox)
    stats = ledger["stats"]
    assert (stats["misses"], stats["hits"], stats["calls"], stats["calls_in_doubt"]) == (expected, TASKS, expected, 0)
