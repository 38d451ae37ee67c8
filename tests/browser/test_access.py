"""Pages without a mouse and without eyes: their accessibility trees, and the way of the Tab key."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser.chromium import Tab
from tests.browser.site import Site
from tests.browser.test_looks import PAGES

OURS = [page for page in PAGES if page not in ("admin-login", "admin-index")]
# What the page itself has to say of its parts; Django's own templates are Django's.
_MARKUP = """() => {
    const all = [...document.querySelectorAll('*')];
    const ids = all.map(each => each.id).filter(Boolean);
    const referred = all.flatMap(each => ['aria-labelledby', 'aria-describedby', 'aria-controls', 'for']
        .flatMap(name => (each.getAttribute(name) || '').split(/\\s+/)).filter(Boolean));
    const text = document.querySelectorAll('main');
    return {
        language: document.documentElement.lang,
        title: document.title,
        mains: text.length,
        headings: [...document.querySelectorAll('main h1')].length,
        doubles: ids.filter((id, place) => ids.indexOf(id) !== place),
        dangling: referred.filter(id => !ids.includes(id)),
        pictures: [...document.querySelectorAll('main svg')].filter(each => !each.parentElement.closest('svg')
            && each.getAttribute('aria-hidden') !== 'true' && each.getAttribute('role') !== 'img').length,
        images: [...document.images].filter(each => !each.hasAttribute('alt')).length,
    };
}"""
# A role that needs a name, and has none: the tree shows names in quotes.
_NAMELESS = re.compile(
    r"- (textbox|searchbox|combobox|checkbox|radio|spinbutton|button|link|img|region|dialog)(?! \")[ :\[]?.*"
)

_STOPS = """[...document.querySelectorAll('a[href], button, input:not([type=hidden]), select, textarea, summary')]
    .filter(each => each.checkVisibility({visibilityProperty: true}) && each.tabIndex >= 0 && !each.disabled)
    .length"""

_FOCUSED = """() => {
    const found = document.activeElement;
    if (found === document.body) return null;
    const label = found.getAttribute('aria-label') || found.labels?.[0]?.textContent;
    const name = label || found.textContent || found.value || '';
    const look = () => {
        const style = getComputedStyle(found);
        return [style.outlineStyle, style.outlineWidth, style.outlineColor, style.boxShadow, style.borderColor,
            style.backgroundColor, style.color, style.textDecoration, style.clipPath, style.transform].join();
    };
    const settled = () => { document.getAnimations().forEach(each => each.finish()); return look(); };
    const focused = settled();
    found.blur();
    const plain = settled();
    found.focus({focusVisible: true, preventScroll: true});
    const box = found.getBoundingClientRect();
    return {name: name.trim().replace(/\\s+/g, ' '), tag: found.localName, shown: focused !== plain,
        inside: box.width > 0 && box.height > 0};
}"""


def tab_through(tab: Tab, most: int = 200) -> list[dict[str, Any]]:
    """Press Tab until the way ends; returns what had the focus, in its order."""

    def steps(page: Page) -> list[dict[str, Any]]:
        met: list[dict[str, Any]] = []
        for _ in range(most):
            page.keyboard.press("Tab")
            focused = page.evaluate(_FOCUSED)
            if focused is None:
                break
            met.append(focused)
        return met

    return tab.do(steps)


@pytest.mark.parametrize("page", OURS)
def test_a_page_can_be_read_out_and_gone_through(page: str, sites: Callable[[str], Site]) -> None:
    scene, user, path = PAGES[page]
    site = sites(scene)
    with site.tab(user) as tab:
        tab.open(site.pages.get(path, path))
        markup = tab.do(lambda page: page.evaluate(_MARKUP))
        outline = tab.outline()
        met = tab_through(tab)
        wanted = tab.do(lambda page: page.evaluate(_STOPS))
    assert markup.pop("language").startswith("en")
    assert markup.pop("title")
    assert markup.pop("headings") == markup.pop("mains") == 1
    assert markup == {"doubles": [], "dangling": [], "pictures": 0, "images": 0}
    assert [line for line in outline.splitlines() if _NAMELESS.fullmatch(line.strip())] == []
    assert len(met) >= wanted > 0
    assert [each["name"] for each in met if not each["shown"]] == []


@pytest.mark.parametrize("path", ["/llm/", "/admin/llmcache/dashboard/"])
def test_each_chart_has_its_name_and_its_numbers_in_a_table(path: str, sites: Callable[[str], Site]) -> None:
    with sites("month").tab() as tab:
        tab.open(path)

        def charts(page: Page) -> list[tuple[str, int]]:
            found: list[tuple[str, int]] = []
            for number in range(page.get_by_role("img").count()):
                chart = page.get_by_role("img").nth(number)
                # The box of a chart, or of two that belong together, has one table that opens.
                box = page.locator("section, figure, div").filter(has=chart).filter(has=page.locator("details")).last
                box.locator("details > summary").last.click()
                name = re.sub(r"\s+", " ", chart.evaluate("each => each.querySelector('title').textContent")).strip()
                found.append((name, box.get_by_role("table").locator("tbody tr").count()))
                box.locator("details > summary").last.click()
            return found

        named = tab.do(charts)
    assert len(named) >= 3
    assert all(name and rows == 30 for name, rows in named)


def test_the_dashboard_is_used_with_the_keyboard_alone(sites: Callable[[str], Site]) -> None:
    with sites("month").tab("viewer") as tab:
        tab.open("/llm/")

        def go_to(page: Page, name: str) -> None:
            for _ in range(60):
                page.keyboard.press("Tab")
                if page.evaluate(_FOCUSED)["name"] == name:
                    return
            raise AssertionError(f"{name} is not reached")

        def steps(page: Page) -> list[str]:
            addresses: list[str] = []
            page.keyboard.press("Tab")
            assert page.evaluate(_FOCUSED)["name"] == "Skip to the content"
            go_to(page, "7 days")
            page.keyboard.press("Enter")
            page.wait_for_url("**/llm/?period=7d")
            go_to(page, "Kind")
            page.keyboard.type("Inv")
            page.keyboard.press("Tab")
            page.keyboard.press("Enter")
            page.wait_for_url("**/llm/?period=7d&kind=Invoice")
            addresses.append(page.get_by_label("Kind", exact=True).input_value())
            go_to(page, "The numbers")
            page.keyboard.press("Enter")
            addresses.append(str(page.get_by_role("table").first.is_visible()))
            return addresses

        assert tab.do(steps) == ["Invoice", "True"]


def test_the_list_of_entries_is_filtered_and_searched_by_a_person(sites: Callable[[str], Site]) -> None:
    with sites("month").tab() as tab:
        tab.open("/admin/llmcache/cacheentry/")

        def steps(page: Page) -> list[int]:
            counts: list[int] = []
            page.get_by_role("link", name="expired", exact=True).click()
            page.wait_for_url("**/?state=expired")
            counts.append(page.locator("#result_list tbody tr").count())
            page.get_by_role("textbox", name="Search").fill("tag:accounting")
            page.keyboard.press("Enter")
            page.wait_for_url("**q=tag**")
            counts.append(page.locator("#result_list tbody tr").count())
            return counts

        expired, tagged = tab.do(steps)
    # Invoices have that tag, and do not expire.
    assert expired > 0
    assert tagged == 0
