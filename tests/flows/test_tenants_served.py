"""A tenant that a middleware sets, under Django's own handlers, with many requests of several tenants at once.

Wherever a view calls from, its answer is that of its own tenant or the call raises: never another tenant's.
"""

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import Any

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction, sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import AsyncRequestFactory, RequestFactory, override_settings
from django.urls import path
from django.utils.decorators import sync_and_async_middleware
from pydantic import BaseModel

import llmcache
from llmcache.testing.sandbox import Sandbox
from tests.conftest import llmcache_settings

TENANTS = ("acme", "globex", "initech")
ROUNDS = 6
MISSING = "no tenant"


class Person(BaseModel):
    """A person."""

    name: str


_current: ContextVar[str | None] = ContextVar("tenant", default=None)
current = _current.get


@sync_and_async_middleware
def tidy(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Set the tenant of a request for as long as it is answered."""
    if iscoroutinefunction(get_response):

        async def awaited(request: HttpRequest) -> HttpResponse:
            token = _current.set(request.headers.get("X-Tenant"))
            try:
                return await get_response(request)
            finally:
                _current.reset(token)

        return awaited

    def called(request: HttpRequest) -> HttpResponse:
        token = _current.set(request.headers.get("X-Tenant"))
        try:
            return get_response(request)
        finally:
            _current.reset(token)

    return called


class OnlySync:
    """Does as ``tidy`` in a thread, as most middlewares are written."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        token = _current.set(request.headers.get("X-Tenant"))
        try:
            return self.get_response(request)
        finally:
            _current.reset(token)


class Untidy:
    """Leaves the tenant of a request where it was set."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        _current.set(request.headers.get("X-Tenant"))
        return self.get_response(request)


# -- how views call


def name() -> str:
    """Return what a call gives, or that it raised."""
    try:
        return llmcache.extract("Ada", Person).name
    except llmcache.TenantMissing:
        return MISSING


async def aname() -> str:
    """Do as ``name``, awaited, while others run."""
    await asyncio.sleep(0)
    try:
        return (await llmcache.aextract("Ada", Person)).name
    except llmcache.TenantMissing:
        return MISSING


def _in_a_pool() -> str:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(name).result()


def _in_a_pool_with_its_context() -> str:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(copy_context().run, name).result()


def _in_a_thread() -> str:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(name()))
    thread.start()
    thread.join()
    return found[0]


def _in_an_asyncio_of_its_own() -> str:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, aname()).result()


SYNC: dict[str, Callable[[], str]] = {
    "called": name,
    "bridged": lambda: async_to_sync(aname)(),
    "in-a-pool": _in_a_pool,
    "in-a-pool-with-its-context": _in_a_pool_with_its_context,
    "in-a-thread": _in_a_thread,
    "in-an-asyncio-of-its-own": _in_an_asyncio_of_its_own,
}


async def _in_a_task() -> str:
    return await asyncio.create_task(aname())


async def _begun_and_awaited_later() -> str:
    try:
        call = llmcache.aextract("Ada", Person)
        _current.set("somebody else")
        await asyncio.sleep(0)
        return (await call).name
    except llmcache.TenantMissing:
        return MISSING


async def _gathered() -> str:
    (found,) = {*(await asyncio.gather(*(aname() for _ in range(3))))}
    return found


async def _in_an_executor() -> str:
    return await asyncio.get_running_loop().run_in_executor(None, name)


async def _in_a_thread_of_asyncio() -> str:
    return await asyncio.to_thread(name)


async def _in_a_thread_of_django() -> str:
    return await sync_to_async(name)()


async def _in_a_thread_of_djangos_own_each() -> str:
    return await sync_to_async(name, thread_sensitive=False)()


ASYNC: dict[str, Callable[[], Awaitable[str]]] = {
    "awaited": aname,
    "begun": _begun_and_awaited_later,
    "in-a-task": _in_a_task,
    "gathered": _gathered,
    "to-thread": _in_a_thread_of_asyncio,
    "sync-to-async": _in_a_thread_of_django,
    "sync-to-async-anywhere": _in_a_thread_of_djangos_own_each,
    "in-an-executor": _in_an_executor,
}
WITHOUT = {"in-a-pool", "in-a-thread", "in-an-asyncio-of-its-own", "in-an-executor"}
"""Ways that take no context along: they find no tenant."""


def sync_view(request: HttpRequest, way: str) -> HttpResponse:
    return HttpResponse(SYNC[way]())


async def async_view(request: HttpRequest, way: str) -> HttpResponse:
    return HttpResponse(await ASYNC[way]())


def stream_view(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        for _ in range(3):
            yield f"{name()},"

    return StreamingHttpResponse(parts())


async def async_stream_view(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[str]:
        for _ in range(3):
            yield f"{await aname()},"

    return StreamingHttpResponse(parts())


def bound_stream_view(request: HttpRequest) -> StreamingHttpResponse:
    own = llmcache.Extractor(tenant=current())

    def parts() -> Iterator[str]:
        for _ in range(3):
            yield f"{own.extract('Ada', Person).name},"

    return StreamingHttpResponse(parts())


async def bound_async_stream_view(request: HttpRequest) -> StreamingHttpResponse:
    own = llmcache.Extractor(tenant=current())

    async def parts() -> AsyncIterator[str]:
        for _ in range(3):
            yield f"{(await own.aextract('Ada', Person)).name},"

    return StreamingHttpResponse(parts())


urlpatterns = [
    path("sync/<way>/", sync_view),
    path("async/<way>/", async_view),
    path("stream/", stream_view),
    path("async-stream/", async_stream_view),
    path("bound-stream/", bound_stream_view),
    path("bound-async-stream/", bound_async_stream_view),
]


# -- servers


def wsgi_body(application: WSGIHandler, address: str, tenant: str) -> Iterator[bytes]:
    """Answer a request as a server's thread does, part by part."""
    environ = RequestFactory(headers={"X-Tenant": tenant}).get(address).environ
    environ["wsgi.input"] = io.BytesIO()
    response: Any = application(environ, lambda *_: None)
    assert response.status_code == 200
    try:
        yield from response
    finally:
        response.close()


def under_wsgi(requests: list[tuple[str, str]]) -> list[str]:
    """Answer requests by a few threads that are used again and again."""
    application = WSGIHandler()

    def answer(asked: tuple[str, str]) -> str:
        return b"".join(wsgi_body(application, *asked)).decode()

    with ThreadPoolExecutor(4) as threads:
        return list(threads.map(answer, requests))


def under_asgi(requests: list[tuple[str, str]]) -> list[str]:
    """Answer requests at once, each in a task of its own."""
    application = ASGIHandler()

    async def answer(address: str, tenant: str) -> str:
        scope = AsyncRequestFactory(headers={"X-Tenant": tenant})._base_scope(path=address)
        scope["headers"] = [(b"x-tenant", tenant.encode())]
        begun = [{"type": "http.request", "body": b"", "more_body": False}]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if begun:
                return begun.pop()
            # The client stays.
            return await asyncio.Event().wait() or {}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await application(scope, receive, send)
        assert sent[0]["status"] == 200
        return b"".join(message.get("body", b"") for message in sent[1:]).decode()

    async def main() -> list[str]:
        return await asyncio.gather(*(asyncio.create_task(answer(*asked)) for asked in requests))

    return asyncio.run(main())


SERVERS = {"WSGI": under_wsgi, "ASGI": under_asgi}


@pytest.fixture(params=["tidy", "OnlySync", "Untidy"])
def middleware(request: pytest.FixtureRequest, sandbox: Sandbox) -> Iterator[str]:
    """The middleware that tells the tenant to calls which need one; each tenant's answer is there, and its own."""
    urls = override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[f"{__name__}.{request.param}"])
    with urls, llmcache_settings(TENANT=f"{__name__}.current", TENANT_REQUIRED=True):
        for tenant in TENANTS:
            sandbox.answers["Ada"] = {"name": f"Ada of {tenant}"}
            llmcache.extract("Ada", Person, tenant=tenant)
        yield request.param
    assert sandbox.received == len(TENANTS)


def answers(server: str, address: str) -> dict[str, set[str]]:
    """Ask for many at once, by turns of the tenants, and return what each tenant was told."""
    requests = [(address, tenant) for _ in range(ROUNDS) for tenant in TENANTS]
    found: dict[str, set[str]] = {tenant: set() for tenant in TENANTS}
    for (_, tenant), body in zip(requests, SERVERS[server](requests), strict=True):
        found[tenant].add(body)
    return found


@pytest.mark.parametrize("server", SERVERS)
def test_a_view_gets_its_own_tenants_answer_or_none(server: str, middleware: str) -> None:
    ways = [*(f"sync/{way}" for way in SYNC), *(f"async/{way}" for way in ASYNC)]
    bare = {way for way in ways if way.partition("/")[2] in WITHOUT}
    own, none = {tenant: {f"Ada of {tenant}"} for tenant in TENANTS}, {tenant: {MISSING} for tenant in TENANTS}
    assert {way: answers(server, f"/{way}/") for way in ways} == {way: none if way in bare else own for way in ways}


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume:Warning")
def test_a_stream_gets_its_own_tenants_answer_or_none(server: str, middleware: str) -> None:
    own, none = ({tenant: said.format(tenant) * 3 for tenant in TENANTS} for said in ("Ada of {},", f"{MISSING},"))
    for view in ("stream", "async-stream"):
        for tenant, found in answers(server, f"/{view}/").items():
            # Where an untidy middleware left it, it may be found: nobody else's.
            assert found == {none[tenant]} or (middleware == "Untidy" and found <= {own[tenant], none[tenant]})
    for view in ("bound-stream", "bound-async-stream"):
        assert answers(server, f"/{view}/") == {tenant: {own[tenant]} for tenant in TENANTS}


def by_turns(view: str) -> list[dict[str, str]]:
    """Begin a stream for each tenant in one thread, and read a part of each by turns, three times."""

    def read() -> list[dict[str, str]]:
        application = WSGIHandler()
        streams = {tenant: wsgi_body(application, f"/{view}/", tenant) for tenant in TENANTS}
        return [{tenant: next(parts).decode() for tenant, parts in streams.items()} for _ in range(3)]

    # A thread of its own, as a server has: a request's end looks at the thread's database connections.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(read).result()


def test_streams_that_one_thread_reads_by_turns_are_told_apart(middleware: str) -> None:
    assert by_turns("bound-stream") == [{tenant: f"Ada of {tenant}," for tenant in TENANTS}] * 3
    if middleware != "Untidy":
        assert by_turns("stream") == [dict.fromkeys(TENANTS, f"{MISSING},")] * 3


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("way", ["sync/called", "async/awaited", "async/in-a-task", "async/to-thread"])
def test_tenants_that_ask_the_same_at_once_wait_for_no_call_of_another(way: str, server: str, sandbox: Sandbox) -> None:
    urls = override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[f"{__name__}.tidy"])
    with urls, llmcache_settings(TENANT=f"{__name__}.current", TENANT_REQUIRED=True):
        sandbox.hold()
        with ThreadPoolExecutor(1) as aside:
            bodies = aside.submit(SERVERS[server], [(f"/{way}/", tenant) for tenant in TENANTS])
            # Under way at the same time, each paid for by its own tenant.
            sandbox.wait_until_received(len(TENANTS))
            sandbox.release()
            assert len(bodies.result(60)) == len(TENANTS)
        assert sandbox.received == len(TENANTS)
        keys = {llmcache.extract_with_info("Ada", Person, tenant=tenant).key for tenant in TENANTS}
        assert len(keys) == len(TENANTS)
    assert sandbox.received == len(TENANTS)
