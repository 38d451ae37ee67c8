"""Corrections in the admin: the form on an entry's page, pins and quarantine, the list, and withdrawing."""

from __future__ import annotations

import html
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client
from pydantic import BaseModel, Field

import llmcache
from llmcache import corrections
from llmcache.admin_pages import whereabouts
from llmcache.admin_pages.correction_form import editable
from llmcache.admin_pages.corrections import CorrectionAdmin
from llmcache.admin_pages.entries import CacheEntryAdmin
from llmcache.admin_pages.invalidations import InvalidationAdmin
from llmcache.models import CacheEntry, Correction, Invalidation
from llmcache.testing.sandbox import Sandbox
from tests.conftest import llmcache_settings
from tests.flows.test_costs import SANDBOX_PRICES
from tests.rows import PAYLOAD
from tests.web.page import Page

pytestmark = pytest.mark.django_db
LIST = "/admin/llmcache/correction/"
ENTRIES = "/admin/llmcache/cacheentry/"
TEXT = "Where is my parcel?"
SECRET = "Zoë Quackenbush"
"""What nobody may find in a log."""


class Line(BaseModel):
    """A line of an order."""

    name: str
    count: int = Field(ge=1)


class Parcel(BaseModel):
    """A parcel."""

    title: str
    lines: list[Line]


FIRST = {"title": "Parcel", "lines": [{"name": "tea", "count": 2}]}
BETTER = {"title": SECRET, "lines": [{"name": "tea", "count": 3}, {"name": "milk", "count": 1}]}


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy with other tests is no tier that hangs."""
    monkeypatch.setattr(whereabouts, "LOOK_SECONDS", 20.0)


@pytest.fixture
def provider(sandbox: Sandbox) -> Iterator[Sandbox]:
    sandbox.answers[TEXT] = FIRST
    with llmcache_settings(PRICES=SANDBOX_PRICES, KINDS={"Parcel": {"type": Parcel}}):
        yield sandbox


@pytest.fixture
def entry(provider: Sandbox) -> CacheEntry:
    llmcache.extract(TEXT, Parcel)
    assert llmcache.flush()
    return CacheEntry.objects.get()


def somebody(*permissions: str) -> Client:
    """Return a client of a member of staff."""
    user = User.objects.create_user(f"somebody{User.objects.count()}", is_staff=True)
    chosen = Permission.objects.filter(content_type__app_label="llmcache", codename__in=permissions)
    assert len(chosen) == len(permissions)
    user.user_permissions.set(chosen)
    client = Client()
    client.force_login(user)
    return client


def page_of(entry: CacheEntry) -> str:
    return f"{ENTRIES}{entry.pk}/change/"


def read(client: Client, address: str, **query: str) -> Page:
    response = client.get(address, query)
    assert response.status_code == 200
    return Page(response.content.decode())


class Formed(Page):
    """A page with what stands in its text area, as a browser would send it."""

    def __init__(self, source: str) -> None:
        super().__init__(source)
        found = re.search(r"<textarea[^>]*>\n?(.*?)</textarea>", source, flags=re.DOTALL)
        self.area = "" if found is None else html.unescape(found[1]).strip()


def posted(client: Client, entry: CacheEntry, **data: str) -> Formed:
    response = client.post(f"{ENTRIES}{entry.pk}/correct/", data)
    assert response.status_code == 200
    assert "no-store" in response["Cache-Control"]
    return Formed(response.content.decode())


def buttons(client: Client, entry: CacheEntry) -> list[str]:
    """Return the last parts of the addresses to which the entry's page can post."""
    forms = read(client, page_of(entry)).forms
    return [
        form["action"].split("?")[0].rstrip("/").rsplit("/", 1)[-1] for form in forms if "llmcache" in form["action"]
    ]


def act(client: Client, entry: CacheEntry, what: str) -> str:
    """Press a button of the entry's page, and return what is said then."""
    response = client.post(f"{ENTRIES}{entry.pk}/{what}/", follow=True)
    assert response.redirect_chain == [(page_of(entry), 302)]
    (message,) = response.context["messages"]
    return str(message)


def title() -> str:
    return llmcache.extract(TEXT, Parcel).title


def test_an_answer_is_corrected_in_three_steps(admin_client: Client, entry: CacheEntry, provider: Sandbox) -> None:
    assert "correct" in buttons(admin_client, entry)
    form = posted(admin_client, entry)
    assert json.loads(form.area) == FIRST
    # That somebody has looked at it is written down, and what it says is not.
    assert [log.change_message for log in LogEntry.objects.all()] == ["Revealed the answer to correct it."]
    preview = posted(admin_client, entry, answer=json.dumps(BETTER), note="the customer's own words", preview="1")
    assert [row[0].replace(" ", "") for row in preview.rows[-3:]] == ["title", "lines[0].count", "lines[1]"]
    assert (Correction.objects.count(), title()) == (0, "Parcel")
    (sent,) = (form for form in preview.forms if form["action"].endswith("/correct/"))
    assert json.loads(sent["answer"]) == BETTER
    response = admin_client.post(sent["action"], {**sent, "confirm": "1"}, follow=True)
    assert response.redirect_chain == [(page_of(entry), 302)]
    assert (title(), provider.calls) == (SECRET, 1)
    row = Correction.objects.get()
    assert (row.made_by, row.note, row.is_pin, row.invalidation.corrects) == (
        "admin", "the customer's own words", False, True,
    )  # fmt: skip
    assert SECRET not in " ".join(log.change_message + log.object_repr for log in LogEntry.objects.all())
    page = read(admin_client, page_of(entry))
    assert "This answer is a person's." in page.text
    assert "invalidated" not in page.text
    # The same once more is nothing new.
    again = admin_client.post(sent["action"], {**sent, "confirm": "1"}, follow=True)
    assert "done already" in again.content.decode()
    assert Correction.objects.count() == 1


def test_what_does_not_pass_is_told_field_by_field_and_nothing_is_lost(
    admin_client: Client, entry: CacheEntry, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = json.dumps({"title": [SECRET], "lines": [{"name": "tea", "count": 0}, {"count": 1}]}, indent=1)
    with caplog.at_level(logging.DEBUG):
        page = posted(admin_client, entry, answer=wrong, note="a note", preview="1")
    for said in ("title: Input should be a valid string", "lines[0].count: ", "lines[1].name: Field required"):
        assert said in page.text
    assert page.area == wrong
    (note,) = (each for each in page.all("input") if each.get("name") == "note")
    assert note["value"] == "a note"
    assert SECRET not in caplog.text
    for broken, said in (("{", "Invalid JSON"), ("", "This field is required."), ("null", "Input should be")):
        assert said in posted(admin_client, entry, answer=broken, preview="1").text
    # Confirming does not go round the check.
    assert "Invalid JSON" in posted(admin_client, entry, answer="{", confirm="1").text
    assert (Correction.objects.count(), title()) == (0, "Parcel")


def test_a_preview_can_be_changed_again(admin_client: Client, entry: CacheEntry) -> None:
    better = json.dumps(BETTER)
    page = posted(admin_client, entry, answer=better, note="n", change="1")
    assert page.area == better
    assert "Nothing: it is the answer" in posted(admin_client, entry, answer=json.dumps(FIRST), preview="1").text


def test_what_people_type_is_shown_as_text(admin_client: Client, entry: CacheEntry) -> None:
    hostile = json.dumps({"title": PAYLOAD, "lines": []})
    for data in ({"preview": "1"}, {"change": "1"}):
        page = posted(admin_client, entry, answer=hostile, note=PAYLOAD, **data)
        assert not [each for each in page.all("script") if not each["src"]]
        assert PAYLOAD in page.text or any(PAYLOAD in (each["value"] or "") for each in page.all("input"))
    posted_to = f"{ENTRIES}{entry.pk}/correct/"
    admin_client.post(posted_to, {"answer": hostile, "note": PAYLOAD, "confirm": "1"})
    row = Correction.objects.get()
    for address in (LIST, f"{LIST}{row.pk}/change/", page_of(entry)):
        assert PAYLOAD not in admin_client.get(address).content.decode()


@pytest.mark.parametrize(
    ("kinds", "said"),
    [({}, "names no response type"), ({"Parcel": {"type": Line}}, "has changed since")],
    ids=["not registered", "changed"],
)
def test_without_its_type_the_page_says_why(
    kinds: dict[str, Any], said: str, admin_client: Client, entry: CacheEntry
) -> None:
    with llmcache_settings(KINDS=kinds):
        assert buttons(admin_client, entry) == ["pin", "quarantine", "reveal"]
        page = read(admin_client, page_of(entry))
        assert "It cannot be corrected." in page.text
        assert said in page.text
        assert said in act(admin_client, entry, "correct")
        assert not LogEntry.objects.exists()


def test_a_form_for_an_answer_that_is_gone_begins_empty(admin_client: Client, entry: CacheEntry) -> None:
    from llmcache.engine import process

    runtime = process.current()
    runtime.memory.clear()  # type: ignore[union-attr]
    for tier in runtime.tiers.below:
        tier.delete(runtime.tiers._name(bytes.fromhex(entry.key)))
    page = posted(admin_client, entry)
    assert "write the whole of it" in page.text
    assert page.area == ""
    assert "nothing to compare" in posted(admin_client, entry, answer=json.dumps(BETTER), preview="1").text
    admin_client.post(f"{ENTRIES}{entry.pk}/correct/", {"answer": json.dumps(BETTER), "confirm": "1"})
    assert title() == SECRET
    # What a person has answered is what the next one begins with.
    assert json.loads(posted(admin_client, entry).area) == BETTER


def test_pin_and_unpin(admin_client: Client, entry: CacheEntry, provider: Sandbox) -> None:
    assert "Pinned" in act(admin_client, entry, "pin")
    provider.answers[TEXT] = {"title": "Another", "lines": []}
    assert llmcache.extract(TEXT, Parcel, cache="refresh").title == "Parcel"
    assert buttons(admin_client, entry) == ["correct", "withdraw", "reveal"]
    page = read(admin_client, page_of(entry))
    assert "This answer is pinned" in page.text
    (form,) = (form for form in page.forms if "withdraw" in form["action"])
    response = admin_client.post(form["action"], follow=True)
    assert response.redirect_chain == [(page_of(entry), 302)]
    assert title() == "Another"


def test_quarantine_and_restore(admin_client: Client, entry: CacheEntry, provider: Sandbox) -> None:
    act(admin_client, entry, "quarantine")
    assert buttons(admin_client, entry) == ["correct", "restore", "reveal"]
    assert "is in quarantine" in read(admin_client, page_of(entry)).text
    with pytest.raises(llmcache.NotCached):
        llmcache.extract(TEXT, Parcel, cache="only")
    assert "Restored" in act(admin_client, entry, "restore")
    assert "done already" in act(admin_client, entry, "restore")
    assert buttons(admin_client, entry) == ["correct", "pin", "quarantine", "reveal"]
    assert (title(), provider.calls) == ("Parcel", 1)
    assert [log.change_message for log in LogEntry.objects.order_by("pk")] == [
        "Put into quarantine.",
        "Restored from quarantine.",
    ]


def test_the_list_tells_who_when_and_what_became_of_it(admin_client: Client, entry: CacheEntry) -> None:
    first = corrections.correct(entry.key, json.dumps(BETTER), user="ann", note="first")
    second = corrections.correct(entry.key, json.dumps(FIRST), user="bob", note="second")
    states = [row[3:] for row in read(admin_client, LIST).rows[-2:]]
    assert states == [["in force", "second", "bob"], ["replaced by a newer one", "first", "ann"]]
    corrections.withdraw(second)
    states = [row[3] for row in read(admin_client, LIST).rows[-2:]]
    assert states == ["withdrawn", "in force"]
    with llmcache_settings(KINDS={"Parcel": {"type": Line}}):
        assert [row[3] for row in read(admin_client, LIST).rows[-2:]] == ["withdrawn", "type changed"]
        assert "Its type has changed since" in read(admin_client, f"{LIST}{first.pk}/change/").text
    for query, rows in (
        ({"state": "in_force"}, [first]),
        ({"state": "undone"}, [second]),
        ({"state": "nonsense"}, []),
        ({"q": entry.key[:12]}, [second, first]),
        ({"q": "no key"}, []),
        ({"kind": "Parcel"}, [second, first]),
    ):
        assert list(admin_client.get(LIST, query).context["cl"].result_list) == rows, query


def test_the_page_of_one_links_and_withdraws(admin_client: Client, entry: CacheEntry, provider: Sandbox) -> None:
    row = corrections.correct(entry.key, json.dumps(BETTER), user="ann", note="first")
    address = f"{LIST}{row.pk}/change/"
    page = read(admin_client, address)
    links = {link["href"] for link in page.all("a")}
    assert {page_of(entry), f"/admin/llmcache/invalidation/{row.invalidation.pk}/change/"} <= links
    # The answer is not there until it is asked for, which is written down.
    assert SECRET not in page.text
    revealed = admin_client.post(f"{LIST}{row.pk}/reveal/")
    assert SECRET in revealed.content.decode()
    assert LogEntry.objects.get().change_message == "Revealed the answer."
    (form,) = (form for form in page.forms if form["action"].endswith("/withdraw/"))
    response = admin_client.post(form["action"], follow=True)
    assert response.redirect_chain == [(address, 302)]
    assert "withdrawn" in read(admin_client, address).text
    assert (title(), provider.calls) == ("Parcel", 1)
    again = admin_client.post(form["action"], follow=True)
    assert "withdrawn already" in again.content.decode()


def test_a_correction_that_does_not_pass_any_more_says_so(admin_client: Client, entry: CacheEntry) -> None:
    row = corrections.correct(entry.key, json.dumps(BETTER))
    Correction.objects.update(answer='{"title": 7}')
    assert "does not pass" in read(admin_client, f"{LIST}{row.pk}/change/").text


def test_undoing_its_invalidation_is_withdrawing_it(admin_client: Client, entry: CacheEntry) -> None:
    row = corrections.correct(entry.key, json.dumps(BETTER))
    page = read(admin_client, f"/admin/llmcache/invalidation/{row.invalidation.pk}/change/")
    assert "withdraws the correction" in page.text
    assert f"{LIST}{row.pk}/change/" in {link["href"] for link in page.all("a")}
    admin_client.post(f"/admin/llmcache/invalidation/{row.invalidation.pk}/undo/")
    assert title() == "Parcel"


def test_the_lists_say_what_is_good_once_it_is_withdrawn(admin_client: Client, entry: CacheEntry) -> None:
    row = corrections.correct(entry.key, json.dumps(BETTER))
    title()
    llmcache.flush()
    assert "fresh" in read(admin_client, ENTRIES).rows[-1][3]
    mistake = llmcache.invalidate(everything=True)
    # The next call gets it all the same.
    assert "fresh" in read(admin_client, ENTRIES).rows[-1][3]
    llmcache.undo(mistake)
    for _ in range(2):
        corrections.withdraw(row)
        assert "invalidated" in read(admin_client, ENTRIES).rows[-1][3]
        assert "invalidated" in read(admin_client, page_of(entry)).text
        llmcache.invalidate(tag="of no matter", key=entry.key)


def test_rows_of_another_name_space_are_left_alone(admin_client: Client, entry: CacheEntry) -> None:
    row = corrections.correct(entry.key, json.dumps(BETTER))
    for model in (CacheEntry, Correction, Invalidation):
        model.objects.update(namespace="theirs")
    assert buttons(admin_client, entry) == ["reveal"]
    # Nobody can tell here.
    assert "fresh" in read(admin_client, ENTRIES).rows[-1][3]
    for what in ("correct", "pin", "quarantine", "restore"):
        assert "another name space" in act(admin_client, entry, what)
    response = admin_client.post(f"{LIST}{row.pk}/withdraw/", follow=True)
    assert "another name space" in response.content.decode()
    assert "theirs" in read(admin_client, f"{LIST}{row.pk}/change/").text
    row.invalidation.refresh_from_db()
    assert row.invalidation.active


def test_who_may_do_what(entry: CacheEntry) -> None:
    every = ("view_cacheentry", "view_correction", "add_correction", "withdraw_correction", "reveal_cacheentry")
    every = (*every, "add_invalidation", "undo_invalidation")
    row = corrections.correct(entry.key, json.dumps(BETTER))
    needs = {
        f"{ENTRIES}{entry.pk}/correct/": ("view_cacheentry", "add_correction", "reveal_cacheentry"),
        f"{ENTRIES}{entry.pk}/pin/": ("view_cacheentry", "add_correction"),
        f"{ENTRIES}{entry.pk}/quarantine/": ("view_cacheentry", "add_invalidation"),
        f"{ENTRIES}{entry.pk}/restore/": ("view_cacheentry", "undo_invalidation"),
        f"{LIST}{row.pk}/reveal/": ("view_correction", "reveal_cacheentry"),
        f"{LIST}{row.pk}/withdraw/": ("view_correction", "withdraw_correction"),
    }
    for address, wanted in needs.items():
        for missing in wanted:
            assert somebody(*(each for each in every if each != missing)).post(address).status_code == 403
        assert somebody(*wanted).post(address).status_code in (200, 302)
        assert somebody(*every).get(address).status_code == 405
    assert buttons(somebody("view_cacheentry"), entry) == []


def test_undoing_its_line_needs_what_withdrawing_needs(entry: CacheEntry) -> None:
    line = corrections.correct(entry.key, json.dumps(BETTER)).invalidation
    address, may = f"/admin/llmcache/invalidation/{line.pk}/", ("view_invalidation", "undo_invalidation")
    assert "undo/" not in somebody(*may).get(f"{address}change/").content.decode()
    assert somebody(*may).post(f"{address}undo/").status_code == 403
    line.refresh_from_db()
    assert line.active
    assert somebody(*may, "withdraw_correction").post(f"{address}undo/").status_code == 302
    line.refresh_from_db()
    assert not line.active


def test_a_projects_own_admin_may_show_some_rows_and_others_not(
    admin_client: Client, entry: CacheEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Django asks ``has_view_permission`` of the very row; so do the addresses that are only posted to."""
    row = corrections.correct(entry.key, json.dumps(BETTER))
    for model_admin in (CacheEntryAdmin, CorrectionAdmin, InvalidationAdmin):
        monkeypatch.setattr(model_admin, "has_view_permission", lambda *given: given[2:] in ((), (None,)))
    line = row.invalidation.pk
    for address in (
        *(f"{ENTRIES}{entry.pk}/{what}/" for what in ("correct", "pin", "quarantine", "restore", "reveal")),
        *(f"{LIST}{row.pk}/{what}/" for what in ("reveal", "withdraw")),
        f"/admin/llmcache/invalidation/{line}/undo/",
    ):
        assert admin_client.post(address).status_code == 403, address
    for what in ("invalidate", "refresh", "retime"):
        asked = admin_client.get(f"{ENTRIES}act/{what}/", {"id": entry.pk})
        sent = admin_client.post(f"{ENTRIES}act/{what}/", {"_selected_action": entry.pk, "amount": 1, "once": "x"})
        assert (asked.status_code, sent.status_code) == (403, 403)
    assert Invalidation.objects.filter(active=True).count() == 1
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize("what", ["correct", "pin", "quarantine", "restore"])
def test_an_entry_that_is_gone(what: str, admin_client: Client, provider: Sandbox) -> None:
    assert admin_client.post(f"{ENTRIES}77/{what}/").status_code == 302
    for what_of_it in ("reveal", "withdraw"):
        assert admin_client.post(f"{LIST}77/{what_of_it}/").status_code == 302


@pytest.mark.parametrize(
    "text", ['{"price":19.90}', "[1e2]", '{"a":-0}', '{"a":0.1234567890123456789}', '{"a":1,"a":2}', "[NaN]", "[1"]
)
def test_what_would_be_written_in_another_way_is_edited_as_it_stands(text: str) -> None:
    assert editable(text) == text
    assert editable('{"a":[19.9,-1,"é"]}') == '{\n  "a": [\n    19.9,\n    -1,\n    "é"\n  ]\n}'
