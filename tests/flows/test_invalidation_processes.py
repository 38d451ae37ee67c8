"""Invalidating over processes: who sees it, and what carries it there when the way to Redis, or a process, is lost."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from django.test import override_settings

from llmcache.testing.sandbox import Sandbox
from tests import forks
from tests.cache_servers import RedisServer
from tests.conftest import child_environment, llmcache_settings
from tests.flows.newcomer import ROOT
from tests.waiting import until

RECHECK = 0.1
_SECONDS = 60.0


class Worker:
    """A process that asks and invalidates when it is told to."""

    def __init__(self, environment: dict[str, str], module: str = "log_worker") -> None:
        self.process = forks.Forked(
            ["-m", f"tests.flows.{module}"], env=environment, cwd=ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def tell(self, what: str, **arguments: Any) -> None:
        """Tell it what to do."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        """Return what it has done."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate(timeout=_SECONDS)[1]
        return json.loads(line)["done"]

    def do(self, what: str, **arguments: Any) -> Any:
        """Tell it what to do, and return what it has done."""
        self.tell(what, **arguments)
        return self.hear()

    def ask(self, text: str = "Ada") -> str:
        """Return the outcome of a call there."""
        return self.do("ask", text=text).split()[0]

    def end(self) -> int:
        """Let it end, and return its exit code."""
        _, errors = self.process.communicate(timeout=_SECONDS)
        assert not errors, errors
        return self.process.returncode

    def close(self) -> None:
        """End it in any case."""
        self.process.kill()
        self.process.communicate()


class Workers:
    """Processes of one project, which all end with the test."""

    def __init__(self, var: Path, caches: dict[str, Any], **variables: str) -> None:
        self._started: list[Worker] = []
        with override_settings(CACHES=caches):
            given = {"LLMCACHE_TESTS_VAR": str(var), "LLMCACHE_TEST_CACHES": json.dumps(caches), **variables}
            self._environment = child_environment(**given)

    def start(self, module: str = "log_worker") -> Worker:
        """Start one, which is a module of the tests."""
        self._started.append(Worker(self._environment, module))
        return self._started[-1]

    def close(self) -> None:
        """End those that still run."""
        for worker in self._started:
            worker.close()


def caches_over(server: RedisServer | None, folder: Path) -> dict[str, Any]:
    return {
        "default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
        "memory": {"BACKEND": "llmcache.backends.MemoryCache"},
        "shared": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": server.url}
        if server is not None
        else {"BACKEND": "llmcache.backends.DiskCache", "LOCATION": str(folder / "shared")},
    }


@pytest.fixture(params=["redis", "disk"])
def workers(
    request: pytest.FixtureRequest, var: Path, tmp_path: Path, sandbox: Sandbox, redis_server: RedisServer
) -> Iterator[Workers]:
    sandbox.answers["Ada"] = {"name": "Ada"}
    server = redis_server if request.param == "redis" else None
    recheck = getattr(request.function, "recheck", RECHECK)
    with llmcache_settings(TIERS=["memory", "shared"], RECHECK=recheck):
        made = Workers(var, caches_over(server, tmp_path))
        try:
            yield made
        finally:
            made.close()


def test_another_process_sees_it(workers: Workers, sandbox: Sandbox) -> None:
    one, other = workers.start(), workers.start()
    assert [one.ask(), one.ask(), other.ask(), other.ask()] == ["miss", "hit", "hit", "hit"]
    made = one.do("invalidate", kind="Person")
    # Here at once; there as soon as it looks.
    assert one.ask() == "miss"
    until(lambda: sandbox.calls == 2)
    # It does not ask again: what the one has asked for is good.
    for _ in range(3):
        assert (other.ask(), sandbox.calls) == ("hit", 2)
    assert one.do("undo", invalidation=made) is True
    assert (one.ask(), other.ask(), sandbox.calls) == ("hit", "hit", 2)


def test_a_memory_hit_elsewhere_ends(workers: Workers, sandbox: Sandbox) -> None:
    one, other = workers.start(), workers.start()
    for worker in (one, other):
        worker.ask()
        assert worker.do("ask", text="Ada") == "hit memory"
    one.do("invalidate", tag="of no matter")
    assert other.ask() == "hit"
    one.do("invalidate", everything=True)

    def asked_anew() -> bool:
        assert other.do("hit", text="Ada")
        return sandbox.calls == 2

    until(asked_anew)
    assert [one.ask(), other.ask()] == ["hit", "hit"]


def test_nobody_sees_what_is_not_committed(workers: Workers, sandbox: Sandbox) -> None:
    one, other = workers.start(), workers.start()
    assert [one.ask(), other.ask()] == ["miss", "hit"]
    one.do("begin")
    one.do("invalidate", everything=True)
    assert one.ask() == "miss"
    for _ in range(20):
        assert other.ask() == "hit"
    one.do("commit")
    assert [one.ask(), sandbox.calls] == ["hit", 2]
    until(lambda: other.do("hit", text="Ada") and sandbox.calls >= 2)


def test_it_is_seen_although_its_maker_was_killed(workers: Workers, sandbox: Sandbox) -> None:
    one, other = workers.start(), workers.start()
    assert [one.ask(), other.ask()] == ["miss", "hit"]
    one.tell("invalidate_and_die", everything=True)
    assert one.process.wait(_SECONDS) == 9
    until(lambda: other.do("hit", text="Ada") and sandbox.calls == 2)


def test_strict_it_is_seen_by_the_next_call(workers: Workers, sandbox: Sandbox) -> None:
    one, other = workers.start(), workers.start()
    for round_ in range(1, 6):
        one.ask()
        assert (other.ask(), sandbox.calls) == ("hit", round_)
        one.do("invalidate", everything=True)
        assert (other.ask(), sandbox.calls) == ("miss", round_ + 1)
        assert one.ask() == "hit"


test_strict_it_is_seen_by_the_next_call.recheck = 0  # type: ignore[attr-defined]


def test_a_forked_child_reads_for_itself(workers: Workers, sandbox: Sandbox) -> None:
    one = workers.start()
    assert [one.ask(), one.ask()] == ["miss", "hit"]
    assert one.do("threads") == ["llmcache-log"]
    assert one.do("fork", text="Ada") == ["hit memory", "miss", "0"]
    assert sandbox.calls == 2


def test_a_log_of_many_rows(workers: Workers, sandbox: Sandbox) -> None:
    one = workers.start()
    assert one.ask() == "miss"
    assert one.do("many", count=2_000) == 2_000
    one.do("invalidate", tag="tag-7")
    assert one.ask() == "hit"
    other = workers.start()
    assert [other.ask(), sandbox.calls] == ["hit", 1]
    other.do("invalidate", kind="Person")
    assert other.ask() == "miss"
    until(lambda: one.do("hit", text="Ada") and one.do("ask", text="Ada").startswith("hit") and sandbox.calls == 2)


def test_processes_ask_each_other_by_way_of_redis(
    var: Path, tmp_path: Path, sandbox: Sandbox, redis_server: RedisServer
) -> None:
    """With a long RECHECK: what is left on the board is there for all, and is taken away on commit."""
    sandbox.answers["Ada"] = {"name": "Ada"}
    plain = redis.Redis.from_url(redis_server.url)
    with llmcache_settings(TIERS=["memory", "shared"], RECHECK=30):
        workers = Workers(var, caches_over(redis_server, tmp_path))
        try:
            one, other = workers.start(), workers.start()
            assert [one.ask(), other.ask()] == ["miss", "hit"]
            (board,) = (name for name in plain.scan_iter(match="*:log"))
            assert plain.get(board) == b"0 0 0"
            assert 0 < plain.pttl(board) <= 30_000
            one.do("invalidate", everything=True)
            assert not plain.exists(board)
            late = workers.start()
            assert [late.ask(), plain.get(board)] == ["miss", b"1 1 1"]
        finally:
            workers.close()
            plain.close()
