"""What Django promises of a cache backend, for MemoryCache and DiskCache alike, and what each adds."""

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import CacheHandler
from django.core.cache.backends.base import BaseCache, CacheKeyWarning

from llmcache.backends import DEFAULT_MAX_BYTES, DiskCache, MemoryCache
from llmcache.clock import Clock
from llmcache.exceptions import ConfigurationError
from llmcache.tiers.disk import DiskStore, store_at

MEMORY = "llmcache.backends.MemoryCache"
DISK = "llmcache.backends.DiskCache"

MakeCache = Callable[..., BaseCache]


class Time:
    """A time that stands still until a test moves it."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture(params=[MEMORY, DISK], ids=["memory", "disk"])
def make(request: pytest.FixtureRequest, time: Time, tmp_path: Path) -> Iterator[MakeCache]:
    """Makes caches over one store, as a project's settings would, with what is given beside BACKEND and LOCATION."""
    place = str(tmp_path / "backend")
    store = DiskStore(Path(place), clock=time)
    made: list[BaseCache] = []

    def make_cache(**params: Any) -> BaseCache:
        cache = CacheHandler({"default": {"BACKEND": request.param, "LOCATION": place, **params}})["default"]
        if isinstance(cache, MemoryCache):
            cache.clock = Clock(monotonic=time)
        else:
            assert isinstance(cache, DiskCache)
            cache.store = store
        made.append(cache)
        return cache

    yield make_cache
    for cache in made:
        cache.clear()
    store.close()


@pytest.fixture
def cache(make: MakeCache) -> BaseCache:
    return make()


def test_get_and_set(cache: BaseCache) -> None:
    assert cache.get("key") is None
    assert cache.get("key", "default") == "default"
    assert cache.set("key", b"value") is None
    assert cache.get("key") == cache.get("key", "default") == b"value"
    cache.set("key", b"")
    assert cache.get("key", "default") == b""


def test_add(cache: BaseCache) -> None:
    assert (cache.add("key", b"1"), cache.add("key", b"2")) == (True, False)
    assert cache.get("key") == b"1"


def test_add_where_something_has_expired(cache: BaseCache, time: Time) -> None:
    cache.set("key", b"1", 10)
    time.now += 10
    assert (cache.add("key", b"2", 10), cache.get("key")) == (True, b"2")


def test_delete(cache: BaseCache) -> None:
    cache.set_many({"key": b"1", "other": b"2"})
    assert (cache.delete("key"), cache.delete("key"), cache.get("key"), cache.get("other")) == (True, False, None, b"2")
    cache.delete_many(["key", "other", "absent"])
    assert cache.get("other") is None


def test_has_key(cache: BaseCache, time: Time) -> None:
    cache.set("key", b"", 10)
    assert (cache.has_key("key"), "key" in cache, cache.has_key("absent"), "absent" in cache) == (
        True,
        True,
        False,
        False,
    )
    time.now += 10
    assert (cache.has_key("key"), "key" in cache) == (False, False)


def test_many(cache: BaseCache, time: Time) -> None:
    assert cache.set_many({"a": b"1", "b": b"2", "c": b"3"}, timeout=10) == []
    assert cache.get_many(["a", "c", "absent"]) == {"a": b"1", "c": b"3"}
    assert cache.get_many(iter(["a", "b"])) == {"a": b"1", "b": b"2"}
    time.now += 10
    assert cache.get_many(["a", "b", "c"]) == {}


def test_get_or_set(cache: BaseCache) -> None:
    assert cache.get_or_set("key", b"1") == b"1"
    assert cache.get_or_set("key", lambda: b"2") == b"1"
    assert cache.get_or_set("other", lambda: b"2", timeout=None) == b"2"


def test_clear(cache: BaseCache) -> None:
    cache.set_many({"a": b"1", "b": b"2"}, timeout=None)
    cache.clear()
    assert cache.get_many(["a", "b"]) == {}
    cache.set("a", b"again")
    assert cache.get("a") == b"again"


# -- timeouts


def test_the_default_timeout_is_djangos(cache: BaseCache, time: Time) -> None:
    cache.set("set", b"1")
    cache.add("add", b"1")
    cache.set("touch", b"1", None)
    cache.touch("touch")
    time.now += 299
    assert sorted(cache.get_many(["set", "add", "touch"])) == ["add", "set", "touch"]
    time.now += 1
    assert cache.get_many(["set", "add", "touch"]) == {}


def test_the_timeout_of_the_settings(make: MakeCache, time: Time) -> None:
    short, endless, never = make(TIMEOUT=20), make(TIMEOUT=None), make(TIMEOUT=0)
    short.set("short", b"1")
    endless.set("endless", b"1")
    never.set("never", b"1")
    assert (short.get("short"), never.get("never")) == (b"1", None)
    time.now += 20
    assert (short.get("short"), endless.get("endless")) == (None, b"1")
    time.now += 1e9
    assert endless.get("endless") == b"1"


def test_a_timeout_of_the_call(cache: BaseCache, time: Time) -> None:
    cache.set("one", b"1", 1)
    cache.set("half", b"1", timeout=0.5)
    cache.add("long", b"1", 60 * 60 * 24 * 30 + 1)
    cache.set("endless", b"1", timeout=None)
    time.now += 0.6
    assert sorted(cache.get_many(["one", "half", "long", "endless"])) == ["endless", "long", "one"]
    time.now += 60 * 60 * 24 * 30
    assert sorted(cache.get_many(["one", "half", "long", "endless"])) == ["endless", "long"]
    time.now += 1
    assert sorted(cache.get_many(["one", "half", "long", "endless"])) == ["endless"]


@pytest.mark.parametrize("timeout", [0, -1, -1e9])
def test_a_timeout_that_is_over(cache: BaseCache, timeout: float) -> None:
    cache.set("set", b"old", None)
    cache.set("set", b"new", timeout)
    cache.set_many({"many": b"1"}, timeout)
    cache.set("touched", b"1", None)
    assert cache.add("add", b"1", timeout) is True
    assert cache.add("touched", b"2", timeout) is False
    assert cache.touch("touched", timeout) is True
    assert cache.touch("touched", 60) is False
    assert cache.get_many(["set", "many", "add", "touched"]) == {}


def test_touch_changes_the_time_and_not_the_value(cache: BaseCache, time: Time) -> None:
    assert cache.touch("absent") is False
    for key in ("longer", "shorter", "endless"):
        cache.set(key, key.encode(), 100)
    assert (cache.touch("longer", 1_000), cache.touch("shorter", 10), cache.touch("endless", None)) == (
        True,
        True,
        True,
    )
    time.now += 50
    assert cache.get_many(["longer", "shorter", "endless"]) == {"longer": b"longer", "endless": b"endless"}
    assert cache.touch("shorter", 1_000) is False
    time.now += 1e9
    assert cache.get("endless") == b"endless"


# -- keys


def test_versions(make: MakeCache) -> None:
    first, second = make(), make(VERSION=2)
    first.set("key", b"1")
    assert (second.get("key"), first.get("key", version=2), second.get("key", version=1)) == (None, None, b"1")
    second.set("key", b"2")
    assert (first.get("key"), first.get("key", version=2)) == (b"1", b"2")
    assert (first.has_key("key", version=3), first.touch("key", version=3), first.delete("key", version=3)) == (
        False,
    ) * 3
    first.delete("key", version=2)
    assert (first.get("key"), second.get("key")) == (b"1", None)
    assert first.incr_version("key") == 2
    assert (first.get("key"), second.get("key")) == (None, b"1")
    assert second.decr_version("key") == 1
    assert first.get("key") == b"1"
    with pytest.raises(ValueError, match="not found"):
        first.incr_version("absent")


def test_prefixes_keep_caches_apart_and_clear_removes_all(make: MakeCache) -> None:
    plain, prefixed = make(), make(KEY_PREFIX="mine")
    plain.set("key", b"plain")
    prefixed.set("key", b"prefixed")
    assert (plain.get("key"), prefixed.get("key")) == (b"plain", b"prefixed")
    prefixed.clear()
    assert plain.get("key") is None


def upside_down(key: str, key_prefix: str, version: int) -> str:
    return f"{version}/{key_prefix}/{key[::-1]}"


@pytest.mark.parametrize("function", [upside_down, "tests.contract.test_backends.upside_down"])
def test_key_functions(make: MakeCache, function: object) -> None:
    plain, special = make(), make(KEY_FUNCTION=function, KEY_PREFIX="p")
    special.set("key", b"special")
    assert (special.get("key"), plain.get("key"), special.make_key("key")) == (b"special", None, "1/p/yek")


@pytest.mark.parametrize("key", ["with space", "k" * 251, "line\nbreak"])
def test_keys_that_memcached_would_refuse_are_warned_of(cache: BaseCache, key: str) -> None:
    for use in (
        lambda: cache.set(key, b"1"),
        lambda: cache.add(key, b"1"),
        lambda: cache.get(key),
        lambda: cache.touch(key),
        lambda: cache.delete(key),
    ):
        with pytest.warns(CacheKeyWarning):
            use()


def test_keys_of_other_types_become_text(cache: BaseCache) -> None:
    cache.set(1, b"number")
    assert (cache.get(1), cache.get("1")) == (b"number", b"number")


# -- values


@pytest.mark.parametrize("value", [None, "text", 1, 1.5, True, bytearray(b"x"), memoryview(b"x"), [b"x"], {"a": b"x"}])
def test_only_bytes_are_kept(cache: BaseCache, value: object) -> None:
    cache.set("key", b"old")
    for use in (
        lambda: cache.set("key", value),
        lambda: cache.set("key", value, 0),
        lambda: cache.add("new", value),
        lambda: cache.set_many({"key": value}),
        lambda: cache.get_or_set("new", value),
    ):
        with pytest.raises(
            TypeError, match=r"keeps bytes, not .*unpickling .* runs whatever code .*Encode the value to bytes"
        ):
            use()
    assert (cache.get("key"), cache.get("new")) == (b"old", None)


def test_there_is_no_arithmetic(cache: BaseCache) -> None:
    cache.set("key", b"1")
    for use in (lambda: cache.incr("key"), lambda: cache.decr("key", 2), lambda: asyncio.run(cache.aincr("key"))):
        with pytest.raises(TypeError, match="cannot be incremented"):
            use()
    for use in (lambda: cache.incr("absent"), lambda: cache.decr("absent"), lambda: asyncio.run(cache.adecr("absent"))):
        with pytest.raises(ValueError, match="Nothing is kept"):
            use()
    assert cache.get("key") == b"1"


# -- threads, requests, processes


def test_the_asynchronous_methods(cache: BaseCache) -> None:
    async def use() -> None:
        await cache.aset("key", b"1")
        assert await cache.aget("key") == b"1"
        assert await cache.aadd("key", b"2") is False
        assert await cache.atouch("key", 60) is True
        assert await cache.ahas_key("key") is True
        assert await cache.aget_many(["key", "absent"]) == {"key": b"1"}
        assert await cache.aget_or_set("other", b"2") == b"2"
        assert await cache.adelete("key") is True
        await cache.aclear()
        assert await cache.aget("other") is None

    asyncio.run(use())


def test_backends_of_one_location_share_what_they_keep(make: MakeCache) -> None:
    one, two = make(), make()
    one.set("key", b"value")
    assert two.get("key") == b"value"
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(make().get("key")))
    thread.start()
    thread.join()
    assert found == [b"value"]


def test_the_end_of_a_request_loses_nothing(cache: BaseCache) -> None:
    cache.set("key", b"value")
    cache.close()
    assert cache.get("key") == b"value"


def test_of_many_threads_that_add_one_key_one_succeeds(make: MakeCache) -> None:
    added: list[tuple[int, int]] = []
    ready = threading.Barrier(8)

    def work(number: int) -> None:
        own = make()
        for round_ in range(30):
            ready.wait()
            if own.add(f"key-{round_}", str(number).encode(), 60):
                added.append((round_, number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert sorted(round_ for round_, _ in added) == list(range(30))
    cache = make()
    assert all(cache.get(f"key-{round_}") == str(number).encode() for round_, number in added)


ADD = """
import sys
from llmcache.backends import DiskCache
cache = DiskCache(sys.argv[1], {})
cache.get("opened")
print("ready", flush=True)
sys.stdin.readline()
print(*(number for number in range(200) if cache.add(f"key-{number}", sys.argv[2].encode(), None)))
"""


def test_of_many_processes_that_add_one_key_one_succeeds(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ADD, str(tmp_path / "add"), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [process.communicate(timeout=60)[0].split() for process in processes]
    assert sorted(int(number) for numbers in told for number in numbers) == list(range(200))
    cache = DiskCache(str(tmp_path / "add"), {})
    for writer, numbers in enumerate(told):
        assert {cache.get(f"key-{number}") for number in numbers} <= {str(writer).encode()}
    cache.store.close()


# -- what is only in one


@pytest.mark.parametrize("backend", [MEMORY, DISK])
def test_unknown_options_are_refused(backend: str, tmp_path: Path) -> None:
    handler = CacheHandler(
        {"default": {"BACKEND": backend, "LOCATION": str(tmp_path), "OPTIONS": {"MAX_ENTRIES": 5, "MAXBYTES": 5}}}
    )
    with pytest.raises(ConfigurationError, match=r"unknown OPTIONS MAXBYTES, MAX_ENTRIES; it takes (MAX_BYTES|none)"):
        handler["default"]


def test_memory_has_a_budget_and_names() -> None:
    small = MemoryCache("tests.small", {"OPTIONS": {"MAX_BYTES": 10_000}})
    other = MemoryCache("tests.other", {})
    assert (small.store.max_bytes, other.store.max_bytes) == (10_000, DEFAULT_MAX_BYTES)
    for number in range(20):
        small.set(str(number), bytes(2_000))
        assert small.get(str(number)) == bytes(2_000)
        other.set(str(number), b"other")
    assert small.get_many(map(str, range(20))).keys() == {"16", "17", "18", "19"}
    assert len(other.get_many(map(str, range(20)))) == 20
    small.set("large", bytes(10_000))
    assert (small.get("large"), small.add("large", bytes(10_000))) == (None, False)
    small.clear()
    assert other.get("1") == b"other"
    other.clear()


def test_memory_takes_its_budget_from_the_settings_in_force() -> None:
    cache = MemoryCache("tests.budget", {"OPTIONS": {"MAX_BYTES": 10_000}})
    cache.set("key", bytes(5_000))
    again = MemoryCache("tests.budget", {"OPTIONS": {"MAX_BYTES": 3_000}})
    assert again.store is cache.store
    assert (cache.get("key"), cache.store.max_bytes) == (None, 3_000)


@pytest.mark.parametrize("max_bytes", [-1, 1.5, "64 MB", None, True])
def test_memory_refuses_a_budget_that_is_none(max_bytes: object) -> None:
    with pytest.raises(ConfigurationError, match=r"OPTIONS\['MAX_BYTES'\] .* whole number of bytes"):
        MemoryCache("tests.refused", {"OPTIONS": {"MAX_BYTES": max_bytes}})


def test_disk_needs_a_location() -> None:
    handler = CacheHandler({"default": {"BACKEND": DISK}})
    with pytest.raises(ConfigurationError, match=r"has no LOCATION.*absolute path of a folder"):
        handler["default"]


@pytest.mark.parametrize("location", ["relative/folder", ".", ["/a", "/b"], 5])
def test_disk_refuses_a_location_that_is_no_absolute_path(location: object) -> None:
    with pytest.raises(ConfigurationError, match=r"LOCATION .* absolute path"):
        DiskCache(location, {})


def test_disk_shares_a_store_of_one_path_between_backends(tmp_path: Path) -> None:
    one, two = DiskCache(str(tmp_path / "shared"), {}), DiskCache(tmp_path / "shared", {"TIMEOUT": 5})
    assert one.store is two.store is store_at(tmp_path / "shared")


def test_disk_survives_its_process(tmp_path: Path) -> None:
    code = "import sys; from llmcache.backends import DiskCache; DiskCache(sys.argv[1], {}).set('key', b'kept', None)"
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(tmp_path / "kept")], check=True, timeout=60)
    cache = DiskCache(str(tmp_path / "kept"), {})
    assert cache.get("key") == b"kept"
    cache.store.close()


def test_disk_raises_what_goes_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    cache = DiskCache(str(tmp_path / "file"), {})
    for use in (lambda: cache.get("key"), lambda: cache.set("key", b"1"), lambda: cache.add("key", b"1"), cache.clear):
        with pytest.raises((OSError, sqlite3.Error)):
            use()
