"""``manage.py llmcache_import FILE``: entries that another project has exported, kept as if they were this one's."""

from __future__ import annotations

from typing import Any, Final

from django.core.management.base import CommandParser

from llmcache.dashboard import figures
from llmcache.engine import process
from llmcache.management.output import SpokenCommand, failed, interrupted, stopped_by_signals
from llmcache.sharing.incoming import Incoming
from llmcache.sharing.reading import Reading
from llmcache.warming.lines import opened

_MOST_TOLD: Final = 100
"""Lines of which is said what is wrong; the others are counted."""
_WORDS: Final = {
    "known": "were there already",
    "newer": "are older than what is there",
    "void": "are void by this project's invalidations",
    "expired": "are past their time",
}


class Command(SpokenCommand):
    """Writes to the tiers and to the ledger, asks no provider, and can be run again after anything."""

    help = (
        "Bring in entries that llmcache_export has written with --answers. Each line is checked: keys that this "
        "project would not make, answers that do not pass validation and lines that were changed are refused; what "
        "has expired here or was invalidated here is left out; nothing newer is overwritten. Calls are then hits, and "
        "what the answers had cost counts as saved. Exit status: 0; 1 when a line was refused, or a tier or the "
        "database is in the way; 2 for arguments that cannot be used; 130 after Ctrl-C. It can be run again after any."
    )

    def add_own_arguments(self, parser: CommandParser) -> None:
        """Add the command's own arguments."""
        parser.add_argument("file", metavar="FILE", help="what was exported; - for standard input")
        parser.add_argument("--dry-run", action="store_true", help="check every line, and write nothing")
        parser.add_argument("--stop", action="store_true", help="end at the first line that is refused")
        parser.add_argument(
            "--trust",
            action="store_true",
            help="take entries whose keys cannot be made again here too: only of a file of which you know who made it",
        )

    def work(self, **options: Any) -> None:
        """Bring the entries in."""
        now = process.current()
        now.require_database()
        incoming = Incoming(now, trust=options["trust"], dry_run=options["dry_run"])
        with opened(options["file"]) as source:
            reading = Reading(now, source, incoming, self._note_refused, stops_at_first=options["stop"])
            self._told = 0
            with stopped_by_signals() as stop, self.progress("Lines") as at:
                reading.go_on(stop, at)
        self._tell(reading, dry_run=options["dry_run"])
        if stop.asked:
            raise interrupted(f"Stopped at line {reading.line}. Run it again: what is there already is left as it is.")
        if reading.trouble is not None:
            raise failed(reading.trouble)
        if reading.refused or not reading.is_whole:
            torn = "" if reading.is_whole else f" {source.name} has not as many entries as it should have: it is torn."
            raise failed(f"{reading.refused} lines were refused.{torn}")

    def _note_refused(self, told: str) -> None:
        self._told += 1
        if self._told <= _MOST_TOLD:
            self.note(told)
        elif self._told == _MOST_TOLD + 1:
            self.note("More lines are refused, and only counted.")

    def _tell(self, reading: Reading, *, dry_run: bool) -> None:
        became = reading.became
        if self.json:
            told = {word: became[word] for word in ("imported", *_WORDS)}
            self.say_json({**told, "refused": reading.refused, "whole": reading.is_whole, "dry_run": dry_run})
            return
        self.say(f"{figures.count(became['imported'])} entries {'would be' if dry_run else 'were'} imported.")
        for word, told in _WORDS.items():
            if became[word]:
                self.say(f"{figures.count(became[word])} {told}.")
