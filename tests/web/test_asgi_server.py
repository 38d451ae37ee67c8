"""A view that streams, behind a real ASGI server: what arrives when, and what becomes of a reader who goes."""

import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import pytest
import uvicorn
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponseBase, StreamingHttpResponse
from django.test import override_settings
from django.urls import path
from django.utils.decorators import async_only_middleware
from pydantic import BaseModel

import llmcache
from llmcache.engine import process
from llmcache.server_events import event_stream
from tests.conftest import JournalReader, llmcache_settings
from tests.flows.test_flights import wait_until
from tests.gated import END, Gated, event, gated_provider

_who: ContextVar[str] = ContextVar("who", default="nobody")


class Recipe(BaseModel):
    """A recipe."""

    title: str
    steps: tuple[str, ...]


async def recipe(request: HttpRequest) -> StreamingHttpResponse:
    return event_stream(llmcache.aextract_partial(request.GET["text"], Recipe))


urlpatterns = [path("recipe/", recipe)]

Respond = Callable[[HttpRequest], Awaitable[HttpResponseBase]]


@async_only_middleware
def tenants(respond: Respond) -> Respond:
    """Tell whose a request is, for as long as its view runs: the stream goes out when that is over."""

    async def middleware(request: HttpRequest) -> HttpResponseBase:
        before = _who.set(request.headers["X-Tenant"])
        try:
            return await respond(request)
        finally:
            _who.reset(before)

    return middleware


@pytest.fixture
def gated() -> Iterator[Gated]:
    with gated_provider() as provider:
        yield provider


@pytest.fixture
def port(gated: Gated) -> Iterator[int]:
    """A free port of this machine at which the views above are served."""
    with (
        override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[f"{__name__}.tenants"], ALLOWED_HOSTS=["127.0.0.1"]),
        llmcache_settings(TENANT=_who.get, TENANT_REQUIRED=True),
    ):
        told: dict[str, Any] = {"loop": "asyncio", "http": "h11", "ws": "none", "lifespan": "off", "log_config": None}
        server = uvicorn.Server(uvicorn.Config(get_asgi_application(), host="127.0.0.1", port=0, **told))
        thread = threading.Thread(target=server.run)
        thread.start()
        wait_until(lambda: server.started or not thread.is_alive())
        yield server.servers[0].sockets[0].getsockname()[1]
        server.should_exit = True
        thread.join()


@contextlib.contextmanager
def asked(port: int, tenant: str = "acme") -> Iterator[HTTPResponse]:
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/recipe/?text=soup", headers={"X-Tenant": tenant})
    try:
        response = connection.getresponse()
        assert (response.status, response.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
        yield response
        response.close()
    finally:
        connection.close()


def next_event(response: HTTPResponse) -> tuple[str, Any]:
    """Wait for one event, and not for more."""
    name, data, end = (response.readline().decode() for _ in range(3))
    assert end == "\n"
    return name.removeprefix("event: ").strip(), json.loads(data.removeprefix("data: "))


def value(title: str | None, *steps: str) -> tuple[str, Any]:
    return "value", {"title": title, "steps": list(steps) or None}


BEGINNING = [value(None), value("")]


def test_each_value_arrives_when_it_is_written_and_is_the_tenants(port: int, gated: Gated) -> None:
    gated.pieces = [event('{"title":"One '), event('pan","steps":["Cut '), event('it","Fry"]}'), *END]
    with asked(port) as response:
        gated.let()
        assert [next_event(response) for _ in range(2)] == BEGINNING
        gated.let()
        assert next_event(response) == value("One ")
        assert next_event(response) == value("One pan")
        assert next_event(response) == value("One pan", "")
        gated.let(3)
        rest = [next_event(response)]
        while rest[-1][0] == "value":
            rest.append(next_event(response))
        assert rest[-2:] == [value("One pan", "Cut it", "Fry"), ("end", {})]
        assert response.read() == b""
    assert llmcache.extract("soup", Recipe, tenant="acme", cache="only").steps == ("Cut it", "Fry")
    for other in ("globex", "nobody"):
        with pytest.raises(llmcache.NotCached):
            llmcache.extract("soup", Recipe, tenant=other, cache="only")
    with asked(port) as response:
        assert [next_event(response) for _ in range(3)] == [*BEGINNING, value("One ")]
        assert response.read().endswith(b"event: end\ndata: {}\n\n")
    assert gated.received == 1


def test_what_goes_wrong_after_the_first_byte_is_an_event(port: int, gated: Gated) -> None:
    gated.pieces = [event('{"title":"One '), b'data: {"error": {"message": "soup", "type": "server_error"}}\n\n']
    with asked(port) as response:
        gated.let()
        assert [next_event(response) for _ in range(2)] == BEGINNING
        gated.let()
        name, told = next_event(response)
        assert (name, sorted(told)) == ("error", ["code", "message"])
        assert "soup" not in told["message"]
        assert next_event(response) == ("end", {})
        assert response.read() == b""


def test_a_browser_that_goes_away_ends_the_call(
    port: int,
    gated: Gated,
    journal: JournalReader,
) -> None:
    gated.pieces = [event('{"title":"One '), *[event("and so on ")] * 200, *END]
    gated.let()
    with asked(port) as response:
        assert [next_event(response) for _ in range(2)] == BEGINNING
    wait_until(lambda: not process.current().flights._flights)
    wait_until(lambda: [record.event for record in journal.records()] == ["started", "failed"])
    assert journal.records()[1].facts["error"] == "interrupted"
    # Its provider finds nobody there any more.
    wait_until(lambda: gated.let() or gated.lost == 1)
    with pytest.raises(llmcache.NotCached):
        llmcache.extract("soup", Recipe, tenant="acme", cache="only")
    assert gated.received == 1
