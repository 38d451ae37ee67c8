"""“Why did this miss?” in the admin: a key's entry or call beside the entry that is nearest to it."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from pydantic import create_model

import llmcache
from llmcache.admin_pages import columns, whereabouts
from llmcache.engine import process
from llmcache.keys import storage_key
from llmcache.models import CacheEntry, Invalidation, ProviderCall
from llmcache.testing.sandbox import Sandbox, faults
from tests.conftest import MovedClock
from tests.rows import PAYLOAD
from tests.web.ledger_rows import Ticket, ask, copies
from tests.web.page import Page

pytestmark = pytest.mark.django_db
WHY = "/admin/llmcache/cacheentry/why/"
OTHER = create_model(
    "Ticket", __doc__=Ticket.__doc__, subject=(str, ...), customer=(str, ...), priority=(int, 0), language=(str, "de")
)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy with other tests is no tier that hangs."""
    monkeypatch.setattr(whereabouts, "LOOK_SECONDS", 20.0)


@pytest.fixture
def provider(sandbox: Sandbox) -> Sandbox:
    sandbox.answers["Zoë writes"] = {"subject": "s", "customer": "c", "priority": 1, "language": "de"}
    return sandbox


def page(client: Client, **query: Any) -> Page:
    response = client.get(WHY, query)
    assert response.status_code == 200
    assert "no-store" in response["Cache-Control"]
    return Page(response.content.decode())


def beside(found: Page) -> dict[str, tuple[str, str, str]]:
    """Return what a page tells of each component: of this one, of the nearest, and whether that is the same."""
    return {row[0]: (row[1], row[2], row[3]) for row in found.rows if len(row) == 4 and row[3] in STATES}


def changes(found: Page) -> set[tuple[str, str]]:
    """Return where a page says that a schema has changed, and how."""
    return {(row[0].replace(" ", ""), row[1]) for row in found.rows if len(row) == 4}


STATES = ("same", "different", "not known")


def somebody(*permissions: str) -> Client:
    """Return a client of a member of staff."""
    user = User.objects.create_user(f"somebody{User.objects.count()}", is_staff=True)
    chosen = Permission.objects.filter(content_type__app_label="llmcache", codename__in=permissions)
    user.user_permissions.set(chosen)
    client = Client()
    client.force_login(user)
    return client


def evict(entry: CacheEntry) -> None:
    now = process.current()
    assert now.memory is not None
    now.memory.clear()
    for tier in now.tiers.below:
        tier.delete(storage_key(now.namespace, bytes.fromhex(entry.key)))


def test_two_requests_stand_beside_each_other(admin_client: Client, provider: Sandbox) -> None:
    there = ask(provider, system="Be brief", temperature=0.5, tags=["vip"])
    here = ask(provider, response_model=OTHER, temperature=0.25, tags=["vip"], tenant="acme")
    found = page(admin_client, key=here.key)
    told = beside(found)
    assert {name for name, row in told.items() if row[2] == "different"} == {
        "Schema",
        "System prompt",
        "Parameter temperature",
        "Tenant",
    }
    assert told["Tenant"] == ("acme", columns.UNKNOWN, "different")
    assert told["Tags"] == ("vip", "vip", "same")
    assert told["Text"] == (here.content_hash[:8], there.content_hash[:8], "same")
    assert told["System prompt"] == (columns.UNKNOWN, there.components["system"][:8], "different")
    # What differs comes first.
    assert [row[2] for row in told.values()] == sorted(row[2] for row in told.values())
    text = found.text
    assert "It differs in: schema, system prompt, parameter temperature, tenant ." in text
    assert "The text is the same." in text
    assert ("properties.language", "added") in changes(found)
    assert "hit The tier memory has its answer" in text


def test_the_schemas_change_is_told_from_the_nearest_to_this_one(admin_client: Client, provider: Sandbox) -> None:
    old = ask(provider)
    new = ask(provider, response_model=OTHER)
    assert ("properties.language", "added") in changes(page(admin_client, key=new.key))
    assert ("properties.language", "removed") in changes(page(admin_client, key=old.key))


def test_an_entry_that_was_invalidated_says_by_whom(admin_client: Client, provider: Sandbox) -> None:
    entry = ask(provider)
    llmcache.invalidate(kind="Ticket", reason="a new prompt", user="ann")
    row = Invalidation.objects.get()
    found = page(admin_client, key=entry.key)
    assert "invalidated Its answer was invalidated" in found.text
    assert "by ann a new prompt" in found.text
    assert reverse("admin:llmcache_invalidation_change", args=[row.pk]) in {link["href"] for link in found.all("a")}
    # Who may not see invalidations is told of it, without the way there.
    seen = page(somebody("view_cacheentry"), key=entry.key)
    assert "by ann" in seen.text
    assert not [link for link in seen.all("a") if "/invalidation/" in (link["href"] or "")]


def test_an_entry_that_was_evicted_or_has_expired(admin_client: Client, provider: Sandbox, clock: MovedClock) -> None:
    entry = ask(provider)
    evict(entry)
    assert "evicted Its answer is still good" in page(admin_client, key=entry.key).text
    CacheEntry.objects.update(expires_at=entry.written_at)
    assert "expired Its answer expired" in page(admin_client, key=entry.key).text


def test_an_entry_of_another_name_space(admin_client: Client, provider: Sandbox) -> None:
    entry = ask(provider)
    CacheEntry.objects.update(namespace="elsewhere")
    assert "It belongs to another name space" in page(admin_client, key=entry.key).text


def test_a_call_with_a_new_key_is_compared_by_its_entry(admin_client: Client, provider: Sandbox) -> None:
    ask(provider)
    entry = ask(provider, temperature=0.5)
    call = ProviderCall.objects.get(key=entry.key)
    found = page(admin_client, call=call.pk)
    assert "new key It was the first call with this key" in found.text
    assert beside(found)["Parameter temperature"][2] == "different"
    address = f"{WHY}?call={call.pk}"
    opened = admin_client.get(reverse("admin:llmcache_providercall_change", args=[call.pk])).content.decode()
    assert f'href="{address}"' in opened


def test_a_call_whose_answer_was_there_before(admin_client: Client, provider: Sandbox, clock: MovedClock) -> None:
    entry = ask(provider, ttl=60)
    clock.move(120)
    ask(provider, ttl=60)
    evict(entry)
    ask(provider, ttl=60)
    first, second, third = ProviderCall.objects.order_by("started_at")
    assert "new key" in page(admin_client, call=first.pk).text
    assert "expired It was answered before" in page(admin_client, call=second.pk).text
    assert "evicted It was answered before" in page(admin_client, call=third.pk).text


def test_a_call_that_was_made_for_another_reason(admin_client: Client, provider: Sandbox) -> None:
    entry = ask(provider)
    ask(provider, cache="refresh")
    call = ProviderCall.objects.get(key=entry.key, reason="refresh")
    assert "The provider was asked for this reason" in page(admin_client, call=call.pk).text


def test_a_call_without_an_entry_is_compared_by_what_its_row_tells(admin_client: Client, provider: Sandbox) -> None:
    ask(provider, model="openai/gpt-5", tags=["vip"], subject="Zoë")
    provider.fail(faults.server_error(503))
    with pytest.raises(llmcache.ProviderUnavailable):
        llmcache.extract("Zoë writes", Ticket, max_retries=0)
    assert llmcache.flush()
    call = ProviderCall.objects.get(outcome="failed")
    told = beside(page(admin_client, key=call.key))
    assert told["Model"] == ("openai/gpt-5-mini", "openai/gpt-5", "different")
    assert {told[name][2] for name in ("Text", "System prompt", "Tags")} == {"not known"}


def test_a_key_is_found_by_its_beginning(admin_client: Client, provider: Sandbox) -> None:
    one, other = ask(provider), ask(provider, temperature=0.5)
    found = page(admin_client, key=one.key[:16].upper())
    assert "In short" in found.text
    CacheEntry.objects.filter(pk=one.pk).update(key="ab" * 32)
    CacheEntry.objects.filter(pk=other.pk).update(key="ab" * 31 + "ac")
    choices = page(admin_client, key="abab")
    assert {link["href"] for link in choices.all("a")} >= {f"{WHY}?key={'ab' * 32}", f"{WHY}?key={'ab' * 31}ac"}
    assert "neither an entry nor a call" in page(admin_client, key="ab" * 30 + "00").text


@pytest.mark.parametrize("wanted", ["no key", "g" * 64, "a" * 65, "\0", PAYLOAD])
def test_what_is_no_key_is_said(wanted: str, admin_client: Client) -> None:
    assert "This is no key" in page(admin_client, key=wanted).text


@pytest.mark.parametrize("query", [{}, {"call": "x"}, {"call": "9" * 30}, {"call": "0"}, {"key": ""}])
def test_what_is_nothing_is_the_form(query: dict[str, str], admin_client: Client) -> None:
    found = page(admin_client, **query)
    assert "In short" not in found.text
    assert [form for form in found.forms if form["action"] == WHY]


def test_it_is_for_who_may_see_entries(provider: Sandbox) -> None:
    entry = ask(provider)
    assert somebody("view_providercall").get(WHY, {"key": entry.key}).status_code == 403
    viewer = somebody("view_cacheentry")
    assert "In short" in page(viewer, key=entry.key).text
    call = ProviderCall.objects.get()
    # Calls are for who may see them.
    assert "In short" not in page(viewer, call=call.pk).text
    assert Client().get(WHY).status_code == 302
    caller = somebody("view_providercall")
    opened = caller.get(reverse("admin:llmcache_providercall_change", args=[call.pk])).content.decode()
    assert WHY not in opened


def test_the_way_to_it(admin_client: Client, provider: Sandbox) -> None:
    entry = ask(provider)
    listed = admin_client.get("/admin/llmcache/cacheentry/").content.decode()
    opened = admin_client.get(reverse("admin:llmcache_cacheentry_change", args=[entry.pk])).content.decode()
    assert f'href="{WHY}"' in listed
    assert f'href="{WHY}?key={entry.key}"' in opened


def test_hostile_words_are_shown_as_they_are(admin_client: Client, provider: Sandbox) -> None:
    ask(provider, tags=[PAYLOAD], tenant=PAYLOAD, kind=PAYLOAD[:100])
    entry = ask(provider, kind=PAYLOAD[:100], temperature=0.5)
    CacheEntry.objects.exclude(pk=entry.pk).update(
        components={"provider": PAYLOAD, "params": {PAYLOAD: PAYLOAD}, "system": {"a": 1}}
    )
    response = admin_client.get(WHY, {"key": entry.key})
    assert "<script>window.__xss" not in response.content.decode()
    assert PAYLOAD in Page(response.content.decode()).text


def test_it_costs_a_few_queries_whatever_there_is(admin_client: Client, provider: Sandbox) -> None:
    entry = ask(provider)
    ask(provider, response_model=OTHER, tags=["a"])

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            page(admin_client, key=entry.key)
        return len(captured)

    queries()
    few = queries()
    copies(entry, 300)
    assert queries() <= few <= 16
