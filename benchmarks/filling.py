"""A large ledger in a PostgreSQL database, made by the database itself: a year of calls, more of them lately.

Sums by the hour and by the tenant's day are those of the calls; hits are drawn, two for each call on average.
"""

from collections.abc import Mapping
from typing import Any

from django.db import connections, models

from llmcache.models import CacheEntry, EntryTag, ProviderCall, SchemaVersion, TenantDay, UsageBucket

KINDS = 12
MODELS = ("openai/gpt-5-mini", "openai/gpt-5", "openai/gpt-4.1-nano", "house/llama-3.3-70b")
TENANTS = 200
TAGS = 300
DAYS = 365


def _drawn(salt: int, of: str = "n") -> str:
    """Return SQL for a number from 0 to 1: the same for the same entry, so that its calls and its row agree."""
    return f"((hashint8({of} * 31 + {salt})::bigint + 2147483648) / 4294967296.0)"


def _identity(of: str) -> dict[str, str]:
    kind = f"floor({KINDS} * power({_drawn(1, of)}, 2))::int"
    names = ", ".join(f"'{name}'" for name in MODELS)
    return {
        "key": f"encode(sha256(('entry ' || {of})::bytea), 'hex')",
        "kind": f"'Kind' || ({kind})",
        "response_type": f"'Kind' || ({kind})",
        "schema": f"md5('schema ' || ({kind}) || CASE WHEN {_drawn(2, of)} < 0.2 THEN 'old' ELSE 'new' END)",
        "model": f"(ARRAY[{names}])[1 + ({kind}) % {len(MODELS)}]",
        "answered_model": "'gpt-5-mini-2026-01-01'",
        "tenant": f"CASE WHEN {_drawn(3, of)} < 0.1 THEN '' "
        f"ELSE 'tenant ' || floor({TENANTS} * power({_drawn(4, of)}, 3))::int END",
    }


_COST = f"(50000000 + 3000000000 * power({_drawn(5)}, 4))::bigint"
"""From $0.00005 to $0.003."""
_TOKENS = {
    "input_tokens": f"(100 + 3000 * {_drawn(6)})::int",
    "cache_read_tokens": "0",
    "cache_write_tokens": "0",
    "output_tokens": f"(20 + 400 * {_drawn(7)})::int",
}


def fill(using: str, *, calls: int, entries: int) -> None:
    """Make the rows, and let the database count them."""
    indexes = _drop_indexes(using)
    _insert(using, SchemaVersion, _schema_versions(), f"generate_series(0, {2 * KINDS - 1}) AS n")
    _insert(using, CacheEntry, _entries(), f"generate_series(1, {entries}) AS n")
    _insert(
        using, EntryTag, {"entry_id": "e.id", "tag": "t"}, "llmcache_cacheentry e, jsonb_array_elements_text(tags) t"
    )
    # Drawn once for all columns of a row; OFFSET keeps the planner from drawing for each.
    drawn = (
        f"(SELECT g, 1 + floor({entries} * power(random(), 2))::bigint AS n, random() AS luck,"
        f" now() - interval '1 day' * ({DAYS} * (1 - sqrt(random()))) AS at"
        f" FROM generate_series(1, {calls}) AS g OFFSET 0) AS drawn"
    )
    _insert(using, ProviderCall, _calls(), drawn)
    _sum_up(using)
    with connections[using].cursor() as cursor:
        for definition in indexes:
            cursor.execute(definition)
        cursor.execute("VACUUM ANALYZE")


def _drop_indexes(using: str) -> list[str]:
    """Drop what is made faster at once than row by row; return how to make it again."""
    with connections[using].cursor() as cursor:
        cursor.execute(
            "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index"
            " WHERE indrelid::regclass::text LIKE 'llmcache_%'"
            " AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)"
        )
        found: list[tuple[str, str]] = cursor.fetchall()
        for name, _ in found:
            cursor.execute(f"DROP INDEX {name}")
    return [definition for _, definition in found]


def _schema_versions() -> dict[str, str]:
    return {
        "response_type": "'Kind' || n / 2",
        "fingerprint": "md5('schema ' || n / 2 || CASE WHEN n % 2 = 0 THEN 'old' ELSE 'new' END)",
        "schema": """'{"type":"object","properties":{"name":{"type":"string"}}}'""",
        "first_seen_at": "now() - interval '1 day' * (300 - n)",
        "last_seen_at": "now() - interval '1 hour' * n",
    }


def _entries() -> dict[str, str]:
    written = f"now() - interval '1 day' * (14 * power({_drawn(8)}, 2))"
    hits = f"floor(2 * power(greatest({_drawn(9)}, 0.00001), -0.6) - 2)::bigint"
    tags = f"jsonb_build_array('tag ' || floor({TAGS} * power({_drawn(10)}, 2))::int, 'prod')"
    return {
        **_identity("n"),
        **_TOKENS,
        "namespace": "'benchmark'",
        "tags": f"CASE WHEN {_drawn(11)} < 0.3 THEN '[]'::jsonb ELSE {tags} END",
        "written_at": written,
        "expires_at": f"CASE WHEN {_drawn(12)} < 0.05 THEN NULL ELSE {written} + interval '7 days' END",
        "size_bytes": "700 + n % 5000",
        "latency_ms": "300 + n % 3000",
        "attempts": "1",
        "source": "'provider'",
        "call_id": "gen_random_uuid()",
        "cost_pico_usd": _COST,
        "hits": hits,
        "last_hit_at": f"CASE WHEN {hits} > 0 THEN now() - interval '1 hour' * {_drawn(13)} ELSE NULL END",
        "saved_pico_usd": f"{hits} * {_COST}",
    }


def _calls() -> dict[str, str]:
    return {
        **_identity("n"),
        **_TOKENS,
        "call_id": "gen_random_uuid()",
        "started_at": "at",
        "ended_at": "at + interval '900 milliseconds'",
        "outcome": "CASE WHEN luck < 0.97 THEN 'answered' WHEN luck < 0.98 THEN 'rejected' "
        "WHEN luck < 0.997 THEN 'failed' WHEN luck < 0.99998 THEN 'in_doubt' ELSE 'under_way' END",
        "reason": "CASE WHEN luck > 0.02 THEN 'not_found' WHEN luck > 0.001 THEN 'bypass' "
        "WHEN luck > 0.0005 THEN 'invalid' ELSE 'ttl_zero' END",
        "attempt": "1",
        "to_store": "luck > 0.02",
        "error": "CASE WHEN luck BETWEEN 0.98 AND 0.997 THEN 'provider_unavailable' ELSE '' END",
        "status": "CASE WHEN luck BETWEEN 0.98 AND 0.997 THEN 503 ELSE 200 END",
        "request_id": "'req_' || md5(g::text)",
        "finish_reason": "'stop'",
        "latency_ms": "(200 + 2000 * luck)::int",
        "cost_pico_usd": f"CASE WHEN luck < 0.98 THEN {_COST} WHEN luck < 0.997 THEN 0 ELSE NULL END",
        "bound_pico_usd": f"{_COST} * 20",
        "price_id": "'openai/gpt-5-mini'",
        "price_source": "'genai-prices'",
        "batch": "g / 1000",
    }


_MADE = {
    "count": "count(*)",
    "attempts": "count(*)",
    "spent_pico_usd": "coalesce(sum(cost_pico_usd) FILTER (WHERE outcome <> 'in_doubt'), 0)",
    "in_doubt": "count(*) FILTER (WHERE outcome = 'in_doubt')",
    "in_doubt_pico_usd": "coalesce(sum(bound_pico_usd) FILTER (WHERE outcome = 'in_doubt'), 0)",
    "outcome": "CASE WHEN to_store THEN 'miss' ELSE 'bypass' END",
}
_HIT = {
    "outcome": "CASE WHEN random() < 0.03 THEN 'collapsed' ELSE 'hit' END",
    "count": "hits",
    "avoided_pico_usd": "hits * mean",
    "saved_ms": "hits * 900",
}


def _sum_up(using: str) -> None:
    left = "llmcache_providercall WHERE outcome <> 'under_way'"
    hour, day = "date_trunc('hour', started_at, 'UTC')", "(started_at AT TIME ZONE 'UTC')::date"
    latencies = {"latencies": "'[0,0,0,0,0,0,0,0,1,2,5,3,1,0,0,0,0,0,0,0,0,0,0,0]'::jsonb"}
    called = {**_MADE, "hour": hour, "kind": "kind", "model": "model", "tier": "''", **latencies}
    _insert(using, UsageBucket, called, f"{left} GROUP BY {hour}, kind, model, to_store")
    hit = {**_HIT, "hour": "hour", "kind": "kind", "model": "model", "tier": "place", "latencies": "'[]'::jsonb"}
    places = "(SELECT b.*, place FROM llmcache_usagebucket b, (VALUES ('llm-memory'), ('default')) AS p (place)) AS b"
    _insert(using, UsageBucket, hit, _with_hits(places))
    of_tenant = {**_MADE, "day": day, "tenant": "tenant"}
    _insert(using, TenantDay, of_tenant, f"{left} GROUP BY {day}, tenant, to_store")
    _insert(using, TenantDay, {**_HIT, "day": "day", "tenant": "tenant"}, _with_hits("llmcache_tenantday"))


def _with_hits(rows: str) -> str:
    """Return SQL for rows of misses with how many hits came for them, and what a call costs on average."""
    return (
        "(SELECT *, ceil(count * 3 * random())::bigint AS hits, (spent_pico_usd / count)::bigint AS mean"
        f" FROM {rows} WHERE outcome = 'miss' AND random() < 0.7 OFFSET 0) AS drawn"
    )


def _insert(using: str, model: type[models.Model], values: Mapping[str, str], source: str) -> None:
    """Insert what SQL says of columns, and what the model says of all others."""
    connection = connections[using]
    columns = {name: value.replace("%", "%%") for name, value in values.items()}
    others: list[Any] = []
    for field in model._meta.concrete_fields:
        if field.column not in columns and not field.primary_key:
            columns[field.column] = "%s"
            others.append(field.get_db_prep_save(field.get_default(), connection))
    names = ", ".join(f'"{name}"' for name in columns)
    table = model._meta.db_table
    told = ", ".join(columns.values())
    with connection.cursor() as cursor:
        cursor.execute(f'INSERT INTO "{table}" ({names}) SELECT {told} FROM {source.replace("%", "%%")}', others)
