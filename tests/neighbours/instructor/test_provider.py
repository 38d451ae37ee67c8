"""An Instructor client as a provider: what it answers is kept, validated, retried and counted by llmcache."""

import asyncio
from collections.abc import Iterator
from typing import Any, Literal

import instructor
import pytest
from instructor import Mode
from pydantic import BaseModel, Field

import llmcache
from llmcache.contrib.instructor import aasking, asking
from llmcache.contrib.instructor.completions import answer_text, finish_of, is_refused
from llmcache.exceptions import (
    AuthenticationFailed,
    ConfigurationError,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    Refused,
    Truncated,
    ValidationFailed,
)
from llmcache.testing.sandbox import Sandbox, faults
from tests.neighbours.conftest import PRICES, TEXT, llmcache_settings
from tests.neighbours.instructor.clients import async_upstream, upstream

MODEL = "claude/gpt-5-mini"
TOLD = "Ada, 36. Answer in JSON."


class Person(BaseModel):
    name: str = Field(alias="Name")
    age: int = Field(ge=0)
    mood: Literal["good", "bad"] | None = None


def client(sandbox: Sandbox, mode: Mode = Mode.TOOLS, **options: Any) -> Any:
    return instructor.from_openai(upstream(sandbox), mode=mode, **options)


def async_client(sandbox: Sandbox) -> Any:
    return instructor.from_openai(async_upstream(sandbox))


def asked_by(sandbox: Sandbox, **functions: Any) -> Any:
    """Return the settings under which ``claude`` is asked by these functions."""
    named = {"identity": "tests", "base_url": sandbox.base_url, **functions}
    return llmcache_settings(
        PROVIDERS={"claude": named}, PRICES={MODEL: PRICES["openai/gpt-5-mini"]}, MODEL=MODEL, MAX_REASKS=0
    )


@pytest.fixture
def tools(sandbox: Sandbox) -> Iterator[Sandbox]:
    """A sandbox that is asked by tools, which is Instructor's own way."""
    sandbox.answers = {TOLD: '{"Name": "Ada", "age": 36, "mood": null}'}
    with asked_by(sandbox, call=asking(lambda: client(sandbox))):
        yield sandbox


@pytest.mark.django_db
@pytest.mark.parametrize("mode", ["TOOLS", "JSON", "JSON_SCHEMA", "MD_JSON", "RESPONSES_TOOLS"])
def test_every_mode_asks_once_and_is_in_the_ledger(mode: str, sandbox: Sandbox) -> None:
    answer = '{"Name": "Ada", "age": 36, "mood": null}'
    sandbox.answers = {TOLD: answer}
    if mode in ("JSON", "MD_JSON"):
        # There the schema is a part of the text, which the sandbox does not know.
        sandbox.fail(faults.says(answer if mode == "JSON" else f"Here:\n```json\n{answer}\n```"))
    with asked_by(sandbox, call=asking(client(sandbox, Mode[mode]))):
        first = llmcache.extract_with_info(TOLD, Person)
        second = llmcache.extract_with_info(TOLD, Person)
        assert second.value == first.value == Person(Name="Ada", age=36)
        assert (sandbox.calls, first.outcome, second.outcome) == (1, "miss", "hit")
        stats = llmcache.stats()
    assert first.cost_incurred_usd * 10**12 == sandbox.bill_pico_usd == stats.spent_usd * 10**12
    assert second.cost_avoided_usd == first.cost_incurred_usd
    assert first.usage.total_tokens > 0


def test_the_providers_own_text_is_kept(tools: Sandbox) -> None:
    tools.answers = {TOLD: '{"Name":"Ada",  "age": 36.0, "mood":null}'}
    answer = llmcache.extract_with_completion(TOLD, Person)[1]
    assert answer.text == tools.answers[TOLD]
    assert answer.raw["choices"][0]["finish_reason"]
    assert llmcache.extract_with_completion(TOLD, Person)[1] == answer
    # Sent is the schema that llmcache has made, and everything else a call says.
    llmcache.extract(TOLD, Person, system="Be brief.", temperature=0.5)
    body = tools.requests[-1].body
    assert body["temperature"] == 0.5
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    (tool,) = body["tools"]
    assert list(tool["function"]["parameters"]["properties"]) == ["Name", "age", "mood"]
    assert tools.calls == 2


def test_types_that_instructor_does_not_cache(tools: Sandbox) -> None:
    for kind in (list[Person], Literal["fire", "water"], dict[str, int], Person | None):
        assert llmcache.extract(TEXT, kind) == llmcache.extract(TEXT, kind)
    assert tools.calls == 4


def test_awaited(sandbox: Sandbox) -> None:
    sandbox.answers = {TOLD: '{"Name": "Ada", "age": 36, "mood": null}'}
    with asked_by(sandbox, acall=aasking(lambda: async_client(sandbox))):

        async def many() -> Any:
            return await asyncio.gather(*(llmcache.aextract(TOLD, Person) for _ in range(8)))

        assert asyncio.run(many()) == [Person(Name="Ada", age=36)] * 8
        # In another loop, and in none.
        assert asyncio.run(many()) == [llmcache.extract(TOLD, Person)] * 8
    assert sandbox.calls == 1


@pytest.mark.django_db
def test_what_does_not_pass_is_asked_again_by_llmcache(tools: Sandbox) -> None:
    tools.fail(faults.wrong_json(), times=1)
    with llmcache_settings(MAX_REASKS=1):
        info = llmcache.extract_with_info(TOLD, Person)
    assert (info.attempts, info.value.name, tools.calls) == (2, "Ada", 2)
    assert llmcache.stats().calls == 2
    assert info.cost_incurred_usd * 10**12 == tools.bill_pico_usd


@pytest.mark.parametrize(
    ("fault", "error", "attempts"),
    [
        (faults.truncated(), Truncated, 1),
        (faults.refusal(), Refused, 1),
        (faults.content_filter(), Refused, 1),
        (faults.broken_json(), ValidationFailed, 1),
        (faults.null_content(), ValidationFailed, 1),
        (faults.rate_limited(), RateLimited, 2),
        (faults.server_error(503), ProviderUnavailable, 2),
        (faults.unauthorized(), AuthenticationFailed, 1),
        (faults.bad_request(), ProviderError, 1),
        (faults.reset_after_charge(), ProviderUnavailable, 2),
        (faults.hang(), ProviderTimeout, 1),
    ],
    ids=lambda value: getattr(value, "name", getattr(value, "__name__", str(value))),
)
def test_what_goes_wrong_is_an_error_of_ours(fault: Any, error: Any, attempts: int, tools: Sandbox) -> None:
    tools.fail(fault, times=2)
    with pytest.raises(error) as raised:
        llmcache.extract(TOLD, Person, max_retries=1, timeout=1 if error is ProviderTimeout else 20)
    # Neither the SDK nor Instructor has asked once more by itself.
    assert tools.received == attempts == raised.value.attempts
    assert "Ada" not in repr(raised.value) + str(raised.value.__cause__)
    if error in (Truncated, Refused, ValidationFailed):
        # It was paid for, and is known.
        assert raised.value.cost_usd * 10**12 == tools.bill_pico_usd > 0


def test_a_client_with_a_cache_of_its_own_does_not_answer_from_that(sandbox: Sandbox) -> None:
    from instructor.cache import AutoCache

    own = client(sandbox, cache=AutoCache(), cache_namespace="x")
    # What is left of the time is in its key, where it is passed.
    with asked_by(sandbox, call=asking(own, pass_timeout=False)):
        for _ in range(2):
            llmcache.extract(TOLD, Person, cache="refresh")
    assert sandbox.calls == 2


def test_clients_of_no_use_are_told(sandbox: Sandbox) -> None:
    with pytest.raises(ConfigurationError, match="asking"):
        asking(async_client(sandbox))
    with pytest.raises(ConfigurationError, match="async_client=True"):
        aasking(client(sandbox))
    with pytest.raises(ConfigurationError, match="Instructor client"):
        asking("openai/gpt-5-mini")


ANTHROPIC = {
    "id": "msg_1",
    "type": "message",
    "model": "claude-sonnet-4-5",
    "stop_reason": "tool_use",
    "content": [{"type": "text", "text": "So:"}, {"type": "tool_use", "input": {"a": 1.0}, "name": "T", "id": "t"}],
    "usage": {"input_tokens": 3, "output_tokens": 4},
}


def test_completions_in_other_forms() -> None:
    assert answer_text(ANTHROPIC) == '{"a": 1.0}'
    assert (finish_of(ANTHROPIC), is_refused(ANTHROPIC)) == ("tool_use", False)
    assert finish_of({**ANTHROPIC, "stop_reason": "max_tokens"}) == "length"
    assert is_refused({**ANTHROPIC, "stop_reason": "refusal"})
    assert finish_of({"output": [], "incomplete_details": {"reason": "max_output_tokens"}}) == "length"
    assert is_refused({"output": [{"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}]})
    for odd in ({}, {"choices": []}, {"choices": [7]}, {"choices": [{"message": {"tool_calls": "x"}}]}, {"output": 7}):
        assert answer_text(odd) is None
