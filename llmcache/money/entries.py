"""Rows of entries: as they were last written, and how often they were hit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import islice
from typing import Final, TypeVar
from uuid import UUID

from django.db import connections
from django.db.models import BigIntegerField, Case, F, Value, When
from django.db.models.functions import Least

from llmcache.components import checked_components, checked_hash
from llmcache.engine.counts import Avoided
from llmcache.models import MAX_KIND, MAX_NAME, CacheEntry, EntryTag
from llmcache.money.facts import MAX_PICO_USD, MAX_SUM, TOKENS, number, text_of, time_of, words
from llmcache.money.journal_files import JournalRecord

T = TypeVar("T")

_HITS_AT_ONCE: Final = 100


def require_entry(record: JournalRecord) -> tuple[str, datetime]:
    """Return the entry's key and when it was written; ValueError or TypeError when no entry can be made of a record."""
    facts = record.facts
    key = facts.get("key")
    if not isinstance(key, str) or len(key) != 64:
        raise ValueError
    for name in ("expires", "stale"):
        if facts.get(name) is not None:
            time_of(facts[name])
    return text_of(facts, "key", 64), written_at(record)


def written_at(record: JournalRecord) -> datetime:
    return time_of(record.facts.get("written", record.at))


def write_entries(entries: Mapping[str, JournalRecord], using: str, namespace: str) -> None:
    if not entries:
        return
    rows = CacheEntry.objects.using(using)
    made = [_entry(namespace, key, entries[key]) for key in sorted(entries)]
    rows.bulk_create(made, ignore_conflicts=True)
    # Locked until our commit: another importer may have a newer one, which must not be overwritten.
    mine = rows.select_for_update().filter(namespace=namespace, key__in=list(entries)).order_by("key")
    found = {key: (pk, written) for pk, key, written in mine.values_list("pk", "key", "written_at")}
    _write_tags({pk: entries[key] for key, (pk, _) in found.items()}, using)
    newer = [row for row in made if row.key in found and found[row.key][1] < row.written_at]
    if not newer:
        return
    targeted = connections[using].features.supports_update_conflicts_with_target
    kept = {"id", "namespace", "key", "hits", "last_hit_at", "saved_pico_usd"}
    rows.bulk_create(
        newer,
        update_conflicts=True,
        unique_fields=["namespace", "key"] if targeted else None,
        update_fields=[name.name for name in CacheEntry._meta.concrete_fields if name.name not in kept],
    )


def _write_tags(entries: Mapping[int, JournalRecord], using: str) -> None:
    # Tags are part of the key: those of an entry are the same for ever, and none is to be taken away.
    made = [
        EntryTag(entry_id=pk, tag=tag) for pk in entries for tag in sorted(set(words(entries[pk].facts.get("tags"))))
    ]
    if made:
        EntryTag.objects.using(using).bulk_create(made, ignore_conflicts=True)


def _entry(namespace: str, key: str, record: JournalRecord) -> CacheEntry:
    facts = record.facts
    expires, stale = facts.get("expires"), facts.get("stale")
    return CacheEntry(
        namespace=namespace,
        key=key,
        kind=text_of(facts, "kind", MAX_KIND),
        response_type=text_of(facts, "type", MAX_NAME),
        schema=text_of(facts, "schema", 64),
        model=text_of(facts, "model", MAX_NAME),
        answered_model=text_of(facts, "answered", MAX_NAME),
        tenant=text_of(facts, "tenant", MAX_NAME),
        subject_hash=text_of(facts, "subject", 64),
        tags=words(facts.get("tags")),
        content_hash=checked_hash(facts.get("content")),
        components=checked_components(facts.get("parts")),
        written_at=written_at(record),
        expires_at=None if expires is None else time_of(expires),
        stale_until=None if stale is None else time_of(stale),
        size_bytes=number(facts, "size") or 0,
        cost_pico_usd=number(facts, "cost", MAX_PICO_USD),
        latency_ms=number(facts, "latency_ms") or 0,
        attempts=min(number(facts, "attempts") or 0, 2**31 - 1),
        source=text_of(facts, "source", 20),
        simulated=facts.get("simulated") is True,
        call_id=UUID(record.call_id),
        **{name: number(facts, name) for name in TOKENS},
    )


def add_all_hits(hits: Mapping[bytes, Avoided], using: str, namespace: str, at: float) -> dict[bytes, Avoided]:
    """Add hits to entries, with what they avoided, in the order of their keys; return those without a row."""
    homeless: dict[bytes, Avoided] = {}
    for part in _parts(sorted(hits.items()), _HITS_AT_ONCE):
        homeless.update(_add_hits(dict(part), using, namespace, at))
    return homeless


def _add_hits(hits: Mapping[bytes, Avoided], using: str, namespace: str, at: float) -> dict[bytes, Avoided]:
    names = {key.hex(): avoided for key, avoided in hits.items()}
    rows = CacheEntry.objects.using(using).filter(namespace=namespace, key__in=sorted(names))
    # Locked first: an update alone locks rows in an order of its own.
    found = set(rows.select_for_update().order_by("key").values_list("key", flat=True))
    rows.filter(key__in=sorted(found)).update(
        hits=F("hits") + _of_each({key: avoided.hits for key, avoided in names.items()}),
        saved_pico_usd=Least(F("saved_pico_usd"), Value(MAX_SUM), output_field=BigIntegerField())
        + _of_each({key: min(avoided.pico_usd, MAX_SUM) for key, avoided in names.items()}),
        last_hit_at=time_of(at),
    )
    return {key: avoided for key, avoided in hits.items() if key.hex() not in found}


def _of_each(values: Mapping[str, int]) -> Case:
    """Return an expression that is each key's own value."""
    cases = (When(key=key, then=Value(value)) for key, value in values.items())
    return Case(*cases, default=Value(0), output_field=BigIntegerField())


def _parts(items: Iterable[T], size: int) -> Iterable[list[T]]:
    found = iter(items)
    while part := list(islice(found, size)):
        yield part
