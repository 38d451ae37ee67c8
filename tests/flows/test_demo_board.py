"""The demo's board: what each state of an answer looks like, what it costs to look and to ask, and what is refused."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from django.contrib.auth.models import User
from django.contrib.staticfiles import finders
from django.core.cache import cache
from django.http import HttpResponse
from django.test import Client

import llmcache
from llmcache import corrections, rewriting
from llmcache.models import Invalidation
from llmcache.testing import finish_refreshes
from llmcache.testing.sandbox import Sandbox
from project.demo import board, data
from project.demo.sandboxed import sandboxed
from project.demo.types import Ingredient, Recipe
from tests.conftest import MovedClock
from tests.flows.newcomer import manage
from tests.flows.test_serve import serving, until
from tests.web.page import Page

pytestmark = pytest.mark.django_db
FRESH, STALE = 30, 90
GOLD = {
    "name": "onion",
    "quantity": 1.0,
    "quantity_max": None,
    "other_quantities": [],
    "unit": None,
    "preparation": "peeled",
    "comment": None,
}
ASK, INVALIDATE, UNDO = "/freshness/ask/", "/freshness/invalidate/", "/freshness/undo/"


@pytest.fixture
def asked(sandbox: Sandbox, settings: Any, clock: MovedClock) -> Sandbox:
    """The sandbox, asked by the pages as ``manage.py serve`` lets them; nobody has asked for a line yet."""
    for line in board.LINES:
        sandbox.answers[line.text] = GOLD
    settings.ASK_OPENAI, settings.SANDBOX_URL = False, sandbox.base_url
    settings.LLMCACHE = sandboxed(settings.LLMCACHE, sandbox.base_url)
    clock.install()
    cache.clear()
    return sandbox


def page_of(response: HttpResponse, status: int = 200) -> Page:
    assert response.status_code == status
    return Page(response.content.decode())


def look(client: Client, query: str = "") -> Page:
    return page_of(client.get(f"/freshness/{query}"))


def post(client: Client, address: str, **fields: str) -> Page:
    response = client.post(address, fields, follow=True)
    assert response.redirect_chain == [("/freshness/#board", 302)]
    return page_of(response)


def states(page: Page) -> dict[str, int]:
    """How many lines are in which state."""
    classes = [str(each.get("class")).split() for each in page.all("div")]
    return dict(Counter(words[1] for words in classes if words[0] == "seen"))


def test_looking_asks_nobody_and_counts_no_hits(client: Client, asked: Sandbox) -> None:
    assert states(look(client)) == {"miss": 12}
    assert "Nobody has asked yet." in look(client).text
    assert asked.received == 0
    post(client, ASK)
    once = llmcache.stats(by="kind")["board"]
    for _ in range(3):
        assert states(look(client)) == states(page_of(client.get("/freshness/board/"))) == {"hit": 12}
    # Each answer was read once, when it was new.
    assert llmcache.stats(by="kind")["board"] == once
    assert (once.misses, once.hits, asked.calls) == (12, 12, 12)


def test_what_is_asked_is_told_with_what_it_cost(client: Client, asked: Sandbox) -> None:
    first, second = post(client, ASK), post(client, ASK)
    assert asked.calls == 12
    assert re.search(r"Asked: 12 miss\. Spent \$0\.\d+, saved \$0\. ", first.text)
    assert re.search(r"Asked: 12 hit\. Spent \$0, saved \$0\.\d+\. ", second.text)
    assert (first.facts["tier"], first.facts["made by"]) == ("memory", "provider")
    assert re.fullmatch(r"\d+ s", first.facts["age"])
    assert re.fullmatch(r"[123]\d? s", first.facts["TTL left"])
    assert first.facts["a hit saves"].startswith("$0.")
    assert first.facts["last asked"].startswith("miss, ")
    assert second.facts["last asked"].startswith("hit, ")
    assert first.text.count("onion · 1 · peeled") == 12


def test_one_line_is_asked_alone(client: Client, asked: Sandbox) -> None:
    assert states(post(client, ASK, line="3")) == {"miss": 11, "hit": 1}
    assert asked.calls == 1


def test_two_who_ask_at_once_pay_once(client: Client, asked: Sandbox) -> None:
    page = post(client, ASK, twice="")
    assert asked.calls == 12
    assert re.search(r"Asked: (12 collapsed|.*hit), 12 miss\.", page.text)


def test_a_tag_is_previewed_invalidated_and_given_back(client: Client, asked: Sandbox) -> None:
    post(client, ASK)
    preview = look(client, "?tag=produce")
    assert re.search(r"It is about 4 answers that the ledger has, and which cost \$0\.\d+ to make\.", preview.text)
    assert states(preview) == {"hit": 12}
    assert not Invalidation.objects.exists()

    page = post(client, INVALIDATE, tag="produce")
    assert states(page) == {"void": 4, "hit": 8}
    assert re.search(r"By a visitor, \d s ago\. Undone, it is given again\.", page.text)
    assert page.text.count("onion · 1 · peeled") == 8
    assert states(look(client)) == {"void": 4, "hit": 8}

    made = Invalidation.objects.get()
    assert (made.kind, made.tag, made.active) == ("board", "produce", True)
    assert states(post(client, UNDO, id=made.uid)) == {"hit": 12}
    assert asked.calls == 12
    assert "That one was undone before." in post(client, UNDO, id=made.uid).text


def test_what_was_asked_anew_stays(client: Client, asked: Sandbox) -> None:
    post(client, ASK)
    post(client, INVALIDATE, tag="nuts")
    for line in board.LINES:
        asked.answers[line.text] = {**GOLD, "preparation": "diced"}
    page = post(client, ASK)
    assert "Asked: 10 hit, 2 miss." in page.text
    assert asked.calls == 14
    assert (page.text.count("· peeled"), page.text.count("· diced")) == (10, 2)
    page = post(client, UNDO, id=Invalidation.objects.get().uid)
    assert (page.text.count("· peeled"), page.text.count("· diced")) == (10, 2)


def test_answers_age_are_refreshed_and_end(client: Client, asked: Sandbox, clock: MovedClock) -> None:
    post(client, ASK)
    clock.move(FRESH + 1)
    page = look(client)
    assert states(page) == {"stale": 12}
    assert re.fullmatch(r"over, stale ≤ [1-8]\d s", page.facts["TTL left"])
    finish_refreshes()
    assert asked.calls == 12

    assert "Asked: 12 stale. Spent $0" in post(client, ASK).text
    assert finish_refreshes()
    assert asked.calls == 24
    assert states(look(client)) == {"hit": 12}
    clock.move(FRESH + STALE + 1)
    assert states(look(client)) == {"expired": 12}
    assert asked.calls == 24


def test_a_line_says_why(client: Client, asked: Sandbox) -> None:
    assert "Miss: " in look(client, "?why=1").text
    post(client, INVALIDATE, tag="soup")
    post(client, ASK)
    post(client, INVALIDATE, tag="produce")
    assert 'by a visitor: "Clicked on the page Freshness"' in look(client, "?why=1").text


def test_a_human_answers_for_a_line(client: Client, asked: Sandbox) -> None:
    post(client, ASK, line="1")
    line = board.LINES[0]
    key = llmcache.explain(line.text, Ingredient, kind="board", tags=line.tags).key
    corrections.correct(key, json.dumps({**GOLD, "name": "shallot"}))
    page = look(client)
    assert states(page) == {"miss": 11, "hit": 1}
    assert "shallot · 1 · peeled" in page.text
    assert page.facts["made by"] == "human"
    assert "Invalidated in the last minutes" not in page.text
    assert asked.calls == 1


@pytest.mark.parametrize(
    ("text", "response_model", "kind"),
    [(data.SAMPLES[0], Ingredient, "Ingredient"), (data.A_RECIPE, Recipe, "Recipe"), ("1 leek", Ingredient, "board")],
)
def test_the_admin_can_ask_anew_for_the_demos_entries(
    asked: Sandbox, text: str, response_model: type[Any], kind: str
) -> None:
    key = llmcache.extract_with_info(text, response_model, kind=kind).key
    rewriting.refresh(key)
    assert asked.calls == 2


def test_who_is_logged_in_is_named_in_the_log(client: Client, asked: Sandbox) -> None:
    client.force_login(User.objects.create_user("ann"))
    post(client, INVALIDATE, tag="cake")
    made = Invalidation.objects.get()
    post(client, UNDO, id=made.uid)
    made.refresh_from_db()
    assert (made.made_by, made.undone_by) == ("ann", "ann")


def test_where_nobody_is_there_to_ask_the_page_says_so(client: Client, asked: Sandbox, settings: Any) -> None:
    settings.SANDBOX_URL = None
    page = post(client, ASK)
    assert "Asked: 12 error." in page.text
    assert "Nobody is there to ask." in page.text
    assert states(page) == {"miss": 12}
    assert asked.received == 0


def test_what_is_rare_is_told_as_explain_prints_it(client: Client, asked: Sandbox, settings: Any) -> None:
    settings.LLMCACHE = {**settings.LLMCACHE, "ENABLED": False}
    line = board.LINES[0]
    told = str(llmcache.explain(line.text, Ingredient, kind="board", tags=line.tags)).partition("\n")[0]
    assert "ENABLED" in told
    page = look(client)
    assert states(page) == {"miss": 12}
    assert " ".join(told.split()) in page.text


def test_only_the_boards_own_invalidations_are_undone_here(client: Client, asked: Sandbox) -> None:
    others = [
        llmcache.invalidate(kind="Ingredient", tag="produce"),
        llmcache.invalidate(key=llmcache.explain(board.LINES[0].text, Ingredient).key),
    ]
    for uid in [other.id for other in others] + ["0" * 32, ""]:
        assert client.post(UNDO, {"id": uid}).status_code == 404
    assert Invalidation.objects.filter(active=True).count() == 2


@pytest.mark.parametrize("address", [ASK, INVALIDATE, UNDO])
def test_changes_are_posted_from_the_page(asked: Sandbox, address: str) -> None:
    stranger = Client(enforce_csrf_checks=True)
    assert stranger.get(address).status_code == 405
    refused = stranger.post(address, {"tag": "soup"})
    assert (refused.status_code, asked.received, Invalidation.objects.count()) == (403, 0, 0)


@pytest.mark.parametrize("address", ["/freshness/", "/freshness/board/"])
def test_what_is_shown_is_only_read(client: Client, address: str) -> None:
    assert client.post(address).status_code == 405


@pytest.mark.parametrize("wrong", ["", "fish", "soup ", "\x00", "'"])
def test_there_are_no_tags_and_lines_but_the_boards(client: Client, asked: Sandbox, wrong: str) -> None:
    for query in ({"tag": wrong}, {"why": wrong}):
        assert client.get("/freshness/", query).status_code == 404
    assert client.post(INVALIDATE, {"tag": wrong}).status_code == 404
    assert client.post(INVALIDATE).status_code == 404
    assert client.post(ASK, {"line": wrong}).status_code == 404
    assert (asked.received, Invalidation.objects.count()) == (0, 0)


def test_it_lives_with_a_strict_content_policy(client: Client, asked: Sandbox) -> None:
    post(client, ASK)
    post(client, INVALIDATE, tag="soup")
    for response in (client.get("/freshness/?tag=cake"), client.get("/freshness/?why=2")):
        policy = response.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self';")
        assert "no-store" in response.headers["Cache-Control"]
        page = Page(response.content.decode())
        (script,) = page.all("script")
        assert finders.find(urljoin("/", str(script["src"])).removeprefix("/static/"))
        assert page.count("style") == 0
        for _, attributes in page.elements:
            assert not [name for name in attributes if name == "style" or name.startswith("on")]


def test_its_lines_are_of_the_log_and_have_two_or_three_tags() -> None:
    texts = {json.loads(line)["text"] for line in data.TEXTS.read_text(encoding="utf-8").splitlines()}
    assert {line.text for line in board.LINES} <= texts
    assert {len(line.tags) for line in board.LINES} == {2, 3}
    assert {tag for line in board.LINES for tag in line.tags} == {tag for tag, _ in board.TAGS}


def test_another_process_invalidates_and_the_page_sees_it(var: Path) -> None:
    with serving(var, "--noreload") as (_, _, browser):
        token = browser.open("/freshness/").forms[0]["csrfmiddlewaretoken"]
        asked = browser.send(ASK, {"csrfmiddlewaretoken": token})
        assert states(asked) == {"hit": 12}
        there = ".".join(("import llmcache; llmcache", "invalidate(kind='board', tag='soup')"))
        assert there in browser.open("/freshness/").text
        assert manage(var, "shell", "-c", there).returncode == 0
        seen: Callable[[], dict[str, int]] = lambda: states(browser.open("/freshness/board/"))  # noqa: E731
        assert until(lambda: seen().get("void") == 4)
