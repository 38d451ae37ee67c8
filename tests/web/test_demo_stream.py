"""The demo's page of streams: its events under WSGI and ASGI, and who may ask for them."""

import asyncio
import json
from typing import Any

import pytest
from django.test import AsyncClient, Client, override_settings

from llmcache.testing.sandbox import Sandbox
from project.demo import data
from project.demo.types import Ingredient, Recipe
from tests.web.test_server_events import agot, events

RECIPE = {
    "title": "Chestnut soup",
    "servings": 4,
    "ingredients": [dict.fromkeys(Ingredient.model_fields) | {"name": "celery", "other_quantities": [2]}],
    "steps": [{"text": "Simmer", "minutes": 30}],
}


@pytest.fixture(autouse=True)
def asked(sandbox: Sandbox) -> Any:
    sandbox.answers[data.A_RECIPE] = RECIPE
    with override_settings(SANDBOX_URL=sandbox.base_url):
        yield


def got(client: Client, query: str) -> list[tuple[str, Any]]:
    response: Any = client.get(f"/stream/events/{query}")
    return events(b"".join(response.streaming_content))


def test_the_recipe_grows_under_both_servers_and_is_paid_once(client: Client, sandbox: Sandbox) -> None:
    values = got(client, "")
    assert values[-2:] == [("value", json.loads(Recipe.model_validate(RECIPE).model_dump_json())), ("end", {})]
    assert values[0] == ("value", dict.fromkeys(RECIPE))
    assert asyncio.run(agot(AsyncClient(), "/stream/events/")) == values
    assert sandbox.calls == 1
    assert got(client, "?anew") == values
    assert sandbox.calls == 2


def test_items_under_both_servers(client: Client, sandbox: Sandbox) -> None:
    sandbox.answers[data.A_RECIPE] = RECIPE["ingredients"]
    values = got(client, "?items")
    assert [name for name, _ in values] == ["value", "end"]
    assert asyncio.run(agot(AsyncClient(), "/stream/events/?items")) == values
    assert sandbox.calls == 1


def test_another_sites_page_may_not_ask_and_nobody_asks_without_a_provider(client: Client, sandbox: Sandbox) -> None:
    assert client.get("/stream/events/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert client.post("/stream/events/").status_code == 405
    with override_settings(SANDBOX_URL=None, ASK_OPENAI=False):
        assert "anew" not in client.get("/stream/").content.decode()
        assert [name for name, _ in got(client, "?anew")] == ["error", "end"]
    assert sandbox.received == 0


def test_the_page_has_a_strict_policy(client: Client) -> None:
    response = client.get("/stream/")
    assert "script-src 'self'" in response.headers["Content-Security-Policy"]
    assert "unsafe" not in response.headers["Content-Security-Policy"]
