"""Streams on their way to a browser: events over HTTP, under WSGI and under ASGI."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from django.http import HttpRequest, StreamingHttpResponse
from django.test import AsyncClient, Client
from django.urls import path
from pydantic import BaseModel, Field, field_serializer
from pydantic_core import PydanticSerializationError

import llmcache
from llmcache.server_events import event_stream
from llmcache.testing.sandbox import Sandbox, faults

LINES = [{"name": f"thing {number}", "howMuch": number} for number in range(3)]


class Line(BaseModel):
    """A line of a recipe."""

    name: str
    amount: int = Field(alias="howMuch")

    @field_serializer("amount")
    def doubled(self, amount: int) -> int:
        """Fail for a part of a line."""
        return amount + 0


class Recipe(BaseModel):
    """A recipe."""

    title: str
    lines: list[Line]


def lines(request: HttpRequest) -> StreamingHttpResponse:
    return event_stream(llmcache.extract_iterable("lines", Line))


def recipe(request: HttpRequest) -> StreamingHttpResponse:
    return event_stream(llmcache.extract_partial("recipe", Recipe))


async def awaited_lines(request: HttpRequest) -> StreamingHttpResponse:
    return event_stream(llmcache.aextract_iterable("lines", Line))


def broken(request: HttpRequest) -> StreamingHttpResponse:
    def values() -> Iterator[Any]:
        yield {"a": "\u2028 line\nend"}
        raise ZeroDivisionError("of the user's text")

    return event_stream(values())


async def awaited_broken(request: HttpRequest) -> StreamingHttpResponse:
    async def values() -> AsyncIterator[Any]:
        yield 1
        raise ZeroDivisionError("of the user's text")

    return event_stream(values())


urlpatterns = [
    path("lines/", lines),
    path("recipe/", recipe),
    path("awaited/", awaited_lines),
    path("broken/", broken),
    path("awaited-broken/", awaited_broken),
]
pytestmark = pytest.mark.urls(__name__)


@pytest.fixture(autouse=True)
def answers(sandbox: Sandbox) -> None:
    sandbox.answers["lines"] = LINES
    sandbox.answers["recipe"] = {"title": "A soup", "lines": LINES}


def events(body: bytes) -> list[tuple[str, Any]]:
    """Take a body apart as a browser does."""
    found: list[tuple[str, Any]] = []
    for block in body.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        assert name.startswith("event: ")
        assert data.startswith("data: ")
        found.append((name[7:], json.loads(data[6:])))
    return found


def got(response: Any) -> list[tuple[str, Any]]:
    assert (response.status_code, response["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
    assert (response["Cache-Control"], response["X-Accel-Buffering"]) == ("no-cache", "no")
    return events(b"".join(response.streaming_content))


async def agot(client: AsyncClient, address: str) -> list[tuple[str, Any]]:
    response: Any = await client.get(address)
    return events(b"".join([part async for part in response.streaming_content]))


async def collect(response: Any, sent: list[bytes]) -> None:
    """Note what comes up to an error too."""
    async for part in response.streaming_content:
        sent += [part]


def test_each_value_is_an_event_and_the_last_one_says_that_it_is_over(client: Client, sandbox: Sandbox) -> None:
    expected = [*(("value", line) for line in LINES), ("end", {})]
    assert got(client.get("/lines/")) == expected
    assert got(client.get("/lines/")) == expected
    assert asyncio.run(agot(AsyncClient(), "/awaited/")) == expected
    assert sandbox.calls == 1


def test_a_growing_value_leaves_out_what_cannot_be_written_yet(client: Client) -> None:
    *values, last = got(client.get("/recipe/"))
    assert last == ("end", {})
    assert values[-1] == ("value", {"title": "A soup", "lines": LINES})
    titles = [value["title"] for _, value in values]
    assert titles[:2] == [None, ""]
    assert "A " in titles


@pytest.mark.parametrize(("fault", "count"), [(faults.refusal(), 0), (faults.truncated(), 1)], ids=["refusal", "cut"])
def test_what_goes_wrong_is_an_event(fault: faults.Fault, count: int, client: Client, sandbox: Sandbox) -> None:
    sandbox.fail(fault, times=None)
    for found in (got(client.get("/lines/")), asyncio.run(agot(AsyncClient(), "/awaited/"))):
        names = [name for name, _ in found]
        assert names == ["value"] * count + ["error", "end"]
        told = found[-2][1]
        assert told["code"] == ("refused" if fault.name == "refusal" else "truncated")
        assert told["message"]
        assert "thing" not in told["message"]


def test_another_error_is_told_without_its_text_and_raised_again() -> None:
    response: Any = Client().get("/broken/")
    sent: list[bytes] = []
    with pytest.raises(ZeroDivisionError):
        sent.extend(response.streaming_content)
    # The end too: a browser that hears of none asks again, and each time somebody pays.
    assert [name for name, _ in events(b"".join(sent))] == ["value", "error", "end"]
    assert b"user" not in b"".join(sent)
    sent.clear()

    async def main() -> None:
        awaited: Any = await AsyncClient().get("/awaited-broken/")
        with pytest.raises(ZeroDivisionError):
            await collect(awaited, sent)

    asyncio.run(main())
    assert [name for name, _ in events(b"".join(sent))] == ["value", "error", "end"]


def test_a_last_value_that_cannot_be_written_is_no_end_without_it() -> None:
    sent: list[bytes] = []
    with pytest.raises(PydanticSerializationError):
        sent.extend(event_stream([object(), 1, object()]).streaming_content)  # type: ignore[arg-type]
    assert [name for name, _ in events(b"".join(sent))] == ["value", "error", "end"]

    async def values() -> AsyncIterator[Any]:
        yield object()

    async def main() -> None:
        with pytest.raises(PydanticSerializationError):
            await collect(event_stream(values()), sent)

    sent.clear()
    asyncio.run(main())
    assert [name for name, _ in events(b"".join(sent))] == ["error", "end"]


def test_one_value_is_no_stream() -> None:
    line = Line(name="salt", howMuch=1)
    for value in (line, "salt", b"salt", {"name": "salt"}, None, 7):
        with pytest.raises(llmcache.InvalidRequest, match=r"takes what .*; not \w+\.$"):
            event_stream(value)  # type: ignore[arg-type]
    assert got(event_stream([line])) == [("value", {"name": "salt", "howMuch": 1}), ("end", {})]


def closing(request: HttpRequest) -> StreamingHttpResponse:
    return event_stream(noted())


def noted() -> Iterator[Any]:
    """Yield values, and note that nobody wants more of them."""
    try:
        yield 1
        yield 2
    finally:
        CLOSED.append(True)


async def awaited_noted() -> AsyncIterator[Any]:
    """Do as ``noted``."""
    try:
        yield 1
        await asyncio.sleep(60)
    finally:
        CLOSED.append(True)


CLOSED: list[bool] = []
urlpatterns.append(path("closing/", closing))


@pytest.mark.django_db
def test_who_closes_the_page_ends_the_call(client: Client) -> None:
    CLOSED.clear()
    response: Any = client.get("/closing/")
    assert next(iter(response.streaming_content)).startswith(b"event: value")
    assert CLOSED == []
    response.close()
    assert CLOSED == [True]

    async def main() -> None:
        began = asyncio.Event()

        async def read() -> None:
            async for _ in event_stream(awaited_noted()):
                began.set()

        task = asyncio.create_task(read())
        await began.wait()
        # As Django does when the other side has gone.
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    CLOSED.clear()
    asyncio.run(main())
    assert CLOSED == [True]
