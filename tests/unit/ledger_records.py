"""Records of provider calls as a journal holds them, and all that the ledger's tables hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

from django.db import models

from llmcache.engine.counts import Collected, Tally
from llmcache.models import CacheEntry, ProviderCall, TenantDay, UsageBucket
from llmcache.money.journal_files import Event, JournalRecord
from llmcache.money.ledger import Imported, import_records

NAMESPACE = "shop"
AT = 1_700_002_799.5
"""Half a second before an hour ends: 22:59:59.5 on 14 November 2023, UTC."""
HOUR = datetime(2023, 11, 14, 22, tzinfo=UTC)
DAY = date(2023, 11, 14)
COST = 1_234_567
BOUND = 9_876_543_210
KEY = "ab" * 32


def call(number: int) -> str:
    return str(UUID(int=number))


def record(event: Event, number: int = 1, at: float = AT, **facts: Any) -> JournalRecord:
    return JournalRecord(event, call(number), at, facts)


def started(number: int = 1, at: float = AT, **facts: Any) -> JournalRecord:
    told = {
        "key": KEY,
        "kind": "Ticket",
        "type": "Ticket",
        "schema": "cd" * 16,
        "model": "openai/m",
        "tenant": "acme",
        "why": "no_entry",
        "attempt": 1,
        "stores": True,
        "ttl": 600.0,
        "bound": BOUND,
    }
    return record("started", number, at, **{**told, **facts})


def settled(number: int = 1, at: float = AT + 2, **facts: Any) -> JournalRecord:
    told = {
        "model": "m-2026",
        "finish": "stop",
        "refused": False,
        "request_id": "req_1",
        "latency_ms": 1_500,
        "input_tokens": 100,
        "cache_read_tokens": 20,
        "cache_write_tokens": 0,
        "output_tokens": 30,
        "cost": COST,
        "price": "openai/m",
        "price_source": "settings",
    }
    return record("settled", number, at, **{**told, **facts})


def failed(number: int = 1, at: float = AT + 2, **facts: Any) -> JournalRecord:
    told = {"error": "unavailable", "status": 503, "request_id": None, "latency_ms": 7, "cost": 0, "in_doubt": False}
    return record("failed", number, at, **{**told, **facts})


def rejected(number: int = 1, at: float = AT + 2.1, **facts: Any) -> JournalRecord:
    return record("rejected", number, at, **{"errors": ["missing", "int_parsing"], **facts})


def stored(number: int = 1, at: float = AT + 2.2, **facts: Any) -> JournalRecord:
    told = {
        "key": KEY,
        "kind": "Ticket",
        "type": "Ticket",
        "schema": "cd" * 16,
        "model": "openai/m",
        "answered": "m-2026",
        "tenant": "acme",
        "subject": "ef" * 32,
        "tags": ["inbox"],
        "written": AT + 2,
        "expires": AT + 602,
        "size": 512,
        "cost": COST,
        "latency_ms": 1_500,
        "attempts": 1,
        "source": "provider",
        "input_tokens": 100,
        "cache_read_tokens": 20,
        "cache_write_tokens": 0,
        "output_tokens": 30,
    }
    return record("stored", number, at, **{**told, **facts})


def bring(*records: JournalRecord, in_doubt: Sequence[int] = (), using: str = "default") -> Imported:
    return import_records(records, using=using, namespace=NAMESPACE, in_doubt=[call(number) for number in in_doubt])


def hits_of(key: str, count: int, outcome: str = "hit", cost: int | None = COST) -> Collected:
    made = Collected()
    tally = Tally("Ticket", "openai/m", "acme", "memory", outcome, bytes.fromhex(key), cost, 1_500)
    made.add(tally, count, int(HOUR.timestamp()))
    return made


def endless(records: Sequence[JournalRecord]) -> list[str]:
    """Return the calls that an importer takes for calls without an end, who sees these records alone."""
    ended = {each.call_id for each in records if each.event in ("settled", "failed")}
    return [each.call_id for each in records if each.event == "started" and each.call_id not in ended]


HOSTILE: list[Any] = [
    *(None, True, False, -1, 0, 2**31, 2**53, 2**62, 2**63, 2**64, -(2**70), 10**300, 1.5, 1e300, -0.0),
    *("", "NaN", "nan", "inf", "-1", "1e999", "\0", "a\0b", "\ud800", "x" * 10_000, "\u202e", "'; DROP TABLE x; --"),
    *([], [[]], [[[["deep"]]]], ["\0", 5, None, "\udfff", "y" * 10_000], ["z"] * 5_000, {}, {"a": {"b": []}}),
    *("ab" * 32, "\0" * 64, "\ud800" * 64, call(7)),
]
FIELDS = sorted({*started().facts, *settled().facts, *failed().facts, *rejected().facts, *stored().facts})


def everything(using: str = "default") -> dict[str, Any]:
    """Return all tables, less what tells importers apart, and less sums that came to nothing."""

    def rows(model: type[models.Model], *but: str) -> list[dict[str, Any]]:
        return [
            {name: _trimmed(value) for name, value in each.items() if name not in ("id", *but)}
            for each in model._default_manager.using(using).order_by().values()
        ]

    def found(model: type[models.Model], *key: str) -> dict[Any, Any]:
        by_key = {tuple(each.pop(name) for name in key): each for each in rows(model, "batch")}
        return {key: each for key, each in by_key.items() if any(_flat(each.values()))}

    return {
        "calls": found(ProviderCall, "call_id"),
        "entries": found(CacheEntry, "namespace", "key"),
        "hours": found(UsageBucket, "hour", "kind", "model", "tier", "outcome"),
        "days": found(TenantDay, "day", "tenant", "outcome"),
    }


def _trimmed(value: Any) -> Any:
    """Return latencies without the zeros at their end."""
    while isinstance(value, list) and value and value[-1] == 0:
        value = value[:-1]
    return value


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        yield from value if isinstance(value, list) else [value]
