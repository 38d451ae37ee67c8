"""Every way in which a provider can fail an asynchronous call: error, journal and bounds as of a synchronous one."""

import asyncio
import contextlib
import gzip
import http.server
import pickle
import socket
import threading
import time
import traceback
from decimal import Decimal
from typing import Any

import pytest

import llmcache
from llmcache.providers import deadline
from llmcache.testing.sandbox import Sandbox, faults
from tests.conftest import JournalReader, llmcache_settings
from tests.flows.test_environment import serving
from tests.flows.test_faults import FAULTS, GOLD, TEXT, Person


class Quiet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def provider(sandbox: Sandbox) -> Sandbox:
    sandbox.answers[TEXT] = GOLD
    return sandbox


def facts_of(journal: JournalReader) -> list[dict[str, Any]]:
    """Return what the journal says of attempts, less what differs from call to call."""
    differ = {"latency_ms", "request_id", "input_tokens", "output_tokens", "cache_read_tokens"}
    return [
        {"event": record.event, **{name: told for name, told in record.facts.items() if name not in differ}}
        for record in journal.records()
    ]


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_what_it_is_for_a_synchronous_call(
    name: str, provider: Sandbox, journal: JournalReader, caplog: pytest.LogCaptureFixture
) -> None:
    fault, error_type, code, charged, cost = FAULTS[name]
    timeout = 1.0 if error_type is llmcache.ProviderTimeout else 20
    bounds = {"max_retries": 0, "max_reasks": 0, "timeout": timeout}
    provider.fail(fault())
    with pytest.raises(llmcache.LLMCacheError) as caught:
        asyncio.run(llmcache.aextract(TEXT, Person, **bounds))
    error = caught.value
    assert type(error) is error_type
    assert (error.code, error.attempts, error.kind, error.model) == (code, 1, "Person", "openai/gpt-5-mini")
    assert error.cost_usd == (Decimal(0) if cost == 0 else None)
    if charged is not None:
        assert provider.calls == charged
    whole = pickle.loads(pickle.dumps(error))
    assert (type(whole), str(whole)) == (type(error), str(error))
    told = [str(error), repr(error), *traceback.format_exception(error), caplog.text, journal.text()]
    assert not any("Canary" in text for text in told)

    provider.heal()
    provider.fail(fault())
    with pytest.raises(llmcache.LLMCacheError) as sync:
        llmcache.extract(TEXT, Person, **bounds)
    assert (str(sync.value), getattr(sync.value, "provider_error", None)) == (
        str(error), getattr(error, "provider_error", None),
    )  # fmt: skip
    lines = facts_of(journal)
    assert lines[: len(lines) // 2] == lines[len(lines) // 2 :]

    provider.heal()
    info = asyncio.run(llmcache.aextract_with_info(TEXT, Person))
    assert (info.outcome, info.value) == ("miss", Person(**GOLD))


@pytest.mark.parametrize("where", ["headers", "body"])
def test_a_drip_ends_with_the_calls_deadline(where: Any, provider: Sandbox) -> None:
    provider.fail(faults.drip(0.02, where=where), times=None)
    began = time.monotonic()
    with pytest.raises(llmcache.ProviderTimeout) as caught:
        asyncio.run(llmcache.aextract(TEXT, Person, timeout=1.5))
    assert caught.value.attempts == 1
    # Each byte came in time; far from the seconds that the whole of it would take.
    assert time.monotonic() - began < 5


def test_a_retry_gets_what_is_left_of_the_deadline(provider: Sandbox) -> None:
    provider.fail(faults.server_error(503))
    provider.fail(faults.hang())
    with pytest.raises(llmcache.ProviderTimeout) as caught:
        asyncio.run(llmcache.aextract(TEXT, Person, timeout=1.5))
    assert caught.value.attempts == 2


def test_a_retry_that_the_deadline_leaves_no_time_for_is_not_made(provider: Sandbox) -> None:
    provider.fail(faults.rate_limited(retry_after=86_400), times=None)
    with pytest.raises(llmcache.RateLimited) as caught:
        asyncio.run(llmcache.aextract(TEXT, Person))
    assert (caught.value.retry_after, provider.received) == (86_400, 1)


def test_retries_are_bounded(provider: Sandbox, journal: JournalReader) -> None:
    provider.fail(faults.rate_limited(retry_after=0), times=None)
    with pytest.raises(llmcache.RateLimited) as caught:
        asyncio.run(llmcache.aextract(TEXT, Person, max_retries=3))
    assert (caught.value.attempts, provider.received) == (4, 4)
    assert [record.event for record in journal.records()] == ["started", "failed"] * 4


def test_without_time_or_key_nothing_leaves(provider: Sandbox, journal: JournalReader) -> None:
    with pytest.raises(llmcache.ProviderTimeout):
        asyncio.run(llmcache.aextract(TEXT, Person, timeout=1e-9))
    with (
        llmcache_settings(PROVIDERS={"openai": {"base_url": provider.base_url}}),
        pytest.raises(llmcache.ConfigurationError, match="API key"),
    ):
        asyncio.run(llmcache.aextract(TEXT, Person))
    assert (journal.records(), provider.received) == ([], 0)


def test_a_refused_connection_costs_nothing(provider: Sandbox, journal: JournalReader) -> None:
    asyncio.run(llmcache.aextract("before", Person))
    provider.stop()
    with pytest.raises(llmcache.ProviderUnavailable) as caught:
        asyncio.run(llmcache.aextract(TEXT, Person, max_retries=0, cache="bypass"))
    assert caught.value.cost_usd == Decimal(0)
    assert journal.records()[-1].facts["in_doubt"] is False


def test_a_reply_is_bounded_while_it_is_read(provider: Sandbox) -> None:
    provider.fail(faults.huge(5_000_000))
    with llmcache_settings(MAX_VALUE_BYTES=100_000), pytest.raises(llmcache.ProviderError) as caught:
        asyncio.run(llmcache.aextract(TEXT, Person))
    assert caught.value.code == "reply_too_large"


def test_a_reader_that_does_not_read_is_bounded(sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes the connection and reads nothing
        there = {"openai": {"base_url": f"http://127.0.0.1:{server.getsockname()[1]}/v1", "api_key": "sandbox"}}
        with llmcache_settings(PROVIDERS=there, MAX_TEXT_BYTES=2**26), pytest.raises(llmcache.ProviderTimeout):
            asyncio.run(llmcache.aextract("x" * 20_000_000, Person, timeout=0.7))


def test_a_reader_that_reads_slowly_is_bounded(sandbox: Sandbox) -> None:
    over = threading.Event()

    def read(server: socket.socket) -> None:
        with contextlib.suppress(OSError), server.accept()[0] as connection:
            # Each piece is taken in time; all of them would take far longer than the call may.
            while connection.recv(2**16) and not over.wait(0.03):
                pass

    with socket.create_server(("127.0.0.1", 0)) as server:
        # Small, or the system takes and tells of megabytes at a time.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        thread = threading.Thread(target=read, args=(server,))
        thread.start()
        there = {"openai": {"base_url": f"http://127.0.0.1:{server.getsockname()[1]}/v1", "api_key": "sandbox"}}
        began = time.monotonic()
        try:
            with llmcache_settings(PROVIDERS=there, MAX_TEXT_BYTES=2**27), pytest.raises(llmcache.ProviderTimeout):
                asyncio.run(llmcache.aextract("x" * 40_000_000, Person, timeout=2.0))
        finally:
            over.set()
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
        assert time.monotonic() - began < 10  # before the alarm of the caller that waits for a loop that is held up


def test_the_body_of_an_error_is_bounded_and_not_unpacked(sandbox: Sandbox) -> None:
    bodies = [b"0" * 5_000_000, gzip.compress(b"0" * 50_000_000)]

    class Failing(Quiet):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            body = bodies.pop(0)
            self.send_response(500)
            if body[:2] == b"\x1f\x8b":
                self.send_header("content-encoding", "gzip")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

    with serving(Failing) as address:
        there = {"openai": {"base_url": f"{address}/v1", "api_key": "sandbox"}}
        with llmcache_settings(PROVIDERS=there, MAX_VALUE_BYTES=1_000_000):
            for code in ("reply_too_large", "provider_unavailable"):
                with pytest.raises(llmcache.ProviderError) as caught:
                    asyncio.run(llmcache.aextract("Ada", Person, max_retries=0))
                assert caught.value.code == code


def test_a_proxy_of_the_environment_is_used_and_bounded(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    wait = threading.Event()

    class Proxy(Quiet):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            for _ in range(200):  # a header that never ends
                with contextlib.suppress(OSError):
                    self.wfile.write(b"x")
                    self.wfile.flush()
                if wait.wait(0.05):
                    return

    with serving(Proxy) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        there = {"openai": {"base_url": "http://llm.example/v1", "api_key": "sandbox"}}
        with llmcache_settings(PROVIDERS=there, ALLOW_PROVIDER_CALLS=True), pytest.raises(llmcache.ProviderTimeout):
            asyncio.run(llmcache.aextract("Ada", Person, timeout=1.5))
        wait.set()
    assert asked == ["http://llm.example/v1/chat/completions"]


def test_each_address_of_a_host_is_tried(provider: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(provider.base_url.split(":")[2].split("/")[0])
    hosts = ("127.0.0.9", "127.0.0.8", "127.0.0.1")  # the sandbox listens on the last one alone
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in hosts]
    monkeypatch.setattr(deadline.socket, "getaddrinfo", lambda *args, **options: found)
    assert asyncio.run(llmcache.aextract(TEXT, Person)) == Person(**GOLD)


def test_a_look_up_of_a_name_that_does_not_end_is_bounded(
    provider: Sandbox, journal: JournalReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    def look_up(*args: Any, **options: Any) -> Any:
        over.wait(20)
        raise OSError("the resolver is down")

    monkeypatch.setattr(deadline.socket, "getaddrinfo", look_up)
    try:
        with pytest.raises(llmcache.ProviderTimeout) as caught:
            asyncio.run(llmcache.aextract(TEXT, Person, timeout=1.5))
    finally:
        over.set()
    assert caught.value.cost_usd == Decimal(0)
    assert journal.records()[-1].facts["in_doubt"] is False


def test_the_body_is_the_one_of_a_synchronous_call(provider: Sandbox) -> None:
    options: dict[str, Any] = {
        "system": "Read.", "temperature": 0.5, "a_new_parameter": {"b": [1]}, "cache": "bypass", "user": "u",
        "unkeyed": ["user"],
    }  # fmt: skip
    llmcache.extract(TEXT, Person, **options)
    asyncio.run(llmcache.aextract(TEXT, Person, **options))
    first, second = provider.requests
    assert first.body == second.body
    own = {"x-client-request-id", "x-stainless-async", "x-stainless-read-timeout", "user-agent"}
    assert first.headers.keys() == second.headers.keys()
    assert {name for name in first.headers if first.headers[name] != second.headers[name]} <= own


def test_connections_are_kept_and_used_again(provider: Sandbox) -> None:
    peers: set[Any] = set()

    class Counting(Quiet):
        def do_POST(self) -> None:
            peers.add(self.client_address)
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(400)
            self.send_header("content-length", "0")
            self.end_headers()

    with serving(Counting) as address:
        there = {"openai": {"base_url": f"{address}/v1", "api_key": "sandbox"}}
        with llmcache_settings(PROVIDERS=there):
            for _ in range(5):
                with pytest.raises(llmcache.ProviderError):
                    asyncio.run(llmcache.aextract(TEXT, Person))
    assert len(peers) == 1


def test_another_key_makes_another_client(provider: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    class Keys(Quiet):
        def do_POST(self) -> None:
            seen.append(self.headers["authorization"])
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(400)
            self.send_header("content-length", "0")
            self.end_headers()

    with serving(Keys) as address, llmcache_settings(PROVIDERS={"openai": {"base_url": f"{address}/v1"}}):
        for key in ("first", "second", "first"):
            monkeypatch.setenv("OPENAI_API_KEY", key)
            with pytest.raises(llmcache.ProviderError):
                asyncio.run(llmcache.aextract(TEXT, Person))
    assert seen == ["Bearer first", "Bearer second", "Bearer first"]
