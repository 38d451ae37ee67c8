"""The ledger: what the journal and the counts tell becomes rows, each call once.

Records may come in any order and any number of times, from several importers: rows are found by call id, an end is
never undone, and sums get only what a row really gained. What lines claim is checked again: whoever can write a file
can make its checksums right.
"""

from __future__ import annotations

import secrets
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

from django.conf import settings
from django.db import DataError, IntegrityError, connections, transaction
from django.db.models import BigIntegerField, Case, F, Value, When
from django.utils import timezone

from llmcache.engine.counts import Collected, hour_of
from llmcache.models import MAX_KIND, MAX_NAME, CacheEntry, ProviderCall, TenantDay, UsageBucket
from llmcache.money.journal_files import JournalRecord

Outcome = ProviderCall.Outcome
T = TypeVar("T")

HITS_AT_ONCE: Final = 100
LATENCY_PLACES: Final = 24
"""Of ``UsageBucket.latencies``: the last one takes all above two hours."""

_MAX_NUMBER: Final = 2**62
_MAX_PICO_USD: Final = 10**16
"""Ten thousand dollars: no attempt costs more, and sums of what claims to would leave the database's integers."""
_LAST_TIME: Final = 2e11
"""In the year 8307, for every time zone has to know a time; far beyond the longest ``ttl=``."""
_DAY: Final = 86_400
_TOKENS: Final = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens")


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
            call_id, _ = UUID(record.call_id), _time(record.at)
            if record.event == "stored":
                key, written = _require_entry(record)
                if key not in entries or _written(entries[key]) < written:
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
    doubtful = {UUID(call_id) for call_id in in_doubt if _is_id(call_id)}
    batch = secrets.randbits(62)
    # In one order for all importers, so that two of them cannot wait for each other.
    rows = {call_id: ProviderCall(call_id=call_id, batch=batch) for call_id in sorted(told.keys() | doubtful)}
    for call_id, row in rows.items():
        _apply(row, told.get(call_id, _Told()), doubtful=call_id in doubtful)
    # Who is only in doubt has its row already, or no line that would make one.
    made = [row for call_id, row in rows.items() if call_id in told]
    calls = ProviderCall.objects.using(using)
    calls.bulk_create(made, ignore_conflicts=True)
    sums = _Gained()
    imported = Imported()
    # Those that were there: what another importer has inserted meanwhile is seen now, and locked until our commit.
    others = calls.select_for_update().filter(call_id__in=list(rows)).exclude(batch=batch).order_by("call_id")
    for row in others:
        told_of_row = told.get(row.call_id, _Told())
        rows.pop(row.call_id)
        imported.known += 1
        before = _Gained()
        before.add(row, -1)
        if _apply(row, told_of_row, doubtful=row.call_id in doubtful):
            row.save(using=using)
            sums.merge(before)
            sums.add(row, 1)
    for call_id, row in rows.items():
        if call_id in told:
            sums.add(row, 1)
            imported.calls += 1
    _write_entries(entries, using, namespace)
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
    row.started_at = _time(record.at)
    row.kind = _text(facts, "kind", MAX_KIND)
    row.response_type = _text(facts, "type", MAX_NAME)
    row.schema = _text(facts, "schema", 64)
    row.model = _text(facts, "model", MAX_NAME)
    row.tenant = _text(facts, "tenant", MAX_NAME)
    row.key = _text(facts, "key", 64)
    row.reason = _text(facts, "why", 32) or "unknown"
    row.attempt = min(_number(facts, "attempt") or 0, 2**31 - 1)
    row.to_store = facts.get("stores") is not False
    row.bound_pico_usd = _number(facts, "bound", _MAX_PICO_USD)


def _apply_rejection(row: ProviderCall, record: JournalRecord) -> None:
    row.error_types = _words(record.facts.get("errors")) or ["unknown"]
    if row.started_at is None:
        row.started_at, row.attempt, row.to_store = _time(record.at), 0, True


def _apply_end(row: ProviderCall, record: JournalRecord) -> None:
    facts = record.facts
    row.ended_at = _time(record.at)
    if not row.reason:
        # Its start has been lost: what is known is what it cost.
        row.started_at, row.attempt, row.to_store = row.ended_at, 0, True
    failed = record.event == "failed"
    row.outcome = Outcome.ANSWERED if not failed else Outcome.FAILED
    if failed and facts.get("in_doubt") is True:
        row.outcome = Outcome.IN_DOUBT
    row.answered_model = _text(facts, "model", MAX_NAME)
    row.error = _text(facts, "error", 64)
    status = _number(facts, "status")
    row.status = status if status is not None and status < 1_000 else None
    row.request_id = _text(facts, "request_id", MAX_NAME)
    row.finish_reason = _text(facts, "finish", MAX_NAME)
    row.refused = facts.get("refused") is True
    row.latency_ms = _number(facts, "latency_ms")
    row.cost_pico_usd = _number(facts, "cost", _MAX_PICO_USD)
    row.price_id = _text(facts, "price", MAX_NAME)
    row.price_source = _text(facts, "price_source", MAX_NAME)
    for name in _TOKENS:
        setattr(row, name, _number(facts, name))


class _HourKey(NamedTuple):
    hour: int
    """Seconds since the epoch at which it began."""
    kind: str
    model: str
    tier: str
    outcome: str


class _DayKey(NamedTuple):
    day: int
    """Of the epoch, by UTC."""
    tenant: str
    outcome: str


class _Gained:
    """What is to be added to the sums, by hour and by tenant and day."""

    def __init__(self) -> None:
        self.hours: defaultdict[_HourKey, Counter[str]] = defaultdict(Counter)
        self.days: defaultdict[_DayKey, Counter[str]] = defaultdict(Counter)
        self.latencies: defaultdict[_HourKey, Counter[int]] = defaultdict(Counter)

    def add(self, row: ProviderCall, sign: int) -> None:
        """Add what a row says, or take it away; of an attempt that is under way there is nothing to say yet."""
        if row.outcome == Outcome.UNDER_WAY:
            return
        sums = Counter({"attempts": sign})
        if row.outcome == Outcome.IN_DOUBT:
            sums["in_doubt"] = sign
            if row.bound_pico_usd is None:
                sums["in_doubt_unbounded"] = sign
            else:
                sums["in_doubt_pico_usd"] = sign * row.bound_pico_usd
        elif row.cost_pico_usd is None:
            sums["unpriced"] = sign
        else:
            sums["spent_pico_usd"] = sign * row.cost_pico_usd
        outcome = "miss" if row.to_store else "bypass"
        key = _HourKey(hour_of(_unix(row.started_at)), row.kind, row.model, "", outcome)
        self.gain(key, row.tenant, sums)
        if row.latency_ms is not None:
            self.latencies[key][min(row.latency_ms.bit_length(), LATENCY_PLACES - 1)] += sign

    def gain(self, key: _HourKey, tenant: str, sums: Counter[str]) -> None:
        """Add sums to an hour and to its tenant's day."""
        self.hours[key].update(sums)
        self.days[_DayKey(key.hour // _DAY, tenant, key.outcome)].update(sums)

    def merge(self, other: _Gained) -> None:
        """Add what another one gained."""
        for key, sums in other.hours.items():
            self.hours[key].update(sums)
        for day, sums in other.days.items():
            self.days[day].update(sums)
        for key, places in other.latencies.items():
            self.latencies[key].update(places)

    def write(self, using: str) -> None:
        """Add it all to the tables, in one order for all processes."""
        for key in sorted(self.hours):
            found = {**key._asdict(), "hour": stored_time(key.hour)}
            _add(UsageBucket, found, self.hours[key], using)
            _add_latencies(found, self.latencies[key], using)
        for day in sorted(self.days):
            found = {**day._asdict(), "day": datetime.fromtimestamp(day.day * _DAY, UTC).date()}
            _add(TenantDay, found, self.days[day], using)


def _add(model: type[UsageBucket | TenantDay], key: dict[str, Any], sums: Counter[str], using: str) -> None:
    gained = {name: F(name) + value for name, value in sums.items() if value}
    table: Any = model._default_manager.using(using)
    rows = table.filter(**key)
    if gained and not rows.update(**gained):
        table.bulk_create([model(**key)], ignore_conflicts=True)
        rows.update(**gained)


def _add_latencies(key: dict[str, Any], gained: Counter[int], using: str) -> None:
    if not any(gained.values()):
        return
    for bucket in UsageBucket.objects.using(using).select_for_update().filter(**key):
        places = [*bucket.latencies, *[0] * (LATENCY_PLACES - len(bucket.latencies))]
        for place, count in gained.items():
            places[place] += count
        bucket.latencies = places
        bucket.save(using=using, update_fields=["latencies"])


def _require_entry(record: JournalRecord) -> tuple[str, datetime]:
    """Return the entry's key and when it was written; ValueError or TypeError when no entry can be made of a record."""
    facts = record.facts
    key = facts.get("key")
    if not isinstance(key, str) or len(key) != 64:
        raise ValueError
    if facts.get("expires") is not None:
        _time(facts["expires"])
    return _text(facts, "key", 64), _written(record)


def _written(record: JournalRecord) -> datetime:
    return _time(record.facts.get("written", record.at))


def _write_entries(entries: Mapping[str, JournalRecord], using: str, namespace: str) -> None:
    if not entries:
        return
    rows = CacheEntry.objects.using(using)
    made = [_entry(namespace, key, entries[key]) for key in sorted(entries)]
    rows.bulk_create(made, ignore_conflicts=True)
    # Locked until our commit: another importer may have a newer one, which must not be overwritten.
    mine = rows.select_for_update().filter(namespace=namespace, key__in=list(entries)).order_by("key")
    there = dict(mine.values_list("key", "written_at"))
    newer = [row for row in made if row.key in there and there[row.key] < row.written_at]
    if not newer:
        return
    targeted = connections[using].features.supports_update_conflicts_with_target
    kept = {"id", "namespace", "key", "hits", "last_hit_at"}
    rows.bulk_create(
        newer,
        update_conflicts=True,
        unique_fields=["namespace", "key"] if targeted else None,
        update_fields=[name.name for name in CacheEntry._meta.concrete_fields if name.name not in kept],
    )


def _entry(namespace: str, key: str, record: JournalRecord) -> CacheEntry:
    facts = record.facts
    expires = facts.get("expires")
    return CacheEntry(
        namespace=namespace,
        key=key,
        kind=_text(facts, "kind", MAX_KIND),
        response_type=_text(facts, "type", MAX_NAME),
        schema=_text(facts, "schema", 64),
        model=_text(facts, "model", MAX_NAME),
        answered_model=_text(facts, "answered", MAX_NAME),
        tenant=_text(facts, "tenant", MAX_NAME),
        subject_hash=_text(facts, "subject", 64),
        tags=_words(facts.get("tags")),
        written_at=_written(record),
        expires_at=None if expires is None else _time(expires),
        size_bytes=_number(facts, "size") or 0,
        cost_pico_usd=_number(facts, "cost", _MAX_PICO_USD),
        latency_ms=_number(facts, "latency_ms") or 0,
        attempts=min(_number(facts, "attempts") or 0, 2**31 - 1),
        source=_text(facts, "source", 20),
        call_id=UUID(record.call_id),
        **{name: _number(facts, name) for name in _TOKENS},
    )


def add_counts(collected: Collected, *, using: str, namespace: str, at: float) -> None:
    """Add counts to the sums, and their hits to the entries, in one transaction. Raises the database's errors."""
    sums = _Gained()
    for key, made in collected.buckets.items():
        hour = _HourKey(
            hour_of(key.hour),
            _cut(key.kind, MAX_KIND), _cut(key.model, MAX_NAME), _cut(key.tier, MAX_KIND), key.outcome,
        )  # fmt: skip
        gained = {
            "count": made.count,
            # What does not fit is hostile, and must not keep all else from being written.
            "avoided_pico_usd": min(made.avoided, _MAX_NUMBER),
            "avoided_unknown": made.unknown,
            "saved_ms": made.milliseconds,
        }
        sums.gain(hour, _cut(key.tenant or "", MAX_NAME), Counter(gained))
    with transaction.atomic(using=using):
        # Entries, then sums, each in the order of their keys: as importers do, so that nobody waits for each other.
        for part in _parts(sorted(collected.entries.items()), HITS_AT_ONCE):
            _add_hits(dict(part), using, namespace, at)
        sums.write(using)


def _add_hits(hits: Mapping[bytes, int], using: str, namespace: str, at: float) -> None:
    names = {key.hex(): count for key, count in hits.items()}
    gained = Case(
        *(When(key=key, then=Value(count)) for key, count in names.items()),
        default=Value(0),
        output_field=BigIntegerField(),
    )
    rows = CacheEntry.objects.using(using).filter(namespace=namespace, key__in=sorted(names))
    if connections[using].features.has_select_for_update:
        # An update alone locks rows in an order of its own.
        list(rows.select_for_update().order_by("key").values_list("pk"))
    rows.update(hits=F("hits") + gained, last_hit_at=_time(at))


def _parts(items: Iterable[T], size: int) -> Iterable[list[T]]:
    found = iter(items)
    while part := list(islice(found, size)):
        yield part


def _is_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _time(at: Any) -> datetime:
    """Return a time as the database takes it; ValueError or TypeError for what is none."""
    if isinstance(at, bool) or not isinstance(at, int | float):
        raise TypeError
    if not 0 <= at < _LAST_TIME:
        raise ValueError
    return stored_time(at)


def stored_time(at: float) -> datetime:
    """Return a Unix time as the project's databases keep times: naive, in its time zone, where ``USE_TZ`` is off."""
    moment = datetime.fromtimestamp(at, UTC)
    # Without its fold, which a database does not keep: a row has to be in the same hour when it is read again.
    return moment if settings.USE_TZ else timezone.make_naive(moment, timezone.get_default_timezone()).replace(fold=0)


def _unix(stored: datetime) -> float:
    if timezone.is_naive(stored):
        stored = timezone.make_aware(stored, timezone.get_default_timezone())
    return stored.timestamp()


def _number(facts: Mapping[str, Any], name: str, most: int = _MAX_NUMBER) -> int | None:
    value = facts.get(name)
    return value if type(value) is int and 0 <= value < most else None


def _words(value: Any) -> list[str]:
    return [_cut(word, MAX_NAME) for word in value[:50] if isinstance(word, str)] if isinstance(value, list) else []


def _text(facts: Mapping[str, Any], name: str, most: int) -> str:
    value = facts.get(name)
    return _cut(value, most) if isinstance(value, str) else ""


def _cut(text: str, most: int) -> str:
    """Return a text that every database takes: no NUL, no lone surrogate, not too long."""
    return text.encode(errors="replace").decode().replace("\0", "\ufffd")[:most]
