"""How many system prompts and versions the entries of each kind were asked with: what changing them leaves behind.

Of a prompt the ledger has a hash and nothing else, so this counts forms and does not show them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from django.utils import timezone

from llmcache.models import CacheEntry
from llmcache.schema_history.reports import Live

MOST_READ: Final = 10_000
"""Entries that are read, the newest ones: their hashes are JSON, and are counted here."""

_Form = tuple[str, str]


@dataclass
class KindOfEntries:
    """The entries of one kind, of those that were read and have not expired."""

    kind: str
    entries: int = 0
    prompts: set[str] = field(default_factory=set[str])
    """Hashes of their system prompts; an empty one for those without."""
    versions: set[str] = field(default_factory=set[str])
    """Hashes of ``VERSION`` with the version of the kind."""
    newest: _Form | None = None
    """The system prompt and the version of the newest one."""
    others: Live = field(default_factory=Live)
    """Those that were asked with another prompt or version than the newest one."""

    @property
    def is_of_one_form(self) -> bool:
        """Whether all were asked with the same prompt and version."""
        return len(self.prompts) < 2 and len(self.versions) < 2


def prompts_by_kind(using: str, most: int = MOST_READ) -> list[KindOfEntries]:
    """Return the kinds of the newest entries, by name, with how many prompts and versions they have; one statement.

    Entries that were written before their hashes were kept are left out.
    """
    rows = CacheEntry.objects.using(using).order_by("-written_at")
    # Those that were looked at are the newest, whether or not they have expired.
    newest = rows.values_list("kind", "components", "cost_pico_usd", "expires_at")[:most]
    now = timezone.now()
    live = ((kind, told, cost) for kind, told, cost, expires_at in newest if expires_at is None or expires_at > now)
    return _counted(live)


def _counted(rows: Iterable[tuple[str, Any, int | None]]) -> list[KindOfEntries]:
    found: dict[str, KindOfEntries] = {}
    for kind, told, cost in rows:
        form = _form(told)
        if form is None:
            continue
        entry = found.setdefault(kind, KindOfEntries(kind))
        entry.entries += 1
        entry.prompts.add(form[0])
        entry.versions.add(form[1])
        entry.newest = entry.newest or form
        if form != entry.newest:
            was = entry.others
            entry.others = Live(was.entries + 1, was.cost_pico_usd + (cost or 0), was.unpriced + (cost is None))
    return [found[kind] for kind in sorted(found)]


def _form(told: Any) -> _Form | None:
    """Return the hashes of system prompt and version; None where they were not kept."""
    # JSON in a database can be written by others.
    if not isinstance(told, dict) or not isinstance(told.get("project"), str):
        return None
    # Under another secret the same prompt has another hash.
    by, system = told.get("by") or "", told.get("system") or ""
    return f"{by}{system}", f"{by}{told['project']}"
