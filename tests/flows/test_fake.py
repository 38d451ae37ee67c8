"""The fake provider of users' tests: only the way to the provider and back is not the real one."""

import asyncio
import contextlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any, Literal

import pytest
from openai.types.chat import ChatCompletion
from pydantic import BaseModel, TypeAdapter, field_validator

import llmcache
from llmcache.exceptions import LLMCacheError
from llmcache.money.usage import Usage
from llmcache.testing import Fake, NoFakeAnswer, assert_provider_calls, fake, override_llmcache
from llmcache.testing.sandbox import Sandbox
from tests.conftest import JournalReader, child_environment
from tests.flows.odd_types import ODD
from tests.flows.test_hit_is_miss import same


class Person(BaseModel):
    name: str


class Mood(BaseModel):
    angry: bool


ADA = Person(name="Ada")


def test_it_answers_by_type_without_a_key_and_the_cache_answers_the_repeat(llmcache_fake: Fake) -> None:
    llmcache_fake.answer(Person, ADA)
    miss, hit = (llmcache.extract_with_info("Ada is here", Person) for _ in range(2))
    assert (miss.value, miss.outcome, miss.attempts) == (ADA, "miss", 1)
    assert (hit.value, hit.outcome, hit.attempts) == (ADA, "hit", 0)
    assert hit.value is not ADA
    assert len(llmcache_fake.calls) == 1


def test_what_is_paid_is_priced_and_in_the_journal(llmcache_fake: Fake, journal: JournalReader) -> None:
    llmcache_fake.answer(Person, ADA)
    miss, hit = (llmcache.extract_with_info("Ada is here", Person, model="openai/gpt-5-mini") for _ in range(2))
    assert miss.cost_incurred_usd is not None
    assert miss.cost_incurred_usd > 0
    assert (hit.cost_incurred_usd, hit.cost_avoided_usd) == (0, miss.cost_incurred_usd)
    started, settled, *_ = journal.records()
    assert (started.event, settled.event) == ("started", "settled")
    assert started.call_id == settled.call_id == llmcache_fake.calls[0].call_id
    assert "Ada" not in journal.text()


def test_what_was_asked_is_told(llmcache_fake: Fake) -> None:
    llmcache_fake.answer(list[Person], [ADA])
    llmcache.extract(
        "Ada is here",
        list[Person],
        system="Names only.",
        kind="guests",
        model="openai/gpt-5",
        tenant="acme",
        temperature=0,
        user="u1",
    )
    (call,) = llmcache_fake.calls
    assert (call.content, call.system, call.tenant) == ("Ada is here", "Names only.", "acme")
    assert (call.response_model, call.kind, call.model) == (list[Person], "guests", "openai/gpt-5")
    assert call.params == {"temperature": 0, "user": "u1"}
    assert call.body["messages"][-1] == {"role": "user", "content": "Ada is here"}
    assert "Ada is here" not in repr(call)
    assert "Names only." not in repr(call)


def test_text_and_type_come_before_text_and_text_before_type(llmcache_fake: Fake) -> None:
    llmcache_fake.answer("one", Person(name="of the text"))
    llmcache_fake.answer("one", Mood(angry=True), response_model=Mood)
    llmcache_fake.answer(Person, Person(name="of the type"))
    llmcache_fake.answer(Mood, Mood(angry=False))
    assert llmcache.extract("one", Person).name == "of the text"
    assert llmcache.extract("two", Person).name == "of the type"
    assert llmcache.extract("one", Mood).angry
    assert not llmcache.extract("two", Mood).angry


def test_taught_again_it_says_the_new_and_reset_it_knows_nothing(llmcache_fake: Fake) -> None:
    llmcache_fake.answer(Person, ADA)
    llmcache_fake.answer(Person, Person(name="Grace"))
    assert llmcache.extract("one", Person).name == "Grace"
    llmcache_fake.reset()
    assert llmcache_fake.calls == []
    assert llmcache.extract("one", Person).name == "Grace"  # a hit
    with pytest.raises(NoFakeAnswer):
        llmcache.extract("two", Person)


def test_a_type_is_known_by_its_name_and_schema(llmcache_fake: Fake) -> None:
    llmcache_fake.answer(Literal["a", "b"], "b")
    assert llmcache.extract("x", Literal["a", "b"]) == "b"
    with pytest.raises(NoFakeAnswer):
        llmcache.extract("x", Literal["b", "a"])


def loaded(name: str) -> Any:
    annotation, answer = ODD[name]
    raw = isinstance(answer, str) and name == "nan and infinity"
    return TypeAdapter(annotation).validate_json(answer if raw else json.dumps(answer))


@pytest.mark.parametrize("name", ODD)
def test_json_data_are_an_answer_to_every_type(name: str, llmcache_fake: Fake) -> None:
    annotation, answer = ODD[name]
    llmcache_fake.answer(annotation, answer)
    assert same(llmcache.extract("x", annotation), loaded(name))


# What is lost when such a value is written, and would come back as another.
LOST = {
    "aliases",
    "excluded field",
    "custom serialiser",
    "nan and infinity",
    "secret",
    "subclass in a base-typed field",
    "validator that is not idempotent",
}


@pytest.mark.parametrize("name", ODD)
def test_an_instance_is_an_answer_where_it_comes_back_equal(name: str, llmcache_fake: Fake) -> None:
    annotation, value = ODD[name][0], loaded(name)
    llmcache_fake.answer(annotation, value)
    if name in LOST:
        with pytest.raises(NoFakeAnswer, match="does not come back equal"):
            llmcache.extract("x", annotation)
    else:
        assert llmcache.extract("x", annotation) == value


def test_an_entry_made_by_a_fake_is_a_hit_for_the_same_request_to_the_real_one(sandbox: Sandbox) -> None:
    with fake() as provider:
        provider.answer(Person, ADA)
        made = llmcache.extract_with_info("Ada is here", Person, temperature=0)
    found = llmcache.extract_with_info("Ada is here", Person, temperature=0)
    assert (found.outcome, found.key, found.value) == ("hit", made.key, ADA)
    assert sandbox.received == 0


def test_the_completion_is_the_sdks_own_type(llmcache_fake: Fake) -> None:
    llmcache_fake.answer(Person, ADA)
    for _ in range(2):
        value, completion = llmcache.extract_with_completion("Ada is here", Person)
        assert isinstance(completion, ChatCompletion)
        assert Person.model_validate_json(completion.choices[0].message.content or "") == value
        assert completion.usage is not None
        assert completion.usage.total_tokens > 0


def test_an_unknown_question_says_what_was_asked_and_how_to_teach_it(
    llmcache_fake: Fake, journal: JournalReader
) -> None:
    llmcache_fake.answer(Mood, Mood(angry=True))
    llmcache_fake.answer("another text", ADA)
    with assert_provider_calls(0), pytest.raises(NoFakeAnswer) as caught:
        llmcache.extract("A secret about Ada", Person, kind="guests", model="openai/gpt-5")
    said = str(caught.value)
    for word in ("Person", "'guests'", "'openai/gpt-5'", "llmcache_fake.answer(Person, value)", "types Mood"):
        assert word in said
    assert "secret" not in said
    assert "another text" not in said
    assert not isinstance(caught.value, LLMCacheError)  # which the code under test may catch
    assert journal.records() == []
    assert llmcache_fake.calls == []


ERRORS: list[tuple[Any, type[LLMCacheError], int, int | None]] = [
    # what was taught, what is raised, attempts, cost
    (llmcache.RateLimited, llmcache.RateLimited, 3, 0),
    (llmcache.RateLimited("Slow down.", retry_after=0.01), llmcache.RateLimited, 3, 0),
    (llmcache.RateLimited("Slow down.", retry_after=3600), llmcache.RateLimited, 1, 0),
    (llmcache.ProviderUnavailable, llmcache.ProviderUnavailable, 3, 0),
    (llmcache.ProviderUnavailable("Bad gateway.", status=502), llmcache.ProviderUnavailable, 3, 0),
    (llmcache.ProviderUnavailable("Reset.", cost_usd=None), llmcache.ProviderUnavailable, 3, None),
    (llmcache.ProviderTimeout, llmcache.ProviderTimeout, 1, None),
    (llmcache.AuthenticationFailed, llmcache.AuthenticationFailed, 1, 0),
    (llmcache.ProviderError("No such model.", status=404), llmcache.ProviderError, 1, 0),
]


@pytest.mark.parametrize(("taught", "raised", "attempts", "cost"), ERRORS, ids=lambda value: getattr(value, "code", ""))
def test_an_error_is_the_providers(
    taught: Any,
    raised: type[LLMCacheError],
    attempts: int,
    cost: int | None,
    llmcache_fake: Fake,
    journal: JournalReader,
) -> None:
    llmcache_fake.answer(Person, taught)
    for _ in range(2):
        with pytest.raises(raised) as caught:
            llmcache.extract("Ada is here", Person)
        error = caught.value
        assert (type(error), error.attempts, error.cost_usd) == (raised, attempts, cost)
        assert (error.kind, error.model) == ("Person", "openai/gpt-5-mini")
        assert error is not taught
    assert len(llmcache_fake.calls) == 2 * attempts
    ended = [record for record in journal.records() if record.event == "failed"]
    assert [record.facts["in_doubt"] for record in ended] == [cost is None] * 2 * attempts


def test_nobody_waits_before_an_attempt_is_made_again(no_backoff: list[float]) -> None:
    with fake() as provider:
        provider.answer(Person, llmcache.RateLimited("Slow down.", retry_after=20))
        with pytest.raises(llmcache.RateLimited) as caught:
            llmcache.extract("Ada is here", Person)
    assert caught.value.attempts == 3
    assert no_backoff == [0, 0]


@pytest.mark.parametrize(
    ("taught", "attempts"), [(llmcache.Refused, 1), (llmcache.Truncated, 1), (llmcache.ValidationFailed, 2)]
)
def test_an_answer_that_cannot_be_used_is_paid(taught: type[LLMCacheError], attempts: int, llmcache_fake: Fake) -> None:
    llmcache_fake.answer(Person, taught)
    with pytest.raises(taught) as caught:
        llmcache.extract("Ada is here", Person)
    assert caught.value.attempts == attempts == len(llmcache_fake.calls)
    assert caught.value.cost_usd is not None
    assert caught.value.cost_usd > 0


@pytest.mark.parametrize("value", [ValueError("x"), llmcache.NotCached, llmcache.ConfigurationError("x")])
def test_an_error_that_no_provider_causes_is_refused(value: Any, llmcache_fake: Fake) -> None:
    with pytest.raises(TypeError, match="not caused by a provider"):
        llmcache_fake.answer(Person, value)


def test_answers_are_given_one_after_the_other(llmcache_fake: Fake) -> None:
    llmcache_fake.answers(Person, [llmcache.RateLimited, "no JSON at all", {"name": 5}, ADA])
    found = llmcache.extract_with_info("Ada is here", Person, max_reasks=2)
    assert (found.value, found.attempts) == (ADA, 4)
    asked = [call.body["messages"] for call in llmcache_fake.calls]
    assert [len(messages) for messages in asked] == [1, 1, 3, 5]
    assert asked[2][1] == {"role": "assistant", "content": "no JSON at all"}
    with pytest.raises(NoFakeAnswer, match="has given all 4 answers"):
        llmcache.extract("Grace is here", Person)


def test_answers_that_end_within_a_call(llmcache_fake: Fake, journal: JournalReader) -> None:
    llmcache_fake.answers(Person, [b"no JSON at all"])
    with assert_provider_calls(1), pytest.raises(NoFakeAnswer):
        llmcache.extract("Ada is here", Person)
    assert [record.event for record in journal.records()] == ["started", "settled", "rejected"]


def test_the_usage_can_be_given(llmcache_fake: Fake) -> None:
    prices = {"openai/gpt-5-mini": {"input": 1, "cache_read": "0.1", "output": 10, "cache_write": 2}}
    told = {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105}
    llmcache_fake.answer("of ours", ADA, usage=Usage(1_000, 100, 10, 1))
    llmcache_fake.answer("as told", ADA, usage=told)
    llmcache_fake.answer("not told", ADA, usage=None)
    llmcache_fake.answer("cannot be", ADA, usage={**told, "total_tokens": 1})
    with override_llmcache(PRICES=prices):
        found = {
            text: llmcache.extract_with_info(text, Person) for text in ("of ours", "as told", "not told", "cannot be")
        }
    assert found["of ours"].usage == Usage(1_000, 100, 10, 1)
    assert found["of ours"].cost_incurred_usd == Decimal("0.001112")
    assert found["as told"].usage == Usage(100, 0, 5)
    assert found["as told"].cost_incurred_usd == Decimal("0.00015")
    for text in ("not told", "cannot be"):
        assert (found[text].usage, found[text].cost_incurred_usd) == (None, None)


def test_64_threads_on_one_key_ask_once(llmcache_fake: Fake) -> None:
    llmcache_fake.answer(Person, ADA)
    with assert_provider_calls(1), ThreadPoolExecutor(64) as pool:
        assert list(pool.map(lambda _: llmcache.extract("Ada is here", Person), range(64))) == [ADA] * 64


def test_async_calls_are_answered_too(llmcache_fake: Fake) -> None:
    llmcache_fake.answers(Person, [llmcache.ProviderUnavailable, ADA])
    llmcache_fake.answer(Mood, llmcache.Refused)

    async def ask() -> list[Person]:
        with pytest.raises(llmcache.Refused):
            await llmcache.aextract("Ada is here", Mood)
        with pytest.raises(NoFakeAnswer, match=r"list\[Person\]"):
            await llmcache.aextract("Ada is here", list[Person])
        return await asyncio.gather(*(llmcache.aextract("Ada is here", Person) for _ in range(8)))

    with assert_provider_calls(3):
        assert asyncio.run(ask()) == [ADA] * 8
    assert llmcache.extract("Ada is here", Person, cache="only") == ADA


def test_changed_settings_and_nested_fakes_do_not_let_a_call_through(llmcache_fake: Fake) -> None:
    llmcache_fake.answer(Person, ADA)
    with override_llmcache(PROVIDERS={"other": {"base_url": "https://llm.example/v1"}}, MODEL="other/m"):
        assert llmcache.extract("one", Person) == ADA
    with fake() as inner:
        inner.answer(Person, Person(name="Grace"))
        assert llmcache.extract("two", Person).name == "Grace"
    assert llmcache.extract("three", Person) == ADA
    assert [call.model for call in llmcache_fake.calls] == ["other/m", "openai/gpt-5-mini"]


def test_without_the_fake_a_call_that_goes_on_is_forbidden() -> None:
    with contextlib.ExitStack() as stack:
        provider = stack.enter_context(fake())

        class Leaving(BaseModel):
            name: str

            @field_validator("name")
            @classmethod
            def leave(cls, value: str) -> str:
                stack.close()
                raise ValueError("asked for again")

        provider.answer(Leaving, {"name": "Ada"})
        with assert_provider_calls(1), pytest.raises(llmcache.ProviderCallsForbidden):
            llmcache.extract("Ada is here", Leaving)


def test_a_type_is_named_once(llmcache_fake: Fake) -> None:
    with pytest.raises(TypeError, match="goes with a text"):
        llmcache_fake.answer(Person, ADA, response_model=Person)
    with pytest.raises(llmcache.UnsupportedType):
        llmcache_fake.answer(5, ADA)


PROGRAM = """
import django, llmcache
django.setup()
from llmcache.testing import fake
try:
    with fake():
        pass
except llmcache.ConfigurationError as error:
    print(error)
"""


def test_outside_tests_it_would_fill_the_projects_own_cache() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=child_environment()
    )
    assert "setup_test_environment()" in done.stdout


def test_the_same_fake_within_itself(sandbox: Sandbox) -> None:
    with fake() as outer:
        outer.answer("Ada", '{"name": "Ada"}')
        with outer:
            pass
        assert llmcache.extract("Ada", Person).name == "Ada"
    assert sandbox.received == 0
