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
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from llmcache.money.journal_files import Event, HeldFile, JSONValue, check_namespace, encode_line

logger = logging.getLogger("llmcache.ledger")

# Some hundred bytes each: a few megabytes, and hours of calls for a busy process.
MAX_WAITING_LINES: Final = 10_000
# Where an imported file gives way to a new one: some thousand calls, which take a claimer less than a second. Earlier
# where files must stay shorter, or one that has been imported would be full for ever.
ROTATE_BYTES: Final = 2**20
DEFAULT_MAX_BYTES: Final = 64 * 2**20

_State: TypeAlias = Literal["whole", "unsynced", "full", "unwritable", "losing"]

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
    "full": (
        "The journal of provider calls in {folder} has reached LLMCACHE['JOURNAL_MAX_BYTES'] ({max_bytes} bytes), "
        "because its lines could not be brought into the database. New lines wait in memory. Check the database that "
        "LLMCACHE['DATABASE'] names, and that it is migrated."
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
    A file begins with the ``started`` lines of the calls that are under way, so that each file by itself tells which
    calls have no end. At most ``max_bytes`` lie in files that nobody has taken over yet.
    """

    def __init__(
        self,
        folder: Path | None,
        namespace: str,
        *,
        fsync: bool = True,
        max_bytes: int = DEFAULT_MAX_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_namespace(namespace)
        self._max_bytes = max_bytes
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
        self._path = Path()
        self._full: list[OwnFile] = []
        self._open_calls: dict[str, bytes] = {}
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

    def stored(self, call_id: str, facts: Mapping[str, JSONValue]) -> None:
        """Record the entry that was made of the answer settled before; no money hangs on it, so no fsync."""
        self._record("stored", call_id, facts, durable=False)

    @property
    def folder(self) -> Path | None:
        """Where its files are; None when lines are kept in memory alone."""
        return self._folder

    @property
    def namespace(self) -> str:
        """Whose lines they are."""
        return self._namespace

    @property
    def keeps_up(self) -> bool:
        """Whether lines reach a file, and do not wait in memory."""
        return not self._waiting

    def files(self) -> list[OwnFile]:
        """Return this process's own files with as many bytes as hold whole lines, oldest first."""
        with self._write_lock:
            size = None if self._file is None else self._file.length()
            if self._file is None or size is None:
                return [*self._full]
            return [*self._full, OwnFile(self._path, size, self._file, current=True)]

    def withdraw(self, call_id: str) -> bool:
        """Take back the ``started`` line of a call when it waits in memory; return whether it did."""
        with self._write_lock:
            line = self._open_calls.get(call_id)
            if line is None or line not in self._waiting:
                return False
            self._waiting.remove(line)
            del self._open_calls[call_id]
            return True

    def waiting_lines(self) -> list[bytes]:
        """Return the lines that are in no file."""
        with self._write_lock:
            return [*self._waiting]

    def open_calls(self) -> set[str]:
        """Return the calls that have started and not ended."""
        with self._write_lock:
            return set(self._open_calls)

    def forget_waiting(self, lines: Collection[bytes]) -> None:
        """Drop these lines where they are in no file yet: somebody has taken them over.

        Starts of calls that are under way stay: they belong in a file as soon as there is room.
        """
        with self._write_lock:
            taken = set(lines) - set(self._open_calls.values())
            self._waiting = deque(line for line in self._waiting if line not in taken)

    def rotate(self) -> None:
        """Begin another file when the present one has grown; it stays held until ``remove``."""
        with self._write_lock:
            size = None if self._file is None else self._file.size()
            if self._file is None or size is None or size < min(ROTATE_BYTES, self._max_bytes // 4):
                return
            # Its last lines, before `_sync` knows the next file only.
            self._note_sync(self._sync(self._written_seq) if self._fsync else None)
            held = OwnFile(self._path, size, self._file)
            try:
                self._begin_file()
            except OSError as error:
                self._note_unwritable(error)
            else:
                self._full.append(held)
        self._tell()

    def remove(self, file: OwnFile) -> None:
        """Delete one of ``files``, once its lines have been taken over, unless a line has come meanwhile."""
        with self._write_lock:
            if file.current:
                held = self._file
                if held is None or held is not file.held or self._open_calls or held.length() != file.size:
                    return
                with contextlib.suppress(OSError):
                    file.path.unlink()
                self._let_go()
            elif file in self._full:
                self._full.remove(file)
                with contextlib.suppress(OSError):
                    file.path.unlink()
                file.held.close()

    def close(self) -> None:
        """Write what waits, if it can be written, and leave the file to claimers; a later line begins another."""
        with self._write_lock:
            if self._catch_up():
                self._note_written()
            self._note_sync(self._sync(self._written_seq) if self._fsync else None)
            self._let_go()
            for file in self._full:
                file.held.close()
            self._full = []
        self._tell()

    @property
    def lost(self) -> int:
        """How many lines were dropped because they could neither be written nor kept."""
        return self._lost

    @property
    def waiting(self) -> int:
        """How many lines are kept in memory because they cannot be written now, at most ``MAX_WAITING_LINES``."""
        return len(self._waiting)

    def write(self, event: Event, call_id: str, facts: Mapping[str, JSONValue]) -> None:
        """Record an event and leave it to ``bring_to_disk`` to make it durable; see ``journal_thread``."""
        self._record(event, call_id, facts, durable=False)

    def bring_to_disk(self) -> None:
        """Make durable what was written so far, where lines are to be durable at all."""
        if self._fsync:
            self._make_durable(self._written_seq)
            self._tell()

    def _record(self, event: Event, call_id: str, facts: Mapping[str, JSONValue], *, durable: bool) -> None:
        line = encode_line(self._namespace, event, call_id, self._clock(), facts)
        with self._write_lock:
            sequence = self._append(line)
            if event == "started":
                self._open_calls[call_id] = line
            elif event in ("settled", "failed"):
                self._open_calls.pop(call_id, None)
        if durable and sequence is not None:
            self._make_durable(sequence)
        self._tell()

    def _make_durable(self, sequence: int) -> None:
        error = self._sync(sequence)
        if error is not None or self._state == "unsynced":
            with self._write_lock:
                self._note_sync(error)

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
        if size + sum(each.size for each in self._full) + len(line) > self._max_bytes:
            raise _FullError
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
            size = self._file.length()
            if size is None:
                self._let_go()
            else:
                # Its name is gone, and its lines can still be read.
                self._full.append(OwnFile(self._path, size, self._file))
                with self._sync_lock:
                    self._file = None
                    self._synced_seq = self._written_seq
            self._note_unwritable(OSError(errno.ENOENT, "its file was deleted, or closed by other code"))
        return self._begin_file()

    def _begin_file(self) -> tuple[HeldFile, int]:
        if self._folder is None:
            raise OSError(errno.ENOENT, "no folder is set")
        waiting = set(self._waiting)
        lines = b"".join(line for line in self._open_calls.values() if line not in waiting)
        file, path = _create(self._folder, self._namespace, self._clock(), lines)
        if lines and self._fsync:
            with contextlib.suppress(OSError):
                os.fsync(file.descriptor)
        with self._sync_lock:
            self._file, self._path, self._torn = file, path, False
        return file, len(lines)

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
        if self._state in ("full", "unwritable", "losing"):
            self._change("whole")

    def _note_unwritable(self, error: OSError) -> None:
        if isinstance(error, _FullError):
            if self._state in ("whole", "unsynced"):
                self._change("full")
            return
        # Without a folder there is nothing to repair: the system checks say what that means.
        if self._state in ("whole", "unsynced") and self._folder is not None:
            self._change("unwritable", error.strerror)

    def _change(self, state: _State, reason: str | None = None) -> None:
        if state != self._state:
            self._state = state
            folder = self._folder or "no folder is set"
            facts = {"lost": self._lost, "limit": MAX_WAITING_LINES, "max_bytes": self._max_bytes}
            self._news.append(_NEWS[state].format(folder=folder, reason=reason, **facts))

    def _tell(self) -> None:
        """Log what has changed, outside the locks: a handler may take its time, or fork."""
        if self._news:
            with self._write_lock:
                news, self._news = self._news, []
            for text in news:
                logger.warning("%s", text)


class _FullError(OSError):
    """The files have reached ``max_bytes``."""

    def __init__(self) -> None:
        super().__init__(errno.EFBIG, "LLMCACHE['JOURNAL_MAX_BYTES'] is reached")


@dataclass(frozen=True, eq=False, slots=True)
class OwnFile:
    """A file of this process."""

    path: Path
    size: int
    """Bytes that hold whole lines."""
    held: HeldFile
    current: bool = False
    """Whether lines are still written to it."""


def _create(folder: Path, namespace: str, now: float, lines: bytes) -> tuple[HeldFile, Path]:
    """Return this process's new file, which begins with these lines, and its path.

    It gets the name that claimers look for when its lock is held, so none takes it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    stem = f"{namespace}-{os.getpid()}-{int(now * 1e9):x}-{secrets.token_hex(2)}"
    unborn = folder / f"{stem}.new"
    try:
        file = HeldFile(unborn, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL)
        if lines and os.write(file.descriptor, lines) < len(lines):
            raise OSError(errno.ENOSPC, "the calls under way could not be written")
        unborn.rename(folder / f"{stem}.journal")
    except OSError:
        # A file system without locks would otherwise collect one file for each line.
        with contextlib.suppress(OSError):
            unborn.unlink()
        raise
    _sync_folder(folder)
    return file, folder / f"{stem}.journal"


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
