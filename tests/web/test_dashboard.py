"""The dashboard in both its homes: true numbers, whoever may see them, whatever the address says."""

import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any, ClassVar

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.test import Client, override_settings
from django.urls import include, path, reverse
from django.utils import translation
from pydantic import BaseModel
from pytest_django import DjangoAssertNumQueries

import llmcache
from llmcache.admin import register
from llmcache.dashboard import figures as shown
from llmcache.dashboard.page import context
from llmcache.engine import process
from llmcache.models import CacheEntry, TenantDay, UsageBucket
from llmcache.money.overview import overview
from llmcache.money.periods import Period
from llmcache.testing.sandbox import Sandbox
from tests.cache_servers import RedisServer
from tests.conftest import MovedClock, llmcache_settings
from tests.contract.aliases import in_caches
from tests.web.page import Page

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 3, 20, 12, tzinfo=UTC)
HOMES = {"admin": "/admin/llmcache/dashboard/", "outside": "/llm/"}
DOLLAR = 10**12
MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"


@pytest.fixture(autouse=True)
def noon(clock: MovedClock) -> None:
    """Let it be the twentieth of March."""
    clock.ahead = NOON.timestamp() - time.time()


@pytest.fixture(params=HOMES)
def home(request: pytest.FixtureRequest) -> str:
    return HOMES[request.param]


@pytest.fixture
def viewer(client: Client) -> Client:
    """Who may see the dashboard and nothing else."""
    user = User.objects.create_user("viewer", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_dashboard"))
    client.force_login(user)
    return client


def bucket(days_ago: int, outcome: str, count: int, **changes: Any) -> UsageBucket:
    """Keep an hour of usage, and the day of its tenant."""
    hour = NOON - timedelta(days=days_ago)
    tenant = changes.pop("tenant", "acme")
    sums = {name: changes.pop(name) for name in [*changes] if name not in ("kind", "model", "tier", "simulated")}
    place = {"kind": "Ticket", "model": "openai/gpt-5-mini", "tier": "", **changes}
    TenantDay.objects.get_or_create(
        day=hour.date(),
        tenant=tenant,
        outcome=outcome,
        simulated=place.get("simulated", False),
        defaults={"count": count, **sums},
    )
    return UsageBucket.objects.create(hour=hour, outcome=outcome, count=count, **place, **sums)


def some_weeks() -> None:
    """Keep what two months of calls came to."""
    saved = {"avoided_pico_usd": 30 * DOLLAR // 100, "saved_ms": 60_000}
    spent = {"attempts": 20, "spent_pico_usd": 20 * DOLLAR // 100}
    of_kind = {"kind": "Ticket", "model": "openai/gpt-5-mini"}
    hours: list[UsageBucket] = []
    days: list[TenantDay] = []
    for ago in range(62):
        at = NOON - timedelta(days=ago)
        hours.append(UsageBucket(hour=at, outcome="hit", count=30, tier="memory", **of_kind, **saved))
        hours.append(UsageBucket(hour=at, outcome="miss", count=20, **of_kind, **spent))
        days.append(TenantDay(day=at.date(), tenant="acme", outcome="hit", count=30, **saved))
        days.append(TenantDay(day=at.date(), tenant="acme", outcome="miss", count=20, **spent))
    UsageBucket.objects.bulk_create(hours)
    TenantDay.objects.bulk_create(days)
    bucket(3, "error", 2)
    bucket(5, "collapsed", 4, avoided_pico_usd=4 * DOLLAR // 100, kind="Invoice", model="openai/gpt-5", tenant="globex")
    bucket(5, "miss", 1, attempts=3, unpriced=1, in_doubt=1, in_doubt_pico_usd=DOLLAR // 10, kind="Invoice", tenant="")


def entry(number: int, **changes: Any) -> CacheEntry:
    """Keep an entry that has saved something."""
    facts = {
        "namespace": "project",
        "key": f"{number:064x}",
        "kind": "Ticket",
        "response_type": "app.Ticket",
        "schema": "0" * 64,
        "model": "openai/gpt-5-mini",
        "tenant": "acme",
        "written_at": NOON,
        "size_bytes": 100,
        "latency_ms": 2_000,
        "attempts": 1,
        "source": "provider",
        "hits": 5,
        "cost_pico_usd": DOLLAR // 500,
        "saved_pico_usd": DOLLAR // 100 * (number + 1),
    }
    return CacheEntry.objects.create(**{**facts, **changes})


def seen(client: Client, address: str) -> Page:
    response = client.get(address)
    assert response.status_code == 200
    return Page(response.content.decode())


def told(client: Client, home: str, address: str = "") -> dict[str, Any]:
    response = client.get(f"{home}dashboard.json{address}")
    assert response.status_code == 200
    return json.loads(response.content)


# -- numbers


def test_the_cards_are_what_the_rows_come_to(viewer: Client, home: str) -> None:
    some_weeks()
    facts = seen(viewer, home).facts
    assert facts["Saved, net"] == "$9.04 +$0.04 from $9.00 gross $9.04"
    assert (
        facts["Hit rate"]
        .replace("\xa0", " ")
        .startswith("60.1 % +0.1 points from 60.0 % 904 of 1,505 calls answered outside it: 0 bypasses, 2 errors")
    )
    assert facts["Spent"] == "$6.00 ±0 from $6.00 for 603 provider calls"
    assert facts["Calls avoided"] == "904 +4 from 900 900 hits 0 stale, 4 collapsed"
    assert facts["Time saved"].replace("\xa0", " ") == "30 min ±0 from 30 min of waiting for answers that were there"
    known = facts["Prices known"].replace("\xa0", " ")
    assert known == "99.7 % 1 call without a price 1 call in doubt, at most $0.10"
    assert facts[f"Month to date 1 {DASH} 20 Mar 2026"] == "$6.04 gross $6.04, spent $4.00"
    assert facts[f"Last 30 full days 18 Feb {DASH} 19 Mar 2026"] == "$9.04 gross $9.04, spent $6.00"
    projected = facts["Projected month March 2026"]
    assert projected.startswith("$9.36 likely $9.3")
    assert projected.endswith(f"for the 11 days to come the mean of 28 (20 Feb {DASH} 19 Mar 2026)")


def test_page_and_json_are_of_the_same_numbers(viewer: Client, home: str) -> None:
    some_weeks()
    page, figures = seen(viewer, home), told(viewer, home)
    totals, months = figures["totals"], figures["months"]
    assert [each["value"] for each in page.all("data")] == [
        totals["saved_net_usd"],
        repr(totals["hit_rate"]),
        totals["spent_usd"],
        str(totals["calls_avoided"]),
        repr(totals["seconds_saved"]),
        repr(totals["coverage"]),
        months["to_date"]["saved_net_usd"],
        months["last_30"]["saved_net_usd"],
        months["projected"]["net_usd"],
    ]
    days = {row[0]: row[1:] for row in page.rows if row[0].endswith(" 2026") and len(row) == 7}
    assert len(days) == 30
    for day in figures["days"]:
        named = (
            f"{datetime.fromisoformat(day['day']):%a} {int(day['day'][8:])} {datetime.fromisoformat(day['day']):%b %Y}"
        )
        outcomes = ("hits", "stale", "collapsed", "misses", "bypasses", "errors")
        assert days[named] == [str(day["totals"][name]) for name in outcomes]
    for part in (*figures["by_kind"], *figures["by_model"], *figures["by_tenant"]):
        name, asked = part["name"] or "(no tenant)", f"{part['totals']['asked']:,}"
        saved = shown.money(Decimal(part["totals"]["saved_net_usd"]))
        assert [name, saved, asked] in [[row[0], row[1], row[4]] for row in page.rows if len(row) == 8]


def test_what_calls_cost_and_hits_saved_is_on_the_page(viewer: Client, home: str, sandbox: Sandbox) -> None:
    class Celery(BaseModel):
        stalks: int

    sandbox.answers["two stalks"] = {"stalks": 2}
    with llmcache_settings(PRICES={"openai/gpt-5-mini": {"input": "100", "output": "1000"}}):
        first = llmcache.extract_with_info("two stalks", Celery)
        assert [llmcache.extract("two stalks", Celery).stalks for _ in range(3)] == [2, 2, 2]
        cost = first.cost_incurred_usd
        assert cost
        page, totals = seen(viewer, home), told(viewer, home)["totals"]
    assert page.facts["Hit rate"].replace("\xa0", " ").startswith("75.0 % 3 of 4 calls answered")
    assert (Decimal(totals["spent_usd"]), Decimal(totals["saved_net_usd"])) == (cost, 3 * cost)
    assert page.all("data")[0]["value"] == f"{3 * cost:f}"
    assert "Celery" in page.column()


def test_without_a_row_it_says_how_to_begin(viewer: Client, home: str) -> None:
    page = seen(viewer, home)
    assert "Nothing has been recorded yet" in page.text
    assert "llmcache.extract(" in page.text
    assert "llmc-chart" not in str(page.elements)
    assert page.count("select") == 0
    figures = told(viewer, home)
    assert (figures["totals"]["asked"], figures["totals"]["hit_rate"], figures["first_day"]) == (0, None, None)


def test_one_row(viewer: Client, home: str) -> None:
    bucket(0, "miss", 1, attempts=1, spent_pico_usd=2_113 * 10**6)
    page = seen(viewer, home)
    assert page.facts["Hit rate"].replace("\xa0", " ").startswith("0 % 0 of 1 call answered")
    assert page.facts["Spent"] == "$0.0021 for 1 provider call"
    assert page.facts["Projected month March 2026"] == f"{DASH} From 3 complete days on; so far there are 0."
    assert [each for each in page.elements if each[1].get("class") == "llmc-misses" and each[0] == "rect"][1:]


def test_only_calls_outside_the_hit_rate(viewer: Client, home: str) -> None:
    bucket(0, "error", 3)
    page = seen(viewer, home)
    assert page.facts["Hit rate"].startswith(f"{DASH} 0 of 0 calls answered outside it: 0 bypasses, 3 errors")
    assert page.facts["Prices known"] == f"{DASH} no provider calls"


def test_a_loss_is_negative(viewer: Client, home: str) -> None:
    bucket(1, "hit", 1, avoided_pico_usd=DOLLAR)
    bucket(1, "refresh", 0, attempts=3, spent_pico_usd=3 * DOLLAR)
    page = seen(viewer, home)
    assert page.facts["Saved, net"] == f"{MINUS}$2.00 gross $1.00 less $3.00 for refreshes and warming"


def test_a_price_that_is_not_known_warns(viewer: Client, home: str) -> None:
    bucket(1, "miss", 2, attempts=2, spent_pico_usd=DOLLAR)
    assert "llmc-card-warns" not in viewer.get(home).content.decode()
    bucket(1, "miss", 1, attempts=1, in_doubt=1, in_doubt_unbounded=1, kind="Invoice")
    page = seen(viewer, home)
    assert "llmc-card-warns" in str(page.elements)
    assert "1 call in doubt, without a bound" in page.facts["Prices known"]


def test_the_banner_of_a_simulated_clock(viewer: Client, home: str) -> None:
    bucket(1, "hit", 2)
    assert "simulated clock" not in seen(viewer, home).text
    bucket(1, "hit", 1, simulated=True)
    page = seen(viewer, home)
    assert "These figures were recorded on a simulated clock." in page.text
    assert page.facts["Calls avoided"].startswith("3 3 hits")


def test_figures_that_may_lack_something_say_so() -> None:
    period, _ = Period.parse({})
    whole = overview(period)
    assert (whole.flushed, whole.lines_lost) == (True, 0)
    assert context(whole, [], {}, lambda pk: None)["warnings"] == []
    lacking = replace(whole, flushed=False, lines_lost=1_200)
    late, lost = context(lacking, [], {}, lambda pk: None)["warnings"]
    assert "may be missing" in late
    assert lost.startswith("1,200 lines of the journal were lost")


# -- tables


def test_entries_link_to_their_page_for_who_may_see_them(viewer: Client, home: str) -> None:
    one = entry(1)
    bucket(1, "hit", 5)
    assert f"{one.key[:12]}" in seen(viewer, home).text
    link = reverse("admin:llmcache_cacheentry_change", args=[one.pk])
    assert link not in [each.get("href") for each in seen(viewer, home).all("a")]
    User.objects.get().user_permissions.add(Permission.objects.get(codename="view_cacheentry"))
    assert link in [each.get("href") for each in seen(viewer, home).all("a")]


def test_tenants_are_not_told_of_one_kind(viewer: Client, home: str) -> None:
    some_weeks()
    assert ["globex", "4"] in [[row[0], row[4]] for row in seen(viewer, home).rows if len(row) == 8]
    page = seen(viewer, f"{home}?kind=Invoice")
    assert "globex" not in page.text
    assert "kept for all kinds together" in page.text


def test_tenants_are_told_by_days_of_utc(viewer: Client, home: str, clock: MovedClock) -> None:
    some_weeks()
    assert "days are those of UTC" not in seen(viewer, home).text
    with llmcache_settings(TIME_ZONE="Europe/Berlin"), clock.kept():
        page = seen(viewer, home)
    assert "days are those of UTC" in page.text
    assert "Europe/Berlin" in page.text


def test_a_redis_that_is_down_is_said_of_its_tier(
    viewer: Client, home: str, sandbox: Sandbox, redis_server: RedisServer
) -> None:
    class Celery(BaseModel):
        stalks: int

    sandbox.answers["two stalks"] = {"stalks": 2}
    shared = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": redis_server.url}
    with in_caches(shared=shared), llmcache_settings(TIERS=["shared"]):
        assert ["shared", "works", "django_redis.cache.RedisCache", "all machines"] in seen(viewer, home).rows
        redis_server.stop()
        try:
            llmcache.extract("two stalks", Celery)
            (row,) = [row for row in seen(viewer, home).rows if row[0] == "shared"]
        finally:
            redis_server.start()
        process.install(None)
    # Nothing was tried after the first fault.
    assert row[1] == "cannot be reached, left alone until it answers; 1 fault, ConnectionError"


# -- the address


@pytest.mark.parametrize(
    ("address", "days", "chosen"),
    [
        ("", f"19 Feb {DASH} 20 Mar 2026", "30 days"),
        ("?period=7d", f"14 {DASH} 20 Mar 2026", "7 days"),
        ("?period=90d", f"21 Dec 2025 {DASH} 20 Mar 2026", "90 days"),
        ("?period=month", f"1 {DASH} 20 Mar 2026", "This month"),
        ("?from=2026-03-02&to=2026-03-05", f"2 {DASH} 5 Mar 2026", None),
    ],
)
def test_the_period_is_in_the_address(viewer: Client, home: str, address: str, days: str, chosen: str | None) -> None:
    some_weeks()
    page = seen(viewer, home + address)
    assert f"{days} all kinds as of 20 Mar 2026, 12:00 UTC" in page.text
    assert [each["href"] for each in page.all("a") if "aria-current" in each and "period" in (each["href"] or "")] == (
        [address or "?period=30d"] if chosen else []
    )


def test_filters_are_kept_in_links_and_forms(viewer: Client, home: str) -> None:
    some_weeks()
    page = seen(viewer, f"{home}?period=7d&kind=Invoice&calls=10&rate=50&cost=1")
    assert "kind Invoice" in page.text
    presets = [each["href"] for each in page.all("a") if (each.get("href") or "").startswith("?period")]
    assert set(presets) >= {"?period=7d&kind=Invoice", "?period=month&kind=Invoice"}
    dates, kinds, calculator = [form for form in page.forms if "action" in form][-3:]
    assert (dates["from"], dates["to"], dates["kind"]) == ("2026-03-14", "2026-03-20", "Invoice")
    assert kinds["period"] == "7d"
    assert (calculator["period"], calculator["kind"], calculator["rate"]) == ("7d", "Invoice", "50")
    assert "dashboard.json?period=7d&kind=Invoice" in [each.get("href") for each in page.all("a")]
    options = [each for each in page.all("option") if "selected" in each]
    assert [each["value"] for each in options] == ["Invoice"]


def test_one_kind_has_its_own_numbers(viewer: Client, home: str) -> None:
    some_weeks()
    page = seen(viewer, f"{home}?kind=Invoice")
    assert page.facts["Calls avoided"].startswith("4 ")
    assert told(viewer, home, "?kind=Invoice")["totals"]["asked"] == 5


ODD_ADDRESSES = {
    "?from=2026-03-05&to=2026-03-02": "The first day was after the last",
    "?from=0000-01-01&to=2026-03-02": "could not be read",
    "?from=2026-03-02&to=10000-01-01": "could not be read",
    "?from=9999-12-31&to=9999-12-31": "could not be read",
    "?from=%00&to=%F0%9F%98%80": "could not be read",
    "?from=2026-02-30": "could not be read",
    "?from=2001-01-01&to=2026-03-20": "at most 400 days",
    "?from=2026-03-25&to=2026-03-30": "has not begun",
    "?period=fortnight": "not known",
    "?kind=nobody": "no calls of this kind",
    "?kind=%00": "no calls of this kind",
    f"?kind={'x' * 10_000}": "no calls of this kind",
    "?kind=%F0%9F%98%80%22%3E%3Cscript%3E": "no calls of this kind",
    "?period[]=7d&from[]=x": "",
    "?period=7d&period=30d": "",
    "?page=-1&p=%27": "",
}


def test_an_odd_address_opens_the_page_and_says_so(viewer: Client, home: str) -> None:
    bucket(5, "hit", 2)
    for address, said in ODD_ADDRESSES.items():
        assert said in seen(viewer, home + address).text
        messages = told(viewer, home, address)["messages"]
        assert bool(messages) == bool(said), address


# -- the calculator


def test_the_calculator_estimates_and_measures_nothing(viewer: Client, home: str) -> None:
    some_weeks()
    before = [each["value"] for each in seen(viewer, home).all("data")]
    page = seen(viewer, f"{home}?calls=1000&rate=70&cost=0.002")
    assert (page.facts["saved in 30 days"], page.facts["saved a day"]) == ("$42.00", "$1.40")
    assert (page.facts["a day without the cache"], page.facts["a day with it"]) == ("$2.00", "$0.60")
    assert [each["value"] for each in page.all("data")] == before


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("?calls=x&rate=70&cost=1", "Enter a whole number."),
        ("?calls=10&rate=170&cost=1", "less than or equal to 100"),
        ("?calls=-1&rate=70&cost=1", "greater than or equal to 0"),
        ("?calls=10&rate=70&cost=NaN", "Enter a number."),
        ("?calls=10&rate=70", "This field is required."),
        ("?calls=10&rate=70&cost=1e-999999999", "no more than 18 digits"),
        (f"?calls={'9' * 5_000}&rate=70&cost=1", "Enter a whole number."),
        ("?calls=10&rate=70&cost=%00", "Enter a number."),
    ],
)
def test_the_calculator_says_what_is_wrong_by_the_field(viewer: Client, home: str, address: str, said: str) -> None:
    page = seen(viewer, home + address)
    assert said in page.text
    assert "saved a day" not in page.facts
    wrong = [each for each in page.all("input") if each.get("aria-invalid")]
    assert len(wrong) == 1
    assert wrong[0]["aria-describedby"] in [each.get("id") for each in page.all("span")]


# -- who may


@pytest.mark.parametrize("page", ["", "dashboard.json"])
def test_who_may_see_it(client: Client, home: str, page: str) -> None:
    address = home + page
    response = client.get(address)
    assert (response.status_code, response["Location"].split("?")[0]) == (302, "/admin/login/")
    user = User.objects.create_user("somebody", is_staff=True)
    client.force_login(user)
    assert client.get(address).status_code == 403
    user.user_permissions.add(Permission.objects.get(codename="view_dashboard"))
    assert client.get(address).status_code == 200
    User.objects.update(is_staff=False)
    assert client.get(address).status_code == (302 if home == HOMES["admin"] else 200)
    User.objects.update(is_active=False)
    assert client.get(address).status_code == 302


@pytest.mark.parametrize("page", ["", "dashboard.json"])
def test_no_cache_keeps_it(viewer: Client, home: str, page: str) -> None:
    response = viewer.get(home + page)
    assert {"private", "no-store"} <= set(response["Cache-Control"].split(", "))
    assert viewer.head(home + page).status_code == 200
    assert viewer.post(home + page).status_code == 405


def test_it_stands_in_the_admins_list_for_who_may_see_it(client: Client) -> None:
    user = User.objects.create_user("staff", is_staff=True)
    client.force_login(user)
    assert HOMES["admin"] not in client.get("/admin/").content.decode()
    user.user_permissions.add(Permission.objects.get(codename="view_dashboard"))
    for page in ("/admin/", "/admin/llmcache/"):
        links = [each.get("href") for each in seen(client, page).all("a")]
        assert HOMES["admin"] in links
    assert client.get(f"{HOMES['admin']}add/").status_code == 404


def test_one_permission_is_for_it(viewer: Client) -> None:
    assert Permission.objects.filter(codename__endswith="_dashboard").count() == 1


# -- other projects


own_site = admin.AdminSite("own")
register(own_site)
urlpatterns = [path("ops/", own_site.urls), path("figures/", include("llmcache.urls"))]


@pytest.mark.urls(__name__)
def test_an_admin_site_of_ones_own(viewer: Client) -> None:
    one = entry(1)
    User.objects.get().user_permissions.add(Permission.objects.get(codename="view_cacheentry"))
    some_weeks()
    page = seen(viewer, "/ops/llmcache/dashboard/")
    assert page.facts["Calls avoided"].startswith("904 ")
    assert f"/ops/llmcache/cacheentry/{one.pk}/change/" in [each.get("href") for each in page.all("a")]
    assert not [each for each in page.all("a") if (each.get("href") or "").startswith("/admin")]
    assert told(viewer, "/ops/llmcache/dashboard/")["totals"]["asked"] == 1_505
    assert seen(viewer, "/figures/").facts["Calls avoided"].startswith("904 ")


class WithoutAdmin:
    """The addresses of a project that has no admin."""

    urlpatterns: ClassVar = [path("", include("llmcache.urls"))]


@pytest.mark.urls.with_args(WithoutAdmin)
@override_settings(LOGIN_URL="/in/")
def test_without_an_admin(client: Client, viewer: Client) -> None:
    entry(1)
    bucket(1, "hit", 5)
    User.objects.update(is_superuser=True)
    page = seen(viewer, "/")
    assert "000000000000" in page.text
    assert not [each for each in page.all("a") if "cacheentry" in (each.get("href") or "")]
    client.logout()
    assert client.get("/dashboard.json?kind=Ticket")["Location"] == "/in/?next=/dashboard.json%3Fkind%3DTicket"


@override_settings(USE_THOUSAND_SEPARATOR=True)
def test_in_german_numbers_stay_what_they_are(viewer: Client, home: str) -> None:
    some_weeks()
    with translation.override("de"):
        german = viewer.get(f"{home}?period=90d", headers={"accept-language": "de"})
    page = Page(german.content.decode())
    places = [value for _, named in page.elements for name, value in named.items() if name in ("x", "y", "width")]
    assert places
    assert not [place for place in places if "," in (place or "")]
    assert page.all("data")[0]["value"] == told(viewer, home, "?period=90d")["totals"]["saved_net_usd"]


def test_names_are_text_whatever_is_in_them(viewer: Client, home: str) -> None:
    name = "\"'><img src=x onerror=alert(1)><script>alert(1)</script>{{ 7|add:7 }}"
    bucket(1, "hit", 2, kind=name, model=name, tenant=name, tier=name)
    entry(1, kind=name, model=name, tenant=name, key="<b>" * 20)
    for address in ("", f"?kind={name}"):
        page = seen(viewer, home + address)
        assert name in [row[0] for row in page.rows]
        assert not [each for each in page.all("img") if each.get("src") == "x"]
        assert not [tag for tag, named in page.elements if tag == "script" and not named.get("src")]
        assert page.count("b") == 0
        assert not [named for _, named in page.elements if "style" in named or "onerror" in named]
    assert viewer.get(f"{home}dashboard.json")["Content-Type"] == "application/json"


# -- how it is made


@pytest.mark.parametrize("rows", [0, 3, 300])
def test_the_number_of_queries_is_the_same_whatever_there_is(
    viewer: Client, home: str, rows: int, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(rows):
        bucket(number % 60, "hit", 2, kind=f"kind {number % 50}", model=f"model {number}", tenant=f"tenant {number}")
        entry(number)
    viewer.get(home)
    # Session, user, two for permissions; and six of the overview.
    with django_assert_num_queries(10):
        viewer.get(home)
    with django_assert_num_queries(10):
        viewer.get(f"{home}dashboard.json")


def test_each_chart_is_named_and_has_its_table(viewer: Client, home: str) -> None:
    some_weeks()
    page = seen(viewer, home)
    ids = [named["id"] for _, named in page.elements if named.get("id")]
    assert len(ids) == len(set(ids))
    charts = [named for tag, named in page.elements if tag == "svg" and named.get("role") == "img"]
    assert len(charts) == 4
    for chart in charts:
        assert set((chart["aria-labelledby"] or "").split()) <= set(ids)
    assert page.count("caption") == page.count("table")
    levels = [level for level, _ in page.headings]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert not [named for _, named in page.elements if "style" in named]
    labelled = {each["id"] for each in [*page.all("input"), *page.all("select")] if each.get("id") and each.get("name")}
    assert labelled <= page.labelled | {"searchbar"}
