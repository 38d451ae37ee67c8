"""What all lists of the ledger's rows in the admin share: bounded, read-only, and at home on any site."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection, models
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

import llmcache
from llmcache.admin_pages import counting
from llmcache.models import CacheEntry, ProviderCall, SchemaVersion
from llmcache.testing.sandbox import Sandbox
from tests.web.ledger_rows import MODELS, a_correction, ask, copies
from tests.web.page import Page

pytestmark = pytest.mark.django_db

each_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
MOST_QUERIES = 11


@pytest.fixture(autouse=True)
def something_invalidated() -> None:
    """A row of the log, which is about no answer that these tests ask for."""
    llmcache.invalidate(kind="another", reason="by mistake")
    a_correction()


def list_of(model: type[models.Model], site: str = "admin") -> str:
    return reverse(f"{site}:llmcache_{model._meta.model_name}_changelist")


def page_of(row: models.Model, site: str = "admin") -> str:
    return reverse(f"{site}:llmcache_{row._meta.model_name}_change", args=[row.pk])


def read(client: Client, address: str, status: int = 200, **query: str) -> Page:
    response = client.get(address, query)
    assert response.status_code == status, response.headers
    return Page(response.content.decode())


def listed(client: Client, address: str, **query: str) -> list[Any]:
    """Return the rows that a list shows."""
    response = client.get(address, query)
    assert response.status_code == 200
    return list(response.context["cl"].result_list)


@pytest.fixture
def viewer() -> Client:
    """Somebody who may see all rows and do nothing."""
    user = User.objects.create_user("viewer", is_staff=True)
    user.user_permissions.set(
        Permission.objects.filter(codename__startswith="view_", content_type__app_label="llmcache")
    )
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def statements() -> Callable[[Client, str], list[str]]:
    def of(client: Client, address: str) -> list[str]:
        # What Django keeps in memory of content types was looked up before.
        client.get(address)
        with CaptureQueriesContext(connection) as captured:
            assert client.get(address).status_code == 200
        return [each["sql"] for each in captured.captured_queries]

    return of


# What a page costs


@each_model
def test_a_list_costs_the_same_however_many_rows_there_are(
    model: type[models.Model],
    sandbox: Sandbox,
    viewer: Client,
    statements: Callable[[Client, str], list[str]],
) -> None:
    ask(sandbox, tenant="acme", tags=["a", "b"])
    row = model._default_manager.first()
    assert row is not None
    copies(row, 3)
    few = statements(viewer, list_of(model))
    copies_before = model._default_manager.count()
    model._default_manager.exclude(pk=row.pk).delete()
    copies(row, 120)
    assert copies_before < model._default_manager.count()
    many = statements(viewer, list_of(model))
    assert len(few) == len(many) <= MOST_QUERIES, many


@each_model
def test_a_page_costs_the_same_however_many_rows_there_are(
    model: type[models.Model],
    sandbox: Sandbox,
    viewer: Client,
    statements: Callable[[Client, str], list[str]],
) -> None:
    entry = ask(sandbox, tenant="acme", tags=["a", "b"])
    row = model._default_manager.first()
    assert row is not None
    few = statements(viewer, page_of(row))
    call = ProviderCall.objects.get()
    copies(call, 120)
    ProviderCall.objects.update(key=entry.key)
    copies(SchemaVersion.objects.get(), 120)
    SchemaVersion.objects.exclude(pk=row.pk).update(previous=SchemaVersion.objects.order_by("pk").first())
    many = statements(viewer, page_of(row))
    assert len(few) == len(many) <= MOST_QUERIES, many


@each_model
def test_no_list_looks_through_texts_or_counts_all(
    model: type[models.Model],
    sandbox: Sandbox,
    viewer: Client,
    statements: Callable[[Client, str], list[str]],
) -> None:
    ask(sandbox, tenant="acme")
    for query in ("", "?kind=Ticket&state=fresh&outcome=hit&tenant=acme"):
        for statement in statements(viewer, list_of(model) + query):
            assert "LIKE" not in statement
            assert "COUNT(*)" not in statement or "LIMIT" in statement


# Counts


@pytest.fixture
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "MOST", 8)
    monkeypatch.setattr("llmcache.admin_pages.entries.CacheEntryAdmin.list_per_page", 3)


def test_few_rows_are_counted(sandbox: Sandbox, admin_client: Client) -> None:
    copies(ask(sandbox), 4)
    assert "5 cache entries" in read(admin_client, list_of(CacheEntry)).text


@pytest.mark.usefixtures("few_are_many")
def test_many_rows_are_not_counted_and_pages_reach_the_first_of_them(sandbox: Sandbox, admin_client: Client) -> None:
    copies(ask(sandbox), 8)
    page = read(admin_client, list_of(CacheEntry))
    assert "more than 8 cache entries" in page.text
    assert "The pages reach the first 8" in page.text
    assert "Select all: more than 8" in page.text
    assert "All more than 8 selected" in page.text
    assert len(listed(admin_client, list_of(CacheEntry), p="3")) == 2


# Addresses that people and others make up


NUMBERS = ("-1", "0", "abc", str(10**9), "9" * 5_000, "1.5", "\0", "")


@each_model
def test_a_page_that_there_is_not_is_the_nearest_one(
    model: type[models.Model], sandbox: Sandbox, admin_client: Client
) -> None:
    ask(sandbox, tenant="acme")
    for number in NUMBERS:
        assert listed(admin_client, list_of(model), p=number), number


LEFT_OUT = ("bogus=1", "tenant__icontains=a", "key__regex=(", "hits__gte=x", "e=1&bogus=1")
HARMLESS = ("o=99.-3.x.-", "o=" + "1." * 3_000, "all=", "_facets=1", "e=1")


@each_model
def test_what_is_no_filter_is_left_out(model: type[models.Model], sandbox: Sandbox, admin_client: Client) -> None:
    ask(sandbox, tenant="acme")
    for query in (*LEFT_OUT, *HARMLESS):
        response = admin_client.get(f"{list_of(model)}?{query}")
        assert (response.status_code, len(response.context["cl"].result_list) > 0) == (200, True), query
        assert ("no filter of this list" in response.content.decode()) == (query in LEFT_OUT), query


def test_links_of_a_list_do_not_carry_on_what_was_left_out(sandbox: Sandbox, admin_client: Client) -> None:
    ask(sandbox, tenant="acme")
    ask(sandbox, tenant="globex")
    page = read(admin_client, list_of(CacheEntry), bogus="1", kind="Ticket")
    links = [link["href"] or "" for link in page.all("a") if (link["href"] or "").startswith("?")]
    assert any("tenant=acme" in link and "kind=Ticket" in link for link in links)
    assert not any("bogus" in link for link in links)


# Sites


@pytest.mark.urls("tests.web.own_site")
def test_all_is_at_home_on_a_site_of_ones_own(sandbox: Sandbox, admin_client: Client) -> None:
    ask(sandbox, tenant="acme", tags=["soup"], times=2)
    index = read(admin_client, "/office/")
    assert "LLM cache" in index.text
    for model in MODELS:
        row = model._default_manager.first()
        assert row is not None
        for address in (list_of(model, "office"), page_of(row, "office")):
            page = read(admin_client, address)
            links = {link["href"] or "" for link in page.all("a")} | {form["action"] for form in page.forms}
            assert not [
                link for link in links if link.startswith("/") and not link.startswith(("/office/", "/static/"))
            ]
    entry = CacheEntry.objects.get()
    revealed = admin_client.post(f"/office/llmcache/cacheentry/{entry.pk}/reveal/")
    assert (revealed.status_code, "Zoë" in revealed.content.decode()) == (200, True)
    exported = admin_client.post("/office/llmcache/cacheentry/export/", {"_selected_action": str(entry.pk)})
    assert (exported.status_code, exported.getvalue().count(b"\n")) == (200, 1)


def test_the_index_calls_it_llm_cache(admin_client: Client) -> None:
    page = read(admin_client, "/admin/")
    names = (
        "LLM cache",
        "Cache entries",
        "Invalidations",
        "Corrections",
        "Days of tenants",
        "Hours of usage",
        "Provider calls",
        "Schema versions",
    )
    assert all(name in page.text for name in names)


# The database


@each_model
def test_a_table_that_cannot_be_asked_is_said_so(model: type[models.Model], admin_client: Client) -> None:
    with connection.cursor() as cursor:
        # Undone with the test's transaction.
        cursor.execute(f"ALTER TABLE {model._meta.db_table} RENAME TO away")
    for address in (list_of(model), f"{list_of(model)}1/change/", f"{list_of(model)}1/history/"):
        response = admin_client.get(address)
        assert (response.status_code, response["Cache-Control"]) == (503, "private, no-store"), address
        assert "This page cannot be shown now" in response.content.decode()
    if model is CacheEntry:
        assert admin_client.post(f"{list_of(model)}1/reveal/").status_code == 503
