"""Entries that are carried away: those of the ledger's rows that the tiers still hold, and that are good, one by one.

What is void here would be served by whoever imports it, so it is left out; so is a human's answer, which stands by a
row of this project's log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from django.db.models import Q, QuerySet
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from llmcache.engine.corrected import HUMAN, PINNED
from llmcache.engine.runtime import Runtime
from llmcache.exceptions import ConfigurationError
from llmcache.kept_calls import facts_of as log_facts_of
from llmcache.models import MAX_NAME, CacheEntry
from llmcache.rewriting import Held, look
from llmcache.sharing.lines import LOG_UNREADABLE, encoded, facts_of, line_of, longest_line

WHY: Final = {
    "gone": "in no tier any more",
    "void": "invalidated",
    "expired": "past their time",
    "human": "answers of people",
    "too_long": "too long for a line",
    "unclear": "of a tenant or with facts that cannot be read whole",
}
"""Why an entry is left out."""
KEY_BYTES: Final = 32
_ROWS_AT_ONCE: Final = 500


class UnreadableTierError(Exception):
    """A tier cannot be read: what it holds would be missing, and nobody would know. Its argument is the tier's name."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries; empty for all of them."""

    kind: str | None = None
    model: str | None = None
    tenant: str | None = None
    tag: str | None = None

    def rows(self, now: Runtime) -> QuerySet[CacheEntry]:
        """Return the rows of this name space that they are, but for those whose time is over."""
        conditions = {"kind": self.kind, "model": self.model, "tenant": self.tenant, "tag_rows__tag": self.tag}
        at = timezone.now()
        return CacheEntry.objects.using(now.settings.database).filter(
            Q(expires_at=None) | Q(expires_at__gt=at) | Q(stale_until__gt=at),
            namespace=now.namespace,
            **{column: value[:MAX_NAME] for column, value in conditions.items() if value is not None},
        )


@dataclass
class Export:
    """What has been written so far. It holds some hundred rows, and one entry, at a time."""

    now: Runtime
    rows: QuerySet[CacheEntry]
    answers: bool
    """Whether what the tiers hold is written; else the ledger's facts alone, which hold no text."""
    requests: bool
    written: int = 0
    left: Counter[str] = field(default_factory=Counter)
    """Rows whose entry was not written, by why: a word of ``WHY``."""

    def lines(self) -> Iterator[bytes]:
        """Write the entries in the order of their rows. Raises ``UnreadableTierError`` and the database's errors."""
        last = 0
        while rows := list(self.rows.order_by("pk").filter(pk__gt=last)[:_ROWS_AT_ONCE]):
            if self.answers and not self.now.log.read_now():
                raise ConfigurationError(LOG_UNREADABLE)
            for row in rows:
                line = self._line(row)
                if isinstance(line, str):
                    self.left[line] += 1
                else:
                    self.written += 1
                    yield line
            last = rows[-1].pk

    @sensitive_variables()
    def _line(self, row: CacheEntry) -> bytes | str:
        if not self.answers:
            return encoded(facts_of(row))
        if len(row.tenant) >= MAX_NAME:
            return "unclear"
        key = _key_of(row)
        held = None if key is None else look(self.now, key)
        if held is None:
            self._require_readable()
            return "gone"
        entry = held.entry
        facts = entry.facts()
        if {row.source, facts.get("source"), facts.get("origin")} & {HUMAN, PINNED}:
            return "human"
        if self.now.clock.wall() >= max(entry.fresh_until, entry.stale_until):
            return "expired"
        if not self.now.log.view(entry.key, log_facts_of(row, entry)).admits(entry.seen):
            return "void"
        return self._whole(row, held, facts)

    @sensitive_variables()
    def _whole(self, row: CacheEntry, held: Held, facts: dict[str, Any]) -> bytes | str:
        if not facts:
            return "unclear"
        request = held.request if self.requests else None
        line = encoded(line_of(row, held.entry, held.rest, request, self.now.seals[0]))
        return line if len(line) <= longest_line(self.now) else "too_long"

    def _require_readable(self) -> None:
        for state in self.now.tiers.states():
            if not state.reads:
                raise UnreadableTierError(state.name)


def _key_of(row: CacheEntry) -> bytes | None:
    """Return a row's key as tiers know it; None for one that no entry can have."""
    try:
        key = bytes.fromhex(row.key)
    except ValueError:
        return None
    return key if len(key) == KEY_BYTES else None
