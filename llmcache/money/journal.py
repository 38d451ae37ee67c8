"""The process's own journal: what it asked providers for, on disk before the request leaves.

The ledger's table is a view of these lines, so a call that was paid is known whatever happens to the process or the
database. One line an event, one ``write`` a line, one file a process; ``journal_files`` says what a line looks like and
who reads it. A call never fails because of its journal: lines that cannot be written wait in memory.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal, TypeAlias

from llmcache.money.journal_files import Event, HeldFile, JSONValue, check_namespace, encode_line

logger = logging.getLogger("llmcache.ledger")

# Some hundred bytes each: a few megabytes, and hours of calls for a busy process.
MAX_WAITING_LINES: Final = 10_000

_State: TypeAlias = Literal["whole", "unsynced", "unwritable", "losing"]

_NEWS: Final[dict[_State, str]] = {
    "whole": "The journal of provider calls in {folder} is written again; {lost} lines of this process were lost.",
    "unsynced": (
        "The journal of provider calls in {folder} cannot be brought to the disk ({reason}): a power failure may lose "
        "the record of paid calls. Check that disk, or set LLMCACHE['JOURNAL'] to a folder on another one."
    ),
    "unwritable": (
        "The journal of provider calls in {folder} cannot be written ({reason}). Lines wait in memory: when this "
        "process ends first, the ledger will not know of these calls and their cost. Check the folder's rights and "
        "free space, or set LLMCACHE['JOURNAL'] to another folder."
    ),
    "losing": (
        "The journal of provider calls ({folder}) has no room left in memory either: {limit} lines wait and each new "
        "one drops the oldest, whose cost the ledger will not know. Check the folder's rights and free space, or set "
        "LLMCACHE['JOURNAL'] to another folder."
    ),
}


class Journal:
    """Append-only record of this process's provider calls, for any number of threads.

    ``folder`` None keeps lines in memory alone. ``namespace`` is 1 to 64 of 0-9 and a-z. ``fsync`` brings ``started``,
    ``settled`` and ``failed`` to the disk before the method returns (one fsync serves the threads that wait for it);
    without it they survive the process but not a power failure. ``clock`` gives Unix seconds.

    The file is made with the first line. A forked child has none of its parent's lines and begins a file of its own.
    """

    def __init__(
        self, folder: Path | None, namespace: str, *, fsync: bool = True, clock: Callable[[], float] = time.time
    ) -> None:
        check_namespace(namespace)
        self._folder = folder
        self._namespace = namespace
        self._fsync = fsync
        self._clock = clock
        self._begin()
        _journals.add(self)

    def _begin(self) -> None:
        """Set what belongs to one process: at construction and in each forked child."""
        # Taken in this order. The first guards everything below; the second, the file while it is synced or closed.
        self._write_lock = threading.Lock()
        self._sync_lock = threading.Lock()
        self._file: HeldFile | None = None
        self._torn = False
        self._written_seq = 0
        self._synced_seq = 0
        self._waiting: deque[bytes] = deque()
        self._lost = 0
        self._state: _State = "whole"
        self._news: list[str] = []

    def started(self, call_id: str, facts: Mapping[str, JSONValue]) -> None:
        """Record an attempt; returns when the line is durable, so the request may leave.

        As the others: raises ValueError or TypeError for facts that make no line, and nothing else.
        """
        self._record("started", call_id, facts, durable=self._fsync)

    def settled(self, call_id: str, facts: Mapping[str, JSONValue]) -> None:
        """Record that the provider answered, and what it charged."""
        self._record("settled", call_id, facts, durable=self._fsync)

    def failed(self, call_id: str, facts: Mapping[str, JSONValue]) -> None:
        """Record that the attempt ended without an answer, and what is known of its cost."""
        self._record("failed", call_id, facts, durable=self._fsync)

    def rejected(self, call_id: str, facts: Mapping[str, JSONValue]) -> None:
        """Record that the answer settled before did not pass validation; no money hangs on it, so no fsync."""
        self._record("rejected", call_id, facts, durable=False)

    def close(self) -> None:
        """Write what waits, if it can be written, and leave the file to claimers; a later line begins another."""
        with self._write_lock:
            if self._catch_up():
                self._note_written()
            self._note_sync(self._sync(self._written_seq) if self._fsync else None)
            self._let_go()
        self._tell()

    @property
    def lost(self) -> int:
        """How many lines were dropped because they could neither be written nor kept."""
        return self._lost

    @property
    def waiting(self) -> int:
        """How many lines are kept in memory because they cannot be written now, at most ``MAX_WAITING_LINES``."""
        return len(self._waiting)

    def _record(self, event: Event, call_id: str, facts: Mapping[str, JSONValue], *, durable: bool) -> None:
        line = encode_line(self._namespace, event, call_id, self._clock(), facts)
        with self._write_lock:
            sequence = self._append(line)
        if durable and sequence is not None:
            error = self._sync(sequence)
            if error is not None or self._state == "unsynced":
                with self._write_lock:
                    self._note_sync(error)
        self._tell()

    def _append(self, line: bytes) -> int | None:
        """Write a line behind those that wait, and return its sequence number; None when it has to wait itself."""
        if self._catch_up():
            try:
                self._write(line)
            except OSError as error:
                self._note_unwritable(error)
            else:
                self._note_written()
                return self._written_seq
        self._keep(line)
        return None

    def _catch_up(self) -> bool:
        """Write the lines that wait, oldest first; whether none is left."""
        try:
            while self._waiting:
                self._write(self._waiting[0])
                self._waiting.popleft()
        except OSError as error:
            self._note_unwritable(error)
        return not self._waiting

    def _keep(self, line: bytes) -> None:
        if len(self._waiting) == MAX_WAITING_LINES:
            self._waiting.popleft()
            self._lost += 1
            self._change("losing")
        self._waiting.append(line)

    def _write(self, line: bytes) -> None:
        """Append the line whole, or raise OSError and leave nothing of it that a reader would take for a line."""
        file, size = self._open()
        # Until it is known to be whole: an interrupt may come right after the write.
        torn, self._torn = self._torn, True
        data = b"\n" + line if torn else line
        try:
            count = os.write(file.descriptor, data)
        except OSError:
            self._torn = torn
            raise
        if count < len(data):
            with contextlib.suppress(OSError):
                os.ftruncate(file.descriptor, size)
                self._torn = torn
            raise OSError(errno.ENOSPC, f"only {count} of {len(data)} bytes could be written")
        self._torn = False
        self._written_seq += 1

    def _open(self) -> tuple[HeldFile, int]:
        """Return the file and its length, a fresh one where the last was deleted or closed by somebody else."""
        if self._file is not None:
            size = self._file.size()
            if size is not None:
                return self._file, size
            self._let_go()
            self._note_unwritable(OSError(errno.ENOENT, "its file was deleted, or closed by other code"))
        if self._folder is None:
            raise OSError(errno.ENOENT, "no folder is set")
        self._file = _create(self._folder, self._namespace, self._clock())
        self._torn = False
        return self._file, 0

    def _let_go(self) -> None:
        # Not while another thread syncs it: the descriptor's number could become somebody else's file meanwhile.
        with self._sync_lock:
            if self._file is not None:
                self._file.close()
            self._file = None
            self._synced_seq = self._written_seq

    def _sync(self, sequence: int) -> OSError | None:
        """Make the line durable unless another thread's fsync has covered it; return what went wrong."""
        with self._sync_lock:
            # Read before the fsync: it covers what was written until then, perhaps not what comes while it runs.
            covered, file = self._written_seq, self._file
            if self._synced_seq >= sequence or file is None:
                return None
            try:
                os.fsync(file.descriptor)
            except OSError as error:
                return error
            self._synced_seq = covered
            return None

    def _note_sync(self, error: OSError | None) -> None:
        if error is not None and self._state == "whole":
            self._change("unsynced", error.strerror)
        elif error is None and self._state == "unsynced":
            self._change("whole")

    def _note_written(self) -> None:
        if self._state in ("unwritable", "losing"):
            self._change("whole")

    def _note_unwritable(self, error: OSError) -> None:
        # Without a folder there is nothing to repair: the system checks say what that means.
        if self._state in ("whole", "unsynced") and self._folder is not None:
            self._change("unwritable", error.strerror)

    def _change(self, state: _State, reason: str | None = None) -> None:
        if state != self._state:
            self._state = state
            folder = self._folder or "no folder is set"
            self._news.append(
                _NEWS[state].format(folder=folder, reason=reason, lost=self._lost, limit=MAX_WAITING_LINES)
            )

    def _tell(self) -> None:
        """Log what has changed, outside the locks: a handler may take its time, or fork."""
        if self._news:
            with self._write_lock:
                news, self._news = self._news, []
            for text in news:
                logger.warning("%s", text)


def _create(folder: Path, namespace: str, now: float) -> HeldFile:
    """Return this process's new file; it gets the name claimers look for when its lock is held, so none takes it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    stem = f"{namespace}-{os.getpid()}-{int(now * 1e9):x}-{secrets.token_hex(2)}"
    unborn = folder / f"{stem}.new"
    try:
        file = HeldFile(unborn, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL)
        unborn.rename(folder / f"{stem}.journal")
    except OSError:
        # A file system without locks would otherwise collect one file for each line.
        with contextlib.suppress(OSError):
            unborn.unlink()
        raise
    _sync_folder(folder)
    return file


def _sync_folder(folder: Path) -> None:
    """Make the file's name durable: synced lines in a file that nobody finds after a power failure are lost."""
    # Some network file systems cannot sync a folder; a disk in trouble shows when the lines are synced.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


_journals: weakref.WeakSet[Journal] = weakref.WeakSet()


def _begin_in_child() -> None:
    for journal in list(_journals):
        journal._begin()  # pyright: ignore[reportPrivateUsage]  # of this module


os.register_at_fork(after_in_child=_begin_in_child)
