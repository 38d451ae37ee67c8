"""``manage.py llmcache_journal PATH``: journals rescued from another machine, brought into the ledger."""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from django.core.management.base import CommandParser

from llmcache.engine import process
from llmcache.management.output import SpokenCommand, failed, interrupted, stopped_by_signals, unusable
from llmcache.money.journal_files import check_namespace, read_journal, unsettled
from llmcache.money.ledger import Imported, import_records

_NAMES: Final = ("*.journal", "*.claimed")
_AT_ONCE: Final = 500


class Command(SpokenCommand):
    """Imports files and leaves them where they are; a second run finds every call known."""

    help = (
        "Bring the journal files of a folder, or one file, into the ledger: for a folder rescued from a machine that "
        "is gone. Calls that are there already are not counted twice. Files are read, and neither changed nor deleted. "
        "A call without an end is in doubt: it may have been charged. Exit status: 0; 1 when a file could not be read "
        "or has damaged lines, or the database is in the way; 2 for arguments that cannot be used; 130 after Ctrl-C. "
        "It can be run again after any."
    )

    def add_own_arguments(self, parser: CommandParser) -> None:
        """Add the command's own arguments."""
        parser.add_argument("path", type=Path, help="a folder with *.journal or *.claimed files, or one such file")
        parser.add_argument(
            "--namespace",
            help="the name space whose lines are taken (default: this project's own); "
            "a file's name begins with the name space of its lines",
        )
        parser.add_argument("--dry-run", action="store_true", help="read the files, and import nothing")

    def work(self, *, path: Path, namespace: str | None, dry_run: bool, **_: Any) -> None:
        """Import and say what came of it."""
        now = process.current()
        now.require_database()
        namespace = namespace or now.namespace
        try:
            check_namespace(namespace)
        except ValueError as error:
            raise unusable(f"--namespace: {error}") from None
        found, files = _Found(), _files(path)
        with stopped_by_signals() as stop, self.progress("Files", len(files)) as at:
            for number, file in enumerate(files, 1):
                self._file(file, namespace, found, None if dry_run else now.settings.database)
                at(number)
                if stop.asked:
                    break
        self._tell(found, namespace, dry_run=dry_run)
        if stop.asked:
            raise interrupted("Stopped. Run it again: calls that are there are known.")
        if found.unusable or found.unread:
            raise failed(
                f"{found.unusable} lines are damaged and were left out; {found.unread} files could not be read."
            )

    def _file(self, file: Path, namespace: str, found: _Found, using: str | None) -> None:
        try:
            _require_finished(file)
            contents = read_journal(file, namespace)
        except OSError as error:
            found.unread += 1
            self.note(f"{file}: not imported: {error.strerror}.")
            return
        found.damaged += contents.damaged
        found.foreign += contents.foreign
        doubtful = unsettled(contents.records)
        found.files.append({"file": str(file), "lines": len(contents.records), "without_an_end": len(doubtful)})
        for start in range(0, len(contents.records) if using else 0, _AT_ONCE):
            part = contents.records[start : start + _AT_ONCE]
            in_doubt = [record.call_id for record in part if record.call_id in doubtful]
            found.imported.add(import_records(part, using=using or "", namespace=namespace, in_doubt=in_doubt))

    def _tell(self, found: _Found, namespace: str, *, dry_run: bool) -> None:
        imported = found.imported
        if self.json:
            told = {"damaged": found.unusable, "foreign": found.foreign, "unread": found.unread, "files": found.files}
            self.say_json({"new": imported.calls, "known": imported.known, **told, "dry_run": dry_run})
            return
        for file in found.files:
            self.say(f"{file['file']}: {file['lines']} lines, {file['without_an_end']} calls without an end.")
        if dry_run:
            self.say("Nothing was imported.")
        else:
            self.say(f"{imported.calls} calls are new in the ledger, {imported.known} were there.")
        if found.foreign:
            self.say(
                f"{found.foreign} lines are of other name spaces than {namespace!r}, and were left. See --namespace."
            )


@dataclass
class _Found:
    """What came of files."""

    imported: Imported = field(default_factory=Imported)
    files: list[dict[str, Any]] = field(default_factory=list)
    damaged: int = 0
    foreign: int = 0
    unread: int = 0

    @property
    def unusable(self) -> int:
        """Lines that could not be read, or of which no row could be made."""
        return self.damaged + self.imported.unusable


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(file for pattern in _NAMES for file in path.glob(pattern))
        if not found:
            raise unusable(f"{path} has no files named {' or '.join(_NAMES)}.")
        return found
    if not path.exists():
        raise unusable(f"{path} does not exist.")
    return [path]


def _require_finished(file: Path) -> None:
    """Raise OSError for what is no ordinary file, and for a file that a living process of this machine still writes."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not file.is_file():
            raise OSError(errno.EINVAL, "it is no ordinary file")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(errno.EBUSY, "a living process of this machine writes it, and imports it itself") from None
    finally:
        os.close(descriptor)
