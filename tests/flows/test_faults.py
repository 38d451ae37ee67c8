"""Every way in which a provider can fail: the right error, whole after pickling, no user text, nothing stored, and
journal lines with what is known of the cost."""

import pickle
import traceback
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

import llmcache
from llmcache.engine import process
from llmcache.testing.sandbox import Sandbox, faults
from tests.conftest import JournalReader

TEXT = "Ada Lovelace-Canary, 36"


class Person(BaseModel):
    """A person."""

    name: str
    age: int


GOLD = {"name": "Ada Lovelace-Canary", "age": 36}


@pytest.fixture
def provider(sandbox: Sandbox) -> Sandbox:
    sandbox.answers[TEXT] = GOLD
    return sandbox


# What is asked of each fault: the error, its code, attempts with no retry allowed, charged calls, and the cost that is
# known of the attempt (0, None, or "settled" for one whose usage the provider told).
FAULTS: dict[str, tuple[Callable[[], Any], type[llmcache.LLMCacheError], str, int, Any]] = {
    "rate limited": (lambda: faults.rate_limited(retry_after=7), llmcache.RateLimited, "rate_limited", 0, 0),
    "500": (lambda: faults.server_error(500), llmcache.ProviderUnavailable, "provider_unavailable", 0, 0),
    "502": (lambda: faults.server_error(502), llmcache.ProviderUnavailable, "provider_unavailable", 0, 0),
    "401": (faults.unauthorized, llmcache.AuthenticationFailed, "authentication_failed", 0, 0),
    "400": (faults.bad_request, llmcache.ProviderError, "provider_error", 0, 0),
    "redirect": (lambda: faults.redirect("http://127.0.0.1:9/v1"), llmcache.ProviderError, "provider_error", 0, 0),
    "reset before": (faults.reset_before_charge, llmcache.ProviderUnavailable, "provider_unavailable", 0, None),
    "reset after": (faults.reset_after_charge, llmcache.ProviderUnavailable, "provider_unavailable", 1, None),
    "reset mid body": (faults.reset_mid_body, llmcache.ProviderUnavailable, "provider_unavailable", 1, None),
    "garbage": (faults.garbage, llmcache.ProviderError, "invalid_response", 1, None),
    "empty body": (faults.empty_body, llmcache.ProviderError, "invalid_response", 1, None),
    "error object": (faults.error_object, llmcache.ProviderError, "invalid_response", None, None),
    "empty choices": (faults.empty_choices, llmcache.ProviderError, "invalid_response", 1, None),
    "refusal": (faults.refusal, llmcache.Refused, "refused", 1, "settled"),
    "content filter": (faults.content_filter, llmcache.Refused, "refused", 1, "settled"),
    "truncated": (faults.truncated, llmcache.Truncated, "truncated", 1, "settled"),
    "null content": (faults.null_content, llmcache.ValidationFailed, "validation_failed", 1, "settled"),
    "empty content": (faults.empty_content, llmcache.ValidationFailed, "validation_failed", 1, "settled"),
    "wrong json": (faults.wrong_json, llmcache.ValidationFailed, "validation_failed", 1, "settled"),
    "broken json": (faults.broken_json, llmcache.ValidationFailed, "validation_failed", 1, "settled"),
    "fenced json": (faults.fenced_json, llmcache.ValidationFailed, "validation_failed", 1, "settled"),
    "drip in headers": (
        lambda: faults.drip(0.05, where="headers"),
        llmcache.ProviderTimeout,
        "provider_timeout",
        None,
        None,
    ),
    "drip in body": (lambda: faults.drip(0.05, where="body"), llmcache.ProviderTimeout, "provider_timeout", None, None),
    "hang": (faults.hang, llmcache.ProviderTimeout, "provider_timeout", None, None),
    "huge": (lambda: faults.huge(20_000_000), llmcache.ProviderError, "reply_too_large", None, None),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_the_right_error_and_nothing_is_stored(
    name: str, provider: Sandbox, journal: JournalReader, caplog: pytest.LogCaptureFixture
) -> None:
    fault, error_type, code, charged, cost = FAULTS[name]
    provider.fail(fault())
    timeout = 1.0 if error_type is llmcache.ProviderTimeout else 20
    with pytest.raises(llmcache.LLMCacheError) as caught:
        llmcache.extract(TEXT, Person, max_retries=0, max_reasks=0, timeout=timeout)
    error = caught.value
    assert type(error) is error_type
    assert (error.code, error.attempts, error.kind, error.model) == (code, 1, "Person", "openai/gpt-5-mini")
    assert error.cost_usd == (Decimal(0) if cost == 0 else None)
    if charged is not None:
        assert provider.calls == charged

    whole = pickle.loads(pickle.dumps(error))
    assert (type(whole), str(whole)) == (type(error), str(error))
    assert {name: getattr(whole, name) for name in error.details} == {n: getattr(error, n) for n in error.details}
    told = [str(error), repr(error), repr(pickle.dumps(error)), *traceback.format_exception(error), caplog.text]
    assert not any("Canary" in text for text in told)

    lines = journal.records()
    assert [line.event for line in lines][:2] == ["started", "settled" if cost == "settled" else "failed"]
    if cost == "settled":
        charge = provider.charges()[0]
        assert lines[1].facts["output_tokens"] == charge["output_tokens"]
    else:
        assert lines[1].facts["cost"] == cost
    assert "Canary" not in journal.text()

    # Neither is it there to be refused by whoever reads it.
    assert {place.state for place in process.current().tiers.places(bytes.fromhex(error.key or ""))} == {"absent"}
    provider.heal()
    info = llmcache.extract_with_info(TEXT, Person)
    assert (info.outcome, info.value) == ("miss", Person(**GOLD))


@pytest.mark.parametrize(
    "fault",
    [
        lambda: faults.rate_limited(retry_after=0),
        lambda: faults.server_error(503),
        faults.reset_before_charge,
        faults.reset_after_charge,
    ],
    ids=["429", "503", "reset before", "reset after"],
)
def test_a_passing_fault_is_tried_again_and_each_attempt_is_in_the_journal(
    fault: Callable[[], Any], provider: Sandbox, journal: JournalReader, no_backoff: list[float]
) -> None:
    provider.fail(fault())
    info = llmcache.extract_with_info(TEXT, Person)
    assert (info.value, info.attempts) == (Person(**GOLD), 2)
    assert [line.event for line in journal.records()] == ["started", "failed", "started", "settled"]
    assert [line.facts["why"] for line in journal.records() if line.event == "started"] == ["not_found", "retry"]
    assert provider.received == 2


def test_retries_are_bounded_and_back_off(provider: Sandbox, no_backoff: list[float]) -> None:
    provider.fail(faults.server_error(500), times=None)
    with pytest.raises(llmcache.ProviderUnavailable) as caught:
        llmcache.extract(TEXT, Person, max_retries=3)
    assert (caught.value.attempts, provider.received, len(no_backoff)) == (4, 4, 3)
    assert 0.25 <= no_backoff[0] <= 0.5
    assert 1.0 <= no_backoff[2] <= 2.0


def test_retry_after_is_honoured(provider: Sandbox, no_backoff: list[float]) -> None:
    provider.fail(faults.rate_limited(retry_after=3))
    llmcache.extract(TEXT, Person)
    assert no_backoff == [3.0]


@pytest.mark.parametrize(("told", "seconds"), [("86400", 86_400.0), ("soon", None), ("-5", 0.0), ("inf", None)])
def test_retry_after_in_every_form(
    told: str, seconds: float | None, provider: Sandbox, no_backoff: list[float]
) -> None:
    provider.fail(faults.rate_limited(retry_after=told), times=None)
    with pytest.raises(llmcache.RateLimited) as caught:
        llmcache.extract(TEXT, Person, max_retries=1)
    assert caught.value.retry_after == seconds
    # A wait that is longer than what is left of the deadline is not begun.
    assert provider.received == (1 if seconds == 86_400.0 else 2)


def test_an_answer_that_does_not_pass_is_asked_for_again(provider: Sandbox, journal: JournalReader) -> None:
    provider.fail(faults.wrong_json())
    info = llmcache.extract_with_info(TEXT, Person)
    assert (info.value, info.attempts) == (Person(**GOLD), 2)
    assert [line.event for line in journal.records()] == ["started", "settled", "rejected", "started", "settled"]
    turns = provider.requests[-1].body["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert info.usage is not None
    charged = provider.charges()
    assert info.usage.output_tokens == sum(charge["output_tokens"] for charge in charged)
    assert llmcache.extract_with_info(TEXT, Person).outcome == "hit"


def test_validation_failed_names_places_and_never_the_input(provider: Sandbox) -> None:
    provider.answers[TEXT] = '{"name": "Ada Lovelace-Canary", "age": "not a number"}'
    with pytest.raises(llmcache.ValidationFailed) as caught:
        llmcache.extract(TEXT, Person, max_reasks=0)
    assert caught.value.errors == ({"loc": ("age",), "type": "int_parsing"},)


def test_a_key_that_the_model_chose_is_not_in_the_errors(provider: Sandbox) -> None:
    provider.answers[TEXT] = '{"value": {"Lovelace-Canary": "x"}, "Lovelace-Canary": "x"}'
    with pytest.raises(llmcache.ValidationFailed) as caught:
        llmcache.extract(TEXT, dict[str, int], max_reasks=0)
    assert "Canary" not in repr(caught.value.errors)
    assert "*" in repr(caught.value.errors)


def test_a_missing_usage_is_unknown_and_the_answer_is_kept(provider: Sandbox, journal: JournalReader) -> None:
    provider.fail(faults.missing_usage())
    info = llmcache.extract_with_info(TEXT, Person)
    assert (info.value, info.usage) == (Person(**GOLD), None)
    assert journal.records()[1].facts["input_tokens"] is None
    assert llmcache.extract_with_info(TEXT, Person).outcome == "hit"


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -1, "completion_tokens": 2},
        {"prompt_tokens": "7", "completion_tokens": 2},
        {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 9}},
        {"prompt_tokens": 5.5, "completion_tokens": 2},
        {"prompt_tokens": True, "completion_tokens": 2},
        {},
        [],
        "7",
    ],
    ids=repr,
)
def test_a_usage_that_cannot_be_is_unknown(usage: Any, provider: Sandbox) -> None:
    provider.fail(faults.odd_usage(usage))
    assert llmcache.extract_with_info(TEXT, Person).usage is None


def test_a_refused_connection_costs_nothing(provider: Sandbox, journal: JournalReader) -> None:
    provider.stop()
    with pytest.raises(llmcache.ProviderUnavailable) as caught:
        llmcache.extract(TEXT, Person, max_retries=0)
    assert caught.value.cost_usd == Decimal(0)
    assert journal.records()[1].facts["in_doubt"] is False


def test_the_deadline_is_the_whole_calls(provider: Sandbox, no_backoff: list[float]) -> None:
    provider.fail(faults.server_error(500), times=None)
    with pytest.raises(llmcache.ProviderUnavailable):
        llmcache.extract(TEXT, Person, max_retries=100, timeout=3)
    # The clock that passes the pauses moves by them: the sum stays below the deadline.
    assert sum(no_backoff) < 3


def test_every_attempt_carries_its_call_id(provider: Sandbox, journal: JournalReader) -> None:
    provider.fail(faults.wrong_json())
    llmcache.extract(TEXT, Person)
    started = [line.call_id for line in journal.records() if line.event == "started"]
    assert [charge["client_request_id"] for charge in provider.charges()] == started


def test_the_key_is_not_sent_to_where_a_redirect_points(provider: Sandbox) -> None:
    with Sandbox() as elsewhere:
        provider.fail(faults.redirect(f"{elsewhere.base_url}/chat/completions"))
        with pytest.raises(llmcache.ProviderError):
            llmcache.extract(TEXT, Person, max_retries=0)
        assert elsewhere.received == 0
