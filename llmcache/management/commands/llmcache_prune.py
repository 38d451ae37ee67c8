"""``manage.py llmcache_prune``: rows that are older than ``RETENTION`` says are deleted."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from django.core.management.base import CommandParser

from llmcache.dashboard import figures
from llmcache.engine import process
from llmcache.engine.runtime import Runtime
from llmcache.management.output import SpokenCommand, interrupted, stopped_by_signals
from llmcache.pruning import PRUNERS, prune_rows

_AT_ONCE_SECONDS: Final = 1.0
"""How long is pruned between two looks whether somebody wants an end."""


class Command(SpokenCommand):
    """Deletes rows of the ledger, some hundred at a time; entries in the tiers stay."""

    help = (
        "Delete rows that are older than LLMCACHE['RETENTION'] says, and what is of no use any more. By default nearly "
        "all rows are kept for ever. Answers in the tiers stay. Exit status: 0; 1 when the database is in the way; 2 "
        "for arguments that cannot be used; 130 after Ctrl-C. It can be run again after any, and beside others."
    )

    def add_own_arguments(self, parser: CommandParser) -> None:
        """Add the command's own arguments."""
        parser.add_argument("--dry-run", action="store_true", help="count the rows, and delete none")

    def work(self, *, dry_run: bool, **_: Any) -> None:
        """Delete, or count, and say how many."""
        now = process.current()
        now.require_database()
        if dry_run:
            self._tell({name: _count(now, name) for name in PRUNERS}, dry_run=True)
            return
        gone = Counter[str](dict.fromkeys(PRUNERS, 0))
        with stopped_by_signals() as stop, self.progress("Rows") as at:
            # Each time as much as can be done at once, until there is nothing left.
            while (more := Counter(prune_rows(now, _AT_ONCE_SECONDS))).total() and not stop.asked:
                gone.update(more)
                at(gone.total())
            gone.update(more)
        self._tell(gone, dry_run=False)
        if stop.asked:
            raise interrupted("Stopped before the end. Run it again to go on.")

    def _tell(self, rows: dict[str, int], *, dry_run: bool) -> None:
        if self.json:
            self.say_json({"dry_run": dry_run, "rows": dict(rows)})
            return
        headings = ("rows", "would be deleted" if dry_run else "deleted")
        self.say_table(headings, ((name.replace("_", " "), figures.count(count)) for name, count in rows.items()))


def _count(now: Runtime, name: str) -> int:
    rows = PRUNERS[name](now)
    return 0 if rows is None else rows.count()
