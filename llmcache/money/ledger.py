"""The ledger: what the journal and the counts tell becomes rows, each call once.

Records may come in any order and any number of times, from several importers: rows are found by call id, an end is
never undone, and sums get only what a row really gained.
"""

from __future__ import annotations

import secrets
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db import DataError, IntegrityError, transaction

from llmcache.engine.counts import Avoided, Collected, hour_of
from llmcache.models import MAX_KIND, MAX_NAME, ProviderCall
from llmcache.money.entries import add_all_hits, require_entry, write_entries, written_at
from llmcache.money.facts import (
    MAX_PICO_USD,
    TOKENS,
    cut,
    is_id,
    number,
    seconds_of,
    text_of,
    time_of,
    words,
)
from llmcache.money.journal_files import JournalRecord
from llmcache.money.sums import Gained, HourKey
from llmcache.money.totals import AHEAD

Outcome = ProviderCall.Outcome


@dataclass(slots=True)
class Imported:
    """What came of records."""

    calls: int = 0
    """Calls that were not in the table."""
    known: int = 0
    """Calls that were, changed or not."""
    unusable: int = 0
    """Records that are whole, and of which no row can be made."""

    def add(self, other: Imported) -> None:
        """Add what came of other records."""
        self.calls += other.calls
        self.known += other.known
        self.unusable += other.unusable


def import_records(
    records: Sequence[JournalRecord], *, using: str, namespace: str, in_doubt: Collection[str] = ()
) -> Imported:
    """Bring records into the tables, in one transaction.

    ``in_doubt``: ids of calls that have no end and will get none. Raises the database's errors; then nothing of it is
    in the tables.
    """
    told, entries, unusable = _gathered(records)
    try:
        with transaction.atomic(using=using):
            imported = _import(told, entries, using, namespace, in_doubt)
    except (DataError, IntegrityError):
        if len(told) + len(entries) <= 1:
            return Imported(unusable=len(records))
        # A line that no check here has found bad must not hold up all others.
        imported = Imported()
        for records_of_one in _one_by_one(records):
            imported.add(import_records(records_of_one, using=using, namespace=namespace, in_doubt=in_doubt))
        return imported
    imported.unusable += unusable
    return imported


def _one_by_one(records: Sequence[JournalRecord]) -> Iterable[list[JournalRecord]]:
    by_row: defaultdict[tuple[str, str | None], list[JournalRecord]] = defaultdict(list)
    for record in records:
        entry = str(record.facts.get("key")) if record.event == "stored" else None
        by_row[record.call_id, entry].append(record)
    return by_row.values()


@dataclass(slots=True)
class _Told:
    """What the records tell of one call."""

    started: JournalRecord | None = None
    ended: JournalRecord | None = None
    rejected: JournalRecord | None = None


def _gathered(records: Iterable[JournalRecord]) -> tuple[dict[UUID, _Told], dict[str, JournalRecord], int]:
    told: defaultdict[UUID, _Told] = defaultdict(_Told)
    entries: dict[str, JournalRecord] = {}
    unusable = 0
    for record in records:
        try:
            call_id, _ = UUID(record.call_id), time_of(record.at)
            if record.event == "stored":
                key, written = require_entry(record)
                if key not in entries or written_at(entries[key]) < written:
                    entries[key] = record
                continue
        except (ValueError, TypeError):
            unusable += 1
            continue
        if record.event == "started":
            told[call_id].started = record
        elif record.event == "rejected":
            told[call_id].rejected = record
        else:
            told[call_id].ended = record
    return dict(told), entries, unusable


def _import(
    told: Mapping[UUID, _Told],
    entries: Mapping[str, JournalRecord],
    using: str,
    namespace: str,
    in_doubt: Collection[str],
) -> Imported:
    doubtful = {UUID(call_id) for call_id in in_doubt if is_id(call_id)}
    batch = secrets.randbits(62)
    # In one order for all importers, so that two of them cannot wait for each other.
    rows = {call_id: ProviderCall(call_id=call_id, batch=batch) for call_id in sorted(told.keys() | doubtful)}
    for call_id, row in rows.items():
        _apply(row, told.get(call_id, _Told()), doubtful=call_id in doubtful)
    # Who is only in doubt has its row already, or no line that would make one.
    made = [row for call_id, row in rows.items() if call_id in told]
    calls = ProviderCall.objects.using(using)
    calls.bulk_create(made, ignore_conflicts=True)
    sums = Gained()
    imported = Imported()
    # Those that were there: what another importer has inserted meanwhile is seen now, and locked until our commit.
    others = calls.select_for_update().filter(call_id__in=list(rows)).exclude(batch=batch).order_by("call_id")
    for row in others:
        told_of_row = told.get(row.call_id, _Told())
        rows.pop(row.call_id)
        imported.known += 1
        before = Gained()
        before.add(row, -1)
        if _apply(row, told_of_row, doubtful=row.call_id in doubtful):
            row.save(using=using)
            sums.merge(before)
            sums.add(row, 1)
    for call_id, row in rows.items():
        if call_id in told:
            sums.add(row, 1)
            imported.calls += 1
    write_entries(entries, using, namespace)
    sums.write(using)
    return imported


def _apply(row: ProviderCall, told: _Told, *, doubtful: bool) -> bool:
    """Bring what is told into a row; return whether that changed it."""
    before = {**row.__dict__}
    if told.started is not None and not row.reason:
        _apply_start(row, told.started)
    if told.rejected is not None and not row.error_types:
        _apply_rejection(row, told.rejected)
    if told.ended is not None and row.ended_at is None:
        _apply_end(row, told.ended)
    if row.ended_at is None:
        # An answer that was rejected has come, and was charged, though the line that says so is not here.
        doubtful = doubtful or row.outcome == Outcome.IN_DOUBT or bool(row.error_types)
        row.outcome = Outcome.IN_DOUBT if doubtful else Outcome.UNDER_WAY
    elif row.outcome == Outcome.ANSWERED and row.error_types:
        row.outcome = Outcome.REJECTED
    return before != row.__dict__


def _apply_start(row: ProviderCall, record: JournalRecord) -> None:
    facts = record.facts
    row.started_at = time_of(record.at)
    row.kind = text_of(facts, "kind", MAX_KIND)
    row.response_type = text_of(facts, "type", MAX_NAME)
    row.schema = text_of(facts, "schema", 64)
    row.model = text_of(facts, "model", MAX_NAME)
    row.tenant = text_of(facts, "tenant", MAX_NAME)
    row.key = text_of(facts, "key", 64)
    row.reason = text_of(facts, "why", 32) or "unknown"
    row.attempt = min(number(facts, "attempt") or 0, 2**31 - 1)
    row.to_store = facts.get("stores") is not False
    row.ttl_seconds = seconds_of(facts, "ttl")
    row.ahead = next((each for each in AHEAD if each == facts.get("ahead")), "")
    row.bound_pico_usd = number(facts, "bound", MAX_PICO_USD)
    row.simulated = facts.get("simulated") is True


def _apply_rejection(row: ProviderCall, record: JournalRecord) -> None:
    row.error_types = words(record.facts.get("errors")) or ["unknown"]
    if row.started_at is None:
        row.started_at, row.attempt, row.to_store = time_of(record.at), 0, True


def _apply_end(row: ProviderCall, record: JournalRecord) -> None:
    facts = record.facts
    row.ended_at = time_of(record.at)
    if not row.reason:
        # Its start has been lost: what is known is what it cost.
        row.started_at, row.attempt, row.to_store = row.ended_at, 0, True
    failed = record.event == "failed"
    row.outcome = Outcome.ANSWERED if not failed else Outcome.FAILED
    if failed and facts.get("in_doubt") is True:
        row.outcome = Outcome.IN_DOUBT
    row.answered_model = text_of(facts, "model", MAX_NAME)
    row.error = text_of(facts, "error", 64)
    status = number(facts, "status")
    row.status = status if status is not None and status < 1_000 else None
    row.request_id = text_of(facts, "request_id", MAX_NAME)
    row.finish_reason = text_of(facts, "finish", MAX_NAME)
    row.refused = facts.get("refused") is True
    row.latency_ms = number(facts, "latency_ms")
    row.cost_pico_usd = number(facts, "cost", MAX_PICO_USD)
    row.price_id = text_of(facts, "price", MAX_NAME)
    row.price_source = text_of(facts, "price_source", MAX_NAME)
    for name in TOKENS:
        setattr(row, name, number(facts, name))


def add_counts(
    collected: Collected, *, using: str, namespace: str, at: float, simulated: bool = False
) -> dict[bytes, Avoided]:
    """Add counts to the sums, and their hits to the entries, in one transaction; return hits whose entry has no row.

    Raises the database's errors; then nothing of it is in the tables.
    """
    sums = Gained()
    for key, made in collected.buckets.items():
        hour = HourKey(
            hour_of(key.hour),
            cut(key.kind, MAX_KIND), cut(key.model, MAX_NAME), cut(key.tier, MAX_KIND), key.outcome,
            simulated,
        )  # fmt: skip
        gained = {
            "count": made.count,
            "avoided_pico_usd": made.avoided,
            "avoided_unknown": made.unknown,
            "saved_ms": made.milliseconds,
        }
        sums.gain(hour, cut(key.tenant or "", MAX_NAME), Counter(gained))
    with transaction.atomic(using=using):
        # Entries, then sums, each in the order of their keys: as importers do, so that nobody waits for each other.
        homeless = add_all_hits(collected.entries, using, namespace, at)
        sums.write(using)
    return homeless
