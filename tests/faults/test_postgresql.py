"""Faults on the way to PostgreSQL, where the leases are rows, and where the ledger is.

The process behind the proxy meets the fault, the one beside it does not. Nobody fails, the values are right, and the
provider's own file, the ledger and the answers tell of the same calls, once each.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from pytest_django import DjangoDbBlocker

from llmcache.testing.sandbox import Sandbox
from tests.contract.aliases import DJANGO
from tests.faults import proxy as faults
from tests.faults.processes import Project, project_over
from tests.faults.proxy import Fault, Proxy
from tests.faults.test_proxy import socket_of
from tests.faults.test_redis_leases import PASSES, named
from tests.ledgers import ALIAS, known
from tests.services import Postgres
from tests.waiting import until

LEASES = b"llmcache_lease"
CALLS = b'INSERT INTO "llmcache_providercall"'
COMMIT = b"COMMIT"
DATABASE = "faults"


@pytest.fixture(scope="module")
def running(
    postgres: Postgres, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("faults-postgresql")
    beside = postgres.database(DATABASE)
    with django_db_blocker.unblock(), known(beside):
        call_command("migrate", "llmcache", database=ALIAS, verbosity=0)
    with Sandbox(answers={"warm": {"name": "warm"}}) as sandbox, Proxy(socket_of(postgres)) as proxy:
        behind = {**beside, "HOST": "127.0.0.1", "PORT": proxy.port}
        ways = tuple(over(database, folder) for database in (behind, beside))
        with project_over(sandbox, proxy, folder, ways, lambda: rows(postgres)) as made:
            yield made


def over(database: dict[str, Any], folder: Path) -> dict[str, Any]:
    # A cache that processes share, and that can hold no lease.
    caches = {
        "default": {"BACKEND": f"{DJANGO}.dummy.DummyCache"},
        "shared": {"BACKEND": f"{DJANGO}.filebased.FileBasedCache", "LOCATION": str(folder / "files")},
    }
    return {"LLMCACHE_TEST_CACHES": caches, "LLMCACHE_TEST_DATABASE": database}


def rows(postgres: Postgres) -> list[tuple[str, str]]:
    """Return the ledger's calls, whose sums have to be those of its hours."""
    with postgres.connect(DATABASE) as direct:
        found = direct.execute("SELECT call_id, outcome FROM llmcache_providercall").fetchall()
        (attempts,) = direct.execute("SELECT coalesce(sum(attempts), 0) FROM llmcache_usagebucket").fetchone() or (0,)
    assert attempts == len(found)
    return [(str(call_id), outcome) for call_id, outcome in found]


@pytest.fixture
def project(running: Project) -> Iterator[Project]:
    running.begin_test()
    yield running
    running.end_test()


@pytest.mark.parametrize("fault", [PASSES, faults.RESET, faults.LOST, faults.HALF_OPEN], ids=named)
def test_while_a_lease_is_taken(project: Project, fault: Fault) -> None:
    """Who cannot say that it leads, leads all the same, and keeps nobody waiting."""
    project.sandbox.hold()
    project.proxy.fail(fault, on=LEASES)
    project.behind.tell("tries", text=project.text)
    project.until_asked(1)
    assert project.proxy.met == [fault]
    project.beside.tell("tries", text=project.text)
    if fault == PASSES:
        project.until_waiting()
    else:
        project.until_asked(2)
    project.sandbox.release()
    answers = [project.behind.hear(), project.beside.hear()]
    assert project.assert_agree(answers) == (1 if fault == PASSES else 2)
    project.assert_well()


def test_connections_for_leases_that_are_all_half_open(project: Project) -> None:
    """Calls go on without leases until somebody says that the connections are gone."""
    project.proxy.fail(faults.HALF_OPEN, on=LEASES, times=None)
    texts = [f"{project.text} {number}" for number in range(3)]
    for text in texts:
        project.sandbox.answers[text] = project.sandbox.answers[project.text]
    answers = [project.behind.tries(text) for text in texts]
    assert [outcome for _, outcome, _ in answers] == ["miss"] * 3
    assert {*project.proxy.met} == {faults.HALF_OPEN}
    project.proxy.heal()
    answers += [project.beside.tries(text) for text in texts]
    assert project.assert_agree(answers) == 3
    # And then with leases, as before.
    project.until_well()
    project.sandbox.hold()
    project.behind.tell("tries", text=project.text)
    project.until_asked(4)
    project.beside.tell("tries", text=project.text)
    project.until_waiting()
    project.sandbox.release()
    answers += [project.behind.hear(), project.beside.hear()]
    assert project.assert_agree(answers) == 4


@pytest.mark.parametrize(
    ("fault", "on"),
    [
        (PASSES, CALLS),
        (faults.UNREACHABLE, CALLS),
        (faults.RESET, CALLS),
        (faults.LOST, CALLS),
        (faults.HALF_OPEN, CALLS),
        (faults.RESET, COMMIT),
    ],
    ids=["control", "unreachable", "reset", "lost", "half_open", "reset at the end"],
)
def test_while_the_ledger_is_written(project: Project, fault: Fault, on: bytes) -> None:
    """A call is a row, once: also where nobody knows whether the transaction was committed."""
    project.sandbox.hold()
    project.behind.tell("tries", text=project.text)
    project.until_asked(1)
    project.proxy.fail(fault, on=on, after=CALLS if on == COMMIT else b"")
    project.sandbox.release()
    answers = [project.behind.hear()]
    until(lambda: project.proxy.met)
    # Calls go on meanwhile.
    answers.append(project.behind.tries(project.text))
    assert [outcome for _, outcome, _ in answers] == ["miss", "hit"]
    project.proxy.heal()
    assert project.assert_agree(answers) == 1
    assert project.proxy.met[0] == fault
    project.assert_well()
