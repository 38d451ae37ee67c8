"""Asynchronous calls in Django's views, over its own handlers."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path
from pydantic import BaseModel

import llmcache
from llmcache.testing.sandbox import Sandbox, faults
from tests.conftest import JournalReader
from tests.flows.test_async import background_calls
from tests.flows.test_async_flights import received, until, waiting
from tests.flows.test_flights import wait_until


class Person(BaseModel):
    """A person."""

    name: str


def answered(found: llmcache.Extraction[Person]) -> HttpResponse:
    return JsonResponse({"name": found.value.name, "outcome": found.outcome})


async def async_view(request: HttpRequest) -> HttpResponse:
    """Show what an asynchronous call gives."""
    return answered(await llmcache.aextract_with_info(request.GET["text"], Person))


def sync_view(request: HttpRequest) -> HttpResponse:
    """Show what a synchronous call gives."""
    return answered(llmcache.extract_with_info(request.GET["text"], Person))


def bridging_view(request: HttpRequest) -> HttpResponse:
    """Show what an asynchronous call gives in a synchronous view."""
    return answered(async_to_sync(llmcache.aextract_with_info)(request.GET["text"], Person))


async def wrong_view(request: HttpRequest) -> HttpResponse:
    """Call what stops the loop."""
    return answered(llmcache.extract_with_info(request.GET["text"], Person))


urlpatterns = [
    path("async/", async_view),
    path("sync/", sync_view),
    path("bridging/", bridging_view),
    path("wrong/", wrong_view),
]
here = override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[])


@here
def test_the_same_answer_under_wsgi_and_asgi(sandbox: Sandbox) -> None:
    async def under_asgi(address: str) -> Any:
        return (await AsyncClient().get(address, {"text": "Ada"})).json()

    found = [
        Client().get("/async/", {"text": "Ada"}).json(),
        *(Client().get(f"/{view}/", {"text": "Ada"}).json() for view in ("async", "sync", "bridging")),
        *(asyncio.run(under_asgi(f"/{view}/")) for view in ("async", "sync", "bridging")),
    ]
    assert [each["outcome"] for each in found] == ["miss"] + ["hit"] * 6
    assert len({each["name"] for each in found}) == sandbox.received == 1


@here
@pytest.mark.parametrize("view", ["sync", "bridging", "async"])
def test_a_first_call_in_each_kind_of_view_under_asgi(view: str, sandbox: Sandbox) -> None:
    async def main() -> list[Any]:
        replies = await asyncio.gather(*(AsyncClient().get(f"/{view}/", {"text": "Ada"}) for _ in range(8)))
        return [reply.json()["outcome"] for reply in replies]

    outcomes = asyncio.run(main())
    assert (outcomes.count("miss"), sandbox.received) == (1, 1)


@here
def test_a_synchronous_call_in_an_asynchronous_view(sandbox: Sandbox) -> None:
    with pytest.raises(llmcache.AsyncContext, match="aextract_with_info"):
        asyncio.run(AsyncClient().get("/wrong/", {"text": "Ada"}))


class Browser:
    """One side of a connection, as an ASGI server tells it to an application."""

    def __init__(self, address: str, query: str) -> None:
        self.scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": address,
            "raw_path": address.encode(), "query_string": query.encode(), "root_path": "", "headers": [],
            "scheme": "http", "server": ("testserver", 80), "client": ("127.0.0.1", 1),
        }  # fmt: skip
        self.gone = asyncio.Event()
        self.sent: list[dict[str, Any]] = []
        self._asked = False

    async def receive(self) -> dict[str, Any]:
        """Give the request, then nothing until the browser is gone."""
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        """Take what the application sends."""
        self.sent.append(message)


@here
def test_a_browser_that_is_gone_loses_no_answer(sandbox: Sandbox, journal: JournalReader) -> None:
    async def main() -> None:
        browser = Browser("/async/", "text=Ada")
        request = asyncio.create_task(ASGIHandler()(browser.scope, browser.receive, browser.send))  # type: ignore[arg-type]
        await received(sandbox, 1)
        browser.gone.set()
        await request
        assert (browser.sent, background_calls()) == ([], 1)
        sandbox.release()
        await until(lambda: background_calls() == 0)

    sandbox.hold()
    asyncio.run(main())
    assert [record.event for record in journal.all_records()] == ["started", "settled", "stored"]
    assert (llmcache.extract_with_info("Ada", Person).outcome, sandbox.received) == ("hit", 1)


@here
def test_a_browser_that_is_gone_takes_no_other_along(sandbox: Sandbox) -> None:
    async def main() -> None:
        browsers = [Browser("/async/", "text=Ada") for _ in range(8)]
        requests = [
            asyncio.create_task(ASGIHandler()(each.scope, each.receive, each.send))  # type: ignore[arg-type]
            for each in browsers
        ]
        await received(sandbox, 1)
        await until(lambda: waiting() == 7)
        for browser in browsers[:4]:
            browser.gone.set()
        await asyncio.gather(*requests[:4])
        sandbox.release()
        await asyncio.gather(*requests)
        assert [len(browser.sent) for browser in browsers] == [0] * 4 + [2] * 4

    sandbox.hold()
    asyncio.run(main())
    assert sandbox.received == 1


@here
def test_a_browser_that_is_gone_before_a_retry_pays_for_none(sandbox: Sandbox) -> None:
    async def main() -> None:
        browser = Browser("/async/", "text=Ada")
        request = asyncio.create_task(ASGIHandler()(browser.scope, browser.receive, browser.send))  # type: ignore[arg-type]
        await received(sandbox, 1)
        browser.gone.set()
        await request

    sandbox.fail(faults.server_error(500), times=None)
    sandbox.hold()
    asyncio.run(main())
    sandbox.release()
    wait_until(lambda: background_calls() == 0)
    assert sandbox.received == 1


@here
@pytest.mark.django_db
def test_what_was_paid_is_in_the_ledger_when_the_call_is_answered(sandbox: Sandbox) -> None:
    asyncio.run(AsyncClient().get("/async/", {"text": "Ada"}))
    Client().get("/async/", {"text": "Ada"})
    stats = llmcache.stats()
    assert (stats.misses, stats.hits, stats.calls, stats.calls_in_doubt) == (1, 1, 1, 0)


def test_the_examples_of_the_page_run(sandbox: Sandbox) -> None:
    page = (Path(__file__).parents[2] / "docs" / "async.md").read_text()
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(block, "async.md", "exec"), names)
    request = RequestFactory().get("/", {"text": "The printer is on fire"})
    replies = [
        asyncio.run(names["inbox"](request)),
        asyncio.run(names["async_view"](request)),
        names["sync_view"](request),
    ]
    assert {reply.content for reply in replies} == {replies[0].content}
    assert asyncio.run(names["triage"](["The printer is on fire", "So is the house"]))[1].title
    assert sandbox.calls == 2
