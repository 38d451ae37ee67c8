"""The form on the home page and the two views behind it: what they show, what they cost, what they refuse kindly."""

import itertools
import json
import re
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from asgiref.testing import ApplicationCommunicator
from django.http import HttpResponse
from django.test import AsyncClient, AsyncRequestFactory, Client, RequestFactory
from pytest_django import DjangoAssertNumQueries

from llmcache.testing.sandbox import Fault, Sandbox, faults
from project import asgi, wsgi
from project.demo import data
from project.demo.amounts import money, span
from project.demo.sandboxed import sandboxed
from tests.conftest import MovedClock
from tests.web.page import Page

pytestmark = pytest.mark.django_db
LINE = "2 cups finely chopped onions"
GOLD = {
    "name": "onions",
    "quantity": 2.0,
    "quantity_max": None,
    "other_quantities": [1.5, 1200.0],
    "unit": "cup",
    "preparation": "finely chopped",
    "comment": None,
}
SYNC, ASYNC = "/extract/", "/aextract/"

Post = Callable[..., HttpResponse]


def by_wsgi(address: str, text: str) -> HttpResponse:
    return Client().post(address, {"text": text})


def by_asgi(address: str, text: str) -> HttpResponse:
    return async_to_sync(AsyncClient().post)(address, {"text": text})


ways = pytest.mark.parametrize(
    ("post", "address"),
    [(by_wsgi, SYNC), (by_wsgi, ASYNC), (by_asgi, SYNC), (by_asgi, ASYNC)],
    ids=["sync view, WSGI", "async view, WSGI", "sync view, ASGI", "async view, ASGI"],
)
views = pytest.mark.parametrize("address", [SYNC, ASYNC], ids=["sync view", "async view"])


@pytest.fixture
def asked(sandbox: Sandbox, settings: Any) -> Sandbox:
    """The sandbox, asked by the pages as ``manage.py serve`` lets them."""
    sandbox.answers[LINE] = GOLD
    settings.ASK_OPENAI, settings.SANDBOX_URL = False, sandbox.base_url
    settings.LLMCACHE = sandboxed(settings.LLMCACHE, sandbox.base_url)
    return sandbox


def page_of(response: HttpResponse, status: int = 200) -> Page:
    assert response.status_code == status
    return Page(response.content.decode())


@ways
def test_a_miss_and_a_hit_are_told_with_what_they_cost_and_saved(asked: Sandbox, post: Post, address: str) -> None:
    miss, hit = page_of(post(address, LINE)), page_of(post(address, LINE))
    price = money(Decimal(asked.bill_pico_usd) / 10**12)
    assert re.fullmatch(r"\$0\.\d{4,6}", price)
    assert asked.calls == 1

    assert (3, "miss No answer was known. The sandbox was asked, and the answer is kept.") in miss.headings
    assert (miss.facts["cost"], miss.facts["saved"]) == (price, "$0")
    assert miss.facts["fresh for"] == "another 7 days"
    assert (3, "hit The answer was in memory. Nobody was asked.") in hit.headings
    assert (hit.facts["cost"], hit.facts["saved"]) == ("$0", price)
    assert miss.facts["key"] == hit.facts["key"]
    assert re.fullmatch(r"[0-9a-f]{12}…", hit.facts["key"])
    for page in (miss, hit):
        assert re.fullmatch(r"[\d,.]+ (µs|ms)", page.facts["took"])
        assert page.facts["age"].endswith(" old")
        assert page.forms[0]["text"] == LINE
        assert f"through the {'sync' if address == SYNC else 'async'} view" in page.text
        assert page.rows == [
            ["field", "value", "type"],
            ["name", "onions", "str"],
            ["quantity", "2", "float | None"],
            ["quantity max", "nothing", "float | None"],
            ["other quantities", "1.5, 1,200", "list[float]"],
            ["unit", "cup", "str | None"],
            ["preparation", "finely chopped", "str | None"],
            ["comment", "nothing", "str | None"],
        ]


def test_a_whole_recipe_is_a_nested_type(asked: Sandbox) -> None:
    line = {**GOLD, "name": "chestnuts", "quantity": 1, "other_quantities": [], "preparation": None, "unit": "cup"}
    asked.answers[data.A_RECIPE] = {
        "title": "Soup",
        "servings": 4,
        "ingredients": [line, {**line, "name": "celery", "unit": None}],
        "steps": [{"text": "Sweat.", "minutes": 10}, {"text": "Puree.", "minutes": None}],
    }
    assert {"name": "recipe"} in page_of(by_wsgi(SYNC, LINE)).all("button")
    miss, hit = [page_of(Client().post(SYNC, {"recipe": ""})) for _ in range(2)]
    assert [page.headings[2][1].split()[0] for page in (miss, hit)] == ["miss", "hit"]
    assert asked.calls == 2
    assert "Fields of Recipe" in hit.text
    assert miss.rows == hit.rows
    assert hit.rows[1:] == [
        ["title", "Soup", "str"],
        ["servings", "4", "int | None"],
        ["ingredients", "chestnuts · 1 · cup celery · 1", "list[Ingredient]"],
        ["steps", "Sweat. · 10 Puree.", "list[Step]"],
    ]
    assert hit.forms[0]["text"] == ""


def test_both_views_share_their_answers(asked: Sandbox) -> None:
    pages = [page_of(post(address, LINE)) for post in (by_wsgi, by_asgi) for address in (SYNC, ASYNC)]
    assert asked.calls == 1
    assert len({page.facts["key"] for page in pages}) == 1


@views
def test_an_answer_grows_old(asked: Sandbox, clock: MovedClock, address: str) -> None:
    by_wsgi(address, LINE)
    clock.move(5 * 3_600)
    facts = page_of(by_wsgi(address, LINE)).facts
    assert re.fullmatch(r"5 hours( \d+ minutes?)? old", facts["age"])
    assert re.fullmatch(r"another 6 days( 1[89] hours)?", facts["fresh for"])
    clock.move(7 * 86_400)
    assert page_of(by_wsgi(address, LINE)).facts["age"] == "less than a second old"
    assert asked.calls == 2


def test_an_answer_on_disk_is_one(asked: Sandbox, forget_memory: Callable[[], None]) -> None:
    by_wsgi(SYNC, LINE)
    forget_memory()
    assert (3, "hit The answer was on disk. Nobody was asked.") in page_of(by_wsgi(SYNC, LINE)).headings


def test_a_price_that_is_not_known_is_not_zero(asked: Sandbox, settings: Any) -> None:
    settings.LLMCACHE = {**settings.LLMCACHE, "PRICES": {}}
    miss, hit = (page_of(by_wsgi(SYNC, LINE)).facts for _ in range(2))
    assert (miss["cost"], miss["saved"]) == ("price not known", "$0")
    assert (hit["cost"], hit["saved"]) == ("$0", "price not known")


def test_an_unknown_line_is_filled_in(asked: Sandbox) -> None:
    page = page_of(by_wsgi(SYNC, "7 zorkmids of something"))
    assert len(page.rows) == 8
    assert "no model" in page.text


@views
def test_whatever_is_typed_stays_text(asked: Sandbox, address: str) -> None:
    hostile = "<script>alert(1)</script> \"' &amp; <b onclick=x>"
    asked.answers[hostile] = {**GOLD, "name": hostile, "comment": "<img src=x onerror=alert(1)>"}
    page = page_of(by_wsgi(address, hostile))
    assert page.column()["name"] == hostile
    assert page.column()["comment"] == "<img src=x onerror=alert(1)>"
    assert page.forms[0]["text"] == hostile
    assert page.count("script") == page.count("img") == page.count("b") == 0


@views
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no text yet"),
        (" \t ", "no text yet"),
        ("x" * 1_001, "1001 characters; the page takes 1000"),
        ("a\0b", "NUL"),
    ],
    ids=["empty", "blank", "long", "NUL"],
)
def test_a_text_that_cannot_be_asked_about_is_said_at_its_field(
    asked: Sandbox, address: str, text: str, words: str
) -> None:
    page = page_of(by_wsgi(address, text), 400)
    field = next(each for each in page.all("input") if each.get("id") == "text")
    assert field["aria-invalid"] == "true"
    assert any(each.get("id") == field["aria-describedby"] and each["role"] == "alert" for each in page.all("p"))
    assert words in page.text
    assert page.forms[0]["text"] == text
    assert asked.received == 0


def test_a_form_without_a_text_is_one_without_a_text(asked: Sandbox) -> None:
    assert "no text yet" in page_of(Client().post(SYNC), 400).text


@views
@pytest.mark.parametrize("debug", [True, False], ids=["DEBUG", "no DEBUG"])
def test_a_form_too_large_to_be_read_is_refused_kindly(settings: Any, address: str, debug: bool) -> None:
    settings.DEBUG = debug
    page = page_of(Client(enforce_csrf_checks=True).post(address, {"text": "x" * 3_000_000}), 413)
    assert (3, "This text is too long") in page.headings
    assert "Traceback" not in page.text


@views
@pytest.mark.parametrize(
    ("fault", "status", "title", "code"),
    [
        (faults.server_error(), 502, "No answer from the provider", "provider_unavailable"),
        (faults.unauthorized(), 502, "The key was not taken", "authentication_failed"),
        (faults.rate_limited(retry_after=1), 503, "The provider asks to wait", "rate_limited"),
        (faults.refusal(), 502, "The model gave no usable answer", "refused"),
        (faults.truncated(), 502, "The model gave no usable answer", "truncated"),
        (faults.garbage(), 502, "The provider's answer cannot be read", "invalid_response"),
    ],
    ids=["server error", "key", "rate", "refusal", "cut", "garbage"],
)
@pytest.mark.usefixtures("no_backoff")
def test_a_provider_that_fails_is_told_with_what_to_do(
    asked: Sandbox, address: str, fault: Fault, status: int, title: str, code: str
) -> None:
    asked.fail(fault, times=None)
    page = page_of(by_wsgi(address, LINE), status)
    assert (3, title) in page.headings
    assert page.facts["code"] == code
    assert int(page.facts["attempts"]) == asked.received
    assert page.facts["cost"] == (
        money(Decimal(asked.bill_pico_usd) / 10**12) if code != "invalid_response" else "not known"
    )
    assert any(each.get("role") == "alert" for each in page.all("section"))
    assert "Traceback" not in page.text
    # The line is there to be asked about again, and then it is answered.
    asked.heal()
    assert page_of(by_wsgi(address, page.forms[0]["text"])).column()["name"] == "onions"


@views
@pytest.mark.usefixtures("no_backoff")
def test_a_provider_that_is_gone_is_told(asked: Sandbox, address: str) -> None:
    asked.stop()
    page = page_of(by_wsgi(address, LINE), 502)
    assert "make serve" in page.text
    assert (page.facts["code"], page.facts["cost"]) == ("provider_unavailable", "$0")


@views
def test_where_nobody_is_there_to_ask_only_known_answers_are_given(asked: Sandbox, settings: Any, address: str) -> None:
    by_wsgi(address, LINE)
    settings.SANDBOX_URL = None
    assert page_of(by_wsgi(address, LINE)).facts["cost"] == "$0"
    page = page_of(by_wsgi(address, "another line"), 503)
    assert (3, "Nobody is there to ask") in page.headings
    assert "make serve brings a provider" in page.text
    assert asked.calls == 1


def test_where_money_is_spent_the_page_says_so(asked: Sandbox, settings: Any) -> None:
    settings.ASK_OPENAI = True
    page = page_of(by_wsgi(SYNC, LINE))
    assert "costs money" in page.text
    assert "sandbox" not in page.text
    assert "The model was asked" in page.text


@views
def test_a_form_from_elsewhere_is_refused_and_this_pages_own_is_taken(asked: Sandbox, address: str) -> None:
    browser = Client(enforce_csrf_checks=True)
    page = page_of(browser.post(address, {"text": LINE}), 403)
    assert (3, "The form was not sent from this page") in page.headings
    assert asked.received == 0
    for form in page.forms:
        token = form["csrfmiddlewaretoken"]
        assert page_of(browser.post(address, {"text": LINE, "csrfmiddlewaretoken": token})).column()["name"] == "onions"


@views
def test_an_address_that_is_opened_leads_home(client: Client, address: str) -> None:
    response = client.get(address)
    assert (response.status_code, response.headers["Location"]) == (302, "/")


@views
def test_it_takes_one_query_whatever_comes(
    asked: Sandbox, django_assert_num_queries: DjangoAssertNumQueries, address: str
) -> None:
    for text, status in ((LINE, 200), (LINE, 200), ("", 400)):
        with django_assert_num_queries(1):
            page_of(by_wsgi(address, text), status)


def answers_and_failures(asked: Sandbox) -> list[HttpResponse]:
    asked.fail(faults.unauthorized(), text="a line that fails")
    texts = [LINE, LINE, "", "a line that fails"]
    return [Client().get("/"), *(by_wsgi(address, text) for address in (SYNC, ASYNC) for text in texts)]


def test_every_page_can_be_read_out(asked: Sandbox) -> None:
    for response in answers_and_failures(asked):
        page = Page(response.content.decode())
        levels = [level for level, _ in page.headings]
        assert levels[0] == levels.count(1) == 1
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
        assert page.count("caption") == page.count("table")
        assert all(each.get("scope") in ("col", "row") for each in page.all("th"))
        ids = [each["id"] for _, each in page.elements if "id" in each]
        assert len(set(ids)) == len(ids)
        for reference in ("aria-labelledby", "aria-describedby"):
            assert {each[reference] for _, each in page.elements if reference in each} <= set(ids)
        for field in page.all("input"):
            assert field["type"] == "hidden" or field["id"] in page.labelled
        assert page.count("fieldset") == page.count("legend") == 1


def test_every_page_lives_with_a_strict_content_policy(asked: Sandbox) -> None:
    for response in answers_and_failures(asked):
        policy = response.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; style-src 'self';")
        assert "form-action 'self'" in policy
        page = Page(response.content.decode())
        assert page.count("script") == page.count("style") == 0
        for _, attributes in page.elements:
            assert not [name for name in attributes if name == "style" or name.startswith("on")]
        addresses = [form["action"] for form in page.forms]
        addresses += [each["formaction"] or "" for each in page.all("button") if "formaction" in each]
        assert {address.removesuffix("#try") for address in addresses} == {SYNC, ASYNC}
        assert any(attributes.get("id") == "try" for _, attributes in page.elements)


def test_the_samples_are_lines_of_the_log_and_are_asked_with_one_click(asked: Sandbox) -> None:
    with data.TEXTS.open(encoding="utf-8") as lines:
        known = {item["text"]: item["gold"] for item in map(json.loads, lines)}
    page = page_of(Client().get("/"))
    shown = [each["value"] for each in page.all("button") if each.get("name") == "text"]
    assert shown == list(data.SAMPLES)
    for sample in data.SAMPLES:
        asked.answers[sample] = known[sample]
        assert (
            page_of(Client().post(page.forms[1]["action"], {"text": sample})).column()["name"] == known[sample]["name"]
        )


@pytest.mark.parametrize(
    ("dollars", "shown"),
    [
        ("0", "$0"),
        ("0.000012", "$0.000012"),
        ("0.0021134", "$0.002113"),
        ("0.00000042", "$0.00000042"),
        ("0.0000000000014", "$0.0000000000014"),
        ("0.1234567", "$0.1235"),
        ("27.934", "$27.93"),
        ("1234567.891", "$1,234,567.89"),
    ],
)
def test_money_has_the_places_that_tell_something(dollars: str, shown: str) -> None:
    assert money(Decimal(dollars)) == shown
    assert money(-Decimal(dollars)) == ("$0" if shown == "$0" else f"-{shown}")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.4, "less than a second"),
        (1, "1 second"),
        (12.9, "12 seconds"),
        (60, "1 minute"),
        (61, "1 minute 1 second"),
        (7_200, "2 hours"),
        (7 * 86_400 - 1, "6 days 23 hours"),
        (86_400 + 59, "1 day"),
    ],
)
def test_spans_of_time_have_two_units(seconds: float, shown: str) -> None:
    assert span(seconds) == shown


@async_to_sync
async def from_asgi(path: str) -> tuple[int, bytes]:
    application = ApplicationCommunicator(asgi.application, AsyncRequestFactory()._base_scope(path=path))
    await application.send_input({"type": "http.request", "body": b""})
    begin, body, more = await application.receive_output(timeout=30), b"", True
    while more:
        message = await application.receive_output(timeout=30)
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await application.wait(timeout=30)
    return begin["status"], body


def from_wsgi(path: str) -> tuple[int, bytes]:
    begun: list[str] = []
    environ = RequestFactory()._base_environ(PATH_INFO=path)
    with closing(wsgi.application(environ, lambda status, headers: begun.append(status))) as response:
        return int(begun[0].split()[0]), b"".join(response)


@pytest.mark.parametrize("get", [from_asgi, from_wsgi], ids=["ASGI", "WSGI"])
def test_the_project_is_an_application_with_its_styles(get: Callable[[str], tuple[int, bytes]]) -> None:
    status, body = get("/")
    assert (status, Page(body.decode()).headings[0][0]) == (200, 1)
    status, body = get("/static/demo/site.css")
    assert (status, b"--accent" in body) == (200, True)
