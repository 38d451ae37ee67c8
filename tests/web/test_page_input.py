"""What no page expects: addresses that somebody made up, rows that are gone, forms that come twice. Never an error."""

import json
import re
from typing import Any

import pytest
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse

from llmcache.engine import process
from llmcache.keys import storage_key
from llmcache.models import (
    CacheEntry,
    Correction,
    Invalidation,
    ProviderCall,
    SchemaVersion,
    TenantDay,
    UsageBucket,
    WarmingPlan,
    WarmingRun,
)
from llmcache.testing.sandbox import Sandbox
from tests import rows
from tests.web.ledger_rows import a_correction

# What is counted comes into the database between transactions.
pytestmark = pytest.mark.django_db(transaction=True)

LONG = "x" * 10_240
NUL = "a\0b"
ODD = ("", "-1", "abc", NUL, LONG, "1' OR '1'='1", "٣", "😀%s", "10" * 20)
DASHBOARDS = ("/llm/", "/llm/dashboard.json", "/admin/llmcache/dashboard/", "/admin/llmcache/dashboard/dashboard.json")
PERIODS: tuple[dict[str, str], ...] = (
    {"from": "2026-11-20", "to": "2026-11-01"},
    {"from": "0000-01-01", "to": "0001-01-01"},
    {"from": "0001-01-01", "to": "9999-12-31"},
    {"from": "10000-01-01", "to": "10000-12-31"},
    {"from": "2026-02-30"},
    {"to": "1999-12-31"},
    {"from": "2999-01-01"},
    {"from": "2026-W01-1", "to": "20261121"},
    {"period": "7d", "from": "2026-11-01"},
)
MODELS = (CacheEntry, ProviderCall, UsageBucket, TenantDay, SchemaVersion, Invalidation, Correction)


@pytest.fixture
def admin(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("admin"))
    return client


@pytest.fixture
def filled(sandbox: Sandbox) -> CacheEntry:
    """One call and its entry."""
    rows.one_call(sandbox)
    return CacheEntry.objects.get()


def address(model: type[Any], page: str = "changelist", *arguments: Any) -> str:
    return reverse(f"admin:llmcache_{model._meta.model_name}_{page}", args=arguments)


def shown(response: HttpResponse) -> str:
    assert response.status_code == 200
    return response.content.decode()


@pytest.mark.parametrize("path", DASHBOARDS)
def test_a_dashboard_takes_any_address(path: str, admin: Client, filled: CacheEntry) -> None:
    named = (("period",), ("from", "to"), ("kind", "unknown"))
    for query in (*PERIODS, *(dict.fromkeys(names, value) for names in named for value in ODD)):
        assert admin.get(path, query).status_code == 200, query
    response = admin.get(f"{path}?period=7d&period=30d&kind=a&kind=b&&=&from")
    assert response.status_code == 200


def test_dates_that_cannot_be_used_are_told_and_replaced(admin: Client, filled: CacheEntry) -> None:
    for query in (*PERIODS[:-1], {"period": "abc"}):
        answer = json.loads(shown(admin.get("/llm/dashboard.json", query)))
        page = shown(admin.get("/llm/", query))
        assert answer["messages"], query
        assert all(message.replace("'", "&#x27;") in page for message in answer["messages"])


def test_the_calculator_takes_any_number(admin: Client, filled: CacheEntry) -> None:
    page = shown(admin.get("/llm/"))
    names = re.findall(r'<input[^>]*name="([a-z_]+)"', page)
    fields = [name for name in names if name not in ("from", "to", "kind", "period")]
    assert len(fields) >= 3
    values = (*ODD, "1e400", "-5", "NaN", "Infinity", "1_000", "0.5", "99999999999999999999999")
    for value in values:
        assert admin.get("/llm/", dict.fromkeys(fields, value)).status_code == 200, value


# Those that are Django's own, those of our filters, and others; together as far as one does not hide another.
PARAMETERS = (
    *(("p",), ("q",), ("o", "all"), ("_facets", "_popup"), ("pk__in", "call_id__exact", "hits__gte", "tag_rows__tag")),
    ("state", "kind", "model", "tenant", "response_type", "schema", "outcome", "reason", "tier", "simulated", "clock"),
)
QUERIES: tuple[dict[str, str], ...] = (
    *(dict.fromkeys(names, value) for names in PARAMETERS for value in ODD),
    *({"q": "key:" + LONG}, {"q": "tag:" + NUL}, {"q": "key:zz"}, {"q": "tag:"}),
    *({"o": "99.-1.x"}, {"e": "1"}, {"_to_field": "id", "_popup": "1"}),
)


@pytest.mark.parametrize("model", MODELS)
def test_a_list_takes_any_address(model: type[Any], admin: Client, filled: CacheEntry) -> None:
    for query in QUERIES:
        response = admin.get(address(model), query)
        assert response.status_code in (200, 302), query
        if response.status_code == 302:
            # Django sends what it cannot use to the list as it is.
            assert admin.get(response["Location"]).status_code == 200, query


@pytest.mark.parametrize("model", MODELS)
def test_a_row_that_is_not_there_leads_away(model: type[Any], admin: Client) -> None:
    for pk in ("1", "0", "-1", "abc", "9" * 30, "1.5", "_2F", "٣", NUL, LONG):
        for page in ("change", "history"):
            response = admin.get(address(model, page, pk))
            assert response.status_code in (302, 404), (page, pk)


def test_a_row_that_has_gone_meanwhile_is_told(admin: Client, filled: CacheEntry) -> None:
    pk = filled.pk
    filled.delete()
    for response in (
        admin.post(address(CacheEntry, "reveal", pk), follow=True),
        admin.get(address(CacheEntry, "change", pk), follow=True),
    ):
        assert "Perhaps it was deleted?" in shown(response)
    assert LogEntry.objects.count() == 0


def exported(response: Any) -> list[dict[str, Any]]:
    assert response.status_code == 200
    return [json.loads(line) for line in b"".join(response.streaming_content).splitlines()]


def test_an_export_of_what_has_gone_meanwhile_has_the_rest(admin: Client, filled: CacheEntry) -> None:
    gone = filled.pk + 1
    lines = exported(admin.post(address(CacheEntry, "export"), {ACTION_CHECKBOX_NAME: [filled.pk, gone]}))
    assert [line["key"] for line in lines] == [filled.key]
    assert exported(admin.post(address(CacheEntry, "export"), {ACTION_CHECKBOX_NAME: [gone]})) == []


def test_an_export_of_nothing_or_of_nonsense_is_refused_kindly(admin: Client, filled: CacheEntry) -> None:
    for chosen in ([], ["abc"], ["-1"], [NUL], ["9" * 30], ["1;2"]):
        response = admin.post(address(CacheEntry, "export"), {ACTION_CHECKBOX_NAME: chosen})
        assert response.status_code == 302, chosen
        response = admin.post(address(CacheEntry), {"action": "export", ACTION_CHECKBOX_NAME: chosen})
        assert response.status_code in (200, 302), chosen
    for action in ("", "delete_selected", "unknown", NUL):
        response = admin.post(address(CacheEntry), {"action": action, ACTION_CHECKBOX_NAME: filled.pk})
        assert response.status_code in (200, 302), action
    assert CacheEntry.objects.count() == 1


def test_an_export_may_have_any_address(admin: Client, filled: CacheEntry) -> None:
    for query in ("?q=%00", "?kind=nobody", "?p=99", "?o=9", f"?q={LONG}", "?unknown=1", "?e=1"):
        response = admin.post(address(CacheEntry, "export") + query, {"select_across": "1"})
        assert response.status_code in (200, 302), query


def test_a_form_that_comes_twice_does_the_same_twice(admin: Client, filled: CacheEntry) -> None:
    chosen = {ACTION_CHECKBOX_NAME: filled.pk}
    first, second = (exported(admin.post(address(CacheEntry, "export"), chosen)) for _ in range(2))
    assert first == second
    pages = [shown(admin.post(address(CacheEntry, "reveal", filled.pk))) for _ in range(2)]
    assert all("celery" in page for page in pages)
    # Each is written down.
    assert LogEntry.objects.count() == 4


def test_the_address_of_an_action_is_no_page(admin: Client, filled: CacheEntry) -> None:
    for path in (address(CacheEntry, "reveal", filled.pk), address(CacheEntry, "export")):
        for method in ("get", "head", "put", "delete"):
            assert getattr(admin, method)(path).status_code == 405
    assert LogEntry.objects.count() == 0


def damage(entry: CacheEntry, data: bytes) -> None:
    """Let the tiers hold other bytes under an entry's key."""
    runtime = process.current()
    assert runtime.memory is not None
    runtime.memory.clear()
    for tier in runtime.tiers.below:
        tier.set(storage_key(runtime.namespace, bytes.fromhex(entry.key)), data, 600.0)


def test_an_entry_that_nobody_can_read_is_told(admin: Client, filled: CacheEntry) -> None:
    for data in (b"", b"\0", b"garbage" * 100, b"\x80\x05\x95pickle"):
        damage(filled, data)
        page = shown(admin.get(address(CacheEntry, "change", filled.pk)))
        assert "damaged" in page
        page = shown(admin.post(address(CacheEntry, "reveal", filled.pk)))
        assert "damaged" in page
        chosen = {ACTION_CHECKBOX_NAME: filled.pk, "with_contents": "1"}
        (line,) = exported(admin.post(address(CacheEntry, "export"), chosen))
        assert (line["answer"], line["answer_state"]) == (None, "damaged")


def test_no_rows_and_one_row_are_pages(admin: Client, sandbox: Sandbox) -> None:
    pages = [*DASHBOARDS, *map(address, MODELS)]
    for path in pages:
        assert shown(admin.get(path))
    rows.one_call(sandbox)
    # With the line of the log by which it stands.
    a_correction()
    for path in pages:
        assert shown(admin.get(path))
    for model in MODELS:
        assert shown(admin.get(address(model, "change", model._default_manager.get().pk)))


def test_rows_that_hold_the_oddest_text_are_pages(admin: Client, sandbox: Sandbox) -> None:
    rows.hostile(sandbox)
    models = (*MODELS, WarmingPlan, WarmingRun)
    pages = [*DASHBOARDS, *map(address, models)]
    pages += [address(model, "change", row.pk) for model in models for row in model._default_manager.all()]
    for path in pages:
        page = shown(admin.get(path))
        if not path.endswith(".json"):
            assert "<script>window" not in page
            assert "<img src=x" not in page
            assert "14}" not in page
    for entry in CacheEntry.objects.all():
        page = shown(admin.post(address(CacheEntry, "reveal", entry.pk)))
        assert "<img src=x" not in page
    lines = exported(admin.post(address(CacheEntry, "export"), {"select_across": "1", "with_contents": "1"}))
    assert {rows.PAYLOAD[:200]} == {line["tenant"] for line in lines}
