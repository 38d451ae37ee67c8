"""Rows whose every text tries to be markup: pages show them as text, and nothing runs, loads or asks."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page

from tests.browser.chromium import NARROW, Tab
from tests.browser.site import Site
from tests.rows import PAYLOAD

TABLES = (
    *("cacheentry", "providercall", "usagebucket", "tenantday", "schemaversion"),
    *("invalidation", "plannedinvalidation", "correction", "warmingplan", "warmingrun"),
)
# As far as the narrowest column that is shown whole can hold it.
SHOWN = PAYLOAD[:60]


def open_and_look(tab: Tab, path: str) -> str:
    """Open a page and return its text; nothing that the payload wants may have happened."""
    assert tab.open(path) == 200
    return look(tab)


def look(tab: Tab) -> str:
    ran = tab.do(lambda page: page.evaluate("[typeof window.__xss, document.querySelectorAll('img[src=x]').length]"))
    assert ran == ["undefined", 0]
    return tab.do(lambda page: page.locator("main").inner_text())


def links_of(tab: Tab) -> list[str]:
    """Return where the rows of a list lead to."""
    return tab.do(
        lambda page: page.eval_on_selector_all("#result_list tbody th a", "all => all.map(each => each.pathname)")
    )


@pytest.mark.parametrize("path", ["/llm/", "/admin/llmcache/dashboard/"])
def test_the_dashboard_shows_it_as_text(path: str, sites: Callable[[str], Site]) -> None:
    with sites("hostile").tab() as tab:
        assert SHOWN in open_and_look(tab, path)
        # It is a kind too, which one can choose.
        tab.do(lambda page: page.get_by_label("Kind", exact=True).select_option(index=1))
        tab.do(lambda page: page.get_by_role("button", name="Show", exact=True).click())
        tab.do(lambda page: page.wait_for_url("**kind=%22%27%3E%3Cimg**"))
        assert SHOWN in look(tab)


@pytest.mark.parametrize("table", TABLES)
def test_lists_and_rows_show_it_as_text(table: str, sites: Callable[[str], Site]) -> None:
    with sites("hostile").tab(width=NARROW) as tab:
        assert SHOWN in open_and_look(tab, f"/admin/llmcache/{table}/").replace("\n", "")
        rows = links_of(tab)
        assert rows
        for row in rows:
            assert SHOWN in open_and_look(tab, row).replace("\n", "")
            content, window = tab.widths()
            assert content <= window


def test_what_stands_beside_the_nearest_is_text(sites: Callable[[str], Site]) -> None:
    site = sites("hostile")
    with site.tab(width=NARROW) as tab:
        assert SHOWN in open_and_look(tab, site.pages["why"]).replace("\n", "")
        content, window = tab.widths()
        assert content <= window


def test_what_is_revealed_is_text(sites: Callable[[str], Site]) -> None:
    with sites("hostile").tab() as tab:
        tab.open("/admin/llmcache/cacheentry/")
        revealed = 0
        for row in links_of(tab):
            tab.open(row)
            tab.do(_reveal)
            text = look(tab)
            revealed += "<script>window.__xss=1</script>" in text and '"role": "user"' in text
        assert revealed > 0


def _reveal(page: Page) -> None:
    page.get_by_role("button", name="Reveal").click()
    page.wait_for_url("**/reveal/")
