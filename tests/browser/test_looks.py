"""Every page, wide and narrow, light and dark, under the strict policy: nothing goes wrong, nothing sticks out.

``make pictures`` keeps what it sees in ``docs/images``.
"""

from collections.abc import Callable

import pytest

from tests.browser.chromium import Tab
from tests.browser.scenes import KNOWN
from tests.browser.site import Site

PAGES: dict[str, tuple[str, str | None, str]] = {
    # Name of the picture: scene, user, path or the name of a page that shows a row.
    "home": ("month", None, "/"),
    "freshness": ("board", None, "/freshness/"),
    "stream": ("month", None, "/stream/"),
    "admin-login": ("month", None, "/admin/login/"),
    "admin-index": ("month", "admin", "/admin/"),
    "dashboard": ("month", "viewer", "/llm/"),
    "dashboard-week-of-a-kind": ("month", "viewer", "/llm/?period=7d&kind=inbox"),
    "dashboard-empty": ("empty", "viewer", "/llm/"),
    "dashboard-one-call": ("one", "viewer", "/llm/"),
    "admin-dashboard": ("month", "admin", "/admin/llmcache/dashboard/"),
    "entries": ("month", "admin", "/admin/llmcache/cacheentry/"),
    "entry": ("month", "admin", "entry"),
    "entry-parts": ("month", "admin", "entry-parts"),
    "why": ("month", "admin", "why"),
    "calls": ("month", "admin", "/admin/llmcache/providercall/"),
    "call": ("month", "admin", "call"),
    "hours": ("month", "admin", "/admin/llmcache/usagebucket/"),
    "tenants": ("month", "admin", "/admin/llmcache/tenantday/"),
    "schemas": ("month", "admin", "/admin/llmcache/schemaversion/"),
    "schema": ("month", "admin", "schema"),
    "invalidations": ("month", "admin", "/admin/llmcache/invalidation/"),
    "invalidation": ("month", "admin", "invalidation"),
    "planned": ("month", "admin", "/admin/llmcache/plannedinvalidation/"),
    "warming-plans": ("month", "admin", "/admin/llmcache/warmingplan/"),
    "warming-plan": ("month", "admin", "plan"),
    "warming-runs": ("month", "admin", "/admin/llmcache/warmingrun/"),
    "warming-run": ("month", "admin", "run"),
    "corrections": ("month", "admin", "/admin/llmcache/correction/"),
    "correction": ("month", "admin", "correction"),
    "invalidation-form": ("month", "admin", "/admin/llmcache/invalidation/add/?kind=inbox&tenant=acme"),
}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_and_its_pictures(page: str, sites: Callable[[str], Site], look: Callable[[Tab, str], None]) -> None:
    scene, user, path = PAGES[page]
    site = sites(scene)
    with site.tab(user) as tab:
        assert tab.open(site.pages.get(path, path)) == 200
        look(tab, page)


def ask_twice(tab: Tab) -> None:
    """Ask for a known line in the demo's form, so that it is a hit the second time."""
    tab.open("/")
    for view in ("an async", "a sync"):
        tab.do(lambda page: page.get_by_label("A line of a recipe").fill(KNOWN))
        tab.do(lambda page, view=view: page.get_by_role("button", name=f"through {view} view").click())


def reveal(tab: Tab) -> None:
    """Reveal an entry's answer."""
    tab.do(lambda page: page.get_by_role("button", name="Reveal").click())


def choose_to(action: str) -> Callable[[Tab], None]:
    """Choose two entries of the list and an action."""

    def choose(tab: Tab) -> None:
        for number in (1, 2):
            tab.do(lambda page, number=number: page.locator("input.action-select").nth(number).check())
        tab.do(lambda page: page.get_by_role("combobox", name="Action").select_option(label=action))
        tab.do(lambda page: page.get_by_role("button", name="Go").click())

    return choose


def change_the_ttl(tab: Tab) -> None:
    """Go on from an entry's page to the one that asks for a time, and send it without one."""
    tab.do(lambda page: page.get_by_role("link", name="Change the TTL").click())
    tab.do(lambda page: page.get_by_role("button", name="Set the TTL").click())


def look_what_it_is_about(tab: Tab) -> None:
    """Go on from the form that an address has filled to the page that asks."""
    tab.do(lambda page: page.get_by_label("Reason").fill("The prompt has changed"))
    tab.do(lambda page: page.get_by_role("button", name="See what it is about").click())


def correct(tab: Tab) -> None:
    """Go on from an entry's page to the form with its answer, and send what does not pass."""
    tab.do(lambda page: page.get_by_role("button", name="Correct this answer").click())
    answer = tab.do(lambda page: page.get_by_label("Answer").input_value())
    tab.do(lambda page: page.get_by_label("Answer").fill(answer.replace('"EUR"', '"Euro"')))
    tab.do(lambda page: page.get_by_role("button", name="See what changes").click())


def correct_well(tab: Tab) -> None:
    """Go on to what would change."""
    correct(tab)
    answer = tab.do(lambda page: page.get_by_label("Answer").input_value())
    tab.do(lambda page: page.get_by_label("Answer").fill(answer.replace('"Euro"', '"CHF"')))
    tab.do(lambda page: page.get_by_label("Note").fill("It is a Swiss customer."))
    tab.do(lambda page: page.get_by_role("button", name="See what changes").click())


def ask_for_the_board(tab: Tab) -> None:
    """Have an answer for each line of the demo's board, and look what an invalidation would be about."""
    while tab.do(lambda page: page.get_by_role("button", name="Undo:").count()):
        tab.do(lambda page: page.get_by_role("button", name="Undo:").first.click())
    tab.do(lambda page: page.get_by_role("button", name="Ask for all").click())
    tab.do(lambda page: page.get_by_role("link", name="produce").first.click())


def invalidate_on_the_board(tab: Tab) -> None:
    """Invalidate a tag of the demo's board."""
    ask_for_the_board(tab)
    tab.do(lambda page: page.get_by_role("button", name="Invalidate produce").click())


def stream_the_recipe(tab: Tab) -> None:
    """Have a recipe streamed, and wait for its end."""
    tab.do(lambda page: page.get_by_role("button", name="A recipe that grows").click())
    tab.do(lambda page: page.get_by_text("the last after").wait_for())


STEPS: dict[str, tuple[str, str | None, str, Callable[[Tab], None], str]] = {
    # Name of the picture: user, where it begins, what is done there, a heading of the page that comes.
    "answer": ("month", None, "/", ask_twice, "hit The answer was in memory"),
    "freshness-preview": ("board", None, "/freshness/", ask_for_the_board, "Invalidate produce?"),
    "stream-read": ("month", None, "/stream/", stream_the_recipe, "What has come"),
    "freshness-invalidated": ("board", None, "/freshness/", invalidate_on_the_board, "At this moment"),
    "entry-revealed": ("month", "admin", "entry", reveal, "Answer and request"),
    "entry-parts-revealed": ("month", "admin", "entry-parts", reveal, "Answer and request"),
    "invalidation-preview": (
        "month",
        "admin",
        "/admin/llmcache/invalidation/add/?kind=inbox&tenant=acme",
        look_what_it_is_about,
        "Invalidate these answers?",
    ),
    "entries-export": (
        "month",
        "admin",
        "/admin/llmcache/cacheentry/",
        choose_to("Export as JSON lines…"),
        "Export cache entries",
    ),
    "entries-refresh": ("month", "admin", "/admin/llmcache/cacheentry/", choose_to("Refresh…"), "Refresh entries"),
    "correction-form": ("month", "admin", "invoice", correct, "Correct an answer"),
    "correction-preview": ("month", "admin", "invoice", correct_well, "Serve this answer?"),
    "entry-ttl": ("month", "admin", "entry", change_the_ttl, "Set the TTL of entries"),
}


@pytest.mark.parametrize("page", STEPS)
def test_a_page_after_some_steps_and_its_pictures(
    page: str, sites: Callable[[str], Site], look: Callable[[Tab, str], None]
) -> None:
    scene, user, path, do, heading = STEPS[page]
    site = sites(scene)
    with site.tab(user) as tab:
        assert tab.open(site.pages.get(path, path)) == 200
        do(tab)
        assert tab.do(lambda page: page.get_by_role("heading", name=heading).count()) == 1
        look(tab, page)
