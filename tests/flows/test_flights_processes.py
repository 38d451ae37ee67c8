"""One provider call for one request, over processes: who asks, who waits, and what becomes of those who die at it."""

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from llmcache.testing.sandbox import Sandbox, faults
from tests.cache_servers import RedisServer
from tests.conftest import llmcache_settings
from tests.contract.aliases import DJANGO
from tests.flows.test_invalidation_processes import Worker, Workers, caches_over
from tests.waiting import until

LEASE = 2.0


@pytest.fixture(params=["redis", "disk", "postgresql"])
def place(request: pytest.FixtureRequest) -> str:
    """Where the leases lie."""
    return request.param


@pytest.fixture
def workers(
    place: str, var: Path, tmp_path: Path, sandbox: Sandbox, request: pytest.FixtureRequest
) -> Iterator[Workers]:
    sandbox.answers["Ada"] = {"name": "Ada"}
    variables: dict[str, str] = {}
    caches = caches_over(request.getfixturevalue("redis_server") if place == "redis" else None, tmp_path)
    if place == "postgresql":
        # A cache that processes share, and that can hold no lease.
        caches["shared"] = {"BACKEND": f"{DJANGO}.filebased.FileBasedCache", "LOCATION": str(tmp_path / "files")}
        variables["LLMCACHE_TEST_DATABASE"] = json.dumps(request.getfixturevalue("postgresql_tables"))
    with llmcache_settings(TIERS=["memory", "shared"], LEASE=LEASE, MAX_RETRIES=0, RECHECK=0.1):
        made = Workers(var, caches, **variables)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def waits(tmp_path: Path) -> Path:
    """A folder with a file for each process that waits for another's lease."""
    folder = tmp_path / "waits"
    folder.mkdir()
    return folder


def ready(workers: Workers, count: int, waits: Path | None = None) -> list[Worker]:
    """Return processes that have made everything they need."""
    made = [workers.start() for _ in range(count)]
    for number, worker in enumerate(made):
        worker.tell("tries", text=f"warm {number}")
    for worker in made:
        worker.hear()
    for worker in made if waits is not None else ():
        worker.do("note_waits", folder=str(waits))
    return made


def until_waiting(waits: Path, count: int) -> None:
    """Wait until so many processes wait for another's lease."""
    until(lambda: len(list(waits.iterdir())) >= count)


def held(sandbox: Sandbox) -> int:
    """Let the provider keep its answers to itself, and return how many requests it has had."""
    sandbox.hold()
    return len(sandbox.requests)


def all_told(workers: list[Worker], what: str = "tries", **arguments: Any) -> None:
    for worker in workers:
        worker.tell(what, **{"text": "Ada", **arguments})


def test_of_several_one_asks(workers: Workers, sandbox: Sandbox, waits: Path) -> None:
    made = ready(workers, 4, waits)
    before = held(sandbox)
    all_told(made)
    sandbox.wait_until_received(before + 1)
    until_waiting(waits, 3)
    sandbox.release()
    assert sorted(worker.hear() for worker in made) == [
        ["Ada", "collapsed", 0],
        ["Ada", "collapsed", 0],
        ["Ada", "collapsed", 0],
        ["Ada", "miss", 1],
    ]
    assert len(sandbox.requests) == before + 1


def test_threads_and_tasks_of_several_processes(workers: Workers, sandbox: Sandbox, waits: Path) -> None:
    made = ready(workers, 3, waits)
    before = held(sandbox)
    all_told(made, "crowd", threads=16, tasks=16)
    sandbox.wait_until_received(before + 1)
    # Who comes later has a hit.
    until_waiting(waits, 2)
    sandbox.release()
    found = Counter[str]()
    for worker in made:
        found.update(worker.hear())
    assert set(found) <= {"Ada miss", "Ada collapsed", "Ada hit"}
    assert (found["Ada miss"], sum(found.values())) == (1, 96)
    assert len(sandbox.requests) == before + 1


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_another_leads_when_the_leader_is_gone(how: str, workers: Workers, sandbox: Sandbox, waits: Path) -> None:
    leader, *others = ready(workers, 4, waits)
    before = held(sandbox)
    leader.tell("tries", text="Ada")
    sandbox.wait_until_received(before + 1)
    all_told(others)
    until_waiting(waits, 3)
    os.kill(leader.process.pid, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
    # The lease runs out, and one of those who wait asks.
    sandbox.wait_until_received(before + 2, timeout=30)
    sandbox.release()
    found = sorted(worker.hear() for worker in others)
    assert found == [["Ada", "collapsed", 0], ["Ada", "collapsed", 0], ["Ada", "miss", 1]]
    assert len(sandbox.requests) == before + 2
    if how == "stopped":
        # It has its own answer, which is nobody else's.
        os.kill(leader.process.pid, signal.SIGCONT)
        assert leader.hear() == ["Ada", "miss", 1]
    assert others[0].do("tries", text="Ada") == ["Ada", "hit", 0]


@pytest.mark.parametrize("place", ["redis", "disk"], indirect=True)
def test_who_comes_back_late_overwrites_nothing(workers: Workers, sandbox: Sandbox) -> None:
    leader, other = ready(workers, 2)
    before = held(sandbox)
    sandbox.answers["Ada"] = {"name": "first"}
    leader.tell("tries", text="Ada")
    sandbox.wait_until_received(before + 1)
    os.kill(leader.process.pid, signal.SIGSTOP)
    # What the provider has answered waits for it.
    sandbox.release()
    until(lambda: sandbox.calls == before + 1)
    sandbox.answers["Ada"] = {"name": "second"}
    assert other.do("tries", text="Ada") == ["second", "miss", 1]
    os.kill(leader.process.pid, signal.SIGCONT)
    assert leader.hear() == ["first", "miss", 1]
    # Neither in the store nor in the memory of who was late.
    assert leader.do("tries", text="Ada") == ["second", "hit", 0]
    assert other.do("tries", text="Ada") == ["second", "hit", 0]
    assert ready(workers, 1)[0].do("tries", text="Ada") == ["second", "hit", 0]


@pytest.mark.parametrize("fault", [faults.unauthorized(), faults.refusal()])
def test_how_it_failed_is_told_to_who_has_waited(fault: Any, workers: Workers, sandbox: Sandbox, waits: Path) -> None:
    leader, *others = ready(workers, 3, waits)
    before = held(sandbox)
    sandbox.fail(fault, times=None)
    leader.tell("tries", text="Ada", max_reasks=0)
    sandbox.wait_until_received(before + 1)
    all_told(others, max_reasks=0)
    until_waiting(waits, 2)
    sandbox.release()
    code, outcome, attempts = leader.hear()
    assert (outcome, attempts) == ("error", 1)
    assert [worker.hear() for worker in others] == [[code, "error", 0]] * 2
    assert len(sandbox.requests) == before + 1
    # It is not cached: who asks now asks the provider.
    sandbox.heal()
    assert others[0].do("tries", text="Ada") == ["Ada", "miss", 1]


@pytest.mark.parametrize("place", ["redis"], indirect=True)
def test_a_leaders_limit_is_its_own(workers: Workers, sandbox: Sandbox, waits: Path) -> None:
    leader, other = ready(workers, 2, waits)
    before = held(sandbox)
    leader.tell("tries", text="Ada", timeout=5)
    sandbox.wait_until_received(before + 1)
    other.tell("tries", text="Ada")
    until_waiting(waits, 1)
    assert leader.hear() == ["provider_timeout", "error", 1]
    # At once, and not when a lease would have run out.
    sandbox.wait_until_received(before + 2)
    sandbox.release()
    assert other.hear() == ["Ada", "miss", 1]


def test_how_it_failed_is_no_news_to_who_may_try_more_often(workers: Workers, sandbox: Sandbox, waits: Path) -> None:
    leader, other = ready(workers, 2, waits)
    before = held(sandbox)
    sandbox.fail(faults.server_error(503))
    leader.tell("tries", text="Ada")
    sandbox.wait_until_received(before + 1)
    other.tell("tries", text="Ada", max_retries=1)
    until_waiting(waits, 1)
    sandbox.release()
    assert leader.hear() == ["provider_unavailable", "error", 1]
    assert other.hear() == ["Ada", "miss", 1]
    assert len(sandbox.requests) == before + 2


@pytest.mark.parametrize("place", ["redis"], indirect=True)
def test_who_waits_behind_one_that_waits_may_try_more_often_too(
    workers: Workers, sandbox: Sandbox, waits: Path
) -> None:
    leader, other = ready(workers, 2)
    before = held(sandbox)
    sandbox.fail(faults.server_error(503))
    leader.tell("tries", text="Ada")
    sandbox.wait_until_received(before + 1)
    other.tell("try_together", text="Ada", many=[{}, {"max_retries": 1}], folder=str(waits))
    until((waits / "all").exists)
    sandbox.release()
    assert leader.hear() == ["provider_unavailable", "error", 1]
    assert other.hear() == [["provider_unavailable", "error", 0], ["Ada", "miss", 1]]
    assert len(sandbox.requests) == before + 2


@pytest.mark.parametrize("place", ["redis"], indirect=True)
def test_who_waits_has_a_limit_too(workers: Workers, sandbox: Sandbox) -> None:
    leader, other = ready(workers, 2)
    before = held(sandbox)
    leader.tell("tries", text="Ada")
    sandbox.wait_until_received(before + 1)
    assert other.do("tries", text="Ada", timeout=0.5) == ["flight_timeout", "error", 0]
    sandbox.release()
    assert leader.hear() == ["Ada", "miss", 1]


@pytest.mark.parametrize("place", ["redis"], indirect=True)
def test_a_leader_that_is_slow_keeps_its_lease(workers: Workers, sandbox: Sandbox, waits: Path) -> None:
    leader, other = ready(workers, 2, waits)
    before = held(sandbox)
    leader.tell("tries", text="Ada")
    sandbox.wait_until_received(before + 1)
    other.tell("tries", text="Ada")
    until_waiting(waits, 1)
    # Longer than a lease lives that nobody renews.
    threading.Event().wait(1.5 * LEASE)
    assert len(sandbox.requests) == before + 1
    sandbox.release()
    assert (leader.hear(), other.hear()) == (["Ada", "miss", 1], ["Ada", "collapsed", 0])


@pytest.mark.parametrize("place", ["redis"], indirect=True)
def test_who_asks_anew_is_one_of_them(workers: Workers, sandbox: Sandbox, waits: Path) -> None:
    one, other = ready(workers, 2, waits)
    one.do("tries", text="Ada")
    before = held(sandbox)
    sandbox.answers["Ada"] = {"name": "new"}
    one.tell("tries", text="Ada", cache="refresh")
    sandbox.wait_until_received(before + 1)
    other.tell("tries", text="Ada", cache="refresh")
    until_waiting(waits, 1)
    # Who only looks has the old answer meanwhile.
    assert workers.start().do("tries", text="Ada") == ["Ada", "hit", 0]
    sandbox.release()
    assert (one.hear(), other.hear()) == (["new", "miss", 1], ["new", "collapsed", 0])
    assert len(sandbox.requests) == before + 1


@pytest.mark.parametrize("place", ["redis"], indirect=True)
def test_what_was_invalidated_is_asked_for_once(workers: Workers, sandbox: Sandbox, waits: Path) -> None:
    one, other = ready(workers, 2, waits)
    for worker in (one, other):
        worker.do("tries", text="Ada")
    before = held(sandbox)
    sandbox.answers["Ada"] = {"name": "new"}
    one.do("invalidate", kind="Person")
    # Until the other has seen it.
    until(lambda: other.do("told_of_invalidations"))
    all_told([one, other])
    sandbox.wait_until_received(before + 1)
    until_waiting(waits, 1)
    sandbox.release()
    found = sorted(worker.hear() for worker in (one, other))
    assert found == [["new", "collapsed", 0], ["new", "miss", 1]]
    assert len(sandbox.requests) == before + 1


@pytest.mark.parametrize("place", ["redis"], indirect=True)
@pytest.mark.parametrize("when", ["flushed", "scripts flushed"])
def test_a_server_that_forgets_between_lease_and_answer(
    when: str, workers: Workers, sandbox: Sandbox, redis_server: RedisServer
) -> None:
    leader, other = ready(workers, 2)
    before = held(sandbox)
    leader.tell("tries", text="Ada")
    sandbox.wait_until_received(before + 1)
    client = redis.Redis.from_url(redis_server.url)
    if when == "flushed":
        client.flushall()
    client.script_flush()
    client.close()
    sandbox.release()
    assert leader.hear() == ["Ada", "miss", 1]
    assert other.do("tries", text="Ada") == ["Ada", "hit", 0]


@pytest.mark.parametrize("place", ["redis"], indirect=True)
def test_a_server_that_stands_still_while_a_lease_is_taken(
    workers: Workers, sandbox: Sandbox, redis_server: RedisServer
) -> None:
    """It grants the lease when it goes on, to somebody who has long gone on without."""
    one, other = ready(workers, 2)
    redis_server.freeze()
    try:
        found = one.do("tries", text="Ada")
    finally:
        redis_server.thaw()
    assert found == ["Ada", "miss", 1]
    # Whoever comes next waits for two seconds at most: it does not hang for a whole LEASE of a dead one.
    assert other.do("tries", text="Ada", timeout=20)[0] == "Ada"
    assert one.do("tries", text="Ada")[1] == "hit"
