"""``manage.py llmcache_export``: entries as JSON lines, for another project's ``llmcache_import``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from django.core.management.base import CommandParser

from llmcache.dashboard import figures
from llmcache.engine import process
from llmcache.flushing import flush
from llmcache.management.output import SpokenCommand, encoded_json, failed, interrupted, stopped_by_signals, unusable
from llmcache.sharing.lines import encoded, end_of, header_of
from llmcache.sharing.outgoing import WHY, Export, UnreadableTierError, Wanted

_FILTERS: Final = ("kind", "model", "tenant", "tag")


class Command(SpokenCommand):
    """Reads tiers and ledger, and changes nothing."""

    help = (
        "Write entries as JSON lines. Without --answers they are the ledger's facts alone, which hold no text of "
        "anybody's. With --answers and --requests another project can import them: the file then holds "
        "what users have said. What has expired, was invalidated or lies in no tier any more is left out, and counted. "
        "Exit status: 0; 1 when a tier, the database or the file is in the way; 2 for arguments that cannot be used; "
        "130 after Ctrl-C."
    )

    def add_own_arguments(self, parser: CommandParser) -> None:
        """Add the command's own arguments."""
        parser.add_argument("--output", type=Path, metavar="FILE", help="a new file (default: standard output)")
        parser.add_argument("--answers", action="store_true", help="with what was answered: texts made of users' texts")
        parser.add_argument("--requests", action="store_true", help="with what was asked too: users' own texts")
        for name in _FILTERS:
            parser.add_argument(f"--{name}", help=f"only entries of this {name}")

    def work(self, **options: Any) -> None:
        """Write the lines."""
        if options["requests"] and not options["answers"]:
            raise unusable("--requests needs --answers: nobody can import requests alone.")
        now = process.current()
        now.require_database()
        flush()
        rows = Wanted(**{name: options[name] for name in _FILTERS}).rows(now)
        export = Export(now, rows, options["answers"], options["requests"])
        header = encoded(header_of(now, answers=options["answers"], requests=options["requests"]))
        try:
            with self._written(options["output"]) as write, stopped_by_signals() as stop:
                write(header)
                with self.progress("Entries", rows.count()) as at:
                    for line in export.lines():
                        write(line)
                        at(export.written + export.left.total())
                        if stop.asked:
                            raise interrupted(f"Stopped after {export.written} entries: the export is not whole.")
                write(encoded(end_of(export.written)))
        except UnreadableTierError as error:
            raise failed(
                f"The tier {error.args[0]!r} cannot be read, and entries would be missing: the export is not whole. "
                "See: manage.py llmcache_doctor"
            ) from None
        self._tell(export, options["output"])

    def _tell(self, export: Export, output: Path | None) -> None:
        # Beside the lines themselves it is no result.
        tell = self.note if output is None else self.say
        if self.json:
            tell(encoded_json({"exported": export.written, "left_out": dict(export.left)}))
            return
        left = ", ".join(f"{figures.count(count)} {WHY[why]}" for why, count in sorted(export.left.items()))
        tell(f"{figures.count(export.written)} entries were exported{f'; left out: {left}' if left else ''}.")

    @contextmanager
    def _written(self, output: Path | None) -> Generator[Callable[[bytes], object]]:
        """Give a function that writes; the file has its name once all is in it, and nobody else can read it."""
        if output is None:
            yield lambda line: self.stdout.write(line.decode("ascii"), ending="")
            return
        if output.exists():
            raise unusable(f"{output} is there already: remove it, or name another file.")
        part = output.with_name(f"{output.name}.part")
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    yield file.write
                    file.flush()
                    os.fsync(descriptor)
                part.rename(output)
            finally:
                with contextlib.suppress(OSError):
                    part.unlink()
        except OSError as error:
            raise failed(f"{output} cannot be written: {error.strerror}.") from None
