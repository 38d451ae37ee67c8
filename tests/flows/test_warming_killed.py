"""A process that is killed between an answer and its place in the cache: what is asked again is in doubt."""

import json
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from llmcache.testing.sandbox import Sandbox
from tests.flows.newcomer import ROOT, environment, manage, real_api

KILLED = """
import os, signal, sys, threading
import django
django.setup()
from django.core.management import call_command
from llmcache.engine.ports import BlockingPort
turn, stored, write = threading.Lock(), threading.Event(), BlockingPort.write

async def killed(*arguments):
    if turn.acquire(blocking=False):
        # Of the one answer everything is done but to say so.
        await write(*arguments)
        stored.set()
        threading.Event().wait()
    stored.wait()
    os.kill(os.getpid(), signal.SIGKILL)

BlockingPort.write = killed
call_command("llmcache_warm", "--json-lines", sys.argv[1], "--kind", "Ingredient")
"""


def test_what_is_asked_twice_after_a_kill_is_in_doubt(sandbox: Sandbox, var: Path, tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('"1 onion"\n"2 onions"\n')
    own = environment(var, DJANGO_SETTINGS_MODULE="project.settings", **real_api(sandbox))
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, path], cwd=ROOT, env=own, capture_output=True, timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert sandbox.calls == 2
    again = ("llmcache_warm", "--json-lines", str(path), "--kind", "Ingredient", "--json")
    done = manage(var, *again, **real_api(sandbox))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["live"], found["warmed"], sandbox.calls) == (1, 1, 3)
    with closing(sqlite3.connect(var / "db.sqlite3")) as database:
        outcomes = dict(database.execute("SELECT outcome, count(*) FROM llmcache_providercall GROUP BY outcome"))
    assert outcomes == {"answered": 1, "in_doubt": 2}
