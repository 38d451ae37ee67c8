"""The journal: whatever happens to process or disk, a line that was acknowledged is found, whole, by one claimer."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import json
import logging
import os
import re
import stat
import subprocess
import sys
import tempfile
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcache.money.journal import MAX_WAITING_LINES, Journal
from llmcache.money.journal_files import (
    MAX_LINE_BYTES,
    JournalContents,
    JournalRecord,
    JSONValue,
    claim_dead,
    encode_line,
    read_journal,
    read_part,
    unsettled,
)
from tests.waiting import until

NAMESPACE = "shop"
WORKER = Path(__file__).with_name("journal_worker.py")
WORKER_THREADS = 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def journal(folder: Path) -> Iterator[Journal]:
    journal = Journal(folder, NAMESPACE)
    yield journal
    journal.close()


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def read(folder: Path) -> JournalContents:
    return read_journal(only_file(folder), NAMESPACE)


def ids(contents: JournalContents) -> list[str]:
    return [record.call_id for record in contents.records]


def line(number: int, namespace: str = NAMESPACE) -> bytes:
    return encode_line(namespace, "started", f"call-{number}", 1.5, {"number": number})


def read_bytes(data: bytes) -> JournalContents:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return read_journal(Path(file.name), NAMESPACE)


def dead_journal(folder: Path, call_id: str = "dead", namespace: str = NAMESPACE) -> Path:
    """Leave a file as a dead process does: whole, and locked by nobody."""
    before = set(folder.iterdir()) if folder.exists() else set[Path]()
    journal = Journal(folder, namespace, fsync=False)
    journal.started(call_id, {})
    journal.close()
    (path,) = set(folder.iterdir()) - before
    return path


def in_threads(work: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextlib.contextmanager
def worker(role: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, str(WORKER), role, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        try:
            yield process
        finally:
            process.kill()


def heard(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def heard_to_the_end(process: subprocess.Popen[bytes]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.read().decode().split("\n")[:-1]


def go_on(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"x")


def run(role: str, folder: Path) -> list[str]:
    with worker(role, folder) as process:
        said = heard_to_the_end(process)
        assert process.wait(20) == 0
    return said


# Lines


def test_a_record_comes_back_as_it_was_written(folder: Path) -> None:
    facts: dict[str, JSONValue] = {
        "kind": "inbox",
        "tokens": 3,
        "share": 0.1,
        "ok": True,
        "none": None,
        "tags": ["ä\n"],
    }
    journal = Journal(folder, NAMESPACE, clock=lambda: 1700000000.1234567)
    journal.started("a", facts)
    journal.settled("a", {})
    journal.failed("b", {"nested": {"x": [1, None]}})
    journal.rejected("a", {"reason": "\ud800"})
    journal.close()
    at = 1700000000.123457
    assert read(folder) == JournalContents(
        [
            JournalRecord("started", "a", at, facts),
            JournalRecord("settled", "a", at, {}),
            JournalRecord("failed", "b", at, {"nested": {"x": [1, None]}}),
            JournalRecord("rejected", "a", at, {"reason": "\ud800"}),
        ],
        damaged=0,
        foreign=0,
    )


def test_a_line_can_be_read_without_this_package(journal: Journal, folder: Path) -> None:
    journal.started("a", {"kind": "inbox"})
    namespace, checksum, text = only_file(folder).read_text().split(" ", 2)
    fields = json.loads(text)
    assert (namespace, text[-1]) == (NAMESPACE, "\n")
    assert (fields["e"], fields["id"], fields["kind"]) == ("started", "a", "inbox")
    assert int(checksum, 16) == zlib.crc32(f"{NAMESPACE} {text[:-1]}".encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
FACTS = st.dictionaries(st.text().filter(lambda name: name not in {"e", "id", "t"}), JSON)


@settings(deadline=None)
@given(call_id=st.text(), facts=FACTS)
def test_any_json_survives(call_id: str, facts: dict[str, JSONValue]) -> None:
    (record,) = read_bytes(encode_line(NAMESPACE, "settled", call_id, 7, facts)).records
    assert record == JournalRecord("settled", call_id, 7.0, facts)


@pytest.mark.parametrize("name", ["e", "id", "t"])
def test_facts_cannot_replace_what_the_line_says_itself(journal: Journal, name: str) -> None:
    with pytest.raises(ValueError, match=f"named {name}"):
        journal.started("a", {name: "x"})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "x" * MAX_LINE_BYTES], ids=["nan", "inf", "long"])
def test_facts_that_could_not_be_read_again_are_refused(journal: Journal, folder: Path, value: JSONValue) -> None:
    with pytest.raises(ValueError):
        journal.started("a", {"value": value})
    journal.started("b", {})
    assert ids(read(folder)) == ["b"]


@pytest.mark.parametrize("namespace", ["", "Shop", "a-b", "a b", "a\n", "ä", "x" * 65])
def test_a_namespace_of_another_form_is_refused(folder: Path, namespace: str) -> None:
    with pytest.raises(ValueError, match="0-9 and a-z"):
        Journal(folder, namespace)


# Reading


def test_a_file_cut_anywhere_gives_its_whole_lines() -> None:
    data = line(0) + line(1) + line(2)
    for length in range(len(data)):
        contents = read_bytes(data[:length])
        whole = data[:length].count(b"\n")
        assert ids(contents) == [f"call-{number}" for number in range(whole)]
        assert contents.damaged == (not data[:length].endswith(b"\n") and length > 0)


def test_any_flipped_bit_costs_its_line_and_no_other() -> None:
    lines = [line(0), line(1), line(2)]
    for position in range(len(lines[1]) - 1):
        for bit in range(8):
            edited = bytearray(lines[1])
            edited[position] ^= 1 << bit
            contents = read_bytes(lines[0] + bytes(edited) + lines[2])
            assert ids(contents) == ["call-0", "call-2"]
            assert (contents.damaged >= 1, contents.foreign) == (True, 0)


@settings(deadline=None)
@given(junk=st.binary())
def test_junk_is_counted_and_skipped(junk: bytes) -> None:
    contents = read_bytes(line(0) + junk + b"\n" + line(1))
    assert ids(contents) == ["call-0", "call-1"]
    assert (contents.damaged, contents.foreign) == (junk.count(b"\n") + 1, 0)


WRONG = {
    "no fields": "{}",
    "unknown event": '{"e":"paid","id":"a","t":1}',
    "event of another type": '{"e":[],"id":"a","t":1}',
    "id of another type": '{"e":"started","id":1,"t":1}',
    "time of another type": '{"e":"started","id":"a","t":"1"}',
    "infinite time": '{"e":"started","id":"a","t":1e999}',
    "no JSON": '{"e":"started","id":"a","t":}',
    "too deep": '{"a":' + "[" * 100_000 + "}",
    "no UTF-8": '{"e":"started","id":"\udcff","t":1}',
}


@pytest.mark.parametrize("case", WRONG)
def test_a_right_checksum_over_something_else_is_damage(case: str) -> None:
    text = WRONG[case].encode(errors="surrogateescape")
    checksum = zlib.crc32(f"{NAMESPACE} ".encode() + text)
    assert read_bytes(b"%b %08x %b\n" % (NAMESPACE.encode(), checksum, text)) == JournalContents([], 1, 0)


def test_lines_of_another_namespace_are_foreign() -> None:
    contents = read_bytes(line(0, "other") + line(1) + line(2, "shopping"))
    assert (ids(contents), contents.damaged, contents.foreign) == (["call-1"], 0, 2)


def test_a_line_too_long_is_skipped_in_bounded_memory() -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(line(0))
        for _ in range(32):
            file.write(b"x" * MAX_LINE_BYTES)
        file.write(b"\n" + line(1))
        file.flush()
        tracemalloc.start()
        contents = read_journal(Path(file.name), NAMESPACE)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert (ids(contents), contents.damaged) == (["call-0", "call-1"], 1)
    assert peak < 8 * MAX_LINE_BYTES


def test_the_longest_line_that_is_written_is_read() -> None:
    spare = MAX_LINE_BYTES - len(encode_line(NAMESPACE, "started", "a", 1, {"x": ""}))
    assert ids(read_bytes(encode_line(NAMESPACE, "started", "a", 1, {"x": "x" * spare}))) == ["a"]
    with pytest.raises(ValueError, match="at most"):
        encode_line(NAMESPACE, "started", "a", 1, {"x": "x" * (spare + 1)})


def test_a_descriptor_is_read_from_where_it_stands_and_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(line(0) + line(1))
    descriptor = os.open(path, os.O_RDONLY)
    os.lseek(descriptor, len(line(0)), os.SEEK_SET)
    assert ids(read_journal(descriptor, NAMESPACE)) == ["call-1"]
    os.close(descriptor)


def test_calls_in_doubt_are_those_that_started_and_did_not_end() -> None:
    def record(event: str, call_id: str) -> bytes:
        return encode_line(NAMESPACE, event, call_id, 1, {})  # pyright: ignore[reportArgumentType]

    data = record("settled", "early") + b"".join(
        record("started", call_id) for call_id in ("early", "settled", "failed", "doubt", "rejected")
    )
    data += record("settled", "settled") + record("failed", "failed") + record("rejected", "rejected")
    doubtful = unsettled(read_bytes(data).records)
    assert {call_id: found.event for call_id, found in doubtful.items()} == {"doubt": "started", "rejected": "started"}


# The process's own file


def test_nothing_is_made_before_the_first_line(journal: Journal, folder: Path) -> None:
    assert not folder.exists()
    journal.started("a", {})
    path = only_file(folder)
    assert re.fullmatch(rf"{NAMESPACE}-{os.getpid()}-[0-9a-f]+-[0-9a-f]{{4}}\.journal", path.name)
    assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(folder.stat().st_mode)) == (0o600, 0o700)


def test_a_line_after_close_begins_another_file(journal: Journal, folder: Path) -> None:
    journal.started("a", {})
    journal.close()
    journal.close()
    journal.settled("a", {})
    assert len(list(folder.iterdir())) == 2
    assert [ids(claimed.contents) for claimed in claim_dead(folder, NAMESPACE)] == [["a"]]


def test_many_threads_write_whole_lines(journal: Journal, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, syncs = os.fsync, list[int]()

    def counted(descriptor: int) -> None:
        real(descriptor)
        syncs.append(descriptor)

    def work(thread: int) -> None:
        for number in range(500):
            journal.started(f"{thread}-{number}", {"thread": thread})

    journal.started("first", {})
    monkeypatch.setattr(os, "fsync", counted)
    in_threads(work, 16)
    contents = read(folder)
    assert (len(contents.records), contents.damaged) == (8001, 0)
    assert set(ids(contents)) == {"first"} | {f"{thread}-{number}" for thread in range(16) for number in range(500)}
    assert 0 < len(syncs) <= 8000


def test_lines_written_during_an_fsync_share_the_next(
    journal: Journal, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, syncs = os.fsync, list[int]()

    def slow(descriptor: int) -> None:
        syncs.append(descriptor)
        if len(syncs) == 1:
            until(lambda: len(read(folder).records) == 1 + 8)
        real(descriptor)

    journal.started("first", {})
    monkeypatch.setattr(os, "fsync", slow)
    in_threads(lambda thread: journal.started(str(thread), {}), 8)
    # A thread that stops between its line and its wait, for that long, needs a third.
    assert len(syncs) in (2, 3)


def test_a_line_is_synced_before_started_returns(
    journal: Journal, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, lengths, late = os.fsync, [0], list[str]()

    def measured(descriptor: int) -> None:
        length = os.fstat(descriptor).st_size
        real(descriptor)
        lengths.append(length)

    def work(thread: int) -> None:
        for number in range(50):
            journal.started(f"<{thread}-{number}>", {})
            if path.read_bytes().index(f"<{thread}-{number}>".encode()) >= max(lengths):
                late.append(f"{thread}-{number}")

    journal.started("first", {})
    path = only_file(folder)
    monkeypatch.setattr(os, "fsync", measured)
    in_threads(work, 4)
    assert late == []


def test_what_no_money_hangs_on_is_not_synced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(descriptor: int) -> None:
        raise AssertionError("fsync")

    synced, unsynced = Journal(folder, NAMESPACE), Journal(folder, NAMESPACE, fsync=False)
    for journal in (synced, unsynced):
        journal.started("a", {})
    monkeypatch.setattr(os, "fsync", refused)
    synced.rejected("a", {})
    unsynced.settled("a", {})
    unsynced.close()
    monkeypatch.undo()
    synced.close()
    assert sorted(len(claimed.contents.records) for claimed in claim_dead(folder, NAMESPACE)) == [2, 2]


# A place that cannot be written


@pytest.fixture
def news(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING, "llmcache.ledger")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "llmcache.ledger"]


def test_lines_wait_for_a_folder_and_arrive_in_order(tmp_path: Path, news: Callable[[], list[str]]) -> None:
    # Below a regular file no folder can be made, not even by root.
    blocker = tmp_path / "blocker"
    blocker.touch()
    journal = Journal(blocker / "journal", NAMESPACE)
    for number in range(5):
        journal.started(str(number), {})
    assert (journal.waiting, journal.lost, len(news())) == (5, 0, 1)
    assert all(part in news()[0] for part in (str(blocker), os.strerror(errno.ENOTDIR), "LLMCACHE['JOURNAL']", "cost"))

    blocker.unlink()
    journal.started("5", {})
    assert (journal.waiting, ids(read(blocker / "journal"))) == (0, ["0", "1", "2", "3", "4", "5"])
    journal.started("6", {})
    assert (len(news()), "is written again" in news()[1]) == (2, True)
    journal.close()


def test_close_writes_what_waits(tmp_path: Path, news: Callable[[], list[str]]) -> None:
    blocker = tmp_path / "blocker"
    blocker.touch()
    journal = Journal(blocker, NAMESPACE)
    journal.started("a", {})
    journal.close()
    assert journal.waiting == 1
    blocker.unlink()
    journal.close()
    assert (journal.waiting, ids(read(blocker)), len(news())) == (0, ["a"], 2)


def test_memory_is_bounded_and_losses_are_counted(tmp_path: Path, news: Callable[[], list[str]]) -> None:
    blocker = tmp_path / "blocker"
    blocker.touch()
    journal = Journal(blocker, NAMESPACE)
    for number in range(MAX_WAITING_LINES + 3):
        journal.rejected(str(number), {})
    assert (journal.waiting, journal.lost, len(news())) == (MAX_WAITING_LINES, 3, 2)

    blocker.unlink()
    journal.started("last", {})
    assert ids(read(blocker)) == [*map(str, range(3, MAX_WAITING_LINES + 3)), "last"]
    assert (journal.waiting, journal.lost, len(news()), "3 lines" in news()[2]) == (0, 3, 3, True)
    journal.close()


def test_without_a_folder_lines_are_kept_in_memory(news: Callable[[], list[str]]) -> None:
    journal = Journal(None, NAMESPACE)
    for number in range(MAX_WAITING_LINES):
        journal.started(str(number), {})
    assert (journal.waiting, journal.lost, news()) == (MAX_WAITING_LINES, 0, [])
    journal.started("one more", {})
    journal.started("and one", {})
    journal.close()
    assert (journal.waiting, journal.lost, len(news())) == (MAX_WAITING_LINES, 2, 1)


def test_a_deleted_folder_is_made_again(journal: Journal, folder: Path, news: Callable[[], list[str]]) -> None:
    journal.started("a", {})
    only_file(folder).unlink()
    folder.rmdir()
    journal.settled("a", {})
    journal.settled("b", {})
    # The call under way is in the new file from its start on.
    assert (ids(read(folder)), len(news()), "deleted" in news()[0]) == (["a", "a", "b"], 2, True)


def test_a_descriptor_that_others_closed_is_not_written_to(
    journal: Journal, folder: Path, tmp_path: Path, news: Callable[[], list[str]]
) -> None:
    journal.started("a", {})
    ours = descriptor_of(only_file(folder))
    with (tmp_path / "stranger").open("wb") as stranger:
        # As code does that closes all descriptors to become a daemon, and then opens files of its own.
        os.dup2(stranger.fileno(), ours)
        journal.settled("a", {})
        journal.close()
        os.close(ours)
    assert (tmp_path / "stranger").read_bytes() == b""
    assert sorted(ids(claimed.contents) for claimed in claim_dead(folder, NAMESPACE)) == [["a"], ["a", "a"]]
    assert len(news()) == 2


def descriptor_of(path: Path) -> int:
    for descriptor in range(3, 1024):
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
    raise AssertionError("not open")


def test_a_file_at_its_size_limit_keeps_whole_lines(folder: Path) -> None:
    said = run("limited", folder)
    contents = read(folder)
    waiting, lost = map(int, said[0].split())
    assert (0 < waiting < 100, lost, said[1]) == (True, 0, "0 0")
    assert (ids(contents), contents.damaged) == ([str(number) for number in range(101)], 0)


@pytest.mark.parametrize("can_truncate", [True, False])
def test_a_line_written_in_part_does_not_touch_the_next(
    journal: Journal, folder: Path, monkeypatch: pytest.MonkeyPatch, can_truncate: bool
) -> None:
    real = os.write

    def half(descriptor: int, data: bytes) -> int:
        return real(descriptor, data[: len(data) // 2])

    def refused(descriptor: int, length: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    journal.started("a", {})
    monkeypatch.setattr(os, "write", half)
    if not can_truncate:
        monkeypatch.setattr(os, "ftruncate", refused)
    journal.settled("a", {})
    assert journal.waiting == 1
    monkeypatch.undo()
    journal.started("b", {})
    contents = read(folder)
    assert [(record.event, record.call_id) for record in contents.records] == [
        ("started", "a"),
        ("settled", "a"),
        ("started", "b"),
    ]
    assert contents.damaged == (0 if can_truncate else 1)


def test_a_disk_that_cannot_sync_is_reported_once(
    journal: Journal, folder: Path, monkeypatch: pytest.MonkeyPatch, news: Callable[[], list[str]]
) -> None:
    def refused(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", refused)
    journal.started("a", {})
    journal.settled("a", {})
    journal.rejected("a", {})
    assert (len(news()), os.strerror(errno.EIO) in news()[0], journal.waiting) == (1, True, 0)
    monkeypatch.undo()
    journal.started("b", {})
    journal.settled("b", {})
    assert (len(news()), ids(read(folder))) == (2, ["a", "a", "a", "b", "b"])


# Forks


def test_a_child_has_its_own_file_and_does_not_hide_its_parents_death(folder: Path) -> None:
    with worker("fork", folder) as process:
        child = int(heard(process).split()[1])
        assert len(list(folder.iterdir())) == 2
        assert list(claim_dead(folder, NAMESPACE)) == []
        process.kill()
        process.wait(20)
        (claimed,) = claim_dead(folder, NAMESPACE)
        assert ids(claimed.contents) == ["parent"]
        claimed.remove()
        assert only_file(folder).name.startswith(f"{NAMESPACE}-{child}-")
        go_on(process)
        assert heard_to_the_end(process) == []
    until(lambda: [ids(claimed.contents) for claimed in claim_dead(folder, NAMESPACE)] == [["child", "child"]])


def test_a_child_does_not_hold_its_parents_claims(folder: Path) -> None:
    dead_journal(folder)
    with worker("fork_with_claim", folder) as process:
        assert heard(process) == "child"
        assert list(claim_dead(folder, NAMESPACE)) == []
        process.kill()
        process.wait(20)
        (claimed,) = claim_dead(folder, NAMESPACE)
        assert ids(claimed.contents) == ["dead"]
        claimed.remove()
        go_on(process)
        assert heard_to_the_end(process) == []


def test_lines_in_memory_stay_the_parents(tmp_path: Path) -> None:
    blocker = tmp_path / "blocker"
    blocker.touch()
    assert run("fork_waiting", blocker) == ["child 0", "parent 1"]


def test_a_fork_amid_writing_threads_leaves_no_lock_behind(folder: Path) -> None:
    assert run("fork_busy", folder) == ["done"]
    claims = [claimed.contents for claimed in claim_dead(folder, NAMESPACE)]
    children = [ids(contents) for contents in claims if ids(contents)[0].startswith("child")]
    assert sorted(children) == sorted([f"child-{number}"] for number in range(20))
    assert (len(claims), sum(contents.damaged for contents in claims)) == (21, 0)


def test_a_fork_waits_for_a_file_that_is_being_opened(folder: Path) -> None:
    assert run("fork_amid_opening", folder) == ["0"]


# Claims


def test_after_kill_9_every_acknowledged_call_is_found(folder: Path) -> None:
    for _ in range(10):
        with worker("calls", folder) as process:
            acknowledged = [heard(process) for _ in range(100)]
            process.kill()
            acknowledged += heard_to_the_end(process)
            process.wait(20)
        (claimed,) = claim_dead(folder, NAMESPACE)
        started = {record.call_id for record in claimed.contents.records if record.event == "started"}
        assert set(acknowledged) <= started
        assert len(unsettled(claimed.contents.records)) <= WORKER_THREADS
        assert claimed.contents.damaged == (not claimed.path.read_bytes().endswith(b"\n"))
        claimed.remove()
        assert list(folder.iterdir()) == []


def test_two_claimers_get_each_file_once(folder: Path) -> None:
    for number in range(50):
        dead_journal(folder, str(number))
    with worker("claim", folder) as first, worker("claim", folder) as second:
        assert heard(first) == heard(second) == "ready"
        go_on(first)
        go_on(second)
        said = heard_to_the_end(first) + heard_to_the_end(second)
    assert sorted(said) == sorted(map(str, range(50)))
    assert list(folder.iterdir()) == []


def test_a_dead_claimers_file_goes_to_the_next(folder: Path) -> None:
    dead = dead_journal(folder)
    with worker("claim_and_hold", folder) as process:
        claimed_name = heard(process)
        assert claimed_name.startswith(dead.stem)
        assert only_file(folder).name == claimed_name
        assert list(claim_dead(folder, NAMESPACE)) == []
        process.kill()
        process.wait(20)
    (claimed,) = claim_dead(folder, NAMESPACE)
    assert (ids(claimed.contents), claimed.path.name.startswith(dead.stem)) == (["dead"], True)
    claimed.remove()
    assert list(folder.iterdir()) == []


def test_a_released_claim_is_for_the_next_claimer(folder: Path) -> None:
    dead_journal(folder)
    (first,) = claim_dead(folder, NAMESPACE)
    assert list(claim_dead(folder, NAMESPACE)) == []
    first.release()
    (second,) = claim_dead(folder, NAMESPACE)
    first.remove()
    assert (second.path.exists(), ids(second.contents)) == (True, ["dead"])
    second.remove()
    second.release()
    assert list(folder.iterdir()) == []


def test_own_open_journals_are_not_claimed(journal: Journal, folder: Path) -> None:
    journal.started("a", {})
    assert list(claim_dead(folder, NAMESPACE)) == []
    journal.settled("a", {})
    journal.close()
    (claimed,) = claim_dead(folder, NAMESPACE)
    assert ids(claimed.contents) == ["a", "a"]
    claimed.release()


def test_a_forgotten_journal_can_be_claimed(folder: Path) -> None:
    journal = Journal(folder, NAMESPACE)
    journal.started("a", {})
    del journal
    gc.collect()
    assert [ids(claimed.contents) for claimed in claim_dead(folder, NAMESPACE)] == [["a"]]


def test_a_closed_journal_can_be_claimed_while_others_have_its_descriptor(journal: Journal, folder: Path) -> None:
    journal.started("a", {})
    copy = os.dup(descriptor_of(only_file(folder)))
    journal.close()
    assert [ids(claimed.contents) for claimed in claim_dead(folder, NAMESPACE)] == [["a"]]
    os.close(copy)


def test_a_file_that_changes_under_the_claim_is_let_go(
    journal: Journal, folder: Path, monkeypatch: pytest.MonkeyPatch, news: Callable[[], list[str]]
) -> None:
    journal.started("a", {})
    living = only_file(folder)
    dead, real = dead_journal(folder), fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        # The dead file has been opened by its name, which now becomes the living one's.
        if living.exists() and os.path.samestat(os.fstat(descriptor), dead.stat()):
            living.replace(dead)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    assert list(claim_dead(folder, NAMESPACE)) == []
    journal.settled("a", {})
    assert (only_file(folder), ids(read(folder)), news()) == (dead, ["a", "a"], [])


def test_what_is_not_ours_is_not_touched(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, foreign = dead_journal(folder), dead_journal(folder, namespace="shopping")
    target = ours.rename(tmp_path / "target")
    ours.symlink_to(target)
    (folder / "notes.journal").write_text("mine")
    (folder / f"{NAMESPACE}-1-ff-0000.journal").mkdir()
    os.mkfifo(folder / f"{NAMESPACE}-1-ff-0001.journal")
    before = sorted(folder.iterdir())
    assert list(claim_dead(folder, NAMESPACE)) == []
    assert (sorted(folder.iterdir()), len(target.read_bytes().splitlines())) == (before, 1)

    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert list(claim_dead(folder, "shopping")) == []
    assert foreign.exists()


def test_a_folder_that_cannot_be_read_has_no_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "llmcache.ledger")
    assert list(claim_dead(tmp_path / "missing", NAMESPACE)) == []
    assert [record.levelname for record in caplog.records] == ["DEBUG"]


def test_files_that_never_got_their_name_are_removed_when_their_maker_is_dead(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait(20)
    folder.mkdir()
    living, dead, locked = (
        folder / f"{NAMESPACE}-{pid}-ff-{number:04x}.new"
        for number, pid in enumerate((os.getpid(), process.pid, process.pid))
    )
    for path in (living, dead, locked):
        path.touch()
    with locked.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert list(claim_dead(folder, NAMESPACE)) == []
    assert (living.exists(), dead.exists(), locked.exists()) == (True, False, True)


def test_lines_of_a_file_that_was_deleted_can_still_be_read(journal: Journal, folder: Path) -> None:
    journal.started("a", {})
    journal.settled("a", {})
    only_file(folder).unlink()
    (deleted,) = journal.files()
    assert ids(read_part(deleted.held.descriptor, 0, deleted.size, NAMESPACE)[0]) == ["a", "a"]
    journal.started("b", {})
    deleted, current = journal.files()
    assert (deleted.current, current.current) == (False, True)
    assert ids(read_part(deleted.held.descriptor, 0, deleted.size, NAMESPACE)[0]) == ["a", "a"]
    journal.remove(deleted)
    (current,) = journal.files()
    assert ids(read_part(current.held.descriptor, 0, current.size, NAMESPACE)[0]) == ["b"]


def test_a_file_that_was_cut_is_read_as_far_as_it_goes(journal: Journal, folder: Path) -> None:
    journal.started("a", {})
    journal.started("b", {})
    (file,) = journal.files()
    # Behind the first line, which may be longer than the second: a time has as many digits as it needs.
    path = only_file(folder)
    os.truncate(path, path.read_bytes().index(b"\n") + 1)
    contents, done = read_part(file.held.descriptor, 0, file.size, NAMESPACE)
    assert (ids(contents), contents.damaged, done) == (["a"], 1, file.size)
