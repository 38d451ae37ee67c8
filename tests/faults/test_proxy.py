"""The proxy does what it says to anybody: a plain client of Redis, of PostgreSQL and of HTTP meets each fault."""

import http.client
import json
import socket
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

from llmcache.testing.sandbox import Sandbox
from tests.cache_servers import RedisServer
from tests.faults import proxy as faults
from tests.faults.proxy import Fault, Proxy
from tests.services import Postgres
from tests.waiting import until

LONG, SHORT = 30.0, 0.3
BODY = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "marked"}]}


class Client:
    """A plain client that asks through a proxy, and how often its server has been asked."""

    def __init__(
        self, proxy: Proxy, ask: Callable[[float], object], asked: Callable[[], int], *raises: type[Exception]
    ) -> None:
        self.proxy = proxy
        self.ask = ask
        """Asks, and waits for so many seconds."""
        self.asked = asked
        self.raises = raises


@pytest.fixture
def redis_client(redis_server: RedisServer) -> Iterator[Client]:
    direct = redis.Redis.from_url(redis_server.url)
    direct.delete("marked")
    with Proxy(redis_server.port) as proxy:

        def ask(seconds: float) -> object:
            with redis.Redis(port=proxy.port, socket_timeout=seconds, retry=None) as plain:  # type: ignore[arg-type]
                return plain.incr("marked")

        yield Client(proxy, ask, lambda: int(direct.get("marked") or 0), redis.RedisError)  # type: ignore[arg-type]
    direct.close()


@pytest.fixture
def postgresql_client(postgres: Postgres) -> Iterator[Client]:
    with ThreadPoolExecutor() as pool, Proxy(socket_of(postgres)) as proxy, postgres.connect() as direct:
        direct.execute("DROP TABLE IF EXISTS marked")
        direct.execute("CREATE TABLE marked (at text)")

        def insert() -> object:
            where = f"host=127.0.0.1 port={proxy.port} user=postgres dbname=postgres"
            with psycopg.connect(where, autocommit=True) as connection:
                return connection.execute("INSERT INTO marked VALUES ('here')").rowcount

        def asked() -> int:
            (count,) = direct.execute("SELECT count(*) FROM marked").fetchone() or (0,)
            return count

        # It has no limit of its own: who waits for it has.
        def ask(seconds: float) -> object:
            return pool.submit(insert).result(seconds)

        yield Client(proxy, ask, asked, psycopg.OperationalError, TimeoutError)
        proxy.heal()


@pytest.fixture
def http_client() -> Iterator[Client]:
    with Sandbox(answers={}) as sandbox, Proxy(urlsplit(sandbox.base_url).port or 0) as proxy:
        asked_for = urllib.request.Request(
            f"http://127.0.0.1:{proxy.port}/v1/chat/completions",
            json.dumps(BODY).encode(),
            {"Authorization": "Bearer sandbox", "Content-Type": "application/json"},
        )

        def ask(seconds: float) -> object:
            with urllib.request.urlopen(asked_for, timeout=seconds) as reply:
                return json.load(reply)["choices"]

        yield Client(proxy, ask, lambda: sandbox.calls, OSError, http.client.HTTPException)


def socket_of(postgres: Postgres) -> str:
    """Return the path of the socket that the server listens on."""
    return f"{postgres.folder}/.s.PGSQL.5432"


@pytest.fixture(params=["redis", "postgresql", "http"])
def client(request: pytest.FixtureRequest) -> Client:
    return request.getfixturevalue(f"{request.param}_client")


def test_without_a_fault_it_is_not_there(client: Client) -> None:
    assert client.ask(LONG)
    assert (client.asked(), client.proxy.connections, client.proxy.met) == (1, 1, [])
    assert min(client.proxy.bytes_to_server, client.proxy.bytes_to_client) > 0


@pytest.mark.parametrize(
    ("fault", "reaches_the_server"),
    [
        (faults.RESET, True),
        (faults.cut(3), True),
        (faults.LOST, True),
        (faults.UNREACHABLE, False),
        (faults.HALF_OPEN, False),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else "",
)
def test_a_fault_is_met_by_who_asks_for_what_it_is_about(
    client: Client, fault: Fault, reaches_the_server: bool
) -> None:
    client.proxy.fail(fault, on=b"nobody asks for this")
    assert client.ask(LONG)
    client.proxy.fail(fault, on=b"marked")
    with pytest.raises(client.raises):
        client.ask(LONG if fault.name in ("reset", "cut", "unreachable") else SHORT)
    # Who waits for a short time may give up before its request has arrived.
    until(lambda: client.proxy.met == [fault])
    until(lambda: client.asked() == 1 + reaches_the_server)
    # Once, as it was told.
    assert client.ask(LONG)
    assert client.asked() == 2 + reaches_the_server


def test_what_is_frozen_is_carried_out_when_nobody_waits_for_it_any_more(client: Client) -> None:
    client.proxy.fail(faults.FROZEN, on=b"marked", times=None)
    with pytest.raises(client.raises):
        client.ask(SHORT)
    until(lambda: client.proxy.met)
    assert client.asked() == 0
    client.proxy.heal()
    until(lambda: client.asked() == 1)
    assert client.ask(LONG)


@pytest.mark.parametrize("fault", [faults.latency(0.02), faults.drip(0.0005)], ids=lambda fault: fault.name)
def test_a_slow_reply_is_whole(client: Client, fault: Fault) -> None:
    client.proxy.fail(fault, on=b"marked")
    assert client.ask(LONG)
    assert (client.asked(), client.proxy.met) == (1, [fault])


def test_a_rule_is_met_over_two_pieces(redis_client: Client) -> None:
    redis_client.proxy.fail(faults.UNREACHABLE, on=b"marked")
    with socket.create_connection(("127.0.0.1", redis_client.proxy.port), timeout=LONG) as raw:
        raw.sendall(b"*2\r\n$4\r\nINCR\r\n$6\r\nmar")
        until(lambda: redis_client.proxy.bytes_to_server > 0)
        raw.sendall(b"ked\r\n")
        with pytest.raises(ConnectionResetError):
            raw.recv(1)
    assert redis_client.asked() == 0
