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
        pictures: [...document.querySelectorAll('main svg')].filter(each =>
            each.getAttribute('aria-hidden') !== 'true' && each.getAttribute('role') !== 'img').length,
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
    const name = found.getAttribute('aria-label') || found.labels?.[0]?.textContent || found.textContent || found.value;
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
def test_a_page_can_be_read_out(page: str, sites: Callable[[str], Site]) -> None:
    scene, user, path = PAGES[page]
    site = sites(scene)
    with site.tab(user) as tab:
        tab.open(site.pages.get(path, path))
        markup = tab.do(lambda page: page.evaluate(_MARKUP))
        outline = tab.outline()
    assert markup.pop("language").startswith("en")
    assert markup.pop("title")
    assert markup.pop("headings") == markup.pop("mains") == 1
    assert markup == {"doubles": [], "dangling": [], "pictures": 0, "images": 0}
    assert [line for line in outline.splitlines() if _NAMELESS.fullmatch(line.strip())] == []


@pytest.mark.parametrize("page", OURS)
def test_the_tab_key_reaches_all_and_shows_where_it_is(page: str, sites: Callable[[str], Site]) -> None:
    scene, user, path = PAGES[page]
    site = sites(scene)
    with site.tab(user) as tab:
        tab.open(site.pages.get(path, path))
        met = tab_through(tab)
        wanted = tab.do(lambda page: page.evaluate(_STOPS))
    assert len(met) >= wanted > 0
    assert [each["name"] for each in met if not each["shown"]] == []
