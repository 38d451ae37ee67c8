"""What the tests of the whole package share: a provider to talk to, a clock to move, the journal to read."""

import contextlib
import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from django.conf import settings
from django.test import override_settings

from llmcache import conf
from llmcache.clock import Clock
from llmcache.engine import isolation, process
from llmcache.engine.runtime import Runtime
from llmcache.money.journal_files import JournalRecord, read_journal
from llmcache.testing.sandbox import Sandbox
from tests.cache_servers import memcached_server, redis_server  # noqa: F401
from tests.ledgers import ledger, postgresql_tables  # noqa: F401 - fixtures are found by their names here
from tests.services import postgres  # noqa: F401 - fixtures are found by their names here
from tests.toys import make_toy, wheel  # noqa: F401

# They run beside libraries that are not here: `make test-neighbours`.
collect_ignore = ["neighbours"]

# No test goes by the clock of a machine that others use too.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")

# What a shell starts in the background ignores Ctrl-C, and so would every child that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def llmcache_settings(**changes: Any) -> Iterator[None]:
    """Change some keys of ``LLMCACHE`` and keep the others."""
    with override_settings(LLMCACHE={**settings.LLMCACHE, **changes}):
        yield


def child_environment(**variables: str) -> dict[str, str]:
    """Return the environment of a child process that works in this test's tiers, journal and name space."""
    shared = {**settings.LLMCACHE, "NAMESPACE": process.current().namespace}
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "LLMCACHE_TEST_SETTINGS": json.dumps(shared, default=str),
        **variables,
    }


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path) -> Iterator[None]:
    """Give each test a disk tier, a journal and a memory of its own."""
    with llmcache_settings(DISK_PATH=tmp_path / "tier", JOURNAL=tmp_path / "journal"):
        process.install(None)
        yield
    process.install(None)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A real provider on loopback, and settings that point to it."""
    with (
        Sandbox(answers={}) as provider,
        llmcache_settings(PROVIDERS={"openai": {"base_url": provider.base_url, "api_key": "sandbox"}}),
    ):
        yield provider
    process.install(None)


class MovedClock:
    """A clock that stands on the real one and is moved by tests; what sleeps on it moves it."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.slept: list[float] = []
        self.clock = Clock(
            wall=lambda: time.time() + self.ahead, monotonic=lambda: time.monotonic() + self.ahead, sleep=self._sleep
        )

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.ahead += seconds

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self.ahead += seconds

    def install(self) -> None:
        """Put this clock into a runtime made from the settings in force."""
        process.install(Runtime(conf.current(), clock=self.clock, test=isolation.current_test()))

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keep this clock although a setting has changed."""
        self.install()
        yield


@pytest.fixture
def clock(request: pytest.FixtureRequest) -> Iterator[MovedClock]:
    """A clock that the test moves."""
    if "sandbox" in request.fixturenames:
        request.getfixturevalue("sandbox")
    moved = MovedClock()
    moved.install()
    yield moved
    process.install(None)


@pytest.fixture
def no_backoff(clock: MovedClock) -> list[float]:
    """The pauses that were asked for, none of which really passes."""
    return clock.slept


class JournalReader:
    """The journal of this test's process."""

    def __init__(self) -> None:
        self.folder = Path(settings.LLMCACHE["JOURNAL"])

    def files(self) -> list[Path]:
        """The journal's files."""
        return sorted(self.folder.glob("*.journal"))

    def records(self) -> list[JournalRecord]:
        """What the journal says of attempts, in order; every line has to be whole."""
        return [record for record in self.all_records() if record.event != "stored"]

    def all_records(self) -> list[JournalRecord]:
        """What the journal says, entries included."""
        found: list[JournalRecord] = []
        for path in self.files():
            contents = read_journal(path, process.current().namespace)
            assert (contents.damaged, contents.foreign) == (0, 0)
            found += contents.records
        return found

    def text(self) -> str:
        """The bytes of all files, as text."""
        return "".join(path.read_text() for path in self.files())


@pytest.fixture
def journal(fresh: None) -> JournalReader:
    """The journal of this test."""
    return JournalReader()


@pytest.fixture
def forget_memory() -> Callable[[], None]:
    """Empties memory: what a restart does."""

    def forget() -> None:
        memory = process.current().memory
        assert memory is not None
        memory.clear()

    return forget


@pytest.fixture
def drop_supplements(tmp_path: Path) -> Callable[[], None]:
    """Takes the completions out of the disk tier and leaves the answers."""

    def drop() -> None:
        with contextlib.closing(sqlite3.connect(tmp_path / "tier" / "entries.sqlite3", isolation_level=None)) as file:
            file.execute("DELETE FROM entries WHERE CAST(key AS TEXT) LIKE '%:more'")

    return drop


os.environ.pop("OPENAI_API_KEY", None)
os.environ.pop("OPENAI_BASE_URL", None)
