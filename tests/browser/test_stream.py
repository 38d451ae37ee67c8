"""The demo's page of streams, in a browser: values that grow, items, a repeat, and an error in their midst."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.chromium import Tab
from tests.browser.site import Site

_MS = 20_000


def read(tab: Tab, button: str, told: str) -> Any:
    """Press a button, wait for what is said at the end, and return what has come."""
    tab.do(lambda page: page.get_by_role("button", name=button).click())
    tab.do(lambda page: expect(page.locator("#told")).to_contain_text(told, timeout=_MS))
    shown = tab.do(lambda page: page.locator("#value").text_content())
    return json.loads(shown) if shown else None


def fail(site: Site, fault: str, times: int) -> None:
    """Have the provider's next calls meet a fault."""
    address = site.sandbox.removesuffix("/v1") + "/sandbox/fail"
    data = json.dumps({"fault": fault, "times": times}).encode()
    with urllib.request.urlopen(urllib.request.Request(address, data, method="POST")) as answer:
        assert answer.status == 200


def test_values_come_while_they_are_written_and_again_from_the_cache(sites: Callable[[str], Site]) -> None:
    site = sites("empty")
    with site.tab(None) as tab:
        tab.open("/stream/")
        tab.do(
            lambda page: page.evaluate("""() => {
            window.__seen = [];
            new MutationObserver(() => window.__seen.push(document.getElementById('value').textContent))
                .observe(document.getElementById('value'), {childList: true});
        }""")
        )
        recipe = read(tab, "A recipe that grows", "the last after")
        assert recipe.keys() == {"title", "servings", "ingredients", "steps"}
        seen = [json.loads(each) for each in tab.do(lambda page: page.evaluate("window.__seen")) if each]
        # First nothing was known of it but that it is a recipe; then more and more.
        assert seen[0] == dict.fromkeys(recipe)
        assert len(seen) > 5
        assert seen[-1] == recipe
        assert read(tab, "A recipe that grows", "the last after") == recipe
        items = read(tab, "Its ingredients, one by one", "the last after")
        assert isinstance(items, list)


def test_what_goes_wrong_after_the_first_byte_is_shown(sites: Callable[[str], Site]) -> None:
    site = sites("empty")
    with site.tab(None) as tab:
        tab.open("/stream/")
        fail(site, "truncated", 1)
        assert read(tab, "The recipe, asked for anew", "The answer ended at the token limit")
        told = tab.do(lambda page: page.locator("#told").text_content())
        assert told is not None
        assert told.startswith("After ")
        fail(site, "refusal", 1)
        assert read(tab, "The recipe, asked for anew", "declined") is None
        assert read(tab, "The recipe, asked for anew", "the last after")["ingredients"] is not None


def test_another_sites_page_may_not_ask(sites: Callable[[str], Site]) -> None:
    site = sites("empty")
    with site.tab(None) as tab:
        foreign = {"Sec-Fetch-Site": "cross-site"}
        asked = urllib.request.Request(f"{site.base_url}/stream/events/", headers=foreign)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(asked)
        refused.value.close()
        assert refused.value.code == 403
        assert tab.open("/stream/") == 200
