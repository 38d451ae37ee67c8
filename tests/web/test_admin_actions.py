"""Actions on entries in the admin: who may, what is asked before, what is done, and what is said where it cannot be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone

import llmcache
from llmcache import rewriting
from llmcache.admin_pages import entry_actions, whereabouts
from llmcache.dashboard import figures
from llmcache.engine import process
from llmcache.keys import supplement_key
from llmcache.models import CacheEntry, Invalidation, SchemaVersion, TenantDay, UsageBucket
from llmcache.refusals import REASONS
from llmcache.testing.sandbox import Sandbox, faults
from tests.conftest import llmcache_settings
from tests.flows.test_costs import SANDBOX_PRICES
from tests.web.ledger_rows import ANSWER, Ticket, ask, copies
from tests.web.page import Page

pytestmark = pytest.mark.django_db
LIST = "/admin/llmcache/cacheentry/"
TEXT = "Zoë writes"
Committed = Callable[..., Any]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy with other tests is no tier that hangs."""
    monkeypatch.setattr(whereabouts, "LOOK_SECONDS", 20.0)


@pytest.fixture
def provider(sandbox: Sandbox) -> Iterator[Sandbox]:
    with llmcache_settings(PRICES=SANDBOX_PRICES, KINDS={"Ticket": {"type": Ticket}}):
        yield sandbox


@pytest.fixture
def committed(
    django_capture_on_commit_callbacks: Callable[..., AbstractContextManager[list[Any]]], admin_client: Client
) -> Committed:
    """Sends a form, and commits what it has done; returns the page that it leads to."""

    def send(action: str, *entries: CacheEntry, client: Client = admin_client, **data: Any) -> Page:
        with django_capture_on_commit_callbacks(execute=True):
            ids = {ACTION_CHECKBOX_NAME: [entry.pk for entry in entries]}
            response = client.post(f"{LIST}act/{action}/", {**ids, **data}, follow=True)
        assert response.status_code == 200
        return Page(response.content.decode())

    return send


def page_of(entry: CacheEntry) -> str:
    return f"{LIST}{entry.pk}/change/"


def read(client: Client, address: str, **query: Any) -> Page:
    response = client.get(address, query)
    assert response.status_code == 200
    return Page(response.content.decode())


def somebody(*permissions: str) -> Client:
    """Return a client of a member of staff."""
    user = User.objects.create_user(f"somebody{User.objects.count()}", is_staff=True)
    chosen = Permission.objects.filter(content_type__app_label="llmcache", codename__in=permissions)
    assert len(chosen) == len(permissions)
    user.user_permissions.set(chosen)
    client = Client()
    client.force_login(user)
    return client


def selected(client: Client, action: str, *entries: CacheEntry, across: bool = False) -> Page:
    """Return what a list's action shows."""
    ids = [entry.pk for entry in entries]
    data = {"action": f"{action}_selected", ACTION_CHECKBOX_NAME: ids, "select_across": "1" if across else "0"}
    response = client.post(LIST, data)
    assert response.status_code == 200
    return Page(response.content.decode())


def actions_of(page: Page) -> set[str]:
    return {link["href"] or "" for link in page.all("a") if "button" in (link.get("class") or "")}


def act(action: str, entry: CacheEntry) -> str:
    return f"{LIST}act/{action}/?id={entry.pk}"


def forget_request(entry: CacheEntry) -> None:
    now = process.current()
    for tier in now.tiers.below:
        tier.delete(supplement_key(now.namespace, bytes.fromhex(entry.key)))


# -- the buttons of one entry


def test_an_entry_has_a_button_for_each(provider: Sandbox, admin_client: Client) -> None:
    entry = ask(provider)
    page = read(admin_client, page_of(entry))
    assert {act("refresh", entry), act("retime", entry)} <= actions_of(page)
    assert f"/admin/llmcache/invalidation/add/?key={entry.key}" in actions_of(page)
    assert not [each for each in page.all("span") if each.get("aria-disabled")]


@pytest.mark.parametrize(
    ("permission", "there"),
    [("refresh_cacheentry", {"refresh"}), ("retime_cacheentry", {"retime"}), ("view_providercall", set())],
)
def test_who_may_not_has_no_button(permission: str, there: set[str], provider: Sandbox) -> None:
    entry = ask(provider)
    client = somebody("view_cacheentry", permission)
    page = read(client, page_of(entry))
    assert {name for name in ("refresh", "retime") if act(name, entry) in actions_of(page)} == there
    for name in ("invalidate", "refresh", "retime"):
        expected = 200 if name in there else 403
        assert client.get(f"{LIST}act/{name}/", {"id": entry.pk}).status_code == expected
        response = client.post(f"{LIST}act/{name}/", {ACTION_CHECKBOX_NAME: entry.pk, "forever": "1"})
        assert response.status_code == (302 if name in there else 403)
    offered = {option["value"] for option in read(client, LIST).all("option")}
    assert {name for name in ("invalidate", "refresh", "retime") if f"{name}_selected" in offered} == there


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("type_not_registered", {"KINDS": {}}),
        ("schema_changed", {"KINDS": {"Ticket": {"type": dict[str, int]}}}),
        ("calls_forbidden", {"ALLOW_PROVIDER_CALLS": False}),
        ("off", {"ENABLED": False}),
    ],
)
def test_what_cannot_be_is_greyed_and_says_why(
    reason: str, changes: dict[str, Any], provider: Sandbox, admin_client: Client
) -> None:
    entry = ask(provider)
    with llmcache_settings(**changes):
        page = read(admin_client, page_of(entry))
    (greyed,) = [each for each in page.all("span") if each.get("aria-disabled")]
    # Reached by the keyboard, and read out with its reason, which everybody sees.
    assert (greyed["aria-disabled"], greyed["tabindex"], greyed["role"]) == ("true", "0", "link")
    assert greyed["aria-describedby"] in {each.get("id") for each in page.all("span")}
    assert str(REASONS[reason]) in page.text
    assert act("refresh", entry) not in actions_of(page)
    assert act("retime", entry) in actions_of(page)


def test_what_no_tier_has_can_get_neither(provider: Sandbox, admin_client: Client) -> None:
    entry = ask(provider)
    assert process.current().memory is not None
    process.current().memory.clear()  # type: ignore[union-attr]
    now = process.current()
    now.tiers.below[0].delete(llmcache.keys.storage_key(now.namespace, bytes.fromhex(entry.key)))
    page = read(admin_client, page_of(entry))
    assert len([each for each in page.all("span") if each.get("aria-disabled")]) == 2
    assert page.text.count(str(REASONS["absent"])) == 2


def test_a_request_that_is_gone(provider: Sandbox, admin_client: Client) -> None:
    entry = ask(provider)
    forget_request(entry)
    assert str(REASONS["request_not_kept"]) in read(admin_client, page_of(entry)).text


def test_an_entry_of_another_name_space(provider: Sandbox, admin_client: Client, committed: Committed) -> None:
    entry = ask(provider)
    CacheEntry.objects.filter(pk=entry.pk).update(namespace="elsewhere")
    assert str(REASONS["other_namespace"]) in read(admin_client, page_of(entry)).text
    for action in ("invalidate", "refresh", "retime"):
        assert "Not done: 1" in committed(action, entry, forever="1").text
    assert not Invalidation.objects.exists()


# -- what is asked before


def test_it_says_how_many_and_what_they_have_cost(provider: Sandbox, admin_client: Client) -> None:
    one, other = ask(provider), ask(provider, "Bob writes")
    assert one.cost_usd is not None
    page = selected(admin_client, "refresh", one, other)
    assert page.facts["Entries"] == "2"
    assert page.facts["What they have cost"].startswith(figures.money(one.cost_usd + other.cost_usd))
    assert "not known" not in page.facts["What they have cost"]
    CacheEntry.objects.filter(pk=other.pk).update(cost_pico_usd=None)
    page = selected(admin_client, "refresh", one, other)
    assert page.facts["What they have cost"].startswith(figures.money(one.cost_usd))
    assert "not known of 1" in page.facts["What they have cost"]
    # To be asked is not to have done it.
    assert (provider.calls, LogEntry.objects.count(), Invalidation.objects.count()) == (2, 0, 0)


def test_all_that_the_list_shows_can_be_meant(provider: Sandbox, admin_client: Client) -> None:
    one, other = ask(provider), ask(provider, "Bob writes")
    page = selected(admin_client, "retime", one, across=True)
    assert page.facts["Entries"] == "2"
    sent = [each["value"] for each in page.all("input") if each.get("name") == ACTION_CHECKBOX_NAME]
    assert sorted(sent) == sorted(str(each.pk) for each in (one, other))


@pytest.mark.parametrize(("action", "most"), [("refresh", 50), ("invalidate", 100), ("retime", 100)])
def test_there_is_a_limit(action: str, most: int, provider: Sandbox, admin_client: Client, committed: Any) -> None:
    copies(ask(provider), most)
    page = selected(admin_client, action, *CacheEntry.objects.all()[:1], across=True)
    assert f"at most {most} entries" in page.text
    assert not [each for each in page.forms if "/act/" in each["action"]]
    page = committed(action, *CacheEntry.objects.all(), forever="1")
    assert f"at most {most} entries" in page.text
    assert (provider.calls, Invalidation.objects.count()) == (1, 0)
    page = selected(admin_client, action, *CacheEntry.objects.all()[:most])
    assert page.facts["Entries"] == str(most)


@pytest.mark.parametrize("pk", ["0", "none", "", "1;2", "9" * 30])
def test_what_is_not_there_leads_back(pk: str, provider: Sandbox, admin_client: Client) -> None:
    for response in (
        admin_client.get(f"{LIST}act/refresh/", {"id": pk}, follow=True),
        admin_client.post(f"{LIST}act/refresh/", {ACTION_CHECKBOX_NAME: pk}, follow=True),
    ):
        assert response.redirect_chain == [(LIST, 302)]
        assert "None of these entries is there any more." in response.content.decode()


def test_another_action_is_no_page(admin_client: Client) -> None:
    assert admin_client.get(f"{LIST}act/delete/").status_code == 404


# -- refreshing


def test_one_is_refreshed(provider: Sandbox, committed: Committed, admin_user: User) -> None:
    entry = ask(provider)
    provider.answers[TEXT] = {**ANSWER, "priority": 7}
    page = committed("refresh", entry)
    assert "Refreshed: 1. Cost: $" in page.text
    assert llmcache.extract(TEXT, Ticket).priority == 7
    assert provider.calls == 2
    row = Invalidation.objects.get()
    assert (row.key, row.reason, row.made_by) == (entry.key, "Refreshed", admin_user.get_username())
    log = LogEntry.objects.get()
    assert (log.object_id, log.change_message, log.user_id) == (str(entry.pk), "Refreshed.", admin_user.pk)
    # It leads back to the entry, which says who was asked.
    assert page.headings[1][1] == str(entry)


def test_of_some_those_that_can_be_are(provider: Sandbox, committed: Committed) -> None:
    entries = [ask(provider, f"{name} writes") for name in ("Ann", "Bob", "Eve")]
    forget_request(entries[1])
    page = committed("refresh", *entries)
    assert "Refreshed: 2." in page.text
    assert "Not done: 1: its request is not there" in page.text
    assert (provider.calls, LogEntry.objects.count()) == (5, 2)


def test_where_the_provider_fails_it_is_told(provider: Sandbox, committed: Committed) -> None:
    entry = ask(provider)
    provider.fail(faults.unauthorized(), times=None)
    assert "Not done: 1: it failed (authentication_failed) (1)." in committed("refresh", entry).text
    assert llmcache.extract(TEXT, Ticket, cache="only")
    assert not LogEntry.objects.exists()


def test_a_form_that_is_sent_twice_is_done_once(provider: Sandbox, committed: Committed, admin_client: Client) -> None:
    entry = ask(provider)
    (form,) = (form for form in selected(admin_client, "refresh", entry).forms if "/act/" in form["action"])
    assert "Refreshed: 1." in committed("refresh", entry, once=form["once"]).text
    assert "It was done already." in committed("refresh", entry, once=form["once"]).text
    assert provider.calls == 2


def test_it_does_not_go_on_for_ever(provider: Sandbox, committed: Committed, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [ask(provider, f"{name} writes") for name in ("Ann", "Bob")]
    monkeypatch.setitem(entry_actions.ACTIONS, "refresh", replace(entry_actions.ACTIONS["refresh"], seconds=-1.0))
    assert "Not done: 2: not begun, for it has taken too long (2)." in committed("refresh", *entries).text
    assert provider.calls == 2


# -- another TTL


def test_one_gets_another_ttl(provider: Sandbox, committed: Committed, admin_client: Client) -> None:
    entry = ask(provider)
    assert "Got another TTL: 1." in committed("retime", entry, amount="2", unit="3600").text
    entry.refresh_from_db()
    assert entry.expires_at is not None
    assert timedelta(hours=1, minutes=59) < entry.expires_at - timezone.now() <= timedelta(hours=2)
    committed("retime", entry, forever="1")
    entry.refresh_from_db()
    assert entry.expires_at is None
    assert [row.reason for row in Invalidation.objects.order_by("pk")] == ["TTL cut", "TTL extended"]
    # Whatever the log has about it: it is no less good than before.
    page = read(admin_client, page_of(entry))
    assert page.facts["State"] == "fresh"
    assert [row[3].split()[0] for row in read(admin_client, LIST).rows if entry.key[:8] in row[1:2]] == ["fresh"]
    assert llmcache.extract(TEXT, Ticket, cache="only")


def test_it_says_how_old_it_may_get_for_who_asks(provider: Sandbox, admin_client: Client) -> None:
    entry = ask(provider, ttl=7_200)
    told = read(admin_client, f"{LIST}act/retime/", id=entry.pk).facts["TTL left"]
    assert told.endswith("it was asked for with a TTL of 2 h")


@pytest.mark.parametrize(
    "data",
    [
        {}, {"amount": ""}, {"amount": "0", "unit": "60"}, {"amount": "-1", "unit": "60"}, {"amount": "x"},
        {"amount": "10001", "unit": "60"}, {"amount": "1", "unit": "7"}, {"amount": "1", "unit": "60", "forever": "1"},
    ],
    ids=str,
)  # fmt: skip
def test_a_time_that_is_none_is_refused(data: dict[str, str], provider: Sandbox, committed: Committed) -> None:
    entry = ask(provider)
    page = committed("retime", entry, **data)
    assert "Please correct the error" in page.text
    assert page.facts["Entries"] == "1"
    assert not Invalidation.objects.exists()


# -- invalidating


def test_those_that_were_selected_are_invalidated(provider: Sandbox, committed: Committed) -> None:
    entries = [ask(provider, f"{name} writes") for name in ("Ann", "Bob", "Eve")]
    assert "Invalidated: 2." in committed("invalidate", *entries[:2], reason="a wrong prompt").text
    found = Invalidation.objects.values_list("key", "reason")
    assert set(found) == {(entry.key, "a wrong prompt") for entry in entries[:2]}
    outcomes = [llmcache.extract_with_info(f"{name} writes", Ticket).outcome for name in ("Ann", "Bob", "Eve")]
    assert outcomes == ["miss", "miss", "hit"]
    assert LogEntry.objects.count() == 2


# -- states


def test_the_list_tells_states_apart(provider: Sandbox, admin_client: Client) -> None:
    def found(**query: str) -> set[str]:
        response = admin_client.get(LIST, query)
        return {entry.key for entry in response.context["cl"].result_list}

    fresh, stale, expired = (ask(provider, f"{name} writes") for name in ("Ann", "Bob", "Eve"))
    now = timezone.now()
    rows = CacheEntry.objects.filter
    rows(pk=stale.pk).update(expires_at=now - timedelta(hours=1), stale_until=now + timedelta(hours=1))
    rows(pk=expired.pk).update(expires_at=now - timedelta(hours=2), stale_until=now - timedelta(hours=1))
    assert found(state="fresh") == {fresh.key}
    assert found(state="stale") == {stale.key}
    assert found(state="expired") == {expired.key}
    shown = {row[1]: row[3] for row in read(admin_client, LIST).rows if len(row) > 3}
    assert shown[stale.key[:8]].startswith("stale")
    llmcache.invalidate(everything=True)
    shown = {row[1]: row[3] for row in read(admin_client, LIST).rows if len(row) > 3}
    assert [shown[each.key[:8]].split()[0] for each in (fresh, stale, expired)] == [
        "invalidated", "invalidated", "expired",
    ]  # fmt: skip


def test_what_was_refreshed_is_not_shown_as_void(provider: Sandbox, admin_client: Client, committed: Committed) -> None:
    entry = ask(provider)
    committed("refresh", entry)
    assert llmcache.flush()
    page = read(admin_client, page_of(entry))
    assert page.facts["State"] == "fresh"
    # Where no tier that is read here has it, the times tell.
    process.install(None)
    assert [row[3].split()[0] for row in read(admin_client, LIST).rows if entry.key[:8] in row[1:2]] == ["fresh"]


# -- other pages


def test_kinds_models_schemas_and_tenants_have_their_buttons(provider: Sandbox, admin_client: Client) -> None:
    ask(provider, tenant="acme")
    expected = {
        UsageBucket: ["?kind=Ticket", "?model=openai%2Fgpt-5-mini", "?kind=Ticket&model=openai%2Fgpt-5-mini"],
        TenantDay: ["?tenant=acme"],
        SchemaVersion: ["?response_type=Ticket"],
    }
    for model, queries in expected.items():
        row = model._default_manager.latest("pk")
        page = read(admin_client, f"/admin/llmcache/{model._meta.model_name}/{row.pk}/change/")
        links = {link["href"] for link in page.all("a")}
        assert {f"/admin/llmcache/invalidation/add/{query}" for query in queries} <= links
    client = somebody("view_usagebucket", "view_tenantday", "view_schemaversion")
    for model in expected:
        row = model._default_manager.latest("pk")
        page = read(client, f"/admin/llmcache/{model._meta.model_name}/{row.pk}/change/")
        assert not [link for link in page.all("a") if "invalidation/add" in (link["href"] or "")]


def test_nothing_is_left_of_a_change_that_fails_on_the_way(
    provider: Sandbox, committed: Committed, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = ask(provider)
    before = entry.expires_at

    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(rewriting, "_note_times", broken)
    with pytest.raises(ZeroDivisionError):
        committed("retime", entry, forever="1")
    entry.refresh_from_db()
    assert (entry.expires_at, Invalidation.objects.count()) == (before, 0)
    assert llmcache.extract(TEXT, Ticket, cache="only")
