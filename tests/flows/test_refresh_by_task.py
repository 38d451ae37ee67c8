"""``REFRESH = "celery"``: stale answers asked for anew by tasks, over a real broker, by a real worker."""

import base64
import json
import logging
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, _state, signals
from celery.contrib.testing.worker import start_worker
from pydantic import BaseModel

import llmcache
from llmcache import rewriting
from llmcache.engine import process
from llmcache.engine.handing import PATIENCE_SECONDS, REST_SECONDS
from llmcache.models import CacheEntry, ProviderCall
from llmcache.testing import finish_refreshes
from llmcache.testing.sandbox import Sandbox, faults
from tests import forks
from tests.cache_servers import RedisServer
from tests.conftest import MovedClock, child_environment, llmcache_settings
from tests.waiting import until

# The worker is in a thread of its own, which sees what is committed.
pytestmark = pytest.mark.django_db(transaction=True)

QUEUE = "tests"
Worker = Callable[[], AbstractContextManager[Any]]


class Person(BaseModel):
    """A person."""

    age: int


class Broker:
    """A Redis of these tests' own, with the app that reaches it."""

    def __init__(self) -> None:
        self.server = RedisServer()
        self.app = Celery("tests", broker=self.server.url)
        self.app.conf.update(task_default_queue=QUEUE, broker_connection_retry_on_startup=False)
        self.app.set_default()
        self.done: list[tuple[str, str]] = []
        """Tasks that have ended, with how."""

    def messages(self) -> list[dict[str, Any]]:
        """What waits in the queue, decoded, the first first."""
        with redis.Redis.from_url(self.server.url) as client:
            found: list[Any] = client.lrange(QUEUE, 0, -1)  # type: ignore[assignment]
        return [json.loads(each) for each in reversed(found)]

    def arguments(self) -> list[Any]:
        """The tasks that wait, with their arguments."""
        return [(each["headers"]["task"], json.loads(base64.b64decode(each["body"]))[:2]) for each in self.messages()]

    def working(self) -> AbstractContextManager[Any]:
        """Have a worker work in a thread."""
        # Warnings of the log are part of what is tested; a worker would set the log up for itself.
        return start_worker(self.app, perform_ping_check=False, pool="solo", loglevel="WARNING")

    def has_done(self, count: int) -> None:
        """Wait until so many tasks have ended."""
        until(lambda: len(self.done) >= count)

    def close(self) -> None:
        self.app.close()
        self.server.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Broker]:
    broker = Broker()

    def ended(task: Any = None, state: str = "", **_: Any) -> None:
        broker.done.append((task.name, state))

    def leave_alone(**_: Any) -> None:
        """Keep the log as the tests have it."""

    signals.setup_logging.connect(leave_alone)
    signals.task_postrun.connect(ended)
    try:
        yield broker
    finally:
        signals.setup_logging.disconnect(leave_alone)
        signals.task_postrun.disconnect(ended)
        broker.close()
        _state.set_default_app(None)


@pytest.fixture
def broker(server: Broker) -> Iterator[Broker]:
    server.done.clear()
    yield server
    with redis.Redis.from_url(server.server.url) as client:
        client.delete(QUEUE)


@pytest.fixture
def provider(sandbox: Sandbox, broker: Broker) -> Iterator[Sandbox]:
    sandbox.answers["Ada"] = {"age": 36}
    with llmcache_settings(REFRESH="celery", KINDS={"Person": {"type": f"{__name__}.Person"}}):
        yield sandbox


@pytest.fixture
def stale(provider: Sandbox, clock: MovedClock) -> Sandbox:
    """An answer that is past its time, in the ledger too, and another one that the provider would give now."""
    clock.install()
    clock.move(-101)
    ask()
    assert llmcache.flush()
    clock.move(101)
    provider.answers["Ada"] = {"age": 37}
    return provider


def ask(text: str = "Ada", **options: Any) -> tuple[int, str]:
    found = llmcache.extract_with_info(text, Person, **{"ttl": 100, "stale_ttl": 5_000, **options})
    return found.value.age, found.outcome


def key_of(text: str = "Ada", **options: Any) -> str:
    return llmcache.extract_with_info(text, Person, **{"ttl": 100, "stale_ttl": 5_000, **options}).key


def told(caplog: pytest.LogCaptureFixture, logger: str = "llmcache.call") -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == logger and each.levelno >= logging.INFO]


def test_a_worker_asks_anew_and_the_caller_waits_for_nobody(stale: Sandbox, broker: Broker) -> None:
    # Nobody works yet: the message waits, and no second one is sent for the same answer.
    for _ in range(3):
        assert ask() == (36, "stale")
        assert finish_refreshes()
    key = key_of()
    assert broker.arguments() == [("llmcache.tasks.refresh_entry", [[key], {}])]
    assert "Ada" not in json.dumps(broker.messages())
    assert stale.calls == 1
    with broker.working():
        broker.has_done(1)
        assert ask() == (37, "hit")
        # The same again finds nothing to do.
        broker.app.send_task("llmcache.tasks.refresh_entry", (key,))
        broker.has_done(2)
    assert stale.calls == 2
    assert llmcache.flush()
    calls = ProviderCall.objects.order_by("started_at").values_list("reason", "ahead")
    assert list(calls) == [("not_found", ""), ("expired", "refresh")]
    entry = CacheEntry.objects.get()
    assert entry.expires_at is not None
    assert entry.stale_until is not None
    assert (entry.stale_until - entry.expires_at).total_seconds() == pytest.approx(5_000, abs=0.01)


def test_of_many_at_once_each_is_told(provider: Sandbox, broker: Broker, clock: MovedClock) -> None:
    clock.install()
    texts = [f"text {number}" for number in range(12)]
    provider.answers |= {text: {"age": 1} for text in texts}
    for text in texts:
        ask(text)
    clock.move(101)
    assert [ask(text)[1] for text in texts] == ["stale"] * len(texts)
    assert finish_refreshes()
    assert len(broker.messages()) == provider.calls == len(texts)


def test_what_no_worker_does_in_time_the_process_does(
    stale: Sandbox, broker: Broker, clock: MovedClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="llmcache.call")
    ask()
    assert finish_refreshes()
    clock.move(PATIENCE_SECONDS + 1)
    assert ask() == (36, "stale")
    assert finish_refreshes()
    assert ask() == (37, "hit")
    assert stale.calls == 2
    (line,) = told(caplog)
    assert "no task has done so within 60 s" in line
    # The next time that it is stale a task is told again; when that is done, so it says.
    clock.move(101)
    ask()
    assert finish_refreshes()
    assert len(broker.messages()) == 2
    assert stale.calls == 2


def test_a_broker_that_is_down_or_hangs(
    stale: Sandbox, broker: Broker, clock: MovedClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="llmcache.call")
    broker.server.stop()
    try:
        assert ask() == (36, "stale")
        assert finish_refreshes()
        assert ask() == (37, "hit")
    finally:
        broker.server.start()
    clock.move(REST_SECONDS + 100)
    ask()
    assert finish_refreshes()
    assert len(broker.messages()) == 1
    clock.move(PATIENCE_SECONDS + 1)
    ask()
    assert finish_refreshes()
    clock.move(101)
    broker.server.freeze()
    try:
        # The answer is there, and the message is still on its way.
        assert ask() == (37, "stale")
        assert not finish_refreshes(1e-6)
        assert finish_refreshes(20)
    finally:
        broker.server.thaw()
    assert ask() == (37, "hit")
    assert stale.calls == 4
    cannot = "the broker cannot be reached (OperationalError)."
    assert [line.split(": ")[-1] for line in told(caplog)] == [
        cannot,
        "Stale answers are refreshed by tasks again.",
        "no task has done so within 60 s; look whether workers run.",
        cannot,
    ]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"KINDS": {}}, "does not register their response type"),
        ({"KEEP_REQUESTS": "no"}, "'KEEP_REQUESTS'] is 'no'"),
    ],
)
def test_what_no_task_could_ask_for_the_process_asks_for(
    changes: dict[str, Any], why: str, provider: Sandbox, broker: Broker, clock: MovedClock,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO, logger="llmcache.call")
    with llmcache_settings(**changes), clock.kept():
        for _ in range(3):
            ask()
            clock.move(101)
            ask()
            assert finish_refreshes()
    assert provider.calls == 4
    assert broker.messages() == []
    (line,) = told(caplog)
    assert why in line


def test_what_has_an_image_is_asked_by_the_process(provider: Sandbox, broker: Broker, clock: MovedClock) -> None:
    """A task has what was kept, and of an image that is not enough to ask again."""
    content = ["Ada", llmcache.Image(b"\x89PNG\r\n\x1a\n")]

    def asked() -> tuple[int, str]:
        found = llmcache.extract_with_info(content, Person, ttl=100, stale_ttl=5_000)
        return found.value.age, found.outcome

    clock.install()
    clock.move(-101)
    assert asked() == (36, "miss")
    assert llmcache.flush()
    clock.move(101)
    provider.answers["Ada"] = {"age": 37}
    assert asked() == (36, "stale")
    assert finish_refreshes()
    assert broker.messages() == []
    assert asked() == (37, "hit")


def test_without_celery_the_process_asks(
    stale: Sandbox, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "celery", None)
    ask()
    assert finish_refreshes()
    assert ask() == (37, "hit")
    (line,) = told(caplog)
    assert "Celery is not installed" in line


def test_where_tasks_run_in_place_the_process_asks(
    stale: Sandbox, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.app.conf.task_always_eager = True
    try:
        ask()
        assert finish_refreshes()
    finally:
        broker.app.conf.task_always_eager = False
    assert ask() == (37, "hit")
    (line,) = told(caplog)
    assert "task_always_eager" in line


def test_forged_tasks_are_refused_and_the_worker_lives(
    provider: Sandbox, broker: Broker, clock: MovedClock, caplog: pytest.LogCaptureFixture
) -> None:
    clock.install()
    key = key_of()
    clock.move(-200)
    texts: dict[str, dict[str, Any]] = {"other kind": {"kind": "letters"}, "past": {"stale_ttl": 1}}
    provider.answers |= {text: {"age": 1} for text in texts}
    others = [key_of(text, **options) for text, options in texts.items()]
    assert llmcache.flush()
    clock.move(200)
    foreign = CacheEntry.objects.get(key=key)
    foreign.pk, foreign.namespace, foreign.key = None, "another", "cd" * 32
    foreign.save()
    calls = provider.calls
    name = "llmcache.tasks.refresh_entry"
    forged: list[tuple[str, Any]] = [
        *((name, (value,)) for value in ("", "x", "ab" * 32, key[:-1], 7, None, ["a"], {"a": 1}, "\0" * 64, "é" * 64)),
        *((name, arguments) for arguments in ((), (key, key))),
        # Fresh, of another project, of a kind whose type is not registered, past all its time.
        *((name, (each,)) for each in (key, foreign.key, *others)),
        *(("llmcache.tasks.invalidate_planned", (value,)) for value in ("", "ab" * 16, 7, None)),
        *(("llmcache.tasks.work_on_run", (value,)) for value in ("", "ab" * 16, "\0" * 32, 7, {})),
        *(("llmcache.tasks.run_plan", (value,)) for value in (0, "1", True, None, 10**30)),
        ("llmcache.tasks.keep_house", (1,)),
    ]
    with broker.working():
        for task, arguments in forged:
            broker.app.send_task(task, arguments)
        broker.has_done(len(forged))
        assert {state for _, state in broker.done} == {"SUCCESS"}
        assert provider.calls == calls
        said = told(caplog, "llmcache.tasks")
        assert len(said) == len(forged) - 1
        reasons = {line.rpartition(" ")[2] for line in said}
        assert reasons == {"invalid_request.", "unknown.", "type_not_registered.", "expired."}
        assert not [line for line in said if key[:8] in line or "Ada" in line]
        clock.move(101)
        broker.app.send_task(name, (key,))
        broker.has_done(len(forged) + 1)
    assert provider.calls == calls + 1


def test_a_provider_that_fails_costs_no_worker(
    stale: Sandbox, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    stale.fail(faults.unauthorized(), times=1)
    with broker.working():
        ask()
        broker.has_done(1)
    assert told(caplog, "llmcache.tasks") == [
        "The task refresh_entry was refused, or has failed: authentication_failed."
    ]
    assert ask() == (36, "stale")
    assert stale.calls == 1


def waiting() -> int:
    """Return how many callers of this process wait for a flight."""
    flights = list(process.current().flights._flights.values())
    return sum(len(flight.landed._cond._waiters) for flight in flights)  # type: ignore[attr-defined]


CHILD = """
import sys, django
django.setup()
from celery import Celery
app = Celery("child", broker=sys.argv[1])
app.conf.task_default_queue = sys.argv[2]
import llmcache
from llmcache.testing import finish_refreshes
from tests.flows.test_refresh_by_task import ask
print(*ask(), flush=True)
print(finish_refreshes(20))
"""


def test_whoever_asks_there_is_one_call(stale: Sandbox, broker: Broker) -> None:
    """Three processes find it stale, and a person presses the button meanwhile."""
    key = CacheEntry.objects.get().key
    stale.hold()
    command = ["-c", CHILD, broker.server.url, QUEUE]
    with broker.working(), ThreadPoolExecutor(4) as pool:
        children = [
            pool.submit(forks.run, command, env=child_environment(), cwd=Path.cwd(), check=True, timeout=60)
            for _ in range(2)
        ]
        assert ask() == (36, "stale")
        stale.wait_until_received(2)
        pressed = pool.submit(rewriting.refresh, key)
        until(lambda: waiting() == 1)
        assert [child.result(60).stdout.split() for child in children] == [["36", "stale", "True"]] * 2
        stale.release()
        assert pressed.result(30).cost_usd is not None
        broker.has_done(3)
    assert {name for name, _ in broker.done} == {"llmcache.tasks.refresh_entry"}
    assert ask() == (37, "hit")
    assert len(stale.requests) == 2
