"""The disk store: the file and its folder, other processes, and everything that can happen to a file."""

import contextlib
import fcntl
import logging
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmcache.exceptions import ConfigurationError
from llmcache.tiers import disk, disk_file
from llmcache.tiers.disk import SWEEP_EVERY, SWEEP_ROWS, DiskStore, DiskTier, store_at
from llmcache.tiers.disk_file import DiskFile
from tests.waiting import until

VALUE = b"x" * 3_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "a folder?with#odd%20names"


@pytest.fixture
def store(folder: Path) -> Iterator[DiskStore]:
    store = DiskStore(folder)
    yield store
    store.close()


@pytest.fixture
def file(folder: Path) -> Path:
    return folder / "entries.sqlite3"


def fill(folder: Path, count: int = 60) -> None:
    """Write ``count`` entries and leave one whole file, with no log beside it."""
    store = DiskStore(folder)
    for number in range(count):
        store.set(f"key-{number}", VALUE, 10_000)
    store.close()


def rows(file: Path, statement: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        return connection.execute(statement).fetchall()


def script(text: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run a program that uses the store in a process of its own; warnings are errors there too."""
    return subprocess.run(
        [
            sys.executable,
            "-X",
            "dev",
            "-W",
            "error",
            "-W",
            "ignore::DeprecationWarning",
            "-c",
            text,
            *map(str, arguments),
        ],
        timeout=60,
        capture_output=True,
        text=True,
    )


def succeeds(done: "subprocess.CompletedProcess[str]") -> None:
    assert (done.returncode, done.stderr) == (0, "")


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# -- folder and file


def test_folder_and_file_are_for_their_user_alone(store: DiskStore, folder: Path) -> None:
    assert not folder.exists()
    store.set("key", VALUE, None)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_a_folder_that_is_there_keeps_its_mode(store: DiskStore, folder: Path, file: Path) -> None:
    folder.mkdir(mode=0o755)
    store.set("key", VALUE, None)
    assert folder.stat().st_mode & 0o777 == 0o755
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder of another user: root's, or for root one that was given away."""
    if os.geteuid() != 0:
        return Path("/")
    given = tmp_path / "foreign"
    given.mkdir()
    os.chown(given, 65_534, 65_534)
    return given


@pytest.mark.parametrize("by", ["itself", "a symlink"])
def test_a_folder_of_another_user_is_refused(by: str, foreign: Path, tmp_path: Path) -> None:
    path = foreign
    if by == "a symlink":
        path = tmp_path / "link"
        path.symlink_to(foreign)
    before = set(foreign.iterdir())
    tier = DiskTier("disk", DiskStore(path))
    for use in (lambda: tier.get("key"), lambda: tier.set("key", VALUE, None)):
        with pytest.raises(ConfigurationError, match=r"LLMCACHE\['DISK_PATH'\].*of your own") as caught:
            use()
        assert str(path) in str(caught.value)
    assert set(foreign.iterdir()) == before


def test_a_symlink_to_a_folder_of_ones_own_is_followed(store: DiskStore, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    folder.symlink_to(tmp_path / "real")
    store.set("key", VALUE, None)
    assert (tmp_path / "real" / "entries.sqlite3").exists()


def test_the_path_is_the_store(folder: Path) -> None:
    assert store_at(folder) is store_at(folder)
    assert store_at(folder).path == folder
    assert store_at(folder / "other") is not store_at(folder)


# -- rows


def test_bytes_are_bytes_whatever_type_a_row_has(store: DiskStore, file: Path) -> None:
    for key in ("text", "number", "fraction", "expires text", "expires bytes"):
        store.set(key, b"value", 1_000)
    rows(file, "UPDATE entries SET value = 'text' WHERE key = CAST('text' AS BLOB)")
    rows(file, "UPDATE entries SET value = 5 WHERE key = CAST('number' AS BLOB)")
    rows(file, "UPDATE entries SET value = 0.5 WHERE key = CAST('fraction' AS BLOB)")
    rows(file, "UPDATE entries SET expires = 'never' WHERE key = CAST('expires text' AS BLOB)")
    rows(file, "UPDATE entries SET expires = x'ff' WHERE key = CAST('expires bytes' AS BLOB)")
    assert (store.get("text"), store.get("number"), store.get("fraction")) == (b"text", None, None)
    assert (store.get("expires text"), store.get("expires bytes")) == (b"value", b"value")


@pytest.mark.parametrize(
    "key", ["", "a", "a\0", "a\0b", "a\0c", "ключ", "キー", "\U0001f511", "é", "e\u0301", "7", "x" * 5_000]
)
def test_a_key_is_its_own_text_and_no_other(key: str, store: DiskStore, file: Path) -> None:
    others = [each for each in ("", "a", "a\0", "a\0b", "a\0c", "é", "e\u0301", "7", "7.0") if each != key]
    for each in others:
        store.set(each, each.encode(), None)
    assert store.get(key) is None
    store.set(key, VALUE, None)
    assert (store.get(key), [store.get(each) for each in others]) == (VALUE, [each.encode() for each in others])
    assert (key.encode(),) in rows(file, "SELECT key FROM entries WHERE typeof(key) = 'blob'")
    assert store.delete(key)
    assert store.get(key) is None


def test_what_is_no_text_is_no_key(store: DiskStore) -> None:
    with pytest.raises(UnicodeEncodeError):
        store.get("\ud800")


def test_one_is_found_by_the_index(store: DiskStore, file: Path) -> None:
    store.set("key", VALUE, None)
    with contextlib.closing(sqlite3.connect(file)) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {disk._GET}", ("key", 0.0)).fetchall()
    assert [step[-1] for step in plan] == ["SEARCH entries USING INDEX sqlite_autoindex_entries_1 (key=?)"]


def test_expired_rows_go_by_and_by(folder: Path, file: Path) -> None:
    now = [1_000_000.0]
    store = DiskStore(folder, clock=lambda: now[0])
    expired = SWEEP_ROWS + 300
    for number in range(expired):
        store.set(f"old-{number}", b"", 10)
    store.set("lasting", b"", 1_000)
    store.set("endless", b"", None)
    now[0] += 10
    count = "SELECT count(*) FROM entries"
    assert rows(file, count) == [(expired + 2,)]
    left: list[int] = []
    for _ in range(2):
        for _ in range(SWEEP_EVERY):
            store.set("new", b"", None)
        left.append(int(str(rows(file, count)[0][0])))
    assert left == [303, 3]
    assert (store.get("lasting"), store.get("endless")) == (b"", b"")
    store.close()


def test_clear_removes_rows_gives_space_back_and_touches_nothing_else(
    store: DiskStore, folder: Path, file: Path
) -> None:
    fill(folder, 200)
    (folder / "neighbour").write_text("stays")
    rows(file, "CREATE TABLE neighbour AS SELECT 1 AS stays")
    before = file.stat().st_size
    store.clear()
    assert store.get("key-1") is None
    store.close()
    assert file.stat().st_size < before / 4
    assert (folder / "neighbour").read_text() == "stays"
    assert rows(file, "SELECT stays FROM neighbour") == [(1,)]


def test_add_and_touch(folder: Path) -> None:
    now = [1_000_000.0]
    store = DiskStore(folder, clock=lambda: now[0])
    assert (store.add("key", b"1", 10), store.add("key", b"2", 10), store.get("key")) == (True, False, b"1")
    assert (store.touch("key", 100), store.touch("absent", 100)) == (True, False)
    now[0] += 50
    assert (store.get("key"), store.add("key", b"2", 10)) == (b"1", False)
    now[0] += 50
    assert (store.get("key"), store.touch("key", 10), store.add("key", b"2", None)) == (None, False, True)
    now[0] += 1e9
    assert (store.add("key", b"3", 10), store.touch("key", 0), store.get("key")) == (False, True, None)
    assert (store.add("over", b"1", 0), store.get("over")) == (True, None)
    store.close()


# -- processes and threads

OPEN_AT_ONCE = """
import sys
from pathlib import Path
from llmcache.tiers.disk import DiskStore
for number in range(10):
    sys.stdin.readline()
    store = DiskStore(Path(sys.argv[1]) / str(number))
    store.set(sys.argv[2], sys.argv[2].encode(), None)
    assert store.get(sys.argv[2]) == sys.argv[2].encode()
    store.close()
    print("done", flush=True)
"""


def test_eight_processes_begin_a_file_at_once(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", OPEN_AT_ONCE, str(tmp_path), f"from-{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        for number in range(8)
    ]
    with contextlib.ExitStack() as stack:
        for process in processes:
            stack.enter_context(process)
            stack.callback(process.kill)
        for _ in range(10):
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("go\n")
            for process in processes:
                assert process.stdout is not None
                assert process.stdout.readline() == "done\n", process.stderr and process.stderr.read()
        assert [process.communicate(timeout=30)[1] for process in processes] == [""] * 8
    for number in range(10):
        assert rows(tmp_path / str(number) / "entries.sqlite3", "SELECT count(*) FROM entries") == [(8,)]
        assert [path.name for path in (tmp_path / str(number)).iterdir()] == ["entries.sqlite3"]


def test_one_process_reads_what_another_writes(store: DiskStore, folder: Path) -> None:
    store.set("ours", b"from us", None)
    succeeds(
        script(
            "import sys; from pathlib import Path; from llmcache.tiers.disk import DiskStore\n"
            "store = DiskStore(Path(sys.argv[1]))\n"
            "assert store.get('ours') == b'from us'\n"
            "store.set('theirs', b'from them', 100); store.delete('ours')\n",
            folder,
        )
    )
    assert (store.get("theirs"), store.get("ours")) == (b"from them", None)


WRITE_UNTIL_KILLED = """
import itertools, sys
from pathlib import Path
from llmcache.tiers.disk import DiskStore
store = DiskStore(Path(sys.argv[1]))
for number in itertools.count():
    store.set(f"key-{number}", bytes([number % 256]) * 5_000, None)
    print(number, flush=True)
"""


def test_a_writer_that_is_killed_leaves_what_it_wrote(folder: Path, file: Path) -> None:
    written = -1
    for round_ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", WRITE_UNTIL_KILLED, str(folder)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                written = int(line)
                if written >= 40 + 13 * round_:
                    process.send_signal(signal.SIGKILL)
                    break
            # What it still said before the signal came.
            written = max([written, *(int(line) for line in process.stdout if line.endswith("\n"))])
        assert process.returncode == -signal.SIGKILL
        store = DiskStore(folder)
        assert all(store.get(f"key-{number}") == bytes([number % 256]) * 5_000 for number in range(written + 1))
        store.set("after", b"goes on", None)
        assert store.get("after") == b"goes on"
        store.close()
    assert rows(file, "PRAGMA integrity_check") == [("ok",)]
    assert [path.name for path in folder.iterdir()] == ["entries.sqlite3"]


def test_connections_end_with_their_threads(store: DiskStore, folder: Path) -> None:
    for number in range(5):
        thread = threading.Thread(target=store.set, args=(f"key-{number}", VALUE, None))
        thread.start()
        thread.join()
        # SQLite removes its log when the last connection closes, and there was no other.
        assert [path.name for path in folder.iterdir()] == ["entries.sqlite3"]
    assert all(store.get(f"key-{number}") == VALUE for number in range(5))


def test_connections_end_with_their_process_and_without_a_warning(folder: Path) -> None:
    succeeds(
        script(
            "import sys, threading; from pathlib import Path; from llmcache.tiers.disk import DiskStore\n"
            "store = DiskStore(Path(sys.argv[1]))\n"
            "thread = threading.Thread(target=store.set, args=('key', b'value', None))\n"
            "thread.start(); thread.join(); assert store.get('key') == b'value'\n"
            "other = DiskStore(Path(sys.argv[1])); assert other.get('key') == b'value'; del other\n",
            folder,
        )
    )
    assert [path.name for path in folder.iterdir()] == ["entries.sqlite3"]


def test_a_store_can_be_used_after_close(store: DiskStore) -> None:
    store.set("key", VALUE, None)
    store.close()
    assert store.get("key") == VALUE
    store.close()
    store.close()
    store.set("key", b"again", None)
    assert store.get("key") == b"again"


# The parent closes while the child has the file open. If the child's connection had no locks of its own, as it has not
# when one was carried over the fork, the parent's would be the last one and remove the log that the child writes to.
CHILD_HOLDS_ITS_OWN_LOCKS = """
import os, sys
from pathlib import Path
from llmcache.tiers.disk import DiskStore
store = DiskStore(Path(sys.argv[1]))
store.set("before", b"the fork", None)
(child_reads, parent_writes), (parent_reads, child_writes) = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    assert store.get("before") == b"the fork"
    os.write(child_writes, b"x")
    os.read(child_reads, 1)
    store.set("from the child", b"kept", None)
    os._exit(0)
assert store.get("before") == b"the fork"
os.read(parent_reads, 1)
store.close()
os.write(parent_writes, b"x")
assert os.waitpid(child, 0)[1] == 0
assert store.get("from the child") == b"kept", "lost"
"""


def test_a_child_has_locks_of_its_own(folder: Path) -> None:
    succeeds(script(CHILD_HOLDS_ITS_OWN_LOCKS, folder))


# -- a damaged file


def begins_anew(folder: Path, caplog: pytest.LogCaptureFixture, reason: str = "damaged") -> None:
    """Check that the first read of a fresh store is a miss with one warning, and that all works from then on."""
    caplog.clear()
    tier = DiskTier("disk", DiskStore(folder))
    assert tier.get("key-1") is None
    (warning,) = warnings_in(caplog)
    assert str(folder / "entries.sqlite3") in warning
    assert "set aside" in warning
    tier.set("key-1", b"new", None)
    assert (tier.get("key-1"), tier.faults) == (b"new", 0)
    assert warnings_in(caplog) == [warning]
    aside = [path.name for path in folder.glob("entries.sqlite3.*") if not path.name.endswith(("-wal", "-shm"))]
    assert len(aside) == 1
    assert aside[0].startswith(f"entries.sqlite3.{reason}-")
    assert aside[0] in warning


@pytest.mark.parametrize("length", [1, 15, 16, 99, 100, 500])
def test_a_file_cut_within_its_header(length: int, folder: Path, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(folder)
    os.truncate(file, length)
    begins_anew(folder, caplog)


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_a_file_cut_after_some_pages(keep: int, folder: Path, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(folder)
    os.truncate(file, keep * 4_096)
    begins_anew(folder, caplog)


@pytest.mark.parametrize("content", [b"garbage " * 2_000, b"\0" * 20_000, b"SQLite format 3\0" + b"\xff" * 9_000])
def test_a_file_that_is_something_else(
    content: bytes, folder: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(folder)
    file.write_bytes(content)
    begins_anew(folder, caplog)


def test_a_table_that_is_gone_or_another(folder: Path, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(folder)
    rows(file, "ALTER TABLE entries RENAME COLUMN used TO misused")
    begins_anew(folder, caplog)


@pytest.mark.parametrize("layout", [2, 99])
def test_a_file_of_another_layout(layout: int, folder: Path, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(folder)
    rows(file, f"PRAGMA user_version = {layout}")
    begins_anew(folder, caplog, f"layout-{layout}")
    (aside,) = folder.glob("*.layout-*")
    assert rows(aside, "SELECT count(*) FROM entries") == [(60,)]


def test_an_empty_file(folder: Path, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.mkdir()
    file.touch()
    begins_anew(folder, caplog)


def test_tree_pages_that_were_overwritten(folder: Path, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(folder)
    with file.open("r+b") as opened:
        for page in range(1, file.stat().st_size // 4_096):
            opened.seek(page * 4_096)
            opened.write(b"\x55" * 64)
    begins_anew(folder, caplog)


def test_any_flipped_bits_are_no_exception(folder: Path, file: Path) -> None:
    fill(folder, 20)
    whole = file.read_bytes()
    chance = random.Random(7)
    working = 0
    for _ in range(150):
        # Mostly where the structure is: the headers of file and pages.
        at = chance.choice(
            [chance.randrange(len(whole)), chance.randrange(100), chance.randrange(8) * 4_096 + chance.randrange(40)]
        )
        spoilt = bytearray(whole)
        spoilt[at] ^= 1 << chance.randrange(8)
        for path in folder.iterdir():
            path.unlink()
        file.write_bytes(spoilt)
        tier = DiskTier("disk", store := DiskStore(folder))
        for number in (0, 7, 19):
            assert type(tier.get(f"key-{number}")) in (bytes, type(None))
        tier.set("key-7", b"new", None)
        tier.set("other", b"other", None)
        store.close()
        # A bit in the header makes the file one that may only be read: that is a fault, with its warning.
        assert (tier.get("key-7"), tier.get("other")) == (b"new", b"other") or tier.faults, f"byte {at}"
        working += not tier.faults
        store.close()
    assert working > 140


@pytest.mark.parametrize("written", [False, True])
def test_damage_under_an_open_connection(written: bool, store: DiskStore, file: Path, folder: Path) -> None:
    fill(folder, 400)
    tier = DiskTier("disk", store)
    if written:
        # From now on SQLite knows the file's length from its log: a map of the file would be read beyond its end.
        tier.set("key-1", VALUE, None)
    assert tier.get("key-1") == VALUE
    os.truncate(file, 3 * 4_096)
    # What this connection still has in its own cache may be served; the rest is a miss, and no signal ends the process.
    assert {tier.get(f"key-{number}") for number in range(400)} <= {VALUE, None}
    tier.set("key-1", b"new", None)
    assert (tier.get("key-1"), tier.get("key-399")) == (b"new", None)
    store.close()
    assert rows(file, "PRAGMA integrity_check") == [("ok",)]


def test_of_many_that_find_the_damage_one_sets_it_aside(
    folder: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(folder)
    store = DiskStore(folder)
    opened, damaged = threading.Barrier(9), threading.Barrier(9)
    found: list[bytes | None] = []

    def work(number: int) -> None:
        store.delete(f"absent-{number}")
        opened.wait()
        damaged.wait()
        found.extend(store.get(f"key-{other}") for other in range(number, 60, 8))
        store.set(f"after-{number}", b"after", None)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    opened.wait()
    with file.open("r+b") as damage:
        for page in range(1, file.stat().st_size // 4_096):
            damage.seek(page * 4_096)
            damage.write(b"\x55" * 64)
    damaged.wait()
    for thread in threads:
        thread.join()
    assert set(found) <= {None, VALUE}
    assert len(found) == 60
    assert [store.get(f"after-{number}") for number in range(8)] == [b"after"] * 8
    assert len(list(folder.glob("entries.sqlite3.damaged-????????"))) == len(warnings_in(caplog)) == 1
    store.close()


# -- a file or folder that goes away


def test_a_removed_file_is_begun_anew_with_the_next_write(store: DiskStore, folder: Path, file: Path) -> None:
    store.set("key", VALUE, None)
    # The log of the removed file stays, and must not be played into the new one.
    file.unlink()
    store.set("other", b"other", None)
    assert (store.get("other"), store.get("key")) == (b"other", None)
    shutil.rmtree(folder)
    store.set("third", b"third", None)
    assert (store.get("third"), store.get("other")) == (b"third", None)
    store.close()
    assert rows(file, "PRAGMA integrity_check") == [("ok",)]


def test_a_folder_replaced_by_a_file(
    store: DiskStore, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "llmcache.tiers")
    tier = DiskTier("disk", store)
    tier.set("key", VALUE, None)
    store.close()
    folder.rename(tmp_path / "moved")
    folder.write_text("not a folder")
    for _ in range(3):
        assert tier.get("key") is None
        tier.set("key", b"new", None)
        tier.delete("key")
    assert tier.faults == 9
    with pytest.raises(OSError):
        store.get("key")
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in told] == ["WARNING", "WARNING"]
    assert "'disk' cannot be read" in told[0][1]
    assert "'disk' cannot be written" in told[1][1]

    folder.unlink()
    (tmp_path / "moved").rename(folder)
    caplog.clear()
    for _ in range(3):
        assert tier.get("key") == VALUE
        tier.set("key", VALUE, None)
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told == [("INFO", "The tier 'disk' can be read again."), ("INFO", "The tier 'disk' can be written again.")]
    assert tier.faults == 9


def test_a_folder_that_another_process_holds(folder: Path) -> None:
    fill(folder)
    tier = DiskTier("disk", store := DiskStore(folder))
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert (tier.get("key-1"), tier.faults) == (None, 1)
        # Each would wait for a second.
        assert tier.state().breaker == "open"
        assert [tier.get("key-1") for _ in range(50)] == [None] * 50
        assert tier.faults == 1
    finally:
        os.close(descriptor)
    until(lambda: tier.state().breaker == "closed")
    assert tier.get("key-1") == VALUE
    store.close()


def test_threads_do_not_queue_up_for_a_folder_that_another_process_holds(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All come before the first has found out. One waits for the folder, the others for that one, and not in a row."""
    fill(folder)
    store = DiskStore(folder)
    monkeypatch.setattr(disk_file, "_FORK_SECONDS", 0.05)
    opened: list[int] = []
    own = DiskFile._open

    def noted(self: DiskFile) -> object:
        opened.append(threading.get_ident())
        return own(self)

    monkeypatch.setattr(DiskFile, "_open", noted)
    errors: list[type[BaseException]] = []
    together = threading.Barrier(8)

    def read() -> None:
        together.wait(60)
        try:
            store.get("key-1")
        except TimeoutError as error:
            errors.append(type(error))

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        threads = [threading.Thread(target=read) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        os.close(descriptor)
    assert errors == [TimeoutError] * 8
    assert len(opened) == 1
    assert store.get("key-1") == VALUE
    store.close()


def test_a_fork_after_a_write_does_not_make_it_one_that_was_lost(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It closes the connection by which the store then notes and makes room."""
    store = DiskStore(folder)
    own = store._execute

    def then_forked(*given: Any) -> Any:
        done = own(*given)
        # What a fork in another thread does to this one.
        store.close()
        return done

    monkeypatch.setattr(store, "_execute", then_forked)
    tier = DiskTier("disk", store)
    tier.set("key", VALUE, None)
    assert (tier.get("key"), tier.faults) == (VALUE, 0)
    store.close()


FULL = """
import logging, resource, sys
from pathlib import Path
from llmcache.tiers.disk import DiskStore, DiskTier

records = []
handler = logging.Handler()
handler.emit = lambda record: records.append((record.levelname, record.getMessage()))
logging.getLogger("llmcache.tiers").addHandler(handler)
logging.getLogger("llmcache.tiers").setLevel(logging.INFO)
tier = DiskTier("disk", DiskStore(Path(sys.argv[1])))
tier.set("first", b"first", None)
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, unlimited[1]))
for number in range(100):
    tier.set(f"key-{number}", b"x" * 10_000, None)
assert 20 < tier.faults < 100, tier.faults
# What is small enough may still find room: one line for each change, and none for each fault.
assert [level for level, _ in records] == (["WARNING", "INFO"] * len(records))[:len(records)], records
assert all("written" in message for _, message in records), records
kept = [number for number in range(100) if tier.get(f"key-{number}") == b"x" * 10_000]
assert tier.get("first") == b"first" and len(kept) == 100 - tier.faults, (len(kept), tier.faults)
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
for number in range(100):
    tier.set(f"key-{number}", b"x" * 10_000, None)
assert records[-1][0] == "INFO", records
assert all(tier.get(f"key-{number}") == b"x" * 10_000 for number in range(100))
"""


def test_a_full_disk_drops_writes_and_is_read(folder: Path, file: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    succeeds(script(FULL, folder))
    assert rows(file, "PRAGMA integrity_check") == [("ok",)]


# Root may write anywhere, so it becomes somebody else first; the folder then belongs to that user.
READ_ONLY = """
import logging, os, sys
from pathlib import Path
from llmcache.tiers.disk import DiskStore, DiskTier

path, log = Path(sys.argv[1]), sys.argv[2]
records = []
handler = logging.Handler()
handler.emit = lambda record: records.append((record.levelname, record.getMessage()))
logging.getLogger("llmcache.tiers").addHandler(handler)
if os.geteuid() == 0:
    path.mkdir()
    os.chown(path, 65534, 65534)
    os.seteuid(65534)
writer = DiskStore(path)
writer.set("key", b"value", None)
if log == "a log":
    child = os.fork()
    if child == 0:
        writer.set("key", b"in the log", None)
        os._exit(0)  # leaves the log as it is
    os.waitpid(child, 0)
else:
    writer.close()
for file in path.iterdir():
    file.chmod(0o400)
path.chmod(0o500)
tier = DiskTier("disk", DiskStore(path))
for _ in range(3):
    assert tier.get("key") == (b"in the log" if log == "a log" else b"value")
    assert tier.get("absent") is None
    tier.set("other", b"other", None)
    assert tier.get("other") is None
assert tier.faults == 3, tier.faults
assert [level for level, _ in records] == ["WARNING"], records
assert "cannot be written" in records[0][1], records
path.chmod(0o700)
for file in path.iterdir():
    file.chmod(0o600)
for _ in range(2):  # the first one notices
    tier.set("other", b"other", None)
assert tier.get("other") == b"other"
"""


@pytest.mark.parametrize("log", ["no log", "a log"])
def test_a_folder_that_can_only_be_read(log: str, tmp_path: Path) -> None:
    # pytest's own folders are closed to others.
    place = Path("/tmp") / f"llmcache-test-{os.getpid()}-{time.monotonic_ns()}"
    place.mkdir(mode=0o755)
    try:
        succeeds(script(READ_ONLY, place / "cache", log))
    finally:
        if (place / "cache").exists():
            (place / "cache").chmod(0o700)
        shutil.rmtree(place)


def test_a_file_that_can_only_be_read_is_gone_back_to(store: DiskStore) -> None:
    """After a folder was locked for a moment, say; the question is a write, and no write will ever work there."""
    tier = DiskTier("llm", store)
    tier.set("key", VALUE, 60)
    store._file.connection().execute("PRAGMA query_only = ON", ())
    assert tier._answers()
    store._file.connection().execute("PRAGMA query_only = OFF", ())
    tier.close()
