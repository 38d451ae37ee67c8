"""Cache entries in the admin: the list, the page of one and where it lies, its contents, the export."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import AsyncClient, Client, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

import llmcache
from llmcache.admin_pages import columns, contents, exports, whereabouts
from llmcache.engine import process
from llmcache.keys import storage_key
from llmcache.models import CacheEntry, EntryTag, ProviderCall, SchemaVersion
from llmcache.testing.sandbox import Sandbox
from tests.cache_servers import RedisServer
from tests.conftest import MovedClock, llmcache_settings
from tests.flows.test_costs import SANDBOX_PRICES
from tests.web import hanging_cache
from tests.web.ledger_rows import ANSWER, Order, Ticket, ask, copies
from tests.web.page import Page

pytestmark = pytest.mark.django_db
LIST = "/admin/llmcache/cacheentry/"
EXPORT = f"{LIST}export/"
TEXT = "Zoë writes"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy with other tests is no tier that hangs."""
    monkeypatch.setattr(whereabouts, "LOOK_SECONDS", 20.0)


@pytest.fixture
def provider(sandbox: Sandbox) -> Iterator[Sandbox]:
    with llmcache_settings(PRICES=SANDBOX_PRICES):
        yield sandbox


def page_of(entry: CacheEntry) -> str:
    return f"{LIST}{entry.pk}/change/"


def reveal_of(entry: CacheEntry) -> str:
    return f"{LIST}{entry.pk}/reveal/"


def read(client: Client, address: str, **query: str) -> Page:
    response = client.get(address, query)
    assert response.status_code == 200
    return Page(response.content.decode())


def post(client: Client, address: str, **data: Any) -> Any:
    response = client.post(address, data)
    assert response.status_code == 200
    return response


def found(client: Client, **query: str) -> set[str]:
    """Return the keys of the entries that a list shows."""
    response = client.get(LIST, query)
    assert response.status_code == 200
    return {entry.key for entry in response.context["cl"].result_list}


def somebody(*permissions: str) -> Client:
    """Return a client of a member of staff."""
    user = User.objects.create_user(f"somebody{User.objects.count()}", is_staff=True)
    chosen = Permission.objects.filter(content_type__app_label="llmcache", codename__in=permissions)
    assert len(chosen) == len(permissions)
    user.user_permissions.set(chosen)
    client = Client()
    client.force_login(user)
    return client


def change(entry: CacheEntry, **facts: Any) -> CacheEntry:
    CacheEntry.objects.filter(pk=entry.pk).update(**facts)
    return CacheEntry.objects.get(pk=entry.pk)


def places(page: Page) -> dict[str, list[str]]:
    """Return what is said of each tier, by its name."""
    start = page.rows.index(["Tier", "There", "TTL left", "Shared by", "Backend"])
    rows = [row for row in page.rows[start + 1 :] if len(row) == 5]
    return {row[0]: row[1:] for row in rows if row[0] in process.current().tiers.names}


# The list


def test_a_row_tells_what_an_entry_is_and_what_it_has_saved(provider: Sandbox, admin_client: Client) -> None:
    entry = ask(provider, times=3, tenant="acme", kind="inbox", ttl=7 * 86_400)
    assert entry.cost_usd is not None
    row = next(row for row in read(admin_client, LIST).rows if entry.key[:8] in row[1:2])
    _box, _key, kind, left, saved, hits, age, tenant = row
    assert (kind, tenant, hits) == ("inbox openai/gpt-5-mini", "acme", "2")
    assert left == "fresh 7 d"
    assert age.endswith("s")
    assert Decimal(saved.removeprefix("$")) == pytest.approx(2 * entry.cost_usd, rel=Decimal("0.05"))


def test_what_is_not_known_is_a_dash_and_what_does_not_end_is_said_so(sandbox: Sandbox, admin_client: Client) -> None:
    with llmcache_settings(PRICES={}):
        entry = ask(sandbox, times=2, ttl=None, model="openai/house-7b")
    row = next(row for row in read(admin_client, LIST).rows if entry.key[:8] in row[1:2])
    assert row[3:6] == ["fresh never expires", columns.UNKNOWN, "1"]
    assert row[7] == columns.UNKNOWN
    expired = change(entry, expires_at=timezone.now() - timedelta(hours=2, minutes=1))
    row = next(row for row in read(admin_client, LIST).rows if expired.key[:8] in row[1:2])
    assert row[3].replace("\N{NO-BREAK SPACE}", " ") == "expired expired 2 h 1 min ago"


def test_an_entry_is_found_by_the_beginning_of_its_key_and_by_a_whole_tag(
    sandbox: Sandbox, admin_client: Client
) -> None:
    one = ask(sandbox, tags=["soup", "month 1", "CAFE"])
    other = ask(sandbox, "another text", tags=["month 1", 'it\'s "quoted"'])
    both = {one.key, other.key}
    for wanted in (one.key, one.key[:20], one.key[:20].upper(), f" {one.key[:16]} ", f"key:{one.key[:6]}"):
        assert found(admin_client, q=wanted) == {one.key}, wanted
    for wanted in ("soup", "tag:soup", "TAG: soup", "CAFE"):
        assert found(admin_client, q=wanted) == {one.key}, wanted
    assert found(admin_client, q="month 1") == both
    assert found(admin_client, q='it\'s "quoted"') == {other.key}
    for wanted in (
        "sou",
        "month",
        "%",
        "_",
        "tag:",
        "key:soup",
        "key:",
        "g" * 64,
        one.key + "0",
        "tag:" + "x" * 10_240,
    ):
        assert found(admin_client, q=wanted) == set(), wanted
    # The beginning of a key that is no tag: hex digits, in any case.
    assert one.key in found(admin_client, q=one.key[0])


def test_a_search_goes_by_an_index(sandbox: Sandbox, admin_client: Client) -> None:
    entry = ask(sandbox, tags=["soup"])
    for wanted, index in ((entry.key[:20], "(key>? AND key<?)"), ("soup", "llmcache_tag_entry")):
        with CaptureQueriesContext(connection) as captured:
            found(admin_client, q=wanted)
        (count,) = (each["sql"] for each in captured.captured_queries if "COUNT(*)" in each["sql"])
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {count}")
            plan = " ".join(str(row[-1]) for row in cursor.fetchall())
        assert index in plan, plan


def test_each_filter_shows_its_part(sandbox: Sandbox, admin_client: Client) -> None:
    ticket = ask(sandbox, tenant="acme", kind="inbox")
    order = ask(sandbox, "an order", response_model=Order, ttl=None, model="openai/gpt-5")
    change(ticket, expires_at=timezone.now() - timedelta(seconds=1))
    for query, kept in (
        ({"kind": "inbox"}, ticket),
        ({"model": "openai/gpt-5"}, order),
        ({"tenant": "acme"}, ticket),
        ({"tenant": ""}, order),
        ({"state": "expired"}, ticket),
        ({"state": "fresh"}, order),
        ({"type": "Order"}, order),
        ({"schema": ticket.schema}, ticket),
        ({"kind": "inbox", "state": "expired", "q": ticket.key[:20]}, ticket),
    ):
        assert found(admin_client, **query) == {kept.key}, query
    assert found(admin_client, kind="inbox", state="fresh") == set()
    assert found(admin_client, simulated="0") == {ticket.key, order.key}
    assert found(admin_client, simulated="1") == set()


def test_choices_come_from_the_sums(sandbox: Sandbox, admin_client: Client) -> None:
    ask(sandbox, tenant="acme", kind="inbox")
    assert "By kind" not in read(admin_client, LIST).text
    ask(sandbox, "an order", response_model=Order)
    page = read(admin_client, LIST)
    choices = {link.get("href") for link in page.all("a")}
    assert {"?kind=inbox", "?kind=Order", "?tenant=acme", "?tenant=", "?type=Order", "?state=fresh"} <= choices
    assert "By clock" not in page.text
    # Of one type, only its own versions.
    schemas = {
        link["href"] for link in read(admin_client, LIST, type="Order").all("a") if "schema=" in (link["href"] or "")
    }
    assert schemas == set()
    assert "By kind" in read(admin_client, LIST, kind="unheard of").text


def test_rows_of_a_simulated_clock_can_be_left_out(sandbox: Sandbox, admin_client: Client) -> None:
    from tests.rows import moved

    with moved(time.time() - 3_600, simulated=True):
        sandbox.answers[TEXT] = ANSWER
        llmcache.extract(TEXT, Ticket, timeout=6_000)
    real = ask(sandbox, "another text")
    assert found(admin_client, simulated="0") == {real.key}
    (simulated,) = found(admin_client, simulated="1")
    page = read(admin_client, page_of(CacheEntry.objects.get(key=simulated)))
    assert page.facts["Clock"] == "simulated"
    assert "By clock" in read(admin_client, LIST).text


def test_it_is_sorted_by_what_an_index_sorts(sandbox: Sandbox, admin_client: Client) -> None:
    entries = [ask(sandbox, f"text {number}", ttl=60 * (3 - number)) for number in range(3)]
    for number, entry in enumerate(entries):
        change(entry, saved_pico_usd=(number + 1) % 3, hits=number)
    columns = {row: place for place, row in enumerate(read(admin_client, LIST).rows[-4])}

    def order(column: str, sign: str = "") -> list[int]:
        response = admin_client.get(LIST, {"o": f"{sign}{columns[column]}"})
        return [[each.pk for each in entries].index(row.pk) for row in response.context["cl"].result_list]

    assert (order("Age"), order("Age", "-")) == ([2, 1, 0], [0, 1, 2])
    assert (order("TTL left"), order("Saved", "-")) == ([2, 1, 0], [1, 0, 2])
    # Nothing sorts by hits: the order is the list's own.
    assert order("Hits") == order("Kind and model") == [2, 1, 0]


# The page of one


def test_its_facts_are_there(provider: Sandbox, admin_client: Client) -> None:
    entry = ask(provider, times=3, tenant="acme", subject="Zoë", tags=["mail", "a&b"])
    page = read(admin_client, page_of(entry))
    facts = page.facts
    call = ProviderCall.objects.get()
    assert (facts["Key"], facts["Kind"], facts["Response type"]) == (entry.key, "Ticket", "Ticket")
    assert (facts["Tenant"], facts["Tags"]) == ("acme", "a&b mail")
    assert (facts["Subject's hash"], facts["Source"]) == (entry.subject_hash, "provider")
    assert (facts["State"], facts["Hits"], facts["Attempts"]) == ("fresh", "2", "1")
    assert facts["Cost"] == f"${entry.cost_usd:f} all attempts included"
    assert facts["Saved"] == f"${2 * (entry.cost_usd or 0):f}"
    assert facts["Input tokens"] == f"{entry.input_tokens:,}"
    links = {link.get("href") for link in page.all("a")}
    assert f"{LIST}?q=tag%3Aa%26b" in links
    assert {
        reverse(f"admin:llmcache_{name}_change", args=[pk])
        for name, pk in (("providercall", call.pk), ("schemaversion", SchemaVersion.objects.get().pk))
    } <= links
    # The model sees the keys in this order.
    assert page.text.index('"subject": {') < page.text.index('"customer": {') < page.text.index('"priority": {')
    assert "its answer is the one that was kept" in page.text


def test_the_newest_of_many_calls_are_shown(sandbox: Sandbox, admin_client: Client) -> None:
    entry = ask(sandbox)
    call = ProviderCall.objects.get()
    copies(call, 30)
    ProviderCall.objects.exclude(pk=call.pk).update(key=entry.key)
    page = read(admin_client, page_of(entry))
    assert (
        len(
            [
                link
                for link in page.all("a")
                if "/providercall/" in (link["href"] or "") and "/change/" in (link["href"] or "")
            ]
        )
        == 20
    )
    assert f"/admin/llmcache/providercall/?q={entry.key}" in [link["href"] for link in page.all("a")]


def test_who_may_not_see_calls_and_schemas_does_not_see_them_here(sandbox: Sandbox) -> None:
    entry = ask(sandbox)
    page = read(somebody("view_cacheentry"), page_of(entry))
    assert "Its provider calls" not in page.text
    assert "Its schema" not in page.text
    assert not [
        link
        for link in page.all("a")
        if "providercall" in (link["href"] or "") or "schemaversion" in (link["href"] or "")
    ]
    assert "You do not have the permission" in page.text
    assert reveal_of(entry) not in {form["action"] for form in page.forms}


# Where it lies


def test_each_tier_is_asked_live(
    sandbox: Sandbox, clock: MovedClock, forget_memory: Callable[[], None], admin_client: Client
) -> None:
    entry = ask(sandbox, ttl=3_600)
    said = places(read(admin_client, page_of(entry)))
    assert {tier: row[0] for tier, row in said.items()} == {"memory": "fresh", "disk": "fresh"}
    assert said["disk"][2:] == ["this machine", "disk folder"]
    assert said["memory"][1] == "1 h"
    forget_memory()
    said = places(read(admin_client, page_of(entry)))
    assert said["memory"][0].startswith("not there")
    assert said["disk"][0] == "fresh"
    # To be looked at is no hit: nothing was written above.
    assert places(read(admin_client, page_of(entry)))["memory"][0].startswith("not there")
    name = storage_key(process.current().namespace, bytes.fromhex(entry.key))
    process.current().tiers.below[0].set(name, b"garbage", 60.0)
    assert places(read(admin_client, page_of(entry)))["disk"][0].startswith("damaged")
    process.current().tiers.below[0].delete(name)
    assert places(read(admin_client, page_of(entry)))["disk"][0].startswith("not there")


def test_an_entry_past_its_time_is_told_and_can_be_looked_at(
    sandbox: Sandbox, clock: MovedClock, admin_client: Client
) -> None:
    entry = ask(sandbox, ttl=3_600)
    clock.move(4_000)
    assert places(read(admin_client, page_of(entry)))["memory"][0].startswith("expired")
    assert "Größe falsch" in post(admin_client, reveal_of(entry)).content.decode()


def test_another_writing_than_the_rows_is_told(sandbox: Sandbox, admin_client: Client) -> None:
    entry = ask(sandbox)
    change(entry, written_at=entry.written_at - timedelta(seconds=5))
    assert "Another writing" in places(read(admin_client, page_of(entry)))["disk"][0]


def test_an_entry_of_another_name_space_is_not_looked_for(sandbox: Sandbox, admin_client: Client) -> None:
    entry = change(ask(sandbox), namespace="another")
    assert "This entry belongs to the name space another" in read(admin_client, page_of(entry)).text
    page = Page(post(admin_client, reveal_of(entry)).content.decode())
    assert "This entry belongs to the name space another" in page.text
    assert "Größe" not in page.text
    (line,) = exported(admin_client, entry, with_contents="1")
    assert (line["answer"], line["answer_state"]) == (None, "other_namespace")


@pytest.mark.parametrize("key", ["", "x" * 64, "ab", "é" * 64, "0 " * 32])
def test_a_row_whose_key_is_none_is_a_page(key: str, sandbox: Sandbox, admin_client: Client) -> None:
    entry = change(ask(sandbox), key=key)
    assert "no tier can hold it" in read(admin_client, page_of(entry)).text
    assert "nothing to show" in Page(post(admin_client, reveal_of(entry)).content.decode()).text


@pytest.fixture
def with_redis(sandbox: Sandbox, redis_server: RedisServer) -> Iterator[CacheEntry]:
    """An entry in Redis alone."""
    redis = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": redis_server.url}
    with override_settings(CACHES={"default": redis}), llmcache_settings(TIERS=["default"]):
        yield ask(sandbox)


@pytest.mark.parametrize("fault", ["stop", "freeze"])
def test_a_redis_that_is_away_is_told_and_holds_nothing_up(
    fault: str,
    with_redis: CacheEntry,
    redis_server: RedisServer,
    admin_client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = places(read(admin_client, page_of(with_redis)))["default"]
    assert (said[0], said[2:]) == ("fresh", ["every machine", "django_redis.cache.RedisCache"])
    getattr(redis_server, fault)()
    monkeypatch.setattr(whereabouts, "LOOK_SECONDS", 0.5)
    try:
        page = read(admin_client, page_of(with_redis))
        revealed = Page(post(admin_client, reveal_of(with_redis)).content.decode())
        (line,) = exported(admin_client, with_redis, with_contents="1")
    finally:
        redis_server.start() if fault == "stop" else redis_server.thaw()
    for each in (page, revealed):
        assert places(each)["default"][0].startswith(("cannot be read", "no answer in time"))
    assert "nothing to show" in revealed.text
    assert (line["key"], line["answer"], line["answer_state"]) == (with_redis.key, None, "not_read")


@pytest.fixture
def with_hanging_tier(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[CacheEntry]:
    """An entry in memory, above a tier that does not answer; pages wait for it for a moment."""
    monkeypatch.setattr(whereabouts, "LOOK_SECONDS", 0.1)
    caches = {
        "default": {"BACKEND": "llmcache.backends.MemoryCache", "LOCATION": "hanging"},
        "slow": {"BACKEND": "tests.web.hanging_cache.HangingCache"},
    }
    with override_settings(CACHES=caches), llmcache_settings(TIERS=["default"]):
        sandbox.answers[TEXT] = ANSWER
        info = llmcache.extract_with_info(TEXT, Ticket)
        assert llmcache.flush()
        memory = process.current().tiers.memory
        assert memory is not None
        held = memory.store.get(bytes.fromhex(info.key))
        assert held is not None
        with llmcache_settings(TIERS=["default", "slow"]):
            now = process.current().tiers.memory
            assert now is not None
            now.store.put(bytes.fromhex(info.key), held, held.size)
            hanging_cache.released.clear()
            yield CacheEntry.objects.get(key=info.key)
            hanging_cache.released.set()
            for thread in threading.enumerate():
                if thread.name == "llmcache-look":
                    thread.join(20)


def test_a_tier_that_never_answers_is_waited_for_only_so_long(
    with_hanging_tier: CacheEntry, admin_client: Client
) -> None:
    said = places(read(admin_client, page_of(with_hanging_tier)))
    assert said["default"][0] == "fresh"
    assert said["slow"][0].startswith("no answer in time")
    page = Page(post(admin_client, reveal_of(with_hanging_tier)).content.decode())
    assert "Größe falsch" in page.text
    assert "could not be read in time" in page.text


# Contents


def test_an_answer_is_shown_to_who_asks_for_it_and_written_down(sandbox: Sandbox) -> None:
    entry = ask(sandbox)
    client = somebody("view_cacheentry", "reveal_cacheentry")
    before = client.get(page_of(entry))
    assert "Größe" not in before.content.decode()
    assert reveal_of(entry) in {form["action"] for form in Page(before.content.decode()).forms}
    response = post(client, reveal_of(entry))
    assert "no-store" in response["Cache-Control"]
    html = response.content.decode()
    answer = html[html.index("<pre") : html.index("</pre>")]
    assert answer.index("subject") < answer.index("customer") < answer.index("priority")
    assert "Größe falsch" in answer
    assert "Zoë writes" in html
    (log,) = LogEntry.objects.all()
    assert (log.object_id, log.object_repr) == (str(entry.pk), str(entry))
    assert log.user_id == int(client.session["_auth_user_id"])
    assert log.change_message == "Revealed the answer and the request."
    history = read(client, f"{LIST}{entry.pk}/history/")
    assert "Revealed the answer and the request." in history.text


def test_a_reveal_needs_the_forms_token(sandbox: Sandbox, admin_user: User) -> None:
    entry = ask(sandbox)
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)
    assert client.post(reveal_of(entry)).status_code == 403
    assert client.post(EXPORT, {"_selected_action": entry.pk}).status_code == 403
    assert LogEntry.objects.count() == 0


def test_what_is_gone_is_said_so_and_asking_is_written_down(
    sandbox: Sandbox, forget_memory: Callable[[], None], admin_client: Client
) -> None:
    entry = ask(sandbox)
    forget_memory()
    process.current().tiers.below[0].delete(storage_key(process.current().namespace, bytes.fromhex(entry.key)))
    page = Page(post(admin_client, reveal_of(entry)).content.decode())
    assert "There is nothing to show" in page.text
    assert LogEntry.objects.get().change_message == "Asked to reveal; nothing was there."


def test_a_request_that_was_not_kept_is_said_so(sandbox: Sandbox, admin_client: Client) -> None:
    with llmcache_settings(KEEP_REQUESTS="no"):
        page = Page(post(admin_client, reveal_of(ask(sandbox))).content.decode())
    assert "Größe falsch" in page.text
    assert "KEEP_REQUESTS" in page.text


def test_a_very_long_answer_is_cut(sandbox: Sandbox, admin_client: Client) -> None:
    sandbox.answers[TEXT] = {**ANSWER, "subject": "long " * 30_000}
    page = Page(post(admin_client, reveal_of(ask(sandbox))).content.decode())
    assert "more characters are left out" in page.text
    assert len(page.text) < contents.MOST_SHOWN + 10_000


def test_json_is_indented_and_what_is_none_is_shown_as_it_is() -> None:
    assert contents.readable('{"b":1,"a":["é"]}').text == '{\n  "b": 1,\n  "a": [\n    "é"\n  ]\n}'
    for text in ("no json", "[" * 100_000, "1" * 5_000, ""):
        assert contents.readable(text).text == text[: contents.MOST_SHOWN]
    # Half of a pair of surrogates, which no page can be written with.
    assert contents.readable('"\\ud83d"').text == '"\\ud83d"'


# Export


def exported(client: Client, *entries: CacheEntry, query: str = "", **data: Any) -> list[dict[str, Any]]:
    """Return the lines of an export."""
    response = client.post(f"{EXPORT}{query}", {"_selected_action": [entry.pk for entry in entries], **data})
    assert response.status_code == 200
    return [json.loads(line) for line in response.getvalue().splitlines()]


def test_the_action_asks_first_and_its_form_exports(provider: Sandbox) -> None:
    client = somebody("view_cacheentry", "export_cacheentry")
    entry, other = ask(provider, tags=["mail"], times=2), ask(provider, "another text", ttl=None)
    page = Page(post(client, LIST, action="export", _selected_action=[entry.pk, other.pk]).content.decode())
    assert "Entries that are exported: 2." in page.text
    assert "With answers" not in page.text
    form = next(form for form in page.forms if form["action"] == EXPORT)
    assert LogEntry.objects.count() == 0
    response = client.post(EXPORT, {**form, "_selected_action": [entry.pk, other.pk]})
    assert response["Content-Type"] == "application/x-ndjson"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert "no-store" in response["Cache-Control"]
    disposition = response["Content-Disposition"]
    assert disposition.startswith('attachment; filename="cache-entries-20')
    assert disposition.endswith('.jsonl"')
    first, second = (json.loads(line) for line in response.getvalue().splitlines())
    assert (first["key"], second["key"]) == (entry.key, other.key)
    assert (first["tags"], first["hits"], first["state"]) == (["mail"], 1, "fresh")
    assert Decimal(first["cost_usd"]) == Decimal(first["saved_usd"]) == entry.cost_usd
    assert (second["expires_at"], second["last_hit_at"]) == (None, None)
    assert first["written_at"] == entry.written_at.isoformat()
    assert "answer" not in first
    (log,) = LogEntry.objects.all()
    assert log.change_message == "Exported as JSON lines: 2 entries."


def test_every_column_of_an_entry_is_in_its_line(sandbox: Sandbox, admin_client: Client) -> None:
    (line,) = exported(admin_client, ask(sandbox))
    names = {field.name.replace("_pico_usd", "_usd") for field in CacheEntry._meta.concrete_fields} - {"id"}
    assert set(line) == names | {"state"}


def test_all_that_the_list_shows_can_be_exported(
    sandbox: Sandbox, admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "ROWS_AT_ONCE", 3)
    entry = ask(sandbox, tenant="acme")
    copies(entry, 10)
    CacheEntry.objects.filter(pk__gt=entry.pk + 6).update(tenant="globex")
    asked = post(admin_client, f"{LIST}?tenant=acme", action="export", select_across="1", _selected_action=entry.pk)
    page = Page(asked.content.decode())
    assert "All entries that the list shows are exported: 7." in page.text
    assert f"{EXPORT}?tenant=acme" in {form["action"] for form in page.forms}
    lines = exported(admin_client, query="?tenant=acme", select_across="1")
    assert [line["tenant"] for line in lines] == ["acme"] * 7
    assert len({line["key"] for line in lines}) == 7
    assert len(exported(admin_client, select_across="1")) == 11


def test_cells_that_a_spreadsheet_would_run_stay_as_they_are(sandbox: Sandbox, admin_client: Client) -> None:
    for start in "=+-@\t\r":
        text = f"{start}cmd|' /C calc'!A0\u2028\n\x85,\";"
        entry = change(ask(sandbox), tenant=text, kind=text, tags=[text])
        response = admin_client.post(EXPORT, {"_selected_action": entry.pk})
        (raw,) = response.getvalue().decode().splitlines()
        line = json.loads(raw)
        assert (line["tenant"], line["kind"], line["tags"]) == (text, text, [text])


def test_answers_are_exported_by_who_may_see_them_and_each_is_written_down(sandbox: Sandbox) -> None:
    one, other = ask(sandbox), ask(sandbox, "another text")
    exporter = somebody("view_cacheentry", "export_cacheentry")
    assert exporter.post(EXPORT, {"_selected_action": one.pk, "with_contents": "1"}).status_code == 403
    assert LogEntry.objects.count() == 0
    client = somebody("view_cacheentry", "export_cacheentry", "reveal_cacheentry")
    page = Page(post(client, LIST, action="export", _selected_action=one.pk).content.decode())
    assert "With answers and requests" in page.text
    lines = exported(client, one, other, with_contents="1")
    assert [json.loads(line["answer"]) for line in lines] == [ANSWER, ANSWER]
    assert lines[0]["request"]["messages"][-1]["content"] == TEXT
    assert [line["answer_state"] for line in lines] == ["fresh", "fresh"]
    (log,) = LogEntry.objects.all()
    assert "With answers and requests: 2." in log.change_message
    assert one.key[:12] in log.change_message
    assert other.key[:12] in log.change_message
    assert "Größe" not in log.change_message


def test_the_log_names_a_bounded_number_of_keys(
    sandbox: Sandbox, admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "MOST_KEYS", 1)
    entries = [ask(sandbox, f"text {number}") for number in range(3)]
    exported(admin_client, *entries, with_contents="1")
    message = LogEntry.objects.get().change_message
    assert [entry.key[:12] in message for entry in entries] == [True, False, False]
    assert message.endswith("and 2 more.")


def test_tiers_that_do_not_answer_are_not_asked_for_every_entry(
    with_hanging_tier: CacheEntry, admin_client: Client
) -> None:
    copies(with_hanging_tier, 6)
    lines = exported(admin_client, select_across="1", with_contents="1")
    assert sorted(line["answer_state"] for line in lines) == ["fresh"] + ["not_read"] * 6


def test_what_is_deleted_meanwhile_is_left_out_and_counted_on(sandbox: Sandbox, admin_client: Client) -> None:
    one, other = ask(sandbox), ask(sandbox, "another text")
    selected = {"_selected_action": [one.pk, other.pk]}
    EntryTag.objects.all().delete()
    CacheEntry.objects.filter(pk=one.pk).delete()
    lines = admin_client.post(EXPORT, selected).getvalue().splitlines()
    assert [json.loads(line)["key"] for line in lines] == [other.key]
    message = LogEntry.objects.get().change_message
    assert message == "Exported as JSON lines: 1 entries. Selected and gone meanwhile: 1."


def test_an_export_that_is_broken_off_is_written_down_as_such(
    sandbox: Sandbox, admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "BYTES_AT_ONCE", 1)
    copies(ask(sandbox), 10)
    response = admin_client.post(EXPORT, {"select_across": "1"})
    assert LogEntry.objects.get().change_message == "Began to export."
    stream = iter(response.streaming_content)
    assert next(stream).count(b"\n") == next(stream).count(b"\n") == 1
    response.close()
    assert LogEntry.objects.get().change_message == "Exported as JSON lines: 2 entries. Broken off."


def test_under_asgi_it_is_a_stream_too(sandbox: Sandbox, admin_user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "BYTES_AT_ONCE", 1)
    copies(ask(sandbox), 4)

    async def export() -> list[bytes]:
        client = AsyncClient()
        await client.aforce_login(admin_user)
        response: Any = await client.post(EXPORT, {"select_across": "1"})
        assert (response.status_code, response.is_async) == (200, True)
        return [part async for part in response.streaming_content if part]

    parts = async_to_sync(export)()
    assert [part.count(b"\n") for part in parts] == [1] * 5
    assert LogEntry.objects.get().change_message == "Exported as JSON lines: 5 entries."
