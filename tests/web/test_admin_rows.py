"""Provider calls, sums and schema versions in the admin say what was recorded of real calls."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pytest
from django.db import models
from django.test import Client
from django.urls import reverse
from pydantic import BaseModel, ConfigDict, create_model

import llmcache
from llmcache.admin_pages import columns
from llmcache.models import CacheEntry, ProviderCall, SchemaVersion, TenantDay, UsageBucket
from llmcache.testing.sandbox import Sandbox, faults
from tests.conftest import llmcache_settings
from tests.flows.test_costs import SANDBOX_PRICES
from tests.web.ledger_rows import Order, Ticket, ask
from tests.web.page import Page

pytestmark = pytest.mark.django_db


@pytest.fixture
def provider(sandbox: Sandbox) -> Iterator[Sandbox]:
    with llmcache_settings(PRICES=SANDBOX_PRICES):
        yield sandbox


def list_of(model: type[models.Model]) -> str:
    return reverse(f"admin:llmcache_{model._meta.model_name}_changelist")


def page_of(row: models.Model) -> str:
    return reverse(f"admin:llmcache_{row._meta.model_name}_change", args=[row.pk])


def read(client: Client, address: str, **query: str) -> Page:
    response = client.get(address, query)
    assert response.status_code == 200
    return Page(response.content.decode())


def found(client: Client, model: type[models.Model], **query: str) -> set[models.Model]:
    response = client.get(list_of(model), query)
    assert response.status_code == 200
    return set(response.context["cl"].result_list)


def money(dollars: Decimal | None) -> str:
    assert dollars is not None
    return f"${dollars:f}"


# Provider calls


def test_an_answered_call_says_what_it_was_and_what_it_cost(provider: Sandbox, admin_client: Client) -> None:
    entry = ask(provider, tenant="acme", kind="inbox", ttl=7 * 86_400)
    call = ProviderCall.objects.get()
    page = read(admin_client, page_of(call))
    facts = page.facts
    assert (facts["Kind"], facts["Response type"], facts["Tenant"]) == ("inbox", "Ticket", "acme")
    assert (facts["Model asked"], facts["Model that answered"]) == ("openai/gpt-5-mini", call.answered_model)
    assert (facts["Why it was asked"], facts["Attempt"], facts["Answer was to be stored"]) == ("not found", "1", "yes")
    assert (facts["Key"], facts["Call id"], facts["Provider's request id"]) == (
        call.key,
        str(call.call_id),
        call.request_id,
    )
    assert (facts["Outcome"], facts["Finish reason"], facts["Refused"]) == ("answered", "stop", "no")
    assert facts["Cost"] == money(call.cost_usd) == money(entry.cost_usd)
    assert facts["Price"] == "openai/gpt-5-mini"
    assert (facts["Input tokens"], facts["Output tokens"]) == (f"{call.input_tokens:,}", f"{call.output_tokens:,}")
    # Nothing went wrong, and nothing is said of that.
    assert not {"HTTP status", "Error", "Types of errors"} & set(facts)
    links = {link.get("href") for link in page.all("a")}
    assert {page_of(entry), page_of(SchemaVersion.objects.get())} <= links


def test_a_call_that_failed_says_why(provider: Sandbox, admin_client: Client) -> None:
    provider.fail(faults.bad_request())
    with pytest.raises(llmcache.ProviderError):
        llmcache.extract("Zoë writes", Ticket)
    assert llmcache.flush()
    call = ProviderCall.objects.get()
    facts = read(admin_client, page_of(call)).facts
    assert (facts["Outcome"], facts["HTTP status"], facts["Error"]) == ("failed", "400", call.error)
    assert call.error
    assert facts["Entry"] == columns.UNKNOWN


def test_an_answer_that_is_not_valid_says_which_rules_it_broke(provider: Sandbox, admin_client: Client) -> None:
    provider.answers["Zoë writes"] = {"subject": "x", "customer": "y", "priority": "many"}
    with pytest.raises(llmcache.ExtractionFailed):
        llmcache.extract("Zoë writes", Ticket, max_reasks=0)
    assert llmcache.flush()
    call = ProviderCall.objects.get()
    facts = read(admin_client, page_of(call)).facts
    assert facts["Outcome"] == "rejected"
    assert facts["Types of errors"] == " ".join(call.error_types)
    assert "int_parsing" in call.error_types
    # It was charged all the same.
    assert facts["Cost"] == money(call.cost_usd)


def test_a_row_of_a_call_is_what_its_page_says(provider: Sandbox, admin_client: Client) -> None:
    ask(provider, tenant="acme")
    call = ProviderCall.objects.get()
    (row,) = (row for row in read(admin_client, list_of(ProviderCall)).rows if "Ticket openai/gpt-5-mini" in row)
    _started, _kind, outcome, _cost, tokens, latency, attempt, tenant = row
    assert (outcome, attempt, tenant) == ("answered", "1", "acme")
    used = (call.input_tokens, call.cache_read_tokens, call.cache_write_tokens, call.output_tokens)
    assert tokens == f"{sum(each or 0 for each in used):,}"
    assert latency == columns.milliseconds(call.latency_ms)


def test_a_call_is_found_by_its_key_its_id_and_the_providers(sandbox: Sandbox, admin_client: Client) -> None:
    for text in ("one", "other"):
        ask(sandbox, text)
    one, other = ProviderCall.objects.order_by("pk")
    for wanted in (one.key, one.key[:20], str(one.call_id), one.call_id.hex, one.request_id):
        assert found(admin_client, ProviderCall, q=wanted) == {one}, wanted
    for wanted in (one.request_id[:-1], "openai/gpt-5-mini", "%", "f" * 64):
        assert found(admin_client, ProviderCall, q=wanted) == set(), wanted
    assert found(admin_client, ProviderCall) == {one, other}
    # An id of the provider's may look like a key.
    ProviderCall.objects.filter(pk=one.pk).update(request_id="beef")
    assert one in found(admin_client, ProviderCall, q="beef")


def test_calls_are_filtered_by_outcome_and_reason(provider: Sandbox, admin_client: Client) -> None:
    ask(provider)
    llmcache.extract("Zoë writes", Ticket, cache="bypass")
    provider.fail(faults.bad_request())
    with pytest.raises(llmcache.ProviderError):
        llmcache.extract("another", Ticket)
    assert llmcache.flush()
    failed, bypass = ProviderCall.objects.get(outcome="failed"), ProviderCall.objects.get(reason="bypass")
    answered = ProviderCall.objects.get(outcome="answered", reason="not_found")
    assert found(admin_client, ProviderCall, outcome="failed") == {failed}
    assert found(admin_client, ProviderCall, outcome="answered") == {answered, bypass}
    assert found(admin_client, ProviderCall, reason="bypass") == {bypass}
    assert found(admin_client, ProviderCall, reason="not_found") == {answered, failed}
    assert found(admin_client, ProviderCall, reason="not_found", outcome="failed") == {failed}


# Sums


def test_an_hour_says_what_its_calls_came_to(provider: Sandbox, admin_client: Client) -> None:
    entry = ask(provider, times=4, kind="inbox")
    hit, miss = (UsageBucket.objects.get(outcome=outcome) for outcome in ("hit", "miss"))
    page = read(admin_client, list_of(UsageBucket))
    rows = {row[2]: row[3:] for row in page.rows if row[1] == "inbox openai/gpt-5-mini"}
    shown = columns.figures.money
    assert rows["hit memory"] == ["3", shown(3 * (entry.cost_usd or Decimal(0))), "0", "$0.00"]
    assert rows["miss"] == ["1", "$0.00", "1", shown(entry.cost_usd)]
    facts = read(admin_client, page_of(hit)).facts
    assert (facts["Tier"], facts["Outcome"], facts["Calls"]) == ("memory", "hit", "3")
    assert facts["Avoided"] == money(3 * (entry.cost_usd or Decimal(0)))
    asked = read(admin_client, page_of(miss))
    assert (asked.facts["Attempts"], asked.facts["Spent"]) == ("1", money(entry.cost_usd))
    assert "Latency of attempts" in asked.text


def test_a_tenants_day_says_what_its_calls_came_to(provider: Sandbox, admin_client: Client) -> None:
    ask(provider, times=3, tenant="acme")
    ask(provider, tenant="globex")
    rows = [row[1:4] for row in read(admin_client, list_of(TenantDay)).rows]
    assert ["acme", "hit", "2"] in rows
    assert ["acme", "miss", "1"] in rows
    assert ["globex", "miss", "1"] in rows
    hit = TenantDay.objects.get(tenant="acme", outcome="hit")
    facts = read(admin_client, page_of(hit)).facts
    assert (facts["Tenant"], facts["Outcome"], facts["Calls"]) == ("acme", "hit", "2")
    assert found(admin_client, TenantDay, tenant="acme", outcome="hit") == {hit}


# Schema versions


class _Base(BaseModel):
    model_config = ConfigDict(title="Parcel")


def parcel(**fields: type) -> type[BaseModel]:
    """Return a form of the type, as it would be after an edit of its source."""
    made: dict[str, object] = {name: (kind, ...) for name, kind in fields.items()}
    return create_model("Parcel", __base__=_Base, **made)  # type: ignore[call-overload]


def test_each_form_of_a_type_says_what_has_changed(sandbox: Sandbox, admin_client: Client) -> None:
    sandbox.answers["a parcel"] = {"grams": 5}
    ask(sandbox, "a parcel", response_model=parcel(grams=int))
    sandbox.answers["a parcel"] = {"grams": 5.5, "colour": "red"}
    ask(sandbox, "a parcel", response_model=parcel(grams=float, colour=str))
    ask(sandbox)
    first, second = SchemaVersion.objects.filter(response_type="Parcel").order_by("first_seen_at", "pk")

    rows = [row for row in read(admin_client, list_of(SchemaVersion)).rows if row[0] == "Parcel"]
    assert [(row[-1], second.fingerprint.startswith(row[1])) for row in rows] == [("3", True), (columns.UNKNOWN, False)]

    page = read(admin_client, page_of(second))
    changes = {"".join(row[0].split()): row[1:] for row in page.rows if len(row) == 4}
    assert changes["properties.colour"][:2] == ["added", columns.UNKNOWN]
    assert changes["properties.grams.type"] == ["changed", '"integer"', '"number"']
    assert changes["required"] == ["changed", '["grams"]', '["grams", "colour"]']
    assert page.facts["Fingerprint"] == second.fingerprint
    assert '"colour": {' in page.text
    assert page_of(first) in {link.get("href") for link in page.all("a")}
    # And the way on from the first one.
    page = read(admin_client, page_of(first))
    assert page_of(second) in {link.get("href") for link in page.all("a")}
    assert '"colour": {' not in page.text


def test_a_version_leads_to_its_entries(sandbox: Sandbox, admin_client: Client) -> None:
    ticket = ask(sandbox)
    sandbox.answers["a chair"] = {"item": "chair"}
    ask(sandbox, "a chair", response_model=Order)
    version = SchemaVersion.objects.get(response_type="Ticket")
    assert version.fingerprint == ticket.schema
    page = read(admin_client, page_of(version))
    (address,) = {link["href"] for link in page.all("a") if (link["href"] or "").startswith(list_of(CacheEntry) + "?")}
    assert address is not None
    response = admin_client.get(address)
    assert {entry.pk for entry in response.context["cl"].result_list} == {ticket.pk}


def test_a_version_is_found_by_its_type_and_its_fingerprint(sandbox: Sandbox, admin_client: Client) -> None:
    ask(sandbox)
    sandbox.answers["a chair"] = {"item": "chair"}
    ask(sandbox, "a chair", response_model=Order)
    ticket = SchemaVersion.objects.get(response_type="Ticket")
    for wanted in ("tick", "Ticket", ticket.fingerprint, ticket.fingerprint[:12]):
        assert found(admin_client, SchemaVersion, q=wanted) == {ticket}, wanted
    assert found(admin_client, SchemaVersion, q="icket") == set()
    assert found(admin_client, SchemaVersion, type="Ticket") == {ticket}
