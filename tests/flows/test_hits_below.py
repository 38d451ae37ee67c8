"""A repeat that memory does not hold: what is asked of the tiers, what comes of it, how it is counted."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from django.core.cache import caches
from django.db.models import Sum
from pydantic import BaseModel, field_validator

import llmcache
from llmcache import envelope, keys
from llmcache.backends import DiskCache
from llmcache.engine import process
from llmcache.models import CacheEntry, ProviderCall, UsageBucket
from llmcache.testing.sandbox import Sandbox
from llmcache.tiers.base import ByteTier, TierState
from tests.conftest import MovedClock, llmcache_settings
from tests.contract.aliases import in_caches
from tests.flows.test_costs import SANDBOX_PRICES

pytestmark = pytest.mark.django_db


class Person(BaseModel):
    name: str
    age: int


TEXT = "Ada is thirty-six"
ANSWER = {"name": "Ada", "age": 36}


class Watched:
    """A tier that writes down what is asked of it."""

    def __init__(self, tier: ByteTier) -> None:
        self.tier = tier
        self.name = tier.name
        self.asked: list[str] = []

    def get(self, key: str) -> bytes | None:
        self.asked.append("get")
        return self.tier.get(key)

    def set(self, key: str, value: bytes, ttl_seconds: float | None) -> None:
        self.asked.append("set")
        self.tier.set(key, value, ttl_seconds)

    def delete(self, key: str) -> None:
        self.asked.append("delete")
        self.tier.delete(key)

    def state(self) -> TierState:
        return self.tier.state()


@pytest.fixture
def provider(sandbox: Sandbox, tmp_path: object) -> Iterator[Sandbox]:
    disk = {"BACKEND": "llmcache.backends.DiskCache", "LOCATION": f"{tmp_path}/alone"}
    with in_caches(alone=disk), llmcache_settings(TIERS=["alone"], PRICES=SANDBOX_PRICES):
        process.install(None)
        sandbox.answers[TEXT] = ANSWER
        yield sandbox


@pytest.fixture
def tier(provider: Sandbox) -> Watched:
    """The only tier, with an answer in it."""
    llmcache.extract(TEXT, Person)
    tiers = process.current().tiers
    watched = Watched(tiers.below[0])
    tiers.below = (watched,)
    return watched


def test_a_hit_is_one_read(tier: Watched, provider: Sandbox) -> None:
    one, other = llmcache.extract(TEXT, Person), llmcache.extract(TEXT, Person)
    assert one == other == Person(**ANSWER)
    assert one is not other
    assert tier.asked == ["get", "get"]
    assert provider.received == 1


def test_it_is_counted_with_its_tier_and_what_it_avoided(tier: Watched, provider: Sandbox) -> None:
    for _ in range(3):
        llmcache.extract(TEXT, Person)
    assert tier.asked == ["get"] * 3
    assert llmcache.flush()
    assert set(UsageBucket.objects.values_list("tier", "outcome", "count")) == {("alone", "hit", 3), ("", "miss", 1)}
    entry = CacheEntry.objects.get()
    assert (entry.hits, entry.saved_usd) == (3, 3 * (entry.cost_usd or 0))


def test_another_entry_under_the_same_key_is_counted_as_what_it_is(tier: Watched, provider: Sandbox) -> None:
    key = bytes.fromhex(llmcache.extract_with_info(TEXT, Person).key)
    name = keys.storage_key(process.current().namespace, key)
    data = tier.get(name)
    assert data is not None
    entry = envelope.decode(data, key)
    assert entry is not None
    llmcache.extract(TEXT, Person)
    # Another process has asked anew, and paid more.
    tier.set(name, envelope.encode(replace(entry, written_at=entry.written_at + 1, cost=entry.cost + 7)), None)
    llmcache.extract(TEXT, Person)
    llmcache.extract(TEXT, Person)
    assert llmcache.flush()
    hits = UsageBucket.objects.filter(outcome="hit").aggregate(Sum("count"), Sum("avoided_pico_usd"))
    assert tuple(hits.values()) == (4, 4 * entry.cost + 2 * 7)


# Committed: what a transaction is about to change is looked at by another way than a hit's.
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("condition", ["kind", "key"])
def test_what_is_invalidated_after_a_hit_is_none_any_more(condition: str, tier: Watched, provider: Sandbox) -> None:
    key = llmcache.extract_with_info(TEXT, Person).key
    llmcache.extract(TEXT, Person)
    assert provider.received == 1
    made = llmcache.invalidate(**{condition: {"kind": "Person", "key": key}[condition]})
    llmcache.extract(TEXT, Person)
    assert provider.received == 2
    # What was asked for since then is served, and the old one is not.
    llmcache.extract(TEXT, Person)
    assert provider.received == 2
    llmcache.undo(made)
    llmcache.extract(TEXT, Person)
    assert provider.received == 2


def test_a_miss_reads_once_for_itself_and_once_as_the_one_who_asks(tier: Watched, provider: Sandbox) -> None:
    provider.answers["Grace is forty"] = {"name": "Grace", "age": 40}
    assert llmcache.extract("Grace is forty", Person).age == 40
    # Another process may have stored the answer since the first look.
    assert tier.asked == ["get", "get", "set", "set"]


def test_what_is_too_old_is_asked_for_anew(tier: Watched, provider: Sandbox, clock: MovedClock) -> None:
    with clock.kept():
        assert llmcache.extract(TEXT, Person, ttl=60) == Person(**ANSWER)
        clock.move(61)
        llmcache.extract(TEXT, Person, ttl=60)
    assert provider.received == 2


def test_what_does_not_pass_is_a_miss_with_its_reason(provider: Sandbox) -> None:
    strict = False

    class Adult(BaseModel):
        age: int

        @field_validator("age")
        @classmethod
        def _of_age(cls, age: int) -> int:
            if strict and age < 40:
                raise ValueError("too young")
            return age

    assert llmcache.extract(TEXT, Adult).age == 36
    strict = True
    provider.answers[TEXT] = {"age": 41}
    assert llmcache.extract(TEXT, Adult).age == 41
    assert llmcache.flush()
    assert list(ProviderCall.objects.order_by("started_at").values_list("reason", flat=True)) == [
        "not_found",
        "invalid",
    ]


def test_bytes_of_a_stranger_are_a_miss(tier: Watched, provider: Sandbox) -> None:
    key = bytes.fromhex(llmcache.extract_with_info(TEXT, Person).key)
    name = keys.storage_key(process.current().namespace, key)
    data = tier.get(name)
    assert data is not None
    for wrong in (data[:-1], data[:60] + b"\xff" + data[61:], b"", envelope.MAGIC):
        received = provider.received
        tier.set(name, wrong, None)
        assert llmcache.extract(TEXT, Person) == Person(**ANSWER)
        assert provider.received == received + 1


def test_what_differs_is_not_mixed_up(tier: Watched, provider: Sandbox) -> None:
    for options in ({"tenant": "acme"}, {"temperature": 0.0}, {"temperature": 0}, {"system": "Read."}):
        llmcache.extract(TEXT, Person, **options)
        assert llmcache.extract(TEXT, Person, **options) == Person(**ANSWER)
    assert provider.received == 5


def own_name(key: str, prefix: str, version: int) -> str:
    return f"{key}/{version}/{prefix}"


class OwnNames(DiskCache):
    """A disk cache that makes its names itself."""

    def make_key(self, key: str, version: int | None = None) -> str:
        return f"own-{key}"


@pytest.mark.parametrize(
    "named",
    [
        {},
        {"KEY_PREFIX": "mine", "VERSION": 7},
        {"KEY_PREFIX": "mine", "KEY_FUNCTION": f"{__name__}.own_name"},
        {"BACKEND": f"{__name__}.OwnNames"},
    ],
    ids=["plain", "prefix", "function", "class"],
)
def test_it_lies_under_the_name_that_the_alias_makes(
    named: dict[str, object], sandbox: Sandbox, tmp_path: Path
) -> None:
    disk = {"BACKEND": "llmcache.backends.DiskCache", "LOCATION": f"{tmp_path}/named", **named}
    with in_caches(named=disk), llmcache_settings(TIERS=["named"]):
        process.install(None)
        info = llmcache.extract_with_info(TEXT, Person)
        name = keys.storage_key(process.current().namespace, bytes.fromhex(info.key))
        assert envelope.decode(caches["named"].get(name), bytes.fromhex(info.key)) is not None
        llmcache.extract(TEXT, Person)
        caches["named"].delete(name)
        llmcache.extract(TEXT, Person)
    assert sandbox.received == 2


def test_found_below_it_is_held_in_memory(provider: Sandbox, tmp_path: object) -> None:
    disk = {"BACKEND": "llmcache.backends.DiskCache", "LOCATION": f"{tmp_path}/below"}
    memory = {"BACKEND": "llmcache.backends.MemoryCache", "LOCATION": "over it"}
    with in_caches(below=disk, above=memory), llmcache_settings(TIERS=["above", "below"]):
        process.install(None)
        llmcache.extract(TEXT, Person)
        now = process.current()
        assert now.memory is not None
        now.memory.clear()
        watched = Watched(now.tiers.below[0])
        now.tiers.below = (watched,)
        for _ in range(3):
            assert llmcache.extract(TEXT, Person) == Person(**ANSWER)
        assert watched.asked == ["get"]
        assert llmcache.extract_with_info(TEXT, Person).tier == "above"
