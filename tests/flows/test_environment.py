"""What surrounds a call: proxies, certificates, addresses, locked files, clocks; and results that are copied."""

import contextlib
import copy
import gzip
import http.server
import pickle
import socket
import sqlite3
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import llmcache
from llmcache.engine import process
from llmcache.keys import storage_key
from llmcache.testing.sandbox import Sandbox, faults
from tests.conftest import JournalReader, MovedClock, llmcache_settings
from tests.waiting import until


class Person(BaseModel):
    """A person."""

    name: str


@contextlib.contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """Run an HTTP server of the standard library; gives its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Quiet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


def test_a_proxy_of_the_environment_is_used_and_bounded(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    wait = threading.Event()

    class Proxy(Quiet):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            for _ in range(200):  # a header that never ends
                self.wfile.write(b"x")
                self.wfile.flush()
                if wait.wait(0.05):
                    return

    with serving(Proxy) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        there = {"openai": {"base_url": "http://llm.example/v1", "api_key": "sandbox"}}
        with llmcache_settings(PROVIDERS=there, ALLOW_PROVIDER_CALLS=True):
            # Again, where the time was over before anybody was asked.
            for timeout in (0.5, 2, 8):
                with pytest.raises(llmcache.ProviderTimeout):
                    llmcache.extract("Ada", Person, timeout=timeout, max_retries=0)
                if asked:
                    break
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with llmcache_settings(VERSION="2"):
            assert isinstance(llmcache.extract("Ada", Person), Person)
        wait.set()
    assert asked == ["http://llm.example/v1/chat/completions"]


def test_the_body_of_an_error_is_not_unpacked(sandbox: Sandbox) -> None:
    bomb = gzip.compress(b"0" * 200_000_000, compresslevel=9)

    class Bomb(Quiet):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(500)
            self.send_header("content-type", "application/json")
            self.send_header("content-encoding", "gzip")
            self.send_header("content-length", str(len(bomb)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(bomb)

    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with serving(Bomb) as address:
        there = {"openai": {"base_url": f"{address}/v1", "api_key": "sandbox"}}
        with llmcache_settings(PROVIDERS=there), pytest.raises(llmcache.ProviderUnavailable):
            llmcache.extract("Ada", Person, max_retries=0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


def test_each_address_of_a_host_gets_what_is_left(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three addresses that take connections and never answer: one of them gets the whole time, and no more is tried."""
    from llmcache.providers import deadline

    tried: list[str] = []
    real = deadline.httpcore2.SyncBackend.connect_tcp

    def connect(self: Any, host: str, *args: Any, **options: Any) -> Any:
        tried.append(host)
        if host != "127.0.0.1":
            raise deadline.httpcore2.ConnectError("refused")
        return real(self, host, *args, **options)

    port = int(sandbox.base_url.split(":")[2].split("/")[0])
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.9", "127.0.0.8", "127.0.0.1")
    ]
    monkeypatch.setattr(deadline.httpcore2.SyncBackend, "connect_tcp", connect)
    monkeypatch.setattr(deadline.socket, "getaddrinfo", lambda *args, **options: found)
    assert isinstance(llmcache.extract("Ada", Person), Person)
    assert tried == ["127.0.0.9", "127.0.0.8", "127.0.0.1"]


def test_a_reader_that_does_not_read_is_bounded(sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes the connection and reads nothing
        there = {"openai": {"base_url": f"http://127.0.0.1:{server.getsockname()[1]}/v1", "api_key": "sandbox"}}
        with llmcache_settings(PROVIDERS=there, MAX_TEXT_BYTES=2**26), pytest.raises(llmcache.ProviderTimeout):
            llmcache.extract("x" * 20_000_000, Person, timeout=0.5)


@pytest.mark.parametrize(
    ("key", "says"), [("sk-abc\n", "Strip it"), ("k\u00e9y", "header"), ("two words", "header"), ("\0", "header")]
)
def test_a_key_that_cannot_be_sent(key: str, says: str, sandbox: Sandbox, journal: JournalReader) -> None:
    there = {"openai": {"base_url": sandbox.base_url, "api_key": key}}
    with llmcache_settings(PROVIDERS=there), pytest.raises(llmcache.ConfigurationError, match=says) as caught:
        llmcache.extract("Ada", Person)
    assert key not in str(caught.value)
    assert (journal.records(), sandbox.received) == ([], 0)


@pytest.mark.parametrize(
    "address",
    [
        *("api.openai.com/v1", "http://127.0.0.1:80abc/v1", "http://127.0.0.1:99999/v1", "http://[::1/v1"),
        *(
            "http://user:hunter2@127.0.0.1/v1",
            f"http://{'a' * 70}.example/v1",
            "http://a\0b/v1",
            "http:///v1",
            "http://x..y/v1",
        ),
    ],
)
def test_an_address_that_cannot_be_used(
    address: str, sandbox: Sandbox, journal: JournalReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    with llmcache_settings(PROVIDERS={"openai": {"base_url": address, "api_key": "x"}}):
        with pytest.raises(llmcache.ConfigurationError, match="base_url") as caught:
            llmcache.extract("Ada", Person)
        assert "hunter2" not in str(caught.value)
    if "\0" not in address:
        monkeypatch.setenv("OPENAI_BASE_URL", address)
        with llmcache_settings(PROVIDERS={}), pytest.raises(llmcache.ConfigurationError, match="base URL"):
            llmcache.extract("Ada", Person)
    assert journal.records() == []


def test_certificates_that_are_not_there(
    sandbox: Sandbox, journal: JournalReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    with pytest.raises(llmcache.ConfigurationError, match="SSL_CERT_FILE"):
        llmcache.extract("Ada", Person)
    assert journal.records() == []
    monkeypatch.delenv("SSL_CERT_FILE")
    assert ssl.create_default_context()
    assert isinstance(llmcache.extract("Ada", Person), Person)


def test_a_surrogate_in_an_answer_is_asked_about_again(sandbox: Sandbox, journal: JournalReader) -> None:
    sandbox.fail(faults.says("\ud800 is no JSON"))
    assert isinstance(llmcache.extract("Ada", Person), Person)
    assert [line.event for line in journal.records()] == ["started", "settled", "rejected", "started", "settled"]


def test_a_parameters_name_that_cannot_be_sent(sandbox: Sandbox) -> None:
    with pytest.raises(llmcache.InvalidRequest, match="name of a parameter"):
        llmcache.extract("Ada", Person, **{"\ud800": 1})


@pytest.mark.parametrize("options", [{"timeout": 1e10}, {"timeout": 10**400}, {"ttl": 10**400}, {"variant": 10**5_000}])
def test_numbers_beyond_all_bounds(options: dict[str, Any], sandbox: Sandbox) -> None:
    with pytest.raises(llmcache.InvalidRequest):
        llmcache.extract("Ada", Person, **options)


def test_only_never_asks_whatever_the_ttl(sandbox: Sandbox) -> None:
    with pytest.raises(llmcache.NotCached):
        llmcache.extract("Ada", Person, cache="only", ttl=0)
    assert sandbox.received == 0


def test_an_entry_from_the_future_is_a_miss(
    sandbox: Sandbox, clock: MovedClock, forget_memory: Callable[[], None]
) -> None:
    llmcache.extract("Ada", Person, ttl=60)
    clock.move(-86_400)
    forget_memory()
    assert llmcache.extract_with_info("Ada", Person, ttl=60).outcome == "miss"


def test_a_locked_file_is_left_alone_for_a_while(
    sandbox: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "llmcache.tiers")
    llmcache.extract("Ada", Person)
    (tier,) = process.current().tiers.below
    with contextlib.closing(sqlite3.connect(tmp_path / "tier" / "entries.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for number in range(20):
            assert llmcache.extract_with_info(f"text {number}", Person).outcome == "miss"
        other.execute("ROLLBACK")
    # One operation waited for the file; those of the calls after it did not try.
    assert tier.faults == 1  # type: ignore[attr-defined]
    assert len([record for record in caplog.records if "cannot be reached" in record.getMessage()]) == 1
    # It is used again as soon as it can be.
    until(lambda: tier.state().breaker == "closed")
    info = llmcache.extract_with_info("text 20", Person)
    assert info.outcome == "miss"
    assert tier.get(storage_key(process.current().namespace, bytes.fromhex(info.key))) is not None
    assert len([record for record in caplog.records if "can be reached again" in record.getMessage()]) == 1


def test_a_result_can_be_copied_and_pickled(sandbox: Sandbox) -> None:
    found = llmcache.extract_with_info("Ada", list[str])
    for other in (copy.deepcopy(found), copy.copy(found), pickle.loads(pickle.dumps(found))):
        assert other == found
        assert other.completion == found.completion
    assert "completion_of" not in repr(found)


def test_an_extractor_can_be_copied_and_pickled(sandbox: Sandbox) -> None:
    acme = llmcache.Extractor(tenant="acme", temperature=0)
    acme.extract("Ada", Person)
    for other in (copy.deepcopy(acme), copy.copy(acme), pickle.loads(pickle.dumps(acme))):
        assert other.extract_with_info("Ada", Person).outcome == "hit"
    assert pickle.loads(pickle.dumps(llmcache.Extractor())).extract_with_info("Ada", Person).outcome == "miss"


def test_a_completion_with_a_name_of_the_sdks_own(sandbox: Sandbox) -> None:
    class Odd(Quiet):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            data = b'{"_fields_set": 1, "choices": [{"message": {"content": "{\\"name\\": \\"Ada\\"}"}}]}'
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with serving(Odd) as address:
        there = {"openai": {"base_url": f"{address}/v1", "api_key": "sandbox"}}
        with llmcache_settings(PROVIDERS=there):
            for _ in range(2):
                assert llmcache.extract_with_completion("Ada", Person)[0] == Person(name="Ada")
