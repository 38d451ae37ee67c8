"""Invalidations in the admin: the list, undoing, the form with its preview, and what entries' pages say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

import llmcache
from llmcache.admin_pages import columns, whereabouts
from llmcache.engine import process
from llmcache.keys import storage_key
from llmcache.models import CacheEntry, Invalidation, SchemaVersion, TenantDay, UsageBucket
from llmcache.testing.sandbox import Sandbox
from tests.conftest import llmcache_settings
from tests.flows.test_costs import SANDBOX_PRICES
from tests.rows import PAYLOAD
from tests.web.ledger_rows import Order, Ticket, ask
from tests.web.page import Page

pytestmark = pytest.mark.django_db
LIST = "/admin/llmcache/invalidation/"
ADD = f"{LIST}add/"
ENTRIES = "/admin/llmcache/cacheentry/"
SUBJECT = "Zoë Quackenbush"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy with other tests is no tier that hangs."""
    monkeypatch.setattr(whereabouts, "LOOK_SECONDS", 20.0)


@pytest.fixture
def provider(sandbox: Sandbox) -> Iterator[Sandbox]:
    with llmcache_settings(PRICES=SANDBOX_PRICES):
        yield sandbox


def page_of(row: Invalidation) -> str:
    return f"{LIST}{row.pk}/change/"


def undo_of(row: Invalidation) -> str:
    return f"{LIST}{row.pk}/undo/"


def entry_page(entry: CacheEntry) -> str:
    return f"{ENTRIES}{entry.pk}/change/"


def read(client: Client, address: str, **query: str) -> Page:
    response = client.get(address, query)
    assert response.status_code == 200
    return Page(response.content.decode())


def posted(client: Client, **data: str) -> Page:
    """Return the page that a form which was sent comes back with."""
    response = client.post(ADD, data)
    assert response.status_code == 200
    assert "no-store" in response["Cache-Control"]
    return Page(response.content.decode())


def made(**conditions: Any) -> Invalidation:
    return Invalidation.objects.get(uid=llmcache.invalidate(**conditions).id)


def found(client: Client, **query: str) -> list[Invalidation]:
    """Return the rows that the list shows."""
    response = client.get(LIST, query)
    assert response.status_code == 200
    return list(response.context["cl"].result_list)


def somebody(*permissions: str) -> Client:
    """Return a client of a member of staff."""
    user = User.objects.create_user(f"somebody{User.objects.count()}", is_staff=True)
    chosen = Permission.objects.filter(content_type__app_label="llmcache", codename__in=permissions)
    assert len(chosen) == len(permissions)
    user.user_permissions.set(chosen)
    client = Client()
    client.force_login(user)
    return client


def confirm(client: Client, page: Page) -> Any:
    """Confirm a preview, as its button does."""
    (form,) = (form for form in page.forms if form["action"] == ADD)
    return client.post(ADD, {**form, "confirm": "1"})


def links(page: Page) -> set[str]:
    return {link["href"] or "" for link in page.all("a")}


def statements(client: Client, address: str) -> list[str]:
    """Return what a page asks the database, after what is kept of content types and of the log was read."""
    client.get(address)
    with CaptureQueriesContext(connection) as captured:
        assert client.get(address).status_code == 200
    return [each["sql"] for each in captured.captured_queries]


# The list


def test_a_row_says_which_answers_by_whom_why_and_what_became_of_it(admin_client: Client) -> None:
    made(everything=True)
    mistake = made(tenant="acme", tag="contracts", subject=SUBJECT, reason="a new prompt", user="ann")
    llmcache.undo(mistake, user="bob")
    page = read(admin_client, LIST)
    undone, everything = page.rows[-2:]
    _made, answers, state, reason, by = undone
    assert (answers, reason, by) == ("tenant acme tag contracts a subject", "a new prompt", "ann")
    assert state.startswith("undone ")
    assert state.endswith(" by bob")
    assert everything[1:] == ["everything", "in force", columns.UNKNOWN, columns.UNKNOWN]
    assert ADD in links(page)


def test_rows_are_found_by_id_tag_tenant_and_key(admin_client: Client) -> None:
    tag, tenant = made(tag="contracts"), made(tenant="acme")
    key = made(key="ab" * 32)
    same = made(tag="acme")
    for wanted, rows in (
        (tag.uid, [tag]),
        (tag.uid[:16].upper(), [tag]),
        (f"id:{tag.uid}", [tag]),
        ("contracts", [tag]),
        ("tag: contracts", [tag]),
        ("acme", [same, tenant]),
        ("TENANT:acme", [tenant]),
        ("tag:acme", [same]),
        ("ab" * 32, [key]),
        ("key:" + "AB" * 10, [key]),
        ("contract", []),
        ("tenant:contracts", []),
        ("id:", []),
        ("key:soup", []),
        ("%", []),
        ("x" * 10_240, []),
    ):
        assert found(admin_client, q=wanted) == rows, wanted


def test_rows_are_filtered_by_state_and_kind(admin_client: Client) -> None:
    inbox, other = made(kind="inbox"), made(kind="other")
    llmcache.undo(other)
    assert found(admin_client) == [other, inbox]
    assert found(admin_client, state="in_force") == [inbox]
    assert found(admin_client, state="undone") == [other]
    assert found(admin_client, kind="inbox") == [inbox]
    assert found(admin_client, kind="other", state="in_force") == found(admin_client, state="bogus") == []
    assert {"?state=in_force", "?state=undone"} <= links(read(admin_client, LIST))


# The page of one


def test_its_page_says_all_of_it_but_the_subject(sandbox: Sandbox, admin_client: Client) -> None:
    entry = ask(sandbox, tenant="acme", tags=["a&b"], subject=SUBJECT)
    row = made(tenant="acme", tag="a&b", kind="Ticket", reason="a new prompt", user="ann")
    facts = read(admin_client, page_of(row)).facts
    assert (facts["Tenant"], facts["Tag"], facts["Kind"]) == ("acme", "a&b", "Ticket")
    assert (facts["Reason"], facts["Made by"], facts["State"]) == ("a new prompt", "ann", "in force")
    assert (facts["Id"], facts["Name space"]) == (row.uid, process.current().namespace)
    assert "Undone" not in facts
    (address,) = (link for link in links(read(admin_client, page_of(row))) if link.startswith(f"{ENTRIES}?"))
    assert [each.pk for each in admin_client.get(address).context["cl"].result_list] == [entry.pk]

    page = admin_client.get(page_of(made(subject=SUBJECT))).content.decode()
    assert Page(page).facts["Subject"] == "a subject, of which a hash is kept"
    assert entry.subject_hash
    assert not [each for each in (SUBJECT, entry.subject_hash) if each in page]
    # Not in what can be read: a form's token has any letters.
    assert "Zo" not in Page(page).text


def test_undoing_is_posted_and_written_down(admin_client: Client, admin_user: User) -> None:
    row = made(kind="inbox", user="ann")
    page = read(admin_client, page_of(row))
    assert undo_of(row) in {form["action"] for form in page.forms}
    assert admin_client.get(undo_of(row)).status_code == 405
    page = Page(admin_client.post(undo_of(row), follow=True).content.decode())
    row.refresh_from_db()
    assert (row.active, row.undone_by) == (False, admin_user.get_username())
    assert "Undone. The answers from before are served again." in page.text
    assert (page.facts["State"], page.facts["Undone by"]) == ("undone", admin_user.get_username())
    assert undo_of(row) not in {form["action"] for form in page.forms}
    (log,) = LogEntry.objects.all()
    assert (log.object_id, log.change_message, log.user_id) == (str(row.pk), "Undone.", admin_user.pk)
    # Twice is no error, and no second line.
    again = admin_client.post(undo_of(row), follow=True)
    assert "It was undone already." in again.content.decode()
    assert LogEntry.objects.count() == 1
    assert "Undone." in read(admin_client, f"{LIST}{row.pk}/history/").text


def test_an_undo_brings_the_answer_back(sandbox: Sandbox, admin_client: Client) -> None:
    entry = ask(sandbox)
    row = made(kind="Ticket")
    assert admin_client.post(undo_of(row)).status_code == 302
    assert llmcache.extract_with_info("Zoë writes", Ticket).outcome == "hit"
    assert read(admin_client, entry_page(entry)).facts["State"] == "fresh"


def test_others_with_the_same_conditions_are_named_and_go_on(admin_client: Client) -> None:
    older, newer, other = made(kind="inbox"), made(kind="inbox"), made(kind="inbox", tenant="acme")
    page = read(admin_client, page_of(newer))
    assert page_of(older) in links(page)
    assert page_of(other) not in links(page)
    page = Page(admin_client.post(undo_of(newer), follow=True).content.decode())
    assert "Another with the same conditions is in force" in page.text
    assert "Others in force" not in read(admin_client, page_of(older)).text


def test_a_row_of_another_name_space_cannot_be_undone(admin_client: Client) -> None:
    row = made(kind="inbox")
    Invalidation.objects.filter(pk=row.pk).update(namespace="another")
    page = read(admin_client, page_of(row))
    assert "It belongs to the name space another" in page.text
    assert undo_of(row) not in {form["action"] for form in page.forms}
    assert "belongs to another name space" in admin_client.post(undo_of(row), follow=True).content.decode()
    row.refresh_from_db()
    assert (row.active, LogEntry.objects.count()) == (True, 0)


@pytest.mark.parametrize("pk", ["999", "abc", "%00", "9" * 30])
def test_a_row_that_is_not_there_leads_back(pk: str, admin_client: Client) -> None:
    response = admin_client.post(f"{LIST}{pk}/undo/")
    assert (response.status_code, response["Location"]) == (302, reverse("admin:index"))


# Who may do what


def test_who_may_only_see_has_no_buttons(sandbox: Sandbox) -> None:
    entry, row = ask(sandbox), made(kind="another")
    viewer = somebody("view_invalidation", "view_cacheentry")
    page = read(viewer, page_of(row))
    assert "You do not have the permission to undo it." in page.text
    assert undo_of(row) not in {form["action"] for form in page.forms}
    assert ADD not in links(read(viewer, LIST))
    assert not [link for link in links(read(viewer, entry_page(entry))) if link.startswith(ADD)]
    for response in (viewer.get(ADD), viewer.post(ADD, {"kind": "inbox"}), viewer.post(undo_of(row))):
        assert response.status_code == 403
    assert list(Invalidation.objects.filter(active=True)) == [row]


def test_who_may_only_invalidate_does_it_and_is_led_home() -> None:
    client = somebody("add_invalidation")
    response = confirm(client, posted(client, kind="inbox"))
    assert (response.status_code, response["Location"]) == (302, reverse("admin:index"))
    row = Invalidation.objects.get()
    assert client.get(page_of(row)).status_code == client.get(LIST).status_code == 403
    assert client.post(undo_of(row)).status_code == 403


def test_who_may_only_undo_sees_nothing() -> None:
    row = made(kind="inbox")
    assert somebody("undo_invalidation").post(undo_of(row)).status_code == 403


def test_both_need_the_forms_token(admin_user: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)
    row = made(kind="inbox")
    assert client.post(undo_of(row)).status_code == 403
    assert client.post(ADD, {"kind": "x", "confirm": "1", "once": "a"}).status_code == 403
    assert Invalidation.objects.get().active


# Making one


def test_a_preview_says_what_it_is_about_and_does_nothing(provider: Sandbox, admin_client: Client) -> None:
    entries = [ask(provider, text, tenant="acme") for text in ("one", "two")]
    ask(provider, "three", tenant="globex")
    page = posted(admin_client, tenant="acme", kind="Ticket", subject="", reason="a new prompt")
    cost = sum((entry.cost_usd or Decimal(0)) for entry in entries)
    assert (page.facts["Tenant"], page.facts["Kind"], page.facts["Reason"]) == ("acme", "Ticket", "a new prompt")
    assert page.facts["Entries"].startswith("2 ")
    assert page.facts["What they have cost"].startswith(f"{columns.figures.money(cost)} ")
    assert (Invalidation.objects.count(), LogEntry.objects.count()) == (0, 0)
    assert llmcache.extract_with_info("one", Ticket, tenant="acme").outcome == "hit"


def test_what_is_confirmed_is_done_by_who_has_confirmed(
    provider: Sandbox, admin_client: Client, admin_user: User
) -> None:
    ask(provider, tenant="acme", subject=SUBJECT)
    data = {"tenant": "acme", "subject": SUBJECT, "response_type": "Ticket", "reason": "a new prompt"}
    page = posted(admin_client, **data)
    assert SUBJECT not in page.text
    assert page.facts["Entries"].startswith("1 ")
    response = confirm(admin_client, page)
    row = Invalidation.objects.get()
    assert (response.status_code, response["Location"]) == (302, page_of(row))
    assert (row.tenant, row.response_type, row.reason) == ("acme", "Ticket", "a new prompt")
    assert (row.made_by, row.active) == (admin_user.get_username(), True)
    asked = llmcache.extract_with_info("Zoë writes", Ticket, tenant="acme", subject=SUBJECT)
    assert (asked.outcome, asked.reason) == ("miss", "invalidated")
    (log,) = LogEntry.objects.all()
    assert (log.object_id, log.change_message, log.user_id) == (str(row.pk), "Invalidated.", admin_user.pk)
    assert SUBJECT not in log.object_repr


def test_everything_has_a_box_of_its_own(provider: Sandbox, admin_client: Client) -> None:
    ask(provider)
    page = posted(admin_client, everything="on")
    assert page.facts["Answers"] == "everything"
    assert page.facts["Entries"].startswith("1 ")
    assert confirm(admin_client, page).status_code == 302
    row = Invalidation.objects.get()
    assert not any((row.kind, row.model, row.tenant, row.tag, row.key, row.subject_hash, row.response_type))


def test_a_form_that_is_sent_twice_is_done_once(admin_client: Client) -> None:
    page = posted(admin_client, kind="inbox")
    first, second = confirm(admin_client, page), confirm(admin_client, page)
    row = Invalidation.objects.get()
    assert first["Location"] == second["Location"] == page_of(row)
    assert "It was done already." in admin_client.get(page_of(row)).content.decode()
    # A new preview is a new decision.
    assert confirm(admin_client, posted(admin_client, kind="inbox")).status_code == 302
    assert Invalidation.objects.count() == 2


def test_nothing_is_done_without_a_preview(admin_client: Client) -> None:
    page = posted(admin_client, kind="inbox", confirm="1")
    assert page.facts["Kind"] == "inbox"
    assert Invalidation.objects.count() == 0


def test_the_conditions_can_be_changed_after_the_preview(admin_client: Client) -> None:
    page = posted(admin_client, tenant="acme ", subject=SUBJECT, reason="new")
    assert "begins or ends with white space" in page.text
    (form,) = (form for form in page.forms if form["action"] == ADD)
    response = admin_client.post(ADD, {**form, "change": "1"})
    (form,) = (form for form in Page(response.content.decode()).forms if form["action"] == ADD)
    assert (form["tenant"], form["subject"], form["reason"], form["kind"]) == ("acme ", SUBJECT, "new", "")


def test_an_address_fills_the_form_but_not_with_a_subject(admin_client: Client) -> None:
    told = {"kind": "in&box", "model": "openai/gpt-5", "response_type": "Ticket", "tenant": "a", "tag": "b", "key": "c"}
    page = read(admin_client, ADD, **told, subject=SUBJECT, everything="on", reason="x", bogus="1")
    (form,) = (form for form in page.forms if form["action"] == ADD)
    assert {name: form[name] for name in told} == told
    assert (form["subject"], form["reason"]) == ("", "")
    assert not [box for box in page.all("input") if box.get("name") == "everything" and "checked" in box]
    for bad in ("\0", "x" * 10_240):
        page = read(admin_client, ADD, tenant=bad)
        (form,) = (form for form in page.forms if form["action"] == ADD)
        assert form["tenant"] == ""


KEY = "ab" * 32
REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "nothing": ({}, "Give at least one condition"),
    "a reason alone": ({"reason": "because"}, "Give at least one condition"),
    "both": ({"everything": "on", "kind": "inbox"}, "“Everything” has no conditions"),
    "no key": ({"key": "soup"}, "A key has 64 hex digits."),
    "a key too long": ({"key": KEY + "0"}, "A key has 64 hex digits."),
    "no provider": ({"model": "gpt-5"}, "Write provider/model"),
    "NUL": ({"tenant": "a\0b"}, "Null characters are not allowed."),
    "NUL as a reason": ({"tenant": "a", "reason": "\0"}, "Null characters are not allowed."),
    "10 KB": ({"tag": "x" * 10_240}, "at most 1000 characters"),
    "a kind too long": ({"kind": "x" * 101}, "at most 100 characters"),
    "a reason too long": ({"kind": "x", "reason": "x" * 10_240}, "at most 500 characters"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_said_at_the_form(case: str, admin_client: Client) -> None:
    data, told = REFUSED[case]
    for more in ({}, {"confirm": "1", "once": "a"}):
        page = posted(admin_client, **data, **more)
        assert told in page.text
        assert any(form["action"] == ADD and "once" not in form for form in page.forms)
    assert Invalidation.objects.count() == 0


def test_a_condition_that_nothing_meets_can_be_confirmed(admin_client: Client) -> None:
    page = posted(admin_client, tag="unheard of")
    assert page.facts["Entries"].startswith("0 ")
    assert "The ledger has no entry that meets this." in page.text
    assert confirm(admin_client, page).status_code == 302
    assert Invalidation.objects.get().tag == "unheard of"


def test_a_key_is_taken_in_any_case(admin_client: Client) -> None:
    assert confirm(admin_client, posted(admin_client, key=f" {KEY.upper()} "[1:-1])).status_code == 302
    assert Invalidation.objects.get().key == KEY


def test_what_is_markup_is_shown_as_text(admin_client: Client) -> None:
    data = {"kind": PAYLOAD[:100], "tenant": PAYLOAD, "tag": PAYLOAD, "subject": PAYLOAD, "reason": PAYLOAD}
    preview = admin_client.post(ADD, data)
    pages = [preview, admin_client.post(ADD, {**data, "change": "1"}), admin_client.post(ADD, {**data, "model": "x"})]
    assert confirm(admin_client, Page(preview.content.decode())).status_code == 302
    row = Invalidation.objects.get()
    assert (row.kind, row.tenant, row.tag) == (PAYLOAD[:100], PAYLOAD, PAYLOAD)
    llmcache.undo(row, user=PAYLOAD[:150])
    query = {"tenant": PAYLOAD, "q": PAYLOAD, "kind": PAYLOAD[:100]}
    pages += [admin_client.get(each, query) for each in (LIST, page_of(row), ADD, f"{LIST}{row.pk}/history/")]
    for page in pages:
        text = page.content.decode()
        assert "<script>window" not in text
        assert "<img src=x" not in text
        assert not Page(text).all("script") or all(each.get("src") for each in Page(text).all("script"))


# Entries


def test_an_entrys_page_leads_to_the_form_with_its_key(sandbox: Sandbox, admin_client: Client) -> None:
    entry = ask(sandbox)
    address = f"{ADD}?key={entry.key}"
    assert address in links(read(admin_client, entry_page(entry)))
    (form,) = (form for form in read(admin_client, address).forms if form["action"] == ADD)
    assert form["key"] == entry.key
    CacheEntry.objects.filter(pk=entry.pk).update(namespace="another")
    assert address not in links(read(admin_client, entry_page(entry)))


def test_pages_of_types_kinds_and_tenants_lead_to_it_too(sandbox: Sandbox, admin_client: Client) -> None:
    ask(sandbox, tenant="a&b", kind="inbox")
    for row, query in (
        (SchemaVersion.objects.get(), "response_type=Ticket"),
        (UsageBucket.objects.earliest("pk"), "kind=inbox&model=openai%2Fgpt-5-mini"),
        (TenantDay.objects.earliest("pk"), "tenant=a%26b"),
    ):
        page = read(admin_client, reverse(f"admin:llmcache_{row._meta.model_name}_change", args=[row.pk]))
        assert f"{ADD}?{query}" in links(page)


EVERY: dict[str, Callable[[CacheEntry], dict[str, Any]]] = {
    "key": lambda entry: {"key": entry.key},
    "kind": lambda entry: {"kind": "inbox"},
    "tenant and tag": lambda entry: {"tenant": "acme", "tag": "mail"},
    "subject": lambda entry: {"subject": SUBJECT},
    "type and model": lambda entry: {"response_model": Ticket, "model": entry.model},
    "everything": lambda entry: {"everything": True},
}


@pytest.mark.parametrize("conditions", EVERY.values(), ids=EVERY)
def test_an_entry_that_is_void_says_so_and_who_did_it(
    conditions: Callable[[CacheEntry], dict[str, Any]],
    sandbox: Sandbox,
    forget_memory: Callable[[], None],
    admin_client: Client,
) -> None:
    entry = ask(sandbox, tenant="acme", kind="inbox", tags=["mail", "new"], subject=SUBJECT)
    other = ask(sandbox, "an order", response_model=Order, model="openai/gpt-5")
    row = made(**conditions(entry), user="ann", reason="a new prompt")
    page = read(admin_client, entry_page(entry))
    assert page.facts["State"] == "invalidated"
    assert page.facts["Invalidated"].endswith("by ann a new prompt")
    assert page_of(row) in links(page)
    assert "A call takes it for a miss." in page.text
    of_all = "everything" in conditions(entry)
    assert read(admin_client, entry_page(other)).facts["State"] == ("invalidated" if of_all else "fresh")
    rows = {each[1]: each[3] for each in read(admin_client, ENTRIES).rows if len(each) == 8}
    assert rows[entry.key[:8]].startswith("invalidated")
    assert rows[other.key[:8]].startswith("invalidated" if of_all else "fresh")
    # It lies nowhere any more: now the times tell.
    forget_memory()
    runtime = process.current()
    runtime.tiers.below[0].delete(storage_key(runtime.namespace, bytes.fromhex(entry.key)))
    assert read(admin_client, entry_page(entry)).facts["State"] == "invalidated"
    # And what was asked for anew is good.
    options: dict[str, Any] = {"tenant": "acme", "kind": "inbox", "tags": ["mail", "new"], "subject": SUBJECT}
    entry = ask(sandbox, **options)
    assert read(admin_client, entry_page(entry)).facts["State"] == "fresh"
    rows = {each[1]: each[3] for each in read(admin_client, ENTRIES).rows if len(each) == 8}
    assert rows[entry.key[:8]].startswith("fresh")


def test_an_entry_that_was_not_seen_by_its_maker_is_void_whatever_the_times_say(
    sandbox: Sandbox, admin_client: Client
) -> None:
    entry = ask(sandbox)
    row = made(kind="Ticket")
    Invalidation.objects.filter(pk=row.pk).update(made_at=entry.written_at - timedelta(seconds=1))
    assert read(admin_client, entry_page(entry)).facts["State"] == "invalidated"


def test_an_entry_past_its_time_stays_expired(sandbox: Sandbox, admin_client: Client) -> None:
    entry = ask(sandbox)
    made(kind="Ticket")
    CacheEntry.objects.filter(pk=entry.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    assert read(admin_client, entry_page(entry)).facts["State"] == "expired"


def test_who_may_not_see_invalidations_is_not_led_there(sandbox: Sandbox) -> None:
    entry, row = ask(sandbox), made(kind="Ticket", user="ann")
    page = read(somebody("view_cacheentry"), entry_page(entry))
    assert page.facts["State"] == "invalidated"
    assert page_of(row) not in links(page)


def test_what_is_void_costs_a_list_one_statement(sandbox: Sandbox, admin_client: Client) -> None:
    keys = [ask(sandbox, f"text {number}").key for number in range(6)]
    made(key=keys[0])
    few = statements(admin_client, ENTRIES)
    for key in keys[1:]:
        made(key=key)
        made(kind="Ticket")
    many = statements(admin_client, ENTRIES)
    assert len(few) == len(many) <= 10, many
    pages = [statements(admin_client, entry_page(CacheEntry.objects.get(key=key))) for key in keys]
    assert {len(page) for page in pages} == {len(pages[0])}
    assert len(pages[0]) <= 10, pages[0]


def test_the_pages_cost_the_same_whatever_there_is(admin_client: Client) -> None:
    rows = [made(kind="inbox") for _ in range(2)]
    few = [len(statements(admin_client, address)) for address in (LIST, page_of(rows[0]), ADD)]
    for number in range(60):
        made(kind="inbox")
        made(tag=f"tag {number}")
    many = [len(statements(admin_client, address)) for address in (LIST, page_of(rows[0]), ADD)]
    assert few == many
    assert max(many) <= 10
