"""The journal's thread: lines in order, brought to the disk in groups, and nobody left waiting."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmcache.money import journal_thread
from llmcache.money.journal import Journal
from llmcache.money.journal_files import read_journal

WAIT = 20.0


class Told:
    """What a line's sender is told."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.error: BaseException | None = None

    def __call__(self, error: BaseException | None) -> None:
        self.error = error
        self.event.set()

    def wait(self) -> BaseException | None:
        """Wait for it and return the error."""
        assert self.event.wait(WAIT)
        return self.error


def calls_in(folder: Path) -> list[tuple[str, str]]:
    """Return the lines of a folder's one file."""
    (path,) = folder.glob("*.journal")
    contents = read_journal(path, "abc")
    assert (contents.damaged, contents.foreign) == (0, 0)
    return [(record.event, record.call_id) for record in contents.records]


@pytest.fixture
def held_fsync(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets each fsync wait until it is let go, and counts them."""

    class Held:
        def __init__(self) -> None:
            self.count = 0
            self.begun = threading.Semaphore(0)
            self.free = threading.Event()

        def __call__(self, descriptor: int) -> None:
            real(descriptor)
            self.count += 1
            self.begun.release()
            assert self.free.wait(WAIT)

    real, held = os.fsync, Held()
    monkeypatch.setattr(os, "fsync", held)
    yield held
    held.free.set()


def test_lines_are_written_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "abc")
    for number in range(500):
        journal_thread.put(journal, "started", str(number), {}, None)
    assert journal_thread.drain(WAIT)
    assert calls_in(tmp_path) == [("started", str(number)) for number in range(500)]
    journal.close()


def test_what_comes_during_an_fsync_is_one_group(tmp_path: Path, held_fsync: Any) -> None:
    journal = Journal(tmp_path, "abc")
    first, others = Told(), [Told() for _ in range(100)]
    journal_thread.put(journal, "started", "first", {}, first, durable=True)
    for _ in range(2):  # the folder's own, for the file is new, and the line's
        assert held_fsync.begun.acquire(timeout=WAIT)
        before = held_fsync.count
        if before == 1:
            held_fsync.free.set()
            held_fsync.free.clear()
    for number, told in enumerate(others):
        journal_thread.put(journal, "started", str(number), {}, told, durable=True)
    assert not first.event.is_set()
    held_fsync.free.set()
    assert first.wait() is None
    assert [told.wait() for told in others] == [None] * 100
    # One fsync for all that came meanwhile; a second one where the first of them was taken alone.
    assert held_fsync.count - before <= 2
    journal.close()


def test_who_needs_no_fsync_is_told_when_the_line_is_written(tmp_path: Path, held_fsync: Any) -> None:
    journal = Journal(tmp_path, "abc")
    held_fsync.free.set()
    journal.started("file", {})
    held_fsync.free.clear()
    plain, durable = Told(), Told()
    journal_thread.put(journal, "settled", "1", {}, plain)
    journal_thread.put(journal, "started", "2", {}, durable, durable=True)
    assert plain.wait() is None
    assert not durable.event.is_set()
    assert ("settled", "1") in calls_in(tmp_path)
    held_fsync.free.set()
    assert durable.wait() is None
    journal.close()


def test_facts_that_make_no_line_are_their_senders_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "abc")
    bad, good = Told(), Told()
    journal_thread.put(journal, "started", "1", {"x": float("nan")}, bad, durable=True)
    journal_thread.put(journal, "started", "2", {}, good, durable=True)
    assert isinstance(bad.wait(), ValueError)
    assert good.wait() is None
    assert calls_in(tmp_path) == [("started", "2")]
    journal.close()


def test_a_folder_that_cannot_be_written_holds_nobody_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    journal = Journal(tmp_path / "file" / "folder", "abc")
    told = Told()
    journal_thread.put(journal, "started", "1", {}, told, durable=True)
    assert told.wait() is None
    assert journal.waiting == 1
    assert "Lines wait in memory" in caplog.text


def test_a_disk_that_cannot_sync_holds_nobody_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(descriptor: int) -> None:
        raise error

    journal = Journal(tmp_path, "abc")
    monkeypatch.setattr(os, "fsync", broken)
    for error in (OSError(5, "an input/output error"), RuntimeError("something else")):
        told = Told()
        journal_thread.put(journal, "started", type(error).__name__, {}, told, durable=True)
        assert told.wait() is None
    assert [call_id for _, call_id in calls_in(tmp_path)] == ["OSError", "RuntimeError"]
    assert "power failure" in caplog.text
    assert "could not be brought to the disk" in caplog.text
    monkeypatch.undo()
    journal.close()


def test_lines_of_many_journals(tmp_path: Path) -> None:
    journals = [Journal(tmp_path / str(number), "abc") for number in range(5)]
    told = [Told() for _ in range(50)]
    for number, each in enumerate(told):
        journal_thread.put(journals[number % 5], "started", str(number), {}, each, durable=True)
    assert [each.wait() for each in told] == [None] * 50
    for number, journal in enumerate(journals):
        assert [int(call_id) % 5 for _, call_id in calls_in(tmp_path / str(number))] == [number] * 10
        journal.close()


def test_a_forked_child_has_a_thread_of_its_own(tmp_path: Path, held_fsync: Any) -> None:
    journal = Journal(tmp_path, "abc")
    journal_thread.put(journal, "started", "parent", {}, None, durable=True)
    assert held_fsync.begun.acquire(timeout=WAIT)
    journal_thread.put(journal, "started", "waits in the parent", {}, None)

    def in_child() -> int:
        held_fsync.free.set()
        journal_thread.put(journal, "started", "child", {}, None, durable=True)
        return 0 if journal_thread.drain(WAIT) and len(list(tmp_path.glob("*.journal"))) == 2 else 1

    assert forked(in_child) == 0
    held_fsync.free.set()
    assert journal_thread.drain(WAIT)
    lines = sorted(
        record.call_id for path in tmp_path.glob("*.journal") for record in read_journal(path, "abc").records
    )
    assert lines == ["child", "parent", "waits in the parent"]
    journal.close()


def forked(work: Callable[[], int]) -> int:
    """Return the exit code of a forked child that does this work."""
    import warnings

    with warnings.catch_warnings():
        # From Python 3.12 on a fork beside threads warns; that is what preloading servers do.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        code = 1
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
