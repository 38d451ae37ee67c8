"""``manage.py llmcache_journal PATH``: journals rescued from another machine, brought into the ledger."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, InterfaceError

from llmcache.engine import process
from llmcache.money.journal_files import check_namespace, read_journal, unsettled
from llmcache.money.ledger import Imported, import_records

_NAMES: Final = ("*.journal", "*.claimed")
_AT_ONCE: Final = 500


class Command(BaseCommand):
    """Imports files and leaves them where they are; a second run finds every call known."""

    help = (
        "Bring the journal files of a folder, or one file, into the ledger: for a folder rescued from a machine that "
        "is gone. Calls that are there already are not counted twice. Files are read, and neither changed nor deleted. "
        "A call without an end is in doubt: it may have been charged."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the command's own arguments."""
        parser.add_argument("path", type=Path, help="a folder with *.journal or *.claimed files, or one such file")
        parser.add_argument(
            "--namespace",
            help="the name space whose lines are taken (default: this project's own); "
            "a file's name begins with the name space of its lines",
        )

    def handle(self, *, path: Path, namespace: str | None, **_: Any) -> None:
        """Import and say what came of it; exit status 1 when a file could not be read or a line was damaged."""
        runtime = process.current()
        namespace = namespace or runtime.namespace
        try:
            check_namespace(namespace)
        except ValueError as error:
            raise CommandError(f"--namespace: {error}") from None
        total, damaged, foreign, unread = Imported(), 0, 0, 0
        for file in _files(path):
            try:
                _require_finished(file)
                contents = read_journal(file, namespace)
            except OSError as error:
                unread += 1
                self.stderr.write(f"{file}: not imported: {error.strerror}.")
                continue
            damaged += contents.damaged
            foreign += contents.foreign
            doubtful = unsettled(contents.records)
            try:
                for start in range(0, len(contents.records), _AT_ONCE):
                    part = contents.records[start : start + _AT_ONCE]
                    in_doubt = [record.call_id for record in part if record.call_id in doubtful]
                    total.add(
                        import_records(part, using=runtime.settings.database, namespace=namespace, in_doubt=in_doubt)
                    )
            except (DatabaseError, InterfaceError) as error:
                raise CommandError(
                    f"The database {runtime.settings.database!r} cannot be written: {error}. What was imported so far "
                    "is there; run the command again when it can. When tables are missing, run: manage.py migrate"
                ) from None
            self.stdout.write(f"{file}: {len(contents.records)} lines, {len(doubtful)} calls without an end.")
        self.stdout.write(f"{total.calls} calls are new in the ledger, {total.known} were there.")
        if foreign:
            self.stdout.write(
                f"{foreign} lines are of other name spaces than {namespace!r}, and were left. See --namespace."
            )
        if damaged + total.unusable or unread:
            raise CommandError(
                f"{damaged + total.unusable} lines are damaged and were left out; {unread} files could not be read."
            )


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(file for pattern in _NAMES for file in path.glob(pattern))
        if not found:
            raise CommandError(f"{path} has no files named {' or '.join(_NAMES)}.")
        return found
    if not path.exists():
        raise CommandError(f"{path} does not exist.")
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
