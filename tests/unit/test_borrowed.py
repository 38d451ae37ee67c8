"""Cache objects that are lent to one thread at a time."""

import asyncio
import os
import threading
from collections.abc import Iterator

import pytest
from django.core.cache import caches
from django.test import override_settings

import llmcache
from llmcache.testing.sandbox import Sandbox
from llmcache.tiers.borrowed import Backends
from llmcache.tiers.configured import tier_of
from tests.conftest import llmcache_settings

PATH = "tests.unit.odd_caches."


@pytest.fixture
def backends() -> Iterator[Backends]:
    with override_settings(CACHES={"default": {"BACKEND": f"{PATH}OneUser"}}):
        yield Backends("default")


def test_the_same_object_serves_one_user_after_the_other(backends: Backends) -> None:
    with backends.borrowed() as first:
        pass
    with backends.borrowed() as second:
        pass
    assert first is second
    assert first is not caches["default"]


def test_two_users_at_once_have_two(backends: Backends) -> None:
    with backends.borrowed() as first, backends.borrowed() as second:
        assert first is not second


def test_an_object_comes_back_from_a_failure(backends: Backends) -> None:
    with pytest.raises(ZeroDivisionError), backends.borrowed() as first:
        raise ZeroDivisionError
    with backends.borrowed() as second:
        assert first is second


def test_a_forked_child_has_objects_of_its_own_and_leaves_the_parents_open(backends: Backends) -> None:
    with backends.borrowed() as before:
        pass
    child = os.fork()
    if child == 0:
        with backends.borrowed() as after:
            own = after is not before
        os._exit(0 if own and before.closed == 0 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    backends.close()
    assert before.closed == 1


def test_asynchronous_calls_of_one_context_share_no_client(sandbox: Sandbox) -> None:
    sandbox.answers["x"] = "an answer"
    texts = [f"text {number}" for number in range(16)]
    with (
        override_settings(CACHES={"default": {"BACKEND": f"{PATH}OneUser"}}),
        llmcache_settings(TIERS=["default"]),
    ):
        # Made in this context, which every call copies.
        caches["default"].get("key")

        async def main() -> None:
            await asyncio.gather(*(llmcache.aextract(text, dict[str, str]) for text in texts))

        asyncio.run(main())
        from tests.unit.odd_caches import OneUser

        assert OneUser.users_at_once == 1


def test_threads_share_no_client() -> None:
    with override_settings(CACHES={"default": {"BACKEND": f"{PATH}OneUser"}}):
        tier = tier_of("default")
        threads = [threading.Thread(target=tier.get, args=(f"key-{number}",)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert tier.state().faults == 0
