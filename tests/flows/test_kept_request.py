"""The request that is kept beside an answer, and what each tier holds under a key."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings
from pydantic import BaseModel

import llmcache
from llmcache import envelope, keys
from llmcache.engine import process
from llmcache.testing.sandbox import Sandbox
from tests.conftest import llmcache_settings


class Person(BaseModel):
    name: str


TEXT = "Ada Lovelace, née Byron"


@pytest.fixture
def asked(sandbox: Sandbox) -> Callable[..., Any]:
    """Extract from the text, and return the entry's key."""
    sandbox.answers[TEXT] = {"name": "Ada"}

    def ask(**options: Any) -> bytes:
        return bytes.fromhex(llmcache.extract_with_info(TEXT, Person, **options).key)

    return ask


def entry_of(key: bytes) -> envelope.Entry:
    found = process.current().tiers.read(key, float("inf"))
    assert found is not None
    return found.entry


def test_the_request_is_kept_without_its_schema_and_what_is_not_in_the_key(asked: Callable[..., bytes]) -> None:
    key = asked(system="Who is it?", temperature=0.5, user="u-17", unkeyed={"user"})
    assert process.current().tiers.read_request(entry_of(key)) == {
        "model": "gpt-5-mini",
        "messages": [{"role": "system", "content": "Who is it?"}, {"role": "user", "content": TEXT}],
        "temperature": 0.5,
    }


def test_another_runtime_reads_it_from_the_tier_below(asked: Callable[..., bytes]) -> None:
    key = asked()
    process.install(None)
    request = process.current().tiers.read_request(entry_of(key))
    assert request is not None
    assert request["messages"][-1]["content"] == TEXT


def test_nothing_is_kept_where_the_settings_say_so(asked: Callable[..., bytes], tmp_path: Path) -> None:
    with llmcache_settings(KEEP_REQUESTS="no"):
        key = asked()
        assert process.current().tiers.read_request(entry_of(key)) is None
    kept = b"".join(path.read_bytes() for path in (tmp_path / "tier").iterdir())
    assert b"Ada" in kept
    assert TEXT.encode() not in kept


def test_memory_alone_keeps_it_too(asked: Callable[..., bytes]) -> None:
    caches = {"default": {"BACKEND": "llmcache.backends.MemoryCache", "LOCATION": "alone"}}
    with override_settings(CACHES=caches), llmcache_settings(TIERS=["default"]):
        key = asked()
        request = process.current().tiers.read_request(entry_of(key))
        assert request is not None
        assert request["messages"][-1]["content"] == TEXT


def test_what_was_made_by_another_call_is_not_given_out(asked: Callable[..., bytes]) -> None:
    entry = entry_of(asked())
    entry.written_at -= 1
    assert process.current().tiers.read_request(entry) is None


def test_places_tell_what_each_tier_holds(asked: Callable[..., bytes]) -> None:
    key = asked(ttl=1_000)
    tiers = process.current().tiers
    assert [(place.tier, place.state) for place in tiers.places(key)] == [("memory", "fresh"), ("disk", "fresh")]
    assert all(place.ttl_left is not None and 990 < place.ttl_left <= 1_000 for place in tiers.places(key))
    process.install(None)
    tiers = process.current().tiers
    tiers.memory.store.clear()
    assert [(place.tier, place.state) for place in tiers.places(key)] == [("memory", "absent"), ("disk", "fresh")]
    assert [place.state for place in tiers.places(b"\0" * 32)] == ["absent", "absent"]


def test_places_know_damaged_bytes_and_entries_that_do_not_expire(asked: Callable[..., bytes]) -> None:
    key = asked(ttl=None)
    now = process.current()
    assert [place.ttl_left for place in now.tiers.places(key)] == [None, None]
    now.tiers.below[0].set(keys.storage_key(now.namespace, key), b"not ours", None)
    assert [place.state for place in now.tiers.places(key)] == ["fresh", "damaged"]
