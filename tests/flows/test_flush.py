"""``flush`` and ``stats`` in an event loop, and their awaited twins."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from asgiref.sync import iscoroutinefunction
from django.test import TransactionTestCase
from pydantic import BaseModel

import llmcache
from llmcache.engine import isolation
from llmcache.testing.sandbox import Sandbox


class Person(BaseModel):
    """A person."""

    name: str


def test_in_a_loop_they_name_their_twins() -> None:
    async def view() -> None:
        with pytest.raises(llmcache.AsyncContext, match=r"llmcache\.aflush\(\)"):
            llmcache.flush()
        with pytest.raises(llmcache.AsyncContext, match=r"llmcache\.astats\(\)"):
            llmcache.stats()

    asyncio.run(view())


def test_the_twins_are_known_as_coroutine_functions() -> None:
    assert iscoroutinefunction(llmcache.aflush)
    assert iscoroutinefunction(llmcache.astats)


async def _figures() -> tuple[bool, llmcache.Stats, dict[str, llmcache.Stats]]:
    await llmcache.aextract("Ada", Person)
    await llmcache.aextract("Ada", Person)
    return await llmcache.aflush(), await llmcache.astats(), await llmcache.astats(by="kind")


class Twins(TransactionTestCase):
    """Django's own way to run asynchronous tests: on its thread's connection."""

    @pytest.fixture(autouse=True)
    def _provider(self, sandbox: Sandbox) -> None:
        """Ask a sandbox."""

    async def test_the_twins_see_what_the_test_did(self) -> None:
        flushed, stats, by = await _figures()
        assert (flushed, stats.hits, stats.misses, stats.calls) == (True, 1, 1, 1)
        assert by == {"Person": stats}


@pytest.mark.django_db
def test_since_beyond_the_calendar(sandbox: Sandbox) -> None:
    llmcache.extract("Ada", Person)
    assert llmcache.stats(since=timedelta.max).misses == 1
    assert llmcache.stats(since=datetime.min.replace(tzinfo=UTC)).misses == 1
    with pytest.raises(llmcache.InvalidRequest, match="since="):
        llmcache.stats(since=timedelta.min)


def test_a_test_over_several_databases_is_one_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of its connections is found first."""

    class Block:
        _from_testcase = True

    class Connection:
        def __init__(self, alias: str) -> None:
            self.alias = alias
            self.atomic_blocks = [Block()]

    connections = [Connection("other"), Connection("default")]
    monkeypatch.setattr(isolation, "_told", None)
    found: set[str] = set()
    for order in (connections, connections[::-1]):
        monkeypatch.setattr(isolation, "_connections", [*order])
        found.add(isolation.current_test())
    assert len(found) == 1
