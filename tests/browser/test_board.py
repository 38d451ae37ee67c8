"""The demo's board, watched by one person while another invalidates: nobody loads the page anew."""

from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.browser.chromium import Tab
from tests.browser.site import Site

_MS = 20_000


def lines(tab: Tab, state: str, count: int) -> None:
    """Wait until so many lines are shown in a state."""
    tab.do(lambda page: expect(page.locator(f".seen.{state}")).to_have_count(count, timeout=_MS))


def click(tab: Tab, role: str, name: str) -> None:
    """Click what has this name, exactly."""
    tab.do(lambda page: page.get_by_role(role, name=name, exact=True).click())  # pyright: ignore[reportArgumentType]


def test_one_invalidates_and_undoes_and_another_watches(sites: Callable[[str], Site]) -> None:
    site = sites("board")
    with site.tab(None) as watching, site.tab(None) as doing:
        doing.open("/freshness/")
        click(doing, "button", "Ask for all")
        watching.open("/freshness/")
        lines(watching, "void", 0)
        # Who is about to press a button does not lose it, whatever changes beside it.
        button = "Ask: 3 pints cherry tomatoes"
        watching.do(lambda page: page.get_by_role("button", name=button).focus())
        watching.do(lambda page: page.evaluate("window.__loaded = true"))

        click(doing, "link", "dairy 3")
        assert "Invalidate dairy?" in doing.outline()
        lines(watching, "void", 0)
        click(doing, "button", "Invalidate dairy")
        lines(doing, "void", 3)
        lines(watching, "void", 3)

        click(doing, "button", "Undo: dairy")
        lines(watching, "void", 0)
        lines(watching, "miss", 0)

        def same(page: Page) -> bool:
            focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
            return bool(page.evaluate("window.__loaded")) and focused == button

        assert watching.do(same)


def test_watching_can_be_stopped_and_begun_again(sites: Callable[[str], Site]) -> None:
    site = sites("board")
    address = f"{site.base_url}/freshness/board/"
    with site.tab(None) as tab:
        # The page's own time, which passes when it is told to.
        tab.do(lambda page: page.clock.install())
        tab.open("/freshness/")
        looks: list[str] = []
        tab.do(lambda page: page.on("request", lambda request: looks.append(request.url)))

        def a_while(page: Page) -> None:
            with page.expect_response(address):
                page.clock.run_for(2_000)

        tab.do(a_while)
        click(tab, "button", "Stop watching")
        looks.clear()
        tab.do(lambda page: page.clock.run_for(60_000))
        assert address not in looks
        click(tab, "button", "Watch")
        tab.do(a_while)
        assert address in looks
