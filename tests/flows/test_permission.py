"""``ALLOW_PROVIDER_CALLS``: what may leave, and what is said when it may not."""

import asyncio
import pickle
import subprocess
import sys
from typing import Any

import pytest
from pydantic import BaseModel

import llmcache
from llmcache.checks import check_llmcache
from llmcache.testing import assert_provider_calls, override_llmcache
from llmcache.testing.sandbox import Sandbox
from tests.conftest import JournalReader, child_environment


class Person(BaseModel):
    name: str


def elsewhere(**changes: Any) -> override_llmcache:
    return override_llmcache(PROVIDERS={"openai": {"base_url": "https://llm.example/v1"}}, **changes)


@pytest.mark.parametrize("allowed", [None, "loopback", False])
@pytest.mark.parametrize("cache", ["use", "bypass"])
def test_in_tests_nothing_leaves_the_machine(allowed: Any, cache: Any, journal: JournalReader) -> None:
    with elsewhere(ALLOW_PROVIDER_CALLS=allowed), assert_provider_calls(0):
        with pytest.raises(llmcache.ProviderCallsForbidden) as caught:
            llmcache.extract("A secret about Ada", Person, cache=cache)
        with pytest.raises(llmcache.ProviderCallsForbidden):
            asyncio.run(llmcache.aextract("A secret about Ada", Person, cache=cache))
    error = caught.value
    for word in ("llmcache_fake", "ALLOW_PROVIDER_CALLS", "llm.example"):
        assert word in str(error)
    assert "secret" not in str(error)
    assert (error.code, error.kind, error.attempts, error.cost_usd) == ("provider_calls_forbidden", "Person", 0, 0)
    assert (error.model, len(error.key or "")) == ("openai/gpt-5-mini", 64)
    assert journal.records() == []


def test_the_error_says_what_is_in_force() -> None:
    for changes, said in (
        ({}, "is 'loopback' in tests unless the project sets it"),
        ({"ALLOW_PROVIDER_CALLS": "loopback"}, "is 'loopback'."),
        ({"ALLOW_PROVIDER_CALLS": False}, "is False."),
    ):
        with elsewhere(**changes), pytest.raises(llmcache.ProviderCallsForbidden) as caught:
            llmcache.extract("Ada", Person)
        assert said in str(caught.value)
        again = pickle.loads(pickle.dumps(caught.value))
        assert (type(again), str(again), again.key) == (type(caught.value), str(caught.value), caught.value.key)


@pytest.mark.parametrize("allowed", [None, "loopback", True])
def test_a_provider_on_this_machine_may_be_called(allowed: Any, sandbox: Sandbox) -> None:
    sandbox.answers["Ada"] = {"name": "Ada"}
    with override_llmcache(ALLOW_PROVIDER_CALLS=allowed), assert_provider_calls(1):
        assert llmcache.extract("Ada", Person).name == "Ada"


def test_off_means_off_and_hits_answer(sandbox: Sandbox) -> None:
    sandbox.answers["Ada"] = {"name": "Ada"}
    llmcache.extract("Ada", Person)
    with override_llmcache(ALLOW_PROVIDER_CALLS=False):
        assert llmcache.extract_with_info("Ada", Person).outcome == "hit"
        with pytest.raises(llmcache.ProviderCallsForbidden):
            llmcache.extract("Grace", Person)
        with pytest.raises(llmcache.NotCached):
            llmcache.extract("Grace", Person, cache="only")
    assert sandbox.received == 1


PROGRAM = """
import django, llmcache
django.setup()
from pydantic import BaseModel
class Person(BaseModel):
    name: str
try:
    llmcache.extract("Ada", Person, max_retries=0)
except llmcache.ProviderUnavailable as error:
    print("tried")
"""


def test_outside_tests_everything_may_leave() -> None:
    with override_llmcache(PROVIDERS={"openai": {"base_url": "http://llm.example/v1", "api_key": "x"}}):
        # A proxy at which nobody listens, so that nothing really leaves the machine.
        environment = child_environment(HTTP_PROXY="http://127.0.0.1:1", NO_PROXY="")
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "tried\n"


@pytest.mark.parametrize("value", [0, 1, "all", "Loopback", "", []])
def test_a_value_that_is_none_is_a_check(value: Any) -> None:
    with pytest.raises(llmcache.ConfigurationError, match=r"ALLOW_PROVIDER_CALLS.*must be True, False or 'loopback'"):
        override_llmcache(ALLOW_PROVIDER_CALLS=value).enable()


def test_where_no_provider_may_be_called_no_key_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with override_llmcache(PROVIDERS={}):
        assert [message.id for message in check_llmcache()] == ["llmcache.W001"]
    with override_llmcache(PROVIDERS={}, ALLOW_PROVIDER_CALLS=False):
        assert check_llmcache() == []
