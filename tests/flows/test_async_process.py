"""Asynchronous calls over the life of a process: its first call, forks, signals and its end."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

import llmcache
from llmcache.engine import process
from llmcache.money.journal_files import JournalRecord, claim_dead
from llmcache.testing.sandbox import Sandbox
from tests.conftest import child_environment
from tests.flows.async_worker import Person


class Worker:
    """A process that makes asynchronous calls."""

    def __init__(self, word: str) -> None:
        command = [sys.executable, "-W", "error::ResourceWarning", "-m", "tests.flows.async_worker", word]
        self.process = subprocess.Popen(
            command, env=child_environment(), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def hear(self) -> dict[str, Any]:
        """Return what it says next."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.end()
        return json.loads(line)

    def tell(self) -> None:
        """Let it go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("go on\n")
        self.process.stdin.flush()

    def end(self) -> tuple[int, str]:
        """Return its exit code and what it wrote to standard error."""
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@contextlib.contextmanager
def working(word: str) -> Iterator[Worker]:
    """Start a worker; it is ended with the block."""
    worker = Worker(word)
    try:
        yield worker
    finally:
        # With its children, which hold its pipes.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.process.pid, signal.SIGKILL)
        worker.process.communicate()


def records_of_the_dead() -> list[JournalRecord]:
    """Return what the journals of processes that have ended say, in order."""
    found: list[JournalRecord] = []
    for journal in claim_dead(Path(settings.LLMCACHE["JOURNAL"]), process.current().namespace):
        assert (journal.contents.damaged, journal.contents.foreign) == (0, 0)
        found += journal.contents.records
        journal.release()
    return found


def test_the_first_call_of_a_process_holds_up_no_loop(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    sandbox.hold()
    with working("first") as worker:
        sandbox.wait_until_received(1)
        worker.tell()
        assert worker.hear() == {"beating": True}
        sandbox.release()
        told = worker.hear()
        assert worker.end()[0] == 0
    # What it was, for whoever reads the output; the machine decides, and the benchmark looks closer.
    with capsys.disabled():
        print(f" longest gap {told['longest_gap_ms']:.1f} ms of {told['beats']} beats", end=" ")
    done = {(thread.split("-", 2)[0] == "llmcache", what, of) for thread, what, of in told["done"]}
    imported = {of for ours, what, of in done if ours and what == "import"}
    assert {"openai", "httpx2", "genai_prices", "llmcache.answering"} <= imported
    # Nor any other flight.
    heavy = {thread.rstrip("1234") for thread, what, of in told["done"] if of in ("openai", "httpx2", "genai_prices")}
    assert heavy == {"llmcache-files-"}
    waits = {what for ours, what, _ in done if ours}
    assert {"fsync", "sqlite3.connect", "socket.connect"} <= waits
    callers = {(what, of.rsplit("/", 1)[-1]) for ours, what, of in done if not ours and what != "import"}
    small = {"background", "workers", "loading"}
    assert {of.partition(".")[0] for _, of in callers} <= small
    assert {what for what, _ in callers} <= {"open"}
    by_thread = {thread: what for thread, what, _ in told["done"] if what == "fsync"}
    assert set(by_thread) == {"llmcache-journal"}
    tier = {thread.rstrip("1234") for thread, what, of in told["done"] if what == "sqlite3.connect" and "tier" in of}
    # A lease that is held for long is renewed by a thread of its own.
    assert {"llmcache-files-"} <= tier <= {"llmcache-files-", "llmcache-turns-", "llmcache-watchdog"}


def test_a_program_that_ends_waits_for_what_is_paid(sandbox: Sandbox) -> None:
    sandbox.hold()
    with working("leave") as worker:
        sandbox.wait_until_received(1)
        worker.tell()
        assert worker.hear() == {"left": True}
        sandbox.release()
        assert worker.end()[0] == 0
    assert [record.event for record in records_of_the_dead()] == ["started", "settled", "stored"]
    assert (llmcache.extract_with_info("Ada", Person).tier, sandbox.received) == ("disk", 1)


def test_a_program_that_ends_does_not_wait_for_ever(sandbox: Sandbox) -> None:
    sandbox.hold()
    with working("leave") as worker:
        sandbox.wait_until_received(1)
        worker.tell()
        assert worker.hear() == {"left": True}
        assert worker.end()[0] == 0
    started, failed = records_of_the_dead()
    assert (started.event, failed.event, started.call_id) == ("started", "failed", failed.call_id)
    assert (failed.facts["error"], failed.facts["in_doubt"]) == ("interrupted", True)
    sandbox.release()


def test_an_interrupted_program_keeps_what_is_paid(sandbox: Sandbox) -> None:
    sandbox.hold()
    with working("wait") as worker:
        sandbox.wait_until_received(1)
        worker.process.send_signal(signal.SIGINT)
        sandbox.release()
        code, errors = worker.end()
    assert (code, "\nKeyboardInterrupt\n" in errors) == (-signal.SIGINT, True)
    assert [record.event for record in records_of_the_dead()] == ["started", "settled", "stored"]
    assert (llmcache.extract_with_info("Ada", Person).tier, sandbox.received) == ("disk", 1)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_program_leaves_its_call_in_doubt(end: signal.Signals, sandbox: Sandbox) -> None:
    sandbox.hold()
    with working("wait") as worker:
        sandbox.wait_until_received(1)
        worker.process.send_signal(end)
        assert worker.end()[0] == -end
    assert [record.event for record in records_of_the_dead()] == ["started"]
    sandbox.release()


def test_parent_and_forked_child_go_on_by_themselves(sandbox: Sandbox) -> None:
    with working("fork") as worker:
        assert worker.hear() == {"warm": True}
        sandbox.hold()
        sandbox.wait_until_received(2)
        worker.tell()
        assert worker.hear() == {"threads": [], "loop": True, "flights": 0, "errands": 0, "shared": 0}
        sandbox.release()
        outcomes = [worker.hear() for _ in range(4)]
        assert worker.end()[0] == 0
    assert {"child": ["hit", "miss", "hit", "miss"]} in outcomes
    assert {"sockets": 0} in outcomes
    assert {"parent": "miss", "child": 0} in outcomes
    assert {"again": "miss"} in outcomes
    assert sandbox.received == 5
    events = [record.event for record in records_of_the_dead()]
    assert (events.count("started"), events.count("settled")) == (5, 5)
