"""Planned invalidations in the admin: made by the form, listed with their time, called off; and void entries listed."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.utils import timezone

import llmcache
from llmcache import marking, planned
from llmcache.engine import process
from llmcache.models import Invalidation, PlannedInvalidation
from llmcache.testing.sandbox import Sandbox
from tests.web.ledger_rows import ask
from tests.web.test_admin_invalidations import ADD, confirm, posted, read, somebody

pytestmark = pytest.mark.django_db
LIST = "/admin/llmcache/plannedinvalidation/"


def plan(**conditions: str) -> PlannedInvalidation:
    told = llmcache.invalidate(**conditions, at=timezone.now() + timedelta(hours=1), reason="prices", user="ann")
    return PlannedInvalidation.objects.get(uid=told.id)


def page_of(row: PlannedInvalidation) -> str:
    return f"{LIST}{row.pk}/change/"


def test_the_form_plans_and_the_page_calls_off(sandbox: Sandbox, admin_client: Client) -> None:
    preview = posted(admin_client, kind="Ticket", at="2030-01-02 03:04", reason="prices", preview="1")
    done = confirm(admin_client, preview)
    row = PlannedInvalidation.objects.get()
    assert (row.kind, row.reason, row.made_by, row.due_at.year) == ("Ticket", "prices", "admin", 2030)
    assert done["Location"] == page_of(row)
    # Sent again, it is not planned again.
    assert confirm(admin_client, preview)["Location"] == page_of(row)
    assert (PlannedInvalidation.objects.count(), Invalidation.objects.count()) == (1, 0)
    due, answers, state, reason, by = read(admin_client, LIST).rows[-1]
    assert due.startswith("2 Jan 2030, 03:04")
    assert (answers, state, reason, by) == ("kind Ticket", "to come", "prices", "admin")
    assert admin_client.post(f"{LIST}{row.pk}/undo/")["Location"] == page_of(row)
    row.refresh_from_db()
    assert (row.is_open, row.called_off_by) == (False, "admin")
    assert read(admin_client, LIST).rows[-1][2] == "called off"
    assert [entry.change_message for entry in LogEntry.objects.order_by("pk")] == ["Planned.", "Called off."]
    # Once more changes nothing.
    admin_client.post(f"{LIST}{row.pk}/undo/")
    assert LogEntry.objects.count() == 2


def test_what_has_become_of_one(sandbox: Sandbox, admin_client: Client) -> None:
    row = plan(kind="Ticket")
    PlannedInvalidation.objects.update(due_at=timezone.now())
    assert "house-keeping does not run" in read(admin_client, page_of(row)).text
    assert read(admin_client, LIST, state="to_come").rows[-1][2] == "overdue"
    planned.bring_all_into_force()
    page = read(admin_client, page_of(row))
    made = Invalidation.objects.get()
    assert f"/admin/llmcache/invalidation/{made.pk}/change/" in {link["href"] for link in page.all("a")}
    assert read(admin_client, LIST, state="in_force").rows[-1][2] == "in force"
    assert not admin_client.get(LIST, {"state": "to_come"}).context["cl"].result_list
    # What is in force is undone where that is, and not called off here.
    admin_client.post(f"{LIST}{row.pk}/undo/")
    made.refresh_from_db()
    assert made.active


@pytest.mark.parametrize("at", ["soon", "8999-12-31 23:59", "2030-13-01 00:00"])
def test_what_is_no_time_is_told_beside_the_field(at: str, sandbox: Sandbox, admin_client: Client) -> None:
    page = posted(admin_client, kind="Ticket", at=at, preview="1")
    assert "Please correct the error below." in page.text
    assert not PlannedInvalidation.objects.exists()


def test_who_may_do_what(sandbox: Sandbox) -> None:
    row = plan(tenant="acme")
    nobody, viewer = somebody(), somebody("view_plannedinvalidation")
    assert [nobody.get(LIST).status_code, nobody.post(f"{LIST}{row.pk}/undo/").status_code] == [403, 403]
    assert viewer.get(page_of(row)).status_code == 200
    assert viewer.post(f"{LIST}{row.pk}/undo/").status_code == 403
    assert somebody("view_plannedinvalidation", "undo_invalidation").post(f"{LIST}{row.pk}/undo/").status_code == 302
    row.refresh_from_db()
    assert not row.is_open
    # Who may plan and not look is sent elsewhere.
    done = confirm(somebody("add_invalidation"), posted(somebody("add_invalidation"), kind="x", at="2030-01-01 00:00"))
    assert done["Location"] == "/admin/"
    assert ADD not in done["Location"]


def test_entries_that_were_invalidated_are_a_filter_of_their_list(sandbox: Sandbox, admin_client: Client) -> None:
    first, second = ask(sandbox, "a", tags=["gone"]), ask(sandbox, "b")
    address = "/admin/llmcache/cacheentry/?state=void"
    llmcache.invalidate(tag="gone")
    assert list(admin_client.get(address).context["cl"].result_list) == []
    marking.tell_entries(process.current(), 10.0)
    assert list(admin_client.get(address).context["cl"].result_list) == [first]
    assert second.void_by == ""
