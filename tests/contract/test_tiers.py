"""What every store of bytes does, memory and disk alike."""

import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmcache.backends import MemoryCache
from llmcache.clock import Clock
from llmcache.tiers.base import ByteTier, get_many
from llmcache.tiers.disk import DiskStore, DiskTier


class Time:
    """A time that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class MemoryBytes:
    """A memory store as a tier of bytes."""

    name = "memory"

    def __init__(self, time: Time) -> None:
        self.cache = MemoryCache("tests.contract.tiers", {"OPTIONS": {"MAX_BYTES": 4 * 2**20}})
        self.cache.clock = Clock(monotonic=time)
        self.cache.clear()

    def get(self, key: str) -> bytes | None:
        return self.cache.get(key)

    def set(self, key: str, value: bytes, ttl_seconds: float | None) -> None:
        self.cache.set(key, value, ttl_seconds)

    def delete(self, key: str) -> None:
        self.cache.delete(key)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture(params=["memory", "disk", "disk with keys of its own"])
def tier(request: pytest.FixtureRequest, time: Time, tmp_path: Path) -> Iterator[ByteTier]:
    if request.param == "memory":
        memory = MemoryBytes(time)
        yield memory
        memory.cache.clear()
        return
    store = DiskStore(tmp_path / "contract", clock=time)
    yield DiskTier("disk", store, "prefix:{}".format if request.param != "disk" else None)
    store.close()


def test_what_was_never_kept_is_none(tier: ByteTier) -> None:
    assert tier.get("absent") is None


@pytest.mark.parametrize(
    "value",
    [b"", b"\0", b"123", bytes(range(256)) * 40, "é☃".encode(), b"\xff\xfe", b"\x80\x04N.", b"x" * 2**20],
    ids=["empty", "zero", "digits", "all bytes", "utf-8", "not utf-8", "a pickle", "1 MB"],
)
def test_bytes_come_back_as_they_were(tier: ByteTier, value: bytes) -> None:
    tier.set("key", value, 60)
    found = tier.get("key")
    assert type(found) is bytes
    assert found == value


def test_a_value_is_replaced(tier: ByteTier) -> None:
    for value in (b"one", b"a longer value", b"", b"two"):
        tier.set("key", value, 60)
        assert tier.get("key") == value


def test_a_value_is_removed(tier: ByteTier) -> None:
    tier.set("key", b"value", None)
    tier.set("other", b"other", None)
    tier.delete("key")
    tier.delete("key")
    assert (tier.get("key"), tier.get("other")) == (None, b"other")


def test_keys_are_told_apart(tier: ByteTier) -> None:
    keys = [
        "a",
        "A",
        "aa",
        "a%",
        "a_",
        "%",
        "'",
        '"',
        "1",
        "01",
        "é",
        "e",
        "☃",
        "💾",
        "k" * 200,
        "k" * 199,
        "prefix:a",
        "*",
        "?",
    ]
    for key in keys:
        tier.set(key, key.encode(), None)
    assert [tier.get(key) for key in keys] == [key.encode() for key in keys]


def test_many_are_read_at_once(tier: ByteTier, time: Time) -> None:
    """More than one statement takes; in their order, with what is not there and what has expired."""
    sought = [f"key-{number}" for number in range(1_100)]
    for number, key in enumerate(sought):
        if number % 3:
            tier.set(key, key.encode(), 60 if number % 3 == 1 else 600)
    time.now += 100
    expected = [key.encode() if number % 3 == 2 else None for number, key in enumerate(sought)]
    assert get_many(tier, sought) == expected
    assert get_many(tier, [sought[2], sought[2]]) == [b"key-2"] * 2


def test_a_value_ends_with_its_time(tier: ByteTier, time: Time) -> None:
    tier.set("short", b"short", 10)
    tier.set("fraction", b"fraction", 10.5)
    tier.set("endless", b"endless", None)
    time.now += 9.9
    assert (tier.get("short"), tier.get("fraction")) == (b"short", b"fraction")
    time.now += 0.2
    assert (tier.get("short"), tier.get("fraction")) == (None, b"fraction")
    time.now += 100 * 365 * 86_400
    assert (tier.get("fraction"), tier.get("endless")) == (None, b"endless")


def test_a_new_value_brings_its_own_time(tier: ByteTier, time: Time) -> None:
    tier.set("longer", b"1", 10)
    tier.set("longer", b"2", 100)
    tier.set("shorter", b"1", 100)
    tier.set("shorter", b"2", 10)
    tier.set("endless", b"1", 10)
    tier.set("endless", b"2", None)
    time.now += 50
    assert [tier.get(key) for key in ("longer", "shorter", "endless")] == [b"2", None, b"2"]


@pytest.mark.parametrize("ttl_seconds", [0, 0.0, -1, -1e9, -math.inf, math.nan])
def test_a_time_that_is_over_removes_the_value(tier: ByteTier, ttl_seconds: float) -> None:
    tier.set("key", b"old", None)
    tier.set("key", b"new", ttl_seconds)
    assert tier.get("key") is None


def test_an_infinite_time_does_not_end(tier: ByteTier, time: Time) -> None:
    tier.set("key", b"value", math.inf)
    time.now += 1e9
    assert tier.get("key") == b"value"


@pytest.mark.parametrize("value", [None, "text", 1, bytearray(b"x"), memoryview(b"x"), [b"x"]])
def test_only_bytes_are_kept(tier: ByteTier, value: object) -> None:
    tier.set("key", b"old", None)
    with pytest.raises(TypeError, match="keeps bytes, not"):
        tier.set("key", value, None)  # pyright: ignore[reportArgumentType] -- the point of the test
    assert tier.get("key") == b"old"


@contextmanager
def restless_threads() -> Iterator[None]:
    """Let threads take turns as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def in_threads(work: Callable[[int], None], count: int = 8) -> None:
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 -- shown by the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    with restless_threads():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []


def test_eight_threads_read_write_and_remove_at_once(tier: ByteTier) -> None:
    keys = [f"key-{number}" for number in range(20)]

    def work(number: int) -> None:
        for step in range(150):
            key = keys[(step * (number + 1)) % len(keys)]
            if step % 5 == 0:
                tier.set(key, key.encode() * 50, 60)
            elif step % 17 == 0:
                tier.delete(key)
            else:
                assert tier.get(key) in (None, key.encode() * 50)

    in_threads(work)
    for key in keys:
        tier.set(key, b"after", None)
    assert {tier.get(key) for key in keys} == {b"after"}


# In a process of its own: it forks beside running threads, and its children end as programs do, not by os._exit.
FORKS = """
import os, sys, threading
from pathlib import Path
from llmcache.backends import MemoryCache
from llmcache.tiers.disk import DiskStore

which, folder = sys.argv[1:]
tier = DiskStore(Path(folder)) if which == "disk" else MemoryCache("forks", {"OPTIONS": {"MAX_BYTES": 200_000}})
tier.set("before", b"the fork", None)
going = True

def work(number):
    step = 0
    while going:
        step += 1
        tier.set(f"{number}-{step % 50}", b"x" * 500, 60)
        tier.get(f"{number}-{step % 47}")
        tier.get("before")
        if step % 7 == 0:
            tier.delete(f"{number}-{step % 31}")

threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
for thread in threads:
    thread.start()
children = []
for number in range(12):
    child = os.fork()
    if child == 0:
        assert tier.get("before") == b"the fork", "lost"
        tier.set(f"child-{number}", b"child", None)
        assert tier.get(f"child-{number}") == b"child", "not written"
        sys.exit(0)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
going = False
for thread in threads:
    thread.join()
assert codes == [0] * 12, codes
assert tier.get("before") == b"the fork"
if which == "disk":
    assert [tier.get(f"child-{number}") for number in range(12)] == [b"child"] * 12
"""


@pytest.mark.parametrize("which", ["memory", "disk"])
def test_a_forked_child_goes_on(which: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS, which, str(tmp_path / "forks")],
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
