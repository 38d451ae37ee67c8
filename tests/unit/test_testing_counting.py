"""``assert_provider_calls``: what leaves is counted, from whatever thread, and told when it differs."""

import threading
from typing import Any

import pytest

import llmcache
from llmcache.engine import departures
from llmcache.testing import assert_provider_calls as imported
from llmcache.testing.sandbox import Sandbox, faults


def test_hits_and_waiters_do_not_leave(sandbox: Sandbox, assert_provider_calls: type[imported]) -> None:
    with assert_provider_calls(2) as calls:
        for text in ("one", "one", "two", "one"):
            llmcache.extract(text, int)
        assert calls.count == 2
    with assert_provider_calls(0):
        llmcache.extract("one", int)
    assert sandbox.received == 2


def test_each_attempt_counts(sandbox: Sandbox, no_backoff: list[float], assert_provider_calls: Any) -> None:
    sandbox.fail(faults.server_error(), times=2)
    with assert_provider_calls(3) as calls:
        llmcache.extract("one", int)
    assert [each.why for each in calls.departures] == ["not_found", "retry", "retry"]
    assert sandbox.received == 3


def test_every_thread_counts(sandbox: Sandbox) -> None:
    threads = [threading.Thread(target=llmcache.extract, args=(f"text {number}", int)) for number in range(8)]
    with imported(8):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("expected", [0, 1, 4])
def test_a_difference_is_told_by_kind_and_reason(expected: int, sandbox: Sandbox) -> None:
    with pytest.raises(AssertionError) as caught, imported(expected):
        llmcache.extract("one", int)
        llmcache.extract("two", int)
        llmcache.extract("three", int, kind="numbers", model="openai/gpt-5", cache="bypass")
    said = str(caught.value)
    assert said.splitlines()[0] == f"3 provider calls were made where {expected} were expected:"
    assert "2 x int of openai/gpt-5-mini (not_found)" in said
    assert "1 x numbers of openai/gpt-5 (bypass)" in said


def test_none_where_some_were_expected() -> None:
    with pytest.raises(AssertionError, match=r"^0 provider calls were made where 1 were expected\.$"), imported(1):
        pass


def test_the_blocks_own_error_comes_first(sandbox: Sandbox) -> None:
    with pytest.raises(ZeroDivisionError), imported(5):
        _ = 1 / 0


def test_blocks_nest_and_begin_anew(sandbox: Sandbox) -> None:
    inner = imported(1)
    with imported(3):
        llmcache.extract("one", int)
        for text in ("two", "three"):
            with inner:
                llmcache.extract(text, int)
    assert departures._listeners == ()
