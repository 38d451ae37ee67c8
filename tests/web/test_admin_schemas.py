"""Schema versions in the admin say what the last deploys have changed, what that has left behind, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pydantic import BaseModel, create_model

from llmcache.admin_pages import columns, deploys
from llmcache.dashboard import figures
from llmcache.models import CacheEntry, SchemaVersion
from llmcache.money.pricing import dollars
from llmcache.schema_history import reports
from llmcache.testing.sandbox import Sandbox
from tests.conftest import llmcache_settings
from tests.flows.test_costs import SANDBOX_PRICES
from tests.rows import PAYLOAD
from tests.web.ledger_rows import Order, ask, copies
from tests.web.page import Page
from tests.web.test_admin_invalidations import somebody

pytestmark = pytest.mark.django_db
LIST = "/admin/llmcache/schemaversion/"
ENTRIES = "/admin/llmcache/cacheentry/"
HEADING = (2, "What the last deploys have changed")


class Parcel(BaseModel):
    """What was sent."""

    grams: int


Old = Parcel
New = create_model("Parcel", __base__=BaseModel, grams=(float, ...), colour=(str, ...))
TEXTS = ("a heavy one", "a light one")


@pytest.fixture
def provider(sandbox: Sandbox) -> Iterator[Sandbox]:
    sandbox.answers |= {text: {"grams": 2, "colour": "red"} for text in TEXTS}
    # The project's own kinds are of no matter here.
    with llmcache_settings(PRICES=SANDBOX_PRICES, KINDS={}):
        yield sandbox


def deploy(sandbox: Sandbox) -> tuple[SchemaVersion, SchemaVersion]:
    """Ask for two answers of the old form and one of the new; return the rows of both forms."""
    for text in TEXTS:
        ask(sandbox, text, response_model=Old)
    ask(sandbox, TEXTS[0], response_model=New)
    old, new = SchemaVersion.objects.filter(response_type="Parcel").order_by("first_seen_at", "pk")
    SchemaVersion.objects.filter(pk=old.pk).update(last_seen_at=new.first_seen_at - timedelta(seconds=1))
    return old, new


def read(client: Client, address: str = LIST, **query: str) -> Page:
    response = client.get(address, query)
    assert response.status_code == 200
    return Page(response.content.decode())


def page_of(version: SchemaVersion) -> str:
    return f"{LIST}{version.pk}/change/"


def lines(page: Page) -> list[list[str]]:
    """Return the lines of the section above the list, without its head."""
    if HEADING not in page.headings:
        return []
    begins, ends = (
        next(place for place, row in enumerate(page.rows) if row[0] == first)
        for first in ("First seen", "Response type")
    )
    # Then comes the list itself.
    return page.rows[begins + 1 : ends]


def cost(form: SchemaVersion) -> str:
    return cost_of(*CacheEntry.objects.filter(schema=form.fingerprint))


def cost_of(*entries: CacheEntry) -> str:
    return figures.money(dollars(sum(entry.cost_pico_usd or 0 for entry in entries)))


def led_to(client: Client, page: Page, form: SchemaVersion) -> set[str]:
    """Return the forms of the entries that a page's link to those of one form leads to."""
    (address,) = {link["href"] or "" for link in page.all("a") if form.fingerprint in (link["href"] or "")}
    assert address.startswith(ENTRIES)
    return {entry.schema for entry in client.get(address).context["cl"].result_list}


def test_a_deploy_is_a_line_above_the_list(provider: Sandbox, admin_client: Client) -> None:
    old, new = deploy(provider)
    page = read(admin_client)
    (line,) = lines(page)
    assert line == [columns.narrow_moment(new.first_seen_at), "Parcel", "2", cost(old), "1"]
    assert page_of(new) in {link["href"] for link in page.all("a")}
    assert led_to(admin_client, page, old) == {old.fingerprint}
    assert cost(old) != "$0.00"


def test_a_kind_with_several_prompts_is_a_line_too(provider: Sandbox, admin_client: Client) -> None:
    ask(provider, TEXTS[0], response_model=Old)
    for text in TEXTS:
        ask(provider, text, response_model=Old, kind="inbox", system="What was sent?")
    heading = (2, "Kinds with several system prompts or versions")
    assert heading not in read(admin_client).headings
    was = cost_of(*CacheEntry.objects.filter(kind="inbox"))
    ask(provider, TEXTS[0], response_model=Old, kind="inbox", system="What was sent, and by whom?")
    page = read(admin_client)
    assert heading in page.headings
    (line,) = [row for row in page.rows if row[0] == "inbox"]
    assert line == ["inbox", "2", "1", "2", was]
    (address,) = {link["href"] or "" for link in page.all("a") if "kind=inbox" in (link["href"] or "")}
    assert {entry.kind for entry in admin_client.get(address).context["cl"].result_list} == {"inbox"}
    assert "What was sent" not in page.text
    # One of another version of the kind, and one that has expired.
    with llmcache_settings(KINDS={"inbox": {"version": "2"}}):
        ask(provider, TEXTS[1], response_model=Old, kind="inbox", system="What was sent, and by whom?")
    CacheEntry.objects.filter(pk=CacheEntry.objects.filter(kind="inbox").earliest("pk").pk).update(
        expires_at=timezone.now()
    )
    (line,) = [row for row in read(admin_client).rows if row[0] == "inbox"]
    assert line[:4] == ["inbox", "2", "2", "2"]


def test_without_a_deploy_there_is_no_such_section(provider: Sandbox, admin_client: Client) -> None:
    ask(provider, TEXTS[0], response_model=Old)
    assert HEADING not in read(admin_client).headings


def test_a_part_of_the_list_is_shown_without_it(provider: Sandbox, admin_client: Client) -> None:
    deploy(provider)
    assert HEADING in read(admin_client).headings
    for query in ({"q": "Parcel"}, {"type": "Parcel"}, {"p": "1"}, {"o": "1"}):
        assert HEADING not in read(admin_client, **query).headings


def test_the_newest_of_many_come_first_and_are_ten(provider: Sandbox, admin_client: Client) -> None:
    old, new = deploy(provider)
    copies(new, 12)
    for number, row in enumerate(SchemaVersion.objects.exclude(pk__in=(old.pk, new.pk))):
        row.response_type, row.first_seen_at = f"Type {number}", new.first_seen_at + timedelta(minutes=number + 1)
        row.save()
    assert [line[1].split(" The form")[0] for line in lines(read(admin_client))] == [
        f"Type {number}" for number in range(11, 1, -1)
    ]


def test_a_form_that_is_still_asked_for_is_said_to_be(provider: Sandbox, admin_client: Client) -> None:
    old, new = deploy(provider)
    assert "still asked for" not in read(admin_client).text
    assert "still asked for" not in read(admin_client, page_of(new)).text
    SchemaVersion.objects.filter(pk=old.pk).update(last_seen_at=new.first_seen_at + timedelta(seconds=1))
    moment = columns.moment(new.first_seen_at + timedelta(seconds=1))
    (line,) = lines(read(admin_client))
    assert line[1] == f"Parcel The form before was still asked for at {moment}."
    assert read(admin_client, page_of(new)).facts["The one before"].startswith("still asked for")


def test_what_the_code_has_changed_and_nobody_has_asked_for_is_told_first(
    provider: Sandbox, admin_client: Client
) -> None:
    for text in TEXTS:
        ask(provider, text, response_model=Old)
    (old,) = SchemaVersion.objects.all()
    kinds: dict[str, Any] = {"parcels": {"type": New}, "orders": {"type": Order}}
    with llmcache_settings(PRICES=SANDBOX_PRICES, KINDS=kinds):
        (line,) = lines(read(admin_client))
        note = "This process has another form of it than was asked for last."
        assert line == ["not asked for yet", f"Parcel {note}", "2", cost(old), "0"]
        ask(provider, TEXTS[0], response_model=New, kind="parcels")
        (line,) = lines(read(admin_client))
        assert line[0] != "not asked for yet"
    with llmcache_settings(KINDS={"parcels": {"type": "no.such.Type"}}):
        # A check says so; the page is there.
        assert len(lines(read(admin_client))) == 1


def test_a_version_says_what_there_is_of_it_and_what_it_has_left(provider: Sandbox, admin_client: Client) -> None:
    old, new = deploy(provider)
    page = read(admin_client, page_of(new))
    assert page.facts["Not expired"] == f"1 {cost(new)} to make anew"
    assert page.facts["Left behind"] == f"2 {cost(old)} to make anew; no call with this form finds them"
    assert led_to(admin_client, page, old) == {old.fingerprint}
    page = read(admin_client, page_of(old))
    assert page.facts["Not expired"] == f"2 {cost(old)} to make anew"
    assert "Left behind" not in page.facts
    CacheEntry.objects.filter(schema=old.fingerprint).update(expires_at=timezone.now())
    assert read(admin_client, page_of(new)).facts["Left behind"].startswith("0 $0.00 ")


def test_what_is_not_known_and_what_was_not_counted_is_said(
    provider: Sandbox, admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = deploy(provider)
    first = CacheEntry.objects.filter(schema=old.fingerprint).order_by("pk")[0]
    CacheEntry.objects.filter(pk=first.pk).update(cost_pico_usd=None)
    assert lines(read(admin_client))[0][3] == f"{cost(old)}, and 1 of unknown cost"
    CacheEntry.objects.filter(schema=old.fingerprint).update(cost_pico_usd=None)
    assert lines(read(admin_client))[0][3] == columns.UNKNOWN
    CacheEntry.objects.filter(schema=old.fingerprint).update(cost_pico_usd=10**12)
    monkeypatch.setattr(deploys, "MOST", 1)
    assert lines(read(admin_client))[0][2:4] == ["at least 2", "at least $2.00"]
    assert read(admin_client, page_of(new)).facts["Left behind"].startswith("at least 2 at least $2.00")


def test_who_may_not_see_entries_sees_no_counts_of_them(provider: Sandbox) -> None:
    _, new = deploy(provider)
    client = somebody("view_schemaversion")
    assert HEADING not in read(client).headings
    page = read(client, page_of(new))
    assert not {"Left behind", "Not expired"} & set(page.facts)
    assert HEADING in read(somebody("view_schemaversion", "view_cacheentry")).headings
    assert somebody("view_cacheentry").get(LIST).status_code == 403


def test_its_statements_are_few_whatever_there_is(provider: Sandbox, admin_client: Client) -> None:
    _, new = deploy(provider)
    kinds = {f"kind {number}": {"type": create_model(f"Type{number}", a=(int, ...))} for number in range(5)}
    with llmcache_settings(KINDS=kinds, PRICES=SANDBOX_PRICES):

        def statements() -> int:
            read(admin_client)
            with CaptureQueriesContext(connection) as captured:
                read(admin_client)
            return len(captured)

        few = statements()
        copies(new, 30)
        copies(CacheEntry.objects.order_by("pk")[0], 50)
        assert statements() == few <= 10


def test_every_page_looks_at_a_bounded_number_of_entries() -> None:
    assert deploys.MOST == reports.MOST == 10_000
    assert deploys.SHOWN * 2 * deploys.MOST <= 200_000


def test_names_are_text_and_nothing_else(provider: Sandbox, admin_client: Client) -> None:
    _, new = deploy(provider)
    SchemaVersion.objects.update(response_type=PAYLOAD)
    html = admin_client.get(LIST).content.decode()
    assert HEADING in Page(html).headings
    assert "<img" not in html.replace('<img src="/static/', "")
    assert PAYLOAD not in html
    assert PAYLOAD not in admin_client.get(page_of(new)).content.decode()
