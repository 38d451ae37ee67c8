"""The places and faults under which processes read and invalidate, and what came of each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from chaos.staleness import Commit, Read, Staleness, staleness
from llmcache.testing.sandbox import Sandbox
from tests.cache_servers import RedisServer
from tests.services import Postgres

ROOT: Final = Path(__file__).parents[1]
SLACK: Final = 0.2
"""Seconds beside two ``RECHECK`` for the reading itself."""
_PATIENCE: Final = 600.0


@dataclass(frozen=True)
class Size:
    """How much is done."""

    readers: int = 8
    makers: int = 2
    """Processes that invalidate."""
    invalidations: int = 1_000
    few: int = 100
    """How many where each takes a process its life, and in the control."""
    seconds: float = 40.0
    recheck: float = 1.0
    entries: int = 200
    wipes: int = 50


BRIEF: Final = Size(readers=1, makers=1, invalidations=30, few=20, seconds=1.5, recheck=0.2, entries=20, wipes=5)


@dataclass(frozen=True)
class Arm:
    """One way in which the same is done."""

    title: str
    redis: bool
    strict: bool = False
    killed: bool = False
    blind: bool = False
    """Readers that do not look at the log again: whether what they are served would be seen here at all."""

    def recheck(self, size: Size) -> float:
        """Return the setting of the readers, in seconds."""
        return 0.0 if self.strict else 3_000.0 if self.blind else size.recheck

    def bound(self, size: Size) -> float | None:
        """Return what is promised, in seconds; None where nothing is."""
        return None if self.blind else 0.0 if self.strict else 2 * size.recheck + SLACK


ARMS: Final = {
    "redis": Arm("Redis and PostgreSQL", redis=True),
    "database": Arm("PostgreSQL alone", redis=False),
    "strict": Arm("strict, Redis and PostgreSQL", redis=True, strict=True),
    "strict-database": Arm("strict, PostgreSQL alone", redis=False, strict=True),
    "killed-redis": Arm("killed after the commit, Redis", redis=True, killed=True),
    "killed-database": Arm("killed after the commit, PostgreSQL", redis=False, killed=True),
    "blind": Arm("control: never looks again", redis=False, blind=True),
}


class Moments(dict[str, Any]):
    """What the provider answers: to each text, when it was asked."""

    def __contains__(self, text: object) -> bool:
        return True

    def __getitem__(self, text: str) -> dict[str, int]:
        return {"asked": time.monotonic_ns()}


class Place:
    """Servers and a folder for one run, and the processes that are started there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open = ExitStack()

    def __enter__(self) -> Place:
        try:
            self._provider = self._open.enter_context(Sandbox())
            self._provider.answers = Moments()
            postgres = Postgres()
            self._open.callback(postgres.close)
            self._redis = RedisServer()
            self._open.callback(self._redis.close)
            self._database = postgres.database("chaos")
            self._run("-m", "django", "migrate", "--verbosity", "0", redis=True, namespace="chaos")
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    # -- processes

    def _environment(self, *, redis: bool, namespace: str, **settings: Any) -> dict[str, str]:
        shared = {"BACKEND": "llmcache.backends.DiskCache", "LOCATION": str(self._folder / namespace)}
        if redis:
            shared = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": self._redis.url}
        told = {
            "database": self._database,
            "caches": {
                "default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
                "memory": {"BACKEND": "llmcache.backends.MemoryCache"},
                "shared": shared,
            },
            "llmcache": {
                "TIERS": ["memory", "shared"],
                "NAMESPACE": namespace,
                "JOURNAL": str(self._folder / "journal"),
                "PROVIDERS": {"openai": {"base_url": self._provider.base_url, "api_key": "sandbox"}},
                **settings,
            },
        }
        return {**os.environ, "DJANGO_SETTINGS_MODULE": "chaos.settings", "LLMCACHE_CHAOS": json.dumps(told)}

    def _run(self, *arguments: str, redis: bool, namespace: str) -> None:
        environment = self._environment(redis=redis, namespace=namespace)
        done = subprocess.run(
            [sys.executable, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr)

    @contextmanager
    def _workers(self, roles: list[tuple[str, ...]], environments: list[dict[str, str]]) -> Iterator[list[Worker]]:
        """Start processes, wait until all are ready, and end them in any case."""
        started: list[Worker] = []
        try:
            for number, (role, environment) in enumerate(zip(roles, environments, strict=True)):
                started.append(Worker(role, self._folder / f"seen-{number}", environment))
            for worker in started:
                worker.hear()
            yield started
        finally:
            for worker in started:
                worker.kill()

    # -- what is measured

    def measure(self, name: str, size: Size, seed: int) -> Staleness:
        """Let readers read while others invalidate; return how stale it got."""
        arm = ARMS[name]
        recheck = arm.recheck(size)
        # An arm has entries and a log of its own.
        where: dict[str, Any] = {"redis": arm.redis, "namespace": name.replace("-", "")}
        readers = self._environment(**where, RECHECK=recheck)
        others = self._environment(**where, RECHECK=0.0 if arm.strict else size.recheck)
        few = arm.killed or arm.blind
        count, seconds = (size.few, size.seconds / 2) if few else (size.invalidations, size.seconds)
        makers = [
            ("die" if arm.killed else "invalidate", f"maker-{seed}-{place}", str(count // size.makers), str(seconds))
            for place in range(size.makers)
        ]
        roles = [("read", f"reader-{seed}-{place}") for place in range(size.readers)]
        environments = [readers] * len(roles) + [others] * len(makers)
        with self._workers([*roles, *makers], environments) as workers:
            for worker in workers:
                worker.go_on()
            commits = [
                Commit(before, after, frozenset(texts))
                for worker in workers[len(roles) :]
                for before, after, texts in json.loads(worker.finish())
            ]
            # What is stale now must be given up within the bound, and is read until then.
            time.sleep(2 * size.recheck + 2 * SLACK)
            reads = [read for worker in workers[: len(roles)] for read in _reads(worker.finish())]
        return staleness(reads, commits)

    def two_projects(self, size: Size) -> dict[str, Any]:
        """Let one project invalidate everything while another has entries in the same Redis; return what it lost."""
        environments = [
            self._environment(redis=True, namespace=name, RECHECK=size.recheck) for name in ("one", "other")
        ]
        roles = [("wipe", str(size.wipes)), ("lose", str(size.entries))]
        with self._workers(roles, environments) as (one, other):
            one.go_on()
            wiped = json.loads(one.finish())
            # More than the other needs to hear of it, if it were to.
            time.sleep(2 * size.recheck + SLACK)
            other.go_on()
            return {"wiped": wiped, **json.loads(other.finish())}


class Worker:
    """A process of `chaos.worker`."""

    def __init__(self, role: tuple[str, ...], out: Path, environment: dict[str, str]) -> None:
        self._out = out
        command = [sys.executable, "-m", "chaos.worker", role[0], str(out), *role[1:]]
        self._process = subprocess.Popen(
            command, env=environment, cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def hear(self) -> None:
        """Wait until it is ready."""
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError(self._process.communicate(timeout=_PATIENCE)[1])

    def go_on(self) -> None:
        """Let it begin."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def finish(self) -> bytes:
        """Let it end, and return what it has written."""
        errors = self._process.communicate(timeout=_PATIENCE)[1]
        if self._process.returncode:
            raise RuntimeError(errors)
        return self._out.read_bytes()

    def kill(self) -> None:
        """End it in any case."""
        self._process.kill()
        self._process.communicate()


def _reads(data: bytes) -> Iterator[Read]:
    values = array("q")
    values.frombytes(data)
    for place in range(0, len(values), 3):
        yield Read(*values[place : place + 3])
