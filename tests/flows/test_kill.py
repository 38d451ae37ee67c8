"""Processes killed under load: no charged call without a line in the journal, and the two books agree."""

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

from django.conf import settings

from llmcache.engine import process
from llmcache.money.journal_files import claim_dead, unsettled
from llmcache.testing.sandbox import Sandbox
from tests.conftest import child_environment

KILLS = 50
THREADS = 4


def test_killed_50_times_under_load(sandbox: Sandbox) -> None:
    sandbox.latency = 0.002
    chance = random.Random(20_261_121)
    environment = child_environment()
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        waiting = [_start(environment, nowhere, "first"), _start(environment, nowhere, "second")]
        for number in range(KILLS):
            worker = waiting.pop(0)
            # The next one starts while this one works: starting Python is most of the time.
            waiting.append(_start(environment, nowhere, f"worker {number}"))
            assert worker.stdout is not None
            for _ in range(THREADS):
                assert worker.stdout.readline(), "a worker ended by itself"
            threading.Event().wait(chance.uniform(0.0, 0.05))
            _kill(worker)
        for worker in waiting:
            _kill(worker)

    namespace = process.current().namespace
    folder = Path(settings.LLMCACHE["JOURNAL"])
    claimed = list(claim_dead(folder, namespace))
    started, settled, doubtful = set[str](), dict[str, dict[str, object]](), 0
    for journal in claimed:
        records = journal.contents.records
        # A kill may tear the line that was being written, and no other.
        assert journal.contents.damaged <= 1
        assert journal.contents.foreign == 0
        started |= {record.call_id for record in records if record.event == "started"}
        settled |= {record.call_id: record.facts for record in records if record.event == "settled"}
        in_doubt = unsettled(records)
        assert len(in_doubt) <= THREADS
        doubtful += len(in_doubt)
        journal.remove()
    assert len(claimed) >= KILLS
    assert list(folder.glob("*.journal")) == []

    charges = {charge["client_request_id"]: charge for charge in sandbox.charges()}
    assert len(charges) == sandbox.calls > KILLS * THREADS
    assert set(charges) <= started, "a charged call has no line in the journal"
    assert set(settled) <= set(charges)
    assert len(set(charges) - set(settled)) <= doubtful
    for call_id, facts in settled.items():
        for name in ("input_tokens", "cache_read_tokens", "output_tokens"):
            assert facts[name] == charges[call_id][name]


def _start(environment: dict[str, str], nowhere: object, name: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tests.flows.kill_worker", name]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=nowhere)  # type: ignore[call-overload]


def _kill(worker: "subprocess.Popen[bytes]") -> None:
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert worker.stdout is not None
    worker.stdout.close()
