"""Whatever lies in a tier under our key: a miss, never an exception, and the provider's answer takes its place."""

import asyncio
import codecs
import contextlib
import gzip
import math
import os
import pickle
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
import redis
from django.core.cache import caches
from django.core.cache.backends.redis import RedisCache
from pydantic import BaseModel

import llmcache
from llmcache import envelope, keys
from llmcache.engine import process
from llmcache.envelope import Entry
from llmcache.testing.sandbox import Sandbox, faults
from llmcache.tiers import redis_loops
from llmcache.tiers.disk import DiskStore
from tests.cache_servers import RedisServer
from tests.conftest import JournalReader, llmcache_settings
from tests.contract.aliases import ALIAS, in_caches

DJANGO_REDIS = "django_redis.cache.RedisCache"
DJANGO = "django.core.cache.backends.redis.RedisCache"
ZLIB = "django_redis.compressors.zlib.ZlibCompressor"
FOREVER = math.inf
EVE = b'{"name":"Eve"}'


class Person(BaseModel):
    """A person."""

    name: str


class OwnCache(RedisCache):
    """A cache of a project's own, which is used through its own methods."""


class Ran:
    """Unpickling this would leave a file behind."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path("unpickled").touch, ())


# -- what can lie there


def entry(key: bytes, answer: bytes = EVE, **changes: Any) -> bytes:
    """Return a whole envelope of this key."""
    return envelope.encode(Entry(key, answer, **{"written_at": time.time(), **_ENDLESS, **changes}))


_ENDLESS = {"fresh_until": FOREVER, "stale_until": FOREVER}


def answering(answer: bytes, **changes: Any) -> Callable[[bytes], bytes]:
    """Return a maker of a whole envelope around an answer."""
    return lambda key: entry(key, answer, **changes)


def until(end: float) -> Callable[[bytes], bytes]:
    """Return a maker of a whole envelope that says until when it may be served."""
    return answering(EVE, fresh_until=end, stale_until=end)


def written(at: float) -> Callable[[bytes], bytes]:
    """Return a maker of a whole envelope that says when it was written."""
    return answering(EVE, written_at=at)


def resealed(place: int, form: str, value: Any) -> Callable[[bytes], bytes]:
    """Return a maker of an envelope with another value in its header, and a check that fits it."""

    def make(key: bytes) -> bytes:
        data = bytearray(entry(key))
        struct.pack_into(form, data, place, value)
        check = zlib.crc32(data[56:], zlib.crc32(data[:40])).to_bytes(4, "little") + b"\0" * 12
        return bytes(data[:40]) + check + bytes(data[56:])

    return make


BOMB = gzip.compress(bytes(10 * 2**20))
assert len(BOMB) * 900 < 10 * 2**20

HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    # Bytes of others.
    "nothing": lambda key: b"",
    "a digit": lambda key: b"1",
    "a number": lambda key: b"-12345678901234567890",
    "a byte that is no text": lambda key: b"\xf1",
    "pickle": lambda key: pickle.dumps(Ran()),
    "json null": lambda key: b"null",
    "a json number": lambda key: b"1.5",
    "a json list": lambda key: b'["name"]',
    "json that would fit": lambda key: EVE,
    "100,000 brackets": lambda key: b"[" * 100_000,
    "zeros": lambda key: bytes(1_000),
    "a zip bomb": lambda key: BOMB,
    "a torn zip": lambda key: BOMB[: len(BOMB) // 2],
    "a zip of an entry": lambda key: zlib.compress(entry(key)),
    # Envelopes that are none of ours, or not whole.
    "another magic": resealed(0, "<B", 0xF2),
    "a later format": resealed(4, "<B", envelope.FORMAT + 1),
    "an earlier format": resealed(4, "<B", envelope.FORMAT - 1),
    "flags of tomorrow": resealed(5, "<B", 0x80),
    "said to be signed": resealed(5, "<B", envelope.MAC),
    "half an entry": lambda key: entry(key)[:-40],
    "an entry and more": lambda key: entry(key) + b"\n",
    "an entry twice": lambda key: entry(key) * 2,
    "an entry after a byte order mark": lambda key: codecs.BOM_UTF8 + entry(key),
    "an entry of another key": lambda key: entry(bytes(32)),
    "a supplement": lambda key: envelope.encode(Entry(key, EVE, 0.0, **_ENDLESS), flags=envelope.SUPPLEMENT),
    "512 MB announced": resealed(92, "<I", 512 * 2**20),
    "invalidations cut short": answering(EVE, seen=b"x" * 17),
    "too many invalidations": answering(EVE, seen=b"x" * 16 * (envelope.MAX_SEEN + 1)),
    "a negative cost": answering(EVE, cost=-2),
    "a cost of millions": answering(EVE, cost=2**63 - 1),
    # Entries whose time is over, has not come, or is none.
    "expired": until(1.0),
    "expired at zero": until(0.0),
    "expired before there was time": until(-FOREVER),
    "expires at no number": until(math.nan),
    "written at no number": written(math.nan),
    "written in the future": written(4e9),
    "written at the end of time": written(FOREVER),
    "written before there was time": written(-FOREVER),
    "older than it may be": written(1.0),
    # Answers that do not pass.
    "an answer of brackets": answering(b"[" * 100_000),
    "an answer of null": answering(b"null"),
    "an answer of a list": answering(b"[%b]" % EVE),
    "an empty answer": answering(b""),
    "an answer with a byte order mark": answering(codecs.BOM_UTF8 + EVE),
    "an answer that is no UTF-8": answering(b'{"name":"\xff"}'),
    "an answer with half a character": answering(b'{"name":"\\ud800"}'),
    "an answer of another shape": answering(b'{"title":"Eve"}'),
    "an answer with a huge number": answering(b'{"name":' + b"9" * 5_000 + b"}"),
    "an answer with infinity": answering(b'{"name":1e400}'),
    "an answer with no number": answering(b'{"name":NaN}'),
    "an answer and a second one": answering(EVE + EVE),
    "an answer in two encodings": answering('{"name":"Eve"}'.encode("utf-16")),
    "meta facts of brackets": answering(b'{"nom":1}', meta=b"[" * 100_000),
}


# -- where it can lie


class Place(Protocol):
    """A tier below memory."""

    tier: str

    def put(self, name: str, data: bytes) -> None:
        """Write past llmcache."""
        ...


class OnDisk:
    """The disk tier that there is without settings."""

    tier = "disk"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, name: str, data: bytes) -> None:
        store = DiskStore(self._folder)
        store.set(name, data, None)
        store.close()


class InRedis:
    """The alias ``shared``."""

    tier = ALIAS

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def named(self, name: str) -> str:
        """Return what the alias calls a key."""
        return str(caches[ALIAS].make_key(name))

    def put(self, name: str, data: bytes) -> None:
        self.client.set(self.named(name), data)


@contextlib.contextmanager
def over_redis(location: str, backend: str, *, memory: bool = True, **given: Any) -> Iterator[None]:
    """Let calls have this Redis, below memory or alone."""
    above = {"BACKEND": "llmcache.backends.MemoryCache", "LOCATION": f"hostile {os.urandom(4).hex()}"}
    shared = {"BACKEND": backend, "LOCATION": location, **given}
    tiers = ["memory", ALIAS] if memory else [ALIAS]
    with in_caches(memory=above, shared=shared), llmcache_settings(TIERS=tiers):
        try:
            yield
        finally:
            process.install(None)


@pytest.fixture
def plain(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A client as anybody would have it."""
    client = redis.Redis.from_url(redis_server.url)
    yield client
    client.close()


@pytest.fixture
def provider(sandbox: Sandbox) -> Sandbox:
    sandbox.answers.update({"Ada": {"name": "Ada"}, "Grace": {"name": "Grace"}})
    return sandbox


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.Runner]:
    """A loop that lives as long as the test does, and counts as one that has connections of its own."""
    monkeypatch.setattr(redis_loops, "LONG_LIVED_SECONDS", 0.0)
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(params=["disk below memory", "Redis alone"])
def place(request: pytest.FixtureRequest, provider: Sandbox, tmp_path: Path) -> Iterator[Place]:
    if request.param == "disk below memory":
        yield OnDisk(tmp_path / "tier")
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    # The project's own client would unpack, and unpickle, what it finds.
    with over_redis(server.url, DJANGO_REDIS, memory=False, OPTIONS={"COMPRESSOR": ZLIB}):
        yield InRedis(request.getfixturevalue("plain"))


# -- how it is met


async def _awaited() -> Person:
    return await llmcache.aextract("Ada", Person)


WAYS: dict[str, Callable[[asyncio.Runner], Person]] = {
    # As most calls are made: prepared, and answered by the first tier that has something.
    "extract": lambda runner: llmcache.extract("Ada", Person),
    "extract_with_completion": lambda runner: llmcache.extract_with_completion("Ada", Person)[0],
    "aextract": lambda runner: runner.run(_awaited()),
}


def forget_memory() -> None:
    """Empty memory, where there is one: what a restart does."""
    memory = process.current().memory
    if memory is not None:
        memory.clear()


def is_a_miss_each_time(put: Callable[[], None], provider: Sandbox, tier: str, runner: asyncio.Runner) -> None:
    """Fail unless each way of a call asks the provider, and puts its answer where that lay."""
    for asked, (way, ask) in enumerate(WAYS.items(), provider.received + 1):
        put()
        forget_memory()
        assert ask(runner) == Person(name="Ada"), way
        assert provider.received == asked, way
        forget_memory()
        found = llmcache.extract_with_info("Ada", Person)
        assert (found.outcome, found.tier, found.value.name) == ("hit", tier, "Ada"), way


def key_of_ada() -> bytes:
    """Make the call that the others repeat."""
    assert llmcache.extract("Ada", Person) == Person(name="Ada")
    return bytes.fromhex(llmcache.extract_with_info("Ada", Person).key)


def names_of(key: bytes) -> list[str]:
    """Return under which names the two parts of an entry lie."""
    return [make(process.current().namespace, key) for make in (keys.storage_key, keys.supplement_key)]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_a_miss(
    name: str,
    place: Place,
    provider: Sandbox,
    tmp_path: Path,
    runner: asyncio.Runner,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    key = key_of_ada()

    def put() -> None:
        data = HOSTILE[name](key)
        for each in names_of(key):
            place.put(each, data)

    is_a_miss_each_time(put, provider, place.tier, runner)
    below = process.current().tiers.states()[-1]
    assert (below.faults, below.breaker) == (0, "closed")
    assert not (tmp_path / "unpickled").exists()


def test_every_cut_and_every_flipped_bit_of_an_entry_is_a_miss(place: Place, provider: Sandbox) -> None:
    key = key_of_ada()
    name, _ = names_of(key)
    whole = entry(key)
    flipped = (
        whole[:byte] + bytes([whole[byte] ^ 1 << bit]) + whole[byte + 1 :]
        for byte in range(len(whole))
        for bit in range(8)
    )
    for data in (*(whole[:length] for length in range(len(whole))), *flipped):
        place.put(name, data)
        forget_memory()
        with pytest.raises(llmcache.NotCached):
            llmcache.extract("Ada", Person, cache="only")
    # Whole, it would have been one.
    place.put(name, whole)
    assert llmcache.extract("Ada", Person, cache="only") == Person(name="Eve")
    assert provider.received == 1


def test_many_megabytes_are_a_miss(place: Place, provider: Sandbox) -> None:
    key = key_of_ada()
    name, _ = names_of(key)
    place.put(name, entry(key)[:100] + bytes(32 * 2**20))
    forget_memory()
    found = llmcache.extract_with_info("Ada", Person)
    assert (found.outcome, found.value, provider.received) == ("miss", Person(name="Ada"), 2)


# -- what only Redis can have there

KINDS: dict[str, Callable[[redis.Redis, str], Any]] = {
    "a list": lambda client, name: client.rpush(name, EVE),
    "a hash": lambda client, name: client.hset(name, "name", "Eve"),
    "a set": lambda client, name: client.sadd(name, EVE),
    "a sorted set": lambda client, name: client.zadd(name, {EVE: 1.0}),
    "a stream": lambda client, name: client.xadd(name, {"name": "Eve"}),
    "an int": lambda client, name: client.incr(name),
    "a text": lambda client, name: client.set(name, "Eve"),
    "a pickle": lambda client, name: client.set(name, pickle.dumps(Ran())),
}
DECODES: dict[str, dict[str, Any]] = {
    DJANGO_REDIS: {"CONNECTION_POOL_KWARGS": {"decode_responses": True}},
    DJANGO: {"decode_responses": True},
}
"""Options that make a client return text, by backend."""


@pytest.mark.parametrize("backend", DECODES)
@pytest.mark.parametrize("kind", KINDS)
def test_another_type_under_our_key_is_a_miss(
    kind: str,
    backend: str,
    provider: Sandbox,
    redis_server: RedisServer,
    plain: redis.Redis,
    tmp_path: Path,
    runner: asyncio.Runner,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with over_redis(redis_server.url, backend, OPTIONS=DECODES[backend]):
        key = key_of_ada()
        names = [InRedis(plain).named(name) for name in names_of(key)]

        def put() -> None:
            # Both were there, so these are the names under which they are looked for.
            assert plain.delete(*names) == len(names)
            for name in names:
                KINDS[kind](plain, name)

        is_a_miss_each_time(put, provider, ALIAS, runner)
        _, below = process.current().tiers.states()
        # The server is well, whatever lies in it.
        assert (below.breaker, below.reads, below.writes) == ("closed", True, True)
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("kind", ["a list", "an int", "a text"])
@pytest.mark.parametrize("decodes", [False, True], ids=["bytes", "decoded"])
def test_another_type_that_a_cache_of_ones_own_finds_is_a_miss(
    kind: str,
    decodes: bool,
    provider: Sandbox,
    redis_server: RedisServer,
    plain: redis.Redis,
    runner: asyncio.Runner,
) -> None:
    with over_redis(redis_server.url, f"{__name__}.OwnCache", OPTIONS=DECODES[DJANGO] if decodes else {}):
        key = key_of_ada()
        names = [InRedis(plain).named(name) for name in names_of(key)]
        for way, ask in WAYS.items():
            plain.delete(*names)
            for name in names:
                KINDS[kind](plain, name)
            forget_memory()
            asked = provider.received
            assert ask(runner) == Person(name="Ada"), way
            assert provider.received == asked + 1, way


DRIP = b"$536870912\r\n\xf1LMC"


class Between:
    """A way to a Redis on which replies can be other than what was asked for."""

    def __init__(self, server: RedisServer, change: Callable[[list[bytes], bytes], bytes]) -> None:
        self._port = server.port
        self._change = change
        self.changes = False
        self.changed = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        earlier: list[bytes] = []
        with (
            contextlib.suppress(OSError),
            client,
            socket.create_connection(("127.0.0.1", self._port)) as onward,
        ):
            while data := client.recv(2**20):
                onward.sendall(data)
                # Commands and replies of these tests are short, and each goes when the one before has come back.
                reply = onward.recv(2**20)
                if self.changes:
                    self.changed += 1
                    client.sendall(changed := self._change(earlier, reply))
                    while changed is DRIP:
                        time.sleep(0.02)
                        client.sendall(b"x")
                else:
                    client.sendall(reply)
                earlier.append(reply)


def one_behind(earlier: list[bytes], reply: bytes) -> bytes:
    """Return the reply to the command before, as a connection has it that somebody left in the middle."""
    return earlier[-1] if earlier else b"+OK\r\n"


def no_end(earlier: list[bytes], reply: bytes) -> bytes:
    """Return the beginning of a reply of 512 MB."""
    return b"$536870912\r\n\xf1LMC"


@pytest.fixture(params=["extract", "extract_with_info", "aextract"])
def name_of(request: pytest.FixtureRequest, runner: asyncio.Runner) -> Callable[[str], str]:
    """Ask for the name in a text, one way or another."""

    async def awaited(text: str) -> str:
        return (await llmcache.aextract(text, Person)).name

    return {
        "extract": lambda text: llmcache.extract(text, Person).name,
        "extract_with_info": lambda text: llmcache.extract_with_info(text, Person).value.name,
        "aextract": lambda text: runner.run(awaited(text)),
    }[request.param]


@pytest.mark.parametrize("backend", DECODES)
def test_the_reply_to_an_earlier_command_is_a_miss(
    backend: str,
    name_of: Callable[[str], str],
    provider: Sandbox,
    redis_server: RedisServer,
) -> None:
    between = Between(redis_server, one_behind)
    try:
        with redis.Redis.from_url(between.url) as other:
            names = [f"behind-{os.urandom(8).hex()}" for _ in range(2)]
            for name in names:
                other.set(name, name)
            between.changes = True
            other.get(names[0])
            # A client that believes its connection has somebody else's value.
            assert other.get(names[1]) == names[0].encode()
            between.changes = False
        with over_redis(between.url, backend):
            assert [name_of(text) for text in ("Ada", "Grace")] == ["Ada", "Grace"]
            between.changes, between.changed = True, 0
            for _ in range(10):
                for text in ("Ada", "Grace"):
                    forget_memory()
                    assert name_of(text) == text
            assert between.changed >= 10
            between.changes = False
            forget_memory()
            assert [name_of(text) for text in ("Ada", "Grace")] == ["Ada", "Grace"]
            assert process.current().tiers.states()[1].breaker == "closed"
    finally:
        between.close()


def test_a_reply_without_an_end_is_a_miss(
    name_of: Callable[[str], str], provider: Sandbox, redis_server: RedisServer
) -> None:
    between = Between(redis_server, no_end)
    try:
        with over_redis(between.url, DJANGO_REDIS):
            assert name_of("Ada") == "Ada"
            between.changes = True
            forget_memory()
            assert (name_of("Ada"), provider.received) == ("Ada", 2)
            _, below = process.current().tiers.states()
            assert (below.breaker, below.error) == ("open", "TimeoutError")
            assert between.changed > 0
    finally:
        between.close()


def by_and_by(earlier: list[bytes], reply: bytes) -> bytes:
    """Return the beginning of a reply of which a byte comes now and then, for weeks."""
    return DRIP


def test_a_reply_that_comes_by_and_by_is_a_miss(
    name_of: Callable[[str], str], provider: Sandbox, redis_server: RedisServer
) -> None:
    between = Between(redis_server, by_and_by)
    try:
        with over_redis(between.url, DJANGO_REDIS):
            assert name_of("Ada") == "Ada"
            between.changes = True
            forget_memory()
            assert (name_of("Ada"), provider.received) == ("Ada", 2)
            _, below = process.current().tiers.states()
            assert (below.breaker, below.error) == ("open", "TimeoutError")
            assert between.changed > 0
    finally:
        between.close()


# -- beside the answer


@pytest.mark.parametrize(
    "rest",
    [b"null", b"[" * 100_000, b"{}", b'{"choices":[]}', b"\xff", b"[]", b"1", b'{"choices":[{"message":1}]}', b""],
    ids=lambda rest: repr(rest[:20]),
)
def test_a_hostile_completion_is_gone_and_the_answer_stays(
    rest: bytes, sandbox: Sandbox, tmp_path: Path, journal: JournalReader
) -> None:
    key = bytes.fromhex(llmcache.extract_with_info("Ada", Person).key)
    held = process.current().tiers.read(key, float("inf"))
    assert held is not None
    found = held.entry
    store = DiskStore(tmp_path / "tier")
    foreign = Entry(key, rest, found.written_at, found.fresh_until, found.stale_until)
    name = keys.supplement_key(process.current().namespace, key)
    store.set(name, envelope.encode(foreign, flags=envelope.SUPPLEMENT), None)
    store.close()
    again = llmcache.extract_with_info("Ada", Person)
    assert (again.outcome, again.completion) == ("hit", None)
    assert llmcache.extract_with_completion("Ada", Person)[1].choices[0].message.content is not None
    assert sandbox.calls == 2
    assert [line.facts["why"] for line in journal.records() if line.event == "started"][1] == "completion_missing"


@pytest.mark.django_db
@pytest.mark.parametrize(
    "meta",
    [
        b"",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"kind":[],"model":{},"origin":null,"tags":1,"usage":[]}',
        b'{"kind":5,"model":1e400,"origin":[1],"attempts":-1,"usage":{"input_tokens":"x"}}',
    ],
    ids=lambda meta: repr(meta[:20]),
)
def test_hostile_facts_beside_an_answer_fail_no_call_and_no_row(
    meta: bytes, place: Place, provider: Sandbox, runner: asyncio.Runner
) -> None:
    key = key_of_ada()
    name, _ = names_of(key)
    place.put(name, entry(key, b'{"name":"Ada"}', meta=meta, cost=envelope.MOST_COST, latency_ms=2**32 - 1))
    forget_memory()
    assert [ask(runner) for ask in WAYS.values()] == [Person(name="Ada")] * len(WAYS)
    assert llmcache.flush()
    assert llmcache.stats().hits >= len(WAYS) - 2


# -- answers that JSON can hold and not every parser takes


class Measured(BaseModel):
    """A number of either kind."""

    whole: int = 0
    part: float = 0.0


@pytest.mark.parametrize(
    "answer",
    [
        '{"whole":1,"part":NaN}',
        '{"whole":1,"part":Infinity}',
        '{"whole":1,"part":-Infinity}',
        '{"whole":1,"part":1e400}',
        '{"whole":1,"part":-0.0}',
        '{"whole":%s,"part":0.5}' % ("9" * 4_000),
        '{"whole":1,"whole":2,"part":0.5}',
    ],
    ids=lambda answer: answer[:30],
)
def test_a_number_of_a_kind_comes_back_as_it_was_given(answer: str, provider: Sandbox) -> None:
    provider.fail(faults.says(answer))
    given = llmcache.extract_with_info("Ada", Measured, max_reasks=0)
    forget_memory()
    below = llmcache.extract_with_info("Ada", Measured)
    memory = llmcache.extract_with_info("Ada", Measured)
    assert [each.outcome for each in (given, below, memory)] == ["miss", "hit", "hit"]
    assert repr(given.value) == repr(below.value) == repr(memory.value) == repr(Measured.model_validate_json(answer))
    assert provider.received == 1


@pytest.mark.parametrize(
    "answer",
    ['{"whole":%s}' % ("9" * 5_000), "\ufeff{}", '{"whole":1e400}', "[" * 100_000, '{"whole":NaN}'],
    ids=lambda answer: answer[:30],
)
def test_a_number_that_no_parser_takes_is_not_kept(answer: str, provider: Sandbox) -> None:
    provider.fail(faults.says(answer))
    with pytest.raises(llmcache.ValidationFailed):
        llmcache.extract("Ada", Measured, max_reasks=0)
    forget_memory()
    assert llmcache.extract_with_info("Ada", Measured).outcome == "miss"
    assert provider.received == 2
