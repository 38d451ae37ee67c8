"""Faults on the way to Redis, between the lease and the entry: at the reply that grants it, at renewing, at publishing.

The process behind the proxy meets the fault, the one beside it does not. Nobody fails, the values are right, and the
provider's own file, the ledger and the answers tell of the same calls.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from llmcache.testing.sandbox import Sandbox
from llmcache.tiers import redis_leases
from tests.cache_servers import RedisServer
from tests.faults import proxy as faults
from tests.faults.processes import ANSWER, Project, project_over
from tests.faults.proxy import Fault, Proxy
from tests.flows.test_ledger_process import rows
from tests.waiting import until

SCRIPTS = (redis_leases._TAKE, redis_leases._PUBLISH, redis_leases._RENEW)
TAKE, PUBLISH, RENEW = (redis_leases._DIGESTS[script].encode() for script in SCRIPTS)
PASSES = faults.latency(0)
"""No fault: the control arm, which goes the same way and is noted as the others are."""
SLOW = faults.drip(0.02)
"""Each byte in time, and the whole of them later than a call waits for Redis."""
OTHER = "another answer"


@pytest.fixture(scope="module")
def running(redis_server: RedisServer, migrated: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("faults-redis")
    (folder / "db.sqlite3").write_bytes(migrated)
    with redis.Redis.from_url(redis_server.url) as client:
        for script in SCRIPTS:
            client.script_load(script)

    def found() -> list[tuple[str, str]]:
        return [(call_id, outcome) for call_id, (outcome, _) in rows(folder).items()]

    with Sandbox(answers={"warm": {"name": "warm"}}) as sandbox, Proxy(redis_server.port) as proxy:
        ways = (f"redis://127.0.0.1:{proxy.port}/0", redis_server.url)
        with project_over(sandbox, proxy, folder, tuple(map(over, ways)), found) as made:
            yield made


def over(location: str) -> dict[str, Any]:
    caches = {
        "default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
        "shared": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": location},
    }
    return {"LLMCACHE_TEST_CACHES": caches}


@pytest.fixture
def project(running: Project) -> Iterator[Project]:
    running.begin_test()
    yield running
    running.end_test()


def named(fault: Fault) -> str:
    return "control" if fault == PASSES else fault.name


@pytest.mark.parametrize("fault", [PASSES, faults.RESET, faults.LOST, SLOW, faults.HALF_OPEN, faults.FROZEN], ids=named)
def test_while_a_lease_is_taken(project: Project, fault: Fault) -> None:
    """Where it was granted and nobody knows, the other waits for its end, and no longer."""
    project.sandbox.hold()
    project.proxy.fail(fault, on=TAKE)
    project.behind.tell("tries", text=project.text)
    project.until_asked(1)
    assert project.proxy.met == [fault]
    project.beside.tell("tries", text=project.text)
    if fault == PASSES:
        project.until_waiting()
    elif fault != SLOW:
        project.until_asked(2)
    # What was frozen is carried out while the other one leads.
    project.proxy.heal()
    project.sandbox.release()
    answers = [project.behind.hear(), project.beside.hear()]
    paid = project.assert_agree(answers)
    # Granted late, it may be renewed before the other one comes, or after.
    assert paid in (1, 2) if fault == SLOW else paid == (1 if fault == PASSES else 2)
    project.assert_well()


@pytest.mark.parametrize(
    "fault",
    [PASSES, faults.RESET, faults.LOST, faults.cut(2), faults.UNREACHABLE, faults.HALF_OPEN],
    ids=named,
)
def test_while_an_answer_is_published(project: Project, fault: Fault) -> None:
    """Where it was kept and nobody knows, the other finds it; where it was not, it asks when the lease has ended."""
    project.sandbox.hold()
    project.behind.tell("tries", text=project.text)
    project.until_asked(1)
    project.beside.tell("tries", text=project.text)
    project.until_waiting()
    project.proxy.fail(fault, on=PUBLISH)
    project.sandbox.release()
    answers = [project.behind.hear(), project.beside.hear()]
    assert project.proxy.met == [fault]
    paid = project.assert_agree(answers)
    if fault == faults.UNREACHABLE:
        # Refused at once: it may be back in time to take what is written without a lease.
        assert paid in (1, 2)
    else:
        assert paid == (2 if fault == faults.HALF_OPEN else 1)
    project.assert_well()


def test_an_answer_that_is_published_when_another_has_led_overwrites_nothing(project: Project) -> None:
    project.sandbox.hold()
    project.proxy.fail(faults.FROZEN, on=PUBLISH, times=None)
    project.behind.tell("tries", text=project.text)
    project.until_asked(1)
    project.sandbox.release()
    first = project.behind.hear()
    project.sandbox.answers[project.text] = {"name": OTHER}
    second = project.beside.tries(project.text)
    sent = project.proxy.bytes_to_server
    project.proxy.heal()
    until(lambda: project.proxy.bytes_to_server > sent)
    third = project.beside.tries(project.text)
    assert (first[0], second[0], third) == (ANSWER, OTHER, [OTHER, "hit", 0])
    assert project.assert_agree([first, second, third], (ANSWER, OTHER)) == 2
    project.assert_well()


@pytest.mark.parametrize("fault", [PASSES, faults.RESET, faults.LOST], ids=named)
def test_a_renewal_that_is_carried_out_keeps_the_lease(project: Project, fault: Fault) -> None:
    project.sandbox.hold()
    project.proxy.fail(fault, on=RENEW)
    project.proxy.fail(PASSES, on=RENEW, times=None)
    project.behind.tell("tries", text=project.text)
    project.until_asked(1)
    project.beside.tell("tries", text=project.text)
    project.until_waiting()
    # In so many thirds of it, it would have ended.
    until(lambda: len(project.proxy.met) >= 6)
    assert (project.asked, project.proxy.met[0]) == (1, fault)
    project.sandbox.release()
    answers = [project.behind.hear(), project.beside.hear()]
    assert sorted(outcome for _, outcome, _ in answers) == ["collapsed", "miss"]
    assert project.assert_agree(answers) == 1
    project.assert_well()


@pytest.mark.parametrize("fault", [faults.HALF_OPEN, faults.FROZEN], ids=named)
def test_a_renewal_that_does_not_arrive_lets_another_lead(project: Project, fault: Fault) -> None:
    """And one that arrives when the other has led takes nothing from it."""
    project.sandbox.hold()
    project.proxy.fail(fault, on=RENEW, times=None)
    project.behind.tell("tries", text=project.text)
    project.until_asked(1)
    project.beside.tell("tries", text=project.text)
    project.until_asked(2)
    assert set(project.proxy.met) == {fault}
    project.proxy.heal()
    project.sandbox.release()
    answers = [project.behind.hear(), project.beside.hear()]
    assert project.assert_agree(answers) == 2
    project.assert_well()
