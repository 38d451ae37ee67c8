"""Tenants: whose call it is holds wherever a call is made, or the call raises; two of them never share an answer."""

import asyncio
import base64
import json
import pickle
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction, sync_to_async
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path
from django.utils.decorators import sync_and_async_middleware
from django.utils.functional import SimpleLazyObject
from pydantic import BaseModel

import llmcache
from llmcache import keys
from llmcache.checks import check_llmcache
from llmcache.engine import process
from llmcache.testing.sandbox import Sandbox
from tests.conftest import JournalReader, child_environment, llmcache_settings


class Person(BaseModel):
    """A person."""

    name: str


_current: ContextVar[str | None] = ContextVar("tenant", default=None)
_asked: list[str | None] = []


def current() -> str | None:
    """Tell the tenant that the middleware set."""
    if threading.current_thread().name.startswith("llmcache"):
        raise AssertionError("A thread of llmcache's own asks.")
    _asked.append(_current.get())
    return _current.get()


HERE = f"{__name__}.current"


@sync_and_async_middleware
def tenants(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
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


class Synchronous:
    """Does as ``tenants``, as most middlewares are written."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        token = _current.set(request.headers.get("X-Tenant"))
        try:
            return self.get_response(request)
        finally:
            _current.reset(token)


def shown(found: llmcache.Extraction[Person]) -> dict[str, str]:
    return {"key": found.key, "outcome": found.outcome, "name": found.value.name}


def sync_view(request: HttpRequest) -> HttpResponse:
    """Call synchronously."""
    return JsonResponse(shown(llmcache.extract_with_info("Ada", Person)))


async def async_view(request: HttpRequest) -> HttpResponse:
    """Call asynchronously."""
    return JsonResponse(shown(await llmcache.aextract_with_info("Ada", Person)))


def bridging_view(request: HttpRequest) -> HttpResponse:
    """Call the asynchronous twin from a synchronous view."""
    return JsonResponse(shown(async_to_sync(llmcache.aextract_with_info)("Ada", Person)))


async def threaded_view(request: HttpRequest) -> HttpResponse:
    """Call synchronously in a thread of an asynchronous view."""
    return JsonResponse(shown(await sync_to_async(llmcache.extract_with_info)("Ada", Person)))


def quick_view(request: HttpRequest) -> HttpResponse:
    """Call as most do, so that memory answers a repeat."""
    return HttpResponse(llmcache.extract("Ada", Person).name)


async def quick_async_view(request: HttpRequest) -> HttpResponse:
    """Do as ``quick_view``, awaited."""
    return HttpResponse((await llmcache.aextract("Ada", Person)).name)


def late_view(request: HttpRequest) -> StreamingHttpResponse:
    """Call while the response is read."""

    def parts() -> Iterator[str]:
        yield json.dumps(shown(llmcache.extract_with_info("Ada", Person)))

    return StreamingHttpResponse(parts())


async def late_async_view(request: HttpRequest) -> StreamingHttpResponse:
    """Do as ``late_view``, awaited."""

    async def parts() -> AsyncIterator[str]:
        yield json.dumps(shown(await llmcache.aextract_with_info("Ada", Person)))

    return StreamingHttpResponse(parts())


def bound_view(request: HttpRequest) -> StreamingHttpResponse:
    """Bind the tenant at once, and call while the response is read."""
    own = llmcache.Extractor(tenant=current())

    def parts() -> Iterator[str]:
        yield json.dumps(shown(own.extract_with_info("Ada", Person)))

    return StreamingHttpResponse(parts())


async def begun_view(request: HttpRequest) -> StreamingHttpResponse:
    """Call at once, and await the call while the response is read."""
    calls: list[Awaitable[llmcache.Extraction[Person]]] = [llmcache.aextract_with_info("Ada", Person)]

    async def parts() -> AsyncIterator[str]:
        for call in calls:
            yield json.dumps(shown(await call))

    return StreamingHttpResponse(parts())


urlpatterns = [
    path("sync/", sync_view),
    path("async/", async_view),
    path("bridging/", bridging_view),
    path("threaded/", threaded_view),
    path("quick/", quick_view),
    path("quick-async/", quick_async_view),
    path("late/", late_view),
    path("late-async/", late_async_view),
    path("bound/", bound_view),
    path("begun/", begun_view),
]


@pytest.fixture
def told(sandbox: Sandbox) -> Iterator[None]:
    """A project whose middleware knows the tenant and whose calls need one."""
    _asked.clear()
    urls = override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[f"{__name__}.tenants"])
    with urls, llmcache_settings(TENANT=HERE, TENANT_REQUIRED=True):
        yield


def key_under(tenant: str) -> str:
    """Return the key under which a tenant's answer lies, which is there."""
    found = llmcache.extract_with_info("Ada", Person, tenant=tenant)
    assert found.outcome == "hit"
    return found.key


def under_wsgi(view: str, tenant: str | None) -> bytes:
    response: Any = Client().get(f"/{view}/", headers=None if tenant is None else {"X-Tenant": tenant})
    if not response.streaming:
        return response.content
    # As a server does: after the middleware has ended.
    return b"".join(response.streaming_content)


def under_asgi(view: str, tenant: str | None) -> bytes:
    async def main() -> bytes:
        response: Any = await AsyncClient().get(f"/{view}/", headers=None if tenant is None else {"X-Tenant": tenant})
        if not response.streaming:
            return response.content
        if response.is_async:
            return b"".join([part async for part in response.streaming_content])
        return await sync_to_async(lambda: b"".join(response.streaming_content))()

    return asyncio.run(main())


SERVERS = {"wsgi": under_wsgi, "asgi": under_asgi}


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("middleware", ["tenants", "Synchronous"])
@pytest.mark.parametrize("view", ["sync", "async", "bridging", "threaded"])
def test_what_a_middleware_set_holds_in_every_view(
    server: str, view: str, middleware: str, told: None, sandbox: Sandbox, settings: Any
) -> None:
    settings.MIDDLEWARE = [f"{__name__}.{middleware}"]
    for tenant in ("acme", "globex"):
        found = [json.loads(SERVERS[server](view, tenant)) for _ in range(2)]
        assert [each["outcome"] for each in found] == ["miss", "hit"]
        assert {each["key"] for each in found} == {key_under(tenant)}
    assert sandbox.received == 2
    with pytest.raises(llmcache.TenantMissing):
        SERVERS[server](view, None)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("view", ["quick", "quick-async"])
def test_memory_gives_each_tenant_its_own(server: str, view: str, told: None, sandbox: Sandbox) -> None:
    for tenant in ("acme", "globex", "initech"):
        sandbox.answers["Ada"] = {"name": f"Ada of {tenant}"}
        assert SERVERS[server](view, tenant) == f"Ada of {tenant}".encode()
    for tenant in ("globex", "acme", "initech"):
        assert SERVERS[server](view, tenant) == f"Ada of {tenant}".encode()
    assert sandbox.received == 3
    with pytest.raises(llmcache.TenantMissing):
        SERVERS[server](view, None)


@pytest.mark.parametrize(("server", "view"), [("wsgi", "late"), ("asgi", "late-async")])
def test_a_call_made_while_a_response_is_read_raises(server: str, view: str, told: None, sandbox: Sandbox) -> None:
    with pytest.raises(llmcache.TenantMissing, match=r"LLMCACHE\['TENANT'\] told none here"):
        SERVERS[server](view, "acme")
    assert sandbox.received == 0
    # Not for want of a middleware.
    assert json.loads(SERVERS[server]("sync", "acme"))["outcome"] == "miss"


@pytest.mark.parametrize(("server", "view"), [("wsgi", "bound"), ("asgi", "bound"), ("asgi", "begun")])
def test_a_tenant_bound_before_holds_while_a_response_is_read(
    server: str, view: str, told: None, sandbox: Sandbox
) -> None:
    for tenant in ("acme", "globex"):
        assert json.loads(SERVERS[server](view, tenant))["key"] == key_under(tenant)


def test_a_pool_of_threads_takes_the_context_along_or_raises(told: None, sandbox: Sandbox) -> None:
    _current.set("acme")
    try:
        with ThreadPoolExecutor(2) as pool:
            bare = [pool.submit(llmcache.extract_with_info, "Ada", Person) for _ in range(4)]
            taken = [pool.submit(copy_context().run, llmcache.extract_with_info, "Ada", Person) for _ in range(4)]
        assert all(isinstance(each.exception(), llmcache.TenantMissing) for each in bare)
        assert {each.result().key for each in taken} == {key_under("acme")}
    finally:
        _current.set(None)
    assert sandbox.received == 1


def test_tasks_keep_theirs_and_a_call_keeps_what_held_when_it_was_made(told: None, sandbox: Sandbox) -> None:
    async def one(tenant: str, both: asyncio.Barrier) -> str:
        _current.set(tenant)
        await both.wait()
        call = llmcache.aextract_with_info("Ada", Person)
        _current.set("somebody else")
        await both.wait()
        return (await call).key

    async def main() -> list[str]:
        names = ["acme", "globex", "initech"]
        both = asyncio.Barrier(len(names))
        return await asyncio.gather(*(one(name, both) for name in names))

    keys = asyncio.run(main())
    assert keys == [key_under(tenant) for tenant in ("acme", "globex", "initech")]
    assert sandbox.received == 3


def test_many_tenants_ask_the_same_and_share_nothing(told: None, sandbox: Sandbox) -> None:
    texts = [f"text {number}" for number in range(8)]
    for tenant in (names := [f"tenant {number}" for number in range(12)]):
        _current.set(tenant)
        for text in texts:
            sandbox.answers[text] = {"name": f"{text} of {tenant}"}
            llmcache.extract(text, Person)
    for tenant in names:
        _current.set(tenant)
        assert [llmcache.extract(text, Person).name for text in texts] == [f"{text} of {tenant}" for text in texts]
    _current.set(None)
    assert sandbox.received == len(texts) * len(names)


PROGRAM = """
import asyncio, json, django
django.setup()
import llmcache
from llmcache.engine import process
from tests.flows.test_tenants import Person, _current

async def main():
    _current.set("acme")
    call = llmcache.aextract_with_info("Ada", Person)
    made = process._current is not None
    _current.set("globex")
    try:
        return made, (await call).key
    finally:
        _current.set(None)
        late = llmcache.aextract("Ada", Person)
        try:
            await late
        except llmcache.TenantMissing as error:
            print(error.code)

print(json.dumps(asyncio.run(main())))
"""


def test_the_first_call_of_a_process_is_its_callers_too(told: None, sandbox: Sandbox) -> None:
    """It is made before this process has anything to answer it with."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**child_environment(), "PYTHONPATH": str(Path.cwd())},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    missing, found = done.stdout.splitlines()
    assert missing == "tenant_missing"
    assert json.loads(found) == [False, key_under("acme")]


def test_it_is_asked_once_for_each_call_that_names_no_tenant(told: None, sandbox: Sandbox) -> None:
    _current.set("acme")
    try:
        for make in (llmcache.extract, llmcache.extract_with_info, llmcache.extract_with_completion):
            for number in range(2):
                _asked.clear()
                make(f"{make.__name__}", Person)
                assert _asked == ["acme"], (make, number)
        for amake in (llmcache.aextract, llmcache.aextract_with_info, llmcache.aextract_with_completion):
            for number in range(2):
                _asked.clear()
                asyncio.run(_awaited(amake))
                assert _asked == ["acme"], (amake, number)
        _asked.clear()
        llmcache.extract("Ada", Person, tenant="globex")
        llmcache.Extractor(tenant="globex").extract("Ada", Person)
        assert _asked == []
    finally:
        _current.set(None)


async def _awaited(make: Any) -> Any:
    return await make(make.__name__, Person)


CALLS: dict[str, Callable[..., Any]] = {
    "extract": llmcache.extract,
    "extract_with_info": llmcache.extract_with_info,
    "extract_with_completion": llmcache.extract_with_completion,
    **{
        make.__name__: lambda *given, _make=make, **options: asyncio.run(_later(_make, given, options))
        for make in (llmcache.aextract, llmcache.aextract_with_info, llmcache.aextract_with_completion)
    },
}


async def _later(make: Any, given: Any, options: Any) -> Any:
    return await make(*given, **options)


@pytest.mark.parametrize("call", CALLS)
def test_without_a_tenant_that_is_required_nothing_is_looked_up_or_sent(
    call: str, sandbox: Sandbox, journal: JournalReader
) -> None:
    llmcache.extract("Ada", Person)
    with llmcache_settings(TENANT_REQUIRED=True):
        for options in ({}, {"tenant": None}, {"cache": "bypass"}, {"cache": "only"}, {"ttl": 0}):
            with pytest.raises(llmcache.TenantMissing, match=r"'TENANT_REQUIRED'.*'TENANT'") as caught:
                CALLS[call]("Ada", Person, **options)
            assert caught.value.code == "tenant_missing"
            assert pickle.loads(pickle.dumps(caught.value)).code == "tenant_missing"
        with pytest.raises(llmcache.TenantMissing):
            llmcache.Extractor(tenant=None).extract("Ada", Person)
        assert sandbox.received == 1
        CALLS[call]("Ada", Person, tenant="acme")
    assert sandbox.received == 2
    assert len(journal.records()) == 4


def _raises() -> str:
    raise LookupError("Ada")


async def _async() -> str:
    return "acme"


class Odd:
    """Tells its tenant when it is awaited."""

    async def __call__(self) -> str:
        return "acme"


class Name(str):
    """A str that is equal to every other."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


UNUSABLE: dict[str, tuple[Any, str]] = {
    "raises": (_raises, "raised LookupError"),
    "returns an int": (lambda: 1, "got 1"),
    "returns an empty str": (lambda: "", "1 to 1000 characters"),
    "returns bytes": (lambda: b"acme", "got a bytes"),
    "returns a lazy object": (lambda: SimpleLazyObject(lambda: "acme"), "got a SimpleLazyObject"),
    "returns a lone surrogate": (lambda: "acme \ud800", "lone surrogate"),
    "returns far too much": (lambda: "x" * 2_000, "it has 2000"),
    "has to be awaited": (Odd(), "got a coroutine"),
}


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("name", UNUSABLE)
def test_what_tells_no_tenant_ends_the_call(
    name: str, required: bool, sandbox: Sandbox, journal: JournalReader
) -> None:
    tell, says = UNUSABLE[name]
    with llmcache_settings(TENANT=tell, TENANT_REQUIRED=required):
        for call in CALLS.values():
            with pytest.raises(llmcache.TenantMissing, match=r"LLMCACHE\['TENANT'\]") as caught:
                call("Ada", Person)
            assert says in str(caught.value)
            assert "Ada" not in str(caught.value)
        assert (sandbox.received, journal.records()) == (0, [])
        assert llmcache.extract_with_info("Ada", Person, tenant="acme").outcome == "miss"


def test_a_str_of_another_class_is_taken_for_its_text(sandbox: Sandbox) -> None:
    with llmcache_settings(TENANT=lambda: Name(_current.get())):
        found: list[str] = []
        for tenant in ("acme", "globex"):
            _current.set(tenant)
            found.append(llmcache.extract_with_info("Ada", Person).key)
            llmcache.extract("Ada", Person)
        _current.set(None)
    assert found == [key_under(tenant) for tenant in ("acme", "globex")]
    assert sandbox.received == 2


def test_no_tenant_is_no_tenant_where_none_is_required(sandbox: Sandbox) -> None:
    before = llmcache.extract_with_info("Ada", Person)
    with llmcache_settings(TENANT=current):
        after = llmcache.extract_with_info("Ada", Person)
        assert (after.key, after.outcome) == (before.key, "hit")


@pytest.mark.parametrize(
    "path", ["nowhere.current", "tests.flows.test_tenants.nothing", "tests.flows.test_tenants.HERE"]
)
def test_a_path_that_leads_to_no_function(path: str, sandbox: Sandbox) -> None:
    with llmcache_settings(TENANT=path):
        assert [message.id for message in check_llmcache()] == ["llmcache.E008"]
        with pytest.raises(llmcache.ConfigurationError, match=r"LLMCACHE\['TENANT'\] is '"):
            llmcache.extract("Ada", Person)
        with pytest.raises(llmcache.ConfigurationError, match=r"LLMCACHE\['TENANT'\] is '"):
            asyncio.run(_awaited(llmcache.aextract))
    assert sandbox.received == 0


@pytest.mark.parametrize("secrets", [[], [("1", base64.b64encode(bytes(range(32))).decode())]], ids=["plain", "signed"])
def test_one_tenants_bytes_under_anothers_name_are_a_miss(
    secrets: Any, sandbox: Sandbox, forget_memory: Callable[[], None]
) -> None:
    with llmcache_settings(KEY_SECRETS=secrets):
        found = {tenant: llmcache.extract_with_info("Ada", Person, tenant=tenant) for tenant in ("acme", "globex")}
        now = process.current()
        tier, by = now.tiers.below[0], now.seals[0].id
        for make in (keys.storage_key, keys.supplement_key):
            data, name = (
                tier.get(make(now.namespace, bytes.fromhex(found["acme"].key), by)),
                make(now.namespace, bytes.fromhex(found["globex"].key), by),
            )
            assert data is not None
            tier.set(name, data, None)
        forget_memory()
        outcomes = [llmcache.extract_with_info("Ada", Person, tenant=each).outcome for each in ("globex", "acme")]
    assert outcomes == ["miss", "hit"]
