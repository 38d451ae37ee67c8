"""Which entries are void now, by the invalidation log as this process knows it, brought up to date for the page."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from llmcache.admin_pages import contents
from llmcache.engine.log_copy import LogCopy, Valid, View, view_of
from llmcache.engine.runtime import Runtime
from llmcache.invalidation_rows import without_rewriting
from llmcache.marking import CORRECTED, facts_of
from llmcache.models import CacheEntry, Invalidation

MOST_ROWS: Final = 2_000
"""Rows of the log that are read for a list."""


class Validity:
    """The log at one moment."""

    def __init__(self, runtime: Runtime) -> None:
        # A row of another process is seen at once by who has made it, and by who looks for it here.
        runtime.log.read_now()
        self._namespace = runtime.namespace
        self._using = runtime.settings.database
        self._copy: LogCopy = runtime.log.known()

    def view(self, entry: CacheEntry) -> View:
        """Return the rows in force for an entry."""
        if entry.namespace != self._namespace:
            return view_of(())
        facts, key = facts_of(entry), contents.key_of(entry)
        rows = self._copy.about(facts)
        return view_of(rows) if key is None else self._copy.with_key(rows, key, facts)

    def void_by(self, entry: CacheEntry, seen: bytes | None) -> Invalidation | None:
        """Return the newest row that makes an entry void; None for one that is valid.

        ``seen``: the list that the entry holds, None where it lies nowhere: then the times tell.
        """
        view = self.view(entry)
        if view.correction is not None:
            # What a human has answered is served, whatever lies there.
            return None
        if self._was_corrected(entry):
            return self._corrections(entry).order_by("-pk").first()
        if not view.rows or (seen is not None and view.admits(seen)):
            return None
        missing = [row for row in view.rows if seen is None or not View((row,), view.seen).admits(seen)]
        rows = Invalidation.objects.using(self._using).filter(uid__in=_names(missing or view.rows))
        if seen is None:
            rows = without_rewriting(rows.filter(made_at__gte=entry.written_at))
        return rows.order_by("-pk").first()

    def void(self, entries: Iterable[CacheEntry]) -> set[int]:
        """Return the ids of those that are void, by when they were written."""
        views = [(entry, self.view(entry)) for entry in entries]
        withdrawn = {entry.pk for entry, view in views if view.correction is None and self._was_corrected(entry)}
        about = {entry.pk: (entry.written_at, _names(view.rows)) for entry, view in views if view.correction is None}
        names = {name for _at, wanted in about.values() for name in wanted}
        if not names:
            return withdrawn
        rows = without_rewriting(Invalidation.objects.using(self._using).filter(uid__in=sorted(names)[:MOST_ROWS]))
        made: dict[str, datetime] = dict(rows.values_list("uid", "made_at"))
        void = {pk for pk, (at, wanted) in about.items() if any(name in made and made[name] >= at for name in wanted)}
        return withdrawn | void

    def _was_corrected(self, entry: CacheEntry) -> bool:
        return entry.source in CORRECTED and entry.namespace == self._namespace

    def _corrections(self, entry: CacheEntry) -> Any:
        rows = Invalidation.objects.using(self._using).filter(namespace=self._namespace, key=entry.key)
        return rows.filter(corrects=True)


def _names(rows: Iterable[Valid]) -> list[str]:
    return [row.id.hex() for row in rows][:MOST_ROWS]
