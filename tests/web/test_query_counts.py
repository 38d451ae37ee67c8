"""Every page of the ledger makes the same queries over three rows as over three hundred, and at most ten."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import unescape

import pytest
from django.contrib import admin
from django.db import connection, models
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from llmcache.models import (
    CacheEntry,
    Correction,
    EntryTag,
    Invalidation,
    PlannedInvalidation,
    ProviderCall,
    SchemaVersion,
    TenantDay,
    UsageBucket,
    WarmingPlan,
    WarmingRun,
)

pytestmark = pytest.mark.django_db

MOST = 10
LEDGER = (
    CacheEntry,
    ProviderCall,
    UsageBucket,
    TenantDay,
    SchemaVersion,
    Invalidation,
    PlannedInvalidation,
    Correction,
    WarmingPlan,
    WarmingRun,
)
DASHBOARDS = ("llmcache:dashboard", "llmcache:dashboard-json", "admin:llmcache_dashboard")
NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


def fill(first: int, last: int) -> None:
    """Make rows with these numbers in every table: of many days, kinds, models, tenants, tags and schemas."""
    numbers = range(first, last)
    of = {
        number: {"kind": f"kind {number % 40}", "model": f"openai/m{number % 20}", "simulated": number % 2 == 0}
        for number in numbers
    }
    sums = {"attempts": 1, "count": 3, "avoided_pico_usd": 10**9, "spent_pico_usd": 10**9, "saved_ms": 5}
    UsageBucket.objects.bulk_create(
        UsageBucket(hour=NOW - timedelta(hours=7 * number), tier=f"t{number % 3}", outcome="hit", **of[number], **sums)
        for number in numbers
    )
    TenantDay.objects.bulk_create(
        TenantDay(day=NOW.date() - timedelta(days=number % 90), tenant=f"tenant {number}", outcome="miss", **sums)
        for number in numbers
    )
    schemas = SchemaVersion.objects.bulk_create(
        SchemaVersion(
            response_type=f"Type {number % 50}",
            fingerprint=f"{number:032x}",
            schema="{}",
            first_seen_at=NOW,
            last_seen_at=NOW - timedelta(hours=number),
            previous=SchemaVersion.objects.order_by("-pk").first(),
        )
        for number in numbers
    )
    invalidations = Invalidation.objects.bulk_create(
        Invalidation(
            uid=f"{number:032x}",
            namespace="shop",
            kind=f"kind {number % 40}",
            tag=f"tag {number}",
            made_at=NOW,
            active=number % 2 == 0,
            undone_at=NOW if number % 2 else None,
        )
        for number in numbers
    )
    PlannedInvalidation.objects.bulk_create(
        PlannedInvalidation(
            uid=f"{number:032x}",
            namespace="shop",
            kind=f"kind {number % 40}",
            due_at=NOW + timedelta(hours=number),
            made_at=NOW,
            is_open=number % 2 == 0,
        )
        for number in numbers
    )
    Correction.objects.bulk_create(
        Correction(
            invalidation=row,
            namespace="shop",
            key=f"{number:064x}",
            kind=row.kind,
            tenant=f"tenant {number}",
            answer="{}",
            made_at=NOW,
        )
        for number, row in zip(numbers, invalidations, strict=True)
    )
    plans = WarmingPlan.objects.bulk_create(
        WarmingPlan(name=f"plan {number}", source="misses", kind=f"kind {number % 40}", crontab="30 3 * * *")
        for number in numbers
    )
    WarmingRun.objects.bulk_create(
        WarmingRun(
            uid=f"{number:032x}",
            namespace="shop",
            plan=plan,
            state="done" if number % 2 else "running",
            kind=plan.kind,
            made_at=NOW,
        )
        for number, plan in zip(numbers, plans, strict=True)
    )
    told = [
        {"key": f"{number:064x}", "schema": schema.fingerprint, "response_type": schema.response_type, **of[number]}
        for number, schema in zip(numbers, schemas, strict=True)
    ]
    ids = [uuid.UUID(int=number) for number in numbers]
    ProviderCall.objects.bulk_create(
        ProviderCall(
            call_id=call_id,
            started_at=NOW,
            outcome="answered",
            reason="expired",
            attempt=1,
            to_store=True,
            batch=1,
            **each,
        )
        for call_id, each in zip(ids, told, strict=True)
    )
    entries = CacheEntry.objects.bulk_create(
        CacheEntry(
            namespace="shop",
            call_id=call_id,
            written_at=NOW,
            expires_at=NOW + timedelta(days=1),
            size_bytes=1,
            latency_ms=1,
            attempts=1,
            source="provider",
            hits=2,
            saved_pico_usd=number,
            tags=["a", f"tag {number}"],
            **each,
        )
        for number, (call_id, each) in enumerate(zip(ids, told, strict=True), first)
    )
    EntryTag.objects.bulk_create(EntryTag(entry=entry, tag=tag) for entry in entries for tag in entry.tags)


def addresses() -> Iterator[str]:
    """Yield every page: dashboards with each of their filters, and of each table its list, searched and ordered."""
    for name in DASHBOARDS:
        for query in (
            "",
            "?period=7d",
            "?period=90d",
            "?period=month",
            "?kind=kind+1",
            "?from=2020-01-01&to=2020-03-01",
        ):
            yield reverse(name) + query
    for model in LEDGER:
        listed = reverse(f"admin:llmcache_{model._meta.model_name}_changelist")
        yield from (listed + query for query in ("", "?p=2", "?q=tag+1", f"?q={1:064x}", "?q=kind", "?all=", "?o=-1"))


def filtered(client: Client, model: type[models.Model]) -> list[str]:
    """Return the addresses of the filters' choices that a list offers, the first ones of each filter."""
    listed = reverse(f"admin:llmcache_{model._meta.model_name}_changelist")
    found: dict[str, str] = {}
    for query in re.findall(r'href="\?([^"]+)"', client.get(listed).content.decode()):
        found.setdefault(re.sub(r"=[^&]*", "", query), f"{listed}?{unescape(query)}")
    return [*found.values()]


def queries(client: Client, address: str) -> list[str]:
    with CaptureQueriesContext(connection) as captured:
        response = client.get(address)
    assert response.status_code == 200, address
    return [query["sql"] for query in captured.captured_queries]


def test_the_tables_are_all_there_are() -> None:
    mine = {model for model in admin.site._registry if model._meta.app_label == "llmcache" and not model._meta.proxy}
    assert mine == set(LEDGER)


def test_the_number_of_queries_does_not_depend_on_the_number_of_rows(admin_client: Client) -> None:
    # Twice: a schema version follows on another only from the second time on.
    fill(0, 1)
    fill(1, 3)
    pages = [*addresses(), *(address for model in LEDGER for address in filtered(admin_client, model))]
    # What Django keeps of content types for the process is asked for once.
    queries(admin_client, reverse("admin:index"))
    few = {address: queries(admin_client, address) for address in pages}
    fill(3, 300)
    many = {address: queries(admin_client, address) for address in pages}
    for address in pages:
        assert len(many[address]) == len(few[address]), (address, few[address], many[address])
        assert len(many[address]) <= MOST, (address, many[address])


def test_no_dashboard_reads_the_ledger(admin_client: Client) -> None:
    fill(0, 5)
    for name in DASHBOARDS:
        address = reverse(name)
        assert not any(ProviderCall._meta.db_table in sql for sql in queries(admin_client, address)), address
