"""The journal's files as anybody may read them: the form of a line, what a file holds, whose process is dead.

A line is ``<namespace> <crc32, 8 hex digits> <JSON object>`` and a newline; the checksum covers namespace, space and
JSON. A file belongs to the process that holds its flock. When that is free the process is dead, and whoever takes the
flock and renames the file has claimed it. Nobody renames or removes a file without holding its flock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import math
import os
import re
import secrets
import stat
import threading
import weakref
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final, Literal, TypeAlias, cast, get_args

logger = logging.getLogger("llmcache.ledger")

JSONValue: TypeAlias = "str | int | float | bool | list[JSONValue] | dict[str, JSONValue] | None"
Event: TypeAlias = Literal["started", "settled", "failed", "rejected", "stored"]

# Lines hold ids, counts and hashes, some hundred bytes; the limit bounds the memory a damaged file can take.
MAX_LINE_BYTES: Final = 2**20
MAX_PART_BYTES: Final = 2 * MAX_LINE_BYTES

_EVENTS: Final = frozenset(get_args(Event))
_NAMESPACE = re.compile(r"[0-9a-z]{1,64}")
_LINE = re.compile(rb"([0-9a-z]{1,64}) ([0-9a-f]{8}) (\{.*\})\n")
_FILE = re.compile(
    r"(?P<stem>(?P<namespace>[0-9a-z]{1,64})-(?P<pid>[0-9]{1,9})-[0-9a-f]+-[0-9a-f]{4})"
    r"\.(?P<state>new|journal|[0-9]+-[0-9a-f]{8}\.claimed)"
)
_encode_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """One event of one provider call."""

    event: Event
    """What happened: ``rejected`` follows ``settled`` when the answer did not pass validation, ``stored`` when an entry
    was made of it."""
    call_id: str
    """The same in all lines of one call."""
    at: float
    """Unix time in seconds, by the clock of the process that wrote it."""
    facts: dict[str, JSONValue]
    """What the writer knew of the call then."""


@dataclass(frozen=True, slots=True)
class JournalContents:
    """What could be read from one file."""

    records: list[JournalRecord]
    """The whole lines of the namespace, in the order in which they were written."""
    damaged: int
    """Lines skipped because they are torn, edited, empty, longer than ``MAX_LINE_BYTES`` or no lines of a journal."""
    foreign: int
    """Whole lines of other namespaces, skipped."""


def check_namespace(namespace: str) -> None:
    """Raise ValueError unless the namespace is 1 to 64 of the characters 0-9 and a-z."""
    if not _NAMESPACE.fullmatch(namespace):
        raise ValueError(f"A journal's namespace is 1 to 64 characters of 0-9 and a-z, not {namespace!r}.")


def encode_line(namespace: str, event: Event, call_id: str, at: float, facts: Mapping[str, JSONValue]) -> bytes:
    """Return the line of an event, newline included.

    Raises ValueError when the facts use a name of the line's own (e, id, t), hold a NaN or an infinity, or make the
    line too long to be read again; TypeError when they are no JSON.
    """
    if taken := facts.keys() & {"e", "id", "t"}:
        raise ValueError(f"Facts of a journal line cannot be named {', '.join(sorted(taken))}: the line uses that.")
    # Non-ASCII characters are escaped, so a line holds no raw newline and lone surrogates survive.
    text = _encode_json({"e": event, "id": call_id, "t": round(at, 6), **facts}).encode("ascii")
    owner = namespace.encode("ascii")
    line = b"%b %08x %b\n" % (owner, _checksum(owner, text), text)
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"A journal line is at most {MAX_LINE_BYTES} bytes; the facts of this one make {len(line)}.")
    return line


def read_journal(path_or_descriptor: Path | int, namespace: str) -> JournalContents:
    """Return the records of a journal file; a descriptor is read from where it stands and stays open.

    Never fails on what the file holds, and keeps no more than one line beside the records. Raises OSError when the
    file cannot be read.
    """
    check_namespace(namespace)
    with open(path_or_descriptor, "rb", closefd=not isinstance(path_or_descriptor, int)) as file:
        return _contents(file, namespace)


def read_part(descriptor: int, start: int, end: int, namespace: str) -> tuple[JournalContents, int]:
    """Return the records of a part of a journal file that begins at ``start``, and where the next part begins.

    The bytes up to ``end`` hold whole lines; a part is at most ``MAX_PART_BYTES`` of them. The file may have lost its
    name. Raises OSError when it cannot be read.
    """
    check_namespace(namespace)
    data = b""
    while len(data) < (wanted := min(end - start, MAX_PART_BYTES)):
        piece = os.pread(descriptor, wanted - len(data), start + len(data))
        if not piece:
            # Somebody has cut it: what is gone must not hold up what comes after.
            contents = _contents(BytesIO(data), namespace)
            return replace(contents, damaged=contents.damaged + 1), end
        data += piece
    if start + len(data) < end:
        data = data[: data.rfind(b"\n") + 1] or data
    return _contents(BytesIO(data), namespace), start + len(data)


def read_lines(lines: Iterable[bytes], namespace: str) -> JournalContents:
    """Return the records of lines."""
    return _contents(BytesIO(b"".join(lines)), namespace)


def _contents(file: BinaryIO, namespace: str) -> JournalContents:
    records: list[JournalRecord] = []
    damaged = foreign = 0
    for line in _lines(file):
        match = _LINE.fullmatch(line)
        if match is None or int(match[2], 16) != _checksum(match[1], match[3]):
            damaged += 1
        elif match[1] != namespace.encode("ascii"):
            foreign += 1
        elif (record := _record(match[3])) is None:
            damaged += 1
        else:
            records.append(record)
    return JournalContents(records, damaged, foreign)


def unsettled(records: Iterable[JournalRecord]) -> dict[str, JournalRecord]:
    """Return the calls in doubt by id: ``started`` records without ``settled`` or ``failed``, in whatever order."""
    started: dict[str, JournalRecord] = {}
    ended: set[str] = set()
    for record in records:
        if record.event == "started":
            started.setdefault(record.call_id, record)
        elif record.event in ("settled", "failed"):
            ended.add(record.call_id)
    return {call_id: record for call_id, record in started.items() if call_id not in ended}


def _checksum(namespace: bytes, text: bytes) -> int:
    return zlib.crc32(text, zlib.crc32(namespace + b" "))


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield each line; of one that is too long only the beginning, which does not end in a newline."""
    while line := file.readline(MAX_LINE_BYTES):
        yield line
        while line and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE_BYTES)


def _record(text: bytes) -> JournalRecord | None:
    """Return the record of a line's JSON, or None where a right checksum stands over something else."""
    try:
        facts = cast("dict[str, JSONValue]", json.loads(text))
        event, call_id, at = facts.pop("e"), facts.pop("id"), facts.pop("t")
        if not (isinstance(call_id, str) and isinstance(at, int | float) and math.isfinite(at)) or event not in _EVENTS:
            return None
        return JournalRecord(cast("Event", event), call_id, float(at), facts)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


class HeldFile:
    """An open file under our exclusive flock, which the kernel frees when this process dies, however it dies.

    Raises OSError when it cannot be opened or somebody else holds it.
    """

    def __init__(self, path: Path, flags: int) -> None:
        with _opening:
            self.descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            self._born = os.fstat(self.descriptor)
            self._close = weakref.finalize(self, os.close, self.descriptor)
            # Closing at exit is the kernel's: other exit handlers may still have lines to write.
            self._close.atexit = False
            _held.add(self)
            try:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self.drop()
                raise

    def size(self) -> int | None:
        """Return its length in bytes; None when it has been deleted or closed, by us or behind our back."""
        found = self._stat()
        return found.st_size if found is not None and found.st_nlink else None

    def length(self) -> int | None:
        """Return its length in bytes, also where its name is deleted; None when it is closed."""
        found = self._stat()
        return found.st_size if found is not None else None

    def close(self) -> None:
        """Give the lock back, also where another process has inherited the descriptor."""
        if self._stat() is not None:
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        self.drop()

    def drop(self) -> None:
        """Close this process's descriptor and leave the lock with whoever else has the same open file."""
        if self._stat() is None:
            # Code that closes all descriptors (to become a daemon) was here: the number may be another file's now.
            self._close.detach()
        self._close()

    def _stat(self) -> os.stat_result | None:
        with contextlib.suppress(OSError):
            found = os.fstat(self.descriptor)
            if self._close.alive and os.path.samestat(found, self._born):
                return found
        return None


# A forked child shares the open file and with it the flock, so it would hide its parent's death: it closes all held
# files. No fork may come between opening a file and noting it here.
_opening = threading.RLock()
_held: weakref.WeakSet[HeldFile] = weakref.WeakSet()


def _drop_inherited() -> None:
    global _opening
    _opening = threading.RLock()
    for file in list(_held):
        file.drop()


os.register_at_fork(before=lambda: _opening.acquire(), after_in_parent=lambda: _opening.release())
os.register_at_fork(after_in_child=_drop_inherited)


@dataclass(frozen=True, eq=False)
class ClaimedJournal:
    """A dead process's file that is ours alone until it is removed or released."""

    path: Path
    """Its present name, which ends in ``.claimed``."""
    contents: JournalContents
    """What it holds; it does not change any more."""
    _file: HeldFile

    def remove(self) -> None:
        """Delete the file, once its lines have been taken over; does nothing after ``release``."""
        if self._file.size() is not None:
            self.path.unlink(missing_ok=True)
        self._file.close()

    def release(self) -> None:
        """Leave the file to the next claimer; does nothing after ``remove``."""
        self._file.close()


def claim_dead(folder: Path, namespace: str) -> Iterator[ClaimedJournal]:
    """Yield the files of dead processes of this namespace, each claimed when its turn comes.

    Of several claimers, threads or processes, exactly one gets a file. Symbolic links and files of other owners are
    not touched. A folder that cannot be read has no files.
    """
    check_namespace(namespace)
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        logger.debug("No journals to take over in %s: %s.", folder, error.strerror)
        return
    for match in filter(None, map(_FILE.fullmatch, names)):
        path = folder / match.string
        if match["namespace"] != namespace:
            continue
        if match["state"] == "new":
            _remove_unborn(path, int(match["pid"]))
        elif (claimed := _claim(path, match["stem"], namespace)) is not None:
            yield claimed


def _claim(path: Path, stem: str, namespace: str) -> ClaimedJournal | None:
    if (file := _hold_if_dead(path)) is None:
        return None
    ours = path.with_name(f"{stem}.{os.getpid()}-{secrets.token_hex(4)}.claimed")
    try:
        path.rename(ours)
        return ClaimedJournal(ours, read_journal(file.descriptor, namespace), file)
    except OSError as error:
        logger.warning(
            "The journal %s of a dead process cannot be taken over (%s); its calls are not in the ledger. "
            "Check the folder that LLMCACHE['JOURNAL'] names.", path, error.strerror,
        )  # fmt: skip
        file.close()
        return None


def _hold_if_dead(path: Path) -> HeldFile | None:
    with contextlib.suppress(OSError):
        found = path.lstat()
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
            file = HeldFile(path, os.O_RDWR | os.O_NONBLOCK)
            # Between our look and our lock another claimer may have renamed or removed it: then it is that one's.
            if os.path.samestat(path.lstat(), os.fstat(file.descriptor)):
                return file
    return None


def _remove_unborn(path: Path, pid: int) -> None:
    # A living creator may be between making its file and locking it, so a free lock alone does not show its death.
    if not _is_alive(pid) and (file := _hold_if_dead(path)) is not None:
        with contextlib.suppress(OSError):
            path.unlink()
        file.close()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno != errno.ESRCH
    return True
