"""What a call cost and what a hit saved, to the last digit of the provider's own bill."""

from collections.abc import Callable, Iterator
from decimal import Decimal

import pytest
from pydantic import BaseModel

import llmcache
from llmcache.testing.sandbox import (
    CACHED_INPUT_PICO_USD,
    INPUT_PICO_USD,
    OUTPUT_PICO_USD,
    Sandbox,
    faults,
)
from tests.conftest import JournalReader, llmcache_settings


class Person(BaseModel):
    """A person."""

    name: str


SANDBOX_PRICES = {
    "openai/gpt-5-mini": {
        "input": Decimal(INPUT_PICO_USD) / 10**6,
        "cache_read": Decimal(CACHED_INPUT_PICO_USD) / 10**6,
        "output": Decimal(OUTPUT_PICO_USD) / 10**6,
    }
}


@pytest.fixture
def provider(sandbox: Sandbox) -> Iterator[Sandbox]:
    with llmcache_settings(PRICES=SANDBOX_PRICES):
        yield sandbox


def bill(provider: Sandbox) -> Decimal:
    return Decimal(provider.bill_pico_usd) / 10**12


def test_a_miss_costs_what_the_provider_bills_and_a_hit_saves_it(
    provider: Sandbox, forget_memory: Callable[[], None]
) -> None:
    for number in range(20):  # some of the calls have cached input
        before = bill(provider)
        miss = llmcache.extract_with_info(f"text {number}", Person)
        assert (miss.cost_incurred_usd, miss.cost_avoided_usd) == (bill(provider) - before, 0)
        hit = llmcache.extract_with_info(f"text {number}", Person)
        assert (hit.cost_incurred_usd, hit.cost_avoided_usd) == (0, miss.cost_incurred_usd)
        forget_memory()
        disk = llmcache.extract_with_info(f"text {number}", Person)
        assert (disk.tier, disk.cost_avoided_usd) == ("disk", miss.cost_incurred_usd)


@pytest.mark.parametrize("tokens", [2**40, 2**52])
def test_a_cost_that_cannot_be_keeps_no_answer_from_being_found(
    tokens: int, provider: Sandbox, forget_memory: Callable[[], None]
) -> None:
    provider.fail(faults.odd_usage({"prompt_tokens": tokens, "completion_tokens": tokens, "total_tokens": 2 * tokens}))
    llmcache.extract("Ada", Person)
    forget_memory()
    found = llmcache.extract_with_info("Ada", Person)
    assert (found.outcome, found.cost_avoided_usd, provider.calls) == ("hit", None, 1)


def test_all_attempts_are_in_a_calls_cost_and_in_what_a_hit_saves(provider: Sandbox, journal: JournalReader) -> None:
    provider.fail(faults.wrong_json())
    miss = llmcache.extract_with_info("Ada", Person)
    assert miss.attempts == 2
    assert miss.cost_incurred_usd == bill(provider)
    assert llmcache.extract_with_info("Ada", Person).cost_avoided_usd == bill(provider)
    settled = [line.facts for line in journal.records() if line.event == "settled"]
    assert sum(facts["cost"] for facts in settled) == provider.bill_pico_usd
    assert {facts["price_source"] for facts in settled} == {"settings"}


def test_an_error_says_what_its_attempts_cost(provider: Sandbox) -> None:
    provider.fail(faults.refusal())
    with pytest.raises(llmcache.Refused) as caught:
        llmcache.extract("Ada", Person)
    assert caught.value.cost_usd == bill(provider) > 0


def test_a_retry_after_a_free_failure_costs_one_answer(provider: Sandbox, no_backoff: list[float]) -> None:
    with llmcache_settings(PRICES=SANDBOX_PRICES):
        provider.fail(faults.server_error(503))
        assert llmcache.extract_with_info("Ada", Person).cost_incurred_usd == bill(provider)


def test_a_call_with_an_attempt_in_doubt_has_no_known_cost(provider: Sandbox, no_backoff: list[float]) -> None:
    provider.fail(faults.reset_after_charge())
    found = llmcache.extract_with_info("Ada", Person)
    assert (found.attempts, found.cost_incurred_usd) == (2, None)
    assert llmcache.extract_with_info("Ada", Person).cost_avoided_usd is None


@pytest.mark.parametrize("fault", [faults.missing_usage, lambda: faults.odd_usage({"prompt_tokens": -1})])
def test_a_reply_without_usage_has_no_known_cost(fault: Callable[[], faults.Fault], provider: Sandbox) -> None:
    provider.fail(fault())
    assert llmcache.extract_with_info("Ada", Person).cost_incurred_usd is None


def test_without_a_price_a_cost_is_not_known(sandbox: Sandbox) -> None:
    found = llmcache.extract_with_info("Ada", Person)
    assert found.usage is not None
    assert found.cost_incurred_usd is None


def test_a_bypass_is_paid_and_saves_nothing(provider: Sandbox) -> None:
    llmcache.extract("Ada", Person)
    before = bill(provider)
    found = llmcache.extract_with_info("Ada", Person, cache="bypass")
    assert (found.cost_incurred_usd, found.cost_avoided_usd) == (bill(provider) - before, 0)
