"""The demo project's pages: what they show, what they cost, and that a strict content policy lets them be."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from urllib.parse import urljoin

import pytest
from django.contrib.staticfiles import finders
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from project.demo import reports
from project.demo.latencies import measured
from project.demo.models import DemoRun
from tests.web.page import Page

pytestmark = pytest.mark.django_db
STARTED = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)


def keep_run(number: int = 0, **changes: object) -> DemoRun:
    facts = {
        "started_at": STARTED + timedelta(hours=number),
        "seconds": 40.25,
        "threads": 8,
        "mode": DemoRun.Mode.SHARED,
        "provider": DemoRun.Provider.SANDBOX,
        "requests": 20_000,
        "outcomes": {"miss": 12_182, "memory": 7_800, "collapsed": 18},
        "provider_calls": 12_182,
        "spent_pico_usd": 37_999_751_778_698,
        "saved_pico_usd": 24_204_124_481_228,
        "saved_unknown": 0,
        "calls_in_doubt": 0,
        "in_doubt_pico_usd": 0,
        "calls_unpriced": 0,
        "unlike_gold": 0,
        "latencies": {
            "memory": measured([9_000, 12_340, 80_000]),
            "hit": measured([9_000, 12_340, 80_000]),
            "miss": measured([2_500_000]),
        },
        "complete": True,
    }
    return DemoRun.objects.create(**{**facts, **changes})


def second_run(number: int = 1) -> DemoRun:
    return keep_run(
        number,
        outcomes={"disk": 12_182, "memory": 7_818},
        provider_calls=0,
        spent_pico_usd=0,
        saved_pico_usd=62_203_876_259_926,
        latencies={"disk": measured([60_000]), "memory": measured([9_000]), "hit": measured([9_000, 60_000])},
    )


@pytest.fixture
def home(client: Client) -> Callable[[], Page]:
    def get() -> Page:
        response = client.get("/")
        assert response.status_code == 200
        return Page(response.content.decode())

    return get


def test_without_a_run_it_says_how_to_make_one(home: Callable[[], Page]) -> None:
    page = home()
    assert page.count("table") == 0
    assert "make demo" in page.text
    assert "Nothing has run yet" in page.text


def test_a_run_is_shown_in_the_numbers_of_the_commands_table(home: Callable[[], Page]) -> None:
    run = keep_run()
    headings, *rows = home().rows
    assert headings == ["started (UTC)", "1 Mar, 09:30 sandbox, tenants shared", "all 1 run"]
    assert [(label, [shown]) for label, shown, _ in rows] == [
        (label, list(cells)) for label, cells in reports.rows([reports.figures([run])])
    ]
    assert all(shown == total for _, shown, total in rows)
    numbers = {label: shown for label, shown, _ in rows}
    assert numbers["hit rate"] == "39.09 %"
    assert numbers["provider calls"] == "12,182"
    assert (numbers["spent"], numbers["saved"]) == ("$38.00", "$24.20")
    assert (numbers["calls in doubt"], numbers["calls unpriced"]) == ("0", "0")
    assert numbers["hit latency, median"] == "12.3 µs"
    assert numbers["hit latency, p99"] == "80.0 µs"
    assert numbers["miss latency, median"] == "2.50 ms"
    assert numbers["seconds"] in ("40.2", "40.3")


def test_the_dashboard_is_one_click_away(home: Callable[[], Page]) -> None:
    links = [attributes["href"] for attributes in home().all("a")]
    assert links.count(reverse("llmcache:dashboard")) == 2
    assert reverse("admin:index") in links


def test_a_simulated_clock_is_said(home: Callable[[], Page]) -> None:
    keep_run()
    assert "simulated" not in home().text
    keep_run(1, simulated_from=STARTED - timedelta(days=31), simulated_until=STARTED)
    assert "Recorded on a simulated clock, as 29 January, 09:30 to 1 March, 09:30 UTC." in home().text


def test_all_runs_are_added_up(home: Callable[[], Page]) -> None:
    keep_run()
    second_run()
    headings, *rows = home().rows
    assert [heading[:12] for heading in headings[1:]] == ["1 Mar, 10:30", "1 Mar, 09:30", "all 2 runs"]
    numbers = {label: total for label, _, _, total in rows}
    assert (numbers["requests"], numbers["provider calls"]) == ("40,000", "12,182")
    assert (numbers["spent"], numbers["saved"]) == ("$38.00", "$86.41")
    assert (numbers["hits: memory"], numbers["hits: disk"]) == ("15,618", "12,182")
    assert numbers["hit rate"] == "69.55 %"
    assert numbers["hit latency, median"].startswith("≈ ")
    # Only one run had any: nothing had to be put together.
    assert numbers["miss latency, median"] == "2.50 ms"


NO_MONEY = dict.fromkeys(
    ("spent_pico_usd", "saved_pico_usd", "saved_unknown", "calls_in_doubt", "in_doubt_pico_usd", "calls_unpriced")
)


def test_money_that_nobody_noted_is_no_zero(home: Callable[[], Page]) -> None:
    keep_run(**NO_MONEY)
    money = ("spent", "saved", "calls in doubt", "calls unpriced")
    page = home()
    numbers = {label: (shown, total) for label, shown, total in page.rows[1:]}
    assert [numbers[label] for label in money] == [("—", "—")] * 4
    assert page.facts["spent"] == page.facts["saved"] == "—"
    assert "≥" not in page.text
    second_run()
    page = home()
    numbers = {label: (old, total) for label, _, old, total in page.rows[1:]}
    assert numbers["spent"] == ("—", "≥ $0")
    assert numbers["saved"] == ("—", "≥ $62.20")
    assert numbers["calls unpriced"] == ("—", "≥ 0")
    assert "≥ is at least" in page.text


def test_what_may_have_been_charged_stands_beside_what_was_spent(home: Callable[[], Page]) -> None:
    keep_run(calls_in_doubt=3, in_doubt_pico_usd=45_000_000_000, calls_unpriced=1, saved_unknown=2)
    keep_run(1, calls_in_doubt=1, in_doubt_pico_usd=None)
    numbers = {label: cells for label, *cells in home().rows[1:]}
    assert numbers["spent"] == ["≥ $38.00", "≥ $38.00", "≥ $76.00"]
    assert numbers["saved"] == ["$24.20", "≥ $24.20", "≥ $48.41"]
    assert numbers["calls in doubt"] == ["1, of unknown cost", "3, ≤ $0.0450", "4, of unknown cost"]
    assert numbers["calls unpriced"] == ["0", "1", "1"]
    assert numbers["hits that saved what is not known"] == ["0", "2", "2"]


def test_a_run_without_answers_has_dashes(home: Callable[[], Page]) -> None:
    keep_run(outcomes={"error": 20}, requests=20, provider_calls=0, latencies={}, complete=False)
    headings, *rows = home().rows
    numbers = {label: shown for label, shown, _ in rows}
    assert numbers["errors"] == "20"
    assert numbers["hit rate"] == numbers["hit latency, median"] == numbers["miss latency, p99"] == "—"
    assert "not complete" in headings[1]


def test_the_last_four_runs_are_shown_and_all_are_added_up(home: Callable[[], Page]) -> None:
    for number in range(12):
        keep_run(number)
    page = home()
    headings, requests, *_ = page.rows
    assert len(headings) == 1 + 4 + 1
    assert "The last 4 of 12 runs" in page.text
    assert (headings[-1], requests[-1]) == ("all 12 runs", "240,000")


def test_it_takes_one_query_however_many_runs_there_are(
    home: Callable[[], Page], django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(12):
        with django_assert_num_queries(1):
            home()
        keep_run(number)


def test_its_table_can_be_read_out(home: Callable[[], Page]) -> None:
    keep_run()
    page = home()
    assert page.count("caption") == page.count("table") == page.count("h1") == page.count("main") == 1
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in page.elements if tag == "th")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    named = [attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes]
    assert set(named) <= set(ids)
    assert ("html", {"lang": "en"}) in page.elements


def test_it_lives_with_a_strict_content_policy(client: Client) -> None:
    keep_run()
    response = client.get("/")
    assert response.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'self';")
    page = Page(response.content.decode())
    assert page.count("script") == page.count("style") == 0
    for _, attributes in page.elements:
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]


def test_all_that_it_loads_and_links_to_is_its_own(client: Client, home: Callable[[], Page]) -> None:
    for tag, attributes in home().elements:
        address = attributes.get("href") or attributes.get("src")
        if address is None or address.startswith("#"):
            continue
        assert address.startswith("/"), address
        if tag == "link":
            assert finders.find(urljoin("/", address).removeprefix("/static/"))
        else:
            assert client.get(address).status_code in (200, 302)


def test_it_is_only_read(client: Client) -> None:
    assert client.head("/").status_code == 200
    assert client.post("/").status_code == 405


def test_runs_can_be_looked_at_in_the_admin_and_not_changed(admin_client: Client) -> None:
    run = keep_run()
    listed = Page(admin_client.get("/admin/demo/demorun/").content.decode())
    assert any("39.09 %" in row and "12182" in row for row in listed.rows)
    page = f"/admin/demo/demorun/{run.pk}/change/"
    assert admin_client.get(page).status_code == 200
    assert admin_client.post(page, {"requests": 1}).status_code == 403
    assert admin_client.get("/admin/demo/demorun/add/").status_code == 403
    assert admin_client.post(f"/admin/demo/demorun/{run.pk}/delete/", {"post": "yes"}).status_code == 403
    assert DemoRun.objects.get().requests == 20_000


def test_runs_are_not_shown_to_strangers_in_the_admin(client: Client) -> None:
    assert client.get("/admin/demo/demorun/").status_code == 302
