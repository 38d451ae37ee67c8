"""A project in which something goes wrong: its provider, its tiers, its ledger, and its processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID

from llmcache.testing.sandbox import Sandbox
from tests.cache_servers import RedisServer
from tests.services import Postgres
from tests.waiting import until

ROOT: Final = Path(__file__).parents[2]
Over = Literal["redis", "disk", "postgresql"]
_PATIENCE: Final = 600.0
_NUMBERS: Final = count()
_TEMPLATE: Final = "flights"


@dataclass(frozen=True)
class Figure:
    """One thing that was found."""

    what: str
    found: str
    target: str
    kept: bool
    is_time: bool = False
    """Whether it belongs to this machine and moment."""
    each: list[float] = field(default_factory=list[float])
    """Seconds, from least to most."""
    bound: float | None = None
    """How many each may be."""


def counted(what: str, found: object, target: object, *, kept: bool | None = None) -> Figure:
    """Return a figure that holds on every machine: kept when what was found is what it should be."""
    return Figure(what, f"{found}", f"{target}", found == target if kept is None else kept)


def timed(what: str, each: list[float], bound: float, *, share: float = 1.0) -> Figure:
    """Return a figure of seconds: kept when this share of them is within the bound; the worst of them counts at 1."""
    ordered = sorted(each)
    found, middle = at_share(ordered, share), at_share(ordered, 0.5)
    name = "worst" if share == 1.0 else f"p{100 * share:g}"
    said = f"{name} {1_000 * found:,.0f} ms, median {1_000 * middle:,.0f} ms"
    target = f"{name} ≤ {1_000 * bound:,.0f} ms"
    return Figure(what, said, target, found <= bound, is_time=True, each=ordered, bound=bound)


def at_share(ordered: list[float], share: float) -> float:
    """Return the number that this share of them does not pass."""
    return ordered[max(0, -int(-len(ordered) * share // 1) - 1)] if ordered else 0.0


class Hand:
    """A process of `chaos.flights.crew`."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "chaos.flights.crew"], env=environment, cwd=ROOT, text=True,
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
        if not line:
            raise RuntimeError(self.process.communicate(timeout=_PATIENCE)[1])
        return json.loads(line)["done"]

    def do(self, what: str, **arguments: Any) -> Any:
        """Tell it what to do, and return what it has done."""
        self.tell(what, **arguments)
        return self.hear()

    def kill(self) -> None:
        """End it in any case."""
        with contextlib.suppress(ProcessLookupError):
            # Its children too, also those that stand still.
            for child in _children(self.process.pid):
                os.kill(child, signal.SIGKILL)
        self.process.kill()
        self.process.communicate()


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


class Grounds:
    """A folder and servers that scenes use one after the other."""

    def __init__(self, folder: Path, redis: RedisServer, postgres: Postgres) -> None:
        self.folder = folder
        self.redis = redis
        self.postgres = postgres
        self._migrated: set[str] = set()

    @classmethod
    @contextmanager
    def opened(cls, folder: Path) -> Iterator[Grounds]:
        """Start servers, and end them."""
        with ExitStack() as opened:
            redis = RedisServer()
            opened.callback(redis.close)
            postgres = Postgres()
            opened.callback(postgres.close)
            yield cls(folder, redis, postgres)

    def database(self, kind: Literal["sqlite", "postgresql"], name: str) -> dict[str, Any]:
        """Return the settings of a new database with all tables."""
        if kind == "sqlite":
            if kind not in self._migrated:
                self._migrate({"ENGINE": "django.db.backends.sqlite3", "NAME": str(self.folder / "tables.sqlite3")})
            shutil.copyfile(self.folder / "tables.sqlite3", self.folder / f"{name}.sqlite3")
            made = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(self.folder / f"{name}.sqlite3")}
        else:
            if kind not in self._migrated:
                self._migrate(self.postgres.database(_TEMPLATE))
            made = {**self.postgres.database(name), "NAME": name}
            with contextlib.closing(self.postgres.connect()) as connection:
                connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')  # type: ignore[arg-type]
                connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{_TEMPLATE}"')  # type: ignore[arg-type]
        self._migrated.add(kind)
        return made

    def _migrate(self, database: dict[str, Any]) -> None:
        memory = {"BACKEND": "llmcache.backends.MemoryCache"}
        told = {"database": database, "caches": {"default": memory}, "llmcache": {"TIERS": ["default"]}}
        done = subprocess.run(
            [sys.executable, "-m", "django", "migrate", "--verbosity", "0"],
            env=_environment(told), cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stderr)

    @contextmanager
    def scene(
        self, over: Over = "redis", *, database: Literal["sqlite", "postgresql"] | None = None, **settings: Any
    ) -> Iterator[Scene]:
        """Make a project with a name space, a ledger and a provider of its own, and end its processes.

        ``settings`` are of ``LLMCACHE``; ``memory_bytes`` puts memory before what is shared, ``redis_port`` is where
        Redis is reached.
        """
        kind = database or ("postgresql" if over == "postgresql" else "sqlite")
        with Sandbox() as sandbox:
            made = Scene(self, over, sandbox, kind, settings)
            try:
                yield made
            finally:
                sandbox.release()
                made.close()


_DUMMY: Final = "django.core.cache.backends.dummy.DummyCache"


def _environment(told: dict[str, Any]) -> dict[str, str]:
    return {**os.environ, "DJANGO_SETTINGS_MODULE": "chaos.settings", "LLMCACHE_CHAOS": json.dumps(told)}


class Scene:
    """One project, whose entries and leases lie in a tier that its processes share."""

    def __init__(
        self,
        grounds: Grounds,
        over: Over,
        sandbox: Sandbox,
        kind: Literal["sqlite", "postgresql"],
        told: dict[str, Any],
    ) -> None:
        self.name = f"scene{next(_NUMBERS)}"
        self.grounds = grounds
        self.sandbox = sandbox
        self._hands: list[Hand] = []
        folder = grounds.folder / self.name
        memory = told.pop("memory_bytes", None)
        port = told.pop("redis_port", grounds.redis.port)
        caches: dict[str, Any] = {"default": {"BACKEND": _DUMMY}}
        if memory is not None:
            caches["memory"] = {"BACKEND": "llmcache.backends.MemoryCache", "OPTIONS": {"MAX_BYTES": memory}}
        caches["shared"] = {
            "redis": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": f"redis://127.0.0.1:{port}/0"},
            "disk": {"BACKEND": "llmcache.backends.DiskCache", "LOCATION": str(folder / "shared")},
            # A cache that processes share, and that can hold no lease: the leases are rows.
            "postgresql": {
                "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
                "LOCATION": str(folder / "files"),
            },
        }[over]
        self._environment = _environment(
            {
                "database": grounds.database(kind, self.name),
                "caches": caches,
                "llmcache": {
                    "TIERS": [alias for alias in caches if alias != "default"],
                    "NAMESPACE": self.name,
                    "JOURNAL": str(folder / "journal"),
                    "PROVIDERS": {"openai": {"base_url": sandbox.base_url, "api_key": "sandbox"}},
                    "MAX_RETRIES": 0,
                    **told,
                },
            }
        )

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process of this project."""
        return self._environment

    def hands(self, number: int, *, ready: bool = True) -> list[Hand]:
        """Start processes; ``ready``: each has made everything that it needs."""
        made = [Hand(self._environment) for _ in range(number)]
        self._hands += made
        if ready:
            for place, hand in enumerate(made):
                text = f"ready {len(self._hands)} {place}"
                self.sandbox.answers[text] = {"name": text}
                hand.tell("make_ready", text=text)
            for hand in made:
                hand.hear()
        return made

    def text(self, words: str) -> str:
        """Return a text that the provider answers with itself."""
        self.sandbox.answers[words] = {"name": words}
        return words

    def ledger(self) -> dict[str, str]:
        """Return of each row of the ledger how it ended, when all is in it; a row that is there twice is an error."""
        for hand in self._hands:
            until(lambda hand=hand: hand.do("flush"), _PATIENCE)
        # Once more: of those who have ended since.
        until(lambda: self._hands[0].do("flush"), _PATIENCE)
        rows = [(str(UUID(call_id)), outcome) for call_id, outcome in self._hands[0].do("rows")]
        if len({call_id for call_id, _ in rows}) < len(rows):
            raise RuntimeError("a call has two rows")
        return dict(rows)

    def charged(self) -> set[str]:
        """Return the calls that the provider's own file has."""
        return {str(UUID(charge["client_request_id"])) for charge in self.sandbox.charges()}

    def agreement(self, what: str = "") -> Figure:
        """Return whether the provider's file and the ledger tell of the same calls."""
        charged = self.charged()
        rows = {call_id for call_id, outcome in self.ledger().items() if outcome != "failed"}
        found = f"{len(charged):,} calls, {len(rows):,} rows"
        name = "provider's file and ledger" + (f", {what}" if what else "")
        return counted(name, found, "the same calls", kept=charged == rows)

    def close(self) -> None:
        """End the processes."""
        for hand in self._hands:
            hand.kill()
